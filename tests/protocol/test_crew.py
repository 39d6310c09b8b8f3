"""Tasks that are used again: what they run is as much on its own as in a task of its own."""

from __future__ import annotations

import contextvars
import weakref

import pytest
import trio
import trio.testing

from ainp2p.protocol import crew as module
from ainp2p.protocol.background import background
from ainp2p.protocol.crew import Crew

who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


async def tasks_of(jobs: int, *, at_once: int = 1) -> list[int]:
    """By which tasks so many jobs are run, numbered as they were started."""
    seen: list[trio.lowlevel.Task] = []

    async def job() -> None:
        seen.append(trio.lowlevel.current_task())
        await trio.lowlevel.checkpoint()

    async with background() as nursery:
        crew = Crew(nursery)
        for _ in range(jobs // at_once):
            for _ in range(at_once):
                crew.start(job)
            await trio.testing.wait_all_tasks_blocked()
    return [list(dict.fromkeys(seen)).index(task) for task in seen]


async def test_one_job_after_the_other_is_done_by_one_task() -> None:
    assert await tasks_of(5) == [0] * 5


async def test_mutant_that_lets_no_task_wait_starts_one_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_MAX", 0)
    assert await tasks_of(5) == [0, 1, 2, 3, 4]


async def test_of_a_rush_only_a_few_tasks_stay() -> None:
    async with background() as nursery:
        crew = Crew(nursery)
        for _ in range(10):
            crew.start(trio.lowlevel.checkpoint)
        assert len(nursery.child_tasks) == 10
        await trio.testing.wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == module.IDLE_MAX


async def test_each_job_has_the_variables_of_its_starter_and_leaves_none() -> None:
    seen: list[str] = []

    async def job() -> None:
        seen.append(who.get())
        who.set("a job before")

    async with background() as nursery:
        crew = Crew(nursery)
        for name in ("alice", "bob"):
            who.set(name)
            crew.start(job)
            await trio.testing.wait_all_tasks_blocked()
    assert seen == ["alice", "bob"]


async def test_arguments_arrive_and_are_let_go_of() -> None:
    class Much:
        pass

    seen: list[weakref.ref[Much]] = []

    async def job(much: Much) -> None:
        seen.append(weakref.ref(much))

    async with background() as nursery:
        crew = Crew(nursery)
        crew.start(job, Much())
        await trio.testing.wait_all_tasks_blocked()
        assert seen[0]() is None


async def test_a_stack_names_what_is_run() -> None:
    names: list[str] = []

    async def look() -> None:
        names.append(trio.lowlevel.current_task().name)

    async with background() as nursery:
        crew = Crew(nursery)
        crew.start(look)
        await trio.testing.wait_all_tasks_blocked()
        names += [task.name for task in nursery.child_tasks]
        crew.start(look)
        await trio.testing.wait_all_tasks_blocked()
    assert names[0].endswith("look")
    assert names[1] == module.IDLE
    assert names[2].endswith("look")


async def test_what_fails_is_raised_by_the_nursery() -> None:
    async def fail() -> None:
        raise ValueError("a fault")

    with pytest.RaisesGroup(ValueError):
        async with trio.open_nursery() as nursery:
            crew = Crew(nursery)
            crew.start(trio.lowlevel.checkpoint)
            await trio.testing.wait_all_tasks_blocked()
            crew.start(fail)


async def test_it_ends_with_its_nursery_working_or_idle() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append("work")

    with trio.fail_after(1):
        async with background() as nursery:
            crew = Crew(nursery)
            crew.start(trio.lowlevel.checkpoint)
            await trio.testing.wait_all_tasks_blocked()
            crew.start(work)
            crew.start(trio.lowlevel.checkpoint)
            await trio.testing.wait_all_tasks_blocked()
    assert ended == ["work"]


async def test_a_task_that_was_cancelled_while_it_waited_gets_no_work() -> None:
    seen: list[str] = []

    async def job() -> None:
        seen.append("begun")
        await trio.lowlevel.checkpoint()
        seen.append("done")

    async with trio.open_nursery() as nursery:
        crew = Crew(nursery)
        crew.start(trio.lowlevel.checkpoint)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        crew.start(job)  # as a task of a cancelled nursery: it begins, and ends at its first checkpoint
    assert seen == ["begun"]
