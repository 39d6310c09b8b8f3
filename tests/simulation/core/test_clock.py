"""Virtual time: order of timers, ties, cancelling, and what trio's own waiting does on this clock."""

from __future__ import annotations

import heapq
import math
import random

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from ainp2p.errors import InvalidInput
from ainp2p.simulation.core import clock as clock_module
from ainp2p.simulation.core.clock import EPOCH_MS, VirtualClock
from ainp2p.simulation.core.kernel import run_virtual


def fired(plan: list[tuple[float, int]], until_s: float = 1000.0) -> list[tuple[float, int]]:
    """Which of the timers (time, name) ran, in order, with the time they saw."""
    clock = VirtualClock()
    seen: list[tuple[float, int]] = []

    async def main() -> None:
        for at_s, name in plan:
            clock.call_at(at_s, lambda name: seen.append((clock.now, name)), name)
        await trio.sleep_until(until_s)

    run_virtual(main, seed=1, clock=clock)
    return seen


def test_timers_run_at_their_time_and_in_order() -> None:
    assert fired([(3.0, 1), (1.0, 2), (2.5, 3)]) == [(1.0, 2), (2.5, 3), (3.0, 1)]


def test_timers_of_one_instant_run_in_the_order_of_scheduling() -> None:
    assert [name for _, name in fired([(1.0, name) for name in range(50)])] == list(range(50))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5).map(float), st.integers(0, 9)), max_size=40))
def test_the_order_is_that_of_a_stable_sort(plan: list[tuple[float, int]]) -> None:
    assert fired(plan) == sorted(plan, key=lambda timer: timer[0])


def test_a_time_that_is_past_means_now() -> None:
    clock = VirtualClock()
    seen: list[float] = []

    async def main() -> None:
        await trio.sleep(5)
        clock.call_at(1.0, lambda: seen.append(clock.now))
        clock.call_later(-3.0, lambda: seen.append(clock.now))
        await trio.sleep(1)

    run_virtual(main, seed=1, clock=clock)
    assert seen == [5.0, 5.0]


@pytest.mark.parametrize("at_s", [math.inf, math.nan])
def test_a_time_that_never_comes_is_refused(at_s: float) -> None:
    with pytest.raises(InvalidInput):
        VirtualClock().call_at(at_s, print)


def test_a_cancelled_timer_does_not_run() -> None:
    clock = VirtualClock()
    seen: list[str] = []

    async def main() -> None:
        timer = clock.call_at(1.0, seen.append, "cancelled")
        kept = clock.call_at(1.0, seen.append, "kept")
        assert clock.pending == 2
        timer.cancel()
        timer.cancel()
        assert (clock.pending, timer.pending, kept.pending) == (1, False, True)
        await trio.sleep(2)
        kept.cancel()
        assert (clock.pending, kept.pending) == (0, False)

    run_virtual(main, seed=1, clock=clock)
    assert seen == ["kept"]


def test_a_callback_may_cancel_another_of_its_instant() -> None:
    clock = VirtualClock()
    seen: list[str] = []

    async def main() -> None:
        clock.call_at(1.0, lambda: second.cancel())
        second = clock.call_at(1.0, seen.append, "second")
        await trio.sleep(2)

    run_virtual(main, seed=1, clock=clock)
    assert seen == []


def test_callbacks_added_to_the_present_instant_run_in_it() -> None:
    clock = VirtualClock()
    seen: list[tuple[float, int]] = []

    def step(n: int) -> None:
        seen.append((clock.now, n))
        if n:
            clock.call_later(0, step, n - 1)

    async def main() -> None:
        clock.call_at(1.0, step, 3)
        await trio.sleep(2)

    run_virtual(main, seed=1, clock=clock)
    assert seen == [(1.0, 3), (1.0, 2), (1.0, 1), (1.0, 0)]


def test_cancelled_timers_are_swept_and_the_rest_keeps_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_module, "STALE_MIN", 8)
    clock = VirtualClock()
    seen: list[int] = []
    rng = random.Random(4)

    async def main() -> None:
        timers = [clock.call_at(rng.randrange(3), seen.append, n) for n in range(300)]
        for timer in timers[::2] + timers[1:100:2]:
            timer.cancel()
        assert len(clock._heap) < 300
        assert clock.pending == 100
        await trio.sleep(5)

    run_virtual(main, seed=1, clock=clock)
    rng = random.Random(4)
    times = [rng.randrange(3) for _ in range(300)]
    assert seen == sorted(range(101, 300, 2), key=lambda n: times[n])
    assert clock.pending == 0


def test_a_sweep_in_the_middle_of_an_instant_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_module, "STALE_MIN", 4)
    clock = VirtualClock()
    seen: list[int] = []

    async def main() -> None:
        late = [clock.call_at(9.0, seen.append, -1) for _ in range(20)]
        for n in range(6):
            clock.call_at(1.0, seen.append, n)
            clock.call_at(1.0, late[n].cancel)
            clock.call_at(1.0, late[n + 6].cancel)
        await trio.sleep(2)
        for timer in late:
            timer.cancel()

    run_virtual(main, seed=1, clock=clock)
    assert seen == [0, 1, 2, 3, 4, 5]
    assert clock.pending == 0


def test_trio_deadlines_and_timers_come_in_the_order_of_time() -> None:
    clock = VirtualClock()
    seen: list[object] = []

    async def main() -> None:
        clock.call_at(2.0, seen.append, "timer 2")
        clock.call_at(4.0, seen.append, "timer 4")
        await trio.sleep_until(1.0)
        seen.append(trio.current_time())
        with trio.move_on_at(3.0):
            await trio.sleep_forever()
        seen.append(trio.current_time())
        await clock.sleep(2.5)
        seen.append(trio.current_time())

    run_virtual(main, seed=1, clock=clock)
    assert seen == [1.0, "timer 2", 3.0, "timer 4", 5.5]


def test_a_callback_may_move_a_deadline() -> None:
    clock = VirtualClock()

    async def main() -> float:
        with trio.move_on_at(100.0) as scope:
            clock.call_at(1.0, setattr, scope, "deadline", 2.0)
            clock.call_at(50.0, lambda: None)
            await trio.sleep_forever()
        return trio.current_time()

    assert run_virtual(main, seed=1, clock=clock) == 2.0


def test_sleeping_by_a_timer_is_cancelled_like_any_sleep() -> None:
    clock = VirtualClock()

    async def main() -> float:
        with trio.move_on_after(1.5):
            await clock.sleep(10)
        assert clock.pending == 0
        with trio.move_on_after(0) as scope:
            await clock.sleep(0)  # a checkpoint
        assert scope.cancelled_caught
        return clock.now

    assert run_virtual(main, seed=1, clock=clock) == 1.5


def test_the_wall_clock_has_whole_milliseconds_since_1970() -> None:
    clock = VirtualClock()
    assert clock.now_ms() == EPOCH_MS
    clock.now = 0.57  # 569.999… ms in binary
    assert clock.now_ms() == EPOCH_MS + 570
    clock.now = 0.5708
    assert clock.now_ms() == EPOCH_MS + 570


def test_waiting_until_all_tasks_are_blocked_takes_no_virtual_time() -> None:
    clock = VirtualClock()
    seen: list[str] = []

    async def worker() -> None:
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        seen.append("blocked")
        await trio.sleep(1)
        seen.append("slept")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker)
            await trio.testing.wait_all_tasks_blocked()
            seen.append("main")

    run_virtual(main, seed=1, clock=clock)
    assert seen == ["blocked", "main", "slept"]


def test_a_world_of_years_takes_no_time() -> None:
    clock = VirtualClock()

    async def main() -> None:
        await trio.sleep(10 * 365 * 86_400)

    run_virtual(main, seed=1, clock=clock)
    assert clock.now == 10 * 365 * 86_400


def test_steps_are_the_same_in_every_run_of_a_seed() -> None:
    def steps() -> int:
        clock = VirtualClock()

        async def main() -> None:
            for _ in range(20):
                clock.call_later(0.5, lambda: None)
                await trio.sleep(1)

        run_virtual(main, seed=3, clock=clock)
        return clock.steps

    assert steps() == steps() > 20


def test_mutant_without_the_order_of_scheduling_ties_are_not_stable(monkeypatch: pytest.MonkeyPatch) -> None:
    def unordered(self: VirtualClock, at_s: float, callback: object, *args: object) -> object:
        timer = clock_module.Timer(self, callback, args)  # type: ignore[arg-type]
        heapq.heappush(self._heap, (at_s, -len(self._heap), timer))
        return timer

    monkeypatch.setattr(VirtualClock, "call_at", unordered)
    assert [name for _, name in fired([(1.0, name) for name in range(50)])] != list(range(50))
