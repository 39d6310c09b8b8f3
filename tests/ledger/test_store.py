from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ainp2p.errors import StorageError
from ainp2p.ledger.database import Database
from ainp2p.ledger.operations import SignedOperation, parse
from ainp2p.ledger.receipts import refund_operation, settle_operation
from ainp2p.ledger.state import State
from ainp2p.ledger.store import Decided, Store
from ainp2p.protocol.codec import encode

from .world import World


class Node:
    """A world whose decided operations go to a store."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.world = World()
        self.open()

    def open(self) -> None:
        self.database = Database(self.path)
        self.store = Store(self.database, self.world.genesis)

    def reopen(self) -> None:
        self.database.close()
        self.open()

    def decide(self, *operations: SignedOperation, certificate: bytes = b"certificate") -> None:
        self.store.commit([self.apply(signed, certificate) for signed in operations])

    def apply(self, signed: SignedOperation, certificate: bytes = b"certificate") -> Decided:
        parsed = parse(signed)
        return Decided(parsed, self.world.state.apply(parsed), certificate)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "ledger")
    yield node
    node.database.close()


def busy(node: Node) -> None:
    """Every kind of operation, alone and in batches."""
    world = node.world
    node.decide(world.spend("alice", [("bob", 5), ("carol", 6)]))
    opened = node.apply(world.spend("alice", locks=[world.terms(), world.terms()]))
    one, other = opened.changes.locks
    settled = node.apply(settle_operation(one, world.receipt(one, 300)))
    spent = node.apply(world.spend("bob", [("alice", 1)]))
    node.store.commit([opened, settled, spent])  # the batch makes bob's credit and consumes it
    world.now = other.expiry
    node.decide(refund_operation(world.network, other))


def test_an_empty_store_loads_the_genesis(node: Node) -> None:
    assert node.store.count == 0
    assert node.store.load().root() == State(node.world.genesis).root()


@pytest.mark.parametrize("verify", [True, False])
def test_the_state_comes_back_after_a_restart(node: Node, verify: bool) -> None:
    busy(node)
    node.reopen()
    loaded = node.store.load(verify=verify)
    assert loaded.root() == node.world.state.root()
    assert loaded.supply() == node.world.state.supply()
    assert loaded.operations == node.store.count == 5
    for name, id_ in node.world.ids.items():
        assert loaded.credits_of(id_) == node.world.state.credits_of(id_), name


def test_a_loaded_state_goes_on(node: Node) -> None:
    busy(node)
    node.reopen()
    node.world.state = node.store.load()
    node.decide(node.world.spend("alice", [("bob", 9)]))
    assert node.store.load().root() == node.world.state.root()


def test_operations_come_back_in_order_with_their_certificates(node: Node) -> None:
    signed = [node.world.spend("alice", [("bob", 5)])]
    node.decide(signed[0], certificate=b"first")
    signed.append(node.world.spend("bob"))
    node.decide(signed[1], certificate=b"second")
    stored = node.store.operations()
    assert [(each.n, each.signed, each.certificate) for each in stored] == [
        (1, signed[0], b"first"),
        (2, signed[1], b"second"),
    ]
    assert stored[0].id == parse(signed[0]).id
    assert [each.n for each in node.store.operations(after=1)] == [2]
    assert [each.n for each in node.store.operations(limit=1)] == [1]


def test_the_history_of_one_object_is_its_own(node: Node) -> None:
    for _ in range(3):
        node.decide(node.world.spend("alice"), node.world.spend("bob"))
    history = node.store.history(node.world.ids["alice"], from_seq=2)
    assert [parse(each.signed).operation.seq for each in history] == [2, 3]
    assert node.store.history(b"x" * 32) == []
    assert len(node.store.history(node.world.ids["alice"], limit=1)) == 1


def test_repeats_are_not_stored(node: Node) -> None:
    signed = node.world.spend("alice")
    node.decide(signed)
    node.decide(signed)
    node.store.commit([])
    assert node.store.count == 1


def test_a_batch_is_written_whole_or_not_at_all(node: Node) -> None:
    first, second = node.apply(node.world.spend("alice")), node.apply(node.world.spend("bob"))
    node.store.commit([first])
    with pytest.raises(StorageError):
        node.store.commit([second, first])  # the slot of `first` is taken
    assert node.store.count == 1
    assert node.database.failed is not None
    with pytest.raises(StorageError):
        node.store.commit([second])
    assert [each.n for each in node.store.operations()] == [1]


def test_a_batch_may_share_a_transaction_with_other_tables(node: Node) -> None:
    decided = node.apply(node.world.spend("alice"))

    def abandoned() -> None:
        with node.database.transaction():
            node.store.commit([decided])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        abandoned()
    assert node.store.count == 0
    with node.database.transaction():
        node.store.commit([decided])
    assert node.store.count == 1


def test_another_network_s_file_is_refused(node: Node) -> None:
    with pytest.raises(StorageError, match="another network"):
        Store(node.database, World(purse=1).genesis)


def test_another_format_is_refused(node: Node) -> None:
    with node.database.transaction():
        node.database.execute("UPDATE ledger_meta SET value = ? WHERE key = 'format'", (encode(99),))
    with pytest.raises(StorageError, match="format"):
        Store(node.database, node.world.genesis)


# --- damage: found at start, never a wrong balance ------------------------------------------------------


DAMAGE = {
    "a credit is larger": "UPDATE ledger_credits SET amount = amount + 1",
    "a credit is gone": "DELETE FROM ledger_credits WHERE amount = 6",
    "a credit belongs to nobody": "UPDATE ledger_credits SET account = zeroblob(32)",
    "a credit's addressee is short": "UPDATE ledger_credits SET account = zeroblob(3)",
    "an account is gone": "DELETE FROM ledger_accounts",
    "an account's state is cut": "UPDATE ledger_accounts SET state = substr(state, 1, 20)",
    "an account's last byte changed": (
        "UPDATE ledger_accounts SET state = CAST(substr(state, 1, length(state) - 1) || x'01' AS BLOB)"
    ),
    "a lock is gone": "DELETE FROM ledger_locks",
    "a lock is text": "UPDATE ledger_locks SET state = 'text'",
    "the burnt sum is wrong": "UPDATE ledger_meta SET value = 0 WHERE key = 'burnt'",
    "an operation is gone": "DELETE FROM ledger_operations WHERE n = 2",
    "the last operation is gone": "DELETE FROM ledger_operations WHERE n = 5",
    "an operation's bytes are cut": "UPDATE ledger_operations SET signed = substr(signed, 1, 50) WHERE n = 3",
    "an operation has another id": "UPDATE ledger_operations SET id = zeroblob(32) WHERE n = 3",
    "an operation is another's": (
        "UPDATE ledger_operations SET (id, signed) = (SELECT id, signed FROM ledger_operations WHERE n = 1)"
        " WHERE n = 4"
    ),
}


@pytest.mark.parametrize("sql", DAMAGE.values(), ids=DAMAGE.keys())
def test_b4_a_damaged_row_is_found_at_start(node: Node, sql: str) -> None:
    busy(node)
    with node.database.transaction():
        node.database.execute(sql)
    node.reopen()
    with pytest.raises(StorageError, match="damaged"):
        node.store.load()


@pytest.mark.parametrize(
    "what", ["a credit is larger", "a credit is gone", "an account is gone", "a lock is text"]
)
def test_b4_even_without_a_replay_damage_never_changes_the_supply(node: Node, what: str) -> None:
    busy(node)
    with node.database.transaction():
        node.database.execute(DAMAGE[what])
    with pytest.raises(StorageError, match="damaged"):
        node.store.load(verify=False)


def test_b4_flipped_bytes_of_the_file_never_load_as_another_state(node: Node) -> None:
    busy(node)
    node.database.close()
    whole = node.path.read_bytes()
    root, found = node.world.state.root(), 0
    for at in range(0, len(whole), max(1, len(whole) // 200)):
        node.path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        try:
            node.open()
            assert node.store.load().root() == root
        except StorageError:
            found += 1
        finally:
            node.database.close()
    assert found > 10
    node.path.write_bytes(whole)


def _believe_the_tables(patch: pytest.MonkeyPatch) -> None:
    original = Store.load
    patch.setattr(Store, "load", lambda self, verify=True: original(self, verify=False))


def _believe_any_operation(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("ainp2p.ledger.store.operation_id", lambda raw: raw)
    patch.setattr(Store, "load", Store._read_tables)


@pytest.mark.parametrize("plant", [_believe_the_tables, _believe_any_operation])
def test_b4_a_mutant_that_compares_nothing_is_caught(
    node: Node, plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(pytest.fail.Exception):
        test_b4_a_damaged_row_is_found_at_start(node, DAMAGE["an account's last byte changed"])
