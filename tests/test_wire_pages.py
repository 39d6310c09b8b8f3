"""What docs/ says of the wire is what the code does: fields and limits, tags and purposes, protocol ids."""

from __future__ import annotations

import re

import msgspec
import pytest

from ainp2p.protocol import messages
from ainp2p.protocol.codec import Message
from tests.blocks import ROOT
from tools import wire_messages

FORMATS = (ROOT / "docs" / "wire-formats.md").read_text("utf-8")
LOCAL_TAGS = {"ainp2p/what/1", "ainp2p/repeat/1"}  # an agent's own notes to itself: nobody else ever sees one


def said_by_code(literal: str) -> set[str]:
    """What the sources of the library match of a pattern with one group."""
    sources = sorted((ROOT / "ainp2p").rglob("*.py"))
    return {found for path in sources for found in re.findall(literal, path.read_text("utf-8"))}


def test_the_page_of_messages_is_fresh() -> None:
    assert wire_messages.PAGE.read_text("utf-8") == wire_messages.page(), "python -m tools.wire_messages"


def test_mutant_another_limit_makes_another_page(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wider(Message, frozen=True, tag=4):
        """As Decline, but for one field."""

        answers: messages._Seed

    assert "at most 32 bytes" in wire_messages.table(Wider)
    monkeypatch.setattr(wire_messages, "classes", lambda module: [Wider])
    assert wire_messages.PAGE.read_text("utf-8") != wire_messages.page()


def test_a_field_of_an_unknown_shape_is_no_blank() -> None:
    with pytest.raises(TypeError, match="no words"):
        wire_messages.holds(msgspec.inspect.FloatType())


@pytest.mark.parametrize(
    ("pattern", "left_out"),
    [
        pytest.param(r'b"(ainp2p/[a-z]+/\d+)"', LOCAL_TAGS, id="tags and purposes"),
        pytest.param(r'= "(/ainp2p/[a-z]+/\d+)"', set(), id="protocol ids"),
    ],
)
def test_each_name_on_the_wire_is_on_the_page(pattern: str, left_out: set[str]) -> None:
    names = said_by_code(pattern)
    assert len(names) > 4
    assert sorted(name for name in names - left_out if f"`{name}`" not in FORMATS) == []


def test_each_name_on_the_page_is_in_the_code() -> None:
    on_page = set(re.findall(r"`(/?ainp2p/[a-z]+/\d+)`", FORMATS))
    assert on_page <= said_by_code(r'"(/?ainp2p/[a-z]+/\d+)"')
