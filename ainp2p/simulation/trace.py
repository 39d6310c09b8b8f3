"""What happened in a world, as one running hash, and where two runs part.

Each event is packed with its virtual time and the number of draws taken so far, and fed to one blake2b:
two runs are the same if their hashes are. The last `keep` events stay readable; after every `every`
events an 8-byte digest of all so far is kept with time and draws (24 bytes), so that the first
difference between two runs is found by bisection. An event's fields are names, numbers and bytes; never
`id()`, an object's `repr`, or a set.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import deque
from dataclasses import dataclass
from typing import Protocol

import msgpack

from ainp2p.errors import InvalidInput

VERSION = 1  # of what is hashed and of the file
_MAGIC = b"ainp2p trace"
_PERSON = b"ainp2p/sim/trace"


class _Clock(Protocol):
    now: float


class _Draws(Protocol):
    count: int


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two traces part.

    Attributes:
        index: the number of the first event that differs, to within `every` events.
        draws: how many draws had been taken before it.
        at_s: virtual time of the last event in which both agree (0 if there is none).
        ours: this trace's event, if it was kept; None where the trace had ended or the line is gone.
        theirs: the other trace's.
    """

    index: int
    draws: int
    at_s: float
    ours: str | None
    theirs: str | None

    def __str__(self) -> str:
        return (
            f"first difference at event {self.index}, after {self.draws} draws, at {self.at_s:.6f} s\n"
            f"  ours:   {self.ours or '(not kept)'}\n  theirs: {self.theirs or '(not kept)'}"
        )


class Trace:
    """The events of one run, numbered from 0.

    Attributes:
        count: how many there were.
    """

    def __init__(self, clock: _Clock, draws: _Draws, *, keep: int = 200, every: int = 1) -> None:
        if keep < 0 or every < 0:
            raise InvalidInput("a trace keeps 0 or more events, and digests every 1 or more (0: never)")
        self.count = 0
        self.every = every
        self._clock, self._draws = clock, draws
        self._state = hashlib.blake2b(VERSION.to_bytes(2, "big"), digest_size=16, person=_PERSON)
        self._kept: deque[bytes] = deque(maxlen=keep)
        self._digests = bytearray()
        self._counts = array("Q")
        self._times = array("d")

    def note(self, kind: str, *fields: str | int | bytes) -> None:
        """Something happened now."""
        raw = msgpack.packb((self._clock.now, self._draws.count, kind, *fields))
        self._state.update(raw)
        self._kept.append(raw)
        self.count += 1
        if self.every and self.count % self.every == 0:
            self._digests += self._state.copy().digest()[:8]
            self._counts.append(self._draws.count)
            self._times.append(self._clock.now)

    @property
    def hash(self) -> str:
        """What happened so far, as 32 hex digits."""
        return self._state.copy().hexdigest()

    def line(self, index: int) -> str | None:
        """Event `index` as text, if it is among those kept."""
        oldest = self.count - len(self._kept)
        return _line(index, self._kept[index - oldest]) if oldest <= index < self.count else None

    @property
    def last(self) -> list[str]:
        """The kept events as text, oldest first."""
        oldest = self.count - len(self._kept)
        return [_line(oldest + i, raw) for i, raw in enumerate(self._kept)]


def _line(index: int, raw: bytes) -> str:
    at_s, draws, kind, *fields = msgpack.unpackb(raw, use_list=False)
    shown = " ".join(field.hex() if isinstance(field, bytes) else str(field) for field in fields)
    return f"#{index} {at_s:.6f}s draw {draws} {kind} {shown}".rstrip()
