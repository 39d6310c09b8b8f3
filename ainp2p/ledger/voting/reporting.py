"""What a validator says when a slot goes on to another view: NEWVIEW, with what is prepared, or a candidate.

LEDGER.md, "Deciding a slot", 3: "NEWVIEW(v+1, highest prepared, candidate), the candidate being the valid
operation held (gate passed here, if gated; those of held receipts included) that comes first in `pick`'s
order". When one is due is in `views`. No I/O.
"""

from __future__ import annotations

from ainp2p.ledger.rules.operations import Void
from ainp2p.ledger.rules.state import is_gated
from ainp2p.ledger.voting.desk import Desk
from ainp2p.ledger.voting.exhibits import Exhibits
from ainp2p.ledger.voting.justification import Certified
from ainp2p.ledger.voting.picking import rank
from ainp2p.ledger.voting.slot import Candidate, Slot, SlotId
from ainp2p.ledger.voting.votelog import newview_entry
from ainp2p.protocol.codec import encode


class Reporting:
    """One validator's own NEWVIEWs."""

    def __init__(self, desk: Desk, exhibits: Exhibits) -> None:
        self._desk, self._exhibits = desk, exhibits
        self._table, self._archive = desk.table, desk.archive

    def promise(self, slot_id: SlotId, slot: Slot, view: int, now: int) -> None:
        """Send NEWVIEW(view) if we have anything to say.

        Lemma L4 (docs/ledger-proof.md): no NEWVIEW reports less than we have COMMITted on.
        """
        highest = max(
            ((each.prepared, each) for each in slot.candidates if each.prepared is not None),
            key=lambda pair: pair[0],
            default=None,
        )
        below = -1 if highest is None else highest[0]
        if slot.inherited is not None and highest is None:
            return  # "reports that certificate in later NEWVIEWs": its operation is on its way
        if max(slot.committed, default=-1) > below:
            return  # what we COMMITted on is not here again yet; reporting less would be an offence
        if below >= view:
            return  # more than we would ask for: others were there without us
        if highest is not None:
            raw = self._exhibits.certificate(highest[1], highest[0])
            if raw is None:
                return
            self._exhibits.show(self._table.contest(slot_id), encode(Certified(raw)))
            prepared, candidate, spoken = (highest[0], highest[1].id), None, highest[1]
        else:
            own = self._own_candidate(slot_id, slot, now)
            if own is None:
                return  # "without a prepared certificate or a candidate nobody sends one"
            prepared, candidate, spoken = None, own.id, own
        slot.promised = view
        self._archive.keep(spoken)
        self._desk.log.add(newview_entry(view, *slot_id, prepared, candidate), now)

    def _own_candidate(self, slot_id: SlotId, slot: Slot, now: int) -> Candidate | None:
        """The valid operation held that comes first in `pick`'s order, its gate passed here if it has one.

        Lemma L9 (docs/ledger-proof.md): no candidate of ours is below a held receipt.
        """
        self._take_up_receipt(slot_id, now)
        lock = self._desk.state.locks.get(slot_id[0])
        locked = slot.locked.get(0)
        best: tuple[tuple[int, int], bool, bytes] | None = None
        found: Candidate | None = None
        for candidate in slot.candidates:
            if candidate.valid_since is None or candidate.parsed is None:
                continue
            if isinstance(candidate.parsed.operation.body, Void):
                continue
            if lock is not None and not self._desk.receipts.allow(lock, candidate.parsed):
                # Priority: "the Lock cannot end below it". The receipt's own operation may still wait for its
                # gate, or for its check; until then there is nothing that we may name.
                continue
            ahead = (candidate.parsed.operation.timestamp or 0) - now - self._desk.parameters.clock_ahead_ms
            if ahead > 0:
                # Our clock was ahead when we found it valid, and was put back: nobody would LOCK it, and a
                # leader has to leave out whoever names it.
                self._desk.wake_at(candidate, now + ahead)
                continue
            if is_gated(candidate.parsed):
                opens = self._desk.gate_opens(candidate, now)
                if opens > now:
                    self._desk.wake_at(candidate, opens)
                    continue
            # "one's own view-0 LOCK among equals, else the lowest id"
            order = rank(candidate.parsed), candidate.id != locked, candidate.id
            if best is None or order < best:
                best, found = order, candidate
        return found

    def _take_up_receipt(self, slot_id: SlotId, now: int) -> None:
        """ "Those of held receipts included": hold the operation that the highest receipt makes here."""
        lock = self._desk.state.locks.get(slot_id[0])
        offered = self._desk.receipts.offer(lock, now) if lock is not None else None
        if offered is None:
            return
        known = self._table.candidates.get(offered.id)
        if known is not None and known.parsed is not None:
            return  # where others have only named it, we need not wait for them: we can make it
        self._desk.room.work.append(self._table.hold(offered))  # once it is checked there is a review


__all__ = ["Reporting"]
