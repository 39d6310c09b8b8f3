"""How buyers and sellers bargain: plain functions, which a user or a simulation replaces.

A strategy sees messages and numbers and says a price or no; limits, deadlines, rounds and signatures are
kept by the cores around it. Give strategies of your own the same signatures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ainp2p.protocol.messages import DIRECT, CallForProposals, CounterProposal, Proposal, Signed
from ainp2p.protocol.price import STREAMED, UNITS, Price

TYPICAL_UNITS = 64  # units by which prices of different shape are compared, when a call does not say

# Why a seller refuses. On the wire as `Refusal.code`; `Refused.code` at the buyer.
BUSY = "busy"  # no slot is free: ask again later
TOO_MANY = "too-many"  # this buyer has as many proposals open as one may
NO_SUCH_SKILL = "no-such-skill"
PRICE = "price"  # not for that price
ROUNDS = "rounds"  # no more counter-proposals
EXPIRED = "expired"  # the call, the proposal or the award is too late
UNKNOWN = "unknown"  # it answers nothing that is open
MISMATCH = "mismatch"  # it says other things than what it answers
KNOWN = "known"  # this award is a job already: resume it
REFUSALS = (BUSY, TOO_MANY, NO_SUCH_SKILL, PRICE, ROUNDS, EXPIRED, UNKNOWN, MISMATCH, KNOWN)


@dataclass(frozen=True, slots=True)
class No:
    """A strategy's refusal."""

    code: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Bid:
    """A valid proposal, as the buyer's strategies see it."""

    key: bytes  # the seller's
    proposal: Proposal
    signed: Signed | None  # None: the seller has not proposed it, its card says so
    price: Price
    units: int  # how many the buyer wants; 0: unknown

    @property
    def id(self) -> bytes:
        """What an award or a counter-proposal answers."""
        return self.signed.id if self.signed is not None else DIRECT

    @property
    def cost(self) -> int:
        """Uain for what is wanted, or for TYPICAL_UNITS where that is unknown; prompt ids not counted."""
        return self.price.after(self.units or TYPICAL_UNITS)

    @property
    def time_ms(self) -> int:
        """Until all is delivered, by the seller's own word; a seller that has not measured counts as slow."""
        speed = self.proposal.speed or 1000  # milli-units/s
        return self.proposal.wait + (self.units or TYPICAL_UNITS) * 1_000_000 // speed


Pricing = Callable[[CallForProposals, Price, int], Price | No]
"""(call, price on the card, load in percent of slots) → what to propose."""
Answering = Callable[[CounterProposal, Price, Price, Price, int], Price | No]
"""(counter-proposal, its price, own standing price, price on the card, load) → what to propose now."""
Choosing = Callable[[Sequence[Bid]], Bid | None]
"""Acceptable proposals, by price, time and key in this order → the one to award; None: none."""
Countering = Callable[[Bid, Price | None, int], Price | None]
"""(proposal, own limit, number of the round) → a price to offer back; None: leave it at that."""


def list_price(call: CallForProposals, base: Price, load: int) -> Price | No:
    """What the card says, to everybody."""
    return base


def hold_price(counter: CounterProposal, asked: Price, standing: Price, base: Price, load: int) -> Price | No:
    """Never go below what was proposed; take what is better for us."""
    return asked if standing.within(asked) else No(PRICE, f"our price is {standing}")


def bargain_down_to(percent: int) -> Answering:
    """Meet a counter-proposal half-way, down to `percent` of the card's price; when busy, do not bargain."""

    def answer(counter: CounterProposal, asked: Price, standing: Price, base: Price, load: int) -> Price | No:
        if load >= 100:
            return hold_price(counter, asked, standing, base, load)
        return _each(
            lambda unit: max(
                -(-getattr(base, unit) * percent // 100),  # rounded up
                (getattr(asked, unit) + getattr(standing, unit)) // 2,
            ),
            standing,
        )

    return answer


def cheapest(bids: Sequence[Bid]) -> Bid | None:
    """The lowest cost; among equals the soonest done."""
    return bids[0] if bids else None


def never_counter(bid: Bid, limit: Price | None, round_: int) -> Price | None:
    """Take it or leave it."""
    return None


def counter_above_limit(bid: Bid, limit: Price | None, round_: int) -> Price | None:
    """Offer one's limit to sellers that ask for more, once."""
    if limit is None or round_ > 1 or bid.price.within(limit):
        return None
    return limit


def ask_for_discount(percent: int) -> Countering:
    """Always ask for `percent` less than was proposed, in every round."""

    def counter(bid: Bid, limit: Price | None, round_: int) -> Price | None:
        lower = _each(lambda unit: getattr(bid.price, unit) * (100 - percent) // 100, bid.price)
        return lower if lower != bid.price else None

    return counter


def _each(amount: Callable[[str], int], like: Price) -> Price:
    """A price with the terms of `like`, each at least 1 uain."""
    terms = {unit: max(1, amount(unit)) for unit in UNITS if getattr(like, unit)}
    assert sum(unit in STREAMED for unit in terms) <= 1  # `like` is a price
    return Price(**terms)


@dataclass(frozen=True, slots=True)
class Strategies:
    """How one agent bargains, on both sides.

    With `direct`, the first offer is awarded at once, at its card's price, without a call for proposals, if a
    Lock at its seller is open and `choosing` takes it: the result begins one round trip sooner. Whoever
    refuses is asked in the usual way.
    `resume_s` is how long it looks for a seller that has vanished in the middle of a job, where nobody else
    could go on.
    """

    pricing: Pricing = list_price
    answering: Answering = hold_price
    choosing: Choosing = cheapest
    countering: Countering = never_counter
    direct: bool = False
    resume_s: float = 10.0
