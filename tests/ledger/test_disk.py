from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from ainp2p.errors import Closed, StorageError
from ainp2p.ledger.disk import open_disk
from ainp2p.protocol.storage import FILES, INLINE, Files

SCHEMA = "CREATE TABLE IF NOT EXISTS numbers (n INTEGER PRIMARY KEY); "
INSERT = "INSERT INTO numbers VALUES (?)"


def numbers_in(path: Path) -> list[int]:
    with sqlite3.connect(path) as connection:
        return [n for (n,) in connection.execute("SELECT n FROM numbers ORDER BY n")]


async def test_what_is_synced_is_there_after_reopening(tmp_path: Path) -> None:
    async with open_disk(tmp_path / "a.sqlite", SCHEMA, storage=FILES) as disk:
        disk.put(INSERT, (1,))
        await disk.synced()
    async with open_disk(tmp_path / "a.sqlite", SCHEMA, storage=INLINE) as disk:
        assert disk.read_now("SELECT n FROM numbers") == [(1,)]


async def test_leaving_the_block_writes_what_was_put(tmp_path: Path) -> None:
    async with open_disk(tmp_path / "a.sqlite", SCHEMA, storage=INLINE) as disk:
        disk.put(INSERT, (1,))
    assert numbers_in(tmp_path / "a.sqlite") == [1]


async def test_leaving_the_block_by_cancellation_writes_it_too(tmp_path: Path) -> None:
    with trio.CancelScope() as scope:
        async with open_disk(tmp_path / "a.sqlite", SCHEMA, storage=INLINE) as disk:
            disk.put(INSERT, (1,))
            scope.cancel()
            await disk.synced()
    assert numbers_in(tmp_path / "a.sqlite") == [1]


async def test_what_is_put_during_one_commit_shares_the_next() -> None:
    commits = 0

    async def slow(job: Callable[[], Any]) -> Any:
        nonlocal commits
        commits += 1
        await gate.wait()
        return job()

    gate = trio.Event()
    async with open_disk(None, SCHEMA, storage=Files(slow)) as disk, trio.open_nursery() as nursery:
        disk.put(INSERT, (0,))
        await trio.testing.wait_all_tasks_blocked()
        for n in range(1, 100):
            disk.put(INSERT, (n,))
            nursery.start_soon(disk.synced)
        gate.set()
        await disk.synced()
        assert commits == 2
        assert await disk.read("SELECT count(*) FROM numbers") == [(100,)]


async def test_of_writes_with_one_name_only_the_last_is_written() -> None:
    async with open_disk(None, SCHEMA, storage=INLINE) as disk:
        disk.put(INSERT, (1,), replaces="n")
        disk.put(INSERT, (2,), replaces="n")
        await disk.synced()
        assert await disk.read("SELECT n FROM numbers") == [(2,)]


async def test_reads_see_what_was_put_before() -> None:
    async with open_disk(None, SCHEMA, storage=INLINE) as disk:
        disk.put(INSERT, (7,))
        assert await disk.read("SELECT n FROM numbers WHERE n = ?", (7,)) == [(7,)]


async def test_b3_after_a_failed_write_nothing_is_promised_any_more(tmp_path: Path) -> None:
    async with open_disk(tmp_path / "a.sqlite", SCHEMA, storage=INLINE) as disk:
        disk.put(INSERT, (1,))
        await disk.synced()
        disk.put(INSERT, (1,))  # the same key again: the disk refuses
        with pytest.raises(StorageError, match="UNIQUE"):
            await disk.synced()
        with pytest.raises(StorageError):
            disk.put(INSERT, (2,))
        with pytest.raises(StorageError):
            await disk.read("SELECT 1")
    assert numbers_in(tmp_path / "a.sqlite") == [1]


async def test_a_second_opener_is_told_who_is_in_the_way(tmp_path: Path) -> None:
    async with open_disk(tmp_path / "a.sqlite", SCHEMA, storage=INLINE):
        with pytest.raises(StorageError, match="in use by another process"):
            async with open_disk(tmp_path / "a.sqlite", SCHEMA, storage=INLINE):
                pass


@pytest.mark.parametrize("content", [b"not a database, and longer than a header " * 50], ids=["garbage"])
async def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.sqlite").write_bytes(content)
    with pytest.raises(StorageError, match="cannot open"):
        async with open_disk(tmp_path / "a.sqlite", SCHEMA, storage=INLINE):
            pass


async def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot open"):
        async with open_disk(tmp_path / "file" / "a.sqlite", SCHEMA, storage=INLINE):
            pass


async def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    async with open_disk(tmp_path / "new" / "a.sqlite", SCHEMA, storage=INLINE) as disk:
        disk.put(INSERT, (1,))
        await disk.synced()
        for file in (tmp_path / "new").iterdir():
            assert file.stat().st_mode & 0o077 == 0, file
        assert (tmp_path / "new").stat().st_mode & 0o077 == 0


async def test_the_caller_s_exception_leaves_as_it_came() -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_disk(None, SCHEMA, storage=INLINE):
            raise ZeroDivisionError


async def test_use_after_the_block_is_refused() -> None:
    async with open_disk(None, SCHEMA, storage=INLINE) as disk:
        pass
    with pytest.raises(Closed):
        disk.put(INSERT, (1,))
