"""What both networks have in common: one link per peer, dialled once, handlers, watchers, addresses.

A network derives from `LinkedNetwork` and adds how a byte stream to a peer is opened, and gossip and
provider records. Not public: code above knows only the `Network` interface.

When two peers dial each other at the same time, two links appear. Both sides keep for new calls the one
that the peer with the smaller id has opened; the other serves what runs on it and is closed once it is
idle. A link that appears long after the other one means that the peer has lost that one: it is replaced.
"""

from __future__ import annotations

import functools
import ipaddress
import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Generic, TypeVar

import trio

from ainp2p.errors import Broken, Closed, Error, InvalidInput, NetworkError, Unreachable
from ainp2p.protocol.context import Context
from ainp2p.protocol.identity import public_from_peer_id
from ainp2p.protocol.network import REQUEST_TIMEOUT_S, Chunks, Handler, PeerChange, PeerId, Published
from ainp2p.protocol.peer_link import CLOSE_GRACE_S, ByteStream, PeerLink

DIAL_TIMEOUT_S = 10.0
CROSSING_S = 5.0  # links opened by both sides within this time: a simultaneous dial
RETIRED_IDLE_S = 5.0  # a link that lost a simultaneous dial is looked at so often, and closed when idle
REDIAL_S = 5.0  # between attempts to find lost bootstrap peers again, half to one and a half times
REDIALS_WHEN_ALONE = 4  # remembered peers tried in each such round when nobody is connected
PEERS_REMEMBERED_MAX = 4096
ADDRESSES_PER_PEER_MAX = 16
PUBLISHED_QUEUE_MAX = 1024  # messages that a slow reader of a topic may lag behind

T = TypeVar("T")


class Feed(Generic[T]):
    """Items for one reader, who may be slow: the oldest are lost beyond `size_max`."""

    __slots__ = ("_closed", "_items", "_reader", "_size_max")

    def __init__(self, size_max: float = math.inf) -> None:
        self._items: list[T] = []  # nearly always empty, and then a sixth of a deque
        self._size_max = size_max
        self._reader: trio.lowlevel.Task | None = None  # waits for the next item
        self._closed = False

    def put(self, item: T) -> None:
        """Hand an item to the reader; above the limit the oldest is lost."""
        self._items.append(item)
        if len(self._items) > self._size_max:
            self._items.pop(0)
        self._wake()

    def replace(self, item: T, outdated: T) -> None:
        """Put `item`; `outdated` is of no interest any more if it was not read yet."""
        if outdated in self._items:
            self._items.remove(outdated)
        self.put(item)

    def close(self) -> None:
        """The reader's iteration ends after what is there."""
        self._closed = True
        self._wake()

    def __aiter__(self) -> Feed[T]:
        return self

    async def __anext__(self) -> T:
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._items:
            if self._closed:
                raise Closed("the network was closed")
            if self._reader is not None:
                raise trio.BusyResourceError("another task is already waiting for these items")
            self._reader = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._stop_waiting)
        item = self._items.pop(0)
        await trio.lowlevel.cancel_shielded_checkpoint()
        return item

    def _wake(self) -> None:
        if self._reader is not None:
            reader, self._reader = self._reader, None
            trio.lowlevel.reschedule(reader)

    def _stop_waiting(self, _: object) -> trio.lowlevel.Abort:
        self._reader = None
        return trio.lowlevel.Abort.SUCCEEDED


class LinkedNetwork(ABC):
    """A Network over links; lives as long as its nursery."""

    def __init__(self, peer_id: PeerId, context: Context, nursery: trio.Nursery) -> None:
        self._peer_id, self._context, self._nursery = peer_id, context, nursery
        self._handlers: dict[str, Handler] = {}
        self._links: dict[PeerId, PeerLink] = {}  # the one for new calls
        self._retired: list[PeerLink] = []
        self._dials: dict[PeerId, _Dial] = {}
        self._known: OrderedDict[PeerId, tuple[str, ...]] = OrderedDict()
        self._watchers: list[Feed[PeerChange]] = []
        self._closed = False

    @property
    def peer_id(self) -> PeerId:
        """Our own peer id."""
        return self._peer_id

    @property
    def context(self) -> Context:
        """Clock and randomness."""
        return self._context

    @property
    @abstractmethod
    def addresses(self) -> tuple[str, ...]:
        """Where we can be dialled."""

    @abstractmethod
    async def _open_stream(self, peer: PeerId, addresses: tuple[str, ...]) -> ByteStream:
        """Dial; raises NetworkError."""

    # --- calls ----------------------------------------------------------------------------------

    def serve(self, protocol: str, handler: Handler) -> None:
        """Answer calls to `protocol` from now on.

        Raises:
            InvalidInput: it has a handler already.
            Closed: this network was closed.
        """
        self._check_open()
        if protocol in self._handlers:
            raise InvalidInput(f"{protocol} is already served on this network")
        self._handlers[protocol] = handler

    async def request(
        self, peer: PeerId, protocol: str, body: bytes, *, timeout_s: float = REQUEST_TIMEOUT_S
    ) -> bytes:
        """One question, one answer."""
        link = self._links.get(peer)
        if link is None:
            start = trio.current_time()
            link = await self._linked(peer, timeout_s)
            timeout_s -= trio.current_time() - start
        return await link.request(protocol, body, timeout_s)

    @asynccontextmanager
    async def stream(
        self, peer: PeerId, protocol: str, body: bytes, *, timeout_s: float = REQUEST_TIMEOUT_S
    ) -> AsyncIterator[Chunks]:
        """One question, many chunks."""
        link = self._links.get(peer) or await self._linked(peer, timeout_s)
        async with link.stream(protocol, body, timeout_s) as chunks:
            yield chunks

    async def send(self, peer: PeerId, protocol: str, body: bytes) -> None:
        """One-way."""
        link = self._links.get(peer) or await self._linked(peer, DIAL_TIMEOUT_S)
        await link.send(protocol, body)

    # --- peers ----------------------------------------------------------------------------------

    async def connect(self, address: str, *, timeout_s: float = REQUEST_TIMEOUT_S) -> PeerId:
        """Dial a multiaddr that ends in ``/p2p/<peer id>``."""
        peer = peer_of(address)
        self.add_addresses(peer, (address,))
        await self._linked(peer, timeout_s)
        return peer

    def add_addresses(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        """Remember where a peer can be dialled; the newest are tried first."""
        if peer == self._peer_id or not addresses:
            return
        merged = dict.fromkeys((*addresses, *self._known.pop(peer, ())))
        self._known[peer] = tuple(merged)[:ADDRESSES_PER_PEER_MAX]
        if len(self._known) > PEERS_REMEMBERED_MAX:
            self._known.popitem(last=False)

    def peers(self) -> tuple[PeerId, ...]:
        """Peers with a live channel, sorted."""
        return tuple(sorted(self._links))

    def place_of(self, peer: PeerId) -> str:
        """Where a connected peer speaks from, as a prefix (/24 of IPv4, /48 of IPv6); "" if nobody knows."""
        link = self._links.get(peer)
        return place_prefix(getattr(link.wire, "remote_host", "")) if link is not None else ""

    def hold_back(self, peer: PeerId, for_s: float) -> None:
        """Read nothing from a peer for so long: what it sends stays with it."""
        for link in (*self._retired, *self._links.values()):
            if link.peer == peer:
                link.hold_back(for_s)

    def read_on(self, peer: PeerId) -> None:
        """The peer need not be held back any more."""
        for link in (*self._retired, *self._links.values()):
            if link.peer == peer:
                link.read_on()

    @asynccontextmanager
    async def watch_peers(self) -> AsyncIterator[AsyncIterator[PeerChange]]:
        """Peers that come and go: first those connected now, then each change."""
        self._check_open()
        feed: Feed[PeerChange] = Feed()
        for peer in self.peers():
            feed.put(PeerChange(peer, connected=True))
        self._watchers.append(feed)
        try:
            yield feed
        finally:
            self._watchers.remove(feed)

    async def disconnect(self, peer: PeerId) -> None:
        """Close the channel to a peer; no error if there is none."""
        links = [link for link in (*self._retired, *self._links.values()) if link.peer == peer]
        for link in links:
            link.close(Broken("disconnected"))
        for link in links:
            await link.closed.wait()
        await trio.lowlevel.checkpoint()

    @property
    def known_addresses(self) -> dict[PeerId, tuple[str, ...]]:
        """Peers and where they were last known to be; worth keeping for the next start."""
        return dict(self._known)

    async def bootstrap(self, addresses: Iterable[str]) -> None:
        """Dial these peers, wait for the first or for all to fail, and keep dialling those that are lost.

        Raises:
            InvalidInput: one of them is not an address that ends in ``/p2p/<peer id>``.
        """
        peers = [peer_of(address) for address in addresses]
        for peer, address in zip(peers, addresses, strict=True):
            self.add_addresses(peer, (address,))
        others = [peer for peer in dict.fromkeys(peers) if peer != self._peer_id]
        if not others:
            return
        connected, failed = trio.Event(), list[PeerId]()

        async def dial(peer: PeerId) -> None:
            try:
                await self._linked(peer, DIAL_TIMEOUT_S)
            except Error:
                failed.append(peer)
            if len(failed) in (0, len(others)) or peer not in failed:
                connected.set()

        for peer in others:
            self._nursery.start_soon(dial, peer)
        self._nursery.start_soon(self._stay_connected, others)
        await connected.wait()

    async def _stay_connected(self, peers: list[PeerId]) -> None:
        """Dial lost bootstrap peers again; when alone, some remembered peers too."""
        while not self._closed:
            await trio.sleep(REDIAL_S * (0.5 + self._context.rng.random()))
            wanted = [peer for peer in peers if peer not in self._links]
            if not self._links:
                strangers = [peer for peer in self._known if peer not in peers]
                self._context.rng.shuffle(strangers)
                wanted += strangers[:REDIALS_WHEN_ALONE]
            for peer in wanted:
                if peer not in self._links and peer not in self._dials and not self._closed:
                    dial = self._dials[peer] = _Dial()
                    self._nursery.start_soon(self._dial, peer, dial)

    # --- gossip and provider records: each network's own ----------------------------------------

    @abstractmethod
    async def publish(self, topic: str, data: bytes) -> None:
        """Best effort, to whoever subscribed."""

    @abstractmethod
    def subscribe(self, topic: str) -> AbstractAsyncContextManager[AsyncIterator[Published]]:
        """Messages on a topic, ours excluded."""

    @abstractmethod
    async def provide(self, key: bytes) -> None:
        """Announce that we have `key`."""

    @abstractmethod
    async def find_providers(self, key: bytes, *, limit: int = 20) -> list[PeerId]:
        """Peers that announced `key`."""

    # --- links ----------------------------------------------------------------------------------

    async def _linked(self, peer: PeerId, timeout_s: float) -> PeerLink:
        """The link to a peer, dialled if need be. One dial serves all who wait for it."""
        self._check_open()
        if peer == self._peer_id:
            raise Unreachable("that is this peer itself")
        with trio.move_on_after(timeout_s):
            while (link := self._links.get(peer)) is None:
                dial = self._dials.get(peer)
                if dial is None:
                    dial = self._dials[peer] = _Dial()
                    self._nursery.start_soon(self._dial, peer, dial)
                await dial.done.wait()
                self._check_open()
                if dial.fault is not None:
                    raise Unreachable(f"{peer}: {dial.fault}") from dial.fault
            return link
        raise Unreachable(f"no connection to {peer} within {timeout_s:g} s")

    async def _dial(self, peer: PeerId, dial: _Dial) -> None:
        addresses = self._known.get(peer, ())
        try:
            with trio.fail_after(DIAL_TIMEOUT_S):
                stream = await self._open_stream(peer, addresses)
            self._adopt(peer, stream, ours=True)
        except trio.TooSlowError:
            dial.fault = Unreachable(f"did not answer within {DIAL_TIMEOUT_S:g} s")
        except Error as fault:
            dial.fault = fault
        except trio.Cancelled:  # who waits must not dial again and again in a nursery that ends
            dial.fault = Unreachable("this network is being closed")
            raise
        finally:
            if self._dials.get(peer) is dial:
                del self._dials[peer]
            dial.done.set()

    def _adopt(self, peer: PeerId, stream: ByteStream, *, ours: bool) -> PeerLink:
        """Make a link of a stream that either side has opened, and choose which one is for new calls."""
        link = PeerLink(peer, stream, self._handlers, ours=ours, on_close=self._forget)
        old = self._links.get(peer)
        if old is None:
            self._links[peer] = link
            self._tell(peer, connected=True)
        elif old.ours == ours or link.opened_at - old.opened_at > CROSSING_S:
            self._links[peer] = link
            old.close(Broken("connected anew"))
        else:
            keep = link if ours == (self._peer_id < peer) else old
            self._links[peer] = keep
            self._retire(old if keep is link else link)
        self._nursery.start_soon(link.run)
        if (dial := self._dials.pop(peer, None)) is not None:
            dial.done.set()
        return link

    def _retire(self, link: PeerLink) -> None:
        for other in [other for other in self._retired if other.peer == link.peer]:
            other.close(Broken("connected anew"))  # one per peer, however often it crosses us
        self._retired.append(link)
        self._nursery.start_soon(self._close_when_idle, link)

    def _forget(self, link: PeerLink) -> None:
        """A link is over: new calls go over another one, or dial."""
        if link in self._retired:
            self._retired.remove(link)
        if self._links.get(link.peer) is link:
            spare = next((other for other in self._retired if other.peer == link.peer), None)
            if spare is not None:
                self._retired.remove(spare)
                self._links[link.peer] = spare
            else:
                del self._links[link.peer]
                self._tell(link.peer, connected=False)

    async def _close_when_idle(self, link: PeerLink) -> None:
        while link in self._retired:
            with trio.move_on_after(RETIRED_IDLE_S):
                await link.closed.wait()
            if link in self._retired and link.idle:
                link.close(Broken("another connection with this peer is in use"))
                return

    def _tell(self, peer: PeerId, *, connected: bool) -> None:
        for watcher in self._watchers:  # unread news of this peer are outdated: the queue stays bounded
            watcher.replace(PeerChange(peer, connected), PeerChange(peer, not connected))

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("this network was closed: open it with `async with` and use it inside")

    async def _close(self) -> None:
        """Hand over what is queued, end all links, tell all who wait."""
        self._closed = True
        links = [*self._links.values(), *self._retired]
        with trio.CancelScope(deadline=trio.current_time() + CLOSE_GRACE_S, shield=True):
            async with trio.open_nursery() as nursery:
                for link in links:
                    nursery.start_soon(link.flush)
        for link in links:
            link.close(Closed("this network was closed"))
        for dial in self._dials.values():
            dial.done.set()
        for watcher in self._watchers:
            watcher.close()


class _Dial:
    """A dial under way, and those who wait for it."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.fault: NetworkError | Error | None = None


@functools.lru_cache(maxsize=1024)
def place_prefix(host: str) -> str:
    """The network that an IP address belongs to, as far as limits care: /24 of IPv4, /48 of IPv6; else ""."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return ""
    if address.version == 6 and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(ipaddress.ip_network((address, 24 if address.version == 4 else 48), strict=False))


def peer_of(address: str) -> PeerId:
    """The peer id at the end of a multiaddr.

    Raises:
        InvalidInput: it does not end in ``/p2p/<peer id>``.
    """
    head, mark, peer = address.rpartition("/p2p/")
    if not mark or not head.startswith("/"):
        raise InvalidInput(f"{address!r} is not an address that ends in /p2p/<peer id>")
    public_from_peer_id(peer)
    return peer
