"""Tables whose writes are collected and committed together, away from the event loop.

Group commit: whatever is put while one fsync runs goes into the next, so 4,000 receipts a second cost as
many fsyncs as the disk can do, and no more. `synced` returns when all that was put before is durable.
This module knows no table; whoever opens it brings the schema.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from ainp2p.errors import Closed, StorageError
from ainp2p.ledger.database import Database
from ainp2p.protocol.storage import FILES, Schema, Storage, Tables, Write

Row = tuple[Any, ...]
Run = Callable[[Callable[[], None]], Awaitable[Any]]

UNWRITTEN_MAX = 256  # writes that nobody waits for, before they are written all the same


class Disk:
    """One open database; `open_disk` makes it."""

    def __init__(
        self, tables: Tables, where: object, nursery: trio.Nursery, run: Run, *, instant: bool = False
    ) -> None:
        """`instant`: whoever waits for a commit does it, and what nobody waits for is written with it."""
        self._tables, self._where, self._instant = tables, where, instant
        self._nursery, self._run = nursery, run
        self._queue: dict[Hashable, Write] = {}
        self._reads: list[_Read] = []
        self._put = 0  # writes handed over, and how many of them are durable
        self._synced = 0
        self._failed: StorageError | None = None
        self._closed = self._working = False
        self._progress: trio.Event | None = None  # somebody waits for it

    def put(
        self,
        sql: str,
        params: Row,
        *,
        replaces: Hashable = None,
        removes: bool = False,
        slot: Hashable = None,
        fresh: bool = False,
    ) -> None:
        """Write at the next commit (`storage.Write`). Of those with the same `replaces` only the last is.

        Raises:
            StorageError: an earlier write failed.
        """
        self._check()
        self._put += 1
        if replaces is not None:
            self._queue.pop(replaces, None)
        name = self._put if replaces is None else replaces
        self._queue[name] = Write(sql, params, replaces, removes, slot, fresh)
        if not self._instant or len(self._queue) >= UNWRITTEN_MAX:
            self._work()

    async def synced(self) -> None:
        """Return once all that was put before is durable.

        Raises:
            StorageError: it never will be.
        """
        if self._instant and self._synced < self._put:
            self._check()
            self._commit_now()
            self._check()
            await trio.lowlevel.checkpoint()
            return
        wanted = self._put
        while self._synced < wanted:
            self._check()
            await self._next_commit()

    async def read(self, sql: str, params: Row = ()) -> list[Row]:
        """Rows, seen after all that was put before."""
        self._check()
        read = _Read(sql, params)
        self._reads.append(read)
        self._work()
        while read.rows is None:
            self._check()
            await self._next_commit()
        return read.rows

    def read_now(self, sql: str, params: Row = ()) -> list[Row]:
        """Rows, in the event loop: for start-up, before anything is put."""
        return self._tables.read(sql, params)

    def _check(self) -> None:
        if self._failed is not None:
            raise StorageError(str(self._failed)) from self._failed
        if self._closed:
            raise Closed(f"{self._where} is closed")

    async def _next_commit(self) -> None:
        if self._progress is None:
            self._progress = trio.Event()
        await self._progress.wait()

    def _work(self) -> None:
        """See to it that what is put will be committed."""
        if not self._working:
            self._working = True
            self._nursery.start_soon(self._commit_all)

    async def _commit_all(self) -> None:
        """Commit what is put, as one transaction at a time, until there is nothing left."""
        try:
            while self._queue or self._reads:
                if self._instant:
                    self._commit_now()
                    continue
                with trio.CancelScope(shield=True):  # what was taken from the queue is finished
                    await self._commit()
                if self._queue or self._reads:
                    await trio.lowlevel.checkpoint()
        finally:
            self._working = False

    async def _commit(self) -> None:
        writes, reads, put = list(self._queue.values()), self._reads, self._put
        self._queue, self._reads = {}, []
        if self._failed is None:
            try:
                await self._run(lambda: self._write(writes, reads))
                self._synced = put
            except StorageError as exc:
                self._failed = exc
        self._progressed()

    def _commit_now(self) -> None:
        """As `_commit`, without a checkpoint: nothing else can be written meanwhile."""
        writes, reads = list(self._queue.values()), self._reads
        self._queue, self._reads = {}, []
        if self._failed is None:
            try:
                self._write(writes, reads)
                self._synced = self._put
            except StorageError as exc:
                self._failed = exc
        if reads:
            self._progressed()

    def _progressed(self) -> None:
        progress, self._progress = self._progress, None
        if progress is not None:
            progress.set()

    def _write(self, writes: Sequence[Write], reads: Sequence[_Read]) -> None:
        if writes:
            self._tables.write(writes)
        for read in reads:
            read.rows = self._tables.read(read.sql, read.params)


class _InSqlite:
    """Tables in a database of our own, on whatever disk."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def write(self, writes: Sequence[Write]) -> None:
        with self._database.transaction():
            for each in writes:
                self._database.execute(each.sql, each.params)

    def read(self, sql: str, params: Row = ()) -> list[Row]:
        return self._database.execute(sql, params)

    def close(self) -> None:
        self._database.close()


class _Read:
    def __init__(self, sql: str, params: Row) -> None:
        self.sql, self.params = sql, params
        self.rows: list[Row] | None = None


@asynccontextmanager
async def open_disk(
    path: Path | None,
    schema: Schema | str,
    storage: Storage = FILES,
) -> AsyncIterator[Disk]:
    """Open a database for this process alone (None: in memory); leaving the block writes what was put.

    Args:
        schema: its tables, or the statements that make them where they are absent.

    Raises:
        StorageError: it cannot be opened, is damaged, or another process has it open.
    """
    tables = _open_tables(path, Schema(schema) if isinstance(schema, str) else schema, storage)
    disk: Disk | None = None
    caught: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            disk = Disk(tables, path or ":memory:", nursery, storage.run, instant=storage.instant)
            try:
                yield disk
            except Exception as exc:  # the caller's, not ours: keep it out of the group
                caught = exc
            finally:
                disk._closed = True  # what comes from now on would have nobody to write it
            nursery.cancel_scope.cancel()
    finally:
        if disk is not None:
            with trio.CancelScope(shield=True):
                await disk._commit()
        tables.close()
    if caught is not None:
        raise caught


def _open_tables(path: Path | None, schema: Schema, storage: Storage) -> Tables:
    if path is not None:
        try:
            tables = storage.tables(path, schema)
        except (OSError, sqlite3.Error) as exc:
            raise StorageError(f"cannot open {path}: {exc}") from exc
        if tables is not None:
            return tables
    database = open_database(path, storage)
    try:
        with database.transaction():
            schema.make(database.execute)
    except BaseException:
        database.close()
        raise
    return _InSqlite(database)


def open_database(path: Path | None, storage: Storage = FILES) -> Database:
    """A database for its owner only, in a directory that is made where absent; None: in memory.

    Raises:
        StorageError: it cannot be opened, is damaged, or another process has it open.
    """
    if path is None:
        return Database(Path(":memory:"))
    try:
        return Database(path, connect=lambda text: storage.connect(Path(text)))
    except OSError as exc:
        raise StorageError(f"cannot open {path}: {exc.strerror}") from exc
