"""Whether a validator's memory stays what it is while it decides a million operations.

    python -m benchmarks.ledger_memory [--operations 100000] [--full] [--pruned] [--json]

One process makes the operations and the other members' votes, round by round, and decides them; a thousand
accounts pay one another all the time, so the state stays as large as it is and only what is forgotten too
late can grow, in the core or in what answers beside it. Memory is what the kernel counts as resident, after a
fifth of the operations and at the end; some tables are full only after 65,536, so a shorter run shows growth.

With `--pruned` epochs end, and what came before their checkpoints is dropped. The validator is then the only
member: HANDOFFs of others could not be made beforehand.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from ainp2p.ledger.serving.answers import Answers
from ainp2p.ledger.serving.histories import Histories
from ainp2p.ledger.voting.effects import Effects
from benchmarks.figures import report
from benchmarks.ledger_pipeline import NOW, VALIDATORS, Stage, decide, groups

FULL = 1_000_000
ACCOUNTS = 1024
TENTHS = 10  # of the run; memory is told after each
EPOCH_ROUNDS = 50  # of ACCOUNTS operations, with `--pruned`
IDLE_MS = range(2_200, 8_000, 200)  # after each round, with `--pruned`: what an epoch's end waits for
WARM = 5  # the part after which nothing should grow: every table is full, every cache warm
GOAL_MB = 24.0  # of growth after that; what the kernel counts moves by some MB of itself


def resident_mb() -> float:
    """Of this process, now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(operations: int, *, pruned: bool = False) -> dict[str, Any]:
    """Decide so many."""
    with tempfile.TemporaryDirectory() as name:
        stage = Stage(Path(name), 1 if pruned else VALIDATORS, ACCOUNTS, rounds=0)
        stage.store.keep_history = not pruned
        validator, rounds, warm_mb = stage.validator, operations // ACCOUNTS, 0.0
        curve: list[float] = []
        answers = Answers(validator, None, stage.store.openings.of)
        histories = Histories(validator, stage.store)
        step_ms = stage.scene.genesis.parameters.epoch_ms // EPOCH_ROUNDS if pruned else 10_000

        def note(effects: Effects) -> None:
            for final in effects.finals:
                answers.note(final.parsed)
                histories.note(final.parsed)

        for number in range(rounds):
            work, now = (
                list(groups(stage.scene.round(number + 1), stage.others)),
                NOW + step_ms * (number + 1),
            )
            stage.decided += decide(validator, work, now, note)
            for after_ms in IDLE_MS if pruned else ():
                note(validator.tick(now + after_ms))
            if number == rounds // WARM:
                warm_mb = resident_mb()
            if (number + 1) * TENTHS // rounds > len(curve):
                curve.append(round(resident_mb(), 1))
        assert stage.decided == rounds * ACCOUNTS
        assert validator.state.accounts == stage.scene.truth.accounts
        end_mb, disk_mb = resident_mb(), sum(file.stat().st_size for file in Path(name).iterdir()) / 1e6
        epochs = validator.epoch
    return {
        "operations": operations,
        "epochs_ended": epochs,
        "tenths_mb": curve,
        "warm_mb": round(warm_mb, 1),
        "end_mb": round(end_mb, 1),
        "growth_mb": round(end_mb - warm_mb, 1),
        "goal_growth_mb": GOAL_MB,
        "disk_bytes_per_operation": round(1e6 * disk_mb / operations),
    }


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--operations", type=int, default=100_000)
    parser.add_argument("--full", action="store_true", help=f"{FULL:,} operations: six minutes")
    parser.add_argument(
        "--pruned", action="store_true", help="epochs end, and what was before them is dropped"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    found = measure(FULL if args.full else args.operations, pruned=args.pruned)
    report(found, as_json=args.json)


if __name__ == "__main__":
    main()
