"""Virtual time: a trio clock whose wait runs one heap of timers.

    tasks run ──▶ all wait ──▶ the clock goes to the next instant (timers, trio deadlines) ──▶ tasks run …

trio asks its clock how long to sleep only when no task is runnable. This one never sleeps: it runs the
callbacks of the next instant, in the order in which they were scheduled, and goes on until one of them
has woken a task. It knows no randomness; seeding the scheduler and ending a run are the kernel's
(kernel.py).

A callback is plain, short and does not wait. If it raises, the run ends with that error. Timers that
share an instant run in the order of `call_at`, whatever the process.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any

import trio
from trio._core._run import GLOBAL_RUN_CONTEXT

from ainp2p.errors import InvalidInput

if TYPE_CHECKING:
    from trio._core._run import Runner

EPOCH_MS = 1_800_000_000_000  # the wall clock at virtual 0: 2027-01-15 08:00 UTC
STEPS_MAX = 1000  # callbacks between two looks at signals, so that ^C ends a world of callbacks only
STALE_MIN = 1000  # cancelled timers that may lie about before the heap is swept
_DAY_S = 86_400.0  # more than trio ever sleeps at once


class Timer:
    """A callback that will run; `cancel` takes it back, at any time and any number of times."""

    __slots__ = ("_args", "_callback", "_clock")

    def __init__(self, clock: VirtualClock, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._clock = clock
        self._callback: Callable[..., object] | None = callback
        self._args = args

    @property
    def pending(self) -> bool:
        """Whether it will still run."""
        return self._callback is not None

    def cancel(self) -> None:
        """Do not run; nothing happens if it has run already."""
        if self._callback is not None:
            self._callback, self._args = None, ()
            self._clock._forget_one()


class VirtualClock(trio.abc.Clock):
    """Seconds since the world began; they pass only while every task waits.

    Attributes:
        now: virtual time in seconds.
        steps: how many callbacks have run and how often every task waited: the same in every run of a seed.
        error: what ended the run early, or None.
        failing: called when it does, before anything is cancelled; or None.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        self.error: BaseException | None = None
        self.failing: Callable[[], object] | None = None
        self.unshielded = False
        self._heap: list[tuple[float, int, Timer]] = []
        self._scheduled = 0  # breaks ties: the order of scheduling
        self._stale = 0  # cancelled timers that are still in the heap
        self._runner: Runner | None = None
        self._end: Callable[[], object] | None = None
        self._idle: Callable[[], object] | None = None
        self._stuck: Callable[[], object] | None = None
        self._upkeep: Callable[[], int] | None = None
        self._upkeep_at = 0

    # --- what a world uses ----------------------------------------------------------------------

    def call_at(self, at_s: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Run `callback(*args)` at virtual time `at_s`; now, if that is past.

        Raises:
            InvalidInput: `at_s` is not a finite number.
        """
        if not at_s > self.now:
            if at_s != at_s:
                raise InvalidInput("a timer's time is not a number")
            at_s = self.now
        elif at_s == math.inf:
            raise InvalidInput("a timer needs a finite time; to wait for ever, wait for an event")
        self._scheduled = order = self._scheduled + 1
        timer = Timer(self, callback, args)
        heappush(self._heap, (at_s, order, timer))
        return timer

    def call_later(self, delay_s: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Run `callback(*args)` in `delay_s` seconds, which may be 0."""
        if not 0.0 <= delay_s < math.inf:
            return self.call_at(self.now + delay_s, callback, *args)  # past, or refused
        self._scheduled = order = self._scheduled + 1
        timer = Timer(self, callback, args)
        heappush(self._heap, (self.now + delay_s, order, timer))
        return timer

    def now_ms(self) -> int:
        """The wall clock of this world, in integer milliseconds since 1970."""
        return EPOCH_MS + int(self.now * 1000 + 0.001)  # 0.57 s is 569.999… ms in binary: rounded by 1 us

    async def sleep(self, delay_s: float) -> None:
        """Wait by one timer: a fifth of what `trio.sleep` costs, and a checkpoint like it."""
        if delay_s <= 0:
            await trio.lowlevel.checkpoint()
            return
        timer = self.call_later(delay_s, trio.lowlevel.reschedule, trio.lowlevel.current_task())

        def abort(_: object) -> trio.lowlevel.Abort:
            timer.cancel()
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def fail(self, error: BaseException) -> None:
        """End the run with this error: everything is cancelled; a second error is ignored."""
        if self.error is None:
            self.error = error
            if self.failing is not None:
                self.failing()
            if self._end is not None:
                self._end()

    def stand_still(self) -> None:
        """The loop finds that time does not go on."""
        if self._stuck is not None:
            self._stuck()

    def upkeep(self, work: Callable[[], int] | None, at_step: int) -> None:
        """Call `work` at that step, while every task waits; it says at which step again."""
        self._upkeep, self._upkeep_at = work, at_step

    @property
    def pending(self) -> int:
        """How many timers will still run."""
        return len(self._heap) - self._stale

    # --- what trio asks -------------------------------------------------------------------------

    def start_clock(self) -> None:
        """trio calls this when its run begins."""
        self._runner = GLOBAL_RUN_CONTEXT.runner

    def current_time(self) -> float:
        """Virtual seconds: what `trio.current_time()` returns."""
        return self.now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Called when every task waits: go on to the next instant at which one may run."""
        runner = self._runner
        assert runner is not None
        if runner.waiting_for_idle:  # trio.testing.wait_all_tasks_blocked: this is the moment
            return _DAY_S
        entries = runner.entry_queue
        if (
            entries.queue or entries.idempotent_queue
        ):  # trio's own: an abandoned generator, a signal, the end of the run
            return 0.0
        self.steps += 1
        if self._upkeep is not None and self.steps >= self._upkeep_at:
            self._upkeep_at = self._upkeep()
        steps_max = self.steps + STEPS_MAX
        while not runner.runq:
            at_s = self._heap[0][0] if self._heap else math.inf
            if deadline < at_s:
                if deadline > self.now:
                    self.now = deadline
                return 0.0
            if at_s == math.inf:
                if self._idle is None:
                    return _DAY_S
                self._idle()
                return 0.0
            self.now = at_s
            self._run_instant(at_s)
            if self.steps >= steps_max or self.error is not None:
                return 0.0
            deadline = runner.deadlines.next_deadline()  # a callback may have moved one
        return 0.0

    def _run_instant(self, at_s: float) -> None:
        """All callbacks of one instant, and those that they add to it, but not more than STEPS_MAX."""
        heap, done = self._heap, 0
        while heap and heap[0][0] <= at_s and done < STEPS_MAX:
            timer = heappop(heap)[2]
            callback = timer._callback
            if callback is None:
                self._stale -= 1
                continue
            args = timer._args
            timer._callback, timer._args = None, ()
            done += 1
            try:
                callback(*args)
            except BaseException as exc:
                self.fail(exc)
        self.steps += done

    def _forget_one(self) -> None:
        self._stale += 1
        if self._stale > STALE_MIN and self._stale * 2 > len(self._heap):
            # In place: `_run_instant` may be going through this very list.
            self._heap[:] = [entry for entry in self._heap if entry[2]._callback is not None]
            heapify(self._heap)
            self._stale = 0
