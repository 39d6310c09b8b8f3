"""A HANDOFF that forgets a COMMIT: found while the epoch closes, told to all, and paid for with the seat."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from ainp2p.errors import InvalidOperation
from ainp2p.ledger.rules.operations import EndEpoch, SignedOperation, parse
from ainp2p.ledger.voting import evidence as judging
from ainp2p.ledger.voting.attachments import EVIDENCE, attachment_tag
from ainp2p.ledger.voting.attested import attest
from ainp2p.ledger.voting.certificate import pack_place
from ainp2p.ledger.voting.effects import TWO_OPERATIONS, Effects
from ainp2p.ledger.voting.evidence import FORGOTTEN_COMMIT, Evidence, verify_evidence
from ainp2p.ledger.voting.examining import RECORDS_MAX, Examiner
from ainp2p.ledger.voting.handoff import Leaving, read_handoff
from ainp2p.ledger.voting.omissions import Report
from ainp2p.ledger.voting.slot import Candidate, Slot
from ainp2p.ledger.voting.votelog import COMMIT, HANDOFF
from ainp2p.protocol.codec import encode

from .epoch_world import EpochWorld
from .test_epochs_simulation import QUICK, Storm

FIVE = (2, 2, 2, 2, 2)  # without one of them four go on
CULPRIT, HESITANT = 4, 2


class GossipWorld(EpochWorld):
    """Evidence is pushed to the others, as a validator's shell does; what each has found is noted."""

    def act(self, index: int, step: Callable[[], Effects]) -> Effects:
        effects = super().act(index, step)
        self.told: list[tuple[int, Evidence]] = getattr(self, "told", [])
        for evidence in effects.evidence:
            self.told.append((index, evidence))
            for other in self._others(index):
                self.send_attachment(index, other, encode(evidence))
        return effects

    def knowing(self, kind: int = FORGOTTEN_COMMIT) -> set[int]:
        return {index for index, evidence in self.told if evidence.kind == kind}


Change = Callable[[Leaving], Leaving]


def without(world: GossipWorld, name: str) -> Change:
    """A HANDOFF in which there is nothing of somebody's account."""

    def change(leaving: Leaving) -> Leaving:
        id_ = world.ids[name]
        frontier = {object_: head for object_, head in leaving.frontier.items() if object_ != id_}
        committed = {slot: raw for slot, raw in leaving.committed.items() if slot[0] != id_}
        prepared = {slot: raw for slot, raw in leaving.prepared.items() if slot[0] != id_}
        return Leaving(frontier, committed, prepared)

    return change


def hand_over(world: GossipWorld, index: int, change: Change) -> None:
    """What this member hands over at its epoch's end is changed so."""
    end = world.validator(index)._end
    leaving = end._leaving
    end._leaving = lambda: None if (honest := leaving()) is None else change(honest)  # type: ignore[method-assign]


def hold_back_commits(world: GossipWorld, index: int) -> None:
    """This member COMMITs on nothing but the System until the epoch is over."""
    decider = world.validator(index)._decider
    commit = decider._commit

    def only_system(candidate: Candidate, slot: Slot, view: int, now: int) -> None:
        if candidate.slot[0] == world.network:
            commit(candidate, slot, view, now)

    decider._commit = only_system  # type: ignore[method-assign]


def decided_world() -> GossipWorld:
    """One leaves out what it has COMMITted on, and what is final everywhere."""
    world = GossipWorld(FIVE, parameters=QUICK)
    hand_over(world, CULPRIT, without(world, "alice"))
    world.decide(world.spend("alice", [("bob", 1)]))
    return world


def undecided_world() -> tuple[GossipWorld, SignedOperation]:
    """One leaves out what it has COMMITted on, and what nobody can know to be final."""
    world = GossipWorld(FIVE, parameters=QUICK)
    world.run(1_000)
    world.crash(3)
    hold_back_commits(world, HESITANT)
    hand_over(world, CULPRIT, without(world, "alice"))
    signed = world.spend("alice", [("bob", 1)])
    world.submit(signed)
    world.run(500)
    assert not any(world.is_final(parse(signed).id, [i]) for i in (0, 1, HESITANT, CULPRIT))
    return world, signed


def seats_lost(world: GossipWorld) -> set[bytes]:
    return {key for validator in world.alive for key in validator.state.system.barred}


def test_what_was_final_and_is_left_out_costs_the_seat_in_the_next_epoch() -> None:
    world = decided_world()
    world.turn(1)
    assert seats_lost(world) == {world.keys[CULPRIT].public}
    assert all(world.keys[CULPRIT].public not in validator.committee.index for validator in world.alive)
    world.run_until(lambda: all(world.validator(i).voting for i in range(4)))
    world.decide(world.spend("bob", [("carol", 1)]))
    world.demand_equal()


def test_what_was_undecided_and_is_left_out_costs_the_seat_and_is_decided_all_the_same() -> None:
    world, signed = undecided_world()
    world.turn(1)
    assert seats_lost(world) == {world.keys[CULPRIT].public}
    world.start(3)
    world.run_until(lambda: world.is_final(parse(signed).id))
    world.demand_equal()


def test_who_cannot_find_it_is_told() -> None:
    world = decided_world()
    for index in (0, 1, 2):
        examiner = world.validator(index)._end._examiner
        examiner.examine = lambda closing: []  # type: ignore[method-assign]
    world.run_until(lambda: world.knowing() >= {0, 1, 2, 3}, 20_000)
    world.turn(2)  # the next COMMITTEE may have been proposed before
    assert seats_lost(world) == {world.keys[CULPRIT].public}


def test_anybody_can_judge_it_offline() -> None:
    world = decided_world()
    world.turn(1)
    for _, evidence in world.told:
        committees = world.validator(0).state.committee
        offence = verify_evidence(evidence, world.network, committees, world._find_attachment)
        assert (offence.kind, offence.culprit) == (FORGOTTEN_COMMIT, world.keys[CULPRIT].public)


def test_it_is_found_after_a_restart_too() -> None:
    world, _ = undecided_world()
    world.run_until(lambda: any(v.state.system.closed for v in world.alive), 20_000)
    for index in (0, 1):
        world.crash(index)
        world.start(index)
    world.turn(1)
    assert seats_lost(world) == {world.keys[CULPRIT].public}


def test_an_operation_that_comes_late_is_compared_then(monkeypatch: pytest.MonkeyPatch) -> None:
    world, signed = undecided_world()
    end = world.validator(0)._end
    examine = end._examiner.examine
    monkeypatch.setattr(Examiner, "examine", lambda self, closing: [])
    world.run_until(lambda: end.closing is not None and len(end.closing.usable) == 4, 20_000)
    assert end.closing is not None
    candidate = world.validator(0)._table.candidates[parse(signed).id]
    parsed, candidate.parsed = candidate.parsed, None  # its bytes are not here yet
    assert examine(end.closing) == []
    assert examine(end.closing) == []
    candidate.parsed = parsed
    assert [evidence.kind for evidence in examine(end.closing)] == [FORGOTTEN_COMMIT]


def test_of_one_log_few_handoffs_are_looked_at() -> None:
    world = GossipWorld(FIVE)
    examiner = world.validator(0)._end._examiner
    for number in range(100):
        examiner.recorded(number.to_bytes(32, "big"), pack_place(1, number + 1, 0))
        examiner.recorded(number.to_bytes(32, "little"), pack_place(2, number + 1, 0))
    assert len(examiner._records) == 2 * RECORDS_MAX


@pytest.mark.parametrize("seed", range(4))
def test_in_no_storm_is_anybody_accused_who_follows_the_protocol(seed: int) -> None:
    storm = Storm(seed, storm_ms=12_000)
    storm.calm()
    for validator in storm.world.alive:
        assert {kind for kind, _ in validator._archive.culprits} <= {TWO_OPERATIONS}
        assert validator.state.system.barred == ()


def blamed_for_the_end_of_the_epoch(world: GossipWorld, index: int) -> Evidence:
    """Everybody COMMITs END-EPOCH and then hands over a frontier in which the System is not."""
    validator = world.validator(index)
    key, journal = world.keys[index].public, world.nodes[0].journal
    end = next(p for p in journal.order if isinstance(p.operation.body, EndEpoch))
    places: dict[int, bytes] = {}
    for height in range(1, validator.heights()[key] + 1):
        batch = world.validator(0)._archive.batch(validator._member, height, 0)
        for position, (kind, _, id_) in enumerate(batch.votes):
            if kind == HANDOFF or (kind == COMMIT and id_ == end.id):
                places[kind] = encode(attest(batch, position))
    closing = world.validator(0)._end.closing
    assert closing is not None
    shown = closing.shown(world.validator(0)._end._recorded[validator._member])
    assert shown is not None
    report = Report(read_handoff(shown.attachments[0]), shown.attachments[1:], shown.frontier)
    omission = report.omission((world.network, 1), (0, 0), False)
    assert omission is not None
    items = (places[COMMIT], places[HANDOFF], end.raw, encode(omission), shown.attachments[0])
    return Evidence(FORGOTTEN_COMMIT, key, items, 0)


def closing_world() -> GossipWorld:
    world = GossipWorld(FIVE, parameters=QUICK)
    world.decide(world.spend("alice", [("bob", 1)]))
    world.run_until(lambda: all(v.state.system.closed for v in world.alive), 20_000)
    closing = partial(getattr, world.validator(0)._end, "closing")
    world.run_until(lambda: (found := closing()) is not None and len(found.usable) == 5, 20_000)
    return world


def test_nobody_is_guilty_of_leaving_out_the_system() -> None:
    world = closing_world()
    evidence = blamed_for_the_end_of_the_epoch(world, 3)
    with pytest.raises(InvalidOperation) as caught:
        verify_evidence(evidence, world.network, world.validator(0).state.committee)
    assert caught.value.rule == "evidence"


# --- planted faults -----------------------------------------------------------------------------------


def test_mutant_a_system_that_a_handoff_has_to_name_makes_everybody_guilty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = closing_world()
    evidence = blamed_for_the_end_of_the_epoch(world, 3)
    demand = judging._demand

    def careless(holds: bool, otherwise: str) -> None:
        demand(holds or "System" in otherwise, otherwise)

    monkeypatch.setattr(judging, "_demand", careless)
    assert verify_evidence(evidence, world.network, world.validator(0).state.committee).culprit


def test_mutant_a_handoff_that_nobody_examines_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Examiner, "examine", lambda self, closing: [])
    world = decided_world()
    world.turn(1)
    assert seats_lost(world) == set()


def test_mutant_heads_that_are_not_looked_up_hide_what_was_final(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Examiner, "_of_head", lambda self, member, id_: iter(()))
    world = decided_world()
    world.turn(1)
    assert seats_lost(world) == set()


def test_mutant_commits_that_are_not_counted_hide_what_was_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Examiner, "_counted", lambda self, member: iter(()))
    world, _ = undecided_world()
    world.turn(1)
    assert seats_lost(world) == set()


def test_mutant_evidence_that_is_not_told_stays_with_who_found_it(monkeypatch: pytest.MonkeyPatch) -> None:
    world = decided_world()
    send = GossipWorld.send_attachment

    def keep(self: GossipWorld, source: int, target: int, raw: bytes) -> None:
        if attachment_tag(raw) != EVIDENCE:
            send(self, source, target, raw)

    monkeypatch.setattr(GossipWorld, "send_attachment", keep)
    examined = world.validator(3)._end._examiner.examine
    monkeypatch.setattr(Examiner, "examine", lambda self, closing: [])
    world.validator(3)._end._examiner.examine = examined  # type: ignore[method-assign]
    world.run_until(lambda: world.knowing() != set(), 20_000)
    world.run(1_000)
    assert world.knowing() == {3}
