"""Models from files, and what their signatures say."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest

from ainp2p.errors import InvalidInput
from ainp2p.simulation.results.model_files import (
    REQUIRED,
    ModelFile,
    Parameter,
    check_names,
    digest_of,
    name_of,
    parameters_of,
)
from tests.simulation.results import small

TYPED = """
from __future__ import annotations
from typing import TYPE_CHECKING, Any, Literal, Optional
if TYPE_CHECKING:
    from nowhere import World

async def model(
    world: World,
    *,
    agents: int = 5,
    loss: float = 0.5,
    style: Literal["a", "b"] = "a",
    cap: int | None = None,
    floor: Optional[float] = 1.0,
    loud: bool = False,
    guessed=3,
    strategy: Any = print,
    unknown: Nowhere = 1,
    needed: str,
) -> None: ...
"""


def written(tmp_path: Path, text: str, name: str = "market.py") -> ModelFile:
    (tmp_path / name).write_text(text)
    return ModelFile.read(tmp_path / name)


def test_a_file_gives_its_model_again_and_again(tmp_path: Path) -> None:
    file = written(tmp_path, "async def model(world, *, agents=3): ...")
    assert file.load() is file.load()
    assert pickle.loads(pickle.dumps(file)) == file
    assert name_of(file) == str(tmp_path / "market.py")
    assert name_of(small.model) == "tests.simulation.results.small:model"


def test_what_runs_is_the_text_that_was_read(tmp_path: Path) -> None:
    file = written(tmp_path, "async def model(world, *, agents=3): ...")
    written(tmp_path, "async def model(world, *, agents=4): ...")
    assert parameters_of(file.load())[0]["agents"].default == 3


def test_a_file_hides_no_module_that_others_import(tmp_path: Path) -> None:
    import random

    written(tmp_path, "async def model(world): ...", "random.py").load()
    assert sys.modules["random"] is random


def test_a_file_finds_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside_the_model.py").write_text("AGENTS = 4")
    text = "from beside_the_model import AGENTS\nasync def model(world, *, agents=AGENTS): ..."
    assert parameters_of(written(tmp_path, text).load())[0]["agents"].default == 4
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("", "defines no model", id="nothing"),
        pytest.param("def model(world): ...", "defines no model", id="no async function"),
        pytest.param("model = 3", "defines no model", id="no function"),
        pytest.param("async def model(:", "SyntaxError", id="no Python"),
        pytest.param("1/0", "ZeroDivisionError", id="it fails"),
    ],
)
def test_a_file_without_a_model_is_refused(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=said):
        written(tmp_path, text).load()


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no model can be read"):
        ModelFile.read(tmp_path / "nowhere.py")
    (tmp_path / "bytes.py").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInput, match="no model can be read"):
        ModelFile.read(tmp_path / "bytes.py")


def test_parameters_have_the_types_that_the_signature_says(tmp_path: Path) -> None:
    known, others = parameters_of(written(tmp_path, TYPED).load())
    assert not others
    assert list(known.values()) == [
        Parameter("agents", 5, int),
        Parameter("loss", 0.5, float),
        Parameter("style", "a", str, ("a", "b")),
        Parameter("cap", None, int, optional=True),
        Parameter("floor", 1.0, float, optional=True),
        Parameter("loud", False, bool),
        Parameter("guessed", 3, int),
        Parameter("strategy", print, None),
        Parameter("unknown", 1, None),
        Parameter("needed", REQUIRED, str),
    ]


def test_names_are_checked_against_the_signature() -> None:
    check_names(small.model, ["agents", "rate"])
    check_names(small.open_model, ["anything"])
    with pytest.raises(InvalidInput, match="no parameter 'agent'"):
        check_names(small.model, ["agent"])
    with pytest.raises(InvalidInput, match="needs a value for its parameter 'agents'"):
        check_names(small.needy, [])


def test_a_model_without_a_world_is_refused() -> None:
    async def worldless(*, agents: int = 3) -> None: ...

    with pytest.raises(InvalidInput, match="takes no world"):
        parameters_of(worldless)


def test_the_source_is_known_by_its_hash(tmp_path: Path) -> None:
    one = written(tmp_path, "async def model(world): ...")
    two = written(tmp_path, "async def model(world): ...  # edited")
    assert digest_of(one) != digest_of(two)
    assert digest_of(small.model) == digest_of(small.needy) != ""
    assert digest_of(eval("lambda world: None")) == ""
