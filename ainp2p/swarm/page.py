"""report.html: the report for people, in one file that needs nothing else.

How its pieces look, and why nothing hostile in it runs, is `ainp2p.swarm.pieces`.
"""

from __future__ import annotations

from collections.abc import Sequence

from ainp2p.swarm import charts
from ainp2p.swarm.charts import esc
from ainp2p.swarm.events import Source, amount_text
from ainp2p.swarm.pieces import badge, clean, data_table, dim, document, fact_list, more, section, shown
from ainp2p.swarm.report import Kill, Report, TaskReport


def page(report: Report) -> str:
    """The whole page."""
    parts = [
        _headline(report),
        _question(report),
        f'<div class="pair">{_payments(report)}{_balances(report)}</div>',
        f'<div class="pair">{_latencies(report)}{_rates(report)}</div>',
        *(_kill(kill) for kill in report.kills),
        _tasks(report),
        f'<div class="pair">{_supply(report)}{_documents(report)}</div>',
        _peers(report),
    ]
    verdict = "everything held" if report.held else "not everything held"
    return document(f"ainp2p swarm: {verdict}", parts)


# --- parts --------------------------------------------------------------------------------------------


def _headline(report: Report) -> str:
    failed = [check for check in report.checks if not check.held]
    if report.held:
        title = f"Everything held: {len(report.checks)} of {len(report.checks)} checks"
    elif failed:
        title = f"Not everything held: {len(failed)} of {len(report.checks)} checks failed"
    else:
        title = "The run did not finish"
    checks = "".join(
        f"<li>{badge(c.held, 'held' if c.held else 'failed')}"
        f"<span>{shown(c.name)} {dim(c.detail)}</span></li>"
        for c in report.checks
    )
    s = report.setting
    done = sum(task.state == "completed" for task in report.tasks)
    facts = [
        ("tasks completed", f"{done} of {len(report.tasks)}"),
        ("paid by receipts", amount_text(sum(flow.amount for flow in report.flows))),
        ("receipts", f"{sum(flow.receipts for flow in report.flows):,}"),
        ("took", f"{report.took_ms / 1000:.1f} s"),
        ("processes", str(len(report.peers))),
        ("model", f"{s.model} ({s.model_bytes / 1e6:,.0f} MB)" if s.model else "none"),
    ]
    notes = "".join(f"<li>{shown(note)}</li>" for note in report.notes)
    return (
        f'<header class="{"held" if report.held else "broken"}">'
        f'<div class="dim small">ainp2p swarm · network <code>{shown(s.network)}</code> · seed {s.seed}</div>'
        f'<h1>{esc(title)}</h1>{fact_list(facts)}<ul class="checks">{checks}</ul>'
        f"{f'<h2>Warnings</h2><ul>{notes}</ul>' if notes else ''}"
        f'<p class="sizing small">{dim(s.sizing)}</p></header>'
    )


def _question(report: Report) -> str:
    asked = [task for task in report.tasks if task.skill == "ask"]
    return "".join(
        f"<section><h2>{shown(task.subject)}</h2>"
        f'<p class="answer">{esc(clean(task.answer)) or "<em>no answer</em>"}</p>'
        f"{_sources(task.sources)}{_bill(task)}</section>"
        for task in asked
    )


def _payments(report: Report) -> str:
    streams = [charts.Stream(clean(f.buyer), clean(f.seller), f.amount) for f in report.flows]
    chart = charts.flows("Who paid whom", streams, "uain", _hues(report))
    rows = [(f.buyer, f.seller, f"{f.amount:,}", f"{f.receipts:,}") for f in report.flows]
    return section(
        "Who paid whom",
        "By signed receipts, buyers left, sellers right.",
        chart + more(data_table(("buyer", "seller", "#uain", "#receipts"), rows)),
    )


def _balances(report: Report) -> str:
    changes = [
        (clean(s.name), [(at, value - s.points[0][1]) for at, value in s.points]) for s in report.balances
    ]
    chart = charts.lines(
        "Balances over time",
        changes,
        unit="uain",
        hues=_hues(report),
        stepped=True,
        marks=_marks(report),
        until_ms=report.took_ms,
    )
    rows = [(s.name, f"{s.points[0][1]:,}", f"{s.points[-1][1]:,}") for s in report.balances]
    return section(
        "Balances over time",
        "What each wallet has gained or spent since the start: available, locked and owed together, in uain.",
        chart + more(data_table(("account", "#first", "#last"), rows)),
    )


def _latencies(report: Report) -> str:
    spans = [charts.Span(row.phase, row.count, row.p50_us, row.p99_us) for row in report.latencies]
    rows = [(s.name, str(s.count), charts.duration(s.p50_us), charts.duration(s.p99_us)) for s in spans]
    return section(
        "How long each phase takes",
        "The bar ends at the median, its pale part at the p99; logarithmic scale.",
        charts.spans("Latency of each phase", spans)
        + more(data_table(("phase", "#count", "#p50", "#p99"), rows)),
    )


def _rates(report: Report) -> str:
    chart = charts.lines(
        "Tokens per second",
        [(clean(s.name), s.points) for s in report.rates],
        unit="tokens/s",
        hues=_hues(report),
        marks=_marks(report),
        until_ms=report.took_ms,
    )
    return section("Tokens per second", "Delivered by each seller, counted every second.", chart)


def _kill(kill: Kill) -> str:
    at = f"after {kill.at_ms / 1000:.1f} s"
    on = f" while it worked on {shown(kill.task)}" if kill.task else ""
    said = [f"{shown(kill.seller)} was killed with SIGKILL {at}{on}."]
    said += [
        f"{shown(over.seller)} took {shown(over.task)} over: {over.kept} units, delivered and paid, were kept"
        f" and handed on; {over.lost} were paid and not delivered (at most {over.step} by agreement)."
        for over in kill.takeovers
    ]
    if (wallet := kill.wallet) is not None:
        said.append(
            "Its wallet was reopened from its disk, to settle and for no more: "
            f"{wallet.closed} of {wallet.locks} Locks closed, {esc(amount_text(wallet.collected))} collected."
        )
    return f"<section><h2>A seller was killed half-way</h2><p>{' '.join(said)}</p></section>"


def _tasks(report: Report) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in ("task", "about", "buyer → sellers", "result"))
    head += "".join(f'<th scope="col" class="num">{name}</th>' for name in ("units", "uain", "took"))
    rows = "".join(_task_row(task) for task in report.tasks)
    table = f'<table class="tasks"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    said = "What was asked, who did it, what came of it, what it cost."
    return section("Tasks", said, f'<div class="scroll">{table}</div>')


def _task_row(task: TaskReport) -> str:
    sellers = " → ".join(shown(seller) for seller in task.sellers) or "nobody"
    result = (
        f"{badge(task.state == 'completed', task.state)} {dim(task.finish)}"
        f'<div class="answer">{esc(clean(task.answer))}</div>{_sources(task.sources)}'
    )
    return (
        f'<tr><td class="id" data-label="task">{shown(task.id)} {dim(task.skill)}</td>'
        f'<td data-label="about">{shown(task.subject)}</td>'
        f'<td data-label="who">{shown(task.buyer)} → {sellers}</td><td data-label="result">{result}</td>'
        f'<td class="num" data-label="units">{task.units:,}</td>'
        f'<td class="num" data-label="uain">{task.paid:,}</td>'
        f'<td class="num" data-label="took">{task.took_ms / 1000:.1f} s</td></tr>'
    )


def _supply(report: Report) -> str:
    rows = [
        (s.validator, *(f"{v:,}" for v in (s.minted, s.balances, s.credits, s.locks, s.burnt, s.difference)))
        for s in report.supply
    ]
    head = ("validator", "#minted", "#balances", "#credits", "#locks", "#burnt", "#difference")
    return section(
        "Supply", "Each validator's own count in uain; the difference must be 0.", data_table(head, rows)
    )


def _documents(report: Report) -> str:
    rows = [
        (d.path, f"{d.bytes:,}", str(d.passages), str(d.sentences), d.refused or "read")
        for d in report.documents
    ]
    head = ("file", "#bytes", "#passages", "#sentences", "state")
    return section("Documents", "The files that were named, and what became of them.", data_table(head, rows))


def _peers(report: Report) -> str:
    rows = [(p.name, p.role, p.left or "running", p.peer, p.account) for p in report.peers]
    table = data_table(("name", "role", "state", "peer id", "account"), rows)
    return section("Processes", "Joined by nothing but libp2p over loopback.", table)


# --- pieces -------------------------------------------------------------------------------------------


def _hues(report: Report) -> charts.Hues:
    """One colour per trading peer, the same in every chart."""
    traders = [clean(peer.name) for peer in report.peers if peer.role in ("seller", "buyer")]
    return {name: i for i, name in enumerate(traders)}


def _marks(report: Report) -> list[charts.Mark]:
    return [charts.Mark(kill.at_ms, f"{clean(kill.seller)} killed") for kill in report.kills]


def _sources(sources: Sequence[Source]) -> str:
    return "".join(
        f"<blockquote>{shown(s.quote)}"
        f'<div class="dim small">{shown(s.path)}:{_lines(s)}'
        f"{' · ' if s.heading else ''}{shown(s.heading)}</div>"
        "</blockquote>"
        for s in sources
    )


def _lines(source: Source) -> str:
    if source.first_line == source.last_line:
        return str(source.first_line)
    return f"{source.first_line}–{source.last_line}"


def _bill(task: TaskReport) -> str:
    return (
        f'<p class="dim small">Bill: {task.units:,} units, {esc(amount_text(task.paid))}, '
        f"paid by {shown(task.buyer)} to {', '.join(shown(s) for s in task.sellers) or 'nobody'}.</p>"
    )
