"""Decided operations on disk, with their certificates and the state they lead to.

Operations, certificates and the rows of the state that they changed are written in one transaction, a
batch at a time. The tables of the state can be rebuilt from the operations, and `load` checks them
against a replay. Certificates are kept as bytes: whoever uses one verifies it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ainp2p.errors import Error, StorageError
from ainp2p.ledger.accounts import Account
from ainp2p.ledger.database import Database
from ainp2p.ledger.genesis import Genesis
from ainp2p.ledger.locks import Lock
from ainp2p.ledger.operations import ParsedOperation, SignedOperation, operation_id, parse
from ainp2p.ledger.state import Changes, Credit, State
from ainp2p.protocol.codec import encode, fast_decoder

FORMAT = 1
_read_signed = fast_decoder(SignedOperation)
_read_account = fast_decoder(Account)
_read_lock = fast_decoder(Lock)
_PAGE = 1000  # operations read at a time

_TABLES = (
    "CREATE TABLE IF NOT EXISTS ledger_meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID",
    # n: the order in which this node applied them. One decided operation per slot: a broken promise fails.
    """CREATE TABLE IF NOT EXISTS ledger_operations (n INTEGER PRIMARY KEY, id BLOB NOT NULL,
       object BLOB NOT NULL, seq INTEGER NOT NULL, signed BLOB NOT NULL, certificate BLOB NOT NULL)""",
    "CREATE UNIQUE INDEX IF NOT EXISTS ledger_slots ON ledger_operations (object, seq)",
    "CREATE TABLE IF NOT EXISTS ledger_accounts (id BLOB PRIMARY KEY, state BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS ledger_locks (id BLOB PRIMARY KEY, state BLOB NOT NULL) WITHOUT ROWID",
    """CREATE TABLE IF NOT EXISTS ledger_credits
       (id BLOB PRIMARY KEY, account BLOB NOT NULL, amount INTEGER NOT NULL) WITHOUT ROWID""",
)


@dataclass(frozen=True, slots=True)
class Decided:
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
    """The ledger's tables in a `Database`, which may hold other tables as well."""

    def __init__(self, database: Database, genesis: Genesis) -> None:
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

    @property
    def count(self) -> int:
        """How many decided operations are stored."""
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
            self._write(batch)

    def _write(self, batch: Sequence[Decided]) -> None:
        many = self.database.executemany
        many("INSERT INTO ledger_operations VALUES (?, ?, ?, ?, ?, ?)", self._operation_rows(batch))
        # Later states of one object replace earlier ones of the same batch before they are written.
        accounts = {account.id: account for decided in batch for account in decided.changes.accounts}
        locks = {lock.id: lock for decided in batch for lock in decided.changes.locks}
        many("INSERT OR REPLACE INTO ledger_accounts VALUES (?, ?)", _state_rows(accounts))
        many("INSERT OR REPLACE INTO ledger_locks VALUES (?, ?)", _state_rows(locks))
        made = {id_: credit for decided in batch for id_, credit in decided.changes.made}
        consumed = [
            (id_,) for decided in batch for id_ in decided.changes.consumed if not made.pop(id_, None)
        ]
        many(
            "INSERT INTO ledger_credits VALUES (?, ?, ?)",
            [(id_, made[id_].account, made[id_].amount) for id_ in sorted(made)],
        )
        many("DELETE FROM ledger_credits WHERE id = ?", consumed)
        burnt = sum(decided.changes.burnt for decided in batch)
        many("UPDATE ledger_meta SET value = value + ? WHERE key = 'burnt'", [(burnt,)])

    def _operation_rows(self, batch: Sequence[Decided]) -> Iterator[tuple[object, ...]]:
        for n, decided in enumerate(batch, start=self.count + 1):
            parsed = decided.parsed
            operation = parsed.operation
            yield n, parsed.id, operation.object, operation.seq, encode(parsed.signed), decided.certificate

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

    def _check_meta(self) -> None:
        meta: dict[str, object] = dict(self.database.execute("SELECT key, value FROM ledger_meta"))
        if meta.get("format") != encode(FORMAT):
            raise StorageError(f"{self.database.path} has a format that this release does not know")
        if meta.get("genesis") != encode(self._genesis):
            raise StorageError(f"{self.database.path} belongs to another network")

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

    def _stored(self, where: str, parameters: tuple[object, ...]) -> list[Stored]:
        sql = f"SELECT n, id, signed, certificate FROM ledger_operations {where}"
        rows = self.database.execute(sql, parameters)
        return [Stored(n, id_, self._signed(n, id_, signed), cert) for n, id_, signed, cert in rows]

    def _signed(self, n: int, id_: bytes, raw: bytes) -> SignedOperation:
        try:
            signed = _read_signed(raw)
        except Error as exc:
            raise self._damaged(f"operation {n} cannot be read") from exc
        if operation_id(signed.raw) != id_:
            raise self._damaged(f"operation {n} is not the one that was stored")
        return signed

    def load(self, *, verify: bool = True) -> State:
        """The state after all stored operations.

        Args:
            verify: replay every operation and compare the result with the tables (about 25 µs each). Without
                it the tables are read as they are, and only their shape and the supply are checked.

        Raises:
            StorageError: damaged: tables and operations contradict each other, or rows cannot be read.
        """
        tables = self._read_tables()
        if not verify:
            return tables
        replayed = self._replay()
        if replayed.root() != tables.root():
            raise self._damaged("the tables are not what the operations lead to")
        return replayed

    def _replay(self) -> State:
        state, n = State(self._genesis), 0
        while page := self.operations(after=n):
            for stored in page:
                n += 1
                if stored.n != n:
                    raise self._damaged(f"operation {n} is missing")
                try:
                    state.apply(parse(stored.signed))
                except Error as exc:
                    raise self._damaged(f"operation {n} cannot be replayed: {exc}") from exc
        return state

    def _read_tables(self) -> State:
        state = State(self._genesis, grants=False)
        execute = self.database.execute
        try:
            for id_, account, amount in execute("SELECT id, account, amount FROM ledger_credits ORDER BY id"):
                state.add_credit(id_, Credit(account, amount))
            accounts = [_read_account(raw) for raw in self._states("ledger_accounts")]
            locks = [_read_lock(raw) for raw in self._states("ledger_locks")]
        except (Error, TypeError) as exc:
            raise self._damaged(f"the tables cannot be read: {exc}") from exc
        state.commit(Changes(accounts=tuple(accounts), locks=tuple(locks)))
        state.burnt = execute("SELECT value FROM ledger_meta WHERE key = 'burnt'")[0][0]
        state.operations = self.count
        if state.supply().total != state.minted:
            raise self._damaged("the tables hold more or less than was ever made")
        return state

    def _states(self, table: str) -> list[bytes]:
        return [raw for (raw,) in self.database.execute(f"SELECT state FROM {table} ORDER BY id")]

    def _damaged(self, what: str) -> StorageError:
        return StorageError(
            f"{self.database.path} is damaged: {what}; restore a backup, or sync from peers anew"
        )


def _state_rows(objects: dict[bytes, Account] | dict[bytes, Lock]) -> list[tuple[bytes, bytes]]:
    return [(id_, encode(state)) for id_, state in sorted(objects.items())]
