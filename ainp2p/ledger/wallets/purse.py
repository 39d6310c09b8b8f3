"""What one account has, as far as its wallet knows: account, credits, the Locks that concern it. No I/O.

Only final operations change it, each once, in whatever order they are heard of; what cannot be placed (an
earlier one is missing) is named as a gap, to be closed from a validator's proof. A Purse believes what it is
given: certificates are checked by whoever gives.

    seen for the first time ──apply──► known, maybe with a Gap ──adopt──► known
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ainp2p.ledger.rules.accounts import Account, after_recover, after_spend, after_void, unopened_account
from ainp2p.ledger.rules.amounts import share
from ainp2p.ledger.rules.genesis import Genesis, Parameters
from ainp2p.ledger.rules.locks import (
    Lock,
    Payment,
    after_bond,
    lock_step,
    open_lock,
)
from ainp2p.ledger.rules.operations import (
    EndEpoch,
    Inception,
    NextCommittee,
    ParsedOperation,
    Recover,
    Spend,
    Void,
    credit_id,
)

REMEMBERED_MAX = 16_384  # operations, and consumed credits: what is older is known by its time alone
ENDED_MAX = 1_024  # Locks that have ended and are still at hand
CONSUMED_MARGIN_MS = 120_000  # a credit's maker may say so much more than the SPEND that consumes it


@dataclass(frozen=True, slots=True)
class Balance:
    """Money of one account, in uain.

    Attributes:
        available: can be spent now.
        locked: in own open Locks, not yet credited to anybody.
        owed: promised to us by receipts and not settled yet.
        total: all three.
    """

    available: int
    locked: int
    owed: int

    @property
    def total(self) -> int:
        """Everything together."""
        return self.available + self.locked + self.owed

    def __repr__(self) -> str:
        parts = ("available", "locked", "owed", "total")
        return f"Balance({', '.join(f'{part}={getattr(self, part)}' for part in parts)})"


@dataclass(frozen=True, slots=True)
class Effect:
    """What one final operation did to the account.

    Attributes:
        received: uain credited to it.
        spent: uain that left its balance: outs, deposits and fee.
        locks: Locks that were opened, paid or ended, as they are after it.
        gap: an object (the account or a Lock) whose earlier operations are missing here.
    """

    received: int = 0
    spent: int = 0
    locks: tuple[Lock, ...] = ()
    gap: bytes | None = None


class Purse:
    """One account's part of the ledger.

    Attributes:
        account: its newest known state.
        credits: unconsumed final credits: id → uain.
        locks: Locks in which it pays, is paid, or whose closer is its key, ended ones included.
        opened_ms: Lock → timestamp of the SPEND that opened it.
        keys: public keys of ours; a Lock whose closer is one of them concerns us.
        parameters_of: those of the epoch that a SPEND names; the genesis' unless one is given.
        horizon_ms: operations up to this time may have been applied and forgotten: they bring nothing by
            themselves, validators are asked.
        newest_ms: the latest time of what was applied.
        is_whole: every SPEND of the account was seen. If not, one of those may have consumed a credit that we
            are told of: such credits are taken from validators' lists alone.
    """

    def __init__(self, genesis: Genesis, network: bytes, inception: Inception, key: bytes) -> None:
        self.account: Account = unopened_account(network, inception)
        self.credits: dict[bytes, int] = {}
        self.locks: dict[bytes, Lock] = {}
        self.opened_ms: dict[bytes, int] = {}
        self.is_whole = True
        self.keys = {key}
        self.parameters_of: Callable[[int], Parameters] = lambda epoch: genesis.parameters
        self._void_debt = genesis.parameters.void_debt
        self.horizon_ms, self.newest_ms = -1, 0
        self._applied: dict[bytes, int] = {}  # id → its time
        self._consumed: dict[bytes, int] = {}
        self._ended: dict[bytes, None] = {}
        self._left: list[bytes] = []
        for index, grant in enumerate(genesis.grants):
            if unopened_account(network, grant.inception).id == self.id:
                self.credits[credit_id(network, index)] = grant.amount

    @property
    def id(self) -> bytes:
        """The account's id."""
        return self.account.id

    def has(self, operation: bytes) -> bool:
        """Whether this final operation was applied."""
        return operation in self._applied

    # --- learning ---------------------------------------------------------------------------------

    def apply(self, parsed: ParsedOperation) -> Effect:
        """Take in a final operation; a repeat has no effect."""
        if parsed.id in self._applied:
            return Effect()
        body = parsed.operation.body
        if isinstance(body, Recover | Void):
            effect = self._on_account(parsed, body)
        elif isinstance(body, NextCommittee):
            effect = self._on_bonds(parsed, body)
        elif isinstance(body, EndEpoch):
            effect = Effect()  # the committee's business: `following`
        else:
            effect = self._spend(parsed, body) if isinstance(body, Spend) else self._on_lock(parsed)
        if effect.gap is None or isinstance(body, Spend):
            at_ms = parsed.operation.timestamp or 0
            self._remember(self._applied, parsed.id, at_ms)
            self.newest_ms = max(self.newest_ms, at_ms)
        return effect

    def adopt_account(self, account: Account) -> bool:
        """Replace the account by a proven newer state; if True, its credits must be listed anew."""
        if account.seq <= self.account.seq:
            return False
        self.account, self.is_whole = account, False
        return True

    def adopt_lock(self, lock: Lock, opening: ParsedOperation) -> bool:
        """Take in a proven state of a Lock; True if it is news."""
        known = self.locks.get(lock.id)
        if known is not None and known.seq >= lock.seq:
            return False
        self.opened_ms[lock.id] = opening.operation.timestamp or 0
        self._put_lock(lock)
        return True

    def take_left(self) -> list[bytes]:
        """Locks that ended so long ago that they are not at hand any more, since the last call."""
        left, self._left = self._left, []
        return left

    def take_known(self, lock: Lock, opened_ms: int) -> None:
        """Take a Lock from a snapshot."""
        self.opened_ms[lock.id] = opened_ms
        self._put_lock(lock)

    def remember(self, operation: bytes, at_ms: int) -> None:
        """An operation is part of a snapshot that this purse was restored from."""
        self._remember(self._applied, operation, at_ms)

    def _remember(self, table: dict[bytes, int], id_: bytes, at_ms: int) -> None:
        table[id_] = at_ms
        if len(table) > REMEMBERED_MAX:
            oldest = next(iter(table))
            self.horizon_ms = max(self.horizon_ms, table.pop(oldest))

    def _is_recent(self, parsed: ParsedOperation) -> bool:
        """Whether it cannot have been applied and forgotten."""
        return (parsed.operation.timestamp or 0) > self.horizon_ms

    def _put_lock(self, lock: Lock) -> None:
        self.locks[lock.id] = lock
        if lock.ended:
            self._ended[lock.id] = None
            if len(self._ended) > ENDED_MAX:
                oldest = next(iter(self._ended))
                del self._ended[oldest], self.locks[oldest]
                self.opened_ms.pop(oldest, None)
                self._left.append(oldest)

    def add_credit(self, id_: bytes, amount: int) -> None:
        """Take in a proven credit, unless it is known to be consumed."""
        if id_ not in self._consumed:
            self.credits[id_] = amount

    def drop_credits(self, ids: set[bytes]) -> None:
        """Forget credits that validators no longer hold: an operation that we never saw consumed them."""
        for id_ in ids & self.credits.keys():
            del self.credits[id_]

    def concerns(self, lock: Lock) -> bool:
        """Whether the account pays, is paid, or closes."""
        return (
            lock.payer == self.id
            or lock.closer in self.keys
            or any(beneficiary.account == self.id for beneficiary in lock.beneficiaries)
        )

    def _spend(self, parsed: ParsedOperation, body: Spend) -> Effect:
        ours_next = parsed.operation.object == self.id and parsed.operation.seq > self.account.seq
        recent = ours_next or self._is_recent(parsed)
        spent, gap, is_news = 0, None, self.is_whole and recent
        if parsed.operation.object == self.id:
            spent = _cost(body)
            gap = self._own_spend(parsed, body)
            is_news |= self.account.head == parsed.id
        outs = [(i, out.account, out.amount) for i, out in enumerate(body.outs)]
        opened = []
        for index, terms in enumerate(body.locks):
            lock = open_lock(parsed.operation.object, parsed.id, index, terms)
            if self.concerns(lock) and not recent and lock.id not in self.locks:
                gap = gap or lock.id  # perhaps it has ended, and left
            elif self.concerns(lock):
                self.adopt_lock(lock, parsed)
                opened.append(self.locks[lock.id])
        if not is_news and any(account == self.id for _, account, _ in outs):
            received = sum(amount for _, account, amount in outs if account == self.id)
            return Effect(received, spent, tuple(opened), self.id)
        return Effect(self._receive(parsed.id, outs), spent, tuple(opened), gap)

    def _own_spend(self, parsed: ParsedOperation, body: Spend) -> bytes | None:
        operation, account = parsed.operation, self.account
        known = [self.credits.get(id_) for id_ in body.credits]
        for id_ in body.credits:
            self.credits.pop(id_, None)
            self._remember(self._consumed, id_, (operation.timestamp or 0) + CONSUMED_MARGIN_MS)
        if operation.seq <= account.seq:
            return None
        amounts = [amount for amount in known if amount is not None]
        if operation.previous != account.head or len(amounts) != len(known):
            return self.id
        parameters = self.parameters_of(body.epoch)
        self.account = after_spend(account, operation, body, sum(amounts), parameters, parsed.id)
        return None

    def _on_account(self, parsed: ParsedOperation, body: Recover | Void) -> Effect:
        """What guardians, or the committee, did to our account."""
        operation, account = parsed.operation, self.account
        if operation.object != self.id or operation.seq <= account.seq:
            return Effect()
        if operation.previous != account.head:
            return Effect(gap=self.id)
        if isinstance(body, Recover):
            self.account = after_recover(account, operation, body, 0, parsed.id)
        else:
            self.account = after_void(account, self._void_debt, parsed.id)
        return Effect()

    def _on_lock(self, parsed: ParsedOperation) -> Effect:
        lock = self.locks.get(parsed.operation.object)
        if lock is None:
            # A bounty that names us is not ours to know: its credit is learnt from validators' lists.
            named = getattr(parsed.operation.body, "context", b"") == self.id
            return Effect(gap=self.id if named else parsed.operation.object)
        if parsed.operation.seq <= lock.seq:
            return Effect()  # its credits were or will be proven one by one
        if parsed.operation.previous != lock.head:
            return Effect(gap=lock.id)
        after, payments = lock_step(lock, parsed)
        self._put_lock(after)
        return Effect(self._receive(parsed.id, payments), 0, (after,))

    def _on_bonds(self, parsed: ParsedOperation, body: NextCommittee) -> Effect:
        """What a COMMITTEE made of our bonds: the rest of it is followed elsewhere (`following`)."""
        ended, paid = [], []
        for index, id_ in enumerate(body.returned_bonds):
            if id_ in self.locks and self._is_recent(parsed):
                paid.append((index, self.locks[id_].payer, self.locks[id_].deposit))
        for id_ in (*body.burnt_bonds, *body.returned_bonds):
            lock = self.locks.get(id_)
            if lock is not None and not lock.ended:
                ended.append(after_bond(lock, parsed.id))
                self._put_lock(ended[-1])
        return Effect(self._receive(parsed.id, paid), 0, tuple(ended))

    def _receive(self, operation: bytes, payments: list[Payment]) -> int:
        received = 0
        for index, account, amount in payments:
            if account == self.id:
                self.add_credit(credit_id(operation, index), amount)
                received += amount
        return received

    # --- telling ----------------------------------------------------------------------------------

    def balance(self, pending: Spend | None, promised: Mapping[bytes, int]) -> Balance:
        """Where the account's money is.

        Args:
            pending: its own SPEND that is on its way, counted as if it were final.
            promised: Lock → the cumulative amount of the best receipt, for Locks that pay us.
        """
        held = self.account.balance + sum(self.credits.values())
        locked = sum(lock.held for lock in self.locks.values() if lock.payer == self.id)
        if pending is not None:
            held -= _cost(pending)
            locked += sum(terms.deposit for terms in pending.locks)
        owed = sum(
            self._owed(self.locks[id_], amount) for id_, amount in promised.items() if id_ in self.locks
        )
        return Balance(held, locked, owed)

    def _owed(self, lock: Lock, cumulative: int) -> int:
        if lock.ended or cumulative <= lock.paid:
            return 0
        parts_sum = sum(beneficiary.parts for beneficiary in lock.beneficiaries)
        return sum(
            share(cumulative, b.parts, parts_sum) - share(lock.paid, b.parts, parts_sum)
            for b in lock.beneficiaries
            if b.account == self.id
        )


def _cost(spend: Spend) -> int:
    return spend.fee + sum(out.amount for out in spend.outs) + sum(terms.deposit for terms in spend.locks)
