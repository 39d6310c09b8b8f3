from __future__ import annotations

import pytest

from ainp2p.ledger.serving import back_pressure as module
from ainp2p.ledger.serving.back_pressure import BACKLOG_MAX, WAITING_MAX, BackPressure
from ainp2p.ledger.serving.intake import Intake

from .test_intake import MEMBERS, operation, weigh


class Held:
    """A network that notes whom it does not read."""

    def __init__(self) -> None:
        self.back: dict[str, float] = {}

    def hold_back(self, peer: str, for_s: float) -> None:
        self.back[peer] = max(self.back.get(peer, 0), for_s)

    def read_on(self, peer: str) -> None:
        self.back.pop(peer, None)


def filled(held: Held, count: int, peer: str = "spam") -> Intake:
    intake = Intake(MEMBERS, weigh, BackPressure(held))
    for number in range(count):
        intake.add(operation(number, 1, number), peer, peer, lambda problem: None, 0)
    return intake


def test_who_has_a_backlog_is_not_read_until_half_of_it_is_worked_off() -> None:
    held = Held()
    intake = filled(held, BACKLOG_MAX)
    assert held.back == {"spam": module.BACKLOG_PAUSE_S}
    for _ in range(BACKLOG_MAX // 2 - 1):
        intake.pop(0)
    assert held.back
    intake.pop(0)
    assert not held.back


def test_who_has_less_waiting_is_read() -> None:
    held = Held()
    filled(held, BACKLOG_MAX - 1)
    assert not held.back


def test_members_are_always_read() -> None:
    held = Held()
    filled(held, 2 * BACKLOG_MAX, "member 1")
    assert not held.back


def test_who_is_told_busy_is_not_read_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ainp2p.ledger.serving.intake.SUBMITTED_MAX", 10)
    held = Held()
    filled(held, 11)
    assert held.back == {"spam": module.BUSY_PAUSE_S}


def test_nobody_is_counted_for_what_has_gone() -> None:
    pressure = BackPressure(Held())
    for _ in range(WAITING_MAX):
        assert not pressure.is_full("spam")
        pressure.waits("spam")
    assert pressure.is_full("spam")
    for _ in range(WAITING_MAX):
        pressure.served("spam")
    assert not pressure.is_full("spam")
    assert not pressure._waiting


def test_a_network_that_cannot_hold_back_is_only_counted_for() -> None:
    pressure = BackPressure(object())
    for _ in range(BACKLOG_MAX):
        pressure.waits("spam")
        pressure.busy("spam")
    for _ in range(BACKLOG_MAX):
        pressure.served("spam")


def test_mutant_without_a_bound_on_the_backlog_nobody_is_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKLOG_MAX", 10**9)
    with pytest.raises(AssertionError):
        test_who_has_a_backlog_is_not_read_until_half_of_it_is_worked_off()
