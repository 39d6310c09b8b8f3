"""The line between one process of a swarm and the view: events one way, commands the other.

A line is one end of a Unix socket pair that the view made before it started anybody. Each side writes lines
of JSON. When the view's end is gone, or closed for writing, the process stops: whatever happens to the
view, nobody stays behind. With ``--keep`` a process goes on without it, until somebody sends it SIGTERM.
"""

from __future__ import annotations

import math
import socket
from collections import deque
from collections.abc import AsyncIterator

import msgspec
import trio

from ainp2p.errors import Malformed
from ainp2p.swarm import events as ev

WAITING_MAX = 20_000  # events that the view has not taken; routine ones are dropped beyond that
FLUSH_TIMEOUT_S = 1.0
_READ_SIZE = 65_536


class Command(msgspec.Struct, frozen=True, kw_only=True, tag_field="do", tag=str.lower):
    """Base of what the view asks a process to do. The end of the line means: stop."""


class Ask(Command, frozen=True, kw_only=True):
    """To a buyer: answer a question from what was bought."""

    question: str


class Close(Command, frozen=True, kw_only=True):
    """To a seller: end all Locks at their highest receipts."""


class Reopen(Command, frozen=True, kw_only=True):
    """To the auditor: open a dead seller's wallet from its disk, end its Locks, and do no more.

    `locks` are Locks that pay it, as its buyers say: it may have died before it heard of one.
    """

    name: str
    locks: tuple[str, ...] = ()


class Audit(Command, frozen=True, kw_only=True):
    """To the auditor: have every validator count the money."""


class Gone(Command, frozen=True, kw_only=True):
    """To a buyer: this seller's process has ended, so nobody need wait for it."""

    name: str


AnyCommand = Ask | Close | Reopen | Audit | Gone
_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[AnyCommand] = msgspec.json.Decoder(AnyCommand)


def to_line(command: AnyCommand) -> bytes:
    """One line of JSON, with its newline."""
    return _encoder.encode(command) + b"\n"


def from_line(line: bytes) -> AnyCommand:
    """Read what `to_line` wrote.

    Raises:
        Malformed: no command.
    """
    try:
        return _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise Malformed(f"not a command: {exc}") from exc


class Lines:
    """Bytes in, whole lines out, without their newlines."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are complete now.

        Raises:
            Malformed: a line is longer than `events.LINE_SIZE_MAX`.
        """
        self._rest += data
        *lines, rest = bytes(self._rest).split(b"\n")
        self._rest = bytearray(rest)
        if len(rest) > ev.LINE_SIZE_MAX:
            raise Malformed(f"a line of more than {ev.LINE_SIZE_MAX} bytes")
        return lines


class Line:
    """A process's end. `run` is its one background task; everything else may be called at any time."""

    def __init__(self, end: socket.socket, *, keep: bool = False) -> None:
        self.stop = trio.Event()  # this process is to end
        self.is_up = False  # the process has begun its work: there may be something to settle before it ends
        self._keep = keep
        self._end = trio.SocketStream(trio.socket.from_stdlib_socket(end))
        self._waiting: deque[bytes] = deque()
        self._filled, self._empty = trio.Event(), trio.Event()
        self._into, self._commands = trio.open_memory_channel[AnyCommand](math.inf)

    def say(self, event: ev.AnyEvent) -> None:
        """Tell the view, soon; never waits. Nothing happens when there is nobody to tell."""
        self.is_up |= isinstance(event, ev.PeerUp)
        routine = isinstance(event, ev.Progress | ev.BalanceKnown | ev.PhaseTimed)
        if not (routine and len(self._waiting) >= WAITING_MAX):
            self._waiting.append(ev.to_line(event))
            self._filled.set()

    def commands(self) -> AsyncIterator[AnyCommand]:
        """What the view asks for, until it has gone."""
        return self._commands

    async def run(self) -> None:
        """Read and write until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_forever)
            nursery.start_soon(self._read_to_end)

    async def flush(self) -> None:
        """Wait, for a short time, until the view has been told everything."""
        with trio.CancelScope(deadline=trio.current_time() + FLUSH_TIMEOUT_S, shield=True):
            while self._waiting:
                self._empty = trio.Event()
                await self._empty.wait()

    async def _write_forever(self) -> None:
        told = True
        while True:
            await self._filled.wait()
            self._filled = trio.Event()
            while self._waiting:
                data = b"".join(self._waiting)
                taken = len(self._waiting)
                if told:
                    try:
                        await self._end.send_all(data)
                    except (trio.BrokenResourceError, trio.ClosedResourceError):
                        told = False  # with --keep the process goes on, and nobody listens
                for _ in range(taken):
                    self._waiting.popleft()
            self._empty.set()

    async def _read_to_end(self) -> None:
        lines = Lines()
        try:
            while data := await self._end.receive_some(_READ_SIZE):
                for line in lines.feed(data):
                    self._into.send_nowait(from_line(line))
        except (trio.BrokenResourceError, trio.ClosedResourceError, Malformed):
            pass
        self._into.close()
        if not self._keep:
            self.stop.set()
