"""The credit window: named cases first, then any order of events, with cheats and cut connections."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ainp2p.errors import Error, InvalidInput, Malformed, Overcharged, Refused, RemoteError, Unpaid
from ainp2p.protocol import buyer_meter, delivery
from ainp2p.protocol.buyer_meter import BuyerMeter
from ainp2p.protocol.delivery import BUDGET, CANCELED, DONE, LOOP, Content, Position
from ainp2p.protocol.messages import BYTES, JSON, TEXT, TIME, TOKENS, Chunk, pack_tokens
from ainp2p.protocol.seller_meter import SellerMeter
from tests.protocol.metering_world import LOCK, Link, Word, job_id, terms, text, words


def chunk_of(n: int = 1, start: int = 0, units: int = 2, ids: int = 2, job: int = 1, **more: Any) -> Chunk:
    fields: dict[str, Any] = {
        "kind": TOKENS,
        "data": b"ab",
        "tokens": pack_tokens(list(range(start, start + ids))),
    }
    fields.update(more)
    return Chunk(job_id(job), n, start, units, fields["kind"], fields["data"], fields["tokens"], b"")


# --- going on and waiting -----------------------------------------------------------------------


def test_the_seller_waits_when_a_window_is_unpaid_and_goes_on_when_paid() -> None:
    link = Link(terms(step=4, window=8))
    for _ in range(2):
        assert link.produce(1, *range(20)) == 4  # a step ahead of the reader
        link.arrive(1)
        link.read(1)
        link.seller.taken(job_id(1), link.buyer.tab(job_id(1)).weight)
    assert link.seller.unpaid == link.seller.window == 8
    assert link.seller.allowance(job_id(1)) == 0
    link.tell()
    link.hear_notice()
    assert link.seller.unpaid == 0
    assert link.seller.allowance(job_id(1)) == 4


def test_the_seller_stays_a_step_ahead_of_a_reader_that_does_not_read() -> None:
    link = Link(terms(step=4, window=8))
    assert link.produce(1, *range(20)) == 4
    link.arrive(1)
    link.tell()
    link.hear_notice()
    assert link.seller.unpaid == 0  # all is paid, and yet:
    assert link.seller.allowance(job_id(1)) == 0
    link.read(1)
    link.tell()
    link.hear_notice()
    assert link.seller.allowance(job_id(1)) == 4


def test_a_receipt_is_due_after_a_step_and_not_before() -> None:
    link = Link(terms(step=4))
    link.produce(1, 1, 2, 3)
    link.arrive(1)
    assert link.tell() is None
    link.produce(1, 4)
    link.arrive(1)
    position = link.tell()
    assert position is not None
    assert (position.cumulative, position.units, position.n) == (8, 4, 2)


def test_a_receipt_is_due_at_a_jobs_end() -> None:
    link = Link(terms(step=4))
    link.produce(1, 1)
    link.arrive(1)
    assert link.buyer.due() is None
    assert link.buyer.finished(link.seller.finish(job_id(1), DONE))
    position = link.buyer.due()
    assert position is not None
    assert position.cumulative == 2
    assert link.buyer.tab(job_id(1)).finish == DONE


def test_leaving_early_pays_for_at_most_a_step_more_than_was_read() -> None:
    link = Link(terms(step=4, window=8))
    while link.produce(1, *range(20)):
        link.arrive(1)
    position = link.tell(now=True)
    assert position is not None
    assert position.units <= 0 + 4  # nothing was read


def test_a_new_counterpartys_first_window_is_smaller_until_it_has_paid() -> None:
    link = Link(terms(step=32, window=64), known=False)
    assert link.seller.window == 32
    link.produce(1, *range(100, 132))
    link.arrive(1)
    link.tell()
    link.hear_notice()
    assert link.seller.window == 64


def test_a_first_window_is_never_below_the_step() -> None:
    assert Link(terms(step=48, window=64), known=False).seller.window == 48


def test_a_window_below_the_step_is_refused() -> None:
    with pytest.raises(InvalidInput):
        terms(step=8, window=4)


def test_a_seller_that_begins_the_lock_anew_is_told_from_one_that_repeats_itself() -> None:
    link = Link(terms(1))
    link.produce(1, 1, 2)
    link.arrive(1)
    link.buyer.open_job(terms(2), 0)
    repeated = link.seller.resume(job_id(1), 1)
    assert [link.buyer.receive(chunk, 0) for chunk in repeated] == [[] for _ in repeated]
    forgetful = Link(terms(2))
    forgetful.produce(2, 1)
    (chunk,) = forgetful.seller.resume(job_id(2), 1)
    with pytest.raises(Refused, match="forgotten"):
        link.buyer.receive(chunk, 0)


def test_parallel_jobs_share_one_window_and_one_counter() -> None:
    link = Link(terms(1, step=4, window=8), terms(2, "3/token + 10/call", step=4, window=8))
    link.produce(1, 1, 2, 3)
    link.produce(2, 4, 5)
    assert link.seller.unpaid == 5
    assert link.seller.allowance(job_id(1)) == 1  # a step ahead of its reader
    link.arrive(2)  # the second job's stream is faster
    assert link.buyer.position.n == 0
    link.arrive(1)
    assert link.buyer.position == link.seller.position
    position = link.tell()
    assert position is not None
    assert position.cumulative == 3 * 2 + 10 + 2 * 3
    link.hear_notice()
    assert link.seller.unpaid == 0


def test_the_fixed_part_is_due_with_the_first_chunk_and_once() -> None:
    link = Link(terms(price="50/call", step=4, window=8))
    for expected in (50, 50, 50):
        chunk = link.seller.deliver(job_id(1), text())
        link.buyer.receive(chunk, 0)
        assert link.buyer.position.cumulative == link.seller.position.cumulative == expected
    position = link.tell(now=True)
    assert position is not None
    link.hear_notice()
    assert link.seller.unpaid == 0
    assert link.tell(now=True) is None  # what costs nothing more needs no receipt


def test_a_flat_price_never_stops_for_want_of_receipts() -> None:
    link = Link(terms(price="50/call", step=4, window=8))
    for _ in range(100):
        assert link.seller.allowance(job_id(1)) > 0
        link.unread[job_id(1)].extend(link.buyer.receive(link.seller.deliver(job_id(1), text()), 0))
        link.read(1)
        link.tell()
        while link.notices:
            link.hear_notice()
    assert link.seller.paid.cumulative == 50


def test_seconds_are_billed_up_to_the_buyers_own_clock() -> None:
    link = Link(terms(price="7/second", step=4, window=8))
    tick = Content(TIME, b"")
    link.buyer.receive(link.seller.deliver(job_id(1), text(), 0), 0)
    link.buyer.receive(link.seller.deliver(job_id(1), tick, 2), 1500)
    assert link.buyer.position.cumulative == 14
    with pytest.raises(Overcharged):
        link.buyer.receive(link.seller.deliver(job_id(1), tick, 1), 1900)


def test_a_budget_ends_the_job_at_the_last_unit_that_it_buys() -> None:
    link = Link(terms(price="2/token + 5/call", budget=12, step=4))
    assert link.produce(1, 1, 2, 3, 4, 5) == 3
    assert link.seller.exhausted(job_id(1))
    assert link.seller.finish(job_id(1), BUDGET).amount == 11


def test_a_deposit_ends_the_job_as_a_budget_does() -> None:
    link = Link(terms(price="2/token"), deposit=5)
    assert link.produce(1, 1, 2, 3) == 2
    assert link.seller.exhausted(job_id(1))


def test_a_disconnect_pauses_work_and_resume_sends_again_what_is_missing() -> None:
    link = Link(terms(step=4, window=8))
    link.produce(1, 1, 2)
    link.arrive(1)
    link.produce(1, 3)
    link.cut()
    assert link.seller.allowance(job_id(1)) == 0
    link.heal()
    assert [chunk.n for chunk in link.streams[job_id(1)]] == [2]
    link.settle()
    assert link.seller.paid == link.buyer.position
    assert link.seller.allowance(job_id(1)) == 4


def test_one_jobs_stream_may_break_while_the_other_goes_on() -> None:
    link = Link(terms(1), terms(2))
    link.seller.pause(job_id(1))
    assert link.seller.allowance(job_id(1)) == 0
    assert link.seller.allowance(job_id(2)) > 0
    assert link.seller.resume(job_id(1), 1) == []
    assert link.seller.allowance(job_id(1)) > 0


def test_a_chunk_that_comes_again_after_a_resume_is_ignored() -> None:
    link = Link(terms())
    chunk, _ = link.seller.deliver_tokens(job_id(1), words(1, 2))
    assert link.buyer.receive(chunk, 0) == [chunk]
    assert link.buyer.receive(chunk, 0) == []
    assert link.buyer.position.units == 2


def test_a_finished_that_overtakes_chunks_waits_for_them() -> None:
    link = Link(terms())
    chunk, _ = link.seller.deliver_tokens(job_id(1), words(1, 2))
    assert not link.buyer.finished(link.seller.finish(job_id(1), DONE))
    link.buyer.receive(chunk, 0)
    assert link.buyer.tab(job_id(1)).finish == DONE


def test_a_job_without_a_chunk_finishes_for_nothing() -> None:
    link = Link(terms(price="2/token + 5/call"))
    assert link.buyer.finished(link.seller.finish(job_id(1), CANCELED))
    assert link.buyer.due(now=True) is None


# --- after a crash ------------------------------------------------------------------------------


def paid_once() -> Link:
    link = Link(terms(step=4, window=8))
    link.produce(1, 1, 2, 3, 4)
    link.settle()
    assert link.seller.paid.n == 1
    return link


def test_a_seller_rebuilds_its_state_from_the_last_receipt() -> None:
    link = paid_once()
    link.cut()
    reborn = SellerMeter(LOCK, 10**6, known=True, start=link.buyer.signed)
    reborn.open_job(terms(step=4, window=8), units=4, ids=(1, 2, 3, 4))
    link.seller = reborn
    link.heal()
    link.produce(1, 5, 6)
    link.settle()
    assert link.seller.paid == link.buyer.position == link.buyer.signed
    assert link.seller.paid.cumulative == 12


def test_a_buyer_rebuilds_its_state_from_the_last_receipt_and_gets_the_rest_again() -> None:
    link = paid_once()
    link.produce(1, 5, 6)
    link.arrive(1)
    link.read(1)
    link.cut()  # and the buyer's memory is gone, but for its journal
    reborn = BuyerMeter(LOCK, 10**6, start=link.buyer.signed)
    reborn.open_job(terms(step=4, window=8), 0, units=4, ids=(1, 2, 3, 4))
    link.buyer = reborn
    link.heal()
    link.settle()
    assert link.seller.paid == link.buyer.position
    assert link.buyer.tab(job_id(1)).units == 6
    assert link.buyer.finished(link.seller.finish(job_id(1), DONE))


def test_a_last_word_on_a_job_that_was_over_before_a_restart_is_taken() -> None:
    link = paid_once()
    reborn = BuyerMeter(LOCK, 10**6, start=link.buyer.signed)
    reborn.open_job(terms(step=4, window=8), 0, units=4)
    assert reborn.finished(link.seller.finish(job_id(1), DONE))


def test_chunks_that_are_kept_no_longer_are_refused_as_gone() -> None:
    link = paid_once()
    with pytest.raises(Refused, match="gone"):
        link.seller.resume(job_id(1), 1)


# --- loops --------------------------------------------------------------------------------------

GRAM = tuple(range(10, 18))


def test_a_repeated_gram_ends_the_job_on_both_sides_and_what_followed_its_first_end_is_unbilled() -> None:
    link = Link(terms(step=32, window=64))
    assert link.produce(1, *GRAM, 1, 2, *GRAM, 3, 4) == 18  # nothing after the repetition is sent
    assert link.seller.tab(job_id(1)).finish == LOOP
    link.arrive(1)
    assert link.buyer.tab(job_id(1)).finish == LOOP
    assert link.buyer.finished(link.seller.finish(job_id(1), DONE))
    assert link.buyer.position.cumulative == link.seller.position.cumulative == 2 * 8


def test_a_loop_over_tokens_that_are_paid_already_leaves_credit_on_the_lock() -> None:
    link = Link(terms(1, step=4, window=8), terms(2, step=4, window=8))
    cycle = (*GRAM, *range(20, 40))
    tokens = list(cycle * 2)
    while tokens and link.seller.tab(job_id(1)).finish is None:
        del tokens[: link.produce(1, *tokens)]
        link.settle()
    assert link.seller.position.cumulative == 2 * 8  # what is owed fell below
    paid = link.seller.paid.cumulative
    assert paid > 2 * 8  # what was signed before: receipts never go down
    assert link.tell(now=True) is None
    fresh = iter(range(1000, 2000))
    done = 0
    while link.seller.paid.cumulative == paid:  # the second job uses the credit up, without a standstill
        count = link.produce(2, next(fresh))
        assert count == 1
        done += count
        link.settle()
    assert 2 * 8 + 2 * done == link.seller.paid.cumulative == paid + 2


def test_a_run_of_one_token_is_billed_up_to_its_first_gram() -> None:
    link = Link(terms(step=32, window=64))
    assert link.produce(1, *[7] * 30) == 9
    assert link.seller.position.cumulative == 2 * 8


# --- what a seller does wrong -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chunk", "error"),
    [
        pytest.param(chunk_of(units=3), Overcharged, id="more units than token ids"),
        pytest.param(chunk_of(units=1), Overcharged, id="fewer units than token ids"),
        pytest.param(chunk_of(kind=TEXT, tokens=b"", ids=0), Overcharged, id="text under a price per token"),
        pytest.param(chunk_of(tokens=b"", ids=0), Malformed, id="tokens without ids"),
        pytest.param(chunk_of(kind=BYTES), Malformed, id="ids beside bytes"),
        pytest.param(chunk_of(kind=9), Malformed, id="an unknown kind"),
        pytest.param(chunk_of(tokens=b"12345"), Malformed, id="a token id cut off"),
        pytest.param(chunk_of(data=b"x" * 5000), Malformed, id="too much text for two tokens"),
        pytest.param(chunk_of(start=1), RemoteError, id="units skipped"),
        pytest.param(chunk_of(units=6, ids=6), Overcharged, id="more than a step ahead of the reader"),
        pytest.param(chunk_of(job=9), RemoteError, id="a job that was not awarded"),
        pytest.param(chunk_of(n=2000), None, id="far ahead, and alone"),
    ],
)
def test_a_wrong_chunk_is_refused_and_not_counted(chunk: Chunk, error: type[Error] | None) -> None:
    buyer = BuyerMeter(LOCK, 10**6)
    buyer.open_job(terms(step=4), 0)
    if error is None:
        assert buyer.receive(chunk, 0) == []
    else:
        with pytest.raises(error):
            buyer.receive(chunk, 0)
    assert buyer.position == Position.start(LOCK)
    assert buyer.due(now=True) is None


def test_wrong_logprobs_are_refused() -> None:
    buyer = BuyerMeter(LOCK, 10**6)
    buyer.open_job(terms(), 0)
    with pytest.raises(Malformed):
        buyer.receive(msgspec.structs.replace(chunk_of(), logprobs=b"\0\0"), 0)


@pytest.mark.parametrize(
    "agreed",
    [
        pytest.param(terms(units_max=1), id="above the agreed units"),
        pytest.param(terms(budget=3), id="above the budget"),
        pytest.param(terms(price="1/token + 2/call", budget=3), id="above the budget by the call's fee"),
    ],
)
def test_a_chunk_beyond_what_was_agreed_is_an_overcharge(agreed: delivery.Terms) -> None:
    buyer = BuyerMeter(LOCK, 10**6)
    buyer.open_job(agreed, 0)
    with pytest.raises(Overcharged):
        buyer.receive(chunk_of(), 0)


def test_a_chunk_above_the_deposit_is_an_overcharge() -> None:
    buyer = BuyerMeter(LOCK, 3)
    buyer.open_job(terms(), 0)
    with pytest.raises(Overcharged):
        buyer.receive(chunk_of(), 0)


def test_a_flat_fee_above_the_budget_is_an_overcharge() -> None:
    buyer = BuyerMeter(LOCK, 10**6)
    buyer.open_job(terms(price="50/call", budget=49), 0)
    with pytest.raises(Overcharged):
        buyer.receive(chunk_of(units=1, ids=0, kind=TEXT, tokens=b""), 0)


def test_two_chunks_of_one_number_are_refused() -> None:
    buyer = BuyerMeter(LOCK, 10**6)
    buyer.open_job(terms(), 0)
    buyer.receive(chunk_of(n=2), 0)
    with pytest.raises(RemoteError):
        buyer.receive(chunk_of(n=2, data=b"zz"), 0)


def test_a_seller_that_never_sends_the_missing_chunk_fills_a_bounded_buffer() -> None:
    buyer = BuyerMeter(LOCK, 10**6)
    buyer.open_job(terms(), 0)
    for n in range(2, 2 + buyer_meter.WAITING_MAX):
        buyer.receive(chunk_of(n=n), 0)
    with pytest.raises(RemoteError):
        buyer.receive(chunk_of(n=5000), 0)
    assert len(buyer._waiting) == buyer_meter.WAITING_MAX


def test_a_chunk_after_the_loop_is_refused() -> None:
    link = Link(terms(step=32, window=64))
    link.produce(1, *GRAM, *GRAM)
    link.arrive(1)
    with pytest.raises(RemoteError):
        link.buyer.receive(chunk_of(n=2, start=16), 0)


def finished_link() -> tuple[Link, Any]:
    link = Link(terms())
    link.produce(1, 1, 2)
    link.arrive(1)
    return link, link.seller.finish(job_id(1), DONE)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        pytest.param({"amount": 5}, Overcharged, id="a higher amount"),
        pytest.param({"units": 3}, Overcharged, id="more units"),
        pytest.param({"amount": 3}, RemoteError, id="a lower amount"),
        pytest.param({"context": bytes(32)}, RemoteError, id="other chunks"),
        pytest.param({"finish": b"loop"}, RemoteError, id="a loop that is none"),
        pytest.param({"finish": b"whatever"}, RemoteError, id="an unknown word"),
        pytest.param({"job": job_id(9)}, RemoteError, id="another job"),
    ],
)
def test_a_wrong_last_word_is_refused(change: dict[str, Any], error: type[Error]) -> None:
    link, last = finished_link()
    with pytest.raises(error):
        link.buyer.finished(msgspec.structs.replace(last, **change))
    assert link.buyer.tab(job_id(1)).finish is None


# --- what a buyer does wrong --------------------------------------------------------------------


def test_a4_a_replayed_receipt_is_refused() -> None:
    link = paid_once()
    old = link.seller.paid
    link.produce(1, 5, 6, 7, 8)
    link.settle()
    paid = link.seller.paid
    with pytest.raises(RemoteError):
        link.seller.accept(old.cumulative, old.units, old.context)
    assert link.seller.paid == paid


def test_a4_the_same_receipt_again_changes_nothing() -> None:
    link = paid_once()
    paid = link.seller.paid
    assert not link.seller.accept(paid.cumulative, paid.units, paid.context)
    assert link.seller.paid == paid


@pytest.mark.parametrize(
    ("cumulative", "units", "context", "error"),
    [
        pytest.param(7, 4, None, Unpaid, id="less than it costs"),
        pytest.param(8, 5, None, RemoteError, id="other units"),
        pytest.param(8, 4, bytes(32), RemoteError, id="chunks that were never sent"),
    ],
)
def test_a4_a_wrong_receipt_pays_nothing(
    cumulative: int, units: int, context: bytes | None, error: type[Error]
) -> None:
    link = Link(terms(step=4))
    link.produce(1, 1, 2, 3, 4)
    with pytest.raises(error):
        link.seller.accept(cumulative, units, context or link.seller.position.context)
    assert link.seller.unpaid == 4
    assert link.seller.paid == Position.start(LOCK)


def test_a_reader_cannot_be_further_than_what_was_delivered() -> None:
    link = Link(terms())
    with pytest.raises(RemoteError):
        link.seller.taken(job_id(1), 1)


def test_a_job_that_was_never_awarded_is_refused() -> None:
    with pytest.raises(Refused):
        Link().seller.allowance(job_id(1))


# --- what we do wrong ourselves -----------------------------------------------------------------


def test_our_own_mistakes_are_told() -> None:
    link = Link(terms(step=4), terms(2, "1/item", step=4))
    with pytest.raises(InvalidInput):
        link.seller.open_job(terms())
    with pytest.raises(InvalidInput):
        link.buyer.open_job(terms(), 0)
    with pytest.raises(InvalidInput):
        link.seller.deliver(job_id(1), text())  # only tokens under a price per token
    with pytest.raises(InvalidInput):
        link.seller.deliver_tokens(job_id(2), words(1))
    link.produce(1, 1, 2, 3, 4)
    with pytest.raises(InvalidInput):
        link.seller.deliver_tokens(job_id(1), words(5))  # nothing is allowed
    with pytest.raises(InvalidInput):
        link.buyer.signed_for(link.seller.position)  # `due` never said so


def test_a_finished_job_is_forgotten_and_its_amount_stays_due() -> None:
    link, last = finished_link()
    link.buyer.finished(last)
    link.settle()
    link.seller.forget(job_id(1))
    link.buyer.forget(job_id(1))
    assert link.seller.position.cumulative == link.buyer.position.cumulative == 4
    link.open(terms(2))
    link.produce(2, 1)
    link.streams.pop(job_id(1))
    link.settle()
    assert link.seller.paid.cumulative == 6


def test_a_token_without_a_logprob_travels_without() -> None:
    link = Link(terms())
    chunk, _ = link.seller.deliver_tokens(job_id(1), [Word(1), Word(2, logprob=None)])
    assert chunk.logprobs == b""


def test_json_under_a_price_per_item_is_one_unit() -> None:
    link = Link(terms(price="9/item", step=4))
    assert link.buyer.receive(link.seller.deliver(job_id(1), Content(JSON, b"[1]")), 0)
    assert link.buyer.position.cumulative == 9


# --- any order of events ------------------------------------------------------------------------

STEP, WINDOW = 4, 8
JOBS = st.sampled_from([1, 2])
PRICES = {1: "2/token + 5/call", 2: "3/token"}


class Market(RuleBasedStateMachine):
    """One Lock, two jobs, a connection that is cut and healed.

    The auditor keeps its own count of what came to the buyer in order; the meters are never asked for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.link = Link(*(terms(n, PRICES[n], step=STEP, window=WINDOW, units_max=60) for n in (1, 2)))
        self.link.seller.deposit = 10**6
        self.received = {1: 0, 2: 0}
        self.read = {1: 0, 2: 0}
        self.signed = [0]
        self.accepted = [0]
        self.clean = True  # nobody has cheated
        self.dropped = False  # the buyer has dropped a cheat

    def value(self, units: dict[int, int]) -> int:
        return sum(terms(n, PRICES[n]).price.after(units[n]) for n in units if units[n])

    # --- honest steps
    @rule(n=JOBS, ids=st.lists(st.integers(0, 2), min_size=1, max_size=6))
    def produce(self, n: int, ids: list[int]) -> None:
        count = self.link.produce(n, *ids)
        assert count == 0 or self.link.connected  # nobody works for a peer that has gone

    @rule(n=JOBS, count=st.integers(1, 6), base=st.integers(10, 10**6))
    def produce_fresh(self, n: int, count: int, base: int) -> None:
        self.produce(n, list(range(base, base + count)))

    @precondition(lambda self: not self.dropped)
    @rule(n=JOBS)
    def arrive(self, n: int) -> None:
        try:
            for chunk in self.link.arrive(n):
                self.received[chunk.job[0]] += len(chunk.tokens) // 4
        except RemoteError:
            assert not self.clean
            self.dropped = True

    @rule(n=JOBS)
    def take(self, n: int) -> None:
        if self.link.unread[job_id(n)]:
            self.read[n] += len(self.link.unread[job_id(n)][0].tokens) // 4
            self.link.read(n)

    @rule(now=st.booleans())
    def tell(self, now: bool) -> None:
        position = self.link.tell(now=now)
        if position is not None:
            self.signed.append(position.cumulative)

    @precondition(lambda self: self.link.notices)
    @rule()
    def hear(self) -> None:
        try:
            self.link.hear_notice()
        except RemoteError:
            assert not self.clean
        self.accepted.append(self.link.seller.paid.cumulative)

    @rule()
    def cut(self) -> None:
        self.link.cut()

    @precondition(lambda self: not self.link.connected)
    @rule()
    def heal(self) -> None:
        try:
            self.link.heal()
        except RemoteError:
            assert not self.clean

    # --- what holds always
    @invariant()
    def v4_the_seller_never_has_more_than_a_window_unpaid(self) -> None:
        sent = self.link.seller.position
        paid = self.link.seller.paid
        rates = [terms(n, PRICES[n]).price for n in (1, 2)]
        most = WINDOW * max(price.rate for price in rates) + sum(price.fixed() for price in rates)
        assert sent.cumulative - paid.cumulative <= most
        assert self.link.seller.unpaid <= WINDOW

    @invariant()
    def v4_the_buyer_never_signs_for_what_it_did_not_get(self) -> None:
        assert self.link.buyer.signed.cumulative <= self.value(self.received)

    @invariant()
    def v4_the_buyer_never_pays_for_more_than_a_step_beyond_what_was_read(self) -> None:
        ahead = {n: self.read[n] + STEP for n in (1, 2)}
        assert self.link.buyer.signed.cumulative <= self.value(ahead)

    @invariant()
    def v4_receipts_never_go_down(self) -> None:
        assert self.signed == sorted(self.signed)
        assert self.accepted == sorted(self.accepted)

    @invariant()
    def buffers_are_bounded(self) -> None:
        for sold in self.link.seller._jobs.values():
            assert len(sold.kept) <= WINDOW + STEP
        assert len(self.link.buyer._waiting) <= buyer_meter.WAITING_MAX

    def teardown(self) -> None:
        """After the faults stop, two honest sides come to rest with everything paid."""
        if not self.clean:
            return
        if not self.link.connected:
            self.link.heal()
        self.link.settle()
        assert self.link.buyer.position == self.link.seller.position
        assert self.link.seller.paid == self.link.buyer.signed
        assert self.link.seller.paid.cumulative >= self.link.seller.position.cumulative
        assert self.link.seller.unpaid == 0
        for n in (1, 2):
            if self.link.seller.tab(job_id(n)).left:
                assert self.link.seller.allowance(job_id(n)) > 0


class CrookedSeller(Market):
    """The same, where the seller sends what it likes."""

    @precondition(lambda self: self.link.connected and not self.dropped)
    @rule(
        n=JOBS, ids=st.integers(1, 5), extra=st.sampled_from([3, 1, 0, -1]), skip=st.sampled_from([0, 0, 1])
    )
    def the_seller_sends_what_it_likes(self, n: int, ids: int, extra: int, skip: int) -> None:
        self.clean = False
        number = self.link.buyer.position.n + 1 + skip
        start = self.link.buyer.tab(job_id(n)).units
        forged = chunk_of(n=number, start=start, units=ids + extra, ids=ids, job=n)
        self.link.streams[job_id(n)].appendleft(forged)
        self.arrive(n)
        self.tell(now=True)


class CrookedBuyer(Market):
    """The same, where the buyer stops paying, or pays what it likes."""

    @rule()
    def the_buyer_reads_on_without_paying(self) -> None:
        self.clean = False
        self.link.tell(pay=False)

    @precondition(lambda self: self.link.seller.position.n > 0)
    @rule(less=st.integers(-5, 20), units=st.integers(-1, 1), stale=st.booleans())
    def the_buyer_pays_what_it_likes(self, less: int, units: int, stale: bool) -> None:
        at = self.link.seller.paid if stale else self.link.seller.position
        if less <= 0 and units == 0 and not stale:
            return  # that would be a gift
        self.clean = False
        before = self.link.seller.paid
        with contextlib.suppress(RemoteError):
            self.link.seller.accept(at.cumulative - less, at.units + units, at.context)
        assert self.link.seller.paid == before or (
            # after a loop what is owed lies below what is paid: a true receipt may come that is "less"
            self.link.seller.paid.cumulative >= max(before.cumulative, at.cumulative)
        )


def run_market(examples: int, market: type[Market]) -> None:
    run_state_machine_as_test(
        market,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
            derandomize=True,
            phases=[Phase.generate],  # a mutant needs no smallest example
        ),
    )


@pytest.mark.parametrize("market", [Market, CrookedSeller, CrookedBuyer])
def test_v4_holds_in_any_order_of_events(market: type[Market]) -> None:
    run_market(200, market)


def _ignores_window(self: SellerMeter, job: bytes) -> int:
    sold = self._jobs[job]
    return 0 if sold.paused else max(0, min(sold.taken + STEP - sold.tab.weight, sold.tab.left))


def _ignores_reader(self: SellerMeter, job: bytes) -> int:
    sold = self._jobs[job]
    return 0 if sold.paused else max(0, min(self.window - self.unpaid, sold.tab.left))


def _accepts_anything(self: SellerMeter, cumulative: int, units: int, context: bytes) -> bool:
    self.paid = Position(self._chain.n, cumulative, units, context)
    self._settle()
    return True


def _believes_units(chunk: Chunk, unit: str) -> int:
    return chunk.units


def _keeps_nothing(self: SellerMeter, sold: Any) -> None:
    while sold.kept:
        sold.dropped_n = sold.kept.popleft().chunk.n


def _settles_from_the_front_only(self: SellerMeter) -> None:
    while self._positions and self._positions[0][0].n < self.paid.n:  # off by one
        self._paid_weight = self._positions.popleft()[1]


MUTANTS: list[tuple[str, Any, str, Callable[..., Any]]] = [
    ("the seller ignores the window", SellerMeter, "allowance", _ignores_window),
    ("the seller runs ahead of the reader", SellerMeter, "allowance", _ignores_reader),
    ("the seller accepts any receipt", SellerMeter, "accept", _accepts_anything),
    ("the seller keeps nothing for a resume", SellerMeter, "_drop_kept", _keeps_nothing),
    ("the seller forgets how far a receipt pays", SellerMeter, "_settle", _settles_from_the_front_only),
    ("the seller works for a peer that has gone", SellerMeter, "pause", lambda self, job=None: None),
    ("the buyer believes the seller's count", buyer_meter, "count_units", _believes_units),
    ("the buyer checks nothing", BuyerMeter, "_check", lambda self, chunk, now_ms: None),
    ("the buyer signs without any reason to go up", BuyerMeter, "due", lambda self, now=False: self.position),
]


@pytest.mark.parametrize(("target", "name", "fault"), [m[1:] for m in MUTANTS], ids=[m[0] for m in MUTANTS])
def test_v4_mutant_is_caught(
    monkeypatch: pytest.MonkeyPatch, target: Any, name: str, fault: Callable[..., Any]
) -> None:
    monkeypatch.setattr(target, name, fault)

    def run_all() -> None:
        for market in (Market, CrookedSeller, CrookedBuyer):
            run_market(200, market)

    with pytest.raises((AssertionError, Error, ExceptionGroup)):
        run_all()
