"""What a stranger or a member sends to make others work, wait or fall: each attack by its name.

A member that lies is left soon; nothing that it sends ends a task, and what it repeats wears out its welcome.
"""

from __future__ import annotations

import itertools
from contextlib import suppress
from typing import Any

import pytest
import trio

from ainp2p.errors import Error, Malformed
from ainp2p.ledger.serving import epoch_fetch, object_sync, reconcile, service
from ainp2p.ledger.serving.catch_up import CatchUp
from ainp2p.ledger.serving.epoch_fetch import EpochFetcher
from ainp2p.ledger.serving.messages import (
    Decided,
    DecidedPage,
    Finals,
    Follow,
    Height,
    Heights,
    Reconciled,
    ReconcileFrontier,
)
from ainp2p.ledger.serving.reconcile import FINGERPRINT, ITEMS, Ranges, Reconciler, value_of
from ainp2p.ledger.wallets import watchtower
from ainp2p.protocol.codec import encode

from .serving.test_epoch_fetch import HANDOFF, Core
from .test_open_streams import Stream
from .test_wallet_faults import run
from .town import open_town
from .wallets.test_watchtower import deposit, earn, later_ms, tower_in
from .world import key_of

LIAR, VICTIM = 0, 1


# --- a false certificate to whoever follows --------------------------------------------------------------


async def paid_while_everybody_shows_false_certificates() -> int:
    """Every validator sends a watchtower a final operation with another one's certificate."""
    async with open_town() as town, town.wallet("alice") as alice:
        state = await deposit(town, alice)
        other = await alice.send(town.account("carol"), 1)
        true = town.services[0]._answers.decided(state.lock.head if state.lock.seq else other.operation)
        assert true is not None
        await alice.send(town.account("carol"), 2)
        newer = town.services[0]._answers.decided(
            town.services[0]._validator.state.accounts[alice.account_id].head
        )
        assert newer is not None
        false = Decided(true.operation, newer.certificate)

        async def lie(call: Any, question: Follow) -> None:
            await call.send(encode(Finals(())))
            await trio.sleep(1)
            await call.send(encode(Finals((false,))))

        async with tower_in(town):
            await earn(town, state, 400)
            for each in town.services.values():
                each._follow = lie  # type: ignore[method-assign]
            await later_ms(state.lock.expiry - 1_000)
        return (await alice.lock(state.id)).lock.paid


def test_a_false_certificate_to_a_follower_does_not_end_a_watchtower() -> None:
    assert run(paid_while_everybody_shows_false_certificates) == 400


def test_mutant_a_rule_that_a_certificate_breaks_ends_the_watchtower(monkeypatch: pytest.MonkeyPatch) -> None:
    class Never(Error):
        """Nobody raises it."""

    monkeypatch.setattr(watchtower, "LedgerError", Never)
    with pytest.raises(BaseExceptionGroup):
        run(paid_while_everybody_shows_false_certificates)


# --- streams that are followed and never read -------------------------------------------------------------


async def followers_that_read_nothing() -> int:
    async with open_town() as town:
        async with trio.open_nursery() as nursery:
            for number in range(50):
                call: Any = Stream(key_of(f"s{number}").peer_id, Follow((bytes(32),)), reads=False)
                nursery.start_soon(town.services[0]._handle, call)
            await trio.sleep(60)
            left = len(town.services[0]._followers)
            nursery.cancel_scope.cancel()
        return left


def test_followers_that_read_nothing_lose_their_places() -> None:
    assert run(followers_that_read_nothing) == 0


def test_mutant_followers_that_read_nothing_keep_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "CHUNK_TIMEOUT_S", 10**9)
    assert run(followers_that_read_nothing) == 50


# --- logs that are promised and never sent ----------------------------------------------------------------


async def seconds_with_a_member_that_promises_logs() -> float:
    async with open_town(size=7) as town:
        liar, victim = town.services[LIAR], town.services[VICTIM]
        heights = tuple(Height(key.public, 10**6) for key in town.keys)
        liar._answers.heights = lambda: Heights(heights, 0)  # type: ignore[method-assign]

        async def silent(call: Any, question: Any) -> None:
            await trio.sleep_forever()

        liar._send_batches = silent  # type: ignore[method-assign]
        began = trio.current_time()
        await victim._catch_up._compare_with(town.peer(LIAR), 0.0)
        return trio.current_time() - began


def test_logs_that_are_promised_and_never_sent_delay_a_round_once() -> None:
    assert run(seconds_with_a_member_that_promises_logs) < 10


def test_mutant_each_promised_log_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    fetch = CatchUp._fetch_log

    async def patient(self: CatchUp, *args: Any) -> bool:
        await fetch(self, *args)
        return True

    monkeypatch.setattr(CatchUp, "_fetch_log", patient)
    assert run(seconds_with_a_member_that_promises_logs) > 20


# --- the same page again and again ------------------------------------------------------------------------


async def pages_of_known_operations() -> int:
    """A member streams what is known here, as fast as it can, with numbers that go up."""
    async with open_town() as town, town.wallet("alice") as alice:
        await alice.send(town.account("bob"), 1)
        await town.until_equal(1)
        liar, victim = town.services[LIAR], town.services[VICTIM]
        await trio.sleep(2)
        known = liar._histories.page(0).operations
        assert known
        sent = 0

        async def endless(call: Any, question: Any) -> None:
            nonlocal sent
            for sent in range(1, 5_000):
                await call.send(encode(DecidedPage(known, sent, 10**9)))

        liar._send_decided = endless  # type: ignore[method-assign]
        with suppress(Error):
            await victim._objects._stream(town.peer(LIAR), 0)
        return sent


def test_a_stream_of_known_operations_is_left() -> None:
    assert run(pages_of_known_operations) < 500


def test_mutant_a_page_that_comes_at_once_costs_no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_sync, "NO_NEWS_S", 0.0)
    assert run(pages_of_known_operations) > 4_000


# --- the same range again and again -----------------------------------------------------------------------


def looks_at_our_items(rounds: int) -> int:
    """A responder says each time that it has nothing of what we have, and that there is more to compare."""
    items = [(n.to_bytes(2, "big") * 16, value_of(1, bytes(32))) for n in range(60_000)]
    ours = Reconciler(items)
    message: bytes | None = ours.initiate()
    lie = encode(Ranges(1, bytes([ITEMS, FINGERPRINT]), b"\xe0", bytes(16), bytes(2), b""))
    with suppress(Malformed):
        for _ in range(rounds):
            if message is not None:
                message, _, _ = ours.continue_(lie)
    return ours._looks


def test_a_range_that_is_answered_again_and_again_is_not_looked_at_for_ever() -> None:
    assert looks_at_our_items(12) <= 5 * 60_000


def test_mutant_each_answer_is_compared_with_all_that_we_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "LOOKS_MAX", 10**9)
    assert looks_at_our_items(12) > 10 * 50_000


# --- frontiers --------------------------------------------------------------------------------------------


async def frontier_of(answers: Any) -> tuple[int, list[Any]]:
    """How often a member is asked that answers with these at once, and what comes to the core."""
    async with open_town() as town:
        liar, asked = town.services[LIAR], 0
        answer = liar._answer

        async def lie(call: Any, question: Any) -> Any:
            nonlocal asked
            if not isinstance(question, ReconcileFrontier):
                return await answer(call, question)
            asked += 1
            return next(answers)

        liar._answer = lie  # type: ignore[method-assign]
        liar._charge = lambda *args: None  # type: ignore[method-assign]
        core = Core()
        fetcher = EpochFetcher(town.services[VICTIM]._validators, core)
        with suppress(Error):
            heads = await fetcher._differences(town.peer(LIAR), HANDOFF)
            await core.take_frontier(HANDOFF, heads)
        return asked, core.frontiers


def with_item(seq: int, *, goes_on: bool) -> Reconciled:
    item = bytes(31) + b"\x01" + value_of(seq, bytes(32))
    if goes_on:
        bound = bytes(31) + b"\x02"
        return Reconciled(
            encode(Ranges(32, bytes([ITEMS, FINGERPRINT]), bound, bytes(16), (1).to_bytes(2, "big"), item))
        )
    return Reconciled(encode(Ranges(0, bytes([ITEMS]), b"", b"", (1).to_bytes(2, "big"), item)))


def test_a_frontier_that_says_nothing_new_at_full_speed_is_left() -> None:
    assert run(frontier_of, itertools.repeat(with_item(1, goes_on=True)))[0] < 150


def test_mutant_a_frontier_may_go_on_as_long_as_it_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch_fetch, "NO_NEWS_S", 0.0)
    assert run(frontier_of, itertools.repeat(with_item(1, goes_on=True)))[0] > 400


def test_a_head_in_a_slot_beyond_any_number_is_malformed() -> None:
    assert len(run(frontier_of, iter([with_item(2**63 - 1, goes_on=False)]))[1]) == 1
    assert run(frontier_of, iter([with_item(2**64 - 1, goes_on=False)]))[1] == []


def test_mutant_a_head_is_taken_whatever_its_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch_fetch, "INT_MAX", 2**70)
    assert len(run(frontier_of, iter([with_item(2**64 - 1, goes_on=False)]))[1]) == 1
