"""What every process of a swarm has in common: a session, a log and a line of its own, and a sure end.

`start` forks: the creator has imported libp2p once, and its children share that memory. It is called
before any event loop or thread exists.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NoReturn

import trio

from ainp2p.protocol.context import Context
from ainp2p.swarm import events as ev
from ainp2p.swarm.line import Line

WIND_DOWN_S = 4  # after the view has gone: to leave jobs, settle and close
CLOSING_S = 11  # of an agent whom nobody answers: `Deposit.leave`, `Seller.close`, `_settle_up`, and 1 s
ALARM_S = WIND_DOWN_S + CLOSING_S  # then the process is ended by the system, even if its event loop hangs

Serve = Callable[[Line], Awaitable[None]]


def start(
    name: str, serve: Serve, end: socket.socket, forget: Callable[[], None], log: Path, *, keep: bool
) -> int:
    """Fork a process that runs `serve` with its line; returns its id.

    Args:
        end: its end of the line.
        forget: closes what belongs to other processes; held open here, it would never end there.
        keep: it goes on when the view has gone.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        forget()
        _own_output(log)
        _call_oneself(name)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    run_and_exit(name, serve, end, keep=keep)


def run_and_exit(name: str, serve: Serve, end: socket.socket, *, keep: bool = False) -> NoReturn:
    """As `run`, and the process ends with it: at once, with nothing of a parent's to be cleaned up."""
    status = 1
    try:
        run(name, serve, end, keep=keep)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def run(name: str, serve: Serve, end: socket.socket, *, keep: bool = False) -> None:
    """Run `serve` in this process, until it returns, or WIND_DOWN_S after it was to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the view; we hear of it by the line's end
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    trio.run(_run, name, serve, Line(end, keep=keep))


async def _run(name: str, serve: Serve, line: Line) -> None:
    context = Context.system()
    async with trio.open_nursery() as background:
        background.start_soon(line.run)
        line.say(ev.StageReached(at_ms=context.now_ms(), name=name, stage="started", pid=os.getpid()))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_end_after_stop, line, nursery.cancel_scope)
            nursery.start_soon(_hear_sigterm, line)
            await serve(line)
            nursery.cancel_scope.cancel()
        reason = "stopped" if line.stop.is_set() else "finished"
        line.say(ev.PeerDown(at_ms=context.now_ms(), name=name, reason=reason))
        await line.flush()
        background.cancel_scope.cancel()


async def _hear_sigterm(line: Line) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            line.stop.set()


async def _end_after_stop(line: Line, scope: trio.CancelScope) -> None:
    await line.stop.wait()
    signal.alarm(ALARM_S)
    if line.is_up:
        await trio.sleep(WIND_DOWN_S)
    scope.cancel()


def preload() -> None:
    """Import once what every child needs, and keep the collector from copying it into each."""
    from ainp2p.protocol.libp2p_fixes import install_fixes

    install_fixes()
    gc.collect()
    gc.freeze()


def _own_output(log: Path) -> None:
    """No terminal: input from nowhere, output to a log."""
    nowhere = os.open(os.devnull, os.O_RDONLY)
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(nowhere, 0)
    os.dup2(written, 1)
    os.dup2(written, 2)
    os.close(nowhere)
    os.close(written)


def _call_oneself(name: str) -> None:
    """The name that ``ps`` and ``top`` show, on Linux."""
    try:
        Path("/proc/self/comm").write_text(f"ainp2p {name}"[:15])
    except OSError:
        return
