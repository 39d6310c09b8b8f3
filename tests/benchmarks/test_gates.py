"""What the speeds rest on, as counters and as ratios of CPU time within one run: generous, and no wall clock.

The targets themselves are for `python -m benchmarks` on an idle machine.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from ainp2p.ledger.database import Database
from ainp2p.ledger.rules.receipts import SignedReceipt
from ainp2p.ledger.store import Store
from ainp2p.ledger.voting.validator import Validator
from ainp2p.ledger.voting.validator_store import SqliteJournal
from ainp2p.ledger.wallets.wallet import Wallet, open_wallet
from ainp2p.protocol import frames, outbox
from ainp2p.protocol.channel import Channel
from ainp2p.protocol.context import Context
from ainp2p.protocol.memory import MemoryHub, open_memory_network
from ainp2p.protocol.storage import Files, run_inline
from benchmarks import receipts
from benchmarks.ledger_pipeline import NOW, Others, Scene, bare_verifications_per_s, decide, groups
from benchmarks.size import importing

# --- imports ----------------------------------------------------------------------------------------


def test_importing_the_library_loads_nothing_heavy() -> None:
    assert importing(1)["import_heavy"] == []


# --- receipts ---------------------------------------------------------------------------------------


async def commits_for(count: int, save: Callable[[Wallet, SignedReceipt], Any]) -> int:
    """How many writes to the disk it takes to book so many receipts that came at once."""
    commits = 0

    async def run_and_count(job: Callable[[], Any]) -> Any:
        nonlocal commits
        commits += 1
        return await run_inline(job)

    context = Context.system()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        async with open_memory_network(MemoryHub(seed=1), receipts.PAYEE, context=context) as network:
            async with open_wallet(
                network,
                receipts.genesis(),
                receipts.PAYEE,
                root / "payee",
                policy=receipts.NEVER,
                storage=Files(run_and_count),
            ) as wallet:
                wallet.book.watch(receipts.lock_for(wallet.account_id))
                async with receipts.open_payer(wallet.account_id, root / "payer") as vault:
                    signed, _ = receipts.sign(vault, count)
                commits = 0
                async with trio.open_nursery() as nursery:
                    for each in signed:
                        wallet.book.accept(each, wallet.now_ms())
                        nursery.start_soon(save, wallet, each)
                return commits


async def test_many_receipts_cost_one_fsync() -> None:
    async def save(wallet: Wallet, _: SignedReceipt) -> None:
        await wallet.save_receipts()

    assert await commits_for(100, save) <= 2


async def test_mutant_receipts_that_are_saved_one_by_one_are_noticed() -> None:
    order = trio.Lock()

    async def save(wallet: Wallet, signed: SignedReceipt) -> None:
        async with order:
            wallet._store.put_receipt(signed.body[:32], signed, receipts.PAYER.public)
            await wallet._store.synced()

    assert await commits_for(100, save) >= 100


def test_booking_and_signing_a_receipt_cost_little_beside_bare_verification() -> None:
    with tempfile.TemporaryDirectory() as name:
        found = trio.run(receipts.per_core, 3, 256, Path(name))
    assert found["payee_ratio"] > 0.35  # the target is 0.7
    assert found["payee_with_payer_ratio"] > 0.275  # and 0.55


# --- the channel --------------------------------------------------------------------------------------


def writes_for(requests: int, size: int) -> int:
    """How many writes carry so many requests that were made at once."""
    channel = Channel(0.0)
    for _ in range(requests):
        channel.caller.open(frames.REQUEST, "/bench/echo", bytes(size))
    writes = 0
    while channel.data_to_send():
        writes += 1
    return writes


def test_requests_that_are_made_at_once_leave_in_one_write() -> None:
    assert writes_for(128, 200) == 1


def test_mutant_frames_that_are_not_coalesced_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "WRITE_SIZE_MAX", 300)
    assert writes_for(128, 200) >= 128


# --- the ledger ---------------------------------------------------------------------------------------


def decided_and_signed(accounts: int, rounds: int) -> tuple[int, int, float]:
    """Operations that one validator of four decided, batches that it signed, its ratio to bare Ed25519."""
    scene = Scene(accounts)
    others = Others(scene)
    work = [
        list(groups(scene.funding(), others)),
        *(list(groups(scene.round(n), others)) for n in range(rounds)),
    ]
    with tempfile.TemporaryDirectory() as name, Database(Path(name) / "validator.db") as database:
        store = Store(database, scene.genesis)
        validator = Validator(
            scene.validators[0], scene.genesis, store.load(), SqliteJournal(database, store)
        )
        for key in scene.validators[1:]:
            validator.handle_height(key.public, 0, NOW)
        decided, best = 0, 0.0
        for number, part in enumerate(work):
            started = time.process_time()
            final = decide(validator, part, NOW + 10_000 * number)
            rate = final / (time.process_time() - started)
            best = max(best, rate / bare_verifications_per_s(200))
            decided += final
        return decided, validator.heights()[scene.validators[0].public], best


def test_a_validator_signs_a_batch_and_not_a_vote() -> None:
    decided, signed, ratio = decided_and_signed(256, 4)
    assert decided == 256 * 4 + 4
    assert signed <= 3 * 5  # LOCKs and COMMITs of each group
    assert ratio > 0.12  # of bare verification; the target is 8,000 of some 20,000
