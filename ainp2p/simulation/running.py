"""Runs a model in a world of its own: one call, one seed, one result."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any

from ainp2p.errors import InvalidInput
from ainp2p.simulation.core.bounded import BoundedClock
from ainp2p.simulation.core.guards import guarded
from ainp2p.simulation.core.kernel import run_virtual
from ainp2p.simulation.core.signatures import Mode, signatures
from ainp2p.simulation.results.results import Result, label
from ainp2p.simulation.world import World

ModelFunction = Callable[..., Awaitable[Any]]
"""`async def model(world, *, name=default, …)`: spawns agents, breaks things, and lets time pass."""


def run(
    model: ModelFunction,
    seed: int = 0,
    *,
    world: dict[str, Any] | None = None,
    signed: Mode = "cached",
    guard: bool = True,
    within_s: float | None = None,
    **parameters: Any,
) -> Result:
    """Run a model from a seed; the same call gives the same result, in any process.

    Args:
        world: arguments of `World`, such as ``{"weather": Weather(latency=0.05)}``.
        signed: how keys sign: "ed25519", "cached" (the same, verified once) or "keyed" (cheap; `signatures`).
        guard: stop a model that reads the wall clock, or anything else that no seed decides.
        within_s: virtual seconds after which it has to be over: a model that waits in vain beside a
            committee, which never rests, is stopped with every task's stack. None: whenever it likes.
        parameters: the model's own keyword arguments.

    Raises:
        InvalidInput: the seed is no integer, a parameter is unknown, or its value cannot stand in a table.
        InvariantViolated, Deadlock, Overdue, Ambient: see `ainp2p.simulation.errors`.
        BaseException: what the model raised.
    """
    if type(seed) is not int:
        raise InvalidInput(f"a seed is an integer, not {seed!r}")
    bound = bind(model, parameters)
    labels = {name: label(value) for name, value in bound.items()}  # refused now, not after an hour
    made = World(seed, **_timed(world or {}, within_s))
    watched = guarded(report=made.clock.fail) if guard else nullcontext()  # the model may swallow exceptions

    async def live() -> Any:  # a name that tells something, where tasks are told
        return await made.live(model, bound)

    with signatures(signed, secret=made.draws.derive("signatures")), watched:
        tables = run_virtual(live, seed=seed, clock=made.clock)
    return Result(
        seed=seed,
        parameters=labels,
        hash=made.trace.hash,
        duration_s=made.now,
        signed=signed,
        model=f"{model.__module__}:{getattr(model, '__qualname__', repr(model))}",
        trace=made.trace,
        **tables,
    )


def _timed(world: dict[str, Any], within_s: float | None) -> dict[str, Any]:
    if within_s is None:
        return world
    clock = BoundedClock(within_s)
    if "clock" in world:
        raise InvalidInput("give the world a clock of your own, or within_s")
    return {**world, "clock": clock}


def bind(model: ModelFunction, parameters: dict[str, Any]) -> dict[str, Any]:
    """The model's parameters, defaults included.

    Raises:
        InvalidInput: it has no such parameter, or one is missing.
    """
    signature = inspect.signature(model)
    try:
        bound = signature.bind(None, **parameters)
    except TypeError as exc:
        names = ", ".join(list(signature.parameters)[1:]) or "none"
        raise InvalidInput(
            f"the model {getattr(model, '__name__', model)!r}: {exc}; it has: {names}"
        ) from exc
    bound.apply_defaults()
    first = next(iter(signature.parameters))
    return {name: value for name, value in bound.arguments.items() if name != first}
