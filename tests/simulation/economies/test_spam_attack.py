"""A spam attack: who asks and takes nothing keeps nobody from buying, unless proposals bind their sellers."""

from __future__ import annotations

from typing import Any

import pytest

from ainp2p.agents.card_table import CardTable
from ainp2p.errors import NoOffers
from ainp2p.protocol.seller_negotiation import Seller
from tests.simulation.economies.economy import SEEDS, again, number, played

SMALL = {"agents": 6, "hours": 0.035}
BINDING = {"binding": True, "slots": 8, **SMALL}
CROWDS = {2: 0.1, 8: 0.2, 32: 0.8}  # spammers, and seconds between what each asks


@pytest.mark.parametrize("spammers", CROWDS)
def test_e10_no_crowd_of_names_keeps_buyers_from_sellers_of_four_slots(spammers: int) -> None:
    attacked = played("spam_attack", 1, spammers=spammers, spam_s=CROWDS[spammers], **SMALL)
    assert number(attacked, "regulars_filled") >= 0.95
    assert number(attacked, "newcomers_filled") >= 0.95


def test_e10_mutant_proposals_that_hold_slots_let_two_names_jam_everybody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = property(lambda self: max(0, self.slots - len(self._running) - len(self._open)))
    monkeypatch.setattr(Seller, "free", held)
    jammed = again("spam_attack", 1, spammers=2, **SMALL)
    assert number(jammed, "regulars_filled") <= 0.5


def test_heralds_of_sellers_that_are_not_there_keep_nobody_from_those_that_are() -> None:
    flooded = played("spam_attack", 1, spammers=0, heralds=2, **SMALL)
    assert number(flooded, "regulars_filled") >= 0.95
    assert number(flooded, "newcomers_filled") >= 0.95


def test_mutant_a_directory_that_gives_up_connected_peers_as_well_is_flooded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = CardTable.__init__

    def strangers_all(self: CardTable, *args: Any, **options: Any) -> None:
        made(self, *args, **(options | {"connected": tuple}))

    monkeypatch.setattr(CardTable, "__init__", strangers_all)
    with pytest.raises(NoOffers, match="known: 64, of these fit: 64"):
        again("spam_attack", 1, spammers=0, heralds=2, **SMALL)


@pytest.mark.parametrize("seed", SEEDS)
def test_one_name_cannot_jam_binding_sellers_of_eight_slots(seed: int) -> None:
    assert number(played("spam_attack", seed, spammers=1, **BINDING), "regulars_filled") >= 0.95


@pytest.mark.parametrize("seed", SEEDS)
def test_a_crowd_of_names_can(seed: int) -> None:
    assert number(played("spam_attack", seed, spammers=6, **BINDING), "regulars_filled") <= 0.7


@pytest.mark.parametrize("seed", SEEDS)
def test_binding_sellers_that_remember_serve_their_regulars_through_it(seed: int) -> None:
    kept = played("spam_attack", seed, spammers=6, remember=True, **BINDING)
    assert number(kept, "regulars_filled") >= 0.85


def test_a_mutant_that_forgets_who_has_paid_serves_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ainp2p.simulation.strategies.Regulars.bought", lambda self, buyer: None)
    forgetful = again("spam_attack", 1, spammers=6, remember=True, **BINDING)
    assert number(forgetful, "regulars_filled") <= 0.5


def test_h1_the_same_seed_gives_the_same_attack() -> None:
    assert (
        again("spam_attack", 1, spammers=3, **SMALL).hash
        == played("spam_attack", 1, spammers=3, **SMALL).hash
    )
