"""Dropping what no longer proves anything: after each checkpoint, a little with each write of a validator.

    copying ─► checking ─► usable: operations sifted ─► batches ─► HANDOFFs ─► old leaves gone ─► done

LEDGER.md, "Pruning": "Keep heads with their state, unconsumed credits, open Locks, the COMMITTEE chain and
evidence; drop the rest at a checkpoint." So of what was decided before a checkpoint these stay, each with
its certificate, which is made before the vote batches go that it is made from: the last operation on every
account and open Lock, the SPENDs that opened these Locks, END-EPOCHs and COMMITTEEs. A credit of that time is
proven by its leaf under the COMMITTEE's state root; what is newer stays whole until the next checkpoint.

Each step is within the transaction of a write, and says in it how far it has come: a crash loses nothing, and
a restart goes on. Evidence is never touched. No I/O but the database's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ainp2p.errors import RemoteError, StorageError
from ainp2p.ledger.database import Database
from ainp2p.ledger.rules.accounts import Account
from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.operations import (
    Close,
    NextCommittee,
    ParsedOperation,
    Refund,
    Spend,
    lock_id,
    parse,
)
from ainp2p.ledger.rules.state_tree import ACCOUNT, LOCK
from ainp2p.ledger.store import Decided, Store, Stored
from ainp2p.ledger.voting.attachments import HANDOFF, attachment_tag
from ainp2p.ledger.voting.certificate import build_certificate, decode_places, unpack_place
from ainp2p.ledger.voting.checkpoints import CHECKING, COPYING, DONE, FAILED, USABLE, Checkpoint, Checkpoints
from ainp2p.ledger.voting.handoff import read_handoff
from ainp2p.ledger.voting.votelog import VoteBatch, reopen_batch
from ainp2p.protocol.codec import fast_decoder

ROWS = 1_024  # copied, or deleted, in one step
OPERATIONS = 256  # looked at in one step: some 20 µs each, and more for a certificate that has to be made
LARGE_ROWS = 64  # batches deleted in one step: up to 60 kB each
CACHED_BATCHES = 64  # parsed, for certificates
# What a usable checkpoint still has to do, in this order (`Checkpoint.step`).
SIFTING, CERTIFYING, BATCHES, ATTACHMENTS, LEAVES = range(5)

_read_account = fast_decoder(Account)
_read_lock = fast_decoder(Lock)


class Pruner:
    """Prunes one validator's database, beside its `Store` and its journal's tables."""

    def __init__(self, database: Database, store: Store) -> None:
        self._database, self._store, self._checkpoints = database, store, store.checkpoints
        self._network = store.network
        self._committees: dict[int, Committee] = {}
        self._batches: dict[tuple[int, int, int], VoteBatch] = {}
        self.idle = all(each.phase == DONE for each in self._checkpoints.all())

    def wake(self) -> None:
        """A COMMITTEE was stored."""
        self.idle = False

    def step(self) -> bool:
        """Do a bounded piece of work, inside the transaction of a write; False if there is none.

        Raises:
            StorageError: something that is to stay cannot be proven any more, or the disk failed.
        """
        if self.idle:
            return False
        checkpoints = self._checkpoints.all()
        target = next((c for c in checkpoints if c.phase != DONE), None)
        if target is None:
            self.idle = True
            return False
        if target.phase == COPYING:
            self._checkpoints.copy(target, ROWS)
        elif target.phase == CHECKING:
            self._checkpoints.check(target)
        elif target.phase == FAILED:
            self._checkpoints.discard(target.epoch, ROWS)
        else:
            self._sweep(target)
        return True

    # --- a usable checkpoint ------------------------------------------------------------------------

    def _sweep(self, base: Checkpoint) -> None:
        step = (self._sift, self._certify, self._drop_batches, self._drop_attachments, self._drop_leaves)
        if step[base.step](base):
            phase = DONE if base.step == LEAVES else USABLE
            self._put(base, base.step + 1, phase=phase)

    def _put(self, base: Checkpoint, step: int, at: int = 0, phase: int = USABLE) -> None:
        self._checkpoints.put(Checkpoint(base.epoch, base.n, base.root, phase, step, at.to_bytes(8, "big")))

    def _page(self, base: Checkpoint) -> tuple[int, list[Stored]]:
        after = int.from_bytes(base.at or b"", "big")
        return after, self._store.operations(after, OPERATIONS)

    def _sift(self, base: Checkpoint) -> bool:
        """Keep or drop each operation before the checkpoint; what stays gets its certificate at once."""
        _, page = self._page(base)
        page = [stored for stored in page if stored.n < base.n]
        drop: list[ParsedOperation] = []
        gone: list[int] = []
        for stored in page:
            parsed = parse(stored.signed)
            if stays(self._checkpoints, base.epoch, self._network, parsed):
                self._make_certificate(stored)
            else:
                drop.append(parsed)
                gone.append(stored.n)
        self._delete(drop, gone)
        if page:
            self._put(base, SIFTING, page[-1].n)
        return not page

    def _delete(self, drop: Sequence[ParsedOperation], rows: Sequence[int]) -> None:
        many = self._database.executemany
        many("DELETE FROM ledger_operations WHERE n = ?", [(n,) for n in rows])
        many("DELETE FROM vote_places WHERE n = ?", [(n,) for n in rows])
        # A Lock that ended before the checkpoint: a late duplicate finds no Lock, and is refused for that.
        ended = [p.operation.object for p in drop if isinstance(p.operation.body, Close | Refund)]
        many("DELETE FROM ledger_ended WHERE id = ?", [(id_,) for id_ in ended])
        self._store.openings.drop(ended)

    def _certify(self, base: Checkpoint) -> bool:
        """What was decided in an earlier epoch and applied in this one needs its certificate, too."""
        after = max(int.from_bytes(base.at or b"", "big"), base.n - 1)
        page = self._store.operations(after, OPERATIONS)
        for stored in page:
            self._make_certificate(stored, before=base.epoch)
        if page:
            self._put(base, CERTIFYING, page[-1].n)
        return len(page) < OPERATIONS

    def _make_certificate(self, stored: Stored, before: int = 2**62) -> None:
        """Write an operation's certificate beside it, unless it is there, or its batches stay."""
        if stored.certificate:
            return
        rows = self._database.execute("SELECT places, epoch FROM vote_places WHERE n = ?", (stored.n,))
        if not rows or not rows[0][0] or rows[0][1] >= before:
            return
        places, epoch = decode_places(rows[0][0]), rows[0][1]
        certificate = build_certificate(
            map(unpack_place, places),
            lambda member, height: self._batch(epoch, member, height),
            self._committee(epoch),
        )
        self._database.execute(
            "UPDATE ledger_operations SET certificate = ? WHERE n = ?", (certificate, stored.n)
        )
        self._database.execute("UPDATE vote_places SET places = x'' WHERE n = ?", (stored.n,))

    def _batch(self, epoch: int, member: int, height: int) -> VoteBatch:
        key = epoch, member, height
        batch = self._batches.pop(key, None)
        if batch is None:
            rows = self._database.execute(
                "SELECT raw FROM vote_batches WHERE member = ? AND height = ?", (epoch << 8 | member, height)
            )
            if not rows:
                raise StorageError(f"batch {height} of validator {member} is not on the disk")
            batch = reopen_batch(rows[0][0], self._committee(epoch))
        self._batches[key] = batch  # at the end: the first is the one used longest ago
        if len(self._batches) > CACHED_BATCHES:
            del self._batches[next(iter(self._batches))]
        return batch

    def _committee(self, epoch: int) -> Committee:
        if epoch not in self._committees:
            self._committees = self._store.committees()
        return self._committees[epoch]

    def _drop_batches(self, base: Checkpoint) -> bool:
        """Vote batches of past epochs, and where they were needed from."""
        log = base.epoch << 8
        self._database.execute(
            """DELETE FROM vote_batches WHERE (member, height) IN
               (SELECT member, height FROM vote_batches WHERE member < ? LIMIT ?)""",
            (log, LARGE_ROWS),
        )
        if self._database.execute("SELECT 1 FROM vote_batches WHERE member < ? LIMIT 1", (log,)):
            return False
        self._database.execute("DELETE FROM vote_floors WHERE member >= 0 AND member < ?", (log,))
        self._batches.clear()
        return True

    def _drop_attachments(self, base: Checkpoint) -> bool:
        """HANDOFFs, with their pages, of the epochs before the one that this COMMITTEE closed."""
        rows = self._database.execute("SELECT id, raw FROM vote_attachments WHERE segment = ?", (2**62,))
        drop: list[bytes] = []
        for id_, raw in rows:
            try:
                handoff = read_handoff(raw) if attachment_tag(raw) == HANDOFF else None
            except RemoteError:  # a member recorded it, and it is none
                drop.append(id_)
                continue
            if handoff is not None and handoff.epoch < base.epoch - 1:
                drop += [id_, *handoff.more]
        self._database.executemany("DELETE FROM vote_attachments WHERE id = ?", [(id_,) for id_ in drop])
        return True

    def _drop_leaves(self, base: Checkpoint) -> bool:
        """The checkpoints before this one."""
        older = [each.epoch for each in self._checkpoints.all() if each.epoch < base.epoch]
        return not older or (self._checkpoints.discard(older[0], ROWS) and len(older) == 1)


def stays(checkpoints: Checkpoints, epoch: int, network: bytes, parsed: ParsedOperation) -> bool:
    """Whether an operation from before this checkpoint still proves something."""
    operation, body = parsed.operation, parsed.operation.body
    if operation.object == network or _head(checkpoints, epoch, operation.object) == parsed.id:
        return True
    return isinstance(body, Spend) and any(
        checkpoints.state_of(epoch, LOCK, lock_id(parsed.id, index)) is not None
        for index in range(len(body.locks))
    )


def _head(checkpoints: Checkpoints, epoch: int, object_: bytes) -> bytes | None:
    account = checkpoints.state_of(epoch, ACCOUNT, object_)
    if account is not None:
        return _read_account(account).head
    lock = checkpoints.state_of(epoch, LOCK, object_)
    return _read_lock(lock).head if lock is not None else None


def is_sifted(base: Checkpoint) -> bool:
    """Whether of what came before this checkpoint only that is left which stays."""
    return base.phase == DONE or base.step > SIFTING


def holds_committee(decided: Iterable[Decided]) -> bool:
    """Whether a COMMITTEE is among them."""
    return any(
        isinstance(each.parsed.operation.body, NextCommittee)
        for each in decided
        if each.changes.system is not None
    )


__all__ = ["Pruner", "holds_committee", "is_sifted", "stays"]
