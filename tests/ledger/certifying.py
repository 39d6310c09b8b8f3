"""Certificates of any committee and epoch, made by hand: for tests that need no validators."""

from __future__ import annotations

from collections.abc import Sequence

from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.rules.merkle import MerkleTree
from ainp2p.ledger.voting.certificate import build_certificate
from ainp2p.ledger.voting.votelog import (
    BATCH_VERSION,
    COMMIT,
    LOCK,
    Header,
    VoteBatch,
    commit_entry,
    lock_entry,
    sign_batch,
)
from ainp2p.protocol.identity import Key

from .world import key_of


def member_keys(count: int, prefix: str = "validator") -> list[Key]:
    """Keys in the order of a committee's members."""
    return sorted((key_of(f"{prefix} {i}") for i in range(count)), key=lambda key: key.public)


def committee_of(keys: Sequence[Key], weights: Sequence[int] | None = None) -> Committee:
    return Committee(tuple(key.public for key in keys), tuple(weights or [1] * len(keys)))


def certify(
    keys: Sequence[Key],
    network: bytes,
    operation: bytes,
    *,
    kind: int = COMMIT,
    epoch: int = 0,
    view: int = 0,
    members: Sequence[int] | None = None,
    weights: Sequence[int] | None = None,
) -> bytes:
    """A certificate of these members' votes, be they a quorum or not."""
    leaf = commit_entry(view, operation) if kind == COMMIT else lock_entry(view, operation)
    chosen = list(range(len(keys)) if members is None else members)

    def batch_of(member: int, height: int) -> VoteBatch:
        root = MerkleTree([leaf]).root
        header = Header(BATCH_VERSION, network, epoch, keys[member].public, height, network, 1, root, 1)
        return sign_batch(header, [leaf], keys[member], member)

    # Whoever is not chosen weighs next to nothing, so that the chosen ones are a quorum to the builder.
    lop_sided = [1000 * (weights or [1] * len(keys))[i] if i in chosen else 1 for i in range(len(keys))]
    return build_certificate([(member, 1, 0) for member in chosen], batch_of, committee_of(keys, lop_sided))


__all__ = ["COMMIT", "LOCK", "certify", "committee_of", "member_keys"]
