"""The three views: JSON lines, plain lines, the live screen; all survive a closed output."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from ainp2p.swarm import events as ev
from ainp2p.swarm.board import Board
from ainp2p.swarm.screen import draw
from ainp2p.swarm.view import JsonView, LineView, LiveView, View, open_view, sentence
from tests.swarm.story import ONE_OF_EACH, START_MS, story


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class ClosedPipe(io.StringIO):
    """Takes so many characters, then nobody reads any more."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def write(self, text: str) -> int:
        self.room -= len(text)
        if self.room < 0:
            raise BrokenPipeError
        return super().write(text)


def shown(view: View, events: list[ev.AnyEvent]) -> None:
    with view:
        for event in events:
            view.show(event)
            view.tick()


def picture(board: Board, *, width: int = 100, height: int = 40) -> str:
    out = io.StringIO()
    Console(file=out, width=width, height=height, force_terminal=False).print(draw(board, height))
    return out.getvalue()


def board_after(events: list[ev.AnyEvent]) -> Board:
    board = Board()
    for event in events:
        board.apply(event)
    return board


def test_a_terminal_gets_a_screen_and_anything_else_lines() -> None:
    assert isinstance(open_view(Terminal()), LiveView)
    assert isinstance(open_view(io.StringIO()), LineView)
    assert isinstance(open_view(Terminal(), json=True), JsonView)


def test_json_lines_are_the_events() -> None:
    out = io.StringIO()
    shown(JsonView(out), story())
    assert [ev.from_line(line.encode()) for line in out.getvalue().splitlines()] == story()


@pytest.mark.parametrize("event", ONE_OF_EACH, ids=lambda event: type(event).__name__)
def test_every_event_has_words(event: ev.AnyEvent) -> None:
    assert len(sentence(event)) > 5
    assert "\n" not in sentence(event)


def test_lines_tell_the_story_with_the_time_since_the_start() -> None:
    out = io.StringIO()
    shown(LineView(out), story())
    lines = out.getvalue().splitlines()
    assert "   0.60  killed ada with SIGKILL during t1" in lines
    assert "   0.90  t1: bela goes on after ada: 8 units kept, 3 of at most 32 lost" in lines
    assert lines[-1].endswith("everything held")


def test_lines_sum_up_what_happens_all_the_time() -> None:
    out = io.StringIO()
    events: list[ev.AnyEvent] = [
        ev.Progress(at_ms=START_MS + i, task="t", seller="ada", units=1) for i in range(0, 3_000, 10)
    ]
    shown(LineView(out), events)
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert sum(int(re.findall(r"(\d+) tokens", line)[0]) for line in lines) == 300


@pytest.mark.parametrize("room", [0, 10, 100, 500])
@pytest.mark.parametrize("kind", [JsonView, LineView, LiveView])
def test_a_view_whose_output_is_gone_falls_silent(kind: type[View], room: int) -> None:
    view = kind(ClosedPipe(room))  # type: ignore[call-arg]  # a Protocol has no constructor
    shown(view, story())
    assert view.board.end is not None


def test_the_live_screen_ends_with_the_verdict() -> None:
    out = Terminal()
    shown(LiveView(out, size=(100, 40)), story())
    assert "everything held" in out.getvalue()


def test_the_screen_shows_peers_tasks_money_and_finality() -> None:
    text = picture(board_after(story()))
    assert re.search(r"ada +seller +killed", text)
    assert re.search(r"cleo +buyer +up +960 +0 +0", text)
    assert re.search(r"t1 summarise .*cleo → bela +completed", text)
    assert "2 receipts signed for 40 uain" in text
    assert "1 operations final, p50 150 ms" in text
    assert "✓ supply" in text


def test_the_screen_shows_the_answer_with_its_sources_and_bill_and_where_the_report_is() -> None:
    asked = ev.TaskOpened(at_ms=START_MS, task="ask", buyer="cleo", skill="ask", subject="Why Locks?")
    answered = ev.Answered(
        at_ms=START_MS,
        task="ask",
        answer="A Lock is a deposit.",
        sources=(ev.Source("docs/a.md", 3, 4, "Locks", "A Lock is a deposit."),),
        units=3,
        paid=6,
    )
    moved = ev.TaskMoved(at_ms=START_MS, task="ask", state="completed", seller="bela")
    note = ev.Note(at_ms=START_MS, text="the report is swarm-report/report.html")
    screen = picture(board_after([*story(), asked, answered, moved, note]), height=60)
    for words in ("Why Locks?", "A Lock is a deposit.", "docs/a.md:3", "3 units, 6 uain", "swarm-report"):
        assert words in screen


def test_a_failed_check_shows_on_the_screen() -> None:
    text = picture(board_after(story(held=False)))
    assert "✗ supply" in text
    assert "not everything held" in text


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_screen_fits_its_width(width: int) -> None:
    assert all(len(line) <= width for line in picture(board_after(story()), width=width).splitlines())


def test_a_small_screen_shows_the_tasks_at_work_first() -> None:
    events: list[ev.AnyEvent] = []
    for i in range(50):
        events.append(ev.TaskOpened(at_ms=i, task=f"t{i}", buyer="c", skill="s", subject="x"))
        state: ev.TaskState = "working" if i == 3 else "completed"
        events.append(ev.TaskMoved(at_ms=i + 1, task=f"t{i}", state=state, seller="a"))
    text = picture(board_after(events), height=20)
    assert "t3 s" in text
    assert "t49 s" in text
    assert "t10 s" not in text


@pytest.mark.parametrize("kind", ["lines", "screen"])
def test_foreign_words_cannot_steer_the_terminal(kind: str) -> None:
    hostile = "\x1b[2J\x9b31m[bold red]x[/bold red]\u202e"
    events = [*story(subject=hostile), ev.Note(at_ms=START_MS, text=hostile, level="warning")]
    if kind == "lines":
        out = io.StringIO()
        shown(LineView(out), events)
        text = out.getvalue()
    else:
        text = picture(board_after(events))
    assert not set(text) & {"\x1b", "\x9b", "\u202e"}
    assert "[bold red]x[/bold red]" in text  # not taken for markup either
