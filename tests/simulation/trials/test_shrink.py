"""Shrinking of schedules, on functions that know what breaks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.simulation import Fault, Schedule
from ainp2p.simulation.trials.shrink import SHORTEST_S, shrink


def pauses(count: int, for_s: float | None = 8.0) -> Schedule:
    return Schedule(tuple(Fault(float(i), for_s, "pause", (f"n{i}",)) for i in range(count)))


def needs(*places: int, for_s: float = 0.0) -> object:
    """True of schedules with the pauses of all these nodes, each for so long."""

    def fails(schedule: Schedule) -> bool:
        there = {fault.who[0] for fault in schedule if fault.for_s is None or fault.for_s >= for_s}
        return there >= {f"n{place}" for place in places}

    return fails


@given(st.sets(st.integers(0, 19), max_size=4))
def test_what_is_needed_is_left_and_nothing_else(places: set[int]) -> None:
    found = shrink(pauses(20), needs(*places), runs_max=10_000)  # type: ignore[arg-type]
    assert found.done
    assert [fault.who[0] for fault in found.schedule] == [f"n{place}" for place in sorted(places)]


def test_a_failure_without_any_fault_is_found_at_once() -> None:
    found = shrink(pauses(20), lambda schedule: True)
    assert (len(found.schedule), found.runs) == (0, 1)


def test_faults_become_shorter_as_far_as_they_still_break_it() -> None:
    found = shrink(pauses(3), needs(1, for_s=1.5))  # type: ignore[arg-type]
    assert [(fault.who[0], fault.for_s) for fault in found.schedule] == [("n1", 2.0)]


def test_faults_for_ever_become_finite_and_none_is_shorter_than_the_least() -> None:
    (fault,) = shrink(pauses(2, None), needs(1)).schedule  # type: ignore[arg-type]
    assert SHORTEST_S <= (fault.for_s or 0) < 2 * SHORTEST_S


def test_sides_lose_the_nodes_that_do_not_matter() -> None:
    schedule = Schedule.parse("1+0.1 partition a,b,c/d,e,f")

    def fails(tried: Schedule) -> bool:
        return all("b" in fault.who and "f" in fault.whom for fault in tried) and len(tried) > 0

    assert str(shrink(schedule, fails).schedule) == "1+0.1 partition b/f"


@pytest.mark.parametrize("runs_max", [0, 1, 5, 17])
def test_the_limit_holds_and_what_was_found_until_then_still_breaks_it(runs_max: int) -> None:
    fails = needs(3, 11, 17)
    found = shrink(pauses(20), fails, runs_max=runs_max)  # type: ignore[arg-type]
    assert found.runs == runs_max
    assert not found.done
    assert fails(found.schedule)  # type: ignore[operator]
    assert f"{len(found.schedule)} of 20 faults, after {runs_max} runs; the limit came first" in str(found)


def test_it_ends_when_there_is_no_more_time() -> None:
    assert shrink(pauses(20), needs(3, 11), enough=lambda: True).runs == 0  # type: ignore[arg-type]


def test_no_schedule_is_tried_twice() -> None:
    tried: list[str] = []

    def fails(schedule: Schedule) -> bool:
        tried.append(str(schedule))
        return bool(needs(0, 5)(schedule))  # type: ignore[operator]

    shrink(pauses(10), fails)
    assert len(tried) == len(set(tried))
