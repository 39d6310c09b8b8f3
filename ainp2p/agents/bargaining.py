"""The contract net over a Network: calls to several sellers at once, the best proposal back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import trio

from ainp2p.agents.offers import Offer
from ainp2p.errors import Error, NoOffers
from ainp2p.protocol.codec import decode, encode
from ainp2p.protocol.messages import PROTOCOL, Signed
from ainp2p.protocol.negotiation import Bid, Buyer
from ainp2p.protocol.network import Network, PeerId
from ainp2p.protocol.price import Price
from ainp2p.protocol.strategies import BUSY, TOO_MANY, Choosing

CALLS_MAX = 8  # sellers asked for one task
ANSWER_TIMEOUT_S = 2.0
DECLINE_TIMEOUT_S = 0.5
STEP_MAX = 1024  # units between two receipts: what a reader may have unread; DESIGN's step is 32


class Busy(NoOffers):
    """Nobody proposed, but a seller that was asked may later: it had no slot free."""


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


def honest_only(choosing: Choosing, offers: Sequence[Offer], max_price: Price | None) -> Choosing:
    """`choosing`, but only among proposals that keep to `max_price` (None: to the seller's own card)."""
    limits = {offer.key: max_price or offer.price for offer in offers}

    def choose(bids: Sequence[Bid]) -> Bid | None:
        return choosing(
            [
                bid
                for bid in bids
                if bid.key in limits and bid.price.within(limits[bid.key]) and bid.proposal.step <= STEP_MAX
            ]
        )

    return choose


async def bargain(network: Network, negotiation: Buyer, offers: Sequence[Offer]) -> Deal:
    """Ask the sellers of `offers`, counter as the strategy says, and return the best proposal.

    Raises:
        NoOffers: nobody proposed anything acceptable; the message says what each one said.
        Busy: the same, but somebody may later.
    """
    asked = offers[:CALLS_MAX]
    problems: dict[bytes, str] = {}
    async with trio.open_nursery() as nursery:
        for offer in asked:
            network.add_addresses(offer.peer, tuple(a.decode(errors="replace") for a in offer.card.addresses))
            call = negotiation.call(offer.agent, offer.key, network.context.now_ms())
            nursery.start_soon(_ask, network, negotiation, offer, call, problems)
    bid = negotiation.best(network.context.now_ms())
    if bid is None:
        codes = {key: no.code.decode(errors="replace") for key, no in negotiation.refusals().items()}
        problems |= codes
        told = "; ".join(f"{offer.name}: {problems.get(offer.key, 'too dear')}" for offer in asked)
        kind = Busy if {BUSY, TOO_MANY} & set(codes.values()) else NoOffers
        raise kind(f"no acceptable proposal ({told or 'nobody was asked'})")
    chosen = next(offer for offer in asked if offer.key == bid.key)
    return Deal(negotiation, bid, chosen.agent, chosen.name, chosen.peer, tuple(asked))


async def decline_others(network: Network, deal: Deal) -> None:
    """After the award, or instead of one: free the slots of those whose proposals were not taken."""
    peers = {offer.key: offer.peer for offer in deal.asked}
    alive = network.peers()
    with trio.move_on_after(DECLINE_TIMEOUT_S):  # a slot is free again when its proposal expires
        for key, signed in deal.negotiation.declines():
            if peers[key] in alive:
                try:
                    await network.send(peers[key], PROTOCOL, encode(signed))
                except Error:
                    continue


async def _ask(
    network: Network, negotiation: Buyer, offer: Offer, call: Signed, problems: dict[bytes, str]
) -> None:
    message: Signed | None = call
    try:
        while message is not None:
            answer = await network.request(offer.peer, PROTOCOL, encode(message), timeout_s=ANSWER_TIMEOUT_S)
            signed = decode(answer, Signed, size_max=len(answer))
            message = negotiation.handle(signed, offer.key, network.context.now_ms())
    except Error as exc:
        problems[offer.key] = str(exc)
        negotiation.silent(offer.key)
