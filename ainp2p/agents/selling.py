"""The selling side of an agent: answers ``/ainp2p/market/1``.

    call, counter, decline ─▶ the contract net's core
    award   ─▶ input and Lock checked ─▶ Accepted, chunks …, Finished
    receipt ─▶ booked, durable ─▶ the till's waiters go on
    resume  ─▶ what may be lost again, then on

Whatever a buyer sends ends in an answer or a refusal; nothing here raises out of its own call.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio

from ainp2p.agents.models.model import Model
from ainp2p.agents.sale import Sale, Till
from ainp2p.agents.skill import Skill
from ainp2p.agents.work import new_work
from ainp2p.errors import Error, InvalidInput, InvalidReceipt, LedgerError, Refused, RemoteError
from ainp2p.ledger.genesis import Genesis
from ainp2p.ledger.locks import Lock
from ainp2p.ledger.receipts import Receipt, SignedReceipt
from ainp2p.ledger.wallet import Wallet
from ainp2p.protocol.card import SkillCard
from ainp2p.protocol.codec import decode, encode
from ainp2p.protocol.delivery import STEP, WINDOW, Terms
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
from ainp2p.protocol.seller_meter import SellerMeter
from ainp2p.protocol.strategies import Answering, Pricing, hold_price, list_price

CLOSE_TIMEOUT_S = 2.0  # for buyers to learn that we stop, and to pay what they have
KEEP_S = 30.0  # a job without a stream is kept so long, for its buyer to resume


@dataclass(slots=True)
class _Lane:
    """One Lock's till, and the receipts that wait to become durable."""

    till: Till
    waiting: list[Receipt] = field(default_factory=list)
    saving: trio.Lock = field(default_factory=trio.Lock)


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
        self._network, self._wallet, self._signer, self._nursery = network, wallet, signer, nursery
        self._parameters = genesis.parameters
        self._negotiation = Negotiation(
            signer,
            network=genesis.network_id,
            agent=wallet.account_id,
            slots=slots,
            pricing=pricing,
            answering=answering,
        )
        self._lanes: dict[bytes, _Lane] = {}
        self._sales: dict[bytes, Sale] = {}
        self._closing = self._closed = False
        self._moved = trio.Event()  # a receipt came, or a stream ended
        self._known: set[bytes] = set()  # buyers that have paid before
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
                await self._book(call, message)
                return None
            if isinstance(message, StatusRequest):
                return encode(self._status(call, message))
        except Refused:
            raise
        except (RemoteError, LedgerError) as exc:
            raise Refused("invalid", str(exc)) from exc
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
            case Cancel(job=job):
                sale = self._sales.get(job)
                if sale is not None and sale.buyer == key:
                    sale.cancel()
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
            await call.send(encode(self._negotiation.refusal(signed, "busy", "this seller is closing")))
            return
        deal = self._negotiation.award(signed, key, self._now_ms())
        if isinstance(deal, Signed):
            await call.send(encode(deal))
            return
        try:
            skill = self.skills[deal.award.skill]
            arguments = skill.read_input(deal.award.input)
            lane = await self._lane(deal)
        except (InvalidInput, Error) as exc:
            self._negotiation.release(deal.job)
            code = "lock" if isinstance(exc, LedgerError) else "input"
            await call.send(encode(self._negotiation.refusal(signed, code, str(exc))))
            return
        except BaseException:
            self._negotiation.release(deal.job)
            raise
        sale = self._open_sale(deal, skill, arguments, lane.till)
        try:
            await self._start(call, deal, sale)
        finally:
            if not self._closing:
                self._nursery.start_soon(self._forget_later, sale)

    def _open_sale(self, deal: Deal, skill: Skill, arguments: dict[str, Any], till: Till) -> Sale:
        award = deal.award
        work = new_work(
            self.models,
            job=deal.job,
            buyer=award.buyer,
            units_max=award.units_max if skill.unit == "token" else None,
            seed=award.seed,
            prefix=award.prefix.decode(errors="replace"),
            prefix_tokens=unpack_tokens(award.prefix_tokens),
        )
        sale = Sale(deal.job, deal.buyer_key, till, work, partial(skill.run, input_=arguments))
        self._sales[deal.job] = sale
        self._nursery.start_soon(sale.produce)
        return sale

    async def _start(self, call: Call, deal: Deal, sale: Sale) -> None:
        award, input_units = deal.award, 0
        if deal.price.input:
            await sale.wait_for_first()
            input_units = sale.work.model.n_in
        meter = sale.till.meter
        meter.open_job(
            Terms(deal.job, deal.price, award.budget, award.units_max, award.step, award.window, input_units)
        )
        accepted = self._negotiation.accepted(deal, input_units=input_units, window=meter.window)
        await call.send(encode(accepted))
        await self._deliver(call, sale, 0)

    async def _resume(self, call: Call, resume: Resume, key: bytes) -> None:
        sale = self._sales.get(resume.job)
        if sale is None or sale.buyer != key:
            raise Refused("no-such-job", "it was never awarded here, or has been forgotten")
        await self._deliver(call, sale, resume.from_n)

    async def _deliver(self, call: Call, sale: Sale, from_n: int) -> None:
        """Send a job's chunks in this stream to its end; the stream may go, and the job be resumed."""
        again = sale.till.meter.resume(sale.job, from_n) if from_n else []
        sale.streams += 1
        try:
            finished = await sale.deliver(lambda chunk: call.send(encode(chunk)), again)
            self._negotiation.release(sale.job)
            await call.send(encode(seal(self._signer, PURPOSE, finished)))
        finally:
            sale.streams -= 1
            self._tell_moved()
            if not sale.streams and sale.finished is None and sale.job in self._sales:
                sale.till.meter.pause(sale.job)

    async def _forget_later(self, sale: Sale) -> None:
        """Keep a job for its buyer to resume; then stop it, and free all that it held."""
        while True:
            await trio.sleep(KEEP_S)
            if not sale.streams:
                break
        sale.stop()
        self._negotiation.release(sale.job)
        self._sales.pop(sale.job, None)
        sale.till.meter.finish(sale.job, b"canceled")
        sale.till.meter.forget(sale.job)

    async def close(self) -> None:
        """Stop all work, say so to those who wait for it, and take what they still pay."""
        self._closing = True
        for sale in self._sales.values():
            sale.stop_producing()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_TIMEOUT_S):
            while any(sale.streams for sale in self._sales.values()) or self._unpaid:
                await self._moved.wait()
        self._closed = True

    @property
    def _unpaid(self) -> int:
        return sum(lane.till.meter.unpaid for lane in self._lanes.values())

    def _status(self, call: Call, request: StatusRequest) -> Status:
        sale = self._sales.get(request.job)
        if sale is None or sale.buyer != public_from_peer_id(call.peer):
            raise Refused("no-such-job", "it was never awarded here, or has been forgotten")
        meter = sale.till.meter
        tab, paid = meter.tab(sale.job), meter.paid
        state = {None: b"working", b"failed": b"failed", b"canceled": b"canceled"}.get(
            tab.finish, b"completed"
        )
        return Status(sale.job, state, tab.units, tab.amount, meter.position.n, paid.n, paid.cumulative)

    # --- being paid --------------------------------------------------------------------------------

    async def _lane(self, deal: Deal) -> _Lane:
        """The till of the Lock that an award names.

        Raises:
            InvalidReceipt: its receipts would not be worth what they say.
        """
        id_ = deal.award.lock
        state = await self._wallet.lock(id_)
        self._check_lock(state.lock, deal)
        lane = self._lanes.get(id_)
        if lane is None:
            if state.lock.paid or self._wallet.book.highest(id_) is not None:
                raise InvalidReceipt(
                    "lock", "what was delivered on it before is forgotten here: open another"
                )
            known = deal.award.buyer in self._known
            lane = self._lanes[id_] = _Lane(Till(SellerMeter(id_, state.lock.deposit, known=known)))
        return lane

    def _check_lock(self, lock: Lock, deal: Deal) -> None:
        life = lock.expiry - self._now_ms()
        payees = {share.account for share in lock.beneficiaries}
        if lock.payer != deal.award.buyer or lock.authority != (deal.buyer_key,) or lock.threshold != 1:
            raise InvalidReceipt(
                "authority", "the Lock is not the buyer's, or another key signs its receipts"
            )
        if payees != {self._wallet.account_id} or lock.closer != self._signer.public:
            raise InvalidReceipt("payee", "the Lock does not pay us alone, or we cannot close it")
        if lock.ended or life < 2 * self._parameters.margin(life):
            raise InvalidReceipt("expired", "the Lock has ended, or ends too soon to settle in time")

    async def _book(self, call: Call, notice: ReceiptNotice) -> None:
        lane = self._lanes.get(notice.lock)
        if lane is None:
            raise Refused("lock", "no job is paid from this Lock here")
        key = public_from_peer_id(call.peer)
        if notice.receipt:
            signed = decode(notice.receipt, SignedReceipt)
            lane.waiting.append(self._wallet.book.accept(signed, self._now_ms()).receipt)
            await self._save(lane)
        for taken in notice.taken:
            sale = self._sales.get(taken.job)
            if sale is not None and sale.buyer == key and sale.till is lane.till:
                lane.till.meter.taken(taken.job, taken.weight)
        lane.till.notify()
        self._tell_moved()

    def _tell_moved(self) -> None:
        self._moved.set()
        self._moved = trio.Event()

    async def _save(self, lane: _Lane) -> None:
        """Make receipts durable, many with one fsync, and only then count them as paid."""
        async with lane.saving:
            receipts, lane.waiting = lane.waiting, []
            if not receipts:
                return  # saved together with an earlier one
            await self._wallet.save_receipts()
            for receipt in receipts:
                lane.till.meter.accept(receipt.cumulative, receipt.units, receipt.context)
        self._known.update(sale.work.buyer for sale in self._sales.values() if sale.till is lane.till)


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
    caught: Exception | None = None
    async with trio.open_nursery() as nursery:
        seller = Seller(
            network, genesis, signer, wallet, skills, models, nursery,
            slots=slots, pricing=pricing, answering=answering,
        )  # fmt: skip
        network.serve(PROTOCOL, seller.handle)
        try:
            yield seller
        except Exception as exc:  # the caller's, not ours: keep it out of the group
            caught = exc
        finally:
            await seller.close()
        nursery.cancel_scope.cancel()
    if caught is not None:
        raise caught
