"""A seller vanishes in the middle of its answer: another one goes on from what was delivered and paid.

The buyer loses at most one step of units, whatever the seller does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import trio

import ainp2p
from ainp2p.agents.models.model import Token
from ainp2p.agents.models.scripted import ScriptedModel
from ainp2p.agents.work import Work

STORY = " ".join(f"sheep {number}," for number in range(1, 41))


async def tell(job: Work, topic: str) -> AsyncIterator[Token]:
    """Tell a story, token by token; after a takeover the model goes on from the prefix by itself."""
    async for token in job.model.stream(topic):
        yield token


def seller(name: str, price: str, bootstrap: list[str]) -> ainp2p.Agent:
    model = ScriptedModel({"sheep": STORY}, tokens_per_second=60)
    skill = ainp2p.skill("tell", price=price)(tell)
    return ainp2p.Agent(name, skills=[skill], model=model, bootstrap=bootstrap)


async def main() -> None:
    async with ainp2p.Agent("founder") as founder:
        known = [founder.address]
        async with (
            seller("second", "2/token", known),
            ainp2p.Agent("buyer", bootstrap=known) as buyer,
            trio.open_nursery() as nursery,
        ):
            vanish = trio.Event()

            async def first() -> None:
                async with seller("first", "1/token", known):
                    await vanish.wait()

            nursery.start_soon(first)
            offers = await buyer.find("tell", at_least=2)
            async with buyer.hire(offers, topic="sheep", budget=200) as job:
                heard = 0
                async for piece in job:
                    print(piece, end="", flush=True)
                    heard += 1
                    if heard == 30:
                        print(" […] ", end="")
                        vanish.set()
            print()
            for leg in job.legs:
                gone = ", then it was gone" if leg.failure else ""
                print(f"{leg.name}: {leg.units} tokens for {leg.amount} uain{gone}")


if __name__ == "__main__":
    trio.run(main)
