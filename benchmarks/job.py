"""Tokens per second of one paid, streamed job, over those of the engine called directly.

    python -m benchmarks.job [--model smollm2-135m] [--quick] [--json]

A seller, a buyer, and the committee of their development network live in this process, as in the README's
example, with the seller's model in a process of its own; a second such process calls its engine directly,
and has nothing else to do. Both run in turns, with the same threads, dtype, prompt and seed, and must make
the same ids. The job's time is the whole of it: bargaining, award, first token to the last, and the receipt;
its Lock was opened by a job before. Beside it a task sleeps for five milliseconds again and again; how late
it wakes is the event loop's delay, and the CPU time of its thread meanwhile is how busy the loop was: the
bound on that delay where nobody else wants the core. Needs the weights (`ainp2p model fetch`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from ainp2p.agents.agent import Agent
from ainp2p.agents.job import Piece
from ainp2p.agents.models.messages import Generate, Made
from ainp2p.agents.models.model import Raw
from ainp2p.agents.models.process import ProcessModel, default_threads
from ainp2p.agents.models.registry import resolve
from ainp2p.agents.skill import skill
from ainp2p.agents.work import Work
from ainp2p.home import Home
from benchmarks.figures import report
from benchmarks.model import PROMPT, Delays, cpu_of

GOAL_RATIO, GOAL_DELAY_MS = 0.95, 5.0
PROBE_S = 0.005  # at 1 ms the probe costs the event loop more than the job does
TEMPERATURE = 1.0  # at 0 a small model soon repeats itself, and a loop ends the job


@skill("write", price="1/token")
async def write(job: Work, text: str) -> AsyncIterator[object]:
    """Go on with a text."""
    async for token in job.model.stream(Raw(text), temperature=TEMPERATURE):
        yield token


@dataclass
class Side:
    """The rounds of one way to get the same answer."""

    rates: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    model_cpu_s: float = 0.0  # of which the model's own
    tokens: int = 0

    def add(self, tokens: int, wall_s: float, cpu_s: float, model_cpu_s: float) -> None:
        """A round."""
        self.rates.append(tokens / wall_s)
        self.tokens += tokens
        self.cpu_s += cpu_s
        self.model_cpu_s += model_cpu_s


@dataclass
class Loop(Delays):
    """The event loop's delays, and the thread's CPU seconds between two looks."""

    busy: list[float] = field(default_factory=list)

    async def probe(self) -> None:
        """Measure until canceled."""
        while True:
            before, busy = time.perf_counter(), time.thread_time()
            await trio.sleep(self.every_s)
            self.late.append(time.perf_counter() - before - self.every_s)
            self.busy.append(time.thread_time() - busy)

    def busy_ms(self, share: float) -> float:
        """Of the looks, in milliseconds."""
        return sorted(self.busy)[int(share * (len(self.busy) - 1))] * 1000


# --- the engine, called directly ----------------------------------------------------------------------


def be_direct(model: str) -> None:
    """The process of the yardstick: for each line, a number of tokens and a seed, an answer as JSON."""
    import torch

    from ainp2p.agents.models.loading import load

    directory = resolve(model, Home.from_environment().models()).directory
    if directory is None:
        raise SystemExit("a scripted model measures nothing; name one with weights")
    torch.set_num_threads(default_threads())
    engine = load(directory, device="auto", dtype="auto").engine
    for line in sys.stdin:
        tokens, seed = line.split()
        ids: list[int] = []
        wall, cpu = time.perf_counter(), time.process_time()
        engine.submit(Generate(0, [("", PROMPT)], int(tokens), TEMPERATURE, seed.encode()))
        while engine.live:
            ids += [event.token for event in engine.step() if isinstance(event, Made)]
        print(json.dumps([ids, time.perf_counter() - wall, time.process_time() - cpu]), flush=True)


class Direct:
    """That process, seen from here."""

    def __init__(self, model: str) -> None:
        command = [sys.executable, "-m", "benchmarks.job", "--be-direct", "--model", model]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    async def __call__(self, tokens: int, seed: bytes, side: Side) -> list[int]:
        """The ids of one answer."""
        ids, wall_s, cpu_s = json.loads(await trio.to_thread.run_sync(self._ask, tokens, seed))
        side.add(len(ids), wall_s, cpu_s, cpu_s)
        return [int(id_) for id_ in ids]

    def _ask(self, tokens: int, seed: bytes) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(tokens, seed.decode(), file=self.process.stdin, flush=True)
        return self.process.stdout.readline()


@contextmanager
def direct_process(model: str) -> Iterator[Direct]:
    """Ends with the block."""
    direct = Direct(model)
    try:
        yield direct
    finally:
        direct.process.kill()
        direct.process.wait()


# --- the job --------------------------------------------------------------------------------------------


async def paid(
    buyer: Agent, model: ProcessModel, tokens: int, seed: bytes, side: Side
) -> tuple[list[int], float]:
    """A job, to its end; its ids, and their rate from the first to the last."""
    offers = await buyer.find("write")
    theirs, wall, cpu = cpu_of(model.pid), time.perf_counter(), time.process_time()
    ids, first = list[int](), 0.0
    async with buyer.hire(offers, budget=tokens, seed=seed, text=PROMPT) as job:
        async for piece in job:
            assert isinstance(piece, Piece)
            first = first or time.perf_counter()
            ids += piece.tokens
    end = time.perf_counter()
    assert job.receipt is not None
    assert job.paid == len(ids)
    theirs = cpu_of(model.pid) - theirs
    side.add(len(ids), end - wall, time.process_time() - cpu + theirs, theirs)
    return ids, (len(ids) - 1) / (end - first)


async def measure(model: str, rounds: int, tokens: int) -> dict[str, Any]:
    """Both sides in turns."""
    direct, through, streaming, loop = Side(), Side(), list[float](), Loop(PROBE_S)
    async with Agent("seller", skills=[write], model=model) as seller:
        async with Agent("buyer", bootstrap=[seller.address]) as buyer:
            worker = seller.models[0]
            assert isinstance(worker, ProcessModel)
            with direct_process(model) as directly:
                await directly(8, b"warm", Side())
                await paid(buyer, worker, 8, b"warm", Side())
                for number in range(rounds):
                    seed = b"%d" % number
                    expected = await directly(tokens, seed, direct)
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(loop.probe)
                        ids, rate = await paid(buyer, worker, tokens, seed, through)
                        nursery.cancel_scope.cancel()
                    assert ids == expected[: len(ids)], "the job and the engine made different ids"
                    streaming.append(rate)
    return {
        "model": model,
        "tokens": tokens,
        "direct_tokens_per_s": round(max(direct.rates), 1),
        "job_tokens_per_s": round(max(through.rates), 1),
        "job_streaming_tokens_per_s": round(max(streaming), 1),
        "job_ratio": round(max(through.rates) / max(direct.rates), 3),
        "goal_job_ratio": GOAL_RATIO,
        "direct_cpu_ms_per_token": round(direct.cpu_s / direct.tokens * 1000, 2),
        "job_cpu_ms_per_token": round(through.cpu_s / through.tokens * 1000, 2),
        "job_model_cpu_ms_per_token": round(through.model_cpu_s / through.tokens * 1000, 2),
        "loop_delay_p50_ms": round(loop.percentile_ms(0.5), 2),
        "loop_delay_p99_ms": round(loop.percentile_ms(0.99), 2),
        "loop_busy_p99_ms": round(loop.busy_ms(0.99), 2),
        "goal_loop_delay_p99_ms": GOAL_DELAY_MS,
        "load_average": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter jobs")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--be-direct", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.be_direct:
        be_direct(args.model)
        return
    rounds, tokens = (2, 48) if args.quick else (5, 96)
    found = trio.run(measure, args.model, rounds, tokens)
    report(found, as_json=args.json)


if __name__ == "__main__":
    main()
