"""What goes wrong in a world, as data: a schedule that can be printed, edited, shrunk and given again.

    12+8.5 partition seller0,seller1/buyer; 20+3 crash validator1; 25+30 skew buyer ms=-60000 rate=1.0

A fault is ``START+DURATION KIND WHO``, times in virtual seconds; without ``+DURATION`` it lasts for ever.
Faults are separated by semicolons or lines. Not here: how they are drawn (profile.py), and how they are
done to a world (injecting.py).

    partition a,b/c,d   nothing gets from one side to the other      cut a/b       nothing gets from a to b
    pause a             nothing gets to or from it                   full a        its disk takes nothing
    crash a             its power is lost, and what was not synced; others hear silence
    kill a              its process ends; its disk keeps all; others hear a reset
    restart a           as kill, and it is started again at once
    skew a ms=1 rate=1  its wall clock is wrong by so much, and runs so fast
    lie a how=garble    what it says is rewritten (LIES)
    weather latency=0.01..0.3 loss=0.1 duplicate=0.1 reorder_s=1     for all paths

A crash, a kill and a full disk that end (that have a duration) end in a restart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ainp2p.errors import InvalidInput

if TYPE_CHECKING:
    from ainp2p.simulation.wire.lies import Rewrite, Sent
    from ainp2p.simulation.wire.weather import Weather

Values = tuple[tuple[str, str], ...]

# kind → sides of nodes that it has, and the values that it may bear
KINDS: Mapping[str, tuple[int, tuple[str, ...]]] = MappingProxyType(
    {
        "partition": (2, ()),
        "cut": (2, ()),
        "pause": (1, ()),
        "crash": (1, ()),
        "kill": (1, ()),
        "restart": (1, ()),
        "skew": (1, ("ms", "rate")),
        "full": (1, ()),
        "lie": (1, ("how",)),
        "weather": (0, ("latency", "loss", "duplicate", "reorder_s")),
    }
)
_FAULT = re.compile(r"(?P<at>[\d.]+)(?:\+(?P<lasting>[\d.]+))? (?P<kind>[a-z]+)(?P<rest>(?: \S+)*)")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        at_s: when it begins, in virtual seconds.
        for_s: how long it lasts; None: for ever.
        kind: one of `KINDS`.
        who, whom: names of nodes: its sides.
        values: what else the kind says, as text: (("ms", "-60000"),).
    """

    at_s: float
    for_s: float | None
    kind: str
    who: tuple[str, ...] = ()
    whom: tuple[str, ...] = ()
    values: Values = ()

    def __post_init__(self) -> None:
        """Raises InvalidInput if this is no fault."""
        if self.kind not in KINDS:
            raise InvalidInput(f"no fault is called {self.kind!r}; there are {', '.join(KINDS)}")
        sides, known = KINDS[self.kind]
        if bool(self.who) != (sides > 0) or bool(self.whom) != (sides > 1):
            said = ("no nodes", "nodes", "nodes of two sides: a,b/c")[sides]
            raise InvalidInput(f"a {self.kind} names {said}, not {_sides(self) or 'none'}")
        if odd := [name for name, _ in self.values if name not in known]:
            words = ", ".join(known) or "no values"
            raise InvalidInput(f"a {self.kind} has {words}, not {odd[0]!r}")
        if self.at_s < 0 or (self.for_s is not None and self.for_s <= 0):
            raise InvalidInput("a fault begins at 0 s or later, and lasts longer than 0 s")
        if self.kind == "lie" and self.value("how") not in LIES:
            raise InvalidInput(f"a lie is how={', how='.join(LIES)}, not {self.value('how')!r}")
        if self.kind == "skew":
            self.skew()
        elif self.kind == "weather":
            self.weather()

    def __str__(self) -> str:
        lasting = "" if self.for_s is None else f"+{_number(self.for_s)}"
        words = [f"{_number(self.at_s)}{lasting}", self.kind, _sides(self)]
        return " ".join(filter(None, [*words, *(f"{name}={value}" for name, value in self.values)]))

    def lasting(self, for_s: float) -> Fault:
        """The same fault for so long."""
        return replace(self, for_s=for_s)

    def value(self, name: str, otherwise: str = "") -> str:
        """A value, as text."""
        return dict(self.values).get(name, otherwise)

    def skew(self) -> tuple[int, float]:
        """By how many milliseconds a clock is wrong, and how fast it runs."""
        return int(_float(self.value("ms", "0"))), _float(self.value("rate", "1"))

    def weather(self) -> Weather:
        """The weather that a `weather` brings."""
        from ainp2p.simulation.wire.weather import Weather

        low, _, high = self.value("latency", "0").partition("..")
        latency = (_float(low), _float(high)) if high else _float(low)
        chances = {name: _float(self.value(name, "0")) for name in ("loss", "duplicate", "reorder_s")}
        return Weather(latency=latency, **chances)


@dataclass(frozen=True)
class Schedule:
    """Faults in the order of their beginning."""

    faults: tuple[Fault, ...] = ()

    @classmethod
    def of(cls, faults: Iterable[Fault]) -> Schedule:
        """These faults, sorted."""
        return cls(tuple(sorted(faults, key=lambda fault: fault.at_s)))

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """What `str` printed.

        Raises:
            InvalidInput: something in it is no fault.
        """
        lines = [" ".join(line.split()) for line in re.split(r"[;\n]", text)]
        return cls.of(_parse(line) for line in lines if line and not line.startswith("#"))

    def __str__(self) -> str:
        return "; ".join(map(str, self.faults))

    def __len__(self) -> int:
        return len(self.faults)

    def __iter__(self) -> Iterator[Fault]:
        return iter(self.faults)

    @property
    def lines(self) -> str:
        """A fault a line, for people."""
        return "\n".join(map(str, self.faults))


def _parse(line: str) -> Fault:
    found = _FAULT.fullmatch(line)
    if found is None:
        raise InvalidInput(
            f"{line!r} is no fault; one reads START+DURATION KIND WHO, such as '12+8.5 partition a,b/c'"
        )
    words = found["rest"].split()
    sides = [word for word in words if "=" not in word]
    if len(sides) > 1:
        raise InvalidInput(f"{line!r}: names are separated by commas, sides by /, and no spaces")
    who, _, whom = (sides[0] if sides else "").partition("/")
    values = tuple((name, value) for name, _, value in (w.partition("=") for w in words if "=" in w))
    try:
        return Fault(
            at_s=_float(found["at"]),
            for_s=None if found["lasting"] is None else _float(found["lasting"]),
            kind=found["kind"],
            who=tuple(filter(None, who.split(","))),
            whom=tuple(filter(None, whom.split(","))),
            values=values,
        )
    except InvalidInput as exc:
        raise InvalidInput(f"{line!r}: {exc}") from exc


def _sides(fault: Fault) -> str:
    return "/".join(",".join(side) for side in (fault.who, fault.whom) if side)


def _number(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError as exc:
        raise InvalidInput(f"{text!r} is no number") from exc


# --- lies that have a name ------------------------------------------------------------------------


def _garble(sent: Sent) -> bytes:
    """One byte is another."""
    if not sent.body:
        return b"\xff"
    at = sum(sent.body) % len(sent.body)
    return sent.body[:at] + bytes([sent.body[at] ^ 0x15]) + sent.body[at + 1 :]


def _echo() -> Rewrite:
    """Everything again that was said before it, of the same kind: stale, and well-formed."""
    said: dict[tuple[str, str], bytes] = {}

    def stale(sent: Sent) -> bytes:
        before = said.get((sent.kind, sent.protocol), sent.body)
        said[sent.kind, sent.protocol] = sent.body
        return before

    return stale


LIES: Mapping[str, Callable[[], Any]] = MappingProxyType(
    {
        "mute": lambda: lambda sent: None,
        "garble": lambda: _garble,
        "short": lambda: lambda sent: sent.body[: len(sent.body) // 2],
        "twice": lambda: lambda sent: [sent.body, sent.body],
        "stale": _echo,
    }
)
"""Name of a lie → what makes a new rewriting of this kind (`ainp2p.simulation.wire.lies`)."""
