"""What both sides of a job count alike: chunks in the Lock's running hash, units, amounts, loops.

Seller and buyer feed the same chunks to the same small machines and so agree on every number without
telling each other any. No I/O; the credit window itself is in `metering.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ainp2p.errors import InvalidInput, RemoteError
from ainp2p.protocol.codec import encode
from ainp2p.protocol.identity import digest
from ainp2p.protocol.messages import Chunk
from ainp2p.protocol.price import Price

STEP, WINDOW, FIRST_WINDOW = 32, 64, 32  # units (DESIGN.md, Decisions)
LOOP_GRAM = 8  # a repeated run of so many token ids ends a job (DESIGN.md, Decisions)

DONE, BUDGET, LOOP, CANCELED, FAILED = b"done", b"budget", b"loop", b"canceled", b"failed"
FINISHES = (DONE, BUDGET, LOOP, CANCELED, FAILED)


class Content(msgspec.Struct, frozen=True):
    """What a skill yielded, as it will travel (`messages.Chunk` says what the fields are)."""

    kind: int
    data: bytes
    tokens: bytes = b""
    logprobs: bytes = b""


class Position(msgspec.Struct, frozen=True):
    """Where a Lock stands after its n-th chunk: what a receipt for it says."""

    n: int
    cumulative: int  # uain due over all jobs
    units: int  # delivered over all jobs
    context: bytes  # running hash of the chunks

    @classmethod
    def start(cls, lock: bytes) -> Position:
        """Before the first chunk."""
        return cls(0, 0, 0, lock)


class Terms(msgspec.Struct, frozen=True):
    """What an award fixed for one job.

    Raises:
        InvalidInput: a window below the step would stop both sides for ever.
    """

    job: bytes
    price: Price
    budget: int
    units_max: int
    step: int
    window: int
    input_units: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.step <= self.window:
            raise InvalidInput(f"window {self.window} is below the step {self.step}: nobody could go on")

    @property
    def limit(self) -> int:
        """The most units that may be delivered: what was agreed, or what the budget buys."""
        return min(self.units_max, self.price.max_units(self.budget, self.input_units))


def weight(units: int) -> int:
    """How much of a window a chunk takes: its units, or 1 where it has none (so that all is bounded)."""
    return max(1, units)


def next_context(context: bytes, chunk: Chunk) -> bytes:
    """cₙ = H(cₙ₋₁, job, n, units, chunk's hash)."""
    content = digest(
        b"ainp2p/chunk/1", encode([chunk.start, chunk.kind, chunk.data, chunk.tokens, chunk.logprobs])
    )
    number = chunk.n.to_bytes(8, "big") + chunk.units.to_bytes(8, "big")
    return digest(b"ainp2p/chain/1", context, chunk.job, number, content)


class LockChain:
    """The running hash of a Lock's chunks, over all its jobs."""

    def __init__(self, start: Position) -> None:
        self.n, self.context = start.n, start.context

    def append(self, chunk: Chunk) -> bytes:
        """Take the next chunk in; returns the new context.

        Raises:
            RemoteError: it is not the next one.
        """
        if chunk.n != self.n + 1:
            raise RemoteError(f"chunk {chunk.n} does not follow chunk {self.n} of its Lock")
        self.context = next_context(self.context, chunk)
        self.n += 1
        return self.context


class LoopDetector:
    """Finds the first run of LOOP_GRAM token ids that occurred before."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._ends: dict[tuple[int, ...], int] = {}  # gram → how many ids there were when it first ended

    def add(self, id_: int) -> int | None:
        """Take one id in. On a repetition: how many ids there were up to the end of the first occurrence."""
        self._ids.append(id_)
        if len(self._ids) < LOOP_GRAM:
            return None
        first = self._ends.setdefault(tuple(self._ids[-LOOP_GRAM:]), len(self._ids))
        return first if first < len(self._ids) else None


class Tab:
    """One job's running bill, kept alike by both sides.

    A loop lowers the bill to what came up to the end of the gram's first occurrence. A receipt that was
    signed meanwhile stands; what it overpaid is credit for later work on the same Lock.
    """

    def __init__(self, terms: Terms, *, units: int = 0, ids: Iterable[int] = ()) -> None:
        """Begin at nothing, or after `units`, with the token `ids` among them."""
        self.terms = terms
        self.limit, self.unit = terms.limit, terms.price.unit
        self.units = units  # delivered
        self.weight = units
        self._fixed, self._rate = terms.price.fixed(terms.input_units), terms.price.rate
        self.last = Position.start(bytes(32))  # after this job's last chunk; n is 0 before the first
        self.finish: bytes | None = None
        self._billed_max: int | None = None  # once the job loops
        self._loop_at: int | None = None  # seen by the detector, not counted yet
        self._detector = LoopDetector() if self.unit == "token" else None
        for id_ in ids:
            self.observe(id_)

    @property
    def amount(self) -> int:
        """Uain due for this job now; the fixed part falls due with the first chunk."""
        return self.amount_after(self.units) if self.weight else 0

    def amount_after(self, units: int) -> int:
        """Uain due for this job after so many units."""
        if self._billed_max is not None:
            units = min(units, self._billed_max)
        return self._fixed + self._rate * units

    @property
    def left(self) -> int:
        """Units that may still be delivered."""
        return 0 if self.finish is not None or self.limit < self.units else self.limit - self.units

    def observe(self, id_: int) -> bool:
        """Let the detector see one id (to be counted by `add`); True ends the job by `loop`."""
        if self._detector is None or self._loop_at is not None:
            return False
        self._loop_at = self._detector.add(id_)
        return self._loop_at is not None

    def add(self, units: int) -> None:
        """Count a chunk."""
        self.units += units
        self.weight += weight(units)
        if self._loop_at is not None:
            self.finish, self._billed_max = LOOP, self._loop_at
