"""Provider records of a simulated wire: who said that it has what; as in a DHT, they outlive it."""

from __future__ import annotations

import random
from collections.abc import Callable

from ainp2p.protocol.network import PeerId

SAMPLED_TIMES = 4  # so many times as many records as are wanted are looked at first


class Records:
    """Providers' addresses by key."""

    def __init__(self) -> None:
        self._records: dict[bytes, dict[PeerId, str]] = {}

    def add(self, key: bytes, peer: PeerId, address: str) -> None:
        """`peer` has what `key` stands for."""
        self._records.setdefault(key, {})[peer] = address

    def find(
        self,
        key: bytes,
        limit: int,
        good: Callable[[PeerId], bool],
        dice: Callable[[], random.Random],
    ) -> list[tuple[PeerId, str]]:
        """Records of `key` whose peer is `good`: the oldest first, or a choice if they exceed `limit`."""
        records = self._records.get(key, {})
        if len(records) > SAMPLED_TIMES * limit:  # thousands, nearly all of them good
            some = dice().sample(list(records.items()), SAMPLED_TIMES * limit)
            found = [record for record in some if good(record[0])][:limit]
            if len(found) == limit:
                return found
        found = [record for record in records.items() if good(record[0])]
        return found if len(found) <= limit else dice().sample(found, max(0, limit))
