"""A small economy in bad weather, from a seed: everything ends, and the money adds up to the last unit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
import trio.testing

from ainp2p.agents.deposit import Deposit
from ainp2p.agents.models.scripted import ScriptedModel
from ainp2p.agents.skill import skill
from ainp2p.errors import Error, NoOffers
from ainp2p.ledger.rules.genesis import DEVELOPMENT_PURSE
from ainp2p.protocol.delivery import STEP
from ainp2p.protocol.memory import Conditions

from .market_world import Bought, Market, buy, found_market, words, write

Clock = trio.testing.MockClock
SELLERS, BUYERS = ("s0", "s1", "s2"), ("b0", "b1", "b2")
JOBS_EACH = 10
FEES_MAX = 2000  # of all Locks together
LENGTHS = (5, 33, 70, 140)
WEATHER = Conditions(latency_s=0.02, jitter_s=0.05, loss=0.01, duplicate=0.1, reorder_s=0.2)


async def storm(market: Market) -> None:
    """Break, cut and pause what two agents have between them, for ever."""
    rng = market.hub.rng("the", "storm")
    while True:
        await trio.sleep(rng.expovariate(4.0))
        one, other = market.peer(rng.choice(SELLERS)), market.peer(rng.choice(BUYERS))
        match rng.randrange(4):
            case 0 | 1:
                market.hub.reset(one, other)
            case 2:
                market.hub.cut(one, other)
                await trio.sleep(rng.uniform(0, 12))
                market.hub.heal()
            case 3:
                peer = rng.choice((one, other))
                market.hub.pause(peer)
                await trio.sleep(rng.uniform(0, 12))
                market.hub.resume(peer)


async def shop(market: Market, name: str, done: list[Bought]) -> None:
    """A buyer's day: jobs of all lengths, some of them left early, two at a time."""
    agent, rng = market.agents[name], market.hub.rng(name, "shopping")

    async def one(number: int) -> None:
        length = rng.choice(LENGTHS)
        stop_after = rng.choice((None, None, None, 1, 20))
        pause_s = rng.choice((0.0, 0.0, 0.02))
        text = f"{length}: job {number} of {name}"
        for _ in range(5):
            try:
                offers = await agent.find("write", timeout_s=20)
            except NoOffers:
                continue
            bought = await buy(agent, offers, budget=500, stop_after=stop_after, pause_s=pause_s, text=text)
            bought.pieces.append(words(length))
            done.append(bought)
            return

    for number in range(0, JOBS_EACH, 2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, number)
            nursery.start_soon(one, number + 1)


def check_job(bought: Bought) -> None:
    """One job: the right text or its beginning, within the budget, a step at most beyond what was read."""
    job, whole = bought.job, bought.pieces.pop()
    assert job.ended.is_set()
    assert job.paid == sum(leg.amount for leg in job.legs) <= job.budget
    assert whole.startswith(job.text)
    if job.finish == "done":
        assert job.text == whole
    rates = {"1/token": 1, "2/token": 2, "3/token": 3}
    assert all(leg.amount <= rates[leg.price] * leg.units for leg in job.legs)
    assert sum(leg.units for leg in job.legs) <= sum(len(p.tokens) for p in bought.pieces) + STEP
    assert bought.failure is None or isinstance(bought.failure, Error)


async def economy(seed: int) -> list[Bought]:
    """Thirty jobs, the storm, and a week-end after which all is settled."""
    done: list[Bought] = []
    async with found_market(seed, WEATHER) as market:
        async with open_agents(market):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(storm, market)
                async with trio.open_nursery() as shoppers:
                    for name in BUYERS:
                        shoppers.start_soon(shop, market, name, done)
                nursery.cancel_scope.cancel()
            market.hub.heal()
            for name in (*SELLERS, *BUYERS):
                market.hub.resume(market.peer(name))
            for bought in done:
                check_job(bought)
            await market.check_rest(*SELLERS, *BUYERS)
            market.check_window(*SELLERS)
            await settle(market, done)
    return done


@asynccontextmanager
async def open_agents(market: Market) -> AsyncIterator[None]:
    """Three sellers at three prices with the same model, and three buyers."""
    answers = {f"{length}:": words(length) for length in LENGTHS}
    async with AsyncExitStack() as stack:
        for number, name in enumerate(SELLERS, start=1):
            priced = skill("write", price=f"{number}/token")(write.function)
            model = ScriptedModel(answers, tokens_per_second=25)
            await stack.enter_async_context(market.agent(name, [priced], model, slots=3))
        for name in BUYERS:
            await stack.enter_async_context(market.agent(name))
        yield


async def settle(market: Market, done: list[Bought]) -> None:
    """Every Lock is closed by its payee; who has what is then known exactly."""
    signed = {
        deposit.lock.id: deposit.last_signed.cumulative
        for name in BUYERS
        for deposit in market.agents[name]._open_parts.buyer.deposits.all()
    }
    assert sum(signed.values()) == sum(bought.job.paid for bought in done)
    closed = {}
    for name in SELLERS:
        for state in await market.agents[name].wallet.close_all():
            closed[state.lock.id] = state.lock.paid
    # The last receipts came, though connections broke; a Lock that was never used its payee never saw.
    assert closed == {lock: amount for lock, amount in signed.items() if lock in closed or amount}
    with trio.fail_after(60):
        while len(market.agents) * DEVELOPMENT_PURSE - await total(market) > FEES_MAX:  # noqa: ASYNC110
            await trio.sleep(1)  # until the buyers have heard of it
    for name in SELLERS:
        wallet = market.agents[name].wallet
        earned = sum(paid for lock, paid in closed.items() if wallet.book.lock(lock) is not None)
        assert (await wallet.balance()).total == DEVELOPMENT_PURSE + earned


async def total(market: Market) -> int:
    return sum([(await agent.balance()).total for agent in market.agents.values()])


@pytest.mark.parametrize("seed", range(3))
async def test_thirty_jobs_in_a_storm_end_and_add_up(seed: int, autojump_clock: Clock) -> None:
    done = await economy(seed)
    assert len(done) >= 25
    assert sum(bought.job.finish in ("done", "canceled") for bought in done) >= 20


async def test_a_mutant_that_prices_in_its_own_favour_does_not_add_up(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Deposit.close_job

    def forgetful(self: Deposit, job: bytes) -> tuple[int, int]:
        units, amount = honest(self, job)
        return units, amount - 1 if amount else 0

    monkeypatch.setattr(Deposit, "close_job", forgetful)
    with pytest.raises(AssertionError):
        await economy(0)
