"""What a skill's function gets: a model that keeps to the award, the prefix and the seed."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from ainp2p.agents.models.model import MAX_TOKENS, Model, Token
from ainp2p.agents.models.scripted import Script, ScriptedModel, token_of
from ainp2p.agents.work import Work, new_work
from ainp2p.errors import ModelNotFound

JOB, BUYER = b"J" * 32, b"B" * 32


def words(count: int) -> str:
    return " ".join(f"w{i}" for i in range(count))


def ids(*texts: str) -> tuple[int, ...]:
    return tuple(token_of(text).id for text in texts)


class Recording(ScriptedModel):
    """Keeps what it was asked for."""

    asked: dict[str, Any]

    def stream(self, prompt: Any, **options: Any) -> Any:
        self.asked = options
        return super().stream(prompt, **options)


def work(*models: Model, **options: Any) -> Work:
    return new_work(models, job=JOB, buyer=BUYER, **options)


async def text_of(stream: Any) -> str:
    tokens = [token async for token in stream]
    assert all(isinstance(token, Token) for token in tokens)
    return "".join(token.text for token in tokens)


async def test_a_stream_makes_no_more_than_was_bought_and_says_that_it_was_cut() -> None:
    job = work(Recording({"": words(50)}), units_max=10)
    assert await text_of(job.model.stream("go")) == words(10)
    assert job.model.cut
    assert job.model.n_in == 1


async def test_an_answer_that_ends_by_itself_was_not_cut() -> None:
    job = work(Recording({"": words(10)}), units_max=10)
    assert await text_of(job.model.stream("go")) == words(10)
    assert not job.model.cut


async def test_the_skills_own_limit_is_not_the_buyers() -> None:
    job = work(Recording({"": words(50)}), units_max=40)
    assert await text_of(job.model.stream("go", max_tokens=20)) == words(20)
    assert not job.model.cut


async def test_without_a_limit_an_answer_has_the_models_default_length() -> None:
    job = work(Recording({"": words(500)}), units_max=100_000)
    assert await text_of(job.model.stream("go")) == words(MAX_TOKENS)


async def test_the_first_stream_goes_on_from_the_prefix_and_counts_it() -> None:
    job = work(Recording({"": words(50)}), prefix="w0 w1", prefix_tokens=ids("w0", " w1"))
    assert job.prefix == "w0 w1"
    assert await text_of(job.model.stream("go", max_tokens=5)) == " w2 w3 w4"
    assert await text_of(job.model.stream("again", max_tokens=5)) == words(5)


async def test_an_answer_that_was_whole_already_gets_nothing_more() -> None:
    model = Recording({"": words(50)})
    job = work(model, prefix_tokens=ids("w0", " w1"))
    async with job.model.stream("go", max_tokens=2) as stream:
        assert await text_of(stream) == ""
        assert (stream.n_in, stream.finish) == (0, "length")
    await stream.aclose()
    assert not hasattr(model, "asked")
    assert not job.model.cut


async def test_the_buyers_seed_is_used_unless_the_skill_has_its_own() -> None:
    model = Recording()
    job = work(model, seed=b"buyer")
    job.model.stream("go", temperature=0.5)
    assert (model.asked["seed"], model.asked["temperature"]) == (b"buyer", 0.5)
    job.model.stream("go", seed=b"own")
    assert model.asked["seed"] == b"own"


async def test_prompt_ids_of_all_kinds_are_counted() -> None:
    class Embedder(ScriptedModel):
        def __init__(self) -> None:
            super().__init__()
            self.info = Script(kind="embedding").info("embedder")

    job = work(ScriptedModel(), Embedder())
    await text_of(job.model.stream("one two three"))
    await job.model.choose("four five", ["six", "seven"])
    await job.model.embed(["eight nine"])
    assert await job.model.count("not counted") == 2
    assert job.model.n_in == 3 + 4 + 2
    assert job.model.info.name == "scripted"


async def test_a_model_that_is_not_there_is_named_with_what_there_is() -> None:
    job = work(ScriptedModel())
    with pytest.raises(ModelNotFound, match="kind 'embedding'; this agent has scripted"):
        await job.model.embed(["x"])
    with pytest.raises(ModelNotFound, match="this agent has none"):
        work().model.stream("go")
    await trio.lowlevel.checkpoint()
