"""What the auditor knows of disks: whose LOCKs each correct member holds, and who holds whose log.

An entry of a vote log goes into the next batch that is sealed: so what was written up to the batch before was
known when it was made. (What was written between the two may have come while the entry waited, and own votes
count only after their write.)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ainp2p.ledger.voting.effects import Records
from ainp2p.ledger.voting.votelog import ENTRIES_MAX, LOCK, VoteBatch, read_votes

if TYPE_CHECKING:
    from tests.adversary.auditor import Votes


@dataclass
class Disks:
    """The disks of all correct members.

    Attributes:
        counted: (member, epoch) → (view, operation) → whose LOCKs for it were on the member's disk with the
            last batch of its own.
        holders: (epoch, member, height) → correct members that have a batch of that height on their disk.
    """

    counted: dict[tuple[int, int], dict[tuple[int, bytes], set[int]]] = field(default_factory=dict)
    holders: dict[tuple[int, int, int], set[int]] = field(default_factory=dict)
    _since: dict[int, list[VoteBatch]] = field(default_factory=dict)  # that batch

    def wrote(self, member: int, records: Records, votes: Mapping[int, Votes]) -> None:
        """A correct member's write is durable, and was judged."""
        since = self._since.setdefault(member, [])
        since += records.others
        for batch in (*records.others, *records.own):
            of = votes[batch.header.epoch]
            key = of.epoch, of.places[batch.member], batch.header.height
            self.holders.setdefault(key, set()).add(member)
        if records.own and records.own[-1].header.count < ENTRIES_MAX:
            for batch in since:
                of = votes[batch.header.epoch]
                counted = self.counted.setdefault((member, of.epoch), {})
                for kind, view, id_ in read_votes(batch.entries):
                    if kind == LOCK:
                        counted.setdefault((view, id_), set()).add(of.places[batch.member])
            since[:] = records.own
        else:
            since += records.own

    def silent(
        self, member: int, heights: Mapping[int, int], votes: Mapping[int, Votes], honest: Collection[int]
    ) -> set[int]:
        """Epochs in which who starts with a disk of these heights of its own log may not vote.

        "After a restart a validator asks a quorum for its own log's height; if it is behind (a restored
        disk), it stays silent until the next epoch." With those that hold more it finds no quorum; who holds
        a batch now, and is correct, holds it for ever.
        """
        found = set()
        for epoch, of in votes.items():
            more = self.holders.get((epoch, member, heights.get(epoch, 0) + 1), set()) & set(honest)
            if member in of.weights and not of.is_quorum(set(of.places) - (more - {member})):
                found.add(epoch)
        return found


__all__ = ["Disks"]
