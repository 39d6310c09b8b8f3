"""The auditor: invariants 1 to 10 of LEDGER.md over everything that correct validators write, send and show.

It reads records and certificates by itself (`struct`, hashes, `verify`), counts weights by itself, and keeps
the accounts in a `Book` of its own. What it relies on: it sees each batch when its signer writes it, before
anybody else can, and each operation when it is made.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from ainp2p.errors import InvalidOperation, Malformed
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.rules.operations import (
    Close,
    NextCommittee,
    ParsedOperation,
    Recover,
    Refund,
    Settle,
    SignedOperation,
    Spend,
    Void,
    parse,
)
from ainp2p.ledger.rules.state import State
from ainp2p.ledger.voting.certificate import read_certificate
from ainp2p.ledger.voting.effects import Records
from ainp2p.ledger.voting.handoff import read_handoff
from ainp2p.ledger.voting.justification import read_justification
from ainp2p.ledger.voting.votelog import VoteBatch
from ainp2p.protocol.codec import encode
from ainp2p.protocol.identity import digest
from tests.adversary.book import Book, Deposit, Purse, Refused, fits
from tests.adversary.closings import Closings
from tests.adversary.disks import Disks
from tests.adversary.marks import sometimes
from tests.adversary.violation import demand

Slot = tuple[bytes, int]
LOCK, COMMIT, LOCK_JUSTIFIED, NEWVIEW, PROPOSE, HANDOFF = range(1, 7)
_SIZES = {LOCK: 37, COMMIT: 37, LOCK_JUSTIFIED: 69, NEWVIEW: 113, PROPOSE: 109, HANDOFF: 33}
NOTHING = bytes(32)
AHEAD_MS = 60_000  # "last timestamp ≤ timestamp ≤ now + 60 s"
CONTACT_GAP_MS = 60_000  # "gaps under 60 s do not reset"
SEALED_MS = 20  # a vote is written, which is when it is judged, so long after it was decided on


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of a vote log, as its bytes say."""

    kind: int
    view: int = 0
    operation: bytes = NOTHING  # of a NEWVIEW the prepared one
    justification: bytes | None = None
    slot: Slot = (NOTHING, 0)
    prepared: int | None = None  # of a NEWVIEW
    candidate: bytes = NOTHING  # of a NEWVIEW


def read_records(entries: bytes) -> list[Record]:
    """All entries of a batch."""
    records, at = [], 0
    while at < len(entries):
        kind = entries[at]
        part = entries[at + 1 : at + _SIZES[kind]]
        at += _SIZES[kind]
        if kind in (LOCK, COMMIT):
            records.append(Record(kind, *struct.unpack(">I32s", part)))
        elif kind == LOCK_JUSTIFIED:
            view, operation, justification = struct.unpack(">I32s32s", part)
            records.append(Record(LOCK, view, operation, justification))
        elif kind == NEWVIEW:
            view, object_, seq, above, operation, candidate = struct.unpack(">I32sQI32s32s", part)
            prepared = above - 1 if above else None
            records.append(Record(kind, view, operation, None, (object_, seq), prepared, candidate))
        elif kind == PROPOSE:
            view, operation, justification, object_, seq = struct.unpack(">I32s32s32sQ", part)
            records.append(Record(kind, view, operation, justification, (object_, seq)))
        else:
            records.append(Record(kind, 0, part))
    return records


@dataclass
class Log:
    """What one validator has written, ever: it survives its disk."""

    height: int
    head: bytes
    locks: dict[tuple[Slot, int], bytes] = field(default_factory=dict)  # (slot, view) → operation
    commits: dict[Slot, dict[int, bytes]] = field(default_factory=dict)
    newview: dict[Slot, int] = field(default_factory=dict)
    proposes: dict[tuple[Slot, int], bytes] = field(default_factory=dict)


class Votes:
    """One epoch: its committee by places of the genesis, and all that was voted in it."""

    def __init__(self, epoch: int, opening: bytes, weights: dict[int, int], keys: Sequence[bytes]) -> None:
        self.epoch, self.opening, self.weights = epoch, opening, weights
        self.places = sorted(weights, key=keys.__getitem__)  # every committee is sorted by key
        self.total = sum(weights.values())
        self.logs = {place: Log(0, opening) for place in self.places}
        self.lockers: dict[tuple[int, bytes], set[int]] = {}  # (view, operation) → members
        self.committers: dict[tuple[int, bytes], set[int]] = {}
        self.movers: dict[Slot, dict[int, int]] = {}  # member → the highest view of its NEWVIEWs
        self.handed: dict[int, bytes] = {}
        self.inherited: dict[Slot, bytes] = {}  # slots that start at view 1, with this operation

    def weight(self, members: Iterable[int]) -> int:
        return sum(self.weights.get(member, 0) for member in set(members))

    def is_quorum(self, members: Iterable[int]) -> bool:
        """ "quorum: more than 2/3 of the total weight"."""
        return 3 * self.weight(members) > 2 * self.total

    def is_third(self, members: Iterable[int]) -> bool:
        """More than 1/3."""
        return 3 * self.weight(members) > self.total


@dataclass
class Life:
    """What a correct validator can know of since its last start; times by its own clock."""

    began: int
    held: dict[bytes, int] = field(default_factory=dict)
    heard: dict[int, int] = field(default_factory=dict)
    contact: int | None = None
    epoch: int = 0  # of what it heard
    learned: list[ParsedOperation] = field(default_factory=list)
    jumped: bool = False  # its clock was set: what it waited for cannot be told from outside


class Auditor:
    """Judges one run. `honest` are the places of correct validators."""

    def __init__(
        self,
        genesis: Genesis,
        honest: Iterable[int],
        honest_owners: Iterable[bytes] = (),
        followers: Iterable[bytes] = (),
    ) -> None:
        self.genesis = genesis
        self.rules = genesis.parameters
        self.network = genesis.network_id
        self.keys = [*(member.key for member in genesis.validators), *followers]  # by place
        self.honest = frozenset(honest)
        self.honest_owners = set(honest_owners)
        self.book = Book(genesis)
        self.operations: dict[bytes, ParsedOperation] = {}
        self.proofs: dict[bytes, list[ParsedOperation]] = {}  # one operation may come with several
        self.rivals: dict[Slot, list[ParsedOperation]] = {}
        self.closed_early: set[bytes] = set()  # CLOSEs of which a proof with the closer's signature exists
        self.decided: dict[Slot, bytes] = {}
        self.final: dict[bytes, int] = {}  # operation → view
        self.lives: dict[int, Life] = {}
        weights = {place: member.weight for place, member in enumerate(genesis.validators)}
        self.votes = {0: Votes(0, self.network, weights, self.keys)}
        self.written: set[bytes] = set()  # batches of correct validators that are on disk
        self.receipts: dict[bytes, dict[int, int]] = {}  # Lock → member → the highest receipt on its disk
        self.ending: dict[bytes, dict[int, int]] = {}  # Lock → member → lowest ending operation LOCKed
        self.protected: dict[bytes, int] = {}
        self.attachments: dict[bytes, bytes] = {}
        self.closings = Closings(self)
        self.disks = Disks()

    @property
    def epoch(self) -> Votes:
        """The last one that a COMMITTEE has opened."""
        return self.votes[max(self.votes)]

    # --- what there is --------------------------------------------------------------------------

    def knows(self, signed: SignedOperation) -> ParsedOperation | None:
        """An operation that somebody has made; None for what is malformed in itself."""
        try:
            parsed = parse(signed)
        except (InvalidOperation, Malformed):
            sometimes("malformed in itself")
            return None
        if signed.closer is not None and parsed.id not in self.closed_early:
            deposit = self.book.deposits.get(parsed.operation.object)
            if deposit is not None and fits(deposit.closer, b"ainp2p/close/1", parsed.id, signed.closer):
                self.closed_early.add(parsed.id)
        proofs = self.proofs.setdefault(parsed.id, [])
        if all(signed != known.signed for known in proofs):
            proofs.append(parsed)
        if parsed.id not in self.operations:
            self.operations[parsed.id] = parsed
            slot = (parsed.operation.object, parsed.operation.seq)
            self.rivals.setdefault(slot, []).append(parsed)
        return parsed

    def attached(self, raw: bytes) -> None:
        """Something that votes name by its digest."""
        self.attachments[digest(b"ainp2p/attach/1", raw)] = raw

    def problem(self, parsed: ParsedOperation) -> str | None:
        """Why this operation, under whatever proof was seen, is not the valid next one; None if it is."""
        rule: str | None = None
        for version in self.proofs.get(parsed.id, [parsed]):
            try:
                self.book.effect(version, lambda _: False)
            except Refused as exc:
                rule = exc.rule
            else:
                return None
        return rule

    # --- a correct validator's life -----------------------------------------------------------------

    def started(self, member: int, now: int) -> None:
        self.lives[member] = Life(now)

    def clock_set(self, member: int, now: int) -> None:
        if member in self.lives:
            self.lives[member].jumped = True

    def handed(self, member: int, id_: bytes, now: int) -> None:
        """An operation has come to it."""
        self.lives[member].held.setdefault(id_, now)

    def heard(self, member: int, other: int, epoch: int, timestamp: int, now: int) -> None:
        """A batch of `other` that it had not seen in this life has come to it."""
        life = self.lives[member]
        if epoch not in self.votes or epoch < life.epoch:
            return
        if epoch > life.epoch:  # contact is with a committee
            life.epoch, life.heard, life.contact = epoch, {}, None
        self._contact(member, now)
        life.heard[other] = max(life.heard.get(other, 0), min(timestamp, now))
        self._contact(member, now)

    def _contact(self, member: int, now: int) -> int | None:
        life = self.lives[member]
        alive = {other for other, last in life.heard.items() if now - SEALED_MS - last < CONTACT_GAP_MS}
        if not self.votes[life.epoch].is_quorum(alive | {member}):
            life.contact = None
        elif life.contact is None:
            life.contact = now
        return life.contact

    # --- votes ------------------------------------------------------------------------------------

    def wrote(self, member: int, records: Records, now: int) -> None:
        """A correct validator's write is durable."""
        operations = [parsed for signed in records.operations if (parsed := self.knows(signed))]
        for raw in (*records.attachments, *records.keepsakes):
            self.attached(raw)
        for batch in records.own:
            self._own_batch(member, batch, now)
        self.disks.wrote(member, records, self.votes)
        # A LOCK that is older than a receipt may be written later; once its log was sealed none is left.
        life = self.lives[member]
        life.learned += operations
        if records.own:
            for parsed in life.learned:
                self._receipt_on_disk(member, parsed)
            life.learned.clear()

    def sent(self, member: int, raw: bytes) -> None:
        """A correct validator lets others see a batch."""
        demand(raw in self.written, "fsync, then send", f"validator {member} sends what is not on its disk")

    def forged(self, member: int, records: Records, silent: Collection[int] = ()) -> None:
        """A faulty validator writes: its votes count, whatever it tells whom.

        Args:
            silent: epochs in which a disk like its own lets nobody vote (`Disks.silent`).
        """
        for batch in records.own:
            forgets = batch.header.epoch in silent
            demand(not forgets, "own height", f"{member} votes, and a quorum holds more of its log than it")
        for raw in (*records.attachments, *records.keepsakes):
            self.attached(raw)
        for batch in records.own:
            votes = self.votes.get(batch.header.epoch)
            if votes is not None:
                for record in read_records(batch.entries):
                    self._tally(votes, member, record)

    def _tally(self, votes: Votes, member: int, record: Record) -> None:
        if record.kind == LOCK:
            votes.lockers.setdefault((record.view, record.operation), set()).add(member)
        elif record.kind == COMMIT:
            votes.committers.setdefault((record.view, record.operation), set()).add(member)
        elif record.kind == NEWVIEW:
            views = votes.movers.setdefault(record.slot, {})
            views[member] = max(views.get(member, 0), record.view)

    def _own_batch(self, member: int, batch: VoteBatch, now: int) -> None:
        header = batch.header
        demand(header.epoch in self.votes, "log", f"a batch of epoch {header.epoch}, which nobody has opened")
        votes = self.votes[header.epoch]
        demand(member in votes.logs, "log", f"validator {member} has no seat in epoch {header.epoch}")
        log = votes.logs[member]
        demand(
            fits(self.keys[member], b"ainp2p/votes/1", encode(header), batch.signature), "log", "signature"
        )
        demand(header.height == log.height + 1, "log", f"height {header.height} after {log.height}")
        demand(header.previous == log.head, "log", f"batch {header.height} of {member} starts another chain")
        log.height, log.head = header.height, digest(b"ainp2p/batch/1", encode(header))
        self.written.add(batch.raw)
        records = read_records(batch.entries)
        for record in records:  # all of one batch become durable, and count, together
            self._tally(votes, member, record)
        for record in records:
            self._judge(votes, member, log, record, now)

    def _judge(self, votes: Votes, member: int, log: Log, record: Record, now: int) -> None:
        if record.kind == HANDOFF:
            demand(member not in votes.handed, "6 one HANDOFF", f"validator {member}")
            votes.handed[member] = record.operation
            return
        if member in votes.handed:
            slot = self._slot_of(record.operation)[1] if record.kind in (LOCK, COMMIT) else record.slot
            demand(slot[0] == self.network, "handoff", f"validator {member} votes on after its HANDOFF")
        if record.kind == LOCK:
            self._judge_lock(votes, member, log, record, now)
        elif record.kind == COMMIT:
            self._judge_commit(votes, member, log, record)
        elif record.kind == NEWVIEW:
            self._judge_newview(votes, member, log, record, now)
        elif record.kind == PROPOSE:
            self._judge_propose(votes, member, log, record)

    def _slot_of(self, id_: bytes) -> tuple[ParsedOperation, Slot]:
        demand(id_ in self.operations, "votes", "a vote for an operation that nobody made")
        parsed = self.operations[id_]
        return parsed, (parsed.operation.object, parsed.operation.seq)

    def _judge_lock(self, votes: Votes, member: int, log: Log, record: Record, now: int) -> None:
        parsed, slot = self._slot_of(record.operation)
        where = f"validator {member}, view {record.view}"
        # Invariant 6: "one LOCK per (slot, view), no LOCK or COMMIT below its NEWVIEW, across restarts".
        before = log.locks.setdefault((slot, record.view), record.operation)
        demand(before == record.operation, "6 one LOCK", f"two LOCKs in one (slot, view): {where}")
        demand(record.view >= log.newview.get(slot, 0), "6 below NEWVIEW", f"a LOCK: {where}")
        self._previous_is_decided(parsed, where)
        self._note_ending(member, parsed)
        self.closings.voted_for(parsed)
        if record.view == 0:
            begun = slot in votes.inherited
            demand(not begun, "handoff", f"a LOCK in view 0 of a slot that starts at view 1: {where}")
            self._judge_first_lock(votes, member, parsed, now)
        else:
            sometimes("LOCK in a later view")
            self._judge_justified(votes, record, slot, where)
            self._judge_highest(votes, record, where)

    def _previous_is_decided(self, parsed: ParsedOperation, where: str) -> None:
        operation = parsed.operation
        if operation.seq > 1:
            head = self.decided.get((operation.object, operation.seq - 1))
        else:
            head = operation.object
        demand(operation.previous == head, "votes", f"previous is not the decided head: {where}")

    def _judge_first_lock(self, votes: Votes, member: int, parsed: ParsedOperation, now: int) -> None:
        """ "a validator LOCKs the first valid operation it sees"."""
        operation = parsed.operation
        life = self.lives[member]
        if operation.timestamp is not None and not life.jumped:
            demand(
                operation.timestamp <= now + AHEAD_MS, "clock", "a LOCK for what is further ahead than 60 s"
            )
        demand(not isinstance(operation.body, Void), "votes", "a VOID LOCKed in view 0")
        if self.book.head(operation.object) == (operation.seq - 1, operation.previous):
            rule = self.problem(parsed)  # under any proof: the first one that was seen may be forged
            demand(rule is None, "validity", f"validator {member} LOCKs against the rule {rule!r}")
        if self._is_gated(parsed):
            sometimes("a gated operation LOCKed in view 0")
            self._judge_gate(votes, member, parsed, now)

    def _is_gated(self, parsed: ParsedOperation) -> bool:
        return _is_gated(parsed, self.closed_early)

    def _judge_gate(self, votes: Votes, member: int, parsed: ParsedOperation, now: int) -> None:
        """ "held for D since they became otherwise valid and in contact with a quorum for G"."""
        life = self.lives[member]
        if life.jumped:
            return
        valid_since = life.held.get(parsed.id, life.began)
        deposit = self.book.deposits.get(parsed.operation.object)
        if deposit is not None:
            valid_since = max(valid_since, deposit.expiry)
        demand(now >= valid_since + self.rules.gate_hold_ms, "gate", f"validator {member} did not wait for D")
        if votes.is_quorum({member}):  # it cannot lose contact with itself
            sometimes("a member is a quorum alone")
            return
        since = self._contact(member, now)
        held = since is not None and now >= since + self.rules.gate_contact_ms
        demand(held, "gate", f"validator {member} votes for a gated operation without contact for G")

    def _judge_commit(self, votes: Votes, member: int, log: Log, record: Record) -> None:
        _, slot = self._slot_of(record.operation)
        where = f"validator {member}, view {record.view}"
        # "A quorum of LOCK(v, x) is a prepared certificate; on it: COMMIT(v, x)."
        prepared = votes.is_quorum(votes.lockers.get((record.view, record.operation), ()))
        demand(prepared, "prepared", f"a COMMIT without a quorum of LOCKs: {where}")
        demand(record.view >= log.newview.get(slot, 0), "6 below NEWVIEW", f"a COMMIT: {where}")
        commits = log.commits.setdefault(slot, {})
        same = commits.setdefault(record.view, record.operation) == record.operation
        demand(same, "6 one COMMIT", f"two COMMITs in one (slot, view): {where}")

    def _judge_newview(self, votes: Votes, member: int, log: Log, record: Record, now: int) -> None:
        slot, view = record.slot, record.view
        where = f"validator {member}, NEWVIEW {view}"
        sometimes("NEWVIEW")
        demand(view > log.newview.get(slot, 0), "6 NEWVIEW", f"not above the one before: {where}")
        log.newview[slot] = view
        self._judge_timer(votes, member, slot, view, where)
        if record.prepared is not None:
            sometimes("NEWVIEW reports a prepared certificate")
            prepared = votes.is_quorum(votes.lockers.get((record.prepared, record.operation), ()))
            if votes.inherited.get(slot) == record.operation and record.prepared == 0:
                sometimes("NEWVIEW reports what was handed over")
                prepared = True
            demand(prepared and record.prepared < view, "prepared", f"reports what is not prepared: {where}")
        committed = max(log.commits.get(slot, {}), default=None)
        if committed is not None:
            told = record.prepared is not None and record.prepared >= committed
            demand(told, "prepared", f"reports less than its own COMMIT: {where}")
        self._judge_shown(votes, member, log, record, where)
        if record.candidate != NOTHING:
            parsed, of = self._slot_of(record.candidate)
            demand(of == slot, "candidate", f"of another slot: {where}")
            self._previous_is_decided(parsed, where)
            if self._is_gated(parsed):
                sometimes("a gated candidate")
                self._judge_gate(votes, member, parsed, now)
        demand(record.prepared is not None or record.candidate != NOTHING, "candidate", f"neither: {where}")

    def _judge_shown(self, votes: Votes, member: int, log: Log, record: Record, where: str) -> None:
        """ "NEWVIEW(v+1, highest prepared, …)": what the LOCKs on its own disk prepare is not left out.

        Only of what it has LOCKed itself: that operation it has, too.
        """
        told = -1 if record.prepared is None else record.prepared
        locked = (log.locks.get((record.slot, view)) for view in range(record.view + 1))
        ours = {id_ for id_ in locked if id_ is not None}
        counted = self.disks.counted.get((member, votes.epoch), {})
        for view in range(told + 1, record.view):
            hidden = any(votes.is_quorum(counted.get((view, id_), ())) for id_ in ours)
            demand(not hidden, "shown", f"hides what is prepared in view {view}: {where}")

    def _judge_timer(self, votes: Votes, member: int, slot: Slot, view: int, where: str) -> None:
        """ "The timer of view v + 1 starts only when NEWVIEWs for v + 1 or above have come from a quorum";
        "join the highest view for which, or above which, more than 1/3 have sent NEWVIEW"."""
        if view == 1 or (view == 2 and slot in votes.inherited):  # that one starts at view 1, with its timer
            return
        views = votes.movers[slot]
        alone = votes.is_quorum(other for other, sent in views.items() if sent >= view - 1)
        joined = votes.is_third(other for other, sent in views.items() if sent >= view and other != member)
        demand(alone or joined, "timer", f"went further without a quorum: {where}")
        sometimes("NEWVIEW above 1")

    def _judge_propose(self, votes: Votes, member: int, log: Log, record: Record) -> None:
        where = f"validator {member}, PROPOSE {record.view}"
        sometimes("PROPOSE")
        demand(self.leader(votes, record.slot, record.view) == member, "leader", f"it does not lead: {where}")
        demand((record.slot, record.view) not in log.proposes, "6 one PROPOSE", f"two in one view: {where}")
        log.proposes[record.slot, record.view] = record.operation

    def leader(self, votes: Votes, slot: Slot, view: int) -> int:
        """ "member (view - 1) mod n of the committee sorted by blake2b-256([epoch, object, seq, key])"."""
        ranks = {
            p: digest(b"ainp2p/lead/1", encode((votes.epoch, *slot, self.keys[p]))) for p in votes.places
        }
        return sorted(ranks, key=ranks.__getitem__)[(view - 1) % len(ranks)]

    # --- justifications -----------------------------------------------------------------------------

    def _judge_justified(self, votes: Votes, record: Record, slot: Slot, where: str) -> None:
        """ "it PROPOSEs the value of the highest prepared certificate, else `pick`; everybody re-checks"."""
        begun = votes.inherited.get(slot)
        if record.justification is None and record.view == 1 and begun is not None:
            # "everybody LOCKs the highest one's operation at once, without PROPOSE"
            sometimes("a slot starts at view 1")
            demand(record.operation == begun, "handoff", f"not what was handed over: {where}")
            decided = self.decided.get(slot, begun)
            demand(decided == begun, "handoff", f"not what was decided before: {where}")
            return
        raw = self.attachments.get(record.justification or b"")
        demand(raw is not None, "justification", f"a LOCK above view 0 that names none: {where}")
        assert raw is not None
        shown = read_justification(raw)
        about = (shown.epoch, shown.object, shown.seq, shown.view)
        demand(
            about == (votes.epoch, *slot, record.view), "justification", f"for another slot or view: {where}"
        )
        reports: dict[int, Record] = {}
        for attested in shown.newviews:
            place = votes.places[attested.member]
            header = (1, self.network, shown.epoch, self.keys[place], attested.height)
            root = _climb(attested.record, attested.position, attested.count, attested.path)
            signed = encode((*header, attested.previous, attested.timestamp, root, attested.count))
            good = fits(self.keys[place], b"ainp2p/votes/1", signed, attested.signature)
            demand(good, "justification", f"a NEWVIEW that its member did not sign: {where}")
            (report,) = read_records(attested.record)
            fitting = (report.kind, report.slot, report.view) == (NEWVIEW, slot, record.view)
            demand(fitting, "justification", f"an entry that is no NEWVIEW for this view: {where}")
            reports[place] = report
        demand(votes.is_quorum(reports), "justification", f"NEWVIEWs of no quorum: {where}")
        told = [(r.prepared, r.operation) for r in reports.values() if r.prepared is not None]
        real = [
            (view, id_)
            for view, id_ in told
            if votes.is_quorum(votes.lockers.get((view, id_), ())) or (view, id_) == (0, begun)
        ]
        if told:
            sometimes("a justification with a prepared operation")
            demand(real, "justification", f"reports of what is not prepared: {where}")
            best = max(real)[1]
            demand(record.operation == best, "justification", f"not the highest prepared operation: {where}")
            return
        early = {proof.id for proof in shown.candidates if proof.closer is not None}
        self._judge_picked(votes, record, slot, reports, early, where)

    def _judge_highest(self, votes: Votes, record: Record, where: str) -> None:
        """ "the value of the highest prepared certificate": it is there, whatever lower ones say the same."""
        raw = self.attachments.get(record.justification or b"")
        if raw is None:
            return
        shown = read_justification(raw)
        told = [read_records(attested.record)[0] for attested in shown.newviews]
        claims = {(report.prepared, report.operation) for report in told if report.prepared is not None}
        if not claims:
            return
        if len(claims) > 1:
            sometimes("a justification reports certificates of several views")
        demand(shown.prepared is not None, "justification", f"without what is prepared: {where}")
        assert shown.prepared is not None
        certificate = read_certificate(shown.prepared)
        view = certificate.view if certificate.epoch == votes.epoch else 0  # handed over: as if of view 0
        highest = (view, certificate.operation) == max(claims)
        demand(highest, "justification", f"the certificate of the highest report is not there: {where}")

    def _judge_picked(
        self,
        votes: Votes,
        record: Record,
        slot: Slot,
        reports: dict[int, Record],
        early: set[bytes],
        where: str,
    ) -> None:
        """5. `pick`, among the candidates that NEWVIEWs of a quorum name.

        A CLOSE is gated or not by the proof that the justification shows: `early` has its closer's signature.
        """
        candidates = {report.candidate: self._slot_of(report.candidate)[0] for report in reports.values()}
        gated = {id_ for id_, parsed in candidates.items() if _is_gated(parsed, early)}
        naming = [member for member, report in reports.items() if report.candidate in gated]
        if gated and not votes.is_third(naming):
            sometimes("too few name a gated candidate")
            candidates = {id_: parsed for id_, parsed in candidates.items() if id_ not in gated}
        if self.book.head(slot[0]) == (slot[1] - 1, next(iter(candidates.values())).operation.previous):
            for parsed in candidates.values():
                rule = self.problem(parsed)
                demand(rule is None, "justification", f"an invalid candidate, {rule!r}: {where}")
        picked = _pick(list(candidates.values()))
        value = self.operations[record.operation]
        if picked is None:
            sometimes("two conflicting candidates")
            demand(isinstance(value.operation.body, Void), "pick", f"two that conflict make a VOID: {where}")
        else:
            demand(picked.id == record.operation, "pick", f"another one comes first: {where}")

    # --- receipts: invariant 8 ----------------------------------------------------------------------

    def _receipt_on_disk(self, member: int, parsed: ParsedOperation) -> None:
        body = parsed.operation.body
        deposit = self.book.deposits.get(parsed.operation.object)
        if deposit is None or not isinstance(body, Settle | Close) or not body.context:
            return
        if not deposit.paid < body.cumulative <= deposit.deposit:
            return
        try:
            self.book.judge_receipt(deposit, body, parsed.signed)
        except Refused:
            return
        if deposit.threshold > 1:
            sometimes("k of m verifiers sign")
        held = self.receipts.setdefault(deposit.id, {})
        held[member] = max(held.get(member, 0), body.cumulative)
        self._protect(deposit.id)

    def _protect(self, lock: bytes) -> None:
        """ "once correct validators with more than 1/3 of the total weight hold a receipt, before one of them
        has LOCKed an operation that ends the Lock, the Lock cannot end below it"."""
        held, ending = self.receipts[lock], self.ending.get(lock, {})
        deposit = self.book.deposits[lock]
        begun = self.epoch.inherited.get((lock, deposit.seq + 1))
        if begun is not None and isinstance(self.operations[begun].operation.body, Close | Refund):
            # It was prepared by the weights of an epoch before: nobody of that one LOCKs anything else,
            # whatever those who have come since hold.
            return
        for cumulative in sorted(set(held.values()), reverse=True):
            holders = [
                m for m, c in held.items() if c >= cumulative and ending.get(m, cumulative) >= cumulative
            ]
            if self.epoch.is_third(holders):
                if cumulative > self.protected.get(lock, 0):
                    sometimes("a receipt is protected")
                    self.protected[lock] = cumulative
                return

    def _note_ending(self, member: int, parsed: ParsedOperation) -> None:
        body = parsed.operation.body
        if not isinstance(body, Close | Refund):
            return
        lock = parsed.operation.object
        deposit = self.book.deposits.get(lock)
        paid = deposit.paid if deposit is not None else 0
        cumulative = body.cumulative if isinstance(body, Close) else paid
        endings = self.ending.setdefault(lock, {})
        endings[member] = min(endings.get(member, cumulative), cumulative)

    def _judge_priority(self, parsed: ParsedOperation) -> None:
        body, lock = parsed.operation.body, parsed.operation.object
        if not isinstance(body, Close | Refund) or lock not in self.protected:
            return
        deposit, least = self.book.deposits[lock], self.protected[lock]
        cumulative = body.cumulative if isinstance(body, Close) else deposit.paid
        if cumulative >= least:
            sometimes("a Lock ends at or above a protected receipt")
            return
        # "a receipt less than a step above `paid` is protected only against gated endings"
        settled = least - deposit.paid >= deposit.step or least == deposit.deposit
        demand(
            not settled and not self._is_gated(parsed),
            "8 priority",
            f"a Lock ends at {cumulative}, a third of the weight held a receipt for {least}",
        )
        sometimes("a receipt below a step loses to the closer")

    # --- decisions --------------------------------------------------------------------------------

    def decides(self, member: int, parsed: ParsedOperation, view: int, certificate: bytes | None) -> None:
        """A correct validator announces an operation as final."""
        self.knows(parsed.signed)
        slot = (parsed.operation.object, parsed.operation.seq)
        known = self.decided.get(slot)
        demand(known in (None, parsed.id), "3 one per slot", f"two operations decided in one slot ({member})")
        self.judge_certificate(certificate, parsed.id, view)
        if known is not None:
            return
        self.decided[slot] = parsed.id
        self.final[parsed.id] = view
        self._judge_priority(parsed)
        if isinstance(parsed.operation.body, Void):
            sometimes("VOID decided")
            demand(slot[0] not in self.honest_owners, "7 honest", "an owner that signed once is voided")
            demand(view >= 1, "validity", "a VOID in view 0")
        self.book.enter(parsed, self._conflict)
        if isinstance(parsed.operation.body, NextCommittee):
            self._open(parsed, parsed.operation.body)
        demand(self.book.total() == self.genesis.supply, "1 supply", "the book does not add up")
        sometimes(f"decided: {type(parsed.operation.body).__name__}")
        sometimes("decided in a later view" if view else "decided in view 0")

    def _open(self, parsed: ParsedOperation, body: NextCommittee) -> None:
        """ "Everybody enters e + 1 from that one set": seats, and what starts at view 1."""
        self.closings.decided(parsed, body)
        weights = {self.keys.index(seat.key): seat.weight for seat in body.seats}
        votes = self.votes[body.epoch] = Votes(body.epoch, parsed.id, weights, self.keys)
        highest: dict[Slot, tuple[int, int, bytes]] = {}
        for id_ in body.handoffs:
            demand(id_ in self.attachments, "handoff", "a COMMITTEE of a HANDOFF that nobody wrote")
            for held in read_handoff(self.attachments[id_]).prepared:
                certificate = read_certificate(held.certificate)
                found = certificate.epoch, certificate.view, certificate.operation
                slot = held.object, held.seq
                highest[slot] = max(found, highest.get(slot, (0, -1, b"")))
        # What is decided already stays: a member that has not heard of the decision starts it at view 1 too.
        votes.inherited = {slot: found[2] for slot, found in highest.items()}
        self.protected.clear()  # who has left votes no more: what it holds protects nothing by itself
        for lock in self.receipts:
            if lock in self.book.deposits:
                self._protect(lock)

    def _conflict(self, void: ParsedOperation) -> bool:
        """Two valid operations of the owner for the slot of a VOID."""
        operation = void.operation
        valid = 0
        for rival in self.rivals.get((operation.object, operation.seq), ()):
            if isinstance(rival.operation.body, Spend) and rival.operation.previous == operation.previous:
                valid += self.problem(rival) is None
        return valid >= 2

    def judge_certificate(self, raw: bytes | None, id_: bytes, view: int) -> None:
        """Signatures, paths and weights of a commit certificate."""
        demand(raw is not None, "certificate", "final without a certificate")
        assert raw is not None
        shown = read_certificate(raw)
        demand((shown.kind, shown.operation) == (COMMIT, id_), "certificate", "for something else")
        votes = self.votes[shown.epoch]
        members = [votes.places[vote.member] for vote in shown.votes]
        demand(len(set(members)) == len(members) and votes.is_quorum(members), "certificate", "no quorum")
        leaf = struct.pack(">BI32s", COMMIT, shown.view, id_)
        for vote in shown.votes:
            root = _climb(leaf, vote.position, vote.count, vote.path)
            place = votes.places[vote.member]
            header = (1, self.network, shown.epoch, self.keys[place], vote.height, vote.previous)
            signed = encode((*header, vote.timestamp, root, vote.count))
            good = fits(self.keys[place], b"ainp2p/votes/1", signed, vote.signature)
            demand(good, "certificate", f"the vote of {place} does not bear its signature")
            cast = place in votes.committers.get((shown.view, id_), ())
            demand(cast, "certificate", f"{place} never cast this vote")

    # --- states -----------------------------------------------------------------------------------

    def sees(self, member: int, state: State, touched: Sequence[bytes]) -> None:
        """Invariants 1 and 2, and the objects that have just changed at one validator."""
        total = state.supply().total
        demand(total == self.genesis.supply, "1 supply", f"{total} at validator {member}")
        for id_ in touched:
            self._compare(member, state, id_)

    def _compare(self, member: int, state: State, id_: bytes) -> None:
        account, lock = state.accounts.get(id_), state.locks.get(id_)
        where = f"validator {member}"
        if account is not None:
            demand(account.balance >= 0, "2 balance", where)
            purse = self.book.history.get((id_, account.seq))
            assert isinstance(purse, Purse)
            for name in ("head", "balance", "debt", "key", "next_digest", "timestamp", "epoch"):
                same = getattr(account, name) == getattr(purse, name)
                demand(same, "balance", f"{where} shows another {name} of an account than the book")
        if lock is not None:
            demand(0 <= lock.paid <= lock.deposit, "2 paid", where)
            deposit = self.book.history.get((id_, lock.seq)) if lock.seq else self.book.deposits[id_]
            assert isinstance(deposit, Deposit)
            shown = (lock.head, lock.paid, lock.deposit, bool(lock.ended))
            ours = (deposit.head, deposit.paid, deposit.deposit, deposit.ended)
            demand(not lock.seq or shown == ours, "balance", f"{where} shows another Lock than the book")

    def whole(self, member: int, state: State) -> None:
        """Everything that a validator with the book's frontier shows."""
        heads = {id_: (a.seq, a.head) for id_, a in state.accounts.items()}
        ours = {id_: (p.seq, p.head) for id_, p in self.book.purses.items()}
        demand(heads == ours, "10 liveness", f"validator {member} lacks decided operations")
        for id_ in [*state.accounts, *state.locks]:
            self._compare(member, state, id_)
        credits = {id_: (credit.account, credit.amount) for id_, credit in state.credits.items()}
        demand(
            credits == self.book.credits, "4 credits", f"validator {member} has other credits than the book"
        )
        demand(state.burnt == self.book.burnt, "balance", f"validator {member} has burnt another sum")


def _is_gated(parsed: ParsedOperation, early: set[bytes]) -> bool:
    body = parsed.operation.body
    return parsed.id not in early if isinstance(body, Close) else isinstance(body, Refund | Recover)


def _pick(candidates: list[ParsedOperation]) -> ParsedOperation | None:
    """LEDGER.md, "Deciding a slot", 5; None for VOID."""
    lowest = sorted(candidates, key=lambda parsed: parsed.id)
    if isinstance(lowest[0].operation.body, Settle | Close | Refund):

        def order(parsed: ParsedOperation) -> tuple[int, int]:
            """ "the highest cumulative; among equals SETTLE before CLOSE; REFUND last"."""
            body = parsed.operation.body
            if isinstance(body, Settle):
                return -body.cumulative, 0
            return (-body.cumulative, 1) if isinstance(body, Close) else (1, 2)

        return min(lowest, key=order)
    rotations = [p for p in lowest if isinstance(p.operation.body, Spend) and p.operation.body.rotate]
    owners = [p for p in lowest if isinstance(p.operation.body, Spend) and not p.operation.body.rotate]
    if rotations:
        sometimes("pick: a rotation comes first")
        return rotations[0]
    if len(owners) > 1:
        return None
    if owners and len(lowest) > 1:
        sometimes("pick: the owner before its guardians")
    return owners[0] if owners else lowest[0]


def _climb(leaf: bytes, index: int, count: int, path: bytes) -> bytes:
    """RFC 9162, 2.1.3.2, with the ledger's hashes: the root that a Merkle path leads to."""
    node = blake2b(leaf, digest_size=32, person=b"ainp2p/leaf/1").digest()
    last = count - 1
    steps = [path[at : at + 32] for at in range(0, len(path), 32)]
    for sibling in steps:
        if index & 1 or index == last:
            node = blake2b(sibling + node, digest_size=32, person=b"ainp2p/node/1").digest()
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            node = blake2b(node + sibling, digest_size=32, person=b"ainp2p/node/1").digest()
        index, last = index >> 1, last >> 1
    demand(last == 0, "certificate", "a path of another length")
    return node
