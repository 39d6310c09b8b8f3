"""HANDOFFs against their own validators' COMMITs, as an epoch closes: one that forgets is evidence. No I/O.

    HANDOFF record in a log ──recorded──► all of it is here ──examine──► compared with that log's COMMITs
        └── operations that these name are missing: once more when one of them has come ──┘

Whose COMMITs are known: those of the table, for slots that are undecided here; and of the objects of which
the HANDOFF's frontier has less than ours, those that our certificate of the head is made of. So it takes one
correct validator that holds such a COMMIT, and what it finds everybody is shown. Nobody is asked to find all:
HEADS_MAX heads are looked up for one HANDOFF, and what came by a certificate has no COMMITs here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress

from ainp2p.errors import StorageError
from ainp2p.ledger.rules.operations import ParsedOperation, parse
from ainp2p.ledger.voting.certificate import unpack_place
from ainp2p.ledger.voting.collector import Collector
from ainp2p.ledger.voting.desk import Desk
from ainp2p.ledger.voting.epochs import Closing, Shown
from ainp2p.ledger.voting.evidence import FORGOTTEN_COMMIT, Evidence
from ainp2p.ledger.voting.handoff import Head
from ainp2p.ledger.voting.slot import Candidate
from ainp2p.ledger.voting.votelog import COMMIT

RECORDS_MAX = 4  # of one member that are looked at; a correct one has one
HEADS_MAX = 1_024  # looked up on the disk for one HANDOFF; who leaves out more is guilty with these

Cast = tuple[ParsedOperation, int, int]  # a COMMIT: for what, in which view, packed place


class Examiner:
    """Of one epoch's HANDOFFs, at one validator."""

    def __init__(self, desk: Desk, collector: Collector) -> None:
        self._desk, self._collector = desk, collector
        self._records: dict[bytes, int] = {}  # HANDOFF → packed place of the record that signs it
        self._missing: dict[
            bytes, int
        ] = {}  # HANDOFF → how many operations were missing when it was examined

    def recorded(self, id_: bytes, place: int) -> None:
        """A member's log has the HANDOFF record with this id at this (packed) place."""
        member = unpack_place(place)[0]
        if sum(unpack_place(each)[0] == member for each in self._records.values()) < RECORDS_MAX:
            self._records.setdefault(id_, place)

    def examine(self, closing: Closing) -> list[Evidence]:
        """Compare what is here now and was not before."""
        found: list[Evidence] = []
        for id_, record in self._records.items():
            member, before = unpack_place(record)[0], self._missing.get(id_)
            if before == 0 or not closing.has(id_) or self._collector.is_known(FORGOTTEN_COMMIT, member):
                continue
            missing = sum(candidate.parsed is None for candidate, _, _ in self._counted(member))
            shown = closing.shown(id_) if before is None or missing < before else None
            if shown is not None:
                self._missing[id_] = missing
                commits = self._commits(member, shown, closing.base)
                found += self._collector.take_handoff(record, shown.attachments, shown.frontier, commits)
        return found

    def _commits(self, member: int, shown: Shown, base: Mapping[bytes, Head]) -> Iterator[Cast]:
        for candidate, view, place in self._counted(member):
            # The System is not in a HANDOFF: END-EPOCH is final wherever there is one.
            if candidate.parsed is not None and candidate.slot[0] != self._desk.state.network:
                yield candidate.parsed, view, place
        short = (o for o, head in shown.heads.items() if head[0] < base.get(o, (0, b""))[0])
        for object_, _ in zip(sorted(short), range(HEADS_MAX), strict=False):
            with suppress(StorageError):  # a batch is not at hand any more
                yield from self._of_head(member, base[object_][1])

    def _counted(self, member: int) -> Iterator[tuple[Candidate, int, int]]:
        """A member's COMMITs in slots that are undecided here."""
        for candidate in self._desk.table.candidates.values():
            for key, count in candidate.counts.items():
                if key & 3 == COMMIT and count.mask >> member & 1:
                    place = next(each for each in count.places if unpack_place(each)[0] == member)
                    yield candidate, key >> 2, place

    def _of_head(self, member: int, id_: bytes) -> Iterator[Cast]:
        """A member's COMMIT for an operation that was decided here in this epoch."""
        found = self._desk.archive.find(id_)
        if found is None or found.epoch != self._desk.epoch:
            return
        for packed in found.places:
            voter, height, position = unpack_place(packed)
            if voter == member:
                _, view, _ = self._desk.archive.batch(voter, height).votes[position]
                yield parse(found.signed), view, packed


__all__ = ["Examiner"]
