"""Decided operations on disk, with their certificates and the state they lead to.

Operations, certificates and the rows of the state that they changed are written in one transaction, a
batch at a time. The tables of the state can be rebuilt from the operations, and `load` checks them
against a replay. Certificates are kept as bytes: whoever uses one verifies it. Ended Locks have a table of
their own, which is not read at start: only a late duplicate, or somebody who asks, needs them.

Without `keep_history` a COMMITTEE begins a checkpoint (`ainp2p.ledger.voting.checkpoints`), from which a
replay starts once it is whole; what came before it may be gone then (`ainp2p.ledger.voting.pruning`).

Files of format 1 (before epochs could change) are brought to format 2 when they are opened; those that were
pruned have format 3, so that a release that knows no checkpoints refuses them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from ainp2p.errors import Error, StorageError
from ainp2p.ledger.database import Database, Row, blob
from ainp2p.ledger.openings import Openings
from ainp2p.ledger.rules.accounts import Account
from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.operations import (
    NextCommittee,
    ParsedOperation,
    SignedOperation,
    operation_id,
    parse,
)
from ainp2p.ledger.rules.state import Changes, Credit, State
from ainp2p.ledger.rules.state_tree import ACCOUNT, BURNT, CREDIT, LOCK, Leaf
from ainp2p.ledger.rules.system import System
from ainp2p.ledger.voting.checkpoints import PRUNED_FORMAT, Checkpoint, Checkpoints
from ainp2p.protocol.codec import decode, encode, fast_decoder

FORMAT = 2
_read_signed = fast_decoder(SignedOperation)
_read_account = fast_decoder(Account)
_read_lock = fast_decoder(Lock)
_read_system = fast_decoder(System)
_read_credit = fast_decoder(Credit)
_PAGE = 1000  # operations read at a time
# An object's row stays where it is: REPLACE would take it out and put it in again.
_PUT = "INSERT INTO {} VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET state = excluded.state"

_TABLES_2 = (  # that format 2 has more than format 1
    "CREATE TABLE IF NOT EXISTS ledger_ended (id BLOB PRIMARY KEY, state BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS ledger_system (id BLOB PRIMARY KEY, state BLOB NOT NULL) WITHOUT ROWID",
)
_TABLES = (
    "CREATE TABLE IF NOT EXISTS ledger_meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID",
    # n: the order in which this node applied them. One decided operation per slot: a broken promise fails.
    """CREATE TABLE IF NOT EXISTS ledger_operations (n INTEGER PRIMARY KEY, id BLOB NOT NULL,
       object BLOB NOT NULL, seq INTEGER NOT NULL, signed BLOB NOT NULL, certificate BLOB NOT NULL)""",
    "CREATE UNIQUE INDEX IF NOT EXISTS ledger_slots ON ledger_operations (object, seq)",
    "CREATE TABLE IF NOT EXISTS ledger_accounts (id BLOB PRIMARY KEY, state BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS ledger_locks (id BLOB PRIMARY KEY, state BLOB NOT NULL) WITHOUT ROWID",
    *_TABLES_2,
    """CREATE TABLE IF NOT EXISTS ledger_credits
       (id BLOB PRIMARY KEY, account BLOB NOT NULL, amount INTEGER NOT NULL) WITHOUT ROWID""",
)


class Decided(msgspec.Struct, frozen=True, gc=False):
    """One final operation: what `State.apply` returned for it, and its certificate's bytes."""

    parsed: ParsedOperation
    changes: Changes
    certificate: bytes = b""


@dataclass(frozen=True, slots=True)
class Stored:
    """One stored operation; `n` counts from 1 in the order in which this node applied them."""

    n: int
    id: bytes
    signed: SignedOperation
    certificate: bytes


class Store:
    """The ledger's tables in a `Database`, which may hold other tables as well.

    Attributes:
        checkpoints: from where on operations are stored, once there is one.
        openings: which SPEND opened a Lock.
        keep_history: begin no checkpoint: everything is kept from now on.
    """

    def __init__(self, database: Database, genesis: Genesis, *, keep_history: bool = True) -> None:
        """Use the tables, or make them.

        Raises:
            StorageError: they are another network's, of another format, or cannot be used.
        """
        self.database = database
        self._genesis = genesis
        known = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'ledger_meta'")
        if not known:
            self._create()
        self._check_meta()
        self.keep_history = keep_history
        self.checkpoints = Checkpoints(database)
        self.openings = Openings(database)

    @property
    def network(self) -> bytes:
        """The network's id."""
        return self._genesis.network_id

    @property
    def count(self) -> int:
        """How many decided operations were stored; they are numbered so, though old ones may be gone."""
        count: int = self.database.execute("SELECT coalesce(max(n), 0) FROM ledger_operations")[0][0]
        return count

    # --- writing --------------------------------------------------------------------------------

    def commit(self, batch: Sequence[Decided]) -> None:
        """Write a batch of applied operations; they are durable when this returns.

        Inside an outer `database.transaction()` they become durable when that ends. Empty changes
        (repeats) are left out.

        Raises:
            StorageError: nothing of the batch was written, and the database takes no more writes.
        """
        batch = [decided for decided in batch if decided.changes]
        if not batch:
            return
        with self.database.transaction():
            first = 0
            for place, decided in enumerate(batch):
                if decided.changes.system is None or self.keep_history:
                    continue
                body = decided.parsed.operation.body
                if isinstance(body, NextCommittee):
                    if place > first:
                        self._write(batch[first:place])
                    self.checkpoints.begin(body.epoch, self.count + 1, body.state_root)
                    first = place
            self._write(batch[first:])

    def write_one(self, decided: Decided) -> None:
        """Write one applied operation, inside a transaction; no checkpoint begins with it."""
        self._write([decided])

    def _write(self, batch: Sequence[Decided]) -> None:
        many = self.database.executemany
        self.checkpoints.save(decided.changes for decided in batch)
        rows = _Rows()
        for n, decided in enumerate(batch, start=self.count + 1):
            rows.add(n, decided)
        many("INSERT INTO ledger_operations VALUES (?, ?, ?, ?, ?, ?)", rows.operations)
        self.openings.put(rows.openings)
        many(_PUT.format("ledger_accounts"), _blobs(rows.accounts))
        many(_PUT.format("ledger_locks"), _blobs(rows.locks))
        many("DELETE FROM ledger_locks WHERE id = ?", [(id_,) for id_ in rows.ended])
        many(_PUT.format("ledger_ended"), _blobs(rows.ended))
        self._write_system(rows.systems[-1:])
        made = sorted(rows.made.items())
        many(
            "INSERT INTO ledger_credits VALUES (?, ?, ?)",
            [(blob(id_), blob(credit.account), credit.amount) for id_, credit in made],
        )
        many("DELETE FROM ledger_credits WHERE id = ?", [(blob(id_),) for id_ in sorted(rows.consumed)])
        many("UPDATE ledger_meta SET value = value + ? WHERE key = 'burnt'", [(rows.burnt,)])

    def _write_system(self, systems: Sequence[System]) -> None:
        self.database.executemany(
            "INSERT OR REPLACE INTO ledger_system VALUES (?, ?)", [(s.id, encode(s)) for s in systems]
        )

    def _create(self) -> None:
        state = State(self._genesis)
        with self.database.transaction():
            for table in _TABLES:
                self.database.execute(table)
            self.database.executemany(
                "INSERT INTO ledger_meta VALUES (?, ?)",
                [("format", encode(FORMAT)), ("genesis", encode(self._genesis)), ("burnt", 0)],
            )
            self.database.executemany(
                "INSERT INTO ledger_credits VALUES (?, ?, ?)",
                [(id_, credit.account, credit.amount) for id_, credit in state.credits.items()],
            )
            self._write_system([state.system])

    def _check_meta(self) -> None:
        meta: dict[str, object] = dict(self.database.execute("SELECT key, value FROM ledger_meta"))
        if meta.get("format") not in (encode(FORMAT), encode(PRUNED_FORMAT), encode(1)):
            raise StorageError(
                f"{self.database.path} has a format that this release does not know:"
                " open it with the release that wrote it, or sync from peers anew"
            )
        if meta.get("genesis") != encode(self._genesis):
            raise StorageError(f"{self.database.path} belongs to another network")
        if meta.get("format") == encode(1):
            self._upgrade()

    def _upgrade(self) -> None:
        """From format 1: ended Locks move to their own table, and the System gets its row."""
        with self.database.transaction():
            for table in _TABLES_2:
                self.database.execute(table)
            ended = {lock.id: lock for lock in self._read_locks("ledger_locks") if lock.ended}
            self.database.executemany("DELETE FROM ledger_locks WHERE id = ?", [(id_,) for id_ in ended])
            rows = {id_: encode(lock) for id_, lock in ended.items()}
            self.database.executemany("INSERT INTO ledger_ended VALUES (?, ?)", _blobs(rows))
            self._write_system([State(self._genesis).system])
            self.database.executemany(
                "UPDATE ledger_meta SET value = ? WHERE key = 'format'", [(encode(FORMAT),)]
            )

    # --- reading --------------------------------------------------------------------------------

    def operations(self, after: int = 0, limit: int = _PAGE) -> list[Stored]:
        """Up to `limit` decided operations with n > `after`, in order.

        Raises:
            StorageError: a row is damaged.
        """
        return self._stored("WHERE n > ? ORDER BY n LIMIT ?", (after, limit))

    def history(self, object_: bytes, from_seq: int = 1, limit: int = _PAGE) -> list[Stored]:
        """Up to `limit` decided operations of one object from `from_seq` on, in order.

        Raises:
            StorageError: a row is damaged.
        """
        return self._stored("WHERE object = ? AND seq >= ? ORDER BY seq LIMIT ?", (object_, from_seq, limit))

    def by_slot(self, after: tuple[bytes, int], before: int, limit: int = _PAGE) -> list[Stored]:
        """Operations with n < `before`, without the System's, by (object, seq): those after the given one.

        Raises:
            StorageError: a row is damaged.
        """
        return self._stored(
            "WHERE (object, seq) > (?, ?) AND n < ? AND object != ? ORDER BY object, seq LIMIT ?",
            (*after, before, self.network, limit),
        )

    def is_pruned(self, object_: bytes, seq: int) -> bool:
        """Whether this operation of an object was dropped while later ones are here."""
        sql = "SELECT min(seq) FROM ledger_operations WHERE object = ? AND seq >= ?"
        first = self.database.execute(sql, (object_, seq))[0][0]
        return first is not None and first > seq

    def _stored(self, where: str, parameters: tuple[object, ...]) -> list[Stored]:
        sql = f"SELECT n, id, signed, certificate FROM ledger_operations {where}"
        rows = self.database.execute(sql, parameters)
        return [Stored(n, id_, self.signed(n, id_, signed), cert) for n, id_, signed, cert in rows]

    def signed(self, n: int, id_: bytes, raw: bytes) -> SignedOperation:
        """What the row of the `n`th operation holds.

        Raises:
            StorageError: it is damaged.
        """
        try:
            signed = _read_signed(raw)
        except Error as exc:
            raise self._damaged(f"operation {n} cannot be read") from exc
        if operation_id(signed.raw) != id_:
            raise self._damaged(f"operation {n} is not the one that was stored")
        return signed

    def ended_lock(self, id_: bytes) -> Lock | None:
        """An ended Lock, or None.

        Raises:
            StorageError: its row is damaged.
        """
        rows = self.database.execute("SELECT state FROM ledger_ended WHERE id = ?", (id_,))
        try:
            return _read_lock(rows[0][0]) if rows else None
        except (Error, TypeError) as exc:
            raise self._damaged(f"an ended Lock cannot be read: {exc}") from exc

    def system(self) -> System:
        """The System as it is stored.

        Raises:
            StorageError: its row is missing or damaged.
        """
        try:
            (system,) = [_read_system(raw) for raw in self._states("ledger_system")]
        except (Error, TypeError, ValueError) as exc:
            raise self._damaged(f"the System cannot be read: {exc}") from exc
        return system

    def read_credit(self, state: bytes) -> tuple[bytes, int]:
        """(account, uain) of an encoded credit.

        Raises:
            Malformed: it is none.
        """
        credit = _read_credit(state)
        return credit.account, credit.amount

    def load(self, *, verify: bool = True) -> State:
        """The state after all stored operations; it finds ended Locks here.

        Args:
            verify: replay every operation and compare the result with the tables (about 25 µs each). Without
                it the tables are read as they are, and only their shape and the supply are checked.

        Raises:
            StorageError: damaged: tables and operations contradict each other, or rows cannot be read.
        """
        tables = self._read_tables()
        if not verify:
            return tables
        # The replay looks at ended Locks, too, but only at those to which it has itself come.
        replayed = self._replay(None)
        if replayed.root() != tables.root():
            raise self._damaged("the tables are not what the operations lead to")
        return replayed

    def state_at(self, frontier: Mapping[bytes, int]) -> State:
        """The state after exactly the stored operations up to a frontier: object → seq (absent: 0).

        It is how somebody who is ahead of a union of HANDOFFs computes the root that all agree upon. As long
        as `load`; everything that the frontier's operations depend on must be within it.

        Raises:
            StorageError: it is not, or rows are damaged.
        """
        return self._replay(frontier)

    def _replay(self, frontier: Mapping[bytes, int] | None) -> State:
        state, n = self.begin()
        ended: set[bytes] = set()
        state.ended_lock = lambda id_: self.ended_lock(id_) if id_ in ended else None
        while page := self.operations(after=n):
            for stored in page:
                n += 1
                if stored.n != n:
                    raise self._damaged(f"operation {n} is missing")
                try:
                    parsed = parse(stored.signed)
                    operation = parsed.operation
                    if frontier is None or operation.seq <= frontier.get(operation.object, 0):
                        changes = state.apply(parsed)
                        if frontier is None:
                            self._release_ended(state, changes.locks, ended)
                except StorageError:
                    raise
                except Error as exc:
                    raise self._damaged(f"operation {n} cannot be replayed: {exc}") from exc
        if frontier is None:
            state.ended_lock = self.ended_lock
            count = self.database.execute("SELECT count(*) FROM ledger_ended")[0][0]
            if count != len(ended) and self.checkpoints.base is None:
                raise self._damaged("a Lock is said to have ended that has not")
        return state

    def begin(self) -> tuple[State, int]:
        """Where a replay starts: the base, or the genesis; and how many operations came before it.

        Raises:
            StorageError: the base is damaged.
        """
        base = self.checkpoints.base
        if base is None:
            return State(self._genesis), 0
        state = State(self._genesis, grants=False)
        self._read_epochs(state, base.epoch - 1)
        try:
            self._take_leaves(state, base)
        except (Error, TypeError) as exc:
            raise self._damaged(f"the checkpoint cannot be read: {exc}") from exc
        if state.root() != base.root:
            raise self._damaged("the checkpoint is not the one that its COMMITTEE names")
        state.operations = base.n - 1
        return state, base.n - 1

    def _take_leaves(self, state: State, base: Checkpoint) -> None:
        after = -1, b""
        while page := self.checkpoints.leaves(base.epoch, after):
            for leaf in page:
                _take_leaf(state, leaf)
            after = page[-1].kind, page[-1].id

    def _release_ended(self, state: State, locks: Sequence[Lock], ended: set[bytes]) -> None:
        for lock in locks:
            if lock.ended:
                if self.ended_lock(lock.id) != lock:
                    raise self._damaged("an ended Lock is not what the operations lead to")
                ended.add(lock.id)
                state.release([lock])

    def _read_tables(self) -> State:
        state = State(self._genesis, grants=False)
        execute = self.database.execute
        try:
            for id_, account, amount in execute("SELECT id, account, amount FROM ledger_credits ORDER BY id"):
                state.add_credit(id_, Credit(account, amount))
            accounts = [_read_account(raw) for raw in self._states("ledger_accounts")]
            systems = [_read_system(raw) for raw in self._states("ledger_system")]
        except (Error, TypeError) as exc:
            raise self._damaged(f"the tables cannot be read: {exc}") from exc
        if len(systems) != 1:
            raise self._damaged("the System's row is missing")
        state.commit(Changes(accounts=tuple(accounts), locks=tuple(self._read_locks("ledger_locks"))))
        self._read_epochs(state)
        state.take_system(systems[0])
        state.burnt = execute("SELECT value FROM ledger_meta WHERE key = 'burnt'")[0][0]
        state.operations = self.count
        state.ended_lock = self.ended_lock
        if state.supply().total != state.minted:
            raise self._damaged("the tables hold more or less than was ever made")
        return state

    def _read_epochs(self, state: State, last: int = 2**62) -> None:
        """Committees and parameters of the epochs so far, from the System's chain, which is kept whole."""
        seq = 1
        while page := self.history(state.network, seq):
            for stored in page:
                body = parse(stored.signed).operation.body
                if isinstance(body, NextCommittee) and body.epoch <= last:
                    state.add_epoch(body.epoch, Committee.of_seats(body.seats), body.parameters)
            seq += len(page)

    def committees(self) -> dict[int, Committee]:
        """Epoch → its committee, of all epochs that have begun."""
        state = State(self._genesis, grants=False)
        self._read_epochs(state)
        epochs = sorted(state.parameters)
        return {epoch: state.committee(epoch) for epoch in epochs}

    def _read_locks(self, table: str) -> list[Lock]:
        try:
            return [_read_lock(raw) for raw in self._states(table)]
        except (Error, TypeError) as exc:
            raise self._damaged(f"the tables cannot be read: {exc}") from exc

    def _states(self, table: str) -> list[bytes]:
        return [raw for (raw,) in self.database.execute(f"SELECT state FROM {table} ORDER BY id")]

    def _damaged(self, what: str) -> StorageError:
        return StorageError(
            f"{self.database.path} is damaged: {what}; restore a backup, or sync from peers anew"
        )


class _Rows:
    """What a batch writes, collected in one pass: its objects have left the processor's caches by then.

    Later states of one object replace earlier ones of the same batch before they are written, and credits
    that are made and consumed in it are left out.
    """

    __slots__ = (
        "accounts",
        "burnt",
        "consumed",
        "ended",
        "locks",
        "made",
        "openings",
        "operations",
        "systems",
    )

    def __init__(self) -> None:
        self.operations: list[Row] = []
        self.openings: list[ParsedOperation] = []  # those that open Locks are among them
        self.accounts: dict[bytes, bytes] = {}
        self.locks: dict[bytes, bytes] = {}
        self.ended: dict[bytes, bytes] = {}
        self.made: dict[bytes, Credit] = {}
        self.consumed: list[bytes] = []
        self.systems: list[System] = []
        self.burnt = 0  # uain

    def add(self, n: int, decided: Decided) -> None:
        """The next operation, the `n`th that is stored."""
        parsed, changes = decided.parsed, decided.changes
        operation, signed = parsed.operation, blob(encode(parsed.signed))
        self.operations.append(
            (n, blob(parsed.id), blob(operation.object), operation.seq, signed, blob(decided.certificate))
        )
        for account in changes.accounts:
            self.accounts[account.id] = encode(account)
        if changes.locks:
            self._add_locks(parsed, changes.locks)
        if changes.system is not None:
            self.systems.append(changes.system)
        for id_, credit in changes.made:
            self.made[id_] = credit
        for id_ in changes.consumed:
            if self.made.pop(id_, None) is None:
                self.consumed.append(id_)
        self.burnt += changes.burnt

    def _add_locks(self, parsed: ParsedOperation, locks: Sequence[Lock]) -> None:
        self.openings.append(parsed)
        for lock in locks:
            if lock.ended:
                self.locks.pop(lock.id, None)
                self.ended[lock.id] = encode(lock)
            else:
                self.locks[lock.id] = encode(lock)


def _blobs(states: Mapping[bytes, bytes]) -> list[Row]:
    """Rows of a table of objects, in the order of its tree."""
    return [(blob(id_), blob(state)) for id_, state in sorted(states.items())]


def _take_leaf(state: State, leaf: Leaf) -> None:
    if leaf.kind == ACCOUNT:
        state.commit(Changes((_read_account(leaf.state),)))
    elif leaf.kind == LOCK:
        state.commit(Changes(locks=(_read_lock(leaf.state),)))
    elif leaf.kind == CREDIT:
        state.add_credit(leaf.id, _read_credit(leaf.state))
    elif leaf.kind == BURNT:
        state.burnt = decode(leaf.state, int)
    else:
        state.take_system(_read_system(leaf.state))
