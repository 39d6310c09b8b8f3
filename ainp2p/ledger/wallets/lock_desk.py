"""Writing on Locks: SETTLE, CLOSE and REFUND, from the decision what to write to its certificate.

Anybody may write them: the proof is a receipt, not a key of ours. One at a time on each Lock.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import trio

from ainp2p.errors import Error, NotFinal
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.operations import SignedOperation, parse
from ainp2p.ledger.wallets.income import Income
from ainp2p.ledger.wallets.lock_writing import next_close, next_refund, next_settle
from ainp2p.ledger.wallets.wallet_keys import KeyRing
from ainp2p.ledger.wallets.wallet_views import LockState
from ainp2p.ledger.wallets.writing import Writer


class LockDesk:
    """Writes on any Lock that validators can prove."""

    def __init__(
        self,
        network: bytes,
        writer: Writer,
        income: Income,
        keys: KeyRing,
        look_up: Callable[[bytes], Awaitable[LockState]],
        now_ms: Callable[[], int],
    ) -> None:
        """Prepare; `look_up` gives a Lock's newest proven state."""
        self._network, self._writer, self._income = network, writer, income
        self._keys, self._look_up, self._now_ms = keys, look_up, now_ms

    async def settle(self, lock: bytes, timeout_s: float) -> LockState:
        """As `Wallet.settle`."""
        return await self._write(
            lock, lambda state: next_settle(state, self._income.best(state.id)), timeout_s
        )

    async def close(self, lock: bytes, timeout_s: float) -> LockState:
        """As `Wallet.close`."""

        def make(state: Lock) -> SignedOperation | None:
            best = self._income.best(state.id)
            signer = self._keys.get(state.closer) or self._keys.first
            return next_close(self._network, state, best, signer, self._now_ms())

        return await self._write(lock, make, timeout_s)

    async def refund(self, lock: bytes, timeout_s: float) -> LockState:
        """As `Wallet.refund`."""
        return await self._write(
            lock, lambda state: next_refund(self._network, state, self._now_ms()), timeout_s
        )

    async def _write(
        self, id_: bytes, make: Callable[[Lock], SignedOperation | None], timeout_s: float
    ) -> LockState:
        deadline = trio.current_time() + timeout_s
        await self._look_up(id_)
        with trio.move_on_at(deadline):
            await self._writer.free(id_)
        if self._writer.pending_on(id_) is not None:
            raise NotFinal("an earlier operation on this Lock is not decided; it goes on by itself")
        state = await self._look_up(id_)
        if self._writer.pending_on(id_) is not None:
            raise NotFinal("another operation of ours on this Lock was faster; ask again")
        self._income.place(state.lock)
        signed = make(state.lock)
        if signed is None:
            return state
        pending = self._writer.register(parse(signed))
        await self._writer.send(pending, {}, self._now_ms())
        await self._writer.final(pending, deadline)
        state = await self._look_up(id_)
        self._income.place(state.lock)  # one that does not concern us is told by nobody else
        return state


async def each_lock(ids: Iterable[bytes], do: Callable[[bytes], Awaitable[LockState]]) -> list[LockState]:
    """Do the same to several Locks at once; their states, by id.

    Raises:
        Error: the first that one of them raised, once all of them were tried.
    """
    done: list[LockState] = []
    problems: list[Error] = []

    async def one(id_: bytes) -> None:
        try:
            done.append(await do(id_))
        except Error as exc:
            problems.append(exc)

    async with trio.open_nursery() as nursery:
        for id_ in sorted(ids):
            nursery.start_soon(one, id_)
    if problems:
        raise problems[0]
    return sorted(done, key=lambda state: state.id)
