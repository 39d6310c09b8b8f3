"""What the tables say of jobs and of trades that a model makes by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

import ainp2p
from ainp2p.errors import InvalidInput
from ainp2p.simulation import Result, World, run


@ainp2p.skill("slow", price="2/item")
async def slow(job: object, seconds: float) -> AsyncIterator[int]:
    """An item, after a while, and another one."""
    await trio.sleep(seconds)
    yield 1
    yield 2


async def market(world: World, *, seconds: float, patience_s: float) -> None:
    """One job, and its buyer leaves when its patience ends."""
    world.spawn("seller", skills=[slow])
    buyer = await world.spawn("buyer").ready()
    offers = await buyer.agent.find("slow")
    with trio.move_on_after(patience_s):
        async with buyer.agent.hire(offers, seconds=seconds, budget=10) as job:
            await job.result()


async def barter(world: World, *, failure: str = "") -> None:
    """A trade by a protocol of the model's own."""
    for name in ("alice", "bob"):
        await world.spawn(name).ready()
    world.traded("alice", world.node("bob"), "song", units=2, amount=6, price="3/item", failure=failure)


def rows(result: Result) -> dict[str, Any]:
    return {str(row["name"]): row for row in result.agents.dicts()}


def test_a_job_that_was_done_is_filled() -> None:
    (trade,) = run(market, 1, seconds=1.0, patience_s=5.0).trades.dicts()
    assert (trade["units"], trade["amount"], trade["failure"]) == (2, 4, "")


def test_a_job_whose_buyer_left_before_anything_came_is_not() -> None:
    result = run(market, 1, seconds=9.0, patience_s=5.0)
    (trade,) = result.trades.dicts()
    assert (trade["units"], trade["amount"], trade["failure"]) == (0, 0, "left")
    assert result.summary()["fill_rate"] == 0


def test_a_trade_of_the_model_s_own_stands_beside_jobs() -> None:
    result = run(barter, 1)
    (trade,) = result.trades.dicts()
    assert [trade[name] for name in ("buyer", "seller", "skill", "units", "amount", "price", "failure")] == [
        "alice", "bob", "song", 2, 6, "3/item", "",
    ]  # fmt: skip
    alice, bob = rows(result)["alice"], rows(result)["bob"]
    assert (alice["spent"], alice["jobs_bought"], bob["earned"], bob["jobs_sold"]) == (6, 1, 6, 1)


def test_a_trade_that_failed_is_not_sold() -> None:
    result = run(barter, 1, failure="broken")
    assert (result.summary()["fill_rate"], rows(result)["bob"]["jobs_sold"]) == (0, 0)
    assert run(barter, 1).hash != result.hash


def test_a_trade_with_nobody_is_refused() -> None:
    async def model(world: World) -> None:
        await world.spawn("alice").ready()
        world.traded("alice", "bob", "song", units=1, amount=1)

    with pytest.raises(InvalidInput, match="no node is called 'bob'"):
        run(model, 1)
