"""Receipts: cumulative promises of a Lock's authority, signed off the ledger, settled on it.

A receipt says "of this Lock, `cumulative` uain are yours in all, for `units` delivered"; its `context` is
the running hash of what was delivered. Only the highest matters.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from ainp2p.ledger.operations import Signer
from ainp2p.protocol.codec import Bytes32, Message, Signature, Uint, encode, fast_decoder

SIGN_RECEIPT = b"ainp2p/receipt/1"
RECEIPT_SIZE_MAX = 256  # bytes; ours have at most 121


class Receipt(Message, frozen=True):
    """What the authority signs: encode(receipt), under `SIGN_RECEIPT`."""

    network: Bytes32
    lock: Bytes32
    cumulative: Uint  # uain, in all
    units: Uint  # delivered, in all
    context: Bytes32


class SignedReceipt(Message, frozen=True):
    """What travels: the receipt's bytes as they were signed."""

    body: Annotated[bytes, msgspec.Meta(max_length=RECEIPT_SIZE_MAX)]
    signature: Signature


read_receipt = fast_decoder(Receipt, size_max=RECEIPT_SIZE_MAX)


def sign_receipt(receipt: Receipt, signer: Signer) -> SignedReceipt:
    """Sign a receipt, whatever it says; `Payer` is what keeps promises from shrinking."""
    body = encode(receipt)
    return SignedReceipt(body, signer.sign(SIGN_RECEIPT, body))
