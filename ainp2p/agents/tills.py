"""The Locks that pay us: one till each, and the receipts that come for it.

    award ─▶ `Tills.open` checks the Lock ─▶ a Till
    receipt ─▶ `Tills.book`: verified, durable, and only then counted by the till's meter

How much may be delivered is `seller_meter`'s matter, and turning receipts into money the wallet's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import trio

from ainp2p.agents.waiting import Bell, Turn
from ainp2p.errors import Error, InvalidReceipt, NotFinal, Refused, Unpaid
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.receipts import Receipt, SignedReceipt
from ainp2p.ledger.wallets.wallet import LockState, Wallet
from ainp2p.protocol.codec import decode
from ainp2p.protocol.messages import ReceiptNotice
from ainp2p.protocol.negotiation import Deal
from ainp2p.protocol.seller_meter import SellerMeter

PAYMENT_TIMEOUT_S = 30.0  # how long a seller waits for a receipt before it gives the job up
READER_TIMEOUT_S = 300.0  # the same for a buyer that has paid and does not read
LOCK_TRIES, LOCK_PAUSE_S = 4, 0.5  # a Lock that is final for its buyer may be news to our validators
TILLS_MAX = 1024  # idle ones are forgotten beyond it; their receipts stay in the wallet
KNOWN_MAX = 4096  # buyers remembered because they have paid


class Till:
    """One Lock's meter, its receipts on their way to the disk, and an alarm for whoever waits for it.

    Attributes:
        buyer: the agent id of whoever pays.
        jobs: ids of the sales that use it.
        is_default: a job on it ended since no receipt came, and none has come since.
    """

    def __init__(self, meter: SellerMeter, buyer: bytes) -> None:
        self.meter, self.buyer = meter, buyer
        self.jobs: set[bytes] = set()
        self.is_default = False
        self._waiting: list[Receipt] = []
        self._saving = Turn()
        self._changed = Bell()

    def notify(self) -> None:
        """A receipt, progress of a reader or a cancellation has come."""
        self._changed.ring()

    async def wait_for_credit(self, job: bytes, stopped: Callable[[], bool]) -> int:
        """How many units of a job may be delivered; waits until some may. 0: none ever, or it was stopped.

        Raises:
            Unpaid: no receipt came in PAYMENT_TIMEOUT_S.
            Refused: ``reader``: everything is paid, but nobody read on for READER_TIMEOUT_S.
        """
        meter, paid, since = self.meter, self.meter.paid, trio.current_time()
        while not (stopped() or meter.exhausted(job)):
            if allowed := meter.allowance(job):
                return allowed
            if meter.paid != paid:
                paid, since = meter.paid, trio.current_time()
            owes = meter.unpaid >= meter.window
            late_at = since + (PAYMENT_TIMEOUT_S if owes else READER_TIMEOUT_S)
            with trio.move_on_at(late_at):
                await self._changed.wait()
            if trio.current_time() < late_at or meter.paid != paid or meter.allowance(job):
                continue
            if owes:
                self.is_default = True
                raise Unpaid(f"{meter.unpaid} units are unpaid after {PAYMENT_TIMEOUT_S:g} s")
            raise Refused("reader", f"nobody read on for {READER_TIMEOUT_S:g} s")
        return 0

    async def save(self, wallet: Wallet, receipt: Receipt) -> None:
        """Make a receipt durable, many with one fsync, and only then count it as paid.

        Raises:
            Unpaid, RemoteError: it is not worth what was delivered up to there; the others count.
            StorageError: it may not survive a crash, and is not counted.
        """
        self._waiting.append(receipt)
        async with self._saving:
            if not self._waiting:
                return  # saved together with an earlier one
            batch, self._waiting = self._waiting, []
            try:
                await wallet.save_receipts()
            except BaseException:  # cancelled: whoever saves next counts them
                self._waiting = batch + self._waiting
                raise
            fault: Error | None = None
            for one in batch:
                try:
                    self.meter.accept(one.cumulative, one.units, one.context)
                    self.is_default = False
                except Error as exc:
                    fault = exc
        if fault is not None:
            raise fault


class Tills:
    """All Locks from which buyers pay us, as far as they are in use; the rest is the wallet's."""

    def __init__(self, wallet: Wallet, key: bytes) -> None:
        """`key`: ours, which closes the Locks that we accept."""
        self._wallet, self._key = wallet, key
        self._tills: OrderedDict[bytes, Till] = OrderedDict()
        self._known: OrderedDict[bytes, None] = OrderedDict()  # buyers that have paid before

    def __len__(self) -> int:
        return len(self._tills)

    @property
    def unpaid(self) -> int:
        """Units delivered and not paid, on all Locks with jobs that are not forgotten."""
        return sum(till.meter.unpaid for till in self._tills.values() if till.jobs)

    async def open(self, deal: Deal) -> Till:
        """The till of the Lock that an award names.

        Raises:
            InvalidReceipt: its receipts would not be worth what they say.
            NotFinal: nobody knows such a Lock.
        """
        id_ = deal.award.lock
        state = await self._look_up(id_)
        self._check(state.lock, deal)
        till = self._tills.get(id_)
        if till is None:
            if state.lock.paid or self._wallet.book.highest(id_) is not None:
                raise InvalidReceipt(
                    "lock", "what was delivered on it before is forgotten here: open another"
                )
            known = deal.award.buyer in self._known
            till = Till(SellerMeter(id_, state.lock.deposit, known=known), deal.award.buyer)
            self._tills[id_] = till
        elif till.is_default:  # each job on it would hold a slot until we have waited again
            raise InvalidReceipt("unpaid", "what was delivered on it is not paid: pay it, or open another")
        self._tills.move_to_end(id_)
        till.jobs.add(deal.job)
        self._forget_old()
        return till

    def distrust(self, till: Till) -> None:
        """Whoever did not pay begins again as a stranger."""
        self._known.pop(till.buyer, None)

    async def book(self, notice: ReceiptNotice) -> Till:
        """Take a receipt; it is durable when this returns.

        Raises:
            Refused: ``lock``: no job is paid from it here.
            InvalidReceipt, BadSignature, Malformed, Unpaid, RemoteError: it is worth nothing new.
        """
        till = self.till(notice.lock)
        signed = decode(notice.receipt, SignedReceipt)
        booked = self._wallet.book.accept(signed, self._wallet.now_ms())
        if booked.receipt.lock != notice.lock:
            raise InvalidReceipt("lock", "the notice names another Lock than its receipt")
        try:
            await till.save(self._wallet, booked.receipt)
        finally:
            till.notify()
        self._known[till.buyer] = None
        self._known.move_to_end(till.buyer)
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)
        return till

    def till(self, lock: bytes) -> Till:
        """The till of a Lock in use.

        Raises:
            Refused: ``lock``: there is none.
        """
        till = self._tills.get(lock)
        if till is None:
            raise Refused("lock", "no job is paid from this Lock here")
        return till

    async def _look_up(self, id_: bytes) -> LockState:
        for _ in range(LOCK_TRIES - 1):
            try:
                return await self._wallet.lock(id_)
            except NotFinal:
                await trio.sleep(LOCK_PAUSE_S)
        return await self._wallet.lock(id_)

    def _check(self, lock: Lock, deal: Deal) -> None:
        life = lock.expiry - self._wallet.now_ms()
        payees = {share.account for share in lock.beneficiaries}
        if lock.payer != deal.award.buyer or lock.authority != (deal.buyer_key,) or lock.threshold != 1:
            raise InvalidReceipt(
                "authority", "the Lock is not the buyer's, or another key signs its receipts"
            )
        if payees != {self._wallet.account_id} or lock.closer != self._key:
            raise InvalidReceipt("payee", "the Lock does not pay us alone, or we cannot close it")
        if lock.ended or life < 2 * self._wallet.parameters.margin(life):
            raise InvalidReceipt("expired", "the Lock has ended, or ends too soon to settle in time")

    def _forget_old(self) -> None:
        if len(self._tills) <= TILLS_MAX:
            return
        for id_, till in list(self._tills.items()):
            if len(self._tills) <= TILLS_MAX:
                return
            if not till.jobs:
                del self._tills[id_]
