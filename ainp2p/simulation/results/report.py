"""A result as one HTML page with pictures: no script, no other file, light or dark as the system is.

Whatever it shows is in the result's tables too. It is made of the same pieces as the swarm's report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import fsum

from ainp2p.simulation.results import metrics, summary
from ainp2p.simulation.results.pictures import binned, filled_up, over_shares, over_time, said_s, steps
from ainp2p.simulation.results.results import Result
from ainp2p.swarm import charts
from ainp2p.swarm.pieces import (
    badge,
    clean,
    data_table,
    dim,
    document,
    fact_list,
    more,
    section,
    shown,
)

NAMES_MAX = 8  # curves or names in one picture; what is beyond them is summed up or left to the tables
ROWS_MAX = 20  # of the agents' table
NUMBERS_MAX = 60  # rows of the metrics' table
CONNECTIONS = "connections themselves"  # messages of no protocol
PICTURES_MAX = 12  # of what the model measured
STREAMS_MAX = 16  # ribbons in the picture of payments


def page(result: Result) -> str:
    """The whole page."""
    numbers = result.summary()
    return document(
        f"ainp2p simulation: {result.model or 'a run'}, seed {result.seed}",
        [
            _headline(result, numbers),
            _pair(_trades(result), _prices(result)),
            _pair(_wealth(result), _payments(result)),
            _pair(_elapsed(result), _messages(result)),
            _pair(*_measured(result), _lives(result), _marks(result)),
            _pair(_numbers(numbers), _parameters(result)),
            _agents(result),
        ],
    )


def _headline(result: Result, numbers: dict[str, summary.Number]) -> str:
    never = [
        name for name, count in zip(result.marks["name"], result.marks["count"], strict=True) if not count
    ]
    facts = [
        ("virtual time", said_s(result.duration_s)),
        ("agents", said(numbers["population"])),
        ("trades", said(numbers["trades"])),
        ("fill rate", _share(numbers["fill_rate"])),
        ("volume", f"{said(numbers['volume'])} uain"),
        ("welfare", _share(numbers["welfare"])),
        ("Gini", said(numbers["gini"])),
    ]
    missing = f"<p>{badge(False, 'never seen')} {shown(', '.join(never))}</p>" if never else ""
    return (
        f'<header class="{"broken" if never else "held"}"><div class="dim small">ainp2p simulation · seed '
        f"{result.seed} · hash <code>{shown(result.hash)}</code></div>"
        f"<h1>{shown(result.model or 'A run')}</h1>{fact_list(facts)}{missing}</header>"
    )


# --- the market -----------------------------------------------------------------------------------


def _trades(result: Result) -> str:
    trades, until = result.trades, result.duration_s
    failed = [bool(failure) for failure in trades["failure"]]
    curves = []
    for name, wanted in (("done", False), ("failed", True)):
        times = [at for at, bad in zip(trades["at_s"], failed, strict=True) if bad == wanted]
        curves.append((name, filled_up(binned(times, [1.0] * len(times), until, fsum), until)))
    reasons = Counter(failure for failure in trades["failure"] if failure)
    rows = [(reason, f"{count:,}") for reason, count in reasons.most_common(ROWS_MAX)]
    return section(
        "Trades",
        "Jobs that ended, per interval of virtual time.",
        over_time("Trades", curves, until_s=until, unit="jobs", hues={"done": 2, "failed": 1})
        + (more(data_table(("why they failed", "#jobs"), rows)) if rows else ""),
    )


def _prices(result: Result) -> str:
    trades = result.trades
    seen: dict[str, tuple[list[float], list[float]]] = {}
    for at, skill, units, amount in zip(
        trades["at_s"], trades["skill"], trades["units"], trades["amount"], strict=True
    ):
        if units > 0:
            times, prices = seen.setdefault(skill, ([], []))
            times.append(at)
            prices.append(amount / units)
    often = sorted(seen, key=lambda skill: (-len(seen[skill][0]), skill))[:NAMES_MAX]
    curves = [
        (clean(skill), binned(*seen[skill], result.duration_s, lambda found: fsum(found) / len(found)))
        for skill in often
    ]
    rows = [
        (
            skill,
            f"{len(paid):,}",
            said(min(paid)),
            said(fsum(paid) / len(paid)),
            said(max(paid)),
            said(metrics.price_dispersion(paid)),
        )
        for skill in often
        for paid in [seen[skill][1]]
    ]
    return section(
        "Prices",
        "Paid per unit, in uain: the mean of each interval, for each skill.",
        over_time(
            "Prices", curves, until_s=result.duration_s, unit="uain", hues=_hues(name for name, _ in curves)
        )
        + more(data_table(("skill", "#trades", "#lowest", "#mean", "#highest", "#dispersion"), rows)),
    )


def _wealth(result: Result) -> str:
    owned = summary.owned(result)
    curves = [("owned", metrics.lorenz(owned))]
    return section(
        "Who owns how much",
        f"The share of all that the poorest own, at the end (Lorenz). Gini: {said(metrics.gini(owned))}.",
        over_shares("Who owns how much", curves, unit="of all", hues={"owned": 0, "all equal": 7}),
    )


def _payments(result: Result) -> str:
    names = {*result.trades["buyer"], *result.trades["seller"]}
    roles = dict(zip(result.agents["name"], result.agents["role"], strict=True))
    few = len(names) <= NAMES_MAX
    sums: Counter[tuple[str, str]] = Counter()
    for buyer, seller, amount in zip(
        result.trades["buyer"], result.trades["seller"], result.trades["amount"], strict=True
    ):
        ends = (buyer, seller) if few else (roles.get(buyer, "?"), roles.get(seller, "?"))
        sums[ends] += amount
    largest = sums.most_common(STREAMS_MAX)
    rest = sum(sums.values()) - sum(amount for _, amount in largest)
    streams = [charts.Stream(clean(a), clean(b), amount) for (a, b), amount in largest]
    hues = _hues(dict.fromkeys(name for stream in streams for name in (stream.source, stream.target)))
    return section(
        "Who paid whom",
        f"Buyers left, sellers right{'' if few else ', by role'}."
        + (f" Another {rest:,} uain went between others." if rest else ""),
        charts.flows("Who paid whom", streams, "uain", hues)
        + more(
            data_table(("buyer", "seller", "#uain"), [(s.source, s.target, f"{s.amount:,}") for s in streams])
        ),
    )


def _elapsed(result: Result) -> str:
    trades = result.trades
    took: dict[str, list[int]] = {}
    for skill, ms, failure in zip(trades["skill"], trades["elapsed_ms"], trades["failure"], strict=True):
        if not failure:
            took.setdefault(skill, []).append(ms)
    spans = []
    for skill in sorted(took, key=lambda skill: (-len(took[skill]), skill))[:NAMES_MAX]:
        ordered = sorted(took[skill])
        p50, p99 = metrics.percentile(ordered, 50) or 0, metrics.percentile(ordered, 99) or 0
        name = charts.clip(clean(skill), 12)
        spans.append(charts.Span(name, len(ordered), int(p50 * 1000), int(p99 * 1000)))
    return section(
        "How long jobs take",
        "Virtual time from award to end; the bar ends at the median, its pale part at the p99; logarithmic.",
        charts.spans("How long jobs take", spans)
        if any(span.p99_us for span in spans) or not spans
        else "<p>None took any virtual time: the wire has no latency, and the sellers do not compute.</p>",
    )


def _messages(result: Result) -> str:
    messages = result.messages
    count: dict[str, Counter[float]] = {}
    for at, protocol, number in zip(messages["at_s"], messages["protocol"], messages["count"], strict=True):
        count.setdefault(protocol, Counter())[at] += number
    often = sorted(count, key=lambda protocol: (-count[protocol].total(), protocol))[:NAMES_MAX]
    curves = [(clean(protocol) or CONNECTIONS, sorted(count[protocol].items())) for protocol in often]
    hues = _hues(name for name, _ in curves)
    return section(
        "Messages",
        "Delivered per virtual minute, by protocol.",
        over_time("Messages", curves, until_s=result.duration_s, unit="messages", hues=hues),
    )


# --- the model's own ------------------------------------------------------------------------------


def _measured(result: Result) -> list[str]:
    points: dict[str, list[tuple[float, float]]] = {}
    for at, name, value in result.metrics.rows():
        points.setdefault(str(name), []).append((at, value))  # type: ignore[arg-type]  # columns of floats
    return [
        section(
            clean(name),
            "Measured by the model.",
            over_time(
                clean(name),
                [(clean(name), points[name])],
                until_s=result.duration_s,
                unit="",
                hues={},
                stepped=True,
            ),
        )
        for name in sorted({*points} - {summary.SURPLUS, summary.OPTIMUM})[:PICTURES_MAX]
    ]


def _lives(result: Result) -> str:
    lives = summary.lives(result)
    if not any(died for _, died in lives):
        return ""
    curve = steps(metrics.survival(lives), max(age for age, _ in lives))
    median = metrics.lifetime(lives)
    said_ = "more than half outlive the run" if median is None else f"half do not outlive {said_s(median)}"
    return section(
        "How long agents live",
        f"The share that is still alive at an age (Kaplan–Meier): {said_}.",
        over_time(
            "Alive", [("alive", curve)], until_s=result.duration_s, unit="of all", hues={}, stepped=True
        ),
    )


def _marks(result: Result) -> str:
    if not len(result.marks):
        return ""
    found = "".join(
        f"<li>{badge(bool(count), 'seen' if count else 'never')}"
        f"<span>{shown(str(name))} {dim(f'{count:,}')}</span></li>"
        for name, count in result.marks.rows()
    )
    caption = "What should happen in some run: one that never does tests nothing."
    return section("Marks", caption, f'<ul class="checks">{found}</ul>')


def _numbers(numbers: dict[str, summary.Number]) -> str:
    rows = [(name, said(value)) for name, value in numbers.items()][:NUMBERS_MAX]
    beyond = f" The first {NUMBERS_MAX} of {len(numbers):,}." if len(numbers) > NUMBERS_MAX else ""
    caption = f"The whole run; – where one is undefined.{beyond}"
    return section("Numbers", caption, data_table(("metric", "#value"), rows))


def _parameters(result: Result) -> str:
    rows = [("seed", str(result.seed)), *((name, str(value)) for name, value in result.parameters.items())]
    return section("Parameters", "With these it happens again.", data_table(("parameter", "#value"), rows))


def _agents(result: Result) -> str:
    rows = sorted(result.agents.dicts(), key=lambda row: (-int(row["earned"] or 0), str(row["name"])))
    shown_rows = [
        (
            str(row["name"]),
            str(row["role"]),
            *(f"{row[name]:,}" for name in ("balance_start", "balance_end", "earned", "spent")),
            f"{row['jobs_sold']:,}",
            f"{row['jobs_bought']:,}",
            "" if row["died_s"] is None else said_s(float(row["died_s"])),
        )
        for row in rows[:ROWS_MAX]
    ]
    head = ("name", "role", "#at first", "#at the end", "#earned", "#spent", "#sold", "#bought", "#died at")
    beyond = f" The {ROWS_MAX} of {len(rows):,} that earned most." if len(rows) > ROWS_MAX else ""
    return section("Agents", f"Balances in uain.{beyond}", data_table(head, shown_rows))


# --- pieces ---------------------------------------------------------------------------------------


def said(value: float | None) -> str:
    """A number for people; – for none."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _hues(names: Iterable[str]) -> charts.Hues:
    return {name: i for i, name in enumerate(names)}


def _pair(*parts: str) -> str:
    """Sections side by side where there is room."""
    return f'<div class="pair">{"".join(parts)}</div>' if any(parts) else ""
