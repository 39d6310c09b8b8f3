"""Tasks that are used again: a job has two or three, and to start one costs three times what waking it does.

    start(work) ─▶ an idle task wakes, or a new one is started ─▶ the work ends ─▶ the task waits for more
                                                                                 └─▶ or ends, if enough wait

Work is as much on its own as in a task of `nursery.start_soon`: it has a copy of its starter's context
variables, ends with the nursery, and what it raises is raised by the nursery.
"""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from trio.lowlevel import Abort, current_task, reschedule, wait_task_rescheduled

IDLE_MAX = 1  # tasks that wait for work: about 3 KB each
IDLE = "<idle task of a crew>"  # names in <> are left out of a deadlock's stacks

Work = Callable[..., Awaitable[object]]


class Crew:
    """The tasks of one nursery that run whatever comes."""

    __slots__ = ("_idle", "_nursery")

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._idle: list[_Member] = []

    def start(self, work: Work, *args: object) -> None:
        """Run `work(*args)` from the next checkpoint on, in a task of its own."""
        if not self._idle:
            self._nursery.start_soon(_Member(self._idle, work, args).run, name=work)
            return
        member = self._idle.pop()
        member.work, member.args = work, args
        task = member.task
        task.name = getattr(work, "__qualname__", IDLE)
        task.context = contextvars.copy_context()  # from its next step on, which is the work's first
        reschedule(task)


class _Member:
    """One task, and what it has to do."""

    __slots__ = ("args", "idle", "task", "work")

    def __init__(self, idle: list[_Member], work: Work, args: tuple[object, ...]) -> None:
        self.idle, self.work, self.args = idle, work, args
        self.task: Any = None  # a trio.lowlevel.Task, of which type checkers see less than there is

    async def run(self) -> None:
        self.task = current_task()
        while True:
            await self.work(*self.args)
            self.work, self.args = _nothing, ()
            if len(self.idle) >= IDLE_MAX:
                return
            self.task.name = IDLE
            self.idle.append(self)
            await wait_task_rescheduled(self._leave)

    def _leave(self, _: object) -> Abort:
        self.idle.remove(self)
        return Abort.SUCCEEDED


async def _nothing() -> None:
    raise AssertionError("a task that was woken has work")


__all__ = ["Crew"]
