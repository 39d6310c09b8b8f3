"""One worker process from its start to its end: bytes in and out, last words, cause of death.

Not here: what the messages mean, and whether there will be another process after this one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path

import msgspec
import trio

import ainp2p
from ainp2p.agents.models.messages import FromWorker, Unframer, from_worker
from ainp2p.agents.models.supervision import describe_exit, ran_out_of_memory
from ainp2p.agents.models.worker import WorkerSpec
from ainp2p.errors import Malformed

STDERR_KEPT = 8192  # bytes of its last words
END_TIMEOUT_S = 2.0  # it ends by itself within milliseconds; then it is killed
_READ_SIZE = 65536
_SECRETS = ("AINP2P_PASSPHRASE", "AINP2P_PASSPHRASE_FILE")  # of no use to a model


class Child:
    """A worker process. Whoever started it calls `end`, whatever happens."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._stderr = b""
        self._stderr_ended = trio.Event()
        self._killed: str | None = None  # by us, because …

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @classmethod
    async def start(cls, spec: WorkerSpec) -> Child:
        """Start a process; it is not ready yet."""
        environment = {k: v for k, v in os.environ.items() if k not in _SECRETS}
        package = str(Path(ainp2p.__file__).parent.parent)
        environment |= {
            "PYTHONPATH": os.pathsep.join(filter(None, [package, environment.get("PYTHONPATH")])),
            "OMP_NUM_THREADS": str(spec.threads),
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
        }
        # -P: a file called torch.py in the working directory must not be taken for the library.
        command = [sys.executable, "-P", "-m", "ainp2p.agents.models.worker"]
        command.append(msgspec.json.encode(spec).decode())
        with trio.CancelScope(shield=True):  # a few milliseconds, and never a process that nobody knows of
            process = await trio.lowlevel.open_process(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
            )
        return cls(process)

    async def send(self, data: bytes) -> bool:
        """Write frames; False when it takes no more (its end is then seen by `messages`)."""
        assert self._process.stdin is not None
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._process.stdin.send_all(data)
            return True
        return False

    async def messages(self) -> AsyncGenerator[list[FromWorker], None]:
        """What it says, as many messages at a time as have come; until its standard output ends."""
        assert self._process.stdout is not None
        unframer = Unframer()
        while data := await self._process.stdout.receive_some(_READ_SIZE):
            unframer.feed(data)
            found = []
            try:
                while (body := unframer.next_body()) is not None:
                    found.append(from_worker.decode(body))
            except (Malformed, msgspec.MsgspecError) as exc:
                self.kill(f"sent what is no frame: {exc}")
                return
            yield found

    async def keep_stderr(self) -> None:
        """Keep its last words, and never let it wait for somebody to read them."""
        assert self._process.stderr is not None
        while data := await self._process.stderr.receive_some(_READ_SIZE):
            self._stderr = (self._stderr + data)[-STDERR_KEPT:]
        self._stderr_ended.set()

    def kill(self, why: str) -> None:
        """End it, now."""
        self._killed = why
        self._process.kill()

    async def wait_last_words(self) -> None:
        """After its output ended: let it end, and hear what it said; but not for long."""
        with trio.move_on_after(END_TIMEOUT_S):
            await self._process.wait()
            await self._stderr_ended.wait()

    async def end(self) -> None:
        """Make sure that it has ended: its input first, then force. Cannot be cancelled."""
        with trio.CancelScope(shield=True):
            assert self._process.stdin is not None
            await self._process.stdin.aclose()
            with trio.move_on_after(END_TIMEOUT_S):
                await self._process.wait()
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()
            for stream in (self._process.stdout, self._process.stderr):
                assert stream is not None
                await stream.aclose()

    @property
    def ran_out_of_memory(self) -> bool:
        """It was killed, and not by us."""
        return self._killed is None and ran_out_of_memory(self._process.returncode)

    def cause(self) -> str:
        """Why it ended, for an error's text."""
        return self._killed or describe_exit(self._process.returncode, self._stderr.decode(errors="replace"))
