"""`@sim.test`: an async function that takes a world becomes a pytest test, one case per seed.

    @sim.test(seeds=20, latency=(0.01, 0.1), loss=0.02, faults=sim.Profile(), must_reach=["fault: crash"])
    async def test_nobody_loses_money(world):
        world.check(sim.money_is_conserved)
        …

The cases are made, and failures shrunk and told, by the plugin (plugin.py), which pytest loads by itself.
Light: what a world needs is imported when the first case runs.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ainp2p.errors import InvalidInput

if TYPE_CHECKING:
    from ainp2p.simulation.core.signatures import Mode
    from ainp2p.simulation.trials.injecting import Faults
    from ainp2p.simulation.trials.replay import Attempt, Trial

SEED = "sim_seed"  # the argument that pytest fills in
WITHIN_S = 6 * 3600.0  # virtual; with an idle committee some seconds of the processor
ATTRIBUTE = "ainp2p_test"  # of a decorated function; Hypothesis copies names without an underscore


@dataclass(frozen=True)
class Settings:
    """What `@sim.test` was given."""

    seeds: tuple[int, ...]
    world: Mapping[str, Any]
    weather: Mapping[str, Any]
    faults: Faults | None
    must_reach: tuple[str, ...]
    signed: Mode
    within_s: float


@dataclass
class Case:
    """One case while pytest runs it: what the command line asks for, and what came of it.

    Attributes:
        faults: instead of the test's own; None: its own.
        marks: over all worlds of this case (Hypothesis makes many).
        failed: the last world that failed.
    """

    faults: str | None = None
    marks: dict[str, int] = field(default_factory=dict)
    failed: tuple[Trial, Attempt] | None = None


CASE: ContextVar[Case | None] = ContextVar("ainp2p_sim_case", default=None)


@dataclass(frozen=True)
class _World:
    """Goes through Hypothesis in the world's place."""

    seed: int


def simulated(
    seeds: int | Iterable[int] = 10,
    *,
    latency: Any = None,
    loss: float = 0.0,
    duplicate: float = 0.0,
    reorder_s: float = 0.0,
    faults: Faults | None = None,
    must_reach: Iterable[str] = (),
    signed: Mode = "cached",
    within_s: float = WITHIN_S,
    **world: Any,
) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Make a test of an async function with an argument `world`; others are fixtures, or Hypothesis's.

    Args:
        seeds: so many, from 0 on, or these.
        latency, loss, duplicate, reorder_s: the weather (`Weather`).
        faults: a `Profile`, a `Schedule` or its text.
        must_reach: names that `world.sometimes` must have marked in some seed; ``"fault: crash"`` and the
            like are marked by the world itself.
        signed: as in `run`.
        within_s: virtual seconds after which a test fails that is not over, with the stack of every task.
        world: more arguments of `World`, such as ``committee=1``.

    Raises:
        InvalidInput: no seeds, no time, a text for a list of marks, or no async function with `world`.
    """
    from ainp2p.simulation.core.bounded import check_limit

    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not chosen or len(set(chosen)) != len(chosen):
        raise InvalidInput("a simulated test has one seed or more, and each of them once")
    if isinstance(must_reach, str):  # its letters would pass for marks
        raise InvalidInput(f"must_reach is a list of marks: must_reach=[{must_reach!r}]")
    check_limit(within_s)
    given = {"latency": latency, "loss": loss, "duplicate": duplicate, "reorder_s": reorder_s}
    weather = {name: value for name, value in given.items() if value}
    settings = Settings(chosen, world, weather, faults, tuple(must_reach), signed, within_s)
    return lambda function: _wrapped(function, settings)


def _wrapped(function: Callable[..., Any], settings: Settings) -> Callable[..., None]:
    handle = getattr(function, "hypothesis", None)  # @given below this decorator
    inner = function if handle is None else handle.inner_test
    if not inspect.iscoroutinefunction(inner) or "world" not in inspect.signature(inner).parameters:
        name = getattr(function, "__name__", function)
        raise InvalidInput(f"@sim.test is for an async function with an argument `world`, not for {name}")
    if handle is not None:
        handle.inner_test = functools.wraps(inner)(
            lambda world, **drawn: _run(inner, settings, world.seed, drawn)
        )

    ours = inspect.Parameter(SEED, inspect.Parameter.KEYWORD_ONLY)  # not first: that is a method's `self`
    rest = [each for each in inspect.signature(function).parameters.values() if each.name != "world"]
    at = len(rest) - sum(each.kind == inspect.Parameter.VAR_KEYWORD for each in rest)
    signature = inspect.Signature([*rest[:at], ours, *rest[at:]])

    @functools.wraps(function)
    def case(*positional: Any, **named: Any) -> None:
        __tracebackhide__ = True
        arguments = dict(signature.bind(*positional, **named).arguments)
        seed = arguments.pop(SEED)
        if handle is None:
            _run(inner, settings, seed, arguments)
        else:
            function(world=_World(seed), **arguments)

    case.__signature__ = signature  # type: ignore[attr-defined]
    setattr(case, ATTRIBUTE, settings)
    return case


def _run(function: Callable[..., Any], settings: Settings, seed: int, arguments: Mapping[str, Any]) -> None:
    """One world; what it fails with is raised."""
    __tracebackhide__ = True
    from ainp2p.simulation.trials.replay import Trial
    from ainp2p.simulation.wire.weather import Weather

    async def model(world: Any) -> None:
        await function(world=world, **arguments)

    options = dict(settings.world)
    if settings.weather:
        options["weather"] = Weather(**settings.weather)
    case = CASE.get() or Case()
    faults = settings.faults if case.faults is None else case.faults
    trial = Trial(model, seed, options, faults, settings.signed, within_s=settings.within_s)
    attempt = trial.attempt()
    for name, count in attempt.marks.items():
        case.marks[name] = case.marks.get(name, 0) + count
    if attempt.error is not None:
        case.failed = (trial, attempt)
        raise attempt.error


test = simulated  # under `sim`, where it is no name that pytest would collect
