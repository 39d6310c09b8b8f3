"""Two sellers compete for one task, and the buyer haggles: the contract net with counter-proposals.

Strategies are plain functions. Here one seller meets counter-proposals half-way, the other never moves,
and the buyer asks everybody for a third off, in every round.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import trio

import ainp2p
from ainp2p.protocol.strategies import Strategies, ask_for_discount, bargain_down_to


def count_down(price: str) -> ainp2p.Skill:
    @ainp2p.skill("count-down", price=price)
    async def count(job: object, start: int) -> AsyncIterator[int]:
        """Count down to zero."""
        for number in range(start, -1, -1):
            yield number

    return count


async def main() -> None:
    async with (
        ainp2p.Agent("firm", skills=[count_down("9/item")]) as firm,
        ainp2p.Agent(
            "soft",
            skills=[count_down("12/item")],
            bootstrap=[firm.address],
            strategies=Strategies(answering=bargain_down_to(50)),
        ),
        ainp2p.Agent(
            "buyer", bootstrap=[firm.address], strategies=Strategies(countering=ask_for_discount(33))
        ) as buyer,
    ):
        offers = await buyer.find("count-down", at_least=2)
        for offer in offers:
            print(f"{offer.name} asks {offer.price}")
        async with buyer.hire(offers, start=9, budget=500) as job:
            print("counting:", *[number async for number in job])
        deal = job.legs[-1]
        print(f"{deal.name} did it for {deal.price}: {deal.units} numbers, {deal.amount} uain")
        print(f"{len(deal.transcript)} signed messages can show how it came to that")


if __name__ == "__main__":
    trio.run(main)
