"""Runs that go on only while their owner says so, side by side, and every way in which one can end."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from trio._core import _run

from ainp2p.errors import InvalidInput
from ainp2p.protocol import identity
from ainp2p.simulation import run
from ainp2p.simulation.core import kernel, stepping
from ainp2p.simulation.core.garbage import Generators
from ainp2p.simulation.core.kernel import run_virtual
from ainp2p.simulation.core.stepping import Ended, Stepped, Turn
from ainp2p.simulation.errors import Deadlock
from ainp2p.simulation.world import World
from tests.simulation.test_world import WINDY, market
from tests.threads import lasting_threads

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # generators are abandoned on purpose


async def clockwork(turn: Turn) -> str:
    """A second between two turns; the answer "stop" ends it."""
    number = 0
    while await turn((number, trio.current_time())) != "stop":
        await trio.sleep(1)
        number += 1
    return "stopped"


async def dice(turn: Turn) -> None:
    """Hands over the order in which trio ran ten tasks: it follows from the scheduler's randomness alone."""
    while True:
        order: list[int] = []

        async def note(number: int, order: list[int] = order) -> None:
            order.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(note, number)
        await turn(order)


def orders(seed: int, count: int = 5) -> list[Any]:
    alone = Stepped(dice, seed=seed)
    seen = [alone.go() for _ in range(count)]
    alone.close()
    return seen


def process_state() -> tuple[Any, ...]:
    """What a run changes in the process while it is under way."""
    return (
        _run._r,
        _run._r.getstate(),
        dict(_run.GLOBAL_RUN_CONTEXT.__dict__),
        _run.CancelStatus.recalculate,
        _run.Deadlines.expire,
        sys.get_asyncgen_hooks(),
        signal.getsignal(signal.SIGINT),
        (identity._sign, identity._open),
        kernel._one_at_a_time.locked(),
        gc.isenabled(),
    )


# --- turns ------------------------------------------------------------------------------------------


def test_virtual_time_passes_only_while_it_is_stepped() -> None:
    stepped = Stepped(clockwork, seed=1)
    assert [stepped.go() for _ in range(3)] == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert stepped.clock.now == 2.0
    stepped.close()


def test_an_answer_reaches_the_run_and_what_it_returns_its_owner() -> None:
    stepped = Stepped(clockwork, seed=1)
    stepped.go()
    assert stepped.go("stop") is None
    assert (stepped.done, stepped.value) == (True, "stopped")


def test_h1_a_world_that_is_stepped_is_the_world_that_is_run() -> None:
    world = World(7, weather=WINDY["weather"])

    async def main(turn: Turn) -> dict[str, Any]:
        return await world.live(market, {})

    stepped = Stepped(main, seed=7, clock=world.clock, secret=world.draws.derive("signatures"))
    stepped.go()
    assert stepped.done
    assert world.trace.hash == run(market, 7, world=WINDY).hash


# --- side by side -------------------------------------------------------------------------------------


def test_runs_that_take_turns_have_the_schedules_that_they_have_alone() -> None:
    mine, other = Stepped(dice, seed=1), Stepped(dice, seed=2)
    seen: dict[int, list[Any]] = {1: [], 2: []}
    for number in (1, 2, 2, 1, 1, 2, 1, 2, 2, 1):
        seen[number].append((mine if number == 1 else other).go())
    assert (seen[1], seen[2]) == (orders(1), orders(2))
    mine.close()
    other.close()


def test_another_seed_gives_another_schedule() -> None:
    assert orders(1) != orders(2)


def test_mutant_where_runs_share_the_schedulers_randomness_they_disturb_one_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared = random.Random(1)
    monkeypatch.setattr(random, "Random", lambda seed: shared)
    mine, other = Stepped(dice, seed=1), Stepped(dice, seed=1)
    assert [(mine.go(), other.go()) for _ in range(5)] != [(order, order) for order in orders(1)]


def test_a_whole_virtual_run_and_other_randomness_between_two_steps_change_nothing() -> None:
    stepped, seen = Stepped(dice, seed=1), []
    for _ in range(5):
        seen.append(stepped.go())
        random.random()
        assert run_virtual(trio.sleep, 5, seed=9) is None
        assert trio.run(trio.lowlevel.checkpoint) is None
    assert seen == orders(1)
    stepped.close()


def test_nothing_of_a_run_is_left_in_the_process_between_two_steps() -> None:
    before = process_state()
    stepped = Stepped(dice, seed=1, signed="keyed")
    for _ in range(3):
        stepped.go()
        assert process_state() == before
    stepped.close()
    assert process_state() == before


def test_mutant_whose_state_is_not_swapped_out_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    before = process_state()
    monkeypatch.setattr(stepping._Process, "swapped", lambda _: contextlib.nullcontext())
    stepped = Stepped(dice, seed=1)
    stepped.go()
    assert process_state() != before
    stepped._course.end()


def test_steps_of_several_threads_wait_for_one_another() -> None:
    seen: dict[int, list[Any]] = {}

    def work(seed: int) -> None:
        seen[seed] = orders(seed, 200)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert seen == {seed: orders(seed, 200) for seed in (1, 2)}


def test_a_run_begun_in_one_thread_goes_on_in_another() -> None:
    stepped, seen = Stepped(dice, seed=1), []
    seen.append(stepped.go())
    thread = threading.Thread(target=lambda: seen.append(stepped.go()))
    thread.start()
    thread.join(60)
    seen.append(stepped.go())
    assert seen == orders(1, 3)
    stepped.close()


def test_no_thread_is_started() -> None:
    before = lasting_threads()
    stepped = Stepped(clockwork, seed=1)
    stepped.go()
    assert lasting_threads() <= before
    stepped.close()


# --- generators that nobody closes ---------------------------------------------------------------------


def abandoning(log: list[Any]) -> Any:
    """A program that leaves async generators in cycles, which only a collector finds."""

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            log.append("ended")

    async def main(turn: Turn) -> None:
        generator: Any = numbers()
        await generator.__anext__()
        cycle: list[Any] = [generator]
        cycle.append(cycle)
        del generator, cycle
        loose: Any = numbers()
        await loose.__anext__()
        del loose
        for _ in range(4):
            log.append(await turn(None))
            await trio.sleep(1)

    return main


def test_when_python_collects_makes_no_difference() -> None:
    logs: list[list[Any]] = []
    for collect in (False, True):
        log: list[Any] = []
        stepped = Stepped(abandoning(log), seed=1)
        while not stepped.done:
            stepped.go()
            if collect:
                gc.collect()
        logs.append(log)
    assert logs[0] == logs[1]
    assert logs[0].count("ended") == 2


def test_mutant_where_generators_are_not_kept_the_collector_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stepping._Kept, "_abandoned", Generators._abandoned)
    with pytest.raises(AssertionError):
        test_when_python_collects_makes_no_difference()


# --- ends -----------------------------------------------------------------------------------------------


def test_what_fails_inside_is_raised_where_it_was_stepped() -> None:
    async def fail(turn: Turn) -> None:
        await turn(1)
        raise ZeroDivisionError("mine")

    stepped = Stepped(fail, seed=1)
    assert stepped.go() == 1
    with pytest.raises(ZeroDivisionError, match="mine"):
        stepped.go()
    with pytest.raises(InvalidInput, match="this run has ended"):
        stepped.go()
    stepped.close()


def test_a_callback_that_fails_ends_it_even_at_a_turn() -> None:
    async def main(turn: Turn) -> None:
        stepped.clock.call_later(0.5, lambda: 1 / 0)
        await trio.sleep(0.5)
        await turn(1)

    stepped = Stepped(main, seed=1)
    with pytest.raises(ZeroDivisionError):
        stepped.go()


def test_a_deadlock_is_raised_with_stacks() -> None:
    async def main(turn: Turn) -> None:
        await turn(1)
        await trio.sleep_forever()

    stepped = Stepped(main, seed=1)
    stepped.go()
    with pytest.raises(Deadlock, match=r"task .*main"):
        stepped.go()


def test_close_lets_it_clean_up_and_may_be_repeated() -> None:
    log: list[str] = []

    async def main(turn: Turn) -> str:
        try:
            while True:
                await turn(None)
        except Ended:
            await trio.sleep(3)
            log.append("cleaned up")
        return "done"

    stepped = Stepped(main, seed=1)
    stepped.go()
    stepped.close()
    stepped.close()
    assert (stepped.value, log) == ("done", ["cleaned up"])


def test_close_ends_one_that_does_not_want_to() -> None:
    async def main(turn: Turn) -> None:
        while True:
            with contextlib.suppress(Ended):
                await turn(None)

    stepped = Stepped(main, seed=1)
    stepped.go()
    stepped.close()
    assert stepped.done


def test_what_fails_while_it_is_closed_is_raised() -> None:
    async def main(turn: Turn) -> None:
        try:
            await turn(None)
        finally:
            raise ZeroDivisionError("mine")

    stepped = Stepped(main, seed=1)
    stepped.go()
    with pytest.raises(ZeroDivisionError):
        stepped.close()


def test_one_that_never_began_is_closed_without_running() -> None:
    stepped = Stepped(clockwork, seed=1)
    stepped.close()
    assert (stepped.done, stepped.value) == (True, None)


@pytest.mark.parametrize("begun", [False, True])
def test_dropped_it_is_ended_at_once_and_cleans_up(begun: bool) -> None:
    log: list[str] = []

    async def main(turn: Turn) -> None:
        try:
            await turn(None)
        finally:
            log.append("cleaned up")

    stepped = Stepped(main, seed=1)
    if begun:
        stepped.go()
    before = process_state()
    del stepped
    gc.collect()
    assert log == ["cleaned up"] * begun
    assert process_state() == before


def test_dropped_inside_another_run_it_is_ended_later() -> None:
    log: list[str] = []

    async def main(turn: Turn) -> None:
        try:
            await turn(None)
        finally:
            log.append("cleaned up")

    async def other(turn: Turn) -> None:
        dropped.clear()
        log.append("dropped")
        await turn(None)

    dropped = [Stepped(main, seed=1)]
    dropped[0].go()
    stepped = Stepped(other, seed=1)
    stepped.go()
    stepped.close()
    Stepped(clockwork, seed=1).go()
    assert log == ["dropped", "cleaned up"]


@pytest.mark.process
def test_a_forked_child_cannot_go_on_with_it_and_does_not_disturb_it() -> None:
    stepped = Stepped(dice, seed=1)
    seen = [stepped.go()]
    child = os.fork()
    if child == 0:
        try:
            stepped.go()
        except InvalidInput:
            stepped.close()
            del stepped
            gc.collect()
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    seen.append(stepped.go())
    assert seen == orders(1, 2)
    stepped.close()


def test_interrupted_it_ends_as_a_trio_run_does() -> None:
    async def main(turn: Turn) -> None:
        await turn(None)
        signal.raise_signal(signal.SIGINT)
        await trio.sleep_forever()

    stepped = Stepped(main, seed=1)
    stepped.go()
    with pytest.raises(KeyboardInterrupt):
        stepped.go()
    assert stepped.done


# --- what is refused ---------------------------------------------------------------------------------------


async def test_inside_a_trio_run_it_is_refused() -> None:
    with pytest.raises(InvalidInput, match="inside a trio run"):
        Stepped(clockwork, seed=1).go()


def test_two_turns_at_once_are_refused() -> None:
    async def main(turn: Turn) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turn, 1)
            nursery.start_soon(turn, 2)

    stepped = Stepped(main, seed=1)
    stepped.go()
    with pytest.raises(ExceptionGroup) as caught:
        stepped.go()
    assert caught.group_contains(InvalidInput, match="one turn at a time")


def test_a_clock_is_used_once() -> None:
    first = Stepped(clockwork, seed=1)
    first.go()
    with pytest.raises(InvalidInput, match="had its run"):
        Stepped(clockwork, seed=1, clock=first.clock).go()
    first.close()
