"""What all networks over links share: the feed of items for one reader."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from ainp2p.errors import Closed
from ainp2p.protocol.linked_network import Feed


async def taken(feed: Feed[int], count: int) -> list[int]:
    return [await anext(feed) for _ in range(count)]


async def test_items_come_in_order_whether_they_are_waited_for_or_not() -> None:
    feed, found = Feed[int](), list[int]()
    feed.put(1)

    async def read() -> None:
        found.extend(await taken(feed, 4))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        feed.put(2)
        feed.put(3)
        await trio.testing.wait_all_tasks_blocked()
        feed.put(4)
    assert found == [1, 2, 3, 4]


async def test_the_oldest_are_lost_beyond_the_size() -> None:
    feed = Feed[int](2)
    for n in range(5):
        feed.put(n)
    assert await taken(feed, 2) == [3, 4]


async def test_what_replaces_an_unread_item_comes_alone() -> None:
    feed = Feed[int]()
    feed.put(1)
    feed.replace(2, outdated=1)
    assert await taken(feed, 1) == [2]


async def test_a_reader_that_waits_hears_of_the_end() -> None:
    feed = Feed[int]()

    async def read() -> None:
        with pytest.raises(Closed):
            await anext(feed)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        feed.close()


async def waits_after_a_cancelled_reader(feed: Feed[int]) -> list[int]:
    with trio.move_on_after(0):
        await anext(feed)
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(_cancel_when_blocked, scope)
            await anext(feed)
    if feed._reader is not None:
        return []
    feed.put(1)
    return await taken(feed, 1)


async def _cancel_when_blocked(scope: trio.CancelScope) -> None:
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()


async def test_a_reader_that_was_cancelled_leaves_no_trace() -> None:
    assert await waits_after_a_cancelled_reader(Feed()) == [1]


async def test_mutant_that_keeps_a_cancelled_reader_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Feed, "_stop_waiting", lambda *_: trio.lowlevel.Abort.SUCCEEDED)
    assert await waits_after_a_cancelled_reader(Feed()) == []


async def test_a_second_reader_is_refused() -> None:
    feed = Feed[int]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(taken, feed, 1)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await anext(feed)
        feed.put(1)
