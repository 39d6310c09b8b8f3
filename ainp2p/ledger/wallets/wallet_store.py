"""What a wallet must not forget: what it has signed, and the highest receipts.

*Sign once*: an operation is in the journal, durably, before any byte of it is sent, and there is at most one
of ours for each (object, seq). After a crash the same bytes are sent again. Receipts are written by group
commit, only the highest of each Lock. Balances are not kept: they are learnt again, with certificates.

    operations   ours and whatever concerned us; without a certificate while it is pending
    notes        the caller's word for a payment, so that a repeated call finds the first one
    snapshot     what the operations that are `folded` came to, so that a start reads only the rest
    receipts     the highest of each Lock, while it is open; its mark says by which key it was verified
    releases     what verifiers signed for Locks that need k of them
    committees   the chain of COMMITTEEs, each with its certificate; what does not fit is asked for again
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ainp2p.errors import Error, StorageError
from ainp2p.ledger.disk import Disk, open_disk
from ainp2p.ledger.rules.operations import ParsedOperation, SignedOperation, parse
from ainp2p.ledger.rules.receipts import SignedReceipt
from ainp2p.ledger.rules.releases import Partial
from ainp2p.ledger.serving.messages import Decided
from ainp2p.ledger.wallets.purse_snapshot import Row
from ainp2p.protocol.codec import decode, encode, fast_decoder
from ainp2p.protocol.identity import digest
from ainp2p.protocol.storage import FILES, Execute, Schema, Storage

FILE_NAME = "wallet.sqlite"
_TEXT = """
CREATE TABLE IF NOT EXISTS wallet (account BLOB NOT NULL, network BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS operations (
    n INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, object BLOB NOT NULL, seq INTEGER NOT NULL,
    signed BLOB NOT NULL, certificate BLOB, at_ms INTEGER NOT NULL,
    received INTEGER NOT NULL DEFAULT 0, spent INTEGER NOT NULL DEFAULT 0,
    folded INTEGER NOT NULL DEFAULT 0, UNIQUE (object, seq));
CREATE TABLE IF NOT EXISTS snapshot (kind INTEGER, id BLOB, state BLOB NOT NULL,
    PRIMARY KEY (kind, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes (note BLOB PRIMARY KEY, operation BLOB NOT NULL, place INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS releases (lock BLOB, body BLOB, key BLOB, part BLOB NOT NULL,
    PRIMARY KEY (lock, body, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS committees (epoch INTEGER PRIMARY KEY, operation BLOB NOT NULL,
    certificate BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS receipts (lock BLOB PRIMARY KEY, signed BLOB NOT NULL, mark BLOB) WITHOUT ROWID;
"""


def _upgrade(execute: Execute) -> None:
    """In files of earlier releases nothing is folded, and no receipt has a mark."""
    if "folded" not in {row[1] for row in execute("PRAGMA table_info(operations)")}:
        execute("ALTER TABLE operations ADD COLUMN folded INTEGER NOT NULL DEFAULT 0")
    if "mark" not in {row[1] for row in execute("PRAGMA table_info(receipts)")}:
        execute("ALTER TABLE receipts ADD COLUMN mark BLOB")
    execute("CREATE INDEX IF NOT EXISTS unfolded ON operations (n) WHERE folded = 0")


_SCHEMA = Schema(_TEXT, _upgrade)
_read_receipt = fast_decoder(SignedReceipt)
_SELECT = "SELECT id, signed, certificate, at_ms, received, spent FROM operations"


@dataclass(frozen=True, slots=True)
class Recorded:
    """One operation in the wallet's book.

    Attributes:
        certificate: empty while it is pending.
        at_ms: when this wallet signed it or heard of it.
        received: uain that it brought to the account; 0 while it is pending.
        spent: uain that it took from it: outs, deposits and fee; 0 while it is pending.
    """

    parsed: ParsedOperation
    certificate: bytes
    at_ms: int
    received: int
    spent: int


@dataclass(frozen=True, slots=True)
class KeptReceipt:
    """A receipt as it was found on the disk.

    Attributes:
        mark: a digest over its bytes and the key that it was verified with; empty in earlier releases' files.
    """

    signed: SignedReceipt
    raw: bytes
    mark: bytes

    def was_verified(self, authority: bytes) -> bool:
        """Whether just these bytes were found good under this key before they were written.

        It finds damage, as a signature would, in a fortieth of the time. Whoever can write the file could
        make one up, and as well the balances beside it: the validators would not pay for it.
        """
        return self.mark == _mark(authority, self.raw)


class WalletStore:
    """The wallet's tables over one Disk. What is put is durable after `synced`."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    async def synced(self) -> None:
        """Return once all that was put before is durable."""
        await self._disk.synced()

    def journal(self, parsed: ParsedOperation, notes: Mapping[bytes, int], at_ms: int) -> None:
        """Write down an operation of ours, before it is sent.

        Args:
            notes: the caller's word → the place of that out or Lock in the SPEND.
        """
        operation = parsed.operation
        row = (parsed.id, operation.object, operation.seq, encode(parsed.signed), at_ms)
        # No OR REPLACE: a second operation for one (object, seq) must fail, whatever the caller believes.
        sql = "INSERT INTO operations (id, object, seq, signed, at_ms) VALUES (?, ?, ?, ?, ?)"
        self._disk.put(sql, row, slot=(operation.object, operation.seq), fresh=True)
        for note, place in notes.items():
            name = (note, parsed.id, place)
            self._disk.put("INSERT INTO notes VALUES (?, ?, ?)", name, slot=("note", note), fresh=True)

    def put_final(self, recorded: Recorded) -> None:
        """Keep a final operation; it takes the place of a pending one that lost its slot."""
        operation, id_ = recorded.parsed.operation, recorded.parsed.id
        self._disk.put(
            "DELETE FROM operations WHERE object = ? AND seq = ? AND id != ?",
            (operation.object, operation.seq, id_),
        )
        self._disk.put(
            "INSERT INTO operations (id, object, seq, signed, certificate, at_ms, received, spent) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
            "certificate = excluded.certificate, received = excluded.received, spent = excluded.spent",
            (
                id_,
                operation.object,
                operation.seq,
                _encoded(recorded.parsed.signed),
                _same(recorded.certificate),
                recorded.at_ms,
                recorded.received,
                recorded.spent,
            ),
            slot=(operation.object, operation.seq),
        )

    def drop(self, parsed: ParsedOperation) -> None:
        """Forget a pending operation that can never become final, and what the caller called it."""
        self._disk.put("DELETE FROM operations WHERE id = ? AND certificate IS NULL", (parsed.id,))
        self._disk.put("DELETE FROM notes WHERE operation = ?", (parsed.id,))

    def put_receipt(self, lock: bytes, receipt: SignedReceipt, authority: bytes) -> None:
        """Keep a Lock's highest receipt; only the last of those put since the last commit is written.

        Args:
            authority: the key under which its signature was verified.
        """
        raw = encode(receipt)
        self._disk.put(
            "INSERT INTO receipts VALUES (?, ?, ?) ON CONFLICT (lock) DO UPDATE SET"
            " signed = excluded.signed, mark = excluded.mark",
            (lock, raw, _mark(authority, raw)),
            replaces=("receipt", lock),
        )

    def put_release_part(self, lock: bytes, part: Partial) -> None:
        """Keep a verifier's signature."""
        row = (lock, part.body, part.key, encode(part))
        self._disk.put("INSERT OR IGNORE INTO releases VALUES (?, ?, ?, ?)", row)

    def put_committee(self, epoch: int, link: Decided) -> None:
        """Keep the COMMITTEE that opened an epoch."""
        row = (epoch, link.operation, link.certificate)
        self._disk.put("INSERT OR REPLACE INTO committees VALUES (?, ?, ?)", row)

    def drop_receipt(self, lock: bytes) -> None:
        """Forget a Lock's receipt and its releases: it has ended."""
        self._disk.put(
            "DELETE FROM receipts WHERE lock = ?", (lock,), replaces=("receipt", lock), removes=True
        )
        self._disk.put("DELETE FROM releases WHERE lock = ?", (lock,))

    def put_snapshot(self, rows: Iterable[Row]) -> None:
        """Keep what all final operations that were put before have come to; the next start begins there."""
        # All of it is put at once, and so goes into one transaction: no crash sees half of it.
        self._disk.put("DELETE FROM snapshot", ())
        for row in rows:
            self._disk.put("INSERT INTO snapshot VALUES (?, ?, ?)", row)
        self._disk.put("UPDATE operations SET folded = 1 WHERE folded = 0 AND certificate IS NOT NULL", ())

    def prune(self, keep: int) -> None:
        """Delete what is in the snapshot but for the last `keep` operations, and those that have a note."""
        self._disk.put(
            "DELETE FROM operations WHERE folded = 1 AND n <= (SELECT max(n) FROM operations) - ?"
            " AND id NOT IN (SELECT operation FROM notes)",
            (keep,),
        )

    # --- reading: at start, before anything is put ------------------------------------------------

    def claim(self, account: bytes, network: bytes) -> None:
        """Make this the wallet of `account` on `network`, or check that it is.

        Raises:
            StorageError: it belongs to another account or network.
        """
        rows = self._disk.read_now("SELECT account, network FROM wallet")
        if not rows:
            self._disk.put("INSERT INTO wallet VALUES (?, ?)", (account, network))
        elif rows != [(account, network)]:
            raise StorageError("this directory holds the wallet of another account or network")

    def committees(self) -> list[Decided]:
        """The COMMITTEEs that were kept, oldest first."""
        rows = self._disk.read_now("SELECT operation, certificate FROM committees ORDER BY epoch")
        return [Decided(operation, certificate) for operation, certificate in rows]

    def operations(self) -> list[Recorded]:
        """All operations that are not in the snapshot, in the order in which they were first put.

        Raises:
            StorageError: a row is not what was written.
        """
        return [_recorded(*row) for row in self._disk.read_now(f"{_SELECT} WHERE folded = 0 ORDER BY n")]

    def snapshot(self) -> list[Row]:
        """The last snapshot; empty if there is none."""
        return [
            (kind, id_, state)
            for kind, id_, state in self._disk.read_now("SELECT kind, id, state FROM snapshot")
        ]

    def folded(self, limit: int) -> list[bytes]:
        """The ids of the last operations in the snapshot, the newest last."""
        sql = "SELECT id FROM operations WHERE folded = 1 ORDER BY n DESC LIMIT ?"
        return [id_ for (id_,) in reversed(self._disk.read_now(sql, (limit,)))]

    async def certificate(self, operation: bytes) -> bytes:
        """The certificate of an operation of the book; empty if there is none; may be called at any time."""
        sql = "SELECT certificate FROM operations WHERE id = ? AND certificate IS NOT NULL"
        rows = await self._disk.read(sql, (operation,))
        return rows[0][0] if rows else b""

    async def history(self, limit: int) -> list[Recorded]:
        """The last operations, newest first; may be called at any time."""
        return [
            _recorded(*row) for row in await self._disk.read(f"{_SELECT} ORDER BY n DESC LIMIT ?", (limit,))
        ]

    def notes(self) -> dict[bytes, tuple[bytes, int]]:
        """The caller's note → operation id, and the place in it."""
        rows = self._disk.read_now("SELECT note, operation, place FROM notes")
        return {note: (operation, place) for note, operation, place in rows}

    def receipts(self) -> dict[bytes, KeptReceipt]:
        """Lock → its highest receipt."""
        rows = self._disk.read_now("SELECT lock, signed, mark FROM receipts")
        return {lock: KeptReceipt(_read_receipt(raw), raw, mark or b"") for lock, raw, mark in rows}

    def release_parts(self) -> dict[bytes, list[Partial]]:
        """Lock → what its verifiers signed."""
        found: dict[bytes, list[Partial]] = {}
        for lock, part in self._disk.read_now("SELECT lock, part FROM releases"):
            found.setdefault(lock, []).append(decode(part, Partial))
        return found


@lru_cache(maxsize=256)
def _encoded(signed: SignedOperation) -> bytes:
    """An operation that pays many has many wallets, and in one process they need not have it once each."""
    return encode(signed)


@lru_cache(maxsize=256)
def _same(certificate: bytes) -> bytes:
    """The same bytes, and the same object whoever asks."""
    return certificate


def _mark(authority: bytes, raw: bytes) -> bytes:
    return digest(b"ainp2p/mark/1", authority, raw)


def _recorded(
    id_: bytes, signed: bytes, certificate: bytes | None, at_ms: int, received: int, spent: int
) -> Recorded:
    try:
        parsed = parse(decode(signed, SignedOperation))
    except Error as exc:
        raise StorageError(f"the wallet's operation {id_.hex()} is damaged: {exc}") from exc
    if parsed.id != id_:
        raise StorageError(f"the wallet's operation {id_.hex()} is damaged: its bytes have another id")
    return Recorded(parsed, certificate or b"", at_ms, received, spent)


@asynccontextmanager
async def open_wallet_store(directory: Path | None, storage: Storage = FILES) -> AsyncIterator[WalletStore]:
    """Open the wallet's tables in `directory` (None: in memory, forgotten at the end).

    Raises:
        StorageError: they cannot be opened, or another process has them open.
    """
    async with open_disk(directory and directory / FILE_NAME, _SCHEMA, storage) as disk:
        yield WalletStore(disk)
