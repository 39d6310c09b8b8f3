"""Commit certificates that are owed to members: "a holder of the commit certificate answers with it". No I/O.

A NEWVIEW for a slot that is decided here says that its sender may never see the COMMITs. The certificate is
pushed to everybody, and making it costs reading the disk, while a NEWVIEW costs its sender nothing: so each
member is answered at most once in EVERY_MS, in turn, its newest question first, and whoever asks more only
has its own oldest questions forgotten. Sync brings what it misses by that.
"""

from __future__ import annotations

from collections import OrderedDict

from ainp2p.ledger.voting.desk import Desk
from ainp2p.ledger.voting.effects import Effects
from ainp2p.ledger.voting.justification import Certified
from ainp2p.ledger.voting.slot import SlotId
from ainp2p.protocol.codec import encode

EVERY_MS = 20
OWED_MAX = 1_024  # slots, to each member


class Replies:
    """Who is owed what, and when the next ones are due."""

    def __init__(self, desk: Desk) -> None:
        self._desk, self._archive = desk, desk.archive
        self._owed: list[OrderedDict[SlotId, None]] = [OrderedDict() for _ in desk.committee.keys]
        self._at = 0
        self._waiting = 0

    def owe(self, member: int, slot_id: SlotId, now: int) -> None:
        """This member has sent a NEWVIEW for a slot that is decided here."""
        if not self._waiting:
            self._at = now + EVERY_MS
        owed = self._owed[member]
        self._waiting += slot_id not in owed
        owed[slot_id] = None
        if len(owed) > OWED_MAX:
            owed.popitem(last=False)
            self._waiting -= 1

    @property
    def due(self) -> int | None:
        """When `run` is needed next."""
        return self._at if self._waiting else None

    def run(self, now: int, out: Effects) -> None:
        """Answer one question of each member, if it is time."""
        if not self._waiting or now < self._at:
            return
        self._at = now + EVERY_MS
        asked = {owed.popitem()[0]: None for owed in self._owed if owed}
        self._waiting = sum(map(len, self._owed))
        for object_, seq in asked:
            id_ = self._archive.decided_at(object_, seq, self._desk.state.head(object_))
            certificate = self._archive.certificate(id_) if id_ is not None else None
            if certificate:
                out.attachments.append(encode(Certified(certificate)))

    def clock_put_back(self, now: int) -> None:
        """Wait from now on, not from a time that has not come yet."""
        self._at = min(self._at, now + EVERY_MS)


__all__ = ["EVERY_MS", "OWED_MAX", "Replies"]
