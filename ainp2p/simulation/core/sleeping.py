"""`trio.sleep` in virtual time: one timer of the clock, and no cancel scope.

What sleeps is the same code as outside. trio makes a cancel scope with a deadline for each sleep, and ends it
by a cancellation: four to five times the price of a timer that wakes the task. A job sleeps three or four
times. For the time of a run, in its thread, `trio.sleep` and `trio.sleep_until` are therefore the clock's;
they wait, may be cancelled and refuse as trio's do. Other trio runs, in other threads, get trio's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import trio
from trio._core._run import GLOBAL_RUN_CONTEXT

from ainp2p.simulation.core.clock import VirtualClock


@contextmanager
def by_timers() -> Iterator[None]:
    """Sleep by timers inside this block, wherever the clock is a virtual one."""
    trios: Any = trio
    sleep, sleep_until = trios.sleep, trios.sleep_until

    async def sleep_by_timer(seconds: float) -> None:
        clock: Any = GLOBAL_RUN_CONTEXT.runner.clock
        if 0 < seconds < math.inf and isinstance(clock, VirtualClock):
            await clock.sleep(seconds)
        else:
            await sleep(seconds)

    async def sleep_until_by_timer(deadline: float) -> None:
        clock: Any = GLOBAL_RUN_CONTEXT.runner.clock
        if -math.inf < deadline < math.inf and isinstance(clock, VirtualClock):
            await clock.sleep(deadline - clock.now)
        else:
            await sleep_until(deadline)

    trios.sleep, trios.sleep_until = sleep_by_timer, sleep_until_by_timer
    try:
        yield
    finally:
        trios.sleep, trios.sleep_until = sleep, sleep_until
