"""When a payee settles, and a payer takes back: decided by plain rules, done by one task of the wallet.

    receipts come in ──enough, or long enough──► SETTLE
    the margin before expiry begins ──► CLOSE (we are the closer), else SETTLE
    an own deposit has expired, and the margin after it is over ──► REFUND

Only the payee submits SETTLEs and CLOSEs, and a payer waits out the margin, so that no slot is contended as
long as both keep to it.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from ainp2p.errors import Error
from ainp2p.ledger.rules.locks import Lock, is_bond
from ainp2p.ledger.wallets.purse import Purse

if TYPE_CHECKING:
    from ainp2p.ledger.wallets.wallet import Wallet

SETTLE, CLOSE, REFUND = "settle", "close", "refund"
RETRY_AFTER_MS = 5_000  # after a failure; the journal re-sends what was signed in any case


@dataclass(frozen=True, slots=True)
class SettlePolicy:
    """When to settle. SETTLEs are prepaid by the payer, so they cost the payee nothing but traffic.

    Attributes:
        threshold: uain unsettled on one Lock at which it is settled at once.
        interval_ms: the oldest unsettled receipt waits no longer than this.
        refund: whether to take back own deposits that have expired.
        heartbeat: whether to say that the owner is alive, if the account has guardians.
        at_close_s: how long leaving the wallet may take to settle what is owed; 0 for not at all.
    """

    threshold: int = 100_000
    interval_ms: int = 60_000
    refund: bool = True
    at_close_s: float = 5.0
    heartbeat: bool = True


DEFAULT_POLICY = SettlePolicy()


@dataclass(frozen=True, slots=True)
class Due:
    """What is to be done about a Lock, and when (ms)."""

    at_ms: float
    what: str


def next_due(
    lock: Lock,
    unsettled: int,
    since_ms: int | None,
    policy: SettlePolicy,
    *,
    margin_ms: int,
    is_payer: bool,
    is_closer: bool,
) -> Due | None:
    """What this Lock needs next; None for nothing.

    Args:
        unsettled: uain that our best receipt is worth beyond what is paid; 0 where the Lock pays others.
        since_ms: since when something is unsettled.
        margin_ms: how long before expiry everything must be on the ledger.
    """
    if lock.ended or is_bond(lock):  # a bond is ended by a COMMITTEE alone
        return None
    dues: list[Due] = []
    if unsettled:
        can_settle = unsettled >= lock.step or lock.paid + unsettled == lock.deposit
        if can_settle and unsettled >= policy.threshold:
            dues.append(Due(-math.inf, SETTLE))
        if can_settle and since_ms is not None:
            dues.append(Due(since_ms + policy.interval_ms, SETTLE))
        if is_closer:
            dues.append(Due(lock.expiry - margin_ms, CLOSE))
        elif can_settle:
            dues.append(Due(lock.expiry - margin_ms, SETTLE))
    if is_payer and policy.refund:
        dues.append(Due(lock.expiry + margin_ms, REFUND))
    return min(dues, key=lambda due: due.at_ms, default=None)


class Settler:
    """Does what is due, one operation per Lock at a time."""

    def __init__(self, wallet: Wallet, purse: Purse, policy: SettlePolicy) -> None:
        self._wallet, self._purse, self._policy = wallet, purse, policy
        self._since: dict[bytes, int] = {}  # Lock → since when something is unsettled
        self._not_before: dict[bytes, int] = {}  # after a failure
        self._busy: set[bytes] = set()
        self._noted: set[bytes] = set()
        self._dues: dict[bytes, Due] = {}
        self._heap: list[tuple[float, bytes]] = []  # when, Lock; stale where `_dues` says otherwise
        self._news = trio.Event()

    def note(self, lock: bytes) -> None:
        """A Lock has a new state or a new receipt."""
        unsettled = self._wallet.unsettled(lock)
        if not unsettled:
            self._since.pop(lock, None)
        elif lock not in self._since:
            self._since[lock] = self._wallet.now_ms()
        elif unsettled < self._policy.threshold:
            return  # one more receipt: nothing is due any sooner than it was
        self._noted.add(lock)
        self._news.set()

    async def run(self, nursery: trio.Nursery) -> None:
        """Settle, close and refund, each by a task of this nursery, until cancelled."""
        while True:
            self._news = trio.Event()
            now = self._wallet.now_ms()
            self._look_at_noted()
            for id_, what in self._take_due(now):
                self._busy.add(id_)
                nursery.start_soon(self._do, id_, what)
            if not self._heap:  # nearly always, and a scope is 800 bytes of each idle wallet
                await self._news.wait()
                continue
            with trio.move_on_after((self._heap[0][0] - now) / 1000):
                await self._news.wait()

    def _look_at_noted(self) -> None:
        for id_ in sorted(self._noted):
            due = self._due(self._purse.locks[id_]) if id_ in self._purse.locks else None
            if due is None:
                self._dues.pop(id_, None)
                continue
            due = Due(max(due.at_ms, self._not_before.get(id_, -math.inf)), due.what)
            if self._dues.get(id_) != due:
                self._dues[id_] = due
                heapq.heappush(self._heap, (due.at_ms, id_))
        self._noted.clear()

    def _take_due(self, now_ms: int) -> list[tuple[bytes, str]]:
        taken = []
        while self._heap and self._heap[0][0] <= now_ms:
            at_ms, id_ = heapq.heappop(self._heap)
            due = self._dues.get(id_)
            if due is not None and due.at_ms == at_ms and id_ not in self._busy:  # else it has changed since
                del self._dues[id_]
                taken.append((id_, due.what))
        return taken

    async def settle_all(self) -> None:
        """Settle at once whatever can be; failures are left for later."""
        owed = [lock for lock in self._wallet.paying_locks() if self._can_settle(lock)]
        async with trio.open_nursery() as nursery:
            for lock in owed:
                nursery.start_soon(self._try, lock.id, SETTLE)

    def _can_settle(self, lock: Lock) -> bool:
        unsettled = self._wallet.unsettled(lock.id)
        return unsettled > 0 and (unsettled >= lock.step or lock.paid + unsettled == lock.deposit)

    def _due(self, lock: Lock) -> Due | None:
        life_ms = lock.expiry - self._purse.opened_ms.get(lock.id, lock.expiry)
        return next_due(
            lock,
            self._wallet.unsettled(lock.id) if self._pays_us(lock) else 0,
            self._since.get(lock.id),
            self._policy,
            margin_ms=self._wallet.parameters.margin(life_ms),
            is_payer=lock.payer == self._purse.id,
            is_closer=self._wallet.is_closer(lock),
        )

    def _pays_us(self, lock: Lock) -> bool:
        return self._wallet.is_closer(lock) or any(b.account == self._purse.id for b in lock.beneficiaries)

    async def _do(self, id_: bytes, what: str) -> None:
        try:
            await self._try(id_, what)
        finally:
            self._busy.discard(id_)
            self._since.pop(id_, None)
            self.note(id_)

    async def _try(self, id_: bytes, what: str) -> None:
        calls = {SETTLE: self._wallet.settle, CLOSE: self._wallet.close, REFUND: self._wallet.refund}
        try:
            await calls[what](id_)
            self._not_before.pop(id_, None)
        except Error:  # the caller of `settle` would see it; here it is tried again
            self._not_before[id_] = self._wallet.now_ms() + RETRY_AFTER_MS
