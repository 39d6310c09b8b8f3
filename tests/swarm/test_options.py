"""Options and models, before anything is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ainp2p.agents.models.registry import KNOWN, resolve
from ainp2p.errors import InvalidInput, ModelNotFound
from ainp2p.home import Home
from ainp2p.swarm.options import Options, models_of


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("budget", 999),
        ("budget", 10**13),
        ("parts", 0),
        ("parts", 1001),
        ("limit_s", 4),
        ("seed", -1),
        ("seed", 2**63),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(option: str, value: int) -> None:
    fields: dict[str, Any] = {option: value}
    with pytest.raises(InvalidInput, match=option.removesuffix("_s")):
        Options(paths=["a.md"], **fields)


def test_a_scripted_swarm_needs_no_weights(tmp_path: Path) -> None:
    models = models_of("scripted", Home(tmp_path))
    assert (models.name, models.parameters, models.size_bytes) == ("scripted", 0, 0)
    text, embedding = (resolve(name, tmp_path).script for name in (models.text, models.embedding))
    assert text is not None
    assert embedding is not None
    assert (text.kind, embedding.kind) == ("text", "embedding")


def test_a_script_of_ones_own_is_taken(tmp_path: Path) -> None:
    models = models_of('scripted:{"answers": {"": "Salt"}}', Home(tmp_path))
    assert models.name == "scripted"
    assert '"Salt"' in models.text


def test_weights_that_were_not_fetched_are_named_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="ainp2p model fetch smollm2-135m"):
        models_of("smollm2-135m", Home(tmp_path))


def fetched(home: Home, *names: str) -> None:
    for name in names:
        directory = home.models() / KNOWN[name].directory_name
        directory.mkdir()
        (directory / "model.safetensors").write_bytes(b"x" * 1000)


def test_a_known_model_says_its_size(tmp_path: Path) -> None:
    home = Home(tmp_path)
    fetched(home, "smollm2-135m", "minilm-l6-v2")
    models = models_of("smollm2-135m", home)
    assert (models.name, models.parameters) == ("smollm2-135m", 134_515_008)
    assert models.size_bytes == 1000


def test_a_directory_of_transformers_is_a_model_and_its_size_is_guessed(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    (tmp_path / "home").mkdir()
    fetched(home, "minilm-l6-v2")
    large = tmp_path / "large"
    large.mkdir()
    (large / "config.json").write_text("{}")
    (large / "model.safetensors").write_bytes(b"x" * 2000)
    models = models_of(str(large), home)
    assert (models.text, models.name, models.parameters) == (str(large), "large", 1000)
