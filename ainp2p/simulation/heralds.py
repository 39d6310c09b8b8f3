"""An attack on directories: cards of sellers that are nowhere, signed as they should be, and cheap.

Names and keys cost nothing, so anybody can announce any number of agents. What is told here is true in form:
only whoever dials such a seller finds out.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec import structs

from ainp2p.errors import Error
from ainp2p.ledger.rules.operations import account_id, plain_inception
from ainp2p.protocol.card import LIFE_MS, PROTOCOL, Card, CardPush, sign_card
from ainp2p.protocol.codec import encode
from ainp2p.protocol.identity import Key, peer_id
from ainp2p.protocol.messages import Signed

if TYPE_CHECKING:
    from ainp2p.agents.agent import Agent
    from ainp2p.simulation.world import World


def false_card(like: Card, key: Key, now_ms: int) -> Signed:
    """What the holder of `key` could announce: the skills of another card, for 1 uain an item."""
    inception = plain_inception(key.public)
    card = structs.replace(
        like,
        agent=account_id(like.network, inception),
        inception=encode(inception),
        peer=peer_id(key.public).encode(),
        addresses=(),
        skills=tuple(structs.replace(skill, price=b"1/item") for skill in like.skills),
        issued=now_ms,
        sequence=now_ms,
        expires=now_ms + LIFE_MS,
    )
    return sign_card(key, card)


async def herald(world: World, skill: str, every_s: float, agent: Agent) -> None:
    """For ever: announce another seller of `skill` that is not there, to the topic and to each neighbour."""
    rng = world.rng("herald", agent.name)
    like = (await agent.find(skill))[0].card
    topic = f"ainp2p/{like.network.hex()[:16]}/cards"
    while True:
        await world.run_for(every_s)
        card = false_card(like, Key(rng.randbytes(32)), world.clock.now_ms())
        await agent.network.publish(topic, encode(card))
        for peer in agent.network.peers():
            with suppress(Error):
                await agent.network.send(peer, PROTOCOL, encode(CardPush((card,))))
