"""A sweep's output directory: ``sweep.json`` (what is run), ``rows.jsonl`` (what is done), ``sweep.csv``.

    empty → running (locked; a row per outcome, one line each) → finished (sweep.csv)
               ↑ interrupted: what is whole is kept, a torn last line is not

A directory holds one sweep: another one, and another process, are refused.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ainp2p.errors import InvalidInput
from ainp2p.simulation.errors import Mixed, VersionMismatch
from ainp2p.simulation.results.files import new_file, writing
from ainp2p.simulation.results.tables import Table

VERSION = 1
PLAN, ROWS, TABLE = "sweep.json", "rows.jsonl", "sweep.csv"


class SweepFiles:
    """A sweep's directory, held by this process while the `with` block lasts.

    Args:
        description: what must be the same for rows to stand in one table.

    Raises:
        Mixed: the directory holds a finished sweep, another sweep or something else, or is in use.
        InvalidInput: nothing can be written there.
        VersionMismatch: another version wrote it.
    """

    def __init__(self, directory: str | os.PathLike[str], description: Mapping[str, Any]) -> None:
        self._directory = Path(directory)
        self._said = {"version": VERSION, **description}
        self._rows: IO[bytes] | None = None

    def __enter__(self) -> SweepFiles:
        with writing(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)
        if not (self._directory / PLAN).exists():
            self._begin()
        with writing(self._directory / ROWS):
            self._rows = (self._directory / ROWS).open("a+b")
        try:
            fcntl.flock(self._rows, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._check()
        except BlockingIOError as exc:
            self._rows.close()
            raise Mixed(f"another process is writing to {self._directory}") from exc
        except BaseException:
            self._rows.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._rows is not None
        self._rows.close()

    def kept(self) -> Iterator[dict[str, Any]]:
        """What an earlier, interrupted sweep has left; a line that was torn is cut off.

        Raises:
            InvalidInput: a line that is not the last is damaged.
        """
        assert self._rows is not None
        self._rows.seek(0)
        data = self._rows.read()
        self._rows.truncate(data.rfind(b"\n") + 1)
        yield from _rows(self._directory / ROWS, data)

    def keep(self, row: Mapping[str, Any]) -> None:
        """Add one outcome; when this returns, the end of this process cannot undo it."""
        assert self._rows is not None
        with writing(self._directory / ROWS):
            self._rows.write(json.dumps(row).encode() + b"\n")
            self._rows.flush()

    def finish(self, table: Table) -> None:
        """Write the table: the sweep is complete."""
        table.to_csv(self._directory / TABLE)

    def _begin(self) -> None:
        if any(self._directory.iterdir()):
            raise Mixed(f"{self._directory} holds something that is no sweep: choose an empty directory")
        with new_file(self._directory / PLAN) as draft:
            draft.write_text(json.dumps(self._said, indent=1) + "\n", "utf-8")

    def _check(self) -> None:
        found = _plan(self._directory)
        ours = json.loads(json.dumps(self._said))
        if differ := [name for name in {**ours, **found} if ours.get(name) != found.get(name)]:
            hint = "; its source has changed since" if differ == ["source"] else ""
            raise Mixed(
                f"{self._directory} holds another sweep ({', '.join(differ)} differ{hint}): "
                "its rows and these must not be mixed, choose another directory"
            )
        if (self._directory / TABLE).exists():
            raise Mixed(f"{self._directory} holds this sweep, finished: it is not overwritten, read {TABLE}")


def read_sweep(directory: str | os.PathLike[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What a sweep's directory says is run, and the rows that are whole.

    Raises:
        InvalidInput: it holds no sweep, or a damaged one.
        VersionMismatch: another version wrote it.
    """
    directory = Path(directory)
    said = _plan(directory)
    try:
        return said, list(_rows(directory / ROWS, (directory / ROWS).read_bytes()))
    except OSError as exc:
        raise InvalidInput(f"{directory} holds no rows: {exc}") from exc


def _plan(directory: Path) -> dict[str, Any]:
    path = directory / PLAN
    try:
        said: dict[str, Any] = json.loads(path.read_text("utf-8"))
        version = said["version"]
    except (OSError, ValueError, TypeError, KeyError) as exc:
        raise InvalidInput(f"{path} does not describe a sweep: {exc}") from exc
    if version != VERSION:
        raise VersionMismatch(str(path), version, VERSION)
    return said


def _rows(path: Path, data: bytes) -> Iterator[dict[str, Any]]:
    """The whole lines of a file; what follows the last line feed was torn off."""
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        try:
            row = json.loads(line)
        except ValueError as exc:
            raise InvalidInput(f"{path}, line {number}: {exc}") from exc
        if not isinstance(row, dict):
            raise InvalidInput(f"{path}, line {number} is no row")
        yield row
