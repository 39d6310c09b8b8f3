"""What a skill's function gets as its first argument: the job, and a model that keeps to the award.

The function is given no reference to the vault, the wallet or the network. Its model continues from the
prefix that another seller delivered, samples with the buyer's seed, and makes no more tokens than were
bought.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from ainp2p.agents.models.model import (
    MAX_TOKENS,
    Choice,
    Embedding,
    Finish,
    Model,
    ModelInfo,
    Prompt,
    Token,
    TokenStream,
)
from ainp2p.errors import ModelNotFound


@dataclass(slots=True)
class WorkModel:
    """A job's view of the agent's models; the first stream goes on from the job's prefix."""

    _models: Sequence[Model]
    _units_max: int | None
    _seed: bytes
    _prefix: tuple[int, ...]
    _streams: list[TokenStream] = field(default_factory=list)
    _counted: int = 0
    _cut: list[TokenStream] = field(default_factory=list)  # streams that were bought in part

    @property
    def cut(self) -> bool:
        """Whether an answer ended only because no more of it was bought."""
        return any(stream.finish == "length" for stream in self._cut)

    @property
    def info(self) -> ModelInfo:
        """The text model, or whatever model there is."""
        return next((m for m in self._models if m.info.kind == "text"), self._of("embedding")).info

    @property
    def n_in(self) -> int:
        """Prompt ids read so far: what an ``/input`` price counts."""
        return self._counted + sum(stream.n_in or 0 for stream in self._streams)

    def stream(
        self,
        prompt: Prompt,
        *,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        seed: bytes | None = None,
    ) -> TokenStream:
        """As `Model.stream`, within what was bought, with the buyer's seed and from the job's prefix on.

        `max_tokens` counts the prefix: the answer has no more ids because two sellers made it.

        Raises:
            ModelNotFound: the agent was opened without a text model.
        """
        prefix, self._prefix = self._prefix, ()
        model, wanted = self._of("text"), (MAX_TOKENS if max_tokens is None else max_tokens) - len(prefix)
        if prefix and wanted < 1:
            return _Nothing()
        bought = wanted if self._units_max is None else min(wanted, self._units_max)
        stream = model.stream(
            prompt,
            max_tokens=bought,
            temperature=temperature,
            seed=self._seed if seed is None else seed,
            prefix=prefix,
        )
        self._streams.append(stream)
        if bought < wanted:
            self._cut.append(stream)
        return stream

    async def choose(self, prompt: Prompt, labels: Sequence[str]) -> Choice:
        """As `Model.choose`."""
        choice = await self._of("text").choose(prompt, labels)
        self._counted += choice.n_in
        return choice

    async def embed(self, texts: Sequence[str]) -> Embedding:
        """As `Model.embed`."""
        embedding = await self._of("embedding").embed(texts)
        self._counted += embedding.n_in
        return embedding

    async def count(self, prompt: Prompt) -> int:
        """As `Model.count`; costs the buyer nothing."""
        return await self._of("text").count(prompt)

    def _of(self, kind: str) -> Model:
        for model in self._models:
            if model.info.kind == kind:
                return model
        have = ", ".join(m.info.name for m in self._models) or "none"
        raise ModelNotFound(f"the skill needs a model of kind {kind!r}; this agent has {have}: pass model=")


class _Nothing:
    """The stream of an answer that was whole already."""

    n_in = 0
    finish: Finish | None = "length"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Token:
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Nothing to stop."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Nothing to stop."""


@dataclass(frozen=True, slots=True)
class Work:
    """One awarded task, as the skill's function sees it.

    Attributes:
        id: the job's id, 32 bytes.
        buyer: the buyer's agent id.
        model: what the agent's models can do for this job.
        prefix: text that was delivered before, by another seller; empty for a new answer. A skill that
            streams from `model` goes on from it by itself.
        units_max: the most units that may be delivered; None where nothing bounds them.
    """

    id: bytes
    buyer: bytes
    model: WorkModel
    prefix: str = ""
    units_max: int | None = None


def new_work(
    models: Sequence[Model],
    *,
    job: bytes,
    buyer: bytes,
    units_max: int | None = None,
    seed: bytes = b"",
    prefix: str = "",
    prefix_tokens: Sequence[int] = (),
) -> Work:
    """The first argument for one run of a skill's function."""
    model = WorkModel(models, units_max, seed, tuple(prefix_tokens))
    return Work(job, buyer, model, prefix, units_max)
