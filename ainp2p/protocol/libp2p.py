"""The Network over py-libp2p: TCP, Noise, yamux, Kademlia and gossipsub.

py-libp2p is used as a secure wire: one stream to each peer carries our channel; gossipsub and the DHT do
announcements and look-ups. It is imported when the first network is opened (0.9 s, 90 MB), in a thread.

Only this module, `libp2p_host` (how a host is made and ended) and `libp2p_fixes` (what is patched in it)
import libp2p. Every work-around for libp2p 0.8.1 is in one of the three, and has a line in docs/libp2p.md.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import trio

from ainp2p.errors import Broken, InvalidInput, Unreachable
from ainp2p.protocol.background import background
from ainp2p.protocol.context import Context
from ainp2p.protocol.identity import Key, public_from_peer_id
from ainp2p.protocol.libp2p_fixes import install_fixes
from ainp2p.protocol.libp2p_host import (
    CLOSE_GRACE_S,
    Libp2pStream,
    close_host,
    close_quietly,
    listen_addresses,
    new_host,
)
from ainp2p.protocol.linked_network import PUBLISHED_QUEUE_MAX, Feed, LinkedNetwork
from ainp2p.protocol.network import PeerId, Published
from ainp2p.protocol.peer_link import ByteStream, PeerLink

log = logging.getLogger(__name__)

CHANNEL_PROTOCOL = "/ainp2p/channel/1"
GOSSIP_PROTOCOL = "/meshsub/1.1.0"
LISTEN_DEFAULT = ("/ip4/127.0.0.1/tcp/0",)

DIAL_STAGGER_S = 0.25  # head start of each address over the next (RFC 8305 §5 recommends 250 ms)
FIND_TIMEOUT_S = 3.0
GREETINGS_S = (0.3, 0.7, 2.0, 5.0)  # our topics are told again so long after a connection came up,
GREETING_INTERVAL_S = 30.0  # and then as often as this
ROUTING_RETRIES_S = (0.1, 0.4, 1.5, 5.0)  # identify tells a peer's addresses after so long, usually

T = TypeVar("T")


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
        self._host = new_host(key, transports)
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
            addresses = listen_addresses(listen, check=self._check_ports)
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
                        await close_host(self._host)
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
            link = self._adopt(peer, Libp2pStream(stream), ours=False)
            await link.closed.wait()

    async def _open_stream(self, peer: PeerId, addresses: tuple[str, ...]) -> ByteStream:
        id_ = self._id(peer)
        if connections := self._live_connections(id_):
            try:
                return await self._open_channel(id_)
            except Unreachable:  # half-open, or closing: dial anew
                for connection in connections:
                    self._nursery.start_soon(close_quietly, connection)
        with suppress(Exception):  # what identify and the DHT have heard
            addresses = (*addresses, *map(str, self._host.get_peerstore().addrs(id_)))
        if not addresses:
            raise Unreachable(f"no address of {peer} is known: connect to it, or add_addresses")
        await self._dial_addresses(id_, tuple(dict.fromkeys(addresses)))
        return await self._open_channel(id_)

    async def _open_channel(self, id_: Any) -> ByteStream:
        try:
            return Libp2pStream(await self._host.new_stream(id_, [CHANNEL_PROTOCOL]))
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
            await close_quietly(connection)

    async def _connected(self, connection: Any) -> None:
        """libp2p has a new connection: hold the peer to one of each direction, tell the DHT."""
        id_ = connection.muxed_conn.peer_id
        for other in self._live_connections(id_):
            if other is not connection and other.direction == connection.direction:
                self._nursery.start_soon(close_quietly, other)
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
    assert isinstance(link.wire, Libp2pStream)
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
