"""Kills one random process of a swarm at a random moment, again and again: ``python -m ainp2p.swarm.chaos``.

Whatever dies (a validator, a seller, its model, a buyer, the auditor, the creator, the view itself), no
validator may count a different supply, nobody may hang, and nobody may stay behind. Who is killed and when
follows from the seed and the run's number; a violation prints both, and the command that begins the same
way (processes run as fast as they please, so it may hit another one).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import ainp2p
from ainp2p.swarm import events as ev
from ainp2p.swarm.board import Board
from ainp2p.swarm.checks import supply_errors
from ainp2p.swarm.sizing import VALIDATORS

VIEW, MODEL = "view", "model"
LEAVE_LIMIT_S = 12.0  # after the view has gone: for all others to stop
EVENTS = 180  # of a run of DOCUMENT, about; a fifth of them while it is being made
POLL_S = 0.05
QUORUM = 3  # of four validators: with fewer nothing becomes final, and nothing is counted
DOCUMENT = """# Notes on a voyage

The ship left the harbour before sunrise. Nobody on the pier waved to the sailors. The captain kept a book of
the weather and of the prices in every port. Salt was dear in the north and cheap in the south.

## The storm

The wind turned on the third day. Two sails were torn before noon. The crew threw the cargo into the sea.
A boy at the mast saw the light of a tower. The ship reached the bay with water in its hold.

## The trade

The merchants paid for wool with silver. Each payment was written into two books. A mistake was found in the
evening and corrected. The silver was counted again before the ship sailed home.

## The return

The sea was calm on the way home. The captain sold the last salt to a baker. Every sailor got a share of the
profit. The book of the voyage lies in the town's library.
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """One run. The moment is so many events into it, and a little later: slow machines are hit alike."""

    seed: int
    number: int
    pause_s: float  # at most

    @property
    def rng(self) -> random.Random:
        """The same for the same seed and number."""
        return random.Random(f"{self.seed}/{self.number}")


@dataclass(slots=True)
class Outcome:
    """What became of one run."""

    victim: str = ""
    at_s: float = 0.0
    took_s: float = 0.0
    status: int | None = None
    problems: list[str] = field(default_factory=list)
    validators: int = 0  # that counted

    @property
    def said(self) -> str:
        """In a line."""
        counted = f"{self.validators} validators counted" if self.validators else "nobody counted"
        held = "; ".join(self.problems) or "held"
        return f"killed {self.victim} after {self.at_s:.1f} s, {self.took_s:.1f} s, {counted}: {held}"


class Watched:
    """One swarm under observation: its view is our child, its events are read by a thread."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], errors: Path) -> None:
        self.board, self.heard = Board(), 0
        self._lock = threading.Lock()
        with errors.open("wb") as written:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=written,
                env=environment,
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._lock, contextlib.suppress(Exception):
                self.board.apply(ev.from_line(line))
                self.heard += 1

    def pids(self) -> dict[str, int]:
        """Everybody who was ever heard of, by name; the sellers' models by their parents' names."""
        with self._lock:
            known = {peer.name: peer.pid for peer in self.board.peers.values() if peer.pid}
            sellers = [peer.name for peer in self.board.peers.values() if peer.role == "seller"]
        for name in sellers:
            for child in _children(known[name]):
                known[f"{name}'s {MODEL}"] = child
        known[VIEW] = self.process.pid
        return known

    def wait(self, limit_s: float) -> int | None:
        """The view's exit status; None if it still runs after `limit_s`."""
        try:
            status = self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return None
        self._reader.join(5.0)
        return status


def one_run(plan: Plan, arguments: Sequence[str], limit_s: float) -> Outcome:
    """Start a swarm, kill one of its processes, and see what becomes of the rest."""
    outcome, rng = Outcome(), plan.rng
    with tempfile.TemporaryDirectory(prefix="ainp2p-chaos-") as directory:
        root = Path(directory)
        document = root / "voyage.md"
        document.write_text(DOCUMENT, "utf-8")
        command = [sys.executable, "-m", "ainp2p", "swarm", str(document), "--json"]
        command += ["--report", str(root / "report"), "--seed", str(plan.number), *arguments]
        began = time.monotonic()
        watched = Watched(command, _environment(root), root / "errors.txt")
        seen: dict[str, int] = {}
        try:
            _wait_for(watched, seen, rng.randrange(EVENTS), rng.random() * plan.pause_s)
            outcome.at_s = time.monotonic() - began
            outcome.victim = _kill_one(watched, seen, rng)
            outcome.status = _finish(watched, seen, began + limit_s)
            outcome.problems += problems(watched, outcome, seen, root / "errors.txt")
            outcome.validators = len(watched.board.supply)
        finally:
            outcome.took_s = time.monotonic() - began
            _end_all(watched, seen)
    return outcome


def _wait_for(watched: Watched, seen: dict[str, int], events: int, pause_s: float) -> None:
    """Until so many events have come, and a pause; or the run is over."""
    while watched.heard < events and watched.process.poll() is None:
        seen.update(watched.pids())
        time.sleep(POLL_S)
    time.sleep(pause_s)
    seen.update(watched.pids())


def _kill_one(watched: Watched, seen: dict[str, int], rng: random.Random) -> str:
    """SIGKILL to somebody who is alive; any of them with the same chance."""
    alive = sorted(name for name, pid in watched.pids().items() if runs(pid))
    if not alive:
        return "nobody (it was over)"
    victim = rng.choice(alive)
    with contextlib.suppress(ProcessLookupError):
        os.kill(seen[victim], signal.SIGKILL)
    return victim


def _finish(watched: Watched, seen: dict[str, int], deadline: float) -> int | None:
    while time.monotonic() < deadline and watched.process.poll() is None:
        seen.update(watched.pids())
        time.sleep(POLL_S)
    return watched.wait(0.1)


def problems(watched: Watched, outcome: Outcome, seen: dict[str, int], errors: Path) -> Iterator[str]:
    if outcome.status is None:
        yield "the view hangs"
    yield from supply_errors(watched.board)
    left = wait_until_gone(seen, LEAVE_LIMIT_S)
    if left:
        yield f"still there: {', '.join(left)}"
    said = errors.read_text("utf-8", "replace").strip()
    if "Traceback" in said or "unexpected" in said:
        yield f"the view failed: {said[-500:]}"
    if outcome.status not in (None, 0, 1, -signal.SIGKILL):
        yield f"exit status {outcome.status}"
    # Three validators decide; so whatever else died, the money can be counted, if there was a network.
    if (
        watched.board.network
        and outcome.victim != VIEW
        and outcome.status is not None
        and len(watched.board.supply) < min(QUORUM, VALIDATORS)
    ):
        yield f"only {len(watched.board.supply)} validators counted"


def wait_until_gone(seen: dict[str, int], limit_s: float) -> list[str]:
    deadline = time.monotonic() + limit_s
    while left := sorted(name for name, pid in seen.items() if runs(pid)):
        if time.monotonic() > deadline:
            return left
        time.sleep(POLL_S)
    return []


def _end_all(watched: Watched, seen: dict[str, int]) -> None:
    """Leave nothing behind, whatever went wrong: these are all processes that this run started."""
    for pid in seen.values():
        if runs(pid):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        watched.process.wait(5.0)


def _environment(root: Path) -> dict[str, str]:
    """A home of its own, but for the models, which are only read."""
    from ainp2p.home import Home

    home = root / "home"
    home.mkdir(mode=0o700)
    (home / "models").symlink_to(Home.from_environment().models(), target_is_directory=True)
    package = str(Path(ainp2p.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "AINP2P_HOME": str(home), "PYTHONPATH": path}


def runs(pid: int) -> bool:
    """Whether a process exists and is no zombie that nobody has reaped."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's: the number is not ours any more
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return Path("/proc/self").exists() is False  # no /proc here: believe the signal


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(word) for word in task.read_text("ascii").split()]
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m ainp2p.swarm.chaos", description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=50, metavar="N", help="how many swarms")
    parser.add_argument("--model", default="scripted", help="text model; 'scripted' needs none")
    parser.add_argument("--seed", type=int, default=None, metavar="N", help="drawn if left out")
    parser.add_argument("--first", type=int, default=1, metavar="N", help="number of the first run")
    parser.add_argument("--limit", type=float, default=None, metavar="S", help="seconds that a run may take")
    args = parser.parse_args(argv)
    scripted = args.model == "scripted"
    seed = args.seed if args.seed is not None else random.SystemRandom().randrange(10**6)
    pause_s, limit_s = (0.3, 60.0) if scripted else (3.0, 300.0)
    limit_s = args.limit or limit_s
    arguments = ["--model", args.model, "--parts", "8", "--limit", str(max(5, int(limit_s / 2)))]
    print(f"{args.runs} swarms with {args.model}, seed {seed}", flush=True)
    for number in range(args.first, args.first + args.runs):
        outcome = one_run(Plan(seed, number, pause_s), arguments, limit_s)
        print(f"{number:4d}  {outcome.said}", flush=True)
        if outcome.problems:
            again = (
                f"python -m ainp2p.swarm.chaos --runs 1 --model {args.model} --seed {seed} --first {number}"
            )
            print(f"violated in run {number}; to repeat: {again}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
