"""One column of a table: packed values of one kind. Not for users; `ainp2p.simulation.results.tables` is.

A run may note a million trades, so numbers take 8 bytes and texts 4 while they repeat. A column that may hold
None is a plain list: such tables (agents, sweeps) are short.
"""

from __future__ import annotations

import numbers
import operator
import types
import typing
from array import array
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from ainp2p.errors import InvalidInput

Cell = int | float | str | bool | None
REPEATING_MAX = 4096  # different texts before a column asks whether they repeat at all


class Column(Protocol):
    """What a table asks of a column. It checks no kinds: the table did."""

    def append(self, value: Any, /) -> None: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...
    def __getitem__(self, index: int, /) -> Any: ...


class Texts:
    """Texts, each by its number while they repeat; one after another once most of them do not."""

    __slots__ = ("_blob", "_codes", "_ends", "_numbers", "_words")

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._words: list[str] = []
        self._codes: array[int] | None = array("I")
        self._blob = bytearray()
        self._ends: array[int] = array("Q")

    def append(self, text: str, /) -> None:
        """Add one text.

        Raises:
            UnicodeEncodeError: it has lone surrogates, which no file could hold.
        """
        if self._codes is None:
            self._blob += text.encode()
            self._ends.append(len(self._blob))
            return
        code = self._numbers.get(text)
        if code is None:
            text.encode()
            code = len(self._words)
            if code >= REPEATING_MAX and 2 * code > len(self._codes):
                self._spell_out()
                return self.append(text)
            self._numbers[text] = code
            self._words.append(text)
        self._codes.append(code)

    def __len__(self) -> int:
        return len(self._ends if self._codes is None else self._codes)

    def __iter__(self) -> Iterator[str]:
        if self._codes is not None:
            return map(self._words.__getitem__, self._codes)
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int, /) -> str:
        if self._codes is not None:
            return self._words[self._codes[index]]
        index = range(len(self._ends))[index]
        return self._blob[self._ends[index - 1] if index else 0 : self._ends[index]].decode()

    def cut(self, length: int) -> None:
        """Forget what was added after the first `length` texts."""
        if self._codes is not None:
            del self._codes[length:]
        elif length < len(self._ends):
            del self._blob[self._ends[length - 1] if length else 0 :]
            del self._ends[length:]

    def _spell_out(self) -> None:
        texts = list(self)
        self._numbers, self._words, self._codes = {}, [], None
        for text in texts:
            self.append(text)


class Bools(list[bool]):
    """Truth values; a class of its own only to be told from columns with None."""


_MAKERS: dict[str, Callable[[], Column]] = {
    "int": lambda: array("q"),
    "float": lambda: array("d"),
    "str": Texts,
    "bool": Bools,
}
_NAMES: dict[Any, str] = {int: "int", float: "float", str: "str", bool: "bool"}
TYPES: dict[str, type] = {"int": int, "float": float, "str": str, "bool": bool}
INT_MAX = (1 << 63) - 1


def kind_of(type_: Any) -> str:
    """``int`` → "int", ``float | None`` → "float?": how a column's type is written down.

    Raises:
        InvalidInput: columns of this type do not exist.
    """
    if isinstance(type_, str) and type_.removesuffix("?") in TYPES:
        return type_
    if type_ in _NAMES:
        return _NAMES[type_]
    if isinstance(type_, types.UnionType) or typing.get_origin(type_) is typing.Union:
        rest = [part for part in typing.get_args(type_) if part is not type(None)]
        if len(rest) == 1 and rest[0] in _NAMES and len(typing.get_args(type_)) == 2:
            return f"{_NAMES[rest[0]]}?"
    raise InvalidInput(f"a column holds int, float, str or bool, or one of them or None; not {type_!r}")


def new_column(kind: str) -> Column:
    """An empty column of `kind`."""
    return [] if kind.endswith("?") else _MAKERS[kind]()


def cut(column: Column, length: int) -> None:
    """Forget what was added to `column` after its first `length` values."""
    if isinstance(column, Texts):
        column.cut(length)
    else:
        del typing.cast(list[Any], column)[length:]


def exactly(kind: str) -> type | None:
    """The one type whose values a column takes without a second look, or None."""
    return TYPES.get(kind)


def fitted(kind: str, value: object) -> Cell:
    """`value` as a column of `kind` keeps it: numpy's numbers as Python's, an integer in a float's place.

    Raises:
        ValueError: it is of another kind.
    """
    base = kind.removesuffix("?")
    if value is None and base != kind:
        return None
    if type(value) is bool or base in ("str", "bool"):
        cell = value if type(value) is TYPES[base] else None
    else:
        cell = _number(base, value)
    if cell is None:
        raise ValueError(f"{value!r} is no {base}{' or None' if base != kind else ''}")
    if type(cell) is int and not -INT_MAX - 1 <= cell <= INT_MAX:
        raise ValueError(f"{cell} needs more than 64 bits")
    if type(cell) is str:
        cell.encode()  # refuses lone surrogates
        if cell == "" and base != kind:
            raise ValueError("an empty text could not be told from None in a file")
    return typing.cast(Cell, cell)


def _number(base: str, value: Any) -> int | float | None:
    if base == "float" and isinstance(value, numbers.Real) and not isinstance(value, int):
        return float(value)
    try:
        whole = operator.index(value)
        return float(whole) if base == "float" else whole
    except (TypeError, OverflowError):
        return None


def to_text(value: Cell) -> str:
    """A cell as CSV has it; `from_text` gives the same value back."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)


def from_text(kind: str, text: str) -> Cell:
    """The value of a CSV cell.

    Raises:
        ValueError: the text is no such value.
    """
    base = kind.removesuffix("?")
    if text == "" and base != kind:
        return None
    try:
        value: Cell = text if base == "str" else _READERS[base](text)
    except (ValueError, KeyError):
        raise ValueError(f"{text!r} is no {base}") from None
    return fitted(kind, value)


_READERS: dict[str, Callable[[str], Cell]] = {
    "int": int,
    "float": float,
    "bool": {"true": True, "false": False}.__getitem__,
}
