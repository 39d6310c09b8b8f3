"""The end of an epoch at one validator: from END-EPOCH to the COMMITTEE that opens the next. No I/O.

    open ──END-EPOCH final──► closing: HANDOFF made, others' HANDOFFs recorded ─► fetched ─► usable
         ──more than 2/3 of the weight usable, our turn──► COMMITTEE proposed
         ──somebody's COMMITTEE judged: LOCK──► final ──the same union applied here──► open in e + 1

From its HANDOFF on a validator is *frozen*: it applies nothing more of the epoch but what the final
COMMITTEE's union has, so its state stays its own frontier, over restarts too. What others have more is
fetched (the heads that differ, by reconciliation with that member; then their operations with
certificates) and held aside; the state after a union is visited and left again (`visiting`).

A HANDOFF is *usable* once it, its pages and its frontier are here, everything checked, and all that it
has more than we is held. LEDGER.md: "the state root is the state after exactly the union of their
frontiers; nobody LOCKs it before fetching and checking all of that."
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ainp2p.errors import Error, InvalidOperation, LedgerError, NotYet
from ainp2p.ledger.rules.committee import Committee, Succession
from ainp2p.ledger.rules.operations import (
    EVIDENCE_MAX,
    VERSION,
    NextCommittee,
    Operation,
    ParsedOperation,
    Seat,
    SignedOperation,
    Signer,
    sign_committee,
)
from ainp2p.ledger.rules.parameters import Parameters
from ainp2p.ledger.rules.state import State
from ainp2p.ledger.voting.attachments import attachment_id
from ainp2p.ledger.voting.effects import FrontierWanted
from ainp2p.ledger.voting.evidence import Offence, read_evidence, verify_evidence
from ainp2p.ledger.voting.handoff import (
    Checked,
    CommitteeOf,
    Handoff,
    Head,
    HeadOf,
    Prepared,
    SlotId,
    Union,
    changed_frontier,
    check_handoff,
    check_signature,
    frontier_root,
    read_handoff,
    unite,
    unwritten,
)
from ainp2p.ledger.voting.visiting import Applied, visiting
from ainp2p.protocol.identity import digest

GATHER_MS = (
    1_000  # for further HANDOFFs, once those of a quorum are usable: whoever is named is not left behind
)
TURN_MS = 4_000  # until the next member in turn proposes too
NAMED_MAX = 64  # HANDOFFs that only a COMMITTEE names, no log that we have
NO_ADDRESSES: Mapping[bytes, tuple[bytes, ...]] = {}

AttachmentOf = Callable[[bytes], bytes | None]
HeldOf = Callable[[bytes], ParsedOperation | None]  # an operation that is held or decided here, by its id


@dataclass(frozen=True, slots=True)
class Epochal:
    """What stays the same while one epoch closes."""

    network: bytes
    epoch: int
    committee: Committee
    committee_of: CommitteeOf
    end: bytes  # the END-EPOCH's id


@dataclass(frozen=True, slots=True)
class Certain:
    """An operation of this epoch that is final by a certificate, held aside."""

    parsed: ParsedOperation
    certificate: bytes
    view: int


@dataclass(slots=True)
class _Handing:
    """How far we are with a HANDOFF. `member`: whose log records it; −1 until it says itself whose it is."""

    id: bytes
    member: int
    raw: bytes | None = None
    handoff: Handoff | None = None
    prepared: Mapping[SlotId, Prepared] = field(default_factory=dict)
    heads: Mapping[bytes, Head] | None = None
    broken: bool = False  # it was fetched, and is not what it should be


@dataclass(frozen=True, slots=True)
class Shown:
    """A HANDOFF of which everything is here.

    Attributes:
        attachments: itself, then its pages.
        heads: where its frontier differs from our own; seq 0 where that has more.
        frontier: the whole of it.
    """

    attachments: tuple[bytes, ...]
    heads: Mapping[bytes, Head]
    frontier: Mapping[bytes, Head]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A COMMITTEE that is good: what has to be applied before it, and the slots that start at view 1."""

    missing: tuple[Certain, ...]
    union: Union


class Closing:
    """One validator's view of one epoch's end.

    Attributes:
        base: our own frontier, as it was frozen.
        certain: operations that others have more than we, by id.
        aside: operations that are prepared in a HANDOFF and not held as candidates here, by id.
    """

    def __init__(
        self,
        setting: Epochal,
        base: Mapping[bytes, Head],
        held: HeldOf,
        head_of: HeadOf = unwritten,
    ) -> None:
        """Begin; `head_of` gives our heads of objects that are not in the base: they ended before."""
        self._is = setting
        self._head_of = head_of
        self.base = dict(base)
        self._root = frontier_root(self.base)
        self._held = held
        self._usable_since: int | None = None
        self._handings: dict[bytes, _Handing] = {}  # by id, in the order in which they were heard of
        self._pages: dict[bytes, bytes] = {}
        self.certain: dict[bytes, Certain] = {}
        self.aside: dict[bytes, ParsedOperation] = {}

    # --- HANDOFFs ---------------------------------------------------------------------------------

    def recorded(self, member: int, id_: bytes) -> None:
        """A member's log, as we know it, has a HANDOFF record."""
        handing = self._handings.setdefault(id_, _Handing(id_, member))
        if handing.member < 0:
            handing.member = member

    def named(self, ids: Iterable[bytes]) -> None:
        """A COMMITTEE names these; of members that show others another log, we may not have heard."""
        for id_ in ids:
            if len(self._handings) < len(self._is.committee.keys) + NAMED_MAX:
                self._handings.setdefault(id_, _Handing(id_, -1))

    def attached(self, raw: bytes) -> bool:
        """Take an attachment if it is a HANDOFF that we have heard of, or a page of one; whether it was."""
        id_, taken = attachment_id(raw), False
        for handing in self._handings.values():
            if handing.id == id_ and handing.raw is None:
                handing.raw, taken = raw, True
                self._read(handing, raw)
            elif handing.handoff is not None and id_ in handing.handoff.more:
                self._pages[id_], taken = raw, True
        if taken:
            self._check_all()
        return taken

    def _read(self, handing: _Handing, raw: bytes) -> None:
        try:
            handoff = read_handoff(raw)
            check_signature(handoff)
        except Error:
            handing.broken = True
            return
        member = self._is.committee.index.get(handoff.validator, -1)
        handing.broken = member < 0 or handing.member not in (-1, member)
        handing.handoff, handing.member = handoff, member

    def _check_all(self) -> None:
        for handing in self._handings.values():
            handoff = handing.handoff
            if handoff is None or handing.raw is None or handing.broken or handing.heads is not None:
                continue
            if any(page not in self._pages for page in handoff.more):
                continue
            pages = [self._pages[page] for page in handoff.more]
            try:
                handing.handoff, handing.prepared = check_handoff(
                    handing.raw,
                    self._is.network,
                    self._is.epoch,
                    handoff.validator,
                    pages,
                    self._is.committee_of,
                )
            except Error:
                handing.broken = True
                continue
            if handoff.frontier_root == self._root:
                handing.heads = {}

    @property
    def attachments_wanted(self) -> list[tuple[bytes, bytes]]:
        """(attachment, member's key) of what is recorded, or named by a HANDOFF, and not here."""
        wanted = []
        for handing in self._handings.values():
            key = self._key_of(handing)
            if handing.raw is None:
                wanted.append((handing.id, key))
            elif handing.handoff is not None and not handing.broken:
                wanted += [(page, key) for page in handing.handoff.more if page not in self._pages]
        return wanted

    def _key_of(self, handing: _Handing) -> bytes:
        return self._is.committee.keys[max(handing.member, 0)]

    @property
    def frontiers_wanted(self) -> list[FrontierWanted]:
        """Members whose frontier differs from ours, we do not know where."""
        return [
            FrontierWanted(self._key_of(handing), handing.id)
            for handing in self._handings.values()
            if handing.handoff is not None
            and not handing.broken
            and handing.heads is None
            and all(page in self._pages for page in handing.handoff.more)
        ]

    def take_frontier(self, id_: bytes, heads: Mapping[bytes, Head]) -> None:
        """Where the frontier of this HANDOFF differs from ours; seq 0 where that has nothing.

        Raises:
            InvalidOperation: rule ``"frontier"``: these heads do not make its root (ask again).
        """
        for handing in self._handings.values():
            if handing.id == id_ and handing.handoff is not None and handing.heads is None:
                frontier = changed_frontier(self.base, heads)
                expected = handing.handoff.frontier_root, handing.handoff.frontier_count
                if (frontier_root(frontier), len(frontier)) != expected:
                    raise InvalidOperation("frontier", "these heads do not make the HANDOFF's root")
                handing.heads = dict(heads)

    def frontier(self, id_: bytes) -> dict[bytes, Head] | None:
        """The whole frontier of a HANDOFF that is usable here; None for any other."""
        for handing in self._handings.values():
            if handing.id == id_ and handing.heads is not None:
                return changed_frontier(self.base, handing.heads)
        return None

    def has(self, id_: bytes) -> bool:
        """Whether a HANDOFF is here with its pages and its frontier, and was checked."""
        handing = self._handings.get(id_)
        return handing is not None and handing.handoff is not None and handing.heads is not None

    def shown(self, id_: bytes) -> Shown | None:
        """A HANDOFF with its pages and its frontier, once all of that is here and checked."""
        handing, frontier = self._handings.get(id_), self.frontier(id_)
        if handing is None or handing.handoff is None or handing.raw is None or frontier is None:
            return None
        pages = (self._pages[page] for page in handing.handoff.more)
        return Shown((handing.raw, *pages), handing.heads or {}, frontier)

    def retire(self) -> None:
        """The next epoch has begun: only `frontier` is still asked for."""
        self._held = lambda _: None
        self.certain.clear()
        self.aside.clear()

    # --- what a HANDOFF needs ---------------------------------------------------------------------

    def take_decided(self, parsed: ParsedOperation, certificate: bytes, view: int) -> None:
        """Hold a final operation of this epoch aside; its certificate was checked."""
        self.certain[parsed.id] = Certain(parsed, certificate, view)

    @property
    def operations_wanted(self) -> list[tuple[bytes, bytes]]:
        """(operation, member's key): heads that others have more, what is below them, and prepared ones."""
        wanted: dict[bytes, bytes] = {}
        for handing in self._handings.values():
            key = self._key_of(handing)
            for object_, head in (handing.heads or {}).items():
                missing = self._chain(object_, head)[1]
                if missing is not None:
                    wanted.setdefault(missing, key)
            if not handing.broken:
                for prepared in handing.prepared.values():
                    if self._operation(prepared.operation) is None:
                        wanted.setdefault(prepared.operation, key)
        return sorted(wanted.items())

    def _operation(self, id_: bytes) -> ParsedOperation | None:
        certain = self.certain.get(id_)
        return certain.parsed if certain is not None else self.aside.get(id_) or self._held(id_)

    def _head(self, object_: bytes) -> Head:
        return self.base.get(object_) or self._head_of(object_)

    def _chain(self, object_: bytes, head: Head) -> tuple[list[Certain], bytes | None]:
        """What leads from our head of an object up to this one, lowest first; or the id that is missing."""
        seq, known = self._head(object_)
        at, id_ = head
        steps: list[Certain] = []
        while at > seq:
            certain = self.certain.get(id_)
            if certain is None:
                return [], id_
            operation = certain.parsed.operation
            if (operation.object, operation.seq) != (object_, at):
                raise InvalidOperation("frontier", "a head is another object's operation")
            steps.append(certain)
            at, id_ = at - 1, operation.previous
        if at == seq and steps and id_ != known:
            raise InvalidOperation("fork", f"object {object_.hex()} has two operations at {seq}")
        return steps[::-1], None

    def _problem(self, handing: _Handing) -> str | None:
        """What keeps a HANDOFF from being usable."""
        if handing.broken:
            return "not what it should be"
        if handing.heads is None:
            return "not fetched"
        for object_, head in handing.heads.items():
            try:
                if self._chain(object_, head)[1] is not None:
                    return "operations that it has are missing"
            except InvalidOperation as exc:
                return str(exc)
        for (object_, seq), prepared in handing.prepared.items():
            parsed = self._operation(prepared.operation)
            if parsed is None:
                return "an operation that it has prepared is missing"
            if (parsed.operation.object, parsed.operation.seq) != (object_, seq):
                return "an operation is prepared in a slot that is not its own"
        return None

    @property
    def usable(self) -> dict[int, Checked]:
        """By member, a HANDOFF of which everything is here and right."""
        found: dict[int, Checked] = {}
        for checked in self._all_usable():
            found.setdefault(self._is.committee.index[checked.handoff.validator], checked)
        return dict(sorted(found.items()))

    def _all_usable(self) -> list[Checked]:
        return [
            Checked(handing.id, handing.handoff, handing.prepared, handing.heads)
            for handing in self._handings.values()
            if handing.handoff is not None and handing.heads is not None and self._problem(handing) is None
        ]

    # --- judging somebody's COMMITTEE ---------------------------------------------------------------

    def judge(
        self,
        body: NextCommittee,
        timestamp: int,
        state: State,
        recent: Sequence[Applied],
        attachment_of: AttachmentOf,
    ) -> Verdict:
        """Whether a COMMITTEE says what the HANDOFFs and the evidence that it names make it say.

        Lemma L7 (docs/ledger-proof.md): root and seats follow from the named set alone.

        Raises:
            NotYet: rule ``"handoffs"`` or ``"evidence"``: something that it names is not here yet.
            InvalidOperation: rules ``"handoffs"``, ``"fork"``, ``"state-root"``, ``"seats"``, ``"bonds"``,
                ``"offenders"``: it says something else.
        """
        self.named(body.handoffs)
        usable = {checked.id: checked for checked in self._all_usable()}
        for id_ in body.handoffs:
            if id_ not in usable:
                if id_ in self._handings and self._handings[id_].broken:
                    raise InvalidOperation("handoffs", "one is not what it should be")
                raise NotYet("handoffs", "not all that it names are here")
        offenders = judge_evidence(body.evidence, self._is, state, attachment_of)
        if tuple(sorted(offenders)) != body.offenders:
            raise InvalidOperation("offenders", "not those whom the evidence shows")
        verdict = self._united([usable[id_] for id_ in body.handoffs])
        root, succession = self._after(verdict, state, recent, offenders, timestamp)
        if root != body.state_root:
            raise InvalidOperation("state-root", "not that of the union of the HANDOFFs")
        # Addresses weigh nothing: a proposer may know newer ones.
        if [(s.key, s.weight) for s in succession.seats] != [(s.key, s.weight) for s in body.seats]:
            raise InvalidOperation("seats", "not those that follow from the state and the evidence")
        if (succession.burnt_bonds, succession.returned_bonds) != (body.burnt_bonds, body.returned_bonds):
            raise InvalidOperation("bonds", "not those that follow from the state and the evidence")
        return verdict

    def _united(self, named: Sequence[Checked]) -> Verdict:
        union = unite(named, self._is.committee, self.base, self._head_of)
        missing: list[Certain] = []
        for object_, head in union.heads.items():
            steps, lacking = self._chain(object_, head)
            if lacking is not None:
                raise NotYet("handoffs", "operations that they have are missing")
            missing += steps
        return Verdict(tuple(missing), union)

    def _after(
        self, verdict: Verdict, state: State, recent: Sequence[Applied], offenders: set[bytes], timestamp: int
    ) -> tuple[bytes, Succession]:
        """State root and succession after exactly the union."""
        ahead = [
            applied
            for applied in recent
            if (applied.object in verdict.union.heads)
            and applied.seq > verdict.union.heads[applied.object][0]
        ]
        undone = {(applied.object, applied.seq) for applied in ahead}
        for object_, (seq, _) in verdict.union.heads.items():
            if any((object_, n) not in undone for n in range(seq + 1, self._head(object_)[0] + 1)):
                raise NotYet("handoffs", "we have applied more than they say, too long ago to take it back")
        with visiting(state, ahead, [certain.parsed for certain in verdict.missing]):
            return state.root(), state.succession(offenders, timestamp)

    # --- proposing one ------------------------------------------------------------------------------

    def propose_at(self, member: int, now: int) -> int | None:
        """When this member should propose, in ms; None while the usable HANDOFFs are not enough.

        Any member may; "pick takes the lowest id". So that n competing ones are the exception, members take
        turns in an order that nobody chooses, and the first waits a little for the last HANDOFFs.
        """
        usable, committee = self.usable, self._is.committee
        if committee.weight_of(usable) < committee.quorum:
            self._usable_since = None
            return None
        if self._usable_since is None or now < self._usable_since:
            self._usable_since = now
        order = sorted(committee.keys, key=lambda key: digest(b"ainp2p/propose/1", self._is.end, key))
        turn = order.index(committee.keys[member]) * TURN_MS
        gather = 0 if len(usable) == len(committee.keys) else GATHER_MS
        return self._usable_since + gather + turn

    def propose(
        self,
        signer: Signer,
        state: State,
        recent: Sequence[Applied],
        evidence: Mapping[bytes, Offence],
        attachment_of: AttachmentOf,
        now: int,
        addresses: Mapping[bytes, tuple[bytes, ...]] = NO_ADDRESSES,
    ) -> SignedOperation | None:
        """A COMMITTEE over all HANDOFFs that are usable here.

        Args:
            evidence: attachments of offences that nobody has been barred for yet.
            addresses: where validators have told us that they listen; others keep what their seats said.

        None if it cannot be made now.
        """
        chosen = first_of_each_culprit(evidence)
        parameters: Parameters = state.agreed_parameters or state.parameters[self._is.epoch]
        timestamp = max(now, state.system.opened_at)
        try:
            offenders = judge_evidence(chosen, self._is, state, attachment_of)
            verdict = self._united(list(self.usable.values()))
            root, succession = self._after(verdict, state, recent, offenders, timestamp)
        except LedgerError:
            return None
        body = NextCommittee(
            epoch=self._is.epoch + 1,
            seats=tuple(
                Seat(seat.key, seat.weight, addresses.get(seat.key, seat.addresses))
                for seat in succession.seats
            ),
            parameters=parameters,
            handoffs=verdict.union.handoffs,
            evidence=chosen,
            state_root=root,
            proposer=signer.public,
            offenders=tuple(sorted(offenders)),
            burnt_bonds=succession.burnt_bonds,
            returned_bonds=succession.returned_bonds,
        )
        network, seq = self._is.network, 2 * self._is.epoch + 2
        return sign_committee(
            Operation(VERSION, network, network, seq, self._is.end, timestamp, body), signer
        )


# --- evidence -----------------------------------------------------------------------------------------


def judge_evidence(
    named: Sequence[bytes], setting: Epochal, state: State, attachment_of: AttachmentOf
) -> set[bytes]:
    """The validators that this evidence shows to have offended.

    Raises:
        NotYet: rule ``"evidence"``: some of it is not here.
        InvalidOperation: rule ``"offenders"``: some of it shows nothing, an owner's offence, or somebody's
            who was barred before.
    """
    found: set[bytes] = set()
    for id_ in named:
        raw = attachment_of(id_)
        if raw is None:
            raise NotYet("evidence", "not all that it names is here")
        try:
            offence = verify_evidence(
                read_evidence(raw), setting.network, setting.committee_of, attachment_of
            )
        except NotYet:
            raise
        except Error as exc:
            raise InvalidOperation("offenders", f"evidence that shows nothing ({exc})") from exc
        if not offence.by_validator or offence.culprit in state.system.barred or offence.culprit in found:
            raise InvalidOperation("offenders", "evidence that bars nobody further")
        found.add(offence.culprit)
    return found


def first_of_each_culprit(evidence: Mapping[bytes, Offence]) -> tuple[bytes, ...]:
    """The ids, sorted, of one piece of evidence against each validator: that with the lowest id."""
    lowest: dict[bytes, bytes] = {}
    for id_, offence in evidence.items():
        if offence.by_validator:
            lowest[offence.culprit] = min(lowest.get(offence.culprit, id_), id_)
    return tuple(sorted(sorted(lowest.values())[:EVIDENCE_MAX]))


__all__ = [
    "Certain",
    "Closing",
    "Epochal",
    "Shown",
    "Verdict",
    "first_of_each_culprit",
    "judge_evidence",
]
