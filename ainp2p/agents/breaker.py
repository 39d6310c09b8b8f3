"""The circuit breaker: it stops an agent that spends too fast, fails too often, or repeats itself.

    closed ──too fast, too many failures, the same again and again, or the owner──▶ tripped ──reset──▶ closed

Once tripped it refuses everything until a person resets it; a restart does not. A core without I/O, which
`ainp2p.agents.policy` asks before each commitment; budgets are decided there, not here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ainp2p.errors import InvalidInput, PolicyRefused
from ainp2p.protocol.identity import digest

VELOCITY, ERRORS, REPEATS, STOPPED = "breaker:velocity", "breaker:errors", "breaker:repeats", "stopped"
REPEATS_MIN = 10  # minutes in which equal commitments are counted together
REPEATS_TRACKED_MAX = 4096  # different commitments remembered at a time


@dataclass(frozen=True, slots=True)
class Limits:
    """When the breaker trips; None means never for this reason.

    Attributes:
        per_minute: more commitments than this begin within one minute of the clock.
        errors, errors_of: `errors` of the last `errors_of` jobs have failed.
        repeats: exactly the same is bought more often than this within ten minutes.
    """

    per_minute: int | None = 600
    errors: int | None = 16
    errors_of: int = 20
    repeats: int | None = 10

    def __post_init__(self) -> None:
        for name in ("per_minute", "repeats"):
            bound = getattr(self, name)
            if bound is not None and bound < 1:
                raise InvalidInput(f"breaker {name}={bound}: at least 1, or None for never")
        if not 1 <= self.errors_of <= 60 or not (self.errors is None or 1 <= self.errors <= self.errors_of):
            raise InvalidInput(
                f"breaker errors={self.errors} of {self.errors_of}: 1 to errors_of, at most 60"
            )


@dataclass(frozen=True, slots=True)
class BreakerState:
    """What the breaker knows: why it tripped ("" if it has not), and what it counts."""

    tripped: str = ""
    minute: int = 0  # the latest that was seen
    begun: int = 0  # commitments that began in `minute`
    outcomes: int = 0  # one bit per finished job, the latest lowest, 1 = failed


class Breaker:
    """Counts commitments and outcomes, and says stop."""

    def __init__(self, limits: Limits, state: BreakerState | None = None) -> None:
        self._limits = limits
        self.state = state or BreakerState()
        self.repeats: dict[bytes, tuple[int, int]] = {}  # fingerprint → first minute, times; oldest first
        self.changed_repeats: set[bytes] = set()

    def refusal(self, wanted: int) -> PolicyRefused | None:
        """Why nothing may be spent, if it may not."""
        if not self.state.tripped:
            return None
        stopped = self.state.tripped == STOPPED
        hint = (
            "the owner has stopped spending" if stopped else "look at what happened, then reset the breaker"
        )
        return PolicyRefused(self.state.tripped, wanted, hint=hint)

    def begin(
        self, counterparty: bytes, amount: int, minute: int, what: bytes | None
    ) -> PolicyRefused | None:
        """Count one commitment; trips, and returns the refusal, when it is one too many."""
        begun = self.state.begun + 1 if self.state.minute == minute else 1
        state = self.state
        self.state = BreakerState(state.tripped, minute, begun, state.outcomes)
        if self._limits.per_minute is not None and begun > self._limits.per_minute:
            self.trip(VELOCITY)
        elif what is not None and self._limits.repeats is not None:
            fingerprint = digest(b"ainp2p/repeat/1", amount.to_bytes(8, "big"), counterparty, what)
            if self._repeated(fingerprint, minute) > self._limits.repeats:
                self.trip(REPEATS)
        return self.refusal(amount)

    def advance(self, minute: int) -> None:
        """The clock has come to this minute: remembered, so that a restart cannot take it back."""
        if minute > self.state.minute:
            self.state = BreakerState(self.state.tripped, minute, 0, self.state.outcomes)

    def finish(self, failed: bool) -> None:
        """Count one job's outcome."""
        state = self.state
        outcomes = (state.outcomes << 1 | failed) & ((1 << self._limits.errors_of) - 1)
        if outcomes != state.outcomes:
            self.state = BreakerState(state.tripped, state.minute, state.begun, outcomes)
        if self._limits.errors is not None and outcomes.bit_count() >= self._limits.errors:
            self.trip(ERRORS)

    def trip(self, why: str) -> None:
        """Refuse everything from now on. The owner's stop outlives the breaker's own reasons."""
        if not self.state.tripped or why == STOPPED:
            self.state = replace(self.state, tripped=why)

    def reset(self) -> None:
        """Go on, and begin to count anew. For a person to decide, not for a program."""
        self.state = BreakerState(minute=self.state.minute)
        self.changed_repeats.update(self.repeats)
        self.repeats.clear()

    def _repeated(self, fingerprint: bytes, minute: int) -> int:
        """How often this was begun lately, now included."""
        self._forget_old(minute)
        first, times = self.repeats.pop(fingerprint, (minute, 0))
        if first + REPEATS_MIN <= minute:
            first, times = minute, 0
        self.repeats[fingerprint] = (first, times + 1)
        self.changed_repeats.add(fingerprint)
        if len(self.repeats) > REPEATS_TRACKED_MAX:
            self._forget(next(iter(self.repeats)))
        return times + 1

    def _forget_old(self, minute: int) -> None:
        """Drop what is counted anew anyway: whoever buys something else each time would keep all of it."""
        while self.repeats:
            oldest = next(iter(self.repeats))
            if self.repeats[oldest][0] + REPEATS_MIN > minute:
                return
            self._forget(oldest)

    def _forget(self, fingerprint: bytes) -> None:
        del self.repeats[fingerprint]
        self.changed_repeats.add(fingerprint)
