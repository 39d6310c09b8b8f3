"""A slot that an epoch before left prepared, at a validator that restarts before it is decided."""

from __future__ import annotations

import pytest

from ainp2p.ledger.voting import validator as core
from ainp2p.ledger.voting.slot import Slot, SlotId
from ainp2p.ledger.voting.validator import Validator
from tests.ledger.test_epochs_simulation import Storm

SEED = 1  # in its storm slots are left prepared


def inherited(validator: Validator) -> dict[SlotId, Slot]:
    return {slot_id: slot for slot_id, slot in validator._table.slots.items() if slot.inherited is not None}


def found() -> tuple[Storm, int]:
    """A storm, and a validator in it that has begun an epoch with slots at view 1 which are not decided."""
    storm = Storm(SEED)
    for _ in range(6_000):
        storm.world.run(10)
        for node in storm.world.nodes:
            if node.validator is not None and inherited(node.validator):
                return storm, node.index
    raise AssertionError("no slot was inherited")


def restarted() -> tuple[dict[SlotId, Slot], dict[SlotId, Slot]]:
    """What it had inherited before and after its restart."""
    storm, index = found()
    before = inherited(storm.world.validator(index))
    storm.world.crash(index)
    return before, inherited(storm.world.start(index))


def test_a_slot_that_was_inherited_starts_at_view_one_after_a_restart_too() -> None:
    before, after = restarted()
    assert before.keys() == after.keys()
    for slot_id, slot in after.items():
        assert slot.inherited == before[slot_id].inherited
        assert slot.promised >= 1, "a LOCK in view 0 would contradict what the epoch before may have decided"


def test_what_was_inherited_is_decided_although_all_restart() -> None:
    storm, _ = found()
    world = storm.world
    slots = {slot_id for validator in world.alive for slot_id in inherited(validator)}
    for node in world.nodes:
        world.crash(node.index)
        world.start(node.index)
    storm.calm()
    for validator in world.alive:
        assert all(validator.state.head(object_)[0] >= seq for object_, seq in slots)


def test_mutant_a_restart_that_forgets_what_was_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    storm, index = found()
    monkeypatch.setattr(core.Validator, "_take_up_inheritance", lambda self, now: [])
    storm.world.crash(index)
    assert not inherited(storm.world.start(index))
