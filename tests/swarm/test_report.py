"""report.json: what it says after a story, that it is read back, and that it is written whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ainp2p.errors import InvalidInput
from ainp2p.swarm import events as ev
from ainp2p.swarm.board import Board
from ainp2p.swarm.report import POINTS_MAX, from_json, make_report, to_json, write
from tests.swarm.story import START_MS, story
from tests.swarm.test_board import board_after


def test_a_report_is_read_back_as_it_was_written() -> None:
    report = make_report(board_after(story()))
    assert from_json(to_json(report)) == report
    assert json.loads(to_json(report))["held"] is True


def test_the_report_says_what_happened() -> None:
    report = make_report(board_after(story()))
    assert report.took_ms == 3200
    assert [(c.name, c.held) for c in report.checks] == [("supply", True)]
    assert [(f.buyer, f.seller, f.amount) for f in report.flows] == [
        ("cleo", "ada", 16),
        ("cleo", "bela", 24),
    ]
    assert [(d.path, d.refused) for d in report.documents] == [
        ("docs/a.md", ""),
        ("docs/b.png", ".png is neither text nor Markdown"),
    ]
    [task] = report.tasks
    assert (task.sellers, task.units, task.paid, task.took_ms) == (("ada", "bela"), 20, 40, 2500)
    assert task.sources[0].quote == "A Lock is a deposit."
    assert [(p.phase, p.p50_us) for p in report.latencies] == [("discover", 1_000), ("negotiate", 20_000)]


def test_the_kill_tells_what_was_kept_and_lost() -> None:
    [kill] = make_report(board_after(story())).kills
    assert (kill.seller, kill.at_ms, kill.task) == ("ada", 600, "t1")
    assert [(t.kept, t.lost, t.step) for t in kill.takeovers] == [(8, 3, 32)]
    assert kill.wallet is not None
    assert (kill.wallet.closed, kill.wallet.collected) == (1, 16)


def test_rates_are_counted_in_bins_without_gaps() -> None:
    rates = {series.name: series.points for series in make_report(board_after(story())).rates}
    assert rates == {"ada": ((0, 8), (1000, 0), (2000, 0)), "bela": ((0, 0), (1000, 0), (2000, 12))}


def test_a_supply_that_does_not_add_up_shows_by_how_much() -> None:
    board = Board()
    board.apply(
        ev.SupplyChecked(at_ms=1, validator="v", minted=100, balances=90, credits=5, locks=4, burnt=2)
    )
    assert make_report(board).supply[0].difference == 1


@pytest.mark.parametrize("until", range(0, len(story()), 4))
def test_an_interrupted_run_has_a_report_that_does_not_claim_success(until: int) -> None:
    report = make_report(board_after(story()[:until]))
    assert not report.held
    assert from_json(to_json(report)) == report


def test_a_failed_check_is_not_outvoted_by_the_end() -> None:
    events = [*story(held=False)[:-1], ev.SwarmEnded(at_ms=START_MS + 3200, held=True)]
    assert not make_report(board_after(events)).held


def test_a_long_balance_series_is_thinned_to_its_turns() -> None:
    board = Board()
    for i in range(5_000):
        board.apply(ev.BalanceKnown(at_ms=i, name="ada", available=i // 2500, locked=0, owed=0))
    [series] = make_report(board).balances
    assert series.points == ((0, 0), (2499, 0), (2500, 1), (4999, 1))


def test_a_restless_balance_series_keeps_its_ends() -> None:
    board = Board()
    for i in range(5_000):
        board.apply(ev.BalanceKnown(at_ms=i, name="ada", available=i % 7, locked=0, owed=0))
    [series] = make_report(board).balances
    assert len(series.points) == POINTS_MAX
    assert (series.points[0][0], series.points[-1][0]) == (0, 4999)


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b'{"version":2}'])
def test_what_is_no_report_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        from_json(data)


def test_a_report_of_another_version_is_refused() -> None:
    data = to_json(make_report(Board())).replace(b'"version": 1', b'"version": 2')
    with pytest.raises(InvalidInput, match="version 2"):
        from_json(data)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "report.json"
    write(target, b"first")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(target, b"second")
    assert target.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [target]
