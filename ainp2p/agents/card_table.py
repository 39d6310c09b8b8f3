"""The cards that are known now: newest per agent, none expired, bounded. No I/O.

Full, it gives up cards of the skill that has the most, so that KEPT_PER_SKILL_MAX sellers of any skill
stay known however many offer another one. Names of skills cost nothing, so before that it gives up cards of
peers that are not connected: whoever floods it makes us forget strangers, and not those that we deal with.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from ainp2p.errors import Expired, Malformed, RemoteError
from ainp2p.protocol.card import ENTRY_SIZE, PUSH_MAX, SYNC_SIZE_MAX, Binding, Card, CardPush, verify_card
from ainp2p.protocol.messages import Signed
from ainp2p.protocol.network import PeerId

CARDS_MAX = 4096
TABLE_SIZE_MAX = 64 << 20  # bytes of signed cards; about twice that in memory. Ours have one or two KiB
KEPT_PER_SKILL_MAX = 64


@dataclass(frozen=True, slots=True)
class Held:
    """A card and the bytes that prove it."""

    card: Card
    signed: Signed


class CardTable:
    """Add cards from anywhere; ask who offers a skill, and what another table lacks."""

    def __init__(
        self,
        network: bytes,
        bound: Binding,
        *,
        cards_max: int = CARDS_MAX,
        size_max: int = TABLE_SIZE_MAX,
        connected: Callable[[], Collection[PeerId]] = tuple,
    ) -> None:
        self._network, self._bound = network, bound
        self._cards_max, self._size_max, self._connected = cards_max, size_max, connected
        self._size = 0  # bytes
        self._held: dict[bytes, Held] = {}  # by agent id
        self._by_skill: dict[bytes, dict[bytes, Held]] = {}
        self._ids: dict[bytes, bytes] = {}  # message id → agent id

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

    def add(self, signed: Signed, now_ms: int) -> Held | None:
        """Take a card in; None when it, or one like it, is held already.

        Raises:
            Expired: its time is over, or it is a replay of one that was replaced.
            RemoteError: forged, malformed, or a second card with the same sequence.
        """
        if signed.id in self._ids and self._held[self._ids[signed.id]].signed == signed:
            return None
        card = verify_card(signed, network=self._network, now_ms=now_ms, bound=self._bound)
        before = self._held.get(card.agent)
        if before is not None:
            if card.sequence < before.card.sequence:
                raise Expired(f"a replayed card: {card.sequence} was replaced by {before.card.sequence}")
            if card.sequence == before.card.sequence:
                raise RemoteError("two different cards with the same sequence; the first one stays")
            self.remove(card.agent)
        held = Held(card, signed)
        self._held[card.agent] = held
        self._ids[signed.id] = card.agent
        self._size += len(signed.body)
        for skill in card.skills:
            self._by_skill.setdefault(skill.name, {})[card.agent] = held
        while len(self._held) > self._cards_max or self._size > self._size_max:
            self.remove(self._least_wanted())
        return self._held.get(card.agent)

    def remove(self, agent: bytes) -> None:
        """Forget an agent's card."""
        held = self._held.pop(agent, None)
        if held is None:
            return
        del self._ids[held.signed.id]
        self._size -= len(held.signed.body)
        for skill in held.card.skills:
            offering = self._by_skill[skill.name]
            del offering[agent]
            if not offering:
                del self._by_skill[skill.name]

    def expire(self, now_ms: int) -> None:
        """Forget what is no longer valid."""
        for agent in [agent for agent, held in self._held.items() if held.card.expires <= now_ms]:
            self.remove(agent)

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
        return b"".join(
            agent + held.card.sequence.to_bytes(8, "big") for agent, held in sorted(self._held.items())
        )

    def newer_than(self, held: bytes) -> CardPush:
        """What a table that `held` this lacks, as much as one answer carries.

        Raises:
            Malformed: not a list of entries.
        """
        if len(held) % ENTRY_SIZE or len(held) > ENTRY_SIZE * CARDS_MAX:
            raise Malformed(f"at most {CARDS_MAX} entries of {ENTRY_SIZE} bytes were expected")
        theirs = {
            held[at : at + 32]: int.from_bytes(held[at + 32 : at + ENTRY_SIZE], "big")
            for at in range(0, len(held), ENTRY_SIZE)
        }
        lacking = [
            ours.signed
            for agent, ours in sorted(self._held.items())
            if theirs.get(agent, -1) < ours.card.sequence
        ]
        cards: list[Signed] = []
        size = 0
        for signed in lacking:
            size += len(signed.body) + 128
            if cards and (size > SYNC_SIZE_MAX or len(cards) == PUSH_MAX):
                break
            cards.append(signed)
        return CardPush(tuple(cards), len(cards) < len(lacking))
