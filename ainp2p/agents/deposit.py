"""One Lock of ours at one seller: what came over it, what is signed for, and who waits for what.

Any number of parallel jobs share a Lock, and its one counter. The streams of those jobs hand their chunks
to `receive`; what is next in the Lock's order reaches its job's reader. Receipts come from the vault.

    claimed ─▶ job open ─▶ chunks, receipts … ─▶ the seller's last word ─▶ job closed, claim released
                   └── closed without it: what the seller has sent may be lost, so the Lock is *spoilt*
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import trio

from ainp2p.agents.vault import Vault
from ainp2p.agents.waiting import Bell, Turn
from ainp2p.errors import Error, InvalidReceipt, NetworkError, Refused, TimedOut
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.receipts import Receipt, SignedReceipt, read_receipt
from ainp2p.protocol.buyer_meter import BuyerMeter
from ainp2p.protocol.codec import encode
from ainp2p.protocol.delivery import Position, Terms
from ainp2p.protocol.messages import JOBS_PER_NOTICE_MAX, PROTOCOL, Chunk, Finished, ReceiptNotice
from ainp2p.protocol.network import Network, PeerId

CONFIRM_TIMEOUT_S = 60.0  # how long a seller that has gone is looked for, to be given its last receipt
CONFIRM_PAUSE_S = 2.0
LEAVE_TIMEOUT_S = 3.0  # for the same, when we go ourselves
CONFIRM_AFTER_S = 120.0  # after a job its last receipt is confirmed; sooner where a connection is lost
LAST_CHUNKS_TIMEOUT_S = 30.0  # after a job's last word, for chunks before it that other streams bring

OnReceipt = Callable[[Receipt, Lock], object]
"""Told of each receipt that was signed, with its Lock: for those who show or record what is paid."""


@dataclass(slots=True)
class _Open:
    """A job that is paid from this Lock."""

    deliver: Callable[[Chunk], None]
    reservation: bytes  # its name in the vault
    signed: int = 0  # uain
    ended: bool = False  # its last word has come


class Deposit:
    """A Lock in use; what open jobs may still spend of it is promised to nobody else."""

    def __init__(
        self,
        network: Network,
        vault: Vault,
        lock: Lock,
        seller: PeerId,
        nursery: trio.Nursery,
        on_receipt: OnReceipt | None = None,
    ) -> None:
        """`nursery`: for what goes on after a job."""
        self.lock, self.seller = lock, seller
        self._nursery, self._on_receipt = nursery, on_receipt
        self._confirmed: SignedReceipt | None = None  # the seller has said that it holds it
        self._confirming = self._telling = False
        self._hurry = trio.Event()  # the last receipt may be lost: do not wait to confirm it
        self.meter = BuyerMeter(lock.id, lock.deposit)
        self.spoilt = False  # chunks may be lost, or the seller cheated: no new job uses this Lock
        self._network, self._vault, self._context = network, vault, network.context
        self._jobs: dict[bytes, _Open] = {}
        self._claimed = 0  # uain: budgets of jobs that use it, open or about to be
        self._claims = 0
        self._sending = Turn()  # receipts leave in the order in which they were signed
        self._sent: SignedReceipt | None = None
        self._untold = False  # a notice may be lost: tell everything again
        self._forgotten = False
        self._came = Bell()  # rung at each chunk, when a job is closed, and when the Lock is spoilt

    # --- who may use it ----------------------------------------------------------------------------

    @property
    def is_new(self) -> bool:
        """Whether nothing has come over it yet."""
        return self.meter.position.n == 0

    @property
    def is_idle(self) -> bool:
        """Whether no job uses it."""
        return not self._claims

    @property
    def is_over(self) -> bool:
        """Whether the Lock's time has passed."""
        return self.lock.expiry <= self._context.now_ms()

    @property
    def free(self) -> int:
        """uain that a new job may use."""
        used = sum(self.meter.tab(job).amount for job in self._jobs)
        return self.lock.deposit - self.meter.position.cumulative - (self._claimed - used)

    def usable(self, budget: int, margin_ms: int) -> bool:
        """Whether a job of this budget fits, and the Lock lives long enough for it."""
        lives = self.lock.expiry - self._context.now_ms() > margin_ms
        room = self._claims < JOBS_PER_NOTICE_MAX
        return not self.spoilt and lives and room and self.free >= budget

    def claim(self, budget: int) -> None:
        """Keep `budget` uain for a job that is about to be awarded."""
        self._claimed += budget
        self._claims += 1

    def release(self, budget: int) -> None:
        """The job of a claim is over; what it owes stays due."""
        self._claimed -= budget
        self._claims -= 1

    def spoil(self) -> None:
        """No new job uses this Lock, and jobs that wait for what is lost are told."""
        self.spoilt = True
        self._came.ring()

    # --- one job -----------------------------------------------------------------------------------

    def open_job(self, terms: Terms, reservation: bytes, deliver: Callable[[Chunk], None]) -> None:
        """Begin a job; its chunks are given to `deliver` in the Lock's order."""
        self.meter.open_job(terms, self._context.now_ms())
        self._jobs[terms.job] = _Open(deliver, reservation)

    def close_job(self, job: bytes, *, pay: bool = True) -> tuple[int, int]:
        """Sign for what came (unless `pay` is false), and end a job here.

        Returns its units, and the uain signed for them. What stays unsigned spoils the Lock: a receipt for
        anything later would cover it as well.
        """
        if job not in self._jobs:
            return 0, 0
        if pay:
            try:
                self.sign(now=True)
            except Error:  # the vault signs no more; whoever asked it first was told why
                self.spoil()
        elif self.meter.due(now=True) is not None:
            self.spoil()
        tab, signed = self.meter.tab(job), self._jobs.pop(job).signed
        self._came.ring()  # what others wait for is not brought by this one any more
        self.meter.forget(job)
        return tab.units, signed

    def units(self, job: bytes) -> int:
        """Units of an open job that came so far."""
        return self.meter.tab(job).units if job in self._jobs else 0

    def signed(self, job: bytes) -> int:
        """uain signed for an open job so far."""
        return self._jobs[job].signed if job in self._jobs else 0

    # --- what comes --------------------------------------------------------------------------------

    async def receive(self, chunk: Chunk) -> None:
        """Take a chunk in from any stream, and pay what is due.

        Raises:
            RemoteError: the seller broke the protocol or overcharged; nothing of it was counted.
            NetworkError: the receipt could not be sent; `resend` it once the seller is back.
        """
        ready_now = self.meter.receive(chunk, self._context.now_ms())
        self._came.ring()
        for ready in ready_now:
            if ready.job in self._jobs:
                self._jobs[ready.job].deliver(ready)
        self.check()
        if self.sign():
            await self._send()

    async def finished(self, message: Finished) -> None:
        """Take a job's last word in, wait for what other streams still bring before it, and pay.

        Raises:
            TimedOut: chunks that it counts do not come.
            Refused: ``lock``, as `check`.
            RemoteError: it contradicts what was delivered.
        """
        if message.job in self._jobs:
            self._jobs[message.job].ended = True
        if not self.meter.finished(message):
            with trio.move_on_after(LAST_CHUNKS_TIMEOUT_S):
                while self.meter.tab(message.job).finish is None:
                    if all(job.ended for job in self._jobs.values()):
                        self.check()  # else one of them may bring it
                    await self._came.wait()
            if self.meter.tab(message.job).finish is None:
                raise TimedOut("the seller says that it delivered chunks which never came")
        self.sign(now=True)
        await self._send()

    def check(self) -> None:
        """Raise if no job can go on here.

        Raises:
            Refused: ``lock``: what a job that was given up should have brought is lost, and what came after
                it cannot be put in its place.
        """
        if self.spoilt and self.meter.has_gap:
            raise Refused("lock", "a part of another job on this Lock is lost")

    # --- what goes ---------------------------------------------------------------------------------

    def sign(self, *, now: bool = False) -> bool:
        """Sign for what is due (all that came, if `now`); True: there is a new receipt to send.

        Raises:
            PolicyRefused: the vault does not.
            InvalidReceipt: rule ``"unsigned"``: it did not sign for an earlier job on this Lock.
        """
        position = self.meter.due(now=now)
        if position is None:
            return False
        before = self.meter.signed
        total = position.cumulative - before.cumulative
        shares = self._shares(total)
        if sum(shares.values()) != total:  # a receipt for less would pay for nothing
            raise InvalidReceipt("unsigned", "a job before could not be paid: this Lock is used no more")
        asked = [(self._jobs[job].reservation, amount) for job, amount in shares.items()]
        units = position.units - before.units
        signed = self._vault.sign_shared_receipt(asked, self.lock.id, units, position.context)
        for job, amount in shares.items():
            self._jobs[job].signed += amount
        self.meter.signed_for(position)
        if self._on_receipt is not None:
            self._on_receipt(read_receipt(signed.body), self.lock)
        return True

    def taken(self, job: bytes, weight: int) -> bool:
        """The reader went on; True: it is time to `tell` the seller."""
        return job in self._jobs and self.meter.taken(job, weight)

    async def tell(self) -> None:
        """Tell the seller how far the readers are, so that it goes on."""
        await self._send()

    async def resend(self) -> None:
        """After a reconnect, or in doubt: the last notices may have been lost."""
        self._sent, self._untold = None, True
        await self._send()

    def job_ended(self) -> None:
        """See to it that the seller gets the last receipt; no stream tells its fate.

        While the connection on which it was sent lasts, it has most likely arrived: there is time to confirm
        those of several jobs at once.
        """
        if not self._confirming and self.last_receipt != self._confirmed:
            self._confirming = True
            self._nursery.start_soon(self._confirm)
        if self.seller not in self._network.peers():
            self._hurry.set()

    def link_changed(self) -> None:
        """The connection to the seller was lost, or is another one: what went last may be lost with it."""
        self._hurry.set()

    def forget(self) -> None:
        """The Lock has ended: nobody needs a receipt of it, also not those who are about to send one."""
        self._forgotten = True
        self._vault.forget_lock(self.lock.id)

    async def leave(self) -> None:
        """We go: what was sent last is lost with the connection, unless the seller says that it holds it."""
        with trio.move_on_after(LEAVE_TIMEOUT_S), suppress(NetworkError):
            await self._have_confirmed()

    async def _confirm(self) -> None:
        try:
            with trio.move_on_after(CONFIRM_AFTER_S):
                await self._hurry.wait()
            self._hurry = trio.Event()
            with trio.move_on_after(CONFIRM_TIMEOUT_S):
                while True:
                    try:
                        return await self._have_confirmed()
                    except NetworkError:
                        await trio.sleep(CONFIRM_PAUSE_S)
        finally:
            self._confirming = False

    async def _have_confirmed(self) -> None:
        """Have the seller say that it holds the last receipt; meanwhile there may be another."""
        while (receipt := self.last_receipt) is not None and receipt != self._confirmed:
            notice = ReceiptNotice(self.lock.id, encode(receipt), ())
            try:
                await self._network.request(self.seller, PROTOCOL, encode(notice))
            except NetworkError:
                raise
            except Error:
                return  # the seller does not want it
            self._confirmed = receipt

    def tell_soon(self) -> None:
        """As `tell`, by a task of its own, if none is about to do it."""
        if not self._telling:
            self._telling = True
            self._nursery.start_soon(self._tell)

    async def _tell(self) -> None:
        self._telling = False
        with suppress(Error):  # the stream notices as well; whoever resumes tells everything again
            await self._send()

    @property
    def has_news(self) -> bool:
        """Whether `tell` would send something."""
        return self._untold or self.last_receipt != self._sent or self.meter.has_progress

    @property
    def last_signed(self) -> Position:
        """What the last receipt covers."""
        return self.meter.signed

    @property
    def last_receipt(self) -> SignedReceipt | None:
        """The last receipt that was signed; None if there is none, or nobody can settle it any more."""
        return None if self._forgotten else self._vault.last_receipt(self.lock.id)

    def _shares(self, total: int) -> dict[bytes, int]:
        """Which job pays how much of a receipt: each what it owes beyond what was signed for it."""
        shares = {}
        for job, bought in self._jobs.items():
            owed = min(total, self.meter.tab(job).amount - bought.signed)
            if owed > 0:
                shares[job] = owed
                total -= owed
        return shares

    async def _send(self) -> None:
        """Send what is new, in one notice; whoever waits for the turn finds its own news sent already."""
        async with self._sending:
            receipt = self.last_receipt
            news = receipt if receipt != self._sent else None
            if self._untold:
                taken = tuple(self.meter.all_progress(job) for job in self._jobs)
            else:
                taken = self.meter.progress()
            if news is None and not taken:
                return
            self._untold = True  # until it has been handed over
            notice = ReceiptNotice(self.lock.id, encode(news) if news else b"", taken)
            await self._network.send(self.seller, PROTOCOL, encode(notice))
            self._untold = False
            self._sent = receipt
