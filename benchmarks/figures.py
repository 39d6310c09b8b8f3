"""One measured figure beside its target, and how many of them look as a table, as JSON, as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """What was measured, in the words of the issue that asked for it.

    Attributes:
        target: None for a figure that others are compared with.
        at_most: the target is an upper bound, not a lower one.
        ratio: to something measured in the same run, which `compared` names; None where there is nothing.
        cpu_s: CPU seconds of the whole benchmark that the figure is from, all its processes together.
        load: the machine's load average when it ended.
    """

    name: str
    measured: float
    unit: str = ""
    target: float | None = None
    at_most: bool = False
    ratio: float | None = None
    compared: str = ""
    cpu_s: float = 0.0
    load: float = 0.0

    @property
    def held(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.target is None:
            return None
        return self.measured <= self.target if self.at_most else self.measured >= self.target

    def measured_by(self, cpu_s: float, load: float) -> Figure:
        """The same, with what the run cost."""
        return replace(self, cpu_s=round(cpu_s, 1), load=round(load, 1))

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "held": self.held}


def best(runs: Sequence[Figure]) -> Figure:
    """Of several runs the best; of ratios, whose yardstick may be disturbed as well, the median."""
    ordered = sorted(runs, key=lambda figure: figure.measured, reverse=not runs[0].at_most)
    return ordered[len(ordered) // 2] if runs[0].unit.startswith("of ") else ordered[0]


HEADINGS = ("figure", "measured", "target", "ratio", "compared with", "CPU s", "load", "held")
WORDS = {0, 4, 7}  # columns of words; the rest are numbers


def row(figure: Figure) -> tuple[str, ...]:
    """One line of the table."""
    sign = "≤" if figure.at_most else "≥"
    return (
        figure.name,
        f"{_number(figure.measured)} {figure.unit}".strip(),
        "" if figure.target is None else f"{sign} {_number(figure.target)}",
        "" if figure.ratio is None else f"{figure.ratio:.3g}",
        figure.compared,
        f"{figure.cpu_s:.1f}",
        f"{figure.load:.1f}",
        {True: "held", False: "MISSED", None: ""}[figure.held],
    )


def plain(figures: Sequence[Figure]) -> str:
    """Columns of text, for files and pipes."""
    rows = [HEADINGS, *map(row, figures)]
    widths = [max(len(cells[column]) for cells in rows) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in WORDS else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in rows
    )


def markdown(figures: Iterable[Figure]) -> str:
    """A table for RESULTS.md."""
    lines = [HEADINGS, ("---", "---:", "---:", "---:", "---", "---:", "---:", "---"), *map(row, figures)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def report(found: Mapping[str, Any], *, as_json: bool) -> None:
    """What one benchmark prints of its numbers."""
    lines = (f"{name:28} {value}" for name, value in found.items())
    print(json.dumps(found) if as_json else "\n".join(lines))


def show(figures: Sequence[Figure]) -> None:
    """On a terminal: Rich's table."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column, heading in enumerate(HEADINGS):
        words = column in WORDS
        table.add_column(
            heading, justify="left" if words else "right", no_wrap=not words, min_width=len(heading)
        )
    for figure in figures:
        style = {True: "", False: "bold red", None: "dim"}[figure.held]
        table.add_row(*row(figure), style=style)
    Console().print(table)


def _number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
