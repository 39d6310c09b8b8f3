"""One Lock of ours at one seller: what came over it, what is signed for, and who waits for what.

Any number of parallel jobs share a Lock, and its one counter. The streams of those jobs hand their chunks
to `receive`; what is next in the Lock's order reaches its job's reader. Receipts come from the vault.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from ainp2p.agents.vault import Vault
from ainp2p.ledger.locks import Lock
from ainp2p.protocol.buyer_meter import BuyerMeter
from ainp2p.protocol.codec import encode
from ainp2p.protocol.context import Context
from ainp2p.protocol.delivery import Position, Terms
from ainp2p.protocol.messages import PROTOCOL, Chunk, Finished, ReceiptNotice
from ainp2p.protocol.network import Network, PeerId


class Deposit:
    """A Lock in use; what open jobs may still spend of it is promised to nobody else."""

    def __init__(self, network: Network, vault: Vault, lock: Lock, seller: PeerId) -> None:
        self.lock, self.seller = lock, seller
        self.meter = BuyerMeter(lock.id, lock.deposit)
        self._network, self._vault, self._context = network, vault, network.context
        self._deliver: dict[bytes, Callable[[Chunk], None]] = {}
        self._budgets: dict[bytes, int] = {}
        self._signed: dict[bytes, int] = {}  # uain signed for each open job
        self._sending = trio.Lock()  # receipts leave in the order in which they were signed
        self._came = trio.Event()  # set at each chunk
        self.spoilt = False  # the seller broke the protocol here: no new job uses this Lock

    @property
    def context(self) -> Context:
        """Clock and randomness."""
        return self._context

    @property
    def is_new(self) -> bool:
        """Whether nothing has come over it yet."""
        return self.meter.position.n == 0

    @property
    def free(self) -> int:
        """uain that a new job may use."""
        claimed = sum(budget - self.amount(job) for job, budget in self._budgets.items())
        return self.lock.deposit - self.meter.position.cumulative - claimed

    def usable(self, budget: int, margin_ms: int) -> bool:
        """Whether a job of this budget fits, and the Lock lives long enough for it."""
        lives = self.lock.expiry - self._context.now_ms() > margin_ms
        return not self.spoilt and lives and self.free >= budget

    def amount(self, job: bytes) -> int:
        """uain due for an open job so far."""
        return self.meter.tab(job).amount if job in self._deliver else 0

    def open_job(self, terms: Terms, deliver: Callable[[Chunk], None]) -> None:
        """Begin a job; its chunks are given to `deliver` in the Lock's order."""
        self.meter.open_job(terms, self._context.now_ms())
        self._deliver[terms.job] = deliver
        self._budgets[terms.job] = terms.budget
        self._signed[terms.job] = 0

    def close_job(self, job: bytes) -> None:
        """End a job here; what it owes stays due on the Lock."""
        self._budgets.pop(job, None)
        self._signed.pop(job, None)
        if self._deliver.pop(job, None) is not None:
            self.meter.forget(job)

    async def receive(self, chunk: Chunk) -> None:
        """Take a chunk in from any stream, and pay what is due.

        Raises:
            RemoteError: the seller broke the protocol or overcharged; nothing of it was counted.
        """
        ready_now = self.meter.receive(chunk, self._context.now_ms())
        self._came.set()
        self._came = trio.Event()
        for ready in ready_now:
            deliver = self._deliver.get(ready.job)
            if deliver is not None:
                deliver(ready)
        await self.pay()

    async def finished(self, message: Finished) -> None:
        """Take a job's last word in, wait for what other streams still bring before it, and pay."""
        if not self.meter.finished(message):
            while self.meter.tab(message.job).finish is None:
                await self._came.wait()
        await self.pay(now=True)

    def taken(self, job: bytes, weight: int) -> bool:
        """The reader went on; True: it is time to `tell` the seller."""
        return job in self._deliver and self.meter.taken(job, weight)

    async def tell(self) -> None:
        """Tell the seller how far the readers are, so that it goes on."""
        await self._send(None)

    async def pay(self, *, now: bool = False) -> None:
        """Sign what is due (all that came, if `now`) and send the receipt."""
        position = self.meter.due(now=now)
        if position is None:
            return
        before = self.meter.signed
        shares = self._shares(position.cumulative - before.cumulative)
        signed = self._vault.sign_shared_receipt(
            shares, self.lock.id, position.units - before.units, position.context
        )
        for job, amount in shares:
            self._signed[job] += amount
        self.meter.signed_for(position)
        await self._send(encode(signed))

    async def resend(self) -> None:
        """After a reconnect: the last receipt may have been lost."""
        last = self._vault.last_receipt(self.lock.id)
        await self._send(encode(last) if last is not None else None)

    def units(self, job: bytes) -> int:
        """Units of an open job that came so far."""
        return self.meter.tab(job).units if job in self._deliver else 0

    def signed(self, job: bytes) -> int:
        """uain signed for a job so far."""
        return self._signed.get(job, 0)

    @property
    def last_signed(self) -> Position:
        """What the last receipt covers."""
        return self.meter.signed

    def _shares(self, total: int) -> list[tuple[bytes, int]]:
        """Which job pays how much of a receipt: each what it owes beyond what was signed for it."""
        shares = []
        for job in self._deliver:
            owed = min(total, self.meter.tab(job).amount - self._signed[job])
            if owed > 0:
                shares.append((job, owed))
                total -= owed
        return shares

    async def _send(self, receipt: bytes | None) -> None:
        async with self._sending:
            notice = ReceiptNotice(self.lock.id, receipt or b"", self.meter.progress())
            await self._network.send(self.seller, PROTOCOL, encode(notice))
