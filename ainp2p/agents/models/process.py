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
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import trio

from ainp2p.agents.models.answers import Pending, ProcessStream
from ainp2p.agents.models.child import Child
from ainp2p.agents.models.messages import (
    Admitted,
    Cancel,
    Choose,
    Chosen,
    Count,
    Counted,
    Embed,
    Embedded,
    Event,
    FromWorker,
    Generate,
    Made,
    Ping,
    Pong,
    Ready,
    Refusal,
    Request,
    Unusable,
    Working,
    frame,
    to_worker,
)
from ainp2p.agents.models.model import (
    MAX_TOKENS,
    Choice,
    Embedding,
    Kind,
    ModelInfo,
    Prompt,
    Statistics,
    messages_of,
)
from ainp2p.agents.models.registry import resolve
from ainp2p.agents.models.supervision import BACKOFF_FIRST_S, Restarts, Speed, Suspects, Watch
from ainp2p.agents.models.worker import WorkerSpec
from ainp2p.errors import Closed, InvalidInput, Malformed, ModelCrashed, ModelError, ModelRefused
from ainp2p.home import Home

REQUESTS_MAX = 256  # live at once; each holds its tokens until they are read
OUTBOX_MAX = 1024  # frames that the process has not taken yet
PING_EVERY_S = 5.0
SILENCE_S = 60.0
STALL_S = 60.0
START_TIMEOUT_S = 300.0  # importing torch and reading 16 GB from a slow disk
TOKENS_MIN = 1024  # below that a smaller budget is no cure for lack of memory

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
        model = ProcessModel(spec, stall_s=stall_s, backoff_s=backoff_s)
        try:
            nursery.start_soon(model._supervise)
            await model._until_started()
            yield model
        except Exception as exc:  # the caller's, or the failed start: keep it out of the group
            caught = exc
        finally:
            model._close()
        nursery.cancel_scope.cancel()
    if caught is not None:
        raise caught


def default_threads() -> int:
    """All cores but one: that one is the event loop's."""
    ours = getattr(os, "sched_getaffinity", None)  # Linux: the cores that we may use
    return max(1, (len(ours(0)) if ours else os.cpu_count() or 1) - 1)


class ProcessModel:
    """A `Model` whose work is done in a worker process. Made by `open_model`."""

    def __init__(self, spec: WorkerSpec, *, stall_s: float, backoff_s: float) -> None:
        self._spec, self._stall_s = spec, stall_s
        self._info: ModelInfo | None = None
        self._start_error: ModelError | None = None
        self._child: Child | None = None
        self._ready_at: float | None = None  # None: not ready
        self._why = ""  # it ended the last time
        self._closed = False
        self._changed = trio.Event()  # replaced whenever the process became ready or ended
        self._watch = Watch(stall_s, SILENCE_S, 0.0, 0.0)
        self._restarts, self._suspects = Restarts(backoff_s), Suspects()
        self._speed, self._tokens = Speed(), 0
        self._pending: dict[int, Pending] = {}
        self._next_id = 0
        self._outbox: deque[bytes] = deque()
        self._outbox_filled = trio.Event()

    # --- what callers use -----------------------------------------------------------------------

    @property
    def info(self) -> ModelInfo:
        """What it is."""
        assert self._info is not None  # `open_model` returns after the first start only
        return self._info

    @property
    def pid(self) -> int | None:
        """The process's id; None while there is none."""
        return self._child.pid if self._child is not None else None

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
        chat, before = messages_of(prompt), tuple(prefix)
        return ProcessStream(self, lambda id_: Generate(id_, chat, max_tokens, temperature, seed, before))

    async def choose(self, prompt: Prompt, labels: Sequence[str]) -> Choice:
        """The likeliest label; see `Model.choose`."""
        chat, wanted = messages_of(prompt), tuple(labels)
        found = await self._ask(lambda id_: Choose(id_, chat, wanted), Chosen)
        logprobs = dict(zip(wanted, found.logprobs, strict=True))
        return Choice(max(logprobs, key=lambda label: logprobs[label]), logprobs, found.n_in)

    async def embed(self, texts: Sequence[str]) -> Embedding:
        """One vector per text; see `Model.embed`."""
        wanted = tuple(texts)
        found = await self._ask(lambda id_: Embed(id_, wanted), Embedded)
        return Embedding(found.vectors, found.n_in)

    async def count(self, prompt: Prompt) -> int:
        """Ids of the prompt."""
        chat = messages_of(prompt)
        return (await self._ask(lambda id_: Count(id_, chat), Counted)).n_in

    def statistics(self) -> Statistics:
        """Figures to date."""
        speed, restarts = self._speed.tokens_per_second, self._restarts.total
        return Statistics(self._tokens, speed, len(self._pending), restarts)

    # --- requests -------------------------------------------------------------------------------

    async def submit(self, make: Callable[[int], Request]) -> Pending:
        """Hand in the request that `make` makes of an id; for streams (`answers.Desk`).

        Raises:
            ModelRefused: too much is under way, or this request crashed the model twice.
            ModelCrashed: the model does not start at the moment.
        """
        digest = hashlib.sha256(_checked(make(0))).digest()
        if self._suspects.refuses(digest):
            raise ModelRefused("this very request was in work at two crashes of the model; it is refused")
        await self._until_ready()
        if len(self._pending) >= REQUESTS_MAX or len(self._outbox) >= OUTBOX_MAX:
            raise ModelRefused(f"busy: {len(self._pending)} requests are live")
        self._next_id += 1
        request = make(self._next_id)
        events = min(request.max_tokens, self.info.context) if isinstance(request, Generate) else 0
        pending = Pending(request, digest, max(events, 0) + 2)
        if not self._pending:
            self._watch.progress_at = trio.current_time()
        self._pending[request.id] = pending
        self._write(frame(request))
        return pending

    def leave(self, pending: Pending) -> None:
        """Nobody reads this request any further: if it is still live, the process forgets it."""
        self._speed.add(pending.made - 1, pending.last_at - pending.first_at)
        if self._pending.pop(pending.request.id, None) is not None and self._ready_at is not None:
            self._write(frame(Cancel(pending.request.id)))

    async def _ask(self, make: Callable[[int], Request], answer: type[T]) -> T:
        """One question, one answer."""
        pending = await self.submit(make)
        try:
            while True:
                event = await pending.next()
                if isinstance(event, answer):
                    return event
        finally:
            self.leave(pending)

    async def _until_ready(self) -> None:
        """Wait for the next start, but not for a second one when that fails."""
        await trio.lowlevel.checkpoint()
        failed = self._restarts.failed_starts
        while self._ready_at is None:
            if self._closed:
                raise _closed()
            if self._restarts.failing or self._restarts.failed_starts > failed:
                raise ModelCrashed(f"model {self._spec.name} does not start at the moment: {self._why}")
            await self._changed.wait()

    def _write(self, data: bytes) -> None:
        self._outbox.append(data)
        self._outbox_filled.set()

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
            lived_s = None if self._ready_at is None else trio.current_time() - self._ready_at
            self._ready_at, self._why = None, str(error)
            for pending in self._pending.values():
                self._suspects.blame(pending.digest)
            lost = "this request is lost, not billed, and may be tried again"
            self._fail_all(ModelCrashed(f"{error}; {lost}"))
            self._announce()
            await trio.sleep(self._restarts.crashed(lived_s))

    async def _run(self) -> ModelError:
        """One life of the process, to its end; returns what is to be said about that."""
        self._outbox.clear()
        child = self._child = await Child.start(self._spec)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(child.keep_stderr)
                nursery.start_soon(self._send_forever, child)
                nursery.start_soon(self._watch_forever, child)
                unusable = await self._receive_until_end(child)
                await child.wait_last_words()
                nursery.cancel_scope.cancel()
        finally:
            self._child = None
            await child.end()
        if unusable is not None:
            return ModelError(f"model {self._spec.name} cannot be used: {unusable}")
        if child.ran_out_of_memory and self._spec.tokens_max is not None:
            fewer = max(TOKENS_MIN, self._spec.tokens_max // 2)
            self._spec = msgspec.structs.replace(self._spec, tokens_max=fewer)
        return ModelCrashed(f"the process of model {self._spec.name} {child.cause()}")

    async def _send_forever(self, child: Child) -> None:
        """Drain the outbox into the process."""
        while True:
            await self._outbox_filled.wait()
            data = b"".join(self._outbox)
            self._outbox.clear()
            self._outbox_filled = trio.Event()
            if not await child.send(data):
                return

    async def _watch_forever(self, child: Child) -> None:
        """Kill it when it does not start, hangs or stops."""
        with trio.move_on_after(START_TIMEOUT_S):
            while self._ready_at is None:
                await self._changed.wait()
        if self._ready_at is None:
            child.kill(f"did not start within {START_TIMEOUT_S:g} s")
        number, next_ping = 0, -math.inf
        while True:
            now = trio.current_time()
            if now >= next_ping:
                number, next_ping = number + 1, now + PING_EVERY_S
                self._write(frame(Ping(number)))
            if (fault := self._watch.fault(now, len(self._pending))) is not None:
                child.kill(fault)
                return
            await trio.sleep(min(self._watch.stall_s / 4, PING_EVERY_S))

    async def _receive_until_end(self, child: Child) -> str | None:
        """Hand every message on until the process ends; returns why it is unusable, if it says so."""
        unusable = None
        async with aclosing(child.messages()) as received:
            async for messages in received:
                for message in messages:
                    if isinstance(message, Ready):
                        self._became_ready(message)
                    elif isinstance(message, Unusable):
                        unusable = message.reason
                    else:
                        self._handle(message, child)
        return unusable

    def _became_ready(self, ready: Ready) -> None:
        kind: Kind = "embedding" if ready.kind == "embedding" else "text"
        self._info = ModelInfo(
            ready.name, ready.hash, ready.parameters, kind, ready.context, ready.device, ready.dtype
        )
        self._spec = msgspec.structs.replace(self._spec, tokens_max=ready.tokens_max)
        now = self._ready_at = trio.current_time()
        self._watch = Watch(self._stall_s, SILENCE_S, progress_at=now, pong_at=now)
        self._announce()

    def _handle(self, message: FromWorker, child: Child) -> None:
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
            try:
                pending.put(message, now)
            except Malformed as exc:
                child.kill(str(exc))
                return
        if not isinstance(message, Admitted | Made):
            del self._pending[message.id]
            self._suspects.clear(pending.digest)

    def _close(self) -> None:
        self._closed, self._ready_at = True, None
        self._fail_all(_closed())
        self._announce()

    def _fail_all(self, failure: Exception) -> None:
        pending, self._pending = self._pending, {}
        for each in pending.values():
            each.fail(failure)

    def _announce(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def _closed() -> Closed:
    return Closed("the model was closed: its `async with` block has ended")


def _checked(request: Request) -> bytes:
    """A request's frame, if the process will understand it: what it does not understand ends it."""
    try:
        data = frame(request)
        to_worker.decode(data[4:])
    except Malformed as exc:  # it is the caller's own, not a peer's
        raise ModelRefused(f"too long: {exc}") from exc
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError) as exc:
        raise InvalidInput(f"an argument has the wrong type: {exc}") from exc
    return data
