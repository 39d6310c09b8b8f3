from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ainp2p.errors import BadSignature, InvalidOperation, Malformed, NotYet, StorageError
from ainp2p.ledger.rules.accounts import unopened_account
from ainp2p.ledger.rules.operations import SignedOperation, operation_id, parse, sign_operation
from ainp2p.ledger.voting.certificate import verify_certificate
from ainp2p.ledger.voting.effects import Gap
from ainp2p.ledger.voting.evidence import (
    MALFORMED_LOCK,
    TWO_BATCHES,
    TWO_LOCKS,
    TWO_OPERATIONS,
    Evidence,
    Offence,
    verify_evidence,
)
from ainp2p.ledger.voting.slot import Slot
from ainp2p.ledger.voting.validator import (
    FINAL,
    GAP_AGAIN_MS,
    LOCKED,
    SEEN,
    UNKNOWN,
    WANT_AFTER_MS,
    WRITE_AFTER_MS,
    Limits,
    Validator,
)
from ainp2p.ledger.voting.votelog import (
    COMMIT,
    EARLY_MAX,
    ENTRIES_MAX,
    GATHER_MS,
    LOCK,
    commit_entry,
    lock_entry,
)
from ainp2p.protocol.codec import encode
from tests.ledger.bench import SOON, Bench
from tests.ledger.committee_world import MemoryJournal, committee_genesis
from tests.ledger.world import NOW, inception_of, key_of

# --- the uncontended way --------------------------------------------------------------------------


def test_an_operation_is_locked_committed_and_final() -> None:
    bench = Bench()
    signed = bench.spend("alice", [("bob", 5)])
    id_ = operation_id(signed.raw)
    assert bench.validator.status(id_) == UNKNOWN
    effects = bench.give(signed)
    assert [push.parsed.id for push in effects.operations] == [id_]
    assert bench.validator.status(id_) == LOCKED
    assert bench.votes == []  # not before its batch is due
    bench.wait()
    assert bench.votes == [(LOCK, 0, id_)]
    bench.vote(lock_entry, signed, 1, 2)
    bench.wait()
    assert bench.votes == [(LOCK, 0, id_), (COMMIT, 0, id_)]
    assert bench.finals == []
    bench.vote(commit_entry, signed, 2, 3)
    assert bench.finals == [id_]
    assert bench.validator.status(id_) == FINAL
    assert bench.validator.state.accounts[bench.ids["alice"]].seq == 1


def test_its_certificate_convinces_everybody_before_and_after_it_is_on_disk() -> None:
    bench = Bench()
    signed = bench.spend("alice", [("bob", 5)])
    bench.give(signed)
    bench.vote(lock_entry, signed)
    bench.wait()
    bench.vote(commit_entry, signed)
    id_ = operation_id(signed.raw)
    for _ in range(2):
        certificate = bench.validator.certificate(id_)
        assert certificate is not None
        assert verify_certificate(certificate, bench.committee, 0, bench.network) == id_
        assert bench.validator.operation(id_) == signed
        bench.wait(2 * WRITE_AFTER_MS)
    assert id_ in bench.journal.finals
    assert bench.validator.certificate(bytes(32)) is None


def test_a_repeat_is_no_error_and_no_second_vote_at_any_stage() -> None:
    bench = Bench()
    signed = bench.spend("alice", [("bob", 5)])
    for _ in range(3):
        bench.give(signed)
    bench.wait()
    bench.give(signed)
    bench.decide(signed)
    bench.give(signed)
    bench.wait(2 * WRITE_AFTER_MS)
    bench.give(signed)
    assert len(bench.votes) == 2
    assert len(bench.finals) == 1


def test_the_next_operation_is_taken_when_the_one_before_it_is_final() -> None:
    bench = Bench()
    for i in range(3):
        bench.decide(bench.spend("alice", [("bob", i + 1)]))
    assert bench.validator.state.accounts[bench.ids["alice"]].seq == 3
    bench.decide(bench.spend("bob", [("alice", 1_000_005)]))
    assert len(bench.finals) == 4


def test_without_a_quorum_of_locks_nothing_is_committed() -> None:
    bench = Bench()
    signed = bench.spend("alice", [("bob", 5)])
    bench.give(signed)
    bench.vote(lock_entry, signed, 3)
    bench.wait(5_000)
    assert not bench.committed(signed)


def test_without_a_quorum_of_commits_nothing_is_final() -> None:
    bench = Bench()
    signed = bench.spend("alice", [("bob", 5)])
    bench.give(signed)
    bench.vote(lock_entry, signed)
    bench.vote(commit_entry, signed, 1)
    bench.wait(5_000)
    assert bench.committed(signed)
    assert bench.finals == []
    assert bench.validator.status(operation_id(signed.raw)) == LOCKED


def test_own_votes_count_only_when_they_are_on_disk() -> None:
    bench = Bench()
    signed = bench.spend("alice", [("bob", 5)])
    bench.give(signed)
    bench.vote(lock_entry, signed, 1)
    records = bench.validator.seal(bench.now + SOON)
    assert records is not None
    bench.vote(commit_entry, signed, 1)
    assert bench.validator.seal(bench.now + SOON) is None  # one write at a time
    assert bench.validator.status(operation_id(signed.raw)) == LOCKED
    bench.vote(lock_entry, signed, 1)
    bench.journal.write(records)
    assert bench.note(bench.validator.release(records, bench.now)).batches == records.own
    bench.vote(lock_entry, signed, 2)
    bench.wait(2 * SOON)
    assert bench.committed(signed)


def test_a_full_batch_need_not_wait() -> None:
    names = [f"name {i}" for i in range(60)]
    bench = Bench(names)
    bench.wait(SOON)
    for name in names:
        bench.give(bench.spend(name))
    assert bench.validator.due == bench.now + GATHER_MS
    for member in (1, 2, 3):  # more votes of ours: for what others have prepared
        ids = [bytes([i]) * 32 for i in range(200)]
        bench.note(
            bench.validator.handle_batch(bench.batch(member, *[lock_entry(0, i) for i in ids]), bench.now)
        )
    assert bench.validator.due <= bench.now + SOON
    assert len(bench.wait(SOON).batches[0].votes) == 60


# --- refusals -------------------------------------------------------------------------------------


def forged(bench: Bench) -> SignedOperation:
    signed = bench.spend("alice", [("bob", 5)])
    return msgspec.structs.replace(signed, signatures=(key_of("bob").sign(b"ainp2p/op/1", b"x"),))


def of_another_network(bench: Bench) -> SignedOperation:
    return Bench(("alice", "bob", "someone")).spend("alice", [("bob", 5)])


def stale(bench: Bench) -> SignedOperation:
    signed = bench.spend("alice", [("bob", 5)])
    bench.decide(bench.spend("alice", [("bob", 6)]))
    return signed


def beside_the_head(bench: Bench) -> SignedOperation:
    bench.decide(bench.spend("alice", [("bob", 6)]))
    account = msgspec.structs.replace(bench.account("alice"), head=bytes(32))
    return bench.spend("alice", [("bob", 5)], account=account)


def above_its_means(bench: Bench) -> SignedOperation:
    account = unopened_account(bench.network, inception_of("alice"))
    rich = msgspec.structs.replace(account, balance=10**9)
    return bench.spend("alice", [("bob", 10**8)], account=rich)


def with_granted_credits_again(bench: Bench) -> SignedOperation:
    credits = bench.validator.state.credits_of(bench.ids["alice"])
    bench.decide(bench.spend("alice", [("bob", 6)]))
    return bench.spend("alice", [("bob", 5)], credits=credits)


def with_spent_credits(bench: Bench) -> SignedOperation:
    bench.decide(bench.spend("bob", [("alice", 6)]))
    return with_granted_credits_again(bench)


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        pytest.param(lambda _: SignedOperation(b"\x90", (), None), "Malformed", id="no operation"),
        pytest.param(of_another_network, "network", id="another network"),
        pytest.param(forged, "BadSignature", id="not signed by the owner"),
        pytest.param(stale, "sequence", id="its slot is decided"),
        pytest.param(beside_the_head, "previous", id="beside the head"),
        pytest.param(with_granted_credits_again, "unknown-credit", id="a grant consumed long ago"),
        pytest.param(with_spent_credits, "unknown-credit", id="a credit consumed long ago"),
        pytest.param(above_its_means, "InsufficientFunds", id="above its means"),
    ],
)
def test_an_operation_is_refused(make: Callable[[Bench], SignedOperation], rule: str) -> None:
    bench = Bench()
    signed = make(bench)
    votes = len(bench.votes)
    assert bench.refusal(signed) == rule
    assert bench.refusal(signed) == rule  # it was not remembered as good
    bench.wait(1_000)
    assert len(bench.votes) == votes
    assert bench.validator.statistics().candidates == 0


def test_e12_a_good_proof_is_taken_after_a_forged_one_was_refused() -> None:
    bench = Bench()
    assert bench.refusal(forged(bench)) == "BadSignature"
    signed = bench.spend("alice", [("bob", 5)])
    bench.give(signed)
    bench.wait()
    assert bench.locked(signed)


# --- waiting --------------------------------------------------------------------------------------


def test_an_operation_from_the_future_is_locked_when_its_time_comes() -> None:
    bench = Bench()
    signed = bench.spend("alice", [("bob", 5)], at=bench.now + bench.parameters.clock_ahead_ms + 5_000)
    assert bench.give(signed).operations == []  # nothing to pass on yet
    bench.wait(4_900)
    assert not bench.locked(signed)
    assert bench.validator.status(operation_id(signed.raw)) == SEEN
    bench.wait(200)
    assert bench.locked(signed)


def test_an_operation_waits_for_the_credit_that_it_consumes() -> None:
    bench = Bench()
    gift = bench.spend("alice", [("bob", 500)])
    credits = {**bench.validator.state.credits_of(bench.ids["bob"]), operation_id(gift.raw) + b"\0\0": 500}
    signed = bench.spend("bob", [("carol", 1_000_400)], credits=credits)
    bench.give(signed)
    bench.wait()
    assert not bench.locked(signed)
    bench.decide(gift)
    assert bench.locked(signed)


def second_of(bench: Bench, first: SignedOperation, name: str = "alice", **more: object) -> SignedOperation:
    """The operation after one that is not final."""
    state = bench.journal.state()
    state.apply(parse(first))
    return bench.spend(name, [("bob", 7)], account=state.accounts[bench.ids[name]], credits={}, **more)


def test_an_operation_waits_for_the_one_before_it() -> None:
    bench = Bench()
    first = bench.spend("alice", [("bob", 5)])
    second = second_of(bench, first)
    bench.give(second)
    bench.wait()
    assert bench.votes == []
    bench.decide(first)
    assert bench.locked(second)


def test_a_settle_waits_for_its_lock() -> None:
    bench = Bench()
    opening = bench.spend("alice", locks=[bench.terms()])
    state = bench.journal.state()
    (lock,) = state.apply(parse(opening)).locks
    bench.validator.state.locks[lock.id] = lock  # only to write the SETTLE
    signed = bench.settle(lock, 100)
    del bench.validator.state.locks[lock.id]
    bench.give(signed)
    bench.wait()
    assert not bench.locked(signed)
    bench.decide(opening)
    assert bench.locked(signed)


def test_of_several_proofs_that_cannot_be_checked_yet_the_good_one_is_found() -> None:
    bench = Bench()
    first = bench.spend("alice", [("bob", 5)])
    good = second_of(bench, first)
    bad = msgspec.structs.replace(good, signatures=(bytes(64),))
    worse = msgspec.structs.replace(good, signatures=(b"\1" * 64,))
    for signed in (bad, good, worse, bad):
        bench.give(signed)
    bench.decide(first)
    assert bench.locked(good)


def test_v10_one_source_cannot_fill_the_room_for_what_waits() -> None:
    bench = Bench(limits=Limits(waiting_max_per_source=2))
    early = [bench.spend("alice", [("bob", i)], at=bench.now + 10**6) for i in range(1, 4)]
    assert [bench.refusal(signed, "mallory") for signed in early] == ["", "", "busy"]
    assert bench.refusal(early[2], "carol") == ""
    assert bench.validator.statistics().waiting == 3


def test_v10_of_too_many_that_wait_the_oldest_goes() -> None:
    bench = Bench(limits=Limits(waiting_max=2))
    early = [bench.spend(name, at=bench.now + 10**6) for name in ("alice", "bob", "carol")]
    for number, signed in enumerate(early):
        bench.give(signed, str(number))
    assert bench.validator.statistics().waiting == 2
    assert [bench.validator.status(operation_id(s.raw)) for s in early] == [UNKNOWN, SEEN, SEEN]


def test_v10_nothing_is_left_of_what_has_waited() -> None:
    bench = Bench(limits=Limits(waiting_max=3))
    first = bench.spend("alice", [("bob", 5)])
    for i in range(50):
        second = second_of(bench, first, at=bench.now + i)
        bench.give(second, str(i))
    bench.decide(first)
    bench.wait()
    assert bench.validator._room.is_idle


# --- contended slots ------------------------------------------------------------------------------


def test_a2_of_two_operations_for_one_slot_only_the_first_is_locked_and_both_are_kept() -> None:
    bench = Bench()
    first, second = (bench.spend("alice", [("bob", amount)]) for amount in (5, 6))
    bench.give(first)
    bench.give(second)
    bench.wait()
    assert bench.locked(first)
    assert not bench.locked(second)
    (evidence,) = bench.out.evidence
    assert judged(bench, evidence) == Offence(TWO_OPERATIONS, key_of("alice").public, 0)
    bench.wait(2 * WRITE_AFTER_MS)
    assert bench.journal.evidence == [evidence]


def test_a2_what_a_quorum_prepared_is_committed_although_another_one_was_locked() -> None:
    bench = Bench()
    first, second = (bench.spend("alice", [("bob", amount)]) for amount in (5, 6))
    bench.give(first)
    bench.wait()
    bench.give(second)
    bench.vote(lock_entry, second)
    bench.wait()
    assert bench.committed(second)
    bench.vote(commit_entry, second)
    assert bench.finals == [operation_id(second.raw)]
    assert bench.validator.status(operation_id(first.raw)) == UNKNOWN
    assert bench.refusal(first) == "sequence"


def test_a2_another_account_is_not_affected_by_a_slot_that_stays_undecided() -> None:
    bench = Bench()
    for amount in (5, 6):
        bench.give(bench.spend("alice", [("bob", amount)]))
    bench.wait()
    bench.decide(bench.spend("bob", [("carol", 1)]))
    assert len(bench.finals) == 1


def test_v10_a_slot_keeps_only_so_many_candidates_unless_one_is_prepared() -> None:
    bench = Bench(limits=Limits(rivals_max=2))
    rivals = [bench.spend("alice", [("bob", amount)]) for amount in (5, 6, 7)]
    assert [bench.refusal(signed) for signed in rivals] == ["", "", "contested"]
    bench.vote(lock_entry, rivals[2])
    assert bench.refusal(rivals[2]) == ""
    bench.wait()
    assert bench.committed(rivals[2])


def judged(bench: Bench, evidence: Evidence) -> Offence:
    """What anybody makes of evidence."""
    return verify_evidence(evidence, bench.network, lambda _: bench.committee)


def test_a_lock_for_what_is_malformed_is_evidence_once_the_bytes_come() -> None:
    bench = Bench()
    broken = SignedOperation(bench.spend("alice", [("bob", 5)]).raw[:-1], (bytes(64),), None)
    assert bench.refusal(broken) == "Malformed"
    bench.vote(lock_entry, broken, 2)
    (evidence,) = bench.give(broken).evidence
    assert judged(bench, evidence) == Offence(MALFORMED_LOCK, bench.keys[2].public, 0)
    assert bench.refusal(broken) == "Malformed"  # told once


def test_evidence_that_others_found_is_judged_kept_and_told_once() -> None:
    finder, bench = Bench(), Bench()
    first, second = (finder.spend("alice", [("bob", amount)]) for amount in (5, 6))
    finder.give(first)
    finder.give(second)
    (evidence,) = finder.out.evidence
    assert bench.note(bench.validator.handle_attachment(encode(evidence), bench.now)).evidence == [evidence]
    bench.give(first)
    bench.give(second)
    bench.note(bench.validator.handle_attachment(encode(evidence), bench.now))
    assert bench.out.evidence == [evidence]
    strangers = [sign_operation(parse(each).operation, key_of("mallory")) for each in (first, second)]
    pair = sorted(strangers, key=lambda each: operation_id(each.raw))
    items = tuple(item for each in pair for item in (each.raw, each.signatures[0]))
    stranger = Evidence(TWO_OPERATIONS, key_of("mallory").public, items)
    with pytest.raises(InvalidOperation):  # against a key that anybody can make
        bench.validator.handle_attachment(encode(stranger), bench.now)
    bent = msgspec.structs.replace(evidence, culprit=key_of("bob").public)
    with pytest.raises(BadSignature):
        bench.validator.handle_attachment(encode(bent), bench.now)


def test_a3_two_locks_are_found_by_a_validator_that_was_restarted_between_them() -> None:
    bench = Bench()
    first, second = (bench.spend("alice", [("bob", amount)]) for amount in (5, 6))
    bench.give(first)
    bench.vote(lock_entry, first, 2)
    bench.wait(2 * WRITE_AFTER_MS)
    bench.restart()
    bench.give(second)
    bench.vote(lock_entry, second, 2)
    assert Offence(TWO_LOCKS, bench.keys[2].public, 0) in [judged(bench, each) for each in bench.out.evidence]


def test_two_locks_of_one_validator_are_evidence() -> None:
    bench = Bench()
    first, second = (bench.spend("alice", [("bob", amount)]) for amount in (5, 6))
    bench.vote(lock_entry, first, 2)
    bench.vote(lock_entry, second, 2)
    bench.give(first)
    bench.give(second)
    found = {evidence.kind: evidence for evidence in bench.out.evidence}
    assert judged(bench, found[TWO_LOCKS]) == Offence(TWO_LOCKS, bench.keys[2].public, 0)


# --- operations that are only named ----------------------------------------------------------------


def test_an_operation_that_votes_name_is_asked_for_after_a_moment_and_again() -> None:
    bench = Bench()
    signed = bench.spend("alice", [("bob", 5)])
    bench.vote(lock_entry, signed, 1, 3)
    assert bench.wait(WANT_AFTER_MS - 1).wanted == []
    (wanted,) = bench.wait(1).wanted
    assert wanted.id == operation_id(signed.raw)
    assert wanted.holders == (bench.keys[1].public, bench.keys[3].public)
    assert 2 <= len(bench.wait(10_000).wanted) <= 10  # less and less often


def test_one_that_comes_in_time_is_not_asked_for() -> None:
    bench = Bench()
    signed = bench.spend("alice", [("bob", 5)])
    bench.vote(lock_entry, signed, 1, 3)
    bench.give(signed)
    assert bench.wait(10_000).wanted == []


def test_one_that_was_prepared_before_it_came_is_committed_when_it_comes() -> None:
    bench = Bench()
    signed = bench.spend("alice", [("bob", 5)])
    bench.vote(lock_entry, signed)
    bench.wait(1_000)
    assert bench.votes == []
    bench.give(signed)
    bench.wait()
    assert bench.committed(signed)


def test_one_that_was_final_before_it_came_is_applied_when_it_comes() -> None:
    bench = Bench()
    signed = bench.spend("alice", [("bob", 5)])
    bench.vote(lock_entry, signed)
    bench.vote(commit_entry, signed)
    bench.give(signed)
    assert bench.finals == [operation_id(signed.raw)]


def test_a_prepared_certificate_stands_in_for_ones_own_validation() -> None:
    bench = Bench()
    first = bench.spend("alice", [("bob", 5)])
    second = second_of(bench, first)
    bench.give(second)
    bench.vote(lock_entry, second)
    bench.wait()
    assert bench.committed(second)
    bench.vote(commit_entry, second)
    assert bench.finals == []  # "apply, once the dependencies are applied"
    bench.decide(first)
    assert bench.finals == [operation_id(first.raw), operation_id(second.raw)]


def test_a_forged_copy_of_a_named_operation_does_not_keep_the_good_one_out() -> None:
    bench = Bench()
    bench.vote(lock_entry, bench.spend("alice", [("bob", 5)]), 1)
    assert bench.refusal(forged(bench)) == "BadSignature"
    assert len(bench.wait(1_000).wanted) >= 1
    signed = bench.spend("alice", [("bob", 5)], at=NOW)
    bench.give(signed)
    bench.wait()
    assert bench.locked(signed)


def test_a_late_vote_for_what_was_decided_long_ago_asks_nobody() -> None:
    bench = Bench(limits=Limits(decided_max=1))
    first = bench.spend("alice", [("bob", 5)])
    bench.decide(first)
    bench.decide(bench.spend("bob", [("carol", 5)]))
    bench.wait(2 * WRITE_AFTER_MS)
    bench.vote(commit_entry, first, 3)
    assert bench.validator.statistics().candidates == 1
    assert bench.validator.status(operation_id(first.raw)) == FINAL  # and nobody is told otherwise
    assert bench.validator.operation(operation_id(first.raw)) == first
    assert bench.wait(10_000).wanted == []
    assert bench.validator.statistics().candidates == 0


def test_v10_a_validator_that_votes_for_nothing_real_stalls_only_itself() -> None:
    bench = Bench(limits=Limits(owed_max=600))
    ghosts = [lock_entry(0, i.to_bytes(32, "big")) for i in range(3 * ENTRIES_MAX)]
    batches = [bench.batch(2, *ghosts[:ENTRIES_MAX]), bench.batch(2, *ghosts[ENTRIES_MAX : 2 * ENTRIES_MAX])]
    for raw in batches:
        bench.validator.handle_batch(raw, bench.now)
    with pytest.raises(NotYet, match="busy"):
        bench.validator.handle_batch(bench.batch(2, *ghosts[2 * ENTRIES_MAX :]), bench.now)
    assert bench.validator.heights()[bench.keys[2].public] == 2
    bench.logs[2].resume(99, bytes(32))
    signed = bench.spend("alice", [("bob", 5)])
    bench.give(signed)
    bench.vote(lock_entry, signed, 1, 3)
    bench.vote(commit_entry, signed, 1, 3)
    bench.wait()
    bench.wait()
    assert bench.finals == [operation_id(signed.raw)]


# --- batches --------------------------------------------------------------------------------------


def test_a_batch_of_a_stranger_is_refused() -> None:
    bench = Bench()
    stranger = Bench(("alice", "bob", "someone"))
    stranger.logs[1]._signer = key_of("stranger")
    with pytest.raises(InvalidOperation) as caught:
        bench.validator.handle_batch(stranger.batch(1), bench.now)
    assert caught.value.rule == "member"


def test_a_batch_of_another_network_is_refused() -> None:
    bench = Bench()
    with pytest.raises(InvalidOperation) as caught:
        bench.validator.handle_batch(Bench(("alice", "bob", "someone")).batch(1), bench.now)
    assert caught.value.rule == "network"


def test_garbage_is_refused() -> None:
    with pytest.raises(Malformed):
        Bench().validator.handle_batch(b"\x93garbage", NOW)


def test_e12_a_batch_whose_signature_was_changed_is_refused() -> None:
    bench = Bench()
    header, signature, entries = msgspec.msgpack.decode(bench.batch(1))
    with pytest.raises(BadSignature):
        bench.validator.handle_batch(encode([header, signature[::-1], entries]), bench.now)
    assert bench.validator.heights()[bench.keys[1].public] == 0


def test_c1_batches_in_any_order_and_twice_are_counted_once() -> None:
    bench = Bench()
    signed = bench.spend("alice", [("bob", 5)])
    bench.give(signed)
    batches = []
    for member in (1, 2, 3):
        for entry in (lock_entry, commit_entry):
            batches.append(bench.batch(member, entry(0, operation_id(signed.raw))))
    for raw in batches[::-1] * 2:
        bench.note(bench.validator.handle_batch(raw, bench.now))
    assert bench.finals == [operation_id(signed.raw)]


def test_a_gap_is_told_and_told_again() -> None:
    bench = Bench()
    one, two, three = (bench.batch(1) for _ in range(3))
    key = bench.keys[1].public
    assert bench.note(bench.validator.handle_batch(three, bench.now)).gaps == [Gap(key, 1, 2)]
    assert bench.wait(GAP_AGAIN_MS - 1).gaps == []
    assert bench.wait(1).gaps == [Gap(key, 1, 2)]
    bench.validator.handle_batch(one, bench.now)
    assert bench.wait(GAP_AGAIN_MS).gaps == [Gap(key, 2, 2)]
    bench.validator.handle_batch(two, bench.now)
    assert bench.validator.heights()[key] == 3
    assert bench.wait(GAP_AGAIN_MS).gaps == []


def test_v10_a_gap_of_a_billion_is_asked_for_piece_by_piece() -> None:
    bench = Bench()
    bench.logs[1].resume(10**9, bytes(32))
    (gap,) = bench.validator.handle_batch(bench.batch(1), bench.now).gaps
    assert gap == Gap(bench.keys[1].public, 1, ENTRIES_MAX)
    for _ in range(2 * EARLY_MAX):
        bench.validator.handle_batch(bench.batch(1), bench.now)
    assert len(bench.validator._chains[1].early) == EARLY_MAX


@pytest.mark.parametrize("after_ms", [0, 2 * WRITE_AFTER_MS])
def test_a3_two_batches_at_one_height_are_evidence_and_the_first_one_stays(after_ms: int) -> None:
    bench = Bench()
    one = bench.batch(1, lock_entry(0, bytes(32)))
    bench.logs[1].resume(0, bench.network)
    other = bench.batch(1, lock_entry(0, b"1" * 32))
    bench.validator.handle_batch(one, bench.now)
    bench.wait(after_ms)
    (evidence,) = bench.note(bench.validator.handle_batch(other, bench.now)).evidence
    assert judged(bench, evidence) == Offence(TWO_BATCHES, bench.keys[1].public, 0)
    assert bench.validator.handle_batch(other, bench.now).evidence == []  # told once


def test_a3_two_early_batches_at_one_height_are_evidence() -> None:
    bench = Bench()
    bench.logs[1].resume(6, bytes(32))
    one = bench.batch(1)
    bench.logs[1].resume(6, b"1" * 32)
    bench.validator.handle_batch(one, bench.now)
    assert bench.validator.handle_batch(bench.batch(1), bench.now).evidence[0].kind == TWO_BATCHES


def test_a_forged_second_batch_is_no_evidence() -> None:
    bench = Bench()
    raw = bench.batch(1, lock_entry(0, bytes(32)))
    bench.validator.handle_batch(raw, bench.now)
    header, signature, _ = msgspec.msgpack.decode(raw)
    with pytest.raises((Malformed, BadSignature)):
        bench.validator.handle_batch(encode([header, signature, b""]), bench.now)
    assert bench.validator.statistics().evidence == 0


def test_batches_are_given_to_whoever_asks_also_before_they_are_on_disk() -> None:
    bench = Bench()
    raws = [bench.batch(1) for _ in range(5)]
    for raw in raws[:3]:
        bench.validator.handle_batch(raw, bench.now)
    bench.wait(2 * WRITE_AFTER_MS)
    for raw in raws[3:]:
        bench.validator.handle_batch(raw, bench.now)
    key = bench.keys[1].public
    assert bench.validator.batches(key, 1) == raws
    assert bench.validator.batches(key, 2, 3) == raws[1:4]
    assert bench.validator.batches(key, 6) == []
    assert bench.validator.batches(bytes(32), 1) == []


def test_own_batches_are_shown_only_when_they_are_on_disk() -> None:
    bench = Bench()
    key = bench.keys[0].public
    records = bench.validator.seal(bench.now)
    assert records is not None
    assert bench.validator.batches(key, 1) == []
    assert bench.validator.heights()[key] == 0
    bench.journal.write(records)
    bench.validator.release(records, bench.now)
    assert bench.validator.batches(key, 1) == [records.own[0].raw]


# --- the disk, and starting again -------------------------------------------------------------------


def test_b3_when_the_disk_fails_nothing_is_sent_and_nothing_more_is_signed() -> None:
    bench = Bench()
    signed = bench.spend("alice", [("bob", 5)])
    bench.give(signed)
    bench.journal.broken = True
    with pytest.raises(StorageError):
        bench.wait()
    assert bench.out.batches == []
    bench.journal.broken = False
    steps: tuple[Callable[[], object], ...] = (
        lambda: bench.validator.tick(bench.now + 1),
        lambda: bench.give(bench.spend("bob")),
        lambda: bench.validator.handle_batch(bench.batch(1), bench.now),
    )
    for step in steps:
        with pytest.raises(StorageError, match="halted"):
            step()
    assert bench.validator.seal(bench.now + 10**6) is None
    assert bench.validator.statistics().halted == "disk I/O error"
    assert bench.validator.operation(operation_id(signed.raw)) == signed  # reading goes on


def test_v8_what_was_locked_stays_locked_after_a_restart() -> None:
    bench = Bench()
    first, second = (bench.spend("alice", [("bob", amount)]) for amount in (5, 6))
    bench.give(first)
    bench.wait()
    bench.restart()
    assert bench.validator.status(operation_id(first.raw)) == LOCKED
    bench.give(second)
    bench.wait(1_000)
    assert bench.locked(first)
    assert not bench.locked(second)
    assert len(bench.votes) == 1
    bench.decide(first)
    assert bench.finals == [operation_id(first.raw)]


def test_v8_a_vote_that_was_not_written_was_not_sent_either() -> None:
    bench = Bench()
    first, second = (bench.spend("alice", [("bob", amount)]) for amount in (5, 6))
    bench.give(first)
    bench.restart()
    bench.give(second)
    bench.wait()
    assert not bench.locked(first)
    assert bench.locked(second)


def test_tallies_are_rebuilt_from_the_journal() -> None:
    bench = Bench()
    signed = bench.spend("alice", [("bob", 5)])
    bench.give(signed)
    bench.vote(lock_entry, signed)
    bench.vote(commit_entry, signed, 1)
    bench.wait(2 * WRITE_AFTER_MS)
    assert bench.committed(signed)
    bench.restart()
    bench.vote(commit_entry, signed, 2)
    assert bench.finals == [operation_id(signed.raw)]
    assert len(bench.votes) == 2
    assert bench.validator.certificate(operation_id(signed.raw)) is not None


def test_what_was_final_and_not_written_is_final_again_after_a_restart() -> None:
    bench = Bench()
    signed = bench.spend("alice", [("bob", 5)])
    bench.decide(signed)
    assert bench.journal.order == []
    bench.restart()
    for member in (1, 2):
        for height, entry in ((1, lock_entry), (2, commit_entry)):
            bench.logs[member].resume(height - 1, bench.logs[member].head)
            if height == 1:
                bench.logs[member].resume(0, bench.network)
            bench.note(
                bench.validator.handle_batch(
                    bench.batch(member, entry(0, operation_id(signed.raw)), at=NOW), bench.now
                )
            )
    assert bench.finals == [operation_id(signed.raw)] * 2
    assert len(bench.votes) == 2


def test_its_own_log_goes_on_where_it_ended() -> None:
    bench = Bench()
    bench.give(bench.spend("alice"))
    bench.wait()
    height = bench.validator.heights()[bench.keys[0].public]
    bench.restart()
    bench.wait()
    headers = [batch.header for batch in bench.out.batches]
    assert [header.height for header in headers] == list(range(1, height + 2))
    assert headers[-1].previous == bench.out.batches[-2].id


def test_old_votes_are_not_read_again_and_open_ones_are() -> None:
    bench = Bench(("alice", "bob", "carol"))
    open_ = bench.spend("carol", [("bob", 5)])
    bench.give(open_)
    bench.vote(lock_entry, open_, 1)
    for i in range(600):
        bench.decide(bench.spend("alice" if i % 2 else "bob"))
        bench.wait(WRITE_AFTER_MS + 1)
    restored = bench.journal.restore(4)
    assert bench.journal.floors
    assert len(restored.operations) < 100  # carol's was written again
    bench.restart()
    bench.vote(lock_entry, open_, 2, 3)
    bench.wait()
    candidate = bench.validator._table.candidates[operation_id(open_.raw)]
    assert candidate.prepared == 0
    assert not bench.committed(open_)  # its NEWVIEW, sent long ago, is not forgotten either
    assert bench.validator._table.slot_of(candidate).promised == 1
    assert sum(vote[2] == operation_id(open_.raw) for vote in bench.votes) == 1


def test_a_damaged_vote_log_is_noticed_at_the_start() -> None:
    bench = Bench()
    for _ in range(3):
        bench.note(bench.validator.handle_batch(bench.batch(1), bench.now))
    bench.wait(2 * WRITE_AFTER_MS)
    del bench.journal.raw[0, 1, 2]
    with pytest.raises(StorageError, match="damaged"):
        bench.restart()


def test_a_key_that_is_not_in_the_committee_is_refused() -> None:
    bench = Bench()
    with pytest.raises(InvalidOperation) as caught:
        Validator(key_of("stranger"), bench.genesis, bench.journal.state(), bench.journal)
    assert caught.value.rule == "member"


# --- starting to vote -------------------------------------------------------------------------------


def test_b5_it_is_silent_until_a_quorum_has_said_what_it_knows_of_its_votes() -> None:
    bench = Bench(start=False)
    signed = bench.spend("alice", [("bob", 5)])
    bench.give(signed)
    bench.heights(members=(1,))
    bench.wait(30_000)
    assert bench.out.batches == []
    assert not bench.validator.voting
    bench.heights(members=(3,))
    assert bench.validator.voting
    bench.wait()
    assert bench.locked(signed)


def test_b5_a_claim_without_proof_delays_and_asks_for_the_proof() -> None:
    bench = Bench(start=False)
    bench.heights(7, members=(1,))
    assert bench.out.gaps == [Gap(bench.keys[0].public, 1, 7)]
    assert not bench.validator.behind
    bench.heights(0, members=(2, 3))
    assert bench.validator.voting


def test_b5_a_validator_that_lost_its_disk_stays_silent() -> None:
    bench = Bench()
    signed = bench.spend("alice", [("bob", 5)])
    bench.give(signed)
    bench.wait()
    ours = [batch.raw for batch in bench.out.batches]
    bench.journal = MemoryJournal(bench.genesis)
    bench.restart(start=False)
    bench.validator.handle_batch(ours[0], bench.now)
    bench.heights(0)
    bench.give(bench.spend("alice", [("bob", 6)]))
    bench.wait(1_000)
    assert bench.validator.behind
    assert not bench.validator.voting
    assert len(bench.out.batches) == len(ours)


def test_b5_a_validator_with_an_old_disk_stays_silent() -> None:
    bench = Bench()
    bench.wait()
    old = dict(bench.journal.raw)
    for name in ("alice", "bob"):
        bench.give(bench.spend(name))
        bench.wait()
    newest = bench.out.batches[-1].raw
    bench.journal = MemoryJournal(bench.genesis)
    bench.journal.raw = old
    bench.restart()
    assert bench.validator.voting
    bench.validator.handle_batch(newest, bench.now)
    assert not bench.validator.voting


def test_b5_a_batch_of_ours_that_is_not_ours_proves_nothing() -> None:
    bench = Bench()
    bench.logs[1].resume(9, bytes(32))
    header, signature, entries = msgspec.msgpack.decode(bench.batch(1))
    fields = msgspec.msgpack.decode(header)
    fields[3] = bench.keys[0].public
    with pytest.raises(BadSignature):
        bench.validator.handle_batch(encode([encode(fields), signature, entries]), bench.now)
    assert bench.validator.voting


def test_b5_it_goes_on_counting_and_applying_while_it_is_silent() -> None:
    bench = Bench(start=False)
    signed = bench.spend("alice", [("bob", 5)])
    bench.give(signed)
    bench.vote(lock_entry, signed)
    bench.vote(commit_entry, signed)
    assert bench.finals == [operation_id(signed.raw)]
    bench.wait(2 * WRITE_AFTER_MS)
    assert operation_id(signed.raw) in bench.journal.finals
    assert bench.votes == []


def test_only_members_know_our_votes() -> None:
    with pytest.raises(InvalidOperation):
        Bench().validator.handle_height(key_of("stranger").public, 0, NOW)


def test_a_committee_of_one_decides_alone() -> None:
    genesis = committee_genesis((1,))
    bench = Bench()
    bench.genesis, bench.journal = genesis, MemoryJournal(genesis)
    bench.network = genesis.network_id
    bench.ids = {name: unopened_account(bench.network, inception_of(name)).id for name in bench.ids}
    bench.keys = [next(key for key in bench.keys if key.public == genesis.validators[0].key)]
    bench.restart(start=False)
    signed = bench.spend("alice", [("bob", 5)])
    bench.give(signed)
    bench.wait(3 * SOON)
    assert bench.finals == [operation_id(signed.raw)]


# --- planted faults ---------------------------------------------------------------------------------


def locks_twice() -> bool:
    bench = Bench()
    for amount in (5, 6):
        bench.give(bench.spend("alice", [("bob", amount)]))
    bench.wait()
    return len(bench.votes) > 1


def test_v8_mutant_that_locks_twice_in_a_view_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not locks_twice()

    class Forgetful(dict[int, bytes]):
        def __contains__(self, view: object) -> bool:
            return False

    original = Slot.__init__

    def forgetful(slot: Slot) -> None:
        original(slot)
        slot.locked = Forgetful()

    monkeypatch.setattr(Slot, "__init__", forgetful)
    with pytest.raises(InvalidOperation, match="locked"):  # the slot itself is a second defence
        locks_twice()
    monkeypatch.setattr(Slot, "lock", lambda *_: None)
    assert locks_twice()


def strangers_decide() -> bool:
    """Whether three who are no members can make an operation final."""
    bench = Bench(start=False)
    signed = bench.spend("alice", [("bob", 5)])
    bench.give(signed)
    for number in (1, 2, 3):
        bench.logs[number]._signer = key_of(f"stranger {number}")
        for entry in (lock_entry, commit_entry):
            raw = bench.batch(number, entry(0, operation_id(signed.raw)))
            try:
                bench.note(bench.validator.handle_batch(raw, bench.now))
            except InvalidOperation:
                continue
    return bool(bench.finals)


def test_mutant_that_counts_whoever_is_no_member_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not strangers_decide()
    strangers = {key_of(f"stranger {number}").public: number for number in (1, 2, 3)}
    monkeypatch.setattr("ainp2p.ledger.voting.votelog._member", lambda header, _: strangers[header.validator])
    monkeypatch.setattr(Validator, "_place_of", lambda _, key: strangers.get(key, 3))
    assert strangers_decide()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_c1_any_order_of_operations_and_votes_leads_to_the_same_end(data: st.DataObject) -> None:
    source = Bench()
    messages: list[SignedOperation | bytes] = []
    for name, to in (("alice", "bob"), ("bob", "carol"), ("alice", "carol"), ("carol", "alice")):
        signed = source.spend(name, [(to, 10)])
        source.give(signed)
        for entry in (lock_entry, commit_entry):
            for member in (1, 2, 3):
                raw = source.batch(member, entry(0, operation_id(signed.raw)))
                source.validator.handle_batch(raw, source.now)
                messages.append(raw)
        messages.append(signed)
    order = data.draw(st.permutations(messages))
    repeated = data.draw(st.lists(st.sampled_from(messages), max_size=10))
    bench = Bench()
    for message in [*order, *repeated]:
        if isinstance(message, bytes):
            bench.note(bench.validator.handle_batch(message, bench.now))
        else:
            bench.give(message)
        bench.wait(data.draw(st.sampled_from([0, 0, 30, 1_200])))
    assert bench.validator.state.root() == source.validator.state.root()
    assert len(bench.finals) == 4
    locks = [vote for vote in bench.votes if vote[0] == LOCK]
    assert len(locks) == len(set(locks))
    assert bench.validator.statistics().candidates == 0


def votes_again_after_losing_its_disk() -> bool:
    bench = Bench()
    bench.give(bench.spend("alice", [("bob", 5)]))
    bench.wait()
    ours = bench.out.batches[-1].raw
    bench.journal = MemoryJournal(bench.genesis)
    bench.restart(start=False)
    bench.validator.handle_batch(ours, bench.now)
    bench.heights(0)
    bench.give(bench.spend("alice", [("bob", 6)]))
    bench.wait()
    return len(bench.votes) > 1


def test_b5_mutant_that_does_not_ask_for_its_own_votes_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not votes_again_after_losing_its_disk()
    monkeypatch.setattr(Validator, "voting", property(lambda self: self._started))
    assert votes_again_after_losing_its_disk()
