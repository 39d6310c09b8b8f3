"""Iteration-level batching of many requests over one model: requests in, events out, one step at a time.

    submitted ──refused──▶ Refusal
        │ waiting (room for its longest answer?)
        ▼
    reading ──its prompt does not fit in memory──▶ Refusal
        │ the whole prompt is in the cache
        ├─ Choose ──▶ Chosen
        ▼
    decoding ──▶ Made, Made, … Ended ("stop" or "length")

Requests join and leave between steps; `cancel` takes effect before anything more is computed. What one
request does wrong (too long, bad ids, no memory for its prompt) is answered to that request alone. No
clock and no I/O: the worker process drives it, tests and benchmarks call it directly.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch

from ainp2p.agents.models import noise
from ainp2p.agents.models.batch import Batch, Reading
from ainp2p.agents.models.messages import (
    Admitted,
    Chat,
    Choose,
    Chosen,
    Count,
    Counted,
    Embed,
    Ended,
    Event,
    Generate,
    Made,
    Refusal,
    Request,
    Working,
)
from ainp2p.agents.models.tokenizer import Detokenizer, Tokenizer
from ainp2p.errors import ModelRefused

LABELS_MAX = 64
SCORED_AT_ONCE = 8  # labels in one pass; each needs a copy of the prompt's cache
CHARACTERS_PER_ID = 64  # a text with more of them per id of context is refused before it is tokenised


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is taken on at once.

    Attributes:
        rows_max: requests decoded together.
        tokens_max: ids of cache for all of them: rows × longest, since rows are padded to the longest.
        chunk: ids of prompts read per step, so that a long prompt does not hold up the others' tokens.
        waiting_max: requests that may wait for their turn; more are refused.
    """

    rows_max: int = 16
    tokens_max: int = 16_384
    chunk: int = 256
    waiting_max: int = 256


@dataclass(slots=True, eq=False)
class _Job:
    """One Generate or Choose from its admission to its end."""

    request: Generate | Choose
    reading: Reading
    need: int  # ids of cache at most
    labels: list[list[int]]
    detokenizer: Detokenizer | None
    made: int = 0
    last: int = -1
    failed: bool = False


class Engine:
    """The requests of one model, and what is due for each in the next step."""

    def __init__(self, model: Any, tokenizer: Tokenizer, limits: Limits | None = None) -> None:
        """`model`: a causal language model of transformers, on its device, in its computing dtype."""
        self.limits = limits or Limits()
        self._model = model.eval()
        self._vocabulary: int = model.config.vocab_size
        self.context: int = min(model.config.max_position_embeddings, self.limits.tokens_max)
        self._tokenizer = tokenizer
        self._batch = Batch(model)
        self._waiting: deque[_Job] = deque()
        self._reading: list[_Job] = []
        self._rows: list[_Job] = []  # in the batch's order

    @property
    def live(self) -> int:
        """Requests that have not ended; while there are some, `step` has work."""
        return len(self._waiting) + len(self._reading) + len(self._rows)

    def submit(self, request: Request) -> list[Event]:
        """Check a request and let it wait for its turn; says at once what can be said at once."""
        try:
            if isinstance(request, Count):
                return [Counted(request.id, len(self._prompt(request.prompt)))]
            if isinstance(request, Embed):
                raise ModelRefused("this model generates text; embed with one such as minilm-l6-v2")
            if len(self._waiting) >= self.limits.waiting_max:
                raise ModelRefused(f"busy: {len(self._waiting)} requests wait already")
            return self._submitted(request)
        except ModelRefused as exc:
            return [Refusal(request.id, str(exc))]

    def cancel(self, request_id: int) -> None:
        """Forget a request: nothing more is computed for it. No error if it has ended."""
        self._waiting = deque(job for job in self._waiting if job.request.id != request_id)
        self._reading = [job for job in self._reading if job.request.id != request_id]
        self._keep([at for at, job in enumerate(self._rows) if job.request.id != request_id])

    def step(self) -> list[Event]:
        """One iteration: read up to one chunk of prompts, then make one token in every row."""
        events: list[Event] = []
        with torch.inference_mode():
            self._start_reading()
            self._read(events)
            if self._rows:
                logits = self._batch.step([job.last for job in self._rows])
                self._sample(self._rows, logits, events)
                self._drop_ended(events)
        return events

    # --- before the batch -----------------------------------------------------------------------

    def _submitted(self, request: Generate | Choose) -> list[Event]:
        ids = self._prompt(request.prompt)
        if isinstance(request, Choose):
            job = self._choosing(request, ids)
        else:
            job = self._generating(request, ids)
            if request.prefix and request.prefix[-1] in self._tokenizer.stop_ids:
                return [Admitted(request.id, len(ids)), Ended(request.id, "stop")]
        self._waiting.append(job)
        return [Admitted(request.id, len(ids))]

    def _prompt(self, chat: Chat) -> list[int]:
        size = sum(len(content) for _, content in chat)
        if size > self.context * CHARACTERS_PER_ID:
            raise ModelRefused(f"too long: {size} characters for a model that reads {self.context} ids")
        ids = self._tokenizer.encode(chat)
        if not ids:
            raise ModelRefused("the prompt is empty")
        self._check_ids(ids)
        return ids

    def _check_ids(self, ids: list[int] | tuple[int, ...]) -> None:
        """An id outside the vocabulary would read foreign memory on a GPU and poison the process."""
        if min(ids) < 0 or max(ids) >= self._vocabulary:
            raise ModelRefused(f"token ids are 0 to {self._vocabulary - 1}")

    def _check_room(self, need: int) -> None:
        if need > self.context:
            raise ModelRefused(
                f"too long: prompt and answer need {need} ids, the model has room for {self.context}"
            )

    def _generating(self, request: Generate, ids: list[int]) -> _Job:
        if request.max_tokens < 1:
            raise ModelRefused("max_tokens must be at least 1")
        if not (math.isfinite(request.temperature) and request.temperature >= 0):
            raise ModelRefused("temperature must be a number from 0 on")
        if request.prefix:
            self._check_ids(request.prefix)
        ids = [*ids, *request.prefix]
        need = len(ids) + request.max_tokens
        self._check_room(need)
        return _Job(request, Reading(ids), need, [], Detokenizer(self._tokenizer, request.prefix))

    def _choosing(self, request: Choose, ids: list[int]) -> _Job:
        if not 1 <= len(request.labels) <= LABELS_MAX:
            raise ModelRefused(f"choose takes 1 to {LABELS_MAX} labels, not {len(request.labels)}")
        labels = [self._tokenizer.continuation(request.prompt, label) for label in request.labels]
        if not all(labels):
            raise ModelRefused("a label is empty")
        for label in labels:
            self._check_ids(label)
        need = len(ids) + max(map(len, labels))
        self._check_room(need)
        return _Job(request, Reading(ids), need, labels, None)

    def _start_reading(self) -> None:
        """Whoever waits longest goes first, as long as rows × longest stays within the budget."""
        while self._waiting:
            live = [*self._reading, *self._rows]
            longest = max(job.need for job in [*live, self._waiting[0]])
            if len(live) >= self.limits.rows_max or (len(live) + 1) * longest > self.limits.tokens_max:
                return
            self._reading.append(self._waiting.popleft())

    def _read(self, events: list[Event]) -> None:
        """Read up to one chunk of prompts, oldest first; who is done joins the batch or is answered."""
        left = self.limits.chunk
        while self._reading and left > 0:
            job = self._reading[0]
            try:
                left -= self._batch.read(job.reading, left)
                if not job.reading.finished:
                    events.append(Working(job.request.id))
                    return
                self._finish_reading(job, events)
            except Exception as exc:
                events.append(Refusal(job.request.id, self._only_this_request(exc)))
                self._keep([at for at, row in enumerate(self._rows) if row is not job])
            self._reading.remove(job)

    def _finish_reading(self, job: _Job, events: list[Event]) -> None:
        if isinstance(job.request, Choose):
            scores = self._batch.score(job.reading, job.labels, SCORED_AT_ONCE)
            n_in = len(job.reading.ids) + sum(map(len, job.labels))
            events.append(Chosen(job.request.id, tuple(scores), n_in))
            return
        self._batch.join(job.reading)
        self._rows.append(job)
        self._sample([job], job.reading.logits, events)
        job.reading.cache = job.reading.logits = None  # the batch holds them now
        self._drop_ended(events)

    def _only_this_request(self, exc: Exception) -> str:
        """Why a prompt could not be read, if that can have hurt nobody else; the exception again, if it can.

        A prompt is read into a cache of its own, so whatever goes wrong stays there; except on a GPU, where
        any fault but a lack of memory leaves the whole process unusable.
        """
        if isinstance(exc, (torch.OutOfMemoryError, MemoryError)):
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            return "busy: not enough memory for this request now"
        if self._model.device.type != "cpu":
            raise exc
        return f"the model cannot read this prompt: {exc}"

    # --- in the batch ---------------------------------------------------------------------------

    def _sample(self, jobs: list[_Job], logits: Any, events: list[Event]) -> None:
        """Draw one id for each job from its row of `logits`."""
        logits = logits.float()
        chosen = logits.argmax(-1)
        for row, job in enumerate(jobs):
            assert isinstance(job.request, Generate)
            if job.request.temperature > 0:
                chosen[row] = self._drawn(logits[row], job.request, job.made)
        logprobs = torch.log_softmax(logits, -1).gather(1, chosen[:, None])[:, 0]
        for job, token, logprob in zip(jobs, chosen.tolist(), logprobs.tolist(), strict=True):
            assert job.detokenizer is not None
            job.last, job.made = token, job.made + 1
            if math.isfinite(logprob):
                events.append(Made(job.request.id, token, job.detokenizer.feed(token), logprob))
            else:
                job.failed = True

    def _drawn(self, logits: Any, request: Generate, made: int) -> Any:
        """Gumbel-max: positions count from the answer's start, wherever it was begun."""
        key = noise.noise_key(request.seed, len(request.prefix) + made)
        scaled = logits.double() / request.temperature
        return (scaled + noise.gumbel(key, logits.shape[0], logits.device)).argmax()

    def _drop_ended(self, events: list[Event]) -> None:
        keep = []
        for at, job in enumerate(self._rows):
            assert isinstance(job.request, Generate)
            if job.failed:
                events.append(Refusal(job.request.id, "the model left the range of numbers on this text"))
            elif job.last in self._tokenizer.stop_ids:
                events.append(Ended(job.request.id, "stop"))
            elif job.made >= job.request.max_tokens:
                events.append(Ended(job.request.id, "length"))
            else:
                keep.append(at)
        self._keep(keep)

    def _keep(self, rows: list[int]) -> None:
        if len(rows) < len(self._rows):
            self._rows = [self._rows[at] for at in rows]
            self._batch.keep(rows)
