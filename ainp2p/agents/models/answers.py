"""Requests in work in a model process, and the token streams that read them.

`Pending` is a bounded mailbox per request; `ProcessStream` turns one into an iterator that may be
cancelled or dropped at any moment. Not here: the process.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, Self

import trio

from ainp2p.agents.models.messages import Admitted, Ended, Event, Generate, Made, Request
from ainp2p.agents.models.model import Finish, Token
from ainp2p.errors import Closed, Malformed, ModelError


class Pending:
    """One request in work, and the events about it that were not read yet.

    Attributes:
        digest: of the request without its id: the same request has the same digest.
        made: tokens that have come so far; the first at `first_at`, the latest at `last_at` (trio's clock).
    """

    def __init__(self, request: Request, digest: bytes, capacity: int) -> None:
        self.request, self.digest = request, digest
        self.made, self.first_at, self.last_at = 0, 0.0, 0.0
        self._failure: Exception | None = None
        self._put, self._get = trio.open_memory_channel[Event](capacity)

    def put(self, event: Event, now: float) -> None:
        """Keep an event.

        Raises:
            Malformed: there are more events than were asked for.
        """
        if isinstance(event, Made):
            self.made, self.last_at = self.made + 1, now
            self.first_at = self.first_at if self.made > 1 else now
        try:
            self._put.send_nowait(event)
        except trio.WouldBlock as exc:
            raise Malformed("the model process says more than it was asked for") from exc

    def fail(self, failure: Exception) -> None:
        """No more events come; once those that are here have been read, `failure` is raised."""
        self._failure = failure
        self._put.close()

    async def next(self) -> Event:
        """The next event."""
        try:
            return await self._get.receive()
        except trio.EndOfChannel:
            assert self._failure is not None  # only `fail` closes it
            raise self._failure from None


class Desk(Protocol):
    """Where a stream hands its request in, and says that it has left."""

    async def submit(self, make: Callable[[int], Request]) -> Pending:
        """Hand a request to the process; whoever calls this calls `leave` in the end."""

    def leave(self, pending: Pending) -> None:
        """Nobody reads this request any further; more than one call does no harm."""


class ProcessStream:
    """A `TokenStream` over a worker process."""

    def __init__(self, desk: Desk, make: Callable[[int], Generate]) -> None:
        self.n_in: int | None = None
        self.finish: Finish | None = None
        self._desk, self._make = desk, make
        self._pending: Pending | None = None
        self._over = False
        self._trio_token = trio.lowlevel.current_trio_token()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Token:
        if self._over:
            raise StopAsyncIteration
        try:
            if self._pending is None:
                self._pending = await self._desk.submit(self._make)
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
                self._trio_token.run_sync_soon(self._desk.leave, self._pending)

    def _end(self, finish: Finish | None) -> None:
        if self._over:
            return
        self._over, self.finish = True, finish
        if self._pending is not None:
            self._desk.leave(self._pending)
