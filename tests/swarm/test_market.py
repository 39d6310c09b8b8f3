"""Whom a buyer waits for before it begins."""

from __future__ import annotations

import pytest

from ainp2p.swarm.market import OPENS_WITHIN_S, SETTLING_S, Market
from ainp2p.swarm.skills import EMBEDDING_SKILLS, embedding_skills, text_skills
from ainp2p.swarm.spec import EMBEDDING_SELLER
from tests.swarm.test_director import SPEC

EVERYBODY = set(SPEC.sellers)


def test_nobody_waits_once_all_offer_something() -> None:
    assert Market(SPEC).is_ready(EVERYBODY, 0.0)


def test_models_that_load_are_waited_for_but_not_for_ever() -> None:
    market = Market(SPEC)
    assert not market.is_ready(set(), 5.0)
    assert not market.is_ready(set(), 5.0 + OPENS_WITHIN_S)
    assert market.is_ready(set(), 5.1 + OPENS_WITHIN_S)


def test_a_competitor_is_waited_for_as_long_as_the_first_of_each_kind_took() -> None:
    market, first = Market(SPEC), EVERYBODY - {"bela"}
    assert not market.is_ready(set(), 0.0)
    assert not market.is_ready(first, 8.0)
    assert not market.is_ready(first, 16.0)
    assert market.is_ready(first, 16.1)


def test_a_competitor_of_quick_ones_has_a_moment_all_the_same() -> None:
    market, first = Market(SPEC), EVERYBODY - {"bela"}
    assert not market.is_ready(first, 0.0)
    assert not market.is_ready(first, SETTLING_S[0])
    assert market.is_ready(first, SETTLING_S[0] + 0.1)


@pytest.mark.parametrize("dead", sorted(EVERYBODY))
def test_a_seller_that_died_is_not_waited_for(dead: str) -> None:
    market = Market(SPEC)
    assert not market.is_ready(EVERYBODY - {dead}, 0.0)
    market.gone.add(dead)
    assert market.is_ready(EVERYBODY - {dead}, 0.1)


def test_nor_is_anybody_when_all_of_them_died() -> None:
    market = Market(SPEC)
    market.gone |= EVERYBODY
    assert market.is_ready(set(), 0.0)


def test_a_skill_is_lacking_when_all_who_sell_it_are_gone() -> None:
    market = Market(SPEC)
    market.gone = {EMBEDDING_SELLER, "ada"}
    assert market.lacks("embed")
    assert not market.lacks("title")
    market.gone.add("bela")
    assert market.lacks("title")


def test_each_kind_of_seller_sells_the_skills_that_are_named_for_it() -> None:
    assert {skill.name for skill in embedding_skills(item_price=1)} == EMBEDDING_SKILLS
    assert not EMBEDDING_SKILLS & {skill.name for skill in text_skills(token_price=1, call_price=1)}
