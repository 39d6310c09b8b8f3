"""What the end of an epoch needs from others: their frontiers where they differ, and decided operations.

    Effects.frontiers ──► FetchFrontier from the member whose HANDOFF it is, page by page ──► handle_frontier
    Effects.certain   ──► FetchOperations from a member that has them ──► handle_decided, with certificates

The core asks again for what did not come, so here nothing is repeated: only bounded, and one question at a
time for each thing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Protocol

import trio

from ainp2p.errors import Error, Malformed
from ainp2p.ledger.serving.messages import (
    FRONTIER_PAGE_MAX,
    OPERATIONS_MAX,
    Decided,
    Fetched,
    FetchFrontier,
    FetchOperations,
    FrontierPage,
)
from ainp2p.ledger.serving.sync import Validators
from ainp2p.ledger.voting.effects import FrontierWanted, Wanted
from ainp2p.protocol.network import PeerId

CERTAIN_MAX = 65_536  # operations asked for at once; above it the core asks again later
FRONTIER_TIMES = 2  # as long as ours, and CERTAIN_MAX: who differs by more is not judged by operations
PATIENCE_S = 5.0  # for a frontier; each page adds as much as it is full
PAGE_PATIENCE_S = 0.25
AT_ONCE = 4  # members that are asked for operations

Head = tuple[int, bytes]


class Core(Protocol):
    """What the service lets us do with the Validator."""

    def own_frontier(self) -> dict[bytes, Head]:
        """Our frontier as it was frozen for our HANDOFF."""

    async def take_frontier(self, handoff: bytes, heads: dict[bytes, Head]) -> None:
        """Where a HANDOFF's frontier differs from ours."""

    async def take_decided(self, operations: Sequence[Decided]) -> int:
        """Handle operations with their certificates."""


class EpochFetcher:
    """`want` may be called at any time."""

    def __init__(self, validators: Validators, core: Core) -> None:
        self._validators, self._core = validators, core
        self._rng = validators.network.context.rng
        self._certain: dict[bytes, tuple[PeerId, ...]] = {}
        self._frontiers: dict[bytes, PeerId] = {}
        self._under_way: set[bytes] = set()
        self._news = trio.Event()

    def want(self, certain: Iterable[Wanted], frontiers: Iterable[FrontierWanted]) -> None:
        """Ask for these soon."""
        for each in certain:
            if len(self._certain) < CERTAIN_MAX:
                self._certain[each.id] = tuple(
                    peer for key in each.holders if (peer := self._peer_of(key)) is not None
                )
        for wanted in frontiers:
            peer = self._peer_of(wanted.member)
            if peer is not None and wanted.handoff not in self._under_way:
                self._frontiers[wanted.handoff] = peer
        if self._certain or self._frontiers:
            self._news.set()

    async def run(self) -> None:
        """Ask until cancelled."""
        limit = trio.CapacityLimiter(AT_ONCE)
        async with trio.open_nursery() as nursery:
            while True:
                await self._news.wait()
                self._news = trio.Event()
                while self._frontiers:
                    handoff, peer = self._frontiers.popitem()
                    self._under_way.add(handoff)
                    nursery.start_soon(self._fetch_frontier, peer, handoff)
                for peer, ids in self._assign():
                    nursery.start_soon(self._fetch_certain, limit, peer, ids)

    def _peer_of(self, key: bytes) -> PeerId | None:
        """The member with this key, unless that is ourselves."""
        peer = self._validators.peer_of(key)
        return peer if peer != self._validators.network.peer_id else None

    def _assign(self) -> list[tuple[PeerId, tuple[bytes, ...]]]:
        others = [member.peer for member in self._validators.others]
        asks: dict[PeerId, list[bytes]] = {}
        for id_, holders in self._certain.items():
            if holders or others:
                asks.setdefault(self._rng.choice(holders or others), []).append(id_)
        self._certain.clear()
        return [
            (peer, tuple(ids[start : start + OPERATIONS_MAX]))
            for peer, ids in asks.items()
            for start in range(0, len(ids), OPERATIONS_MAX)
        ]

    async def _fetch_certain(self, limit: trio.CapacityLimiter, peer: PeerId, ids: tuple[bytes, ...]) -> None:
        async with limit:
            with suppress(Error):  # asked for again by the core
                answer = await self._validators.ask(peer, FetchOperations(ids), Fetched)
                proven = [each for each in answer.operations if each is not None and each.certificate]
                if proven:
                    await self._core.take_decided(proven)

    async def _fetch_frontier(self, peer: PeerId, handoff: bytes) -> None:
        try:
            with suppress(Error):
                theirs = await self._whole_frontier(peer, handoff)  # the core asks another one then
                await self._core.take_frontier(handoff, difference(self._core.own_frontier(), theirs))
        finally:
            self._under_way.discard(handoff)

    async def _whole_frontier(self, peer: PeerId, handoff: bytes) -> dict[bytes, Head]:
        """All of it.

        Raises:
            Malformed: it does not ascend, does not end, or comes too slowly. Its member may show it to others
                only: they have it too.
        """
        heads: dict[bytes, Head] = {}
        after, patience_s = b"", PATIENCE_S
        room = FRONTIER_TIMES * len(self._core.own_frontier()) + CERTAIN_MAX
        while patience_s > 0 and len(heads) <= room:
            asked_s = trio.current_time()
            page = await self._validators.ask(peer, FetchFrontier(handoff, after), FrontierPage)
            if not page.heads:
                return heads
            for head in page.heads:
                if head.object <= after:
                    raise Malformed("a frontier that does not ascend")
                heads[head.object], after = (head.seq, head.head), head.object
            patience_s -= trio.current_time() - asked_s
            patience_s = min(PATIENCE_S, patience_s + PAGE_PATIENCE_S * len(page.heads) / FRONTIER_PAGE_MAX)
        raise Malformed("a frontier without end")


def difference(ours: dict[bytes, Head], theirs: dict[bytes, Head]) -> dict[bytes, Head]:
    """Objects whose heads are others there; seq 0 where they have nothing."""
    changed = {id_: head for id_, head in theirs.items() if ours.get(id_) != head}
    return changed | {id_: (0, id_) for id_ in ours if id_ not in theirs}
