"""Text ↔ token ids for one model directory, by `tokenizers` and jinja2 alone: no torch, no transformers.

Both ends of a trade count with this and get the same numbers. A chat goes through the model's own
template; text inside a message can never become one of the template's control tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ainp2p.agents.models.messages import Chat
from ainp2p.errors import ModelError, ModelRefused

_UNFINISHED = "\ufffd"  # what decoding shows for the first bytes of a character


class Tokenizer:
    """A model's vocabulary and chat template.

    Attributes:
        stop_ids: ids that end an answer.
    """

    def __init__(self, directory: Path) -> None:
        """Read ``tokenizer.json`` and, where there are any, template and special tokens beside it.

        Raises:
            ModelError: the directory has no usable ``tokenizer.json``.
        """
        import tokenizers

        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
        except Exception as exc:  # tokenizers raises a bare Exception for whatever is wrong
            raise ModelError(
                f"{directory} has no usable tokenizer.json ({exc}); save one with transformers' "
                "AutoTokenizer.from_pretrained(…).save_pretrained(…)"
            ) from exc
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()  # what does not fit is refused, never cut silently
        config = _json(directory / "tokenizer_config.json")
        self._special = {name: _text_of(config.get(name)) for name in ("bos_token", "eos_token", "unk_token")}
        self._control = [
            token.content
            for token in self._tokenizer.get_added_tokens_decoder().values()
            if token.special and len(token.content) > 1
        ]
        self._template = _template(directory, config)
        self.stop_ids = _stop_ids(directory)

    def encode(self, chat: Chat) -> list[int]:
        """The prompt's ids.

        Raises:
            ModelRefused: the model's template does not take such a chat.
        """
        return self._ids(*self._rendered(chat))

    def continuation(self, chat: Chat, text: str) -> list[int]:
        """The ids of `text` where it follows the prompt (after one space, when that is raw)."""
        rendered, special = self._rendered(chat)
        joined = rendered + (text if special is False else " " + text.lstrip())
        before, whole = self._ids(rendered, special), self._ids(joined, special)
        if whole[: len(before)] == before:
            return whole[len(before) :]
        return self._ids(text, False)  # the last id of the prompt would have merged with the text's first

    def encode_text(self, text: str) -> list[int]:
        """The ids of one text to embed, with the special tokens that the model wants around it."""
        return self._ids(text, True)

    def decode(self, ids: list[int]) -> str:
        """The text of some ids, without special tokens."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def _ids(self, text: str, special: bool) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special).ids
        return ids

    def _rendered(self, chat: Chat) -> tuple[str, bool]:
        """The prompt as one string, and whether the tokenizer shall add its own special tokens to it."""
        if chat[0][0] == "":
            return self._plain(chat[0][1]).rstrip(), True
        if self._template is None:
            return "\n".join(self._plain(content) for _, content in chat).rstrip(), True
        messages = [{"role": role, "content": self._plain(content)} for role, content in chat]
        try:
            text: str = self._template.render(
                messages=messages,
                add_generation_prompt=True,
                **{k: v or "" for k, v in self._special.items()},
            )
        except Exception as exc:  # templates raise whatever they like, for instance about the order of roles
            raise ModelRefused(f"the model's chat template does not take this chat: {exc}") from exc
        return text, False

    def _plain(self, text: str) -> str:
        """`text` with its control tokens broken: ``<|im_start|>`` becomes ``< |im_start|>``."""
        for token in self._control:
            if token in text:
                text = text.replace(token, token[0] + " " + token[1:])
        return text


class Detokenizer:
    """Ids one by one; out comes text as soon as it is whole characters."""

    def __init__(self, tokenizer: Tokenizer, before: Iterable[int] = ()) -> None:
        """`before`: ids of the same answer whose text was already given out."""
        self._tokenizer = tokenizer
        # Only the last few ids matter to how the next one reads; whole answers would cost quadratic time.
        self._ids = list(before)[-8:]
        self._shown = len(self._ids)
        self._text = tokenizer.decode(self._ids).rstrip(_UNFINISHED)

    def feed(self, token: int) -> str:
        """The text that `token` completes; often a word, sometimes nothing."""
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        if text.endswith(_UNFINISHED) and len(self._ids) - self._shown < 8:
            return ""
        new = text[len(self._text) :]
        self._ids = self._ids[self._shown :]
        self._text = self._tokenizer.decode(self._ids)
        self._shown = len(self._ids)
        return new


def _template(directory: Path, config: dict[str, Any]) -> Any:
    source = config.get("chat_template")
    file = directory / "chat_template.jinja"
    if file.is_file():
        source = file.read_text(encoding="utf-8")
    if not isinstance(source, str):
        return None
    import jinja2.sandbox

    def raise_exception(message: str) -> None:
        raise ValueError(message)

    # A template is code that came with the weights: it runs in jinja's sandbox, as in transformers.
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = raise_exception
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(source)


def _stop_ids(directory: Path) -> frozenset[int]:
    """``eos_token_id`` as generation_config.json says it, or else config.json."""
    for name in ("generation_config.json", "config.json"):
        found = _json(directory / name).get("eos_token_id")
        if isinstance(found, int):
            return frozenset({found})
        if isinstance(found, list):
            return frozenset(found)
    return frozenset()


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as exc:
        raise ModelError(f"{path} is not JSON: {exc}") from exc
    return found if isinstance(found, dict) else {}


def _text_of(token: Any) -> str | None:
    """A special token as tokenizer_config.json writes it: text, or an object with its content."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None
