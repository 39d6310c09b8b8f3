"""A simulated disk: databases and small files in memory, which outlive the process that uses them.

Work takes virtual time, as an fsync does; a crash in that time loses it or, if only the process died, lets
the operating system finish it. A process that has crashed may still run its clean-up: nothing that it does
then reaches the disk. Databases are real SQLite, so that the same SQL runs as on files.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import trio

from ainp2p.errors import StorageError
from ainp2p.protocol.storage import Connection, Schema, Tables, connect_sqlite
from ainp2p.simulation.core.clock import Timer, VirtualClock
from ainp2p.simulation.kept import Kept, KeptHandle

T = TypeVar("T")

FSYNC_S = 0.005  # FIELD: an fsync takes 3 to 7 ms


class Disk:
    """What one machine keeps. `storage()` is what one life of its process sees of it."""

    def __init__(self, *, fsync_s: float = FSYNC_S) -> None:
        """`fsync_s`: virtual seconds that each piece of disk work takes; 0: none."""
        self.fsync_s = fsync_s
        self.full = False  # nothing can be written any more
        self.files: dict[Path, bytes] = {}
        self.databases: dict[Path, sqlite3.Connection] = {}
        self.tables: dict[Path, Kept] = {}
        self.writes = 0
        self._life: SimStorage | None = None

    def storage(self) -> SimStorage:
        """The disk as a new process sees it; the one before must have crashed or closed its databases."""
        self._life = SimStorage(self)
        return self._life

    def crash(self, *, lose_unsynced: bool) -> None:
        """The process is gone; what it had handed over and was not synced is lost with the power, or done."""
        if self._life is not None:
            self._life._crash(lose_unsynced)
            self._life = None

    def database(self, path: Path) -> sqlite3.Connection:
        """What is in a database, whoever has it open."""
        return self.tables[path].made() if path in self.tables else self.databases[path]

    def image(self) -> dict[Path, bytes]:
        """A copy of all databases."""
        paths = [*self.databases, *self.tables]
        return {path: self.database(path).serialize() for path in paths}

    def restore(self, image: dict[Path, bytes]) -> None:
        """Put an old copy back, while no process runs; what is not in it is empty."""
        for path in self.databases:
            connection = self.databases[path] = connect_sqlite(":memory:")
            if path in image:
                connection.deserialize(image[path])
        for path, kept in list(self.tables.items()):
            self.tables[path] = Kept(kept.schema)
            if path in image:
                self.tables[path].become(image[path])

    def close(self) -> None:
        """Free everything."""
        for connection in self.databases.values():
            connection.close()
        for kept in self.tables.values():
            kept.close()
        self.databases.clear()
        self.tables.clear()


class SimStorage:
    """One life of a process on a `Disk`: a `Storage`."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._open: dict[Path, _Handle | KeptHandle] = {}
        self._pending: list[Callable[[], Any]] = []
        self._crashed = False
        self._writing: dict[trio.lowlevel.Task, Timer] = {}

    def connect(self, path: Path) -> Connection:
        """Open a database; one life opens each path once at a time."""
        self._check()
        if path in self._open:
            raise sqlite3.OperationalError("database is locked")
        inner = self._disk.databases.get(path)
        if inner is None:
            inner = self._disk.databases[path] = connect_sqlite(":memory:")
        handle = self._open[path] = _Handle(inner, self._disk, lambda: self._open.pop(path, None))
        return handle

    def tables(self, path: Path, schema: Schema) -> Tables:
        """Open tables, which are no database before somebody reads them."""
        self._check()
        if path in self._open:
            raise sqlite3.OperationalError("database is locked")
        kept = self._disk.tables.get(path)
        if kept is None:
            kept = self._disk.tables[path] = Kept(schema)
        elif kept.schema != schema:
            raise sqlite3.DatabaseError("there are other tables in this file")
        disk = self._disk
        handle = KeptHandle(kept, path, lambda: disk.full, lambda: self._open.pop(path, None))
        self._open[path] = handle
        return handle

    @property
    def instant(self) -> bool:
        """Whether an fsync takes no virtual time."""
        return not self._disk.fsync_s

    async def run(self, job: Callable[[], T]) -> T:
        """Do disk work, after the time that it takes.

        Raises:
            StorageError: the machine has crashed meanwhile.
        """
        self._disk.writes += 1
        if not self._disk.fsync_s:
            await trio.lowlevel.checkpoint()
            self._check()
            return job()
        self._pending.append(job)
        await self._fsync()
        self._check()
        self._pending.remove(job)
        return job()

    async def _fsync(self) -> None:
        """Wait for its time, cancelled or not, as a thread's work is waited for; a crash ends it at once.

        By one timer: the two cancel scopes that would do the same were a tenth of a storm's work.
        """
        if self._crashed:  # a ghost's work: nobody waits for that
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        task, clock = trio.lowlevel.current_task(), cast(VirtualClock, trio.lowlevel.current_clock())
        self._writing[task] = clock.call_later(self._disk.fsync_s, self._synced, task)
        await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)

    def _synced(self, task: trio.lowlevel.Task) -> None:
        del self._writing[task]
        trio.lowlevel.reschedule(task)

    def read(self, path: Path) -> bytes | None:
        """A small file."""
        return self._disk.files.get(path)

    def write(self, path: Path, data: bytes) -> None:
        """Replace a small file."""
        if self._crashed:
            return
        if self._disk.full:
            raise OSError("no space left on the simulated disk")
        self._disk.files[path] = data

    def _check(self) -> None:
        if self._crashed:
            raise StorageError("this machine has crashed")

    def _crash(self, lose_unsynced: bool) -> None:
        if not lose_unsynced:
            for job in self._pending:
                try:
                    job()
                except Exception:  # whatever it was, nobody is left to be told
                    break
        self._crashed = True
        for task, timer in self._writing.items():
            timer.cancel()
            trio.lowlevel.reschedule(task)
        self._writing.clear()
        for handle in list(self._open.values()):
            handle.crash()


class _Handle:
    """A connection that dies with its process; the database stays."""

    def __init__(self, inner: Connection, disk: Disk, on_close: Callable[[], object]) -> None:
        self._inner: Connection | None = inner
        self._disk, self._on_close = disk, on_close

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Any:
        return self._checked(sql).execute(sql, parameters)

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> Any:
        return self._checked(sql).executemany(sql, rows)

    def close(self) -> None:
        if self._inner is not None:
            self._roll_back(self._inner)
            self._inner = None
            self._on_close()

    def crash(self) -> None:
        """What was not committed is undone; from here on nothing reaches the database."""
        self.close()

    def _checked(self, sql: str) -> Connection:
        if self._inner is None:
            raise sqlite3.OperationalError("disk I/O error: the machine has crashed, or the file is closed")
        if self._disk.full and sql.startswith(("INSERT", "UPDATE", "COMMIT")):
            raise sqlite3.OperationalError("database or disk is full")
        return self._inner

    @staticmethod
    def _roll_back(inner: Connection) -> None:
        try:
            inner.execute("ROLLBACK")
        except sqlite3.OperationalError:
            return  # there was no transaction
