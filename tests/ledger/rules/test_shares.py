from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.errors import InvalidInput
from ainp2p.ledger.rules.operations import Share
from ainp2p.ledger.rules.shares import DEPTH_MAX, dust, flatten_shares, received

from ..world import World

A, B, C = (bytes([n]) * 32 for n in (1, 2, 3))


def test_a_flat_split_stays_in_lowest_terms_and_sorted() -> None:
    assert flatten_shares([(B, 20), (A, 60)]) == (Share(A, 3), Share(B, 1))


def test_parts_of_parts_become_parts_of_the_whole() -> None:
    split: Any = [(A, 3), ([(B, 1), ([(C, 1), (A, 1)], 1)], 2)]
    assert flatten_shares(split) == (Share(A, 7), Share(B, 2), Share(C, 1))


def test_one_account_alone_has_one_part() -> None:
    assert flatten_shares([([(A, 7)], 9)]) == (Share(A, 1),)


def nested(depth: int) -> Any:
    split: Any = [(A, 1)]
    for _ in range(depth - 1):
        split = [(split, 1)]
    return split


@pytest.mark.parametrize(
    "split",
    [
        pytest.param([], id="nobody"),
        pytest.param([([], 1)], id="an empty split inside"),
        pytest.param([(A, 0)], id="no parts"),
        pytest.param([(A, 2), (B, -1)], id="negative parts"),
        pytest.param([(b"short", 1)], id="no account"),
        pytest.param([(bytes([n]) * 32, 1) for n in range(17)], id="seventeen accounts"),
        pytest.param([(A, 2**62), (B, 2**62 + 1)], id="beyond 2^63 - 1"),
        pytest.param(nested(DEPTH_MAX + 1), id="too deep"),
    ],
)
def test_a_split_that_no_lock_can_have_is_refused(split: Any) -> None:
    with pytest.raises(InvalidInput):
        flatten_shares(split)


def test_the_deepest_split_is_taken() -> None:
    assert flatten_shares(nested(DEPTH_MAX)) == (Share(A, 1),)


LEAVES = st.sampled_from([A, B, C, b"\4" * 32])
SPLITS: Any = st.recursive(
    st.lists(st.tuples(LEAVES, st.integers(1, 9)), min_size=1, max_size=3),
    lambda inner: st.lists(st.tuples(LEAVES | inner, st.integers(1, 9)), min_size=1, max_size=3),
    max_leaves=8,
)


def weight_of(split: Any, account: bytes) -> Fraction:
    total = sum(parts for _, parts in split)
    return sum(
        (
            Fraction(parts, total)
            * (Fraction(whom == account) if isinstance(whom, bytes) else weight_of(whom, account))
            for whom, parts in split
        ),
        Fraction(0),
    )


@given(SPLITS)
def test_nobody_gains_by_flattening(split: Any) -> None:
    shares = flatten_shares(split)
    total = sum(share.parts for share in shares)
    for share in shares:
        assert Fraction(share.parts, total) == weight_of(split, share.account)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12))
def test_dust_never_accumulates(steps: list[int]) -> None:
    world = World()
    shares = tuple(
        sorted(
            (Share(world.ids[n], p) for n, p in zip(world.names, (3, 3, 1), strict=True)),
            key=lambda s: s.account,
        )
    )
    lock = world.open_lock(beneficiaries=shares, step=1)
    for step in steps:
        lock = world.settle(lock, lock.paid + step)
        assert sum(received(lock).values()) + dust(lock) == lock.paid
        assert 0 <= dust(lock) < len(shares)


def test_mutant_dust_rounded_at_each_settlement_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were each SETTLE rounded for itself, beneficiaries would lose up to a uain every time."""
    from ainp2p.ledger.rules import locks

    def rounded(lock: Any, cumulative: int, context: bytes) -> Any:
        more, total = cumulative - lock.paid, sum(b.parts for b in lock.beneficiaries)
        return [(i, b.account, more * b.parts // total) for i, b in enumerate(lock.beneficiaries)]

    monkeypatch.setattr(locks, "_payments", rounded)
    world = World()
    before = sum(world.wealth(name) for name in world.names)
    shares = tuple(sorted((Share(world.ids[n], 1) for n in world.names), key=lambda s: s.account))
    lock = world.open_lock(beneficiaries=shares, step=1)
    fees = before - sum(world.wealth(name) for name in world.names)
    for _ in range(6):
        lock = world.settle(lock, lock.paid + 1)
    assert before - fees != sum(world.wealth(name) for name in world.names)  # money was lost
