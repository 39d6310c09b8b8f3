"""What a receipt costs who is paid and who pays, and how many go over one channel.

    python -m benchmarks.receipts [--quick] [--json]

Per core, in one process, in turns with the bare Ed25519 verification: the payee takes receipts into its
wallet's book and makes them durable, BATCH of them with one fsync, which is what arrives at full speed while
one fsync of 5 ms lasts; the payer signs them in its vault, which checks each against the policy. Then the
same between two processes: one `ReceiptNotice` for each receipt, one-way over one channel of real libp2p,
until the payee says that the last one is durable. CPU counts all threads.
"""

from __future__ import annotations

import argparse
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import nacl.bindings
import trio

from ainp2p.agents.policy import Policy
from ainp2p.agents.vault import Vault, open_vault
from ainp2p.ledger.rules.genesis import DEVELOPMENT, Genesis, new_genesis
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.operations import Share, plain_inception
from ainp2p.ledger.rules.receipts import SignedReceipt, read_receipt
from ainp2p.ledger.wallets.settling import SettlePolicy
from ainp2p.ledger.wallets.wallet import Wallet, open_wallet
from ainp2p.protocol.codec import decode, encode
from ainp2p.protocol.context import Context
from ainp2p.protocol.identity import Key
from ainp2p.protocol.libp2p import open_network
from ainp2p.protocol.memory import MemoryHub, open_memory_network
from ainp2p.protocol.messages import PROTOCOL, ReceiptNotice, decode_wire
from ainp2p.protocol.network import Call, Network
from benchmarks.figures import report

BATCH = 64  # receipts that become durable with one fsync
GOAL_PAYEE, GOAL_BOTH, GOAL_PER_S = 0.7, 0.55, 4_000
DEPOSIT = 10**9
NEVER = SettlePolicy(threshold=10**15, interval_ms=10**12, refund=False, at_close_s=0)
PAYER, PAYEE = Key(b"payer".ljust(32, b".")), Key(b"payee".ljust(32, b"."))
JOB, CONTEXT_HASH = b"j" * 32, b"c" * 32
PAID = "/bench/paid"
_PAID = struct.Struct("!Qd")  # uain that are durable, CPU seconds


def genesis() -> Genesis:
    """A network whose committee is nowhere: nothing is settled here."""
    absent = Key(b"nobody".ljust(32, b"."))
    everybody = [(plain_inception(key.public), DEPOSIT) for key in (PAYER, PAYEE)]
    return new_genesis("receipts", 0, [(absent.public, 1, [])], everybody, None, DEVELOPMENT)


def lock_for(payee: bytes) -> Lock:
    """A Lock that is taken to be final."""
    share, expiry = (Share(payee, 1),), 2**62
    return Lock(
        b"L" * 32, 0, b"L" * 32, b"p" * 32, share, DEPOSIT, 0, 1,
        (PAYER.public,), 1, PAYEE.public, expiry, b"h" * 32, 0,
    )  # fmt: skip


@asynccontextmanager
async def open_payer(payee: bytes, directory: Path) -> AsyncIterator[Vault]:
    """The payer's vault, with everything reserved for one job."""
    policy = Policy(per_job=None, per_hour=None, per_day=None, per_counterparty=None)
    async with open_vault(PAYER, policy, directory, Context.system()) as vault:
        await vault.use_lock(genesis().network_id, lock_for(payee))
        await vault.reserve(JOB, payee, DEPOSIT)
        yield vault


@asynccontextmanager
async def open_payee(network: Network, directory: Path) -> AsyncIterator[Wallet]:
    """The payee's wallet, which knows the Lock."""
    async with open_wallet(network, genesis(), PAYEE, directory, policy=NEVER) as wallet:
        wallet.book.watch(lock_for(wallet.account_id))
        yield wallet


# --- per core ---------------------------------------------------------------------------------------


def bare_verify(signed: SignedReceipt, count: int) -> float:
    """Bare verifications per CPU-second, of a message as long as a receipt's."""
    message = signed.signature + b"ainp2p/receipt/1\0" + signed.body
    started = time.process_time()
    for _ in range(count):
        nacl.bindings.crypto_sign_open(message, PAYER.public)
    return count / (time.process_time() - started)


def sign(vault: Vault, count: int) -> tuple[list[SignedReceipt], float]:
    """Receipts, and how many the payer signs per CPU-second."""
    started = time.process_time()
    signed = [vault.sign_receipt(JOB, b"L" * 32, 1, 1, CONTEXT_HASH) for _ in range(count)]
    return signed, count / (time.process_time() - started)


async def book(wallet: Wallet, receipts: list[SignedReceipt]) -> float:
    """How many receipts the payee takes, and makes durable, per CPU-second."""
    started, now = time.process_time(), wallet.now_ms()
    for at in range(0, len(receipts), BATCH):
        for signed in receipts[at : at + BATCH]:
            wallet.book.accept(signed, now)
        await wallet.save_receipts()
    return len(receipts) / (time.process_time() - started)


async def per_core(rounds: int, count: int, root: Path) -> dict[str, float]:
    """The best round of each; the ratios are of what was measured beside each other."""
    bare, payee, payer = [], [], []
    async with open_memory_network(MemoryHub(seed=1), PAYEE, context=Context.system()) as network:
        async with open_payee(network, root / "payee") as wallet:
            async with open_payer(wallet.account_id, root / "payer") as vault:
                await book(wallet, sign(vault, BATCH)[0])
                for _ in range(rounds):
                    receipts, rate = sign(vault, count)
                    payer.append(rate)
                    payee.append(await book(wallet, receipts))
                    bare.append(bare_verify(receipts[-1], count))
    best_bare, best_payee, best_payer = max(bare), max(payee), max(payer)
    return {
        "bare_verify_per_cpu_s": round(best_bare),
        "payee_per_cpu_s": round(best_payee),
        "payer_per_cpu_s": round(best_payer),
        "payee_ratio": round(best_payee / best_bare, 3),
        "payee_with_payer_ratio": round(1 / (1 / best_payee + 1 / best_payer) / best_bare, 3),
        "goal_payee_ratio": GOAL_PAYEE,
        "goal_payee_with_payer_ratio": GOAL_BOTH,
    }


# --- between two processes --------------------------------------------------------------------------


async def be_paid(directory: Path) -> None:
    """The payee's process: books and saves as a selling agent does, until standard input ends."""
    async with open_network(PAYEE) as network, open_payee(network, directory) as wallet:
        saving, waiting, durable = trio.Lock(), list[SignedReceipt](), 0

        async def take(call: Call) -> None:
            nonlocal waiting, durable
            notice = decode_wire(call.body)
            assert isinstance(notice, ReceiptNotice)
            waiting.append(decode(notice.receipt, SignedReceipt))
            async with saving:  # meanwhile the others that came with it are here, too, in any order
                taken, waiting = waiting, []
                if taken:
                    taken.sort(key=lambda signed: read_receipt(signed.body).cumulative)
                    for signed in taken:
                        booked = wallet.book.accept(signed, wallet.now_ms())
                    await wallet.save_receipts()
                    durable = booked.receipt.cumulative

        async def paid(call: Call) -> bytes:
            return _PAID.pack(durable, time.process_time())

        network.serve(PROTOCOL, take)
        network.serve(PAID, paid)
        print(network.addresses[0], flush=True)
        async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
            await stdin.receive_some()


@contextmanager
def payee_process(directory: Path) -> Iterator[str]:
    """A payee in a process of its own; gives its address."""
    command = [sys.executable, "-m", "benchmarks.receipts", "--be-paid", str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


async def between(rounds: int, count: int, root: Path) -> dict[str, float]:
    """Receipts per second over one channel, and both sides' CPU for each, in the best round."""
    best: dict[str, float] = {}
    with payee_process(root / "there") as address:
        async with open_network(Key(os.urandom(32))) as network:
            payee = await network.connect(address)
            async with open_memory_network(MemoryHub(seed=1), PAYEE) as apart:
                async with open_wallet(apart, genesis(), PAYEE, None, policy=NEVER) as wallet:
                    account = wallet.account_id
            async with open_payer(account, root / "here") as vault:
                for _ in range(rounds):
                    found = await pay(network, payee, vault, count)
                    if found["receipts_per_s"] > best.get("receipts_per_s", 0):
                        best = found
    return best | {"goal_receipts_per_s": GOAL_PER_S}


async def pay(network: Network, payee: str, vault: Vault, count: int) -> dict[str, float]:
    """Send `count` receipts, each as a message of its own, and wait until all are durable over there."""
    lock = b"L" * 32
    _, theirs = _PAID.unpack(await network.request(payee, PAID, b""))
    ours, started = time.process_time(), time.perf_counter()
    for _ in range(count):
        signed = vault.sign_receipt(JOB, lock, 1, 1, CONTEXT_HASH)
        await network.send(payee, PROTOCOL, encode(ReceiptNotice(lock, encode(signed), ())))
    wanted = DEPOSIT - vault.left(lock)
    paid = 0
    while paid < wanted:
        paid, now_theirs = _PAID.unpack(await network.request(payee, PAID, b""))
    wall = time.perf_counter() - started
    return {
        "receipts_per_s": round(count / wall),
        "payer_cpu_us": round((time.process_time() - ours) / count * 1e6, 1),
        "payee_cpu_us": round((now_theirs - theirs) / count * 1e6, 1),
    }


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer receipts")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--be-paid", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.be_paid:
        trio.run(be_paid, args.be_paid)
        return
    rounds, count = (3, 1_024) if args.quick else (5, 4_096)
    found: dict[str, Any] = {}
    parts: tuple[Callable[[int, int, Path], Awaitable[dict[str, float]]], ...] = (per_core, between)
    for part in parts:
        with tempfile.TemporaryDirectory() as root:
            found |= trio.run(part, rounds, count, Path(root))
    found["load_average"] = round(os.getloadavg()[0], 1)
    report(found, as_json=args.json)


if __name__ == "__main__":
    main()
