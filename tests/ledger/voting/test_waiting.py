from __future__ import annotations

import pytest

from ainp2p.errors import NotYet
from ainp2p.ledger.voting.slot import Candidate
from ainp2p.ledger.voting.waiting import Limits, WaitingRoom


def candidate(number: int, source: str = "") -> Candidate:
    made = Candidate(bytes([number]) * 32)
    made.source = source
    return made


def test_whoever_waits_for_a_key_is_woken_in_the_order_of_coming() -> None:
    room = WaitingRoom(Limits())
    one, two, three = (candidate(i) for i in range(3))
    for each in (one, two):
        room.block(each, b"key")
    room.block(three, b"other")
    room.wake(b"key")
    room.wake(b"nobody")
    assert list(room.work) == [one, two]
    room.wake(b"key")
    assert list(room.work) == [one, two]


def test_one_waits_for_one_key_at_a_time() -> None:
    room = WaitingRoom(Limits())
    one = candidate(1)
    room.block(one, b"first")
    room.block(one, b"second")
    room.block(one, b"second")
    room.wake(b"first")
    assert list(room.work) == []
    room.wake(b"second")
    assert list(room.work) == [one]


def test_whoever_leaves_is_not_woken_and_leaves_nothing_behind() -> None:
    room = WaitingRoom(Limits())
    one, two = candidate(1, "a"), candidate(2, "a")
    for each in (one, two):
        room.enter(each)
        room.block(each, b"key")
    room.leave(one)
    room.leave(one)
    room.wake(b"key")
    assert list(room.work) == [two]
    room.leave(two)
    room.work.clear()
    assert room.is_idle


def test_timers_end_in_the_order_of_their_times_and_then_of_their_making() -> None:
    room, held = WaitingRoom(Limits()), dict[bytes, Candidate]()
    late, first, second = (candidate(i) for i in range(3))
    for each, at in ((late, 30), (first, 20), (second, 20)):
        room.wake_at(each, at, held)
    assert room.due == 20
    room.run_timers(25)
    assert list(room.work) == [first, second]
    room.run_timers(30)
    assert list(room.work) == [first, second, late]
    assert room.due is None


def test_v10_timers_of_candidates_that_are_gone_do_not_pile_up() -> None:
    room = WaitingRoom(Limits())
    kept = candidate(1)
    held = {kept.id: kept}
    room.wake_at(kept, 5, held)
    for _ in range(10_000):
        room.wake_at(candidate(2), 9, held)
    assert len(room._timers) < 2_000
    room.run_timers(5)
    assert list(room.work) == [kept]


def test_v10_places_are_bounded_by_source_and_in_all() -> None:
    room = WaitingRoom(Limits(waiting_max=3, waiting_max_per_source=2))
    a, b, c, d, e = (candidate(i, "x" if i < 3 else "y") for i in range(5))
    assert room.enter(a) is None
    assert room.enter(a) is None  # has one
    assert room.enter(b) is None
    with pytest.raises(NotYet, match="busy"):
        room.enter(c)
    assert room.enter(d) is None
    assert room.enter(e) is a  # the oldest has to go
    room.leave(a)
    assert len(room) == 3


def test_what_is_prepared_needs_no_place() -> None:
    room = WaitingRoom(Limits(waiting_max_per_source=0))
    one = candidate(1)
    one.prepared = 0
    assert room.enter(one) is None
    assert len(room) == 0
