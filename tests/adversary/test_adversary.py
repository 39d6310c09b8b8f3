"""Whole committees attacked from seeds; rows A1 to A3, B2, C1 to C3, F1, H1, H3 of the reliability goals.

`make adversary SEEDS=200000` runs more of the same; `python -m tests.adversary --seed K --trace` one again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.adversary import marks
from tests.adversary.people import Town, make_people
from tests.adversary.run import COMMITTEES, Outcome, Plan, Run, simulate
from tests.adversary.signatures import remembered
from tests.adversary.violation import Violation
from tests.adversary.world import PARAMETERS, World

CHUNKS, SEEDS_PER_CHUNK = 6, 5
# Few that reach all of it.
H3_SEEDS = (3, 9, 10, 17, 90, 120, 125, 130, 132, 137, 139, 141, 145, 200, 225, 266, 58, 538)
ROOT = Path(__file__).parents[2]


def passes(plan: Plan) -> Outcome:
    outcome = simulate(plan.seed, plan=plan)
    assert not outcome.violation, f"{plan}: {outcome.check}: {outcome.violation}"
    return outcome


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a1_a2_c1_c2_committees_under_attack_keep_every_promise(chunk: int) -> None:
    for seed in range(chunk * SEEDS_PER_CHUNK, (chunk + 1) * SEEDS_PER_CHUNK):
        outcome = simulate(seed)
        assert not outcome.violation, (
            f"{outcome.check}: {outcome.violation}; python -m tests.adversary --seed {seed} --trace"
        )


def test_h3_nothing_that_should_happen_sometimes_never_does() -> None:
    marks.reached.clear()
    for seed in H3_SEEDS:
        assert not simulate(seed).violation
    assert marks.missing() == {}, "what happens at these seeds has changed: choose others"


def test_h3_a_mark_that_was_not_reached_is_named_with_what_asks_for_it() -> None:
    known = dict(marks.reached)
    marks.reached.clear()
    marks.reached.update({mark: 1 for mark in marks.EXPECTED if mark != "swizzle-clog"})
    assert marks.missing() == {"C3: swizzle-clog": ["swizzle-clog"]}
    marks.reached.update(known)


def test_a2_owners_that_sign_twice_stop_nobody_else() -> None:
    outcome = passes(Plan(1, COMMITTEES[0], (), 3_000, nemesis=False, outage_ms=0))
    assert outcome.contended >= 15
    assert outcome.later_views > 5
    assert outcome.evidence > 0


@pytest.mark.parametrize("seed", range(6))
def test_a3_less_than_a_third_that_forget_their_disk_are_harmless(seed: int) -> None:
    passes(Plan(seed, COMMITTEES[seed % 2], ("amnesiac",), 5_000, nemesis=True, outage_ms=0))


def forgetting(count: int) -> set[bytes]:
    """What is decided for one slot when `count` of four members lose their disks between two partitions."""
    people = make_people(1, 1, lease_ms=10_000)
    inceptions = [person.inception for person in people]
    world = World("amnesia", (1, 1, 1, 1), inceptions, PARAMETERS)
    brains = [world.add_brain(place) for place in range(4)]
    town = Town(world, people, "amnesia")
    with remembered():
        world.run(2_000)
        rivals = [town.maker.spend(people[1], [(people[0].id, 5)], world.now, fee=fee) for fee in (0, 1)]
        forgetful, images = range(1, 1 + count), [brain.disk.image() for brain in brains]
        world.auditor.honest -= set(forgetful)
        for left_out, signed in ((3, rivals[0]), (0, rivals[1])):
            world.net.cut = lambda a, b, out=left_out: out in (a, b)  # type: ignore[misc]
            town.submit(signed, [place for place in range(4) if place != left_out])
            world.net.cut = lambda a, b, out=left_out: a >= 0 and out in (a, b)  # type: ignore[misc]
            world.run(3_000)
            if left_out:
                for place in forgetful:
                    brains[place].honest = False
                    world.crash(brains[place])
                    brains[place].disk = images[place]
                    world.start(brains[place])
        world.net.calm()
        world.run(10_000)
    return {parsed.id for parsed in world.auditor.rivals[people[1].id, 1] if parsed.id in world.auditor.final}


def test_a3_one_of_four_that_forgets_its_disk_decides_nothing_twice() -> None:
    assert len(forgetting(1)) == 1


def test_a3_the_check_is_checked_two_of_four_that_forget_are_noticed() -> None:
    with pytest.raises(Violation, match="3 one per slot"):
        forgetting(2)


@pytest.mark.parametrize("seed", range(4))
def test_b2_power_cuts_lose_no_vote(seed: int) -> None:
    plan = Plan(seed, COMMITTEES[1], (), 5_000, nemesis=False, outage_ms=0)
    run = Run(plan)
    with remembered():
        run.nemesis.kinds = [run.nemesis.power_cut]
        run.world.after(500, run.nemesis.start)
        run.carry_out()


def test_b2_c7_the_whole_committee_loses_power_at_once() -> None:
    run = Run(Plan(3, COMMITTEES[0], (), 4_000, nemesis=False, outage_ms=0))
    with remembered():
        run.world.after(1_500, run.nemesis.all_restart)
        run.world.after(2_700, run.nemesis.all_restart)
        run.carry_out()
    assert marks.reached["all restart"] >= 2


@pytest.mark.parametrize("kind", ["partition", "one_way", "bridge", "flap"])
def test_c2_partitions_of_all_kinds(kind: str) -> None:
    run = Run(Plan(5, COMMITTEES[4], ("twins",), 3_000, nemesis=False, outage_ms=0))
    with remembered():
        run.nemesis.kinds = [getattr(run.nemesis, kind)]
        run.world.after(500, run.nemesis.start)
        run.carry_out()


def test_c3_swizzle_clog() -> None:
    run = Run(Plan(6, COMMITTEES[0], (), 4_000, nemesis=False, outage_ms=0))
    with remembered():
        run.nemesis.kinds = [run.nemesis.swizzle]
        run.world.after(500, run.nemesis.start)
        run.carry_out()


def test_c1_how_long_an_outage_lasted_does_not_matter() -> None:
    times = []
    for outage_ms in (5_000, 100_000, 2_000_000):
        plan = Plan(7, COMMITTEES[0], (), 3_000, nemesis=False, outage_ms=outage_ms)
        times.append(passes(plan).settled_ms)
    assert max(times) < 30_000, times


@pytest.mark.parametrize("seed", range(3))
def test_f1_clocks_that_are_wrong_and_jump(seed: int) -> None:
    run = Run(Plan(seed, COMMITTEES[seed], (), 4_000, nemesis=False, outage_ms=0))
    with remembered():
        run.nemesis.kinds = [run.nemesis.clocks]
        run.world.after(100, run.nemesis.start)
        run.carry_out()


def test_h1_the_same_seed_gives_the_same_trace_in_two_processes_with_two_hash_seeds() -> None:
    traces = set()
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "tests.adversary", "--seed", "34", "--json"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            timeout=100,
            check=False,
        )
        traces.add(json.loads(done.stdout)["trace"])
    assert len(traces) == 1


def test_a_violation_is_reported_with_the_command_that_repeats_it() -> None:
    violation = Violation("3 one per slot", "two operations")
    assert str(violation) == "3 one per slot: two operations"


def test_the_command_runs_seeds_in_several_processes() -> None:
    """A spawned process has to find what it is to run: it imports no `__main__`."""
    command = [sys.executable, "-m", "tests.adversary", "--seeds", "2", "--jobs", "2", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["violation"] is None
