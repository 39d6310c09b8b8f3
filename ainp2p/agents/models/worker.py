"""The model process: one engine, many requests, frames on standard input and output.

    python -m ainp2p.agents.models.worker '<JSON of a WorkerSpec>'

Three things happen: a reader thread takes frames in and answers pings while the engine computes; the main
thread loads the engine and then steps it; what it makes is written after each step. When standard input
ends, the parent has gone, and the process ends at once: no other sign is needed, whatever killed the parent.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Protocol

import msgspec

from ainp2p.agents.models.messages import (
    Cancel,
    Event,
    Ping,
    Piped,
    Pong,
    Ready,
    Request,
    ToWorker,
    Unframer,
    Unusable,
    frame,
    to_worker,
)
from ainp2p.agents.models.scripted import Script, ScriptedEngine
from ainp2p.errors import Error

EXIT_UNUSABLE = 3  # the model cannot be loaded; the parent was told why


class WorkerSpec(msgspec.Struct, frozen=True):
    """What to run, as JSON on the command line."""

    name: str
    directory: str | None = None  # of weights
    script: str | None = None  # a scripted model's name, with its script
    device: str = "auto"
    dtype: str = "auto"
    threads: int = 1
    tokens_max: int | None = None


class AnyEngine(Protocol):
    """What engines have in common."""

    @property
    def live(self) -> int:
        """Requests that have not ended."""

    def submit(self, request: Request) -> list[Event]:
        """Take a request on, or refuse it."""

    def cancel(self, request_id: int) -> None:
        """Forget it."""

    def step(self) -> list[Event]:
        """Compute a little."""


class Pipe:
    """Frames to the parent, from both threads."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def send(self, *messages: Piped) -> None:
        """Write whole frames; ends the process when nobody reads them."""
        data = memoryview(b"".join(map(frame, messages)))
        with self._lock:
            try:
                while data:
                    data = data[os.write(self._descriptor, data) :]
            except BrokenPipeError:
                os._exit(0)


def main(argv: list[str]) -> int:
    """Serve until standard input ends; returns only when the model is unusable."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends us
    pipe = _take_standard_output()
    spec = msgspec.json.decode(argv[1], type=WorkerSpec)
    inbox: queue.SimpleQueue[Request | Cancel] = queue.SimpleQueue()
    threading.Thread(target=_read_forever, args=(pipe, inbox), daemon=True).start()
    try:
        engine, ready = load(spec)
    except Error as exc:
        pipe.send(Unusable(str(exc)))
        return EXIT_UNUSABLE
    pipe.send(ready)
    while True:
        events = _take(engine, inbox)
        if engine.live:
            events += engine.step()
        if events:
            pipe.send(*events)


def load(spec: WorkerSpec) -> tuple[AnyEngine, Ready]:
    """The engine, and what it says about itself."""
    if spec.script is not None:
        script = Script.from_name(spec.script)
        info = script.info(spec.name)
        ready = Ready(spec.name, info.hash, 0, info.kind, info.context, info.device, info.dtype, info.context)
        return ScriptedEngine(script), ready
    try:
        import torch

        from ainp2p.agents.models import loading
    except ImportError as exc:
        raise Error(f"this model needs the model extra ({exc}): pip install 'ainp2p[model]'") from exc
    torch.set_num_threads(spec.threads)
    found = loading.load(
        Path(spec.directory or ""), device=spec.device, dtype=spec.dtype, tokens_max=spec.tokens_max
    )
    ready = Ready(
        spec.name,
        found.hash,
        found.parameters,
        found.kind,
        found.context,
        found.device,
        found.dtype,
        found.tokens_max,
    )
    return found.engine, ready


def _take(engine: AnyEngine, inbox: queue.SimpleQueue[Request | Cancel]) -> list[Event]:
    """All that has come in; waits for it when there is nothing else to do."""
    events: list[Event] = []
    while not (engine.live and inbox.empty()):
        message = inbox.get()
        if isinstance(message, Cancel):
            engine.cancel(message.id)
        else:
            events += engine.submit(message)
        if inbox.empty():
            break
    return events


def _read_forever(pipe: Pipe, inbox: queue.SimpleQueue[Request | Cancel]) -> None:
    """The reader thread. Its end, for whatever reason, is the end of the process."""
    try:
        unframer = Unframer()
        while data := os.read(0, 65536):
            unframer.feed(data)
            while (body := unframer.next_body()) is not None:
                message: ToWorker = to_worker.decode(body)
                if isinstance(message, Ping):
                    pipe.send(Pong(message.number))
                else:
                    inbox.put(message)
    finally:
        os._exit(0)


def _take_standard_output() -> Pipe:
    """Keep the pipe for frames; whatever else is printed goes to standard error and spoils nothing."""
    pipe = Pipe(os.dup(1))
    os.dup2(2, 1)
    return pipe


if __name__ == "__main__":
    try:
        status = main(sys.argv)
    except Exception:
        traceback.print_exc()
        status = 1
    sys.stderr.flush()
    os._exit(status)  # the reader thread waits for input, and torch's threads for nobody knows what
