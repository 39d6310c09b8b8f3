"""The market that the gym plays: sellers and buyers whose strategies have knobs, turned between steps.

    buyer wants an item ──▶ calls k of the sellers it knows ──▶ proposals ──▶ the cheapest within its limit

Everybody is an `ainp2p.Agent` of a world: knobs set what their strategies say, and all else (cards, calls,
Locks, receipts) is as it is outside. What an agent is told of the market is only what it could know: its own
calls, fills and books, the cards in its own directory, the proposals made to it. No gymnasium and no numpy
here; spaces and the PettingZoo interface are in gym.py.

A seller's `cost` and `rent` and a buyer's `search` are booked against its capital, and paid to nobody.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

import ainp2p
from ainp2p.agents.job import Job
from ainp2p.agents.offers import Offer
from ainp2p.errors import Error
from ainp2p.protocol.messages import CallForProposals
from ainp2p.protocol.price import Price
from ainp2p.protocol.strategies import Bid, No, Pricing, Strategies, cheapest
from ainp2p.simulation.core.stepping import Ended, Turn
from ainp2p.simulation.strategies import asking, some_of

if TYPE_CHECKING:
    from ainp2p.simulation.node import Node
    from ainp2p.simulation.world import World

SKILL = "work"
ASKS_MAX = 4  # sellers that a buyer may ask for one item
LOOK_S = 300.0  # a buyer looks for offers again after this
FIND_S = 5.0
PURSE = 10**9  # uain of every buyer: deposits lie at several sellers; what counts is its capital

Scripted = int | Callable[[random.Random], Pricing]
"""A scripted seller: a price that its card says, or what makes its strategy under the market's card."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What is the same for everybody.

    Attributes:
        card: uain for an item on the cards of those that price by strategy: the most that they may ask.
        cost: uain that an item costs its seller.
        worth: what an item is worth to a buyer, drawn anew each time, both ends included.
        rent: uain that a learning seller pays for each step.
        search: uain that it costs a buyer to ask one seller.
        capital: uain that a learning agent begins with; when that is used up it is broke, and ends.
        pause_s: a buyer wants an item about every so often.
        work_s: how long an item takes to make.
        slots: items that a seller makes at once.
        asks: sellers that a scripted buyer asks; it pays what an item is worth to it.
    """

    card: int = 100
    cost: int = 20
    worth: tuple[int, int] = (20, 100)
    rent: int = 10
    search: int = 1
    capital: int = 5_000
    pause_s: float = 5.0
    work_s: float = 1.0
    slots: int = 8
    asks: int = 2


@dataclass(slots=True)
class Period:
    """What an agent did and saw since the last step."""

    calls: int = 0  # a seller: calls heard; a buyer: items wanted
    fills: int = 0  # items sold or bought
    amount: int = 0  # uain earned or paid
    cash: int = 0  # uain: by how much its capital changed
    gain: int = 0  # uain: the reward: cash, and a buyer's worth of what it got
    proposed: dict[tuple[bytes, bytes], int] = field(default_factory=dict)  # (task, seller) → uain asked


@dataclass(slots=True)
class Trader:
    """One side of the market, with its knobs.

    Attributes:
        capital: uain that are left.
        node: its machine, once it has one.
    """

    rules: Rules
    capital: int
    period: Period = field(default_factory=Period)
    broke: trio.Event = field(default_factory=trio.Event)
    node: Node | None = None

    def book(self, cash: int, *, worth: int = 0) -> None:
        """Money came (or went, below 0), or something that is worth so much."""
        self.period.cash += cash
        self.period.gain += cash + worth

    def close_books(self) -> Period:
        """The period that ends now; a new one begins."""
        period, self.period = self.period, Period()
        self.capital += period.cash
        if self.capital <= 0:
            self.broke.set()
        return period


@dataclass(slots=True)
class Seller(Trader):
    """A seller with one knob.

    Attributes:
        ask: uain for an item; set between steps.
        busy: items being made.
    """

    ask: int = 0
    busy: int = 0

    def pricing(self, call: CallForProposals, base: Price, load: int) -> Price | No:
        """The strategy."""
        self.period.calls += 1
        return asking(base, self.ask)

    def sold(self, amount: int) -> None:
        """Receipts of this amount were signed for an item."""
        self.period.fills += amount > 0
        self.period.amount += amount
        self.book(amount)

    def lowest_elsewhere(self) -> int | None:
        """The lowest price on another seller's card in its own directory."""
        if self.node is None or not self.node.alive:
            return None
        agent, name = self.node.agent, SKILL.encode()
        cards = (card for card in agent.directory.cards() if card.agent != agent.id)
        prices = [Price.from_wire(s.price).item for card in cards for s in card.skills if s.name == name]
        return min(prices, default=None)


@dataclass(slots=True)
class Buyer(Trader):
    """A buyer with two knobs.

    Attributes:
        limit: the most that it pays, as a share of what an item is worth to it; set between steps.
        asks: how many sellers it asks for an item; set between steps.
        known: sellers that it knows.
    """

    limit: float = 1.0
    asks: int = 1
    known: int = 0

    def choosing(self, bids: Sequence[Bid]) -> Bid | None:
        """The strategy: the cheapest; what was proposed within the limit is remembered."""
        for bid in bids:
            self.period.proposed[bid.proposal.task, bid.key] = bid.price.item
        return cheapest(bids)

    async def shop(self, agent: ainp2p.Agent, market: Market, rng: random.Random) -> None:
        """Want one item after another, until broke."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._shop, agent, market, rng)
            await self.broke.wait()
            nursery.cancel_scope.cancel()

    async def _shop(self, agent: ainp2p.Agent, market: Market, rng: random.Random) -> None:
        offers: list[Offer] = []
        looked_at, number = 0.0, 0
        while True:
            await trio.sleep(self.rules.pause_s * rng.uniform(0.5, 1.5))
            worth = rng.randint(*self.rules.worth)
            self.period.calls += 1
            if not offers or trio.current_time() >= looked_at + LOOK_S:
                looked_at = trio.current_time()
                try:
                    offers = await agent.find(SKILL, at_least=market.size, timeout_s=FIND_S)
                except Error:
                    offers = []  # nobody sells now
                self.known = len(offers)
            number += 1
            most = min(int(worth * self.limit), self.rules.card)
            if offers and most >= 1:
                await self._buy(agent, some_of(offers, self.asks, rng), number, worth, most, market)

    async def _buy(
        self, agent: ainp2p.Agent, asked: list[Offer], number: int, worth: int, most: int, market: Market
    ) -> None:
        self.book(-self.rules.search * len(asked))
        jobs: list[Job] = []
        try:
            async with agent.hire(
                asked, number=number, budget=self.rules.card, max_price=Price(item=most)
            ) as job:
                jobs.append(job)
                await job.result()
                self.period.fills += 1
                self.book(0, worth=worth)
        except Error:
            pass  # too dear, or nobody had time
        finally:
            for job in jobs:
                self.period.amount += job.paid
                self.book(-job.paid)
                market.was_paid(job)


class Market:
    """One market, played turn by turn.

    Attributes:
        sellers, buyers: the learning ones, by name.
        size: how many sellers there are, scripted ones included.
    """

    def __init__(
        self,
        rules: Rules,
        *,
        sellers: Sequence[str],
        buyers: Sequence[str],
        scripted_sellers: Sequence[Scripted],
        scripted_buyers: int,
    ) -> None:
        self.rules = rules
        self.sellers = {name: Seller(rules, rules.capital, ask=rules.card) for name in sellers}
        self.buyers = {name: Buyer(rules, rules.capital) for name in buyers}
        self.size = len(sellers) + len(scripted_sellers)
        self._scripted, self._customers = tuple(scripted_sellers), scripted_buyers
        self._by_agent: dict[bytes, Seller] = {}

    @property
    def traders(self) -> dict[str, Trader]:
        """The learning ones, sellers first."""
        return {**self.sellers, **self.buyers}

    async def play(self, world: World, turn: Turn, step_s: float) -> None:
        """Open everybody; hand over {}, and after every `step_s` of virtual time each learner's `Period`."""
        for name, seller in self.sellers.items():
            self._open_seller(world, name, seller)
        for i, scripted in enumerate(self._scripted):
            self._open_scripted(world, f"shop_{i}", scripted)
        for name, buyer in self.buyers.items():
            self._open_buyer(world, name, buyer, "learning buyer")
        customers = [Buyer(self.rules, PURSE, asks=self.rules.asks) for _ in range(self._customers)]
        for i, customer in enumerate(customers):
            self._open_buyer(world, f"customer_{i}", customer, "buyer")
        for node in list(world.nodes.values()):
            await node.ready()
        for seller in self.sellers.values():
            assert seller.node is not None
            self._by_agent[seller.node.agent.id] = seller
        periods: dict[str, Period] = {}
        with suppress(Ended):
            while True:
                await turn(periods)
                await world.run_for(step_s)
                for seller in self.sellers.values():
                    seller.book(-self.rules.rent)
                taking_part = {name: each for name, each in self.traders.items() if not each.broke.is_set()}
                periods = {name: trader.close_books() for name, trader in taking_part.items()}
                for customer in customers:
                    customer.close_books()

    def was_paid(self, job: Job) -> None:
        """Tell the sellers of a job what was signed for it."""
        for leg in job.legs:
            if leg.seller in self._by_agent:
                self._by_agent[leg.seller].sold(leg.amount)

    def _work(self, price: int, seller: Seller | None) -> ainp2p.Skill:
        """What is sold: one item a call, which takes a while to make."""

        @ainp2p.skill(SKILL, price=f"{price}/item")
        async def work(job: object, number: int) -> AsyncIterator[int]:
            if seller is not None:
                seller.busy += 1
                seller.book(-self.rules.cost)
            try:
                await trio.sleep(self.rules.work_s)
                yield number
            finally:
                if seller is not None:
                    seller.busy -= 1

        return work

    def _open_seller(self, world: World, name: str, seller: Seller) -> None:
        async def live(agent: ainp2p.Agent) -> None:
            await seller.broke.wait()

        seller.node = world.spawn(
            name,
            skills=[self._work(self.rules.card, seller)],
            main=live,
            strategies=Strategies(pricing=seller.pricing),
            slots=self.rules.slots,
            role="learning seller",
        )

    def _open_scripted(self, world: World, name: str, scripted: Scripted) -> None:
        if isinstance(scripted, int):
            price, strategies = scripted, Strategies()
        else:
            price, strategies = self.rules.card, Strategies(pricing=scripted(world.rng("pricing", name)))
        skills = [self._work(price, None)]
        world.spawn(name, skills=skills, strategies=strategies, slots=self.rules.slots, role="seller")

    def _open_buyer(self, world: World, name: str, buyer: Buyer, role: str) -> None:
        async def live(agent: ainp2p.Agent) -> None:
            await buyer.shop(agent, self, world.rng("worth", name))

        strategies = Strategies(choosing=buyer.choosing)
        buyer.node = world.spawn(name, main=live, strategies=strategies, role=role, balance=PURSE)
