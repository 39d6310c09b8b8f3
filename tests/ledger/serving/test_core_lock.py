from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from ainp2p.ledger.serving.core_lock import CoreLock


async def rounds_until_all_were_in(lock: Any) -> int:
    """Rounds of the scheduler that twenty tasks need, each of which does something without an await."""
    done = 0

    async def one() -> None:
        nonlocal done
        async with lock:
            done += 1

    rounds = 0
    async with trio.open_nursery() as nursery:
        async with lock:
            for _ in range(20):
                nursery.start_soon(one)
            await trio.testing.wait_all_tasks_blocked()
        while done < 20:
            rounds += 1
            await trio.lowlevel.checkpoint()
    return rounds


async def test_after_a_write_all_who_wait_come_in_one_round() -> None:
    assert await rounds_until_all_were_in(CoreLock()) <= 2


async def test_mutant_a_lock_that_is_handed_on_takes_a_round_for_each() -> None:
    assert await rounds_until_all_were_in(trio.Lock()) >= 20


async def test_only_one_is_inside_at_a_time(autojump_clock: Any) -> None:
    lock, inside, most = CoreLock(), 0, 0

    async def one() -> None:
        nonlocal inside, most
        async with lock:
            inside += 1
            most = max(most, inside)
            await trio.sleep(1)
            inside -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(one)
    assert most == 1
    assert trio.current_time() == pytest.approx(10)


async def test_who_is_cancelled_while_it_waits_leaves_the_others_alone(autojump_clock: Any) -> None:
    lock = CoreLock()
    async with lock:
        with trio.move_on_after(1) as scope:
            async with lock:
                raise AssertionError
        assert scope.cancelled_caught
    with trio.fail_after(1):
        async with lock:
            pass


async def test_a_fault_inside_leaves_it_open() -> None:
    lock = CoreLock()
    with pytest.raises(ValueError, match="inside"):
        async with lock:
            raise ValueError("inside")
    with trio.fail_after(1):
        async with lock:
            pass
