"""A seller that streams garbage, overcharges, stalls or vanishes: the buyer loses at most a step."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
import trio
import trio.testing

from ainp2p.agents import attempt as attempts
from ainp2p.agents.skill import skill
from ainp2p.errors import NoOffers
from ainp2p.protocol.codec import encode
from ainp2p.protocol.identity import Key
from ainp2p.protocol.messages import (
    JSON,
    PURPOSE,
    TEXT,
    Accepted,
    Chunk,
    Finished,
    Signed,
    decode_wire,
    open_market,
    pack_tokens,
    seal,
)
from ainp2p.protocol.price import Price
from ainp2p.protocol.strategies import Strategies

from .market_world import Bought, Market, Tamper, buy, found_market, tamper, words, write, writer

Clock = trio.testing.MockClock
Change = Callable[[Chunk], bytes | None]


def from_chunk(n: int, change: Change) -> Tamper:
    """Leave the first chunks as they are, and change those from the n-th on."""
    seen = 0

    async def tampered(data: bytes) -> bytes | None:
        nonlocal seen
        message = decode_wire(data)
        if not isinstance(message, Chunk):
            return data
        seen += 1
        return change(message) if seen >= n else data

    return tampered


STRANGER = Key(bytes(32))


def with_fields(**fields: object) -> Change:
    return lambda chunk: encode(msgspec.structs.replace(chunk, **fields))


def raises_one_id(chunk: Chunk) -> bytes:
    return encode(msgspec.structs.replace(chunk, units=chunk.units + 1))


def bills_twice(chunk: Chunk) -> bytes:
    return encode(msgspec.structs.replace(chunk, units=2 * chunk.units, tokens=2 * chunk.tokens))


def skips_a_number(chunk: Chunk) -> bytes:
    return encode(msgspec.structs.replace(chunk, n=chunk.n + 1))


GARBAGE: dict[str, Change] = {
    "no message": lambda chunk: b"garbage",
    "empty": lambda chunk: b"",
    "not UTF-8": with_fields(data=b"\xff\xfe"),
    "no JSON": with_fields(kind=JSON, data=b"{", tokens=b"", logprobs=b""),
    "unknown kind": with_fields(kind=9),
    "half a token id": with_fields(tokens=b"\0\0\0"),
    "another job": with_fields(job=bytes(32)),
    "a number left out": skips_a_number,
    "a unit too far": with_fields(start=10_000),
    "a text of ten megabytes in all": with_fields(data=b"x" * 900_000),
    "an answer instead of a chunk": lambda chunk: encode(
        seal(STRANGER, PURPOSE, Finished(chunk.job, b"done", 0, 0, 0, bytes(32), b""))
    ),
}
OVERCHARGES: dict[str, Change] = {
    "a unit more than there is": raises_one_id,
    "every token twice": bills_twice,
    "text without tokens": with_fields(kind=TEXT, tokens=b"", logprobs=b""),
    "a thousand empty tokens": with_fields(tokens=pack_tokens(list(range(256))), units=256, logprobs=b""),
}


async def against(market: Market, change: Tamper, *, rescue: bool = True) -> Bought:
    """A job that a cheat gets first, since it is cheaper; an honest seller may finish it."""
    cheap = skill("write", price="1/token")(write.function)
    model = writer(150)
    async with market.agent("cheat", [cheap], model) as cheat, market.agent("bob") as bob:
        tamper(cheat, change)
        if not rescue:
            return await one_job(market, bob, 1)
        async with market.agent("alice", [write], model):
            return await one_job(market, bob, 2)


async def one_job(market: Market, bob: object, sellers: int) -> Bought:
    agent = market.agents["bob"]
    bought = await buy(agent, await agent.find("write", at_least=sellers))
    market.check_bill(bought)
    await market.check_rest("bob")
    return bought


def check_rescued(bought: Bought, delivered: int) -> None:
    """The honest part was kept, the cheat's is neither shown nor paid, and somebody else finished."""
    cheat, rescuer = bought.job.legs
    assert bought.failure is None
    assert bought.text == words(150)
    assert (cheat.name, rescuer.name, bought.job.finish) == ("cheat", "alice", "done")
    assert cheat.units == cheat.amount == delivered
    assert rescuer.amount == 2 * rescuer.units
    assert cheat.units + rescuer.units == 150


@pytest.mark.parametrize("change", GARBAGE.values(), ids=GARBAGE.keys())
async def test_garbage_in_the_stream_is_not_paid_and_another_seller_finishes(
    change: Change, autojump_clock: Clock
) -> None:
    async with found_market() as market:
        bought = await against(market, from_chunk(3, change))
        check_rescued(bought, bought.job.legs[0].units)
        assert 0 < bought.job.legs[0].units < 150


@pytest.mark.parametrize("change", OVERCHARGES.values(), ids=OVERCHARGES.keys())
async def test_a_seller_that_bills_more_than_it_delivers_gets_nothing_for_it(
    change: Change, autojump_clock: Clock
) -> None:
    async with found_market() as market:
        bought = await against(market, from_chunk(3, change))
        check_rescued(bought, bought.job.legs[0].units)


async def test_a_mutant_that_believes_the_sellers_count_pays_for_what_never_came(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ainp2p.protocol.buyer_meter.count_units", lambda chunk, unit: chunk.units)
    async with found_market() as market:
        bought = await against(market, from_chunk(3, raises_one_id))
        with pytest.raises(AssertionError):
            check_rescued(bought, bought.job.legs[0].units)


async def test_a_mutant_that_shows_what_is_no_text_lets_garbage_be_paid(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "_check_content", lambda chunk: None)
    async with found_market() as market:
        bought = await against(market, from_chunk(3, GARBAGE["not UTF-8"]))
        with pytest.raises(AssertionError):
            check_rescued(bought, bought.job.legs[0].units)


async def test_a_seller_that_stalls_is_left_after_half_a_minute(autojump_clock: Clock) -> None:
    async with found_market() as market:
        began = trio.current_time()

        async def stall(data: bytes) -> bytes | None:
            if isinstance(decode_wire(data), Chunk) and next(counted) >= 2:
                await trio.sleep_forever()
            return data

        counted = iter(range(1000))
        bought = await against(market, stall)
        check_rescued(bought, bought.job.legs[0].units)
        assert "sent nothing for 30 s" in bought.job.legs[0].failure
        assert trio.current_time() - began < 200


async def test_a_seller_that_says_nothing_at_all_is_left_as_well(autojump_clock: Clock) -> None:
    async with found_market() as market:

        async def silence(data: bytes) -> bytes | None:
            return await trio.sleep_forever()

        bought = await against(market, silence, rescue=False)
        assert isinstance(bought.failure, NoOffers)
        assert (bought.job.paid, bought.pieces) == (0, [])


async def test_a_seller_that_swallows_chunks_is_not_paid_for_them(autojump_clock: Clock) -> None:
    async with found_market() as market:
        bought = await against(market, from_chunk(3, lambda chunk: None))
        check_rescued(bought, bought.job.legs[0].units)


async def test_a_seller_that_ends_without_its_last_word_is_replaced(autojump_clock: Clock) -> None:
    async with found_market() as market:

        async def mute(data: bytes) -> bytes | None:
            message = decode_wire(data)
            is_last = isinstance(message, Signed) and isinstance(open_market(message), Finished)
            return None if is_last else data

        bought = await against(market, mute, rescue=False)
        assert "without its last word" in str(bought.failure)
        assert bought.text == words(150)
        assert bought.job.paid == 150  # what was delivered is paid


@pytest.mark.parametrize("more", [{"amount": 10_000}, {"units": 10_000}, {"finish": b"great"}, {"n": 900}])
async def test_a_last_word_that_claims_more_than_was_delivered_is_not_believed(
    more: dict[str, object], autojump_clock: Clock
) -> None:
    async with found_market() as market:
        key = market.key("cheat")

        async def exaggerate(data: bytes) -> bytes | None:
            message = decode_wire(data)
            if isinstance(message, Signed) and isinstance(word := open_market(message), Finished):
                return encode(seal(key, PURPOSE, msgspec.structs.replace(word, **more)))
            return data

        bought = await against(market, exaggerate, rescue=False)
        assert isinstance(bought.failure, NoOffers)
        assert (bought.text, bought.job.paid) == (words(150), 150)


async def test_a_proposal_above_the_sellers_own_card_is_not_taken(autojump_clock: Clock) -> None:
    greedy = Strategies(pricing=lambda call, base, load: Price.parse("300/token"))
    async with found_market() as market:
        async with (
            market.agent("cheat", [write], writer(10), strategies=greedy),
            market.agent("bob") as bob,
        ):
            bought = await buy(bob, await bob.find("write"))
            assert isinstance(bought.failure, NoOffers)
            assert (bought.job.paid, (await bob.balance()).locked) == (0, 0)


async def test_a_mutant_that_takes_any_price_pays_what_the_seller_likes(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ainp2p.agents.buying.honest_only", lambda choosing, offers, max_price: choosing)
    greedy = Strategies(pricing=lambda call, base, load: Price.parse("300/token"))
    async with found_market() as market:
        async with (
            market.agent("cheat", [write], writer(10), strategies=greedy),
            market.agent("bob") as bob,
        ):
            bought = await buy(bob, await bob.find("write"))
            assert bought.job.paid == 600  # for two tokens


async def test_prompt_ids_that_cost_more_than_the_budget_are_not_accepted(autojump_clock: Clock) -> None:
    reading = skill("write", price="1/input + 1/token")(write.function)
    async with found_market() as market:
        key = market.key("cheat")
        async with market.agent("cheat", [reading], writer(10)) as cheat, market.agent("bob") as bob:

            async def claim(data: bytes) -> bytes | None:
                message = decode_wire(data)
                if isinstance(message, Signed) and isinstance(word := open_market(message), Accepted):
                    return encode(seal(key, PURPOSE, msgspec.structs.replace(word, input_units=600)))
                return data

            tamper(cheat, claim)
            bought = await buy(bob, await bob.find("write"))
            assert "prompt ids alone cost more than the budget" in str(bought.failure)
            assert bought.job.paid == 0
            await market.check_rest("bob")


async def test_a_seller_that_vanishes_for_good_is_not_waited_for_longer_than_told(
    autojump_clock: Clock,
) -> None:
    async with found_market() as market:
        async with market.agent("bob") as bob:
            async with market.agent("alice", [write], writer(200, tokens_per_second=50)):
                offers = await bob.find("write")
                async with trio.open_nursery() as nursery:
                    bought: list[Bought] = []

                    async def one() -> None:
                        bought.append(await buy(bob, offers))

                    nursery.start_soon(one)
                    await trio.sleep(1)
                    market.hub.pause(market.peer("alice"))
                    began = trio.current_time()
                assert trio.current_time() - began < 45
                assert isinstance(bought[0].failure, NoOffers)
                market.check_bill(bought[0])
                market.hub.resume(market.peer("alice"))
            await market.check_rest("bob")
