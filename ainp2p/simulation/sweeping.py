"""A model run for every point of a grid and every seed, in many processes: one tidy row for each run.

    model, grid, seeds → plan → [replicate → outcome] in any order, anywhere → rows in the plan's order

Nothing is mixed and nothing is lost: an outcome says which seed and parameters it is of and is checked
against the plan, all have the same columns, and a run that fails is an error or a row that says so.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import sys
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from ainp2p.errors import InvalidInput
from ainp2p.simulation.columns import Cell, fitted, kind_of
from ainp2p.simulation.errors import Mixed, SimulationError
from ainp2p.simulation.model_files import Model, ModelFile, check_names, digest_of, name_of
from ainp2p.simulation.results import Result, label
from ainp2p.simulation.sweep_files import SweepFiles, read_sweep
from ainp2p.simulation.tables import Table

Runner = Callable[..., Result]
Measure = Callable[[Result], Mapping[str, Cell]]
OWN_COLUMNS = ("seed", "hash", "duration_s", "error")  # beside parameters and metrics


class ReplicateFailed(SimulationError):
    """A run of a sweep failed; those before it are kept if the sweep has an output directory.

    Attributes:
        seed: of the run.
        parameters: of the run; `sim.run(model, seed, **parameters)` fails again.
    """

    def __init__(self, seed: int, parameters: Mapping[str, Cell], error: str, trace: str = "") -> None:
        given = "".join(f", {name}={value!r}" for name, value in parameters.items())
        super().__init__(f"the run with seed={seed}{given} failed: {error}")
        self.seed, self.parameters = seed, dict(parameters)
        if trace:
            self.add_note(f"where it was run:\n{trace}")


@dataclass(frozen=True, slots=True)
class Replicate:
    """One run that is to be made."""

    index: int
    seed: int
    parameters: Mapping[str, Any]

    @property
    def labels(self) -> dict[str, Cell]:
        """The parameters as a table keeps them."""
        return {name: label(value) for name, value in self.parameters.items()}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one; `error` is empty if it went well."""

    index: int
    seed: int
    parameters: Mapping[str, Cell]
    hash: str = ""
    duration_s: float = 0.0
    metrics: Mapping[str, Cell] | None = None
    error: str = ""
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Work:
    """What every process needs to run any replicate."""

    model: Model | ModelFile
    run: Runner | None
    measure: Measure | None


def sweep(
    model: Model | ModelFile,
    grid: Mapping[str, Sequence[Any]],
    seeds: Iterable[int],
    *,
    processes: int | None = None,
    executor: Executor | None = None,
    out: str | os.PathLike[str] | None = None,
    measure: Measure | None = None,
    on_failure: Literal["raise", "row"] = "raise",
    progress: bool | None = None,
    run: Runner | None = None,
) -> Table:
    """Run `model` with every combination of the grid's values, once with each seed.

    Args:
        grid: parameter → its values, each another one: numbers, texts, or functions of a module.
        seeds: one replicate for each, at every point of the grid.
        processes: how many to start; as many as this machine has cores if left out, 1: run here.
        executor: run in these instead (Dask: ``client.get_executor()``; pools: `PoolExecutor`).
        out: a directory that gets every outcome at once, and ``sweep.csv`` at the end. What an interrupted
            sweep has left there is not run again; a finished one is not overwritten.
        measure: what a row says of a run; `Result.summary` if left out.
        on_failure: "raise" ends the sweep with the first failure; "row" puts it into the column `error`.
        progress: whether to show a bar on standard error; only on a terminal if left out.
        run: what runs one replicate, called as ``run(model, seed=…, **parameters)``; `sim.run` if left out,
            or with settings of its own ``functools.partial(sim.run, signed="keyed")``.

    Returns:
        Columns `seed`, the parameters, `hash`, `duration_s`, the metrics, `error`; by grid, then seed.

    Raises:
        InvalidInput: the model has no such parameter, or cannot be sent to another process.
        Mixed: seeds or values repeat, columns differ, rows would be lost or results overwritten.
        ReplicateFailed: a run failed.
    """
    replicates = plan(grid, seeds)
    check_names(model.load() if isinstance(model, ModelFile) else model, grid)
    if on_failure not in ("raise", "row"):
        raise InvalidInput(f"on_failure is 'raise' or 'row', not {on_failure!r}")
    outcomes: dict[int, Outcome] = {}
    with ExitStack() as stack:
        files = None
        if out is not None:
            files = stack.enter_context(SweepFiles(out, _description(model, grid, replicates)))
            for kept in files.kept():
                _take(_outcome(kept), replicates, outcomes, on_failure)
        missing = [replicate for replicate in replicates if replicate.index not in outcomes]
        tick = stack.enter_context(_bar(len(replicates), len(outcomes), progress))
        work = Work(model, run, measure)
        arriving = stack.enter_context(closing(_outcomes(work, missing, processes, executor)))
        for outcome in arriving:
            _take(outcome, replicates, outcomes, on_failure)
            if files is not None:
                files.keep(_as_json(outcome))
            tick()
        table = tidy(replicates, outcomes)
        if files is not None:
            files.finish(table)
    return table


# --- before ---------------------------------------------------------------------------------------


def plan(grid: Mapping[str, Sequence[Any]], seeds: Iterable[int]) -> list[Replicate]:
    """Every run of a sweep, in order: the last parameter changes fastest but for the seed.

    Raises:
        Mixed: two runs would be the same, or could not be told apart.
    """
    seeds = list(seeds)
    if not seeds:
        raise Mixed("a sweep needs at least one seed")
    for seed in seeds:
        if type(seed) is not int:
            raise Mixed(f"a seed is an integer, not {seed!r}")
    if twice := _twice(seeds):
        raise Mixed(f"seed {twice[0]} stands twice in the sweep: its runs would count as two replicates")
    for name, values in grid.items():
        if name in OWN_COLUMNS:
            raise Mixed(f"a parameter cannot be called {name!r}: the rows have a column of that name already")
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise Mixed(f"the grid's {name!r} is {values!r}: give the list of its values")
        if not values:
            raise Mixed(f"the grid has no value for {name!r}: there would be no row")
        if twice := _twice([label(value) for value in values]):
            raise Mixed(f"the grid has {twice[0]!r} twice for {name!r}: its rows could not be told apart")
        _kind([label(value) for value in values], f"parameter {name!r}")
    points = itertools.product(*grid.values())
    runs = itertools.product(points, seeds)
    return [
        Replicate(index, seed, dict(zip(grid, point, strict=True)))
        for index, (point, seed) in enumerate(runs)
    ]


def _twice(values: Sequence[Any]) -> list[Any]:
    seen: set[Any] = set()
    return [value for value in values if value in seen or seen.add(value)]  # type: ignore[func-returns-value]  # always None


def _description(
    model: Model | ModelFile, grid: Mapping[str, Sequence[Any]], replicates: Sequence[Replicate]
) -> dict[str, Any]:
    """What must be the same for rows to stand in one table."""
    import ainp2p

    return {
        "library": ainp2p.__version__,
        "model": name_of(model),
        "source": digest_of(model),
        "grid": {name: [label(value) for value in values] for name, values in grid.items()},
        "seeds": list(dict.fromkeys(replicate.seed for replicate in replicates)),
    }


# --- running --------------------------------------------------------------------------------------


def replicate_once(work: Work, replicate: Replicate) -> Outcome:
    """Run one, wherever this is; failures come back as text, since not every exception survives the way."""
    said = partial(Outcome, replicate.index, replicate.seed, replicate.labels)
    try:
        model = work.model.load() if isinstance(work.model, ModelFile) else work.model
        result = (work.run or _sim_run())(model, seed=replicate.seed, **replicate.parameters)
        _check_result(result, replicate)
        metrics = dict(result.summary() if work.measure is None else work.measure(result))
        return said(hash=result.hash, duration_s=result.duration_s, metrics=metrics)
    except Mixed:
        raise  # not the run's fault: these rows would lie
    except Exception as exc:
        return said(error=f"{type(exc).__name__}: {exc}", trace=traceback.format_exc(limit=-6))


def _sim_run() -> Runner:
    from ainp2p.simulation.running import run

    return run


def _check_result(result: Result, replicate: Replicate) -> None:
    if result.seed != replicate.seed:
        raise Mixed(f"seed {replicate.seed} was to be run, and the result is of seed {result.seed}")
    for name, value in replicate.labels.items():
        if result.parameters.get(name) != value:
            raise Mixed(f"{name}={value!r} was to be run, and the result has {result.parameters.get(name)!r}")


def _outcomes(
    work: Work, missing: Sequence[Replicate], processes: int | None, executor: Executor | None
) -> Generator[Outcome]:
    """Each outcome as soon as it is there."""
    if executor is not None:
        if processes is not None:
            raise InvalidInput("give processes or an executor: the executor knows how many it has")
        yield from _submitted(work, missing, executor)
        return
    processes = min(_cores() if processes is None else processes, len(missing))
    if processes < 0 or (processes == 0 and missing):
        raise InvalidInput("a sweep needs at least one process")
    if processes <= 1:
        yield from (replicate_once(work, replicate) for replicate in missing)
        return
    try:
        pickle.dumps((work, missing))
    except Exception as exc:
        raise InvalidInput(
            f"{name_of(work.model)} or a value of its grid cannot be sent to another process ({exc}): "
            "define it at the top level of a module, or say processes=1"
        ) from exc
    # Spawned, not forked: a fork would copy threads and locks that happen to be held.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        yield from _submitted(work, missing, pool)


def _submitted(work: Work, missing: Sequence[Replicate], executor: Executor) -> Generator[Outcome]:
    futures: dict[Future[Outcome], Replicate] = {}
    try:
        for replicate in missing:
            futures[executor.submit(replicate_once, work, replicate)] = replicate
        for future in as_completed(futures):
            yield _result_of(future, futures.pop(future))
    finally:
        for future in futures:
            future.cancel()


def _result_of(future: Future[Outcome], replicate: Replicate) -> Outcome:
    try:
        outcome = future.result()
    except Mixed:
        raise
    except Exception as exc:
        lost = "its process ended" if isinstance(exc, BrokenExecutor) else f"{type(exc).__name__}: {exc}"
        raise ReplicateFailed(replicate.seed, replicate.labels, f"it was lost ({lost})") from exc
    if outcome.index != replicate.index:
        raise Mixed(f"run {replicate.index} was submitted, and the executor returned run {outcome.index}")
    return outcome


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _bar(total: int, done: int, progress: bool | None) -> Iterator[Callable[[], None]]:
    if not (sys.stderr.isatty() if progress is None else progress):
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("runs", total=total, completed=done)
        yield lambda: bar.advance(task)


# --- after ----------------------------------------------------------------------------------------


def _take(
    outcome: Outcome, replicates: Sequence[Replicate], outcomes: dict[int, Outcome], on_failure: str
) -> None:
    """Put an outcome into its place, if it is what was asked for and nothing stands there."""
    if not 0 <= outcome.index < len(replicates):
        raise Mixed(f"there is no run {outcome.index} in this sweep")
    asked = replicates[outcome.index]
    if (outcome.seed, dict(outcome.parameters)) != (asked.seed, asked.labels):
        raise Mixed(
            f"run {asked.index} has seed {asked.seed} and {asked.labels}; what came back is of seed"
            f" {outcome.seed} and {dict(outcome.parameters)}"
        )
    if asked.index in outcomes:
        raise Mixed(f"run {asked.index} (seed {asked.seed}) came back twice")
    if outcome.error and on_failure == "raise":
        raise ReplicateFailed(asked.seed, asked.labels, outcome.error, outcome.trace)
    first = next((other for other in outcomes.values() if other.metrics is not None), outcome)
    if taken := [name for name in outcome.metrics or () if name in (*asked.parameters, *OWN_COLUMNS)]:
        raise Mixed(f"{taken[0]!r} is a metric and a column of its own already: rename one of them")
    if differ := sorted(_names(outcome, first) ^ _names(first, outcome)):
        raise Mixed(
            f"the runs with seeds {first.seed} and {outcome.seed} have different columns: "
            f"only one of them has {differ[0]!r}; measure it in every run, or in none"
        )
    outcomes[asked.index] = outcome


def _names(outcome: Outcome, other: Outcome) -> frozenset[str]:
    """The metrics' names; those of the other one where this run has failed."""
    return frozenset(outcome.metrics if outcome.metrics is not None else other.metrics or {})


def tidy(replicates: Sequence[Replicate], outcomes: Mapping[int, Outcome]) -> Table:
    """The table of a sweep: a row for each replicate, in the plan's order.

    Raises:
        Mixed: a replicate has no outcome, or a metric has values of different kinds.
    """
    if dropped := [replicate for replicate in replicates if replicate.index not in outcomes]:
        raise Mixed(f"{len(dropped)} rows are missing, the first of seed {dropped[0].seed}")
    ordered = [outcomes[replicate.index] for replicate in replicates]
    names = list(next((outcome.metrics for outcome in ordered if outcome.metrics is not None), {}))
    parameters = list(ordered[0].parameters)
    columns: list[tuple[str, Any]] = [("seed", int)]
    columns += [
        (name, _kind([o.parameters[name] for o in ordered], f"parameter {name!r}")) for name in parameters
    ]
    columns += [("hash", "str?"), ("duration_s", "float?")]
    columns += [(name, _metric_kind(name, ordered)) for name in names]
    table = Table("sweep", [*columns, ("error", str)])
    for o in ordered:
        run: list[Cell] = [o.hash, o.duration_s] if o.metrics is not None else [None, None]
        measured = [None if o.metrics is None else o.metrics[name] for name in names]
        table.append_row([o.seed, *o.parameters.values(), *run, *measured, o.error])
    return table


def load_sweep(directory: str | os.PathLike[str]) -> Table:
    """The table of a sweep's finished output directory, with the types that it had.

    Raises:
        InvalidInput: there is no sweep, or it is not complete.
    """
    said, kept = read_sweep(directory)
    replicates = plan(said["grid"], said["seeds"])
    outcomes: dict[int, Outcome] = {}
    for row in kept:
        _take(_outcome(row), replicates, outcomes, "row")
    return tidy(replicates, outcomes)


def _metric_kind(name: str, outcomes: Sequence[Outcome]) -> str:
    values = [None if outcome.metrics is None else outcome.metrics[name] for outcome in outcomes]
    if all(value is None for value in values):
        return "float?"
    return _kind(
        [*values, None], f"metric {name!r}"
    )  # always nullable: no kind depends on whether a run failed


def _kind(values: Sequence[Cell], what: str) -> str:
    """The narrowest kind of column that takes all of `values`."""
    optional = "?" if None in values else ""
    for type_ in (bool, int, float, str):
        kind = kind_of(type_) + optional
        try:
            for value in values:
                fitted(kind, value)
        except ValueError:
            continue
        return kind
    raise Mixed(f"{what} has values of different kinds, which cannot stand in one column: {list(values)[:9]}")


def _as_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "index": outcome.index,
        "seed": outcome.seed,
        "parameters": dict(outcome.parameters),
        "hash": outcome.hash,
        "duration_s": outcome.duration_s,
        "metrics": None if outcome.metrics is None else dict(outcome.metrics),
        "error": outcome.error,
    }


def _outcome(kept: Mapping[str, Any]) -> Outcome:
    try:
        return Outcome(**kept)
    except TypeError as exc:
        raise InvalidInput(f"a kept row is none of a sweep: {exc}") from exc
