from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.errors import InvalidInput, InvalidOperation
from ainp2p.ledger.rules.amounts import AMOUNT_MAX, ain_text, amount_from_text, checked_sum, share


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", 0),
        ("250", 250),
        ("250 uain", 250),
        ("1_000", 1_000),
        ("1ain", 1_000_000),
        ("1.5 AIN", 1_500_000),
        ("0.000001ain", 1),
        (str(AMOUNT_MAX), AMOUNT_MAX),
    ],
)
def test_an_amount_is_read(text: str, amount: int) -> None:
    assert amount_from_text(text) == amount


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ain",
        "-1",
        "+1",
        "1.5",
        "1.5uain",
        "0.0000001ain",
        "1e6",
        ".5ain",
        "1.ain",
        "٣",
        "1,5ain",
        str(2**63),
    ],
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        amount_from_text(text)


@given(st.integers(0, AMOUNT_MAX))
def test_an_amount_for_people_reads_back(amount: int) -> None:
    assert amount_from_text(ain_text(amount)) == amount


def test_a_debt_is_shown_with_its_sign() -> None:
    assert ain_text(-1_500_000) == "-1.5 AIN"


def test_a_sum_that_leaves_the_range_is_refused() -> None:
    assert checked_sum([AMOUNT_MAX, 0]) == AMOUNT_MAX
    with pytest.raises(InvalidOperation, match="overflow"):
        checked_sum([AMOUNT_MAX, 1])


@given(st.integers(0, AMOUNT_MAX), st.lists(st.integers(1, AMOUNT_MAX), min_size=1, max_size=16))
def test_shares_never_exceed_the_whole_and_lose_less_than_one_each(total: int, parts: list[int]) -> None:
    given_out = sum(share(total, part, sum(parts)) for part in parts)
    assert total - len(parts) < given_out <= total
