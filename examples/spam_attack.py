"""A spam attack: strangers ask every seller for proposals all the time, and never take one.

    ainp2p sim run examples/spam_attack.py --agents 40 --hours 0.2 --spammers 6 --seed 7

An agent's proposal holds nothing: the first award with money behind it gets the slot. A crowd jams sellers
that keep what they propose (`binding`), unless they remember who has paid. Heralds tell of cheap sellers that
are not there; whoever is connected keeps its place in a buyer's directory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from itertools import count

import trio

import ainp2p
import ainp2p.simulation as sim
from ainp2p.agents.work import Work
from ainp2p.errors import NoOffers
from ainp2p.protocol.strategies import Strategies
from ainp2p.simulation.heralds import herald
from ainp2p.simulation.strategies import Binding, Regulars, nobody, some_of

PRICE, COST, WORTH = 10, 4, 30  # uain
QUIET_S = 60.0  # before the attack: who buys in this time is no stranger later
DEADLINE_S = 5.0  # an answer is worth something for so long


def work_of(regulars: Regulars, binding: Binding) -> ainp2p.Skill:
    """What a seller sells; it remembers who bought."""

    @ainp2p.skill("work", price=f"{PRICE}/item")
    async def work(job: Work, number: int) -> AsyncIterator[int]:
        regulars.bought(job.buyer)
        binding.sold(job.buyer)
        yield number

    return work


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
    spam_s: float = 0.1,
) -> None:
    """A third of the agents sell, the others buy, some of them only from the middle of the attack on.

    With `binding` a proposal holds a slot of its seller; with `remember` three quarters of the slots are for
    those who have bought before. Every `spam_s` a spammer asks, and a herald gossips a false card.
    """
    sellers, end_s = max(2, agents // 3), 3600 * hours
    asked, filled = Counter[str](), Counter[str]()

    async def shop(agent: ainp2p.Agent) -> None:
        kind = "regular" if world.now < QUIET_S else "newcomer"
        rng = world.rng("buyer", agent.name)
        await agent.find("work", at_least=sellers, timeout_s=30)
        for number in count():
            await world.run_for(5 * rng.uniform(0.5, 1.5))
            asked[kind] += (under_attack := world.now > QUIET_S)
            world.measure("optimum", WORTH - COST)
            with trio.move_on_after(DEADLINE_S), suppress(NoOffers):
                offers = await agent.find("work", at_least=sellers, timeout_s=1)
                async with agent.hire(some_of(offers, 2, rng), number=number, budget=PRICE) as job:
                    await job.result()
                filled[kind] += under_attack
                world.measure("surplus", WORTH - COST)

    async def spam(agent: ainp2p.Agent) -> None:
        for number in count():
            await world.run_for(spam_s)
            with trio.move_on_after(0.4):  # whatever they say
                async with agent.hire(await agent.find("work", limit=64), number=number, budget=PRICE) as job:
                    await job.ended.wait()

    for i in range(sellers):
        strangers = max(1, slots // 4) if remember else 1_000_000  # of them in ten seconds
        regulars = Regulars(strangers, every_s=10.0, now=lambda: world.now)
        bound = Binding(slots if binding else 1_000_000, lambda: world.now, regulars.bidding)
        skills, strategies = [work_of(regulars, bound)], Strategies(pricing=bound.bidding)
        world.spawn(f"seller-{i}", skills=skills, slots=slots, role="seller", strategies=strategies)
    for i in range(agents - sellers):
        late_s = QUIET_S + (end_s - QUIET_S) / 2 if i % 4 == 3 else 0.0
        world.at(late_s, lambda i=i: world.spawn(f"buyer-{i}", main=shop, role="buyer", balance=20_000))

    async def attack() -> None:
        for i in range(heralds):
            world.spawn(f"herald-{i}", main=partial(herald, world, "work", spam_s), role="spammer")
        for i in range(spammers):
            world.spawn(f"spammer-{i}", main=spam, role="spammer", strategies=Strategies(choosing=nobody))
            world.lie(f"spammer-{i}", lambda sent: None if sent.kind == "send" else sent.body)  # no declines

    world.at(QUIET_S, attack)
    await world.run_for(end_s)
    for kind in +asked:
        world.measure(f"{kind}s_filled", filled[kind] / asked[kind])


def main() -> None:
    print("spammers  binding  sellers remember  regulars served  newcomers served  welfare")
    row = "{:8}  {!s:7}  {!s:16}  {regulars_filled:15.0%}  {newcomers_filled:16.0%}  {welfare:7.0%}"
    crowds = [(0, True, False), (1, True, False), (6, True, False), (6, True, True), (6, False, False)]
    for n, bind, keep in crowds:
        result = sim.run(model, 7, spammers=n, binding=bind, remember=keep, slots=8 if bind else 4)
        print(row.format(n, bind, keep, **result.summary()))


if __name__ == "__main__":
    main()
