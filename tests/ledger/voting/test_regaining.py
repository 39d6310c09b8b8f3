"""Whom a blind member asks. Whole committees with blind members are in tests/ledger/test_blind_members.py."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.voting.effects import Effects
from ainp2p.ledger.voting.regaining import ASK_AT_MOST_EVERY_MS, Regaining
from tests.ledger.committee_world import validator_key

KEYS = sorted(validator_key(i).public for i in range(3))
HANDOFF = b"h" * 32


def asked(committee: Sequence[bytes], holder: bytes, rounds: int = 6) -> list[bytes]:
    """Whom the first of a committee asks for the frontier of a HANDOFF, one after the other."""
    state = SimpleNamespace(network=b"n" * 32, head=lambda object_: (0, object_))
    desk: Any = SimpleNamespace(
        committee=Committee(tuple(committee), (1,) * len(committee)),
        member=0,
        state=state,
        archive=SimpleNamespace(heads=dict),
    )
    inheritance: Any = SimpleNamespace(handoffs={HANDOFF: SimpleNamespace(validator=holder)}, prepared=None)
    regaining, out = Regaining(desk, b"o" * 32, inheritance), Effects()
    for turn in range(rounds):
        regaining.tick(turn * ASK_AT_MOST_EVERY_MS, out)
    return [wanted.member for wanted in out.frontiers if wanted.handoff == HANDOFF]


def test_the_holder_is_asked_first_and_then_the_others_in_turn() -> None:
    assert asked(KEYS, KEYS[2])[:4] == [KEYS[2], KEYS[1], KEYS[2], KEYS[1]]


def test_one_that_sits_alone_asks_those_who_have_left() -> None:
    assert set(asked(KEYS[:1], KEYS[1])) == {KEYS[1]}


def test_one_that_sits_alone_asks_nobody_for_what_is_its_own() -> None:
    assert asked(KEYS[:1], KEYS[0]) == []


def test_mutant_that_asks_members_alone_has_nobody_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_the_committee(self: Regaining, what: bytes, first: bytes) -> bytes:
        order = sorted(self._others, key=lambda key: key != first)
        return order[(self._asked[what] - 1) % len(order)]

    monkeypatch.setattr(Regaining, "_whom", of_the_committee)
    with pytest.raises(ZeroDivisionError):
        asked(KEYS[:1], KEYS[1])
