"""A validator's core: operations and vote batches in, votes and final operations out. No I/O of its own.

It checks operations against the `State`, votes in view 0, counts everybody's votes, applies what is final,
and writes through a `Journal` before it lets a vote be seen. Give every method the time (ms since 1970):

    handle_operation(signed, now, source) → Effects   from a wallet or a peer; `source` names whose quota
    handle_batch(raw, now)                → Effects   from anybody: it is signed
    handle_height(member, height, now)    → Effects   how many of OUR batches this member holds
    tick(now)                             → Effects   call it when `due` (ms, maybe past) has come
    seal(now) → Records | None, then journal.write(records), then release(records, now) → Effects
                                          what `tick` does inline, for shells that write in a thread

    status(id), operation(id), certificate(id), heights(), batches(member, first), statistics()

What an operation goes through:

    named (by votes) ─┐
    waiting (NotYet) ─┴─► valid ──LOCK──► prepared ──COMMIT──► final ──► applied

**fsync, then send.** Own votes count, here too, only once they are on disk. A final operation is announced
before it is: its certificate proves it, and each COMMIT in it is on its signer's disk.

**Starting.** A validator that forgot its votes must not vote again, so it is silent until members that make a
quorum with it have said how many of its batches they hold (`handle_height`). Whoever claims more has to
show one (`gaps` asks for it); if that bears our signature we are `behind` and stay silent for this epoch.

**This release** votes in view 0 only: a slot in which no operation gets a quorum (its owner signed two) stays
undecided; nobody else's account is affected. Votes carry (epoch, view), so view changes are an addition.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass

from ainp2p.errors import BadSignature, InvalidOperation, LedgerError, NotYet, RemoteError, StorageError
from ainp2p.ledger.certificate import Place, build_certificate
from ainp2p.ledger.committee import Committee
from ainp2p.ledger.contact import Contact
from ainp2p.ledger.effects import (
    TWO_BATCHES,
    TWO_LOCKS,
    TWO_OPERATIONS,
    Effects,
    Evidence,
    Final,
    Found,
    Gap,
    Journal,
    Push,
    Record,
    Records,
    Wanted,
)
from ainp2p.ledger.genesis import Genesis
from ainp2p.ledger.operations import ParsedOperation, SignedOperation, Signer, Spend, parse
from ainp2p.ledger.priority import HeldReceipt, HeldReceipts
from ainp2p.ledger.slot import Candidate, VoteTable
from ainp2p.ledger.state import State, is_gated
from ainp2p.ledger.store import Decided
from ainp2p.ledger.votelog import (
    COMMIT,
    ENTRIES_MAX,
    LOCK,
    Chain,
    Header,
    OwnLog,
    VoteBatch,
    commit_entry,
    lock_entry,
    open_batch,
    peek_header,
    reopen_batch,
)
from ainp2p.protocol.codec import encode

WANT_AFTER_MS = 50  # a vote may overtake its operation; then ask, then less and less often
WANT_AGAIN_MS_MAX = 10_000
GAP_AGAIN_MS = 1_000
WRITE_AFTER_MS = 1_000  # what nobody waits for: finals, others' batches
UNSAVED_MAX = 2_048  # finals, or others' batches; then write at once. A few large writes touch fewer pages
FLOORS_EVERY = 16  # writes of everything; between them a restart reads more than it needs
OLD_AFTER = 256  # writes; operations that are still needed then are written again, so that floors move on
CULPRITS_MAX = 4_096  # evidence beyond that many is not kept
CACHED_BATCHES = 64  # parsed, for certificates

UNKNOWN, SEEN, LOCKED, FINAL = range(4)  # grades; LEDGER.md: "A caller sees three"

# `State.check` looks at the proof only of an operation whose object and slot are there.
_BEFORE_PROOF = frozenset({"unknown-account", "unknown-lock", "sequence-ahead"})


@dataclass(frozen=True, slots=True)
class Limits:
    """What others can make a validator remember."""

    owed_max: int = 32_768  # counts opened by one member's votes; more of its batches wait
    waiting_max: int = 4_096  # operations that are not valid yet and that nobody voted for
    waiting_max_per_source: int = 256
    rivals_max: int = 4  # operations held for one slot
    proofs_max: int = 4  # further proofs kept for an operation whose proof cannot be checked yet
    decided_max: int = 65_536  # ids of decided operations kept in memory


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a validator says of itself."""

    decided: int
    candidates: int
    waiting: int
    height: int
    behind: bool
    voting: bool
    halted: str | None
    evidence: int


class Validator:
    """One member of the committee; see the module's text.

    Attributes:
        state: the ledger, as far as it is decided and applied here.
        behind: others hold votes of ours that we do not know: we cast none.
        halted: None, or why nothing is handled any more (the disk failed, or two operations were decided
            in one slot); reading goes on.
    """

    def __init__(
        self,
        signer: Signer,
        genesis: Genesis,
        state: State,
        journal: Journal,
        *,
        limits: Limits | None = None,
    ) -> None:
        """Go on from what `state` (of the same disk) and `journal` hold.

        Raises:
            InvalidOperation: rule ``"member"``: the signer's key is not in the committee.
            StorageError: the journal is damaged.
        """
        self.network, self.epoch = genesis.network_id, 0
        self.committee = Committee.of(genesis)
        if signer.public not in self.committee.index:
            raise InvalidOperation("member", "this key is not in the network's committee")
        self.state = state
        self.behind = False
        self.halted: str | None = None
        self._parameters = genesis.parameters
        self._member = self.committee.index[signer.public]
        self._journal = journal
        self._limits = limits or Limits()
        self._table = VoteTable(self.committee, decided_max=self._limits.decided_max)
        self._log = OwnLog(signer, self.network, self.epoch, self._member)
        self._chains = [Chain(0, self.network, {}) for _ in self.committee.keys]
        self._contact = Contact(self.committee, self._member)
        self._receipts = HeldReceipts(self.network)
        self._confirmed = {self._member}  # members that hold no more of our batches than we do
        self._voting = False

        self._work: deque[Candidate] = deque()  # to be looked at before the method ends
        self._timers: list[tuple[int, int, Candidate]] = []
        self._timer_count = 0
        self._blocked: dict[bytes, list[Candidate]] = {}  # object or operation → what waits for it
        self._waiting: dict[bytes, Candidate] = {}  # those that nobody has prepared, oldest first
        self._sources: dict[str, int] = {}
        self._gap_asked: dict[int, int] = {}

        self._segment = 0
        self._full_writes = 0
        self._writing = False
        self._write_at: int | None = None
        self._others: list[VoteBatch] = []
        self._operations: list[SignedOperation] = []
        self._decided: list[Record] = []
        self._found_evidence: list[Evidence] = []
        self._unsaved: dict[tuple[int, int], VoteBatch] = {}
        self._fresh: dict[bytes, Record] = {}  # decided and not yet on disk
        self._cache: dict[tuple[int, int], VoteBatch] = {}
        self._culprits: set[tuple[int, bytes]] = set()
        try:
            self._restore()
        except (InvalidOperation, RemoteError) as exc:
            raise StorageError(f"the vote logs on disk are damaged ({exc}): sync from peers anew") from exc

    # --- what comes in --------------------------------------------------------------------------

    def handle_operation(self, signed: SignedOperation, now: int, source: str = "") -> Effects:
        """Take an operation; a repeat is no error.

        Raises:
            Malformed, BadSignature: drop it.
            InvalidOperation, InsufficientFunds: it can never be decided; ``"contested"``: its slot has enough
                others. NotYet ``"busy"``: no room for operations that have to wait; send it again later.
            StorageError: this validator has halted.
        """
        self._refuse_if_halted()
        parsed = parse(signed)
        if parsed.operation.network != self.network:
            raise InvalidOperation("network", "made for another network")
        out = Effects()
        candidate = self._table.candidates.get(parsed.id)
        if candidate is not None and candidate.parsed is not None:
            self._take_proof(candidate, parsed)
        elif not self._was_decided(parsed):
            self._arrive(parsed, source, now, out)
        self._drain(now, out)
        return out

    def handle_batch(self, raw: bytes, now: int) -> Effects:
        """Take a vote batch of any validator; a repeat is no error, and one that came early is kept.

        Raises:
            Malformed, BadSignature: drop it.
            InvalidOperation: of another network, epoch or chain, or by somebody who is no member.
            NotYet: ``"busy"``: its validator votes for too much that nobody has; it will be asked for again.
            StorageError: this validator has halted.
        """
        self._refuse_if_halted()
        out = Effects()
        header = peek_header(raw)
        member = self.committee.index.get(header.validator)
        if member is None:
            raise InvalidOperation("member", "the batch's validator is not in the committee")
        chain = self._chains[member]
        if member == self._member or header.height <= chain.height or header.height in chain.early:
            self._compare(member, header, raw, out)
            return out
        batch = open_batch(raw, self.network, self.epoch, self.committee)
        if self._table.owed[member] + len(batch.votes) > self._limits.owed_max:
            raise NotYet("busy", "too many votes of this validator wait for their operations")
        for ready in chain.add(batch):
            self._others.append(ready)
            self._unsaved[member, ready.header.height] = ready
            self._count(ready, now, out)
        self._find_gap(member, now, out)
        self._write_soon(now)
        self._drain(now, out)
        return out

    def handle_height(self, member: bytes, height: int, now: int) -> Effects:
        """A member says how many of our own batches it holds; asked for once after each start.

        Raises:
            InvalidOperation: rule ``"member"``.
        """
        self._refuse_if_halted()
        out = Effects()
        place = self.committee.index.get(member)
        if place is None:
            raise InvalidOperation("member", "only members know our votes")
        ours = self._chains[self._member].height
        if height > ours:
            out.gaps.append(Gap(self.committee.keys[self._member], ours + 1, height))
        else:
            self._confirmed.add(place)
            self._start_voting()
        self._drain(now, out)
        return out

    # --- time -----------------------------------------------------------------------------------

    @property
    def voting(self) -> bool:
        """Whether it casts votes."""
        return self._voting and not self.behind and self.halted is None

    @property
    def due(self) -> int:
        """When `tick` is needed next."""
        times = [self._log.due] if self.voting and not self._writing else []
        if self._timers:
            times.append(self._timers[0][0])
        if self._write_at is not None and not self._writing:
            times.append(self._write_at)
        times += [self._gap_asked.get(m, 0) + GAP_AGAIN_MS for m, c in enumerate(self._chains) if c.early]
        return min(times, default=2**62)

    def tick(self, now: int) -> Effects:
        """Do what is due: ask again, vote for what had to wait, write, and hand out what was written.

        Raises:
            StorageError: the disk failed; nothing is signed any more (`halted`).
        """
        self._refuse_if_halted()
        out = Effects()
        while self._timers and self._timers[0][0] <= now:
            self._work.append(heapq.heappop(self._timers)[2])
        for member in range(len(self._chains)):
            self._find_gap(member, now, out)
        self._drain(now, out)
        records = self.seal(now)
        if records is not None:
            try:
                self._journal.write(records)
            except StorageError as exc:
                self.halt(str(exc))
                raise
            _extend(out, self.release(records, now))
        return out

    def seal(self, now: int) -> Records | None:
        """Collect what has to be written, if it is time: own votes become batches."""
        if self._writing or self.halted is not None:
            return None
        own = []
        while self.voting and self._log.due <= now:
            own.append(self._log.seal(now))
        everything = self._write_at is not None and now >= self._write_at
        if not own and not everything:
            return None
        self._segment += 1
        self._writing = True
        records = Records(self._segment, own, [], [], [], [])
        if everything:
            self._write_at = None
            records.others, self._others = self._others, []
            records.decided, self._decided = self._decided, []
            records.evidence, self._found_evidence = self._found_evidence, []
            self._full_writes += 1
            if self._full_writes % FLOORS_EVERY == 0:
                records.floors = self._floors()
        records.operations, self._operations = self._operations, []
        return records

    def release(self, records: Records, now: int) -> Effects:
        """Go on after `records` were written: own batches may be seen now, and count."""
        out = Effects(batches=list(records.own))
        self._writing = False
        for batch in records.others:
            self._unsaved.pop((batch.member, batch.header.height), None)
        for record in records.decided:
            self._fresh.pop(record.decided.parsed.id, None)
        for batch in records.own:
            self._chains[self._member].add(batch)
            self._count(batch, now, out)
        self._drain(now, out)
        return out

    def halt(self, reason: str) -> None:
        """Sign and apply nothing any more."""
        self.halted = self.halted or reason

    # --- looking --------------------------------------------------------------------------------

    def status(self, id_: bytes) -> int:
        """UNKNOWN, SEEN (held), LOCKED (we did, or a quorum did) or FINAL (and applied)."""
        candidate = self._table.candidates.get(id_)
        if candidate is None:
            return FINAL if self._is_decided(id_) else UNKNOWN
        if candidate.parsed is None:
            return UNKNOWN
        ours = candidate.id in self._table.slot_of(candidate).locked.values()
        return LOCKED if ours or candidate.prepared is not None else SEEN

    def operation(self, id_: bytes) -> SignedOperation | None:
        """A held operation, decided or not."""
        candidate = self._table.candidates.get(id_)
        if candidate is not None:
            return candidate.parsed.signed if candidate.parsed is not None else None
        found = self._find(id_)
        return found.signed if found is not None else None

    def certificate(self, id_: bytes) -> bytes | None:
        """The commit certificate of a decided operation; made from the stored batches when asked for."""
        found = self._find(id_)
        return build_certificate(found.places, self._batch, self.committee) if found is not None else None

    def heights(self) -> dict[bytes, int]:
        """Per validator, ourselves included, how many of its batches are held."""
        return {key: chain.height for key, chain in zip(self.committee.keys, self._chains, strict=True)}

    def batches(self, validator: bytes, first: int, limit: int = 256) -> list[bytes]:
        """Up to `limit` batches of a validator's log from `first` on; of our own only what is on disk."""
        member = self.committee.index.get(validator)
        if member is None:
            return []
        last = min(self._chains[member].height, first + limit - 1)
        stored = self._journal.batches(member, first, last - first + 1) if last >= first else []
        for height in range(first + len(stored), last + 1):
            stored.append(self._unsaved[member, height].raw)
        return stored

    def statistics(self) -> Statistics:
        """Figures for people and for tests of bounds."""
        return Statistics(
            decided=self.state.operations,
            candidates=len(self._table.candidates),
            waiting=len(self._waiting),
            height=self._chains[self._member].height,
            behind=self.behind,
            voting=self.voting,
            halted=self.halted,
            evidence=len(self._culprits),
        )

    def _find(self, id_: bytes) -> Found | None:
        record = self._fresh.get(id_)
        if record is not None:
            return Found(record.decided.parsed.signed, record.places)
        return self._journal.find(id_)

    def _was_decided(self, parsed: ParsedOperation) -> bool:
        """Whether this very operation was: the disk is asked only if its slot was."""
        operation = parsed.operation
        return self.state.head(operation.object)[0] >= operation.seq and self._is_decided(parsed.id)

    def _is_decided(self, id_: bytes) -> bool:
        return self._table.was_decided(id_) or self._find(id_) is not None

    def _batch(self, member: int, height: int) -> VoteBatch:
        batch = self._unsaved.get((member, height)) or self._cache.pop((member, height), None)
        if batch is None:
            raw = self._journal.batch(member, height)
            if raw is None:
                raise StorageError(f"batch {height} of validator {member} is not on the disk")
            batch = reopen_batch(raw, self.committee)
        self._cache[member, height] = batch  # at the end: the first is the one used longest ago
        if len(self._cache) > CACHED_BATCHES:
            del self._cache[next(iter(self._cache))]
        return batch

    # --- one candidate's way ----------------------------------------------------------------------

    def _arrive(self, parsed: ParsedOperation, source: str, now: int, out: Effects) -> None:
        """Hold an operation that is new here, or raise why not."""
        slot = self._table.slots.get((parsed.operation.object, parsed.operation.seq))
        named = self._table.candidates.get(parsed.id)
        crowded = slot is not None and len(slot.candidates) >= self._limits.rivals_max
        if crowded and (named is None or named.prepared is None):
            raise InvalidOperation("contested", "its slot has enough candidates")
        candidate, doubled = self._table.hold(parsed)
        candidate.source = source
        self._note_doubled(doubled, out)
        problem = self._advance(candidate, now, out)
        if problem is not None:
            raise problem

    def _drain(self, now: int, out: Effects) -> None:
        while self._work:
            self._advance(self._work.popleft(), now, out)

    def _advance(self, candidate: Candidate, now: int, out: Effects) -> Exception | None:
        """Take a candidate as far as it can go now; returns why it was let go, if it was."""
        if self._table.candidates.get(candidate.id) is not candidate:
            return None  # decided or dropped meanwhile
        if candidate.parsed is None:
            self._want(candidate, now, out)
            return None
        if candidate.final is not None:
            self._apply(candidate, now, out)
            return None
        if candidate.prepared is not None:
            self._leave_quota(candidate)
            self._commit(candidate, candidate.prepared, now)
            if candidate.verified:
                return None
        return self._check(candidate, now, out)

    def _check(self, candidate: Candidate, now: int, out: Effects) -> Exception | None:
        """Look at validity, and LOCK if it is time."""
        parsed = candidate.parsed
        assert parsed is not None
        try:
            candidate.changes = self.state.check(parsed, now, proof_verified=candidate.verified)
        except NotYet as exc:
            candidate.verified = candidate.verified or exc.rule not in _BEFORE_PROOF
            self._learn_receipt(candidate, parsed)
            return self._wait(candidate, exc, now)
        except BadSignature as exc:
            return self._try_next_proof(candidate, exc, now, out)
        except LedgerError as exc:
            self._learn_receipt(candidate, parsed)
            if candidate.prepared is not None:
                return None  # "a prepared certificate stands in for one's own validation"
            return self._let_go(candidate, exc)
        self._stop_waiting(candidate)
        if candidate.valid_since is None:
            candidate.verified, candidate.valid_since = True, now
            out.operations.append(Push(parsed, candidate.source))
            self._note_equivocation(candidate, out)
        self._learn_receipt(candidate, parsed)
        if self.voting:
            self._lock(candidate, parsed, now, out)
        return None

    def _lock(self, candidate: Candidate, parsed: ParsedOperation, now: int, out: Effects) -> None:
        """LEDGER.md, deciding a slot, step 1: at most one LOCK, priority and gates observed."""
        slot = self._table.slot_of(candidate)
        if 0 in slot.locked:
            return
        lock = self.state.locks.get(parsed.operation.object)
        if lock is not None:
            if not self._receipts.allow(lock, parsed):
                self._offer(lock.id, now, out)
                return
            if is_gated(parsed):
                opens = self._gate_opens(candidate, now)
                if opens > now:
                    self._wake(candidate, opens)
                    return
        slot.lock(0, candidate.id)
        self._log.add(lock_entry(0, candidate.id), now)
        self._keep(candidate)

    def _gate_opens(self, candidate: Candidate, now: int) -> int:
        """When D and G will have passed if contact lasts."""
        since = self._contact.since(now)
        held = now if candidate.valid_since is None else candidate.valid_since
        contact = now if since is None else since
        opens = max(held + self._parameters.gate_hold_ms, contact + self._parameters.gate_contact_ms)
        return max(opens, now + 1) if since is None else opens

    def _commit(self, candidate: Candidate, view: int, now: int) -> None:
        """Step 2: a quorum of LOCK(v, x) → COMMIT(v, x)."""
        if self.voting and self._table.slot_of(candidate).commit(view, candidate.id):
            self._log.add(commit_entry(view, candidate.id), now)
            self._keep(candidate)

    def _apply(self, candidate: Candidate, now: int, out: Effects) -> None:
        """Step 2: final → apply, once the dependencies are applied."""
        parsed, view = candidate.parsed, candidate.final
        assert parsed is not None
        assert view is not None
        try:
            changes = self.state.apply(parsed, candidate.changes)
        except NotYet as exc:
            self._block(candidate, self._key_of(parsed, exc.rule))
            return
        except LedgerError as exc:
            self.halt(
                f"a final operation cannot be applied ({exc}): more than a third of the weight is faulty"
            )
            return
        places = tuple(self._table.places(candidate, COMMIT, view))
        record = Record(Decided(parsed, changes), places)
        self._decided.append(record)
        self._fresh[candidate.id] = record
        self._write_soon(now)
        for gone in [candidate, *self._table.decide(candidate)]:
            self._stop_waiting(gone)
        out.finals.append(Final(parsed, view))
        self._wake_blocked(parsed.operation.object)
        self._wake_blocked(candidate.id)
        for lock in changes.locks:
            if lock.id == parsed.operation.object:
                self._receipts.forget(lock)
                self._offer(lock.id, now, out)
            else:
                self._wake_blocked(lock.id)

    def _offer(self, lock_id: bytes, now: int, out: Effects) -> None:
        """Submit the highest receipt held for a Lock, unless its slot has an operation that is as high."""
        lock = self.state.locks[lock_id]
        offered = self._receipts.offer(lock, now)
        if offered is None or not self.voting:
            return
        slot = self._table.slots.get((lock_id, lock.seq + 1))
        rivals = slot.candidates if slot is not None else []
        if any(each.parsed is not None and self._receipts.allow(lock, each.parsed) for each in rivals):
            return
        candidate, doubled = self._table.hold(offered)
        self._note_doubled(doubled, out)
        self._work.append(candidate)

    def _learn_receipt(self, candidate: Candidate, parsed: ParsedOperation) -> None:
        lock = self.state.locks.get(parsed.operation.object)
        if lock is None:
            return
        held = self._receipts.learn(lock, parsed, verified=candidate.verified)
        if held is not None:
            self._keep(candidate)
            held.segment = candidate.segment

    # --- waiting --------------------------------------------------------------------------------

    def _wait(self, candidate: Candidate, reason: NotYet, now: int) -> Exception | None:
        """Keep a candidate until what it lacks is there; returns why it is let go instead."""
        parsed = candidate.parsed
        assert parsed is not None
        problem = self._enter_quota(candidate)
        if problem is not None:
            return self._let_go(candidate, problem)
        operation = parsed.operation
        if reason.rule == "clock-ahead":
            assert operation.timestamp is not None
            self._wake(candidate, operation.timestamp - self._parameters.clock_ahead_ms)
        elif reason.rule == "not-expired":
            self._wake(candidate, self.state.locks[operation.object].expiry)
        else:
            key = self._key_of(parsed, reason.rule)
            if reason.rule == "epoch-ahead" or (key != operation.object and self._made_its_credits(key)):
                return self._let_go(candidate, InvalidOperation(reason.rule, "and never will be"))
            self._block(candidate, key)
        return None

    def _key_of(self, parsed: ParsedOperation, rule: str) -> bytes:
        """What an operation waits for: an operation whose credit it lacks, else its own object."""
        body = parsed.operation.body
        if rule == "unknown-credit" and isinstance(body, Spend):
            return next(id_ for id_ in body.credits if id_ not in self.state.credits)[:32]
        return parsed.operation.object

    def _made_its_credits(self, maker: bytes) -> bool:
        """Whether all credits that this operation (or the genesis) makes have been there."""
        return maker == self.network or self._is_decided(maker)

    def _enter_quota(self, candidate: Candidate) -> NotYet | None:
        """Count one that waits and is not prepared; the oldest goes when all places are taken."""
        if candidate.prepared is not None or candidate.id in self._waiting:
            return None
        source = candidate.source
        if self._sources.get(source, 0) >= self._limits.waiting_max_per_source:
            return NotYet("busy", "too many operations of this source wait for others")
        if len(self._waiting) >= self._limits.waiting_max:
            oldest = next(iter(self._waiting.values()))
            self._let_go(oldest, NotYet("busy"))
        self._waiting[candidate.id] = candidate
        self._sources[source] = self._sources.get(source, 0) + 1
        return None

    def _leave_quota(self, candidate: Candidate) -> None:
        if self._waiting.pop(candidate.id, None) is None:
            return
        self._sources[candidate.source] -= 1
        if not self._sources[candidate.source]:
            del self._sources[candidate.source]

    def _stop_waiting(self, candidate: Candidate) -> None:
        self._leave_quota(candidate)
        blocked = self._blocked.get(candidate.blocked_by)
        if blocked is not None and candidate in blocked:
            blocked.remove(candidate)
            if not blocked:
                del self._blocked[candidate.blocked_by]

    def _let_go(self, candidate: Candidate, problem: Exception) -> Exception:
        """Forget an operation that cannot be voted for; votes of others for it stay counted."""
        self._stop_waiting(candidate)
        self._table.let_go(candidate)
        candidate.valid_since = None
        if isinstance(problem, BadSignature) and candidate.counts:  # others may have it with a good proof
            self._wake(candidate, candidate.ask_at)
        return problem

    def _block(self, candidate: Candidate, key: bytes) -> None:
        blocked = self._blocked.setdefault(key, [])
        if candidate not in blocked:
            blocked.append(candidate)
        candidate.blocked_by = key

    def _wake_blocked(self, key: bytes) -> None:
        self._work.extend(self._blocked.pop(key, ()))

    def _wake(self, candidate: Candidate, at: int) -> None:
        if len(self._timers) > 2 * len(self._table.candidates) + 1_000:  # most are of candidates long gone
            held = self._table.candidates
            self._timers = [timer for timer in self._timers if held.get(timer[2].id) is timer[2]]
            heapq.heapify(self._timers)
        self._timer_count += 1  # equal times in the order of their making
        heapq.heappush(self._timers, (at, self._timer_count, candidate))

    def _take_proof(self, candidate: Candidate, parsed: ParsedOperation) -> None:
        """A held operation once more, perhaps with another proof: proofs are no part of its id.

        While the first one's proof cannot be checked a few others are remembered, and a CLOSE that must wait
        for its Lock's expiry need not any more once its closer's signature comes: whoever is quicker with a
        worse proof delays nobody.
        """
        held = candidate.parsed
        assert held is not None
        if not candidate.verified:
            known = [held.signed, *(other.signed for other in candidate.proofs)]
            if parsed.signed not in known:
                candidate.proofs = [*candidate.proofs[-self._limits.proofs_max + 1 :], parsed]
        elif held.signed.closer is None and parsed.signed.closer is not None:
            self.state.verify_proof(parsed)
            candidate.parsed = parsed
            self._work.append(candidate)

    def _try_next_proof(
        self, candidate: Candidate, exc: BadSignature, now: int, out: Effects
    ) -> Exception | None:
        if candidate.proofs:
            candidate.parsed = candidate.proofs.pop()
            return self._check(candidate, now, out)
        if candidate.prepared is not None:
            return None
        return self._let_go(candidate, exc)

    # --- votes ----------------------------------------------------------------------------------

    def _count(self, batch: VoteBatch, now: int, out: Effects) -> None:
        """Count a batch that continues its validator's log; what it moves is put to work."""
        self._contact.heard(batch.member, batch.header.timestamp, now)
        counted = self._table.count(batch)
        for candidate in counted.named:
            candidate.ask_at = now + WANT_AFTER_MS
            self._wake(candidate, candidate.ask_at)
        self._work.extend([candidate for candidate, _ in counted.prepared])
        self._work.extend([candidate for candidate, _ in counted.final])
        if counted.doubled:
            self._note_doubled(counted.doubled, out)

    def _want(self, candidate: Candidate, now: int, out: Effects) -> None:
        """Ask for an operation that is only named, unless it was decided long ago."""
        if now < candidate.ask_at:
            return
        if self._find(candidate.id) is not None:
            self._table.drop(candidate)
            self._table.remember(candidate.id)
            return
        voters = candidate.voters()
        out.wanted.append(
            Wanted(candidate.id, tuple(k for m, k in enumerate(self.committee.keys) if voters >> m & 1))
        )
        candidate.asked += 1
        candidate.ask_at = now + min(WANT_AFTER_MS << min(candidate.asked, 10), WANT_AGAIN_MS_MAX)
        self._wake(candidate, candidate.ask_at)

    def _find_gap(self, member: int, now: int, out: Effects) -> None:
        missing = self._chains[member].missing
        if missing and now >= self._gap_asked.get(member, -GAP_AGAIN_MS) + GAP_AGAIN_MS:
            self._gap_asked[member] = now
            last = min(missing[-1], missing[0] + ENTRIES_MAX - 1)
            out.gaps.append(Gap(self.committee.keys[member], missing[0], last))

    def _start_voting(self) -> None:
        if not self._voting and self.committee.weight_of(self._confirmed) >= self.committee.quorum:
            self._voting = True
            self._work.extend(self._table.candidates.values())

    def _refuse_if_halted(self) -> None:
        if self.halted is not None:
            raise StorageError(f"this validator has halted: {self.halted}")

    # --- evidence -------------------------------------------------------------------------------

    def _compare(self, member: int, header: Header, raw: bytes, out: Effects) -> None:
        """A batch at a height that we have (or of our own log): the same one, or evidence."""
        early = self._chains[member].early.get(header.height)
        known = early.raw if early is not None else self._raw_batch(member, header.height)
        ours_unknown = member == self._member and header.height > self._log.height
        if known == raw or (known is None and not ours_unknown):
            return
        batch = open_batch(raw, self.network, self.epoch, self.committee)
        if known is None:
            self.behind = True  # it bears our signature, and our disk does not know it
        elif reopen_batch(known, self.committee).id != batch.id:
            self.behind = self.behind or member == self._member
            self._note(Evidence(TWO_BATCHES, header.validator, (known, raw)), out)

    def _raw_batch(self, member: int, height: int) -> bytes | None:
        unsaved = self._unsaved.get((member, height))
        return unsaved.raw if unsaved is not None else self._journal.batch(member, height)

    def _note_doubled(self, doubled: list[tuple[Place, Place]], out: Effects) -> None:
        for first, second in doubled:
            batches = [self._batch(member, height) for member, height, _ in (first, second)]
            ids = [batches[0].votes[first[2]][2], batches[1].votes[second[2]][2]]
            bodies = [self.operation(id_) for id_ in ids]
            items = (*(batch.raw for batch in batches), *(encode(body) for body in bodies))
            self._note(Evidence(TWO_LOCKS, self.committee.keys[first[0]], items), out)

    def _note_equivocation(self, candidate: Candidate, out: Effects) -> None:
        """Two operations for one (account, seq), both with a proof that was checked: the owner signed two."""
        assert candidate.parsed is not None
        if not candidate.rivals or not isinstance(candidate.parsed.operation.body, Spend):
            return
        for rival in self._table.slot_of(candidate).candidates:
            if rival is not candidate and rival.verified and rival.parsed is not None:
                pair = (encode(rival.parsed.signed), encode(candidate.parsed.signed))
                self._note(Evidence(TWO_OPERATIONS, candidate.slot[0], pair), out)
                return

    def _note(self, evidence: Evidence, out: Effects) -> None:
        """Keep the first evidence of each kind against each culprit."""
        if (evidence.kind, evidence.culprit) not in self._culprits and len(self._culprits) < CULPRITS_MAX:
            self._culprits.add((evidence.kind, evidence.culprit))
            self._found_evidence.append(evidence)
            self._write_at = 0
            out.evidence.append(evidence)

    # --- disk -----------------------------------------------------------------------------------

    def _keep(self, candidate: Candidate) -> None:
        """Have a candidate's bytes on disk with (or before) the vote that rests on them."""
        if not candidate.segment:
            assert candidate.parsed is not None
            self._operations.append(candidate.parsed.signed)
            candidate.segment = self._segment + 1

    def _write_soon(self, now: int) -> None:
        if len(self._others) >= UNSAVED_MAX or len(self._decided) >= UNSAVED_MAX:
            self._write_at = now
        elif self._write_at is None:
            self._write_at = now + WRITE_AFTER_MS

    def _floors(self) -> tuple[dict[int, int], int]:
        """From where on a restart has to read; what is still needed and old is written once more."""
        needed: list[Candidate | HeldReceipt] = [
            candidate for candidate in self._table.candidates.values() if candidate.segment
        ]
        needed += self._receipts.highest.values()
        for each in needed:
            if each.segment <= self._segment - OLD_AFTER:
                self._operations.append(each.proof)
                each.segment = self._segment
        lowest = self._table.lowest_heights()
        heights = {m: min(lowest.get(m, c.height), c.height) for m, c in enumerate(self._chains)}
        return heights, min((each.segment for each in needed), default=self._segment)

    def _restore(self) -> None:
        """Rebuild votes and tallies from the journal, exactly: what we LOCKed stays LOCKed."""
        restored = self._journal.restore(len(self.committee.keys))
        self._segment = restored.segment
        for segment, signed in restored.operations:
            self._restore_operation(parse(signed), segment)
        batches = [[reopen_batch(raw, self.committee) for raw in log] for log in restored.batches]
        for member, log in enumerate(batches):
            if log:  # the first one held is trusted, and pins those before it
                self._chains[member] = Chain(log[0].header.height - 1, log[0].header.previous, {})
            for batch in log:
                if batch.member != member or not self._chains[member].add(batch):
                    raise InvalidOperation("chain", f"batch {batch.header.height} is not where it belongs")
        own = self._chains[self._member]
        self._log.resume(own.height, own.head)
        for batch in batches[self._member]:
            self._restore_votes(batch)
        for batch in (batch for log in batches for batch in log):
            counted = self._table.count(batch)
            self._work.extend(counted.named)
        self._work.extend(self._table.candidates.values())
        self._start_voting()

    def _restore_operation(self, parsed: ParsedOperation, segment: int) -> None:
        lock = self.state.locks.get(parsed.operation.object)
        if lock is not None:
            held = self._receipts.learn(lock, parsed, verified=False)
            if held is not None:
                held.segment = segment
        if self.state.head(parsed.operation.object)[0] < parsed.operation.seq:
            self._table.hold(parsed)[0].segment = segment

    def _restore_votes(self, batch: VoteBatch) -> None:
        for kind, view, id_ in batch.votes:
            candidate = self._table.candidates.get(id_)
            if candidate is None:  # decided since
                continue
            slot = self._table.slot_of(candidate)
            if kind == LOCK:
                slot.lock(view, id_)
            else:
                slot.commit(view, id_)


def _extend(out: Effects, more: Effects) -> None:
    out.operations += more.operations
    out.batches += more.batches
    out.finals += more.finals
    out.wanted += more.wanted
    out.gaps += more.gaps
    out.evidence += more.evidence
