from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ainp2p.errors import BadSignature, StorageError
from ainp2p.ledger.rules import receipts
from ainp2p.ledger.rules.operations import ParsedOperation, parse
from ainp2p.ledger.wallets.income import Income
from ainp2p.ledger.wallets.wallet_store import FILE_NAME, KeptReceipt, Recorded, open_wallet_store
from ainp2p.protocol.identity import verify
from ainp2p.protocol.storage import INLINE

from ..world import World


def spends(count: int = 2) -> list[ParsedOperation]:
    """One account's first SPENDs."""
    world, found = World(), []
    for amount in range(1, count + 1):
        found.append(parse(world.spend("alice", [("bob", amount)])))
        world.do(found[-1].signed)
    return found


async def test_what_was_journalled_is_there_after_reopening_in_order(tmp_path: Path) -> None:
    first, second = spends()
    async with open_wallet_store(tmp_path, storage=INLINE) as store:
        store.journal(first, {b"rent": 3}, 10)
        await store.synced()
        store.put_final(Recorded(first, b"certificate", 20, 0, 6))
        store.journal(second, {}, 5)
    async with open_wallet_store(tmp_path, storage=INLINE) as store:
        assert store.operations() == [
            Recorded(first, b"certificate", 10, 0, 6),
            Recorded(second, b"", 5, 0, 0),
        ]
        assert store.notes() == {b"rent": (first.id, 3)}
        assert [recorded.parsed for recorded in await store.history(1)] == [second]


async def test_a_second_operation_for_one_slot_is_refused_by_the_disk_itself(tmp_path: Path) -> None:
    world = World()
    one, other = (parse(world.spend("alice", [("bob", amount)])) for amount in (1, 2))
    async with open_wallet_store(tmp_path, storage=INLINE) as store:
        store.journal(one, {}, 1)
        store.journal(other, {}, 2)
        with pytest.raises(StorageError, match="UNIQUE"):
            await store.synced()
        with pytest.raises(StorageError):
            await store.history(1)
    async with open_wallet_store(tmp_path, storage=INLINE) as store:
        assert store.operations() == []  # they were one write: neither may be sent


async def test_a_final_operation_takes_the_place_of_one_that_lost_its_slot(tmp_path: Path) -> None:
    world = World()
    lost, won = (parse(world.spend("alice", [("bob", amount)])) for amount in (1, 2))
    async with open_wallet_store(tmp_path, storage=INLINE) as store:
        store.journal(lost, {}, 1)
        store.put_final(Recorded(won, b"c", 2, 0, 3))
        await store.synced()
        assert await store.history(9) == [Recorded(won, b"c", 2, 0, 3)]


async def test_a_dropped_operation_and_its_notes_are_forgotten_a_final_one_is_not(tmp_path: Path) -> None:
    first, second = spends()
    async with open_wallet_store(tmp_path, storage=INLINE) as store:
        store.journal(first, {b"a": 0}, 1)
        store.put_final(Recorded(first, b"c", 1, 0, 2))
        store.journal(second, {b"b": 0}, 2)
        store.drop(second)
        await store.synced()
        assert [recorded.parsed for recorded in await store.history(9)] == [first]
    async with open_wallet_store(tmp_path, storage=INLINE) as store:
        assert store.notes() == {b"a": (first.id, 0)}


async def test_only_the_highest_receipt_of_each_lock_is_kept(tmp_path: Path) -> None:
    world = World()
    lock = world.open_lock()
    async with open_wallet_store(tmp_path, storage=INLINE) as store:
        for cumulative in (10, 20, 30):
            store.put_receipt(lock.id, world.receipt(lock, cumulative), lock.authority[0])
    async with open_wallet_store(tmp_path, storage=INLINE) as store:
        ((id_, kept),) = store.receipts().items()
        assert (id_, kept.signed) == (lock.id, world.receipt(lock, 30))
        assert kept.was_verified(lock.authority[0])
        assert not kept.was_verified(b"k" * 32)


# --- receipts that were verified before -----------------------------------------------------------------


async def verified_at_start(path: Path, change: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """How many signatures a start verifies, and what it believes to be owed, after a change of the file."""
    world = World()
    lock = world.open_lock()
    async with open_wallet_store(path, storage=INLINE) as store:
        income = Income(world.network, store, lambda lock: None)
        income.place(lock)
        income.book.accept(world.receipt(lock, 400), world.now)
        await income.save()
    with closing(sqlite3.connect(path / FILE_NAME)) as database, database:
        database.execute(change)
    verified = 0

    def count(*args: Any) -> None:
        nonlocal verified
        verified += 1
        verify(*args)

    monkeypatch.setattr(receipts, "verify", count)
    async with open_wallet_store(path, storage=INLINE) as store:
        income = Income(world.network, store, lambda lock: None)
        income.restore()
        assert income.unsettled(lock.id) == 0  # nothing counts before its Lock is there
        income.place(lock)
        return verified, income.unsettled(lock.id)


UNCHANGED = "SELECT 1"
DAMAGED = "UPDATE receipts SET signed = CAST(substr(signed, 1, length(signed) - 1) || x'00' AS BLOB)"


async def test_what_was_verified_before_it_was_written_is_not_verified_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await verified_at_start(tmp_path, UNCHANGED, monkeypatch) == (0, 400)


@pytest.mark.parametrize("change", ["mark = NULL", "mark = x'00'", "mark = zeroblob(32)"])
async def test_a_receipt_without_its_mark_is_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    assert await verified_at_start(tmp_path, f"UPDATE receipts SET {change}", monkeypatch) == (1, 400)


async def test_b4_a_receipt_whose_bytes_changed_is_verified_and_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadSignature):
        await verified_at_start(tmp_path, DAMAGED, monkeypatch)


async def test_b4_mutant_a_mark_that_is_not_compared_believes_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KeptReceipt, "was_verified", lambda self, authority: bool(self.mark))
    assert await verified_at_start(tmp_path, DAMAGED, monkeypatch) == (0, 400)


async def test_b6_a_file_without_marks_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change = "ALTER TABLE receipts DROP COLUMN mark"
    assert await verified_at_start(tmp_path, change, monkeypatch) == (1, 400)


async def test_a_store_belongs_to_one_account_on_one_network(tmp_path: Path) -> None:
    async with open_wallet_store(tmp_path, storage=INLINE) as store:
        store.claim(b"a" * 32, b"n" * 32)
    async with open_wallet_store(tmp_path, storage=INLINE) as store:
        store.claim(b"a" * 32, b"n" * 32)
        for account, network in ((b"b" * 32, b"n" * 32), (b"a" * 32, b"m" * 32)):
            with pytest.raises(StorageError, match="another account"):
                store.claim(account, network)


@pytest.mark.parametrize("column", ["id", "signed"])
async def test_b4_a_changed_row_is_found_at_start(tmp_path: Path, column: str) -> None:
    async with open_wallet_store(tmp_path, storage=INLINE) as store:
        store.journal(spends()[0], {}, 1)
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        (raw,) = connection.execute(f"SELECT {column} FROM operations").fetchone()
        changed = raw[:30] + bytes([raw[30] ^ 1]) + raw[31:]
        connection.execute(f"UPDATE operations SET {column} = ?", (changed,))
    connection.close()
    async with open_wallet_store(tmp_path, storage=INLINE) as store:
        with pytest.raises(StorageError, match="damaged"):
            store.operations()


async def test_b4_a_row_that_is_garbage_is_found_at_start(tmp_path: Path) -> None:
    async with open_wallet_store(tmp_path, storage=INLINE) as store:
        store.journal(spends()[0], {}, 1)
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute("UPDATE operations SET signed = x'00'")
    connection.close()
    async with open_wallet_store(tmp_path, storage=INLINE) as store:
        with pytest.raises(StorageError, match="damaged"):
            store.operations()
