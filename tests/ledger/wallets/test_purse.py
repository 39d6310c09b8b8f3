from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.ledger.rules.locks import lock_step
from ainp2p.ledger.rules.operations import ParsedOperation, Share, Spend, parse
from ainp2p.ledger.rules.receipts import close_operation, refund_operation, settle_operation
from ainp2p.ledger.wallets.purse import Purse

from ..world import PURSE, World, inception_of, key_of


def purse_of(world: World, name: str) -> Purse:
    return Purse(world.genesis, world.network, inception_of(name), key_of(name).public)


def two_to_one(world: World) -> tuple[Share, ...]:
    """Two parts for bob, one for carol."""
    return tuple(sorted((Share(world.ids["bob"], 2), Share(world.ids["carol"], 1)), key=lambda s: s.account))


class Story:
    """What happened in a world, operation by operation."""

    def __init__(self) -> None:
        self.world = World()
        self.told: list[ParsedOperation] = []

    def do(self, signed: object) -> ParsedOperation:
        parsed = parse(signed)  # type: ignore[arg-type]  # tests pass SignedOperations only
        self.world.do(parsed.signed)
        self.told.append(parsed)
        return parsed

    def a_day(self) -> None:
        """alice pays, opens a deposit for bob and carol, bob settles twice and closes, and pays on."""
        world = self.world
        self.do(world.spend("alice", [("bob", 100), ("alice", 7)]))
        parts = tuple(
            sorted((Share(world.ids["bob"], 2), Share(world.ids["carol"], 1)), key=lambda s: s.account)
        )
        self.do(world.spend("alice", locks=[world.terms(beneficiaries=parts)]))
        (lock,) = world.state.locks.values()
        for cumulative in (101, 211):
            self.do(settle_operation(world.state.locks[lock.id], world.receipt(lock, cumulative)))
        last = world.receipt(lock, 305)
        self.do(close_operation(world.network, world.state.locks[lock.id], last, key_of("bob")))
        self.do(world.spend("bob", [("alice", 50)]))
        self.do(world.spend("alice", [("carol", 1)]))


@pytest.fixture
def story() -> Story:
    story = Story()
    story.a_day()
    return story


def assert_mirrors(purse: Purse, world: World, name: str) -> None:
    """The purse knows of its account what the whole ledger knows."""
    assert purse.account == world.account(name)
    assert purse.credits == world.state.credits_of(purse.id)
    for lock in world.state.locks.values():
        if purse.concerns(lock):
            assert purse.locks[lock.id] == lock
    assert purse.balance(None, {}).total == world.wealth(name)


@pytest.mark.parametrize("name", ["alice", "bob", "carol"])
def test_told_in_order_a_purse_knows_what_the_ledger_knows(story: Story, name: str) -> None:
    purse = purse_of(story.world, name)
    for parsed in story.told:
        purse.apply(parsed)
    assert_mirrors(purse, story.world, name)


@pytest.mark.parametrize("name", ["alice", "bob", "carol"])
def test_a_repeat_changes_nothing(story: Story, name: str) -> None:
    purse = purse_of(story.world, name)
    for parsed in story.told:
        first = purse.apply(parsed)
        again = purse.apply(parsed)
        assert (again.received, again.spent, again.locks) == (0, 0, ())
        assert first.gap is None or again.gap is None or again.gap == first.gap
    for parsed in story.told:
        purse.apply(parsed)
    assert_mirrors(purse, story.world, name)


def mend(purse: Purse, story: Story, gap: bytes) -> None:
    """What the mirror does at a gap: take the proven newest state, and credits as the ledger lists them."""
    state = story.world.state
    if gap == purse.id:
        listed = state.credits_of(purse.id)
        if purse.adopt_account(story.world.account("bob")):
            purse.drop_credits(purse.credits.keys() - listed.keys())
        for id_, amount in listed.items():
            purse.add_credit(id_, amount)
        return
    opening = next(
        parsed
        for parsed in story.told
        if isinstance(parsed.operation.body, Spend) and parsed.operation.body.locks
    )
    purse.adopt_lock(state.locks[gap], opening)


@given(st.randoms(use_true_random=False), st.sets(st.integers(0, 6)))
def test_told_in_any_order_with_gaps_mended_it_knows_the_same(rng: random.Random, dropped: set[int]) -> None:
    story = Story()
    story.a_day()
    purse = purse_of(story.world, "bob")
    told = [parsed for i, parsed in enumerate(story.told) if i not in dropped] * 2
    rng.shuffle(told)
    for parsed in told:
        gap = purse.apply(parsed).gap
        if gap is not None:
            mend(purse, story, gap)
    for lock in story.world.state.locks:
        mend(purse, story, lock)
    mend(purse, story, purse.id)
    assert_mirrors(purse, story.world, "bob")


def test_mutant_without_memory_of_consumed_credits_money_comes_back(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(self: Purse, id_: bytes, amount: int) -> None:
        self.credits[id_] = amount

    monkeypatch.setattr(Purse, "add_credit", forgetful)
    purse = purse_of(story.world, "bob")
    for parsed in [story.told[-2], *story.told]:  # his SPEND is heard of before what it consumes
        purse.apply(parsed)
    purse.adopt_account(story.world.account("bob"))
    with pytest.raises(AssertionError):
        assert_mirrors(purse, story.world, "bob")


def test_a_missing_operation_of_a_lock_is_named_as_a_gap(story: Story) -> None:
    purse = purse_of(story.world, "bob")
    (lock,) = story.world.state.locks
    assert purse.apply(story.told[2]).gap == lock
    purse.apply(story.told[1])
    assert purse.apply(story.told[3]).gap == lock


def test_a_missing_operation_of_the_account_is_named_as_a_gap(story: Story) -> None:
    purse = purse_of(story.world, "alice")
    assert purse.apply(story.told[1]).gap == purse.id


def test_of_strangers_nothing_is_kept() -> None:
    story = Story()
    story.do(story.world.spend("alice", [("bob", 100)]))
    story.do(story.world.spend("alice", locks=[story.world.terms()]))
    purse = purse_of(story.world, "carol")
    for parsed in story.told:
        assert purse.apply(parsed).received == 0
    assert purse.locks == {}
    assert purse.balance(None, {}).total == PURSE


# --- balance ------------------------------------------------------------------------------------------


def test_a_payment_under_way_counts_as_made() -> None:
    world = World()
    purse = purse_of(world, "alice")
    operation = world.operation("alice", [("bob", 100)], [world.terms()])
    assert isinstance(operation.body, Spend)
    balance = purse.balance(operation.body, {})
    assert (balance.available, balance.locked) == (PURSE - 100 - 1_000 - operation.body.fee, 1_000)


@pytest.mark.parametrize(
    ("cumulative", "owed"), [(100, 66), (0, 0), (1_000, 666)], ids=["some", "nothing", "everything"]
)
def test_what_is_owed_is_our_share_of_the_best_receipt(cumulative: int, owed: int) -> None:
    story = Story()
    world = story.world
    story.do(world.spend("alice", locks=[world.terms(beneficiaries=two_to_one(world))]))
    purse = purse_of(world, "bob")
    purse.apply(story.told[0])
    (lock,) = purse.locks
    assert purse.balance(None, {lock: cumulative}).owed == owed


def test_of_an_ended_lock_nothing_is_owed() -> None:
    story = Story()
    world = story.world
    story.do(world.spend("alice", locks=[world.terms()]))
    (lock,) = world.state.locks.values()
    world.now = lock.expiry
    story.do(refund_operation(world.network, lock))
    purse = purse_of(world, "bob")
    for parsed in story.told:
        purse.apply(parsed)
    assert purse.balance(None, {lock.id: 500}).owed == 0


def test_a_lock_steps_by_operations_on_locks_only() -> None:
    world = World()
    lock = world.open_lock()
    spend = parse(world.spend("alice", [("bob", 1)]))
    with pytest.raises(Exception, match="SPEND is on an account"):
        lock_step(lock, spend)


def test_an_older_state_is_not_adopted() -> None:
    world = World()
    purse = purse_of(world, "alice")
    opening = parse(world.spend("alice", locks=[world.terms()]))
    purse.apply(opening)
    world.do(opening.signed)
    assert not purse.adopt_account(msgspec.structs.replace(purse.account, balance=5))
    (lock,) = purse.locks.values()
    assert not purse.adopt_lock(msgspec.structs.replace(lock, paid=5), opening)
    assert_mirrors(purse, world, "alice")
