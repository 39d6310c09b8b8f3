"""A payee's side of watchtowers: handing over its highest receipts now and then."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from ainp2p.errors import NetworkError, RemoteError
from ainp2p.ledger.rules.receipts import Release, read_receipt
from ainp2p.ledger.wallets.income import Income
from ainp2p.ledger.wallets.watching import (
    ANSWER_MAX,
    WATCH_PROTOCOL,
    AskHeld,
    AskWatched,
    Watch,
    WatchedLocks,
    Watching,
)
from ainp2p.protocol.codec import decode, encode
from ainp2p.protocol.network import Network, PeerId

HAND_EVERY_S = 10.0  # what the payee earns meanwhile is what its disappearance can cost
_TIMEOUT_S = 10.0


class Handover:
    """Receipts on their way to watchtowers; each is a row on a watchtower's disk once it has answered."""

    def __init__(self, network: Network, income: Income, towers: Sequence[PeerId]) -> None:
        self._network, self._income, self._towers = network, income, tuple(towers)
        self._held: dict[tuple[PeerId, bytes], int] = {}  # what a watchtower has acknowledged

    async def run(self) -> None:
        """Hand over until cancelled."""
        while self._towers:
            await self.hand_over()
            await trio.sleep(HAND_EVERY_S)

    async def hand_over(self) -> int:
        """Hand over what watchtowers do not have yet; how many of them hold all of it now."""
        owed = [lock.id for lock in self._income.locks() if self._income.unsettled(lock.id)]
        whole = 0

        async def one(tower: PeerId) -> None:
            nonlocal whole
            results = [await self._hand(tower, lock) for lock in owed]
            whole += all(results)

        async with trio.open_nursery() as nursery:
            for tower in self._towers:
                nursery.start_soon(one, tower)
        return whole

    async def _hand(self, tower: PeerId, lock: bytes) -> bool:
        best = self._income.best(lock)
        if best is None:
            return True
        cumulative = read_receipt(best.body).cumulative
        if self._held.get((tower, lock), 0) >= cumulative:
            return True
        try:
            answer = await hand_to(self._network, tower, best)
        except (NetworkError, RemoteError):
            return False
        self._held[tower, lock] = answer.cumulative
        return answer.cumulative >= cumulative


async def hand_to(network: Network, tower: PeerId, release: Release) -> Watching:
    """Hand one receipt to a watchtower; when this returns it is on the watchtower's disk.

    Raises:
        NetworkError: no answer.
        Refused: it does not watch this one, and says why.
        Malformed: what came is no answer.
    """
    body = await network.request(tower, WATCH_PROTOCOL, encode(Watch(release)), timeout_s=_TIMEOUT_S)
    return decode(body, Watching)


async def ask_watched(network: Network, tower: PeerId) -> list[Watching]:
    """What a watchtower watches for us.

    Raises:
        As `hand_to`.
    """
    found: list[Watching] = []
    while True:
        question = AskWatched(found[-1].lock if found else b"")
        body = await network.request(tower, WATCH_PROTOCOL, encode(question), timeout_s=_TIMEOUT_S)
        page = decode(body, WatchedLocks)
        found += page.locks
        if not page.more or not page.locks:
            return found


async def ask_held(network: Network, tower: PeerId, locks: Sequence[bytes]) -> list[Watching]:
    """What a watchtower holds for these Locks, whoever brought it.

    Raises:
        As `hand_to`.
    """
    found: list[Watching] = []
    for start in range(0, len(locks), ANSWER_MAX):
        question = AskHeld(tuple(locks[start : start + ANSWER_MAX]))
        body = await network.request(tower, WATCH_PROTOCOL, encode(question), timeout_s=_TIMEOUT_S)
        found += decode(body, WatchedLocks).locks
    return found
