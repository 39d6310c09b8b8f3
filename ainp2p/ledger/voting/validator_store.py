"""A validator's disk: vote logs, bodies that votes rest on, decided operations, evidence.

One SQLite file holds these tables and the `Store`'s; each write is one transaction and one fsync, so votes,
the operations they name and the state they led to are never apart. What a checkpoint has made superfluous
goes in small steps with these writes (`ainp2p.ledger.voting.pruning`). Blocking: see `Database`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from ainp2p.errors import Error, StorageError
from ainp2p.ledger.database import Database, blob
from ainp2p.ledger.rules.operations import SignedOperation
from ainp2p.ledger.store import Store
from ainp2p.ledger.voting.attachments import attachment_id
from ainp2p.ledger.voting.certificate import decode_places, encode_places
from ainp2p.ledger.voting.effects import Evidence, Found, Record, Records, Restored
from ainp2p.ledger.voting.pruning import Pruner, holds_committee
from ainp2p.protocol.codec import encode, fast_decoder

_TABLES = (
    """CREATE TABLE IF NOT EXISTS vote_batches (member INTEGER, height INTEGER, raw BLOB NOT NULL,
       PRIMARY KEY (member, height)) WITHOUT ROWID""",
    # One row per write: encoded SignedOperations, each after its length. A row per operation costs more.
    "CREATE TABLE IF NOT EXISTS vote_operations (segment INTEGER PRIMARY KEY, joined BLOB NOT NULL)",
    # Of the operation that the store has numbered so. Ids are found by their first bytes: a page of the index
    # holds three times as many, and each operation changes one of its pages.
    """CREATE TABLE IF NOT EXISTS vote_places (n INTEGER PRIMARY KEY, places BLOB NOT NULL,
       epoch INTEGER NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS vote_ids ON ledger_operations (substr(id, 1, 8))",
    """CREATE TABLE IF NOT EXISTS vote_attachments (id BLOB PRIMARY KEY, segment INTEGER NOT NULL,
       raw BLOB NOT NULL)""",
    "CREATE TABLE IF NOT EXISTS vote_evidence (n INTEGER PRIMARY KEY, evidence BLOB NOT NULL)",
    # member −1: the last segment written; −2: the first one needed; else: the first height needed.
    "CREATE TABLE IF NOT EXISTS vote_floors (member INTEGER PRIMARY KEY, floor INTEGER NOT NULL)",
)
_LAST, _FIRST = -1, -2
_FOREVER = 2**62  # as a segment: no floor reaches it
_LENGTH = struct.Struct(">I")
_IDLE_STEPS = 16  # of pruning, with a write that holds no votes; 1 with others: 5 ms or so
_read_signed = fast_decoder(SignedOperation)
_read_evidence = fast_decoder(Evidence, size_max=1 << 20)


class SqliteJournal:
    """The `effects.Journal` on a `Database`, beside the `Store` in the same one."""

    def __init__(self, database: Database, store: Store) -> None:
        """Use the tables, or make them.

        Raises:
            StorageError: they cannot be used.
        """
        self._database, self._store = database, store
        with database.transaction():
            for table in _TABLES:
                database.execute(table)
            self._upgrade()
        self._pruner = Pruner(database, store)

    def _upgrade(self) -> None:
        """Earlier files have the places by id; the first ones without an epoch, since all is of epoch 0."""
        columns = {row[1] for row in self._database.execute("PRAGMA table_info(vote_finals)")}
        if columns:
            epoch = "epoch" if "epoch" in columns else "0"
            self._database.execute(
                f"""INSERT INTO vote_places SELECT n, places, {epoch}
                    FROM ledger_operations JOIN vote_finals USING (id)"""
            )
            self._database.execute("DROP TABLE vote_finals")

    # --- writing --------------------------------------------------------------------------------

    def write(self, records: Records) -> None:
        """Make all of it durable, or none; it is on disk when this returns.

        Raises:
            StorageError: it is not; nothing will be written any more.
        """
        many = self._database.executemany
        with self._database.transaction():
            if records.decided:
                self._write_decided([record for record in records.decided if record.decided.changes])
            many(
                "INSERT INTO vote_batches VALUES (?, ?, ?)",
                [
                    (_log(b.member, b.header.epoch), b.header.height, blob(b.raw))
                    for b in (*records.others, *records.own)
                ],
            )
            if records.operations:
                row = (records.segment, _join(records.operations))
                self._database.execute("INSERT INTO vote_operations VALUES (?, ?)", row)
            many(
                "INSERT INTO vote_evidence (evidence) VALUES (?)",
                [(encode(evidence),) for evidence in records.evidence],
            )
            many(
                "INSERT OR REPLACE INTO vote_attachments VALUES (?, ?, ?)",
                [(attachment_id(raw), records.segment, raw) for raw in records.attachments]
                + [(attachment_id(raw), _FOREVER, raw) for raw in records.keepsakes],
            )
            floors = {_LAST: records.segment}
            if records.floors is not None:
                heights, floors[_FIRST] = records.floors
                floors.update({_log(member, records.epoch): height for member, height in heights.items()})
                for table in ("vote_operations", "vote_attachments"):
                    self._database.execute(f"DELETE FROM {table} WHERE segment < ?", (floors[_FIRST],))
            many("INSERT OR REPLACE INTO vote_floors VALUES (?, ?)", sorted(floors.items()))
            self._prune(records)

    def _write_decided(self, records: Sequence[Record]) -> None:
        self._store.commit([record.decided for record in records])
        first = self._store.count - len(records) + 1
        rows = [
            (n, blob(encode_places(record.places)), record.epoch) for n, record in enumerate(records, first)
        ]
        self._database.executemany("INSERT INTO vote_places VALUES (?, ?, ?)", rows)

    def _prune(self, records: Records) -> None:
        if holds_committee(record.decided for record in records.decided):
            self._pruner.wake()
        busy = records.decided or any(batch.header.count for batch in records.own)
        for _ in range(1 if busy else _IDLE_STEPS):
            if not self._pruner.step():
                break

    # --- reading --------------------------------------------------------------------------------

    def restore(self, members: int, epoch: int = 0) -> Restored:
        """What was written, from the last floors on; batches of one epoch.

        Raises:
            StorageError: a row is damaged.
        """
        execute = self._database.execute
        floors: dict[int, int] = dict(execute("SELECT member, floor FROM vote_floors"))
        operations = [
            (segment, signed)
            for segment, joined in execute("SELECT segment, joined FROM vote_operations ORDER BY segment")
            for signed in self._split(joined)
        ]
        batches = [
            [
                raw
                for (raw,) in execute(
                    "SELECT raw FROM vote_batches WHERE member = ? AND height >= ? ORDER BY height",
                    (log, floors.get(log, 0)),
                )
            ]
            for log in (_log(member, epoch) for member in range(members))
        ]
        attachments = execute("SELECT segment, raw FROM vote_attachments ORDER BY segment, id")
        return Restored(floors.get(_LAST, 0), batches, operations, list(attachments))

    def batch(self, member: int, height: int, epoch: int = 0) -> bytes | None:
        """One stored batch."""
        rows = self._database.execute(
            "SELECT raw FROM vote_batches WHERE member = ? AND height = ?", (_log(member, epoch), height)
        )
        return rows[0][0] if rows else None

    def batches(self, member: int, first: int, limit: int, epoch: int = 0) -> list[bytes]:
        """Up to `limit` stored batches of one validator from height `first` on."""
        rows = self._database.execute(
            "SELECT raw FROM vote_batches WHERE member = ? AND height >= ? ORDER BY height LIMIT ?",
            (_log(member, epoch), first, limit),
        )
        return [raw for (raw,) in rows]

    def find(self, id_: bytes) -> Found | None:
        """A stored decided operation by its id."""
        rows = self._database.execute(
            """SELECT n, signed, certificate, places, epoch FROM ledger_operations JOIN vote_places USING (n)
               WHERE substr(id, 1, 8) = ? AND id = ?""",
            (id_[:8], id_),
        )
        if not rows:
            return None
        n, raw, certificate, places, epoch = rows[0]
        signed = self._store.signed(n, id_, raw)
        return Found(signed, decode_places(places), certificate, epoch)

    def decided_at(self, object_: bytes, seq: int) -> bytes | None:
        """The id of the stored operation that was decided in this slot; None if there is none (any more)."""
        sql = "SELECT id FROM ledger_operations WHERE object = ? AND seq = ?"
        rows = self._database.execute(sql, (object_, seq))
        return rows[0][0] if rows else None

    def attachment(self, id_: bytes) -> bytes | None:
        """A stored attachment by its id."""
        rows = self._database.execute("SELECT raw FROM vote_attachments WHERE id = ?", (id_,))
        return rows[0][0] if rows else None

    def heads(self) -> dict[bytes, tuple[int, bytes]]:
        """Every object that lives, or ended in this epoch, with (seq, id) of the last stored operation on it.

        Locks that had ended when the epoch began are left out, by those that keep their history too: the
        frontiers of pruned nodes and of archives are the same.
        """
        opened = self._database.execute(
            "SELECT coalesce(max(n), 0) FROM ledger_operations WHERE object = ? AND seq % 2 = 0",
            (self._store.network,),
        )[0][0]
        rows = self._database.execute(
            """SELECT object, MAX(seq), id FROM ledger_operations
               WHERE n > ? OR object NOT IN (SELECT id FROM ledger_ended) GROUP BY object""",
            (opened,),
        )
        return {object_: (seq, id_) for object_, seq, id_ in rows}

    def evidence(self) -> list[Evidence]:
        """All evidence, oldest first."""
        rows = self._database.execute("SELECT evidence FROM vote_evidence ORDER BY n")
        return [_read_evidence(raw) for (raw,) in rows]

    def _split(self, joined: bytes) -> list[SignedOperation]:
        operations, at = [], 0
        try:
            while at < len(joined):
                (length,) = _LENGTH.unpack_from(joined, at)
                at += _LENGTH.size + length
                operations.append(_read_signed(joined[at - length : at]))
        except (Error, struct.error) as exc:
            raise StorageError(f"{self._database.path} is damaged: an operation cannot be read") from exc
        return operations


def _join(operations: list[SignedOperation]) -> bytes:
    parts = []
    for operation in operations:
        raw = encode(operation)
        parts += [_LENGTH.pack(len(raw)), raw]
    return b"".join(parts)


def _log(member: int, epoch: int) -> int:
    """A member's log of an epoch as one number; in epoch 0 it is the member's place."""
    return epoch << 8 | member
