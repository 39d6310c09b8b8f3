"""How much may be asked of a validator: a token bucket per peer, per place they speak from, and for all.

A question costs 1, an operation 1, an answer that takes long to make more (`charging`). One place (a prefix
of addresses) may have what a few peers have, so a crowd on one machine or in one data centre is no more than
that; and all strangers together what the core can stand. When either runs out, the last quarter is kept for
those who have asked for little lately: an honest peer asks now and then, a crowd that floods does not, and
may well sit in the same data centre.
No I/O; the time is an argument.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ainp2p.errors import Refused
from ainp2p.protocol.network import PeerId

RATE = 2_000.0  # tokens a second for one peer: four times what a busy payee needs
BURST = 4_000.0
PLACE_FACTOR = 4.0  # peers' worth for all that speak from one place
TOTAL_FACTOR = 8.0  # peers' worth for everybody together
RESERVE = 0.25  # of a place's and of the total, for peers whose own bucket is more than half full
PEERS_MAX = 4_096  # buckets kept; the one used longest ago is forgotten, and so is full again
BUSY_RATE = 10.0  # a second; who is told "busy" more often than that, though it is read slowly then, floods
BUSY_BURST = 100.0


class Bucket:
    """Tokens that come back with time."""

    __slots__ = ("_at_s", "_rate", "_size", "_tokens")

    def __init__(self, rate: float, size: float, now_s: float) -> None:
        self._rate, self._size = rate, size
        self._tokens, self._at_s = size, now_s

    def share(self, now_s: float) -> float:
        """How full it is, 0 to 1."""
        self._tokens = min(self._size, self._tokens + self._rate * max(0.0, now_s - self._at_s))
        self._at_s = now_s
        return self._tokens / self._size

    def holds(self, cost: float, now_s: float, reserve: float = 0.0) -> bool:
        """Whether so much can be taken, and so large a share is left."""
        self.share(now_s)
        return cost + reserve * self._size <= self._tokens

    def take(self, cost: float, now_s: float) -> bool:
        """Take `cost` tokens, or none and return False."""
        if not self.holds(cost, now_s):
            return False
        self._tokens -= cost
        return True

    def empty(self, cost: float, now_s: float) -> None:
        """Take `cost` tokens, or what there is."""
        self.share(now_s)
        self._tokens = max(0.0, self._tokens - cost)


class Limits:
    """Buckets by peer, by place, and one for all."""

    def __init__(self, rate: float = RATE, burst: float = BURST, peers_max: int = PEERS_MAX) -> None:
        """`rate` and `burst` of one peer."""
        self._peers = _Buckets(rate, burst, peers_max)
        self._places = _Buckets(rate * PLACE_FACTOR, burst * PLACE_FACTOR, peers_max)
        self._refused = _Buckets(BUSY_RATE, BUSY_BURST, peers_max)
        self._total = Bucket(rate * TOTAL_FACTOR, burst * TOTAL_FACTOR, 0.0)

    def allow(self, peer: PeerId, cost: float, now_s: float, place: str = "") -> bool:
        """Whether the peer may have something of this cost now.

        What its own bucket refuses costs nothing; what its place or the total refuses does: it is by what
        they *ask* that the crowd and the quiet peers are told apart.
        """
        own = self._peers.of(peer, now_s)
        shared = [self._places.of(place, now_s), self._total] if place else [self._total]
        reserve = 0.0 if own.share(now_s) > 0.5 else RESERVE
        allowed = own.take(cost, now_s) and all(bucket.holds(cost, now_s, reserve) for bucket in shared)
        if allowed:
            for bucket in shared:
                bucket.take(cost, now_s)
        if not allowed:
            self._refused.of(peer, now_s).take(1, now_s)
        return allowed

    def fine(self, peer: PeerId, cost: float, now_s: float) -> None:
        """Take this from the peer's own bucket, as far as it goes."""
        self._peers.of(peer, now_s).empty(cost, now_s)

    def is_flooding(self, peer: PeerId, now_s: float) -> bool:
        """Whether it was refused again and again."""
        return not self._refused.of(peer, now_s).holds(1, now_s)


class Places:
    """So many of something long may go on at one time: of one peer, and of all."""

    def __init__(self, per_peer: int, total: int) -> None:
        self._per_peer, self._total = per_peer, total
        self._taken: dict[PeerId, int] = {}

    def __len__(self) -> int:
        return sum(self._taken.values())

    @contextmanager
    def hold(self, peer: PeerId) -> Iterator[None]:
        """Have one of them for as long as this lasts.

        Raises:
            Refused: ``"busy"``.
        """
        if len(self) >= self._total or self._taken.get(peer, 0) >= self._per_peer:
            raise Refused("busy", "too many streams are open; ask again in a minute, or another validator")
        self._taken[peer] = self._taken.get(peer, 0) + 1
        try:
            yield
        finally:
            self._taken[peer] -= 1
            if not self._taken[peer]:
                del self._taken[peer]


class _Buckets:
    """Buckets by name, the ones used lately."""

    def __init__(self, rate: float, size: float, max_: int) -> None:
        self._rate, self._size, self._max = rate, size, max_
        self._by_name: dict[str, Bucket] = {}

    def of(self, name: str, now_s: float) -> Bucket:
        bucket = self._by_name.pop(name, None) or Bucket(self._rate, self._size, now_s)
        self._by_name[name] = bucket  # at the end: the first is the one used longest ago
        if len(self._by_name) > self._max:
            del self._by_name[next(iter(self._by_name))]
        return bucket
