"""A `Database` whose writes are collected and committed together, away from the event loop.

Group commit: whatever is put while one fsync runs goes into the next, so 4,000 receipts a second cost as
many fsyncs as the disk can do, and no more. `synced` returns when all that was put before is durable.
This module knows no table; whoever opens it brings the schema.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import trio

from ainp2p.errors import Closed, StorageError
from ainp2p.ledger.database import Database
from ainp2p.protocol.storage import FILES, Storage

Row = tuple[Any, ...]
T = TypeVar("T")

UNWRITTEN_MAX = 256  # writes that nobody waits for, before they are written all the same


class Disk:
    """One open database; `open_disk` makes it."""

    def __init__(self, database: Database, *, instant: bool = False) -> None:
        """`instant`: whoever waits for a commit does it, and what nobody waits for is written with it."""
        self._database, self._instant = database, instant
        self._queue: dict[Hashable, tuple[str, Row]] = {}
        self._reads: list[_Read] = []
        self._put = 0  # writes handed over, and how many of them are durable
        self._synced = 0
        self._failed: StorageError | None = None
        self._closed = False
        self._work = trio.Event()
        self._progress = trio.Event()

    def put(self, sql: str, params: Row, *, replaces: Hashable = None) -> None:
        """Write at the next commit. Of those with the same `replaces` only the last is written.

        Raises:
            StorageError: an earlier write failed.
        """
        self._check()
        self._put += 1
        if replaces is not None:
            self._queue.pop(replaces, None)
        self._queue[self._put if replaces is None else replaces] = (sql, params)
        if not self._instant or len(self._queue) >= UNWRITTEN_MAX:
            self._work.set()

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
            await self._progress.wait()

    async def read(self, sql: str, params: Row = ()) -> list[Row]:
        """Rows, seen after all that was put before."""
        self._check()
        read = _Read(sql, params)
        self._reads.append(read)
        self._work.set()
        while read.rows is None:
            self._check()
            await self._progress.wait()
        return read.rows

    def read_now(self, sql: str, params: Row = ()) -> list[Row]:
        """Rows, in the event loop: for start-up, before anything is put."""
        return self._database.execute(sql, params)

    def _check(self) -> None:
        if self._failed is not None:
            raise StorageError(str(self._failed)) from self._failed
        if self._closed:
            raise Closed(f"{self._database.path} is closed")

    async def _run(self, run: Callable[[Callable[[], None]], Any]) -> None:
        """Commit what is put, as one transaction at a time, until cancelled."""
        while True:
            await self._work.wait()
            self._work = trio.Event()
            if self._instant:
                self._commit_now()
                continue
            with trio.CancelScope(shield=True):  # what was taken from the queue is finished
                await self._commit(run)
            await trio.lowlevel.checkpoint()

    async def _commit(self, run: Callable[[Callable[[], None]], Any]) -> None:
        writes, reads, put = list(self._queue.values()), self._reads, self._put
        self._queue, self._reads = {}, []
        if self._failed is None:
            try:
                await run(lambda: self._write(writes, reads))
                self._synced = put
            except StorageError as exc:
                self._failed = exc
        progress, self._progress = self._progress, trio.Event()
        progress.set()

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
            progress, self._progress = self._progress, trio.Event()
            progress.set()

    def _write(self, writes: Sequence[tuple[str, Row]], reads: Sequence[_Read]) -> None:
        if writes:
            with self._database.transaction():
                for sql, params in writes:
                    self._database.execute(sql, params)
        for read in reads:
            read.rows = self._database.execute(read.sql, read.params)


class _Read:
    def __init__(self, sql: str, params: Row) -> None:
        self.sql, self.params = sql, params
        self.rows: list[Row] | None = None


@asynccontextmanager
async def open_disk(
    path: Path | None,
    schema: str,
    storage: Storage = FILES,
) -> AsyncIterator[Disk]:
    """Open a database for this process alone (None: in memory); leaving the block writes what was put.

    Args:
        schema: statements that make the tables where they are absent.

    Raises:
        StorageError: it cannot be opened, is damaged, or another process has it open.
    """
    database = open_database(path, storage)
    disk = Disk(database, instant=storage.instant)
    caught: Exception | None = None
    try:
        _make_tables(database, schema)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(disk._run, storage.run)
            try:
                yield disk
            except Exception as exc:  # the caller's, not ours: keep it out of the group
                caught = exc
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await disk._commit(storage.run)
        disk._closed = True
        database.close()
    if caught is not None:
        raise caught


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


def _make_tables(database: Database, schema: str) -> None:
    with database.transaction():
        for statement in filter(str.strip, schema.split(";")):
            database.execute(statement)
