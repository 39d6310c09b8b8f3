"""Storms over a simulated town, rows A1, A6, C1 to C3, F1 and H3 at once: `make faults SEEDS=2000`."""

from __future__ import annotations

import ainp2p.simulation as sim
from ainp2p.simulation import World
from ainp2p.simulation.trials.faults import KINDS
from tests.simulation.town import STORM, storm

MARKS = (
    *(f"fault: {kind}" for kind in KINDS),
    *("bought", "a purchase failed", "paid", "a payment took long"),
    *("a seller came back", "a validator came back", "the buyer's clock was ahead"),
)


@sim.test(seeds=20, latency=(0.01, 0.05), loss=0.01, faults=STORM, must_reach=MARKS)
async def test_a1_a6_c1_c2_c3_f1_h3_a_town_keeps_its_money_in_any_storm_and_goes_on_after_it(
    world: World,
) -> None:
    await storm(world)
