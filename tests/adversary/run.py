"""One seed, one run: a committee, traitors, people, faults; then these stop, and all must be decided."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import msgspec

from tests.adversary.byzantine import Traitor, choose_traitors
from tests.adversary.exodus import Exodus
from tests.adversary.faults import Nemesis
from tests.adversary.marks import sometimes
from tests.adversary.people import Town, make_people
from tests.adversary.signatures import remembered
from tests.adversary.violation import Violation, demand
from tests.adversary.world import BEGIN, PARAMETERS, World

COMMITTEES = (
    (1, 1, 1, 1),
    (5, 4, 3, 3),
    (1, 1, 1, 1),
    (2, 2, 1, 1),
    (1,) * 7,
    (9, 7, 5, 3, 3, 2, 2),
    (1,) * 10,
    tuple(range(3, 13)),
)
SIEGE_COMMITTEES = ((10, 10, 10, 10), (25, 20, 15, 15), (10,) * 7)  # a bond weighs something beside them
SIEGE_EVERY = 4
HAGGLE_EVERY, HAGGLE_AT = 32, 29
EXODUS_EVERY, EXODUS_AT = 16, 10
MEMBER_GRANT = 20_000  # uain: for fees, and for waivers, which hold next to nothing
FOLLOWERS = 2
SETTLE_LIMIT_MS = (
    240_000  # for n = 4: in this time all that is pending is decided, however long faults lasted
)


@dataclass
class Plan:
    """What one seed does.

    Attributes:
        siege: epochs' ends are attacked too, members join with bonds and leave, k of m verifiers sign, and
            each way between two members fails by itself.
        exodus: a siege in which members of the genesis give their seats up.
    """

    seed: int
    weights: tuple[int, ...]
    traitors: tuple[str, ...]
    faulty_ms: int
    nemesis: bool
    outage_ms: int
    surplus: int = 0
    epoch_ms: int = 3_600_000
    siege: bool = False
    exodus: bool = False


@dataclass
class Outcome:
    """What came of it."""

    seed: int
    slots: int = 0
    contended: int = 0
    decided: int = 0
    later_views: int = 0
    evidence: int = 0
    epochs: int = 0
    settled_ms: int = 0
    events: int = 0
    trace: str = ""
    plan: str = ""
    violation: str = ""
    check: str = ""
    log: list[str] = field(default_factory=list)


def plan_for(seed: int) -> Plan:
    """Every fourth seed is a siege, with a haggler in every eighth of them; every sixteenth is an exodus."""
    if seed % EXODUS_EVERY == EXODUS_AT:
        return _exodus_for(seed)
    return _siege_for(seed) if seed % SIEGE_EVERY == 1 else _storm_for(seed)


def _siege_for(seed: int) -> Plan:
    rng = random.Random(f"siege {seed}")
    kind = rng.choice(("", *Traitor.KINDS, "single", "single", "single"))
    if seed % HAGGLE_EVERY == HAGGLE_AT:
        kind = "haggler"
    return Plan(
        seed,
        SIEGE_COMMITTEES[rng.choice((0, 0, 0, 1, 1, 2))],
        (kind,) if kind else (),
        faulty_ms=rng.choice((3_000, 5_000, 8_000)),
        nemesis=rng.random() < 0.8,
        outage_ms=rng.choice((0, 0, 0, 20_000)),
        epoch_ms=rng.choice((3_600_000, 4_000, 2_000, 1_500)),
        siege=True,
    )


def _exodus_for(seed: int) -> Plan:
    rng = random.Random(f"exodus {seed}")
    kind = rng.choice(("", "", "", *Traitor.KINDS, "single", "single"))
    return Plan(
        seed,
        rng.choice(SIEGE_COMMITTEES),
        (kind,) if kind else (),
        faulty_ms=rng.choice((5_000, 8_000, 12_000)),
        nemesis=rng.random() < 0.7,
        outage_ms=rng.choice((0, 0, 0, 20_000)),
        epoch_ms=rng.choice((3_000, 2_000, 1_500)),
        siege=True,
        exodus=True,
    )


def _storm_for(seed: int) -> Plan:
    rng = random.Random(f"plan {seed}")
    weights = COMMITTEES[rng.choice((0, 0, 1, 1, 2, 3, 4, 5, 6, 7))]
    kind = rng.choice(("", *Traitor.KINDS, *Traitor.KINDS))
    return Plan(
        seed,
        weights,
        (kind,) if kind else (),
        faulty_ms=rng.choice((1_500, 3_000, 5_000)),
        nemesis=rng.random() < 0.7,
        outage_ms=rng.choice((0, 0, 0, 0, 0, 20_000, 200_000)),
        epoch_ms=rng.choice((3_600_000, 3_600_000, 4_000, 2_000)),
    )


class Run:
    """A plan, carried out."""

    def __init__(self, plan: Plan, *, trace: bool = False) -> None:
        self.plan = plan
        seed = plan.seed
        rng = random.Random(f"run {seed}")
        people = make_people(4, 5, lease_ms=1_500)
        parameters = msgspec.structs.replace(
            PARAMETERS, vote_timeout_ms=500, lease_ms_min=1_500, epoch_ms=plan.epoch_ms
        )
        inceptions = [person.inception for person in people]
        followers = FOLLOWERS if plan.siege else 0
        grant = MEMBER_GRANT if plan.exodus else 0
        self.world = world = World(f"world {seed}", plan.weights, inceptions, parameters, followers, grant)
        if trace:
            world.log = []
        traitors = choose_traitors(rng, plan.weights, surplus=plan.surplus) if plan.traitors else []
        if plan.exodus:  # one alone: with it, a third is the sooner reached the more leave
            traitors = traitors[:1]
        for place in traitors:
            world.auditor.honest -= {place}
        for place in world.places:
            if place in traitors:
                kind = rng.choice(plan.traitors)
                Traitor(world, place, kind, f"traitor {seed} {place}", siege=plan.siege)
            else:
                world.add_brain(place)
        self.town = Town(world, people, f"town {seed}", siege=plan.siege)
        if plan.exodus:
            Exodus(self.town)
        self.nemesis = Nemesis(world, f"nemesis {seed}")
        if plan.siege:
            self.nemesis.kinds += [self.nemesis.web] * 8

    def carry_out(self) -> None:
        world, plan = self.world, self.plan
        world.after(400, lambda: self.town.live((60, 250)))
        if plan.nemesis:
            world.after(500, self.nemesis.start)
        world.run(plan.faulty_ms)
        if plan.outage_ms:
            self.nemesis.stopped = True
            self.nemesis.outage()
            if plan.outage_ms > 2 * 6_000:  # as long as most Locks live, and much longer than leases
                sometimes("an outage outlasts leases and expiries")
            world.run(plan.outage_ms)
        self.town.quiet = True
        self.nemesis.stop()
        self.settled_ms = self._settle()
        self._look_back()

    # --- 10: once faults stop ---------------------------------------------------------------------

    def _settle(self) -> int:
        """All that is pending is decided, in time that does not depend on how long faults lasted."""
        world, town = self.world, self.town
        began, step = world.now, 500
        for id_, signed in list(town.sent.items()):
            if id_ not in world.auditor.final:
                town.submit(signed)
        while True:
            world.run(step)
            pending = self._pending()
            if not pending:
                if self._all_the_same():
                    return world.now - began
            elif (world.now - began) % 3_000 == 0:
                for id_ in pending:
                    town.submit(town.sent[id_])
            demand(
                world.now - began < SETTLE_LIMIT_MS,
                "10 liveness",
                f"{len(pending)} operations wait {SETTLE_LIMIT_MS} ms after the faults: "
                + ", ".join(self._describe(id_) for id_ in pending[:3]),
            )

    def _describe(self, id_: bytes) -> str:
        operation = self.world.auditor.operations[id_].operation
        rivals = len(self.world.auditor.rivals[operation.object, operation.seq])
        return f"{type(operation.body).__name__} {id_.hex()[:8]} of {rivals} for slot {operation.seq}"

    def _pending(self) -> list[bytes]:
        """What is valid now, was sent, and is not decided."""
        auditor = self.world.auditor
        pending = []
        for id_ in self.town.sent:
            parsed = auditor.operations.get(id_)
            if id_ in auditor.final or parsed is None:
                continue
            operation = parsed.operation
            if auditor.book.head(operation.object) != (operation.seq - 1, operation.previous):
                continue
            if operation.timestamp is not None and operation.timestamp > self.world.now + 60_000:
                continue
            if auditor.problem(parsed) is not None:
                continue
            deposit = auditor.book.deposits.get(operation.object)
            if deposit is not None and auditor._is_gated(parsed) and self.world.now < deposit.expiry:
                continue
            pending.append(id_)
        return pending

    def _all_the_same(self) -> bool:
        frontier = {id_: purse.head for id_, purse in self.world.auditor.book.purses.items()}
        frontier.update({id_: lock.head for id_, lock in self.world.auditor.book.deposits.items()})
        frontier[self.world.network] = self.world.auditor.book.system[1]
        for brain in self.world.honest:
            assert brain.validator is not None
            state = brain.validator.state
            shown = {id_: account.head for id_, account in state.accounts.items()}
            shown.update({id_: lock.head for id_, lock in state.locks.items()})
            shown[self.world.network] = state.system.head
            if shown != frontier:
                return False
        return True

    # --- at the end ---------------------------------------------------------------------------------

    def _look_back(self) -> None:
        world = self.world
        roots = set()
        for brain in world.honest:
            assert brain.validator is not None
            world.auditor.whole(brain.place, brain.validator.state)
            roots.add(brain.validator.state.root())
            if None in brain.validator._decider.contention._judging._judged.values():
                sometimes("a justification that is void")
        demand(len(roots) == 1, "5 roots", "equal frontiers, and other roots")
        world.run(2_000)  # all is written by then, unless something was decided meanwhile
        for brain in world.honest:
            assert brain.validator is not None
            replayed, state = brain.disk.state(), brain.validator.state
            if replayed.operations == state.operations:
                sometimes("a replay is compared")
                demand(replayed.root() == state.root(), "9 replay", f"validator {brain.place}")
            else:
                demand(world.now - BEGIN < 10_000_000, "9 replay", "decided operations are never written")


def simulate(seed: int, *, trace: bool = False, plan: Plan | None = None) -> Outcome:
    """Run a seed; a violation is in the outcome."""
    plan = plan or plan_for(seed)
    outcome = Outcome(seed, plan=f"n={len(plan.weights)} {'/'.join(plan.traitors) or 'no traitor'}")
    with remembered():
        run = Run(plan, trace=trace)
        try:
            run.carry_out()
            outcome.settled_ms = run.settled_ms
        except Violation as exc:
            outcome.check, outcome.violation = exc.check, exc.what
        except Exception as exc:  # whatever it is, the seed is what people need
            outcome.check, outcome.violation = "crash of a core", f"{type(exc).__name__}: {exc}"
    auditor = run.world.auditor
    outcome.slots = len(auditor.decided)
    outcome.contended = sum(
        len(rivals) > 1 for slot, rivals in auditor.rivals.items() if slot in auditor.decided
    )
    outcome.later_views = sum(view > 0 for view in auditor.final.values())
    outcome.decided = len(auditor.final)
    outcome.epochs = auditor.book.epoch
    outcome.evidence = len(run.world.evidence)
    outcome.events = run.world.events
    outcome.trace = run.world.trace.hexdigest()
    outcome.log = run.world.log or []
    return outcome


__all__ = ["Outcome", "Plan", "Run", "plan_for", "simulate"]
