"""A model in a process of its own, as the event loop sees it: start, watch, restart, talk.

    starting ──ready──▶ ready ──ended, hung, stopped──▶ waiting (backoff) ──▶ starting …
        └──ended at the first start──▶ `open_model` raises

What is in work when the process ends fails with `ModelCrashed`: it is not billed and not tried again by
itself. A request that was present at two such ends is refused from then on. The process ends with the
block, and by itself when its parent dies (its standard input ends).
"""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Self, TypeVar

import msgspec
import trio

import ainp2p
from ainp2p.agents.models.messages import (
    Admitted,
    Cancel,
    Choose,
    Chosen,
    Count,
    Counted,
    Embed,
    Embedded,
    Ended,
    Event,
    FromWorker,
    Generate,
    Made,
    Ping,
    Pong,
    Ready,
    Refusal,
    Request,
    Unframer,
    Unusable,
    Working,
    frame,
    from_worker,
)
from ainp2p.agents.models.model import (
    MAX_TOKENS,
    Choice,
    Embedding,
    Finish,
    Kind,
    ModelInfo,
    Prompt,
    Statistics,
    Token,
    messages_of,
)
from ainp2p.agents.models.registry import Source, resolve
from ainp2p.agents.models.supervision import (
    BACKOFF_FIRST_S,
    Restarts,
    Speed,
    Suspects,
    Watch,
    describe_exit,
    ran_out_of_memory,
)
from ainp2p.agents.models.worker import WorkerSpec
from ainp2p.errors import Closed, Malformed, ModelCrashed, ModelError, ModelRefused
from ainp2p.home import Home

REQUESTS_MAX = 256  # live at once; each holds its tokens until they are read
OUTBOX_MAX = 1024  # frames that the process has not taken yet
STDERR_KEPT = 8192  # bytes of its last words
PING_EVERY_S = 5.0
SILENCE_S = 60.0
STALL_S = 60.0
START_TIMEOUT_S = 300.0  # importing torch and reading 16 GB from a slow disk
END_TIMEOUT_S = 2.0  # it ends by itself within milliseconds; then it is killed
TOKENS_MIN = 1024  # below that a smaller budget is no cure for lack of memory
_SECRETS = ("AINP2P_PASSPHRASE", "AINP2P_PASSPHRASE_FILE")

T = TypeVar("T", bound=Event)


@asynccontextmanager
async def open_model(
    name: str,
    *,
    models: Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    stall_s: float = STALL_S,
    backoff_s: float = BACKOFF_FIRST_S,
) -> AsyncIterator[ProcessModel]:
    """Start a model's process; when the block begins, it answers.

    Args:
        name: a known model (``smollm2-135m``), a directory of transformers, or a scripted one (`registry`).
        models: where fetched weights are; the home's ``models`` if left out.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` …
        dtype: ``"auto"``, ``"fp32"``, ``"fp16"``, ``"bf16"`` (`loading.choose_dtype`).
        threads: of torch on a CPU; all cores but one, which the event loop needs, if left out.
        stall_s: a process that makes no token for so long while requests are live is restarted.
        backoff_s: pause before the first restart; it doubles with every crash in a row.

    Raises:
        ModelNotFound: no such model, or its weights were not fetched.
        ModelError: it cannot be loaded.
    """
    source = resolve(name, models or Home.from_environment().models())
    spec = WorkerSpec(
        name=source.name,
        directory=str(source.directory) if source.directory else None,
        script=name if source.script else None,
        device=device,
        dtype=dtype,
        threads=threads or default_threads(),
    )
    caught: Exception | None = None
    async with trio.open_nursery() as nursery:
        model = ProcessModel(source, spec, stall_s=stall_s, backoff_s=backoff_s)
        try:
            nursery.start_soon(model._supervise)
            await model._until_started()
            yield model
        except Exception as exc:  # the caller's, or the failed start: keep it out of the group
            caught = exc
        model._close()
        nursery.cancel_scope.cancel()
    if caught is not None:
        raise caught


def default_threads() -> int:
    """All cores but one: that one is the event loop's."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


class _Pending:
    """One request in work, and the events about it that were not read yet."""

    def __init__(self, request: Request, digest: bytes, capacity: int) -> None:
        self.request, self.digest = request, digest
        self.failure: Exception | None = None
        self.made, self.first_at, self.last_at = 0, 0.0, 0.0
        self._put, self._get = trio.open_memory_channel[Event](capacity)

    def put(self, event: Event, now: float) -> None:
        """Keep an event; more than were asked for is the process's fault."""
        if isinstance(event, Made):
            self.made, self.last_at = self.made + 1, now
            self.first_at = self.first_at if self.made > 1 else now
        try:
            self._put.send_nowait(event)
        except trio.WouldBlock as exc:
            raise Malformed("the model process said more than it was asked for") from exc

    def fail(self, failure: Exception) -> None:
        """No more events come; after those that are here, `failure` is raised."""
        self.failure = failure
        self._put.close()

    async def next(self) -> Event:
        """The next event."""
        try:
            return await self._get.receive()
        except trio.EndOfChannel:
            assert self.failure is not None
            raise self.failure from None


class ProcessModel:
    """A `Model` whose work is done in a worker process. Made by `open_model`."""

    def __init__(self, source: Source, spec: WorkerSpec, *, stall_s: float, backoff_s: float) -> None:
        self._source, self._spec, self._stall_s = source, spec, stall_s
        self._info: ModelInfo | None = None
        self._start_error: ModelError | None = None
        self._pending: dict[int, _Pending] = {}
        self._next_id = 0
        self._outbox: deque[bytes] = deque()
        self._outbox_filled = trio.Event()
        self._restarts = Restarts(backoff_s)
        self._suspects, self._speed, self._tokens = Suspects(), Speed(), 0
        self._watch = Watch(stall_s, SILENCE_S, 0.0, 0.0)
        self._ready_at: float | None = None
        self._changed = trio.Event()  # replaced whenever the process became ready or ended
        self._why = ""  # it ended last time
        self._closed = False
        self._process: trio.Process | None = None

    # --- what callers use -----------------------------------------------------------------------

    @property
    def info(self) -> ModelInfo:
        """What it is."""
        assert self._info is not None  # `open_model` returns after the first start only
        return self._info

    @property
    def pid(self) -> int | None:
        """The process's id; None while there is none."""
        return self._process.pid if self._process is not None else None

    def stream(
        self,
        prompt: Prompt,
        *,
        max_tokens: int = MAX_TOKENS,
        temperature: float = 0.0,
        seed: bytes = b"",
        prefix: Sequence[int] = (),
    ) -> ProcessStream:
        """Answer `prompt` token by token; see `Model.stream`."""
        chat = messages_of(prompt)
        return ProcessStream(
            self, lambda id_: Generate(id_, chat, max_tokens, temperature, seed, tuple(prefix))
        )

    async def choose(self, prompt: Prompt, labels: Sequence[str]) -> Choice:
        """The likeliest label; see `Model.choose`."""
        chat, wanted = messages_of(prompt), tuple(labels)
        found = await self._ask(lambda id_: Choose(id_, chat, wanted), Chosen)
        logprobs = dict(zip(wanted, found.logprobs, strict=True))
        return Choice(max(logprobs, key=lambda label: logprobs[label]), logprobs, found.n_in)

    async def embed(self, texts: Sequence[str]) -> Embedding:
        """One vector per text; see `Model.embed`."""
        found = await self._ask(lambda id_: Embed(id_, tuple(texts)), Embedded)
        return Embedding(found.vectors, found.n_in)

    async def count(self, prompt: Prompt) -> int:
        """Ids of the prompt."""
        chat = messages_of(prompt)
        return (await self._ask(lambda id_: Count(id_, chat), Counted)).n_in

    def statistics(self) -> Statistics:
        """Figures to date."""
        return Statistics(
            self._tokens, self._speed.tokens_per_second, len(self._pending), self._restarts.total
        )

    # --- requests -------------------------------------------------------------------------------

    async def _ask(self, make: Callable[[int], Request], answer: type[T]) -> T:
        """One question, one answer."""
        pending = await self._submit(make)
        try:
            while True:
                event = await pending.next()
                if isinstance(event, answer):
                    return event
        finally:
            self._leave(pending)

    async def _submit(self, make: Callable[[int], Request]) -> _Pending:
        """Hand a request to the process; whoever calls this calls `_leave` in the end."""
        digest = hashlib.sha256(frame(make(0))).digest()
        if self._suspects.refuses(digest):
            raise ModelRefused("this very request was in work at two crashes of the model; it is refused")
        await self._until_ready()
        if len(self._pending) >= REQUESTS_MAX or len(self._outbox) >= OUTBOX_MAX:
            raise ModelRefused(f"busy: {len(self._pending)} requests are live")
        self._next_id += 1
        request = make(self._next_id)
        capacity = min(request.max_tokens, self.info.context) + 2 if isinstance(request, Generate) else 2
        pending = _Pending(request, digest, max(capacity, 2))
        if not self._pending:
            self._watch.progress_at = trio.current_time()
        self._pending[request.id] = pending
        self._write(frame(request))
        return pending

    def _leave(self, pending: _Pending) -> None:
        """The caller reads no further: if the request is still live, the process forgets it."""
        self._speed.add(pending.made - 1, pending.last_at - pending.first_at)
        if self._pending.pop(pending.request.id, None) is not None and self._ready_at is not None:
            self._write(frame(Cancel(pending.request.id)))

    async def _until_ready(self) -> None:
        """Wait for the next start, but not for a second one when that fails."""
        await trio.lowlevel.checkpoint()
        failed = self._restarts.failed_starts
        while self._ready_at is None:
            if self._closed:
                raise Closed("the model was closed: its `async with` block has ended")
            if self._restarts.failing or self._restarts.failed_starts > failed:
                raise ModelCrashed(f"model {self._spec.name} does not start at the moment: {self._why}")
            await self._changed.wait()

    def _write(self, data: bytes) -> None:
        self._outbox.append(data)
        self._outbox_filled.set()

    def _close(self) -> None:
        self._closed, self._ready_at = True, None
        self._fail_all(Closed("the model was closed: its `async with` block has ended"))
        self._announce()

    # --- the process ----------------------------------------------------------------------------

    async def _until_started(self) -> None:
        """Wait for the first start: ready, or dead."""
        while self._info is None:
            if self._start_error is not None:
                raise self._start_error
            await self._changed.wait()

    async def _supervise(self) -> None:
        """Run the process, again and again; but who never got ready is not tried a second time."""
        while True:
            error = await self._run()
            if self._info is None:
                self._start_error = error
                self._announce()
                return
            now = trio.current_time()
            pause = self._restarts.crashed(None if self._ready_at is None else now - self._ready_at)
            self._ready_at, self._why = None, str(error)
            for pending in self._pending.values():
                self._suspects.blame(pending.digest)
            self._fail_all(
                ModelCrashed(f"{error}; this request is lost, is not billed and may be tried again")
            )
            self._announce()
            await trio.sleep(pause)

    async def _run(self) -> ModelError:
        """One life of the process, to its end; returns what is to be said about that."""
        self._outbox.clear()
        process = await self._start()
        life = _Life(process)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(life.keep_stderr)
                nursery.start_soon(self._send_forever, life)
                nursery.start_soon(self._watch_forever, life)
                await self._receive_until_end(life)
                with trio.move_on_after(END_TIMEOUT_S):
                    await process.wait()
                    await life.stderr_ended.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._process = None
            with trio.CancelScope(shield=True):
                await life.end()
        return self._explained(life)

    async def _start(self) -> trio.Process:
        environment = {k: v for k, v in os.environ.items() if k not in _SECRETS}
        package = str(Path(ainp2p.__file__).parent.parent)
        environment |= {
            "PYTHONPATH": os.pathsep.join(filter(None, [package, environment.get("PYTHONPATH")])),
            "OMP_NUM_THREADS": str(self._spec.threads),
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
        }
        # -P: a file called torch.py in the working directory must not be taken for the library.
        command = [sys.executable, "-P", "-m", "ainp2p.agents.models.worker"]
        command.append(msgspec.json.encode(self._spec).decode())
        with trio.CancelScope(shield=True):  # a few milliseconds, and never a process that nobody knows of
            self._process = await trio.lowlevel.open_process(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
            )
        return self._process

    async def _send_forever(self, life: _Life) -> None:
        """Drain the outbox into the process's standard input."""
        assert life.process.stdin is not None
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # the reader sees the end as well
            while True:
                await self._outbox_filled.wait()
                data = b"".join(self._outbox)
                self._outbox.clear()
                self._outbox_filled = trio.Event()
                await life.process.stdin.send_all(data)

    async def _watch_forever(self, life: _Life) -> None:
        """Kill it when it does not start, hangs or stops."""
        with trio.move_on_after(START_TIMEOUT_S):
            await life.ready.wait()
        if not life.ready.is_set():
            life.kill(f"did not start within {START_TIMEOUT_S:g} s")
            return
        pings = 0
        next_ping = -math.inf
        while True:
            now = trio.current_time()
            if now >= next_ping:
                pings, next_ping = pings + 1, now + PING_EVERY_S
                self._write(frame(Ping(pings)))
            if (fault := self._watch.fault(now, len(self._pending))) is not None:
                life.kill(fault)
                return
            await trio.sleep(min(self._stall_s / 4, PING_EVERY_S))

    async def _receive_until_end(self, life: _Life) -> None:
        """Hand every message on; returns when the process's standard output ends."""
        assert life.process.stdout is not None
        unframer = Unframer()
        try:
            while data := await life.process.stdout.receive_some(65536):
                unframer.feed(data)
                while (body := unframer.next_body()) is not None:
                    message = from_worker.decode(body)
                    if isinstance(message, Ready):
                        self._became_ready(life, message)
                    elif isinstance(message, Unusable):
                        life.unusable = message.reason
                    else:
                        self._handle(message)
        except (Malformed, msgspec.MsgspecError) as exc:
            life.kill(f"sent what is no frame: {exc}")

    def _became_ready(self, life: _Life, ready: Ready) -> None:
        kind: Kind = "embedding" if ready.kind == "embedding" else "text"
        self._info = ModelInfo(
            ready.name, ready.hash, ready.parameters, kind, ready.context, ready.device, ready.dtype
        )
        now = trio.current_time()
        self._spec = msgspec.structs.replace(self._spec, tokens_max=ready.tokens_max)
        self._watch = Watch(self._stall_s, SILENCE_S, progress_at=now, pong_at=now)
        self._ready_at = now
        life.ready.set()
        self._announce()

    def _handle(self, message: FromWorker) -> None:
        now = trio.current_time()
        if isinstance(message, Pong):
            self._watch.pong_at = now
            return
        assert not isinstance(message, Ready | Unusable)
        self._watch.progress_at = now
        self._tokens += isinstance(message, Made)
        pending = self._pending.get(message.id)
        if pending is None or isinstance(message, Working):
            return  # canceled meanwhile; or only a sign of life
        if isinstance(message, Refusal):
            pending.fail(ModelRefused(message.reason))
        else:
            pending.put(message, now)
        if not isinstance(message, Admitted | Made):
            del self._pending[message.id]
            self._suspects.clear(pending.digest)

    def _explained(self, life: _Life) -> ModelError:
        """Why the process ended; after want of memory, with less of it the next time."""
        if life.unusable is not None:
            return ModelError(f"model {self._spec.name} cannot be used: {life.unusable}")
        code = life.process.returncode
        if life.killed is None and ran_out_of_memory(code) and self._spec.tokens_max is not None:
            fewer = max(TOKENS_MIN, self._spec.tokens_max // 2)
            self._spec = msgspec.structs.replace(self._spec, tokens_max=fewer)
        how = life.killed or describe_exit(code, life.stderr.decode(errors="replace"))
        return ModelCrashed(f"the process of model {self._spec.name} {how}")

    def _fail_all(self, failure: Exception) -> None:
        pending, self._pending = self._pending, {}
        for each in pending.values():
            each.fail(failure)

    def _announce(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class _Life:
    """One process from its start to its end."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.ready = trio.Event()
        self.stderr = b""
        self.stderr_ended = trio.Event()
        self.killed: str | None = None  # by us, because …
        self.unusable: str | None = None

    def kill(self, why: str) -> None:
        """End it, now."""
        self.killed = why
        self.process.kill()

    async def keep_stderr(self) -> None:
        """Keep the last words, and never let the process wait for somebody to read them."""
        assert self.process.stderr is not None
        while data := await self.process.stderr.receive_some(65536):
            self.stderr = (self.stderr + data)[-STDERR_KEPT:]
        self.stderr_ended.set()

    async def end(self) -> None:
        """Make sure that it has ended: its input first, then force."""
        assert self.process.stdin is not None
        await self.process.stdin.aclose()
        with trio.move_on_after(END_TIMEOUT_S):
            await self.process.wait()
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            await stream.aclose()


class ProcessStream:
    """A `TokenStream` over a worker process."""

    def __init__(self, model: ProcessModel, make: Callable[[int], Generate]) -> None:
        self.n_in: int | None = None
        self.finish: Finish | None = None
        self._model, self._make = model, make
        self._pending: _Pending | None = None
        self._over = False
        self._trio_token = trio.lowlevel.current_trio_token()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Token:
        if self._over:
            raise StopAsyncIteration
        try:
            if self._pending is None:
                self._pending = await self._model._submit(self._make)
            while True:
                event = await self._pending.next()
                if isinstance(event, Made):
                    return Token(event.token, event.text, event.logprob)
                if isinstance(event, Admitted):
                    self.n_in = event.n_in
                if isinstance(event, Ended):
                    self._end("length" if event.finish == "length" else "stop")
                    raise StopAsyncIteration
        except (ModelError, Closed):
            self._end(None)
            raise
        except trio.Cancelled:
            # As with a generator: whoever is thrown out while waiting does not come back for more.
            self._end("canceled")
            raise

    async def aclose(self) -> None:
        """Stop generating."""
        self._end("canceled")
        await trio.lowlevel.checkpoint()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._end("canceled")

    def __del__(self) -> None:
        # `async for … break` leaves nothing to call but this; it may come from any thread, or too late.
        if not self._over and self._pending is not None:
            with suppress(trio.RunFinishedError):
                self._trio_token.run_sync_soon(self._model._leave, self._pending)

    def _end(self, finish: Finish | None) -> None:
        if self._over:
            return
        self._over, self.finish = True, finish
        if self._pending is not None:
            self._model._leave(self._pending)
