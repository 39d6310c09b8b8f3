"""Strategies by themselves: what they say to calls, bids and offers made by hand."""

from __future__ import annotations

import random
from typing import Any

import pytest

from ainp2p.errors import InvalidInput
from ainp2p.protocol.messages import CallForProposals, Proposal, Signed
from ainp2p.protocol.price import Price
from ainp2p.protocol.strategies import BUSY, Bid, No, Pricing
from ainp2p.simulation import strategies
from ainp2p.simulation.strategies import (
    AdaptiveMargin,
    Binding,
    Regulars,
    SpotChecks,
    asking,
    cost_plus,
    first_proposal,
    nobody,
    some_of,
    undercut,
    zero_intelligence,
)

CARD = Price(item=100)
ID = bytes(32)


def call(buyer: int = 0) -> CallForProposals:
    return CallForProposals(ID, ID, bytes([buyer]) * 32, ID, b"work", ID, 0, 0, b"", 0)


def asked(pricing: Pricing, buyer: int = 0) -> int:
    price = pricing(call(buyer), CARD, 0)
    assert isinstance(price, Price)
    return price.item


def bid(seller: int, price: int, task: int = 0) -> Bid:
    proposal = Proposal(
        ID, bytes([task]) * 32, ID, ID, 0, Price(item=price).wire(), 1, 1, 0, 0, 0, None, 10_000
    )
    key = bytes([seller]) * 32
    return Bid(key, proposal, Signed(b"", key, bytes(64)), Price(item=price), 1)


# --- pricing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "amount", "price"),
    [
        pytest.param(Price(item=9), 5, Price(item=5), id="below the card"),
        pytest.param(Price(item=9), 50, Price(item=9), id="above the card"),
        pytest.param(Price(item=9), 0, Price(item=1), id="nothing is no price"),
        pytest.param(Price(token=9, call=3), 5, Price(token=5, call=3), id="only what grows"),
        pytest.param(Price(call=9), 5, Price(call=5), id="a price for the call"),
    ],
)
def test_what_is_asked_is_a_price_that_the_card_allows(base: Price, amount: int, price: Price) -> None:
    assert asking(base, amount) == price
    assert price.within(base)


def test_cost_plus_is_cost_and_a_part_rounded_up() -> None:
    assert asked(cost_plus(21, percent=10)) == 24
    assert asked(cost_plus(99, percent=10)) == 100


def test_zero_intelligence_asks_anything_from_cost_to_card() -> None:
    pricing = zero_intelligence(95, random.Random(1))
    assert {asked(pricing) for _ in range(200)} == set(range(95, 101))


def test_zero_intelligence_whose_cost_is_above_the_card_asks_the_card() -> None:
    assert asked(zero_intelligence(200, random.Random(1))) == 100


def test_undercutting_goes_below_the_last_price_and_not_below_cost() -> None:
    paid: list[int] = []
    pricing = undercut(lambda: paid[-1] if paid else None, 20, by=3)
    assert asked(pricing) == 100
    paid.append(60)
    assert asked(pricing) == 57
    paid.append(21)
    assert asked(pricing) == 20


def test_a_margin_goes_up_after_each_win_and_down_after_each_loss() -> None:
    margin = AdaptiveMargin(start=50, least=20, up=2, down=3)
    assert asked(margin.pricing) == 50
    margin.won()
    assert asked(margin.pricing) == 52
    assert asked(margin.pricing) == 49  # the call before was not won


def test_a_margin_stays_between_its_least_and_the_card() -> None:
    margin = AdaptiveMargin(start=22, least=20)
    for _ in range(9):
        assert asked(margin.pricing) >= 20
    assert margin.amount == 20
    for _ in range(200):
        asked(margin.pricing)
        margin.won()
    assert asked(margin.pricing) == 100


@pytest.mark.parametrize(("up", "down"), [(1, 1), (1, 3)])
def test_a_margin_rests_where_it_wins_the_share_that_its_steps_say(up: int, down: int) -> None:
    margin, rng, wins = AdaptiveMargin(start=90, least=1, up=up, down=down), random.Random(1), 0
    for i in range(4000):
        won = asked(margin.pricing) <= rng.randint(1, 100)
        wins += won and i >= 2000
        if won:
            margin.won()
    assert wins / 2000 == pytest.approx(down / (up + down), abs=0.02)


# --- bidding ------------------------------------------------------------------------------------------


def test_strangers_get_so_many_answers_together_and_regulars_always_one() -> None:
    now = [0.0]
    regulars = Regulars(strangers=2, every_s=10, now=lambda: now[0])
    regulars.bought(bytes([9]) * 32)
    assert [isinstance(regulars.bidding(call(buyer), CARD, 0), Price) for buyer in (1, 2, 3, 1, 9, 9)] == [
        True, True, False, False, True, True,
    ]  # fmt: skip
    now[0] = 10.0
    assert asked(regulars.bidding, buyer=3) == 100


def test_a_stranger_that_gets_no_answer_is_told_that_the_seller_is_busy() -> None:
    regulars = Regulars(strangers=1, every_s=10, now=lambda: 0.0)
    asked(regulars.bidding)
    refusal = regulars.bidding(call(), CARD, 0)
    assert isinstance(refusal, No)
    assert refusal.code == BUSY


def test_regulars_are_asked_what_the_pricing_says() -> None:
    assert asked(Regulars(1, 10, lambda: 0.0, pricing=cost_plus(20, percent=10)).bidding) == 22


def test_a_binding_seller_keeps_a_slot_for_each_proposal_and_half_for_one_name_at_most() -> None:
    now = [0.0]
    binding = Binding(4, now=lambda: now[0])

    def proposes(buyer: int, load: int = 0) -> bool:
        return isinstance(binding.bidding(call(buyer), CARD, load), Price)

    assert [proposes(buyer) for buyer in (1, 1, 1, 2, 3, 4)] == [True, True, False, True, True, False]
    binding.sold(bytes([1]) * 32)
    assert not proposes(4, load=25)  # it works on that
    assert proposes(4)
    now[0] = 10.0
    assert [proposes(buyer, load=50) for buyer in (5, 6, 7)] == [True, True, False]
    binding.sold(bytes([1]) * 32)  # too late: its proposal is kept no longer


@pytest.mark.parametrize(("strangers", "every_s"), [(0, 10), (1, 0)])
def test_a_seller_that_answers_no_stranger_is_refused(strangers: int, every_s: float) -> None:
    with pytest.raises(InvalidInput, match="no customers"):
        Regulars(strangers, every_s, lambda: 0.0)


# --- buying -------------------------------------------------------------------------------------------


def test_the_first_proposal_is_taken_whatever_comes_after() -> None:
    choose = first_proposal()
    assert choose([]) is None
    dear = bid(1, 90)
    assert choose([dear]) == dear
    assert choose([bid(2, 10), dear]) == dear


def test_each_task_has_a_first_proposal_of_its_own() -> None:
    choose = first_proposal()
    choose([bid(1, 90, task=1)])
    assert choose([bid(2, 10, task=2)]) == bid(2, 10, task=2)
    assert choose([bid(2, 10, task=1), bid(1, 90, task=1)]) == bid(1, 90, task=1)


def test_a_first_proposal_that_is_gone_is_not_replaced() -> None:
    choose = first_proposal()
    choose([bid(1, 90)])
    assert choose([bid(2, 10)]) is None


def test_old_tasks_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategies, "TASKS_KEPT", 2)
    choose = first_proposal()
    for task in range(3):
        choose([bid(1, 90, task=task)])
    assert choose([bid(2, 10, task=0), bid(1, 90, task=0)]) == bid(2, 10, task=0)


def test_nobody_takes_nothing() -> None:
    assert nobody([bid(1, 1)]) is None


def test_some_of_the_offers_are_drawn_by_the_seed() -> None:
    offers: Any = list("abcdef")
    assert some_of(offers, 3, random.Random(1)) == some_of(offers, 3, random.Random(1))
    everything: list[Any] = list(some_of(offers, 9, random.Random(1)))
    assert sorted(everything) == offers


class _Offer:
    def __init__(self, agent: int) -> None:
        self.agent = bytes([agent]) * 32


def test_who_was_caught_is_not_believed_again() -> None:
    one, two = _Offer(1), _Offer(2)
    offers: Any = [one, two]
    spot = SpotChecks(1.0, random.Random(1))
    assert spot.examine(one.agent, lambda: False) is False
    assert spot.examine(two.agent, lambda: True) is True
    believed: Any = spot.believed(offers)
    assert believed == [two]
    assert spot.checked == 2


def test_only_a_share_of_the_answers_is_examined() -> None:
    spot = SpotChecks(0.25, random.Random(1))
    examined = [spot.examine(ID, lambda: True) for _ in range(4000)]
    assert spot.checked == sum(said is True for said in examined) == pytest.approx(1000, rel=0.1)


def test_without_checks_nothing_is_ever_verified() -> None:
    def verify() -> bool:
        raise AssertionError("it was examined")

    assert SpotChecks(0.0, random.Random(1)).examine(ID, verify) is None


def test_buyers_that_share_what_they_know_warn_one_another() -> None:
    known: set[bytes] = set()
    one, two = (SpotChecks(1.0, random.Random(seed), caught=known) for seed in (1, 2))
    one.examine(ID, lambda: False)
    assert ID in two.caught
