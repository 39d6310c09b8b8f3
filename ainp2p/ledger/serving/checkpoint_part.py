"""What has been taken and proven of one checkpoint, on our disk: it outlives the peer that sent it, and us.

Leaves wait in `ledger_leaves` under their epoch, kept operations beside them under its negative, and a row
for each of the two in `ledger_checkpoints` says how many there must be: written in the same transaction, so
that nobody goes on with a part of which something is gone (`pruning` discards what was given up).
Nothing is judged here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ainp2p.ledger.database import Database
from ainp2p.ledger.rules.operations import ParsedOperation
from ainp2p.ledger.rules.state_tree import Leaf
from ainp2p.ledger.serving.checkpoint_messages import BEGUN_MAX, Begun
from ainp2p.ledger.serving.messages import Decided
from ainp2p.ledger.voting.checkpoints import FAILED, Checkpoint, Checkpoints
from ainp2p.protocol.codec import encode, fast_decoder

_KEPT = 9  # as the kind of a leaf
_SEQ_SIZE = 8
_PAGE = 1_000
_DISCARDED = 10_000  # rows at a time
_read_decided = fast_decoder(Decided)


class Part:
    """The part of one checkpoint that is here.

    Attributes:
        leaves: how many, from the first one on.
        count: leaves of the whole checkpoint; 0 before the first one has come.
        kept: how many operations.
        last: object and seq of the last one.
    """

    def __init__(self, database: Database, checkpoints: Checkpoints, epoch: int) -> None:
        """Find what there is of it; what is not whole goes.

        Raises:
            StorageError: the disk failed.
        """
        self._database, self._checkpoints, self.epoch = database, checkpoints, epoch
        marks = {mark.epoch: mark for mark in checkpoints.all()}
        leaves, kept = marks.get(epoch), marks.get(-epoch)
        self.leaves = self._rows(epoch)
        self.kept = self._rows(-epoch)
        self.count = int.from_bytes(leaves.at or b"", "big") if leaves is not None else 0
        if self.leaves != (leaves.step if leaves is not None else 0):
            self.clear()
        elif self.kept != (kept.step if kept is not None else 0):
            self.clear_kept()
        self.last = self._last()

    @property
    def begun(self) -> Begun:
        """As whoever is asked for the rest is told."""
        return Begun(self.epoch, self.leaves, *self.last)

    # --- leaves -------------------------------------------------------------------------------------

    def add_leaves(self, leaves: Sequence[Leaf], count: int) -> None:
        """Keep the next ones, in one transaction."""
        with self._database.transaction():
            self._database.executemany(
                "INSERT INTO ledger_leaves VALUES (?, ?, ?, ?)",
                [(self.epoch, leaf.kind, leaf.id, leaf.state) for leaf in leaves],
            )
            self._mark(self.epoch, self.leaves + len(leaves), count)
        self.leaves, self.count = self.leaves + len(leaves), count

    def all_leaves(self, *kinds: int) -> Iterator[Leaf]:
        """The leaves of these kinds, in their order."""
        for kind in kinds:
            after = kind, b""
            while page := [leaf for leaf in self._checkpoints.leaves(self.epoch, after) if leaf.kind == kind]:
                yield from page
                after = kind, page[-1].id

    def clear(self) -> None:
        """It takes up no room any more."""
        self._discard(self.epoch)
        self.leaves = self.count = 0
        self.clear_kept()

    # --- kept operations ----------------------------------------------------------------------------

    def add_kept(self, operations: Sequence[tuple[ParsedOperation, Decided]]) -> None:
        """Keep the next ones, in one transaction."""
        rows = [
            (-self.epoch, _KEPT, _slot(parsed.operation.object, parsed.operation.seq), encode(decided))
            for parsed, decided in operations
        ]
        with self._database.transaction():
            self._database.executemany("INSERT INTO ledger_leaves VALUES (?, ?, ?, ?)", rows)
            self._mark(-self.epoch, self.kept + len(rows), 0)
        self.kept += len(rows)
        last = operations[-1][0].operation
        self.last = last.object, last.seq

    def has_kept(self, object_: bytes, seq: int) -> bool:
        """Whether the operation of this slot is here."""
        return self._checkpoints.state_of(-self.epoch, _KEPT, _slot(object_, seq)) is not None

    def all_kept(self) -> Iterator[Decided]:
        """In order of object and seq."""
        after = _KEPT, b""
        while page := self._checkpoints.leaves(-self.epoch, after, _PAGE):
            for leaf in page:
                yield _read_decided(leaf.state)
            after = _KEPT, page[-1].id

    def clear_kept(self) -> None:
        """Something is missing among them, and nobody knows what."""
        self._discard(-self.epoch)
        self.kept, self.last = 0, (b"", 0)

    # --- rows ---------------------------------------------------------------------------------------

    def _rows(self, epoch: int) -> int:
        sql = "SELECT count(*) FROM ledger_leaves WHERE epoch = ?"
        count: int = self._database.execute(sql, (epoch,))[0][0]
        return count

    def _mark(self, epoch: int, rows: int, count: int) -> None:
        # FAILED: whatever becomes of us, `Pruner` discards what nobody goes on with.
        self._checkpoints.put(Checkpoint(epoch, 0, bytes(32), FAILED, rows, count.to_bytes(8, "big")))

    def _discard(self, epoch: int) -> None:
        with self._database.transaction():
            while not self._checkpoints.discard(epoch, _DISCARDED):
                pass

    def _last(self) -> tuple[bytes, int]:
        rows = self._database.execute("SELECT max(id) FROM ledger_leaves WHERE epoch = ?", (-self.epoch,))
        last: bytes = rows[0][0] or b""
        return last[:-_SEQ_SIZE], int.from_bytes(last[-_SEQ_SIZE:], "big")


def parts(database: Database, checkpoints: Checkpoints, after: int) -> list[Part]:
    """The parts of checkpoints later than `after` that are here, the newest first; older ones go.

    Raises:
        StorageError: the disk failed.
    """
    epochs = [mark.epoch for mark in reversed(checkpoints.all()) if mark.n == 0 and mark.epoch > 0]
    found = [Part(database, checkpoints, epoch) for epoch in epochs]
    for part in found:
        if part.epoch <= after:
            part.clear()
    whole = [part for part in found if part.leaves]
    for part in whole[BEGUN_MAX:]:
        part.clear()
    return whole[:BEGUN_MAX]


def _slot(object_: bytes, seq: int) -> bytes:
    return object_ + seq.to_bytes(_SEQ_SIZE, "big")


__all__ = ["Part", "parts"]
