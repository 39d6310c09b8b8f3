"""Whole committees under faults, from seeds: invariants 1 to 6, 9 and 10 of LEDGER.md after every step.

A run is its seed: `SEED=7 pytest tests/ledger/test_committee_simulation.py` replays one, SEEDS=1000 runs
more.
One owner signs two operations for a slot, again and again, and shows them to different validators.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import msgspec
import pytest

from ainp2p.errors import Error
from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.rules.operations import (
    LockTerms,
    Share,
    SignedOperation,
    lock_id,
    operation_id,
    purpose_digest,
)
from ainp2p.ledger.rules.receipts import Payer, read_receipt, refund_operation, settle_operation
from ainp2p.ledger.voting.certificate import verify_certificate
from ainp2p.ledger.voting.deciding import Decider
from ainp2p.ledger.voting.effects import Records, Restored
from ainp2p.ledger.voting.priority import HeldReceipts
from ainp2p.ledger.voting.slot import Candidate, Slot, VoteTable
from ainp2p.ledger.voting.validator import FINAL, Validator
from tests.ledger.committee_world import Broken, CommitteeWorld, MemoryJournal, demand
from tests.ledger.world import key_of

SEEDS = [int(os.environ["SEED"])] if "SEED" in os.environ else range(int(os.environ.get("SEEDS", "12")))
COMMITTEES = (
    (1, 1, 1, 1),
    (5, 4, 3, 3),
    (1,) * 7,
    (9, 7, 5, 3, 3, 2, 2),
    (1,) * 10,
    tuple(range(3, 13)),
)
NAMES = tuple(f"person {i}" for i in range(6))
FAULTY_MS, SETTLE_MS = 8_000, 30_000


@dataclass
class Person:
    """An honest client: one operation at a time, on a final head, the same bytes until it is final."""

    name: str
    pending: SignedOperation | None = None
    sent: list[bytes] = field(default_factory=list)


class Run:
    """A committee, people who trade, and a nemesis."""

    def __init__(self, seed: int, weights: Sequence[int]) -> None:
        self.rng = random.Random(f"run {seed}")
        self.world = CommitteeWorld(weights, NAMES, seed)
        self.people = [Person(name) for name in NAMES[:-1]]
        self.cheat = NAMES[-1]
        self.cheated: dict[int, list[bytes]] = {}  # slot of the cheat's account → what was signed for it
        self.world.auditor.cheats.add(self.world.ids[self.cheat])
        self.quiet = False
        for person in self.people:
            self.world.at(self.world.now + self.rng.randint(0, 500), partial(self._trade, person))

    # --- people -----------------------------------------------------------------------------------

    def _trade(self, person: Person) -> None:
        world, rng = self.world, self.rng
        world.at(world.now + rng.randint(50, 400), lambda: self._trade(person))
        living = [node.index for node in world.nodes if node.validator is not None]
        if not living:
            return
        shown = rng.choice(living)
        if person.pending is not None:
            if world.validator(shown).status(operation_id(person.pending.raw)) != FINAL:
                world.submit(person.pending, rng.sample(living, rng.randint(1, len(living))))
                return
            person.pending = None
        if self.quiet or not self._is_fresh(person, shown):
            return
        other = rng.choice([name for name in NAMES if name != person.name])
        person.pending = world.spend(person.name, [(other, rng.randint(1, 50))], at=shown)
        person.sent.append(operation_id(person.pending.raw))
        world.submit(person.pending, rng.sample(living, rng.randint(1, len(living))))

    def _is_fresh(self, person: Person, shown: int) -> bool:
        """Whether this validator shows the head of this person's last operation."""
        last = person.sent[-1:]
        return not last or self.world.validator(shown).status(last[0]) == FINAL

    def equivocate(self) -> None:
        """A2: two or three operations for one slot, each to some of the validators."""
        world, rng = self.world, self.rng
        if self.quiet:
            return
        world.at(world.now + rng.randint(500, 3_000), self.equivocate)
        living = [node.index for node in world.nodes if node.validator is not None]
        if not living:
            return
        rng.shuffle(living)
        cuts = sorted(rng.randint(0, len(living)) for _ in range(rng.choice([1, 1, 2])))
        seq = world.validator(living[0]).state.head(world.ids[self.cheat])[0] + 1
        for amount, (first, last) in enumerate(pairwise([0, *cuts, len(living)]), 11):
            signed = world.spend(self.cheat, [(NAMES[0], amount)], at=living[0])
            self.cheated.setdefault(seq, []).append(world.submit(signed, living[first:last]))

    # --- faults -----------------------------------------------------------------------------------

    def nemesis(self) -> None:
        """Something goes wrong, for a while."""
        world, rng = self.world, self.rng
        if self.quiet:
            return
        world.at(world.now + rng.randint(300, 2_000), self.nemesis)
        kind = rng.choice(["crash", "crash", "partition", "storm", "calm", "one way"])
        n = len(world.nodes)
        if kind == "crash":
            index = rng.randrange(n)
            if world.nodes[index].validator is not None:
                world.crash(index)
                world.at(world.now + rng.randint(1, 3_000), lambda: self._revive(index))
        elif kind == "partition":
            side = frozenset(rng.sample(range(n), rng.randint(1, n - 1)))
            world.faults.cut = lambda a, b: (a in side) != (b in side)
        elif kind == "one way":
            deaf = rng.randrange(n)
            world.faults.cut = lambda a, b: b == deaf
        elif kind == "storm":
            world.faults.loss, world.faults.double = rng.choice([(0.1, 0.1), (0.4, 0.0), (0.0, 0.5)])
            world.faults.delay_ms = rng.choice([(1, 5), (1, 400), (50, 3_000)])
        else:
            self._calm()

    def _calm(self) -> None:
        world = self.world
        world.faults.cut = lambda a, b: False
        world.faults.loss = world.faults.double = 0.0
        world.faults.delay_ms = (1, 5)

    def _revive(self, index: int) -> None:
        if self.world.nodes[index].validator is None:
            self.world.start(index)

    def settle(self) -> None:
        """Invariant 10: once faults stop, all that is pending is decided, soon."""
        world = self.world
        self.quiet = True
        self._calm()
        for node in world.nodes:
            self._revive(node.index)
        world.run_until(
            lambda: (
                all(person.pending is None for person in self.people)
                and all(world.is_final(id_) for person in self.people for id_ in person.sent)
            ),
            SETTLE_MS,
        )
        world.run_until(self.nothing_is_open, SETTLE_MS)
        world.run(2_000)
        world.demand_equal()

    def nothing_is_open(self) -> bool:
        """Whether no validator has voted in a slot that is not decided there."""
        return not any(
            slot.locked or slot.promised for v in self.world.alive for slot in v._table.slots.values()
        )

    def look_back(self) -> None:
        """What must hold of the whole history."""
        world = self.world
        for person in self.people:
            for id_ in person.sent:
                for validator in world.alive:
                    certificate = validator.certificate(id_)
                    demand(certificate is not None, "final without a certificate")
                    assert certificate is not None
                    shown = verify_certificate(certificate, world.committee, 0, world.network)
                    demand(shown == id_, "a certificate for another operation")
        finals = {id_ for each in world.finals for id_ in each}
        for signed in self.cheated.values():
            demand(len(finals.intersection(signed)) <= 1, "A2: both of two conflicting operations")
        for node in world.nodes:
            demand(node.journal.state().supply().total == world.genesis.supply, "9: the replay")


def simulate(seed: int, weights: Sequence[int], faulty: bool = True) -> Run:
    run = Run(seed, weights)
    if faulty:
        run.world.at(run.world.now + 800, run.nemesis)
        run.world.at(run.world.now + run.rng.randint(1_500, 7_000), run.equivocate)
    run.world.run(FAULTY_MS)
    run.settle()
    run.look_back()
    return run


@pytest.mark.parametrize("seed", SEEDS)
def test_a1_c1_c2_committees_keep_their_promises_under_faults(seed: int) -> None:
    run = simulate(seed, COMMITTEES[seed % len(COMMITTEES)])
    assert sum(len(person.sent) for person in run.people) >= 10


def test_without_faults_everything_is_decided_in_a_few_batches_time() -> None:
    run = simulate(1, (1, 1, 1, 1), faulty=False)
    assert sum(len(person.sent) for person in run.people) > 100
    assert run.world.refusals == []


def test_v13_the_same_seed_gives_the_same_run() -> None:
    first, second = (simulate(3, (2, 1, 1, 1)) for _ in range(2))
    assert first.world.finals == second.world.finals
    assert [n.journal.raw for n in first.world.nodes] == [n.journal.raw for n in second.world.nodes]


def test_c2_a_minority_decides_nothing_and_a_majority_goes_on() -> None:
    world = CommitteeWorld((1, 1, 1, 1))
    world.run(1_000)
    world.faults.cut = lambda a, b: (a == 0) != (b == 0)
    alone = world.submit(world.spend("alice", [("bob", 5)]), [0])
    many = world.submit(world.spend("bob", [("carol", 5)]), [1, 2, 3])
    world.run(30_000)
    assert not world.is_final(alone, [0])
    assert world.is_final(many, [1, 2, 3])
    assert not world.is_final(many, [0])
    world.faults.cut = lambda a, b: False
    world.run_until(lambda: world.is_final(alone) and world.is_final(many), 10_000)
    world.demand_equal()


def test_c2_an_even_split_decides_nothing_until_it_heals() -> None:
    world = CommitteeWorld((1, 1, 1, 1))
    world.run(1_000)
    world.faults.cut = lambda a, b: (a < 2) != (b < 2)
    ids = [world.submit(world.spend("alice", [("bob", 5)]), [0, 1]), world.submit(world.spend("bob"), [2, 3])]
    world.run(60_000)
    assert not any(world.is_final(id_, [i]) for id_ in ids for i in range(4))
    world.faults.cut = lambda a, b: False
    world.run_until(lambda: all(map(world.is_final, ids)), 10_000)


def test_c7_all_validators_restart_together() -> None:
    world = CommitteeWorld((1, 1, 1, 1))
    world.run(1_000)
    ids = [world.submit(world.spend(name)) for name in ("alice", "bob", "carol")]
    world.run(25)
    for node in world.nodes:
        world.crash(node.index)
    world.run(1_000)
    for node in world.nodes:
        world.start(node.index)
    world.run_until(lambda: all(map(world.is_final, ids)), 10_000)
    world.demand_equal()


@pytest.mark.parametrize("step", range(12))
def test_b1_one_validator_dies_at_each_step_of_an_operation(step: int) -> None:
    world = CommitteeWorld((1, 1, 1, 1), seed=step)
    world.run(1_000)
    id_ = world.submit(world.spend("alice", [("bob", 5)]))
    world.run(5 * step)
    world.crash(2)
    world.run(500)
    world.start(2)
    world.run_until(lambda: world.is_final(id_), 10_000)
    world.demand_equal()


@pytest.mark.parametrize("kth", range(12))
def test_a6_whichever_message_is_lost_it_is_final_once(kth: int) -> None:
    world = CommitteeWorld((1, 1, 1, 1), seed=kth)
    world.run(1_000)
    signed = world.spend("alice", [("bob", 5)])
    count, original = [0], world.send

    def lossy(source: int, target: int, deliver: Callable[..., object]) -> None:
        count[0] += 1
        if count[0] % 12 != kth:
            original(source, target, deliver)  # type: ignore[arg-type]

    world.send = lossy  # type: ignore[method-assign]
    id_ = world.submit(signed)
    world.run_until(lambda: world.is_final(id_), 40_000)
    world.submit(signed)  # the client did not hear of it: the same bytes once more
    world.run(1_000)
    assert all(each.count(id_) == 1 for each in world.finals)


def test_10_how_long_faults_lasted_does_not_matter() -> None:
    times = []
    for outage_ms in (5_000, 300_000):
        world = CommitteeWorld((1, 1, 1, 1))
        world.run(1_000)
        world.faults.cut = lambda a, b: True
        ids = [world.submit(world.spend(name)) for name in ("alice", "bob")]
        world.run(outage_ms)
        world.faults.cut = lambda a, b: False
        times.append(max(world.run_until(partial(world.is_final, id_), 25_000) for id_ in ids))
    assert abs(times[0] - times[1]) <= 1_000


# --- invariant 8: the priority of receipts ---------------------------------------------------------------


def payer_wins(seed: int) -> bool:
    """Whether a Lock ends below a receipt that a third of the weight held before its expiry.

    The payer asks for its refund as soon as it may; messages are lost, doubled and late all the time.
    """
    world = CommitteeWorld((1, 1, 1, 1), ("alice", "bob", "carol"), seed)
    rng = random.Random(f"priority {seed}")
    world.run(1_000)
    terms = LockTerms(
        beneficiaries=(Share(world.ids["bob"], 1),),
        deposit=1_000,
        step=10,
        authority=(key_of("session").public,),
        threshold=1,
        closer=key_of("bob").public,
        expiry=world.now + 8_000,
        purpose=purpose_digest(b"test"),
    )
    opening = world.spend("alice", locks=[terms])
    world.decide(opening)
    lock = world.validator(0).state.locks[lock_id(operation_id(opening.raw), 0)]
    receipt = Payer(world.network, lock, key_of("session")).sign(rng.choice([5, 300]), 1, b"c" * 32)
    ahead = msgspec.structs.replace(lock, seq=4, head=b"h" * 32)  # a slot that nobody can vote in yet
    world.faults.loss, world.faults.double, world.faults.delay_ms = 0.2, 0.2, (1, 1_500)
    world.submit(settle_operation(ahead, receipt), rng.sample(range(4), 2))
    world.run(7_000)
    for _ in range(40):
        world.submit(refund_operation(world.network, lock), rng.sample(range(4), rng.randint(1, 4)))
        world.run(500)
    paid = read_receipt(receipt.body).cumulative
    return any(v.state.locks[lock.id].ended and v.state.locks[lock.id].paid < paid for v in world.alive)


@pytest.mark.parametrize("seed", range(12))
def test_8_no_lock_ends_below_a_receipt_that_was_spread_in_time(seed: int) -> None:
    assert not payer_wins(seed)


def test_8_mutant_that_locks_below_a_held_receipt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HeldReceipts, "allow", lambda *_: True)
    assert any(payer_wins(seed) for seed in range(12))


# --- an equivocating validator: one key, two processes that do not know of each other ------------------


def _outside(side: set[int], a: int, b: int) -> bool:
    return not {a, b} <= side


def twins(weights: Sequence[int]) -> bool:
    """Whether two conflicting operations can both be decided when the heaviest member runs twice."""
    world = CommitteeWorld(weights)
    world.run(1_000)
    n, twin = len(weights), world.committee.weights.index(max(weights))
    others = [index for index in range(n) if index != twin]
    halves = [{*others[: n // 2], twin}, {*others[n // 2 :], twin}]
    first, second = (world.spend("alice", [("bob", amount)]) for amount in (5, 6))
    # The second process has the disk that both started from.
    journal = world.nodes[twin].journal
    other = MemoryJournal(world.genesis)
    other.raw, other.segments, other.segment = dict(journal.raw), dict(journal.segments), journal.segment
    decided = []
    for signed, side, disk in ((first, halves[0], journal), (second, halves[1], other)):
        world.nodes[twin].journal = disk
        world.crash(twin)
        world.faults.cut = partial(_outside, side)
        world.start(twin)
        world.auditor.locks = {key: id_ for key, id_ in world.auditor.locks.items() if key[0] != twin}
        for index in range(n):
            if index in side and index != twin:
                world.act(
                    twin, partial(world.validator(twin).handle_height, world.keys[index].public, 0, world.now)
                )
        world.submit(signed, sorted(side))
        world.run(5_000)
        decided.append(any(world.is_final(operation_id(signed.raw), [i]) for i in side))
    return all(decided)


def test_a3_a_third_of_the_weight_that_votes_twice_decides_nothing_twice() -> None:
    assert not twins((1, 1, 1, 1))
    assert not twins((3, 3, 3, 4))
    assert not twins((2, 2, 2, 2, 2, 2, 5))


def test_a3_with_more_than_a_third_safety_is_lost_so_the_check_can_fail() -> None:
    with pytest.raises(Broken, match="3: two operations in one slot"):
        twins((1, 1, 3))


# --- planted faults: each must be caught ----------------------------------------------------------------


def caught(seeds: Sequence[int] = range(12), weights: Sequence[int] = (1, 1, 1, 1)) -> bool:
    """Whether any seed shows that something is wrong."""
    for seed in seeds:
        try:
            simulate(seed, weights)
        except (AssertionError, Error, KeyError):
            return True
    return False


def test_mutant_none_is_caught_without_a_fault() -> None:
    assert not caught(range(4))


def test_mutant_locks_twice_in_a_view(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(dict[int, bytes]):
        def __contains__(self, view: object) -> bool:
            return False

    original = Slot.__init__

    def forgetful(slot: Slot, *args: object) -> None:
        original(slot)
        slot.locked = Forgetful()

    monkeypatch.setattr(Slot, "__init__", forgetful)
    monkeypatch.setattr(Slot, "lock", lambda *_: None)
    assert caught()


def test_mutant_forgets_its_votes_on_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Validator, "_restore_votes", lambda *_: None)
    assert caught()


def test_mutant_forgets_its_whole_log_and_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        MemoryJournal, "restore", lambda self, members, epoch=0: Restored(0, [[]] * members, [])
    )
    monkeypatch.setattr(Validator, "voting", property(lambda self: self.halted is None))
    assert caught()


def test_mutant_sends_before_it_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryJournal, "write", lambda self, records: None)
    assert caught(range(1))


def test_mutant_does_not_write_the_operations_that_votes_rest_on(monkeypatch: pytest.MonkeyPatch) -> None:
    original = MemoryJournal.write

    def without(self: MemoryJournal, records: Records) -> None:
        records.operations = []
        original(self, records)

    monkeypatch.setattr(MemoryJournal, "write", without)
    assert caught()


def test_mutant_quorum_off_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Committee.__post_init__

    def lenient(self: Committee) -> None:
        original(self)
        object.__setattr__(self, "quorum", self.quorum - 1)

    monkeypatch.setattr(Committee, "__post_init__", lenient)
    assert caught(range(40))


def test_mutant_commits_without_a_quorum(monkeypatch: pytest.MonkeyPatch) -> None:
    original = VoteTable.count

    def hasty(self: VoteTable, batch: object) -> object:
        counted = original(self, batch)  # type: ignore[arg-type]
        for candidate in self.candidates.values():
            candidate.prepared = 0
            counted.prepared.append((candidate, 0))
        return counted

    monkeypatch.setattr(VoteTable, "count", hasty)
    assert caught()


def test_mutant_applies_without_a_quorum(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Decider._commit

    def hasty(self: Decider, candidate: Candidate, slot: Slot, view: int, now: int) -> None:
        original(self, candidate, slot, view, now)
        candidate.final = 0
        self.room.work.append(candidate)

    monkeypatch.setattr(Decider, "_commit", hasty)
    assert caught()
