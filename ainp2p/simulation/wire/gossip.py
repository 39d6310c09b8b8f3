"""Gossip on a simulated wire: from peer to peer over live links, as long as each has subscribed.

A hop is a timer and no task; a subscriber's task runs only when it reads. Each hop may lose, duplicate, delay
or reorder. A peer to which a copy is on its way gets no second one from another side, as a mesh's seen-cache
would have it; if that copy is lost in a cut, others may bring it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from outcome import Error
from trio.lowlevel import Abort, reschedule, wait_task_rescheduled

from ainp2p.errors import Closed
from ainp2p.protocol.linked_network import PUBLISHED_QUEUE_MAX
from ainp2p.protocol.network import PeerId, Published
from ainp2p.simulation.wire.lies import Sent, told

if TYPE_CHECKING:
    from ainp2p.simulation.wire.ends import End
    from ainp2p.simulation.wire.network import SimNetwork


class Subscription:
    """What one subscriber has heard and not read; for one reader. The oldest are lost."""

    __slots__ = ("_closed", "_heard", "_network", "_reader", "topic")

    def __init__(self, network: SimNetwork, topic: str) -> None:
        self._network, self.topic = network, topic
        self._heard: list[Published] = []  # nearly always empty, and then a sixth of a deque
        self._reader: trio.lowlevel.Task | None = None
        self._closed = False

    async def __aenter__(self) -> Subscription:
        self._network.check_open()
        self._network.topics.setdefault(self.topic, []).append(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        feeds = self._network.topics[self.topic]
        feeds.remove(self)
        if not feeds:
            del self._network.topics[self.topic]

    def put(self, message: Published) -> None:
        """It was heard."""
        self._heard.append(message)
        if len(self._heard) > PUBLISHED_QUEUE_MAX:
            self._heard.pop(0)
        if self._reader is not None:
            reader, self._reader = self._reader, None
            reschedule(reader)

    def close(self) -> None:
        """The network is closed: the iteration ends after what was heard."""
        self._closed = True
        if self._reader is not None:
            reader, self._reader = self._reader, None
            reschedule(reader, Error(Closed("the network was closed")))

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Published:
        if self._heard:
            await trio.lowlevel.checkpoint()
        elif self._closed:
            raise Closed("the network was closed")
        else:
            if self._reader is not None:
                raise trio.BusyResourceError("another task is already waiting for this topic")
            self._reader = trio.lowlevel.current_task()
            await wait_task_rescheduled(self._stop_waiting)
        return self._heard.pop(0)

    def _stop_waiting(self, _: object) -> Abort:
        self._reader = None
        return Abort.SUCCEEDED


class Rumour:
    """One message on its way, and whom it has reached or is sure to reach."""

    __slots__ = ("message", "reached")

    def __init__(self, message: Published, source: PeerId) -> None:
        self.message = message
        self.reached = {message.sender, source}


def relay(network: SimNetwork, rumour: Rumour) -> None:
    """Send a rumour to the neighbours who have subscribed and do not have it."""
    topic = rumour.message.topic
    arrivals: dict[float, list[End]] = {}
    for peer, ours in network.links.items():
        there = ours.other
        if peer in rumour.reached or there.reason is not None or topic not in there.network.topics:
            continue
        if network.rewrite is not None and not _tell_lies(network, ours, rumour):
            continue
        _send(ours, rumour, arrivals)
    _schedule(network, rumour, arrivals)


def _tell_lies(network: SimNetwork, ours: End, rumour: Rumour) -> bool:
    """Send to one neighbour what a liar makes of a rumour; True if it is the truth, still to be sent."""
    message = rumour.message
    assert network.rewrite is not None
    sent = Sent("gossip", message.topic, ours.peer, message.data)
    said = told(network.rewrite, sent)
    for data in said:
        if data != message.data and message.sender == network.peer_id:
            other = Rumour(Published(message.topic, data, message.sender), network.peer_id)
            arrivals: dict[float, list[End]] = {}
            _send(ours, other, arrivals)
            _schedule(network, other, arrivals)
    return message.data in said


def _send(ours: End, rumour: Rumour, arrivals: dict[float, list[End]]) -> None:
    """Throw the dice of one hop."""
    wire, there = ours.wire, ours.other
    weather, now = wire.weather, wire.clock.now
    if there.cut:
        return
    copies, late_s = 1, 0.0
    if weather.loss or weather.duplicate or weather.reorder_s:
        rng = wire.dice(ours)
        if weather.loss and rng.random() < weather.loss:
            return
        if weather.duplicate and rng.random() < weather.duplicate:
            copies = 2
    rumour.reached.add(ours.peer)
    for _ in range(copies):
        delay_s = wire.calm_s if wire.calm_s is not None else wire.travel_s(ours)
        if weather.reorder_s:
            late_s = weather.reorder_s * wire.dice(ours).random()
        arrivals.setdefault(now + delay_s + late_s, []).append(there)


def _schedule(network: SimNetwork, rumour: Rumour, arrivals: dict[float, list[End]]) -> None:
    for at_s, ends in arrivals.items():
        network.wire.clock.call_at(at_s, _arrive, ends, rumour)


def _arrive(ends: list[End], rumour: Rumour) -> None:
    message = rumour.message
    for end in ends:
        network = end.network
        if end.cut or network.closed:
            rumour.reached.discard(network.peer_id)
            continue
        end.wire.note("gossip", end.other.network, network, message.topic, message.data)
        feeds = network.topics.get(message.topic)
        if feeds:
            for feed in feeds:
                feed.put(message)
            relay(network, rumour)
