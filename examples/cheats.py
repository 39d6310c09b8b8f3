"""Cheats against honest sellers: what spot checks do to a market in which a bad answer looks like a good one.

    ainp2p sim run examples/cheats.py --agents 60 --hours 0.5 --checks 0.1 --seed 7

Honest work costs its seller something; a cheat makes it up, and so can ask for less. Buyers take the cheapest
of three, never again one whom they caught, and sellers that find no work leave.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from operator import eq

import ainp2p
import ainp2p.simulation as sim
from ainp2p.errors import NoOffers
from ainp2p.protocol.strategies import Strategies
from ainp2p.simulation.strategies import SpotChecks, some_of, zero_intelligence

CARD = 12  # uain, on every card: proposals say less
COST = 8  # uain, of an honest answer; a cheat has none
WORTH = 20  # of a good answer; a bad one is worth nothing
CHECK = 1  # what it costs a buyer to examine an answer
PATIENCE_S = 60.0  # a seller without work for so long leaves


async def model(
    world: sim.World,
    *,
    agents: int = 20,
    hours: float = 0.1,
    cheats: float = 0.5,
    checks: float = 0.2,
    warn: bool = False,
    pause_s: float = 20.0,
) -> None:
    """Half the agents sell, a share `cheats` of them false; buyers examine a share `checks` of the answers.

    With `warn` buyers tell one another who was caught.
    """
    sellers, false = agents // 2, round(cheats * (agents // 2))
    sold = dict[str, float]()  # when each seller last did
    lately = Counter[str]()  # role → uain paid to it, in this quarter of the run
    known = set[bytes]()

    def square_of(name: str, error: int) -> ainp2p.Skill:
        @ainp2p.skill("square", price=f"{CARD}/item")
        async def square(job: object, number: int) -> AsyncIterator[int]:
            sold[name] = world.now
            yield number * number + error

        return square

    async def sell(agent: ainp2p.Agent) -> None:
        sold[agent.name] = world.now
        while world.now - sold[agent.name] < PATIENCE_S:
            await world.run_for(5)

    async def shop(agent: ainp2p.Agent) -> None:
        rng = world.rng("buyer", agent.name)
        spot = SpotChecks(checks, rng, caught=known if warn else set())
        while True:
            await world.run_for(pause_s * rng.uniform(0.5, 1.5))
            number, checked = rng.randrange(10_000), spot.checked
            world.measure("optimum", WORTH - COST)
            try:
                offers = some_of(spot.believed(await agent.find("square", limit=64)), 3, rng)
                async with agent.hire(offers, number=number, budget=CARD) as job:
                    answer = await job.result()
                    if spot.examine(job.legs[-1].seller, partial(eq, answer, number**2)) is False:
                        job.reject("not its square")
            except NoOffers:
                continue  # nobody is left whom we believe
            role = world.node(job.seller).role
            worth = WORTH * (answer == number**2) - COST * (role != "cheat")
            world.measure("surplus", worth - CHECK * (spot.checked - checked))
            lately[role] += job.paid

    for i in range(sellers):
        role, name = ("cheat" if i < false else "seller"), f"seller-{i}"
        pricing = zero_intelligence(CARD // 2 if role == "cheat" else COST + 1, world.rng("asks", name))
        world.spawn(
            name,
            skills=[square_of(name, error=int(role == "cheat"))],
            main=sell,
            role=role,
            balance=1_000,
            strategies=Strategies(pricing=pricing),
        )
    for i in range(agents - sellers):
        world.spawn(f"buyer-{i}", main=shop, role="buyer", balance=50_000)
    world.every(900 * hours, _tell, world, lately)
    await world.run_for(3600 * hours)
    _tell(world, lately)


def _tell(world: sim.World, lately: Counter[str]) -> None:
    for role, name in (("cheat", "cheats_left"), ("seller", "honest_left")):
        world.measure(name, sum(node.alive for node in world.nodes.values() if node.role == role))
    if lately.total():
        world.measure("cheats_share_lately", lately["cheat"] / lately.total())
    lately.clear()


def main() -> None:
    print("checked  warned  cheats' share  at the end  cheats left  honest left  welfare")
    for checks, warn in ((0.0, False), (0.1, False), (0.1, True), (0.3, False)):
        result = sim.run(model, seed=7, agents=16, hours=0.07, checks=checks, warn=warn, pause_s=4.0)
        numbers = result.summary()
        print(
            f"{checks:7.0%}  {warn!s:6}  {numbers['cheats_share']:13.0%}"
            f"  {numbers['cheats_share_lately']:10.0%}  {numbers['cheats_left']:11.0f}"
            f"  {numbers['honest_left']:11.0f}  {numbers['welfare']:7.0%}"
        )


if __name__ == "__main__":
    main()
