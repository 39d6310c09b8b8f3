"""What happened in a world, as one running hash, and where two runs part.

Each event is packed with its virtual time and the number of draws taken so far, and fed to one blake2b:
two runs are the same if their hashes are. The last `keep` events stay readable; after every `every`
events an 8-byte digest of all so far is kept with time and draws (24 bytes), so that the first
difference between two runs is found by bisection. An event's fields are names, numbers and bytes; never
`id()`, an object's `repr`, or a set.
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgpack
import msgspec

from ainp2p.errors import InvalidInput
from ainp2p.simulation.errors import VersionMismatch

VERSION = 1  # of what is hashed and of the file
_MAGIC = b"ainp2p trace"
_PERSON = b"ainp2p/sim/trace"
UNHASHED_MAX = 64  # events that are fed to the hash together
_pack = msgspec.msgpack.Encoder().encode  # as msgpack's, at a fifth of its price


class _Clock(Protocol):
    @property
    def now(self) -> float: ...


class _Draws(Protocol):
    @property
    def count(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two traces part.

    Attributes:
        index: the number of the first event that differs, to within `every` events.
        draws: how many draws had been taken before it.
        at_s: virtual time of the last event in which both agree (0 if there is none).
        ours: this trace's event, if both were kept; None where the trace had ended or a line is gone.
        theirs: the other trace's.
        within: the first difference is one of so many events from `index` on; 1: it is that one.
    """

    index: int
    draws: int
    at_s: float
    ours: str | None
    theirs: str | None
    within: int = 1

    def __str__(self) -> str:
        if self.within > 1:
            return (
                f"first difference among the {self.within} events from #{self.index} on, after {self.draws}"
                f" draws or some more, at {self.at_s:.6f} s or soon after; those events were not kept"
            )
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
        self._final = ""  # the hash of a trace that was loaded
        self._unhashed: list[bytes] = []
        self._kept: deque[bytes] = deque(maxlen=keep)
        self._digests = bytearray()
        self._counts = array("Q")
        self._times = array("d")

    def note(self, kind: str, *fields: str | int | bytes) -> None:
        """Something happened now."""
        raw = _pack((self._clock.now, self._draws.count, kind, *fields))
        self._unhashed.append(raw)
        self._kept.append(raw)
        self.count += 1
        if self.every:
            if self.count % self.every == 0:
                self._digests += self._hashed().copy().digest()[:8]
                self._counts.append(self._draws.count)
                self._times.append(self._clock.now)
        elif len(self._unhashed) >= UNHASHED_MAX:
            self._hashed()

    def _hashed(self) -> hashlib.blake2b:
        """The state with all that was noted in it: many events are fed to it at once."""
        self._state.update(b"".join(self._unhashed))
        self._unhashed.clear()
        return self._state

    @property
    def hash(self) -> str:
        """What happened so far, as 32 hex digits."""
        return self._final or self._hashed().copy().hexdigest()

    def line(self, index: int) -> str | None:
        """Event `index` as text, if it is among those kept."""
        raw = self._raw(index)
        return _line(index, raw) if raw is not None else None

    @property
    def last(self) -> list[str]:
        """The kept events as text, oldest first."""
        oldest = self.count - len(self._kept)
        return [_line(oldest + i, raw) for i, raw in enumerate(self._kept)]

    def first_difference(self, other: Trace) -> Difference | None:
        """Where `other` ceases to be the same run; None where the two are the same.

        Raises:
            InvalidInput: they keep digests at different distances, or none.
        """
        if self.count == other.count and self.hash == other.hash:
            return None
        if self.every != other.every or not self.every:
            raise InvalidInput("only traces with digests after every so many events can be compared: every=1")
        low, high = 0, min(len(self._counts), len(other._counts))
        while low < high:  # the digests are of everything so far: once different, always different
            middle = (low + high) // 2
            if self._digest(middle) == other._digest(middle):
                low = middle + 1
            else:
                high = middle
        index, shorter = low * self.every, min(self.count, other.count)
        while index < shorter and self._same_line(other, index):
            index += 1
        ours, theirs = self.line(index), other.line(index)
        gone = index < shorter and (ours is None or theirs is None)
        at_s, draws = self._moment(index - 1, low)
        return Difference(
            index=index,
            draws=draws,
            at_s=at_s,
            ours=None if gone else ours,
            theirs=None if gone else theirs,
            within=(low + 1) * self.every - index if gone else 1,
        )

    def _moment(self, index: int, digests: int) -> tuple[float, int]:
        """Time and draws of event `index`, or of the last of so many digests if it is not kept."""
        raw = self._raw(index)
        if raw is not None:
            at_s, draws, *_ = msgpack.unpackb(raw, use_list=False)
            return at_s, draws
        return (self._times[digests - 1], self._counts[digests - 1]) if digests else (0.0, 0)

    def _raw(self, index: int) -> bytes | None:
        oldest = self.count - len(self._kept)
        return self._kept[index - oldest] if oldest <= index < self.count else None

    def _digest(self, n: int) -> bytes:
        return bytes(self._digests[8 * n : 8 * n + 8])

    def _same_line(self, other: Trace, index: int) -> bool:
        ours = self.line(index)
        return ours is not None and ours == other.line(index)

    def save(self, path: Path) -> None:
        """Write digests and kept events to a file that `load` reads.

        Raises:
            InvalidInput: the file is there already.
        """
        body = (
            self.count,
            self.every,
            self.hash,
            bytes(self._digests),
            _little(self._counts),
            _little(self._times),
            list(self._kept),
        )
        try:
            with open(path, "xb") as file:
                file.write(_MAGIC + VERSION.to_bytes(2, "big") + msgpack.packb(body))
        except FileExistsError as exc:
            raise InvalidInput(f"{path} is there already; a trace overwrites nothing") from exc

    @classmethod
    def load(cls, path: Path) -> Trace:
        """A saved trace, to be compared with others; nothing can be noted in it.

        Raises:
            InvalidInput: not a trace, or cut short.
            VersionMismatch: written by another version.
        """
        raw = Path(path).read_bytes()
        head = len(_MAGIC) + 2
        if not raw.startswith(_MAGIC) or len(raw) < head:
            raise InvalidInput(f"{path} is not a trace")
        version = int.from_bytes(raw[len(_MAGIC) : head], "big")
        if version != VERSION:
            raise VersionMismatch(f"trace {path}", version, VERSION)
        try:
            count, every, hash_, digests, counts, times, kept = msgpack.unpackb(raw[head:])
            trace = cls(_Stopped(), _Stopped(), keep=len(kept), every=every)
            trace.count, trace._final = int(count), str(hash_)
            trace._digests = bytearray(digests)
            trace._counts, trace._times = array("Q", counts), array("d", times)
            trace._kept.extend(kept)
        except (ValueError, TypeError, msgpack.UnpackException) as exc:
            raise InvalidInput(f"{path} is not a whole trace: {exc}") from exc
        if sys.byteorder == "big":
            trace._counts.byteswap()
            trace._times.byteswap()
        return trace


class _Stopped:
    """The clock and the draws of a trace that was loaded."""

    @property
    def now(self) -> float:
        raise InvalidInput("a loaded trace is finished: nothing can be noted in it")

    @property
    def count(self) -> int:
        raise InvalidInput("a loaded trace is finished: nothing can be noted in it")


def _little(numbers: array[int] | array[float]) -> bytes:
    if sys.byteorder == "little":
        return numbers.tobytes()
    swapped = numbers[:]
    swapped.byteswap()
    return swapped.tobytes()


def _line(index: int, raw: bytes) -> str:
    at_s, draws, kind, *fields = msgpack.unpackb(raw, use_list=False)
    shown = " ".join(field.hex() if isinstance(field, bytes) else str(field) for field in fields)
    return f"#{index} {at_s:.6f}s draw {draws} {kind} {shown}".rstrip()
