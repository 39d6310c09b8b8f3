"""One candidate's way through a validator: from its arrival, or its first vote, to its effect. No I/O.

    named (by votes) ─┐
    waiting (NotYet) ─┴─► valid ──LOCK──► prepared ──COMMIT──► final ──► applied

LEDGER.md, "Deciding a slot", steps 1 and 2; what follows when a slot is contested is in `contending`. The
`Validator` feeds it operations, batches that are in their place, and time; it adds entries to the own log
and things to write to the `Archive`.
"""

from __future__ import annotations

from collections import deque

from ainp2p.errors import BadSignature, InvalidOperation, LedgerError, NotYet
from ainp2p.ledger.rules.operations import Operation, ParsedOperation, Spend, Void
from ainp2p.ledger.rules.state import Undo, is_gated
from ainp2p.ledger.voting.collector import Collector, counted_votes
from ainp2p.ledger.voting.contending import Contention
from ainp2p.ledger.voting.desk import Desk
from ainp2p.ledger.voting.effects import Effects, Evidence, Final, Push, Wanted
from ainp2p.ledger.voting.evidence import Offence, first_operation
from ainp2p.ledger.voting.handoff import commits_max
from ainp2p.ledger.voting.slot import Candidate, Slot
from ainp2p.ledger.voting.votelog import COMMIT, VoteBatch, commit_entry, lock_entry

WANT_AFTER_MS = 50  # a vote may overtake its operation; then ask, then less and less often
WANT_AGAIN_MS_MAX = 10_000

# `State.check` looks at the proof only of an operation whose object and slot are there.
_BEFORE_PROOF = frozenset({"unknown-account", "unknown-lock", "sequence-ahead"})


class Decider:
    """All candidates of one validator, and what it does about them.

    Attributes:
        contention: its contested slots.
        collector: finds evidence in what comes in.
        broken: None, or how two operations came to be decided in one slot.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._committee, self._state, self._parameters = desk.committee, desk.state, desk.parameters
        self._log, self._archive, self._limits = desk.log, desk.archive, desk.limits
        self.table, self.receipts, self.contact, self.room = (
            desk.table,
            desk.receipts,
            desk.contact,
            desk.room,
        )
        self.contention = Contention(desk)
        self.collector = Collector(
            desk.committee,
            desk.state.network,
            epoch=desk.epoch,
            votes=counted_votes(desk.table),
            batch=desk.archive.batch,
            key_of=self._owner_of,
        )
        self.broken: str | None = None
        self._postponed: deque[Candidate] = deque()  # COMMITs of which there are too many
        self._commits_max = commits_max(len(desk.committee.keys))

    # --- what comes in --------------------------------------------------------------------------

    def take_operation(self, parsed: ParsedOperation, source: str, now: int, out: Effects) -> None:
        """An operation from somebody; a repeat changes nothing.

        Raises:
            LedgerError, BadSignature: why it is not kept.
        """
        candidate = self.table.candidates.get(parsed.id)
        if candidate is not None and candidate.parsed is not None:
            self._take_proof(candidate, parsed)
        elif candidate is not None and self._is_lost(parsed, candidate):
            raise InvalidOperation("sequence", "another operation was decided in its slot")
        elif not self._was_decided(parsed):
            self._hold(parsed, candidate, source, now, out)

    def take_decided(
        self, parsed: ParsedOperation, certificate: bytes, view: int, now: int, out: Effects
    ) -> None:
        """An operation that is final by a certificate, which was checked: it stands in for all votes."""
        candidate = self.table.hold(parsed)
        self.tell(self.collector.take_operation(parsed), out)
        candidate.certificate = certificate
        candidate.final = view if candidate.final is None else candidate.final
        self.room.work.append(candidate)

    def take_batch(self, batch: VoteBatch, now: int, out: Effects) -> None:
        """Votes of anybody, ourselves included, in the order of their log."""
        self.contact.heard(batch.member, batch.header.timestamp, now)
        self.tell(self.collector.take_batch(batch), out)
        counted = self.table.count(batch)
        for candidate in counted.named:
            candidate.ask_at = now + WANT_AFTER_MS
            self._desk.wake_at(candidate, candidate.ask_at)
        self.room.work.extend([candidate for candidate, _ in counted.prepared])
        self.room.work.extend([candidate for candidate, _ in counted.final])
        self.contention.take_batch(batch, now, out)

    def drain(self, now: int, out: Effects) -> None:
        """Take everything that was woken as far as it can go."""
        work, state, epoch = self.room.work, self._state, self._desk.epoch
        while work and state.epoch == epoch:  # else the next one is to be opened
            self._advance(work.popleft(), now, out)

    def clock_put_back(self, now: int) -> None:
        """Nothing waits for a time that was reckoned by the old clock; gates begin anew."""
        for candidate in self.table.candidates.values():
            candidate.ask_at = min(candidate.ask_at, now)
            if candidate.valid_since is not None:
                candidate.valid_since = min(candidate.valid_since, now)
        self.contact.clock_put_back(now)
        self.contention.clock_put_back(now)
        self.room.run_all_timers()

    def is_decided(self, id_: bytes) -> bool:
        """Whether this operation is final and applied here."""
        return self.table.was_decided(id_) or self._archive.find(id_) is not None

    def _was_decided(self, parsed: ParsedOperation) -> bool:
        """The same, and the disk is asked only if the operation's slot was decided."""
        operation = parsed.operation
        return self._state.head(operation.object)[0] >= operation.seq and self.is_decided(parsed.id)

    def _is_lost(self, parsed: ParsedOperation, named: Candidate) -> bool:
        """Whether votes name it whose slot was decided otherwise: then they are passed over from now on."""
        operation = parsed.operation
        if named.final is not None or self._state.head(operation.object)[0] < operation.seq:
            return False
        if self.is_decided(parsed.id):
            return False
        self.table.pass_over(named)
        return True

    def _hold(
        self, parsed: ParsedOperation, named: Candidate | None, source: str, now: int, out: Effects
    ) -> None:
        """Hold an operation that is new here (votes may have named it), or raise why not."""
        slot = self.table.slots.get((parsed.operation.object, parsed.operation.seq))
        if slot is not None:
            rivals = sum(rival.verified for rival in slot.candidates)
            wanted = named is not None and (named.holders or named.prepared is not None)
            if rivals >= self._limits.rivals_max and not wanted:
                raise InvalidOperation("contested", "its slot has enough candidates")
        candidate = self.table.hold(parsed)
        candidate.source = source
        if candidate.counts:  # valid or not: what matters is what its voters have LOCKed besides
            self.tell(self.collector.take_operation(parsed), out)
        problem = self._advance(candidate, now, out)
        if problem is not None:
            raise problem

    def _take_proof(self, candidate: Candidate, parsed: ParsedOperation) -> None:
        """A held operation once more, perhaps with another proof: proofs are no part of its id.

        While the first one's proof cannot be checked a few others are remembered, and a CLOSE that must wait
        for its Lock's expiry need not any more once its closer's signature comes: whoever is quicker with a
        worse proof delays nobody.
        """
        if not candidate.verified:
            known = [candidate.proof, *(other.signed for other in candidate.proofs)]
            if parsed.signed not in known:
                candidate.proofs = (*candidate.proofs[-self._limits.proofs_max + 1 :], parsed)
        elif candidate.proof.closer is None and parsed.signed.closer is not None:
            self._state.verify_proof(parsed)
            candidate.parsed = parsed
            self.room.work.append(candidate)

    # --- its way --------------------------------------------------------------------------------

    def _advance(self, candidate: Candidate, now: int, out: Effects) -> Exception | None:
        """Take a candidate as far as it can go now; returns why it was let go, if it was."""
        if self.table.candidates.get(candidate.id) is not candidate:
            return None  # decided or dropped meanwhile
        if candidate.parsed is None:
            self._want(candidate, now, out)
            return None
        if candidate.final is not None:
            self._apply(candidate, candidate.final, now, out)
            return None
        if candidate.prepared is not None:
            self.room.free_place(candidate)
            slot = self.table.slots[candidate.slot]
            self._commit(candidate, slot, candidate.prepared, now)
            if candidate.verified:
                if slot.contest is not None:
                    self.contention.review(candidate.slot, now, out)
                return None
        return self._check(candidate, now, out)

    def _review(self, candidate: Candidate, now: int, out: Effects) -> None:
        """It has come, or is prepared: a proposal, or a leader, may wait for just that."""
        slot = self.table.slot_of(candidate)
        if slot.contest is not None:
            self.contention.review(candidate.slot, now, out)

    def _check(self, candidate: Candidate, now: int, out: Effects) -> Exception | None:
        """Look at validity, and LOCK if it is time."""
        parsed = candidate.parsed
        assert parsed is not None
        if isinstance(parsed.operation.body, Void):
            return self._check_void(candidate, now, out)
        try:
            candidate.changes = self._state.check(parsed, now, proof_verified=candidate.verified)
        except NotYet as exc:
            candidate.verified = candidate.verified or exc.rule not in _BEFORE_PROOF
            self._learn_receipt(candidate, parsed)
            problem = self._wait(candidate, parsed, exc)
            if problem is None:
                self._review(candidate, now, out)
            return problem
        except BadSignature as exc:
            return self._try_next_proof(candidate, exc, now, out)
        except LedgerError as exc:
            self._learn_receipt(candidate, parsed)
            return self._let_go(candidate, exc)
        self.room.leave(candidate)
        if candidate.valid_since is None:
            candidate.verified, candidate.valid_since = True, now
            out.operations.append(Push(parsed, candidate.source))
            self.tell(self.collector.take_operation(parsed), out)
        self._learn_receipt(candidate, parsed)
        slot = self.table.slot_of(candidate)
        if self._desk.votes_on(candidate.slot[0]):
            self._lock(candidate, slot, now, out)
            if (
                candidate.rivals
                and not slot.timed
                and sum(c.valid_since is not None for c in slot.candidates) > 1
            ):
                self.contention.start_timer(candidate.slot, slot, now)
        if slot.contest is not None:
            self.contention.review(candidate.slot, now, out)
        return None

    def _check_void(self, candidate: Candidate, now: int, out: Effects) -> Exception | None:
        """A VOID is nobody's to submit; one that members have voted for is kept to see what becomes of it."""
        if candidate.counts or candidate.holders:
            self._review(candidate, now, out)
            return None
        return self._let_go(candidate, InvalidOperation("void", "follows from two operations, or not at all"))

    def _lock(self, candidate: Candidate, slot: Slot, now: int, out: Effects) -> None:
        """Step 1: at most one LOCK, priority and gates observed.

        Lemma L2 (docs/ledger-proof.md): view 0 is open only while nothing was said there.
        """
        parsed = candidate.parsed
        assert parsed is not None
        if 0 in slot.locked or slot.committed or slot.promised:
            return
        lock = self._state.locks.get(parsed.operation.object)
        if lock is not None and not self.receipts.allow(lock, parsed):
            self._offer(lock.id, now, out)
            return
        if is_gated(parsed):
            opens = self._desk.gate_opens(candidate, now)
            if opens > now:
                self._desk.wake_at(candidate, opens)
                return
        slot.lock(0, candidate.id)
        self._log.add(lock_entry(0, candidate.id), now)
        self._archive.keep(candidate)
        self.contention.start_timer(candidate.slot, slot, now)

    def _commit(self, candidate: Candidate, slot: Slot, view: int, now: int) -> None:
        """Step 2: "a quorum of LOCK(v, x) is a prepared certificate; on it: COMMIT(v, x)".

        Lemma L5 (docs/ledger-proof.md): COMMIT on a prepared certificate only.
        """
        if not self._desk.votes_on(candidate.slot[0]):
            return
        # More could not be handed over at the epoch's end (`handoff`).
        if self.table.open_commits >= self._commits_max:
            self._postponed.append(candidate)
            return
        if self.table.commit(candidate, slot, view):
            self._log.add(commit_entry(view, candidate.id), now)
            self._archive.keep_commit(candidate)
            if candidate.shown is not None:
                self.contention.exhibits.keep_shown(candidate, view)
                self.contention.start_timer(candidate.slot, slot, now)

    def _apply(self, candidate: Candidate, view: int, now: int, out: Effects) -> None:
        """Step 2: "final. Apply, once the dependencies are applied".

        Lemma L5 (docs/ledger-proof.md): two final operations in one slot mean that the assumption is broken.
        """
        parsed = candidate.parsed
        assert parsed is not None
        if self._state.system.closed and self._desk.holds_back(candidate, now):
            return
        undos: list[Undo] | None = [] if self._desk.collects() else None
        try:
            changes = self._state.apply(parsed, candidate.changes, undos)
        except NotYet as exc:
            self.room.block(candidate, self._key_of(parsed, exc.rule))
            return
        except LedgerError as exc:
            self.broken = (
                f"a final operation cannot be applied ({exc}): more than 1/3 of the weight is faulty"
            )
            return
        places = () if candidate.certificate else self.table.places(candidate, COMMIT, view)
        self._archive.add_decided(candidate, changes, places, now)
        self.collector.forget(candidate.slot)
        for gone in (candidate, *self.table.decide(candidate)):
            self.room.leave(gone)
        out.finals.append(Final(parsed, view))
        if undos is not None:
            self._desk.applied(parsed, undos)
        if self._postponed:
            self.room.work.append(self._postponed.popleft())
        if self.room.is_anybody_blocked:
            self.room.wake(parsed.operation.object)
            self.room.wake(_slot_key(parsed.operation.object, parsed.operation.seq))
            self.room.wake(candidate.id)
        following = self.table.slots.get((parsed.operation.object, parsed.operation.seq + 1))
        if following is not None and following.contest is not None:
            self.contention.review((parsed.operation.object, parsed.operation.seq + 1), now, out)
        for lock in changes.locks:
            if lock.id == parsed.operation.object:
                self.receipts.forget(lock)
                self._offer(lock.id, now, out)
            else:
                self.room.wake(lock.id)

    def _must_keep(self, candidate: Candidate) -> bool:
        """Whether its bytes stay, valid or not: others expect them of us, and after a restart so do we."""
        # "a prepared certificate stands in for one's own validation"; so did a justification when we LOCKed.
        return candidate.prepared is not None or candidate.id in self.table.slot_of(candidate).locked.values()

    def _let_go(self, candidate: Candidate, problem: Exception) -> Exception | None:
        """Forget an operation that cannot be voted for; votes of others for it stay counted."""
        if self._must_keep(candidate):
            self.room.free_place(candidate)
            return None
        self.room.leave(candidate)
        object_, seq = candidate.slot
        if self._state.head(object_)[0] >= seq:
            self.table.pass_over(candidate)
            return problem
        self.table.let_go(candidate)
        candidate.valid_since = None
        if isinstance(problem, BadSignature) and candidate.counts:  # others may have it with a good proof
            self._desk.wake_at(candidate, candidate.ask_at)
        return problem

    def _try_next_proof(
        self, candidate: Candidate, problem: BadSignature, now: int, out: Effects
    ) -> Exception | None:
        if candidate.proofs:
            candidate.parsed, candidate.proofs = candidate.proofs[-1], candidate.proofs[:-1]
            return self._check(candidate, now, out)
        return self._let_go(candidate, problem)

    # --- receipts ---------------------------------------------------------------------------------

    def _learn_receipt(self, candidate: Candidate, parsed: ParsedOperation) -> None:
        lock = self._state.locks.get(parsed.operation.object)
        if lock is None:
            return
        held = self.receipts.learn(lock, parsed, verified=candidate.verified)
        if held is not None:
            self._archive.keep(candidate)
            held.segment = candidate.segment

    def _offer(self, lock_id: bytes, now: int, out: Effects) -> None:
        """Submit the highest receipt held for a Lock, unless its slot has an operation that is as high."""
        lock = self._state.locks[lock_id]
        offered = self.receipts.offer(lock, now)
        if offered is None or not self._desk.votes_on(lock_id):
            return
        slot = self.table.slots.get((lock_id, lock.seq + 1))
        rivals = slot.candidates if slot is not None else []
        if any(rival.parsed is not None and self.receipts.allow(lock, rival.parsed) for rival in rivals):
            return
        candidate = self.table.hold(offered)
        self.room.work.append(candidate)

    # --- waiting ----------------------------------------------------------------------------------

    def _wait(self, candidate: Candidate, parsed: ParsedOperation, reason: NotYet) -> Exception | None:
        """Keep a candidate until what it lacks is there; returns why it is let go instead."""
        operation = parsed.operation
        key = self._key_of(parsed, reason.rule)
        spent = reason.rule == "unknown-credit" and key != operation.object and self._made_its_credits(key)
        never = reason.rule == "epoch-ahead" and not self._is_of_next_epoch(operation)
        if never or spent:
            return self._let_go(candidate, InvalidOperation(reason.rule, "and never will be"))
        if not self._must_keep(candidate):
            try:
                oldest = self.room.enter(candidate)
            except NotYet as busy:
                return self._let_go(candidate, busy)
            if oldest is not None:
                self._let_go(oldest, reason)
        if reason.rule == "clock-ahead":
            assert operation.timestamp is not None
            self._desk.wake_at(candidate, operation.timestamp - self._parameters.clock_ahead_ms)
        elif reason.rule in ("not-expired", "epoch-running"):
            self._desk.wake_at(candidate, self._state.not_before(operation))
        else:
            self.room.block(candidate, key)
        return None

    def _key_of(self, parsed: ParsedOperation, rule: str) -> bytes:
        """What an operation waits for: one whose credit it lacks, the slot before its own, or its object.

        Not the object where a slot will do: junk far ahead of it would be looked at with each decision.
        """
        operation, body = parsed.operation, parsed.operation.body
        if rule == "unknown-credit" and isinstance(body, Spend):
            return next(id_ for id_ in body.credits if id_ not in self._state.credits)[:32]
        if rule == "epoch-ahead":
            return self._state.network  # the System's id: the next COMMITTEE wakes it
        if rule == "sequence-ahead":
            return _slot_key(operation.object, operation.seq - 1)
        return operation.object

    def _is_of_next_epoch(self, operation: Operation) -> bool:
        body = operation.body
        return isinstance(body, Spend) and body.epoch == self._state.epoch + 1

    def _made_its_credits(self, maker: bytes) -> bool:
        """Whether all credits that this operation (or the genesis) makes have been there."""
        return maker == self._state.network or self.is_decided(maker)

    def _want(self, candidate: Candidate, now: int, out: Effects) -> None:
        """Ask for an operation that is only named, unless it was decided long ago."""
        if now < candidate.ask_at:
            return
        if self._archive.find(candidate.id) is not None:
            self.table.drop(candidate)
            self.table.remember(candidate.id)
            return
        out.wanted.append(Wanted(candidate.id, self._desk.keys_of(candidate.voters())))
        candidate.asked += 1
        candidate.ask_at = now + min(WANT_AFTER_MS << min(candidate.asked, 10), WANT_AGAIN_MS_MAX)
        self._desk.wake_at(candidate, candidate.ask_at)

    # --- evidence ---------------------------------------------------------------------------------

    def restored(self) -> None:
        """The table was filled from the disk: evidence goes on from there."""
        for candidate in list(self.table.candidates.values()):
            if candidate.parsed is not None:
                self.tell(self.collector.take_operation(candidate.parsed), Effects())

    def tell(self, found: list[Evidence], out: Effects) -> None:
        """Keep and spread evidence."""
        for evidence in found:
            self._archive.add_evidence(evidence, out)

    def learn(self, evidence: Evidence, offence: Offence, out: Effects) -> None:
        """Evidence that somebody else found, judged: kept and spread as if it were our own.

        Raises:
            InvalidOperation: ``"evidence"``: against a key that owns nothing here; anybody can make such.
        """
        if not offence.by_validator and self._key_now(first_operation(evidence)) != offence.culprit:
            raise InvalidOperation("evidence", "against a key that owns no account here")
        self.collector.found.add(offence)
        self.tell([evidence], out)

    def _key_now(self, operation: Operation) -> bytes | None:
        """The current key of the account that a SPEND names; its first one shows it by itself."""
        account = self._state.accounts.get(operation.object)
        if account is not None:
            return account.key
        body = operation.body
        granted = self._state.count_credits(operation.object) > 0
        return body.inception.key if granted and isinstance(body, Spend) and body.inception else None

    def _owner_of(self, parsed: ParsedOperation) -> bytes | None:
        """The key that signs for the operation's account, if the operation follows its head."""
        account = self._state.accounts.get(parsed.operation.object)
        follows = account is not None and account.head == parsed.operation.previous
        return account.key if account is not None and follows else None


def _slot_key(object_: bytes, seq: int) -> bytes:
    """What stands for "this slot was decided" in the waiting room; longer than any id."""
    return object_ + seq.to_bytes(8, "big")
