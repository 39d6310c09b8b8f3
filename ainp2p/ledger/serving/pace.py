"""How many light operations a second go to the core beside heavier ones: as many as let it stay prompt.

Whatever weighs much less than what is served beside it (`intake`) takes its turns from here; nothing else
does. The rate grows while the event loop is prompt and shrinks quickly while it is late: light work takes the
time that nobody else needs, and no more (as LEDBAT, RFC 6817, does with a line). No I/O; time is an argument.
"""

from __future__ import annotations

import math

RATE_MIN = 100.0  # operations a second: little, and not nothing
RATE_MAX = 10_000.0  # more than a core can do
LATE_S = 0.0015  # a loop that is later than this on average has enough to do
GROWS_IN_S = 1.0  # by a factor of e while the loop is prompt,
SHRINKS_IN_S = 0.1  # and so much while it is late
SMOOTHED_OVER_S = 0.1
BURST = 8.0  # operations
STEP_MAX_S = 0.1  # one measurement counts for no more time than this


class Pace:
    """Tokens for light operations."""

    def __init__(self) -> None:
        self.rate = RATE_MAX
        self._late_s = 0.0
        self._tokens, self._at_s = BURST, -math.inf

    def measured(self, late_s: float, now_s: float) -> None:
        """The loop came back so much later than it was asked to."""
        step_s = min(max(0.0, now_s - self._at_s), STEP_MAX_S)
        self._at_s = now_s
        self._tokens = min(BURST, self._tokens + self.rate * step_s)
        self._late_s += (late_s - self._late_s) * min(1.0, step_s / SMOOTHED_OVER_S)
        change = -step_s / SHRINKS_IN_S if self._late_s > LATE_S else step_s / GROWS_IN_S
        self.rate = min(RATE_MAX, max(RATE_MIN, self.rate * math.exp(change)))

    @property
    def allows(self) -> bool:
        """Whether a light operation may go now."""
        return self._tokens >= 1

    def take(self) -> None:
        """One has gone."""
        self._tokens -= 1
