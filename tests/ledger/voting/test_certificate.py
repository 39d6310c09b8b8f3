from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from ainp2p.errors import BadSignature, Error, InvalidOperation, Malformed
from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.voting.certificate import (
    Certificate,
    build_certificate,
    read_certificate,
    verify_certificate,
    verify_prepared,
)
from ainp2p.ledger.voting.votelog import COMMIT, ENTRIES_MAX, OwnLog, VoteBatch, commit_entry, lock_entry
from ainp2p.protocol.codec import encode
from ainp2p.protocol.identity import digest
from tests.ledger.world import NOW, key_of

NETWORK = digest(b"test", b"network")
OP = bytes([1]) * 32
KEYS = sorted((key_of(f"validator {i}") for i in range(4)), key=lambda key: key.public)
PUBLIC = tuple(key.public for key in KEYS)
COMMITTEE = Committee(PUBLIC, (1, 1, 1, 1))
POSITION = 77
TODAY = 1_700_000_000_000  # ms


def full_batch(member: int, entry: bytes, epoch: int = 0, position: int = POSITION) -> VoteBatch:
    """A batch of 256 entries, `entry` among them."""
    log = OwnLog(KEYS[member], NETWORK, epoch, member)
    log.resume(member + 1, digest(b"before", bytes([member])))
    for i in range(ENTRIES_MAX):
        log.add(entry if i == position else commit_entry(0, i.to_bytes(32, "big")), NOW)
    return log.seal(NOW)


def certificate(
    entry: bytes = commit_entry(0, OP),
    members: tuple[int, ...] = (0, 1, 2, 3),
    committee: Committee = COMMITTEE,
    epoch: int = 0,
) -> bytes:
    batches = {member: full_batch(member, entry, epoch) for member in members}
    places = [(member, batches[member].header.height, POSITION) for member in members]
    return build_certificate(places, lambda member, _: batches[member], committee)


GOOD = certificate()
PREPARED = certificate(lock_entry(0, OP))


def test_a_commit_certificate_names_its_operation() -> None:
    assert verify_certificate(GOOD, COMMITTEE, 0, NETWORK) == OP


def test_a_prepared_certificate_names_view_and_operation() -> None:
    assert verify_prepared(PREPARED, COMMITTEE, 0, NETWORK) == (0, OP)
    justified = certificate(lock_entry(5, OP, b"w" * 32))
    assert verify_prepared(justified, COMMITTEE, 0, NETWORK) == (5, OP)


def certificate_size(members: int, justified: bool = False) -> int:
    """Bytes of a certificate from full batches, a million batches after the beginning, today."""
    keys = sorted((key_of(f"member {i}") for i in range(members)), key=lambda key: key.public)
    committee = Committee(tuple(key.public for key in keys), (1,) * members)
    entry = lock_entry(1, OP, b"j" * 32) if justified else commit_entry(0, OP)
    batches = {}
    for member, key in enumerate(keys):
        log = OwnLog(key, NETWORK, 0, member)
        log.resume(1_000_000, digest(b"before", bytes([member])))
        for i in range(ENTRIES_MAX):
            log.add(entry if i == POSITION else commit_entry(0, i.to_bytes(32, "big")), TODAY)
        batches[member] = log.seal(TODAY)
    places = [(member, 1_000_001, POSITION) for member in batches]
    return len(build_certificate(places, lambda member, _: batches[member], committee))


@pytest.mark.parametrize(
    ("members", "commit", "prepared"),
    [(4, 1_179, 1_278), (7, 1_939, 2_104), (10, 2_699, 2_930), (31, 8_021, 8_714)],
)
def test_with_full_batches_it_is_compact(members: int, commit: int, prepared: int) -> None:
    assert (certificate_size(members), certificate_size(members, justified=True)) == (commit, prepared)
    assert members > 4 or prepared < 1_500


def test_a_vote_is_shown_by_a_path_of_eight_hashes_at_most() -> None:
    assert len(read_certificate(GOOD).votes) == 3
    assert {len(vote.path) for vote in read_certificate(GOOD).votes} == {8 * 32}
    assert read_certificate(certificate_alone()).votes[0].path == b""


def certificate_alone() -> bytes:
    """One validator, one vote in its batch."""
    log = OwnLog(KEYS[0], NETWORK, 0, 0)
    log.add(commit_entry(0, OP), NOW)
    batch = log.seal(NOW)
    return build_certificate([(0, 1, 0)], lambda *_: batch, Committee(PUBLIC[:1], (1,)))


def test_the_heaviest_members_make_it_short() -> None:
    committee = Committee(PUBLIC, (1, 1, 2, 5))
    raw = certificate(committee=committee)
    assert [vote.member for vote in read_certificate(raw).votes] == [2, 3]
    assert verify_certificate(raw, committee, 0, NETWORK) == OP


def test_a_committee_of_one_certifies_alone() -> None:
    committee = Committee(PUBLIC[:1], (9,))
    raw = certificate(members=(0,), committee=committee)
    assert verify_certificate(raw, committee, 0, NETWORK) == OP


def test_too_few_votes_make_none() -> None:
    with pytest.raises(InvalidOperation) as caught:
        certificate(members=(0, 2))
    assert caught.value.rule == "certificate"


def changed(raw: bytes = GOOD, vote: int | None = None, **fields: Any) -> bytes:
    """A certificate with other fields, of itself or of one of its votes."""
    parsed = read_certificate(raw)
    if vote is not None:
        votes = list(parsed.votes)
        votes[vote] = msgspec.structs.replace(votes[vote], **fields)
        fields = {"votes": tuple(votes)}
    return encode(msgspec.structs.replace(parsed, **fields))


def with_votes(pick: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> bytes:
    return changed(votes=pick(read_certificate(GOOD).votes))


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(PREPARED, id="LOCKs are no COMMITs"),
        pytest.param(changed(epoch=1), id="another epoch"),
        pytest.param(with_votes(lambda votes: votes[:2]), id="no quorum"),
        pytest.param(with_votes(lambda votes: votes[:2] + votes[1:2]), id="a member twice"),
        pytest.param(with_votes(lambda votes: votes[::-1]), id="out of order"),
        pytest.param(changed(vote=2, member=4), id="no such member"),
        pytest.param(changed(vote=0, justification=OP), id="a justified COMMIT"),
    ],
)
def test_no_certificate(raw: bytes) -> None:
    with pytest.raises(InvalidOperation) as caught:
        verify_certificate(raw, COMMITTEE, 0, NETWORK)
    assert caught.value.rule == "certificate"


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(changed(operation=bytes(32)), id="another operation"),
        pytest.param(changed(view=1), id="another view"),
        pytest.param(changed(vote=1, height=9), id="another height"),
        pytest.param(changed(vote=1, timestamp=NOW + 1), id="another time"),
        pytest.param(changed(vote=1, previous=bytes(32)), id="another chain"),
        pytest.param(changed(vote=1, position=POSITION + 1), id="another position"),
        pytest.param(changed(vote=1, path=bytes(256)), id="another path"),
        pytest.param(changed(vote=2, member=3), id="another member"),
        pytest.param(changed(vote=0, signature=bytes(64)), id="no signature"),
        pytest.param(changed(changed(PREPARED, kind=COMMIT)), id="LOCKs called COMMITs"),
    ],
)
def test_e12_a_vote_that_was_not_cast_is_refused(raw: bytes) -> None:
    with pytest.raises(BadSignature):
        verify_certificate(raw, COMMITTEE, 0, NETWORK)


def test_e12_a_certificate_holds_in_its_network_and_committee_only() -> None:
    with pytest.raises(BadSignature):
        verify_certificate(GOOD, COMMITTEE, 0, bytes(32))
    strangers = tuple(sorted(key_of(f"stranger {i}").public for i in range(4)))
    with pytest.raises(BadSignature):
        verify_certificate(GOOD, Committee(strangers, (1, 1, 1, 1)), 0, NETWORK)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="empty"),
        pytest.param(GOOD[:-1], id="cut off"),
        pytest.param(GOOD + b"\0", id="a byte more"),
        pytest.param(changed(vote=0, count=0), id="a batch of none"),
        pytest.param(changed(vote=0, position=ENTRIES_MAX), id="a position beyond a batch"),
        pytest.param(changed(vote=0, path=bytes(255)), id="a path cut off"),
        pytest.param(changed(vote=0, path=bytes(257)), id="a path too long"),
        pytest.param(changed(kind=3), id="an unknown kind"),
        pytest.param(changed(view=2**32), id="an impossible view"),
        pytest.param(encode(Certificate(COMMIT, 0, 0, OP, ())), id="without votes"),
    ],
)
def test_malformed(raw: bytes) -> None:
    with pytest.raises(Malformed):
        verify_certificate(raw, COMMITTEE, 0, NETWORK)


def test_every_bit_of_a_certificate_matters() -> None:
    for position in range(0, len(GOOD), 13):
        flipped = bytearray(GOOD)
        flipped[position] ^= 0x10
        with pytest.raises(Error):
            verify_certificate(bytes(flipped), COMMITTEE, 0, NETWORK)


# --- planted faults -------------------------------------------------------------------------------


def accepts(raw: bytes) -> bool:
    try:
        return verify_certificate(raw, COMMITTEE, 0, NETWORK) == OP
    except Error:
        return False


def test_mutant_a_quorum_that_is_one_too_small_is_noticed() -> None:
    lenient = Committee(PUBLIC, (1, 1, 1, 1))
    object.__setattr__(lenient, "quorum", 2)
    two = with_votes(lambda votes: votes[:2])
    assert not accepts(two)
    assert verify_certificate(two, lenient, 0, NETWORK) == OP


def test_mutant_votes_without_signatures_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    forged = changed(vote=0, signature=bytes(64))
    assert not accepts(forged)
    monkeypatch.setattr("ainp2p.ledger.voting.certificate.verify", lambda *_: None)
    assert accepts(forged)
