"""The tensors of one decoding batch: rows join and leave between steps. Ids in, logits out.

    read a prompt, chunk by chunk, alone  →  join  →  step, step, step …  →  keep the others

Rows are padded on the left, so that every row's newest position is the last column. Each prompt is read
by itself: what it leaves in the cache cannot depend on its neighbours. To be called within
`torch.inference_mode()`. Not here: sampling, text, requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from ainp2p.errors import ModelError


@dataclass(slots=True)
class Reading:
    """A prompt on its way into a cache of its own."""

    ids: list[int]
    done: int = 0
    cache: Any = None
    logits: Any = None  # of the last position (1 × vocabulary), once all is read

    @property
    def finished(self) -> bool:
        """All ids are in the cache."""
        return self.done == len(self.ids)


class Batch:
    """The rows being decoded, and the one key/value cache that they share."""

    def __init__(self, model: Any) -> None:
        """`model`: a decoder of transformers, with full attention in every layer.

        Raises:
            ModelError: the cache of this architecture is of another kind.
        """
        self._model = model
        if any(type(layer) is not DynamicLayer for layer in self._new_cache().layers):
            raise ModelError(
                f"{model.config.model_type} keeps a sliding window or a state; only models with full "
                "attention in every layer are batched here: use an OpenAI-compatible server for this one"
            )
        self._cache: Any = None
        self._mask: Any = None  # rows × positions, 0 where a row is padded

    @property
    def rows(self) -> int:
        """How many rows are decoded."""
        return 0 if self._mask is None else int(self._mask.shape[0])

    def read(self, reading: Reading, limit: int) -> int:
        """Read up to `limit` more ids of a prompt; returns how many it took."""
        if reading.cache is None:
            reading.cache = self._new_cache()
        chunk = reading.ids[reading.done : reading.done + limit]
        positions = torch.arange(reading.done, reading.done + len(chunk), device=self._model.device)
        output = self._model(
            input_ids=torch.tensor([chunk], device=self._model.device),
            position_ids=positions[None],
            past_key_values=reading.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        reading.done += len(chunk)
        reading.logits = output.logits[:, -1]
        return len(chunk)

    def join(self, reading: Reading) -> None:
        """Make a prompt that was read the last row. When memory does not suffice, nothing has changed."""
        length = len(reading.ids)
        mask = torch.ones((1, length), dtype=torch.long, device=self._model.device)
        if self._mask is None:
            self._cache, self._mask = reading.cache, mask
            return
        width = max(self._mask.shape[1], length)
        merged = [
            (_joined(ours.keys, theirs.keys, width), _joined(ours.values, theirs.values, width))
            for ours, theirs in zip(self._cache.layers, reading.cache.layers, strict=True)
        ]
        mask = torch.cat([_left(self._mask, width), _left(mask, width)])

        for layer, (keys, values) in zip(self._cache.layers, merged, strict=True):
            layer.keys, layer.values = keys, values
        self._mask = mask

    def step(self, tokens: list[int]) -> Any:
        """Append one id to each row; returns the logits (rows × vocabulary) of what may follow."""
        self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=1)
        output = self._model(
            input_ids=torch.tensor(tokens, device=self._model.device)[:, None],
            attention_mask=self._mask,
            position_ids=self._mask.sum(1, keepdim=True) - 1,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]

    def keep(self, rows: list[int]) -> None:
        """Drop all rows but these, and the columns of padding that nobody needs any more."""
        if not rows:
            self._cache = self._mask = None
            return
        kept = torch.tensor(rows, device=self._mask.device)
        mask = self._mask[kept]
        first = int(mask.argmax(1).min())
        self._mask = mask[:, first:]
        for layer in self._cache.layers:
            layer.keys = layer.keys[kept][:, :, first:]
            layer.values = layer.values[kept][:, :, first:]

    def score(self, reading: Reading, labels: list[list[int]], rows_max: int) -> list[float]:
        """The log-probability of each label's ids after a prompt that was read; uses its cache up."""
        after = torch.log_softmax(reading.logits.float(), -1)[0]
        scores = [float(after[ids[0]]) for ids in labels]
        longer = [at for at, ids in enumerate(labels) if len(ids) > 1]
        for start in range(0, len(longer), rows_max):
            group = longer[start : start + rows_max]
            found = self._score_rest(reading, [labels[at] for at in group])
            for at, more in zip(group, found, strict=True):
                scores[at] += more
        return scores

    def _score_rest(self, reading: Reading, labels: list[list[int]]) -> list[float]:
        """What the second and later ids of each label add, all labels in one pass (padded on the right)."""
        device, width = self._model.device, max(map(len, labels)) - 1
        ids = torch.tensor([label[:-1] + [0] * (width + 1 - len(label)) for label in labels], device=device)
        cache = self._new_cache()
        for ours, theirs in zip(cache.layers, reading.cache.layers, strict=True):
            repeated = (t.repeat_interleave(len(labels), dim=0) for t in (theirs.keys, theirs.values))
            ours.update(*repeated)
        positions = torch.arange(len(reading.ids), len(reading.ids) + width, device=device)
        logits = self._model(
            input_ids=ids,
            position_ids=positions[None].expand(len(labels), -1),
            past_key_values=cache,
            use_cache=True,
        ).logits
        logprobs = torch.log_softmax(logits.float(), -1)
        return [
            sum(float(logprobs[row, at, label[at + 1]]) for at in range(len(label) - 1))
            for row, label in enumerate(labels)
        ]

    def _new_cache(self) -> Any:
        return DynamicCache(config=self._model.config)


def _left(tensor: Any, width: int) -> Any:
    """A mask padded on the left to `width` positions."""
    return torch.nn.functional.pad(tensor, (width - tensor.shape[1], 0))


def _joined(ours: Any, theirs: Any, width: int) -> Any:
    """Two caches (rows × heads × positions × size) as one, both padded on the left to `width` positions."""
    padded = [torch.nn.functional.pad(t, (0, 0, width - t.shape[2], 0)) for t in (ours, theirs)]
    return torch.cat(padded)
