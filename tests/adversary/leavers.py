"""What a faulty member does at its epoch's end: HANDOFFs that are not what they should be, and COMMITTEEs.

All of it is signed and well formed: what it says is wrong, or is said twice, or is not said.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import msgspec

from ainp2p.errors import LedgerError
from ainp2p.ledger.rules.operations import (
    NextCommittee,
    Operation,
    Seat,
    SignedOperation,
    parse,
    sign_committee,
)
from ainp2p.ledger.voting.attachments import attachment_id
from ainp2p.ledger.voting.epochs import Closing
from ainp2p.ledger.voting.handoff import Head, Leaving, make_handoff, read_handoff
from ainp2p.ledger.voting.validator import Validator
from ainp2p.ledger.voting.votelog import HANDOFF, Handoff, handoff_entry, lock_entry, read_entry
from tests.adversary.marks import sometimes
from tests.adversary.world import Brain, World


class Leaver:
    """One faulty member's habits at the end of each epoch."""

    HABITS = ("two HANDOFFs", "a false frontier", "a HANDOFF withheld", "a bare HANDOFF", "false COMMITTEEs")

    def __init__(self, world: World, place: int, habits: list[str], rng: random.Random) -> None:
        self.world, self.place, self.habits, self.rng = world, place, habits, rng
        self._proposed: set[tuple[int, int]] = set()

    def speak(self, brain: Brain, validator: Validator, now: int) -> None:
        """Twist what is about to be signed."""
        entries = validator._log._entries
        for index, record in enumerate(list(entries)):
            if record[0] == HANDOFF:
                self._hand_over(brain, validator, entries, index)
        closing = validator._end.closing
        if "false COMMITTEEs" in self.habits and closing is not None and not validator._end.blind:
            self._propose(brain, validator, closing, now)

    # --- HANDOFFs ---------------------------------------------------------------------------------

    def _hand_over(self, brain: Brain, validator: Validator, entries: list[bytes], index: int) -> None:
        said = read_entry(entries[index])
        assert isinstance(said, Handoff)
        raw = validator.attachment(said.digest)
        if raw is None:
            return
        frontier = dict(validator.own_frontier())
        self.world.auditor.closings.frontiers.setdefault(said.digest, dict(frontier))
        if "a HANDOFF withheld" in self.habits:
            sometimes("a HANDOFF is withheld")
            validator._archive._pushed.clear()
            del entries[index]
            return
        if "a false frontier" in self.habits:
            entries[index] = handoff_entry(self._sign(brain, validator, self._falsified(validator, frontier)))
            sometimes("a frontier is false")
        elif "a bare HANDOFF" in self.habits and read_handoff(raw).prepared:
            entries[index] = handoff_entry(self._sign(brain, validator, frontier))
            sometimes("a HANDOFF hides what is prepared")
        if "two HANDOFFs" in self.habits:
            frontier.pop(self.rng.choice(sorted(frontier)), None) if frontier else None
            entries.insert(
                index + self.rng.randint(0, 1), handoff_entry(self._sign(brain, validator, frontier))
            )
            sometimes("two HANDOFFs of one member")

    def _falsified(self, validator: Validator, frontier: dict[bytes, Head]) -> dict[bytes, Head]:
        """With an operation that is not decided, or without one that is."""
        rivals = [c for c in validator._table.candidates.values() if c.parsed is not None]
        if rivals and self.rng.random() < 0.7:
            operation = self.rng.choice(rivals)
            assert operation.parsed is not None
            return {**frontier, operation.parsed.operation.object: (operation.slot[1], operation.id)}
        less = sorted(frontier)[: self.rng.randint(0, len(frontier))]
        return {id_: frontier[id_] for id_ in less}

    def _sign(self, brain: Brain, validator: Validator, frontier: dict[bytes, Head]) -> bytes:
        """A HANDOFF with this frontier and nothing prepared; returns its id."""
        key, leaving = self.world.keys[self.place], Leaving(frontier, {}, {})
        network, members = self.world.network, len(validator.committee.keys)
        height = validator._log.height
        (raw,) = make_handoff(network, validator.epoch, key.public, height, members, leaving, key)
        id_ = attachment_id(raw)
        brain.frontiers[id_] = frontier
        brain.told[id_] = raw
        self.world.auditor.attached(raw)
        self.world.auditor.closings.frontiers[id_] = dict(frontier)
        self.world.push(brain, partial(self.world._take_attachment, raw, f"validator {self.place}"))
        return id_

    # --- COMMITTEEs -------------------------------------------------------------------------------

    def _propose(self, brain: Brain, validator: Validator, closing: Closing, now: int) -> None:
        if (id(validator), validator.epoch) in self._proposed or not validator.voting:
            return
        end, committee = validator._end, validator.committee
        if committee.weight_of(closing.usable) < committee.quorum:
            return  # said here too, for a mutant in which the library does not say it
        signed = closing.propose(
            self.world.keys[self.place],
            validator.state,
            list(end._recent),
            end._evidence,
            validator.attachment,
            now,
        )
        if signed is None:
            return
        self._proposed.add((id(validator), validator.epoch))
        operation = parse(signed).operation
        assert isinstance(operation.body, NextCommittee)
        changes: list[Callable[[NextCommittee], NextCommittee]] = [
            self._leave_one_out,
            self._weigh_more,
            self._private_set,
            self._other_root,
        ]
        if set(self._waived(validator)) - {seat.key for seat in operation.body.seats}:
            changes.append(partial(self._keep_a_seat, validator))
        for change in self.rng.sample(changes, 2):
            body = change(operation.body)
            if body.handoffs != operation.body.handoffs:
                body = self._with_root(validator, closing, body, now)
            if body != operation.body:
                self._submit(brain, validator, msgspec.structs.replace(operation, body=body), now)

    def _submit(self, brain: Brain, validator: Validator, operation: Operation, now: int) -> None:
        made: SignedOperation = sign_committee(operation, self.world.keys[self.place])
        parsed = self.world.auditor.knows(made)
        if parsed is None:  # nobody is left: that is malformed in itself
            return
        validator._log.add(lock_entry(0, parsed.id), now)
        brain.served[parsed.id] = made
        self.world.push(brain, partial(self.world._take_operation, made, f"validator {self.place}"))

    def _leave_one_out(self, body: NextCommittee) -> NextCommittee:
        """Somebody's seat is gone."""
        others = [seat for seat in body.seats if seat.key != self.world.keys[self.place].public]
        out = self.rng.choice(others)
        sometimes("a COMMITTEE leaves one out")
        return msgspec.structs.replace(body, seats=tuple(seat for seat in body.seats if seat != out))

    def _weigh_more(self, body: NextCommittee) -> NextCommittee:
        """Its own seat weighs ten times as much."""
        own = self.world.keys[self.place].public
        seats = tuple(
            msgspec.structs.replace(seat, weight=10 * seat.weight) if seat.key == own else seat
            for seat in body.seats
        )
        sometimes("a COMMITTEE gives a false weight")
        return msgspec.structs.replace(body, seats=seats)

    def _waived(self, validator: Validator) -> dict[bytes, int]:
        """Who has given up what: bonds that pay the System."""
        network, first = self.world.network, {m.key: m.weight for m in self.world.genesis.validators}
        paying = [
            lock.closer
            for lock in validator.state.locks.values()
            if not lock.ended and [share.account for share in lock.beneficiaries] == [network]
        ]
        return {key: first[key] for key in paying if key in first}

    def _keep_a_seat(self, validator: Validator, body: NextCommittee) -> NextCommittee:
        """Somebody who has given its seat up has it again."""
        waived, taken = self._waived(validator), {seat.key for seat in body.seats}
        key = self.rng.choice(sorted(set(waived) - taken))
        sometimes("a COMMITTEE keeps a seat that was given up")
        seats = (*body.seats, Seat(key, waived[key], ()))
        return msgspec.structs.replace(body, seats=tuple(sorted(seats, key=lambda seat: seat.key)))

    def _private_set(self, body: NextCommittee) -> NextCommittee:
        """HANDOFFs of less than a quorum: as few as suit it."""
        sometimes("a COMMITTEE names a private set of HANDOFFs")
        return msgspec.structs.replace(body, handoffs=body.handoffs[: len(body.handoffs) // 2 or 1])

    def _with_root(
        self, validator: Validator, closing: Closing, body: NextCommittee, now: int
    ) -> NextCommittee:
        """The same with the root that its HANDOFFs lead to, if the library lets one reckon it."""
        usable = {checked.id: checked for checked in closing._all_usable()}
        try:
            verdict = closing._united([usable[id_] for id_ in body.handoffs])
            recent = list(validator._end._recent)
            root, _ = closing._after(verdict, validator.state, recent, set(body.offenders), now)
        except LedgerError:
            return body
        return msgspec.structs.replace(body, state_root=root)

    def _other_root(self, body: NextCommittee) -> NextCommittee:
        """The state root of something else."""
        sometimes("a COMMITTEE carries a false root")
        return msgspec.structs.replace(body, state_root=self.rng.randbytes(32))


__all__ = ["Leaver"]
