"""The seller's half of a Lock's credit window: what is delivered, what of it is paid, may it go on?

A core without I/O; `metering.py` shows both halves and says what they guarantee.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from ainp2p.errors import InvalidInput, Refused, RemoteError, Unpaid
from ainp2p.protocol.delivery import FIRST_WINDOW, Content, LockChain, Position, Tab, Terms, weight
from ainp2p.protocol.messages import TOKENS, TOKENS_MAX, Chunk, Finished, pack_logprobs, pack_tokens

POSITIONS_MAX = 4096  # remembered for receipts that come; what costs nothing more needs none


class TokenLike(Protocol):
    """A generated token (`ainp2p.agents.models` has the real one)."""

    @property
    def id(self) -> int:
        """In the model's vocabulary; 0 to 2^32 - 1."""

    @property
    def text(self) -> str:
        """What it adds to the answer; may be empty."""

    @property
    def logprob(self) -> float | None:
        """Natural logarithm of its probability; None where it is not known."""


class _Kept(msgspec.Struct, frozen=True):
    """A chunk that may have to be sent again, and the weights delivered up to its end."""

    chunk: Chunk
    job_weight: int
    lock_weight: int


@dataclass(slots=True)
class _Sold:
    tab: Tab
    taken: int = 0
    paused: bool = False
    kept: deque[_Kept] = field(default_factory=deque)
    dropped_n: int = 0  # the last chunk of this job that is no longer kept


class SellerMeter:
    """What a seller has delivered against one Lock, and what of it is paid."""

    def __init__(
        self, lock: bytes, deposit: int, *, known: bool = False, start: Position | None = None
    ) -> None:
        """Begin at `start` (the last receipt held; None: nothing yet).

        `known` tells that this counterparty has paid before, and so gets the whole window at once.
        """
        self.lock, self.deposit = lock, deposit
        self.paid = start or Position.start(lock)
        self.known = known
        self._chain = LockChain(self.paid)
        self._jobs: dict[bytes, _Sold] = {}
        self._open: dict[bytes, _Sold] = {}  # those that were not finished,
        self._keeping: dict[bytes, _Sold] = {}  # and those with chunks that may be sent again
        self._due, self._units, self._weight = self.paid.cumulative, self.paid.units, 0
        self._paid_weight = 0  # what is delivered up to there costs no more than what is paid
        self._positions: deque[tuple[Position, int]] = deque(
            maxlen=POSITIONS_MAX
        )  # after `paid`; and the weight

    def open_job(self, terms: Terms, *, units: int = 0, ids: Iterable[int] = ()) -> None:
        """Begin a job, or go on with one that already delivered `units` and is billed up to there.

        Raises:
            InvalidInput: the job is open already.
        """
        if terms.job in self._jobs:
            raise InvalidInput("this job is open already: resume it")
        sold = _Sold(Tab(terms, units=units, ids=ids), taken=units)
        self._jobs[terms.job] = self._open[terms.job] = sold

    @property
    def window(self) -> int:
        """Units that may be unpaid now: a new counterparty begins with less (slow start)."""
        window = step = 0
        for sold in self._open.values():
            tab = sold.tab
            if tab.finish is None:  # else it loops, and is about to be finished
                window, step = max(window, tab.terms.window), max(step, tab.terms.step)
        return window if self.known else max(min(window, FIRST_WINDOW), step)

    @property
    def unpaid(self) -> int:
        """Units delivered and not paid (chunks without units count as one)."""
        return self._weight - self._paid_weight

    @property
    def position(self) -> Position:
        """Where the Lock stands; its cumulative is what a receipt for everything would say."""
        return Position(self._chain.n, self._due, self._units, self._chain.context)

    def tab(self, job: bytes) -> Tab:
        """A job's bill, to be read.

        Raises:
            Refused: no such job.
        """
        return self._sold(job).tab

    def allowance(self, job: bytes) -> int:
        """How many units may be delivered now; 0: wait for a receipt, the reader or the connection."""
        sold = self._sold(job)
        if sold.paused:
            return 0
        credit = self.window - self.unpaid
        ahead = sold.taken + sold.tab.terms.step - sold.tab.weight
        return max(0, min(credit, ahead, self._affordable(sold.tab), TOKENS_MAX))

    def exhausted(self, job: bytes) -> bool:
        """Whether budget, units or deposit end the job here, however long one waits."""
        tab = self._sold(job).tab
        return tab.finish is None and self._affordable(tab) <= 0

    def deliver_tokens(self, job: bytes, tokens: Sequence[TokenLike]) -> tuple[Chunk, int]:
        """The next chunk, of as many of `tokens` as may be delivered now, and how many those are.

        A loop ends the chunk and the job; `tab(job).finish` then says so.

        Raises:
            InvalidInput: nothing may be delivered now, or the price is not per token.
        """
        sold = self._sold(job)
        if sold.tab.unit != "token":
            raise InvalidInput("this job is not priced per token: deliver its yields")
        allowed = self._require(job, 1)
        count = 0
        for token in tokens[:allowed]:
            count += 1
            if sold.tab.observe(token.id):
                break
        sent = tokens[:count]
        content = Content(
            TOKENS,
            "".join(token.text for token in sent).encode(),
            pack_tokens([token.id for token in sent]),
            _packed_logprobs(sent),
        )
        return self._send(sold, content, count), count

    def deliver(self, job: bytes, content: Content, units: int = 1) -> Chunk:
        """The next chunk: one yield. Under a price per second `units` are the seconds since the last chunk.

        Raises:
            InvalidInput: it may not be delivered now, or the price is per token.
        """
        sold = self._sold(job)
        if sold.tab.unit == "token":
            raise InvalidInput("this job is priced per token: only the model's tokens can be delivered")
        self._require(job, weight(units))
        return self._send(sold, content, units)

    def accept(self, cumulative: int, units: int, context: bytes) -> bool:
        """Book a receipt whose signature, Lock and deposit the ledger has checked; False: nothing new.

        Raises:
            Unpaid: it is lower than what was delivered up to there costs.
            RemoteError: it is for chunks that were never sent, or older than the last one.
        """
        if context == self.paid.context and cumulative == self.paid.cumulative:
            return False
        entry = next((entry for entry in self._positions if entry[0].context == context), None)
        if entry is None:
            raise RemoteError(
                "a receipt for what is paid already, or was never delivered: nothing new is paid"
            )
        position = entry[0]
        if units != position.units:
            raise RemoteError(f"a receipt over {units} units where {position.units} were delivered")
        if cumulative < max(position.cumulative, self.paid.cumulative):
            raise Unpaid(f"a receipt over {cumulative} uain for chunks that cost {position.cumulative} uain")
        self.paid = Position(position.n, cumulative, units, context)
        self.known = True
        self._settle()
        return True

    def taken(self, job: bytes, weight_: int) -> None:
        """The reader has taken so much of a job in all; what is not new is ignored.

        Raises:
            RemoteError: more than was delivered.
        """
        sold = self._sold(job)
        if weight_ > sold.tab.weight:
            raise RemoteError(f"{weight_} units taken where {sold.tab.weight} were delivered")
        sold.taken = max(sold.taken, weight_)
        self._drop_kept(sold)

    def pause(self, job: bytes | None = None) -> None:
        """A job's stream (None: every stream) is gone: nobody works for a peer that has gone."""
        for sold in self._jobs.values() if job is None else [self._sold(job)]:
            sold.paused = True

    def resume(self, job: bytes, from_n: int) -> list[Chunk]:
        """Go on with a job after a disconnect; returns what has to be sent again, in order.

        Raises:
            Refused: ``gone``: chunks from there on are kept no longer (the buyer had said that it has them).
        """
        sold = self._sold(job)
        if from_n <= sold.dropped_n:
            raise Refused("gone", f"chunks up to {sold.dropped_n} were taken or paid and are kept no longer")
        sold.paused = False
        return [kept.chunk for kept in sold.kept if kept.chunk.n >= from_n]

    def finish(self, job: bytes, finish: bytes, reason: bytes = b"") -> Finished:
        """End a job (again, no change); returns the last word on it."""
        tab = self._sold(job).tab
        self._open.pop(job, None)
        tab.finish = tab.finish or finish
        last = tab.last if tab.last.n else Position.start(self.lock)
        return Finished(job, tab.finish, tab.units, tab.amount, last.n, last.context, reason)

    def forget(self, job: bytes) -> None:
        """Drop a finished job; its chunks cannot be sent again, its amount stays due."""
        for jobs in (self._jobs, self._open, self._keeping):
            jobs.pop(job, None)

    def _sold(self, job: bytes) -> _Sold:
        sold = self._jobs.get(job)
        if sold is None:
            raise Refused("no-such-job", "it was never awarded on this Lock, or has been forgotten")
        return sold

    def _affordable(self, tab: Tab) -> int:
        """Units that limit and deposit still allow."""
        price = tab.terms.price
        rest = self.deposit - self._due - (0 if tab.weight else price.fixed(tab.terms.input_units))
        if rest < 0:
            return 0
        return min(tab.left, rest // price.rate) if price.rate else tab.left

    def _require(self, job: bytes, needed: int) -> int:
        allowed = self.allowance(job)
        if allowed < needed:
            raise InvalidInput(f"{needed} units where {allowed} may be delivered now: ask `allowance` first")
        return allowed

    def _send(self, sold: _Sold, content: Content, units: int) -> Chunk:
        tab, before = sold.tab, sold.tab.amount
        chunk = Chunk(
            tab.terms.job,
            self._chain.n + 1,
            tab.units,
            units,
            content.kind,
            content.data,
            content.tokens,
            content.logprobs,
        )
        self._chain.append(chunk)
        tab.add(units)
        self._due += tab.amount - before
        self._units += units
        self._weight += weight(units)
        tab.last = self.position
        sold.kept.append(_Kept(chunk, tab.weight, self._weight))
        self._keeping[tab.terms.job] = sold
        self._positions.append((tab.last, self._weight))
        if self._due <= self.paid.cumulative:  # it costs nothing more, or a loop left credit
            self._paid_weight = self._weight
        return chunk

    def _settle(self) -> None:
        """After a receipt: find how far it pays, and forget what needs no remembering."""
        while self._positions and self._positions[0][0].n <= self.paid.n:
            self._paid_weight = max(self._paid_weight, self._positions.popleft()[1])
        for position, heavy in reversed(self._positions):  # a loop may have lowered what is due since
            if position.cumulative <= self.paid.cumulative:
                self._paid_weight = max(self._paid_weight, heavy)
                break
        for sold in list(self._keeping.values()):
            self._drop_kept(sold)

    def _drop_kept(self, sold: _Sold) -> None:
        """Forget chunks that a receipt covers, or that the reader has and that cost nothing more."""
        while sold.kept:
            oldest = sold.kept[0]
            settled = oldest.job_weight <= sold.taken and oldest.lock_weight <= self._paid_weight
            if not settled and oldest.chunk.n > self.paid.n:
                return
            sold.dropped_n = sold.kept.popleft().chunk.n
        self._keeping.pop(sold.tab.terms.job, None)


def _packed_logprobs(tokens: Sequence[TokenLike]) -> bytes:
    values = [token.logprob for token in tokens]
    return b"" if None in values else pack_logprobs([value for value in values if value is not None])
