"""Events survive the pipe, bad lines are refused, foreign words cannot steer a terminal."""

from __future__ import annotations

import json
import typing

import pytest

from ainp2p.errors import Malformed
from ainp2p.swarm import events as ev
from tests.swarm.story import ONE_OF_EACH


def test_the_examples_cover_every_event() -> None:
    assert {type(event) for event in ONE_OF_EACH} == set(typing.get_args(ev.AnyEvent))


@pytest.mark.parametrize("event", ONE_OF_EACH, ids=lambda event: type(event).__name__)
def test_an_event_survives_the_pipe(event: ev.AnyEvent) -> None:
    line = ev.to_line(event)
    assert line.count(b"\n") == 1
    assert ev.from_line(line) == event


def test_the_json_names_the_event_in_lower_case() -> None:
    line = ev.to_line(ev.PeerDown(at_ms=5, name="ada", reason="killed"))
    assert json.loads(line) == {"event": "peer-down", "at_ms": 5, "name": "ada", "reason": "killed"}


def test_a_line_break_in_a_text_does_not_break_the_line() -> None:
    event = ev.Note(at_ms=1, text="one\ntwo\x1b[31m")
    assert ev.to_line(event).count(b"\n") == 1
    assert ev.from_line(ev.to_line(event)) == event


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"not json", id="no JSON"),
        pytest.param(b"[]", id="no object"),
        pytest.param(b'{"event":"peer-down","at_ms":5}', id="a field is missing"),
        pytest.param(b'{"event":"party","at_ms":5}', id="an unknown event"),
        pytest.param(b'{"event":"note","at_ms":"5","text":"x"}', id="a wrong type"),
        pytest.param(b'{"event":"note","at_ms":5,"text":"\xff"}', id="no UTF-8"),
        pytest.param(b" " * (ev.LINE_SIZE_MAX + 1), id="too long"),
    ],
)
def test_a_line_that_is_no_event_is_refused(line: bytes) -> None:
    with pytest.raises(Malformed):
        ev.from_line(line)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("plain words", "plain words", id="plain"),
        pytest.param("two\nlines\tand tabs", "two lines and tabs", id="white space"),
        pytest.param("\x1b[2Jgone", "\ufffd[2Jgone", id="escape sequence"),
        pytest.param("\x9b2Jgone", "\ufffd2Jgone", id="one-byte escape"),
        pytest.param("a\u202eb", "a\ufffdb", id="right-to-left override"),
        pytest.param("naïve 日本", "naïve 日本", id="other scripts"),
    ],
)
def test_what_could_steer_a_terminal_is_not_printed(text: str, shown: str) -> None:
    assert ev.printable(text) == shown


def test_text_is_cut_to_a_width() -> None:
    assert ev.printable("abcdef", width=4) == "abc…"
    assert ev.printable("abcd", width=4) == "abcd"
