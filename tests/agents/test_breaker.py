"""The breaker: each reason to stop, and that nothing but a person starts it again."""

from __future__ import annotations

import pytest

from ainp2p.agents import breaker as module
from ainp2p.agents.breaker import ERRORS, REPEATS, STOPPED, VELOCITY, Breaker, Limits
from ainp2p.errors import InvalidInput, PolicyRefused

SHOP = b"s" * 32


def begin(breaker: Breaker, times: int, *, minute: int = 0, what: bytes | None = None) -> list[str]:
    """The rules that refused, one entry per refusal."""
    refusals = [breaker.begin(SHOP, 5, minute, what) for _ in range(times)]
    return [refusal.rule for refusal in refusals if refusal is not None]


def test_it_trips_when_commitments_come_too_fast() -> None:
    breaker = Breaker(Limits(per_minute=3))
    assert begin(breaker, 3) == []
    assert begin(breaker, 1) == [VELOCITY]
    assert begin(breaker, 1, minute=5) == [VELOCITY]


def test_a_steady_pace_does_not_trip_it() -> None:
    breaker = Breaker(Limits(per_minute=3))
    assert [begin(breaker, 3, minute=minute) for minute in range(50)] == [[]] * 50


def test_it_trips_when_too_many_of_the_last_jobs_failed() -> None:
    breaker = Breaker(Limits(errors=3, errors_of=5))
    for failed in (True, True, False, False, False, True, True):
        breaker.finish(failed)
        assert not breaker.state.tripped
    breaker.finish(True)
    assert breaker.state.tripped == ERRORS


def test_it_trips_when_the_same_is_bought_again_and_again() -> None:
    breaker = Breaker(Limits(repeats=2))
    assert begin(breaker, 2, what=b"a") == []
    assert begin(breaker, 2, what=b"b") == []
    assert begin(breaker, 1, what=b"a") == [REPEATS]


def test_the_same_for_another_amount_or_counterparty_is_not_the_same() -> None:
    breaker = Breaker(Limits(repeats=1))
    for counterparty, amount in ((SHOP, 5), (SHOP, 6), (b"t" * 32, 5)):
        assert breaker.begin(counterparty, amount, 0, b"a") is None


def test_repeats_are_forgotten_after_ten_minutes() -> None:
    breaker = Breaker(Limits(repeats=2))
    for minute in range(0, 100, 10):
        assert begin(breaker, 2, minute=minute, what=b"a") == []


def test_what_is_never_the_same_does_not_repeat() -> None:
    assert begin(Breaker(Limits(repeats=1)), 50, what=None) == []


def test_repeats_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPEATS_TRACKED_MAX", 8)
    breaker = Breaker(Limits(per_minute=None))
    for number in range(100):
        begin(breaker, 1, what=number.to_bytes(2, "big"))
    assert len(breaker.repeats) == 8
    assert len(breaker.changed_repeats) == 100  # those forgotten are reported as well


def old_and_new() -> tuple[Breaker, bytes, bytes]:
    """A breaker that saw one purchase, ten minutes later another; and both fingerprints."""
    breaker = Breaker(Limits())
    begin(breaker, 1, minute=0, what=b"old")
    (old,) = breaker.repeats
    breaker.changed_repeats.clear()  # it was made durable
    begin(breaker, 1, minute=module.REPEATS_MIN, what=b"new")
    return breaker, old, next(reversed(breaker.repeats))


def test_what_is_counted_anew_anyway_is_not_remembered() -> None:
    breaker, old, new = old_and_new()
    assert list(breaker.repeats) == [new]
    assert breaker.changed_repeats == {old, new}  # so that its row goes, too


def test_what_still_counts_is_remembered() -> None:
    breaker = Breaker(Limits(repeats=1))
    begin(breaker, 1, minute=0, what=b"a")
    begin(breaker, 1, minute=module.REPEATS_MIN - 1, what=b"b")
    assert len(breaker.repeats) == 2
    assert begin(breaker, 1, minute=module.REPEATS_MIN - 1, what=b"a") == [REPEATS]


def test_mutant_that_forgets_nothing_keeps_a_fingerprint_of_each_purchase(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Breaker, "_forget_old", lambda *_: None)
    breaker, old, new = old_and_new()
    assert list(breaker.repeats) == [old, new]


def test_a_tripped_breaker_stays_tripped_for_its_first_reason() -> None:
    breaker = Breaker(Limits(per_minute=1, errors=1, errors_of=1))
    begin(breaker, 2)
    breaker.finish(True)
    assert breaker.state.tripped == VELOCITY


def test_the_owners_stop_outranks_other_reasons() -> None:
    breaker = Breaker(Limits(per_minute=1))
    begin(breaker, 2)
    breaker.trip(STOPPED)
    refusal = breaker.refusal(7)
    assert isinstance(refusal, PolicyRefused)
    assert (refusal.rule, refusal.wanted) == (STOPPED, 7)
    assert "owner" in str(refusal)


def test_a_reset_counts_anew() -> None:
    breaker = Breaker(Limits(per_minute=2, errors=1, errors_of=4, repeats=1))
    begin(breaker, 1, what=b"a")
    breaker.finish(True)
    breaker.reset()
    assert breaker.refusal(0) is None
    assert begin(breaker, 1, what=b"a") == []
    assert begin(breaker, 1) == []


def test_it_goes_on_from_its_state() -> None:
    before = Breaker(Limits(per_minute=2))
    begin(before, 2)
    assert begin(Breaker(Limits(per_minute=2), before.state), 1) == [VELOCITY]


def test_no_limits_never_trip() -> None:
    breaker = Breaker(Limits(per_minute=None, errors=None, repeats=None))
    assert begin(breaker, 5000, what=b"a") == []
    for _ in range(100):
        breaker.finish(True)
    assert breaker.refusal(1) is None


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param({"per_minute": 0}, id="no pace at all"),
        pytest.param({"repeats": 0}, id="not even once"),
        pytest.param({"errors": 0}, id="tripped by nothing"),
        pytest.param({"errors": 21}, id="more errors than jobs"),
        pytest.param({"errors_of": 0}, id="of no jobs"),
        pytest.param({"errors_of": 61}, id="of more jobs than are remembered"),
    ],
)
def test_limits_without_sense_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(InvalidInput):
        Limits(**limits)
