from __future__ import annotations

import msgspec
import pytest

from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.rules.operations import ParsedOperation, Recover, Rotation, key_digest, parse
from ainp2p.ledger.rules.receipts import close_operation, refund_operation, settle_operation
from ainp2p.ledger.voting.picking import Conflict, leader, pick
from tests.ledger.world import World, key_of

KEYS = tuple(sorted(key_of(f"validator {i}").public for i in range(7)))
COMMITTEE = Committee(KEYS, (1,) * 7)


# --- leaders ----------------------------------------------------------------------------------------------


def test_every_member_leads_once_in_n_views_and_then_again_in_the_same_order() -> None:
    order = [leader(COMMITTEE, 0, b"o" * 32, 1, view) for view in range(1, 15)]
    assert sorted(order[:7]) == list(range(7))
    assert order[:7] == order[7:]


@pytest.mark.parametrize("other", [(1, b"o" * 32, 1), (0, b"p" * 32, 1), (0, b"o" * 32, 2)])
def test_epochs_objects_and_slots_have_orders_of_their_own(other: tuple[int, bytes, int]) -> None:
    orders = [[leader(COMMITTEE, *each, view) for view in range(1, 8)] for each in ((0, b"o" * 32, 1), other)]
    assert orders[0] != orders[1]


def test_the_first_leader_is_pinned() -> None:
    assert [leader(COMMITTEE, 0, bytes(32), 1, view) for view in (1, 2, 3)] == [4, 1, 2]


# --- pick -------------------------------------------------------------------------------------------------


def spends(world: World) -> list[ParsedOperation]:
    made = [parse(world.spend("alice", [("bob", amount)])) for amount in (5, 6, 7)]
    return sorted(made, key=lambda each: each.id)


def rotations(world: World) -> list[ParsedOperation]:
    made = []
    for salt in ("x", "y"):
        rotation = Rotation(key_of("alice'").public, key_digest(key_of(salt).public))
        made.append(parse(world.spend("alice", rotate=rotation)))
    return sorted(made, key=lambda each: each.id)


def recovers(world: World) -> list[ParsedOperation]:
    base = spends(world)[0]
    operation = msgspec.structs.replace(base.operation, body=Recover(bytes(32), bytes(32), bytes(32)))
    return [ParsedOperation(base.raw, bytes([i]) * 32, operation, base.signed) for i in (1, 2)]


def test_of_nothing_nothing_is_picked() -> None:
    assert pick([]) is None


def test_exactly_one_owners_operation_is_picked_however_often_it_is_named() -> None:
    only = spends(World())[0]
    assert pick([only, only]) is only


def test_two_owners_operations_conflict_and_the_order_does_not_matter() -> None:
    first, second, third = spends(World())
    assert pick([third, second, first]) == pick([first, third, second]) == Conflict(first, second)


def test_a_rotation_by_the_revealed_key_comes_before_what_conflicts() -> None:
    world = World()
    lower, higher = rotations(world)
    assert pick([*spends(world), higher, lower]) is lower


def test_a_recover_comes_last_and_the_lowest_of_several_is_picked() -> None:
    world = World()
    lower, higher = recovers(world)
    assert pick([higher, lower]) is lower
    owners = spends(world)
    assert pick([lower, owners[0]]) is owners[0]
    assert isinstance(pick([lower, *spends(world)]), Conflict)


def test_of_a_lock_the_highest_cumulative_then_settle_close_refund_then_the_lowest_id() -> None:
    world = World()
    lock = world.open_lock()
    settle = {n: parse(settle_operation(lock, world.receipt(lock, n))) for n in (100, 200)}
    close = {
        n: parse(close_operation(world.network, lock, world.receipt(lock, n), key_of("bob")))
        for n in (100, 200)
    }
    refund = parse(refund_operation(world.network, lock))
    twin = parse(settle_operation(lock, world.receipt(lock, 200, units=2)))
    assert pick([refund]) is refund
    assert pick([refund, close[100]]) is close[100]
    assert pick([close[100], settle[100]]) is settle[100]
    assert pick([settle[100], close[200], refund]) is close[200]
    assert pick([close[200], settle[200]]) is settle[200]
    assert pick([settle[200], twin]) is min(settle[200], twin, key=lambda each: each.id)
