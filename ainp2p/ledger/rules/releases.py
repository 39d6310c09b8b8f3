"""Receipts that need k signatures: escrow, and bounties whose verifiers say who is paid. No I/O.

    a verifier signs ──► Partial ──┐
    another one does ──► Partial ──┴─k of them over the same bytes──► Release ──► SETTLE or CLOSE, by anybody

All k sign the same receipt, so they must agree on all of it: the amount, the units, and the context. For an
escrow the context is a reason of their own (a result's hash); for a bounty it is the account that is paid
(`locks.ANY_PAYEE`), which is how a payee is chosen after the deposit was made. Verifiers who sign two payees
for one amount can pay only one of them: the Lock's slot is decided once.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from ainp2p.errors import InvalidReceipt
from ainp2p.ledger.rules.locks import ANY_PAYEE, Lock
from ainp2p.ledger.rules.operations import Signer
from ainp2p.ledger.rules.receipts import (
    RECEIPT_SIZE_MAX,
    SIGN_RECEIPT,
    Receipt,
    Release,
    read_receipt,
    verify_receipt,
)
from ainp2p.protocol.codec import Bytes32, Message, Signature, encode
from ainp2p.protocol.identity import digest, verify

BODIES_PER_KEY_MAX = 4  # a verifier may change its mind; the least of what it signed is forgotten


class Partial(Message, frozen=True):
    """One verifier's signature of a receipt."""

    body: Annotated[bytes, msgspec.Meta(max_length=RECEIPT_SIZE_MAX)]
    key: Bytes32
    signature: Signature


def is_bounty(lock: Lock) -> bool:
    """Whether its receipts name a payee."""
    return any(beneficiary.account == ANY_PAYEE for beneficiary in lock.beneficiaries)


def reason_context(reason: bytes) -> bytes:
    """The context of an escrow's receipt: a digest of why it is released."""
    return digest(b"ainp2p/reason/1", reason)


def sign_release(
    network: bytes,
    lock: Lock,
    cumulative: int,
    signer: Signer,
    *,
    payee: bytes | None = None,
    reason: bytes = b"",
    units: int = 0,
) -> Partial:
    """One verifier's part of "of this Lock, `cumulative` uain are its beneficiaries' in all".

    Args:
        payee: the account that a bounty pays; belongs to bounties and to nothing else.
        reason: why, for an escrow; every verifier gives the same one.

    Raises:
        InvalidReceipt: rules ``"authority"`` (the key is none of the Lock's), ``"cumulative"``,
            ``"above-deposit"``, ``"ended"``, ``"payee"``. Nothing was signed.
    """
    if signer.public not in lock.authority:
        raise InvalidReceipt("authority", "this key does not verify for this Lock")
    if lock.ended:
        raise InvalidReceipt("ended", "the Lock has ended")
    if cumulative <= lock.paid:
        raise InvalidReceipt("cumulative", f"{cumulative} uain in all, {lock.paid} are paid already")
    if cumulative > lock.deposit:
        raise InvalidReceipt("above-deposit", f"{cumulative} uain of {lock.deposit}")
    if is_bounty(lock) != (payee is not None) or payee == ANY_PAYEE:
        raise InvalidReceipt("payee", "a bounty's release names who is paid, and no other one does")
    receipt = Receipt(network, lock.id, cumulative, units, payee or reason_context(reason))
    body = encode(receipt)
    return Partial(body, signer.public, signer.sign(SIGN_RECEIPT, body))


class ReleaseBook:
    """Collects parts until k keys of a Lock have signed the same receipt; keeps the highest that is whole."""

    def __init__(self, network: bytes) -> None:
        self._network = network
        self._parts: dict[bytes, dict[bytes, dict[bytes, Partial]]] = {}  # Lock → body → key → part
        self._whole: dict[bytes, Release] = {}

    def add(self, lock: Lock, part: Partial) -> Release | None:
        """Take in one signature; the Lock's highest whole receipt so far, or None.

        Raises:
            Malformed: no receipt.
            InvalidReceipt: rules ``"network"``, ``"lock"``, ``"authority"``, ``"above-deposit"``.
            BadSignature: it does not fit.
        """
        receipt = read_receipt(part.body)
        if receipt.network != self._network:
            raise InvalidReceipt("network", "a receipt for another network")
        if receipt.lock != lock.id:
            raise InvalidReceipt("lock", "a receipt for another Lock")
        if part.key not in lock.authority:
            raise InvalidReceipt("authority", "the key does not verify for this Lock")
        if receipt.cumulative > lock.deposit:
            raise InvalidReceipt("above-deposit", f"{receipt.cumulative} uain of {lock.deposit}")
        verify(part.key, SIGN_RECEIPT, part.body, part.signature)
        bodies = self._parts.setdefault(lock.id, {})
        bodies.setdefault(part.body, {})[part.key] = part
        self._complete(lock, receipt, bodies[part.body])
        self._forget_least(bodies, part.key)
        return self._whole.get(lock.id)

    def add_whole(self, lock: Lock, release: Release) -> Release:
        """Take in a receipt that somebody else collected; the highest one, which may be another.

        Raises:
            Malformed, InvalidReceipt, BadSignature: as `add`.
        """
        receipt = read_receipt(release.body)
        if receipt.network != self._network or receipt.lock != lock.id:
            raise InvalidReceipt("lock", "a receipt for another Lock")
        if receipt.cumulative > lock.deposit:
            raise InvalidReceipt("above-deposit", f"{receipt.cumulative} uain of {lock.deposit}")
        verify_receipt(lock, release.body, release.signatures)
        self._keep(lock.id, receipt, release)
        return self._whole[lock.id]

    def highest(self, lock: bytes) -> Release | None:
        """The highest receipt that is whole, or None."""
        return self._whole.get(lock)

    def signers(self, lock: bytes, body: bytes) -> tuple[bytes, ...]:
        """The keys that have signed this receipt so far."""
        return tuple(sorted(self._parts.get(lock, {}).get(body, {})))

    def forget(self, lock: bytes) -> None:
        """The Lock has ended."""
        self._parts.pop(lock, None)
        self._whole.pop(lock, None)

    def _complete(self, lock: Lock, receipt: Receipt, parts: dict[bytes, Partial]) -> None:
        if len(parts) < lock.threshold:
            return
        keys = sorted(parts)[: lock.threshold]
        self._keep(lock.id, receipt, Release(parts[keys[0]].body, tuple(parts[k].signature for k in keys)))

    def _keep(self, lock: bytes, receipt: Receipt, release: Release) -> None:
        held = self._whole.get(lock)
        # Two of the same amount: the lower bytes, so that everybody who has both submits the same one.
        if held is None or (-receipt.cumulative, release.body) < (-_cumulative(held), held.body):
            self._whole[lock] = release

    def _forget_least(self, bodies: dict[bytes, dict[bytes, Partial]], key: bytes) -> None:
        signed = [body for body, parts in bodies.items() if key in parts]
        if len(signed) > BODIES_PER_KEY_MAX:
            least = min(signed, key=lambda body: (read_receipt(body).cumulative, body))
            del bodies[least][key]
            if not bodies[least]:
                del bodies[least]


def _cumulative(release: Release) -> int:
    return read_receipt(release.body).cumulative


__all__ = ["Partial", "Release", "ReleaseBook", "is_bounty", "reason_context", "sign_release"]
