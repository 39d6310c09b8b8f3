"""The smallest skill: says back what it hears, word by word, for 1 uain a word.

Run alone, one agent sells it to another in this process; `ainp2p serve examples/echo.py:echo` offers it to
every agent on this machine.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import trio

import ainp2p


@ainp2p.skill("echo", price="1/item")
async def echo(job: object, text: str) -> AsyncIterator[str]:
    """Say back what was said, a word at a time."""
    for word in text.split():
        yield word + " "


async def main() -> None:
    async with (
        ainp2p.Agent("alice", skills=[echo]) as alice,
        ainp2p.Agent("bob", bootstrap=[alice.address]) as bob,
    ):
        offers = await bob.find("echo")
        async with bob.hire(offers, text="to be paid by the word", budget=100) as job:
            async for word in job:
                print(word, end="")
        print(f"\n{job.finish}: {job.units} words for {job.paid} uain")
        print(await bob.balance())


if __name__ == "__main__":
    trio.run(main)
