"""Prompts: a user's message, raw text, or a chat; anything else is refused with a reason."""

from __future__ import annotations

from typing import Any

import pytest

from ainp2p.agents.models.model import Raw, messages_of
from ainp2p.errors import InvalidInput


def test_text_is_a_users_message() -> None:
    assert messages_of("hi") == [("user", "hi")]


def test_raw_text_has_no_role() -> None:
    assert messages_of(Raw("once upon")) == [("", "once upon")]
    assert type(messages_of(Raw("x"))[0][1]) is str


def test_a_chat_keeps_its_order() -> None:
    chat = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    assert messages_of(chat) == [("system", "be brief"), ("user", "hi")]


@pytest.mark.parametrize(
    "prompt",
    [
        pytest.param([], id="no message"),
        pytest.param(["hi"], id="a message that is text"),
        pytest.param([{"role": "user"}], id="no content"),
        pytest.param([{"role": "user", "content": "x", "name": "y"}], id="an unknown field"),
        pytest.param([{"role": "root", "content": "x"}], id="an unknown role"),
        pytest.param([{"role": "user", "content": 5}], id="content that is no text"),
    ],
)
def test_what_is_no_chat_is_refused(prompt: Any) -> None:
    with pytest.raises(InvalidInput):
        messages_of(prompt)
