"""Prices: reading, writing, cost, limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.errors import InvalidInput, Malformed
from ainp2p.protocol.codec import INT_MAX
from ainp2p.protocol.price import STREAMED, Price, Usage

AMOUNTS = st.integers(0, INT_MAX)


@st.composite
def prices(draw: st.DrawFn, amounts: st.SearchStrategy[int] = AMOUNTS) -> Price:
    terms = {"call": draw(amounts), "input": draw(amounts), draw(st.sampled_from(STREAMED)): draw(amounts)}
    if not any(terms.values()):
        terms["call"] = 1
    return Price(**terms)


@given(prices())
def test_a_price_is_read_back_from_its_text(price: Price) -> None:
    assert Price.parse(str(price)) == price
    assert Price.from_wire(price.wire()) == price


@pytest.mark.parametrize(
    ("text", "price"),
    [
        ("2/token + 50/call", Price(token=2, call=50)),
        ("50/call+2/token", Price(token=2, call=50)),
        ("7/item", Price(item=7)),
        ("1/second + 3/input", Price(second=1, input=3)),
        (f"{INT_MAX}/call", Price(call=INT_MAX)),
    ],
)
def test_a_price_is_read(text: str, price: Price) -> None:
    assert Price.parse(text) == price


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("2", id="no unit"),
        pytest.param("/token", id="no amount"),
        pytest.param("0/token", id="a price of nothing"),
        pytest.param("-1/token", id="negative"),
        pytest.param("1.5/token", id="a fraction"),
        pytest.param("01/token", id="a leading zero"),
        pytest.param("1e3/token", id="an exponent"),
        pytest.param("٣/token", id="digits of another script"),
        pytest.param("2 /token", id="a space inside a term"),
        pytest.param("2/word", id="an unknown unit"),
        pytest.param("2/token + 3/token", id="a unit twice"),
        pytest.param("2/token + 3/item", id="two units that grow"),
        pytest.param("2/token +", id="an empty term"),
        pytest.param("2/token - 1/call", id="a discount"),
        pytest.param(f"{INT_MAX + 1}/token", id="A7: above 2^63-1"),
        pytest.param("1/call" + " " * 300, id="too long"),
    ],
)
def test_a7_what_is_no_price_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        Price.parse(text)
    with pytest.raises(Malformed):
        Price.from_wire(text.encode())


@pytest.mark.parametrize("data", [b"50/call + 2/token", b"2/token+50/call", b" 2/token", b"\xff"])
def test_on_the_wire_a_price_has_one_spelling(data: bytes) -> None:
    with pytest.raises(Malformed):
        Price.from_wire(data)


def test_cost_is_the_sum_of_its_terms() -> None:
    price = Price.parse("2/token + 50/call + 1/input")
    assert price.cost(Usage(call=1, token=10, input=7, item=99, second=99)) == 20 + 50 + 7
    assert price.fixed(7) == 57
    assert price.after(10, 7) == 77


@given(prices(st.integers(0, 10**6)), st.integers(0, 10**9), st.integers(0, 10**3))
def test_what_a_budget_buys_never_costs_more_and_one_more_unit_would(
    price: Price, budget: int, prompt: int
) -> None:
    units = price.max_units(budget, prompt)
    if units == INT_MAX:
        assert price.rate == 0
        assert price.fixed(prompt) <= budget
    elif units:
        assert price.after(units, prompt) <= budget < price.after(units + 1, prompt)
    else:
        assert price.after(1, prompt) > budget


@given(prices(), prices(), st.tuples(*[st.integers(0, 10**6)] * 5))
def test_a_price_within_a_limit_never_costs_more(price: Price, limit: Price, used: tuple[int, ...]) -> None:
    usage = Usage(*used)
    if price.within(limit):
        assert price.cost(usage) <= limit.cost(usage)


def test_a_price_with_a_term_that_the_limit_lacks_is_not_within_it() -> None:
    assert Price.parse("2/token").within(Price.parse("3/token"))
    assert not Price.parse("4/token").within(Price.parse("3/token"))
    assert not Price.parse("2/token + 1/call").within(Price.parse("3/token"))


def test_the_growing_unit_is_what_windows_count() -> None:
    assert Price.parse("2/token + 50/call").unit == "token"
    assert Price.parse("5/second").unit == "second"
    assert (Price.parse("50/call").unit, Price.parse("50/call").rate) == ("item", 0)
