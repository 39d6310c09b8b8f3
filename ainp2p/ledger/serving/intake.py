"""Between the network and the core: operations wait here in fair queues, and go in a few at a time.

    a wallet's Submit ──► by (account, submitter), weight = what it pays and holds ─┐
    a member's push   ──► by member, weight = its stake ────────────────────────────┴─► in turn ─► core

Whose operation it is: an account's own; a Lock's is its first payee's (SETTLE, CLOSE) or payer's (REFUND),
weighed by what is in the Lock, so a deposit counts for those who come to collect it. What an account
holds is its balance and the credits that the operation itself consumes; what it pays is the fee above the
floor, and counts `PAYS` times, since it is burnt.

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
from ainp2p.ledger.rules.operations import Close, ParsedOperation, Settle, SignedOperation, Spend
from ainp2p.ledger.rules.state import State
from ainp2p.ledger.serving.fair_queue import FairQueue
from ainp2p.protocol.network import PeerId

SUBMITTED_MAX = 4_096  # operations that wait: less than a second's work
SUBMITTED_PER_ACCOUNT_MAX = 256  # and submitter
PUSHED_MAX = 8_192
PUSHED_PER_MEMBER_MAX = 2_048
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

    signed: SignedOperation
    id: bytes
    peer: PeerId
    source: str
    done: Done
    weighed: bool = False


def weigher(state: State) -> Weigh:
    """Whose an operation is, and how much that account pays and holds, by this state."""

    def weigh(parsed: ParsedOperation) -> tuple[bytes, int]:
        operation, body = parsed.operation, parsed.operation.body
        lock = state.locks.get(operation.object)
        if lock is not None:
            collects = isinstance(body, Settle | Close)
            return lock.beneficiaries[0].account if collects else lock.payer, lock.held
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

    def __init__(self, stakes: Mapping[PeerId, int], weigh: Weigh) -> None:
        """`stakes`: the other members' weights."""
        self._stakes, self._weigh = stakes, weigh
        self._submitted: FairQueue[Entry] = FairQueue(SUBMITTED_MAX, SUBMITTED_PER_ACCOUNT_MAX)
        self._pushed: FairQueue[Entry] = FairQueue(PUSHED_MAX, PUSHED_PER_MEMBER_MAX)
        self._pushed_next = True
        self._submitters: dict[PeerId, _Standing] = {}
        self._waiting: dict[bytes, int] = {}  # operation id → how often it waits

    def holds(self, id_: bytes) -> bool:
        """Whether an operation waits here: it has come, and nobody need be asked for it."""
        return id_ in self._waiting

    def __len__(self) -> int:
        return len(self._submitted) + len(self._pushed)

    def add(self, parsed: ParsedOperation, peer: PeerId, source: str, done: Done, now_s: float) -> None:
        """Have an operation wait for its turn; it, or another one, may be told "busy" at once."""
        entry = Entry(parsed.signed, parsed.id, peer, source, done)
        self._waiting[entry.id] = self._waiting.get(entry.id, 0) + 1
        stake = self._stakes.get(peer)
        if stake is not None:
            gone = self._pushed.push(peer.encode(), stake, entry)
        else:
            account, weight = self._weigh(parsed)
            entry.weighed = self._standing(peer).lend(now_s)
            gone = self._submitted.push(account + peer.encode(), weight if entry.weighed else 0, entry)
        for each in gone:
            self._forget(each)
            self._give_back(each)
            each.done(NotYet("busy", "too many operations wait here; send it again in a second"))

    def pop(self) -> Entry | None:
        """The operation whose turn it is: of members and of wallets alternately."""
        queues = (self._pushed, self._submitted) if self._pushed_next else (self._submitted, self._pushed)
        self._pushed_next = not self._pushed_next
        for queue in queues:
            entry = queue.pop()
            if entry is not None:
                self._forget(entry)
                return entry
        return None

    def _forget(self, entry: Entry) -> None:
        """It waits no longer."""
        left = self._waiting[entry.id] - 1
        if left:
            self._waiting[entry.id] = left
        else:
            del self._waiting[entry.id]

    def judged(self, entry: Entry, problem: Error | None, now_s: float) -> bool:
        """The core has handled it. False: it was false in itself, and its submitter loses its standing."""
        self._give_back(entry)
        false = isinstance(problem, RemoteError)
        if entry.peer not in self._stakes:
            self._standing(entry.peer).judge(problem, false, now_s)
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
