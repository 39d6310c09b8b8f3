"""How fast a validator that has nothing takes over what others have decided: operations with certificates.

    python -m benchmarks.ledger_catch_up [--rounds 6] [--json]

One process, no network: what is timed is the core that checks every certificate and applies, and the disk
that it is written to, in pages as they come in answer to `FetchDecided`. The certificates are made
beforehand, by a validator that has decided the same operations by counting votes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from ainp2p.ledger.database import Database
from ainp2p.ledger.rules.operations import SignedOperation, operation_id
from ainp2p.ledger.store import Store
from ainp2p.ledger.voting.validator import Validator
from ainp2p.ledger.voting.validator_store import SqliteJournal
from benchmarks.figures import report
from benchmarks.ledger_pipeline import NOW, VALIDATORS, Stage, bare_verifications_per_s

GOAL_PER_S = 5_000
PAGE = 64  # operations; as many as one DecidedPage holds
ACCOUNTS = 1024

Page = list[tuple[SignedOperation, bytes]]


def decided(stage: Stage, rounds: int) -> list[Page]:
    """Everything that a validator has decided, in its order, with certificates."""
    for number in range(rounds):
        stage.play(number)
    pages: list[Page] = []
    after = 0
    while stored := stage.store.operations(after, PAGE):
        pages.append([(each.signed, _certificate(stage.validator, each.signed)) for each in stored])
        after = stored[-1].n
    return pages


def _certificate(validator: Validator, signed: SignedOperation) -> bytes:
    certificate = validator.certificate(operation_id(signed.raw))
    assert certificate is not None
    return certificate


def catch_up(stage: Stage, pages: list[Page], folder: Path) -> float:
    """CPU seconds that it takes; the two must have the same state, in memory and on the disk."""
    with Database(folder / "late.sqlite") as database:
        store = Store(database, stage.scene.genesis)
        late = Validator(
            stage.scene.validators[1], stage.scene.genesis, store.load(), SqliteJournal(database, store)
        )
        now = NOW + 10**6
        started = time.process_time()
        for page in pages:
            for signed, certificate in page:
                late.handle_decided(signed, certificate, now)
            now += 20
            if late.due <= now:
                late.tick(now)
        late.tick(now + 2_000)
        used_s = time.process_time() - started
        assert late.state.root() == stage.validator.state.root()
        assert store.load().root() == stage.validator.state.root()
    return used_s


def measure(rounds: int, repeat: int) -> dict[str, Any]:
    """The best of several."""
    with tempfile.TemporaryDirectory() as name:
        stage = Stage(Path(name), VALIDATORS, ACCOUNTS, rounds)
        pages = decided(stage, rounds)
        count = sum(map(len, pages))
        times = []
        for at in range(repeat):
            folder = Path(name) / str(at)
            folder.mkdir()
            times.append(catch_up(stage, pages, folder))
        size = sum(len(certificate) for page in pages for _, certificate in page) / count
    rate, bare = count / min(times), bare_verifications_per_s()
    return {
        "operations": count,
        "caught_up_per_cpu_s": round(rate),
        "ratio_to_verify": round(rate / bare, 3),
        "certificate_bytes": round(size),
        "goal_per_s": GOAL_PER_S,
        "goal_certificate_bytes": 1_500,
    }


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6, help=f"of {ACCOUNTS} operations")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    report(measure(args.rounds, args.repeat), as_json=args.json)


if __name__ == "__main__":
    main()
