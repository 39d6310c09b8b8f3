"""What importing, installing and ten agents cost.

    python -m benchmarks.size [--quick] [--install] [--json]

The import is timed in fresh interpreters. Ten agents, without a model, run in one process; the first founds
the development network, so that its committee of four is in there as well. `--install` also makes a virtual
environment, installs this tree in it without extras from the package index, and tells what that added.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.figures import report

if TYPE_CHECKING:
    import ainp2p

GOAL_IMPORT_S, GOAL_INSTALL_MB, GOAL_AGENTS_MB = 0.15, 145, 250
HEAVY = ("torch", "libp2p", "trio", "nacl")
AGENTS = 10
POLL_S = 0.02
ROOT = Path(__file__).parent.parent

_IMPORT = f"""
import sys, time
wall, cpu = time.perf_counter(), time.process_time()
import ainp2p
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
print(wall, cpu, *(name for name in {HEAVY!r} if name in sys.modules))
"""


def importing(times: int) -> dict[str, Any]:
    """The quickest of several fresh interpreters, and what heavy packages it had then."""
    walls, cpus, heavy = [], [], set[str]()
    for _ in range(times):
        done = subprocess.run(
            [sys.executable, "-c", _IMPORT], stdout=subprocess.PIPE, text=True, check=True, timeout=30
        )
        wall, cpu, *names = done.stdout.split()
        walls.append(float(wall))
        cpus.append(float(cpu))
        heavy.update(names)
    return {
        "import_s": round(min(walls), 4),
        "import_cpu_s": round(min(cpus), 4),
        "import_heavy": sorted(heavy),
        "goal_import_s": GOAL_IMPORT_S,
    }


# --- ten agents ---------------------------------------------------------------------------------------


async def live() -> None:
    """The process that is measured: ten agents that know each other; prints its sizes in MB."""
    import ainp2p

    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(ainp2p.Agent("agent-0"))
        others = [
            await stack.enter_async_context(ainp2p.Agent(f"agent-{i}", bootstrap=[first.address]))
            for i in range(1, AGENTS)
        ]
        agents = [first, *others]
        for agent in agents:
            await everybody_known(agent, AGENTS)
        print(json.dumps({"agents_mb": resident_mb(), "agents_peak_mb": peak_mb()}), flush=True)


async def everybody_known(agent: ainp2p.Agent, count: int) -> None:
    """Return when an agent holds so many cards; polled, as a user of the library would."""
    import trio

    with trio.fail_after(60):
        while len(agent.directory.cards()) < count:  # noqa: ASYNC110
            await trio.sleep(POLL_S)


def resident_mb() -> float:
    """What this process has in memory now; the peak where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return peak_mb()
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def peak_mb() -> float:
    """The most that this process has had in memory."""
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


def ten_agents() -> dict[str, Any]:
    """In a process of their own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.size", "--live"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    sizes: dict[str, Any] = json.loads(done.stdout)
    return sizes | {"agents": AGENTS, "goal_agents_mb": GOAL_AGENTS_MB}


# --- the installation -----------------------------------------------------------------------------------


def installing() -> dict[str, Any]:
    """What `pip install .` adds to an empty environment, with the byte code that pip compiles."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        tree = root / "tree"  # building leaves files behind: not in the repository
        tree.mkdir()
        for item in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / item, tree)
        shutil.copytree(ROOT / "ainp2p", tree / "ainp2p", ignore=shutil.ignore_patterns("__pycache__"))
        subprocess.run([sys.executable, "-m", "venv", str(root / "venv")], check=True)
        before = disk_mb(root / "venv")
        pip = [str(root / "venv/bin/python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), str(tree)], check=True, stdout=sys.stderr)
        files_mb, on_disk_mb = (now - then for now, then in zip(disk_mb(root / "venv"), before, strict=True))
        return {
            "install_mb": round(on_disk_mb, 1),
            "install_files_mb": round(files_mb, 1),
            "goal_install_mb": GOAL_INSTALL_MB,
        }


def disk_mb(directory: Path) -> tuple[float, float]:
    """The lengths of all files below a directory, and what they take on disk, as `du -sm` says it."""
    found = [path.lstat() for path in directory.rglob("*")]
    lengths = sum(status.st_size for status in found if stat.S_ISREG(status.st_mode))
    return lengths / 2**20, sum(status.st_blocks for status in found) * 512 / 2**20


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer interpreters")
    parser.add_argument("--install", action="store_true", help="also install into a new environment")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--live", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.live:
        import trio

        trio.run(live)
        return
    found = importing(3 if args.quick else 10) | ten_agents()
    if args.install:
        found |= installing()
    found["load_average"] = round(os.getloadavg()[0], 1)
    report(found, as_json=args.json)


if __name__ == "__main__":
    main()
