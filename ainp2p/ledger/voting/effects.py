"""What a validator's core hands out: things to send, and things to write. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from ainp2p.ledger.rules.operations import ParsedOperation, SignedOperation
from ainp2p.ledger.store import Decided
from ainp2p.ledger.voting.evidence import TWO_BATCHES, TWO_LOCKS, TWO_OPERATIONS, Evidence
from ainp2p.ledger.voting.votelog import VoteBatch


class Final(msgspec.Struct, frozen=True, gc=False):
    """An operation that has just become final and was applied here; `Validator.certificate` proves it."""

    parsed: ParsedOperation
    view: int


class Push(msgspec.Struct, frozen=True, gc=False):
    """An operation newly found valid, to push to members; `source` brought it ("": we made it ourselves)."""

    parsed: ParsedOperation
    source: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """An operation or an attachment to fetch: `holders` (validators' keys) have it, or had it."""

    id: bytes
    holders: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Gap:
    """Batches `first` … `last` of a validator's log to fetch, from it or from anybody who has them."""

    validator: bytes
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class FrontierWanted:
    """Ask this member, by reconciliation, where its frontier differs from ours, and for its heads."""

    member: bytes
    handoff: bytes


class Effects(msgspec.Struct):  # made for each operation: a third of a dataclass' time
    """What to do now, in any order.

    Attributes:
        operations: push to members that may lack them.
        batches: our own, on disk: push to the rest of the committee.
        finals: newly final, in an order in which they can be applied.
        wanted: operations that votes name and that are not held.
        gaps: batches that are missing before one that came.
        evidence: newly found.
        attachments: encoded; push to every member.
        missing: attachments that votes rest on and that are not held.
        certain: decided operations to fetch with their certificates (`handle_decided`).
        frontiers: where members' frontiers differ from ours, to be found out (`handle_frontier`).
    """

    operations: list[Push] = []
    batches: list[VoteBatch] = []
    finals: list[Final] = []
    wanted: list[Wanted] = []
    gaps: list[Gap] = []
    evidence: list[Evidence] = []
    attachments: list[bytes] = []
    missing: list[Wanted] = []
    certain: list[Wanted] = []
    frontiers: list[FrontierWanted] = []

    def extend(self, more: Effects) -> None:
        """Add what another step brought."""
        self.operations += more.operations
        self.batches += more.batches
        self.finals += more.finals
        self.wanted += more.wanted
        self.gaps += more.gaps
        self.evidence += more.evidence
        self.attachments += more.attachments
        self.missing += more.missing
        self.certain += more.certain
        self.frontiers += more.frontiers


class Record(msgspec.Struct, frozen=True, gc=False):
    """A decided operation to store, and where a quorum's COMMITs for it are (`certificate.pack_place`).

    There are no places if it came with a certificate, which is in `decided` then. `epoch`: that of the votes.
    """

    decided: Decided
    places: tuple[int, ...]
    epoch: int = 0


@dataclass(slots=True)
class Records:
    """Everything that one write makes durable together. `own` batches may be sent only afterwards.

    Attributes:
        segment: the number of this write, from 1 on.
        operations: bodies that the validator's own votes or held receipts rest on.
        attachments: justifications and certificates that own votes rest on; those in `pushed` are sent
            once they are written.
        keepsakes: attachments to keep whatever the floors say: HANDOFFs and their pages.
        epoch: the one that `floors` is about; a batch's header names its own.
        floors: None, or (member → the height from which a restart needs its batches, the first segment
            of operations that it needs).
    """

    segment: int
    own: list[VoteBatch]
    others: list[VoteBatch]
    operations: list[SignedOperation]
    decided: list[Record]
    evidence: list[Evidence]
    floors: tuple[dict[int, int], int] | None = None
    attachments: list[bytes] = field(default_factory=list)
    pushed: list[bytes] = field(default_factory=list)
    keepsakes: list[bytes] = field(default_factory=list)
    epoch: int = 0


@dataclass(slots=True)
class Restored:
    """What a restart finds.

    Attributes:
        segment: the last write's number, 0 if there was none.
        batches: per member, in rising heights without a gap, up to the last one held.
        operations, attachments: with the segment that holds them.
    """

    segment: int
    batches: list[list[bytes]]
    operations: list[tuple[int, SignedOperation]]
    attachments: list[tuple[int, bytes]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Found:
    """A decided operation in the journal, and what proves it: places of votes, or else the certificate."""

    signed: SignedOperation
    places: tuple[int, ...]
    certificate: bytes = b""
    epoch: int = 0


class Journal(Protocol):
    """A validator's disk: `validator_store.SqliteJournal`, or a fake that loses what was not written."""

    def write(self, records: Records) -> None:
        """Make all of it durable, or none; it is on disk when this returns.

        Raises:
            StorageError: it is not; nothing will be written any more.
        """

    def restore(self, members: int, epoch: int = 0) -> Restored:
        """What was written, from the last floors on; batches of one epoch."""

    def batch(self, member: int, height: int, epoch: int = 0) -> bytes | None:
        """One stored batch of an epoch's member."""

    def batches(self, member: int, first: int, limit: int, epoch: int = 0) -> list[bytes]:
        """Up to `limit` stored batches of one validator from height `first` on."""

    def find(self, id_: bytes) -> Found | None:
        """A stored decided operation by its id."""

    def decided_at(self, object_: bytes, seq: int) -> bytes | None:
        """The id of the stored operation that was decided in this slot."""

    def attachment(self, id_: bytes) -> bytes | None:
        """A stored attachment by its id; those that no open slot rests on may be gone."""

    def heads(self) -> dict[bytes, tuple[int, bytes]]:
        """Every object that was ever written, with (seq, id) of the last stored operation on it."""


__all__ = [
    "TWO_BATCHES",
    "TWO_LOCKS",
    "TWO_OPERATIONS",
    "Effects",
    "Evidence",
    "Final",
    "Found",
    "FrontierWanted",
    "Gap",
    "Journal",
    "Push",
    "Record",
    "Records",
    "Restored",
    "Wanted",
]
