"""Settlements per second, and the time to finality, of four validator processes over libp2p on loopback.

    python -m benchmarks.ledger_network [--locks 256] [--seconds 8] [--latency-ms 50] [--spam 10] [--json]

A payee keeps one SETTLE per Lock under way, each made beforehand (`ledger_load`), sends it to every member,
and takes it for final when one of them shows a certificate, which it verifies. Validators and clients share
this machine's cores: `validator_us` is what one settlement costs one validator in CPU, and so what the same
cores could do without the clients.

`--latency-ms`: everything that a process writes to a peer leaves so much later. A slot is decided after three
of them; the payee knows after a fourth, so both are measured: `decided` from sending to the median
validator's being final, `finality` to the certificate's being verified here.

`--spam K`: the same load twice, the second time beside eight peers that together submit K times what the
committee decides in a second to each member, some of it valid (`ledger_spam`).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from ainp2p.errors import Error
from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.rules.operations import ParsedOperation, SignedOperation, parse
from ainp2p.ledger.rules.state import State
from ainp2p.ledger.serving.followers import Followers
from ainp2p.ledger.serving.garbage import collect_rarely
from ainp2p.ledger.serving.messages import Finals, Follow, GetStatistics, Statistics
from ainp2p.ledger.serving.service import open_validator
from ainp2p.ledger.serving.sync import Validators
from ainp2p.ledger.voting.certificate import verify_decided
from ainp2p.ledger.voting.seen_votes import SeenVotes
from ainp2p.ledger.wallets.submitting import Pending, Submitter
from ainp2p.protocol import libp2p_host
from ainp2p.protocol.codec import encode
from ainp2p.protocol.context import Context
from ainp2p.protocol.identity import Key
from ainp2p.protocol.libp2p import open_network
from ainp2p.protocol.network import Network
from benchmarks.figures import report
from benchmarks.ledger_load import Load
from benchmarks.ledger_spam import Spammer

VALIDATORS = 4
GOAL_PER_S, GOAL_P99_S, GOAL_SPAM_TIMES = 2_000, 1.0, 2.0
GOAL_BEYOND_DELAYS_S = 0.060  # p50 above three one-way delays
SETTLES_PER_S = 40  # of one Lock at most: so many are made beforehand
SPAM_CHAIN = 400  # valid SPENDs of each poor account, and ten times as many of each kind that is not valid
SPAM_WARM_S = 3.0  # until its process has connected and is at full speed
LIMIT_S = 150.0
_NOTE = struct.Struct("!32sd")


# --- a slower network ---------------------------------------------------------------------------------


def delay_writes(delay_s: float) -> None:
    """From now on whatever this process writes to a peer leaves so much later, in its order."""
    sound, waiting = libp2p_host.Libp2pStream.write, dict[int, trio.MemorySendChannel[tuple[float, bytes]]]()

    async def write(self: Any, data: bytes) -> None:
        if id(self) not in waiting:
            waiting[id(self)], leaving = trio.open_memory_channel[tuple[float, bytes]](1_000)
            trio.lowlevel.spawn_system_task(send_later, self, leaving)
        await waiting[id(self)].send((trio.current_time() + delay_s, data))

    async def send_later(self: Any, leaving: trio.MemoryReceiveChannel[tuple[float, bytes]]) -> None:
        try:
            async for at_s, data in leaving:
                await trio.sleep_until(at_s)
                await sound(self, data)
        except Error:
            leaving.close()  # the next write finds it so

    libp2p_host.Libp2pStream.write = write  # type: ignore[method-assign]  # the one place where all bytes pass


# --- a validator's process ----------------------------------------------------------------------------


def note_finals(notes: list[tuple[bytes, float]]) -> None:
    """Have a validator note when each operation became final there."""
    sound = Followers.announce

    def announce(self: Followers, parsed: ParsedOperation, state: State) -> None:
        notes.append((parsed.id, time.monotonic()))
        sound(self, parsed, state)

    Followers.announce = announce  # type: ignore[method-assign]  # told of each final operation


async def validate(seed: bytes, directory: Path, delay_s: float) -> None:
    """Say the address, read the genesis, serve until standard input ends, say the CPU seconds."""
    key, notes = Key(seed), list[tuple[bytes, float]]()
    note_finals(notes)
    if delay_s:
        delay_writes(delay_s)
    lines = trio.lowlevel.FdStream(os.dup(0))
    async with open_network(key) as network:
        print(json.dumps(network.addresses), flush=True)
        genesis = Genesis.from_bytes(bytes.fromhex((await _line(lines)).decode()))
        async with open_validator(network, genesis, key, directory) as service:
            while not service.voting:  # noqa: ASYNC110  # nothing to wait on: it is no event
                await trio.sleep(0.02)
            collect_rarely()  # as `ainp2p network validate` does
            print("voting", flush=True)
            await _line(lines)
            begun = time.process_time()
            await _line(lines)
            used_s = time.process_time() - begun
            (directory / "finals").write_bytes(b"".join(_NOTE.pack(id_, at_s) for id_, at_s in notes))
            print(json.dumps({"cpu_s": used_s}), flush=True)


async def _line(stream: trio.lowlevel.FdStream) -> bytes:
    received = b""
    while not received.endswith(b"\n"):
        chunk = await stream.receive_some(65_536)
        if not chunk:
            break
        received += chunk
    return received.strip()


class Process:
    """One validator's."""

    def __init__(self, key: Key, directory: Path, delay_s: float) -> None:
        self.key, self.directory = key, directory
        command = [sys.executable, "-m", "benchmarks.ledger_network", "--validate"]
        self.process = subprocess.Popen(
            [*command, key.seed.hex(), str(directory), str(delay_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    async def says(self) -> str:
        """Its next line."""
        assert self.process.stdout is not None
        return (await trio.to_thread.run_sync(self.process.stdout.readline)).strip()

    def tell(self, line: str) -> None:
        """Write a line to it."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    async def cpu_s(self) -> float:
        """End it in good order; what it used since it was told to count."""
        self.tell("")
        return float(json.loads(await self.says())["cpu_s"])

    def finals(self) -> dict[bytes, float]:
        """When each operation became final there, after `cpu_s`."""
        return dict(_NOTE.iter_unpack((self.directory / "finals").read_bytes()))


@asynccontextmanager
async def committee(root: Path, delay_s: float, **load: int) -> AsyncIterator[tuple[Load, list[Process]]]:
    """Four validators that vote; killed at the end whatever happens."""
    token_bytes = Context.system().token_bytes
    processes = [Process(Key(token_bytes(32)), root / f"validator-{at}", delay_s) for at in range(VALIDATORS)]
    try:
        seats = [(process.key, tuple(json.loads(await process.says()))) for process in processes]
        made = Load(seats, time.time_ns() // 1_000_000, **load)
        for process in processes:
            process.tell(encode(made.genesis).hex())
        for process in processes:
            assert await process.says() == "voting"
        yield made, processes
    finally:
        for process in processes:
            process.process.kill()
            process.process.wait()


# --- clients ------------------------------------------------------------------------------------------


class Client:
    """Submits operations and waits until each is proven final."""

    def __init__(self, network: Network, genesis: Genesis, follow: bytes) -> None:
        self._validators, self._genesis = Validators(network, genesis), genesis
        self._committee, self._seen = Committee.of(genesis), SeenVotes()
        self._network_id, self._object = genesis.network_id, follow
        self._submitter = Submitter(self._validators, self._on_final, self._on_refused)  # as a wallet has one
        self._pending: dict[bytes, Pending] = {}  # by their bytes: what the payee sent it knows again
        self.done: dict[bytes, tuple[float, float]] = {}  # operation → when it was sent, when proven final

    async def run(self, follow: int = 0) -> None:
        """Submit, and hear of finals from one member, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._submitter.begin(nursery)
            question, peer = Follow((self._object,)), self._validators.others[follow].peer
            async with self._validators.stream(peer, question, Finals, timeout_s=30) as chunks:
                async for finals in chunks:
                    for decided in finals.operations:
                        pending = self._pending.get(decided.operation)
                        if pending is not None:
                            self._on_final(pending, decided.certificate)

    async def decide(self, signed: SignedOperation) -> None:
        """Until it is final."""
        pending = Pending(parse(signed))
        self._pending[pending.encoded] = pending
        sent_s = time.monotonic()
        self._submitter.add(pending)
        await pending.resolved.wait()
        del self._pending[pending.encoded]
        if pending.error is not None:
            raise pending.error
        self.done[pending.id] = sent_s, time.monotonic()

    def _on_final(self, pending: Pending, certificate: bytes) -> None:
        if pending.resolved.is_set():
            return
        _, id_ = verify_decided(certificate, self._committee, 0, self._network_id, self._seen)
        assert id_ == pending.id
        pending.resolve(certificate)

    def _on_refused(self, pending: Pending, rule: str) -> None:
        pending.resolve(error=Error(f"refused: {rule}"))


async def settle(client: Client, chains: Iterable[deque[SignedOperation]], seconds: float) -> float:
    """One SETTLE of each chain under way for so long; returns how long it took in all."""
    begun = time.monotonic()

    async def one(chain: deque[SignedOperation]) -> None:
        while chain and time.monotonic() < begun + seconds:
            await client.decide(chain.popleft())

    async with trio.open_nursery() as nursery:
        for chain in chains:
            nursery.start_soon(one, chain)
    return time.monotonic() - begun


# --- what is measured ---------------------------------------------------------------------------------


async def measure(locks: int, seconds: float, delay_s: float, spam: float) -> dict[str, Any]:
    """One run of everything."""
    if delay_s:
        delay_writes(delay_s)
    phases = 2 if spam else 1
    made = {
        "locks": locks,
        "settles": int(phases * seconds * SETTLES_PER_S),
        "spam": SPAM_CHAIN if spam else 0,
    }
    with tempfile.TemporaryDirectory() as name, trio.fail_after(LIMIT_S):
        async with committee(Path(name), delay_s, **made) as (load, processes):
            async with open_network(Key(Context.system().token_bytes(32))) as network:
                client = Client(network, load.genesis, load.payee)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client.run)
                    for signed in load.openings:
                        await client.decide(signed)
                    client.done.clear()
                    for process in processes:
                        process.tell("")
                    used_s = time.process_time()
                    chains = [deque(chain) for chain in load.chains]
                    wall_s = await settle(client, chains, seconds)
                    calm = dict(client.done)
                    used_s = time.process_time() - used_s
                    found = figures(calm, wall_s, locks)
                    if spam:
                        spammer = Spammer(Path(name) / "spam", load, 1_000 * spam, 10 * SPAM_CHAIN)
                        found |= await beside_spam(client, spammer, chains, seconds, found)
                    else:
                        await agree(network, load.genesis)
                    nursery.cancel_scope.cancel()
            cpus = [await process.cpu_s() for process in processes]
            finals = [process.finals() for process in processes]
    if not spam:
        us = 1e6 * statistics.mean(cpus) / len(calm)
        found |= {
            "validator_us": round(us),
            "client_us": round(1e6 * used_s / len(calm)),
            "two_cores_alone_per_s": round(2 * 1e6 / (VALIDATORS * us)),
        }
    if delay_s:
        decided = [
            statistics.median([at[id_] for at in finals if id_ in at]) - sent
            for id_, (sent, _) in calm.items()
        ]
        found |= {
            "decided_p50_s": round(quantile(decided, 0.5), 3),
            "beyond_delays_s": round(quantile(decided, 0.5) - 3 * delay_s, 3),
            "goal_beyond_delays_s": GOAL_BEYOND_DELAYS_S,
        }
    return found | {"load_average": round(os.getloadavg()[0], 1)}


async def beside_spam(
    client: Client, spammer: Spammer, chains: list[deque[SignedOperation]], seconds: float, calm: Any
) -> dict[str, Any]:
    """The same again, beside others who want everything."""
    await trio.sleep(SPAM_WARM_S)
    client.done.clear()
    wall_s = await settle(client, chains, seconds)
    spam = await spammer.end()
    found = figures(client.done, wall_s, len(chains))
    return {
        "spam_offered_per_s": spam["offered"],
        "spam_cores": spam["cores"],
        "spam_settlements_per_s": found["settlements_per_s"],
        "spam_finality_p50_s": found["finality_p50_s"],
        "spam_finality_p99_s": found["finality_p99_s"],
        "spam_times": round(found["finality_p99_s"] / calm["finality_p99_s"], 2),
        "goal_spam_times": GOAL_SPAM_TIMES,
    }


async def agree(network: Network, genesis: Genesis) -> None:
    """All validators must come to the same state, with every uain in it."""
    validators = Validators(network, genesis)
    while True:
        answers = await validators.ask_all(GetStatistics(), Statistics)
        if len(answers) == VALIDATORS and len({found.state_root for _, found in answers}) == 1:
            break
        await trio.sleep(0.1)
    for _, found in answers:
        assert found.balances + found.credits + found.locks + found.burnt == genesis.supply


def quantile(values: Sequence[float], q: float) -> float:
    """The value below which this part of them is."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def figures(done: dict[bytes, tuple[float, float]], wall_s: float, locks: int) -> dict[str, Any]:
    """What is printed of one phase."""
    latencies = [final - sent for sent, final in done.values()]
    return {
        "settlements": len(latencies),
        "settlements_per_s": round(len(latencies) / wall_s),
        "goal_settlements_per_s": GOAL_PER_S,
        "finality_p50_s": round(quantile(latencies, 0.5), 3),
        "finality_p99_s": round(quantile(latencies, 0.99), 3),
        "goal_finality_p99_s": GOAL_P99_S,
        "locks": locks,
        "wall_s": round(wall_s, 2),
    }


def main() -> None:
    """Parse, measure, print."""
    if sys.argv[1:2] == ["--validate"]:
        trio.run(validate, bytes.fromhex(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--locks", type=int, default=256, help="SETTLEs under way at once")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--latency-ms", type=float, default=0.0, help="one way, injected")
    parser.add_argument(
        "--spam", type=float, default=0.0, metavar="K", help="K times 1,000 operations a second"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    found = trio.run(measure, args.locks, args.seconds, args.latency_ms / 1000, args.spam)
    report(found, as_json=args.json)


if __name__ == "__main__":
    main()
