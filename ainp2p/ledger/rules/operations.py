"""The ledger's operations: message classes, ids, and the one way from bytes to a `ParsedOperation`.

An operation writes one object: an account, a Lock, or the System, whose id is the network's. Its id is the
hash of its bytes; signatures and proofs stay outside, so whoever submits the same receipt makes the same
operation. `parse` checks everything that can be known without any state; `ainp2p.ledger.rules.state`
checks the rest. No I/O.

    Operation = [version, network, object, seq, previous, timestamp | nil, body]
    body      = [tag, …]: 1 Spend, 2 Settle, 3 Close, 4 Refund, 5 Recover, 6 Void, 7 EndEpoch, 8 NextCommittee

LEDGER.md lists a separate `kind`; here the body's tag is the kind, so that both cannot disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Protocol

import msgspec

from ainp2p.errors import InvalidInput, InvalidOperation
from ainp2p.ledger.rules.amounts import checked_sum
from ainp2p.ledger.rules.parameters import CREDITS_MAX as CREDITS_MAX
from ainp2p.ledger.rules.parameters import VALIDATORS_MAX as VALIDATORS_MAX
from ainp2p.ledger.rules.parameters import Parameters, check_parameters
from ainp2p.protocol.codec import Bytes32, Message, Signature, Text, Uint, encode, fast_decoder
from ainp2p.protocol.identity import digest

VERSION = 1
SIGN_OPERATION = b"ainp2p/op/1"  # the owner signs an operation's id under this purpose
SIGN_CLOSE = b"ainp2p/close/1"  # a Lock's closer signs a CLOSE's id under this one
SIGN_RECOVER = b"ainp2p/recover/1"  # a guardian signs a RECOVER's id under this one
SIGN_COMMITTEE = b"ainp2p/committee/1"  # a COMMITTEE's proposer signs its id under this one
OPERATION_SIZE_MAX = 29_000  # bytes; two rivals fit one Evidence. 512 credits, 64 outs, 8 plain Locks fit it
OUTS_MAX = 64
LOCKS_MAX = 8
KEYS_MAX = 16  # guardians, beneficiaries, authority keys
ADDRESSES_MAX = 8  # of one validator
EVIDENCE_MAX = 64  # named by one COMMITTEE
BONDS_MAX = 64  # ended by one COMMITTEE, for each reason; the others wait for the next one
CREDIT_ID_SIZE = 34
BOND = b"bond"  # the purpose of a Lock whose authority is the System: a validator's bond
NO_NEXT_KEY = bytes(32)  # as next_digest: no key has this digest, so the account can never rotate

CreditId = Annotated[bytes, msgspec.Meta(min_length=CREDIT_ID_SIZE, max_length=CREDIT_ID_SIZE)]
KeySet = Annotated[tuple[Bytes32, ...], msgspec.Meta(max_length=KEYS_MAX)]
DeliveryContext = Annotated[bytes, msgspec.Meta(max_length=32)]  # 32 bytes, or empty without a receipt


class Signer(Protocol):
    """Whatever can sign under a purpose: `identity.Key`, or a vault."""

    @property
    def public(self) -> bytes:
        """The 32-byte public key."""

    def sign(self, purpose: bytes, payload: bytes) -> bytes:
        """A 64-byte signature."""


class Inception(Message, frozen=True):
    """What an account is born with; with the network it makes the account's id, for ever.

    `next_digest` commits to the key after this one (`key_digest`), `guardians` are a sorted set of keys of
    which `m` can recover the account `lease` ms after its last operation.
    """

    key: Bytes32
    next_digest: Bytes32
    guardians: KeySet
    m: Uint
    lease: Uint  # ms
    salt: Bytes32


class Out(Message, frozen=True):
    """A credit to make: `amount` uain for `account`."""

    account: Bytes32
    amount: Uint


class Share(Message, frozen=True):
    """One beneficiary of a Lock and its parts of whatever is paid."""

    account: Bytes32
    parts: Uint


class LockTerms(Message, frozen=True):
    """A deposit to open; the SPEND's account pays. k keys of `authority` sign the receipts."""

    beneficiaries: Annotated[tuple[Share, ...], msgspec.Meta(max_length=KEYS_MAX)]  # sorted by account
    deposit: Uint  # uain
    step: Uint  # uain; a SETTLE pays at least that much
    authority: KeySet
    threshold: Uint  # k
    closer: Bytes32  # this key may end the Lock before it expires
    expiry: Uint  # ms since 1970
    purpose: Bytes32  # `purpose_digest`


class Rotation(Message, frozen=True):
    """The revealed next key, which signs, and the digest of the one after it."""

    key: Bytes32
    next_digest: Bytes32


class Spend(Message, frozen=True, tag=1):
    """Consume credits; make credits and Locks; burn a fee. Without outs and locks it is a heartbeat."""

    epoch: Uint  # whose parameters (fees, limits) it follows
    credits: Annotated[tuple[CreditId, ...], msgspec.Meta(max_length=CREDITS_MAX)]  # a sorted set
    outs: Annotated[tuple[Out, ...], msgspec.Meta(max_length=OUTS_MAX)]
    locks: Annotated[tuple[LockTerms, ...], msgspec.Meta(max_length=LOCKS_MAX)]
    fee: Uint
    inception: Inception | None  # if and only if seq is 1
    rotate: Rotation | None
    digest: Bytes32  # `accounts.account_digest` of the account after this operation


class Settle(Message, frozen=True, tag=2):
    """Pay a Lock's beneficiaries up to a receipt's cumulative amount. Anyone may submit it."""

    cumulative: Uint
    units: Uint
    context: DeliveryContext


class Close(Message, frozen=True, tag=3):
    """As SETTLE, and end the Lock; what is left goes back to the payer."""

    cumulative: Uint
    units: Uint
    context: DeliveryContext


class Refund(Message, frozen=True, tag=4):
    """End an expired Lock; what is left goes back to the payer."""


class Recover(Message, frozen=True, tag=5):
    """Guardians give an account whose lease has lapsed new keys; they stay its guardians."""

    key: Bytes32
    next_digest: Bytes32
    digest: Bytes32  # `accounts.account_digest` of the account after this operation


class Void(Message, frozen=True, tag=6):
    """Nobody's: the slot of an owner who signed two operations for it. `accounts.void` makes the only one."""

    inception: Inception | None  # if and only if seq is 1
    digest: Bytes32  # `accounts.account_digest` of the account after this operation


class EndEpoch(Message, frozen=True, tag=7):
    """Nothing but the System is voted on in this epoch any more."""

    epoch: Uint


class Seat(Message, frozen=True):
    """A validator's place in a committee."""

    key: Bytes32
    weight: Uint  # at least 1
    addresses: Annotated[tuple[Text, ...], msgspec.Meta(max_length=ADDRESSES_MAX)]


class NextCommittee(Message, frozen=True, tag=8):
    """LEDGER.md's COMMITTEE: opens an epoch from one set of HANDOFFs of the epoch before."""

    epoch: Uint  # the one that it opens
    seats: Annotated[tuple[Seat, ...], msgspec.Meta(min_length=1, max_length=VALIDATORS_MAX)]  # sorted by key
    parameters: Parameters
    handoffs: Annotated[tuple[Bytes32, ...], msgspec.Meta(min_length=1, max_length=VALIDATORS_MAX)]
    evidence: Annotated[tuple[Bytes32, ...], msgspec.Meta(max_length=EVIDENCE_MAX)]  # digests, a sorted set
    state_root: Bytes32  # of the state after exactly the union of the HANDOFFs' frontiers
    proposer: Bytes32  # the key that signs: a member of the epoch before
    offenders: Annotated[
        tuple[Bytes32, ...], msgspec.Meta(max_length=EVIDENCE_MAX)
    ] = ()  # keys, a sorted set
    burnt_bonds: Annotated[
        tuple[Bytes32, ...], msgspec.Meta(max_length=BONDS_MAX)
    ] = ()  # Locks, a sorted set
    returned_bonds: Annotated[
        tuple[Bytes32, ...], msgspec.Meta(max_length=BONDS_MAX)
    ] = ()  # Locks, a sorted set


Body = Spend | Settle | Close | Refund | Recover | Void | EndEpoch | NextCommittee


class Operation(Message, frozen=True):
    """One step of one object's chain; `seq` starts at 1 with `previous` = the object's id."""

    version: Uint
    network: Bytes32
    object: Bytes32
    seq: Uint
    previous: Bytes32
    timestamp: Uint | None  # ms since 1970; a SPEND, a RECOVER and a COMMITTEE have one, the others none
    body: Body


class SignedOperation(Message, frozen=True):
    """What travels: the operation's bytes, and its proof.

    SPEND: one signature of the account's key (of the revealed key if it rotates) over the id.
    SETTLE, CLOSE: the receipt's `threshold` authority signatures in the order of their keys, and for a
    CLOSE before expiry the closer's signature over the id. REFUND, VOID, END-EPOCH: nothing.
    RECOVER: m guardians' signatures over the id in the order of their keys. COMMITTEE: its proposer's.
    """

    raw: Annotated[bytes, msgspec.Meta(max_length=OPERATION_SIZE_MAX)]
    signatures: Annotated[tuple[Signature, ...], msgspec.Meta(max_length=KEYS_MAX)]
    closer: Signature | None


class ParsedOperation(msgspec.Struct, frozen=True, gc=False):  # made for each: a quarter of a dataclass' time
    """An operation that is well formed in itself. Only `parse` makes it; nothing is verified yet."""

    raw: bytes
    id: bytes
    operation: Operation
    signed: SignedOperation


# --- names --------------------------------------------------------------------------------------


def operation_id(raw: bytes) -> bytes:
    """The id of an operation's canonical bytes."""
    return digest(b"ainp2p/op/1", raw)


def account_id(network: bytes, inception: Inception) -> bytes:
    """The id of the account that `inception` opens on this network; it is the agent's id."""
    return digest(b"ainp2p/account/1", network, encode(inception))


def lock_id(operation: bytes, index: int) -> bytes:
    """The id of the Lock that the SPEND with id `operation` opens at `index` of its locks."""
    return digest(b"ainp2p/lock/1", operation, index.to_bytes(2, "big"))


def credit_id(operation: bytes, index: int) -> bytes:
    """The 34-byte id of a credit: the id of the operation that made it, and its place there.

    A SPEND's outs have their own index, a SETTLE's, CLOSE's or REFUND's beneficiaries theirs; the rest
    that goes back to the payer comes after the last beneficiary. Genesis grants use the network's id.
    """
    return operation + index.to_bytes(2, "big")


def key_digest(public: bytes) -> bytes:
    """The commitment to a next key, for `Inception.next_digest` and `Rotation.next_digest`."""
    return digest(b"ainp2p/nextkey/1", public)


def purpose_digest(purpose: bytes) -> bytes:
    """What a Lock stores of its purpose."""
    return digest(b"ainp2p/purpose/1", purpose)


def plain_inception(public: bytes, *, next_digest: bytes = NO_NEXT_KEY, salt: bytes = bytes(32)) -> Inception:
    """The inception of an account with one key and no guardians."""
    return Inception(public, next_digest, (), 0, 0, salt)


# --- building and reading -----------------------------------------------------------------------


def sign_operation(operation: Operation, signer: Signer) -> SignedOperation:
    """Sign a SPEND with the account's key (the revealed next one if it rotates)."""
    raw = encode(operation)
    return SignedOperation(raw, (signer.sign(SIGN_OPERATION, operation_id(raw)),), None)


def sign_recover(operation: Operation, guardians: Sequence[Signer]) -> SignedOperation:
    """Sign a RECOVER with m guardians' keys, in whatever order they come."""
    raw = encode(operation)
    in_order = sorted(guardians, key=lambda guardian: guardian.public)
    id_ = operation_id(raw)
    return SignedOperation(raw, tuple(each.sign(SIGN_RECOVER, id_) for each in in_order), None)


def sign_committee(operation: Operation, proposer: Signer) -> SignedOperation:
    """Sign a COMMITTEE with its proposer's key."""
    raw = encode(operation)
    return SignedOperation(raw, (proposer.sign(SIGN_COMMITTEE, operation_id(raw)),), None)


def unsigned_operation(operation: Operation) -> SignedOperation:
    """What travels of an operation that nobody signs: VOID, END-EPOCH, REFUND."""
    return SignedOperation(encode(operation), (), None)


BOND_PURPOSE = purpose_digest(BOND)
_decode_operation = fast_decoder(Operation, size_max=OPERATION_SIZE_MAX)


def parse(signed: SignedOperation) -> ParsedOperation:
    """Read an operation and check all that needs no state: shape, limits, order of sets, kinds of proof.

    Raises:
        Malformed: the bytes are no canonical operation.
        InvalidOperation: they are, and break a rule by themselves (so a vote for it is evidence).
    """
    operation = _decode_operation(signed.raw)
    if operation.version != VERSION:
        raise InvalidOperation("version", f"{operation.version}, this release knows {VERSION}")
    if operation.seq == 0:
        raise InvalidOperation("sequence", "starts at 1")
    if (operation.previous == operation.object) != (operation.seq == 1):
        raise InvalidOperation("previous", "the first operation, and no other, follows its object's id")
    body = operation.body
    if isinstance(body, Spend):
        _check_spend(operation, body, signed)
    elif isinstance(body, Settle | Close | Refund):
        _check_on_lock(operation, body, signed)
    elif isinstance(body, Recover | Void):
        _check_without_owner(operation, body, signed)
    else:
        _check_on_system(operation, body, signed)
    return ParsedOperation(signed.raw, operation_id(signed.raw), operation, signed)


def _check_spend(operation: Operation, body: Spend, signed: SignedOperation) -> None:
    if operation.timestamp is None:
        raise InvalidOperation("timestamp", "a SPEND has one")
    if len(signed.signatures) != 1 or signed.closer is not None:
        raise InvalidOperation("proof", "a SPEND has exactly one signature")
    if (body.inception is not None) != (operation.seq == 1):
        raise InvalidOperation("inception", "belongs into the first operation and no other")
    if body.inception is not None:
        _check_inception(operation, body.inception)
    _check_set(body.credits, "credit-order")
    amounts = [body.fee]
    for out in body.outs:
        _refuse_zero(out.amount)
        amounts.append(out.amount)
    for terms in body.locks:
        _check_terms(terms)
        _check_bond(terms, operation.network)
        amounts.append(terms.deposit)
    checked_sum(amounts)


def _check_inception(operation: Operation, inception: Inception) -> None:
    _check_set(inception.guardians, "guardians")
    if not (1 <= inception.m <= len(inception.guardians) or inception.m == len(inception.guardians) == 0):
        raise InvalidOperation("guardians", f"{inception.m} of {len(inception.guardians)}")
    if account_id(operation.network, inception) != operation.object:
        raise InvalidOperation("inception", "does not hash to the account's id")


def _check_terms(terms: LockTerms) -> None:
    _refuse_zero(terms.deposit)
    if terms.step == 0:
        raise InvalidOperation("step", "at least 1 uain")
    _check_set(tuple(share.account for share in terms.beneficiaries), "beneficiaries")
    if not terms.beneficiaries or not all(share.parts for share in terms.beneficiaries):
        raise InvalidOperation("beneficiaries", "at least one, each with at least one part")
    checked_sum(share.parts for share in terms.beneficiaries)
    _check_set(terms.authority, "authority")
    if not 1 <= terms.threshold <= len(terms.authority):
        raise InvalidOperation("authority", f"{terms.threshold} of {len(terms.authority)} keys")


def _check_bond(terms: LockTerms, network: bytes) -> None:
    # LEDGER.md, Epochs: "a bond is a Lock whose purpose is “bond”, whose authority is the System". Each
    # implies the other, so that no receipt can ever be made for a bond, and nothing else passes for one.
    if (terms.purpose == BOND_PURPOSE) != (network in terms.authority):
        raise InvalidOperation("bond", "the System alone has authority over bonds, and over nothing else")
    if terms.purpose == BOND_PURPOSE and len(terms.authority) != 1:
        raise InvalidOperation("bond", "its authority is the System alone")


def _check_without_owner(operation: Operation, body: Recover | Void, signed: SignedOperation) -> None:
    if isinstance(body, Recover):
        if operation.timestamp is None:
            raise InvalidOperation("timestamp", "a RECOVER has one")
        if operation.seq == 1:
            raise InvalidOperation("sequence", "nobody recovers an account before its first operation")
        if not signed.signatures or signed.closer is not None:
            raise InvalidOperation("proof", "a RECOVER has its guardians' signatures")
        return
    if operation.timestamp is not None:
        raise InvalidOperation("timestamp", "a VOID has none")
    if signed.signatures or signed.closer is not None:
        raise InvalidOperation("proof", "a VOID has no signatures")
    if (body.inception is not None) != (operation.seq == 1):
        raise InvalidOperation("inception", "belongs into the first operation and no other")
    if body.inception is not None:
        _check_inception(operation, body.inception)


def _check_on_system(operation: Operation, body: EndEpoch | NextCommittee, signed: SignedOperation) -> None:
    if operation.object != operation.network:
        raise InvalidOperation("object", "the System's id is the network's")
    closes = isinstance(body, EndEpoch)
    # END-EPOCH{0}, COMMITTEE{1}, END-EPOCH{1}, …: the epoch says the place in the System's chain.
    if operation.seq != 2 * body.epoch + closes:
        raise InvalidOperation("sequence", f"{operation.seq} is not the place of epoch {body.epoch}'s")
    if (operation.timestamp is None) != closes:
        raise InvalidOperation("timestamp", "a COMMITTEE has one, an END-EPOCH none")
    if len(signed.signatures) != (0 if closes else 1) or signed.closer is not None:
        raise InvalidOperation("proof", "its proposer signs a COMMITTEE, nobody an END-EPOCH")
    if isinstance(body, NextCommittee):
        _check_committee(body)


def _check_committee(body: NextCommittee) -> None:
    _check_set(tuple(seat.key for seat in body.seats), "seats")
    if not all(seat.weight for seat in body.seats):
        raise InvalidOperation("seats", "each has a weight of at least 1")
    checked_sum(seat.weight for seat in body.seats)
    _check_set(body.handoffs, "handoffs")
    _check_set(body.evidence, "evidence")
    _check_set(body.offenders, "offenders")
    if bool(body.offenders) != bool(body.evidence) or len(body.offenders) > len(body.evidence):
        raise InvalidOperation("offenders", "there is evidence against each, or there are none")
    if not {seat.key for seat in body.seats}.isdisjoint(body.offenders):
        raise InvalidOperation("offenders", "one has a seat")
    _check_set(body.burnt_bonds, "bonds")
    _check_set(body.returned_bonds, "bonds")
    if not set(body.burnt_bonds).isdisjoint(body.returned_bonds):
        raise InvalidOperation("bonds", "one is burnt and returned")
    try:
        check_parameters(body.parameters)
    except InvalidInput as exc:
        raise InvalidOperation("parameters", str(exc)) from exc


def _check_on_lock(operation: Operation, body: Settle | Close | Refund, signed: SignedOperation) -> None:
    if operation.timestamp is not None:
        raise InvalidOperation("timestamp", "operations on a Lock have none")
    if isinstance(body, Refund):
        if signed.signatures or signed.closer is not None:
            raise InvalidOperation("proof", "a REFUND has no signatures")
        return
    if isinstance(body, Settle) and signed.closer is not None:
        raise InvalidOperation("proof", "a SETTLE has no closer's signature")
    bare = isinstance(body, Close) and not body.context
    if bare and (body.units or signed.signatures):
        raise InvalidOperation("proof", "a CLOSE without context has no units and no receipt")
    if bare and signed.closer is None:
        # It would do what a REFUND does. With two operations that need no key, anybody could split the
        # committee's votes and so keep an expired Lock from ever ending.
        raise InvalidOperation("proof", "without a receipt or the closer's signature a Lock ends by REFUND")
    if not bare and (len(body.context) != 32 or not signed.signatures):
        raise InvalidOperation("proof", "a receipt has a context of 32 bytes and signatures")


def _refuse_zero(amount: int) -> None:
    if amount == 0:
        raise InvalidOperation("amount", "outs and deposits are at least 1 uain")


def _check_set(items: tuple[bytes, ...], rule: str) -> None:
    """Sets travel as sorted unique arrays: one encoding each."""
    for lower, upper in pairwise(items):
        if lower >= upper:
            raise InvalidOperation(rule, "not sorted, or named twice")
