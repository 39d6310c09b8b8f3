"""One direction of a simulated link: messages that arrive in order, and what cuts and loss do to them.

A message is one timer. Only a way that is cut has another one: nothing is heard for ten seconds, and the end
gives its link up, as its heartbeat would. What calls are made of messages is for ends.py.

    open ──▶ held (the way to us is cut) ──▶ open | closed
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final

from ainp2p.errors import Broken
from ainp2p.protocol import frames as f
from ainp2p.protocol.channel import DEAD_AFTER_S
from ainp2p.protocol.network import PeerId

if TYPE_CHECKING:
    import random

    from ainp2p.simulation.wire.asked import Asked
    from ainp2p.simulation.wire.network import SimNetwork

OPENED: Final = 16  # what a channel does with its connection's own means
CLOSED: Final = 17
KINDS: Final = {
    f.REQUEST: "request",
    f.STREAM: "stream",
    f.ONE_WAY: "send",
    f.ANSWER: "answer",
    f.CHUNK: "chunk",
    f.END: "end",
    f.REFUSE: "refuse",
    f.CANCEL: "cancel",
    f.CREDIT: "credit",
    f.CHUNK_CREDIT: "chunk-credit",
    f.CALL_CREDIT: "call-credit",
    OPENED: "opened",
    CLOSED: "closed",
}
_NEVER = float("inf")


class Way(ABC):
    """Our end of the two ways between us and `peer`: we own the way to the peer, and hear what comes."""

    __slots__ = ("cut", "held", "holds", "last_at", "network", "other", "peer", "reason", "rng", "wire")

    other: Way

    def __init__(self, network: SimNetwork, peer: PeerId) -> None:
        self.network, self.wire, self.peer = network, network.wire, peer
        self.reason: Exception | None = None  # why it is over
        self.rng: random.Random | None = None  # the dice of the way to the peer
        self.last_at = 0.0  # when the last message to the peer arrives
        self.cut = False  # nothing gets to us now
        self.held: list[tuple[int, Any, Any]] | None = None  # what arrived meanwhile
        self.holds = 0  # counts the changes of `cut`

    @abstractmethod
    def hear(self, kind: int, asked: Any, body: Any) -> None:
        """A message of the other end's."""

    @abstractmethod
    def close(self, reason: Exception, *, tell: bool = True) -> None:
        """End the link; with `tell` the other end hears of it after all that was sent before."""

    def send(self, kind: int, asked: Asked | None, body: Any = b"") -> None:
        """A message to the other end: it arrives after what was sent before it."""
        wire = self.wire
        at_s = wire.clock.now + (wire.calm_s if wire.calm_s is not None else wire.delay_s(self))
        if at_s > self.last_at:
            self.last_at = at_s
            if at_s == _NEVER:
                return self.break_()
        wire.clock.call_at(self.last_at, self.other.arrive, kind, asked, body)
        return None

    def arrive(self, kind: int, asked: Any, body: Any) -> None:
        """A message of the other end's, at its time."""
        if self.held is not None:
            self.held.append((kind, asked, body))
            return
        if self.reason is not None:
            self.network.wire.unheard(self, kind)
            return
        protocol = asked.protocol if asked is not None else ""
        self.wire.note(KINDS[kind], self.other.network, self.network, protocol, body)
        self.hear(kind, asked, body)

    def break_(self) -> None:
        """The connection is lost; both ends are told at once."""
        for end in (self, self.other):
            end.close(Broken("the connection was lost"), tell=False)

    # --- cuts of the way to us ------------------------------------------------------------------

    def look_at_way(self) -> None:
        """A fault of the wire has begun or ended: hold what arrives from now on, or let it through."""
        cut = self.wire.is_cut(self.peer, self.network.peer_id)
        if cut == self.cut or self.reason is not None:
            return
        self.cut = cut
        self.holds += 1
        clock = self.wire.clock
        if cut:
            self.held = [] if self.held is None else self.held
            clock.call_later(DEAD_AFTER_S, self._silent, self.holds)
        else:  # what was sent in vain meanwhile is repeated, and gets through
            delay_s = self.wire.delay_s(self.other)
            clock.call_later(min(delay_s, DEAD_AFTER_S), self._release, self.holds)

    def _silent(self, holds: int) -> None:
        if holds == self.holds:
            self.close(Broken(f"nothing heard for {DEAD_AFTER_S:g} s"))

    def _release(self, holds: int) -> None:
        if holds == self.holds and self.held is not None:
            held, self.held = self.held, None
            for message in held:
                self.arrive(*message)
