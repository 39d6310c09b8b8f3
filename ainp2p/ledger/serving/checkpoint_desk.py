"""A validator's answers about its newest checkpoint, from its store. The shell's lock is held by who calls.

Whoever asks for what came before the checkpoint is refused, and told where it may be: `refuse_pruned`.
"""

from __future__ import annotations

from collections.abc import Iterator

import trio

from ainp2p.errors import InvalidInput, Refused, RemoteError, StorageError
from ainp2p.ledger.rules.state_tree import Leaf, StateProof
from ainp2p.ledger.serving.checkpoint_messages import (
    BODY_SIZE_MAX,
    LEAVES_MAX,
    CheckpointPage,
    GetLeafProofs,
    LeafProofs,
    read_question,
)
from ainp2p.ledger.serving.limits import Limits, Places
from ainp2p.ledger.serving.messages import OPERATIONS_MAX, Decided
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


class CheckpointDesk:
    """Reads one `Store`; see `handle` for the shell."""

    def __init__(self, store: Store, lock: trio.Lock) -> None:
        """`lock` is held while the store is read."""
        self._store, self._lock = store, lock
        self._limits = Limits()
        self._streams = Places(1, STREAMS_MAX)

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

    def pages(self, after: int) -> Iterator[CheckpointPage]:
        """All pages, one at each step; it ends early if the checkpoint is replaced meanwhile.

        Raises:
            Refused: ``"no-checkpoint"`` (no newer one than that), ``"busy"`` (it is being made).
        """
        base = self._store.checkpoints.base
        if base is None or base.epoch <= after:
            raise Refused("no-checkpoint", "there is no later one here; the operations since are")
        if not is_sifted(base):
            raise Refused("busy", "the checkpoint is being made; ask again in a minute, or another validator")
        yield from self._system(base)
        yield from self._leaves(base)
        if self._store.checkpoints.base != base:
            return
        yield from self._kept(base)
        if self._store.checkpoints.base == base:
            yield CheckpointPage(base.epoch, base.n)

    def _system(self, base: Checkpoint) -> Iterator[CheckpointPage]:
        seq, last = 1, 2 * base.epoch
        while seq <= last:
            stored = self._store.history(self._store.network, seq, min(OPERATIONS_MAX, last + 1 - seq))
            if not stored:
                return
            decided = _bounded(stored)
            yield CheckpointPage(base.epoch, base.n, system=decided)
            seq += len(decided)

    def _leaves(self, base: Checkpoint) -> Iterator[CheckpointPage]:
        after = -1, b""
        while leaves := self._store.checkpoints.leaves(base.epoch, after, LEAVES_MAX):
            page: list[Leaf] = []
            size = 0
            for leaf in leaves:
                page.append(leaf)
                size += len(leaf.state) + 48
                if size > PAGE_SIZE_MAX:
                    break
            yield CheckpointPage(base.epoch, base.n, leaves=tuple(page))
            after = page[-1].kind, page[-1].id

    def _kept(self, base: Checkpoint) -> Iterator[CheckpointPage]:
        after = 0
        while True:
            stored = [s for s in self._store.operations(after, OPERATIONS_MAX) if s.n < base.n]
            if not stored:
                return
            decided = _bounded(stored)
            yield CheckpointPage(base.epoch, base.n, kept=decided)
            after = stored[len(decided) - 1].n

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
        if isinstance(question, GetLeafProofs):
            if not self._limits.allow(call.peer, COST_PROOF * len(question.leaves), trio.current_time()):
                raise Refused("busy", "too many questions from this peer; ask again in a second")
            async with self._lock:
                return encode(self.prove(question))
        try:
            with self._streams.hold(call.peer), trio.move_on_after(STREAM_TIMEOUT_S):
                await self._send(call, question.after)
        except StorageError as exc:
            raise Refused("refused", str(exc)) from exc
        return None

    async def _send(self, call: Call, after: int) -> None:
        pages = self.pages(after)
        while True:
            if not self._limits.allow(call.peer, COST_PAGE, trio.current_time()):
                await trio.sleep(PAUSE_S)
                continue
            async with self._lock:
                page = next(pages, None)
            if page is None:
                return
            with trio.move_on_after(PAGE_TIMEOUT_S) as scope:
                await call.send(encode(page))
            if scope.cancelled_caught:
                return


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
