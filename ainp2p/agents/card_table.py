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

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache

from ainp2p.errors import Expired, Malformed, RemoteError
from ainp2p.protocol.card import (
    ENTRY_SIZE,
    PUSH_MAX,
    SYNC_SIZE_MAX,
    Binding,
    Card,
    CardPush,
    said,
    verified,
)
from ainp2p.protocol.identity import digest
from ainp2p.protocol.messages import Signed
from ainp2p.protocol.network import PeerId

CARDS_MAX = 4096
TABLE_SIZE_MAX = 64 << 20  # bytes of signed cards; about twice that in memory. Ours have one or two KiB
KEPT_PER_SKILL_MAX = 64
NEVER_MS = 1 << 62
PASSED_MAX = 1024  # cards that are remembered as passed over


@dataclass(frozen=True, slots=True)
class Held:
    """A card and the bytes that prove it.

    Attributes:
        place: the lowest are kept where a skill is crowded.
        is_news: it says something that the card before it did not.
    """

    card: Card
    signed: Signed
    place: bytes
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
        self._passed: dict[bytes, tuple[int, bytes]] = {}  # agent id → sequence and message id
        self._passed_ids: set[bytes] = set()
        self._soonest = NEVER_MS  # nothing expires before
        self._size = 0  # bytes
        self._held: dict[bytes, Held] = {}  # by agent id
        self._by_skill: dict[bytes, dict[bytes, Held]] = {}
        self._ids: dict[bytes, bytes] = {}  # message id → agent id
        self._list: bytes | None = None  # `held`, since the table was changed last

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Held]:
        return iter(self._held.values())

    def get(self, agent: bytes) -> Held | None:
        """An agent's newest card, if one is known."""
        return self._held.get(agent)

    def offering(self, skill: bytes) -> list[Held]:
        """The cards that name a skill, by agent id."""
        return [held for _, held in sorted(self._by_skill.get(skill, {}).items())]

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
        id_ = signed.id
        if id_ in self._passed_ids or (id_ in self._ids and self._held[self._ids[id_]].signed == signed):
            return None
        signed, id_, card = verified(signed, network=self._network, now_ms=now_ms, bound=self._bound)
        before = self._held.get(card.agent)
        if before is not None:
            if card.sequence < before.card.sequence:
                raise Expired(f"a replayed card: {card.sequence} was replaced by {before.card.sequence}")
            if card.sequence == before.card.sequence:
                raise RemoteError("two different cards with the same sequence; the first one stays")
            self.remove(card.agent)
        is_news = before is None or said(card) != said(before.card)
        place = b"" if signed.key == self._salt else digest(b"ainp2p/place/1", self._salt, card.agent)
        held = Held(card, signed, place, is_news)
        self._held[card.agent] = held
        self._ids[id_] = card.agent
        self._list = None
        self._soonest = min(self._soonest, card.expires)
        self._size += len(signed.body)
        for skill in card.skills:
            self._by_skill.setdefault(skill.name, {})[card.agent] = held
        for skill in card.skills:
            if len(self._by_skill.get(skill.name, ())) > self._per_skill_max:
                self._pass_over_one_of(skill.name)
        while len(self._held) > self._cards_max or self._size > self._size_max:
            self.remove(self._least_wanted())
        return self._held.get(card.agent)

    def remove(self, agent: bytes) -> None:
        """Forget an agent's card."""
        held = self._held.pop(agent, None)
        if held is None:
            return
        self._list = None
        del self._ids[held.signed.id]
        self._size -= len(held.signed.body)
        for skill in held.card.skills:
            offering = self._by_skill[skill.name]
            del offering[agent]
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
        self._passed_ids.clear()

    def _pass_over_one_of(self, skill: bytes) -> None:
        """Give up the last in order of those that offer nothing but crowded skills, if there is one."""
        near = {peer.encode() for peer in self._connected()}
        last: Held | None = None
        order = (False, b"")
        for held in self._by_skill[skill].values():
            its_order = (held.card.peer not in near, held.place)
            if its_order > order and held.place and self._is_crowded_everywhere(held):
                last, order = held, its_order
        if last is None:
            return
        agent, id_ = last.card.agent, last.signed.id
        self.remove(agent)
        earlier = self._passed.pop(agent, None)
        self._passed[agent] = (last.card.sequence, id_)
        self._passed_ids.add(id_)
        if len(self._passed) > PASSED_MAX:
            earlier = self._passed.pop(next(iter(self._passed)))
        if earlier is not None:
            self._passed_ids.discard(earlier[1])

    def _is_crowded_everywhere(self, held: Held) -> bool:
        """Whether all that a card offers is crowded, if one skill of it is."""
        skills = held.card.skills
        return len(skills) == 1 or all(len(self._by_skill[s.name]) > self._per_skill_max for s in skills)

    def _least_wanted(self) -> bytes:
        """Of the most crowded skill, else of all, a card of a peer not connected that expires first."""
        crowd = max(self._by_skill.values(), key=len, default=self._held)
        if len(crowd) <= KEPT_PER_SKILL_MAX:
            crowd = self._held
        near = {peer.encode() for peer in self._connected()}

        def worth(item: tuple[bytes, Held]) -> tuple[bool, int, bytes]:
            return item[1].card.peer in near, item[1].card.expires, item[0]

        return min(crowd.items(), key=worth)[0]

    # --- comparing tables --------------------------------------------------------------------------

    def held(self) -> bytes:
        """What is known, for a neighbour to compare: (agent id, sequence), sorted."""
        if self._list is None:
            known = {agent: sequence for agent, (sequence, _) in self._passed.items()}
            known.update((a, held.card.sequence) for a, held in self._held.items() if held.card.skills)
            self._list = b"".join(
                agent + sequence.to_bytes(8, "big") for agent, sequence in sorted(known.items())[:CARDS_MAX]
            )
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
