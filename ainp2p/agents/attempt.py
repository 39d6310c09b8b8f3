"""One seller's part of a purchase, from the award to the seller's last word.

award ─▶ Accepted ─▶ chunks and receipts … ─▶ Finished
           │  connection lost: resume, for a while, with the same seller
           ├── it stalls, vanishes, cheats or fails: an error, and what came is paid and kept
           └── its reader rejects what it delivers: an error, and nothing more is signed
"""

from __future__ import annotations

from typing import Protocol

import trio

from ainp2p.agents.bargaining import Deal
from ainp2p.agents.deposit import Deposit
from ainp2p.agents.job import Leg
from ainp2p.errors import (
    Error,
    Malformed,
    NetworkError,
    Overcharged,
    Refused,
    Rejected,
    RemoteError,
    TimedOut,
    Unreachable,
)
from ainp2p.ledger.rules.receipts import read_receipt
from ainp2p.protocol import canonical_json
from ainp2p.protocol.codec import encode
from ainp2p.protocol.delivery import FAILED, Terms, weight
from ainp2p.protocol.messages import (
    JSON,
    PROTOCOL,
    PURPOSE,
    TEXT,
    TOKENS,
    Accepted,
    Award,
    Cancel,
    Chunk,
    Finished,
    Refusal,
    Resume,
    Signed,
    Signer,
    decode_wire,
    open_market,
    seal,
)
from ainp2p.protocol.network import Chunks, Network
from ainp2p.protocol.strategies import KNOWN

STALL_TIMEOUT_S = 30.0  # without a chunk, while the reader has read everything
UNASKED_TIMEOUT_S = 5.0  # for the answer to an award without a call, unless its price has it read first
DOUBT_S = 3.0  # of silence, after which the seller is told again what it should know
RESUME_TIMEOUT_S = 10.0  # how long a seller is looked for after a disconnect without a chunk since
RESUME_ELSEWHERE_S = 1.5  # the same, when another one was asked as well and may go on
RESUME_PAUSE_S = 0.25
STREAM_TIMEOUT_S = 3600.0  # stalls are noticed here, with an eye on the reader
REASON_SIZE_MAX = 1024  # bytes of a reader's words that a seller is told
SEND_TIMEOUT_S = 1.0  # for the last receipt of a part that failed


class Reader(Protocol):
    """Where the chunks go."""

    @property
    def unread(self) -> int:
        """Pieces that have come and were not read."""

    def deliver(self, chunk: Chunk) -> None:
        """The next one."""


class Attempt:
    """Work on one award.

    Attributes:
        award: the signed award; its id is the job's id at this seller.
        is_clean: nothing that the seller sent on the Lock can be missing: it refused, or said its last word.
        rejected: why its reader rejected what it delivered; None: that has not happened.
        stopped: what `run` raises since it was stopped; None: it was not.
    """

    def __init__(
        self,
        network: Network,
        signer: Signer,
        deal: Deal,
        deposit: Deposit,
        award: Signed,
        *,
        reservation: bytes,
        reader: Reader,
        resume_s: float = RESUME_TIMEOUT_S,
    ) -> None:
        self._patience_s = min(RESUME_ELSEWHERE_S, resume_s) if len(deal.asked) > 1 else resume_s
        self.deal, self.deposit, self.award, self.is_clean = deal, deposit, award, False
        self._network, self._signer, self._reader = network, signer, reader
        self._reservation = reservation
        self._opened_at: float | None = None
        self._opened = trio.Event()
        self._give_up_at: float | None = None  # set by a disconnect, cleared by a chunk
        self._said: list[Signed] = []  # after the negotiation
        self._bill: tuple[int, int] | None = None  # once it is closed
        self.rejected: str | None = None
        self._following = trio.CancelScope()
        self.stopped: RemoteError | None = None

    @property
    def seller(self) -> str:
        """What the seller calls itself."""
        return self.deal.name

    @property
    def opened_at(self) -> float | None:
        """trio's time when the seller accepted; None before that."""
        return self._opened_at

    @property
    def units(self) -> int:
        """Delivered so far."""
        return self._bill[0] if self._bill else self.deposit.units(self.award.id)

    @property
    def amount(self) -> int:
        """uain signed so far."""
        return self._bill[1] if self._bill else self.deposit.signed(self.award.id)

    async def run(self) -> bytes:
        """Award, read to the end and pay; returns why the job ended.

        Raises:
            NetworkError, RemoteError: another seller may go on; `Refused` with its code if it said no.
        """
        with self._following:
            finish = await self._follow()
            if self.stopped is None:
                return finish
        assert self.stopped is not None  # only `stop` cancels it
        raise self.stopped

    def stop(self, why: RemoteError) -> None:
        """Have `run` raise this; `close` then pays for what came, unless it was `reject`ed."""
        self.stopped = why
        self._following.cancel()

    def reject(self, reason: str) -> None:
        """What it delivered is no good: nothing more is signed, and `run` ends."""
        self.rejected = reason
        self.stop(Rejected(reason))

    async def cancel(self) -> None:
        """Ask the seller to finish, as soon as it has accepted.

        Raises:
            NetworkError: it cannot be told.
        """
        await self._opened.wait()
        await self._send_cancel()

    async def _send_cancel(self) -> None:
        reason = b"" if self.rejected is None else (self.rejected or "rejected").encode(errors="replace")
        cancel = seal(self._signer, PURPOSE, Cancel(self.award.id, reason[:REASON_SIZE_MAX]))
        self._said.append(cancel)
        await self._network.send(self.deal.peer, PROTOCOL, encode(cancel))

    def taken(self, chunk: Chunk) -> None:
        """The reader took a chunk, of this or an earlier part."""
        if self.deposit.taken(chunk.job, weight(chunk.units)):
            self.deposit.tell_soon()  # how far the reader is

    async def close(self, failure: str, *, continued: bool) -> Leg:
        """Sign for what came, tell the seller if that goes quickly, and make out the bill."""
        transcript = (*self.deal.negotiation.transcript(self.deal.key), *self._said)
        units, amount = self._bill = self.deposit.close_job(self.award.id, pay=self.rejected is None)
        if not self.is_clean:
            self.deposit.spoil()
        last = self.deposit.last_receipt if amount else None
        elapsed_s = trio.current_time() - self._opened_at if self._opened_at is not None else 0
        if (not self.is_clean or self.deposit.has_news) and self.deal.peer in self._network.peers():
            with trio.CancelScope(shield=True, deadline=trio.current_time() + SEND_TIMEOUT_S):
                await self._take_leave()
        self.deposit.job_ended()
        leg = Leg(
            seller=self.deal.seller,
            name=self.deal.name,
            units=units,
            amount=amount,
            price=str(self.deal.bid.price),
            lock=self.deposit.lock.id,
            failure=failure,
            receipt=read_receipt(last.body) if last is not None else None,
            transcript=transcript,
            continued=continued,
            elapsed_ms=round(elapsed_s * 1000),
        )
        return leg if self.rejected is None else leg.as_rejected(self.rejected)

    async def _take_leave(self) -> None:
        """Pay, and free the seller's slot if the job did not end by itself."""
        try:
            await self.deposit.tell()
            if not self.is_clean:
                await self._send_cancel()
        except Error:
            return  # the vault keeps the receipt, and the seller forgets the job

    # --- the stream --------------------------------------------------------------------------------

    async def _follow(self) -> bytes:
        """Read the award's stream to its end, over as many connections as it takes."""
        body = encode(self.award)
        while True:
            try:
                async with self._network.stream(
                    self.deal.peer, PROTOCOL, body, timeout_s=STREAM_TIMEOUT_S
                ) as chunks:
                    if self._opened_at is None:
                        await self._first(chunks)
                    else:
                        await self.deposit.resend()
                    return await self._read(chunks)
            except NetworkError as exc:
                if self._opened_at is None:
                    self.is_clean = isinstance(exc, Unreachable)  # then the award was never sent
                    raise
                if isinstance(exc, TimedOut):
                    raise
                now = trio.current_time()
                self._give_up_at = self._give_up_at or now + self._patience_s
                if now >= self._give_up_at:
                    raise
            await trio.sleep(RESUME_PAUSE_S)
            body = encode(self._resume())

    def _resume(self) -> Signed:
        from_n, from_unit = self.deposit.meter.resume_point(self.award.id)
        last = self.deposit.last_receipt
        receipt = encode(last) if last is not None else b""
        message = Resume(self.award.id, from_n, from_unit, receipt, self.deposit.last_signed.n)
        signed = seal(self._signer, PURPOSE, message)
        self._said.append(signed)
        return signed

    async def _first(self, chunks: Chunks) -> None:
        """The answer to the award.

        Raises:
            Refused: the seller said no.
        """
        signed = decode_wire(await self._next(chunks))
        if not isinstance(signed, Signed):
            raise Malformed("the answer to an award is signed")
        message = self.deal.negotiation.accepted(signed, self.deal.key)
        if isinstance(message, Refusal):
            # A known award is worked on, for a stream that we do not read: its chunks on our Lock are lost.
            self.is_clean = message.code != KNOWN.encode()
            raise refused(message)
        terms = self._terms(message)
        self.deposit.open_job(terms, self._reservation, self._reader.deliver)
        self._opened_at = trio.current_time()
        self._opened.set()

    def _terms(self, accepted: Accepted) -> Terms:
        proposal, price = self.deal.bid.proposal, self.deal.bid.price
        award = open_market(self.award)
        assert isinstance(award, Award)  # ours
        if price.after(1, accepted.input_units) > award.budget:
            raise Overcharged(f"{accepted.input_units} prompt ids alone cost more than the budget")
        window = max(proposal.step, proposal.window)
        job, budget, units_max = self.award.id, award.budget, award.units_max
        return Terms(job, price, budget, units_max, proposal.step, window, accepted.input_units)

    async def _read(self, chunks: Chunks) -> bytes:
        while True:
            raw = await self._next(chunks)
            message = decode_wire(raw)
            if isinstance(message, Chunk):
                _check_content(message)
                await self.deposit.receive(message)
                self._give_up_at = None
                continue
            word = self._open(message)
            if isinstance(word, Refusal):
                raise refused(word)
            if not isinstance(word, Finished) or word.job != self.award.id:
                raise Malformed("a seller sends chunks, and at the end Finished")
            await self.deposit.finished(word)
            self.is_clean = True
            if word.finish == FAILED:
                raise Refused("failed", word.reason.decode(errors="replace"))
            return word.finish

    async def _next(self, chunks: Chunks) -> bytes:
        silent_since = trio.current_time()
        while True:
            try:
                if (chunk := await chunks.within(DOUBT_S)) is not None:
                    return chunk
            except StopAsyncIteration:
                raise Malformed("the seller ended the stream without its last word") from None
            if self._reader.unread:  # the reader stopped reading, and the seller rightly with it
                silent_since = trio.current_time()
            elif trio.current_time() >= silent_since + self._stall_s():
                raise TimedOut(f"the seller sent nothing for {self._stall_s():g} s")
            elif self._opened_at is not None:
                self.deposit.check()
                await self.deposit.resend()  # it may wait for a notice that went with another connection

    def _stall_s(self) -> float:
        unasked = self._opened_at is None and self.deal.bid.signed is None
        return UNASKED_TIMEOUT_S if unasked and not self.deal.bid.price.input else STALL_TIMEOUT_S

    def _open(self, signed: object) -> object:
        if not isinstance(signed, Signed) or signed.key != self.deal.key:
            raise Malformed("expected a message signed by the seller")
        message = open_market(signed)
        self._said.append(signed)
        return message


def refused(refusal: Refusal) -> Refused:
    """A seller's signed no, as an exception."""
    return Refused(refusal.code.decode(errors="replace"), refusal.reason.decode(errors="replace"))


def _check_content(chunk: Chunk) -> None:
    """Refuse what no reader could be given, before it is counted and paid."""
    if chunk.kind in (TEXT, TOKENS):
        try:
            chunk.data.decode()
        except UnicodeDecodeError as exc:
            raise Malformed("a chunk of text is not UTF-8") from exc
    elif chunk.kind == JSON:
        canonical_json.decode(chunk.data)
