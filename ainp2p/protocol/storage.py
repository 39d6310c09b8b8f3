"""Where what must survive a crash is kept: files, or a simulation's disk.

Nothing above the Network opens a file by itself: it is given a `Storage` with its `Context`. What is kept
are SQLite databases, and a few small files that are replaced whole.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import trio

T = TypeVar("T")
Execute = Callable[[str], list[Any]]  # runs a statement, and returns its rows


class Connection(Protocol):
    """As much of `sqlite3.Connection` as is used, without implicit transactions; errors are sqlite3's."""

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Any:
        """Run one statement; the result has `fetchall`."""

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> Any:
        """Run one statement for each row."""

    def close(self) -> None:
        """Release the file."""


class Write(NamedTuple):
    """One statement that changes rows.

    Attributes:
        replaces: of writes with the same one only the last counts: it says all about what the others did.
        removes: it does nothing but delete what those with the same `replaces` have put.
        slot: what no two rows may be for, by a constraint of the table.
        fresh: the constraint fails if something is there for `slot` already.
    """

    sql: str
    params: tuple[Any, ...]
    replaces: Hashable = None
    removes: bool = False
    slot: Hashable = None
    fresh: bool = False


class Schema(NamedTuple):
    """The tables of one kind of database.

    Attributes:
        text: statements, with ";" between them, that make the tables where they are absent.
        upgrade: makes of an earlier release's tables what the text says.
    """

    text: str
    upgrade: Callable[[Execute], object] | None = None

    def make(self, execute: Execute) -> None:
        """Make the tables, inside a transaction."""
        for statement in filter(str.strip, self.text.split(";")):
            execute(statement)
        if self.upgrade is not None:
            self.upgrade(execute)


class Tables(Protocol):
    """The tables of one schema, for one process: what is behind a `ledger.disk.Disk`."""

    def write(self, writes: Sequence[Write]) -> None:
        """All of them or none; durable on return.

        Raises:
            StorageError: they could not be written; nothing is written any more.
        """

    def read(self, sql: str, params: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Rows.

        Raises:
            StorageError: they cannot be read.
        """

    def close(self) -> None:
        """Let another process have them."""


class Storage(Protocol):
    """A place for databases and small files, named by paths."""

    def tables(self, path: Path, schema: Schema) -> Tables | None:
        """Tables kept in a way of this storage's own; None: in a SQLite database, as `connect` opens it.

        Raises:
            OSError, sqlite3.Error: they cannot be opened.
        """

    def connect(self, path: Path) -> Connection:
        """Open a SQLite database, made where absent, readable by its owner only.

        Raises:
            OSError, sqlite3.Error: it cannot be opened.
        """

    async def run(self, job: Callable[[], T]) -> T:
        """Do disk work; waited for even when cancelled, so that no write is half known."""

    @property
    def instant(self) -> bool:
        """Whether work takes no time and blocks nobody, so that it may be done where it is asked for."""

    def read(self, path: Path) -> bytes | None:
        """A small file; None if there is none.

        Raises:
            OSError: it cannot be read.
        """

    def write(self, path: Path, data: bytes) -> None:
        """Replace a small file, whole or not at all; durable on return.

        Raises:
            OSError: it cannot be written.
        """


async def run_inline(job: Callable[[], T]) -> T:
    """Run disk work in the event loop itself: for what does not block, and where a clock must not run on."""
    await trio.lowlevel.checkpoint()
    return job()


async def run_in_thread(job: Callable[[], T]) -> T:
    """Run disk work in a thread; it is waited for even when cancelled, so that no write is half known."""
    return await trio.to_thread.run_sync(job)


def connect_sqlite(path: str) -> sqlite3.Connection:
    """The standard library's connection; any thread may use it, one at a time."""
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)


@dataclass(frozen=True, slots=True)
class Files:
    """The real disk; `runner` does the work that waits for it."""

    runner: Callable[[Callable[[], Any]], Awaitable[Any]] = run_in_thread

    def connect(self, path: Path) -> Connection:
        """Open a database file, in a directory that is made where absent."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite's other files take its mode
        return connect_sqlite(str(path))

    def tables(self, path: Path, schema: Schema) -> Tables | None:
        """In a SQLite file."""
        return None

    @property
    def instant(self) -> bool:
        """Whether the runner does the work in the event loop."""
        return self.runner is run_inline

    async def run(self, job: Callable[[], T]) -> T:
        """Do disk work by the runner."""
        result: T = await self.runner(job)
        return result

    def read(self, path: Path) -> bytes | None:
        """The file's bytes."""
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def write(self, path: Path, data: bytes) -> None:
        """Write beside it, fsync, rename."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".new")
        handle = os.open(beside, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)


FILES = Files()
INLINE = Files(run_inline)  # no thread: for tests on a virtual clock
