from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.errors import Malformed
from ainp2p.ledger.rules.merkle import EMPTY_ROOT, MerkleTree, root_from_path
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
