"""The board after a story, after any part of it, and in any order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.swarm import events as ev
from ainp2p.swarm.board import NOTES_MAX, Board, percentile
from ainp2p.swarm.report import make_report
from tests.swarm.story import ONE_OF_EACH, START_MS, story


def board_after(events: list[ev.AnyEvent]) -> Board:
    board = Board()
    for event in events:
        board.apply(event)
    return board


def test_a_task_remembers_who_worked_on_it_and_how_far_it_came() -> None:
    task = board_after(story()).tasks["t1"]
    assert task.sellers == ["ada", "bela"]
    assert (task.units, task.state, task.ended) == (20, "completed", True)
    assert task.ended_ms == START_MS + 2600


def test_receipts_add_up_by_pair() -> None:
    board = board_after(story())
    assert {pair: paid.amount for pair, paid in board.payments.items()} == {
        ("cleo", "ada"): 16,
        ("cleo", "bela"): 24,
    }
    assert (board.receipts, board.paid) == (2, 40)


def test_a_killed_peer_is_down_and_may_come_back() -> None:
    board = board_after(story())
    assert (board.peers["ada"].reason, board.peers["ada"].down_ms) == ("killed", START_MS + 610)
    board.apply(ev.PeerUp(at_ms=START_MS + 700, name="ada", role="seller", peer="12D3KooWA", pid=9))
    assert board.peers["ada"].down_ms is None


def test_tokens_per_second_are_those_of_the_last_two_seconds() -> None:
    board = board_after(story()[:15])
    assert board.tokens_per_s("ada") == 4
    board.apply(ev.Progress(at_ms=START_MS + 2499, task="t1", seller="bela", units=10))
    assert (board.tokens_per_s("ada"), board.tokens_per_s("bela"), board.tokens_per_s()) == (4, 5, 9)
    board.apply(ev.Note(at_ms=START_MS + 2500, text="later"))
    assert board.tokens_per_s("ada") == 0


def test_items_are_no_tokens() -> None:
    board = board_after([ev.Progress(at_ms=1, task="t", seller="ada", units=5, unit="item")])
    assert board.tokens_per_s() == 0
    assert board.tasks["t"].units == 5


def test_a_run_without_checks_has_not_held() -> None:
    assert not Board().held
    assert board_after(story()).held
    assert not board_after(story(held=False)).held


def test_old_notes_are_forgotten() -> None:
    board = board_after([ev.Note(at_ms=i, text=str(i)) for i in range(NOTES_MAX + 5)])
    assert [board.notes[0].text, len(board.notes)] == ["5", NOTES_MAX]


@given(st.lists(st.sampled_from([*story(), *ONE_OF_EACH]), max_size=60))
def test_events_in_any_order_neither_raise_nor_lose_money(events: list[ev.AnyEvent]) -> None:
    board = board_after(events)
    signed = sum(event.added for event in events if isinstance(event, ev.ReceiptSigned))
    assert board.paid == signed == sum(flow.amount for flow in make_report(board).flows)


@pytest.mark.parametrize(
    ("values", "per_mille", "expected"),
    [
        ([7], 500, 7),
        ([7], 990, 7),
        ([1, 2, 3, 4], 500, 2),
        (list(range(1, 101)), 990, 99),
        (list(range(1, 102)), 990, 100),
        ([3, 1, 2], 1000, 3),
    ],
)
def test_percentiles_are_by_nearest_rank(values: list[int], per_mille: int, expected: int) -> None:
    assert percentile(values, per_mille) == expected


def test_a_takeover_that_is_heard_late_does_not_name_a_seller_twice() -> None:
    taken = ev.TaskTakenOver(at_ms=3, task="t", seller_before="ada", seller="bela", kept=1, lost=0, step=8)
    board = board_after(
        [
            ev.TaskMoved(at_ms=1, task="t", state="working", seller="ada"),
            ev.TaskMoved(at_ms=2, task="t", state="working", seller="bela"),
            taken,
        ]
    )
    assert board.tasks["t"].sellers == ["ada", "bela"]
