"""How a validator gets what it lacks: operations that votes name, batches below a gap, whole vote logs.

    votes name an unknown operation ──► FetchOperations from one that voted for it
    a batch came before the ones below it ──► FetchBatches from its validator, or from anybody
    just started, or away for a while ──► what is decided (`object_sync`)
                                      ──► GetHeights from all ──► FetchBatches of whatever is longer there

What comes is handed to the core, which checks it; whatever fails is asked for again by the core's own timers
or by the next round of heights. So nothing here needs to be reliable, only bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Iterable
from contextlib import suppress
from typing import Protocol

import trio

from ainp2p.errors import Error, NetworkError, NotYet, RemoteError
from ainp2p.ledger.serving.attaching import Attacher
from ainp2p.ledger.serving.messages import (
    OPERATIONS_MAX,
    FetchBatches,
    Fetched,
    FetchOperations,
    GetHeights,
    Heights,
    PushBatch,
)
from ainp2p.ledger.serving.object_sync import ObjectSync
from ainp2p.ledger.serving.sync import Validators
from ainp2p.ledger.voting.effects import Gap, Wanted
from ainp2p.protocol.network import PeerId

WANTED_MAX = 65_536  # operations asked for; above it the core asks again later
GAPS_AT_ONCE = 4
FIRST_ROUNDS_S = 1.0  # between rounds of heights until we may vote
WATCHING_ROUNDS_S = 3.0  # without a seat nobody pushes to us, and the next epoch may bring one
ROUNDS_S = 10.0  # afterwards, from one random member
SPREAD_S = 0.02  # per member that is asked in a round: 31 validators contact one another over 0.6 s
CHUNK_TIMEOUT_S = 5.0
BATCH_PATIENCE_S = 0.25  # a log comes at four batches a second at least, or somebody else is asked
PATIENCE_S = 0.5  # while much waits here: what is wanted waits with its submitter, who is not read meanwhile
BUSY_PAUSE_S = 0.1  # the core has too many votes for operations that are still on their way
_BUSY_TRIES = 100


class Core(Protocol):
    """What the service lets us do with the Validator; each call returns when it is done."""

    @property
    def voting(self) -> bool:
        """Whether it casts votes."""

    @property
    def waits_for_epoch(self) -> bool:
        """Whether it has no seat, and the epoch is over by the clock: the next one may bring it one."""

    @property
    def told_addresses(self) -> tuple[bytes, ...]:
        """Where it listens, for others to tell; empty if the genesis says so."""

    @property
    def seated(self) -> bool:
        """Whether it has a seat in the current epoch."""

    @property
    def epoch(self) -> int:
        """The one whose votes it counts."""

    def heights(self) -> dict[bytes, int]:
        """Per validator, how many batches are held."""

    def holds(self, id_: bytes) -> bool:
        """Whether an operation has come, so that nobody need be asked for it."""

    @property
    def backlogged(self) -> bool:
        """Whether so many operations wait here that others may not even have been read."""

    async def take_operation(self, encoded: bytes, source: str) -> None:
        """Handle an encoded SignedOperation that was fetched."""

    async def take_batch(self, raw: bytes) -> None:
        """Handle a batch that was fetched."""

    async def take_height(self, member: bytes, height: int, epoch: int) -> None:
        """A member has told how many of our batches it holds."""


class CatchUp:
    """The validator's asking tasks."""

    def __init__(
        self, validators: Validators, core: Core, own_key: bytes, attacher: Attacher, objects: ObjectSync
    ) -> None:
        self._validators, self._core, self._own_key = validators, core, own_key
        self._attacher, self._objects = attacher, objects
        self._rng = validators.network.context.rng
        self._wanted: dict[bytes, tuple[bytes, ...]] = {}
        self._gaps: deque[Gap] = deque(maxlen=64)
        self._asked: set[PeerId] = set()  # those that have not answered our last FetchOperations yet
        self._fetching: set[bytes] = set()  # validators whose log is being fetched
        self._wants, self._gapped = trio.Event(), trio.Event()
        self._epoch_began = trio.Event()

    def want(self, wanted: Iterable[Wanted], gaps: Iterable[Gap]) -> None:
        """Ask for these soon."""
        for each in wanted:
            if len(self._wanted) < WANTED_MAX:
                self._wanted[each.id] = each.holders
        self._gaps.extend(gaps)
        if self._wanted:
            self._wants.set()
        if self._gaps:
            self._gapped.set()

    def epoch_began(self) -> None:
        """Logs begin anew: before we vote, the others say how much of ours they hold."""
        self._epoch_began.set()

    async def run(self) -> None:
        """Ask until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._fetch_forever)
            nursery.start_soon(self._fetch_gaps_forever)
            nursery.start_soon(self._compare_forever)

    # --- operations and gaps ----------------------------------------------------------------------

    async def _fetch_forever(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                await self._wants.wait()
                if self._core.backlogged:
                    await trio.sleep(PATIENCE_S)
                self._wants = trio.Event()
                for peer, ids in self._assign().items():  # one that is slow to answer delays only what it has
                    self._asked.add(peer)
                    nursery.start_soon(self._fetch_operations, peer, ids)

    async def _fetch_gaps_forever(self) -> None:
        limit = trio.CapacityLimiter(GAPS_AT_ONCE)
        async with trio.open_nursery() as nursery:
            while True:
                await self._gapped.wait()
                self._gapped = trio.Event()
                while self._gaps:
                    nursery.start_soon(self._fetch_gap, limit, self._gaps.popleft())

    def _assign(self) -> dict[PeerId, tuple[bytes, ...]]:
        """Whom to ask for what now: one message to each, any holder for each operation."""
        asks: dict[PeerId, list[bytes]] = {}
        free = [member.peer for member in self._validators.others if member.peer not in self._asked]
        for id_, holders in list(self._wanted.items()):
            if (
                not free
            ):  # when much is wanted, nearly always: going through all of it took a third of the time
                break
            if self._core.holds(id_):  # a vote had only overtaken it
                del self._wanted[id_]
                continue
            peers = self._peers_of(holders) or free
            able = [peer for peer in peers if peer in free]
            if able:
                peer = self._rng.choice(able)
                asks.setdefault(peer, []).append(id_)
                del self._wanted[id_]
                if len(asks[peer]) == OPERATIONS_MAX:
                    free.remove(peer)
        return {peer: tuple(ids) for peer, ids in asks.items()}

    def _peers_of(self, keys: Iterable[bytes]) -> list[PeerId]:
        found = (self._validators.peer_of(key) for key in keys if key != self._own_key)
        return [peer for peer in found if peer is not None]

    async def _fetch_operations(self, peer: PeerId, ids: tuple[bytes, ...]) -> None:
        try:
            answer = await self._validators.ask(peer, FetchOperations(ids), Fetched)
        except (NetworkError, RemoteError):
            return
        finally:
            self._asked.discard(peer)
            if self._wanted:
                self._wants.set()
        for decided in answer.operations:
            if decided is not None:
                await _tolerating(self._core.take_operation(decided.operation, peer))

    async def _fetch_gap(self, limit: trio.CapacityLimiter, gap: Gap) -> None:
        peers = [member.peer for member in self._validators.others]
        self._rng.shuffle(peers)
        own_peer = self._validators.peer_of(gap.validator)
        if own_peer is not None and own_peer in peers:  # its own log is longest there
            peers.remove(own_peer)
            peers.insert(0, own_peer)
        async with limit:
            for peer in peers[:3]:
                if await self._fetch_log(peer, gap.validator, gap.first):
                    return

    # --- vote logs --------------------------------------------------------------------------------

    async def _compare_forever(self) -> None:
        while True:
            others = [member.peer for member in self._validators.others]
            # Without a seat it tells all of them where it listens: any may propose the next committee.
            everybody = not (self._core.seated and self._core.voting)
            asked = others if everybody else [self._rng.choice(others)] if others else []
            async with trio.open_nursery() as nursery:
                for peer in asked:
                    nursery.start_soon(self._compare_with, peer, SPREAD_S * len(asked) * self._rng.random())
            hurries = self._core.waits_for_epoch or (self._core.seated and not self._core.voting)
            pause_s = FIRST_ROUNDS_S if hurries else ROUNDS_S if self._core.seated else WATCHING_ROUNDS_S
            with trio.move_on_after(pause_s * (0.5 + self._rng.random())):
                await self._epoch_began.wait()
            self._epoch_began = trio.Event()

    async def _compare_with(self, peer: PeerId, after_s: float) -> None:
        await trio.sleep(after_s)  # when all start together, not everybody dials everybody at once
        await self._objects.compare_with(peer)
        try:
            answer = await self._validators.ask(peer, GetHeights(self._core.told_addresses), Heights)
        except (NetworkError, RemoteError):
            return
        if answer.epoch > self._core.epoch:
            self._objects.hurry()
            await self._objects.compare_with(peer)
        if answer.epoch != self._core.epoch:
            return  # its logs are none of ours; what was decided there has just been compared
        member = self._validators.key_of(peer)
        ours = self._core.heights()
        # First the logs, then what is said of our own: a validator votes when it has caught up.
        for theirs in answer.heights:
            height = ours.get(theirs.validator, 2**62)
            if theirs.validator == self._own_key or theirs.height <= height:
                continue
            if not await self._fetch_log(peer, theirs.validator, height + 1):
                break  # it does not have what it says: this round does not wait for all of it in turn
        for theirs in answer.heights:
            if theirs.validator == self._own_key and member is not None:
                await _tolerating(self._core.take_height(member, theirs.height, answer.epoch))
        await self._attacher.compare_evidence(peer)

    async def _fetch_log(self, peer: PeerId, validator: bytes, height: int) -> bool:
        """Take in a validator's log from `height` on, as far as `peer` has it; True if something came."""
        if validator in self._fetching:
            return True
        self._fetching.add(validator)
        began_at = self._core.heights().get(validator, 0)
        try:
            # This peer may have no more, be gone or slow, or lie: the next round asks somebody else.
            with suppress(Error):
                await self._take_log(peer, validator, height)
        finally:
            self._fetching.discard(validator)
        return self._core.heights().get(validator, 0) > began_at

    async def _take_log(self, peer: PeerId, validator: bytes, height: int) -> None:
        question = FetchBatches(validator, height, self._core.epoch)
        patience_s = CHUNK_TIMEOUT_S  # for all that we wait; each batch that is news adds a little
        async with self._validators.stream(peer, question, PushBatch, timeout_s=CHUNK_TIMEOUT_S) as batches:
            while patience_s > 0:
                asked_at, held = trio.current_time(), self._core.heights().get(validator, 0)
                with trio.move_on_after(patience_s) as scope:
                    chunk = await anext(batches, None)
                if scope.cancelled_caught or chunk is None:
                    return
                patience_s -= trio.current_time() - asked_at
                await self._take_batch(chunk.batch)
                if self._core.heights().get(validator, 0) > held:
                    patience_s = min(CHUNK_TIMEOUT_S, patience_s + BATCH_PATIENCE_S)
                else:
                    patience_s -= BATCH_PATIENCE_S  # so nobody sends old ones for ever

    async def _take_batch(self, raw: bytes) -> None:
        for _ in range(_BUSY_TRIES):
            try:
                return await self._core.take_batch(raw)
            except NotYet:
                await trio.sleep(BUSY_PAUSE_S)
        await self._core.take_batch(raw)


async def _tolerating(call: Awaitable[None]) -> None:
    """Wait for a call whose refusal is of no consequence here: the core has said no, and that is that."""
    with suppress(Error):
        await call
