"""The collector of a validator's process: it looks less often, and still finds what is thrown away."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from ainp2p.ledger.serving.garbage import YOUNG_MAX, collect_rarely


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


class Node:
    me: object


def knot() -> weakref.ref[Node]:
    """Something that only the collector can free."""
    node = Node()
    node.me = node
    return weakref.ref(node)


def test_what_is_there_is_left_alone() -> None:
    collect_rarely()
    assert gc.get_freeze_count() > 1_000
    assert gc.get_threshold()[0] == YOUNG_MAX


def test_cycles_are_still_found_by_themselves() -> None:
    collect_rarely()
    lost = knot()
    kept = [[] for _ in range(2 * YOUNG_MAX)]  # type: ignore[var-annotated]  # what makes it look again
    assert lost() is None
    assert kept


def test_importing_it_changes_nothing() -> None:
    assert gc.isenabled()
    assert gc.get_threshold()[0] != YOUNG_MAX
