"""Work-arounds for libp2p 0.8.1, installed once in a process, before the first host.

Each is a function `fix_…` that names the defect, refuses to patch what has changed, and may be called again.
Each has a test that tells when it is needless (tests/protocol/test_libp2p.py) and a line in docs/libp2p.md.
"""

from __future__ import annotations

import functools
import gc
import logging
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import trio

log = logging.getLogger(__name__)

READ_SIZE_MAX = 65_536
WINDOW_SIZE_MAX = 1 << 20  # bytes of one stream that may wait to be read; 20 MB/s at 50 ms
WRITE_STALL_S = 20.0  # a frame that the kernel does not take for so long ends the connection
GOSSIP_QUEUE_MAX = 1024

_FRAME = struct.Struct("!BBHII")  # yamux's header: version, kind, flags, stream, length


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
