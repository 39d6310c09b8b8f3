"""What the end of an epoch needs from others: their frontiers where they differ, and decided operations.

    Effects.frontiers ──► ReconcileFrontier with the member whose HANDOFF it is ──► handle_frontier
    Effects.certain   ──► FetchOperations from a member that has them ──► handle_decided, with certificates;
                          handle_operation for what is only prepared there

Frontiers of a million objects differ in a few: they are compared range by range (`reconcile`), and only what
differs travels. Nothing that comes is believed: the core computes the HANDOFF's root from it.

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
    OPERATIONS_MAX,
    Decided,
    Fetched,
    FetchOperations,
    Reconciled,
    ReconcileFrontier,
)
from ainp2p.ledger.serving.reconcile import ReconcileIndex, Reconciler, value_of
from ainp2p.ledger.serving.sync import Validators
from ainp2p.ledger.voting.effects import FrontierWanted, Wanted
from ainp2p.protocol.codec import INT_MAX
from ainp2p.protocol.network import PeerId

CERTAIN_MAX = 65_536  # operations asked for at once; above it the core asks again later
DIFFERENCES_MAX = 131_072  # heads of one frontier: who differs by more is not judged by operations
PATIENCE_S = 5.0  # for a frontier; whatever is news adds a little
NEWS_PATIENCE_S = 0.25
NO_NEWS_S = 0.05  # what an answer without any takes of it, however soon it comes
FEW = 64  # heads; an answer that names fewer is no reason to wait for as many more as one likes
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

    async def take_operation(self, encoded: bytes, source: str) -> None:
        """Handle one that has none."""


class EpochFetcher:
    """`want` may be called at any time."""

    def __init__(self, validators: Validators, core: Core) -> None:
        self._validators, self._core = validators, core
        self._rng = validators.network.context.rng
        self._certain: dict[bytes, tuple[PeerId, ...]] = {}
        self._frontiers: dict[bytes, PeerId] = {}
        self._under_way: set[bytes] = set()
        self._own: tuple[dict[bytes, Head], ReconcileIndex] = {}, ReconcileIndex()
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
                found = [each for each in answer.operations if each is not None]
                for each in found:
                    if not each.certificate:
                        with suppress(Error):
                            await self._core.take_operation(each.operation, peer)
                if proven := [each for each in found if each.certificate]:
                    await self._core.take_decided(proven)

    async def _fetch_frontier(self, peer: PeerId, handoff: bytes) -> None:
        try:
            with suppress(Error):
                heads = await self._differences(peer, handoff)  # the core asks another one then
                await self._core.take_frontier(handoff, heads)
        finally:
            self._under_way.discard(handoff)

    async def _differences(self, peer: PeerId, handoff: bytes) -> dict[bytes, Head]:
        """Objects whose heads are others there; seq 0 where it has nothing.

        Raises:
            Malformed: it does not end, or comes too slowly. Its member may show it to others only: they have
                it too.
        """
        reconciler = Reconciler(self._own_index())
        message: bytes | None = reconciler.initiate()
        patience_s, theirs = PATIENCE_S, reconciler.theirs
        while message is not None:
            if patience_s <= 0 or len(theirs) > DIFFERENCES_MAX:
                raise Malformed("a frontier without end")
            asked_s, known = trio.current_time(), len(theirs)
            answer = await self._validators.ask(peer, ReconcileFrontier(handoff, message), Reconciled)
            message, _, _ = reconciler.continue_(answer.message)
            patience_s -= trio.current_time() - asked_s
            news_s = NEWS_PATIENCE_S * min(1.0, (len(theirs) - known) / FEW) or -NO_NEWS_S
            patience_s = min(PATIENCE_S, patience_s + news_s)
        return {id_: _head(id_, value) for id_, value in theirs.items()}

    def _own_index(self) -> ReconcileIndex:
        """Of our frontier, which is frozen while an epoch ends."""
        heads = self._core.own_frontier()
        if self._own[0] != heads:
            self._own = heads, ReconcileIndex((id_, value_of(*head)) for id_, head in heads.items())
        return self._own[1]


def _head(id_: bytes, value: bytes | None) -> Head:
    if value is None:
        return 0, id_
    seq = int.from_bytes(value[:8], "big")
    if seq > INT_MAX:
        raise Malformed("a slot that nobody can reach")
    return seq, value[8:]
