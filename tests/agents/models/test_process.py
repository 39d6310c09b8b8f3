"""A model process that crashes, hangs, runs out of memory, is stopped or lied about; with real processes."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from ainp2p.agents.models import child as child_module
from ainp2p.agents.models import messages as m
from ainp2p.agents.models import process as module
from ainp2p.agents.models.child import Child
from ainp2p.agents.models.model import Model, Raw, Token, TokenStream
from ainp2p.agents.models.process import STALL_S, ProcessModel, open_model
from ainp2p.agents.models.scripted import Script, token_of
from ainp2p.agents.models.supervision import Suspects, Watch
from ainp2p.agents.models.worker import WorkerSpec
from ainp2p.errors import Closed, InvalidInput, ModelCrashed, ModelError, ModelNotFound, ModelRefused

pytestmark = pytest.mark.process

LIMIT_S = 60  # of one test; all of them take much less
ANSWERS = {
    "crash": "one two <crash> three",
    "oom": "one two <oom> three",
    "hang": "one two <hang> three",
    "print": "one <print> two",
    "full": "<memory>",
    "long": "word " * 2000,
}


@asynccontextmanager
async def opened(*, pace: float | None = None, **options: Any) -> AsyncIterator[ProcessModel]:
    """A scripted model in a process, which restarts at once, for at most LIMIT_S."""
    options = {"backoff_s": 0.001} | options
    with trio.fail_after(LIMIT_S):
        async with open_model(Script(ANSWERS, tokens_per_second=pace).as_name(), **options) as model:
            yield model


async def heard(stream: TokenStream) -> tuple[list[str], Exception | None]:
    """What a stream still says, and the error that ends it."""
    words: list[str] = []
    try:
        async for token in stream:
            words.append(token.text)
    except ModelError as exc:
        return words, exc
    return words, None


async def until(condition: Any) -> None:
    """Wait for something that happens in another process; the test's limit bounds it."""
    while not condition():  # noqa: ASYNC110 - there is no event in another process
        await trio.sleep(0.002)


# --- well -------------------------------------------------------------------------------------------


async def test_it_streams_chooses_embeds_and_counts() -> None:
    async with opened() as model:
        typed: Model = model
        stream = typed.stream("good day")
        assert [token async for token in stream] == [token_of(w) for w in ("You", " said:", " good", " day")]
        assert (stream.n_in, stream.finish) == (2, "stop")
        assert (await model.choose(Raw("a b"), ["x", "y"])).n_in == 4
        assert len((await model.embed(["a", "b"])).vectors) == 2
        assert await model.count("a b c") == 3
        assert (model.info.name, model.info.kind, model.info.parameters) == ("scripted", "text", 0)
        assert model.info.hash == Script(ANSWERS).hash
        figures = model.statistics()
        assert (figures.tokens, figures.live, figures.restarts) == (4, 0, 0)


async def test_many_requests_run_at_once_and_keep_apart() -> None:
    async with opened() as model:
        results: dict[int, list[str]] = {}

        async def one(number: int) -> None:
            words, _ = await heard(model.stream(f"{number} " * 20))
            results[number] = words

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(one, number)
        assert results == {n: ["You", " said:", *[f" {n}"] * 20] for n in range(50)}


async def test_a_refusal_is_for_one_request_only() -> None:
    async with opened() as model:
        long = model.stream("long")
        await anext(long)
        assert isinstance((await heard(model.stream("full")))[1], ModelRefused)
        with pytest.raises(ModelRefused):
            await model.count("")
        with pytest.raises(ModelRefused, match="too long"):
            await model.embed(["x" * (m.FRAME_SIZE_MAX + 1)])
        assert (await anext(long)).text == " word"


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"seed": "text"}, id="a seed that is text"),
        pytest.param({"prefix": ["a"]}, id="a prefix that is text"),
        pytest.param({"prefix": [2**70]}, id="an id that no machine holds"),
        pytest.param({"temperature": None}, id="no temperature"),
        pytest.param({"max_tokens": 1.5}, id="half a token"),
        pytest.param({"prompt": "\ud800"}, id="half a character"),
    ],
)
async def test_wrong_arguments_are_refused_before_they_reach_the_process(arguments: Any) -> None:
    async with opened() as model:
        with pytest.raises(InvalidInput):
            await anext(model.stream(**{"prompt": "x"} | arguments))
        assert await model.count("x") == 1
        assert model.statistics().restarts == 0


async def test_stray_output_does_not_disturb_the_frames() -> None:
    async with opened() as model:
        assert (await heard(model.stream("print")))[0] == ["one", " two"]


async def test_speed_is_measured() -> None:
    async with opened(pace=200) as model:
        assert model.statistics().tokens_per_second is None
        await heard(model.stream("a b c d e f"))
        measured = model.statistics().tokens_per_second
        assert measured is not None
        assert measured > 0


async def test_too_many_live_requests_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUESTS_MAX", 2)
    async with opened(pace=50) as model:
        streams = [model.stream("long") for _ in range(3)]
        for stream in streams[:2]:
            await anext(stream)
        with pytest.raises(ModelRefused, match="busy"):
            await anext(streams[2])
        await streams[0].aclose()
        await anext(model.stream("long"))


# --- leaving ----------------------------------------------------------------------------------------


async def test_leaving_a_stream_ends_it_in_the_process() -> None:
    async with opened(pace=100) as model:
        async with model.stream("long") as stream:
            await anext(stream)
        assert (stream.finish, model.statistics().live) == ("canceled", 0)
        await quiet(model)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def quiet(model: ProcessModel) -> None:
    """Nothing more is generated: a later answer is counted alone."""
    await model.count("in order, so the cancel was read")
    before = model.statistics().tokens
    await heard(model.stream("a b"))
    assert model.statistics().tokens == before + 4


async def test_breaking_out_of_the_loop_ends_it_as_well() -> None:
    async with opened(pace=100) as model:
        async for _ in model.stream("long"):
            break
        gc.collect()
        await until(lambda: model.statistics().live == 0)
        await quiet(model)


async def test_a_stream_that_was_never_read_costs_nothing() -> None:
    async with opened() as model:
        stream = model.stream("x")
        assert model.statistics().live == 0
        await stream.aclose()
        del stream


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope when its task has been scheduled `steps` times."""

    def __init__(self, steps: int, scope: trio.CancelScope) -> None:
        self.left, self.scope = steps, scope
        self.task = trio.lowlevel.current_task()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.left -= 1
            if self.left == 0:
                self.scope.cancel()


async def cancel_at_each_step(model: ProcessModel) -> None:
    for steps in range(1, 16):
        with trio.CancelScope() as scope:
            instrument = CancelAtStep(steps, scope)
            trio.lowlevel.add_instrument(instrument)
            try:
                if steps % 2:
                    await heard(model.stream("long", max_tokens=6))
                else:
                    await model.choose("x", ["a", "b"])
            finally:
                trio.lowlevel.remove_instrument(instrument)
        assert model.statistics().live == 0
    await quiet(model)


async def test_g3_cancelling_at_any_await_leaves_nothing_behind() -> None:
    async with opened(pace=500) as model:
        await cancel_at_each_step(model)


async def test_mutant_a_leave_that_forgets_to_say_so_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(pace=500) as model:
        monkeypatch.setattr(ProcessModel, "leave", lambda self, pending: None)
        with pytest.raises(AssertionError):
            await cancel_at_each_step(model)


async def test_after_the_block_the_process_is_gone_and_calls_say_so() -> None:
    async with opened(pace=50) as model:
        pid = model.pid
        assert pid is not None
        stream = model.stream("long")
        await anext(stream)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(Closed):
        await model.count("x")
    with pytest.raises(Closed):
        await heard(stream)


async def test_the_blocks_own_error_leaves_it_as_it_came() -> None:
    with pytest.raises(ZeroDivisionError):
        async with opened():
            _ = 1 / 0


# --- ill --------------------------------------------------------------------------------------------


async def check_crash(word: str, said: str, **options: Any) -> None:
    """Mid-answer: what came before is delivered, the error says why, the next request is answered."""
    async with opened(**options) as model:
        first = model.pid
        model._stall_s = STALL_S  # of the next life: a slow machine must not look like a hang there
        words, error = await heard(model.stream(word))
        assert words == ["one", " two"]
        assert isinstance(error, ModelCrashed)
        assert said in str(error)
        assert "not billed" in str(error)
        assert (await heard(model.stream("hello")))[0] == ["You", " said:", " hello"]
        assert model.pid != first
        assert model.statistics().restarts == 1


async def test_a_crash_mid_answer_fails_the_request_and_the_process_comes_back() -> None:
    await check_crash("crash", "RuntimeError: the script says <crash>")


async def test_out_of_memory_mid_answer_says_so_and_the_process_comes_back() -> None:
    await check_crash("oom", "memory ran out")


async def test_a_hang_mid_answer_is_noticed_and_the_process_replaced() -> None:
    await check_crash("hang", "hung", stall_s=0.4)


async def test_mutant_without_the_watch_a_hang_is_not_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watch, "fault", lambda self, now, live: None)
    async with opened(stall_s=0.1) as model:
        with trio.move_on_after(0.8) as scope:
            await heard(model.stream("hang"))
        assert scope.cancelled_caught


async def test_mutant_requests_that_are_not_failed_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened() as model:
        monkeypatch.setattr(ProcessModel, "_fail_all", lambda self, failure: None)
        with trio.move_on_after(0.8) as scope:
            await heard(model.stream("crash"))
        assert scope.cancelled_caught


async def test_after_out_of_memory_it_starts_with_half_the_budget() -> None:
    async with opened() as model:
        before = model._spec.tokens_max
        assert before is not None
        await heard(model.stream("oom"))
        assert model._spec.tokens_max == before // 2
        await heard(model.stream("crash"))
        assert model._spec.tokens_max in (before, before // 2)  # a scripted model says its own


async def test_kill_minus_nine_fails_all_in_flight_and_the_others_are_answered_later() -> None:
    async with opened(pace=100) as model:
        streams = [model.stream(f"long {number}") for number in range(4)]
        for stream in streams:
            await anext(stream)
        assert model.pid is not None
        os.kill(model.pid, signal.SIGKILL)
        for stream in streams:
            _, error = await heard(stream)
            assert isinstance(error, ModelCrashed)
            assert stream.finish is None
        assert await model.count("a b") == 2


async def test_a_stopped_process_is_noticed_even_when_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE_S", 0.4)
    monkeypatch.setattr(module, "PING_EVERY_S", 0.05)
    async with opened() as model:
        first = model.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        monkeypatch.setattr(module, "SILENCE_S", LIMIT_S)  # for the next life
        await until(lambda: model.pid not in (first, None))
        assert await model.count("a") == 1


async def check_poison(model: ProcessModel) -> None:
    for _ in range(2):
        assert isinstance((await heard(model.stream("crash")))[1], ModelCrashed)
    assert isinstance((await heard(model.stream("crash")))[1], ModelRefused)
    assert model.statistics().restarts == 2
    assert (await heard(model.stream("crash it not?", max_tokens=1)))[0] == ["one"]


async def test_a_request_that_was_there_at_two_crashes_is_refused() -> None:
    async with opened() as model:
        await check_poison(model)


async def test_mutant_without_suspicion_a_poisonous_request_crashes_it_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Suspects, "refuses", lambda self, digest: False)
    async with opened() as model:
        with pytest.raises(AssertionError):
            await check_poison(model)


async def test_an_innocent_request_is_cleared_when_it_comes_to_its_end() -> None:
    async with opened() as model:
        for _ in range(3):
            innocent = model.stream("long", max_tokens=5)
            await anext(innocent)
            guilty = model.stream("crash", seed=os.urandom(8))
            await heard(guilty)
            await heard(model.stream("long", max_tokens=5))
        assert (await heard(model.stream("long", max_tokens=5)))[1] is None


async def test_requests_wait_for_a_restart_but_not_for_a_second_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened() as model:
        start = Child.start

        async def broken(spec: WorkerSpec) -> Child:
            return await start(msgspec.structs.replace(spec, script="scripted:nonsense"))

        monkeypatch.setattr(Child, "start", broken)
        await heard(model.stream("crash"))
        with pytest.raises(ModelCrashed, match="does not start at the moment"):
            await model.count("x")
        monkeypatch.setattr(Child, "start", start)
        await until(lambda: model._ready_at is not None)
        assert await model.count("x") == 1


class Garbled:
    """A decoder that understands nothing."""

    def decode(self, body: bytes) -> m.FromWorker:
        raise msgspec.DecodeError("byte 7 is nonsense")


async def test_a_process_that_talks_nonsense_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(pace=100) as model:
        stream = model.stream("long")
        await anext(stream)
        with monkeypatch.context() as patch:
            patch.setattr(child_module, "from_worker", Garbled())
            _, error = await heard(stream)
        assert "sent what is no frame: byte 7 is nonsense" in str(error)
        assert await model.count("a b") == 2


async def test_a_process_that_says_more_than_it_was_asked_for_is_replaced() -> None:
    async with opened(pace=100) as model:
        stream = model.stream("long", max_tokens=3)
        await anext(stream)
        pending = stream._pending
        assert pending is not None
        await until(lambda: pending.made == 3)
        for _ in range(6):
            model._handle(m.Made(pending.request.id, 1, "more", None), model._child or pytest.fail("gone"))
        _, error = await heard(stream)
        assert "more than it was asked for" in str(error)


async def test_a_model_that_cannot_be_loaded_says_why_and_is_not_tried_again(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with trio.fail_after(LIMIT_S), pytest.raises(ModelError, match="not a model directory of transformers"):
        async with open_model(str(tmp_path)):
            pass


async def test_an_unknown_model_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="ainp2p model fetch"):
        async with open_model("smollm2-135m", models=tmp_path):
            pass


async def test_a_start_can_be_canceled() -> None:
    with trio.move_on_after(0.01):
        async with open_model("scripted"):
            await trio.sleep_forever()


async def test_it_is_not_given_the_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AINP2P_PASSPHRASE_FILE", "/secret")
    async with opened() as model:
        environment = await trio.Path(f"/proc/{model.pid}/environ").read_bytes()
    assert b"PASSPHRASE" not in environment


# --- with torch -------------------------------------------------------------------------------------


async def test_a_directory_of_transformers_works_in_a_process(tiny_llama: Path) -> None:
    with trio.fail_after(LIMIT_S):
        async with open_model(str(tiny_llama), device="cpu", dtype="fp32", threads=1) as model:
            assert (model.info.kind, model.info.context, model.info.dtype) == ("text", 256, "fp32")
            whole: list[Token] = [token async for token in model.stream(Raw("hello"), max_tokens=10)]
            stream = model.stream(Raw("hello"), max_tokens=6, prefix=[token.id for token in whole[:4]])
            assert [token.id async for token in stream] == [token.id for token in whole[4:]]
            assert stream.n_in == await model.count(Raw("hello")) == 5
            choice = await model.choose(Raw("Topic:"), ["sport", "art"])
            assert choice.label == max(choice.logprobs, key=lambda label: choice.logprobs[label])
            with pytest.raises(ModelRefused, match="embed"):
                await model.embed(["x"])
