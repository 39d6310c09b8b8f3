"""Settlements per second, and the time to finality, of four validator processes over libp2p on loopback.

A payer opens Locks; the payee then settles all of them again and again, one SETTLE per Lock under way, each
with a higher receipt, accepted and journalled like any other. Latency is from `settle` to a verified
certificate. Validators, payer and payee share this machine's cores. The last lines come from
`ledger_pipeline.py`.

    python benchmarks/ledger.py [--locks 96] [--seconds 8] [--no-pipeline] [--json]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from ainp2p.agents.development import development_genesis
from ainp2p.ledger.genesis import Genesis
from ainp2p.ledger.messages import GetStatistics, Statistics
from ainp2p.ledger.operations import LOCKS_MAX
from ainp2p.ledger.receipts import Payer
from ainp2p.ledger.service import open_faucet, open_validator
from ainp2p.ledger.settling import SettlePolicy
from ainp2p.ledger.sync import Validators
from ainp2p.ledger.wallet import LockState, Wallet, open_wallet
from ainp2p.protocol.codec import encode
from ainp2p.protocol.context import Context
from ainp2p.protocol.identity import Key
from ainp2p.protocol.libp2p import open_network

VALIDATORS = 4
GOAL_PER_S, GOAL_P99_S = 500, 1.0
STEP, DEPOSIT = 10, 20_000  # 2,000 SETTLEs each
LIFE_MS = 3_000_000
LIMIT_S = 60.0
QUIET = SettlePolicy(threshold=10**15, interval_ms=10**12, refund=False, at_close_s=0)


# --- a validator's process ----------------------------------------------------------------------------


async def validate(seed: bytes, directory: Path) -> None:
    """Say the address, read the genesis, serve until standard input ends, say the CPU seconds."""
    key = Key(seed)
    lines = trio.lowlevel.FdStream(os.dup(0))
    async with open_network(key) as network:
        print(json.dumps(network.addresses), flush=True)
        genesis = Genesis.from_bytes(bytes.fromhex((await _line(lines)).decode()))
        async with AsyncExitStack() as stack:
            service = await stack.enter_async_context(open_validator(network, genesis, key, directory))
            if genesis.faucet is not None and genesis.faucet.key == key.public:
                await stack.enter_async_context(open_faucet(network, genesis, key, directory))
            while not service.voting:  # noqa: ASYNC110  # nothing to wait on: it is no event
                await trio.sleep(0.02)
            print("voting", flush=True)
            begun = time.process_time()
            await _line(lines)
            print(json.dumps({"cpu_s": time.process_time() - begun}), flush=True)


async def _line(stream: trio.lowlevel.FdStream) -> bytes:
    received = b""
    while not received.endswith(b"\n"):
        chunk = await stream.receive_some(65_536)
        if not chunk:
            break
        received += chunk
    return received.strip()


@asynccontextmanager
async def committee(root: Path, token_bytes: Any) -> AsyncIterator[tuple[Genesis, Key, list[Any]]]:
    """Four validator processes; killed at the end whatever happens."""
    keys = [Key(token_bytes(32)) for _ in range(VALIDATORS)]
    processes = start(keys, root)
    try:
        said = [await trio.to_thread.run_sync(says, process) for process in processes]
        seats = [(key, tuple(json.loads(line))) for key, line in zip(keys, said, strict=True)]
        genesis = development_genesis(seats, time.time_ns() // 1_000_000)
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(encode(genesis).hex() + "\n")
            process.stdin.flush()
        for process in processes:
            assert await trio.to_thread.run_sync(says, process) == "voting"
        yield genesis, keys[0], processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def start(keys: list[Key], root: Path) -> list[subprocess.Popen[str]]:
    """One validator's process for each key."""
    return [
        subprocess.Popen(
            [sys.executable, __file__, "--validate", key.seed.hex(), str(root / f"validator-{i}")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i, key in enumerate(keys)
    ]


def says(process: subprocess.Popen[str]) -> str:
    """A process's next line."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def cpu_of(process: Any) -> float:
    """End a validator in good order; returns its CPU seconds since it began to vote."""
    process.stdin.close()
    return float(json.loads(process.stdout.readline())["cpu_s"])


# --- the measured clients -------------------------------------------------------------------------------


async def open_locks(payer: Wallet, payee: Wallet, closer: bytes, count: int) -> list[LockState]:
    """Deposits of the payer for the payee, known to both."""
    states: list[LockState] = []

    async def one() -> None:
        opened = await payer.open_lock([(payee.account_id, 1)], closer, DEPOSIT, STEP, LIFE_MS)
        states.append(await payee.lock(opened.id))

    for start in range(0, count, LOCKS_MAX):
        async with trio.open_nursery() as nursery:
            for _ in range(min(LOCKS_MAX, count - start)):
                nursery.start_soon(one)
    return states


async def settle_again_and_again(
    payee: Wallet, states: list[LockState], payer_key: Key, network_id: bytes, seconds: float
) -> list[float]:
    """Keep one SETTLE per Lock under way; returns how long each took."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def one(state: LockState) -> None:
        signer, cumulative = Payer(network_id, state.lock, payer_key), 0
        while time.perf_counter() < end and cumulative + STEP <= DEPOSIT:
            cumulative += STEP
            await payee.accept(signer.sign(cumulative, cumulative, bytes(32)))
            begun = time.perf_counter()
            await payee.settle(state.id)
            latencies.append(time.perf_counter() - begun)

    async with trio.open_nursery() as nursery:
        for state in states:
            nursery.start_soon(one, state)
    return latencies


async def measure(locks: int, seconds: float) -> dict[str, Any]:
    """One run of everything."""
    token_bytes = Context.system().token_bytes
    payer_key, payee_key = Key(token_bytes(32)), Key(token_bytes(32))
    with tempfile.TemporaryDirectory() as name, trio.fail_after(LIMIT_S):
        async with committee(Path(name), token_bytes) as (genesis, faucet_key, processes):
            async with open_network(payee_key) as there:
                async with open_wallet(
                    there, genesis, payee_key, Path(name) / "payee", policy=QUIET
                ) as payee:
                    async with open_network(payer_key) as here:
                        async with open_wallet(here, genesis, payer_key, None, policy=QUIET) as payer:
                            await fund(here, genesis, payer, faucet_key, locks)
                            states = await open_locks(payer, payee, payee_key.public, locks)
                    ours = time.process_time()
                    begun = time.perf_counter()
                    latencies = await settle_again_and_again(
                        payee, states, payer_key, genesis.network_id, seconds
                    )
                    wall_s = time.perf_counter() - begun
                    ours = time.process_time() - ours
                    await agree(there, genesis)
            theirs = [await trio.to_thread.run_sync(cpu_of, process) for process in processes]
    return figures(latencies, wall_s, ours, theirs, locks)


async def fund(network: Any, genesis: Genesis, payer: Wallet, faucet_key: Key, locks: int) -> None:
    """Purses until the deposits and their fees can be paid. One per peer id: more peers ask for us."""
    from ainp2p.ledger.faucet import ask_purse

    needed = locks * (DEPOSIT + DEPOSIT // STEP + 2) + locks
    while (await payer.balance()).available < needed:
        async with open_network(Key(network.context.token_bytes(32))) as somebody:
            member = next(m for m in genesis.validators if m.key == faucet_key.public)
            somebody.add_addresses(faucet_key.peer_id, tuple(a.decode() for a in member.addresses))
            await ask_purse(somebody, faucet_key.peer_id, payer.account_id)
        await payer.refresh()


async def agree(network: Any, genesis: Genesis) -> None:
    """All validators must come to the same state, with every uain in it."""
    validators = Validators(network, genesis)
    while True:
        answers = await validators.ask_all(GetStatistics(), Statistics)
        if len(answers) == VALIDATORS and len({found.state_root for _, found in answers}) == 1:
            break
        await trio.sleep(0.1)
    for _, found in answers:
        assert found.balances + found.credits + found.locks + found.burnt == genesis.supply


def figures(
    latencies: list[float], wall_s: float, ours: float, theirs: list[float], locks: int
) -> dict[str, Any]:
    """What is printed."""
    ordered = sorted(latencies)

    def quantile(q: float) -> float:
        return round(ordered[min(len(ordered) - 1, math.floor(q * len(ordered)))], 3)

    return {
        "settlements": len(latencies),
        "settlements_per_s": round(len(latencies) / wall_s),
        "goal_settlements_per_s": GOAL_PER_S,
        "finality_p50_s": quantile(0.5),
        "finality_p99_s": quantile(0.99),
        "goal_finality_p99_s": GOAL_P99_S,
        "locks": locks,
        "wall_s": round(wall_s, 2),
        "validator_cpu_s": round(sum(theirs) / len(theirs), 2),
        "payee_cpu_s": round(ours, 2),
        "load_average": round(os.getloadavg()[0], 1),
    }


def pipeline() -> dict[str, Any]:
    """The figures of ledger_pipeline.py, from a process of its own."""
    script = Path(__file__).with_name("ledger_pipeline.py")
    done = subprocess.run(
        [sys.executable, str(script), "--json"], stdout=subprocess.PIPE, text=True, check=True, timeout=60
    )
    return {f"pipeline_{name}": value for name, value in json.loads(done.stdout).items()}


def main() -> None:
    """Parse, measure, print."""
    if sys.argv[1:2] == ["--validate"]:
        trio.run(validate, bytes.fromhex(sys.argv[2]), Path(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--locks", type=int, default=96, help="SETTLEs under way at once")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--no-pipeline", action="store_true", help="only the four processes")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    found = trio.run(measure, args.locks, args.seconds)
    if not args.no_pipeline:
        found |= pipeline()
    print(
        json.dumps(found) if args.json else "\n".join(f"{name:28} {value}" for name, value in found.items())
    )


if __name__ == "__main__":
    main()
