"""Everything that the ledger promises about speed and size, each part in a process of its own.

    python -m benchmarks.ledger [--quick] [--full] [--only PART]… [--repeat N] [--json]

The parts are those of `python -m benchmarks` whose names begin with "ledger": a validator's core at n = 4 and
at n = 31, four processes over libp2p, the same with injected latency, the same beside spam, catching up,
reconciliation, restart, memory. `--full` takes the long ones at full length (a million operations).
"""

from __future__ import annotations

import argparse
import json
import sys

from benchmarks.__main__ import Failed, repeated
from benchmarks.catalogue import CATALOGUE
from benchmarks.figures import Figure, plain

PREFIX = "ledger"
LONG = ("ledger memory",)  # these know --full


def main() -> int:
    """Parse, measure, print; 1 if a part did not come to its end."""
    parts = [benchmark for benchmark in CATALOGUE if benchmark.name.startswith(PREFIX)]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=[part.name for part in parts], action="append")
    parser.add_argument("--quick", action="store_true", help="shorter and rougher")
    parser.add_argument("--full", action="store_true", help="what takes minutes, too")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="each figure's best of N runs")
    parser.add_argument("--json", action="store_true", help="print the figures by name, as JSON")
    args = parser.parse_args()
    figures: list[Figure] = []
    failures: list[str] = []
    for part in parts:
        if args.only and part.name not in args.only:
            continue
        print(f"{part.name} …", file=sys.stderr, flush=True)
        more = ("--full",) if args.full and part.name in LONG else ()
        try:
            figures += repeated(part, args.repeat, quick=args.quick, more=more)
        except Failed as exc:
            failures.append(str(exc))
    print(json.dumps({f.name: f.as_json() for f in figures}, indent=1) if args.json else plain(figures))
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
