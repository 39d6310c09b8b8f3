"""Sentence embeddings: mean pooling over a BERT-like model, normalised. One request is one step.

The same interface as `engine`: requests in, events out, no clock and no I/O.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import torch

from ainp2p.agents.models.engine import CHARACTERS_PER_ID
from ainp2p.agents.models.messages import Admitted, Count, Counted, Embed, Embedded, Event, Refusal, Request
from ainp2p.agents.models.tokenizer import Tokenizer
from ainp2p.errors import ModelRefused

TEXTS_MAX = 1024  # of one request
ROWS_MAX = 32  # texts computed together, sorted by length so that little is padding
WAITING_MAX = 256


class EmbeddingEngine:
    """Texts in, vectors of length 1 out, one request after the other."""

    def __init__(self, model: Any, tokenizer: Tokenizer) -> None:
        """`model`: an encoder of transformers, on its device, in its computing dtype."""
        self._model = model.eval()
        self._tokenizer = tokenizer
        self.context: int = model.config.max_position_embeddings
        self._waiting: deque[tuple[int, list[list[int]]]] = deque()

    @property
    def live(self) -> int:
        """Requests that have not been answered."""
        return len(self._waiting)

    def submit(self, request: Request) -> list[Event]:
        """Check a request and let it wait for its turn."""
        try:
            if isinstance(request, Count):
                chat = [content for _, content in request.prompt]
                return [Counted(request.id, len(self._ids("\n".join(chat))))]
            if not isinstance(request, Embed):
                raise ModelRefused("this model embeds; generate with one such as smollm2-135m")
            if len(self._waiting) >= WAITING_MAX:
                raise ModelRefused(f"busy: {len(self._waiting)} requests wait already")
            if not 1 <= len(request.texts) <= TEXTS_MAX:
                raise ModelRefused(f"embed takes 1 to {TEXTS_MAX} texts, not {len(request.texts)}")
            texts = [self._ids(text) for text in request.texts]
        except ModelRefused as exc:
            return [Refusal(request.id, str(exc))]
        self._waiting.append((request.id, texts))
        return [Admitted(request.id, sum(map(len, texts)))]

    def cancel(self, request_id: int) -> None:
        """Forget a request; no error if it was answered."""
        self._waiting = deque(waiting for waiting in self._waiting if waiting[0] != request_id)

    def step(self) -> list[Event]:
        """Answer the request that waits longest."""
        if not self._waiting:
            return []
        request_id, texts = self._waiting.popleft()
        try:
            with torch.inference_mode():
                vectors = self._vectors(texts)
        except (torch.OutOfMemoryError, MemoryError):
            return [Refusal(request_id, "busy: not enough memory for this request now")]
        return [Embedded(request_id, tuple(vectors), sum(map(len, texts)))]

    def _ids(self, text: str) -> list[int]:
        ids = self._tokenizer.encode_text(text) if len(text) <= self.context * CHARACTERS_PER_ID else []
        if not 1 <= len(ids) <= self.context:
            raise ModelRefused(
                f"too long: a text of {len(text)} characters; {self.context} ids fit, split it"
            )
        return ids

    def _vectors(self, texts: list[list[int]]) -> list[tuple[float, ...]]:
        vectors: list[tuple[float, ...]] = [()] * len(texts)
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        for start in range(0, len(order), ROWS_MAX):
            group = order[start : start + ROWS_MAX]
            for at, vector in zip(group, self._pooled([texts[at] for at in group]), strict=True):
                vectors[at] = tuple(vector)
        return vectors

    def _pooled(self, texts: list[list[int]]) -> list[list[float]]:
        device, width = self._model.device, max(map(len, texts))
        ids = torch.tensor([text + [0] * (width - len(text)) for text in texts], device=device)
        mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts], device=device)
        hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        pooled: list[list[float]] = torch.nn.functional.normalize(mean, dim=-1).tolist()
        return pooled
