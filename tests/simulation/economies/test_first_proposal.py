"""First-proposal bias: nearness wins where nobody compares, and comparing cures it."""

from __future__ import annotations

import pytest

from tests.simulation.economies.economy import SEEDS, again, number, played

SMALL = {"agents": 8, "hours": 0.04, "sellers": 3, "pause_s": 4.0}


@pytest.mark.parametrize("seed", SEEDS)
def test_who_takes_the_first_proposal_pays_the_nearest_whatever_it_asks(seed: int) -> None:
    biased = played("first_proposal", seed, first=1.0, **SMALL)
    assert number(biased, "nearest_share") >= 0.9
    assert number(biased, "price_late") >= 90  # of 100 on the card; all began at 70
    assert number(biased, "welfare") <= 0.65


@pytest.mark.parametrize("seed", SEEDS)
def test_who_compares_buys_where_the_work_costs_least(seed: int) -> None:
    biased, cured = (played("first_proposal", seed, first=first, **SMALL) for first in (1.0, 0.0))
    assert number(cured, "cheapest_share") >= 0.6
    assert number(cured, "price_late") < number(biased, "price_late") / 2
    assert number(cured, "welfare") >= 0.85


def test_h1_the_same_seed_gives_the_same_bias() -> None:
    assert (
        again("first_proposal", 1, first=1.0, **SMALL).hash
        == played("first_proposal", 1, first=1.0, **SMALL).hash
    )
