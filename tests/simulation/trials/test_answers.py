"""Answers that are recorded outside a world and replayed inside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

import ainp2p
from ainp2p.agents.models.model import Model
from ainp2p.agents.models.scripted import ScriptedModel
from ainp2p.errors import InvalidInput, ModelRefused
from ainp2p.simulation import VersionMismatch, World, record, replayed, run, run_virtual


async def ask_all(model: Model) -> tuple[Any, ...]:
    said = [token async for token in model.stream("hello", max_tokens=9)]
    choice = await model.choose("yes?", ["yes", "no"])
    return said, choice, await model.embed(["a b", "c"]), await model.count("one two")


def recorded(path: Path) -> tuple[Any, ...]:
    async def main() -> tuple[Any, ...]:
        return await ask_all(record(ScriptedModel({"hello": "one two three"}, tokens_per_second=2.0), path))

    answers: tuple[Any, ...] = run_virtual(main, seed=1)
    return answers


def test_what_was_recorded_is_answered_again_in_the_time_that_it_took(tmp_path: Path) -> None:
    said = recorded(tmp_path / "answers.jsonl")

    async def main() -> tuple[Any, float]:
        return await ask_all(replayed(tmp_path / "answers.jsonl")), trio.current_time()

    again, took_s = run_virtual(main, seed=2)
    assert again == said
    assert took_s >= 1.5


def test_an_agent_in_a_world_sells_recorded_answers(tmp_path: Path) -> None:
    recorded(tmp_path / "answers.jsonl")

    @ainp2p.skill("talk", price="1/token")
    async def talk(job: Any, text: str) -> Any:
        async for token in job.model.stream(text, max_tokens=9):
            yield token

    async def model(world: World) -> None:
        world.spawn("seller", skills=[talk], model=replayed(tmp_path / "answers.jsonl"))
        buyer = await world.spawn("buyer").ready()
        offers = await buyer.agent.find("talk")
        async with buyer.agent.hire(offers, text="hello", budget=10) as job:
            assert "".join([str(piece) async for piece in job]) == "one two three"

    run(model, 1)


def test_what_was_never_asked_is_refused_with_the_remedy(tmp_path: Path) -> None:
    recorded(tmp_path / "answers.jsonl")

    async def main() -> None:
        async for _ in replayed(tmp_path / "answers.jsonl").stream("something else"):
            pass

    with pytest.raises(ModelRefused, match=r"no recorded answer to stream.*record it outside the world"):
        run_virtual(main, seed=1)


@pytest.mark.parametrize("kind", ["recording", "process"])
def test_a_real_model_inside_a_world_is_refused_with_the_remedy(tmp_path: Path, kind: str) -> None:
    class ProcessModel(ScriptedModel):
        pass

    real = ProcessModel() if kind == "process" else record(ScriptedModel(), tmp_path / "answers.jsonl")

    async def model(world: World) -> None:
        world.spawn("seller", model=real)

    with pytest.raises(InvalidInput, match="a real model, which no seed decides: record its answers"):
        run(model, 1)


def test_files_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with pytest.raises(InvalidInput, match="is not there: record it"):
        replayed(path)
    path.write_text("{}\n")
    with pytest.raises(InvalidInput, match="no file of recorded answers"):
        replayed(path)
    path.write_text('{"ainp2p answers": 99, "info": {}}\n')
    with pytest.raises(VersionMismatch, match="version 99"):
        replayed(path)


def test_where_nothing_can_be_written_nothing_is_recorded(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"none/answers\.jsonl cannot be written: No such file"):
        record(ScriptedModel({}), tmp_path / "none" / "answers.jsonl")


async def test_an_answer_that_cannot_be_written_down_is_not_kept_quiet(tmp_path: Path) -> None:
    model = record(ScriptedModel({"hello": "one"}), tmp_path / "answers.jsonl")
    (tmp_path / "answers.jsonl").unlink()
    (tmp_path / "answers.jsonl").mkdir()
    with pytest.raises(InvalidInput, match=r"answers\.jsonl cannot be written: Is a directory"):
        async for _ in model.stream("hello", max_tokens=3):
            pass


def test_answers_of_two_models_are_not_mixed(tmp_path: Path) -> None:
    recorded(tmp_path / "answers.jsonl")
    with pytest.raises(InvalidInput, match="of another model"):
        record(ScriptedModel({"other": "script"}), tmp_path / "answers.jsonl")
