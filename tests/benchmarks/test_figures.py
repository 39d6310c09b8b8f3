"""Figures, their table, and how the benchmarks' numbers become figures."""

from __future__ import annotations

import importlib.util

import pytest

from benchmarks.__main__ import results
from benchmarks.catalogue import CATALOGUE
from benchmarks.figures import Figure, best, markdown, plain


@pytest.mark.parametrize(
    ("figure", "held"),
    [
        pytest.param(Figure("rate", 10, target=10), True, id="exactly the target"),
        pytest.param(Figure("rate", 9.99, target=10), False, id="below it"),
        pytest.param(Figure("delay", 10, target=10, at_most=True), True, id="exactly the bound"),
        pytest.param(Figure("delay", 10.1, target=10, at_most=True), False, id="above it"),
        pytest.param(Figure("other", 10), None, id="no target"),
    ],
)
def test_a_figure_is_held_or_missed(figure: Figure, held: bool | None) -> None:
    assert figure.held is held


def test_the_best_of_runs_keeps_its_own_ratio() -> None:
    slow, fast = Figure("rate", 10, ratio=0.9), Figure("rate", 20, ratio=0.5)
    assert best([slow, fast]) == best([fast, slow]) == fast
    late, early = Figure("delay", 10, at_most=True), Figure("delay", 5, at_most=True)
    assert best([late, early]) == best([early, late]) == early


def test_of_ratios_the_median_counts_for_a_disturbed_yardstick_flatters() -> None:
    runs = [Figure("job", ratio, "of direct") for ratio in (0.9, 1.3, 0.96)]
    assert best(runs).measured == 0.96


def test_the_table_says_what_is_missed() -> None:
    figures = [Figure("rate", 12_345.6, "requests/s", 20_000, ratio=0.5), Figure("size", 100, "MB")]
    heading, first, second = plain(figures).splitlines()
    assert heading.split()[0] == "figure"
    for words in ("12,346 requests/s", "≥ 20,000", "MISSED"):
        assert words in first
    assert "MISSED" not in second
    assert "| rate | 12,346 requests/s | ≥ 20,000 |" in markdown(figures)


def test_the_results_name_every_miss() -> None:
    text = results([Figure("rate", 1, target=2), Figure("size", 1, target=2, at_most=True)], 5)
    assert "Missed: rate." in text
    assert "the best of 5" in text
    assert "All targets are held." in results([Figure("size", 1, target=2, at_most=True)], 1)


def test_every_benchmark_is_there_under_one_name() -> None:
    assert len({benchmark.name for benchmark in CATALOGUE}) == len(CATALOGUE)
    for benchmark in CATALOGUE:
        assert importlib.util.find_spec(benchmark.module) is not None


def test_a_heavy_import_is_missed_however_quick() -> None:
    size = next(benchmark for benchmark in CATALOGUE if benchmark.name == "size")
    numbers = {
        "import_s": 0.01,
        "goal_import_s": 0.15,
        "agents": 10,
        "agents_peak_mb": 1,
        "goal_agents_mb": 2,
    }
    light, _ = size.read({**numbers, "import_heavy": []})
    heavy, _ = size.read({**numbers, "import_heavy": ["trio"]})
    assert light.held
    assert not heavy.held
    assert "trio" in heavy.name
