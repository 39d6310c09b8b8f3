"""One channel at work: a byte stream, a reader, a writer, a timer, and handlers for the peer's calls.

Users' tasks never touch the stream: they put frames into the channel and park until its reader wakes them,
so they may be cancelled at any await. Both networks use it; it knows frames only by their events.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

import trio
from outcome import Error, Value

from ainp2p.errors import Broken, Closed, InvalidInput, Malformed, NetworkError, Refused, TimedOut
from ainp2p.protocol import frames as f
from ainp2p.protocol.bodies import check_call
from ainp2p.protocol.channel import DEAD_AFTER_S, Channel
from ainp2p.protocol.network import Chunks, Handler, PeerId

log = logging.getLogger(__name__)

HELD_BACK_MAX_S = 2.0  # well below DEAD_AFTER_S: a peer that is held back is still heard now and then
OVERRUN_CHECK_S = 0.05  # while a peer is held back; what it can send meanwhile is bounded by its line
CLOSE_GRACE_S = 1.0  # for handing over what is queued, and for closing a stream that does not answer
LOG_LINES_PER_S_MAX = 10  # about handlers that fail, for each peer


class ByteStream(Protocol):
    """What a channel runs over; only its link's own tasks use it."""

    async def read(self) -> bytes:
        """Some bytes; empty at the end. Raises NetworkError when the connection breaks."""

    async def write(self, data: bytes) -> None:
        """Hand over all of `data`, waiting while the other side is slow."""

    async def aclose(self) -> None:
        """Let go of the stream; never raises."""

    @property
    def is_overrun(self) -> bool:
        """Whether the peer has sent more than it may while nobody reads."""


class _OurCall:
    """A call of ours from `request`, `send` or `stream` until its user has left it."""

    __slots__ = ("body", "call", "deadline", "end", "inbox", "kind", "protocol", "task", "timeout_s")

    def __init__(self, kind: int, protocol: str, body: bytes, timeout_s: float) -> None:
        self.kind, self.protocol, self.body, self.timeout_s = kind, protocol, body, timeout_s
        self.deadline = trio.current_time() + timeout_s
        self.call: int | None = None  # None while it waits for room
        self.task: trio.lowlevel.Task | None = None  # parked on it
        self.inbox: deque[bytes] = deque()
        self.end: Exception | None = None  # why no more comes; StopAsyncIteration for a complete stream


class IncomingCall:
    """One call of the peer's, as its handler sees it (`ainp2p.protocol.network.Call`)."""

    __slots__ = ("_call", "_link", "body", "peer")

    def __init__(self, link: PeerLink, call: int, body: bytes) -> None:
        self._link, self._call = link, call
        self.peer, self.body = link.peer, body

    async def send(self, chunk: bytes) -> None:
        """Send one chunk of a stream; waits for the caller's credit."""
        await self._link.send_chunk(self._call, chunk)


class PeerLink:
    """The channel with one peer. Give `run` a task; everything else may be called from any other."""

    def __init__(
        self,
        peer: PeerId,
        stream: ByteStream,
        handlers: Mapping[str, Handler],
        *,
        ours: bool,
        on_close: Callable[[PeerLink], None],
    ) -> None:
        """`ours`: we opened it. `handlers` may grow later. `on_close` is told once, as soon as it is over."""
        self.peer, self.ours, self._on_close = peer, ours, on_close
        self.opened_at = trio.current_time()
        self.closed = trio.Event()
        self.wire = stream
        self._handlers = handlers
        self._core = Channel(self.opened_at)
        self._nursery: trio.Nursery | None = None
        self._reason: Exception | None = None  # why it is over
        self._calls: dict[int, _OurCall] = {}
        self._small: deque[_OurCall] = deque()  # calls that wait for room, in order;
        self._large: deque[_OurCall] = deque()  # two queues, so that a large body blocks no small one
        self._scopes: dict[int, trio.CancelScope] = {}
        self._drains: dict[int, trio.Event] = {}
        self._idle_writer: trio.lowlevel.Task | None = None
        self._flushed = trio.lowlevel.ParkingLot()
        self._read_again_at = -math.inf  # held back until then
        self._read_again = trio.Event()
        self._timer_at = -math.inf
        self._rearm = trio.Event()
        self._logged_from, self._logged = -math.inf, 0
        self._on: dict[type, Callable[[Any], None]] = {
            f.Called: self._on_called,
            f.Answered: self._on_answered,
            f.Chunk: self._on_chunk,
            f.Ended: self._on_ended,
            f.WasRefused: self._on_refused,
            f.Cancelled: self._on_cancelled,
        }

    # --- life -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Carry frames until the stream ends, the peer misbehaves or `close` is called."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                if self._reason is not None:
                    nursery.cancel_scope.cancel()
                for job in (self._read, self._write, self._keep_time):
                    nursery.start_soon(self._until_fault, job)
        finally:
            self.close(Broken("the connection was given up"))
            self.closed.set()
            with trio.CancelScope(deadline=trio.current_time() + CLOSE_GRACE_S, shield=True):
                await self.wire.aclose()

    def close(self, reason: Exception) -> None:
        """End it: handlers are cancelled, callers get `Broken`, or `Closed` if that is the reason."""
        if self._reason is not None:
            return
        self._reason = reason
        self._on_close(self)
        for call in [*self._calls.values(), *self._small, *self._large]:
            self._end(call, self._fault())
        self._calls.clear()
        self._flushed.unpark_all()
        for drain in self._drains.values():
            drain.set()
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    async def flush(self) -> None:
        """Wait until all that is queued has been handed to the stream, or the link is over."""
        while self._reason is None and (self._core.has_output or self._idle_writer is None):
            await self._flushed.park()

    def hold_back(self, for_s: float) -> None:
        """Read nothing for so long: what the peer sends stays in its own window, and costs us nothing.

        At most HELD_BACK_MAX_S; a later time counts. What we send goes on, what it answers waits too.
        """
        self._read_again_at = max(self._read_again_at, trio.current_time() + min(for_s, HELD_BACK_MAX_S))

    def read_on(self) -> None:
        """The peer need not be held back any more."""
        self._read_again_at = -math.inf
        self._read_again.set()

    @property
    def idle(self) -> bool:
        """No call is open in either direction."""
        return self._core.idle and not (self._calls or self._small or self._large)

    async def _until_fault(self, job: Callable[[], Awaitable[None]]) -> None:
        """Faults that are expected become the reason for closing; no peer can raise out of its link."""
        try:
            await job()
        except (Malformed, NetworkError) as fault:
            self.close(fault)
        except Exception as fault:
            log.exception("link with %s failed", self.peer)
            self.close(fault)

    def _fault(self) -> Exception:
        if isinstance(self._reason, Closed):
            return Closed(str(self._reason))
        return Broken(f"the connection to {self.peer} ended: {self._reason}")

    # --- calls of ours --------------------------------------------------------------------------

    async def request(self, protocol: str, body: bytes, timeout_s: float) -> bytes:
        """One question, one answer."""
        call = _OurCall(f.REQUEST, protocol, body, timeout_s)
        self._begin(call)
        answer: bytes = await self._park(call, leave=True)
        return answer

    async def send(self, protocol: str, body: bytes) -> None:
        """One-way; waits for room only."""
        call = _OurCall(f.ONE_WAY, protocol, body, math.inf)
        self._begin(call)
        if call.call is None:
            await self._park(call, leave=True)
        else:
            await trio.lowlevel.checkpoint()

    @asynccontextmanager
    async def stream(self, protocol: str, body: bytes, timeout_s: float) -> AsyncIterator[Chunks]:
        """One question, many chunks; leaving the block cancels the rest."""
        call = _OurCall(f.STREAM, protocol, body, timeout_s)
        self._begin(call)
        try:
            yield _Chunks(self, call)
        finally:
            self._leave(call)

    async def next_chunk(self, call: _OurCall) -> bytes:
        """The next chunk of a stream of ours; StopAsyncIteration at its end."""
        if not call.inbox:
            if call.end is None:
                self._set_deadline(call, trio.current_time() + call.timeout_s)
                await self._park(call, leave=False)
                self._set_deadline(call, math.inf)
            if not call.inbox:
                assert call.end is not None
                raise call.end
        else:
            await trio.lowlevel.checkpoint()
        body = call.inbox.popleft()
        if call.call is not None:
            self._core.caller.taken(call.call, len(body))
            self._wake_writer()
        return body

    def _begin(self, call: _OurCall) -> None:
        """Open the call now, or queue it until there is room."""
        if self._reason is not None:
            raise self._fault()
        queue = self._small if len(call.body) <= f.PAYLOAD_MAX else self._large
        if queue or not self._core.caller.has_room(call.kind, len(call.body)):
            check_call(call.protocol, len(call.body))
            queue.append(call)
            self._settle()  # those before it may have given up
        else:
            self._open(call)
            self._wake_writer()
        if call.deadline < self._timer_at:
            self._rearm.set()

    def _open(self, call: _OurCall) -> None:
        call.call = self._core.caller.open(call.kind, call.protocol, call.body, call.deadline)
        call.body = b""
        if call.kind != f.ONE_WAY:
            self._calls[call.call] = call
        elif call.task is not None:
            self._wake(call, Value(None))

    async def _park(self, call: _OurCall, *, leave: bool) -> Any:
        if call.task is not None:
            raise trio.BusyResourceError("another task is already waiting for this stream")
        call.task = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            call.task = None
            if leave:
                self._leave(call)
            return trio.lowlevel.Abort.SUCCEEDED

        return await trio.lowlevel.wait_task_rescheduled(abort)

    def _wake(self, call: _OurCall, result: Value[Any] | Error) -> None:
        task, call.task = call.task, None
        if task is not None:
            trio.lowlevel.reschedule(task, result)

    def _end(self, call: _OurCall, reason: Exception) -> None:
        """No more comes for this call; a stream's reader first gets what is in its inbox."""
        call.end = reason
        self._wake(call, Value(None) if call.kind == f.STREAM else Error(reason))

    def _leave(self, call: _OurCall) -> None:
        """The user has gone: cancel what is open, give back the credit of what was not read."""
        call.end = call.end or Closed("this stream's block has ended")
        if call.call is None:
            return  # it waits for room, or the link is over; `_fill_room` skips it
        self._calls.pop(call.call, None)
        if self._reason is None:
            self._core.caller.cancel(call.call)
            for body in call.inbox:
                self._core.caller.taken(call.call, len(body))
            self._settle()

    def _set_deadline(self, call: _OurCall, deadline: float) -> None:
        call.deadline = deadline
        if call.call is not None:
            self._core.caller.set_deadline(call.call, deadline)
        if deadline < self._timer_at:
            self._rearm.set()

    # --- calls of the peer's --------------------------------------------------------------------

    async def send_chunk(self, call: int, chunk: bytes) -> None:
        """Queue a chunk for the handler of `call`, and wait until credit has let it go."""
        if self._reason is not None:
            raise self._fault()
        if call not in self._scopes:
            raise Closed("the handler of this call has returned")
        sent = self._core.callee.send_chunk(call, chunk)
        self._wake_writer()
        if sent:
            await trio.lowlevel.checkpoint()
        else:
            await self._drains.setdefault(call, trio.Event()).wait()
            if self._reason is not None:
                raise self._fault()

    def _on_called(self, event: f.Called) -> None:
        handler = self._handlers.get(event.protocol)
        if handler is None:
            self._core.callee.refuse(event.call, "no-such-protocol", f"nobody serves {event.protocol} here")
        else:
            assert self._nursery is not None
            scope = self._scopes[event.call] = trio.CancelScope()
            self._nursery.start_soon(self._handle, handler, event, scope, name=event.protocol)

    async def _handle(self, handler: Handler, event: f.Called, scope: trio.CancelScope) -> None:
        call, body, no = event.call, b"", None
        try:
            with scope:
                body = await handler(IncomingCall(self, call, event.body)) or b""
        except Refused as exc:
            no = exc
        except Exception as exc:
            if scope.cancel_called or self._reason is not None:  # what it fails of is that nobody waits
                no = Refused("cancelled")
            else:
                no = self._internal(event.protocol, exc)
        del self._scopes[call]
        if self._reason is None:
            self._finish(event, body, no)

    def _finish(self, event: f.Called, body: bytes, no: Refused | None) -> None:
        if no is None:
            try:
                self._core.callee.finish(event.call, body)
            except InvalidInput as exc:
                no = self._internal(event.protocol, exc)
        if no is not None:
            self._core.callee.refuse(event.call, no.code, no.reason)
        self._drains.pop(event.call, None)
        self._wake_writer()

    def _internal(self, protocol: str, exc: Exception) -> Refused:
        now = trio.current_time()
        if now >= self._logged_from + 1:
            self._logged_from, self._logged = now, 0
        self._logged += 1
        if self._logged <= LOG_LINES_PER_S_MAX:  # a peer that makes a handler fail fills no disk
            log.error("handler of %s failed for %s: %r", protocol, self.peer, exc, exc_info=exc)
        return Refused("internal", "the handler failed")

    # --- events ---------------------------------------------------------------------------------

    def _on_answered(self, event: f.Answered) -> None:
        self._wake(self._calls.pop(event.call), Value(event.body))

    def _on_chunk(self, event: f.Chunk) -> None:
        call = self._calls[event.call]
        call.inbox.append(event.body)
        self._wake(call, Value(None))

    def _on_ended(self, event: f.Ended) -> None:
        self._end(self._calls.pop(event.call), StopAsyncIteration())

    def _on_refused(self, event: f.WasRefused) -> None:
        self._end(self._calls.pop(event.call), Refused(event.code, event.reason))

    def _on_cancelled(self, event: f.Cancelled) -> None:
        if (scope := self._scopes.get(event.call)) is not None:
            scope.cancel()

    # --- background -----------------------------------------------------------------------------

    async def _read(self) -> None:
        core, on = self._core, self._on
        while True:
            data = await self.wire.read()
            if not data:
                raise Broken("the peer closed the connection")
            if self._read_again_at > trio.current_time():
                await self._stay_back()
            core.receive_data(data, trio.current_time())
            while (event := core.next_event()) is not None:
                on[type(event)](event)
            self._settle()

    async def _stay_back(self) -> None:
        """Until the peer need not be held back any more."""
        while (pause_s := self._read_again_at - trio.current_time()) > 0:
            if self.wire.is_overrun:
                raise Broken("the peer sent more than its window while it was held back")
            self._read_again = trio.Event()
            with trio.move_on_after(min(pause_s, OVERRUN_CHECK_S)):
                await self._read_again.wait()

    async def _write(self) -> None:
        while True:
            data = self._core.data_to_send()
            if data:
                await self.wire.write(data)
                self._settle()
            else:
                self._flushed.unpark_all()
                self._idle_writer = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._stop_waiting)

    def _stop_waiting(self, _: object) -> trio.lowlevel.Abort:
        self._idle_writer = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _wake_writer(self) -> None:
        task = self._idle_writer
        if task is not None and self._core.has_output:
            self._idle_writer = None
            trio.lowlevel.reschedule(task)

    def _settle(self) -> None:
        """After anything moved: open calls that waited for room, wake senders whose chunks have gone."""
        for queue in (self._small, self._large):
            while queue and (queue[0].end or self._core.caller.has_room(queue[0].kind, len(queue[0].body))):
                call = queue.popleft()
                if call.end is None:
                    self._open(call)
        for drained in self._core.callee.take_drained():
            if (event := self._drains.pop(drained, None)) is not None:
                event.set()
        self._wake_writer()

    async def _keep_time(self) -> None:
        """Heartbeat and deadlines: one timer for all calls, since a scope for each costs more than a call."""
        while True:
            now = trio.current_time()
            if not self._core.tick(now):
                raise Broken(f"nothing heard for {DEAD_AFTER_S:g} s")
            waiting = [call for call in (*self._small, *self._large) if call.end is None]
            late = [call for call in waiting if call.deadline <= now]
            for call in [*(self._calls.pop(number) for number in self._core.caller.expire(now)), *late]:
                words = f"no answer from {self.peer} to {call.protocol} within {call.timeout_s:g} s"
                self._end(call, TimedOut(words))
            self._settle()
            deadlines = [call.deadline for call in waiting if call.end is None]
            self._timer_at = min(self._core.next_timer(), *deadlines, math.inf)
            self._rearm = trio.Event()
            with trio.move_on_at(self._timer_at):
                await self._rearm.wait()


class _Chunks:
    """The chunks of one stream, in order; for one reader at a time."""

    def __init__(self, link: PeerLink, call: _OurCall) -> None:
        self._link, self._call = link, call

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> bytes:
        return await self._link.next_chunk(self._call)

    async def within(self, seconds: float) -> bytes | None:
        """The next chunk; None if none comes in this time."""
        if self._call.inbox:
            return await self._link.next_chunk(self._call)
        with trio.move_on_after(seconds):
            return await self._link.next_chunk(self._call)
        return None
