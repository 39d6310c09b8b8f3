"""When calls on a simulated wire give up waiting: one queue and one timer for each length of time.

Nearly all calls wait equally long, so their deadlines come in the order in which the waits began, and a queue
does what a heap would, at a fifth of its price. Waits that have ended stay in their queue until it is their
turn or the queue is swept.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from ainp2p.simulation.core.clock import VirtualClock

SWEEP_MIN = 256  # entries of a queue before it is looked through for waits that have ended
QUEUES_MAX = 64  # other lengths of time get timers of their own


class Waiting(Protocol):
    """Somebody who waits: `wait` counts the waits, `timeout_s` is their length."""

    timeout_s: float

    @property
    def wait(self) -> int:
        """Which one it is."""

    @property
    def waits(self) -> bool:
        """Whether a wait is under way."""

    def expire(self) -> None:
        """The time is up."""


Entry = tuple[float, int, Waiting]


class Deadlines:
    """Who waits until when."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._queues: dict[float, deque[Entry]] = {}
        self._sweep_at: dict[float, int] = {}

    def start(self, waiting: Waiting) -> None:
        """From now on `waiting` waits for its `timeout_s`; then it expires, unless it waits no more."""
        timeout_s = waiting.timeout_s
        entry = (self._clock.now + timeout_s, waiting.wait, waiting)
        queue = self._queues.get(timeout_s)
        if queue is not None:
            queue.append(entry)
            if len(queue) >= self._sweep_at[timeout_s]:
                self._sweep(timeout_s, queue)
        elif timeout_s < _FOREVER_S:
            if len(self._queues) < QUEUES_MAX:
                self._queues[timeout_s] = deque([entry])
                self._sweep_at[timeout_s] = SWEEP_MIN
                self._clock.call_at(entry[0], self._due, timeout_s)
            else:
                self._clock.call_at(entry[0], _expire, entry)

    def _due(self, timeout_s: float) -> None:
        """The oldest wait of a queue may be over, and perhaps others."""
        queue, now = self._queues[timeout_s], self._clock.now
        while queue and (queue[0][0] <= now or not _lasts(queue[0])):
            _expire(queue.popleft())
        if queue:
            self._clock.call_at(queue[0][0], self._due, timeout_s)
        else:
            del self._queues[timeout_s], self._sweep_at[timeout_s]

    def _sweep(self, timeout_s: float, queue: deque[Entry]) -> None:
        lasting = [entry for entry in queue if _lasts(entry)]
        queue.clear()
        queue.extend(lasting)
        self._sweep_at[timeout_s] = max(SWEEP_MIN, 2 * len(lasting))


_FOREVER_S = 1e12  # also infinity: no deadline


def _lasts(entry: Entry) -> bool:
    return entry[2].wait == entry[1] and entry[2].waits


def _expire(entry: Entry) -> None:
    if _lasts(entry):
        entry[2].expire()
