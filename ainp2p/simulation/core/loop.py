"""trio's loop for virtual runs: the same tasks, scopes and deadlines, without system calls.

    a pass: runnable? ──▶ deadlines that are over ──▶ a step of each runnable task, in the seed's order
               └── nobody: the clock goes on (clock.py)

trio asks the operating system for events at each pass and looks for instruments at each step. In a virtual
run there are no events, and most passes run one task, so that this is most of what a pass costs. Signals and
other threads are heard through trio's own queue. What is private to trio and used here is listed in
tests/simulation/core/test_kernel.py.
"""

from __future__ import annotations

import operator
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import trio
from outcome import Error, Value
from trio._core import _run, _traps

_loops: Any = _run
_CHECKPOINT: Any = _traps.CancelShieldedCheckpoint
_WAIT: Any = _traps.WaitTaskRescheduled
_counter = operator.attrgetter("_counter")
TURNS_MAX = 10_000_000  # passes and callbacks at one instant: a minute of ours; honest worlds need 10,000
PRUNE_MIN = 1000  # entries of scopes that are over, before trio is asked to sweep its heap of deadlines


class _Nothing:
    """What a task that only waited for its turn is sent: an outcome that may be used again and again."""

    __slots__ = ()

    def unwrap(self) -> None:
        """No value."""


GO_ON: Any = _Nothing()


def run(clock: trio.abc.Clock, main: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """As `trio.run`, with this clock."""
    runner = _loops.setup_runner(clock, [], False, True)
    library, _loops.sniffio_library.name = _loops.sniffio_library.name, "trio"
    try:
        for _ in passes(runner, main, args):
            pass
    finally:
        _loops.sniffio_library.name = library
    return runner.main_task_outcome.unwrap()


@trio.lowlevel.enable_ki_protection
def passes(
    runner: Any, main: Callable[..., Awaitable[Any]], args: tuple[Any, ...]
) -> Generator[None, None, None]:
    """Run `main(*args)` to its end; yields after each pass over the runnable tasks."""
    clock, deadlines, runq, entries = runner.clock, runner.deadlines, runner.runq, runner.entry_queue
    try:
        clock.start_clock()
        runner.init_task = runner.spawn_impl(runner.init, (main, args), None, "<init>", system_task=True)
        turns, at_s = 0, clock.now
        while runner.tasks:
            turns += 1
            if not runq:
                steps = clock.steps
                _all_wait(runner)
                turns += clock.steps - steps  # callbacks
                if clock.now != at_s:
                    turns, at_s = 0, clock.now
            elif entries.queue or entries.idempotent_queue:
                _hear(runner, 0)
            if turns > TURNS_MAX:
                turns = 0
                clock.stand_still()
            heap = deadlines._heap
            if heap and (heap[0][0] <= clock.now or len(heap) > 2 * deadlines._active + PRUNE_MIN):
                deadlines.expire(clock.now)
            if len(runq) == 1:
                _step(runner, runq.popleft())
            else:
                batch = sorted(runq, key=_counter)
                runq.clear()
                _run._r.shuffle(batch)
                while batch:
                    _step(runner, batch.pop())
            yield
    except GeneratorExit:
        raise
    except BaseException as exc:
        raise trio.TrioInternalError("a fault of the loop, or nobody could be cancelled") from exc
    finally:
        runner.close()
        _run.GLOBAL_RUN_CONTEXT.__dict__.clear()
        if runner.ki_pending:  # it came too late for any task
            interrupt = KeyboardInterrupt()
            if isinstance(runner.main_task_outcome, Error):
                interrupt.__context__ = runner.main_task_outcome.error
            runner.main_task_outcome = Error(interrupt)


def _all_wait(runner: Any) -> None:
    """No task is runnable: time goes on, or `trio.testing.wait_all_tasks_blocked` has its moment."""
    entries, idle = runner.entry_queue, runner.waiting_for_idle
    sleep_s = runner.clock.deadline_to_sleep_time(runner.deadlines.next_deadline())
    if not idle:
        if sleep_s > 0 or entries.queue or entries.idempotent_queue:
            _hear(runner, sleep_s)
        return
    cushion = idle.keys()[0][0]
    _hear(runner, min(max(0, sleep_s), cushion))
    runner.deadlines.expire(runner.clock.now)
    while not runner.runq and idle and idle.keys()[0][0] == cushion:
        waiting = [idle.pop(key) for key in list(idle) if key[0] == cushion]
        for task in waiting:
            runner.reschedule(task)


def _hear(runner: Any, sleep_s: float) -> None:
    """Signals and other threads come by the operating system."""
    runner.io_manager.process_events(runner.io_manager.get_events(sleep_s))


def _step(runner: Any, task: Any) -> None:
    """Let one task run until it waits again."""
    context = _loops.GLOBAL_RUN_CONTEXT
    context.task = task
    hooks = runner.instruments.data
    if "before_task_step" in hooks:
        runner.instruments.call("before_task_step", task)
    send, sent = task._next_send_fn, task._next_send
    task._next_send_fn = task._next_send = None
    ended: Any = None
    try:
        message = task.context.run(send, sent)
    except StopIteration as stop:
        ended = Value(stop.value)
    except BaseException as exc:
        trace = exc.__traceback__
        ended = Error(exc.with_traceback(trace.tb_next if trace is not None else None))
        del trace
    if ended is not None:  # here, so that what fails now has no context
        runner.task_exited(task, ended)
    else:
        task._schedule_points += 1
        if message is _CHECKPOINT:
            task._next_send_fn, task._next_send = task.coro.send, GO_ON
            runner.runq.append(task)
        elif type(message) is _WAIT:
            task._cancel_points += 1
            task._abort_func = message.abort_func
            if runner.ki_pending and task is runner.main_task:
                task._attempt_delivery_of_pending_ki()
            if task._cancel_status.effectively_cancelled:
                task._attempt_delivery_of_any_pending_cancel()
        else:
            _strange(runner, task, message)
    if "after_task_step" in hooks:
        runner.instruments.call("after_task_step", task)
    del context.task


def _strange(runner: Any, task: Any, message: Any) -> None:
    """A coroutine that has gone elsewhere, or that waits for another library."""
    if type(message) is _loops.PermanentlyDetachCoroutineObject:
        runner.task_exited(task, message.final_outcome)
        return
    fault = TypeError(f"this is trio, in virtual time: a task cannot wait for {message!r}")
    runner.reschedule(task, fault)
    task._next_send_fn = task.coro.throw
