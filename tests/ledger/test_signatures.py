"""E12: forged signatures meet every place that verifies one, and every place gives the same verdict.

A *path* builds whatever the ledger accepts from a key and a way to sign; a *forgery* is a key and a way
to sign that must never be accepted. Each path is also walked with an honest signer.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import nacl.bindings
import pytest

from ainp2p.errors import BadSignature, Malformed
from ainp2p.ledger.rules import accounts
from ainp2p.ledger.rules.genesis import DEVELOPMENT, new_genesis
from ainp2p.ledger.rules.operations import (
    NO_NEXT_KEY,
    SIGN_CLOSE,
    SIGN_COMMITTEE,
    SIGN_OPERATION,
    SIGN_RECOVER,
    Inception,
    Rotation,
    Seat,
    SignedOperation,
    key_digest,
    operation_id,
    parse,
    plain_inception,
)
from ainp2p.ledger.rules.receipts import (
    SIGN_RECEIPT,
    Payer,
    Receipt,
    ReceiptBook,
    SignedReceipt,
    close_operation,
    refund_operation,
    settle_operation,
    sign_receipt,
)
from ainp2p.ledger.rules.state import State
from ainp2p.ledger.rules.system import epoch_ends_at
from ainp2p.protocol.codec import decode, encode

from .world import LEASE, NOW, World, inception_of, key_of

Sign = Callable[[bytes, bytes], bytes]  # (purpose, payload) → signature

HONEST = key_of("honest")
ORDER = 2**252 + 27742317777372353535851937790883648493  # of Ed25519's group


# --- every place that verifies ------------------------------------------------------------------------


def spend(public: bytes, sign: Sign) -> None:
    inception = plain_inception(public)
    genesis = new_genesis("e12", NOW, [(key_of("v").public, 1, [])], [(inception, 100)], None, DEVELOPMENT)
    state = State(genesis)
    account = accounts.unopened_account(state.network, inception)
    operation = accounts.spend(
        account,
        state.credits_of(account.id),
        DEVELOPMENT,
        network=state.network,
        now_ms=NOW,
        inception=inception,
    )
    raw = encode(operation)
    parsed = parse(SignedOperation(raw, (sign(SIGN_OPERATION, operation_id(raw)),), None))
    state.check(parsed, NOW)


def rotation(public: bytes, sign: Sign) -> None:
    world = World()
    world.do(world.spend("alice"))
    account = msgspec.structs.replace(world.account("alice"), next_digest=key_digest(public))
    world.state.accounts[account.id] = account
    raw = encode(world.operation("alice", rotate=Rotation(public, NO_NEXT_KEY)))
    parsed = parse(SignedOperation(raw, (sign(SIGN_OPERATION, operation_id(raw)),), None))
    world.state.check(parsed, NOW)


def settle(public: bytes, sign: Sign) -> None:
    world = World()
    lock = world.open_lock(authority=(public,))
    body = encode(Receipt(world.network, lock.id, 100, 1, b"c" * 32))
    world.state.check(parse(settle_operation(lock, SignedReceipt(body, sign(SIGN_RECEIPT, body)))), NOW)


def settle_two_of_two(public: bytes, sign: Sign) -> None:
    world = World()
    honest = key_of("judge")
    lock = world.open_lock(authority=tuple(sorted((public, honest.public))), threshold=2)
    body = encode(Receipt(world.network, lock.id, 100, 1, b"c" * 32))
    by = {public: sign(SIGN_RECEIPT, body), honest.public: honest.sign(SIGN_RECEIPT, body)}
    signed = settle_operation(lock, SignedReceipt(body, bytes(64)))
    signed = msgspec.structs.replace(signed, signatures=tuple(by[key] for key in lock.authority))
    world.state.check(parse(signed), NOW)


def close_with_receipt(public: bytes, sign: Sign) -> None:
    world = World()
    lock = world.open_lock(authority=(public,))
    body = encode(Receipt(world.network, lock.id, 100, 1, b"c" * 32))
    signed = SignedReceipt(body, sign(SIGN_RECEIPT, body))
    world.state.check(parse(close_operation(world.network, lock, signed, key_of("bob"))), NOW)


class _Closer:
    def __init__(self, public: bytes, sign: Sign) -> None:
        self.public, self.sign = public, sign


def closer(public: bytes, sign: Sign) -> None:
    world = World()
    lock = world.open_lock(closer=public)
    world.state.check(parse(close_operation(world.network, lock, None, _Closer(public, sign))), NOW)


def closer_after_expiry(public: bytes, sign: Sign) -> None:
    """A signature that is not needed any more is still verified: it is what makes a CLOSE ungated."""
    world = World()
    lock = world.open_lock(closer=public)
    signed = close_operation(world.network, lock, None, _Closer(public, sign))
    world.state.check(parse(signed), lock.expiry)


def guardian(public: bytes, sign: Sign) -> None:
    honest = key_of("guardian 1")
    guardians = tuple(sorted((public, honest.public)))

    def guarded(name: str) -> Inception:
        return msgspec.structs.replace(inception_of(name), guardians=guardians, m=2, lease=LEASE)

    world = World(inception=guarded)
    world.do(world.spend("alice"))
    world.now += LEASE
    raw = encode(world.recovery("alice", "new"))
    id_ = operation_id(raw)
    by = {public: sign(SIGN_RECOVER, id_), honest.public: honest.sign(SIGN_RECOVER, id_)}
    signed = SignedOperation(raw, tuple(by[key] for key in guardians), None)
    world.state.check(parse(signed), world.now)


def proposer(public: bytes, sign: Sign) -> None:
    world = World()
    world.state.check_committee = lambda parsed: None
    system = world.state.system
    world.state.system = msgspec.structs.replace(system, committee=(Seat(public, 1, ()),))
    world.now = epoch_ends_at(system)
    world.do(world.end_epoch())
    raw = world.next_committee(proposer=public).raw
    signed = SignedOperation(raw, (sign(SIGN_COMMITTEE, operation_id(raw)),), None)
    world.state.check(parse(signed), world.now)


def book_accept(public: bytes, sign: Sign) -> None:
    world = World()
    lock = world.open_lock(authority=(public,))
    book = ReceiptBook(world.network)
    book.watch(lock)
    body = encode(Receipt(world.network, lock.id, 100, 1, b"c" * 32))
    book.accept(SignedReceipt(body, sign(SIGN_RECEIPT, body)), NOW)


def book_restore(public: bytes, sign: Sign) -> None:
    world = World()
    lock = world.open_lock(authority=(public,))
    book = ReceiptBook(world.network)
    book.watch(lock)
    body = encode(Receipt(world.network, lock.id, 100, 1, b"c" * 32))
    book.restore(SignedReceipt(body, sign(SIGN_RECEIPT, body)))


def payer_resume(public: bytes, sign: Sign) -> None:
    world = World()
    lock = world.open_lock(authority=(public,))
    body = encode(Receipt(world.network, lock.id, 100, 1, b"c" * 32))
    Payer(world.network, lock, _Closer(public, sign)).resume(SignedReceipt(body, sign(SIGN_RECEIPT, body)))


PATHS = [
    spend,
    rotation,
    settle,
    settle_two_of_two,
    close_with_receipt,
    closer,
    closer_after_expiry,
    guardian,
    proposer,
    book_accept,
    book_restore,
    payer_resume,
]


# --- everything that must be refused --------------------------------------------------------------------


def another_key(purpose: bytes, payload: bytes) -> bytes:
    return key_of("mallory").sign(purpose, payload)


def flipped_bit(purpose: bytes, payload: bytes) -> bytes:
    signature = HONEST.sign(purpose, payload)
    return bytes([signature[0] ^ 1]) + signature[1:]


def malleable(purpose: bytes, payload: bytes) -> bytes:
    """S + L verifies under the bare equation; RFC 8032 §5.1.7: S must be in range 0 <= s < L."""
    signature = HONEST.sign(purpose, payload)
    s = int.from_bytes(signature[32:], "little") + ORDER
    return signature[:32] + s.to_bytes(32, "little")


def truncated(purpose: bytes, payload: bytes) -> bytes:
    return HONEST.sign(purpose, payload)[:63]


def padded(purpose: bytes, payload: bytes) -> bytes:
    return HONEST.sign(purpose, payload) + b"\0"


def empty(purpose: bytes, payload: bytes) -> bytes:
    return b""


def zeros(purpose: bytes, payload: bytes) -> bytes:
    return bytes(64)


def without_purpose(purpose: bytes, payload: bytes) -> bytes:
    secret = nacl.bindings.crypto_sign_seed_keypair(HONEST.seed)[1]
    return nacl.bindings.crypto_sign(payload, secret)[:64]


def for_another_payload(purpose: bytes, payload: bytes) -> bytes:
    return HONEST.sign(purpose, payload[:-1] + bytes([payload[-1] ^ 1]))


def under(other: bytes) -> Sign:
    def sign(purpose: bytes, payload: bytes) -> bytes:
        return HONEST.sign(other if other != purpose else other + b"x", payload)

    sign.__name__ = f"under {other.decode()}"
    return sign


FORGERIES: list[Sign] = [
    another_key,
    flipped_bit,
    malleable,
    truncated,
    padded,
    empty,
    zeros,
    without_purpose,
    for_another_payload,
    *(under(p) for p in (SIGN_OPERATION, SIGN_CLOSE, SIGN_RECEIPT, b"ainp2p/card/1", b"ainp2p/vote/1", b"")),
]

# Points of small order, some not in canonical encoding: with R = the neutral element and S = 0, a careless
# verifier accepts any message under some of them.
SMALL_ORDER = [
    bytes(32),
    bytes([1]) + bytes(31),
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    bytes.fromhex("ec" + "ff" * 30 + "7f"),
    bytes.fromhex("ed" + "ff" * 30 + "7f"),
    bytes.fromhex("ee" + "ff" * 30 + "7f"),
    bytes.fromhex("01" + "00" * 30 + "80"),
]


def neutral(purpose: bytes, payload: bytes) -> bytes:
    return bytes([1]) + bytes(63)


@pytest.mark.parametrize("path", PATHS)
def test_e12_an_honest_signature_is_accepted_on_every_path(path: Callable[[bytes, Sign], None]) -> None:
    path(HONEST.public, HONEST.sign)


@pytest.mark.parametrize("forgery", FORGERIES, ids=lambda forgery: forgery.__name__)
@pytest.mark.parametrize("path", PATHS)
def test_e12_a_forged_signature_is_refused_on_every_path(
    path: Callable[[bytes, Sign], None], forgery: Sign
) -> None:
    with pytest.raises(BadSignature):
        path(HONEST.public, forgery)


@pytest.mark.parametrize("public", SMALL_ORDER, ids=lambda public: public.hex()[:6])
@pytest.mark.parametrize("path", PATHS)
def test_e12_a_key_of_small_order_signs_nothing(path: Callable[[bytes, Sign], None], public: bytes) -> None:
    for sign in (neutral, zeros):
        with pytest.raises(BadSignature):
            path(public, sign)


@pytest.mark.parametrize("size", [0, 63, 65])
def test_e12_a_signature_of_another_length_does_not_even_arrive(size: int) -> None:
    world = World()
    refund = refund_operation(world.network, world.open_lock())
    with pytest.raises(Malformed):
        decode(encode(msgspec.structs.replace(refund, signatures=(bytes(size),))), SignedOperation)
    with pytest.raises(Malformed):
        decode(encode(SignedReceipt(b"", bytes(size))), SignedReceipt)


def test_e12_a_vote_or_a_card_is_never_a_receipt() -> None:
    world = World()
    lock = world.open_lock()
    receipt = Receipt(world.network, lock.id, 100, 1, b"c" * 32)
    session = key_of("alice session")
    body = encode(receipt)
    for purpose in (b"ainp2p/vote/1", b"ainp2p/card/1", SIGN_OPERATION, SIGN_CLOSE):
        signed = SignedReceipt(body, session.sign(purpose, body))
        with pytest.raises(BadSignature):
            world.state.check(parse(settle_operation(lock, signed)), NOW)
    world.state.check(parse(settle_operation(lock, sign_receipt(receipt, session))), NOW)


@pytest.mark.parametrize("path", PATHS)
def test_e12_a_mutant_that_verifies_nothing_is_caught(
    path: Callable[[bytes, Sign], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("state", "accounts", "receipts"):
        monkeypatch.setattr(f"ainp2p.ledger.rules.{module}.verify", lambda *_: None)
    with pytest.raises(pytest.fail.Exception):
        test_e12_a_forged_signature_is_refused_on_every_path(path, another_key)


def test_e12_a_mutant_without_purposes_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def verify(public: bytes, purpose: bytes, payload: bytes, signature: bytes) -> None:
        try:
            nacl.bindings.crypto_sign_open(signature + payload, public)
        except Exception as exc:
            raise BadSignature("no") from exc

    monkeypatch.setattr("ainp2p.ledger.rules.state.verify", verify)
    with pytest.raises(pytest.fail.Exception):
        test_e12_a_forged_signature_is_refused_on_every_path(spend, without_purpose)
