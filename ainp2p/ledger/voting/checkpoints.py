"""The leaves of the state with which an epoch began, on disk: what a COMMITTEE's state root is the root of.

LEDGER.md, "Pruning": "the state digest in a head with its certificate proves an account. Keep heads with
their state, unconsumed credits, open Locks, the COMMITTEE chain and evidence; drop the rest at a checkpoint."

    COMMITTEE stored ─► copying: rows are copied a page at a time; whoever changes one first saves it
                     ─► checking: the root over the leaves must be the one that the COMMITTEE carries
                     ─► the base: operations before it are needed no more (`pruning` drops them)

So the leaves are exactly those of the moment before the COMMITTEE, though the tables go on. A checkpoint
whose root is another (a node that was ahead of the union of HANDOFFs) is dropped again: the base stays the
last one. All of it is in the store's transactions. No rules of the ledger here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ainp2p.errors import InvalidInput
from ainp2p.ledger.database import Database
from ainp2p.ledger.rules.changes import Changes, Credit
from ainp2p.ledger.rules.merkle import MerkleTree
from ainp2p.ledger.rules.state_tree import (
    ACCOUNT,
    BURNT,
    CREDIT,
    LOCK,
    SYSTEM,
    Leaf,
    StateProof,
    root_of,
)
from ainp2p.protocol.codec import encode

CHUNK = 1_024  # leaves; a power of two, so that each chunk is a subtree
PRUNED_FORMAT = 3  # of a store whose operations do not begin with the first one
COPYING, CHECKING, USABLE, DONE, FAILED = range(5)  # phases; from USABLE on it is (or was) the base
_TABLE_OF = {ACCOUNT: "ledger_accounts", LOCK: "ledger_locks"}

_TABLES = (
    # state: NULL where there was none at the checkpoint
    """CREATE TABLE IF NOT EXISTS ledger_leaves (epoch INTEGER, kind INTEGER, id BLOB, state BLOB,
       PRIMARY KEY (epoch, kind, id)) WITHOUT ROWID""",
    # n: of the COMMITTEE that opened the epoch; at: how far its phase has come
    """CREATE TABLE IF NOT EXISTS ledger_checkpoints (epoch INTEGER PRIMARY KEY, n INTEGER NOT NULL,
       root BLOB NOT NULL, phase INTEGER NOT NULL, step INTEGER NOT NULL DEFAULT 0, at BLOB)""",
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One checkpoint: the epoch that began with it, its COMMITTEE's place `n` in the order applied here."""

    epoch: int
    n: int
    root: bytes
    phase: int
    step: int = 0
    at: bytes | None = None


class Checkpoints:
    """The checkpoints of one `Store`'s database: the base, and the one that is on its way.

    Attributes:
        copying: the epoch whose leaves are being copied, or None.
    """

    def __init__(self, database: Database) -> None:
        """Use the tables, or make them."""
        self._database = database
        self._tree: _ChunkedTree | None = None  # of the base
        self._checking: _ChunkedTree | None = None
        with database.transaction():
            for table in _TABLES:
                database.execute(table)
        self.copying = next((c.epoch for c in self.all() if c.phase == COPYING), None)

    # --- looking ----------------------------------------------------------------------------------

    def all(self) -> list[Checkpoint]:
        """All that there are, the oldest first."""
        rows = self._database.execute(
            "SELECT epoch, n, root, phase, step, at FROM ledger_checkpoints ORDER BY epoch"
        )
        return [Checkpoint(*row) for row in rows]

    @property
    def base(self) -> Checkpoint | None:
        """The newest whose leaves are whole and checked; None: the genesis."""
        return next((c for c in reversed(self.all()) if c.phase in (USABLE, DONE)), None)

    def leaves(self, epoch: int, after: tuple[int, bytes] = (-1, b""), limit: int = CHUNK) -> list[Leaf]:
        """Up to `limit` leaves in their order, those after the given (kind, id)."""
        rows = self._database.execute(
            """SELECT kind, id, state FROM ledger_leaves WHERE epoch = ? AND (kind, id) > (?, ?)
               AND state IS NOT NULL ORDER BY kind, id LIMIT ?""",
            (epoch, *after, limit),
        )
        return [Leaf(*row) for row in rows]

    def state_of(self, epoch: int, kind: int, id_: bytes) -> bytes | None:
        """The encoded state of one object at a checkpoint; None if it was not there."""
        rows = self._database.execute(
            "SELECT state FROM ledger_leaves WHERE epoch = ? AND kind = ? AND id = ?", (epoch, kind, id_)
        )
        return rows[0][0] if rows else None

    def prove(self, kind: int, id_: bytes) -> tuple[int, StateProof]:
        """(epoch, proof) that an object was what it was at the base.

        Raises:
            InvalidInput: there is no base, or the object was not there.
        """
        base = self.base
        if base is None:
            raise InvalidInput("there is no checkpoint yet")
        while not self.prepare():
            pass
        assert self._tree is not None
        return base.epoch, self._tree.prove(kind, id_)

    def prepare(self) -> bool:
        """Hash one more chunk of the base, for `prove` and `page`; True once they answer at once."""
        base = self.base
        if base is None:
            return True
        if self._tree is None or self._tree.epoch != base.epoch:
            self._tree = _ChunkedTree(self, base.epoch)
        return self._tree.is_whole or not self._tree.grow()

    def page(self, epoch: int, index: int, leaves_max: int, size_max: int) -> tuple[list[bytes], int, bytes]:
        """Encoded leaves of the base from place `index` on, how many there are in all, and `range_path`.

        As many as there are in one chunk, at most `leaves_max`, and no more once they have `size_max` bytes;
        none at the end, or if this epoch's is not the base.
        """
        while not self.prepare():
            pass
        if self._tree is None or self._tree.epoch != epoch:
            return [], 0, b""
        return self._tree.page(index, leaves_max, size_max)

    def root(self, epoch: int) -> bytes:
        """The root over the leaves that are here; as long as there are leaves."""
        tree = _ChunkedTree(self, epoch)
        while tree.grow():
            pass
        return tree.root

    # --- a new one --------------------------------------------------------------------------------

    def begin(self, epoch: int, n: int, root: bytes) -> None:
        """Freeze the tables as they are: inside the transaction that brings a COMMITTEE, just before it.

        One that is still being copied gives way: epochs are longer than that.
        """
        for other in self.all():
            if other.phase in (COPYING, CHECKING):
                self.put(Checkpoint(other.epoch, other.n, other.root, FAILED))
        self.put(Checkpoint(epoch, n, root, COPYING))
        self.copying = epoch
        execute = self._database.execute
        execute(
            "INSERT OR REPLACE INTO ledger_leaves SELECT ?, ?, id, state FROM ledger_system", (epoch, SYSTEM)
        )
        burnt = execute("SELECT value FROM ledger_meta WHERE key = 'burnt'")[0][0]
        network = execute("SELECT id FROM ledger_system")[0][0]
        execute(
            "INSERT OR REPLACE INTO ledger_leaves VALUES (?, ?, ?, ?)", (epoch, BURNT, network, encode(burnt))
        )

    def save(self, changes: Iterable[Changes]) -> None:
        """Save what these changes are about to replace, unless it was copied before."""
        if self.copying is None:
            return
        accounts, locks, made, consumed = [], [], [], []
        for each in changes:
            accounts += [account.id for account in each.accounts]
            locks += [lock.id for lock in each.locks]
            made += [id_ for id_, _ in each.made]
            consumed += list(each.consumed)
        for kind, ids in ((ACCOUNT, accounts), (LOCK, locks)):
            self._database.executemany(
                f"""INSERT OR IGNORE INTO ledger_leaves
                    SELECT ?, ?, ?, (SELECT state FROM {_TABLE_OF[kind]} WHERE id = ?)""",
                [(self.copying, kind, id_, id_) for id_ in ids],
            )
        self._put(CREDIT, [(id_, None) for id_ in made if not self._has_credit(id_)])
        for id_ in consumed:
            self._put(CREDIT, self._credits("WHERE id = ?", (id_,)))

    def _has_credit(self, id_: bytes) -> bool:
        return bool(self._database.execute("SELECT 1 FROM ledger_credits WHERE id = ?", (id_,)))

    def _credits(self, where: str, parameters: Sequence[Any]) -> list[tuple[bytes, bytes | None]]:
        rows = self._database.execute(f"SELECT id, account, amount FROM ledger_credits {where}", parameters)
        return [(id_, encode(Credit(account, amount))) for id_, account, amount in rows]

    def _put(self, kind: int, rows: Iterable[tuple[bytes, bytes | None]]) -> None:
        self._database.executemany(
            "INSERT OR IGNORE INTO ledger_leaves VALUES (?, ?, ?, ?)",
            [(self.copying, kind, id_, state) for id_, state in rows],
        )

    def put(self, checkpoint: Checkpoint) -> None:
        """Write down how far a checkpoint has come."""
        c = checkpoint
        if c.phase in (USABLE, DONE):
            sql = "UPDATE ledger_meta SET value = ? WHERE key = 'format'"
            self._database.execute(sql, (encode(PRUNED_FORMAT),))
        if self.copying == c.epoch and c.phase != COPYING:
            self.copying = None
        self._database.execute(
            "INSERT OR REPLACE INTO ledger_checkpoints VALUES (?, ?, ?, ?, ?, ?)",
            (c.epoch, c.n, c.root, c.phase, c.step, c.at),
        )

    # --- its steps ----------------------------------------------------------------------------------

    def copy(self, target: Checkpoint, limit: int) -> None:
        """Copy the next rows; `step` is their kind, `at` the last id."""
        kind, after = target.step or ACCOUNT, target.at or b""
        if kind == CREDIT:
            rows = self._credits("WHERE id > ? ORDER BY id LIMIT ?", (after, limit))
        else:
            sql = f"SELECT id, state FROM {_TABLE_OF[kind]} WHERE id > ? ORDER BY id LIMIT ?"
            rows = [(id_, state) for id_, state in self._database.execute(sql, (after, limit))]
        self._put(kind, rows)
        if len(rows) == limit:
            self._move(target, COPYING, kind, rows[-1][0])
        elif kind == CREDIT:
            self._move(target, CHECKING)
        else:
            self._move(target, COPYING, kind + 1)

    def check(self, target: Checkpoint) -> bool:
        """Hash one more chunk; True once the root was compared: USABLE, or FAILED."""
        if self._checking is None or self._checking.epoch != target.epoch:
            self._checking = _ChunkedTree(self, target.epoch)
        if self._checking.grow():
            return False
        if self._checking.root == target.root:
            self._tree = self._checking
            self._move(target, USABLE)
        else:
            self._move(target, FAILED)
        self._checking = None
        return True

    def _move(self, target: Checkpoint, phase: int, step: int = 0, at: bytes | None = None) -> None:
        self.put(Checkpoint(target.epoch, target.n, target.root, phase, step, at))

    def discard(self, epoch: int, limit: int) -> bool:
        """Delete some of a checkpoint's leaves; True once it is gone."""
        self._database.execute(
            """DELETE FROM ledger_leaves WHERE epoch = ? AND (kind, id) IN
               (SELECT kind, id FROM ledger_leaves WHERE epoch = ? LIMIT ?)""",
            (epoch, epoch, limit),
        )
        if self._database.execute("SELECT 1 FROM ledger_leaves WHERE epoch = ? LIMIT 1", (epoch,)):
            return False
        self._database.execute("DELETE FROM ledger_checkpoints WHERE epoch = ?", (epoch,))
        return True


class _ChunkedTree:
    """The `StateTree` over a checkpoint's leaves, of which only one hash per chunk is in memory."""

    def __init__(self, checkpoints: Checkpoints, epoch: int) -> None:
        self._checkpoints, self.epoch = checkpoints, epoch
        self._firsts: list[tuple[int, bytes]] = []
        self._roots: list[bytes] = []
        self._last: tuple[int, bytes] = (-1, b"")
        self._count = 0
        self._whole: MerkleTree | None = None
        self._hashed: tuple[int, list[bytes], MerkleTree] | None = None  # the chunk shown last
        self.is_whole = False

    def grow(self) -> bool:
        """Take one more chunk; False if there is none."""
        leaves = self._checkpoints.leaves(self.epoch, self._last, CHUNK)
        if not leaves:
            self.is_whole = True
            return False
        self._firsts.append((leaves[0].kind, leaves[0].id))
        self._roots.append(MerkleTree([encode(leaf) for leaf in leaves]).root)
        self._last = leaves[-1].kind, leaves[-1].id
        self._count += len(leaves)
        self._whole = None
        return True

    @property
    def root(self) -> bytes:
        return root_of(self._count, self._upper().root)

    def _upper(self) -> MerkleTree:
        self._whole = self._whole or MerkleTree((), nodes=self._roots)
        return self._whole

    def prove(self, kind: int, id_: bytes) -> StateProof:
        chunk = bisect_right(self._firsts, (kind, id_)) - 1
        if chunk >= 0:
            leaves = self._chunk(chunk)
            for index, leaf in enumerate(leaves):
                if (leaf.kind, leaf.id) == (kind, id_):
                    path = MerkleTree([encode(each) for each in leaves]).path(index)
                    path += self._upper().path(chunk)
                    return StateProof(leaf, chunk * CHUNK + index, self._count, path)
        raise InvalidInput("the checkpoint holds no such object")

    def page(self, index: int, leaves_max: int, size_max: int) -> tuple[list[bytes], int, bytes]:
        chunk, first = divmod(index, CHUNK)
        if index >= self._count:
            return [], self._count, b""
        if self._hashed is None or self._hashed[0] != chunk:
            encoded = [encode(leaf) for leaf in self._chunk(chunk)]
            self._hashed = chunk, encoded, MerkleTree(encoded)
        _, encoded, tree = self._hashed
        end, size = first, 0
        while end < min(len(encoded), first + leaves_max) and size <= size_max:
            size += len(encoded[end]) + 8
            end += 1
        path = tree.range_path(first, end - 1) + self._upper().path(chunk)
        return encoded[first:end], self._count, path

    def _chunk(self, chunk: int) -> list[Leaf]:
        kind, id_ = self._firsts[chunk]
        state = self._checkpoints.state_of(self.epoch, kind, id_)
        assert state is not None
        return [Leaf(kind, id_, state), *self._checkpoints.leaves(self.epoch, (kind, id_), CHUNK - 1)]


__all__ = [
    "CHECKING",
    "COPYING",
    "DONE",
    "FAILED",
    "PRUNED_FORMAT",
    "USABLE",
    "Checkpoint",
    "Checkpoints",
]
