"""What an agent has promised on each of its Locks: one growing counter per Lock. A core without I/O.

    known ──crash while something was reserved for its payee──▶ unsure ──the payee's receipt──▶ known

An *unsure* Lock may bear higher receipts than are written down, and is paid from no more until its payee
shows the last one: going on below it would pay nothing, going on above it would be a gift. Budgets are
`ainp2p.agents.policy`'s matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ainp2p.errors import InvalidInput, InvalidReceipt
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.receipts import SIGN_RECEIPT, Payer, SignedReceipt, read_receipt
from ainp2p.protocol.identity import Key, verify


@dataclass(frozen=True, slots=True)
class LockRecord:
    """One Lock, as it is written down.

    Attributes:
        payees: the accounts that it pays, sorted.
        receipt: the last one that is known to be signed.
        unsure: uain that may have been signed beyond it before a crash; 0 when all is known.
    """

    lock: bytes
    payees: tuple[bytes, ...]
    receipt: SignedReceipt | None = None
    unsure: int = 0


class Promises:
    """The counters of all Locks that this key pays from."""

    def __init__(
        self, key: Key, records: Iterable[LockRecord] = (), unsigned: Mapping[bytes, int] | None = None
    ):
        """Go on after a restart.

        Args:
            unsigned: payee → uain that were reserved for it and may have been signed since `records`.
        """
        self._key = key
        self._payers: dict[bytes, Payer] = {}
        self._records: dict[bytes, LockRecord] = {}
        self._changed: set[bytes] = set()
        for record in records:
            more = sum((unsigned or {}).get(payee, 0) for payee in record.payees)
            self._records[record.lock] = replace(record, unsure=record.unsure + more)
            self._changed.add(record.lock)

    def use(self, network: bytes, lock: Lock) -> None:
        """Allow receipts on a *final* Lock of ours.

        Raises:
            InvalidReceipt: rule ``"authority"``: not this key alone signs its receipts; ``"ended"``.
        """
        if lock.authority != (self._key.public,) or lock.threshold != 1:
            raise InvalidReceipt("authority", "this vault's key alone must sign the Lock's receipts")
        if lock.ended:
            raise InvalidReceipt("ended", "the Lock has ended: open another")
        if lock.id in self._payers:
            return
        payer = Payer(network, lock, self._key)
        payees = tuple(sorted(share.account for share in lock.beneficiaries))
        record = self._records.setdefault(lock.id, LockRecord(lock.id, payees))
        if record.receipt is not None:
            _go_on_from(payer, record.receipt)
        self._payers[lock.id] = payer
        self._changed.add(lock.id)

    def refuse(self, lock: bytes, payee: bytes, amount: int, units: int, context: bytes) -> None:
        """Raise unless `sign` with these arguments is in order.

        Raises:
            InvalidReceipt: ``"lock"`` not in use, ``"payee"`` it pays somebody else, ``"unsure"`` after a
                crash, ``"above-deposit"``.
            InvalidInput: no amount, units or context of a receipt.
        """
        payer = self._payer(lock)
        if amount < 1 or units < 0 or len(context) != 32:
            raise InvalidInput(
                "a receipt pays at least 1 uain for 0 or more units, with a context of 32 bytes"
            )
        record = self._records[lock]
        if payee not in record.payees:
            raise InvalidReceipt("payee", "this Lock does not pay the counterparty of the job")
        if record.unsure:
            raise InvalidReceipt(
                "unsure", "learn the payee's last receipt after the crash, or open another Lock"
            )
        if amount > payer.left:
            raise InvalidReceipt(
                "above-deposit", f"{amount} uain more, {payer.left} are left: open another Lock"
            )

    def sign(self, lock: bytes, amount: int, units: int, context: bytes) -> SignedReceipt:
        """Promise `amount` more for `units` more; call `refuse` first."""
        payer = self._payer(lock)
        self._changed.add(lock)
        return payer.sign(payer.cumulative + amount, payer.units + units, context)

    def learn(self, signed: SignedReceipt) -> tuple[bytes, int]:
        """Go on from a receipt that the payee shows, if it is higher than what is known.

        Returns:
            A payee, and the uain that it has been promised beyond all that is accounted for: more than 0
            only if what was written down is older than the key's last signatures.

        Raises:
            InvalidReceipt: its Lock is not in use here.
            BadSignature, Malformed: this key did not sign it.
        """
        verify(self._key.public, SIGN_RECEIPT, signed.body, signed.signature)
        receipt = read_receipt(signed.body)
        payer, record = self._payer(receipt.lock), self._records[receipt.lock]
        surprise = receipt.cumulative - payer.cumulative - record.unsure
        if receipt.cumulative > payer.cumulative:
            payer.resume(signed)
        self._records[receipt.lock] = replace(record, unsure=0)
        self._changed.add(receipt.lock)
        return record.payees[0], max(0, surprise)

    def is_unsure(self, lock: bytes) -> bool:
        """Whether `learn` is needed before a Lock can pay again."""
        record = self._records.get(lock)
        return record is not None and record.unsure > 0

    def last(self, lock: bytes) -> SignedReceipt | None:
        """The highest receipt of a Lock in use."""
        return self._payer(lock).last

    def left(self, lock: bytes) -> int:
        """uain that can still be promised on a Lock in use."""
        return self._payer(lock).left

    def forget(self, lock: bytes) -> None:
        """Drop a Lock that has ended; a repeat is no error."""
        self._payers.pop(lock, None)
        if self._records.pop(lock, None) is not None:
            self._changed.add(lock)

    def take_changes(self) -> tuple[list[LockRecord], list[bytes]]:
        """Records that have changed since the last call, and Locks that were forgotten."""
        changed, self._changed = sorted(self._changed), set()
        for lock in changed:
            if lock in self._payers and (last := self._payers[lock].last) is not None:
                was = self._records[lock]
                self._records[lock] = LockRecord(lock, was.payees, last, was.unsure)
        kept = [self._records[lock] for lock in changed if lock in self._records]
        return kept, [lock for lock in changed if lock not in self._records]

    def _payer(self, lock: bytes) -> Payer:
        payer = self._payers.get(lock)
        if payer is None:
            raise InvalidReceipt("lock", "this Lock is not in use: call use_lock first")
        return payer


def _go_on_from(payer: Payer, signed: SignedReceipt) -> None:
    receipt = read_receipt(signed.body)
    if receipt.cumulative > payer.cumulative:
        payer.resume(signed)
    elif receipt.cumulative == payer.cumulative:  # settled: the ledger tells the amount, not the units
        payer.last, payer.units = signed, receipt.units
