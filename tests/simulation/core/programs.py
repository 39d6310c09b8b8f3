"""Programs heavy on tasks and full of ties, each with a trace: `python -m tests.simulation.core.programs 7`.

Times are quantised to tenths and most waits are for others, so that many tasks are runnable at once: without
a seeded scheduler no two runs of them are the same.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import trio

from ainp2p.simulation.core.clock import VirtualClock
from ainp2p.simulation.core.draws import Draws
from ainp2p.simulation.core.kernel import run_virtual
from ainp2p.simulation.core.trace import Trace


class Small:
    """The least of a world: clock, draws and trace."""

    def __init__(self, draws_seed: int) -> None:
        self.clock = VirtualClock()
        self.draws = Draws(draws_seed)
        self.trace = Trace(self.clock, self.draws)

    def tenths(self, *names: str | int, most: int = 10) -> float:
        return self.draws.stream(*names).randrange(most) / 10


async def channels(world: Small) -> None:
    """Producers and consumers over one bounded channel, with timeouts on both ends."""
    sending, receiving = trio.open_memory_channel[tuple[int, int]](2)

    async def produce(me: int) -> None:
        for n in range(8):
            await trio.sleep(world.tenths("produce", me))
            with trio.move_on_after(0.2) as scope:
                await sending.send((me, n))
            world.trace.note("sent" if not scope.cancelled_caught else "late", me, n)

    async def consume(me: int) -> None:
        while True:
            with trio.move_on_after(2) as scope:
                sender, n = await receiving.receive()
                world.trace.note("got", me, sender, n)
                await world.clock.sleep(world.tenths("consume", me, most=3))
            if scope.cancelled_caught:
                return

    async with trio.open_nursery() as nursery:
        for me in range(15):
            nursery.start_soon(produce, me)
        for me in range(4):
            nursery.start_soon(consume, me)


async def nurseries(world: Small) -> None:
    """A tree of tasks in which branches are cancelled and clean up, some of it shielded."""

    async def branch(path: str, depth: int) -> None:
        try:
            with trio.move_on_after(world.tenths("patience", path, most=8) + 0.1) as scope:
                async with trio.open_nursery() as nursery:
                    for n in range(3 if depth else 0):
                        nursery.start_soon(branch, f"{path}{n}", depth - 1)
                    await trio.sleep(world.tenths("work", path))
            world.trace.note("cut" if scope.cancelled_caught else "whole", path)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.1)
            world.trace.note("cleaned", path)

    await branch("r", 4)


async def locks(world: Small) -> None:
    """Everything that tasks can queue at, with all of them arriving together."""
    lock, semaphore, limiter = trio.Lock(), trio.Semaphore(3), trio.CapacityLimiter(2)
    condition, events = trio.Condition(), [trio.Event() for _ in range(5)]

    async def visit(me: int) -> None:
        for turn in range(3):
            await trio.sleep(world.tenths("visit", me, most=2))
            async with semaphore:
                await trio.lowlevel.checkpoint()
                async with limiter:
                    world.trace.note("in", me, turn)
                    await trio.sleep(0.1)
            async with lock:
                world.trace.note("lock", me)
            events[(me + turn) % 5].set()
            await events[me % 5].wait()
            world.trace.note("event", me)
            async with condition:
                if me % 3 == 0:
                    condition.notify(2)
                with trio.move_on_after(0.3):
                    await condition.wait()
            world.trace.note("condition", me)

    async with trio.open_nursery() as nursery:
        for me in range(20):
            nursery.start_soon(visit, me)


async def timers(world: Small) -> None:
    """Callbacks with ties that wake tasks, cancel scopes, and start further callbacks."""
    bells = [trio.Event() for _ in range(30)]
    scopes = [trio.CancelScope() for _ in range(30)]

    def ring(n: int) -> None:
        world.trace.note("ring", n)
        bells[n].set()
        world.clock.call_later(world.tenths("later", n, most=3), scopes[(n * 7) % 30].cancel)

    async def wait(n: int) -> None:
        with scopes[n]:
            await bells[n].wait()
            world.trace.note("heard", n)
            await trio.sleep(world.tenths("wait", n))
            world.trace.note("done", n)

    async with trio.open_nursery() as nursery:
        for n in range(30):
            world.clock.call_at(world.tenths("ring", n, most=4), ring, n)
            nursery.start_soon(wait, n)


async def generators(world: Small) -> None:
    """Async generators that are abandoned in cycles: only the garbage collector ends them."""

    async def numbers(me: int) -> AsyncIterator[int]:
        try:
            while True:
                yield me
        finally:
            world.trace.note("closed", me)

    async def abandon(me: int) -> None:
        for n in range(40):
            box: dict[str, object] = {"numbers": numbers(me * 100 + n)}
            box["self"] = box
            async for _ in box["numbers"]:  # type: ignore[attr-defined]
                break
            await world.clock.sleep(0.1)
            world.trace.note("left", me, n)

    def beat(left: int) -> None:
        if left:
            world.clock.call_later(0.001, beat, left - 1)

    beat(6000)
    async with trio.open_nursery() as nursery:
        for me in range(5):
            nursery.start_soon(abandon, me)
        await trio.sleep(7)


async def aborts(world: Small) -> None:
    """Calls that are given up together, by one scope and by deadlines that coincide, and say so at once."""

    async def call(me: int, deadline: float) -> None:
        def give_up(_: object) -> trio.lowlevel.Abort:
            world.trace.note("given up", me)
            world.clock.call_later(world.tenths("answer", most=3), world.trace.note, "heard", me)
            return trio.lowlevel.Abort.SUCCEEDED

        with trio.move_on_at(deadline), trio.move_on_at(deadline):
            await trio.lowlevel.wait_task_rescheduled(give_up)

    async with trio.open_nursery() as nursery:
        for me in range(40):
            nursery.start_soon(call, me, 0.5 if me % 2 else 2.0)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    await trio.sleep(3)


PROGRAMS: dict[str, Callable[[Small], Awaitable[None]]] = {
    program.__name__: program for program in (channels, nurseries, locks, timers, aborts, generators)
}


def run(name: str, seed: int, draws_seed: int = 1) -> str:
    """The hash of one program's trace."""
    world = Small(draws_seed)
    run_virtual(PROGRAMS[name], world, seed=seed, clock=world.clock)
    assert world.trace.count > 50
    return world.trace.hash


def main() -> None:
    import gc

    if len(sys.argv) > 2:  # another process, with another past: other addresses, other garbage
        gc.set_threshold(int(sys.argv[2]))
        sys.modules["past"] = [object() for _ in range(int(sys.argv[2]))]  # type: ignore[assignment]
        for n in range(3000):
            cycle: list[object] = [n]
            cycle.append(cycle)
    print(*(f"{name}={run(name, int(sys.argv[1]))}" for name in PROGRAMS))


if __name__ == "__main__":
    main()
