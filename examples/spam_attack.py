"""A spam attack: strangers ask every seller for proposals all the time, and never take one.

    ainp2p sim run examples/spam_attack.py --agents 40 --hours 0.2 --spammers 6 --seed 7

A proposal of an agent holds nothing: the first award with money behind it gets the slot. What would become of
sellers that keep what they propose (`binding`) is shown beside it: asking is free, and names are, so a crowd
jams them; what helps them is to remember who has paid. Heralds tell everybody of cheap sellers that are not
there; whoever is connected keeps its place in a buyer's directory.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from itertools import count

import trio
from msgspec import structs

import ainp2p
import ainp2p.simulation as sim
from ainp2p.agents.work import Work
from ainp2p.errors import Error, NoOffers
from ainp2p.ledger.rules.operations import account_id, plain_inception
from ainp2p.protocol.card import LIFE_MS, Card, CardPush, sign_card
from ainp2p.protocol.card import PROTOCOL as CARDS
from ainp2p.protocol.codec import encode
from ainp2p.protocol.identity import Key, peer_id
from ainp2p.protocol.messages import PROTOCOL, CallForProposals, Signed
from ainp2p.protocol.price import Price
from ainp2p.protocol.strategies import BUSY, No, Pricing, Strategies
from ainp2p.simulation.strategies import Regulars, nobody, some_of
from ainp2p.simulation.wire.lies import Sent

PRICE, COST, WORTH = 10, 4, 30  # uain
QUIET_S = 60.0  # before the attack: who buys in this time is no stranger later
LIFE_S = 10.0  # of a proposal
DEADLINE_S = 5.0  # an answer is worth something for so long


class Binding:
    """A seller that keeps a slot free for each proposal while it lives; half of them for one name at most."""

    def __init__(self, slots: int, now: Callable[[], float], pricing: Pricing) -> None:
        self._slots, self._now, self._pricing = slots, now, pricing
        self._kept: list[tuple[float, bytes]] = []  # until when, for whom

    def bidding(self, call: CallForProposals, base: Price, load: int) -> Price | No:
        """The strategy."""
        now = self._now()
        self._kept = [(until, buyer) for until, buyer in self._kept if until > now]
        its_own = sum(buyer == call.buyer for _, buyer in self._kept)
        if len(self._kept) + self._slots * load // 100 >= self._slots or its_own >= self._slots // 2:
            return No(BUSY, "no slot is free")
        price = self._pricing(call, base, load)
        if isinstance(price, Price):
            self._kept.append((now + LIFE_S, call.buyer))
        return price

    def sold(self, buyer: bytes) -> None:
        """One of its proposals was taken."""
        self._kept.remove(next(kept for kept in self._kept if kept[1] == buyer))


def work_of(regulars: Regulars, binding: Binding | None) -> ainp2p.Skill:
    """What a seller sells; it remembers who bought."""

    @ainp2p.skill("work", price=f"{PRICE}/item")
    async def work(job: Work, number: int) -> AsyncIterator[int]:
        regulars.bought(job.buyer)
        if binding is not None:
            binding.sold(job.buyer)
        yield number

    return work


def false_card(like: Card, key: Key, now_ms: int) -> Signed:
    """A card of somebody who is nowhere, and cheaper than all who are."""
    inception = plain_inception(key.public)
    skills = tuple(structs.replace(skill, price=b"1/item") for skill in like.skills)
    times = {"issued": now_ms, "sequence": now_ms, "expires": now_ms + LIFE_MS}
    who = {
        "agent": account_id(like.network, inception),
        "inception": encode(inception),
        "peer": peer_id(key.public).encode(),
        "addresses": (),
    }
    return sign_card(key, structs.replace(like, skills=skills, **who, **times))


def without_declines(sent: Sent) -> bytes | None:
    """An agent tells a seller that it takes somebody else; a spammer does not."""
    return None if (sent.kind, sent.protocol) == ("send", PROTOCOL) else sent.body


async def model(
    world: sim.World,
    *,
    agents: int = 12,
    hours: float = 0.05,
    spammers: int = 3,
    binding: bool = False,
    remember: bool = False,
    heralds: int = 0,
    slots: int = 4,
    pause_s: float = 5.0,
    spam_s: float = 0.1,
) -> None:
    """A third of the agents sell, the others buy, some of them only from the middle of the attack on.

    With `binding` a proposal holds a slot of its seller while it lives; with `remember` it then keeps three
    quarters of its slots for those who have bought before. Every `spam_s` a spammer asks, and a herald
    gossips a false card.
    """
    sellers, end_s = max(2, agents // 3), 3600 * hours
    asked = {"regular": 0, "newcomer": 0}
    filled = dict(asked)

    async def shop(agent: ainp2p.Agent) -> None:
        kind = "regular" if world.now < QUIET_S else "newcomer"
        rng = world.rng("buyer", agent.name)
        await agent.find("work", at_least=sellers, timeout_s=30)
        for number in count():
            await world.run_for(pause_s * rng.uniform(0.5, 1.5))
            asked[kind] += (under_attack := world.now > QUIET_S)
            world.measure("optimum", WORTH - COST)
            with trio.move_on_after(DEADLINE_S):
                with suppress(NoOffers):
                    offers = await agent.find("work", at_least=sellers, timeout_s=1)
                    async with agent.hire(some_of(offers, 2, rng), number=number, budget=PRICE) as job:
                        await job.result()
                    filled[kind] += under_attack
                    world.measure("surplus", WORTH - COST)

    async def spam(agent: ainp2p.Agent) -> None:
        for number in count():
            await world.run_for(spam_s)
            with trio.move_on_after(0.4):  # whatever they say
                offers = await agent.find("work", limit=64)
                async with agent.hire(offers, number=number, budget=PRICE) as job:
                    await job.ended.wait()

    for i in range(sellers):
        strangers = max(1, slots // 4) if remember else 1_000_000  # of them in ten seconds
        regulars = Regulars(strangers, every_s=LIFE_S, now=lambda: world.now)
        bound = Binding(slots, lambda: world.now, regulars.bidding) if binding else None
        strategies = Strategies(pricing=bound.bidding if bound else regulars.bidding)
        skills = [work_of(regulars, bound)]
        world.spawn(f"seller-{i}", skills=skills, slots=slots, role="seller", strategies=strategies)
    buyers = agents - sellers
    for i in range(buyers):
        late_s = QUIET_S + (end_s - QUIET_S) / 2 if i % 4 == 3 else 0.0
        world.at(late_s, lambda i=i: world.spawn(f"buyer-{i}", main=shop, role="buyer", balance=20_000))

    async def herald(agent: ainp2p.Agent) -> None:
        rng = world.rng("herald", agent.name)
        like = (await agent.find("work"))[0].card
        while True:
            await world.run_for(spam_s)
            card = false_card(like, Key(rng.randbytes(32)), world.clock.now_ms())
            await agent.network.publish(f"ainp2p/{like.network.hex()[:16]}/cards", encode(card))
            for peer in agent.network.peers():
                with suppress(Error):
                    await agent.network.send(peer, CARDS, encode(CardPush((card,))))

    async def attack() -> None:
        for i in range(heralds):
            world.spawn(f"herald-{i}", main=herald, role="spammer")
        for i in range(spammers):
            world.spawn(f"spammer-{i}", main=spam, role="spammer", strategies=Strategies(choosing=nobody))
            world.lie(f"spammer-{i}", without_declines)

    world.at(QUIET_S, attack)
    await world.run_for(end_s)
    for kind in filter(asked.get, asked):
        world.measure(f"{kind}s_filled", filled[kind] / asked[kind])


def main() -> None:
    print("spammers  binding  sellers remember  regulars served  newcomers served  welfare")
    everybody = [(0, True, False), (1, True, False), (6, True, False), (6, True, True), (6, False, False)]
    for spammers, binding, remember in everybody:
        slots = 8 if binding else 4
        numbers = sim.run(
            model, seed=7, spammers=spammers, binding=binding, remember=remember, slots=slots
        ).summary()
        print(
            f"{spammers:8}  {binding!s:7}  {remember!s:16}  {numbers['regulars_filled']:15.0%}"
            f"  {numbers['newcomers_filled']:16.0%}  {numbers['welfare']:7.0%}"
        )


if __name__ == "__main__":
    main()
