"""What a validator does at its epoch's end, beside `Closing`, which only judges. No I/O.

    the epoch's time is over ─► END-EPOCH held (everybody makes the same) ─► final: votes on System only
    ─► HANDOFF signed, our state frozen ─► others' HANDOFFs, frontiers, operations fetched ─► COMMITTEE
    proposed in turn, judged, final ─► what its union has more is applied ─► COMMITTEE is applied

The `Validator` opens the next epoch then. Who took no part in the closing (a newcomer, one that was away)
enters by the state root: what it has fetched by certificates must be exactly what the COMMITTEE says. Who can
do neither enters the next epoch without a vote, until it knows that it lacks nothing (`Regaining`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress

from ainp2p.errors import Error, InvalidOperation, NotYet
from ainp2p.ledger.rules.operations import NextCommittee, ParsedOperation, Signer, parse, unsigned_operation
from ainp2p.ledger.rules.state import Undo
from ainp2p.ledger.rules.system import epoch_ends_at
from ainp2p.ledger.voting.attachments import attachment_id
from ainp2p.ledger.voting.certificate import build_certificate, pack_place, unpack_place
from ainp2p.ledger.voting.committee_chain import end_epoch
from ainp2p.ledger.voting.deciding import Decider
from ainp2p.ledger.voting.desk import Desk
from ainp2p.ledger.voting.effects import Effects, FrontierWanted, Wanted
from ainp2p.ledger.voting.epochs import Certain, Closing, Epochal, Verdict
from ainp2p.ledger.voting.evidence import Evidence, Offence, evidence_id, read_evidence, verify_evidence
from ainp2p.ledger.voting.examining import Examiner
from ainp2p.ledger.voting.handoff import Head, Leaving, SlotId, make_handoff, read_handoff
from ainp2p.ledger.voting.regaining import blind_mark
from ainp2p.ledger.voting.slot import Candidate, Slot
from ainp2p.ledger.voting.visiting import Applied
from ainp2p.ledger.voting.votelog import COMMIT, Handoff, VoteBatch, handoff_entry, has_views, read_entries
from ainp2p.protocol.codec import encode

AGAIN_MS = 300  # between two looks at what is missing
ASK_AGAIN_MS = 900
EARLY_MAX = 256  # attachments kept that came before END-EPOCH was final here
RECENT_MAX = 4_096  # operations that can be taken back
RELEASE_AFTER_MS = 5_000  # COMMITTEE is final, its HANDOFFs cannot be had: go on by the state root
FOLLOW_AFTER_MS = 30_000  # and by that neither: follow the next epoch without a vote


class EpochEnd:
    """The end of one epoch.

    Attributes:
        closing: from END-EPOCH on, at a member that is not behind.
        blind: COMMITTEE was applied without knowing that our state is the one that it names (`Regaining`).
    """

    def __init__(
        self,
        desk: Desk,
        decider: Decider,
        signer: Signer,
        opening: bytes,
        hold: Callable[[ParsedOperation], None],
    ) -> None:
        self._desk, self._decider, self._signer = desk, decider, signer
        self._contention = decider.contention
        self._examiner = Examiner(desk, decider.collector)
        self._opening, self._hold = opening, hold
        self._end = parse(unsigned_operation(end_epoch(desk.state.network, desk.epoch, opening)))
        self.closing: Closing | None = None
        self.blind = False
        self._recorded: dict[int, bytes] = {}  # member → its HANDOFF
        self._early: dict[bytes, bytes] = {}
        self._recent: deque[Applied] = deque(maxlen=RECENT_MAX)
        self._good: dict[bytes, Verdict] = {}
        self._permitted: set[bytes] = set()
        self._asked: dict[bytes, tuple[int, int]] = {}  # when to ask again, how often we did
        self._asked_for: set[bytes] = set()  # operations that others have more, as of the last look
        self._look_at = 0
        self._waiting_since: int | None = None  # for what a final COMMITTEE needs
        self._proposed = False
        self._evidence: dict[bytes, Offence] = {}

    # --- what comes in ------------------------------------------------------------------------------

    def take_batch(self, batch: VoteBatch) -> None:
        """Note HANDOFF records, of anybody and our own."""
        if has_views(batch.entries):
            for position, entry in enumerate(read_entries(batch.entries)):
                if isinstance(entry, Handoff):
                    place = pack_place(batch.member, batch.header.height, position)
                    self._examiner.recorded(entry.digest, place)
                    self._recorded.setdefault(batch.member, entry.digest)
                    self._desk.archive.hold_floors = True
                    if self.closing is not None:
                        self.closing.recorded(batch.member, entry.digest)
                        self._look_at = 0

    def take_attachment(self, raw: bytes) -> None:
        """A HANDOFF, or a page of one."""
        self._early[attachment_id(raw)] = raw
        if len(self._early) > EARLY_MAX:
            self._early.pop(next(iter(self._early)))
        if self.closing is not None:
            self._feed()

    def _feed(self) -> None:
        """Hand over what is wanted, of all that has come; what nobody wants costs a look at its name."""
        assert self.closing is not None
        while ids := {id_ for id_, _ in self.closing.attachments_wanted if id_ in self._early}:
            for id_ in ids:  # a page may have come before its HANDOFF
                raw = self._early.pop(id_)
                if self.closing.attached(raw):
                    self._desk.archive.keepsake(raw)
                    self._progress()

    def take_frontier(self, handoff: bytes, heads: dict[bytes, Head]) -> None:
        """Where the frontier of a HANDOFF differs from ours.

        Raises:
            InvalidOperation: rule ``"frontier"``: it does not.
        """
        if self.closing is not None:
            self.closing.take_frontier(handoff, heads)
            self._progress()

    def frontier(self, handoff: bytes) -> dict[bytes, Head] | None:
        """The whole frontier of a HANDOFF, for whoever asks; None if it is not known here."""
        return self.closing.frontier(handoff) if self.closing is not None else None

    def take_decided(self, parsed: ParsedOperation, certificate: bytes, view: int) -> bool:
        """Hold a final operation aside while we are frozen; False if it may be applied."""
        if not self._frozen or parsed.operation.object == self._desk.state.network:
            return False
        if self.closing is not None:
            self.closing.take_decided(parsed, certificate, view)
            self._answered(parsed.id)
        return True

    def take_prepared(self, parsed: ParsedOperation) -> bool:
        """Hold an operation aside that a HANDOFF has prepared; False if nobody needs it for that.

        Where another operation of its slot is final already it is no candidate any more, and still everybody
        must see that it is one of the slot for which it is handed over: else who has decided early could not
        judge the COMMITTEE that the others vote for.
        """
        if self.closing is None or parsed.id not in self._asked_for:
            return False
        self.closing.aside[parsed.id] = parsed
        self._answered(parsed.id)
        return True

    def _answered(self, id_: bytes) -> None:
        self._asked_for.discard(id_)
        if not self._asked_for:  # not after each of thousands: all HANDOFFs are looked at then
            self._progress()

    def _progress(self) -> None:
        self._look_at = 0
        self._desk.room.wake(self._desk.state.network)

    def clock_put_back(self, now: int) -> None:
        """Nothing waits for a time that was reckoned by the old clock."""
        self._look_at = 0
        self._asked = {what: (0, asked) for what, (_, asked) in self._asked.items()}
        if self._waiting_since is not None and not self._released:
            self._waiting_since = min(self._waiting_since, now)
        elif self._waiting_since is not None:
            self._waiting_since = max(self._waiting_since, -now - 1)

    # --- END-EPOCH ----------------------------------------------------------------------------------

    @property
    def due(self) -> int | None:
        """When `tick` is needed next."""
        state = self._desk.state
        if state.system.closed:
            return self._look_at
        if self._end.id in self._desk.table.candidates or not self._desk.votes():
            return None
        return epoch_ends_at(state.system)

    def tick(self, now: int, out: Effects) -> None:
        """Do what is due."""
        state = self._desk.state
        if not state.system.closed:
            over = now >= epoch_ends_at(state.system) and self._desk.votes()
            if over and self._end.id not in self._desk.table.candidates:
                self._hold(self._end)
            return
        if now < self._look_at:
            return
        self._look_at = now + AGAIN_MS
        if self.closing is None:
            self._close(now)
        if self.closing is not None:
            self._examine(self.closing, out)
            self._ask(now, out)
            self._propose(now)
        self._desk.room.wake(state.network)
        self._wake_committee()

    def _wake_committee(self) -> None:
        """A COMMITTEE that waits is looked at again."""
        slot = self._desk.table.slots.get((self._desk.state.network, 2 * self._desk.epoch + 2))
        if slot is not None:
            self._desk.room.work.extend(slot.candidates)

    @property
    def _frozen(self) -> bool:
        # From our HANDOFF on, also before we vote again after a restart: our frontier is what it says.
        return (self.closing is not None or self._desk.member in self._recorded) and not self._released

    @property
    def _released(self) -> bool:
        return self._waiting_since is not None and self._waiting_since < 0

    def _close(self, now: int) -> None:
        """Freeze, and hand over: END-EPOCH is applied here."""
        desk, state = self._desk, self._desk.state
        if desk.member not in self._recorded and not desk.votes():
            return  # it follows: what others decide is taken by certificates
        handed_over = desk.member in self._recorded
        leaving = Leaving(self._frontier(), {}, {}) if handed_over else self._leaving()
        if leaving is None:
            return
        desk.archive.hold_floors = True
        setting = Epochal(state.network, desk.epoch, desk.committee, state.committee, self._end.id)
        self.closing = Closing(setting, leaving.frontier, self._held, state.head)
        for member, id_ in self._recorded.items():
            self.closing.recorded(member, id_)
        if not handed_over:
            key, members = desk.committee.keys[desk.member], len(desk.committee.keys)
            attachments = make_handoff(
                state.network, desk.epoch, key, desk.log.height, members, leaving, self._signer
            )
            for raw in attachments:
                desk.archive.hand_over(raw)
                self._early[attachment_id(raw)] = raw
            desk.log.add(handoff_entry(attachment_id(attachments[0])), now)
            self.closing.recorded(desk.member, attachment_id(attachments[0]))
        else:
            self._reload(self._recorded[desk.member])
        self._feed()

    def _reload(self, id_: bytes) -> None:
        """Our own HANDOFF and its pages, after a restart."""
        raw = self._desk.archive.attachment(id_)
        if raw is not None:
            self._early[id_] = raw
            for page in read_handoff(raw).more:
                found = self._desk.archive.attachment(page)
                if found is not None:
                    self._early[page] = found

    def _leaving(self) -> Leaving | None:
        """What we hand over; None while a certificate that we COMMITted on is not here again.

        Lemma L6 (docs/ledger-proof.md): a HANDOFF reports no less than we have COMMITted on.
        """
        network = self._desk.state.network
        committed: dict[SlotId, bytes] = {}
        prepared: dict[SlotId, bytes] = {}
        for slot_id, slot in self._desk.table.slots.items():
            if slot_id[0] == network:
                continue
            certificate = self._highest(slot)
            needed = bool(slot.committed) or slot.inherited is not None
            if needed and certificate is None:
                return None
            if certificate is not None:
                (committed if needed else prepared)[slot_id] = certificate
        return Leaving(self._frontier(), committed, prepared)

    def _frontier(self) -> dict[bytes, Head]:
        network = self._desk.state.network
        return {id_: head for id_, head in self._desk.archive.heads().items() if id_ != network}

    def _highest(self, slot: Slot) -> bytes | None:
        """The highest prepared certificate of a slot, if it is no lower than what we COMMITted on."""
        views = [(c.prepared, c) for c in slot.candidates if c.prepared is not None]
        if not views and slot.inherited is not None and not slot.committed:
            return slot.inherited.certificate
        if not views:
            return None
        view, candidate = max(views, key=lambda pair: pair[0])
        if view < max(slot.committed, default=-1):
            return None
        return self._contention.exhibits.certificate(candidate, view)

    # --- fetching -----------------------------------------------------------------------------------

    def _held(self, id_: bytes) -> ParsedOperation | None:
        candidate = self._desk.table.candidates.get(id_)
        if candidate is not None and candidate.parsed is not None:
            return candidate.parsed
        found = self._desk.archive.find(id_)
        return parse(found.signed) if found is not None else None

    def _ask(self, now: int, out: Effects) -> None:
        assert self.closing is not None
        for id_, key in self.closing.attachments_wanted:
            if self._may_ask(id_, now):
                out.missing.append(Wanted(id_, (self._whom(id_, key),)))
        for wanted in self.closing.frontiers_wanted:
            name = wanted.handoff + b"frontier"
            if self._may_ask(name, now):
                out.frontiers.append(FrontierWanted(self._whom(name, wanted.member), wanted.handoff))
        wanted_operations = self.closing.operations_wanted
        self._asked_for = {id_ for id_, _ in wanted_operations}
        for id_, key in wanted_operations:
            if self._may_ask(id_, now):
                out.certain.append(Wanted(id_, (self._whom(id_, key),)))
        slot = self._desk.table.slots.get((self._desk.state.network, 2 * self._desk.epoch + 2))
        for candidate in slot.candidates if slot is not None else ():
            body = candidate.parsed.operation.body if candidate.parsed is not None else None
            for id_ in body.evidence if isinstance(body, NextCommittee) else ():
                if self._desk.archive.attachment(id_) is None and self._may_ask(id_, now):
                    out.missing.append(Wanted(id_, self._desk.committee.keys))

    def _may_ask(self, what: bytes, now: int) -> bool:
        at, asked = self._asked.get(what, (0, 0))
        if now < at:
            return False
        self._asked[what] = now + ASK_AGAIN_MS, asked + 1
        return True

    def wants(self, id_: bytes) -> bool:
        """Whether this attachment was asked for: somebody's COMMITTEE names it."""
        return id_ in self._asked

    def _whom(self, what: bytes, first: bytes) -> bytes:
        """Whose it is; then one member after the other: whoever has judged it has it too.

        So a HANDOFF that its member shows to a few only keeps nobody from judging what those few vote for.
        """
        asked = self._asked[what][1]
        others = [key for key in self._desk.committee.keys if key not in (first, self._signer.public)]
        return [first, *others][(asked - 1) % (len(others) + 1)]

    # --- COMMITTEE ----------------------------------------------------------------------------------

    def _examine(self, closing: Closing, out: Effects) -> None:
        """Find HANDOFFs that forget a COMMIT, before we propose: it costs the seat at once."""
        found = self._examiner.examine(closing)
        self._decider.tell(found, out)
        for evidence in found:
            self.note_evidence(evidence)

    def note_evidence(self, evidence: Evidence) -> None:
        """Keep in mind what the next COMMITTEE has to name."""
        if evidence.culprit in self._desk.state.system.barred:
            return
        try:
            offence = verify_evidence(
                evidence, self._desk.state.network, self._desk.state.committee, self._desk.archive.attachment
            )
        except Error:
            return
        id_ = evidence_id(evidence)
        if offence.by_validator and id_ not in self._evidence and len(self._evidence) < EARLY_MAX:
            self._evidence[id_] = offence
            if self._desk.archive.attachment(id_) is None:
                self._desk.archive.keepsake(encode(evidence))
            self._progress()

    @property
    def evidence(self) -> list[Evidence]:
        """What was noted and has barred nobody yet."""
        found = [self._desk.archive.attachment(id_) for id_ in self._evidence]
        return [read_evidence(raw) for raw in found if raw is not None]

    def _propose(self, now: int) -> None:
        assert self.closing is not None
        slot = self._desk.table.slots.get((self._desk.state.network, 2 * self._desk.epoch + 2))
        if self._proposed or self._desk.member < 0 or not self._desk.votes():
            return
        valid = [c for c in slot.candidates if c.valid_since is not None] if slot is not None else []
        if slot is not None and (slot.locked or valid):
            return  # somebody's is good enough
        at = self.closing.propose_at(self._desk.member, now)
        if at is None or at > now:
            return
        signed = self.closing.propose(
            self._signer,
            self._desk.state,
            list(self._recent),
            self._evidence,
            self._desk.archive.attachment,
            now,
            self._desk.addresses,
        )
        if signed is not None:
            self._proposed = True
            self._hold(parse(signed))

    def check_committee(self, parsed: ParsedOperation) -> None:
        """What `State.check` asks before a COMMITTEE is voted for.

        Raises:
            NotYet, InvalidOperation: as `Closing.judge`.
        """
        if parsed.id in self._good:
            return
        body, timestamp = parsed.operation.body, parsed.operation.timestamp or 0
        assert isinstance(body, NextCommittee)
        if self.closing is None:
            raise NotYet("handoffs", "END-EPOCH was not final here while we voted")
        self._good[parsed.id] = self.closing.judge(
            body, timestamp, self._desk.state, list(self._recent), self._desk.archive.attachment
        )

    # --- applying -----------------------------------------------------------------------------------

    def holds_back(self, candidate: Candidate, now: int) -> bool:
        """Whether this final operation must not be applied now; it is looked at again when it may be.

        Lemma L7 (docs/ledger-proof.md): from the HANDOFF on only the union is applied.
        """
        state, parsed = self._desk.state, candidate.parsed
        assert parsed is not None
        if not state.system.closed:
            return False
        if isinstance(parsed.operation.body, NextCommittee):
            return not self._may_enter(parsed, parsed.operation.body, now)
        return (
            self._frozen and candidate.id not in self._permitted and parsed.operation.object != state.network
        )

    def _may_enter(self, parsed: ParsedOperation, body: NextCommittee, now: int) -> bool:
        state = self._desk.state
        if state.system.head != parsed.operation.previous:
            return True  # `State.apply` says what is wrong with it
        self._waiting_since = now if self._waiting_since is None else self._waiting_since
        with suppress(NotYet, InvalidOperation):
            self.check_committee(parsed)
        verdict = self._good.get(parsed.id)
        if verdict is not None and not self._released:
            missing = [
                c
                for c in verdict.missing
                if state.head(c.parsed.operation.object)[0] < c.parsed.operation.seq
            ]
            for certain in missing:
                if certain.parsed.id not in self._permitted:
                    self._permitted.add(certain.parsed.id)
                    found = self._desk.table.hold(certain.parsed)
                    found.certificate, found.final = certain.certificate, certain.view
                    self._desk.room.work.append(found)
            return not missing
        if state.root() == body.state_root:
            return True
        return self._go_on_without(now)

    def _go_on_without(self, now: int) -> bool:
        """COMMITTEE is final, and our state is another: after a while give up the vote, not the ledger."""
        assert self._waiting_since is not None
        since = self._waiting_since
        if since >= 0 and (self.closing is None or now >= since + RELEASE_AFTER_MS):
            self._waiting_since = since = -now - 1  # released
            if self.closing is not None:
                for certain in list(self.closing.certain.values()):
                    found = self._desk.table.hold(certain.parsed)
                    found.certificate, found.final = certain.certificate, certain.view
            self._desk.room.work.extend(
                c for c in self._desk.table.candidates.values() if c.final is not None
            )
        if since < 0 and now >= -since + FOLLOW_AFTER_MS:
            self.blind = True
            self._desk.archive.keepsake(blind_mark(self._desk.state.network, self._desk.epoch + 1))
            return True
        return False

    def applied(self, parsed: ParsedOperation, undos: list[Undo]) -> None:
        """An operation was applied here."""
        for undo in undos:
            self._recent.append(Applied(parsed, undo))
        if self._permitted:
            self._wake_committee()

    def collects(self) -> bool:
        """Whether what is applied may have to be taken back for a look at a union."""
        return self._end.id in self._desk.table.candidates or bool(self._desk.state.system.closed)

    def certain(self, id_: bytes) -> Certain | None:
        """A final operation of this epoch that is held aside, for others who judge the same."""
        return self.closing.certain.get(id_) if self.closing is not None else None

    def aside(self, id_: bytes) -> ParsedOperation | None:
        """Any operation of this epoch that is held aside."""
        certain = self.certain(id_)
        if certain is not None:
            return certain.parsed
        return self.closing.aside.get(id_) if self.closing is not None else None

    # --- afterwards ---------------------------------------------------------------------------------

    def leftovers(self) -> list[tuple[ParsedOperation, bytes, int]]:
        """Operations that are final in this epoch and were held back: with certificates, for the next."""
        found = []
        for candidate in self._desk.table.candidates.values():
            if (
                candidate.final is None
                or candidate.parsed is None
                or candidate.slot[0] == self._desk.state.network
            ):
                continue
            certificate = candidate.certificate
            if not certificate:
                places = self._desk.table.places(candidate, COMMIT, candidate.final)
                certificate = build_certificate(
                    map(unpack_place, places), self._desk.archive.batch, self._desk.committee
                )
            found.append((candidate.parsed, certificate, candidate.final))
        if self.closing is not None:
            known = {parsed.id for parsed, _, _ in found}
            found += [
                (c.parsed, c.certificate, c.view)
                for c in self.closing.certain.values()
                if c.parsed.id not in known
            ]
        return found


__all__ = ["EpochEnd"]
