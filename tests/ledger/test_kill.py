"""B1: SIGKILL at random moments under write load; every acknowledged operation is there afterwards.

The child (this file, run as a program) decides operations for ever and says how many are durable after
each commit. `AINP2P_KILLS` asks for more rounds than CI's.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from ainp2p.ledger.database import Database
from ainp2p.ledger.rules.operations import parse
from ainp2p.ledger.store import Decided, Store
from tests.ledger.world import NAMES, World

KILLS = int(os.environ.get("AINP2P_KILLS", "10"))
ROOT = Path(__file__).parents[2]


def write_for_ever(path: Path, seed: int, *, keep_open: bool) -> None:
    """The child. `keep_open` plants a fault: what is acknowledged waits in a transaction."""
    rng, world = random.Random(seed), World()
    with Database(path) as database:
        store = Store(database, world.genesis)
        world.state = store.load()
        with database.transaction() if keep_open else nullcontext():
            while True:
                batch = []
                for _ in range(rng.randrange(1, 20)):
                    payer, payee = rng.choice(NAMES), rng.choice(NAMES)
                    parsed = parse(world.spend(payer, [(payee, 1)]))
                    batch.append(Decided(parsed, world.state.apply(parsed), rng.randbytes(500)))
                store.commit(batch)
                os.write(1, b"%d\n" % world.state.operations)


def kill_once(path: Path, rng: random.Random, mode: str) -> int:
    """Let the child acknowledge a few batches, kill it, and return the last acknowledged count."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.ledger.test_kill", str(path), str(rng.random()), mode],
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert child.stdout is not None
    with child.stdout as output:
        lines = [output.readline() for _ in range(rng.randrange(1, 30))]
        for _ in range(rng.randrange(3_000)):  # somewhere inside the next commits
            pass
        child.kill()
        lines += output.readlines()
    child.wait(timeout=30)
    whole = [line for line in lines if line.endswith(b"\n")]
    assert whole, "the child never acknowledged anything"
    return int(whole[-1])


def kill_again_and_again(folder: Path, kills: int, mode: str) -> None:
    rng, world = random.Random(5), World()
    for round_ in range(kills):
        path = folder / f"ledger {round_ // 25}"  # each grows over 25 lives
        acknowledged = kill_once(path, rng, mode)
        started = time.process_time()
        with Database(path) as database:
            assert database.execute("PRAGMA integrity_check") == [("ok",)]
            state = Store(database, world.genesis).load()
        assert state.operations >= acknowledged, f"kill {round_}: lost what was acknowledged"
        assert state.supply().total == state.minted
        assert time.process_time() - started <= 2, "a restart takes more than 2 s of CPU"


@pytest.mark.process
def test_b1_kill_9_under_write_load_loses_nothing_acknowledged(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path, KILLS, "commit")


@pytest.mark.process
def test_b1_a_mutant_that_acknowledges_before_it_commits_is_caught(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="lost what was acknowledged"):
        kill_again_and_again(tmp_path, 2, "keep-open")


if __name__ == "__main__":
    write_for_ever(Path(sys.argv[1]), int(float(sys.argv[2]) * 2**32), keep_open=sys.argv[3] == "keep-open")
