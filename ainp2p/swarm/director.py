"""What the view does about a swarm, decided from what it hears. A core without I/O.

    starting ─▶ working ─▶ asking ─▶ closing ─▶ reopening ─▶ auditing ─▶ over
                  └ half-way: one seller of text is killed

It reads the Board, is told of lines that ended, and returns actions. Each phase has a deadline, so that a run
always ends. Whatever dies, the rest goes on; what it cost is for the checks at the end to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ainp2p.swarm import events as ev
from ainp2p.swarm.board import Board
from ainp2p.swarm.line import AnyCommand, Ask, Audit, Close, Gone, Reopen
from ainp2p.swarm.spec import AUDITOR, CREATOR, Spec

Phase = Literal["starting", "working", "asking", "closing", "reopening", "auditing", "over"]
_ORDER: tuple[Phase, ...] = ("starting", "working", "asking", "closing", "reopening", "auditing", "over")
LIMITS_MS: dict[Phase, int] = {  # of the phases after work; working has what the caller allows
    "starting": 45_000,
    "asking": 30_000,
    "closing": 25_000,
    "reopening": 30_000,
    "auditing": 15_000,
}
KILL_AFTER_TOKENS = 4  # of a title: something to hand on, and something left to do
AUDITORS_MAX = 2  # one that dies is replaced once


@dataclass(frozen=True, slots=True)
class Kill:
    """Send SIGKILL to a seller that works on `task`."""

    name: str
    task: str


@dataclass(frozen=True, slots=True)
class Send:
    """Give a process a command."""

    name: str
    command: AnyCommand


@dataclass(frozen=True, slots=True)
class StartAuditor:
    """Start the auditor's process."""


Action = Kill | Send | StartAuditor


class Director:
    """One run. Call `step` after events, after `ended`, and a few times a second."""

    def __init__(self, spec: Spec, board: Board, *, question: str, work_ms: int, kill: bool = True) -> None:
        self.phase: Phase = "starting"
        self.late: list[Phase] = []  # phases that did not end in time
        self.ended: set[str] = set()  # names whose lines have ended
        self._spec, self._board, self._question = spec, board, question
        self._limits = {**LIMITS_MS, "working": work_ms}
        self._kill = kill and len(spec.text_sellers) > 1
        self._since_ms: int | None = None
        self._streamed: dict[str, int] = {}  # task → tokens
        self._auditors = 0
        self._sent: set[tuple[str, AnyCommand]] = set()

    @property
    def kills(self) -> bool:
        """Whether a seller is killed in this run."""
        return self._kill

    def alive(self, *names: str) -> list[str]:
        """Those of `names` that have not ended."""
        return [name for name in names if name not in self.ended]

    def step(self, now_ms: int, newest: ev.AnyEvent | None = None) -> list[Action]:
        """What to do now; `newest` is the event that was just applied to the Board, if one was."""
        if self._since_ms is None:
            self._since_ms = now_ms
        actions: list[Action] = []
        while self.phase != "over":
            found = [*self._tell_who_is_gone(), *self._act(newest)]
            newest = None  # one event, one kill
            actions += found
            if self._is_through():
                self._enter(_ORDER[_ORDER.index(self.phase) + 1], now_ms)
            elif now_ms - self._since_ms > self._limits[self.phase]:
                self.late.append(self.phase)
                self._enter(_ORDER[_ORDER.index(self.phase) + 1], now_ms)
            elif not found:
                break
        return actions

    def _enter(self, phase: Phase, now_ms: int) -> None:
        self.phase, self._since_ms = phase, now_ms

    # --- what to do in a phase --------------------------------------------------------------------

    def _act(self, newest: ev.AnyEvent | None) -> list[Action]:
        match self.phase:
            case "working":
                return self._maybe_kill(newest)
            case "asking":
                asked = self.alive(*self._spec.buyers)[:1]
                return [*self._auditor(), *self._send(Ask(question=self._question), asked)]
            case "closing":
                return [*self._auditor(), *self._send(Close(), self.alive(*self._spec.sellers))]
            case "reopening":
                actions = self._auditor()
                for name in self.dead_sellers():
                    actions += self._send(self.reopening(name), [AUDITOR])
                return actions
            case "auditing":
                return [*self._auditor(), *self._send(Audit(), [AUDITOR])]
        return []

    def _is_through(self) -> bool:
        spec = self._spec
        match self.phase:
            case "starting":
                return CREATOR in self.ended
            case "working":
                return all(self.reached(name, "done") for name in self.alive(*spec.buyers))
            case "asking":
                buyers = self.alive(*spec.buyers)
                return not buyers or any(self.reached(name, "asked") for name in buyers)
            case "closing":
                return all(self.reached(name, "closed") for name in self.alive(*spec.sellers))
            case "reopening":
                return all(self.reached(name, "reopened") for name in self.dead_sellers())
            case "auditing":
                counted = self.reached(AUDITOR, "audited") and self._rests_are_back()
                return counted or not self._has_committee()
        return False

    def _tell_who_is_gone(self) -> list[Action]:
        """Buyers do not wait for the dead."""
        actions: list[Action] = []
        for name in self._spec.sellers:
            if name in self.ended:
                actions += self._send(Gone(name=name), self.alive(*self._spec.buyers))
        return actions

    def _maybe_kill(self, newest: ev.AnyEvent | None) -> list[Action]:
        """Half-way, a seller in the middle of a title: half of the tasks have got as far as that."""
        if not self._kill or not isinstance(newest, ev.Progress) or newest.unit != "token":
            return []
        streamed = self._streamed[newest.task] = self._streamed.get(newest.task, 0) + newest.units
        if 2 * len(self._streamed) < len(self._board.tasks) or self._board.kills:
            return []
        others = [name for name in self.alive(*self._spec.text_sellers) if name != newest.seller]
        at_work = newest.seller in self._spec.text_sellers and newest.seller not in self.ended
        if at_work and others and streamed >= KILL_AFTER_TOKENS:
            return [Kill(newest.seller, newest.task), *self._auditor()]
        return []

    def _auditor(self) -> list[Action]:
        """Have an auditor, where there is a committee to ask."""
        if not self._has_committee() or self._auditors == AUDITORS_MAX:
            return []
        if self._auditors and AUDITOR not in self.ended:
            return []
        self._auditors += 1
        self.ended.discard(AUDITOR)
        self._sent = {sent for sent in self._sent if sent[0] != AUDITOR}
        return [StartAuditor()]

    def _send(self, command: AnyCommand, names: list[str]) -> list[Action]:
        fresh = [name for name in names if (name, command) not in self._sent and name not in self.ended]
        self._sent.update((name, command) for name in fresh)
        return [Send(name, command) for name in fresh]

    # --- what is known ----------------------------------------------------------------------------

    def _has_committee(self) -> bool:
        """Whether anybody can be asked: some validator is up (and so there is a genesis)."""
        return any(
            name in self._board.peers and self._board.peers[name].role == "validator"
            for name in self.alive(*self._spec.validators)
        )

    def dead_sellers(self) -> list[str]:
        """Sellers that have died after they were up; others never had a Lock."""
        peers = self._board.peers
        if not self._has_committee() or (self._auditors == AUDITORS_MAX and AUDITOR in self.ended):
            return []
        dead = self.ended | {kill.name for kill in self._board.kills}
        return [name for name in self._spec.sellers if name in dead and name in peers and peers[name].account]

    def _rests_are_back(self) -> bool:
        """Whether the buyers have heard that their Locks have ended."""
        held = [self._board.peers[name].balance for name in self.alive(*self._spec.buyers)]
        return not any(balance is not None and balance.locked for balance in held)

    def reopening(self, name: str) -> Reopen:
        """The command to settle up for a dead seller."""
        account = self._board.peers[name].account
        locks = sorted(opened.lock for opened in self._board.locks.values() if opened.payee == account)
        return Reopen(name=name, locks=tuple(locks))

    def unsettled(self) -> list[str]:
        """Sellers that were promised money and have not closed their Locks, nor has anybody for them."""
        paid = {seller for (_, seller), payment in self._board.payments.items() if payment.amount}
        reopened = {wallet.name for wallet in self._board.reopened}
        return sorted(name for name in paid - reopened if not self.reached(name, "closed"))

    def reached(self, name: str, stage: ev.Stage) -> bool:
        """Whether a process has said that it came so far."""
        peer = self._board.peers.get(name)
        return peer is not None and stage in peer.stages
