"""The highest receipts that a validator holds, and what they forbid: step 1 of LEDGER.md for Locks. No I/O.

A receipt reaches a validator inside a SETTLE or a CLOSE, for whatever slot. From then on the validator LOCKs
nothing below it and offers it itself, so that nobody can end a Lock below a receipt that was spread in time.
"""

from __future__ import annotations

from dataclasses import dataclass

from ainp2p.errors import RemoteError
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.operations import (
    VERSION,
    Close,
    Operation,
    ParsedOperation,
    Refund,
    Settle,
    SignedOperation,
    parse,
)
from ainp2p.ledger.rules.receipts import Receipt, verify_receipt
from ainp2p.ledger.rules.state import is_gated
from ainp2p.protocol.codec import encode


@dataclass(slots=True)
class HeldReceipt:
    """A verified receipt; `segment` is the journal's write that holds `proof`, the operation it came in."""

    cumulative: int
    units: int
    context: bytes
    proof: SignedOperation
    segment: int = 0


class HeldReceipts:
    """For each open Lock the highest verified receipt above what is paid."""

    def __init__(self, network: bytes) -> None:
        self._network = network
        self.highest: dict[bytes, HeldReceipt] = {}

    def learn(self, lock: Lock, parsed: ParsedOperation, *, verified: bool) -> HeldReceipt | None:
        """Keep this operation's receipt if it is the highest; None if it has none that is."""
        body = parsed.operation.body
        if not isinstance(body, Settle | Close) or not body.context or lock.ended:
            return None
        held = self.highest.get(lock.id)
        least = max(lock.paid, held.cumulative if held is not None else 0)
        if not least < body.cumulative <= lock.deposit:
            return None
        if not verified:
            receipt = Receipt(self._network, lock.id, body.cumulative, body.units, body.context)
            try:
                verify_receipt(lock, encode(receipt), parsed.signed.signatures)
            except RemoteError:
                return None
        learned = HeldReceipt(body.cumulative, body.units, body.context, parsed.signed)
        self.highest[lock.id] = learned
        return learned

    def allow(self, lock: Lock, parsed: ParsedOperation) -> bool:
        """Whether this operation may be LOCKed beside what is held, unless it is prepared.

        Lemma L9 (docs/ledger-proof.md): nothing below a held receipt gets our LOCK, unless it is prepared.
        """
        held = self.highest.get(lock.id)
        if held is None or _cumulative(lock, parsed) >= held.cumulative:
            return True
        return not (_can_settle(lock, held) or is_gated(parsed))

    def offer(self, lock: Lock, now: int) -> ParsedOperation | None:
        """The SETTLE of the highest receipt, else its CLOSE once the Lock has expired, on the Lock's head."""
        held = self.highest.get(lock.id)
        if held is None or not (_can_settle(lock, held) or now >= lock.expiry):
            return None
        make = Settle if _can_settle(lock, held) else Close
        operation = Operation(
            version=VERSION,
            network=self._network,
            object=lock.id,
            seq=lock.seq + 1,
            previous=lock.head,
            timestamp=None,
            body=make(held.cumulative, held.units, held.context),
        )
        return parse(SignedOperation(encode(operation), held.proof.signatures, None))

    def forget(self, lock: Lock) -> None:
        """After the Lock has moved: drop its receipt if it is paid, or if the Lock has ended."""
        held = self.highest.get(lock.id)
        if held is not None and (lock.ended or held.cumulative <= lock.paid):
            del self.highest[lock.id]


def _cumulative(lock: Lock, parsed: ParsedOperation) -> int:
    body = parsed.operation.body
    if isinstance(body, Refund) or not isinstance(body, Settle | Close):
        return lock.paid
    return body.cumulative


def _can_settle(lock: Lock, held: HeldReceipt) -> bool:
    return held.cumulative - lock.paid >= lock.step or held.cumulative == lock.deposit
