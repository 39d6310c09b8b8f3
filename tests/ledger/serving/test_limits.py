from __future__ import annotations

from collections.abc import Callable

import pytest

from ainp2p.ledger.serving import limits as module
from ainp2p.ledger.serving.limits import Bucket, Limits


def test_a_bucket_gives_its_size_then_its_rate() -> None:
    bucket = Bucket(rate=10, size=5, now_s=0)
    assert [bucket.take(1, 0) for _ in range(6)] == [True] * 5 + [False]
    assert bucket.take(1, 0.1)
    assert not bucket.take(1, 0.1)


def test_what_is_refused_costs_nothing() -> None:
    bucket = Bucket(rate=1, size=5, now_s=0)
    assert not bucket.take(6, 0)
    assert bucket.take(5, 0)


def test_a_bucket_never_holds_more_than_its_size() -> None:
    bucket = Bucket(rate=10, size=5, now_s=0)
    assert not bucket.take(6, 1_000)


def test_a_clock_that_goes_back_gives_nothing() -> None:
    bucket = Bucket(rate=10, size=5, now_s=100)
    assert bucket.take(5, 100)
    assert not bucket.take(1, 50)


def test_peers_do_not_share() -> None:
    limits = Limits(rate=1, burst=2)
    assert limits.allow("a", 2, 0)
    assert not limits.allow("a", 1, 0)
    assert limits.allow("b", 2, 0)


def test_the_table_is_bounded_and_forgets_who_was_quiet_longest() -> None:
    limits = Limits(rate=0.001, burst=1, peers_max=2)
    assert limits.allow("a", 1, 0)
    assert limits.allow("b", 1, 0)
    assert not limits.allow("a", 1, 0)  # heard of again: b is the quiet one
    assert limits.allow("c", 1, 0)
    assert not limits.allow("a", 1, 0)
    assert limits.allow("b", 1, 0)  # forgotten, and so full again


def test_e4_a_crowd_in_one_place_gets_what_a_few_peers_get() -> None:
    assert crowd(Limits(rate=1, burst=10), lambda peer: "192.0.2") == 40


def test_e4_a_crowd_everywhere_gets_no_more_than_the_total() -> None:
    assert crowd(Limits(rate=1, burst=10), lambda peer: peer) <= 80


def test_e4_mutant_peers_alone_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOTAL_FACTOR", 10**6)
    assert crowd(Limits(rate=1, burst=10), lambda peer: "") == 1_000
    monkeypatch.setattr(module, "PLACE_FACTOR", 10**6)
    assert crowd(Limits(rate=1, burst=10), lambda peer: "192.0.2") == 1_000


def crowd(limits: Limits, place_of: Callable[[str], str]) -> int:
    """What a hundred peers get at once, each asking for all that one may have."""
    peers = [f"peer {i}" for i in range(100)]
    return sum(limits.allow(peer, 1, 0, place_of(peer)) for peer in peers for _ in range(10))


def test_e4_who_asks_now_and_then_is_served_while_a_crowd_floods() -> None:
    assert served_beside_a_crowd() == 20


def test_e4_mutant_without_a_reserve_the_crowd_takes_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESERVE", 0.0)
    assert served_beside_a_crowd() < 20


def served_beside_a_crowd() -> int:
    """How many of an honest peer's twenty questions, one a second, are answered."""
    limits, served = Limits(rate=100, burst=200), 0
    for tick in range(2_000):
        now = tick / 100
        for flooder in range(20):
            for _ in range(5):
                limits.allow(f"flooder {flooder}", 1, now)
        if tick % 100 == 99:
            served += limits.allow("honest", 1, now)
    return served


def test_who_was_fined_waits_and_nobody_else_does() -> None:
    limits = Limits(rate=1, burst=10)
    limits.fine("liar", 100, 0)
    assert not limits.allow("liar", 1, 0.5)
    assert limits.allow("liar", 1, 1)
    assert limits.allow("honest", 10, 0)


def test_e4_who_does_not_listen_to_busy_is_flooding_within_five_seconds() -> None:
    limits = Limits(rate=1_000, burst=1_000)
    cut_at = None
    for tick in range(50_000):  # 5,000 a second
        now = tick / 5_000
        limits.allow("flooder", 1, now)
        if limits.is_flooding("flooder", now):
            cut_at = now
            break
    assert cut_at is not None
    assert cut_at < 5
    assert not limits.is_flooding("honest", 0)


def test_who_is_refused_now_and_then_is_not_flooding() -> None:
    limits = Limits(rate=1, burst=1)
    for second in range(1_000):
        for _ in range(10):
            limits.allow("eager", 1, second)
        assert not limits.is_flooding("eager", second)


def after_a_crowd_in_its_place(limits: Limits) -> bool:
    """Whether a quiet peer is served while neighbours ask for all that they can get."""
    for tick in range(200):
        for number in range(8):
            for _ in range(5):
                limits.allow(f"crowd {number}", 1, tick / 10, "192.0.2")
    return limits.allow("quiet", 5, 19.9, "192.0.2")


def test_e4_a_quiet_peer_is_served_although_a_crowd_floods_from_its_own_place() -> None:
    assert after_a_crowd_in_its_place(Limits(rate=1, burst=10))


def test_e4_mutant_without_a_reserve_its_neighbours_take_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESERVE", 0.0)
    assert not after_a_crowd_in_its_place(Limits(rate=1, burst=10))
