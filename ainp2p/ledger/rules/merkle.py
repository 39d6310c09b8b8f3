"""Merkle trees over a batch's entries: one hash to sign, a short path to show one entry of it.

The tree of RFC 6962 (§2.1) with blake2b-256: a list is split at the largest power of two below its
length, so a lone last node moves up unchanged. Leaves and nodes are hashed under different `person` tags,
so that no node can pass for an entry. No I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b

from ainp2p.errors import Malformed
from ainp2p.protocol.identity import digest

HASH_SIZE = 32
_LEAF = b"ainp2p/leaf/1"
_NODE = b"ainp2p/node/1"
# Copied for each hash: a third of what making one by its parameters takes, and a batch has 511 of them.
_LEAF_STATE = blake2b(digest_size=HASH_SIZE, person=_LEAF)
_NODE_STATE = blake2b(digest_size=HASH_SIZE, person=_NODE)
EMPTY_ROOT = digest(b"ainp2p/noleaf/1")  # the root over nothing: an idle validator's batch


class MerkleTree:
    """All hashes over `leaves`, in their order.

    Attributes:
        root: 32 bytes.
    """

    __slots__ = ("_levels", "root")

    def __init__(self, leaves: Sequence[bytes], *, nodes: Sequence[bytes] = ()) -> None:
        """Either over `leaves`, or over the `nodes` that one level of a larger tree has."""
        level = _hashed(_LEAF_STATE, leaves) or list(nodes)
        self._levels = [level]
        while len(level) > 1:
            level = _level_above(level)
            self._levels.append(level)
        self.root = level[0] if level else EMPTY_ROOT

    def path(self, index: int) -> bytes:
        """The siblings from leaf `index` up to the root, joined: at most 32 bytes for each halving."""
        path = []
        for level in self._levels[:-1]:
            if index ^ 1 < len(level):
                path.append(level[index ^ 1])
            index >>= 1
        return b"".join(path)

    def range_path(self, first: int, last: int) -> bytes:
        """What `root_from_range` needs beside the leaves `first` to `last`: the siblings at both ends."""
        path = b""
        for level in self._levels[:-1]:
            if first & 1:
                path += level[first - 1]
            if not last & 1 and last + 1 < len(level):
                path += level[last + 1]
            first, last = first >> 1, last >> 1
        return path


def root_from_range(leaves: Sequence[bytes], index: int, count: int, path: bytes) -> bytes:
    """The root of a tree of `count` leaves in which `leaves` have the places from `index` on.

    Raises:
        Malformed: no leaves, no such places, or a path of another length than such a tree has.
    """
    if not leaves or not 0 <= index <= count - len(leaves):
        raise Malformed(f"{len(leaves)} leaves from {index} on, of {count}")
    level = _hashed(_LEAF_STATE, leaves)
    first, last, end, at = index, index + len(leaves) - 1, count - 1, 0
    while end:
        if first & 1:
            level.insert(0, path[at : at + HASH_SIZE])
            at += HASH_SIZE
        if not last & 1 and last < end:  # else the last node is alone on its level and moves up
            level.append(path[at : at + HASH_SIZE])
            at += HASH_SIZE
        level = _level_above(level)
        first, last, end = first >> 1, last >> 1, end >> 1
    if at != len(path):
        raise Malformed(f"a Merkle path of {len(path)} bytes where {at} are needed")
    return level[0]


def root_from_path(leaf: bytes, index: int, count: int, path: bytes) -> bytes:
    """The root of a tree of `count` leaves in which `leaf` has place `index`.

    Raises:
        Malformed: a path of another length than such a tree has, or no such place.
    """
    if not 0 <= index < count:
        raise Malformed(f"leaf {index} of {count}")
    node, at, last = digest(_LEAF, leaf), 0, count - 1
    while last:
        if index & 1 or index < last:  # else the last node is alone on its level and moves up
            sibling = path[at : at + HASH_SIZE]
            state = _NODE_STATE.copy()
            state.update(sibling + node if index & 1 else node + sibling)
            node = state.digest()
            at += HASH_SIZE
        index, last = index >> 1, last >> 1
    if at != len(path):
        raise Malformed(f"a Merkle path of {len(path)} bytes where {at} are needed")
    return node


class KnownPath:
    """A path to a root that is known to be good: others of its tree are followed up to where they meet it.

    Neighbours meet after two hashes on average, where `root_from_path` takes one for each halving. What lies
    above must be there byte for byte: who passes a path on must not pass on one that others refuse.

    Attributes:
        root: where it leads; whether that is good, whoever makes one has to know.
    """

    __slots__ = ("_count", "_index", "_nodes", "_path", "root")

    def __init__(self, leaf: bytes, index: int, count: int, path: bytes) -> None:
        """Follow it to its end.

        Raises:
            Malformed: as `root_from_path`.
        """
        self.root = root_from_path(leaf, index, count, path)
        self._count, self._index, self._path = count, index, path
        self._nodes: list[tuple[bytes, int]] = []  # from the leaf up: hash, and how much of the path follows
        node, at, last = leaf_hash(leaf), 0, count - 1
        while last:
            self._nodes.append((node, len(path) - at))
            if index & 1 or index < last:
                node, at = _parent(node, path[at : at + HASH_SIZE], index), at + HASH_SIZE
            index, last = index >> 1, last >> 1
        self._nodes.append((node, 0))

    def meets(self, leaf: bytes, index: int, path: bytes) -> bool:
        """Whether this leads to the same root, from another leaf perhaps; the next may begin from there."""
        if not 0 <= index < self._count:
            return False
        node, at, place, last, mine = leaf_hash(leaf), 0, index, self._count - 1, self._index
        below: list[tuple[bytes, int]] = []
        for known, rest in self._nodes:
            if place == mine:
                if node != known or path[at:] != self._path[len(self._path) - rest :]:
                    return False
                self._nodes[: len(below)] = below
                self._index, self._path = index, path
                return True
            below.append((node, len(path) - at))
            if place & 1 or place < last:
                node, at = _parent(node, path[at : at + HASH_SIZE], place), at + HASH_SIZE
            place, last, mine = place >> 1, last >> 1, mine >> 1
        return False


def leaf_hash(leaf: bytes) -> bytes:
    """What stands for an entry in the tree's lowest level."""
    state = _LEAF_STATE.copy()
    state.update(leaf)
    return state.digest()


def _parent(node: bytes, sibling: bytes, index: int) -> bytes:
    state = _NODE_STATE.copy()
    state.update(sibling + node if index & 1 else node + sibling)
    return state.digest()


def _level_above(level: list[bytes]) -> list[bytes]:
    pairs = [left + right for left, right in zip(level[::2], level[1::2], strict=False)]
    above = _hashed(_NODE_STATE, pairs)
    if len(level) & 1:
        above.append(level[-1])
    return above


def _hashed(state: blake2b, parts: Iterable[bytes]) -> list[bytes]:
    copy, hashes = state.copy, []
    for part in parts:
        each = copy()
        each.update(part)
        hashes.append(each.digest())
    return hashes
