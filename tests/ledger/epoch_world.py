"""A committee in virtual time whose epochs change: with followers that may get a seat, and its auditor.

Whatever shells do is done here by hand: HANDOFFs' frontiers are compared, decided operations are fetched with
their certificates, and who is in an earlier epoch is told what was decided since.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.rules.genesis import DEVELOPMENT, Genesis, Parameters
from ainp2p.ledger.rules.operations import NextCommittee, ParsedOperation
from ainp2p.ledger.voting.certificate import read_certificate
from ainp2p.ledger.voting.effects import Effects
from ainp2p.ledger.voting.handoff import read_handoff
from ainp2p.ledger.voting.validator import Validator
from ainp2p.ledger.voting.votelog import Commit, Handoff, Lock, VoteBatch, read_entries
from ainp2p.protocol.identity import Key

from .committee_world import Auditor, CommitteeWorld, MemoryJournal, Node, demand
from .world import key_of

EPOCH_MS = 15_000
SHORT_EPOCHS = msgspec.structs.replace(DEVELOPMENT, epoch_ms=EPOCH_MS, vote_timeout_ms=1_000)


class OneEpoch(Auditor):
    """What is demanded of one epoch's votes."""

    def __init__(self, genesis: Genesis, epoch: int, committee: Committee, whole: EpochAuditor) -> None:
        super().__init__(genesis)
        self.epoch, self.committee, self.whole = epoch, committee, whole
        self.operations, self.ask, self.cheats = whole.operations, whole.ask, whole.cheats
        self.handed: dict[int, bytes] = {}
        self.inherited: dict[tuple[bytes, int], bytes] = {}  # slot → what it starts with at view 1

    def sees_batch(self, batch: VoteBatch, journal: MemoryJournal) -> None:
        for entry in read_entries(batch.entries):
            if isinstance(entry, Handoff):
                demand(batch.member not in self.handed, "two HANDOFFs")
                self.handed[batch.member] = entry.digest
            elif isinstance(entry, Lock | Commit) and batch.member in self.handed:
                operation = self.operation(entry.operation)
                demand(
                    operation.object == self.genesis.network_id,
                    "a vote on an ordinary slot after one's HANDOFF",
                )
        super().sees_batch(batch, journal)

    def is_justified(self, entry: Lock) -> bool:
        operation = self.operation(entry.operation)
        begun = self.inherited.get((operation.object, operation.seq))
        demand(begun is None or entry.view > 0, "a LOCK in view 0 of a slot that starts at view 1")
        # All that is proposed there follows from NEWVIEWs that report what the slot began with.
        demand(
            begun in (None, entry.operation), "another LOCK than what a slot that starts at view 1 began with"
        )
        if entry.view == 1 and entry.justification is None:
            return entry.operation == begun and self.whole.was_locked(entry.operation, self.epoch)
        return super().is_justified(entry)


class EpochAuditor(Auditor):
    """All epochs together: one operation is decided in each slot, whatever the epoch."""

    def __init__(self, genesis: Genesis) -> None:
        super().__init__(genesis)
        self.epochs = {0: OneEpoch(genesis, 0, self.committee, self)}
        self.ask_attachment: Callable[[bytes], bytes | None] = lambda id_: None

    def sees_batch(self, batch: VoteBatch, journal: MemoryJournal) -> None:
        self.epochs[batch.header.epoch].ask = self.ask
        self.epochs[batch.header.epoch].sees_batch(batch, journal)

    def sees_final(self, parsed: ParsedOperation) -> None:
        super().sees_final(parsed)
        body = parsed.operation.body
        if isinstance(body, NextCommittee) and body.epoch not in self.epochs:
            committee = Committee.of_seats(body.seats)
            self.epochs[body.epoch] = OneEpoch(self.genesis, body.epoch, committee, self)
            handed = set(self.epochs[body.epoch - 1].handed.values())
            demand(set(body.handoffs) <= handed, "a COMMITTEE of HANDOFFs that nobody signed")
            self._inherit(body)

    def _inherit(self, body: NextCommittee) -> None:
        """What its HANDOFFs leave prepared, in slots that nobody has decided: the auditor's own reckoning."""
        highest: dict[tuple[bytes, int], tuple[int, int, bytes]] = {}
        for raw in filter(None, map(self.ask_attachment, body.handoffs)):
            for held in read_handoff(raw).prepared:
                certificate = read_certificate(held.certificate)
                found = certificate.epoch, certificate.view, certificate.operation
                slot = held.object, held.seq
                highest[slot] = max(found, highest.get(slot, (0, -1, b"")))
        epoch = self.epochs[body.epoch]
        epoch.inherited = {slot: found[2] for slot, found in highest.items() if slot not in self.decided}

    def was_locked(self, operation: bytes, before: int) -> bool:
        """Whether an operation can have been prepared in an earlier epoch."""
        return any(
            each.committee.weight_of(members) >= each.committee.minority
            for epoch, each in self.epochs.items()
            if epoch < before
            for (_, id_), members in each.locked_by.items()
            if id_ == operation
        )


class EpochWorld(CommitteeWorld):
    """n validators, followers behind them, and epochs of a quarter of a minute."""

    def __init__(
        self,
        weights: Sequence[int] = (1, 1, 1, 1),
        names: Sequence[str] = ("alice", "bob", "carol"),
        seed: int = 0,
        parameters: Parameters = SHORT_EPOCHS,
        followers: int = 0,
    ) -> None:
        super().__init__(weights, names, seed, parameters)
        self.auditor: EpochAuditor = EpochAuditor(self.genesis)
        self.auditor.ask = self._find_operation
        self.auditor.ask_attachment = self._find_attachment
        for number in range(followers):
            self._add_follower(key_of(f"follower {number}"))

    def _find_attachment(self, id_: bytes) -> bytes | None:
        return next((found for v in self.alive if (found := v.attachment(id_)) is not None), None)

    def _add_follower(self, key: Key) -> None:
        index = len(self.nodes)
        self.keys.append(key)
        self.committee.index[key.public] = index  # only as the way from a key to its node
        self.finals.append([])
        self.nodes.append(Node(index, MemoryJournal(self.genesis)))
        self.start(index)
        self.at(self.now, partial(self._ask_heights, index))

    def start(self, index: int) -> Validator:
        node = self.nodes[index]
        validator = Validator(self.keys[index], self.genesis, node.journal.state(), node.journal, follow=True)
        node.validator = validator
        self._schedule(node, validator)
        return validator

    def act(self, index: int, step: Callable[[], Effects]) -> Effects:
        effects = super().act(index, step)
        for wanted in effects.certain:
            for holder in map(self.committee.index.__getitem__, wanted.holders):
                self.send(index, holder, partial(self._answer_certain, holder, index, wanted.id))
        for frontier in effects.frontiers:
            holder = self.committee.index[frontier.member]
            self.send(index, holder, partial(self._answer_frontier, holder, index, frontier.handoff))
        return effects

    def _answer_certain(self, holder: int, index: int, id_: bytes, validator: Validator) -> Effects:
        signed, certificate = validator.operation(id_), validator.certificate(id_)
        if signed is not None and certificate is not None:
            self.send(holder, index, lambda v: v.handle_decided(signed, certificate, self.now))
        elif signed is not None:
            self.send_operation(holder, index, signed)
        return Effects()

    def _answer_frontier(self, holder: int, index: int, handoff: bytes, validator: Validator) -> Effects:
        theirs = validator.frontier(handoff)
        if theirs is None:
            return Effects()

        def compare(asking: Validator) -> Effects:
            mine = asking.own_frontier()
            differing = {
                o: theirs.get(o, (0, o)) for o in sorted({*mine, *theirs}) if mine.get(o) != theirs.get(o)
            }
            return asking.handle_frontier(handoff, differing, self.now)

        self.send(holder, index, compare)
        return Effects()

    def _tell_heights(self, source: int, target: int, validator: Validator) -> Effects:
        heights, epoch = validator.heights(), validator.epoch

        def compare(asking: Validator) -> Effects:
            if asking.epoch != epoch or not asking.voting:
                self._tell_decided(source, target)
            if asking.epoch != epoch:
                return Effects()
            own = self.keys[target].public
            for key, height in heights.items():
                held = asking.heights()[key]
                if height > held and key != own:
                    self._fetch_batches(target, source, key, held + 1)
            key = self.keys[source].public
            if key not in asking.committee.index or own not in heights:
                return Effects()
            return asking.handle_height(key, heights[own], self.now, epoch)

        self.send(source, target, compare)
        return Effects()

    def _tell_decided(self, source: int, target: int) -> None:
        """What one has decided and another lacks, in the order in which it was applied."""
        teller, asking = self.nodes[source].validator, self.nodes[target].validator
        if teller is None or asking is None:
            return
        known = {parsed.id for parsed in self.nodes[target].journal.order}
        for parsed in self.nodes[source].journal.order:
            certificate = teller.certificate(parsed.id)
            if parsed.id not in known and certificate is not None:
                self.send(source, target, partial(self._take_decided, parsed, certificate))

    def _take_decided(self, parsed: ParsedOperation, certificate: bytes, asking: Validator) -> Effects:
        return asking.handle_decided(parsed.signed, certificate, self.now)

    # --- looking --------------------------------------------------------------------------------

    @property
    def epochs(self) -> list[int]:
        """The epoch of each that lives."""
        return [validator.epoch for validator in self.alive]

    def turn(self, epoch: int, limit_ms: int = 120_000) -> int:
        """Wait until everybody that lives has entered this epoch."""
        return self.run_until(lambda: min(self.epochs) >= epoch, limit_ms)


__all__ = ["EPOCH_MS", "EpochAuditor", "EpochWorld"]
