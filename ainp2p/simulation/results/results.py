"""What one run of a model leaves behind: seed, hash, and tables of what happened. No files, no pictures.

`saving` writes it to disk, `report` draws it, `summary` condenses it; the methods here call them, so that
`result.` is all one has to know.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from ainp2p.errors import InvalidInput
from ainp2p.simulation.results.columns import Cell
from ainp2p.simulation.results.tables import Row, Table

if TYPE_CHECKING:
    from ainp2p.simulation.core.trace import Difference, Trace

VERSION = 1  # of the tables' columns and of the files
REJECTED = "rejected"
VALIDATOR, CHEAT = "validator", "cheat"  # roles that the metrics know; any other word is the model's own

# Table → its columns. `at_s` is virtual seconds since the start of the run; money is in uain.
COLUMNS: dict[str, tuple[tuple[str, Any], ...]] = {
    "trades": (  # one row for each job that ended, and before it one for each part that was rejected
        ("at_s", float),
        ("buyer", str),
        ("seller", str),  # the last one, if it was handed on; empty: nobody took it
        ("skill", str),
        ("units", int),
        ("amount", int),
        ("price", str),
        ("elapsed_ms", int),
        ("failure", str),  # empty: it was done; REJECTED: its buyer said that it is no good
        ("job", str),
    ),
    "agents": (  # one row for each
        ("name", str),
        ("role", str),
        ("balance_start", int),
        ("balance_end", int),
        ("earned", int),
        ("spent", int),
        ("jobs_bought", int),
        ("jobs_sold", int),
        ("born_s", float),
        ("died_s", float | None),  # None: alive when the run ended
    ),
    "messages": (  # one row per virtual minute, protocol and kind
        ("at_s", float),
        ("protocol", str),
        ("kind", str),
        ("count", int),
        ("bytes", int),
    ),
    "metrics": (("at_s", float), ("name", str), ("value", float)),  # what the model measured
    "marks": (("name", str), ("count", int)),  # what a `sometimes` has seen; 0: never
}


def new_table(name: str) -> Table:
    """An empty table of a result: "trades", "agents", "messages", "metrics" or "marks"."""
    return Table(name, COLUMNS[name])


@dataclass(frozen=True, slots=True)
class Result:
    """One run.

    Attributes:
        seed: what all of it follows from, together with `parameters` and the code of the model.
        parameters: the model's keyword arguments, all of them; functions by their names.
        hash: of everything that happened, in order: equal hashes, equal runs.
        duration_s: virtual seconds from start to end.
        model: the model's file, or ``module:function``.
        signed: how keys signed (`ainp2p.simulation.core.signatures`).
        trace: the events that `hash` is of; `diff` finds the first different one by it. May be None.
    """

    seed: int
    parameters: Mapping[str, Cell]
    hash: str
    duration_s: float
    trades: Table = field(default_factory=partial(new_table, "trades"))
    agents: Table = field(default_factory=partial(new_table, "agents"))
    messages: Table = field(default_factory=partial(new_table, "messages"))
    metrics: Table = field(default_factory=partial(new_table, "metrics"))
    marks: Table = field(default_factory=partial(new_table, "marks"))
    model: str = ""
    signed: str = "cached"
    trace: Trace | None = field(default=None, compare=False, repr=False)
    version: int = VERSION

    def __post_init__(self) -> None:
        for name, table in self.tables.items():
            if table.columns != new_table(name).columns:
                raise InvalidInput(f"{name}: a result's table has the columns {list(new_table(name).names)}")

    @property
    def tables(self) -> dict[str, Table]:
        """All five, by name."""
        return {name: getattr(self, name) for name in COLUMNS}

    def summary(self) -> dict[str, int | float | None]:
        """The run in numbers (summary.py says which); None where one is undefined."""
        from ainp2p.simulation.results.summary import summary

        return summary(self)

    def save(self, directory: str | os.PathLike[str], *, format: str = "csv", report: bool = False) -> None:
        """Write everything to a new directory; `format` of the tables is "csv" or "parquet".

        Raises:
            InvalidInput: the directory exists and is not empty; it stays as it was.
        """
        from ainp2p.simulation.results.saving import save

        save(self, directory, format=format, report=report)

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> Result:
        """Read what `save` has written.

        Raises:
            InvalidInput: there is no result, or a file of it was changed or cut short.
            VersionMismatch: another version of this library wrote it.
        """
        from ainp2p.simulation.results.saving import load

        return load(directory)

    def diff(self, other: Result) -> Diff:
        """Where two runs differ, and where first."""
        return diff(self, other)

    def report(self, path: str | os.PathLike[str]) -> None:
        """Write one HTML page with pictures that needs no other file and no network.

        Raises:
            InvalidInput: the file exists.
        """
        from ainp2p.simulation.results.files import new_file
        from ainp2p.simulation.results.report import page

        with new_file(path) as draft:
            draft.write_text(page(self), "utf-8")


def label(value: object) -> Cell:
    """A model's parameter as a table keeps it: a plain value as it is, a function as ``module:name``.

    Raises:
        InvalidInput: neither; two of them could not be told apart afterwards.
    """
    if value is None or isinstance(value, int | float | str | bool):
        return value
    name: str | None = getattr(value, "__qualname__", None)
    if isinstance(value, Callable) and name is not None and "<" not in name:  # type: ignore[arg-type]  # an ABC
        return f"{getattr(value, '__module__', '')}:{name}"
    raise InvalidInput(f"{value!r} cannot stand in a table: use numbers, texts, or functions of a module")


# --- comparing ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RowDifference:
    """The first row in which two tables differ; None where one has ended."""

    table: str
    index: int
    ours: Row | None
    theirs: Row | None


@dataclass(frozen=True, slots=True)
class Diff:
    """What differs between two results.

    Attributes:
        hashes: both, if they differ.
        settings: (what, ours, theirs) of model, seed, duration and parameters.
        counts: (table, our rows, their rows) where the numbers of rows differ.
        rows: the first different row of each table that has one.
        trace: the first different event, if both runs still have their traces.
    """

    hashes: tuple[str, str] | None
    settings: tuple[tuple[str, Any, Any], ...]
    counts: tuple[tuple[str, int, int], ...]
    rows: tuple[RowDifference, ...]
    trace: Difference | None

    def __bool__(self) -> bool:
        """Whether anything differs."""
        return bool(self.hashes or self.settings or self.counts or self.rows or self.trace)

    def __str__(self) -> str:
        """For people, the first things first."""
        if not self:
            return "the same"
        lines = [f"hash: {self.hashes[0]} / {self.hashes[1]}"] if self.hashes else []
        lines += [f"{what}: {ours!r} / {theirs!r}" for what, ours, theirs in self.settings]
        lines += [str(self.trace)] if self.trace else []
        lines += [f"{table}: {ours} / {theirs} rows" for table, ours, theirs in self.counts]
        for row in self.rows:
            lines.append(f"{row.table}, row {row.index}:")
            lines += [f"  ours:   {_shown(row.ours)}", f"  theirs: {_shown(row.theirs)}"]
        return "\n".join(lines)


def diff(ours: Result, theirs: Result) -> Diff:
    """Where two results differ (`Result.diff`)."""
    pairs = [(name, table, theirs.tables[name]) for name, table in ours.tables.items()]
    a_trace, b_trace = ours.trace, theirs.trace
    comparable = a_trace is not None and b_trace is not None and a_trace.every == b_trace.every != 0
    return Diff(
        hashes=(ours.hash, theirs.hash) if ours.hash != theirs.hash else None,
        settings=tuple(_settings(ours, theirs)),
        counts=tuple((name, len(a), len(b)) for name, a, b in pairs if len(a) != len(b)),
        rows=tuple(
            RowDifference(name, index, _row(a, index), _row(b, index))
            for name, a, b in pairs
            if (index := a.first_difference(b)) is not None
        ),
        trace=a_trace.first_difference(b_trace) if a_trace and b_trace and comparable else None,
    )


_ABSENT = "(not set)"


def _settings(ours: Result, theirs: Result) -> Iterable[tuple[str, Any, Any]]:
    for what in ("model", "seed", "signed", "duration_s", "version"):
        if (a := getattr(ours, what)) != (b := getattr(theirs, what)):
            yield what, a, b
    for name in sorted({*ours.parameters, *theirs.parameters}):
        a, b = ours.parameters.get(name, _ABSENT), theirs.parameters.get(name, _ABSENT)
        if a != b or type(a) is not type(b):
            yield f"parameter {name}", a, b


def _row(table: Table, index: int) -> Row | None:
    return table.row(index) if index < len(table) else None


def _shown(row: Row | None) -> str:
    return "(no such row)" if row is None else ", ".join(map(str, row))
