"""What a validator does in a contested slot: NEWVIEW, PROPOSE, and LOCK on what a leader proposes. No I/O.

    timers, others' entries, candidates that become valid ──► review(slot)
    review: start the view's timer, send a NEWVIEW, lead, follow: whatever is due, once

LEDGER.md, "Deciding a slot", 3 and 4. COMMITs need nothing of this: a quorum of LOCKs is a prepared
certificate in every view. What follows from NEWVIEWs is in `justification`, when to go further in `views`.
"""

from __future__ import annotations

from collections import OrderedDict

from ainp2p.errors import InvalidOperation, LedgerError, NotYet, RemoteError
from ainp2p.ledger import accounts
from ainp2p.ledger.attachments import CERTIFIED, JUSTIFICATION, attachment_id, attachment_tag
from ainp2p.ledger.attested import attest
from ainp2p.ledger.certificate import (
    build_certificate,
    read_certificate,
    unpack_place,
    verify_decided,
    verify_prepared,
)
from ainp2p.ledger.desk import Desk
from ainp2p.ledger.effects import Effects, Wanted
from ainp2p.ledger.handoff import Prepared
from ainp2p.ledger.justification import (
    Certified,
    Justification,
    Proof,
    Shown,
    choose,
    claim_of,
    highest_report,
    read_certified,
    read_justification,
    verify,
)
from ainp2p.ledger.operations import ParsedOperation, SignedOperation, Spend, Void, parse
from ainp2p.ledger.picking import Conflict, leader, rank
from ainp2p.ledger.seen_votes import SeenVotes
from ainp2p.ledger.slot import Candidate, Slot, SlotId
from ainp2p.ledger.state import is_gated
from ainp2p.ledger.views import Contest, FirstTimers, Heard, LaterTimers
from ainp2p.ledger.votelog import (
    LOCK,
    NewView,
    Propose,
    VoteBatch,
    has_views,
    lock_entry,
    newview_entry,
    propose_entry,
    read_entries,
)
from ainp2p.protocol.codec import encode

LEADER_AHEAD_MS = 60_000  # "or that is more than 60 s ahead"
FOLLOWER_AHEAD_MS = 120_000  # "more than 120 s ahead, or unconfirmed, is not LOCKed"
ASK_AGAIN_MS = 500  # for a justification
LOOSE_MAX = 256  # attachments kept that nothing held rests on: they may come before the entry that names them
ANSWERS_MAX = 16_384  # commit certificates that we owe to whoever sent a NEWVIEW for a decided slot
ANSWERS_PER_TICK = 16
ANSWER_EVERY_MS = 20

# "No other local clock is consulted in views >= 1."
_CLOCKS = frozenset({"not-expired", "epoch-running"})


class Contention:
    """The contested slots of one validator."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._committee, self._table, self._archive = desk.committee, desk.table, desk.archive
        self._first = FirstTimers(desk.table.slots)
        self._later = LaterTimers()
        self._first_ms = desk.parameters.vote_timeout_ms
        self._seen = SeenVotes()
        self._loose: OrderedDict[bytes, bytes] = OrderedDict()
        self._judged: OrderedDict[bytes, Shown | None] = OrderedDict()  # None: it proves nothing
        self._asked: dict[bytes, tuple[int, int]] = {}  # missing: when to ask again, how often we did
        self._answers: OrderedDict[SlotId, None] = OrderedDict()
        self._answer_at = 0
        self._asleep = False  # restored, and not looked at since

    # --- time -------------------------------------------------------------------------------------

    def start_timer(self, slot_id: SlotId, slot: Slot, now: int) -> None:
        """An operation was LOCKed here, or a second one is valid: view 0 has T from now on."""
        if not slot.timed:
            slot.timed = True
            self._first.add(now + self._first_ms, slot_id)

    @property
    def due(self) -> int | None:
        """When `run_timers` is needed next."""
        if self._asleep:
            return 0
        times = [time for time in (self._first.due, self._later.due) if time is not None]
        if self._answers:
            times.append(self._answer_at)
        return min(times) if times else None

    def run_timers(self, now: int, out: Effects) -> None:
        """Take note of the timers that have ended."""
        if self._asleep:
            self._wake_up(now, out)
        for slot_id in self._first.ended(now):
            contest = self._contest(slot_id)
            contest.expired = max(contest.expired, 0)
            self.review(slot_id, now, out)
        for slot_id in self._later.ended(now):
            slot = self._table.slots.get(slot_id)
            if slot is None or slot.contest is None:
                continue
            if slot.contest.deadline is not None and slot.contest.deadline <= now:
                slot.contest.expired, slot.contest.deadline = slot.contest.entered, None
            self.review(slot_id, now, out)
        if self._answers and now >= self._answer_at:
            self._answer(now, out)

    def restored(self) -> None:
        """Timers have to be started anew, at the first time that we are told."""
        self._asleep = True

    def _wake_up(self, now: int, out: Effects) -> None:
        self._asleep = False
        for slot_id, slot in list(self._table.slots.items()):
            if slot.locked or len(slot.candidates) > 1:
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
        self._asked.clear()
        self._answer_at = min(self._answer_at, now)
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
                self._owe_answer(slot_id, now)
            return False
        if isinstance(entry, Propose) and entry.view == 0:
            return False
        if isinstance(entry, Propose) and member != self._leader(slot_id, entry.view):
            return False
        contest = self._contest(slot_id)
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
                self._name(id_, 1 << member)
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
            self._take_certificate(read_certified(raw).certificate, now)
        elif tag == JUSTIFICATION:
            justification = read_justification(raw)
            id_ = attachment_id(raw)
            if id_ in self._judged or self.attachment(id_) is not None:
                return
            self._loose[id_] = raw
            if len(self._loose) > LOOSE_MAX:
                self._loose.popitem(last=False)
            self.review((justification.object, justification.seq), now, out)

    def restore_attachment(self, raw: bytes, segment: int) -> None:
        """One of our own disk, so it was checked before: what our votes rest on."""
        if attachment_tag(raw) == JUSTIFICATION:
            justification = read_justification(raw)
            slot_id = justification.object, justification.seq
            if self._desk.state.head(slot_id[0])[0] < slot_id[1]:
                self._contest(slot_id).kept[attachment_id(raw)] = segment
            return
        certified = read_certified(raw).certificate
        certificate = read_certificate(certified)
        candidate = self._table.candidates.get(certificate.operation)
        if candidate is not None and candidate.parsed is not None:
            self._contest(candidate.slot).kept[attachment_id(raw)] = segment
            if certificate.epoch == self._desk.epoch:
                self._adopt(candidate.id, certificate.view, certified, 0)

    def attachment(self, id_: bytes) -> bytes | None:
        """A held attachment."""
        return self._loose.get(id_) or self._archive.attachment(id_)

    def _take_certificate(self, raw: bytes, now: int) -> None:
        certificate = read_certificate(raw)
        id_ = certificate.operation
        if self._table.was_decided(id_) or self._archive.find(id_) is not None:
            return
        mask = sum(1 << vote.member for vote in certificate.votes)
        known = self._table.candidates.get(id_)
        if certificate.kind == LOCK and certificate.epoch != self._desk.epoch:
            return  # of a slot that began with it: everybody has it who may vote
        if certificate.kind == LOCK:
            if known is not None and known.shown is not None and known.shown[0] >= certificate.view:
                return
            view, _ = verify_prepared(raw, self._committee, self._desk.epoch, self._desk.state.network)
            self._adopt(id_, view, raw, mask)
            return
        committee = self._desk.state.committee(certificate.epoch)
        network = self._desk.state.network
        view, _ = verify_decided(raw, committee, certificate.epoch, network, self._seen.check)
        candidate = self._name(id_, mask)
        if candidate is not None and candidate.final is None:
            candidate.final, candidate.certificate = view, raw
            self._desk.room.work.append(candidate)

    def _adopt(self, id_: bytes, view: int, raw: bytes, mask: int) -> None:
        """Hold somebody's prepared certificate, which was verified, as if its LOCKs had been counted here."""
        candidate = self._name(id_, mask)
        if candidate is None or (candidate.shown is not None and candidate.shown[0] >= view):
            return
        candidate.shown = view, raw
        candidate.prepared = view if candidate.prepared is None else max(view, candidate.prepared)
        self._desk.room.work.append(candidate)

    def _name(self, id_: bytes, mask: int) -> Candidate | None:
        """The candidate with this id, which these members have; None if it was decided."""
        candidate = self._table.name(id_, mask)
        if candidate is not None and candidate.parsed is None:
            self._desk.room.work.append(candidate)
        return candidate

    def _contest(self, slot_id: SlotId) -> Contest:
        slot = self._table.open_slot(slot_id)
        if slot.contest is None:
            slot.contest = Contest()
        return slot.contest

    def _leader(self, slot_id: SlotId, view: int) -> int:
        return leader(self._committee, self._desk.epoch, *slot_id, view)

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
            self._promise(slot_id, slot, view, now)
        self._lead(slot_id, slot, contest, now)
        self._follow(slot_id, slot, contest, now, out)

    def inherit(self, slot_id: SlotId, prepared: Prepared, now: int) -> None:
        """Start a slot at view 1, with what the last epoch left prepared; its timer runs from now on.

        The certificate stands for "prepared in view 0": in that view such a slot has no votes, so that every
        view of this epoch comes after it.
        """
        slot = self._table.open_slot(slot_id)
        slot.inherited, slot.promised = prepared, max(slot.promised, 1)
        contest = self._contest(slot_id)
        if contest.entered < 1:
            contest.entered, contest.deadline = 1, now + self._first_ms
            self._later.add(contest.deadline, slot_id)
        contest.named[-1, False] = (prepared.operation,)
        self._adopt(prepared.operation, 0, prepared.certificate, (1 << len(self._committee.keys)) - 1)

    def _lock_inherited(self, slot: Slot, prepared: Prepared, now: int) -> None:
        """ "Everybody LOCKs the highest one's operation at once, without PROPOSE"."""
        candidate = self._table.candidates.get(prepared.operation)
        if 1 in slot.locked or slot.promised > 1 or candidate is None or candidate not in slot.candidates:
            return
        slot.lock(1, candidate.id)
        self._archive.keep(candidate)
        self._desk.log.add(lock_entry(1, candidate.id), now)

    def _promise(self, slot_id: SlotId, slot: Slot, view: int, now: int) -> None:
        """Send NEWVIEW(view) if we have anything to say."""
        highest = max(
            ((each.prepared, each) for each in slot.candidates if each.prepared is not None),
            key=lambda pair: pair[0],
            default=None,
        )
        below = -1 if highest is None else highest[0]
        if max(slot.committed, default=-1) > below:
            return  # what we COMMITted on is not here again yet; reporting less would be an offence
        if below >= view:
            return  # more than we would ask for: others were there without us
        if highest is not None:
            raw = self.certificate(highest[1], highest[0])
            if raw is None:
                return
            attached = encode(Certified(raw))
            self._contest(slot_id).kept[attachment_id(attached)] = self._archive.attach(attached)
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
        """The valid operation held that comes first in `pick`'s order, its gate passed here if it has one."""
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
        if offered is None or offered.id in self._table.candidates:
            return
        self._desk.room.work.append(self._table.hold(offered)[0])  # once it is checked there is a review

    def certificate(self, candidate: Candidate, view: int) -> bytes | None:
        """The prepared certificate of this view, if its LOCKs are here or somebody has shown it."""
        if candidate.shown is not None and candidate.shown[0] == view:
            return candidate.shown[1]
        count = candidate.counts.get(view << 2 | LOCK)
        if count is None or count.weight < self._committee.quorum:
            return None
        raw = build_certificate(map(unpack_place, count.places), self._archive.batch, self._committee)
        candidate.shown = view, raw
        return raw

    # --- leading ----------------------------------------------------------------------------------

    def _lead(self, slot_id: SlotId, slot: Slot, contest: Contest, now: int) -> None:
        """PROPOSE in the view that a quorum has entered, if it is ours."""
        view = contest.entered
        if view == 0 or contest.proposed >= view or slot.promised > view:
            return
        if self._leader(slot_id, view) != self._desk.member:
            return
        made = self._justify(slot_id, contest.in_view(view), view, now)
        if made is None:
            return
        value, raw = made
        contest.proposed = view
        digest = attachment_id(raw)
        contest.kept[digest] = self._archive.attach(raw)
        self._loose[digest] = raw
        self._desk.log.add(propose_entry(view, value, digest, *slot_id), now)

    def _justify(
        self, slot_id: SlotId, heard: dict[int, Heard], view: int, now: int
    ) -> tuple[bytes, bytes] | None:
        """(operation, encoded justification), or None while these NEWVIEWs do not lead to one."""
        reports = {member: each.report for member, each in heard.items()}
        certificate = None
        while certificate is None and (claim := highest_report(reports)) is not None:
            candidate = self._table.candidates.get(claim[1])
            certificate = self.certificate(candidate, claim[0]) if candidate is not None else None
            # What cannot be shown is left out, and so is what contradicts the one that can.
            reports = {
                member: report
                for member, report in reports.items()
                if (other := claim_of(report)) is None
                or (certificate is None and other != claim)
                or (certificate is not None and (other == claim or other[0] < claim[0]))
            }
        proofs: tuple[Proof, ...] = ()
        if certificate is not None:
            assert claim is not None
            held = self._table.candidates.get(claim[1])
            if held is None or held.parsed is None:
                return None
            value = claim[1]
        else:
            candidates = self._servable(slot_id, reports, now)
            reports = {m: report for m, report in reports.items() if report.candidate in candidates}
            candidates = {
                id_: candidates[id_] for id_ in {report.candidate or b"" for report in reports.values()}
            }
            chosen = choose(reports, candidates, self._committee)
            if chosen is None:
                return None
            value = self._candidate_of(chosen).id
            proofs = tuple(
                Proof(id_, candidates[id_].signed.signatures, candidates[id_].signed.closer)
                for id_ in sorted(candidates)
            )
        if self._committee.weight_of(reports) < self._committee.quorum:
            return None
        newviews = tuple(
            attest(self._archive.batch(member, heard[member].height), heard[member].position)
            for member in sorted(reports)
        )
        made = Justification(self._desk.epoch, *slot_id, view, newviews, certificate, proofs)
        return value, encode(made)

    def _servable(
        self, slot_id: SlotId, reports: dict[int, NewView], now: int
    ) -> dict[bytes, ParsedOperation]:
        """The candidates of these NEWVIEWs that we can confirm ourselves, and serve."""
        found: dict[bytes, ParsedOperation] = {}
        for report in reports.values():
            candidate = self._table.candidates.get(report.candidate or b"")
            if candidate is None or candidate.parsed is None or candidate.slot != slot_id:
                continue
            try:
                self._confirm(candidate.parsed, now, LEADER_AHEAD_MS, proof_verified=candidate.verified)
            except (LedgerError, RemoteError):
                continue
            found[candidate.id] = candidate.parsed
        return found

    def _confirm(
        self, parsed: ParsedOperation, now: int, ahead_ms: int | None, *, proof_verified: bool = False
    ) -> None:
        """Check a candidate against the slot's state; clocks as far as views above 0 look at them.

        Raises:
            NotYet: not now.
            LedgerError, RemoteError: never.
        """
        try:
            self._desk.state.check(parsed, now, proof_verified=proof_verified)
        except NotYet as exc:
            if exc.rule in _CLOCKS:
                return
            ahead = (parsed.operation.timestamp or 0) - now
            if exc.rule != "clock-ahead" or (ahead_ms is not None and ahead > ahead_ms):
                raise

    def _candidate_of(self, chosen: ParsedOperation | Conflict) -> Candidate:
        """The held candidate that was chosen; the slot's VOID for two that conflict."""
        if isinstance(chosen, Conflict):
            parsed = self._void(chosen)
            candidate, _ = self._table.hold(parsed)
            candidate.verified = True  # it has no proof: what it rests on is in the justification
            return candidate
        return self._table.hold(chosen)[0]

    def _void(self, conflict: Conflict) -> ParsedOperation:
        operation = conflict.first.operation
        body = operation.body
        assert isinstance(body, Spend)
        state = self._desk.state
        account = state.accounts.get(operation.object)
        if account is None:
            assert body.inception is not None
            account = accounts.unopened_account(state.network, body.inception)
        void = accounts.void(account, body.inception, self._desk.parameters, state.network)
        return parse(SignedOperation(encode(void), (), None))

    # --- following --------------------------------------------------------------------------------

    def _follow(self, slot_id: SlotId, slot: Slot, contest: Contest, now: int, out: Effects) -> None:
        """LOCK what a leader proposes in the highest view that we may still vote in."""
        for proposal, _ in sorted(contest.proposals.values(), key=lambda pair: -pair[0].view):
            # "Nobody LOCKs or COMMITs in v after sending a NEWVIEW above v."
            if proposal.view < slot.promised or proposal.view in slot.locked:
                continue
            candidate = self._judge(slot_id, proposal, now, out)
            if candidate is None:
                continue
            slot.lock(proposal.view, candidate.id)
            self._archive.keep(candidate)
            raw = self.attachment(proposal.justification)
            if raw is not None:
                contest.kept[proposal.justification] = self._archive.store(raw)
            self._desk.log.add(lock_entry(proposal.view, candidate.id, proposal.justification), now)
            return

    def _judge(self, slot_id: SlotId, proposal: Propose, now: int, out: Effects) -> Candidate | None:
        """The candidate to LOCK, or None: the proposal is void, or something is missing."""
        shown = self._shown(slot_id, proposal, now, out)
        if shown is None:
            return None
        if shown.prepared is not None:
            return self._judge_prepared(slot_id, proposal, shown)
        try:
            chosen = self._judge_candidates(slot_id, shown, now)
        except NotYet:
            return None  # "unconfirmed, is not LOCKed"
        except (LedgerError, RemoteError):
            self._judged[proposal.justification] = None  # "one invalid candidate makes the proposal void"
            return None
        if chosen is None:
            return None
        if not isinstance(chosen, Conflict):
            ahead = (chosen.operation.timestamp or 0) - now
            if chosen.id != proposal.operation or ahead > FOLLOWER_AHEAD_MS:
                return None
        candidate = self._candidate_of(chosen)
        return candidate if candidate.id == proposal.operation else None

    def _judge_prepared(self, slot_id: SlotId, proposal: Propose, shown: Shown) -> Candidate | None:
        assert shown.prepared is not None
        assert shown.justification.prepared is not None
        view, id_ = shown.prepared
        if id_ != proposal.operation:
            return None
        mask = sum(1 << member for member in shown.reports)
        self._adopt(id_, view, shown.justification.prepared, mask)
        candidate = self._table.candidates.get(id_)
        if candidate is None or candidate.parsed is None or candidate.slot != slot_id:
            return None
        return candidate  # "a prepared certificate stands in for one's own validation"

    def _judge_candidates(self, slot_id: SlotId, shown: Shown, now: int) -> ParsedOperation | Conflict | None:
        """What follows from the candidates, each re-checked.

        Raises:
            NotYet: one is not here, or cannot be confirmed yet.
            LedgerError, RemoteError: one is not valid.
        """
        candidates: dict[bytes, ParsedOperation] = {}
        for proof in shown.justification.candidates:
            held = self._name(proof.id, sum(1 << member for member in shown.reports))
            if held is None or held.parsed is None:
                raise NotYet("unknown-operation", "not here yet")
            parsed = proof.of(held.parsed.raw)
            if (parsed.operation.object, parsed.operation.seq) != slot_id:
                raise InvalidOperation("justification", "a candidate of another slot")
            self._confirm(parsed, now, None)
            candidates[parsed.id] = parsed
        return choose(shown.reports, candidates, self._committee)

    def _shown(self, slot_id: SlotId, proposal: Propose, now: int, out: Effects) -> Shown | None:
        """What the proposal's justification shows; None if it is void or not here (then ask for it)."""
        digest = proposal.justification
        if digest in self._judged:
            return self._judged[digest]
        raw = self.attachment(digest)
        if raw is None:
            self._ask(slot_id, proposal, now, out)
            return None
        self._asked.pop(digest, None)
        shown: Shown | None = None
        try:
            justification = read_justification(raw)
            began = self._table.open_slot(slot_id).inherited
            inherited = None if began is None else (began.operation, began.certificate)
            network = self._desk.state.network
            shown = verify(justification, network, self._committee, self._seen.check, inherited)
            said = (justification.epoch, justification.object, justification.seq, justification.view)
            if said != (self._desk.epoch, *slot_id, proposal.view):
                shown = None
        except (LedgerError, RemoteError):
            shown = None
        self._judged[digest] = shown
        if len(self._judged) > LOOSE_MAX:
            self._judged.popitem(last=False)
        return shown

    def _ask(self, slot_id: SlotId, proposal: Propose, now: int, out: Effects) -> None:
        digest = proposal.justification
        at, asked = self._asked.get(digest, (now + 50, -1))  # it was pushed at the same time
        if asked >= 0 and now >= at:
            everybody = (1 << len(self._committee.keys)) - 1
            first = self._leader(slot_id, proposal.view)
            out.missing.append(Wanted(digest, self._desk.keys_of(everybody if asked else 1 << first)))
            at = now + ASK_AGAIN_MS
            asked += 1
        elif asked < 0:
            asked = 0
        else:
            return
        if len(self._asked) > LOOSE_MAX:
            self._asked.clear()
        self._asked[digest] = at, asked
        self._later.add(at, slot_id)

    # --- answering --------------------------------------------------------------------------------

    def _owe_answer(self, slot_id: SlotId, now: int) -> None:
        """A NEWVIEW came for a slot that is decided here: its sender may never see the COMMITs otherwise."""
        if not self._answers:
            self._answer_at = now + ANSWER_EVERY_MS
        self._answers[slot_id] = None
        if len(self._answers) > ANSWERS_MAX:
            self._answers.popitem(last=False)

    def _answer(self, now: int, out: Effects) -> None:
        for _ in range(min(ANSWERS_PER_TICK, len(self._answers))):
            (object_, seq), _ = self._answers.popitem(last=False)
            id_ = self._archive.decided_at(object_, seq, self._desk.state.head(object_))
            certificate = self._archive.certificate(id_) if id_ is not None else None
            if certificate:
                out.attachments.append(encode(Certified(certificate)))
        self._answer_at = now + ANSWER_EVERY_MS


__all__ = ["Contention"]
