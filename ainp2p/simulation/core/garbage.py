"""Garbage is collected when the program says so; abandoned generators end in the order of their beginning.

Collecting wakes tasks: trio closes an async generator that nobody refers to any more in a task of its
own. Python collects cycles after so many allocations, which depends on what the process did before, and
finds them in an order that depends on addresses. So while a virtual run lasts, Python's collector is
off, what was there before is set aside, and cycles are collected at steps of the virtual clock.

    after 50,000 steps, and then ever more seldom, what has come since ─▶ now and then everything

What is looked at too soon is still in use, and costs its time all the same: of 1,000 agents' trades in an
hour, every 2,000 steps and everything eight times took 27 s of 160, and every 50,000 steps 10 of 130.

What a run leaves is old by then, and a process that makes run after run does little in between: Python never
looked at it, and each storm of eight nodes kept 2 MB. Who begins a run looks, once there is much of it.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from trio._core._run import GLOBAL_RUN_CONTEXT

from ainp2p.simulation.core.clock import VirtualClock

YOUNG_STEPS = 50_000  # steps of the clock before the first collection: the least between two
RARER = 0.5  # so many times the steps so far are let pass before the next,
YOUNG_STEPS_MAX = 2_000_000  # and at most so many: 1 KB of each of 90,000 jobs
OLD_STEPS = 200_000  # steps before everything is looked at
NUMBERED_MIN = 1_000  # generators whose number is known, before those that have ended are looked for
ALL_TIMES = 4  # so many times as many steps make everything be looked at again
GROWN = 150_000  # before a run: blocks of memory more than were in use after the last look; 10 MB or so

_Generator = AsyncGenerator[Any, Any]


class _Process:
    """What earlier runs left; there is one collector for all of a process."""

    def __init__(self) -> None:
        self._in_use = 0  # blocks of memory, after the last look

    def sweep(self) -> None:
        """Free it, if it is worth a look. Nothing may be set aside."""
        if sys.getallocatedblocks() > self._in_use + GROWN:  # objects take 9 ms to count
            gc.collect()
            self._in_use = sys.getallocatedblocks()


_process = _Process()


class Generators:
    """The async generators of one run, numbered as they begin."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._begun = 0
        self._numbered_max = NUMBERED_MIN
        self._found: list[_Generator] | None = None  # by the collection that is under way
        self._first: Callable[[_Generator], object] | None = None
        self._finalize: Callable[[_Generator], object] | None = None

    def watch(self) -> None:
        """Stand between Python and trio's hooks, until trio takes its own away at the end of the run."""
        hooks = sys.get_asyncgen_hooks()
        self._first, self._finalize = hooks.firstiter, hooks.finalizer
        sys.set_asyncgen_hooks(firstiter=self._begin, finalizer=self._abandoned)

    def collect(self) -> None:
        """Collect cycles, and hand the generators among them to trio, oldest first."""
        found: list[_Generator] = []
        self._found = found
        gc.collect()
        self._found = None
        for generator in sorted(found, key=self._number):
            self._end(generator)

    async def close(self) -> None:
        """End what is left when the program has ended, oldest first."""
        asyncgens: Any = GLOBAL_RUN_CONTEXT.runner.asyncgens
        for generator in sorted(asyncgens.alive, key=self._number):
            await asyncgens._finalize_one(generator, generator.__qualname__)

    def _begin(self, generator: _Generator) -> None:
        self._begun += 1
        self._numbers[id(generator)] = self._begun
        if len(self._numbers) > self._numbered_max:
            self._forget_ended()
        if self._first is not None:
            self._first(generator)

    def _abandoned(self, generator: _Generator) -> None:
        if self._found is None:
            self._end(generator)
        else:
            self._found.append(generator)

    def _end(self, generator: _Generator) -> None:
        if self._finalize is not None:
            self._finalize(generator)

    def _alive(self) -> Iterable[_Generator]:
        """Those that may have to be ended yet, in any order."""
        asyncgens: Any = GLOBAL_RUN_CONTEXT.runner.asyncgens
        alive: Iterable[_Generator] = asyncgens.alive
        return alive

    def _forget_ended(self) -> None:
        """Most end by themselves, of which nobody is told. Each job has one: 100 bytes of each would stay."""
        alive = {id(generator) for generator in self._alive()}
        self._numbers = {name: number for name, number in self._numbers.items() if name in alive}
        self._numbered_max = 2 * len(self._numbers) + NUMBERED_MIN

    def _number(self, generator: _Generator) -> int:
        return self._numbers.get(id(generator), 0)


@contextmanager
def collecting(clock: VirtualClock) -> Iterator[Generators]:
    """Collect at steps of this clock; Python's collector is as it was when the block ends."""
    generators = Generators()
    all_at = OLD_STEPS

    def upkeep() -> int:
        nonlocal all_at
        if clock.steps >= all_at:  # seldom: it takes 2 s where there are a thousand agents. What was
            # there before the run is looked at with it: nothing in that can wake a task of ours.
            gc.unfreeze()
            all_at = ALL_TIMES * clock.steps
        generators.collect()
        gc.freeze()  # what outlives this will live long: agents, cards, tables
        return clock.steps + min(max(YOUNG_STEPS, int(RARER * clock.steps)), YOUNG_STEPS_MAX)

    enabled, frozen = gc.isenabled(), gc.get_freeze_count()
    gc.disable()
    if not frozen:
        _process.sweep()
    gc.freeze()
    clock.upkeep(upkeep, YOUNG_STEPS)
    try:
        yield generators
    finally:
        clock.upkeep(None, 0)
        gc.unfreeze()
        if frozen:  # by whoever called us: theirs is set aside again, and what is left of the run with it
            gc.collect()
            gc.freeze()
        if enabled:
            gc.enable()
