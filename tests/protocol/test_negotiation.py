"""The contract net, both halves joined by hand; a named case for each refusal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from ainp2p.errors import BadSignature, Error, Expired, InvalidInput, Malformed, Refused, RemoteError
from ainp2p.protocol import strategies
from ainp2p.protocol.buyer_negotiation import Buyer, Task
from ainp2p.protocol.codec import Message
from ainp2p.protocol.identity import Key
from ainp2p.protocol.messages import (
    CALL_DEADLINE_MS,
    CLOCK_SKEW_MAX_MS,
    PURPOSE,
    Accepted,
    Award,
    CallForProposals,
    CounterProposal,
    Decline,
    Proposal,
    Refusal,
    Signed,
    input_digest,
    open_market,
    seal,
)
from ainp2p.protocol.price import Price
from ainp2p.protocol.seller_negotiation import (
    KNOWN_MAX,
    OPEN_MAX,
    OPEN_PER_BUYER_MAX,
    PROPOSAL_LIFE_MS,
    Deal,
    Listing,
    Seller,
)
from ainp2p.protocol.strategies import (
    Bid,
    No,
    ask_for_discount,
    bargain_down_to,
    cheapest,
    counter_above_limit,
)

NETWORK, TASK, LOCK = b"N" * 32, b"T" * 32, b"L" * 32
BUYER, SELLERS = Key(b"b" * 32), [Key(bytes([n]) * 32) for n in range(1, 4)]
BUYER_AGENT = b"B" * 32
NOW = 1_800_000_000_000


def agent(n: int) -> bytes:
    return bytes([100 + n]) * 32


def new_seller(n: int = 0, price: str = "2/token", *, slots: int = 4, **strategy: Any) -> Seller:
    seller = Seller(SELLERS[n], network=NETWORK, agent=agent(n), slots=slots, **strategy)
    seller.listings = {b"summarise": Listing(Price.parse(price), 64, 32, speed=20_000)}
    return seller


def new_buyer(
    max_price: str | None = None, *, task: bytes = TASK, units_max: int = 0, **strategy: Any
) -> Buyer:
    limit = Price.parse(max_price) if max_price else None
    wanted = Task(task, b"summarise", b'{"text":"x"}', limit, units_max=units_max)
    return Buyer(BUYER, network=NETWORK, agent=BUYER_AGENT, task=wanted, **strategy)


def bargain(buyer: Buyer, *sellers: Seller, now: int = NOW) -> None:
    """Carry messages until every seller is done."""
    for n, seller in enumerate(sellers):
        message: Signed | None = buyer.call(agent(n), SELLERS[n].public, now)
        while message is not None:
            answer = seller.handle(message, BUYER.public, now)
            assert answer is not None
            message = buyer.handle(answer, SELLERS[n].public, now)


def refusal_of(signed: Signed | None) -> str:
    assert signed is not None
    message = open_market(signed)
    assert isinstance(message, Refusal), message
    return message.code.decode()


def sealed(message: Message, key: Key = BUYER, **change: Any) -> Signed:
    return seal(key, PURPOSE, msgspec.structs.replace(message, **change))


# --- as it should go ----------------------------------------------------------------------------


def test_a_task_is_called_awarded_and_accepted() -> None:
    buyer, sellers = new_buyer(units_max=100), [new_seller(0, "5/token"), new_seller(1, "2/token")]
    bargain(buyer, *sellers)
    assert not buyer.waiting
    best = buyer.best(NOW)
    assert best is not None
    assert (best.key, best.cost) == (SELLERS[1].public, 200)
    award = buyer.award(best, NOW, lock=LOCK, budget=600)
    deal = sellers[1].award(award, BUYER.public, NOW)
    assert isinstance(deal, Deal)
    assert deal.job == award.id
    assert (deal.award.budget, deal.award.units_max, deal.award.lock) == (600, 100, LOCK)
    answer = buyer.accepted(sellers[1].accepted(deal, input_units=7, window=32), best.key)
    assert answer == Accepted(award.id, 7, 32)
    for key, decline in buyer.declines():
        assert key == SELLERS[0].public
        assert sellers[0].handle(decline, BUYER.public, NOW) is None
    assert [seller.open for seller in sellers] == [0, 0]
    sellers[1].begin(deal.job)
    assert [seller.free for seller in sellers] == [4, 3]
    sellers[1].release(deal.job)
    assert sellers[1].free == 4


def test_a_budget_becomes_a_maximum_of_units() -> None:
    buyer, seller = new_buyer(), new_seller(price="2/token + 50/call")
    bargain(buyer, seller)
    best = buyer.best(NOW)
    assert best is not None
    award = open_market(buyer.award(best, NOW, lock=LOCK, budget=61))
    assert isinstance(award, Award)
    assert award.units_max == 5


def test_a_price_is_bargained_down_in_rounds() -> None:
    buyer = new_buyer(countering=ask_for_discount(20))
    seller = new_seller(price="100/token", answering=bargain_down_to(85))
    bargain(buyer, seller)
    best = buyer.best(NOW)
    assert best is not None
    assert best.proposal.round == 3
    assert best.price == Price.parse("85/token")
    assert isinstance(seller.award(buyer.award(best, NOW, lock=LOCK, budget=900), BUYER.public, NOW), Deal)


def test_a_counter_that_is_refused_leaves_the_proposal_as_it_was() -> None:
    buyer, seller = new_buyer(countering=ask_for_discount(50)), new_seller()
    bargain(buyer, seller)
    assert [refusal.code for refusal in buyer.refusals().values()] == [b"price"]
    best = buyer.best(NOW)
    assert best is not None
    assert isinstance(seller.award(buyer.award(best, NOW, lock=LOCK, budget=900), BUYER.public, NOW), Deal)


def test_a_seller_takes_a_counter_that_is_better_for_it() -> None:
    buyer, seller = (
        new_buyer(countering=lambda bid, limit, n: Price.parse("3/token") if n == 1 else None),
        new_seller(),
    )
    bargain(buyer, seller)
    best = buyer.best(NOW)
    assert best is not None
    assert best.price == Price.parse("3/token")


def test_sellers_above_the_limit_are_offered_it_once_and_otherwise_left_out() -> None:
    buyer = new_buyer("4/token", countering=counter_above_limit)
    bargain(buyer, new_seller(0, "5/token"), new_seller(1, "5/token", answering=bargain_down_to(50)))
    assert [(bid.key, str(bid.price)) for bid in buyer.bids(NOW)] == [(SELLERS[1].public, "4/token")]


def test_a_busy_seller_does_not_bargain() -> None:
    counter = CounterProposal(TASK, TASK, BUYER_AGENT, agent(0), 1, b"1/token", NOW)
    standing, asked = Price.parse("4/token"), Price.parse("1/token")
    assert bargain_down_to(50)(counter, asked, standing, standing, 100) == No("price", "our price is 4/token")


def test_the_limit_is_told_only_when_the_task_says_so() -> None:
    for tell, told in ((False, b""), (True, b"4/token")):
        task = Task(TASK, b"summarise", b"{}", Price.parse("4/token"), tell_price=tell)
        buyer = Buyer(BUYER, network=NETWORK, agent=BUYER_AGENT, task=task)
        call = open_market(buyer.call(agent(0), SELLERS[0].public, NOW))
        assert isinstance(call, CallForProposals)
        assert call.max_price == told


def test_equal_prices_are_ordered_by_time_then_key() -> None:
    buyer = new_buyer(units_max=64)
    slow, fast, twin = new_seller(0), new_seller(1), new_seller(2)
    slow.listings = {b"summarise": Listing(Price.parse("2/token"), 64, 32, speed=1000)}
    bargain(buyer, slow, fast, twin)
    keys = sorted([SELLERS[1].public, SELLERS[2].public])
    assert [bid.key for bid in buyer.bids(NOW)] == [*keys, SELLERS[0].public]


def test_strategies_are_plain_functions() -> None:
    def pricing(call: CallForProposals, base: Price, load: int) -> Price | No:
        return No("busy", "lunch") if call.units_max > 500 else base

    def choosing(bids: Sequence[Bid]) -> Bid | None:
        return bids[-1] if bids else None

    buyer = new_buyer(units_max=501, choosing=choosing)
    bargain(buyer, new_seller(0, pricing=pricing), new_seller(1, "2/token"), new_seller(2, "9/token"))
    best = buyer.best(NOW)
    assert best is not None
    assert best.key == SELLERS[2].public
    assert buyer.refusals()[SELLERS[0].public].code == b"busy"
    assert cheapest([]) is None


def test_a_lost_answer_is_given_again_and_not_kept_twice() -> None:
    seller, buyer = (
        new_seller(slots=1, answering=bargain_down_to(1)),
        new_buyer(countering=ask_for_discount(10)),
    )
    call = buyer.call(agent(0), SELLERS[0].public, NOW)
    first = seller.handle(call, BUYER.public, NOW)
    assert first is not None
    assert seller.handle(call, BUYER.public, NOW + 1) == first
    counter = buyer.handle(first, SELLERS[0].public, NOW)
    assert counter is not None
    second = seller.handle(counter, BUYER.public, NOW)
    assert seller.handle(counter, BUYER.public, NOW + 1) == second
    assert seller.open == 1


# --- what a seller refuses ----------------------------------------------------------------------


def a_call(**change: Any) -> Signed:
    call = CallForProposals(
        NETWORK,
        TASK,
        BUYER_AGENT,
        agent(0),
        b"summarise",
        input_digest(b"{}"),
        2,
        0,
        b"",
        NOW + CALL_DEADLINE_MS,
    )
    return sealed(call, **change)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        pytest.param({"network": b"O" * 32}, "mismatch", id="another network"),
        pytest.param({"seller": agent(1)}, "mismatch", id="another seller"),
        pytest.param({"skill": b"other"}, "no-such-skill", id="a skill that is not offered"),
        pytest.param({"deadline": NOW - CLOCK_SKEW_MAX_MS - 1}, "expired", id="a deadline that has passed"),
    ],
)
def test_a_call_is_refused(change: dict[str, Any], code: str) -> None:
    seller = new_seller()
    assert refusal_of(seller.handle(a_call(**change), BUYER.public, NOW)) == code
    assert seller.free == 4


def take(seller: Seller, key: Key, task: bytes = TASK) -> Deal | Signed:
    """A call, and the award of its proposal, from the buyer with this key."""
    answer = seller.handle(sealed(open_market(a_call(task=task)), key), key.public, NOW)
    assert answer is not None
    return seller.award(an_award(answer, key, task=task), key.public, NOW)


def begun(seller: Seller, key: Key, task: bytes = TASK) -> Deal:
    """The same, once its Lock was found good."""
    deal = take(seller, key, task)
    assert isinstance(deal, Deal)
    seller.begin(deal.job)
    return deal


def number(n: int) -> bytes:
    return n.to_bytes(32, "big")


def crowd(seller: Seller, names: int, each: int, now: int = NOW) -> list[Key]:
    """So many buyers call for so many proposals each, and award none."""
    keys = [Key(number(1 + n)) for n in range(names)]
    for n in range(each):
        for key in keys:
            call = a_call(task=number(n), deadline=now + CALL_DEADLINE_MS)
            seller.handle(sealed(open_market(call), key), key.public, now)
    return keys


def test_a_call_is_refused_when_no_slot_is_free() -> None:
    seller = new_seller(slots=1)
    deal = begun(seller, BUYER)
    assert refusal_of(seller.handle(a_call(task=b"2" * 32), BUYER.public, NOW)) == "busy"
    seller.release(deal.job)
    proposed(seller)


def test_the_first_award_with_money_gets_the_slot() -> None:
    """Two have proposals; whose Lock is good first works, and the other one is told to ask again."""
    seller, slower = new_seller(slots=1), Key(b"s" * 32)
    late = take(seller, slower)
    assert isinstance(late, Deal)
    deal = begun(seller, BUYER, number(1))
    with pytest.raises(Refused, match="busy"):
        seller.begin(late.job)
    seller.release(late.job)
    seller.release(deal.job)
    begun(seller, slower, number(2))
    assert seller.free == 0


def test_an_award_is_refused_at_once_when_no_slot_is_free() -> None:
    """Nobody asks the ledger about a Lock for nothing; and the proposal stands for a later try."""
    seller, slower = new_seller(slots=1), Key(b"s" * 32)
    answer = seller.handle(sealed(open_market(a_call()), slower), slower.public, NOW)
    assert answer is not None
    deal = begun(seller, BUYER, number(1))
    award = an_award(answer, slower)
    refused = seller.award(award, slower.public, NOW)
    assert isinstance(refused, Signed)
    assert refusal_of(refused) == "busy"
    seller.release(deal.job)
    assert isinstance(seller.award(award, slower.public, NOW), Deal)


def test_e10_one_buyer_has_at_most_eight_proposals_and_only_until_they_expire() -> None:
    seller = new_seller(slots=100)
    calls = [a_call(task=number(n)) for n in range(OPEN_PER_BUYER_MAX + 1)]
    for call in calls[:-1]:
        seller.handle(call, BUYER.public, NOW)
    assert refusal_of(seller.handle(calls[-1], BUYER.public, NOW)) == "too-many"
    assert seller.open == OPEN_PER_BUYER_MAX
    crowd(seller, 1, 1)
    answer = seller.handle(calls[-1], BUYER.public, NOW + PROPOSAL_LIFE_MS)
    assert answer is not None
    assert isinstance(open_market(answer), Proposal)
    assert seller.open == 1


def test_e10_awards_whose_locks_are_looked_at_count_as_well() -> None:
    """Else one buyer makes us ask the ledger for any number of Locks that are not there."""
    seller = new_seller()
    deals = [take(seller, BUYER, number(n)) for n in range(OPEN_PER_BUYER_MAX)]
    assert refusal_of(seller.handle(a_call(task=b"2" * 32), BUYER.public, NOW)) == "too-many"
    assert isinstance(deals[0], Deal)
    seller.release(deals[0].job)
    proposed(seller)


@pytest.mark.parametrize("names", [2, 8, 32, 500])
def test_e10_a_crowd_that_asks_and_takes_nothing_holds_nothing(names: int) -> None:
    seller = new_seller(slots=4)
    crowd(seller, names, 8)
    assert seller.free == 4
    assert seller.open <= OPEN_MAX
    for n in range(4):
        begun(seller, Key(b"%032d" % n), b"%032d" % n)
    assert seller.free == 0


def test_e10_mutant_proposals_that_hold_slots_let_a_crowd_jam_a_seller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = property(lambda self: max(0, self.slots - len(self._running) - len(self._open)))
    monkeypatch.setattr(Seller, "free", held)
    seller = new_seller(slots=4)
    crowd(seller, 2, 8)
    assert refusal_of(seller.handle(a_call(), BUYER.public, NOW)) == "busy"  # the fault shows


def flooded() -> tuple[int, list[str]]:
    """How many proposals are kept of very many, and what a stranger and one who has paid are told then."""
    seller, regular, stranger = new_seller(slots=4), Key(b"r" * 32), Key(b"t" * 32)
    seller.has_paid(regular.public)
    answers = []
    for key in (regular, stranger):
        task = key.public
        answer = seller.handle(sealed(open_market(a_call(task=task)), key), key.public, NOW)
        assert answer is not None
        answers.append(an_award(answer, key, task=task))
    crowd(seller, OPEN_MAX, 2)
    told = []
    for key, award in zip((regular, stranger), answers, strict=True):
        deal = seller.award(award, key.public, NOW)
        told.append("taken" if isinstance(deal, Deal) else refusal_of(deal))
    return seller.open, told


def test_e10_proposals_are_bounded_and_those_of_who_has_paid_go_last() -> None:
    open_, told = flooded()
    assert open_ == OPEN_MAX - 1  # one of them was taken
    assert told == ["taken", "unknown"]


def test_e10_mutant_who_is_not_remembered_is_flooded_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Seller, "has_paid", lambda self, key: None)
    assert flooded()[1] == ["unknown", "unknown"]


def test_v10_who_has_paid_is_remembered_within_bounds() -> None:
    seller = new_seller()
    for n in range(KNOWN_MAX + 10):
        seller.has_paid(number(n))
    assert len(seller._known) == KNOWN_MAX
    assert number(9) not in seller._known


def test_e10_mutant_without_expiry_a_silent_buyer_is_refused_for_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Seller, "expire", lambda self, now_ms: None)
    seller = new_seller(slots=1)
    (silent,) = crowd(seller, 1, OPEN_PER_BUYER_MAX)
    later = NOW + 1000 * PROPOSAL_LIFE_MS
    call = sealed(open_market(a_call(task=b"2" * 32, deadline=later)), silent)
    assert refusal_of(seller.handle(call, silent.public, later)) == "too-many"  # the fault shows


def proposed(seller: Seller) -> tuple[Signed, Proposal]:
    answer = seller.handle(a_call(), BUYER.public, NOW)
    assert answer is not None
    proposal = open_market(answer)
    assert isinstance(proposal, Proposal)
    return answer, proposal


def a_counter(answer: Signed, **change: Any) -> Signed:
    return sealed(CounterProposal(answer.id, TASK, BUYER_AGENT, agent(0), 1, b"1/token", NOW), **change)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        pytest.param({"answers": b"x" * 32}, "unknown", id="to another proposal"),
        pytest.param({"task": b"x" * 32}, "unknown", id="for another task"),
        pytest.param({"buyer": b"x" * 32}, "mismatch", id="of another buyer"),
        pytest.param({"seller": b"x" * 32}, "mismatch", id="to another seller"),
        pytest.param({"round": 2}, "mismatch", id="a round skipped"),
        pytest.param({"deadline": NOW - CLOCK_SKEW_MAX_MS - 1}, "expired", id="too late"),
        pytest.param({}, "price", id="too low"),
    ],
)
def test_a_counter_proposal_is_refused(change: dict[str, Any], code: str) -> None:
    seller = new_seller()
    answer, _ = proposed(seller)
    assert refusal_of(seller.handle(a_counter(answer, **change), BUYER.public, NOW)) == code


def test_a_fourth_round_is_refused() -> None:
    seller = new_seller(price="1000/token", answering=bargain_down_to(1))
    answer, _ = proposed(seller)
    for round_ in (1, 2, 3):
        reply = seller.handle(a_counter(answer, round=round_), BUYER.public, NOW)
        assert reply is not None
        answer = reply
    assert refusal_of(seller.handle(a_counter(answer, round=4), BUYER.public, NOW)) == "rounds"


def test_a_counter_with_a_price_that_is_none_is_malformed() -> None:
    seller = new_seller()
    answer, _ = proposed(seller)
    with pytest.raises(Malformed):
        seller.handle(a_counter(answer, price=b"cheap"), BUYER.public, NOW)


def an_award(answer: Signed, key: Key = BUYER, **change: Any) -> Signed:
    award = Award(
        answer.id, TASK, BUYER_AGENT, agent(0), b"summarise", b"2/token", 64, 32, 600, 300, LOCK, b"{}",
        b"", b"", b"", NOW + CALL_DEADLINE_MS,
    )  # fmt: skip
    return sealed(award, key, **change)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        pytest.param({"answers": b"x" * 32}, "unknown", id="of another proposal"),
        pytest.param({"task": b"x" * 32}, "unknown", id="of another task"),
        pytest.param({"buyer": b"x" * 32}, "mismatch", id="another buyer"),
        pytest.param({"seller": b"x" * 32}, "mismatch", id="another seller"),
        pytest.param({"price": b"1/token"}, "mismatch", id="a lower price"),
        pytest.param({"window": 128}, "mismatch", id="a wider window"),
        pytest.param({"step": 64}, "mismatch", id="a longer step"),
        pytest.param({"skill": b"other"}, "mismatch", id="another skill"),
        pytest.param({"input": b"[]"}, "mismatch", id="another input"),
        pytest.param({"budget": 1}, "price", id="a budget that buys nothing"),
        pytest.param({"deadline": NOW - CLOCK_SKEW_MAX_MS - 1}, "expired", id="too late"),
    ],
)
def test_an_award_is_refused(change: dict[str, Any], code: str) -> None:
    seller = new_seller()
    answer, _ = proposed(seller)
    refused = seller.award(an_award(answer, **change), BUYER.public, NOW)
    assert isinstance(refused, Signed)
    assert refusal_of(refused) == code
    assert isinstance(seller.award(an_award(answer), BUYER.public, NOW), Deal)  # nothing was lost by it


def test_an_award_of_more_units_than_proposed_is_refused() -> None:
    seller = new_seller()
    seller.listings = {b"summarise": Listing(Price.parse("2/token"), 64, 32, units_max=299)}
    answer, _ = proposed(seller)
    refused = seller.award(an_award(answer), BUYER.public, NOW)
    assert isinstance(refused, Signed)
    assert refusal_of(refused) == "mismatch"


def test_an_award_after_the_proposal_has_expired_is_refused() -> None:
    seller = new_seller()
    answer, _ = proposed(seller)
    refused = seller.award(an_award(answer), BUYER.public, NOW + PROPOSAL_LIFE_MS)
    assert isinstance(refused, Signed)
    assert refusal_of(refused) == "unknown"


def test_the_same_award_again_is_told_to_resume() -> None:
    seller = new_seller()
    answer, _ = proposed(seller)
    award = an_award(answer)
    assert isinstance(seller.award(award, BUYER.public, NOW), Deal)
    again = seller.award(award, BUYER.public, NOW)
    assert isinstance(again, Signed)
    assert refusal_of(again) == "known"


def test_anothers_award_takes_nobodys_proposal() -> None:
    seller, thief = new_seller(), Key(b"t" * 32)
    answer, _ = proposed(seller)
    refused = seller.award(an_award(answer, thief), thief.public, NOW)
    assert isinstance(refused, Signed)
    assert refusal_of(refused) == "unknown"


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(
            Proposal(TASK, TASK, TASK, TASK, 0, b"1/token", 1, 1, 0, 0, 0, None, 1), id="a proposal"
        ),
        pytest.param(Refusal(TASK, b"", b""), id="a refusal"),
        pytest.param(Accepted(TASK, 0, 1), id="an acceptance"),
    ],
)
def test_a_seller_is_not_asked_with_answers(message: Message) -> None:
    seller = new_seller()
    with pytest.raises(Malformed):
        seller.handle(sealed(message), BUYER.public, NOW)
    with pytest.raises(Malformed):
        seller.award(sealed(message), BUYER.public, NOW)


def test_a_message_relayed_by_another_peer_is_refused() -> None:
    with pytest.raises(RemoteError):
        new_seller().handle(a_call(), Key(b"r" * 32).public, NOW)


def test_e12_a_forged_call_is_refused_and_holds_nothing() -> None:
    seller, call = new_seller(), a_call()
    for forged in (
        msgspec.structs.replace(call, signature=bytes(64)),
        Signed(call.body, BUYER.public, BUYER.sign(b"ainp2p/card/1", call.body)),
    ):
        with pytest.raises(BadSignature):
            seller.handle(forged, BUYER.public, NOW)
        with pytest.raises(BadSignature):
            seller.award(forged, BUYER.public, NOW)
    assert seller.free == 4


def test_a_decline_of_something_else_takes_nothing_back() -> None:
    seller = new_seller()
    proposed(seller)
    assert seller.handle(sealed(Decline(b"x" * 32, TASK)), BUYER.public, NOW) is None
    assert seller.open == 1


# --- what a buyer refuses -----------------------------------------------------------------------


def answered(
    change: dict[str, Any], key: Key = SELLERS[0], buyer: Buyer | None = None
) -> tuple[Buyer, Signed]:
    buyer = buyer or new_buyer()
    call = buyer.call(agent(0), SELLERS[0].public, NOW)
    proposal = Proposal(
        call.id, TASK, BUYER_AGENT, agent(0), 0, b"2/token", 64, 32, 0, 0, 0, None, NOW + PROPOSAL_LIFE_MS
    )
    return buyer, sealed(proposal, key, **change)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        pytest.param({"answers": b"x" * 32}, RemoteError, id="to another call"),
        pytest.param({"task": b"x" * 32}, RemoteError, id="another task"),
        pytest.param({"buyer": b"x" * 32}, RemoteError, id="another buyer"),
        pytest.param({"seller": b"x" * 32}, RemoteError, id="another seller"),
        pytest.param({"round": 1}, RemoteError, id="another round"),
        pytest.param({"price": b"cheap"}, Malformed, id="no price"),
        pytest.param({"window": 31}, Malformed, id="a window below its step"),
        pytest.param({"expires": NOW}, Expired, id="expired"),
    ],
)
def test_a_proposal_is_refused(change: dict[str, Any], error: type[Error]) -> None:
    buyer, answer = answered(change)
    with pytest.raises(error):
        buyer.handle(answer, SELLERS[0].public, NOW)
    assert buyer.bids(NOW) == []
    assert not buyer.waiting


def test_a_late_proposal_is_refused() -> None:
    buyer, answer = answered({})
    with pytest.raises(Expired):
        buyer.handle(answer, SELLERS[0].public, NOW + CALL_DEADLINE_MS + 1)
    assert buyer.bids(NOW) == []


def test_e12_a_proposal_signed_by_another_is_refused() -> None:
    buyer, answer = answered({}, SELLERS[1])
    with pytest.raises(RemoteError):
        buyer.handle(answer, SELLERS[0].public, NOW)


def test_e12_a_forged_proposal_is_refused() -> None:
    buyer, answer = answered({})
    with pytest.raises(BadSignature):
        buyer.handle(msgspec.structs.replace(answer, signature=bytes(64)), SELLERS[0].public, NOW)


def test_an_answer_that_nobody_waits_for_is_refused() -> None:
    buyer, answer = answered({})
    buyer.handle(answer, SELLERS[0].public, NOW)
    with pytest.raises(RemoteError):
        buyer.handle(answer, SELLERS[0].public, NOW)
    with pytest.raises(RemoteError):
        buyer.handle(answer, SELLERS[1].public, NOW)


def test_a_buyers_question_is_no_answer() -> None:
    buyer = new_buyer()
    buyer.call(agent(0), SELLERS[0].public, NOW)
    with pytest.raises(Malformed):
        buyer.handle(sealed(Decline(TASK, TASK), SELLERS[0]), SELLERS[0].public, NOW)


def test_a_proposal_that_expires_meanwhile_is_not_awarded() -> None:
    buyer, answer = answered({})
    buyer.handle(answer, SELLERS[0].public, NOW)
    assert buyer.best(NOW) is not None
    assert buyer.best(NOW + PROPOSAL_LIFE_MS) is None


def test_a_silent_seller_is_waited_for_until_the_deadline_only() -> None:
    buyer = new_buyer()
    buyer.call(agent(0), SELLERS[0].public, NOW)
    assert (buyer.waiting, buyer.deadline) == (True, NOW + CALL_DEADLINE_MS)
    buyer.silent(SELLERS[0].public)
    assert (buyer.waiting, buyer.deadline) == (False, 0)


def awarded() -> tuple[Buyer, Signed, Bid]:
    buyer, answer = answered({})
    buyer.handle(answer, SELLERS[0].public, NOW)
    best = buyer.best(NOW)
    assert best is not None
    return buyer, buyer.award(best, NOW, lock=LOCK, budget=600), best


def test_a_task_is_awarded_once() -> None:
    buyer, _, best = awarded()
    with pytest.raises(InvalidInput):
        buyer.award(best, NOW, lock=LOCK, budget=600)


def test_after_a_refused_award_another_may_be_awarded() -> None:
    buyer, award, best = awarded()
    refusal = sealed(Refusal(award.id, b"busy", b""), SELLERS[0])
    assert isinstance(buyer.accepted(refusal, best.key), Refusal)
    assert buyer.best(NOW) is None
    with pytest.raises(InvalidInput):
        buyer.award(best, NOW, lock=LOCK, budget=600)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda award: sealed(Accepted(b"x" * 32, 0, 32), SELLERS[0]), id="to another award"),
        pytest.param(lambda award: sealed(Accepted(award.id, 0, 32), SELLERS[1]), id="by another seller"),
        pytest.param(lambda award: sealed(Decline(award.id, TASK), SELLERS[0]), id="a question"),
        pytest.param(
            lambda award: sealed(
                Proposal(award.id, TASK, TASK, TASK, 0, b"1/token", 1, 1, 0, 0, 0, None, 1), SELLERS[0]
            ),
            id="a proposal",
        ),
    ],
)
def test_a_wrong_answer_to_an_award_is_refused(answer: Callable[[Signed], Signed]) -> None:
    buyer, award, best = awarded()
    with pytest.raises(RemoteError):
        buyer.accepted(answer(award), best.key)


def test_an_acceptance_by_somebody_else_is_refused() -> None:
    buyer, award, _ = awarded()
    with pytest.raises(RemoteError):
        buyer.accepted(sealed(Accepted(award.id, 0, 32), SELLERS[1]), SELLERS[1].public)


def test_a_budget_that_does_not_buy_one_unit_is_our_own_mistake() -> None:
    buyer, answer = answered({})
    buyer.handle(answer, SELLERS[0].public, NOW)
    best = buyer.best(NOW)
    assert best is not None
    with pytest.raises(InvalidInput):
        buyer.award(best, NOW, lock=LOCK, budget=1)


def test_a_seller_is_called_once_per_task() -> None:
    buyer = new_buyer()
    buyer.call(agent(0), SELLERS[0].public, NOW)
    with pytest.raises(InvalidInput):
        buyer.call(agent(0), SELLERS[0].public, NOW)


# --- planted faults -----------------------------------------------------------------------------


def test_e12_mutant_without_verification_a_forged_award_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    seller = new_seller()
    answer, _ = proposed(seller)
    forged = msgspec.structs.replace(an_award(answer), signature=bytes(64))
    with pytest.raises(BadSignature):
        seller.award(forged, BUYER.public, NOW)
    monkeypatch.setattr("ainp2p.protocol.messages.verify", lambda *arguments: None)
    assert isinstance(seller.award(forged, BUYER.public, NOW), Deal)


def test_every_refusal_has_a_code_of_its_own() -> None:
    assert len(set(strategies.REFUSALS)) == len(strategies.REFUSALS)
