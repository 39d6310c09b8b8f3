"""Small charts as inline SVG: flows, lines over time, bars on a logarithmic scale. No scripts, no assets.

Pure functions from numbers to markup. Every text goes through `esc`: names and titles come from peers and
documents. Colours are CSS variables that the page defines for light and for dark; series are told apart by
label and dash as well, never by colour alone. Boxes are narrow (400 units): text stays readable on a phone.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

WIDTH = 400
LABEL_TALL, LABEL_EDGE = 26.0, 13.0  # of two lines of text
COLOURS = 8  # --c0 … --c7 in the page's style
DASHES = ("none", "6 3", "2 2", "8 3 2 3")
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 10, 24  # room for axis labels around a plot

Points = Sequence[tuple[int, int]]
Hues = Mapping[str, int]  # which colour a name has, the same in all charts of a page


def esc(text: object) -> str:
    """Text for HTML and SVG, in content and in attributes."""
    return html.escape(str(text), quote=True)


def colour(index: int) -> str:
    """The CSS colour of the index-th series."""
    return f"var(--c{index % COLOURS})"


def short(number: float) -> str:
    """A number in four characters or so: ``950``, ``1.2k``, ``3.4M``."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def duration(us: int) -> str:
    """Microseconds for people: ``850 µs``, ``12.3 ms``, ``1.25 s``."""
    if us < 1_000:
        return f"{us} µs"
    if us < 1_000_000:
        return f"{us / 1_000:.3g} ms"
    return f"{us / 1_000_000:.3g} s"


def svg(title: str, description: str, height: float, body: Sequence[str]) -> str:
    """A chart with its name and what it shows, for those who cannot see it."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{esc(title)}. {esc(description)}">'
        f"<title>{esc(title)}</title>{''.join(body)}</svg>"
    )


# --- flows ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stream:
    """`amount` from one name on the left to one on the right."""

    source: str
    target: str
    amount: int


def flows(title: str, streams: Sequence[Stream], unit: str, hues: Hues) -> str:
    """Sources left, targets right, ribbons as wide as their amounts (a Sankey diagram of two columns)."""
    streams = [stream for stream in streams if stream.amount > 0]
    if not streams:
        return nothing(title)
    sources = _sums((s.source, s.amount) for s in streams)
    targets = _sums((s.target, s.amount) for s in streams)
    rows = max(len(sources), len(targets))
    gap, bar = 14.0, 10.0
    height = max(150.0, rows * 44.0)
    scale = (height - gap * (rows - 1) - 8) / sum(sources.values())
    left, right = 92.0, WIDTH - 92.0
    starts = _stack(sources, scale, gap, height)
    ends = _stack(targets, scale, gap, height)
    body: list[str] = []
    out, into = dict(starts), dict(ends)
    for s in sorted(streams, key=lambda s: (s.source, s.target)):
        thick = max(s.amount * scale, 0.8)
        y0, y1 = out[s.source], into[s.target]
        out[s.source] += s.amount * scale
        into[s.target] += s.amount * scale
        body.append(_ribbon(left + bar, y0, right - bar, y1, thick, hues.get(s.source, 0), s, unit))
    for names, at, x, anchor in ((sources, starts, left, "end"), (targets, ends, right - bar, "start")):
        tall_of = {name: max(amount * scale, 1.5) for name, amount in names.items()}
        middles = _apart([at[name] + tall / 2 for name, tall in tall_of.items()], height)
        for (name, amount), middle in zip(names.items(), middles, strict=True):
            tall = tall_of[name]
            label_x = x - 6 if anchor == "end" else x + bar + 6
            body.append(
                f'<rect x="{x:.1f}" y="{at[name]:.1f}" width="{bar}" height="{tall:.1f}" rx="2" '
                f'fill="{colour(hues.get(name, 0))}"/>'
                f'<text x="{label_x:.1f}" y="{middle - 1:.1f}" text-anchor="{anchor}" class="strong">'
                f"{esc(clip(name, 14))}</text>"
                f'<text x="{label_x:.1f}" y="{middle + 11:.1f}" text-anchor="{anchor}" class="dim">'
                f"{short(amount)} {esc(unit)}</text>"
            )
    said = "; ".join(f"{s.source} to {s.target}: {s.amount} {unit}" for s in streams)
    return svg(title, said, height, body)


def _apart(middles: list[float], height: float) -> list[float]:
    """Where labels of two lines stand: beside their bars, but not over one another or outside."""
    free = LABEL_EDGE
    for i, middle in enumerate(middles):
        middles[i] = max(middle, free)
        free = middles[i] + LABEL_TALL
    free = height - LABEL_EDGE
    for i in reversed(range(len(middles))):
        middles[i] = min(middles[i], free)
        free = middles[i] - LABEL_TALL
    return middles


def _ribbon(
    x0: float, y0: float, x1: float, y1: float, thick: float, hue: int, stream: Stream, unit: str
) -> str:
    middle = (x0 + x1) / 2
    z0, z1 = y0 + thick, y1 + thick
    path = (
        f"M{x0:.1f} {y0:.1f}C{middle:.1f} {y0:.1f} {middle:.1f} {y1:.1f} {x1:.1f} {y1:.1f}"
        f"V{z1:.1f}C{middle:.1f} {z1:.1f} {middle:.1f} {z0:.1f} {x0:.1f} {z0:.1f}Z"
    )
    tip = esc(f"{stream.source} → {stream.target}: {stream.amount:,} {unit}")
    return f'<path d="{path}" fill="{colour(hue)}" class="ribbon"><title>{tip}</title></path>'


def _stack(sums: dict[str, int], scale: float, gap: float, height: float) -> dict[str, float]:
    """The upper edge of each bar, the whole column centred."""
    tall = sum(sums.values()) * scale + gap * (len(sums) - 1)
    at, edges = (height - tall) / 2, {}
    for name, amount in sums.items():
        edges[name] = at
        at += amount * scale + gap
    return edges


def _sums(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for name, amount in pairs:
        sums[name] = sums.get(name, 0) + amount
    return dict(sorted(sums.items()))


# --- lines over time --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment worth pointing at."""

    at_ms: int
    label: str


def lines(
    title: str,
    series: Sequence[tuple[str, Points]],
    *,
    unit: str,
    hues: Hues,
    stepped: bool = False,
    marks: Sequence[Mark] = (),
    until_ms: int | None = None,
) -> str:
    """Values over time. `stepped` values hold until the next point; times are in milliseconds."""
    series = [(name, points) for name, points in series if points]
    if not series:
        return nothing(title)
    height, floor_y = 200.0, 200.0 - BOTTOM
    last = max(max(at for _, points in series for at, _ in points), until_ms or 0, 1)
    low, high, ticks = _scale([value for _, points in series for _, value in points])

    def x(at_ms: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * min(max(at_ms, 0), last) / last

    def y(value: float) -> float:
        return floor_y - (floor_y - TOP) * (value - low) / (high - low)

    body = [grid_y(y(tick), short(tick)) for tick in ticks]
    body += [tick_x(x(at), label, floor_y) for at, label in _times(last)]
    body += [_mark(x(mark.at_ms), mark.label, floor_y) for mark in marks]
    for name, points in series:
        if stepped and until_ms is not None:
            points = [*points, (until_ms, points[-1][1])]
        d = polyline([(x(at), y(value)) for at, value in points], stepped)
        dash = DASHES[hues.get(name, 0) % len(DASHES)]
        body.append(
            f'<path d="{d}" class="line" stroke="{colour(hues.get(name, 0))}" stroke-dasharray="{dash}">'
            f"<title>{esc(name)}</title></path>"
        )
    said = "; ".join(f"{name} ends at {points[-1][1]} {unit}" for name, points in series)
    return svg(title, said, height, body) + legend([name for name, _ in series], hues)


def legend(names: Sequence[str], hues: Hues) -> str:
    """Which colour is whose, below a chart."""
    items = "".join(
        f'<li><span style="background:{colour(hues.get(name, 0))}"></span>{esc(name)}</li>' for name in names
    )
    return f'<ul class="legend">{items}</ul>'


def polyline(points: Sequence[tuple[float, float]], stepped: bool) -> str:
    """The `d` of an SVG path through `points`."""
    path, (x, y) = [], points[0]
    path.append(f"M{x:.1f} {y:.1f}")
    for x, y in points[1:]:
        path.append(f"H{x:.1f}V{y:.1f}" if stepped else f"L{x:.1f} {y:.1f}")
    return "".join(path)


def grid_y(y: float, label: str) -> str:
    """A line across the plot with its value at the left."""
    return (
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
        f'<text x="{LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end" class="dim">{esc(label)}</text>'
    )


def tick_x(x: float, label: str, floor_y: float) -> str:
    """A value below the plot."""
    return f'<text x="{x:.1f}" y="{floor_y + 15:.1f}" text-anchor="middle" class="dim">{esc(label)}</text>'


def _mark(x: float, label: str, floor_y: float) -> str:
    right = x > WIDTH * 0.7  # then the label goes to the left of the line
    return (
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{floor_y}" class="mark"/>'
        f'<text x="{x - 3 if right else x + 3:.1f}" y="{TOP + 8}" class="marklabel" '
        f'text-anchor="{"end" if right else "start"}">{esc(label)}</text>'
    )


def _scale(values: Sequence[int]) -> tuple[float, float, list[float]]:
    """Lowest and highest value of an axis, 0 among them, and three to six round values between."""
    low, high = float(min(0, *values)), float(max(1, *values))
    step = _round_step((high - low) / 4)
    low, high = floor(low / step) * step, ceil(high / step) * step
    count = round((high - low) / step)
    return low, high, [low + i * step for i in range(count + 1)]


def _round_step(raw: float) -> float:
    """The next of 1, 2, 5, 10, 20, … (values are integers)."""
    size = 10 ** floor(log10(raw)) if raw > 1 else 1
    return float(next(size * m for m in (1, 2, 5, 10) if size * m >= raw))


def _times(last_ms: int) -> list[tuple[int, str]]:
    step_s = next((s for s in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600) if last_ms / 1000 / s <= 6), 3600)
    return [(s * 1000, _clock(s)) for s in range(0, last_ms // 1000 + 1, step_s)]


def _clock(seconds: int) -> str:
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60}:{seconds % 60:02d}"


# --- bars ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Span:
    """A named pair of durations: the usual one and the slow one."""

    name: str
    count: int
    p50_us: int
    p99_us: int


def spans(title: str, rows: Sequence[Span]) -> str:
    """For each row a bar to its median and a thin one on to its p99; the scale is logarithmic."""
    if not rows:
        return nothing(title)
    left, right, line = 76.0, float(WIDTH - 78), 34.0
    values = [max(v, 1) for row in rows for v in (row.p50_us, row.p99_us)]
    low, high = floor(log10(min(values))), ceil(log10(max(values)))
    if 10**low == min(values):
        low -= 1  # the shortest bar must be seen
    high = max(high, low + 1)
    height = len(rows) * line + 26

    def x(us: int) -> float:
        return left + (right - left) * (log10(max(us, 1)) - low) / (high - low)

    body = []
    for power in range(low, high + 1):
        at = left + (right - left) * (power - low) / (high - low)
        body.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="4" y2="{height - 22:.1f}" class="grid"/>')
        if high - low <= 5 or (power - low) % 2 == 0:
            body.append(tick_x(at, duration(10**power) if power >= 0 else "", height - 22))
    for i, row in enumerate(rows):
        y = i * line + 8
        tip = esc(f"{row.name}: p50 {duration(row.p50_us)}, p99 {duration(row.p99_us)}, {row.count} measured")
        body.append(
            f"<g><title>{tip}</title>"
            f'<text x="{left - 6}" y="{y + 14:.1f}" text-anchor="end" class="strong">{esc(row.name)}</text>'
            f'<rect x="{left}" y="{y + 6:.1f}" width="{x(row.p99_us) - left:.1f}" height="8" rx="2" '
            f'fill="{colour(0)}" opacity=".35"/>'
            f'<rect x="{left}" y="{y + 2:.1f}" width="{x(row.p50_us) - left:.1f}" height="16" rx="2" '
            f'fill="{colour(0)}"/>'
            f'<text x="{right + 6}" y="{y + 8:.1f}" class="strong">{duration(row.p50_us)}</text>'
            f'<text x="{right + 6}" y="{y + 20:.1f}" class="dim">p99 {duration(row.p99_us)}</text></g>'
        )
    said = "; ".join(f"{r.name}: median {duration(r.p50_us)}, p99 {duration(r.p99_us)}" for r in rows)
    return svg(title, said, height, body)


def clip(text: str, width: int) -> str:
    """`text` in at most `width` characters."""
    return text if len(text) <= width else text[: width - 1] + "…"


def nothing(title: str) -> str:
    """What stands where a chart would, if there is nothing to draw."""
    return f'<p class="dim">{esc(title)}: nothing was measured.</p>'
