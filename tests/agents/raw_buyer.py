"""A buyer that speaks the market protocol by hand, and so may say anything."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from ainp2p.agents.agent import Agent
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.receipts import Receipt, SignedReceipt, sign_receipt
from ainp2p.protocol.codec import decode, encode
from ainp2p.protocol.delivery import LockChain, Position
from ainp2p.protocol.identity import Key
from ainp2p.protocol.messages import (
    PROTOCOL,
    PURPOSE,
    Accepted,
    Award,
    Chunk,
    Finished,
    ReceiptNotice,
    Refusal,
    Signed,
    Status,
    StatusRequest,
    Taken,
    decode_wire,
    open_market,
    seal,
)
from ainp2p.protocol.negotiation import Bid, Task
from ainp2p.protocol.negotiation import Buyer as Negotiation

INPUT = b'{"text":"go"}'


@dataclass
class Stream:
    """What has come on the stream of an award."""

    buyer: RawBuyer
    lock: Lock
    job: bytes
    answer: Accepted | Refusal
    chunks: AsyncIterator[bytes]
    chain: LockChain
    units: int = 0
    amount: int = 0
    finished: Finished | None = None

    async def next(self) -> Chunk | Finished:
        """The next thing; a chunk is taken into the running hash, at 2 uain a unit."""
        message = decode_wire(await anext(self.chunks))
        if isinstance(message, Chunk):
            self.chain.append(message)
            self.units += message.units
            self.amount += 2 * message.units
            return message
        assert isinstance(message, Signed)
        word = open_market(message)
        assert isinstance(word, Finished)
        self.finished = word
        return word

    async def rest(self) -> Finished:
        """Read all that the seller sends by itself."""
        while self.finished is None:
            await self.next()
        return self.finished

    def receipt(self, **change: Any) -> SignedReceipt:
        """For all that has come, or for something else."""
        honest = Receipt(
            self.buyer.agent.genesis.network_id, self.lock.id, self.amount, self.units, self.chain.context
        )
        return sign_receipt(msgspec.structs.replace(honest, **change), self.buyer.key)

    async def notify(self, receipt: SignedReceipt | None, taken: int | None = None) -> None:
        """Send a receipt, and how far the reader is: up to here, unless it says otherwise."""
        progress = (Taken(self.job, self.units if taken is None else taken),)
        notice = ReceiptNotice(self.lock.id, encode(receipt) if receipt else b"", progress)
        await self.buyer.ask(encode(notice))


class RawBuyer:
    """An agent's network, key and purse, without its manners."""

    def __init__(self, agent: Agent, key: Key, seller: Agent) -> None:
        self.agent, self.key, self.seller = agent, key, seller
        agent.network.add_addresses(seller.peer_id, seller.addresses)

    async def ask(self, body: bytes, to: Agent | None = None) -> bytes:
        """A request; raises Refused."""
        return await self.agent.network.request((to or self.seller).peer_id, PROTOCOL, body)

    async def call(
        self, skill: bytes = b"write", task: bytes | None = None
    ) -> tuple[Negotiation, Bid | None]:
        """Call for a proposal."""
        context = self.agent.network.context
        task_ = Task(task or context.token_bytes(32), skill, INPUT)
        negotiation = Negotiation(
            self.key, network=self.agent.genesis.network_id, agent=self.agent.id, task=task_
        )
        seller_key = self.seller._open_parts.vault.public
        call = negotiation.call(self.seller.id, seller_key, context.now_ms())
        answer = decode(await self.ask(encode(call)), Signed)
        negotiation.handle(answer, seller_key, context.now_ms())
        return negotiation, negotiation.best(context.now_ms())

    async def open_lock(self, payee: Agent | None = None, deposit: int = 600, **change: Any) -> Lock:
        """A Lock that pays the seller, or somebody else."""
        seller = payee or self.seller
        terms: dict[str, Any] = {
            "beneficiaries": [(seller.id, 1)],
            "closer": seller._open_parts.vault.public,
            "deposit": deposit,
            "step": 10,
            "life_ms": 3_600_000,
            "purpose": b"channel",
        }
        return (await self.agent.wallet.open_lock(**{**terms, **change})).lock

    async def award(self, lock: bytes, **change: Any) -> Signed:
        """An award on a fresh proposal, as it should be, or changed."""
        negotiation, bid = await self.call()
        assert bid is not None
        now_ms = self.agent.network.context.now_ms()
        award = negotiation.award(bid, now_ms, lock=lock, budget=600)
        if not change:
            return award
        return seal(self.key, PURPOSE, msgspec.structs.replace(decode(award.body, Award), **change))

    @asynccontextmanager
    async def stream(self, award: Signed, lock: Lock) -> AsyncIterator[Stream]:
        """Send an award and read its answer."""
        async with self.agent.network.stream(
            self.seller.peer_id, PROTOCOL, encode(award), timeout_s=1000
        ) as chunks:
            answer = decode_wire(await anext(chunks))
            assert isinstance(answer, Signed)
            message = open_market(answer)
            assert isinstance(message, Accepted | Refusal)
            yield Stream(self, lock, award.id, message, chunks, LockChain(Position.start(lock.id)))

    async def refusal(self, award: Signed, lock: Lock) -> tuple[str, str]:
        """The code and the words of a refused award."""
        async with self.stream(award, lock) as stream:
            assert isinstance(stream.answer, Refusal)
            return stream.answer.code.decode(), stream.answer.reason.decode()

    async def status(self, job: bytes) -> Status:
        """How the seller sees a job."""
        answer = decode_wire(await self.ask(encode(StatusRequest(job))))
        assert isinstance(answer, Status)
        return answer
