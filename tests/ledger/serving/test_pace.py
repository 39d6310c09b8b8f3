from __future__ import annotations

import pytest

from ainp2p.ledger.serving import pace as module
from ainp2p.ledger.serving.pace import BURST, RATE_MAX, RATE_MIN, Pace


def measured(pace: Pace, late_s: float, first: int, count: int) -> None:
    for step in range(first, first + count):
        pace.measured(late_s, step / 100)


def taken(pace: Pace) -> int:
    count = 0
    while pace.allows:
        pace.take()
        count += 1
    return count


def test_it_gives_a_burst_then_its_rate() -> None:
    pace = Pace()
    assert taken(pace) == BURST
    pace.measured(0, 0)
    taken(pace)
    pace.rate = 200.0
    pace.measured(0, 0.03)
    assert taken(pace) == 6


def test_a_late_loop_slows_it_to_little_and_not_to_nothing() -> None:
    pace = Pace()
    measured(pace, 0.02, 0, 300)
    assert pace.rate == RATE_MIN


def test_it_recovers_when_the_loop_is_prompt_again() -> None:
    pace = Pace()
    measured(pace, 0.02, 0, 300)
    measured(pace, 0.0, 300, 700)
    assert pace.rate == RATE_MAX


def test_one_late_moment_changes_little() -> None:
    pace = Pace()
    measured(pace, 0.0, 0, 100)
    measured(pace, 0.02, 100, 1)
    assert pace.rate > 0.9 * RATE_MAX


def test_a_clock_that_goes_back_or_far_ahead_gives_no_more_than_a_step() -> None:
    pace = Pace()
    measured(pace, 0.02, 0, 300)
    taken(pace)
    pace.measured(0, 1.0)
    assert taken(pace) <= 1
    pace.measured(0, 1_000_000.0)
    assert taken(pace) <= RATE_MIN * module.STEP_MAX_S * 2


def test_mutant_without_smoothing_one_late_moment_in_ten_holds_it_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def after(pace: Pace) -> float:
        for step in range(3_000):
            pace.measured(0.008 if step % 10 == 0 else 0.0, step / 100)
        return pace.rate

    assert after(Pace()) > 0.5 * RATE_MAX
    monkeypatch.setattr(module, "LATE_S", 0.0)
    assert after(Pace()) < 0.5 * RATE_MAX
