"""Dials on their way over a simulated wire: there, back, into cuts, and to nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ainp2p.errors import Unreachable
from ainp2p.protocol.linked_network import DIAL_TIMEOUT_S
from ainp2p.protocol.memory import RETRANSMIT_S
from ainp2p.simulation.wire.dialling import Dial
from ainp2p.simulation.wire.ends import End
from ainp2p.simulation.wire.way import OPENED

if TYPE_CHECKING:
    from ainp2p.simulation.wire.wire import Wire


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
            self._send(dial, False, RETRANSMIT_S, self._knocked, dial)

    def _send(self, dial: Dial, back: bool, again_s: float, then: Callable[..., None], *args: Any) -> None:
        """A packet of a dial, outside of any connection; sent again when it was lost."""
        wire, path = self._wire, (dial.network.peer_id, dial.peer)
        source, target = path[::-1] if back else path
        weather, delay_s = wire.weather, wire.calm_s
        if not dial.live:
            return
        if delay_s is None:
            dice = wire.path_dice(source, target)
            if weather.loss and dice.random() < weather.loss:
                wire.clock.call_later(again_s, self._send, dial, back, 2 * again_s, then, *args)
                return
            delay_s = weather.delay_s(dice, source, target)
        if delay_s <= DIAL_TIMEOUT_S:
            wire.clock.call_later(delay_s, then, *args)

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
            self._send(dial, True, RETRANSMIT_S, dial.over, Unreachable(words))
