"""First-proposal bias and its cure: buyers that take whoever answers first, and buyers that compare.

    ainp2p sim run examples/first_proposal.py --agents 40 --hours 0.5 --first 0.5 --seed 7

The nearer a seller, the more its work costs. Where buyers take the first proposal, nearness wins and not
price, and whoever wins learns to ask for more. Comparing for half a second cures it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator
from statistics import fmean

import ainp2p
import ainp2p.simulation as sim
from ainp2p.protocol.strategies import Strategies, cheapest
from ainp2p.simulation.strategies import AdaptiveMargin, first_proposal

CARD, WORTH = 100, 120  # uain: on every card, and to every buyer
NEAR_S, FAR_S = 0.005, 0.1  # one way, from the nearest seller and from the farthest


def work_of(margin: AdaptiveMargin) -> ainp2p.Skill:
    """What a seller sells."""

    @ainp2p.skill("work", price=f"{CARD}/item")
    async def work(job: object, number: int) -> AsyncIterator[int]:
        margin.won()
        yield number

    return work


async def model(
    world: sim.World,
    *,
    agents: int = 20,
    hours: float = 0.1,
    sellers: int = 4,
    first: float = 1.0,
    pause_s: float = 20.0,
) -> None:
    """A share `first` of the buyers takes the first proposal, the others the best of all."""
    costs, distance_s, won, paid = dict[str, int](), dict[str, float](), Counter[str](), list[int]()
    for i in range(sellers):
        name, costs[f"seller-{i}"] = f"seller-{i}", 60 - 50 * i // max(1, sellers - 1)
        margin = AdaptiveMargin(start=70, least=costs[name] + 1, down=4)
        strategies = Strategies(pricing=margin.pricing)
        node = world.spawn(
            name, skills=[work_of(margin)], strategies=strategies, role="seller", balance=5_000
        )
        distance_s[node.peer] = NEAR_S + (FAR_S - NEAR_S) * i / max(1, sellers - 1)

    def latency(rng: random.Random, source: str, target: str) -> float:
        return max(distance_s.get(source, 0.0), distance_s.get(target, 0.0)) * rng.uniform(0.9, 1.1)

    world.wire.weather = sim.Weather(latency=latency)

    async def shop(agent: ainp2p.Agent) -> None:
        rng = world.rng("buyer", agent.name)
        offers, number = await agent.find("work", at_least=sellers, timeout_s=30), 0
        while True:
            await world.run_for(pause_s * rng.uniform(0.5, 1.5))
            number += 1
            async with agent.hire(offers, number=number, budget=CARD) as job:
                await job.result()
            won[job.seller] += 1
            paid.append(job.paid)
            world.measure("optimum", WORTH - min(costs.values()))
            world.measure("surplus", WORTH - costs[job.seller])
            world.measure("paid", job.paid)

    buyers = agents - sellers
    for i in range(buyers):
        choosing = first_proposal() if i < round(first * buyers) else cheapest
        world.spawn(
            f"buyer-{i}", main=shop, role="buyer", balance=200_000, strategies=Strategies(choosing=choosing)
        )
    await world.run_for(3600 * hours)
    if paid:
        world.measure("nearest_share", won["seller-0"] / won.total())
        world.measure("cheapest_share", won[f"seller-{sellers - 1}"] / won.total())
        world.measure("price_late", fmean(paid[-max(1, len(paid) // 4) :]))


def main() -> None:
    print("take the first  nearest sells  cheapest sells  last price  welfare")
    for first in (1.0, 0.5, 0.0):
        numbers = sim.run(model, seed=7, agents=12, hours=0.05, first=first, pause_s=4.0).summary()
        print(
            f"{first:14.0%}  {numbers['nearest_share']:13.0%}  {numbers['cheapest_share']:14.0%}"
            f"  {numbers['price_late']:10.1f}  {numbers['welfare']:7.0%}"
        )


if __name__ == "__main__":
    main()
