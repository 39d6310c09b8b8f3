"""RECOVER and VOID on a state: what happens to an account without its owner, and what its owner prevents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from ainp2p.errors import BadSignature, InvalidInput, InvalidOperation, LedgerError, NotYet
from ainp2p.ledger.rules import accounts
from ainp2p.ledger.rules.amounts import AMOUNT_MAX
from ainp2p.ledger.rules.genesis import DEVELOPMENT
from ainp2p.ledger.rules.operations import (
    Inception,
    Rotation,
    SignedOperation,
    key_digest,
    parse,
    sign_recover,
    unsigned_operation,
)
from ainp2p.ledger.rules.state import is_gated

from .rules.test_state import refusal
from .world import (
    GUARDIANS,
    LEASE,
    NOW,
    PURSE,
    World,
    changed,
    guarded_inception_of,
    inception_of,
    key_of,
    with_fields,
)


@pytest.fixture
def silent() -> World:
    """Alice, bob and carol have guardians and an account; nobody has spoken for exactly a lease."""
    world = World(inception=guarded_inception_of)
    for name in world.names:
        world.do(world.spend(name))
    world.now += LEASE
    return world


def signed_by(world: World, *guardians: str, **fields: Any) -> SignedOperation:
    operation = with_fields(world.recovery("alice", "new"), **fields)
    return sign_recover(operation, [key_of(name) for name in guardians])


# --- RECOVER --------------------------------------------------------------------------------------


def test_two_of_three_guardians_give_a_silent_account_new_keys(silent: World) -> None:
    before = silent.account("alice")
    silent.do(silent.recover("alice", "new"))
    after = silent.account("alice")
    assert after == msgspec.structs.replace(
        before,
        seq=before.seq + 1,
        head=after.head,
        key=key_of("new").public,
        next_digest=key_digest(key_of("new'").public),
        timestamp=silent.now,
    )
    assert (after.guardians, after.m, after.lease) == (before.guardians, 2, LEASE)


def test_after_a_recovery_the_new_key_spends_and_no_old_one(silent: World) -> None:
    silent.do(silent.recover("alice", "new"))
    for old in ("alice", "alice'"):
        with pytest.raises(BadSignature):
            silent.state.check(parse(changed(silent.operation("alice"), old)), silent.now)
    revealed = Rotation(key_of("alice'").public, bytes(32))
    operation = silent.operation("alice")
    assert refusal(silent, changed(operation, "alice'", body_rotate=revealed)) == "rotation"
    silent.do(changed(silent.operation("alice", [("bob", 5)]), "new"))
    silent.do(changed(silent.operation("alice", rotate=Rotation(key_of("new'").public, bytes(32))), "new'"))


def test_any_two_guardians_suffice(silent: World) -> None:
    a, b, c = GUARDIANS
    for pair in ((a, b), (c, a), (b, c)):
        silent.state.check(parse(signed_by(silent, *pair)), silent.now)


@pytest.mark.parametrize(
    "guardians",
    [
        pytest.param(GUARDIANS[:1], id="one"),
        pytest.param(GUARDIANS, id="three"),
        pytest.param(GUARDIANS[:1] * 2, id="one twice"),
        pytest.param((GUARDIANS[0], "mallory"), id="a stranger"),
        pytest.param(("alice", "alice'"), id="the owner"),
    ],
)
def test_e12_fewer_more_repeated_or_foreign_guardians_do_not_suffice(
    silent: World, guardians: tuple[str, ...]
) -> None:
    with pytest.raises(BadSignature):
        silent.state.check(parse(signed_by(silent, *guardians)), silent.now)


def test_e12_guardians_sign_in_the_order_of_their_keys(silent: World) -> None:
    signed = silent.recover("alice", "new")
    swapped = msgspec.structs.replace(signed, signatures=signed.signatures[::-1])
    with pytest.raises(BadSignature):
        silent.state.check(parse(swapped), silent.now)


def test_e12_what_guardians_signed_for_another_account_is_nothing(silent: World) -> None:
    other = silent.recover("bob", "new")
    wrong = msgspec.structs.replace(silent.recover("alice", "new"), signatures=other.signatures)
    with pytest.raises(BadSignature):
        silent.state.check(parse(wrong), silent.now)


RECOVER_REFUSALS: list[Any] = [
    pytest.param("lease", {"timestamp": NOW + LEASE - 1}, id="a moment before the lease is over"),
    pytest.param("lease", {"timestamp": 0}, id="at the beginning of time"),
    pytest.param("digest", {"body_digest": bytes(32)}, id="another state after it"),
    pytest.param("digest", {"body_key": b"k" * 32}, id="another key than the digest says"),
    pytest.param("sequence-ahead", {"seq": 3}, id="sequence number skipped"),
    pytest.param("previous", {"previous": b"p" * 32}, id="another previous"),
    pytest.param("network", {"network": b"n" * 32}, id="another network"),
    pytest.param("unknown-account", {"object": b"x" * 32}, id="an account that nobody opened"),
]


@pytest.mark.parametrize(("rule", "fields"), RECOVER_REFUSALS)
def test_a_recovery_that_breaks_a_rule_is_refused(silent: World, rule: str, fields: dict[str, Any]) -> None:
    assert refusal(silent, signed_by(silent, *GUARDIANS[:2], **fields)) == rule


def test_a4_a_recovery_of_a_slot_that_is_decided_is_refused(silent: World) -> None:
    late = silent.recover("alice", "new")
    silent.do(silent.spend("alice"))
    assert refusal(silent, late) == "sequence"


def test_the_owner_s_heartbeat_in_time_wins(silent: World) -> None:
    silent.do(silent.spend("alice"))  # LEDGER.md: "With no outs it is a heartbeat"
    silent.now += LEASE - 1
    with pytest.raises(InvalidOperation) as caught:
        silent.recovery("alice", "new")
    assert caught.value.rule == "lease"
    silent.now += 1
    silent.do(silent.recover("alice", "new"))


def test_a_recovery_begins_a_new_lease(silent: World) -> None:
    silent.do(silent.recover("alice", "new"))
    with pytest.raises(InvalidOperation, match="lease"):
        silent.recovery("alice", "newer")
    silent.now += LEASE
    silent.do(silent.recover("alice", "newer"))


def test_a_recovery_ahead_of_the_clock_waits(silent: World) -> None:
    silent.now += 60_001
    signed = silent.recover("alice", "new")
    with pytest.raises(NotYet, match="clock-ahead"):
        silent.state.check(parse(signed), silent.now - 60_001)
    silent.state.check(parse(signed), silent.now - 60_000)


def test_an_account_without_guardians_is_never_recovered() -> None:
    world = World()
    world.do(world.spend("alice"))
    world.now += 10**12
    with pytest.raises(InvalidOperation) as caught:
        world.recovery("alice", "new")
    assert caught.value.rule == "guardians"


def test_a_lease_below_the_least_is_no_lease_at_all() -> None:
    def hasty(name: str) -> Inception:
        return msgspec.structs.replace(guarded_inception_of(name), lease=DEVELOPMENT.lease_ms_min - 1)

    world = World(inception=hasty)
    world.do(world.spend("alice"))
    world.now += 10**12
    with pytest.raises(InvalidOperation) as caught:
        world.recovery("alice", "new")
    assert caught.value.rule == "lease-min"


def test_an_account_that_was_never_opened_is_not_recovered() -> None:
    world = World(inception=guarded_inception_of)
    world.now += 10**12
    with pytest.raises(InvalidOperation) as caught:
        parse(world.recover("alice", "new"))
    assert caught.value.rule == "sequence"


def test_a_recovery_on_a_lock_is_refused(silent: World) -> None:
    lock = silent.open_lock("bob", "carol")
    wrong = signed_by(silent, *GUARDIANS[:2], object=lock.id, seq=2, previous=b"p" * 32)
    assert refusal(silent, wrong) == "object"


def test_a_recovery_is_gated_and_moves_no_money(silent: World) -> None:
    signed = silent.recover("alice", "new")
    assert is_gated(parse(signed))
    supply = silent.state.supply()
    silent.do(signed)
    assert silent.state.supply() == supply == silent.state.recount()


def test_open_deposits_survive_a_recovery(silent: World) -> None:
    # LEDGER.md: "A Lock's authority never changes: rotation or recovery … does not revoke it".
    lock = silent.open_lock()
    silent.now += LEASE
    silent.do(silent.recover("alice", "new"))
    silent.settle(lock, 300)
    assert sum(silent.state.credits_of(silent.ids["bob"]).values()) == 300


# --- VOID and debt --------------------------------------------------------------------------------


def test_a_void_takes_the_slot_and_adds_the_debt(silent: World) -> None:
    before = silent.account("alice")
    silent.state.apply(parse(silent.void("alice")))
    after = silent.account("alice")
    assert after == msgspec.structs.replace(
        before, seq=before.seq + 1, head=after.head, debt=DEVELOPMENT.void_debt
    )


def test_a_void_of_the_first_slot_opens_the_account() -> None:
    world = World()
    changes = world.state.apply(parse(world.void("alice")))
    account = world.account("alice")
    assert changes.accounts == (account,)
    assert (account.seq, account.balance, account.debt) == (1, 0, 1_000)
    assert account.key == key_of("alice").public
    world.do(world.spend("alice", [("bob", 5)]))  # its grant is still there
    assert world.account("alice").balance == PURSE - 5 - 1 - 1_000


def test_a7_a_debt_is_paid_with_the_next_spend_and_not_forgotten(silent: World) -> None:
    silent.state.apply(parse(silent.void("alice")))
    silent.state.apply(parse(silent.void("alice")))
    operation = silent.operation("alice")
    body: Any = operation.body
    assert body.fee == 1 + 2 * DEVELOPMENT.void_debt
    assert refusal(silent, changed(operation, "alice", body_fee=body.fee - 1)) == "fee"
    burnt = silent.state.burnt
    silent.do(changed(operation, "alice"))
    assert silent.account("alice").debt == 0
    assert silent.state.burnt - burnt == 1 + 2 * DEVELOPMENT.void_debt
    assert silent.state.supply().total == silent.state.minted


def test_a_debt_survives_a_recovery(silent: World) -> None:
    silent.state.apply(parse(silent.void("alice")))
    silent.do(silent.recover("alice", "new"))
    assert silent.account("alice").debt == DEVELOPMENT.void_debt


def test_a7_a_debt_grows_no_further_than_an_amount_goes() -> None:
    world = World()
    world.do(world.spend("alice"))
    account = msgspec.structs.replace(world.account("alice"), debt=AMOUNT_MAX - 1)
    assert accounts.after_void(account, 1_000, b"h" * 32).debt == AMOUNT_MAX


def test_nobody_can_ask_for_a_void(silent: World) -> None:
    parsed = parse(silent.void("alice"))
    with pytest.raises(InvalidOperation) as caught:
        silent.state.check(parsed, silent.now)
    assert caught.value.rule == "void"
    assert not is_gated(parsed)


def test_there_is_one_void_of_a_slot_whoever_makes_it(silent: World) -> None:
    assert parse(silent.void("alice")).id == parse(silent.void("alice")).id
    account = silent.account("alice")
    other = accounts.void(msgspec.structs.replace(account, debt=1), None, silent.parameters, silent.network)
    with pytest.raises(LedgerError):
        silent.state.apply(parse(unsigned_operation(other)))
    with pytest.raises(InvalidInput):
        accounts.void(account, guarded_inception_of("alice"), silent.parameters, silent.network)


VOID_REFUSALS: list[Any] = [
    pytest.param("digest", {"body_digest": bytes(32)}, id="another state after it"),
    pytest.param("sequence-ahead", {"seq": 3}, id="sequence number skipped"),
    pytest.param("previous", {"previous": b"p" * 32}, id="another previous"),
    pytest.param("unknown-account", {"object": b"x" * 32}, id="an account that nobody opened"),
]


@pytest.mark.parametrize(("rule", "fields"), VOID_REFUSALS)
def test_a_void_that_breaks_a_rule_is_refused(silent: World, rule: str, fields: dict[str, Any]) -> None:
    operation = with_fields(parse(silent.void("alice")).operation, **fields)
    root = silent.state.root()
    with pytest.raises(InvalidOperation) as caught:
        silent.state.apply(parse(unsigned_operation(operation)))
    assert (caught.value.rule, silent.state.root()) == (rule, root)


# --- by themselves --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "fields"),
    [
        pytest.param("timestamp", {"timestamp": None}, id="no timestamp"),
        pytest.param("sequence", {"seq": 1, "previous": "its own id"}, id="a first operation"),
    ],
)
def test_a_recovery_that_breaks_a_rule_by_itself_is_refused(
    silent: World, rule: str, fields: dict[str, Any]
) -> None:
    if "previous" in fields:
        fields = {**fields, "previous": silent.ids["alice"]}
    with pytest.raises(InvalidOperation) as caught:
        parse(signed_by(silent, *GUARDIANS[:2], **fields))
    assert caught.value.rule == rule


def test_a_recovery_has_signatures_and_a_void_none(silent: World) -> None:
    recovery, void = silent.recover("alice", "new"), silent.void("alice")
    some = recovery.signatures
    for wrong in (
        msgspec.structs.replace(recovery, signatures=()),
        msgspec.structs.replace(recovery, closer=some[0]),
        msgspec.structs.replace(void, signatures=some),
        msgspec.structs.replace(void, closer=some[0]),
    ):
        with pytest.raises(InvalidOperation) as caught:
            parse(wrong)
        assert caught.value.rule == "proof"


@pytest.mark.parametrize(
    ("rule", "fields"),
    [
        pytest.param("timestamp", {"timestamp": 5}, id="a timestamp"),
        pytest.param("inception", {"body_inception": inception_of("alice")}, id="an inception too late"),
    ],
)
def test_a_void_that_breaks_a_rule_by_itself_is_refused(
    silent: World, rule: str, fields: dict[str, Any]
) -> None:
    operation = with_fields(parse(silent.void("alice")).operation, **fields)
    with pytest.raises(InvalidOperation) as caught:
        parse(unsigned_operation(operation))
    assert caught.value.rule == rule


def test_the_void_of_a_first_slot_bears_the_account_s_own_inception() -> None:
    world = World()
    operation = parse(world.void("alice")).operation
    for inception in (None, inception_of("bob")):
        with pytest.raises(InvalidOperation) as caught:
            parse(unsigned_operation(with_fields(operation, body_inception=inception)))
        assert caught.value.rule == "inception"


# --- planted faults -------------------------------------------------------------------------------


def _ignore_the_lease(patch: pytest.MonkeyPatch) -> None:
    original = accounts.after_recover

    def after_recover(account: Any, *rest: Any) -> Any:
        return original(msgspec.structs.replace(account, timestamp=0), *rest)

    patch.setattr("ainp2p.ledger.rules.state.after_recover", after_recover)
    patch.setattr(accounts, "after_recover", after_recover)


def _one_guardian_less(patch: pytest.MonkeyPatch) -> None:
    original = accounts.verify_guardians
    patch.setattr(
        "ainp2p.ledger.rules.state.verify_guardians",
        lambda account, *rest: original(msgspec.structs.replace(account, m=account.m - 1), *rest),
    )


def _forget_the_debt(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(accounts, "minimum_fee", lambda account, locks, parameters: parameters.fee_floor)


def _judge_the_last_moment(world: World) -> None:
    test_a_recovery_that_breaks_a_rule_is_refused(world, "lease", {"timestamp": NOW + LEASE - 1})


def _judge_one_guardian(world: World) -> None:
    test_e12_fewer_more_repeated_or_foreign_guardians_do_not_suffice(world, GUARDIANS[:1])


@pytest.mark.parametrize(
    ("plant", "judge"),
    [
        pytest.param(_ignore_the_lease, test_the_owner_s_heartbeat_in_time_wins, id="lease ignored, built"),
        pytest.param(_ignore_the_lease, _judge_the_last_moment, id="lease ignored, judged"),
        pytest.param(_one_guardian_less, _judge_one_guardian, id="m - 1 guardians"),
        pytest.param(
            _forget_the_debt,
            test_a7_a_debt_is_paid_with_the_next_spend_and_not_forgotten,
            id="debt forgotten",
        ),
    ],
)
def test_a_mutant_is_caught_by_the_test_meant_for_it(
    silent: World,
    plant: Callable[[pytest.MonkeyPatch], None],
    judge: Callable[[World], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        judge(silent)
