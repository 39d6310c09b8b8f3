from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from ainp2p.errors import BadSignature, InsufficientFunds, InvalidOperation, LedgerError, NotYet
from ainp2p.ledger.rules.accounts import account_digest
from ainp2p.ledger.rules.genesis import DEVELOPMENT
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.operations import (
    SIGN_CLOSE,
    Out,
    Rotation,
    SignedOperation,
    credit_id,
    operation_id,
    parse,
    purpose_digest,
)
from ainp2p.ledger.rules.receipts import SIGN_RECEIPT, close_operation, refund_operation, settle_operation
from ainp2p.ledger.rules.state import State, is_gated

from ..world import NOW, PURSE, World, changed, key_of, on_lock


def refusal(world: World, signed: SignedOperation, now: int | None = None) -> str:
    """The rule that refuses it; whoever refuses must leave the state as it was, and `apply` must agree."""
    root = world.state.root()
    parsed = parse(signed)
    with pytest.raises(InvalidOperation) as caught:
        world.state.check(parsed, world.now if now is None else now)
    if caught.value.rule not in ("clock-ahead", "not-expired"):  # those are the voters' matter, not apply's
        with pytest.raises(LedgerError):
            world.state.apply(parsed)
    assert world.state.root() == root
    return caught.value.rule


# --- SPEND --------------------------------------------------------------------------------------


def test_a_spend_makes_credits_and_locks_and_burns_its_fee() -> None:
    world = World()
    changes = world.do(world.spend("alice", [("bob", 5), ("carol", 7)], locks=[world.terms()]))
    assert [credit.amount for _, credit in changes.made] == [5, 7]
    assert [lock.deposit for lock in changes.locks] == [1_000]
    assert changes.burnt == 1 + 102
    supply = world.state.supply()
    assert (supply.locks, supply.burnt) == (1_000, 103)
    assert supply.total == world.state.minted == 3 * PURSE
    assert world.state.operations == 1


def test_the_operation_of_another_network_is_refused() -> None:
    world, other = World(), World(purse=PURSE + 1)
    assert refusal(world, other.spend("alice")) == "network"
    lock = other.open_lock()
    assert refusal(world, refund_operation(other.network, lock)) == "network"


@pytest.fixture
def opened() -> World:
    """A world in which everybody has an account with a few operations."""
    world = World()
    for name in world.names:
        world.do(world.spend(name))
        world.do(world.spend(name))
    return world


SPEND_REFUSALS: list[Any] = [
    pytest.param("sequence", {"seq": 2}, id="sequence number used before"),
    pytest.param("sequence-ahead", {"seq": 4}, id="sequence number skipped"),
    pytest.param("previous", {"previous": b"p" * 32}, id="another previous"),
    pytest.param("timestamp", {"timestamp": NOW - 1}, id="older than the last one"),
    pytest.param("clock-ahead", {"timestamp": NOW + 60_001}, id="more than a minute ahead"),
    pytest.param("fee", {"body_fee": 0}, id="no fee"),
    pytest.param("digest", {"body_digest": bytes(32)}, id="another state after it"),
    pytest.param("digest", {"body_fee": 2}, id="more fee than the digest says"),
    pytest.param("epoch-ahead", {"body_epoch": 1}, id="an epoch that has not come"),
    pytest.param(
        "unknown-credit", {"body_credits": (credit_id(b"x" * 32, 0),)}, id="a credit out of thin air"
    ),
]


@pytest.mark.parametrize(("rule", "fields"), SPEND_REFUSALS)
def test_a_spend_that_breaks_a_rule_is_refused(opened: World, rule: str, fields: dict[str, Any]) -> None:
    operation = opened.operation("alice", [("bob", 5)])
    if rule == "clock-ahead":  # everything else about it must be right, the digest included
        opened.now = fields["timestamp"]
        operation = opened.operation("alice", [("bob", 5)])
        opened.now = NOW
    assert refusal(opened, changed(operation, "alice", **fields)) == rule


def test_the_rules_that_may_change_with_time_say_not_yet(opened: World) -> None:
    operation = opened.operation("alice")
    for fields in ({"seq": 4}, {"body_epoch": 1}, {"body_credits": (b"x" * 34,)}):
        with pytest.raises(NotYet):
            opened.state.check(parse(changed(operation, "alice", **fields)), NOW)
    with pytest.raises(NotYet, match="unknown-account"):
        World().state.check(parse(opened.spend("alice")), NOW)


def test_an_operation_exactly_a_minute_ahead_is_valid(opened: World) -> None:
    opened.now = NOW + 60_000
    operation = opened.spend("alice")
    opened.state.check(parse(operation), NOW)


def test_an_old_operation_is_valid_however_late_it_comes(opened: World) -> None:
    signed = opened.spend("alice")
    opened.state.check(parse(signed), NOW + 10**12)


def test_apply_asks_no_clock_since_the_certificate_answers_for_it(opened: World) -> None:
    opened.now = NOW + 10**9
    assert opened.state.apply(parse(opened.spend("alice")))


def test_an_earlier_epoch_than_last_named_is_refused(opened: World) -> None:
    opened.state.epoch = 1
    opened.state.parameters[1] = DEVELOPMENT
    opened.do(opened.spend("alice", epoch=1))
    operation = opened.operation("alice", epoch=1)
    assert refusal(opened, changed(operation, "alice", body_epoch=0)) == "epoch"
    opened.do(opened.spend("bob", epoch=0))  # "between the account's last named one and the current"


def test_nobody_can_consume_another_s_credit(opened: World) -> None:
    opened.do(opened.spend("alice", [("bob", 500)]))
    (credit,) = opened.state.credits_of(opened.ids["bob"])
    operation = opened.operation("carol")
    assert refusal(opened, changed(operation, "carol", body_credits=(credit,))) == "credit-addressee"


def test_a_credit_is_consumed_at_most_once(opened: World) -> None:
    opened.do(opened.spend("alice", [("bob", 500)]))
    (credit,) = opened.state.credits_of(opened.ids["bob"])
    opened.do(opened.spend("bob"))
    operation = opened.operation("bob")
    assert refusal(opened, changed(operation, "bob", body_credits=(credit,))) == "unknown-credit"


def test_more_credits_than_the_epoch_allows_are_refused() -> None:
    world = World(parameters=msgspec.structs.replace(DEVELOPMENT, credits_max=2))
    world.do(world.spend("alice", [("bob", 1), ("bob", 2)]))
    everything = tuple(sorted(world.state.credits_of(world.ids["bob"])))
    assert refusal(world, changed(world.operation("bob"), "bob", body_credits=everything)) == "credits-cap"


def test_a_spend_above_the_balance_is_refused_with_both_numbers(opened: World) -> None:
    operation = changed(opened.operation("alice"), "alice", body_outs=(Out(opened.ids["bob"], PURSE),))
    with pytest.raises(InsufficientFunds) as caught:
        opened.state.check(parse(operation), NOW)
    assert (caught.value.available, caught.value.needed) == (PURSE - 2, PURSE + 1)
    with pytest.raises(InsufficientFunds):
        opened.state.apply(parse(operation))


def test_the_fee_of_a_lock_that_is_opened_is_owed_too(opened: World) -> None:
    operation = opened.operation("alice", locks=[opened.terms(deposit=1_000, step=10)])
    assert refusal(opened, changed(operation, "alice", body_fee=102)) == "fee"
    opened.do(changed(operation, "alice"))


@pytest.mark.parametrize("life", [0, -1, DEVELOPMENT.lock_life_ms_max + 1])
def test_a_lock_with_an_impossible_life_is_refused(opened: World, life: int) -> None:
    operation = opened.operation("alice", locks=[opened.terms()])
    terms = opened.terms(expiry=NOW + life)
    assert refusal(opened, changed(operation, "alice", body_locks=(terms,))) == "lock-life"


def test_a_lock_may_live_exactly_as_long_as_the_epoch_allows(opened: World) -> None:
    assert opened.open_lock(expiry=NOW + DEVELOPMENT.lock_life_ms_max).held == 1_000


def test_an_unrevealed_key_cannot_rotate(opened: World) -> None:
    operation = opened.operation("alice")
    wrong = Rotation(key_of("mallory").public, bytes(32))
    assert refusal(opened, changed(operation, "mallory", body_rotate=wrong)) == "rotation"


def test_after_a_rotation_the_old_key_signs_nothing(opened: World) -> None:
    rotate = Rotation(key_of("alice'").public, bytes(32))
    opened.do(changed(opened.operation("alice", rotate=rotate), "alice'"))
    with pytest.raises(BadSignature):
        opened.state.check(parse(changed(opened.operation("alice"), "alice")), NOW)
    opened.state.check(parse(changed(opened.operation("alice"), "alice'")), NOW)


def test_a_rotation_is_signed_by_the_revealed_key_alone(opened: World) -> None:
    rotate = Rotation(key_of("alice'").public, bytes(32))
    with pytest.raises(BadSignature):
        opened.state.check(parse(changed(opened.operation("alice", rotate=rotate), "alice")), NOW)


def test_a_spend_on_a_lock_and_a_settle_on_an_account_are_refused(opened: World) -> None:
    lock = opened.open_lock()
    signed = changed(opened.operation("alice"), "alice", object=lock.id, seq=2, previous=b"p" * 32)
    assert refusal(opened, signed) == "object"
    account = opened.account("alice")
    settle = settle_operation(lock, opened.receipt(lock, 100))
    wrong = on_lock(settle, object=account.id, seq=account.seq + 1, previous=account.head)
    assert refusal(opened, wrong) == "object"


def test_a_repeat_of_the_head_changes_nothing_and_is_no_error(opened: World) -> None:
    signed = opened.spend("alice", [("bob", 5)])
    assert opened.do(signed)
    root = opened.state.root()
    assert not opened.state.apply(parse(signed))
    assert opened.state.root() == root


def test_a_second_operation_in_a_decided_slot_is_refused(opened: World) -> None:
    one, other = opened.spend("alice", [("bob", 5)]), opened.spend("alice", [("carol", 5)])
    opened.do(one)
    assert refusal(opened, other) == "sequence"


def test_a_proof_that_was_verified_once_is_not_verified_again(
    opened: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = parse(opened.spend("alice"))
    opened.state.verify_proof(parsed)
    monkeypatch.setattr("ainp2p.ledger.rules.state.verify", lambda *_: pytest.fail("verified twice"))
    opened.state.check(parsed, NOW, proof_verified=True)


# --- SETTLE, CLOSE, REFUND ------------------------------------------------------------------------


@pytest.fixture
def locked(opened: World) -> tuple[World, Lock]:
    return opened, opened.open_lock(deposit=1_000, step=10)


def test_a_settle_pays_from_the_lock_whoever_submits_it(locked: tuple[World, Lock]) -> None:
    world, lock = locked
    changes = world.do(settle_operation(lock, world.receipt(lock, 300)))
    assert [credit.amount for _, credit in changes.made] == [300]
    assert world.state.locks[lock.id].paid == 300
    assert sum(world.state.credits_of(world.ids["bob"]).values()) == 300
    assert world.state.supply().total == world.state.minted


LOCK_REFUSALS: list[Any] = [
    pytest.param("cumulative", 300, id="the receipt settled before"),
    pytest.param("cumulative", 200, id="an older receipt"),
    pytest.param("step", 305, id="less than a step"),
    pytest.param("above-deposit", 1_001, id="above the deposit"),
]


@pytest.mark.parametrize(("rule", "cumulative"), LOCK_REFUSALS)
def test_a4_a_settle_with_a_stale_or_excessive_receipt_is_refused(
    locked: tuple[World, Lock], rule: str, cumulative: int
) -> None:
    world, lock = locked
    lock = world.settle(lock, 300)
    receipt = world.receipt(msgspec.structs.replace(lock, deposit=2_000), cumulative)
    assert refusal(world, settle_operation(lock, receipt)) == rule


@pytest.mark.parametrize(
    ("rule", "fields"),
    [
        pytest.param("sequence", {"seq": 1}, id="sequence number used before"),
        pytest.param("sequence-ahead", {"seq": 3}, id="sequence number skipped"),
        pytest.param("previous", {"previous": b"p" * 32}, id="another previous"),
        pytest.param("unknown-lock", {"object": b"l" * 32}, id="a Lock that nobody opened"),
    ],
)
def test_an_operation_on_a_lock_out_of_place_is_refused(
    locked: tuple[World, Lock], rule: str, fields: dict[str, Any]
) -> None:
    world, lock = locked
    lock = world.settle(lock, 300)
    settle = settle_operation(lock, world.receipt(lock, 400))
    if fields.get("seq") == 1:
        fields = {"seq": 1, "previous": lock.id}
    assert refusal(world, on_lock(settle, **fields)) == rule


def test_the_closer_ends_a_lock_at_any_time(locked: tuple[World, Lock]) -> None:
    world, lock = locked
    world.do(close_operation(world.network, lock, world.receipt(lock, 7), key_of("bob")))
    assert world.state.locks[lock.id].ended
    assert world.state.supply().locks == 0
    assert sum(world.state.credits_of(world.ids["bob"]).values()) == 7
    assert sum(world.state.credits_of(world.ids["alice"]).values()) == 993


def test_without_the_closer_a_lock_ends_only_once_expired(locked: tuple[World, Lock]) -> None:
    world, lock = locked
    for signed in (
        close_operation(world.network, lock, world.receipt(lock, 7)),
        close_operation(world.network, lock),
        refund_operation(world.network, lock),
    ):
        assert refusal(world, signed, lock.expiry - 1) == "not-expired"
        world.state.check(parse(signed), lock.expiry)


def test_a_close_without_a_receipt_pays_nothing_new(locked: tuple[World, Lock]) -> None:
    world, lock = locked
    lock = world.settle(lock, 300)
    close = close_operation(world.network, lock, None, key_of("bob"))
    assert refusal(world, on_lock_signed(close, "bob", body_cumulative=299)) == "cumulative"
    assert refusal(world, on_lock_signed(close, "bob", body_cumulative=301)) == "cumulative"
    world.do(close)
    assert sum(world.state.credits_of(world.ids["bob"]).values()) == 300


def on_lock_signed(signed: SignedOperation, closer: str, **fields: Any) -> SignedOperation:
    """A CLOSE with other fields, which the closer has signed again."""
    other = on_lock(signed, **fields)
    by_closer = key_of(closer).sign(SIGN_CLOSE, operation_id(other.raw))
    return msgspec.structs.replace(other, closer=by_closer)


def test_a_close_with_a_receipt_that_brings_nothing_is_a_bare_one(locked: tuple[World, Lock]) -> None:
    world, lock = locked
    receipt = world.receipt(lock, 300)
    lock = world.settle(lock, 300)
    assert close_operation(world.network, lock, receipt).signatures == ()


def test_a_refund_gives_back_what_was_not_credited(locked: tuple[World, Lock]) -> None:
    world, lock = locked
    lock = world.settle(lock, 300)
    world.now = lock.expiry
    world.do(refund_operation(world.network, lock))
    assert sum(world.state.credits_of(world.ids["alice"]).values()) == 700
    assert world.state.supply().total == world.state.minted


def test_an_ended_lock_refuses_everything(locked: tuple[World, Lock]) -> None:
    world, lock = locked
    world.now = lock.expiry
    world.do(refund_operation(world.network, lock))
    after = world.state.locks[lock.id]
    for signed in (
        settle_operation(after, world.receipt(lock, 100)),
        close_operation(world.network, after, None, key_of("bob")),
        refund_operation(world.network, after),
    ):
        assert refusal(world, signed) == "ended"


def test_a_receipt_of_one_lock_settles_no_other(locked: tuple[World, Lock]) -> None:
    world, lock = locked
    other = world.open_lock(purpose=purpose_digest(b"other"))
    settle = settle_operation(lock, world.receipt(lock, 100))
    with pytest.raises(BadSignature):
        world.state.check(parse(on_lock(settle, object=other.id, previous=other.head)), NOW)


def test_what_is_gated_is_what_needs_nobody_s_consent(locked: tuple[World, Lock]) -> None:
    world, lock = locked
    receipt = world.receipt(lock, 100)
    gated: list[tuple[SignedOperation, bool]] = [
        (world.spend("alice"), False),
        (settle_operation(lock, receipt), False),
        (close_operation(world.network, lock, receipt, key_of("bob")), False),
        (close_operation(world.network, lock, receipt), True),
        (close_operation(world.network, lock), True),
        (refund_operation(world.network, lock), True),
    ]
    assert [is_gated(parse(signed)) for signed, _ in gated] == [expected for _, expected in gated]


# --- k of m ---------------------------------------------------------------------------------------


def escrow() -> tuple[World, Lock, list[str]]:
    """An escrow of two of three judges, whose names come in the order of their keys."""
    world = World()
    judges = sorted(("judge 1", "judge 2", "judge 3"), key=lambda name: key_of(name).public)
    keys = tuple(key_of(name).public for name in judges)
    return world, world.open_lock(authority=keys, threshold=2), judges


def signed_by(world: World, lock: Lock, names: list[str]) -> SignedOperation:
    receipt = world.receipt(lock, 100)
    signatures = tuple(key_of(name).sign(SIGN_RECEIPT, receipt.body) for name in names)
    return msgspec.structs.replace(settle_operation(lock, receipt), signatures=signatures)


def test_any_k_of_an_authority_s_keys_suffice_in_their_order() -> None:
    world, lock, (a, b, c) = escrow()
    for names in ([a, b], [a, c], [b, c]):
        world.state.check(parse(signed_by(world, lock, names)), NOW)


@pytest.mark.parametrize("pick", [[0], [0, 0], [1, 0], [0, 1, 2], [0, 3]])
def test_fewer_more_repeated_unordered_or_foreign_signatures_do_not_suffice(pick: list[int]) -> None:
    world, lock, judges = escrow()
    names = [[*judges, "mallory"][n] for n in pick]
    with pytest.raises(BadSignature):
        world.state.check(parse(signed_by(world, lock, names)), NOW)


# --- the whole state ------------------------------------------------------------------------------


def test_operations_on_different_objects_commute() -> None:
    world = World()
    operations = [parse(world.spend(name, [("alice", 5)])) for name in world.names]
    roots = set()
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        state = State(world.genesis)
        for index in order:
            state.apply(operations[index])
        roots.add(state.root())
    assert len(roots) == 1


def test_the_head_of_an_object_that_nobody_wrote_is_its_own_id() -> None:
    world = World()
    assert world.state.head(world.ids["alice"]) == (0, world.ids["alice"])
    world.do(world.spend("alice"))
    assert world.state.head(world.ids["alice"])[0] == 1


def _meddle_credit(state: State) -> None:
    id_, credit = next(iter(state.credits.items()))
    state.credits[id_] = msgspec.structs.replace(credit, amount=credit.amount + 1)


def _meddle_account(state: State) -> None:
    id_, account = next(iter(state.accounts.items()))
    state.accounts[id_] = msgspec.structs.replace(account, timestamp=account.timestamp + 1)


def _meddle_lock(state: State) -> None:
    id_, lock = next(iter(state.locks.items()))
    state.locks[id_] = msgspec.structs.replace(lock, expiry=lock.expiry + 1)


def _meddle_burnt(state: State) -> None:
    state.burnt += 1


@pytest.mark.parametrize("meddle", [_meddle_credit, _meddle_account, _meddle_lock, _meddle_burnt])
def test_the_root_covers_every_kind_of_object(meddle: Callable[[State], None]) -> None:
    world = World()
    world.do(world.spend("alice", [("bob", 5)], locks=[world.terms()]))
    root = world.state.root()
    meddle(world.state)
    assert world.state.root() != root


def test_the_digest_in_a_head_proves_the_account() -> None:
    world = World()
    signed = world.spend("alice", [("bob", 5)])
    world.do(signed)
    body: Any = parse(signed).operation.body
    assert account_digest(world.account("alice")) == body.digest


def test_a7_a_million_uain_in_tiny_channels_keeps_its_supply() -> None:
    world = World()
    for _ in range(25):
        tiny = [world.terms(deposit=1, step=1, purpose=bytes([n]) * 32) for n in range(8)]
        locks = world.do(world.spend("alice", locks=tiny)).locks
        world.settle(locks[0], 1)
        world.do(close_operation(world.network, locks[1], None, key_of("bob")))
    supply = world.state.supply()
    assert supply.total == world.state.minted
    assert supply.locks == 25 * 6
    assert supply.burnt == 25 * (1 + 8 * 3)


def test_a7_the_largest_supply_does_not_overflow() -> None:
    world = World(["alice", "bob"], purse=2**62 - 1)
    world.do(world.spend("alice", [("bob", 2**62 - 2)]))
    world.do(world.spend("bob"))
    assert world.account("bob").balance == 2**63 - 1 - 3
    assert world.state.supply().total == world.state.minted


def _take_stale_receipts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("ainp2p.ledger.rules.locks._refuse_amount", lambda *_: None)


@pytest.mark.parametrize(("rule", "cumulative"), LOCK_REFUSALS[:2] + LOCK_REFUSALS[3:])
def test_a4_a_mutant_that_takes_any_receipt_is_caught(
    locked: tuple[World, Lock], rule: str, cumulative: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _take_stale_receipts(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        test_a4_a_settle_with_a_stale_or_excessive_receipt_is_refused(locked, rule, cumulative)
