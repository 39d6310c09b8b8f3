"""Between the network and the core: operations wait here in fair queues, and go in a few at a time.

    a wallet's Submit ──► by (account, submitter), weight = what it pays and holds ─┐
    a member's push   ──► by member, weight = its stake ────────────────────────────┴─► in turn ─► core

Whose operation it is: its object's. A Lock weighs what is in it, so each deposit counts for those who come to
collect it, and a payee of many is served for all of them. What an account
holds is its balance and the credits that the operation itself consumes; what it pays is the fee above the
floor, and counts `PAYS` times, since it is burnt.

Queues share what there is to share, moment by moment; but heavy work that comes now and then, and waits for
votes in between, would find the core full of light work each time. So what weighs much less than what was
there within a second is paced: it goes on as long as the event loop is prompt (`pace`).

Anybody can write an operation in a rich account's name: proofs are checked by the core, which is what has to
be protected. So a submitter has a queue of its own for each account (it cannot fill the owner's), and only a
few of its operations have weight at a time, more with each one that proves good, none for a while after one
that bears a false signature. An operation that merely came too late or twice is nobody's fault: members that
relay it keep their standing (row E6). What does not fit is told "busy". No I/O; the time is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ainp2p.errors import Error, NotYet, RemoteError
from ainp2p.ledger.rules.operations import ParsedOperation, Spend
from ainp2p.ledger.rules.state import State
from ainp2p.ledger.serving.back_pressure import BackPressure
from ainp2p.ledger.serving.fair_queue import FairQueue
from ainp2p.ledger.serving.pace import Pace
from ainp2p.protocol.network import PeerId

SUBMITTED_MAX = 4_096  # operations that wait: less than a second's work
SUBMITTED_PER_ACCOUNT_MAX = 256  # and submitter
PUSHED_MAX = 8_192
PUSHED_PER_MEMBER_MAX = 2_048
LIGHT_PART = 4  # an operation that weighs less than this part of the heaviest is light
HEAVY_FOR_S = 1.0  # the heaviest counts for so long: it comes again in a moment
PAYS = 1_000  # what holding counts for 1, paying counts for so much
TRUST_FIRST = 16  # operations of a submitter that may have weight at once
TRUST_MAX = 1_024
DISTRUST_S = 60.0
SUBMITTERS_MAX = 4_096  # remembered; the one heard of longest ago is forgotten

Done = Callable[[Error | None], None]
Weigh = Callable[[ParsedOperation], tuple[bytes, int]]


@dataclass(slots=True)
class Entry:
    """An operation that waits; `done` is called once with what the core had against it, or None."""

    parsed: ParsedOperation
    id: bytes
    peer: PeerId
    source: str
    done: Done
    submitted: bool = False  # by a wallet, not pushed by a member
    weighed: bool = False


def weigher(state: State) -> Weigh:
    """Whose an operation is, and how much that account pays and holds, by this state."""

    def weigh(parsed: ParsedOperation) -> tuple[bytes, int]:
        operation, body = parsed.operation, parsed.operation.body
        lock = state.locks.get(operation.object)
        if lock is not None:
            return lock.id, lock.held
        account = state.accounts.get(operation.object)
        holds = account.balance if account is not None else 0
        if not isinstance(body, Spend):
            return operation.object, holds
        credits = [state.credits[id_] for id_ in body.credits if id_ in state.credits]
        holds += sum(credit.amount for credit in credits if credit.account == operation.object)
        pays = min(max(0, body.fee - state.parameters[state.epoch].fee_floor), holds)
        return operation.object, holds + PAYS * pays

    return weigh


class Intake:
    """What waits for the core."""

    def __init__(
        self, stakes: Mapping[PeerId, int], weigh: Weigh, pressure: BackPressure | None = None
    ) -> None:
        """`stakes`: the other members' weights. `pressure` is told who has operations waiting."""
        self._stakes, self._weigh = stakes, weigh
        self._pressure = pressure or BackPressure(None)
        self._submitted: FairQueue[Entry] = FairQueue(SUBMITTED_MAX, SUBMITTED_PER_ACCOUNT_MAX)
        self._pushed: FairQueue[Entry] = FairQueue(PUSHED_MAX, PUSHED_PER_MEMBER_MAX)
        self._pushed_next = False
        self._pace = Pace()
        self._heaviest, self._heaviest_until_s = 0, float("-inf")  # of what was there lately
        self._submitters: dict[PeerId, _Standing] = {}
        self._waiting: dict[bytes, int] = {}  # operation id → how often it waits

    def holds(self, id_: bytes) -> bool:
        """Whether an operation waits here: it has come, and nobody need be asked for it."""
        return id_ in self._waiting

    def __len__(self) -> int:
        return len(self._submitted) + len(self._pushed)

    def add(self, parsed: ParsedOperation, peer: PeerId, source: str, done: Done, now_s: float) -> None:
        """Have an operation wait for its turn; it, or another one, may be told "busy" at once."""
        entry = Entry(parsed, parsed.id, peer, source, done)
        self._waiting[entry.id] = self._waiting.get(entry.id, 0) + 1
        stake = self._stakes.get(peer)
        if stake is not None:
            gone = self._pushed.push(peer.encode(), stake, entry)
        else:
            account, weight = self._weigh(parsed)
            entry.submitted = True
            self._pressure.waits(peer)
            entry.weighed = self._standing(peer).lend(now_s)
            gone = self._submitted.push(account + peer.encode(), weight if entry.weighed else 0, entry)
        for each in gone:
            self._forget(each)
            self._give_back(each)
            if each.submitted:
                self._pressure.busy(each.peer)
            each.done(NotYet("busy", "too many operations wait here; send it again in a second"))

    def pop(self, now_s: float) -> Entry | None:
        """The operation whose turn it is: of members and of wallets alternately.

        None also while only light ones wait that have to wait longer (`measured`).
        """
        self._pushed_next = not self._pushed_next
        if self._pushed_next:
            entry = self._pushed.pop() or self._pop_submitted(now_s)
        else:
            entry = self._pop_submitted(now_s) or self._pushed.pop()
        if entry is not None:
            self._forget(entry)
        return entry

    def measured(self, late_s: float, now_s: float) -> None:
        """The event loop came back so much later than it was asked to: light operations are paced by that."""
        self._pace.measured(late_s, now_s)

    def _pop_submitted(self, now_s: float) -> Entry | None:
        heaviest = self._submitted.heaviest
        if heaviest >= self._heaviest or now_s > self._heaviest_until_s:
            self._heaviest, self._heaviest_until_s = heaviest, now_s + HEAVY_FOR_S
        least = self._heaviest // LIGHT_PART
        weight = self._submitted.next_weight
        if weight is None or weight >= least:
            return self._submitted.pop()
        if not self._pace.allows:
            return self._submitted.pop(least)
        self._pace.take()
        return self._submitted.pop()

    def _forget(self, entry: Entry) -> None:
        """It waits no longer."""
        if entry.submitted:
            self._pressure.served(entry.peer)
        left = self._waiting[entry.id] - 1
        if left:
            self._waiting[entry.id] = left
        else:
            del self._waiting[entry.id]

    def judged(self, entry: Entry, problem: Error | None, now_s: float) -> bool:
        """The core has handled it. False: it was false in itself, and its submitter loses its standing."""
        false = isinstance(problem, RemoteError)
        if entry.peer not in self._stakes:
            standing = self._standing(entry.peer)
            standing.lent -= entry.weighed
            standing.judge(problem, false, now_s)
        else:  # maybe it became a member meanwhile
            self._give_back(entry)
        entry.done(problem)
        return not false

    def _give_back(self, entry: Entry) -> None:
        if entry.weighed:
            self._standing(entry.peer).lent -= 1

    def _standing(self, peer: PeerId) -> _Standing:
        standing = self._submitters.pop(peer, None) or _Standing()
        self._submitters[peer] = standing  # at the end: the first is the one heard of longest ago
        if len(self._submitters) > SUBMITTERS_MAX:
            del self._submitters[next(iter(self._submitters))]
        return standing


class _Standing:
    """What a submitter's operations were worth.

    Attributes:
        lent: how many of them wait with weight.
    """

    __slots__ = ("_distrusted_until_s", "_trust", "lent")

    def __init__(self) -> None:
        self.lent = 0
        self._trust = TRUST_FIRST
        self._distrusted_until_s = float("-inf")

    def lend(self, now_s: float) -> bool:
        """Whether one more may have its account's weight."""
        if self.lent >= self._trust or now_s < self._distrusted_until_s:
            return False
        self.lent += 1
        return True

    def judge(self, problem: Error | None, false: bool, now_s: float) -> None:
        if false:
            self._trust, self._distrusted_until_s = TRUST_FIRST, now_s + DISTRUST_S
        elif problem is None:
            self._trust = min(TRUST_MAX, self._trust + 1)
