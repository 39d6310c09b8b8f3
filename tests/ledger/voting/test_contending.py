"""One validator in contested slots; the test plays the other three."""

from __future__ import annotations

import msgspec
import pytest

from ainp2p.ledger.rules.genesis import DEVELOPMENT
from ainp2p.ledger.rules.operations import SignedOperation, operation_id
from ainp2p.ledger.voting.attachments import CERTIFIED, attachment_tag
from ainp2p.ledger.voting.certificate import verify_certificate, verify_prepared
from ainp2p.ledger.voting.judging import ASK_AGAIN_MS
from ainp2p.ledger.voting.justification import read_certified
from ainp2p.ledger.voting.picking import leader
from ainp2p.ledger.voting.reporting import Reporting
from ainp2p.ledger.voting.slot import SlotId
from ainp2p.ledger.voting.votelog import (
    NewView,
    commit_entry,
    lock_entry,
    newview_entry,
    propose_entry,
    read_entries,
)
from tests.ledger.bench import SOON, Bench

T = DEVELOPMENT.vote_timeout_ms
HOUR = 3_600_000


def newviews(bench: Bench) -> list[NewView]:
    """What the validator has sent."""
    entries = [entry for batch in bench.out.batches for entry in read_entries(batch.entries)]
    return [entry for entry in entries if isinstance(entry, NewView)]


def hear(bench: Bench, member: int, view: int, candidate: bytes, object_: bytes | None = None) -> None:
    entry = newview_entry(view, object_ or bench.ids["alice"], 1, None, candidate)
    bench.note(bench.validator.handle_batch(bench.batch(member, entry), bench.now))


def given(bench: Bench) -> SignedOperation:
    signed = bench.spend("alice", [("bob", 5)])
    bench.give(signed)
    bench.wait()
    return signed


# --- NEWVIEW ----------------------------------------------------------------------------------------------


def test_a_locked_operation_without_a_certificate_leads_to_one_newview_and_no_further() -> None:
    bench = Bench()
    id_ = operation_id(given(bench).raw)
    bench.wait(T - 2 * SOON)
    assert newviews(bench) == []
    bench.wait(3 * SOON)
    assert newviews(bench) == [NewView(1, bench.ids["alice"], 1, None, None, id_)]
    bench.wait(HOUR)
    assert len(newviews(bench)) == 1


def test_the_timer_of_view_1_starts_with_the_newviews_of_a_quorum() -> None:
    bench = Bench()
    id_ = operation_id(given(bench).raw)
    bench.wait(HOUR)
    hear(bench, 1, 1, id_)
    bench.wait(HOUR)
    assert len(newviews(bench)) == 1
    hear(bench, 2, 1, id_)
    bench.wait(T - SOON)
    assert len(newviews(bench)) == 1
    bench.wait(3 * SOON)
    assert [each.view for each in newviews(bench)] == [1, 2]


def test_more_than_a_third_are_joined_at_once_and_fewer_are_not() -> None:
    bench = Bench()
    id_ = operation_id(given(bench).raw)
    hear(bench, 1, 7, id_)
    bench.wait(2 * SOON)
    assert newviews(bench) == []
    hear(bench, 2, 5, id_)
    bench.wait(2 * SOON)
    assert [each.view for each in newviews(bench)] == [5]


def test_without_a_candidate_nobody_sends_a_newview_and_with_it_at_once() -> None:
    bench = Bench()
    signed = bench.spend("alice", [("bob", 5)])
    hear(bench, 1, 1, operation_id(signed.raw))
    hear(bench, 2, 1, operation_id(signed.raw))
    bench.wait(HOUR)
    assert newviews(bench) == []
    assert operation_id(signed.raw) in {wanted.id for wanted in bench.out.wanted}
    bench.give(signed)
    bench.wait()
    assert [each.view for each in newviews(bench)] == [1]
    bench.vote(lock_entry, signed)
    bench.wait()
    assert not bench.committed(signed)


def test_what_is_prepared_is_reported_and_its_certificate_pushed_with_it() -> None:
    bench = Bench()
    signed = given(bench)
    bench.vote(lock_entry, signed, 1, 2)
    bench.wait(T + 2 * SOON)
    assert bench.committed(signed)
    id_ = operation_id(signed.raw)
    assert newviews(bench) == [NewView(1, bench.ids["alice"], 1, 0, id_, None)]
    (raw,) = bench.out.attachments
    assert attachment_tag(raw) == CERTIFIED
    shown = verify_prepared(read_certified(raw).certificate, bench.committee, 0, bench.network)
    assert shown == (0, id_)
    bench.restart()
    bench.wait(HOUR)
    assert len(newviews(bench)) == 1


def test_a_certificate_that_somebody_shows_prepares_and_decides() -> None:
    there, here = Bench(), Bench()
    signed = given(there)
    id_ = operation_id(signed.raw)
    there.vote(lock_entry, signed, 1, 2)
    there.wait(T + 2 * SOON)
    here.note(here.validator.handle_attachment(there.out.attachments[0], here.now))
    here.give(signed)
    here.wait()
    assert here.committed(signed)
    there.vote(commit_entry, signed)
    hear(there, 3, 1, id_)
    there.wait(100)
    answer = there.out.attachments[-1]
    assert verify_certificate(read_certified(answer).certificate, there.committee, 0, there.network) == id_
    here.note(here.validator.handle_attachment(answer, here.now))
    assert here.finals == [id_]
    assert here.validator.certificate(id_) == read_certified(answer).certificate


# --- proposals --------------------------------------------------------------------------------------------


def test_a_justification_that_is_not_here_is_asked_of_the_leader_then_of_everybody() -> None:
    bench = Bench()
    object_ = next(
        bench.ids[name] for name in bench.ids if leader(bench.committee, 0, bench.ids[name], 1, 1) != 0
    )
    leading = leader(bench.committee, 0, object_, 1, 1)
    entry = propose_entry(1, b"x" * 32, b"j" * 32, object_, 1)
    bench.note(bench.validator.handle_batch(bench.batch(leading, entry), bench.now))
    bench.wait(3 * ASK_AGAIN_MS)
    asked = [missing for missing in bench.out.missing if missing.id == b"j" * 32]
    assert asked[0].holders == (bench.keys[leading].public,)
    assert len(asked[1].holders) == 4


def test_a_proposal_of_somebody_who_does_not_lead_is_nothing() -> None:
    bench = Bench()
    object_ = bench.ids["alice"]
    stranger = next(m for m in (1, 2, 3) if m != leader(bench.committee, 0, object_, 1, 1))
    entry = propose_entry(1, b"x" * 32, b"j" * 32, object_, 1)
    bench.note(bench.validator.handle_batch(bench.batch(stranger, entry), bench.now))
    bench.wait(5 * T)
    assert bench.out.missing == []
    assert bench.validator._table.slots == {}


# --- candidates -------------------------------------------------------------------------------------------


def own_candidate_of_a_hurried_refund() -> object:
    """What a NEWVIEW would name while the gate of the only operation has not passed."""
    parameters = msgspec.structs.replace(DEVELOPMENT, gate_hold_ms=HOUR)
    bench = Bench(parameters=parameters)
    lock = bench.open_lock(expiry=bench.now + 5_000)
    bench.wait(6_000)
    bench.give(bench.refund(lock))
    slot_id = lock.id, 1
    return bench.validator._contention._reporting._own_candidate(
        slot_id, bench.validator._table.slots[slot_id], bench.now
    )


def test_a_gated_candidate_is_named_only_when_its_gate_has_passed_here() -> None:
    assert own_candidate_of_a_hurried_refund() is None


def test_mutant_gate_forgotten_in_a_newview(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ainp2p.ledger.voting.reporting.is_gated", lambda parsed: False)
    assert own_candidate_of_a_hurried_refund() is not None


def candidate_beside_a_receipt_whose_settle_a_member_names_and_withholds() -> tuple[bytes | None, bytes]:
    """What is named at last, and what must be: nothing below the receipt, which came in for another slot."""
    bench = Bench()
    lock = bench.open_lock()
    bench.give(bench.settle(lock, 300))
    bench.wait()
    highest = bench.settle(lock, 400)
    assert not bench.refusal(bench.settle(lock, 400, seq=1, head=b"h" * 32))
    bench.vote(lock_entry, highest, 1)  # and its bytes never come
    bench.wait(HOUR)
    sent = newviews(bench)
    return (sent[-1].candidate if sent else None), operation_id(highest.raw)


def test_l9_the_settle_of_a_held_receipt_is_named_though_who_locked_it_withholds_it() -> None:
    named, highest = candidate_beside_a_receipt_whose_settle_a_member_names_and_withholds()
    assert named == highest


def test_l9_mutant_that_waits_for_a_settle_that_it_could_make_says_nothing_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sound = Reporting._take_up_receipt

    def wait_for_others(self: Reporting, slot_id: SlotId, now: int) -> None:
        lock = self._desk.state.locks.get(slot_id[0])
        offered = self._desk.receipts.offer(lock, now) if lock is not None else None
        if offered is None or offered.id not in self._table.candidates:
            sound(self, slot_id, now)

    monkeypatch.setattr(Reporting, "_take_up_receipt", wait_for_others)
    assert candidate_beside_a_receipt_whose_settle_a_member_names_and_withholds()[0] is None


# --- bounds -----------------------------------------------------------------------------------------------


def test_v10_what_a_member_names_in_ever_higher_views_is_forgotten() -> None:
    bench = Bench()
    given(bench)
    for view in range(1, 400):
        hear(bench, 1, view, view.to_bytes(32, "big"))
    assert len(bench.validator._table.candidates) == 2
    assert bench.validator._table.owed[1] == 1


def test_v10_newviews_for_slots_of_nobody_are_owed_for() -> None:
    bench = Bench()
    for n in range(1, 50):
        hear(bench, 1, 1, b"c" * 32, n.to_bytes(32, "big"))
    assert bench.validator._table.owed[1] == 49
