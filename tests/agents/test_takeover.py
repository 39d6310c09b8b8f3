"""A job resumed while its old stream seems alive: one stream goes on, and no chunk is lost between them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import replace

import pytest
import trio
import trio.testing

from ainp2p.agents import sale
from ainp2p.agents.sale import Sale
from ainp2p.agents.tills import Till
from ainp2p.agents.work import Work, new_work
from ainp2p.errors import Refused
from ainp2p.protocol.codec import encode
from ainp2p.protocol.delivery import Terms
from ainp2p.protocol.messages import PROTOCOL, PURPOSE, Chunk, Finished, Resume, seal
from ainp2p.protocol.price import Price
from ainp2p.protocol.seller_meter import SellerMeter

from .market_world import found_market, write, writer
from .raw_buyer import RawBuyer, Stream

Clock = trio.testing.MockClock
TOKENS = 90
JOB, LOCK = b"J" * 32, b"L" * 32


@asynccontextmanager
async def resumed(buyer: RawBuyer, stream: Stream) -> AsyncIterator[Stream]:
    """The same job in another stream, from the next chunk on."""
    message = Resume(stream.job, stream.chain.n + 1, stream.units, b"", 0)
    body = encode(seal(buyer.key, PURPOSE, message))
    async with buyer.agent.network.stream(buyer.seller.peer_id, PROTOCOL, body, timeout_s=1000) as chunks:
        yield replace(stream, chunks=chunks)


async def hop_from_stream_to_stream(seed: int, rate: float | None) -> Stream:
    """Read a job over as many streams as it has chunks, each begun while the one before is still open."""
    async with found_market(seed) as market:
        model = writer(TOKENS, tokens_per_second=rate)
        async with market.agent("alice", [write], model) as alice, market.agent("mallory") as mallory:
            buyer = RawBuyer(mallory, market.key("mallory"), alice)
            lock = await buyer.open_lock()
            async with buyer.stream(await buyer.award(lock.id), lock) as stream:
                await hop(buyer, stream)
            await market.check_rest("alice")
            market.check_window("alice")
            return stream


async def drain(chunks: AsyncIterator[bytes]) -> None:
    async for _ in chunks:
        pass


async def hop(buyer: RawBuyer, stream: Stream) -> None:
    """Take one chunk here, and all others in a stream that is opened meanwhile."""
    with trio.fail_after(20):  # else a chunk is missing
        is_chunk = isinstance(await stream.next(), Chunk)
    if is_chunk:
        await stream.notify(stream.receipt())
        async with resumed(buyer, stream) as other:
            await hop(buyer, other)
            stream.units, stream.finished = other.units, other.finished


@pytest.mark.parametrize("rate", [None, 20.0])
@pytest.mark.parametrize("seed", range(3))
async def test_a_job_taken_over_again_and_again_loses_no_chunk(
    seed: int, rate: float | None, autojump_clock: Clock
) -> None:
    stream = await hop_from_stream_to_stream(seed, rate)
    assert stream.finished is not None
    assert (stream.finished.finish, stream.units) == (b"done", TOKENS)


async def test_the_stream_that_was_taken_over_is_told(autojump_clock: Clock) -> None:
    async with found_market() as market:
        async with (
            market.agent("alice", [write], writer(TOKENS)) as alice,
            market.agent("mallory") as mallory,
        ):
            buyer = RawBuyer(mallory, market.key("mallory"), alice)
            lock = await buyer.open_lock()
            async with buyer.stream(await buyer.award(lock.id), lock) as stream:
                await stream.next()
                async with resumed(buyer, stream) as other:
                    with pytest.raises(Refused, match="resumed"):
                        await drain(stream.chunks)
                    await other.notify(None)
                    assert isinstance(await other.next(), Chunk | Finished)


# --- the race itself ------------------------------------------------------------------------------------


class Relay:
    """A sale by hand: its function yields what it is fed, and two streams deliver it."""

    def __init__(self) -> None:
        self.feed, source = trio.open_memory_channel[str](10)

        async def function(work: Work) -> AsyncGenerator[object, None]:
            async for value in source:
                yield value

        meter = SellerMeter(LOCK, 1000, known=True)
        meter.open_job(Terms(JOB, Price.parse("1/item"), 1000, 1000, 32, 64))
        work = new_work((), job=JOB, buyer=JOB)
        self.sale = Sale(JOB, JOB, Till(meter, JOB), work, function)
        self.sent: dict[str, list[int]] = {"old": [], "new": []}

    async def deliver(self, name: str, from_n: int | None = None) -> None:
        async def send(chunk: Chunk) -> None:
            self.sent[name].append(chunk.n)
            await trio.lowlevel.checkpoint()

        with suppress(Refused):
            await self.sale.deliver(send, from_n)


async def take_over_while_a_yield_is_on_its_way() -> Relay:
    relay = Relay()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay.sale.produce)
        nursery.start_soon(relay.deliver, "old")
        await relay.feed.send("one")
        await trio.testing.wait_all_tasks_blocked()
        relay.sale._made.put_nowait("two")  # the old stream wakes up with it …
        nursery.start_soon(relay.feed.aclose)
        with trio.move_on_after(5):
            await relay.deliver("new", 1)  # … and is cancelled while the new one sends "one" again
        nursery.cancel_scope.cancel()
    return relay


async def test_a_yield_that_wakes_the_old_stream_reaches_the_new_one(autojump_clock: Clock) -> None:
    relay = await take_over_while_a_yield_is_on_its_way()
    assert relay.sale.finished is not None
    assert (relay.sale.finished.n, relay.sale.finished.finish) == (2, b"done")
    assert 2 in relay.sent["new"]


async def test_a_mutant_without_turns_loses_it(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sale, "Turn", nullcontext)
    relays = [await take_over_while_a_yield_is_on_its_way() for _ in range(12)]  # whoever comes first
    assert any(2 not in relay.sent["new"] for relay in relays)
