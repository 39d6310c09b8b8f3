"""The verdict: a run in which all held, and every way in which it does not."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from ainp2p.swarm import events as ev
from ainp2p.swarm.board import Board
from ainp2p.swarm.checks import supply_errors, verdicts
from ainp2p.swarm.spec import CREATOR

from .test_director import SPEC

Story = list[ev.AnyEvent]


def good_story() -> Story:
    """A run in which everything held: ada was killed, bela went on."""
    story: Story = [ev.PeerDown(at_ms=1, name=CREATOR, reason="finished")]
    story += [ev.PeerUp(at_ms=1, name=n, role="validator", peer="p", pid=1) for n in SPEC.validators]
    story += [ev.PeerUp(at_ms=1, name=n, role="seller", peer="p", pid=1) for n in SPEC.sellers]
    story += [ev.PeerUp(at_ms=1, name=n, role="buyer", peer="p", pid=1) for n in SPEC.buyers]
    story += [
        ev.TaskOpened(at_ms=2, task="t1", buyer="rosa", skill="summarise", subject="x"),
        ev.ReceiptSigned(at_ms=2, buyer="rosa", seller="ada", lock="l1", cumulative=8, added=8),
        ev.SellerKilled(at_ms=3, name="ada", task="t1"),
        ev.PeerDown(at_ms=3, name="ada", reason="killed"),
        ev.TaskTakenOver(at_ms=4, task="t1", seller_before="ada", seller="bela", kept=4, lost=0, step=32),
        ev.ReceiptSigned(at_ms=4, buyer="rosa", seller="bela", lock="l2", cumulative=20, added=20),
        ev.Answered(at_ms=5, task="t1", answer="Salt", units=14, paid=28),
        ev.TaskMoved(at_ms=5, task="t1", state="completed"),
        ev.TaskOpened(at_ms=6, task="ask", buyer="rosa", skill="ask", subject="why?"),
        ev.Answered(at_ms=6, task="ask", answer="Because.", sources=(ev.Source("a.md", 1, 1),), paid=3),
        ev.TaskMoved(at_ms=6, task="ask", state="completed"),
        ev.BalanceKnown(at_ms=7, name="bela", available=20, locked=0, owed=0),
        ev.BalanceKnown(at_ms=7, name="mina", available=0, locked=0, owed=0),
        ev.WalletReopened(at_ms=8, name="ada", locks=1, closed=1, collected=8),
    ]
    return story + [count(name) for name in SPEC.validators]


def count(validator: str, **changed: int | str) -> ev.SupplyChecked:
    counted = ev.SupplyChecked(
        at_ms=9, validator=validator, minted=1000, balances=900, credits=95, locks=0, burnt=5, state="root"
    )
    return msgspec.structs.replace(counted, **changed)


def failed(story: Story, *, kills: bool = True, late: tuple[str, ...] = ()) -> list[str]:
    board = Board()
    for event in story:
        board.apply(event)
    found = verdicts(SPEC, board, kills=kills, late=late)
    assert len({verdict.check for verdict in found}) == len(found)
    return [verdict.check for verdict in found if not verdict.held]


def test_a_good_run_is_found_good() -> None:
    assert failed(good_story()) == []


def without(kind: type[ev.AnyEvent], **fields: object) -> Callable[[Story], Story]:
    def change(story: Story) -> Story:
        return [
            event
            for event in story
            if not (isinstance(event, kind) and all(getattr(event, k) == v for k, v in fields.items()))
        ]

    return change


def plus(*events: ev.AnyEvent) -> Callable[[Story], Story]:
    return lambda story: [*story, *events]


@pytest.mark.parametrize(
    ("change", "check"),
    [
        pytest.param(
            plus(ev.TaskMoved(at_ms=9, task="t1", state="failed", detail="nobody")),
            "every task was completed",
            id="a task failed",
        ),
        pytest.param(
            plus(ev.TaskOpened(at_ms=9, task="t2", buyer="sam", skill="summarise", subject="y")),
            "every task was completed",
            id="a task was never ended",
        ),
        pytest.param(
            plus(ev.Answered(at_ms=9, task="ask", answer="Because.", paid=3)),
            "the question was answered with sources and a bill",
            id="an answer without sources",
        ),
        pytest.param(
            plus(ev.PeerDown(at_ms=9, name=CREATOR, reason="crashed")),
            "the creator left, and the others went on",
            id="the creator crashed",
        ),
        pytest.param(
            without(ev.TaskTakenOver),
            "a seller was killed half-way, and its work went on elsewhere",
            id="nobody went on",
        ),
        pytest.param(
            plus(
                ev.TaskTakenOver(
                    at_ms=9, task="t1", seller_before="ada", seller="bela", kept=0, lost=33, step=32
                )
            ),
            "what was paid and not delivered is at most the step",
            id="too much was lost",
        ),
        pytest.param(
            without(ev.WalletReopened),
            "the killed seller's wallet was reopened and its Locks closed",
            id="the wallet stayed closed",
        ),
        pytest.param(
            plus(ev.WalletReopened(at_ms=9, name="ada", locks=2, closed=1, collected=8)),
            "the killed seller's wallet was reopened and its Locks closed",
            id="a Lock stayed open",
        ),
        pytest.param(
            plus(ev.PeerDown(at_ms=9, name="bela", reason="crashed")),
            "nobody else was lost",
            id="another seller crashed",
        ),
        pytest.param(
            plus(ev.BalanceKnown(at_ms=9, name="bela", available=20, locked=0, owed=7)),
            "everything is settled",
            id="somebody is owed",
        ),
        pytest.param(
            plus(count("validator-1", locks=5, balances=895)), "everything is settled", id="a Lock is left"
        ),
        pytest.param(
            plus(ev.BalanceKnown(at_ms=9, name="bela", available=19, locked=0, owed=0)),
            "sellers hold what buyers signed",
            id="a seller got less than was signed",
        ),
        pytest.param(
            plus(count("validator-2", balances=901)),
            "the supply is right to the last unit at every validator",
            id="a unit too many",
        ),
        pytest.param(
            plus(count("validator-2", state="other")),
            "the supply is right to the last unit at every validator",
            id="another state",
        ),
        pytest.param(
            without(ev.SupplyChecked, validator="validator-3"),
            "the supply is right to the last unit at every validator",
            id="a silent validator",
        ),
    ],
)
def test_mutant_one_broken_promise_is_found_and_no_other(
    change: Callable[[Story], Story], check: str
) -> None:
    assert failed(change(good_story())) == [check]


def test_a_run_that_was_late_did_not_hold() -> None:
    assert failed(good_story(), late=("closing",)) == ["it ended by itself and in time"]


def test_where_no_kill_was_planned_none_is_missed() -> None:
    story: Story = [
        e for e in good_story() if not isinstance(e, ev.SellerKilled | ev.PeerDown | ev.TaskTakenOver)
    ]
    story.append(ev.PeerDown(at_ms=9, name=CREATOR, reason="finished"))
    story.append(ev.BalanceKnown(at_ms=9, name="ada", available=8, locked=0, owed=0))
    assert failed(story, kills=False) == []


def test_nothing_at_all_is_no_good_run() -> None:
    found = failed([])
    assert "every task was completed" in found
    assert "the supply is right to the last unit at every validator" in found


def test_supply_errors_say_who_counts_what() -> None:
    board = Board()
    board.apply(count("validator-1"))
    assert supply_errors(board) == []
    board.apply(count("validator-2", burnt=4))
    assert supply_errors(board) == ["validator-2 counts 999 of 1000 uain"]
