"""A payee and watchtowers that lie, list without end, or forget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio

from ainp2p.errors import Malformed, NetworkError, Refused, TimedOut
from ainp2p.ledger.rules.receipts import Release, read_receipt
from ainp2p.ledger.wallets import handing
from ainp2p.ledger.wallets.handing import Handover, ask_held, ask_watched, hand_to
from ainp2p.ledger.wallets.watching import (
    LOCKS_PER_CLIENT_MAX,
    AskHeld,
    AskWatched,
    Watch,
    WatchedLocks,
    Watching,
    read_watch,
)
from ainp2p.protocol.codec import Message, encode

from ..test_wallet_faults import run
from ..world import World

Answer = Callable[[Any], Message]


def watching(number: int) -> Watching:
    return Watching(number.to_bytes(32, "big"), 5, 9)


class Tower:
    """A network with one watchtower, which answers as it likes, after a while."""

    def __init__(self, answer: Answer, delay_s: float = 0.0) -> None:
        self._answer, self._delay_s = answer, delay_s
        self.asked: list[Any] = []

    async def request(self, peer: str, protocol: str, body: bytes, *, timeout_s: float) -> bytes:
        self.asked.append(read_watch(body))
        await trio.sleep(self._delay_s)
        return encode(self._answer(self.asked[-1]))


# --- lists ------------------------------------------------------------------------------------------


def more_and_more(question: AskWatched) -> WatchedLocks:
    return WatchedLocks((watching(int.from_bytes(question.after, "big") + 1),), 1)


def in_circles(question: AskWatched) -> WatchedLocks:
    return WatchedLocks((watching(1), watching(2)), 1)


def many_times_the_same(question: AskWatched) -> WatchedLocks:
    return WatchedLocks((watching(7),) * 200, 1)


async def questions_until_a_list_is_left(answer: Answer, delay_s: float) -> tuple[int, float]:
    tower: Any = Tower(answer, delay_s)
    began = trio.current_time()
    with trio.move_on_after(10_000), pytest.raises((Malformed, TimedOut)):
        await ask_watched(tower, "tower")
    return len(tower.asked), trio.current_time() - began


@pytest.mark.parametrize("answer", [more_and_more, in_circles, many_times_the_same])
@pytest.mark.parametrize("delay_s", [0.0, 9.0])
def test_a_list_of_watched_locks_without_end_is_left(answer: Answer, delay_s: float) -> None:
    asked, seconds = run(questions_until_a_list_is_left, answer, delay_s)
    assert asked <= LOCKS_PER_CLIENT_MAX + 1
    assert seconds <= 30


def test_mutant_a_list_is_followed_as_long_as_there_is_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handing, "LOCKS_PER_CLIENT_MAX", 3_000)
    assert run(questions_until_a_list_is_left, more_and_more, 0.0)[0] > 3_000
    monkeypatch.setattr(handing, "_LIST_TIMEOUT_S", 9_000)
    assert run(questions_until_a_list_is_left, more_and_more, 9.0)[1] > 8_000


def test_a_list_in_several_pages_is_read_to_its_end() -> None:
    def pages(question: AskWatched) -> WatchedLocks:
        first = int.from_bytes(question.after, "big") + 1
        return WatchedLocks(tuple(watching(n) for n in range(first, first + 5)), int(first < 11))

    tower: Any = Tower(pages)
    assert len(run(ask_watched, tower, "tower")) == 15


@pytest.mark.parametrize(
    "told", [(watching(3),), (watching(1), watching(1))], ids=["not asked for", "one of them twice"]
)
def test_what_was_not_asked_for_is_not_believed(told: tuple[Watching, ...]) -> None:
    tower: Any = Tower(lambda question: WatchedLocks(told, 0))
    with pytest.raises(Malformed):
        run(ask_held, tower, "tower", [watching(1).lock, watching(2).lock])


def test_an_acknowledgement_of_another_lock_is_none() -> None:
    world = World()
    release = Release.of(world.receipt(world.open_lock(), 400))
    tower: Any = Tower(lambda question: Watching(bytes(32), 400, 9))
    with pytest.raises(Malformed):
        run(hand_to, tower, "tower", release)


# --- handing over -------------------------------------------------------------------------------------


class Income:
    """What a wallet is owed, by one receipt for each Lock."""

    def __init__(self, count: int) -> None:
        world = World()
        self._locks = [world.open_lock() for _ in range(count)]
        self._best = {lock.id: Release.of(world.receipt(lock, 400)) for lock in self._locks}

    def locks(self) -> list[Any]:
        return self._locks

    def unsettled(self, lock: bytes) -> int:
        return 400

    def best(self, lock: bytes) -> Release:
        return self._best[lock]


class Memory:
    """What a watchtower answers that holds what it is given, and may lose it."""

    def __init__(self) -> None:
        self.held: dict[bytes, Watching] = {}
        self.refuses = self.is_gone = False

    def __call__(self, question: Watch | AskHeld) -> Message:
        if self.is_gone:
            raise NetworkError("gone")
        if isinstance(question, AskHeld):
            return WatchedLocks(tuple(self.held[id_] for id_ in question.locks if id_ in self.held), 0)
        if self.refuses:
            raise Refused("full")
        id_ = read_receipt(question.release.body).lock
        self.held[id_] = Watching(id_, 400, 9)
        return self.held[id_]


async def rounds(memory: Memory, tower: Any, income: Any, count: int) -> list[int]:
    handover = Handover(tower, income, ["tower"])
    found = []
    for at in range(count):
        found.append(await handover.hand_over())
        if at == 0:
            memory.held.clear()  # larger deposits have come
        await trio.sleep(handing.HAND_EVERY_S)
    return found


def test_a_receipt_that_was_driven_out_is_handed_over_again() -> None:
    memory = Memory()
    tower = Tower(memory)
    run(rounds, memory, tower, Income(3), 10)
    assert len(memory.held) == 3
    assert sum(isinstance(question, Watch) for question in tower.asked) == 6


def test_mutant_an_acknowledgement_is_believed_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handing, "CONFIRM_EVERY_S", 10**9)
    memory = Memory()
    run(rounds, memory, Tower(memory), Income(3), 10)
    assert memory.held == {}


def test_a_watchtower_that_refuses_is_not_asked_every_time() -> None:
    memory = Memory()
    memory.refuses = True
    tower = Tower(memory)
    assert run(rounds, memory, tower, Income(3), 12) == [0] * 12
    assert len(tower.asked) <= 9


def test_a_watchtower_that_is_gone_is_left_at_the_first_question() -> None:
    memory = Memory()
    memory.is_gone = True
    tower = Tower(memory)
    assert run(rounds, memory, tower, Income(20), 3) == [0] * 3
    assert len(tower.asked) == 3
