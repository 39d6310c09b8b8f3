from __future__ import annotations

import msgspec
import pytest

from ainp2p.errors import InsufficientFunds, InvalidInput, InvalidOperation
from ainp2p.ledger.rules import accounts
from ainp2p.ledger.rules.genesis import DEVELOPMENT, PRODUCTION
from ainp2p.ledger.rules.operations import Operation, Rotation, Spend, credit_id, key_digest
from ainp2p.ledger.rules.state import Credit

from ..world import NOW, PURSE, World, changed, inception_of, key_of


def body_of(operation: Operation) -> Spend:
    assert isinstance(operation.body, Spend)
    return operation.body


def test_the_first_spend_opens_the_account_and_consumes_its_grant() -> None:
    world = World()
    world.do(world.spend("alice", [("bob", 5)]))
    account = world.account("alice")
    assert (account.seq, account.balance) == (1, PURSE - 5 - 1)
    assert account.key == key_of("alice").public
    assert account.next_digest == key_digest(key_of("alice'").public)
    assert account.timestamp == NOW


def test_credits_are_consumed_silently_by_the_next_spend() -> None:
    world = World()
    world.do(world.spend("alice", [("bob", 5), ("bob", 6)]))
    world.do(world.spend("bob"))
    assert world.account("bob").balance == PURSE + 11 - 1
    assert world.state.credits_of(world.ids["bob"]) == {}


def test_a_heartbeat_costs_the_floor() -> None:
    world = World()
    assert body_of(world.operation("alice")).fee == world.parameters.fee_floor == 1


def test_a_lock_s_settling_is_paid_in_advance() -> None:
    world = World()
    terms = world.terms(deposit=1_005, step=10)
    assert accounts.settling_fee(terms, DEVELOPMENT) == 100 + 2
    assert body_of(world.operation("alice", locks=[terms, terms])).fee == 1 + 2 * 102


def test_a_debt_is_part_of_the_least_fee_and_is_cleared() -> None:
    world = World()
    world.do(world.spend("alice"))
    account = msgspec.structs.replace(world.account("alice"), debt=7)
    world.state.accounts[account.id] = account
    assert accounts.minimum_fee(account, (), world.parameters) == 8
    world.do(world.spend("alice"))
    assert world.account("alice").debt == 0


def test_with_too_many_credits_the_largest_are_taken_sorted_by_id() -> None:
    world = World(parameters=msgspec.structs.replace(DEVELOPMENT, credits_max=3))
    for amount in (5, 9, 7, 3):
        world.do(world.spend("alice", [("bob", amount)]))
    spend = body_of(world.operation("bob"))
    assert len(spend.credits) == 3
    assert list(spend.credits) == sorted(spend.credits)
    mine = world.state.credits_of(world.ids["bob"])
    assert sorted(mine[id_] for id_ in spend.credits) == [7, 9, PURSE]
    world.do(world.spend("bob"))
    assert sorted(world.state.credits_of(world.ids["bob"]).values()) == [3, 5]


def test_a_clock_that_went_back_does_not_stop_the_account() -> None:
    world = World()
    world.do(world.spend("alice"))
    world.now -= 5_000
    assert world.operation("alice").timestamp == NOW


def test_the_builder_says_what_is_missing() -> None:
    world = World()
    with pytest.raises(InsufficientFunds) as caught:
        world.spend("alice", [("bob", PURSE)])
    assert (caught.value.available, caught.value.needed) == (PURSE, PURSE + 1)


def test_the_builder_wants_an_inception_exactly_for_the_first_spend() -> None:
    world = World()
    account = world.account("alice")
    with pytest.raises(InvalidInput):
        accounts.spend(account, {}, DEVELOPMENT, network=world.network, now_ms=NOW)
    world.do(world.spend("alice"))
    with pytest.raises(InvalidInput):
        accounts.spend(
            world.account("alice"),
            {},
            DEVELOPMENT,
            network=world.network,
            now_ms=NOW,
            inception=inception_of("alice"),
        )


def test_the_builder_refuses_a_lock_that_lives_too_long() -> None:
    world = World()
    with pytest.raises(InvalidOperation) as caught:
        world.spend("alice", locks=[world.terms(expiry=NOW + DEVELOPMENT.lock_life_ms_max + 1)])
    assert caught.value.rule == "lock-life"
    assert PRODUCTION.lock_life_ms_max == 90 * 24 * 3_600_000


def test_the_digest_covers_every_field_but_the_head() -> None:
    world = World()
    account = world.account("alice")
    digest = accounts.account_digest(account)
    other = {
        bytes: b"x" * 32,
        int: 77,
        tuple: (b"g" * 32,),
    }
    for field in msgspec.structs.fields(account):
        value = other[type(getattr(account, field.name))]
        changed_ = accounts.account_digest(msgspec.structs.replace(account, **{field.name: value}))
        assert (changed_ == digest) == (field.name == "head"), field.name


def test_a_rotation_by_the_revealed_key_moves_the_account_to_it() -> None:
    world = World()
    world.do(world.spend("alice"))
    rotate = Rotation(key_of("alice'").public, key_digest(key_of("alice''").public))
    operation = world.operation("alice", rotate=rotate)
    world.do(changed(operation, "alice'"))
    account = world.account("alice")
    assert (account.key, account.next_digest) == (rotate.key, rotate.next_digest)
    world.do(changed(world.operation("alice", [("bob", 5)]), "alice'"))
    assert world.account("alice").seq == 3


def test_an_account_may_rotate_with_its_first_operation() -> None:
    world = World()
    rotate = Rotation(key_of("alice'").public, bytes(32))
    world.do(changed(world.operation("alice", rotate=rotate), "alice'"))
    assert world.account("alice").key == rotate.key


def test_a_key_that_was_not_committed_to_cannot_be_revealed() -> None:
    world = World()
    with pytest.raises(InvalidOperation) as caught:
        world.operation("alice", rotate=Rotation(key_of("mallory").public, bytes(32)))
    assert caught.value.rule == "rotation"


def test_a_credit_may_wait_for_an_account_that_is_not_open() -> None:
    world = World()
    world.state.add_credit(credit_id(b"o" * 32, 0), Credit(world.ids["bob"], 3))
    world.do(world.spend("bob"))
    assert world.account("bob").balance == PURSE + 3 - 1
