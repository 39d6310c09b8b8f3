"""The Merkle tree over everything that a state holds; its root is what a COMMITTEE carries as a checkpoint.

    leaf = [kind, id, state]: 0 the System, 1 accounts, 2 open Locks, 3 unconsumed credits, 4 what was burnt

Leaves are sorted by (kind, id), and the root covers their number, so that equal states and no others have
equal roots. A `StateProof` shows one leaf under a root, complete in itself; `verify_range` some that stand
beside each other. Ended Locks are no part of it:
nothing can happen to them. No I/O.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec

from ainp2p.errors import InvalidInput, InvalidOperation
from ainp2p.ledger.rules.merkle import HASH_SIZE, MerkleTree, root_from_path, root_from_range
from ainp2p.protocol.codec import Message, Uint, encode
from ainp2p.protocol.identity import digest

SYSTEM, ACCOUNT, LOCK, CREDIT, BURNT = range(5)
LEAF_SIZE_MAX = 48 * 1024  # bytes; the System's is the largest


class Leaf(Message, frozen=True):
    """One object of a state."""

    kind: Annotated[int, msgspec.Meta(ge=0, le=BURNT)]
    id: Annotated[bytes, msgspec.Meta(min_length=32, max_length=34)]  # a credit's has 34 bytes
    state: Annotated[bytes, msgspec.Meta(max_length=LEAF_SIZE_MAX)]  # its encoded message


class StateProof(Message, frozen=True):
    """A leaf, its place, and the path from there to a root."""

    leaf: Leaf
    index: Uint
    count: Uint  # leaves of the whole tree
    path: Annotated[bytes, msgspec.Meta(max_length=64 * HASH_SIZE)]


class StateTree:
    """All leaves of one state.

    Attributes:
        root: 32 bytes.
    """

    def __init__(self, leaves: Iterable[Leaf]) -> None:
        """`leaves` in whatever order, each object once."""
        self._leaves = sorted(leaves, key=_place)
        self._tree = MerkleTree([encode(leaf) for leaf in self._leaves])
        self.root = root_of(len(self._leaves), self._tree.root)

    def prove(self, kind: int, id_: bytes) -> StateProof:
        """A proof that this object is what it is.

        Raises:
            InvalidInput: the state holds no such object.
        """
        index = bisect_left(self._leaves, (kind, id_), key=_place)
        if index == len(self._leaves) or _place(self._leaves[index]) != (kind, id_):
            raise InvalidInput("the state holds no such object")
        return StateProof(self._leaves[index], index, len(self._leaves), self._tree.path(index))


def verify_path(proof: StateProof, root: bytes) -> Leaf:
    """The leaf that a proof shows to be part of the state with this root.

    Raises:
        Malformed: a path of another length than such a tree has.
        InvalidOperation: rule ``"state-proof"``, it shows nothing under this root.
    """
    inner = root_from_path(encode(proof.leaf), proof.index, proof.count, proof.path)
    if root_of(proof.count, inner) != root:
        raise InvalidOperation("state-proof", "the leaf is not under this root")
    return proof.leaf


def verify_range(leaves: Sequence[bytes], index: int, count: int, path: bytes, root: bytes) -> None:
    """Check that these encoded leaves are the state's from place `index` on.

    Args:
        count: leaves of the whole tree.
        path: as `MerkleTree.range_path`.

    Raises:
        Malformed: no leaves, or a path of another length than such a tree has.
        InvalidOperation: rule ``"state-proof"``, they are not under this root.
    """
    if root_of(count, root_from_range(leaves, index, count, path)) != root:
        raise InvalidOperation("state-proof", "the leaves are not under this root")


def _place(leaf: Leaf) -> tuple[int, bytes]:
    return leaf.kind, leaf.id


def root_of(count: int, inner: bytes) -> bytes:
    """The root over `count` leaves whose Merkle tree has this root."""
    return digest(b"ainp2p/root/1", count.to_bytes(8, "big"), inner)
