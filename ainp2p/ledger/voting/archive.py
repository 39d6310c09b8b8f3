"""Everything that a validator has to have on disk: what the next writes bring there, and reading it back.

Own batches and the operations that they rest on go with every write. What nobody waits for (others' batches,
decided operations) is collected for up to a second: a few large writes touch fewer pages than many small
ones. Until then it is found here, in memory. The `Journal` does the I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ainp2p.errors import StorageError
from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.rules.operations import SignedOperation
from ainp2p.ledger.rules.state import Changes
from ainp2p.ledger.store import Decided
from ainp2p.ledger.voting.attachments import attachment_id
from ainp2p.ledger.voting.certificate import build_certificate, unpack_place
from ainp2p.ledger.voting.effects import TWO_OPERATIONS, Effects, Evidence, Found, Journal, Record, Records
from ainp2p.ledger.voting.priority import HeldReceipt, HeldReceipts
from ainp2p.ledger.voting.slot import Candidate, VoteTable
from ainp2p.ledger.voting.views import Contest
from ainp2p.ledger.voting.votelog import Chain, VoteBatch, reopen_batch

WRITE_AFTER_MS = 1_000  # what nobody waits for
UNSAVED_MAX = 2_048  # decided operations, or others' batches; then write at once
FLOORS_EVERY = 16  # writes of everything; between them a restart reads more than it needs
OLD_AFTER = 256  # writes; operations that are still needed then are written again, so that floors move on
CULPRITS_MAX = 4_096  # evidence against owners beyond that many is not kept
CACHED_BATCHES = 64  # parsed, for certificates

_Key = tuple[int, int, int]  # epoch, member, height


class Archive:
    """What is on disk, and what is on its way there.

    Attributes:
        segment: the number of the last write.
        write_at: when everything must be written, or None.
        writing: a write is out and not yet acknowledged.
        culprits: (kind, culprit) of the evidence found since the start.
        epoch: whose batches come and go; certificates are made for all epochs.
        hold_floors: an epoch closes: a restart needs all HANDOFF records.
    """

    def __init__(self, journal: Journal, committee_of: Callable[[int], Committee], epoch: int = 0) -> None:
        self._journal, self._committee_of, self.epoch = journal, committee_of, epoch
        self.hold_floors = False
        self.segment = 0
        self.write_at: int | None = None
        self.writing = False
        self.culprits: set[tuple[int, bytes]] = set()
        self._full_writes = 0
        self._others: list[VoteBatch] = []
        self._operations: list[SignedOperation] = []
        self._decided: list[Record] = []
        self._evidence: list[Evidence] = []
        self._attachments: dict[bytes, bytes] = {}
        self._pushed: list[bytes] = []
        self._in_flight: dict[bytes, bytes] = {}
        self._rests_on_others = False  # a COMMIT is on its way to the disk, and the LOCKs for it may not be
        self._keepsakes: dict[bytes, bytes] = {}
        self._unsaved: dict[_Key, VoteBatch] = {}  # others' batches
        self._fresh: dict[bytes, Record] = {}  # decided operations that no write has taken yet
        self._leaving: dict[bytes, Record] = {}  # those in the write that is out
        self._cache: dict[_Key, VoteBatch] = {}

    # --- to be written ----------------------------------------------------------------------------

    def keep(self, candidate: Candidate) -> None:
        """Have a candidate's bytes on disk with (or before) the vote that rests on them."""
        if not candidate.segment:
            self._operations.append(candidate.proof)
            candidate.segment = self.segment + 1

    def keep_commit(self, candidate: Candidate) -> None:
        """The same for a COMMIT: it rests on others' LOCKs too, which a NEWVIEW may have to report.

        Lemma L4 (docs/ledger-proof.md): what we COMMITted on can be shown after a restart.
        """
        self.keep(candidate)
        self._rests_on_others = True

    def store(self, raw: bytes) -> int:
        """Have an attachment on disk with the vote that rests on it; returns the number of that write."""
        self._attachments[attachment_id(raw)] = raw
        return self.segment + 1

    def attach(self, raw: bytes) -> int:
        """The same, and push it then."""
        self._pushed.append(raw)
        return self.store(raw)

    def keepsake(self, raw: bytes) -> None:
        """Have an attachment on disk with the next write, and keep it: a HANDOFF, or a page of one."""
        self._keepsakes[attachment_id(raw)] = raw

    def hand_over(self, raw: bytes) -> None:
        """The same for our own, and push it then; what it speaks of is on disk before it."""
        self.keepsake(raw)
        self._pushed.append(raw)
        self.write_at = 0

    def mark(self, raw: bytes) -> None:
        """A keepsake that stays here; what it speaks of is on disk before it or with it.

        Lemma L7 (docs/ledger-proof.md): what a member has caught up with is on its disk before it votes.
        """
        self.keepsake(raw)
        self.write_at = 0

    def turn(self, epoch: int) -> None:
        """Another epoch begins: what opened it is on disk before any vote in it."""
        self.epoch, self.hold_floors, self.write_at = epoch, False, 0

    def add_batch(self, batch: VoteBatch, now: int) -> None:
        """Another validator's batch, in its place."""
        self._others.append(batch)
        self._unsaved[batch.header.epoch, batch.member, batch.header.height] = batch
        self._write_soon(now)

    def add_decided(self, candidate: Candidate, changes: Changes, places: tuple[int, ...], now: int) -> None:
        """An applied operation, what it changed, and where the COMMITs are, if not in a certificate."""
        assert candidate.parsed is not None
        decided = Decided(candidate.parsed, changes, b"" if places else candidate.certificate)
        record = Record(decided, places, self.epoch)
        self._decided.append(record)
        self._fresh[candidate.id] = record
        self._write_soon(now)

    def add_evidence(self, evidence: Evidence, out: Effects) -> None:
        """The first evidence of each kind against each culprit is kept."""
        # There are few validators. Owners may be many, and must not use up the room of what costs a seat.
        room = evidence.kind != TWO_OPERATIONS or len(self.culprits) < CULPRITS_MAX
        if (evidence.kind, evidence.culprit) not in self.culprits and room:
            self.culprits.add((evidence.kind, evidence.culprit))
            self._evidence.append(evidence)
            self.write_at = 0
            out.evidence.append(evidence)

    def _write_soon(self, now: int) -> None:
        if len(self._others) >= UNSAVED_MAX or len(self._decided) >= UNSAVED_MAX:
            self.write_at = now
        elif self.write_at is None:
            self.write_at = now + WRITE_AFTER_MS

    def is_due(self, now: int) -> bool:
        """Whether it is time to write everything."""
        return self.write_at is not None and self.write_at <= now

    def clock_put_back(self, now: int) -> None:
        """Write no later than if all of it had come now."""
        self.write_at = None if self.write_at is None else min(self.write_at, now + WRITE_AFTER_MS)

    def collect(
        self,
        own: list[VoteBatch],
        now: int,
        table: VoteTable,
        receipts: HeldReceipts,
        chains: Sequence[Chain],
    ) -> Records:
        """The next write: own batches with what they rest on, and everything else if it is due."""
        self.segment += 1
        self.writing = True
        records = Records(self.segment, own, [], [], [], [], epoch=self.epoch)
        if self.is_due(now):
            self.write_at = None
            records.others, self._others = self._others, []
            records.decided, self._decided = self._decided, []
            self._leaving, self._fresh = self._fresh, {}
            records.evidence, self._evidence = self._evidence, []
            self._full_writes += 1
            if self._full_writes % FLOORS_EVERY == 0 and not self.hold_floors:
                records.floors = self._floors(table, receipts, chains)
        elif self._rests_on_others:
            records.others, self._others = self._others, []
        self._rests_on_others = False
        records.operations, self._operations = self._operations, []
        records.attachments, self._attachments = list(self._attachments.values()), {}
        records.pushed, self._pushed = self._pushed, []
        records.keepsakes, self._keepsakes = list(self._keepsakes.values()), {}
        self._in_flight = {attachment_id(raw): raw for raw in (*records.attachments, *records.keepsakes)}
        return records

    def _floors(
        self, table: VoteTable, receipts: HeldReceipts, chains: Sequence[Chain]
    ) -> tuple[dict[int, int], int]:
        """From where on a restart has to read; what is still needed and old is written once more."""
        needed: list[Candidate | HeldReceipt] = [c for c in table.candidates.values() if c.segment]
        needed += receipts.highest.values()
        for each in needed:
            if each.segment <= self.segment - OLD_AFTER:
                self._operations.append(each.proof)
                each.segment = self.segment
        segments = [each.segment for each in needed]
        for slot in table.slots.values():
            if slot.contest is not None:
                segments += self._renew(slot.contest)
        lowest = table.lowest_heights()
        heights = {m: min(lowest.get(m, chain.height), chain.height) for m, chain in enumerate(chains)}
        return heights, min(segments, default=self.segment)

    def _renew(self, contest: Contest) -> Iterable[int]:
        """Write old attachments of an open slot once more; returns the writes that hold its attachments."""
        for id_, segment in contest.kept.items():
            raw = self.attachment(id_) if segment <= self.segment - OLD_AFTER else None
            if raw is not None:
                self._attachments[id_] = raw
                contest.kept[id_] = self.segment
        return contest.kept.values()

    def written(self, records: Records) -> None:
        """These records are on disk."""
        self.writing = False
        self._in_flight = {}
        for batch in records.others:
            self._unsaved.pop((batch.header.epoch, batch.member, batch.header.height), None)
        self._leaving = {}

    # --- to be found ------------------------------------------------------------------------------

    def find(self, id_: bytes) -> Found | None:
        """A decided operation."""
        record = self._fresh.get(id_) or self._leaving.get(id_)
        if record is not None:
            signed, certificate = record.decided.parsed.signed, record.decided.certificate
            return Found(signed, record.places, certificate, record.epoch)
        return self._journal.find(id_)

    def decided_at(self, object_: bytes, seq: int, head: tuple[int, bytes]) -> bytes | None:
        """The operation that was decided in this slot; `head` is the object's."""
        if head[0] == seq:
            return head[1]
        for id_, record in (*self._leaving.items(), *self._fresh.items()):
            operation = record.decided.parsed.operation
            if (operation.object, operation.seq) == (object_, seq):
                return id_
        return self._journal.decided_at(object_, seq)

    def attachment(self, id_: bytes) -> bytes | None:
        """An attachment that own votes rest on."""
        for waiting in (self._attachments, self._keepsakes, self._in_flight):
            if id_ in waiting:
                return waiting[id_]
        return self._journal.attachment(id_)

    def heads(self) -> dict[bytes, tuple[int, bytes]]:
        """Every object that was ever written here, with (seq, id) of the last operation on it."""
        heads = self._journal.heads()
        for id_, record in (*self._leaving.items(), *self._fresh.items()):
            operation = record.decided.parsed.operation
            if operation.seq > heads.get(operation.object, (0, b""))[0]:
                heads[operation.object] = operation.seq, id_
        return heads

    def certificate(self, id_: bytes) -> bytes | None:
        """The commit certificate of a decided operation, made from the batches that hold its votes."""
        found = self.find(id_)
        if found is None:
            return None
        if not found.places:
            return found.certificate
        epoch = found.epoch
        return build_certificate(
            map(unpack_place, found.places),
            lambda member, height: self.batch(member, height, epoch),
            self._committee_of(epoch),
        )

    def raw_batch(self, member: int, height: int) -> bytes | None:
        """A batch as it travels."""
        unsaved = self._unsaved.get((self.epoch, member, height))
        return unsaved.raw if unsaved is not None else self._journal.batch(member, height, self.epoch)

    def raw_batches(self, member: int, first: int, last: int) -> list[bytes]:
        """The batches from `first` to `last`, all of which are held."""
        epoch, count = self.epoch, last - first + 1
        stored = self._journal.batches(member, first, count, epoch) if count > 0 else []
        return stored + [self._unsaved[epoch, member, h].raw for h in range(first + len(stored), last + 1)]

    def batch(self, member: int, height: int, epoch: int | None = None) -> VoteBatch:
        """A held batch (of the current epoch), parsed; the last ones that were asked for are at hand.

        Raises:
            StorageError: it is not held.
        """
        of = self.epoch if epoch is None else epoch
        key = of, member, height
        batch = self._unsaved.get(key) or self._cache.pop(key, None)
        if batch is None:
            raw = self._journal.batch(member, height, of)
            if raw is None:
                raise StorageError(f"batch {height} of validator {member} is not on the disk")
            batch = reopen_batch(raw, self._committee_of(of))
        self._cache[key] = batch  # at the end: the first is the one used longest ago
        if len(self._cache) > CACHED_BATCHES:
            del self._cache[next(iter(self._cache))]
        return batch
