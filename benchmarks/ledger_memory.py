"""Whether a validator's memory stays what it is while it decides a million operations.

    python -m benchmarks.ledger_memory [--operations 100000] [--full] [--json]

One process makes the operations and the other members' votes, round by round, and decides them; a thousand
accounts pay one another all the time, so the state stays as large as it is and only what is forgotten too
late can grow, in the core or in what answers beside it. Memory is what the kernel counts as resident, after a
fifth of the operations and at the end; some tables are full only after 65,536, so a shorter run shows growth.
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
WARM = 5  # the part after which nothing should grow: every table is full, every cache warm
GOAL_MB = 24.0  # of growth after that; what the kernel counts moves by some MB of itself


def resident_mb() -> float:
    """Of this process, now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(operations: int) -> dict[str, Any]:
    """Decide so many."""
    with tempfile.TemporaryDirectory() as name:
        stage = Stage(Path(name), VALIDATORS, ACCOUNTS, rounds=0)
        rounds, warm_mb = operations // ACCOUNTS, 0.0
        answers = Answers(stage.validator, None, stage.store.openings.of)
        histories = Histories(stage.validator, stage.store)

        def note(effects: Effects) -> None:
            for final in effects.finals:
                answers.note(final.parsed)
                histories.note(final.parsed)

        for number in range(rounds):
            work = list(groups(stage.scene.round(number + 1), stage.others))
            stage.decided += decide(stage.validator, work, NOW + 10_000 * (number + 1), note)
            if number == rounds // WARM:
                warm_mb = resident_mb()
        assert stage.decided == rounds * ACCOUNTS
        assert stage.validator.state.root() == stage.scene.truth.root()
        end_mb, disk_mb = resident_mb(), sum(file.stat().st_size for file in Path(name).iterdir()) / 1e6
    return {
        "operations": operations,
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
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    report(measure(FULL if args.full else args.operations), as_json=args.json)


if __name__ == "__main__":
    main()
