"""What the view does about a swarm: phases, the kill, deadlines, and whatever dies meanwhile."""

from __future__ import annotations

import msgspec
import pytest

from ainp2p.swarm import events as ev
from ainp2p.swarm.board import Board
from ainp2p.swarm.director import LIMITS_MS, Action, Director, Kill, Send, StartAuditor
from ainp2p.swarm.line import Ask, Audit, Close, Gone, Reopen
from ainp2p.swarm.spec import AUDITOR, CREATOR, EMBEDDING_SELLER, Spec

WORK_MS = 60_000
SPEC = Spec(
    directory="somewhere",
    paths=("a.md",),
    validators=("validator-1", "validator-2", "validator-3", "validator-4"),
    text_sellers=("ada", "bela"),
    buyers=("rosa", "sam"),
    text_model="scripted",
    embedding_model="scripted",
    threads=1,
    budget=1000,
    seed=1,
    parts=8,
    keep=False,
)


class Stage:
    """A director with what it is told, and what it wanted."""

    def __init__(self, spec: Spec = SPEC, *, kill: bool = True) -> None:
        self.board = Board()
        self.director = Director(spec, self.board, question="why?", work_ms=WORK_MS, kill=kill)
        self.now = 0
        self.wanted: list[Action] = []

    @property
    def phase(self) -> str:
        return self.director.phase

    def hear(self, event: ev.AnyEvent) -> list[Action]:
        self.board.apply(event)
        return self._note(self.director.step(self.now, event))

    def end(self, name: str) -> list[Action]:
        self.director.ended.add(name)
        return self._note(self.director.step(self.now))

    def wait(self, ms: int) -> list[Action]:
        self.now += ms
        return self._note(self.director.step(self.now))

    def _note(self, actions: list[Action]) -> list[Action]:
        self.wanted += actions
        return actions

    # --- what the processes say -------------------------------------------------------------------

    def start(self) -> None:
        for name in SPEC.validators:
            self.hear(ev.PeerUp(at_ms=0, name=name, role="validator", peer="p", pid=1))
        for name in SPEC.sellers:
            self.hear(ev.PeerUp(at_ms=0, name=name, role="seller", peer="p", pid=2, account="ain:x"))
        for name in SPEC.buyers:
            self.hear(ev.PeerUp(at_ms=0, name=name, role="buyer", peer="p", pid=3, account="ain:y"))
        self.end(CREATOR)

    def open_tasks(self, count: int) -> None:
        for number in range(count):
            self.hear(ev.TaskOpened(at_ms=0, task=f"t{number}", buyer="rosa", skill="summarise", subject="x"))

    def stream(self, task: str, seller: str = "ada", units: int = 4) -> list[Action]:
        return self.hear(ev.Progress(at_ms=0, task=task, seller=seller, units=units))

    def reach(self, name: str, stage: ev.Stage) -> list[Action]:
        return self.hear(ev.StageReached(at_ms=0, name=name, stage=stage))


def started(*, kill: bool = True) -> Stage:
    stage = Stage(kill=kill)
    stage.start()
    return stage


def test_a_run_goes_through_all_phases_and_ends() -> None:
    stage = started(kill=False)
    assert stage.phase == "working"
    assert stage.reach("rosa", "done") == []
    assert stage.reach("sam", "done") == [StartAuditor(), Send("rosa", Ask(question="why?"))]
    assert stage.reach("rosa", "asked") == [Send(name, Close()) for name in SPEC.sellers]
    for name in SPEC.sellers:
        stage.reach(name, "closed")
    assert stage.wanted[-1] == Send(AUDITOR, Audit())
    stage.reach(AUDITOR, "audited")
    assert stage.phase == "over"
    assert stage.director.late == []


def test_half_way_a_seller_is_killed_in_the_middle_of_a_title_and_only_one() -> None:
    stage = started()
    stage.open_tasks(4)
    assert stage.stream("t0") == []
    assert stage.stream("t1", units=3) == []  # half-way, but hardly anything to hand on
    assert stage.stream("t1", units=1) == [Kill("ada", "t1"), StartAuditor()]
    stage.hear(ev.SellerKilled(at_ms=0, name="ada", task="t1"))
    assert stage.stream("t2", "bela") == []


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(ev.Progress(at_ms=0, task="t1", seller="mina", units=9, unit="item"), id="no tokens"),
        pytest.param(ev.Progress(at_ms=0, task="t1", seller="stranger", units=9), id="no seller of text"),
        pytest.param(ev.Note(at_ms=0, text="x"), id="no progress"),
    ],
)
def test_nobody_else_is_killed(event: ev.AnyEvent) -> None:
    stage = started()
    stage.open_tasks(1)
    assert stage.hear(event) == []


def test_the_last_seller_of_text_is_never_killed() -> None:
    stage = started()
    stage.open_tasks(1)
    stage.end("bela")
    assert stage.stream("t0") == []


def test_with_one_seller_of_text_no_kill_is_planned() -> None:
    one = msgspec.structs.replace(SPEC, text_sellers=("ada",))
    assert not Stage(one).director.kills


def test_dead_sellers_wallets_are_reopened_before_the_count() -> None:
    stage = started()
    stage.end("ada")
    for name in SPEC.buyers:
        stage.reach(name, "done")
    stage.reach("rosa", "asked")
    for name in ("bela", EMBEDDING_SELLER):
        stage.reach(name, "closed")
    assert stage.wanted[-1] == Send(AUDITOR, Reopen(name="ada"))
    assert stage.phase == "reopening"
    assert stage.reach("ada", "reopened") == [Send(AUDITOR, Audit())]


def test_dead_buyers_are_not_waited_for() -> None:
    stage = started()
    stage.end("rosa")
    stage.reach("sam", "done")
    assert Send("sam", Ask(question="why?")) in stage.wanted
    stage.end("sam")
    assert stage.phase == "closing"


def test_when_the_buyer_that_was_asked_dies_the_next_one_is() -> None:
    stage = started()
    for name in SPEC.buyers:
        stage.reach(name, "done")
    assert Send("rosa", Ask(question="why?")) in stage.wanted
    assert stage.end("rosa") == [Send("sam", Ask(question="why?"))]


def test_an_auditor_that_dies_is_replaced_once() -> None:
    stage = started()
    for name in SPEC.buyers:
        stage.reach(name, "done")
    assert stage.wanted.count(StartAuditor()) == 1
    assert stage.end(AUDITOR) == [StartAuditor()]
    assert stage.end(AUDITOR) == []


def test_a_new_auditor_is_told_everything_again() -> None:
    stage = started(kill=False)
    for name in SPEC.buyers:
        stage.reach(name, "done")
    stage.reach("rosa", "asked")
    for name in SPEC.sellers:
        stage.reach(name, "closed")
    assert stage.end(AUDITOR) == [StartAuditor(), Send(AUDITOR, Audit())]


def test_without_a_committee_nobody_counts_and_the_run_is_over() -> None:
    stage = Stage()
    for name in (*SPEC.names, CREATOR):
        stage.end(name)
    assert stage.phase == "over"
    assert StartAuditor() not in stage.wanted


def test_every_phase_has_its_deadline_and_a_silent_swarm_ends() -> None:
    stage = started(kill=False)
    waited = 0
    while stage.phase != "over":
        stage.wait(1_000)
        waited += 1_000
        assert waited <= WORK_MS + sum(LIMITS_MS.values()) + 10_000
    assert stage.director.late == ["working", "asking", "closing", "auditing"]


def test_a_creator_that_hangs_is_not_waited_for_for_ever() -> None:
    stage = Stage()
    stage.wait(0)
    stage.wait(LIMITS_MS["starting"] + 1)
    assert stage.director.late == ["starting"]


def test_the_run_is_not_over_before_buyers_have_heard_that_their_locks_ended() -> None:
    stage = started(kill=False)
    stage.hear(ev.BalanceKnown(at_ms=0, name="sam", available=1, locked=9, owed=0))
    for name in SPEC.buyers:
        stage.reach(name, "done")
    stage.reach("rosa", "asked")
    for name in SPEC.sellers:
        stage.reach(name, "closed")
    stage.reach(AUDITOR, "audited")
    assert stage.phase == "auditing"
    stage.hear(ev.BalanceKnown(at_ms=0, name="sam", available=10, locked=0, owed=0))
    assert stage.phase == "over"


def test_a_dead_seller_is_reopened_with_the_locks_that_buyers_say_pay_it() -> None:
    stage = started()
    for lock, payee in (("ain:2", "ain:x"), ("ain:1", "ain:x"), ("ain:3", "ain:other")):
        stage.hear(ev.LockOpened(at_ms=0, lock=lock, buyer="rosa", payee=payee, deposit=5))
    assert stage.director.reopening("ada") == Reopen(name="ada", locks=("ain:1", "ain:2"))


def test_sellers_that_were_paid_and_have_not_closed_are_named() -> None:
    stage = started()
    for name in ("ada", "bela", "mina"):
        stage.hear(ev.ReceiptSigned(at_ms=0, buyer="rosa", seller=name, lock="l", cumulative=1, added=1))
    assert stage.director.unsettled() == ["ada", "bela", "mina"]
    stage.reach("bela", "closed")
    stage.hear(ev.WalletReopened(at_ms=0, name="ada", locks=1, closed=1, collected=1))
    assert stage.director.unsettled() == ["mina"]


def test_a_command_is_given_once() -> None:
    stage = started(kill=False)
    for name in SPEC.buyers:
        stage.reach(name, "done")
    stage.reach("rosa", "asked")
    for _ in range(5):
        stage.wait(10)
    assert sum(isinstance(action, Send) and action.command == Close() for action in stage.wanted) == 3


# --- who is gone ----------------------------------------------------------------------------------


def test_buyers_hear_once_of_a_seller_that_died_even_before_there_is_a_market() -> None:
    stage = Stage()
    wanted = stage.end(EMBEDDING_SELLER)
    gone = Gone(name=EMBEDDING_SELLER)
    assert wanted == [Send("rosa", gone), Send("sam", gone)]
    assert stage.wait(100) == []


def test_a_buyer_that_died_itself_is_not_told() -> None:
    stage = Stage()
    stage.start()
    stage.end("sam")
    assert stage.end("ada") == [Send("rosa", Gone(name="ada"))]
