from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ainp2p.errors import StorageError
from ainp2p.ledger.database import Database
from ainp2p.protocol.storage import connect_sqlite


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "db") as opened, opened.transaction():
        opened.execute("CREATE TABLE numbers (n INTEGER PRIMARY KEY)")
    with Database(tmp_path / "db") as opened:
        yield opened


def numbers(database: Database) -> list[int]:
    return [n for (n,) in database.execute("SELECT n FROM numbers ORDER BY n")]


def add(database: Database, *values: int) -> None:
    database.executemany("INSERT INTO numbers VALUES (?)", [(n,) for n in values])


def add_and_fail(database: Database, n: int) -> None:
    """A transaction whose caller changes his mind."""
    with database.transaction():
        add(database, n)
        raise ZeroDivisionError


def test_it_promises_what_the_disk_promises(database: Database) -> None:
    assert database.execute("PRAGMA journal_mode") == [("wal",)]
    assert database.execute("PRAGMA synchronous") == [(2,)]  # FULL
    assert database.execute("PRAGMA locking_mode") == [("exclusive",)]


def test_a_transaction_that_ends_is_kept_and_one_that_raises_is_not(database: Database) -> None:
    with database.transaction():
        add(database, 1, 2)
    with pytest.raises(ZeroDivisionError):
        add_and_fail(database, 3)
    assert numbers(database) == [1, 2]
    assert database.failed is None
    with database.transaction():
        add(database, 4)
    assert numbers(database) == [1, 2, 4]


def test_an_inner_transaction_joins_the_outer_one(database: Database) -> None:
    def outer() -> None:
        with database.transaction():
            with database.transaction():
                add(database, 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        outer()
    assert numbers(database) == []


def test_half_an_inner_transaction_is_never_kept(database: Database) -> None:
    def outer() -> None:
        with database.transaction():
            add(database, 1)
            with suppress(ZeroDivisionError):
                add_and_fail(database, 2)

    with pytest.raises(StorageError, match="a part"):
        outer()
    assert numbers(database) == []


def test_a_refused_statement_ends_all_writing_but_not_reading(database: Database) -> None:
    with database.transaction():
        add(database, 1)
    with pytest.raises(StorageError, match="UNIQUE"), database.transaction():
        add(database, 1)
    assert database.failed is not None
    with pytest.raises(StorageError, match="no more writes"), database.transaction():
        pass
    assert numbers(database) == [1]


def test_an_error_that_is_swallowed_inside_still_fails_the_transaction(database: Database) -> None:
    def careless() -> None:
        with database.transaction():
            add(database, 1)
            with suppress(StorageError):
                add(database, 1)

    with pytest.raises(StorageError):
        careless()
    assert numbers(database) == []


class Failing:
    """A connection on which some statements fail, as on a full or dying disk."""

    def __init__(self, path: str, fails: Callable[[str], bool]) -> None:
        self._inner, self._fails = connect_sqlite(path), fails

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Any:
        if self._fails(sql):
            raise sqlite3.OperationalError("disk I/O error")
        return self._inner.execute(sql, parameters)

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> Any:
        return self._inner.executemany(sql, rows)

    def close(self) -> None:
        self._inner.close()


@pytest.mark.parametrize("statement", ["COMMIT", "BEGIN IMMEDIATE"])
def test_b3_after_a_failed_fsync_nothing_is_written_and_everything_is_readable(
    tmp_path: Path, statement: str
) -> None:
    broken = False
    with Database(
        tmp_path / "db", connect=lambda path: Failing(path, lambda sql: broken and sql == statement)
    ) as database:
        with database.transaction():
            database.execute("CREATE TABLE numbers (n INTEGER PRIMARY KEY)")
            add(database, 1)
        broken = True
        with pytest.raises(StorageError, match="disk I/O error"), database.transaction():
            add(database, 2)
        broken = False  # the disk says that it is well again: it is not believed
        with pytest.raises(StorageError, match="no more writes"), database.transaction():
            add(database, 3)
        assert numbers(database) == [1]
    with Database(tmp_path / "db") as database:
        assert numbers(database) == [1]


def test_b3_a_mutant_that_forgets_the_failure_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Database, "failed", property(lambda self: None, lambda self, why: None), raising=False
    )
    with pytest.raises(pytest.fail.Exception):
        test_b3_after_a_failed_fsync_nothing_is_written_and_everything_is_readable(tmp_path, "COMMIT")


def test_a_second_process_is_refused_at_the_door(database: Database) -> None:
    code = """
import sys, pathlib
from ainp2p.errors import StorageError
from ainp2p.ledger.database import Database
try:
    Database(pathlib.Path(sys.argv[1]))
except StorageError as exc:
    print(exc)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(database.path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "in use by another process" in done.stdout


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(b"this is no database, and long enough to be looked at" * 100)
    with pytest.raises(StorageError, match="not a database"):
        Database(tmp_path / "db")
    with pytest.raises(StorageError, match="cannot open"):
        Database(tmp_path / "absent" / "db")


def test_a_failed_read_is_an_error_of_ours_and_stops_no_writes(database: Database) -> None:
    with pytest.raises(StorageError, match="no such table"):
        database.execute("SELECT n FROM letters")
    assert database.failed is None


def test_closing_twice_is_harmless(database: Database) -> None:
    database.close()
    database.close()
    with pytest.raises(StorageError):
        database.execute("SELECT 1")
