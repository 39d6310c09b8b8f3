"""One validator at its epoch's end; the test plays the other three, and its clock."""

from __future__ import annotations

import msgspec
import pytest

from ainp2p.ledger.rules.genesis import DEVELOPMENT
from ainp2p.ledger.rules.operations import unsigned_operation
from ainp2p.ledger.voting.committee_chain import end_epoch
from ainp2p.ledger.voting.epoch_end import EpochEnd
from ainp2p.ledger.voting.votelog import Handoff, commit_entry, lock_entry, read_entries
from tests.ledger.bench import Bench

EPOCH_MS = 2_000
DAY_MS = 86_400_000


def handed_over_after_a_moment_of_a_clock_ahead() -> bool:
    """END-EPOCH is final at a member that does not vote yet, whose clock is a day ahead for one tick."""
    bench = Bench(parameters=msgspec.structs.replace(DEVELOPMENT, epoch_ms=EPOCH_MS))
    bench.wait(EPOCH_MS + 100)
    bench.restart(start=False)
    end = unsigned_operation(end_epoch(bench.network, 0, bench.network))
    bench.give(end)
    bench.vote(lock_entry, end)
    bench.vote(commit_entry, end)
    bench.note(bench.validator.tick(bench.now + DAY_MS))
    bench.heights(members=(1, 2, 3))
    bench.wait(1_000)
    entries = [entry for batch in bench.out.batches for entry in read_entries(batch.entries)]
    return any(isinstance(entry, Handoff) for entry in entries)


def test_f1_a_clock_that_was_ahead_for_a_moment_keeps_nobody_from_handing_over() -> None:
    assert handed_over_after_a_moment_of_a_clock_ahead()


def test_f1_mutant_an_epochs_end_that_waits_by_the_old_clock_comes_a_day_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(EpochEnd, "clock_put_back", lambda *_: None)
    assert not handed_over_after_a_moment_of_a_clock_ahead()
