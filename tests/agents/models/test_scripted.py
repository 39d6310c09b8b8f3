"""The scripted model: the same answers in process and as an engine, in virtual time."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing

from ainp2p.agents.models import messages as m
from ainp2p.agents.models.model import Model, Raw, TokenStream
from ainp2p.agents.models.scripted import CONTEXT, Script, ScriptedEngine, ScriptedModel, token_of
from ainp2p.errors import InvalidInput, ModelCrashed, ModelRefused


async def text_of(stream: TokenStream) -> str:
    return "".join([token.text async for token in stream])


async def test_the_first_answer_that_fits_is_given_word_by_word() -> None:
    model: Model = ScriptedModel({"weather": "it is sunny", "wea": "never"})
    stream = model.stream("how is the weather?")
    tokens = [token async for token in stream]
    assert [token.text for token in tokens] == ["it", " is", " sunny"]
    assert tokens[0] == token_of("it")
    assert (stream.n_in, stream.finish) == (4, "stop")


async def test_without_a_script_it_repeats_the_message() -> None:
    assert await text_of(ScriptedModel().stream("good day")) == "You said: good day"


async def test_only_the_last_message_is_answered() -> None:
    model = ScriptedModel({"first": "wrong", "second": "right"})
    chat = [{"role": "system", "content": "first"}, {"role": "user", "content": "second"}]
    assert await text_of(model.stream(chat)) == "right"


async def test_max_tokens_and_prefix_are_obeyed() -> None:
    model = ScriptedModel({"": "a b c d e"})
    stream = model.stream("x", max_tokens=2)
    first = [token async for token in stream]
    assert stream.finish == "length"
    rest = model.stream("x", prefix=[token.id for token in first])
    assert await text_of(rest) == " c d e"
    assert rest.finish == "stop"


async def test_it_speaks_at_its_pace_by_trios_clock(autojump_clock: trio.testing.MockClock) -> None:
    model = ScriptedModel({"": "a b c d"}, tokens_per_second=2)
    await text_of(model.stream("x"))
    assert trio.current_time() == pytest.approx(2.5)
    assert model.statistics().tokens == 4


async def test_a_canceled_stream_is_over(autojump_clock: trio.testing.MockClock) -> None:
    model = ScriptedModel({"": "a b <hang> c"}, tokens_per_second=10)
    stream, heard = model.stream("x"), []
    with trio.move_on_after(5) as scope:
        async for token in stream:
            heard.append(token.text)
    assert scope.cancelled_caught
    assert (heard, stream.finish, model.statistics().live) == (["a", " b"], "canceled", 0)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_closing_a_stream_ends_it() -> None:
    model = ScriptedModel()
    async with model.stream("some words") as stream:
        await anext(stream)
        assert model.statistics().live == 1
    assert (stream.finish, model.statistics().live) == ("canceled", 0)
    await stream.aclose()
    unread = model.stream("x")
    await unread.aclose()
    assert (unread.finish, model.statistics().live) == ("canceled", 0)


@pytest.mark.parametrize("directive", ["<crash>", "<oom>"])
async def test_it_can_be_told_to_crash_mid_answer(directive: str) -> None:
    stream = ScriptedModel({"": f"a {directive} b"}).stream("x")
    assert (await anext(stream)).text == "a"
    with pytest.raises(ModelCrashed):
        await anext(stream)


@pytest.mark.parametrize(
    ("prompt", "arguments"),
    [
        pytest.param("", {}, id="empty"),
        pytest.param("x " * CONTEXT, {}, id="too long"),
        pytest.param("x", {"max_tokens": CONTEXT}, id="no room for the answer"),
        pytest.param("x", {"max_tokens": 0}, id="no token wanted"),
        pytest.param("x", {"temperature": -1.0}, id="a negative temperature"),
        pytest.param("x", {"temperature": math.nan}, id="no temperature"),
        pytest.param("full", {}, id="no memory"),
    ],
)
async def test_bad_requests_are_refused(prompt: str, arguments: dict) -> None:
    with pytest.raises(ModelRefused):
        await text_of(ScriptedModel({"full": "<memory>"}).stream(prompt, **arguments))


async def test_it_chooses_by_the_script_or_else_always_the_same() -> None:
    model = ScriptedModel(choices={"goal": "sport"})
    choice = await model.choose(Raw("a late goal"), ["politics", "sport", "art"])
    assert (choice.label, choice.n_in) == ("sport", 6)
    assert sum(math.exp(x) for x in choice.logprobs.values()) == pytest.approx(1)
    other = await model.choose("a new law", ["politics", "sport"])
    assert other == await model.choose("a new law", ["politics", "sport"])
    with pytest.raises(ModelRefused):
        await model.choose("x", [])


async def test_texts_with_words_in_common_are_closer() -> None:
    found = await ScriptedModel().embed(["the cat sat", "the cat ran", "stocks fell sharply"])
    a, b, c = found.vectors
    assert dot(a, b) > dot(a, c)
    assert dot(a, a) == pytest.approx(1)
    assert found.n_in == 9


def dot(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


async def test_it_counts_words() -> None:
    assert await ScriptedModel().count("one two three") == 3


def test_a_script_travels_in_its_name() -> None:
    script = Script({"a": "b ✓"}, {"c": "d"}, 5.0)
    assert Script.from_name(script.as_name()) == script
    assert Script.from_name("scripted") == Script()
    assert script.hash != Script().hash


@pytest.mark.parametrize("name", ["scripted:{", "scripted:[1]", 'scripted:{"answer": {}}'])
def test_a_name_without_a_script_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        Script.from_name(name)


async def test_the_engine_says_what_the_model_says() -> None:
    script = Script({"": "a <print> b c"}, {"x": "yes"})
    engine, model = ScriptedEngine(script), ScriptedModel(script.answers, choices=script.choices)
    events = engine.submit(m.Generate(1, [("user", "x")], 2))
    while engine.live:
        events += engine.step()
    stream = model.stream("x", max_tokens=2)
    tokens = [token async for token in stream]
    assert events == [
        m.Admitted(1, stream.n_in or 0),
        *(m.Made(1, token.id, token.text, token.logprob) for token in tokens),
        m.Ended(1, stream.finish or ""),
    ]
    (chosen,) = engine.submit(m.Choose(2, [("user", "x")], ("no", "yes")))
    choice = await model.choose("x", ["no", "yes"])
    assert chosen == m.Chosen(2, tuple(choice.logprobs.values()), choice.n_in)
    (embedded,) = engine.submit(m.Embed(3, ("p q",)))
    found = await model.embed(["p q"])
    assert embedded == m.Embedded(3, found.vectors, found.n_in)
    assert engine.submit(m.Count(4, [("user", "x y")])) == [m.Counted(4, 2)]


def test_the_engine_forgets_who_leaves_and_refuses_what_it_cannot() -> None:
    engine = ScriptedEngine(Script({"full": "<memory>"}))
    engine.submit(m.Generate(1, [("user", "x")], 5))
    engine.cancel(1)
    engine.cancel(1)
    assert engine.live == 0
    for id_, text in ((2, "full"), (3, "")):
        assert isinstance(engine.submit(m.Generate(id_, [("user", text)], 5))[0], m.Refusal)
