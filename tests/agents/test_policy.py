"""Budgets: no order of events, clock or restart makes an agent sign more than its owner allowed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ainp2p.agents import policy as module
from ainp2p.agents.breaker import ERRORS, REPEATS, STOPPED, VELOCITY, BreakerState, Limits
from ainp2p.agents.policy import MINUTE_MS, Commitments, Policy, Saved
from ainp2p.errors import BudgetExceeded, InvalidInput, PolicyRefused
from ainp2p.protocol.codec import INT_MAX

SHOP, OTHER = b"s" * 32, b"t" * 32
HOUR_MS, DAY_MS = 60 * MINUTE_MS, 24 * 60 * MINUTE_MS
NOW = 1_700_000_000_000
FREE = Limits(per_minute=None, errors=None, repeats=None)
UNBOUND = Policy(
    per_job=None, per_hour=None, per_day=None, per_counterparty=None, per_lock=None, breaker=FREE
)


def bounded(**bounds: int) -> Policy:
    """A policy with these bounds and no others."""
    names = ("per_job", "per_hour", "per_day", "per_counterparty", "per_lock")
    return Policy(**{name: bounds.get(name) for name in names}, breaker=FREE)


def joined(changes: Iterable[Saved]) -> Saved:
    """One state from all changes in order: what a store does with them."""
    open_: dict[bytes, tuple[bytes, bytes, int, int]] = {}
    spent: dict[tuple[bytes, int], int] = {}
    repeats: dict[bytes, tuple[int, int]] = {}
    breaker, oldest = BreakerState(), 0
    for change in changes:
        open_.update((entry[0], entry) for entry in change.open)
        for job in change.closed:
            open_.pop(job, None)
        spent.update(((counterparty, minute), amount) for counterparty, minute, amount in change.spent)
        repeats.update((fingerprint, (first, times)) for fingerprint, first, times in change.repeats)
        breaker, oldest = change.breaker, change.oldest_minute
    return Saved(
        open=tuple(open_.values()),
        spent=tuple((*key, amount) for key, amount in spent.items() if key[1] >= oldest),
        repeats=tuple((f, first, times) for f, (first, times) in repeats.items() if times),
        breaker=breaker,
    )


def refused(commitments: Commitments, amount: int, *, at: int = NOW, counterparty: bytes = SHOP) -> str:
    """The first rule that refuses this amount, "" if none does; nothing is reserved."""
    violations = commitments.violations(counterparty, amount, at)
    return violations[0].rule if violations else ""


# --- one commitment -----------------------------------------------------------------------------


def test_the_worst_case_is_debited_and_the_difference_comes_back() -> None:
    commitments = Commitments(bounded(per_hour=100))
    commitments.reserve(b"1", SHOP, 80, NOW)
    assert (commitments.committed, refused(commitments, 21)) == (80, "per_hour")
    commitments.spend(b"1", 30)
    assert refused(commitments, 21) == "per_hour"  # still the worst case
    assert commitments.settle(b"1", NOW) == 50
    assert (commitments.committed, refused(commitments, 70), refused(commitments, 71)) == (0, "", "per_hour")


def test_nothing_is_spent_above_what_was_reserved() -> None:
    commitments = Commitments(UNBOUND)
    commitments.reserve(b"1", SHOP, 10, NOW)
    commitments.spend(b"1", 10)
    with pytest.raises(BudgetExceeded) as caught:
        commitments.spend(b"1", 1)
    assert (caught.value.rule, caught.value.wanted, caught.value.limit) == ("reserved", 11, 10)
    assert commitments.open(b"1").spent == 10


def test_reserving_the_same_again_changes_nothing() -> None:
    commitments = Commitments(bounded(per_hour=10))
    first = commitments.reserve(b"1", SHOP, 10, NOW)
    assert commitments.reserve(b"1", SHOP, 10, NOW) is first
    assert commitments.committed == 10


@pytest.mark.parametrize(("counterparty", "amount"), [(OTHER, 10), (SHOP, 11), (SHOP, 9)])
def test_one_job_id_is_one_commitment(counterparty: bytes, amount: int) -> None:
    commitments = Commitments(UNBOUND)
    commitments.reserve(b"1", SHOP, 10, NOW)
    with pytest.raises(InvalidInput, match="in use"):
        commitments.reserve(b"1", counterparty, amount, NOW)


@pytest.mark.parametrize("amount", [-1, -INT_MAX, INT_MAX + 1, 2**64])
def test_a7_what_is_no_amount_is_not_reserved(amount: int) -> None:
    with pytest.raises(InvalidInput):
        Commitments(UNBOUND).reserve(b"1", SHOP, amount, NOW)


def test_a7_a_negative_amount_gives_nothing_back() -> None:
    commitments = Commitments(UNBOUND)
    commitments.reserve(b"1", SHOP, 10, NOW)
    with pytest.raises(InvalidInput):
        commitments.spend(b"1", -1)


def test_a7_even_without_budgets_sums_stay_in_range() -> None:
    commitments = Commitments(UNBOUND)
    commitments.reserve(b"1", SHOP, INT_MAX, NOW)
    with pytest.raises(BudgetExceeded):
        commitments.reserve(b"2", SHOP, 1, NOW)
    commitments.spend(b"1", INT_MAX)
    commitments.settle(b"1", NOW)
    commitments.charge(SHOP, INT_MAX, NOW)
    assert all(amount <= INT_MAX for _, _, amount in commitments.take_changes().spent)


def test_a_free_job_needs_no_budget() -> None:
    commitments = Commitments(bounded(per_job=0, per_hour=0, per_day=0, per_counterparty=0))
    commitments.reserve(b"1", SHOP, 0, NOW)
    commitments.spend(b"1", 0)
    assert commitments.settle(b"1", NOW) == 0


@pytest.mark.parametrize("do", ["spend", "open"])
def test_a_job_that_is_not_open_has_nothing(do: str) -> None:
    commitments = Commitments(UNBOUND)
    commitments.reserve(b"1", SHOP, 10, NOW)
    commitments.settle(b"1", NOW)
    with pytest.raises(InvalidInput, match="reserve its worst case first"):
        commitments.spend(b"1", 1) if do == "spend" else commitments.open(b"1")
    assert commitments.settle(b"1", NOW) == 0
    assert not commitments.is_open(b"1")


def test_open_commitments_are_listed_oldest_first() -> None:
    commitments = Commitments(UNBOUND)
    for job in (b"2", b"1"):
        commitments.reserve(job, SHOP, 10, NOW)
    assert [commitment.job for commitment in commitments.open_commitments()] == [b"2", b"1"]


# --- budgets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["per_job", "per_hour", "per_day", "per_counterparty"])
def test_each_budget_refuses_by_its_name_and_debits_nothing(name: str) -> None:
    commitments = Commitments(bounded(**{name: 9}))
    with pytest.raises(BudgetExceeded) as caught:
        commitments.reserve(b"1", SHOP, 10, NOW)
    assert (caught.value.rule, caught.value.wanted, caught.value.limit) == (name, 10, 9)
    assert "nothing was signed" in str(caught.value)
    assert commitments.committed == 0
    commitments.reserve(b"1", SHOP, 9, NOW)


def test_all_violations_are_told_at_once() -> None:
    commitments = Commitments(bounded(per_job=1, per_hour=2, per_day=100, per_counterparty=3))
    assert [v.rule for v in commitments.violations(SHOP, 10, NOW)] == [
        "per_job",
        "per_hour",
        "per_counterparty",
    ]


def test_one_counterpartys_budget_is_not_anothers() -> None:
    commitments = Commitments(bounded(per_counterparty=10))
    commitments.reserve(b"1", SHOP, 10, NOW)
    commitments.reserve(b"2", OTHER, 10, NOW)
    assert refused(commitments, 1) == "per_counterparty"


@pytest.mark.parametrize(("name", "length_ms"), [("per_hour", HOUR_MS), ("per_day", DAY_MS)])
def test_what_was_spent_counts_for_its_whole_window(name: str, length_ms: int) -> None:
    commitments = Commitments(bounded(**{name: 10}))
    commitments.reserve(b"1", SHOP, 10, NOW)
    commitments.spend(b"1", 10)
    settled = NOW + 5 * HOUR_MS  # counted from here, however long it was open
    commitments.settle(b"1", settled)
    assert refused(commitments, 1, at=settled + length_ms - 1) == name
    assert refused(commitments, 10, at=settled + length_ms + 2 * MINUTE_MS) == ""


def test_a_counterpartys_day_slides_as_well() -> None:
    commitments = Commitments(bounded(per_counterparty=10))
    commitments.charge(SHOP, 10, NOW)
    assert refused(commitments, 1, at=NOW + DAY_MS - 1) == "per_counterparty"
    assert refused(commitments, 10, at=NOW + DAY_MS + 2 * MINUTE_MS) == ""


def test_an_open_job_counts_however_old_it_is() -> None:
    commitments = Commitments(bounded(per_hour=10))
    commitments.reserve(b"1", SHOP, 10, NOW)
    assert refused(commitments, 1, at=NOW + 100 * DAY_MS) == "per_hour"


def test_f1_a_clock_that_goes_back_frees_nothing() -> None:
    commitments = Commitments(bounded(per_hour=10))
    commitments.charge(SHOP, 10, NOW)
    for at in (NOW - 1, NOW - HOUR_MS, NOW - 100 * DAY_MS, 0):
        assert refused(commitments, 1, at=at) == "per_hour"
        other = Commitments(bounded(per_hour=10))
        other.violations(SHOP, 0, NOW)
        other.charge(SHOP, 10, at)  # what is spent while the clock is wrong counts from the latest time seen
        assert refused(other, 1, at=NOW + HOUR_MS - 1) == "per_hour"
    assert refused(commitments, 1, at=NOW + HOUR_MS - 1) == "per_hour"


def test_f1_mutant_without_a_clock_that_only_goes_on_the_check_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def believe(self: Commitments, now_ms: int) -> None:
        self._minute = now_ms // MINUTE_MS

    monkeypatch.setattr(Commitments, "_advance", believe)
    with pytest.raises(AssertionError):
        test_f1_a_clock_that_goes_back_frees_nothing()


def test_counterparties_that_were_not_paid_for_days_are_forgotten() -> None:
    commitments = Commitments(UNBOUND)
    for number in range(100):
        commitments.charge(number.to_bytes(32, "big"), 1, NOW)
    commitments.charge(SHOP, 1, NOW + 3 * DAY_MS)
    assert list(commitments._by) == [SHOP]


def test_the_default_policy_lets_an_agent_work() -> None:
    commitments = Commitments(Policy())
    for number in range(9):
        commitments.reserve(bytes([number]), SHOP, 1_000_000, NOW, b"what")
    assert refused(commitments, 1_000_001) == "per_job"


@pytest.mark.parametrize("name", ["per_job", "per_hour", "per_day", "per_counterparty", "per_lock"])
@pytest.mark.parametrize("bound", [-1, INT_MAX + 1])
def test_a_policy_without_sense_is_refused(name: str, bound: int) -> None:
    with pytest.raises(InvalidInput, match=name):
        bounded(**{name: bound})


# --- the breaker, seen from here ------------------------------------------------------------------


def test_a_tripped_breaker_refuses_reservations_and_receipts() -> None:
    commitments = Commitments(Policy(breaker=Limits(per_minute=2)))
    for job in (b"1", b"2"):
        commitments.reserve(job, SHOP, 10, NOW)
    with pytest.raises(PolicyRefused) as caught:
        commitments.reserve(b"3", SHOP, 10, NOW)
    assert caught.value.rule == VELOCITY == commitments.tripped
    with pytest.raises(PolicyRefused):
        commitments.spend(b"1", 1)
    assert commitments.settle(b"1", NOW) == 10  # ending is always allowed
    assert refused(commitments, 1, at=NOW + DAY_MS) == VELOCITY
    commitments.reset()
    commitments.spend(b"2", 1)


def test_a_refusal_by_the_breaker_debits_nothing() -> None:
    commitments = Commitments(Policy(breaker=Limits(repeats=1)))
    commitments.reserve(b"1", SHOP, 10, NOW, b"what")
    with pytest.raises(PolicyRefused, match=REPEATS):
        commitments.reserve(b"2", SHOP, 10, NOW, b"what")
    assert commitments.committed == 10
    assert not commitments.is_open(b"2")


def test_failed_jobs_trip_it_and_jobs_without_outcome_do_not() -> None:
    commitments = Commitments(Policy(breaker=Limits(errors=2, errors_of=2)))
    for number, failed in enumerate((True, None, None, True)):
        assert commitments.tripped == ""
        commitments.reserve(bytes([number]), SHOP, 1, NOW)
        commitments.settle(bytes([number]), NOW, failed=failed)
    assert commitments.tripped == ERRORS


def test_the_owners_stop_survives_a_restart() -> None:
    commitments = Commitments(Policy())
    commitments.stop()
    again = Commitments.restore(Policy(), joined([commitments.take_changes()]), NOW)
    assert again.tripped == STOPPED
    again.reset()
    assert Commitments.restore(Policy(), joined([again.take_changes()]), NOW).tripped == ""


@pytest.mark.parametrize("rule_", [VELOCITY, REPEATS])
def test_a_restart_does_not_reset_what_the_breaker_counts(rule_: str) -> None:
    policy = Policy(breaker=Limits(per_minute=3 if rule_ == VELOCITY else None, repeats=3))
    changes: list[Saved] = []
    for number in range(3):  # a process that buys once, crashes, and buys the same again
        commitments = Commitments.restore(policy, joined(changes), NOW)
        commitments.reserve(bytes([number]), SHOP, 10, NOW, None if rule_ == VELOCITY else b"what")
        changes.append(commitments.take_changes())
    commitments = Commitments.restore(policy, joined(changes), NOW)
    with pytest.raises(PolicyRefused, match=rule_):
        commitments.reserve(b"4", SHOP, 10, NOW, None if rule_ == VELOCITY else b"what")


# --- restarts -----------------------------------------------------------------------------------


def test_what_was_open_at_a_crash_counts_as_spent_whole() -> None:
    policy = bounded(per_hour=100, per_counterparty=100)
    commitments = Commitments(policy)
    commitments.reserve(b"1", SHOP, 60, NOW)
    commitments.spend(b"1", 5)
    again = Commitments.restore(policy, joined([commitments.take_changes()]), NOW)
    assert again.committed == 0
    assert not again.is_open(b"1")
    assert (refused(again, 40), refused(again, 41)) == ("", "per_hour")
    # and a second restart finds the same, not twice as much
    third = Commitments.restore(policy, joined([commitments.take_changes(), again.take_changes()]), NOW)
    assert (refused(third, 40), refused(third, 41)) == ("", "per_hour")


def test_changes_are_told_once_and_writing_them_twice_is_harmless() -> None:
    policy = bounded(per_hour=100)
    commitments = Commitments(policy)
    commitments.reserve(b"1", SHOP, 60, NOW)
    commitments.spend(b"1", 60)
    commitments.settle(b"1", NOW)
    changes = commitments.take_changes()
    assert changes.closed == (b"1",)
    quiet = commitments.take_changes()
    assert (quiet.open, quiet.closed, quiet.spent, quiet.repeats) == ((), (), (), ())
    again = Commitments.restore(policy, joined([changes, changes, quiet]), NOW)
    assert (refused(again, 40), refused(again, 41)) == ("", "per_hour")


AMOUNTS = st.sampled_from([0, 1, 5, 20, 30, 31])
STEPS_MS = st.sampled_from([1, MINUTE_MS, HOUR_MS - 1, HOUR_MS, DAY_MS - 1, DAY_MS, -HOUR_MS, -DAY_MS])


class Spending(RuleBasedStateMachine):
    """Jobs, receipts, clocks and crashes in any order, beside a list of everything that was signed."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = bounded(per_job=30, per_hour=50, per_day=70, per_counterparty=55)
        self.commitments = Commitments(self.policy)
        self.now = self.written = self.latest = NOW
        self.jobs: list[bytes] = []
        self.signed: deque[tuple[int, bytes, int]] = deque()  # true time, counterparty, amount
        self.by_job: dict[bytes, int] = {}
        self.disk: list[Saved] = []
        self.count = 0

    def _see_the_clock(self) -> None:
        """Time that nobody has looked at did not pass: a clock put back before that was always there."""
        self.commitments.violations(SHOP, 0, self.now)
        self.latest = max(self.latest, self.now)

    def _write(self) -> None:
        self.disk.append(self.commitments.take_changes())
        self.written = self.latest

    @initialize()
    def start(self) -> None:
        self._see_the_clock()
        self._write()

    @rule(counterparty=st.sampled_from([SHOP, OTHER]), amount=AMOUNTS)
    def reserve(self, counterparty: bytes, amount: int) -> None:
        self.count += 1
        job = self.count.to_bytes(4, "big")
        try:
            self.commitments.reserve(job, counterparty, amount, self.now)
        except BudgetExceeded:
            assert not self.commitments.is_open(job)
            return
        self._write()  # durable before anything is signed
        self.jobs.append(job)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), amount=AMOUNTS)
    def spend(self, data: st.DataObject, amount: int) -> None:
        self._spend(data.draw(st.sampled_from(self.jobs)), amount)

    @rule(counterparty=st.sampled_from([SHOP, OTHER]), amount=AMOUNTS)
    def buy(self, counterparty: bytes, amount: int) -> None:
        before = len(self.jobs)
        self.reserve(counterparty, amount)
        if len(self.jobs) > before:
            job = self.jobs.pop()
            self._spend(job, amount)
            self.commitments.settle(job, self.now)

    def _spend(self, job: bytes, amount: int) -> None:
        counterparty = self.commitments.open(job).counterparty
        try:
            self.commitments.spend(job, amount)
        except BudgetExceeded:
            return
        self.signed.append((self.latest, counterparty, amount))  # no write: that is the point
        self.by_job[job] = self.by_job.get(job, 0) + amount

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        self.jobs.remove(job)
        self.commitments.settle(job, self.now)

    @rule()
    def flush(self) -> None:
        self._write()

    @rule(step=STEPS_MS)
    def time_passes(self, step: int) -> None:
        self.now += step
        self._see_the_clock()

    @rule()
    def crash(self) -> None:
        self.commitments = Commitments.restore(self.policy, joined(self.disk), self.now)
        self.latest = max(self.now, self.written)
        self._write()
        self.jobs.clear()

    @invariant()
    def no_budget_is_exceeded(self) -> None:
        def within(length_ms: int, counterparty: bytes | None = None) -> int:
            since = self.latest - length_ms
            wanted = (None, SHOP, OTHER) if counterparty is None else (counterparty,)
            return sum(amount for at, payee, amount in self.signed if at > since and payee in wanted)

        assert within(HOUR_MS) <= 50
        assert within(DAY_MS) <= 70
        assert within(DAY_MS, SHOP) <= 55
        assert within(DAY_MS, OTHER) <= 55
        assert all(amount <= 30 for amount in self.by_job.values())

    @invariant()
    def sums_agree(self) -> None:
        open_ = self.commitments.open_commitments()
        assert self.commitments.committed == sum(commitment.bound for commitment in open_)
        assert sum(self.commitments._open_by.values()) == self.commitments.committed


def run_machine(**options: Any) -> None:
    chosen = {"max_examples": 60, "stateful_step_count": 40, "deadline": None, **options}
    run_state_machine_as_test(Spending, settings=settings(**chosen))


def run_mutant() -> None:
    """The planted fault must be found; how small the example is does not matter, so it is not shrunk."""
    options = {"max_examples": 500, "phases": [Phase.generate], "report_multiple_bugs": False}
    with pytest.raises((AssertionError, ExceptionGroup)):
        run_machine(database=None, derandomize=True, print_blob=False, **options)


def test_no_order_of_events_exceeds_a_budget() -> None:
    run_machine()


MUTANTS = {
    "spend does not look at its bound": (
        Commitments,
        "spend",
        lambda self, job, amount: setattr(self.open(job), "spent", self.open(job).spent + amount),
    ),
    "what was spent is not remembered": (Commitments, "_record", lambda *_: None),
    "a window that is a minute short": (
        module._Window,
        "sum",
        lambda self, now: sum(
            amount for minute, amount in self.minutes.items() if minute + self.length > now
        ),
    ),
    "budgets are not asked": (Commitments, "violations", lambda *_: []),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_policies_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, method, broken = MUTANTS[name]
    monkeypatch.setattr(owner, method, broken)
    run_mutant()


def test_mutant_forgetting_what_was_open_at_a_crash_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Commitments.restore

    def forgetful(policy: Policy, saved: Saved, now_ms: int) -> Commitments:
        return real(policy, replace(saved, open=()), now_ms)

    monkeypatch.setattr(Commitments, "restore", forgetful)
    run_mutant()


def test_f1_a_restart_does_not_take_back_time_by_which_spending_was_forgotten() -> None:
    policy = Policy(per_job=None, per_hour=None, per_day=50, per_counterparty=None)
    first = Commitments(policy)
    first.reserve(b"j", SHOP, 50, NOW)
    first.spend(b"j", 50)
    first.settle(b"j", NOW)
    first.violations(
        SHOP, 1, NOW + 2 * DAY_MS
    )  # a clock that was two days ahead: the spending is old, and dropped
    second = Commitments.restore(policy, joined([first.take_changes()]), NOW)
    assert refused(second, 50, at=NOW) == ""
    second.reserve(b"k", SHOP, 50, NOW)
    assert refused(second, 1, at=NOW + DAY_MS) == "per_day"  # reckoned by the latest clock
