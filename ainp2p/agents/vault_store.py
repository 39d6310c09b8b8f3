"""What a vault must not forget: what is reserved, what was spent when, why the breaker tripped, its Locks.

vault      whose vault this is
open       reservations: their bounds are durable before the first signature under them
spent      what was signed, by counterparty and minute
repeats    how often the same was bought lately
breaker    one row
locks      the last receipt known for each Lock, and how much more may have been signed before a crash
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from ainp2p.agents.breaker import BreakerState
from ainp2p.agents.policy import Saved
from ainp2p.agents.promises import LockRecord
from ainp2p.errors import Malformed, StorageError
from ainp2p.ledger.disk import Disk, open_disk
from ainp2p.ledger.rules.receipts import SignedReceipt
from ainp2p.protocol.codec import decode, encode
from ainp2p.protocol.storage import FILES, Storage

FILE_NAME = "vault.sqlite"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS vault (public BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS open (
    job BLOB PRIMARY KEY, counterparty BLOB NOT NULL, bound INTEGER NOT NULL, spent INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spent (
    counterparty BLOB NOT NULL, minute INTEGER NOT NULL, amount INTEGER NOT NULL,
    PRIMARY KEY (minute, counterparty)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS repeats (
    fingerprint BLOB PRIMARY KEY, first INTEGER NOT NULL, times INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS breaker (
    id INTEGER PRIMARY KEY, tripped TEXT NOT NULL, minute INTEGER NOT NULL,
    begun INTEGER NOT NULL, outcomes INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS locks (
    lock BLOB PRIMARY KEY, payees BLOB NOT NULL, receipt BLOB, unsure INTEGER NOT NULL
) WITHOUT ROWID;
"""
_ID_SIZE = 32


class VaultStore:
    """The vault's tables over one Disk. What is put is durable after `synced`."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._breaker: BreakerState | None = None  # as it was put last
        self._oldest_minute = -1

    async def synced(self) -> None:
        """Return once all that was put before is durable."""
        await self._disk.synced()

    def claim(self, public: bytes) -> None:
        """Make this the vault of one key, or check that it is.

        Raises:
            StorageError: it belongs to another key.
        """
        rows = self._disk.read_now("SELECT public FROM vault")
        if not rows:
            self._disk.put("INSERT INTO vault VALUES (?)", (public,))
        elif rows != [(public,)]:
            raise StorageError("this directory holds the vault of another key")

    def load(self) -> Saved:
        """What the policy's core goes on from."""
        read = self._disk.read_now
        breaker = read("SELECT tripped, minute, begun, outcomes FROM breaker")
        return Saved(
            open=tuple(read("SELECT job, counterparty, bound, spent FROM open ORDER BY job")),
            spent=tuple(read("SELECT counterparty, minute, amount FROM spent")),
            repeats=tuple(read("SELECT fingerprint, first, times FROM repeats ORDER BY first")),
            breaker=BreakerState(*breaker[0]) if breaker else BreakerState(),
        )

    def locks(self) -> list[LockRecord]:
        """All Locks that were ever used and not forgotten.

        Raises:
            StorageError: a row is not what was written.
        """
        rows = self._disk.read_now("SELECT lock, payees, receipt, unsure FROM locks ORDER BY lock")
        try:
            return [
                LockRecord(lock, _split(payees), decode(raw, SignedReceipt) if raw else None, unsure)
                for lock, payees, raw, unsure in rows
            ]
        except Malformed as exc:
            raise StorageError("the vault's record of a receipt is damaged: restore it from a copy") from exc

    def put_changes(self, changed: Saved) -> None:
        """Write what the policy's core says has changed."""
        put = self._disk.put
        for entry in changed.open:
            put("INSERT OR REPLACE INTO open VALUES (?, ?, ?, ?)", entry, replaces=("open", entry[0]))
        for job in changed.closed:
            put("DELETE FROM open WHERE job = ?", (job,), replaces=("open", job), removes=True)
        for spent in changed.spent:
            put("INSERT OR REPLACE INTO spent VALUES (?, ?, ?)", spent, replaces=("spent", *spent[:2]))
        for repeat in changed.repeats:
            name = ("repeat", repeat[0])
            if repeat[2]:
                put("INSERT OR REPLACE INTO repeats VALUES (?, ?, ?)", repeat, replaces=name)
            else:
                put("DELETE FROM repeats WHERE fingerprint = ?", repeat[:1], replaces=name, removes=True)
        if changed.oldest_minute > self._oldest_minute:
            self._oldest_minute = changed.oldest_minute
            put("DELETE FROM spent WHERE minute < ?", (changed.oldest_minute,), replaces="old")
        state = changed.breaker
        if state == self._breaker:
            return
        self._breaker = state
        row = (state.tripped, state.minute, state.begun, state.outcomes)
        put("INSERT OR REPLACE INTO breaker VALUES (1, ?, ?, ?, ?)", row, replaces="breaker")

    def put_locks(self, changed: Iterable[LockRecord], forgotten: Iterable[bytes]) -> None:
        """Write the newest state of some Locks, and drop others."""
        put = self._disk.put
        for record in changed:
            raw = encode(record.receipt) if record.receipt is not None else None
            row = (record.lock, b"".join(record.payees), raw, record.unsure)
            put("INSERT OR REPLACE INTO locks VALUES (?, ?, ?, ?)", row, replaces=("lock", record.lock))
        for lock in forgotten:
            put("DELETE FROM locks WHERE lock = ?", (lock,), replaces=("lock", lock), removes=True)


def _split(ids: bytes) -> tuple[bytes, ...]:
    return tuple(ids[at : at + _ID_SIZE] for at in range(0, len(ids), _ID_SIZE))


@asynccontextmanager
async def open_vault_store(
    directory: Path | None, public: bytes, storage: Storage = FILES
) -> AsyncIterator[VaultStore]:
    """Open the tables of one key's vault, for this process alone; None: in memory, for ephemeral agents.

    Raises:
        StorageError: as `open_disk`, or they belong to another key.
    """
    path = directory / FILE_NAME if directory is not None else None
    async with open_disk(path, _SCHEMA, storage) as disk:
        store = VaultStore(disk)
        store.claim(public)
        yield store
