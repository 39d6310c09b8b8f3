"""Jobs from the buyer's side: budgets, leaving, sellers that fail, and going on elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from ainp2p.agents.agent import Agent
from ainp2p.agents.models.scripted import ScriptedModel
from ainp2p.agents.offers import Offer
from ainp2p.agents.skill import skill
from ainp2p.agents.work import Work
from ainp2p.errors import BudgetExceeded, InsufficientFunds, NoOffers

from .market_world import Bought, Market, buy, found_market, words, write, writer

Clock = trio.testing.MockClock


async def find(buyer: Agent, name: str = "write", at_least: int = 1) -> list[Offer]:
    return await buyer.find(name, at_least=at_least)


async def test_a_long_answer_is_paid_step_by_step(autojump_clock: Clock) -> None:
    async with found_market() as market:
        async with market.agent("alice", [write], writer(250)), market.agent("bob") as bob:
            bought = await buy(bob, await find(bob))
            assert bought.text == words(250)
            assert (bought.job.finish, bought.job.paid) == ("done", 500)
            assert bought.job.text == bought.text
            market.check_bill(bought)
            await market.check_rest("alice", "bob")


async def test_a_budget_ends_a_job_and_is_never_exceeded(autojump_clock: Clock) -> None:
    async with found_market() as market:
        async with market.agent("alice", [write], writer(100)), market.agent("bob") as bob:
            bought = await buy(bob, await find(bob), budget=81)
            assert (bought.job.finish, bought.job.paid, bought.job.units) == ("budget", 80, 40)
            assert bought.text == words(40)


async def test_an_answer_that_just_fits_the_budget_is_done(autojump_clock: Clock) -> None:
    async with found_market() as market:
        async with market.agent("alice", [write], writer(40)), market.agent("bob") as bob:
            bought = await buy(bob, await find(bob), budget=80)
            assert (bought.job.finish, bought.job.paid) == ("done", 80)


async def test_an_answer_that_loops_ends_and_the_repetition_is_free(autojump_clock: Clock) -> None:
    async with found_market() as market:
        loop = ScriptedModel({"": " ".join([words(10)] * 20)})
        async with market.agent("alice", [write], loop), market.agent("bob") as bob:
            bought = await buy(bob, await find(bob))
            assert bought.job.finish == "loop"
            assert bought.job.paid <= 2 * 18
            await market.check_rest("alice", "bob")


@pytest.mark.parametrize("read", [0, 1, 5])
async def test_leaving_early_costs_at_most_a_step_more_than_was_read(
    read: int, autojump_clock: Clock
) -> None:
    async with found_market() as market:
        async with market.agent("alice", [write], writer(250)), market.agent("bob") as bob:
            bought = await buy(bob, await find(bob), stop_after=read)
            assert bought.job.finish == "canceled"
            market.check_bill(bought)
            await market.check_rest("alice", "bob")
            again = await buy(bob, await find(bob))  # the Lock is still good
            assert again.text == words(250)
            assert len(bob._open_parts.buyer.deposits.all()) == 1
            await market.check_rest("alice", "bob")


async def test_parallel_jobs_share_one_lock_and_add_up(autojump_clock: Clock) -> None:
    async with found_market() as market:
        model = writer(120, tokens_per_second=50)
        async with market.agent("alice", [write], model, slots=4), market.agent("bob") as bob:
            offers, done = await find(bob), list[Bought]()

            async def one(pause_s: float) -> None:
                done.append(await buy(bob, offers, pause_s=pause_s))

            async with trio.open_nursery() as nursery:
                for pause_s in (0.0, 0.01, 0.3):
                    nursery.start_soon(one, pause_s)
            assert [bought.text for bought in done] == [words(120)] * 3
            (deposit,) = bob._open_parts.buyer.deposits.all()
            assert sum(bought.job.paid for bought in done) == 720 == deposit.last_signed.cumulative
            await market.check_rest("alice", "bob")


async def test_a_purse_that_is_too_small_is_told_and_nothing_is_signed(autojump_clock: Clock) -> None:
    async with found_market() as market:
        async with market.agent("alice", [write], writer(9)), market.agent("bob") as bob:
            await bob.wallet.send(bytes(32), 999_800)
            bought = await buy(bob, await find(bob), budget=600)
            assert isinstance(bought.failure, InsufficientFunds)
            assert bought.job.legs == []
            assert (await bob.balance()).locked == 0
            await market.check_rest("alice", "bob")


async def test_a_budget_below_one_unit_is_refused_before_anything_happens(autojump_clock: Clock) -> None:
    async with found_market() as market:
        async with market.agent("alice", [write], writer(9)), market.agent("bob") as bob:
            offers = await find(bob)
            with pytest.raises(BudgetExceeded):
                await buy(bob, offers, budget=1)


async def test_a_skill_that_fails_is_paid_for_what_it_delivered_and_no_more(autojump_clock: Clock) -> None:
    @skill("write", price="2/token")
    async def failing(job: Work, text: str) -> AsyncIterator[object]:
        async for token in job.model.stream(text, max_tokens=40):
            yield token
        raise ZeroDivisionError("a secret of the author's")

    async with found_market() as market:
        async with market.agent("alice", [failing], writer(50)), market.agent("bob") as bob:
            bought = await buy(bob, await find(bob))
            assert isinstance(bought.failure, NoOffers)
            assert "ZeroDivisionError" in str(bought.failure)
            assert "secret" not in str(bought.failure)
            assert (bought.text, bought.job.paid) == (words(40), 80)
            await market.check_rest("alice", "bob")


async def takeover(market: Market, first: ScriptedModel, second: ScriptedModel) -> Bought:
    """A job whose first seller crashes in the middle."""
    cheap = skill("write", price="1/token")(write.function)
    async with (
        market.agent("first", [cheap], first),
        market.agent("second", [write], second),
        market.agent("bob") as bob,
    ):
        bought = await buy(bob, await find(bob, at_least=2), budget=500)
        await market.check_rest("first", "second", "bob")
        return bought


async def test_another_seller_with_the_same_model_goes_on_where_the_first_one_crashed(
    autojump_clock: Clock,
) -> None:
    async with found_market() as market:
        crashing = ScriptedModel({"": words(70) + " <crash> " + words(30, "v")})
        twin = ScriptedModel({"": words(70) + "  " + words(31, "v")})
        twin.info = crashing.info  # the hash of the weights, as both say
        bought = await takeover(market, crashing, twin)
        assert bought.failure is None
        assert [(leg.units, leg.amount, leg.continued) for leg in bought.job.legs] == [
            (70, 70, False),
            (31, 62, True),
        ]
        assert bought.job.legs[0].failure.startswith("refused (failed): ModelCrashed")
        assert (bought.job.restarts, bought.job.wasted) == (0, 0)
        assert bought.text == bought.job.text == words(70) + "  " + words(31, "v")


async def test_another_seller_with_another_model_begins_anew_and_the_waste_is_told(
    autojump_clock: Clock,
) -> None:
    async with found_market() as market:
        crashing = ScriptedModel({"": words(70) + " <crash>"})
        bought = await takeover(
            market,
            crashing,
            writer(
                90,
            ),
        )
        assert bought.failure is None
        assert (bought.job.restarts, bought.job.wasted, bought.job.paid) == (1, 70, 70 + 180)
        assert bought.job.text == words(90)
        assert bought.text == words(70) + words(90)
