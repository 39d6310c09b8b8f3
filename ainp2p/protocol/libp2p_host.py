"""A libp2p host as we use it: Noise and yamux, few connections per address, closed quickly; and its streams.

libp2p is given arguments here, each with its reason; what has to be patched in it is in `libp2p_fixes`.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import trio

from ainp2p.errors import Broken, InvalidInput
from ainp2p.protocol.identity import Key
from ainp2p.protocol.libp2p_fixes import READ_SIZE_MAX, WINDOW_SIZE_MAX

CONNECTIONS_MAX = 512
OUTBOUND_RESERVED = 64  # of those, places that inbound connections never take
UNAUTHENTICATED_PER_ADDRESS_MAX = 16  # silent sockets from one address otherwise shut a host (E1)
CLOSE_GRACE_S = 2.0
OVERRUN_SIZE = 2 * WINDOW_SIZE_MAX


def new_host(key: Key, transports: Sequence[Any] = ()) -> Any:
    """A host that speaks Noise and yamux only: the default lists also accept plaintext and mplex."""
    import libp2p
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
    from libp2p.network.config import ConnectionConfig
    from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
    from libp2p.security.noise.transport import Transport as Noise
    from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
    from libp2p.stream_muxer.yamux.yamux import Yamux

    pair = create_new_key_pair(key.seed)
    host = libp2p.new_host(
        key_pair=pair,
        sec_opt={NOISE: Noise(pair, noise_privkey=create_noise_key_pair().private_key)},
        muxer_opt={YAMUX: Yamux},
        transports=list(transports) or None,
        resource_manager=admission(),
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


def admission() -> Any:
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


def listen_addresses(texts: Iterable[str], *, check: bool = True) -> list[Any]:
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


async def close_host(host: Any) -> None:
    """Leaving `host.run()` leaves ports and sockets open, and `host.close()` takes 0.2 s per connection.

    Close the connections side by side, then the host, while nothing may cancel it.
    """
    with trio.CancelScope(deadline=trio.current_time() + CLOSE_GRACE_S, shield=True):
        async with trio.open_nursery() as nursery:
            for connection in host.get_network().get_connections():
                nursery.start_soon(close_quietly, connection)
        await host.close()


async def close_quietly(connection: Any) -> None:
    """Close a connection, whatever is wrong with it."""
    with suppress(Exception):
        await connection.close()


class Libp2pStream:
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
        """What comes next; empty at the end."""
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
        """Hand all of it to the transport."""
        try:
            await self.stream.write(data)
        except Exception as exc:
            raise Broken(f"libp2p: {exc!r}") from exc

    async def aclose(self) -> None:
        """Say that no more comes, whatever is wrong with it."""
        with suppress(Exception):
            await self.stream.close()
