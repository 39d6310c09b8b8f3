"""Sentence embeddings: mean pooling over a BERT-like model, normalised. Some texts are one step.

The same interface as `engine`: requests in, events out, no clock and no I/O.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch

from ainp2p.agents.models.engine import CHARACTERS_PER_ID
from ainp2p.agents.models.messages import (
    Admitted,
    Count,
    Counted,
    Embed,
    Embedded,
    Event,
    Refusal,
    Request,
    Working,
)
from ainp2p.agents.models.tokenizer import Tokenizer
from ainp2p.errors import ModelRefused

TEXTS_MAX = 1024  # of one request
ROWS_MAX = 32  # texts computed together, sorted by length so that little is padding
WAITING_MAX = 256


@dataclass(slots=True)
class _Job:
    """One request: its texts' ids, and the vectors that are done."""

    id: int
    texts: list[list[int]]
    order: list[int]  # places of the texts, the shortest first; taken from the end
    vectors: dict[int, tuple[float, ...]] = field(default_factory=dict)


class EmbeddingEngine:
    """Texts in, vectors of length 1 out, one request after the other."""

    def __init__(self, model: Any, tokenizer: Tokenizer) -> None:
        """`model`: an encoder of transformers, on its device, in its computing dtype."""
        self._model = model.eval()
        self._tokenizer = tokenizer
        self.context: int = model.config.max_position_embeddings
        self._jobs: deque[_Job] = deque()

    @property
    def live(self) -> int:
        """Requests that have not been answered."""
        return len(self._jobs)

    def submit(self, request: Request) -> list[Event]:
        """Check a request and let it wait for its turn."""
        try:
            if isinstance(request, Count):
                text = "\n".join(content for _, content in request.prompt)
                return [Counted(request.id, len(self._ids(text)))]
            if not isinstance(request, Embed):
                raise ModelRefused("this model embeds; generate with one such as smollm2-135m")
            if len(self._jobs) >= WAITING_MAX:
                raise ModelRefused(f"busy: {len(self._jobs)} requests wait already")
            if not 1 <= len(request.texts) <= TEXTS_MAX:
                raise ModelRefused(f"embed takes 1 to {TEXTS_MAX} texts, not {len(request.texts)}")
            texts = [self._ids(text) for text in request.texts]
        except ModelRefused as exc:
            return [Refusal(request.id, str(exc))]
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        self._jobs.append(_Job(request.id, texts, order))
        return [Admitted(request.id, sum(map(len, texts)))]

    def cancel(self, request_id: int) -> None:
        """Forget a request; no error if it was answered."""
        self._jobs = deque(job for job in self._jobs if job.id != request_id)

    def step(self) -> list[Event]:
        """Compute some texts of the request that waits longest."""
        if not self._jobs:
            return []
        job = self._jobs[0]
        group, job.order = job.order[-ROWS_MAX:], job.order[:-ROWS_MAX]
        try:
            with torch.inference_mode():
                vectors = self._pooled([job.texts[at] for at in group])
        except (torch.OutOfMemoryError, MemoryError):
            self._jobs.popleft()
            return [Refusal(job.id, "busy: not enough memory for this request now")]
        job.vectors |= {at: tuple(vector) for at, vector in zip(group, vectors, strict=True)}
        if job.order:
            return [Working(job.id)]
        self._jobs.popleft()
        ordered = tuple(job.vectors[at] for at in range(len(job.texts)))
        return [Embedded(job.id, ordered, sum(map(len, job.texts)))]

    def _ids(self, text: str) -> list[int]:
        ids = self._tokenizer.encode_text(text) if len(text) <= self.context * CHARACTERS_PER_ID else []
        if not 1 <= len(ids) <= self.context:
            raise ModelRefused(
                f"too long: a text of {len(text)} characters; {self.context} ids fit, split it"
            )
        return ids

    def _pooled(self, texts: list[list[int]]) -> list[list[float]]:
        device, width = self._model.device, max(map(len, texts))
        ids = torch.tensor([text + [0] * (width - len(text)) for text in texts], device=device)
        mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts], device=device)
        hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        pooled: list[list[float]] = torch.nn.functional.normalize(mean, dim=-1).tolist()
        return pooled
