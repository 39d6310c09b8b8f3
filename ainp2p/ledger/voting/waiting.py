"""Candidates that cannot be voted for yet: what each waits for, in bounds. No I/O.

A candidate waits for a key (an object's next head, a Lock, an operation whose credit it consumes) or for a
time. Whatever is woken is put to `work`, which the `Decider` empties before it returns.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass

from ainp2p.errors import NotYet
from ainp2p.ledger.voting.slot import Candidate

_STALE_TIMERS_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Limits:
    """What others can make a validator remember."""

    owed_max: int = 32_768  # counts opened by one member's votes; more of its batches wait
    waiting_max: int = 4_096  # operations that are not valid yet and that nobody has prepared
    waiting_max_per_source: int = 256
    rivals_max: int = 4  # well signed operations held for one slot
    proofs_max: int = 4  # further proofs kept for an operation whose proof cannot be checked yet
    decided_max: int = 65_536  # ids of decided operations kept in memory


class WaitingRoom:
    """Who waits for what, and what is to be looked at now.

    Attributes:
        work: candidates to look at before the step ends.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.work: deque[Candidate] = deque()
        self._places: dict[bytes, Candidate] = {}  # those that nobody has prepared, oldest first
        self._sources: dict[str, int] = {}
        self._blocked: dict[bytes, list[Candidate]] = {}
        self._timers: list[tuple[int, int, Candidate]] = []
        self._timed: set[tuple[Candidate, int]] = set()  # each is in `_timers` once
        self._timer_count = 0

    def __len__(self) -> int:
        return len(self._places)

    @property
    def due(self) -> int | None:
        """When the next timer ends."""
        return self._timers[0][0] if self._timers else None

    @property
    def is_anybody_blocked(self) -> bool:
        """Whether anything waits for a key; nearly always nothing does, and nobody need be woken."""
        return bool(self._blocked)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits for anything but a time."""
        return not (self._places or self._sources or self._blocked or self.work)

    # --- places -----------------------------------------------------------------------------------

    def enter(self, candidate: Candidate) -> Candidate | None:
        """Give a place to one that waits and is not prepared; returns who has to go for it.

        Raises:
            NotYet: ``"busy"``: its source has enough places.
        """
        if candidate.prepared is not None or candidate.id in self._places:
            return None
        source = candidate.source
        if self._sources.get(source, 0) >= self._limits.waiting_max_per_source:
            raise NotYet("busy", "too many operations of this source wait for others")
        full = len(self._places) >= self._limits.waiting_max
        oldest = next(iter(self._places.values())) if full else None
        self._places[candidate.id] = candidate
        self._sources[source] = self._sources.get(source, 0) + 1
        return oldest

    def free_place(self, candidate: Candidate) -> None:
        """It is prepared, valid or gone: it counts no more."""
        if self._places.pop(candidate.id, None) is None:
            return
        self._sources[candidate.source] -= 1
        if not self._sources[candidate.source]:
            del self._sources[candidate.source]

    def leave(self, candidate: Candidate) -> None:
        """It waits for nothing any more."""
        if self._places:
            self.free_place(candidate)
        if candidate.blocked_by:
            self._unblock(candidate)

    # --- keys and times ---------------------------------------------------------------------------

    def block(self, candidate: Candidate, key: bytes) -> None:
        """Look at it again when `key` is woken."""
        self._unblock(candidate)
        self._blocked.setdefault(key, []).append(candidate)
        candidate.blocked_by = key

    def wake(self, key: bytes) -> None:
        """What this key stands for has come."""
        woken = self._blocked.pop(key, None)
        if woken is not None:
            for candidate in woken:
                candidate.blocked_by = b""
            self.work.extend(woken)

    def _unblock(self, candidate: Candidate) -> None:
        if not candidate.blocked_by:
            return
        blocked = self._blocked[candidate.blocked_by]
        blocked.remove(candidate)
        if not blocked:
            del self._blocked[candidate.blocked_by]
        candidate.blocked_by = b""

    def wake_at(self, candidate: Candidate, at: int, held: dict[bytes, Candidate]) -> None:
        """Look at it again at this time; `held` are all candidates, whose timers alone are kept for long."""
        if (candidate, at) in self._timed:  # else two that look at one another would wake ever more often
            return
        if len(self._timers) > 2 * len(held) + _STALE_TIMERS_MAX:
            self._timers = [timer for timer in self._timers if held.get(timer[2].id) is timer[2]]
            self._timed = {(timer[2], timer[0]) for timer in self._timers}
            heapq.heapify(self._timers)
        self._timed.add((candidate, at))
        self._timer_count += 1  # equal times in the order of their making
        heapq.heappush(self._timers, (at, self._timer_count, candidate))

    def run_all_timers(self) -> None:
        """Put to work whoever waits for a time: the clock that it was reckoned by has changed."""
        timers, self._timers = sorted(self._timers, key=lambda timer: timer[:2]), []
        self._timed.clear()
        self.work.extend(candidate for _, _, candidate in timers)

    def run_timers(self, now: int) -> None:
        """Put to work whose time has come."""
        while self._timers and self._timers[0][0] <= now:
            at, _, candidate = heapq.heappop(self._timers)
            self._timed.discard((candidate, at))
            self.work.append(candidate)
