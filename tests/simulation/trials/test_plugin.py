"""`@sim.test` as its users see it: pytest run on files of theirs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import trio

import ainp2p.agents.agent
import ainp2p.ledger.serving.service  # what worlds import when they begin: once, not once a run of pytest
import ainp2p.simulation.running  # noqa: F401
from ainp2p.agents.agent import Agent
from ainp2p.errors import InvalidInput
from ainp2p.simulation import InvariantViolated, World
from ainp2p.simulation import test as sim_test
from ainp2p.simulation.core.bounded import BoundedClock
from ainp2p.simulation.core.clock import VirtualClock
from ainp2p.simulation.running import ModelFunction
from ainp2p.simulation.trials import plugin
from ainp2p.simulation.trials.replay import Trial

pytest_plugins = ["pytester"]

HEAD = """
import pytest, trio
from hypothesis import given, settings, strategies as st
import ainp2p.simulation as sim

def never_late(world):
    assert world.now < 20 or not world._collector.marks["fault: pause"], "somebody was paused"

"""
PAUSED = """
@sim.test(seeds=SEEDS, committee=1, faults=sim.Profile(kinds=("pause", "skew", "skew"), every_s=3))
async def test_nobody_is_paused(world):
    world.check(never_late)
    await world.run_for(30)
"""


@pytest.fixture
def run(pytester: pytest.Pytester) -> object:
    def run_on(code: str, *options: str) -> pytest.RunResult:
        pytester.makepyfile(test_it=HEAD + code)
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", *options)

    return run_on


def test_each_seed_is_a_case_of_its_own(run: object) -> None:
    result = run(  # type: ignore[operator]
        """
@sim.test(seeds=3, committee=1)
async def test_it(world):
    await world.run_for(5)
    assert world.seed != 1
""",
        "-v",
    )
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*test_it[[]seed0[]] PASSED*", "*test_it[[]seed1[]] FAILED*"])


def test_fixtures_and_parameters_are_given_outside_the_world(run: object) -> None:
    result = run(  # type: ignore[operator]
        """
@pytest.fixture
def three(tmp_path):
    return 3

@pytest.mark.parametrize("n", [1, 2])
@sim.test(seeds=[7, 9], committee=1, latency=0.05)
async def test_it(world, three, n):
    assert (three, n in (1, 2), world.seed in (7, 9)) == (3, True, True)
    assert world.wire.weather.latency == 0.05
"""
    )
    result.assert_outcomes(passed=4)


def drawing(order: str, seeds: int) -> list[str]:
    """The decorators of a test that draws `n`."""
    ours = f"@sim.test(seeds={seeds}, committee=1)"
    theirs = ["@settings(deadline=None, max_examples=20, database=None)", "@given(n=st.integers(0, 50))"]
    return [ours, *theirs] if order == "sim.test outside" else [*theirs, ours]


@pytest.mark.parametrize("order", ["sim.test outside", "given outside"])
def test_hypothesis_draws_arguments_for_every_seed(run: object, order: str) -> None:
    result = run(  # type: ignore[operator]
        "\n".join(["drawn = []", *drawing(order, 2)])
        + """
async def test_it(world, n):
    await world.run_for(1)
    drawn.append((world.seed, n))

def test_all_were_drawn():
    assert {seed for seed, _ in drawn} == {0, 1} and len(set(drawn)) > 5
"""
    )
    result.assert_outcomes(passed=3)


@pytest.mark.parametrize("order", ["sim.test outside", "given outside"])
def test_hypothesis_finds_the_smallest_argument_and_the_report_is_of_that(run: object, order: str) -> None:
    result = run(  # type: ignore[operator]
        "\n".join(drawing(order, 1))
        + """
async def test_it(world, n):
    await world.run_for(n)
    assert n < 17
"""
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*n=17*", "seed 0, at 17.* s virtual: AssertionError*"])


def before_five(world: World) -> bool:
    return world.now < 5


async def watched(world: World) -> None:
    world.check(before_five)
    await world.run_for(30)


async def asserting(world: World) -> None:
    await world.run_for(5)
    assert before_five(world), world.now


@pytest.mark.parametrize("model", [watched, asserting])
def test_a_failure_is_told_as_of_its_moment_not_after_everybody_has_left(model: ModelFunction) -> None:
    left: list[float] = []

    async def town(world: World) -> None:
        async def leave_slowly(agent: Agent) -> None:
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(7)
                world.trace.note("left")
                left.append(world.now)

        await world.spawn("slow", main=leave_slowly).ready()
        await model(world)

    attempt = Trial(town, 1, {"committee": 1}).attempt()
    assert 5 <= attempt.at_s < 5.2
    assert left[0] >= 12
    assert float(attempt.events[-1].split()[1].rstrip("s")) <= attempt.at_s
    if isinstance(attempt.error, InvariantViolated):
        assert (attempt.at_s, attempt.events) == (attempt.error.at_s, attempt.error.events)


def again(result: pytest.RunResult) -> list[str]:
    """The command that a report gives, as words."""
    lines = [line.strip() for line in result.outlines]
    return shlex.split(lines[lines.index("again:") + 1])


def test_a_failure_tells_seed_time_invariant_few_faults_last_events_and_the_command(
    run: object, pytester: pytest.Pytester
) -> None:
    code = PAUSED.replace("SEEDS", "1")
    result = run(code)  # type: ignore[operator]
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "seed 0, at 20.000 s virtual: invariant 'never_late' is violated: somebody was paused",
            "faults: 1 of * faults, after * runs; nothing smaller does",
            "  *+0.1* pause *",
            "last events:",
            "again:",
            "  pytest test_it.py::test_nobody_is_paused --sim-seed=0 '--sim-faults=* pause *'",
        ]
    )
    command = again(result)
    assert command[0] == "pytest"
    replayed = pytester.runpytest_inprocess(*command[1:])
    replayed.assert_outcomes(failed=1)
    replayed.stdout.fnmatch_lines(["seed 0, at 20.000 s virtual: invariant 'never_late' is violated*"])
    assert again(replayed) == command
    harmless = pytester.runpytest_inprocess(*command[1:-1], "--sim-faults=3+0.5 skew validator0 ms=5")
    harmless.assert_outcomes(passed=1)


def test_faults_are_read_from_a_file(run: object, pytester: pytest.Pytester) -> None:
    pytester.maketxtfile(bad="3+1 skew validator0 ms=1\n4+1 pause validator0\n")
    run(PAUSED.replace("SEEDS", "1"), "--sim-faults=@bad.txt").assert_outcomes(failed=1)  # type: ignore[operator]


def test_the_search_for_fewer_faults_stops_where_it_is_told_to_and_says_so(run: object) -> None:
    result = run(PAUSED.replace("SEEDS", "1"), "--sim-shrink=1")  # type: ignore[operator]
    result.stdout.fnmatch_lines(["faults: * faults, after 1 runs; the limit came first: there may be less"])


def test_a_failure_without_faults_says_that_none_were_needed(run: object) -> None:
    result = run(  # type: ignore[operator]
        """
@sim.test(seeds=1, committee=1, faults=sim.Profile())
async def test_it(world):
    await world.run_for(30)
    assert world.now < 3, "late"
"""
    )
    result.stdout.fnmatch_lines(["faults: none is needed for it", "  pytest *test_it --sim-seed=0 *"])


def test_a_deadlock_shows_where_every_task_waits(run: object) -> None:
    result = run(  # type: ignore[operator]
        """
@sim.test(seeds=1, committee=1)
async def test_it(world):
    world._stop_timers = world.clock._heap.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever, name="the one that waits")
        for node in list(world.nodes.values()):
            world.crash(node)
        await world.run_for(300)
        nursery.cancel_scope.cancel()
        await trio.Event().wait()

@sim.test(seeds=1, committee=1)
async def test_other(world):
    for name in list(world.nodes):
        world.crash(name)
    await trio.Event().wait()  # this line
"""
    )
    result.stdout.fnmatch_lines(
        ["seed 0, at * s virtual: deadlock: every task waits*", "where every task waits:", "*# this line"]
    )


WAITS = """
@sim.test(seeds=1, committee=1, within_s=50)
async def test_it(world):
    await trio.Event().wait()  # this line
"""


def test_a_test_that_waits_while_the_rest_goes_on_is_ended_with_every_stack(run: object) -> None:
    result = run(WAITS)  # type: ignore[operator]
    result.stdout.fnmatch_lines(
        [
            "seed 0, at * s virtual: Overdue: not over after 50 virtual seconds (within_s*",
            "where every task waits:",
            "*# this line",
        ]
    )


def test_mutant_a_test_without_a_limit_waits_as_long_as_the_committee_goes_on(
    run: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tired(Exception):
        """Somebody has waited long enough."""

    def look(clock: VirtualClock, deadline: float) -> float:
        if clock.now > 500 and clock.error is None:
            clock.fail(Tired())
        return VirtualClock.deadline_to_sleep_time(clock, deadline)

    monkeypatch.setattr(BoundedClock, "deadline_to_sleep_time", look)
    result = run(WAITS)  # type: ignore[operator]
    result.stdout.fnmatch_lines(["seed 0, at 5* s virtual: Tired*"])


def test_within_its_time_a_test_is_what_it_would_be_without_a_limit() -> None:
    async def town(world: World) -> None:
        await world.run_for(60)

    assert Trial(town, 3, within_s=61).attempt().hash == Trial(town, 3).attempt().hash
    with pytest.raises(InvalidInput, match="within_s"):
        sim_test(within_s=0)


def test_a_method_is_a_test_as_well(run: object) -> None:
    result = run(  # type: ignore[operator]
        """
class TestIt:
    n = 3

    @sim.test(seeds=2, committee=1)
    async def test_it(self, world, tmp_path):
        assert self.n == 3 and tmp_path.exists() and world.seed < 1

    @sim.test(seeds=1, committee=1)
    @settings(deadline=None, max_examples=2)
    @given(n=st.integers(0, 5))
    async def test_that(self, world, n):
        assert self.n == 3 and n <= 5
"""
    )
    result.assert_outcomes(passed=2, failed=1)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--sim-seeds=0", "one seed or more"),
        ("--sim-seeds=-3", "one seed or more"),
        ("--sim-faults=@none", "No such file"),
        ("--sim-faults=soon crash alice", "is no fault"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_runs(
    run: object, option: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(PAUSED.replace("SEEDS", "1"), option)  # type: ignore[operator]
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{said}*"])


def test_a_fault_of_nobody_is_told_with_its_words(run: object) -> None:
    result = run(PAUSED.replace("SEEDS", "1"), "--sim-faults=3 pause nobody")  # type: ignore[operator]
    result.stdout.fnmatch_lines(
        [
            "seed 0, at 3.000 s virtual: Misnamed: '3 pause nobody': no node is called 'nobody'; there are *",
            "faults: 1 of 1 fault, after 0 runs*",
            "  pytest * '--sim-faults=3 pause nobody'",
        ]
    )


def test_a_failure_that_does_not_come_again_says_so(run: object) -> None:
    result = run(  # type: ignore[operator]
        """
lives = []
@sim.test(seeds=1, committee=1)
async def test_it(world):
    lives.append(world)
    assert len(lives) > 1
"""
    )
    result.stdout.fnmatch_lines(
        ["the same seed and faults again end otherwise: nothing failed", "something in the test is decided*"]
    )


def test_pytest_s_own_failures_and_skips_work_inside_a_world(run: object) -> None:
    result = run(  # type: ignore[operator]
        """
@sim.test(seeds=1, committee=1)
async def test_fails(world):
    with pytest.raises(ValueError):
        await world.run_for(1)

@sim.test(seeds=1, committee=1)
async def test_skips(world):
    pytest.skip("not today")
"""
    )
    result.assert_outcomes(failed=1, skipped=1)
    result.stdout.fnmatch_lines(["*DID NOT RAISE*", "seed 0, at 1.* s virtual: Failed: DID NOT RAISE*"])


# --- seeds ------------------------------------------------------------------------------------------------

COUNTING = """
@sim.test(seeds=[3, 4], committee=1, must_reach=["five"])
async def test_it(world):
    world.sometimes("five", world.seed == 5)
    world.sometimes("any")
"""


@pytest.mark.parametrize(
    ("options", "outcome"),
    [
        pytest.param((), {"passed": 2, "failed": 1}, id="its own seeds never reach it"),
        pytest.param(("--sim-seeds=9",), {"passed": 9}, id="more seeds do"),
        pytest.param(("--sim-seeds=6", "-n2"), {"passed": 6}, id="in two processes"),
        pytest.param(("--sim-seeds=4", "-n2"), {"passed": 4, "failed": 1}, id="in two processes, not"),
        pytest.param(("--sim-seed=3",), {"passed": 1}, id="one seed proves nothing"),
        pytest.param(("--sim-seed=3", "--sim-seed=5"), {"passed": 2}, id="two given seeds"),
        pytest.param(("-k", "seed3"), {"passed": 1}, id="a part was selected"),
    ],
)
def test_h3_a_mark_that_no_seed_reached_fails_the_test(
    run: object, options: tuple[str, ...], outcome: dict[str, int]
) -> None:
    result = run(COUNTING, *options)  # type: ignore[operator]
    result.assert_outcomes(**outcome, deselected=1 if "-k" in options else 0)
    assert result.ret == (1 if "failed" in outcome else 0)
    if "failed" in outcome:
        result.stdout.fnmatch_lines(
            ["In none of its * cases was this reached: 'five'.", "  any: *", "FAILED *test_it[[]must_reach]*"]
        )


def test_h3_a_mutant_that_forgets_the_marks_is_noticed(run: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin._Test, "missing", [])
    run(COUNTING).assert_outcomes(passed=2)  # type: ignore[operator]


def test_a_mark_of_a_fault_can_be_demanded(run: object) -> None:
    result = run(  # type: ignore[operator]
        """
@sim.test(seeds=2, committee=1, must_reach=["fault: pause", "fault: crash"], faults="1+1 pause validator0")
async def test_it(world):
    await world.run_for(5)
"""
    )
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["In none of its 2 cases was this reached: 'fault: crash'."])


# --- what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [0, [], [1, 1]], ids=["none", "an empty list", "one twice"])
def test_seeds_that_say_nothing_are_refused(seeds: object) -> None:
    with pytest.raises(InvalidInput, match="one seed or more"):
        sim_test(seeds=seeds)  # type: ignore[arg-type]


def test_a_text_is_no_list_of_marks() -> None:
    with pytest.raises(InvalidInput, match="must_reach is a list of marks"):
        sim_test(must_reach="bought")


def test_a_function_without_a_world_is_refused() -> None:
    def plain(world: object) -> None:
        pass

    async def worldless() -> None:
        pass

    for function in (plain, worldless):
        with pytest.raises(InvalidInput, match="for an async function with an argument `world`"):
            sim_test()(function)


def test_the_plugin_loads_nothing_heavy() -> None:
    code = (
        "import sys, ainp2p.simulation.trials.plugin\n"
        "heavy = ('trio', 'torch', 'libp2p', 'nacl', 'msgspec', 'hypothesis')\n"
        "print(*[name for name in heavy if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == ""


def test_pytest_finds_the_plugin_where_the_library_is_installed() -> None:
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    assert re.search(
        r'\[project\.entry-points\.pytest11\]\nainp2p = "ainp2p\.simulation\.trials\.plugin"', text
    )
