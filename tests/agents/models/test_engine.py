"""Batching that nobody notices: each answer is what it would be alone, whatever the others do."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ainp2p.agents.models import batch as batch_module
from ainp2p.agents.models import messages as m
from ainp2p.agents.models.engine import Engine
from tests.agents.models.conftest import CONTEXT

Make = Callable[..., Engine]


def request(id_: int, text: str = "hello", **changes: Any) -> m.Generate:
    """A request for raw text, greedy unless said otherwise."""
    return m.Generate(id_, [("", text)], changes.pop("max_tokens", 12), **changes)


def requests(count: int = 10) -> list[m.Generate]:
    """Prompts and answers of many lengths, greedy and sampled."""
    rng = random.Random(3)
    return [
        request(
            id_,
            "".join(rng.choice("abcdefgh ") for _ in range(rng.randrange(1, 40))) + ".",
            max_tokens=rng.randrange(1, 24),
            temperature=rng.choice([0.0, 0.9]),
            seed=b"seed %d" % id_,
        )
        for id_ in range(count)
    ]


def run(
    engine: Engine, *waiting: m.Request, arrivals: random.Random | None = None
) -> dict[int, list[m.Event]]:
    """Submit all (at random moments, when `arrivals` is given) and step until all have ended."""
    events: dict[int, list[m.Event]] = {each.id: [] for each in waiting}
    left = list(waiting)
    for _ in range(2000):
        while left and (arrivals is None or arrivals.random() < 0.4):
            for event in engine.submit(left.pop(0)):
                events[event.id].append(event)
        if not left and not engine.live:
            return events
        for event in engine.step():
            events[event.id].append(event)
    raise AssertionError("the engine does not come to an end")


def tokens(events: list[m.Event]) -> list[int]:
    return [event.token for event in events if isinstance(event, m.Made)]


def logprobs(events: list[m.Event]) -> list[float | None]:
    return [event.logprob for event in events if isinstance(event, m.Made)]


def check_staggered_equals_alone(make: Make) -> None:
    wanted = {each.id: run(make(), each)[each.id] for each in requests()}
    for seed in range(3):
        engine = make(rows_max=4, chunk=7)
        found = run(engine, *requests(), arrivals=random.Random(seed))
        for id_, events in wanted.items():
            assert tokens(found[id_]) == tokens(events)
            assert logprobs(found[id_]) == pytest.approx(logprobs(events), abs=1e-4)
            assert found[id_][-1] == events[-1]


def test_staggered_arrivals_give_what_each_request_gets_alone(load_tiny: Make) -> None:
    check_staggered_equals_alone(load_tiny)


def test_the_answers_of_that_test_differ_from_one_another(load_tiny: Make) -> None:
    found = run(load_tiny(), *requests())
    assert len({tuple(tokens(events)[:6]) for events in found.values()}) >= 6


def test_mutant_attended_padding_is_noticed(load_tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(mask: Any, width: int) -> Any:
        return torch.nn.functional.pad(mask, (width - mask.shape[1], 0), value=1)

    monkeypatch.setattr(batch_module, "_left", careless)
    with pytest.raises(AssertionError):
        check_staggered_equals_alone(load_tiny)


def test_mutant_noise_by_row_instead_of_by_seed_is_noticed(
    load_tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = torch.Generator().manual_seed(1)

    def ambient(self: Engine, logits: Any, generate: m.Generate, made: int) -> Any:
        return torch.multinomial(torch.softmax(logits / generate.temperature, -1), 1, generator=state)[0]

    monkeypatch.setattr(Engine, "_drawn", ambient)
    with pytest.raises(AssertionError):
        check_staggered_equals_alone(load_tiny)


def test_the_logprob_is_that_of_transformers_own_forward(load_tiny: Make) -> None:
    engine = load_tiny()
    found = run(engine, request(1, "some words", max_tokens=5))[1]
    ids = engine._tokenizer.encode([("", "some words")])
    with torch.inference_mode():
        logits = engine._model(input_ids=torch.tensor([ids + tokens(found)])).logits[0].float()
    after = torch.log_softmax(logits, -1)
    wanted = [float(after[len(ids) - 1 + at, token]) for at, token in enumerate(tokens(found))]
    assert logprobs(found) == pytest.approx(wanted, abs=1e-4)
    assert tokens(found) == [int(after[len(ids) - 1 + at].argmax()) for at in range(5)]


def test_ids_are_counted_and_the_reason_for_the_end_is_said(load_tiny: Make) -> None:
    found = run(load_tiny(), request(1, "12345", max_tokens=3))[1]
    assert found[0] == m.Admitted(1, 5)
    assert found[-1] == m.Ended(1, "length")
    assert len(tokens(found)) == 3


def test_the_token_that_says_stop_is_the_last_and_has_no_text(load_tiny: Make) -> None:
    free = run(load_tiny(), request(1, max_tokens=8))[1]
    engine = load_tiny()
    engine._tokenizer.stop_ids = frozenset({tokens(free)[3]})
    found = run(engine, request(1, max_tokens=8))[1]
    first = tokens(free).index(tokens(free)[3])
    assert tokens(found) == tokens(free)[: first + 1]
    assert found[-1] == m.Ended(1, "stop")


def test_a_prefix_is_gone_on_from_token_for_token(load_tiny: Make) -> None:
    for temperature in (0.0, 0.9):
        whole = tokens(run(load_tiny(), request(1, max_tokens=16, temperature=temperature, seed=b"s"))[1])
        rest = request(2, max_tokens=9, temperature=temperature, seed=b"s", prefix=tuple(whole[:7]))
        found = run(load_tiny(), rest)[2]
        assert tokens(found) == whole[7:]
        assert found[0] == m.Admitted(2, len("hello"))


def test_an_answer_whose_prefix_has_ended_has_ended(load_tiny: Make) -> None:
    assert run(load_tiny(), request(1, prefix=(5, 1)))[1] == [m.Admitted(1, 5), m.Ended(1, "stop")]


def test_different_seeds_give_different_answers_and_the_same_seed_the_same(load_tiny: Make) -> None:
    same = [request(id_, temperature=1.0, seed=b"s") for id_ in (1, 2)]
    other = request(3, temperature=1.0, seed=b"t")
    found = run(load_tiny(), *same, other)
    assert tokens(found[1]) == tokens(found[2]) != tokens(found[3])


REFUSED = [
    pytest.param(request(9, ""), "empty", id="an empty prompt"),
    pytest.param(request(9, "x" * (CONTEXT - 5)), "too long", id="too long with its answer"),
    pytest.param(request(9, "x" * 100_000), "too long", id="far too long"),
    pytest.param(request(9, max_tokens=0), "max_tokens", id="no token wanted"),
    pytest.param(request(9, max_tokens=-5), "max_tokens", id="a negative number of tokens"),
    pytest.param(request(9, max_tokens=2**40), "too long", id="far too many tokens"),
    pytest.param(request(9, temperature=-1.0), "temperature", id="a negative temperature"),
    pytest.param(request(9, temperature=float("nan")), "temperature", id="no temperature"),
    pytest.param(request(9, temperature=float("inf")), "temperature", id="an infinite temperature"),
    pytest.param(request(9, prefix=(258,)), "token ids", id="an id beyond the vocabulary"),
    pytest.param(request(9, prefix=(-1,)), "token ids", id="a negative id"),
    pytest.param(request(9, prefix=(10**18,)), "token ids", id="an enormous id"),
    pytest.param(m.Choose(9, [("", "x")], ()), "labels", id="no labels"),
    pytest.param(m.Choose(9, [("", "x")], ("a",) * 65), "labels", id="too many labels"),
    pytest.param(m.Choose(9, [("user", "x")], ("a", "")), "label", id="an empty label"),
    pytest.param(m.Embed(9, ("x",)), "minilm", id="embedding"),
]


@pytest.mark.parametrize(("bad", "reason"), REFUSED)
def test_a_bad_request_is_refused_and_harms_nobody(load_tiny: Make, bad: m.Request, reason: str) -> None:
    check_refusal(load_tiny, bad, reason)


def check_refusal(make: Make, bad: m.Request, reason: str) -> None:
    alone = run(make(), request(1))[1]
    engine = make()
    engine.submit(request(1))
    events = engine.step()
    (refusal,) = engine.submit(bad)
    assert isinstance(refusal, m.Refusal)
    assert reason in refusal.reason
    while engine.live:
        events += engine.step()
    assert tokens(events) == tokens(alone)


def test_mutant_unchecked_ids_are_noticed(load_tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "_check_ids", lambda self, ids: None)
    with pytest.raises(AssertionError):
        check_refusal(load_tiny, request(9, prefix=(258,)), "token ids")


def test_mutant_unchecked_length_is_noticed(load_tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "_check_room", lambda self, need: None)
    with pytest.raises(AssertionError):
        check_refusal(load_tiny, request(9, max_tokens=2**20), "too long")


def test_who_finds_the_queue_full_is_told_so(load_tiny: Make) -> None:
    engine = load_tiny(waiting_max=2)
    answers = [engine.submit(request(id_))[0] for id_ in range(3)]
    assert [type(answer) for answer in answers] == [m.Admitted, m.Admitted, m.Refusal]
    assert "busy" in answers[2].reason  # type: ignore[union-attr]  # the line above says which it is


def check_cancellation(make: Make) -> None:
    alone = run(make(), request(2, "others", max_tokens=20))[2]
    engine = make()
    engine.submit(request(1, max_tokens=100))
    engine.submit(request(2, "others", max_tokens=20))
    events = engine.step() + engine.step()
    engine.cancel(1)
    assert engine.live == 1
    after = []
    while engine.live:
        after += engine.step()
    assert all(event.id == 2 for event in after)
    assert tokens([event for event in events + after if event.id == 2]) == tokens(alone)


def test_a_canceled_request_is_gone_before_the_next_step_and_the_others_go_on(load_tiny: Make) -> None:
    check_cancellation(load_tiny)


def test_mutant_a_cancel_without_effect_is_noticed(load_tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "cancel", lambda self, request_id: None)
    with pytest.raises(AssertionError):
        check_cancellation(load_tiny)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_request_can_be_canceled_while_it_waits_reads_or_is_decoded(load_tiny: Make, steps: int) -> None:
    engine = load_tiny(chunk=4)
    engine.submit(request(1, "a prompt of three chunks", max_tokens=50))
    for _ in range(steps):
        engine.step()
    engine.cancel(1)
    engine.cancel(1)
    engine.cancel(77)
    assert engine.live == 0
    assert engine.step() == []


def test_a_long_prompt_does_not_hold_up_the_others(load_tiny: Make) -> None:
    engine = load_tiny(chunk=8)
    engine.submit(request(1, max_tokens=40))
    engine.step()
    engine.submit(request(2, "x" * 100, max_tokens=4))
    for _ in range(10):
        events = engine.step()
        assert [event for event in events if event.id == 1]
        assert m.Working(2) in events


def test_the_memory_budget_is_rows_times_the_longest(load_tiny: Make) -> None:
    engine = load_tiny(tokens_max=100)
    engine.submit(request(1, "x" * 10, max_tokens=10))
    engine.submit(request(2, "x" * 30, max_tokens=10))
    engine.submit(request(3, "x" * 30, max_tokens=10))  # three rows of 40 would be 120
    first = {event.id for event in engine.step()}
    assert first == {1, 2}
    rest = set()
    while engine.live:
        rest |= {event.id for event in engine.step()}
    assert 3 in rest


def check_memory(make: Make, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str) -> None:
    """The second prompt meets `error` in the model; the first goes on as if nothing had been."""
    alone = run(make(), request(1))[1]
    engine = make()
    engine.submit(request(1))
    events = engine.step()
    forward = engine._model.forward

    def failing(*args: Any, **kwargs: Any) -> Any:
        if kwargs["input_ids"].shape[1] > 1:  # only prompts are read several ids at a time
            raise error
        return forward(*args, **kwargs)

    monkeypatch.setattr(engine._model, "forward", failing)
    engine.submit(request(2, "another prompt"))
    while engine.live:
        events += engine.step()
    (refusal,) = [event for event in events if event.id == 2]
    assert isinstance(refusal, m.Refusal)
    assert said in refusal.reason
    assert tokens(events) == tokens(alone)


@pytest.mark.parametrize(
    ("error", "said"),
    [(torch.OutOfMemoryError("CUDA out of memory"), "memory"), (RuntimeError("shape"), "cannot read")],
    ids=["out of memory", "any other fault"],
)
def test_a_prompt_that_cannot_be_read_fails_alone(
    load_tiny: Make, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    check_memory(load_tiny, monkeypatch, error, said)


def test_no_memory_while_joining_changes_nothing(load_tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = run(load_tiny(), request(1))[1]
    engine = load_tiny()
    engine.submit(request(1))
    events = engine.step()

    def full(*args: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(batch_module, "_joined", full)
        engine.submit(request(2, "another prompt"))
        events += engine.step()
    while engine.live:
        events += engine.step()
    assert [type(event) for event in events if event.id == 2] == [m.Refusal]
    assert tokens(events) == tokens(alone)


def test_mutant_a_fault_in_one_prompt_that_reaches_the_loop_is_noticed(
    load_tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reraise(self: Engine, exc: Exception) -> str:
        raise exc

    monkeypatch.setattr(Engine, "_only_this_request", reraise)
    with pytest.raises(RuntimeError):
        check_memory(load_tiny, monkeypatch, RuntimeError("shape"), "cannot read")


def test_an_answer_that_leaves_the_range_of_numbers_fails_alone(
    load_tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = run(load_tiny(), request(1))[1]
    engine = load_tiny()
    engine.submit(request(1))
    engine.submit(request(2, "others"))
    events = engine.step()
    step = batch_module.Batch.step

    def poisoned(self: Any, ids: list[int]) -> Any:
        logits = step(self, ids)
        logits[1] = float("nan")
        return logits

    with monkeypatch.context() as patch:
        patch.setattr(batch_module.Batch, "step", poisoned)
        events += engine.step()
    while engine.live:
        events += engine.step()
    last = [event for event in events if event.id == 2][-1]
    assert isinstance(last, m.Refusal)
    assert "range of numbers" in last.reason
    assert tokens([event for event in events if event.id == 1]) == tokens(alone)


def test_choosing_scores_labels_as_the_model_would_say_them(load_tiny: Make) -> None:
    engine = load_tiny()
    labels = ("sport", "a", "politics", "ab")
    (admitted, chosen) = run(engine, m.Choose(1, [("", "Topic:")], labels))[1]
    assert isinstance(chosen, m.Chosen)
    assert admitted == m.Admitted(1, len("Topic:"))
    assert chosen.n_in == len("Topic:") + sum(len(" " + label) for label in labels)
    for label, score in zip(labels, chosen.logprobs, strict=True):
        ids = engine._tokenizer.encode([("", f"Topic: {label}")])
        with torch.inference_mode():
            after = torch.log_softmax(engine._model(input_ids=torch.tensor([ids])).logits[0].float(), -1)
        wanted = sum(float(after[at - 1, ids[at]]) for at in range(len("Topic:"), len(ids)))
        assert score == pytest.approx(wanted, abs=1e-4)


def test_choosing_and_streaming_do_not_disturb_each_other(load_tiny: Make) -> None:
    alone = run(load_tiny(), *requests(4))
    choice = m.Choose(99, [("", "x" * 30)], tuple("abcdefghijkl"))
    wanted = run(load_tiny(), choice)[99]
    found = run(load_tiny(chunk=8), *requests(4), choice, arrivals=random.Random(1))
    assert [e.logprobs for e in found[99] if isinstance(e, m.Chosen)] == [
        pytest.approx(e.logprobs, abs=1e-4) for e in wanted if isinstance(e, m.Chosen)
    ]
    assert all(tokens(found[id_]) == tokens(alone[id_]) for id_ in alone)


def test_counting_is_answered_at_once(load_tiny: Make) -> None:
    assert load_tiny().submit(m.Count(1, [("", "12345")])) == [m.Counted(1, 5)]


def test_a_model_with_a_sliding_window_is_refused() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    from ainp2p.errors import ModelError

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = MistralConfig(vocab_size=16, num_key_value_heads=1, sliding_window=4, **sizes)
    with pytest.raises(ModelError, match="full attention"):
        batch_module.Batch(MistralForCausalLM(config))
