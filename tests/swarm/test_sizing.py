"""How many processes fit, and that it is said."""

from __future__ import annotations

import pytest

from ainp2p.errors import InvalidInput
from ainp2p.swarm.sizing import Machine, fixed_bytes, size, text_seller_bytes, this_machine

GB = 1 << 30
SMALL = 134_515_008  # parameters of SmolLM2


@pytest.mark.parametrize(
    ("machine", "text_sellers", "threads"),
    [
        pytest.param(Machine(2, 24 * GB), 2, 1, id="two cores"),
        pytest.param(Machine(6, 24 * GB), 3, 1, id="six cores"),
        pytest.param(Machine(64, 256 * GB), 4, 15, id="a large machine"),
        pytest.param(Machine(1, 8 * GB), 2, 1, id="one core"),
        pytest.param(Machine(16, 2 * GB), 1, 15, id="little memory"),
    ],
)
def test_cores_and_memory_decide(machine: Machine, text_sellers: int, threads: int) -> None:
    sized = size(machine, SMALL)
    assert (sized.text_sellers, sized.threads, sized.buyers) == (text_sellers, threads, 2)
    assert sized.sellers == text_sellers + 1


def test_what_is_chosen_is_said_aloud() -> None:
    said = size(Machine(2, 24 * GB), SMALL).said
    for word in ("2 cores", "2 sellers of text", "2 buyers", "4 validators", "GB"):
        assert word in said


def test_a_user_may_ask_for_more_than_fits_and_is_told() -> None:
    sized = size(Machine(2, 4 * GB), SMALL, sellers=5, buyers=3)
    assert (sized.sellers, sized.buyers) == (5, 3)
    assert "4 were asked for" in sized.said


def test_one_seller_of_text_has_no_competitor_and_that_is_said() -> None:
    assert "none is killed" in size(Machine(2, 24 * GB), SMALL, sellers=2).said


@pytest.mark.parametrize(
    ("sellers", "buyers"),
    [
        pytest.param(1, None, id="one seller"),
        pytest.param(17, None, id="too many sellers"),
        pytest.param(None, 0, id="no buyer"),
        pytest.param(None, 9, id="too many buyers"),
    ],
)
def test_impossible_numbers_are_refused(sellers: int | None, buyers: int | None) -> None:
    with pytest.raises(InvalidInput):
        size(Machine(2, 24 * GB), SMALL, sellers=sellers, buyers=buyers)


def test_a_larger_model_needs_more_and_a_scripted_one_hardly_any() -> None:
    assert text_seller_bytes(8 * 10**9) > 40 * 10**9 > 10**9 > text_seller_bytes(0)
    assert fixed_bytes(0, 2) < fixed_bytes(SMALL, 2) < fixed_bytes(SMALL, 4)


def test_this_machine_has_cores_and_memory() -> None:
    machine = this_machine()
    assert machine.cores >= 1
    assert machine.memory_bytes > 1 << 26
