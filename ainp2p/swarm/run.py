"""`ainp2p swarm`: makes the lines, starts the creator, shows what happens, and sees to it that it ends.

The view holds one end of a line to each process. It closes them when it is done, and the system closes them
if it is killed: either way everybody stops. What it does is decided by `director`, what held by `checks`.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import msgspec
import trio

import ainp2p
from ainp2p.cli import exit_codes
from ainp2p.errors import InvalidInput, Malformed
from ainp2p.home import Home
from ainp2p.swarm import documents, line, page, passages, report, sizing, study
from ainp2p.swarm import events as ev
from ainp2p.swarm.checks import Verdict, verdicts
from ainp2p.swarm.director import Action, Director, Kill, Send, StartAuditor
from ainp2p.swarm.options import Models, Options, models_of
from ainp2p.swarm.spec import AUDITOR, BUYERS, CREATOR, TEXT_SELLERS, Spec, to_json
from ainp2p.swarm.view import REFRESH_HZ, View, open_view

COLLECT_TIMEOUT_S = 4.0  # after an interrupt, for dead sellers' Locks
LEAVE_TIMEOUT_S = 8.0  # for everybody to stop; then they are killed
LAST_LINES = 3  # of a crashed process's log, for the person who watches
_READ_SIZE = 65_536


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
        self._spec, self._options, self._view, self._output = spec, options, view, output
        self._director = Director(spec, view.board, question=options.ask, work_ms=options.limit_s * 1000)
        self._ends: dict[str, trio.SocketStream] = {}
        self._children: list[trio.Process] = []
        self.keeps_directory = options.keep  # else keys, books, votes and logs are removed at the end
        self._interrupted = False
        self._over = trio.Event()
        self._all_left = trio.Event()
        self._heard = trio.Event()  # set at each event

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
            sentences = sum(len(passage.sentences) for passage in found)
            self._show(
                ev.DocumentRead(
                    at_ms=at_ms,
                    path=document.path,
                    bytes=document.size,
                    passages=len(found),
                    sentences=sentences,
                )
            )
        for refused in reading.refused:
            self._show(ev.DocumentRefused(at_ms=at_ms, path=refused.path, reason=refused.reason))
        if parts > spec.parts:
            rest = min(parts - spec.parts, study.REST_MAX)
            self._note(
                f"titles for {spec.parts} of {parts} parts, {rest} more are only indexed; --parts takes more"
            )

    def _note(self, text: str) -> None:
        self._show(ev.Note(at_ms=_now_ms(), text=text))

    def _show(self, event: ev.AnyEvent) -> None:
        self._view.show(event)
        self._heard.set()
        self._heard = trio.Event()

    # --- the run ------------------------------------------------------------------------------------

    async def run(self) -> int:
        """From the first process to the last; returns the exit status."""
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hear_signals, signals)
                nursery.start_soon(self._keep_time)
                try:
                    await self._start(nursery)
                    await self._over.wait()
                finally:
                    with trio.CancelScope(shield=True):
                        if self._interrupted:
                            await self._stop(*self._spec.buyers, *self._spec.sellers)
                            await self._collect()
                        await self._leave()
                nursery.cancel_scope.cancel()
        return self._conclude()

    async def _start(self, nursery: trio.Nursery) -> None:
        """The creator, with everybody's end of a line."""
        theirs: dict[str, socket.socket] = {}
        for name in (CREATOR, *self._spec.names):
            theirs[name] = self._new_line(name, nursery)
        try:
            await self._open_process("ainp2p.swarm.creator", theirs, CREATOR)
        finally:
            for end in theirs.values():
                end.close()

    def _new_line(self, name: str, nursery: trio.Nursery) -> socket.socket:
        ours, theirs = socket.socketpair()
        self._ends[name] = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        nursery.start_soon(self._listen, name, self._ends[name])
        self._nursery = nursery
        return theirs

    async def _open_process(self, module: str, ends: dict[str, socket.socket], name: str) -> None:
        sockets = {other: end.fileno() for other, end in ends.items()}
        spec = msgspec.structs.replace(self._spec, sockets=sockets)
        package = str(Path(ainp2p.__file__).parent.parent)
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        log = self._spec.log(name)
        with log.open("ab") as written, trio.CancelScope(shield=True):
            process = await trio.lowlevel.open_process(
                [sys.executable, "-P", "-m", module, to_json(spec)],
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=written,
                pass_fds=tuple(sockets.values()),
                start_new_session=True,  # Ctrl-C is for us; they hear of it from us
                env={**os.environ, "PYTHONPATH": path},
            )
        self._children.append(process)

    async def _listen(self, name: str, end: trio.SocketStream) -> None:
        """Show what one process says, to its end."""
        lines = line.Lines()
        try:
            while data := await end.receive_some(_READ_SIZE):
                for raw in lines.feed(data):
                    event = ev.from_line(raw)
                    self._show(event)
                    await self._act(self._director.step(_now_ms(), event))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except Malformed as exc:
            self._show(ev.Note(at_ms=_now_ms(), text=f"{name} said nonsense: {exc}", level="error"))
        await self._ended(name, end)

    async def _ended(self, name: str, end: trio.SocketStream) -> None:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(end)
        if self._ends.get(name) is end:
            del self._ends[name]
        self._director.ended.add(name)
        peer = self._view.board.peers.get(name)
        if peer is not None and peer.down_ms is None:
            reason = self._why_ended(name)
            self._show(ev.PeerDown(at_ms=_now_ms(), name=name, reason=reason))
            if reason == "crashed" and (words := _last_words(self._spec, name)):
                self._show(ev.Note(at_ms=_now_ms(), text=f"{name} said at last: {words}", level="error"))
        if not self._ends:
            self._all_left.set()
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
                    self._kill(name, task)
                case Send(name, command):
                    await self._send(name, command)
                case StartAuditor():
                    await self._start_auditor()
        if self._director.phase == "over":
            self._over.set()

    async def _start_auditor(self) -> None:
        theirs = self._new_line(AUDITOR, self._nursery)
        try:
            await self._open_process("ainp2p.swarm.auditor", {AUDITOR: theirs}, AUDITOR)
        finally:
            theirs.close()

    def _kill(self, name: str, task: str) -> None:
        pid = self._view.board.peers[name].pid
        if name in self._ends and pid:  # its line is open, so the number is still its own
            self._show(ev.SellerKilled(at_ms=_now_ms(), name=name, task=task))
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def _send(self, name: str, command: line.AnyCommand) -> None:
        end = self._ends.get(name)
        if end is not None:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await end.send_all(line.to_line(command))

    # --- the end ------------------------------------------------------------------------------------

    async def _collect(self) -> None:
        """After an interrupt: have dead sellers' wallets settled, for a few seconds at most."""
        dead = [
            name for name in self._director.dead_sellers() if not self._director.reached(name, "reopened")
        ]
        if dead and AUDITOR not in self._ends:
            await self._start_auditor()
        for name in dead:
            await self._send(AUDITOR, self._director.reopening(name))
        with trio.move_on_after(COLLECT_TIMEOUT_S):
            while (
                not all(self._director.reached(name, "reopened") for name in dead) and AUDITOR in self._ends
            ):
                await self._heard.wait()

    async def _stop(self, *names: str) -> None:
        """Close our half of some lines: they stop, and their last words still arrive."""
        for end in [self._ends[name] for name in names if name in self._ends]:
            with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                await end.send_eof()

    async def _leave(self) -> None:
        """Close all lines and wait until nobody is left; with --keep, leave them all behind."""
        if self._spec.keep and not self._interrupted:
            return
        await self._stop(*self._ends)
        with trio.move_on_after(LEAVE_TIMEOUT_S):
            if self._ends:
                await self._all_left.wait()
        self._kill_all()
        for child in self._children:
            with trio.move_on_after(1.0):
                await child.wait()

    def _kill_all(self) -> None:
        for name in self._ends:
            peer = self._view.board.peers.get(name)
            if peer is not None and peer.pid:
                self._show(
                    ev.Note(at_ms=_now_ms(), text=f"{name} did not stop and was killed", level="warning")
                )
                with suppress(ProcessLookupError):
                    os.kill(peer.pid, signal.SIGKILL)
        for child in self._children:
            if child.returncode is None:
                child.kill()

    def _conclude(self) -> int:
        """Say what held, write the report; returns the exit status."""
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
        self._tell_what_stays()
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

    def _tell_what_stays(self) -> None:
        """Processes that go on, and money that is promised and not settled, with where that is written."""
        root = self._spec.root
        if self._spec.keep and not self._interrupted:
            pids = sorted(peer.pid for name, peer in self._view.board.peers.items() if name in self._ends)
            self._note(f"they go on without us; {root} has their books; to stop them: kill {_joined(pids)}")
        elif unsettled := self._director.unsettled():
            self.keeps_directory = True
            text = f"{', '.join(unsettled)} could not settle: receipts are kept in {root}"
            self._show(ev.Note(at_ms=_now_ms(), text=text, level="warning"))
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


def _joined(numbers: list[int]) -> str:
    return " ".join(str(number) for number in numbers)


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
