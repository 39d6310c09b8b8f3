"""Metrics: known values, their limits, and what makes no sense."""

from __future__ import annotations

from itertools import pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.errors import InvalidInput
from ainp2p.simulation.results import metrics
from ainp2p.simulation.results.metrics import (
    cheats_share,
    fill_rate,
    gini,
    lifetime,
    lorenz,
    optimum,
    percentile,
    price_dispersion,
    survival,
    welfare,
)

AMOUNTS = st.lists(st.integers(0, 10**9), min_size=1, max_size=30)
PRICES = st.lists(st.integers(1, 100), min_size=1, max_size=6)


# --- welfare --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "costs", "best"),
    [
        pytest.param([10, 8, 5], [2, 4, 6], 12, id="the third pair would lose"),
        pytest.param([5], [5], 0, id="nothing to gain"),
        pytest.param([1], [9], 0, id="nobody should trade"),
        pytest.param([], [1], 0, id="nobody wants"),
        pytest.param([9], [], 0, id="nobody sells"),
    ],
)
def test_the_optimum_is_between_demand_and_supply(values: list[int], costs: list[int], best: int) -> None:
    assert optimum(values, costs) == best


@given(st.lists(st.integers(0, 20), max_size=4), st.lists(st.integers(0, 20), max_size=4))
def test_no_matching_makes_more_than_the_optimum(values: list[int], costs: list[int]) -> None:
    short, long = sorted((values, costs), key=len)
    made = [
        sum(max(v - c if short is values else c - v, 0) for v, c in zip(short, order, strict=False))
        for order in permutations(long)
    ]
    assert optimum(values, costs) == max(made, default=0)


def test_mutant_an_optimum_that_meets_first_with_first_is_beaten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "sorted", lambda values, reverse=False: list(values), raising=False)
    with pytest.raises(AssertionError):
        test_no_matching_makes_more_than_the_optimum()


def test_welfare_is_a_share_of_the_optimum() -> None:
    assert welfare(60, 80) == 0.75
    assert welfare(-8, 80) == -0.1
    assert welfare(0, 0) is None


# --- inequality -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amounts", "known"),
    [
        pytest.param([5, 5, 5, 5], 0.0, id="all the same"),
        pytest.param([0, 0, 0, 100], 0.75, id="one has it all"),
        pytest.param([1, 2, 3, 4], 0.25, id="a ladder"),
        pytest.param([7], 0.0, id="alone"),
    ],
)
def test_gini_has_its_known_values(amounts: list[int], known: float) -> None:
    assert gini(amounts) == pytest.approx(known)


def test_of_nothing_there_is_no_gini_and_no_curve() -> None:
    assert gini([]) is None
    assert gini([0, 0]) is None
    assert lorenz([0, 0]) == []


@pytest.mark.parametrize("measure", [gini, lorenz])
def test_negative_amounts_are_refused(measure: object) -> None:
    with pytest.raises(InvalidInput, match="no meaning"):
        measure([3, -1])  # type: ignore[operator]


@given(AMOUNTS.filter(any))
def test_gini_is_the_mean_absolute_difference_whatever_the_order(amounts: list[int]) -> None:
    count, total = len(amounts), sum(amounts)
    differences = sum(abs(a - b) for a in amounts for b in amounts)
    assert gini(amounts) == pytest.approx(differences / (2 * count * total), abs=1e-12)
    assert gini(reversed(amounts)) == gini(amounts)


@given(AMOUNTS.filter(any))
def test_the_lorenz_curve_rises_below_the_diagonal_and_encloses_gini(amounts: list[int]) -> None:
    curve = lorenz(amounts)
    assert (curve[0], curve[-1]) == ((0.0, 0.0), (1.0, 1.0))
    assert all(owned <= share + 1e-12 for share, owned in curve)
    below = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(curve))
    assert gini(amounts) == pytest.approx(1 - 2 * below, abs=1e-9)


# --- the market -----------------------------------------------------------------------------------


def test_the_fill_rate_is_done_of_asked() -> None:
    assert fill_rate(9, 10) == 0.9
    assert fill_rate(0, 0) is None


def test_dispersion_is_zero_where_all_pay_the_same() -> None:
    assert price_dispersion([3, 3, 3]) == 0
    assert price_dispersion([2, 4]) == pytest.approx(1 / 3)
    assert price_dispersion([]) is None
    assert price_dispersion([0, 0]) is None


@given(PRICES, st.integers(2, 9))
def test_dispersion_does_not_depend_on_the_currency(prices: list[int], factor: int) -> None:
    assert price_dispersion([p * factor for p in prices]) == pytest.approx(price_dispersion(prices))


def test_the_cheats_share_is_of_all_that_was_paid() -> None:
    paid = [("ada", 60), ("cheat", 30), ("bela", 10)]
    assert cheats_share(paid, {"cheat"}) == 0.3
    assert cheats_share(paid, ()) == 0
    assert cheats_share([("ada", 0)], {"ada"}) is None


def test_percentiles_are_values_that_were_measured() -> None:
    assert percentile([], 50) is None
    assert [percentile([1, 2, 3, 4], p) for p in (0, 25, 50, 51, 99, 100)] == [1, 1, 2, 3, 4, 4]


# --- lives ----------------------------------------------------------------------------------------


def test_survival_of_the_living_and_the_dead_is_the_product_limit() -> None:
    # Kaplan and Meier 1958, the example of section 1.1: of 8 items, deaths at 0.8, 3.1, 5.4 and 9.2,
    # losses at 1.0, 2.7, 7.0 and 12.1.
    lives = [(0.8, True), (3.1, True), (5.4, True), (9.2, True)]
    lives += [(1.0, False), (2.7, False), (7.0, False), (12.1, False)]
    curve = survival(lives)
    assert [age for age, _ in curve] == [0, 0.8, 3.1, 5.4, 9.2]
    assert [share for _, share in curve] == pytest.approx([1, 7 / 8, 7 / 10, 21 / 40, 21 / 80])
    assert lifetime(lives) == 9.2


def test_who_is_lost_at_the_moment_of_a_death_was_still_at_risk() -> None:
    assert survival([(1.0, True), (1.0, False)]) == [(0.0, 1.0), (1.0, 0.5)]


def test_without_the_living_lifetime_is_the_median() -> None:
    assert lifetime([(age, True) for age in (1, 2, 3, 4)]) == 2


def test_mutant_who_lives_on_counted_as_dead_would_shorten_lives() -> None:
    lives = [(1.0, True), (2.0, False), (2.0, False)]
    assert lifetime(lives) is None
    assert lifetime([(age, True) for age, _ in lives]) == 2.0


def test_nobody_has_no_lifetime() -> None:
    assert survival([]) == [(0.0, 1.0)]
    assert lifetime([]) is None


def test_a_life_shorter_than_nothing_is_refused() -> None:
    with pytest.raises(InvalidInput, match="after it was born"):
        survival([(-1.0, True)])
