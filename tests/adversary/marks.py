"""`sometimes("name")`: proof that a run has been where it should have been (row H3).

An invariant that holds because its hard case never came is worth nothing. `EXPECTED` are the marks that the
seeds of the test suite must reach; `never_reached` must be empty at their end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

reached: Counter[str] = Counter()


def sometimes(name: str) -> None:
    """Note that this has happened."""
    reached[name] += 1


def never_reached(expected: Iterable[str]) -> list[str]:
    """Those that did not happen since the process (or the last `reached.clear()`) began."""
    return sorted(name for name in expected if not reached[name])
