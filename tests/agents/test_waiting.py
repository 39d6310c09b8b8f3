"""Bells, turns and pipes: nothing is lost by whoever is cancelled, and nobody waits who need not."""

from __future__ import annotations

import contextlib

import pytest
import trio
import trio.testing

from ainp2p.agents.waiting import Bell, Pipe, Turn

Clock = trio.testing.MockClock


async def test_a_bell_wakes_those_who_wait_now_and_nobody_later(autojump_clock: Clock) -> None:
    bell, woken = Bell(), list[str]()
    bell.ring()  # for nobody

    async def wait(name: str) -> None:
        await bell.wait()
        woken.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, "a")
        nursery.start_soon(wait, "b")
        await trio.testing.wait_all_tasks_blocked()
        assert woken == []
        bell.ring()
        nursery.start_soon(wait, "late")
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(woken) == ["a", "b"]
        nursery.cancel_scope.cancel()


async def test_whoever_leaves_a_bell_is_not_woken_by_it(autojump_clock: Clock) -> None:
    bell = Bell()
    with trio.move_on_after(1):
        await bell.wait()
    bell.ring()
    assert not bell._waiting


async def test_turns_are_taken_in_the_order_of_asking_also_when_somebody_leaves(
    autojump_clock: Clock,
) -> None:
    turn, seen = Turn(), list[str]()

    async def take(name: str, scope: trio.CancelScope) -> None:
        with scope:
            async with turn:
                seen.append(name)
                await trio.sleep(1)
                seen.append(name)

    async with trio.open_nursery() as nursery:
        scopes = {name: trio.CancelScope() for name in "abcd"}
        for name, scope in scopes.items():
            nursery.start_soon(take, name, scope)
            await trio.testing.wait_all_tasks_blocked()
        scopes["b"].cancel()
        await trio.sleep(1.5)
        scopes["c"].cancel()  # in its turn
    assert seen == ["a", "a", "c", "d", "d"]
    async with turn:  # free again
        assert trio.current_time() == 2.5


async def test_a_free_turn_is_taken_without_a_step(autojump_clock: Clock) -> None:
    with trio.testing.assert_no_checkpoints():
        async with Turn():
            pass


async def test_what_was_put_is_taken_in_order_to_the_end(autojump_clock: Clock) -> None:
    pipe, taken = Pipe[int](2), list[int]()

    async def put() -> None:
        for number in range(5):
            await pipe.put(number)  # waits for room
        pipe.end()

    async def take() -> None:
        with contextlib.suppress(trio.EndOfChannel):
            while True:
                taken.append(await pipe.take())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(put)
        await trio.testing.wait_all_tasks_blocked()
        assert (len(pipe), pipe.ended) == (2, False)
        with pytest.raises(trio.WouldBlock):
            pipe.put_nowait(9)
        nursery.start_soon(take)
    assert taken == [0, 1, 2, 3, 4]
    with pytest.raises(IndexError):
        pipe.take_nowait()


@pytest.mark.parametrize("waits", [False, True], ids=["later", "while it waits for room"])
async def test_nobody_puts_into_a_pipe_that_is_closed(autojump_clock: Clock, waits: bool) -> None:
    pipe = Pipe[int](1)
    pipe.put_nowait(1)

    async def put() -> None:
        with pytest.raises(trio.BrokenResourceError):
            await pipe.put(2)

    async with trio.open_nursery() as nursery:
        if waits:
            nursery.start_soon(put)
            await trio.testing.wait_all_tasks_blocked()
        pipe.close()
        if not waits:
            nursery.start_soon(put)
    with pytest.raises(trio.EndOfChannel):
        await pipe.take()


async def test_an_item_that_came_to_a_cancelled_taker_is_there_for_the_next(autojump_clock: Clock) -> None:
    pipe, taken = Pipe[str](1), list[str]()

    async def take(scope: trio.CancelScope) -> None:
        with scope:
            taken.append(await pipe.take())
            await trio.lowlevel.checkpoint()
            taken.append("went on")

    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()
        nursery.start_soon(take, scope)
        await trio.testing.wait_all_tasks_blocked()
        pipe.put_nowait("one")
        scope.cancel()  # too late for the wait, in time for the step after it
    assert taken == ["one"]
    with trio.move_on_after(0):
        await pipe.take()
    pipe.put_nowait("two")
    assert await pipe.take() == "two"


async def test_waits_that_need_not_wait_still_hear_of_a_cancellation(autojump_clock: Clock) -> None:
    pipe = Pipe[int](2)
    pipe.put_nowait(1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await pipe.take()
    with trio.CancelScope() as other:
        other.cancel()
        await pipe.put(2)
    assert (scope.cancelled_caught, other.cancelled_caught, len(pipe)) == (True, True, 1)
