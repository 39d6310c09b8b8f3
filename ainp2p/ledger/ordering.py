"""What is wanted of the account, one SPEND at a time.

    ordered ──planned, signed──► placed in a SPEND ──► final
       ├──cannot be afforded, or the vault refuses to sign──► an error; nothing was signed
       └──the caller goes away first──► forgotten; nothing was signed

While one SPEND is undecided, orders collect; the next SPEND carries as many of them as fit.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from ainp2p.errors import Error, TimedOut
from ainp2p.ledger.operations import Operation, Signer, parse, sign_operation
from ainp2p.ledger.spending import Plan, Wish
from ainp2p.ledger.submitting import Pending
from ainp2p.ledger.writing import Writer


class _Order:
    def __init__(self, wish: Wish, note: bytes | None) -> None:
        self.wish, self.note = wish, note
        self.placed = trio.Event()  # or refused
        self.pending: Pending | None = None
        self.place = 0
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
        signer: Signer,
        plan: Callable[[list[Wish]], Plan],
        now_ms: Callable[[], int],
    ) -> None:
        """Prepare; nothing is signed before `run`. `plan` composes on the newest final state."""
        self._account, self._writer, self._signer = account, writer, signer
        self._plan, self._now_ms = plan, now_ms
        self._orders: list[_Order] = []
        self._news = trio.Event()
        self.notes: dict[bytes, tuple[bytes, int]] = {}

    def __len__(self) -> int:
        return len(self._orders)

    async def place(self, wish: Wish, note: bytes | None, deadline: float) -> tuple[Pending, int]:
        """Wait until a journalled SPEND carries this; returns it, and the place in it.

        Raises:
            InsufficientFunds, PolicyRefused, StorageError: nothing was sent.
            TimedOut: `deadline` (of trio's clock) came first; nothing was signed for this call.
        """
        order = _Order(wish, note)
        self._orders.append(order)
        self._news.set()
        try:
            with trio.move_on_at(deadline):
                await order.placed.wait()
        finally:
            if order in self._orders:  # nothing was signed for it, and nothing will be
                self._orders.remove(order)
        if order.error is not None:
            raise order.error
        if order.pending is None:
            raise TimedOut("the account is busy, or the committee silent: nothing was signed for this call")
        return order.pending, order.place

    def named(self, note: bytes) -> tuple[bytes, int] | None:
        """The operation and the place that carry, or carried, what was ordered under this note."""
        return self.notes.get(note)

    def forget(self, operation: bytes) -> None:
        """An operation can never be final: what was named by it may be ordered again."""
        self.notes = {note: where for note, where in self.notes.items() if where[0] != operation}

    async def run(self) -> None:
        """Turn orders into SPENDs, one after the other, until cancelled."""
        while True:
            await self._news.wait()
            self._news = trio.Event()
            while self._orders:
                await self._writer.free(self._account)
                try:
                    pending = await self._spend()
                except Error as exc:  # the vault refused to sign, or the disk failed: nothing was sent
                    for order in list(self._orders):
                        self._refuse(order, exc)
                    break
                if pending is not None:
                    await pending.resolved.wait()

    async def _spend(self) -> Pending | None:
        orders = list(self._orders)
        plan = self._plan([order.wish for order in orders])
        for index, error in plan.refused.items():
            self._refuse(orders[index], error)
        if plan.operation is None:
            return None
        placed = [orders[index] for index in plan.places]
        pending = self._sign(plan.operation)
        for order, place in zip(placed, plan.places.values(), strict=True):
            self._orders.remove(order)
            order.pending, order.place = pending, place
        notes = {order.note: order.place for order in placed if order.note is not None}
        self.notes |= {note: (pending.id, place) for note, place in notes.items()}
        try:
            await self._writer.send(pending, notes, self._now_ms())
        except Error as exc:
            for order in placed:
                order.error = exc
            raise
        finally:
            for order in placed:
                order.placed.set()
        return pending

    def _sign(self, operation: Operation) -> Pending:
        return self._writer.register(parse(sign_operation(operation, self._signer)))

    def _refuse(self, order: _Order, exc: Error) -> None:
        self._orders.remove(order)
        order.error = exc
        order.placed.set()
