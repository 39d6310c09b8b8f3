"""The end of an epoch, judged apart from the cores: HANDOFFs, who sits next, bonds, and the state root.

LEDGER.md, "Epochs": "COMMITTEE names HANDOFFs of more than 2/3 of e; the state root is the state after
exactly the union of their frontiers; nobody LOCKs it before fetching and checking all of that." "Weights are
those of e less the named evidence, plus and minus bonds".

What a bond weighs is said in docs/ledger.md: all money together would weigh as much as the first committee.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
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
from tests.adversary.violation import demand

if TYPE_CHECKING:
    from tests.adversary.auditor import Auditor, Votes

Head = tuple[int, bytes]


@dataclass
class Closings:
    """All ends of epochs of one run.

    Attributes:
        frontiers: HANDOFF → the heads that its member tells, whoever asks.
        barred: keys that evidence has cost their seats.
        applied: member → all operations that it has announced.
        left: HANDOFF of a correct member → what it had announced by then.
    """

    auditor: Auditor
    frontiers: dict[bytes, Mapping[bytes, Head]] = field(default_factory=dict)
    barred: set[bytes] = field(default_factory=set)
    applied: dict[int, set[bytes]] = field(default_factory=dict)
    left: dict[bytes, frozenset[bytes]] = field(default_factory=dict)
    _good: set[bytes] = field(default_factory=set)

    def announced(self, member: int, id_: bytes) -> None:
        """A correct member has applied this operation."""
        self.applied.setdefault(member, set()).add(id_)

    def handed(self, member: int, id_: bytes) -> None:
        """A correct member has written its HANDOFF."""
        self.left[id_] = frozenset(self.applied.get(member, ()))

    # --- a COMMITTEE ------------------------------------------------------------------------------

    def voted_for(self, parsed: ParsedOperation) -> None:
        """A correct member LOCKs it."""
        body = parsed.operation.body
        if isinstance(body, NextCommittee) and parsed.id not in self._good:
            self._judge(parsed, body, None)
            self._good.add(parsed.id)

    def decided(self, parsed: ParsedOperation, body: NextCommittee) -> None:
        """It is final: what is in the book now is all that its union can have."""
        self._judge(parsed, body, self.auditor.book.deposits.values())
        self.barred |= set(body.offenders)

    def _judge(self, parsed: ParsedOperation, body: NextCommittee, known: Iterable[Deposit] | None) -> None:
        votes = self.auditor.votes.get(body.epoch - 1)
        demand(votes is not None, "committee", f"of epoch {body.epoch}, which is not the next")
        assert votes is not None
        handoffs = self._handoffs(votes, body)
        self._judge_offenders(body)
        self._judge_seats(parsed, body, known)
        self._judge_root(body, handoffs)

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

    def _judge_seats(
        self, parsed: ParsedOperation, body: NextCommittee, known: Iterable[Deposit] | None
    ) -> None:
        book, genesis = self.auditor.book, self.auditor.genesis
        timestamp, barred = parsed.operation.timestamp or 0, self.barred | set(body.offenders)
        surely = {id_ for each in body.handoffs for id_ in self.left.get(each, ())}
        bonds = [deposit for deposit in (known or book.deposits.values()) if deposit.bond]
        bonds = [bond for bond in bonds if not bond.ended or bond.head == parsed.id]
        least = _bonded(bonds, timestamp, lambda bond: bond.opened_by in surely)
        most = _bonded(bonds, timestamp, lambda bond: True)
        first = {member.key: member.weight for member in genesis.validators}
        total, supply = sum(first.values()), genesis.supply
        seats = {seat.key: seat.weight for seat in body.seats}
        for key in sorted({*first, *most, *seats}):
            weight, base = seats.get(key, 0), 0 if key in barred else first.get(key, 0)
            low = 0 if key in barred else least.get(key, 0) * total // supply
            high = 0 if key in barred else most.get(key, 0) * total // supply
            right = base + low <= weight and (known is None or weight <= base + high)
            demand(right, "committee", f"weight {weight} of a seat, not {base + low} to {base + high}")
            if low and weight:
                sometimes("a bond gives a seat")
            if key in barred and first.get(key):
                sometimes("a traitor loses its seat")
        self._judge_bonds(body, {bond.id: bond for bond in bonds}, timestamp, barred)

    def _judge_bonds(
        self, body: NextCommittee, bonds: Mapping[bytes, Deposit], timestamp: int, barred: Collection[bytes]
    ) -> None:
        """ "which a COMMITTEE ends or diminishes": burnt is an offender's, returned is an expired one."""
        for id_ in body.burnt_bonds:
            burnt = bonds.get(id_)
            demand(burnt is None or burnt.closer in barred, "bonds", "one is burnt without an offence")
            sometimes("a bond is burnt")
        for id_ in body.returned_bonds:
            bond = bonds.get(id_)
            expired = bond is None or (bond.expiry <= timestamp and bond.closer not in barred)
            demand(expired, "bonds", "one is returned too early, or to an offender")
            sometimes("a bond is returned")

    # --- the state root ----------------------------------------------------------------------------

    def _judge_root(self, body: NextCommittee, handoffs: list[Handoff]) -> None:
        """ "the state after exactly the union of their frontiers", where all of that union is known."""
        union: dict[bytes, Head] = {}
        for id_, handoff in zip(body.handoffs, handoffs, strict=True):
            frontier = self.frontiers.get(id_)
            if frontier is None or frontier_root(frontier) != handoff.frontier_root:
                return
            for object_, head in frontier.items():
                union[object_] = max(union.get(object_, (0, object_)), head)
        state = self._replayed(union, body.epoch - 1)
        if state is not None:
            sometimes("a state root is computed anew")
            demand(state.root() == body.state_root, "state root", "not that of the union of the HANDOFFs")

    def _replayed(self, union: Mapping[bytes, Head], epoch: int) -> State | None:
        """The state after these heads and END-EPOCH{epoch}; None while one of them is not decided."""
        auditor = self.auditor
        if any(auditor.decided.get((object_, seq)) != id_ for object_, (seq, id_) in union.items()):
            return None
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


def _bonded(bonds: Iterable[Deposit], timestamp: int, counts: Callable[[Deposit], bool]) -> dict[bytes, int]:
    """Key → what it is bonded with at this time."""
    bonded: dict[bytes, int] = {}
    for bond in bonds:
        if bond.expiry > timestamp and counts(bond):
            bonded[bond.closer] = bonded.get(bond.closer, 0) + bond.deposit
    return bonded


__all__ = ["Closings"]
