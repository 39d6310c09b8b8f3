"""The contract net over a Network: calls to several sellers at once, the best proposal back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import trio

from ainp2p.agents.offers import Offer
from ainp2p.errors import Error, NetworkError, NoOffers
from ainp2p.protocol.codec import encode
from ainp2p.protocol.messages import PROTOCOL, Signed, decode_signed
from ainp2p.protocol.negotiation import Bid, Buyer
from ainp2p.protocol.network import Network, PeerId
from ainp2p.protocol.price import Price
from ainp2p.protocol.strategies import BUSY, TOO_MANY, Choosing

CALLS_MAX = 8  # sellers asked for one task
ANSWER_TIMEOUT_S = 2.0
GRACE_S = 0.5  # for the others, once there is a proposal that can be taken
BUSY_PATIENCE_S = 30.0  # how long sellers without a free slot are asked again
SILENT_PATIENCE_S = 5.0  # the same for sellers that did not answer
DECLINE_TIMEOUT_S = 0.5
STEP_MAX = 256  # units between two receipts: what a reader may have unread of each seller's part


class Later(NoOffers):
    """Nobody proposed, but somebody who was asked may later: it had no slot free, or did not answer.

    Attributes:
        patience_s: how long asking again makes sense.
    """

    def __init__(self, words: str, patience_s: float) -> None:
        super().__init__(words)
        self.patience_s = patience_s


@dataclass(frozen=True, slots=True)
class Deal:
    """A proposal that we take, and the negotiation that it came from."""

    negotiation: Buyer
    bid: Bid
    seller: bytes  # agent id
    name: str
    peer: PeerId
    asked: tuple[Offer, ...]  # all whose sellers were called, or would be

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


def take_card(network: Network, negotiation: Buyer, offers: Sequence[Offer]) -> Deal | None:
    """The first offer as its card has it, to be awarded unasked; None: the strategy does not choose it."""
    offer, now_ms = offers[0], network.context.now_ms()
    negotiation.unasked(offer.agent, offer.key, offer.skill, now_ms)
    bid = negotiation.best(now_ms)
    if bid is None:
        return None
    _add_addresses(network, offer)
    return Deal(negotiation, bid, offer.agent, offer.name, offer.peer, tuple(offers[:CALLS_MAX]))


def _add_addresses(network: Network, offer: Offer) -> None:
    network.add_addresses(offer.peer, tuple(a.decode(errors="replace") for a in offer.card.addresses))


async def bargain(network: Network, negotiation: Buyer, offers: Sequence[Offer]) -> Deal:
    """Ask the sellers of `offers`, counter as the strategy says, and return the best proposal.

    Raises:
        NoOffers: nobody proposed anything acceptable; the message says what each one said.
        Later: the same, but somebody may later.
    """
    asked = offers[:CALLS_MAX]
    problems: dict[bytes, Error] = {}
    now_ms = network.context.now_ms()
    calls = [negotiation.call(offer.agent, offer.key, now_ms) for offer in asked]  # who signs may refuse
    for offer in asked:
        _add_addresses(network, offer)
    if len(asked) == 1:
        await _ask(network, negotiation, asked[0], calls[0], problems)
    else:
        await _ask_all(network, negotiation, list(zip(asked, calls, strict=True)), problems)
    bid = negotiation.best(network.context.now_ms())
    if bid is None:
        await _decline(network, negotiation, asked)
        raise _nobody(negotiation, asked, problems)
    chosen = next(offer for offer in asked if offer.key == bid.key)
    return Deal(negotiation, bid, chosen.agent, chosen.name, chosen.peer, tuple(asked))


async def _ask_all(
    network: Network,
    negotiation: Buyer,
    calls: Sequence[tuple[Offer, Signed]],
    problems: dict[bytes, Error],
) -> None:
    async with trio.open_nursery() as nursery:

        async def ask(offer: Offer, call: Signed) -> None:
            await _ask(network, negotiation, offer, call, problems)
            if negotiation.best(network.context.now_ms()) is not None:
                deadline = nursery.cancel_scope.deadline
                nursery.cancel_scope.deadline = min(deadline, trio.current_time() + GRACE_S)

        for offer, call in calls:
            nursery.start_soon(ask, offer, call)


def _nobody(negotiation: Buyer, asked: Sequence[Offer], problems: dict[bytes, Error]) -> NoOffers:
    codes = {key: refusal.code.decode(errors="replace") for key, refusal in negotiation.refusals().items()}
    told = "; ".join(
        f"{offer.name}: {codes.get(offer.key) or problems.get(offer.key) or 'too dear'}" for offer in asked
    )
    words = f"no acceptable proposal ({told})"
    if {BUSY, TOO_MANY} & set(codes.values()):
        return Later(words, BUSY_PATIENCE_S)
    if any(isinstance(problem, NetworkError) for problem in problems.values()):
        return Later(words, SILENT_PATIENCE_S)
    return NoOffers(words)


async def decline_others(network: Network, deal: Deal) -> None:
    """After the award, or instead of one: tell those whose proposals were not taken."""
    await _decline(network, deal.negotiation, deal.asked)


async def _decline(network: Network, negotiation: Buyer, asked: Sequence[Offer]) -> None:
    declines = negotiation.declines()
    if not declines:
        return
    peers = {offer.key: offer.peer for offer in asked}
    alive = network.peers()
    with trio.move_on_after(DECLINE_TIMEOUT_S):  # else they expire
        for key, signed in declines:
            if peers[key] in alive:
                try:
                    await network.send(peers[key], PROTOCOL, encode(signed))
                except Error:
                    continue


async def _ask(
    network: Network, negotiation: Buyer, offer: Offer, call: Signed, problems: dict[bytes, Error]
) -> None:
    message: Signed | None = call
    try:
        while message is not None:
            answer = await network.request(offer.peer, PROTOCOL, encode(message), timeout_s=ANSWER_TIMEOUT_S)
            signed = decode_signed(answer)
            message = negotiation.handle(signed, offer.key, network.context.now_ms())
    except Error as exc:
        problems[offer.key] = exc
        negotiation.silent(offer.key)
