"""One SQLite file that keeps its promises: WAL, synchronous = FULL, one owner, no write after a failed one.

`Database` is what the ledger's stores (decided operations, vote log, sign-once journal, receipts) are built
on; each makes its own tables. Several may share one file, and then one transaction. Blocking: a commit
waits for the disk, so shells with other work call it from a worker thread, one at a time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ainp2p.errors import StorageError
from ainp2p.protocol.storage import Connection, connect_sqlite

Row = tuple[Any, ...]
# A parameter of many rows: of `bytes` sqlite3 asks each time whether somebody adapts them, which costs more
# than to store them; a `bytearray` it takes as it is.
blob = bytearray
# One process at a time (and so no shared-memory file), a write-ahead log, an fsync for each commit. What is
# deleted need not be overwritten (some distributions' SQLite does): keys are in files of their own.
PRAGMAS = ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "secure_delete=OFF", "synchronous=FULL")


class Database:
    """An open database file, owned by this process alone until `close`.

    Attributes:
        failed: None, or why nothing is written any more. After a failed write or fsync nobody knows what
            is on the disk (a later fsync may succeed although the pages are lost), so it is not retried;
            reading goes on. Open it again to find out what was kept.
    """

    def __init__(self, path: Path, *, connect: Callable[[str], Connection] = connect_sqlite) -> None:
        """Open `path`, or create it.

        Raises:
            StorageError: no database, damaged, unreachable, or in use by another process.
        """
        self.path = path
        self.failed: str | None = None
        self._writing = self._doomed = False
        connection: Connection | None = None
        try:
            connection = connect(str(path))
            _prepare(connection)
        except sqlite3.Error as exc:
            if connection is not None:
                connection.close()
            raise StorageError(f"cannot open {path}: {_why(exc)}") from exc
        self._connection = connection

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run one statement and return its rows. What writes belongs into a `transaction`.

        Raises:
            StorageError: it cannot be read (or written).
        """
        try:
            return list(self._connection.execute(sql, parameters).fetchall())
        except sqlite3.Error as exc:
            raise self._broken(exc) from exc

    def executemany(self, sql: str, rows: Collection[Sequence[Any]]) -> None:
        """Run one statement for each row, inside a `transaction`; without rows nothing is done.

        Raises:
            StorageError: it cannot be written.
        """
        if not rows:  # as nearly always: a write has a dozen tables that it may concern
            return
        try:
            self._connection.executemany(sql, rows)
        except sqlite3.Error as exc:
            raise self._broken(exc) from exc

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the block or nothing; on disk when the block ends. Inner transactions join the outer one.

        Raises:
            StorageError: it could not be written; the database takes no more writes (`failed`).
        """
        if self.failed is not None:
            raise StorageError(f"{self.path} takes no more writes: {self.failed}; restart to recover")
        if self._writing:
            try:
                yield
            except BaseException:
                self._doomed = True  # half of the inner block was done; the outer one may not keep it
                raise
            return
        self._run("BEGIN IMMEDIATE")
        self._writing, self._doomed = True, False
        try:
            yield
            if self.failed is not None or self._doomed:
                raise StorageError(f"{self.path}: {self.failed or 'a part of the transaction failed'}")
            self._run("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise
        finally:
            self._writing = False

    def close(self) -> None:
        """Release the file. A second call does nothing."""
        with suppress(sqlite3.Error):
            self._connection.close()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, sql: str) -> None:
        try:
            self._connection.execute(sql)
        except sqlite3.Error as exc:
            self.failed = _why(exc)
            raise self._broken(exc) from exc

    def _broken(self, exc: sqlite3.Error) -> StorageError:
        if self._writing:
            self.failed = _why(exc)
        return StorageError(f"{self.path}: {_why(exc)}")


def _prepare(connection: Connection) -> None:
    for pragma in PRAGMAS:
        connection.execute(f"PRAGMA {pragma}").fetchall()
    # Take the lock now: a second process must fail at the door, not at its first vote.
    connection.execute("BEGIN EXCLUSIVE")
    connection.execute("COMMIT")


def _why(exc: sqlite3.Error) -> str:
    text = str(exc) or type(exc).__name__
    return "in use by another process" if "locked" in text else text
