"""Checks, long afterwards and by anybody, what a buyer and a seller said to each other.

A transcript is the list of signed messages between two keys about one task, in order: from the buyer's call,
or from an award that says its own terms (`messages.DIRECT`) and is agreed to once accepted. It shows who said
what in answer to what. It does not show when: times in it are claims of whoever signed them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ainp2p.errors import Malformed, RemoteError
from ainp2p.protocol.codec import Message
from ainp2p.protocol.messages import (
    DIRECT,
    ROUNDS_MAX,
    Accepted,
    AnySigned,
    Award,
    CallForProposals,
    Cancel,
    CounterProposal,
    Decline,
    Finished,
    Proposal,
    Refusal,
    Resume,
    Signed,
    input_digest,
    open_market,
)
from ainp2p.protocol.price import Price

M = TypeVar("M", bound=Message)

MESSAGES_MAX = 1024  # a call, three rounds, an award; then one line per disconnect


@dataclass(slots=True)
class Verdict:
    """What a transcript proves."""

    call: CallForProposals | None  # None: it begins with an award
    buyer_key: bytes
    seller_key: bytes | None = None  # None: the seller never said anything
    proposals: list[Proposal] = field(default_factory=list)
    refusal: Refusal | None = None
    award: Award | None = None
    job: bytes | None = None
    accepted: Accepted | None = None
    finished: Finished | None = None


def verify_transcript(transcript: Sequence[Signed]) -> Verdict:
    """Check every signature, and that each message is a legal answer to one before it.

    Raises:
        BadSignature: a message was not signed by the key that it travels with.
        Malformed: a message is none, or stands where it could not have been said.
    """
    if not 1 <= len(transcript) <= MESSAGES_MAX:
        raise Malformed(f"a transcript has 1 to {MESSAGES_MAX} messages")
    first, verdict = open_market(transcript[0]), Verdict(None, transcript[0].key)
    if isinstance(first, CallForProposals):
        verdict.call = first
    elif isinstance(first, Award) and first.answers == DIRECT:
        verdict.award, verdict.job = first, transcript[0].id
        Price.from_wire(first.price)
        _require(first.window >= first.step, "a window below its step")
    else:
        raise Malformed("a transcript begins with a call for proposals, or with an award that answers none")
    reader = _Reader(transcript[0], first, verdict)
    for signed in transcript[1:]:
        reader.read(signed, open_market(signed))
    return reader.verdict


class _Reader:
    """Walks down a transcript; `_said` is what may be answered."""

    def __init__(self, signed: Signed, first: AnySigned, verdict: Verdict) -> None:
        self.verdict = verdict
        self._said: dict[bytes, AnySigned] = {signed.id: first}

    def read(self, signed: Signed, message: AnySigned) -> None:
        try:
            self._read(signed, message)
        except RemoteError as exc:
            raise Malformed(f"message {len(self._said) + 1}, {type(message).__name__}: {exc}") from exc
        self._said[signed.id] = message

    def _read(self, signed: Signed, message: AnySigned) -> None:
        verdict = self.verdict
        match message:
            case Proposal() | Refusal() | Accepted() | Finished():
                verdict.seller_key = verdict.seller_key or signed.key
                _require(signed.key == verdict.seller_key != verdict.buyer_key, "not signed by the seller")
            case _:
                _require(signed.key == verdict.buyer_key, "not signed by the buyer")
        match message:
            case Proposal():
                self._proposal(message)
            case CounterProposal():
                answered = self._answered(message.answers, Proposal)
                _require(message.round == answered.round + 1 <= ROUNDS_MAX, "a round too many, or skipped")
                self._same_parties(message)
            case Award():
                self._award(signed, message)
            case Decline():
                self._answered(message.answers, Proposal)
            case Refusal():
                self._answered(message.answers, CallForProposals, CounterProposal, Award, Resume)
                verdict.refusal = message
            case Accepted():
                self._answered(message.answers, Award)
                verdict.accepted = message
            case Cancel() | Resume():
                _require(message.job == verdict.job, "no such job")
            case Finished():
                _require(message.job == verdict.job and verdict.accepted is not None, "no such job")
                _require(verdict.finished in (None, message), "a second, different last word")
                verdict.finished = message
            case _:
                raise Malformed("a second call in one transcript")

    def _proposal(self, proposal: Proposal) -> None:
        answered = self._answered(proposal.answers, CallForProposals, CounterProposal)
        round_ = answered.round if isinstance(answered, CounterProposal) else 0
        _require(proposal.round == round_, "another round than that of what it answers")
        self._same_parties(proposal)
        Price.from_wire(proposal.price)
        self.verdict.proposals.append(proposal)

    def _award(self, signed: Signed, award: Award) -> None:
        proposal, call = self._answered(award.answers, Proposal), self._call()
        _require(self.verdict.award is None, "a second award")
        self._same_parties(award)
        agreed = (proposal.price, proposal.window, proposal.step, call.skill, call.input, call.input_size)
        said = (
            award.price,
            award.window,
            award.step,
            award.skill,
            input_digest(award.input),
            len(award.input),
        )
        _require(agreed == said, "other terms, skill or input than proposed and called for")
        self.verdict.award, self.verdict.job = award, signed.id

    def _same_parties(self, message: Proposal | CounterProposal | Award) -> None:
        call = self._call()
        same = (message.task, message.buyer, message.seller) == (call.task, call.buyer, call.seller)
        _require(same, "another task or other agents than in the call")

    def _call(self) -> CallForProposals:
        assert self.verdict.call is not None  # a proposal, which answers it, came before
        return self.verdict.call

    def _answered(self, id_: bytes, *kinds: type[M]) -> M:
        answered = self._said.get(id_)
        if answered is None or not isinstance(answered, kinds):
            raise Malformed("it answers nothing that was said before")
        return answered


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Malformed(otherwise)
