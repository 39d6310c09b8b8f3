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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from ainp2p.errors import Broken, InvalidInput, Unreachable
from ainp2p.protocol.channel import DEAD_AFTER_S, HEARTBEAT_S
from ainp2p.protocol.network import PeerId, Published
from ainp2p.simulation.asked import Asked
from ainp2p.simulation.clock import VirtualClock
from ainp2p.simulation.deadlines import Deadlines
from ainp2p.simulation.dialling import Dial
from ainp2p.simulation.draws import Draws
from ainp2p.simulation.ends import CLOSED, OPENED, End
from ainp2p.simulation.handlers import Handlers
from ainp2p.simulation.lies import Rewrite
from ainp2p.simulation.network import SimNetwork
from ainp2p.simulation.trace import Trace
from ainp2p.simulation.weather import CALM, Weather

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


@dataclass(slots=True)
class _Wall:
    """A partition: nothing gets from one side to the other."""

    sources: set[PeerId]
    targets: set[PeerId]
    holes: set[tuple[PeerId, PeerId]]  # paths that were mended


class Wire:
    """All peers of a world, the paths between them, and their faults.

    Attributes:
        observers: each is told of every delivery; they must not send.
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
        self._networks: dict[PeerId, SimNetwork] = {}
        self._numbers: dict[PeerId, int] = {}  # the n of an address, kept over restarts
        self._crashed: set[PeerId] = set()  # machines that answer nothing
        self._cuts: set[tuple[PeerId, PeerId]] = set()
        self._walls: list[_Wall] = []
        self._paused: set[PeerId] = set()
        self._rewrites: dict[PeerId, Rewrite] = {}
        self._stuck: dict[Dial, None] = {}  # dials that wait for a mending
        self._records: dict[bytes, dict[PeerId, str]] = {}

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
        if peer in self._networks:
            raise InvalidInput(f"{peer} is on this wire already")
        network = SimNetwork(self, peer, self.address(peer), context)
        network.rewrite = self._rewrites.get(peer)
        self._networks[peer] = network
        if peer in self._crashed:
            self._crashed.discard(peer)
            for other in self._networks.values():  # their heartbeats are answered by a reset
                if (ghost := other.links.get(peer)) is not None:
                    self.clock.call_later(HEARTBEAT_S, ghost.close, Broken("the peer was started anew"))
        return network

    def address(self, peer: PeerId) -> str:
        """Where a peer listens, or will once it is here; the same after a restart."""
        return f"/sim/{self._numbers.setdefault(peer, len(self._numbers) + 1)}/p2p/{peer}"

    def left(self, network: SimNetwork) -> None:
        """A network was closed."""
        if self._networks.get(network.peer_id) is network:
            del self._networks[network.peer_id]

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

    def dice(self, end: End) -> random.Random:
        """The dice of the way from an end to its peer: what happens elsewhere changes no throw."""
        if end.rng is None:
            end.rng = self._dice(end.network.peer_id, end.peer)
        return end.rng

    def _dice(self, source: PeerId, target: PeerId) -> random.Random:
        return self._draws.stream("path", source, target)

    def travel_s(self, end: End) -> float:
        """How long one packet from an end takes now."""
        return self._weather.delay_s(self.dice(end), end.network.peer_id, end.peer)

    def delay_s(self, end: End) -> float:
        """How long a message of a connection takes now, with its repetitions; inf: it breaks."""
        if self.calm_s is not None:
            return self.calm_s
        delay_s = self.travel_s(end)
        return delay_s + self._weather.late_s(self.dice(end)) if self._weather.loss else delay_s

    # --- faults ---------------------------------------------------------------------------------

    def cut(self, source: PeerId, target: PeerId, oneway: bool = False) -> None:
        """Deliver nothing from `source` to `target`, nor back unless `oneway`."""
        self._cuts.add((source, target))
        if not oneway:
            self._cuts.add((target, source))
        self._look_between(source, target)

    def partition(self, side_a: Iterable[PeerId], side_b: Iterable[PeerId], oneway: bool = False) -> None:
        """Cut every path from one side to the other, and back unless `oneway`."""
        here, there = set(side_a), set(side_b)
        self._walls.append(_Wall(here, there, set()))
        if not oneway:
            self._walls.append(_Wall(set(there), set(here), set()))
        self._look_everywhere()

    def heal(self, a: PeerId | None = None, b: PeerId | None = None) -> None:
        """Mend every cut, those around `a`, or those between `a` and `b`; paused peers stay paused."""
        if a is None:
            self._cuts.clear()
            self._walls.clear()
            self._look_everywhere()
        elif b is None:
            self._cuts = {path for path in self._cuts if a not in path}
            for wall in self._walls:
                wall.sources.discard(a)
                wall.targets.discard(a)
            self._look_around(a)
        else:
            for path in ((a, b), (b, a)):
                self._cuts.discard(path)
                for wall in self._walls:
                    wall.holes.add(path)
            self._look_between(a, b)

    def pause(self, peer: PeerId) -> None:
        """Stop what goes to and from a peer, as if its process were stopped."""
        self._paused.add(peer)
        self._look_around(peer)

    def resume(self, peer: PeerId) -> None:
        """Let a paused peer go on."""
        self._paused.discard(peer)
        self._look_around(peer)

    def reset(self, one: PeerId, other: PeerId) -> None:
        """Break the connection between two peers now."""
        for network, peer in ((self._networks.get(one), other), (self._networks.get(other), one)):
            if network is not None and (end := network.links.get(peer)) is not None:
                end.break_()

    def kill(self, peer: PeerId, reset: bool = False) -> None:
        """A peer is dead at once: its network is closed and nothing more leaves it.

        With `reset` others hear of it as of a crashed process; else, as of a crashed machine, by silence.
        """
        network = self._networks.get(peer)
        if network is None:
            return
        if not reset:
            self._crashed.add(peer)
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
        if (network := self._networks.get(peer)) is not None:
            network.rewrite = rewrite

    def is_cut(self, source: PeerId, target: PeerId) -> bool:
        """Whether nothing gets from `source` to `target` at the moment."""
        if self._paused and (source in self._paused or target in self._paused):
            return True
        return (source, target) in self._cuts or any(
            source in wall.sources and target in wall.targets and (source, target) not in wall.holes
            for wall in self._walls
        )

    def _look_between(self, one: PeerId, other: PeerId) -> None:
        for network, peer in ((self._networks.get(one), other), (self._networks.get(other), one)):
            if network is not None and (end := network.links.get(peer)) is not None:
                end.look_at_way()
                end.other.look_at_way()
        self._retry()

    def _look_around(self, peer: PeerId) -> None:
        network = self._networks.get(peer)
        for end in list(network.links.values()) if network is not None else []:
            end.look_at_way()
            end.other.look_at_way()
        self._retry()

    def _look_everywhere(self) -> None:
        for network in list(self._networks.values()):
            for end in list(network.links.values()):
                end.look_at_way()
                end.other.look_at_way()
        self._retry()

    # --- dials ----------------------------------------------------------------------------------

    def knock(self, dial: Dial) -> None:
        """Send a dial on its way, or keep it until its way is mended."""
        us, peer = dial.network.peer_id, dial.peer
        if self.is_cut(us, peer):
            self._stuck[dial] = None
        else:
            self._packet(us, peer, self._knocked, dial)

    def _packet(self, source: PeerId, target: PeerId, then: Callable[..., None], *args: Any) -> None:
        """A packet outside of any connection, with its repetitions; hopeless ones vanish."""
        weather, delay_s = self._weather, self.calm_s
        if delay_s is None:
            dice = self._dice(source, target)
            delay_s = weather.delay_s(dice, source, target) + (weather.late_s(dice) if weather.loss else 0.0)
        if delay_s <= DEAD_AFTER_S:
            self.clock.call_later(delay_s, then, *args)

    def _retry(self) -> None:
        """Dials whose way was mended go on."""
        for dial in list(self._stuck):
            if not dial.live or not self.is_cut(dial.network.peer_id, dial.peer):
                del self._stuck[dial]
                if dial.live:
                    self.knock(dial)

    def _knocked(self, dial: Dial) -> None:
        """A dial has arrived, if it was not given up meanwhile."""
        us, peer = dial.network.peer_id, dial.peer
        if not dial.live:
            return
        if self.is_cut(us, peer):
            self._stuck[dial] = None
            return
        network = self._networks.get(peer)
        if network is not None and network.address in dial.addresses:
            self._note("dial", dial.network, network, "", 0, 0)
            ours, theirs = End(dial.network, peer), network.accept(dial.network)
            ours.other, theirs.other = theirs, ours
            dial.end = ours
            theirs.look_at_way()
            ours.look_at_way()
            theirs.send(OPENED, None)
        elif peer not in self._crashed and not self.is_cut(peer, us):
            words = f"nobody listens at {', '.join(dial.addresses)}"
            self._packet(peer, us, dial.over, Unreachable(words))

    def unheard(self, end: End, kind: int) -> None:
        """A message came to an end that is closed. One that did not say so may be a machine started anew."""
        if kind != CLOSED and end.network.peer_id in self._networks and end.other.reason is None:
            end.send(CLOSED, None)

    # --- provider records -----------------------------------------------------------------------

    async def pause_for_record(self, network: SimNetwork) -> None:
        """The time that a look into the DHT takes."""
        weather = self._weather
        if self.calm_s is None:
            us = network.peer_id
            await self.clock.sleep(weather.delay_s(self._dice(us, "dht"), us, us))
        else:
            await self.clock.sleep(self.calm_s)

    def provide(self, key: bytes, network: SimNetwork) -> None:
        """Keep a record: it outlives its provider."""
        self._records.setdefault(key, {})[network.peer_id] = network.address

    def providers(self, key: bytes, network: SimNetwork, limit: int) -> list[tuple[PeerId, str]]:
        """Records of `key` that are not beyond a cut; a choice of them if there are more than `limit`."""
        us = network.peer_id
        found = [
            record for record in self._records.get(key, {}).items()
            if record[0] != us and not self.is_cut(record[0], us)
        ]  # fmt: skip
        return found if len(found) <= limit else self._dice(us, "dht").sample(found, max(0, limit))

    # --- what happened --------------------------------------------------------------------------

    def note(self, kind: str, source: End, target: End, asked: Asked | None, body: Any) -> None:
        """A message was delivered."""
        protocol = asked.protocol if asked is not None else ""
        if isinstance(body, bytes):
            self._note(kind, source.network, target.network, protocol, len(body), zlib.crc32(body))
        elif isinstance(body, tuple):
            self._note(kind, source.network, target.network, protocol, 0, zlib.crc32(repr(body).encode()))
        else:
            self._note(kind, source.network, target.network, protocol, 0, body)

    def note_gossip(self, source: End, target: End, message: Published) -> None:
        """A gossip message was delivered."""
        data = message.data
        self._note("gossip", source.network, target.network, message.topic, len(data), zlib.crc32(data))

    def _note(
        self, kind: str, source: SimNetwork, target: SimNetwork, protocol: str, size: int, mark: int
    ) -> None:
        if self._trace is not None:
            self._trace.note(kind, source.name, target.name, protocol, size, mark)
        if self.observers:
            message = Message(self.clock.now, kind, source.peer_id, target.peer_id, protocol, size)
            for observer in self.observers:
                observer(message)
