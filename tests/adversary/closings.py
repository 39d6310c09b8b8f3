"""The end of an epoch, judged apart from the cores: HANDOFFs, who sits next, bonds, and the state root.

LEDGER.md, "Epochs": "COMMITTEE names HANDOFFs of more than 2/3 of e; the state root is the state after
exactly the union of their frontiers; nobody LOCKs it before fetching and checking all of that." "Weights are
those of e less the named evidence, plus and minus bonds".

What a bond weighs, and what a waiver takes away, is said in docs/ledger.md and reckoned in `seats`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from ainp2p.errors import LedgerError
from ainp2p.ledger.rules.operations import NextCommittee, ParsedOperation
from ainp2p.ledger.rules.state import State
from ainp2p.ledger.voting.handoff import Handoff, frontier_root, read_handoff
from ainp2p.protocol.codec import encode
from tests.adversary.book import Deposit, fits
from tests.adversary.marks import sometimes
from tests.adversary.seats import following
from tests.adversary.violation import demand

if TYPE_CHECKING:
    from tests.adversary.auditor import Auditor, Votes

Head = tuple[int, bytes]


@dataclass
class Closings:
    """All ends of epochs of one run.

    Attributes:
        frontiers: HANDOFF → the heads that its member tells, whoever asks.
        barred: keys that evidence has cost their seats → in which epoch's COMMITTEE.
    """

    auditor: Auditor
    frontiers: dict[bytes, Mapping[bytes, Head]] = field(default_factory=dict)
    barred: dict[bytes, int] = field(default_factory=dict)
    _good: set[bytes] = field(default_factory=set)
    _unsure: list[tuple[ParsedOperation, NextCommittee]] = field(default_factory=list)

    # --- a COMMITTEE ------------------------------------------------------------------------------

    def voted_for(self, parsed: ParsedOperation) -> None:
        """A correct member LOCKs it."""
        body = parsed.operation.body
        if isinstance(body, NextCommittee) and parsed.id not in self._good:
            if not self._judge(parsed, body):
                self._unsure.append((parsed, body))
            self._good.add(parsed.id)

    def decided(self, parsed: ParsedOperation, body: NextCommittee) -> None:
        """It is final: all that its union has is decided, and whatever else was LOCKed can be judged too."""
        demand(self._judge(parsed, body), "committee", "it is final, and its union is not")
        for each in self._unsure:
            self._judge(*each)
        self._unsure.clear()
        self.barred.update(dict.fromkeys(body.offenders, body.epoch))

    def _judge(self, parsed: ParsedOperation, body: NextCommittee) -> bool:
        """Judge it; False if not all of its union is decided, so that what follows from it is open."""
        votes = self.auditor.votes.get(body.epoch - 1)
        demand(votes is not None, "committee", f"of epoch {body.epoch}, which is not the next")
        assert votes is not None
        handoffs = self._handoffs(votes, body)
        self._judge_offenders(body)
        union = self._union(body, handoffs)
        if union is None:
            return False
        self._judge_following(parsed, body, votes, union)
        self._judge_root(body, union)
        return True

    def _handoffs(self, votes: Votes, body: NextCommittee) -> list[Handoff]:
        """Those that it names: "HANDOFFs of more than 2/3 of e", each signed by another member."""
        demand(len(set(body.handoffs)) == len(body.handoffs), "committee", "a HANDOFF is named twice")
        found = []
        for id_ in body.handoffs:
            demand(id_ in self.auditor.attachments, "committee", "a HANDOFF that nobody wrote")
            handoff = read_handoff(self.auditor.attachments[id_])
            unsigned = encode(msgspec.structs.replace(handoff, signature=b""))
            signed = fits(handoff.validator, b"ainp2p/handoff/1", unsigned, handoff.signature)
            of = (handoff.network, handoff.epoch) == (self.auditor.network, votes.epoch)
            demand(signed and of, "committee", "a HANDOFF that its member did not sign for this epoch")
            found.append(handoff)
        keys = {handoff.validator for handoff in found}
        demand(len(keys) == len(found), "committee", "two HANDOFFs of one member")
        places = [place for place in votes.places if self.auditor.keys[place] in keys]
        demand(votes.is_quorum(places), "committee", "HANDOFFs of no quorum")
        return found

    def _judge_offenders(self, body: NextCommittee) -> None:
        correct = {self.auditor.keys[place] for place in self.auditor.honest}
        demand(not correct & set(body.offenders), "evidence", "a correct validator is said to have offended")
        demand(len(body.evidence) == len(body.offenders), "evidence", "not one piece for each offender")

    # --- who sits ---------------------------------------------------------------------------------

    def _judge_following(
        self, parsed: ParsedOperation, body: NextCommittee, votes: Votes, union: Mapping[bytes, Head]
    ) -> None:
        """Seats, weights and ends of bonds, reckoned from the bonds that its union has, and nothing else."""
        auditor = self.auditor
        barred = {key for key, epoch in self.barred.items() if epoch < body.epoch} | set(body.offenders)
        bonds = [bond for bond in auditor.book.deposits.values() if self._is_open(bond, body.epoch, union)]
        sitting = {auditor.keys[place] for place in votes.places}
        right = following(auditor.genesis, sitting, bonds, barred, parsed.operation.timestamp or 0)
        seats = {seat.key: seat.weight for seat in body.seats}
        demand(list(seats) == sorted(seats) and len(seats) == len(body.seats), "committee", "seats' order")
        for key in sorted({*seats, *right.weights}):
            is_, ought = seats.get(key, 0), right.weights.get(key, 0)
            demand(is_ == ought, "committee", f"weight {is_} of a seat, not {ought}")
        demand(set(body.burnt_bonds) == right.burnt, "bonds", "others are burnt than offenders'")
        demand(set(body.returned_bonds) == right.returned, "bonds", "others are returned than expired ones")
        sometimes("a committee is reckoned anew")
        if right.burnt:
            sometimes("a bond is burnt")
        if right.returned:
            sometimes("a bond is returned")

    def _is_open(self, bond: Deposit, epoch: int, union: Mapping[bytes, Head]) -> bool:
        """Whether it is in the union, and no COMMITTEE before this epoch's has ended it."""
        operations = self.auditor.operations
        if not bond.bond or operations[bond.opened_by].operation.seq > union.get(bond.payer, (0, b""))[0]:
            return False
        if not bond.ended:
            return True
        ending = operations[bond.head].operation.body
        return isinstance(ending, NextCommittee) and ending.epoch >= epoch

    # --- the state root ----------------------------------------------------------------------------

    def _union(self, body: NextCommittee, handoffs: list[Handoff]) -> dict[bytes, Head] | None:
        """The union of the frontiers, if all of it is known and decided."""
        union: dict[bytes, Head] = {}
        for id_, handoff in zip(body.handoffs, handoffs, strict=True):
            frontier = self.frontiers.get(id_)
            if frontier is None or frontier_root(frontier) != handoff.frontier_root:
                return None
            for object_, head in frontier.items():
                union[object_] = max(union.get(object_, (0, object_)), head)
        decided = self.auditor.decided
        if any(decided.get((object_, seq)) != id_ for object_, (seq, id_) in union.items()):
            return None
        return union

    def _judge_root(self, body: NextCommittee, union: Mapping[bytes, Head]) -> None:
        """ "the state after exactly the union of their frontiers"."""
        state = self._replayed(union, body.epoch - 1)
        if state is not None:
            sometimes("a state root is computed anew")
            demand(state.root() == body.state_root, "state root", "not that of the union of the HANDOFFs")

    def _replayed(self, union: Mapping[bytes, Head], epoch: int) -> State | None:
        """The state after these heads and END-EPOCH{epoch}; None if they are no state."""
        auditor = self.auditor
        state = State(auditor.genesis)
        for (object_, seq), id_ in auditor.decided.items():  # in the order of the decisions
            if object_ != auditor.network and seq <= union.get(object_, (0, b""))[0]:
                try:
                    state.apply(auditor.operations[id_])
                except LedgerError:
                    return None
            elif object_ == auditor.network and seq <= 2 * epoch + 1:
                state.apply(auditor.operations[id_])
        return state


__all__ = ["Closings"]
