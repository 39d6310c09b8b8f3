"""Who sends more than is worked off is not read for a while: its bytes stay with it, and cost nothing.

A refusal costs nearly as much as what is refused (decrypting, framing, decoding, an answer), and who floods
does not read it. So a submitter is held back while a backlog of its operations waits, and for a moment after
each "busy". Members of the committee are never held back: votes come over the same channel. No I/O here;
the network does it, if it can.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from ainp2p.protocol.network import PeerId

BACKLOG_MAX = 320  # operations of one submitter that wait: a busy payee has 256; it is read again at half
BACKLOG_PAUSE_S = 2.0  # at most: others may have all the turns, and its questions deserve an answer
WAITING_MAX = 512  # of one submitter; what comes beyond is refused before it is looked at
BUSY_PAUSE_S = 0.25


@runtime_checkable
class HoldsBack(Protocol):
    """A network that can leave a peer's bytes unread."""

    def hold_back(self, peer: PeerId, for_s: float) -> None:
        """Read nothing from it for so long; a later time counts."""

    def read_on(self, peer: PeerId) -> None:
        """It need not be held back any more."""


class BackPressure:
    """Counts what each submitter has waiting, and tells the network."""

    def __init__(self, network: object) -> None:
        self._network = network if isinstance(network, HoldsBack) else None
        self._waiting: dict[PeerId, int] = {}

    def waits(self, peer: PeerId) -> None:
        """One more of its operations waits."""
        count = self._waiting[peer] = self._waiting.get(peer, 0) + 1
        if count >= BACKLOG_MAX:
            self._hold_back(peer, BACKLOG_PAUSE_S)

    def served(self, peer: PeerId) -> None:
        """One of them waits no more."""
        count = self._waiting[peer] = self._waiting[peer] - 1
        if not count:
            del self._waiting[peer]
        if count == BACKLOG_MAX // 2 and self._network is not None:
            self._network.read_on(peer)

    def is_full(self, peer: PeerId) -> bool:
        """Whether so much of it waits that nothing more is looked at."""
        return self._waiting.get(peer, 0) >= WAITING_MAX

    def busy(self, peer: PeerId) -> None:
        """It was told "busy"."""
        self._hold_back(peer, BUSY_PAUSE_S)

    def _hold_back(self, peer: PeerId, for_s: float) -> None:
        if self._network is not None:
            self._network.hold_back(peer, for_s)
