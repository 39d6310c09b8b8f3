"""How much each peer may ask of a validator: a token bucket each.

A question costs 1, an operation 1, an answer that takes long to make more. Committee members are not limited:
what they send is signed, and bounded by the core. No I/O; the time is an argument.
"""

from __future__ import annotations

from ainp2p.protocol.network import PeerId

RATE = 2_000.0  # tokens a second for one peer: four times what a busy payee needs
BURST = 4_000.0
PEERS_MAX = 4_096  # buckets kept; the one used longest ago is forgotten, and so is full again


class Bucket:
    """Tokens that come back with time."""

    __slots__ = ("_at_s", "_rate", "_size", "_tokens")

    def __init__(self, rate: float, size: float, now_s: float) -> None:
        self._rate, self._size = rate, size
        self._tokens, self._at_s = size, now_s

    def take(self, cost: float, now_s: float) -> bool:
        """Take `cost` tokens, or none and return False."""
        self._tokens = min(self._size, self._tokens + self._rate * max(0.0, now_s - self._at_s))
        self._at_s = now_s
        if cost > self._tokens:
            return False
        self._tokens -= cost
        return True


class Limits:
    """Buckets by peer."""

    def __init__(self, rate: float = RATE, burst: float = BURST, peers_max: int = PEERS_MAX) -> None:
        self._rate, self._burst, self._peers_max = rate, burst, peers_max
        self._buckets: dict[PeerId, Bucket] = {}

    def allow(self, peer: PeerId, cost: float, now_s: float) -> bool:
        """Whether the peer may have something of this cost now."""
        bucket = self._buckets.pop(peer, None) or Bucket(self._rate, self._burst, now_s)
        self._buckets[peer] = bucket  # at the end: the first is the one used longest ago
        if len(self._buckets) > self._peers_max:
            del self._buckets[next(iter(self._buckets))]
        return bucket.take(cost, now_s)
