"""`python -m tests.adversary`: many seeds, or one once more, or the mutants; see the package's text."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tests.adversary import marks
from tests.adversary.chunks import run_chunk
from tests.adversary.run import Outcome, simulate

CHUNK = 8


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.adversary", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first one")
    parser.add_argument(
        "--step", type=int, default=1, help="from one seed to the next; 16 from 10: members leave in each"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--trace", action="store_true", help="with --seed: what happened, line by line")
    parser.add_argument("--mutants", action="store_true", help="search anew for seeds that catch the mutants")
    parser.add_argument("--mutant", help="only this mutant, or with --seed: under this mutant")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    args = parser.parse_args()
    if args.seeds < 1 or args.jobs < 1 or args.step < 1:
        parser.error("--seeds, --jobs and --step are at least 1: nothing would be attacked")
    if args.mutant is not None:
        from tests.adversary.mutants import MUTANTS

        if args.mutant not in MUTANTS:
            parser.error(f"no mutant {args.mutant!r}: there are {', '.join(MUTANTS)}")
    if args.seed is not None:
        return _one(args)
    if args.mutants:
        from tests.adversary.mutants import search

        return search(args.mutant, args.seeds, args.jobs)
    return _many(args)


def _one(args: argparse.Namespace) -> int:
    if args.mutant:
        from tests.adversary.mutants import MUTANTS, under

        outcome = under(MUTANTS[args.mutant], args.seed, trace=args.trace)
    else:
        outcome = simulate(args.seed, trace=args.trace)
    print("\n".join(outcome.log), file=sys.stderr)
    if args.json:
        print(json.dumps(_plain(outcome)))
    else:
        print(
            f"seed {outcome.seed} ({outcome.plan}): {outcome.slots} slots, {outcome.contended} contended, "
            f"{outcome.later_views} decided in later views, settled in {outcome.settled_ms} ms, "
            f"trace {outcome.trace}"
        )
        if outcome.violation:
            print(f"VIOLATION of {outcome.check}: {outcome.violation}")
    return 1 if outcome.violation else 0


def _many(args: argparse.Namespace) -> int:
    totals: Counter[str] = Counter()
    plans: Counter[str] = Counter()
    broken: Outcome | None = None
    began, cpu = time.monotonic(), 0.0
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=args.json) as progress:
        task = progress.add_task("seeds", total=args.seeds)
        for outcomes, reached, seconds in _results(args):
            marks.reached.update(reached)
            cpu += seconds
            for outcome in outcomes:
                totals["seeds"] += 1
                totals["slots"] += outcome.slots
                totals["contended"] += outcome.contended
                totals["later views"] += outcome.later_views
                totals["evidence"] += outcome.evidence
                totals["longest settling, ms"] = max(totals["longest settling, ms"], outcome.settled_ms)
                plans[outcome.plan] += 1
                if outcome.violation and (broken is None or outcome.seed < broken.seed):
                    broken = outcome
            slots = f"{totals['contended']:,} contended slots"
            progress.update(task, advance=len(outcomes), description=slots)
            if broken is not None:
                break
    totals["CPU seconds"] = int(cpu)
    _print_summary(args, totals, plans, broken, time.monotonic() - began)
    return 1 if broken is not None else 0


def _results(args: argparse.Namespace) -> Iterator[tuple[list[Outcome], dict[str, int], float]]:
    seeds = range(args.first, args.first + args.step * args.seeds, args.step)
    chunks = [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)]
    if args.jobs == 1:
        yield from map(run_chunk, chunks)
        return
    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
        yield from pool.imap(run_chunk, chunks)


def _plain(outcome: Outcome) -> dict[str, Any]:
    return {name: getattr(outcome, name) for name in outcome.__dataclass_fields__ if name != "log"}


def _print_summary(
    args: argparse.Namespace,
    totals: Counter[str],
    plans: Counter[str],
    broken: Outcome | None,
    seconds: float,
) -> None:
    if args.json:
        found = _plain(broken) if broken else None
        print(
            json.dumps(
                {"totals": totals, "plans": plans, "marks": marks.reached, "violation": found}, indent=1
            )
        )
        return
    console = Console()
    for title, counts in (
        ("plans", plans),
        ("faults, refusals and outcomes", marks.reached),
        ("all", totals),
    ):
        table = Table(title=title, show_header=False)
        for name, count in sorted(counts.items()):
            table.add_row(name, f"{count:,}")
        console.print(table)
    console.print(f"{totals['seeds']:,} seeds, {totals['contended']:,} contended slots in {seconds:.0f} s")
    if broken is None:
        console.print("no violation")
        return
    console.print(f"seed {broken.seed} ({broken.plan}): VIOLATION of {broken.check}: {broken.violation}")
    console.print(f"again: python -m tests.adversary --seed {broken.seed} --trace")


if __name__ == "__main__":
    sys.exit(main())
