"""Runs an example's model, each setting once in a test session."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from ainp2p.simulation import ModelFile, Result, run

EXAMPLES = Path(__file__).parents[3] / "examples"
SEEDS = (1, 2, 3)


@lru_cache(maxsize=64)
def played(name: str, seed: int, **parameters: Any) -> Result:
    """The result of an economy; keys sign by a hash, which changes no decision and is quicker."""
    return run(ModelFile.read(EXAMPLES / f"{name}.py").load(), seed, signed="keyed", **parameters)


def again(name: str, seed: int, **parameters: Any) -> Result:
    """The same, run anew."""
    return played.__wrapped__(name, seed, **parameters)


def number(result: Result, name: str) -> float:
    """One of its numbers, which must be defined."""
    value = result.summary()[name]
    assert value is not None, f"{name} is not defined"
    return value
