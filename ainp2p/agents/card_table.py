"""The cards that are known now: newest per agent, none expired, bounded. No I/O.

Of each skill so many are kept, those of connected peers first, then a choice that each table makes by its
own salt and keeps to: two tables know different sellers, and all sellers are known. Whoever compares tables
with this one is told what was passed over, too, so that nothing is sent again and again. Cards that offer
nothing are not compared: only who deals with such an agent wants its card, and asks for it.

Full, it gives up cards of the skill that has the most, so that KEPT_PER_SKILL_MAX sellers of any skill
stay known however many offer another one. Names of skills cost nothing, so before that it gives up cards of
peers that are not connected: whoever floods it makes us forget strangers, and not those that we deal with.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from ainp2p.errors import Expired, Malformed, RemoteError
from ainp2p.protocol.card import (
    ENTRY_SIZE,
    PUSH_MAX,
    SYNC_SIZE_MAX,
    Binding,
    Card,
    CardPush,
    Opened,
    is_remembered,
    open_card,
    said,
)
from ainp2p.protocol.identity import digest
from ainp2p.protocol.messages import Signed
from ainp2p.protocol.network import PeerId

CARDS_MAX = 4096
TABLE_SIZE_MAX = 64 << 20  # bytes of signed cards; about twice that in memory. Ours have one or two KiB
KEPT_PER_SKILL_MAX = 64
NEVER_MS = 1 << 62
LAST_MAX = 64  # cards of a crowded skill that are looked at for one to give up: a flood of which none may go
PASSED_MAX = 1024  # cards that are remembered as passed over


@dataclass(frozen=True, slots=True)
class Held:
    """A card that a table took in, and the bytes that prove it.

    Attributes:
        is_news: it says something that the card before it did not.
    """

    card: Card
    signed: Signed
    is_news: bool = True


class CardTable:
    """Add cards from anywhere; ask who offers a skill, and what another table lacks."""

    def __init__(
        self,
        network: bytes,
        bound: Binding,
        *,
        cards_max: int = CARDS_MAX,
        size_max: int = TABLE_SIZE_MAX,
        per_skill_max: int = KEPT_PER_SKILL_MAX,
        connected: Callable[[], Collection[PeerId]] = tuple,
        salt: bytes = b"",
    ) -> None:
        """`salt`: our own key; it decides which cards of a crowded skill are kept, and our own is."""
        self._network, self._bound = network, bound
        self._cards_max, self._size_max, self._connected = cards_max, size_max, connected
        self._per_skill_max, self._salt = per_skill_max, salt
        self._passed: dict[bytes, bytes] = {}  # message id → what `held` says of it
        self._soonest = NEVER_MS  # nothing expires before
        self._size = 0  # bytes
        self._held: dict[bytes, Opened] = {}  # by agent id
        self._by_skill: dict[bytes, list[Opened]] = {}  # in the order in which a crowded skill keeps them
        self._large: dict[bytes, bytes] = {}  # message id → agent id, of cards that are not remembered
        self._list: bytes | None = None  # `held`, since the table was changed last

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Opened]:
        return iter(self._held.values())

    def get(self, agent: bytes) -> Opened | None:
        """An agent's newest card, if one is known."""
        return self._held.get(agent)

    def offering(self, skill: bytes) -> list[Opened]:
        """The cards that name a skill, by agent id."""
        return sorted(self._by_skill.get(skill, ()), key=_agent)

    def is_crowded(self, card: Card) -> bool:
        """Whether as many sellers as are kept are known for everything that a card offers."""
        return all(len(self._by_skill.get(skill.name, ())) >= self._per_skill_max for skill in card.skills)

    @property
    def is_full(self) -> bool:
        """Whether enough is known of every skill that is known at all."""
        crowds = self._by_skill.values()
        return bool(crowds) and all(len(crowd) >= self._per_skill_max for crowd in crowds)

    def add(self, signed: Signed, now_ms: int) -> Held | None:
        """Take a card in; None when it, or one like it, is held already, or it is one too many.

        Raises:
            Expired: its time is over, or it is a replay of one that was replaced.
            RemoteError: forged, malformed, or a second card with the same sequence.
        """
        if self._is_known_and_large(signed):
            return None
        opened = open_card(signed)
        card = opened.card
        before = self._held.get(card.agent)
        if opened.id in self._passed or (before is not None and before.signed == signed):
            return None
        opened.check(network=self._network, now_ms=now_ms, bound=self._bound)
        if before is not None:
            if card.sequence < before.card.sequence:
                raise Expired(f"a replayed card: {card.sequence} was replaced by {before.card.sequence}")
            if card.sequence == before.card.sequence:
                raise RemoteError("two different cards with the same sequence; the first one stays")
            self.remove(card.agent)
        self._keep(opened)
        for skill in card.skills:
            if len(self._by_skill.get(skill.name, ())) > self._per_skill_max:
                self._pass_over_one_of(skill.name)
        while len(self._held) > self._cards_max or self._size > self._size_max:
            self.remove(self._least_wanted())
        if card.agent not in self._held:
            return None
        return Held(card, opened.signed, before is None or said(card) != said(before.card))

    def _is_known_and_large(self, signed: Signed) -> bool:
        """Whether a card is held, or was passed over, whose signature would be verified once more."""
        if is_remembered(signed):
            return False
        id_ = signed.id
        return id_ in self._passed or (id_ in self._large and self._held[self._large[id_]].signed == signed)

    def _keep(self, opened: Opened) -> None:
        card = opened.card
        self._held[card.agent] = opened
        if not is_remembered(opened.signed):
            self._large[opened.id] = card.agent
        self._list = None
        self._soonest = min(self._soonest, card.expires)
        self._size += len(opened.signed.body)
        place = self._place(opened)
        for skill in card.skills:
            offering = self._by_skill.setdefault(skill.name, [])
            offering.insert(bisect(offering, place, key=self._place), opened)

    def _place(self, opened: Opened) -> bytes:
        """The lowest are kept where a skill is crowded. Seldom asked for, so no table keeps it."""
        if opened.signed.key == self._salt:
            return b""
        return digest(b"ainp2p/place/1", self._salt, opened.card.agent)

    def remove(self, agent: bytes) -> None:
        """Forget an agent's card."""
        held = self._held.pop(agent, None)
        if held is None:
            return
        self._list = None
        self._large.pop(held.id, None)
        self._size -= len(held.signed.body)
        for skill in held.card.skills:
            offering = self._by_skill[skill.name]
            offering.remove(held)
            if not offering:
                del self._by_skill[skill.name]

    def expire(self, now_ms: int) -> None:
        """Forget what is no longer valid."""
        if now_ms < self._soonest:
            return
        for agent in [agent for agent, held in self._held.items() if held.card.expires <= now_ms]:
            self.remove(agent)
        self._soonest = min((held.card.expires for held in self._held.values()), default=NEVER_MS)
        self._list = None
        self._passed.clear()  # there may be room for them now

    def _pass_over_one_of(self, skill: bytes) -> None:
        """Give up the last in order of those that offer nothing but crowded skills, if there is one."""
        last = self._last_of(self._by_skill[skill])
        if last is None:
            return
        self.remove(last.card.agent)
        self._passed[last.id] = last.entry
        if len(self._passed) > PASSED_MAX:
            del self._passed[next(iter(self._passed))]

    def _last_of(self, crowd: list[Opened]) -> Opened | None:
        """The last that may go; of a peer that is connected only if there is no other."""
        near = {peer.encode() for peer in self._connected()}
        last_near: Opened | None = None
        for held in islice(reversed(crowd), LAST_MAX):
            if held.signed.key == self._salt or not self._is_crowded_everywhere(held):
                continue
            if held.card.peer not in near:
                return held
            last_near = last_near or held
        return last_near

    def _is_crowded_everywhere(self, held: Opened) -> bool:
        """Whether all that a card offers is crowded, if one skill of it is."""
        skills = held.card.skills
        return len(skills) == 1 or all(len(self._by_skill[s.name]) > self._per_skill_max for s in skills)

    def _least_wanted(self) -> bytes:
        """Of the most crowded skill, else of all, a card of a peer not connected that expires first."""
        crowd: Collection[Opened] = max(self._by_skill.values(), key=len, default=())
        if len(crowd) <= KEPT_PER_SKILL_MAX:
            crowd = self._held.values()
        near = {peer.encode() for peer in self._connected()}

        def worth(held: Opened) -> tuple[bool, int, bytes]:
            return held.card.peer in near, held.card.expires, held.card.agent

        return min(crowd, key=worth).card.agent

    # --- comparing tables --------------------------------------------------------------------------

    def held(self) -> bytes:
        """What is known, for a neighbour to compare: (agent id, sequence), sorted."""
        if self._list is None:
            known = {held.entry for held in self._held.values() if held.card.skills}
            newest = {entry[:32]: entry for entry in sorted(known.union(self._passed.values()))}
            self._list = b"".join(list(newest.values())[:CARDS_MAX])
        return self._list

    def newer_than(self, held: bytes) -> CardPush:
        """What a table that `held` this lacks, as much as one answer carries.

        Raises:
            Malformed: not a list of entries.
        """
        if held == self._list:
            return CardPush(())
        theirs = _entries(held)
        lacking = [
            self._held[agent].signed
            for agent in sorted(
                agent
                for agent, ours in self._held.items()
                if ours.card.skills and theirs.get(agent, -1) < ours.card.sequence
            )
        ]
        cards: list[Signed] = []
        size = 0
        for signed in lacking:
            size += len(signed.body) + 128
            if cards and (size > SYNC_SIZE_MAX or len(cards) == PUSH_MAX):
                break
            cards.append(signed)
        return CardPush(tuple(cards), len(cards) < len(lacking))


def _agent(held: Opened) -> bytes:
    return held.card.agent


@lru_cache(maxsize=16)  # tables that know all know the same
def _entries(held: bytes) -> dict[bytes, int]:
    """What `CardTable.held` said; not to be changed.

    Raises:
        Malformed: not a list of entries.
    """
    if len(held) % ENTRY_SIZE or len(held) > ENTRY_SIZE * CARDS_MAX:
        raise Malformed(f"at most {CARDS_MAX} entries of {ENTRY_SIZE} bytes were expected")
    return {
        held[at : at + 32]: int.from_bytes(held[at + 32 : at + ENTRY_SIZE], "big")
        for at in range(0, len(held), ENTRY_SIZE)
    }
