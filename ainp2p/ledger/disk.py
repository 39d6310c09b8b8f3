"""A SQLite database whose writes are collected and committed together, away from the event loop.

Group commit: whatever is put while one fsync runs goes into the next, so 4,000 receipts a second cost as
many fsyncs as the disk can do, and no more. `synced` returns when all that was put before is durable
(WAL, synchronous = FULL). After one failed write nothing is written any more: a disk that lied once about
an fsync is not asked again. This module knows no table; whoever opens it brings the schema.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import trio

from ainp2p.errors import Closed, StorageError

Row = tuple[Any, ...]
T = TypeVar("T")


async def run_inline(job: Callable[[], T]) -> T:
    """Run disk work in the event loop itself: for simulations, whose clock must not run meanwhile."""
    await trio.lowlevel.checkpoint()
    return job()


async def run_in_thread(job: Callable[[], T]) -> T:
    """Run disk work in a thread; it is waited for even when cancelled, so that no write is half known."""
    return await trio.to_thread.run_sync(job)


class Disk:
    """One open database; `open_disk` makes it."""

    def __init__(self, connection: sqlite3.Connection, name: str) -> None:
        self._connection, self._name = connection, name
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
        self._work.set()

    async def synced(self) -> None:
        """Return once all that was put before is durable.

        Raises:
            StorageError: it never will be.
        """
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
        with _translated(self._name):
            return self._connection.execute(sql, params).fetchall()

    def _check(self) -> None:
        if self._failed is not None:
            raise StorageError(str(self._failed)) from self._failed
        if self._closed:
            raise Closed(f"{self._name} is closed")

    async def _run(self, run: Callable[[Callable[[], None]], Any]) -> None:
        """Commit what is put, as one transaction at a time, until cancelled."""
        while True:
            await self._work.wait()
            self._work = trio.Event()
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

    def _write(self, writes: Sequence[tuple[str, Row]], reads: Sequence[_Read]) -> None:
        with _translated(self._name):
            if writes:
                self._connection.execute("BEGIN IMMEDIATE")
                for sql, params in writes:
                    self._connection.execute(sql, params)
                self._connection.execute("COMMIT")
            for read in reads:
                read.rows = self._connection.execute(read.sql, read.params).fetchall()


class _Read:
    def __init__(self, sql: str, params: Row) -> None:
        self.sql, self.params = sql, params
        self.rows: list[Row] | None = None


class _translated:  # noqa: N801  # reads as a word in `with _translated(…)`
    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        if isinstance(exc, sqlite3.Error):
            raise StorageError(f"{self._name}: {exc}; it is left as it is, nothing more is written") from exc


@asynccontextmanager
async def open_disk(
    path: Path | None,
    schema: str,
    *,
    run: Callable[[Callable[[], Any]], Any] = run_in_thread,
) -> AsyncIterator[Disk]:
    """Open a database for this process alone (None: in memory); leaving the block writes what was put.

    Args:
        schema: statements that make the tables where they are absent.

    Raises:
        StorageError: it cannot be opened, is damaged, or another process has it open.
    """
    name = "the database in memory" if path is None else str(path)
    connection = _connect(path, schema, name)
    disk = Disk(connection, name)
    caught: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(disk._run, run)
            try:
                yield disk
            except Exception as exc:  # the caller's, not ours: keep it out of the group
                caught = exc
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await disk._commit(run)
        disk._closed = True
        with suppress(sqlite3.Error):
            connection.close()
    if caught is not None:
        raise caught


def _connect(path: Path | None, schema: str, name: str) -> sqlite3.Connection:
    try:
        if path is not None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite's other files take its mode
        connection = sqlite3.connect(
            path or ":memory:", timeout=0, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN EXCLUSIVE")
            for statement in filter(str.strip, schema.split(";")):
                connection.execute(statement)
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
    except (sqlite3.Error, OSError) as exc:
        hint = ": another process has it open" if "locked" in str(exc) else ""
        raise StorageError(f"{name} cannot be opened ({exc}){hint}") from exc
    return connection
