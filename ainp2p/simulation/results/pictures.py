"""Curves over virtual time and over shares, as inline SVG in the style of `ainp2p.swarm.charts`. Pure.

Those charts are of integers over minutes of a wall clock; a simulation measures fractions, for hours or days.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from math import ceil, floor, isfinite, log10

from ainp2p.swarm.charts import (
    BOTTOM,
    DASHES,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Hues,
    colour,
    esc,
    grid_y,
    legend,
    nothing,
    polyline,
    short,
    svg,
    tick_x,
)

HEIGHT = 200.0
TINY = 1e-300  # a difference that no picture shows, and of which a quarter may be no number any more
POINTS_MAX = 240  # of one curve: more than a narrow picture can show
_ROUND_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)

Curve = tuple[str, Sequence[tuple[float, float]]]
Ticks = Sequence[tuple[float, str]]


def over_time(
    title: str, curves: Sequence[Curve], *, until_s: float, unit: str, hues: Hues, stepped: bool = False
) -> str:
    """Values over virtual seconds, 0 to `until_s`; a `stepped` value holds until the next one."""
    until_s = max([until_s, *(x for _, points in curves for x, _ in points)], default=until_s)
    return _plot(title, curves, until_s or 1.0, time_ticks(until_s), unit, hues, stepped)


def over_shares(title: str, curves: Sequence[Curve], *, unit: str, hues: Hues) -> str:
    """Values over a share from 0 to 1, beside the line on which all would be equal."""
    equal: Curve = ("all equal", [(0.0, 0.0), (1.0, 1.0)])
    ticks = [(share / 4, f"{share * 25} %") for share in range(5)]
    return _plot(title, [*curves, equal] if any(p for _, p in curves) else [], 1.0, ticks, unit, hues, False)


def _plot(
    title: str, curves: Sequence[Curve], last: float, ticks_x: Ticks, unit: str, hues: Hues, stepped: bool
) -> str:
    curves = [(name, thinned([p for p in points if isfinite(p[1])])) for name, points in curves]
    curves = [(name, points) for name, points in curves if points]
    if not curves:
        return nothing(title)
    floor_y = HEIGHT - BOTTOM
    ticks_y = value_ticks(value for _, points in curves for _, value in points)
    low, high = ticks_y[0], ticks_y[-1]

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * min(max(value, 0.0), last) / last

    def y(value: float) -> float:
        return floor_y - (floor_y - TOP) * (value - low) / (high - low)

    body = [grid_y(y(tick), short(tick)) for tick in ticks_y]
    body += [_tick(x(at), said, floor_y) for at, said in ticks_x]
    for name, points in curves:
        body.append(_line(name, [(x(at), y(value)) for at, value in points], hues.get(name, 0), stepped))
    said = "; ".join(f"{name} ends at {points[-1][1]:.4g} {unit}" for name, points in curves)
    return svg(title, said, HEIGHT, body) + legend([name for name, _ in curves], hues)


def _tick(x: float, said: str, floor_y: float) -> str:
    """A value below the plot; the last one ends where the plot does, or half of it would be cut off."""
    tick = tick_x(x, said, floor_y)
    return tick.replace('"middle"', '"end"') if x > WIDTH - RIGHT - 12 else tick


def _line(name: str, points: Sequence[tuple[float, float]], hue: int, stepped: bool) -> str:
    if len(points) == 1:  # a path of one point is invisible
        [(x, y)] = points
        dot = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour(hue)}">'
        return f"{dot}<title>{esc(name)}</title></circle>"
    return (
        f'<path d="{polyline(points, stepped)}" class="line" stroke="{colour(hue)}"'
        f' stroke-dasharray="{DASHES[hue % len(DASHES)]}"><title>{esc(name)}</title></path>'
    )


def thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """At most POINTS_MAX of `points`, evenly chosen, first and last among them."""
    if len(points) <= POINTS_MAX:
        return points
    return [points[i * (len(points) - 1) // (POINTS_MAX - 1)] for i in range(POINTS_MAX)]


def value_ticks(values: Iterable[float]) -> list[float]:
    """Round values from 0 or below to the largest of `values` or above, at most six or so."""
    known = list(values)
    low, high = min(0.0, *known), max(0.0, *known)
    if high - low < TINY:
        high = 1.0
    raw = (high - low) / 4
    size = 10.0 ** floor(log10(raw))
    step = next(size * m for m in (1, 2, 5, 10) if size * m >= raw * 0.999999)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def time_ticks(until_s: float) -> list[tuple[float, str]]:
    """At most seven round moments from 0 to `until_s`."""
    days = ceil(until_s / 86400 / 6) or 1
    step = next((s for s in _ROUND_S if until_s / s <= 6), 86400 * days)
    return [(float(at), said_s(at)) for at in range(0, floor(until_s) + 1, step)]


def said_s(seconds: float) -> str:
    """A duration for people: ``45 s``, ``12 min``, ``1.5 h``, ``3 d``."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size or (seconds >= size and seconds % size == 0):
            return f"{seconds / size:.4g} {unit}"
    return f"{seconds:.4g} s"


def binned(
    times: Iterable[float], values: Iterable[float], until_s: float, of: Callable[[Sequence[float]], float]
) -> list[tuple[float, float]]:
    """(start of the bin, `of` its values) for the bins of `bin_s` that have any."""
    width = bin_s(until_s)
    bins: dict[int, list[float]] = {}
    for at, value in zip(times, values, strict=True):
        bins.setdefault(int(at // width), []).append(value)
    return [(index * width, of(found)) for index, found in sorted(bins.items())]


def filled_up(points: Sequence[tuple[float, float]], until_s: float) -> list[tuple[float, float]]:
    """`binned` counts with a 0 for each bin in which nothing was: silence is a value of a rate."""
    width = bin_s(until_s)
    if not points:
        return []
    known = dict(points)
    bins = max(round(until_s / width), round(points[-1][0] / width) + 1)  # half a bin of silence says nothing
    return [(i * width, known.get(i * width, 0.0)) for i in range(bins)]


def bin_s(until_s: float) -> float:
    """A round width such that some sixty bins make `until_s`."""
    return next((float(s) for s in _ROUND_S if until_s / s <= 75), 86400.0 * ceil(until_s / 86400 / 75))


def steps(points: Sequence[tuple[float, float]], until: float) -> list[tuple[float, float]]:
    """`points` of a value that holds, with its last one held until the end."""
    assert all(a[0] <= b[0] for a, b in pairwise(points))
    return [*points, (until, points[-1][1])] if points else []
