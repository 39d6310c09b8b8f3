"""Deadlines: each at its time, none of a wait that has ended, and queues that do not grow."""

from __future__ import annotations

import random
from typing import Any

import trio

from ainp2p.simulation.core.clock import VirtualClock
from ainp2p.simulation.core.kernel import run_virtual
from ainp2p.simulation.wire import deadlines
from ainp2p.simulation.wire.deadlines import QUEUES_MAX, SWEEP_MIN, Deadlines
from tests.simulation.wire.wired import fails


class Sleeper:
    """Waits again and again; says when it expired."""

    def __init__(self, clock: VirtualClock, timeout_s: float) -> None:
        self.clock, self.timeout_s = clock, timeout_s
        self.wait, self.waits, self.expired_at = 0, True, -1.0

    def expire(self) -> None:
        self.waits, self.expired_at = False, self.clock.now


def test_each_wait_expires_at_its_time_or_not_at_all() -> None:
    clock = VirtualClock()

    async def main() -> None:
        rng, queues = random.Random(2), Deadlines(clock)
        for _ in range(500):
            timeout_s = rng.choice([1.0, 10.0, float("inf"), 1 + rng.random(), 0.0, -1.0])
            sleeper, start_s = Sleeper(clock, timeout_s), clock.now
            queues.start(sleeper)
            if (ends := rng.random() < 0.5) and timeout_s > 0.5:
                clock.call_later(0.3, setattr, sleeper, "waits", False)
            sleepers.append((sleeper, start_s, ends and timeout_s > 0.5))
            await trio.sleep(rng.random() / 10)
        await trio.sleep(100)
        assert queues._queues == {}
        assert clock.pending == 0

    sleepers: list[tuple[Sleeper, float, bool]] = []
    run_virtual(main, seed=1, clock=clock)
    for sleeper, start_s, ended in sleepers:
        lasting = not ended and sleeper.timeout_s < 1e9
        due_s = max(start_s, start_s + sleeper.timeout_s)
        assert sleeper.expired_at == (due_s if lasting else -1.0)


def test_a_new_wait_of_the_same_sleeper_is_a_new_deadline() -> None:
    clock = VirtualClock()
    sleeper = Sleeper(clock, 1.0)

    async def main() -> None:
        queues = Deadlines(clock)
        for n in range(10):
            sleeper.wait = n
            queues.start(sleeper)
            await trio.sleep(0.9)
        assert sleeper.expired_at == -1.0
        await trio.sleep(1)

    run_virtual(main, seed=1, clock=clock)
    assert round(sleeper.expired_at, 6) == 9.1


def test_mutant_waits_that_are_not_told_apart_are_found(monkeypatch: Any) -> None:
    monkeypatch.setattr(deadlines, "_lasts", lambda entry: entry[2].waits)
    assert fails(test_a_new_wait_of_the_same_sleeper_is_a_new_deadline)


def test_queues_hold_little_more_than_who_waits_and_are_few() -> None:
    clock = VirtualClock()
    longest = most = 0

    async def main() -> None:
        nonlocal longest, most
        queues = Deadlines(clock)
        for n in range(5000):
            sleeper = Sleeper(clock, 1000.0 if n % 2 else 1000 + n)
            queues.start(sleeper)
            sleeper.waits = False
            longest = max(longest, len(queues._queues[1000.0])) if n % 2 else longest
            most = max(most, len(queues._queues))

    run_virtual(main, seed=1, clock=clock)
    assert longest <= SWEEP_MIN
    assert most == QUEUES_MAX


def test_mutant_queues_that_are_never_swept_are_found(monkeypatch: Any) -> None:
    monkeypatch.setattr(Deadlines, "_sweep", lambda self, timeout_s, queue: None)
    assert fails(test_queues_hold_little_more_than_who_waits_and_are_few)
