"""A whole swarm with scripted models as a child process, for tests: its events, its processes, its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from ainp2p.swarm import events as ev
from ainp2p.swarm.board import Board
from ainp2p.swarm.chaos import DOCUMENT, runs, wait_until_gone
from tests.blocks import ROOT

LIMIT_S = 90.0


class SwarmProcess:
    """One `ainp2p swarm … --json`; its events are kept as they come."""

    def __init__(self, home: Path, *arguments: str, model: str = "scripted") -> None:
        home.mkdir(exist_ok=True)
        self.home, self.report = home, home / "report"
        (home / "voyage.md").write_text(DOCUMENT, "utf-8")
        command = [sys.executable, "-m", "ainp2p", "swarm", str(home / "voyage.md"), "--json"]
        command += ["--model", model, "--report", str(self.report), *arguments]
        self.board, self.events, self.bad = Board(), list[ev.AnyEvent](), list[bytes]()
        self._news = threading.Condition()
        self._ended = False
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "AINP2P_HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                try:
                    event = ev.from_line(line)
                    self.board.apply(event)
                    self.events.append(event)
                except Exception:
                    self.bad.append(line)
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def until(self, kind: type[ev.AnyEvent], fits: Callable[[ev.AnyEvent], bool] = lambda _: True) -> None:
        """Wait for an event; fails when the swarm ends without it."""
        with self._news:
            found = self._news.wait_for(
                lambda: self._ended or any(isinstance(e, kind) and fits(e) for e in self.events), LIMIT_S
            )
            assert found, f"no {kind.__name__} within {LIMIT_S:g} s"
            assert any(isinstance(e, kind) and fits(e) for e in self.events), self.events[-5:]

    def interrupt(self, number: int = signal.SIGINT) -> None:
        """Ctrl-C, as a terminal sends it: to the view alone, since the others have sessions of their own."""
        self.process.send_signal(number)

    def end(self, limit_s: float = LIMIT_S) -> int:
        """Wait for the view to end; returns its exit status."""
        status = self.process.wait(limit_s)
        self._reader.join(10)
        return status

    @property
    def errors(self) -> str:
        """What the view wrote on standard error; after its end."""
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def pids(self) -> dict[str, int]:
        """All processes that were heard of."""
        return {peer.name: peer.pid for peer in self.board.peers.values() if peer.pid}

    def left(self, limit_s: float = 15.0) -> list[str]:
        """Who still runs after a while."""
        return wait_until_gone(self.pids(), limit_s)

    def close(self, also: Sequence[int] = ()) -> None:
        """Leave nothing behind, whatever a test did."""
        for pid in (self.process.pid, *self.pids().values(), *also):
            if runs(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
