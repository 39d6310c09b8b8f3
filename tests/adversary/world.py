"""Validators in virtual time: a heap of events calls the production cores as the service would.

A *brain* is one running `Validator` with its disk. An honest member has one; a traitor may have several, with
one key, each of which some of the others see (`byzantine`). What passes between members goes through `Net`,
which loses, doubles, delays and cuts as `faults` tells it to.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from typing import Any

from ainp2p.errors import Error, InvalidOperation, NotYet
from ainp2p.ledger.rules.genesis import DEVELOPMENT, Genesis, Parameters, new_genesis
from ainp2p.ledger.rules.operations import Inception, SignedOperation
from ainp2p.ledger.voting.effects import Effects, FrontierWanted, Gap, Records, Wanted
from ainp2p.ledger.voting.validator import FINAL, Validator
from ainp2p.ledger.voting.votelog import Handoff, has_views, read_batch, read_entries
from ainp2p.protocol.identity import Key
from tests.adversary.auditor import Auditor
from tests.adversary.marks import sometimes
from tests.adversary.violation import Violation
from tests.ledger.memory_journal import MemoryJournal

BEGIN = 1_700_000_000_000  # ms
_NEVER = 2**60
_FETCHED_MAX = 64


def key_of(name: str) -> Key:
    """The key that belongs to a name."""
    return Key(blake2b(name.encode(), digest_size=32).digest())


def alone(key: Key) -> Inception:
    """The account of one key, with no next one and no guardians."""
    return Inception(key.public, bytes(32), (), 0, 0, bytes(32))


def make_genesis(
    weights: Sequence[int],
    inceptions: Sequence[Inception],
    parameters: Parameters,
    member_grant: int = 0,
) -> Genesis:
    """A network whose validator i has the i-th weight in the order of the keys.

    Args:
        member_grant: uain that the account of each validator's key gets.
    """
    keys = sorted(key_of(f"validator {i}").public for i in range(len(weights)))
    validators: list[tuple[bytes, int, list[str]]]
    validators = [(key, weight, []) for key, weight in zip(keys, weights, strict=True)]
    grants = [(inception, 1_000_000) for inception in inceptions]
    if member_grant:
        grants += [(alone(key_of(f"validator {i}")), member_grant) for i in range(len(weights))]
    return new_genesis("adversary", BEGIN, validators, grants, None, parameters)


PARAMETERS = DEVELOPMENT


@dataclass
class Net:
    """What happens to a message between two places; -1 is a client."""

    loss: float = 0.0
    double: float = 0.0
    delay_ms: tuple[int, int] = (1, 5)
    cut: Callable[[int, int], bool] = field(default=lambda a, b: False)

    def calm(self) -> None:
        """Nothing is lost any more."""
        self.loss, self.double, self.delay_ms = 0.0, 0.0, (1, 5)
        self.cut = lambda a, b: False


@dataclass(eq=False)
class Brain:
    """One running validator."""

    place: int
    disk: MemoryJournal
    validator: Validator | None = None
    audience: Callable[[int], bool] = field(default=lambda other: True)  # who sees what it sends
    honest: bool = True
    life: int = 0
    busy: bool = False  # a write is under way
    dies: str = ""  # "unwritten", "written": how the power goes at its next write
    ticking_at: int = _NEVER
    seen: set[bytes] = field(default_factory=set)  # batches that were told, in this life
    before_seal: Callable[[Validator, int], None] | None = None
    frontiers: dict[bytes, dict[bytes, tuple[int, bytes]]] = field(default_factory=dict)  # that it lies about
    told: dict[bytes, bytes] = field(default_factory=dict)  # attachments that its core does not know of
    served: dict[bytes, SignedOperation] = field(default_factory=dict)  # the same of operations


class World:
    """A committee, its network and its clock.

    Attributes:
        n: members of the first committee; places from n on are followers', who may get a seat.
        skew: what each place's clock shows above the true time, in ms.
        trace: a hash over everything that happened: equal seeds, equal traces (row H1).
    """

    def __init__(
        self,
        seed: str,
        weights: Sequence[int],
        inceptions: Sequence[Inception],
        parameters: Parameters,
        followers: int = 0,
        member_grant: int = 0,
    ) -> None:
        self.rng = random.Random(seed)
        self.genesis = make_genesis(weights, inceptions, parameters, member_grant)
        self.network = self.genesis.network_id
        self.parameters = parameters
        self.weights = [member.weight for member in self.genesis.validators]
        by_key = {key_of(f"validator {i}").public: key_of(f"validator {i}") for i in range(len(weights))}
        joining = [key_of(f"follower {i}") for i in range(followers)]
        self.keys = [*(by_key[member.key] for member in self.genesis.validators), *joining]
        self.place_of = {key.public: place for place, key in enumerate(self.keys)}
        self.n = len(weights)
        self.net = Net()
        self.places = range(self.n + followers)
        self.skew = [0 for _ in self.places]
        self.now = BEGIN
        self.brains: list[Brain] = []
        self.by_place: list[list[Brain]] = [[] for _ in self.places]
        self.auditor = Auditor(self.genesis, self.places, followers=[key.public for key in joining])
        self.trace = blake2b(digest_size=16)
        self.log: list[str] | None = None  # filled with --trace
        self.evidence: list[Any] = []
        self.events = 0
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self._sent = 0
        self._newest: dict[tuple[int, int], int] = {}  # from, to → the last message that arrived

    # --- time -----------------------------------------------------------------------------------

    def at(self, when: int, what: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, what))

    def after(self, ms: int, what: Callable[[], None]) -> None:
        self.at(self.now + ms, what)

    def run(self, ms: int) -> None:
        """Let `ms` of virtual time pass."""
        end = self.now + ms
        while self._heap and self._heap[0][0] <= end:
            self.now, _, what = heapq.heappop(self._heap)
            self.events += 1
            what()
        self.now = end

    def clock(self, place: int) -> int:
        return self.now + self.skew[place]

    def note(self, kind: str, place: int, what: bytes = b"") -> None:
        """One line of the trace."""
        self.trace.update(f"{self.now} {kind} {place} ".encode() + what)
        if self.log is not None:
            self.log.append(f"{self.now - BEGIN:>8} ms  {kind:<10} {place:>2}  {what.hex()[:16]}")

    # --- validators -----------------------------------------------------------------------------

    def add_brain(self, place: int, *, honest: bool = True, disk: MemoryJournal | None = None) -> Brain:
        brain = Brain(place, disk or MemoryJournal(self.genesis), honest=honest)
        self.brains.append(brain)
        self.by_place[place].append(brain)
        self.start(brain)
        self.after(self.rng.randint(1, 300), partial(self._compare, brain))
        return brain

    def start(self, brain: Brain) -> None:
        """Switch it on: it knows what its disk knows."""
        place = brain.place
        brain.life += 1
        brain.busy, brain.dies, brain.ticking_at, brain.seen = False, "", _NEVER, set()
        if brain.honest:
            self.auditor.started(place, self.clock(place))
            judge = partial(self.auditor.wrote, place)
            brain.disk.on_write = lambda records: self._note_write(brain, records, judge)
        else:
            auditor, heights = self.auditor, self._own_heights(brain)
            silent = auditor.disks.silent(place, heights, auditor.votes, auditor.honest)
            if max(auditor.votes) in silent:
                sometimes("a disk that forgot lets nobody vote")
            brain.disk.on_write = lambda records: self._note_write(
                brain, records, lambda written, _: self.auditor.forged(place, written, silent)
            )
        self.note("start", place)
        try:
            brain.validator = Validator(
                self.keys[place], self.genesis, brain.disk.state(), brain.disk, follow=True
            )
        except Exception as exc:
            if brain.honest:
                raise Violation("crash of a core", f"at its start, {type(exc).__name__}: {exc}") from exc
            brain.validator = None  # what it wrote contradicts itself
        self._schedule(brain)

    def _own_heights(self, brain: Brain) -> dict[int, int]:
        """By epoch, how far its own log on its disk goes."""
        heights: dict[int, int] = {}
        for (epoch, _member, height), raw in brain.disk.raw.items():
            if read_batch(raw)[1].validator == self.keys[brain.place].public:
                heights[epoch] = max(height, heights.get(epoch, 0))
        return heights

    def crash(self, brain: Brain) -> None:
        """All that its disk was not given is lost."""
        if brain.validator is not None:
            brain.validator = None
            brain.life += 1
            self.note("crash", brain.place)
            sometimes("crash")

    def set_clock(self, place: int, skew: int) -> None:
        """Somebody, or NTP, sets a validator's clock."""
        if skew != self.skew[place]:
            self.skew[place] = skew
            self.auditor.clock_set(place, self.clock(place))
            for brain in self.by_place[place]:
                self._schedule(brain)

    def act(self, brain: Brain, step: Callable[[Validator], Effects]) -> Effects:
        """One step of a core, and what it brings about."""
        validator = brain.validator
        if validator is None or validator.halted is not None:
            return Effects()
        try:
            effects = step(validator)
        except (InvalidOperation, NotYet) as exc:
            sometimes(f"refused: {exc.rule}")
            effects = Effects()
        except Error as exc:
            sometimes(f"refused: {type(exc).__name__}")
            effects = Effects()
        except Violation:
            raise
        except Exception as exc:
            if brain.honest:
                raise Violation("crash of a core", f"{type(exc).__name__}: {exc}") from exc
            self.crash(brain)
            return Effects()
        if validator.halted is not None and brain.honest:
            raise Violation("3 one per slot", f"validator {brain.place} has halted: {validator.halted}")
        self._carry_out(brain, validator, effects)
        self._schedule(brain)
        return effects

    def _carry_out(self, brain: Brain, validator: Validator, effects: Effects) -> None:
        place = brain.place
        for push in effects.operations:
            self.auditor.knows(push.parsed.signed)
            if brain.honest:  # it may have made it itself, of a receipt
                self.auditor.handed(place, push.parsed.id, self.clock(place))
            if not push.source.startswith("validator"):
                self.push(brain, partial(self._take_operation, push.parsed.signed, f"validator {place}"))
        if brain.honest and effects.finals:
            self._announce(brain, validator, effects)
        for raw in effects.attachments:
            self.auditor.attached(raw)
            self.push(brain, partial(self._take_attachment, raw, f"validator {place}"))
        for batch in effects.batches:
            self.note("batch", place, batch.id)
            if brain.honest:
                self.auditor.sent(place, batch.raw)
            self.push(brain, partial(self._take_batch, batch.raw))
        for wanted in effects.wanted:
            self._fetch_operation(brain, wanted)
        for gap in effects.gaps:
            self._fetch_gap(brain, gap)
        for wanted in effects.missing:
            self._fetch_attachment(brain, wanted)
        for wanted in effects.certain:
            self._fetch_certain(brain, wanted)
        for frontier in effects.frontiers:
            self._fetch_frontier(brain, frontier)
        self.evidence += effects.evidence

    def _announce(self, brain: Brain, validator: Validator, effects: Effects) -> None:
        touched = []
        for final in effects.finals:
            certificate = validator.certificate(final.parsed.id)
            self.note("final", brain.place, final.parsed.id)
            self.auditor.decides(brain.place, final.parsed, final.view, certificate)
            touched.append(final.parsed.operation.object)
        self.auditor.sees(brain.place, validator.state, touched)

    # --- its timer and its disk --------------------------------------------------------------------

    def _schedule(self, brain: Brain) -> None:
        validator = brain.validator
        if validator is None or brain.busy or validator.halted is not None:
            return
        due = max(validator.due - self.skew[brain.place], self.now + 1)
        if due < min(brain.ticking_at, _NEVER):
            brain.ticking_at = due
            self.at(due, partial(self._tick, brain, brain.life, due))

    def _tick(self, brain: Brain, life: int, due: int) -> None:
        if brain.life != life or brain.ticking_at != due:
            return
        brain.ticking_at = _NEVER
        validator = (
            brain.validator
        )  # called as a shell does, which slept so long, though its clock may be set back
        if validator is None or brain.busy or validator.halted is not None:
            return
        if brain.before_seal is not None:
            brain.before_seal(validator, self.clock(brain.place))
        records = validator.seal(self.clock(brain.place))
        if records is None:
            self.act(brain, lambda v: v.tick(self.clock(brain.place)))
            return
        brain.busy = True
        self.after(self.rng.randint(0, 3), partial(self._written, brain, brain.life, records))

    def _written(self, brain: Brain, life: int, records: Records) -> None:
        """The write comes back, or the power goes: before it was durable, or after."""
        if brain.life != life:
            return
        if brain.dies == "unwritten":
            sometimes("power cut before a write")
            self.crash(brain)
            return
        brain.disk.write(records)
        if brain.dies == "written":
            sometimes("power cut after a write")
            self.crash(brain)
            return
        brain.busy = False
        self.act(brain, lambda v: v.release(records, self.clock(brain.place)))
        self.act(brain, lambda v: v.tick(self.clock(brain.place)))

    def _note_write(self, brain: Brain, records: Records, judge: Callable[[Records, int], None]) -> None:
        """What is durable, for the auditor: also what a core writes by itself when it is told the time."""
        judge(records, self.clock(brain.place))
        self._note_frontier(brain, records)

    def _note_frontier(self, brain: Brain, records: Records) -> None:
        """What stands behind a HANDOFF, for the auditor."""
        for batch in records.own:
            for entry in read_entries(batch.entries) if has_views(batch.entries) else ():
                if isinstance(entry, Handoff) and brain.validator is not None:
                    told = brain.frontiers.get(entry.digest) or brain.validator.own_frontier()
                    self.auditor.closings.frontiers.setdefault(entry.digest, dict(told))

    # --- the network ------------------------------------------------------------------------------

    def push(self, brain: Brain, take: Callable[[Brain], None]) -> None:
        """To every other member that this brain lets see it."""
        for other in self.places:
            if other != brain.place and brain.audience(other):
                self.send(brain.place, other, take)

    def send(self, source: int, target: int, take: Callable[[Brain], None]) -> None:
        """One message; all brains of its target get it."""
        net = self.net
        copies = 2 if net.double and self.rng.random() < net.double else 1
        if copies == 2:
            sometimes("message doubled")
        for _ in range(copies):
            if net.loss and self.rng.random() < net.loss:
                sometimes("message lost")
                continue
            self._sent += 1
            arrive = partial(self._arrive, source, target, self._sent, take)
            self.after(self.rng.randint(*net.delay_ms), arrive)

    def _arrive(self, source: int, target: int, number: int, take: Callable[[Brain], None]) -> None:
        if self.net.cut(source, target):
            sometimes("message cut")
            return
        if number < self._newest.get((source, target), 0):
            sometimes("message reordered")
        self._newest[source, target] = max(number, self._newest.get((source, target), 0))
        for brain in self.by_place[target]:
            if brain.validator is not None:
                take(brain)

    def reply(self, source: Brain, target: Brain, take: Callable[[Brain], None]) -> None:
        """An answer, to the brain that asked."""
        if source.audience(target.place):
            self.send(source.place, target.place, lambda brain: take(brain) if brain is target else None)

    def _take_operation(self, signed: SignedOperation, source: str, brain: Brain) -> None:
        now = self.clock(brain.place)
        parsed = self.auditor.knows(signed)
        if brain.honest and parsed is not None:
            self.auditor.handed(brain.place, parsed.id, now)
        self.act(brain, lambda v: v.handle_operation(signed, now, source))

    def _take_batch(self, raw: bytes, brain: Brain) -> None:
        now, header = self.clock(brain.place), read_batch(raw)[1]
        member = self.place_of[header.validator]
        id_ = blake2b(raw, digest_size=16).digest()
        if brain.honest and id_ not in brain.seen and brain.place != member:
            brain.seen.add(id_)
            self.auditor.heard(brain.place, member, header.epoch, header.timestamp, now)
        self.act(brain, lambda v: v.handle_batch(raw, now))

    def _take_attachment(self, raw: bytes, source: str, brain: Brain) -> None:
        now = self.clock(brain.place)
        self.act(brain, lambda v: v.handle_attachment(raw, now, source))

    def deliver(self, place: int, signed: SignedOperation, source: str = "client") -> None:
        """A client's operation arrives."""
        self.auditor.knows(signed)
        self.send(-1, place, partial(self._take_operation, signed, source))

    # --- fetching, as `catch_up` does it --------------------------------------------------------------

    def _ask(self, brain: Brain, place: int, answer: Callable[[Brain, Validator], None]) -> None:
        """A question; the answer is the business of whoever gets it."""

        def take(asked: Brain) -> None:
            if asked.validator is not None:
                answer(asked, asked.validator)

        if brain.audience(place):
            self.send(brain.place, place, take)

    def _fetch_operation(self, brain: Brain, wanted: Wanted) -> None:
        holders = [self.place_of[key] for key in wanted.holders if self.place_of[key] != brain.place]
        holders = holders or [other for other in self.places if other != brain.place]

        def answer(asked: Brain, validator: Validator) -> None:
            signed = asked.served.get(wanted.id) or validator.operation(wanted.id)
            if signed is not None:
                take = partial(self._take_operation, signed, f"validator {asked.place}")
                self.reply(asked, brain, take)

        self._ask(brain, self.rng.choice(holders), answer)

    def _fetch_attachment(self, brain: Brain, wanted: Wanted) -> None:
        holders = [self.place_of[key] for key in wanted.holders if self.place_of[key] != brain.place]
        holders = holders or [other for other in self.places if other != brain.place]

        def answer(asked: Brain, validator: Validator) -> None:
            raw = asked.told.get(wanted.id) or validator.attachment(wanted.id)
            if raw is not None:
                self.reply(asked, brain, partial(self._take_attachment, raw, f"validator {asked.place}"))

        self._ask(brain, self.rng.choice(holders), answer)

    def _fetch_gap(self, brain: Brain, gap: Gap) -> None:
        own = self.place_of[gap.validator]
        others = [other for other in self.places if other != brain.place]
        place = own if own != brain.place and self.rng.random() < 0.5 else self.rng.choice(others)
        self._fetch_log(brain, place, own, gap.first)

    def _fetch_log(self, brain: Brain, place: int, member: int, first: int) -> None:
        def answer(asked: Brain, validator: Validator) -> None:
            for raw in validator.batches(self.keys[member].public, first, _FETCHED_MAX):
                self.reply(asked, brain, partial(self._take_batch, raw))

        self._ask(brain, place, answer)

    def _compare(self, brain: Brain) -> None:
        """Heights: of all until it may vote, then now and then of one."""
        validator = brain.validator
        voting = validator is not None and validator.voting
        self.after(self.rng.randint(500, 1_500) * (3 if voting else 1), partial(self._compare, brain))
        if validator is None:
            return
        others = [other for other in self.places if other != brain.place]
        for other in [self.rng.choice(others)] if voting else others:
            self._ask(brain, other, lambda asked, v: self._tell_heights(brain, asked, v))

    def _tell_heights(self, brain: Brain, asked: Brain, validator: Validator) -> None:
        theirs, epoch = validator.heights(), validator.epoch

        def take(asking: Brain) -> None:
            core = asking.validator
            assert core is not None
            if core.epoch != epoch or not core.voting:
                self._tell_decided(asked, asking)
            if core.epoch != epoch:
                return
            ours, own = core.heights(), self.keys[asking.place].public
            for key, height in theirs.items():
                if key != own and height > ours.get(key, 0):
                    self._fetch_log(asking, asked.place, self.place_of[key], ours.get(key, 0) + 1)
            key, now = self.keys[asked.place].public, self.clock(asking.place)
            if key in core.committee.index and own in theirs:
                self.act(asking, lambda v: v.handle_height(key, theirs[own], now, epoch))

        self.reply(asked, brain, take)

    # --- epochs ---------------------------------------------------------------------------------------

    def _tell_decided(self, teller: Brain, asking: Brain) -> None:
        """What one has decided and another lacks, with certificates, in the order in which it was applied."""
        if teller.validator is None:
            return
        for parsed in teller.disk.order:
            if parsed.id in asking.disk.finals:
                continue
            certificate = teller.validator.certificate(parsed.id)
            if certificate is not None:
                self.reply(teller, asking, partial(self._take_decided, parsed.signed, certificate))

    def _take_decided(self, signed: SignedOperation, certificate: bytes, brain: Brain) -> None:
        sometimes("a certificate is taken")
        self.act(brain, lambda v: v.handle_decided(signed, certificate, self.clock(brain.place)))

    def _fetch_certain(self, brain: Brain, wanted: Wanted) -> None:
        def answer(asked: Brain, validator: Validator) -> None:
            signed, certificate = validator.operation(wanted.id), validator.certificate(wanted.id)
            if signed is not None and certificate is not None:
                self.reply(asked, brain, partial(self._take_decided, signed, certificate))
            elif signed is not None:
                take = partial(self._take_operation, signed, f"validator {asked.place}")
                self.reply(asked, brain, take)

        for key in wanted.holders:
            if self.place_of[key] != brain.place:
                self._ask(brain, self.place_of[key], answer)

    def _fetch_frontier(self, brain: Brain, wanted: FrontierWanted) -> None:
        def answer(asked: Brain, validator: Validator) -> None:
            theirs = asked.frontiers.get(wanted.handoff) or validator.frontier(wanted.handoff)
            if theirs is not None:
                self.reply(asked, brain, partial(self._take_frontier, wanted.handoff, theirs))

        self._ask(brain, self.place_of[wanted.member], answer)

    def _take_frontier(self, handoff: bytes, theirs: dict[bytes, tuple[int, bytes]], brain: Brain) -> None:
        assert brain.validator is not None
        mine = brain.validator.own_frontier()
        differing = {
            object_: theirs.get(object_, (0, object_))
            for object_ in sorted({*mine, *theirs})
            if mine.get(object_) != theirs.get(object_)
        }
        sometimes("a frontier is compared")
        self.act(brain, lambda v: v.handle_frontier(handoff, differing, self.clock(brain.place)))

    # --- looking ----------------------------------------------------------------------------------

    @property
    def honest(self) -> list[Brain]:
        return [brain for brain in self.brains if brain.honest]

    def is_final(self, id_: bytes) -> bool:
        """At every correct validator that runs."""
        return all(b.validator.status(id_) == FINAL for b in self.honest if b.validator is not None)


__all__ = ["BEGIN", "PARAMETERS", "Brain", "Net", "World", "alone", "key_of", "make_genesis"]
