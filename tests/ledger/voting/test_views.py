from __future__ import annotations

import pytest

from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.voting.slot import Slot, SlotId
from ainp2p.ledger.voting.views import Contest, FirstTimers, Heard, LaterTimers, view_timeout
from ainp2p.ledger.voting.votelog import NewView, Propose
from tests.ledger.world import key_of

T = 2_000
KEYS = tuple(sorted(key_of(f"validator {i}").public for i in range(4)))
EQUAL = Committee(KEYS, (1, 1, 1, 1))  # quorum 3, minority 2
HEAVY = Committee(KEYS, (1, 2, 3, 4))  # quorum 7, minority 4
X, OBJECT = b"x" * 32, b"o" * 32


def newview(view: int, candidate: bytes = X) -> Heard:
    return Heard(NewView(view, OBJECT, 1, None, None, candidate), 1, 0)


def contest(*views: int) -> Contest:
    """Members 0, 1, … have sent NEWVIEWs for these views; 0 stands for none."""
    made = Contest()
    for member, view in enumerate(views):
        if view:
            made.hear(member, newview(view))
    return made


# --- thresholds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("views", "weight", "reached"),
    [
        pytest.param((), 3, 0, id="nobody"),
        pytest.param((1, 1), 3, 0, id="too few"),
        pytest.param((1, 1, 1), 3, 1, id="a quorum"),
        pytest.param((1, 1, 5), 3, 1, id="the lowest of a quorum"),
        pytest.param((4, 2, 5, 3), 3, 3, id="the third highest"),
        pytest.param((9, 1), 2, 1, id="a minority"),
    ],
)
def test_the_highest_view_for_which_or_above_which_so_many_have_spoken(
    views: tuple[int, ...], weight: int, reached: int
) -> None:
    assert contest(*views).view_of(weight, EQUAL) == reached


def test_weights_count_not_heads() -> None:
    assert contest(1, 1, 1).view_of(HEAVY.quorum, HEAVY) == 0
    assert contest(0, 0, 2, 1).view_of(HEAVY.quorum, HEAVY) == 1


def test_a_members_highest_newview_counts_and_a_repeat_is_nothing_new() -> None:
    made = contest(2)
    assert not made.hear(0, newview(2))
    assert not made.hear(0, newview(1))
    assert made.hear(0, newview(3))
    assert list(made.in_view(3)) == [0]
    assert made.in_view(2) == {}


# --- when to go further -----------------------------------------------------------------------------------


def test_without_a_timer_or_company_nobody_goes_anywhere() -> None:
    assert contest().next_view(EQUAL) == 0
    assert contest(7).next_view(EQUAL) == 0  # one may lie


def test_the_timer_of_view_0_leads_to_view_1_and_no_further() -> None:
    made = contest()
    made.expired = 0
    assert made.next_view(EQUAL) == 1
    made.hear(0, newview(1))
    made.expired = 5
    assert made.next_view(EQUAL) == 1


def test_more_than_a_third_are_joined_without_a_timer() -> None:
    assert contest(3, 4).next_view(EQUAL) == 3


def test_the_timer_of_a_view_starts_when_a_quorum_is_there_and_once() -> None:
    made = contest(1, 1)
    assert not made.enter(0, T, EQUAL)
    made.hear(2, newview(2))
    assert made.enter(0, T, EQUAL)
    assert (made.entered, made.deadline) == (1, T)
    assert not made.enter(5, T, EQUAL)
    assert made.deadline == T


def test_a_view_whose_timer_has_ended_does_not_start_it_again() -> None:
    made = contest(1, 1, 1)
    made.enter(0, T, EQUAL)
    made.expired, made.deadline = 1, None
    assert not made.enter(9_000, T, EQUAL)
    assert made.next_view(EQUAL) == 2


@pytest.mark.parametrize(
    ("view", "timeout"), [(0, 2_000), (3, 2_000), (4, 4_000), (8, 8_000), (20, 60_000), (2**32, 60_000)]
)
def test_timeouts_double_every_n_views_up_to_a_minute(view: int, timeout: int) -> None:
    assert view_timeout(T, view, 4) == timeout


def test_what_a_members_last_words_do_not_name_any_more_is_told() -> None:
    made = Contest()
    assert made.rename(0, False, (X,)) == []
    assert made.rename(1, False, (X,)) == []
    assert made.rename(0, False, (b"y" * 32,)) == []  # member 1 names it still
    assert made.rename(1, True, (b"z" * 32,)) == []
    assert made.rename(1, False, ()) == [X]


def test_only_the_highest_proposal_of_a_leader_is_kept() -> None:
    made = Contest()
    proposals = [Propose(view, X, bytes(32), OBJECT, 1) for view in (5, 1, 9)]
    assert [made.propose(0, proposal, 7) for proposal in proposals] == [True, False, True]
    assert made.proposals[0][0].view == 9
    assert made.speakers == {0}
    assert list(made.heights()) == [(0, 7)]


# --- timers -----------------------------------------------------------------------------------------------


def test_timers_of_decided_slots_are_due_never_and_cost_nothing() -> None:
    slots: dict[SlotId, Slot] = {(OBJECT, seq): Slot() for seq in range(1, 4)}
    timers = FirstTimers(slots)
    for seq in range(1, 4):
        timers.add(seq * 10, (OBJECT, seq))
    assert timers.due == 10
    del slots[OBJECT, 1]
    del slots[OBJECT, 2]
    assert timers.due == 30
    assert len(timers) == 1
    assert timers.ended(29) == []
    assert timers.ended(30) == [(OBJECT, 3)]
    assert timers.due is None


def test_later_timers_end_in_the_order_of_their_times() -> None:
    timers = LaterTimers()
    for deadline, seq in ((30, 3), (10, 1), (20, 2)):
        timers.add(deadline, (OBJECT, seq))
    assert timers.due == 10
    assert timers.ended(20) == [(OBJECT, 1), (OBJECT, 2)]
    assert timers.due == 30
    timers.clear()
    assert timers.due is None


def test_f1_a_clock_put_back_makes_no_timer_longer() -> None:
    slots: dict[SlotId, Slot] = {(OBJECT, 1): Slot()}
    timers = FirstTimers(slots)
    timers.add(1_000_000, (OBJECT, 1))
    timers.clock_put_back(5_000)
    assert timers.due == 5_000
