"""Places for long streams that go to those who use them: when all are taken, the slowest reader gives its up.

    free ──take──► held ──give_back──► free
                    │ all are taken, somebody waits, and this one had its time and reads the least
                    └──► evicted

Whoever is evicted loses nothing but its place: what it asks for goes on where it stood, here or elsewhere.
Whoever reads at `keeps_rate` or faster stays, so that a crowd that comes and goes drives nobody out.
No I/O; the time is an argument.
"""

from __future__ import annotations

from collections.abc import Callable

from ainp2p.errors import Refused
from ainp2p.protocol.network import PeerId

WINDOW_S = 10.0  # how far back a reader is judged: one to two of these


class Place:
    """One that is held.

    Attributes:
        evicted: somebody else has it now.
    """

    def __init__(self, peer: PeerId, now_s: float, on_evicted: Callable[[], None]) -> None:
        self.peer, self.evicted = peer, False
        self.on_evicted = on_evicted
        self.began_s = self._since_s = now_s
        self._bytes = self._bytes_before = 0
        self._before_s = 0.0

    def read(self, size: int, now_s: float) -> None:
        """The peer has taken so many bytes."""
        if now_s - self._since_s >= WINDOW_S:
            self._bytes_before, self._before_s = self._bytes, now_s - self._since_s
            self._bytes, self._since_s = 0, now_s
        self._bytes += size

    def rate(self, now_s: float) -> float:
        """Bytes a second, of late."""
        span_s = self._before_s + now_s - self._since_s
        return (self._bytes_before + self._bytes) / max(span_s, 1e-3)


class PacedPlaces:
    """So many streams at one time: of one peer, and of all."""

    def __init__(self, per_peer: int, total: int, *, grace_s: float, keeps_rate: float) -> None:
        """Prepare.

        Args:
            grace_s: nobody is evicted sooner.
            keeps_rate: bytes a second with which nobody is evicted.
        """
        self._per_peer, self._total = per_peer, total
        self._grace_s, self._keeps_rate = grace_s, keeps_rate
        self._places: list[Place] = []

    def __len__(self) -> int:
        return len(self._places)

    def take(self, peer: PeerId, now_s: float, on_evicted: Callable[[], None]) -> Place:
        """Have a place until `give_back`; `on_evicted` is called if it goes to somebody else before.

        Raises:
            Refused: ``"busy"``.
        """
        if sum(place.peer == peer for place in self._places) >= self._per_peer:
            raise Refused("busy", "one stream for each peer; the other one goes on")
        if len(self._places) >= self._total:
            self._evict(now_s)
        place = Place(peer, now_s, on_evicted)
        self._places.append(place)
        return place

    def give_back(self, place: Place) -> None:
        """Its stream has ended; a repeat does nothing."""
        if place in self._places:
            self._places.remove(place)

    def _evict(self, now_s: float) -> None:
        slow = [
            place
            for place in self._places
            if now_s - place.began_s >= self._grace_s and place.rate(now_s) < self._keeps_rate
        ]
        if not slow:
            raise Refused("busy", "too many streams are open; ask again in a minute, or another validator")
        slowest = min(slow, key=lambda place: place.rate(now_s))
        self._places.remove(slowest)
        slowest.evicted = True
        slowest.on_evicted()


__all__ = ["PacedPlaces", "Place"]
