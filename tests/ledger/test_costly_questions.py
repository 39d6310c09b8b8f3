"""Strangers ask a validator what takes long to answer, as often as they may."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from ainp2p.errors import Malformed, Refused
from ainp2p.ledger.rules.state import Credit
from ainp2p.ledger.serving import answers, charging
from ainp2p.ledger.serving.answers import Answers, bounded
from ainp2p.ledger.serving.limits import BURST
from ainp2p.ledger.serving.messages import (
    BODY_SIZE_MAX,
    CERTIFICATE_SIZE_MAX,
    FINAL,
    GetCredits,
    GetLocksOf,
    Reconcile,
    Statistics,
    Status,
    Statuses,
)
from ainp2p.protocol.codec import decode, encode

from .bench import Bench
from .test_wallet_faults import run
from .town import open_town
from .world import key_of

DUST = 20_000


async def pages_of_dust_at_once() -> int:
    """How many pages of an account full of dust one peer may ask for before it has to wait."""
    async with open_town(size=1) as town:
        bob, stranger = town.account("bob"), key_of("stranger").peer_id
        for i in range(DUST):
            town.services[0]._validator.state.add_credit(i.to_bytes(34, "big"), Credit(bob, 1))
        asked = 0
        with suppress(Refused):
            while asked < 400:
                town.services[0]._charge(stranger, GetCredits(bob, b""))
                asked += 1
        return asked


def test_pages_of_an_account_full_of_dust_cost_what_they_take() -> None:
    assert run(pages_of_dust_at_once) < 4_000 / (DUST / 1_000)  # the burst of one peer


def test_mutant_pages_at_one_price_are_work_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charging, "CREDITS_PER_TOKEN", 10**9)
    assert run(pages_of_dust_at_once) == 400


async def pages_of_locks_at_once(count: int) -> int:
    """How many pages of a party with so many Locks one peer may ask for before it has to wait."""
    async with open_town(size=1) as town:
        bob, stranger = town.account("bob"), key_of("stranger").peer_id
        town.services[0]._answers.locks._by_party[bob] = dict.fromkeys(
            i.to_bytes(32, "big") for i in range(count)
        )
        asked = 0
        with suppress(Refused):
            while asked < 5_000:
                town.services[0]._charge(stranger, GetLocksOf(bob, b""))
                asked += 1
        return asked


@pytest.mark.parametrize(("count", "at_most"), [(0, 4_000), (256, 240), (100_000, 35), (10**6, 4)])
def test_pages_of_a_party_with_many_locks_cost_what_they_take(count: int, at_most: int) -> None:
    assert at_most / 3 < run(pages_of_locks_at_once, count) <= at_most


def test_a_party_with_more_locks_than_any_purse_pays_for_can_still_be_asked_for() -> None:
    assert charging.COST_MAX <= BURST / 2
    assert run(pages_of_locks_at_once, 3_000_000) == 2


def test_mutant_pages_of_locks_at_one_price_are_work_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charging, "LOCKS_PER_TOKEN", 10**9)
    monkeypatch.setattr(charging, "LOCKS_SHOWN_PER_TOKEN", 10**9)
    assert run(pages_of_locks_at_once, 100_000) > 3_000


def counts_after_each_of(decisions: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, Statistics]:
    """How often everything is counted when statistics are asked for after each decision within a second."""
    bench = Bench()
    state, counted = bench.validator.state, [0]
    for i in range(100_000):
        state.add_credit(i.to_bytes(34, "big"), Credit(bench.ids["bob"], 0))
    root = state.root

    def count() -> bytes:
        counted[0] += 1
        return root()

    monkeypatch.setattr(state, "root", count)
    asked = Answers(bench.validator)
    for i in range(decisions):
        state.operations += 1
        found = asked.statistics(bench.keys[0].public, 3, i / decisions)
    return counted[0], found


def test_statistics_of_a_large_ledger_are_not_counted_for_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    counted, found = counts_after_each_of(10, monkeypatch)
    assert counted == 1
    assert found.decided == 1  # what the supply and the root belong to


def test_mutant_counting_for_everybody_takes_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "_COUNTING_S_PER_OBJECT", 0.0)
    assert counts_after_each_of(10, monkeypatch)[0] == 10


async def large_comparisons_at_once() -> int:
    """How many messages full of ranges one stranger may have compared before it has to wait."""
    async with open_town(size=1) as town:
        stranger, asked = key_of("stranger").peer_id, 0
        with suppress(Refused):
            while asked < 1_000:
                town.services[0]._charge(stranger, Reconcile(bytes(60_000)))
                asked += 1
        return asked


def test_a_comparison_costs_what_its_ranges_take() -> None:
    assert run(large_comparisons_at_once) <= 4_000 / 250  # the burst of one peer; 25 ms each


def test_mutant_comparisons_at_one_price_take_five_times_what_they_cost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(charging, "RANGE_BYTES_PER_TOKEN", 10**9)
    assert run(large_comparisons_at_once) == 80


def final_statuses() -> Any:
    return (Status(bytes([i]) * 32, FINAL, bytes(CERTIFICATE_SIZE_MAX)) for i in range(64))


def test_certificates_of_a_large_committee_never_fill_more_than_an_answer() -> None:
    answer = decode(encode(bounded(final_statuses())), Statuses, size_max=BODY_SIZE_MAX)
    assert 1 < len(answer.statuses) < 64


def test_mutant_all_certificates_in_one_answer_are_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "ANSWER_SIZE_MAX", 10**9)
    with pytest.raises(Malformed):
        decode(encode(bounded(final_statuses())), Statuses, size_max=BODY_SIZE_MAX)
