"""One awarded job while it is worked on: the seller's side of a paid stream.

    Sale.produce   runs the skill's function, in a task of the agent's own   ──▶ a small buffer
    Sale.deliver   sends from the buffer what the till allows, in the stream's handler

A disconnect cancels `deliver` only: the function then waits with a full buffer, and `deliver` goes on when
the buyer resumes. Nobody works for a peer that has gone.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable

import trio

from ainp2p.agents.models.model import Token
from ainp2p.agents.tills import Till
from ainp2p.agents.waiting import Pipe, Turn
from ainp2p.agents.work import Work
from ainp2p.errors import Error, InvalidInput, Refused, Unpaid
from ainp2p.protocol import canonical_json
from ainp2p.protocol.delivery import BUDGET, CANCELED, DONE, FAILED, Content, weight
from ainp2p.protocol.messages import BYTES, DATA_SIZE_MAX, JSON, TEXT, TIME, Chunk, Finished

log = logging.getLogger(__name__)

BUFFER_SIZE = 64  # yields made before they may be delivered: one window
CLOSE_TIMEOUT_S = 1.0  # for a function to clean up when it is stopped

Send = Callable[[Chunk], Awaitable[None]]
Run = Callable[[Work], AsyncGenerator[object, None]]


class Sale:
    """One awarded job.

    Attributes:
        job, buyer: the award's id, and the key of whoever awarded.
        till: the Lock that pays for it.
        idle_since: trio's time when the last stream that delivered it ended.
        streams: that deliver it; two, while one takes over from another.
        finished: the last word on it, once it is said.
        unpaid: it ended since the buyer stopped paying.
    """

    def __init__(self, job: bytes, buyer: bytes, till: Till, work: Work, run: Run) -> None:
        self.job, self.buyer, self.till, self.work = job, buyer, till, work
        self.canceled = self.unpaid = False
        self.idle_since = trio.current_time()
        self.finished: Finished | None = None
        self.streams = 0
        self._run = run
        self._made: Pipe[object] = Pipe(BUFFER_SIZE)  # `Pipe[object](…)` would cost thrice as much, per job
        self._held: list[object] = []  # taken from the buffer, not delivered yet
        self._failure: Exception | None = None
        self._producing, self._delivering = trio.CancelScope(), trio.CancelScope()
        self._turn = Turn()  # to deliver
        self._counted_until = trio.current_time()  # under a price per second

    # --- the function ------------------------------------------------------------------------------

    async def produce(self) -> None:
        """Run the skill's function until it ends, fails or is stopped; what it raises is kept."""
        yields = self._run(self.work)
        failure: Exception | None = Refused("stopped", "the seller was stopped before it had done")
        try:
            with self._producing:
                async for value in yields:
                    await self._made.put(value)
                failure = None
        except trio.BrokenResourceError:
            return  # nobody wants more
        except Exception as exc:  # the skill's author's fault: the buyer is told, the agent goes on
            failure = exc
        finally:
            self._failure = failure
            self._made.end()
            if failure is not None:  # else it has ended by itself
                await self._close(yields)

    async def _close(self, yields: AsyncGenerator[object, None]) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_TIMEOUT_S):
            try:
                await yields.aclose()
            except Exception:  # it fails while it cleans up: nobody is left to be told
                log.exception("a skill failed while it was stopped")

    def stop_producing(self) -> None:
        """Stop the function; what it made so far is still delivered."""
        if not self._made.ended:
            self._producing.cancel()

    def stop(self) -> None:
        """Stop the function, and deliver nothing more; its model frees the place within one step."""
        self.stop_producing()
        self._made.close()

    def cancel(self) -> None:
        """The buyer wants no more.

        Raises:
            Refused: the job has not begun, or is forgotten.
        """
        self.canceled = True
        self.stop_producing()
        self.till.notify()
        if not self.streams and self.finished is None:
            self._finish(CANCELED)

    async def begin(self) -> int:
        """Wait for the first yield, or the end, if prompt ids are paid; returns how many ids were read."""
        await self._fill()
        return self.work.model.n_in

    def accepted(self) -> None:
        """The buyer is told now that work has begun; paid seconds count from here."""
        self._counted_until = trio.current_time()

    # --- the stream --------------------------------------------------------------------------------

    async def deliver(self, send: Send, from_n: int | None = None) -> Finished:
        """Send what may be lost (chunks from `from_n` on), then all that follows; returns the last word.

        Raises:
            Refused: ``resumed``: a later call took over; ``gone``: what is asked for is kept no longer.
        """
        if self.streams:
            self._delivering.cancel()
        self._delivering = scope = trio.CancelScope()
        self.streams += 1
        try:
            with scope:
                async with self._turn:  # whoever was cancelled may still be about to send one more
                    for chunk in self.till.meter.resume(self.job, from_n) if from_n is not None else ():
                        await send(chunk)
                    return await self._deliver_rest(send)
        finally:
            self.streams -= 1
            if not self.streams:
                self.idle_since = trio.current_time()
                if self.finished is None:
                    self.till.meter.pause(self.job)
        raise Refused("resumed", "the job goes on in another stream")

    async def _deliver_rest(self, send: Send) -> Finished:
        while self.finished is None:
            try:
                chunk = await self._next_chunk()
            except Exception as exc:  # unpaid, or a yield that cannot travel: whatever a skill hands out
                self.unpaid = isinstance(exc, Unpaid)
                self._finish(CANCELED if _is_patience(exc) else FAILED, _told(exc))
            else:
                if chunk is not None:
                    await send(chunk)
        return self.finished

    async def _next_chunk(self) -> Chunk | None:
        """What may be delivered next, once it may; None: nothing more, and the last word is said."""
        meter = self.till.meter
        if (finish := meter.tab(self.job).finish) is not None:
            self._finish(finish)  # the answer loops
        elif self.canceled:
            self._finish(CANCELED)
        elif not await self._fill():
            self._finish_at_end()
        elif await self.till.wait_for_credit(self.job, lambda: self.canceled):
            return self._made_chunk()
        elif not self.canceled:
            self._finish(BUDGET)
        return None

    def _finish_at_end(self) -> None:
        if self.canceled:
            self._finish(CANCELED)
        elif self._failure is not None:
            self._finish(FAILED, _told(self._failure))
        else:
            self._finish(BUDGET if self.work.model.cut else DONE)

    def _finish(self, finish: bytes, reason: bytes = b"") -> None:
        self.stop()
        self.finished = self.till.meter.finish(self.job, finish, reason)

    async def _fill(self) -> bool:
        """Hold at least one yield, and all others that are ready; False: there are no more."""
        if not self._held:
            try:
                self._held.append(await self._made.take())
            except trio.EndOfChannel:
                return False
        while self._made and len(self._held) < BUFFER_SIZE:
            self._held.append(self._made.take_nowait())
        return True

    def _made_chunk(self) -> Chunk:
        meter = self.till.meter
        unit = meter.tab(self.job).unit
        if unit == "token":
            tokens = [value for value in self._held if isinstance(value, Token)]
            if len(tokens) != len(self._held):
                raise InvalidInput("under a price per token a skill may yield only what its model generated")
            chunk, count = meter.deliver_tokens(self.job, tokens)
            del self._held[:count]
            return chunk
        content = content_of(self._held.pop(0))
        units = self._seconds() if unit == "second" else 1
        if units and weight(units) > meter.allowance(self.job):
            units = meter.allowance(self.job)  # time that was not paid in advance is given away
        return meter.deliver(self.job, content, units)

    def _seconds(self) -> int:
        elapsed = int(trio.current_time() - self._counted_until)
        self._counted_until += elapsed
        return elapsed


def content_of(value: object) -> Content:
    """What a skill yielded, as it travels.

    Raises:
        InvalidInput: it is no text, bytes or JSON value, or too large for one piece.
    """
    content = _content(value)
    if len(content.data) > DATA_SIZE_MAX:
        size = len(content.data)
        raise InvalidInput(f"a skill yielded {size} bytes at once, at most {DATA_SIZE_MAX} travel: split it")
    return content


def _content(value: object) -> Content:
    if isinstance(value, Token):
        return Content(TEXT, _utf8(value.text))
    if isinstance(value, str):
        return Content(TEXT, _utf8(value))
    if isinstance(value, bytes):
        return Content(BYTES, value)
    if value is None:
        return Content(TIME, b"")
    return Content(JSON, canonical_json.encode(value))


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as exc:
        raise InvalidInput("a skill yielded text with a lone surrogate, which is not Unicode") from exc


def _is_patience(failure: Exception) -> bool:
    return isinstance(failure, Refused) and failure.code == "reader"


def _told(failure: Exception) -> bytes:
    """What the buyer learns of a failed function: our own errors' words, and only the type of others."""
    words = str(failure) if isinstance(failure, Error) else ""
    return f"{type(failure).__name__}: {words}".encode(errors="replace")[:1024]
