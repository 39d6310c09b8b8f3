"""TCP in memory: connections between the hosts of a world, and libp2p's transport over them.

A connection is two ordered ways of bytes. One write is one timer: after the weather's latency it arrives,
or is held while its way is cut, as by a kernel that sends again and again. What TCP would do is done:

- a reader that does not read holds its writer back (`WINDOW_SIZE`);
- what comes to a connection that is closed, or of which the machine knows nothing any more, is answered by
  a reset; a machine that has crashed answers nothing;
- a dial waits while nothing gets through, and is given up after `CONNECT_TIMEOUT_S`.

Nobody below libp2p notices that a peer has fallen silent: that is left to those above, as with real TCP.
"""

from __future__ import annotations

import logging
import math
import random
from typing import TYPE_CHECKING, Any

import trio
from libp2p.abc import IListener, IRawConnection, ITransport
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.transport.exceptions import OpenConnectionError
from multiaddr import Multiaddr

from ainp2p.protocol.network import PeerId

if TYPE_CHECKING:
    from ainp2p.protocol.libp2p import Libp2pNetwork
    from ainp2p.simulation.wire.libp2p_world import Libp2pWire

PORT = 4001
FIRST_OWN_PORT = 32_768  # of those that a dialling host takes for itself
WINDOW_SIZE = 256 * 1024  # bytes sent and not read; beyond it a writer waits, as at a kernel's buffers
CONNECT_TIMEOUT_S = 127.0  # Linux gives a connection up after six repetitions of its SYN

log = logging.getLogger(__name__)

DATA, FIN, RESET = "bytes", "fin", "reset"


class Machine:
    """One life of a host on the wire: its listener and its ends of connections."""

    def __init__(self, wire: Libp2pWire, peer: PeerId, nursery: trio.Nursery) -> None:
        self.wire, self.peer, self.nursery = wire, peer, nursery
        self.name, self.ip = peer[-8:], wire.ip(peer)
        self.network: Libp2pNetwork | None = None
        self.handler: Any = None  # of who listens
        self.ends: dict[End, None] = {}
        self.ports = FIRST_OWN_PORT
        self.alive = True

    def die(self, *, reset: bool) -> None:
        """Nothing leaves it any more, but the kernel's resets if only its process is dead."""
        self.alive, self.handler = False, None
        for end in list(self.ends):
            if reset:
                end.send(RESET)
            end.end(RESET)


class End(ReadWriteCloser):  # type: ignore[misc]  # libp2p carries no types
    """One end of a connection: what libp2p reads and writes, and the way of the bytes to the other end."""

    other: End

    def __init__(self, machine: Machine, peer: PeerId, remote: tuple[str, int]) -> None:
        self.machine, self.wire, self.peer, self.remote = machine, machine.wire, peer, remote
        self.rng: random.Random | None = None
        machine.ends[self] = None
        self._buffer = bytearray()
        self._over = ""  # FIN: nothing more comes; RESET: it is broken
        self._closed = False  # by us
        self._unread = 0  # bytes sent that the other end has not read
        self._last_at = 0.0  # when what was sent last arrives
        self._held: list[tuple[str, bytes]] | None = None  # what came while the way to us was cut
        self._news, self._room = trio.Event(), trio.Event()
        self._reading, self._writing = trio.Lock(), trio.Lock()

    # --- what libp2p calls ----------------------------------------------------------------------

    async def write(self, data: bytes) -> None:
        """Send; waits while too much is unread. Silent after our own close, as libp2p's TCP stream is."""
        async with self._writing:
            while self._unread >= WINDOW_SIZE and self._over != RESET and not self._closed:
                self._room = trio.Event()
                await self._room.wait()
            if self._over == RESET:
                raise ConnectionClosedError("the connection was reset", transport="memory")
            if not self._closed and data:
                self._unread += len(data)
                self.send(DATA, bytes(data))

    async def read(self, n: int | None = None) -> bytes:
        """What has arrived, up to `n` bytes; b"" at the end."""
        if n == 0:
            return b""
        async with self._reading:
            while not self._buffer and not self._over and not self._closed:
                self._news = trio.Event()
                await self._news.wait()
            if self._over == RESET:
                raise ConnectionClosedError("the connection was reset", transport="memory")
            data = bytes(self._buffer[:n])
            del self._buffer[:n]
            self.other._was_read(len(data))
            return data

    async def close(self) -> None:
        """Both directions, as closing a socket does."""
        if not self._closed:
            self._closed = True
            if self._over != RESET:
                self.send(FIN)
            self._leave()
        await trio.lowlevel.checkpoint()

    def get_remote_address(self) -> tuple[str, int]:
        """Host and port of the other end."""
        return self.remote

    # --- the way to the other end ---------------------------------------------------------------

    def send(self, kind: str, data: bytes = b"") -> None:
        """Put it on its way, behind what was sent before; a dead machine sends nothing."""
        if not self.machine.alive and kind != RESET:
            return
        delay_s = self.wire.delay_s(self)
        if delay_s == math.inf:
            self.break_()
            return
        self._last_at = max(self._last_at, self.wire.clock.now + delay_s)
        self.wire.clock.call_at(self._last_at, self.other.arrive, kind, data)

    def _was_read(self, size: int) -> None:
        self._unread -= size
        if self._unread < WINDOW_SIZE:
            self._room.set()

    # --- the way to us --------------------------------------------------------------------------

    def arrive(self, kind: str, data: bytes) -> None:
        """Something has come; it is held while nothing gets to us."""
        if self._held is None and self.wire.is_cut(self.peer, self.machine.peer):
            self._held = []
        if self._held is not None:
            self._held.append((kind, data))
        else:
            self._hear(kind, data)

    def look_at_way(self) -> None:
        """Cuts have changed: what is held comes after a time if nothing is in its way now."""
        if self._held is not None and not self.wire.is_cut(self.peer, self.machine.peer):
            delay_s = self.wire.delay_s(self.other)
            self.wire.clock.call_later(min(delay_s, CONNECT_TIMEOUT_S), self._release)

    def _release(self) -> None:
        if self._held is not None and not self.wire.is_cut(self.peer, self.machine.peer):
            held, self._held = self._held, None
            for kind, data in held:
                self._hear(kind, data)

    def _hear(self, kind: str, data: bytes) -> None:
        if self._closed or not self.machine.alive:
            if kind == DATA and self.wire.answers(self.machine.peer):
                self.other.wire.reset_from(self)
            return
        self.wire.note(kind, self.peer, self.machine.peer, len(data))
        if kind == DATA:
            self._buffer += data
            self._news.set()
        else:
            self.end(kind)

    def end(self, kind: str) -> None:
        """The other end has closed (FIN), or the connection is broken (RESET)."""
        if self._over != RESET:
            self._over = kind
        if kind == RESET:
            self._buffer.clear()
            self._leave()
        self._news.set()
        self._room.set()

    def break_(self) -> None:
        """The connection is lost; both ends are told at once."""
        for end in (self, self.other):
            if end.machine.alive and end._over != RESET:
                end.wire.note(RESET, end.peer, end.machine.peer, 0)
            end.end(RESET)

    def _leave(self) -> None:
        self.machine.ends.pop(self, None)
        self._news.set()
        self._room.set()


class MemoryTransport(ITransport):  # type: ignore[misc]  # libp2p carries no types
    """libp2p's transport of one machine: dials and listens at /ip4/…/tcp/… on the wire, and nowhere else."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def dial(self, maddr: Multiaddr) -> IRawConnection:
        """Raises OpenConnectionError: nobody listens there, or nothing gets through for two minutes."""
        ip, port = maddr.value_for_protocol("ip4"), int(maddr.value_for_protocol("tcp"))
        with trio.move_on_after(CONNECT_TIMEOUT_S):
            return RawConnection(await self._machine.wire.connect(self._machine, ip, port), True)
        raise OpenConnectionError(f"nothing was heard of {ip} port {port} for {CONNECT_TIMEOUT_S:g} s")

    def create_listener(self, handler_function: Any) -> IListener:
        """Listens on this machine."""
        return _Listener(self._machine, handler_function)

    def can_dial(self, maddr: Multiaddr) -> bool:
        """Whether this is a plain IPv4 address with a TCP port: a name would need a resolver."""
        names = [part.name for part in maddr.protocols()]
        return names[:2] == ["ip4", "tcp"] and names[2:] in ([], ["p2p"])

    can_listen = can_dial

    def protocols(self) -> list[str]:
        """The protocols of its addresses."""
        return ["tcp"]


class _Listener(IListener):  # type: ignore[misc]  # libp2p carries no types
    def __init__(self, machine: Machine, handler: Any) -> None:
        self._machine, self._handler = machine, handler
        self._addresses: list[Multiaddr] = []

    async def listen(self, maddr: Multiaddr) -> None:
        machine = self._machine
        ip, port = maddr.value_for_protocol("ip4"), int(maddr.value_for_protocol("tcp"))
        if (ip, port) != (machine.ip, PORT) or machine.handler is not None:
            raise OpenConnectionError(f"on this wire {machine.peer} listens at {machine.ip} port {PORT}")
        machine.handler = self._handler
        self._addresses.append(maddr)

    def get_addrs(self) -> tuple[Multiaddr, ...]:
        return tuple(self._addresses)

    async def close(self) -> None:
        if self._addresses:
            self._addresses.clear()
            self._machine.handler = None


async def serve(machine: Machine, end: End) -> None:
    """What libp2p does with a connection that has come in, until it ends."""
    handler = machine.handler
    try:
        if handler is not None:
            await handler(end)
    except Exception as exc:  # libp2p's TCP listener drops it, too
        log.debug("a connection that came in has failed: %r", exc)
    finally:
        with trio.CancelScope(shield=True):
            await end.close()
