"""A payee's side of watchtowers: handing over its highest receipts now and then.

A watchtower may send a Lock off when larger deposits come, so what it holds is asked for again every minute.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from ainp2p.errors import Malformed, NetworkError, Refused, RemoteError, TimedOut
from ainp2p.ledger.rules.receipts import Release, read_receipt
from ainp2p.ledger.wallets.income import Income
from ainp2p.ledger.wallets.watching import (
    ANSWER_MAX,
    LOCKS_PER_CLIENT_MAX,
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
CONFIRM_EVERY_S = 60.0  # well below any margin that counts
_TIMEOUT_S = 10.0
_LIST_TIMEOUT_S = 30.0  # for all pages


class Handover:
    """Receipts on their way to watchtowers; each is a row on a watchtower's disk once it has answered."""

    def __init__(self, network: Network, income: Income, towers: Sequence[PeerId]) -> None:
        self._network, self._income, self._towers = network, income, tuple(towers)
        self._held: dict[tuple[PeerId, bytes], int] = {}  # what a watchtower has acknowledged
        self._refused: set[tuple[PeerId, bytes]] = set()  # since it was asked last what it holds
        self._confirm_s: dict[PeerId, float] = {}

    @property
    def has_towers(self) -> bool:
        """Whether there is anybody to hand over to."""
        return bool(self._towers)

    async def run(self) -> None:
        """Hand over until cancelled."""
        while self._towers:
            await self.hand_over()
            await trio.sleep(HAND_EVERY_S)

    async def hand_over(self) -> int:
        """Hand over what watchtowers do not have yet; how many of them hold all of it now."""
        owed = [lock.id for lock in self._income.locks() if self._income.unsettled(lock.id)]
        self._forget_all_but(set(owed))
        whole = 0

        async def one(tower: PeerId) -> None:
            nonlocal whole
            try:
                await self._confirm(tower, owed)
                results = [await self._hand(tower, lock) for lock in owed]
            except (NetworkError, RemoteError):
                return  # gone, slow, or mad: the next round asks again
            whole += all(results)

        async with trio.open_nursery() as nursery:
            for tower in self._towers:
                nursery.start_soon(one, tower)
        return whole

    def _forget_all_but(self, owed: set[bytes]) -> None:
        self._held = {key: value for key, value in self._held.items() if key[1] in owed}

    async def _confirm(self, tower: PeerId, owed: Sequence[bytes]) -> None:
        """Ask now and then what it still holds: others may have driven one of ours out."""
        if trio.current_time() < self._confirm_s.get(tower, 0.0):
            return
        known = [lock for lock in owed if (tower, lock) in self._held]
        held = {each.lock: each.cumulative for each in await ask_held(self._network, tower, known)}
        self._held.update({(tower, lock): held.get(lock, 0) for lock in known})
        self._refused = {key for key in self._refused if key[0] != tower}
        self._confirm_s[tower] = trio.current_time() + CONFIRM_EVERY_S

    async def _hand(self, tower: PeerId, lock: bytes) -> bool:
        best = self._income.best(lock)
        if best is None:
            return True
        cumulative = read_receipt(best.body).cumulative
        if self._held.get((tower, lock), 0) >= cumulative:
            return True
        if (tower, lock) in self._refused:
            return False
        try:
            answer = await hand_to(self._network, tower, best)
        except Refused:
            self._refused.add((tower, lock))
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
    answer = decode(body, Watching)
    if answer.lock != read_receipt(release.body).lock:
        raise Malformed("the answer is about another Lock")
    return answer


async def ask_watched(network: Network, tower: PeerId) -> list[Watching]:
    """What a watchtower watches for us.

    Raises:
        As `hand_to`; also if it lists more than one client may have, not in order, or for too long.
    """
    found: list[Watching] = []
    with trio.move_on_after(_LIST_TIMEOUT_S):
        while True:
            after = found[-1].lock if found else b""
            question = encode(AskWatched(after))
            page = decode(
                await network.request(tower, WATCH_PROTOCOL, question, timeout_s=_TIMEOUT_S), WatchedLocks
            )
            for each in page.locks:
                if each.lock <= after:
                    raise Malformed("a list of Locks that does not ascend")
                after = each.lock
            found += page.locks
            if len(found) > LOCKS_PER_CLIENT_MAX:
                raise Malformed(f"a watchtower watches at most {LOCKS_PER_CLIENT_MAX} Locks for one peer")
            if not page.more or not page.locks:
                return found
    raise TimedOut(f"{tower} does not come to the end of what it watches")


async def ask_held(network: Network, tower: PeerId, locks: Sequence[bytes]) -> list[Watching]:
    """What a watchtower holds for these Locks, whoever brought it.

    Raises:
        As `hand_to`; also if it tells of others, or of one more than once.
    """
    found: list[Watching] = []
    for start in range(0, len(locks), ANSWER_MAX):
        asked = tuple(locks[start : start + ANSWER_MAX])
        body = await network.request(tower, WATCH_PROTOCOL, encode(AskHeld(asked)), timeout_s=_TIMEOUT_S)
        told = decode(body, WatchedLocks).locks
        if not {each.lock for each in told} <= set(asked) or len({each.lock for each in told}) < len(told):
            raise Malformed("Locks that were not asked for")
        found += told
    return found
