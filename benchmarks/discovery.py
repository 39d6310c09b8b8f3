"""How soon do agents in processes of their own on one machine all know each other's cards?

    python -m benchmarks.discovery [--agents 12] [--quick] [--json]

The first founds a development network (its committee of four is in its process); the others are started all
at once and know only the first's address. Each says when it is open, and when it holds everybody's cards. The
figure counts from the last process's start, importing and opening included; `from_last_open` counts from when
the last agent was open, and so had a card at all. CPU seconds are of all processes together.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from typing import IO, Any

from benchmarks.figures import report
from benchmarks.size import everybody_known

GOAL_S = 10.0


async def live(name: str, count: int, bootstrap: list[str]) -> None:
    """One agent's process; says what happens, each with the machine's monotonic time."""
    import trio

    import ainp2p

    @ainp2p.skill("echo", price="1/call")
    async def echo(job: object, text: str) -> Any:
        yield text

    async with ainp2p.Agent(name, skills=[echo], bootstrap=bootstrap) as agent:
        print("open", time.monotonic(), agent.address, flush=True)
        await everybody_known(agent, count)
        print("complete", time.monotonic(), flush=True)
        async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
            await stdin.receive_some()


def start(name: str, count: int, *bootstrap: str) -> subprocess.Popen[str]:
    """An agent in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.discovery", "--live", name, str(count), *bootstrap]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def heard(process: subprocess.Popen[str], word: str) -> list[str]:
    """What a process says next; it must be `word`."""
    said = _line(process.stdout)
    assert said[:1] == [word], f"an agent said {said!r}, not {word!r}"
    return said[1:]


def _line(stream: IO[str] | None) -> list[str]:
    assert stream is not None
    return stream.readline().split()


def measure(count: int) -> dict[str, Any]:
    """One run."""
    processes = [start("agent-0", count)]
    try:
        opened_at, address = heard(processes[0], "open")
        for number in range(1, count):
            processes.append(start(f"agent-{number}", count, address))
        started = time.monotonic()
        opened = [float(opened_at)] + [float(heard(process, "open")[0]) for process in processes[1:]]
        complete = max(float(heard(process, "complete")[0]) for process in processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return {
        "from_last_start_s": round(complete - started, 2),
        "from_last_open_s": round(complete - max(opened), 2),
        "goal_from_last_start_s": GOAL_S,
    }


def main() -> None:
    """Parse, measure, print."""
    if sys.argv[1:2] == ["--live"]:
        import trio

        trio.run(live, sys.argv[2], int(sys.argv[3]), sys.argv[4:])
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--agents", type=int, default=12)
    parser.add_argument("--quick", action="store_true", help="six agents")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    count = 6 if args.quick else args.agents
    found = measure(count) | {"agents": count}
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    found["cpu_s"] = round(used.ru_utime + used.ru_stime, 1)
    found["load_average"] = round(os.getloadavg()[0], 1)
    report(found, as_json=args.json)


if __name__ == "__main__":
    main()
