"""How long a payee with 100,000 receipts takes to be itself again after a crash.

    python -m benchmarks.ledger_restart [--quick] [--json]

What a wallet's journal holds is read, and once its Lock is there the highest receipt of each is verified, so
that it can be settled. Once with 100 receipts for each Lock, which is what a busy seller has; once with as
many Locks as receipts: then only what the start itself does is bound, since a receipt is verified when its
Lock has been looked up again. And a whole wallet opens whose book holds as many final operations (row G4).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import trio

from ainp2p.ledger.rules.accounts import spend, unopened_account
from ainp2p.ledger.rules.genesis import DEVELOPMENT
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.operations import ParsedOperation, parse, plain_inception, sign_operation
from ainp2p.ledger.rules.receipts import Receipt, SignedReceipt, sign_receipt
from ainp2p.ledger.wallets.income import Income
from ainp2p.ledger.wallets.purse import Purse
from ainp2p.ledger.wallets.purse_snapshot import rows_of
from ainp2p.ledger.wallets.wallet import open_wallet
from ainp2p.ledger.wallets.wallet_core import SNAPSHOT_EVERY
from ainp2p.ledger.wallets.wallet_store import Recorded, open_wallet_store
from ainp2p.protocol.memory import MemoryHub, open_memory_network
from benchmarks.figures import report
from benchmarks.receipts import CONTEXT_HASH, NEVER, PAYER, genesis, lock_for

RECEIPTS, QUICK_RECEIPTS = 100_000, 10_000
PER_LOCK = 100
SAVE_EVERY = 1_000  # receipts; how many became durable together makes no difference afterwards
GOAL_S = 2.0
CERTIFICATE = bytes(1_200)  # as large as one of four validators; nobody looks at it here


def locks(count: int) -> list[Lock]:
    """Final Locks of one payer."""
    first = lock_for(b"a" * 32)
    return [msgspec.structs.replace(first, id=at.to_bytes(32, "big")) for at in range(count)]


def receipt(network: bytes, lock: Lock, cumulative: int) -> SignedReceipt:
    """The payer's."""
    return sign_receipt(Receipt(network, lock.id, cumulative, cumulative, CONTEXT_HASH), PAYER)


async def fill(directory: Path, network: bytes, known: list[Lock], count: int) -> None:
    """Book so many receipts, each Lock's in turn."""
    async with open_wallet_store(directory) as store:
        income = Income(network, store, lambda lock: None)
        for lock in known:
            income.place(lock)
        for at in range(count):
            income.book.accept(receipt(network, known[at % len(known)], 1 + at // len(known)), 0)
            if at % SAVE_EVERY == SAVE_EVERY - 1:
                await income.save()
        await income.save()


async def restart(directory: Path, network: bytes, known: list[Lock]) -> dict[str, float]:
    """Seconds until all is read, and until all can be settled; wall clock and CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    async with open_wallet_store(directory) as store:
        income = Income(network, store, lambda lock: None)
        income.restore()
        read_s = time.perf_counter() - wall
        for lock in known:
            income.place(lock)
        all_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
        assert all(income.book.unsettled(lock.id) for lock in known)
    return {"read_s": round(read_s, 3), "all_s": round(all_s, 3), "cpu_s": round(cpu_s, 3)}


def next_payment(purse: Purse) -> ParsedOperation:
    """One uain to somebody."""
    account, inception = purse.account, plain_inception(PAYER.public)
    operation = spend(
        account,
        purse.credits,
        DEVELOPMENT,
        network=genesis().network_id,
        now_ms=account.timestamp + 1,
        outs=[(b"s" * 32, 1)],
        inception=None if account.seq else inception,
    )
    return parse(sign_operation(operation, PAYER))


async def keep_book(directory: Path, count: int) -> None:
    """A wallet's book after so many payments, written as the wallet does."""
    everything, network = genesis(), genesis().network_id
    async with open_wallet_store(directory) as store:
        store.claim(unopened_account(network, plain_inception(PAYER.public)).id, network)
        purse = Purse(everything, network, plain_inception(PAYER.public), PAYER.public)
        for at in range(1, count + 1):
            parsed = next_payment(purse)
            purse.apply(parsed)
            store.put_final(Recorded(parsed, CERTIFICATE, at, 0, 2))
            if at % SNAPSHOT_EVERY == 0:
                store.put_snapshot(rows_of(purse, {}))
                await store.synced()


async def open_book(directory: Path, count: int) -> float:
    """Seconds until the wallet is open."""
    async with open_memory_network(MemoryHub(seed=1), PAYER) as network:
        wall = time.perf_counter()
        async with open_wallet(network, genesis(), PAYER, directory, policy=NEVER) as wallet:
            opened_s = time.perf_counter() - wall
            assert wallet.account.seq == count
    return round(opened_s, 3)


async def measure(count: int) -> dict[str, Any]:
    """Both."""
    network = genesis().network_id
    found: dict[str, Any] = {"receipts": count, "goal_s": GOAL_S}
    with tempfile.TemporaryDirectory() as name:
        for words, per_lock in (("busy", PER_LOCK), ("wide", 1)):
            known, directory = locks(count // per_lock), Path(name) / words
            await fill(directory, network, known, count)
            times = await restart(directory, network, known)
            found |= {f"{words}_{which}": seconds for which, seconds in times.items()}
        await keep_book(Path(name) / "book", count)
        found["book_s"] = await open_book(Path(name) / "book", count)
    return found


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_RECEIPTS:,} receipts")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    report(trio.run(measure, QUICK_RECEIPTS if args.quick else RECEIPTS), as_json=args.json)


if __name__ == "__main__":
    main()
