"""The receipts that a wallet holds: the highest of each Lock, whole releases of k keys and their parts.

Whatever counts is durable before the call that brought it returns. What the disk gives back waits here until
its Lock is known again, with a certificate.
"""

from __future__ import annotations

from collections.abc import Callable

from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.receipts import ReceiptBook, Release, read_receipt
from ainp2p.ledger.rules.releases import Partial, ReleaseBook
from ainp2p.ledger.wallets.wallet_store import KeptReceipt, WalletStore


class Income:
    """What Locks owe, by receipts of one signature (`book`) or of k (`releases`)."""

    def __init__(self, network: bytes, store: WalletStore, note: Callable[[bytes], None]) -> None:
        """Prepare; `note` is told of each Lock for which something durable has come."""
        self._store, self._note = store, note
        self.book = ReceiptBook(network)
        self.releases = ReleaseBook(network)
        self._locks: dict[bytes, Lock] = {}  # those with parts of releases
        self._unplaced_receipts: dict[bytes, KeptReceipt] = {}  # their Lock is not known yet
        self._unplaced_parts: dict[bytes, list[Partial]] = {}

    def forget(self, lock: bytes) -> None:
        """A Lock has ended, and nobody looks at it any more."""
        self.book.forget(lock)
        self._locks.pop(lock, None)
        self._store.drop_receipt(lock)

    def restore(self) -> None:
        """Take up what the disk kept; nothing of it counts before its Lock is placed."""
        self._unplaced_receipts = self._store.receipts()
        self._unplaced_parts = self._store.release_parts()

    def place(self, lock: Lock) -> None:
        """A final Lock has this state."""
        if lock.threshold == 1 and len(lock.authority) == 1:
            self.book.watch(lock)
            kept = self._unplaced_receipts.pop(lock.id, None)
            if kept is not None:
                self.book.restore(kept.signed, verified=kept.was_verified(lock.authority[0]))
            return
        known = self._locks.get(lock.id)
        if known is not None and known.seq > lock.seq:
            return
        self._locks[lock.id] = lock
        for part in self._unplaced_parts.pop(lock.id, []):
            self.releases.add(lock, part)

    async def save(self) -> None:
        """Make durable what `book.accept` took; many at once cost one fsync."""
        unsaved = self.book.take_unsaved()
        for lock, best in unsaved:
            known = self.book.lock(lock)
            assert known is not None  # `accept` took a receipt for it
            self._store.put_receipt(lock, best, known.authority[0])
        await self._store.synced()
        for lock, _ in unsaved:
            self._note(lock)

    async def add_part(self, lock: Lock, part: Partial) -> Release | None:
        """Take in one verifier's signature; the highest release that is whole, if one is."""
        self.place(lock)
        whole = self.releases.add(lock, part)
        self._store.put_release_part(lock.id, part)
        await self._store.synced()
        self._note(lock.id)
        return whole

    def best(self, lock: bytes) -> Release | None:
        """The highest receipt for a Lock that can be settled, as its proof."""
        signed = self.book.highest(lock)
        return Release.of(signed) if signed is not None else self.releases.highest(lock)

    def unsettled(self, lock: bytes) -> int:
        """uain that the best receipt is worth beyond what is paid; 0 once the Lock has ended."""
        state = self._locks.get(lock)
        whole = self.releases.highest(lock)
        if state is None or whole is None:
            return self.book.unsettled(lock)
        return 0 if state.ended else max(0, read_receipt(whole.body).cumulative - state.paid)

    def locks(self) -> tuple[Lock, ...]:
        """All Locks that receipts can come for."""
        return (*self.book.locks(), *self._locks.values())

    def promised(self) -> dict[bytes, int]:
        """Lock → what the best receipt says in all."""
        return {lock.id: lock.paid + self.unsettled(lock.id) for lock in self.locks()}
