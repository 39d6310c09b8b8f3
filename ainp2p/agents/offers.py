"""Offers: skills in live cards, ranked, with the origin of every number. No I/O.

The rank is an expected cost in uain: what a typical job costs by the stated price, divided by the chance
of success that our own experience suggests, plus 1 % for each second that the job takes.
"""

from __future__ import annotations

from dataclasses import dataclass

from ainp2p.protocol.card import Card, SkillCard
from ainp2p.protocol.identity import id_text
from ainp2p.protocol.messages import Signed
from ainp2p.protocol.network import PeerId
from ainp2p.protocol.price import Price
from ainp2p.protocol.strategies import TYPICAL_UNITS

EXPERIENCES_MAX = 4096
REJECTION_WEIGHT = 10  # jobs done well that make up for one whose result we rejected
PATIENCE_S = 100  # a job that takes so long is as bad as one of twice the price
SPEED_UNKNOWN = 1000  # milli-units per second that a seller without a figure is taken to have

STATED = "stated in the card"
BY_SELLER = "measured by the seller"
BY_US = "measured by us"
ASSUMED = "assumed: nothing is known"
COMPUTED = "computed"


@dataclass(frozen=True, slots=True)
class Experience:
    """What we saw of one agent ourselves."""

    done: int = 0
    failed: int = 0
    units: int = 0
    ms: int = 0
    rejected: int = 0  # results that we paid for, looked at and rejected; none of `failed`

    @property
    def speed(self) -> int:
        """Milli-units per second over all jobs; 0: not measured."""
        return self.units * 1_000_000 // self.ms if self.ms else 0

    @property
    def chance(self) -> float:
        """Of success, by Laplace's rule; a stranger's is one half."""
        return (self.done + 1) / (self.done + self.failed + REJECTION_WEIGHT * self.rejected + 2)

    @property
    def is_doubted(self) -> bool:
        """Whether what we rejected of it outweighs what it did well: others are hired before it."""
        return REJECTION_WEIGHT * self.rejected > self.done


class Experiences:
    """Our own experience with agents, the least recently met forgotten first."""

    def __init__(self, size_max: int = EXPERIENCES_MAX) -> None:
        self._by_agent: dict[bytes, Experience] = {}  # the least recently met first
        self._size_max = size_max

    def of(self, agent: bytes) -> Experience:
        """What we know of an agent."""
        return self._by_agent.get(agent, Experience())

    def record(self, agent: bytes, *, ok: bool, units: int = 0, ms: int = 0, rejected: bool = False) -> None:
        """A job with this agent ended well or not, and delivered `units` in `ms`; or we `rejected` it."""
        old, failed = self.of(agent), not ok and not rejected
        self._by_agent.pop(agent, None)
        self._by_agent[agent] = Experience(
            old.done + ok, old.failed + failed, old.units + units, old.ms + ms, old.rejected + rejected
        )
        if len(self._by_agent) > self._size_max:
            del self._by_agent[next(iter(self._by_agent))]


@dataclass(frozen=True, slots=True)
class Fact:
    """One number of an offer and where it comes from."""

    what: str
    value: str
    origin: str


@dataclass(frozen=True, slots=True, repr=False)
class Offer:
    """A skill in a card that is alive now."""

    card: Card
    skill: SkillCard
    signed: Signed
    price: Price
    experience: Experience

    def __repr__(self) -> str:
        skill = _one_line(self.skill.name)
        return f"Offer({skill} by {self.name} {id_text(self.agent)} for {self.price})"

    @property
    def agent(self) -> bytes:
        """The seller's agent id."""
        return self.card.agent

    @property
    def key(self) -> bytes:
        """The key that the seller signs with."""
        return self.signed.key

    @property
    def peer(self) -> PeerId:
        """Where the seller is called."""
        return self.card.peer.decode()

    @property
    def name(self) -> str:
        """What the seller calls itself; anybody may use any name."""
        return _one_line(self.card.name)

    @property
    def speed(self) -> tuple[int, str]:
        """Milli-units per second, and whose figure that is."""
        if self.experience.speed:
            return self.experience.speed, BY_US
        if self.skill.speed:
            return self.skill.speed, BY_SELLER
        return SPEED_UNKNOWN, ASSUMED

    @property
    def cost(self) -> int:
        """Uain for a typical job: TYPICAL_UNITS units and as many prompt ids."""
        return self.price.after(TYPICAL_UNITS, TYPICAL_UNITS)

    @property
    def time_s(self) -> float:
        """Seconds for a typical job; twice as long when no slot is free."""
        seconds = TYPICAL_UNITS * 1000 / self.speed[0]
        return seconds if self.skill.free else 2 * seconds

    @property
    def rank(self) -> float:
        """Expected cost of a typical job: lower is better."""
        return self.cost / self.experience.chance * (1 + self.time_s / PATIENCE_S)

    def facts(self) -> tuple[Fact, ...]:
        """Every number that the rank is made of, with its origin."""
        speed, origin = self.speed
        seen = self.experience
        known = BY_US if seen.done + seen.failed + seen.rejected else ASSUMED
        record = f"{seen.done} done, {seen.failed} failed" + f", {seen.rejected} rejected" * bool(
            seen.rejected
        )
        unit = self.price.unit
        return (
            Fact("price", str(self.price), STATED),
            Fact("speed", f"{speed / 1000:g} {unit}s/s", origin),
            Fact("free slots", f"{self.skill.free} of {self.skill.slots}", BY_SELLER),
            Fact("chance of success", f"{seen.chance:.2f} ({record})", known),
            Fact(f"cost of {TYPICAL_UNITS} {unit}s", f"{self.cost} uain", COMPUTED),
            Fact("time for them", f"{self.time_s:.1f} s", COMPUTED),
            Fact("rank", f"{self.rank:.1f}", COMPUTED),
        )

    def explain(self) -> str:
        """Who it is, and every number with its origin, a line each."""
        lines = [f"{self.name} ({id_text(self.agent)}) offers {_one_line(self.skill.name)}"]
        return "\n".join(lines + [f"  {fact.what}: {fact.value} ({fact.origin})" for fact in self.facts()])


def _one_line(text: bytes) -> str:
    """A peer's word for itself: with line breaks it could add lines to `explain`, or to a bill."""
    return " ".join(text.decode(errors="replace").split())


def rank_key(offer: Offer) -> tuple[float, int, bytes]:
    """Best first; equal ranks by price, then by agent id, so that the order is the same everywhere."""
    return offer.rank, offer.cost, offer.agent
