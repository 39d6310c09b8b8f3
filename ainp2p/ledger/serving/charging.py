"""What a question costs, in tokens of `limits`, and who pays from which purse.

A token is about 0.1 ms of a core. Strangers pay for everything; members of the committee only for questions
whose answers are long: what they push is signed, and bounded by the core. So one that is hostile, and asks
for everything again and again, gets what one that catches up needs, and no more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from ainp2p.errors import Refused
from ainp2p.ledger.serving.limits import Limits
from ainp2p.ledger.serving.messages import (
    LOCKS_PAGE_MAX,
    OPERATIONS_MAX,
    AskStatus,
    FetchAttachments,
    FetchBatches,
    FetchDecided,
    FetchOperations,
    Follow,
    GetCredits,
    GetHeights,
    GetHistory,
    GetLocksOf,
    GetStatistics,
    PushAttachment,
    PushBatch,
    PushOperations,
    Question,
    Reconcile,
    ReconcileFrontier,
    Submit,
)
from ainp2p.ledger.serving.sync import Validators
from ainp2p.protocol.network import PeerId

COST_STATISTICS = 50.0  # it may count every object
COST_STREAM = 20.0
COST_RECONCILE = 50.0
RANGE_BYTES_PER_TOKEN = 200  # each range of a comparison is a look into the index: 8 us for 19 bytes
COST_ATTACHMENT = 4.0
COST_PAGE = float(OPERATIONS_MAX)  # of decided operations with their certificates
COST_FALSE = 40.0  # an operation that is false in itself: nobody pays a fee for it
CREDITS_PER_TOKEN = 1_000  # anybody can fill an account with dust, and then ask for it
LOCKS_PER_TOKEN = 1_000  # looked at for a page of a party's Locks
LOCKS_SHOWN_PER_TOKEN = 16
COST_MAX = 2_000.0  # half a burst: however much there is, whoever waits a second can ask for it
MEMBER_RATE = 12_000.0  # tokens a second: 12,000 decided operations, or a core
MEMBER_BURST = 24_000.0

_PUSHES = (PushOperations, PushBatch, PushAttachment)
_LONG = (ReconcileFrontier, Reconcile, GetHistory, FetchDecided, FetchAttachments, GetStatistics)


@runtime_checkable
class Placed(Protocol):
    """A network that knows where its peers speak from; those in memory do not."""

    def place_of(self, peer: PeerId) -> str:
        """A prefix of addresses, "" if nobody knows."""


class Charges:
    """Lets questions through, or refuses them."""

    def __init__(
        self,
        validators: Validators,
        count_credits: Callable[[bytes], int],
        count_locks: Callable[[bytes], int] = lambda party: 0,
    ) -> None:
        """Prepare; an account's credits, and a party's Locks, are counted for their price."""
        self._validators, self._count_credits = validators, count_credits
        self._count_locks = count_locks
        self._strangers = Limits()
        self._members = Limits(MEMBER_RATE, MEMBER_BURST)

    def charge(self, peer: PeerId, question: Question, now_s: float, place: str = "") -> None:
        """Take what the question costs.

        Args:
            place: the prefix of the address that the peer speaks from, "" where that is not known.

        Raises:
            Refused: ``"busy"``, or ``"not-a-member"``.
        """
        if self._validators.is_member(peer):
            allowed = not isinstance(question, _LONG) or self._members.allow(peer, self.cost(question), now_s)
        elif isinstance(question, _PUSHES):
            raise Refused("not-a-member", "only the committee pushes; use Submit")
        else:
            allowed = self._strangers.allow(peer, self.cost(question), now_s, place)
        if not allowed:
            raise Refused("busy", "too many questions from this peer; ask again in a second")

    def pages(self, peer: PeerId, now_s: float, place: str = "") -> bool:
        """Whether a stream may send its next page now."""
        if self._validators.is_member(peer):
            return self._members.allow(peer, COST_PAGE, now_s)
        return self._strangers.allow(peer, COST_PAGE, now_s, place)

    def punish(self, peer: PeerId, cost: float, now_s: float) -> None:
        """Something that this peer brought was false: take more, as far as there is."""
        if not self._validators.is_member(peer):
            self._strangers.fine(peer, cost, now_s)

    def is_flooding(self, peer: PeerId, now_s: float) -> bool:
        """Whether it asks on and on although it was told "busy": its channel should be closed."""
        return not self._validators.is_member(peer) and self._strangers.is_flooding(peer, now_s)

    def cost(self, question: Question) -> float:
        """Tokens."""
        if isinstance(question, Submit):
            return float(len(question.operations))
        if isinstance(question, FetchOperations | AskStatus):
            return float(len(question.ids))
        if isinstance(question, FetchAttachments):
            return COST_ATTACHMENT * len(question.ids)
        if isinstance(question, GetHeights) and question.addresses:
            return COST_STREAM  # it is looked whether there is a bond for it
        if isinstance(question, Follow | FetchBatches | FetchDecided):
            return COST_STREAM
        if isinstance(question, GetHistory):
            return COST_PAGE
        if isinstance(question, Reconcile | ReconcileFrontier):
            return max(COST_RECONCILE, len(question.message) / RANGE_BYTES_PER_TOKEN)
        if isinstance(question, GetStatistics):
            return COST_STATISTICS
        if isinstance(question, GetCredits):  # all of them are sorted for each page
            return min(COST_MAX, 1.0 + self._count_credits(question.account) / CREDITS_PER_TOKEN)
        if isinstance(question, GetLocksOf):
            count = self._count_locks(question.party)
            shown = min(count, LOCKS_PAGE_MAX) / LOCKS_SHOWN_PER_TOKEN
            return min(COST_MAX, 1.0 + shown + count / LOCKS_PER_TOKEN)
        return 1.0
