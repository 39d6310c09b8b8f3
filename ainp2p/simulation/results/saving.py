"""A result on disk: ``result.json``, one file per table, the trace. Written whole, once; checked when read.

The tables are CSV (or Parquet) for everybody's tools. ``result.json`` says how many rows each has and the
hash of each file, so that one that was cut short or edited is not taken for what a run has measured.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ainp2p.errors import InvalidInput
from ainp2p.simulation.errors import VersionMismatch
from ainp2p.simulation.results.files import new_directory
from ainp2p.simulation.results.results import COLUMNS, VERSION, Result
from ainp2p.simulation.results.tables import Table, extra

MANIFEST, TRACE, REPORT = "result.json", "trace", "report.html"
_WRITERS: dict[str, Callable[[Table, Path], None]] = {"csv": Table.to_csv, "parquet": Table.to_parquet}
_READERS = {"csv": Table.from_csv, "parquet": Table.from_parquet}


def check_format(format: str) -> None:
    """Refuse before a long run what could not be written after it.

    Raises:
        InvalidInput: no such format of tables, or the extra for it is not installed.
    """
    if format not in _WRITERS:
        raise InvalidInput(f"tables are saved as {' or '.join(_WRITERS)}, not {format!r}")
    if format == "parquet":
        extra("pyarrow.parquet")


def save(
    result: Result, directory: str | os.PathLike[str], *, format: str = "csv", report: bool = False
) -> None:
    """Write `result` to a new directory, with ``report.html`` if `report`."""
    check_format(format)
    with new_directory(directory) as draft:
        for name, table in result.tables.items():
            _WRITERS[format](table, draft / f"{name}.{format}")
        if result.trace is not None:
            result.trace.save(draft / TRACE)
        files = {path.name: _digest(path) for path in sorted(draft.iterdir())}
        (draft / MANIFEST).write_text(json.dumps(_manifest(result, format, files), indent=1) + "\n", "utf-8")
        if report:
            result.report(draft / REPORT)


def load(directory: str | os.PathLike[str]) -> Result:
    """The result that is in `directory`."""
    directory = Path(directory)
    said = manifest(directory)
    for name, digest in said["files"].items():
        if Path(name).name != name or not (directory / name).is_file():
            raise InvalidInput(f"{directory} lacks {name!r}: it is not whole")
        if _digest(directory / name) != digest:
            raise InvalidInput(f"{directory / name} is not as it was saved: it was edited or cut short")
    format_ = said["format"]
    if unsaid := [name for name in COLUMNS if f"{name}.{format_}" not in said["files"]]:
        raise InvalidInput(f"{directory}: {MANIFEST} says nothing of the table {unsaid[0]!r}")
    tables: dict[str, Any] = {
        name: _READERS[format_](directory / f"{name}.{format_}", name, columns)
        for name, columns in COLUMNS.items()
    }
    for name, table in tables.items():
        if len(table) != said["rows"][name]:
            raise InvalidInput(f"{directory}: {name} has {len(table)} rows; {said['rows'][name]} were saved")
    return Result(
        seed=said["seed"],
        parameters=said["parameters"],
        hash=said["hash"],
        duration_s=said["duration_s"],
        model=said["model"],
        signed=said["signed"],
        trace=_trace(directory / TRACE) if TRACE in said["files"] else None,
        **tables,
    )


def manifest(directory: Path) -> dict[str, Any]:
    """What ``result.json`` says, without reading the tables.

    Raises:
        InvalidInput: there is none, or it is none.
        VersionMismatch: another version wrote it.
    """
    path = directory / MANIFEST
    try:
        said = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as exc:
        raise InvalidInput(f"{directory} holds no saved result: there is no {MANIFEST}") from exc
    except (ValueError, OSError) as exc:
        raise InvalidInput(f"{path} cannot be read: {exc}") from exc
    if not isinstance(said, dict) or "version" not in said:
        raise InvalidInput(f"{path} is not the {MANIFEST} of a result")
    if said["version"] != VERSION:
        raise VersionMismatch(str(path), said["version"], VERSION)
    if missing := [name for name in _FIELDS if name not in said]:
        raise InvalidInput(f"{path} lacks {missing[0]!r}")
    odd = [name for name, type_ in _FIELDS.items() if not isinstance(said[name], type_)]
    if odd or said["format"] not in _READERS or set(said["rows"]) != set(COLUMNS):
        raise InvalidInput(f"{path} is not the {MANIFEST} of a result")
    return said


_FIELDS: dict[str, Any] = {
    **dict.fromkeys(("model", "signed", "hash", "format"), str),
    **dict.fromkeys(("parameters", "rows", "files"), dict),
    "seed": int,
    "duration_s": int | float,
}


def _manifest(result: Result, format_: str, files: Mapping[str, str]) -> dict[str, Any]:
    return {
        "version": result.version,
        "model": result.model,
        "signed": result.signed,
        "seed": result.seed,
        "parameters": dict(result.parameters),
        "hash": result.hash,
        "duration_s": result.duration_s,
        "format": format_,
        "rows": {name: len(table) for name, table in result.tables.items()},
        "files": dict(files),
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _trace(path: Path) -> Any:
    from ainp2p.simulation.core.trace import Trace

    return Trace.load(path)
