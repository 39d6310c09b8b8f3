"""Integer embeddings: exact search, central sentences, ties by place."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.errors import InvalidInput
from ainp2p.swarm.vectors import SCALE, Index, central, cosine_millionths, dot, unit

COMPONENTS = st.lists(st.floats(-10, 10, width=32), min_size=3, max_size=3).filter(lambda c: any(c))


@given(COMPONENTS)
def test_a_unit_vector_has_its_length_up_to_rounding(components: list[float]) -> None:
    length = math.sqrt(dot(unit(components), unit(components)))
    assert length == pytest.approx(SCALE, abs=2)


@given(COMPONENTS, COMPONENTS)
def test_cosines_agree_with_floating_point(a: list[float], b: list[float]) -> None:
    expected = sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))
    assert cosine_millionths(unit(a), unit(b)) == pytest.approx(expected * 1e6, abs=300)


def test_size_does_not_matter_but_direction_does() -> None:
    assert unit([3, 4]) == unit([3e-30, 4e-30]) == unit([300, 400])
    assert cosine_millionths(unit([1, 0]), unit([-1, 0])) == -1_000_000


@pytest.mark.parametrize(
    "components",
    [
        pytest.param([], id="empty"),
        pytest.param([0.0, 0.0], id="zeros"),
        pytest.param([1.0, math.nan], id="not a number"),
        pytest.param([1.0, math.inf], id="infinite"),
        pytest.param([1.0] * 8_193, id="too long"),
    ],
)
def test_what_has_no_direction_is_refused(components: list[float]) -> None:
    with pytest.raises(InvalidInput):
        unit(components)


def test_vectors_of_different_length_are_not_compared() -> None:
    with pytest.raises(InvalidInput):
        dot((1, 2), (1, 2, 3))


# --- search -------------------------------------------------------------------------------------------


def index_of(**vectors: tuple[int, ...]) -> Index[str]:
    index: Index[str] = Index()
    for key, vector in vectors.items():
        index.add(key, vector)
    return index


def test_the_nearest_comes_first_whatever_its_length() -> None:
    index = index_of(far=(0, 9), near=(100, 1), opposite=(-5, 0), middle=(3, 3))
    assert [hit.key for hit in index.search((1, 0), 9)] == ["near", "middle", "far", "opposite"]
    assert index.search((1, 0), 1)[0].cosine_millionths == 999_950


def test_ties_keep_the_order_in_which_they_were_added() -> None:
    index = index_of(b=(2, 2), a=(1, 1), c=(3, 3))
    assert [hit.key for hit in index.search((1, 1), 3)] == ["b", "a", "c"]


@given(st.lists(st.tuples(*[st.integers(-9, 9)] * 3).filter(any), min_size=1, max_size=12))
def test_search_gives_all_in_falling_order(vectors: list[tuple[int, ...]]) -> None:
    index: Index[int] = Index()
    for key, vector in enumerate(vectors):
        index.add(key, vector)
    hits = index.search((1, 2, 3), len(vectors))
    assert sorted(hit.key for hit in hits) == list(range(len(vectors)))
    assert [h.cosine_millionths for h in hits] == sorted((h.cosine_millionths for h in hits), reverse=True)


def test_a_key_is_replaced() -> None:
    index = index_of(a=(1, 0))
    index.add("a", (0, 1))
    assert len(index) == 1
    assert index.search((0, 1), 5)[0].cosine_millionths == 1_000_000


def test_an_empty_index_finds_nothing() -> None:
    assert Index[str]().search((1, 2), 3) == []


@pytest.mark.parametrize("vector", [(0, 0), (1, 2, 3)], ids=["zeros", "another length"])
def test_a_vector_that_does_not_fit_is_refused(vector: tuple[int, ...]) -> None:
    index = index_of(a=(1, 0))
    with pytest.raises(InvalidInput):
        index.add("b", vector)
    assert len(index) == 1


# --- central sentences ---------------------------------------------------------------------------------

X, Y, XY = unit([1, 0]), unit([0, 1]), unit([1, 1])


def test_the_sentence_most_like_the_others_is_central() -> None:
    assert central([X, XY, Y], 1) == [1]


def test_central_sentences_come_in_the_order_of_the_text() -> None:
    assert central([unit([1, 9]), X, unit([9, 1]), XY], 2, alike_millionths=1_000_000) == [2, 3]


def test_ties_go_to_the_earlier_sentence() -> None:
    assert central([X, Y], 1) == [0]
    assert central([Y, X], 1) == [0]


def test_the_same_words_are_not_quoted_twice() -> None:
    assert central([XY, XY, X], 2) == [0, 2]
    assert central([XY, XY, XY], 3) == [0]


def test_nothing_has_no_centre() -> None:
    assert central([], 3) == []
