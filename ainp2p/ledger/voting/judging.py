"""What everybody makes of a leader's proposal: re-check what justifies it, and LOCK. No I/O.

LEDGER.md, "Deciding a slot", 4: "everybody re-checks the attached justification, every candidate in it
against the slot's state; one invalid candidate makes the proposal void."

    PROPOSE ──justification here?──► no: asked for, first of its leader
                                 └─► void ──► never LOCKed
                                 └─► what follows from it is what is proposed, and is here ──► LOCK
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from ainp2p.errors import InvalidOperation, LedgerError, NotYet, RemoteError
from ainp2p.ledger.rules.operations import ParsedOperation
from ainp2p.ledger.voting.confirming import candidate_of, confirm
from ainp2p.ledger.voting.desk import Desk
from ainp2p.ledger.voting.effects import Effects, Wanted
from ainp2p.ledger.voting.exhibits import LOOSE_MAX, Exhibits
from ainp2p.ledger.voting.justification import Justification, Shown, choose, read_justification, verify
from ainp2p.ledger.voting.picking import Conflict
from ainp2p.ledger.voting.slot import Candidate, Slot, SlotId
from ainp2p.ledger.voting.views import Contest
from ainp2p.ledger.voting.votelog import Propose, lock_entry

FOLLOWER_AHEAD_MS = 120_000  # "more than 120 s ahead, or unconfirmed, is not LOCKed"
ASK_AGAIN_MS = 500  # for a justification


class Judging:
    """One validator as a follower."""

    def __init__(self, desk: Desk, exhibits: Exhibits, wake_at: Callable[[int, SlotId], None]) -> None:
        """Begin with nothing judged.

        Args:
            wake_at: (ms, slot): have that slot looked at then.
        """
        self._desk, self._exhibits, self._wake_at = desk, exhibits, wake_at
        self._committee, self._table, self._archive = desk.committee, desk.table, desk.archive
        self._judged: OrderedDict[bytes, Shown | None] = OrderedDict()  # None: it proves nothing
        self._asked: dict[bytes, tuple[int, int]] = {}  # missing: when to ask again, how often we did

    def has_judged(self, id_: bytes) -> bool:
        """Whether it is known what this justification shows."""
        return id_ in self._judged

    def clock_put_back(self) -> None:
        """Ask anew for what is missing."""
        self._asked.clear()

    def follow(self, slot_id: SlotId, slot: Slot, contest: Contest, now: int, out: Effects) -> None:
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
            raw = self._exhibits.attachment(proposal.justification)
            if raw is not None:
                self._exhibits.keep(contest, raw)
            self._desk.log.add(lock_entry(proposal.view, candidate.id, proposal.justification), now)
            return

    def _judge(self, slot_id: SlotId, proposal: Propose, now: int, out: Effects) -> Candidate | None:
        """The candidate to LOCK, or None: the proposal is void, or something is missing.

        Lemma L5 (docs/ledger-proof.md): only what a justification makes follow; what is prepared comes first.
        Lemma L9: what was picked gets our LOCK only if it is not below a held receipt.
        """
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
            lock = self._desk.state.locks.get(slot_id[0])
            if lock is not None and not self._desk.receipts.allow(lock, chosen):
                # We may have named it before the receipt came. In the next view we name the receipt's.
                return None
        candidate = candidate_of(self._desk, chosen)
        return candidate if candidate.id == proposal.operation else None

    def _judge_prepared(self, slot_id: SlotId, proposal: Propose, shown: Shown) -> Candidate | None:
        assert shown.prepared is not None
        assert shown.justification.prepared is not None
        view, id_ = shown.prepared
        if id_ != proposal.operation:
            return None
        mask = sum(1 << member for member in shown.reports)
        self._exhibits.adopt(id_, view, shown.justification.prepared, mask)
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
            held = self._exhibits.name(proof.id, sum(1 << member for member in shown.reports))
            if held is None or held.parsed is None:
                raise NotYet("unknown-operation", "not here yet")
            parsed = proof.of(held.parsed.raw)
            if (parsed.operation.object, parsed.operation.seq) != slot_id:
                raise InvalidOperation("justification", "a candidate of another slot")
            confirm(self._desk, parsed, now, None)
            candidates[parsed.id] = parsed
        return choose(shown.reports, candidates, self._committee)

    def _shown(self, slot_id: SlotId, proposal: Propose, now: int, out: Effects) -> Shown | None:
        """What the proposal's justification shows; None if it is void or not here (then ask for it)."""
        digest = proposal.justification
        if digest in self._judged:
            shown = self._judged[digest]
        else:
            raw = self._exhibits.attachment(digest)
            if raw is None:
                self._ask(slot_id, proposal, now, out)
                return None
            self._asked.pop(digest, None)
            shown = self._judged[digest] = self._verified(raw)
            if len(self._judged) > LOOSE_MAX:
                self._judged.popitem(last=False)
        # Of what slot and view it is has nothing to do with what it shows: somebody may propose there with
        # another leader's justification, which stays good where it belongs.
        if shown is None or not _is_for(shown.justification, slot_id, proposal.view):
            return None
        return shown

    def _verified(self, raw: bytes) -> Shown | None:
        """What a justification of this epoch shows of its own slot, None if nothing."""
        try:
            justification = read_justification(raw)
            if justification.epoch != self._desk.epoch:
                return None
            slot = self._table.slots.get((justification.object, justification.seq))
            began = slot.inherited if slot is not None else None
            inherited = None if began is None else (began.operation, began.certificate)
            network = self._desk.state.network
            return verify(justification, network, self._committee, self._exhibits.seen.check, inherited)
        except (LedgerError, RemoteError):
            return None

    def _ask(self, slot_id: SlotId, proposal: Propose, now: int, out: Effects) -> None:
        digest = proposal.justification
        at, asked = self._asked.get(digest, (now + 50, -1))  # it was pushed at the same time
        if asked >= 0 and now >= at:
            everybody = (1 << len(self._committee.keys)) - 1
            first = self._desk.leader(slot_id, proposal.view)
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
        self._wake_at(at, slot_id)


def _is_for(justification: Justification, slot_id: SlotId, view: int) -> bool:
    return (justification.object, justification.seq, justification.view) == (*slot_id, view)


__all__ = ["ASK_AGAIN_MS", "FOLLOWER_AHEAD_MS", "Judging"]
