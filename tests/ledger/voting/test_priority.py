"""Receipts' priority and the gates of REFUND and CLOSE: LEDGER.md, deciding a slot, step 1."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from ainp2p.ledger.rules.genesis import DEVELOPMENT
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.operations import Close, Settle, SignedOperation, operation_id, parse
from ainp2p.ledger.rules.receipts import Payer, close_operation, settle_operation
from ainp2p.ledger.voting.contact import GAP_MS
from ainp2p.ledger.voting.desk import Desk
from ainp2p.ledger.voting.priority import HeldReceipts
from ainp2p.ledger.voting.validator import FINAL, SEEN
from ainp2p.ledger.voting.votelog import LOCK, commit_entry, lock_entry
from tests.ledger.bench import SOON, Bench
from tests.ledger.world import key_of

D, G = DEVELOPMENT.gate_hold_ms, DEVELOPMENT.gate_contact_ms
LIFE = 60_000


def opened() -> tuple[Bench, Lock]:
    bench = Bench()
    return bench, bench.open_lock()


def in_contact(bench: Bench, ms: int, every: int = 500) -> None:
    """Time passes, and the others are heard of."""
    end = bench.now + ms
    while bench.now < end:
        for member in (1, 2, 3):
            bench.note(bench.validator.handle_batch(bench.batch(member), bench.now))
        bench.wait(min(every, end - bench.now))


def expired() -> tuple[Bench, Lock]:
    """A Lock that has just expired; contact has lasted all the time."""
    bench, lock = opened()
    in_contact(bench, lock.expiry - bench.now)
    return bench, lock


def locked_receipts(bench: Bench) -> list[tuple[type, int]]:
    """What was LOCKed with a receipt: kind and cumulative amount, in order."""
    ids = [id_ for kind, _, id_ in bench.votes if kind == LOCK]
    known = [bench.validator.operation(id_) for id_ in ids]
    bodies = [parse(signed).operation.body for signed in known if signed is not None]
    return [(type(body), body.cumulative) for body in bodies if isinstance(body, Settle | Close)]


# --- the gates ------------------------------------------------------------------------------------


def test_a_refund_waits_for_expiry_and_then_for_d() -> None:
    bench, lock = opened()
    refund = bench.refund(lock)
    bench.give(refund)
    in_contact(bench, lock.expiry - bench.now + D - 1)
    assert not bench.locked(refund)
    in_contact(bench, SOON + 1)
    assert bench.locked(refund)


def test_d_counts_from_when_it_is_held() -> None:
    bench, lock = expired()
    in_contact(bench, 10 * D)
    refund = bench.refund(lock)
    bench.give(refund)
    in_contact(bench, D - 1)
    assert not bench.locked(refund)
    in_contact(bench, SOON + 1)
    assert bench.locked(refund)


def test_g_an_outage_uses_up_nobodys_expiry() -> None:
    bench, lock = opened()
    refund = bench.refund(lock)
    bench.give(refund)
    bench.wait(LIFE + GAP_MS)  # nobody is heard of
    in_contact(bench, G - 1)
    assert not bench.locked(refund)
    in_contact(bench, SOON + 2)
    assert bench.locked(refund)


def test_g_one_other_member_is_no_quorum() -> None:
    bench, lock = opened()
    refund = bench.refund(lock)
    bench.give(refund)
    for _ in range(400):
        bench.note(bench.validator.handle_batch(bench.batch(1), bench.now))
        bench.wait(500)
    assert not bench.locked(refund)


def test_a_close_without_the_closers_signature_is_gated() -> None:
    bench, lock = opened()
    close = bench.close(lock, 100, closer=None)
    bench.give(close)
    in_contact(bench, lock.expiry - bench.now + D - 1)
    assert not bench.locked(close)
    in_contact(bench, SOON + 1)
    assert bench.locked(close)


def test_a_close_by_its_closer_is_not_gated() -> None:
    bench, lock = opened()
    close = bench.close(lock, 100)
    bench.decide(close)
    assert bench.validator.status(operation_id(close.raw)) == FINAL


def test_whoever_strips_the_closers_signature_delays_nobody() -> None:
    bench, lock = opened()
    close = bench.close(lock, 100)
    stripped = msgspec.structs.replace(close, closer=None)
    assert operation_id(stripped.raw) == operation_id(close.raw)
    bench.give(stripped)
    bench.wait()
    assert bench.validator.status(operation_id(close.raw)) == SEEN
    forged = msgspec.structs.replace(close, closer=bytes(64))
    assert bench.refusal(forged) == "BadSignature"
    bench.give(close)
    bench.wait()
    assert bench.locked(close)


def test_a_gated_operation_that_a_quorum_prepared_is_committed_at_once() -> None:
    bench, lock = opened()
    refund = bench.refund(lock)
    bench.give(refund)
    bench.vote(lock_entry, refund)
    bench.wait()
    assert not bench.locked(refund)
    assert bench.committed(refund)
    bench.vote(commit_entry, refund)
    assert bench.lock(lock).ended


def gate_is_kept() -> bool:
    bench, lock = expired()
    refund = bench.refund(lock)
    bench.give(refund)
    bench.wait()
    return not bench.locked(refund)


def test_mutant_that_ignores_the_gate_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gate_is_kept()
    monkeypatch.setattr(Desk, "gate_opens", lambda self, candidate, now: now)
    assert not gate_is_kept()


# --- priority ---------------------------------------------------------------------------------------


def test_nothing_below_a_held_receipt_is_locked_and_its_settle_is_offered() -> None:
    bench, lock = opened()
    # The receipt for 300 comes in a SETTLE for a slot that is far ahead.
    bench.give(bench.settle(lock, 300, seq=4, head=b"h" * 32))
    low = bench.settle(lock, 100)
    bench.give(low)
    bench.wait()
    assert not bench.locked(low)
    offered = bench.settle(lock, 300)
    assert bench.locked(offered)
    assert [push.parsed.id for push in bench.out.operations if not push.source][-1] == operation_id(
        offered.raw
    )
    bench.vote(lock_entry, offered)
    bench.vote(commit_entry, offered)
    assert bench.lock(lock).paid == 300


def test_an_equal_or_higher_operation_is_locked_beside_a_held_receipt() -> None:
    bench, lock = opened()
    bench.give(bench.settle(lock, 300, seq=4, head=b"h" * 32))
    close = bench.close(lock, 300)
    bench.give(close)
    bench.wait()
    assert bench.locked(close)


def test_a_refund_is_not_locked_beside_a_receipt_that_pays_more() -> None:
    bench, lock = expired()
    bench.give(bench.settle(lock, 300, seq=4, head=b"h" * 32))
    refund = bench.refund(lock)
    bench.give(refund)
    in_contact(bench, 10 * D)
    assert not bench.locked(refund)
    assert bench.locked(bench.settle(lock, 300))


def test_a_receipt_below_the_step_holds_back_gated_operations_only_and_closes_after_expiry() -> None:
    bench, lock = opened()
    bench.give(bench.settle(lock, 5, seq=4, head=b"h" * 32))  # the step is 10
    in_contact(bench, lock.expiry - bench.now)
    refund = bench.refund(lock)
    bench.give(refund)
    in_contact(bench, 10 * D)
    assert not bench.locked(refund)
    assert locked_receipts(bench) == [(Close, 5)]


def test_a_bare_close_by_the_closer_may_end_it_below_a_receipt_that_is_less_than_a_step() -> None:
    bench, lock = opened()
    bench.give(bench.settle(lock, 5, seq=4, head=b"h" * 32))
    bare = close_operation(bench.network, bench.lock(lock), None, key_of("bob"))
    bench.give(bare)
    bench.wait()
    assert bench.locked(bare)


def test_a_held_receipt_is_offered_on_each_new_head() -> None:
    bench, lock = opened()
    low = bench.settle(lock, 100)
    bench.give(low)
    bench.wait()
    bench.give(bench.settle(lock, 300, seq=4, head=b"h" * 32))  # after the LOCK
    bench.vote(lock_entry, low)
    bench.vote(commit_entry, low)
    bench.wait()
    assert bench.lock(lock).paid == 100
    assert bench.locked(bench.settle(lock, 300))


def test_a_receipt_that_is_paid_is_not_offered_again() -> None:
    bench, lock = opened()
    for cumulative in (100, 200):
        bench.decide(bench.settle(lock, cumulative))
    bench.wait(1_000)
    assert locked_receipts(bench) == [(Settle, 100), (Settle, 200)]
    assert bench.validator._decider.receipts.highest == {}


def test_the_owners_next_settle_is_not_opposed_by_an_offer() -> None:
    bench, lock = opened()
    first = bench.settle(lock, 100)
    after = msgspec.structs.replace(
        bench.lock(lock), seq=1, head=operation_id(first.raw), paid=100
    )  # the payee has seen the first one final, this validator has not
    second = bench.settle(lock, 200, seq=after.seq, head=after.head, paid=after.paid)
    bench.give(first)
    bench.wait()
    bench.give(second)
    bench.vote(lock_entry, first)
    bench.vote(commit_entry, first)
    bench.wait()
    assert bench.locked(second)
    assert len(locked_receipts(bench)) == 2


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda s: msgspec.structs.replace(s, signatures=(bytes(64),)), id="forged"),
        pytest.param(
            lambda s: msgspec.structs.replace(s, signatures=s.signatures * 2), id="a signature twice"
        ),
    ],
)
def test_a4_a_receipt_that_was_not_signed_holds_nothing_back(
    spoil: Callable[[SignedOperation], SignedOperation],
) -> None:
    bench, lock = opened()
    bench.give(spoil(bench.settle(lock, 300, seq=4, head=b"h" * 32)))
    low = bench.settle(lock, 100)
    bench.give(low)
    bench.wait()
    assert bench.locked(low)


def test_a4_a_receipt_above_the_deposit_holds_nothing_back() -> None:
    bench, lock = opened()
    generous = msgspec.structs.replace(lock, deposit=10**6)
    receipt = Payer(bench.network, generous, key_of("session")).sign(5_000, 1, b"c" * 32)
    high = settle_operation(msgspec.structs.replace(lock, seq=4, head=b"h" * 32), receipt)
    bench.give(high)
    low = bench.settle(lock, 100)
    bench.give(low)
    bench.wait()
    assert bench.locked(low)


def test_a_receipt_is_learned_from_an_operation_whose_slot_is_decided() -> None:
    bench, lock = opened()
    late = bench.settle(lock, 300)
    bench.decide(bench.settle(lock, 100))
    assert bench.refusal(late) == "sequence"
    in_contact(bench, lock.expiry - bench.now)
    refund = bench.refund(lock)
    bench.give(refund)
    in_contact(bench, 10 * D)
    assert not bench.locked(refund)
    assert bench.locked(bench.settle(lock, 300))


def test_a_held_receipt_survives_a_restart() -> None:
    bench, lock = opened()
    bench.give(bench.settle(lock, 300, seq=4, head=b"h" * 32))
    bench.wait(2_000)
    bench.restart()
    low = bench.settle(lock, 100)
    bench.give(low)
    bench.wait()
    assert not bench.locked(low)
    assert bench.locked(bench.settle(lock, 300))


def test_a_held_receipt_is_on_disk_before_any_later_vote() -> None:
    bench, lock = opened()
    bench.wait(5_000)
    bench.give(bench.settle(lock, 300, seq=4, head=b"h" * 32))
    bench.give(bench.spend("carol"))
    bench.wait(SOON)
    kept = [parse(signed).operation.body for each in bench.journal.segments.values() for signed in each]
    assert any(isinstance(body, Settle) and body.cumulative == 300 for body in kept)


def priority_is_kept() -> bool:
    bench, lock = opened()
    bench.give(bench.settle(lock, 300, seq=4, head=b"h" * 32))
    low = bench.settle(lock, 100)
    bench.give(low)
    bench.wait()
    return not bench.locked(low)


def test_mutant_that_ignores_held_receipts_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert priority_is_kept()
    monkeypatch.setattr(HeldReceipts, "allow", lambda *_: True)
    assert not priority_is_kept()


def test_mutant_that_forgets_lower_slots_receipts_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HeldReceipts, "learn", lambda *_, **__: None)
    assert not priority_is_kept()
