"""What sellers sell, with a scripted model in their place; the real ones are in test_real_skills.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from ainp2p.agents.models.model import Token
from ainp2p.agents.models.scripted import Script, ScriptedModel
from ainp2p.agents.skill import Skill
from ainp2p.agents.work import new_work
from ainp2p.errors import InvalidInput
from ainp2p.swarm import skills as s
from ainp2p.swarm.vectors import SCALE


def embedding_model() -> ScriptedModel:
    model = ScriptedModel()
    model.script = Script(kind="embedding")
    model.info = model.script.info("scripted")
    return model


async def run(skill: Skill, model: ScriptedModel, *, prefix: str = "", **fields: Any) -> list[Any]:
    work = new_work([model], job=b"j" * 32, buyer=b"b" * 32, prefix=prefix)
    return [value async for value in skill.run(work, skill.check_input(fields))]


def named(skills: Sequence[Skill], name: str) -> Skill:
    return next(skill for skill in skills if skill.name == name)


def test_prices_are_the_sellers_own() -> None:
    prices = {skill.name: str(skill.price) for skill in s.text_skills(token_price=3, call_price=11)}
    assert prices == {"title": "3/token", "topic": "11/call", "tone": "11/call"}
    assert {str(skill.price) for skill in s.embedding_skills(item_price=2)} == {"2/item"}


async def test_a_title_streams_tokens_of_the_model_and_few_of_them() -> None:
    model = ScriptedModel({"": "word " * 100})
    title = named(s.text_skills(token_price=1, call_price=1), "title")
    pieces = await run(title, model, text="Salt was dear.")
    assert len(pieces) == s.TITLE_TOKENS_MAX
    assert all(isinstance(piece, Token) for piece in pieces)


async def test_a_title_ends_with_its_line() -> None:
    model = ScriptedModel({"": "Salt and\nsilver and more"})
    title = named(s.text_skills(token_price=1, call_price=1), "title")
    assert [piece.text for piece in await run(title, model, text="x")] == ["Salt", " and", "\nsilver"]


async def test_labels_come_from_the_list_and_their_bias_is_taken_off() -> None:
    offered = s.text_skills(token_price=1, call_price=1)
    model = ScriptedModel(choices={"Text: Salt was dear": "money", "Text: \nTopic:": "science"})
    assert await run(named(offered, "topic"), model, text="Salt was dear.") == ["money"]
    (tone,) = await run(named(offered, "tone"), model, text="Salt was dear.")
    assert tone in s.TONES


def test_a_label_is_likelier_with_the_text_than_without_it() -> None:
    assert s.likeliest(["a", "b"], {"a": -1.0, "b": -2.0}, {"a": -1.0, "b": -9.0}) == "b"


async def test_vectors_are_integers_of_the_agreed_length() -> None:
    embed = named(s.embedding_skills(item_price=1), "embed")
    first, second = await run(embed, embedding_model(), texts=["salt is dear", "silver"])
    assert all(isinstance(component, int) for component in first)
    assert sum(c * c for c in second) == pytest.approx(SCALE**2, rel=1e-3)


def entry(quote: str, line: int = 1) -> dict[str, Any]:
    return {"path": "a.md", "first_line": line, "last_line": line, "heading": "H", "quote": quote}


async def test_what_was_indexed_is_found_by_meaning_with_its_place() -> None:
    offered, model = s.embedding_skills(item_price=1), embedding_model()
    entries = [entry("salt is dear in the north"), entry("the ship left at dawn", 2)]
    assert await run(named(offered, "index"), model, collection="c", entries=entries) == [1, 2]
    (best, _) = await run(named(offered, "search"), model, collection="c", question="where is salt dear")
    assert best["quote"] == "salt is dear in the north"
    assert (best["path"], best["first_line"], best["heading"]) == ("a.md", 1, "H")
    assert 0 < best["cosine_millionths"] <= 1_000_000


async def test_collections_do_not_mix_and_an_unknown_one_is_empty() -> None:
    offered, model = s.embedding_skills(item_price=1), embedding_model()
    await run(named(offered, "index"), model, collection="a", entries=[entry("salt")])
    assert await run(named(offered, "search"), model, collection="b", question="salt") == []


async def test_a_full_index_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s, "ENTRIES_MAX", 1)
    index = named(s.embedding_skills(item_price=1), "index")
    with pytest.raises(InvalidInput, match="full"):
        await run(index, embedding_model(), collection="a", entries=[entry("salt"), entry("silver")])


@pytest.mark.parametrize(
    ("skill", "fields"),
    [
        pytest.param("title", {"text": ""}, id="no text"),
        pytest.param("title", {"text": "x" * 2001}, id="too long a text"),
        pytest.param("topic", {"text": 7}, id="no string"),
    ],
)
def test_text_that_cannot_be_used_is_refused(skill: str, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        named(s.text_skills(token_price=1, call_price=1), skill).check_input(fields)


@pytest.mark.parametrize(
    ("skill", "fields"),
    [
        pytest.param("embed", {"texts": []}, id="no texts"),
        pytest.param("embed", {"texts": ["x"] * 65}, id="too many texts"),
        pytest.param("index", {"collection": "", "entries": [entry("x")]}, id="no name"),
        pytest.param("index", {"collection": "c", "entries": [{"path": "a"}]}, id="half an entry"),
        pytest.param("search", {"collection": "c", "question": "x", "limit": 17}, id="too many hits"),
    ],
)
def test_requests_to_the_index_that_cannot_be_used_are_refused(skill: str, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        named(s.embedding_skills(item_price=1), skill).check_input(fields)
