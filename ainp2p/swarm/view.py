"""Shows a swarm's events to whoever watches: a live screen, plain lines, or JSON lines.

Three views with one shape: ``with open_view(...) as view: view.show(event)`` for each event, and
`view.tick()` a few times a second. A view only looks: when its output is gone (a closed pipe) it falls
silent and the swarm goes on. Foreign text cannot steer the terminal (`events.printable`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import IO, Protocol, Self

from rich.console import Console
from rich.live import Live

from ainp2p.swarm import events as ev
from ainp2p.swarm.board import Board
from ainp2p.swarm.screen import draw

REFRESH_HZ = 8  # redraws of the live screen per second, at most
SUMMARY_MS = 1_000  # plain lines: routine events are summed up this often


class View(Protocol):
    """What shows events. `board` is the state after all of them."""

    board: Board

    def show(self, event: ev.AnyEvent) -> None:
        """Take one event in, and show it now or soon."""

    def tick(self) -> None:
        """Some time has passed."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


def open_view(out: IO[str] | None = None, *, json: bool = False) -> View:
    """The view that fits `out` (standard output): live on a terminal, else lines; JSON lines if asked."""
    out = out if out is not None else sys.stdout
    if json:
        return JsonView(out)
    return LiveView(out) if out.isatty() else LineView(out)


class _Lines:
    """Writes whole lines until nobody reads them any more."""

    def __init__(self, out: IO[str]) -> None:
        self.board = Board()
        self._out = out
        self._gone = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        return

    def tick(self) -> None:
        return

    def _write(self, line: str) -> None:
        if self._gone:
            return
        try:
            self._out.write(line + "\n")
            self._out.flush()
        except (OSError, ValueError):  # closed pipe, full disk, closed file: the swarm matters more
            self._gone = True


class JsonView(_Lines):
    """Every event as one line of JSON, in order, nothing left out."""

    def show(self, event: ev.AnyEvent) -> None:
        self.board.apply(event)
        self._write(ev.to_line(event)[:-1].decode())


class LineView(_Lines):
    """One plain line per event; tokens, receipts and balances are summed up once a second."""

    def __init__(self, out: IO[str]) -> None:
        super().__init__(out)
        self._tokens = self._receipts = self._signed = 0
        self._summed_ms = 0

    def __exit__(self, *exc: object) -> None:
        self._sum_up(self.board.now_ms)

    def show(self, event: ev.AnyEvent) -> None:
        self.board.apply(event)
        if event.at_ms - self._summed_ms >= SUMMARY_MS or isinstance(event, ev.SwarmEnded):
            self._sum_up(event.at_ms)
        match event:
            case ev.Progress(unit="token"):
                self._tokens += event.units
            case ev.ReceiptSigned():
                self._receipts += 1
                self._signed += event.added
            case ev.Progress() | ev.BalanceKnown() | ev.PhaseTimed() | ev.StageReached() | ev.LockOpened():
                pass
            case _:
                self._say(event.at_ms, sentence(event))

    def _sum_up(self, at_ms: int) -> None:
        self._summed_ms = at_ms
        if self._tokens or self._receipts:
            signed = ev.amount_text(self._signed)
            self._say(
                at_ms, f"{self._tokens} tokens delivered, {self._receipts} receipts signed for {signed}"
            )
        self._tokens = self._receipts = self._signed = 0

    def _say(self, at_ms: int, words: str) -> None:
        elapsed_ms = at_ms - (self.board.first_ms or at_ms)
        self._write(f"{elapsed_ms / 1000:7.2f}  {words}")


class _Console(Console):
    def on_broken_pipe(self) -> None:  # Rich's own would end the process
        raise BrokenPipeError


class LiveView:
    """A screen that is redrawn in place; what is final stays below when it ends."""

    def __init__(self, out: IO[str], *, size: tuple[int, int] | None = None) -> None:
        self.board = Board()
        width, height = size or (None, None)
        console = _Console(file=out, force_terminal=True, width=width, height=height, highlight=False)
        self._live = Live(console=console, auto_refresh=False, screen=False, transient=False)
        self._console = console
        self._changed = True
        self._gone = False

    def __enter__(self) -> Self:
        self._guarded(self._live.start)
        return self

    def __exit__(self, *exc: object) -> None:
        self._changed = True
        self.tick()
        self._guarded(self._live.stop)

    def show(self, event: ev.AnyEvent) -> None:
        self.board.apply(event)
        self._changed = True

    def tick(self) -> None:
        """Redraw if something changed. Call it REFRESH_HZ times a second."""
        if self._changed:
            self._changed = False
            picture = draw(self.board, self._console.size.height)
            self._guarded(lambda: self._live.update(picture, refresh=True))

    def _guarded(self, action: Callable[[], object]) -> None:
        if self._gone:
            return
        try:
            action()
        except (OSError, ValueError):
            self._gone = True


def sentence(event: ev.AnyEvent) -> str:
    """One event in words, on one line, safe to print."""
    return ev.printable(_words(event))


def _words(event: ev.AnyEvent) -> str:
    match event:
        case ev.SwarmStarted():
            return (
                f"swarm: {event.validators} validators, {event.sellers} sellers, "
                f"{event.buyers} buyers, model {event.model}, seed {event.seed}. {event.sizing}"
            )
        case ev.NetworkFounded():
            return f"network {event.network} founded with {ev.amount_text(event.supply)}"
        case ev.PeerUp():
            return f"{event.role} {event.name} is up: {event.peer} (process {event.pid})"
        case ev.PeerDown():
            return f"{event.name} has left: {event.reason}"
        case ev.StageReached():
            return f"{event.name}: {event.stage}"
        case ev.DocumentRead():
            return f"read {event.path}: {event.passages} passages, {event.sentences} sentences"
        case ev.DocumentRefused():
            return f"refused {event.path}: {event.reason}"
        case ev.TaskOpened():
            return f"{event.task}: {event.buyer} wants {event.skill} for {event.subject}"
        case ev.TaskMoved():
            return f"{event.task}: {event.state}{_with(' by ', event.seller)}{_with(': ', event.detail)}"
        case ev.Progress():
            return f"{event.task}: {event.units} more {event.unit}s from {event.seller}"
        case ev.ReceiptSigned():
            return f"{event.buyer} signed {ev.amount_text(event.added)} more to {event.seller}"
        case ev.BalanceKnown():
            held = event.available + event.locked + event.owed
            return f"{event.name} holds {ev.amount_text(held)}"
        case ev.LockOpened():
            return f"{event.buyer} opened a Lock of {ev.amount_text(event.deposit)}"
        case ev.Finalised():
            took = f"final after {event.took_us / 1000:.0f} ms"
            return f"{event.kind} by {event.name}: {ev.amount_text(event.amount)}, {took}"
        case ev.PhaseTimed():
            return f"{event.task}: {event.phase} took {event.took_us / 1000:.1f} ms"
        case ev.Answered():
            bill = f"{event.units} units, {ev.amount_text(event.paid)}"
            return f"{event.task}: “{event.answer}” ({bill}, {event.finish})"
        case ev.SellerKilled():
            return f"killed {event.name} with SIGKILL{_with(' during ', event.task)}"
        case ev.TaskTakenOver():
            kept = f"{event.kept} units kept, {event.lost} of at most {event.step} lost"
            return f"{event.task}: {event.seller} goes on after {event.seller_before}: {kept}"
        case ev.WalletReopened():
            collected = ev.amount_text(event.collected)
            return (
                f"wallet of {event.name} reopened: {event.closed} of {event.locks} Locks closed, {collected}"
            )
        case ev.SupplyChecked():
            accounted = event.balances + event.credits + event.locks + event.burnt
            return f"{event.validator} counts {accounted:,} of {event.minted:,} uain"
        case ev.Checked():
            return f"{'held' if event.held else 'FAILED'}: {event.check}{_with(' — ', event.detail)}"
        case ev.Note():
            return event.text if event.level == "info" else f"{event.level}: {event.text}"
        case ev.SwarmEnded():
            return "everything held" if event.held else "NOT everything held"


def _with(before: str, text: str) -> str:
    return before + text if text else ""
