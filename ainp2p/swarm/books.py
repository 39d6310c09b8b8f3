"""What traders and the auditor do with a wallet, and tell the view of it: balances, settling, closing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from ainp2p.errors import Error, NotFinal, TimedOut
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.operations import Spend
from ainp2p.ledger.wallets.wallet import LockState, Wallet
from ainp2p.protocol.identity import id_text
from ainp2p.swarm import events as ev
from ainp2p.swarm.line import Line

WATCH_S = 0.5  # between two looks at the balance
SETTLE_S = 3.0  # between two rounds of settling
RETRY_S = 0.25
HISTORY = 20  # newest operations looked at each time


class Books:
    """One wallet's dealings, as the view hears of them."""

    def __init__(self, name: str, wallet: Wallet, line: Line) -> None:
        self._name, self._wallet, self._line = name, wallet, line
        self._told: ev.BalanceKnown | None = None
        self._seen: set[bytes] = set()

    async def watch_forever(self) -> None:
        """Tell what changes: the balance, and what of our own became final."""
        while True:
            await self.tell()
            await trio.sleep(WATCH_S)

    async def tell(self) -> None:
        """Tell the balance and new final SPENDs, if there is something new."""
        try:
            held = await self._wallet.balance()
            await self._tell_locks()
            recorded = await self._wallet.history(HISTORY)
        except Error:  # nobody answers now: the next look may find somebody
            return
        event = ev.BalanceKnown(
            at_ms=0, name=self._name, available=held.available, locked=held.locked, owed=held.owed
        )
        if event != self._told:
            self._told = event
            self._line.say(
                ev.BalanceKnown(
                    at_ms=self._now_ms(),
                    name=self._name,
                    available=held.available,
                    locked=held.locked,
                    owed=held.owed,
                )
            )
        for entry in reversed(recorded):
            operation = entry.parsed.operation
            ours = operation.object == self._wallet.account_id and isinstance(operation.body, Spend)
            if ours and entry.certificate and entry.parsed.id not in self._seen:
                self._seen.add(entry.parsed.id)
                took_ms = max(entry.at_ms - (operation.timestamp or entry.at_ms), 0)
                self._tell_final(entry.parsed.id, "spend", entry.spent, took_ms * 1000)

    async def _tell_locks(self) -> None:
        """Locks in which we pay: should the payee die before it hears of one, others can tell its heirs."""
        for state in await self._wallet.locks():
            lock = state.lock
            if lock.payer == self._wallet.account_id and lock.id not in self._seen:
                self._seen.add(lock.id)
                self._line.say(
                    ev.LockOpened(
                        at_ms=self._now_ms(),
                        lock=id_text(lock.id),
                        buyer=self._name,
                        payee=id_text(lock.beneficiaries[0].account),
                        deposit=lock.deposit,
                    )
                )

    async def settle_forever(self) -> None:
        """Turn receipts into credits while work goes on, not only at the end."""
        while True:
            await trio.sleep(SETTLE_S)
            for lock in self._wallet.book.locks():
                if not lock.ended and self._wallet.book.unsettled(lock.id) >= lock.step:
                    try:
                        await self._timed("settle", lock, self._wallet.settle)
                    except Error:  # closed meanwhile, or not final in time: it goes on by itself
                        continue

    async def close_all(self) -> list[LockState]:
        """End every Lock whose closer we are, at its highest receipt; tries until it is cancelled."""
        ended: list[LockState] = []

        async def close(state: LockState) -> None:
            while True:
                try:
                    ended.append(await self._timed("close", state.lock, self._wallet.close))
                    return
                except (NotFinal, TimedOut):
                    await trio.sleep(RETRY_S)

        while True:
            try:
                await self._wallet.refresh()
                open_ = [state for state in await self._wallet.locks() if self._wallet.is_closer(state.lock)]
                break
            except TimedOut:
                await trio.sleep(RETRY_S)
        async with trio.open_nursery() as nursery:
            for state in open_:
                nursery.start_soon(close, state)
        await self.tell()
        return ended

    async def _timed(self, kind: str, lock: Lock, act: Callable[[bytes], Awaitable[LockState]]) -> LockState:
        began = trio.current_time()
        state = await act(lock.id)
        took_us = int((trio.current_time() - began) * 1e6)
        self._tell_final(state.lock.head, kind, state.lock.paid - lock.paid, took_us)
        self._line.say(ev.PhaseTimed(at_ms=self._now_ms(), task=self._name, phase="settle", took_us=took_us))
        return state

    def _tell_final(self, operation: bytes, kind: str, amount: int, took_us: int) -> None:
        self._line.say(
            ev.Finalised(
                at_ms=self._now_ms(),
                operation=id_text(operation),
                kind=kind,
                name=self._name,
                amount=amount,
                took_us=took_us,
            )
        )

    def _now_ms(self) -> int:
        return self._wallet.now_ms()
