"""What the end of an epoch needs from others, over the in-memory network."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from ainp2p.ledger.serving import histories
from ainp2p.ledger.serving.epoch_fetch import EpochFetcher, difference
from ainp2p.ledger.serving.messages import Decided, FetchFrontier
from ainp2p.ledger.voting.effects import FrontierWanted, Wanted

from ..test_wallet_faults import run
from ..town import open_town
from .test_object_sync import pay

HANDOFF = b"h" * 32
THEIRS = {bytes([i]) * 32: (i, bytes([i + 100]) * 32) for i in range(1, 50)}
OURS = {**{id_: head for id_, head in THEIRS.items() if head[0] > 3}, b"x" * 32: (7, b"y" * 32)}


class Core:
    def __init__(self) -> None:
        self.frontiers: list[tuple[bytes, dict[bytes, tuple[int, bytes]]]] = []
        self.decided: list[Decided] = []

    def own_frontier(self) -> dict[bytes, tuple[int, bytes]]:
        return OURS

    async def take_frontier(self, handoff: bytes, heads: dict[bytes, tuple[int, bytes]]) -> None:
        self.frontiers.append((handoff, heads))

    async def take_decided(self, operations: Any) -> int:
        self.decided += operations
        return len(operations)


def test_a_difference_names_what_is_new_what_is_other_and_what_is_not_there() -> None:
    expected = {bytes([i]) * 32: THEIRS[bytes([i]) * 32] for i in (1, 2, 3)} | {b"x" * 32: (0, b"x" * 32)}
    assert difference(OURS, THEIRS) == expected
    assert difference(THEIRS, THEIRS) == {}


async def fetch_a_frontier() -> tuple[list[Any], int]:
    async with open_town() as town:
        service, member = town.services[0], town.services[1]
        pages = 0
        frontier = member._histories.frontier

        def counted(question: FetchFrontier) -> Any:
            nonlocal pages
            pages += 1
            return frontier(question)

        member._histories.frontier = counted  # type: ignore[method-assign]
        member._validator.frontier = lambda handoff: THEIRS if handoff == HANDOFF else None  # type: ignore[method-assign]
        core = Core()
        fetcher = EpochFetcher(service._validators, core)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetcher.run)
            fetcher.want([], [FrontierWanted(town.keys[1].public, HANDOFF)])
            fetcher.want([], [FrontierWanted(town.keys[1].public, HANDOFF)])
            await trio.sleep(5)
            nursery.cancel_scope.cancel()
        return core.frontiers, pages


@pytest.mark.parametrize("page_max", [4_096, 10])
def test_a_frontier_is_fetched_in_pages_once_and_its_difference_handed_over(
    page_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(histories, "FRONTIER_PAGE_MAX", page_max)
    frontiers, pages = run(fetch_a_frontier)
    assert frontiers == [(HANDOFF, difference(OURS, THEIRS))]
    assert pages == -(-len(THEIRS) // page_max) + 1


async def fetch_decided() -> int:
    async with open_town() as town, town.wallet("alice") as alice:
        await pay(alice, town, 3)
        await town.until_equal(3)
        await trio.sleep(2)
        service = town.services[0]
        state = service._validator.state
        core = Core()
        fetcher = EpochFetcher(service._validators, core)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetcher.run)
            head = state.accounts[town.account("alice")].head
            fetcher.want([Wanted(head, (town.keys[2].public,)), Wanted(bytes(32), ())], [])
            await trio.sleep(5)
            nursery.cancel_scope.cancel()
        return sum(bool(each.certificate) for each in core.decided)


def test_decided_operations_come_with_their_certificates_and_what_nobody_has_is_left_out() -> None:
    assert run(fetch_decided) == 1
