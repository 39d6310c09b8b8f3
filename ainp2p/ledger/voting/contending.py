"""What a validator does in a contested slot: NEWVIEW, PROPOSE, and LOCK on what a leader proposes. No I/O.

    timers, others' entries, candidates that become valid ──► review(slot)
    review: start the view's timer, send a NEWVIEW, lead, follow: whatever is due, once

LEDGER.md, "Deciding a slot", 3 and 4. Here is what all of it has in common: timers, and what members have
said. When to go further is in `views`, own NEWVIEWs are in `reporting`, PROPOSE is in `leading`, LOCKs on
proposals are in `judging`, what must be shown with them is in `exhibits`. COMMITs need nothing of this: a
quorum of LOCKs is a prepared certificate in every view.
"""

from __future__ import annotations

from ainp2p.ledger.voting.attachments import CERTIFIED, JUSTIFICATION, attachment_id, attachment_tag
from ainp2p.ledger.voting.certificate import read_certificate
from ainp2p.ledger.voting.desk import Desk
from ainp2p.ledger.voting.effects import Effects
from ainp2p.ledger.voting.exhibits import Exhibits
from ainp2p.ledger.voting.handoff import Prepared
from ainp2p.ledger.voting.judging import Judging
from ainp2p.ledger.voting.justification import read_certified, read_justification
from ainp2p.ledger.voting.leading import Leading
from ainp2p.ledger.voting.replies import Replies
from ainp2p.ledger.voting.reporting import Reporting
from ainp2p.ledger.voting.slot import Slot, SlotId
from ainp2p.ledger.voting.views import Contest, FirstTimers, Heard, LaterTimers
from ainp2p.ledger.voting.votelog import (
    NewView,
    Propose,
    VoteBatch,
    has_views,
    lock_entry,
    read_entries,
)


class Contention:
    """The contested slots of one validator."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._committee, self._table, self._archive = desk.committee, desk.table, desk.archive
        self._first = FirstTimers(desk.table.slots)
        self._later = LaterTimers()
        self._first_ms = desk.parameters.vote_timeout_ms
        self.exhibits = Exhibits(desk)
        self._reporting = Reporting(desk, self.exhibits)
        self._leading = Leading(desk, self.exhibits)
        self._judging = Judging(desk, self.exhibits, self._later.add)
        self._replies = Replies(desk)
        self._asleep = False  # restored, and not looked at since

    # --- time -------------------------------------------------------------------------------------

    def start_timer(self, slot_id: SlotId, slot: Slot, now: int) -> None:
        """An operation was LOCKed here or by a quorum, or two are valid: view 0 has T from now on."""
        if not slot.timed:
            slot.timed = True
            self._first.add(now + self._first_ms, slot_id)

    @property
    def due(self) -> int | None:
        """When `run_timers` is needed next."""
        if self._asleep:
            return 0
        due = self._first.due
        for time in (self._later.due, self._replies.due):
            if time is not None and (due is None or time < due):
                due = time
        return due

    def run_timers(self, now: int, out: Effects) -> None:
        """Take note of the timers that have ended."""
        if self._asleep:
            self._wake_up(now, out)
        for slot_id in self._first.ended(now):
            contest = self._table.contest(slot_id)
            contest.expired = max(contest.expired, 0)
            self.review(slot_id, now, out)
        for slot_id in self._later.ended(now):
            slot = self._table.slots.get(slot_id)
            if slot is None or slot.contest is None:
                continue
            if slot.contest.deadline is not None and slot.contest.deadline <= now:
                slot.contest.expired, slot.contest.deadline = slot.contest.entered, None
            self.review(slot_id, now, out)
        self._replies.run(now, out)

    def restored(self) -> None:
        """Timers have to be started anew, at the first time that we are told."""
        self._asleep = True

    def _wake_up(self, now: int, out: Effects) -> None:
        self._asleep = False
        for slot_id, slot in list(self._table.slots.items()):
            if slot.locked or slot.committed or len(slot.candidates) > 1:
                self.start_timer(slot_id, slot, now)
            contest = slot.contest
            if slot.inherited is not None and contest is not None and contest.entered == 1:
                contest.deadline = now + self._first_ms  # what it began with was restored without a clock
                self._later.add(contest.deadline, slot_id)
        self.review_all(now, out)

    def review_all(self, now: int, out: Effects) -> None:
        """Look at every contested slot: we vote again."""
        for slot_id, slot in list(self._table.slots.items()):
            if slot.contest is not None:
                self.review(slot_id, now, out)

    def clock_put_back(self, now: int) -> None:
        """No timer lasts longer than if it had just been started."""
        self._first.clock_put_back(now + self._first_ms)
        self._later.clear()
        self._judging.clock_put_back()
        self._replies.clock_put_back(now)
        for slot_id, slot in self._table.slots.items():
            if slot.contest is not None and slot.contest.deadline is not None:
                slot.contest.deadline = min(slot.contest.deadline, now + self._first_ms)
                self._later.add(slot.contest.deadline, slot_id)

    # --- what comes in ----------------------------------------------------------------------------

    def take_batch(self, batch: VoteBatch, now: int, out: Effects) -> None:
        """The NEWVIEWs and PROPOSEs of a batch, in their order."""
        if not has_views(batch.entries):
            return
        for position, entry in enumerate(read_entries(batch.entries)):
            if isinstance(entry, NewView | Propose) and self._note(batch, position, entry, now):
                self.review((entry.object, entry.seq), now, out)

    def restore_batch(self, batch: VoteBatch) -> None:
        """The same from disk; nothing is done about it before the first time that we are told."""
        if has_views(batch.entries):
            for position, entry in enumerate(read_entries(batch.entries)):
                if isinstance(entry, NewView | Propose):
                    self._note(batch, position, entry, 0)

    def _note(self, batch: VoteBatch, position: int, entry: NewView | Propose, now: int) -> bool:
        slot_id, member = (entry.object, entry.seq), batch.member
        if self._desk.state.head(entry.object)[0] >= entry.seq:
            # "a holder of the commit certificate answers with it instead"
            if member != self._desk.member and now and isinstance(entry, NewView):
                self._replies.owe(member, slot_id, now)
            return False
        if isinstance(entry, Propose) and entry.view == 0:
            return False
        if isinstance(entry, Propose) and member != self._desk.leader(slot_id, entry.view):
            return False
        contest = self._table.contest(slot_id)
        silent = member not in contest.speakers
        if isinstance(entry, NewView):
            new = contest.hear(member, Heard(entry, batch.header.height, position))
            named = [entry.operation, entry.candidate]
        else:
            new = contest.propose(member, entry, batch.header.height)
            named = [entry.operation]
        if silent:
            self._table.owed[member] += 1
        if member == self._desk.member:
            self._note_own(slot_id, contest, entry)
        if new:
            ids = tuple(id_ for id_ in named if id_ is not None)
            for gone in contest.rename(member, isinstance(entry, Propose), ids):
                self._unname(slot_id, contest, gone)
            for id_ in ids:
                self.exhibits.name(id_, 1 << member)
        return new

    def _unname(self, slot_id: SlotId, contest: Contest, id_: bytes) -> None:
        """Nobody's last word names it any more: without votes it is no more than any other candidate."""
        candidate = self._table.candidates.get(id_)
        slot = self._table.slots[slot_id]
        if candidate is None or candidate.counts or id_ in slot.locked.values():
            return
        candidate.holders = 0
        if candidate.parsed is None or len(slot.candidates) > self._desk.limits.rivals_max:
            self._desk.room.leave(candidate)
            self._table.let_go(candidate)

    def _note_own(self, slot_id: SlotId, contest: Contest, entry: NewView | Propose) -> None:
        slot = self._table.slots[slot_id]
        if isinstance(entry, NewView):
            slot.promised = max(slot.promised, entry.view)
        else:
            contest.proposed = max(contest.proposed, entry.view)

    def take_attachment(self, raw: bytes, now: int, out: Effects) -> None:
        """A justification or a certificate from anybody.

        Raises:
            Malformed, BadSignature, InvalidOperation: it is not what it seems.
        """
        tag = attachment_tag(raw)
        if tag == CERTIFIED:
            self.exhibits.take_certificate(read_certified(raw).certificate)
        elif tag == JUSTIFICATION:
            justification = read_justification(raw)
            id_ = attachment_id(raw)
            if self._judging.has_judged(id_) or self.exhibits.attachment(id_) is not None:
                return
            self.exhibits.lay_open(raw)
            self.review((justification.object, justification.seq), now, out)

    def restore_attachment(self, raw: bytes, segment: int) -> None:
        """One of our own disk, so it was checked before: what our votes rest on."""
        if attachment_tag(raw) == JUSTIFICATION:
            justification = read_justification(raw)
            slot_id = justification.object, justification.seq
            if self._desk.state.head(slot_id[0])[0] < slot_id[1]:
                self._table.contest(slot_id).kept[attachment_id(raw)] = segment
            return
        certified = read_certified(raw).certificate
        certificate = read_certificate(certified)
        candidate = self._table.candidates.get(certificate.operation)
        if candidate is not None and candidate.parsed is not None:
            self._table.contest(candidate.slot).kept[attachment_id(raw)] = segment
            if certificate.epoch == self._desk.epoch:
                self.exhibits.adopt(candidate.id, certificate.view, certified, 0)

    # --- a slot -----------------------------------------------------------------------------------

    def review(self, slot_id: SlotId, now: int, out: Effects) -> None:
        """Do in this slot whatever is due by what is known now."""
        slot = self._table.slots.get(slot_id)
        if slot is None or slot.contest is None or self._asleep:
            return
        contest = slot.contest
        if self._desk.state.head(slot_id[0])[0] + 1 != slot_id[1]:
            return  # the slots before it are not decided here; their end leads back here
        if contest.enter(now, self._first_ms, self._committee):
            assert contest.deadline is not None
            self._later.add(contest.deadline, slot_id)
        if not self._desk.votes_on(slot_id[0]):
            return
        if slot.inherited is not None:
            self._lock_inherited(slot, slot.inherited, now)
        view = contest.next_view(self._committee)
        if view > slot.promised:
            self._reporting.promise(slot_id, slot, view, now)
        self._leading.lead(slot_id, slot, contest, now)
        self._judging.follow(slot_id, slot, contest, now, out)

    def inherit(self, slot_id: SlotId, prepared: Prepared, now: int) -> None:
        """Start a slot at view 1, with what the last epoch left prepared; its timer runs from now on.

        Lemma L6 (docs/ledger-proof.md): only what was left prepared can be LOCKed in such a slot.

        The certificate stands for "prepared in view 0": in that view such a slot has no votes, so that every
        view of this epoch comes after it.
        """
        slot = self._table.open_slot(slot_id)
        slot.inherited, slot.promised = prepared, max(slot.promised, 1)
        contest = self._table.contest(slot_id)
        if contest.entered < 1:
            contest.entered, contest.deadline = 1, now + self._first_ms
            self._later.add(contest.deadline, slot_id)
        contest.named[-1, False] = (prepared.operation,)
        self.exhibits.adopt(prepared.operation, 0, prepared.certificate, (1 << len(self._committee.keys)) - 1)
        candidate = self._table.candidates.get(prepared.operation)
        if candidate is not None and candidate.parsed is not None:
            self._archive.keep(candidate)

    def _lock_inherited(self, slot: Slot, prepared: Prepared, now: int) -> None:
        """ "Everybody LOCKs the highest one's operation at once, without PROPOSE"."""
        candidate = self._table.candidates.get(prepared.operation)
        if 1 in slot.locked or slot.promised > 1 or candidate is None or candidate not in slot.candidates:
            return
        slot.lock(1, candidate.id)
        self._archive.keep(candidate)
        self._desk.log.add(lock_entry(1, candidate.id), now)


__all__ = ["Contention"]
