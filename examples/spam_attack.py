"""A spam attack: strangers ask every seller for proposals all the time, and never take one.

    ainp2p sim run examples/spam_attack.py --agents 40 --hours 0.2 --spammers 6 --seed 7

A proposal holds a slot of its seller for ten seconds, and asking is free. One name can hold half the slots,
and 8 at most, so a crowd of names is needed. What helps against a crowd is to remember who has paid.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import count

import trio

import ainp2p
import ainp2p.simulation as sim
from ainp2p.agents.work import Work
from ainp2p.errors import NoOffers
from ainp2p.protocol.messages import PROTOCOL
from ainp2p.protocol.strategies import Strategies
from ainp2p.simulation.strategies import Regulars, nobody, some_of
from ainp2p.simulation.wire.lies import Sent

PRICE, COST, WORTH = 10, 4, 30  # uain
QUIET_S = 60.0  # before the attack: who buys in this time is no stranger later
DEADLINE_S = 5.0  # an answer is worth something for so long


def work_of(regulars: Regulars) -> ainp2p.Skill:
    """What a seller sells; it remembers who bought."""

    @ainp2p.skill("work", price=f"{PRICE}/item")
    async def work(job: Work, number: int) -> AsyncIterator[int]:
        regulars.bought(job.buyer)
        yield number

    return work


def without_declines(sent: Sent) -> bytes | None:
    """An agent tells a seller that it takes somebody else, which frees the slot; a spammer does not."""
    return None if (sent.kind, sent.protocol) == ("send", PROTOCOL) else sent.body


async def model(
    world: sim.World,
    *,
    agents: int = 12,
    hours: float = 0.05,
    spammers: int = 3,
    remember: bool = False,
    slots: int = 16,
    pause_s: float = 5.0,
) -> None:
    """A third of the agents sell, the others buy, some of them only from the middle of the attack on.

    With `remember` a seller keeps three quarters of its slots for those who have bought before.
    """
    sellers, end_s = max(2, agents // 3), 3600 * hours
    asked = {"regular": 0, "newcomer": 0}
    filled = dict(asked)

    async def shop(agent: ainp2p.Agent) -> None:
        kind = "regular" if world.now < QUIET_S else "newcomer"
        rng = world.rng("buyer", agent.name)
        offers = await agent.find("work", at_least=sellers, timeout_s=30)
        for number in count():
            await world.run_for(pause_s * rng.uniform(0.5, 1.5))
            asked[kind] += (under_attack := world.now > QUIET_S)
            world.measure("optimum", WORTH - COST)
            with trio.move_on_after(DEADLINE_S):
                with suppress(NoOffers):
                    async with agent.hire(some_of(offers, 2, rng), number=number, budget=PRICE) as job:
                        await job.result()
                    filled[kind] += under_attack
                    world.measure("surplus", WORTH - COST)

    async def spam(agent: ainp2p.Agent) -> None:
        for number in count():
            await world.run_for(0.1)
            with trio.move_on_after(0.4):  # whatever they say
                offers = await agent.find("work", limit=64)
                async with agent.hire(offers, number=number, budget=PRICE) as job:
                    await job.ended.wait()

    for i in range(sellers):
        strangers = max(1, slots // 4) if remember else 1_000_000  # of them in ten seconds
        regulars = Regulars(strangers, every_s=10.0, now=lambda: world.now)
        strategies, skills = Strategies(pricing=regulars.bidding), [work_of(regulars)]
        world.spawn(f"seller-{i}", skills=skills, slots=slots, role="seller", strategies=strategies)
    buyers = agents - sellers
    for i in range(buyers):
        late_s = QUIET_S + (end_s - QUIET_S) / 2 if i % 4 == 3 else 0.0
        world.at(late_s, lambda i=i: world.spawn(f"buyer-{i}", main=shop, role="buyer", balance=20_000))

    async def attack() -> None:
        for i in range(spammers):
            world.spawn(f"spammer-{i}", main=spam, role="spammer", strategies=Strategies(choosing=nobody))
            world.lie(f"spammer-{i}", without_declines)

    world.at(QUIET_S, attack)
    await world.run_for(end_s)
    for kind in filter(asked.get, asked):
        world.measure(f"{kind}s_filled", filled[kind] / asked[kind])


def main() -> None:
    print("spammers  sellers remember  regulars served  newcomers served  welfare")
    for spammers, remember in ((0, False), (1, False), (3, False), (3, True)):
        numbers = sim.run(model, seed=7, spammers=spammers, remember=remember).summary()
        print(
            f"{spammers:8}  {remember!s:16}  {numbers['regulars_filled']:15.0%}"
            f"  {numbers['newcomers_filled']:16.0%}  {numbers['welfare']:7.0%}"
        )


if __name__ == "__main__":
    main()
