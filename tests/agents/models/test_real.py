"""SmolLM2 and MiniLM themselves: `ainp2p model fetch` brings their weights."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from ainp2p.agents.models.model import Raw, Token
from ainp2p.agents.models.process import ProcessModel, open_model
from ainp2p.agents.models.registry import KNOWN

pytestmark = [pytest.mark.model, pytest.mark.process]

TOPICS = ["sports", "science", "politics", "food"]
EXAMPLES = [
    ("The striker scored twice in the final minutes.", "sports"),
    ("The parliament voted on the new tax law.", "politics"),
    ("Simmer the sauce and add fresh basil.", "food"),
    ("The telescope found a planet around a nearby star.", "science"),
    ("She won the marathon in a record time.", "sports"),
    ("The minister resigned after the election.", "politics"),
    ("Bake the bread until the crust is golden.", "food"),
    ("The protein folds into a helix.", "science"),
]


def few_shot(text: str) -> Raw:
    shots = "\n\n".join(f"Text: {example}\nTopic: {label}" for example, label in EXAMPLES)
    return Raw(f"{shots}\n\nText: {text}\nTopic:")


@asynccontextmanager
async def opened(name: str, dtype: str = "auto") -> AsyncIterator[ProcessModel]:
    with trio.fail_after(180):
        async with open_model(name, device="cpu", dtype=dtype) as model:
            yield model


async def test_smollm2_answers_chooses_and_goes_on_from_a_prefix() -> None:
    async with opened("smollm2-135m", dtype="fp32") as model:
        known = KNOWN["smollm2-135m"]
        assert (model.info.hash.hex(), model.info.parameters) == (known.sha256, known.parameters)

        stream = model.stream("What is the capital of France?", max_tokens=40)
        tokens: list[Token] = [token async for token in stream]
        text = "".join(token.text for token in tokens)
        assert "Paris" in text
        assert "<|" not in text
        assert (stream.n_in, stream.finish) == (37, "stop")
        assert all(token.logprob is not None and token.logprob <= 0 for token in tokens)

        rest = model.stream("What is the capital of France?", prefix=[token.id for token in tokens[:3]])
        assert [token.id async for token in rest] == [token.id for token in tokens[3:]]

        for text, topic in [
            ("The goalkeeper saved a penalty.", "sports"),
            ("The senator proposed a bill.", "politics"),
            ("Fry the onions in butter.", "food"),
            ("The rover measured the soil of Mars.", "science"),
        ]:
            choice = await model.choose(few_shot(text), TOPICS)
            assert choice.label == topic


async def test_minilm_finds_what_means_the_same() -> None:
    async with opened("minilm-l6-v2") as model:
        assert model.info.hash.hex() == KNOWN["minilm-l6-v2"].sha256
        found = await model.embed(
            ["The cat sat on the mat.", "A kitten was sitting on a rug.", "Shares fell on Wall Street."]
        )
        cat, kitten, shares = found.vectors
        assert len(cat) == 384

        def close(a: tuple[float, ...], b: tuple[float, ...]) -> float:
            return sum(x * y for x, y in zip(a, b, strict=True))

        assert close(cat, kitten) > 0.5 > close(cat, shares) + 0.2
        assert found.n_in == 9 + 10 + 8
