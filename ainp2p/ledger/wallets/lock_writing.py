"""Which operation a wallet would write on a Lock next, and why not. No I/O."""

from __future__ import annotations

from ainp2p.errors import InvalidOperation, InvalidReceipt, NotYet
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.operations import SignedOperation, Signer
from ainp2p.ledger.rules.receipts import (
    Release,
    SignedReceipt,
    close_operation,
    read_receipt,
    refund_operation,
    settle_operation,
)


def next_settle(lock: Lock, best: SignedReceipt | Release | None) -> SignedOperation | None:
    """The SETTLE that pays up to the best receipt; None if that is paid.

    Raises:
        InvalidReceipt: rule ``"lock"``: there is no receipt.
        InvalidOperation: rule ``"step"``: too little for a SETTLE.
    """
    if best is None:
        raise InvalidReceipt("lock", "no receipt is held for this Lock")
    cumulative = read_receipt(best.body).cumulative
    if lock.ended or cumulative <= lock.paid:
        return None
    if cumulative - lock.paid < lock.step and cumulative != lock.deposit:
        raise InvalidOperation("step", f"{cumulative - lock.paid} uain more, at least {lock.step}: close it")
    return settle_operation(lock, best)


def next_close(
    network: bytes, lock: Lock, best: SignedReceipt | Release | None, signer: Signer, now_ms: int
) -> SignedOperation | None:
    """The CLOSE at the best receipt; None if the Lock has ended.

    Raises:
        InvalidOperation: rule ``"closer"``: the key is another's, and the Lock has not expired.
    """
    if lock.ended:
        return None
    ours = lock.closer == signer.public
    if not ours and now_ms < lock.expiry:
        raise InvalidOperation("closer", "only the closer's key ends a Lock before it expires")
    return close_operation(network, lock, best, signer if ours else None)


def next_refund(network: bytes, lock: Lock, now_ms: int) -> SignedOperation | None:
    """The REFUND; None if the Lock has ended.

    Raises:
        NotYet: rule ``"not-expired"``.
    """
    if lock.ended:
        return None
    if now_ms < lock.expiry:
        raise NotYet("not-expired", f"in {lock.expiry - now_ms} ms")
    return refund_operation(network, lock)
