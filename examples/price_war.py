"""A price war: sellers learn what to ask, and buyers compare a few of them, or only know one.

    ainp2p sim run examples/price_war.py --agents 1000 --hours 1 --seed 7 --report out/

Every seller asks one uain more after each call that it won, and one less after each that it lost. It is not
the number of sellers that brings prices down to cost, but how many of them a buyer asks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from statistics import fmean

import ainp2p
import ainp2p.simulation as sim
from ainp2p.errors import NoOffers
from ainp2p.protocol.price import Price
from ainp2p.protocol.strategies import Strategies
from ainp2p.simulation.strategies import AdaptiveMargin, some_of

CARD = 100  # uain, on every card: proposals say less
COST = 20  # uain that an item costs its seller


def work_of(margin: AdaptiveMargin) -> ainp2p.Skill:
    """What a seller sells."""

    @ainp2p.skill("work", price=f"{CARD}/item")
    async def work(job: object, number: int) -> AsyncIterator[int]:
        margin.won()
        yield number

    return work


async def model(
    world: sim.World, *, agents: int = 20, hours: float = 0.1, asked: int = 3, pause_s: float = 60.0
) -> None:
    """A fifth of the agents sell; each buyer knows `asked` sellers, and wants something every `pause_s`."""
    sellers = max(asked, agents // 5)
    paid: list[tuple[float, int]] = []

    async def shop(agent: ainp2p.Agent) -> None:
        rng = world.rng("buyer", agent.name)
        known = some_of(await agent.find("work", at_least=sellers, limit=sellers), asked, rng)
        number = 0
        while True:
            await world.run_for(pause_s * rng.uniform(0.5, 1.5))
            number, worth = number + 1, rng.randint(COST, CARD)  # to this buyer, now
            world.measure("optimum", worth - COST)
            async with agent.hire(known, number=number, budget=CARD, max_price=Price(item=worth)) as job:
                try:
                    await job.result()
                except NoOffers:
                    continue  # too dear
            world.measure("surplus", worth - COST)
            world.measure("paid", job.paid)
            paid.append((world.now, job.paid))

    for i in range(sellers):
        margin = AdaptiveMargin(start=60, least=COST + 1)
        strategies = Strategies(pricing=margin.pricing)
        world.spawn(
            f"seller-{i}", skills=[work_of(margin)], strategies=strategies, role="seller", balance=5_000
        )
    for i in range(agents - sellers):
        world.spawn(f"buyer-{i}", main=shop, role="buyer", balance=200_000)
    await world.run_for(3600 * hours)
    for name, some in (
        ("price_first", [amount for _, amount in paid[:10]]),
        ("price_late", [amount for at_s, amount in paid if at_s > 0.75 * world.now]),
    ):
        if some:
            world.measure(name, fmean(some))


def main() -> None:
    print("asked  first price  last price  welfare  fill rate  dispersion")
    for asked in (1, 2, 3):
        numbers = sim.run(model, seed=7, agents=10, hours=0.05, asked=asked, pause_s=4.0).summary()
        print(
            f"{asked:5}  {numbers['price_first']:11.1f}  {numbers['price_late']:10.1f}"
            f"  {numbers['welfare']:7.0%}  {numbers['fill_rate']:9.0%}  {numbers['price_dispersion']:10.2f}"
        )


if __name__ == "__main__":
    main()
