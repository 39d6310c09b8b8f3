"""The contract net over a Network: calls to several sellers at once, the best proposal back."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from ainp2p.agents.offers import Offer
from ainp2p.errors import Error, NetworkError, NoOffers
from ainp2p.protocol.codec import decode, encode
from ainp2p.protocol.messages import PROTOCOL, Signed
from ainp2p.protocol.negotiation import Bid, Buyer
from ainp2p.protocol.network import Network, PeerId

CALLS_MAX = 8  # sellers asked for one task
ANSWER_TIMEOUT_S = 2.0
DECLINE_TIMEOUT_S = 0.5


@dataclass(frozen=True, slots=True)
class Deal:
    """A proposal that we take, and the negotiation that it came from."""

    negotiation: Buyer
    bid: Bid
    seller: bytes  # agent id
    name: str
    peer: PeerId
    asked: tuple[Offer, ...]  # all whose sellers were called

    @property
    def key(self) -> bytes:
        """The seller's key."""
        return self.bid.key

    @property
    def model(self) -> bytes | None:
        """Hash of the seller's weights, as it says."""
        return self.bid.proposal.model


async def bargain(network: Network, negotiation: Buyer, offers: Sequence[Offer]) -> Deal:
    """Ask the sellers of `offers`, counter as the strategy says, and return the best proposal.

    Raises:
        NoOffers: nobody proposed anything acceptable; the message says what each one said.
    """
    asked = offers[:CALLS_MAX]
    problems: dict[bytes, str] = {}
    async with trio.open_nursery() as nursery:
        for offer in asked:
            nursery.start_soon(_ask, network, negotiation, offer, problems)
    bid = negotiation.best(network.context.now_ms())
    if bid is None:
        for key, refusal in negotiation.refusals().items():
            problems[key] = refusal.code.decode(errors="replace")
        told = "; ".join(f"{offer.name}: {problems.get(offer.key, 'too dear')}" for offer in asked)
        raise NoOffers(f"no acceptable proposal ({told or 'nobody was asked'})")
    chosen = next(offer for offer in asked if offer.key == bid.key)
    return Deal(negotiation, bid, chosen.agent, chosen.name, chosen.peer, tuple(asked))


async def decline_others(network: Network, deal: Deal) -> None:
    """After the award: free the slots of those whose proposals were not taken."""
    peers = {offer.key: offer.peer for offer in deal.asked}
    with trio.move_on_after(DECLINE_TIMEOUT_S):  # a slot is free again when its proposal expires
        for key, signed in deal.negotiation.declines():
            with contextlib.suppress(NetworkError):
                await network.send(peers[key], PROTOCOL, encode(signed))


async def _ask(network: Network, negotiation: Buyer, offer: Offer, problems: dict[bytes, str]) -> None:
    message: Signed | None = negotiation.call(offer.agent, offer.key, network.context.now_ms())
    try:
        while message is not None:
            answer = await network.request(offer.peer, PROTOCOL, encode(message), timeout_s=ANSWER_TIMEOUT_S)
            signed = decode(answer, Signed, size_max=len(answer))
            message = negotiation.handle(signed, offer.key, network.context.now_ms())
    except Error as exc:
        problems[offer.key] = str(exc)
        negotiation.silent(offer.key)
