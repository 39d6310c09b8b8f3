"""The table of speeds and sizes: all that the project promises, beside what it is compared with.

    python -m benchmarks [--only NAME]… [--quick] [--repeat N] [--install] [--json] [--results FILE]

Absolute figures depend on the machine and on who else uses it: look at the ratios, and at the load. Nothing
runs beside anything else; all of it takes about four minutes. A missed target is no failure.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.catalogue import CATALOGUE, Benchmark
from benchmarks.figures import Figure, best, markdown, plain, show

LIMIT_S = 900  # of one benchmark; they take 5 to 40, and a million operations six minutes


class Failed(Exception):
    """A benchmark did not come to its end."""


def run(benchmark: Benchmark, *, quick: bool, more: tuple[str, ...] = ()) -> list[Figure]:
    """Run one benchmark in a process of its own.

    Raises:
        Failed: it ended with an error, or not in time.
    """
    arguments = (benchmark.quick if quick else benchmark.arguments) + more
    command = [sys.executable, "-m", benchmark.module, "--json", *arguments]
    before = _children_cpu_s()
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=LIMIT_S)
        figures = benchmark.read(json.loads(done.stdout))
    except (subprocess.SubprocessError, ValueError, KeyError) as exc:
        raise Failed(f"{benchmark.name}: {exc}") from exc
    cpu_s, load = _children_cpu_s() - before, os.getloadavg()[0]
    return [figure.measured_by(cpu_s, load) for figure in figures]


def _children_cpu_s() -> float:
    """CPU seconds of all processes that ended below this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def repeated(benchmark: Benchmark, repeat: int, *, quick: bool, more: tuple[str, ...] = ()) -> list[Figure]:
    """Each figure's best of so many runs, with its ratio in that run."""
    runs = [run(benchmark, quick=quick, more=more) for _ in range(repeat)]
    return [best(same) for same in zip(*runs, strict=True)]


def machine() -> str:
    """What all of it ran on, in words."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{os.cpu_count()} cores of {model}, {platform.system()}, Python {platform.python_version()}"


def results(figures: list[Figure], repeat: int) -> str:
    """The whole of RESULTS.md."""
    missed = [figure.name for figure in figures if figure.held is False]
    verdict = f"Missed: {'; '.join(missed)}." if missed else "All targets are held."
    return "\n\n".join(
        (
            "# Measured",
            f"{time.strftime('%d %B %Y', time.gmtime())}, {machine()}; the best of {repeat} (of what is a "
            "ratio itself: the median). `python -m benchmarks --repeat 5 --install --results "
            "benchmarks/RESULTS.md` makes this page. `load` is the machine's load average when the "
            "benchmark ended, `CPU s` what all its processes used; compare by ratio.",
            verdict,
            markdown(figures),
            "",
        )
    )


def main() -> int:
    """Parse, measure, print."""
    names = [benchmark.name for benchmark in CATALOGUE]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=names, action="append", help="may be given several times")
    parser.add_argument("--quick", action="store_true", help="shorter and rougher: about a minute")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="each figure's best of N runs")
    parser.add_argument("--install", action="store_true", help="also install into a new environment")
    parser.add_argument("--json", action="store_true", help="print the figures by name, as JSON")
    parser.add_argument("--results", type=Path, metavar="FILE", help="also write the table as Markdown")
    args = parser.parse_args()
    figures: list[Figure] = []
    failures: list[str] = []
    for benchmark in CATALOGUE:
        if args.only and benchmark.name not in args.only:
            continue
        print(f"{benchmark.name} …", file=sys.stderr, flush=True)
        more = ("--install",) if args.install and benchmark.name == "size" else ()
        try:
            figures += repeated(benchmark, args.repeat, quick=args.quick, more=more)
        except Failed as exc:
            failures.append(str(exc))
    if args.json:
        print(json.dumps({figure.name: figure.as_json() for figure in figures}, indent=1))
    elif sys.stdout.isatty():
        show(figures)
    else:
        print(plain(figures))
    if args.results:
        args.results.write_text(results(figures, args.repeat))
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
