"""What reaches the terminal: JSON for programs, text without tricks for people."""

from __future__ import annotations

import argparse
import json

import pytest

from ainp2p.cli import agent
from ainp2p.cli.agent import _shown
from ainp2p.cli.output import emit, note, printable


def args(json_: bool) -> argparse.Namespace:
    return argparse.Namespace(json=json_)


def test_plain_text_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    emit(args(False), "two\nlines\tof grüße", {"n": 1})
    assert capsys.readouterr().out == "two\nlines\tof grüße\n"


def test_one_json_object_per_line_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    emit(args(True), "one", {"n": 1, "text": "a\nb grüße \x1b[2J"})
    emit(args(True), "two", {"n": 2})
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == [{"n": 1, "text": "a\nb grüße \x1b[2J"}, {"n": 2}]
    assert all(line.isascii() and line.isprintable() for line in lines)


def test_notes_are_for_people_and_beside_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    note(args(False), "waiting\x1b[2J")
    note(args(True), "waiting")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "waiting\ufffd[2J\n")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("\x1b]0;title\x07", id="an escape sequence"),
        pytest.param("a\x08\x08b", id="backspaces"),
        pytest.param("paid 5\rpaid 9", id="a carriage return"),
        pytest.param("\x9b2J", id="a C1 control"),
        pytest.param("\x7f", id="delete"),
        pytest.param("abc\u202edcb", id="a bidirectional override"),
        pytest.param("\x00", id="zero"),
    ],
)
def test_a_peers_text_cannot_steer_the_terminal(text: str) -> None:
    assert all(char.isprintable() or char in "\t\n" for char in printable(text))
    assert len(printable(text)) == len(text)


HOSTILE = {"x": "\x9b2J", "y": ["abc\u202edcb", "\x7f"]}


def test_a_sellers_json_cannot_steer_the_terminal() -> None:
    assert all(char.isprintable() for char in _shown(HOSTILE))
    assert all(char.isprintable() for char in _shown([b"\x1b[2J".decode()]))


def test_mutant_json_as_it_is_written_would_steer_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "printable", lambda text: text)
    assert not all(char.isprintable() for char in _shown(HOSTILE))


def test_mutant_text_as_it_came_would_steer_the_terminal() -> None:
    assert not "\x1b[2J".isprintable()
