"""The line between a process and the view: whole lines, commands, and an end that stops everybody."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from ainp2p.errors import Malformed
from ainp2p.swarm import events as ev
from ainp2p.swarm.line import Ask, Audit, Close, Command, Gone, Line, Lines, Reopen, from_line, to_line

NOTE = ev.Note(at_ms=1, text="a word")


@asynccontextmanager
async def opened(*, keep: bool = False) -> AsyncIterator[tuple[Line, trio.SocketStream]]:
    """A process's line, and the view's end of it."""
    ours, theirs = socket.socketpair()
    view = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
    async with trio.open_nursery() as nursery:
        line = Line(ours, keep=keep)
        nursery.start_soon(line.run)
        yield line, view
        nursery.cancel_scope.cancel()
    await view.aclose()


@pytest.mark.parametrize(
    "command", [Ask(question="why?"), Close(), Reopen(name="ada"), Audit(), Gone(name="ada")]
)
def test_a_command_comes_back_from_its_line(command: Command) -> None:
    assert from_line(to_line(command)[:-1]) == command  # type: ignore[arg-type]  # each is an AnyCommand


@pytest.mark.parametrize("line", [b"", b"{}", b'{"do":"explode"}', b"\xff", b'{"do":"ask"}'])
def test_what_is_no_command_is_refused(line: bytes) -> None:
    with pytest.raises(Malformed):
        from_line(line)


def test_lines_come_out_whole_however_they_were_cut() -> None:
    data, lines, found = b"one\ntwo\n\nthree", Lines(), []
    for at in range(len(data)):
        found += lines.feed(data[at : at + 1])
    assert found == [b"one", b"two", b""]
    assert lines.feed(b"\n") == [b"three"]


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory() -> None:
    lines, piece = Lines(), b"x" * 1000
    for _ in range(ev.LINE_SIZE_MAX // len(piece)):
        lines.feed(piece)
    with pytest.raises(Malformed):
        lines.feed(piece)


async def test_the_view_hears_what_is_said_in_order() -> None:
    async with opened() as (line, view):
        for number in range(100):
            line.say(ev.Note(at_ms=number, text="x"))
        await line.flush()
        lines, heard = Lines(), list[ev.AnyEvent]()
        while len(heard) < 100:
            heard += [ev.from_line(raw) for raw in lines.feed(await view.receive_some())]
        assert [event.at_ms for event in heard] == list(range(100))


async def test_commands_arrive_until_the_view_has_gone() -> None:
    async with opened() as (line, view):
        await view.send_all(to_line(Close()) + to_line(Ask(question="why?")))
        await view.aclose()
        assert [command async for command in line.commands()] == [Close(), Ask(question="why?")]
        await line.stop.wait()


async def test_a_view_that_only_stops_sending_stops_us_and_still_hears_our_last_words() -> None:
    async with opened() as (line, view):
        await view.send_eof()
        await line.stop.wait()
        line.say(NOTE)
        assert ev.from_line((await view.receive_some()).rstrip()) == NOTE


async def test_kept_processes_go_on_without_the_view() -> None:
    async with opened(keep=True) as (line, view):
        await view.aclose()
        assert [command async for command in line.commands()] == []
        for _ in range(3):
            line.say(NOTE)
            await line.flush()
        assert not line.stop.is_set()


async def test_nonsense_from_the_view_ends_the_line() -> None:
    async with opened() as (line, view):
        await view.send_all(b"what?\n")
        await line.stop.wait()


async def test_routine_events_are_dropped_when_the_view_does_not_listen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ainp2p.swarm.line.WAITING_MAX", 10)
    ours, theirs = socket.socketpair()
    line = Line(ours)
    for _ in range(50):
        line.say(ev.Progress(at_ms=1, task="t", seller="s", units=1))
    line.say(NOTE)  # what is rare is never dropped
    assert len(line._waiting) == 11
    ours.close()
    theirs.close()
