"""What it takes to find out which objects differ between two nodes, and to be ready for it all the time.

    python -m benchmarks.ledger_reconcile [--quick] [--json]

Both sides run here; bytes and messages are counted as they would travel, both ways. `put` is what a running
node pays for each decided operation, the folding in included.
"""

from __future__ import annotations

import argparse
import random
import time
from typing import Any

from ainp2p.ledger.serving.reconcile import ReconcileIndex, Reconciler, value_of
from benchmarks.figures import report

OBJECTS, QUICK_OBJECTS = 100_000, 20_000
DIFFERENCES = (0, 10, 1_000)
GOAL_BYTES, GOAL_MESSAGES, GOAL_PUT_US = 20_000, 8, 3.0


def reconciled(ours: ReconcileIndex, theirs: ReconcileIndex) -> tuple[int, int, set[bytes]]:
    """Bytes, messages, and the keys that were found."""
    initiator, responder = Reconciler(ours), Reconciler(theirs)
    size = messages = 0
    found: set[bytes] = set()
    message: bytes | None = initiator.initiate()
    while message is not None:
        answer = responder.respond(message)
        size, messages = size + len(message) + len(answer), messages + 2
        message, have, need = initiator.continue_(answer)
        found.update(have, need)
    return size, messages, found


def put_us(index: ReconcileIndex, changes: list[tuple[bytes, bytes]]) -> float:
    """Microseconds of CPU for each change, until a fingerprint of everything is there again."""
    started = time.process_time()
    for key, value in changes:
        index.put(key, value)
    index.fingerprint(0, len(index))
    return 1e6 * (time.process_time() - started) / len(changes)


def measure(objects: int, rounds: int) -> dict[str, Any]:
    """All of it; the same objects each time."""
    rng = random.Random(objects)
    items = [(rng.randbytes(32), value_of(rng.randrange(1, 50), rng.randbytes(32))) for _ in range(objects)]
    started = time.process_time()
    ours = ReconcileIndex(items)
    found: dict[str, Any] = {"objects": objects, "build_s": round(time.process_time() - started, 3)}
    for count in DIFFERENCES:
        changed = [(key, value_of(60, rng.randbytes(32))) for key, _ in rng.sample(items, count)]
        theirs = ReconcileIndex(items + changed)
        started = time.process_time()
        size, messages, keys = reconciled(ours, theirs)
        assert keys == {key for key, _ in changed}
        cpu_ms = 1e3 * (time.process_time() - started)
        found |= {f"bytes_{count}": size, f"messages_{count}": messages, f"cpu_ms_{count}": round(cpu_ms, 1)}
    replaced = [(key, value_of(61, rng.randbytes(32))) for key, _ in rng.choices(items, k=objects // 5)]
    fresh = [(rng.randbytes(32), value_of(1, rng.randbytes(32))) for _ in range(objects // 5)]
    found["put_known_us"] = round(min(put_us(ours, replaced) for _ in range(rounds)), 2)
    found["put_new_us"] = round(put_us(ours, fresh), 2)
    return found | {"goal_bytes": GOAL_BYTES, "goal_messages": GOAL_MESSAGES, "goal_put_us": GOAL_PUT_US}


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_OBJECTS:,} objects")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    report(measure(QUICK_OBJECTS if args.quick else OBJECTS, 1 if args.quick else 3), as_json=args.json)


if __name__ == "__main__":
    main()
