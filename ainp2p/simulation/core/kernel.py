"""Runs one async program in virtual time, from a seed: the same seed, the same schedule, in any process.

Everything that is touched (trio's randomness, the garbage collector) is put back when the run ends, however
it ends. What is private to trio and used here and in loop.py, clock.py, garbage.py and cancelling.py is
listed in tests/simulation/core/test_kernel.py, which tells what to do when a name changes.

Left to the caller: no threads, sockets or ambient reads (guards.py), no iteration over sets of strings
or objects.
"""

from __future__ import annotations

import hashlib
import os
import threading
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import trio
from trio._core import _run

from ainp2p.errors import InvalidInput
from ainp2p.simulation.core.cancelling import in_order
from ainp2p.simulation.core.clock import EPOCH_MS as EPOCH_MS
from ainp2p.simulation.core.clock import VirtualClock
from ainp2p.simulation.core.garbage import Generators, collecting
from ainp2p.simulation.core.loop import run
from ainp2p.simulation.core.sleeping import by_timers
from ainp2p.simulation.errors import Deadlock, Livelock

T = TypeVar("T")
NAMES_MAX = 8  # of tasks that wait in the same place
_PERSON = b"ainp2p/sim/sched"
_PLUMBING = {__file__, trio.lowlevel.wait_task_rescheduled.__code__.co_filename}  # frames that tell nothing
_TRIO = os.path.dirname(trio.__file__) + os.sep
_one_at_a_time = threading.Lock()  # the scheduler's randomness is the process's


def run_virtual(
    main: Callable[..., Awaitable[T]], *args: Any, seed: int | str, clock: VirtualClock | None = None
) -> T:
    """Run `main(*args)` in virtual time and return its value.

    Raises:
        Deadlock: every task waited and nothing was left to happen; everything was cancelled first.
        Livelock: millions of turns at one instant.
        InvalidInput: a virtual run is already under way in this process, or `clock` has been used.
        BaseException: what `main` raised, or what a timer's callback did.
    """
    clock = VirtualClock() if clock is None else clock
    if clock._runner is not None:
        raise InvalidInput("this clock has had its run: make another")
    if _run.in_trio_run():
        raise InvalidInput("already inside a trio run: a virtual run is started from plain code")

    if not _one_at_a_time.acquire(blocking=False):
        raise InvalidInput("a virtual run is under way in this process: one at a time, or one per process")
    try:
        with _seeded(seed), in_order(), by_timers(), collecting(clock) as generators:
            value: T = run(clock, rooted, main, args, clock, generators)
    except Exception as exc:
        if clock.error is None or clock.error is exc:
            raise
        raise clock.error from exc  # what failed while everything was cancelled
    finally:
        _one_at_a_time.release()
    if clock.error is not None:
        raise clock.error
    return value


async def rooted(
    main: Callable[..., Awaitable[T]], args: tuple[Any, ...], clock: VirtualClock, generators: Generators
) -> T:
    """What trio runs: `main(*args)`, ended by the clock's error if there is one."""
    task: Any = trio.lowlevel.current_task()
    task.name = getattr(main, "__qualname__", repr(main))
    with trio.CancelScope() as scope:
        clock._end = scope.cancel
        clock._idle = lambda: _give_up(clock, Deadlock)
        clock._stuck = lambda: _give_up(clock, Livelock)
        generators.watch()
        try:
            return await main(*args)
        finally:
            await generators.close()
    assert clock.error is not None
    raise clock.error


def scheduler_seed(seed: int | str) -> bytes:
    """What trio's randomness is seeded with."""
    return hashlib.blake2b(f"{type(seed).__name__} {seed}".encode(), digest_size=32, person=_PERSON).digest()


@contextmanager
def _seeded(seed: int | str) -> Iterator[None]:
    """The loop orders each batch of tasks by this seed alone."""
    state = _run._r.getstate()
    _run._r.seed(scheduler_seed(seed))
    try:
        yield
    finally:
        _run._r.setstate(state)


def _give_up(clock: VirtualClock, why: type[Deadlock | Livelock]) -> None:
    """Nothing will ever happen: cancel all; then what shields itself; then leave all where it is."""
    if clock.error is None:
        clock.fail(why(clock.now, stacks()))
    elif not clock.unshielded:
        clock.unshielded = True
        for task in _tasks():
            status: Any = task._cancel_status
            while status is not None:
                status._scope.shield = False
                status = status._parent
    else:
        raise why(clock.now, stacks())  # not even then: trio drops the tasks where they wait


def stacks() -> str:
    """Where every task of the current run waits: its name, then file:line and source, innermost last.

    Tasks that wait in the same place are told once; of trio's own frames none.
    """
    waiting: dict[str, list[str]] = {}
    for task in _tasks():
        waiting.setdefault(_stack(task), []).append(task.name)
    return "\n".join(f"task {_named(names)}\n{frames}" for frames, names in waiting.items())


def _named(names: list[str]) -> str:
    told = [f"{name} (x{count})" if count > 1 else name for name, count in Counter(names).items()]
    more = [f"and {len(told) - NAMES_MAX} more"] if len(told) > NAMES_MAX else []
    return "; ".join(told[:NAMES_MAX] + more)


def _tasks() -> list[Any]:
    """All tasks but trio's own, in the order in which they were started."""
    found: list[Any] = []
    todo: list[Any] = [trio.lowlevel.current_root_task()]
    while todo:
        task = todo.pop()
        found.append(task)
        todo += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    ours = [task for task in found if not task.name.startswith("<")]
    return sorted(ours, key=lambda task: int(task._counter))


def _stack(task: trio.lowlevel.Task) -> str:
    summary = traceback.StackSummary.extract(task.iter_await_frames())
    frames = [frame for frame in summary if frame.filename not in _PLUMBING]
    ours = [frame for frame in frames if not frame.filename.startswith(_TRIO)]
    return "\n".join(f"  {f.filename}:{f.lineno} in {f.name}: {f.line}" for f in ours or frames)
