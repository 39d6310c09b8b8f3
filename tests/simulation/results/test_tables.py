"""Tables: typed, whole rows or none, the same again from every kind of file."""

from __future__ import annotations

import math
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ainp2p.errors import InvalidInput
from ainp2p.simulation.results import columns, files, tables
from ainp2p.simulation.results.columns import REPEATING_MAX, Texts, kind_of
from ainp2p.simulation.results.tables import Table

COLUMNS = (("at_s", float), ("who", str), ("amount", int), ("good", bool), ("died_s", float | None))
PLAIN = COLUMNS[:4]  # nothing may be missing: rows take the short way
WIDE = (*COLUMNS, ("count", int | None), ("note", str | None), ("known", bool | None))
ROW = (1.5, "ada", 7, True, None)
HEAD = "at_s,who,amount,good,died_s\n"
FORMATS = ("csv", "parquet")


def table(*rows: tuple[Any, ...]) -> Table:
    made = Table("people", COLUMNS)
    made.extend(rows)
    return made


def through(made: Table, path: Path, format_: str) -> Table:
    """Written and read again."""
    if format_ == "csv":
        made.to_csv(path)
        return Table.from_csv(path, made.name, made.columns)
    made.to_parquet(path)
    return Table.from_parquet(path, made.name, made.columns)


# --- rows -----------------------------------------------------------------------------------------


def test_rows_come_back_as_they_were_added() -> None:
    made = table(ROW, (2.0, "", -3, False, 9.25))
    assert list(made.rows()) == [ROW, (2.0, "", -3, False, 9.25)]
    assert [type(cell) for cell in made.row(1)] == [float, str, int, bool, float]
    assert list(made["amount"]) == [7, -3]
    assert next(made.dicts()) == dict(zip(made.names, ROW, strict=True))


def test_rows_can_be_added_by_name_and_what_may_be_missing_may_be_left_out() -> None:
    made = table()
    made.append(who="ada", at_s=1, amount=7, good=True)
    assert list(made.rows()) == [(1.0, "ada", 7, True, None)]


def test_an_empty_table_is_a_table() -> None:
    assert len(table()) == 0
    assert table()
    assert "0 rows of at_s, who" in repr(table())


def test_numbers_of_numpy_become_pythons() -> None:
    made = table((np.float64(1.5), "ada", np.int32(7), True, np.float32(0.5)))
    assert made == table((1.5, "ada", 7, True, 0.5))
    assert type(made.row(0)[0]) is float


@pytest.mark.parametrize(
    ("row", "said"),
    [
        pytest.param((1.5, "ada", 7, True), "has 5 columns, the row 4", id="a value too few"),
        pytest.param((*ROW, 1), "has 5 columns, the row 6", id="a value too many"),
        pytest.param(("1.5", "ada", 7, True, None), "'at_s'.*'1.5' is no float", id="text for a number"),
        pytest.param((1.5, 7, 7, True, None), "'who'.*7 is no str", id="a number for text"),
        pytest.param((1.5, "ada", 7.0, True, None), "'amount'.*7.0 is no int", id="a float for an integer"),
        pytest.param((1.5, "ada", True, True, None), "'amount'.*True is no int", id="a truth for an integer"),
        pytest.param((True, "ada", 7, True, None), "'at_s'.*True is no float", id="a truth for a float"),
        pytest.param((1.5, "ada", 7, 1, None), "'good'.*1 is no bool", id="a number for a truth"),
        pytest.param((1.5, "ada", None, True, None), "'amount'.*None is no int", id="none where none may be"),
        pytest.param((1.5, "ada", 1 << 63, True, None), "more than 64 bits", id="an integer too large"),
        pytest.param((1.5, "ada", -(1 << 63) - 1, True, None), "more than 64 bits", id="too small"),
        pytest.param((10**400, "ada", 1, True, None), "is no float", id="a float too large"),
        pytest.param((1.5, "\ud800", 7, True, None), "'who'.*surrogates", id="half a character"),
        pytest.param((1.5, "ada", 7, True, "x"), "is no float or None", id="text for a number or none"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_whole(row: tuple[Any, ...], said: str) -> None:
    made = table(ROW)
    with pytest.raises(InvalidInput, match=said):
        made.append_row(row)
    assert list(made.rows()) == [ROW]
    made.append_row(ROW)
    assert len(made) == 2


def refused_half_way(row: tuple[Any, ...]) -> Table:
    """A table of one row that has refused another one, which looked well: its types were the right ones."""
    made = Table("plain", PLAIN)
    made.append_row(ROW[:4])
    with pytest.raises(InvalidInput):
        made.append_row(row)
    return made


@pytest.mark.parametrize("row", [(1.5, "ada", 1 << 63, True), (1.5, "\ud800", 7, True)])
def test_a_row_that_is_refused_half_way_leaves_nothing(row: tuple[Any, ...]) -> None:
    assert list(refused_half_way(row).rows()) == [ROW[:4]]


def test_mutant_a_row_that_is_not_taken_back_leaves_columns_of_different_lengths(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tables, "cut", lambda column, length: None)
    with pytest.raises(ValueError, match="zip"):
        list(refused_half_way((1.5, "ada", 1 << 63, True)).rows())


def test_a_name_that_is_no_column_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no column 'wo'; it has at_s, who"):
        table().append(wo="ada")
    with pytest.raises(InvalidInput, match="no column 'wo'"):
        table()["wo"]


def test_a_value_that_is_missing_is_refused_by_its_name() -> None:
    with pytest.raises(InvalidInput, match="'amount' is missing"):
        table().append(at_s=1.0, who="ada", good=True)


@pytest.mark.parametrize(
    "given_",
    [
        pytest.param((), id="no columns"),
        pytest.param((("a", int), ("a", str)), id="a name twice"),
        pytest.param((("", int),), id="no name"),
        pytest.param((("a", bytes),), id="a type that no column has"),
        pytest.param((("a", int | str),), id="two types"),
        pytest.param((("a", "number"),), id="a kind that does not exist"),
    ],
)
def test_a_table_that_cannot_be_is_refused(given_: tuple[tuple[str, Any], ...]) -> None:
    with pytest.raises(InvalidInput):
        Table("people", given_)


def test_kinds_are_types_in_words() -> None:
    assert [kind_of(t) for t in (int, float | None, "str?")] == ["int", "float?", "str?"]


def test_tables_are_equal_that_say_the_same() -> None:
    assert table(ROW) == table(ROW)
    assert table((math.nan, "ada", 7, True, None)) == table((math.nan, "ada", 7, True, None))
    assert table(ROW) != table((1.5, "ada", 8, True, None))
    assert table(ROW) != table()
    assert table() != Table("people", COLUMNS[:2])
    assert table() != "people"


def test_the_first_difference_is_where_one_row_or_an_end_differs() -> None:
    other = (1.5, "ada", 8, True, None)
    assert table(ROW, ROW).first_difference(table(ROW, ROW)) is None
    assert table(ROW, ROW, ROW).first_difference(table(ROW, other, ROW)) == 1
    assert table(ROW, ROW).first_difference(table(ROW)) == 1


def test_a_table_travels_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(table(ROW))) == table(ROW)


# --- texts ----------------------------------------------------------------------------------------


def test_texts_that_never_repeat_are_kept_as_well_as_those_that_do() -> None:
    texts = Texts()
    words = [f"job-{i}" for i in range(2 * REPEATING_MAX)] + ["job-0", "", "grüße"]
    for word in words:
        texts.append(word)
    assert list(texts) == words
    assert (texts[0], texts[-1], len(texts)) == ("job-0", "grüße", len(words))
    texts.cut(3)
    assert list(texts) == words[:3]
    texts.cut(0)
    assert list(texts) == []


def test_many_texts_take_little_memory() -> None:
    repeating, each_new = Texts(), Texts()
    for i in range(50_000):
        repeating.append(f"agent-{i % 100}")
        each_new.append(f"{i:032x}")
    assert memory(repeating) < 5 * 50_000 + 20_000
    assert memory(each_new) < 42 * 50_000 * 9 // 8 + 20_000  # what grows has some room


def memory(texts: Texts) -> int:
    return sum(sys.getsizeof(getattr(texts, slot)) for slot in Texts.__slots__)


@given(st.lists(st.text(st.characters(codec="utf-8")), max_size=50), st.integers(0, 20))
def test_texts_are_a_list_whatever_is_added_and_taken_back(words: list[str], keep: int) -> None:
    texts, model = Texts(), list[str]()
    limit = columns.REPEATING_MAX
    columns.REPEATING_MAX = 4
    try:
        for word in words:
            texts.append(word)
            model.append(word)
        texts.cut(keep)
        del model[keep:]
        texts.append("end")
        model.append("end")
    finally:
        columns.REPEATING_MAX = limit
    assert list(texts) == model
    assert [texts[i] for i in range(-len(model), len(model))] == model * 2


# --- files ----------------------------------------------------------------------------------------

INTS = st.integers(-(1 << 63), (1 << 63) - 1)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
ROWS = st.tuples(
    st.floats(),
    TEXTS,
    INTS,
    st.booleans(),
    st.none() | st.floats(),
    st.none() | INTS,
    st.none() | TEXTS.filter(bool),
    st.none() | st.booleans(),
)


@pytest.mark.parametrize("format_", FORMATS)
@settings(deadline=None)  # the first Parquet file loads pyarrow
@given(rows=st.lists(ROWS, max_size=5))
def test_what_is_read_is_what_was_written(
    format_: str, rows: list[tuple[Any, ...]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    made = Table("wide", WIDE)
    made.extend(rows)
    assert through(made, tmp_path_factory.mktemp("t") / "t", format_) == made


@pytest.mark.parametrize("format_", FORMATS)
def test_a_file_that_exists_is_not_overwritten(format_: str, tmp_path: Path) -> None:
    path = tmp_path / f"t.{format_}"
    path.write_text("precious")
    with pytest.raises(InvalidInput, match="not overwritten"):
        through(table(ROW), path, format_)
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_appears_while_ours_is_written_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    with pytest.raises(InvalidInput, match="appeared meanwhile"):  # noqa: PT012  # the block is what is tested
        with files.new_file(path) as draft:
            draft.write_text("ours")
            path.write_text("precious")
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


def test_mutant_a_rename_would_overwrite_what_appeared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.link", lambda draft, path: draft.replace(path))
    path = tmp_path / "t.csv"
    with files.new_file(path) as draft:
        draft.write_text("ours")
        path.write_text("precious")
    assert path.read_text() == "ours"


def test_a_directory_that_is_filled_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with pytest.raises(InvalidInput, match="filled meanwhile"):  # noqa: PT012  # the block is what is tested
        with files.new_directory(path) as draft:
            (draft / "ours").touch()
            path.mkdir()
            (path / "precious").touch()
    assert [p.name for p in path.iterdir()] == ["precious"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "to_text", lambda cell: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        table(ROW).to_csv(tmp_path / "t.csv")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("", r"line 0.*columns \[\]", id="nothing"),
        pytest.param("at_s,who,amount,good\n", "line 1: columns", id="a column is missing"),
        pytest.param("who,at_s,amount,good,died_s\n", "line 1: columns", id="columns in another order"),
        pytest.param(f"{HEAD}1.5,ada,7\n", "line 2: 3 fields", id="a short line"),
        pytest.param(f"{HEAD}1.5,ada,7.5,true,\n", "line 2: column 'amount'.*'7.5'", id="no integer"),
        pytest.param(f"{HEAD}1.5,ada,,true,\n", "'amount': '' is no int", id="an empty field"),
        pytest.param(f"{HEAD}1.5,ada,7,yes,\n", "'good': 'yes' is no bool", id="no truth"),
        pytest.param(f"{HEAD}1.5,ada,9223372036854775808,true,\n", "64 bits", id="an integer too large"),
    ],
)
def test_a_csv_file_that_is_no_such_table_is_refused_with_its_line(
    text: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=said):
        Table.from_csv(path, "people", COLUMNS)


def test_a_csv_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInput, match=r"t\.csv"):
        Table.from_csv(tmp_path / "t.csv", "people", COLUMNS)


def test_a_parquet_file_that_is_none_or_of_another_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "none").write_text("text")
    with pytest.raises(InvalidInput, match="no Parquet file"):
        Table.from_parquet(tmp_path / "none", "people", COLUMNS)
    table(ROW).to_parquet(tmp_path / "t")
    with pytest.raises(InvalidInput, match="has the columns"):
        Table.from_parquet(tmp_path / "t", "people", WIDE)


def test_without_the_extra_the_way_to_get_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InvalidInput, match=r"pip install 'ainp2p\[frames\]'"):
        table(ROW).to_pandas()


def test_a_frame_is_typed_and_indexed_by_virtual_time() -> None:
    made = Table("wide", WIDE)
    made.append_row((*ROW, 3, None, True))
    made.append_row((2.5, "bela", 8, False, 4.0, None, "x", None))
    frame = made.to_pandas()
    assert frame.index.name == "at_s"
    assert list(frame.index) == [1.5, 2.5]
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == {
        "who": "string",
        "amount": "int64",
        "good": "bool",
        "died_s": "Float64",
        "count": "Int64",
        "note": "string",
        "known": "boolean",
    }
    assert frame["count"].isna().tolist() == [False, True]
    assert frame["amount"].sum() == 15
