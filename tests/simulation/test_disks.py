"""Simulated disks: what a crash leaves."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from ainp2p.errors import StorageError
from ainp2p.ledger.disk import open_disk
from ainp2p.simulation import run_virtual
from ainp2p.simulation.disks import Disk, SimStorage

HOME = Path("home")
SCHEMA = "CREATE TABLE IF NOT EXISTS numbers (n INTEGER)"
INSERT = "INSERT INTO numbers VALUES (?)"


def virtual(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test in virtual time, as a world is run."""

    @functools.wraps(test)
    def case(*args: Any, **named: Any) -> None:
        run_virtual(functools.partial(test, *args, **named), seed=1)

    return case


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


@virtual
async def test_b1_a_power_cut_loses_what_was_not_synced() -> None:
    disk = Disk(fsync_s=0.01)
    await crash_while_writing(disk, lose_unsynced=True, after_s=0.015)
    assert numbers(disk) == [1]


@virtual
async def test_b1_a_killed_process_s_writes_are_finished_by_the_system() -> None:
    disk = Disk(fsync_s=0.01)
    await crash_while_writing(disk, lose_unsynced=False, after_s=0.015)
    assert numbers(disk) == [1, 2]


@virtual
async def test_what_was_synced_is_there_for_the_next_life() -> None:
    disk = Disk()
    async with open_disk(HOME / "a", SCHEMA, disk.storage()) as opened:
        opened.put(INSERT, (1,))
    async with open_disk(HOME / "a", SCHEMA, disk.storage()) as opened:
        assert opened.read_now("SELECT n FROM numbers") == [(1,)]


@virtual
async def test_clean_up_after_a_crash_reaches_nothing() -> None:
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


@virtual
async def test_a_mutant_that_lets_the_dead_write_on_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
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


@virtual
async def test_b3_a_full_disk_refuses_writes_and_stays_readable() -> None:
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


@virtual
async def test_work_takes_the_time_of_an_fsync() -> None:
    began = trio.current_time()
    storage: Any = Disk(fsync_s=0.25).storage()
    assert await storage.run(lambda: 7) == 7
    assert trio.current_time() - began == pytest.approx(0.25)


async def write_while(storage: SimStorage, what: Callable[[trio.CancelScope], object]) -> tuple[str, float]:
    """What becomes of a job of 0.25 s if that happens after 0.1 s, and when."""
    told = "?"

    async def work(scope: trio.CancelScope) -> None:
        nonlocal told
        with scope:
            try:
                told = await storage.run(lambda: "done")
            except StorageError:
                told = "crashed"
            await trio.lowlevel.checkpoint()
            told += ", and goes on"

    began, scope = trio.current_time(), trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work, scope)
        await trio.sleep(0.1)
        what(scope)
    return told, trio.current_time() - began


@virtual
async def test_work_that_has_begun_is_finished_though_cancelled() -> None:
    told = await write_while(Disk(fsync_s=0.25).storage(), lambda scope: scope.cancel())
    assert told == ("done", 0.25)


@virtual
async def test_a_crash_ends_the_wait_for_an_fsync_at_once() -> None:
    disk = Disk(fsync_s=0.25)
    told = await write_while(disk.storage(), lambda scope: disk.crash(lose_unsynced=True))
    assert told == ("crashed, and goes on", 0.1)


@virtual
async def test_the_work_of_a_machine_that_has_crashed_takes_no_time() -> None:
    disk = Disk(fsync_s=0.25)
    storage = disk.storage()
    disk.crash(lose_unsynced=True)
    with pytest.raises(StorageError, match="crashed"):
        await storage.run(lambda: None)
    assert trio.current_time() == 0


@virtual
async def test_a_mutant_whose_crash_wakes_nobody_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(self: SimStorage, lose_unsynced: bool) -> None:
        self._crashed = True

    monkeypatch.setattr(SimStorage, "_crash", crash)
    disk = Disk(fsync_s=0.25)
    told = await write_while(disk.storage(), lambda scope: disk.crash(lose_unsynced=True))
    assert told == ("crashed, and goes on", 0.25)  # 0.1 s is wanted
