"""Backoff, suspicion, watching and speed, with the time given."""

from __future__ import annotations

import pytest

from ainp2p.agents.models import supervision as s


def test_pauses_double_up_to_a_bound() -> None:
    restarts = s.Restarts(0.2)
    pauses = [restarts.crashed(1.0) for _ in range(12)]
    assert pauses[:4] == [0.2, 0.4, 0.8, 1.6]
    assert pauses[-1] == s.BACKOFF_MAX_S
    assert restarts.total == 12


def test_pauses_stay_bounded_after_a_very_long_row_of_crashes() -> None:
    restarts = s.Restarts(0.2, in_a_row=10_000)
    assert restarts.crashed(0.0) == s.BACKOFF_MAX_S


def test_a_long_life_is_forgiven() -> None:
    restarts = s.Restarts(0.2)
    for _ in range(5):
        restarts.crashed(1.0)
    assert restarts.crashed(s.STABLE_S) == 0.2


def test_only_starts_in_vain_make_it_failing() -> None:
    restarts = s.Restarts(0.2)
    for _ in range(10):
        restarts.crashed(0.5)
    assert not restarts.failing
    for _ in range(s.FAILING_AFTER):
        assert not restarts.failing
        restarts.crashed(None)
    assert restarts.failing
    restarts.crashed(0.5)
    assert not restarts.failing


def test_a_request_present_at_two_crashes_is_refused() -> None:
    suspects = s.Suspects()
    suspects.blame(b"a")
    assert not suspects.refuses(b"a")
    suspects.blame(b"a")
    assert suspects.refuses(b"a")
    assert not suspects.refuses(b"b")


def test_a_bystander_is_cleared_when_it_comes_to_its_end() -> None:
    suspects = s.Suspects()
    suspects.blame(b"a")
    suspects.clear(b"a")
    suspects.blame(b"a")
    assert not suspects.refuses(b"a")
    suspects.clear(b"never seen")


def test_the_memory_of_suspects_is_bounded_and_keeps_the_latest() -> None:
    suspects = s.Suspects()
    for number in range(s.SUSPECTS_MAX + 10):
        suspects.blame(b"%d" % number)
    suspects.blame(b"%d" % (s.SUSPECTS_MAX + 9))
    assert suspects.refuses(b"%d" % (s.SUSPECTS_MAX + 9))
    assert len(suspects._strikes) == s.SUSPECTS_MAX


def test_silence_about_live_requests_is_a_fault() -> None:
    watch = s.Watch(stall_s=10, silence_s=60, progress_at=100, pong_at=100)
    assert watch.fault(110, live=2) is None
    assert "hung" in (watch.fault(111, live=2) or "")
    assert watch.fault(150, live=0) is None


def test_a_process_that_answers_no_ping_is_a_fault_even_when_idle() -> None:
    watch = s.Watch(stall_s=10, silence_s=60, progress_at=100, pong_at=100)
    assert "stopped" in (watch.fault(161, live=0) or "")


def test_speed_is_tokens_over_time_of_the_latest_answers() -> None:
    speed = s.Speed()
    assert speed.tokens_per_second is None
    speed.add(10, 1.0)
    speed.add(30, 1.0)
    assert speed.tokens_per_second == 20
    for _ in range(s.SPEED_SAMPLES):
        speed.add(5, 1.0)
    assert speed.tokens_per_second == 5


@pytest.mark.parametrize(("tokens", "seconds"), [(0, 1.0), (-1, 1.0), (5, 0.0)])
def test_an_answer_of_one_token_says_nothing_about_speed(tokens: int, seconds: float) -> None:
    speed = s.Speed()
    speed.add(tokens, seconds)
    assert speed.tokens_per_second is None


@pytest.mark.parametrize(
    ("code", "stderr", "said"),
    [
        (-9, "", "memory ran out"),
        (-11, "", "SIGSEGV"),
        (1, "Traceback\nRuntimeError: boom\n", "status 1; it said: RuntimeError: boom"),
        (0, " \n", "status 0"),
    ],
)
def test_the_cause_of_death_is_said(code: int, stderr: str, said: str) -> None:
    assert said in s.describe_exit(code, stderr)


def test_last_words_are_cut() -> None:
    assert len(s.describe_exit(1, "x" * 100_000)) < 600
