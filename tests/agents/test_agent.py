"""An agent as its users see it: opened, found, hired, asked, closed; all in memory on a jumping clock."""

from __future__ import annotations

import trio.testing

from .market_world import buy, found_market, words, write, writer


async def test_a_job_is_found_delivered_and_paid_for(autojump_clock: trio.testing.MockClock) -> None:
    async with found_market() as market:
        async with market.agent("alice", [write], writer(50)) as alice, market.agent("bob") as bob:
            offers = await bob.find("write")
            bought = await buy(bob, offers)
            assert bought.text == words(50)
            assert (bought.job.finish, bought.job.paid, bought.job.units) == ("done", 100, 50)
            market.check_bill(bought)
            await market.check_rest("alice", "bob")
            assert (await alice.balance()).total == 1_000_100
