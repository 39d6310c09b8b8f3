"""A circuit breaker: a bad release makes part of a fleet buy the same answer again and again, all night.

    ainp2p sim run examples/circuit_breaker.py --agents 40 --hours 1 --rules none --seed 7

With the breaker of `ainp2p.Policy` the vault stops after the tenth repeat and somebody looks; with a budget
it stops when the hour's money is gone; with neither, when the purse is empty.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal

import ainp2p
import ainp2p.simulation as sim
from ainp2p.agents.breaker import Limits
from ainp2p.errors import InsufficientFunds, PolicyRefused

PRICE, COST, WORTH = 10, 4, 30  # uain: of an answer; to its seller; to whoever needs it
PURSE = 1_000
REPAIR_S = 30.0  # until somebody has looked at an agent that stopped, and has mended it
NEVER = Limits(per_minute=None, errors=None, repeats=None)
RULES = {
    "none": ainp2p.Policy(breaker=NEVER),
    "budget": ainp2p.Policy(per_hour=PURSE // 2, breaker=NEVER),
    "breaker": ainp2p.Policy(),
}


@ainp2p.skill("answer", price=f"{PRICE}/item")
async def answer(job: object, number: int) -> AsyncIterator[int]:
    """Something worth paying for, once."""
    yield number


async def model(
    world: sim.World,
    *,
    agents: int = 12,
    hours: float = 0.1,
    rules: Literal["none", "budget", "breaker"] = "breaker",
    bugged: float = 0.3,
    pause_s: float = 20.0,
) -> None:
    """A fleet buys answers; after a quarter of the time a share `bugged` of it loops, until it is mended."""
    sellers = max(1, agents // 10)
    release_s, end_s = 900 * hours, 3600 * hours
    fleet = [f"agent-{i}" for i in range(agents - sellers)]
    looping = set(fleet[: round(bugged * len(fleet))])
    lost = dict.fromkeys(fleet, 0)

    async def mend(agent: ainp2p.Agent) -> None:
        world.sometimes(f"stopped: {agent.tripped or 'budget'}")
        await world.run_for(REPAIR_S)
        looping.discard(agent.name)
        await agent.resume_spending()

    async def work(agent: ainp2p.Agent, needs: list[float]) -> None:
        offers = await agent.find("answer", at_least=sellers)
        for number, at_s in enumerate(needs):
            await world.run_for(max(0.0, at_s - world.now))
            times = 0
            while not times or (agent.name in looping and world.now > release_s):
                try:
                    async with agent.hire(offers, number=number, budget=PRICE) as job:
                        await job.result()
                except PolicyRefused:
                    await mend(agent)
                    break
                except InsufficientFunds:
                    return  # the end of this agent
                world.measure("surplus", -COST if times else WORTH - COST)
                if times:
                    lost[agent.name] += PRICE
                times += 1
                await world.run_for(1.0)
        await world.run_for(end_s)  # all is done; it lives on

    for i in range(sellers):
        world.spawn(f"seller-{i}", skills=[answer], slots=64, role="seller", balance=PURSE)
    for name in fleet:
        rng = world.rng("needs", name)
        needs = sorted(rng.uniform(5, end_s) for _ in range(int(end_s / pause_s)))
        for at_s in needs:
            world.at(at_s, world.measure, "optimum", WORTH - COST)
        world.spawn(
            name, main=lambda agent, needs=needs: work(agent, needs), policy=RULES[rules], balance=PURSE
        )
    world.every(10, lambda: world.measure("lost", sum(lost.values())))
    await world.run_for(end_s)
    world.measure("lost", sum(lost.values()))
    world.measure("lost_worst", max(lost.values()))
    world.measure("dead", sum(not world.node(name).alive for name in fleet))


def main() -> None:
    print("rules    lost by the fleet  by the worst  dead  welfare")
    for rules in RULES:
        numbers = sim.run(model, seed=7, rules=rules).summary()
        print(
            f"{rules:7}  {numbers['lost']:17.0f}  {numbers['lost_worst']:12.0f}"
            f"  {numbers['dead']:4.0f}  {numbers['welfare']:7.0%}"
        )


if __name__ == "__main__":
    main()
