"""A wire with a few peers in virtual time, for the tests of the wire."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio

from ainp2p.errors import Error
from ainp2p.protocol.context import Context
from ainp2p.protocol.network import Call
from ainp2p.simulation.core.clock import VirtualClock
from ainp2p.simulation.core.draws import Draws
from ainp2p.simulation.core.kernel import run_virtual
from ainp2p.simulation.core.trace import Trace
from ainp2p.simulation.wire.network import SimNetwork
from ainp2p.simulation.wire.weather import CALM, Weather
from ainp2p.simulation.wire.wire import Wire

ECHO, SLOW, COUNT = "/test/echo/1", "/test/slow/1", "/test/count/1"
HANG, HEAR = "/test/hang/1", "/test/hear/1"
T = TypeVar("T")


class Town:
    """Peers with handlers; all are closed at the end."""

    def __init__(self, seed: int, weather: Weather) -> None:
        self.clock, self.draws = VirtualClock(), Draws(seed)
        self.trace = Trace(self.clock, self.draws)
        self.wire = Wire(self.clock, self.draws, self.trace, weather)
        self.heard: list[bytes] = []  # of all one-way messages
        self.nursery: trio.Nursery

    def context(self, name: str) -> Context:
        return Context.seeded(name, self.clock.now_ms)

    async def peer(self, name: str, *known: SimNetwork) -> SimNetwork:
        """Open a peer that serves all there is, and knows where these others are."""
        network: SimNetwork = await self.nursery.start(self._hold, name)
        for protocol, handler in (
            (ECHO, echo),
            (SLOW, slow),
            (COUNT, count),
            (HANG, hang),
            (HEAR, self._hear),
        ):
            network.serve(protocol, handler)
        for other in known:
            network.add_addresses(other.peer_id, other.addresses)
        return network

    async def _hold(self, name: str, task_status: Any) -> None:
        async with self.wire.open(self.draws.key(name), self.context(name)) as network:
            task_status.started(network)
            await trio.sleep_forever()

    async def _hear(self, call: Call) -> None:
        self.heard.append(call.body)


def in_town(main: Callable[[Town], Awaitable[T]], *, seed: int = 1, weather: Weather = CALM) -> T:
    """Run a program with a town; returns its value."""
    town = Town(seed, weather)

    async def run() -> T:
        async with trio.open_nursery() as nursery:
            town.nursery = nursery
            value = await main(town)
            nursery.cancel_scope.cancel()
        return value

    return run_virtual(run, seed=seed, clock=town.clock)


def wired(weather: Weather = CALM, seed: int = 1) -> Callable[[Callable[[Town], Awaitable[None]]], Any]:
    """A test of a town, as a plain function, so that a mutant can run it too."""

    def decorate(body: Callable[[Town], Awaitable[None]]) -> Callable[[], None]:
        def test() -> None:
            in_town(body, seed=seed, weather=weather)

        test.__name__, test.__doc__, test.__module__ = body.__name__, body.__doc__, body.__module__
        return test

    return decorate


def fails(test: Callable[[], None]) -> bool:
    """Whether a test finds the fault that was planted."""
    try:
        test()
    except (Exception, BaseExceptionGroup):
        return True
    return False


async def outcome(awaitable: Awaitable[Any]) -> Any:
    """What came of it: its value, or the type of the library's error."""
    try:
        return await awaitable
    except Error as exc:
        return type(exc)


async def echo(call: Call) -> bytes:
    return call.body


async def slow(call: Call) -> bytes:
    await trio.sleep(1)
    return call.body


async def count(call: Call) -> None:
    for n in range(int(call.body)):
        await call.send(b"%d" % n)


async def hang(call: Call) -> None:
    await trio.sleep_forever()
