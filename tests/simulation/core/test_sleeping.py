"""`trio.sleep` in virtual time is trio's to whoever sleeps, and one timer to the clock."""

from __future__ import annotations

import contextlib
import math
import threading

import pytest
import trio
import trio.testing

from ainp2p.simulation.core import kernel
from ainp2p.simulation.core.clock import VirtualClock
from ainp2p.simulation.core.kernel import run_virtual


def timers_of_sleepers() -> int:
    """How many timers of the clock two tasks take that sleep."""
    clock = VirtualClock()

    async def main() -> int:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 5)
            nursery.start_soon(trio.sleep_until, 7)
            await trio.testing.wait_all_tasks_blocked()
            pending = clock.pending
        assert clock.now == 7
        return pending

    return run_virtual(main, seed=1, clock=clock)


def test_who_sleeps_takes_one_timer() -> None:
    assert timers_of_sleepers() == 2


def test_mutant_with_trios_own_sleep_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "by_timers", contextlib.nullcontext)
    assert timers_of_sleepers() == 0


def test_a_sleep_that_is_cancelled_leaves_no_timer() -> None:
    clock = VirtualClock()

    async def main() -> None:
        with trio.move_on_after(3) as scope:
            await trio.sleep(1000)
        assert scope.cancelled_caught
        assert (clock.now, clock.pending) == (3, 0)

    run_virtual(main, seed=1, clock=clock)


def test_no_time_passes_in_a_sleep_of_none_and_others_run_meanwhile() -> None:
    ran: list[str] = []

    async def other() -> None:
        ran.append("other")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            await trio.sleep(0)  # noqa: ASYNC115  # that is what is tried
            ran.append("slept")
            nursery.start_soon(other)
            await trio.sleep_until(trio.current_time() - 1)
            ran.append("slept")
        assert trio.current_time() == 0
        with trio.CancelScope() as scope:
            scope.cancel()
            await trio.sleep(0)  # noqa: ASYNC115  # that is what is tried
        assert scope.cancelled_caught

    run_virtual(main, seed=1)
    assert sorted(ran) == ["other", "other", "slept", "slept"]


@pytest.mark.parametrize("seconds", [-1, math.nan])
def test_a_sleep_that_trio_refuses_is_refused(seconds: float) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match=r"non-negative|NaN"):
            await trio.sleep(seconds)

    run_virtual(main, seed=1)


@pytest.mark.parametrize("sleep", [trio.sleep, trio.sleep_until])
def test_an_endless_sleep_lasts_until_it_is_cancelled(sleep: object) -> None:
    async def main() -> None:
        with trio.move_on_after(10**6):
            await getattr(trio, sleep.__name__)(math.inf)  # type: ignore[attr-defined]  # a function has one
        assert trio.current_time() == 10**6

    run_virtual(main, seed=1)


def test_after_a_run_and_in_other_threads_trio_sleeps_by_itself() -> None:
    before = trio.sleep, trio.sleep_until
    clock = trio.testing.MockClock(autojump_threshold=0)

    async def main() -> None:
        thread = threading.Thread(target=trio.run, args=(trio.sleep, 9), kwargs={"clock": clock})
        thread.start()
        thread.join()

    run_virtual(main, seed=1)
    assert clock.current_time() >= 9
    assert (trio.sleep, trio.sleep_until) == before
