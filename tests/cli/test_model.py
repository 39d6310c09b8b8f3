"""`ainp2p model`: what it prints for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ainp2p.agents.models import weights
from ainp2p.agents.models.registry import KNOWN
from ainp2p.cli import exit_codes, main


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AINP2P_HOME", str(tmp_path))
    return tmp_path


def here(home: Path, name: str) -> Path:
    """A model's directory, as if it had been fetched."""
    directory = home / "models" / KNOWN[name].directory_name
    directory.mkdir(parents=True)
    return directory


def test_list_says_what_is_here_and_how_to_get_the_rest(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here(home, "minilm-l6-v2")
    assert main(["model", "list"]) == exit_codes.OK
    smol, minilm = capsys.readouterr().out.splitlines()
    assert "135M" in smol
    assert smol.endswith("ainp2p model fetch smollm2-135m")
    assert minilm.split()[0] == "minilm-l6-v2"
    assert minilm.endswith("here")


def test_list_prints_one_json_object_for_each_model(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = here(home, "minilm-l6-v2")
    assert main(["model", "list", "--json"]) == exit_codes.OK
    found = {row["name"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert found["minilm-l6-v2"]["path"] == str(directory)
    assert found["smollm2-135m"]["path"] is None
    assert found["smollm2-135m"]["sha256"] == KNOWN["smollm2-135m"].sha256


def test_fetch_says_where_the_weights_are(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fetch(name: str, models: Path, say: weights.Say) -> Path:
        say("downloading")
        return models / name

    monkeypatch.setattr(weights, "fetch", fetch)
    assert main(["model", "fetch"]) == exit_codes.OK
    out, err = capsys.readouterr()
    assert out.splitlines() == [f"{name}: {home / 'models' / name}" for name in KNOWN]
    assert "smollm2-135m: downloading" in err

    assert main(["model", "fetch", "minilm-l6-v2", "--json"]) == exit_codes.OK
    out, err = capsys.readouterr()
    assert json.loads(out)["path"] == str(home / "models" / "minilm-l6-v2")
    assert err == ""


def test_an_unknown_model_is_refused_before_any_is_fetched(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(weights, "fetch", None)
    assert main(["model", "fetch", "smollm2-135m", "gpt-9"]) == exit_codes.FAILED
    assert "gpt-9" in capsys.readouterr().err


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "fetch", "--help"]) == exit_codes.OK
    assert "ainp2p model fetch minilm-l6-v2 --json" in capsys.readouterr().out
