"""Tables that are made when somebody reads them come to the same as tables that were there all the time."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.errors import StorageError
from ainp2p.protocol.storage import Schema, Write
from ainp2p.simulation.kept import STATEMENTS_MAX, Kept, KeptHandle

SCHEMA = Schema(
    "CREATE TABLE IF NOT EXISTS open (job INTEGER PRIMARY KEY, bound INTEGER NOT NULL);"
    "CREATE TABLE IF NOT EXISTS operations (id INTEGER NOT NULL UNIQUE, seq INTEGER NOT NULL UNIQUE)"
)
EVERYTHING = ("SELECT * FROM open ORDER BY job", "SELECT * FROM operations ORDER BY id")


def reserve(job: int, bound: int) -> Write:
    return Write("INSERT OR REPLACE INTO open VALUES (?, ?)", (job, bound), replaces=("open", job))


def settle(job: int) -> Write:
    return Write("DELETE FROM open WHERE job = ?", (job,), replaces=("open", job), removes=True)


def cut(bound: int) -> Write:
    return Write("DELETE FROM open WHERE bound < ?", (bound,))


def sign(id_: int, seq: int) -> Write:
    return Write("INSERT INTO operations VALUES (?, ?)", (id_, seq), slot=seq, fresh=True)


def rows(kept: Kept) -> list[list[tuple[object, ...]]]:
    return [kept.made().execute(sql).fetchall() for sql in EVERYTHING]


small = st.integers(0, 3)
writes = st.one_of(
    st.builds(reserve, small, st.integers(0, 9)),
    st.builds(settle, small),
    st.builds(cut, st.integers(0, 9)),
    st.builds(lambda seq: sign(seq, seq), st.integers(0, 30)),
)


@given(st.lists(st.lists(writes, max_size=6), max_size=10))
def test_kept_statements_come_to_what_sqlite_has(batches: list[list[Write]]) -> None:
    kept, real = Kept(SCHEMA), Kept(SCHEMA)
    real.made()
    for batch in batches:
        refused = []
        for each in (kept, real):
            try:
                each.write(batch)
            except sqlite3.IntegrityError:
                refused.append(each)
        assert len(refused) in (0, 2)
    assert rows(kept) == rows(real)


def test_a_second_row_for_one_slot_is_refused_as_sqlite_does_it() -> None:
    kept = Kept(SCHEMA)
    kept.write([sign(1, 7)])
    with pytest.raises(sqlite3.IntegrityError):
        kept.write([reserve(1, 1), sign(2, 7)])
    assert rows(kept) == [[], [(1, 7)]]  # all or nothing


def test_mutant_without_a_look_at_slots_both_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Kept, "_may_be_refused", lambda self, writes: False)
    kept = Kept(SCHEMA)
    kept.write([sign(1, 7)])
    kept.write([sign(2, 7)])


def test_nothing_is_made_while_nobody_reads_and_what_is_removed_leaves_nothing() -> None:
    kept = Kept(SCHEMA)
    assert kept.read(EVERYTHING[0]) == []
    for n in range(3 * STATEMENTS_MAX):
        kept.write([reserve(n, 1)])
        kept.write([settle(n)])
    assert kept._made is None
    assert not kept._written
    kept.write([reserve(1, 1)])
    assert kept.read(EVERYTHING[0]) == [(1, 1)]
    assert kept._made is not None


def test_many_statements_become_a_database() -> None:
    kept = Kept(SCHEMA)
    for n in range(STATEMENTS_MAX + 1):
        kept.write([reserve(n, 1)])
    assert kept._made is not None
    assert len(rows(kept)[0]) == STATEMENTS_MAX + 1


def test_b2_after_a_failed_write_nothing_is_written_any_more() -> None:
    kept, full = Kept(SCHEMA), True
    handle = KeptHandle(kept, "a", lambda: full, lambda: None)
    with pytest.raises(StorageError, match="full"):
        handle.write([sign(1, 1)])
    full = False
    with pytest.raises(StorageError, match="no more writes"):
        handle.write([sign(1, 1)])
    assert handle.read(EVERYTHING[1]) == []


def test_an_upgrade_is_part_of_the_schema() -> None:
    schema = Schema(SCHEMA.text, lambda execute: execute("ALTER TABLE open ADD COLUMN more INTEGER"))
    assert Kept(schema).read("SELECT more FROM open") == []
