"""A model run for every point of a grid and every seed, in many processes: one tidy row for each run.

    model, grid, seeds → plan → [replicate → outcome] in any order, anywhere → rows in the plan's order

Nothing is mixed and nothing is lost: an outcome says which seed and parameters it is of and is checked
against the plan, all have the same columns, and a run that fails is an error or a row that says so.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import re
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from ainp2p.errors import InvalidInput
from ainp2p.simulation.errors import Mixed
from ainp2p.simulation.results.columns import Cell
from ainp2p.simulation.results.model_files import Model, ModelFile, check_names, digest_of, name_of
from ainp2p.simulation.results.results import Result, label
from ainp2p.simulation.results.sweep_files import SweepFiles, read_sweep
from ainp2p.simulation.results.sweep_plan import Outcome, Replicate, ReplicateFailed, plan, take, tidy
from ainp2p.simulation.results.tables import Table

Runner = Callable[..., Result]
Measure = Callable[[Result], Mapping[str, Cell]]
_ALONE = threading.RLock()  # a world has its process to itself: the threads of an executor take turns


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
        executor: run in these instead (Dask: ``client.get_executor()``; pools: `PoolExecutor`). Threads of
            one process take turns, so give a worker one.
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
            files = stack.enter_context(SweepFiles(out, _description(model, grid, replicates, run)))
            for kept in files.kept():
                take(_outcome(kept), replicates, outcomes, on_failure)
        missing = [replicate for replicate in replicates if replicate.index not in outcomes]
        tick = stack.enter_context(_bar(len(replicates), len(outcomes), progress))
        work = Work(model, run, measure)
        arriving = stack.enter_context(closing(_outcomes(work, missing, processes, executor)))
        for outcome in arriving:
            take(outcome, replicates, outcomes, on_failure)
            if files is not None:
                files.keep(_as_json(outcome))
            tick()
        table = tidy(replicates, outcomes)
        if files is not None:
            files.finish(table)
    return table


def _description(
    model: Model | ModelFile,
    grid: Mapping[str, Sequence[Any]],
    replicates: Sequence[Replicate],
    run: Runner | None,
) -> dict[str, Any]:
    """What must be the same for rows to stand in one table."""
    import ainp2p

    return {
        "library": ainp2p.__version__,
        "model": name_of(model),
        "source": digest_of(model),
        "grid": {name: [label(value) for value in values] for name, values in grid.items()},
        "seeds": list(dict.fromkeys(replicate.seed for replicate in replicates)),
        "settings": _settings_of(run),
    }


def _settings_of(run: Runner | None) -> dict[str, str]:
    """What `functools.partial` told the runs, in words that are the same in another process."""
    if not isinstance(run, partial):
        return {}
    return {name: re.sub(r" at 0x[0-9a-f]+", "", repr(value)) for name, value in run.keywords.items()}


# --- running --------------------------------------------------------------------------------------


def replicate_once(work: Work, replicate: Replicate) -> Outcome:
    """Run one, wherever this is; failures come back as text, since not every exception survives the way."""
    said = partial(Outcome, replicate.index, replicate.seed, replicate.labels)
    try:
        model = work.model.load() if isinstance(work.model, ModelFile) else work.model
        with _ALONE:
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


def load_sweep(directory: str | os.PathLike[str]) -> Table:
    """The table of a sweep's finished output directory, with the types that it had.

    Raises:
        InvalidInput: there is no sweep, or it is not complete.
    """
    said, kept = read_sweep(directory)
    replicates = plan(said["grid"], said["seeds"])
    outcomes: dict[int, Outcome] = {}
    for row in kept:
        take(_outcome(row), replicates, outcomes, "row")
    return tidy(replicates, outcomes)


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
