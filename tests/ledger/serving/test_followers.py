from __future__ import annotations

import pytest

from ainp2p.ledger.rules.operations import parse
from ainp2p.ledger.rules.receipts import settle_operation
from ainp2p.ledger.serving import followers as module
from ainp2p.ledger.serving.followers import Followers, concerned

from ..world import World


def test_a_spend_concerns_its_account_the_paid_and_the_beneficiaries() -> None:
    world = World()
    parsed = parse(world.spend("alice", [("carol", 5)], locks=[world.terms("bob")]))
    world.do(parsed.signed)
    assert set(concerned(parsed, world.state)) == set(world.ids.values())


def test_an_operation_on_a_lock_concerns_payer_and_payees() -> None:
    world = World()
    lock = world.open_lock()
    parsed = parse(settle_operation(lock, world.receipt(lock, 100)))
    world.do(parsed.signed)
    assert set(concerned(parsed, world.state)) == {lock.id, world.ids["alice"], world.ids["bob"]}


def test_only_who_is_concerned_is_told_and_each_once() -> None:
    world, followers = World(), Followers()
    bob = followers.add("peer", [world.ids["bob"], world.ids["alice"]])
    carol = followers.add("peer", [world.ids["carol"]])
    assert bob is not None
    assert carol is not None
    parsed = parse(world.spend("alice", [("bob", 5)]))
    world.do(parsed.signed)
    followers.announce(parsed, world.state)
    assert bob.peek(10) == [parsed.id]
    assert bob.news.is_set()
    assert carol.peek(10) == []
    bob.sent([parsed.id])
    assert not bob.news.is_set()


def test_a_follower_that_left_is_told_nothing() -> None:
    world, followers = World(), Followers()
    bob = followers.add("peer", [world.ids["bob"]])
    assert bob is not None
    followers.remove(bob)
    parsed = parse(world.spend("alice", [("bob", 5)]))
    world.do(parsed.signed)
    followers.announce(parsed, world.state)
    assert bob.peek(10) == []
    assert len(followers) == 0


def test_a_follower_that_does_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKLOG_MAX", 2)
    bob = Followers().add("peer", [bytes(32)])
    assert bob is not None
    for i in range(3):
        bob.tell(bytes([i]) * 32)
    assert bob.dropped
    assert bob.news.is_set()


def test_streams_are_few_per_peer_and_bounded_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FOLLOWERS_MAX", 6)
    followers = Followers()
    assert [followers.add("a", [bytes(32)]) is not None for _ in range(5)] == [True] * 4 + [False]
    assert [followers.add("b", [bytes(32)]) is not None for _ in range(3)] == [True, True, False]
