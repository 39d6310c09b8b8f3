"""What a skill costs: ``2/token + 50/call``, in whole uain.

A price has terms ``<integer uain>/<unit>``. At most one of its units grows while a job streams (token,
item or second): windows and steps are counted in it. The others (call, input) are its fixed part, due
with the first chunk. A price without a growing unit is counted in items that cost nothing more.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from ainp2p.errors import InvalidInput, Malformed
from ainp2p.protocol.codec import INT_MAX

STREAMED = ("token", "item", "second")
UNITS = (*STREAMED, "call", "input")  # in the order in which a price is written
TEXT_SIZE_MAX = 256

_TERM = re.compile(r"([1-9][0-9]{0,18})/([a-z]+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Usage:
    """How much of each unit a job has used."""

    call: int = 0
    token: int = 0  # generated ids
    input: int = 0  # prompt ids
    item: int = 0  # yields
    second: int = 0


@dataclass(frozen=True, slots=True)
class Price:
    """Uain per unit; 0 where a unit costs nothing. Make one with `Price.parse`."""

    token: int = 0
    item: int = 0
    second: int = 0
    call: int = 0
    input: int = 0

    def __post_init__(self) -> None:
        amounts = [getattr(self, unit) for unit in UNITS]
        if any(amount < 0 or amount > INT_MAX for amount in amounts) or not any(amounts):
            raise InvalidInput(f"a price has one or more terms of 1 to {INT_MAX} uain, such as '2/token'")
        if sum(1 for unit in STREAMED if getattr(self, unit)) > 1:
            raise InvalidInput(f"a price has one of {', '.join(STREAMED)}, so that a window means one thing")

    @staticmethod
    def parse(text: str) -> Price:
        """Read ``<integer uain>/<unit>`` terms joined by ``+``.

        Raises:
            InvalidInput: not a price; the message says which term.
        """
        return _parsed(text)

    @staticmethod
    def from_wire(data: bytes) -> Price:
        """Read a peer's price, which must be written in the one way that `str` writes it.

        Raises:
            Malformed: it is not.
        """
        return _read(data)

    @property
    def unit(self) -> str:
        """The unit that grows while a job streams; ``item`` where none costs anything."""
        return "token" if self.token else "second" if self.second else "item"

    @property
    def rate(self) -> int:
        """Uain for one more `unit`; 0 for a price that has only a fixed part."""
        return self.token or self.second or self.item  # one at most is not 0

    def fixed(self, input_units: int = 0) -> int:
        """Uain due with the first chunk of a job whose prompt has so many ids."""
        return self.call + self.input * input_units

    def after(self, units: int, input_units: int = 0) -> int:
        """Uain due in all after `units` of the growing unit."""
        return self.fixed(input_units) + self.rate * units

    def cost(self, usage: Usage) -> int:
        """Uain for `usage`."""
        return sum(getattr(self, unit) * getattr(usage, unit) for unit in UNITS)

    def max_units(self, budget: int, input_units: int = 0) -> int:
        """How many growing units `budget` uain buy after the fixed part; 0 when they do not buy any.

        INT_MAX when more units cost nothing.
        """
        rest = budget - self.fixed(input_units)
        if rest < 0:
            return 0
        return rest // self.rate if self.rate else INT_MAX

    def within(self, max_price: Price) -> bool:
        """Whether no usage whatever can cost more than it would under `max_price`."""
        return (
            self.token <= max_price.token
            and self.item <= max_price.item
            and self.second <= max_price.second
            and self.call <= max_price.call
            and self.input <= max_price.input
        )

    def like(self, other: Price) -> bool:
        """Whether both have the same terms, whatever they say for them."""
        return all(bool(getattr(self, unit)) == bool(getattr(other, unit)) for unit in UNITS)

    def __str__(self) -> str:
        return _written(self)

    def wire(self) -> bytes:
        """As it travels."""
        return str(self).encode()


# The few prices of a market are read and written with every message.


@functools.lru_cache(maxsize=1024)
def _parsed(text: str) -> Price:
    if len(text) > TEXT_SIZE_MAX:
        raise InvalidInput(f"a price has at most {TEXT_SIZE_MAX} characters")
    amounts: dict[str, int] = {}
    for term in text.split("+"):
        match = _TERM.fullmatch(term.strip())
        if match is None:
            raise InvalidInput(f"{term.strip()!r} is no term of a price: '<whole uain, at least 1>/<unit>'")
        amount, unit = int(match[1]), match[2]
        if unit not in UNITS:
            raise InvalidInput(f"no unit {unit!r}: a price is per {', '.join(UNITS)}")
        if unit in amounts:
            raise InvalidInput(f"unit {unit!r} occurs twice in {text!r}")
        amounts[unit] = amount
    return Price(**amounts)


@functools.lru_cache(maxsize=1024)
def _read(data: bytes) -> Price:
    try:
        text = data.decode("ascii")
        price = _parsed(text)
    except (UnicodeDecodeError, InvalidInput) as exc:
        raise Malformed(f"not a price: {exc}") from exc
    if str(price) != text:
        raise Malformed(f"a price travels as {price}, not as {text!r}")
    return price


@functools.lru_cache(maxsize=1024)
def _written(price: Price) -> str:
    return " + ".join(f"{getattr(price, unit)}/{unit}" for unit in UNITS if getattr(price, unit))
