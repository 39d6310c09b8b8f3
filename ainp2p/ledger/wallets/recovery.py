"""Guardians giving an account a new key: a request that they sign one after another. No I/O.

    request ──a guardian signs──► … ──m have signed──► a RECOVER that anybody submits

The request carries the account's state as whoever made it knew it, so that a guardian sees what it signs:
the operation's digest must be that of this state with the new keys, and nothing else changed. A request made
from a wrong state, or overtaken by an operation of the owner, is simply not valid any more: the owner's
heartbeat has taken the slot, and the guardians have to ask anew.

When it may be decided is the ledger's business: the lease must have passed by timestamps, and validators wait
until they have been in contact with a quorum (gate G), so a partition uses up nobody's lease.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from ainp2p.errors import InvalidInput, InvalidOperation
from ainp2p.ledger.rules.accounts import Account, account_digest, recover
from ainp2p.ledger.rules.operations import (
    KEYS_MAX,
    OPERATION_SIZE_MAX,
    SIGN_RECOVER,
    Operation,
    Recover,
    SignedOperation,
    Signer,
    key_digest,
    operation_id,
)
from ainp2p.ledger.rules.parameters import Parameters
from ainp2p.protocol.codec import Bytes32, Message, Signature, Uint, decode, encode
from ainp2p.protocol.identity import verify

VERSION = 1
_SIZE_MAX = OPERATION_SIZE_MAX + 8192


class GuardianSignature(Message, frozen=True):
    """One guardian's consent."""

    key: Bytes32
    signature: Signature


class Recovery(Message, frozen=True):
    """A request on its way from guardian to guardian; `account` is the state that it starts from."""

    version: Uint
    account: Account
    raw: Annotated[bytes, msgspec.Meta(max_length=OPERATION_SIZE_MAX)]
    signatures: Annotated[tuple[GuardianSignature, ...], msgspec.Meta(max_length=KEYS_MAX)]

    @property
    def id(self) -> bytes:
        """The RECOVER's id."""
        return operation_id(self.raw)

    @property
    def missing(self) -> int:
        """How many guardians have still to sign."""
        return max(0, self.account.m - len(self.signatures))

    @property
    def operation(self) -> Operation:
        """The RECOVER itself."""
        return decode(self.raw, Operation, size_max=OPERATION_SIZE_MAX)


def new_recovery(
    account: Account, key: bytes, following: bytes, parameters: Parameters, *, network: bytes, now_ms: int
) -> Recovery:
    """Ask for `key` as the account's key, and `following` (a public key) as its next one.

    Args:
        now_ms: the time of the committee's clocks, which our own may differ from: `Wallet.ask_guardians`.

    Raises:
        InvalidOperation: rules ``"unopened"``, ``"guardians"``, ``"lease-min"``, and ``"lease"`` while the
            owner's has not lapsed.
    """
    if not account.seq:
        raise InvalidOperation("unopened", "an account without any operation has nothing to recover")
    operation = recover(account, key, key_digest(following), parameters, network=network, now_ms=now_ms)
    return Recovery(VERSION, account, encode(operation), ())


def read_recovery(data: bytes, network: bytes) -> Recovery:
    """A request from a file, checked: it recovers exactly the account that it shows.

    Raises:
        Malformed: it is none.
        InvalidInput: it is of another network or version, or does something else than it shows.
        BadSignature: of a guardian.
    """
    recovery = decode(data, Recovery, size_max=_SIZE_MAX)
    if recovery.version != VERSION:
        raise InvalidInput(f"a recovery request of version {recovery.version}; this release knows {VERSION}")
    operation, account = recovery.operation, recovery.account
    body = operation.body
    if operation.network != network:
        raise InvalidInput("this recovery request is for another network")
    shown = isinstance(body, Recover) and (operation.object, operation.seq, operation.previous) == (
        account.id,
        account.seq + 1,
        account.head,
    )
    if not shown or not isinstance(body, Recover):
        raise InvalidInput("the request is not for the account that it shows")
    after = msgspec.structs.replace(
        account,
        seq=operation.seq,
        key=body.key,
        next_digest=body.next_digest,
        timestamp=operation.timestamp or 0,
    )
    if account_digest(after) != body.digest:
        raise InvalidInput("the request would change more of the account than its keys")
    keys = [signed.key for signed in recovery.signatures]
    if keys != sorted(set(keys)) or not set(keys) <= set(account.guardians):
        raise InvalidInput("somebody else than a guardian has signed, or one twice")
    for signed in recovery.signatures:
        verify(signed.key, SIGN_RECOVER, recovery.id, signed.signature)
    return recovery


def sign_recovery(recovery: Recovery, guardian: Signer) -> Recovery:
    """The request with this guardian's signature; a second one of the same guardian changes nothing.

    Raises:
        InvalidInput: the key is no guardian's.
    """
    if guardian.public not in recovery.account.guardians:
        raise InvalidInput("this key is none of the account's guardians")
    if any(signed.key == guardian.public for signed in recovery.signatures):
        return recovery
    signature = GuardianSignature(guardian.public, guardian.sign(SIGN_RECOVER, recovery.id))
    signatures = sorted((*recovery.signatures, signature), key=lambda signed: signed.key)
    return msgspec.structs.replace(recovery, signatures=tuple(signatures))


def finished_recovery(recovery: Recovery) -> SignedOperation:
    """The RECOVER, ready to be submitted by anybody.

    Raises:
        InvalidInput: guardians are missing.
    """
    if recovery.missing:
        raise InvalidInput(f"{recovery.missing} more of its guardians must sign")
    signatures = tuple(signed.signature for signed in recovery.signatures[: recovery.account.m])
    return SignedOperation(recovery.raw, signatures, None)
