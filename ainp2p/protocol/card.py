"""Signed agent cards: who an agent is, where it is, what it can do and for how much.

A card is a claim by the agent's current key. What others check without asking anybody: the signature,
that the key makes the peer id, that the agent id belongs to the inception, times, sizes and shapes.
Whether the seller's speed or model is as it says is seen by hiring it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated
from weakref import WeakValueDictionary

import msgspec

from ainp2p.errors import BadSignature, Expired, InvalidInput, Malformed
from ainp2p.protocol import canonical_json
from ainp2p.protocol.codec import Bytes32, Message, Positive, Text, Uint, decode
from ainp2p.protocol.identity import digest, peer_id
from ainp2p.protocol.messages import CLOCK_SKEW_MAX_MS, Signed, Signer, open_, seal
from ainp2p.protocol.price import Price

PROTOCOL = "/ainp2p/card/1"
PURPOSE = b"ainp2p/card/1"

LIFE_MS = 120_000  # of a card that says something new
LIFE_MAX_MS = 30 * 60_000  # of one that has said the same for long: each renewal may double its life
RENEW_MS = 40_000  # a third of its life, so that two announcements may be lost
SIZE_MAX = 48 * 1024  # bytes; a card fits one frame, with others around it
SKILLS_MAX = 16
ADDRESSES_MAX = 16
LINEAGE_MAX = 16
SCHEMA_SIZE_MAX = 8 * 1024
DELEGATION_SIZE_MAX = 1_200  # bytes; what it says is no matter of this protocol

_Name = Annotated[bytes, msgspec.Meta(min_length=1, max_length=128)]
_Schema = Annotated[bytes, msgspec.Meta(max_length=SCHEMA_SIZE_MAX)]
_Address = Annotated[bytes, msgspec.Meta(min_length=1, max_length=256)]


class SkillCard(Message, frozen=True):
    """One skill in a card: an offer, while the card lives."""

    name: _Name
    description: Text
    input_schema: _Schema  # JSON Schema, as canonical JSON
    output_schema: _Schema
    price: Text  # a Price as text
    model: Bytes32 | None  # hash of the weights; nil: no model, or an unnamed one
    speed: Uint  # milli-units per second, measured by the agent itself; 0: not yet
    free: Uint  # slots free now
    slots: Positive  # in all
    window: Positive  # units delivered and unpaid at most; not below the step
    step: Positive  # units between two receipts

    @property
    def unit(self) -> str:
        """What speed, window and step count."""
        return Price.from_wire(self.price).unit


class Card(Message, frozen=True, tag=1):
    """What an agent says of itself; travels inside `Signed` by its current key."""

    network: Bytes32
    agent: Bytes32  # the agent id
    inception: Annotated[bytes, msgspec.Meta(max_length=4096)]  # the ledger's; the agent id is its hash
    peer: Annotated[bytes, msgspec.Meta(max_length=64)]  # the key's peer id as text
    addresses: Annotated[tuple[_Address, ...], msgspec.Meta(max_length=ADDRESSES_MAX)]
    name: _Name
    skills: Annotated[tuple[SkillCard, ...], msgspec.Meta(max_length=SKILLS_MAX)]
    lineage: Annotated[tuple[Bytes32, ...], msgspec.Meta(max_length=LINEAGE_MAX)]  # agents it descends from
    terms: Text  # free text, such as a link to conditions
    issued: Uint  # ms since 1970
    expires: Uint  # at most LIFE_MAX_MS after that
    sequence: Uint  # grows with each card of this agent
    delegation: Annotated[bytes, msgspec.Meta(max_length=DELEGATION_SIZE_MAX)] = b""  # to a session key

    def skill(self, name: bytes) -> SkillCard | None:
        """The skill of that name, if it is offered."""
        return next((skill for skill in self.skills if skill.name == name), None)


Binding = Callable[[Card, bytes, int], bool]
"""(card, key, now in ms) → whether this key speaks for the card's agent; who knows accounts, knows."""


# --- how cards travel on PROTOCOL ---------------------------------------------------------------

PUSH_MAX = 128  # cards in one message: 4 elements each, of the codec's 1,024
SYNC_SIZE_MAX = 512 * 1024  # bytes of cards in one answer
WIRE_SIZE_MAX = 1 << 20
ENTRY_SIZE = 40  # bytes: an agent id and a sequence

_Cards = Annotated[tuple[Signed, ...], msgspec.Meta(max_length=PUSH_MAX)]


class CardPush(Message, frozen=True, tag=2):
    """One-way, or an answer: here are cards; with `more`, ask again."""

    cards: _Cards
    more: bool = False


class CardsHeld(Message, frozen=True, tag=3):
    """Request: I hold these cards, send me what is newer."""

    held: bytes  # ENTRY_SIZE (40) bytes each: agent id, sequence as 8 bytes; sorted


class CardWanted(Message, frozen=True, tag=4):
    """Request: send me your own card. Also tells that you are alive."""


CardWire = CardPush | CardsHeld | CardWanted


def decode_card_wire(data: bytes) -> CardWire:
    """Read what came over the card protocol.

    Raises:
        Malformed: none of its messages.
    """
    return decode(data, CardWire, size_max=WIRE_SIZE_MAX)  # type: ignore[arg-type]  # a union is no `type`


def skill_digest(network: bytes, name: bytes) -> bytes:
    """The key under which providers of a skill are found in the DHT."""
    return digest(b"ainp2p/skill/1", network, name)


def said(card: Card) -> Card:
    """What a card says, without what each renewal changes: two are equal if nothing is news."""
    skills = tuple(
        msgspec.structs.replace(skill, free=min(1, skill.free), speed=skill.speed.bit_length())
        for skill in card.skills
    )
    return msgspec.structs.replace(card, skills=skills, issued=0, expires=0, sequence=0)


def sign_card(signer: Signer, card: Card) -> Signed:
    """Sign one's own card.

    Raises:
        InvalidInput: others would refuse it.
    """
    try:
        _check_contents(card, signer.public)
        signed = seal(signer, PURPOSE, card)
        _check_size(signed)
        open_(signed, PURPOSE, Card, size_max=SIZE_MAX)
    except (Malformed, BadSignature) as exc:
        raise InvalidInput(f"this card would be refused: {exc}") from exc
    return signed


def verify_card(signed: Signed, *, network: bytes, now_ms: int, bound: Binding) -> Card:
    """Check all that can be checked of a card without asking anybody.

    Whether it is newer than the one held is the table's matter (`agents.card_table`).

    Raises:
        BadSignature: forged: the signature, the peer id or the agent id does not fit the key.
        Expired: too old, or from too far in the future.
        Malformed: too large, of another network, or contradicting itself.
    """
    opened = open_card(signed)
    opened.check(network=network, now_ms=now_ms, bound=bound)
    return opened.card


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Opened:
    """A card in which nothing is wrong at any time, and the bytes that prove it.

    Attributes:
        id: of the signed bytes.
        entry: ENTRY_SIZE (40) bytes, what `CardsHeld` says of it.
    """

    signed: Signed
    card: Card
    id: bytes
    entry: bytes

    def check(self, *, network: bytes, now_ms: int, bound: Binding) -> None:
        """Check what depends on where it comes, and when.

        Raises:
            BadSignature, Expired, Malformed: as `verify_card`.
        """
        if self.card.network != network:
            raise Malformed("a card of another network")
        _check_times(self.card, now_ms)
        if not bound(self.card, self.signed.key, now_ms):
            raise BadSignature("this key does not speak for the agent that the card names")


def open_card(signed: Signed) -> Opened:
    """Read a card; the same object, whoever brings the same bytes, so that many tables hold it once.

    Raises:
        BadSignature, Malformed: as `verify_card`.
    """
    _check_size(signed)
    return _open_remembered(signed) if is_remembered(signed) else _open(signed)


def is_remembered(signed: Signed) -> bool:
    """Whether a card that comes again is not verified again; large ones are."""
    return len(signed.body) <= _REMEMBERED_SIZE_MAX


def _open(signed: Signed) -> Opened:
    card = open_(signed, PURPOSE, Card, size_max=SIZE_MAX)
    _check_contents(card, signed.key)
    return Opened(signed, card, signed.id, card.agent + card.sequence.to_bytes(8, "big"))


_REMEMBERED_SIZE_MAX = 2048  # bytes; 4,096 such cards, as many as one table has, are 16 MiB at most


@functools.lru_cache(maxsize=4096)  # the same card comes from many sides, and to many agents in one process
def _open_remembered(signed: Signed) -> Opened:
    opened = _in_use.get(signed)  # there may be more sellers than the cache has room for
    if opened is None:
        opened = _in_use[signed] = _open(signed)
    return opened


_in_use: WeakValueDictionary[Signed, Opened] = WeakValueDictionary()  # as long as any table holds it


def forget_opened() -> None:
    """For whoever changes how signatures are verified."""
    _open_remembered.cache_clear()
    _in_use.clear()


def _check_size(signed: Signed) -> None:
    if len(signed.body) > SIZE_MAX:
        raise Malformed(f"a card of {len(signed.body)} bytes, at most {SIZE_MAX} are read")


def _check_times(card: Card, now_ms: int) -> None:
    if not 0 < card.expires - card.issued <= LIFE_MAX_MS:
        raise Malformed(f"a card lives at most {LIFE_MAX_MS} ms")
    if card.expires <= now_ms:
        raise Expired(f"the card expired {now_ms - card.expires} ms ago")
    if card.issued > now_ms + CLOCK_SKEW_MAX_MS:
        raise Expired(f"the card was issued {card.issued - now_ms} ms in the future: is a clock wrong?")


def _check_contents(card: Card, key: bytes) -> None:
    peer = peer_id(key).encode()
    if card.peer != peer:
        raise BadSignature("the card's peer id is not that of its key")
    if any(not address.endswith(b"/p2p/" + peer) for address in card.addresses):
        raise Malformed("an address in a card ends in /p2p/<its own peer id>")
    if len({skill.name for skill in card.skills}) != len(card.skills):
        raise Malformed("a skill is named twice")
    for skill in card.skills:
        Price.from_wire(skill.price)
        if skill.window < skill.step:
            raise Malformed("a window is not below its step")
        if skill.free > skill.slots:
            raise Malformed("more slots are free than there are")
        for schema in (skill.input_schema, skill.output_schema):
            if not isinstance(canonical_json.decode(schema, size_max=SCHEMA_SIZE_MAX), dict | bool):
                raise Malformed("a JSON schema is an object")
