"""Where what must survive a crash is kept: files, or a simulation's disk.

Nothing above the Network opens a file by itself: it is given a `Storage` with its `Context`. What is kept
are SQLite databases, and a few small files that are replaced whole.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import trio

T = TypeVar("T")


class Connection(Protocol):
    """As much of `sqlite3.Connection` as is used, without implicit transactions; errors are sqlite3's."""

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Any:
        """Run one statement; the result has `fetchall`."""

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> Any:
        """Run one statement for each row."""

    def close(self) -> None:
        """Release the file."""


class Storage(Protocol):
    """A place for databases and small files, named by paths."""

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


def connect_sqlite(path: str) -> Connection:
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
