"""How a member that entered its epoch blind gets its vote back, and how a restart knows of it. No I/O.

    COMMITTEE applied, and our state may lack some of its union ─► blind: a mark on the disk, no vote
        ├─ each frontier that its HANDOFFs name ── compared with ours: its root proves it ──────┐
        └─ what members who are not blind have now ── of more than 1/3 of the weight, not us ───┴─► heads
    ─► what we have less is fetched with certificates ─► nothing is less any more: the vote is back, marked

Either way is enough. The first needs one member that still has the frontiers (they are in memory); the second
goes on working when all have started again, and needs more correct members than the first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from ainp2p.errors import InvalidOperation
from ainp2p.ledger.voting.attachments import MARK, attachment_id
from ainp2p.ledger.voting.desk import Desk
from ainp2p.ledger.voting.effects import Effects, FrontierWanted, Wanted
from ainp2p.ledger.voting.handoff import Handoff, Head, changed_frontier, frontier_root
from ainp2p.ledger.voting.inheritance import Inheritance
from ainp2p.protocol.codec import Bytes32, Message, Uint, encode
from ainp2p.protocol.identity import digest

LOOK_MS = 300
ASK_AGAIN_MS = 900
ASK_AT_MOST_EVERY_MS = 15_000  # when everybody was asked several times
WANTED_MAX = 64  # operations in one look, of each that has them: false heads of one keep us from nobody's

_BLIND, _SEES = 0, 1


class Mark(Message, frozen=True, tag=MARK):
    """On our own disk only: how we entered an epoch, or (1) that nothing of it is unknown any more."""

    network: Bytes32
    epoch: Uint
    sees: Uint


def blind_mark(network: bytes, epoch: int) -> bytes:
    """To be on the disk no later than the COMMITTEE that opens this epoch."""
    return encode(Mark(network, epoch, _BLIND))


def sees_mark(network: bytes, epoch: int) -> bytes:
    """To be on the disk no earlier than what it speaks of, and no later than any vote."""
    return encode(Mark(network, epoch, _SEES))


def entered_blind(desk: Desk) -> bool:
    """Whether our disk says that we entered the desk's epoch blind, and not that this is over.

    Lemma L7 (docs/ledger-proof.md): a restart makes nobody see.
    """
    network, epoch = desk.state.network, desk.epoch
    blind, sees = (attachment_id(mark(network, epoch)) for mark in (blind_mark, sees_mark))
    return desk.archive.attachment(blind) is not None and desk.archive.attachment(sees) is None


def heads_name(opening: bytes, member: bytes) -> bytes:
    """What to ask a member for as if it was a HANDOFF's frontier: all that it has, if it is not blind.

    A name of its own for each, so that what comes under it is what this member was asked for.

    Args:
        opening: the id of the COMMITTEE that opened the epoch.
        member: its key.
    """
    return digest(b"ainp2p/sees/1", opening, member)


def heads_of(desk: Desk) -> dict[bytes, Head]:
    """Our head of every object that may be in a frontier."""
    return {id_: head for id_, head in desk.archive.heads().items() if id_ != desk.state.network}


class Regaining:
    """One epoch that was entered blind.

    Lemma L7 (docs/ledger-proof.md): a vote comes back only when the whole union is here.

    Attributes:
        base: our heads when it began: what comparisons are made with.
    """

    def __init__(self, desk: Desk, opening: bytes, inheritance: Inheritance) -> None:
        self._desk, self._inheritance = desk, inheritance
        self.base = heads_of(desk)
        others = [key for place, key in enumerate(desk.committee.keys) if place != desk.member]
        self._others = tuple(others)
        self._claims = {heads_name(opening, key): key for key in others}  # name → member
        # HANDOFF or claim → where it has more than we; what was looked at last is at the end.
        self._more: dict[bytes, deque[tuple[bytes, Head]]] = {}
        self._wanted: dict[bytes, bytes] = {}  # operation → whose head it leads to
        self._asked: dict[bytes, int] = {}
        self._ask_at: dict[bytes, int] = {}
        self._look_at = 0

    # --- what others have ---------------------------------------------------------------------------

    def wants(self, name: bytes) -> bool:
        """Whether this is asked for here: a HANDOFF of those that began the epoch, or a member's heads."""
        return name not in self._more and (name in self._claims or name in self._handoffs)

    @property
    def _handoffs(self) -> Mapping[bytes, Handoff]:
        return self._inheritance.handoffs

    def take(self, name: bytes, heads: Mapping[bytes, Head]) -> None:
        """Where a frontier, or a member's heads, differ from `base`; seq 0 where it has nothing.

        Raises:
            InvalidOperation: rule ``"frontier"``: it is not the HANDOFF's frontier.
        """
        handoff = self._handoffs.get(name)
        if handoff is not None:
            frontier = changed_frontier(self.base, heads)
            if (frontier_root(frontier), len(frontier)) != (handoff.frontier_root, handoff.frontier_count):
                raise InvalidOperation("frontier", "these heads do not make the HANDOFF's root")
        self._more[name] = deque(
            (id_, head) for id_, head in heads.items() if head[0] > self.base.get(id_, (0, id_))[0]
        )
        self._look_at = 0

    # --- from time to time --------------------------------------------------------------------------

    @property
    def due(self) -> int:
        """When `sees` is worth another look."""
        return self._look_at

    def tick(self, now: int, out: Effects) -> bool:
        """Ask for what is missing; True once nothing is."""
        if now < self._look_at:
            return False
        self._look_at = now + LOOK_MS
        self._wanted.clear()
        if self._sees():
            return True
        for name in (*self._handoffs, *self._claims):
            if name not in self._more and self._may_ask(name, now):
                whom = self._claims.get(name) or self._whom(name, self._holder(name))
                if whom is not None:
                    out.frontiers.append(FrontierWanted(whom, name))
        for id_, key in self._wanted.items():
            if self._may_ask(id_, now) and (whom := self._whom(id_, key)) is not None:
                out.certain.append(Wanted(id_, (whom,)))
        return False

    def _sees(self) -> bool:
        """Whether nothing that the epoch began with can be unknown here."""
        if self._inheritance.prepared is None:
            return False
        # One look at each, also where an earlier one has decided it: what is missing is noted on the way.
        named = [self._reached(id_) for id_ in self._handoffs]
        index = self._desk.committee.index
        reached = {index[key] for name, key in self._claims.items() if self._reached(name)}
        return (bool(named) and all(named)) or self._desk.committee.weight_of(
            reached
        ) >= self._desk.committee.minority

    def _reached(self, name: bytes) -> bool:
        """Whether we have decided all that this frontier has."""
        more = self._more.get(name)
        if more is None:
            return False
        less: list[tuple[bytes, Head]] = []
        while more and len(less) < WANTED_MAX:
            object_, head = more.popleft()
            if self._desk.state.head(object_)[0] < head[0]:
                less.append((object_, head))
                self._wanted.setdefault(self._lowest(object_, head), self._holder(name))
        more.extend(less)
        return not more

    def _lowest(self, object_: bytes, head: Head) -> bytes:
        """Of what leads to this head, the highest operation that is not held."""
        at, id_ = head
        while at > self._desk.state.head(object_)[0] + 1:
            candidate = self._desk.table.candidates.get(id_)
            if candidate is None or candidate.parsed is None or candidate.final is None:
                break
            at, id_ = at - 1, candidate.parsed.operation.previous
        return id_

    def _holder(self, name: bytes) -> bytes:
        handoff = self._handoffs.get(name)
        return self._claims[name] if handoff is None else handoff.validator

    def _whom(self, what: bytes, first: bytes) -> bytes | None:
        """Whose it is, though that may have left the committee; then one after the other. None: nobody's."""
        own = self._desk.committee.keys[self._desk.member]
        order = [key for key in (first, *(key for key in self._others if key != first)) if key != own]
        return order[(self._asked[what] - 1) % len(order)] if order else None

    def _may_ask(self, what: bytes, now: int) -> bool:
        if now < self._ask_at.get(what, 0):
            return False
        asked = self._asked[what] = self._asked.get(what, 0) + 1
        rounds = (asked - 1) // max(2 * len(self._others), 1)
        self._ask_at[what] = now + min(ASK_AGAIN_MS << min(rounds, 8), ASK_AT_MOST_EVERY_MS)
        return True

    def clock_put_back(self) -> None:
        """Ask again now."""
        self._ask_at.clear()
        self._look_at = 0


__all__ = ["Mark", "Regaining", "blind_mark", "entered_blind", "heads_name", "heads_of", "sees_mark"]
