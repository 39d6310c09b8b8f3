"""Members that enter an epoch blind: without knowing that they have all that the epoch before decided."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec
import pytest

from ainp2p.ledger.rules.operations import ParsedOperation, SignedOperation, parse
from ainp2p.ledger.voting import validator as validator_module
from ainp2p.ledger.voting.desk import Desk
from ainp2p.ledger.voting.effects import Effects
from ainp2p.ledger.voting.epoch_end import FOLLOW_AFTER_MS, RELEASE_AFTER_MS
from ainp2p.ledger.voting.regaining import Regaining, entered_blind, heads_name
from ainp2p.ledger.voting.validator import Validator
from ainp2p.ledger.voting.votelog import Lock, read_entries

from .committee_world import Broken, demand
from .epoch_world import SHORT_EPOCHS, EpochWorld

QUICK = msgspec.structs.replace(SHORT_EPOCHS, epoch_ms=6_000)
LATE, GONE = 1, 3


class Town(EpochWorld):
    """One member was away while epoch 0 ended, and hears of its COMMITTEE before it hears of a payment.

    Attributes:
        withheld: operations that the late one is not given with their certificates.
    """

    def __init__(self, weights: tuple[int, ...] = (1, 1, 1, 1)) -> None:
        self.withheld: set[bytes] = set()
        super().__init__(weights, parameters=QUICK)
        self.auditor.cheats.add(self.ids["alice"])
        self.run(600)
        self.crash(LATE)
        self.others = tuple(index for index in range(4) if index != LATE)
        self.spends = [self.spend("alice", [(to, 1)], at=0) for to in ("bob", "carol")]
        self.paid, self.second = map(parse, self.spends)
        self.submit(self.spends[0], self.others)
        self.run_until(lambda: self.is_final(self.paid.id, self.others))
        self.run_until(lambda: {self.validator(i).epoch for i in self.others} == {1})
        self.run(1_500)
        self.withheld.add(self.paid.id)

    def go_blind(self) -> None:
        """The late one takes the COMMITTEE by its certificate; then one of the others is gone for good."""
        self.start(LATE)
        self.faults.cut = lambda a, b: LATE in (a, b)
        for parsed in self.nodes[0].journal.order:
            if parsed.operation.object == self.network:
                certificate = self.validator(0).certificate(parsed.id)
                assert certificate is not None
                self.act(LATE, partial(self._take_decided, parsed, certificate, self.validator(LATE)))
        self.crash(GONE)
        self.run(RELEASE_AFTER_MS + FOLLOW_AFTER_MS + 1_000)
        late = self.validator(LATE)
        assert (late.epoch, late.blind, late.voting) == (1, True, False)

    def heal(self) -> None:
        self.faults.cut = lambda a, b: False

    def _take_decided(self, parsed: ParsedOperation, certificate: bytes, asking: Validator) -> Effects:
        if parsed.id in self.withheld and asking is self.nodes[LATE].validator:
            return Effects()
        return super()._take_decided(parsed, certificate, asking)

    def _answer_certain(self, holder: int, index: int, id_: bytes, validator: Validator) -> Effects:
        if id_ in self.withheld and index == LATE:
            return Effects()
        return super()._answer_certain(holder, index, id_, validator)

    def pay(self) -> int:
        """How long a payment takes now."""
        return self.decide_among(self.spend("bob", [("carol", 1)], at=0))

    def decide_among(self, signed: SignedOperation) -> int:
        alive = [node.index for node in self.nodes if node.validator is not None]
        id_ = self.submit(signed, alive)
        return self.run_until(lambda: self.is_final(id_, alive), 60_000)

    def demand_no_vote_against_the_union(self) -> None:
        for batch in self.nodes[LATE].batches:
            for entry in read_entries(batch.entries):
                if isinstance(entry, Lock) and batch.header.epoch == 1:
                    operation = self.auditor.operation(entry.operation)
                    decided = self.auditor.decided.get((operation.object, operation.seq), entry.operation)
                    demand(decided == entry.operation, "3: a LOCK against what the epoch before decided")


def test_the_network_goes_on_when_one_that_is_needed_entered_blind() -> None:
    town = Town()
    town.go_blind()
    town.withheld.clear()
    town.heal()
    assert town.run_until(lambda: town.validator(LATE).voting, 10_000) <= 5_000
    assert town.pay() <= 5_000
    town.turn(2, 60_000)
    town.run_until(lambda: all(each.voting for each in town.alive))


def test_one_that_still_has_the_frontiers_is_enough() -> None:
    """Whatever its weight: a frontier is proven by the root that its HANDOFF signs."""
    town = Town()
    town.go_blind()
    town.crash(2)
    town.start(2)
    regaining = town.validator(LATE)._regaining
    assert regaining is not None
    regaining._claims.clear()
    town.withheld.clear()
    town.heal()
    town.run_until(lambda: town.validator(LATE).voting, 20_000)
    assert town.pay() <= 5_000


def test_b2_it_goes_on_when_all_others_have_started_again_and_no_frontier_is_left() -> None:
    town = Town()
    town.go_blind()
    for index in (0, 2):
        town.crash(index)
        town.start(index)
        named = town.validator(LATE)._inheritance._named
        assert [town.validator(index).frontier(id_) for id_ in named] == [None] * len(named)
    town.withheld.clear()
    town.heal()
    town.run_until(lambda: town.validator(LATE).voting, 20_000)
    assert town.pay() <= 5_000


def without_the_payment(town: Town, restarts: int) -> None:
    """Everything but one payment reaches the late one, and its owner's second signature does."""
    town.go_blind()
    town.heal()
    for _ in range(restarts):
        town.run(2_000)
        town.crash(LATE)
        town.start(LATE)
    town.submit(town.spends[1], (LATE,))
    town.run(20_000)
    assert town.validator(LATE)._inheritance.prepared is not None
    town.demand_no_vote_against_the_union()


@pytest.mark.parametrize("restarts", [0, 1, 2])
def test_b2_while_something_of_the_union_is_missing_nothing_is_voted_over_restarts_too(restarts: int) -> None:
    town = Town()
    without_the_payment(town, restarts)
    assert town.validator(LATE).blind
    assert not town.validator(LATE).voting
    town.withheld.clear()
    town.run_until(lambda: town.validator(LATE).voting, 40_000)
    assert town.pay() <= 5_000
    town.demand_no_vote_against_the_union()


def test_b2_a_restart_after_it_sees_again_needs_nobody() -> None:
    town = Town()
    town.go_blind()
    town.withheld.clear()
    town.heal()
    town.run_until(lambda: town.validator(LATE).voting, 10_000)
    town.run(50)
    town.crash(LATE)
    assert not town.start(LATE).blind
    town.run_until(lambda: town.validator(LATE).voting, 10_000)
    assert town.validator(LATE).state.head(town.ids["alice"])[0] == 1


def test_b2_a_vote_that_came_back_is_not_on_the_disk_before_what_it_rests_on() -> None:
    """A cut of the power after each write: who sees there has the payment there."""
    town = Town()
    town.go_blind()
    journal, seen = town.nodes[LATE].journal, []

    def on_write(_: object) -> None:
        image = journal.image()
        restarted = Validator(town.keys[LATE], town.genesis, image.state(), image, follow=True)
        has = restarted.state.head(town.ids["alice"])[0] == 1
        seen.append(restarted.blind)
        assert restarted.epoch == 0 or restarted.blind or has

    journal.on_write = on_write
    town.withheld.clear()
    town.heal()
    town.run_until(lambda: town.validator(LATE).voting, 10_000)
    town.run(2_000)
    assert True in seen
    assert False in seen


def test_a_blind_member_shows_nobody_its_heads() -> None:
    town = Town()
    town.go_blind()
    late, opening = town.validator(LATE), town.validator(LATE)._opening()
    assert late.frontier(heads_name(opening, town.keys[LATE].public)) is None
    assert town.validator(0).frontier(heads_name(opening, town.keys[0].public)) is not None
    assert town.validator(0).frontier(heads_name(opening, town.keys[2].public)) is None


def test_heads_that_are_not_the_handoffs_are_refused_and_asked_for_again() -> None:
    town = Town()
    town.go_blind()
    town.heal()
    town.run_until(lambda: town.validator(LATE)._inheritance.prepared is not None, 10_000)
    late = town.validator(LATE)
    regaining = late._regaining
    assert regaining is not None
    regaining._more.clear()
    name = next(iter(late._inheritance.handoffs))
    before = len(town.refusals)
    town.act(LATE, lambda: late.handle_frontier(name, {b"\1" * 32: (3, b"\2" * 32)}, town.now))
    assert "do not make the HANDOFF's root" in town.refusals[before]
    assert regaining.wants(name)


def test_false_heads_of_one_member_are_waited_for_by_nobody() -> None:
    town = Town()
    town.go_blind()
    regaining = town.validator(LATE)._regaining
    assert regaining is not None
    false = {n.to_bytes(32, "big"): (9, n.to_bytes(32, "little")) for n in range(1, 5_000)}
    first = next(name for name, key in regaining._claims.items() if key == town.keys[GONE].public)
    regaining.take(first, false)
    town.withheld.clear()
    town.heal()
    town.run_until(lambda: town.validator(LATE).voting, 20_000)


# --- planted faults -----------------------------------------------------------------------------------


def broken_by(run: Callable[[], None]) -> str:
    with pytest.raises(Broken) as caught:
        run()
    return str(caught.value)


def test_mutant_a_vote_comes_back_before_the_whole_union_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Regaining, "_sees", lambda self: self._inheritance.prepared is not None)
    assert "against what the epoch before decided" in broken_by(lambda: without_the_payment(Town(), 0))


def test_mutant_a_frontier_that_is_fetched_counts_as_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Regaining, "_reached", lambda self, name: name in self._more)
    assert "against what the epoch before decided" in broken_by(lambda: without_the_payment(Town(), 0))


def test_mutant_b2_a_restart_forgets_that_it_is_blind(monkeypatch: pytest.MonkeyPatch) -> None:
    town = Town()
    forgets: list[int] = []

    def forgetful(desk: Desk) -> bool:
        return entered_blind(desk) and not forgets

    def restart(index: int) -> Validator:
        forgets.append(index)
        return EpochWorld.start(town, index)

    monkeypatch.setattr(validator_module, "entered_blind", forgetful)
    town.go_blind()
    monkeypatch.setattr(town, "start", restart)
    monkeypatch.setattr(town, "go_blind", lambda: None)
    assert "against what the epoch before decided" in broken_by(lambda: without_the_payment(town, 1))


def test_mutant_nobody_sees_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was: a blind member is silent for the whole epoch, which then never ends."""
    monkeypatch.setattr(Regaining, "_sees", lambda self: False)
    assert "not settled" in broken_by(test_the_network_goes_on_when_one_that_is_needed_entered_blind)
