"""The buyer's half of a Lock's credit window: what has come, in order, and what is due for it.

A core without I/O; `metering.py` shows both halves and says what they guarantee. The buyer counts
everything itself: a chunk says how many units it has, and is refused when that is not so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ainp2p.errors import InvalidInput, Malformed, Overcharged, Refused, RemoteError
from ainp2p.protocol.delivery import FINISHES, LOOP, LockChain, Position, Tab, Terms, weight
from ainp2p.protocol.messages import (
    BYTES,
    JOBS_PER_NOTICE_MAX,
    JSON,
    TEXT,
    TIME,
    TOKENS,
    Chunk,
    Finished,
    Taken,
    unpack_tokens,
)

WAITING_MAX = 1024  # chunks that came before their predecessors
WAITING_BYTES_MAX = 8 << 20
TEXT_PER_TOKEN_MAX = 1024  # bytes; the longest tokens of real vocabularies have a few hundred
TIME_SLACK_S = 1  # a begun second counts


@dataclass(slots=True)
class _Bought:
    tab: Tab
    started_ms: int
    taken: int
    told: int  # of `taken`, what the seller was told
    after_n: int  # its chunks have higher numbers
    finished: Finished | None = None  # said by the seller, but not all chunks are here yet


class BuyerMeter:
    """What a buyer has received against one Lock, and what of it is signed for."""

    def __init__(self, lock: bytes, deposit: int, *, start: Position | None = None) -> None:
        """Begin at `start` (the last receipt signed; None: nothing yet)."""
        self.lock, self.deposit = lock, deposit
        self.signed = start or Position.start(lock)
        self._chain = LockChain(self.signed)
        self._jobs: dict[bytes, _Bought] = {}
        self._due, self._units = self.signed.cumulative, self.signed.units
        self._weight = self._signed_weight = 0
        self._waiting: dict[int, Chunk] = {}
        self._waiting_bytes = 0
        self._asked: tuple[Position, int] | None = None
        self._fault: RemoteError | None = None

    def open_job(self, terms: Terms, now_ms: int, *, units: int = 0, ids: Iterable[int] = ()) -> None:
        """Begin a job, or go on with one of which `units` came (and are signed for) already.

        Raises:
            InvalidInput: the job is open already.
        """
        if terms.job in self._jobs:
            raise InvalidInput("this job is open already: resume it")
        after_n = 0 if units else self._chain.n
        self._jobs[terms.job] = _Bought(Tab(terms, units=units, ids=ids), now_ms, units, units, after_n)

    @property
    def position(self) -> Position:
        """Where the Lock stands for us; its cumulative is what we owe for all that has come in order."""
        return Position(self._chain.n, self._due, self._units, self._chain.context)

    @property
    def unsigned(self) -> int:
        """Units that have come and are not signed for (chunks without units count as one)."""
        return self._weight - self._signed_weight

    @property
    def has_gap(self) -> bool:
        """Whether chunks have come that wait for one before them."""
        return bool(self._waiting)

    def tab(self, job: bytes) -> Tab:
        """A job's bill, to be read.

        Raises:
            RemoteError: no such job.
        """
        return self._bought(job).tab

    # --- what comes ------------------------------------------------------------------------------

    def receive(self, chunk: Chunk, now_ms: int) -> list[Chunk]:
        """Take a chunk in, from any job's stream; returns those that are now next in the Lock's order.

        Duplicates, as after a resume, are ignored.

        Raises:
            Overcharged: it says more units than it has, or goes beyond limit, budget, deposit or reader.
            Refused: ``lock``: the seller begins the Lock anew; it was restarted before it had a receipt.
            RemoteError: it breaks the order, or its job is unknown or over. Nothing of it was counted;
                the Lock cannot go on with this seller.
        """
        if self._fault is not None:
            raise self._fault
        if chunk.n <= self._chain.n:
            self._check_memory(chunk)
            return []
        self._bought(chunk.job)
        if self._waiting.setdefault(chunk.n, chunk) is not chunk:
            if self._waiting[chunk.n] != chunk:
                raise RemoteError(f"two different chunks have the number {chunk.n}")
            return []
        self._waiting_bytes += len(chunk.data)
        ready: list[Chunk] = []
        while (following := self._waiting.get(self._chain.n + 1)) is not None:
            try:
                self._check(following, now_ms)
            except RemoteError as exc:
                if not ready:
                    raise
                self._fault = exc  # what came before the fault still arrives
                break
            self._drop_waiting(following)
            self._count(following)
            ready.append(following)
        if len(self._waiting) > WAITING_MAX or self._waiting_bytes > WAITING_BYTES_MAX:
            self._drop_waiting(chunk)
            raise RemoteError(f"chunk {self._chain.n + 1} is missing and too many came after it")
        return ready

    def _check_memory(self, chunk: Chunk) -> None:
        """Tell a repetition from a number that was given out before this job began."""
        job = self._jobs.get(chunk.job)
        if job is not None and chunk.n <= job.after_n:
            raise Refused("lock", "the seller has forgotten what it delivered for this deposit")

    def finished(self, message: Finished) -> bool:
        """The seller's last word on a job; False: chunks are missing, it takes effect when they come.

        Raises:
            Overcharged: it claims more than we counted.
            RemoteError: it contradicts what was delivered.
        """
        bought = self._bought(message.job)
        bought.finished = message
        return self._close(bought)

    def resume_point(self, job: bytes) -> tuple[int, int]:
        """Where the seller has to go on after a disconnect: the Lock's next chunk, the job's next unit."""
        return self._chain.n + 1, self._bought(job).tab.units

    # --- what the reader does ---------------------------------------------------------------------

    def taken(self, job: bytes, weight_: int) -> bool:
        """The reader took chunks of so much weight more; True: time to tell the seller (`progress`)."""
        bought = self._bought(job)
        bought.taken = min(bought.taken + weight_, bought.tab.weight)
        return (bought.taken - bought.told) * 2 >= bought.tab.terms.step

    @property
    def has_progress(self) -> bool:
        """Whether `progress` would tell anything."""
        return any(bought.taken > bought.told for bought in self._jobs.values())

    def progress(self) -> tuple[Taken, ...]:
        """What the seller has not been told of the readers; it counts as told now."""
        told: list[Taken] = []
        for job, bought in self._jobs.items():
            if bought.taken > bought.told and len(told) < JOBS_PER_NOTICE_MAX:
                bought.told = bought.taken
                told.append(Taken(job, bought.taken))
        return tuple(told)

    def all_progress(self, job: bytes) -> Taken:
        """What the seller is told again after a disconnect, when the last notice may be lost."""
        bought = self._bought(job)
        bought.told = bought.taken
        return Taken(job, bought.taken)

    # --- what is due ------------------------------------------------------------------------------

    def due(self, *, now: bool = False) -> Position | None:
        """What to sign, when a receipt is due: every step, at a job's end, or `now` (on leaving early).

        Hand it to the vault, and to `signed_for` once the signature is safe; None: nothing is due.
        """
        if self._due <= self.signed.cumulative:
            return None
        if not now and not self._is_due():
            return None
        self._asked = (self.position, self._weight)
        return self._asked[0]

    def _is_due(self) -> bool:
        tabs = [bought.tab for bought in self._jobs.values()]
        if any(tab.finish is not None and tab.last.n > self.signed.n for tab in tabs):
            return True
        return self.unsigned >= min((tab.terms.step for tab in tabs if tab.finish is None), default=1)

    def signed_for(self, position: Position) -> None:
        """The receipt over what `due` returned is signed and journalled.

        Raises:
            InvalidInput: it is not what `due` returned last, or does not go up.
        """
        if self._asked is None or self._asked[0] != position or position.cumulative <= self.signed.cumulative:
            raise InvalidInput("sign what `due` returned, once")
        self.signed, self._signed_weight = self._asked
        self._asked = None

    def forget(self, job: bytes) -> None:
        """Drop a finished job; its amount stays due."""
        self._jobs.pop(job, None)

    # --- inside -----------------------------------------------------------------------------------

    def _bought(self, job: bytes) -> _Bought:
        bought = self._jobs.get(job)
        if bought is None:
            raise RemoteError("a chunk or an answer for a job that we did not award on this Lock")
        return bought

    def _drop_waiting(self, chunk: Chunk) -> None:
        if self._waiting.pop(chunk.n, None) is not None:
            self._waiting_bytes -= len(chunk.data)

    def _check(self, chunk: Chunk, now_ms: int) -> None:
        """Refuse before anything changes."""
        bought = self._bought(chunk.job)
        tab = bought.tab
        if tab.finish is not None:
            raise RemoteError(f"the job went on after its end ({tab.finish.decode()})")
        if chunk.start != tab.units:
            raise RemoteError(f"a chunk begins at unit {chunk.start}, but {tab.units} units came before it")
        counted = count_units(chunk, tab.unit)
        if chunk.units != counted:
            raise Overcharged(f"a chunk says {chunk.units} units, and has {counted}")
        if chunk.units > tab.left:
            raise Overcharged(f"{tab.units + chunk.units} units where at most {tab.terms.limit} were agreed")
        if tab.weight + weight(chunk.units) > bought.taken + tab.terms.step:
            raise Overcharged(f"more than a step of {tab.terms.step} units ahead of the reader")
        if tab.unit == "second":
            elapsed_s = (now_ms - bought.started_ms) // 1000 + TIME_SLACK_S
            if tab.units + chunk.units > elapsed_s:
                raise Overcharged(f"{tab.units + chunk.units} seconds billed after {elapsed_s}")
        after = tab.terms.price.after(tab.units + chunk.units, tab.terms.input_units)
        if after > tab.terms.budget or self._due - tab.amount + after > self.deposit:
            raise Overcharged(f"{after} uain for this job is above its budget or the Lock's deposit")

    def _count(self, chunk: Chunk) -> None:
        bought = self._bought(chunk.job)
        tab, before = bought.tab, bought.tab.amount
        self._chain.append(chunk)
        if tab.unit == "token":
            for id_ in unpack_tokens(chunk.tokens):
                if tab.observe(id_):
                    break
        tab.add(chunk.units)
        self._due += tab.amount - before
        self._units += chunk.units
        self._weight += weight(chunk.units)
        tab.last = self.position
        if self._due <= self.signed.cumulative:
            self._signed_weight = self._weight
        if bought.finished is not None:
            self._close(bought)

    def _close(self, bought: _Bought) -> bool:
        message, tab = bought.finished, bought.tab
        assert message is not None  # callers set it
        if message.n > self._chain.n:
            return False
        if message.amount > tab.amount or message.units > tab.units:
            raise Overcharged(
                f"the seller claims {message.amount} uain for {message.units} units,"
                f" we counted {tab.amount} uain for {tab.units}"
            )
        if (message.units, message.amount) != (tab.units, tab.amount) or message.finish not in FINISHES:
            raise RemoteError("the seller's last word contradicts what it delivered")
        rebuilt = tab.units > 0 and not tab.last.n  # all of it came before a restart: nothing to compare
        last = tab.last if tab.last.n else Position.start(self.lock)
        if not rebuilt and (message.n, message.context) != (last.n, last.context):
            raise RemoteError("the seller's last word names other chunks than it delivered")
        if (message.finish == LOOP) != (tab.finish == LOOP):
            raise RemoteError("seller and buyer disagree on whether the answer loops")
        tab.finish = message.finish
        return True


def count_units(chunk: Chunk, unit: str) -> int:
    """How many units of a price a chunk has, whatever it says itself.

    Raises:
        Malformed: its parts do not fit one another or the price.
        Overcharged: it bills tokens that are not there.
    """
    if chunk.kind not in (TOKENS, TEXT, JSON, BYTES, TIME):
        raise Malformed(f"no kind of chunk has the number {chunk.kind}")
    ids = len(unpack_tokens(chunk.tokens))
    if chunk.logprobs and len(chunk.logprobs) != 2 * ids:
        raise Malformed("a chunk has as many log-probabilities as token ids, or none")
    if (chunk.kind == TOKENS) != (ids > 0):
        raise Malformed("a chunk of tokens has token ids, and no other has")
    if unit == "token":
        if not ids:
            raise Overcharged("under a price per token only tokens can be delivered")
        if len(chunk.data) > ids * TEXT_PER_TOKEN_MAX:
            raise Malformed(f"{len(chunk.data)} bytes of text are too much for {ids} tokens")
        return ids
    if chunk.kind == TIME and unit != "second":
        raise Malformed("only a price per second has chunks of time")
    return chunk.units if unit == "second" else 1
