"""A network in one process, on trio's clock: latency, loss, cuts and pauses, all drawn from a seed.

Peers of one `MemoryHub` see each other; nothing else joins them. The same channel core and links run over
it as over sockets. What the faults mean here:

- *loss of a segment* of a connection is what an ordered stream makes of it: it and all behind it arrive
  later, by a retransmission time that doubles; after six losses in a row the connection breaks.
- *a cut direction* delivers nothing; what was sent is delivered after the cut is mended, unless the
  heartbeat has given the connection up before. Dials wait, and time out.
- *a paused peer* neither sends nor hears, like a stopped process whose sockets stay open.
- *gossip* is relayed by subscribers along live links; each hop may lose, duplicate, delay or reorder.
"""

from __future__ import annotations

import hashlib
import heapq
import math
import random
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import trio

from ainp2p.errors import Broken, Closed, InvalidInput, Unreachable
from ainp2p.protocol.background import background
from ainp2p.protocol.context import Context
from ainp2p.protocol.identity import Key
from ainp2p.protocol.linked_network import PUBLISHED_QUEUE_MAX, LinkedNetwork
from ainp2p.protocol.network import PeerId, Published
from ainp2p.protocol.peer_link import ByteStream

EPOCH_MS = 1_800_000_000_000  # what the seeded context's clock says when trio's says 0
IN_FLIGHT_MAX = 1 << 20  # bytes on their way in one direction of a connection; then the writer waits
READ_SIZE_MAX = 1 << 16
RETRANSMIT_S = 0.2  # after the first loss; doubles
LOSSES_MAX = 6  # in a row: the connection breaks


@dataclass(frozen=True, slots=True)
class Conditions:
    """The weather on every path between two peers."""

    latency_s: float = 0.0  # one way
    jitter_s: float = 0.0  # up to so much more, evenly
    loss: float = 0.0  # chance that a segment or a gossip message is lost
    duplicate: float = 0.0  # chance that a gossip message arrives twice
    reorder_s: float = 0.0  # gossip messages are late by up to so much, each on its own


@dataclass(frozen=True, slots=True)
class Trace:
    """One thing that happened, for comparing runs."""

    at_s: float
    what: str
    source: PeerId
    target: PeerId
    size: int
    digest: str


class MemoryHub:
    """The world between the peers of one process: who listens, and what the wires do."""

    def __init__(
        self, seed: int | str = 0, conditions: Conditions = Conditions(), *, record: bool = False
    ) -> None:
        """`record`: keep a trace of every dial and delivery in `trace`."""
        self.seed = seed
        self.conditions = conditions  # may be replaced at any time
        self.trace: list[Trace] | None = [] if record else None
        self._networks: dict[PeerId, MemoryNetwork] = {}
        self._ports: dict[int, PeerId] = {}
        self._next_port = 1
        self._cuts: set[tuple[PeerId, PeerId]] = set()
        self._paused: set[PeerId] = set()
        self._pipes: list[_Pipe] = []
        self._changed = trio.Event()
        self._rngs: dict[tuple[PeerId, PeerId], random.Random] = {}
        self._providers: dict[bytes, dict[PeerId, tuple[str, ...]]] = {}

    # --- faults ---------------------------------------------------------------------------------

    def cut(self, source: PeerId, target: PeerId) -> None:
        """Deliver nothing from `source` to `target`; the other direction is a cut of its own."""
        self._cuts.add((source, target))

    def partition(self, *sides: Iterable[PeerId]) -> None:
        """Cut every path, both ways, between peers of different sides."""
        groups = [list(side) for side in sides]
        for i, here in enumerate(groups):
            for there in groups[i + 1 :]:
                self._cuts |= {pair for a in here for b in there for pair in ((a, b), (b, a))}

    def heal(self) -> None:
        """Mend every cut; paused peers stay paused."""
        self._cuts.clear()
        self._stir()

    def pause(self, peer: PeerId) -> None:
        """Stop what goes to and from a peer, as if its process were stopped."""
        self._paused.add(peer)

    def resume(self, peer: PeerId) -> None:
        """Let a paused peer go on."""
        self._paused.discard(peer)
        self._stir()

    def reset(self, one: PeerId, other: PeerId) -> None:
        """Break the connections between two peers now."""
        for pipe in list(self._pipes):
            if {pipe.source, pipe.target} == {one, other}:
                pipe.break_()

    def is_cut(self, source: PeerId, target: PeerId) -> bool:
        """Whether nothing gets from `source` to `target` at the moment."""
        return (source, target) in self._cuts or source in self._paused or target in self._paused

    def _stir(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
        for pipe in self._pipes:
            pipe.news.set()

    # --- paths ----------------------------------------------------------------------------------

    def rng(self, source: PeerId, target: PeerId) -> random.Random:
        """The dice of one directed path: what happens elsewhere does not change its throws."""
        path = (source, target)
        if path not in self._rngs:
            self._rngs[path] = random.Random(f"{self.seed}/{source}/{target}")
        return self._rngs[path]

    def delay_s(self, rng: random.Random) -> float:
        """How long something takes now."""
        jitter = self.conditions.jitter_s
        return self.conditions.latency_s + (jitter * rng.random() if jitter else 0.0)

    def lost(self, rng: random.Random) -> bool:
        """Whether something is lost now."""
        return bool(self.conditions.loss) and rng.random() < self.conditions.loss

    async def travel(self, source: PeerId, target: PeerId) -> None:
        """Wait as long as a packet of a handshake needs, with its repetitions."""
        rng, retransmit = self.rng(source, target), RETRANSMIT_S
        await trio.sleep(self.delay_s(rng))
        while self.is_cut(source, target) or self.lost(rng):
            with trio.move_on_after(retransmit):
                await self._changed.wait()
            retransmit *= 2

    def context(self, peer: PeerId) -> Context:
        """A context on trio's clock, its randomness drawn from the hub's seed and the peer."""
        return Context.seeded(f"{self.seed}/{peer}", lambda: EPOCH_MS + int(trio.current_time() * 1000))

    def note(self, what: str, source: PeerId, target: PeerId, data: bytes = b"") -> None:
        """Record one happening, if anybody wants to know."""
        if self.trace is not None:
            mark = hashlib.blake2b(data, digest_size=8).hexdigest()
            self.trace.append(Trace(trio.current_time(), what, source, target, len(data), mark))

    # --- peers ----------------------------------------------------------------------------------

    def _join(self, network: MemoryNetwork) -> int:
        if network.peer_id in self._networks:
            raise InvalidInput(f"{network.peer_id} is on this hub already")
        port, self._next_port = self._next_port, self._next_port + 1
        self._networks[network.peer_id] = network
        self._ports[port] = network.peer_id
        return port

    def _leave(self, network: MemoryNetwork) -> None:
        del self._networks[network.peer_id]
        self._ports = {port: peer for port, peer in self._ports.items() if peer != network.peer_id}

    def _listening(self, peer: PeerId, addresses: Iterable[str]) -> MemoryNetwork | None:
        """The network of `peer`, if one of these addresses leads to it."""
        for address in addresses:
            _, word, port, *_ = (*address.split("/"), "", "", "")
            if word == "memory" and port.isdigit() and self._ports.get(int(port)) == peer:
                return self._networks[peer]
        return None

    def _connect(self, one: PeerId, other: PeerId) -> tuple[_MemoryStream, _MemoryStream]:
        there, back = _Pipe(self, one, other), _Pipe(self, other, one)
        self._pipes += [there, back]
        return _MemoryStream(self, back, there), _MemoryStream(self, there, back)

    def _forget(self, pipe: _Pipe) -> None:
        if pipe in self._pipes:
            self._pipes.remove(pipe)

    def _gossip(self, source: PeerId, target: PeerId, data: bytes) -> list[float]:
        """After how many seconds each copy of a message arrives at the next hop; none if it is lost."""
        rng, weather = self.rng(source, target), self.conditions
        if self.is_cut(source, target) or self.lost(rng):
            return []
        copies = 2 if weather.duplicate and rng.random() < weather.duplicate else 1
        self.note("gossip", source, target, data)
        return sorted(self.delay_s(rng) + weather.reorder_s * rng.random() for _ in range(copies))


class _Pipe:
    """One direction of a connection: segments in order, each with the time at which it arrives."""

    def __init__(self, hub: MemoryHub, source: PeerId, target: PeerId) -> None:
        self.source, self.target = source, target
        self.news = trio.Event()  # for the reader: look again
        self._hub, self._rng = hub, hub.rng(source, target)
        self._segments: deque[tuple[float, bytes]] = deque()  # an empty one is the end
        self._bytes = 0
        self._broken = self._deaf = self._was_cut = False
        self._room = trio.lowlevel.ParkingLot()

    async def write(self, data: bytes) -> None:
        self.put(data)
        await trio.lowlevel.checkpoint()
        while self._bytes > IN_FLIGHT_MAX and not self._broken:
            await self._room.park()

    def put(self, data: bytes) -> None:
        late, retransmit, losses = 0.0, RETRANSMIT_S, 0
        while not self._broken and self._hub.lost(self._rng):
            late, retransmit, losses = late + retransmit, retransmit * 2, losses + 1
            if losses == LOSSES_MAX:
                self.break_()
        if self._broken:
            raise Broken("the connection was lost")
        if self._deaf:
            return
        at = trio.current_time() + self._hub.delay_s(self._rng) + late
        if self._segments:
            at = max(at, self._segments[-1][0])
        self._segments.append((at, data))
        self._bytes += len(data)
        self.news.set()

    async def read(self) -> bytes:
        while not self._broken:
            self.news = trio.Event()
            if self._hub.is_cut(self.source, self.target):
                self._was_cut = True
                await self.news.wait()
            elif not self._segments:
                self._was_cut = False
                await self.news.wait()
            elif (at := self._next_arrival()) > trio.current_time():
                with trio.move_on_at(at):
                    await self.news.wait()
            else:
                await trio.lowlevel.checkpoint()
                return self._take()
        raise Broken("the connection was lost")

    def _next_arrival(self) -> float:
        at, data = self._segments[0]
        if self._was_cut:  # it was sent in vain meanwhile; now a repetition gets through
            at = max(at, trio.current_time() + self._hub.delay_s(self._rng))
            self._segments[0] = (at, data)
            self._was_cut = False
        return at

    def _take(self) -> bytes:
        taken, now = bytearray(), trio.current_time()
        while self._segments and self._segments[0][0] <= now and len(taken) < READ_SIZE_MAX:
            if not self._segments[0][1]:
                break
            taken += self._segments.popleft()[1]
        self._bytes -= len(taken)
        self._room.unpark_all()
        self._hub.note("segment", self.source, self.target, bytes(taken))
        return bytes(taken)

    def end(self) -> None:
        """The writer has closed; what it wrote still arrives."""
        if not self._broken:
            with suppress(Broken):
                self.put(b"")

    def deafen(self) -> None:
        """The reader has closed: what is written from now on goes nowhere."""
        self._deaf = True
        self._segments.clear()
        self._bytes = 0
        self._room.unpark_all()

    def break_(self) -> None:
        """The connection is lost; both ends are told."""
        self._broken = True
        self.news.set()
        self._room.unpark_all()


class _MemoryStream:
    """One end of a connection between two peers."""

    is_overrun = False  # who writes waits for room

    def __init__(self, hub: MemoryHub, incoming: _Pipe, outgoing: _Pipe) -> None:
        self._hub, self._incoming, self._outgoing = hub, incoming, outgoing

    async def read(self) -> bytes:
        return await self._incoming.read()

    async def write(self, data: bytes) -> None:
        await self._outgoing.write(data)

    async def aclose(self) -> None:
        self._outgoing.end()
        self._incoming.deafen()
        self._hub._forget(self._incoming)
        await trio.lowlevel.checkpoint()


class _Subscription:
    """What one subscriber will hear, by time of arrival; for one reader."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self._heap: list[tuple[float, int, Published]] = []
        self._count = 0
        self._news = trio.Event()
        self._closed = False

    def put(self, at: float, message: Published) -> None:
        if len(self._heap) >= PUBLISHED_QUEUE_MAX:
            heapq.heappop(self._heap)
        self._count += 1  # ties arrive in the order of sending
        heapq.heappush(self._heap, (at, self._count, message))
        self._news.set()

    def close(self) -> None:
        self._closed = True
        self._news.set()

    def __aiter__(self) -> _Subscription:
        return self

    async def __anext__(self) -> Published:
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._heap or self._heap[0][0] > trio.current_time():
            if self._closed:
                raise Closed("the network was closed")
            self._news = trio.Event()
            with trio.move_on_at(self._heap[0][0] if self._heap else math.inf):
                await self._news.wait()
        message = heapq.heappop(self._heap)[2]
        await trio.lowlevel.cancel_shielded_checkpoint()
        return message


class MemoryNetwork(LinkedNetwork):
    """One peer on a `MemoryHub`; open it with `open_memory_network`."""

    def __init__(self, hub: MemoryHub, peer_id: PeerId, context: Context, nursery: trio.Nursery) -> None:
        super().__init__(peer_id, context, nursery)
        self._hub = hub
        self._port = hub._join(self)
        self._subscriptions: list[_Subscription] = []

    @property
    def addresses(self) -> tuple[str, ...]:
        """``/memory/<port>/p2p/<peer id>``, good on this hub only."""
        return (f"/memory/{self._port}/p2p/{self.peer_id}",)

    async def _open_stream(self, peer: PeerId, addresses: tuple[str, ...]) -> ByteStream:
        if not addresses:
            raise Unreachable(f"no address of {peer} is known: connect to it, or add_addresses")
        hub, us = self._hub, self.peer_id
        hub.note("dial", us, peer)
        await hub.travel(us, peer)
        other = hub._listening(peer, addresses)
        await hub.travel(peer, us)
        if other is None or other._closed:
            raise Unreachable(f"nobody listens at {', '.join(addresses)}")
        here, there = hub._connect(us, peer)
        other.add_addresses(us, self.addresses)
        other._adopt(us, there, ours=False)
        return here

    async def publish(self, topic: str, data: bytes) -> None:
        """Flood along live links: from peer to peer as long as each has subscribed."""
        self._check_open()
        now, reached = trio.current_time(), {self.peer_id}
        front: list[tuple[float, MemoryNetwork]] = [(now, self)]
        message = Published(topic, data, self.peer_id)
        while front:
            at, here = front.pop(0)
            for peer in here.peers():
                other = self._hub._networks.get(peer)
                if peer in reached or other is None or not other._listens_to(topic):
                    continue
                arrivals = self._hub._gossip(here.peer_id, peer, data)
                if arrivals:
                    reached.add(peer)
                    front.append((at + arrivals[0], other))
                for late in arrivals:
                    other._hear(at + late, message)
        await trio.lowlevel.checkpoint()

    @asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[AsyncIterator[Published]]:
        """Messages on a topic, ours excluded."""
        self._check_open()
        subscription = _Subscription(topic)
        self._subscriptions.append(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.remove(subscription)

    def _listens_to(self, topic: str) -> bool:
        return any(subscription.topic == topic for subscription in self._subscriptions)

    def _hear(self, at: float, message: Published) -> None:
        for subscription in self._subscriptions:
            if subscription.topic == message.topic:
                subscription.put(at, message)

    async def provide(self, key: bytes) -> None:
        """Leave a record with the hub; it outlives this network, as in a DHT."""
        self._check_open()
        await trio.sleep(self._hub.conditions.latency_s)
        self._hub._providers.setdefault(key, {})[self.peer_id] = self.addresses

    async def find_providers(self, key: bytes, *, limit: int = 20) -> list[PeerId]:
        """Who left a record, the oldest first."""
        self._check_open()
        await trio.sleep(self._hub.conditions.latency_s)
        records = self._hub._providers.get(key, {})
        found = [peer for peer in records if peer != self.peer_id][:limit]
        for peer in found:
            self.add_addresses(peer, records[peer])
        return found

    async def _close(self) -> None:
        if self._closed:
            return
        await super()._close()
        self._hub._leave(self)
        for subscription in self._subscriptions:
            subscription.close()


@asynccontextmanager
async def open_memory_network(
    hub: MemoryHub, key: Key, *, context: Context | None = None, bootstrap: Iterable[str] = ()
) -> AsyncIterator[MemoryNetwork]:
    """Join `hub` as the peer of `key`; without `context`, time is trio's and chance is the hub's seed."""
    peer = key.peer_id
    async with background() as nursery:
        network = MemoryNetwork(hub, peer, context or hub.context(peer), nursery)
        try:
            await network.bootstrap(bootstrap)
            yield network
        finally:
            await network._close()
