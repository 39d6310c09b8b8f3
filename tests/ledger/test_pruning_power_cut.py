"""B2: the power goes at any disk operation while a validator prunes; what proves a balance stays."""

from __future__ import annotations

import itertools
import os
import random
import shutil
from pathlib import Path

import pytest

from ainp2p.errors import StorageError
from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.voting import pruning, validator_store
from ainp2p.ledger.voting.archive import Archive
from ainp2p.ledger.voting.certificate import verify_certificate
from ainp2p.ledger.voting.checkpoints import DONE

from .crash_vfs import CrashDisk
from .pruned import Pair, PrunedDisk
from .world import NAMES

CUTS = int(os.environ.get("AINP2P_PRUNING_CUTS", "120"))

_names = (f"prune-{n}" for n in itertools.count())


class Run:
    """Two epochs of payments and deposits, pruned in the smallest steps, on a disk that remembers all."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.disk = CrashDisk(next(_names))
        self.pair = Pair(folder, connect=self.disk.connect)
        self.world = self.pair.world
        self.roots = [self.world.state.root()]
        self.heads = [dict[bytes, bytes]()]  # account → the operation that proves it, after n operations
        self.acknowledged: list[tuple[int, int]] = []
        rng = random.Random(1)
        for epoch in range(3):
            for _ in range(8):
                payer, payee = rng.choice(NAMES), rng.choice(NAMES)
                locks = [self.world.terms(payee)] if rng.random() < 0.2 else []
                self.pair.decide(self.world.spend(payer, [(payee, 3)], locks=locks, epoch=epoch))
                self.note()
            self.world.now += self.world.parameters.epoch_ms
            self.pair.decide(self.world.end_epoch())
            self.note()
            self.pair.decide(self.world.next_committee("v1"))
            self.note()
            while not self.pair.pruned.done:
                self.pair.idle_once()
        self.pair.close()

    def note(self) -> None:
        self.roots.append(self.world.state.root())
        self.heads.append({a.id: a.head for a in self.world.state.accounts.values()})
        self.acknowledged.append((len(self.disk.log), len(self.roots) - 1))

    def durable_at(self, event: int) -> int:
        return max((count for at, count in self.acknowledged if at <= event), default=0)

    def committee(self, epoch: int) -> Committee:
        return self.world.state.committee(epoch)


def cut_the_power(tmp_path: Path, cuts: int, seed: int) -> set[int]:
    run, rng, phases = Run(tmp_path / "node"), random.Random(seed), set[int]()
    for number in range(cuts):
        event = rng.randrange(len(run.disk.log) + 1)
        folder = tmp_path / "after"
        folder.mkdir()
        run.disk.cut(event, folder, rng)
        where = f"cut {number} (seed {seed}) after disk event {event}"
        try:
            after = PrunedDisk(folder / "pruned", run.world)
            state = after.store.load()
            phases |= {checkpoint.phase for checkpoint in after.store.checkpoints.all()}
            assert state.operations >= run.durable_at(event), f"{where}: lost what was acknowledged"
            assert state.root() == run.roots[state.operations], f"{where}: another state"
            archive = Archive(after.journal, run.committee, state.epoch)
            for head in run.heads[state.operations].values():
                found, raw = after.journal.find(head), archive.certificate(head)
                assert found is not None, f"{where}: a head is gone"
                assert raw is not None, f"{where}: a head's certificate is gone"
                epoch = found.epoch
                assert verify_certificate(raw, run.committee(epoch), epoch, run.world.network) == head
            after.database.close()
        except StorageError as exc:
            raise AssertionError(f"{where}: {exc}") from exc
        shutil.rmtree(folder)
    return phases


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "ROWS", 2)
    monkeypatch.setattr(pruning, "OPERATIONS", 3)
    monkeypatch.setattr(validator_store, "_IDLE_STEPS", 1)


def test_b2_a_power_cut_in_the_middle_of_pruning_loses_nothing_that_proves_a_balance(tmp_path: Path) -> None:
    assert cut_the_power(tmp_path, CUTS, seed=2) >= {DONE, 0, 1, 2}


def test_b2_a_mutant_that_drops_batches_before_certificates_are_made_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning.Pruner, "_make_certificate", lambda self, stored, before=0: None)
    with pytest.raises(AssertionError, match="cut "):
        cut_the_power(tmp_path, 60, seed=3)
