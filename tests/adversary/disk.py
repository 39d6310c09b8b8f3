"""A validator's disk: what was written is there after a power cut, whole or not at all, and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.rules.operations import ParsedOperation, SignedOperation
from ainp2p.ledger.rules.state import State
from ainp2p.ledger.voting.attachments import attachment_id
from ainp2p.ledger.voting.effects import Found, Records, Restored


class Disk:
    """A `Journal` in memory. `on_write` sees every write at the moment at which it is durable."""

    def __init__(self, genesis: Genesis) -> None:
        self._genesis = genesis
        self.segment = 0
        self.raw: dict[tuple[int, int, int], bytes] = {}  # epoch, member, height
        self.segments: dict[int, list[SignedOperation]] = {}
        self.finals: dict[bytes, Found] = {}
        self.order: list[ParsedOperation] = []
        self.floors: dict[tuple[int, int], int] = {}
        self.attachments: dict[bytes, tuple[int, bytes]] = {}
        self.on_write: Callable[[Records], None] = lambda records: None

    def __deepcopy__(self, memo: dict[int, Any]) -> Disk:
        """An image of it, as a backup tool makes."""
        image = Disk(self._genesis)
        image.segment = self.segment
        image.raw, image.finals, image.floors = dict(self.raw), dict(self.finals), dict(self.floors)
        image.segments, image.order = dict(self.segments), list(self.order)
        image.attachments = dict(self.attachments)
        return image

    def image(self) -> Disk:
        """A copy as it is now."""
        return copy.deepcopy(self)

    def state(self) -> State:
        """Invariant 9: "replaying the operations gives the tables"."""
        state = State(self._genesis)
        for parsed in self.order:
            state.apply(parsed)
        return state

    # --- effects.Journal ----------------------------------------------------------------------------

    def write(self, records: Records) -> None:
        self.segment = records.segment
        for batch in (*records.others, *records.own):
            self.raw[batch.header.epoch, batch.member, batch.header.height] = batch.raw
        self.segments[records.segment] = list(records.operations)
        for record in records.decided:
            self.order.append(record.decided.parsed)
            self.finals[record.decided.parsed.id] = Found(
                record.decided.parsed.signed, record.places, record.decided.certificate, record.epoch
            )
        for raw in records.attachments:
            self.attachments[attachment_id(raw)] = records.segment, raw
        for raw in records.keepsakes:
            self.attachments[attachment_id(raw)] = 2**62, raw
        if records.floors is not None:
            heights, first = records.floors
            self.floors = {(records.epoch, member): height for member, height in heights.items()}
            self.segments = {n: kept for n, kept in self.segments.items() if n >= first}
            self.attachments = {id_: kept for id_, kept in self.attachments.items() if kept[0] >= first}
        self.on_write(records)

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
        for parsed in self.order:
            if (parsed.operation.object, parsed.operation.seq) == (object_, seq):
                return parsed.id
        return None

    def attachment(self, id_: bytes) -> bytes | None:
        found = self.attachments.get(id_)
        return found[1] if found is not None else None
