"""The live screen: a picture of the Board in Rich's terms. Pure; it holds no state and writes nothing."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ainp2p.swarm import events as ev
from ainp2p.swarm.board import Board, Peer, Task, percentile

BAR_WIDTH = 12
_STATE_STYLE = {
    "submitted": "dim",
    "working": "cyan",
    "input-required": "yellow",
    "completed": "green",
    "failed": "red",
    "canceled": "yellow",
    "rejected": "red",
}


def draw(board: Board, height: int) -> RenderableType:
    """The whole screen, at most `height` rows: what matters least is cut first."""
    peers = _peers(board)
    fixed = (
        3 + len(board.peers) + 4 + 4 + 2 + _verdict_rows(board) + _answer_rows(board)
    )  # headline, peers, frames, money, warnings
    tasks = _tasks(board, max(height - fixed, 4))
    parts: list[RenderableType] = [_headline(board), peers, tasks, _ledger(board)]
    asked = next((task for task in board.tasks.values() if task.skill == "ask" and task.answer), None)
    if asked is not None:
        parts.append(_answer(asked))
    notes = [note for note in board.notes if note.level != "info"][-2:]
    parts += [Text(f" {note.level}: {ev.printable(note.text, width=200)}", style="yellow") for note in notes]
    if board.end is not None:
        parts.append(_verdict(board))
        parts += [Text(f" {ev.printable(note.text, width=200)}") for note in board.notes[-1:]]
    return Group(*parts)


def _headline(board: Board) -> RenderableType:
    start, elapsed_s = board.start, (board.now_ms - (board.first_ms or board.now_ms)) / 1000
    line = Text(" ainp2p swarm", style="bold")
    if start is not None:
        network = board.network or "…"
        line.append(f"  {ev.printable(start.model)}  network {network}  seed {start.seed}", style="dim")
    line.append(f"  {elapsed_s:.0f} s", style="bold")
    return line


def _peers(board: Board) -> RenderableType:
    table = _table(("peer", "left"), ("role", "left"), ("state", "left"), ("tokens/s", "right"))
    for name in ("available", "locked", "owed"):
        table.add_column(name, justify="right")
    for peer in board.peers.values():
        table.add_row(_plain(peer.name, 20), peer.role or "", _state(peer), *_numbers(board, peer))
    return table


def _state(peer: Peer) -> Text:
    if peer.down_ms is None:
        return Text("up", style="green")
    style = "red" if peer.reason in ("killed", "crashed") else "dim"
    return Text(ev.printable(peer.reason, width=20), style=style)


def _numbers(board: Board, peer: Peer) -> tuple[str, str, str, str]:
    rate = str(board.tokens_per_s(peer.name)) if peer.role == "seller" and peer.down_ms is None else ""
    held = peer.balance
    if held is None:
        return rate, "", "", ""
    return rate, f"{held.available:,}", f"{held.locked:,}", f"{held.owed:,}"


def _tasks(board: Board, rows: int) -> RenderableType:
    table = _table(("task", "left"))
    table.expand = True
    table.add_column("about", ratio=1, no_wrap=True, overflow="ellipsis")  # gives way to all the others
    for name in ("buyer → seller", "state", "progress"):
        table.add_column(name, no_wrap=True)
    for task in _most_recent(list(board.tasks.values()), rows):
        table.add_row(
            _plain(f"{task.id} {task.skill}", 22),
            _plain(task.subject, 120),
            _plain(task.buyer, 10).append(" → ").append_text(_plain(task.seller or "…", 10)),
            Text(task.state, style=_STATE_STYLE[task.state]),
            _bar(task).append(f" {task.units:,}", style="default"),
        )
    done = sum(task.state == "completed" for task in board.tasks.values())
    table.title = Text(f"{done} of {len(board.tasks)} tasks completed", style="bold")
    table.title_justify = "left"
    return table


def _most_recent(tasks: list[Task], rows: int) -> list[Task]:
    """Tasks at work first, then those that ended last; in the order in which they were opened."""
    order = {task.id: i for i, task in enumerate(tasks)}
    ranked = sorted(tasks, key=lambda task: (task.ended, -(task.ended_ms or 0), order[task.id]))
    return sorted(ranked[:rows], key=lambda task: order[task.id])


def _bar(task: Task) -> Text:
    if task.state == "completed":
        return Text("━" * BAR_WIDTH, style="green")
    full = min(task.units * BAR_WIDTH // task.units_max, BAR_WIDTH) if task.units_max else 0
    return Text("━" * full, style="cyan") + Text("─" * (BAR_WIDTH - full), style="dim")


def _ledger(board: Board) -> RenderableType:
    took = [operation.took_us for operation in board.finalised]
    finality = (
        f"p50 {percentile(took, 500) / 1000:.0f} ms, p99 {percentile(took, 990) / 1000:.0f} ms"
        if took
        else "–"
    )
    lines = [
        f"{board.receipts:,} receipts signed for {ev.amount_text(board.paid)}",
        f"{board.tokens_per_s()} tokens/s",
        f"{len(took):,} operations final, {finality}",
    ]
    if board.finalised:
        last = board.finalised[-1]
        lines.append(f"last: {last.kind} by {ev.printable(last.name)}, {ev.amount_text(last.amount)}")
    return Panel(Text(" · ".join(lines)), title="money", title_align="left", border_style="dim")


def _answer(task: Task) -> RenderableType:
    """The question, its answer, where that stands, and what it cost."""
    assert task.answer is not None  # the caller knows
    text = Text(ev.printable(task.answer.answer, width=500) or "no answer", style="bold")
    for source in task.answer.sources:
        text.append(
            f"\n{ev.printable(f'{source.path}:{source.first_line}  {source.heading}', width=100)}", "dim"
        )
    bill = f"{task.answer.units} units, {ev.amount_text(task.answer.paid)}, {task.buyer} → {task.seller}"
    text.append(f"\n{ev.printable(bill)}", "dim")
    title = Text(ev.printable(task.subject, width=80))
    return Panel(text, title=title, title_align="left", border_style="dim")


def _answer_rows(board: Board) -> int:
    answers = [task.answer for task in board.tasks.values() if task.skill == "ask" and task.answer]
    return 6 + len(answers[0].sources) if answers else 0


def _verdict_rows(board: Board) -> int:
    return len(board.checks) + 2 if board.end is not None else 0


def _verdict(board: Board) -> RenderableType:
    good = board.end is not None and board.end.held
    lines = Text()
    for check in board.checks.values():
        mark, style = ("✓", "green") if check.held else ("✗", "red")
        lines.append(f" {mark} ", style=style)
        lines.append(ev.printable(f"{check.check}  {check.detail}") + "\n")
    lines.append(
        " everything held" if good else " not everything held", style="bold green" if good else "bold red"
    )
    return lines


def _plain(text: str, width: int) -> Text:
    """Foreign words: a Text, since Rich would read ``[bold]`` in a str as markup."""
    return Text(ev.printable(text, width=width))


def _table(*columns: tuple[str, str]) -> Table:
    table = Table(box=None, expand=False, header_style="dim", pad_edge=True)
    for name, side in columns:
        table.add_column(name, justify="right" if side == "right" else "left", no_wrap=True)
    return table
