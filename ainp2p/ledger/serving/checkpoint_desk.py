"""A validator's answers about its newest checkpoint, from its store. The shell's lock is held by who calls.

Whoever asks for what came before the checkpoint is refused, and told where it may be: `refuse_pruned`.
"""

from __future__ import annotations

from collections.abc import Iterator

import trio

from ainp2p.errors import InvalidInput, Refused, RemoteError, StorageError
from ainp2p.ledger.rules.operations import parse
from ainp2p.ledger.rules.state_tree import StateProof
from ainp2p.ledger.serving.checkpoint_messages import (
    BODY_SIZE_MAX,
    LEAVES_MAX,
    Begun,
    CheckpointPage,
    FetchCheckpoint,
    GetLeafProofs,
    LeafProofs,
    read_question,
)
from ainp2p.ledger.serving.core_lock import CoreLock
from ainp2p.ledger.serving.limits import Limits
from ainp2p.ledger.serving.messages import OPERATIONS_MAX, Decided
from ainp2p.ledger.serving.paced import PacedPlaces, Place
from ainp2p.ledger.store import Store, Stored
from ainp2p.ledger.voting.checkpoints import Checkpoint
from ainp2p.ledger.voting.pruning import is_sifted
from ainp2p.protocol.codec import encode
from ainp2p.protocol.network import Call

PAGE_SIZE_MAX = BODY_SIZE_MAX // 2  # bytes; stop adding here, one more always fits
COST_PROOF = 20.0  # tokens, as in `charging`: a chunk of leaves is read and hashed, 2 ms
COST_PAGE = 64.0
PAUSE_S = 0.1  # when who streams has had its share
STREAMS_MAX = 16  # checkpoints that are sent at one time, one to a peer
PAGE_TIMEOUT_S = 30.0  # for who reads slowly; a place is not kept for who reads nothing
STREAM_TIMEOUT_S = 900.0  # as `checkpoint_sync.PATIENCE_S`
GRACE_S = 10.0  # for each stream; then the slowest gives way if all places are taken
KEEPS_RATE = 256 * 1024  # bytes a second; who reads so fast stays to the end. 16 of them get 1 MB/s each


class CheckpointDesk:
    """Reads one `Store`; see `handle` for the shell."""

    def __init__(self, store: Store, lock: CoreLock) -> None:
        """`lock` is held while the store is read."""
        self._store, self._lock = store, lock
        self._limits = Limits()
        self._streams = PacedPlaces(1, STREAMS_MAX, grace_s=GRACE_S, keeps_rate=KEEPS_RATE)

    def prove(self, question: GetLeafProofs) -> LeafProofs:
        """Paths under the root of the newest checkpoint; none where there is no checkpoint yet."""
        epoch, size = 0, 0
        found: list[StateProof | None] = []
        for name in question.leaves:
            try:
                epoch, proof = self._store.checkpoints.prove(name.kind, name.id)
            except InvalidInput:
                found.append(None)
                continue
            found.append(proof)
            size += len(proof.leaf.state) + len(proof.path) + 64
            if size > PAGE_SIZE_MAX:
                break
        return LeafProofs(epoch, tuple(found))

    def pages(self, question: FetchCheckpoint) -> Iterator[CheckpointPage]:
        """What the asker lacks, a page at each step; it ends early if the checkpoint is replaced meanwhile.

        Raises:
            Refused: ``"no-checkpoint"`` (no newer one than that), ``"busy"`` (it is being made).
        """
        base = self._store.checkpoints.base
        if base is None or base.epoch <= question.after:
            raise Refused("no-checkpoint", "there is no later one here; the operations since are")
        if not is_sifted(base):
            raise Refused("busy", "the checkpoint is being made; ask again in a minute, or another validator")
        begun = next((each for each in question.begun if each.epoch == base.epoch), Begun(base.epoch, 0))
        yield from self._system(base, question.system)
        yield from self._leaves(base, begun.leaves)
        if self._store.checkpoints.base != base:
            return
        yield from self._kept(base, (begun.object, begun.seq))
        if self._store.checkpoints.base == base:
            yield CheckpointPage(base.epoch, base.n)

    def _system(self, base: Checkpoint, known: int) -> Iterator[CheckpointPage]:
        last = 2 * base.epoch
        while known < last:
            stored = self._store.history(self._store.network, known + 1, min(OPERATIONS_MAX, last - known))
            if not stored:
                return
            decided = _bounded(stored)
            yield CheckpointPage(base.epoch, base.n, system=decided)
            known += len(decided)

    def _leaves(self, base: Checkpoint, index: int) -> Iterator[CheckpointPage]:
        while True:
            page = self._store.checkpoints.page(base.epoch, index, LEAVES_MAX, PAGE_SIZE_MAX)
            leaves, count, path = page
            if not leaves:
                return
            yield CheckpointPage(
                base.epoch, base.n, leaves=tuple(leaves), index=index, count=count, path=path
            )
            index += len(leaves)

    def _kept(self, base: Checkpoint, after: tuple[bytes, int]) -> Iterator[CheckpointPage]:
        while stored := self._store.by_slot(after, base.n, OPERATIONS_MAX):
            decided = _bounded(stored)
            yield CheckpointPage(base.epoch, base.n, kept=decided)
            last = parse(stored[len(decided) - 1].signed).operation
            after = last.object, last.seq

    # --- the shell ----------------------------------------------------------------------------------

    async def handle(self, call: Call) -> bytes | None:
        """Answer one call.

        Raises:
            Refused: it is no question, too much, or cannot be answered.
        """
        try:
            question = read_question(call.body)
        except RemoteError as exc:
            raise Refused("malformed", str(exc)) from exc
        try:
            if isinstance(question, GetLeafProofs):
                return await self._prove(call, question)
            await self._stream(call, question)
        except StorageError as exc:
            raise Refused("refused", str(exc)) from exc
        return None

    async def _prove(self, call: Call, question: GetLeafProofs) -> bytes:
        if not self._limits.allow(call.peer, COST_PROOF * len(question.leaves), trio.current_time()):
            raise Refused("busy", "too many questions from this peer; ask again in a second")
        await self._prepare()
        async with self._lock:
            return encode(self.prove(question))

    async def _prepare(self) -> None:
        """Have all leaves hashed, once for each checkpoint; others have their turn meanwhile."""
        while True:
            async with self._lock:
                if self._store.checkpoints.prepare():
                    return
            await trio.lowlevel.checkpoint()

    async def _stream(self, call: Call, question: FetchCheckpoint) -> None:
        with trio.move_on_after(STREAM_TIMEOUT_S) as scope:
            place = self._streams.take(call.peer, trio.current_time(), scope.cancel)
            try:
                await self._prepare()
                await self._send(call, place, self.pages(question))
            finally:
                self._streams.give_back(place)
        if scope.cancelled_caught:
            raise Refused("busy", "others wait for this place: go on from where you are, or elsewhere")

    async def _send(self, call: Call, place: Place, pages: Iterator[CheckpointPage]) -> None:
        while True:
            if not self._limits.allow(call.peer, COST_PAGE, trio.current_time()):
                await trio.sleep(PAUSE_S)
                continue
            async with self._lock:
                page = next(pages, None)
            if page is None:
                return
            body = encode(page)
            with trio.move_on_after(PAGE_TIMEOUT_S) as scope:
                await call.send(body)
            if scope.cancelled_caught:
                return
            place.read(len(body), trio.current_time())


def _bounded(stored: list[Stored]) -> tuple[Decided, ...]:
    found: list[Decided] = []
    size = 0
    for each in stored:
        found.append(Decided(encode(each.signed), each.certificate))
        size += len(found[-1].operation) + len(each.certificate)
        if size > PAGE_SIZE_MAX:
            break
    return tuple(found)


def refuse_pruned(store: Store) -> Refused:
    """What to say to whoever wants operations that are gone here."""
    base = store.checkpoints.base
    epoch = base.epoch if base is not None else 0
    return Refused(
        "pruned",
        f"this validator keeps nothing that was decided before epoch {epoch} but what proves a balance:"
        " ask one that runs with --archive, or start from the checkpoint with an empty disk",
    )


__all__ = ["CheckpointDesk", "refuse_pruned"]
