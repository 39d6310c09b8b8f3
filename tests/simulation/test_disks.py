"""Simulated disks: what a crash leaves."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from ainp2p.errors import StorageError
from ainp2p.ledger.disk import open_disk
from ainp2p.simulation.disks import Disk, SimStorage

Clock = trio.testing.MockClock
HOME = Path("home")
SCHEMA = "CREATE TABLE IF NOT EXISTS numbers (n INTEGER)"
INSERT = "INSERT INTO numbers VALUES (?)"


def numbers(disk: Disk) -> list[int]:
    connection = disk.database(HOME / "a")
    return [row[0] for row in connection.execute("SELECT n FROM numbers").fetchall()]


async def crash_while_writing(disk: Disk, *, lose_unsynced: bool, after_s: float) -> None:
    async with trio.open_nursery() as nursery:
        storage = disk.storage()

        async def write() -> None:
            async with open_disk(HOME / "a", SCHEMA, storage) as opened:
                opened.put(INSERT, (1,))
                await opened.synced()
                opened.put(INSERT, (2,))
                await trio.sleep_forever()

        async def run() -> None:
            with pytest.raises((StorageError, trio.Cancelled, ExceptionGroup)):
                await write()

        nursery.start_soon(run)
        await trio.sleep(after_s)
        disk.crash(lose_unsynced=lose_unsynced)
        nursery.cancel_scope.cancel()


async def test_b1_a_power_cut_loses_what_was_not_synced(autojump_clock: Clock) -> None:
    disk = Disk(fsync_s=0.01)
    await crash_while_writing(disk, lose_unsynced=True, after_s=0.015)
    assert numbers(disk) == [1]


async def test_b1_a_killed_process_s_writes_are_finished_by_the_system(autojump_clock: Clock) -> None:
    disk = Disk(fsync_s=0.01)
    await crash_while_writing(disk, lose_unsynced=False, after_s=0.015)
    assert numbers(disk) == [1, 2]


async def test_what_was_synced_is_there_for_the_next_life(autojump_clock: Clock) -> None:
    disk = Disk()
    async with open_disk(HOME / "a", SCHEMA, disk.storage()) as opened:
        opened.put(INSERT, (1,))
    async with open_disk(HOME / "a", SCHEMA, disk.storage()) as opened:
        assert opened.read_now("SELECT n FROM numbers") == [(1,)]


async def test_clean_up_after_a_crash_reaches_nothing(autojump_clock: Clock) -> None:
    disk = Disk()
    storage = disk.storage()
    connection = storage.connect(HOME / "a")
    connection.execute("CREATE TABLE numbers (n INTEGER)")
    connection.execute("BEGIN")
    connection.execute(INSERT, (1,))
    disk.crash(lose_unsynced=True)
    storage.write(HOME / "file", b"late")
    with pytest.raises(sqlite3.OperationalError, match="crashed"):
        connection.execute("COMMIT")
    with pytest.raises(StorageError, match="crashed"):
        await storage.run(lambda: None)
    assert (numbers(disk), disk.storage().read(HOME / "file")) == ([], None)


async def test_a_mutant_that_lets_the_dead_write_on_is_seen(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SimStorage, "_crash", lambda self, lose_unsynced: None)
    disk = Disk()
    connection = disk.storage().connect(HOME / "a")
    disk.crash(lose_unsynced=True)
    connection.execute("CREATE TABLE numbers (n INTEGER)")
    assert numbers(disk) == []  # it was written: the tests above would fail


def test_one_process_opens_a_database_once() -> None:
    storage = Disk().storage()
    storage.connect(HOME / "a").close()
    storage.connect(HOME / "a")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        storage.connect(HOME / "a")


async def test_b3_a_full_disk_refuses_writes_and_stays_readable(autojump_clock: Clock) -> None:
    disk = Disk()
    async with open_disk(HOME / "a", SCHEMA, disk.storage()) as opened:
        opened.put(INSERT, (1,))
        await opened.synced()
        disk.full = True
        opened.put(INSERT, (2,))
        with pytest.raises(StorageError, match="full"):
            await opened.synced()
        assert opened.read_now("SELECT n FROM numbers") == [(1,)]
        disk.full = False


async def test_work_takes_the_time_of_an_fsync(autojump_clock: Clock) -> None:
    began = trio.current_time()
    storage: Any = Disk(fsync_s=0.25).storage()
    assert await storage.run(lambda: 7) == 7
    assert trio.current_time() - began == pytest.approx(0.25)
