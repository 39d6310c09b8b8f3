"""Tidy tables of what happened: typed columns, one row per event, virtual time first. No data frame library.

`to_pandas` and the Parquet files need an extra: ``pip install 'ainp2p[frames]'``. CSV needs nothing.
Integers stay integers everywhere; a value of another kind is refused, in memory and in files.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ainp2p.errors import InvalidInput
from ainp2p.simulation.results.columns import (
    Cell,
    Column,
    cut,
    exactly,
    fitted,
    from_text,
    kind_of,
    new_column,
    to_text,
)
from ainp2p.simulation.results.files import new_file

if TYPE_CHECKING:
    import pandas
    import pyarrow

Row = tuple[Cell, ...]
Columns = Sequence[tuple[str, Any]]  # (name, type or kind)
INDEX = "at_s"  # virtual seconds: the index of a frame that has this column


class Table:
    """Rows of one kind of event.

    Args:
        name: the table's name, such as ``"trades"``.
        columns: (name, type) in order; a type is int, float, str or bool, or one of them ``| None``.
    """

    __slots__ = ("_appends", "_data", "_exact", "columns", "name", "names")

    def __init__(self, name: str, columns: Columns) -> None:
        self.name = name
        self.columns = tuple((column, kind_of(type_)) for column, type_ in columns)
        self.names = tuple(column for column, _ in self.columns)
        if not self.names or len(set(self.names)) != len(self.names) or "" in self.names:
            raise InvalidInput(f"table {name!r}: columns need names, each another one: {self.names}")
        self._exact = tuple(exactly(kind) for _, kind in self.columns)
        self._data: tuple[Column, ...] = tuple(new_column(kind) for _, kind in self.columns)
        self._appends = tuple(column.append for column in self._data)

    def append_row(self, row: Sequence[Cell]) -> None:
        """Add one row, values in the order of the columns; all of it or, if refused, nothing.

        Raises:
            InvalidInput: too many or too few values, or one of another kind.
        """
        row = tuple(row)
        if tuple(map(type, row)) != self._exact:
            row = self._fitted(row)
        try:
            for append, value in zip(self._appends, row, strict=True):
                append(value)
        except (OverflowError, UnicodeEncodeError):
            self._take_back()
            self._fitted(row)  # says which value it was
            raise

    def append(self, **row: Cell) -> None:
        """Add one row by names; a column that is left out and may hold None does so.

        Raises:
            InvalidInput: a name is unknown or missing, or a value is of another kind.
        """
        if unknown := [name for name in row if name not in self.names]:
            raise InvalidInput(f"table {self.name!r} has no column {unknown[0]!r}; it has {self._listed()}")
        for name, kind in self.columns:
            if name not in row and not kind.endswith("?"):
                raise InvalidInput(f"table {self.name!r}: a value for {name!r} is missing")
        self.append_row([row.get(name) for name in self.names])

    def extend(self, rows: Iterable[Sequence[Cell]]) -> None:
        """Add many rows."""
        for row in rows:
            self.append_row(row)

    def rows(self) -> Iterator[Row]:
        """All rows, in the order in which they were added."""
        return zip(*self._data, strict=True)

    def row(self, index: int) -> Row:
        """One row."""
        return tuple(column[index] for column in self._data)

    def dicts(self) -> Iterator[dict[str, Cell]]:
        """All rows by name."""
        return (dict(zip(self.names, row, strict=True)) for row in self.rows())

    def __getitem__(self, column: str) -> Column:
        """A column: to be read only. Iterate it rather than copy it: a run may have a million rows."""
        try:
            return self._data[self.names.index(column)]
        except ValueError:
            raise InvalidInput(
                f"table {self.name!r} has no column {column!r}; it has {self._listed()}"
            ) from None

    def __len__(self) -> int:
        return len(self._data[0])

    def __bool__(self) -> bool:
        return True  # an empty table is a table

    def __eq__(self, other: object) -> bool:
        """Whether both say the same: columns and cells; nan is nan."""
        if not isinstance(other, Table):
            return NotImplemented
        if self.columns != other.columns or len(self) != len(other):
            return False
        return self.first_difference(other) is None

    __hash__ = None  # type: ignore[assignment]  # it grows

    def __repr__(self) -> str:
        return f"<Table {self.name!r}: {len(self)} rows of {self._listed()}>"

    def first_difference(self, other: Table) -> int | None:
        """The index of the first row in which two tables with the same columns differ, or None.

        Where one is longer and all before is equal, that is the other's length.
        """
        for index, (ours, theirs) in enumerate(zip(self.rows(), other.rows(), strict=False)):
            if ours != theirs and list(map(repr, ours)) != list(map(repr, theirs)):
                return index
        return None if len(self) == len(other) else min(len(self), len(other))

    # --- files ------------------------------------------------------------------------------------

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write a CSV file (RFC 4180, UTF-8) with the columns' names in its first line.

        None is an empty field, floats have all their digits: `from_csv` reads the same values back.

        Raises:
            InvalidInput: the file exists.
        """
        with new_file(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(self.names)
            writer.writerows(map(to_text, row) for row in self.rows())

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str], name: str, columns: Columns) -> Table:
        """Read what `to_csv` wrote of a table with these columns.

        Raises:
            InvalidInput: other columns, or a value that is none; says in which line.
        """
        table = cls(name, columns)
        with Path(path).open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            try:
                if tuple(head := next(reader, [])) != table.names:
                    raise ValueError(f"columns {head}; expected {list(table.names)}")
                for texts in reader:
                    table._append_texts(texts)
            except (ValueError, csv.Error, UnicodeDecodeError) as exc:
                raise InvalidInput(f"{path}, line {reader.line_num}: {exc}") from exc
        return table

    def to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write a Parquet file; needs ``ainp2p[frames]``.

        Raises:
            InvalidInput: the file exists, or pyarrow is missing.
        """
        parquet = extra("pyarrow.parquet")
        with new_file(path) as draft:
            parquet.write_table(self.to_arrow(), draft)

    @classmethod
    def from_parquet(cls, path: str | os.PathLike[str], name: str, columns: Columns) -> Table:
        """Read what `to_parquet` wrote of a table with these columns.

        Raises:
            InvalidInput: other columns or types, no Parquet file, or pyarrow is missing.
        """
        arrow, parquet = extra("pyarrow"), extra("pyarrow.parquet")
        table = cls(name, columns)
        try:
            read = parquet.read_table(path)
        except arrow.ArrowInvalid as exc:
            raise InvalidInput(f"{path} is no Parquet file: {exc}") from exc
        if not read.schema.equals(table._schema()):
            raise InvalidInput(f"{path} has the columns {read.schema}; expected {table._schema()}")
        for batch in read.to_batches():
            table.extend(zip(*(column.to_pylist() for column in batch.columns), strict=True))
        return table

    def to_arrow(self) -> pyarrow.Table:
        """The table for pyarrow, and so for polars or DuckDB; needs ``ainp2p[frames]``."""
        arrow = extra("pyarrow")
        schema = self._schema()
        arrays = [
            arrow.array(list(column), type=field.type)
            for column, field in zip(self._data, schema, strict=True)
        ]
        return arrow.Table.from_arrays(arrays, schema=schema)

    def to_pandas(self) -> pandas.DataFrame:
        """A data frame, indexed by virtual time where the table has one; needs ``ainp2p[frames]``.

        Integers are int64, or Int64 where they may be missing; texts are pandas' strings.
        """
        pandas = extra("pandas")
        frame = pandas.DataFrame(
            {
                name: pandas.array(list(column), dtype=_PANDAS[kind])
                for (name, kind), column in zip(self.columns, self._data, strict=True)
            }
        )
        return frame.set_index(INDEX) if INDEX in self.names else frame

    def _schema(self) -> pyarrow.Schema:
        arrow = extra("pyarrow")
        kinds = {"int": arrow.int64(), "float": arrow.float64(), "str": arrow.string(), "bool": arrow.bool_()}
        return arrow.schema(
            [
                arrow.field(name, kinds[kind.removesuffix("?")], nullable=kind.endswith("?"))
                for name, kind in self.columns
            ]
        )

    # --- appending --------------------------------------------------------------------------------

    def _fitted(self, row: Row) -> Row:
        if len(row) != len(self.columns):
            raise InvalidInput(f"table {self.name!r} has {len(self.columns)} columns, the row {len(row)}")
        cells = []
        for (name, kind), value in zip(self.columns, row, strict=True):
            try:
                cells.append(fitted(kind, value))
            except ValueError as exc:
                raise InvalidInput(f"table {self.name!r}, column {name!r}: {exc}") from exc
        return tuple(cells)

    def _take_back(self) -> None:
        """Undo what a refused row has left in the columns before the one that refused it."""
        whole = len(self._data[-1])  # the last column has not got anything of it
        for column in self._data:
            cut(column, whole)

    def _append_texts(self, texts: list[str]) -> None:
        if len(texts) != len(self.columns):
            raise ValueError(f"{len(texts)} fields; expected {len(self.columns)}")
        row = []
        for (name, kind), text in zip(self.columns, texts, strict=True):
            try:
                row.append(from_text(kind, text))
            except ValueError as exc:
                raise ValueError(f"column {name!r}: {exc}") from exc
        self.append_row(row)

    def _listed(self) -> str:
        return ", ".join(self.names)


_PANDAS = {
    "int": "int64",
    "int?": "Int64",
    "float": "float64",
    "float?": "Float64",
    "str": "string",
    "str?": "string",
    "bool": "bool",
    "bool?": "boolean",
}


def extra(module: str) -> Any:
    """A module of the extra `frames`.

    Raises:
        InvalidInput: it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as exc:
        raise InvalidInput(f"{exc}: install the extra for data frames: pip install 'ainp2p[frames]'") from exc
