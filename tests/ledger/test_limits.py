from __future__ import annotations

from ainp2p.ledger.limits import Bucket, Limits


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
