"""What somebody hostile can do to the contested slots of one validator; the test plays the other three."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ainp2p.ledger.rules.genesis import DEVELOPMENT
from ainp2p.ledger.rules.operations import SignedOperation, operation_id, parse
from ainp2p.ledger.voting import replies
from ainp2p.ledger.voting.attachments import attachment_id
from ainp2p.ledger.voting.attested import attest
from ainp2p.ledger.voting.confirming import candidate_of
from ainp2p.ledger.voting.exhibits import Exhibits
from ainp2p.ledger.voting.justification import Justification, Proof
from ainp2p.ledger.voting.picking import Conflict, leader
from ainp2p.ledger.voting.slot import SOUGHT_MAX, VoteTable
from ainp2p.ledger.voting.votelog import (
    Lock,
    NewView,
    lock_entry,
    newview_entry,
    open_batch,
    propose_entry,
    read_entries,
)
from ainp2p.ledger.voting.waiting import Limits
from ainp2p.protocol.codec import encode
from tests.ledger.bench import SOON, Bench

T = DEVELOPMENT.vote_timeout_ms
HOUR = 3_600_000
NAMES = ("alice", "bob", "carol", "dave", "eve")


def entries(bench: Bench, kind: type) -> list[Any]:
    """What the validator has said of this kind."""
    said = [entry for batch in bench.out.batches for entry in read_entries(batch.entries)]
    return [entry for entry in said if isinstance(entry, kind)]


def say(bench: Bench, member: int, *records: bytes) -> bytes:
    """A member's batch reaches the validator; returns it."""
    raw = bench.batch(member, *records)
    bench.note(bench.validator.handle_batch(raw, bench.now))
    return raw


def of_another(bench: Bench, view: int = 1) -> tuple[str, int]:
    """Somebody whose first slot is led by another member in this view, and that member."""
    for name in bench.ids:
        leading = leader(bench.committee, 0, bench.ids[name], 1, view)
        if leading:
            return name, leading
    raise AssertionError("the validator leads all of them")


def justified(bench: Bench, name: str, *named: SignedOperation) -> bytes:
    """The three others go to view 1 of this account's first slot, each with one of these; all is heard."""
    newviews = []
    for member, signed in zip((1, 2, 3), (*named, named[-1], named[-1]), strict=False):
        record = newview_entry(1, bench.ids[name], 1, None, operation_id(signed.raw))
        batch = open_batch(say(bench, member, record), bench.network, 0, bench.committee)
        newviews.append(attest(batch, 0))
    proofs = {operation_id(each.raw): Proof(operation_id(each.raw), each.signatures, None) for each in named}
    candidates = tuple(proofs[id_] for id_ in sorted(proofs))
    return encode(Justification(0, bench.ids[name], 1, 1, tuple(newviews), None, candidates))


def propose(bench: Bench, member: int, name: str, value: bytes, raw: bytes, view: int = 1) -> None:
    say(bench, member, propose_entry(view, value, attachment_id(raw), bench.ids[name], 1))


# --- justifications ---------------------------------------------------------------------------------------


def test_v2_a_justification_that_somebody_misuses_for_another_slot_stays_good_in_its_own() -> None:
    bench = Bench(NAMES)
    name, leading = of_another(bench)
    signed = bench.spend(name, [("bob" if name != "bob" else "carol", 5)])
    bench.give(signed)
    bench.wait()
    raw = justified(bench, name, signed)
    bench.note(bench.validator.handle_attachment(raw, bench.now))
    misuser = next(each for each in (1, 2, 3) if each != leading)
    other, view = next(
        (each, view)
        for each in NAMES
        for view in range(1, 5)
        if each != name and leader(bench.committee, 0, bench.ids[each], 1, view) == misuser
    )
    propose(bench, misuser, other, operation_id(signed.raw), raw, view)
    propose(bench, leading, name, operation_id(signed.raw), raw)
    bench.wait()
    assert [(lock.view, lock.operation) for lock in entries(bench, Lock)][-1] == (1, operation_id(signed.raw))


def test_v2_a_proposal_is_followed_as_soon_as_its_operation_comes_even_if_it_is_early_by_our_clock() -> None:
    bench = Bench(NAMES)
    name, leading = of_another(bench)
    signed = bench.spend(name, [("bob" if name != "bob" else "carol", 5)], at=bench.now + 90_000)
    raw = justified(bench, name, signed)
    bench.note(bench.validator.handle_attachment(raw, bench.now))
    propose(bench, leading, name, operation_id(signed.raw), raw)
    bench.wait()
    assert entries(bench, Lock) == []
    bench.give(signed)
    bench.wait()
    assert [lock.view for lock in entries(bench, Lock)] == [1]


def test_v10_what_we_have_locked_is_not_let_go_for_others_that_wait() -> None:
    bench = Bench(NAMES, limits=Limits(waiting_max=3))
    name, leading = of_another(bench)
    signed = bench.spend(name, [("bob" if name != "bob" else "carol", 5)], at=bench.now + 90_000)
    bench.give(signed)
    raw = justified(bench, name, signed)
    bench.note(bench.validator.handle_attachment(raw, bench.now))
    propose(bench, leading, name, operation_id(signed.raw), raw)
    bench.wait()
    assert [lock.view for lock in entries(bench, Lock)] == [1]
    for number in range(8):
        away = bench.account(name)
        away = msgspec.structs.replace(away, seq=number + 5, head=bytes([number]) * 32, balance=1_000)
        bench.refusal(bench.spend(name, [(name, 5)], account=away, credits={}), str(number))
    assert bench.validator.operation(operation_id(signed.raw)) is not None
    for _ in range(2):
        archive = bench.validator._archive
        archive.segment += 1_000
        archive._floors(bench.validator._table, bench.validator._decider.receipts, bench.validator._chains)
        bench.restart()
        bench.wait(100)
    assert len(entries(bench, Lock)) == 1


# --- what was COMMITted on --------------------------------------------------------------------------------


def commit_on_a_shown_certificate() -> tuple[Bench, bytes]:
    """A validator that COMMITs by a certificate, whose LOCKs are in no log that it has, and restarts."""
    there, here = Bench(), Bench()
    signed = there.spend("alice", [("bob", 5)])
    there.give(signed)
    there.wait()
    there.vote(lock_entry, signed, 1, 2)
    there.wait(T + 2 * SOON)
    here.note(here.validator.handle_attachment(there.out.attachments[0], here.now))
    here.give(signed)
    here.wait()
    assert here.committed(signed)
    here.restart()
    here.wait(HOUR)
    return here, operation_id(signed.raw)


def test_v9_after_a_restart_a_newview_reports_the_certificate_that_an_own_commit_rests_on() -> None:
    bench, id_ = commit_on_a_shown_certificate()
    assert entries(bench, NewView) == [NewView(1, bench.ids["alice"], 1, 0, id_, None)]


def test_mutant_without_the_certificate_a_member_is_silent_rather_than_below_its_commit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Exhibits, "keep_shown", lambda *_: None)
    bench, _ = commit_on_a_shown_certificate()
    assert entries(bench, NewView) == []


# --- bounds -----------------------------------------------------------------------------------------------


def floor_of_a_babbler() -> int:
    """From where on a restart reads the log of a member that votes for, and speaks of, what nobody has."""
    bench = Bench()
    say(bench, 1, lock_entry(0, b"j" * 32), newview_entry(1, b"o" * 32, 1, None, b"k" * 32))
    bench.wait(SOUGHT_MAX * 11_000)
    for _ in range(3):
        say(bench, 1)
    return bench.validator._table.lowest_heights().get(1, 4)


def test_v10_names_that_nobody_can_fill_do_not_make_every_restart_longer() -> None:
    assert floor_of_a_babbler() == 4


def test_mutant_where_a_babblers_names_pin_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VoteTable, "_is_sought_in_vain", lambda *_: False)
    assert floor_of_a_babbler() == 1


def test_v10_two_members_of_four_are_more_than_a_third_and_are_read_again() -> None:
    bench = Bench()
    for member in (1, 2):
        say(bench, member, lock_entry(0, b"j" * 32))
    bench.wait(SOUGHT_MAX * 11_000)
    assert bench.validator._table.lowest_heights() == {1: 1, 2: 1}


def test_v10_a_member_that_asks_for_all_that_is_decided_keeps_nobody_waiting() -> None:
    bench = Bench()
    for amount in range(1, 7):
        bench.decide(bench.spend("alice", [("bob", amount)]))
        bench.wait(SOON)
    asked = [newview_entry(1, bench.ids["alice"], seq, None, b"c" * 32) for seq in range(1, 7)]
    say(bench, 1, *asked)
    say(bench, 2, asked[0])
    before = len(bench.out.attachments)
    bench.wait(replies.EVERY_MS)
    assert len(bench.out.attachments) - before == 2  # one for each, and not six
    bench.wait(10 * replies.EVERY_MS)
    assert len(bench.out.attachments) - before == 7
    assert bench.validator._contention.due is None


# --- VOID -------------------------------------------------------------------------------------------------


def test_a_void_costs_what_the_genesis_says_whatever_the_epochs_parameters_are() -> None:
    bench = Bench()
    first, second = (parse(bench.spend("alice", [("bob", amount)])) for amount in (5, 6))
    desk = bench.validator._desk
    desk.parameters = msgspec.structs.replace(DEVELOPMENT, void_debt=7)
    void = candidate_of(desk, Conflict(first, second)).parsed
    assert void is not None
    (account,) = bench.validator.state.apply(void).accounts
    assert account.debt == DEVELOPMENT.void_debt
