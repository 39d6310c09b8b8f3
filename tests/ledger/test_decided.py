"""What others decided, taken by its certificate: for whoever was away."""

from __future__ import annotations

import msgspec
import pytest

from ainp2p.errors import BadSignature, InvalidOperation, Malformed
from ainp2p.ledger.rules.merkle import KnownPath
from ainp2p.ledger.rules.operations import Operation, SignedOperation, operation_id, sign_operation
from ainp2p.ledger.voting.certificate import read_certificate
from ainp2p.ledger.voting.seen_votes import SeenVotes
from ainp2p.ledger.voting.validator import FINAL
from ainp2p.ledger.voting.votelog import commit_entry, lock_entry
from ainp2p.protocol.codec import encode

from .bench import Bench
from .world import key_of

Decided = tuple[SignedOperation, bytes]


def decided(*names: str, spends: int = 3) -> tuple[Bench, list[Decided]]:
    """A bench, and what it decided, in order."""
    bench, found = Bench(), []
    for _ in range(spends):
        for name in names or ("alice",):
            signed = bench.spend(name, [("carol", 5)])
            id_ = bench.decide(signed)
            certificate = bench.validator.certificate(id_)
            assert certificate is not None
            found.append((signed, certificate))
    return bench, found


def take(bench: Bench, each: Decided) -> None:
    bench.note(bench.validator.handle_decided(*each, bench.now))


def test_what_is_final_elsewhere_is_final_here() -> None:
    there, found = decided("alice", "bob")
    here = Bench()
    for each in found:
        take(here, each)
    assert here.validator.state.root() == there.validator.state.root()
    assert here.finals == [operation_id(signed.raw) for signed, _ in found]
    assert here.votes == []


def test_a_certificate_that_was_taken_is_shown_to_others_also_after_a_restart() -> None:
    _, found = decided()
    here = Bench()
    for each in found:
        take(here, each)
    ids = [operation_id(signed.raw) for signed, _ in found]
    assert [here.validator.certificate(id_) for id_ in ids] == [certificate for _, certificate in found]
    here.wait(2_000)
    here.restart()
    assert [here.validator.certificate(id_) for id_ in ids] == [certificate for _, certificate in found]
    assert here.validator.status(ids[-1]) == FINAL


def test_what_comes_before_what_it_depends_on_waits_for_that() -> None:
    there, found = decided("alice", "bob")
    here = Bench()
    for each in reversed(found):
        take(here, each)
    assert here.validator.state.root() == there.validator.state.root()
    assert here.validator._room.is_idle


def test_a_repeat_changes_nothing() -> None:
    _, found = decided()
    here = Bench()
    for each in (*found, *found, found[1]):
        take(here, each)
    assert here.validator.state.operations == len(found)
    assert here.validator.halted is None


def test_votes_and_a_certificate_for_one_operation_agree() -> None:
    _, found = decided(spends=1)
    here = Bench()
    signed = found[0][0]
    here.give(signed)
    here.vote(lock_entry, signed)
    take(here, found[0])
    assert here.finals == [operation_id(signed.raw)]
    here.vote(commit_entry, signed)
    assert here.validator.state.operations == 1


def test_another_operation_in_a_slot_that_waits_for_votes_gives_way() -> None:
    _, found = decided(spends=1)
    here = Bench()
    rival = here.spend("alice", [("bob", 1)])
    here.give(rival)
    here.wait()
    assert here.locked(rival)
    take(here, found[0])
    assert here.finals == [operation_id(found[0][0].raw)]
    assert here.validator.statistics().candidates == 0


def test_two_certificates_for_one_slot_halt_it() -> None:
    _, found = decided(spends=1)
    other = Bench()
    rival = other.spend("alice", [("bob", 1)])
    certificate = other.validator.certificate(other.decide(rival))
    assert certificate is not None
    here = Bench()
    take(here, found[0])
    take(here, (rival, certificate))
    assert here.validator.halted is not None


def test_what_is_not_proven_is_refused() -> None:
    bench, found = decided(spends=2)
    here = Bench()
    (first, certificate), (_, another) = found
    parsed = read_certificate(certificate)
    votes = parsed.votes
    forged = msgspec.structs.replace(votes[0], signature=bytes(64))
    few = encode(msgspec.structs.replace(parsed, votes=votes[:2]))
    bad = encode(msgspec.structs.replace(parsed, votes=(forged, *votes[1:])))
    foreign = sign_operation(
        msgspec.structs.replace(msgspec.msgpack.decode(first.raw, type=Operation), network=bytes(32)),
        key_of("alice"),
    )
    cases = [
        (first, b"", Malformed),
        (first, another, InvalidOperation),
        (first, few, InvalidOperation),
        (first, bad, BadSignature),
        (foreign, certificate, InvalidOperation),
        (SignedOperation(b"\x90", (bytes(64),), None), certificate, Malformed),
    ]
    for signed, proof, error in cases:
        with pytest.raises(error):
            here.validator.handle_decided(signed, proof, here.now)
    assert here.validator.state.operations == 0
    assert bench.validator.state.operations == 2


def test_mutant_signatures_that_nobody_checks_let_anybody_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SeenVotes, "check", lambda self, *vote: None)
    with pytest.raises(pytest.fail.Exception):
        test_what_is_not_proven_is_refused()


def test_a_certificate_is_refused_where_it_differs_from_its_neighbour_s_above_them_both() -> None:
    bench, names = Bench(("alice", "bob", "carol", "dave")), ("alice", "bob", "carol", "dave")
    spends = [bench.spend(name, [("carol", 5)]) for name in names]
    ids = [operation_id(signed.raw) for signed in spends]
    for signed in spends:
        bench.give(signed)
    for entry in (lock_entry, commit_entry):
        for member in (1, 2, 3):
            batch = bench.batch(member, *(entry(0, id_) for id_ in ids))
            bench.note(bench.validator.handle_batch(batch, bench.now))
        bench.wait()
    proofs = [bench.validator.certificate(id_) or b"" for id_ in ids]
    certificate = read_certificate(proofs[1])
    own, vote, last = certificate.votes
    assert len(vote.path) == 64  # the second half is its neighbour's as well
    other = msgspec.structs.replace(vote, path=vote.path[:-1] + bytes([vote.path[-1] ^ 1]))
    bad = encode(msgspec.structs.replace(certificate, votes=(own, other, last)))
    here = Bench(names)
    take(here, (spends[0], proofs[0]))
    with pytest.raises(BadSignature):
        take(here, (spends[1], bad))
    take(here, (spends[1], proofs[1]))
    assert here.finals == ids[:2]


def test_mutant_a_path_that_is_not_compared_above_is_passed_on_though_others_refuse_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def meets(self: KnownPath, leaf: bytes, index: int, path: bytes) -> bool:
        return path[32:-1] == self._path[32:-1]  # all but the last byte

    monkeypatch.setattr(KnownPath, "meets", meets)
    with pytest.raises(pytest.fail.Exception):
        test_a_certificate_is_refused_where_it_differs_from_its_neighbour_s_above_them_both()
