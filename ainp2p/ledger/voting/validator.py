"""A validator's core: operations and vote batches in, votes and final operations out. No I/O of its own.

It checks operations against the `State`, votes, counts everybody's votes, applies what is final,
and writes through a `Journal` before it lets a vote be seen. Give every method the time (ms since 1970):

    handle_operation(signed, now, source) → Effects   from a wallet or a peer; `source` names whose quota
    handle_batch(raw, now)                → Effects   from anybody: it is signed
    handle_height(member, height, now)    → Effects   how many of OUR batches this member holds
    handle_attachment(raw, now, source)   → Effects   what votes rest on: justifications, certificates
    handle_decided(signed, certificate, now) → Effects   what others decided: for whoever was away
    tick(now)                             → Effects   call it when `due` (ms, maybe past) has come
                                          and at once when your clock was set, either way
    seal(now) → Records | None, then journal.write(records), then release(records, now) → Effects
                                          what `tick` does inline, for shells that write in a thread

    status(id), operation(id), certificate(id), attachment(id), heights(), batches(member, first),
    statistics()

How a candidate goes its way is in `deciding`, what happens when two contend in `contending`, what is
written when in `archive`.

**fsync, then send.** Own votes count, here too, only once they are on disk. A final operation is announced
before it is: its certificate proves it, and each COMMIT in it is on its signer's disk.

**Starting.** A validator that forgot its votes must not vote again, so it is silent until members that make a
quorum with it have said how many of its batches they hold (`handle_height`). Whoever claims more has to
show one (`gaps` asks for it); if that bears our signature we are `behind` and stay silent for this epoch.

Who entered its epoch `blind` (without knowing that it has all that the epoch before decided) is silent until
it does, over restarts too (`regaining`).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from ainp2p.errors import InvalidOperation, LedgerError, Malformed, NotYet, RemoteError, StorageError
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.rules.operations import NextCommittee, ParsedOperation, SignedOperation, Signer, parse
from ainp2p.ledger.rules.state import State
from ainp2p.ledger.voting.archive import WRITE_AFTER_MS, Archive
from ainp2p.ledger.voting.attachments import (
    ATTACHMENT_SIZE_MAX,
    EVIDENCE,
    HANDOFF,
    MARK,
    PAGE,
    attachment_id,
    attachment_tag,
)
from ainp2p.ledger.voting.certificate import read_certificate, verify_final
from ainp2p.ledger.voting.deciding import WANT_AFTER_MS, Decider
from ainp2p.ledger.voting.desk import Desk
from ainp2p.ledger.voting.effects import Effects, Gap, Journal, Records
from ainp2p.ledger.voting.epoch_end import EpochEnd
from ainp2p.ledger.voting.epochs import Closing
from ainp2p.ledger.voting.evidence import read_evidence, verify_evidence
from ainp2p.ledger.voting.inheritance import Inheritance
from ainp2p.ledger.voting.regaining import Regaining, entered_blind, heads_name, heads_of, sees_mark
from ainp2p.ledger.voting.seen_votes import SeenVotes
from ainp2p.ledger.voting.slot import SlotId
from ainp2p.ledger.voting.votelog import (
    ENTRIES_MAX,
    LOCK,
    Chain,
    Header,
    OwnLog,
    VoteBatch,
    check_batch,
    open_batch,
    read_batch,
    reopen_batch,
)
from ainp2p.ledger.voting.waiting import Limits

GAP_AGAIN_MS = 1_000
CLOCK_STEP_MS = 1_000  # back; what is less delays a vote by less
UNKNOWN, SEEN, LOCKED, FINAL = range(4)  # grades; LEDGER.md: "A caller sees three"
_NEVER = 2**62


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a validator says of itself; `evidence` counts what was found since its start."""

    decided: int
    candidates: int
    waiting: int
    height: int
    behind: bool
    voting: bool
    halted: str | None
    evidence: int


class Validator:
    """One member of the committee; see the module's text.

    Attributes:
        state: the ledger, as far as it is decided and applied here.
        behind: others hold votes of ours that we do not know: we cast none.
        halted: None, or why nothing is handled any more (the disk failed, or two operations were decided
            in one slot); reading goes on.
        addresses: where validators have told that they listen, by key, for a COMMITTEE of ours.
    """

    def __init__(
        self,
        signer: Signer,
        genesis: Genesis,
        state: State,
        journal: Journal,
        *,
        limits: Limits | None = None,
        follow: bool = False,
    ) -> None:
        """Go on from what `state` (of the same disk) and `journal` hold.

        Args:
            follow: take part without a vote while the signer's key is in no committee.

        Raises:
            InvalidOperation: rule ``"member"``: the signer's key is not in the committee.
            StorageError: the journal is damaged.
        """
        self.network = genesis.network_id
        self.state = state
        self.halted: str | None = None
        self._signer, self._journal = signer, journal
        self._limits = limits or Limits()
        self._archive = Archive(journal, state.committee, state.epoch)
        self._seen_votes = SeenVotes()
        self.addresses: dict[bytes, tuple[bytes, ...]] = {}
        self._latest = 0  # when `tick` or `seal` was called last
        self._before: Closing | None = None  # the last epoch's, for those who are late
        try:
            self._open(self._opening())
            if self._member < 0 and not follow:
                raise InvalidOperation("member", "this key is not in the network's committee")
            self._restore()
        except (InvalidOperation, RemoteError) as exc:
            if isinstance(exc, InvalidOperation) and exc.rule == "member":
                raise
            raise StorageError(f"the vote logs on disk are damaged ({exc}): sync from peers anew") from exc

    def _opening(self) -> bytes:
        """The id of the COMMITTEE that opened the current epoch; the network's in the first."""
        system = self.state.system
        if system.seq == 0 or not system.closed:
            return system.head
        found = self._archive.find(system.head)
        if found is None:
            raise StorageError("the END-EPOCH of this epoch is not on the disk: sync from peers anew")
        return parse(found.signed).operation.previous

    def _open(self, opening: bytes) -> None:
        """Begin the state's epoch with empty tables.

        "A vote log is per epoch": heights begin at 1, after the id of what opened it; whoever was `behind`
        begins anew.
        """
        self.epoch = self.state.epoch
        self.committee = self.state.committee(self.epoch)
        self.behind = False
        self._member = self.committee.index.get(self._signer.public, -1)
        self._log = OwnLog(self._signer, self.network, self.epoch, self._member)
        self._log.resume(0, opening)
        self._chains = [Chain(0, opening, {}) for _ in self.committee.keys]
        desk = self._desk = Desk(
            self.committee,
            self.epoch,
            self._member,
            self.state,
            self.state.parameters[self.epoch],
            self._log,
            self._archive,
            self._limits,
            lambda: self.voting,
        )
        desk.addresses = self.addresses
        self._decider = Decider(desk)
        self._contention = self._decider.contention
        self._table, self._room = self._decider.table, self._decider.room
        # Members that hold no more of our batches than we do.
        self._confirmed = {self._member} if self._member >= 0 else set[int]()
        self._started = False
        self._gap_asked: dict[int, int] = {}
        self._end = EpochEnd(desk, self._decider, self._signer, opening, self._hold)
        desk.holds_back, desk.applied = self._end.holds_back, self._end.applied
        desk.collects = self._end.collects
        self.state.check_committee = self._end.check_committee
        self._inheritance = Inheritance(desk, self._named_by(opening))
        self._shown: dict[bytes, tuple[int, bytes]] | None = None
        self._name = heads_name(opening, self._signer.public)
        self._regaining = Regaining(desk, opening, self._inheritance) if entered_blind(desk) else None

    @property
    def _may_hold_handoffs(self) -> tuple[bytes, ...]:
        """Members, and those of the epoch before: who has judged a COMMITTEE may have left by it."""
        before = self.state.committee(self.epoch - 1).keys if self.epoch else ()
        return (*self.committee.keys, *(key for key in before if key not in self.committee.index))

    def _named_by(self, opening: bytes) -> tuple[bytes, ...]:
        """The HANDOFFs that the current epoch began with."""
        if self.epoch == 0:
            return ()
        found = self._archive.find(opening)
        body = parse(found.signed).operation.body if found is not None else None
        if not isinstance(body, NextCommittee):
            raise StorageError("the COMMITTEE of this epoch is not on the disk: sync from peers anew")
        return body.handoffs

    def _hold(self, parsed: ParsedOperation) -> None:
        """An operation of our own making: END-EPOCH, COMMITTEE."""
        self._room.work.append(self._table.hold(parsed))

    # --- what comes in --------------------------------------------------------------------------

    def handle_operation(self, signed: SignedOperation, now: int, source: str = "") -> Effects:
        """Take an operation; a repeat is no error.

        Raises:
            Malformed, BadSignature: drop it.
            InvalidOperation, InsufficientFunds: it can never be decided; ``"contested"``: its slot has enough
                others. NotYet ``"busy"``: no room for operations that have to wait; send it again later.
            StorageError: this validator has halted.
        """
        self._refuse_if_halted()
        out = Effects()
        try:
            parsed = parse(signed)
        except (Malformed, InvalidOperation):
            self._decider.tell(self._decider.collector.take_malformed(signed.raw), out)
            if out.evidence:  # somebody has LOCKed it
                return out
            raise
        self.handle_parsed(parsed, now, source, out)
        return out

    def handle_parsed(self, parsed: ParsedOperation, now: int, source: str, out: Effects) -> None:
        """As `handle_operation`, for who has parsed it; what is to be done now is added to `out`.

        Raises:
            As `handle_operation`; `out` has what was to be done before.
        """
        self._refuse_if_halted()
        if parsed.operation.network != self.network:
            raise InvalidOperation("network", "made for another network")
        asked_for = self._end.take_prepared(parsed)
        try:
            self._decider.take_operation(parsed, source, now, out)
        except LedgerError:
            if not asked_for:
                raise
        self._finish(now, out)

    def handle_batch(self, raw: bytes, now: int) -> Effects:
        """Take a vote batch of any validator; a repeat is no error, and one that came early is kept.

        Raises:
            Malformed, BadSignature: drop it.
            InvalidOperation: of another network, epoch or chain, or by somebody who is no member.
            NotYet: ``"busy"``: its validator votes for too much that nobody has; it will be asked for again.
            StorageError: this validator has halted.
        """
        self._refuse_if_halted()
        out = Effects()
        read = read_batch(raw)
        header = read[1]
        member = self._place_of(header.validator)
        chain = self._chains[member]
        if member == self._member or header.height <= chain.height or header.height in chain.early:
            self._compare(member, header, raw, out)
            return out
        batch = check_batch(raw, read, self.network, self.epoch, self.committee)
        if self._table.owed[member] + header.count > self._limits.owed_max:
            raise NotYet("busy", "too many votes of this validator wait for their operations")
        for ready in chain.add(batch):
            self._archive.add_batch(ready, now)
            self._decider.take_batch(ready, now, out)
            self._end.take_batch(ready)
        self._find_gap(member, now, out)
        return self._finish(now, out)

    def handle_height(self, member: bytes, height: int, now: int, epoch: int | None = None) -> Effects:
        """A member says how many of our own batches it holds; asked for once after each start, in each epoch.

        Lemma L2 (docs/ledger-proof.md): a disk that has forgotten votes for nothing.

        Args:
            epoch: that it speaks of; what is said of another one means nothing.

        Raises:
            InvalidOperation: rule ``"member"``.
            StorageError: this validator has halted.
        """
        self._refuse_if_halted()
        out = Effects()
        place = self._place_of(member)
        if self._member < 0 or epoch not in (None, self.epoch):
            return out
        ours = self._chains[self._member].height
        if height > ours:
            out.gaps.append(Gap(self.committee.keys[self._member], ours + 1, height))
        else:
            self._confirmed.add(place)
            self._start_voting()
        return self._finish(now, out)

    def handle_decided(self, signed: SignedOperation, certificate: bytes, now: int) -> Effects:
        """Take an operation with the commit certificate that makes it final; a repeat is no error.

        What comes before what it depends on waits for that, unboundedly: hand them over about in the order
        in which somebody applied them.

        Raises:
            Malformed, BadSignature, InvalidOperation: it is no operation of this network, or not proven.
            StorageError: this validator has halted.
        """
        self._refuse_if_halted()
        parsed = parse(signed)
        if parsed.operation.network != self.network:
            raise InvalidOperation("network", "made for another network")
        out = Effects()
        seq, head = self.state.head(parsed.operation.object)
        if parsed.operation.seq >= seq and parsed.id != head:  # below the head there is nothing to learn
            shown = read_certificate(certificate)
            committee = self.state.committee(shown.epoch)
            view, id_ = verify_final(shown, committee, shown.epoch, self.network, self._seen_votes)
            if id_ != parsed.id:
                raise InvalidOperation("certificate", "it is another operation's")
            if not self._end.take_decided(parsed, certificate, view):
                self._decider.take_decided(parsed, certificate, view, now, out)
        return self._finish(now, out)

    def handle_attachment(self, raw: bytes, now: int, source: str = "") -> Effects:
        """Take what votes rest on (`attachments`), pushed or fetched; a repeat is no error.

        Raises:
            Malformed, BadSignature: drop it.
            InvalidOperation: it does not show what it claims.
            StorageError: this validator has halted.
        """
        self._refuse_if_halted()
        if len(raw) > ATTACHMENT_SIZE_MAX:
            raise Malformed(f"an attachment of {len(raw)} bytes")
        out = Effects()
        if attachment_tag(raw) == EVIDENCE:
            evidence = read_evidence(raw)
            offence = verify_evidence(evidence, self.network, self.state.committee, self.attachment)
            self._decider.learn(evidence, offence, out)
            if self._end.wants(attachment_id(raw)):  # though we hold another one against the same culprit
                self._end.note_evidence(evidence)
        elif attachment_tag(raw) in (HANDOFF, PAGE):
            if self._inheritance.take_attachment(raw):
                self._inherit(now, out)
            self._end.take_attachment(raw)
        else:
            self._contention.take_attachment(raw, now, out)
        return self._finish(now, out)

    def handle_frontier(self, handoff: bytes, heads: dict[bytes, tuple[int, bytes]], now: int) -> Effects:
        """Where a HANDOFF's frontier differs from ours (`Effects.frontiers`): seq 0 where it has nothing.

        Raises:
            InvalidOperation: rule ``"frontier"``: this is not its frontier.
            StorageError: this validator has halted.
        """
        self._refuse_if_halted()
        out = Effects()
        if self._regaining is not None and self._regaining.wants(handoff):
            self._regaining.take(handoff, heads)
        else:
            self._end.take_frontier(handoff, heads)
        return self._finish(now, out)

    def own_frontier(self) -> dict[bytes, tuple[int, bytes]]:
        """What `handle_frontier` compares with; our HANDOFF's frontier. Empty while the epoch goes on."""
        if self._end.closing is not None:
            return dict(self._end.closing.base)
        return dict(self._regaining.base) if self._regaining is not None else {}

    def frontier(self, handoff: bytes) -> dict[bytes, tuple[int, bytes]] | None:
        """A HANDOFF's whole frontier, of the epoch that closes or closed last; None if it is not known."""
        if handoff == self._name:
            return self._all_heads()
        found = self._end.frontier(handoff)
        if found is None and self._before is not None:
            found = self._before.frontier(handoff)
        return found

    def _all_heads(self) -> dict[bytes, tuple[int, bytes]] | None:
        """What we have, for members that are blind; None while we are blind ourselves.

        Those of one moment are as good as those of any other, and a look at the whole disk is not cheap.
        """
        if self._shown is None and not self.blind and self._member >= 0:
            self._shown = heads_of(self._desk)
        return self._shown

    def _place_of(self, key: bytes) -> int:
        place = self.committee.index.get(key)
        if place is None:
            raise InvalidOperation("member", "this key is not in the committee")
        return place

    def _refuse_if_halted(self) -> None:
        if self.halted is not None:
            raise StorageError(f"this validator has halted: {self.halted}")

    def _finish(self, now: int, out: Effects) -> Effects:
        self._decider.drain(now, out)
        while self.state.epoch != self.epoch and self._decider.broken is None:
            self._turn(now, out)
            self._decider.drain(now, out)
        for evidence in out.evidence:
            self._end.note_evidence(evidence)
        if self._decider.broken is not None:
            self.halt(self._decider.broken)
        return out

    # --- the next epoch -------------------------------------------------------------------------

    def _turn(self, now: int, out: Effects) -> None:
        """A COMMITTEE was applied: everything begins anew, but for operations and receipts that are held."""
        end, before = self._end, self._desk
        leftovers = end.leftovers()
        held = [c for c in self._table.candidates.values() if c.parsed is not None and c.final is None]
        self._archive.turn(self.state.epoch)
        if end.closing is not None:
            end.closing.retire()
        self._before = end.closing
        self._open(self.state.system.head)
        self._desk.receipts.highest.update(before.receipts.highest)
        if not end.blind:
            self._see()  # a run before this one was blind here, and crashed before it entered
        for evidence in end.evidence:
            self._end.note_evidence(evidence)
        begun = {prepared.operation for prepared in (self._inheritance.prepared or {}).values()}
        for candidate in held:
            assert candidate.parsed is not None
            if candidate.id in begun:  # valid or not: a VOID, for one, nobody could hand over again
                self._table.hold(candidate.parsed)
                continue
            with suppress(LedgerError, RemoteError):
                self._decider.take_operation(candidate.parsed, candidate.source, now, out)
        for parsed, certificate, view in leftovers:
            if self.state.head(parsed.operation.object)[0] < parsed.operation.seq:
                self._decider.take_decided(parsed, certificate, view, now, out)
        self._inherit(now, out)
        self._start_voting()

    def _inherit(self, now: int, out: Effects) -> None:
        """Slots that were left prepared start at view 1, before we vote on anything."""
        for slot in self._take_up_inheritance(now):
            self._contention.review(slot, now, out)

    def _take_up_inheritance(self, now: int) -> list[SlotId]:
        undecided = [
            (slot, prepared)
            for slot, prepared in (self._inheritance.prepared or {}).items()
            if self.state.head(slot[0])[0] < slot[1]
        ]
        for slot, prepared in undecided:
            self._contention.inherit(slot, prepared, now)
        self._room.work.extend(self._table.candidates.values())
        return [slot for slot, _ in undecided]

    # --- time -----------------------------------------------------------------------------------

    @property
    def voting(self) -> bool:
        """Whether it casts votes.

        Lemma L6 (docs/ledger-proof.md): nobody votes before it has the epoch's one set of HANDOFFs.
        Lemma L7 (docs/ledger-proof.md): nobody votes who may not know what the epoch before decided.
        """
        if not self._started or self.behind or self._regaining is not None:
            return False
        return self._inheritance.prepared is not None and self._member >= 0 and self.halted is None

    @property
    def blind(self) -> bool:
        """Whether something that our epoch began with may be unknown here."""
        return self._regaining is not None

    @property
    def due(self) -> int:
        """When `tick` is needed next."""
        due = _NEVER  # asked for after each message: no list, no generator
        for member, chain in enumerate(self._chains):
            if chain.early:
                due = min(due, self._gap_asked.get(member, 0) + GAP_AGAIN_MS)
        for time in (
            self._room.due,
            self._contention.due,
            self._end.due,
            self._inheritance.due,
            self._regaining.due if self._regaining is not None and self._member >= 0 else None,
            None if self._archive.writing else self._archive.write_at,
            self._log.due if not self._archive.writing and self.voting else None,
        ):
            if time is not None and time < due:
                due = time
        return due

    def tick(self, now: int) -> Effects:
        """Do what is due: ask again, vote for what had to wait, write, and hand out what was written.

        Raises:
            StorageError: the disk failed; nothing is signed any more (`halted`).
        """
        self._refuse_if_halted()
        out = Effects()
        self._notice_clock(now)
        self._room.run_timers(now)
        self._contention.run_timers(now, out)
        self._end.tick(now, out)
        self._inheritance.tick(now, out, self._may_hold_handoffs)
        self._regain(now, out)
        for member in range(len(self._chains)):
            self._find_gap(member, now, out)
        self._finish(now, out)
        records = self.seal(now)
        if records is not None:
            try:
                self._journal.write(records)
            except StorageError as exc:
                self.halt(str(exc))
                raise
            out.extend(self.release(records, now))
        return out

    def _regain(self, now: int, out: Effects) -> None:
        """Vote again, once nothing of the last epoch is unknown here."""
        if self._regaining is None or self._member < 0 or not self._regaining.tick(now, out):
            return
        self._see()
        self._room.work.extend(self._table.candidates.values())
        self._contention.restored()

    def _see(self) -> None:
        if self._regaining is not None:
            self._regaining = None
            self._archive.mark(sees_mark(self.network, self.epoch))

    def seal(self, now: int) -> Records | None:
        """Collect what has to be written, if it is time: own votes become batches."""
        if self._archive.writing or self.halted is not None:
            return None
        self._notice_clock(now)
        own = []
        while self.voting and self._log.due <= now:
            own.append(self._log.seal(now))
        if not own and not self._archive.is_due(now):
            return None
        return self._archive.collect(own, now, self._table, self._decider.receipts, self._chains)

    def release(self, records: Records, now: int) -> Effects:
        """Go on after `records` were written: own batches may be seen now, and count.

        Lemma L2 (docs/ledger-proof.md): votes leave when they are on the disk.
        """
        self._archive.written(records)
        for record in records.decided:
            if record.decided.changes.locks:
                self.state.release(record.decided.changes.locks)
        out = Effects(batches=list(records.own), attachments=list(records.pushed))
        for batch in records.own:
            if batch.header.epoch != self.epoch:
                continue  # written while the next one began
            self._chains[self._member].add(batch)
            self._decider.take_batch(batch, now, out)
            self._end.take_batch(batch)
        return self._finish(now, out)

    def halt(self, reason: str) -> None:
        """Sign and apply nothing any more."""
        self.halted = self.halted or reason

    def _notice_clock(self, now: int) -> None:
        """A clock that was put back by an hour must not silence us for an hour."""
        if now + CLOCK_STEP_MS < self._latest:
            self._gap_asked.clear()
            self._log.clock_put_back(now)
            self._archive.clock_put_back(now)
            self._decider.clock_put_back(now)
            self._end.clock_put_back(now)
            self._inheritance.clock_put_back()
            if self._regaining is not None:
                self._regaining.clock_put_back()
        self._latest = now

    def _find_gap(self, member: int, now: int, out: Effects) -> None:
        missing = self._chains[member].missing
        if missing and now >= self._gap_asked.get(member, -GAP_AGAIN_MS) + GAP_AGAIN_MS:
            self._gap_asked[member] = now
            last = min(missing[-1], missing[0] + ENTRIES_MAX - 1)
            out.gaps.append(Gap(self.committee.keys[member], missing[0], last))

    def _start_voting(self) -> None:
        if not self._started and self.committee.weight_of(self._confirmed) >= self.committee.quorum:
            self._started = True
            self._room.work.extend(self._table.candidates.values())
            self._contention.restored()

    def _compare(self, member: int, header: Header, raw: bytes, out: Effects) -> None:
        """A batch at a height that we have (or of our own log): the same one, or evidence."""
        early = self._chains[member].early.get(header.height)
        known = early.raw if early is not None else self._archive.raw_batch(member, header.height)
        ours_unknown = member == self._member and header.height > self._log.height
        if known == raw or (known is None and not ours_unknown):
            return
        batch = open_batch(raw, self.network, self.epoch, self.committee)
        if known is None:
            self.behind = True  # it bears our signature, and our disk does not know it
            return
        first = reopen_batch(known, self.committee)
        if first.id != batch.id:
            self.behind = self.behind or member == self._member
            self._decider.tell(self._decider.collector.take_two_batches(first, batch), out)

    # --- looking --------------------------------------------------------------------------------

    def status(self, id_: bytes) -> int:
        """UNKNOWN, SEEN (held), LOCKED (we did, or a quorum did) or FINAL (and applied)."""
        candidate = self._table.candidates.get(id_)
        if candidate is None or candidate.parsed is None:  # a late vote may name what was decided long ago
            return FINAL if self._decider.is_decided(id_) else UNKNOWN
        ours = candidate.id in self._table.slot_of(candidate).locked.values()
        return LOCKED if ours or candidate.prepared is not None else SEEN

    def holds(self, id_: bytes) -> bool:
        """Whether this operation is here undecided, or was decided lately. Looks at memory only."""
        candidate = self._table.candidates.get(id_)
        return self._table.was_decided(id_) if candidate is None else candidate.parsed is not None

    def operation(self, id_: bytes) -> SignedOperation | None:
        """A held operation, decided or not."""
        candidate = self._table.candidates.get(id_)
        if candidate is not None and candidate.parsed is not None:
            return candidate.proof
        found = self._archive.find(id_)
        if found is not None:
            return found.signed
        aside = self._end.aside(id_)
        return aside.signed if aside is not None else None

    def certificate(self, id_: bytes) -> bytes | None:
        """The commit certificate of a decided operation; made from the stored batches when asked for."""
        aside = self._end.certain(id_)
        return aside.certificate if aside is not None else self._archive.certificate(id_)

    def attachment(self, id_: bytes) -> bytes | None:
        """A held attachment by its `attachment_id`."""
        return self._contention.exhibits.attachment(id_)

    def heights(self) -> dict[bytes, int]:
        """Per validator, ourselves included, how many of its batches are held."""
        return {key: chain.height for key, chain in zip(self.committee.keys, self._chains, strict=True)}

    def batches(self, validator: bytes, first: int, limit: int = 256) -> list[bytes]:
        """Up to `limit` batches of a validator's log from `first` on; of our own only what is on disk."""
        member = self.committee.index.get(validator)
        if member is None:
            return []
        return self._archive.raw_batches(member, first, min(self._chains[member].height, first + limit - 1))

    def statistics(self) -> Statistics:
        """Figures for people and for tests of bounds."""
        return Statistics(
            decided=self.state.operations,
            candidates=len(self._table.candidates),
            waiting=len(self._room),
            height=self._chains[self._member].height if self._member >= 0 else 0,
            behind=self.behind or self.blind,
            voting=self.voting,
            halted=self.halted,
            evidence=len(self._archive.culprits),
        )

    # --- starting again ---------------------------------------------------------------------------

    def _restore(self) -> None:
        """Rebuild votes and tallies from the journal, exactly: what we LOCKed stays LOCKed.

        Lemma L2 (docs/ledger-proof.md): a restart knows every vote that it has cast.
        """
        restored = self._journal.restore(len(self.committee.keys), self.epoch)
        self._archive.segment = restored.segment
        for segment, signed in restored.operations:
            self._restore_operation(parse(signed), segment)
        batches = [[reopen_batch(raw, self.committee) for raw in log] for log in restored.batches]
        for member, log in enumerate(batches):
            if log:  # the first one held is trusted, and pins those before it
                self._chains[member] = Chain(log[0].header.height - 1, log[0].header.previous, {})
            for batch in log:
                if batch.member != member or not self._chains[member].add(batch):
                    raise InvalidOperation("chain", f"batch {batch.header.height} is not where it belongs")
        if self._member >= 0:
            own = self._chains[self._member]
            self._log.resume(own.height, own.head)
            for batch in batches[self._member]:
                self._restore_votes(batch)
        for log in batches:
            for batch in log:
                self._table.count(batch)
                self._contention.restore_batch(batch)
                self._end.take_batch(batch)
        self._decider.restored()
        for segment, raw in restored.attachments:
            if attachment_tag(raw) in (HANDOFF, PAGE):
                self._end.take_attachment(raw)
                continue
            if attachment_tag(raw) == EVIDENCE:
                self._end.note_evidence(read_evidence(raw))
                continue
            if attachment_tag(raw) == MARK:
                continue
            self._contention.restore_attachment(raw, segment)
        # "A slot with a prepared certificate in the set starts at view 1": also here, before any vote in it.
        self._take_up_inheritance(0)
        self._start_voting()

    def _restore_operation(self, parsed: ParsedOperation, segment: int) -> None:
        lock = self.state.locks.get(parsed.operation.object)
        if lock is not None:
            held = self._decider.receipts.learn(lock, parsed, verified=False)
            if held is not None:
                held.segment = segment
        if self.state.head(parsed.operation.object)[0] < parsed.operation.seq:
            self._table.hold(parsed).segment = segment

    def _restore_votes(self, batch: VoteBatch) -> None:
        for kind, view, id_ in batch.votes:
            candidate = self._table.candidates.get(id_)
            if candidate is None:  # decided since
                continue
            if kind == LOCK:
                self._table.slot_of(candidate).lock(view, id_)
            else:
                self._table.commit(candidate, self._table.slot_of(candidate), view)


__all__ = [
    "FINAL",
    "LOCKED",
    "SEEN",
    "UNKNOWN",
    "WANT_AFTER_MS",
    "WRITE_AFTER_MS",
    "Limits",
    "Statistics",
    "Validator",
]
