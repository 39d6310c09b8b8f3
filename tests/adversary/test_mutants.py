"""H2: each planted fault is caught by the check that is meant for it, at the seed that the table names."""

from __future__ import annotations

import pytest

from tests.adversary.mutants import MUTANTS, alike, is_caught, planted, table, under
from tests.adversary.run import simulate

FURTHER = 12


def test_h2_the_table_names_a_seed_for_each_of_at_least_twenty_mutants() -> None:
    assert set(table()) == set(MUTANTS)
    assert len(MUTANTS) >= 20
    assert all(0 <= seed < 2_000 for seed in table().values())


@pytest.mark.parametrize("name", list(table()))
def test_h2_a_mutant_is_caught_at_its_seed(name: str) -> None:
    said = []
    # Whatever changes what validators say changes what happens at a seed: a few more of its kind are allowed.
    for seed in alike(table()[name], FURTHER):
        outcome = under(MUTANTS[name], seed)
        if is_caught(MUTANTS[name], outcome):
            return
        said.append(f"{outcome.check}: {outcome.violation}")
    pytest.fail(f"not caught; python -m tests.adversary --mutants --mutant '{name}' looks for a seed: {said}")


@pytest.mark.parametrize("name", [name for name, mutant in MUTANTS.items() if mutant.beside])
def test_h2_either_of_two_defences_holds_with_the_other_off(name: str) -> None:
    for alone in MUTANTS[name].either():
        outcome = under(alone, table()[name])
        assert not is_caught(alone, outcome), f"{alone.edits[0].where}: {outcome.violation}"


def test_h2_a_fault_is_gone_when_it_is_taken_out() -> None:
    with planted(MUTANTS["LOCK twice in a view"]):
        assert simulate(0).violation
    assert not simulate(0).violation
