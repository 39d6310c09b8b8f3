"""Jobs that are awarded by a card, without a call for proposals."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from ainp2p.agents import buying
from ainp2p.agents.agent import Agent
from ainp2p.agents.attempt import UNASKED_TIMEOUT_S
from ainp2p.errors import NoOffers, Refused
from ainp2p.protocol.codec import encode
from ainp2p.protocol.memory import MemoryNetwork
from ainp2p.protocol.messages import PROTOCOL, CallForProposals, Signed, decode_wire, open_market
from ainp2p.protocol.price import Price
from ainp2p.protocol.seller_negotiation import Seller as Negotiation
from ainp2p.protocol.seller_negotiation import _Refuse
from ainp2p.protocol.strategies import No, Strategies

from .market_world import Market, buy, found_market, words, write, writer

Clock = trio.testing.MockClock
UNASKED = Strategies(direct=True)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Who was called for proposals, by peer id."""
    seen: list[str] = []
    request = MemoryNetwork.request

    async def watched(self: MemoryNetwork, peer: str, protocol: str, body: bytes, **options: float) -> bytes:
        if protocol == PROTOCOL:
            message = decode_wire(body)
            if isinstance(message, Signed) and isinstance(open_market(message), CallForProposals):
                seen.append(peer)
        return await request(self, peer, protocol, body, **options)

    monkeypatch.setattr(MemoryNetwork, "request", watched)
    return seen


class Moody:
    """A seller's pricing that can be told what to say."""

    def __init__(self) -> None:
        self.says: Price | No | None = None

    def __call__(self, call: object, base: Price, load: int) -> Price | No:
        return self.says or base


@asynccontextmanager
async def acquainted(
    market: Market, calls: list[str], tokens: int = 10, **seller: Any
) -> AsyncIterator[tuple[Agent, Agent]]:
    """A seller, and a buyer that awards directly, who has a Lock there from a first job."""
    async with market.agent("alice", [write], writer(tokens), **seller) as alice:
        async with market.agent("bob", strategies=UNASKED) as bob:
            bought = await buy(bob, await bob.find("write"))
            assert bought.job.paid == 2 * tokens
            assert len(calls) == 1  # nobody opens a Lock for a seller that has not proposed
            calls.clear()
            yield alice, bob


async def test_on_an_open_lock_a_job_is_awarded_without_a_call(
    autojump_clock: Clock, calls: list[str]
) -> None:
    async with found_market() as market, acquainted(market, calls, 40) as (_, bob):
        for _ in range(2):
            bought = await buy(bob, await bob.find("write"))
            assert (bought.job.finish, bought.job.paid, bought.text) == ("done", 80, words(40))
            market.check_bill(bought)
        assert calls == []
        assert len(bob._open_parts.buyer.deposits.all()) == 1
        await market.check_rest("alice", "bob")


async def test_buyers_call_unless_they_are_told_otherwise(autojump_clock: Clock, calls: list[str]) -> None:
    async with found_market() as market, market.agent("alice", [write], writer(10)):
        async with market.agent("carol") as carol:
            for _ in range(2):
                await buy(carol, await carol.find("write"))
            assert len(calls) == 2


async def test_another_seller_is_asked_if_the_first_fails(autojump_clock: Clock, calls: list[str]) -> None:
    async with found_market() as market, acquainted(market, calls, 200) as (alice, bob):
        async with market.agent("dora", [write], writer(200)) as dora:
            offers = await bob.find("write", at_least=2)
            offers.sort(key=lambda offer: offer.agent != alice.id)
            pieces = []
            async with bob.hire(offers, budget=600, text="x") as job:
                async for piece in job:
                    pieces.append(piece)
                    if len(pieces) == 50:
                        assert calls == []
                        await alice._open_parts.seller.close()
            assert "".join(map(str, pieces)) == words(200)
            assert calls == [offers[1].peer]
            assert [leg.seller for leg in job.legs] == [alice.id, dora.id]


async def test_a_seller_whose_card_is_older_than_its_price_is_asked(
    autojump_clock: Clock, calls: list[str]
) -> None:
    mood = Moody()
    async with found_market() as market:
        async with acquainted(market, calls, strategies=Strategies(pricing=mood)) as (_, bob):
            mood.says = Price.parse("3/token")
            async with bob.hire(await bob.find("write"), budget=500, max_price="4/token", text="x") as job:
                assert await job.result() == words(10)
            assert (job.paid, len(calls)) == (30, 1)
            assert [(leg.failure, leg.amount) for leg in job.legs] == [("", 30)]  # it is not to blame


async def test_a_seller_that_refuses_for_reasons_of_its_own_is_asked_and_not_blamed(
    autojump_clock: Clock, calls: list[str]
) -> None:
    class Once(Moody):
        def __call__(self, call: object, base: Price, load: int) -> Price | No:
            said, self.says = super().__call__(call, base, load), None
            return said

    mood = Once()
    async with found_market() as market:
        async with acquainted(market, calls, strategies=Strategies(pricing=mood)) as (alice, bob):
            mood.says = No("closed-today")
            bought = await buy(bob, await bob.find("write"))
            assert (bought.job.paid, len(calls), len(bought.job.legs)) == (20, 1, 1)
            assert bob._open_parts.directory.experiences.of(alice.id).failed == 0


async def test_a_strategy_that_takes_no_proposal_takes_no_card_either(
    autojump_clock: Clock, calls: list[str]
) -> None:
    async with found_market() as market, acquainted(market, calls) as (_, bob):
        bob._open_parts.buyer._choosing = lambda bids: None
        bought = await buy(bob, await bob.find("write"))
        assert isinstance(bought.failure, NoOffers)
        assert (bought.job.legs, len(calls)) == ([], 1)


async def test_whoever_knows_no_direct_awards_is_asked(
    autojump_clock: Clock, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def older(self: Negotiation, award: object, buyer: bytes, now_ms: int) -> Price:
        raise _Refuse("unknown", "it answers no proposal that is open")

    monkeypatch.setattr(Negotiation, "_unasked", older)
    async with found_market() as market, acquainted(market, calls) as (_, bob):
        bought = await buy(bob, await bob.find("write"))
        assert (bought.job.paid, len(calls)) == (20, 1)


async def test_a_seller_that_does_not_answer_a_direct_award_is_not_waited_for_as_for_work(
    autojump_clock: Clock, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with found_market() as market, acquainted(market, calls) as (alice, bob):

        async def silent(*_: object) -> None:
            await trio.sleep_forever()

        monkeypatch.setattr(alice._open_parts.seller, "_begin", silent)
        began = trio.current_time()
        bought = await buy(bob, await bob.find("write"))
        assert isinstance(bought.failure, NoOffers)
        assert f"sent nothing for {UNASKED_TIMEOUT_S:g} s" in str(bought.failure)
        assert UNASKED_TIMEOUT_S <= trio.current_time() - began < 2 * UNASKED_TIMEOUT_S + 3


async def test_a_mutant_that_awards_to_strangers_opens_locks_for_those_that_refuse(
    autojump_clock: Clock, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dear = Strategies(pricing=lambda call, base, load: Price.parse("300/token"))

    async def locked(market: Market) -> int:
        async with (
            market.agent("cheat", [write], writer(10), strategies=dear),
            market.agent("bob", strategies=UNASKED) as bob,
        ):
            bought = await buy(bob, await bob.find("write"))
            assert isinstance(bought.failure, NoOffers)
            return (await bob.balance()).locked

    async with found_market() as market:
        assert await locked(market) == 0
    monkeypatch.setattr(buying.Buyer, "_is_near", lambda self, offer, budget: True)
    async with found_market() as market:
        assert await locked(market) > 0


async def again(market: Market, calls: list[str], pause_s: float) -> list[str]:
    """What a seller says to a direct award that comes again after its job: kinds, or a refusal's code."""
    said: list[str] = []
    async with acquainted(market, calls) as (alice, bob):
        bought = await buy(bob, await bob.find("write"))
        assert calls == []
        await trio.sleep(pause_s)
        (award,) = [s for s in bought.last.transcript if s.id in alice._open_parts.seller._negotiation._taken]
        try:
            async with bob.network.stream(
                alice.network.peer_id, PROTOCOL, encode(award), timeout_s=10
            ) as chunks:
                async for chunk in chunks:
                    message = decode_wire(chunk)
                    word = open_market(message) if isinstance(message, Signed) else message
                    said.append(getattr(word, "code", b"").decode() or type(word).__name__)
        except Refused as exc:
            said.append(exc.code)
    return said


@pytest.mark.parametrize("pause_s", [1, 45])  # the seller has forgotten the job by then
async def test_c1_a_direct_award_that_comes_again_is_no_second_job(
    pause_s: float, autojump_clock: Clock, calls: list[str]
) -> None:
    async with found_market() as market:
        assert await again(market, calls, pause_s) == ["known"]
