"""Dials on their way over a simulated wire: there, back, into cuts, and to nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ainp2p.errors import Unreachable
from ainp2p.protocol.channel import DEAD_AFTER_S
from ainp2p.protocol.network import PeerId
from ainp2p.simulation.dialling import Dial
from ainp2p.simulation.ends import End
from ainp2p.simulation.way import OPENED

if TYPE_CHECKING:
    from ainp2p.simulation.wire import Wire


class Knocking:
    """The dials of all networks of one wire."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._stuck: dict[Dial, None] = {}  # they wait for a mending

    def knock(self, dial: Dial) -> None:
        """Send a dial on its way, or keep it until its way is mended."""
        us, peer = dial.network.peer_id, dial.peer
        if self._wire.is_cut(us, peer):
            self._stuck[dial] = None
        else:
            self._packet(us, peer, self._knocked, dial)

    def _packet(self, source: PeerId, target: PeerId, then: Callable[..., None], *args: Any) -> None:
        """A packet outside of any connection, with its repetitions; hopeless ones vanish."""
        weather, delay_s = self._wire.weather, self._wire.calm_s
        if delay_s is None:
            dice = self._wire.path_dice(source, target)
            delay_s = weather.delay_s(dice, source, target) + (weather.late_s(dice) if weather.loss else 0.0)
        if delay_s <= DEAD_AFTER_S:
            self._wire.clock.call_later(delay_s, then, *args)

    def retry(self) -> None:
        """Dials whose way was mended go on."""
        for dial in list(self._stuck):
            if not dial.live or not self._wire.is_cut(dial.network.peer_id, dial.peer):
                del self._stuck[dial]
                if dial.live:
                    self.knock(dial)

    def _knocked(self, dial: Dial) -> None:
        """A dial has arrived, if it was not given up meanwhile."""
        us, peer = dial.network.peer_id, dial.peer
        if not dial.live:
            return
        if self._wire.is_cut(us, peer):
            self._stuck[dial] = None
            return
        network = self._wire.networks.get(peer)
        if network is not None and network.address in dial.addresses:
            self._wire.note("dial", dial.network, network, "", b"")
            ours, theirs = End(dial.network, peer), network.accept(dial.network)
            ours.other, theirs.other = theirs, ours
            dial.end = ours
            theirs.look_at_way()
            ours.look_at_way()
            theirs.send(OPENED, None)
        elif peer not in self._wire.crashed and not self._wire.is_cut(peer, us):
            words = f"nobody listens at {', '.join(dial.addresses)}"
            self._packet(peer, us, dial.over, Unreachable(words))
