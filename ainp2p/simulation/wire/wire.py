"""The simulated wire between all peers of a world, and what can go wrong on it.

It carries whole messages on the world's clock, one timer each, without frames or tasks. What the faults mean:

- *loss* on a connection is what an ordered stream makes of it: the message and all behind it come later, by a
  repetition time that doubles; after six losses in a row the connection breaks.
- *a cut direction* delivers nothing; what was sent is delivered after the mending, unless the end that hears
  nothing has given the link up (after 10 s, as by its heartbeat). Dials wait, and time out.
- *a paused peer* neither sends nor hears, like a stopped process whose sockets stay open.
- *a killed peer* is gone at once; others learn it by silence (its machine has crashed) or by a reset (its
  process has).
- *a lying peer*'s messages are rewritten before they leave (lies.py).
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from ainp2p.errors import Broken, InvalidInput
from ainp2p.protocol.channel import DEAD_AFTER_S, HEARTBEAT_S
from ainp2p.protocol.network import PeerId
from ainp2p.simulation.core.clock import VirtualClock
from ainp2p.simulation.core.draws import Draws
from ainp2p.simulation.core.trace import Trace
from ainp2p.simulation.wire.cuts import Cuts
from ainp2p.simulation.wire.deadlines import Deadlines
from ainp2p.simulation.wire.handlers import Handlers
from ainp2p.simulation.wire.knocking import Knocking
from ainp2p.simulation.wire.lies import Rewrite
from ainp2p.simulation.wire.network import SimNetwork
from ainp2p.simulation.wire.records import Records
from ainp2p.simulation.wire.way import CLOSED, Way
from ainp2p.simulation.wire.weather import CALM, Weather

if TYPE_CHECKING:
    import random

    from ainp2p.protocol.context import Context
    from ainp2p.protocol.identity import Key


class Message(msgspec.Struct, frozen=True):
    """One delivery, for observers; `size` counts the body alone."""

    at_s: float
    kind: str
    source: PeerId
    target: PeerId
    protocol: str
    size: int


class Wire:
    """All peers of a world, the paths between them, and their faults.

    Attributes:
        observers: each is told of every delivery; they must not send.
        networks, crashed, deadlines, handlers, protocols, calm_s: for the other modules of the wire.
    """

    def __init__(
        self, clock: VirtualClock, draws: Draws, trace: Trace | None, weather: Weather = CALM
    ) -> None:
        self.clock, self._draws, self._trace = clock, draws, trace
        self.weather = weather
        self.observers: list[Callable[[Message], None]] = []
        self.deadlines = Deadlines(clock)
        self.handlers = Handlers(clock)
        self.protocols: dict[str, None] = {}  # protocol ids that were found good
        self.networks: dict[PeerId, SimNetwork] = {}
        self._numbers: dict[PeerId, int] = {}  # the n of an address, kept over restarts
        self.crashed: set[PeerId] = set()  # machines that answer nothing
        self._cuts = Cuts()
        self.is_cut = self._cuts.is_cut  # (source, target): whether nothing gets through at the moment
        self._rewrites: dict[PeerId, Rewrite] = {}
        self._knocking = Knocking(self)
        self.knock = self._knocking.knock  # sends a Dial on its way
        self._records = Records()

    # --- peers ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def open(self, key: Key, context: Context) -> AsyncIterator[SimNetwork]:
        """Join as the peer of `key`; leaving the block closes the network and ends its handlers.

        Raises:
            InvalidInput: that peer is here already.
        """
        network = self._join(key.peer_id, context)
        try:
            yield network
        finally:
            network.shut()
            await network.handlers_gone()

    def _join(self, peer: PeerId, context: Context) -> SimNetwork:
        if peer in self.networks:
            raise InvalidInput(f"{peer} is on this wire already")
        network = SimNetwork(self, peer, self.address(peer), context)
        network.rewrite = self._rewrites.get(peer)
        self.networks[peer] = network
        if peer in self.crashed:
            self.crashed.discard(peer)
            for other in self.networks.values():  # their heartbeats are answered by a reset
                if (ghost := other.links.get(peer)) is not None:
                    self.clock.call_later(HEARTBEAT_S, ghost.close, Broken("the peer was started anew"))
        return network

    def address(self, peer: PeerId) -> str:
        """Where a peer listens, or will once it is here; the same after a restart."""
        return f"/sim/{self._numbers.setdefault(peer, len(self._numbers) + 1)}/p2p/{peer}"

    def left(self, network: SimNetwork) -> None:
        """A network was closed."""
        if self.networks.get(network.peer_id) is network:
            del self.networks[network.peer_id]

    # --- weather --------------------------------------------------------------------------------

    @property
    def weather(self) -> Weather:
        """What happens to messages from now on; may be replaced at any time."""
        return self._weather

    @weather.setter
    def weather(self, weather: Weather) -> None:
        self._weather = weather
        latency = weather.latency
        self.calm_s = float(latency) if isinstance(latency, (int, float)) and weather.calm else None

    def dice(self, end: Way) -> random.Random:
        """The dice of the way from an end to its peer: what happens elsewhere changes no throw."""
        if end.rng is None:
            end.rng = self.path_dice(end.network.peer_id, end.peer)
        return end.rng

    def path_dice(self, source: PeerId, target: PeerId) -> random.Random:
        return self._draws.stream("path", source, target)

    def travel_s(self, end: Way) -> float:
        """How long one packet from an end takes now."""
        return self._weather.delay_s(self.dice(end), end.network.peer_id, end.peer)

    def delay_s(self, end: Way) -> float:
        """How long a message of a connection takes now, with its repetitions; inf: it breaks."""
        if self.calm_s is not None:
            return self.calm_s
        delay_s = self.travel_s(end)
        return delay_s + self._weather.late_s(self.dice(end)) if self._weather.loss else delay_s

    # --- faults ---------------------------------------------------------------------------------

    def cut(self, source: PeerId, target: PeerId, oneway: bool = False) -> None:
        """Deliver nothing from `source` to `target`, nor back unless `oneway`."""
        self._cuts.cut(source, target, oneway=oneway)
        self._look_between(source, target)

    def partition(self, side_a: Iterable[PeerId], side_b: Iterable[PeerId], oneway: bool = False) -> Any:
        """Cut every path from one side to the other, and back unless `oneway`; returns what `lift` takes."""
        walls = self._cuts.partition(side_a, side_b, oneway=oneway)
        self._look_everywhere()
        return walls

    def lift(self, walls: Any) -> None:
        """End one partition; other cuts stay."""
        self._cuts.lift(walls)
        self._look_everywhere()

    def heal(self, a: PeerId | None = None, b: PeerId | None = None) -> None:
        """Mend every cut, those around `a`, or those between `a` and `b`; paused peers stay paused."""
        if a is None:
            self._cuts.heal_all()
            self._look_everywhere()
        elif b is None:
            self._cuts.heal_around(a)
            self._look_around(a)
        else:
            self._cuts.heal_between(a, b)
            self._look_between(a, b)

    def pause(self, peer: PeerId) -> None:
        """Stop what goes to and from a peer, as if its process were stopped."""
        self._cuts.pause(peer)
        self._look_around(peer)

    def resume(self, peer: PeerId) -> None:
        """Let a paused peer go on."""
        self._cuts.resume(peer)
        self._look_around(peer)

    def reset(self, one: PeerId, other: PeerId) -> None:
        """Break the connection between two peers now."""
        for network, peer in ((self.networks.get(one), other), (self.networks.get(other), one)):
            if network is not None and (end := network.links.get(peer)) is not None:
                end.break_()

    def kill(self, peer: PeerId, reset: bool = False) -> None:
        """A peer is dead at once: its network is closed and nothing more leaves it.

        With `reset` others hear of it as of a crashed process; else, as of a crashed machine, by silence.
        """
        network = self.networks.get(peer)
        if network is None:
            return
        if not reset:
            self.crashed.add(peer)
            for end in network.links.values():
                words = f"nothing heard for {DEAD_AFTER_S:g} s"
                self.clock.call_later(DEAD_AFTER_S, end.other.close, Broken(words))
        network.shut(tell=reset)

    def lie(self, peer: PeerId, rewrite: Rewrite | None) -> None:
        """From now on all that a peer says is rewritten before it leaves; None: it is honest again."""
        if rewrite is None:
            self._rewrites.pop(peer, None)
        else:
            self._rewrites[peer] = rewrite
        if (network := self.networks.get(peer)) is not None:
            network.rewrite = rewrite

    def _look_between(self, one: PeerId, other: PeerId) -> None:
        for network, peer in ((self.networks.get(one), other), (self.networks.get(other), one)):
            if network is not None and (end := network.links.get(peer)) is not None:
                end.look_at_way()
                end.other.look_at_way()
        self._knocking.retry()

    def _look_around(self, peer: PeerId) -> None:
        network = self.networks.get(peer)
        for end in list(network.links.values()) if network is not None else []:
            end.look_at_way()
            end.other.look_at_way()
        self._knocking.retry()

    def _look_everywhere(self) -> None:
        for network in list(self.networks.values()):
            for end in list(network.links.values()):
                end.look_at_way()
                end.other.look_at_way()
        self._knocking.retry()

    # --- what was said to the dead -------------------------------------------------------------

    def unheard(self, end: Way, kind: int) -> None:
        """A message came to an end that is closed. One that did not say so may be a machine started anew."""
        now_there = self.networks.get(end.network.peer_id)
        if kind != CLOSED and now_there not in (None, end.network) and end.other.reason is None:
            end.send(CLOSED, None)

    # --- provider records -----------------------------------------------------------------------

    async def pause_for_record(self, network: SimNetwork) -> None:
        """The time that a look into the DHT takes."""
        weather = self._weather
        if self.calm_s is None:
            us = network.peer_id
            await self.clock.sleep(weather.delay_s(self.path_dice(us, "dht"), us, us))
        else:
            await self.clock.sleep(self.calm_s)

    def provide(self, key: bytes, network: SimNetwork) -> None:
        """Keep a record."""
        self._records.add(key, network.peer_id, network.address)

    def providers(self, key: bytes, network: SimNetwork, limit: int) -> list[tuple[PeerId, str]]:
        """Others' records of `key` that are not beyond a cut."""
        us = network.peer_id
        return self._records.find(
            key,
            limit,
            lambda peer: peer != us and not self.is_cut(peer, us),
            lambda: self.path_dice(us, "dht"),
        )

    # --- what happened --------------------------------------------------------------------------

    def note(self, kind: str, source: SimNetwork, target: SimNetwork, protocol: str, body: Any) -> None:
        """A message was delivered; `body` is bytes, an amount of credit, or a refusal's words."""
        if isinstance(body, bytes):
            size, mark = len(body), zlib.crc32(body)
        elif isinstance(body, tuple):
            size, mark = 0, zlib.crc32(repr(body).encode())
        else:
            size, mark = 0, body
        if self._trace is not None:
            self._trace.note(kind, source.name, target.name, protocol, size, mark)
        if self.observers:
            message = Message(self.clock.now, kind, source.peer_id, target.peer_id, protocol, size)
            for observer in self.observers:
                observer(message)
