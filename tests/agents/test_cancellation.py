"""G3: cancelled at every await: no lost money, nothing left behind, the next job as if nothing had been."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
import trio.testing

from ainp2p.agents.agent import Agent
from ainp2p.agents.deposit import Deposit
from ainp2p.agents.job import Job
from ainp2p.agents.offers import Offer
from ainp2p.errors import NetworkError

from .market_world import Market, buy, found_market, words, write, writer

Clock = trio.testing.MockClock
TOKENS = 70


class CancelAtStep(trio.abc.Instrument):
    """Calls `cancel` when the watched task takes its k-th step; counts all of its steps."""

    def __init__(
        self, k: int, cancel: Callable[[], object], watched: trio.lowlevel.Task | None = None
    ) -> None:
        """Without `watched`, whatever task works on a purchase."""
        self.k, self.cancel, self.watched = k, cancel, watched
        self.steps = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """trio is about to run a task up to its next await."""
        if task is self.watched if self.watched else task.name.endswith("Purchase.run"):
            self.steps += 1
            if self.steps == self.k:
                self.cancel()


async def check_money(market: Market, buyer: Agent, seller: Agent) -> None:
    """What the buyer has signed, what the seller holds, and the purse, agree to the last unit."""
    deposits = buyer._open_parts.buyer.deposits.all()
    signed = sum(deposit.last_signed.cumulative for deposit in deposits)
    booked = sum(seller.wallet.book.unsettled(d.lock.id) for d in deposits)
    assert signed >= booked
    balance = await buyer.balance()
    assert balance.locked == sum(deposit.lock.deposit for deposit in deposits)
    assert 0 < 1_000_000 - balance.total <= 20 * len(deposits)  # fees
    market.check_window("alice")


async def read_all(job: Job, read: trio.Event) -> None:
    async for _ in job:
        pass
    read.set()


async def hire_once(buyer: Agent, offers: list[Offer], number: int) -> None:
    async with buyer.hire(offers, budget=200, text=f"go {number}") as job:
        async for _ in job:
            pass


@pytest.mark.parametrize("seed", range(2))
async def test_g3_a_hire_cancelled_at_any_await_leaves_nothing_behind(
    seed: int, autojump_clock: Clock
) -> None:
    async with found_market(seed) as market:
        async with market.agent("alice", [write], writer(TOKENS)) as alice, market.agent("bob") as bob:
            offers, k = await bob.find("write"), 0
            while True:
                k += 1
                me = trio.lowlevel.current_task()
                with trio.CancelScope() as scope:
                    instrument = CancelAtStep(k, scope.cancel, me)
                    trio.lowlevel.add_instrument(instrument)
                    try:
                        await hire_once(bob, offers, k)
                    finally:
                        trio.lowlevel.remove_instrument(instrument)
                assert bob._open_parts.vault.committed == 0
                if not scope.cancelled_caught and instrument.steps < k:
                    break
            assert k > 20
            await market.check_rest("alice", "bob")
            bought = await buy(bob, offers, budget=200)
            assert bought.text == words(TOKENS)
            await check_money(market, bob, alice)


@pytest.mark.parametrize("seed", range(2))
async def test_g3_leaving_at_any_step_of_the_purchase_leaves_nothing_behind(
    seed: int, autojump_clock: Clock
) -> None:
    async with found_market(seed) as market:
        async with market.agent("alice", [write], writer(TOKENS)) as alice, market.agent("bob") as bob:
            offers, k, done = await bob.find("write"), 0, False
            while not done:
                k += 1
                async with bob.hire(offers, budget=200, text=f"go {k}") as job:
                    left = trio.Event()
                    instrument = CancelAtStep(k, left.set)
                    trio.lowlevel.add_instrument(instrument)
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(read_all, job, left)
                        await left.wait()
                        nursery.cancel_scope.cancel()
                    trio.lowlevel.remove_instrument(instrument)
                done = instrument.steps < k
                assert job.finish in ("done", "canceled")
                assert bob._open_parts.vault.committed < 200  # at most the fee of a Lock that is being opened
            assert k > 20
            await market.check_rest("alice", "bob")
            bought = await buy(bob, offers, budget=200)
            assert bought.text == words(TOKENS)
            await check_money(market, bob, alice)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 8, 13, 21, 34, 55, 89])
async def test_g3_an_agent_closed_in_the_middle_pays_what_it_got(k: int, autojump_clock: Clock) -> None:
    async with found_market() as market:
        async with market.agent("alice", [write], writer(TOKENS)) as alice:
            with trio.CancelScope() as scope:
                async with market.agent("bob") as bob:
                    offers = await bob.find("write")
                    instrument = CancelAtStep(k, scope.cancel)
                    trio.lowlevel.add_instrument(instrument)
                    await hire_once(bob, offers, 1)
            trio.lowlevel.remove_instrument(instrument)
            await market.check_rest("alice")
            market.check_window("alice")
            await alice.wallet.close_all()
            assert (await alice.balance()).total >= 1_000_000


async def test_a_network_whose_tasks_are_cancelled_dials_nobody_and_does_not_spin(
    autojump_clock: Clock,
) -> None:
    async with found_market() as market:
        async with market.agent("alice", [write], writer(5)) as alice:
            with trio.CancelScope() as scope:
                async with market.agent("bob") as bob:
                    bob.network.add_addresses(alice.peer_id, alice.addresses)
                    scope.cancel()
                    with trio.CancelScope(shield=True), pytest.raises(NetworkError):
                        await bob.network.send(alice.peer_id, "/ainp2p/market/1", b"")
            assert scope.cancelled_caught


async def test_a_mutant_whose_claims_are_not_released_is_caught(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Deposit, "release", lambda self, budget: None)
    async with found_market() as market:
        async with market.agent("alice", [write], writer(5)), market.agent("bob") as bob:
            await buy(bob, await bob.find("write"), stop_after=1)
            with pytest.raises(trio.TooSlowError):
                await market.check_rest("bob")


async def test_a_mutant_that_forgets_to_settle_with_the_vault_is_caught(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ainp2p.agents.vault.Vault.settle", lambda self, job, failed=False: 0)
    async with found_market() as market:
        async with market.agent("alice", [write], writer(5)), market.agent("bob") as bob:
            await buy(bob, await bob.find("write"))
            with pytest.raises(trio.TooSlowError):
                await market.check_rest("bob")
