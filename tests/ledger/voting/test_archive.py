from __future__ import annotations

import pytest

from ainp2p.errors import StorageError
from ainp2p.ledger.voting.archive import CACHED_BATCHES, UNSAVED_MAX, WRITE_AFTER_MS, Archive
from ainp2p.ledger.voting.effects import TWO_BATCHES, Effects, Evidence, Records
from ainp2p.ledger.voting.votelog import Chain, VoteBatch, commit_entry, open_batch
from tests.ledger.bench import Bench
from tests.ledger.world import NOW


class Desk:
    """An archive beside a bench, whose validator lends its tables."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.archive = Archive(self.bench.journal, lambda _: self.bench.committee)

    def batch(self, member: int = 1) -> VoteBatch:
        bench = self.bench
        return open_batch(bench.batch(member, commit_entry(0, bytes(32))), bench.network, 0, bench.committee)

    def collect(self, now: int) -> Records:
        validator = self.bench.validator
        chains = [Chain(0, self.bench.network, {}) for _ in range(4)]
        return self.archive.collect([], now, validator._table, validator._decider.receipts, chains)


def test_what_nobody_waits_for_is_written_after_a_second() -> None:
    desk = Desk()
    desk.archive.add_batch(desk.batch(), NOW)
    desk.archive.add_batch(desk.batch(), NOW + 500)
    assert desk.archive.write_at == NOW + WRITE_AFTER_MS
    assert desk.collect(NOW + 999).others == []
    assert len(desk.collect(NOW + WRITE_AFTER_MS).others) == 2
    assert desk.archive.write_at is None


def test_v10_many_are_written_at_once() -> None:
    desk = Desk()
    for _ in range(UNSAVED_MAX):
        desk.archive.add_batch(desk.batch(), NOW)
    assert desk.archive.is_due(NOW)


def test_evidence_is_written_at_once_and_once_for_each_culprit() -> None:
    desk, out = Desk(), Effects()
    for items in ((b"1", b"2"), (b"1", b"3")):
        desk.archive.add_evidence(Evidence(TWO_BATCHES, bytes(32), items), out)
    assert desk.archive.is_due(NOW)
    assert len(out.evidence) == 1
    assert desk.collect(NOW).evidence == out.evidence


def test_batches_are_found_before_and_after_they_are_written() -> None:
    desk = Desk()
    batches = [desk.batch() for _ in range(3)]
    for batch in batches:
        desk.archive.add_batch(batch, NOW)
    for _ in range(2):
        assert desk.archive.raw_batches(1, 1, 3) == [batch.raw for batch in batches]
        assert desk.archive.raw_batch(1, 2) == batches[1].raw
        assert desk.archive.batch(1, 2).id == batches[1].id
        records = desk.collect(NOW + WRITE_AFTER_MS)
        desk.bench.journal.write(records)
        desk.archive.written(records)
    assert desk.archive._unsaved == {}
    assert desk.archive.raw_batch(1, 4) is None


def test_a_batch_that_is_not_there_is_an_error_of_the_disk() -> None:
    with pytest.raises(StorageError, match="not on the disk"):
        Desk().archive.batch(1, 1)


def test_v10_only_so_many_parsed_batches_are_at_hand() -> None:
    desk = Desk()
    for _ in range(2 * CACHED_BATCHES):
        desk.archive.add_batch(desk.batch(), NOW)
    records = desk.collect(NOW + WRITE_AFTER_MS)
    desk.bench.journal.write(records)
    desk.archive.written(records)
    for height in range(1, 2 * CACHED_BATCHES + 1):
        desk.archive.batch(1, height)
    assert len(desk.archive._cache) == CACHED_BATCHES
    assert desk.archive.batch(1, 2 * CACHED_BATCHES) is desk.archive.batch(1, 2 * CACHED_BATCHES)
