from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.errors import InvalidInput, InvalidOperation, Malformed
from ainp2p.ledger.rules.accounts import Account
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.merkle import MerkleTree
from ainp2p.ledger.rules.operations import credit_id
from ainp2p.ledger.rules.receipts import refund_operation
from ainp2p.ledger.rules.state import Credit, State
from ainp2p.ledger.rules.state_tree import (
    ACCOUNT,
    BURNT,
    CREDIT,
    LOCK,
    SYSTEM,
    Leaf,
    StateProof,
    StateTree,
    verify_path,
    verify_range,
)
from ainp2p.ledger.rules.system import System
from ainp2p.protocol.codec import Uint, decode, encode

from ..world import World


@pytest.fixture
def world() -> World:
    """A state with something of every kind in it."""
    world = World()
    world.do(world.spend("alice", [("bob", 5), ("bob", 6)]))
    world.open_lock()
    return world


def test_everything_that_a_state_holds_is_shown_under_its_root(world: World) -> None:
    state, tree = world.state, world.state.tree()
    assert tree.root == state.root()
    (lock,) = state.locks
    credit = next(iter(state.credits))
    for kind, id_, type_, held in (
        (SYSTEM, state.network, System, state.system),
        (ACCOUNT, world.ids["alice"], Account, world.account("alice")),
        (LOCK, lock, Lock, state.locks[lock]),
        (CREDIT, credit, Credit, state.credits[credit]),
        (BURNT, state.network, Uint, state.burnt),
    ):
        proof = decode(encode(tree.prove(kind, id_)), StateProof)  # as it travels
        leaf = verify_path(proof, state.root())
        assert (leaf.kind, leaf.id) == (kind, id_)
        assert decode(leaf.state, type_) == held


@pytest.mark.parametrize("kind", [ACCOUNT, LOCK, CREDIT])
def test_what_is_not_there_has_no_proof(world: World, kind: int) -> None:
    with pytest.raises(InvalidInput):
        world.state.tree().prove(kind, b"x" * 32)
    with pytest.raises(InvalidInput):
        world.state.tree().prove(kind, b"\xff" * 34)
    with pytest.raises(InvalidInput):
        world.state.tree().prove(LOCK, world.ids["alice"])  # that is an account's


def test_an_ended_lock_is_no_part_of_the_root(world: World) -> None:
    (lock,) = world.state.locks.values()
    world.now = lock.expiry
    world.do(refund_operation(world.network, lock))
    root = world.state.root()
    with pytest.raises(InvalidInput):
        world.state.tree().prove(LOCK, lock.id)
    world.state.ended_lock = lambda id_: None
    world.state.release(list(world.state.locks.values()))
    assert world.state.locks == {}
    assert world.state.root() == root


WRONG: list[Any] = [
    pytest.param({"index": 0}, id="another place"),
    pytest.param({"index": 2**62}, id="no place"),
    pytest.param({"count": 1}, id="fewer leaves"),
    pytest.param({"count": 2**40}, id="more leaves"),
    pytest.param({"path": b""}, id="no path"),
    pytest.param({"path": bytes(32) * 3}, id="another path"),
    pytest.param({"leaf": Leaf(ACCOUNT, b"a" * 32, b"")}, id="another leaf"),
]


@pytest.mark.parametrize("fields", WRONG)
def test_a7_a_proof_that_is_wrong_somewhere_shows_nothing(world: World, fields: dict[str, Any]) -> None:
    proof = world.state.tree().prove(ACCOUNT, world.ids["alice"])
    with pytest.raises((InvalidOperation, Malformed)):
        verify_path(msgspec.structs.replace(proof, **fields), world.state.root())


def test_a_richer_account_is_not_under_the_root(world: World) -> None:
    proof = world.state.tree().prove(ACCOUNT, world.ids["alice"])
    rich = msgspec.structs.replace(world.account("alice"), balance=10**9)
    leaf = msgspec.structs.replace(proof.leaf, state=encode(rich))
    with pytest.raises(InvalidOperation, match="state-proof"):
        verify_path(msgspec.structs.replace(proof, leaf=leaf), world.state.root())


def test_a_leaf_of_another_kind_is_another_leaf(world: World) -> None:
    proof = world.state.tree().prove(ACCOUNT, world.ids["alice"])
    leaf = msgspec.structs.replace(proof.leaf, kind=LOCK)
    with pytest.raises(InvalidOperation, match="state-proof"):
        verify_path(msgspec.structs.replace(proof, leaf=leaf), world.state.root())


IDS = st.binary(min_size=34, max_size=34)


@given(st.dictionaries(IDS, st.binary(max_size=8), min_size=1, max_size=70), st.data())
def test_every_leaf_of_any_tree_is_shown_whatever_their_order(leaves: dict[bytes, bytes], data: Any) -> None:
    made = [Leaf(CREDIT, id_, state) for id_, state in leaves.items()]
    tree = StateTree(data.draw(st.permutations(made)))
    assert tree.root == StateTree(made).root
    id_ = data.draw(st.sampled_from(sorted(leaves)))
    assert verify_path(tree.prove(CREDIT, id_), tree.root).state == leaves[id_]


def test_the_root_says_how_many_leaves_there_are() -> None:
    """Else the path of a tree could be shown for one of another size that happens to have the same nodes."""
    leaves = [Leaf(CREDIT, credit_id(b"o" * 32, n), b"") for n in range(2)]
    assert StateTree(leaves).root != MerkleTree([encode(leaf) for leaf in leaves]).root


def leaves_of(world: World) -> list[bytes]:
    """All of a state's, encoded, in their order."""
    return [encode(leaf) for leaf in world.state.tree()._leaves]


def test_leaves_beside_each_other_are_shown_under_the_root(world: World) -> None:
    leaves, tree = leaves_of(world), world.state.tree()
    for first in range(len(leaves)):
        for last in range(first, len(leaves)):
            path = tree._tree.range_path(first, last)
            verify_range(leaves[first : last + 1], first, len(leaves), path, tree.root)


@pytest.mark.parametrize("more", [1, -1, 2**40])
def test_leaves_of_a_tree_of_another_size_are_not_under_the_root(world: World, more: int) -> None:
    leaves, tree = leaves_of(world), world.state.tree()
    with pytest.raises((InvalidOperation, Malformed)):
        verify_range(leaves[:2], 0, len(leaves) + more, tree._tree.range_path(0, 1), tree.root)


def test_richer_leaves_are_not_under_the_root(world: World) -> None:
    leaves, tree = leaves_of(world), world.state.tree()
    path = tree._tree.range_path(0, 1)
    with pytest.raises(InvalidOperation, match="state-proof"):
        verify_range([leaves[0], leaves[1][:-1] + b"x"], 0, len(leaves), path, tree.root)


def _root_without_locks(patch: pytest.MonkeyPatch) -> None:
    original = State.tree

    def tree(self: State) -> StateTree:
        held, self.locks = self.locks, {}
        try:
            return original(self)
        finally:
            self.locks = held

    patch.setattr(State, "tree", tree)


def _believe_the_proof(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("ainp2p.ledger.rules.state_tree.root_of", lambda count, inner: count.to_bytes(8, "big"))


@pytest.mark.parametrize(
    ("plant", "judge"),
    [
        pytest.param(
            _root_without_locks,
            test_everything_that_a_state_holds_is_shown_under_its_root,
            id="Locks left out",
        ),
        pytest.param(
            _believe_the_proof, test_a_richer_account_is_not_under_the_root, id="roots not compared"
        ),
        pytest.param(
            _believe_the_proof, test_richer_leaves_are_not_under_the_root, id="roots of ranges not compared"
        ),
    ],
)
def test_a_mutant_tree_is_caught(
    world: World,
    plant: Callable[[pytest.MonkeyPatch], None],
    judge: Callable[[World], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch)
    with pytest.raises((AssertionError, InvalidInput, pytest.fail.Exception)):
        judge(world)
