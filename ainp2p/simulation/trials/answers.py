"""Answers of a real model, recorded once outside a world and given again inside one, in virtual time.

    async with open_model("smollm2-135m") as model:        # outside: a process, real seconds
        asking = record(model, "answers.jsonl")
        ...                                                # ask it all that the world will ask

    world.spawn("seller", skills=[talk], model=replayed("answers.jsonl"))      # inside: no process

An answer is found by its request: what was asked, with which limits, temperature and seed. The file is
JSON lines: a header with the model's description, then one answer a line; the last one of a request counts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import trio

from ainp2p.agents.models.local_stream import LocalStream
from ainp2p.agents.models.model import (
    MAX_TOKENS,
    Choice,
    Embedding,
    Finish,
    Model,
    ModelInfo,
    Prompt,
    Statistics,
    Token,
    TokenStream,
    messages_of,
)
from ainp2p.errors import InvalidInput, ModelRefused
from ainp2p.simulation.errors import VersionMismatch
from ainp2p.simulation.results.files import writing

VERSION = 1
REMEDY = "record it outside the world, with ainp2p.simulation.record, and replay the new file"
_HEAD = "ainp2p answers"


def request_key(what: str, prompt: object, **options: object) -> str:
    """What an answer is filed under."""
    said = json.dumps([what, prompt, sorted(options.items())], ensure_ascii=False, default=_plain)
    return hashlib.blake2b(said.encode(), digest_size=16).hexdigest()


def _plain(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else list(value)  # type: ignore[call-overload]


def _stream_key(
    prompt: Prompt, max_tokens: int, temperature: float, seed: bytes, prefix: Sequence[int]
) -> str:
    options = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed, "prefix": list(prefix)}
    return request_key("stream", messages_of(prompt), **options)


# --- outside a world ------------------------------------------------------------------------------


class Recording:
    """A model whose answers are written down as they come; made by `record`."""

    def __init__(self, model: Model, path: Path) -> None:
        self._model, self._path = model, path

    @property
    def info(self) -> ModelInfo:
        """The model's."""
        return self._model.info

    def stream(
        self,
        prompt: Prompt,
        *,
        max_tokens: int = MAX_TOKENS,
        temperature: float = 0.0,
        seed: bytes = b"",
        prefix: Sequence[int] = (),
    ) -> TokenStream:
        """The model's answer; written down when it ends."""
        key = _stream_key(prompt, max_tokens, temperature, seed, prefix)
        stream = self._model.stream(
            prompt, max_tokens=max_tokens, temperature=temperature, seed=seed, prefix=prefix
        )
        return _RecordedStream(stream, lambda answer: self._write(key, answer))

    async def choose(self, prompt: Prompt, labels: Sequence[str]) -> Choice:
        """The model's choice."""
        began = trio.current_time()
        choice = await self._model.choose(prompt, labels)
        answer = {"label": choice.label, "logprobs": dict(choice.logprobs), "n_in": choice.n_in}
        key = request_key("choose", messages_of(prompt), labels=list(labels))
        self._write(key, {**answer, "s": trio.current_time() - began})
        return choice

    async def embed(self, texts: Sequence[str]) -> Embedding:
        """The model's vectors."""
        began = trio.current_time()
        found = await self._model.embed(texts)
        answer = {"vectors": found.vectors, "n_in": found.n_in, "s": trio.current_time() - began}
        self._write(request_key("embed", list(texts)), answer)
        return found

    async def count(self, prompt: Prompt) -> int:
        """The model's count."""
        count = await self._model.count(prompt)
        self._write(request_key("count", messages_of(prompt)), {"count": count})
        return count

    def statistics(self) -> Statistics:
        """The model's."""
        return self._model.statistics()

    def _write(self, key: str, answer: Mapping[str, Any]) -> None:
        with writing(self._path), open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, **answer}, ensure_ascii=False) + "\n")


class _RecordedStream:
    """A stream that is written down."""

    def __init__(self, stream: TokenStream, write: Any) -> None:
        self._stream, self._write = stream, write
        self._tokens: list[tuple[int, str, float | None, float]] = []
        self._last_s: float | None = None
        self._written = False

    @property
    def n_in(self) -> int | None:
        return self._stream.n_in

    @property
    def finish(self) -> Finish | None:
        return self._stream.finish

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Token:
        began = trio.current_time()
        try:
            token = await self._stream.__anext__()
        except StopAsyncIteration:
            self._end()
            raise
        self._tokens.append((token.id, token.text, token.logprob, trio.current_time() - began))
        return token

    async def aclose(self) -> None:
        self._end()
        await self._stream.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    def _end(self) -> None:
        if self._written or self._stream.n_in is None:
            return
        self._written = True
        self._write({"tokens": self._tokens, "n_in": self._stream.n_in, "finish": self._stream.finish})


def record(model: Model, path: str | Path) -> Recording:
    """A model that answers as `model` does, and adds what it says to a file for `replayed`.

    Raises:
        InvalidInput: the file holds something else or another model's answers, or cannot be written.
    """
    target, info = Path(path), _described(model.info)
    if not target.exists():
        with writing(target):
            target.write_text(json.dumps({_HEAD: VERSION, "info": info}) + "\n", "utf-8")
    elif _described(_read(target)[0]) != info:
        raise InvalidInput(f"{target} holds the answers of another model: record into another file")
    return Recording(model, target)


# --- inside one -----------------------------------------------------------------------------------


class Replayed:
    """A recorded model; made by `replayed`. It may serve any number of agents."""

    def __init__(
        self, info: ModelInfo, answers: Mapping[str, dict[str, Any]], tokens_per_second: float | None
    ) -> None:
        self.info, self._answers, self._rate = info, answers, tokens_per_second
        self._tokens = self._live = 0

    def stream(
        self,
        prompt: Prompt,
        *,
        max_tokens: int = MAX_TOKENS,
        temperature: float = 0.0,
        seed: bytes = b"",
        prefix: Sequence[int] = (),
    ) -> TokenStream:
        """The recorded answer, token by token, as fast as it was made."""
        key = _stream_key(prompt, max_tokens, temperature, seed, prefix)
        return _ReplayedStream(self, self._answer(key, f"stream({prompt!r}, max_tokens={max_tokens})"))

    async def choose(self, prompt: Prompt, labels: Sequence[str]) -> Choice:
        """The recorded choice."""
        key = request_key("choose", messages_of(prompt), labels=list(labels))
        answer = self._answer(key, f"choose({prompt!r}, {list(labels)!r})")
        await trio.sleep(answer["s"])
        return Choice(answer["label"], answer["logprobs"], answer["n_in"])

    async def embed(self, texts: Sequence[str]) -> Embedding:
        """The recorded vectors."""
        answer = self._answer(request_key("embed", list(texts)), f"embed of {len(texts)} texts")
        await trio.sleep(answer["s"])
        return Embedding(tuple(tuple(vector) for vector in answer["vectors"]), answer["n_in"])

    async def count(self, prompt: Prompt) -> int:
        """The recorded count."""
        await trio.lowlevel.checkpoint()
        answer = self._answer(request_key("count", messages_of(prompt)), f"count({prompt!r})")
        return int(answer["count"])

    def statistics(self) -> Statistics:
        """Figures to date."""
        return Statistics(self._tokens, self._rate, self._live, 0)

    def _answer(self, key: str, asked: str) -> dict[str, Any]:
        if key not in self._answers:
            raise ModelRefused(f"no recorded answer to {asked[:200]}: {REMEDY}")
        return self._answers[key]


class _ReplayedStream(LocalStream[Replayed]):
    """A recorded stream."""

    def __init__(self, model: Replayed, answer: dict[str, Any]) -> None:
        super().__init__(model)
        self._answer, self._place = answer, 0

    async def __anext__(self) -> Token:
        if self.finish is not None:
            raise StopAsyncIteration
        tokens = self._answer["tokens"]
        if self.n_in is None:
            self._begin(self._answer["n_in"])
        if self._place == len(tokens):
            finish: Finish = self._answer["finish"] or "canceled"
            self._end(finish)
            if finish == "canceled":
                raise ModelRefused(f"the recording was left after {len(tokens)} tokens: {REMEDY}")
            raise StopAsyncIteration
        id_, text, logprob, made_s = tokens[self._place]
        try:
            await trio.sleep(1 / self._model._rate if self._model._rate else made_s)
        except BaseException:
            self._end("canceled")
            raise
        self._place += 1
        self._model._tokens += 1
        return Token(id_, text, logprob)


def replayed(path: str | Path, *, tokens_per_second: float | None = None) -> Replayed:
    """The model whose answers are in a file of `record`.

    Args:
        tokens_per_second: of a stream; None: as fast as they were made.

    Raises:
        InvalidInput: no such file, or it holds something else.
        VersionMismatch: another version wrote it.
    """
    info, answers = _read(Path(path))
    return Replayed(info, answers, tokens_per_second)


def _described(info: ModelInfo) -> dict[str, Any]:
    names = ("name", "parameters", "kind", "context", "device", "dtype")
    return {"hash": info.hash.hex(), **{name: getattr(info, name) for name in names}}


def _read(path: Path) -> tuple[ModelInfo, dict[str, dict[str, Any]]]:
    try:
        head, *lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        version, info = head[_HEAD], head["info"]
        answers = {line["key"]: line for line in lines}
    except FileNotFoundError as exc:
        raise InvalidInput(f"{path} is not there: {REMEDY}") from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise InvalidInput(f"{path} is no file of recorded answers") from exc
    if version != VERSION:
        raise VersionMismatch(f"{path}", version, VERSION)
    return ModelInfo(**{**info, "hash": bytes.fromhex(info["hash"])}), answers
