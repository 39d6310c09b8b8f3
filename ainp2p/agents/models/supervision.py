"""When to restart a model process, whom to suspect, and how fast it is. Pure: the time is an argument."""

from __future__ import annotations

import signal
from collections import OrderedDict, deque
from dataclasses import dataclass, field

BACKOFF_FIRST_S = 0.2
BACKOFF_MAX_S = 30.0
STABLE_S = 60.0  # who lived that long crashed by chance, not by a fault that is there at every start
FAILING_AFTER = 3  # starts in vain, in a row
STRIKES = 2  # crashes that a request may be present at
SUSPECTS_MAX = 1024
SPEED_SAMPLES = 32  # answers; a few minutes of work


@dataclass(slots=True)
class Restarts:
    """The pause before each start after a crash: doubling, bounded, forgotten after a stable life."""

    first_s: float = BACKOFF_FIRST_S
    in_a_row: int = 0
    failed_starts: int = 0  # in a row
    total: int = 0

    def crashed(self, lived_s: float | None) -> float:
        """Note an end after `lived_s` of readiness (None: never ready); returns the seconds to wait."""
        self.total += 1
        self.failed_starts = self.failed_starts + 1 if lived_s is None else 0
        self.in_a_row = 1 if lived_s is not None and lived_s >= STABLE_S else self.in_a_row + 1
        return float(min(BACKOFF_MAX_S, self.first_s * 2 ** min(self.in_a_row - 1, 32)))

    @property
    def failing(self) -> bool:
        """It does not even start any more: nobody should be kept waiting for it."""
        return self.failed_starts >= FAILING_AFTER


class Suspects:
    """Requests, by digest, that were in work when the process ended. One that comes to its end is cleared."""

    def __init__(self) -> None:
        self._strikes: OrderedDict[bytes, int] = OrderedDict()

    def blame(self, digest: bytes) -> None:
        """It was in work at a crash."""
        self._strikes[digest] = self._strikes.pop(digest, 0) + 1
        while len(self._strikes) > SUSPECTS_MAX:
            self._strikes.popitem(last=False)

    def clear(self, digest: bytes) -> None:
        """It came to its end."""
        self._strikes.pop(digest, None)

    def refuses(self, digest: bytes) -> bool:
        """It was there too often."""
        return self._strikes.get(digest, 0) >= STRIKES


@dataclass(slots=True)
class Watch:
    """Does a process still work? A hung one answers pings while no token comes any more.

    Attributes:
        stall_s: longest silence about live requests.
        silence_s: longest time without an answer to a ping.
    """

    stall_s: float
    silence_s: float
    progress_at: float
    pong_at: float

    def fault(self, now: float, live: int) -> str | None:
        """What is wrong with it, or None."""
        if live and now - self.progress_at > self.stall_s:
            return f"hung: no token for {self.stall_s:g} s while {live} requests were live"
        if now - self.pong_at > self.silence_s:
            return f"stopped: no answer to a ping for {self.silence_s:g} s"
        return None


@dataclass(slots=True)
class Speed:
    """Tokens per second of one stream, over the latest answers."""

    _samples: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=SPEED_SAMPLES))

    def add(self, tokens: int, seconds: float) -> None:
        """An answer's tokens after its first, and how long they took."""
        if tokens > 0 and seconds > 0:
            self._samples.append((tokens, seconds))

    @property
    def tokens_per_second(self) -> float | None:
        """None before the first sample."""
        seconds = sum(s for _, s in self._samples)
        return sum(n for n, _ in self._samples) / seconds if seconds else None


def ran_out_of_memory(code: int | None) -> bool:
    """Whether an exit status looks like the kernel's out-of-memory killer: SIGKILL, and not by us."""
    return code == -signal.SIGKILL


def describe_exit(code: int | None, stderr: str) -> str:
    """Why a process ended, for an error's text: the signal or status, and its last words."""
    if ran_out_of_memory(code):
        how = "killed (SIGKILL), probably by the kernel because memory ran out: use a smaller model or batch"
    elif code is not None and code < 0:
        how = f"killed by {signal.Signals(-code).name}"
    else:
        how = f"ended with status {code}"
    last = stderr.strip().splitlines()[-1:]
    return how + (f"; it said: {last[0][:500]}" if last else "")
