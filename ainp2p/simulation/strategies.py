"""Strategies to begin with: what a seller asks, which calls it answers, whom a buyer asks and takes.

    world.spawn("seller", skills=[work], strategies=Strategies(pricing=cost_plus(20, percent=10)))

All have the signatures of `ainp2p.protocol.strategies`, so the same strategy bargains on a real network.
Those that learn are made once for each agent. Amounts are uain for one unit of the price (`Price.unit`), or
for the call where nothing else costs anything; the card's price is the most that a proposal may say.
Nothing here draws a random number of its own: what is random gets an `rng` (`world.rng("shop", name)`).
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from ainp2p.agents.offers import Offer
from ainp2p.errors import InvalidInput
from ainp2p.protocol.messages import CallForProposals
from ainp2p.protocol.price import Price
from ainp2p.protocol.strategies import BUSY, Bid, Choosing, No, Pricing, list_price

TASKS_KEPT = 256  # negotiations that run at once, of one buyer


# --- pricing: what a seller asks ------------------------------------------------------------------


def asking(base: Price, amount: int) -> Price:
    """The card's price with another amount for its unit: at least 1 uain, and no more than the card says."""
    if not base.rate:
        return replace(base, call=max(1, min(amount, base.call)))
    return replace(base, **{base.unit: max(1, min(amount, base.rate))})


def cost_plus(cost: int, *, percent: int) -> Pricing:
    """What it costs and a fixed part of that, rounded up, whatever others do."""

    def price(call: CallForProposals, base: Price, load: int) -> Price | No:
        return asking(base, cost + -(-cost * percent // 100))

    return price


def zero_intelligence(cost: int, rng: random.Random) -> Pricing:
    """Any price between cost and card, each as likely: no thought, but no loss either.

    The "ZI-C" traders of D. K. Gode and S. Sunder (J. Polit. Econ. 101, 1993): how well a market does with
    them is what its rules do, and not its traders.
    """

    def price(call: CallForProposals, base: Price, load: int) -> Price | No:
        return asking(base, rng.randint(min(cost, base.rate or base.call), base.rate or base.call))

    return price


def undercut(last_price: Callable[[], int | None], cost: int, *, by: int = 1) -> Pricing:
    """A little below the last price that was paid anywhere, as `last_price()` tells it; never below cost."""

    def price(call: CallForProposals, base: Price, load: int) -> Price | No:
        last = last_price()
        return base if last is None else asking(base, max(cost, last - by))

    return price


@dataclass(slots=True)
class AdaptiveMargin:
    """Asks more after each call that it won, and less after each that it lost, between `least` and the card.

    The skill says when it has won: call `won()` in it. Give `pricing` to `Strategies`.

    Attributes:
        start: what it asks first.
        least: cost, and the smallest margin that is worth the work.
        up, down: uain by which it moves: it rests where it wins a share down/(up + down) of its calls.
    """

    start: int
    least: int
    up: int = 1
    down: int = 1
    _level: int = field(init=False)

    def __post_init__(self) -> None:
        self._level = self.start

    @property
    def amount(self) -> int:
        """What it would ask now."""
        return max(self.least, self._level)

    def pricing(self, call: CallForProposals, base: Price, load: int) -> Price | No:
        """The strategy."""
        self._level = min(self._level, base.rate or base.call)
        asked = asking(base, self.amount)
        # A call counts as lost until it is won: other calls come meanwhile.
        self._level = max(self.least - self.down, self._level - self.down)
        return asked

    def won(self) -> None:
        """A call became a job."""
        self._level += self.up + self.down


# --- bidding: which calls a seller answers ----------------------------------------------------------


@dataclass(slots=True)
class Regulars:
    """Answers those who have bought before, and of all strangers together at most `strangers` in `every_s`.

    For a seller whose proposals bind it: what a crowd of strangers can make it promise is bounded by this,
    whatever names they take. The skill says who buys: `regulars.bought(job.buyer)`.

    Attributes:
        strangers: proposals to strangers within `every_s`.
        now: the time in s: `lambda: world.now`, or `trio.current_time`.
        pricing: what is asked of those who get an answer.
    """

    strangers: int
    every_s: float
    now: Callable[[], float]
    pricing: Pricing = list_price
    known: set[bytes] = field(default_factory=set)
    _recent: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.strangers < 1 or self.every_s <= 0:
            raise InvalidInput("a seller that answers no stranger has no customers: strangers=1 or more")

    def bought(self, buyer: bytes) -> None:
        """This agent has awarded a job."""
        self.known.add(buyer)

    def bidding(self, call: CallForProposals, base: Price, load: int) -> Price | No:
        """The strategy; give it as `pricing`."""
        if call.buyer not in self.known:
            now = self.now()
            self._recent = [at for at in self._recent if at > now - self.every_s]
            if len(self._recent) >= self.strangers:
                return No(BUSY, "too many strangers are asking")
            self._recent.append(now)
        return self.pricing(call, base, load)


@dataclass(slots=True)
class Binding:
    """Keeps a slot free for each proposal while it lives, half of them for one name at most.

    What an agent of this library does not do: its proposals hold nothing. The skill says who buys:
    `binding.sold(job.buyer)`.

    Attributes:
        slots: of the seller.
        now: the time in s.
        pricing: what is asked.
        life_s: of a proposal.
    """

    slots: int
    now: Callable[[], float]
    pricing: Pricing = list_price
    life_s: float = 10.0
    _kept: list[tuple[float, bytes]] = field(default_factory=list)  # until when, for whom

    def bidding(self, call: CallForProposals, base: Price, load: int) -> Price | No:
        """The strategy; give it as `pricing`."""
        now = self.now()
        self._kept = [(until, buyer) for until, buyer in self._kept if until > now]
        its_own = sum(buyer == call.buyer for _, buyer in self._kept)
        if len(self._kept) + self.slots * load // 100 >= self.slots or its_own >= self.slots // 2:
            return No(BUSY, "no slot is free")
        price = self.pricing(call, base, load)
        if isinstance(price, Price):
            self._kept.append((now + self.life_s, call.buyer))
        return price

    def sold(self, buyer: bytes) -> None:
        """One of its proposals was taken."""
        taken = next((kept for kept in self._kept if kept[1] == buyer), None)
        if taken is not None:
            self._kept.remove(taken)


# --- buying: whom a buyer asks, whom it takes, and whom it believes -----------------------------------


def some_of(offers: Sequence[Offer], count: int, rng: random.Random) -> list[Offer]:
    """At most `count` of the offers, drawn at random: whom to ask, so that not everybody asks the same."""
    return rng.sample(list(offers), min(count, len(offers)))


def first_proposal() -> Choosing:
    """Take whoever answers first, whatever comes after: one for each buyer.

    What language models are seen to do (G. Bansal and others, "Magentic Marketplace", arXiv:2510.25779).
    """
    first: OrderedDict[bytes, bytes] = OrderedDict()  # task → the seller's key

    def choose(bids: Sequence[Bid]) -> Bid | None:
        if not bids:
            return None
        key = first.setdefault(bids[0].proposal.task, bids[0].key)
        if len(first) > TASKS_KEPT:
            first.popitem(last=False)
        return next((bid for bid in bids if bid.key == key), None)

    return choose


def nobody(bids: Sequence[Bid]) -> Bid | None:
    """Ask, and take nothing."""
    return None


@dataclass(slots=True)
class SpotChecks:
    """Examines a part of what it buys, and never again asks a seller that was caught.

    Attributes:
        share: of the answers that are examined, 0 to 1.
        rng: decides which.
        caught: agent ids. Buyers that share one set warn one another.
        checked: how many were examined: checking has its price, too.
    """

    share: float
    rng: random.Random
    caught: set[bytes] = field(default_factory=set)
    checked: int = 0

    def believed(self, offers: Sequence[Offer]) -> list[Offer]:
        """The offers of those who were not caught."""
        return [offer for offer in offers if offer.agent not in self.caught]

    def examine(self, seller: bytes, verify: Callable[[], bool]) -> bool | None:
        """Whether the answer is good, or None if this one is not examined; `verify` is called only then."""
        if self.rng.random() >= self.share:
            return None
        self.checked += 1
        good = verify()
        if not good:
            self.caught.add(seller)
        return good
