from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ainp2p.errors import InvalidOperation, StorageError
from ainp2p.ledger.database import Database
from ainp2p.ledger.rules.operations import SignedOperation, parse, purpose_digest
from ainp2p.ledger.rules.receipts import close_operation, refund_operation, settle_operation
from ainp2p.ledger.rules.state import State
from ainp2p.ledger.rules.system import epoch_ends_at
from ainp2p.ledger.store import Decided, Store
from ainp2p.protocol.codec import encode

from .world import LEASE, World, guarded_inception_of, key_of

FIXTURES = Path(__file__).parent / "fixtures"


class Node:
    """A world whose decided operations go to a store."""

    def __init__(self, path: Path, world: World | None = None) -> None:
        self.path = path
        self.world = world or World()
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


def without_owner(node: Node) -> None:
    """VOID, RECOVER, two epochs with an offender, bonds burnt and returned, a Lock that has ended."""
    world = node.world
    world.state.check_committee = lambda parsed: None
    node.decide(world.void("alice"), world.spend("bob"))
    world.now += LEASE
    node.decide(world.recover("bob", "new"))
    terms = {"authority": (world.network,), "purpose": purpose_digest(b"bond"), "deposit": 400_000}
    for validator, life in (("v2", 1_000), ("v3", 10**6)):
        bond = world.terms("carol", closer=key_of(validator).public, expiry=world.now + life, **terms)
        node.decide(world.spend("carol", locks=[bond]))
    for offenders in ((), ("v3",)):
        world.now = epoch_ends_at(world.state.system)
        node.decide(world.end_epoch())
        node.decide(world.next_committee("v1", offenders))
    node.decide(world.spend("carol", [("alice", 7)], epoch=2))


@pytest.fixture
def epochs(tmp_path: Path) -> Iterator[Node]:
    """A node that has seen two epochs change."""
    world = World(inception=guarded_inception_of, validators=(("v1", 4), ("v2", 4), ("v3", 4)))
    node = Node(tmp_path / "ledger", world)
    without_owner(node)
    yield node
    node.database.close()


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


# --- epochs, recoveries, ended Locks ----------------------------------------------------------------


@pytest.mark.parametrize("verify", [True, False])
def test_epochs_recoveries_and_debts_come_back_after_a_restart(epochs: Node, verify: bool) -> None:
    epochs.reopen()
    loaded, state = epochs.store.load(verify=verify), epochs.world.state
    assert loaded.root() == state.root()
    assert loaded.system == state.system
    assert loaded.system.epoch == loaded.epoch == 2
    assert [loaded.committee(epoch) for epoch in range(3)] == [state.committee(epoch) for epoch in range(3)]
    assert loaded.parameters == state.parameters
    assert loaded.supply() == loaded.recount() == state.supply()
    assert loaded.accounts[epochs.world.ids["alice"]].debt == state.parameters[0].void_debt
    assert loaded.accounts[epochs.world.ids["bob"]].key == key_of("new").public
    assert loaded.succession((), epochs.world.now) == state.succession((), epochs.world.now)


@pytest.mark.parametrize("verify", [True, False])
def test_ended_locks_are_on_disk_only(epochs: Node, verify: bool) -> None:
    ended = [lock for lock in epochs.world.state.locks.values() if lock.ended]
    assert len(ended) == 2
    epochs.reopen()
    loaded = epochs.store.load(verify=verify)
    assert loaded.locks == {}
    for lock in ended:
        assert loaded.find_lock(lock.id) == lock
        assert loaded.head(lock.id) == (lock.seq, lock.head)


def test_a4_a_late_duplicate_on_a_forgotten_lock_is_still_refused(node: Node) -> None:
    world = node.world
    opened = node.apply(world.spend("alice", locks=[world.terms()]))
    (lock,) = opened.changes.locks
    end = close_operation(world.network, lock, None, key_of("bob"))
    ended = node.apply(end)
    node.store.commit([opened, ended])
    world.state.ended_lock = node.store.ended_lock
    world.state.release(ended.changes.locks)
    assert world.state.locks == {}
    assert not world.state.apply(parse(end))  # a repeat: no error, no change
    with pytest.raises(InvalidOperation, match="ended"):
        world.state.check(parse(settle_operation(lock, world.receipt(lock, 300))), world.now)
    with pytest.raises(InvalidOperation, match="ended"):
        world.state.apply(parse(refund_operation(world.network, lock)))
    assert world.state.supply() == world.state.recount()


def test_open_locks_are_never_released(node: Node) -> None:
    lock = node.world.open_lock()
    node.world.state.ended_lock = node.store.ended_lock
    node.world.state.release([lock])
    assert node.world.state.locks == {lock.id: lock}


def test_the_state_at_an_earlier_frontier_is_the_one_of_then(node: Node) -> None:
    world = node.world
    node.decide(world.spend("alice", [("bob", 5)]))
    node.decide(world.spend("bob"))
    frontier = {id_: world.state.head(id_)[0] for id_ in world.ids.values()}
    root = world.state.root()
    busy(node)
    assert node.store.state_at(frontier).root() == root
    assert node.store.state_at({}).root() == State(world.genesis).root()


def test_a_frontier_without_what_it_depends_on_is_refused(node: Node) -> None:
    node.decide(node.world.spend("alice", [("bob", 5)]))
    node.decide(node.world.spend("bob"))
    with pytest.raises(StorageError):
        node.store.state_at({node.world.ids["bob"]: 1})


# --- files of earlier releases -----------------------------------------------------------------------


@pytest.mark.parametrize("verify", [True, False])
def test_b6_a_file_of_the_release_before_opens_with_all_that_was_in_it(tmp_path: Path, verify: bool) -> None:
    path = tmp_path / "ledger"
    path.write_bytes(gzip.decompress((FIXTURES / "store-format-1.sqlite.gz").read_bytes()))
    node = Node(path)
    expected = Node(tmp_path / "new")
    busy(expected)
    for _ in range(2):  # as it was, and once it has been upgraded
        loaded = node.store.load(verify=verify)
        assert loaded.root() == expected.world.state.root()
        assert loaded.supply() == expected.world.state.supply()
        assert loaded.operations == 5
        assert [lock.ended for lock in loaded.locks.values()] == [0]
        (ended,) = [lock for lock in expected.world.state.locks.values() if lock.ended]
        assert loaded.find_lock(ended.id) == ended
        node.reopen()
    node.world.state, node.world.now = node.store.load(), expected.world.now
    node.decide(node.world.spend("alice"))  # and it goes on
    node.database.close()
    expected.database.close()


def test_b6_a_damaged_file_of_the_release_before_is_refused_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    path.write_bytes(gzip.decompress((FIXTURES / "store-format-1.sqlite.gz").read_bytes()))
    database = Database(path)
    with database.transaction():
        database.execute("UPDATE ledger_locks SET state = 'text'")
    with pytest.raises(StorageError, match="damaged"):
        Store(database, World().genesis)
    assert database.execute("SELECT value FROM ledger_meta WHERE key = 'format'") == [(encode(1),)]
    database.close()


def test_b6_a_file_of_a_later_release_is_refused_with_a_way_out(node: Node) -> None:
    with node.database.transaction():
        node.database.execute("UPDATE ledger_meta SET value = ? WHERE key = 'format'", (encode(4),))
    with pytest.raises(StorageError, match="open it with the release that wrote it"):
        Store(node.database, node.world.genesis)


def _mutant_without_upgrade(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Store, "_upgrade", lambda self: None)


def test_b6_a_mutant_that_upgrades_nothing_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _mutant_without_upgrade(monkeypatch)
    with pytest.raises((AssertionError, StorageError)):
        test_b6_a_file_of_the_release_before_opens_with_all_that_was_in_it(tmp_path, True)


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


DAMAGE_OF_EPOCHS = {
    "the System is gone": "DELETE FROM ledger_system",
    "the System is cut": "UPDATE ledger_system SET state = substr(state, 1, 40)",
    "the System's last byte changed": (
        "UPDATE ledger_system SET state = CAST(substr(state, 1, length(state) - 1) || x'01' AS BLOB)"
    ),
    "an ended lock is gone": "DELETE FROM ledger_ended",
    "an ended lock is text": "UPDATE ledger_ended SET state = 'text'",
    "a lock ended too early": "INSERT INTO ledger_ended SELECT zeroblob(32), state FROM ledger_ended LIMIT 1",
    "a committee is gone": "DELETE FROM ledger_operations WHERE object = (SELECT id FROM ledger_system)",
}


@pytest.mark.parametrize("sql", DAMAGE_OF_EPOCHS.values(), ids=DAMAGE_OF_EPOCHS.keys())
def test_b4_a_damaged_row_of_epochs_is_found_at_start(epochs: Node, sql: str) -> None:
    with epochs.database.transaction():
        epochs.database.execute(sql)
    epochs.reopen()
    with pytest.raises(StorageError, match="damaged"):
        epochs.store.load()


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
