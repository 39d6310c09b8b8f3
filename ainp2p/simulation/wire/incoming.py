"""A call of the peer's on a simulated link: the callee's half, as its handler sees it.

called ──▶ finish                          (a request, a one-way message)
called ──▶ send* ──▶ finish ──▶ drained    (a stream; its end follows the chunks that waited for credit)
  … ──▶ caller_gone ──▶ finish             (the handler is cancelled, and has still to end)
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio
from outcome import Error
from trio.lowlevel import Abort, reschedule, wait_task_rescheduled

from ainp2p.errors import Broken, Closed, InvalidInput, Refused
from ainp2p.protocol.bodies import check_size
from ainp2p.protocol.frames import CALL_COST, CHUNK, LIMITS, REQUEST, STREAM
from ainp2p.protocol.network import BODY_SIZE_MAX, Handler

if TYPE_CHECKING:
    from ainp2p.simulation.wire.asked import Asked
    from ainp2p.simulation.wire.ends import End
    from ainp2p.simulation.wire.handlers import Worker


class Incoming:
    """One call; what a handler gets (`ainp2p.protocol.network.Call`)."""

    __slots__ = (
        "asked", "backlog", "body", "cost", "credit", "done", "end", "gone", "handler", "last", "peer",
        "stalled", "worker",
    )  # fmt: skip

    def __init__(self, end: End, asked: Asked, body: bytes, handler: Handler) -> None:
        self.end, self.asked, self.body, self.handler = end, asked, body, handler
        self.peer = end.peer
        self.cost = len(body) + CALL_COST
        self.worker: Worker | None = None  # who runs the handler
        self.gone = False  # nobody waits for it any more
        self.done = False  # the handler has ended
        if asked.kind == STREAM:
            self.credit = LIMITS.stream_window
            self.backlog: deque[bytes] = deque()  # chunks that wait for credit
            self.stalled: dict[trio.lowlevel.Task, None] = {}  # who waits until they have gone
            self.last: bytes | Refused | None = None  # the end of the stream, after the backlog

    async def send(self, chunk: bytes) -> None:
        """Send one chunk of a stream; waits for the caller's credit.

        Raises:
            Broken: the caller has gone.
            Closed: the handler has returned.
            Refused: the caller asked for one answer, not for a stream.
            InvalidInput: the chunk is too large.
        """
        end = self.end
        if end.reason is not None:
            raise end.fault()
        if self.done:
            raise Closed("the handler of this call has returned")
        if self.asked.kind != STREAM:
            raise Refused("not-a-stream", "this protocol answers with a stream; call it as one")
        if len(chunk) > BODY_SIZE_MAX:
            check_size(len(chunk))
        if self.gone:
            raise Broken("the caller has gone")
        if self.credit > 0 and end.chunk_credit > 0 and not self.backlog:
            end.reply(CHUNK, self, chunk)
            await trio.lowlevel.checkpoint_if_cancelled()  # credit makes it wait soon enough
        else:
            self.backlog.append(chunk)
            end.network.stalled[self] = None
            await self._stall()

    async def _stall(self) -> None:
        task = trio.lowlevel.current_task()

        def stop_waiting(_: object) -> Abort:
            del self.stalled[task]
            return Abort.SUCCEEDED

        self.stalled[task] = None
        await wait_task_rescheduled(stop_waiting)

    def pump(self) -> None:
        """Send of the backlog what credit allows, and then the end."""
        end, backlog = self.end, self.backlog
        while backlog and self.credit > 0 and end.chunk_credit > 0:
            end.reply(CHUNK, self, backlog.popleft())
        if backlog or end.reason is not None:
            return
        end.network.stalled.pop(self, None)
        self._wake(None)
        if self.last is not None:
            end.conclude(self, self.last)

    def _wake(self, fault: Exception | None) -> None:
        for task in self.stalled:
            if fault is None:
                reschedule(task)
            else:
                reschedule(task, Error(fault))
        self.stalled.clear()

    def caller_gone(self, fault: Exception) -> None:
        """The caller has cancelled, or the link is over: the handler is cancelled."""
        self.gone = True
        if self.asked.kind == STREAM:
            self.backlog.clear()
            self.end.network.stalled.pop(self, None)
            self._wake(fault)
        if self.worker is not None:
            self.worker.scope.cancel()

    def finish(self, result: bytes | Refused) -> None:
        """The handler has ended."""
        self.done, self.worker = True, None
        end, kind = self.end, self.asked.kind
        end.network.handler_ended()
        if end.reason is not None:
            return
        if kind == STREAM and not self.gone:
            self.last = b"" if isinstance(result, bytes) else result
            self.pump()
        elif kind == REQUEST and not self.gone:
            end.conclude(self, self._checked(result))
        else:
            del end.network.serving[self.asked]
        end.return_call(self.cost)

    def _checked(self, answer: bytes | Refused) -> bytes | Refused:
        if isinstance(answer, Refused) or (isinstance(answer, bytes) and len(answer) <= BODY_SIZE_MAX):
            return answer
        what = f"{len(answer)} bytes" if isinstance(answer, bytes) else f"{type(answer).__name__}"
        wrong = InvalidInput(f"a handler answered {what}: at most {BODY_SIZE_MAX} bytes are sent")
        return self.end.wire.handlers.failed(self, wrong)
