"""Receipts: cumulative promises of a Lock's authority, signed off the ledger, settled on it.

A receipt says "of this Lock, `cumulative` uain are yours in all, for `units` delivered"; its `context` is
the running hash of what was delivered. Only the highest matters. `Payer` signs them, `ReceiptBook` is
what the payee keeps. No I/O: what must be on disk before goods leave is handed out by `take_unsaved`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from ainp2p.errors import BadSignature, InvalidReceipt
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.operations import (
    KEYS_MAX,
    SIGN_CLOSE,
    VERSION,
    Body,
    Close,
    Operation,
    Refund,
    Settle,
    SignedOperation,
    Signer,
    operation_id,
)
from ainp2p.ledger.rules.signatures import verify_in_order
from ainp2p.protocol.codec import Bytes32, Message, Signature, Uint, encode, fast_decoder
from ainp2p.protocol.identity import id_text, verify

SIGN_RECEIPT = b"ainp2p/receipt/1"
RECEIPT_SIZE_MAX = 256  # bytes; ours have at most 121


class Receipt(Message, frozen=True):
    """What the authority signs: encode(receipt), under `SIGN_RECEIPT`."""

    network: Bytes32
    lock: Bytes32
    cumulative: Uint  # uain, in all
    units: Uint  # delivered, in all
    context: Bytes32

    def __repr__(self) -> str:
        return f"Receipt({self.cumulative} uain for {self.units} units, lock {id_text(self.lock)})"


class SignedReceipt(Message, frozen=True):
    """What travels: the receipt's bytes as they were signed."""

    body: Annotated[bytes, msgspec.Meta(max_length=RECEIPT_SIZE_MAX)]
    signature: Signature


class Release(Message, frozen=True):
    """A receipt of a Lock with k of m keys: signatures of exactly k, in the order of their keys."""

    body: Annotated[bytes, msgspec.Meta(max_length=RECEIPT_SIZE_MAX)]
    signatures: Annotated[tuple[Signature, ...], msgspec.Meta(min_length=1, max_length=KEYS_MAX)]

    @classmethod
    def of(cls, signed: SignedReceipt) -> Release:
        """A channel's receipt in this form: k = 1."""
        return cls(signed.body, (signed.signature,))


class Booked(Message, frozen=True):
    """What a receipt brought: `gained` uain more than before, 0 for a repeat."""

    receipt: Receipt
    gained: int


read_receipt = fast_decoder(Receipt, size_max=RECEIPT_SIZE_MAX)


def verify_receipt(lock: Lock, body: bytes, signatures: tuple[bytes, ...]) -> None:
    """Check that exactly k keys of the Lock's authority signed `body`, in the order of their keys.

    Raises:
        BadSignature: they did not.
    """
    if len(signatures) != lock.threshold:
        raise BadSignature(f"{len(signatures)} signatures, the Lock's authority needs {lock.threshold}")
    if len(lock.authority) == 1:
        verify(lock.authority[0], SIGN_RECEIPT, body, signatures[0])
        return
    verify_in_order(
        lock.authority,
        signatures,
        lambda key, signature: verify(key, SIGN_RECEIPT, body, signature),
        "a signature fits no further key of the Lock's authority",
    )


def sign_receipt(receipt: Receipt, signer: Signer) -> SignedReceipt:
    """Sign a receipt, whatever it says; `Payer` is what keeps promises in order."""
    body = encode(receipt)
    return SignedReceipt(body, signer.sign(SIGN_RECEIPT, body))


class Payer:
    """The payer's counter for one Lock: it only grows, and never above the deposit.

    One counter serves any number of parallel jobs. `last` is the highest receipt signed so far.
    """

    def __init__(self, network: bytes, lock: Lock, signer: Signer) -> None:
        self._network, self._lock, self._signer = network, lock, signer
        self.last: SignedReceipt | None = None
        self.cumulative = lock.paid
        self.units = 0

    @property
    def left(self) -> int:
        """uain that can still be promised."""
        return self._lock.deposit - self.cumulative

    def sign(self, cumulative: int, units: int, context: bytes) -> SignedReceipt:
        """Promise `cumulative` uain in all; the same arguments again give the same receipt.

        Raises:
            InvalidReceipt: ``"cumulative"`` not above the last one, ``"above-deposit"``, ``"units"`` fewer
                than before. Nothing was signed.
        """
        receipt = Receipt(self._network, self._lock.id, cumulative, units, context)
        if self.last is not None and self.last.body == encode(receipt):
            return self.last
        self._refuse(receipt)
        signed = sign_receipt(receipt, self._signer)
        self.last, self.cumulative, self.units = signed, cumulative, units
        return signed

    def resume(self, signed: SignedReceipt) -> Receipt:
        """After a restart: go on from a receipt of ours that was kept, or that the payee shows.

        Raises:
            InvalidReceipt: it is for another Lock, or lower than what is known.
            BadSignature, Malformed: it is none of ours.
        """
        receipt = read_receipt(signed.body)
        verify(self._signer.public, SIGN_RECEIPT, signed.body, signed.signature)
        if receipt.network != self._network or receipt.lock != self._lock.id:
            raise InvalidReceipt("lock", "a receipt for another Lock")
        if self.last is None or signed.body != self.last.body:
            self._refuse(receipt)
        self.last, self.cumulative, self.units = signed, receipt.cumulative, receipt.units
        return receipt

    def _refuse(self, receipt: Receipt) -> None:
        if receipt.cumulative <= self.cumulative:
            raise InvalidReceipt("cumulative", f"{receipt.cumulative} uain, promised {self.cumulative}")
        if receipt.cumulative > self._lock.deposit:
            raise InvalidReceipt("above-deposit", f"{receipt.cumulative} uain of {self._lock.deposit}")
        if receipt.units < self.units:
            raise InvalidReceipt("units", f"{receipt.units}, said {self.units} before")


class _Page:
    """What the book knows of one Lock."""

    __slots__ = ("best", "lock", "signed")

    def __init__(self, lock: Lock) -> None:
        self.lock = lock
        self.best: Receipt | None = None
        self.signed: SignedReceipt | None = None

    @property
    def booked(self) -> int:
        """uain that are safe: the highest receipt's, or what has been paid."""
        return max(self.lock.paid, self.best.cumulative if self.best is not None else 0)


class ReceiptBook:
    """The payee's book: the highest receipt of each Lock that pays it."""

    def __init__(self, network: bytes) -> None:
        self._network = network
        self._pages: dict[bytes, _Page] = {}
        self._unsaved: dict[bytes, SignedReceipt] = {}

    def watch(self, lock: Lock) -> None:
        """Accept receipts for a *final* Lock from now on, or learn its newest state.

        Raises:
            InvalidReceipt: rule ``"authority"``: its receipts need more than one signature.
        """
        if lock.threshold != 1 or len(lock.authority) != 1:
            raise InvalidReceipt("authority", "only Locks with a single authority key pay by receipts")
        page = self._pages.get(lock.id)
        if page is None:
            self._pages[lock.id] = _Page(lock)
        elif lock.seq >= page.lock.seq:
            page.lock = lock

    def accept(self, signed: SignedReceipt, now_ms: int) -> Booked:
        """Verify a receipt and keep it if it is the highest; a repeat of the highest changes nothing.

        Raises:
            Malformed: no receipt.
            InvalidReceipt: rules ``"network"``, ``"lock"`` (not watched), ``"ended"``, ``"expired"``,
                ``"above-deposit"``, ``"cumulative"`` (stale).
            BadSignature: not of the Lock's authority.
        """
        receipt = read_receipt(signed.body)
        if receipt.network != self._network:
            raise InvalidReceipt("network", "a receipt for another network")
        page = self._pages.get(receipt.lock)
        if page is None:
            raise InvalidReceipt("lock", "a receipt for a Lock that is not known here, or not final")
        if page.signed == signed and page.best is not None:
            return Booked(page.best, 0)
        gained = self._gain(page, receipt, now_ms)
        verify(page.lock.authority[0], SIGN_RECEIPT, signed.body, signed.signature)
        if gained == 0:  # the highest again, under another signature
            return Booked(receipt, 0)
        page.best, page.signed = receipt, signed
        self._unsaved[receipt.lock] = signed
        return Booked(receipt, gained)

    def _gain(self, page: _Page, receipt: Receipt, now_ms: int) -> int:
        """How much more this receipt is worth; 0 if it says what the highest says."""
        lock = page.lock
        if receipt.cumulative > lock.deposit:
            raise InvalidReceipt("above-deposit", f"{receipt.cumulative} uain of {lock.deposit}")
        if receipt == page.best:
            return 0
        if lock.ended:
            raise InvalidReceipt("ended", "the Lock has ended")
        if now_ms >= lock.expiry:
            raise InvalidReceipt("expired", "the Lock has expired and may be refunded at any moment")
        booked = page.booked
        if receipt.cumulative <= booked:
            raise InvalidReceipt("cumulative", f"{receipt.cumulative} uain, booked {booked}")
        return receipt.cumulative - booked

    def restore(self, signed: SignedReceipt, *, verified: bool = False) -> None:
        """Put back a receipt from the journal, in any order; it was accepted before, so no clock is asked.

        Args:
            verified: just these bytes are known to be good under the Lock's authority; else it is verified.

        Raises:
            Malformed, InvalidReceipt, BadSignature: the journal is damaged, or its Lock is not watched.
        """
        receipt = read_receipt(signed.body)
        page = self._pages.get(receipt.lock)
        if page is None or receipt.network != self._network:
            raise InvalidReceipt("lock", "a receipt for a Lock that is not known here")
        if not verified:
            verify(page.lock.authority[0], SIGN_RECEIPT, signed.body, signed.signature)
        if page.best is None or receipt.cumulative > page.best.cumulative:
            page.best, page.signed = receipt, signed

    def take_unsaved(self) -> list[tuple[bytes, SignedReceipt]]:
        """(lock id, its highest receipt) of each Lock that gained since the last call: journal them at once.

        A receipt that a higher one has replaced meanwhile need not reach the disk.
        """
        unsaved, self._unsaved = list(self._unsaved.items()), {}
        return unsaved

    def lock(self, lock: bytes) -> Lock | None:
        """The newest known state of a watched Lock."""
        page = self._pages.get(lock)
        return page.lock if page is not None else None

    def locks(self) -> tuple[Lock, ...]:
        """All watched Locks."""
        return tuple(page.lock for page in self._pages.values())

    def highest(self, lock: bytes) -> SignedReceipt | None:
        """The best receipt for a Lock, or None."""
        page = self._pages.get(lock)
        return page.signed if page is not None else None

    def unsettled(self, lock: bytes) -> int:
        """uain that the best receipt is worth beyond what the ledger has paid; 0 once the Lock has ended."""
        page = self._pages.get(lock)
        return page.booked - page.lock.paid if page is not None and not page.lock.ended else 0

    def forget(self, lock: bytes) -> None:
        """Stop watching a Lock (it has ended)."""
        self._pages.pop(lock, None)
        self._unsaved.pop(lock, None)


# --- what can be done with a Lock, as operations ----------------------------------------------------


def settle_operation(lock: Lock, proof: SignedReceipt | Release) -> SignedOperation:
    """The SETTLE that turns a receipt into credits. It needs no key: whoever makes it, it is the same."""
    receipt = read_receipt(proof.body)
    body = Settle(receipt.cumulative, receipt.units, receipt.context)
    raw = encode(_next_operation(receipt.network, lock, body))
    return SignedOperation(raw, _signatures(proof), None)


def close_operation(
    network: bytes,
    lock: Lock,
    proof: SignedReceipt | Release | None = None,
    closer: Signer | None = None,
) -> SignedOperation:
    """The CLOSE that pays up to a receipt (None, or nothing new: to what is paid) and ends the Lock.

    Without the closer's key it is valid only once the Lock has expired, and a REFUND if it pays nothing new.
    """
    body: Body = Close(lock.paid, 0, b"")
    signatures: tuple[bytes, ...] = ()
    if proof is not None:
        receipt = read_receipt(proof.body)
        if receipt.cumulative > lock.paid:
            body = Close(receipt.cumulative, receipt.units, receipt.context)
            signatures = _signatures(proof)
    if closer is None and not signatures:
        return refund_operation(network, lock)
    raw = encode(_next_operation(network, lock, body))
    by_closer = closer.sign(SIGN_CLOSE, operation_id(raw)) if closer is not None else None
    return SignedOperation(raw, signatures, by_closer)


def _signatures(proof: SignedReceipt | Release) -> tuple[bytes, ...]:
    return proof.signatures if isinstance(proof, Release) else (proof.signature,)


def refund_operation(network: bytes, lock: Lock) -> SignedOperation:
    """The REFUND that ends an expired Lock."""
    return SignedOperation(encode(_next_operation(network, lock, Refund())), (), None)


def _next_operation(network: bytes, lock: Lock, body: Body) -> Operation:
    return Operation(VERSION, network, lock.id, lock.seq + 1, lock.head, None, body)
