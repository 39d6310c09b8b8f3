"""The killer of swarms: a run of its own, what it notices, and what it prints when something is wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from ainp2p.swarm import chaos
from ainp2p.swarm import events as ev
from ainp2p.swarm.board import Board
from ainp2p.swarm.chaos import Outcome, Plan

from .test_checks import count


def test_the_same_seed_and_number_draw_the_same() -> None:
    draws = [
        [Plan(seed, number, 1.0).rng.random() for _ in range(2)] for seed, number in ((1, 1), (1, 2), (2, 1))
    ]
    assert all(first == second for first, second in draws)
    assert len({first for first, _ in draws}) == 3


@pytest.mark.process
@pytest.mark.parametrize("number", [1, 2])
def test_a_swarm_that_loses_somebody_keeps_the_supply_and_leaves_nobody_behind(number: int) -> None:
    outcome = chaos.one_run(Plan(20, number, 0.2), ["--model", "scripted", "--limit", "30"], 90.0)
    assert outcome.problems == [], outcome.said
    assert outcome.victim


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


def test_mutant_somebody_who_stays_behind_is_noticed() -> None:
    process = sleeper()
    try:
        assert chaos.wait_until_gone({"ada": process.pid}, 0.1) == ["ada"]
    finally:
        process.kill()
        process.wait()
    assert chaos.wait_until_gone({"ada": process.pid}, 5.0) == []


def test_a_dead_child_that_nobody_has_reaped_is_gone() -> None:
    process = sleeper()
    process.kill()
    assert chaos.wait_until_gone({"ada": process.pid}, 5.0) == []
    process.wait()


class Heard:
    """Stands for a watched swarm that is over."""

    def __init__(self, *events: ev.AnyEvent) -> None:
        self.board = Board()
        for event in events:
            self.board.apply(event)


FOUNDED = ev.NetworkFounded(at_ms=1, network="3f9a", supply=1000)


def problems(tmp_path: Path, heard: Heard, outcome: Outcome, said: str = "") -> list[str]:
    errors = tmp_path / "errors.txt"
    errors.write_text(said)
    return list(chaos.problems(heard, outcome, {}, errors))  # type: ignore[arg-type]  # only its board is read


def test_a_run_in_which_all_held_has_no_problems(tmp_path: Path) -> None:
    heard = Heard(FOUNDED, *(count(f"validator-{i}") for i in range(3)))
    assert problems(tmp_path, heard, Outcome("validator-3", status=1)) == []


@pytest.mark.parametrize(
    ("events", "outcome", "said", "problem"),
    [
        pytest.param([], Outcome("ada", status=None), "", "the view hangs", id="a hang"),
        pytest.param(
            [FOUNDED, *(count(f"validator-{i}", burnt=6) for i in range(3))],
            Outcome("ada", status=1),
            "",
            "counts 1001 of 1000",
            id="a unit too many",
        ),
        pytest.param(
            [FOUNDED, count("validator-0"), count("validator-1"), count("validator-2", state="other")],
            Outcome("ada", status=1),
            "",
            "different things",
            id="two truths",
        ),
        pytest.param([FOUNDED], Outcome("ada", status=1), "", "only 0 validators counted", id="no count"),
        pytest.param([], Outcome("ada", status=1), "Traceback (most recent", "the view failed", id="a fault"),
        pytest.param([], Outcome("ada", status=77), "", "exit status 77", id="a strange status"),
    ],
)
def test_mutant_what_must_never_happen_is_noticed(
    tmp_path: Path, events: Sequence[ev.AnyEvent], outcome: Outcome, said: str, problem: str
) -> None:
    found = problems(tmp_path, Heard(*events), outcome, said)
    assert any(problem in words for words in found), found


def test_the_first_violation_ends_it_and_says_how_to_repeat_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def one_run(plan: Plan, arguments: Sequence[str], limit_s: float) -> Outcome:
        return Outcome("ada", 1.0, 2.0, 1, ["supply differs"] if plan.number == 3 else [], 4)

    monkeypatch.setattr(chaos, "one_run", one_run)
    assert chaos.main(["--runs", "9", "--seed", "5"]) == 1
    out, err = capsys.readouterr()
    assert out.count("killed ada") == 3
    assert "--runs 1 --model scripted --seed 5 --first 3" in err
    assert chaos.main(["--runs", "2", "--seed", "5"]) == 0
