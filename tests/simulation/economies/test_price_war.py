"""A price war: comparing brings prices to cost, and knowing one seller does not."""

from __future__ import annotations

import pytest

from tests.simulation.economies.economy import SEEDS, again, number, played

SMALL = {"agents": 8, "hours": 0.05, "pause_s": 4.0}


@pytest.mark.parametrize("seed", SEEDS)
def test_where_buyers_compare_prices_fall_to_cost(seed: int) -> None:
    war = played("price_war", seed, asked=3, **SMALL)
    assert number(war, "price_late") <= 23  # it costs 20, and all began at 60
    assert number(war, "welfare") >= 0.93


@pytest.mark.parametrize("seed", SEEDS)
def test_where_each_buyer_knows_one_seller_they_do_not(seed: int) -> None:
    war, peace = played("price_war", seed, asked=3, **SMALL), played("price_war", seed, asked=1, **SMALL)
    assert number(peace, "price_late") >= 45
    assert number(peace, "welfare") < number(war, "welfare") - 0.1
    assert number(peace, "fill_rate") < number(war, "fill_rate")


def test_h1_the_same_seed_gives_the_same_price_war() -> None:
    assert again("price_war", 1, asked=3, **SMALL).hash == played("price_war", 1, asked=3, **SMALL).hash
