"""The views of one contested slot: who has said that it goes further, and when to do so too. No I/O.

    view 0 ──own timer (T)──► NEWVIEW(1) ──a quorum sent NEWVIEWs for ≥ 1──► view 1, its timer starts ──► …
               └──────── more than 1/3 sent NEWVIEWs for ≥ v ──────────────► NEWVIEW(v), without a timer

A timer never runs alone: that of view v + 1 starts only once NEWVIEWs for v + 1 or above came from a quorum,
so an outage leads no further than one view, however long it lasts. A slot that nobody contests has no
`Contest`; its timer is an entry in `FirstTimers`, a queue, since T is the same for all of them.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.voting.votelog import NewView, Propose

if TYPE_CHECKING:
    from ainp2p.ledger.voting.slot import Slot, SlotId

TIMEOUT_MS_MAX = 60_000


def view_timeout(first_ms: int, view: int, members: int) -> int:
    """How long a view may take, in ms.

    Lemma L11 (docs/ledger-proof.md): long enough, once the network is.
    """
    # "T = 2 s, doubled every n views, to 60 s at most" (a committee whose T is longer keeps it)
    return max(first_ms, min(first_ms << min(view // members, 16), TIMEOUT_MS_MAX))


@dataclass(frozen=True, slots=True)
class Heard:
    """A member's NEWVIEW, and where it is: (height, position) in the member's log."""

    report: NewView
    height: int
    position: int


class Contest:
    """What members have said about the views of one slot.

    Attributes:
        heard: each member's highest NEWVIEW; lower ones mean nothing any more.
        proposals: each member's highest PROPOSE, if it leads that view, and the height of its batch.
        entered: the highest view for which, or above which, NEWVIEWs came from a quorum.
        expired: the highest view whose timer has ended here; −1: not even view 0's.
        deadline: when the timer of `entered` ends; None if it does not run.
        proposed: the highest view in which we have PROPOSEd.
        kept: attachments that own votes rest on, and the journal's write that holds each.
        named: operations that each member's last words name: its NEWVIEW, its PROPOSE.
    """

    __slots__ = ("deadline", "entered", "expired", "heard", "kept", "named", "proposals", "proposed")

    def __init__(self) -> None:
        self.heard: dict[int, Heard] = {}
        self.proposals: dict[int, tuple[Propose, int]] = {}
        self.entered = self.proposed = 0
        self.expired = -1
        self.deadline: int | None = None
        self.kept: dict[bytes, int] = {}
        self.named: dict[tuple[int, bool], tuple[bytes, ...]] = {}

    def hear(self, member: int, heard: Heard) -> bool:
        """Take a NEWVIEW; False if this member has sent one for this or a higher view."""
        known = self.heard.get(member)
        if known is not None and known.report.view >= heard.report.view:
            return False
        self.heard[member] = heard
        return True

    def propose(self, member: int, proposal: Propose, height: int) -> bool:
        """Take a PROPOSE of its view's leader; False if it has sent one for this or a higher view."""
        known = self.proposals.get(member)
        if known is not None and known[0].view >= proposal.view:
            return False
        self.proposals[member] = proposal, height
        return True

    def rename(self, member: int, proposing: bool, ids: tuple[bytes, ...]) -> list[bytes]:
        """Note what a member's newest entry names; returns what nobody's names any more."""
        before = self.named.get((member, proposing), ())
        self.named[member, proposing] = ids
        return [id_ for id_ in before if not any(id_ in each for each in self.named.values())]

    @property
    def speakers(self) -> set[int]:
        """Members that have said anything."""
        return {*self.heard, *self.proposals}

    def view_of(self, weight: int, committee: Committee) -> int:
        """The highest view for which, or above which, members of at least this weight sent NEWVIEWs."""
        together = 0
        for view, member in sorted(((h.report.view, m) for m, h in self.heard.items()), reverse=True):
            together += committee.weights[member]
            if together >= weight:
                return view
        return 0

    def next_view(self, committee: Committee) -> int:
        """The view for which a NEWVIEW is due; one that was sent already asks for nothing.

        Lemma L11 (docs/ledger-proof.md): a minority that goes on takes all with it; a lone timer does not.
        """
        # "join the highest view for which, or above which, more than 1/3 have sent NEWVIEW"
        joined = self.view_of(committee.minority, committee)
        # "nobody goes further before": only the timer of the view that a quorum has entered counts.
        return max(joined, self.entered + 1) if self.expired >= self.entered else joined

    def enter(self, now: int, first_ms: int, committee: Committee) -> bool:
        """Start the timer of a view that a quorum has reached; True if there is a new one.

        Lemma L11 (docs/ledger-proof.md): all enter a view at about one time; no timer runs alone.
        """
        # "The timer of view v+1 starts only when NEWVIEWs for v+1 or above have come from a quorum"
        view = self.view_of(committee.quorum, committee)
        if view < self.entered or (view == self.entered and (self.deadline is not None or view == 0)):
            return False
        if view == self.entered and self.expired >= view:
            return False
        self.entered = view
        self.deadline = now + view_timeout(first_ms, view, len(committee.keys))
        return True

    def in_view(self, view: int) -> dict[int, Heard]:
        """The members whose highest NEWVIEW is for exactly this view."""
        return {member: heard for member, heard in sorted(self.heard.items()) if heard.report.view == view}

    def heights(self) -> Iterator[tuple[int, int]]:
        """(member, height) of the batches that all of this is in."""
        yield from ((member, heard.height) for member, heard in self.heard.items())
        yield from ((member, height) for member, (_, height) in self.proposals.items())


class FirstTimers:
    """The timers of view 0: all of the same length, so a queue; nearly all end after their slot.

    An entry refers to nothing but a name: it must neither keep a decided slot in memory for T nor give the
    garbage collector anything to follow, at ten thousand a second.
    """

    def __init__(self, slots: dict[SlotId, Slot]) -> None:
        self._slots = slots
        self._queue: deque[tuple[int, SlotId]] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, deadline: int, slot_id: SlotId) -> None:
        """Start one; deadlines come in rising order but for a clock that was put back."""
        self._queue.append((deadline, slot_id))

    @property
    def due(self) -> int | None:
        """When the first one ends whose slot is not decided."""
        queue, slots = self._queue, self._slots
        while queue and queue[0][1] not in slots:
            queue.popleft()
        return queue[0][0] if queue else None

    def ended(self, now: int) -> list[SlotId]:
        """Take out those that have ended by now."""
        found = []
        while (due := self.due) is not None and due <= now:
            found.append(self._queue.popleft()[1])
        return found

    def clock_put_back(self, latest: int) -> None:
        """None ends later than if it had just been started."""
        self._queue = deque((min(at, latest), slot_id) for at, slot_id in self._queue)


class LaterTimers:
    """The timers of views above 0, which are few."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, bytes, int]] = []

    def add(self, deadline: int, slot_id: SlotId) -> None:
        """Look at this slot's contest then."""
        heapq.heappush(self._heap, (deadline, *slot_id))

    @property
    def due(self) -> int | None:
        """When the next one ends."""
        return self._heap[0][0] if self._heap else None

    def ended(self, now: int) -> list[SlotId]:
        """Take out those that have ended by now."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            _, object_, seq = heapq.heappop(self._heap)
            found.append((object_, seq))
        return found

    def clear(self) -> None:
        """Forget all of them."""
        self._heap.clear()


__all__ = ["Contest", "FirstTimers", "Heard", "LaterTimers", "view_timeout"]
