"""A validator's disk in memory: what was written is there after a power cut, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ainp2p.errors import StorageError
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.rules.operations import ParsedOperation, SignedOperation
from ainp2p.ledger.rules.state import State
from ainp2p.ledger.voting.attachments import attachment_id
from ainp2p.ledger.voting.effects import Found, Records, Restored

_FOR_EVER = 2**62  # the segment of what is never pruned


class MemoryJournal:
    """A `Journal` (`ainp2p.ledger.voting.effects`); `Validator`s come and go.

    Attributes:
        on_write: told of every write at the moment at which it is durable.
        broken: the next write fails, as a full disk does.
    """

    def __init__(self, genesis: Genesis) -> None:
        self.genesis = genesis
        self.segment = 0
        self.raw: dict[tuple[int, int, int], bytes] = {}  # epoch, member, height
        self.segments: dict[int, list[SignedOperation]] = {}
        self.finals: dict[bytes, Found] = {}
        self.order: list[ParsedOperation] = []
        self.floors: dict[tuple[int, int], int] = {}
        self.evidence: list[Any] = []
        self.attachments: dict[bytes, tuple[int, bytes]] = {}
        self.writes = 0
        self.broken = False
        self.on_write: Callable[[Records], None] = lambda records: None

    def image(self) -> MemoryJournal:
        """A copy as it is now, as a backup tool makes one."""
        image = MemoryJournal(self.genesis)
        image.segment, image.writes = self.segment, self.writes
        image.raw, image.finals, image.floors = dict(self.raw), dict(self.finals), dict(self.floors)
        image.segments, image.order = dict(self.segments), list(self.order)
        image.attachments, image.evidence = dict(self.attachments), list(self.evidence)
        return image

    def state(self) -> State:
        """Invariant 9: "replaying the operations gives the tables"."""
        state = State(self.genesis)
        for parsed in self.order:
            state.apply(parsed)
        return state

    # --- effects.Journal ----------------------------------------------------------------------------

    def write(self, records: Records) -> None:
        if self.broken:
            raise StorageError("disk I/O error")
        self.on_write(records)
        self.writes += 1
        self.segment = records.segment
        for batch in (*records.others, *records.own):
            key = batch.header.epoch, batch.member, batch.header.height
            assert key not in self.raw, "two batches at one height"
            self.raw[key] = batch.raw
        self.segments[records.segment] = list(records.operations)
        for record in records.decided:
            self.order.append(record.decided.parsed)
            self.finals[record.decided.parsed.id] = Found(
                record.decided.parsed.signed, record.places, record.decided.certificate, record.epoch
            )
        self.evidence += records.evidence
        for raw in records.attachments:
            self.attachments[attachment_id(raw)] = records.segment, raw
        for raw in records.keepsakes:
            self.attachments[attachment_id(raw)] = _FOR_EVER, raw
        if records.floors is not None:
            heights, first = records.floors
            self.floors = {(records.epoch, member): height for member, height in heights.items()}
            self.segments = {n: kept for n, kept in self.segments.items() if n >= first}
            self.attachments = {id_: kept for id_, kept in self.attachments.items() if kept[0] >= first}

    def restore(self, members: int, epoch: int = 0) -> Restored:
        batches: list[list[bytes]] = [[] for _ in range(members)]
        for of, member, height in sorted(self.raw):
            if of == epoch and height >= self.floors.get((of, member), 0):
                batches[member].append(self.raw[of, member, height])
        operations = [(n, signed) for n, each in sorted(self.segments.items()) for signed in each]
        return Restored(self.segment, batches, operations, sorted(self.attachments.values()))

    def batch(self, member: int, height: int, epoch: int = 0) -> bytes | None:
        return self.raw.get((epoch, member, height))

    def batches(self, member: int, first: int, limit: int, epoch: int = 0) -> list[bytes]:
        found: list[bytes] = []
        while len(found) < limit and (raw := self.raw.get((epoch, member, first + len(found)))) is not None:
            found.append(raw)
        return found

    def heads(self) -> dict[bytes, tuple[int, bytes]]:
        return {each.operation.object: (each.operation.seq, each.id) for each in self.order}

    def find(self, id_: bytes) -> Found | None:
        return self.finals.get(id_)

    def decided_at(self, object_: bytes, seq: int) -> bytes | None:
        slots = ((each.operation.object, each.operation.seq, each.id) for each in self.order)
        return next((id_ for of, number, id_ in slots if (of, number) == (object_, seq)), None)

    def attachment(self, id_: bytes) -> bytes | None:
        return self.attachments[id_][1] if id_ in self.attachments else None


__all__ = ["MemoryJournal"]
