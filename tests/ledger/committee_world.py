"""A committee of validator cores in virtual time, from a seed, with an auditor that watches every step.

No trio: a heap of events calls the cores directly. Messages are lost, doubled, delayed and cut by
partitions; validators crash between any two steps and come back with what their journal was given.
The auditor knows nothing of the cores' insides: it reads what they send, announce and store.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ainp2p.errors import Error, StorageError
from ainp2p.ledger.rules import accounts
from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.rules.genesis import DEVELOPMENT, Genesis, Parameters, new_genesis
from ainp2p.ledger.rules.operations import (
    Operation,
    ParsedOperation,
    SignedOperation,
    Void,
    account_id,
    parse,
    sign_operation,
)
from ainp2p.ledger.rules.state import State
from ainp2p.ledger.voting.effects import Effects
from ainp2p.ledger.voting.picking import leader
from ainp2p.ledger.voting.validator import FINAL, Validator
from ainp2p.ledger.voting.votelog import COMMIT, Commit, Lock, NewView, Propose, VoteBatch, read_entries
from ainp2p.protocol.identity import Key
from tests.ledger.memory_journal import MemoryJournal
from tests.ledger.world import NOW, inception_of, key_of

ASK_EVERY_MS = 500  # heights, by whoever runs a validator


def validator_key(index: int) -> Key:
    return key_of(f"validator {index}")


def committee_genesis(
    weights: Sequence[int],
    names: Sequence[str] = ("alice", "bob", "carol"),
    purse: int = 1_000_000,
    parameters: Parameters = DEVELOPMENT,
) -> Genesis:
    return new_genesis(
        "committee",
        NOW,
        [(validator_key(i).public, weight, []) for i, weight in enumerate(weights)],
        [(inception_of(name), purse) for name in names],
        None,
        parameters,
    )


class Broken(AssertionError):
    """An invariant does not hold."""


def demand(holds: bool, what: str) -> None:
    if not holds:
        raise Broken(what)


class Auditor:
    """Invariants 1 to 6 of LEDGER.md, over everything that correct validators send and announce."""

    def __init__(self, genesis: Genesis) -> None:
        self.genesis = genesis
        self.epoch = 0
        self.committee = Committee.of(genesis)
        self.operations: dict[bytes, ParsedOperation] = {}
        self.decided: dict[tuple[bytes, int], bytes] = {}
        self.locks: dict[tuple[int, bytes, int, int], bytes] = {}  # member, object, seq, view → operation
        self.promised: dict[tuple[int, bytes, int], int] = {}  # member, object, seq → view of its NEWVIEW
        self.committed: dict[tuple[int, bytes, int], tuple[int, bytes]] = {}  # the highest COMMIT of each
        self.cheats: set[bytes] = set()  # accounts that sign twice
        self.voided = 0
        self.views: dict[tuple[bytes, int], int] = {}  # slot → the highest view that anybody spoke of
        self.locked_by: dict[tuple[int, bytes], set[int]] = {}  # view, operation → members
        self.consumed: dict[bytes, bytes] = {}  # credit → operation
        self.ask: Callable[[bytes], SignedOperation | None] = lambda id_: None

    def knows(self, signed: SignedOperation) -> None:
        parsed = parse(signed)
        self.operations[parsed.id] = parsed

    def sees_batch(self, batch: VoteBatch, journal: MemoryJournal) -> None:
        """A batch that its validator lets others see."""
        demand(
            journal.batch(batch.member, batch.header.height, batch.header.epoch) == batch.raw,
            "sent before it was on disk",
        )
        for entry in read_entries(batch.entries):
            if isinstance(entry, NewView):
                self._sees_newview(batch.member, entry)
            elif isinstance(entry, Propose):
                slot = (entry.object, entry.seq)
                leading = leader(self.committee, self.epoch, *slot, entry.view)
                demand(leading == batch.member, "a PROPOSE by somebody who does not lead")
            elif isinstance(entry, Lock):
                self._sees_lock(batch.member, entry)
            elif isinstance(entry, Commit):
                self._sees_commit(batch.member, entry)

    def _sees_newview(self, member: int, entry: NewView) -> None:
        slot = (member, entry.object, entry.seq)
        demand(entry.view > self.promised.get(slot, 0), "6: a NEWVIEW that goes back")
        self.promised[slot] = entry.view
        self.views[slot[1:]] = max(entry.view, self.views.get(slot[1:], 0))
        view, id_ = self.committed.get(slot, (-1, b""))
        reported = -1 if entry.prepared is None else entry.prepared
        demand(reported >= view, "a NEWVIEW that reports less than an own COMMIT")
        demand(reported > view or view == -1 or entry.operation == id_, "a NEWVIEW for another COMMIT")
        demand(entry.operation is not None or entry.candidate is not None, "a NEWVIEW that says nothing")

    def _sees_lock(self, member: int, entry: Lock) -> None:
        operation = self.operation(entry.operation)
        slot = (member, operation.object, operation.seq, entry.view)
        demand(slot not in self.locks, "6: two LOCKs in one (slot, view)")  # not even the same twice
        demand(entry.view >= self.promised.get(slot[:3], 0), "6: a LOCK below one's NEWVIEW")
        demand(self.is_justified(entry), "a LOCK above view 0 needs a justification")
        self.locks[slot] = entry.operation
        self.locked_by.setdefault((entry.view, entry.operation), set()).add(member)

    def is_justified(self, entry: Lock) -> bool:
        return (entry.view == 0) == (entry.justification is None)

    def _sees_commit(self, member: int, entry: Commit) -> None:
        operation = self.operation(entry.operation)
        slot = (member, operation.object, operation.seq)
        demand(entry.view >= self.promised.get(slot, 0), "6: a COMMIT below one's NEWVIEW")
        self.committed[slot] = max(self.committed.get(slot, (-1, b"")), (entry.view, entry.operation))
        locked = self.committee.weight_of(self.locked_by.get((entry.view, entry.operation), set()))
        # Byzantine LOCKs are not seen here: more than a third must still be correct ones.
        demand(locked >= self.committee.minority, "COMMIT without a prepared certificate")

    def operation(self, id_: bytes) -> Operation:
        """What was seen with this id; a VOID nobody submits, so whoever holds it is asked (`ask`)."""
        if id_ not in self.operations:
            for signed in filter(None, map(self.ask, [id_])):
                self.knows(signed)
        return self.operations[id_].operation

    def sees_final(self, parsed: ParsedOperation) -> None:
        operation = parsed.operation
        slot = (operation.object, operation.seq)
        demand(self.decided.setdefault(slot, parsed.id) == parsed.id, "3: two operations in one slot")
        if isinstance(operation.body, Void):
            self.voided += 1
            demand(operation.object in self.cheats, "7: an owner that signed once is voided")
        for credit in getattr(operation.body, "credits", ()):
            demand(self.consumed.setdefault(credit, parsed.id) == parsed.id, "4: a credit consumed twice")

    def sees_state(self, state: State) -> None:
        demand(state.supply().total == self.genesis.supply, "1: supply")
        demand(all(account.balance >= 0 for account in state.accounts.values()), "2: a negative balance")
        demand(all(0 <= lock.paid <= lock.deposit for lock in state.locks.values()), "2: paid")


@dataclass
class Faults:
    """What the network does to a message between two validators."""

    loss: float = 0.0
    double: float = 0.0
    delay_ms: tuple[int, int] = (1, 5)
    cut: Callable[[int, int], bool] = lambda a, b: False


@dataclass
class Node:
    """One validator, or the place where it was."""

    index: int
    journal: MemoryJournal
    validator: Validator | None = None
    batches: list[VoteBatch] = field(default_factory=list)
    voting_since: int | None = None


class CommitteeWorld:
    """n validators, people with accounts, and a clock that jumps."""

    def __init__(
        self,
        weights: Sequence[int] = (1, 1, 1, 1),
        names: Sequence[str] = ("alice", "bob", "carol"),
        seed: int = 0,
        parameters: Parameters = DEVELOPMENT,
    ) -> None:
        self.rng = random.Random(seed)
        self.names = tuple(names)
        self.genesis = committee_genesis(weights, names, parameters=parameters)
        self.network = self.genesis.network_id
        self.parameters = self.genesis.parameters
        self.committee = Committee.of(self.genesis)
        # Members are sorted by key: node i is the one with place i.
        by_key = {validator_key(i).public: validator_key(i) for i in range(len(weights))}
        self.keys = [by_key[key] for key in self.committee.keys]
        self.ids = {name: account_id(self.network, inception_of(name)) for name in names}
        self.auditor = Auditor(self.genesis)
        self.auditor.ask = self._find_operation
        self.faults = Faults()
        self.now = NOW
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self.finals: list[list[bytes]] = [[] for _ in weights]
        self.pushed: list[ParsedOperation] = []
        self.nodes = [Node(i, MemoryJournal(self.genesis)) for i in range(len(weights))]
        self.refusals: list[str] = []
        for node in self.nodes:
            self.start(node.index)
            self.at(self.now, partial(self._ask_heights, node.index))

    # --- time -----------------------------------------------------------------------------------

    def at(self, when: int, what: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, what))

    def run(self, ms: int) -> None:
        """Let `ms` of virtual time pass."""
        end = self.now + ms
        while self._events and self._events[0][0] <= end:
            self.now, _, what = heapq.heappop(self._events)
            what()
        self.now = end

    def run_until(self, condition: Callable[[], bool], limit_ms: int = 60_000) -> int:
        """How long it took until `condition` held."""
        start = self.now
        while not condition():
            demand(self.now - start < limit_ms, f"10: not settled after {limit_ms} ms")
            self.run(10)
        return self.now - start

    # --- validators -----------------------------------------------------------------------------

    def start(self, index: int) -> Validator:
        node = self.nodes[index]
        validator = Validator(self.keys[index], self.genesis, node.journal.state(), node.journal)
        node.validator = validator
        self._schedule(node, validator)
        return validator

    def crash(self, index: int) -> None:
        """Everything is lost that the journal was not given."""
        self.nodes[index].validator = None

    def validator(self, index: int) -> Validator:
        validator = self.nodes[index].validator
        assert validator is not None
        return validator

    @property
    def alive(self) -> list[Validator]:
        return [node.validator for node in self.nodes if node.validator is not None]

    def _schedule(self, node: Node, validator: Validator) -> None:
        def tick() -> None:
            if node.validator is validator and validator.due <= self.now:
                self.act(node.index, lambda: validator.tick(self.now))

        if validator.due < 2**60:
            self.at(max(validator.due, self.now + 1), tick)

    def act(self, index: int, step: Callable[[], Effects]) -> Effects:
        """One step of a validator, the auditor's look at it, and what it sends."""
        node = self.nodes[index]
        validator = self.validator(index)
        try:
            effects = step()
        except StorageError:
            raise
        except Error as exc:
            self.refusals.append(f"{type(exc).__name__}: {exc}")
            effects = Effects()
        for final in effects.finals:
            self.auditor.sees_final(final.parsed)
            self.finals[index].append(final.parsed.id)
        if effects.finals:
            self.auditor.sees_state(validator.state)
        for push in effects.operations:
            self.auditor.knows(push.parsed.signed)
            self.pushed.append(push.parsed)
            if not push.source.startswith("validator"):
                for other in self._others(index):
                    self.send_operation(index, other, push.parsed.signed)
        for batch in effects.batches:
            self.auditor.sees_batch(batch, node.journal)
            node.batches.append(batch)
            for other in self._others(index):
                self.send_batch(index, other, batch.raw)
        for wanted in effects.wanted:
            holders = [self.committee.index[key] for key in wanted.holders if key != self.keys[index].public]
            self._fetch_operation(index, self.rng.choice(holders or self._others(index)), wanted.id)
        for raw in effects.attachments:
            for other in self._others(index):
                self.send_attachment(index, other, raw)
        for missing in effects.missing:
            holders = [self.committee.index[k] for k in missing.holders if k != self.keys[index].public]
            if holders:
                self._fetch_attachment(index, self.rng.choice(holders), missing.id)
        for gap in effects.gaps:
            self._fetch_batches(index, self.rng.choice(self._others(index)), gap.validator, gap.first)
        self._schedule(node, validator)
        return effects

    # --- the network between them -----------------------------------------------------------------

    def _others(self, index: int) -> list[int]:
        return [i for i in range(len(self.nodes)) if i != index]

    def send(self, source: int, target: int, deliver: Callable[[Validator], Effects]) -> None:
        """Deliver to a validator, if the network and it are there then."""
        copies = 2 if self.rng.random() < self.faults.double else 1
        for _ in range(copies):
            if self.rng.random() < self.faults.loss:
                continue

            def arrive() -> None:
                validator = self.nodes[target].validator
                if validator is not None and not self.faults.cut(source, target) and not validator.halted:
                    self.act(target, lambda: deliver(validator))

            self.at(self.now + self.rng.randint(*self.faults.delay_ms), arrive)

    def send_operation(self, source: int, target: int, signed: SignedOperation) -> None:
        self.send(source, target, lambda v: v.handle_operation(signed, self.now, f"validator {source}"))

    def send_batch(self, source: int, target: int, raw: bytes) -> None:
        self.send(source, target, lambda v: v.handle_batch(raw, self.now))

    def send_attachment(self, source: int, target: int, raw: bytes) -> None:
        self.send(source, target, lambda v: v.handle_attachment(raw, self.now, f"validator {source}"))

    def _fetch_attachment(self, index: int, holder: int, id_: bytes) -> None:
        def answer(validator: Validator) -> Effects:
            raw = validator.attachment(id_)
            if raw is not None:
                self.send_attachment(holder, index, raw)
            return Effects()

        self.send(index, holder, answer)

    def _find_operation(self, id_: bytes) -> SignedOperation | None:
        return next((found for v in self.alive if (found := v.operation(id_)) is not None), None)

    def _fetch_operation(self, index: int, holder: int, id_: bytes) -> None:
        def answer(validator: Validator) -> Effects:
            signed = validator.operation(id_)
            if signed is not None:
                self.send_operation(holder, index, signed)
            return Effects()

        self.send(index, holder, answer)

    def _fetch_batches(self, index: int, holder: int, key: bytes, first: int) -> None:
        def answer(validator: Validator) -> Effects:
            for raw in validator.batches(key, first, 64):
                self.send_batch(holder, index, raw)
            return Effects()

        self.send(index, holder, answer)

    def _ask_heights(self, index: int) -> None:
        """What a validator's shell does on and on: compare heights with the others, fetch what is missing."""
        self.at(self.now + ASK_EVERY_MS, lambda: self._ask_heights(index))
        if self.nodes[index].validator is None:
            return
        for other in self._others(index):
            self.send(index, other, partial(self._tell_heights, other, index))

    def _tell_heights(self, source: int, target: int, validator: Validator) -> Effects:
        heights = validator.heights()

        def compare(asking: Validator) -> Effects:
            for key, height in heights.items():
                held = asking.heights()[key]
                if height > held and key != self.keys[target].public:
                    self._fetch_batches(target, source, key, held + 1)
            ours = heights[self.keys[target].public]
            return asking.handle_height(self.keys[source].public, ours, self.now)

        self.send(source, target, compare)
        return Effects()

    # --- people -----------------------------------------------------------------------------------

    def spend(
        self, name: str, outs: Sequence[tuple[str, int]] = (), at: int | None = None, **more: Any
    ) -> SignedOperation:
        """The next SPEND of `name`, on the final head that one validator shows."""
        state = (self.alive[0] if at is None else self.validator(at)).state
        id_ = self.ids[name]
        account = state.accounts.get(id_) or accounts.unopened_account(self.network, inception_of(name))
        operation = accounts.spend(
            account,
            state.credits_of(id_),
            self.parameters,
            network=self.network,
            now_ms=self.now,
            outs=[(self.ids[to], amount) for to, amount in outs],
            inception=None if account.seq else inception_of(name),
            **more,
        )
        return self.known(sign_operation(operation, key_of(name)))

    def known(self, signed: SignedOperation) -> SignedOperation:
        self.auditor.knows(signed)
        return signed

    def submit(self, signed: SignedOperation, to: Sequence[int] | None = None) -> bytes:
        """A client hands an operation to validators; returns its id."""
        self.auditor.knows(signed)
        for index in range(len(self.nodes)) if to is None else to:
            validator = self.nodes[index].validator
            if validator is not None and not validator.halted:
                self.act(index, partial(validator.handle_operation, signed, self.now, "client"))
        return parse(signed).id

    def is_final(self, id_: bytes, at: Sequence[int] | None = None) -> bool:
        """Whether it is final at all (or at these) living validators."""
        which = range(len(self.nodes)) if at is None else at
        there = [self.nodes[i].validator for i in which]
        return all(validator.status(id_) == FINAL for validator in there if validator is not None)

    def decide(self, signed: SignedOperation, limit_ms: int = 60_000) -> int:
        """Submit to all and wait until it is final everywhere; returns how long that took."""
        id_ = self.submit(signed)
        return self.run_until(lambda: self.is_final(id_), limit_ms)

    def demand_equal(self) -> None:
        """Invariant 5: equal frontiers, equal roots."""
        roots = {validator.state.root() for validator in self.alive}
        demand(len(roots) == 1, "5: states differ")


__all__ = ["COMMIT", "Auditor", "Broken", "CommitteeWorld", "Faults", "MemoryJournal", "demand"]
