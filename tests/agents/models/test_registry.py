"""Names of models."""

from __future__ import annotations

from pathlib import Path

import pytest

from ainp2p.agents.models.registry import KNOWN, resolve
from ainp2p.agents.models.scripted import Script
from ainp2p.errors import InvalidInput, ModelNotFound


def test_a_known_model_is_found_where_it_was_fetched(tmp_path: Path) -> None:
    directory = tmp_path / "smollm2-135m-b179c9523d0e"
    directory.mkdir()
    assert resolve("smollm2-135m", tmp_path).directory == directory


def test_a_known_model_that_was_not_fetched_says_how(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="ainp2p model fetch minilm-l6-v2"):
        resolve("minilm-l6-v2", tmp_path)


def test_a_directory_with_a_configuration_is_a_model(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    source = resolve(str(tmp_path / "mine"), tmp_path / "models")
    assert (source.name, source.directory) == ("mine", tmp_path / "mine")


def test_a_script_is_a_model(tmp_path: Path) -> None:
    script = Script({"a": "b"})
    source = resolve(script.as_name(), tmp_path)
    assert (source.name, source.script, source.directory) == ("scripted", script, None)
    assert resolve("scripted", tmp_path).script == Script()
    with pytest.raises(InvalidInput):
        resolve("scripted:nonsense", tmp_path)


@pytest.mark.parametrize("name", ["gpt-9", "", "scriptedx"])
def test_an_unknown_name_says_what_is_known(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelNotFound, match="smollm2-135m"):
        resolve(name, tmp_path)


def test_directories_are_named_by_the_hash_of_what_is_in_them() -> None:
    for known in KNOWN.values():
        assert len(bytes.fromhex(known.sha256)) == 32
        assert known.directory_name == f"{known.name}-{known.sha256[:12]}"
        assert "==" in known.requirement
