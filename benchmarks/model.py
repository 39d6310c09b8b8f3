"""What the model process costs: tokens per second through it, over those of the engine called directly.

    python benchmarks/model.py [--model smollm2-135m] [--json]

Both sides run in turns, with the same threads, dtype and prompts, and the best of the rounds counts. While
the process works, a task sleeps for a millisecond again and again; how late it wakes is the event loop's
delay. Needs the weights (`ainp2p model fetch`); at most a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import trio

from ainp2p.agents.models.messages import Generate, Made
from ainp2p.agents.models.model import Raw
from ainp2p.agents.models.process import ProcessModel, default_threads, open_model
from ainp2p.agents.models.registry import resolve
from ainp2p.home import Home

TOKENS = 64  # of each answer
PROMPT = "The following is a long and careful description of how a bicycle works. A bicycle"
PROBE_S = 0.001


@dataclass
class Figures:
    """One side at one number of streams: the best round."""

    tokens_per_second: float = 0.0
    cpu_s: float = 0.0

    def add(self, tokens_per_second: float, cpu_s: float) -> None:
        """A round; the best one counts."""
        if tokens_per_second > self.tokens_per_second:
            self.tokens_per_second, self.cpu_s = tokens_per_second, cpu_s


@dataclass
class Delays:
    """How late the event loop woke, in seconds."""

    every_s: float = PROBE_S
    late: list[float] = field(default_factory=list)

    async def probe(self) -> None:
        """Measure until canceled."""
        while True:
            before = time.perf_counter()
            await trio.sleep(self.every_s)
            self.late.append(time.perf_counter() - before - self.every_s)

    def percentile_ms(self, share: float) -> float:
        """In milliseconds."""
        return sorted(self.late)[int(share * (len(self.late) - 1))] * 1000


def directly(engine: Any, streams: int) -> tuple[float, float]:
    """Tokens per second, and CPU seconds, of the engine in this process."""
    wall, cpu, made = time.perf_counter(), time.process_time(), 0
    for number in range(streams):
        engine.submit(Generate(number, [("", PROMPT)], TOKENS))
    while engine.live:
        made += sum(isinstance(event, Made) for event in engine.step())
    return made / (time.perf_counter() - wall), time.process_time() - cpu


async def through(model: ProcessModel, streams: int) -> tuple[float, float]:
    """The same through the process; its CPU seconds and ours together."""
    made = 0

    async def one() -> None:
        nonlocal made
        async for _ in model.stream(Raw(PROMPT), max_tokens=TOKENS):
            made += 1

    wall, cpu = time.perf_counter(), time.process_time() + cpu_of(model.pid)
    async with trio.open_nursery() as nursery:
        for _ in range(streams):
            nursery.start_soon(one)
    seconds = time.perf_counter() - wall
    return made / seconds, time.process_time() + cpu_of(model.pid) - cpu


def cpu_of(pid: int | None) -> float:
    """CPU seconds that a process has used; 0 where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Both sides in turns."""
    import torch

    from ainp2p.agents.models.loading import load

    directory = resolve(args.model, Home.from_environment().models()).directory
    if directory is None:
        raise SystemExit("a scripted model measures nothing; name one with weights")
    threads = args.threads or default_threads()
    torch.set_num_threads(threads)
    loaded = load(directory, device=args.device, dtype=args.dtype)
    delays, rows = Delays(), []
    async with open_model(args.model, device=args.device, dtype=args.dtype, threads=threads) as model:
        await through(model, 1)
        directly(loaded.engine, 1)
        for streams in args.streams:
            direct, process = Figures(), Figures()
            for _ in range(args.rounds):
                direct.add(*directly(loaded.engine, streams))
                process.add(*await probed(delays, partial(through, model, streams)))
            rows.append(
                {
                    "streams": streams,
                    "direct_tokens_per_s": round(direct.tokens_per_second, 1),
                    "process_tokens_per_s": round(process.tokens_per_second, 1),
                    "ratio": round(process.tokens_per_second / direct.tokens_per_second, 3),
                    "direct_cpu_s": round(direct.cpu_s, 2),
                    "process_cpu_s": round(process.cpu_s, 2),
                }
            )
        info = model.info
    return {
        "model": info.name,
        "device": info.device,
        "dtype": info.dtype,
        "threads": threads,
        "load_average": os.getloadavg()[0],
        "rows": rows,
        "ratio": min(row["ratio"] for row in rows),
        "loop_delay_p50_ms": round(delays.percentile_ms(0.5), 2),
        "loop_delay_p99_ms": round(delays.percentile_ms(0.99), 2),
        "loop_delay_max_ms": round(delays.percentile_ms(1.0), 2),
    }


async def probed(delays: Delays, work: Callable[[], Awaitable[tuple[float, float]]]) -> tuple[float, float]:
    """Do `work` with the probe beside it."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(delays.probe)
        found = await work()
        nursery.cancel_scope.cancel()
    return found


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    found = trio.run(measure, args)
    if args.json:
        print(json.dumps(found))
        return
    print("{model} on {device}, {dtype}, {threads} threads, load {load_average:.1f}".format(**found))
    for row in found["rows"]:
        print(
            "{streams:3} streams: {process_tokens_per_s:7.1f} tokens/s through the process, "
            "{direct_tokens_per_s:7.1f} directly, ratio {ratio:.3f} "
            "(CPU {process_cpu_s} s, {direct_cpu_s} s)".format(**row)
        )
    print(
        "event loop delay: p50 {loop_delay_p50_ms} ms, p99 {loop_delay_p99_ms} ms, "
        "max {loop_delay_max_ms} ms".format(**found)
    )


if __name__ == "__main__":
    main()
