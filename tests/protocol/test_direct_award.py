"""An award that takes no proposal: its own terms, taken or refused, and what a transcript shows of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ainp2p.errors import InvalidInput, Malformed
from ainp2p.protocol.card import SkillCard
from ainp2p.protocol.identity import Key
from ainp2p.protocol.messages import (
    CALL_DEADLINE_MS,
    CLOCK_SKEW_MAX_MS,
    DIRECT,
    PURPOSE,
    Accepted,
    Award,
    Proposal,
    Refusal,
    Signed,
    open_market,
    seal,
)
from ainp2p.protocol.negotiation import OPEN_PER_BUYER_MAX, Buyer, Deal, Listing, Seller
from ainp2p.protocol.price import Price
from ainp2p.protocol.seller_negotiation import REPLAYED_MS, TAKEN_MAX
from ainp2p.protocol.strategies import No
from ainp2p.protocol.transcript import verify_transcript

from .test_negotiation import BUYER, LOCK, NOW, SELLERS, TASK, agent, new_buyer, new_seller

SELLER = SELLERS[0]
CARD = SkillCard(b"summarise", b"", b"{}", b"true", b"2/token", None, 20_000, 4, 4, window=64, step=32)


def awarded(buyer: Buyer | None = None, card: SkillCard = CARD, **award: Any) -> Signed:
    """What a buyer awards by a card, without a word before."""
    buyer = buyer or new_buyer()
    bid = buyer.unasked(agent(0), SELLER.public, card, NOW)
    options: dict[str, Any] = {"lock": LOCK, "budget": 600, **award}
    return buyer.award(bid, NOW, **options)


def changed(**change: Any) -> Signed:
    message = open_market(awarded())
    assert isinstance(message, Award)
    return seal(BUYER, PURPOSE, msgspec.structs.replace(message, **change))


def refused(seller: Seller, award: Signed, now: int = NOW) -> str:
    answer = seller.award(award, BUYER.public, now)
    assert isinstance(answer, Signed)
    message = open_market(answer)
    assert isinstance(message, Refusal)
    assert message.answers == award.id
    return message.code.decode()


def test_the_terms_of_a_card_are_awarded_and_accepted_without_a_call() -> None:
    buyer, seller = new_buyer(), new_seller()
    award = awarded(buyer)
    deal = seller.award(award, BUYER.public, NOW)
    assert isinstance(deal, Deal)
    assert (deal.job, deal.price, deal.award.answers) == (award.id, Price.parse("2/token"), DIRECT)
    seller.begin(deal.job)
    accepted = buyer.accepted(seller.accepted(deal, input_units=0, window=64), SELLER.public)
    assert isinstance(accepted, Accepted)
    assert deal.transcript == (award,)
    assert buyer.declines() == []


def test_a_seller_that_would_take_less_is_paid_what_was_offered() -> None:
    seller = new_seller(pricing=lambda call, base, load: Price.parse("1/token"))
    deal = seller.award(awarded(), BUYER.public, NOW)
    assert isinstance(deal, Deal)
    assert deal.price == Price.parse("2/token")


def test_a_strategy_sees_a_direct_award_as_a_call() -> None:
    seen: list[Any] = []

    def pricing(call: Any, base: Price, load: int) -> Price:
        seen.append((call.task, call.skill, call.input_size, call.units_max, call.max_price))
        return base

    assert isinstance(new_seller(pricing=pricing).award(awarded(), BUYER.public, NOW), Deal)
    assert seen == [(TASK, b"summarise", len(b'{"text":"x"}'), 300, b"2/token")]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"seller": agent(1)}, "mismatch"),
        ({"window": 65}, "mismatch"),
        ({"step": 31}, "mismatch"),
        ({"skill": b"other"}, "no-such-skill"),
        ({"price": b"1/token"}, "price"),
        ({"price": b"2/call"}, "mismatch"),
        ({"price": b"2/token + 1/call"}, "mismatch"),  # work that fails under it would be for nothing
        ({"price": b"2/token + 100000/input"}, "mismatch"),
        ({"budget": 1}, "price"),
        ({"deadline": NOW - CLOCK_SKEW_MAX_MS - 1}, "expired"),
    ],
)
def test_a_direct_award_on_other_terms_is_refused_and_holds_nothing(
    change: dict[str, Any], code: str
) -> None:
    seller = new_seller()
    assert refused(seller, changed(**change)) == code
    assert (seller.free, seller._awarded) == (4, {})


def test_more_units_than_one_job_may_have_are_refused() -> None:
    seller = new_seller()
    seller.listings = {b"summarise": Listing(Price.parse("2/token"), 64, 32, units_max=10)}
    assert refused(seller, awarded()) == "mismatch"
    assert isinstance(seller.award(awarded(new_buyer(units_max=10)), BUYER.public, NOW), Deal)


def test_a_price_that_has_risen_since_the_card_is_refused() -> None:
    assert refused(new_seller(pricing=lambda call, base, load: Price.parse("3/token")), awarded()) == "price"
    assert refused(new_seller(pricing=lambda call, base, load: No("busy")), awarded()) == "busy"


def test_a_direct_award_is_a_job_once() -> None:
    seller, award = new_seller(), awarded()
    deal = seller.award(award, BUYER.public, NOW)
    assert isinstance(deal, Deal)
    assert refused(seller, award) == "known"  # its Lock is looked at
    seller.begin(deal.job)
    assert refused(seller, award) == "known"  # it runs
    seller.release(deal.job)
    last = NOW + CALL_DEADLINE_MS + CLOCK_SKEW_MAX_MS
    assert refused(seller, award, last) == "known"  # it is over
    assert refused(seller, award, last + CLOCK_SKEW_MAX_MS) == "expired"


def test_a_mutant_that_does_not_remember_direct_awards_takes_one_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Seller, "_remember", lambda self, award, now_ms: None)
    seller, award = new_seller(), awarded()
    for _ in range(2):
        deal = seller.award(award, BUYER.public, NOW)
        assert isinstance(deal, Deal)
        seller.release(deal.job)


def test_direct_awards_are_remembered_in_bounded_room_and_for_a_while() -> None:
    seller = new_seller()
    for n in range(TAKEN_MAX + 1):
        deal = seller.award(awarded(new_buyer(task=n.to_bytes(32, "big"))), BUYER.public, NOW)
        assert isinstance(deal, Deal)
        seller.release(deal.job)
    assert len(seller._taken) == TAKEN_MAX
    seller.expire(NOW + REPLAYED_MS)
    assert seller._taken == {}


def test_direct_awards_of_one_buyer_are_bounded_and_a_slot_must_be_free() -> None:
    seller = new_seller(slots=20)
    for n in range(OPEN_PER_BUYER_MAX):
        assert isinstance(seller.award(awarded(new_buyer(task=bytes([n]) * 32)), BUYER.public, NOW), Deal)
    assert refused(seller, awarded()) == "too-many"
    small = new_seller(slots=1)
    deal = small.award(awarded(), BUYER.public, NOW)
    assert isinstance(deal, Deal)
    small.begin(deal.job)
    assert refused(small, awarded(new_buyer(task=b"2" * 32))) == "busy"


def test_an_award_that_names_no_proposal_is_never_taken_for_one_that_does() -> None:
    """A seller with a proposal open for the task still judges a direct award by its own terms."""
    seller, buyer = new_seller(), new_buyer()
    proposal = seller.handle(buyer.call(agent(0), SELLER.public, NOW), BUYER.public, NOW)
    assert proposal is not None
    assert refused(seller, changed(price=b"1/token")) == "price"
    assert seller.open == 1


def test_a_buyer_offers_each_seller_once_and_only_terms_that_can_work() -> None:
    buyer = new_buyer()
    with pytest.raises(Malformed, match="window below its step"):
        buyer.unasked(agent(0), SELLER.public, msgspec.structs.replace(CARD, window=31), NOW)
    buyer.unasked(agent(0), SELLER.public, CARD, NOW)
    with pytest.raises(InvalidInput, match="once per task"):
        buyer.unasked(agent(0), SELLER.public, CARD, NOW)
    with pytest.raises(InvalidInput, match="does not buy"):
        awarded(budget=1)


# --- what a transcript shows ------------------------------------------------------------------------


def agreed() -> list[Signed]:
    seller, award = new_seller(), awarded()
    deal = seller.award(award, BUYER.public, NOW)
    assert isinstance(deal, Deal)
    return [award, seller.accepted(deal, input_units=0, window=64)]


def test_a_transcript_may_begin_with_a_direct_award() -> None:
    award, accepted = agreed()
    verdict = verify_transcript([award, accepted])
    assert (verdict.call, verdict.job, verdict.seller_key) == (None, award.id, SELLER.public)
    assert verdict.award is not None
    assert verdict.accepted is not None
    assert verify_transcript([award]).accepted is None  # the buyer's word alone: nobody has agreed


def proposal(answers: bytes) -> Signed:
    message = Proposal(
        answers, TASK, b"B" * 32, agent(0), 0, b"2/token", 64, 32, 0, 0, 0, None, NOW + CALL_DEADLINE_MS
    )
    return seal(SELLER, PURPOSE, message)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda: [agreed()[0], changed(budget=601)], id="a second award"),
        pytest.param(lambda: [changed(answers=b"1" * 32)], id="it answers something"),
        pytest.param(lambda: [agreed()[0], proposal(agreed()[0].id)], id="a proposal after it"),
        pytest.param(lambda: [changed(price=b"no price")], id="no price"),
        pytest.param(lambda: [changed(window=31)], id="a window below its step"),
        pytest.param(
            lambda: [agreed()[0], seal(Key(b"o" * 32), PURPOSE, Accepted(b"1" * 32, 0, 64))],
            id="another award is accepted",
        ),
    ],
)
def test_a_transcript_of_a_direct_award_that_could_not_have_been_said_is_refused(wrong: Any) -> None:
    with pytest.raises(Malformed):
        verify_transcript(wrong())


def test_an_award_for_an_account_of_another_network_is_refused() -> None:
    """An award names the seller's account, whose id is made of the network: no other network takes it."""
    elsewhere = Seller(SELLER, network=b"O" * 32, agent=b"another account".ljust(32), slots=1)
    elsewhere.listings = new_seller().listings
    assert refused(elsewhere, awarded()) == "mismatch"
