"""Certificates: proof, to anybody who knows the committee, that a quorum has voted for an operation.

A quorum of COMMITs in one view is a *commit* certificate: the operation is final. A quorum of LOCKs is a
*prepared* one. Each vote is shown by its batch's header, the signature over it, and the vote's Merkle path
(the header's root follows from the path, its network, epoch and version are the verifier's own). With 4
validators of equal weight and full batches that makes 1.2 kB. No I/O.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated

import msgspec

from ainp2p.errors import InvalidOperation
from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.rules.merkle import KnownPath, root_from_path
from ainp2p.ledger.voting.seen_votes import SeenVotes
from ainp2p.ledger.voting.votelog import (
    BATCH_VERSION,
    COMMIT,
    ENTRIES_MAX,
    LOCK,
    SIGN_VOTES,
    VIEW_MAX,
    Header,
    VoteBatch,
    commit_entry,
    lock_entry,
)
from ainp2p.protocol.codec import Bytes32, Message, Positive, Signature, Uint, encode, fast_decoder
from ainp2p.protocol.identity import verify

CERTIFICATE_SIZE_MAX = 32 * 1024  # bytes; 31 votes of at most 0.5 kB each
_MEMBERS_MAX = 64
_PATH_SIZE_MAX = 8 * 32  # 256 entries are 8 halvings

Check = Callable[[bytes, bytes, bytes, bytes], None]  # key, purpose, payload, signature; raises BadSignature
Place = tuple[int, int, int]  # a vote: member's place in the committee, height of the batch, position in it


def pack_place(member: int, height: int, position: int) -> int:
    """A place as one integer below 2^64: validators keep millions of them."""
    return height << 16 | position << 8 | member


def unpack_place(packed: int) -> Place:
    """The inverse of `pack_place`."""
    return packed & 0xFF, packed >> 16, packed >> 8 & 0xFF


def encode_places(places: Sequence[int]) -> bytes:
    """Packed places as they are stored."""
    return _stored_places(len(places)).pack(*places)


def decode_places(raw: bytes) -> tuple[int, ...]:
    """The inverse of `encode_places`."""
    return _stored_places(len(raw) // 8).unpack(raw)


@functools.cache
def _stored_places(count: int) -> struct.Struct:
    return struct.Struct(f">{count}Q")


class CertifiedVote(Message, frozen=True):
    """One validator's vote, and what shows that it cast it."""

    member: Uint
    height: Positive
    previous: Bytes32
    timestamp: Uint
    count: Annotated[int, msgspec.Meta(ge=1, le=ENTRIES_MAX)]
    position: Annotated[int, msgspec.Meta(ge=0, lt=ENTRIES_MAX)]
    justification: Bytes32 | None
    path: Annotated[bytes, msgspec.Meta(max_length=_PATH_SIZE_MAX)]
    signature: Signature


class Certificate(Message, frozen=True):
    """Votes of one kind, in one view, for one operation; members in rising order."""

    kind: Annotated[int, msgspec.Meta(ge=LOCK, le=COMMIT)]
    epoch: Uint
    view: Annotated[int, msgspec.Meta(ge=0, le=VIEW_MAX)]
    operation: Bytes32
    votes: Annotated[tuple[CertifiedVote, ...], msgspec.Meta(min_length=1, max_length=_MEMBERS_MAX)]


read_certificate = fast_decoder(Certificate, size_max=CERTIFICATE_SIZE_MAX)


def certificate_epoch(raw: bytes) -> int:
    """The epoch that a certificate names, read from its first bytes and nothing else; 0 if it is none."""
    # [kind, epoch, …]: both are MessagePack integers, the first below 128.
    lead = raw[2] if len(raw) > 2 else 0
    if lead < 0x80:
        return lead
    size = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}.get(lead, 0)
    return int.from_bytes(raw[3 : 3 + size], "big")


def build_certificate(
    places: Iterable[Place], batch_of: Callable[[int, int], VoteBatch], committee: Committee
) -> bytes:
    """The encoded certificate of the votes at these places, which say the same: as few as make a quorum.

    Args:
        batch_of: (member, height) → the batch that holds the vote.
    """
    chosen = sorted(_lightest_quorum(places, committee))
    batches = [batch_of(member, height) for member, height, _ in chosen]
    (kind, view, operation), _ = batches[0].entry(chosen[0][2])
    votes = tuple(
        _certified(batch, position) for batch, (_, _, position) in zip(batches, chosen, strict=True)
    )
    return encode(Certificate(kind, batches[0].header.epoch, view, operation, votes))


def verify_certificate(raw: bytes, committee: Committee, epoch: int, network: bytes) -> bytes:
    """The id of the operation that is final by this commit certificate.

    Raises:
        Malformed: not a certificate.
        InvalidOperation: rule ``"certificate"``: what it shows is no quorum of this committee and epoch.
        BadSignature: a vote was not signed by its member.
    """
    return _verified(raw, COMMIT, committee, epoch, network).operation


def verify_decided(
    raw: bytes, committee: Committee, epoch: int, network: bytes, seen: SeenVotes
) -> tuple[int, bytes]:
    """The view, and the id of the operation that is final by this commit certificate.

    Lemma L5 (docs/ledger-proof.md): a commit certificate makes its operation the only one of its slot.

    Args:
        seen: what was verified before, for whoever reads many.

    Raises:
        Malformed, InvalidOperation, BadSignature: as `verify_certificate`.
    """
    return verify_final(read_certificate(raw), committee, epoch, network, seen)


def verify_final(
    certificate: Certificate, committee: Committee, epoch: int, network: bytes, seen: SeenVotes
) -> tuple[int, bytes]:
    """As `verify_decided`, for who has read it.

    Raises:
        InvalidOperation, BadSignature: as `verify_certificate`.
    """
    _verify(certificate, COMMIT, committee, epoch, network, seen)
    return certificate.view, certificate.operation


def verify_prepared(raw: bytes, committee: Committee, epoch: int, network: bytes) -> tuple[int, bytes]:
    """The view, and the id of the operation that is prepared in it, by this prepared certificate.

    Lemma L3 (docs/ledger-proof.md): it shows a quorum's LOCKs of one view, and nothing else.

    Raises:
        Malformed, InvalidOperation, BadSignature: as `verify_certificate`.
    """
    certificate = _verified(raw, LOCK, committee, epoch, network)
    return certificate.view, certificate.operation


def _verified(raw: bytes, kind: int, committee: Committee, epoch: int, network: bytes) -> Certificate:
    certificate = read_certificate(raw)
    _verify(certificate, kind, committee, epoch, network, None)
    return certificate


def _verify(
    certificate: Certificate,
    kind: int,
    committee: Committee,
    epoch: int,
    network: bytes,
    seen: SeenVotes | None,
) -> None:
    members = [vote.member for vote in certificate.votes]
    if certificate.kind != kind:
        raise InvalidOperation("certificate", "of the other phase")
    if certificate.epoch != epoch:
        raise InvalidOperation("certificate", f"of epoch {certificate.epoch}, not {epoch}")
    if members != sorted(set(members)) or members[-1] >= len(committee.keys):
        raise InvalidOperation("certificate", "a member is named twice, out of order, or does not exist")
    if committee.weight_of(members) < committee.quorum:
        raise InvalidOperation("certificate", f"weight {committee.weight_of(members)} is no quorum")
    for vote in certificate.votes:
        record = _record_of(certificate, vote)
        if seen is None:
            root = root_from_path(record, vote.position, vote.count, vote.path)
            _check(verify, certificate, vote, committee, network, root)
            continue
        # All that the header says but its root, which the path shows, and who signed it.
        batch = (
            network,
            epoch,
            committee.keys[vote.member],
            vote.height,
            vote.previous,
            vote.timestamp,
            vote.count,
            vote.signature,
        )
        if not seen.knows(batch, record, vote.position, vote.path):
            path = KnownPath(record, vote.position, vote.count, vote.path)
            _check(seen.check, certificate, vote, committee, network, path.root)
            seen.remember(batch, path)


def _record_of(certificate: Certificate, vote: CertifiedVote) -> bytes:
    """What the member must have written into its log."""
    if certificate.kind == LOCK:
        return lock_entry(certificate.view, certificate.operation, vote.justification)
    if vote.justification is not None:
        raise InvalidOperation("certificate", "a COMMIT has no justification")
    return commit_entry(certificate.view, certificate.operation)


def _check(
    check: Check,
    certificate: Certificate,
    vote: CertifiedVote,
    committee: Committee,
    network: bytes,
    root: bytes,
) -> None:
    """Whether the member has signed the header with this root."""
    header = Header(
        version=BATCH_VERSION,
        network=network,
        epoch=certificate.epoch,
        validator=committee.keys[vote.member],
        height=vote.height,
        previous=vote.previous,
        timestamp=vote.timestamp,
        root=root,
        count=vote.count,
    )
    check(header.validator, SIGN_VOTES, encode(header), vote.signature)


def _lightest_quorum(places: Iterable[Place], committee: Committee) -> list[Place]:
    """The heaviest members first, until they are a quorum."""
    chosen: dict[int, Place] = {}
    weight, weights = 0, committee.weights
    for place in sorted(places, key=lambda place: (-weights[place[0]], place)):
        if weight >= committee.quorum:
            break
        if place[0] not in chosen:
            chosen[place[0]] = place
            weight += weights[place[0]]
    if weight < committee.quorum:
        raise InvalidOperation("certificate", "these votes are no quorum")
    return list(chosen.values())


def _certified(batch: VoteBatch, position: int) -> CertifiedVote:
    header = batch.header
    return CertifiedVote(
        member=batch.member,
        height=header.height,
        previous=header.previous,
        timestamp=header.timestamp,
        count=header.count,
        position=position,
        justification=batch.entry(position)[1],
        path=batch.path(position),
        signature=batch.signature,
    )


__all__ = [
    "Certificate",
    "CertifiedVote",
    "Place",
    "build_certificate",
    "certificate_epoch",
    "decode_places",
    "encode_places",
    "read_certificate",
    "verify_certificate",
    "verify_decided",
    "verify_final",
    "verify_prepared",
]
