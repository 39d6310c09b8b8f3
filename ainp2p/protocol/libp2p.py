"""The Network over py-libp2p: TCP, Noise, yamux, Kademlia and gossipsub. The only module that imports libp2p.

py-libp2p is used as a secure wire: one stream to each peer carries our channel; gossipsub and the DHT do
announcements and look-ups. It is imported when the first network is opened (0.9 s, 90 MB), in a thread.

Every work-around for libp2p 0.8.1 is in this module: a function `fix_…` that names the defect, refuses to
patch what has changed, and may be called again; the rest are arguments, each with its reason. Each has a
test that tells when it is needless (tests/protocol/test_libp2p.py) and a line in docs/libp2p.md.
"""

from __future__ import annotations

import functools
import gc
import itertools
import logging
import os
import socket
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, TypeVar

import trio

from ainp2p.errors import Broken, InvalidInput, Unreachable
from ainp2p.protocol.background import background
from ainp2p.protocol.context import Context
from ainp2p.protocol.identity import Key, public_from_peer_id
from ainp2p.protocol.linked_network import PUBLISHED_QUEUE_MAX, Feed, LinkedNetwork
from ainp2p.protocol.network import PeerId, Published
from ainp2p.protocol.peer_link import ByteStream, PeerLink

log = logging.getLogger(__name__)

CHANNEL_PROTOCOL = "/ainp2p/channel/1"
GOSSIP_PROTOCOL = "/meshsub/1.1.0"
LISTEN_DEFAULT = ("/ip4/127.0.0.1/tcp/0",)

CONNECTIONS_MAX = 512
OUTBOUND_RESERVED = 64  # of those, places that inbound connections never take
UNAUTHENTICATED_PER_ADDRESS_MAX = 16  # silent sockets from one address otherwise shut a host (E1)
DIAL_STAGGER_S = 0.25  # head start of each address over the next (RFC 8305 §5 recommends 250 ms)
CLOSE_GRACE_S = 2.0
WRITE_STALL_S = 20.0  # a frame that the kernel does not take for so long ends the connection
READ_SIZE_MAX = 65_536
WINDOW_SIZE_MAX = 1 << 20  # bytes of one stream that may wait to be read; 20 MB/s at 50 ms
OVERRUN_SIZE = 2 * WINDOW_SIZE_MAX
GOSSIP_QUEUE_MAX = 1024
FIND_TIMEOUT_S = 3.0
GREETINGS_S = (0.3, 0.7, 2.0, 5.0)  # our topics are told again so long after a connection came up,
GREETING_INTERVAL_S = 30.0  # and then as often as this
ROUTING_RETRIES_S = (0.1, 0.4, 1.5, 5.0)  # identify tells a peer's addresses after so long, usually

_FRAME = struct.Struct("!BBHII")  # yamux's header: version, kind, flags, stream, length

T = TypeVar("T")

# --- work-arounds -------------------------------------------------------------------------------


def _patch(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Replace `owner.name` by `make(original)`, once."""
    original = getattr(owner, name, None)
    if original is None:
        raise AttributeError(
            f"libp2p has changed: {getattr(owner, '__name__', owner)}.{name} is gone; "
            "see docs/libp2p.md, and install libp2p==0.8.1 meanwhile"
        )
    if not hasattr(original, "_before_ainp2p"):
        patched = make(original)
        patched._before_ainp2p = original
        setattr(owner, name, patched)


def fix_handler_exceptions() -> None:
    """An exception in any stream handler ends the host (swarm_connection.py `_handle_muxed_stream`)."""
    from libp2p.network.connection.swarm_connection import SwarmConn

    def make(original: Any) -> Any:
        @functools.wraps(original)
        async def handle(self: Any, muxed_stream: Any) -> None:
            try:
                await original(self, muxed_stream)
            except Exception as exc:
                log.debug("a libp2p stream handler failed: %r", exc)
                with suppress(Exception):
                    await muxed_stream.reset()

        return handle

    _patch(SwarmConn, "_handle_muxed_stream", make)


def fix_inbound_slots() -> None:
    """An inbound connection keeps its slot until the host stops: after 250 of them none is accepted.

    swarm.py `_do_handle_inbound_connection` waits for the swarm's end; wait for the connection's too.
    """
    from libp2p.network.swarm import Swarm

    def make(original: Any) -> Any:
        @functools.wraps(original)
        async def upgrade(self: Any, raw_conn: Any, maddr: Any) -> Any:
            muxed_conn = await original(self, raw_conn, maddr)
            await muxed_conn.event_closed.wait()
            # The caller would go on to wait for the swarm's end; an exception it only logs.
            raise ConnectionError("the connection has ended")

        return upgrade

    _patch(Swarm, "upgrade_inbound_raw_conn", make)


def fix_cancelled_writes() -> None:
    """A cancelled frame write desynchronises Noise and kills the connection (yamux.py `_write_frame`)."""
    from libp2p.stream_muxer.exceptions import MuxedStreamError
    from libp2p.stream_muxer.yamux.yamux import Yamux

    def make(original: Any) -> Any:
        @functools.wraps(original)
        async def write_frame(self: Any, data: bytes) -> None:
            await trio.lowlevel.checkpoint_if_cancelled()
            with trio.CancelScope(deadline=trio.current_time() + WRITE_STALL_S, shield=True) as scope:
                async with self._write_lock:
                    await self.secured_conn.write(data)
            if scope.cancelled_caught:  # the frame is torn: nothing more can be said on this connection
                self.event_shutting_down.set()
                with trio.CancelScope(deadline=trio.current_time() + 1, shield=True):
                    await self.secured_conn.close()
                raise MuxedStreamError("a write stalled; the connection is closed")

        return write_frame

    _patch(Yamux, "_write_frame", make)


def fix_read_credit() -> None:
    """Every read sends a window update, and a cancelled one loses what was read (yamux.py).

    Batch the updates to half a window, and shield them; a window of 16 MB is too much to keep for a peer
    that is held back.
    """
    from libp2p.stream_muxer.yamux.yamux import YamuxStream

    def make(original: Any) -> Any:
        @functools.wraps(original)
        async def update(self: Any, *, bytes_read: int = 0) -> None:
            self._pending_recv_release += bytes_read
            if self._pending_recv_release < self.target_recv_window // 2:
                return
            increment, self._pending_recv_release = self._pending_recv_release, 0
            self.recv_window += increment
            buffered = len(self.conn.stream_buffers.get(self.stream_id, b""))
            if 2 * self.target_recv_window <= WINDOW_SIZE_MAX:  # libp2p would go to 16 MB
                increment += self._apply_autotune_epoch(buffered)
            with trio.CancelScope(shield=True):
                await self.send_window_update(increment)

        return update

    _patch(YamuxStream, "_auto_tune_and_send_window_update", make)


def fix_write_credit() -> None:
    """A reader that pauses for 5 s gets its stream reset, and a frame is never a whole Noise message.

    yamux.py `YamuxStream.write`: wait for credit as long as the stream lives (our heartbeat bounds that),
    and cut at 65,507 bytes: one frame, one Noise message, half the CPU.
    """
    from libp2p.stream_muxer.exceptions import MuxedStreamError, MuxedStreamReset
    from libp2p.stream_muxer.yamux.yamux import YamuxStream

    def make(original: Any) -> Any:
        @functools.wraps(original)
        async def write(self: Any, data: bytes) -> None:
            if self.send_closed:
                raise MuxedStreamError("the stream is closed for sending")
            view, sent = memoryview(data), 0
            async with self.__dict__.setdefault("_writing", _Lock()):
                while sent < len(data):
                    while self.send_window <= 0 and not self.closed and not self.send_closed:
                        if self.conn.event_shutting_down.is_set():
                            break
                        await trio.sleep(0.002)  # nothing tells when a window update has come
                    if self.closed or self.send_closed or self.conn.event_shutting_down.is_set():
                        raise MuxedStreamReset("the stream was closed meanwhile")
                    size = min(self.send_window, 65_507, len(data) - sent)
                    self.send_window -= size
                    header = _FRAME.pack(0, 0, 0, self.stream_id, size)
                    await self.conn._write_frame(header + view[sent : sent + size])
                    sent += size

        return write

    _patch(YamuxStream, "write", make)


def fix_pubsub_messages() -> None:
    """One malformed gossip message from any peer ends the host (pubsub.py, gossipsub.py)."""
    from libp2p.pubsub.gossipsub import GossipSub
    from libp2p.pubsub.pubsub import Pubsub

    def make(original: Any) -> Any:
        @functools.wraps(original)
        async def guarded(self: Any, *args: Any) -> None:
            try:
                await original(self, *args)
            except Exception as exc:
                log.debug("a gossip message was dropped: %r", exc)

        return guarded

    _patch(Pubsub, "push_msg", make)
    _patch(GossipSub, "handle_rpc", make)


def fix_thin_mesh() -> None:
    """What we publish goes to our mesh alone: to nobody, while no neighbour has a place for us in its own.

    gossipsub.py `_get_peers_to_send`; gossipsub v1.1 floods one's own messages to all ("Flood Publishing").
    Ours go to as many subscribers as a full mesh has, if the mesh is too small.
    """
    from libp2p.pubsub.gossipsub import GossipSub

    def make(original: Any) -> Any:
        @functools.wraps(original)
        def peers(self: Any, topic_ids: Any, msg_forwarder: Any, origin: Any, msg_id: Any = None) -> Any:
            chosen = list(original(self, topic_ids, msg_forwarder, origin, msg_id))
            if origin == msg_forwarder:  # our own
                for topic in topic_ids:
                    if len(self.mesh.get(topic, ())) < self.degree_low and topic in self.pubsub.peer_topics:
                        minus = [*chosen, origin]
                        chosen += self._get_in_topic_gossipsub_peers_from_minus(topic, self.degree, minus)
            yield from chosen

        return peers

    _patch(GossipSub, "_get_peers_to_send", make)


def fix_gossip_queues() -> None:
    """Queues of 32 messages to each peer and subscriber silently lose bursts (pubsub.py, rpc_queue.py)."""
    from libp2p.pubsub import pubsub, rpc_queue

    if not hasattr(pubsub, "SUBSCRIPTION_CHANNEL_SIZE"):
        raise AttributeError(
            "libp2p has changed: pubsub.SUBSCRIPTION_CHANNEL_SIZE is gone; see docs/libp2p.md"
        )
    pubsub.SUBSCRIPTION_CHANNEL_SIZE = GOSSIP_QUEUE_MAX
    defaults = rpc_queue.RpcQueue.__init__.__defaults__
    rpc_queue.RpcQueue.__init__.__defaults__ = (GOSSIP_QUEUE_MAX, *defaults[1:])


def fix_dial_delay() -> None:
    """A successful dial is followed by a wait of 250 ms (swarm.py `dial_peer`)."""
    from libp2p.network import swarm

    if not hasattr(swarm, "_HAPPY_EYEBALLS_DELAY"):
        raise AttributeError("libp2p has changed: swarm._HAPPY_EYEBALLS_DELAY is gone; see docs/libp2p.md")
    swarm._HAPPY_EYEBALLS_DELAY = 0.0


def fix_read_exactly() -> None:
    """A message in more than 101 pieces is given up (io/utils.py `read_exactly`)."""
    import sys

    from libp2p.io import utils

    async def read_exactly(reader: Any, n: int, retry_count: int = 0) -> bytes:
        buffer, empty = bytearray(), 0
        while len(buffer) < n:
            piece = await reader.read(n - len(buffer))
            empty = 0 if piece else empty + 1
            if empty > 100:
                raise utils.IncompleteReadError(
                    f"expected {n} bytes, got {len(buffer)}", expected_bytes=n, received_bytes=len(buffer)
                )
            buffer += piece
        return bytes(buffer)

    original = utils.read_exactly
    if hasattr(original, "_before_ainp2p"):
        return
    read_exactly._before_ainp2p = original  # type: ignore[attr-defined]  # a mark, for `_patch`'s reason
    for module in list(sys.modules.values()):  # others have imported the name
        ours = getattr(module, "__name__", "").startswith("libp2p.")
        if ours and getattr(module, "read_exactly", None) is original:
            module.read_exactly = read_exactly  # type: ignore[attr-defined]  # same


class _Lock:
    """A lock that takes no turn of the scheduler while nobody holds it; a `trio.Lock` always does."""

    def __init__(self) -> None:
        self._lock = trio.Lock()

    async def __aenter__(self) -> None:
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()


def fix_turns() -> None:
    """Five locks and two reads from the socket take ten turns of the scheduler for each message.

    io/trio.py, net_stream.py, yamux.py. Nobody else wants these locks but for a moment; what came from the
    socket together is read together.
    """
    from libp2p.io.trio import TrioTCPStream
    from libp2p.network.stream.net_stream import NetStream
    from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream

    def with_locks(*names: str) -> Callable[[Any], Any]:
        def make(original: Any) -> Any:
            @functools.wraps(original)
            def init(self: Any, *args: Any, **kwargs: Any) -> None:
                original(self, *args, **kwargs)
                for name in names:
                    if not hasattr(self, name):
                        raise AttributeError(f"libp2p has changed: {name} is gone; see docs/libp2p.md")
                    setattr(self, name, _Lock())

            return init

        return make

    def make_read(original: Any) -> Any:
        @functools.wraps(original)
        async def read(self: Any, n: int | None = None) -> bytes:
            ahead, at = getattr(self, "_ahead", (b"", 0))
            if at == len(ahead) and n != 0:
                ahead, at = await original(self, READ_SIZE_MAX), 0
            end = len(ahead) if n is None else min(len(ahead), at + n)
            self._ahead = ahead, end
            return bytes(ahead[at:end])

        return read

    _patch(TrioTCPStream, "__init__", with_locks("read_lock", "write_lock"))
    _patch(NetStream, "__init__", with_locks("_state_lock"))
    _patch(YamuxStream, "__init__", with_locks("window_lock"))
    _patch(Yamux, "__init__", with_locks("streams_lock", "_write_lock"))
    _patch(TrioTCPStream, "read", make_read)


class _Frames:
    """A yamux connection's bytes, without the frames of data for open streams: those go into their buffers.

    Whatever else comes is read by yamux itself, as before.
    """

    def __init__(self, muxed: Any) -> None:
        self._muxed, self._conn = muxed, muxed.secured_conn
        self._data, self._at = b"", 0
        self._left = 0  # bytes of the frame whose header was given to yamux

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conn, name)

    async def read(self, n: int | None = None) -> bytes:
        while True:
            here = len(self._data) - self._at
            if self._left and here:
                return self._take(min(here, self._left, n or here))
            if not self._left and here >= _FRAME.size:
                _, kind, flags, stream, size = _FRAME.unpack_from(self._data, self._at)
                if kind == 0 and not flags and here >= _FRAME.size + size and self._put(stream, size):
                    continue
                self._left = _FRAME.size + (size if kind == 0 else 0)
                continue
            more = await self._conn.read()
            if not more:
                return b""
            self._data, self._at = (self._data[self._at :] + more if here else more), 0

    def _take(self, size: int) -> bytes:
        self._at += size
        self._left -= size
        return self._data[self._at - size : self._at]

    def _put(self, id_: int, size: int) -> bool:
        """Into the buffer of its stream; False if yamux has more to do about it."""
        stream = self._muxed.streams.get(id_)
        if stream is None or stream.closed or stream.recv_closed or size > stream.recv_window:
            return False
        start = self._at + _FRAME.size
        self._at = start + size
        self._muxed.stream_buffers[id_] += memoryview(self._data)[start : self._at]
        stream.recv_window -= size
        self._muxed.stream_events[id_].set()
        return True


def fix_slow_frames() -> None:
    """A frame of data takes a lock, a timer and 15 lines for a log that nobody reads (yamux.py)."""
    from libp2p.stream_muxer.yamux.yamux import Yamux

    def make(original: Any) -> Any:
        @functools.wraps(original)
        async def handle_incoming(self: Any) -> None:
            self.secured_conn = _Frames(self)
            await original(self)

        return handle_incoming

    _patch(Yamux, "handle_incoming", make)


def fix_logging() -> None:
    """libp2p logs expected ends of streams as warnings and errors, some of them to the root logger."""
    from libp2p.network.connection import swarm_connection

    if not os.environ.get("LIBP2P_DEBUG"):  # libp2p's own switch: who sets it wants to hear
        logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    swarm_connection.logging = logging.getLogger("libp2p.network.connection.swarm_connection")


FIXES: tuple[Callable[[], None], ...] = (
    fix_handler_exceptions,
    fix_inbound_slots,
    fix_cancelled_writes,
    fix_read_credit,
    fix_write_credit,
    fix_pubsub_messages,
    fix_thin_mesh,
    fix_gossip_queues,
    fix_dial_delay,
    fix_read_exactly,
    fix_turns,
    fix_slow_frames,
    fix_logging,
)
_fixing = threading.Lock()


@functools.cache
def install_fixes() -> None:
    """Import libp2p and patch it, once in a process.

    Raises:
        AttributeError: this libp2p is not the one that the work-arounds are for.
    """
    with _fixing, _collecting_later():
        for fix in FIXES:
            fix()
        gc.freeze()  # what was imported stays for ever: a full collection looked at it for 0.2 s, each time


@contextmanager
def _collecting_later() -> Iterator[None]:
    """The garbage collector would spend a third of the import on looking at what stays for ever."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


# --- the host -----------------------------------------------------------------------------------


def _new_host(key: Key, transports: Sequence[Any] = ()) -> Any:
    """A host that speaks Noise and yamux only: the default lists also accept plaintext and mplex."""
    from libp2p import new_host
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
    from libp2p.network.config import ConnectionConfig
    from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
    from libp2p.security.noise.transport import Transport as Noise
    from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
    from libp2p.stream_muxer.yamux.yamux import Yamux

    pair = create_new_key_pair(key.seed)
    host = new_host(
        key_pair=pair,
        sec_opt={NOISE: Noise(pair, noise_privkey=create_noise_key_pair().private_key)},
        muxer_opt={YAMUX: Yamux},
        transports=list(transports) or None,
        resource_manager=_admission(),
        connection_config=ConnectionConfig(
            max_connections=CONNECTIONS_MAX,
            min_connections=OUTBOUND_RESERVED,
            low_watermark=OUTBOUND_RESERVED,  # not below min_connections; nothing fills up to it
            high_watermark=CONNECTIONS_MAX,
            max_connections_per_peer=2,  # one dialled by each side; `_Notifee` holds the peer to that
        ),
    )
    swarm = host.get_network()
    swarm.retry_config.max_retries = 0  # callers retry, and know best when
    _stop_auto_connector(swarm)
    return host


def _stop_auto_connector(swarm: Any) -> None:
    """It dials every peer it ever heard of, up to 200 (auto_connector.py), also with a watermark of 0."""

    async def connect_nobody(*_: object) -> None:
        await trio.lowlevel.checkpoint()

    if not hasattr(swarm.auto_connector, "maybe_connect"):
        raise AttributeError("libp2p has changed: AutoConnector.maybe_connect is gone; see docs/libp2p.md")
    swarm.auto_connector.maybe_connect = connect_nobody


def _admission() -> Any:
    """A resource manager that caps inbound connections per address until they have proved who they are."""
    from libp2p.rcmgr import ResourceManager
    from libp2p.rcmgr.manager import ResourceLimits

    class Admission(ResourceManager):  # type: ignore[misc]  # libp2p carries no types
        def __init__(self) -> None:
            super().__init__(
                limits=ResourceLimits(
                    max_connections=2 * CONNECTIONS_MAX
                ),  # each counts twice in its handshake
                enable_metrics=False,
                enable_memory_limits=False,  # they refuse everybody while the *machine* is short of memory
                enable_circuit_breaker=False,
                enable_graceful_degradation=False,
            )
            self.unauthenticated: dict[str, int] = {}

        def open_connection(
            self, peer_id: Any = None, endpoint_ip: str | None = None, direction: str = "inbound"
        ) -> Any:
            if peer_id is not None or direction != "inbound" or endpoint_ip is None:
                return super().open_connection(peer_id, endpoint_ip, direction)
            if self.unauthenticated.get(endpoint_ip, 0) >= UNAUTHENTICATED_PER_ADDRESS_MAX:
                return None
            scope = super().open_connection(peer_id, endpoint_ip, direction)
            if scope is not None:
                self._count(scope, endpoint_ip)
            return scope

        def _count(self, scope: Any, endpoint_ip: str) -> None:
            self.unauthenticated[endpoint_ip] = self.unauthenticated.get(endpoint_ip, 0) + 1
            close = scope.close

            def close_and_uncount() -> None:
                if not scope.closed:
                    left = self.unauthenticated[endpoint_ip] - 1
                    self.unauthenticated.pop(endpoint_ip)
                    if left:
                        self.unauthenticated[endpoint_ip] = left
                close()

            scope.close = close_and_uncount

    return Admission()


def _listen_addresses(texts: Iterable[str], *, check: bool = True) -> list[Any]:
    """Read addresses, and check that their ports are free: libp2p shares a port in use silently (tcp.py)."""
    from multiaddr import Multiaddr
    from multiaddr.exceptions import Error as MultiaddrError

    try:
        addresses = [Multiaddr(text) for text in texts]
    except (MultiaddrError, ValueError) as exc:
        raise InvalidInput(f"not an address to listen at: {exc}") from exc
    for address in addresses if check else ():
        _check_free({part.name: address.value_for_protocol(part.name) for part in address.protocols()})
    return addresses


def _check_free(parts: dict[str, Any]) -> None:
    host, port = parts.get("ip4") or parts.get("ip6"), int(parts.get("tcp") or 0)
    if host is None or not port:
        return
    with socket.socket(socket.AF_INET6 if "ip6" in parts else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))  # without SO_REUSEPORT, which libp2p sets
        except OSError as exc:
            raise InvalidInput(f"cannot listen at {host} port {port}: {exc.strerror}") from exc


async def _close_host(host: Any) -> None:
    """Leaving `host.run()` leaves ports and sockets open, and `host.close()` takes 0.2 s per connection.

    Close the connections side by side, then the host, while nothing may cancel it.
    """
    with trio.CancelScope(deadline=trio.current_time() + CLOSE_GRACE_S, shield=True):
        async with trio.open_nursery() as nursery:
            for connection in host.get_network().get_connections():
                nursery.start_soon(_close_quietly, connection)
        await host.close()


async def _close_quietly(connection: Any) -> None:
    with suppress(Exception):
        await connection.close()


class _Libp2pStream:
    """A libp2p stream as a channel's byte stream: seven kinds of exception become one."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    @property
    def remote_host(self) -> str:
        """The address that the peer speaks from, without its port; "" where the transport does not tell."""
        with suppress(Exception):
            remote = self.stream.get_remote_address()
            return str(remote[0]) if remote else ""
        return ""

    @property
    def is_overrun(self) -> bool:
        """Whether the peer has sent more than its window, which yamux only logs."""
        muxed = self.stream.muxed_stream
        return len(muxed.conn.stream_buffers.get(muxed.stream_id, b"")) > OVERRUN_SIZE

    async def read(self) -> bytes:
        from libp2p.network.stream.exceptions import StreamEOF

        try:
            data = await self._waiting_data()
            if not data:
                data = await self.stream.read(READ_SIZE_MAX)
        except StreamEOF:
            return b""
        except Exception as exc:
            raise Broken(f"libp2p: {exc!r}") from exc
        return data

    async def _waiting_data(self) -> bytes:
        """What has come, with no lock and no turn lost; empty when libp2p has more to say about it."""
        muxed = self.stream.muxed_stream
        conn, id_ = muxed.conn, muxed.stream_id
        while not (muxed.closed or muxed.recv_closed or conn.event_shutting_down.is_set()):
            event, buffer = conn.stream_events.get(id_), conn.stream_buffers.get(id_)
            if event is None or buffer is None:
                break
            if event.is_set():
                conn.stream_events[id_] = trio.Event()
            if buffer:
                data = bytes(buffer[:READ_SIZE_MAX])
                del buffer[:READ_SIZE_MAX]
                await muxed._auto_tune_and_send_window_update(bytes_read=len(data))
                if buffer:  # others may have their turn
                    await trio.lowlevel.cancel_shielded_checkpoint()
                return data
            await conn.stream_events[id_].wait()
        return b""

    async def write(self, data: bytes) -> None:
        try:
            await self.stream.write(data)
        except Exception as exc:
            raise Broken(f"libp2p: {exc!r}") from exc

    async def aclose(self) -> None:
        with suppress(Exception):
            await self.stream.close()


# --- the network --------------------------------------------------------------------------------


class Libp2pNetwork(LinkedNetwork):
    """A peer on real sockets; open it with `open_network`."""

    def __init__(
        self, key: Key, context: Context, nursery: trio.Nursery, transports: Sequence[Any] = ()
    ) -> None:
        from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
        from libp2p.peer.id import ID
        from libp2p.pubsub.gossipsub import GossipSub
        from libp2p.pubsub.pubsub import Pubsub

        super().__init__(key.peer_id, context, nursery)
        self._id = ID.from_base58
        self._host = _new_host(key, transports)
        self._check_ports = not transports
        self._host.set_stream_handler(CHANNEL_PROTOCOL, self._accept)
        self._swarm = self._host.get_network()
        self._gossip = GossipSub(
            [GOSSIP_PROTOCOL],
            degree=6,
            degree_low=4,
            degree_high=12,
            heartbeat_interval=1,  # the default of 120 s leaves a new subscriber out for two minutes
            spam_protection_enabled=False,  # it drops all above 10 messages/s, our own included
            eclipse_protection_enabled=False,  # it wants three different addresses in every mesh
        )
        self._pubsub = Pubsub(self._host, self._gossip)
        self._dht = KadDHT(self._host, DHTMode.SERVER)
        if not hasattr(self._dht, "_provider_rate_max"):
            raise AttributeError("libp2p has changed: KadDHT._provider_rate_max is gone; see docs/libp2p.md")
        self._dht._provider_rate_max = 1000  # 10 records in 10 s are stored, the rest dropped as if stored
        self._topics: dict[str, list[Feed[Published]]] = {}
        self._topic_lock = trio.Lock()
        self._stop = trio.Event()
        self._stopped = trio.Event()
        self._swarm.register_notifee(_notifee(self))

    @property
    def addresses(self) -> tuple[str, ...]:
        """Multiaddrs at which we listen, each ending in ``/p2p/<peer id>``."""
        return tuple(str(address) for address in self._host.get_addrs())

    # --- life -----------------------------------------------------------------------------------

    async def _run_host(self, listen: tuple[str, ...], task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Host and services in one task, so that their nurseries never wrap the user's exception."""
        from libp2p.tools.anyio_service import background_trio_service

        started = False
        try:
            addresses = _listen_addresses(listen, check=self._check_ports)
            async with self._host.run(addresses):
                async with (
                    background_trio_service(self._pubsub),
                    background_trio_service(self._gossip),
                    background_trio_service(self._dht),
                ):
                    await self._pubsub.wait_until_ready()
                    try:
                        if started := bool(self._host.get_addrs()) or not addresses:
                            task_status.started()
                            await self._stop.wait()
                    finally:
                        await _close_host(self._host)
            if not started:
                raise InvalidInput(f"cannot listen at {', '.join(listen)}")
        except Exception:
            if not started:
                raise
            if not self._closed:
                log.exception("the libp2p host failed; this network is closed")
        finally:
            self._pubsub.seen_messages.stop()  # its thread, which nobody else ends
            self._stopped.set()
            await self._close()

    async def _close(self) -> None:
        if self._closed:
            return
        await super()._close()
        for feeds in self._topics.values():
            for feed in feeds:
                feed.close()
        self._stop.set()
        with trio.CancelScope(deadline=trio.current_time() + 2 * CLOSE_GRACE_S, shield=True):
            await self._stopped.wait()

    # --- connections ----------------------------------------------------------------------------

    async def _accept(self, stream: Any) -> None:
        """A peer has opened a stream for a channel; libp2p forgets the stream when this returns."""
        peer = str(stream.muxed_conn.peer_id)
        try:
            public_from_peer_id(peer)
        except InvalidInput:  # only Ed25519 peers take part
            await stream.reset()
            return
        if not self._closed:
            link = self._adopt(peer, _Libp2pStream(stream), ours=False)
            await link.closed.wait()

    async def _open_stream(self, peer: PeerId, addresses: tuple[str, ...]) -> ByteStream:
        id_ = self._id(peer)
        if connections := self._live_connections(id_):
            try:
                return await self._open_channel(id_)
            except Unreachable:  # half-open, or closing: dial anew
                for connection in connections:
                    self._nursery.start_soon(_close_quietly, connection)
        with suppress(Exception):  # what identify and the DHT have heard
            addresses = (*addresses, *map(str, self._host.get_peerstore().addrs(id_)))
        if not addresses:
            raise Unreachable(f"no address of {peer} is known: connect to it, or add_addresses")
        await self._dial_addresses(id_, tuple(dict.fromkeys(addresses)))
        return await self._open_channel(id_)

    async def _open_channel(self, id_: Any) -> ByteStream:
        try:
            return _Libp2pStream(await self._host.new_stream(id_, [CHANNEL_PROTOCOL]))
        except Exception as exc:
            raise Unreachable(f"no channel with {id_}: {exc}") from exc

    async def _dial_addresses(self, id_: Any, addresses: tuple[str, ...]) -> None:
        """The first address that answers wins. libp2p's own `dial_peer` tries one TCP address only."""
        faults: list[str] = []
        async with trio.open_nursery() as nursery:

            async def dial(address: str, failed: trio.Event) -> None:
                from multiaddr import Multiaddr

                try:
                    await self._swarm.dial_addr(Multiaddr(address), id_)
                    nursery.cancel_scope.cancel()
                except Exception as exc:
                    faults.append(f"{address}: {exc.__cause__ or exc}")
                    failed.set()

            for address in addresses:
                failed = trio.Event()
                nursery.start_soon(dial, address, failed)
                with trio.move_on_after(DIAL_STAGGER_S):
                    await failed.wait()
        if not self._live_connections(id_):
            raise Unreachable("; ".join(faults) or "the connection ended at once")
        # A failed dial by gossip or the DHT blacklists a peer for 60 s, though it is up again (swarm.py).
        self._swarm._negative_peer_cache.evict(str(id_))

    def _live_connections(self, id_: Any) -> list[Any]:
        return [connection for connection in self._swarm.get_connections(id_) if not connection.is_closed]

    def _forget(self, link: PeerLink) -> None:
        """A link's end takes its connection along: a dead one would be tried again and again."""
        super()._forget(link)
        if not self._closed:
            self._nursery.start_soon(self._close_unused, link)

    async def _close_unused(self, link: PeerLink) -> None:
        await link.closed.wait()
        connection = _connection(link)
        if all(_connection(other) is not connection for other in (*self._links.values(), *self._retired)):
            await _close_quietly(connection)

    async def _connected(self, connection: Any) -> None:
        """libp2p has a new connection: hold the peer to one of each direction, tell the DHT."""
        id_ = connection.muxed_conn.peer_id
        for other in self._live_connections(id_):
            if other is not connection and other.direction == connection.direction:
                self._nursery.start_soon(_close_quietly, other)
        self._nursery.start_soon(self._fill_routing_table, id_)
        self._nursery.start_soon(self._greet_again, connection)
        await trio.lowlevel.checkpoint()

    async def _fill_routing_table(self, id_: Any) -> None:
        """Nobody else does: the DHT's routing table stays empty for 600 s (kad_dht.py)."""
        for delay in ROUTING_RETRIES_S:
            await trio.sleep(delay)
            if self._closed or not self._live_connections(id_):
                return
            with suppress(Exception):
                if await self._dht.routing_table.add_peer(id_):
                    return

    async def _greet_again(self, connection: Any) -> None:
        """Tell a peer our topics more than once, since libp2p loses them (pubsub.py).

        A topic joined while the peer is being greeted is never announced to it. After a reconnection the
        end of the old connection makes the peer forget what it was told over the new one, or leaves us
        with the old one's stream.
        """
        id_ = connection.muxed_conn.peer_id
        for delay in itertools.chain(GREETINGS_S, itertools.repeat(GREETING_INTERVAL_S)):
            await trio.sleep(delay)
            if self._closed or connection.is_closed:
                return
            queue = self._pubsub.peer_queues.get(id_)
            if queue is None:
                with suppress(Exception):
                    await self._pubsub.ensure_peer_stream(id_, delay)
            elif self._pubsub.topic_ids:
                queue.push(self._pubsub.get_hello_packet())  # if its stream is dead, this finds out

    async def _in_background(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run what touches libp2p's streams in a task of ours: its user may be cancelled, it may not."""
        self._check_open()
        done, results, faults = trio.Event(), list[T](), list[Exception]()

        async def run() -> None:
            try:
                results.append(await function(*args))
            except Exception as exc:
                faults.append(exc)
            finally:
                done.set()

        self._nursery.start_soon(run)
        await done.wait()
        self._check_open()
        if faults:
            raise Broken(f"libp2p: {faults[0]!r}") from faults[0]
        return results[0]

    # --- gossip ---------------------------------------------------------------------------------

    async def publish(self, topic: str, data: bytes) -> None:
        """Best effort, to whoever subscribed; a few messages a second at most."""
        await self._in_background(self._pubsub.publish, topic, data)

    @asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[AsyncIterator[Published]]:
        """Messages on a topic, ours excluded. A slow reader loses the oldest."""
        feed: Feed[Published] = Feed(PUBLISHED_QUEUE_MAX)
        self._check_open()
        self._topics.setdefault(topic, []).append(feed)
        try:
            await self._in_background(self._update_subscription, topic)
            yield feed
        finally:
            self._topics[topic].remove(feed)
            if not self._topics[topic]:
                del self._topics[topic]
                if not self._closed:
                    self._nursery.start_soon(self._update_subscription, topic)

    async def _update_subscription(self, topic: str) -> None:
        """Subscribe or unsubscribe in libp2p, as our own subscribers want it now."""
        async with self._topic_lock:
            wanted, subscribed = topic in self._topics, topic in self._pubsub.topic_ids
            if wanted and not subscribed:
                subscription = await self._pubsub.subscribe(topic)
                self._nursery.start_soon(self._pump, topic, subscription)
            elif subscribed and not wanted:
                await self._pubsub.unsubscribe(topic)

    async def _pump(self, topic: str, subscription: Any) -> None:
        from libp2p.peer.id import ID

        async for message in subscription:
            sender = str(ID(message.from_id))
            if sender != self.peer_id:
                for feed in self._topics.get(topic, ()):
                    feed.put(Published(topic, message.data, sender))

    # --- provider records -----------------------------------------------------------------------

    async def provide(self, key: bytes) -> None:
        """Announce in the DHT that we have `key`."""
        await self._in_background(self._dht.provide, key.hex())

    async def find_providers(self, key: bytes, *, limit: int = 20) -> list[PeerId]:
        """Peers that announced `key`, with their addresses remembered."""
        return (await self._in_background(self._ask_for_providers, key))[:limit]

    async def _ask_for_providers(self, key: bytes) -> list[PeerId]:
        """libp2p's own look-up answers from what it heard once, for 48 h, without asking anybody."""
        store = self._dht.provider_store
        found: dict[PeerId, tuple[str, ...]] = {}

        def note(providers: Iterable[Any]) -> None:
            for provider in providers:
                addresses = tuple(f"{address}" for address in provider.addrs)
                found[str(provider.peer_id)] = addresses or found.get(str(provider.peer_id), ())

        async def ask(id_: Any) -> None:
            with suppress(Exception):
                providers, _closer = await store._get_providers_from_peer_with_closers(id_, key)
                note(providers)

        note(store.get_providers(key))
        with trio.move_on_after(FIND_TIMEOUT_S):
            closest = await self._dht.peer_routing.find_closest_peers_network(key)
            async with trio.open_nursery() as nursery:
                for id_ in closest:
                    if str(id_) != self.peer_id:
                        nursery.start_soon(ask, id_)
        found.pop(self.peer_id, None)
        for peer, addresses in found.items():
            self.add_addresses(peer, tuple(_with_peer(address, peer) for address in addresses))
        return list(found)


def _connection(link: PeerLink) -> Any:
    """The libp2p connection that carries a link."""
    assert isinstance(link.wire, _Libp2pStream)
    return link.wire.stream.swarm_conn


def _with_peer(address: str, peer: PeerId) -> str:
    return address if "/p2p/" in address else f"{address}/p2p/{peer}"


def _notifee(network: Libp2pNetwork) -> Any:
    """Tells `network` of new connections."""
    from libp2p.abc import INotifee

    class Notifee(INotifee):  # type: ignore[misc]  # libp2p carries no types
        async def connected(self, network_: Any, conn: Any) -> None:
            await network._connected(conn)

        async def disconnected(self, network_: Any, conn: Any) -> None: ...
        async def opened_stream(self, network_: Any, stream: Any) -> None: ...
        async def closed_stream(self, network_: Any, stream: Any) -> None: ...
        async def listen(self, network_: Any, multiaddr: Any) -> None: ...
        async def listen_close(self, network_: Any, multiaddr: Any) -> None: ...

    return Notifee()


@asynccontextmanager
async def open_network(
    key: Key,
    listen: tuple[str, ...] = LISTEN_DEFAULT,
    *,
    bootstrap: Iterable[str] = (),
    context: Context | None = None,
    transports: Sequence[Any] = (),
) -> AsyncIterator[Libp2pNetwork]:
    """Join the network as the peer of `key`.

    Peers of `bootstrap` are dialled at once and again when they are lost; none of them needs to be up.
    `transports` are libp2p's `ITransport`s to use instead of TCP sockets; a simulation has one of its own.

    Raises:
        InvalidInput: an address cannot be listened at, or is no address.
    """
    if transports:
        install_fixes()  # virtual time would run on, or end, while a thread imports
    else:
        await trio.to_thread.run_sync(install_fixes)
    async with background() as nursery:
        network = Libp2pNetwork(key, context or Context.system(), nursery, transports)
        await nursery.start(network._run_host, tuple(listen))
        try:
            await network.bootstrap(bootstrap)
            yield network
        finally:
            await network._close()
