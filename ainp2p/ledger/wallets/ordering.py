"""What is wanted of the account, one SPEND at a time.

    ordered ──planned, signed──► placed in a SPEND ──► final
       ├──cannot be afforded, or the vault refuses to sign──► an error; nothing was signed
       └──the caller goes away first──► forgotten; nothing was signed

While one SPEND is undecided, orders collect; the next SPEND carries as many of them as fit.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, cast

import trio

from ainp2p.errors import Error, TimedOut
from ainp2p.ledger.rules.operations import Operation, Signer, parse, sign_operation
from ainp2p.ledger.wallets.spending import Plan, Wish
from ainp2p.ledger.wallets.submitting import Pending
from ainp2p.ledger.wallets.writing import Writer
from ainp2p.protocol.codec import encode

_BUSY = "the account or the committee is busy; nothing was signed for it"


class Approver(Protocol):
    """A signer that must agree to an operation's bytes before it signs their id: a vault's."""

    async def approve(self, raw: bytes) -> None:
        """Check and debit; raises `PolicyRefused`."""

    def withdraw(self, raw: bytes) -> None:
        """It will not be signed after all."""


class _Order:
    def __init__(self, wish: Wish, note: bytes | None) -> None:
        self.wish, self.note = wish, note
        self.placed = trio.Event()  # or refused
        self.pending: Pending | None = None
        self.place = 0
        self.callers = 0  # those who wait for it: several, if they gave the same note
        self.error: Error | None = None


class Orders:
    """The queue before one account's SPENDs.

    Attributes:
        notes: the caller's word → (operation, place) of what it named, for ever.
    """

    def __init__(
        self,
        account: bytes,
        writer: Writer,
        signer_for: Callable[[Operation], Signer],
        plan: Callable[[list[Wish]], Plan],
        know_the_time: Callable[[], Awaitable[None]],
        now_ms: Callable[[], int],
    ) -> None:
        """Prepare; nothing is signed before `run`.

        Args:
            plan: composes on the newest final state.
            know_the_time: awaited before each SPEND, which says what time it is.
        """
        self._account, self._writer, self._signer_for = account, writer, signer_for
        self._plan, self._know_the_time, self._now_ms = plan, know_the_time, now_ms
        self._orders: list[_Order] = []
        self._noted: dict[bytes, _Order] = {}  # by note, until it is placed or refused
        self._start: Callable[[], object] | None = None
        self._running = False
        self.notes: dict[bytes, tuple[bytes, int]] = {}

    def __len__(self) -> int:
        return len(self._orders)

    async def place(self, wish: Wish, note: bytes | None, deadline: float) -> tuple[Pending, int]:
        """Wait until a journalled SPEND carries this; returns it, and the place in it.

        Calls with the same note at the same time are one order: a note is never paid twice.

        Raises:
            InsufficientFunds, PolicyRefused, StorageError: nothing was sent.
            TimedOut: `deadline` (of trio's clock) came first; nothing was signed for this call.
        """
        order = self._ordered(wish, note)
        order.callers += 1
        try:
            with trio.move_on_at(deadline):
                await order.placed.wait()
        finally:
            order.callers -= 1
            if not order.callers and order in self._orders:  # nothing was signed for it, and nothing will be
                self._orders.remove(order)
                self._refuse(order, TimedOut(_BUSY))
        if order in self._orders:  # others wait for it longer
            raise TimedOut(_BUSY)
        await order.placed.wait()  # it is being signed just now: a moment, and we know
        if order.error is not None:
            raise order.error
        assert order.pending is not None
        return order.pending, order.place

    def _ordered(self, wish: Wish, note: bytes | None) -> _Order:
        """A new order, or the one that is under way under this note."""
        order = self._noted.get(note) if note is not None else None
        if order is None:
            order = _Order(wish, note)
            self._orders.append(order)
            if note is not None:
                self._noted[note] = order
            self._go()
        return order

    def named(self, note: bytes) -> tuple[bytes, int] | None:
        """The operation and the place that carry, or carried, what was ordered under this note."""
        return self.notes.get(note)

    def forget(self, operation: bytes) -> None:
        """An operation can never be final: what was named by it may be ordered again."""
        self.notes = {note: where for note, where in self.notes.items() if where[0] != operation}

    def begin(self, start: Callable[[], object]) -> None:
        """Have `start` called, which is to `run` in a task, whenever orders come and nobody runs."""
        self._start = start
        if self._orders:
            self._go()

    def stop(self) -> None:
        """Start nothing any more."""
        self._start = None

    def _go(self) -> None:
        if not self._running and self._start is not None:
            self._running = True
            self._start()

    async def run(self) -> None:
        """Turn orders into SPENDs, one after the other, until there are no more."""
        while self._orders:
            await self._know_the_time()
            await self._writer.free(self._account)
            taken, self._orders = self._orders, []
            pending = await self._spend_for(taken)
            if pending is not None:
                await pending.resolved.wait()
        self._running = False

    async def _spend_for(self, taken: list[_Order]) -> Pending | None:
        """Make the next SPEND for as many of these as fit; the rest goes back to the queue, or is refused."""
        plan = self._plan([order.wish for order in taken])
        placed = {taken[index]: place for index, place in plan.places.items()}
        pending: Pending | None = None
        try:
            if plan.operation is not None:
                pending = await self._sign(plan.operation, placed)
        except Error as exc:  # the vault refused, or the disk failed: nothing was sent
            if len(taken) > 1:  # whose fault is it? The first one tries alone
                self._orders = taken[1:] + self._orders
                return await self._spend_for(taken[:1])
            self._refuse(taken[0], exc)
            return None
        for index, error in plan.refused.items():
            self._refuse(taken[index], error)
        self._orders = [o for o in taken if o not in placed and not o.placed.is_set()] + self._orders
        for order, place in placed.items():
            order.pending, order.place = pending, place
            self._answer(order)
        return pending

    async def _sign(self, operation: Operation, placed: Mapping[_Order, int]) -> Pending:
        signer = self._signer_for(operation)
        if hasattr(signer, "approve"):
            approver = cast(Approver, signer)
            await approver.approve(encode(operation))
        pending = self._writer.register(parse(sign_operation(operation, signer)))
        notes = {order.note: place for order, place in placed.items() if order.note is not None}
        await self._writer.send(pending, notes, self._now_ms())
        self.notes |= {note: (pending.id, place) for note, place in notes.items()}
        return pending

    def _refuse(self, order: _Order, exc: Error) -> None:
        order.error = exc
        self._answer(order)

    def _answer(self, order: _Order) -> None:
        """Whoever waits for this order may go on; its note is free again, or stands in `notes`."""
        if order.note is not None:
            self._noted.pop(order.note, None)
        order.placed.set()
