"""The buyer's handle on one task: `async for chunk in job`, and afterwards its bill.

A `Job` knows nothing of networks: whoever works on it (`purchase.Purchase`, or a skill run in-process)
puts pieces in and ends it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

import trio

from ainp2p.agents.waiting import Pipe
from ainp2p.errors import Error, InvalidInput
from ainp2p.ledger.rules.receipts import Receipt
from ainp2p.protocol import canonical_json
from ainp2p.protocol.identity import id_text
from ainp2p.protocol.messages import BYTES, JSON, TEXT, TOKENS, Chunk, Signed, unpack_tokens

REJECTED = "rejected"
PIECES_MAX = 1 << 14  # pieces not yet read; a step of each seller's part keeps it far below


class Piece(str):
    """Text as it arrived, with the ids that it was counted by (none where the price is not per token)."""

    tokens: tuple[int, ...]

    def __new__(cls, text: str, tokens: tuple[int, ...] = ()) -> Self:
        piece = super().__new__(cls, text)
        piece.tokens = tokens
        return piece


@dataclass(frozen=True, slots=True, repr=False)
class Leg:
    """What one seller did for a job.

    Attributes:
        seller: its agent id.
        name: what its card calls it; anybody may use any name.
        units: delivered by it; `amount` uain were signed for them.
        failure: why the job went elsewhere, or ended; empty if all is well.
        receipt: the last receipt of the Lock it was paid from; it may cover other jobs, too.
        transcript: the signed messages of this leg, in order.
        continued: it went on from what the sellers before it had delivered; else it began anew.
        elapsed_ms: from its Accepted to the end; 0 if it did not accept.
        rejected: whoever read it said that it is no good (`Job.reject`); `failure` has the reason.
    """

    seller: bytes
    name: str
    units: int
    amount: int
    price: str
    lock: bytes
    failure: str
    receipt: Receipt | None
    transcript: tuple[Signed, ...]
    continued: bool = False
    elapsed_ms: int = 0
    rejected: bool = False

    def as_rejected(self, reason: str) -> Leg:
        """The same, once its reader has rejected it."""
        failure = f"{REJECTED}: {reason}" if reason else REJECTED
        return replace(self, failure=failure, rejected=True)

    def __repr__(self) -> str:
        ended = f", failed: {self.failure}" if self.failure else ""
        return f"Leg({self.name} {id_text(self.seller)}: {self.units} units, {self.amount} uain{ended})"


class UnderWay(Protocol):
    """The leg that is being worked on."""

    @property
    def seller(self) -> str:
        """What the seller calls itself."""

    @property
    def opened_at(self) -> float | None:
        """trio's time when the seller accepted; None before that."""

    @property
    def units(self) -> int:
        """Delivered so far."""

    @property
    def amount(self) -> int:
        """uain signed so far."""


@dataclass(slots=True, repr=False)
class Job:
    """One task that somebody does for us.

    Attributes:
        skill: what was asked for.
        budget: uain, never exceeded over all its legs.
        finish: ``"done"``, ``"budget"``, ``"loop"`` or ``"canceled"`` once it has ended, or ``"rejected"`` if
            it was left after what came was rejected; None before that, and if it failed.
        legs: what each seller did, the last one being the one that finished it.
        restarts: how often the result began anew, since a seller could not go on from another one's part.
        seller: the name of whoever works on it now, or did last; ``""`` before the first award.
        awarded_at: trio's time of the last award; None before that.
        first_at: trio's time when the first piece came; None before that.
        failure: why nobody could finish it; reading to the end raises it.
    """

    skill: str
    budget: int
    finish: str | None = None
    legs: list[Leg] = field(default_factory=list)
    restarts: int = 0
    seller: str = ""
    awarded_at: float | None = None
    first_at: float | None = None
    failure: Exception | None = None
    ended: trio.Event = field(default_factory=trio.Event)
    on_taken: Callable[[Chunk], object] | None = None
    on_rejected: Callable[[str], object] | None = None
    under_way: UnderWay | None = None

    _pieces: Pipe[tuple[int, Chunk]] = field(init=False, default_factory=lambda: Pipe(PIECES_MAX))
    _text: list[str] = field(init=False, default_factory=list)
    _valid_from: int = field(init=False, default=0)  # restarts before it were rejected

    def __repr__(self) -> str:
        state = self.finish or ("failed" if self.ended.is_set() else "working")
        return f"Job({self.skill}: {state}, {self.units} units, {self.paid} of {self.budget} uain)"

    # --- the bill ----------------------------------------------------------------------------------

    @property
    def units(self) -> int:
        """Units delivered, over all legs."""
        return sum(leg.units for leg in self.legs) + (self.under_way.units if self.under_way else 0)

    @property
    def paid(self) -> int:
        """uain signed for, over all legs."""
        return sum(leg.amount for leg in self.legs) + (self.under_way.amount if self.under_way else 0)

    @property
    def wasted(self) -> int:
        """Units that were delivered and paid before the result began anew."""
        last = max((i for i, leg in enumerate(self.legs) if leg.units and not leg.continued), default=0)
        return sum(leg.units for leg in self.legs[:last])

    @property
    def receipt(self) -> Receipt | None:
        """The last receipt that was signed; None if nothing was owed."""
        return next((leg.receipt for leg in reversed(self.legs) if leg.receipt is not None), None)

    # --- the result --------------------------------------------------------------------------------

    @property
    def text(self) -> str:
        """Text that has come so far, read or not; since its last beginning, if it began anew."""
        return "".join(self._text)

    @property
    def unread(self) -> int:
        """Pieces that have come and were not read."""
        return len(self._pieces)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> object:
        """The next piece: a `Piece` of text, bytes, or a JSON value.

        Raises:
            Error: nobody could finish the task; what came before stays delivered and paid.
        """
        return (await self._next())[1]

    async def result(self) -> object:
        """All of it at once: the joined text, or the only value, or the list of values.

        Of a result that began anew, only the last beginning counts.
        """
        run, values = 0, list[object]()
        while True:
            try:
                of_run, value = await self._next()
            except StopAsyncIteration:
                break
            if of_run != run:
                run, values = of_run, []
            values.append(value)
        if all(isinstance(value, str) for value in values):
            return "".join(str(value) for value in values)
        return values[0] if len(values) == 1 else values

    def reject(self, reason: str = "") -> None:
        """Say that what came is no good: its seller is paid no further, and another one begins anew.

        Go on reading, for what the next seller delivers for what is left of the budget; pieces that wait
        unread are dropped. What was signed before is lost: what was read, and at most a step more. The
        seller of the piece that was read last is told the reason, counts in this agent's `find` as one that
        delivers badly, and is hired again only where nobody else is left.

        Raises:
            InvalidInput: nothing has come since the beginning or the last rejection, or no seller did it.
            Closed: the job's block has ended.
        """
        if self.on_rejected is None:
            raise InvalidInput("this job is worked on by nobody whom it could be rejected to")
        self.on_rejected(reason)

    @property
    def is_rejected(self) -> bool:
        """Whether what came last was rejected, and nothing has come since."""
        came = [leg for leg in self.legs if leg.units or leg.rejected]
        return bool(came) and came[-1].rejected and not (self.under_way and self.under_way.units)

    async def _next(self) -> tuple[int, object]:
        run = -1
        try:
            while run < self._valid_from:
                run, chunk = await self._pieces.take()
        except trio.EndOfChannel:
            if self.failure is not None:
                raise self.failure from None
            raise StopAsyncIteration from None
        if self.on_taken is not None:
            self.on_taken(chunk)
        return run, value_of(chunk)

    # --- for whoever works on it -------------------------------------------------------------------

    def put(self, chunk: Chunk) -> None:
        """Hand the reader the next piece; the credit window keeps it near."""
        self._pieces.put_nowait(self._noted(chunk))

    async def put_slowly(self, chunk: Chunk) -> None:
        """As `put`; waits for a reader who is far behind."""
        await self._pieces.put(self._noted(chunk))

    def _noted(self, chunk: Chunk) -> tuple[int, Chunk]:
        if self.first_at is None:
            self.first_at = trio.current_time()
        if chunk.kind in (TOKENS, TEXT):
            self._text.append(chunk.data.decode(errors="replace"))
        return self.restarts, chunk

    def begin_anew(self) -> None:
        """What comes from now on is the result from its beginning."""
        self.restarts += 1
        self._text.clear()

    def drop_older(self) -> None:
        """Pieces from before the last beginning are of no use to the reader any more."""
        self._valid_from = self.restarts

    def take_back(self) -> None:
        """All that came is no good: the reader waits for more, also if the job had ended."""
        self.begin_anew()
        self.drop_older()
        if self.ended.is_set():
            self._pieces.reopen()
            self.finish, self.failure, self.ended = None, None, trio.Event()

    def end(self, finish: str | None, failure: Exception | None = None) -> None:
        """Whoever works on it says that no more comes; only the first time counts."""
        if not self.ended.is_set():
            self.finish, self.failure = finish, failure
            self._pieces.end()
            self.ended.set()


def value_of(chunk: Chunk) -> object:
    """What a chunk is for the reader."""
    if chunk.kind == BYTES:
        return chunk.data
    if chunk.kind == JSON:
        return canonical_json.decode(chunk.data)
    return Piece(chunk.data.decode(errors="replace"), tuple(unpack_tokens(chunk.tokens)))


def failure_words(failure: BaseException) -> str:
    """A failure in a line, with its type where that says more than its words."""
    return str(failure) if isinstance(failure, Error) and str(failure) else repr(failure)
