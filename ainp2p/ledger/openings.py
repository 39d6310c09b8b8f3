"""Which SPEND opened a Lock: on disk, so that memory does not grow with every Lock that there ever was.

A Lock's id is a hash of that operation's, from which nobody finds the way back; whoever asks for a Lock gets
both. Written in the store's transactions; a Lock that ended before a checkpoint is dropped by `pruning`.
"""

from __future__ import annotations

from collections.abc import Iterable

from ainp2p.ledger.database import Database
from ainp2p.ledger.rules.operations import ParsedOperation, SignedOperation, Spend, lock_id, parse
from ainp2p.protocol.codec import fast_decoder

_PAGE = 1_000  # operations
_read_signed = fast_decoder(SignedOperation)


class Openings:
    """The table of one `Store`'s database."""

    def __init__(self, database: Database) -> None:
        """Use the table, or make it from the operations that are stored.

        Raises:
            StorageError: it cannot be used.
        """
        self._database = database
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'ledger_openings'"):
            with database.transaction():
                self._create()

    def put(self, operations: Iterable[ParsedOperation]) -> None:
        """Remember the Locks that these open, inside a transaction."""
        self._database.executemany(
            "INSERT OR REPLACE INTO ledger_openings VALUES (?, ?)",
            [(lock, parsed.id) for parsed in operations for lock in opened(parsed)],
        )

    def of(self, lock: bytes) -> bytes | None:
        """The id of the operation that opened a Lock; None if it is not known here (any more)."""
        rows = self._database.execute("SELECT operation FROM ledger_openings WHERE lock = ?", (lock,))
        return rows[0][0] if rows else None

    def drop(self, locks: Iterable[bytes]) -> None:
        """Forget these, inside a transaction."""
        self._database.executemany("DELETE FROM ledger_openings WHERE lock = ?", [(id_,) for id_ in locks])

    def _create(self) -> None:
        self._database.execute(
            "CREATE TABLE ledger_openings (lock BLOB PRIMARY KEY, operation BLOB NOT NULL) WITHOUT ROWID"
        )
        n, sql = 0, "SELECT n, signed FROM ledger_operations WHERE n > ? ORDER BY n LIMIT ?"
        while rows := self._database.execute(sql, (n, _PAGE)):
            self.put(parse(_read_signed(raw)) for _, raw in rows)
            n = rows[-1][0]


def opened(parsed: ParsedOperation) -> list[bytes]:
    """The ids of the Locks that an operation opens."""
    body = parsed.operation.body
    return [lock_id(parsed.id, i) for i in range(len(body.locks))] if isinstance(body, Spend) else []


__all__ = ["Openings", "opened"]
