"""`ainp2p swarm`: makes the lines, starts the creator, shows what happens, and sees to it that it ends.

The view holds one end of a line to each process. It closes them when it is done, and the system closes them
if it is killed: either way everybody stops. What it does is decided by `director`, what held by `checks`.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Literal

import trio

from ainp2p.cli import exit_codes
from ainp2p.errors import InvalidInput
from ainp2p.home import Home
from ainp2p.swarm import documents, page, passages, report, sizing, study
from ainp2p.swarm import events as ev
from ainp2p.swarm.checks import Verdict, verdicts
from ainp2p.swarm.crew import Crew
from ainp2p.swarm.director import Action, Director, Kill, Send, StartAuditor
from ainp2p.swarm.options import Models, Options, models_of
from ainp2p.swarm.spec import AUDITOR, BUYERS, TEXT_SELLERS, Spec
from ainp2p.swarm.view import REFRESH_HZ, View, open_view

COLLECT_TIMEOUT_S = 4.0  # after an interrupt, for dead sellers' Locks
LEAVE_TIMEOUT_S = 8.0  # for everybody to stop; then they are killed
LAST_LINES = 3  # of a crashed process's log, for the person who watches


def run(options: Options) -> int:
    """Run a swarm to its end; returns the exit status.

    Raises:
        InvalidInput: nothing that was named can be read, or an option cannot be used.
        ModelNotFound: the model is not here.
    """
    home = Home.from_environment()
    models = models_of(options.model, home)
    machine = sizing.this_machine()
    sized = sizing.size(machine, models.parameters, sellers=options.sellers, buyers=options.buyers)
    reading = documents.read(options.paths)
    parts = study.parts_of(p for document in reading.documents for p in passages.split(document))
    if not parts:
        reasons = "; ".join(f"{refused.path}: {refused.reason}" for refused in reading.refused)
        raise InvalidInput(f"nothing to read in {', '.join(options.paths)} ({reasons or 'no sentences'})")
    output = _report_directory(Path(options.report))
    directory = Path(tempfile.mkdtemp(prefix="swarm-", dir=home.run()))
    swarm: Swarm | None = None
    try:
        with open_view(json=options.json) as view:
            swarm = Swarm(_spec(options, models, sized, directory), options, view, output)
            swarm.tell_beginning(models, machine, sized, reading, len(parts))
            return trio.run(swarm.run)
    finally:
        if swarm is None or not swarm.keeps_directory:
            shutil.rmtree(directory, ignore_errors=True)


class Swarm:
    """One run, as the view conducts it."""

    def __init__(self, spec: Spec, options: Options, view: View, output: Path) -> None:
        self.keeps_directory = options.keep  # else keys, books, votes and logs are removed at the end
        self._spec, self._view, self._output = spec, view, output
        self._director = Director(spec, view.board, question=options.ask, work_ms=options.limit_s * 1000)
        self._interrupted = False
        self._over, self._heard = trio.Event(), trio.Event()  # `_heard` is set, and replaced, at each event

    # --- telling ------------------------------------------------------------------------------------

    def tell_beginning(
        self,
        models: Models,
        machine: sizing.Machine,
        sized: sizing.Sizing,
        reading: documents.Reading,
        parts: int,
    ) -> None:
        """What will be started, and what was read."""
        spec, at_ms = self._spec, _now_ms()
        self._show(
            ev.SwarmStarted(
                at_ms=at_ms,
                model=models.name,
                model_bytes=models.size_bytes,
                validators=len(spec.validators),
                sellers=len(spec.sellers),
                buyers=len(spec.buyers),
                cores=machine.cores,
                memory_bytes=machine.memory_bytes,
                seed=spec.seed,
                sizing=sized.said,
            )
        )
        for document in reading.documents:
            found = passages.split(document)
            self._show(
                ev.DocumentRead(
                    at_ms=at_ms,
                    path=document.path,
                    bytes=document.size,
                    passages=len(found),
                    sentences=sum(len(passage.sentences) for passage in found),
                )
            )
        for refused in reading.refused:
            self._show(ev.DocumentRefused(at_ms=at_ms, path=refused.path, reason=refused.reason))
        if parts > spec.parts:
            rest = min(parts - spec.parts, study.REST_MAX)
            self._note(
                f"titles for {spec.parts} of {parts} parts, {rest} more are only indexed; --parts takes more"
            )

    def _show(self, event: ev.AnyEvent) -> None:
        self._view.show(event)
        self._heard.set()
        self._heard = trio.Event()

    def _note(self, text: str, level: Literal["info", "warning", "error"] = "info") -> None:
        self._show(ev.Note(at_ms=_now_ms(), text=text, level=level))

    # --- the run ------------------------------------------------------------------------------------

    async def run(self) -> int:
        """From the first process to the last; returns the exit status."""
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            async with trio.open_nursery() as nursery:
                crew = self._crew = Crew(self._spec, nursery, self._hear, self._on_end)
                nursery.start_soon(self._hear_signals, signals)
                nursery.start_soon(self._keep_time)
                try:
                    await crew.start_creator()
                    await self._over.wait()
                finally:
                    with trio.CancelScope(shield=True):
                        await self._leave()
                going = set(crew.names)
                nursery.cancel_scope.cancel()
        return self._conclude(going)

    async def _hear(self, event: ev.AnyEvent) -> None:
        self._show(event)
        await self._act(self._director.step(_now_ms(), event))

    async def _on_end(self, name: str, nonsense: str) -> None:
        """A line has ended: its process has, too."""
        if nonsense:
            self._note(f"{name} said nonsense: {nonsense}", "error")
        self._director.ended.add(name)
        peer = self._view.board.peers.get(name)
        if peer is not None and peer.down_ms is None:
            reason = self._why_ended(name)
            self._show(ev.PeerDown(at_ms=_now_ms(), name=name, reason=reason))
            if reason == "crashed" and (words := _last_words(self._spec, name)):
                self._note(f"{name} said at last: {words}", "error")
        await self._act(self._director.step(_now_ms()))

    def _why_ended(self, name: str) -> str:
        """Of a process that did not say so itself."""
        if any(kill.name == name for kill in self._view.board.kills):
            return "killed"
        return "stopped" if self._over.is_set() else "crashed"  # interrupted while it came up

    async def _keep_time(self) -> None:
        while True:
            await trio.sleep(1 / REFRESH_HZ)
            self._view.tick()
            if not self._over.is_set():
                await self._act(self._director.step(_now_ms()))

    async def _hear_signals(self, signals: object) -> None:
        async for _ in signals:  # type: ignore[attr-defined]  # trio gives it no public type
            if self._interrupted:
                self._kill_all()
            self._interrupted = True
            self._over.set()

    async def _act(self, actions: list[Action]) -> None:
        for action in actions:
            if self._over.is_set():
                return
            match action:
                case Kill(name, task):
                    if self._crew.kill(name, self._view.board.peers[name].pid):
                        self._show(ev.SellerKilled(at_ms=_now_ms(), name=name, task=task))
                case Send(name, command):
                    await self._crew.send(name, command)
                case StartAuditor():
                    await self._crew.start_auditor()
        if self._director.phase == "over":
            self._over.set()

    # --- the end ------------------------------------------------------------------------------------

    async def _leave(self) -> None:
        """Close all lines and wait until nobody is left; with --keep, leave them all behind."""
        if self._interrupted:
            await self._crew.stop((*self._spec.buyers, *self._spec.sellers))
            await self._collect()
        elif self._spec.keep:
            await self._crew.stop([AUDITOR])
            return
        await self._crew.stop(self._crew.names)
        with trio.move_on_after(LEAVE_TIMEOUT_S):
            await self._crew.wait_until_alone()
        self._kill_all()
        await self._crew.reap()

    async def _collect(self) -> None:
        """After an interrupt: have dead sellers' wallets settled, for a few seconds at most."""
        reached = self._director.reached
        dead = [name for name in self._director.dead_sellers() if not reached(name, "reopened")]
        if dead and AUDITOR not in self._crew.names:
            await self._crew.start_auditor()
        for name in dead:
            await self._crew.send(AUDITOR, self._director.reopening(name))
        with trio.move_on_after(COLLECT_TIMEOUT_S):
            while not all(reached(name, "reopened") for name in dead) and AUDITOR in self._crew.names:
                await self._heard.wait()

    def _kill_all(self) -> None:
        for name in self._crew.names:
            peer = self._view.board.peers.get(name)
            if peer is not None and self._crew.kill(name, peer.pid):
                self._note(f"{name} did not stop and was killed", "warning")

    def _conclude(self, going: set[str]) -> int:
        """Say what held, write the report; returns the exit status. `going` are processes that go on."""
        board, director = self._view.board, self._director
        if self._interrupted:
            found = [Verdict("it ran to its end", False, "interrupted")]
        else:
            found = verdicts(self._spec, board, kills=director.kills, late=director.late)
        for verdict in found:
            self._show(
                ev.Checked(at_ms=_now_ms(), check=verdict.check, held=verdict.held, detail=verdict.detail)
            )
        held = all(verdict.held for verdict in found)
        self._tell_what_stays(going)
        self._note(f"the report is {self._output / 'report.html'}")
        self._show(ev.SwarmEnded(at_ms=_now_ms(), held=held))
        written = report.make_report(board)
        report.write(self._output / "report.json", report.to_json(written))
        report.write(self._output / "report.html", page.page(written).encode())
        if self._interrupted:
            return exit_codes.INTERRUPTED
        if not held:
            self._keep_logs()
        return exit_codes.OK if held else exit_codes.FAILED

    def _tell_what_stays(self, going: set[str]) -> None:
        """Processes that go on, and money that is promised and not settled, with where that is written."""
        root, peers = self._spec.root, self._view.board.peers
        unsettled = self._director.unsettled()
        self.keeps_directory = True
        if pids := sorted(peers[name].pid for name in going.intersection(self._spec.names) if name in peers):
            numbers = " ".join(map(str, pids))
            self._note(f"they go on without us; {root} has their books; to stop them: kill {numbers}")
        elif unsettled:
            self._note(f"{', '.join(unsettled)} could not settle: receipts are kept in {root}", "warning")
        else:
            self.keeps_directory = False

    def _keep_logs(self) -> None:
        """What the processes wrote, beside the report: for whoever looks for the reason."""
        for log in self._spec.root.glob("*.log"):
            if log.stat().st_size:
                (self._output / "logs").mkdir(exist_ok=True)
                shutil.copy(log, self._output / "logs")


def _spec(options: Options, models: Models, sized: sizing.Sizing, directory: Path) -> Spec:
    return Spec(
        directory=str(directory),
        paths=tuple(options.paths),
        validators=tuple(f"validator-{i + 1}" for i in range(sizing.VALIDATORS)),
        text_sellers=TEXT_SELLERS[: sized.text_sellers],
        buyers=BUYERS[: sized.buyers],
        text_model=models.text,
        embedding_model=models.embedding,
        threads=sized.threads,
        budget=options.budget,
        seed=options.seed,
        parts=options.parts,
        keep=options.keep,
    )


def _last_words(spec: Spec, name: str) -> str:
    """The end of a process's log."""
    try:
        lines = spec.log(name).read_text("utf-8", "replace").strip().splitlines()
    except OSError:
        return ""
    return " | ".join(lines[-LAST_LINES:])[-500:]


def _report_directory(path: Path) -> Path:
    """Where the report goes; found out before the work, not after it.

    Raises:
        InvalidInput: nothing can be written there.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as exc:
        raise InvalidInput(f"--report {path}: {exc.strerror}") from exc
    return path


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
