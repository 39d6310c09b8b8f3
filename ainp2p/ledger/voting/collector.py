"""Finding evidence in what a validator accepts anyway: batches and operations, in their order. No I/O.

It works for slots in which something is wrong only: a *file* is opened when a second operation for one slot
arrives, or when a NEWVIEW names a slot. Until then a batch costs one look at the kinds of its records, and an
operation two dictionary entries. What was voted before a file was opened is asked for (`votes`) from the
table that counts votes; a batch is asked for (`batch`) when a vote in it has to be shown.

    take_operation(parsed) ─┬─ first in its slot: noted ──forget(slot)──► gone
                            └─ second: file opened ──forget(slot)──► closed ──FORGET_AFTER batches──► gone
    take_batch(batch) ──► votes for the operations in files are compared with one another, and NEWVIEWs

Memory is bounded whatever a member votes for: FILES_PER_MEMBER slots that a member's NEWVIEW alone has
opened, FILES_MAX in all, of too many the oldest goes; in each file RIVALS_MAX operations and, of each member,
LOCKS_MAX LOCKs, NEWVIEWS_MAX NEWVIEWs and the highest COMMIT. Beyond that evidence may be missed, and nothing
else happens. Nothing here raises: what was accepted is not refused because evidence was not found.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from ainp2p.errors import Error, Malformed
from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.rules.operations import SIGN_OPERATION, ParsedOperation, Spend, operation_id
from ainp2p.ledger.voting.attested import attest
from ainp2p.ledger.voting.certificate import unpack_place
from ainp2p.ledger.voting.evidence import (
    BELOW_NEWVIEW,
    EVIDENCE_SIZE_MAX,
    FORGOTTEN_COMMIT,
    MALFORMED_LOCK,
    TWO_BATCHES,
    TWO_LOCKS,
    TWO_OPERATIONS,
    Evidence,
    Offence,
    SlotId,
    is_malformed,
    may_end,
)
from ainp2p.ledger.voting.handoff import read_handoff
from ainp2p.ledger.voting.omissions import Head, Report
from ainp2p.ledger.voting.slot import VoteTable
from ainp2p.ledger.voting.votelog import (
    COMMIT,
    LOCK,
    NEWVIEW,
    NewView,
    VoteBatch,
    read_entries,
    read_votes,
    split_entries,
)
from ainp2p.protocol.codec import encode
from ainp2p.protocol.identity import verify

FILES_MAX = 1_024
FILES_PER_MEMBER = 32
RIVALS_MAX = 8
LOCKS_MAX = 16
NEWVIEWS_MAX = 8
SLOTS_MAX = 65_536  # with one operation; a validator holds fewer
OWNERS_MAX = 4_096  # whose offences are told; each has cost an account
BATCHES_PER_MEMBER = 64  # kept here, for whoever gives no `batch`
FORGET_AFTER = 4_096  # batches; a LOCK for a loser that comes so late is not noticed

_SHORT_SIZE = 37  # bytes of a LOCK or COMMIT

Counted = tuple[int, int, int]  # LOCK or COMMIT, view, packed place
Place = tuple[int, int]  # height, position


def no_votes(_: bytes) -> Iterable[Counted]:
    """For whoever has counted none."""
    return ()


def counted_votes(table: VoteTable) -> Callable[[bytes], Iterable[Counted]]:
    """What a table has counted, for `Collector`."""

    def votes(operation: bytes) -> Iterable[Counted]:
        candidate = table.candidates.get(operation)
        for key, count in candidate.counts.items() if candidate is not None else ():
            for place in count.places:
                yield key & 3, key >> 2, place

    return votes


class _Log:
    """What one member has said about one slot; places are in its log."""

    __slots__ = ("commit", "locks", "newviews")

    def __init__(self) -> None:
        self.locks: OrderedDict[int, tuple[bytes, Place]] = OrderedDict()  # view → operation, place
        self.newviews: deque[tuple[NewView, Place]] = deque(maxlen=NEWVIEWS_MAX)
        self.commit: tuple[int, bytes, Place] | None = None  # the highest: view, operation, place


class _File:
    """A slot in which something is wrong."""

    __slots__ = ("logs", "opened_by", "operations")

    def __init__(self, opened_by: int | None) -> None:
        self.operations: dict[bytes, ParsedOperation] = {}
        self.logs: dict[int, _Log] = {}
        self.opened_by = opened_by  # the member whose NEWVIEW did it; None for two operations

    def log(self, member: int) -> _Log:
        found = self.logs.get(member)
        if found is None:
            found = self.logs[member] = _Log()
        return found


class Collector:
    """Feeds on what one validator accepts in one epoch.

    Attributes:
        found: the offences of which evidence was handed out; each is told once.
    """

    def __init__(
        self,
        committee: Committee,
        network: bytes,
        *,
        epoch: int = 0,
        votes: Callable[[bytes], Iterable[Counted]] = no_votes,
        batch: Callable[[int, int], VoteBatch] | None = None,
        key_of: Callable[[ParsedOperation], bytes | None] = lambda _: None,
    ) -> None:
        """Begin with nothing.

        Args:
            votes: operation id → the votes for it that were counted so far.
            batch: (member, height) → a batch that was accepted; may raise an `Error`.
            key_of: the key that signs a SPEND, where the account's keys are known.
        """
        self.found: set[Offence] = set()
        self._committee, self._network, self._epoch = committee, network, epoch
        self._votes, self._batch, self._key_of = votes, batch, key_of
        self._single: OrderedDict[SlotId, ParsedOperation] = OrderedDict()
        self._files: OrderedDict[SlotId, _File] = OrderedDict()
        self._watched: dict[bytes, _File] = {}
        self._closed: deque[tuple[int, SlotId]] = deque()  # when to forget it
        self._opened: list[deque[SlotId]] = [deque() for _ in committee.keys]
        self._recent: list[OrderedDict[int, VoteBatch]] = [OrderedDict() for _ in committee.keys]
        self._batches = self._owners = 0

    def __len__(self) -> int:
        """How many slots are being watched."""
        return len(self._files)

    # --- what comes in --------------------------------------------------------------------------------

    def take_operation(self, parsed: ParsedOperation) -> list[Evidence]:
        """An operation that is held now; once more if it is held with a better proof."""
        slot = (parsed.operation.object, parsed.operation.seq)
        file = self._files.get(slot)
        if file is None:
            first = self._single.setdefault(slot, parsed)
            if first.id == parsed.id:
                if len(self._single) > SLOTS_MAX:
                    self._single.popitem(last=False)
                return []
            file = self._open(slot, None)
        found: list[Evidence] = []
        self._add(file, parsed, found)
        return found

    def take_batch(self, batch: VoteBatch) -> list[Evidence]:
        """A batch in its place, after those before it."""
        self._batches += 1
        if self._closed and self._closed[0][0] <= self._batches:
            self._forget_closed()
        entries = batch.entries
        if len(entries) % _SHORT_SIZE == 0 and not entries[::_SHORT_SIZE].strip(b"\x01\x02"):
            if not self._watched:
                return []
            named = {entries[at : at + 32] for at in range(5, len(entries), _SHORT_SIZE)}
            if self._watched.keys().isdisjoint(named):
                return []
        return self._read(batch)

    def take_two_batches(self, known: VoteBatch, other: VoteBatch) -> list[Evidence]:
        """Two verified batches of one validator at one height."""
        pair = sorted([(encode(batch.header), batch.signature) for batch in (known, other)])
        same = (known.header.height, known.member) == (other.header.height, other.member)
        if not same or pair[0][0] == pair[1][0]:
            return []
        found: list[Evidence] = []
        self._tell(TWO_BATCHES, known.header.validator, (*pair[0], *pair[1]), found)
        return found

    def take_malformed(self, raw: bytes) -> list[Evidence]:
        """Bytes that `parse` has refused: whoever LOCKed them has done what a correct validator does not."""
        found: list[Evidence] = []
        places = [place for kind, _, place in self._votes(operation_id(raw)) if kind == LOCK]
        if places and is_malformed(raw):
            for packed in places:
                member, height, position = unpack_place(packed)
                self._show(MALFORMED_LOCK, member, [(height, position)], [raw], found)
        return found

    def take_handoff(
        self,
        record: int,
        attachments: Sequence[bytes],
        frontier: Mapping[bytes, Head],
        commits: Iterable[tuple[ParsedOperation, int, int]],
    ) -> list[Evidence]:
        """A HANDOFF that was checked, against its validator's own COMMITs, up to the first that it forgets.

        Args:
            record: packed place of the record that signs it.
            attachments: the HANDOFF, then its pages.
            frontier: the whole of it.
            commits: (operation, view, packed place) of COMMITs of the same validator in this epoch.
        """
        member, height, position = unpack_place(record)
        pages = list(attachments[1:])
        report = Report(read_handoff(attachments[0]), pages, frontier)
        found: list[Evidence] = []
        for parsed, view, packed in commits:
            voter, *place = unpack_place(packed)
            slot = (parsed.operation.object, parsed.operation.seq)
            if voter != member or (place[0], place[1]) >= (height, position):
                continue
            omission = report.omission(slot, (self._epoch, view), may_end(parsed.raw))
            if omission is None:
                continue
            needed = [attachments[0], *(pages[part - 1] for part in omission.parts if part)]
            items = [parsed.raw, encode(omission)]
            room = EVIDENCE_SIZE_MAX - 2_000 - sum(map(len, items))
            items += [raw for raw in needed if sum(map(len, needed)) <= room]
            both = [(place[0], place[1]), (height, position)]
            self._show(FORGOTTEN_COMMIT, member, both, items, found)
            if found or self.is_known(FORGOTTEN_COMMIT, member):
                break
        return found

    def is_known(self, kind: int, member: int) -> bool:
        """Whether this offence of a member needs no further evidence."""
        return Offence(kind, self._committee.keys[member], self._epoch) in self.found

    def forget(self, slot: SlotId) -> None:
        """A slot is decided. If something was wrong there, late votes are still looked at for a while."""
        self._single.pop(slot, None)
        if slot in self._files:
            self._closed.append((self._batches + FORGET_AFTER, slot))

    # --- files ------------------------------------------------------------------------------------------

    def _open(self, slot: SlotId, opened_by: int | None) -> _File:
        file = self._files[slot] = _File(opened_by)
        if opened_by is not None:
            mine = self._opened[opened_by]
            mine.append(slot)
            if len(mine) > FILES_PER_MEMBER:
                self._drop_if(mine.popleft(), opened_by)
        if len(self._files) > FILES_MAX:
            self._drop(next(iter(self._files)))
        first = self._single.pop(slot, None)
        if first is not None:
            self._add(file, first, [])
        return file

    def _drop_if(self, slot: SlotId, opened_by: int) -> None:
        file = self._files.get(slot)
        if file is not None and file.opened_by == opened_by:
            self._drop(slot)

    def _drop(self, slot: SlotId) -> None:
        file = self._files.pop(slot, None)
        for id_ in file.operations if file is not None else ():
            self._watched.pop(id_, None)

    def _forget_closed(self) -> None:
        while self._closed and self._closed[0][0] <= self._batches:
            self._drop(self._closed.popleft()[1])

    def _add(self, file: _File, parsed: ParsedOperation, found: list[Evidence]) -> None:
        """Put an operation into a file, with the votes for it so far."""
        if parsed.id not in file.operations:
            if len(file.operations) >= RIVALS_MAX:
                return
            if file.operations:
                file.opened_by = None
            file.operations[parsed.id] = parsed
            self._watched[parsed.id] = file
            for kind, view, packed in self._votes(parsed.id):
                member, height, position = unpack_place(packed)
                self._note(file, member, kind, view, parsed.id, (height, position), found)
        elif file.operations[parsed.id].signed != parsed.signed:
            file.operations[parsed.id] = parsed
        if len(file.operations) > 1:
            self._compare_owners(file, parsed, found)

    def _read(self, batch: VoteBatch) -> list[Evidence]:
        found: list[Evidence] = []
        votes = read_votes(batch.entries)
        newviews = self._open_for_newviews(batch) if any(kind == NEWVIEW for kind, _, _ in votes) else {}
        for position, (kind, view, id_) in enumerate(votes):
            place = (batch.header.height, position)
            if position in newviews:
                self._keep(batch)
                self._note_newview(batch.member, newviews[position], place, found)
            elif kind in (LOCK, COMMIT) and (file := self._watched.get(id_)) is not None:
                self._keep(batch)
                self._note(file, batch.member, kind, view, id_, place, found)
        return found

    def _open_for_newviews(self, batch: VoteBatch) -> dict[int, NewView]:
        """A batch's NEWVIEWs by position; files are open before votes are read, which may come first."""
        newviews: dict[int, NewView] = {}
        for position, record in enumerate(split_entries(batch.entries)):
            if record[0] == NEWVIEW:
                with contextlib.suppress(Malformed):
                    (newview,) = read_entries(record)
                    assert isinstance(newview, NewView)
                    newviews[position] = newview
                    if (newview.object, newview.seq) not in self._files:
                        self._open((newview.object, newview.seq), batch.member)
        return newviews

    def _keep(self, batch: VoteBatch) -> None:
        if self._batch is None:
            recent = self._recent[batch.member]
            recent[batch.header.height] = batch
            if len(recent) > BATCHES_PER_MEMBER:
                recent.popitem(last=False)

    # --- comparing --------------------------------------------------------------------------------------

    def _note(
        self, file: _File, member: int, kind: int, view: int, id_: bytes, place: Place, found: list[Evidence]
    ) -> None:
        """A LOCK or COMMIT in a file's slot, against all else that the member has said there."""
        log, raw = file.log(member), file.operations[id_].raw
        for newview, before in log.newviews:
            if before < place and view < newview.view:
                self._show(BELOW_NEWVIEW, member, [before, place], [raw], found)
        if kind == COMMIT:
            for newview, after in log.newviews:
                self._compare_report(member, (view, id_, place), newview, after, raw, found)
            if log.commit is None or view > log.commit[0]:
                log.commit = view, id_, place
            return
        other = log.locks.setdefault(view, (id_, place))
        if len(log.locks) > LOCKS_MAX:
            log.locks.popitem(last=False)
        if other[0] != id_:
            first, second = sorted([other, (id_, place)])
            raws = [file.operations[first[0]].raw, file.operations[second[0]].raw]
            self._show(TWO_LOCKS, member, [first[1], second[1]], raws, found)

    def _note_newview(self, member: int, newview: NewView, place: Place, found: list[Evidence]) -> None:
        slot = (newview.object, newview.seq)
        file = self._files.get(slot) or self._open(slot, member)
        log = file.log(member)
        log.newviews.append((newview, place))
        if log.commit is not None:
            raw = file.operations[log.commit[1]].raw
            self._compare_report(member, log.commit, newview, place, raw, found)

    def _compare_report(
        self,
        member: int,
        commit: tuple[int, bytes, Place],
        newview: NewView,
        after: Place,
        raw: bytes,
        found: list[Evidence],
    ) -> None:
        view, _, before = commit
        if before < after and (newview.prepared is None or newview.prepared < view):
            self._show(FORGOTTEN_COMMIT, member, [before, after], [raw], found)

    def _compare_owners(self, file: _File, parsed: ParsedOperation, found: list[Evidence]) -> None:
        """Two SPENDs in one slot that one key has signed."""
        key = self._signer(parsed)
        for rival in file.operations.values() if key is not None else ():
            if key is not None and rival.id != parsed.id and self._signer(rival, key) == key:
                pair = sorted((parsed, rival), key=lambda each: each.id)
                items = tuple(item for each in pair for item in (each.raw, each.signed.signatures[0]))
                self._tell(TWO_OPERATIONS, key, items, found)
                return

    def _signer(self, parsed: ParsedOperation, key: bytes | None = None) -> bytes | None:
        """The key that has signed a SPEND, among those that it may be."""
        body = parsed.operation.body
        if not isinstance(body, Spend):
            return None
        if key is None and body.rotate is not None:
            key = body.rotate.key
        elif key is None:
            key = body.inception.key if body.inception is not None else self._key_of(parsed)
        try:
            verify(key or b"", SIGN_OPERATION, parsed.id, parsed.signed.signatures[0])
        except Error:
            return None
        return key

    # --- telling ----------------------------------------------------------------------------------------

    def _show(
        self, kind: int, member: int, places: list[Place], items: Sequence[bytes], found: list[Evidence]
    ) -> None:
        """Tell an offence that is shown by entries of the member's log, and by other items."""
        if self.is_known(kind, member):
            return
        try:
            attested = [attest(self._held(member, height), position) for height, position in places]
        except (Error, LookupError):
            return  # a batch is not at hand any more
        self._tell(kind, self._committee.keys[member], (*map(encode, attested), *items), found)

    def _tell(self, kind: int, culprit: bytes, items: tuple[bytes, ...], found: list[Evidence]) -> None:
        """Each offence once."""
        owner = kind == TWO_OPERATIONS
        offence = Offence(kind, culprit, 0 if owner else self._epoch)
        if offence in self.found or (owner and self._owners >= OWNERS_MAX):
            return
        evidence = Evidence(kind, culprit, items, offence.epoch)
        if len(encode(evidence)) <= EVIDENCE_SIZE_MAX:
            self._owners += owner
            self.found.add(offence)
            found.append(evidence)

    def _held(self, member: int, height: int) -> VoteBatch:
        return self._recent[member][height] if self._batch is None else self._batch(member, height)


__all__ = ["Collector", "counted_votes"]
