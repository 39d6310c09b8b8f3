"""The selling side of an agent: answers ``/ainp2p/market/1``.

    call, counter, decline ─▶ the contract net's core
    award   ─▶ input and Lock checked ─▶ Accepted, chunks …, Finished
    receipt ─▶ booked, durable ─▶ the till's waiters go on
    resume  ─▶ what may be lost again, then on; a job without a stream is kept for KEEP_S

Whatever a buyer sends ends in an answer or a refusal; nothing here raises out of its own call. All that
buyers can make us keep is bounded: proposals by OPEN_MAX, jobs under way by the slots, those that ended by
KEPT_MAX.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial

import trio

from ainp2p.agents.models.model import Model
from ainp2p.agents.sale import Sale
from ainp2p.agents.skill import Skill
from ainp2p.agents.tills import Tills
from ainp2p.agents.waiting import Bell
from ainp2p.agents.work import new_work
from ainp2p.errors import (
    Error,
    InvalidInput,
    LedgerError,
    NetworkError,
    Refused,
    RemoteError,
    StorageError,
)
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.wallets.wallet import Wallet
from ainp2p.protocol.background import background
from ainp2p.protocol.card import SkillCard
from ainp2p.protocol.codec import encode
from ainp2p.protocol.crew import Crew
from ainp2p.protocol.delivery import CANCELED, FAILED, STEP, WINDOW, Terms
from ainp2p.protocol.identity import public_from_peer_id
from ainp2p.protocol.messages import (
    PROTOCOL,
    PURPOSE,
    Award,
    CallForProposals,
    Cancel,
    CounterProposal,
    Decline,
    ReceiptNotice,
    Resume,
    Signed,
    Signer,
    Status,
    StatusRequest,
    decode_wire,
    open_market,
    seal,
    unpack_tokens,
)
from ainp2p.protocol.negotiation import Deal, Listing
from ainp2p.protocol.negotiation import Seller as Negotiation
from ainp2p.protocol.network import Call, Network
from ainp2p.protocol.strategies import BUSY, Answering, Pricing, hold_price, list_price

log = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 2.0  # for buyers to learn that we stop, and to pay what they have
KEEP_S = 30.0  # a job without a stream is kept so long, for its buyer to resume,
FORGET_S = 3.0  # and up to so much longer, to forget many at once
KEPT_MAX = 256  # such jobs; of those that have ended the oldest are forgotten sooner


class Seller:
    """What one agent sells; `open_seller` makes it."""

    def __init__(
        self,
        network: Network,
        genesis: Genesis,
        signer: Signer,
        wallet: Wallet,
        skills: Sequence[Skill],
        models: Sequence[Model],
        nursery: trio.Nursery,
        *,
        slots: int,
        pricing: Pricing = list_price,
        answering: Answering = hold_price,
    ) -> None:
        self.skills = {skill.name.encode(): skill for skill in skills}
        self.models = tuple(models)
        self._network, self._wallet, self._signer, self._crew = network, wallet, signer, Crew(nursery)
        self._tills = Tills(wallet, signer.public)
        self._negotiation = Negotiation(
            signer,
            network=genesis.network_id,
            agent=wallet.account_id,
            slots=slots,
            pricing=pricing,
            answering=answering,
        )
        self._sales: dict[bytes, Sale] = {}
        self._idle: dict[bytes, Sale] = {}  # without a stream, the longest so first
        self._closing = self._closed = self._forgetting = False
        self._moved = Bell()  # a receipt came, or a stream ended
        self.refresh_listings()

    @property
    def slots(self) -> int:
        """Jobs worked on at once."""
        return self._negotiation.slots

    @property
    def free(self) -> int:
        """Slots that are free now."""
        return self._negotiation.free

    def refresh_listings(self) -> dict[bytes, Listing]:
        """What is offered now, with the newest measured speed; the card says the same."""
        text = next((model for model in self.models if model.info.kind == "text"), None)
        measured = text.statistics().tokens_per_second if text is not None else None
        self._negotiation.listings = {
            name: Listing(
                skill.price,
                WINDOW,
                STEP,
                speed=int(measured * 1000) if measured and skill.unit == "token" else 0,
                model=self._model_of(skill),
            )
            for name, skill in self.skills.items()
        }
        return dict(self._negotiation.listings)

    def cards(self) -> tuple[SkillCard, ...]:
        """The skills as the card shows them now."""
        listings = self.refresh_listings()
        return tuple(
            SkillCard(
                name=name,
                description=skill.description.encode(),
                input_schema=skill.input_schema,
                output_schema=b"true",
                price=skill.price.wire(),
                model=listings[name].model,
                speed=listings[name].speed,
                free=self.free,
                slots=self.slots,
                window=WINDOW,
                step=STEP,
            )
            for name, skill in self.skills.items()
        )

    def _model_of(self, skill: Skill) -> bytes | None:
        wanted = "text" if skill.unit == "token" or len(self.models) == 1 else None
        found = next((m for m in self.models if wanted in (None, m.info.kind)), None)
        return found.info.hash if found is not None else None

    # --- the protocol ------------------------------------------------------------------------------

    async def handle(self, call: Call) -> bytes | None:
        """Answer one call of a buyer."""
        if self._closed:
            raise Refused("closed", "this seller has closed")
        try:
            message = decode_wire(call.body)
            if isinstance(message, Signed):
                return await self._handle_signed(call, message)
            if isinstance(message, ReceiptNotice):
                await self._take_notice(call, message)
                return None
            if isinstance(message, StatusRequest):
                return encode(self._status(call, message))
        except Refused:
            raise
        except (RemoteError, LedgerError) as exc:
            raise Refused("invalid", str(exc)) from exc
        except StorageError as exc:
            self._stop_selling(exc)
            raise Refused("internal", "this seller cannot write its receipts down") from exc
        raise Refused("invalid", f"a {type(message).__name__} is nothing that a seller answers")

    async def _handle_signed(self, call: Call, signed: Signed) -> bytes | None:
        key = public_from_peer_id(call.peer)
        if signed.key != key:
            raise Refused("invalid", "a message signed by another key than that of the peer that brings it")
        match open_market(signed):
            case CallForProposals() | CounterProposal() | Decline():
                answer = self._negotiation.handle(signed, key, self._now_ms())
                return encode(answer) if answer is not None else None
            case Award():
                await self._begin(call, signed, key)
            case Cancel(job=job, reason=reason):
                sale = self._sale(job, key)
                if reason:  # the buyer rejects what it got, and does not pay for the last of it
                    self._tills.distrust(sale.till)
                sale.cancel()
                if sale.finished is not None:
                    self._negotiation.release(job)
            case Resume() as resume:
                await self._resume(call, resume, key)
            case other:
                raise Refused("invalid", f"a {type(other).__name__} is nothing that a seller answers")
        return None

    def _now_ms(self) -> int:
        return self._network.context.now_ms()

    # --- a job -------------------------------------------------------------------------------------

    async def _begin(self, call: Call, signed: Signed, key: bytes) -> None:
        if self._closing:
            await call.send(encode(self._negotiation.refusal(signed, BUSY, "this seller is closing")))
            return
        deal = self._negotiation.award(signed, key, self._now_ms())
        if isinstance(deal, Signed):
            await call.send(encode(deal))
            return
        try:
            sale = await self._open_sale(deal)
        except Error as exc:
            self._negotiation.release(deal.job)
            await call.send(encode(self._negotiation.refusal(signed, _code(exc), str(exc))))
            return
        except BaseException:
            self._negotiation.release(deal.job)
            raise
        try:
            accepted = await self._accept(deal, sale)
        except BaseException:
            self._forget(sale)  # the buyer was promised nothing, and does not resume it
            raise
        await self._deliver(call, sale, accepted)

    async def _open_sale(self, deal: Deal) -> Sale:
        award = deal.award
        skill = self.skills[award.skill]
        arguments = skill.read_input(award.input)
        work = new_work(
            self.models,
            job=deal.job,
            buyer=award.buyer,
            units_max=award.units_max if skill.unit == "token" else None,
            seed=award.seed,
            prefix=award.prefix.decode(errors="replace"),
            prefix_tokens=unpack_tokens(award.prefix_tokens),
        )
        till = await self._tills.open(deal)
        try:
            if self._closing:
                raise Refused(BUSY, "this seller is closing")
            self._negotiation.begin(deal.job)
        except Refused:
            till.jobs.discard(deal.job)
            raise
        sale = Sale(deal.job, deal.buyer_key, till, work, partial(skill.run, input_=arguments))
        self._sales[deal.job] = sale
        self._crew.start(sale.produce)
        return sale

    async def _accept(self, deal: Deal, sale: Sale) -> Signed:
        input_units = await sale.begin() if deal.price.input else 0
        award, meter = deal.award, sale.till.meter
        meter.open_job(
            Terms(deal.job, deal.price, award.budget, award.units_max, award.step, award.window, input_units)
        )
        sale.accepted()
        return self._negotiation.accepted(deal, input_units=input_units, window=meter.window)

    async def _resume(self, call: Call, resume: Resume, key: bytes) -> None:
        sale = self._sale(resume.job, key)
        if resume.receipt:
            notice = ReceiptNotice(sale.till.meter.lock, resume.receipt, ())
            with suppress(RemoteError, LedgerError):  # older than what we hold
                await self._tills.book(notice)
        await self._deliver(call, sale, None, resume.from_n)

    async def _deliver(
        self, call: Call, sale: Sale, accepted: Signed | None, from_n: int | None = None
    ) -> None:
        """Send a job's chunks in this stream to its end; the stream may go, and the job be resumed."""
        self._idle.pop(sale.job, None)
        try:
            if accepted is not None:
                await call.send(encode(accepted))
            finished = await sale.deliver(lambda chunk: call.send(encode(chunk)), from_n)
            self._negotiation.release(sale.job)
            if sale.unpaid:
                self._tills.distrust(sale.till)
            await call.send(encode(seal(self._signer, PURPOSE, finished)))
        finally:
            self._rest(sale)
            self._moved.ring()

    def _sale(self, job: bytes, key: bytes) -> Sale:
        """A job that this key has awarded.

        Raises:
            Refused: there is none.
        """
        sale = self._sales.get(job)
        if sale is None or sale.buyer != key:
            raise Refused("no-such-job", "it was never awarded here, or has been forgotten")
        return sale

    # --- jobs without a stream ---------------------------------------------------------------------

    def _rest(self, sale: Sale) -> None:
        """A stream of this job is over; unless there is another one, its buyer has a while to resume it."""
        if sale.job not in self._sales or sale.streams:
            return
        self._idle.pop(sale.job, None)
        self._idle[sale.job] = sale
        if not self._forgetting:
            self._forgetting = True
            self._crew.start(self._forget_idle)
        if len(self._idle) > KEPT_MAX:
            oldest = next((sale for sale in self._idle.values() if sale.finished is not None), None)
            if oldest is not None:  # those that have not ended hold a slot, and so are few
                self._forget(oldest)

    async def _forget_idle(self) -> None:
        """Stop and forget jobs that nobody resumes, until there are no more."""
        while self._idle:
            sale = next(iter(self._idle.values()))
            forgotten_at = sale.idle_since + KEEP_S
            if trio.current_time() >= forgotten_at:
                self._forget(sale)
            else:
                await trio.sleep_until(forgotten_at + FORGET_S)
        self._forgetting = False

    def _forget(self, sale: Sale) -> None:
        """Stop a job and free all that it held; a repeat is no error."""
        if self._sales.pop(sale.job, None) is None:
            return
        self._idle.pop(sale.job, None)
        sale.stop()
        self._negotiation.release(sale.job)
        sale.till.jobs.discard(sale.job)
        if sale.finished is None and sale.till.meter.unpaid:
            self._tills.distrust(sale.till)
        with suppress(Refused):  # it was never begun
            sale.till.meter.finish(sale.job, CANCELED)
            sale.till.meter.forget(sale.job)
        self._moved.ring()

    def _stop_selling(self, failure: StorageError) -> None:
        """A receipt that may not survive a crash pays for nothing: take no more work."""
        if not self._closing:
            log.error("nothing more is sold: %s", failure)
        self._closing = True

    async def close(self) -> None:
        """Stop all work, say so to those who wait for it, and take what they still pay."""
        self._closing = True
        for sale in self._sales.values():
            sale.stop_producing()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_TIMEOUT_S):
            while any(sale.streams for sale in self._sales.values()) or self._tills.unpaid:
                await self._moved.wait()
        self._closed = True

    def _status(self, call: Call, request: StatusRequest) -> Status:
        sale = self._sale(request.job, public_from_peer_id(call.peer))
        meter = sale.till.meter
        tab, paid = meter.tab(sale.job), meter.paid
        state = {None: b"working", FAILED: b"failed", CANCELED: b"canceled"}.get(tab.finish, b"completed")
        return Status(sale.job, state, tab.units, tab.amount, meter.position.n, paid.n, paid.cumulative)

    # --- being paid --------------------------------------------------------------------------------

    async def _take_notice(self, call: Call, notice: ReceiptNotice) -> None:
        """A receipt, and how far the readers are; either counts whatever becomes of the other."""
        till, key = self._tills.till(notice.lock), public_from_peer_id(call.peer)
        try:
            for taken in notice.taken:
                sale = self._sales.get(taken.job)
                if sale is not None and sale.buyer == key and sale.till is till:
                    till.meter.taken(taken.job, taken.weight)
        finally:
            till.notify()
            if notice.receipt:
                await self._tills.book(notice)
                self._negotiation.has_paid(key)
            self._moved.ring()


def _code(failure: Error) -> str:
    """Why an award is refused, in a word."""
    match failure:
        case Refused():
            return failure.code
        case LedgerError():
            return "lock"
        case NetworkError():
            return BUSY  # the ledger does not answer
        case InvalidInput() | RemoteError():
            return "input"
    return "internal"


@asynccontextmanager
async def open_seller(
    network: Network,
    genesis: Genesis,
    signer: Signer,
    wallet: Wallet,
    skills: Sequence[Skill],
    models: Sequence[Model],
    *,
    slots: int,
    pricing: Pricing = list_price,
    answering: Answering = hold_price,
) -> AsyncIterator[Seller]:
    """Sell `skills` until the block ends; jobs under way then end, unfinished."""
    async with background() as nursery:
        seller = Seller(
            network, genesis, signer, wallet, skills, models, nursery,
            slots=slots, pricing=pricing, answering=answering,
        )  # fmt: skip
        network.serve(PROTOCOL, seller.handle)
        try:
            yield seller
        finally:
            await seller.close()
