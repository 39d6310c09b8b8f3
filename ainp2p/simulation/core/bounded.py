"""A clock on which a run has to be over in time.

A world that waits in vain seldom stands still: validators and agents go on with their own errands, so that
nobody would ever tell a `Deadlock`. A test, or a run with `within_s`, has a limit instead.
"""

from __future__ import annotations

from ainp2p.errors import InvalidInput
from ainp2p.simulation.core.clock import VirtualClock
from ainp2p.simulation.core.kernel import stacks
from ainp2p.simulation.errors import Overdue


def check_limit(limit_s: float) -> float:
    """The limit, if a run can have it.

    Raises:
        InvalidInput: it is no number of seconds, or not more than 0.
    """
    if not isinstance(limit_s, int | float) or not limit_s > 0:
        raise InvalidInput(f"a run needs some time: within_s is virtual seconds, more than 0: {limit_s!r}")
    return limit_s


class BoundedClock(VirtualClock):
    """As any, up to `limit_s` virtual seconds; a run that goes on longer ends with `Overdue`."""

    def __init__(self, limit_s: float) -> None:
        super().__init__()
        self._limit_s = check_limit(limit_s)

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Called when every task waits."""
        sleep_s = super().deadline_to_sleep_time(deadline)
        if self.now > self._limit_s and self.error is None:
            self.fail(Overdue(self._limit_s, stacks()))
        return sleep_s
