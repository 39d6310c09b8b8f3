"""Making a checkpoint that was taken over the base of a store: in one transaction, or not at all.

What was here goes: tables, votes, operations. The leaves fill the tables; kept operations and the System's
are numbered below the COMMITTEE, so that the next ones go on there. Evidence stays. What is installed has
been proven by `checkpoint_sync`: nothing is judged here.
"""

from __future__ import annotations

from collections.abc import Sequence

from ainp2p.ledger.database import Database
from ainp2p.ledger.rules.operations import ParsedOperation
from ainp2p.ledger.rules.state_tree import ACCOUNT, BURNT, CREDIT, LOCK, SYSTEM
from ainp2p.ledger.serving.messages import Decided
from ainp2p.ledger.serving.proofs import read_operation
from ainp2p.ledger.store import Decided as Applied
from ainp2p.ledger.store import Store
from ainp2p.ledger.voting.checkpoints import Checkpoint, Checkpoints
from ainp2p.protocol.codec import decode, encode

Proven = tuple[ParsedOperation, bytes]  # an operation and its certificate

_TABLES = (
    "ledger_operations",
    "ledger_accounts",
    "ledger_locks",
    "ledger_ended",
    "ledger_system",
    "ledger_credits",
    "ledger_openings",
    "vote_places",
    "vote_batches",
    "vote_operations",
    "vote_attachments",
)


class Installer:
    """Installs the checkpoint `base`, whose leaves (and under the epoch's negative, kept operations) wait."""

    def __init__(self, network: bytes, database: Database, store: Store, base: Checkpoint) -> None:
        self._network, self._database, self._store, self._base = network, database, store, base
        self._checkpoints: Checkpoints = store.checkpoints
        self._epoch = base.epoch

    def install(self, system: Sequence[Proven], kept: int) -> None:
        """Do it.

        Args:
            system: the System's operations; the COMMITTEE that opened the epoch is the last one.
            kept: how many other operations there are.

        Raises:
            StorageError: the disk failed, or the leaves say more or less than was ever made.
        """
        first = self._base.n - len(system) + 1
        with self._database.transaction():
            self._drop_all()
            self._fill_tables()
            self._number_kept(first - kept)
            self._insert(system[:-1], first)
            self._checkpoints.put(self._base)
            self._database.execute("DELETE FROM ledger_leaves WHERE epoch = ?", (-self._epoch,))
            state, _ = self._store.begin()
            opening, certificate = system[-1]
            self._store.write_one(Applied(opening, state.apply(opening), certificate))
            self._note_places(self._store.count, 1)

    def _drop_all(self) -> None:
        for table in _TABLES:
            self._database.execute(f"DELETE FROM {table}")
        self._database.execute("DELETE FROM vote_floors WHERE member >= 0")
        self._database.execute("DELETE FROM ledger_checkpoints")
        own = (self._epoch, -self._epoch)
        self._database.execute("DELETE FROM ledger_leaves WHERE epoch NOT IN (?, ?)", own)

    def _fill_tables(self) -> None:
        for kind, table in (
            (ACCOUNT, "ledger_accounts"),
            (LOCK, "ledger_locks"),
            (SYSTEM, "ledger_system"),
        ):
            self._database.execute(
                f"INSERT INTO {table} SELECT id, state FROM ledger_leaves WHERE epoch = ? AND kind = ?",
                (self._epoch, kind),
            )
        after = CREDIT, b""
        while credits := [
            leaf for leaf in self._checkpoints.leaves(self._epoch, after) if leaf.kind == CREDIT
        ]:
            rows = [(leaf.id, *self._store.read_credit(leaf.state)) for leaf in credits]
            self._database.executemany("INSERT INTO ledger_credits VALUES (?, ?, ?)", rows)
            after = CREDIT, credits[-1].id
        burnt = self._checkpoints.state_of(self._epoch, BURNT, self._network)
        self._database.execute(
            "UPDATE ledger_meta SET value = ? WHERE key = 'burnt'", (decode(burnt or b"", int),)
        )

    def _number_kept(self, first: int) -> None:
        after = b""
        while rows := self._database.execute(
            "SELECT id, state FROM ledger_leaves WHERE epoch = ? AND id > ? ORDER BY kind, id LIMIT 1000",
            (-self._epoch, after),
        ):
            kept = [decode(raw, Decided) for _, raw in rows]
            self._insert([(read_operation(each.operation), each.certificate) for each in kept], first)
            first, after = first + len(rows), rows[-1][0]

    def _insert(self, operations: Sequence[Proven], first: int) -> None:
        """Operations that the checkpoint stands for, numbered below it, so that the next ones go on there."""
        self._database.executemany(
            "INSERT INTO ledger_operations VALUES (?, ?, ?, ?, ?, ?)",
            [
                (first + i, p.id, p.operation.object, p.operation.seq, encode(p.signed), certificate)
                for i, (p, certificate) in enumerate(operations)
            ],
        )
        self._store.openings.put(parsed for parsed, _ in operations)
        self._note_places(first, len(operations))

    def _note_places(self, first: int, count: int) -> None:
        self._database.executemany(
            "INSERT INTO vote_places VALUES (?, x'', ?)", [(first + i, self._epoch) for i in range(count)]
        )


__all__ = ["Installer", "Proven"]
