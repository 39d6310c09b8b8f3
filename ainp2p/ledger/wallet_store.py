"""What a wallet must not forget: what it has signed, the highest receipts, the Locks it cares about.

*Sign once*: an operation is in the journal, durably, before any byte of it is sent, and there is at most one
of ours for each (object, seq). After a crash the same bytes are sent again. Receipts are written by group
commit, only the highest of each Lock. Balances are not kept: they are learnt again, with certificates.

    operations   ours and whatever concerned us; without a certificate while it is pending
    notes        the caller's word for an operation, so that a repeated call finds the first one
    receipts     the highest of each Lock
    locks        Locks in which we pay or are paid, by the operation that opened them
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ainp2p.errors import Error, StorageError
from ainp2p.ledger.disk import Disk, open_disk, run_in_thread
from ainp2p.ledger.operations import ParsedOperation, SignedOperation, parse
from ainp2p.ledger.receipts import SignedReceipt
from ainp2p.protocol.codec import decode, encode

FILE_NAME = "wallet.sqlite"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS wallet (account BLOB NOT NULL, network BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS operations (
    id BLOB PRIMARY KEY, object BLOB NOT NULL, seq INTEGER NOT NULL, signed BLOB NOT NULL,
    certificate BLOB, at_ms INTEGER NOT NULL, UNIQUE (object, seq)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes (note BLOB PRIMARY KEY, operation BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS receipts (lock BLOB PRIMARY KEY, signed BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS locks (lock BLOB PRIMARY KEY, opening BLOB NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One operation in the wallet's book.

    Attributes:
        certificate: empty while it is pending.
        at_ms: when this wallet signed it or heard of it.
    """

    parsed: ParsedOperation
    certificate: bytes
    at_ms: int


class WalletStore:
    """The wallet's tables over one Disk. What is put is durable after `synced`."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    async def synced(self) -> None:
        """Return once all that was put before is durable."""
        await self._disk.synced()

    def journal(self, parsed: ParsedOperation, notes: tuple[bytes, ...], at_ms: int) -> None:
        """Write down an operation of ours, before it is sent."""
        operation = parsed.operation
        row = (parsed.id, operation.object, operation.seq, encode(parsed.signed), at_ms)
        # No OR REPLACE: a second operation for one (object, seq) must fail, loudly, whatever the caller believes.
        self._disk.put(
            "INSERT INTO operations (id, object, seq, signed, at_ms) VALUES (?, ?, ?, ?, ?)", row
        )
        for note in notes:
            self._disk.put("INSERT INTO notes VALUES (?, ?)", (note, parsed.id))

    def put_final(self, parsed: ParsedOperation, certificate: bytes, at_ms: int) -> None:
        """Keep a final operation; it takes the place of a pending one that lost its slot."""
        operation = parsed.operation
        self._disk.put(
            "DELETE FROM operations WHERE object = ? AND seq = ? AND id != ?",
            (operation.object, operation.seq, parsed.id),
        )
        self._disk.put(
            "INSERT INTO operations VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (id) DO UPDATE SET certificate = excluded.certificate",
            (parsed.id, operation.object, operation.seq, encode(parsed.signed), certificate, at_ms),
        )

    def drop(self, parsed: ParsedOperation) -> None:
        """Forget a pending operation that can never become final, and what the caller called it."""
        self._disk.put("DELETE FROM operations WHERE id = ? AND certificate IS NULL", (parsed.id,))
        self._disk.put("DELETE FROM notes WHERE operation = ?", (parsed.id,))

    def put_receipt(self, lock: bytes, receipt: SignedReceipt) -> None:
        """Keep a Lock's highest receipt; only the last of those put since the last commit is written."""
        self._disk.put(
            "INSERT INTO receipts VALUES (?, ?) ON CONFLICT (lock) DO UPDATE SET signed = excluded.signed",
            (lock, encode(receipt)),
            replaces=("receipt", lock),
        )

    def put_lock(self, lock: bytes, opening: bytes) -> None:
        """Keep a Lock that concerns us; its opening operation must be put as well."""
        self._disk.put("INSERT OR IGNORE INTO locks VALUES (?, ?)", (lock, opening))

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

    def operations(self) -> list[Recorded]:
        """All operations, oldest first.

        Raises:
            StorageError: a row is not what was written.
        """
        rows = self._disk.read_now(
            "SELECT id, signed, certificate, at_ms FROM operations ORDER BY at_ms, object, seq"
        )
        return [_recorded(*row) for row in rows]

    def notes(self) -> dict[bytes, bytes]:
        """The caller's note → operation id."""
        return dict(self._disk.read_now("SELECT note, operation FROM notes"))

    def receipts(self) -> dict[bytes, SignedReceipt]:
        """Lock → its highest receipt."""
        rows = self._disk.read_now("SELECT lock, signed FROM receipts")
        return {lock: decode(signed, SignedReceipt) for lock, signed in rows}

    def locks(self) -> dict[bytes, bytes]:
        """Lock → the id of the operation that opened it."""
        return dict(self._disk.read_now("SELECT lock, opening FROM locks"))


def _recorded(id_: bytes, signed: bytes, certificate: bytes | None, at_ms: int) -> Recorded:
    try:
        parsed = parse(decode(signed, SignedOperation))
    except Error as exc:
        raise StorageError(f"the wallet's operation {id_.hex()} is damaged: {exc}") from exc
    if parsed.id != id_:
        raise StorageError(f"the wallet's operation {id_.hex()} is damaged: its bytes have another id")
    return Recorded(parsed, certificate or b"", at_ms)


@asynccontextmanager
async def open_wallet_store(
    directory: Path | None, *, run: Callable[[Callable[[], Any]], Any] = run_in_thread
) -> AsyncIterator[WalletStore]:
    """Open the wallet's tables in `directory` (None: in memory, forgotten at the end).

    Raises:
        StorageError: they cannot be opened, or another process has them open.
    """
    async with open_disk(directory and directory / FILE_NAME, _SCHEMA, run=run) as disk:
        yield WalletStore(disk)
