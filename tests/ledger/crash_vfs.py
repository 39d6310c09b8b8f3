"""A disk that forgets: an apsw VFS which logs every write, truncate, fsync and delete.

`CrashDisk.cut` rebuilds the files as a power cut may leave them: everything that was synced, and of the
rest a random subset of whole 512-byte sectors, in no order. `connect` gives the connection that
`Database` wants, with sqlite3's errors.
"""

from __future__ import annotations

import random
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

SECTOR = 512  # bytes; what a disk writes whole


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that was asked of the disk."""

    kind: str  # write, truncate, sync, delete
    file: str
    offset: int = 0  # of a write; the new size for a truncate
    data: bytes = b""


class _File(apsw.VFSFile):
    def __init__(self, log: list[Event], name: Any, flags: list[int]) -> None:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._log, self._name = log, Path(path or "").name
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802  # SQLite's names
        self._log.append(Event("write", self._name, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, size: int) -> None:  # noqa: N802
        self._log.append(Event("truncate", self._name, size))
        super().xTruncate(size)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._log.append(Event("sync", self._name))  # the log is the truth: no need to wear out the real disk


class CrashDisk(apsw.VFS):
    """All that was asked of the files opened through it, in order, in `log`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.log: list[Event] = []
        super().__init__(name, "")

    def xOpen(self, name: Any, flags: list[int]) -> _File:  # noqa: N802
        return _File(self.log, name, flags)

    def xDelete(self, name: str, sync: bool) -> None:  # noqa: N802
        self.log.append(Event("delete", Path(name).name))
        super().xDelete(name, sync)

    def connect(self, path: str) -> ApswConnection:
        return ApswConnection(apsw.Connection(path, vfs=self.name))

    def cut(self, after: int, folder: Path, rng: random.Random) -> None:
        """Write into `folder` what a power cut after `after` events may leave of the files."""
        durable: dict[str, bytearray] = {}
        pending: defaultdict[str, list[Event]] = defaultdict(list)
        for event in self.log[:after]:
            if event.kind == "sync":
                content = durable.setdefault(event.file, bytearray())
                for earlier in pending.pop(event.file, []):
                    _apply(content, earlier)
            elif event.kind == "delete":
                durable.pop(event.file, None)
                pending.pop(event.file, None)
            else:
                pending[event.file].append(event)
        for name, events in pending.items():
            kept = [piece for event in events for piece in _sectors(event) if rng.random() < 0.5]
            if kept or name in durable:
                content = durable.setdefault(name, bytearray())
                for piece in kept:
                    _apply(content, piece)
        for name, content in durable.items():
            (folder / name).write_bytes(content)


def _sectors(event: Event) -> list[Event]:
    if event.kind == "truncate":
        return [event]
    return [
        Event("write", event.file, event.offset + at, event.data[at : at + SECTOR])
        for at in range(0, len(event.data), SECTOR)
    ]


def _apply(content: bytearray, event: Event) -> None:
    end = event.offset + len(event.data)
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    if event.kind == "write":
        content[event.offset : end] = event.data
    else:
        del content[event.offset :]


class ApswConnection:
    """An apsw connection that speaks as the standard library's does, errors included."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Any:
        try:
            return _Rows(self._connection.execute(sql, tuple(parameters)).fetchall())
        except apsw.Error as exc:
            raise sqlite3.OperationalError(str(exc)) from exc

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> Any:
        try:
            self._connection.executemany(sql, rows)
        except apsw.Error as exc:
            raise sqlite3.OperationalError(str(exc)) from exc

    def close(self) -> None:
        self._connection.close()


@dataclass(frozen=True, slots=True)
class _Rows:
    rows: list[tuple[Any, ...]]

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self.rows
