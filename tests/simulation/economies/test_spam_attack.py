"""A spam attack: one name cannot jam a seller, a crowd can, and memory keeps the regulars served."""

from __future__ import annotations

import pytest

from tests.simulation.economies.economy import SEEDS, again, number, played

SMALL = {"agents": 6, "hours": 0.035}


@pytest.mark.parametrize("seed", SEEDS)
def test_one_name_cannot_jam_sellers_of_sixteen_slots(seed: int) -> None:
    assert number(played("spam_attack", seed, spammers=1, **SMALL), "regulars_filled") >= 0.95


@pytest.mark.parametrize("seed", SEEDS)
def test_a_crowd_of_names_can(seed: int) -> None:
    assert number(played("spam_attack", seed, spammers=3, **SMALL), "regulars_filled") <= 0.2


@pytest.mark.parametrize("seed", SEEDS)
def test_sellers_that_remember_serve_their_regulars_through_it(seed: int) -> None:
    kept = played("spam_attack", seed, spammers=3, remember=True, **SMALL)
    assert number(kept, "regulars_filled") >= 0.85


def test_a_mutant_that_forgets_who_has_paid_serves_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ainp2p.simulation.strategies.Regulars.bought", lambda self, buyer: None)
    forgetful = again("spam_attack", 1, spammers=3, remember=True, **SMALL)
    assert number(forgetful, "regulars_filled") <= 0.5


def test_h1_the_same_seed_gives_the_same_attack() -> None:
    assert (
        again("spam_attack", 1, spammers=3, **SMALL).hash
        == played("spam_attack", 1, spammers=3, **SMALL).hash
    )
