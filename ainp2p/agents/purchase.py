"""Work on one `Job` from the buyer's side: bargain, award, follow the stream, pay, go elsewhere if need be.

bargain ─▶ deposit ─▶ reserve ─▶ award ─▶ chunks and receipts ─▶ finished
   ▲                               │  connection lost: resume with the same seller
   └── the seller failed or cheated: what was delivered goes to the next one as prefix
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import trio

from ainp2p.agents.bargaining import Deal, decline_others
from ainp2p.agents.deposit import Deposit
from ainp2p.agents.job import Job, Leg
from ainp2p.agents.vault import Vault
from ainp2p.errors import Broken, Error, Malformed, NetworkError, Refused, RemoteError, TimedOut
from ainp2p.ledger.receipts import read_receipt
from ainp2p.protocol.codec import encode
from ainp2p.protocol.delivery import BUDGET, CANCELED, Terms, weight
from ainp2p.protocol.identity import digest
from ainp2p.protocol.messages import (
    PROTOCOL,
    PURPOSE,
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
    pack_tokens,
    seal,
    unpack_tokens,
)
from ainp2p.protocol.network import Network

ACCEPT_TIMEOUT_MS = 10_000
STALL_TIMEOUT_S = 30.0  # without a chunk, while the reader has read everything
RESUME_TIMEOUT_S = 10.0  # how long a seller is looked for after a disconnect
RESUME_ELSEWHERE_S = 1.5  # the same, when another one was asked as well and may go on
RESUME_PAUSE_S = 0.25
LEAVE_TIMEOUT_S = 3.0  # for the seller's last word when the buyer leaves early
STREAM_TIMEOUT_S = 3600.0  # stalls are noticed here, with an eye on the reader


@dataclass(slots=True)
class Order:
    """What is bought, whoever delivers it."""

    skill: str
    input: bytes  # canonical JSON
    agent: bytes  # our agent id
    seed: bytes = b""
    text: list[str] = field(default_factory=list)  # delivered so far
    tokens: list[int] = field(default_factory=list)


Bargain = Callable[[int, frozenset[bytes]], Awaitable[Deal]]
"""(uain left, sellers that failed) → the best deal; raises NoOffers when nobody is left."""
OpenDeposit = Callable[[Deal, int], Awaitable[Deposit]]


class Purchase:
    """One job being bought; `run` is the agent's own task, so the reader may be cancelled at any await."""

    def __init__(
        self,
        job: Job,
        order: Order,
        *,
        network: Network,
        vault: Vault,
        signer: Signer,
        open_deposit: OpenDeposit,
    ) -> None:
        self.job, self.order = job, order
        self._network, self._vault, self._signer, self._open_deposit = network, vault, signer, open_deposit
        self._scope = trio.CancelScope()
        self._leaving = False
        self._model: bytes | None = None  # of the last seller: token ids mean the same only for one model
        self._lock_refused = False
        self._progress = trio.Event()
        self._current: tuple[Deposit, Deal, Signed] | None = None
        job.on_taken = self._on_taken

    async def run(self, bargain: Bargain) -> None:
        """Buy until the task is done, the budget is used, or nobody is left; ends the job in any case."""
        failed: set[bytes] = set()
        failure: Error | None = None
        finish: bytes | None = None
        try:
            with self._scope:
                while finish is None:
                    left = self.job.budget - self.job.paid
                    if left <= 0:
                        finish = BUDGET
                        break
                    try:
                        deal = await bargain(left, frozenset(failed))
                    except NetworkError as exc:
                        failure = self._last_failure(exc)
                        break
                    finish = await self._leg(deal, left)
                    if not self._lock_refused:  # then the next leg opens another Lock there
                        failed.add(deal.seller)
        except Error as exc:
            failure = exc
        finally:
            if self._leaving and failure is None:
                finish = finish or CANCELED
            self._progress.set()
            self.job.end(finish.decode() if finish else None, failure if finish is None else None)

    async def leave(self) -> None:
        """The reader wants no more: what was delivered is paid, the rest is cancelled."""
        if self.job.ended.is_set():
            return
        self._leaving = True
        with trio.CancelScope(shield=True):
            with trio.move_on_after(LEAVE_TIMEOUT_S):
                await self._send_cancel()
                await self.job.ended.wait()
            self._scope.cancel()
            await self.job.ended.wait()

    async def _send_cancel(self) -> None:
        if self._current is None:
            self._scope.cancel()
            return
        deposit, _, award = self._current
        cancel = seal(self._signer, PURPOSE, Cancel(award.id, b""))
        try:
            await self._network.send(deposit.seller, PROTOCOL, encode(cancel))
        except NetworkError:
            self._scope.cancel()

    # --- one seller --------------------------------------------------------------------------------

    async def _leg(self, deal: Deal, left: int) -> bytes | None:
        """One seller's part; None: it failed, and another may go on."""
        deposit = await self._open_deposit(deal, left)
        award = deal.negotiation.award(
            deal.bid,
            self._network.context.now_ms(),
            lock=deposit.lock.id,
            budget=left,
            prefix="".join(self.order.text),
            prefix_tokens=pack_tokens(self.order.tokens if deal.model == self._model else []),
            seed=self.order.seed,
        )
        self._model = deal.model
        await decline_others(self._network, deal)
        await self._vault.reserve(award.id, deal.seller, left, self._what())
        self._current = (deposit, deal, award)
        self.job.seller, self.job.awarded_at = deal.name, trio.current_time()
        failure, self._lock_refused = "", False
        transcript = list(deal.negotiation.transcript(deal.key))  # ends with the award
        try:
            return await self._follow(deal, deposit, award, transcript)
        except (NetworkError, RemoteError) as exc:
            failure = str(exc)
            self._lock_refused = isinstance(exc, Refused) and exc.code == "lock" and not deposit.is_new
            deposit.spoilt |= self._lock_refused or not isinstance(exc, NetworkError | Refused)
            return None
        finally:
            self._current = None
            self._close_leg(deal, deposit, award, failure, transcript)

    async def _follow(self, deal: Deal, deposit: Deposit, award: Signed, transcript: list[Signed]) -> bytes:
        """Read the award's stream to its end, over as many connections as it takes."""
        patience_s = RESUME_ELSEWHERE_S if len(deal.asked) > 1 else RESUME_TIMEOUT_S
        body, deadline = encode(award), trio.current_time() + patience_s
        opened = False
        while True:
            try:
                async with self._network.stream(
                    deal.peer, PROTOCOL, body, timeout_s=STREAM_TIMEOUT_S
                ) as chunks:
                    if not opened:
                        self._begin(deal, deposit, award, await self._first(chunks, deal, transcript))
                        opened = True
                    finish = await self._read(chunks, deal, deposit, award.id, transcript)
                    return finish
            except (Broken, NetworkError) as exc:
                if isinstance(exc, TimedOut) or not opened:
                    raise
                if isinstance(exc, Broken):
                    deadline = trio.current_time() + patience_s
                if trio.current_time() > deadline:
                    raise
                await trio.sleep(RESUME_PAUSE_S)
                resume = self._resume(deposit, award)
                transcript.append(resume)
                body = encode(resume)

    def _resume(self, deposit: Deposit, award: Signed) -> Signed:
        from_n, from_unit = deposit.meter.resume_point(award.id)
        last = self._vault.last_receipt(deposit.lock.id)
        receipt = encode(last) if last is not None else b""
        message = Resume(award.id, from_n, from_unit, receipt, deposit.last_signed.n)
        return seal(self._signer, PURPOSE, message)

    async def _first(self, chunks: AsyncIterator[bytes], deal: Deal, transcript: list[Signed]) -> Accepted:
        with trio.move_on_after(STALL_TIMEOUT_S):
            signed = decode_wire(await _next(chunks))
            if not isinstance(signed, Signed):
                raise Malformed("the answer to an award is signed")
            message = deal.negotiation.accepted(signed, deal.key)
            transcript.append(signed)
            if isinstance(message, Accepted):
                return message
            assert isinstance(message, Refusal)  # `accepted` allows nothing else
            raise Refused(message.code.decode(errors="replace"), message.reason.decode(errors="replace"))
        raise TimedOut(f"the seller did not begin within {STALL_TIMEOUT_S:g} s")

    def _begin(self, deal: Deal, deposit: Deposit, award: Signed, accepted: Accepted) -> None:
        proposal, price = deal.bid.proposal, deal.bid.price
        message = open_market(award)
        assert isinstance(message, Award)  # ours
        if price.fixed(accepted.input_units) > message.budget:
            raise Refused("budget", f"{accepted.input_units} prompt ids alone cost more than the budget")
        terms = Terms(
            award.id,
            price,
            message.budget,
            message.units_max,
            proposal.step,
            max(proposal.step, proposal.window),
            accepted.input_units,
        )
        deposit.open_job(terms, self._on_delivered)

    async def _read(
        self,
        chunks: AsyncIterator[bytes],
        deal: Deal,
        deposit: Deposit,
        job: bytes,
        transcript: list[Signed],
    ) -> bytes:
        while True:
            with trio.move_on_after(STALL_TIMEOUT_S) as stalled:
                raw = await _next(chunks)
            if stalled.cancelled_caught:
                if self.job.into.statistics().current_buffer_used:
                    continue  # the reader stopped reading, and the seller rightly stopped with it
                raise TimedOut(f"the seller sent nothing for {STALL_TIMEOUT_S:g} s")
            message = decode_wire(raw)
            if isinstance(message, Chunk):
                await deposit.receive(message)
                continue
            word = self._open(raw, deal, transcript)
            if isinstance(word, Refusal):
                raise Refused(word.code.decode(errors="replace"), word.reason.decode(errors="replace"))
            if not isinstance(word, Finished) or word.job != job:
                raise Malformed("a seller sends chunks, and at the end Finished")
            await deposit.finished(word)
            if word.finish == b"failed":
                raise Refused("failed", word.reason.decode(errors="replace"))
            return word.finish

    def _open(self, raw: bytes, deal: Deal, transcript: list[Signed]) -> object:
        signed = decode_wire(raw)
        if not isinstance(signed, Signed) or signed.key != deal.key:
            raise Malformed("expected a message signed by the seller")
        message = open_market(signed)
        transcript.append(signed)
        return message

    def _close_leg(
        self, deal: Deal, deposit: Deposit, award: Signed, failure: str, transcript: list[Signed]
    ) -> None:
        amount = deposit.signed(award.id)
        units = deposit.units(award.id)
        last = self._vault.last_receipt(deposit.lock.id) if amount else None
        self.job.legs.append(
            Leg(
                seller=deal.seller,
                name=deal.name,
                units=units,
                amount=amount,
                price=str(deal.bid.price),
                lock=deposit.lock.id,
                failure=failure,
                receipt=read_receipt(last.body) if last is not None else None,
                transcript=tuple(transcript),
            )
        )
        deposit.close_job(award.id)
        self._vault.settle(award.id, failed=bool(failure))

    # --- the reader --------------------------------------------------------------------------------

    def _on_delivered(self, chunk: Chunk) -> None:
        self.order.text.append(chunk.data.decode(errors="replace"))
        self.order.tokens.extend(unpack_tokens(chunk.tokens))
        self.job.into.send_nowait(chunk)

    def _on_taken(self, chunk: Chunk) -> None:
        if self._current is not None and self._current[0].taken(chunk.job, weight(chunk.units)):
            self._progress.set()

    async def tell_forever(self) -> None:
        """Tell sellers how far the reader is, until the job has ended; the other task of a purchase."""
        while not self.job.ended.is_set():
            await self._progress.wait()
            self._progress = trio.Event()
            if self._current is not None:
                with contextlib.suppress(NetworkError):  # the stream notices as well, and resumes
                    await self._current[0].tell()

    def _what(self) -> bytes:
        """A digest of exactly what is bought, for the breaker on repeated spending."""
        return digest(b"ainp2p/what/1", self.order.skill.encode(), b"\0", self.order.input)

    def _last_failure(self, none_left: NetworkError) -> Error:
        """Why nobody is left: the sellers' failures, if any."""
        if not self.job.legs:
            return none_left
        told = "; ".join(f"{leg.name}: {leg.failure}" for leg in self.job.legs)
        return type(none_left)(f"{none_left} (tried before: {told})")


async def _next(chunks: AsyncIterator[bytes]) -> bytes:
    try:
        return await anext(chunks)
    except StopAsyncIteration:
        raise Malformed("the seller ended the stream without its last word") from None
