"""How long a buyer looks for a seller that has vanished in the middle of a job."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from ainp2p.agents.attempt import RESUME_ELSEWHERE_S, RESUME_TIMEOUT_S
from ainp2p.agents.skill import skill
from ainp2p.errors import NoOffers
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.receipts import Receipt
from ainp2p.protocol.strategies import Strategies

from .market_world import Bought, Market, buy, found_market, words, write, writer

Clock = trio.testing.MockClock
SLOW = 50  # tokens per second


async def let_die(market: Market, after_s: float) -> None:
    """From then on nobody reaches alice: her connections break, and nothing listens at her address."""
    await trio.sleep(after_s)
    alice, hub = market.peer("alice"), market.hub
    hub._ports = {port: peer for port, peer in hub._ports.items() if peer != alice}
    hub.reset(alice, market.peer("bob"))


async def buy_from_one_that_vanishes(market: Market, strategies: Strategies | None = None) -> Bought:
    async with (
        market.agent("alice", [write], writer(200, tokens_per_second=SLOW)),
        market.agent("bob", strategies=strategies) as bob,
        trio.open_nursery() as nursery,
    ):
        offers = await bob.find("write")
        nursery.start_soon(let_die, market, 1.0)
        bought = await buy(bob, offers, budget=600)
        nursery.cancel_scope.cancel()
    return bought


async def test_the_only_seller_is_looked_for_as_long_as_the_strategies_say(autojump_clock: Clock) -> None:
    for resume_s in (RESUME_TIMEOUT_S, 3.0):
        async with found_market() as market:
            began = trio.current_time()
            bought = await buy_from_one_that_vanishes(market, Strategies(resume_s=resume_s))
            assert isinstance(bought.failure, NoOffers)
            assert resume_s <= trio.current_time() - began - 1.0 <= resume_s + 4.0  # and opening, finding
            market.check_supply()


async def test_a_seller_is_looked_for_only_shortly_when_another_one_can_go_on(autojump_clock: Clock) -> None:
    dear = skill("write", price="3/token")(write.function)
    async with found_market() as market:
        async with (
            market.agent("alice", [write], writer(200, tokens_per_second=SLOW)),
            market.agent("carol", [dear], writer(200, tokens_per_second=SLOW)),
            market.agent("bob") as bob,
            trio.open_nursery() as nursery,
        ):
            offers = await bob.find("write", at_least=2)
            nursery.start_soon(let_die, market, 1.0)
            began = trio.current_time()
            bought = await buy(bob, offers, budget=900)
            took_s = trio.current_time() - began
            nursery.cancel_scope.cancel()
        assert [leg.name for leg in bought.job.legs] == ["alice", "carol"]
        assert bought.text == words(200)
        assert took_s < 4.0 + RESUME_ELSEWHERE_S + 1.0  # the work alone takes four seconds
        market.check_supply()


@pytest.mark.parametrize("tokens", [10, 100])
async def test_every_receipt_is_told_with_its_lock(tokens: int, autojump_clock: Clock) -> None:
    told: list[tuple[Receipt, Lock]] = []
    async with found_market() as market:
        async with (
            market.agent("alice", [write], writer(tokens)) as alice,
            market.agent("bob", on_receipt=lambda receipt, lock: told.append((receipt, lock))) as bob,
        ):
            bought = await buy(bob, await bob.find("write"), budget=600)
            assert {lock.beneficiaries[0].account for _, lock in told} == {alice.id}
        assert [receipt.cumulative for receipt, _ in told] == sorted({r.cumulative for r, _ in told})
        assert told[-1][0].cumulative == bought.job.paid == 2 * tokens
