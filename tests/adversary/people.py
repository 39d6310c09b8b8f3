"""Who uses the ledger, well or badly: each deed is a few operations handed to some of the validators.

What people know is the auditor's `Book`: final heads and final credits. Honest owners sign once and send the
same bytes until they are final. Everybody else does what it likes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ainp2p.ledger.rules.operations import (
    BOND_PURPOSE,
    Close,
    Inception,
    LockTerms,
    Operation,
    Out,
    Recover,
    Refund,
    Rotation,
    Settle,
    Share,
    SignedOperation,
    Spend,
)
from ainp2p.protocol.codec import encode
from ainp2p.protocol.identity import Key, digest
from tests.adversary.book import Book, Deposit, Purse, born, digest_of, settling_fee
from tests.adversary.marks import sometimes
from tests.adversary.world import World, key_of

RIVALS_MAX = 5  # more would not make a slot harder
CONTEXT = b"c" * 32


@dataclass
class Person:
    """An owner; `generation` counts its keys."""

    name: str
    honest: bool
    inception: Inception
    id: bytes = b""
    pending: SignedOperation | None = None
    pending_id: bytes = b""
    generation: int = 0

    def key(self, generation: int | None = None) -> Key:
        return key_of(f"{self.name} {self.generation if generation is None else generation}")


def make_people(honest: int, cheats: int, lease_ms: int) -> list[Person]:
    """Owners with guardians; the last ones cheat."""
    people = []
    for i in range(honest + cheats):
        name = f"person {i}"
        guardians = tuple(sorted(key_of(f"guardian {j} of {name}").public for j in range(3)))
        inception = Inception(
            key=key_of(f"{name} 0").public,
            next_digest=_next_digest(key_of(f"{name} 1").public),
            guardians=guardians,
            m=2,
            lease=lease_ms,
            salt=bytes(32),
        )
        people.append(Person(name, i < honest, inception))
    return people


def _next_digest(public: bytes) -> bytes:
    return digest(b"ainp2p/nextkey/1", public)


class Maker:
    """Builds operations from what the book shows, by LEDGER.md alone."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.behind = 0  # epochs: whose parameters people name

    def purse(self, person: Person) -> Purse:
        return self.book.purses.get(person.id) or born(self.book.network, person.inception)

    def spend(
        self,
        person: Person,
        outs: Sequence[tuple[bytes, int]],
        now: int,
        *,
        locks: Sequence[LockTerms] = (),
        rotate: bool = False,
        ahead: Sequence[tuple[bytes, int]] = (),
        fee: int = 0,
        before: Purse | None = None,
    ) -> SignedOperation:
        """The next SPEND; `ahead` are (credit id, amount) that are not final yet, `fee` comes on top."""
        book = self.book
        before = before or self.purse(person)
        mine = dict(sorted(book.inboxes.get(person.id, {}).items()))
        mine.update(ahead)
        received = sum(mine.values())
        floor = book.rules.fee_floor
        fee += floor + before.debt + sum(settling_fee(terms, floor) for terms in locks)
        left = before.balance + received - fee
        left -= sum(amount for _, amount in outs) + sum(terms.deposit for terms in locks)
        generation = person.generation + (1 if rotate else 0)
        key, next_digest = before.key, before.next_digest
        rotation = None
        if rotate:
            key = person.key(generation).public
            next_digest = _next_digest(person.key(generation + 1).public)
            rotation = Rotation(key, next_digest)
        timestamp = max(now, before.timestamp)
        epoch = max(before.epoch, book.epoch - self.behind)
        after = replace(
            before,
            epoch=epoch,
            seq=before.seq + 1,
            balance=left,
            debt=0,
            key=key,
            next_digest=next_digest,
            timestamp=timestamp,
        )
        body = Spend(
            epoch=epoch,
            credits=tuple(sorted(mine)),
            outs=tuple(Out(to, amount) for to, amount in outs),
            locks=tuple(locks),
            fee=fee,
            inception=None if before.seq else person.inception,
            rotate=rotation,
            digest=digest_of(after),
        )
        operation = Operation(1, book.network, person.id, before.seq + 1, before.head, timestamp, body)
        return sign(operation, person.key(generation))

    def recover(self, person: Person, now: int) -> SignedOperation:
        """Two of three guardians give the account the key after its current one."""
        before = self.purse(person)
        key = person.key(person.generation + 1).public
        next_digest = _next_digest(person.key(person.generation + 2).public)
        after = replace(before, seq=before.seq + 1, key=key, next_digest=next_digest, timestamp=now)
        body = Recover(key, next_digest, digest_of(after))
        raw = encode(Operation(1, self.book.network, person.id, before.seq + 1, before.head, now, body))
        guardians = sorted((key_of(f"guardian {j} of {person.name}") for j in range(3)), key=_public)[:2]
        id_ = digest(b"ainp2p/op/1", raw)
        return SignedOperation(raw, tuple(g.sign(b"ainp2p/recover/1", id_) for g in guardians), None)

    def on_lock(
        self,
        deposit: Deposit,
        body: Settle | Close | Refund,
        closer: Key | None = None,
        signer: Key | None = None,
    ) -> SignedOperation:
        """An operation on the Lock's head, with the session key's receipt if its body has one."""
        operation = Operation(1, self.book.network, deposit.id, deposit.seq + 1, deposit.head, None, body)
        raw = encode(operation)
        id_ = digest(b"ainp2p/op/1", raw)
        signatures: tuple[bytes, ...] = ()
        if not isinstance(body, Refund) and body.context:
            receipt = encode((self.book.network, deposit.id, body.cumulative, body.units, body.context))
            keys = [signer] if signer is not None else signers(deposit)
            signatures = tuple(key.sign(b"ainp2p/receipt/1", receipt) for key in keys)
        closing = closer.sign(b"ainp2p/close/1", id_) if closer is not None else None
        return SignedOperation(raw, signatures, closing)


def _id(signed: SignedOperation) -> bytes:
    return digest(b"ainp2p/op/1", signed.raw)


def session_key() -> Key:
    return key_of("session")


def verifier_keys() -> list[Key]:
    """Who signs for an escrow, in the order of their keys."""
    return sorted((key_of(f"verifier {n}") for n in range(3)), key=_public)


def signers(deposit: Deposit) -> list[Key]:
    """As many as must sign, of those who may; which ones depends on the head."""
    if len(deposit.authority) == 1:
        return [session_key()]
    keys = verifier_keys()
    del keys[deposit.head[0] % len(keys)]
    return keys[: deposit.threshold]


def closer_key() -> Key:
    return key_of("closer")


def _public(key: Key) -> bytes:
    return key.public


def sign(operation: Operation, key: Key) -> SignedOperation:
    raw = encode(operation)
    return SignedOperation(raw, (key.sign(b"ainp2p/op/1", digest(b"ainp2p/op/1", raw)),), None)


@dataclass
class Channel:
    """What a payee and its watchtowers hold for a Lock."""

    id: bytes
    highest: int = 0


class Town:
    """Everybody, and what they do when their turn comes.

    Attributes:
        sent: all operations that were handed to anybody, in order.
        contended: slots for which rivals were sent.
        doors: places that take what people submit.
        closers: keys that people bond for.
        members: accounts of validators' keys.
    """

    def __init__(self, world: World, people: Sequence[Person], seed: str, *, siege: bool = False) -> None:
        self.world = world
        self.rng = random.Random(seed)
        self.people = list(people)
        self.maker = Maker(world.auditor.book)
        for person in self.people:
            person.id = born(world.network, person.inception).id
        world.auditor.honest_owners = {person.id for person in people if person.honest}
        self.sent: dict[bytes, SignedOperation] = {}
        self.channels: dict[bytes, Channel] = {}
        self.contended: set[tuple[bytes, int]] = set()
        self.quiet = False
        self.doors: Sequence[int] = range(world.n)
        self.closers = [key.public for key in (*world.keys, *world.keys[world.n :] * 3)]
        self.members: list[Person] = []
        self.deeds: list[tuple[int, Any]] = [
            (4, self.honest_spend),
            (8, self.sign_twice),
            (2, self.spend_ahead),
            (4, self.open_lock),
            (6, self.race_settles),
            (4, self.starve),
            (5, self.race_the_end),
            (1, self.rotate),
            (2, self.garbage),
            (1, self.garbage_on_locks),
            (2, self.guardians_race),
        ]
        if siege:
            self.deeds += [
                (4, self.open_escrow),
                (3, self.open_bond),
                (6, self.crash_a_gate),
                (1, self.end_a_bond),
                (2, self.garbage_on_escrows),
                (6, self.refund),
            ]

    # --- handing over -----------------------------------------------------------------------------

    def submit(self, signed: SignedOperation, to: Sequence[int] | None = None) -> bytes:
        id_ = _id(signed)
        self.sent[id_] = signed
        for place in self.doors if to is None else to:
            self.world.deliver(place, signed)
        return id_

    def _some(self, least: int = 1) -> list[int]:
        return self.rng.sample(self.doors, self.rng.randint(least, len(self.doors)))

    def _halves(self, parts: int) -> list[list[int]]:
        """Each part of the committee is shown another thing."""
        places = list(self.doors)
        self.rng.shuffle(places)
        halves: list[list[int]] = [[] for _ in range(parts)]
        for index, place in enumerate(places):
            halves[index % parts].append(place)
        if self.rng.random() < 0.3:  # one sees both
            halves[0].append(halves[-1][-1])
        return halves

    def _split(self, rivals: Sequence[SignedOperation]) -> None:
        for signed, to in zip(rivals, self._halves(len(rivals)), strict=True):
            self.submit(signed, to)
        operation = self.world.auditor.operations[_id(rivals[0])].operation
        self.contended.add((operation.object, operation.seq))

    # --- turns --------------------------------------------------------------------------------------

    def live(self, every_ms: tuple[int, int]) -> None:
        """Do a burst of things, again and again until `quiet`."""
        if self.quiet:
            return
        self.world.after(self.rng.randint(*every_ms), lambda: self.live(every_ms))
        self.maker.behind = self.rng.choice((0, 0, 1))
        self.retry()
        self.burst()

    def burst(self) -> None:
        deeds = [deed for weight, deed in self.deeds for _ in range(weight)]
        for _ in range(self.rng.randint(2, 6)):
            self.rng.choice(deeds)()

    def retry(self) -> None:
        """Honest owners send what is not final yet once more."""
        for person in (*self.people, *self.members):
            if person.pending is not None:
                if self._is_decided(person):
                    person.pending = None
                elif self.rng.random() < 0.5:
                    self.submit(person.pending, self._some())

    def _is_decided(self, person: Person) -> bool:
        assert person.pending is not None
        operation = self.world.auditor.operations[person.pending_id].operation
        decided = self.world.auditor.decided.get((operation.object, operation.seq))
        if decided is None:
            return False
        if decided == person.pending_id:
            body = operation.body
            if isinstance(body, Spend) and body.rotate is not None:
                person.generation += 1
        return True

    def _free(self, honest: bool) -> Person | None:
        free = [p for p in self.people if p.honest == honest and p.pending is None]
        free = [p for p in free if self._in_charge(p) and not self._crowded(p.id)]
        return self.rng.choice(free) if free else None

    def _crowded(self, object_: bytes) -> bool:
        """Enough rivals wait for the next slot of this object."""
        auditor = self.world.auditor
        return len(auditor.rivals.get((object_, auditor.book.head(object_)[0] + 1), ())) >= RIVALS_MAX

    def _in_charge(self, person: Person) -> bool:
        """Guardians may have given the account another key; a cheat follows its own rotations."""
        key = self.maker.purse(person).key
        for generation in (person.generation, person.generation + 1):
            if person.key(generation).public == key:
                person.generation = generation
                return True
        return False

    def _out(self, person: Person, most: int = 50) -> tuple[bytes, int]:
        others = [other for other in self.people if other is not person]
        return self.rng.choice(others).id, self.rng.randint(1, most)

    # --- accounts -----------------------------------------------------------------------------------

    def honest_spend(self, **more: Any) -> None:
        person = self._free(True)
        if person is None:
            return
        person.pending = self.maker.spend(person, [self._out(person)], self.world.now, **more)
        person.pending_id = self.submit(person.pending, self._some())

    def rotate(self) -> None:
        self.honest_spend(rotate=True)

    def sign_twice(self) -> None:
        """An owner that restored a backup, or cheats: two or three operations for one slot."""
        person = self._free(False)
        if person is None:
            return
        rivals = []
        for index in range(self.rng.choice((2, 2, 2, 3))):
            rotate = index == 1 and self.rng.random() < 0.1
            later = self.world.now + self.rng.choice((0, 0, 0, 1, 90_000))
            rivals.append(
                self.maker.spend(person, [self._out(person, 50 + index)], later, rotate=rotate, fee=index)
            )
        sometimes("an owner signs twice")
        self._split(rivals)
        if self.rng.random() < 0.3:  # "dependencies between objects": one of the credits is spent at once
            self._depend_on(self.rng.choice(rivals))

    def spend_ahead(self) -> None:
        """An owner consumes credits of operations that are not decided, and may never be."""
        undecided = [s for id_, s in self.sent.items() if id_ not in self.world.auditor.final]
        if undecided:
            self._depend_on(self.rng.choice(undecided[-8:]))

    def _depend_on(self, signed: SignedOperation) -> None:
        parsed = self.world.auditor.operations.get(_id(signed))
        if parsed is None:
            return
        body = parsed.operation.body
        if not isinstance(body, Spend):
            return
        for index, out in enumerate(body.outs):
            payee = next((p for p in self.people if p.id == out.account), None)
            if payee is None or payee.honest or not self._in_charge(payee) or self._crowded(payee.id):
                continue
            credit = (parsed.id + index.to_bytes(2, "big"), out.amount)
            rivals = [
                self.maker.spend(payee, [self._out(payee)], self.world.now, ahead=[credit]),
                self.maker.spend(payee, [self._out(payee)], self.world.now, fee=3),
            ]
            sometimes("a slot depends on a contended slot")
            self._split(rivals)

    def guardians_race(self) -> None:
        """RECOVER, against an owner that speaks, or does not, or speaks twice."""
        person = self._free(False)
        if person is None or not self.maker.purse(person).seq:
            return
        now = self.world.now
        purse = self.maker.purse(person)
        recover = self.maker.recover(person, max(now, purse.timestamp + purse.lease))
        rivals = [recover]
        for fee in range(self.rng.choice((0, 1, 1, 2))):
            rivals.append(self.maker.spend(person, [self._out(person)], now, fee=fee))
        if self.rng.random() < 0.2:  # guardians that disagree
            rivals.append(self.maker.recover(person, now + purse.lease + 1))
        sometimes("guardians race their owner")
        self._split(rivals)

    def garbage(self) -> None:
        """Operations that nobody may vote for."""
        person = self._free(False)
        if person is None:
            return
        now, maker = self.world.now, self.maker
        purse = maker.purse(person)
        good = maker.spend(person, [self._out(person)], now)
        bad = [
            SignedOperation(good.raw, (key_of("stranger").sign(b"ainp2p/op/1", _id(good)),), None),
            maker.spend(person, [(self.people[0].id, 2**40)], now),
            maker.spend(person, [], now + 10_000_000),
            maker.spend(person, [(self.people[0].id, 0)], now),
            maker.spend(person, [self._out(person)], now, fee=-purse.debt if purse.debt else -1),
            maker.spend(person, [self._out(person)], now, before=replace(purse, seq=purse.seq + 1)),
            maker.spend(person, [self._out(person)], now, before=replace(purse, balance=purse.balance + 7)),
        ]
        if purse.seq:
            bad.append(maker.recover(person, purse.timestamp + purse.lease // 2))
        sometimes("garbage")
        self.submit(self.rng.choice(bad), self._some())

    def garbage_on_locks(self) -> None:
        """The same on Locks: what pays nothing more, too much, too little, under another key."""
        choices = self._open()
        if not choices:
            return
        deposit, on = self.rng.choice(choices), self.maker.on_lock
        bad = [
            on(deposit, self._receipt(deposit, deposit.paid)),
            on(deposit, self._receipt(deposit, deposit.deposit + 1)),
            on(deposit, self._receipt(deposit, min(deposit.deposit, deposit.paid + 1))),
            on(deposit, self._receipt(deposit, deposit.deposit), signer=key_of("stranger")),
            on(deposit, Close(deposit.deposit, 1, CONTEXT), closer=key_of("stranger")),
            on(replace(deposit, seq=deposit.seq + 1), Refund()),
        ]
        sometimes("garbage on a Lock")
        self.submit(self.rng.choice(bad), self._some())

    def garbage_on_escrows(self) -> None:
        """Fewer verifiers than must sign, one of them twice, or in another order."""
        choices = [deposit for deposit in self._open() if deposit.threshold > 1]
        if not choices:
            return
        deposit = self.rng.choice(choices)
        good = self.maker.on_lock(deposit, self._receipt(deposit, deposit.deposit))
        one, two = good.signatures
        sometimes("verifiers sign too little")
        signatures = self.rng.choice(((one,), (one, one), (two, one), (one, two, two)))
        self.submit(SignedOperation(good.raw, signatures, None), self._some())

    # --- Locks --------------------------------------------------------------------------------------

    def open_lock(self) -> None:
        payer = self._free(True)
        if payer is None:
            return
        now = self.world.now
        others = sorted(person.id for person in self.people if person is not payer)
        shares = tuple(Share(id_, self.rng.randint(1, 3)) for id_ in sorted(self.rng.sample(others, 2)))
        terms = LockTerms(
            beneficiaries=shares if self.rng.random() < 0.5 else shares[:1],
            deposit=1_000,
            step=self.rng.choice((1, 10, 300)),
            authority=(session_key().public,),
            threshold=1,
            closer=closer_key().public,
            expiry=now + self.rng.choice((1_500, 3_000, 6_000, 60_000)),
            purpose=bytes(32),
        )
        payer.pending = self.maker.spend(payer, [], now, locks=[terms] * self.rng.randint(1, 3))
        payer.pending_id = self.submit(payer.pending, self._some())

    def open_escrow(self) -> None:
        """A Lock that two of three verifiers pay out."""
        payer = self._free(True)
        if payer is None:
            return
        now, authority = self.world.now, tuple(key.public for key in verifier_keys())
        to = self.rng.choice([person for person in self.people if person is not payer]).id
        terms = LockTerms(
            beneficiaries=(Share(to, 1),),
            deposit=1_000,
            step=self.rng.choice((1, 10, 300)),
            authority=authority,
            threshold=2,
            closer=closer_key().public,
            expiry=now + self.rng.choice((1_500, 3_000, 60_000)),
            purpose=bytes(32),
        )
        payer.pending = self.maker.spend(payer, [], now, locks=[terms])
        payer.pending_id = self.submit(payer.pending, self._some())

    def open_bond(self) -> None:
        """Somebody bonds for a follower, a member, or a traitor."""
        payer = self._free(True)
        if payer is None:
            return
        now, most = self.world.now, self.maker.purse(payer).balance
        most += sum(self.world.auditor.book.inboxes.get(payer.id, {}).values())
        deposit = self.rng.choice((most // 2, most // 2, 1_000))
        if deposit < 1_000:
            return
        terms = LockTerms(
            beneficiaries=(Share(payer.id, 1),),
            deposit=deposit,
            step=deposit,
            authority=(self.world.network,),
            threshold=1,
            closer=self.rng.choice(self.closers),
            expiry=now + self.rng.choice((3_000, 10_000, 600_000)),
            purpose=BOND_PURPOSE,
        )
        sometimes("somebody bonds")
        payer.pending = self.maker.spend(payer, [], now, locks=[terms])
        payer.pending_id = self.submit(payer.pending, self._some())

    def refund(self) -> None:
        """A Lock that has expired; its payer takes back what is left, if nobody holds a receipt."""
        expired = [deposit for deposit in self._open() if deposit.expiry <= self.world.now]
        if expired:
            untouched = [deposit for deposit in expired if not deposit.seq]
            self.submit(self.maker.on_lock(self.rng.choice(untouched or expired), Refund()))

    def end_a_bond(self) -> None:
        """Nobody may, but a COMMITTEE."""
        bonds = [bond for bond in self.world.auditor.book.deposits.values() if bond.bond and not bond.ended]
        if bonds:
            sometimes("somebody would end a bond")
            bond = self.rng.choice(bonds)
            self.submit(self.maker.on_lock(bond, Refund()), self._some())

    def crash_a_gate(self) -> None:
        """A receipt less than a step above what is paid: its CLOSE, which must wait, against the closer's."""
        choices = [each for each in self._open() if each.paid + 3 < min(each.deposit, each.paid + each.step)]
        if not choices:
            return
        deposit = self.rng.choice(choices)
        more = self.rng.randint(deposit.paid + 2, min(deposit.deposit, deposit.paid + deposit.step) - 1)
        sometimes("a CLOSE that must wait meets the closer's")
        self.submit(self.maker.on_lock(deposit, Close(more, 1, CONTEXT)))
        less = Close(self.rng.randint(deposit.paid + 1, more - 1), 1, CONTEXT)
        bodies = (Close(deposit.paid, 0, b""), less)
        self._split([self.maker.on_lock(deposit, body, closer_key()) for body in bodies])

    def _open(self) -> list[Deposit]:
        found = [
            each for each in self.world.auditor.book.deposits.values() if not each.ended and not each.bond
        ]
        return [deposit for deposit in found if not self._crowded(deposit.id)]

    def _receipt(self, deposit: Deposit, cumulative: int) -> Settle:
        return Settle(cumulative, cumulative, CONTEXT)

    def _can_settle(self, deposit: Deposit, cumulative: int) -> bool:
        return deposit.paid < cumulative <= deposit.deposit and (
            cumulative - deposit.paid >= deposit.step or cumulative == deposit.deposit
        )

    def race_settles(self) -> None:
        """Two receipts, each shown to a half."""
        choices = [
            deposit for deposit in self._open() if deposit.paid + 2 * deposit.step + 20 < deposit.deposit
        ]
        if not choices:
            return
        deposit = self.rng.choice(choices)
        low = deposit.paid + deposit.step + self.rng.randint(0, 5)
        high = low + self.rng.randint(1, 10)
        self._split([self.maker.on_lock(deposit, self._receipt(deposit, c)) for c in (low, high)])

    def starve(self) -> None:
        """A payer keeps the slot busy with stale settlements while the payee shows its highest receipt."""
        choices = [deposit for deposit in self._open() if deposit.paid + deposit.step + 3 < deposit.deposit]
        if not choices:
            return
        deposit = self.rng.choice(choices)
        stale = deposit.paid + deposit.step
        best = min(deposit.deposit, stale + self.rng.randint(1, 200))
        sometimes("stale settlements")
        self._split([self.maker.on_lock(deposit, self._receipt(deposit, c)) for c in (stale, best)])

    def race_the_end(self) -> None:
        """At (or long before, or after) its expiry: REFUND, CLOSE with a receipt, CLOSE by the closer."""
        choices = self._open()
        if not choices:
            return
        deposit = self.rng.choice(choices)
        rivals = [self.maker.on_lock(deposit, Refund())]
        if deposit.paid < deposit.deposit:
            more = self.rng.randint(deposit.paid + 1, min(deposit.deposit, deposit.paid + deposit.step + 50))
            rivals.append(self.maker.on_lock(deposit, Close(more, 1, CONTEXT)))
            if self._can_settle(deposit, more):
                rivals.append(self.maker.on_lock(deposit, Settle(more, 1, CONTEXT)))
        if self.rng.random() < 0.3:
            rivals.append(self.maker.on_lock(deposit, Close(deposit.paid, 0, b""), closer_key()))
        if deposit.paid < deposit.deposit and self.rng.random() < 0.2:
            more = self.rng.randint(deposit.paid + 1, deposit.deposit)
            rivals.append(self.maker.on_lock(deposit, Close(more, 2, CONTEXT), closer_key()))
        self.rng.shuffle(rivals)
        sometimes("a race to end a Lock")
        self._split(rivals[:3])


__all__ = ["Maker", "Person", "Town", "make_people"]
