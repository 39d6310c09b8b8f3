"""How links come about: dials, who waits for them, and bootstrap peers that are dialled again when lost.

    dial ──▶ knocked ──▶ up                (two ways: the link is up there first, and here when it is told)
      … ──▶ refused | 10 s are over | overtaken by the other side's dial

When both sides dial at once, the dial that arrives first wins and the other is dropped on arrival, as if it
had been reset. A dial into a cut waits for the mending. Nothing here is a task; a dial is three timers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import Abort, reschedule, wait_task_rescheduled

from ainp2p.errors import Error, Unreachable
from ainp2p.protocol.linked_network import DIAL_TIMEOUT_S, REDIAL_S, REDIALS_WHEN_ALONE
from ainp2p.protocol.network import PeerId

if TYPE_CHECKING:
    from ainp2p.simulation.core.clock import Timer
    from ainp2p.simulation.wire.ends import End
    from ainp2p.simulation.wire.links import Links
    from ainp2p.simulation.wire.network import SimNetwork


class Dial:
    """A dial under way, and those who wait for it."""

    def __init__(
        self,
        network: SimNetwork,
        peer: PeerId,
        addresses: tuple[str, ...],
        on_over: Callable[[Dial], None],
    ) -> None:
        self.network, self.peer, self.addresses = network, peer, addresses
        self._on_over = on_over
        self.live = True  # neither up nor given up
        self.fault: Error | None = None
        self.end: End | None = None  # ours, once the peer has taken it
        self.waiting: dict[trio.lowlevel.Task, Timer | None] = {}
        clock = network.wire.clock
        self._timer = clock.call_later(DIAL_TIMEOUT_S, self.give_up)

    def give_up(self) -> None:
        """No answer came."""
        self.over(Unreachable(f"did not answer within {DIAL_TIMEOUT_S:g} s"))

    def over(self, fault: Error | None) -> None:
        """The link is up (None), or will never be; all who wait go on."""
        if not self.live:
            return
        self.live, self.fault = False, fault
        self._timer.cancel()
        self._on_over(self)
        if self.end is not None and fault is not None:
            self.end.close(fault)
        for task, timer in self.waiting.items():
            if timer is not None:
                timer.cancel()
            reschedule(task)
        self.waiting.clear()

    async def wait(self, until_s: float) -> None:
        """Until it is over, or the time has come."""
        task = trio.lowlevel.current_task()

        def leave(_: object = None) -> Abort:
            timer = self.waiting.pop(task)
            if timer is not None:
                timer.cancel()
            return Abort.SUCCEEDED

        def late() -> None:
            del self.waiting[task]
            reschedule(task)

        clock = self.network.wire.clock
        self.waiting[task] = clock.call_at(until_s, late) if until_s < _FOREVER_S else None
        await wait_task_rescheduled(leave)


_FOREVER_S = 1e15


class Bootstrap:
    """Peers that a network wants to stay connected with. It has a timer only while one of them is missing."""

    def __init__(self, links: Links, network: SimNetwork, peers: list[PeerId]) -> None:
        self._links, self._network, self._peers = links, network, peers
        self._timer: Timer | None = None

    async def first(self) -> None:
        """Dial all, and wait until one is connected or all have failed."""
        async with trio.open_nursery() as nursery:
            failed: list[PeerId] = []

            async def dial(peer: PeerId) -> None:
                try:
                    await self._links.linked(peer, DIAL_TIMEOUT_S)
                except Error:
                    failed.append(peer)
                if peer not in failed or len(failed) == len(self._peers):
                    nursery.cancel_scope.cancel()  # the dials themselves go on

            for peer in self._peers:
                nursery.start_soon(dial, peer)

    def check(self) -> None:
        """A link was lost, or a dial has failed: dial again after a while, if somebody is missing."""
        if self._timer is None and self._missing():
            network = self._network
            later_s = REDIAL_S * (0.5 + network.context.rng.random())
            self._timer = network.wire.clock.call_later(later_s, self._redial)

    def stop(self) -> list[PeerId]:
        """Dial nobody again; returns who was wanted."""
        if self._timer is not None:
            self._timer.cancel()
        return self._peers

    def _missing(self) -> list[PeerId]:
        return [peer for peer in self._peers if peer not in self._links.up]

    def _redial(self) -> None:
        """Dial lost bootstrap peers; when alone, some remembered peers too."""
        self._timer = None
        network = self._network
        wanted = self._missing()
        if not self._links.up:
            strangers = [peer for peer in self._links.known if peer not in self._peers]
            network.context.rng.shuffle(strangers)
            wanted += strangers[:REDIALS_WHEN_ALONE]
        for peer in wanted:
            if peer not in self._links.dials:
                self._links.dial(peer)
        self.check()
