"""A member pushes pages of HANDOFFs that nobody asked for, while an epoch closes."""

from __future__ import annotations

from typing import Any

import pytest

from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.voting import epochs
from ainp2p.ledger.voting.attachments import PAGE, attachment_id
from ainp2p.ledger.voting.epoch_end import EARLY_MAX, EpochEnd
from ainp2p.ledger.voting.epochs import Closing, Epochal
from ainp2p.protocol.codec import encode

from .world import key_of


def names_looked_at(monkeypatch: pytest.MonkeyPatch) -> int:
    """How many attachments are hashed by the core for one page of junk, when many have come."""
    committee = Committee(tuple(sorted(key_of(f"v{i}").public for i in range(4))), (1, 1, 1, 1))
    closing = Closing(
        Epochal(bytes(32), 0, committee, lambda epoch: committee, bytes(32)),
        {},
        lambda id_: None,
        lambda id_: (0, id_),
    )
    end = EpochEnd.__new__(EpochEnd)
    end._early, end.closing = {}, closing
    for i in range(EARLY_MAX):
        end.take_attachment(encode([PAGE, i.to_bytes(4, "big")]))
    hashed = 0

    def counted(raw: bytes) -> bytes:
        nonlocal hashed
        hashed += 1
        return attachment_id(raw)

    monkeypatch.setattr(epochs, "attachment_id", counted)
    end.take_attachment(encode([PAGE, b"one more"]))
    return hashed


def test_junk_pages_cost_a_look_at_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert names_looked_at(monkeypatch) == 0


def test_mutant_all_that_came_is_tried_again_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    def feed(self: Any) -> None:
        for _ in range(2):
            for raw in list(self._early.values()):
                self.closing.attached(raw)

    monkeypatch.setattr(EpochEnd, "_feed", feed)
    assert names_looked_at(monkeypatch) >= 2 * EARLY_MAX
