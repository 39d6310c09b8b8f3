"""Results: what they say, saved whole and read again, compared."""

from __future__ import annotations

import dataclasses
import errno
import json
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ainp2p.errors import InvalidInput
from ainp2p.simulation.core.trace import Trace
from ainp2p.simulation.errors import VersionMismatch
from ainp2p.simulation.results import files, report, results, saving
from ainp2p.simulation.results.results import COLUMNS, Result, label, new_table
from ainp2p.simulation.results.tables import Table
from tests.simulation.results.small import market, undercut


class Still:
    """A clock and draws that stand."""

    now = 1.0
    count = 0


def trace(*kinds: str) -> Trace:
    made = Trace(Still(), Still())
    for kind in kinds:
        made.note(kind)
    return made


# --- in numbers -----------------------------------------------------------------------------------


def test_the_summary_is_the_run_in_numbers() -> None:
    numbers = market().summary()
    assert (numbers["trades"], numbers["filled"], numbers["fill_rate"]) == (200, 180, 0.9)
    assert numbers["welfare"] == 0.75  # 30 + 30 of 80
    assert numbers["population"] == 7
    assert numbers["messages"] == sum(market().messages["count"])
    assert 2 <= (numbers["price_mean"] or 0) <= 3
    assert 0 < (numbers["cheats_share"] or 0) < 0.3
    assert numbers["lifetime_s"] is None  # four of six live on
    assert numbers["price"] == list(market().metrics["value"])[-4]  # what the model measured last
    assert not {"surplus", "optimum"} & set(numbers)


def test_what_nobody_did_has_no_number() -> None:
    numbers = Result(1, {}, "", 1.0).summary()
    undefined = {name for name, value in numbers.items() if value is None}
    assert undefined == {
        *("fill_rate", "price_mean", "price_dispersion", "elapsed_p50_ms", "elapsed_p99_ms"),
        *("welfare", "gini", "cheats_share", "lifetime_s"),
    }


def test_a_metric_of_the_model_does_not_hide_one_of_ours() -> None:
    result = Result(1, {}, "", 1.0)
    result.metrics.append_row((0.5, "gini", 0.25))
    assert result.summary()["gini"] is None
    assert result.summary()["gini_measured"] == 0.25


def test_validators_are_no_market_participants() -> None:
    result = Result(1, {}, "", 10.0)
    result.agents.append_row(("v0", "validator", 0, 10**9, 0, 0, 0, 0, 0.0, 1.0))
    result.agents.append_row(("ada", "seller", 0, 5, 0, 0, 0, 0, 0.0, None))
    assert (result.summary()["gini"], result.summary()["lifetime_s"]) == (0.0, None)


def test_prices_of_different_things_are_not_compared() -> None:
    result = Result(1, {}, "", 10.0)
    for skill, price in (("bread", 2), ("bread", 2), ("house", 900), ("house", 900)):
        result.trades.append_row((1.0, "a", "b", skill, 1, price, "", 1, "", ""))
    assert result.summary()["price_dispersion"] == 0


def test_a_table_with_other_columns_is_no_table_of_a_result() -> None:
    with pytest.raises(InvalidInput, match="trades"):
        Result(1, {}, "", 1.0, trades=Table("trades", (("at_s", float),)))


@pytest.mark.parametrize("value", [1, 0.5, "fair", True, None])
def test_plain_parameters_are_kept_as_they_are(value: Any) -> None:
    assert label(value) is value


def test_a_function_is_kept_by_its_name() -> None:
    assert label(undercut) == "tests.simulation.results.small:undercut"


@pytest.mark.parametrize(
    "value",
    [
        pytest.param([1], id="a list"),
        pytest.param(lambda: None, id="a function without a name"),
        pytest.param(partial(undercut), id="a partial function"),
        pytest.param(object(), id="an object"),
    ],
)
def test_a_parameter_that_cannot_be_written_down_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInput, match="cannot stand in a table"):
        label(value)


# --- on disk --------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", ["csv", "parquet"])
def test_a_saved_result_is_read_as_it_was(format_: str, tmp_path: Path) -> None:
    result = market(trace=trace("a", "b"))
    result.save(tmp_path / "out", format=format_, report=True)
    again = Result.load(tmp_path / "out")
    assert again == result
    assert not result.diff(again)
    assert again.trace is not None
    assert again.summary() == result.summary()
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {f".{format_}", ".json", ".html", ""}


def test_an_empty_directory_may_be_filled(tmp_path: Path) -> None:
    market().save(tmp_path)
    assert Result.load(tmp_path) == market()


def test_results_are_not_overwritten(tmp_path: Path) -> None:
    market(1).save(tmp_path / "out")
    with pytest.raises(InvalidInput, match="not overwritten"):
        market(2).save(tmp_path / "out")
    assert Result.load(tmp_path / "out").seed == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_mutant_a_save_that_does_not_look_would_overwrite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "new_directory", lambda path: _as_it_is(Path(path)))
    monkeypatch.setattr("ainp2p.simulation.results.tables.new_file", lambda path: _as_it_is(Path(path)))
    market(1).save(tmp_path)
    market(2).save(tmp_path)
    assert saving.manifest(tmp_path)["seed"] == 2


class _as_it_is:  # noqa: N801  # stands for a function
    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *exc: object) -> None: ...


def test_a_format_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="csv or parquet"):
        market().save(tmp_path / "out", format="xls")
    assert list(tmp_path.iterdir()) == []


def test_a_save_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "_digest", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        market().save(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["file/out", "file/deeper/out"])
def test_where_nothing_can_be_written_that_is_what_is_said(where: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InvalidInput, match=f"{where} cannot be written"):
        market().save(tmp_path / where)
    with pytest.raises(InvalidInput, match=f"{where} cannot be written"):
        market().report(tmp_path / where)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_disk_that_is_full_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(table: Table, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setitem(saving._WRITERS, "csv", full)
    with pytest.raises(InvalidInput, match=r"out cannot be written: No space left on device$"):
        market().save(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_at_the_last_file_is_told_by_the_name_that_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(result: Result) -> str:
        raise OSError(errno.ENOSPC, "No space left on device", "report.html")

    monkeypatch.setattr(report, "page", full)
    with pytest.raises(InvalidInput, match=r"^\S+/out cannot be written: No space left on device$"):
        market().save(tmp_path / "out", report=True)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_can_only_be_read_is_told_by_the_name_that_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(path: Path, *words: object, **named: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    for name in ("write_text", "unlink"):
        monkeypatch.setattr(Path, name, read_only)
    with pytest.raises(InvalidInput, match=r"page\.html cannot be written: Read-only file system$"):
        market().report(tmp_path / "page.html")


def test_mutant_without_the_translation_the_draft_is_what_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(files, "writing", lambda path: nullcontext())
    with pytest.raises(OSError, match="file"):
        market().save(tmp_path / "file/out")


def saved(tmp_path: Path) -> Path:
    market().save(tmp_path / "out")
    return tmp_path / "out"


def change(directory: Path, **fields: Any) -> None:
    """Edit result.json."""
    path = directory / saving.MANIFEST
    said = json.loads(path.read_text())
    path.write_text(
        json.dumps({name: value for name, value in {**said, **fields}.items() if value != "gone"})
    )


def test_a_result_of_another_version_says_so(tmp_path: Path) -> None:
    change(saved(tmp_path), version=results.VERSION + 1)
    with pytest.raises(VersionMismatch, match=f"version {results.VERSION + 1}, and this is version"):
        Result.load(tmp_path / "out")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        pytest.param({"hash": "gone"}, "lacks 'hash'", id="a field is missing"),
        pytest.param({"version": "gone"}, "not the result.json", id="no version"),
        pytest.param({"format": "xls"}, "not the result.json", id="a format that does not exist"),
        pytest.param({"rows": {}}, "not the result.json", id="no tables"),
        pytest.param({"rows": 3}, "not the result.json", id="a number of tables"),
        pytest.param({"files": ["x"]}, "not the result.json", id="files without hashes"),
        pytest.param({"files": {}}, "nothing of the table 'trades'", id="no files"),
        pytest.param({"parameters": 3}, "not the result.json", id="no parameters"),
        pytest.param({"seed": "7"}, "not the result.json", id="a seed in words"),
        pytest.param({"rows": dict.fromkeys(COLUMNS, 3)}, "200 rows; 3 were saved", id="other counts"),
        pytest.param({"files": {"../x": ""}}, "not whole", id="a file elsewhere"),
        pytest.param({"files": {"more.csv": ""}}, "lacks 'more.csv'", id="a file that is not there"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(fields: dict[str, Any], said: str, tmp_path: Path) -> None:
    change(saved(tmp_path), **fields)
    with pytest.raises(InvalidInput, match=said):
        Result.load(tmp_path / "out")


@pytest.mark.parametrize("text", ["", "[1]", "{", "3"])
def test_a_manifest_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    (saved(tmp_path) / saving.MANIFEST).write_text(text)
    with pytest.raises(InvalidInput, match=r"result\.json"):
        Result.load(tmp_path / "out")


def test_a_directory_without_a_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no saved result"):
        Result.load(tmp_path)


def test_a_table_that_was_edited_is_not_taken_for_measured(tmp_path: Path) -> None:
    path = saved(tmp_path) / "trades.csv"
    path.write_text(path.read_text().replace("busy", "fine"))
    with pytest.raises(InvalidInput, match="edited or cut short"):
        Result.load(tmp_path / "out")


def test_mutant_without_the_hashes_an_edited_table_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "_digest", lambda path: "the same")
    path = saved(tmp_path) / "trades.csv"
    path.write_text(path.read_text().replace("busy", "fine"))
    assert "fine" in list(Result.load(tmp_path / "out").trades["failure"])


# --- compared -------------------------------------------------------------------------------------


def test_a_run_does_not_differ_from_itself() -> None:
    found = market().diff(market())
    assert not found
    assert str(found) == "the same"


def test_a_difference_is_told_from_settings_to_rows() -> None:
    ours, theirs = market(7), market(8)
    theirs.trades.append_row((3600.0, "a", "b", "echo", 1, 1, "", 1, "", ""))
    found = ours.diff(theirs)
    assert found.hashes == (ours.hash, theirs.hash)
    assert ("seed", 7, 8) in found.settings
    assert found.counts == (("trades", 200, 201),)
    first = found.rows[0]
    assert (first.table, first.index) == ("trades", 0)
    assert first.ours == ours.trades.row(0)
    assert "seed: 7 / 8" in str(found)
    assert "trades: 200 / 201 rows" in str(found)


def test_where_one_table_ends_there_is_no_row() -> None:
    ours, theirs = market(), market()
    theirs.marks.append_row(("more", 1))
    [row] = ours.diff(theirs).rows
    assert (row.table, row.index, row.ours, row.theirs) == ("marks", 2, None, ("more", 1))
    assert "(no such row)" in str(ours.diff(theirs))


def test_parameters_differ_by_value_by_kind_and_by_being_there() -> None:
    ours = dataclasses.replace(market(), parameters={"agents": 1, "loss": 0.0, "only": 1})
    theirs = dataclasses.replace(market(), parameters={"agents": 2, "loss": 0})
    assert [what for what, _, _ in ours.diff(theirs).settings] == [
        "parameter agents",
        "parameter loss",
        "parameter only",
    ]


def test_the_first_different_event_is_found_by_the_traces() -> None:
    found = market(trace=trace("a", "b", "c")).diff(market(trace=trace("a", "x", "c")))
    assert found.trace is not None
    assert found.trace.index == 1
    assert "first difference at event 1" in str(found)


def test_traces_that_cannot_be_compared_are_left_out() -> None:
    sparse = Trace(Still(), Still(), every=0)
    sparse.note("x")
    assert market(trace=trace("a")).diff(market(trace=sparse)).trace is None
    assert market(trace=trace("a")).diff(market()).trace is None


def test_every_table_has_time_or_a_name_first() -> None:
    assert {new_table(name).names[0] for name in COLUMNS} == {"at_s", "name"}
