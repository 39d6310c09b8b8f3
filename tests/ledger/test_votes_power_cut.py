"""B2 and V8 for votes: the power goes at any disk operation, and no vote that was sent is forgotten."""

from __future__ import annotations

import itertools
import os
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ainp2p.errors import StorageError
from ainp2p.ledger import database as database_module
from ainp2p.ledger.database import Database
from ainp2p.ledger.rules.operations import operation_id
from ainp2p.ledger.store import Store
from ainp2p.ledger.voting.effects import Records
from ainp2p.ledger.voting.validator import LOCKED, Validator
from ainp2p.ledger.voting.validator_store import SqliteJournal
from ainp2p.ledger.voting.votelog import LOCK, VoteBatch
from tests.ledger.bench import Bench
from tests.ledger.crash_vfs import CrashDisk

CUTS = int(os.environ.get("AINP2P_POWER_CUTS", "150"))
_names = (f"votes-crash-{n}" for n in itertools.count())


@dataclass
class Run:
    """A validator that decided and voted on a disk that remembers everything."""

    folder: Path
    sent: list[tuple[int, VoteBatch]] = field(default_factory=list)  # (disk events before, batch)

    def __post_init__(self) -> None:
        self.disk = CrashDisk(next(_names))
        self.bench = bench = Bench()
        with Database(self.folder / "votes", connect=self.disk.connect) as database:
            database.execute("PRAGMA wal_autocheckpoint = 20")  # pages; so that checkpoints are cut as well
            store = Store(database, bench.genesis)
            bench.validator = Validator(
                bench.keys[0], bench.genesis, store.load(), SqliteJournal(database, store)
            )
            bench.heights(0)
            rng = random.Random(1)
            for step in range(25):
                signed = bench.spend(rng.choice(["alice", "bob"]), [("carol", step + 1)])
                bench.give(signed)
                self.wait(rng.choice([30, 1_500]))
                bench.decide(signed)
                self.wait(rng.choice([30, 1_500]))
            self.open_ = bench.spend("carol", [("bob", 5)])
            bench.give(self.open_)
            self.wait(30)

    def wait(self, ms: int) -> None:
        """Virtual time in small steps, so that it is known after which disk event a batch went out."""
        for _ in range(ms // 10):
            self.bench.wait(10)
            for batch in self.bench.out.batches[len(self.sent) :]:
                self.sent.append((len(self.disk.log), batch))


def look_after_a_cut(run: Run, event: int, path: Path) -> None:
    """Whatever was sent before the cut is known after it, and what it LOCKed is LOCKed."""
    bench = run.bench
    sent = [batch for at, batch in run.sent if at <= event]
    with Database(path) as database:
        store = Store(database, bench.genesis)
        validator = Validator(bench.keys[0], bench.genesis, store.load(), SqliteJournal(database, store))
        own = validator.batches(bench.keys[0].public, 1, 10_000)
        assert own[: len(sent)] == [batch.raw for batch in sent], "a vote that was sent is forgotten"
        for batch in sent:
            for kind, _, id_ in batch.votes:
                if kind == LOCK:
                    assert validator.status(id_) >= LOCKED, "a LOCK that was sent is forgotten"
        assert validator.state.supply().total == bench.genesis.supply


def cut_the_power(tmp_path: Path, cuts: int, seed: int) -> None:
    (tmp_path / "node").mkdir()
    run, rng = Run(tmp_path / "node"), random.Random(seed)
    assert operation_id(run.open_.raw) in {vote[2] for _, batch in run.sent for vote in batch.votes}
    for number in range(cuts):
        event = rng.randrange(len(run.disk.log) + 1)
        folder = tmp_path / "after"
        folder.mkdir()
        run.disk.cut(event, folder, rng)
        try:
            look_after_a_cut(run, event, folder / "votes")
        except (StorageError, AssertionError) as exc:
            raise AssertionError(f"cut {number} (seed {seed}) after disk event {event}: {exc}") from exc
        shutil.rmtree(folder)


def test_b2_v8_a_power_cut_at_any_disk_operation_forgets_no_vote_that_was_sent(tmp_path: Path) -> None:
    cut_the_power(tmp_path, CUTS, seed=2)


@pytest.mark.parametrize("synchronous", ["NORMAL", "OFF"])
def test_b2_mutant_that_does_not_wait_for_the_disk_is_caught(
    tmp_path: Path, synchronous: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pragmas = [*database_module.PRAGMAS[:-1], f"synchronous={synchronous}"]
    monkeypatch.setattr(database_module, "PRAGMAS", pragmas)
    with pytest.raises(AssertionError, match="cut "):
        cut_the_power(tmp_path, 100, seed=3)


def test_b2_mutant_that_sends_before_it_writes_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, late = SqliteJournal.write, list[Records]()

    def one_late(self: SqliteJournal, records: Records) -> None:
        late.append(records)
        if len(late) > 1:
            original(self, late.pop(0))

    monkeypatch.setattr(SqliteJournal, "write", one_late)
    with pytest.raises(AssertionError, match="cut "):
        cut_the_power(tmp_path, 100, seed=4)
