"""Cheats: they take a market in which nobody looks, and lose it to spot checks."""

from __future__ import annotations

import pytest

from tests.simulation.economies.economy import SEEDS, again, number, played

SMALL = {"agents": 8, "hours": 0.05, "pause_s": 3.0}


@pytest.mark.parametrize("seed", SEEDS)
def test_without_checks_cheats_sell_most(seed: int) -> None:
    blind = played("cheats", seed, checks=0.0, **SMALL)
    assert number(blind, "cheats_share") >= 0.5
    assert number(blind, "welfare") <= 0.5
    assert number(blind, "cheats_left") == 2


@pytest.mark.parametrize("seed", SEEDS)
def test_with_spot_checks_their_share_falls(seed: int) -> None:
    blind, watched = (played("cheats", seed, checks=checks, **SMALL) for checks in (0.0, 0.3))
    assert number(watched, "cheats_share") <= 0.35
    assert number(watched, "cheats_share_lately") <= 0.1
    shares = [row["value"] for row in watched.metrics.dicts() if row["name"] == "cheats_share_lately"]
    assert len(shares) == 4  # one for each quarter
    assert number(watched, "welfare") >= number(blind, "welfare") + 0.2


@pytest.mark.parametrize("seed", SEEDS)
def test_buyers_that_warn_one_another_need_fewer_checks(seed: int) -> None:
    alone, together = (played("cheats", seed, checks=0.1, warn=warn, **SMALL) for warn in (False, True))
    assert number(together, "cheats_share") <= min(0.3, number(alone, "cheats_share"))


def test_h1_the_same_seed_gives_the_same_cheats() -> None:
    assert again("cheats", 1, checks=0.3, **SMALL).hash == played("cheats", 1, checks=0.3, **SMALL).hash
