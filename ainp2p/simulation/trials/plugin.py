"""The pytest plugin behind `@sim.test`: a case per seed, and of a failure all that is needed to see it again.

Loaded by pytest at its start, wherever this library is installed: so it imports pytest and the standard
library only, and does nothing for tests that are not simulated.

Marks that no seed reached are found where all reports come together: in the one process, or in xdist's
controller. Each report carries its case's marks there. When all cases of a test have been reported and a
mark of `must_reach` is missing, a failed report `test_name[must_reach]` is added to the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ainp2p.simulation.trials.testing import ATTRIBUTE, CASE, SEED, Case, Settings

_OURS = "ainp2p_simulation"  # the attribute of a report
_TOLD = pytest.StashKey[str]()
_CASE = pytest.StashKey[Case]()
_SELECTED = pytest.StashKey[dict[str, tuple[int, int]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Our options."""
    group = parser.getgroup("ainp2p", "simulated tests (ainp2p.simulation)")
    group.addoption("--sim-seeds", type=int, metavar="N", help="seeds 0 to N-1 instead of the test's own")
    group.addoption("--sim-seed", type=int, action="append", metavar="K", help="this seed alone; repeatable")
    group.addoption(
        "--sim-faults", metavar="TEXT", help="these faults instead of the test's own; @FILE reads them"
    )
    group.addoption(
        "--sim-shrink", type=int, default=100, metavar="N", help="runs to make faults fewer, at most (100)"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Gather marks where all reports come together; refuse options that cannot be, before anything runs."""
    _check_options(config)
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Gathered(), "ainp2p_simulation_marks")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A case per seed."""
    settings = getattr(metafunc.function, ATTRIBUTE, None)
    if settings is not None:
        seeds = _seeds(metafunc.config, settings)
        metafunc.parametrize(SEED, seeds, ids=[f"seed{seed}" for seed in seeds])


def pytest_collection_finish(session: pytest.Session) -> None:
    """How many cases, and how many seeds, of each test will be run."""
    cases: Counter[str] = Counter()
    seeds: dict[str, set[int]] = {}
    for item in session.items:
        if _settings(item) is not None and isinstance(item, pytest.Function):
            cases[_test(item.nodeid)] += 1
            seeds.setdefault(_test(item.nodeid), set()).add(int(str(item.callspec.params[SEED])))
    session.config.stash[_SELECTED] = {name: (count, len(seeds[name])) for name, count in cases.items()}


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Run a case; if it fails, shrink its faults."""
    settings = _settings(pyfuncitem)
    if settings is None:
        return (yield)
    case = pyfuncitem.stash[_CASE] = Case(_faults(pyfuncitem.config))
    token = CASE.set(case)
    try:
        return (yield)
    except BaseException as exc:
        runs_max = pyfuncitem.config.getoption("--sim-shrink")
        if case.failed is not None and not isinstance(exc, KeyboardInterrupt):
            trial, attempt = case.failed
            found = trial.shrunk(attempt, runs_max=runs_max)
            pyfuncitem.stash[_TOLD] = found.told(lambda seed, faults: _again(pyfuncitem, seed, str(faults)))
        raise
    finally:
        CASE.reset(token)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What was found out about a case goes with its report."""
    report = yield
    settings = _settings(item)
    if settings is None or call.when != "call" or _CASE not in item.stash:
        return report
    if _TOLD in item.stash:
        report.sections.insert(0, ("simulation", item.stash[_TOLD]))
    name = _test(item.nodeid)
    cases, seeds = item.config.stash[_SELECTED].get(name, (0, 0))
    all_seeds = seeds >= len(settings.seeds) and _faults(item.config) is None
    must_reach = list(settings.must_reach) if all_seeds else []  # a part of the seeds proves nothing
    marks = item.stash[_CASE].marks
    setattr(report, _OURS, {"test": name, "cases": cases, "must_reach": must_reach, "marks": marks})
    return report


@dataclass
class _Test:
    """What is known of one test."""

    cases: int
    must_reach: list[str]
    location: tuple[str, int | None, str]
    reported: int = 0
    marks: Counter[str] = field(default_factory=Counter)

    @property
    def missing(self) -> list[str]:
        """Marks that were never reached, once all cases have been reported."""
        return (
            [] if self.reported < self.cases else [name for name in self.must_reach if not self.marks[name]]
        )


class _Gathered:
    """The marks of all tests."""

    def __init__(self) -> None:
        self._tests: dict[str, _Test] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A report has come, perhaps from another process."""
        ours: dict[str, Any] | None = getattr(report, _OURS, None)
        if ours is not None:
            new = _Test(ours["cases"], ours["must_reach"], report.location)
            known = self._tests.setdefault(ours["test"], new)
            known.reported += 1
            known.marks.update(ours["marks"])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """After all tests: fail those that were never where they should have been."""
        result = yield
        for name, known in self._tests.items():
            if missing := known.missing:
                report = _failed(name, known, missing)
                session.config.hook.pytest_runtest_logreport(report=report)
        return result


def _failed(name: str, known: _Test, missing: list[str]) -> pytest.TestReport:
    reached = [f"  {mark}: {count}" for mark, count in sorted(known.marks.items()) if count]
    words = "\n".join(
        [
            f"In none of its {known.cases} cases was this reached: {', '.join(map(repr, missing))}.",
            "A test that never comes where it is to come proves nothing there: more seeds (--sim-seeds),",
            "other faults, or a mark that cannot be reached. Reached were:",
            *(reached or ["  nothing"]),
        ]
    )
    path, line, case = known.location
    return pytest.TestReport(
        nodeid=f"{name}[must_reach]",
        location=(path, line, f"{case.partition('[')[0]}[must_reach]"),
        keywords={},
        outcome="failed",
        longrepr=words,
        when="call",
    )


def _settings(item: pytest.Item) -> Settings | None:
    return getattr(getattr(item, "obj", None), ATTRIBUTE, None)


def _test(nodeid: str) -> str:
    """The test of a case."""
    return nodeid.partition("[")[0]


def _check_options(config: pytest.Config) -> None:
    """Raises `pytest.UsageError` where an option asks for nothing, or for no faults that there are."""
    count: int | None = config.getoption("--sim-seeds")
    if count is not None and count < 1:
        raise pytest.UsageError(f"--sim-seeds={count}: one seed or more")
    try:
        text = _faults(config)
        if text is not None:
            from ainp2p.simulation.trials.faults import Schedule

            Schedule.parse(text)
    except (OSError, ValueError) as exc:
        raise pytest.UsageError(f"--sim-faults: {exc}") from exc


def _seeds(config: pytest.Config, settings: Settings) -> list[int]:
    chosen: list[int] | None = config.getoption("--sim-seed")
    if chosen:
        return list(dict.fromkeys(chosen))
    count: int | None = config.getoption("--sim-seeds")
    return list(settings.seeds) if count is None else list(range(count))


def _faults(config: pytest.Config) -> str | None:
    text: str | None = config.getoption("--sim-faults")
    if text is None or not text.startswith("@"):
        return text
    return Path(text[1:]).read_text("utf-8")


def _again(item: pytest.Function, seed: int, faults: str) -> str:
    """The command that runs a case again."""
    from ainp2p.simulation.trials.replay import command

    name = item.nodeid if len(item.callspec.params) > 1 else _test(item.nodeid)
    settings = _settings(item)
    ours = [f"--sim-faults={faults}"] if faults or (settings and settings.faults is not None) else []
    return command("pytest", name, f"--sim-seed={seed}", *ours)
