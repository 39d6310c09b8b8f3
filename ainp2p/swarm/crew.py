"""The view's ends of all lines, and the two processes that it starts itself: the creator and the auditor.

Shows nothing and decides nothing: what is heard, and which line has ended, is handed on.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path

import msgspec
import trio

import ainp2p
from ainp2p.errors import Malformed
from ainp2p.swarm import events as ev
from ainp2p.swarm import line
from ainp2p.swarm.spec import AUDITOR, CREATOR, Spec, to_json

REAP_TIMEOUT_S = 1.0  # for a child whose line has ended
_READ_SIZE = 65_536


class Crew:
    """Everybody whom the view can hear.

    Args:
        hear: called with the speaker's name and each event.
        ended: called when a line has ended, with a word if it ended in nonsense.
    """

    def __init__(
        self,
        spec: Spec,
        nursery: trio.Nursery,
        hear: Callable[[ev.AnyEvent], Awaitable[None]],
        ended: Callable[[str, str], Awaitable[None]],
    ) -> None:
        self._spec, self._nursery, self._hear, self._on_end = spec, nursery, hear, ended
        self._ends: dict[str, trio.SocketStream] = {}
        self._children: list[trio.Process] = []
        self._nobody_left = trio.Event()

    @property
    def names(self) -> tuple[str, ...]:
        """Whose lines are open."""
        return tuple(self._ends)

    async def start_creator(self) -> None:
        """Start the creator, with everybody's end of a line."""
        await self._start("ainp2p.swarm.creator", CREATOR, (CREATOR, *self._spec.names))

    async def start_auditor(self) -> None:
        """Start an auditor."""
        await self._start("ainp2p.swarm.auditor", AUDITOR, (AUDITOR,))

    async def send(self, name: str, command: line.AnyCommand) -> None:
        """Give a command to a process; nothing happens if it has gone."""
        end = self._ends.get(name)
        if end is not None:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await end.send_all(line.to_line(command))

    def kill(self, name: str, pid: int) -> bool:
        """Send SIGKILL to a process whose line is open, so that the number is still its own."""
        if name not in self._ends or not pid:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return True

    async def stop(self, names: Iterable[str]) -> None:
        """Close our half of some lines: these processes stop, and their last words still arrive."""
        for end in [self._ends[name] for name in names if name in self._ends]:
            with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                await end.send_eof()

    async def wait_until_alone(self) -> None:
        """Return when all lines have ended."""
        if self._ends:
            await self._nobody_left.wait()

    async def reap(self) -> None:
        """Make sure that our own children have ended."""
        for child in self._children:
            with trio.move_on_after(REAP_TIMEOUT_S):
                await child.wait()
            if child.returncode is None:
                child.kill()
                await child.wait()

    async def _start(self, module: str, name: str, lines: tuple[str, ...]) -> None:
        """Start a process of ours that gets the other ends of these lines, and perhaps passes them on."""
        theirs = {other: self._new_line(other) for other in lines}
        sockets = {other: end.fileno() for other, end in theirs.items()}
        package = str(Path(ainp2p.__file__).parent.parent)
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        try:
            with self._spec.log(name).open("ab") as written, trio.CancelScope(shield=True):
                process = await trio.lowlevel.open_process(
                    [sys.executable, "-P", "-m", module, to_json(_with(self._spec, sockets))],
                    stdin=subprocess.DEVNULL,
                    stdout=written,
                    stderr=written,
                    pass_fds=tuple(sockets.values()),
                    start_new_session=True,  # Ctrl-C is for us; they hear of it from us
                    env={**os.environ, "PYTHONPATH": path},
                )
            self._children.append(process)
        finally:
            for end in theirs.values():
                end.close()

    def _new_line(self, name: str) -> socket.socket:
        ours, theirs = socket.socketpair()
        self._ends[name] = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        self._nursery.start_soon(self._listen, name, self._ends[name])
        return theirs

    async def _listen(self, name: str, end: trio.SocketStream) -> None:
        lines, nonsense = line.Lines(), ""
        try:
            while data := await end.receive_some(_READ_SIZE):
                for raw in lines.feed(data):
                    await self._hear(ev.from_line(raw))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except Malformed as exc:
            nonsense = str(exc)
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(end)
        if self._ends.get(name) is end:
            del self._ends[name]
        await self._on_end(name, nonsense)
        if not self._ends:
            self._nobody_left.set()


def _with(spec: Spec, sockets: dict[str, int]) -> Spec:
    return msgspec.structs.replace(spec, sockets=sockets)
