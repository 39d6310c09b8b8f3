"""The buyer's handle on one task: `async for chunk in job`, and afterwards its bill.

A `Job` knows nothing of networks: whoever works on it (`purchase.Purchase`, or a skill run in-process)
puts pieces in and ends it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

import trio

from ainp2p.ledger.receipts import Receipt
from ainp2p.protocol import canonical_json
from ainp2p.protocol.messages import BYTES, JSON, Chunk, Signed, unpack_tokens

PIECES_MAX = 4096  # pieces not yet read; the credit window keeps it far below


class Piece(str):
    """Text as it arrived, with the ids that it was counted by (none where the price is not per token)."""

    tokens: tuple[int, ...]

    def __new__(cls, text: str, tokens: tuple[int, ...] = ()) -> Self:
        piece = super().__new__(cls, text)
        piece.tokens = tokens
        return piece


@dataclass(frozen=True, slots=True)
class Leg:
    """What one seller did for a job.

    Attributes:
        seller: its agent id.
        name: what its card calls it; anybody may use any name.
        units: delivered by it; `amount` uain were signed for them.
        failure: why the job went elsewhere, or ended; empty if all is well.
        receipt: the last receipt of the Lock it was paid from; it may cover other jobs, too.
        transcript: the signed messages of this leg, in order.
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


@dataclass(slots=True)
class Job:
    """One task that somebody does for us.

    Attributes:
        skill: what was asked for.
        budget: uain, never exceeded over all its legs.
        finish: ``"done"``, ``"budget"``, ``"loop"`` or ``"canceled"`` once it has ended; None before that.
        legs: what each seller did, the last one being the one that finished it.
    """

    skill: str
    budget: int
    finish: str | None = None
    legs: list[Leg] = field(default_factory=list)
    first_at: float | None = None  # trio time of the first piece
    ended: trio.Event = field(default_factory=trio.Event)
    failure: Exception | None = None
    on_taken: Callable[[Chunk], object] | None = None

    def __post_init__(self) -> None:
        self.into, self._from = trio.open_memory_channel[Chunk](PIECES_MAX)

    # dataclass slots: the two ends of the channel
    into: trio.MemorySendChannel[Chunk] = field(init=False)
    _from: trio.MemoryReceiveChannel[Chunk] = field(init=False)

    @property
    def units(self) -> int:
        """Units delivered, over all legs."""
        return sum(leg.units for leg in self.legs)

    @property
    def paid(self) -> int:
        """uain signed for, over all legs."""
        return sum(leg.amount for leg in self.legs)

    @property
    def receipt(self) -> Receipt | None:
        """The last receipt that was signed; None if nothing was owed."""
        return next((leg.receipt for leg in reversed(self.legs) if leg.receipt is not None), None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> object:
        """The next piece: a `Piece` of text, bytes, or a JSON value.

        Raises:
            Error: nobody could finish the task; what came before stays delivered and paid.
        """
        try:
            chunk = await self._from.receive()
        except trio.EndOfChannel:
            if self.failure is not None:
                raise self.failure from None
            raise StopAsyncIteration from None
        if self.on_taken is not None:
            self.on_taken(chunk)
        return value_of(chunk)

    async def result(self) -> object:
        """All of it at once: the joined text, or the only value, or the list of values."""
        values = [value async for value in self]
        if all(isinstance(value, str) for value in values):
            return "".join(str(value) for value in values)
        return values[0] if len(values) == 1 else values

    def end(self, finish: str | None, failure: Exception | None = None) -> None:
        """Whoever works on it says that no more comes; only the first time counts."""
        if not self.ended.is_set():
            self.finish, self.failure = finish, failure
            self.into.close()
            self.ended.set()


def value_of(chunk: Chunk) -> object:
    """What a chunk is for the reader."""
    if chunk.kind == BYTES:
        return chunk.data
    if chunk.kind == JSON:
        return canonical_json.decode(chunk.data)
    return Piece(chunk.data.decode(errors="replace"), tuple(unpack_tokens(chunk.tokens)))
