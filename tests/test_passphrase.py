"""Passphrases: from a file, else the terminal, and never by waiting for nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ainp2p import passphrase as module
from ainp2p.errors import InvalidInput, LoosePermissions
from ainp2p.passphrase import VARIABLE, passphrase_from_file, read_passphrase


def file_with(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


class Terminal:
    """Somebody who types prepared answers."""

    def __init__(self, *answers: str) -> None:
        self.answers, self.asked = list(answers), list[str]()

    def __call__(self, prompt: str) -> str:
        self.asked.append(prompt)
        if not self.answers:
            raise EOFError
        return self.answers.pop(0)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    typed = Terminal()
    monkeypatch.setattr(module, "_has_terminal", lambda: True)
    monkeypatch.setattr("getpass.getpass", typed)
    return typed


@pytest.mark.parametrize(
    ("content", "read"),
    [
        (b"secret", b"secret"),
        (b"secret\n", b"secret"),
        (b"secret\r\n", b"secret"),
        (b" two words \n\n", b" two words \n"),
        ("grüße\n".encode(), "grüße".encode()),
    ],
)
def test_a_file_is_read_without_its_last_newline(content: bytes, read: bytes, tmp_path: Path) -> None:
    path = file_with(tmp_path / "p", content)
    assert read_passphrase("key alice", environ={VARIABLE: str(path)}) == read


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620])
def test_a_file_that_others_may_read_is_refused(mode: int, tmp_path: Path) -> None:
    with pytest.raises(LoosePermissions, match="chmod 600"):
        passphrase_from_file(file_with(tmp_path / "p", b"secret", mode))


@pytest.mark.parametrize("content", [b"", b"\n", b"x" * 4097])
def test_a_file_without_a_passphrase_is_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        passphrase_from_file(file_with(tmp_path / "p", content))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="absent"):
        passphrase_from_file(tmp_path / "absent")


def test_the_file_comes_before_the_terminal(tmp_path: Path, terminal: Terminal) -> None:
    path = file_with(tmp_path / "p", b"from the file")
    assert read_passphrase("x", confirm=True, environ={VARIABLE: str(path)}) == b"from the file"
    assert terminal.asked == []


def test_the_terminal_is_asked(terminal: Terminal) -> None:
    terminal.answers = ["typed"]
    assert read_passphrase("key alice", environ={}) == b"typed"
    assert terminal.asked == ["Passphrase of key alice: "]


def test_a_new_passphrase_is_asked_twice(terminal: Terminal) -> None:
    terminal.answers = ["typed", "typed"]
    assert read_passphrase("key alice", confirm=True, environ={}) == b"typed"
    terminal.answers = ["typed", "typo"]
    with pytest.raises(InvalidInput, match="differ"):
        read_passphrase("key alice", confirm=True, environ={})


def test_typing_nothing_is_refused(terminal: Terminal) -> None:
    with pytest.raises(InvalidInput, match="no passphrase"):
        read_passphrase("key alice", environ={})
    terminal.answers = [""]
    with pytest.raises(InvalidInput):
        read_passphrase("key alice", environ={})


def test_without_a_terminal_nobody_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_has_terminal", lambda: False)
    monkeypatch.setattr("getpass.getpass", lambda _: pytest.fail("asked"))
    with pytest.raises(InvalidInput, match=VARIABLE):
        read_passphrase("key alice", environ={})


def test_a_process_without_a_terminal_really_does_not_hang() -> None:
    environ = {name: value for name, value in os.environ.items() if name != VARIABLE}
    code = "from ainp2p.passphrase import read_passphrase; read_passphrase('x')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,  # open, and nobody writes
        capture_output=False,
        stderr=subprocess.PIPE,
        text=True,
        env=environ,
        start_new_session=True,
        timeout=60,
        check=False,
    )
    assert "no terminal" in done.stderr
