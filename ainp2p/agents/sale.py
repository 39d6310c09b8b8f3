"""One Lock's till and the jobs that are delivered against it: the seller's side of a paid stream.

    Sale.produce   runs the skill's function, in a task of the agent's own   ──▶ a small buffer
    Sale.deliver   sends from the buffer what the till allows, in the stream's handler

A disconnect cancels `deliver` only: the function then waits with a full buffer, and `deliver` goes on when
the buyer resumes. Nobody works for a peer that has gone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import trio

from ainp2p.agents.models.model import Token
from ainp2p.agents.work import Work
from ainp2p.errors import Error, InvalidInput, Refused, Unpaid
from ainp2p.protocol import canonical_json
from ainp2p.protocol.delivery import BUDGET, CANCELED, DONE, FAILED, Content, weight
from ainp2p.protocol.messages import BYTES, JSON, TEXT, TIME, Chunk, Finished
from ainp2p.protocol.seller_meter import SellerMeter

BUFFER_SIZE = 64  # yields made before they may be delivered: one window
PAYMENT_TIMEOUT_S = 30.0  # how long a seller waits for a receipt before it gives the job up
CLOSE_TIMEOUT_S = 1.0  # for a function to clean up when it is stopped

Send = Callable[[Chunk], Awaitable[None]]
Run = Callable[[Work], AsyncIterator[object]]


class Till:
    """One Lock's meter, and an alarm for whoever waits for it to change."""

    def __init__(self, meter: SellerMeter) -> None:
        self.meter = meter
        self._changed = trio.Event()

    def notify(self) -> None:
        """A receipt, progress of a reader or a cancellation has come."""
        self._changed.set()
        self._changed = trio.Event()

    async def wait_for_credit(self, sale: Sale) -> int:
        """How many units may be delivered; waits until some may. 0: none ever, or it was canceled.

        Raises:
            Unpaid: no receipt came in PAYMENT_TIMEOUT_S.
        """
        with trio.move_on_after(PAYMENT_TIMEOUT_S):
            while not (sale.canceled or self.meter.exhausted(sale.job)):
                allowed = self.meter.allowance(sale.job)
                if allowed > 0:
                    return allowed
                await self._changed.wait()
            return 0
        raise Unpaid(f"{self.meter.unpaid} units are delivered and unpaid after {PAYMENT_TIMEOUT_S:g} s")


class Sale:
    """One awarded job while it is worked on."""

    def __init__(self, job: bytes, buyer: bytes, till: Till, work: Work, run: Run) -> None:
        self.job, self.buyer, self.till, self.work = job, buyer, till, work
        self.canceled = False
        self.streams = 0  # that deliver it now
        self.finished: Finished | None = None
        self._run = run
        self._into, self._from = trio.open_memory_channel[object](BUFFER_SIZE)
        self._held: list[object] = []  # taken from the buffer, not delivered yet
        self._failure: Exception | None = None
        self._producing, self._delivering = trio.CancelScope(), trio.CancelScope()
        self._counted_until = trio.current_time()  # under a price per second

    # --- the function ------------------------------------------------------------------------------

    async def produce(self) -> None:
        """Run the skill's function until it ends, fails or is stopped; what it raises is kept."""
        with self._producing:
            yields, ended = self._run(self.work), False
            try:
                async for value in yields:
                    await self._into.send(value)
                ended = True
            except trio.BrokenResourceError:
                pass  # nobody wants more
            except Exception as exc:  # the skill's author's fault: the buyer is told, the agent goes on
                self._failure = exc
            finally:
                if not ended and self._failure is None:
                    self._failure = Refused("stopped", "the seller was stopped before it had done")
                self._into.close()
                close = getattr(yields, "aclose", None)
                if close is not None:
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_TIMEOUT_S):
                        await close()

    def stop_producing(self) -> None:
        """Stop the function; what it made so far is still delivered."""
        self._producing.cancel()

    def stop(self) -> None:
        """Stop the function, and deliver nothing more; its model frees the place within one step."""
        self._producing.cancel()
        self._from.close()

    def cancel(self) -> None:
        """The buyer wants no more."""
        self.canceled = True
        self._producing.cancel()
        self.till.notify()

    async def wait_for_first(self) -> None:
        """Return when there is something to deliver, or the function has ended."""
        await self._fill()

    # --- the stream --------------------------------------------------------------------------------

    async def deliver(self, send: Send, again: Sequence[Chunk] = ()) -> Finished:
        """Send what may have been lost, then all that follows; returns the last word on the job.

        Raises:
            Refused: ``resumed``: a later call took over.
        """
        self._delivering.cancel()
        self._delivering = trio.CancelScope()
        with self._delivering:
            for chunk in again:
                await send(chunk)
            if self.finished is None:
                finish, reason = await self._deliver_rest(send)
                self.stop()
                self.finished = self.till.meter.finish(self.job, finish, reason)
            return self.finished
        raise Refused("resumed", "the job goes on in another stream")

    async def _deliver_rest(self, send: Send) -> tuple[bytes, bytes]:
        tab = self.till.meter.tab(self.job)
        while tab.finish is None and not self.canceled and await self._fill():
            try:
                if not await self.till.wait_for_credit(self):
                    return (CANCELED if self.canceled else BUDGET), b""
                await send(self._next_chunk())
            except (Unpaid, InvalidInput) as exc:
                return FAILED, str(exc).encode()[:1024]
        if tab.finish is not None:
            return tab.finish, b""
        if self.canceled:
            return CANCELED, b""
        if self._failure is not None:
            return FAILED, _told(self._failure)
        return (BUDGET if self.work.model.cut else DONE), b""

    async def _fill(self) -> bool:
        """Hold at least one yield, and all others that are ready; False: there are no more."""
        if not self._held:
            try:
                self._held.append(await self._from.receive())
            except (trio.EndOfChannel, trio.ClosedResourceError):
                return False
        while len(self._held) < BUFFER_SIZE:
            try:
                self._held.append(self._from.receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel):
                break
        return True

    def _next_chunk(self) -> Chunk:
        meter = self.till.meter
        unit = meter.tab(self.job).terms.price.unit
        if unit == "token":
            tokens = [value for value in self._held if isinstance(value, Token)]
            if len(tokens) != len(self._held):
                raise InvalidInput("under a price per token a skill may yield only what its model generated")
            chunk, count = meter.deliver_tokens(self.job, tokens)
            del self._held[:count]
            return chunk
        units = self._seconds() if unit == "second" else 1
        if units and weight(units) > meter.allowance(self.job):
            units = meter.allowance(self.job)  # time that was not paid in advance is given away
        return meter.deliver(self.job, content_of(self._held.pop(0)), units)

    def _seconds(self) -> int:
        elapsed = int(trio.current_time() - self._counted_until)
        self._counted_until += elapsed
        return elapsed


def content_of(value: object) -> Content:
    """What a skill yielded, as it travels.

    Raises:
        InvalidInput: it is no text, bytes or JSON value.
    """
    if isinstance(value, Token):
        return Content(TEXT, value.text.encode())
    if isinstance(value, str):
        return Content(TEXT, value.encode())
    if isinstance(value, bytes):
        return Content(BYTES, value)
    if value is None:
        return Content(TIME, b"")
    return Content(JSON, canonical_json.encode(value))


def _told(failure: Exception) -> bytes:
    """What the buyer learns of a failed function: our own errors' words, and only the type of others."""
    words = str(failure) if isinstance(failure, Error) else ""
    return f"{type(failure).__name__}: {words}".encode()[:1024]
