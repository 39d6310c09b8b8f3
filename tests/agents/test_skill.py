"""Skills: schemas from type hints, inputs checked against them, and what `@skill` refuses."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal, NotRequired, Optional, TypedDict

import pytest

from ainp2p.agents.skill import RESERVED, Skill, skill
from ainp2p.errors import InvalidInput, Malformed
from ainp2p.protocol.price import Price


@dataclasses.dataclass
class Style:
    tone: Literal["dry", "warm"]
    words: int = 50


class Source(TypedDict):
    url: str
    title: NotRequired[str]


@skill("rewrite", price="2/token + 50/call")
async def rewrite(
    job: Any,
    text: str,
    style: Style,
    sources: list[Source],
    strength: float = 0.5,
    strict: bool = False,
    note: Optional[str] = None,  # noqa: UP045  # people write it so
    table: dict[str, int] | None = None,
) -> AsyncIterator[str]:
    """Say it again, in other words.

    More for those who read the source.
    """
    yield text.upper()
    yield style.tone


@skill("count", price="5/call", description="How long a text is.")
async def count(job: Any, text: str) -> int:
    return len(text)


GOOD: dict[str, Any] = {"text": "hello", "style": {"tone": "dry"}, "sources": [{"url": "x"}]}


async def collected(made: Skill, **input_: Any) -> list[Any]:
    return [value async for value in made.run(None, made.check_input(input_))]


async def test_a_skill_runs_with_a_checked_input() -> None:
    assert await collected(rewrite, **GOOD) == ["HELLO", "dry"]
    assert await collected(count, text="four") == [4]


async def test_a_skill_is_called_like_the_function_that_it_is() -> None:
    assert await count(None, text="abc") == 3
    assert [chunk async for chunk in rewrite(None, text="a", style=Style("warm"), sources=[])] == [
        "A",
        "warm",
    ]


async def test_a_function_that_returns_nothing_yields_nothing() -> None:
    @skill("silent", price="1/call")
    async def silent(job: Any) -> None:
        return None

    assert await collected(silent) == []


def test_price_unit_and_description_are_known() -> None:
    assert (rewrite.price, rewrite.unit) == (Price.parse("2/token + 50/call"), "token")
    assert rewrite.description == "Say it again, in other words."
    assert count.description == "How long a text is."
    assert (count.name, count.unit) == ("count", "item")


def test_a_skill_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        rewrite.name = "other"  # type: ignore[misc]  # that is what is tested


def test_the_schema_says_what_the_hints_say() -> None:
    schema = json.loads(rewrite.input_schema)
    assert schema["type"] == "object"
    assert schema["required"] == ["text", "style", "sources"]
    assert schema["additionalProperties"] is False
    properties = schema["properties"]
    assert properties["text"] == {"type": "string"}
    assert properties["strength"] == {"type": "number", "default": 0.5}
    assert properties["strict"] == {"type": "boolean", "default": False}
    assert properties["table"]["anyOf"][0]["additionalProperties"] == {"type": "integer"}
    assert schema["$defs"]["Style"]["properties"]["tone"] == {"enum": ["dry", "warm"]}
    assert schema["$defs"]["Source"]["required"] == ["url"]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"text": 5}, id="a number for text"),
        pytest.param({"text": None}, id="null for text"),
        pytest.param({"strength": "much"}, id="text for a number"),
        pytest.param({"strict": 1}, id="a number for a boolean"),
        pytest.param({"style": {"tone": "loud"}}, id="a word outside the Literal"),
        pytest.param({"style": {"tone": "dry", "words": 1.5}}, id="a fraction for an integer"),
        pytest.param({"style": {}}, id="a field of the dataclass missing"),
        pytest.param({"sources": [{}]}, id="a key of the TypedDict missing"),
        pytest.param({"sources": {"url": "x"}}, id="an object for a list"),
        pytest.param({"table": {"a": "b"}}, id="another type of value"),
        pytest.param({"unknown": 1}, id="an unknown name"),
    ],
)
def test_an_input_that_does_not_fit_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="rewrite"):
        rewrite.check_input({**GOOD, **change})


@pytest.mark.parametrize("value", [None, [], "text", 5, {}])
def test_an_input_that_is_no_fitting_object_is_refused(value: object) -> None:
    with pytest.raises(InvalidInput):
        rewrite.check_input(value)


def test_an_input_travels_as_canonical_json() -> None:
    assert count.read_input(b'{"text":"x"}') == {"text": "x"}
    for data in (b'{"text": "x"}', b"", b'{"text":"x","text":"x"}'):
        with pytest.raises(Malformed):
            count.read_input(data)


def test_an_integer_is_taken_where_a_float_is_hinted() -> None:
    # canonical JSON writes 1.0 as 1
    assert rewrite.check_input({**GOOD, "strength": 1})["strength"] == 1.0


# --- what the decorator refuses -----------------------------------------------------------------


def plain(job: Any) -> None: ...


async def no_job() -> None: ...


async def keyword_job(*, job: Any) -> None: ...


async def unhinted(job: Any, text) -> None: ...  # type: ignore[no-untyped-def]  # that is what is tested


async def unresolved(job: Any, text: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821


async def starred(job: Any, *texts: str) -> None: ...


async def double_starred(job: Any, **texts: str) -> None: ...


async def exotic(job: Any, how: Callable[[], int]) -> None: ...


async def good(job: Any, text: str) -> None: ...


@pytest.mark.parametrize(
    ("function", "words"),
    [
        pytest.param(plain, "async def", id="a plain function"),
        pytest.param(no_job, "first parameter is the job", id="no job"),
        pytest.param(keyword_job, "first parameter is the job", id="a job by keyword only"),
        pytest.param(unhinted, "type hint", id="no type hint"),
        pytest.param(unresolved, "Nowhere", id="a hint that cannot be resolved"),
        pytest.param(starred, "schema", id="any number of arguments"),
        pytest.param(double_starred, "schema", id="any keywords"),
        pytest.param(exotic, "JSON", id="a type without a JSON form"),
    ],
)
def test_a_function_that_cannot_be_a_skill_is_refused(function: Callable[..., Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        skill("name", price="1/call")(function)


@pytest.mark.parametrize(
    "name", sorted({"budget", "input", "max_price", "offers", "prefix", "resume", "seed", "timeout_s"})
)
def test_the_names_of_hires_options_are_reserved(name: str) -> None:
    assert name in RESERVED
    space: dict[str, Any] = {}
    exec(f"async def function(job, {name}: str): ...", space)
    with pytest.raises(InvalidInput, match=f"'{name}' is an option"):
        skill("name", price="1/call")(space["function"])


@pytest.mark.parametrize("name", ["", "n" * 65])
def test_a_name_that_is_too_short_or_too_long_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        skill(name, price="1/call")(good)


@pytest.mark.parametrize("price", ["", "0/token", "free", "1/word"])
def test_a_price_that_is_none_is_refused(price: str) -> None:
    with pytest.raises(InvalidInput):
        skill("name", price=price)(good)


def test_a_price_may_be_given_as_a_price() -> None:
    assert skill("name", price=Price.parse("3/item"))(good).price == Price.parse("3/item")
