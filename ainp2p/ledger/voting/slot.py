"""Counting votes: candidates, slots, and the two thresholds at which something happens. No I/O.

A *slot* is (object, seq); its *candidates* are operations that want to be the one decided there. A vote
names an operation only, so votes are counted per operation, also for one that is not held yet:

    (unknown) ──named by a vote──► named ──its bytes arrive──► held
    votes:  quorum of LOCK(v, x) ──► x is prepared in v        quorum of COMMIT(v, x) ──► x is final

Whose turn it is, and whether an operation is valid, is the validator's matter.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from ainp2p.errors import InvalidOperation
from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.rules.operations import ParsedOperation, SignedOperation
from ainp2p.ledger.rules.state import Changes
from ainp2p.ledger.voting.certificate import pack_place, unpack_place
from ainp2p.ledger.voting.handoff import Prepared
from ainp2p.ledger.voting.views import Contest
from ainp2p.ledger.voting.votelog import COMMIT, LOCK, VoteBatch

SlotId = tuple[bytes, int]  # object, seq
NO_SLOT: SlotId = (b"", 0)
ONE_POSITION = pack_place(0, 0, 1)
SOUGHT_MAX = 16  # questions for an operation that votes name: about a minute and a half of them


class Count:
    """The votes of one kind in one view for one candidate; `mask` has a bit per member."""

    __slots__ = ("mask", "places", "weight")

    def __init__(self) -> None:
        self.mask = 0
        self.weight = 0
        self.places: list[int] = []  # packed


class Candidate:
    """An operation that is not decided: its votes, and its bytes once they are held.

    Attributes:
        counts: by (view, kind) packed into one integer, since it is looked up for every vote.
        parsed: the operation, None while it is only named.
        slot: of a held operation; kept here, since it is looked up again and again.
        verified: its proof was checked against the object's keys.
        certificate: what makes it final where votes do not: the commit certificate that somebody showed.
        prepared: the highest view with a quorum of LOCKs, or None.
        final: the view with a quorum of COMMITs, or None.
        shown: a prepared certificate: (view, bytes) of one that was made, or that somebody showed.
        holders: a bit for each member that has it, besides those that voted for it.
        rivals: whether its slot has other candidates.
        valid_since: when it was first found valid, for the gate D; None before.
        changes: what it would change, as it was found valid.
        segment: number of the journal's write that holds its bytes; 0 while none does.
    """

    __slots__ = (
        "ask_at",
        "asked",
        "blocked_by",
        "certificate",
        "changes",
        "counts",
        "final",
        "holders",
        "id",
        "parsed",
        "prepared",
        "proofs",
        "rivals",
        "segment",
        "shown",
        "slot",
        "source",
        "valid_since",
        "verified",
    )

    def __init__(self, id_: bytes) -> None:
        self.id = id_
        self.counts: dict[int, Count] = {}
        self.parsed: ParsedOperation | None = None
        self.slot: SlotId = NO_SLOT
        self.proofs: tuple[ParsedOperation, ...] = ()  # further ones with the same id and another proof
        self.verified = False
        self.prepared: int | None = None
        self.shown: tuple[int, bytes] | None = None
        self.holders = 0
        self.final: int | None = None
        self.rivals = False
        self.valid_since: int | None = None
        self.changes: Changes | None = None
        self.segment = 0
        self.source = ""  # the peer whose quota it uses while it waits
        self.blocked_by = self.certificate = b""
        self.ask_at = self.asked = 0  # ms; how often others were asked for it

    @property
    def proof(self) -> SignedOperation:
        """A held operation as it travels."""
        assert self.parsed is not None
        return self.parsed.signed

    def voters(self) -> int:
        """A bit for each member that voted for it, or has told that it has it."""
        mask = self.holders
        for count in self.counts.values():
            mask |= count.mask
        return mask


class Slot:
    """One slot as its validator sees it.

    Attributes:
        candidates: those that are held.
        locked, committed: the votes that we have cast: view → operation.
        promised: the highest view for which we have sent a NEWVIEW: no vote below it any more.
        timed: the timer of view 0 was started.
        contest: None while nobody has spoken of a view above 0 and no timer has ended.
        inherited: the prepared certificate with which the slot starts this epoch at view 1, or None.
    """

    __slots__ = ("candidates", "committed", "contest", "inherited", "locked", "promised", "timed")

    def __init__(self) -> None:
        self.candidates: list[Candidate] = []
        self.locked: dict[int, bytes] = {}
        self.committed: dict[int, bytes] = {}
        self.promised = 0
        self.timed = False
        self.contest: Contest | None = None
        self.inherited: Prepared | None = None

    def lock(self, view: int, operation: bytes) -> None:
        """Note that we LOCK `operation` in `view`.

        Lemma L2 (docs/ledger-proof.md): one LOCK in each view.

        Raises:
            InvalidOperation: rule ``"locked"``: we LOCKed another one ("at most once per (slot, view)").
        """
        if self.locked.setdefault(view, operation) != operation:
            raise InvalidOperation("locked", f"another operation is LOCKed in view {view} of this slot")

    def commit(self, view: int, operation: bytes) -> bool:
        """Note that we COMMIT `operation` in `view`; False if we had already, or are past that view.

        Lemma L2 (docs/ledger-proof.md): nothing below one's NEWVIEW.

        Raises:
            InvalidOperation: rule ``"committed"``: we COMMITted another one there.
        """
        # "Nobody LOCKs or COMMITs in v after sending a NEWVIEW above v."
        if operation == self.committed.get(view) or view < self.promised:
            return False
        if self.committed.setdefault(view, operation) != operation:
            raise InvalidOperation("committed", f"another operation is COMMITted in view {view} of this slot")
        return True


@dataclass(slots=True)
class Counted:
    """What one batch of votes brought.

    Attributes:
        named: operations of which nothing was known.
        prepared, final: (candidate, view) that have just reached a quorum.
    """

    named: list[Candidate] = field(default_factory=list)
    prepared: list[tuple[Candidate, int]] = field(default_factory=list)
    final: list[tuple[Candidate, int]] = field(default_factory=list)


class VoteTable:
    """All candidates of an epoch and their votes, and the ids that were decided lately.

    Attributes:
        owed: per member, how many counts it was the first to open: what a member that votes for things
            nobody has can make others remember. Freed when the candidate goes.
        open_commits: slots that are not decided and in which we have COMMITted.
    """

    def __init__(self, committee: Committee, *, decided_max: int) -> None:
        self._committee = committee
        self.candidates: dict[bytes, Candidate] = {}
        self.slots: dict[SlotId, Slot] = {}
        self.owed = [0] * len(committee.keys)
        self.open_commits = 0
        self._decided: dict[bytes, bool] = {}  # False: another one was decided in its slot
        self._decided_order: deque[bytes] = deque()
        self._decided_max = decided_max

    # --- votes ----------------------------------------------------------------------------------

    def count(self, batch: VoteBatch) -> Counted:
        """Count a batch's votes; those for operations decided lately are passed over.

        Lemma L3 (docs/ledger-proof.md): at most one operation is prepared in a view; a member counts once.

        A repeated vote changes nothing. This loop runs eight times per decided operation at n = 4: it is
        written for speed.
        """
        found = Counted()
        member, height, quorum = batch.member, batch.header.height, self._committee.quorum
        bit, weight = 1 << member, self._committee.weights[member]
        candidates, decided = self.candidates, self._decided
        place = pack_place(member, height, 0) - ONE_POSITION
        for kind, view, id_ in batch.votes:
            place += ONE_POSITION
            candidate = candidates.get(id_)
            if candidate is None:
                if id_ in decided or kind > COMMIT:
                    continue
                candidate = candidates[id_] = Candidate(id_)
                found.named.append(candidate)
            key = view << 2 | kind
            count = candidate.counts.get(key)
            if count is None:
                count = candidate.counts[key] = Count()
                self.owed[member] += 1
            mask = count.mask
            if mask & bit:
                continue
            count.mask = mask | bit
            count.places.append(place)
            before = count.weight
            count.weight = after = before + weight
            if before < quorum <= after:
                (found.prepared if kind == LOCK else found.final).append((candidate, view))
        for candidate, view in found.prepared:
            candidate.prepared = view if candidate.prepared is None else max(view, candidate.prepared)
        for candidate, view in found.final:
            candidate.final = view if candidate.final is None else candidate.final
        return found

    # --- candidates -----------------------------------------------------------------------------

    def hold(self, parsed: ParsedOperation) -> Candidate:
        """Put an operation's bytes to its candidate and into its slot."""
        candidate = self.candidates.get(parsed.id)
        if candidate is None:
            candidate = self.candidates[parsed.id] = Candidate(parsed.id)
        if candidate.parsed is not None:
            return candidate
        candidate.parsed = parsed
        candidate.slot = slot_id = parsed.operation.object, parsed.operation.seq
        slot = self.open_slot(slot_id)
        slot.candidates.append(candidate)
        if len(slot.candidates) > 1:
            for each in slot.candidates:
                each.rivals = True
        return candidate

    def open_slot(self, slot_id: SlotId) -> Slot:
        """This slot, which is not decided."""
        slot = self.slots.get(slot_id)
        if slot is None:
            slot = self.slots[slot_id] = Slot()
        return slot

    def contest(self, slot_id: SlotId) -> Contest:
        """What is said of this slot's views; from now on it is contested."""
        slot = self.open_slot(slot_id)
        if slot.contest is None:
            slot.contest = Contest()
        return slot.contest

    def name(self, id_: bytes, holders: int) -> Candidate | None:
        """The candidate with this id, new or not, which these members have; None if it was decided lately."""
        candidate = self.candidates.get(id_)
        if candidate is None:
            if id_ in self._decided:
                return None
            candidate = self.candidates[id_] = Candidate(id_)
        candidate.holders |= holders
        return candidate

    def commit(self, candidate: Candidate, slot: Slot, view: int) -> bool:
        """Note that we COMMIT a held candidate of this slot; as `Slot.commit`."""
        first = not slot.committed
        done = slot.commit(view, candidate.id)
        self.open_commits += done and first
        return done

    def slot_of(self, candidate: Candidate) -> Slot:
        """The slot that a held candidate is in."""
        return self.slots[candidate.slot]

    def places(self, candidate: Candidate, kind: int, view: int) -> tuple[int, ...]:
        """Where the votes of this kind and view are, packed."""
        return tuple(candidate.counts[view << 2 | kind].places)

    def decide(self, candidate: Candidate) -> list[Candidate]:
        """Forget a decided slot, all its candidates and their votes; returns the losers."""
        slot = self.slots.pop(candidate.slot)
        self.open_commits -= bool(slot.committed)
        for each in slot.candidates:
            self._remove(each)
        if len(slot.candidates) > 1 or slot.contest is not None:
            self._end_contest(slot)
        self.remember(candidate.id)
        if len(slot.candidates) == 1:
            return []
        return [each for each in slot.candidates if each is not candidate]

    def _end_contest(self, slot: Slot) -> None:
        """Pass over the losers from now on, and forget what was said about views."""
        for loser in slot.candidates:
            self.remember(loser.id, decided=False)
        if slot.contest is None:
            return
        for member in slot.contest.speakers:
            self.owed[member] -= 1
        for id_ in {id_ for ids in slot.contest.named.values() for id_ in ids}:
            named = self.candidates.get(id_)
            if named is not None and named.parsed is None and not named.counts:
                del self.candidates[id_]

    def pass_over(self, candidate: Candidate) -> None:
        """Another operation was decided in this one's slot: forget it, and later votes for it."""
        self.drop(candidate)
        self.remember(candidate.id, decided=False)

    def let_go(self, candidate: Candidate) -> None:
        """Forget a candidate's bytes, and all of it if nobody voted for it; our own votes stay noted."""
        if candidate.parsed is not None:
            slot = self.slots[candidate.slot]
            slot.candidates.remove(candidate)
            if not (slot.candidates or slot.locked or slot.committed or slot.contest):
                del self.slots[candidate.slot]
        candidate.parsed, candidate.verified, candidate.rivals = None, False, False
        candidate.segment = 0  # whoever votes for it later has its bytes written once more
        if not (candidate.counts or candidate.holders):
            self.candidates.pop(candidate.id, None)

    def drop(self, candidate: Candidate) -> None:
        """Forget a candidate and the votes for it."""
        self.let_go(candidate)
        self._remove(candidate)

    def _remove(self, candidate: Candidate) -> None:
        self.candidates.pop(candidate.id, None)
        for count in candidate.counts.values():
            self.owed[count.places[0] & 0xFF] -= 1  # `unpack_place`, for each operation

    def remember(self, id_: bytes, *, decided: bool = True) -> None:
        """Pass over late votes for this operation; of too many such ids the oldest is forgotten."""
        if id_ in self._decided:
            self._decided[id_] = self._decided[id_] or decided
        else:
            self._decided[id_] = decided
            self._decided_order.append(id_)
            if len(self._decided_order) > self._decided_max:
                del self._decided[self._decided_order.popleft()]

    def was_decided(self, id_: bytes) -> bool:
        """Whether this operation was decided lately (an older one may be forgotten)."""
        return self._decided.get(id_, False)

    def lowest_heights(self) -> dict[int, int]:
        """Per member, the lowest height of its batches that a candidate's vote is in."""
        lowest: dict[int, int] = {}
        for candidate in self.candidates.values():
            if self._is_sought_in_vain(candidate):
                continue
            for count in candidate.counts.values():
                for member, height, _ in map(unpack_place, count.places):
                    if height < lowest.get(member, height + 1):
                        lowest[member] = height
        for slot in self.slots.values():
            if slot.contest is not None and not self._is_talk(slot, slot.contest):
                for member, height in slot.contest.heights():
                    lowest[member] = min(height, lowest.get(member, height))
        return lowest

    # What less than one correct member stands behind must not make each restart read from there on until the
    # epoch ends. A vote of a correct member that is forgotten thus, with its slot undecided for long and its
    # operation nowhere to be had, costs a view: its NEWVIEW brings the operation back.

    def _is_sought_in_vain(self, candidate: Candidate) -> bool:
        """An operation that at most a third of the weight has ever named, and nobody hands out."""
        if candidate.parsed is not None or candidate.asked < SOUGHT_MAX or candidate.prepared is not None:
            return False
        return self._weight(candidate.voters()) < self._committee.minority

    def _is_talk(self, slot: Slot, contest: Contest) -> bool:
        """NEWVIEWs of at most a third for a slot in which nothing is held here and nothing was said by us."""
        if slot.candidates or slot.locked or slot.committed or slot.promised or slot.inherited is not None:
            return False
        return self._committee.weight_of(contest.speakers) < self._committee.minority

    def _weight(self, mask: int) -> int:
        return self._committee.weight_of(m for m in range(len(self._committee.keys)) if mask >> m & 1)


__all__ = ["COMMIT", "LOCK", "Candidate", "Count", "Counted", "Slot", "SlotId", "VoteTable"]
