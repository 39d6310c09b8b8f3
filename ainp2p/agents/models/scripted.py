"""A model that says what a script tells it: for tests and simulations. No torch, no weights.

`ScriptedModel` lives in the caller's process and follows trio's clock; `ScriptedEngine` has the interface
of `engine.Engine`, so that a real worker process can be tested: ``open_model(script.as_name())``.
A token is a word with the spaces before it. Words in an answer that do something instead of being said:

    <crash>   the engine fails          <oom>     the process is killed, as for want of memory
    <hang>    no token comes any more   <memory>  (as the first word) there is no room for this request
    <print>   writes to standard output, as careless libraries do
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import signal
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from ainp2p.agents.models.local_stream import LocalStream
from ainp2p.agents.models.messages import (
    Admitted,
    Chat,
    Choose,
    Chosen,
    Count,
    Counted,
    Embed,
    Embedded,
    Ended,
    Event,
    Generate,
    Made,
    Refusal,
    Request,
)
from ainp2p.agents.models.model import (
    MAX_TOKENS,
    Choice,
    Embedding,
    Finish,
    Kind,
    ModelInfo,
    Prompt,
    Statistics,
    Token,
    messages_of,
)
from ainp2p.errors import InvalidInput, ModelCrashed, ModelRefused

CONTEXT = 4096
VECTOR_SIZE = 64
_WORD = re.compile(r"\s*\S+")
_DIRECTIVES = ("<crash>", "<hang>", "<oom>", "<memory>", "<print>")


@dataclass(frozen=True)
class Script:
    """What is answered to what.

    Attributes:
        answers: a piece of the last message → the answer; the first that fits. Without one the model
            says ``"You said:"`` and the message.
        choices: a piece of the last message → the label that `choose` prefers; without one a hash decides.
        tokens_per_second: of each stream; None: at once.
        kind: what it says that it is; it embeds, streams and chooses in any case.
    """

    answers: Mapping[str, str] = field(default_factory=dict)
    choices: Mapping[str, str] = field(default_factory=dict)
    tokens_per_second: float | None = None
    kind: Kind = "text"

    @classmethod
    def from_name(cls, name: str) -> Script:
        """The script inside a model name: ``scripted``, or ``scripted:`` and a JSON object.

        Raises:
            InvalidInput: no such object.
        """
        text = name.removeprefix("scripted").removeprefix(":")
        try:
            return cls(**json.loads(text)) if text else cls()
        except (ValueError, TypeError) as exc:
            raise InvalidInput(
                f"a scripted model is named scripted:{{JSON with answers, choices …}}: {exc}"
            ) from exc

    def as_name(self) -> str:
        """The name for `open_model` of a worker process with this script."""
        return "scripted:" + json.dumps(self._fields(), sort_keys=True)

    @property
    def hash(self) -> bytes:
        """SHA-256 of the script."""
        return hashlib.sha256(json.dumps(self._fields(), sort_keys=True).encode()).digest()

    def info(self, name: str) -> ModelInfo:
        """A scripted model's description."""
        return ModelInfo(name, self.hash, 0, self.kind, CONTEXT, "none", "")

    def n_in(self, chat: Chat) -> int:
        """Words of all messages.

        Raises:
            ModelRefused: none at all, or more than the context.
        """
        count = sum(len(content.split()) for _, content in chat)
        if not 1 <= count < CONTEXT:
            raise ModelRefused(f"the prompt has {count} words; 1 to {CONTEXT - 1} fit")
        return count

    def answer(self, request: Generate) -> list[str]:
        """The words still to say, `prefix` and `max_tokens` regarded.

        Raises:
            ModelRefused: the request cannot be done.
        """
        n_in = self.n_in(request.prompt)
        if request.max_tokens < 1 or not request.temperature >= 0:
            raise ModelRefused("max_tokens must be at least 1, and temperature a number from 0 on")
        if n_in + len(request.prefix) + request.max_tokens > CONTEXT:
            raise ModelRefused(f"too long: prompt and answer together have room for {CONTEXT} ids")
        asked = request.prompt[-1][1]
        text = next((a for piece, a in self.answers.items() if piece in asked), f"You said: {asked}")
        words = _WORD.findall(text)
        if words and words[0].strip() == "<memory>":
            raise ModelRefused("busy: not enough memory for this request now")
        return words[len(request.prefix) :][: request.max_tokens + text.count("<print>")]

    def finish(self, request: Generate) -> Finish:
        """Whether the answer was cut by `max_tokens`."""
        asked = request.prompt[-1][1]
        text = next((a for piece, a in self.answers.items() if piece in asked), f"You said: {asked}")
        left = len(_WORD.findall(text)) - text.count("<print>") - len(request.prefix)
        return "length" if left > request.max_tokens else "stop"

    def logprobs(self, request: Choose) -> tuple[float, ...]:
        """0.9 for the label that the script or a hash prefers, the rest evenly for the others."""
        labels = request.labels
        if not labels or not all(labels):
            raise ModelRefused("choose takes at least one label, and none that is empty")
        asked = request.prompt[-1][1]
        wanted = next((label for piece, label in self.choices.items() if piece in asked), None)
        at = labels.index(wanted) if wanted in labels else zlib.crc32(asked.encode()) % len(labels)
        rest = math.log(0.1 / max(1, len(labels) - 1))
        return tuple(math.log(0.9) if i == at else rest for i in range(len(labels)))

    def vectors(self, texts: Sequence[str]) -> tuple[tuple[float, ...], ...]:
        """A bag of hashed words: texts that share words are close."""
        return tuple(_vector(text) for text in texts)

    def _fields(self) -> dict[str, Any]:
        return {
            "answers": dict(self.answers),
            "choices": dict(self.choices),
            "tokens_per_second": self.tokens_per_second,
            "kind": self.kind,
        }


def token_of(word: str) -> Token:
    """A scripted token: its id is a hash of the word, and the model is sure of it."""
    return Token(zlib.crc32(word.encode()), word, 0.0)


def _vector(text: str) -> tuple[float, ...]:
    counts = [0.0] * VECTOR_SIZE
    for word in text.lower().split():
        counts[zlib.crc32(word.encode()) % VECTOR_SIZE] += 1.0
    length = math.sqrt(sum(x * x for x in counts)) or 1.0
    return tuple(x / length for x in counts)


# --- in the caller's process --------------------------------------------------------------------


class ScriptedModel:
    """A `Model` without a process. Time passes by trio's clock only."""

    def __init__(
        self,
        answers: Mapping[str, str] | None = None,
        *,
        choices: Mapping[str, str] | None = None,
        tokens_per_second: float | None = None,
    ) -> None:
        """See `Script` for the arguments."""
        self.script = Script(answers or {}, choices or {}, tokens_per_second)
        self.info = self.script.info("scripted")
        self._tokens = 0
        self._live = 0

    def stream(
        self,
        prompt: Prompt,
        *,
        max_tokens: int = MAX_TOKENS,
        temperature: float = 0.0,
        seed: bytes = b"",
        prefix: Sequence[int] = (),
    ) -> ScriptedStream:
        """Answer by the script."""
        request = Generate(0, messages_of(prompt), max_tokens, temperature, seed, tuple(prefix))
        return ScriptedStream(self, request)

    async def choose(self, prompt: Prompt, labels: Sequence[str]) -> Choice:
        """The label that the script prefers."""
        await trio.lowlevel.checkpoint()
        request = Choose(0, messages_of(prompt), tuple(labels))
        logprobs = dict(zip(labels, self.script.logprobs(request), strict=True))
        n_in = self.script.n_in(request.prompt) + sum(len(label.split()) for label in labels)
        return Choice(max(logprobs, key=lambda label: logprobs[label]), logprobs, n_in)

    async def embed(self, texts: Sequence[str]) -> Embedding:
        """Bags of words as vectors."""
        await trio.lowlevel.checkpoint()
        return Embedding(self.script.vectors(texts), sum(len(text.split()) for text in texts))

    async def count(self, prompt: Prompt) -> int:
        """Words of the prompt."""
        await trio.lowlevel.checkpoint()
        return self.script.n_in(messages_of(prompt))

    def statistics(self) -> Statistics:
        """Figures to date."""
        return Statistics(self._tokens, self.script.tokens_per_second, self._live, 0)


class ScriptedStream(LocalStream[ScriptedModel]):
    """A `TokenStream` over a script."""

    def __init__(self, model: ScriptedModel, request: Generate) -> None:
        super().__init__(model)
        self._request = request
        self._words: list[str] = []

    async def __anext__(self) -> Token:
        if self.finish is not None:
            raise StopAsyncIteration
        if self.n_in is None:
            self._words = self._model.script.answer(self._request)
            self._begin(self._model.script.n_in(self._request.prompt))
        try:
            word = await self._next_word()
        except BaseException:
            self._end("canceled")
            raise
        if word is None:
            self._end(self._model.script.finish(self._request))
            raise StopAsyncIteration
        self._model._tokens += 1
        return token_of(word)

    async def _next_word(self) -> str | None:
        rate = self._model.script.tokens_per_second
        await trio.sleep(1 / rate if rate else 0)
        while self._words:
            word = self._words.pop(0)
            match word.strip():
                case "<hang>":
                    await trio.sleep_forever()
                case "<crash>" | "<oom>":
                    raise ModelCrashed("the scripted model was told to crash; this request is not billed")
                case "<print>" | "<memory>":
                    continue
                case _:
                    return word
        return None


# --- in a worker process ------------------------------------------------------------------------


class ScriptedEngine:
    """The script with the interface of `engine.Engine`: one word of each answer per step."""

    context = CONTEXT

    def __init__(self, script: Script) -> None:
        self._script = script
        self._rows: dict[int, tuple[Generate, list[str]]] = {}

    @property
    def live(self) -> int:
        """Answers that have not ended."""
        return len(self._rows)

    def submit(self, request: Request) -> list[Event]:
        """Check, and answer at once what is no stream."""
        try:
            match request:
                case Count():
                    return [Counted(request.id, self._script.n_in(request.prompt))]
                case Embed():
                    n_in = sum(len(text.split()) for text in request.texts)
                    return [Embedded(request.id, self._script.vectors(request.texts), n_in)]
                case Choose():
                    n_in = self._script.n_in(request.prompt)
                    n_in += sum(len(label.split()) for label in request.labels)
                    return [Chosen(request.id, self._script.logprobs(request), n_in)]
                case Generate():
                    self._rows[request.id] = (request, self._script.answer(request))
                    return [Admitted(request.id, self._script.n_in(request.prompt))]
        except ModelRefused as exc:
            return [Refusal(request.id, str(exc))]

    def cancel(self, request_id: int) -> None:
        """Forget a request."""
        self._rows.pop(request_id, None)

    def step(self) -> list[Event]:
        """One word of each answer."""
        if self._script.tokens_per_second:
            time.sleep(1 / self._script.tokens_per_second)
        events: list[Event] = []
        for request, words in list(self._rows.values()):
            word = _said(words)
            if word is None:
                del self._rows[request.id]
                events.append(Ended(request.id, self._script.finish(request)))
            else:
                token = token_of(word)
                events.append(Made(request.id, token.id, token.text, token.logprob))
        return events


def _said(words: list[str]) -> str | None:
    """The next word; does what the directives before it want."""
    while words:
        word = words.pop(0)
        match word.strip():
            case "<crash>":
                raise RuntimeError("the script says <crash>")
            case "<oom>":
                os.kill(os.getpid(), signal.SIGKILL)  # what the kernel does to a process that takes too much
            case "<hang>":
                while True:
                    time.sleep(1)
            case "<print>":
                print("careless output of a library")
                sys.stdout.flush()
            case _:
                return word
    return None
