"""`SimNetwork`: one peer on a simulated wire, with the same promises as over libp2p.

It has no task and no timer of its own: links (ends.py), calls, dials (dialling.py) and gossip (gossip.py) are
driven by the wire's timers and by who calls. Opened by `Wire.open`.
"""

from __future__ import annotations

import contextvars
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import Abort, reschedule, wait_task_rescheduled

from ainp2p.errors import Broken, Closed, InvalidInput
from ainp2p.protocol.frames import ONE_WAY, REQUEST, STREAM
from ainp2p.protocol.linked_network import (
    DIAL_TIMEOUT_S,
    peer_of,
)
from ainp2p.protocol.network import REQUEST_TIMEOUT_S, Chunks, Handler, PeerChange, PeerId, Published
from ainp2p.simulation.wire import gossip
from ainp2p.simulation.wire.asked import Asked, AskedStream
from ainp2p.simulation.wire.ends import End
from ainp2p.simulation.wire.handlers import LOG_LINES_PER_S_MAX
from ainp2p.simulation.wire.incoming import Incoming
from ainp2p.simulation.wire.lies import Rewrite
from ainp2p.simulation.wire.links import Links

if TYPE_CHECKING:
    from ainp2p.protocol.context import Context
    from ainp2p.simulation.wire.wire import Wire

_FOREVER_S = float("inf")


class SimNetwork:
    """The Network of one simulated peer.

    Attributes:
        wire, links, asked, serving, stalled, topics, handling, rewrite, closed: for the other modules of the
            wire; code above knows the interface `ainp2p.protocol.network.Network` only.
    """

    __slots__ = (
        "_context", "_leaving", "_links", "_logged", "_peer_id", "address", "addresses", "asked", "closed",
        "handlers", "handling", "links", "name", "rewrite", "serving", "stalled", "topics", "variables",
        "wire",
    )  # fmt: skip

    def __init__(self, wire: Wire, peer_id: PeerId, address: str, context: Context) -> None:
        self.wire, self._peer_id, self.address, self._context = wire, peer_id, address, context
        self.addresses = (address,)  # ``/sim/<n>/p2p/<peer id>``, good on this wire only, in each life
        self.name = peer_id[-8:]  # in traces
        self.variables = contextvars.copy_context()  # what handlers see
        self.handlers: dict[str, Handler] = {}
        self._links = Links(self)
        self.links = self._links.up  # the same dict: every call looks here
        self.asked: dict[Asked, None] = {}  # our open calls, on all links
        self.serving: dict[Asked, Incoming] = {}  # the peers' calls
        self.stalled: dict[Incoming, None] = {}  # streams whose chunks wait for credit
        self.topics: dict[str, list[gossip.Subscription]] = {}
        self.handling = 0  # handlers that run
        self.rewrite: Rewrite | None = None  # the peer lies
        self.closed = False
        self._leaving: trio.lowlevel.Task | None = None  # waits for the last handler
        self._logged: dict[PeerId, tuple[float, int]] = {}

    @property
    def peer_id(self) -> PeerId:
        """Our own peer id."""
        return self._peer_id

    @property
    def context(self) -> Context:
        """Clock and randomness."""
        return self._context

    # --- calls ----------------------------------------------------------------------------------

    def serve(self, protocol: str, handler: Handler) -> None:
        """Answer calls to `protocol` from now on.

        Raises:
            InvalidInput: it has a handler already.
            Closed: this network was closed.
        """
        self.check_open()
        if protocol in self.handlers:
            raise InvalidInput(f"{protocol} is already served on this network")
        self.handlers[protocol] = handler

    async def request(
        self, peer: PeerId, protocol: str, body: bytes, *, timeout_s: float = REQUEST_TIMEOUT_S
    ) -> bytes:
        """One question, one answer."""
        end = self.links.get(peer)
        if end is None:
            start_s = self.wire.clock.now
            end = await self._links.linked(peer, timeout_s)
            timeout_s -= self.wire.clock.now - start_s
        return await end.ask(Asked(end, REQUEST, protocol, timeout_s), body)

    def stream(
        self, peer: PeerId, protocol: str, body: bytes, *, timeout_s: float = REQUEST_TIMEOUT_S
    ) -> AbstractAsyncContextManager[Chunks]:
        """One question, many chunks."""
        return OpenedStream(self._links, peer, protocol, body, timeout_s)

    async def send(self, peer: PeerId, protocol: str, body: bytes) -> None:
        """One-way; waits for room only."""
        end = self.links.get(peer) or await self._links.linked(peer, DIAL_TIMEOUT_S)
        asked = Asked(end, ONE_WAY, protocol, _FOREVER_S)
        end.begin(asked, body)
        if asked.sent:
            await trio.lowlevel.checkpoint_if_cancelled()  # room makes it wait soon enough
            return
        try:
            await asked.park()
        except BaseException:
            asked.ended = asked.ended or Closed("cancelled")
            raise

    # --- peers ----------------------------------------------------------------------------------

    async def connect(self, address: str, *, timeout_s: float = REQUEST_TIMEOUT_S) -> PeerId:
        """Dial a multiaddr that ends in ``/p2p/<peer id>``."""
        peer = peer_of(address)
        self.add_addresses(peer, (address,))
        await self._links.linked(peer, timeout_s)
        return peer

    def add_addresses(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        """Remember where a peer can be dialled; the newest are tried first."""
        self._links.add_addresses(peer, addresses)

    @property
    def known_addresses(self) -> dict[PeerId, tuple[str, ...]]:
        """Peers and where they were last known to be."""
        return dict(self._links.known)

    def peers(self) -> tuple[PeerId, ...]:
        """Peers with a live channel, sorted."""
        listed = self._links.listed  # every job asks, and seldom is there another link
        if listed is None:
            listed = self._links.listed = tuple(sorted(self.links))
        return listed

    def watch_peers(self) -> AbstractAsyncContextManager[AsyncIterator[PeerChange]]:
        """Peers that come and go: first those connected now, then each change."""
        return self._links.watch()

    async def disconnect(self, peer: PeerId) -> None:
        """Close the channel to a peer; no error if there is none."""
        end = self.links.get(peer)
        if end is not None:
            end.close(Broken("disconnected"))
        await trio.lowlevel.checkpoint()

    async def bootstrap(self, addresses: Iterable[str]) -> None:
        """Dial these peers, wait for the first or for all to fail, and keep dialling those that are lost.

        Raises:
            InvalidInput: one of them is not an address that ends in ``/p2p/<peer id>``.
        """
        await self._links.bootstrap(addresses)

    # --- gossip and provider records ------------------------------------------------------------

    async def publish(self, topic: str, data: bytes) -> None:
        """Flood along live links: from peer to peer as long as each has subscribed."""
        self.check_open()
        gossip.relay(self, gossip.Rumour(Published(topic, data, self._peer_id), self._peer_id))
        await trio.lowlevel.checkpoint()

    def subscribe(self, topic: str) -> AbstractAsyncContextManager[AsyncIterator[Published]]:
        """Messages on a topic, ours excluded."""
        return gossip.Subscription(self, topic)

    async def provide(self, key: bytes) -> None:
        """Leave a record with the wire; it outlives this network, as in a DHT."""
        self.check_open()
        await self.wire.pause_for_record(self)
        self.wire.provide(key, self)

    async def find_providers(self, key: bytes, *, limit: int = 20) -> list[PeerId]:
        """Who left a record on this side of any cut: the oldest first, or a random choice of many."""
        self.check_open()
        await self.wire.pause_for_record(self)
        found = self.wire.providers(key, self, limit)
        for peer, address in found:
            self.add_addresses(peer, (address,))
        return [peer for peer, _ in found]

    # --- for the other modules of the wire ------------------------------------------------------

    def accept(self, theirs: SimNetwork) -> End:
        """A peer's dial has arrived."""
        return self._links.accept(theirs)

    def adopt(self, end: End) -> None:
        """Our dial was taken by the peer."""
        self._links.adopt(end)

    def forget(self, end: End) -> None:
        """A link is over."""
        self._links.forget(end)

    # --- life -----------------------------------------------------------------------------------

    def check_open(self) -> None:
        """Raises Closed after the end."""
        if self.closed:
            raise Closed("this network was closed: open it with `async with` and use it inside")

    def shut(self, *, tell: bool = True) -> None:
        """End everything now; with `tell` the peers hear of it after what was sent before."""
        if self.closed:
            return
        self.closed = True
        self._links.close_all(tell=tell)
        for feeds in self.topics.values():
            for feed in feeds:
                feed.close()
        self.wire.left(self)

    async def _close(self) -> None:
        self.shut()
        await trio.lowlevel.checkpoint()

    async def handlers_gone(self) -> None:
        """Wait for handlers that were cancelled, as a nursery would; cannot be cancelled."""
        while self.handling:
            self._leaving = trio.lowlevel.current_task()
            await wait_task_rescheduled(lambda _: Abort.FAILED)

    def handler_ended(self) -> None:
        """One handler less."""
        self.handling -= 1
        if self._leaving is not None and not self.handling:
            task, self._leaving = self._leaving, None
            reschedule(task)

    def may_log(self, peer: PeerId, now_s: float) -> bool:
        """Whether one more line about a failed handler may be written: no peer fills our disk."""
        since_s, lines = self._logged.get(peer, (now_s, 0))
        if now_s >= since_s + 1:
            since_s, lines = now_s, 0
        self._logged[peer] = (since_s, lines + 1)
        return lines < LOG_LINES_PER_S_MAX


class OpenedStream:
    """A stream of ours, until its block is left."""

    __slots__ = ("_args", "_asked", "_links")

    def __init__(self, links: Links, peer: PeerId, protocol: str, body: bytes, timeout_s: float) -> None:
        self._links, self._args = links, (peer, protocol, body, timeout_s)
        self._asked: AskedStream | None = None

    async def __aenter__(self) -> AskedStream:
        peer, protocol, body, timeout_s = self._args
        end = self._links.up.get(peer) or await self._links.linked(peer, timeout_s)
        asked = AskedStream(end, STREAM, protocol, timeout_s)
        end.begin(asked, body)
        self._asked = asked
        return asked

    async def __aexit__(self, *_: object) -> None:
        if self._asked is not None:
            self._asked.leave()
