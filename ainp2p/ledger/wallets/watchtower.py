"""A watchtower on a Network: takes receipts from payees, keeps them, spreads them in time. It has no account.

    Watch ──the Lock looked up, the receipt verified──► disk ──► Watching
    Follow streams of one validator after the other ──a Lock moved──► looked up again ──► due?
    due ──► submitted to all validators until it is final, again and again

"Any watchtower spreads its receipt before expiry minus the larger of 10 min and 5 % of the lifetime": after
that the priority rule protects it, whatever the payer does.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from ainp2p.errors import Error, LedgerError, LocalError, NetworkError, Refused, RemoteError
from ainp2p.ledger.disk import Disk, open_disk
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.receipts import Release
from ainp2p.ledger.serving.limits import Limits
from ainp2p.ledger.serving.messages import FOLLOW_BEAT_MAX_S, OBJECTS_MAX, Finals, Follow
from ainp2p.ledger.serving.proofs import Proofs
from ainp2p.ledger.serving.sync import Validators
from ainp2p.ledger.wallets.following import Following
from ainp2p.ledger.wallets.lookup import newest_lock
from ainp2p.ledger.wallets.publishing import publish
from ainp2p.ledger.wallets.watching import (
    ANSWER_MAX,
    CLOSE,
    LEAST_DEPOSIT,
    LOCKS_MAX,
    WATCH_PROTOCOL,
    AskHeld,
    AskWatched,
    Watch,
    Watched,
    WatchedLocks,
    Watching,
    WatchList,
    read_watch,
)
from ainp2p.protocol.codec import Message, decode, encode
from ainp2p.protocol.network import Call, Network, PeerId
from ainp2p.protocol.storage import Storage

FILE_NAME = "watchtower.sqlite"
FOLLOW_TURN_S = 300.0  # then the next validator is followed: one that keeps quiet hides nothing for longer
SUBMIT_TIMEOUT_S = 20.0
RETRY_AFTER_MS = 2_000
ASKED_AT_ONCE = 16
_COST_WATCH = 20.0  # tokens of `limits`: a look-up at the whole committee, a signature, an fsync
_SCHEMA = """
CREATE TABLE IF NOT EXISTS watched (lock BLOB PRIMARY KEY, client TEXT NOT NULL, release BLOB NOT NULL)
    WITHOUT ROWID;
"""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WatchtowerStatistics:
    """What goes on inside: Locks watched, operations submitted, those of them that became final."""

    watched: int
    submitted: int
    final: int


class Watchtower:
    """One watchtower; `open_watchtower` makes it."""

    def __init__(
        self, network: Network, genesis: Genesis, disk: Disk, least_deposit: int = LEAST_DEPOSIT
    ) -> None:
        self._network, self._genesis, self._disk = network, genesis, disk
        self._validators, self._proofs = Validators(network, genesis), Proofs(genesis)
        self._following = Following(self._validators, self._proofs.chain)
        self._list = WatchList(genesis.network_id, genesis.parameters, least_deposit)
        self._limits = Limits()
        self._asking = trio.CapacityLimiter(ASKED_AT_ONCE)
        self._busy: set[bytes] = set()
        self._changed = trio.Event()  # something may be due sooner
        self._new = trio.Event()  # a Lock more is to be followed
        self._submitted = self._final = 0
        for client, release in disk.read_now("SELECT client, release FROM watched"):
            self._list.restore(client, decode(release, Release))

    def statistics(self) -> WatchtowerStatistics:
        """Figures since it was opened."""
        return WatchtowerStatistics(len(self._list), self._submitted, self._final)

    # --- clients ------------------------------------------------------------------------------------

    async def _handle(self, call: Call) -> bytes | None:
        try:
            question = read_watch(call.body)
            cost = _COST_WATCH if isinstance(question, Watch) else 1.0
            if not self._limits.allow(call.peer, cost, trio.current_time()):
                raise Refused("busy", "too many receipts from this peer; hand over the highest now and then")
            return encode(await self._answer(call.peer, question))
        except Refused:
            raise
        except RemoteError as exc:
            raise Refused("malformed", str(exc)) from exc
        except (LedgerError, LocalError, NetworkError) as exc:
            raise Refused("refused", str(exc)) from exc

    async def _answer(self, client: PeerId, question: Watch | AskWatched | AskHeld) -> Message:
        if isinstance(question, AskHeld):
            found = [self._list.get(id_) for id_ in question.locks]
            return WatchedLocks(tuple(_watching(held) for held in found if held is not None), 0)
        if isinstance(question, AskWatched):
            rest = [held for held in self._list.of(client) if held.id > question.after]
            page = tuple(_watching(held) for held in rest[:ANSWER_MAX])
            return WatchedLocks(page, int(len(rest) > len(page)))
        id_ = self._list.name(question.release)
        held = self._list.get(id_)
        if held is None or held.lock is None:
            await self._look_up(id_, client, question.release)
        elif held.lock is not None:
            self._take(client, held.lock, held.life_ms, question.release)
        await self._disk.synced()
        held = self._list.get(id_)
        if held is None:
            raise Refused("ended", "the Lock has ended meanwhile")
        return _watching(held)

    async def _look_up(self, id_: bytes, client: PeerId, release: Release) -> None:
        async with self._asking:
            lock, proof = await newest_lock(self._validators, self._proofs, id_)
        life_ms = lock.expiry - (proof[0].parsed.operation.timestamp or 0)
        self._list.learn(lock, life_ms)
        self._take(client, lock, life_ms, release)

    def _take(self, client: PeerId, lock: Lock, life_ms: int, release: Release) -> None:
        known = len(self._list)
        held, is_news = self._list.put(client, lock, life_ms, release, self._now_ms())
        if is_news:
            self._disk.put(
                "INSERT INTO watched VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET release = excluded.release",
                (held.id, held.client, encode(held.release)),
                replaces=("watched", held.id),
            )
            self._changed.set()
        for id_ in self._list.take_dropped():
            self._forget(id_)
        if len(self._list) > known:
            self._new.set()

    def _forget(self, id_: bytes) -> None:
        self._disk.put("DELETE FROM watched WHERE lock = ?", (id_,))

    # --- following ----------------------------------------------------------------------------------

    async def _follow_forever(self) -> None:
        peers: list[PeerId] = []
        turn = 0
        while True:
            with suppress(NetworkError):
                await self._following.catch_up_if_due()
            if set(peers) != self._validators.stakes.keys():
                peers = [member.peer for member in self._validators.others]
                self._network.context.rng.shuffle(peers)
            self._new = trio.Event()
            ids = sorted(held.id for held in self._list if not held.leaving)[:LOCKS_MAX]
            with trio.move_on_after(FOLLOW_TURN_S):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._refresh, ids)
                    for some in _batched(ids, OBJECTS_MAX):
                        nursery.start_soon(self._follow, peers[turn % len(peers)], some)
                    await self._new.wait()
                    nursery.cancel_scope.cancel()
            turn += 1
            await trio.sleep(RETRY_AFTER_MS / 1000)  # several that are handed over together are one change

    async def _follow(self, peer: PeerId, ids: tuple[bytes, ...]) -> None:
        with suppress(NetworkError, RemoteError, LedgerError):
            question, timeout_s = Follow(ids), 3 * FOLLOW_BEAT_MAX_S
            async with self._validators.stream(peer, question, Finals, timeout_s=timeout_s) as chunks:
                async for finals in chunks:
                    moved = [self._proofs.operation(decided).parsed for decided in finals.operations]
                    await self._refresh(sorted({parsed.operation.object for parsed in moved} & set(ids)))
        self._new.set()  # it broke, or lies: another validator, and what was missed

    async def _refresh(self, ids: list[bytes]) -> None:
        async with trio.open_nursery() as nursery:
            for id_ in ids:
                nursery.start_soon(self._refresh_one, id_)

    async def _refresh_one(self, id_: bytes) -> None:
        with suppress(NetworkError, LedgerError):  # what is known stays; the next turn asks again
            async with self._asking:
                lock, proof = await newest_lock(self._validators, self._proofs, id_)
            if self._list.learn(lock, lock.expiry - (proof[0].parsed.operation.timestamp or 0)):
                self._forget(id_)
            self._changed.set()

    # --- spreading ----------------------------------------------------------------------------------

    async def _spread_forever(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                self._changed = trio.Event()
                earliest, now_ms = math.inf, self._now_ms()
                for held in self._list:
                    due = self._list.due(held) if held.id not in self._busy else None
                    if due is not None and due[0] <= now_ms:
                        self._busy.add(held.id)
                        nursery.start_soon(self._spread, held, due[1])
                    elif due is not None:
                        earliest = min(earliest, due[0])
                with trio.move_on_after((earliest - now_ms) / 1000):
                    await self._changed.wait()

    async def _spread(self, held: Watched, what: str) -> None:
        parameters = self._proofs.chain.newest.parameters
        gates_s = (parameters.gate_hold_ms + parameters.gate_contact_ms) / 1000 if what == CLOSE else 0.0
        held.not_before_ms = self._now_ms() + RETRY_AFTER_MS
        try:
            signed = self._list.operation(held, what)
            self._submitted += 1
            await publish(self._network, self._genesis, signed, timeout_s=SUBMIT_TIMEOUT_S + gates_s)
            self._final += 1
        except Error as exc:  # another operation took the slot, or nobody answers: look, and again
            _log.info("the %s of Lock %s is not final: %s", what, held.id.hex(), exc)
        await self._refresh_one(held.id)
        self._busy.discard(held.id)
        self._changed.set()

    def _now_ms(self) -> int:
        return self._network.context.now_ms()

    async def _run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._following.run)
            nursery.start_soon(self._follow_forever)
            nursery.start_soon(self._spread_forever)


def _batched(ids: list[bytes], size: int) -> list[tuple[bytes, ...]]:
    return [tuple(ids[start : start + size]) for start in range(0, len(ids), size)]


def _watching(held: Watched) -> Watching:
    return Watching(held.id, held.cumulative, held.lock.expiry if held.lock is not None else 0)


@asynccontextmanager
async def open_watchtower(
    network: Network,
    genesis: Genesis,
    directory: Path | None,
    *,
    least_deposit: int = LEAST_DEPOSIT,
    storage: Storage | None = None,
) -> AsyncIterator[Watchtower]:
    """Watch Locks for whoever hands over receipts; no key but the Network's own is needed.

    Args:
        least_deposit: uain; smaller deposits are not watched. When there is no place, the smallest one goes.
        directory: where the receipts are kept; None: in memory, for tests.
        storage: where `directory` is; None: the storage of the network's context.

    Raises:
        StorageError: it cannot be used, or another process uses it.
    """
    caught: Exception | None = None
    storage = storage or network.context.storage_of(directory)
    async with open_disk(directory and directory / FILE_NAME, _SCHEMA, storage) as disk:
        tower = Watchtower(network, genesis, disk, least_deposit)
        network.serve(WATCH_PROTOCOL, tower._handle)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tower._run)
            try:
                yield tower
            except Exception as exc:  # the caller's, not ours: keep it out of the group
                caught = exc
            nursery.cancel_scope.cancel()
    if caught is not None:
        raise caught
