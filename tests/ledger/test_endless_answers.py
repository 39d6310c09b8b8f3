"""A member of the committee never stops answering: whoever asks it turns to others soon."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import trio

from ainp2p.ledger.serving import attaching, epoch_fetch, object_sync
from ainp2p.ledger.serving.epoch_fetch import EpochFetcher
from ainp2p.ledger.serving.messages import (
    Attachments,
    EvidenceIds,
    GetHistory,
    Reconcile,
    Reconciled,
    ReconcileFrontier,
)
from ainp2p.ledger.serving.reconcile import FINGERPRINT, ITEMS, Ranges, value_of
from ainp2p.ledger.serving.service import ValidatorService
from ainp2p.ledger.voting.attachments import EVIDENCE, attachment_id
from ainp2p.ledger.voting.effects import FrontierWanted
from ainp2p.protocol.codec import encode

from .serving.test_epoch_fetch import HANDOFF, THEIRS, Core
from .test_wallet_faults import run
from .town import open_town

LIAR, VICTIM, OTHER = 0, 1, 2


# --- evidence ---------------------------------------------------------------------------------------


def lists_evidence_for_ever(liar: ValidatorService) -> None:
    """Junk that bears its ids, as much as anybody asks for."""
    junk: dict[bytes, bytes] = {}

    def ids(after: int) -> EvidenceIds:
        raw = encode([EVIDENCE, after])
        junk[attachment_id(raw)] = raw
        return EvidenceIds((attachment_id(raw),))

    def attachments(ids: tuple[bytes, ...]) -> Attachments:
        return Attachments(tuple(junk.get(id_) for id_ in ids))

    liar._answers.evidence = ids  # type: ignore[method-assign]
    liar._answers.attachments = attachments  # type: ignore[method-assign, assignment]


async def seconds_of_comparing_evidence() -> float:
    async with open_town() as town:
        lists_evidence_for_ever(town.services[LIAR])
        began = trio.current_time()
        with trio.move_on_after(100):
            await town.services[VICTIM]._attacher.compare_evidence(town.peer(LIAR))
        return trio.current_time() - began


def test_a_list_of_evidence_without_end_is_left() -> None:
    assert run(seconds_of_comparing_evidence) < 20


def test_mutant_who_reads_every_list_to_its_end_does_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attaching, "PATIENCE_S", 10**9)
    assert run(seconds_of_comparing_evidence) > 90


# --- frontiers --------------------------------------------------------------------------------------


def in_circles(told: int) -> Reconciled:
    return Reconciled(encode(ranges_with(bytes(31) + b"\x01" + value_of(1, bytes([told % 256]) * 32))))


def more_and_more(told: int) -> Reconciled:
    return Reconciled(encode(ranges_with(told.to_bytes(32, "big") + value_of(1, bytes(32)))))


async def seconds_until_another_is_asked_for_a_frontier(page: Callable[[int], Reconciled]) -> float:
    """The liar's own HANDOFF: it shows it to some members only, and keeps the others busy."""
    async with open_town() as town:
        liar, other = town.services[LIAR], town.services[OTHER]
        told = itertools.count(1)
        answer = liar._answer

        async def late(call: Any, question: Any) -> Any:
            if not isinstance(question, ReconcileFrontier):
                return await answer(call, question)
            await trio.sleep(0.5)
            return page(next(told))

        liar._answer = late  # type: ignore[method-assign]
        other._validator.frontier = lambda handoff: THEIRS  # type: ignore[method-assign]
        core = Core()
        fetcher = EpochFetcher(town.services[VICTIM]._validators, core)
        began = trio.current_time()
        with trio.move_on_after(100):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fetcher.run)
                fetcher.want([], [FrontierWanted(town.keys[LIAR].public, HANDOFF)])
                while not any(len(heads) > 2 for _, heads in core.frontiers):
                    await trio.sleep(0.9)  # as `EpochEnd` asks again
                    fetcher.want([], [FrontierWanted(town.keys[OTHER].public, HANDOFF)])
                nursery.cancel_scope.cancel()
        return trio.current_time() - began


@pytest.mark.parametrize("page", [in_circles, more_and_more])
def test_a_frontier_without_end_is_asked_for_elsewhere(page: Callable[[int], Reconciled]) -> None:
    assert run(seconds_until_another_is_asked_for_a_frontier, page) < 10


def test_mutant_whoever_is_asked_for_a_frontier_may_keep_us_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch_fetch, "PATIENCE_S", 10**9)
    assert run(seconds_until_another_is_asked_for_a_frontier, more_and_more) > 90


# --- objects ----------------------------------------------------------------------------------------


async def seconds_of_comparing_objects() -> float:
    """One object more in each answer, as late as it may be; then nothing about any of them."""
    async with open_town() as town:
        liar, victim = town.services[LIAR], town.services[VICTIM]
        answer, told = liar._answer, 0

        async def late(call: Any, question: Any) -> Any:
            nonlocal told
            if isinstance(question, Reconcile):
                told += 1
                await trio.sleep(4.5)
                item = told.to_bytes(32, "big") + value_of(1, bytes(32))
                return Reconciled(encode(ranges_with(item)))
            if isinstance(question, GetHistory):
                await trio.sleep(4.5)
            return await answer(call, question)

        liar._answer = late  # type: ignore[method-assign]
        victim._objects.hurry()
        began = trio.current_time()
        with trio.move_on_after(500):
            await victim._objects.compare_with(town.peer(LIAR))
        return trio.current_time() - began


def ranges_with(item: bytes) -> Ranges:
    """This one, and a fingerprint of the rest that never fits: the comparison goes on."""
    low = item[:32].rstrip(b"\0")
    bound = (int.from_bytes(item[:32], "big") + 1).to_bytes(32, "big").rstrip(b"\0")
    assert low
    return Ranges(len(bound), bytes([ITEMS, FINGERPRINT]), bound, bytes(16), (1).to_bytes(2, "big"), item)


def test_a_comparison_that_drips_is_left() -> None:
    assert run(seconds_of_comparing_objects) < 30


def test_mutant_each_drop_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_sync, "PATIENCE_S", 10**9)
    assert run(seconds_of_comparing_objects) > 400
