"""The vault's tables: what is put comes back, and what was damaged is not believed."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from ainp2p.agents.breaker import BreakerState
from ainp2p.agents.policy import Saved
from ainp2p.agents.promises import LockRecord
from ainp2p.agents.vault_store import FILE_NAME, open_vault_store
from ainp2p.errors import StorageError
from ainp2p.ledger.rules.receipts import Receipt, sign_receipt

from .vault_world import HASH, KEY, NETWORK, OTHER, SELLER

RECEIPT = sign_receipt(Receipt(NETWORK, HASH, 10, 1, HASH), KEY)
CHANGES = Saved(
    open=((b"1", SELLER, 100, 30), (b"2", OTHER, 0, 0)),
    spent=((SELLER, 7, 50), (SELLER, 8, 2**63 - 1)),
    repeats=((HASH, 7, 3),),
    breaker=BreakerState("breaker:errors", 8, 2, 2**60 - 1),
)
RECORDS = [LockRecord(HASH, (OTHER, SELLER), RECEIPT, 5), LockRecord(SELLER, (SELLER,))]


async def test_what_was_put_comes_back(tmp_path: Path) -> None:
    async with open_vault_store(tmp_path, KEY.public) as store:
        assert store.load() == Saved()
        store.put_changes(CHANGES)
        store.put_locks(RECORDS, [])
    async with open_vault_store(tmp_path, KEY.public) as store:
        assert store.load() == CHANGES
        assert store.locks() == RECORDS


async def test_later_changes_replace_earlier_ones(tmp_path: Path) -> None:
    later = Saved(
        open=((b"2", OTHER, 9, 9),),
        closed=(b"1",),
        spent=((SELLER, 8, 60),),
        repeats=((HASH, 0, 0),),
        oldest_minute=8,
    )
    async with open_vault_store(tmp_path, KEY.public) as store:
        store.put_changes(CHANGES)
        store.put_locks(RECORDS, [])
        await store.synced()
        store.put_changes(later)
        store.put_locks([LockRecord(SELLER, (SELLER,), RECEIPT)], [HASH])
        await store.synced()
    async with open_vault_store(tmp_path, KEY.public) as store:
        assert store.load() == Saved(open=((b"2", OTHER, 9, 9),), spent=((SELLER, 8, 60),))
        assert store.locks() == [LockRecord(SELLER, (SELLER,), RECEIPT)]


async def test_a_damaged_receipt_is_not_believed(tmp_path: Path) -> None:
    async with open_vault_store(tmp_path, KEY.public) as store:
        store.put_locks(RECORDS, [])
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute("UPDATE locks SET receipt = x'9200' WHERE receipt IS NOT NULL")
    connection.close()
    async with open_vault_store(tmp_path, KEY.public) as store:
        with pytest.raises(StorageError, match="damaged"):
            store.locks()


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"not a database" * 500)
    with pytest.raises(StorageError, match=FILE_NAME):
        async with open_vault_store(tmp_path, KEY.public):
            pytest.fail("opened")


async def test_in_memory_nothing_stays() -> None:
    async with open_vault_store(None, KEY.public) as store:
        store.put_changes(CHANGES)
        await store.synced()
    async with open_vault_store(None, KEY.public) as store:
        assert store.load() == Saved()
