from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.errors import Malformed
from ainp2p.ledger.rules.merkle import (
    EMPTY_ROOT,
    KnownPath,
    MerkleTree,
    root_from_path,
    root_from_range,
)
from ainp2p.protocol.identity import digest

LEAVES = [bytes([i]) * 37 for i in range(7)]


def test_the_tree_is_that_of_rfc_6962() -> None:
    leaf = [digest(b"ainp2p/leaf/1", each) for each in LEAVES]

    def node(left: bytes, right: bytes) -> bytes:
        return digest(b"ainp2p/node/1", left, right)

    left = node(node(leaf[0], leaf[1]), node(leaf[2], leaf[3]))
    assert MerkleTree(LEAVES).root == node(left, node(node(leaf[4], leaf[5]), leaf[6]))
    assert MerkleTree(LEAVES[:1]).root == leaf[0]
    assert MerkleTree([]).root == EMPTY_ROOT


@given(st.integers(1, 256), st.data())
def test_every_leaf_of_every_size_has_a_short_path_to_the_root(count: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, count - 1))
    leaves = [i.to_bytes(2, "big") for i in range(count)]
    tree = MerkleTree(leaves)
    path = tree.path(index)
    assert len(path) <= 8 * 32
    assert root_from_path(leaves[index], index, count, path) == tree.root


@given(st.integers(2, 64), st.data())
def test_a_path_shows_no_other_leaf_place_or_count(count: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, count - 1))
    leaves = [i.to_bytes(2, "big") for i in range(count)]
    tree = MerkleTree(leaves)
    other = data.draw(st.integers(0, count - 1).filter(lambda i: i != index))

    def shown(leaf: bytes, index: int, count: int) -> bool:
        try:
            return root_from_path(leaf, index, count, tree.path(data_index)) == tree.root
        except Malformed:
            return False

    data_index = index
    assert shown(leaves[index], index, count)
    assert not shown(leaves[other], index, count)
    assert not shown(leaves[index], other, count)
    assert not shown(b"another", index, count)


def test_a_node_does_not_pass_for_a_leaf() -> None:
    leaf = [digest(b"ainp2p/leaf/1", each) for each in LEAVES[:4]]
    inner, other = leaf[0] + leaf[1], digest(b"ainp2p/node/1", leaf[2], leaf[3])
    assert root_from_path(inner, 0, 2, other) != MerkleTree(LEAVES[:4]).root


@pytest.mark.parametrize(
    ("index", "count", "path"),
    [
        pytest.param(0, 0, b"", id="no leaves"),
        pytest.param(4, 4, bytes(64), id="no such place"),
        pytest.param(-1, 4, bytes(64), id="a negative place"),
        pytest.param(0, 4, bytes(32), id="path too short"),
        pytest.param(0, 4, bytes(96), id="path too long"),
        pytest.param(0, 4, bytes(63), id="path cut off"),
        pytest.param(0, 1, bytes(32), id="a path where none is needed"),
    ],
)
def test_refused(index: int, count: int, path: bytes) -> None:
    with pytest.raises(Malformed):
        root_from_path(b"leaf", index, count, path)


# --- beside a known path --------------------------------------------------------------------------------


def leads(leaf: bytes, index: int, count: int, path: bytes, root: bytes) -> bool:
    try:
        return root_from_path(leaf, index, count, path) == root
    except Malformed:
        return False


@given(st.integers(1, 40), st.data())
def test_what_meets_a_known_path_is_what_leads_to_its_root(count: int, data: st.DataObject) -> None:
    places = st.integers(0, count - 1)
    leaves = [i.to_bytes(2, "big") for i in range(count)]
    tree = MerkleTree(leaves)
    first = data.draw(places)
    known = KnownPath(leaves[first], first, count, tree.path(first))
    assert known.root == tree.root
    for index in data.draw(st.lists(places, max_size=6)):
        leaf, place, path = leaves[index], index, tree.path(index)
        changed = data.draw(st.sampled_from(["nothing", "leaf", "place", "path", "cut", "more", "another's"]))
        if changed == "leaf":
            leaf = leaves[data.draw(places)]
        elif changed == "place":
            place = data.draw(st.integers(-1, count + 1))
        elif changed == "path" and path:
            at = data.draw(st.integers(0, len(path) - 1))
            path = path[:at] + bytes([path[at] ^ 1]) + path[at + 1 :]
        elif changed == "cut":
            path = path[: data.draw(st.integers(0, len(path)))]
        elif changed == "more":
            path += bytes(32)
        elif changed == "another's":
            path = tree.path(data.draw(places))
        assert known.meets(leaf, place, path) == leads(leaf, place, count, path, tree.root)


def test_a_known_path_is_one_that_leads_somewhere() -> None:
    with pytest.raises(Malformed):
        KnownPath(b"leaf", 0, 4, bytes(63))


# --- ranges -------------------------------------------------------------------------------------------


def range_of(data: st.DataObject, most: int = 70) -> tuple[list[bytes], int, int]:
    """All leaves of a tree, and the places of the first and the last of some."""
    count = data.draw(st.integers(1, most))
    first = data.draw(st.integers(0, count - 1))
    return [i.to_bytes(2, "big") for i in range(count)], first, data.draw(st.integers(first, count - 1))


@given(st.data())
def test_leaves_beside_each_other_have_one_short_path(data: st.DataObject) -> None:
    leaves, first, last = range_of(data)
    tree = MerkleTree(leaves)
    path = tree.range_path(first, last)
    assert len(path) <= 2 * 7 * 32
    assert root_from_range(leaves[first : last + 1], first, len(leaves), path) == tree.root


@given(st.data())
def test_a_range_of_one_is_a_path(data: st.DataObject) -> None:
    leaves, first, _ = range_of(data)
    tree = MerkleTree(leaves)
    assert tree.range_path(first, first) == tree.path(first)


@given(st.data())
def test_a_range_shows_no_other_leaves(data: st.DataObject) -> None:
    leaves, first, last = range_of(data)
    tree = MerkleTree(leaves)
    path, shown = tree.range_path(first, last), leaves[first : last + 1]
    at = data.draw(st.integers(0, len(shown) - 1))
    false = [*shown[:at], b"another", *shown[at + 1 :]]
    assert root_from_range(false, first, len(leaves), path) != tree.root
    if len(shown) > 1 and shown != shown[::-1]:
        assert root_from_range(shown[::-1], first, len(leaves), path) != tree.root


@given(st.data())
def test_a_range_shows_no_leaves_more_or_less(data: st.DataObject) -> None:
    leaves, first, last = range_of(data)
    tree = MerkleTree(leaves)
    path = tree.range_path(first, last)
    for other, index in (
        (leaves[first:last], first),
        (leaves[first + 1 : last + 1], first + 1),
        ([*leaves[first : last + 1], b"one more"], first),
    ):
        try:
            found = root_from_range(other, index, len(leaves), path)
        except Malformed:
            continue
        assert found != tree.root


@pytest.mark.parametrize(("index", "count"), [(-1, 7), (6, 7), (2**62, 7), (0, 1), (0, 0)], ids=str)
def test_a_range_at_no_place_is_malformed(index: int, count: int) -> None:
    with pytest.raises(Malformed):
        root_from_range(LEAVES[:2], index, count, b"")


def test_a_range_of_nothing_or_with_a_path_of_another_length_is_malformed() -> None:
    tree = MerkleTree(LEAVES)
    with pytest.raises(Malformed):
        root_from_range([], 0, 7, b"")
    for path in (b"", tree.range_path(1, 3)[:-1], tree.range_path(1, 3) + bytes(32)):
        with pytest.raises(Malformed):
            root_from_range(LEAVES[1:4], 1, 7, path)


def test_a_range_of_a_tree_without_end_is_malformed_at_once() -> None:
    with pytest.raises(Malformed):
        root_from_range(LEAVES[:2], 2**62, 2**63 - 1, bytes(32))
