"""A model that crashes, hangs or runs out of memory mid-answer: what was delivered is paid, nothing else."""

from __future__ import annotations

import pytest
import trio.testing

from ainp2p.agents.models.model import Model
from ainp2p.agents.models.process import open_model
from ainp2p.agents.models.scripted import Script, ScriptedModel
from ainp2p.agents.skill import skill
from ainp2p.errors import NoOffers

from .market_world import Bought, Market, buy, found_market, words, write

Clock = trio.testing.MockClock


async def a_job(market: Market, broken: Model, twin: ScriptedModel | None = None) -> Bought:
    """A job for a cheap seller with a broken model, and perhaps another one with a whole one."""
    cheap = skill("write", price="1/token")(write.function)
    async with market.agent("broken", [cheap], broken) as seller, market.agent("bob") as bob:
        if twin is None:
            bought = await buy(bob, await bob.find("write"))
        else:
            async with market.agent("whole", [write], twin):
                bought = await buy(bob, await bob.find("write", at_least=2))
        market.check_bill(bought, "1/token")
        await market.check_rest("broken", "bob")
        assert seller._open_parts.seller.free == 4
    return bought


def answer(count: int, directive: str) -> ScriptedModel:
    """A model that says so many words, and then something happens to it."""
    return ScriptedModel({"": f"{words(count)} {directive} {words(20, 'v')}"})


@pytest.mark.parametrize("count", [1, 31, 32, 33, 100])
@pytest.mark.parametrize("directive", ["<crash>", "<oom>"])
async def test_a_model_that_crashes_is_paid_for_what_it_said(
    count: int, directive: str, autojump_clock: Clock
) -> None:
    async with found_market() as market:
        bought = await a_job(market, answer(count, directive))
        assert isinstance(bought.failure, NoOffers)
        assert "ModelCrashed" in str(bought.failure)
        assert (bought.text, bought.job.paid, bought.job.units) == (words(count), count, count)


async def test_a_model_that_hangs_is_left_after_half_a_minute_and_freed(autojump_clock: Clock) -> None:
    async with found_market() as market:
        model = answer(40, "<hang>")
        bought = await a_job(market, model)
        assert "sent nothing for 30 s" in str(bought.failure)
        assert (bought.text, bought.job.paid) == (words(40), 40)
        assert model.statistics().live == 0


async def test_a_model_without_memory_for_a_request_costs_nothing(autojump_clock: Clock) -> None:
    async with found_market() as market:
        bought = await a_job(market, ScriptedModel({"": "<memory>"}))
        assert "not enough memory" in str(bought.failure)
        assert (bought.job.paid, bought.pieces) == (0, [])


@pytest.mark.parametrize("directive", ["<crash>", "<hang>", "<oom>"])
async def test_another_seller_goes_on_after_the_broken_one(directive: str, autojump_clock: Clock) -> None:
    async with found_market() as market:
        broken = answer(40, directive)
        twin = ScriptedModel({"": words(40) + " " + words(20, "v")})
        twin.info = broken.info
        bought = await a_job(market, broken, twin)
        assert bought.failure is None
        assert bought.text == words(40) + " " + words(20, "v")
        assert [(leg.name, leg.units) for leg in bought.job.legs] == [("broken", 40), ("whole", 20)]


@pytest.mark.process
@pytest.mark.parametrize("directive", ["<crash>", "<oom>"])
async def test_a_model_process_that_dies_mid_answer_is_paid_for_what_it_said(directive: str) -> None:
    import ainp2p

    script = Script({"": f"{words(40)} {directive} {words(20, 'v')}"})
    async with (
        open_model(script.as_name()) as model,
        ainp2p.Agent("alice", skills=[write], model=model) as alice,
        ainp2p.Agent("bob", bootstrap=[alice.address]) as bob,
    ):
        bought = await buy(bob, await bob.find("write"))
        assert isinstance(bought.failure, NoOffers)
        assert bought.text == words(40)
        assert bought.job.paid == 80
