"""How faults are drawn from a seed: which kinds, how often, how long, to whom.

When something happens, and of which kind, is drawn before the run; to whom, when the time has come, from
the nodes that there are. Both follow from the world's seed and from nothing that happens in it, so the
schedule that came of it (`World.faults`), given back, leads to the same world.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from ainp2p.errors import InvalidInput
from ainp2p.simulation.trials.faults import KINDS, LIES, Fault, Values

SWIZZLE = "swizzle"  # pauses nodes one after another, and lets them go in another order
MOST = ("partition", "cut", "pause", "crash", "kill", "restart", "skew", "weather", SWIZZLE)
_SWIZZLED = (2, 4)  # nodes
_SKEWS_MS = (-86_400_000, -60_000, -1_000, 1_000, 60_000, 86_400_000)


@dataclass(frozen=True)
class Profile:
    """What kind of a bad time a world has.

    Attributes:
        kinds: of faults, each as likely as the others; name one twice to have it more often.
        every_s: mean time between two beginnings.
        lasting_s: shortest and longest duration.
        from_s, until_s: nothing begins before; all is well again after.
        spare: patterns of names (``"bank"``, ``"validator*"``) that nothing is done to.
        lies: how a liar lies (`faults.LIES`). Among validators only one lies in a run.
    """

    kinds: Sequence[str] = MOST
    every_s: float = 5.0
    lasting_s: tuple[float, float] = (0.5, 15.0)
    from_s: float = 2.0
    until_s: float = 60.0
    spare: Sequence[str] = ()
    lies: Sequence[str] = tuple(LIES)

    def __post_init__(self) -> None:
        """Raises InvalidInput for an unknown kind or lie, a text for a list, or impossible times."""
        known = (*KINDS, SWIZZLE)
        for name in ("kinds", "spare", "lies"):
            if isinstance(
                getattr(self, name), str
            ):  # its letters would pass for names: "validator*" spares all
                raise InvalidInput(f"{name} is a list of texts: {name}=[{getattr(self, name)!r}]")
        if not self.kinds or any(kind not in known for kind in self.kinds):
            raise InvalidInput(f"a profile has faults of the kinds {', '.join(known)}, not {self.kinds}")
        if (not self.lies and "lie" in self.kinds) or any(lie not in LIES for lie in self.lies):
            raise InvalidInput(f"liars lie in the ways {', '.join(LIES)}, not {self.lies}")
        if self.every_s <= 0 or not 0 < self.lasting_s[0] <= self.lasting_s[1]:
            raise InvalidInput("every_s is positive, and lasting_s goes from low to high, above 0")
        if not 0 <= self.from_s < self.until_s:
            raise InvalidInput("from_s is 0 or more, and before until_s")

    def plan(self, rng: random.Random) -> list[Draft]:
        """What will happen, to nobody yet."""
        drafts: list[Draft] = []
        at_s = self.from_s
        run = rng.getrandbits(64)
        while (at_s := at_s + rng.expovariate(1 / self.every_s)) < self.until_s - self.lasting_s[0]:
            kind, number = rng.choice(list(self.kinds)), rng.getrandbits(64)
            count = rng.randint(*_SWIZZLED) if kind == SWIZZLE else 1
            for place in range(count):
                for_s = min(rng.uniform(*self.lasting_s), self.until_s - at_s)
                begins_s = at_s + place * rng.random() * for_s / count
                for_s = min(for_s, self.until_s - begins_s)
                drafts.append(Draft(self, round(begins_s, 3), round(for_s, 3), kind, number, place, run))
        return sorted(drafts, key=lambda draft: draft.at_s)


@dataclass(frozen=True, slots=True)
class Draft:
    """A fault without its nodes."""

    profile: Profile
    at_s: float
    for_s: float
    kind: str
    number: int  # what the rest is drawn from
    place: int  # among the nodes of a swizzle
    run: int  # drawn once a run

    def fault(self, names: Sequence[str], roles: Callable[[str], str]) -> Fault | None:
        """Done to some of these nodes; None if there are too few."""
        rng = random.Random(self.number)
        spare = self.profile.spare
        there = [name for name in names if not any(fnmatch(name, pattern) for pattern in spare)]
        rng.shuffle(there)
        kind = "pause" if self.kind == SWIZZLE else self.kind
        who, whom, values = tuple(there[self.place : self.place + 1]), (), ()  # type: tuple[tuple[str, ...], tuple[str, ...], Values]
        if kind == "partition":
            half = rng.randint(1, max(1, len(there) - 1))
            who, whom = tuple(there[:half]), tuple(there[half:])
        elif kind == "cut":
            whom = tuple(there[1:2])
        elif kind == "lie":
            who, values = self._liar(there, roles), (("how", rng.choice(list(self.profile.lies))),)
        elif kind == "skew":
            values = (("ms", str(rng.choice(_SKEWS_MS))), ("rate", rng.choice(("0.99", "1.0", "1.01"))))
        elif kind == "weather":
            who, values = (), _storm(rng)
        sides = KINDS[kind][0]
        if (sides > 0 and not who) or (sides > 1 and not whom):
            return None
        return Fault(self.at_s, self.for_s, kind, who, whom, values)

    def _liar(self, there: list[str], roles: Callable[[str], str]) -> tuple[str, ...]:
        """Anybody; but a committee promises nothing if more than a third of it lies."""
        validators = sorted(name for name in there if roles(name) == "validator")
        false = validators[self.run % len(validators) :][:1] if validators else []
        return tuple(name for name in there if name in false or name not in validators)[:1]


def _storm(rng: random.Random) -> Values:
    low = rng.choice((0.0, 0.02, 0.2))
    high = low + rng.choice((0.05, 0.5, 3.0))
    chances = (("loss", (0.0, 0.05, 0.2)), ("duplicate", (0.0, 0.2)), ("reorder_s", (0.0, 2.0)))
    drawn = [(name, str(rng.choice(choices))) for name, choices in chances]
    return (("latency", f"{low:g}..{high:g}"), *drawn)
