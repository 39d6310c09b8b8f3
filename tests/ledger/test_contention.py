"""Contested slots in whole committees: who leads, who lies, what is lost, and what must not happen then."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import pytest

from ainp2p.errors import Error
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.operations import (
    LockTerms,
    Share,
    SignedOperation,
    credit_id,
    lock_id,
    operation_id,
    purpose_digest,
)
from ainp2p.ledger.rules.receipts import Payer, refund_operation, settle_operation
from ainp2p.ledger.voting import deciding, views
from ainp2p.ledger.voting.contending import Contention
from ainp2p.ledger.voting.desk import Desk
from ainp2p.ledger.voting.judging import Judging
from ainp2p.ledger.voting.justification import read_justification
from ainp2p.ledger.voting.picking import leader
from ainp2p.ledger.voting.reporting import Reporting
from ainp2p.ledger.voting.slot import Slot
from ainp2p.ledger.voting.views import Contest
from ainp2p.protocol.codec import encode
from tests.ledger.bench import Bench
from tests.ledger.committee_world import CommitteeWorld, demand
from tests.ledger.world import key_of

T = 2_000  # ms
SOON = 1_000  # ms: a few batches, and whatever is fetched


def started(weights: tuple[int, ...] = (1, 1, 1, 1), seed: int = 0) -> CommitteeWorld:
    world = CommitteeWorld(weights, seed=seed)
    world.auditor.cheats.add(world.ids["alice"])
    world.run(1_000)
    return world


def two(world: CommitteeWorld) -> tuple[SignedOperation, SignedOperation]:
    """Two operations of alice for one slot."""
    return world.spend("alice", [("bob", 5)]), world.spend("alice", [("bob", 6)])


def split(world: CommitteeWorld, half: int | None = None) -> tuple[SignedOperation, SignedOperation]:
    """Each to half of the validators."""
    first, second = two(world)
    half = len(world.nodes) // 2 if half is None else half
    world.submit(first, range(half))
    world.submit(second, range(half, len(world.nodes)))
    return first, second


def submit(world: CommitteeWorld, signed: SignedOperation, index: int) -> None:
    world.submit(signed, [index])


def head(world: CommitteeWorld, name: str = "alice") -> set[tuple[int, bytes]]:
    return {v.state.head(world.ids[name]) for v in world.alive}


def decided(world: CommitteeWorld, seq: int = 1, name: str = "alice") -> bool:
    return all(each[0] >= seq for each in head(world, name))


def leader_of(world: CommitteeWorld, view: int, object_: bytes | None = None, seq: int = 1) -> int:
    return leader(world.committee, 0, object_ or world.ids["alice"], seq, view)


def open_lock(world: CommitteeWorld, life_ms: int = 8_000) -> Lock:
    terms = LockTerms(
        beneficiaries=(Share(world.ids["bob"], 1),),
        deposit=1_000,
        step=10,
        authority=(key_of("session").public,),
        threshold=1,
        closer=key_of("bob").public,
        expiry=world.now + life_ms,
        purpose=purpose_digest(b"test"),
    )
    opening = world.spend("carol", locks=[terms])
    world.decide(opening)
    return world.validator(0).state.locks[lock_id(operation_id(opening.raw), 0)]


# --- what is decided ------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (5, 4, 3, 3), (1,) * 7, tuple(range(3, 13))])
def test_a2_two_operations_for_one_slot_end_in_a_void_and_the_account_goes_on(
    weights: tuple[int, ...],
) -> None:
    world = started(weights)
    split(world)
    assert world.run_until(lambda: decided(world)) <= T + SOON
    account = world.validator(0).state.accounts[world.ids["alice"]]
    assert account.debt == world.parameters.void_debt
    assert set(world.auditor.views.values()) == {1}
    world.decide(world.spend("alice", [("bob", 5)]), 1_000)
    assert world.validator(0).state.accounts[world.ids["alice"]].debt == 0
    world.demand_equal()


def test_uncontended_slots_never_leave_view_0_and_leave_nothing_behind() -> None:
    world = started()
    for _ in range(5):
        assert world.decide(world.spend("alice", [("bob", 5)])) < 500
    world.run(3 * T)
    assert world.auditor.views == {}
    assert all(v._contention.due is None for v in world.alive)
    assert all(len(v._contention._first) == 0 for v in world.alive)


def test_one_operation_that_half_of_the_committee_locked_is_not_voided() -> None:
    world = started()
    world.faults.cut = lambda a, b: (a < 2) != (b < 2)
    id_ = world.submit(world.spend("bob"), [0, 1])
    world.run(5 * T)
    world.faults.cut = lambda a, b: False
    world.run_until(partial(world.is_final, id_), T + SOON)


@pytest.mark.parametrize("dead", [1, 2])
def test_dead_leaders_cost_a_timeout_each(dead: int) -> None:
    world = started((1,) * 7)
    for view in range(1, dead + 1):
        world.crash(leader_of(world, view))
    split(world)
    assert world.run_until(lambda: decided(world)) <= (dead + 1) * (T + SOON)
    assert max(world.auditor.views.values()) == dead + 1


@pytest.mark.parametrize("outage_ms", [10_000, 3_600_000])
def test_10_after_an_outage_of_any_length_a_contested_slot_is_decided_as_soon(outage_ms: int) -> None:
    world = started()
    world.faults.cut = lambda a, b: True
    split(world)
    world.run(outage_ms)
    assert set(world.auditor.views.values()) == {1}
    world.faults.cut = lambda a, b: False
    assert world.run_until(lambda: decided(world), 60_000) <= T + 2 * SOON


def test_an_operation_prepared_in_view_0_is_the_one_that_view_1_decides() -> None:
    world = started()
    first, second = two(world)
    world.submit(first, [0, 1, 2])
    world.run(22)
    for node in world.nodes[:3]:
        assert node.validator is not None
    world.submit(second, [3])
    world.faults.cut = lambda a, b: True  # the LOCKs are out, the COMMITs are not
    world.run(2 * T)
    world.faults.cut = lambda a, b: False
    world.run_until(lambda: decided(world), 10_000)
    assert head(world) == {(1, operation_id(first.raw))}


def test_everybody_dies_after_the_newviews_and_the_slot_is_decided_after_the_restart() -> None:
    world = started()
    split(world)
    world.run(T + 25)
    assert world.auditor.views
    for node in world.nodes:
        world.crash(node.index)
    world.run(60_000)
    for node in world.nodes:
        world.start(node.index)
    assert world.run_until(lambda: decided(world), 10_000) <= T + 2 * SOON
    world.demand_equal()


def test_a_contested_slot_leaves_nothing_behind_once_it_is_decided() -> None:
    world = started()
    split(world)
    world.run_until(lambda: decided(world))
    world.run(3_000)
    for validator in world.alive:
        assert (validator._table.candidates, validator._table.slots) == ({}, {})
        assert validator._table.owed == [0, 0, 0, 0]
        assert validator._table.lowest_heights() == {}


def test_who_missed_the_decision_is_shown_the_certificate() -> None:
    world = started()
    world.faults.cut = lambda a, b: 3 in (a, b)
    signed = world.spend("bob")
    world.submit(signed, [3])
    world.submit(signed, [0, 1, 2])
    world.run_until(lambda: world.is_final(operation_id(signed.raw), [0, 1, 2]))
    world.run(2 * T)
    shown: list[bytes] = []
    world.send_attachment = lambda source, target, raw: shown.append(raw)  # type: ignore[method-assign]
    world.faults.cut = lambda a, b: False
    world.run(2_000)
    assert world.is_final(operation_id(signed.raw))
    assert shown


# --- Locks ------------------------------------------------------------------------------------------------


def payer_against_payee(seed: int) -> tuple[CommitteeWorld, int]:
    """The payer wants its refund, the payee, in time and then again and again, its money."""
    world = CommitteeWorld((1, 1, 1, 1), seed=seed)
    rng = random.Random(f"lock {seed}")
    world.run(1_000)
    lock = open_lock(world)
    receipt = Payer(world.network, lock, key_of("session")).sign(300, 1, b"c" * 32)
    settle = settle_operation(lock, receipt)
    refund = refund_operation(world.network, lock)
    side = rng.sample(range(4), 2)
    world.faults.cut = lambda a, b: (a in side) != (b in side)
    world.submit(refund)
    world.run(4_000)
    world.submit(settle, side)
    world.run(rng.randint(3_000, 12_000))
    world.faults.loss, world.faults.delay_ms = rng.choice([(0.0, (1, 5)), (0.2, (1, 800))])
    world.faults.cut = lambda a, b: False
    world.run(rng.randint(0, 4_000))
    world.faults.loss, world.faults.delay_ms = 0.0, (1, 5)
    world.submit(refund)
    world.run_until(lambda: all(v.state.head(lock.id)[0] == 1 for v in world.alive), 40_000)
    credit = credit_id(operation_id(settle.raw), 0)
    paid = sum(v.state.credits_of(world.ids["bob"]).get(credit, 0) for v in world.alive)
    return world, paid


_ENDED = Lock(*(bytes(32), 0, bytes(32), bytes(32), (), 0, 0, 1, (), 1, bytes(32), 0, bytes(32)), ended=1)


@pytest.mark.parametrize("seed", range(8))
def test_8_a_refund_against_a_settle_ends_with_the_payee_paid(seed: int) -> None:
    world, paid = payer_against_payee(seed)
    assert paid == 4 * 300
    world.demand_equal()


# --- lies -------------------------------------------------------------------------------------------------


def lie_as_leader(world: CommitteeWorld, view: int, lie: Callable[..., Any]) -> None:
    """The leader of this view justifies something else than what follows."""
    contention = world.validator(leader_of(world, view))._contention._leading
    honest = contention._justify

    def justify(*arguments: Any) -> Any:
        made = honest(*arguments)
        return made if made is None else lie(made)

    contention._justify = justify  # type: ignore[method-assign, assignment]


def test_a3_a_leader_that_proposes_what_does_not_follow_is_not_followed() -> None:
    world = started()
    first, second = two(world)
    lie_as_leader(world, 1, lambda made: (operation_id(second.raw), made[1]))
    world.submit(first, [0, 1])
    world.submit(second, [2, 3])
    world.run_until(lambda: decided(world), 3 * T + 2 * SOON)
    assert world.auditor.voided == 4
    assert world.auditor.views[world.ids["alice"], 1] == 2


def test_a3_a_leader_whose_justification_is_cut_short_is_not_followed() -> None:
    def cut(made: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
        justification = read_justification(made[1])
        return made[0], encode(msgspec.structs.replace(justification, newviews=justification.newviews[:2]))

    world = started()
    lie_as_leader(world, 1, cut)
    split(world)
    world.run_until(lambda: decided(world), 3 * T + 2 * SOON)
    assert world.auditor.views[world.ids["alice"], 1] == 2


def test_a3_a_leader_that_shows_its_justification_to_nobody_is_not_followed() -> None:
    world = started()
    hider = leader_of(world, 1)
    send = world.send_attachment

    def hide(source: int, target: int, raw: bytes) -> None:
        if source != hider:
            send(source, target, raw)

    world.send_attachment = hide  # type: ignore[method-assign]
    split(world)
    world.run_until(lambda: decided(world), 4 * T + 2 * SOON)
    assert world.auditor.views[world.ids["alice"], 1] >= 2


# --- planted faults: each must be caught ----------------------------------------------------------------


def turmoil(seed: int) -> None:
    """A slot is contested while its committee is cut apart, restarted and healed; a broken promise raises."""
    weights = [(1, 1, 1, 1), (1,) * 7, (5, 4, 3, 3)][seed % 3]
    world = started(weights, seed)
    rng = random.Random(f"turmoil {seed}")
    n = len(weights)
    first, second = two(world)
    for index in range(n):
        signed = rng.choice([first, first, second])
        world.at(world.now + rng.randint(0, 60), partial(submit, world, signed, index))
    for _ in range(rng.randint(6, 14)):
        world.run(rng.choice([10, 20, 25, 40, 500, 1_000, 2_000]))
        what = rng.choice(["cut", "cut", "one way", "calm", "restart", "late", "calm"])
        if what == "cut":
            side = frozenset(rng.sample(range(n), rng.randint(1, n - 1)))
            world.faults.cut = lambda a, b, side=side: (a in side) != (b in side)  # type: ignore[misc]
        elif what == "one way":
            deaf = frozenset(rng.sample(range(n), rng.randint(1, n // 2)))
            world.faults.cut = lambda a, b, deaf=deaf: b in deaf  # type: ignore[misc]
        elif what == "late":
            world.faults.delay_ms = (1, rng.choice([50, 3_000]))
        elif what == "restart":
            for index in rng.sample(range(n), rng.randint(1, n)):
                world.crash(index)
                world.start(index)
        else:
            world.faults.cut, world.faults.delay_ms = lambda a, b: False, (1, 5)
    world.faults.cut, world.faults.delay_ms = lambda a, b: False, (1, 5)
    for signed in (first, second):
        world.submit(signed)
    world.run_until(lambda: decided(world), 40_000)
    world.run(1_000)
    demand(len(head(world)) == 1, "3: two operations in one slot")
    world.demand_equal()


def caught(seeds: int = 60, scenario: Callable[[int], None] = turmoil) -> str:
    """What was broken first, "" if nothing was."""
    for seed in range(seeds):
        try:
            scenario(seed)
        except (AssertionError, Error, KeyError) as exc:
            return f"{type(exc).__name__}: {exc}"
    return ""


def test_committees_in_turmoil_keep_their_promises() -> None:
    assert caught(25) == ""


def test_mutant_that_ignores_the_prepared_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    promise = Reporting.promise

    def forgetful(self: Reporting, slot_id: Any, slot: Slot, view: int, now: int) -> None:
        held = [(c, c.prepared) for c in slot.candidates]
        committed, slot.committed = slot.committed, {}
        for candidate, _ in held:
            candidate.prepared = None
        promise(self, slot_id, slot, view, now)
        slot.committed = committed
        for candidate, prepared in held:
            candidate.prepared = prepared

    monkeypatch.setattr(Reporting, "promise", forgetful)
    assert "reports less than an own COMMIT" in caught()


def test_mutant_that_commits_after_a_newview(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Slot.commit

    def careless(self: Slot, view: int, operation: bytes) -> bool:
        promised, self.promised = self.promised, 0
        try:
            return original(self, view, operation)
        finally:
            self.promised = promised

    monkeypatch.setattr(Slot, "commit", careless)
    assert "6: a COMMIT below" in caught(150)


def locks_below_its_newview() -> bool:
    bench = Bench()
    signed = bench.spend("alice", [("bob", 5)])
    bench.validator._table.open_slot((bench.ids["alice"], 1)).promised = 1
    bench.give(signed)
    bench.wait()
    return bench.locked(signed)


def test_mutant_that_locks_in_view_0_after_a_newview(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not locks_below_its_newview()
    original = deciding.Decider._lock

    def careless(self: deciding.Decider, candidate: Any, slot: Slot, now: int, out: Any) -> None:
        promised, slot.promised = slot.promised, 0
        original(self, candidate, slot, now, out)
        slot.promised = promised

    monkeypatch.setattr(deciding.Decider, "_lock", careless)
    assert locks_below_its_newview()


def test_mutant_that_locks_twice_in_a_later_view(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Judging.follow

    def again(self: Judging, slot_id: Any, slot: Slot, *rest: Any) -> None:
        locked, slot.locked = slot.locked, {}
        original(self, slot_id, slot, *rest)
        slot.locked = {**locked, **slot.locked}

    monkeypatch.setattr(Judging, "follow", again)
    assert "6: two LOCKs in one" in caught()


def test_mutant_that_skips_the_justification(monkeypatch: pytest.MonkeyPatch) -> None:
    def follow_a_liar(_: int) -> None:
        world = started()
        first, second = two(world)
        lie_as_leader(world, 1, lambda made: (operation_id(second.raw), made[1]))
        world.submit(first, [0, 1])
        world.submit(second, [2, 3])
        world.run_until(lambda: decided(world), 3 * T + 2 * SOON)
        demand(world.auditor.voided == 4, "a leader chose")

    assert caught(1, follow_a_liar) == ""
    monkeypatch.setattr(
        Judging,
        "_judge",
        lambda self, slot_id, proposal, now, out: self._table.candidates.get(proposal.operation),
    )
    assert "a leader chose" in caught(1, follow_a_liar)


def test_mutant_that_forgets_its_newviews_on_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    def restart_after_a_newview(_: int) -> None:
        world = started()
        world.faults.cut = lambda a, b: True
        split(world)
        world.run(2 * T)
        world.crash(0)
        zero = world.start(0)
        for key in world.keys[1:]:  # they only say that they hold none of its batches
            world.act(0, partial(zero.handle_height, key.public, 0, world.now))
        world.run(2 * T)

    assert caught(1, restart_after_a_newview) == ""
    monkeypatch.setattr(Contention, "_note_own", lambda *_: None)
    assert "6: a NEWVIEW that goes back" in caught(1, restart_after_a_newview)


def test_mutant_that_forgets_the_prepared_certificates_of_others_on_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The COMMITs of the one that forgot are known to it, so it waits for the LOCKs: no promise is broken."""
    monkeypatch.setattr(Contention, "restore_attachment", lambda *_: None)
    assert caught(10) == ""


def test_mutant_timer_that_runs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def enter(self: Contest, now: int, first_ms: int, committee: Any) -> bool:
        view = max(self.view_of(1, committee), self.entered)
        if view == self.entered and (self.deadline is not None or view == 0):
            return False
        self.entered = view
        self.deadline = now + views.view_timeout(first_ms, view, len(committee.keys))
        return True

    def outage(_: int) -> None:
        world = started()
        world.faults.cut = lambda a, b: True
        split(world)
        world.run(60_000)
        demand(max(world.auditor.views.values()) == 1, "10: views run away")

    assert caught(1, outage) == ""
    monkeypatch.setattr(Contest, "enter", enter)
    assert "10: views run away" in caught(1, outage)


def test_mutant_without_the_join_rule_waits_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    def late_one(_: int) -> None:
        """Two have timed out; the others have heard of nothing and join them."""
        world = started()
        first, second = two(world)
        world.submit(first, [0])
        world.submit(second, [1])
        for index in (2, 3):
            contention = world.validator(index)._contention
            contention._first_ms = 10**9  # their own timers do not end
        world.run_until(lambda: decided(world), 20_000)

    assert caught(1, late_one) == ""
    monkeypatch.setattr(
        Contest, "next_view", lambda self, _: self.entered + 1 if self.expired >= self.entered else 0
    )
    assert "10: not settled" in caught(1, late_one)


def hurried_refund(_: int) -> None:
    """A member asks for a refund before anybody's gate has passed; alone it must get nowhere."""
    world = CommitteeWorld((1, 1, 1, 1))
    world.run(1_000)
    lock = open_lock(world, 2_000)
    world.run(2_500)
    hurried = world.validator(leader_of(world, 1, lock.id))._decider._desk
    gate = Desk.gate_opens

    def gate_opens(self: Desk, candidate: Any, now: int) -> int:
        return now if self is hurried else gate(self, candidate, now)

    Desk.gate_opens = gate_opens  # type: ignore[method-assign]
    try:
        world.submit(refund_operation(world.network, lock))
        world.run(900)  # D is a second
    finally:
        Desk.gate_opens = gate  # type: ignore[method-assign]
    demand(all(v.state.head(lock.id)[0] == 0 for v in world.alive), "a gate was passed by")
    demand(len(world.auditor.locks) == 4 + 1, "only the hurried one LOCKs")


def test_a_gate_holds_in_every_path_while_one_member_hurries() -> None:
    assert caught(1, hurried_refund) == ""


def test_mutant_gate_forgotten_in_view_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deciding, "is_gated", lambda parsed: False)
    assert "gate was passed" in caught(1, hurried_refund)
