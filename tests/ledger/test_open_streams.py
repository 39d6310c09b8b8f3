"""A stranger opens many long streams and reads nothing, or asks again and again: what that costs."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import trio

from ainp2p.errors import Refused
from ainp2p.ledger.serving import service as services
from ainp2p.ledger.serving.charging import Charges
from ainp2p.ledger.serving.limits import Places
from ainp2p.ledger.serving.messages import FetchBatches, Question
from ainp2p.protocol.codec import encode

from .test_wallet_faults import run
from .town import Town, open_town
from .world import key_of

BATCH = bytes(10_000)  # about as many bytes as a full one has


class Stream:
    """A call whose chunks nobody reads, or somebody does at once."""

    def __init__(self, peer: str, question: Question, *, reads: bool) -> None:
        self.peer, self.body, self._reads = peer, encode(question), reads
        self.chunks = 0

    async def send(self, body: bytes) -> None:
        self.chunks += 1
        if not self._reads:
            await trio.sleep_forever()
        await trio.sleep(0.0001)


def endless_log(town: Town) -> list[int]:
    """Every log is long; returns how many batches were read from the disk, to be looked at later."""
    held = [0]

    def batches(validator: bytes, first: int, limit: int = 256) -> list[bytes]:
        held[0] += limit
        return [BATCH] * limit

    town.services[0]._validator.batches = batches  # type: ignore[method-assign]
    return held


async def batches_held_for_who_reads_nothing() -> int:
    async with open_town() as town:
        held, stranger = endless_log(town), key_of("stranger").peer_id
        async with trio.open_nursery() as nursery:

            async def one() -> Any:
                question = FetchBatches(town.keys[1].public, 1, 0)
                call: Any = Stream(stranger, question, reads=False)
                while True:
                    with suppress(Refused):
                        return await town.services[0]._handle(call)
                    await trio.sleep(1)

            for _ in range(256):  # so many calls may be open on one connection
                nursery.start_soon(one)
            await trio.sleep(10)
            nursery.cancel_scope.cancel()
        return held[0]


def test_streams_that_nobody_reads_fill_no_memory() -> None:
    assert run(batches_held_for_who_reads_nothing) * len(BATCH) < 8_000_000


def test_mutant_streams_without_places_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "Places", lambda per_peer, total: Places(10**6, 10**6))
    assert run(batches_held_for_who_reads_nothing) * len(BATCH) > 30_000_000


async def batches_a_second(member: bool) -> float:
    async with open_town() as town:
        endless_log(town)
        peer = town.peer(1) if member else key_of("stranger").peer_id
        calls: list[Any] = []
        with trio.move_on_after(20):
            while True:
                calls.append(Stream(peer, FetchBatches(town.keys[1].public, 1, 0), reads=True))
                try:
                    await town.services[0]._handle(calls[-1])
                except Refused:
                    await trio.sleep(0.1)
        return sum(call.chunks for call in calls) / 20


def test_a_stranger_s_share_of_the_log_is_bounded_and_a_member_s_is_large() -> None:
    assert run(batches_a_second, False) < 1_000
    assert run(batches_a_second, True) > 1_500


def test_mutant_streams_at_one_price_are_bytes_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Charges, "pages", lambda *args: True)
    assert run(batches_a_second, False) > 4_000
