from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from ainp2p.errors import StorageError
from ainp2p.ledger.database import Database
from ainp2p.ledger.rules.operations import operation_id
from ainp2p.ledger.store import Store
from ainp2p.ledger.voting.certificate import verify_certificate
from ainp2p.ledger.voting.effects import TWO_OPERATIONS, Evidence, Records
from ainp2p.ledger.voting.validator import FINAL, WRITE_AFTER_MS, Validator
from ainp2p.ledger.voting.validator_store import SqliteJournal
from ainp2p.ledger.voting.votelog import lock_entry
from tests.ledger.bench import Bench
from tests.ledger.world import key_of


class Disk:
    """A validator's file, opened and closed as processes come and go."""

    def __init__(self, path: Path, bench: Bench) -> None:
        self.path, self.bench = path, bench
        self.open()

    def open(self) -> None:
        self.database = Database(self.path)
        self.store = Store(self.database, self.bench.genesis)
        self.journal = SqliteJournal(self.database, self.store)

    def restart(self) -> Validator:
        """Kill the process, start another one."""
        self.database.close()
        self.open()
        bench = self.bench
        bench.validator = Validator(bench.keys[0], bench.genesis, self.store.load(), self.journal)
        bench.heights()
        return bench.validator


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "validator.db", Bench())
    disk.restart()
    yield disk
    disk.database.close()


def test_b1_what_was_decided_and_voted_is_there_after_a_restart(disk: Disk) -> None:
    bench = disk.bench
    done = bench.decide(bench.spend("alice", [("bob", 5)]))
    bench.wait(2 * WRITE_AFTER_MS)
    first, second = (bench.spend("carol", [("bob", amount)]) for amount in (5, 6))
    bench.give(first)
    bench.wait()
    root = bench.validator.state.root()
    disk.restart()
    assert bench.validator.state.root() == root
    assert bench.validator.status(done) == FINAL
    certificate = bench.validator.certificate(done)
    assert certificate is not None
    assert verify_certificate(certificate, bench.committee, 0, bench.network) == done
    votes = len(bench.votes)
    bench.give(second)
    bench.wait(1_000)
    assert len(bench.votes) == votes
    bench.decide(first)
    assert bench.finals[-1] == operation_id(first.raw)


def test_b1_any_number_of_restarts_changes_nothing(disk: Disk) -> None:
    bench = disk.bench
    for i in range(12):
        bench.decide(bench.spend(("alice", "bob", "carol")[i % 3], [("bob", 1)]))
        if i % 2:
            bench.wait(2 * WRITE_AFTER_MS)
            disk.restart()
    assert bench.validator.state.operations == 12
    locks = [vote for vote in bench.votes if vote[0] == 1]
    assert len(locks) == len(set(locks)) == 12


def test_batches_and_votes_are_found(disk: Disk) -> None:
    bench = disk.bench
    signed = bench.spend("alice", [("bob", 5)])
    bench.give(signed)
    bench.vote(lock_entry, signed, 1, 2)
    bench.wait(2 * WRITE_AFTER_MS)
    one = disk.journal.batch(1, 1)
    assert one is not None
    assert disk.journal.batches(1, 1, 9) == [one]
    assert disk.journal.batch(1, 2) is None
    assert disk.journal.find(operation_id(signed.raw)) is None
    restored = disk.journal.restore(4)
    assert [signed for _, signed in restored.operations] == [signed]
    assert [len(log) for log in restored.batches] == [2 + len(bench.out.batches) - 2, 1, 1, 0]
    assert restored.segment >= 2


@pytest.mark.parametrize("epochs", [True, False])
def test_a_file_that_names_places_by_id_is_brought_up_to_date(disk: Disk, epochs: bool) -> None:
    bench = disk.bench
    done = [bench.decide(bench.spend(name, [("bob", 5)])) for name in ("alice", "carol")]
    bench.wait(2 * WRITE_AFTER_MS)
    certificates = [bench.validator.certificate(id_) for id_ in done]
    with disk.database.transaction():  # as earlier releases wrote it
        disk.database.execute(
            """CREATE TABLE vote_finals (id BLOB PRIMARY KEY, object BLOB NOT NULL, seq INTEGER NOT NULL,
               places BLOB NOT NULL, epoch INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID"""
        )
        disk.database.execute(
            """INSERT INTO vote_finals SELECT id, object, seq, places, epoch
               FROM ledger_operations JOIN vote_places USING (n)"""
        )
        if not epochs:
            disk.database.execute("ALTER TABLE vote_finals DROP COLUMN epoch")
        disk.database.execute("DROP TABLE vote_places")
        disk.database.execute("DROP INDEX vote_ids")
    validator = disk.restart()
    assert [validator.certificate(id_) for id_ in done] == certificates
    assert not disk.database.execute("SELECT 1 FROM sqlite_master WHERE name = 'vote_finals'")
    assert disk.restart().certificate(done[1]) == certificates[1]


def test_evidence_is_kept_for_ever(disk: Disk) -> None:
    bench = disk.bench
    for amount in (5, 6):
        bench.give(bench.spend("alice", [("bob", amount)]))
    bench.wait()
    disk.restart()
    (evidence,) = disk.journal.evidence()
    assert isinstance(evidence, Evidence)
    assert (evidence.kind, evidence.culprit) == (TWO_OPERATIONS, key_of("alice").public)


def test_floors_bound_what_a_restart_reads(disk: Disk) -> None:
    bench = disk.bench
    for _ in range(40):
        bench.decide(bench.spend("alice"))
        bench.wait(2 * WRITE_AFTER_MS)
    rows = disk.database.execute("SELECT count(*) FROM vote_operations")[0][0]
    restored = disk.journal.restore(4)
    held = sum(len(log) for log in restored.batches)
    assert rows < 30
    assert held < 4 * 40
    assert disk.restart().state.operations == 40


def test_a_write_is_whole_or_not_at_all(disk: Disk) -> None:
    bench = disk.bench
    bench.give(bench.spend("alice"))
    sealed = bench.validator.seal(bench.now + 10**6)
    assert sealed is not None
    disk.journal.write(sealed)
    with pytest.raises(StorageError):
        disk.journal.write(sealed)  # the same heights once more
    assert disk.database.failed is not None
    with pytest.raises(StorageError):
        disk.journal.write(Records(99, [], [], [], [], []))
    disk.restart()
    assert len(disk.journal.restore(4).operations) == 1


@pytest.mark.parametrize(
    "sql",
    [
        pytest.param("UPDATE vote_batches SET raw = x'00' WHERE member = 1", id="a batch"),
        pytest.param("UPDATE vote_batches SET height = 9 WHERE member = 1 AND height = 1", id="a height"),
        pytest.param("UPDATE vote_operations SET joined = x'000000ff01'", id="an operation"),
        pytest.param("UPDATE vote_operations SET joined = x'00'", id="an operation cut off"),
        pytest.param("UPDATE vote_batches SET raw = raw || x'00' WHERE member = 0", id="one of our own"),
    ],
)
def test_b4_damage_is_found_at_the_start(disk: Disk, sql: str) -> None:
    bench = disk.bench
    for name in ("alice", "bob"):
        signed = bench.spend(name, [("carol", 5)])
        bench.give(signed)
        bench.vote(lock_entry, signed, 1, 2)
        bench.wait(2 * WRITE_AFTER_MS)
    disk.database.close()
    with sqlite3.connect(disk.path) as connection:
        connection.execute(sql)
    connection.close()
    with pytest.raises(StorageError):
        disk.restart()


# --- planted faults ---------------------------------------------------------------------------------


def locks_one_slot_twice(disk: Disk) -> bool:
    bench = disk.bench
    for amount in (5, 6):
        bench.give(bench.spend("alice", [("bob", amount)]))
        bench.wait()
        disk.restart()
    return len([vote for vote in bench.votes if vote[0] == 1]) > 1


def test_v8_mutant_that_forgets_its_log_is_noticed(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not locks_one_slot_twice(disk)
    monkeypatch.setattr(Validator, "_restore_votes", lambda *_: None)
    bench = disk.bench = Bench()
    disk.path = disk.path.with_name("another.db")
    disk.restart()
    assert bench is disk.bench
    assert locks_one_slot_twice(disk)
