"""A circuit breaker: what a loop may lose before somebody looks."""

from __future__ import annotations

from typing import Any

import pytest

from tests.simulation.economies.economy import SEEDS, again, number, played

SMALL: dict[str, Any] = {"agents": 6, "hours": 0.07}


@pytest.mark.parametrize("seed", SEEDS)
def test_without_rules_a_loop_spends_the_purse(seed: int) -> None:
    free = played("circuit_breaker", seed, rules="none", **SMALL)
    assert number(free, "lost_worst") >= 700  # of 1,000
    assert number(free, "dead") >= 1


@pytest.mark.parametrize("seed", SEEDS)
def test_the_breaker_stops_it_after_ten_repeats(seed: int) -> None:
    free, safe = (played("circuit_breaker", seed, rules=rules, **SMALL) for rules in ("none", "breaker"))
    assert 0 < number(safe, "lost_worst") <= 100  # ten repeats of 10 uain
    assert number(safe, "lost") <= number(free, "lost") / 5
    assert number(safe, "dead") == 0
    assert number(safe, "welfare") >= max(0.9, number(free, "welfare") + 0.1)
    assert "stopped: breaker:repeats" in safe.marks["name"]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_budget_bounds_the_loss_and_stops_honest_work_as_well(seed: int) -> None:
    free, budget, safe = (
        played("circuit_breaker", seed, rules=rules, **SMALL) for rules in ("none", "budget", "breaker")
    )
    assert number(safe, "lost") < number(budget, "lost") < number(free, "lost")
    assert number(budget, "welfare") < number(safe, "welfare")


def test_h1_the_same_seed_gives_the_same_loss() -> None:
    settings = {**SMALL, "rules": "breaker"}
    assert again("circuit_breaker", 1, **settings).hash == played("circuit_breaker", 1, **settings).hash
