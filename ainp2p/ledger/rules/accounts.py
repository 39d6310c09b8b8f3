"""Accounts: their state, the rules of SPEND, RECOVER and VOID that concern it, and their builders.

Pure values: nothing here knows which credits exist; `ainp2p.ledger.rules.state` looks them up.

    (no account) ──SPEND or VOID, with the inception──► seq 1 ──SPEND, RECOVER or VOID──► seq 2 ──► …
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from ainp2p.errors import BadSignature, InsufficientFunds, InvalidInput, InvalidOperation
from ainp2p.ledger.rules.amounts import AMOUNT_MAX, checked_sum
from ainp2p.ledger.rules.genesis import Parameters
from ainp2p.ledger.rules.operations import (
    SIGN_RECOVER,
    VERSION,
    Inception,
    LockTerms,
    Operation,
    Out,
    Recover,
    Rotation,
    Spend,
    Void,
    account_id,
    key_digest,
)
from ainp2p.ledger.rules.signatures import verify_in_order
from ainp2p.protocol.codec import Bytes32, Message, Uint, encode
from ainp2p.protocol.identity import digest, verify


class Account(Message, frozen=True):
    """An account after `seq` decided operations; `head` is the last one's id, at first the account's own."""

    id: Bytes32
    seq: Uint
    head: Bytes32
    balance: Uint
    debt: Uint
    key: Bytes32
    next_digest: Bytes32
    guardians: tuple[Bytes32, ...]
    m: Uint
    lease: Uint
    timestamp: Uint  # of the last operation, ms
    epoch: Uint  # that the last operation named


def unopened_account(network: bytes, inception: Inception) -> Account:
    """The account that `inception` will open with its first SPEND; credits may already be waiting for it."""
    id_ = account_id(network, inception)
    return Account(
        id=id_,
        seq=0,
        head=id_,
        balance=0,
        debt=0,
        key=inception.key,
        next_digest=inception.next_digest,
        guardians=inception.guardians,
        m=inception.m,
        lease=inception.lease,
        timestamp=0,
        epoch=0,
    )


def account_digest(account: Account) -> bytes:
    """What a SPEND, RECOVER or VOID ends with: of the whole state after it, except `head`, its own id."""
    a = account
    return digest(
        b"ainp2p/state/1",
        encode(
            (
                a.id,
                a.seq,
                a.balance,
                a.debt,
                a.key,
                a.next_digest,
                a.guardians,
                a.m,
                a.lease,
                a.timestamp,
                a.epoch,
            )
        ),
    )


# --- rules --------------------------------------------------------------------------------------


def settling_fee(terms: LockTerms, parameters: Parameters) -> int:
    """Prepaid for all SETTLEs of a Lock and its end: floor · (⌊deposit/step⌋ + 2)."""
    return parameters.fee_floor * (terms.deposit // terms.step + 2)


def minimum_fee(account: Account, locks: Iterable[LockTerms], parameters: Parameters) -> int:
    """The least fee of the account's next SPEND: floor, debt, and the settling fee of each Lock it opens."""
    fee = parameters.fee_floor + account.debt
    for terms in locks:
        fee += settling_fee(terms, parameters)
    return fee


def spending_key(account: Account, spend: Spend) -> bytes:
    """The key that must sign: the current one, or for a rotation the revealed next key alone.

    Raises:
        InvalidOperation: rule ``"rotation"``, the revealed key is not the one committed to.
    """
    if spend.rotate is None:
        return account.key
    if key_digest(spend.rotate.key) != account.next_digest:
        raise InvalidOperation("rotation", "the revealed key is not the one that was committed to")
    return spend.rotate.key


def after_spend(
    account: Account, operation: Operation, spend: Spend, received: int, parameters: Parameters, head: bytes
) -> Account:
    """The account after this SPEND, which consumes credits worth `received` and has the id `head`.

    Lemma L12 (docs/ledger-proof.md): outs, deposits, fee and new balance are balance and credits.

    Raises:
        InvalidOperation: a rule refuses; ``rule`` says which.
        InsufficientFunds: balance and credits do not cover outs, deposits and fee.
    """
    timestamp = operation.timestamp or 0
    if timestamp < account.timestamp:
        raise InvalidOperation("timestamp", f"{timestamp} is before the last one, {account.timestamp}")
    if spend.epoch < account.epoch:
        raise InvalidOperation("epoch", f"{spend.epoch}, the last operation named {account.epoch}")
    least = minimum_fee(account, spend.locks, parameters)
    if spend.fee < least:
        raise InvalidOperation("fee", f"{spend.fee} uain, at least {least}")
    needed = spend.fee
    for terms in spend.locks:
        if not timestamp < terms.expiry <= timestamp + parameters.lock_life_ms_max:
            raise InvalidOperation(
                "lock-life", f"0 to {parameters.lock_life_ms_max} ms from the timestamp on"
            )
        needed += terms.deposit
    for out in spend.outs:
        needed += out.amount
    available = checked_sum((account.balance, received))
    if needed > available:
        raise InsufficientFunds(available, needed)
    key, next_digest = account.key, account.next_digest
    if spend.rotate is not None:
        key, next_digest = spending_key(account, spend), spend.rotate.next_digest
    return Account(
        account.id,
        operation.seq,
        head,
        available - needed,
        0,
        key,
        next_digest,
        account.guardians,
        account.m,
        account.lease,
        timestamp,
        spend.epoch,
    )


def after_recover(
    account: Account, operation: Operation, body: Recover, lease_min: int, head: bytes
) -> Account:
    """The account after this RECOVER with id `head`: its guardians stay, its timestamp becomes the last.

    Args:
        lease_min: ms; the least lease of the epoch that the account's last operation named.

    Raises:
        InvalidOperation: rules ``"guardians"``, ``"lease-min"``, ``"lease"``.
    """
    if not account.guardians:
        raise InvalidOperation("guardians", "the account has none")
    # LEDGER.md, RECOVER: "last timestamp + lease ≤ timestamp; lease ≥ the least lease". By timestamps alone:
    # an owner's heartbeat that says an earlier time than the RECOVER, and less than a lease ago, always wins.
    if account.lease < lease_min:
        raise InvalidOperation("lease-min", f"a lease of {account.lease} ms, at least {lease_min}")
    timestamp = operation.timestamp or 0
    if timestamp < account.timestamp + account.lease:
        raise InvalidOperation("lease", f"runs until {account.timestamp + account.lease}")
    return msgspec.structs.replace(
        account,
        seq=operation.seq,
        head=head,
        key=body.key,
        next_digest=body.next_digest,
        timestamp=timestamp,
    )


def after_void(account: Account, void_debt: int, head: bytes) -> Account:
    """The account after the VOID of its next slot, with id `head`."""
    # LEDGER.md, VOID: "seq + 1; adds a constant of the genesis to the debt". It must always be possible, so
    # a debt that nobody could ever pay grows no further.
    debt = min(account.debt + void_debt, AMOUNT_MAX)
    return msgspec.structs.replace(account, seq=account.seq + 1, head=head, debt=debt)


def verify_guardians(account: Account, operation: bytes, signatures: Sequence[bytes]) -> None:
    """Check that exactly m guardians signed the RECOVER with this id, in the order of their keys.

    Raises:
        BadSignature: they did not.
    """
    if len(signatures) != account.m:
        raise BadSignature(f"{len(signatures)} signatures, {account.m} guardians are needed")
    verify_in_order(
        account.guardians,
        signatures,
        lambda key, signature: verify(key, SIGN_RECOVER, operation, signature),
        "a signature fits no further guardian's key",
    )


# --- building -----------------------------------------------------------------------------------


def spend(
    account: Account,
    credits: Mapping[bytes, int],
    parameters: Parameters,
    *,
    network: bytes,
    now_ms: int,
    outs: Sequence[tuple[bytes, int]] = (),
    locks: Sequence[LockTerms] = (),
    inception: Inception | None = None,
    rotate: Rotation | None = None,
    epoch: int = 0,
    fee: int | None = None,
) -> Operation:
    """The account's next SPEND, valid as it is, ready for `operations.sign_operation`.

    Args:
        credits: unconsumed final credits by id; the largest are consumed, up to the epoch's cap.
        outs: (account, uain) pairs.
        inception: needed while the account is unopened (`unopened_account`).
        fee: at least the minimum, which is the default.

    Raises:
        InsufficientFunds: balance and the credits that one SPEND may consume are not enough.
        InvalidOperation, InvalidInput: what is asked for breaks a rule.
    """
    if (inception is not None) != (account.seq == 0):
        raise InvalidInput("an inception belongs into the account's first operation and no other")
    largest = sorted(credits, key=lambda id_: (-credits[id_], id_))[: parameters.credits_max]
    unfinished = Operation(
        version=VERSION,
        network=network,
        object=account.id,
        seq=account.seq + 1,
        previous=account.head,
        timestamp=max(now_ms, account.timestamp),
        body=Spend(
            epoch=epoch,
            credits=tuple(sorted(largest)),
            outs=tuple(Out(to, amount) for to, amount in outs),
            locks=tuple(locks),
            fee=minimum_fee(account, locks, parameters) if fee is None else fee,
            inception=inception,
            rotate=rotate,
            digest=bytes(32),
        ),
    )
    body = unfinished.body
    assert isinstance(body, Spend)
    received = sum(credits[id_] for id_ in largest)
    after = after_spend(account, unfinished, body, received, parameters, account.head)
    return msgspec.structs.replace(
        unfinished, body=msgspec.structs.replace(body, digest=account_digest(after))
    )


def recover(
    account: Account,
    key: bytes,
    next_digest: bytes,
    parameters: Parameters,
    *,
    network: bytes,
    now_ms: int,
) -> Operation:
    """The RECOVER that gives an account this key, ready for `operations.sign_recover`.

    Raises:
        InvalidOperation: it would not be valid, now.
    """
    unfinished = Operation(
        VERSION,
        network,
        account.id,
        account.seq + 1,
        account.head,
        now_ms,
        Recover(key, next_digest, bytes(32)),
    )
    body = unfinished.body
    assert isinstance(body, Recover)
    after = after_recover(account, unfinished, body, parameters.lease_ms_min, account.head)
    return msgspec.structs.replace(
        unfinished, body=msgspec.structs.replace(body, digest=account_digest(after))
    )


def void(account: Account, inception: Inception | None, parameters: Parameters, network: bytes) -> Operation:
    """THE void of the account's next slot: the same bytes whoever makes it.

    Args:
        inception: the account's while it is unopened (`unopened_account`), else None.
        parameters: the genesis'.

    Raises:
        InvalidInput: an inception too much, or none where there must be one.
    """
    if (inception is not None) != (account.seq == 0):
        raise InvalidInput("an inception belongs into the account's first operation and no other")
    after = after_void(account, parameters.void_debt, account.head)
    body = Void(inception, account_digest(after))
    return Operation(VERSION, network, account.id, account.seq + 1, account.head, None, body)
