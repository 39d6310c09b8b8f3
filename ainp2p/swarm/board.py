"""What is known of a swarm after the events so far: one state for the live view and the report.

A core without I/O: `Board.apply(event)` and nothing else changes it. It never raises on an event that
mentions what it has not heard of; the processes that report may be killed at any moment, and what they say
may arrive in any order between them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import singledispatchmethod

from ainp2p.swarm import events as ev

NOTES_MAX = 200  # the newest are kept
RATE_WINDOW_MS = 2_000  # tokens/s are what came in this long


@dataclass(slots=True)
class Peer:
    """One process."""

    name: str
    role: ev.Role | None = None
    peer: str = ""
    account: str = ""
    pid: int = 0
    up_ms: int = 0
    down_ms: int | None = None
    reason: str = ""
    stages: set[ev.Stage] = field(default_factory=set)
    balance: ev.BalanceKnown | None = None
    balances: list[tuple[int, int]] = field(default_factory=list)  # (at_ms, available + locked + owed)


@dataclass(slots=True)
class Task:
    """One task as its events tell it."""

    id: str
    buyer: str = ""
    skill: str = ""
    subject: str = ""
    units_max: int = 0
    state: ev.TaskState = "submitted"
    opened_ms: int = 0
    ended_ms: int | None = None
    sellers: list[str] = field(default_factory=list)  # in the order in which they worked
    units: int = 0
    detail: str = ""
    answer: ev.Answered | None = None
    takeover: ev.TaskTakenOver | None = None

    @property
    def seller(self) -> str:
        """Who works on it now, or worked last."""
        return self.sellers[-1] if self.sellers else ""

    @property
    def ended(self) -> bool:
        return self.state in ev.FINAL_STATES


@dataclass(slots=True)
class Payment:
    """All receipts from one buyer to one seller."""

    amount: int = 0
    receipts: int = 0


class Board:
    """The swarm so far. Read its attributes; only `apply` writes them."""

    def __init__(self) -> None:
        self.start: ev.SwarmStarted | None = None
        self.network = ""
        self.first_ms: int | None = None
        self.now_ms = 0
        self.peers: dict[str, Peer] = {}
        self.tasks: dict[str, Task] = {}
        self.documents: dict[str, ev.DocumentRead] = {}
        self.refused: list[ev.DocumentRefused] = []
        self.locks: dict[str, ev.LockOpened] = {}
        self.payments: dict[tuple[str, str], Payment] = {}
        self.tokens: list[ev.Progress] = []  # deliveries that are counted in tokens
        self.phases: dict[ev.Phase, list[int]] = {}
        self.finalised: list[ev.Finalised] = []
        self.kills: list[ev.SellerKilled] = []
        self.takeovers: list[ev.TaskTakenOver] = []
        self.reopened: list[ev.WalletReopened] = []
        self.supply: dict[str, ev.SupplyChecked] = {}
        self.checks: dict[str, ev.Checked] = {}
        self.notes: list[ev.Note] = []
        self.end: ev.SwarmEnded | None = None

    # --- what follows from it -------------------------------------------------------------------

    @property
    def receipts(self) -> int:
        return sum(payment.receipts for payment in self.payments.values())

    @property
    def paid(self) -> int:
        """uain promised by receipts, all pairs together."""
        return sum(payment.amount for payment in self.payments.values())

    @property
    def held(self) -> bool:
        """Every check held, and there was one."""
        return bool(self.checks) and all(check.held for check in self.checks.values())

    def tokens_per_s(self, seller: str | None = None) -> int:
        """Tokens delivered per second in the last RATE_WINDOW_MS, by one seller or by all."""
        tokens = 0
        for delivery in reversed(self.tokens):
            if delivery.at_ms <= self.now_ms - RATE_WINDOW_MS:
                break
            if seller in (None, delivery.seller):
                tokens += delivery.units
        return tokens * 1000 // RATE_WINDOW_MS

    # --- events -----------------------------------------------------------------------------------

    def apply(self, event: ev.AnyEvent) -> None:
        """Take one event in."""
        if self.first_ms is None:
            self.first_ms = event.at_ms
        self.now_ms = max(self.now_ms, event.at_ms)
        self._apply(event)

    def _peer(self, name: str) -> Peer:
        return self.peers.setdefault(name, Peer(name))

    def _task(self, task: str) -> Task:
        return self.tasks.setdefault(task, Task(task))

    @singledispatchmethod
    def _apply(self, event: ev.AnyEvent) -> None:
        raise AssertionError(f"no rule for {type(event).__name__}")

    @_apply.register
    def _(self, event: ev.SwarmStarted) -> None:
        self.start = event

    @_apply.register
    def _(self, event: ev.NetworkFounded) -> None:
        self.network = event.network

    @_apply.register
    def _(self, event: ev.PeerUp) -> None:
        peer = self._peer(event.name)
        peer.role, peer.peer, peer.account = event.role, event.peer, event.account
        peer.pid, peer.up_ms, peer.down_ms, peer.reason = event.pid, event.at_ms, None, ""

    @_apply.register
    def _(self, event: ev.PeerDown) -> None:
        peer = self._peer(event.name)
        peer.down_ms, peer.reason = event.at_ms, event.reason

    @_apply.register
    def _(self, event: ev.StageReached) -> None:
        peer = self._peer(event.name)
        peer.stages.add(event.stage)
        peer.pid = event.pid or peer.pid

    @_apply.register
    def _(self, event: ev.DocumentRead) -> None:
        self.documents[event.path] = event

    @_apply.register
    def _(self, event: ev.DocumentRefused) -> None:
        self.refused.append(event)

    @_apply.register
    def _(self, event: ev.TaskOpened) -> None:
        task = self._task(event.task)
        task.buyer, task.skill, task.subject = event.buyer, event.skill, event.subject
        task.units_max, task.opened_ms = event.units_max, event.at_ms

    @_apply.register
    def _(self, event: ev.TaskMoved) -> None:
        task = self._task(event.task)
        task.state, task.detail = event.state, event.detail
        self._works(task, event.seller)
        task.ended_ms = event.at_ms if task.ended else None

    @_apply.register
    def _(self, event: ev.Progress) -> None:
        task = self._task(event.task)
        task.units += event.units
        self._works(task, event.seller)
        if event.unit == "token":
            self.tokens.append(event)

    @_apply.register
    def _(self, event: ev.ReceiptSigned) -> None:
        payment = self.payments.setdefault((event.buyer, event.seller), Payment())
        payment.amount += event.added
        payment.receipts += 1

    @_apply.register
    def _(self, event: ev.BalanceKnown) -> None:
        peer = self._peer(event.name)
        peer.balance = event
        peer.balances.append((event.at_ms, event.available + event.locked + event.owed))

    @_apply.register
    def _(self, event: ev.LockOpened) -> None:
        self.locks[event.lock] = event

    @_apply.register
    def _(self, event: ev.Finalised) -> None:
        self.finalised.append(event)

    @_apply.register
    def _(self, event: ev.PhaseTimed) -> None:
        self.phases.setdefault(event.phase, []).append(event.took_us)

    @_apply.register
    def _(self, event: ev.Answered) -> None:
        self._task(event.task).answer = event

    @_apply.register
    def _(self, event: ev.SellerKilled) -> None:
        self.kills.append(event)

    @_apply.register
    def _(self, event: ev.TaskTakenOver) -> None:
        task = self._task(event.task)
        task.takeover = event
        for seller in (event.seller_before, event.seller):
            if seller not in task.sellers:
                self._works(task, seller)
        self.takeovers.append(event)

    @_apply.register
    def _(self, event: ev.WalletReopened) -> None:
        self.reopened.append(event)

    @_apply.register
    def _(self, event: ev.SupplyChecked) -> None:
        self.supply[event.validator] = event

    @_apply.register
    def _(self, event: ev.Checked) -> None:
        self.checks[event.check] = event

    @_apply.register
    def _(self, event: ev.Note) -> None:
        self.notes.append(event)
        del self.notes[:-NOTES_MAX]

    @_apply.register
    def _(self, event: ev.SwarmEnded) -> None:
        self.end = event

    @staticmethod
    def _works(task: Task, seller: str) -> None:
        if seller and task.seller != seller:
            task.sellers.append(seller)


def percentile(values: list[int], per_mille: int) -> int:
    """The nearest-rank percentile (500: median, 990: p99) of a list that is not empty."""
    ordered = sorted(values)
    rank = -(-len(ordered) * per_mille // 1000)  # rounded up
    return ordered[max(rank, 1) - 1]
