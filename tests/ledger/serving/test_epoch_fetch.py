"""What the end of an epoch needs from others, over the in-memory network."""

from __future__ import annotations

from hashlib import sha256
from typing import Any
from unittest.mock import ANY

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from ainp2p.ledger.serving import histories
from ainp2p.ledger.serving.epoch_fetch import EpochFetcher
from ainp2p.ledger.serving.messages import Decided, ReconcileFrontier
from ainp2p.ledger.serving.reconcile import ReconcileIndex, Reconciler, value_of
from ainp2p.ledger.voting.effects import FrontierWanted, Wanted
from ainp2p.protocol.codec import encode

from ..test_wallet_faults import run
from ..town import open_town
from .test_object_sync import pay

HANDOFF = b"h" * 32
THEIRS = {bytes([i]) * 32: (i, bytes([i + 100]) * 32) for i in range(1, 50)}
OURS = {**{id_: head for id_, head in THEIRS.items() if head[0] > 3}, b"x" * 32: (7, b"y" * 32)}


class Core:
    def __init__(self) -> None:
        self.frontiers: list[tuple[bytes, dict[bytes, tuple[int, bytes]]]] = []
        self.decided: list[Decided] = []
        self.taken: list[bytes] = []

    def own_frontier(self) -> dict[bytes, tuple[int, bytes]]:
        return OURS

    async def take_frontier(self, handoff: bytes, heads: dict[bytes, tuple[int, bytes]]) -> None:
        self.frontiers.append((handoff, heads))

    async def take_decided(self, operations: Any) -> int:
        self.decided += operations
        return len(operations)

    async def take_operation(self, encoded: bytes, source: str) -> None:
        self.taken.append(encoded)


def difference(
    ours: dict[bytes, tuple[int, bytes]], theirs: dict[bytes, tuple[int, bytes]]
) -> dict[bytes, tuple[int, bytes]]:
    """Objects whose heads are others there; seq 0 where they have nothing."""
    changed = {id_: head for id_, head in theirs.items() if ours.get(id_) != head}
    return changed | {id_: (0, id_) for id_ in ours if id_ not in theirs}


async def compare_frontiers(
    ours: dict[bytes, tuple[int, bytes]], theirs: dict[bytes, tuple[int, bytes]], times: int = 1
) -> tuple[list[Any], list[int]]:
    """What is handed to the core, and the sizes of all answers."""
    async with open_town() as town:
        service, member = town.services[0], town.services[1]
        sizes: list[int] = []
        frontier = member._histories.frontier

        def counted(question: ReconcileFrontier) -> Any:
            answer = frontier(question)
            sizes.append(len(question.message) + len(answer.message))
            return answer

        member._histories.frontier = counted  # type: ignore[method-assign]
        member._validator.frontier = lambda handoff: theirs if handoff == HANDOFF else None  # type: ignore[method-assign]
        core = Core()
        core.own_frontier = lambda: ours  # type: ignore[method-assign]
        fetcher = EpochFetcher(service._validators, core)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetcher.run)
            for _ in range(times):
                fetcher.want([], [FrontierWanted(town.keys[1].public, HANDOFF)])
                fetcher.want([], [FrontierWanted(town.keys[1].public, HANDOFF)])
                await trio.sleep(5)
            nursery.cancel_scope.cancel()
        return core.frontiers, sizes


def test_a_frontier_is_compared_once_and_its_difference_handed_over() -> None:
    expected = {bytes([i]) * 32: THEIRS[bytes([i]) * 32] for i in (1, 2, 3)} | {b"x" * 32: (0, b"x" * 32)}
    assert difference(OURS, THEIRS) == expected
    assert run(compare_frontiers, OURS, THEIRS) == ([(HANDOFF, expected)], [ANY, ANY])


HEADS = st.dictionaries(
    st.integers(0, 400).map(lambda n: sha256(n.to_bytes(2, "big")).digest()),
    st.tuples(st.integers(0, 3), st.sampled_from([b"a" * 32, b"b" * 32])),
    max_size=200,
)


@settings(max_examples=30, deadline=None)
@given(HEADS, HEADS)
def test_whatever_two_frontiers_are_the_whole_difference_is_found(ours: Any, theirs: Any) -> None:
    frontiers, _ = run(compare_frontiers, ours, theirs)
    assert frontiers == [(HANDOFF, difference(ours, theirs))]


def large(count: int) -> dict[bytes, tuple[int, bytes]]:
    return {sha256(n.to_bytes(4, "big")).digest(): (n, bytes(32)) for n in range(count)}


def test_of_a_large_frontier_only_what_differs_travels() -> None:
    theirs = large(5_000)
    ours = {**dict(list(theirs.items())[7:]), b"x" * 32: (1, b"y" * 32)}
    frontiers, sizes = run(compare_frontiers, ours, theirs)
    assert frontiers == [(HANDOFF, difference(ours, theirs))]
    assert sum(sizes) < 20_000
    assert len(sizes) <= 8


def test_a_frontier_of_which_nothing_is_here_comes_whole() -> None:
    """A member that was away: more than one message, and each can be read."""
    frontiers, sizes = run(compare_frontiers, {}, large(3_000))
    assert frontiers == [(HANDOFF, large(3_000))]
    assert len(sizes) > 2


def test_a_frontier_that_is_not_known_there_is_refused() -> None:
    assert run(compare_unknown) == []


async def compare_unknown() -> list[Any]:
    async with open_town() as town:
        core = Core()
        fetcher = EpochFetcher(town.services[0]._validators, core)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetcher.run)
            fetcher.want([], [FrontierWanted(town.keys[1].public, HANDOFF)])
            await trio.sleep(5)
            nursery.cancel_scope.cancel()
        return core.frontiers


async def frontiers_in_turn(times: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Somebody asks for two HANDOFFs' frontiers in turn; how often an index was made."""
    async with open_town() as town:
        member = town.services[1]
        both = {b"a" * 32: large(500), b"b" * 32: {**large(500), b"x" * 32: (1, b"y" * 32)}}
        member._validator.frontier = both.get  # type: ignore[method-assign, assignment]
        made = [0]

        class Counted(ReconcileIndex):
            def __init__(self, items: Any = ()) -> None:
                made[0] += 1
                super().__init__(items)

        monkeypatch.setattr(histories, "ReconcileIndex", Counted)
        for _ in range(times):
            for handoff, heads in both.items():
                message = Reconciler(heads_of(heads)).initiate()
                answer = member._histories.frontier(ReconcileFrontier(handoff, message))
                assert Reconciler(heads_of(heads)).continue_(answer.message) == (None, [], [])
        return made[0]


def heads_of(heads: dict[bytes, tuple[int, bytes]]) -> ReconcileIndex:
    return ReconcileIndex((id_, value_of(*head)) for id_, head in heads.items())


def test_frontiers_asked_for_in_turn_are_not_sorted_anew_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(frontiers_in_turn, 10, monkeypatch) == 1


def test_mutant_an_index_for_each_question_is_a_second_of_sorting_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    move = histories.Histories._move_frontier

    def forgetful(self: histories.Histories, found: Any) -> None:
        self._frontier = None
        move(self, found)

    monkeypatch.setattr(histories.Histories, "_move_frontier", forgetful)
    assert run(frontiers_in_turn, 10, monkeypatch) == 20


async def fetch_decided() -> int:
    async with open_town() as town, town.wallet("alice") as alice:
        await pay(alice, town, 3)
        await town.until_equal(3)
        await trio.sleep(2)
        service = town.services[0]
        state = service._validator.state
        core = Core()
        fetcher = EpochFetcher(service._validators, core)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetcher.run)
            head = state.accounts[town.account("alice")].head
            fetcher.want([Wanted(head, (town.keys[2].public,)), Wanted(bytes(32), ())], [])
            await trio.sleep(5)
            nursery.cancel_scope.cancel()
        return sum(bool(each.certificate) for each in core.decided)


def test_decided_operations_come_with_their_certificates_and_what_nobody_has_is_left_out() -> None:
    assert run(fetch_decided) == 1


async def fetch_prepared() -> tuple[list[bytes], list[bytes], list[Decided]]:
    async with open_town() as town, town.wallet("alice") as alice:
        await pay(alice, town, 1)
        await town.until_equal(1)
        service, member = town.services[0], town.services[2]
        held = service._validator.operation(service._validator.state.accounts[town.account("alice")].head)
        assert held is not None
        member._validator.operation = lambda id_: held  # type: ignore[method-assign]
        member._validator.certificate = lambda id_: None  # type: ignore[method-assign]
        core = Core()
        fetcher = EpochFetcher(service._validators, core)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetcher.run)
            fetcher.want([Wanted(b"p" * 32, (town.keys[2].public,))], [])
            await trio.sleep(5)
            nursery.cancel_scope.cancel()
        return core.taken, [encode(held)], core.decided


def test_an_operation_that_is_only_prepared_there_is_handed_over_without_a_certificate() -> None:
    taken, expected, decided = run(fetch_prepared)
    assert (taken, decided) == (expected, [])
