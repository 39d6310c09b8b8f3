"""Whom a simulated network is linked with: links and dials by peer, addresses, watchers, bootstrap peers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import trio

from ainp2p.errors import Broken, Closed, Unreachable
from ainp2p.protocol.linked_network import ADDRESSES_PER_PEER_MAX, PEERS_REMEMBERED_MAX, Feed, peer_of
from ainp2p.protocol.network import PeerChange, PeerId
from ainp2p.simulation.wire.dialling import Bootstrap, Dial
from ainp2p.simulation.wire.ends import End

if TYPE_CHECKING:
    from ainp2p.simulation.wire.network import SimNetwork


class Links:
    """One network's links.

    Attributes:
        up: the link with each peer.
        dials: those under way.
        known: where peers were last known to be, the newest last.
        listed: the peers of `up`, sorted; None: not since the last change.
    """

    __slots__ = ("_bootstrap", "_network", "_watchers", "dials", "known", "listed", "up")

    def __init__(self, network: SimNetwork) -> None:
        self._network = network
        self.up: dict[PeerId, End] = {}
        self.listed: tuple[PeerId, ...] | None = None
        self.dials: dict[PeerId, Dial] = {}
        self.known: dict[PeerId, tuple[str, ...]] = {}
        self._watchers: list[Feed[PeerChange]] = []
        self._bootstrap: Bootstrap | None = None

    def add_addresses(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        """Remember where a peer can be dialled; the newest are tried first."""
        if peer == self._network.peer_id or not addresses:
            return
        known = self.known.pop(peer, addresses)
        if known != addresses:
            known = tuple(dict.fromkeys((*addresses, *known)))[:ADDRESSES_PER_PEER_MAX]
        there = self._network.wire.networks.get(peer)
        if there is not None and known == there.addresses:  # nearly always: kept once for all who know it
            peer, known = there.peer_id, there.addresses
        self.known[peer] = known
        if len(self.known) > PEERS_REMEMBERED_MAX:
            del self.known[next(iter(self.known))]

    async def bootstrap(self, addresses: Iterable[str]) -> None:
        """Dial these peers, wait for the first or for all to fail, and keep dialling those that are lost.

        Raises:
            InvalidInput: one of them is not an address that ends in ``/p2p/<peer id>``.
        """
        listed = [(peer_of(address), address) for address in addresses]
        for peer, address in listed:
            self.add_addresses(peer, (address,))
        us = self._network.peer_id
        peers = [peer for peer in dict.fromkeys(peer for peer, _ in listed) if peer != us]
        if peers:
            self._network.check_open()
            if self._bootstrap is not None:
                peers = list(dict.fromkeys(self._bootstrap.stop() + peers))
            self._bootstrap = Bootstrap(self, self._network, peers)
            await self._bootstrap.first()
            self._bootstrap.check()

    def watch(self) -> Watch:
        """Peers that come and go: first those connected now, then each change."""
        return Watch(self._network, self.up, self._watchers)

    # --- dialling -------------------------------------------------------------------------------

    async def linked(self, peer: PeerId, timeout_s: float) -> End:
        """The link to a peer, dialled if need be. One dial serves all who wait for it."""
        network = self._network
        network.check_open()
        if peer == network.peer_id:
            raise Unreachable("that is this peer itself")
        until_s = network.wire.clock.now + timeout_s
        while (end := self.up.get(peer)) is None:
            dial = self.dials.get(peer) or self.dial(peer)
            if dial.live:
                await dial.wait(until_s)
            else:
                await trio.lowlevel.checkpoint()
            network.check_open()
            if dial.fault is not None:
                raise Unreachable(f"{peer}: {dial.fault}") from dial.fault
            if dial.live:
                raise Unreachable(f"no connection to {peer} within {timeout_s:g} s")
        return end

    def dial(self, peer: PeerId) -> Dial:
        """Begin to dial; those who wait on it are told how it ends."""
        there = self._network.wire.networks.get(peer)
        peer = peer if there is None else there.peer_id  # the same object everywhere
        addresses = self.known.get(peer, ())
        dial = self.dials[peer] = Dial(self._network, peer, addresses, self._dial_over)
        if addresses:
            self._network.wire.knock(dial)
        else:
            dial.over(Unreachable(f"no address of {peer} is known: connect to it, or add_addresses"))
        return dial

    def _dial_over(self, dial: Dial) -> None:
        if self.dials.get(dial.peer) is dial:
            del self.dials[dial.peer]
        self._look_for_lost()

    # --- links ----------------------------------------------------------------------------------

    def accept(self, theirs: SimNetwork) -> End:
        """A peer's dial has arrived: the link is up here, and replaces one that the peer has lost."""
        self.add_addresses(theirs.peer_id, theirs.addresses)
        end = End(self._network, theirs.peer_id)
        self.adopt(end)
        return end

    def adopt(self, end: End) -> None:
        """The link is up here."""
        old = self.up.get(end.peer)
        self.up[end.peer] = end
        self.listed = None
        if old is not None:
            old.close(Broken("connected anew"))
        self._tell(end.peer, connected=True)
        dial = self.dials.get(end.peer)
        if dial is not None:
            dial.over(None)  # also one of ours that the peer's has overtaken

    def forget(self, end: End) -> None:
        """A link is over."""
        if self.up.get(end.peer) is end:
            del self.up[end.peer]
            self.listed = None
            self._tell(end.peer, connected=False)
            self._look_for_lost()

    def close_all(self, *, tell: bool) -> None:
        """The network was closed."""
        if self._bootstrap is not None:
            self._bootstrap.stop()
        for end in list(self.up.values()):
            end.close(Closed("this network was closed"), tell=tell)
        for dial in list(self.dials.values()):
            dial.over(Unreachable("this network is being closed"))
        for watcher in self._watchers:
            watcher.close()

    def _look_for_lost(self) -> None:
        if self._bootstrap is not None and not self._network.closed:
            self._bootstrap.check()

    def _tell(self, peer: PeerId, *, connected: bool) -> None:
        for watcher in self._watchers:  # unread news of this peer are outdated: the queue stays bounded
            watcher.replace(PeerChange(peer, connected), PeerChange(peer, not connected))


class Watch:
    """A watcher of one network's links, while its block lasts."""

    __slots__ = ("_feed", "_network", "_up", "_watchers")

    def __init__(self, network: SimNetwork, up: dict[PeerId, End], watchers: list[Feed[PeerChange]]) -> None:
        self._network, self._up, self._watchers = network, up, watchers
        self._feed: Feed[PeerChange] = Feed()

    async def __aenter__(self) -> Feed[PeerChange]:
        self._network.check_open()
        for peer in sorted(self._up):
            self._feed.put(PeerChange(peer, connected=True))
        self._watchers.append(self._feed)
        return self._feed

    async def __aexit__(self, *_: object) -> None:
        self._watchers.remove(self._feed)
