"""Epochs that change while people pay, sign twice, and everything fails that may; then all goes on."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest

from ainp2p.errors import Error
from ainp2p.ledger.database import Database
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.rules.merkle import EMPTY_ROOT
from ainp2p.ledger.rules.operations import (
    BOND_PURPOSE,
    LockTerms,
    NextCommittee,
    Share,
    SignedOperation,
    parse,
)
from ainp2p.ledger.rules.state import State
from ainp2p.ledger.store import Store
from ainp2p.ledger.voting import deciding, epoch_end, inheritance
from ainp2p.ledger.voting.committee_chain import CommitteeChain
from ainp2p.ledger.voting.contending import Contention
from ainp2p.ledger.voting.desk import Desk
from ainp2p.ledger.voting.effects import Found, Records, Restored
from ainp2p.ledger.voting.evidence import TWO_BATCHES, Evidence
from ainp2p.ledger.voting.handoff import Prepared, SlotId, read_handoff
from ainp2p.ledger.voting.validator_store import SqliteJournal
from ainp2p.ledger.voting.votelog import BATCH_VERSION, SIGN_VOTES, Header
from ainp2p.protocol.codec import encode

from .committee_world import Broken, MemoryJournal, demand
from .epoch_world import SHORT_EPOCHS, EpochWorld

QUICK = msgspec.structs.replace(SHORT_EPOCHS, epoch_ms=6_000)


def committees(world: EpochWorld, at: int = 0) -> list[bytes]:
    """The ids of the COMMITTEEs that one validator has applied."""
    order = world.nodes[at].journal.order
    return [parsed.id for parsed in order if isinstance(parsed.operation.body, NextCommittee)]


# --- without faults -----------------------------------------------------------------------------------


def test_epochs_change_while_people_pay() -> None:
    world = EpochWorld(parameters=QUICK)
    while min(world.epochs) < 3:
        for name in world.names:
            world.decide(world.spend(name, [("bob", 1)]))
        world.run(300)
    world.run_until(lambda: len(set(world.epochs)) == 1)
    world.run(2_000)
    world.demand_equal()
    assert all(validator.voting for validator in world.alive)


def test_a_client_follows_the_committees_that_they_made() -> None:
    world = EpochWorld(parameters=QUICK)
    paid = parse(world.spend("alice", [("bob", 1)]))
    world.decide(paid.signed)
    world.turn(2)
    world.run(2_000)
    later = parse(world.spend("alice", [("bob", 1)]))
    world.decide(later.signed)
    chain, one = CommitteeChain.from_genesis(world.genesis), world.validator(1)
    for id_ in committees(world, 1):
        signed, certificate = one.operation(id_), one.certificate(id_)
        assert signed is not None
        assert certificate is not None
        chain.extend(encode(signed), certificate)
    assert chain.newest.number == 2
    for parsed, epoch in ((paid, 0), (later, 2)):
        certificate = one.certificate(parsed.id)
        assert certificate is not None
        assert chain.check(certificate, parsed.id).number == epoch


def test_a_quiet_committee_makes_one_committee_per_epoch() -> None:
    world = EpochWorld(parameters=QUICK)
    world.turn(3)
    assert len(committees(world)) == 3
    assert world.auditor.views == {}
    proposals = {each.id for each in world.pushed if isinstance(each.operation.body, NextCommittee)}
    assert len(proposals) == 3  # who waits for its turn does not compete


# --- with faults --------------------------------------------------------------------------------------


class Storm:
    """People who pay, one of them twice in each slot, and a network and validators that fail; by a seed."""

    def __init__(self, seed: int, count: int = 4, storm_ms: int = 30_000) -> None:
        self.world = EpochWorld((1,) * count, seed=seed, parameters=QUICK)
        self.rng, self.count = random.Random(seed), count
        self.calm_at = self.world.now + storm_ms
        self.sent: dict[tuple[str, int], SignedOperation] = {}
        self.world.auditor.cheats.add(self.world.ids["carol"])
        self._people()
        self._faults()

    def _people(self) -> None:
        world, rng = self.world, self.rng
        if world.now < self.calm_at:
            world.at(world.now + rng.randint(20, 400), self._people)
        alive = [node.index for node in world.nodes if node.validator is not None]
        if not alive:
            return
        at, name = rng.choice(alive), rng.choice(world.names)
        if name == "carol":
            half = rng.sample(range(self.count), self.count // 2)
            for to, amount, who in (("alice", 1, half), ("bob", 2, [*{*range(self.count)} - {*half}])):
                world.submit(world.spend(name, [(to, amount)], at=at), who)
        else:
            world.submit(self.once(name, at), rng.sample(range(self.count), rng.randint(1, self.count)))

    def once(self, name: str, at: int) -> SignedOperation:
        """A client journals what it signs, and sends the same again."""
        seq = self.world.validator(at).state.head(self.world.ids[name])[0] + 1
        if (name, seq) not in self.sent:
            self.sent[name, seq] = self.world.spend(name, [("bob", self.rng.randint(1, 9))], at=at)
        return self.sent[name, seq]

    def _faults(self) -> None:
        world, rng = self.world, self.rng
        if world.now >= self.calm_at:
            return
        world.at(world.now + rng.randint(300, 3_000), self._faults)
        side = set(rng.sample(range(self.count), rng.randint(1, self.count - 1)))
        kind = rng.randrange(6)
        if kind == 0:
            world.faults.loss = rng.choice([0, 0.05, 0.3])
        elif kind == 1:
            world.faults.cut = lambda a, b: (a in side) != (b in side)
        elif kind == 2:
            world.faults.cut = lambda a, b: False
        elif kind == 3:
            index = min(side)
            world.crash(index)
            world.at(world.now + rng.randint(10, 4_000), partial(self._restart, index))
        elif kind == 4:
            world.faults.delay_ms = (1, rng.choice([5, 100, 1_500]))
        else:
            world.faults.double = rng.choice([0, 0.3])

    def _restart(self, index: int) -> None:
        if self.world.nodes[index].validator is None:
            self.world.start(index)

    def calm(self) -> None:
        """The faults stop: another epoch begins soon, and people go on."""
        world = self.world
        world.run(max(0, self.calm_at - world.now) + 10)
        world.faults.loss = world.faults.double = 0.0
        world.faults.cut, world.faults.delay_ms = (lambda a, b: False), (1, 5)
        for node in world.nodes:
            self._restart(node.index)
        world.turn(max(world.epochs) + 1, 60_000)
        for name in ("alice", "bob"):
            world.run_until(lambda: len(set(world.epochs)) == 1)
            world.decide(self.once(name, 0), 60_000)
        world.run_until(lambda: len({validator.state.root() for validator in world.alive}) == 1, 30_000)

    @property
    def begun_at_view_one(self) -> int:
        """LOCKs without a proposal, on what an epoch before had left prepared."""
        epochs = self.world.auditor.epochs
        return sum(view == 1 for number, each in epochs.items() if number for (_, _, _, view) in each.locks)


@pytest.mark.parametrize("seed", [0, 1, 3, 4, 5, 6])  # in the storm of 2 no epoch ends
def test_b2_epochs_change_through_contention_crashes_and_partitions(seed: int) -> None:
    storm = Storm(seed)
    storm.calm()
    assert max(storm.world.epochs) >= 2
    assert len(storm.world.auditor.decided) >= 15


def test_epochs_of_seven_change_through_a_storm() -> None:
    Storm(70, 7, 15_000).calm()


def test_slots_that_were_left_prepared_are_decided_in_the_next_epoch() -> None:
    storms = [Storm(seed, storm_ms=15_000) for seed in (1, 2)]
    for storm in storms:
        storm.calm()
    assert sum(storm.begun_at_view_one for storm in storms) > 0


def test_the_same_seed_changes_epochs_in_the_same_way() -> None:
    storms = [Storm(3, storm_ms=10_000) for _ in range(2)]
    for storm in storms:
        storm.calm()
    assert storms[0].world.finals == storms[1].world.finals


@pytest.mark.parametrize("after_ms", range(0, 800, 50))
def test_b2_a_restart_in_the_middle_of_any_step_of_the_change(after_ms: int) -> None:
    world = EpochWorld(parameters=QUICK, seed=after_ms)
    world.decide(world.spend("alice", [("bob", 1)]))
    world.run_until(lambda: any(v.state.system.closed for v in world.alive), 20_000)
    world.run(after_ms)
    for index in (1, 2):
        world.crash(index)
        world.run(37)
        world.start(index)
    world.turn(1)
    world.run(2_000)
    world.decide(world.spend("bob", [("carol", 1)]))
    world.demand_equal()
    assert all(validator.voting for validator in world.alive)


def test_all_restart_while_the_epoch_closes() -> None:
    world = EpochWorld(parameters=QUICK)
    world.decide(world.spend("alice", [("bob", 1)]))
    world.run_until(lambda: all(v.state.system.closed for v in world.alive), 20_000)
    world.run(60)
    for index in range(4):
        world.crash(index)
    for index in range(4):
        world.start(index)
    world.turn(1)
    world.run(2_000)
    world.decide(world.spend("bob", [("carol", 1)]))


def test_one_that_was_away_for_two_epochs_comes_back_into_the_third() -> None:
    world = EpochWorld(parameters=QUICK)
    world.decide(world.spend("alice", [("bob", 1)]))
    world.run(3_000)
    world.crash(3)
    world.turn(2)
    world.run(2_000)
    world.decide(world.spend("bob", [("carol", 1)]))
    world.start(3)
    world.turn(2)
    world.run_until(lambda: world.validator(3).voting)
    world.decide(world.spend("carol", [("alice", 1)]))
    world.demand_equal()


def test_one_that_is_cut_off_while_its_epoch_closes_follows() -> None:
    world = EpochWorld(parameters=QUICK)
    world.run_until(lambda: any(v.state.system.closed for v in world.alive), 20_000)
    world.faults.cut = lambda a, b: 3 in (a, b)
    world.run_until(lambda: min(world.validator(i).epoch for i in range(3)) == 1)
    world.run(2_000)
    id_ = world.submit(world.spend("bob", [("carol", 1)], at=0), (0, 1, 2))
    world.run_until(lambda: world.is_final(id_, (0, 1, 2)))
    world.faults.cut = lambda a, b: False
    world.turn(1)
    world.run_until(lambda: world.is_final(id_) and world.validator(3).voting)
    world.demand_equal()


def test_without_a_quorum_no_epoch_ends() -> None:
    world = EpochWorld(parameters=QUICK)
    world.run(3_000)
    world.crash(2)
    world.crash(3)
    world.run(40_000)
    assert set(world.epochs) == {0}
    world.start(2)
    world.start(3)
    world.turn(1)


class RealJournal(MemoryJournal):
    """What is read comes from a SQLite file; the other copy is for the auditor."""

    def __init__(self, genesis: Genesis, path: Path) -> None:
        super().__init__(genesis)
        self._database = Database(path)
        self.store = Store(self._database, genesis)
        self.disk = SqliteJournal(self._database, self.store)

    def state(self) -> State:
        return self.store.load()

    def write(self, records: Records) -> None:
        super().write(records)
        self.disk.write(records)

    def restore(self, members: int, epoch: int = 0) -> Restored:
        return self.disk.restore(members, epoch)

    def batch(self, member: int, height: int, epoch: int = 0) -> bytes | None:
        return self.disk.batch(member, height, epoch)

    def batches(self, member: int, first: int, limit: int, epoch: int = 0) -> list[bytes]:
        return self.disk.batches(member, first, limit, epoch)

    def find(self, id_: bytes) -> Found | None:
        return self.disk.find(id_)

    def heads(self) -> dict[bytes, tuple[int, bytes]]:
        assert self.disk.heads() == super().heads()
        return self.disk.heads()

    def attachment(self, id_: bytes) -> bytes | None:
        return self.disk.attachment(id_)


def test_b6_epochs_on_real_disks_with_restarts_before_during_and_after(tmp_path: Path) -> None:
    world = EpochWorld(parameters=QUICK)
    for node in world.nodes:
        world.crash(node.index)
        node.journal = RealJournal(world.genesis, tmp_path / f"{node.index}.sqlite")
        world.start(node.index)

    def restart_all() -> None:
        for index in range(4):
            world.crash(index)
            world.start(index)

    paid = world.spend("alice", [("bob", 1)])
    world.decide(paid)
    world.run(2_000)
    restart_all()
    world.run_until(lambda: all(v.state.system.closed for v in world.alive), 20_000)
    world.run(100)
    restart_all()
    world.turn(1)
    world.run(2_000)
    restart_all()
    world.run(2_000)
    world.decide(world.spend("bob", [("carol", 1)]))
    world.turn(2)
    world.run(2_000)
    restart_all()
    world.run(2_000)
    certificate = world.validator(0).certificate(parse(paid).id)
    assert certificate is not None
    assert CommitteeChain.from_genesis(world.genesis).check(certificate, parse(paid).id).number == 0
    world.demand_equal()


def test_commits_beyond_what_a_handoff_holds_wait_and_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deciding, "commits_max", lambda members: 1)
    world = EpochWorld(parameters=QUICK)
    world.run(600)
    most = 0
    spends = [world.spend(name, [("bob", 1)]) for name in world.names]
    for signed in spends:
        world.submit(signed)
    for _ in range(400):
        world.run(1)
        most = max(most, *(v._table.open_commits for v in world.alive))
    assert most == 1
    world.run_until(lambda: all(world.is_final(parse(signed).id) for signed in spends))


def test_a_committee_that_only_some_can_judge_yet_is_not_in_the_way() -> None:
    """One member's HANDOFF reaches two others only by what those show."""
    world = EpochWorld(parameters=QUICK)
    world.decide(world.spend("alice", [("bob", 1)]))
    world.run_until(lambda: any(v.state.system.closed for v in world.alive), 20_000)
    world.faults.cut = lambda a, b: {a, b} in ({0, 2}, {0, 3})
    world.turn(1)
    world.faults.cut = lambda a, b: False
    world.run(2_000)
    world.decide(world.spend("bob", [("carol", 1)]))
    world.demand_equal()


# --- who sits -----------------------------------------------------------------------------------------


def test_a_member_that_lost_its_disk_is_clean_in_the_next_epoch() -> None:
    world = EpochWorld(parameters=QUICK)
    world.decide(world.spend("alice", [("bob", 1)]))
    world.run(2_000)
    world.crash(3)
    world.nodes[3].journal = MemoryJournal(world.genesis)
    world.start(3)
    world.run_until(lambda: world.validator(3).behind, 5_000)
    world.turn(1)
    world.run_until(lambda: world.validator(3).voting, 10_000)
    assert not world.validator(3).behind
    world.decide(world.spend("bob", [("carol", 1)]))
    world.demand_equal()


def bond(world: EpochWorld, key: bytes, deposit: int, life_ms: int) -> LockTerms:
    return LockTerms(
        beneficiaries=(Share(world.ids["alice"], 1),),
        deposit=deposit,
        step=deposit,
        authority=(world.network,),
        threshold=1,
        closer=key,
        expiry=world.now + life_ms,
        purpose=BOND_PURPOSE,
    )


def test_a_bond_makes_a_follower_a_member_until_it_expires() -> None:
    world = EpochWorld(parameters=QUICK, followers=1)
    key = world.keys[4].public
    world.decide(world.spend("alice", locks=[bond(world, key, 900_000, 10_000)]))
    world.turn(1)
    joined = world.validator(4)
    assert key in joined.committee.index
    world.run_until(lambda: joined.voting)
    world.decide(world.spend("bob", [("carol", 1)]))
    assert any(batch.header.epoch == 1 and batch.header.count for batch in world.nodes[4].batches)
    world.turn(2)
    assert key not in world.validator(4).committee.index
    world.run(2_000)
    world.decide(world.spend("alice", [("carol", 1)]))  # its deposit is back
    assert not world.validator(4).voting
    world.demand_equal()


def two_batches(world: EpochWorld, culprit: int) -> Evidence:
    key, items = world.keys[culprit], []
    for timestamp in (1, 2):
        header = Header(
            BATCH_VERSION, world.network, 0, key.public, 10**6, world.network, timestamp, EMPTY_ROOT, 0
        )
        items.append((encode(header), key.sign(SIGN_VOTES, encode(header))))
    return Evidence(TWO_BATCHES, key.public, tuple(part for item in sorted(items) for part in item), 0)


def test_evidence_costs_a_seat_in_the_next_epoch_and_for_ever() -> None:
    world = EpochWorld((2, 2, 2, 2, 2), parameters=QUICK)
    raw, culprit = encode(two_batches(world, 3)), world.keys[3].public
    world.act(0, lambda: world.validator(0).handle_attachment(raw, world.now))
    world.turn(1)
    for validator in world.alive:
        assert culprit not in validator.committee.index
        assert validator.state.system.barred == (culprit,)
    world.turn(2)
    world.run_until(lambda: all(world.validator(i).voting for i in (0, 1, 2, 4)))
    world.decide(world.spend("alice", [("bob", 1)]))
    world.demand_equal()


# --- planted faults -----------------------------------------------------------------------------------


def broken_by(run: Callable[[], None]) -> str:
    with pytest.raises((Broken, Error)) as caught:
        run()
    return str(caught.value)


def some_storms() -> None:
    for seed in range(12):
        storm = Storm(seed, storm_ms=15_000)
        storm.calm()
        demand(all(v.halted is None for v in storm.world.alive), "halted")


def test_mutant_votes_on_ordinary_slots_after_end_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Desk, "votes_on", lambda self, object_: self.votes())
    assert "after one's HANDOFF" in broken_by(some_storms)


def test_mutant_prepared_certificates_of_handoffs_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inheritance.Inheritance, "_highest", lambda self: {})
    assert "starts at view 1" in broken_by(some_storms)


def test_mutant_a_private_set_of_handoffs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody begins with what its own HANDOFF had prepared, not with what the common set has."""
    known = inheritance.Inheritance._highest

    def private(self: inheritance.Inheritance) -> object:
        desk = self._desk
        own = desk.committee.keys[desk.member] if desk.member >= 0 else b""
        self._named = tuple(id_ for id_ in self._named if read_handoff(self._raw[id_]).validator == own)
        return known(self)

    monkeypatch.setattr(inheritance.Inheritance, "_highest", private)
    assert "starts at view 1" in broken_by(some_storms)


def test_mutant_what_a_slot_began_with_is_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later NEWVIEWs say nothing of the inherited certificate."""
    known = Contention.inherit

    def forgetful(self: Contention, slot_id: SlotId, prepared: Prepared, now: int) -> None:
        known(self, slot_id, prepared, now)
        self._table.slots[slot_id].inherited = None
        candidate = self._table.candidates.get(prepared.operation)
        if candidate is not None:
            candidate.prepared = candidate.shown = None

    monkeypatch.setattr(Contention, "inherit", forgetful)
    assert "began with" in broken_by(some_storms)


def test_mutant_a_state_that_does_not_stay_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who goes on after its HANDOFF can no longer show others what it says: the epoch never ends."""
    monkeypatch.setattr(epoch_end.EpochEnd, "_frozen", property(lambda self: False))
    assert "not settled" in broken_by(some_storms)
