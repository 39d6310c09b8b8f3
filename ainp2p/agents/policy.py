"""What an agent may commit to spend: its owner's budgets, as a core without I/O.

A job's worst case is debited before anything is signed (`reserve`), what was really signed grows below
that bound (`spend`), and the difference comes back at the end (`settle`).

    reserve ──▶ open: counts with its bound, in every window ──settle──▶ spent: counts with what was signed

Budgets slide: what was signed counts for an hour or a day from the moment it was *settled*, in steps of
a minute and rounded up, so never shorter than promised. Time never goes back here: a clock that does
only makes the windows longer. What must survive a restart is read with `take_changes` and given back to
`restore`; what was open when a process died counts as spent whole, since it may have been. This module
says no; it knows neither keys nor signatures (`ainp2p.agents.vault`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ainp2p.agents.breaker import STOPPED, Breaker, BreakerState, Limits
from ainp2p.errors import BudgetExceeded, InvalidInput, PolicyRefused
from ainp2p.protocol.codec import INT_MAX

MINUTE_MS = 60_000
HOUR_MIN = 60
DAY_MIN = 24 * 60


@dataclass(frozen=True, slots=True)
class Policy:
    """An owner's rules, amounts in uain; None means no bound.

    Attributes:
        per_job: worst case of one job, or of one payment.
        per_hour, per_day: all together.
        per_counterparty: to one counterparty within a day.
        per_lock: the largest deposit of one Lock; it is bound for a while, and not yet spent.
        breaker: when to stop altogether.
    """

    per_job: int | None = 1_000_000
    per_hour: int | None = 10_000_000
    per_day: int | None = 50_000_000
    per_counterparty: int | None = 20_000_000
    per_lock: int | None = 10_000_000
    breaker: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        for name in ("per_job", "per_hour", "per_day", "per_counterparty", "per_lock"):
            bound = getattr(self, name)
            if bound is not None and not 0 <= bound <= INT_MAX:
                raise InvalidInput(f"policy {name}={bound}: 0 to {INT_MAX}, or None for no bound")


@dataclass(slots=True)
class Commitment:
    """One job's debit while it is open."""

    job: bytes
    counterparty: bytes
    bound: int
    spent: int = 0


@dataclass(frozen=True, slots=True)
class Saved:
    """What survives a restart; also what changed, in absolute values, so that writing twice is harmless.

    Attributes:
        open: (job, counterparty, bound, spent).
        closed: jobs that are open no more.
        spent: (counterparty, minute, amount in all).
        repeats: (fingerprint, first minute, times); times 0 means forgotten.
        oldest_minute: what is older may be deleted.
    """

    open: tuple[tuple[bytes, bytes, int, int], ...] = ()
    closed: tuple[bytes, ...] = ()
    spent: tuple[tuple[bytes, int, int], ...] = ()
    repeats: tuple[tuple[bytes, int, int], ...] = ()
    breaker: BreakerState = field(default_factory=BreakerState)
    oldest_minute: int = 0


@dataclass(slots=True)
class _Window:
    """Amounts by minute, and their sum over the last `length` minutes and the one that runs."""

    length: int
    total: int = 0
    minutes: dict[int, int] = field(default_factory=dict)  # in order: time never goes back

    def add(self, minute: int, amount: int) -> None:
        self.minutes[minute] = self.minutes.get(minute, 0) + amount
        self.total += amount

    def sum(self, now: int) -> int:
        # What was settled in minute m came before m + 1, so it has left the window once m + 1 + length ≤ now.
        while self.minutes and (first := next(iter(self.minutes))) + 1 + self.length <= now:
            self.total -= self.minutes.pop(first)
        return self.total


class Commitments:
    """All that one agent has committed to, and what its policy says to the next wish."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.committed = 0  # uain: the worst case of all that is open
        self._breaker = Breaker(policy.breaker)
        self._open: dict[bytes, Commitment] = {}
        self._open_by: dict[bytes, int] = {}  # counterparty → sum of bounds
        self._hour, self._day = _Window(HOUR_MIN), _Window(DAY_MIN)
        self._by: dict[bytes, _Window] = {}  # counterparty → its day
        self._minute = 0  # the latest that was ever seen
        self._changed_jobs: set[bytes] = set()
        self._changed_spent: set[tuple[bytes, int]] = set()

    @classmethod
    def restore(cls, policy: Policy, saved: Saved, now_ms: int) -> Commitments:
        """Go on after a restart; what was open counts as spent up to its bound, since it may have been."""
        self = cls(policy)
        self._breaker = Breaker(policy.breaker, saved.breaker)
        self._breaker.repeats = {fingerprint: (first, times) for fingerprint, first, times in saved.repeats}
        self._minute = saved.breaker.minute
        for counterparty, minute, amount in sorted(saved.spent, key=lambda entry: entry[1]):
            self._minute = max(self._minute, minute)
            self._record(counterparty, minute, amount)
        self._changed_spent.clear()
        self._advance(now_ms)
        for job, counterparty, bound, _spent in saved.open:
            self._record(counterparty, self._minute, bound)
            self._changed_jobs.add(job)
        return self

    # --- one commitment's life ------------------------------------------------------------------

    def reserve(
        self, job: bytes, counterparty: bytes, worst_case: int, now_ms: int, what: bytes | None = None
    ) -> Commitment:
        """Debit a job's worst case, or refuse. Asking again for the same open job changes nothing.

        Args:
            what: names exactly what is bought (a digest of skill and input), for the breaker on
                repeated identical spending; None if no two commitments of this kind are the same.

        Raises:
            BudgetExceeded: a budget is too small, now.
            PolicyRefused: the breaker has tripped, perhaps just now, or the owner has stopped spending.
            InvalidInput: not an amount, or another job under the same id.
        """
        if (known := self._open.get(job)) is not None:
            if (known.counterparty, known.bound) != (counterparty, worst_case):
                raise InvalidInput("this job id is in use for another commitment")
            return known
        for refusal in self.violations(counterparty, worst_case, now_ms):
            raise refusal
        tripped = self._breaker.begin(counterparty, worst_case, self._minute, what)
        if tripped is not None:
            raise tripped
        commitment = self._open[job] = Commitment(job, counterparty, worst_case)
        self.committed += worst_case
        self._open_by[counterparty] = self._open_by.get(counterparty, 0) + worst_case
        self._changed_jobs.add(job)
        return commitment

    def spend(self, job: bytes, amount: int) -> None:
        """Count `amount` more as signed for an open job.

        Raises:
            BudgetExceeded: more than was reserved.
            PolicyRefused: the breaker has tripped since; the job ends with what was signed.
            InvalidInput: no such open job, or a negative amount.
        """
        self.check(job, amount).spent += amount
        self._changed_jobs.add(job)

    def check(self, job: bytes, amount: int) -> Commitment:
        """Raise as `spend` would, and change nothing."""
        commitment = self.open(job)
        if amount < 0:
            raise InvalidInput(f"{amount} uain cannot be spent")
        if (refusal := self._breaker.refusal(amount)) is not None:
            raise refusal
        if commitment.spent + amount > commitment.bound:
            raise BudgetExceeded("reserved", commitment.spent + amount, commitment.bound)
        return commitment

    def settle(self, job: bytes, now_ms: int, *, failed: bool | None = None) -> int:
        """End a job: what was not spent comes back. Returns that; 0 for a job that is not open.

        Args:
            failed: whether it brought what it was for, which the breaker counts; None if it says nothing.
        """
        commitment = self._open.pop(job, None)
        if commitment is None:
            return 0
        self._advance(now_ms)
        self.committed -= commitment.bound
        left = self._open_by.pop(commitment.counterparty, 0) - commitment.bound
        if left > 0:
            self._open_by[commitment.counterparty] = left
        self._record(commitment.counterparty, self._minute, commitment.spent)
        self._changed_jobs.add(job)
        if failed is not None:
            self._breaker.finish(failed)
        return commitment.bound - commitment.spent

    def charge(self, counterparty: bytes, amount: int, now_ms: int) -> None:
        """Count what turned out to be spent already, whatever the budgets say."""
        self._advance(now_ms)
        self._record(counterparty, self._minute, amount)

    # --- asking ---------------------------------------------------------------------------------

    def open(self, job: bytes) -> Commitment:
        """The open commitment of a job.

        Raises:
            InvalidInput: there is none.
        """
        commitment = self._open.get(job)
        if commitment is None:
            raise InvalidInput("nothing is reserved for this job: reserve its worst case first")
        return commitment

    def is_open(self, job: bytes) -> bool:
        """Whether something is reserved for a job."""
        return job in self._open

    def open_commitments(self) -> tuple[Commitment, ...]:
        """All that are open, the oldest first."""
        return tuple(self._open.values())

    def violations(self, counterparty: bytes, worst_case: int, now_ms: int) -> list[PolicyRefused]:
        """Every rule that would refuse this commitment now. Nothing is debited or counted.

        Raises:
            InvalidInput: not an amount.
        """
        if not 0 <= worst_case <= INT_MAX:
            raise InvalidInput(f"{worst_case} uain cannot be reserved")
        self._advance(now_ms)
        if (refusal := self._breaker.refusal(worst_case)) is not None:
            return [refusal]
        policy, open_ = self.policy, self.committed
        rules = (
            ("per_job", policy.per_job, 0),
            ("per_hour", policy.per_hour, open_ + self._hour.sum(self._minute)),
            ("per_day", policy.per_day, open_ + self._day.sum(self._minute)),
            ("per_counterparty", policy.per_counterparty, self._committed_to(counterparty)),
        )
        return [
            BudgetExceeded(rule, worst_case, bound, f"{committed} uain are committed already")
            for rule, bound, committed in rules
            if committed + worst_case > (INT_MAX if bound is None else bound)
        ]

    # --- the owner's word -----------------------------------------------------------------------

    @property
    def tripped(self) -> str:
        """Why nothing may be spent (``"breaker:velocity"``, ``"stopped"``, …); empty if it may."""
        return self._breaker.state.tripped

    def spent(self, now_ms: int) -> tuple[int, int]:
        """uain spent within the last hour, and within the last day; what is open is not in it."""
        self._advance(now_ms)
        return self._hour.sum(self._minute), self._day.sum(self._minute)

    def stop(self) -> None:
        """Refuse everything until `reset`."""
        self._breaker.trip(STOPPED)

    def reset(self) -> None:
        """Let spending go on, and let the breaker count anew."""
        self._breaker.reset()

    # --- memory ---------------------------------------------------------------------------------

    def take_changes(self) -> Saved:
        """What has changed since the last call, to be made durable."""
        jobs, breaker = sorted(self._changed_jobs), self._breaker
        breaker.advance(self._minute)  # what is older than a day before it may be deleted now
        changed = Saved(
            open=tuple((c.job, c.counterparty, c.bound, c.spent) for c in map(self._open.get, jobs) if c),
            closed=tuple(job for job in jobs if job not in self._open),
            spent=tuple(
                (counterparty, minute, min(self._by[counterparty].minutes[minute], INT_MAX))
                for counterparty, minute in sorted(self._changed_spent)
                if counterparty in self._by and minute in self._by[counterparty].minutes
            ),
            repeats=tuple((f, *breaker.repeats.get(f, (0, 0))) for f in sorted(breaker.changed_repeats)),
            breaker=breaker.state,
            oldest_minute=self._minute - DAY_MIN,
        )
        self._changed_jobs.clear()
        self._changed_spent.clear()
        breaker.changed_repeats.clear()
        return changed

    def _record(self, counterparty: bytes, minute: int, amount: int) -> None:
        self._hour.add(minute, amount)
        self._day.add(minute, amount)
        self._by.setdefault(counterparty, _Window(DAY_MIN)).add(minute, amount)
        self._changed_spent.add((counterparty, minute))

    def _committed_to(self, counterparty: bytes) -> int:
        window = self._by.get(counterparty)
        spent = window.sum(self._minute) if window is not None else 0
        return spent + self._open_by.get(counterparty, 0)

    def _advance(self, now_ms: int) -> None:
        minute = now_ms // MINUTE_MS
        if minute // DAY_MIN > self._minute // DAY_MIN:  # once a day: forget whom nothing was paid to
            for counterparty, window in list(self._by.items()):
                window.sum(minute)
                if not window.minutes:
                    del self._by[counterparty]
        self._minute = max(self._minute, minute)
