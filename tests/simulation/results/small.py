"""Results made by hand, and models and runners that other processes can import. No world."""

from __future__ import annotations

import os
import random

from ainp2p.simulation.core.trace import Trace
from ainp2p.simulation.results.results import Result, label

HOSTILE = "</title><script>alert(1)</script><img src=x onerror=alert(1)>\"'><svg/onload=alert(1)>\x1b[2J"


def market(seed: int = 7, *, trades: int = 200, name: str = "", trace: Trace | None = None) -> Result:
    """An hour of a small market: two skills, some failures, a cheat, one agent that dies."""
    rng = random.Random(seed)
    result = Result(
        seed,
        {"agents": 6, "loss": 0.05, "bidding": "fair", "checks": True, "cap": None},
        hash=f"{seed:032x}",
        duration_s=3600.0,
        model="market.py",
        trace=trace,
    )
    for i in range(trades):
        failed = i % 10 == 9
        units = 0 if failed else rng.randint(1, 64)
        price = rng.choice((2, 3))
        result.trades.append(
            at_s=3600 * i / trades,
            buyer=f"buyer-{i % 3}",
            seller=name or ("cheat" if i % 8 == 7 else f"seller-{i % 2}"),
            skill=name or ("echo" if i % 3 else "sum"),
            units=units,
            amount=units * price,
            price=f"{price}/token",
            elapsed_ms=rng.randint(20, 900),
            failure=(name or "busy") if failed else "",
            job=f"{i:032x}",
        )
    for who, role, died in (
        ("buyer-0", "buyer", None),
        ("buyer-1", "buyer", None),
        ("buyer-2", "buyer", None),
        ("seller-0", "seller", 1800.0),
        ("seller-1", "seller", None),
        (name or "cheat", "cheat", 600.0),
        ("v0", "validator", None),
    ):
        result.agents.append_row((who, role, 1000, rng.randint(0, 2000), 50, 70, 3, 4, 0.0, died))
    for minute in range(60):
        for protocol in ("/ainp2p/market/1", name or "/ainp2p/ledger/1"):
            result.messages.append_row((60.0 * minute, protocol, "request", rng.randint(5, 50), 4096))
        result.metrics.append_row((60.0 * minute, name or "price", 2 + rng.random()))
    result.metrics.extend([(10.0, "surplus", 30.0), (20.0, "surplus", 30.0), (20.0, "optimum", 80.0)])
    result.marks.extend([("a seller failed", 20), (name or "a partition healed", 0)])
    return result


async def model(world: object, *, agents: int = 5, rate: float = 1.0, style: str = "plain") -> None:
    """A model by its signature alone."""


async def open_model(world: object, **parameters: object) -> None:
    """Takes any parameter."""


async def needy(world: object, *, agents: int) -> None:
    """Has a parameter without a default."""


def tiny(model: object, *, seed: int, **parameters: object) -> Result:
    """Instead of `sim.run`: a metric from seed and parameters, no world."""
    result = Result(seed, {n: label(v) for n, v in parameters.items()}, f"{seed:08x}", 1.0)
    result.metrics.append_row((1.0, "drawn", random.Random(f"{seed} {parameters}").random()))
    return result


def failing(model: object, *, seed: int, **parameters: object) -> Result:
    """Seed 3 fails, with an exception that cannot travel between processes."""
    if seed == 3:
        raise Untravelled("no", "way")
    return tiny(model, seed=seed, **parameters)


class Untravelled(Exception):
    """Pickles, and cannot be unpickled."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


def dying(model: object, *, seed: int, **parameters: object) -> Result:
    """Seed 3 takes its process with it."""
    if seed == 3:
        os._exit(1)
    return tiny(model, seed=seed, **parameters)


def uneven(model: object, *, seed: int, **parameters: object) -> Result:
    """Seed 2 measures something that others do not."""
    result = tiny(model, seed=seed, **parameters)
    if seed == 2:
        result.metrics.append_row((1.0, "extra", 1.0))
    return result


def wrong_seed(model: object, *, seed: int, **parameters: object) -> Result:
    """A runner that keeps one result for all."""
    return tiny(model, seed=0, **parameters)


def wrong_parameters(model: object, *, seed: int, **parameters: object) -> Result:
    """A runner that forgets what it was told."""
    return tiny(model, seed=seed)


def undercut() -> None:
    """A strategy, as a value of a parameter."""


def match() -> None:
    """Another one."""
