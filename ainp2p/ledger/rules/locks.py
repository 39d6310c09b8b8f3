"""Locks: deposits that are paid out by receipts, and the rules of SETTLE, CLOSE and REFUND.

Pure values; whose signature a receipt bears is checked in `ainp2p.ledger.rules.state`.

    open ──SETTLE──► open ──CLOSE (receipt; by the closer, or expired)──► ended
      └──────────────────────REFUND (expired)───────────────────────────► ended

A bond is a Lock under the System's authority, which only a COMMITTEE ends; its closer is the validator that
it is made for.
"""

from __future__ import annotations

import msgspec

from ainp2p.errors import InvalidOperation
from ainp2p.ledger.rules.amounts import share
from ainp2p.ledger.rules.operations import (
    BOND_PURPOSE,
    Close,
    KeySet,
    LockTerms,
    ParsedOperation,
    Settle,
    Share,
    Spend,
    lock_id,
)
from ainp2p.protocol.codec import Bytes32, Message, Uint
from ainp2p.protocol.identity import digest

Payment = tuple[int, bytes, int]  # index of the credit, account, uain (at least 1)
# A beneficiary that stands for "the account that the receipt's context names": a bounty, open to any payee.
# No inception hashes to it (its tag is another). The authority's k signatures cover the context, so they
# choose the payee; `_payee` is the one place that reads it.
ANY_PAYEE = digest(b"ainp2p/payee/1", b"whom the receipt names")


class Lock(Message, frozen=True):
    """A deposit's state after `seq` decided operations; `head` is the last one's id, at first the Lock's."""

    id: Bytes32
    seq: Uint
    head: Bytes32
    payer: Bytes32
    beneficiaries: tuple[Share, ...]
    deposit: Uint
    paid: Uint
    step: Uint
    authority: KeySet
    threshold: Uint
    closer: Bytes32
    expiry: Uint
    purpose: Bytes32
    ended: Uint  # 0 open, 1 ended: nothing can happen to it any more

    @property
    def held(self) -> int:
        """What is still inside: the deposit less what was credited, dust included; 0 once it has ended."""
        return 0 if self.ended else self.deposit - credited(self, self.paid)


def open_lock(payer: bytes, operation: bytes, index: int, terms: LockTerms) -> Lock:
    """The Lock that the SPEND with id `operation` opens at `index` of its locks."""
    id_ = lock_id(operation, index)
    return Lock(
        id=id_,
        seq=0,
        head=id_,
        payer=payer,
        beneficiaries=terms.beneficiaries,
        deposit=terms.deposit,
        paid=0,
        step=terms.step,
        authority=terms.authority,
        threshold=terms.threshold,
        closer=terms.closer,
        expiry=terms.expiry,
        purpose=terms.purpose,
        ended=0,
    )


def credited(lock: Lock, paid: int) -> int:
    """What the beneficiaries have received in all when `paid` is paid: ∑⌊paid·pᵢ/P⌋.

    Lemma L12 (docs/ledger-proof.md): never more than `paid`.
    """
    if len(lock.beneficiaries) == 1:
        return paid
    parts_sum = sum(beneficiary.parts for beneficiary in lock.beneficiaries)
    return sum(share(paid, beneficiary.parts, parts_sum) for beneficiary in lock.beneficiaries)


def after_settle(lock: Lock, settle: Settle, head: bytes) -> tuple[Lock, list[Payment]]:
    """The Lock after this SETTLE with id `head`, and the credits that it makes.

    Lemma L12 (docs/ledger-proof.md): the credits are `credited` after less before.

    Raises:
        InvalidOperation: rules ``"ended"``, ``"cumulative"``, ``"above-deposit"``, ``"step"``, ``"payee"``.
    """
    _refuse_amount(lock, settle.cumulative)
    if settle.cumulative - lock.paid < lock.step and settle.cumulative != lock.deposit:
        raise InvalidOperation("step", f"{settle.cumulative - lock.paid} uain more, at least {lock.step}")
    payments = _payments(lock, settle.cumulative, settle.context)
    return _moved(lock, head, settle.cumulative, ended=0), payments


def after_close(lock: Lock, close: Close, head: bytes) -> tuple[Lock, list[Payment]]:
    """The ended Lock after this CLOSE with id `head`, and the credits that it makes; the payer's is last.

    Raises:
        InvalidOperation: rules ``"ended"``, ``"cumulative"``, ``"above-deposit"``, ``"payee"``.
    """
    if close.context:
        _refuse_amount(lock, close.cumulative)
    else:
        refuse_ended(lock)
        if close.cumulative != lock.paid:
            raise InvalidOperation("cumulative", f"without a receipt exactly {lock.paid} uain")
    payments = _payments(lock, close.cumulative, close.context)
    return _moved(lock, head, close.cumulative, ended=1), payments + _rest(lock, close.cumulative)


def after_refund(lock: Lock, head: bytes) -> tuple[Lock, list[Payment]]:
    """The ended Lock after a REFUND with id `head`, and the payer's credit.

    Raises:
        InvalidOperation: rule ``"ended"``.
    """
    refuse_ended(lock)
    return _moved(lock, head, lock.paid, ended=1), _rest(lock, lock.paid)


def is_bond(lock: Lock) -> bool:
    """Whether this is a validator's bond: `operations.parse` lets no other Lock have that purpose."""
    return lock.purpose == BOND_PURPOSE


def after_bond(bond: Lock, committee: bytes) -> Lock:
    """The bond after the COMMITTEE with this id has ended it, whoever gets what it held.

    Raises:
        InvalidOperation: rules ``"bond"``, it is none; ``"ended"``.
    """
    if not is_bond(bond):
        raise InvalidOperation("bond", "the Lock is none")
    refuse_ended(bond)
    return _moved(bond, committee, bond.paid, ended=1)


def lock_step(lock: Lock, parsed: ParsedOperation) -> tuple[Lock, list[Payment]]:
    """A Lock after its next operation, and the credits that it makes; raises InvalidOperation."""
    body = parsed.operation.body
    if isinstance(body, Settle):
        return after_settle(lock, body, parsed.id)
    if isinstance(body, Close):
        return after_close(lock, body, parsed.id)
    if isinstance(body, Spend):
        raise InvalidOperation("object", "a SPEND is on an account, this is a Lock")
    return after_refund(lock, parsed.id)


def refuse_ended(lock: Lock) -> None:
    """Raise InvalidOperation, rule ``"ended"``, for a Lock to which nothing can happen any more."""
    if lock.ended:
        raise InvalidOperation("ended", "the Lock has ended")


def _refuse_amount(lock: Lock, cumulative: int) -> None:
    refuse_ended(lock)
    if cumulative <= lock.paid:
        raise InvalidOperation("cumulative", f"{cumulative} uain, already paid {lock.paid}")
    if cumulative > lock.deposit:
        raise InvalidOperation("above-deposit", f"{cumulative} uain of {lock.deposit}")


def _payments(lock: Lock, cumulative: int, context: bytes) -> list[Payment]:
    """What each beneficiary gets now: ⌊cumulative·pᵢ/P⌋ − ⌊paid·pᵢ/P⌋, so that rounding never accumulates."""
    if len(lock.beneficiaries) == 1:
        more = cumulative - lock.paid
        return [(0, _payee(lock.beneficiaries[0].account, context), more)] if more else []
    parts_sum = sum(beneficiary.parts for beneficiary in lock.beneficiaries)
    payments = []
    for index, beneficiary in enumerate(lock.beneficiaries):
        before = share(lock.paid, beneficiary.parts, parts_sum)
        more = share(cumulative, beneficiary.parts, parts_sum) - before
        if more:
            payments.append((index, _payee(beneficiary.account, context), more))
    return payments


def _payee(beneficiary: bytes, context: bytes) -> bytes:
    """Who is paid: the beneficiary, or for a bounty whom the receipt names."""
    if beneficiary != ANY_PAYEE:
        return beneficiary
    if context == ANY_PAYEE:
        raise InvalidOperation("payee", "a bounty's receipt names the account that it pays")
    return context


def _rest(lock: Lock, paid: int) -> list[Payment]:
    """What goes back to the payer when the Lock ends, dust included."""
    rest = lock.deposit - credited(lock, paid)
    return [(len(lock.beneficiaries), lock.payer, rest)] if rest else []


def _moved(lock: Lock, head: bytes, paid: int, ended: int) -> Lock:
    return msgspec.structs.replace(lock, seq=lock.seq + 1, head=head, paid=paid, ended=ended)
