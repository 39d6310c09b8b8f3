"""When cycles are collected in a virtual run, and what leaves none."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

import ainp2p
import ainp2p.simulation as sim
from ainp2p.agents.purchase import Purchase
from ainp2p.simulation.core import garbage
from ainp2p.simulation.core.clock import VirtualClock
from ainp2p.simulation.core.kernel import run_virtual
from ainp2p.simulation.wire.asked import AskedStream
from tests.simulation.wire.wired import COUNT, Town, wired


class Cycle:
    """What only a collection frees."""

    def __init__(self) -> None:
        self.itself = self


def freed(monkeypatch: pytest.MonkeyPatch, *, dropped_at: int, watched_until: int) -> bool:
    """Whether a cycle that nobody holds any more after so many steps of the clock is gone at another step."""
    monkeypatch.setattr(garbage, "YOUNG_STEPS", 10)
    monkeypatch.setattr(garbage, "OLD_STEPS", 100)

    clock = VirtualClock()

    async def main() -> bool:
        cycle: Cycle | None = Cycle()
        seen = weakref.ref(cycle)
        while clock.steps < watched_until:
            if clock.steps >= dropped_at:
                cycle = None
            await trio.sleep(1)
        return seen() is None

    return run_virtual(main, seed=1, clock=clock)


def test_a_cycle_that_is_dropped_young_is_freed_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    assert freed(monkeypatch, dropped_at=3, watched_until=40)


def test_what_outlives_a_collection_of_the_old_is_left_alone_until_everything_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not freed(monkeypatch, dropped_at=150, watched_until=350)
    assert freed(monkeypatch, dropped_at=150, watched_until=600)


def test_mutant_where_what_is_set_aside_is_never_looked_at_a_cycle_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(garbage, "ALL_TIMES", 10**9)
    assert not freed(monkeypatch, dropped_at=150, watched_until=600)


def collected_at(monkeypatch: pytest.MonkeyPatch, *, rarer: float) -> list[int]:
    """At which steps of 1,000 cycles are collected."""
    monkeypatch.setattr(garbage, "YOUNG_STEPS", 10)
    monkeypatch.setattr(garbage, "YOUNG_STEPS_MAX", 200)
    monkeypatch.setattr(garbage, "RARER", rarer)
    clock, steps = VirtualClock(), list[int]()
    collect = garbage.Generators.collect

    def noted(self: garbage.Generators) -> None:
        steps.append(clock.steps)
        collect(self)

    async def main() -> None:
        for _ in range(500):  # each of two steps: all wait, and a timer
            await trio.sleep(1)

    monkeypatch.setattr(garbage.Generators, "collect", noted)
    run_virtual(main, seed=1, clock=clock)
    return steps


def test_the_longer_a_run_is_the_rarer_are_its_collections(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = collected_at(monkeypatch, rarer=garbage.RARER)
    pauses = [later - earlier for earlier, later in itertools.pairwise(steps)]
    assert len(steps) < 20
    assert pauses == sorted(pauses)
    assert 190 <= pauses[-1] <= 210  # but never too rare


def test_mutant_that_collects_as_often_at_the_end_as_at_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert len(collected_at(monkeypatch, rarer=0)) > 50


def test_what_the_caller_had_set_aside_is_so_again_after_the_run() -> None:
    mine = [Cycle() for _ in range(100)]
    gc.freeze()
    try:
        run_virtual(trio.sleep, 1, seed=1)
        assert gc.get_freeze_count() >= len(mine)
    finally:
        gc.unfreeze()


def left_by_runs(count: int) -> int:
    """How many of the large cycles that so many runs have made are still there after the last one."""
    made: list[weakref.ref[Cycle]] = []

    async def main() -> Cycle:
        cycle = Cycle()
        cycle.__dict__["much"] = [[] for _ in range(100_000)]
        made.append(weakref.ref(cycle))
        await trio.sleep(1)
        return cycle

    for seed in range(count):
        world = run_virtual(main, seed=seed)
        gc.collect(1)  # as Python does, while the run's caller looks at what came of it
        del world
    return sum(ref() is not None for ref in made)


def test_what_a_run_leaves_is_freed_by_those_after_it() -> None:
    assert left_by_runs(10) <= 2


def test_mutant_where_nobody_looks_before_a_run_all_of_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "GROWN", 10**9)
    assert left_by_runs(10) == 10


def test_of_generators_that_have_ended_no_number_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "NUMBERED_MIN", 10)
    numbered: list[int] = []
    begin = garbage.Generators._begin

    def counted(self: garbage.Generators, generator: Any) -> None:
        begin(self, generator)
        numbered.append(len(self._numbers))

    async def numbers() -> AsyncIterator[int]:
        yield 1

    async def main() -> None:
        for _ in range(100):
            async for _number in numbers():
                pass

    monkeypatch.setattr(garbage.Generators, "_begin", counted)
    run_virtual(main, seed=1)
    assert len(numbered) >= 100
    assert max(numbered) <= 30


@wired()
async def test_streams_that_were_read_are_freed_without_the_collector(town: Town) -> None:
    bob = await town.peer("bob")
    alice = await town.peer("alice", bob)
    for _ in range(3):
        async with alice.stream(bob.peer_id, COUNT, b"3") as chunks:
            assert await chunks.within(5) is not None
            async for _chunk in chunks:
                pass
    del chunks
    await trio.sleep(10)
    assert not [thing for thing in gc.get_objects() if isinstance(thing, AskedStream)]


@ainp2p.skill("echo", price="1/call")
async def echo(job: Any, text: str) -> Any:
    yield text


def test_jobs_that_were_left_are_freed_without_the_collector() -> None:
    left: list[int] = []

    async def market(world: sim.World) -> None:
        async def buy(agent: ainp2p.Agent) -> None:
            offers = await agent.find("echo")
            async with agent.hire(offers, budget=9, text="read") as job:
                await job.result()
            async with agent.hire(offers, budget=9, text="not read") as job:
                pass
            del job
            await trio.sleep(5)
            left.append(sum(isinstance(thing, Purchase) for thing in gc.get_objects()))

        world.spawn("seller", skills=[echo])
        await world.spawn("buyer", main=buy).ended()

    gc.collect()  # what other tests have left
    sim.run(market, 7)
    assert left == [0]
