"""A buyer that stops paying, replays receipts, awards twice or talks nonsense: a window is all it gets."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from ainp2p.agents import selling, tills
from ainp2p.agents.agent import Agent
from ainp2p.agents.tills import Tills
from ainp2p.errors import InsufficientFunds, Refused
from ainp2p.ledger.rules.receipts import sign_receipt
from ainp2p.protocol.codec import encode
from ainp2p.protocol.delivery import FIRST_WINDOW, STEP, WINDOW
from ainp2p.protocol.identity import Key
from ainp2p.protocol.messages import (
    PROTOCOL,
    PURPOSE,
    Accepted,
    Cancel,
    Chunk,
    Finished,
    ReceiptNotice,
    Refusal,
    Resume,
    Status,
    StatusRequest,
    Taken,
    seal,
)
from ainp2p.protocol.seller_meter import SellerMeter

from .market_world import Market, buy, found_market, write, writer
from .raw_buyer import RawBuyer, Stream

Clock = trio.testing.MockClock


@asynccontextmanager
async def mallory_and_alice(
    seed: int = 0, *, tokens: int = 250, slots: int = 2
) -> AsyncIterator[tuple[Market, RawBuyer, Agent]]:
    """A hostile buyer, and a seller that must be at rest and unharmed afterwards."""
    async with found_market(seed) as market:
        async with (
            market.agent("alice", [write], writer(tokens), slots=slots) as alice,
            market.agent("mallory") as mallory,
        ):
            yield market, RawBuyer(mallory, market.key("mallory"), alice), alice
            await market.check_rest("alice", within_s=600)
            market.check_window("alice")


async def reading(stream: Stream, pay_until: int) -> Finished:
    """Read everything at once and pay as one should, up to so many units."""
    while True:
        word = await stream.next()
        if isinstance(word, Finished):
            return word
        await stream.notify(stream.receipt() if stream.units <= pay_until else None)


# --- not paying -----------------------------------------------------------------------------------


async def test_a_buyer_that_never_pays_gets_the_first_window_and_no_more(autojump_clock: Clock) -> None:
    async with mallory_and_alice() as (_, mallory, alice):
        lock = await mallory.open_lock()
        async with mallory.stream(await mallory.award(lock.id), lock) as stream:
            word = await reading(stream, 0)
            assert stream.units == FIRST_WINDOW
            assert word.finish == b"failed"
            assert b"32 units are unpaid after 30 s" in word.reason
            assert alice._open_parts.seller.free == 2


async def twice_unpaid() -> str:
    """What a buyer is told that awards again on a Lock on which it has not paid."""
    async with mallory_and_alice() as (_, mallory, _alice):
        lock = await mallory.open_lock()
        async with mallory.stream(await mallory.award(lock.id), lock) as stream:
            await reading(stream, 0)
        return (await mallory.refusal(await mallory.award(lock.id), lock))[1]


async def test_e10_a_lock_on_which_nothing_was_paid_holds_no_second_slot(autojump_clock: Clock) -> None:
    """Else one Lock that never pays holds all slots for half a minute, again and again."""
    assert "is not paid: pay it, or open another" in await twice_unpaid()


async def test_e10_mutant_a_default_that_is_forgotten_is_accepted_again(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgetful = property(lambda self: False, lambda self, value: None)
    monkeypatch.setattr(tills.Till, "is_default", forgetful, raising=False)
    with pytest.raises(AssertionError):
        await twice_unpaid()


async def test_a_buyer_that_stops_paying_gets_a_window_more_and_begins_again_as_a_stranger(
    autojump_clock: Clock,
) -> None:
    async with mallory_and_alice() as (_, mallory, alice):
        lock = await mallory.open_lock()
        async with mallory.stream(await mallory.award(lock.id), lock) as stream:
            await reading(stream, 128)
            assert 128 < stream.units <= 128 + WINDOW
        assert alice._open_parts.seller._tills._known == {}
        other = await mallory.open_lock()
        async with mallory.stream(await mallory.award(other.id), other) as again:
            await reading(again, 0)
            assert again.units == FIRST_WINDOW


async def test_a_mutant_without_a_window_gives_everything_away(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SellerMeter, "unpaid", 0)
    async with mallory_and_alice() as (_, mallory, _alice):
        lock = await mallory.open_lock()
        async with mallory.stream(await mallory.award(lock.id), lock) as stream:
            await reading(stream, 0)
            with pytest.raises(AssertionError):
                assert stream.units <= WINDOW


async def test_whoever_pays_and_reads_nothing_gets_a_step_and_holds_the_slot_for_a_while_only(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tills, "READER_TIMEOUT_S", 45.0)  # five minutes of virtual time cost seconds
    async with mallory_and_alice() as (_, mallory, _alice):
        lock = await mallory.open_lock()
        async with mallory.stream(await mallory.award(lock.id), lock) as stream:
            word: Any = None
            while not isinstance(word, Finished):
                word = await stream.next()
                if isinstance(word, Chunk):
                    await stream.notify(stream.receipt(), taken=0)
            assert (stream.units, word.finish) == (STEP, b"canceled")
            assert b"nobody read on" in word.reason


async def test_notices_without_news_do_not_prolong_the_wait_for_payment(autojump_clock: Clock) -> None:
    async with mallory_and_alice() as (_, mallory, _alice):
        lock = await mallory.open_lock()
        async with mallory.stream(await mallory.award(lock.id), lock) as stream:
            while stream.units < FIRST_WINDOW:
                await stream.next()
            began = trio.current_time()

            async def nag() -> None:
                while True:
                    await trio.sleep(5)
                    await stream.notify(None)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(nag)
                await stream.rest()
                nursery.cancel_scope.cancel()
            assert trio.current_time() - began == pytest.approx(30, abs=1)


# --- receipts -------------------------------------------------------------------------------------


async def test_a4_a_replayed_receipt_releases_nothing(autojump_clock: Clock) -> None:
    async with mallory_and_alice() as (_, mallory, alice):
        lock = await mallory.open_lock()
        async with mallory.stream(await mallory.award(lock.id), lock) as stream:
            while stream.units < FIRST_WINDOW:
                await stream.next()
            old = stream.receipt()
            await stream.notify(old)
            while stream.units < FIRST_WINDOW + STEP:
                await stream.next()
                await stream.notify(None)
            for _ in range(5):
                await stream.notify(old)
            word = await stream.rest()
            assert (word.finish, stream.units <= FIRST_WINDOW + WINDOW) == (b"failed", True)
            assert alice.wallet.book.unsettled(lock.id) == 2 * FIRST_WINDOW


async def test_a_mutant_that_counts_a_replayed_receipt_gives_everything_away(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def accept(self: SellerMeter, cumulative: int, units: int, context: bytes) -> bool:
        self.paid, self._paid_weight = self.position, self._weight
        return True

    monkeypatch.setattr(SellerMeter, "accept", accept)
    async with mallory_and_alice() as (_, mallory, _alice):
        lock = await mallory.open_lock()
        async with mallory.stream(await mallory.award(lock.id), lock) as stream:
            await stream.next()
            old = stream.receipt()
            while stream.finished is None:
                await stream.notify(old)
                await stream.next()
            with pytest.raises(AssertionError):
                assert stream.units <= FIRST_WINDOW + WINDOW


@pytest.mark.parametrize(
    "change",
    [
        {"network": bytes(32)},
        {"lock": bytes(32)},
        {"cumulative": 601},
        {"cumulative": 1},
        {"context": bytes(32)},
        {"units": 5},
    ],
    ids=["another network", "another Lock", "above the deposit", "too little", "other chunks", "fewer units"],
)
async def test_a_receipt_that_is_not_worth_what_was_delivered_is_refused(
    change: dict[str, Any], autojump_clock: Clock
) -> None:
    async with mallory_and_alice() as (_, mallory, _alice):
        lock = await mallory.open_lock()
        async with mallory.stream(await mallory.award(lock.id), lock) as stream:
            while stream.units < FIRST_WINDOW:
                await stream.next()
            with pytest.raises(Refused):
                await stream.notify(stream.receipt(**change))
            word = await stream.rest()
            assert (word.finish, stream.units) == (b"failed", FIRST_WINDOW)


async def test_a4_a_receipt_that_another_key_signed_is_refused(autojump_clock: Clock) -> None:
    async with mallory_and_alice() as (_, mallory, alice):
        lock = await mallory.open_lock()
        async with mallory.stream(await mallory.award(lock.id), lock) as stream:
            await stream.next()
            honest = stream.receipt()
            forged = msgspec.structs.replace(honest, signature=bytes(64))
            with pytest.raises(Refused):
                await stream.notify(forged)
            assert alice.wallet.book.highest(lock.id) is None


async def test_a_receipt_pays_whatever_becomes_of_the_progress_beside_it(autojump_clock: Clock) -> None:
    async with mallory_and_alice() as (_, mallory, alice):
        lock = await mallory.open_lock()
        async with mallory.stream(await mallory.award(lock.id), lock) as stream:
            while stream.units < FIRST_WINDOW:
                await stream.next()
            nonsense = (Taken(bytes(32), 5),)
            await mallory.ask(encode(ReceiptNotice(lock.id, encode(stream.receipt()), nonsense)))
            assert alice.wallet.book.unsettled(lock.id) == 2 * FIRST_WINDOW
            with pytest.raises(Refused):  # stale, and the progress counts all the same
                await stream.notify(sign_receipt(stream_receipt(stream, 2), mallory.key))
            assert isinstance(await stream.next(), Chunk)


def stream_receipt(stream: Stream, cumulative: int) -> Any:
    from ainp2p.ledger.rules.receipts import read_receipt

    return read_receipt(stream.receipt(cumulative=cumulative).body)


# --- awards ---------------------------------------------------------------------------------------


async def test_one_lock_does_not_pay_two_sellers(autojump_clock: Clock) -> None:
    async with mallory_and_alice() as (market, mallory, alice):
        async with market.agent("carol", [write], writer(50)) as carol:
            lock = await mallory.open_lock(payee=alice)
            second = RawBuyer(mallory.agent, mallory.key, carol)
            code, reason = await second.refusal(await second.award(lock.id), lock)
            assert (code, "does not pay us alone" in reason) == ("lock", True)
            shared = await mallory.open_lock(beneficiaries=[(alice.id, 1), (carol.id, 1)])
            assert (await mallory.refusal(await mallory.award(shared.id), shared))[0] == "lock"
            await market.check_rest("carol")


async def test_a_mutant_that_does_not_look_at_the_lock_works_for_nothing(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tills, "_check", lambda self, lock, deal: None)
    async with mallory_and_alice() as (market, mallory, alice):
        async with market.agent("carol", [write], writer(50)) as carol:
            lock = await mallory.open_lock(payee=alice)
            second = RawBuyer(mallory.agent, mallory.key, carol)
            async with second.stream(await second.award(lock.id), lock) as stream:
                assert isinstance(stream.answer, Accepted)


async def test_one_purse_does_not_fill_two_locks(autojump_clock: Clock) -> None:
    async with mallory_and_alice() as (market, mallory, alice):
        async with market.agent("carol", [write], writer(50)) as carol:
            await mallory.open_lock(payee=alice, deposit=900_000)
            with pytest.raises(InsufficientFunds):
                await mallory.open_lock(payee=carol, deposit=900_000)


@pytest.mark.parametrize(
    "change",
    [{"closer": bytes(32)}, {"authority": [Key(bytes(32)).public]}, {"life_ms": 3_000}],
    ids=["we cannot close it", "another key signs", "too short a life"],
)
async def test_a_lock_whose_receipts_are_worth_nothing_is_refused(
    change: dict[str, Any], autojump_clock: Clock
) -> None:
    async with mallory_and_alice() as (_, mallory, _alice):
        lock = await mallory.open_lock(**change)
        assert (await mallory.refusal(await mallory.award(lock.id), lock))[0] == "lock"


async def test_e10_awards_hold_no_slot_while_their_locks_are_looked_for(autojump_clock: Clock) -> None:
    async with mallory_and_alice() as (_, mallory, alice):
        lock = await mallory.open_lock()
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(mallory.refusal, await mallory.award(bytes(32)), lock)
            await trio.sleep(0.2)
            assert len(alice._open_parts.seller._negotiation._awarded) == 4
            assert alice._open_parts.seller.free == 2
        await trio.sleep(0.1)
        assert not alice._open_parts.seller._negotiation._awarded


async def test_a_lock_that_nobody_knows_is_refused(autojump_clock: Clock) -> None:
    async with mallory_and_alice() as (_, mallory, alice):
        lock = await mallory.open_lock()
        assert (await mallory.refusal(await mallory.award(bytes(32)), lock))[0] == "lock"
        assert alice._open_parts.seller.free == 2


@pytest.mark.parametrize(
    "change",
    [
        {"price": b"1/token"},
        {"budget": 1},
        {"window": 10_000},
        {"input": b'{"text":"other"}'},
        {"prefix_tokens": b"\0\0\0"},
        {"skill": b"other"},
        {"seller": bytes(32)},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_an_award_on_other_terms_is_refused_and_holds_nothing(
    change: dict[str, Any], autojump_clock: Clock
) -> None:
    async with mallory_and_alice() as (_, mallory, _alice):
        lock = await mallory.open_lock()
        code, _reason = await mallory.refusal(await mallory.award(lock.id, **change), lock)
        assert code in ("mismatch", "price", "input")


async def test_an_input_that_does_not_fit_the_schema_is_refused_with_the_reason(
    autojump_clock: Clock,
) -> None:
    async with found_market() as market:
        async with market.agent("alice", [write], writer(5)), market.agent("bob") as bob:
            bought = await buy(bob, await bob.find("write"), budget=100, text=5)
            assert "the input of 'write' does not fit its schema" in str(bought.failure)
            await market.check_rest("alice", "bob")


async def test_an_award_counts_once(autojump_clock: Clock) -> None:
    async with mallory_and_alice() as (_, mallory, alice):
        lock = await mallory.open_lock()
        award = await mallory.award(lock.id)
        async with mallory.stream(award, lock) as stream:
            assert isinstance(stream.answer, Accepted)
            assert (await mallory.refusal(award, lock))[0] == "known"
            assert alice._open_parts.seller.free == 1


async def test_an_award_that_is_no_stream_holds_nothing_for_long(autojump_clock: Clock) -> None:
    async with mallory_and_alice() as (_, mallory, alice):
        lock = await mallory.open_lock()
        with pytest.raises(Refused):
            await mallory.ask(encode(await mallory.award(lock.id)))
        await mallory.agent.network.send(alice.peer_id, PROTOCOL, encode(await mallory.award(lock.id)))


async def test_e10_open_negotiations_are_few_and_short(autojump_clock: Clock) -> None:
    async with mallory_and_alice(slots=64) as (_, mallory, alice):
        bids = [bid for _ in range(100) if (bid := (await mallory.call())[1]) is not None]
        assert len(bids) == 8 == alice._open_parts.seller._negotiation.open
        await trio.sleep(11)
        assert (await mallory.call())[1] is not None
        assert alice._open_parts.seller._negotiation.open == 1


# --- other people's jobs, and nonsense --------------------------------------------------------------


async def test_nobody_touches_another_buyers_job(autojump_clock: Clock) -> None:
    async with mallory_and_alice() as (market, mallory, alice):
        async with market.agent("eve") as eve_agent:
            eve = RawBuyer(eve_agent, market.key("eve"), alice)
            lock = await mallory.open_lock()
            async with mallory.stream(await mallory.award(lock.id), lock) as stream:
                job = stream.job
                assert (await mallory.status(job)).state == b"working"
                with pytest.raises(Refused, match="no-such-job"):
                    await eve.status(job)
                with pytest.raises(Refused, match="no-such-job"):
                    await eve.ask(encode(seal(eve.key, PURPOSE, Cancel(job, b""))))
                resume = Resume(job, 1, 0, b"", 0)
                with pytest.raises(Refused, match="no-such-job"):
                    await eve.ask(encode(seal(eve.key, PURPOSE, resume)))
                with pytest.raises(Refused, match="another key"):
                    await eve.ask(encode(seal(mallory.key, PURPOSE, Cancel(job, b""))))
                await eve.ask(encode(ReceiptNotice(lock.id, b"", (Taken(job, 1),))))
                word = await reading(stream, 300)
                assert (word.finish, stream.units) == (b"done", 250)


NONSENSE = {
    "empty": b"",
    "garbage": b"\xff" * 100,
    "a chunk": encode(Chunk(bytes(32), 1, 0, 1, 0, b"", b"\0\0\0\1", b"")),
    "a status": encode(Status(bytes(32), b"working", 0, 0, 0, 0, 0)),
    "status of nothing": encode(StatusRequest(bytes(32))),
    "a receipt for nothing": encode(ReceiptNotice(bytes(32), b"", ())),
    "a sellers word": encode(
        seal(Key(bytes(32)), PURPOSE, Finished(bytes(32), b"", 0, 0, 0, bytes(32), b""))
    ),
}


@pytest.mark.parametrize("body", NONSENSE.values(), ids=NONSENSE.keys())
async def test_v11_nonsense_is_refused_without_a_line_in_the_log(
    body: bytes, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with mallory_and_alice() as (_, mallory, _alice):
        with caplog.at_level(logging.INFO):
            with pytest.raises(Refused):
                await mallory.ask(body)
            own = seal(mallory.key, PURPOSE, Refusal(bytes(32), b"no", b""))
            with pytest.raises(Refused):
                await mallory.ask(encode(own))
        assert caplog.records == []


async def test_jobs_that_ended_are_forgotten_the_oldest_first(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selling, "KEPT_MAX", 4)
    async with mallory_and_alice(tokens=3) as (_, mallory, alice):
        offers = await mallory.agent.find("write")
        for number in range(8):
            await buy(mallory.agent, offers, text=str(number))
            assert len(alice._open_parts.seller._sales) <= 5


async def test_v10_locks_without_jobs_are_forgotten_the_oldest_first(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tills, "TILLS_MAX", 2)
    monkeypatch.setattr(selling, "KEPT_MAX", 0)
    async with mallory_and_alice(tokens=3) as (_, mallory, alice):
        for _ in range(5):
            lock = await mallory.open_lock()
            async with mallory.stream(await mallory.award(lock.id), lock) as stream:
                await stream.rest()
                await stream.notify(stream.receipt())
        assert len(alice._open_parts.seller._tills) <= 3
