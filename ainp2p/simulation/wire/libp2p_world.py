"""A second wire for worlds, slower and nearer to reality: unmodified py-libp2p over memory, in virtual time.

What runs is `ainp2p.protocol.libp2p.open_network` with everything below it: Noise, yamux, identify,
gossipsub and Kademlia of the installed libp2p. Only the TCP socket is replaced (libp2p_transport.py), and
what libp2p reads of the real world (libp2p_ambient.py). It offers what `wire.Wire` does, so that
`World(seed, wire="libp2p")` runs the same models; it cannot lie (all is encrypted), and does not duplicate
or reorder (TCP hides both).

For a seed the trace repeats: time, kind, from, to and length of all that arrives. The bytes do not, since
Noise draws ephemeral keys.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio
from libp2p.transport.exceptions import OpenConnectionError

from ainp2p.errors import InvalidInput
from ainp2p.protocol.background import background
from ainp2p.protocol.libp2p import Libp2pNetwork, open_network
from ainp2p.protocol.libp2p_fixes import install_fixes
from ainp2p.protocol.network import PeerId
from ainp2p.simulation.core.clock import VirtualClock
from ainp2p.simulation.core.draws import Draws
from ainp2p.simulation.core.trace import Trace
from ainp2p.simulation.wire.cuts import Cuts
from ainp2p.simulation.wire.libp2p_ambient import libp2p_in_world
from ainp2p.simulation.wire.libp2p_transport import PORT, RESET, End, Machine, MemoryTransport, serve
from ainp2p.simulation.wire.lies import Rewrite
from ainp2p.simulation.wire.weather import CALM, Weather
from ainp2p.simulation.wire.wire import Message

if TYPE_CHECKING:
    from ainp2p.protocol.context import Context
    from ainp2p.protocol.identity import Key

PROTOCOL = "/libp2p"  # of what observers are told: the rest is encrypted


class Libp2pWire:
    """All hosts of a world, the connections between them, and their faults.

    Attributes:
        observers: each is told of every arrival; they must not send.
        machines: the life of each host that is on the wire.
    """

    def __init__(
        self, clock: VirtualClock, draws: Draws, trace: Trace | None, weather: Weather = CALM
    ) -> None:
        install_fixes()
        self.clock, self._draws, self._trace = clock, draws, trace
        self.weather = weather
        self.observers: list[Callable[[Message], None]] = []
        self.machines: dict[PeerId, Machine] = {}
        self._crashed: set[PeerId] = set()  # machines that answer nothing
        self._numbers: dict[PeerId, int] = {}
        self._peers: dict[str, PeerId] = {}  # by IP address
        self._cuts = Cuts()
        self.is_cut = self._cuts.is_cut
        self._changed = trio.Event()  # cuts, or who is here
        self._here = 0
        self._ambient = ExitStack()
        self._redirect: Callable[[], None] = _nothing

    # --- hosts ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def open(self, key: Key, context: Context) -> AsyncIterator[Libp2pNetwork]:
        """Join as the peer of `key`; leaving the block closes the network.

        Raises:
            InvalidInput: that peer is here already.
        """
        peer = key.peer_id
        if peer in self.machines:
            raise InvalidInput(f"{peer} is on this wire already")
        self._enter()
        try:
            async with background() as nursery:
                machine = self.machines[peer] = Machine(self, peer, nursery)
                self._crashed.discard(peer)
                listen = (f"/ip4/{machine.ip}/tcp/{PORT}",)
                try:
                    async with open_network(
                        key, listen, context=context, transports=[MemoryTransport(machine)]
                    ) as machine.network:
                        self._redirect()
                        self._look_everywhere()
                        yield machine.network
                finally:
                    machine.die(reset=machine.alive)
                    if self.machines.get(peer) is machine:
                        del self.machines[peer]
        finally:
            self._leave()

    def _enter(self) -> None:
        if self._here == 0:
            self._redirect = self._ambient.enter_context(libp2p_in_world(self.clock, self._draws))
        self._here += 1

    def _leave(self) -> None:
        self._here -= 1
        if self._here == 0:
            self._ambient.close()

    def ip(self, peer: PeerId) -> str:
        """The address of a peer's machine; the same after a restart."""
        n = self._numbers.setdefault(peer, len(self._numbers) + 1)
        ip = f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}"
        self._peers[ip] = peer
        return ip

    def address(self, peer: PeerId) -> str:
        """Where a peer listens, or will once it is here; the same after a restart."""
        return f"/ip4/{self.ip(peer)}/tcp/{PORT}/p2p/{peer}"

    def answers(self, peer: PeerId) -> bool:
        """Whether a peer's machine runs, whatever became of the process."""
        return peer not in self._crashed

    # --- connections ----------------------------------------------------------------------------

    async def connect(self, source: Machine, ip: str, port: int) -> End:
        """Dial: a round trip through the weather and the cuts.

        Raises:
            OpenConnectionError: nobody listens there, or this machine is dead.
        """
        peer = self._peers.get(ip)
        while peer is None:  # nobody has this address: as to a host that is switched off
            await self._changes()
            peer = self._peers.get(ip)
        us = source.peer
        await self._pass(us, peer)
        target = self.machines.get(peer)
        while target is None and peer in self._crashed:
            await self._changes()
            await self._pass(us, peer)
            target = self.machines.get(peer)
        if not source.alive:
            raise OpenConnectionError("this machine has crashed")
        listens = target is not None and target.handler is not None and port == PORT
        if target is None or not listens:
            await self._pass(peer, us)
            raise OpenConnectionError(f"connection refused by {ip} port {port}")
        source.ports += 1
        ours = End(source, peer, (ip, port))
        theirs = End(target, us, (source.ip, source.ports))
        ours.other, theirs.other = theirs, ours
        target.nursery.start_soon(serve, target, theirs)
        try:
            await self._pass(peer, us)
        except BaseException:
            ours.send(RESET)
            ours.end(RESET)
            raise
        return ours

    async def _pass(self, source: PeerId, target: PeerId) -> None:
        """One packet of a handshake, sent again while it is lost."""
        while True:
            await self.clock.sleep(min(self._delay_s(self._dice(source, target), source, target), 60.0))
            if not self.is_cut(source, target):
                return
            await self._changes()

    async def _changes(self) -> None:
        await self._changed.wait()

    def reset_from(self, end: End) -> None:
        """The kernel of `end`'s machine tells the other end that it knows no such connection."""
        at_s = self.clock.now + min(self.delay_s(end), 60.0)
        self.clock.call_at(at_s, end.other.arrive, RESET, b"")

    # --- weather --------------------------------------------------------------------------------

    @property
    def weather(self) -> Weather:
        """What happens to bytes from now on; may be replaced at any time."""
        return self._weather

    @weather.setter
    def weather(self, weather: Weather) -> None:
        if weather.duplicate or weather.reorder_s:
            raise InvalidInput(
                "on libp2p's wire nothing is duplicated or reordered: TCP hides both; leave duplicate and"
                ' reorder_s at 0, or use wire="simulated"'
            )
        self._weather = weather

    def _dice(self, source: PeerId, target: PeerId) -> random.Random:
        return self._draws.stream("path", source, target)

    def delay_s(self, end: End) -> float:
        """How long what an end sends takes now; inf: the connection breaks."""
        if end.rng is None:
            end.rng = self._dice(end.machine.peer, end.peer)
        return self._delay_s(end.rng, end.machine.peer, end.peer)

    def _delay_s(self, rng: random.Random, source: PeerId, target: PeerId) -> float:
        weather = self._weather
        delay_s = weather.delay_s(rng, source, target)
        return delay_s + weather.late_s(rng) if weather.loss else delay_s

    # --- faults ---------------------------------------------------------------------------------

    def cut(self, source: PeerId, target: PeerId, oneway: bool = False) -> None:
        """Deliver nothing from `source` to `target`, nor back unless `oneway`."""
        self._cuts.cut(source, target, oneway=oneway)

    def partition(self, side_a: Iterable[PeerId], side_b: Iterable[PeerId], oneway: bool = False) -> Any:
        """Cut every path from one side to the other, and back unless `oneway`; returns what `lift` takes."""
        return self._cuts.partition(side_a, side_b, oneway=oneway)

    def lift(self, walls: Any) -> None:
        """End one partition; other cuts stay."""
        self._cuts.lift(walls)
        self._look_everywhere()

    def heal(self, a: PeerId | None = None, b: PeerId | None = None) -> None:
        """Mend every cut, those around `a`, or those between `a` and `b`; paused peers stay paused."""
        if a is None:
            self._cuts.heal_all()
        elif b is None:
            self._cuts.heal_around(a)
        else:
            self._cuts.heal_between(a, b)
        self._look_everywhere()

    def pause(self, peer: PeerId) -> None:
        """Nothing goes to or from a peer, as if its network cable were pulled."""
        self._cuts.pause(peer)

    def resume(self, peer: PeerId) -> None:
        """Let a paused peer go on."""
        self._cuts.resume(peer)
        self._look_everywhere()

    def reset(self, one: PeerId, other: PeerId) -> None:
        """Break all connections between two peers now, as a firewall between them may."""
        machine = self.machines.get(one)
        for end in list(machine.ends) if machine is not None else []:
            if end.peer == other:
                end.break_()

    def kill(self, peer: PeerId, reset: bool = False) -> None:
        """A peer is dead at once: nothing more leaves it, and its network closes.

        With `reset` only its process has died, and its machine tells that by resets; else all is silent.
        """
        machine = self.machines.pop(peer, None)
        if machine is None:
            return
        if not reset:
            self._crashed.add(peer)
        machine.die(reset=reset)
        if machine.network is not None:
            machine.nursery.start_soon(machine.network._close)

    def lie(self, peer: PeerId, rewrite: Rewrite | None) -> None:
        """Refused: what travels here is encrypted.

        Raises:
            InvalidInput: always.
        """
        raise InvalidInput(
            "on libp2p's wire everything is encrypted, and nobody's words can be rewritten:"
            ' use wire="simulated"'
        )

    def _look_everywhere(self) -> None:
        """Something gets through that did not before."""
        self._changed.set()
        self._changed = trio.Event()
        for machine in list(self.machines.values()):
            for end in list(machine.ends):
                end.look_at_way()

    # --- what happened --------------------------------------------------------------------------

    def note(self, kind: str, source: PeerId, target: PeerId, size: int) -> None:
        """Bytes, an end or a reset came to a host."""
        if self._trace is not None:
            self._trace.note(kind, self._numbers[source], self._numbers[target], size)
        if self.observers:
            message = Message(self.clock.now, kind, source, target, PROTOCOL, size)
            for observer in self.observers:
                observer(message)


def _nothing() -> None: ...
