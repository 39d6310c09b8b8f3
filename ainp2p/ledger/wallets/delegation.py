"""Session keys: what an account's key lets another key do, for one epoch and a time. No I/O.

    account key ──seals a Delegation──► session key signs cards, receipts, closes Locks ──► verify_delegated

A host that runs an agent holds a session key, never the account's. An *epoch* here is the account's own
fencing number: each new holder gets a higher one, and from the moment that somebody has seen epoch e + 1
nothing signed under e counts for it (RELIABILITY.md V5: "for each agent at most one accepted holder per
epoch, epochs grow"). A delegation sealed by a key that is not the account's current one is void, so rotation
and recovery end all that were made before.

What a Lock's authority has signed stays spendable: "rotation or recovery of the payer's account does not
revoke it, so what a lost session key can cost is bounded by its open deposits" (LEDGER.md).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import msgspec

from ainp2p.errors import Expired, InvalidInput, Malformed, Refused
from ainp2p.ledger.rules.accounts import Account
from ainp2p.ledger.rules.operations import Inception, Signer
from ainp2p.protocol.codec import Bytes32, Message, Signature, Uint, decode, encode
from ainp2p.protocol.identity import verify

SIGN_DELEGATION = b"ainp2p/delegate/1"
PURPOSES_MAX = 16
_SIZE_MAX = 1024

Purpose = Annotated[bytes, msgspec.Meta(min_length=1, max_length=32)]


class Delegation(Message, frozen=True):
    """`key` may sign for `account` under these purposes, in this epoch, from `not_before` to `not_after`."""

    network: Bytes32
    account: Bytes32
    key: Bytes32
    epoch: Uint  # the account's own count of holders, from 1 on
    not_before: Uint  # ms since 1970
    not_after: Uint  # the first moment at which it is no longer valid
    purposes: Annotated[
        tuple[Purpose, ...], msgspec.Meta(min_length=1, max_length=PURPOSES_MAX)
    ]  # a sorted set


class SignedDelegation(Message, frozen=True):
    """A delegation as it travels; which key has sealed it, the account's state says."""

    body: Annotated[bytes, msgspec.Meta(max_length=_SIZE_MAX)]
    signature: Signature


class Mandate(Message, frozen=True):
    """What the holder of a session key is given: whose it is, and what it may do. Nothing in it is secret."""

    inception: Inception  # of the account
    delegation: SignedDelegation


def seal_delegation(delegation: Delegation, signer: Signer) -> SignedDelegation:
    """Seal a delegation with the account's current key.

    Raises:
        InvalidInput: it could never be valid: no time in it, epoch 0, purposes not sorted.
    """
    if delegation.not_before >= delegation.not_after or not delegation.epoch:
        raise InvalidInput("a delegation has an epoch from 1 on, and ends after it begins")
    if not _is_set(delegation.purposes):
        raise InvalidInput("purposes are sorted, each named once")
    body = encode(delegation)
    return SignedDelegation(body, signer.sign(SIGN_DELEGATION, body))


class Fences:
    """The newest holder of each account that was seen: older ones are fenced off. Keep it on a disk."""

    def __init__(self, seen: dict[bytes, tuple[int, bytes]] | None = None) -> None:
        """Begin with what the disk kept: account → (epoch, session key)."""
        self.seen = dict(seen or {})

    def epoch(self, account: bytes) -> int:
        """The highest epoch that was seen of an account; 0 for none."""
        return self.seen.get(account, (0, b""))[0]

    def admit(self, delegation: Delegation) -> None:
        """Take a verified delegation as its account's newest one.

        Raises:
            Refused: ``"fenced"``: a newer epoch was seen, or another key in this one.
        """
        epoch, key = self.seen.get(delegation.account, (0, b""))
        if delegation.epoch < epoch or (delegation.epoch == epoch and delegation.key != key):
            raise Refused("fenced", f"epoch {delegation.epoch} of this account is over, or another's")
        self.seen[delegation.account] = (delegation.epoch, delegation.key)


def verify_delegated(
    signed: SignedDelegation,
    account: Account,
    *,
    network: bytes,
    now_ms: int,
    purpose: bytes,
    fences: Fences,
) -> Delegation:
    """Check that a session key may sign under `purpose` for an account, now; then verify with its `key`.

    Args:
        account: its newest proven state.

    Raises:
        Malformed: it is none.
        BadSignature: the account's *current* key has not sealed it.
        Expired: not now.
        Refused: ``"network"``, ``"account"``, ``"purpose"``, ``"fenced"``.
    """
    delegation = decode(signed.body, Delegation, size_max=_SIZE_MAX)
    if not _is_set(delegation.purposes):
        raise Malformed("the purposes of a delegation are a sorted set")
    if delegation.network != network:
        raise Refused("network", "a delegation on another network")
    if delegation.account != account.id:
        raise Refused("account", "a delegation of another account")
    verify(account.key, SIGN_DELEGATION, signed.body, signed.signature)
    if not delegation.not_before <= now_ms < delegation.not_after:
        raise Expired("the delegation is not valid at this time")
    if purpose not in delegation.purposes:
        raise Refused("purpose", f"the session key may not sign {purpose.decode(errors='replace')!r}")
    fences.admit(delegation)
    return delegation


def verify_for(
    signed: SignedDelegation,
    account: Account,
    payload: bytes,
    signature: bytes,
    *,
    network: bytes,
    now_ms: int,
    purpose: bytes,
    fences: Fences,
) -> None:
    """Check that `payload` is signed for an account: by its session key, under this delegation.

    Raises:
        As `verify_delegated`; BadSignature: the session key has not signed it.
    """
    delegation = verify_delegated(
        signed, account, network=network, now_ms=now_ms, purpose=purpose, fences=fences
    )
    verify(delegation.key, purpose, payload, signature)


def _is_set(purposes: tuple[bytes, ...]) -> bool:
    return all(lower < upper for lower, upper in pairwise(purposes))


__all__ = [
    "Delegation",
    "Fences",
    "Mandate",
    "SignedDelegation",
    "seal_delegation",
    "verify_delegated",
    "verify_for",
]
