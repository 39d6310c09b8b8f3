"""The Network interface: all that agents, ledger and simulation know of a network.

Implementations: `ainp2p.protocol.libp2p` over real sockets, `ainp2p.protocol.memory` in one process, and
`ainp2p.simulation.wire.network` in virtual time. One contract suite (tests/protocol/test_network.py) runs on
all. Peers are named by their libp2p peer id; the connection proves that id, so `Call.peer` can be trusted as
the sender's key.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from ainp2p.protocol.context import Context

PeerId = str  # base58 libp2p peer id of an Ed25519 key
BODY_SIZE_MAX = 1 << 20  # bytes of one request, answer or chunk; sent in frames of at most 60 KB
REQUEST_TIMEOUT_S = 10.0


class Call(Protocol):
    """One incoming request, stream or one-way message, as its handler sees it."""

    @property
    def peer(self) -> PeerId:
        """Who calls; proved by the connection's handshake."""

    @property
    def body(self) -> bytes:
        """What the caller sent."""

    async def send(self, chunk: bytes) -> None:
        """Send one chunk of a stream; waits for the caller's credit.

        Chunks arrive whole and in order. What is handed over before `send` is called in one task is
        numbered before what follows, so a handler may number chunks itself.

        Raises:
            Broken: the caller has gone (the handler is cancelled as well).
        """


class Chunks(Protocol):
    """What a stream of ours brings: iterate over it, one reader at a time."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Itself."""

    async def __anext__(self) -> bytes:
        """The next chunk, waited for as long as the stream's `timeout_s` says."""

    async def within(self, seconds: float) -> bytes | None:
        """The next chunk; None, and the stream goes on, if none comes in this time.

        Raises:
            StopAsyncIteration: there are no more.
        """


Handler = Callable[[Call], Awaitable[bytes | None]]
"""Answers a Call. For a request the returned bytes are the answer (None: empty). For a stream the handler
calls `call.send` and its return ends the stream. `Refused` travels to the caller as it is; any other
exception becomes ``Refused("internal")`` there and one log line here. The handler is cancelled when the
caller cancels or goes away."""


@dataclass(frozen=True, slots=True)
class Published:
    """One message heard on a topic. Gossip is best effort: any peer may have relayed it."""

    topic: str
    data: bytes
    sender: PeerId


@dataclass(frozen=True, slots=True)
class PeerChange:
    """A peer became usable (`connected`) or its channel is gone."""

    peer: PeerId
    connected: bool


class Network(Protocol):
    """What peers can do for one another. Opened with ``async with``; closing releases everything.

    Every call may be cancelled at any await without harm to anybody. Calls raise `Unreachable` (no
    connection could be made), `TimedOut`, `Broken` (connection lost meanwhile), `Refused` (the peer said
    no) and `Closed` (this network was closed).
    """

    @property
    def peer_id(self) -> PeerId:
        """Our own peer id."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Multiaddrs at which we can be dialled, each ending in ``/p2p/<peer id>``."""

    @property
    def context(self) -> Context:
        """Clock and randomness for everything that runs on this network."""

    def serve(self, protocol: str, handler: Handler) -> None:
        """Answer calls to `protocol` (such as ``/ainp2p/market/1``) from now on; one handler each."""

    async def connect(self, address: str, *, timeout_s: float = REQUEST_TIMEOUT_S) -> PeerId:
        """Dial a multiaddr that ends in ``/p2p/<peer id>``; returns that id once the channel is up."""

    def add_addresses(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        """Remember where a peer can be dialled; calls to it then connect by themselves."""

    async def bootstrap(self, addresses: Iterable[str]) -> None:
        """Dial these peers, wait for the first or for all to fail, and keep dialling those that are lost.

        When nobody is connected at all, peers whose addresses are known are tried as well.
        """

    @property
    def known_addresses(self) -> dict[PeerId, tuple[str, ...]]:
        """Peers and where they were last known to be; worth keeping for the next start."""

    async def request(
        self, peer: PeerId, protocol: str, body: bytes, *, timeout_s: float = REQUEST_TIMEOUT_S
    ) -> bytes:
        """One question, one answer. Connects first when there is no channel."""

    def stream(
        self, peer: PeerId, protocol: str, body: bytes, *, timeout_s: float = REQUEST_TIMEOUT_S
    ) -> AbstractAsyncContextManager[Chunks]:
        """One question, many chunks; leaving the block cancels the handler over there.

        `timeout_s` bounds the wait for each next chunk.
        """

    async def send(self, peer: PeerId, protocol: str, body: bytes) -> None:
        """One-way; returns when the message is queued. Lost if the connection breaks."""

    async def publish(self, topic: str, data: bytes) -> None:
        """Best effort, to whoever subscribed; a few messages a second at most."""

    def subscribe(self, topic: str) -> AbstractAsyncContextManager[AsyncIterator[Published]]:
        """Messages on a topic, ours excluded. A slow reader loses the oldest."""

    async def provide(self, key: bytes) -> None:
        """Announce in the DHT that we have `key` (a skill's digest)."""

    async def find_providers(self, key: bytes, *, limit: int = 20) -> list[PeerId]:
        """Peers that announced `key`, with their addresses remembered; possibly dead or lying."""

    def peers(self) -> tuple[PeerId, ...]:
        """Peers with a live channel, sorted."""

    def watch_peers(self) -> AbstractAsyncContextManager[AsyncIterator[PeerChange]]:
        """Peers that come and go: first those connected now, then each change."""

    async def disconnect(self, peer: PeerId) -> None:
        """Close the channel to a peer; no error if there is none."""
