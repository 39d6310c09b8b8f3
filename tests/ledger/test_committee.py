from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.errors import InvalidInput
from ainp2p.ledger.committee import Committee

KEYS = tuple(bytes([i]) * 32 for i in range(31))


@given(st.lists(st.integers(1, 2**57), min_size=1, max_size=31))
def test_a_quorum_is_the_least_weight_above_two_thirds(weights: list[int]) -> None:
    committee = Committee(KEYS[: len(weights)], tuple(weights))
    total = sum(weights)
    assert 3 * committee.quorum > 2 * total >= 3 * (committee.quorum - 1)
    assert 3 * committee.minority > total >= 3 * (committee.minority - 1)
    # Two quorums share more than a third: at least one correct member if at most a third is faulty.
    assert 3 * (2 * committee.quorum - total) > total


@pytest.mark.parametrize(("n", "quorum"), [(1, 1), (2, 2), (3, 3), (4, 3), (6, 5), (7, 5), (10, 7)])
def test_quorums_of_equals(n: int, quorum: int) -> None:
    assert Committee(KEYS[:n], (1,) * n).quorum == quorum


def test_weights_are_summed_by_place() -> None:
    committee = Committee(KEYS[:3], (5, 7, 11))
    assert committee.weight_of([0, 2]) == 16
    assert committee.index[KEYS[2]] == 2


@pytest.mark.parametrize(
    ("keys", "weights"),
    [
        pytest.param((), (), id="nobody"),
        pytest.param(KEYS[:2], (1,), id="a weight missing"),
        pytest.param(KEYS[:2], (1, 0), id="weight 0"),
        pytest.param((KEYS[1], KEYS[0]), (1, 1), id="not sorted"),
        pytest.param((KEYS[0], KEYS[0]), (1, 1), id="named twice"),
    ],
)
def test_refused(keys: tuple[bytes, ...], weights: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput):
        Committee(keys, weights)
