"""Sweeps: every run once, in its place, nothing mixed, dropped or overwritten, wherever it was run."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import pytest

from ainp2p.errors import InvalidInput
from ainp2p.simulation.errors import Mixed, VersionMismatch
from ainp2p.simulation.results import sweep_files, sweeping
from ainp2p.simulation.results.executors import PoolExecutor
from ainp2p.simulation.results.model_files import ModelFile
from ainp2p.simulation.results.sweep_files import SweepFiles
from ainp2p.simulation.results.sweep_plan import Outcome, ReplicateFailed, plan, take, tidy
from ainp2p.simulation.results.sweeping import load_sweep, sweep
from ainp2p.simulation.results.tables import Table
from tests.simulation.results import small

GRID = {"agents": [10, 100], "rate": [1.0, 0.5]}


def tiny(seeds: Any = (1, 2), grid: Any = GRID, **options: Any) -> Table:
    """A sweep of the trivial model, in this process if nothing else is said."""
    if "executor" not in options:
        options.setdefault("processes", 1)
    return sweep(small.model, grid, seeds, **{"run": small.tiny, **options})


class Backwards(Executor):
    """Runs what was submitted when the first result is asked for, the last one first."""

    def __init__(self, change: Callable[[list[Any]], list[Any]] = lambda results: results) -> None:
        self._waiting: list[tuple[Future[Any], Any, Any]] = []
        self._change = change

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._waiting.append((future, fn, args))
        if len(self._waiting) == 8:  # all of GRID with two seeds
            results = self._change([fn(*args) for _, fn, args in self._waiting])
            for (future_, _, _), result in reversed(list(zip(self._waiting, results, strict=True))):
                future_.set_result(result)
        return future


# --- what a sweep gives ---------------------------------------------------------------------------


def test_a_row_for_each_point_and_seed_with_seed_and_parameters_in_it() -> None:
    table = tiny()
    assert table.names == ("seed", "agents", "rate", "hash", "duration_s", *table.names[5:-1], "error")
    rows = [(row["seed"], row["agents"], row["rate"]) for row in table.dicts()]
    assert rows == [(s, a, r) for a in (10, 100) for r in (1.0, 0.5) for s in (1, 2)]
    assert len(set(table["drawn"])) == 8
    assert set(table["error"]) == {""}


def test_integers_stay_integers_and_what_may_be_missing_is_nullable() -> None:
    kinds = dict(tiny().columns)
    assert (kinds["seed"], kinds["agents"], kinds["rate"]) == ("int", "int", "float")
    assert (kinds["trades"], kinds["fill_rate"], kinds["error"]) == ("int?", "float?", "str")


def test_the_order_in_which_runs_end_does_not_matter() -> None:
    assert tiny(executor=Backwards()) == tiny()


def test_strategies_can_be_swept() -> None:
    table = tiny(grid={"style": [small.undercut, small.match]}, seeds=[1])
    where = "tests.simulation.results.small"
    assert list(table["style"]) == [f"{where}:undercut", f"{where}:match"]


def test_what_is_measured_can_be_chosen() -> None:
    table = tiny(seeds=[4], grid={}, measure=lambda result: {"double": 2 * result.seed, "name": "x"})
    assert table.names == ("seed", "hash", "duration_s", "double", "name", "error")
    assert table.row(0)[3:5] == (8, "x")


def test_without_a_grid_only_the_seed_changes() -> None:
    assert list(tiny(seeds=range(3), grid={})["seed"]) == [0, 1, 2]


def test_a_thousand_runs_are_a_thousand_rows() -> None:
    table = tiny(seeds=range(250), progress=False)
    assert len(table) == 1000
    assert len(set(zip(table["seed"], table["agents"], table["rate"], strict=True))) == 1000


def test_a_bar_shows_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr("sys.stderr", shown)
    tiny(progress=True)
    assert "8/8" in shown.getvalue()


def test_no_bar_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    tiny()
    assert capsys.readouterr() == ("", "")


# --- where it is run ------------------------------------------------------------------------------


@pytest.mark.process
def test_processes_give_the_same_rows_as_none() -> None:
    assert tiny(processes=2) == tiny()


def test_any_executor_gives_the_same_rows() -> None:
    with ThreadPoolExecutor(2) as threads:
        assert tiny(executor=threads) == tiny()


class Lonely:
    """Runs a replicate, and fails if another thread of this process runs one."""

    def __init__(self) -> None:
        self._inside = threading.Lock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._inside.acquire(blocking=False):
            raise InvalidInput("one world at a time in a process")
        try:
            time.sleep(0.01)  # the others begin meanwhile, if they may
            return small.tiny(*args, **kwargs)
        finally:
            self._inside.release()


def test_worlds_in_the_threads_of_a_process_take_turns() -> None:
    with ThreadPoolExecutor(4) as threads:
        assert tiny(executor=threads, run=Lonely()) == tiny()


def test_worlds_that_take_no_turns_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "_ALONE", nullcontext())  # the mutant
    with ThreadPoolExecutor(4) as threads, pytest.raises(ReplicateFailed, match="one world at a time"):
        tiny(executor=threads, run=Lonely())


def test_any_pool_gives_the_same_rows() -> None:
    with ThreadPool(2) as pool:
        assert tiny(executor=PoolExecutor(pool)) == tiny()


def test_a_failure_in_a_pool_is_the_futures() -> None:
    with ThreadPool(1) as pool, pytest.raises(ZeroDivisionError):
        PoolExecutor(pool).submit(divmod, 1, 0).result()


@pytest.mark.process
def test_a_thousand_runs_on_a_dask_cluster(tmp_path: Path) -> None:
    from distributed import Client, LocalCluster

    options = {"dashboard_address": ":0", "local_directory": tmp_path}  # no fixed port, no files elsewhere
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, **options) as cluster:
        with Client(cluster) as client:
            table = tiny(seeds=range(250), executor=client.get_executor())
    assert table == tiny(seeds=range(250))
    assert len(table) == 1000


def test_a_model_in_a_file_travels_by_its_text(tmp_path: Path) -> None:
    path = tmp_path / "market.py"
    path.write_text("async def model(world, *, agents: int = 3): ...\n")
    file = ModelFile.read(path)
    path.write_text("async def model(world): ...\n")  # edited while the sweep runs
    table = sweep(file, {"agents": [1, 2]}, [1], processes=1, run=small.tiny)
    assert list(table["agents"]) == [1, 2]


@pytest.mark.process
def test_a_world_is_the_same_in_any_process(tmp_path: Path) -> None:
    path = tmp_path / "market.py"
    path.write_text("async def model(world, *, agents: int = 3): world.measure('x', world.rng().random())")
    file = ModelFile.read(path)
    here = sweep(file, {"agents": [1]}, [1, 2], processes=1)
    assert sweep(file, {"agents": [1]}, [1, 2], processes=2) == here
    assert len({*here["hash"]}) == 2


@pytest.mark.process
def test_a_model_that_other_processes_cannot_have_is_refused_before_anything_is_run() -> None:
    async def inner(world: object) -> None: ...

    with pytest.raises(InvalidInput, match="top level of a module, or say processes=1"):
        sweep(inner, {}, [1, 2], processes=2, run=small.tiny)


@pytest.mark.parametrize("processes", [0, -1])
def test_a_sweep_needs_a_process(processes: int) -> None:
    with pytest.raises(InvalidInput, match="at least one process"):
        tiny(processes=processes)


def test_processes_and_an_executor_contradict_each_other() -> None:
    with pytest.raises(InvalidInput, match="processes or an executor"):
        tiny(executor=Backwards(), processes=2)


# --- what is refused before -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid", "seeds", "said"),
    [
        pytest.param({}, [], "at least one seed", id="no seeds"),
        pytest.param({}, [1, 2, 1], "seed 1 stands twice", id="a seed twice"),
        pytest.param({}, [1, 2.0], "a seed is an integer, not 2.0", id="a seed that is no integer"),
        pytest.param({}, [True], "a seed is an integer", id="a seed that is a truth"),
        pytest.param({"agents": []}, [1], "no value for 'agents'", id="a parameter without values"),
        pytest.param({"agents": [1, 1]}, [1], "1 twice for 'agents'", id="a value twice"),
        pytest.param({"agents": [1, 1.0]}, [1], "twice for 'agents'", id="the same value as another kind"),
        pytest.param({"agents": [1, "1"]}, [1], "different kinds", id="values of different kinds"),
        pytest.param({"style": "plain"}, [1], "give the list of its values", id="a text for a list"),
        pytest.param({"agents": 3}, [1], "give the list of its values", id="a number for a list"),
        pytest.param({"seed": [1]}, [1], "column of that name", id="the seed as a parameter"),
        pytest.param({"hash": [1]}, [1], "column of that name", id="a column of ours as a parameter"),
    ],
)
def test_a_sweep_that_would_mix_is_refused(grid: dict[str, Any], seeds: list[int], said: str) -> None:
    with pytest.raises(Mixed, match=said):
        tiny(seeds, grid)


@pytest.mark.parametrize(
    ("model", "grid", "said"),
    [
        pytest.param(small.model, {"agent": [1]}, "no parameter 'agent'; it has agents", id="unknown"),
        pytest.param(small.needy, {}, "needs a value for its parameter 'agents'", id="one is missing"),
        pytest.param(small.model, {"style": [[1], [2]]}, "cannot stand in a table", id="no plain value"),
    ],
)
def test_a_grid_that_does_not_fit_the_model_is_refused(model: Any, grid: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        sweep(model, grid, [1], processes=1, run=small.tiny)


def test_an_unknown_way_to_fail_is_refused() -> None:
    with pytest.raises(InvalidInput, match="'raise' or 'row'"):
        tiny(on_failure="ignore")


def test_seeds_may_come_from_anywhere() -> None:
    assert list(tiny((n * n for n in range(3)), {})["seed"]) == [0, 1, 4]


# --- what is refused while it runs ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "said"),
    [
        pytest.param(
            small.wrong_seed, "seed 1 was to be run, and the result is of seed 0", id="another seed"
        ),
        pytest.param(small.wrong_parameters, "agents=10 was to be run", id="other parameters"),
        pytest.param(small.uneven, "only one of them has 'extra'", id="other columns"),
    ],
)
def test_a_run_that_is_not_what_was_asked_for_is_refused(run: Any, said: str) -> None:
    with pytest.raises(Mixed, match=said):
        tiny(run=run)


def test_mutant_without_the_check_another_seeds_result_stands_in_the_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweeping, "_check_result", lambda result, replicate: None)
    assert set(tiny(run=small.wrong_seed)["hash"]) == {"00000000"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(lambda r: r[::-1], "was submitted, and the executor returned run", id="another run's"),
        pytest.param(lambda r: [r[0]] * 8, "was submitted, and the executor returned", id="the same again"),
    ],
)
def test_an_executor_that_mixes_results_is_found_out(change: Any, said: str) -> None:
    with pytest.raises(Mixed, match=said):
        tiny(executor=Backwards(change))


def test_mutant_an_executor_that_mixes_is_still_seen_by_seed_and_parameters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweeping, "_result_of", lambda future, replicate: future.result())
    assert tiny(executor=Backwards(lambda results: results[::-1])) == tiny()  # an outcome says whose it is
    with pytest.raises(Mixed, match="came back twice"):
        tiny(executor=Backwards(lambda results: [results[0]] * 8))


def test_an_outcome_is_checked_against_the_plan() -> None:
    replicates = plan({"agents": [1]}, [5])
    good = Outcome(0, 5, {"agents": 1}, "h", 1.0, {"a": 1})
    for bad, said in (
        (Outcome(1, 5, {"agents": 1}), "no run 1"),
        (Outcome(0, 6, {"agents": 1}), "what came back is of seed 6"),
        (Outcome(0, 5, {"agents": 2}), "'agents': 2"),
    ):
        with pytest.raises(Mixed, match=said):
            take(bad, replicates, {}, "row")
    with pytest.raises(Mixed, match="came back twice"):
        take(good, replicates, {0: good}, "row")


def test_a_row_that_is_missing_is_missed() -> None:
    replicates = plan({}, [5, 6])
    with pytest.raises(Mixed, match="1 rows are missing, the first of seed 6"):
        tidy(replicates, {0: Outcome(0, 5, {}, "h", 1.0, {"a": 1})})


def test_mutant_an_executor_that_drops_runs_is_caught_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "as_completed", lambda futures: list(futures)[:-1])
    with ThreadPoolExecutor(1) as threads, pytest.raises(Mixed, match="1 rows are missing"):
        tiny(executor=threads)


def test_a_metric_that_is_called_like_a_column_is_refused() -> None:
    with pytest.raises(Mixed, match="'agents' is a metric and a column"):
        tiny(measure=lambda result: {"agents": 1})


def test_a_metric_of_different_kinds_is_refused() -> None:
    with pytest.raises(Mixed, match="metric 'm' has values of different kinds"):
        tiny(measure=lambda result: {"m": "x" if result.seed == 1 else 1})


# --- failures -------------------------------------------------------------------------------------


def test_a_run_that_fails_ends_the_sweep_with_what_makes_it_fail_again() -> None:
    with pytest.raises(
        ReplicateFailed, match=r"seed=3, agents=10, rate=1\.0 failed: Untravelled: no way"
    ) as e:
        tiny([1, 3], run=small.failing)
    assert (e.value.seed, e.value.parameters) == (3, {"agents": 10, "rate": 1.0})
    assert "raise Untravelled" in e.value.__notes__[0]


def test_a_failure_can_be_a_row_that_says_so() -> None:
    table = tiny([1, 3], {"agents": [1]}, run=small.failing, on_failure="row")
    failed = table.row(1)
    assert (failed[0], failed[-1]) == (3, "Untravelled: no way")
    assert set(failed[2:-1]) == {None}
    assert dict(table.columns) == dict(tiny([1, 2], {"agents": [1]}).columns)


def test_if_all_fail_there_are_rows_all_the_same() -> None:
    table = tiny([3], {}, run=small.failing, on_failure="row")
    assert list(table.rows()) == [(3, None, None, "Untravelled: no way")]


@pytest.mark.process
def test_a_failure_in_another_process_is_told_as_well() -> None:
    with pytest.raises(ReplicateFailed, match="Untravelled: no way"):
        tiny([1, 3], {}, run=small.failing, processes=2)


@pytest.mark.process
def test_a_process_that_dies_is_no_missing_row() -> None:
    with pytest.raises(ReplicateFailed, match="lost"):
        tiny([1, 3], {}, run=small.dying, processes=2, on_failure="row")


# --- output ---------------------------------------------------------------------------------------


def counting(seen: list[int]) -> Any:
    def run(model: object, *, seed: int, **parameters: Any) -> Any:
        seen.append(seed)
        return small.tiny(model, seed=seed, **parameters)

    return run


def test_the_output_has_the_table(tmp_path: Path) -> None:
    table = tiny(out=tmp_path)
    assert Table.from_csv(tmp_path / "sweep.csv", "sweep", table.columns) == table
    assert load_sweep(tmp_path) == table


def test_an_interrupted_sweep_goes_on_where_it_was(tmp_path: Path) -> None:
    with pytest.raises(ReplicateFailed):
        tiny([1, 2, 3, 4], {}, out=tmp_path, run=small.failing)
    with pytest.raises(Mixed, match="2 rows are missing"):
        load_sweep(tmp_path)
    seen: list[int] = []
    assert tiny([1, 2, 3, 4], {}, out=tmp_path, run=counting(seen)) == tiny([1, 2, 3, 4], {})
    assert seen == [3, 4]


def test_a_torn_line_is_run_again(tmp_path: Path) -> None:
    rows = interrupted(tmp_path)
    rows.write_bytes(rows.read_bytes()[:-5])
    seen: list[int] = []
    assert tiny([1, 2, 3], {}, out=tmp_path, run=counting(seen)) == tiny([1, 2, 3], {})
    assert seen == [2, 3]


def interrupted(directory: Path) -> Path:
    """A sweep that has come as far as seed 2; its rows."""
    with pytest.raises(ReplicateFailed):
        tiny([1, 2, 3], {}, out=directory, run=small.failing)
    return directory / sweep_files.ROWS


def test_a_finished_sweep_is_not_overwritten(tmp_path: Path) -> None:
    tiny(out=tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(Mixed, match="finished: it is not overwritten"):
        tiny(out=tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"seeds": [1, 2, 4]}, r"\(seeds differ\)", id="other seeds"),
        pytest.param({"grid": {"agents": [1]}}, r"\(grid differ\)", id="another grid"),
    ],
)
def test_another_sweep_does_not_go_on_in_the_same_directory(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    before = interrupted(tmp_path).read_bytes()
    with pytest.raises(Mixed, match=said):
        tiny(**{"seeds": [1, 2, 3], "grid": {}, "out": tmp_path, **change})
    assert (tmp_path / sweep_files.ROWS).read_bytes() == before


def test_rows_of_other_settings_are_not_mixed_in(tmp_path: Path) -> None:
    with pytest.raises(ReplicateFailed):
        tiny([1, 2, 3], {}, out=tmp_path, run=partial(small.failing, signed="keyed"))
    with pytest.raises(Mixed, match=r"\(settings differ\)"):
        tiny([1, 2, 3], {}, out=tmp_path, run=partial(small.failing, signed="ed25519"))
    with pytest.raises(ReplicateFailed, match="seed=3"):
        tiny([1, 2, 3], {}, out=tmp_path, run=partial(small.failing, signed="keyed"))


@pytest.mark.parametrize("where", ["file", "file/runs"])
def test_where_no_sweep_can_be_written_none_is_run(where: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    seen: list[int] = []
    with pytest.raises(InvalidInput, match=f"{where} cannot be written"):
        tiny([1, 2], {}, out=tmp_path / where, run=counting(seen))
    assert not seen


def test_a_disk_that_fills_up_in_a_sweep_is_told(tmp_path: Path) -> None:
    with SweepFiles(tmp_path / "runs", {}) as held:
        with open("/dev/full", "wb", buffering=0) as full:
            held._rows, rows = full, held._rows
            with pytest.raises(InvalidInput, match=r"rows.jsonl cannot be written: No space left"):
                held.keep({"seed": 1})
        held._rows = rows


def test_a_model_that_was_edited_meanwhile_does_not_go_on(tmp_path: Path) -> None:
    path = tmp_path / "market.py"
    path.write_text("async def model(world): ...\n")
    options: dict[str, Any] = {"processes": 1, "out": tmp_path / "out"}
    with pytest.raises(ReplicateFailed):
        sweep(ModelFile.read(path), {}, [1, 3], run=small.failing, **options)
    path.write_text("async def model(world): ...  # another one\n")
    with pytest.raises(Mixed, match="source has changed since"):
        sweep(ModelFile.read(path), {}, [1, 3], run=small.tiny, **options)


def test_mutant_a_description_that_is_not_compared_lets_sweeps_mix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(tmp_path)
    monkeypatch.setattr(SweepFiles, "_check", lambda self: None)
    with pytest.raises(Mixed, match="what came back is of seed 1"):  # the rows are checked once more
        tiny([7, 2, 3], {}, out=tmp_path)
    tiny([1, 2, 3, 4], {}, out=tmp_path)  # but these rows would pass for the other sweep's


def test_a_directory_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(Mixed, match="something that is no sweep"):
        tiny(out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_processes_do_not_write_to_one_directory(tmp_path: Path) -> None:
    with SweepFiles(tmp_path, {"seeds": [1]}), pytest.raises(Mixed, match="another process is writing"):
        SweepFiles(tmp_path, {"seeds": [1]}).__enter__()
    with SweepFiles(tmp_path, {"seeds": [1]}):
        pass  # free again


def test_mutant_without_the_lock_two_processes_would_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcntl.flock", lambda file, how: None)
    with SweepFiles(tmp_path, {"seeds": [1]}), SweepFiles(tmp_path, {"seeds": [1]}):
        pass


def test_a_sweep_of_another_version_says_so(tmp_path: Path) -> None:
    interrupted(tmp_path)
    path = tmp_path / sweep_files.PLAN
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 2}))
    with pytest.raises(VersionMismatch, match="version 2, and this is version 1"):
        tiny([1, 2, 3], {}, out=tmp_path)


@pytest.mark.parametrize("line", ["{", "[1]", "3", '{"index": 0}', '{"strange": 1}'])
def test_a_damaged_row_is_refused(line: str, tmp_path: Path) -> None:
    rows = interrupted(tmp_path)
    rows.write_text(f"{line}\n{rows.read_text()}")
    with pytest.raises(InvalidInput):
        tiny([1, 2, 3], {}, out=tmp_path)


def test_a_row_that_stands_twice_is_refused(tmp_path: Path) -> None:
    rows = interrupted(tmp_path)
    rows.write_text(rows.read_text() * 2)
    with pytest.raises(Mixed, match="came back twice"):
        tiny([1, 2, 3], {}, out=tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_a_description_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    interrupted(tmp_path)
    (tmp_path / sweep_files.PLAN).write_text(text)
    with pytest.raises(InvalidInput, match="does not describe a sweep"):
        tiny([1, 2, 3], {}, out=tmp_path)


def test_where_there_is_no_sweep_none_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="does not describe a sweep"):
        load_sweep(tmp_path)
