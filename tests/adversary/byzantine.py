"""Validators that do not follow the protocol: below a third of the weight in all, whatever they do.

A traitor is one or more production validators with one key whose words are twisted on their way: what goes
into the log, and who gets to see which log. So all that it says is well formed and signed, which is the hard
case; what is malformed does not get past `open_batch` (tests/ledger).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial

from msgspec.structs import replace

from ainp2p.ledger.rules.state import is_gated
from ainp2p.ledger.voting.attachments import attachment_id
from ainp2p.ledger.voting.attested import attest
from ainp2p.ledger.voting.justification import Justification, Proof, read_justification
from ainp2p.ledger.voting.slot import Slot, SlotId
from ainp2p.ledger.voting.validator import Validator
from ainp2p.ledger.voting.views import Contest
from ainp2p.ledger.voting.votelog import (
    NEWVIEW,
    PROPOSE,
    NewView,
    Propose,
    commit_entry,
    lock_entry,
    newview_entry,
    propose_entry,
    read_entry,
)
from ainp2p.protocol.codec import encode
from tests.adversary.leavers import Leaver
from tests.adversary.marks import sometimes
from tests.adversary.world import Brain, World
from tests.ledger.memory_journal import MemoryJournal

LOST_SHARE = 0.3  # of those that forget: they lose all


def choose_traitors(rng: random.Random, weights: Sequence[int], *, surplus: int = 0) -> list[int]:
    """Places with less than a third of the weight; with `surplus` that many more."""
    total, chosen, weight = sum(weights), [], 0
    for place in rng.sample(range(len(weights)), len(weights)):
        if 3 * (weight + weights[place]) < total:
            chosen.append(place)
            weight += weights[place]
        elif surplus:
            surplus -= 1
            chosen.append(place)
    return sorted(chosen)


class Traitor:
    """One faulty member: a kind (how many of it there are, who sees it) and habits (what it says)."""

    KINDS = ("single", "twins", "silent", "replayer", "amnesiac", "withholder")
    HABITS = ("double voter", "hasty committer", "hider", "liar", "false leader", "forger")
    SIEGE_HABITS = (*HABITS, "gate crasher")

    def __init__(self, world: World, place: int, kind: str, seed: str, *, siege: bool = False) -> None:
        self.world, self.place, self.kind = world, place, kind
        self.rng = random.Random(seed)
        self._said: set[tuple[object, ...]] = set()
        sometimes(f"traitor: {kind}")
        brains = 2 if kind in ("twins", "amnesiac") else 1
        self.brains = [world.add_brain(place, honest=False) for _ in range(brains)]
        habits = self.SIEGE_HABITS if siege else self.HABITS
        self.habits = self.rng.sample(habits, self.rng.randint(1 if kind == "single" else 0, 3))
        leaving = self.rng.sample(Leaver.HABITS, self.rng.randint(1, 3)) if siege else []
        self.leaver = Leaver(world, place, leaving, self.rng)
        for habit in self.habits:
            sometimes(f"traitor: {habit}")
        for brain in self.brains:
            brain.before_seal = partial(self._speak, brain)
        getattr(self, "_" + kind)()

    # --- kinds --------------------------------------------------------------------------------------

    def _single(self) -> None:
        """Everybody sees the same of it."""

    def _twins(self) -> None:
        """Two of it: each half of the others sees one; some see both, and have evidence."""
        halves = [self.rng.random() for _ in self.world.places]
        self.brains[0].audience = lambda other: halves[other] < 0.55
        self.brains[1].audience = lambda other: halves[other] > 0.45

    def _silent(self) -> None:
        """Says nothing, for ever."""
        self.brains[0].audience = lambda other: False

    def _withholder(self) -> None:
        """Says everything, but only to some, and others in other moments."""
        world = self.world
        offset = self.rng.randint(0, 10_000)
        self.brains[0].audience = lambda other: ((world.now + offset) // 700 + other) % 3 == 0

    def _replayer(self) -> None:
        """Sends old batches of everybody again and again."""
        self.world.after(self.rng.randint(50, 400), self._replay)

    def _amnesiac(self) -> None:
        """Comes back with an old disk or an empty one (A3, B5), and votes again: its first life is over."""
        first, second = self.brains
        self.world.crash(second)
        self.world.after(self.rng.randint(500, 4_000), partial(self._forget, first, second))

    def _haggler(self) -> None:
        """As leader it PROPOSEs once more, in the same view, what other NEWVIEWs of a quorum lead to."""
        self.habits = ["haggler"]

    # --- habits -------------------------------------------------------------------------------------

    def _speak(self, brain: Brain, validator: Validator, now: int) -> None:
        """Twist what is about to be signed."""
        if not validator.voting:
            return
        if self.leaver.habits:
            self.leaver.speak(brain, validator, now)
        if not self.habits:
            return
        entries = validator._log._entries
        for index, record in enumerate(entries):
            if record[0] == NEWVIEW:
                entries[index] = self._twist_newview(validator, record)
            elif record[0] == PROPOSE and "false leader" in self.habits:
                entries[index] = self._twist_propose(brain, validator, record)
        for slot_id, slot in list(validator._table.slots.items()):
            rivals = [candidate.id for candidate in slot.candidates]
            if not rivals:
                continue
            views = self._views(slot)
            if "double voter" in self.habits and len(rivals) > 1:
                sometimes("a traitor LOCKs both")
                for id_ in rivals:
                    for view in views:
                        self._say(validator, lock_entry(view, id_, None if not view else id_), now)
            if "hasty committer" in self.habits:
                sometimes("a traitor COMMITs what is not prepared")
                for id_ in rivals:
                    for view in views:
                        self._say(validator, commit_entry(view, id_), now)
            if "forger" in self.habits and slot.contest is not None:
                self._forge(brain, validator, slot_id, slot, rivals, now)
            if "haggler" in self.habits and slot.contest is not None:
                self._propose_again(brain, validator, slot_id, slot.contest, now)

    def _views(self, slot: Slot) -> list[int]:
        """Views to speak of: now and then of those that it has left, or not yet entered."""
        entered = slot.contest.entered if slot.contest is not None else 0
        return sorted(
            {0, entered} if self.rng.random() < 0.5 else {entered, entered + self.rng.randint(0, 1)}
        )

    def _say(self, validator: Validator, entry: bytes, now: int) -> None:
        if (id(validator), entry) not in self._said:
            self._said.add((id(validator), entry))
            validator._log.add(entry, now)

    def _twist_newview(self, validator: Validator, record: bytes) -> bytes:
        said = read_entry(record)
        assert isinstance(said, NewView)
        slot = validator._table.slots.get((said.object, said.seq))
        rivals = [candidate.id for candidate in slot.candidates] if slot is not None else []
        if said.prepared is not None and "hider" in self.habits:
            sometimes("a traitor hides a certificate")
            candidate = self.rng.choice(rivals) if rivals else said.operation
            return newview_entry(said.view, said.object, said.seq, None, candidate)
        gated = [c.id for c in slot.candidates if c.parsed and is_gated(c.parsed)] if slot is not None else []
        if said.prepared is None and "gate crasher" in self.habits and gated:
            sometimes("a traitor names what is gated")
            return newview_entry(said.view, said.object, said.seq, None, self.rng.choice(gated))
        if "liar" in self.habits and rivals:
            if self.rng.random() < 0.3:
                sometimes("a traitor reports what is not prepared")
                claim = (self.rng.randrange(said.view), self.rng.choice(rivals))
                return newview_entry(said.view, said.object, said.seq, claim, None)
            sometimes("a traitor lies about candidates")
            others = list(validator._table.candidates)
            candidate = self.rng.choice(rivals if self.rng.random() < 0.7 else others)
            return newview_entry(said.view, said.object, said.seq, None, candidate)
        return record

    def _twist_propose(self, brain: Brain, validator: Validator, record: bytes) -> bytes:
        """Another value than follows from the justification, or a justification that shows too little."""
        said = read_entry(record)
        assert isinstance(said, Propose)
        slot = validator._table.slots.get((said.object, said.seq))
        rivals = [candidate.id for candidate in slot.candidates] if slot is not None else []
        value = self.rng.choice(rivals) if rivals else said.operation
        raw = validator.attachment(said.justification)
        if raw is None or self.rng.random() < 0.5:
            sometimes("a leader proposes what does not follow")
            return propose_entry(said.view, value, said.justification, said.object, said.seq)
        shown = read_justification(raw)
        how = self.rng.randrange(4)
        if how == 0:
            shown = replace(shown, newviews=shown.newviews[: self.rng.randint(1, len(shown.newviews))])
        elif how == 1:
            shown = replace(shown, prepared=None)
        elif how == 2:
            shown = replace(shown, candidates=shown.candidates[1:])
        else:
            shown = replace(shown, newviews=(shown.newviews[0],) * len(shown.newviews))
        sometimes("a leader's justification shows too little")
        forged = self._attach(brain, encode(shown))
        return propose_entry(said.view, value, forged, said.object, said.seq)

    def _forge(
        self, brain: Brain, validator: Validator, slot_id: SlotId, slot: Slot, rivals: list[bytes], now: int
    ) -> None:
        """As leader: PROPOSE early, with whatever NEWVIEWs are here, of whatever view; several values."""
        contest = slot.contest
        assert contest is not None
        view = contest.entered + self.rng.randint(0, 1)
        if view == 0 or validator._desk.leader(slot_id, view) != self.place:
            return
        key = ("forged", id(validator), slot_id, view)
        if key in self._said or not contest.heard:
            return
        self._said.add(key)
        newviews = tuple(
            attest(validator._archive.batch(member, heard.height), heard.position)
            for member, heard in sorted(contest.heard.items())
        )
        named = sorted({h.report.candidate for h in contest.heard.values() if h.report.candidate})
        held = {candidate.id: candidate for candidate in slot.candidates}
        proofs = tuple(
            Proof(id_, held[id_].proof.signatures, held[id_].proof.closer) for id_ in named if id_ in held
        )
        made = Justification(validator.epoch, *slot_id, view, newviews, None, proofs)
        sometimes("a leader forges a justification")
        forged = self._attach(brain, encode(made))
        for value in self.rng.sample(rivals, min(2, len(rivals))):
            validator._log.add(propose_entry(view, value, forged, *slot_id), now)

    def _propose_again(
        self, brain: Brain, validator: Validator, slot_id: SlotId, contest: Contest, now: int
    ) -> None:
        """Each of its PROPOSEs is justified: what may be LOCKed in a view is not one value by itself."""
        view = contest.entered
        if view == 0 or contest.proposed != view:
            return
        heard = contest.in_view(view)
        for one in heard:
            others = {member: each for member, each in heard.items() if member != one}
            if validator.committee.weight_of(others) < validator.committee.quorum:
                continue
            made = validator._contention._leading._justify(slot_id, others, view, now)
            if made is None or (id(validator), slot_id, view, made[0]) in self._said:
                continue
            self._said.add((id(validator), slot_id, view, made[0]))
            sometimes("a leader PROPOSEs twice")
            shown = self._attach(brain, made[1])
            validator._log.add(propose_entry(view, made[0], shown, *slot_id), now)

    def _attach(self, brain: Brain, raw: bytes) -> bytes:
        self.world.auditor.attached(raw)
        self.world.push(brain, partial(self.world._take_attachment, raw, f"validator {self.place}"))
        return attachment_id(raw)

    # --- deeds --------------------------------------------------------------------------------------

    def _replay(self) -> None:
        self.world.after(self.rng.randint(100, 600), self._replay)
        brain = self.brains[0]
        if not brain.disk.raw:
            return
        places = sorted(brain.disk.raw)
        for epoch, member, height in self.rng.sample(places, min(3, len(places))):
            raw = brain.disk.raw[epoch, member, height]
            take = partial(self.world._take_batch, raw)
            sometimes("a replayed batch")
            self.world.push(brain, take)

    def _forget(self, first: Brain, second: Brain) -> None:
        if self.rng.random() < LOST_SHARE:
            image, what = MemoryJournal(self.world.genesis), "a lost disk"  # row B5: nothing is on it
        else:
            image, what = first.disk.image(), "an old disk"
        self.world.after(self.rng.randint(200, 3_000), partial(self._awake, first, second, image, what))

    def _awake(self, first: Brain, second: Brain, image: MemoryJournal, what: str) -> None:
        self.world.crash(first)
        first.audience = lambda other: False
        second.disk = image
        sometimes(what)
        self.world.start(second)
