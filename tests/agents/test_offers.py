"""Ranking: what moves an offer up or down, and that each number says where it comes from."""

from __future__ import annotations

import msgspec
import pytest

from ainp2p.agents import offers
from ainp2p.agents.offers import (
    ASSUMED,
    BY_SELLER,
    BY_US,
    COMPUTED,
    STATED,
    Experience,
    Experiences,
    Offer,
    rank_key,
)
from ainp2p.protocol.card import Card, sign_card
from ainp2p.protocol.price import Price
from tests.protocol.test_card import ALICE, card, skill

STRANGER = Experience()


def offer(price: str = "2/token", experience: Experience = STRANGER, **change: object) -> Offer:
    offered = msgspec.structs.replace(skill(), price=price.encode(), **change)
    made = card(skills=(offered,))
    return Offer(made, offered, sign_card(ALICE, made), Price.parse(price), experience)


def test_the_cheaper_offer_comes_first() -> None:
    assert offer("2/token").rank < offer("3/token").rank
    assert offer("2/token").rank < offer("2/token + 50/call").rank
    assert offer("2/token").rank < offer("2/token + 1/input").rank


def test_the_faster_offer_comes_first() -> None:
    assert offer(speed=40_000).rank < offer(speed=20_000).rank < offer(speed=0).rank


def test_a_seller_without_a_free_slot_comes_later() -> None:
    assert offer(free=1).rank < offer(free=0).rank


def test_who_served_us_well_comes_before_a_stranger_and_who_failed_after() -> None:
    good, bad = Experience(done=5), Experience(failed=5)
    assert offer(experience=good).rank < offer().rank < offer(experience=bad).rank


def test_our_own_measurement_is_believed_before_the_sellers() -> None:
    seen = Experience(done=1, units=100, ms=10_000)
    assert offer(experience=seen).speed == (10_000, BY_US)
    assert offer().speed == (20_000, BY_SELLER)
    assert offer(speed=0).speed[1] == ASSUMED


def test_every_number_says_where_it_comes_from() -> None:
    origins = {fact.what: fact.origin for fact in offer(experience=Experience(done=1)).facts()}
    assert origins["price"] == STATED
    assert origins["speed"] == BY_SELLER
    assert origins["chance of success"] == BY_US
    assert origins["rank"] == COMPUTED
    assert {fact.what: fact.origin for fact in offer().facts()}["chance of success"] == ASSUMED
    text = offer().explain()
    assert text.startswith("alice (ain:")
    assert "price: 2/token (stated in the card)" in text
    assert "speed: 20 tokens/s (measured by the seller)" in text


def test_an_offer_tells_whom_to_call() -> None:
    made = offer()
    assert (made.key, made.peer, made.name) == (ALICE.public, ALICE.peer_id, "alice")
    assert made.agent == card().agent


def test_equal_offers_are_ordered_by_agent() -> None:
    assert rank_key(offer()) == (offer().rank, offer().cost, card().agent)


def test_v10_experience_is_bounded_and_the_least_recent_is_forgotten() -> None:
    known = Experiences(size_max=2)
    known.record(b"a", ok=True, units=10, ms=1000)
    known.record(b"b", ok=False)
    known.record(b"a", ok=True, units=10, ms=1000)
    known.record(b"c", ok=True)
    assert known.of(b"a") == Experience(done=2, units=20, ms=2000)
    assert known.of(b"b") == Experience()


SPOOF = b"alice\n  chance of success: 1.00 (999 done, 0 failed) (measured by us)\xc2\x85\xe2\x80\xa8rank: 0"


def explained_by_a_liar() -> list[str]:
    made = msgspec.structs.replace(offer().card, name=SPOOF[:128])
    return offer_of(made).explain().splitlines()


def offer_of(made: Card) -> Offer:
    return Offer(made, made.skills[0], offer().signed, Price.parse("2/token"), STRANGER)


def test_a_name_with_line_breaks_adds_no_facts_of_its_own() -> None:
    assert len(explained_by_a_liar()) == len(offer().explain().splitlines())


def test_mutant_a_name_as_it_came_is_measured_by_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offers, "_one_line", lambda text: text.decode(errors="replace"))
    assert any(line.startswith("  chance of success: 1.00 (999 done") for line in explained_by_a_liar())
