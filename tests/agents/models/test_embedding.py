"""Vectors of an encoder with random weights: the same alone and among others."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from ainp2p.agents.models import embedding as module
from ainp2p.agents.models import messages as m
from ainp2p.agents.models.embedding import EmbeddingEngine
from ainp2p.agents.models.tokenizer import Tokenizer


@pytest.fixture
def engine(tiny_bert: Path) -> EmbeddingEngine:
    from transformers import BertModel

    return EmbeddingEngine(BertModel.from_pretrained(tiny_bert), Tokenizer(tiny_bert))


def run(engine: EmbeddingEngine) -> list[m.Event]:
    events: list[m.Event] = []
    for _ in range(100):
        if not engine.live:
            return events
        events += engine.step()
    raise AssertionError("the engine does not come to an end")


def vectors(engine: EmbeddingEngine, *texts: str) -> tuple[tuple[float, ...], ...]:
    engine.submit(m.Embed(1, texts))
    last = run(engine)[-1]
    assert isinstance(last, m.Embedded)
    return last.vectors


def test_a_text_has_the_same_vector_alone_and_among_others(engine: EmbeddingEngine) -> None:
    texts = [f"{'word ' * (at % 7)}{at}" for at in range(70)]
    together = vectors(engine, *texts)
    assert len(together) == 70
    for at in (0, 31, 69):
        assert together[at] == pytest.approx(vectors(engine, texts[at])[0], abs=1e-5)


def test_mutant_padding_in_the_mean_is_noticed(
    engine: EmbeddingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = engine._model.forward
    ones = lambda **kw: forward(**kw | {"attention_mask": torch.ones_like(kw["attention_mask"])})  # noqa: E731
    monkeypatch.setattr(engine._model, "forward", ones)
    with pytest.raises(AssertionError):
        test_a_text_has_the_same_vector_alone_and_among_others(engine)


def test_vectors_have_length_one(engine: EmbeddingEngine) -> None:
    for vector in vectors(engine, "a", "some more words"):
        assert math.hypot(*vector) == pytest.approx(1)


def test_ids_are_counted(engine: EmbeddingEngine) -> None:
    assert engine.submit(m.Embed(1, ("abc", "de"))) == [m.Admitted(1, 5)]
    assert engine.submit(m.Count(2, [("user", "abcd")])) == [m.Counted(2, 4)]
    (embedded,) = run(engine)
    assert isinstance(embedded, m.Embedded)
    assert embedded.n_in == 5


def test_many_texts_take_several_steps_and_say_so(engine: EmbeddingEngine) -> None:
    engine.submit(m.Embed(1, ("a",) * (2 * module.ROWS_MAX + 1)))
    assert [type(event) for event in run(engine)] == [m.Working, m.Working, m.Embedded]


def test_a_canceled_request_is_gone_and_the_next_one_answered(engine: EmbeddingEngine) -> None:
    engine.submit(m.Embed(1, ("a",) * (2 * module.ROWS_MAX)))
    engine.submit(m.Embed(2, ("b",)))
    engine.step()
    engine.cancel(1)
    engine.cancel(1)
    assert [event.id for event in run(engine)] == [2]
    assert engine.step() == []


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        pytest.param(m.Embed(9, ()), "texts", id="no text"),
        pytest.param(m.Embed(9, ("a",) * (module.TEXTS_MAX + 1)), "texts", id="too many"),
        pytest.param(m.Embed(9, ("a", "x" * 65)), "too long", id="too long"),
        pytest.param(m.Embed(9, ("x" * 10**6,)), "too long", id="far too long"),
        pytest.param(m.Embed(9, ("",)), "too long", id="empty"),
        pytest.param(m.Generate(9, [("user", "x")], 5), "smollm2", id="generating"),
        pytest.param(m.Choose(9, [("user", "x")], ("a",)), "smollm2", id="choosing"),
    ],
)
def test_a_bad_request_is_refused_with_a_reason(engine: EmbeddingEngine, bad: m.Request, reason: str) -> None:
    (refusal,) = engine.submit(bad)
    assert isinstance(refusal, m.Refusal)
    assert reason in refusal.reason
    assert engine.live == 0


def test_who_finds_the_queue_full_is_told_so(
    engine: EmbeddingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAITING_MAX", 1)
    engine.submit(m.Embed(1, ("a",)))
    (refusal,) = engine.submit(m.Embed(2, ("a",)))
    assert isinstance(refusal, m.Refusal)
    assert "busy" in refusal.reason


def test_want_of_memory_fails_one_request(engine: EmbeddingEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(engine._model, "forward", full)
        engine.submit(m.Embed(1, ("a",)))
        assert [type(event) for event in engine.step()] == [m.Refusal]
    assert vectors(engine, "a")
