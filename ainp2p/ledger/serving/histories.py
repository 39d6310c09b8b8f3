"""What was decided, for those who catch up: comparisons, objects' histories, everything in its order.

Reads the store, so what is still on its way to the disk (a second at most) is left out; whoever asks finds it
with its next comparison. Every answer stays within its bounds by stopping early. What was pruned is refused
(`checkpoint_desk.refuse_pruned`).
"""

from __future__ import annotations

from collections.abc import Iterable

from ainp2p.errors import Refused
from ainp2p.ledger.rules.operations import ParsedOperation, Spend, lock_id
from ainp2p.ledger.rules.state import State
from ainp2p.ledger.serving.checkpoint_desk import refuse_pruned
from ainp2p.ledger.serving.messages import (
    BODY_SIZE_MAX,
    OPERATIONS_MAX,
    Decided,
    DecidedPage,
    GetHistory,
    History,
    Reconciled,
    ReconcileFrontier,
)
from ainp2p.ledger.serving.reconcile import ReconcileIndex, Reconciler, value_of
from ainp2p.ledger.store import Store, Stored
from ainp2p.ledger.voting.validator import Validator
from ainp2p.protocol.codec import encode

SLACK = 8_192  # operations; who is as far as the checkpoint may have applied them in another order
PAGE_SIZE_MAX = BODY_SIZE_MAX // 2  # bytes; stop adding here, one more always fits


def index_of(state: State) -> ReconcileIndex:
    """Object → (seq, head) of accounts, open Locks (also those at seq 0) and the System.

    Ended Locks are left out, so it grows with what is alive. Who still has one open sees that others do not
    list it, and asks for its history.
    """
    alive = [id_ for id_, lock in state.locks.items() if not lock.ended]
    heads = [(id_, state.head(id_)) for id_ in (*state.accounts, *alive, state.network)]
    return ReconcileIndex((id_, value_of(*head)) for id_, head in heads)


class Histories:
    """Reads one Validator's decided operations for others.

    Attributes:
        index: as `index_of`; whoever applies operations tells `note`.
    """

    def __init__(self, validator: Validator, store: Store) -> None:
        self._validator, self._store = validator, store
        self.index = index_of(validator.state)
        self._frontier: tuple[bytes, dict[bytes, tuple[int, bytes]]] | None = None  # asked for last
        self._frontier_index = ReconcileIndex()

    def note(self, parsed: ParsedOperation) -> None:
        """An operation is final and applied."""
        state, body, object_ = self._validator.state, parsed.operation.body, parsed.operation.object
        made = [lock_id(parsed.id, i) for i in range(len(body.locks))] if isinstance(body, Spend) else []
        for id_ in (object_, *made):
            lock = state.locks.get(id_)
            if id_ in state.accounts or id_ == state.network or (lock is not None and not lock.ended):
                self.index.put(id_, value_of(*state.head(id_)))
            else:
                self.index.discard(id_)

    def reconcile(self, message: bytes) -> Reconciled:
        """The next message of a comparison.

        Raises:
            Malformed: it is none.
        """
        return Reconciled(Reconciler(self.index).respond(message))

    def history(self, question: GetHistory) -> History:
        """Objects' operations, each object's in order; those that were pruned here are passed over.

        Raises:
            Refused: ``"pruned"``: of all that is asked for the first ones are gone.
        """
        found: list[Decided] = []
        size, pruned = 0, False
        for each in question.objects:
            room = OPERATIONS_MAX - len(found)
            if room <= 0 or size > PAGE_SIZE_MAX:
                break
            if self._store.is_pruned(each.object, each.seq):
                pruned = True
                continue
            stored = self._store.history(each.object, each.seq, room)
            page, more = self._shown(stored, PAGE_SIZE_MAX - size)
            found += page
            size += more
        if pruned and not found:
            raise refuse_pruned(self._store)
        return History(tuple(found))

    def frontier(self, question: ReconcileFrontier) -> Reconciled:
        """The next message of a comparison with the frontier of a HANDOFF.

        Raises:
            Malformed: it is none.
            Refused: ``"unknown"``: that frontier is not here.
        """
        if self._frontier is None or self._frontier[0] != question.handoff:
            found = self._validator.frontier(question.handoff)
            if found is None:
                raise Refused("unknown", "the frontier of this HANDOFF is not known here")
            self._move_frontier(found)
            self._frontier = question.handoff, found
        return Reconciled(Reconciler(self._frontier_index).respond(question.message))

    def _move_frontier(self, found: dict[bytes, tuple[int, bytes]]) -> None:
        # Members' frontiers differ little: who asks for two in turn has no index made anew each time.
        before = self._frontier[1] if self._frontier is not None else {}
        if not before:
            self._frontier_index = ReconcileIndex((id_, value_of(*head)) for id_, head in found.items())
            return
        for id_, head in found.items():
            if before.get(id_) != head:
                self._frontier_index.put(id_, value_of(*head))
        for id_ in before.keys() - found.keys():
            self._frontier_index.discard(id_)

    def page(self, after: int) -> DecidedPage:
        """Operations in the order in which they were applied here.

        Raises:
            Refused: ``"pruned"``: what follows is gone, or as good as: its head would be useless without it.
        """
        base = self._store.checkpoints.base
        if base is not None and after < base.n - 1 - SLACK:
            raise refuse_pruned(self._store)
        stored = self._store.operations(after, OPERATIONS_MAX)
        found, _ = self._shown(stored, PAGE_SIZE_MAX)
        last = stored[len(found) - 1].n if found else after
        return DecidedPage(tuple(found), last, self._store.count)

    def _shown(self, stored: Iterable[Stored], size_max: int) -> tuple[list[Decided], int]:
        """As many as fit, and how many bytes that is; it ends before one whose certificate is not there."""
        found: list[Decided] = []
        size = 0
        for each in stored:
            certificate = each.certificate or self._validator.certificate(each.id)
            if size > size_max or not certificate:
                break
            found.append(Decided(encode(each.signed), certificate))
            size += len(found[-1].operation) + len(certificate)
        return found, size
