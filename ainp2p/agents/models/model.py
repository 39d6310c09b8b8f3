"""What a model can do, whatever runs it: the interface that agents and skills see.

`ainp2p.agents.models.process` offers it over a worker process, `scripted` in the caller's own process.
Not here: prices, receipts, skills. Tokens are counted as ids: what a stream yields, the end-of-text
token included, is what was generated, and `n_in` is the length of the prompt in ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, Self

from ainp2p.errors import InvalidInput

Finish = Literal["stop", "length", "canceled"]
"""Why a stream ended: the model said so, `max_tokens` were made, or the caller left."""

Kind = Literal["text", "embedding"]
MAX_TOKENS = 256  # of one answer, unless the caller says otherwise
ROLES = ("system", "user", "assistant")


class Raw(str):
    """Text that the model goes on from as it stands, with no chat template around it."""

    __slots__ = ()


Prompt = str | Sequence[Mapping[str, str]]
"""A user's message, `Raw` text to go on from, or a chat as ``{"role": …, "content": …}`` messages."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model is.

    Attributes:
        name: as given to `open_model`.
        hash: SHA-256 of the source's weight file (of the script, for a scripted model). A claim: it is
            the audit of answers that binds it.
        parameters: how many numbers were trained; 0 for a scripted model.
        kind: what it does: ``"text"`` streams and chooses, ``"embedding"`` embeds.
        context: most ids of prompt and answer together.
        device: such as ``"cpu"`` or ``"cuda:0 NVIDIA H100"``.
        dtype: what it computes in: ``"fp32"``, ``"fp16"`` or ``"bf16"``; ``""`` where that means nothing.
    """

    name: str
    hash: bytes
    parameters: int
    kind: Kind
    context: int
    device: str
    dtype: str


@dataclass(frozen=True, slots=True)
class Token:
    """One generated id.

    Attributes:
        text: what became readable with it; ``""`` inside a character of several tokens and at the end.
        logprob: natural logarithm of its probability at temperature 1; None if the engine cannot tell.
    """

    id: int
    text: str
    logprob: float | None


@dataclass(frozen=True, slots=True)
class Choice:
    """The likeliest label, and the log-probability of each label as the prompt's continuation."""

    label: str
    logprobs: Mapping[str, float]
    n_in: int  # ids of the prompt and of every label


@dataclass(frozen=True, slots=True)
class Embedding:
    """One vector of length 1 per text: the dot product of two is their cosine similarity."""

    vectors: tuple[tuple[float, ...], ...]
    n_in: int  # ids of all texts


@dataclass(frozen=True, slots=True)
class Statistics:
    """A model's work since it was opened.

    Attributes:
        tokens: ids generated.
        tokens_per_second: of one stream, measured over the latest answers; None before there was one.
        live: requests in work or waiting for their turn.
        restarts: how often the process had to be started again.
    """

    tokens: int
    tokens_per_second: float | None
    live: int
    restarts: int


class TokenStream(Protocol):
    """An answer while it is made: ``async for token in stream``.

    Generation starts with the first token asked for. It ends with the loop, with `aclose`, with the end
    of an ``async with`` block, or when a task is cancelled while it waits for a token; the model then
    stops within one step and `finish` is ``"canceled"``.
    """

    @property
    def n_in(self) -> int | None:
        """Ids of the prompt; known from the first token on."""

    @property
    def finish(self) -> Finish | None:
        """Why it ended; None before that."""

    def __aiter__(self) -> Self:
        """The stream itself: it can be read once."""

    async def __anext__(self) -> Token:
        """The next token.

        Raises:
            ModelRefused: the model is well and will not do this request.
            ModelCrashed: the model ended meanwhile; what came before it stays delivered.
        """

    async def aclose(self) -> None:
        """Stop generating; no error if it has ended."""

    async def __aenter__(self) -> Self:
        """The stream itself."""

    async def __aexit__(self, *exc: object) -> None:
        """Stop generating."""


class Model(Protocol):
    """Something that answers. Several requests may run at once; each may be cancelled at any await."""

    @property
    def info(self) -> ModelInfo:
        """What it is."""

    def stream(
        self,
        prompt: Prompt,
        *,
        max_tokens: int = MAX_TOKENS,
        temperature: float = 0.0,
        seed: bytes = b"",
        prefix: Sequence[int] = (),
    ) -> TokenStream:
        """Answer `prompt` token by token.

        Args:
            max_tokens: most ids to make now, those of `prefix` not counted.
            temperature: 0 takes the likeliest id each time.
            seed: the public noise of sampling above temperature 0 (`noise`); the same seed, the same answer.
            prefix: ids of this answer that were made before, here or elsewhere, to go on from.
        """

    async def choose(self, prompt: Prompt, labels: Sequence[str]) -> Choice:
        """Which of `labels` the model would go on with: what small models do far better than free text.

        A label follows a `Raw` prompt after one space, and starts the assistant's message in a chat.
        """

    async def embed(self, texts: Sequence[str]) -> Embedding:
        """Vectors of meaning. A text longer than the model's context is refused, never cut."""

    async def count(self, prompt: Prompt) -> int:
        """Ids of the prompt, as a stream's `n_in` will say."""

    def statistics(self) -> Statistics:
        """Figures to date."""


def messages_of(prompt: Prompt) -> list[tuple[str, str]]:
    """A prompt as (role, content) pairs; `Raw` text has the role ``""``.

    Raises:
        InvalidInput: neither text nor chat messages.
    """
    if isinstance(prompt, Raw):
        return [("", str(prompt))]
    if isinstance(prompt, str):
        return [("user", prompt)]
    pairs = []
    for message in prompt:
        if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
            raise InvalidInput(f'a chat message is {{"role": …, "content": …}}, not {message!r}')
        role, content = message["role"], message["content"]
        if role not in ROLES or not isinstance(content, str):
            raise InvalidInput(f"a message's role is one of {', '.join(ROLES)} and its content text")
        pairs.append((role, content))
    if not pairs:
        raise InvalidInput("a chat needs at least one message")
    return pairs
