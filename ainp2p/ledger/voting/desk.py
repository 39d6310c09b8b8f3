"""What all parts of a validator's core work with: one committee, one state, one log, one archive. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.rules.operations import ParsedOperation
from ainp2p.ledger.rules.parameters import Parameters
from ainp2p.ledger.rules.state import State, Undo
from ainp2p.ledger.voting.archive import Archive
from ainp2p.ledger.voting.contact import Contact
from ainp2p.ledger.voting.picking import leader
from ainp2p.ledger.voting.priority import HeldReceipts
from ainp2p.ledger.voting.slot import Candidate, SlotId, VoteTable
from ainp2p.ledger.voting.votelog import OwnLog
from ainp2p.ledger.voting.waiting import Limits, WaitingRoom


@dataclass(slots=True)
class Desk:
    """One epoch's tables.

    Attributes:
        member: our place in the committee; -1 if we follow it without a seat.
        votes: whether we cast any now; the validator decides that.
        holds_back: whether a final operation must wait, since the epoch closes.
        addresses: where validators say that they listen, for the next COMMITTEE.
        applied: told of each operation that was applied, with what takes it back, if `collects`.
    """

    committee: Committee
    epoch: int
    member: int
    state: State
    parameters: Parameters
    log: OwnLog
    archive: Archive
    limits: Limits
    table: VoteTable = field(init=False)
    receipts: HeldReceipts = field(init=False)
    contact: Contact = field(init=False)
    room: WaitingRoom = field(init=False)
    votes: Callable[[], bool] = lambda: False
    holds_back: Callable[[Candidate, int], bool] = lambda candidate, now: False
    collects: Callable[[], bool] = lambda: False
    applied: Callable[[ParsedOperation, list[Undo]], None] = lambda parsed, undos: None
    addresses: Mapping[bytes, tuple[bytes, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.table = VoteTable(self.committee, decided_max=self.limits.decided_max)
        self.receipts = HeldReceipts(self.state.network)
        self.contact = Contact(self.committee, self.member)
        self.room = WaitingRoom(self.limits)

    def votes_on(self, object_: bytes) -> bool:
        """Whether we cast votes on this object now.

        Lemma L6 (docs/ledger-proof.md): no vote on an ordinary slot comes after one's HANDOFF.
        """
        # "once it is final a validator votes in e only on System"
        return self.votes() and (not self.state.system.closed or object_ == self.state.network)

    def gate_opens(self, candidate: Candidate, now: int) -> int:
        """When D and G will have passed for a gated candidate if contact lasts; up to `now`: they have.

        Lemma L13 (docs/ledger-proof.md): D and G both pass, and an outage begins G anew.
        """
        # "Gated operations wait until they have been held for D since they became otherwise valid and the
        # validator has been in contact with a quorum, itself included, for G"
        since = self.contact.since(now)
        held = now if candidate.valid_since is None else candidate.valid_since
        contact = now if since is None else since
        opens = max(held + self.parameters.gate_hold_ms, contact + self.parameters.gate_contact_ms)
        return max(opens, now + 1) if since is None else opens

    def leader(self, slot_id: SlotId, view: int) -> int:
        """The place of the member that leads this view of this slot."""
        return leader(self.committee, self.epoch, *slot_id, view)

    def wake_at(self, candidate: Candidate, at: int) -> None:
        """Look at a candidate again at this time."""
        self.room.wake_at(candidate, at, self.table.candidates)

    def keys_of(self, mask: int) -> tuple[bytes, ...]:
        """The members whose bits are set."""
        return tuple(key for member, key in enumerate(self.committee.keys) if mask >> member & 1)
