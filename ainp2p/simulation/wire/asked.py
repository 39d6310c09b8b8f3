"""A call of ours on a simulated link: the caller's half, until its user has left it.

    asked ──▶ answered | refused                    (a request)
    asked ──▶ chunk* ──▶ ended | refused            (a stream)
      … ──▶ left | expired | the link is over

The same object travels with the messages of its call and names it at the other end, which keeps a half of its
own (incoming.py) and touches nothing here.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import trio
from outcome import Error, Value
from trio.lowlevel import Abort, reschedule, wait_task_rescheduled

from ainp2p.errors import Closed, TimedOut
from ainp2p.protocol.frames import CHUNK_COST, LIMITS

if TYPE_CHECKING:
    from ainp2p.simulation.wire.ends import End

STREAM_RETURN = LIMITS.stream_window // 4  # bytes that a reader has taken before the sender hears of it


class Asked:
    """A request or a one-way message."""

    __slots__ = ("body", "end", "ended", "kind", "protocol", "sent", "task", "timeout_s", "wait")

    def __init__(self, end: End, kind: int, protocol: str, timeout_s: float) -> None:
        self.end, self.kind, self.protocol, self.timeout_s = end, kind, protocol, timeout_s
        self.body = b""  # while it waits for room
        self.sent = False  # it waits for room no more
        self.task: trio.lowlevel.Task | None = None  # parked on it
        self.ended: Exception | None = None  # why no more comes; StopAsyncIteration for a complete stream
        self.wait = 0  # counts the waits for an answer or a chunk

    @property
    def waits(self) -> bool:
        """Whether its user is parked on it."""
        return self.task is not None

    async def park(self) -> Any:
        """Wait until somebody wakes the user.

        Raises:
            BusyResourceError: another task waits already.
        """
        if self.task is not None:
            raise trio.BusyResourceError("another task is already waiting for this stream")
        self.task = trio.lowlevel.current_task()
        return await wait_task_rescheduled(self._stop_waiting)

    def _stop_waiting(self, _: object) -> Abort:
        self.task = None
        return Abort.SUCCEEDED

    def wake(self, value: Any = None) -> None:
        """The user goes on with this, if it waits."""
        task, self.task = self.task, None
        if task is not None:
            reschedule(task, Value(value))

    def fail(self, reason: Exception) -> None:
        """No more comes."""
        self.ended = reason
        task, self.task = self.task, None
        if task is not None:
            reschedule(task, Error(reason))

    def expire(self) -> None:
        """The deadline of the wait under way has come."""
        end = self.end
        words = f"no answer from {end.peer} to {self.protocol} within {self.timeout_s:g} s"
        self.fail(TimedOut(words))
        end.forget(self)


class AskedStream(Asked):
    """A stream; iterate over its chunks, one reader at a time."""

    __slots__ = ("doubt", "inbox", "taken")

    def __init__(self, end: End, kind: int, protocol: str, timeout_s: float) -> None:
        super().__init__(end, kind, protocol, timeout_s)
        self.inbox: deque[bytes] = deque()
        self.doubt: Doubt | None = None  # for waits of another length
        self.taken = 0  # bytes and costs that were read and not yet given back as credit

    def fail(self, reason: Exception) -> None:
        """No more comes; the reader first gets what is here."""
        self.ended = reason
        self.wake()

    def __aiter__(self) -> AskedStream:
        return self

    async def __anext__(self) -> bytes:
        if self.inbox:
            await trio.lowlevel.checkpoint_if_cancelled()
        elif self.ended is None:
            self.wait += 1
            self.end.wire.deadlines.start(self)
            await self.park()
        return self._take()

    async def within(self, seconds: float) -> bytes | None:
        """The next chunk; None if none comes in this time."""
        if self.inbox:
            await trio.lowlevel.checkpoint_if_cancelled()
        elif self.ended is None:
            self.wait += 1
            if self.doubt is None or self.doubt.timeout_s != seconds:
                self.doubt = Doubt(self, seconds)
            self.end.wire.deadlines.start(self.doubt)
            await self.park()
            if not self.inbox and self.ended is None:
                return None
        return self._take()

    def _take(self) -> bytes:
        inbox = self.inbox
        if not inbox:
            assert self.ended is not None
            raise self.ended
        chunk = inbox.popleft()
        cost = len(chunk) + CHUNK_COST
        self.taken += cost
        if self.taken >= STREAM_RETURN and self.ended is None:
            self.end.return_stream(self, self.taken)
            self.taken = 0
        self.end.return_chunk(cost)
        return chunk

    def leave(self) -> None:
        """The user has gone: the handler over there is cancelled, what was not read is given back."""
        if self.ended is None:
            self.fail(Closed("this stream's block has ended"))
        self.end.forget(self)
        for chunk in self.inbox:
            self.end.return_chunk(len(chunk) + CHUNK_COST)
        self.inbox.clear()
        # Whatever refers back to this stream would leave a cycle to the collector, one for each trade.
        self.doubt = None
        if self.ended is not None:
            self.ended.__traceback__ = None


class Doubt:
    """A reader that waits for a while only, and whose stream goes on after it."""

    __slots__ = ("stream", "timeout_s")

    def __init__(self, stream: AskedStream, timeout_s: float) -> None:
        self.stream, self.timeout_s = stream, timeout_s

    @property
    def wait(self) -> int:
        """Which wait of the stream's."""
        return self.stream.wait

    @property
    def waits(self) -> bool:
        """Whether the reader is parked."""
        return self.stream.task is not None

    def expire(self) -> None:
        """The while is over."""
        self.stream.wake()
