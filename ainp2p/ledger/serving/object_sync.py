"""Catching up with what others decided: which objects differ, then their operations with certificates.

    Reconcile ⇄ Reconciled …   which objects a member has in a later slot than we (LEDGER.md, "Sync")
      few  ──► GetHistory of each, from our seq on
      many ──► FetchDecided: everything, in the order in which the member applied it, from about where we
               stand; then the rest of the differences as above

Vote logs are compared beside this (`catch_up`): they bring what is being decided now. A node that was away
for long, or starts from an empty disk, does not count a hundred thousand operations' votes once more: a
certificate is enough, and the signatures of a hundred of them are the same few.

What comes is checked by the core. A member that lies, stalls or repeats itself is left, and the next round
asks another one: nothing here needs to be reliable, only bounded. What the others have pruned cannot be
caught up with like this: whoever is started then begins with their checkpoint (`checkpoint_sync`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Protocol

import trio

from ainp2p.errors import Error, Refused
from ainp2p.ledger.serving.messages import (
    OPERATIONS_MAX,
    Decided,
    DecidedPage,
    FetchDecided,
    GetHistory,
    History,
    HistoryFrom,
    Reconcile,
    Reconciled,
)
from ainp2p.ledger.serving.reconcile import ReconcileIndex, Reconciler
from ainp2p.ledger.serving.sync import Validators
from ainp2p.protocol.network import PeerId

ROUNDS_S = 10.0  # between two comparisons
FEW = 64  # objects; an answer that names fewer is no reason to wait for as many more as one likes
MANY = 1_000  # objects; then all that was decided is streamed
NEED_MAX = 65_536  # objects of one comparison; the next one finds the rest
SLACK = 4_096  # operations that others may have applied in another order than we
PATIENCE_S = 5.0  # for a comparison and for a stream; whatever brings news adds a little
NEWS_PATIENCE_S = 0.25
NO_NEWS_S = 0.02  # what a page of known operations takes of it, however soon it comes; SLACK has 64 of them
ENDED_MAX = 1_024  # Locks of one comparison that the other may have seen end
WAITING_MAX = 8_192  # operations that came before what they depend on

_log = logging.getLogger(__name__)


class Core(Protocol):
    """What the service lets us do with the Validator."""

    @property
    def index(self) -> ReconcileIndex:
        """Object → (seq, head) of all that is alive here (`histories.Histories`)."""

    @property
    def decided(self) -> int:
        """How many operations are decided here."""

    @property
    def pending(self) -> int:
        """How many operations are held that are not decided, or whose dependencies are not."""

    def is_lock(self, object_: bytes) -> bool:
        """Whether this is an open Lock here."""

    async def take_decided(self, operations: Sequence[Decided]) -> int:
        """Handle operations with their certificates; returns how many became final here."""


class ObjectSync:
    """Compares with one member at a time.

    Attributes:
        behind: operations (while it compares: objects) that are still to be fetched, as far as is known.
    """

    def __init__(self, validators: Validators, core: Core) -> None:
        self._validators, self._core = validators, core
        self._lock = trio.Lock()
        self._next_s = 0.0
        self._pruned = ""  # what was logged of it last
        self.behind = 0

    async def compare_with(self, peer: PeerId) -> None:
        """Take over what this member has decided, unless we were found equal to one a moment ago."""
        async with self._lock:
            if trio.current_time() < self._next_s:
                return
            try:
                await self._compare(peer)
                self._next_s = trio.current_time() + ROUNDS_S
            except Refused as refused:
                if refused.code == "pruned" and refused.reason != self._pruned:
                    self._pruned = refused.reason
                    _log.warning("what this validator lacks %s no longer has: %s", peer, refused.reason)
                return
            except Error:
                return  # another member next
            finally:
                self.behind = 0

    def hurry(self) -> None:
        """There is news: the next comparison need not wait."""
        self._next_s = 0.0

    async def _compare(self, peer: PeerId) -> None:
        need = await self._reconcile(peer, MANY)
        if len(need) >= MANY:
            await self._stream(peer, max(0, self._core.decided - SLACK))
            need = await self._reconcile(peer, NEED_MAX)
        await self._fetch_histories(peer, need)

    async def _reconcile(self, peer: PeerId, enough: int) -> list[bytes]:
        """Objects of which this member has later slots; about `enough`, if there are so many.

        Among them are open Locks that it does not list: they may have ended there.
        """
        reconciler = Reconciler(self._core.index)
        message: bytes | None = reconciler.initiate()
        need: list[bytes] = []
        ended: list[bytes] = []
        deadline_s = trio.current_time() + PATIENCE_S
        while message is not None and len(need) < enough and trio.current_time() < deadline_s:
            answer = await self._validators.ask(peer, Reconcile(message), Reconciled)
            message, have, found = reconciler.continue_(answer.message)
            need += found
            ended += filter(self._core.is_lock, have)
            self.behind = len(need)
            news_s = NEWS_PATIENCE_S * min(1.0, len(found) / FEW)
            deadline_s = min(deadline_s + news_s, trio.current_time() + PATIENCE_S)
        known = set(need)
        return need + [id_ for id_ in ended[:ENDED_MAX] if id_ not in known]

    # --- few ----------------------------------------------------------------------------------------

    async def _fetch_histories(self, peer: PeerId, need: Sequence[bytes]) -> None:
        patience_s = PATIENCE_S
        for start in range(0, len(need), OPERATIONS_MAX):
            self.behind = len(need) - start
            patience_s = await self._fetch_history(peer, need[start : start + OPERATIONS_MAX], patience_s)

    async def _fetch_history(self, peer: PeerId, objects: Iterable[bytes], patience_s: float) -> float:
        """Of each object all that follows on what we have, in many answers; what patience is left."""
        heads = {id_: self._seq(id_) for id_ in objects}
        while heads and patience_s > 0:
            wanted = tuple(HistoryFrom(id_, seq + 1) for id_, seq in heads.items())
            asked_s = trio.current_time()
            answer = await self._validators.ask(peer, GetHistory(wanted), History)
            patience_s -= trio.current_time() - asked_s
            if not await self._take(answer.operations):
                return patience_s
            patience_s = min(PATIENCE_S, patience_s + NEWS_PATIENCE_S)
            # Those that moved may go on; those that the answer had no room for are asked for once more.
            after = {id_: self._seq(id_) for id_ in heads}
            moved = {id_: seq for id_, seq in after.items() if seq > heads[id_]}
            if not moved:
                break
            heads = {id_: seq for id_, seq in after.items() if id_ in moved or seq < 1}
        return patience_s

    def _seq(self, id_: bytes) -> int:
        value = self._core.index.get(id_)
        return int.from_bytes(value[:8], "big") if value is not None else 0

    # --- many ---------------------------------------------------------------------------------------

    async def _stream(self, peer: PeerId, after: int) -> None:
        """Everything that was decided, in the member's order, from its `after`-th operation on."""
        patience_s = PATIENCE_S
        waiting = self._core.pending
        question = FetchDecided(after)
        async with self._validators.stream(peer, question, DecidedPage, timeout_s=PATIENCE_S) as pages:
            while patience_s > 0 and self._core.pending < waiting + WAITING_MAX:
                asked_s = trio.current_time()
                with trio.move_on_after(patience_s) as scope:
                    page = await anext(pages, None)
                if scope.cancelled_caught or page is None or not page.operations or page.last <= after:
                    return
                after, self.behind = page.last, max(0, page.count - page.last)
                patience_s -= trio.current_time() - asked_s
                if await self._take(page.operations):
                    patience_s = min(PATIENCE_S, patience_s + NEWS_PATIENCE_S)
                else:
                    patience_s -= NO_NEWS_S

    async def _take(self, operations: Sequence[Decided]) -> int:
        return await self._core.take_decided(operations) if operations else 0
