"""What a sweep is: its plan, an outcome for each run, and one table of them. Pure; nothing is run here.

    grid, seeds → plan: [replicate] → (somebody runs them) → outcomes, taken in any order → tidy table

Each outcome says which seed and parameters it is of, and is taken only into the place planned for it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ainp2p.simulation.errors import Mixed, SimulationError
from ainp2p.simulation.results.columns import Cell, fitted, kind_of
from ainp2p.simulation.results.results import label
from ainp2p.simulation.results.tables import Table

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


def take(
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
