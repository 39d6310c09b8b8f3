"""Transcripts: a good one proves what was agreed; each way to doctor one is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from ainp2p.errors import BadSignature, Malformed
from ainp2p.protocol.buyer_negotiation import Buyer, Task
from ainp2p.protocol.identity import Key
from ainp2p.protocol.messages import PURPOSE, Cancel, Finished, Refusal, Resume, Signed, open_market, seal
from ainp2p.protocol.price import Price
from ainp2p.protocol.seller_negotiation import Deal, Listing, Seller
from ainp2p.protocol.strategies import ask_for_discount, bargain_down_to
from ainp2p.protocol.transcript import verify_transcript

NETWORK, LOCK = b"N" * 32, b"L" * 32
BUYER, SELLER, OTHER = Key(b"b" * 32), Key(b"s" * 32), Key(b"o" * 32)
NOW = 1_800_000_000_000


def good() -> list[Signed]:
    """Call, proposal, three rounds, award, acceptance, a disconnect, the last word."""
    seller = Seller(SELLER, network=NETWORK, agent=b"S" * 32, slots=1, answering=bargain_down_to(50))
    seller.listings = {b"summarise": Listing(Price.parse("100/token"), 64, 32)}
    task = Task(b"T" * 32, b"summarise", b"{}")
    buyer = Buyer(BUYER, network=NETWORK, agent=b"B" * 32, task=task, countering=ask_for_discount(20))
    message: Signed | None = buyer.call(b"S" * 32, SELLER.public, NOW)
    while message is not None:
        answer = seller.handle(message, BUYER.public, NOW)
        assert answer is not None
        message = buyer.handle(answer, SELLER.public, NOW)
    best = buyer.best(NOW)
    assert best is not None
    award = buyer.award(best, NOW, lock=LOCK, budget=6000)
    deal = seller.award(award, BUYER.public, NOW)
    assert isinstance(deal, Deal)
    buyer.accepted(seller.accepted(deal, input_units=0, window=32), SELLER.public)
    transcript = list(buyer.transcript(SELLER.public))
    assert deal.transcript == tuple(transcript[:-1])  # the seller holds the same
    return [
        *transcript,
        seal(BUYER, PURPOSE, Resume(award.id, 1, 0, b"", 0)),
        seal(BUYER, PURPOSE, Cancel(award.id, b"")),
        seal(SELLER, PURPOSE, Finished(award.id, b"canceled", 2, 100, 1, b"C" * 32, b"")),
    ]


GOOD = good()
NAMES = [type(open_market(signed)).__name__ for signed in GOOD]
CALL, AWARD, ACCEPTED, RESUME, CANCEL, FINISHED = 0, 8, 9, 10, 11, 12


def test_a_transcript_proves_what_was_agreed() -> None:
    assert [
        "CallForProposals", *["Proposal", "CounterProposal"] * 3, "Proposal", "Award", "Accepted",
        "Resume", "Cancel", "Finished",
    ] == NAMES  # fmt: skip
    verdict = verify_transcript(GOOD)
    assert (verdict.buyer_key, verdict.seller_key) == (BUYER.public, SELLER.public)
    assert verdict.award is not None
    assert verdict.job == GOOD[AWARD].id
    assert verdict.finished is not None
    assert verdict.finished.amount == 100
    assert [proposal.round for proposal in verdict.proposals] == [0, 1, 2, 3]


def test_every_beginning_of_a_transcript_is_one() -> None:
    for length in range(1, len(GOOD) + 1):
        verify_transcript(GOOD[:length])


def test_a_refusal_is_part_of_the_record() -> None:
    refusal = seal(SELLER, PURPOSE, Refusal(GOOD[AWARD].id, b"busy", b""))
    verdict = verify_transcript([*GOOD[: AWARD + 1], refusal])
    assert verdict.refusal is not None
    assert verdict.accepted is None


def again(at: int, key: Key, **change: Any) -> Signed:
    """A message said anew, by `key` and with changes."""
    return seal(key, PURPOSE, msgspec.structs.replace(open_market(GOOD[at]), **change))


def replaced(at: int, by: Signed) -> list[Signed]:
    return [*GOOD[:at], by, *GOOD[at + 1 :]]


@pytest.mark.parametrize(
    "doctored",
    [
        pytest.param(lambda: [], id="nothing"),
        pytest.param(lambda: GOOD[1:], id="without the call"),
        pytest.param(lambda: GOOD * 100, id="too long"),
        pytest.param(lambda: [GOOD[0], *GOOD], id="the call twice"),
        pytest.param(lambda: GOOD[:1] + GOOD[2:], id="without the proposal"),
        pytest.param(lambda: [GOOD[0], GOOD[2], GOOD[1], *GOOD[3:]], id="out of order"),
        pytest.param(lambda: GOOD[:AWARD] + GOOD[AWARD + 1 :], id="without the award"),
        pytest.param(lambda: [*GOOD[: AWARD + 1], *GOOD[AWARD:]], id="the award twice"),
        pytest.param(lambda: replaced(AWARD, again(AWARD, OTHER)), id="an award by somebody else"),
        pytest.param(lambda: replaced(AWARD, again(AWARD, BUYER, price=b"1/token")), id="a lower price"),
        pytest.param(lambda: replaced(AWARD, again(AWARD, BUYER, input=b"[]")), id="another input"),
        pytest.param(lambda: replaced(AWARD, again(AWARD, BUYER, window=640)), id="a wider window"),
        pytest.param(lambda: replaced(AWARD, again(AWARD, BUYER, skill=b"x")), id="another skill"),
        pytest.param(lambda: replaced(AWARD, again(AWARD, BUYER, seller=b"x" * 32)), id="another agent"),
        pytest.param(lambda: replaced(1, again(1, OTHER)), id="a proposal by somebody else"),
        pytest.param(lambda: replaced(1, again(1, BUYER)), id="a proposal by the buyer"),
        pytest.param(lambda: replaced(1, again(1, SELLER, round=1)), id="a proposal of another round"),
        pytest.param(lambda: replaced(1, again(1, SELLER, price=b"free")), id="a proposal without a price"),
        pytest.param(lambda: replaced(1, again(1, SELLER, task=b"x" * 32)), id="a proposal for another task"),
        pytest.param(lambda: replaced(2, again(2, BUYER, round=2)), id="a round skipped"),
        pytest.param(lambda: replaced(2, again(2, SELLER)), id="a counter-proposal by the seller"),
        pytest.param(
            lambda: replaced(ACCEPTED, again(ACCEPTED, SELLER, answers=GOOD[0].id)), id="accepts the call"
        ),
        pytest.param(lambda: replaced(RESUME, again(RESUME, BUYER, job=b"x" * 32)), id="resumes another job"),
        pytest.param(lambda: replaced(CANCEL, again(CANCEL, OTHER)), id="cancelled by somebody else"),
        pytest.param(
            lambda: replaced(FINISHED, again(FINISHED, SELLER, job=b"x" * 32)), id="finishes another job"
        ),
        pytest.param(lambda: [*GOOD, again(FINISHED, SELLER, amount=99)], id="two last words"),
        pytest.param(lambda: [*GOOD[:ACCEPTED], GOOD[FINISHED]], id="finished, and never accepted"),
    ],
)
def test_a_doctored_transcript_is_refused(doctored: Callable[[], list[Signed]]) -> None:
    with pytest.raises(Malformed):
        verify_transcript(doctored())


@pytest.mark.parametrize("at", range(len(GOOD)))
def test_e12_a_forged_signature_anywhere_is_refused(at: int) -> None:
    with pytest.raises(BadSignature):
        verify_transcript(replaced(at, msgspec.structs.replace(GOOD[at], signature=bytes(64))))
    with pytest.raises(BadSignature):
        verify_transcript(replaced(at, msgspec.structs.replace(GOOD[at], key=OTHER.public)))


def test_mutant_without_the_answers_a_transcript_out_of_order_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    from ainp2p.protocol import transcript

    shuffled = [GOOD[0], GOOD[1], *GOOD[3:5], GOOD[2], *GOOD[5:]]
    with pytest.raises(Malformed):
        verify_transcript(shuffled)

    def any_answer(self: Any, id_: bytes, *kinds: Any) -> Any:
        return open_market(next(signed for signed in GOOD if signed.id == id_))

    monkeypatch.setattr(transcript._Reader, "_answered", any_answer)
    verify_transcript(shuffled)
