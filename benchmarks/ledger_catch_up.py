"""How fast a validator that has nothing takes over what others have decided: operations with certificates.

    python -m benchmarks.ledger_catch_up [--rounds 6] [--whole] [--json]

One process, no network: what is timed is the core that checks every certificate and applies, and the disk
that it is written to, in pages as they come in answer to `FetchDecided`. The certificates are made
beforehand, by a validator that has decided the same operations by counting votes.

With `--whole` end to end as well, over the in-memory network: a validator that has everything on its disk,
and one with an empty disk that is started beside it, compares, and streams. What is counted is the CPU of
both together, from the start of the late one until it has decided as many and has the same state, and apart
from that what the other one's pages take, whose certificates are made as they are asked for. 98 rounds are
100,000 operations.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import trio

from ainp2p.ledger.database import Database
from ainp2p.ledger.rules.operations import SignedOperation, operation_id
from ainp2p.ledger.serving.messages import DecidedPage
from ainp2p.ledger.serving.service import FILE_NAME, open_validator
from ainp2p.ledger.store import Store
from ainp2p.ledger.voting.validator import Validator
from ainp2p.ledger.voting.validator_store import SqliteJournal
from ainp2p.protocol.context import Context
from ainp2p.protocol.memory import MemoryHub, open_memory_network
from benchmarks.figures import report
from benchmarks.ledger_pipeline import NOW, VALIDATORS, Stage, bare_verifications_per_s

GOAL_PER_S = 5_000
PAGE = 64  # operations; as many as one DecidedPage holds
ACCOUNTS = 1024
CORE_ROUNDS = 12  # enough for the core alone

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


async def catch_up_whole(stage: Stage, folder: Path) -> dict[str, float]:
    """Seconds, of the clock and of CPU, until a validator that starts with nothing has it all."""
    genesis, (first, second) = stage.scene.genesis, stage.scene.validators[:2]
    hub = MemoryHub(seed=1)

    def context() -> Context:
        return Context.seeded(1, lambda: NOW + 10**6 + int(trio.current_time() * 1000))

    async with (
        open_memory_network(hub, first, context=context()) as early_network,
        open_memory_network(hub, second, context=context()) as late_network,
        open_validator(early_network, genesis, first, folder / "early") as early,
    ):
        served_s, page = 0.0, early._histories.page

        def timed(after: int) -> DecidedPage:
            nonlocal served_s
            asked_s = time.process_time()
            try:
                return page(after)
            finally:
                served_s += time.process_time() - asked_s

        early._histories.page = timed  # type: ignore[method-assign]  # to tell the two sides apart
        late_network.add_addresses(early_network.peer_id, early_network.addresses)
        began_s, used_s = time.perf_counter(), time.process_time()
        async with open_validator(late_network, genesis, second, folder / "late") as late:
            while late.decided < early.decided:  # noqa: ASYNC110  # a look now and then costs nothing
                await trio.sleep(0.05)
            found = {"s": time.perf_counter() - began_s, "cpu_s": time.process_time() - used_s}
            assert late.statistics().state_root == early.statistics().state_root
            return {**found, "operations": late.decided, "served_s": served_s}


def measure_whole(rounds: int) -> dict[str, Any]:
    """Once: it takes a minute or two to decide as much beforehand."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stage = Stage(folder, VALIDATORS, ACCOUNTS, rounds)
        for number in range(rounds):
            stage.play(number)
        stage.check()
        (folder / "early").mkdir()
        for file in folder.glob("*.sqlite*"):
            file.rename(folder / "early" / file.name.replace(f"validator-of-{VALIDATORS}.sqlite", FILE_NAME))
        found = trio.run(catch_up_whole, stage, folder)
    count = found["operations"]
    return {
        "whole_operations": count,
        "whole_us_per_operation": round(found["cpu_s"] / count * 1e6, 1),
        "whole_serving_us_per_operation": round(found["served_s"] / count * 1e6, 1),
        "whole_per_cpu_s": round(count / found["cpu_s"]),
        "whole_late_per_cpu_s": round(count / (found["cpu_s"] - found["served_s"])),
        "whole_per_s": round(count / found["s"]),
    }


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
    parser.add_argument("--whole", action="store_true", help="end to end as well, both sides' CPU")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    figures = measure(min(args.rounds, CORE_ROUNDS), args.repeat)
    if args.whole:
        figures |= measure_whole(args.rounds)
    report(figures, as_json=args.json)


if __name__ == "__main__":
    main()
