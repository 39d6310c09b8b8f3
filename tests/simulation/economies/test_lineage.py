"""A split along a lineage: who is paid by every receipt lives on, and who is not is gone."""

from __future__ import annotations

from typing import Any

import pytest

from tests.simulation.economies.economy import SEEDS, again, number, played


@pytest.mark.parametrize("seed", SEEDS)
def test_without_a_split_data_and_base_are_gone_and_the_answers_worthless(seed: int) -> None:
    starved = played("lineage", seed, split=0)
    assert number(starved, "makers_left") == 2
    assert number(starved, "worth") <= 10
    assert number(starved, "welfare") <= 0.6


@pytest.mark.parametrize("seed", SEEDS)
def test_with_a_fair_split_everybody_lives(seed: int) -> None:
    fair = played("lineage", seed, split=40)
    assert number(fair, "makers_left") == 4
    assert number(fair, "welfare") >= 0.98
    assert number(fair, "gini_makers") <= 0.2


@pytest.mark.parametrize("seed", SEEDS)
def test_too_large_a_split_starves_those_who_sell(seed: int) -> None:
    greedy = played("lineage", seed, split=90)
    assert number(greedy, "makers_left") == 2
    assert number(greedy, "welfare") < number(played("lineage", seed, split=40), "welfare") - 0.2


@pytest.mark.parametrize("seed", SEEDS)
def test_the_ledger_pays_the_lineage_what_the_receipts_say(seed: int) -> None:
    """Upkeep and fees aside, who began with the same and shares alike ends with the same."""
    agents = played("lineage", seed, split=40).agents
    owned: dict[str, Any] = dict(zip(agents["name"], agents["balance_end"], strict=True))
    assert owned["data"] == pytest.approx(owned["base"], abs=2)
    assert owned["data"] > 200 - 6 * 100  # more than its savings less its upkeep: it was paid


def test_runs_of_all_splits_measure_the_same_and_may_stand_in_one_sweep() -> None:
    runs = [played("lineage", seed, split=split) for seed in SEEDS for split in (0, 40, 90)]
    assert len({frozenset(run.metrics["name"]) for run in runs}) == 1


def test_h1_the_same_seed_gives_the_same_lineage() -> None:
    assert again("lineage", 1, split=40).hash == played("lineage", 1, split=40).hash
