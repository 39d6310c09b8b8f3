"""The ledger's benchmarks, small: each comes to its end, checks its own outcome, and gives its figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio

from ainp2p.ledger.rules.operations import parse
from ainp2p.ledger.rules.state import State
from ainp2p.protocol.identity import Key
from benchmarks import (
    ledger,
    ledger_catch_up,
    ledger_memory,
    ledger_network,
    ledger_reconcile,
    ledger_restart,
)
from benchmarks.catalogue import CATALOGUE
from benchmarks.figures import Figure
from benchmarks.ledger_load import STEP, Load


def figures_of(part: str, found: dict[str, Any]) -> dict[str, Figure]:
    benchmark = next(each for each in CATALOGUE if each.name == part)
    return {figure.unit: figure for figure in benchmark.read(found)}


def test_ten_differences_stay_within_the_targets_whatever_the_machine() -> None:
    found = ledger_reconcile.measure(20_000, 1)
    figures = figures_of("ledger reconcile", found)
    assert figures["bytes"].held
    assert figures["messages"].held


PARTS = [
    pytest.param("ledger catch-up", lambda: ledger_catch_up.measure(1, 1), id="catching up"),
    pytest.param("ledger restart", lambda: trio.run(ledger_restart.measure, 200), id="restart"),
    pytest.param("ledger memory", lambda: ledger_memory.measure(4_096), id="memory"),
]


@pytest.mark.parametrize(("part", "measure"), PARTS)
def test_a_part_gives_its_figures(part: str, measure: Callable[[], dict[str, Any]]) -> None:
    figures = figures_of(part, measure())
    assert figures
    assert all(figure.measured >= 0 for figure in figures.values() if figure.unit != "MB")


def test_memory_is_measured_over_epochs_that_end_and_are_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_memory, "EPOCH_ROUNDS", 2)
    whole, pruned = ledger_memory.measure(8_192), ledger_memory.measure(8_192, pruned=True)
    assert pruned["epochs_ended"] >= 2
    assert whole["epochs_ended"] == 0
    assert len(pruned["tenths_mb"]) == 8


def test_certificates_of_four_are_below_their_bound() -> None:
    assert figures_of("ledger catch-up", ledger_catch_up.measure(1, 1))["bytes"].held


def test_what_is_submitted_was_made_valid() -> None:
    seats: list[tuple[Key, tuple[str, ...]]] = [(Key(bytes([at]) * 32), ()) for at in range(1, 5)]
    load = Load(seats, 1_700_000_000_000, locks=10, settles=5, spam=2)
    state = State(load.genesis)
    for signed in load.openings:
        state.apply(parse(signed))
    assert len(load.chains) == 10
    for signed in (each for chain in (*load.chains, *load.spam) for each in chain):
        state.check(parse(signed), 1_700_000_000_000)
        state.apply(parse(signed))
    assert sum(state.credits_of(load.payee).values()) == 10 * 5 * STEP


def test_a_quantile_is_one_of_the_values() -> None:
    values = [float(value) for value in range(100)]
    assert ledger_network.quantile(values, 0.5) == 50
    assert ledger_network.quantile(values, 0.99) == 99
    assert ledger_network.quantile([3.0], 0.99) == 3


def test_all_parts_of_the_ledger_are_in_its_own_table() -> None:
    parts = {each.name for each in CATALOGUE if each.name.startswith(ledger.PREFIX)}
    assert parts >= {"ledger pipeline", "ledger network", "ledger latency", "ledger spam", *ledger.LONG}
