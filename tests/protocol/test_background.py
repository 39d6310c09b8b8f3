"""A nursery whose owner's exceptions keep their type."""

from __future__ import annotations

import pytest
import trio

from ainp2p.protocol.background import background


async def fail() -> None:
    raise ValueError("a task's")


async def test_the_end_of_the_block_ends_the_tasks() -> None:
    with trio.fail_after(1):
        async with background() as nursery:
            nursery.start_soon(trio.sleep_forever)


async def raise_beside_a_task(exc: Exception) -> None:
    async with background() as nursery:
        nursery.start_soon(trio.sleep_forever)
        raise exc


async def test_what_the_block_raises_leaves_it_as_it_came() -> None:
    mine = KeyError("mine")
    with pytest.raises(KeyError) as caught:
        await raise_beside_a_task(mine)
    assert caught.value is mine
    assert mine.__context__ is None


async def test_what_a_task_raises_comes_in_a_group_and_cancels_the_block() -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="a task's")):
        async with background() as nursery:
            nursery.start_soon(fail)
            await trio.sleep_forever()


async def test_a_cancelled_block_ends_where_it_was_cancelled() -> None:
    with trio.CancelScope() as scope:
        async with background() as nursery:
            nursery.start_soon(trio.sleep_forever)
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_cancelling_the_nursery_itself_ends_the_block() -> None:
    async with background() as nursery:
        nursery.cancel_scope.cancel()
        await trio.sleep_forever()
    assert nursery.cancel_scope.cancelled_caught
