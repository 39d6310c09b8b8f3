from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.errors import InvalidOperation, Malformed, RemoteError
from ainp2p.ledger.rules.operations import (
    OPERATION_SIZE_MAX,
    Close,
    Operation,
    Out,
    Refund,
    Rotation,
    Settle,
    Share,
    SignedOperation,
    account_id,
    credit_id,
    lock_id,
    operation_id,
    parse,
    sign_operation,
)
from ainp2p.ledger.rules.receipts import close_operation, refund_operation, settle_operation
from ainp2p.protocol.codec import decode, encode

from ..world import World, changed, inception_of, key_of, on_lock

SIGNATURE = bytes(64)


def first_spend() -> tuple[World, Operation]:
    world = World()
    return world, world.operation("alice", [("bob", 5)], locks=[world.terms()])


def test_a_parsed_operation_keeps_the_bytes_their_id_and_the_proof() -> None:
    _, operation = first_spend()
    signed = sign_operation(operation, key_of("alice"))
    parsed = parse(signed)
    assert parsed.raw == encode(operation)
    assert parsed.id == operation_id(parsed.raw)
    assert parsed.operation == operation
    assert parsed.signed is signed


def test_signatures_are_outside_the_id() -> None:
    _, operation = first_spend()
    signed = sign_operation(operation, key_of("alice"))
    other = msgspec.structs.replace(signed, signatures=(SIGNATURE,))
    assert parse(signed).id == parse(other).id


def test_ids_of_different_kinds_and_places_never_meet() -> None:
    raw, network = b"r" * 32, b"n" * 32
    ids = [operation_id(raw), lock_id(raw, 0), lock_id(raw, 1), account_id(network, inception_of("alice"))]
    ids += [account_id(bytes(32), inception_of("alice")), account_id(network, inception_of("bob"))]
    assert len(set(ids)) == len(ids)
    assert credit_id(raw, 0) != credit_id(raw, 1)
    assert {len(id_) for id_ in ids} == {32}


SPEND_REFUSALS: list[Any] = [
    pytest.param("version", {"version": 2}, id="unknown version"),
    pytest.param("sequence", {"seq": 0}, id="sequence number 0"),
    pytest.param("previous", {"previous": b"x" * 32}, id="first operation with another previous"),
    pytest.param("timestamp", {"timestamp": None}, id="no timestamp"),
    pytest.param("inception", {"body_inception": None}, id="first operation without inception"),
    pytest.param("inception", {"seq": 2, "previous": b"x" * 32}, id="inception in a later operation"),
    pytest.param("inception", {"body_inception": inception_of("bob")}, id="another account's inception"),
    pytest.param("credit-order", {"body_credits": (b"b" * 34, b"a" * 34)}, id="credits not sorted"),
    pytest.param("credit-order", {"body_credits": (b"a" * 34,) * 2}, id="a credit twice"),
    pytest.param("amount", {"body_outs": (Out(b"b" * 32, 0),)}, id="zero amount"),
    pytest.param("overflow", {"body_outs": (Out(b"b" * 32, 2**63 - 1),) * 2}, id="outs overflow"),
    pytest.param("overflow", {"body_fee": 2**63 - 1}, id="fee and outs overflow"),
]


@pytest.mark.parametrize(("rule", "fields"), SPEND_REFUSALS)
def test_a_spend_that_breaks_a_rule_by_itself_is_refused(rule: str, fields: dict[str, Any]) -> None:
    _, operation = first_spend()
    with pytest.raises(InvalidOperation) as caught:
        parse(changed(operation, "alice", **fields))
    assert caught.value.rule == rule


def shares(*parts: tuple[bytes, int]) -> tuple[Share, ...]:
    return tuple(Share(account * 32, count) for account, count in parts)


TERMS_REFUSALS: list[Any] = [
    pytest.param("amount", {"deposit": 0}, id="empty deposit"),
    pytest.param("step", {"step": 0}, id="step 0"),
    pytest.param("beneficiaries", {"beneficiaries": ()}, id="nobody benefits"),
    pytest.param(
        "beneficiaries", {"beneficiaries": shares((b"b", 1), (b"a", 1))}, id="beneficiaries not sorted"
    ),
    pytest.param("beneficiaries", {"beneficiaries": shares((b"a", 1), (b"a", 1))}, id="a beneficiary twice"),
    pytest.param("beneficiaries", {"beneficiaries": shares((b"a", 0))}, id="a beneficiary without parts"),
    pytest.param("overflow", {"beneficiaries": shares((b"a", 2**63 - 1), (b"b", 1))}, id="parts overflow"),
    pytest.param("authority", {"authority": (b"b" * 32, b"a" * 32)}, id="authority not sorted"),
    pytest.param("authority", {"authority": ()}, id="no authority"),
    pytest.param("authority", {"threshold": 0}, id="0 of 1 keys"),
    pytest.param("authority", {"threshold": 2}, id="2 of 1 keys"),
]


@pytest.mark.parametrize(("rule", "fields"), TERMS_REFUSALS)
def test_a_spend_with_impossible_lock_terms_is_refused(rule: str, fields: dict[str, Any]) -> None:
    world, operation = first_spend()
    with pytest.raises(InvalidOperation) as caught:
        parse(changed(operation, "alice", body_locks=(world.terms(**fields),)))
    assert caught.value.rule == rule


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"guardians": (b"g" * 32,), "m": 0}, id="0 of 1"),
        pytest.param({"guardians": (b"g" * 32,), "m": 2}, id="2 of 1"),
        pytest.param({"guardians": (), "m": 1}, id="1 of 0"),
        pytest.param({"guardians": (b"h" * 32, b"g" * 32), "m": 1}, id="not sorted"),
        pytest.param({"guardians": (b"g" * 32, b"g" * 32), "m": 1}, id="a guardian twice"),
    ],
)
def test_an_inception_with_impossible_guardians_is_refused(fields: dict[str, Any]) -> None:
    world, operation = first_spend()
    inception = msgspec.structs.replace(inception_of("alice"), **fields)
    id_ = account_id(world.network, inception)
    with pytest.raises(InvalidOperation) as caught:
        parse(changed(operation, "alice", body_inception=inception, object=id_, previous=id_))
    assert caught.value.rule == "guardians"


@pytest.mark.parametrize(
    ("signatures", "closer"),
    [
        pytest.param((), None, id="none"),
        pytest.param((SIGNATURE,) * 2, None, id="two"),
        pytest.param((SIGNATURE,), SIGNATURE, id="a closer's"),
    ],
)
def test_a_spend_has_exactly_one_signature(signatures: tuple[bytes, ...], closer: bytes | None) -> None:
    _, operation = first_spend()
    with pytest.raises(InvalidOperation) as caught:
        parse(SignedOperation(encode(operation), signatures, closer))
    assert caught.value.rule == "proof"


LOCK_REFUSALS: list[Any] = [
    pytest.param("timestamp", Refund(), {"timestamp": 5}, (), None, id="a timestamp"),
    pytest.param("proof", Refund(), {}, (SIGNATURE,), None, id="REFUND with a signature"),
    pytest.param("proof", Refund(), {}, (), SIGNATURE, id="REFUND with a closer"),
    pytest.param("proof", Settle(5, 1, b"c" * 32), {}, (), None, id="SETTLE without a receipt"),
    pytest.param("proof", Settle(5, 1, b""), {}, (SIGNATURE,), None, id="SETTLE without a context"),
    pytest.param("proof", Settle(5, 1, b"c" * 31), {}, (SIGNATURE,), None, id="SETTLE with a short context"),
    pytest.param("proof", Settle(5, 1, b"c" * 32), {}, (SIGNATURE,), SIGNATURE, id="SETTLE with a closer"),
    pytest.param("proof", Close(0, 1, b""), {}, (), None, id="CLOSE with units and no receipt"),
    pytest.param("proof", Close(0, 0, b""), {}, (SIGNATURE,), None, id="CLOSE with a receipt and no context"),
    pytest.param("proof", Close(5, 0, b"c" * 32), {}, (), None, id="CLOSE with a context and no receipt"),
    pytest.param("proof", Close(5, 0, b"c" * 5), {}, (SIGNATURE,), None, id="CLOSE with a short context"),
]


@pytest.mark.parametrize(("rule", "body", "fields", "signatures", "closer"), LOCK_REFUSALS)
def test_an_operation_on_a_lock_that_breaks_a_rule_by_itself_is_refused(
    rule: str, body: Any, fields: dict[str, Any], signatures: tuple[bytes, ...], closer: bytes | None
) -> None:
    operation = Operation(1, b"n" * 32, b"o" * 32, 1, b"o" * 32, None, body)
    operation = msgspec.structs.replace(operation, **fields)
    with pytest.raises(InvalidOperation) as caught:
        parse(SignedOperation(encode(operation), signatures, closer))
    assert caught.value.rule == rule


def test_well_formed_operations_on_a_lock_are_read() -> None:
    world = World()
    lock = world.open_lock()
    receipt = world.receipt(lock, 100)
    for signed in (
        settle_operation(lock, receipt),
        close_operation(world.network, lock),
        close_operation(world.network, lock, receipt, key_of("bob")),
        refund_operation(world.network, lock),
    ):
        assert parse(signed).operation.object == lock.id


OUT_OF_SHAPE: list[Any] = [
    pytest.param({"body_outs": (Out(b"b" * 32, -1),)}, id="negative amount"),
    pytest.param({"body_outs": (Out(b"b" * 32, 2**63),)}, id="amount 2^63"),
    pytest.param({"body_outs": (Out(b"b" * 32, 2**64 - 1),)}, id="amount 2^64 - 1"),
    pytest.param({"body_fee": -1}, id="negative fee"),
    pytest.param({"body_fee": 2**63}, id="fee 2^63"),
    pytest.param({"seq": 2**63}, id="sequence number 2^63"),
    pytest.param({"body_outs": (Out(b"b" * 31, 1),)}, id="short account id"),
    pytest.param({"body_outs": (Out(b"b" * 32, 1),) * 65}, id="65 outs"),
    pytest.param({"body_credits": tuple(n.to_bytes(34, "big") for n in range(513))}, id="513 credits"),
    pytest.param({"body_credits": (b"c" * 33,)}, id="short credit id"),
    pytest.param({"body_rotate": Rotation(b"k" * 31, bytes(32))}, id="short next key"),
    pytest.param({"timestamp": -1}, id="negative time"),
    pytest.param({"timestamp": 1.5}, id="fractional time"),
    pytest.param({"body_digest": "text"}, id="text"),
]


@pytest.mark.parametrize("fields", OUT_OF_SHAPE)
def test_a7_amounts_and_fields_out_of_range_never_become_an_operation(fields: dict[str, Any]) -> None:
    _, operation = first_spend()
    with pytest.raises(Malformed):
        parse(changed(operation, "alice", **fields))


def test_a7_an_amount_of_2_to_the_64_has_no_encoding_at_all() -> None:
    _, operation = first_spend()
    with pytest.raises(OverflowError):
        changed(operation, "alice", body_fee=2**64)


def test_nine_locks_are_too_many() -> None:
    world, operation = first_spend()
    with pytest.raises(Malformed):
        parse(changed(operation, "alice", body_locks=(world.terms(),) * 9))


def test_another_encoding_of_the_same_operation_is_refused() -> None:
    _, operation = first_spend()
    signed = sign_operation(operation, key_of("alice"))
    assert signed.raw[:2] == b"\x97\x01"
    longer = msgspec.structs.replace(signed, raw=b"\x97\xcc\x01" + signed.raw[2:])
    with pytest.raises(Malformed):
        parse(longer)


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_makes_another_operation(at: int, value: int) -> None:
    world = World()
    lock = world.open_lock()
    signed = settle_operation(lock, world.receipt(lock, 100))
    raw = bytearray(signed.raw)
    raw[at % len(raw)] = value
    other = msgspec.structs.replace(signed, raw=bytes(raw))
    try:
        parsed = parse(other)
    except (RemoteError, InvalidOperation):
        return
    assert (parsed.id == parse(signed).id) == (bytes(raw) == signed.raw)


def test_an_operation_above_the_size_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(Malformed):
        parse(SignedOperation(bytes(OPERATION_SIZE_MAX + 1), (SIGNATURE,), None))


def test_a_signed_operation_travels() -> None:
    world = World()
    lock = world.open_lock()
    signed = on_lock(refund_operation(world.network, lock), seq=7, previous=b"p" * 32)
    assert decode(encode(signed), SignedOperation) == signed
