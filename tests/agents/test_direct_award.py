"""Jobs that are awarded by a card, without a call for proposals."""

from __future__ import annotations

import pytest
import trio.testing

from ainp2p.agents import selling
from ainp2p.errors import NoOffers, Refused
from ainp2p.protocol.codec import encode
from ainp2p.protocol.memory import MemoryNetwork
from ainp2p.protocol.messages import PROTOCOL, CallForProposals, Signed, decode_wire, open_market
from ainp2p.protocol.price import Price
from ainp2p.protocol.seller_negotiation import Seller as Negotiation
from ainp2p.protocol.strategies import Strategies

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


async def test_a_job_is_awarded_by_its_card_without_a_call(autojump_clock: Clock, calls: list[str]) -> None:
    async with found_market() as market, market.agent("alice", [write], writer(40)):
        async with market.agent("bob", strategies=UNASKED) as bob:
            for _ in range(2):
                bought = await buy(bob, await bob.find("write"))
                assert (bought.job.finish, bought.job.paid, bought.text) == ("done", 80, words(40))
                market.check_bill(bought)
            assert calls == []
            await market.check_rest("alice", "bob")
        async with market.agent("carol") as carol:
            await buy(carol, await carol.find("write"))
            assert len(calls) == 1


async def test_the_best_offer_is_awarded_and_another_asked_if_its_seller_fails(
    autojump_clock: Clock, calls: list[str]
) -> None:
    async with found_market() as market:
        async with (
            market.agent("alice", [write], writer(200)) as alice,
            market.agent("dora", [write], writer(200)) as dora,
            market.agent("bob", strategies=UNASKED) as bob,
        ):
            offers = await bob.find("write", at_least=2)
            sellers = {alice.id: alice, dora.id: dora}
            pieces = []
            async with bob.hire(offers, budget=1000, text="x") as job:
                async for piece in job:
                    pieces.append(piece)
                    if len(pieces) == 50:
                        assert calls == []
                        await sellers[offers[0].agent]._open_parts.seller.close()
            assert "".join(map(str, pieces)) == words(200)
            assert calls == [offers[1].peer]
            assert [leg.seller for leg in job.legs] == [offers[0].agent, offers[1].agent]


async def test_a_seller_whose_card_is_older_than_its_price_is_asked(
    autojump_clock: Clock, calls: list[str]
) -> None:
    dearer = Strategies(pricing=lambda call, base, load: Price.parse("3/token"))
    async with found_market() as market:
        async with (
            market.agent("alice", [write], writer(10), strategies=dearer),
            market.agent("bob", strategies=UNASKED) as bob,
        ):
            async with bob.hire(await bob.find("write"), budget=500, max_price="4/token", text="x") as job:
                assert await job.result() == words(10)
            assert (job.paid, len(calls)) == (30, 1)
            assert [(leg.failure, leg.amount) for leg in job.legs] == [("", 30)]  # it is not to blame


async def test_a_strategy_that_takes_no_proposal_takes_no_card_either(
    autojump_clock: Clock, calls: list[str]
) -> None:
    nothing = Strategies(direct=True, choosing=lambda bids: None)
    async with found_market() as market, market.agent("alice", [write], writer(10)):
        async with market.agent("bob", strategies=nothing) as bob:
            bought = await buy(bob, await bob.find("write"))
            assert isinstance(bought.failure, NoOffers)
            assert (bought.job.legs, bob._open_parts.buyer.deposits.all()) == ([], [])
            assert len(calls) == 1


async def test_whoever_knows_no_direct_awards_is_asked(
    autojump_clock: Clock, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def older(self: Negotiation, award: object, buyer: bytes, now_ms: int) -> Price:
        raise unknown

    from ainp2p.protocol import seller_negotiation

    unknown = seller_negotiation._Refuse("unknown", "it answers no proposal that is open")
    monkeypatch.setattr(Negotiation, "_unasked", older)
    async with found_market() as market, market.agent("alice", [write], writer(10)):
        async with market.agent("bob", strategies=UNASKED) as bob:
            bought = await buy(bob, await bob.find("write"))
            assert (bought.job.paid, len(calls)) == (20, 1)


async def twice(market: Market) -> list[str]:
    """What a seller answers to an award that comes again after its job has ended; or its refusal's code."""
    async with (
        market.agent("alice", [write], writer(10)) as alice,
        market.agent("bob", strategies=UNASKED) as bob,
    ):
        bought = await buy(bob, await bob.find("write"))
        award = next(s for s in bought.last.transcript if s.id in alice._open_parts.seller._sales)
        seller, said = alice.network.peer_id, []
        try:
            async with bob.network.stream(seller, PROTOCOL, encode(award), timeout_s=10) as chunks:
                async for chunk in chunks:
                    message = decode_wire(chunk)
                    said.append(type(open_market(message) if isinstance(message, Signed) else message))
        except Refused as exc:
            return [exc.code]
        return [kind.__name__ for kind in said]


async def test_c1_a_direct_award_that_comes_again_is_no_second_job(autojump_clock: Clock) -> None:
    async with found_market() as market:
        assert await twice(market) == ["Refusal"]


async def test_c1_mutant_a_seller_that_forgets_what_has_ended_begins_again(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selling.Seller, "_is_known", lambda self, award: False)
    async with found_market() as market:
        assert await twice(market) == ["internal"]  # its meter has the job still: the handler fails
