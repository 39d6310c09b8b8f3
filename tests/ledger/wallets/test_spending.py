from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.errors import InsufficientFunds
from ainp2p.ledger.rules.accounts import settling_fee
from ainp2p.ledger.rules.operations import LOCKS_MAX, OUTS_MAX, Share, Spend, credit_id, parse, sign_operation
from ainp2p.ledger.wallets.spending import Deposit, Payment, Plan, Wish, plan_spend

from ..world import NOW, PURSE, World, inception_of, key_of


def plan(world: World, wishes: list[Wish], credits: dict[bytes, int] | None = None) -> Plan:
    account = world.account("alice")
    return plan_spend(
        wishes,
        account,
        world.state.credits_of(account.id) if credits is None else credits,
        world.parameters,
        network=world.network,
        now_ms=NOW,
        inception=inception_of("alice"),
    )


def deposit(world: World, amount: int = 1_000) -> Deposit:
    bob = world.ids["bob"]
    return Deposit((Share(bob, 1),), amount, 10, (key_of("alice").public,), 1, bob, 60_000, bytes(32))


def body(found: Plan) -> Spend:
    assert found.operation is not None
    assert isinstance(found.operation.body, Spend)
    return found.operation.body


def test_payments_and_deposits_share_one_spend_which_is_valid() -> None:
    world = World()
    found = plan(world, [Payment(world.ids["bob"], 5), deposit(world), Payment(world.ids["carol"], 6)])
    assert found.places == {0: 0, 1: 0, 2: 1}
    assert found.refused == {}
    assert found.operation is not None
    world.do(sign_operation(found.operation, key_of("alice")))
    assert world.state.credits_of(world.ids["carol"]) == {
        **{credit_id(world.network, 2): PURSE},
        credit_id(parse(sign_operation(found.operation, key_of("alice"))).id, 1): 6,
    }


def test_nothing_wished_is_nothing_done() -> None:
    assert plan(World(), []) == Plan(None, {}, {})


def test_what_is_too_dear_is_refused_and_the_others_go_on() -> None:
    world = World()
    bob = world.ids["bob"]
    found = plan(world, [Payment(bob, 10), Payment(bob, PURSE), Payment(bob, 20)])
    assert found.places == {0: 0, 2: 1}
    assert isinstance(found.refused[1], InsufficientFunds)
    assert found.refused[1].available == PURSE - 1 - 10


def test_the_last_unit_can_be_spent_and_not_one_more() -> None:
    world = World()
    bob = world.ids["bob"]
    assert plan(world, [Payment(bob, PURSE - 1)]).places == {0: 0}
    assert 0 in plan(world, [Payment(bob, PURSE)]).refused
    terms = deposit(world).terms(NOW)
    fee = settling_fee(terms, world.parameters)
    assert plan(world, [deposit(world), Payment(bob, PURSE - 1 - 1_000 - fee)]).places == {0: 0, 1: 0}
    assert 1 in plan(world, [deposit(world), Payment(bob, PURSE - 1_000 - fee)]).refused


def test_what_does_not_fit_waits_for_the_next() -> None:
    world = World()
    payments: list[Wish] = [Payment(world.ids["bob"], 1)] * (OUTS_MAX + 3)
    wishes = payments + [deposit(world, 10)] * (LOCKS_MAX + 2)
    found = plan(world, wishes)
    assert (len(body(found).outs), len(body(found).locks)) == (OUTS_MAX, LOCKS_MAX)
    assert len(found.places) == OUTS_MAX + LOCKS_MAX
    assert found.refused == {}


def test_money_in_too_many_credits_is_gathered_first() -> None:
    world = World()
    cap = world.parameters.credits_max
    credits = {credit_id(bytes([i // 256, i % 256]) * 16, 0): 10 for i in range(cap + 50)}
    wish = Payment(world.ids["bob"], 10 * cap + 100)
    found = plan(world, [wish], credits)
    assert (found.places, found.refused) == ({}, {})
    assert len(body(found).credits) == cap
    assert plan(world, [Payment(wish.account, 10 * cap + 600)], credits).refused.keys() == {0}


def test_a_deposit_lives_from_the_spend_s_own_timestamp() -> None:
    world = World()
    world.do(world.spend("alice", [("bob", 1)]))
    late = msgspec.structs.replace(world.account("alice"), timestamp=NOW + 5_000)
    found = plan_spend(
        [deposit(world)],
        late,
        {},
        world.parameters,
        network=world.network,
        now_ms=NOW,
        inception=inception_of("alice"),
    )
    assert found.operation is not None
    assert found.operation.timestamp == NOW + 5_000
    assert body(found).locks[0].expiry == NOW + 65_000


@given(st.lists(st.integers(1, PURSE), max_size=80))
def test_every_wish_is_placed_refused_or_waits_and_the_spend_is_valid(amounts: list[int]) -> None:
    world = World()
    found = plan(world, [Payment(world.ids["bob"], amount) for amount in amounts])
    assert not found.places.keys() & found.refused.keys()
    if found.operation is not None:
        world.do(sign_operation(found.operation, key_of("alice")))
        assert sum(out.amount for out in body(found).outs) == sum(amounts[i] for i in found.places)
    else:
        assert len(found.refused) == len(amounts)


def test_mutant_forgetting_the_fee_makes_an_invalid_spend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ainp2p.ledger.wallets.spending.settling_fee", lambda terms, parameters: 0)
    world = World()
    with pytest.raises(InsufficientFunds):
        plan(world, [deposit(world), Payment(world.ids["bob"], PURSE - 1_001)])
