"""B2: the power goes at any disk operation; what was acknowledged is there afterwards, and is consistent."""

from __future__ import annotations

import itertools
import os
import random
import shutil
from pathlib import Path

import pytest

from ainp2p.errors import StorageError
from ainp2p.ledger import database as database_module
from ainp2p.ledger.database import Database
from ainp2p.ledger.rules.operations import parse
from ainp2p.ledger.rules.state import State
from ainp2p.ledger.store import Decided, Store

from .crash_vfs import CrashDisk
from .world import NAMES, World

CUTS = int(os.environ.get("AINP2P_POWER_CUTS", "400"))
BATCHES = 40

_names = (f"crash-{n}" for n in itertools.count())


class Run:
    """A node that stored batches of decided operations on a disk that remembers everything."""

    def __init__(self, folder: Path) -> None:
        self.disk = CrashDisk(next(_names))
        self.world = World()
        self.roots = [self.world.state.root()]  # after n operations
        self.acknowledged: list[tuple[int, int]] = []  # (disk events so far, operations durable)
        rng = random.Random(1)
        with Database(folder / "ledger", connect=self.disk.connect) as database:
            database.execute("PRAGMA wal_autocheckpoint = 20")  # pages; so that checkpoints are cut as well
            store = Store(database, self.world.genesis)
            for _ in range(BATCHES):
                store.commit([self.decide(rng) for _ in range(rng.randrange(1, 6))])
                self.acknowledged.append((len(self.disk.log), len(self.roots) - 1))

    def decide(self, rng: random.Random) -> Decided:
        payer, payee = rng.choice(NAMES), rng.choice(NAMES)
        locks = [self.world.terms(payee)] if rng.random() < 0.2 else []
        parsed = parse(self.world.spend(payer, [(payee, rng.randrange(1, 100))], locks=locks))
        decided = Decided(parsed, self.world.state.apply(parsed), rng.randbytes(300))
        self.roots.append(self.world.state.root())
        return decided

    def durable_at(self, event: int) -> int:
        return max((count for at, count in self.acknowledged if at <= event), default=0)


def restarted(path: Path, world: World) -> State:
    """What a node finds when it starts again, by the ordinary way in."""
    with Database(path) as database:
        assert database.execute("PRAGMA integrity_check") == [("ok",)]
        return Store(database, world.genesis).load()


def cut_the_power(tmp_path: Path, cuts: int, seed: int) -> None:
    (tmp_path / "node").mkdir()
    run, rng = Run(tmp_path / "node"), random.Random(seed)
    for number in range(cuts):
        event = rng.randrange(len(run.disk.log) + 1)
        folder = tmp_path / "after"
        folder.mkdir()
        run.disk.cut(event, folder, rng)
        where = f"cut {number} (seed {seed}) after disk event {event}"
        try:
            state = restarted(folder / "ledger", run.world)
        except StorageError as exc:
            raise AssertionError(f"{where}: {exc}") from exc
        assert state.operations >= run.durable_at(event), f"{where}: lost what was acknowledged"
        assert state.root() == run.roots[state.operations], f"{where}: another state"
        shutil.rmtree(folder)


def test_b2_a_power_cut_at_any_disk_operation_loses_nothing_acknowledged(tmp_path: Path) -> None:
    cut_the_power(tmp_path, CUTS, seed=2)


@pytest.mark.parametrize("synchronous", ["NORMAL", "OFF"])
def test_b2_a_mutant_that_does_not_wait_for_the_disk_is_caught(
    tmp_path: Path, synchronous: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pragmas = [*database_module.PRAGMAS[:-1], f"synchronous={synchronous}"]
    monkeypatch.setattr(database_module, "PRAGMAS", pragmas)
    with pytest.raises(AssertionError, match="cut "):
        cut_the_power(tmp_path, 100, seed=3)


def test_b2_a_mutant_that_writes_without_a_transaction_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "commit", Store._write)
    with pytest.raises(AssertionError, match="cut "):
        cut_the_power(tmp_path, 100, seed=4)
