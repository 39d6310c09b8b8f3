from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ainp2p.ledger.database import Database
from ainp2p.ledger.openings import Openings, opened
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.rules.operations import parse
from ainp2p.ledger.rules.receipts import close_operation
from ainp2p.ledger.serving import answers
from ainp2p.ledger.serving.answers import Answers
from ainp2p.ledger.serving.checkpoint_desk import CheckpointDesk
from ainp2p.ledger.serving.checkpoint_messages import FetchCheckpoint
from ainp2p.ledger.serving.checkpoint_sync import Taking
from ainp2p.ledger.serving.core_lock import CoreLock
from ainp2p.ledger.serving.messages import ObjectHead
from ainp2p.ledger.serving.proofs import Proofs
from ainp2p.ledger.store import Decided, Store

from .bench import Bench
from .pruned import Pair, PrunedDisk
from .world import World, key_of


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "openings") as database:
        yield database


def open_some(world: World, store: Store, count: int = 3) -> list[bytes]:
    """SPENDs of two Locks each, on disk; the Locks."""
    found: list[bytes] = []
    for _ in range(count):
        parsed = parse(world.spend("alice", locks=[world.terms()] * 2))
        store.commit([Decided(parsed, world.state.apply(parsed))])
        found += opened(parsed)
    return found


def test_the_operation_that_opened_a_lock_is_found_after_a_restart(database: Database) -> None:
    world = World()
    locks = open_some(world, Store(database, world.genesis))
    again = Store(database, world.genesis)
    for id_ in locks:
        opening = again.openings.of(id_)
        assert opening is not None
        assert id_ in opened(next(parse(s.signed) for s in again.operations() if s.id == opening))
    assert again.openings.of(b"n" * 32) is None


def test_b6_a_file_of_an_earlier_release_gets_the_table_from_its_operations(database: Database) -> None:
    world = World()
    locks = open_some(world, Store(database, world.genesis))
    with database.transaction():
        database.execute("DROP TABLE ledger_openings")
    again = Openings(database)
    assert all(again.of(id_) is not None for id_ in locks)


def test_what_opened_a_lock_that_ended_before_a_checkpoint_is_dropped(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    world = pair.world
    pair.decide(world.spend("alice", locks=[world.terms(), world.terms()]))
    ends, stays = world.state.locks.values()
    pair.decide(close_operation(world.network, ends, None, key_of("bob")))
    pair.decide(world.spend("alice"))
    pair.turn()
    pair.idle()
    assert pair.pruned.store.openings.of(ends.id) is None
    assert pair.pruned.store.openings.of(stays.id) is not None
    assert pair.archive.store.openings.of(ends.id) is not None
    assert pair.pruned.rows("ledger_openings") == 1
    pair.close()


def test_who_starts_from_a_checkpoint_knows_what_opened_its_locks(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    world = pair.world
    pair.decide(world.spend("alice", locks=[world.terms(), world.terms()]))
    pair.decide(close_operation(world.network, next(iter(world.state.locks.values())), None, key_of("bob")))
    pair.turn()
    pair.idle()
    newcomer = PrunedDisk(tmp_path / "newcomer", world)
    pages = CheckpointDesk(pair.pruned.store, CoreLock()).pages(FetchCheckpoint(0))
    taking = Taking(world.genesis, newcomer.database, newcomer.store, after=0)
    for page in pages:
        taking.take(page)
    taking.install()
    stays = [lock.id for lock in world.state.locks.values() if not lock.ended]
    assert [newcomer.store.openings.of(id_) for id_ in stays] == [
        pair.pruned.store.openings.of(id_) for id_ in stays
    ]
    assert newcomer.rows("ledger_openings") == 2  # the SPEND that is kept opened the other one, too
    newcomer.database.close()
    pair.close()


# --- answers ------------------------------------------------------------------------------------------


def many_locks(count: int) -> tuple[Answers, dict[bytes, bytes], ObjectHead, Genesis]:
    """A validator that has opened so many Locks; what it holds in memory, and its answer for the first."""
    bench = Bench()
    disk: dict[bytes, bytes] = {}
    asked = Answers(bench.validator, None, disk.get)
    first = b""
    for _ in range(count):
        signed = bench.spend("alice", locks=[bench.terms()])
        bench.decide(signed)
        parsed = parse(signed)
        asked.note(parsed)
        disk |= dict.fromkeys(opened(parsed), parsed.id)
        first = first or opened(parsed)[0]
    return asked, disk, asked.object_head(first), bench.genesis


def test_memory_stays_flat_however_many_locks_are_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "JUST_OPENED_MAX", 4)
    asked, disk, head, genesis = many_locks(9)
    assert len(asked._just_opened) == 4
    assert len(disk) == 9
    assert Proofs(genesis).lock(head)[0].id == head.object


def test_mutant_what_was_opened_stays_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "JUST_OPENED_MAX", 10**9)
    asked = many_locks(9)[0]
    assert len(asked._just_opened) == 9
