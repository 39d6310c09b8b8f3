"""Members of the genesis that give up their seats, come back with bonds, and would be the last to go.

A member's waiver is signed by its own key, on the account of that key alone. What looks like one and is not
is tried, too. Traitors stay below a third of what sits: that much every committee has to promise itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ainp2p.ledger.rules.operations import BOND_PURPOSE, LockTerms, Share
from ainp2p.protocol.identity import Key
from tests.adversary.book import born
from tests.adversary.marks import sometimes
from tests.adversary.people import Person, Town
from tests.adversary.world import alone

DEPOSITS = (1, 500)  # uain: a waiver may hold anything


@dataclass
class Member(Person):
    """The account of a validator's key alone."""

    place: int = 0
    signer: Key | None = None

    def key(self, generation: int | None = None) -> Key:
        assert self.signer is not None
        return self.signer


class Exodus:
    """What members do, besides what their validators do."""

    def __init__(self, town: Town) -> None:
        self.town, self.world, self.rng = town, town.world, town.rng
        self.members = [self._member(place) for place in range(self.world.n)]
        self.going: set[int] = set()  # a waiver of theirs was sent
        town.members = list(self.members)
        auditor = self.world.auditor
        auditor.honest_owners |= {member.id for member in self.members if member.honest}
        honest = [key.public for place, key in enumerate(self.world.keys) if place in auditor.honest]
        town.closers = [*honest, *(key.public for key in self.world.keys[self.world.n :])] * 2
        town.doors = self.world.places
        town.deeds += [(6, self.waive), (1, self.waive_for_another), (1, self.half_a_waiver)]

    def _member(self, place: int) -> Member:
        key = self.world.keys[place]
        inception = alone(key)
        honest = place in self.world.auditor.honest
        id_ = born(self.world.network, inception).id
        return Member(f"member {place}", honest, inception, id_, place=place, signer=key)

    def _may_go(self, member: Member) -> bool:
        """Whether those who stay are enough against all traitors, who may not mean their waivers."""
        going = {*self.going, member.place}
        weights = {True: 0, False: 0}
        for each in self.members:
            goes = each.honest and each.place in going
            weights[each.honest] += 0 if goes else self.world.weights[each.place]
        faithful = all(each.honest for each in self.members)
        return faithful or 2 * weights[False] < weights[True]

    def _free(self) -> Member | None:
        town = self.town
        free = [m for m in self.members if m.pending is None and not town._crowded(m.id) and self._may_go(m)]
        staying = [member for member in free if member.place not in self.going]
        return self.rng.choice(staying or free) if free else None

    def waive(self) -> None:
        """A member gives its seat up; a faulty one may sign something else beside it."""
        member = self._free()
        if member is None:
            return
        self.going.add(member.place)
        terms = self._terms([self.world.network], self.rng.choice(DEPOSITS), member.key().public)
        waiver = self.town.maker.spend(member, [], self.world.now, locks=[terms])
        if not member.honest and self.rng.random() < 0.5:
            sometimes("a waiver and its rival")
            self.town._split([waiver, self.town.maker.spend(member, [], self.world.now)])
            return
        member.pending = waiver
        member.pending_id = self.town.submit(waiver, self.town._some())
        sometimes("a member waives")

    def waive_for_another(self) -> None:
        """Somebody pays the System a bond for a member: a bond like any other."""
        self._bond(self.world.network)

    def half_a_waiver(self) -> None:
        """A member's own bond, which pays others than the System alone: a bond like any other, too."""
        free = [member for member in self.members if member.honest and member.pending is None]
        if not free:
            return
        member = self.rng.choice(free)
        to = [self.world.network, self.town.people[0].id]
        terms = self._terms(to[self.rng.randint(0, 1) :], 500, member.key().public)
        if self.world.auditor.book.head(member.id)[0] or member.id in self.world.auditor.book.inboxes:
            member.pending = self.town.maker.spend(member, [], self.world.now, locks=[terms])
            member.pending_id = self.town.submit(member.pending, self.town._some())
            sometimes("half a waiver")

    def _bond(self, to: bytes) -> None:
        payer = self.town._free(True)
        if payer is None:
            return
        deposit = self.town.maker.purse(payer).balance // self.rng.choice((2, 3))
        if deposit < 1_000:
            return
        terms = self._terms([to], deposit, self.rng.choice(self.town.closers))
        sometimes("somebody waives another's seat")
        payer.pending = self.town.maker.spend(payer, [], self.world.now, locks=[terms])
        payer.pending_id = self.town.submit(payer.pending, self.town._some())

    def _terms(self, to: list[bytes], deposit: int, closer: bytes) -> LockTerms:
        more: dict[str, Any] = {"threshold": 1, "closer": closer, "purpose": BOND_PURPOSE}
        return LockTerms(
            beneficiaries=tuple(Share(account, 1) for account in sorted(to)),
            deposit=deposit,
            step=deposit,
            authority=(self.world.network,),
            expiry=self.world.now + self.rng.choice((1_500, 5_000, 600_000)),
            **more,
        )


__all__ = ["Exodus", "Member"]
