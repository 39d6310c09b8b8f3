"""Tables on a simulated disk that are not made before somebody reads them.

Most wallets and vaults of a world are written and never read again: their process never dies, and nobody
asks for their history. So what is written is kept as it came, a statement for each, in order; of those that
say all about a row, the last. That is what `ledger.disk.Disk` keeps as well while a commit takes long.

The first read, after a crash or a restart, makes the SQLite database that these statements come to, and from
then on it is one. So does a statement that a constraint might refuse, so that SQLite refuses it, and not we.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Hashable, Sequence
from functools import cache, lru_cache
from typing import Any

from ainp2p.errors import StorageError
from ainp2p.protocol.storage import Schema, Write, connect_sqlite

Row = tuple[Any, ...]
STATEMENTS_MAX = 2_048  # that are kept; a database of more is smaller
_PAGE = "PRAGMA page_size = 512"  # there are thousands of them, and nearly all are small


class Kept:
    """One database of one machine, for as long as the machine is there."""

    def __init__(self, schema: Schema) -> None:
        """Empty tables."""
        self.schema = schema
        self._written: dict[Hashable, Write] = {}
        self._slots: set[Hashable] = set()
        self._names = 0  # of statements that nothing replaces
        self._made: sqlite3.Connection | None = None

    def write(self, writes: Sequence[Write]) -> None:
        """All of them or none.

        Raises:
            sqlite3.Error: a constraint refuses one.
        """
        if self._made is None and (
            len(self._written) + len(writes) > STATEMENTS_MAX or self._may_be_refused(writes)
        ):
            self.made()
        if self._made is not None:
            _run(self._made, writes)
            return
        for each in writes:
            self._keep(each)

    def read(self, sql: str, params: Row = ()) -> list[Row]:
        """Rows."""
        if self._made is None and not self._written:
            return _rows_of_none(self.schema, sql, params)
        return list(self.made().execute(sql, params).fetchall())

    def made(self) -> sqlite3.Connection:
        """The database itself."""
        if self._made is None:
            self._made = connect_sqlite(":memory:")
            self._made.deserialize(_empty_bytes(self.schema))
            _run(self._made, list(self._written.values()))
            self._written, self._slots = {}, set()
        return self._made

    def become(self, image: bytes) -> None:
        """Be what `made().serialize()` gave once."""
        self._made = connect_sqlite(":memory:")
        self._made.deserialize(image)
        self._written, self._slots = {}, set()

    def close(self) -> None:
        """Free everything."""
        if self._made is not None:
            self._made.close()

    def _may_be_refused(self, writes: Sequence[Write]) -> bool:
        seen: set[Hashable] = set()
        for each in writes:
            if each.fresh and (each.slot in self._slots or each.slot in seen):
                return True
            if each.slot is not None:
                seen.add(each.slot)
        return False

    def _keep(self, write: Write) -> None:
        if write.slot is not None:
            self._slots.add(write.slot)
        if write.replaces is None:
            self._names += 1
            self._written[self._names] = write
            return
        self._written.pop(write.replaces, None)
        if not write.removes:  # from tables that were empty: there is nothing else to remove
            self._written[write.replaces] = write


class KeptHandle:
    """`Tables` as one life of a process has them: they die with it."""

    def __init__(self, kept: Kept, name: object, is_full: Callable[[], bool], on_close: Callable[[], Any]):
        self._kept: Kept | None = kept
        self._name, self._is_full, self._on_close = name, is_full, on_close
        self._failed = ""

    def write(self, writes: Sequence[Write]) -> None:
        """All of them or none."""
        if self._failed:
            raise StorageError(f"{self._name} takes no more writes: {self._failed}; restart to recover")
        try:
            if self._kept is not None and self._is_full():
                raise sqlite3.OperationalError("database or disk is full")
            self._there().write(writes)
        except sqlite3.Error as exc:
            self._failed = str(exc)
            raise StorageError(f"{self._name}: {exc}") from exc

    def read(self, sql: str, params: Row = ()) -> list[Row]:
        """Rows."""
        try:
            return self._there().read(sql, params)
        except sqlite3.Error as exc:
            raise StorageError(f"{self._name}: {exc}") from exc

    def close(self) -> None:
        """Let the next one have them; from here on nothing reaches them."""
        if self._kept is not None:
            self._kept = None
            self._on_close()

    crash = close

    def _there(self) -> Kept:
        if self._kept is None:
            raise sqlite3.OperationalError("disk I/O error: the machine has crashed, or the file is closed")
        return self._kept


def _run(connection: sqlite3.Connection, writes: Sequence[Write]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for each in writes:
            connection.execute(each.sql, each.params)
    except sqlite3.Error:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


@cache
def _empty(schema: Schema) -> sqlite3.Connection:
    connection = connect_sqlite(":memory:")
    connection.execute(_PAGE)
    connection.execute("BEGIN IMMEDIATE")
    schema.make(lambda sql: connection.execute(sql).fetchall())
    connection.execute("COMMIT")
    return connection


@cache
def _empty_bytes(schema: Schema) -> bytes:
    image: bytes = _empty(schema).serialize()
    return image


@lru_cache(maxsize=256)
def _rows_of_none(schema: Schema, sql: str, params: Row) -> list[Row]:
    """What a query finds in empty tables; nobody may change the list."""
    return _empty(schema).execute(sql, params).fetchall()
