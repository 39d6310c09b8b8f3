from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ainp2p.errors import StorageError
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.operations import NextCommittee, Spend, lock_id, parse
from ainp2p.ledger.rules.receipts import close_operation, settle_operation
from ainp2p.ledger.rules.state_tree import ACCOUNT, CREDIT, LOCK, verify_path
from ainp2p.ledger.voting import checkpoints as checkpoints_module
from ainp2p.ledger.voting import pruning as pruning_module
from ainp2p.ledger.voting.archive import Archive
from ainp2p.ledger.voting.attachments import HANDOFF
from ainp2p.ledger.voting.checkpoints import Checkpoints
from ainp2p.ledger.voting.committee_chain import CommitteeChain
from ainp2p.ledger.voting.handoff import Leaving, make_handoff
from ainp2p.ledger.voting.pruning import Pruner
from ainp2p.ledger.voting.validator_store import SqliteJournal
from ainp2p.protocol.codec import encode

from ..pruned import Pair
from ..world import key_of


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(tmp_path)
    yield pair
    pair.close()


def live(pair: Pair, rounds: int = 3) -> Lock:
    """Payments, a Lock that ends, one that stays open and is settled; returns that one."""
    world = pair.world
    for _ in range(rounds):
        pair.decide(world.spend("alice", [("bob", 5), ("carol", 6)]))
        pair.decide(world.spend("bob", [("alice", 1)]))
    pair.decide(world.spend("alice", locks=[world.terms(), world.terms()]))
    ends, stays = list(world.state.locks.values())[-2:]
    pair.decide(close_operation(world.network, ends, None, key_of("bob")))
    pair.decide(settle_operation(stays, world.receipt(stays, 300)))
    stays = world.state.locks[stays.id]
    pair.decide(settle_operation(stays, world.receipt(stays, 400)))
    pair.decide(world.spend("carol", [("bob", 9)]), world.spend("alice"))
    return world.state.locks[stays.id]


def prove_everything(pair: Pair) -> None:
    """Each account, Lock and credit, from what the pruned disk has, against the chain from the genesis."""
    store, state = pair.pruned.store, pair.world.state
    chain = CommitteeChain.from_genesis(pair.world.genesis)
    for stored in store.history(pair.network):
        if isinstance(pair_operation(pair, stored.id), NextCommittee):
            chain.extend(encode(stored.signed), certificate_of(pair, stored.id))
    base = store.checkpoints.base
    root = chain.epoch(base.epoch).state_root if base is not None else None

    def is_final(id_: bytes) -> bool:
        if pair.pruned.journal.find(id_) is None:
            return False
        chain.check(certificate_of(pair, id_), id_)
        return True

    for account in state.accounts.values():
        assert is_final(account.head)
    for lock in state.locks.values():
        if not lock.ended:
            assert lock.seq == 0 or is_final(lock.head)
            assert is_final(opening_of(pair, lock.id))
    for id_, credit in state.credits.items():
        if id_[:32] != pair.network and not (is_final(id_[:32]) and before_is_there(pair, id_[:32])):
            assert root is not None
            _, proof = store.checkpoints.prove(CREDIT, id_)
            assert verify_path(proof, root).state == encode(credit)


def before_is_there(pair: Pair, maker: bytes) -> bool:
    """What a Lock's payment is proven by, besides its maker."""
    operation = next(parsed.operation for parsed in pair.operations if parsed.id == maker)
    if isinstance(operation.body, Spend) or operation.seq == 1:
        return True
    return pair.pruned.journal.find(operation.previous) is not None


def pair_operation(pair: Pair, id_: bytes) -> object:
    return next(parsed for parsed in pair.operations if parsed.id == id_).operation.body


def certificate_of(pair: Pair, id_: bytes) -> bytes:
    """As `Archive.certificate` makes it."""
    certificate = Archive(pair.pruned.journal, pair.committee, pair.world.state.epoch).certificate(id_)
    assert certificate is not None
    return certificate


def opening_of(pair: Pair, lock: bytes) -> bytes:
    return next(
        parsed.id
        for parsed in pair.operations
        for index in range(len(getattr(parsed.operation.body, "locks", ())))
        if lock_id(parsed.id, index) == lock
    )


def same_after_restart(pair: Pair) -> None:
    root = pair.world.state.root()
    loaded = pair.pruned.reopen()
    assert loaded.root() == pair.archive.store.load().root() == root
    assert loaded.operations == len(pair.operations)
    assert loaded.supply() == loaded.recount() == pair.world.state.supply()
    assert pair.pruned.store.load(verify=False).root() == root


# --- what stays and what goes -------------------------------------------------------------------------


def test_nothing_goes_before_the_first_checkpoint(pair: Pair) -> None:
    live(pair)
    pair.idle_once()
    assert pair.pruned.rows("ledger_operations") == len(pair.operations)
    assert pair.pruned.rows("ledger_leaves") == 0


def test_a_checkpoint_leaves_heads_open_locks_and_the_system(pair: Pair) -> None:
    open_lock = live(pair, rounds=20)
    pair.turn()
    pair.idle()
    kept = {stored.id for stored in pair.pruned.store.operations()}
    state = pair.world.state
    heads = {account.head for account in state.accounts.values()}
    system = {p.id for p in pair.operations if p.operation.object == pair.network}
    assert kept == heads | system | {open_lock.head, opening_of(pair, open_lock.id)}
    assert pair.pruned.rows("vote_places") == len(kept)
    assert pair.pruned.rows("ledger_ended") == 0
    assert pair.archive.rows("ledger_operations") == len(pair.operations)
    prove_everything(pair)
    same_after_restart(pair)


def test_batches_of_past_epochs_go_and_those_of_this_one_stay(pair: Pair) -> None:
    live(pair)
    pair.turn()
    pair.idle()
    sql = "SELECT DISTINCT member >> 8 FROM vote_batches ORDER BY 1"
    assert pair.pruned.database.execute(sql) == [(1,)]
    assert pair.archive.database.execute(sql) == [(0,), (1,)]


def test_what_is_newer_than_the_checkpoint_stays_whole(pair: Pair) -> None:
    live(pair)
    pair.turn()
    pair.idle()
    before = pair.pruned.rows("ledger_operations")
    live(pair)
    assert pair.pruned.rows("ledger_operations") > before + 9
    prove_everything(pair)
    same_after_restart(pair)


def test_epoch_after_epoch_the_disk_stays_as_small(pair: Pair) -> None:
    sizes = []
    for _ in range(4):
        live(pair, rounds=10)
        pair.turn()
        pair.idle()
        same_after_restart(pair)
        prove_everything(pair)
        sizes.append([pair.pruned.rows(t) for t in ("vote_batches", "ledger_checkpoints", "vote_places")])
    # Each epoch leaves END-EPOCH, COMMITTEE and one more open Lock, with two operations that prove it.
    assert all(later[2] - earlier[2] <= 4 for earlier, later in itertools.pairwise(sizes))
    assert {size[1] for size in sizes} == {1}
    assert max(size[0] for size in sizes) < 200


def test_an_archive_begins_no_checkpoint(pair: Pair) -> None:
    live(pair)
    pair.turn()
    pair.idle()
    assert pair.archive.store.checkpoints.all() == []
    assert pair.archive.store.load().root() == pair.world.state.root()


def test_operations_go_on_while_leaves_are_copied(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning_module, "ROWS", 1)
    live(pair)
    pair.turn()
    root = pair.world.state.system.root
    live(pair)  # accounts change, credits come and go, a Lock opens and ends: after the freeze
    pair.idle()
    assert pair.pruned.store.checkpoints.base is not None
    assert pair.pruned.store.checkpoints.base.root == root
    prove_everything(pair)
    same_after_restart(pair)


def test_a_second_epoch_that_ends_while_the_first_one_is_copied_takes_its_place(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning_module, "ROWS", 1)
    live(pair)
    pair.turn()
    assert pair.pruned.store.checkpoints.copying == 1
    pair.turn()
    pair.idle()
    assert [each.epoch for each in pair.pruned.store.checkpoints.all()] == [2]
    prove_everything(pair)
    same_after_restart(pair)


def test_a_state_that_is_not_the_committee_s_is_no_checkpoint(pair: Pair) -> None:
    live(pair)
    world = pair.world
    pair.decide(world.end_epoch())
    committee = world.next_committee("v1", state_root=bytes(32))  # of a union that this node was ahead of
    pair.decide(committee)
    pair.idle()
    assert pair.pruned.store.checkpoints.all() == []
    assert pair.pruned.rows("ledger_leaves") == 0
    assert pair.pruned.rows("ledger_operations") == len(pair.operations)
    same_after_restart(pair)
    pair.turn()
    pair.idle()
    assert pair.pruned.rows("ledger_operations") < len(pair.operations)
    same_after_restart(pair)


def test_frontiers_of_pruned_nodes_and_archives_are_the_same(pair: Pair) -> None:
    for _ in range(3):
        live(pair)
        assert pair.pruned.journal.heads() == pair.archive.journal.heads()
        pair.turn()
        assert pair.pruned.journal.heads() == pair.archive.journal.heads()
        pair.idle()
        assert pair.pruned.journal.heads() == pair.archive.journal.heads()


def test_a_proof_is_there_for_everything_at_the_checkpoint(pair: Pair) -> None:
    live(pair)
    pair.decide(pair.world.end_epoch())
    tree, state = pair.world.state.tree(), pair.world.state
    ids = [(ACCOUNT, id_) for id_ in state.accounts]
    ids += [(CREDIT, id_) for id_ in state.credits]
    ids += [(LOCK, id_) for id_, lock in state.locks.items() if not lock.ended]
    pair.decide(pair.world.next_committee("v1"))
    pair.idle()
    for kind, id_ in ids:
        assert pair.pruned.store.checkpoints.prove(kind, id_) == (1, tree.prove(kind, id_))


def test_a_slot_that_was_pruned_has_no_operation_any_more(pair: Pair) -> None:
    live(pair)
    alice = pair.world.ids["alice"]
    seq, head = pair.world.state.head(alice)
    pair.turn()
    pair.idle()
    assert pair.pruned.journal.decided_at(alice, seq) == head
    assert pair.pruned.journal.decided_at(alice, 1) is None
    assert pair.archive.journal.decided_at(alice, 1) is not None
    assert pair.pruned.store.is_pruned(alice, 1)
    assert not pair.pruned.store.is_pruned(alice, seq)
    assert not pair.pruned.store.is_pruned(alice, seq + 1)


def handoff(pair: Pair, epoch: int) -> tuple[bytes, ...]:
    leaving = Leaving({}, {}, {})
    key = pair.keys[0]
    return tuple(make_handoff(pair.network, epoch, key.public, 1, 4, leaving, key))


def test_handoffs_go_once_no_epoch_rests_on_them(pair: Pair) -> None:
    garbage = b"\x92" + bytes([HANDOFF])  # recorded by a member that mocks us
    for epoch in range(3):
        live(pair)
        attachments = [*handoff(pair, epoch), *([garbage] if epoch == 0 else [])]
        pair.keep(attachments)
        pair.turn()
        pair.idle()
    held = {raw for (raw,) in pair.pruned.database.execute("SELECT raw FROM vote_attachments")}
    assert held == {*handoff(pair, 2)}
    assert pair.archive.rows("vote_attachments") == 4


def test_a_late_duplicate_on_a_pruned_lock_changes_nothing(pair: Pair) -> None:
    world = pair.world
    (opened,) = pair.decide(world.spend("alice", locks=[world.terms()]))
    lock = world.state.locks[lock_id(opened.id, 0)]
    end = close_operation(world.network, lock, None, key_of("bob"))
    pair.decide(end)
    pair.turn()
    pair.idle()
    loaded = pair.pruned.reopen()
    assert loaded.find_lock(lock.id) is None
    with pytest.raises(Exception, match="unknown-lock"):
        loaded.check(parse(end), world.now)


def test_b6_a_release_that_knows_no_checkpoints_refuses_a_pruned_file(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    live(pair)
    pair.turn()
    pair.idle()
    same_after_restart(pair)
    pair.archive.reopen()
    monkeypatch.setattr("ainp2p.ledger.store.PRUNED_FORMAT", 0)
    with pytest.raises(StorageError, match="a format that this release does not know"):
        pair.pruned.reopen()
    monkeypatch.undo()
    pair.pruned.reopen()
    monkeypatch.setattr("ainp2p.ledger.store.PRUNED_FORMAT", 0)
    pair.archive.reopen()  # nothing of it is gone: it opens as before


# --- cuts -----------------------------------------------------------------------------------------------


def test_b2_a_restart_between_any_two_steps_goes_on(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning_module, "ROWS", 3)
    monkeypatch.setattr(pruning_module, "OPERATIONS", 3)
    monkeypatch.setattr("ainp2p.ledger.voting.validator_store._IDLE_STEPS", 1)
    live(pair)
    pair.turn()
    cuts = 0
    while not pair.pruned.done:
        same_after_restart(pair)
        prove_everything(pair)
        if cuts % 5 == 4:
            pair.decide(pair.world.spend("alice", [("bob", 1)]))
        pair.idle_once()
        cuts += 1
    assert cuts > 12
    same_after_restart(pair)
    prove_everything(pair)


def test_b2_a_write_that_fails_leaves_the_step_before(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    live(pair)
    pair.turn()
    original = Pruner._drop_batches

    def fail(self: Pruner, *args: Any) -> bool:
        original(self, *args)
        raise StorageError("the disk is full")

    monkeypatch.setattr(Pruner, "_drop_batches", fail)
    with pytest.raises(StorageError):
        pair.idle()
    monkeypatch.setattr(Pruner, "_drop_batches", original)
    pair.segment -= 1
    same_after_restart(pair)
    prove_everything(pair)


# --- mutants --------------------------------------------------------------------------------------------


def _credit_dropped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Checkpoints, "_credits", lambda self, where, parameters: [])


def _opening_dropped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        pruning_module,
        "stays",
        lambda checkpoints, epoch, network, parsed: (
            parsed.operation.object == network
            or pruning_module._head(checkpoints, epoch, parsed.operation.object) == parsed.id
        ),
    )


def _batches_first(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Pruner, "_make_certificate", lambda self, stored, before=0: None)


def _nothing_saved(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Checkpoints, "save", lambda self, changes: None)


def _root_not_checked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(checkpoints_module, "FAILED", checkpoints_module.USABLE)


def _ended_locks_in_frontiers(patch: pytest.MonkeyPatch) -> None:
    def heads(self: SqliteJournal) -> dict[bytes, tuple[int, bytes]]:
        rows = self._database.execute("SELECT object, MAX(seq), id FROM ledger_operations GROUP BY object")
        return {object_: (seq, id_) for object_, seq, id_ in rows}

    patch.setattr(SqliteJournal, "heads", heads)


@pytest.mark.parametrize(
    ("mutate", "check"),
    [
        pytest.param(_credit_dropped, test_a_checkpoint_leaves_heads_open_locks_and_the_system, id="credit"),
        pytest.param(
            _opening_dropped, test_a_checkpoint_leaves_heads_open_locks_and_the_system, id="opening of a Lock"
        ),
        pytest.param(
            _batches_first, test_a_checkpoint_leaves_heads_open_locks_and_the_system, id="certificates"
        ),
        pytest.param(
            _root_not_checked,
            test_a_state_that_is_not_the_committee_s_is_no_checkpoint,
            id="root not checked",
        ),
        pytest.param(
            _ended_locks_in_frontiers,
            test_frontiers_of_pruned_nodes_and_archives_are_the_same,
            id="ended Locks in frontiers",
        ),
    ],
)
def test_a_mutant_is_caught(
    mutate: Callable[[pytest.MonkeyPatch], None],
    check: Callable[[Pair], None],
    pair: Pair,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mutate(monkeypatch)
    with pytest.raises((AssertionError, StorageError, IndexError)):
        check(pair)


def test_a_mutant_that_saves_nothing_is_caught(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    _nothing_saved(monkeypatch)
    with pytest.raises(AssertionError):
        test_operations_go_on_while_leaves_are_copied(pair, monkeypatch)
