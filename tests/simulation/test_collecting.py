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


@ainp2p.skill("slow", price="1/item")
async def garbage(job: object, seconds: float) -> AsyncIterator[str]:
    """What nobody asked for."""
    yield "garbage"


async def picky(world: World, *, honest: bool) -> None:
    """A buyer that rejects what is no number; a cheat is cheaper."""
    world.spawn("cheat", skills=[garbage], role="cheat")
    if honest:
        world.spawn("seller", skills=[slow])
    buyer = await world.spawn("buyer").ready()
    offers = await buyer.agent.find("slow", at_least=1 + honest)
    async with buyer.agent.hire(offers, seconds=1.0, budget=10) as job:
        if isinstance(await job.result(), str):
            job.reject("no number")
            if honest:
                assert await job.result() == [1, 2]


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


def test_a_part_that_was_rejected_is_a_row_of_its_own() -> None:
    result = run(picky, 1, honest=True)
    told = [(row["seller"], row["amount"], row["failure"], row["job"]) for row in result.trades.dicts()]
    assert told == [("cheat", 1, "rejected", "buyer/1"), ("seller", 4, "", "buyer/1")]
    numbers = result.summary()
    assert (numbers["trades"], numbers["filled"], numbers["fill_rate"], numbers["rejected"]) == (2, 1, 1.0, 1)
    assert numbers["cheats_share"] == 1 / 5
    sold = {name: row["jobs_sold"] for name, row in rows(result).items()}
    assert (sold["cheat"], sold["seller"], rows(result)["buyer"]["jobs_bought"]) == (0, 1, 1)


def test_a_job_that_was_left_once_it_was_rejected_is_one_row() -> None:
    result = run(picky, 1, honest=False)
    (trade,) = result.trades.dicts()
    assert (trade["seller"], trade["amount"], trade["failure"]) == ("cheat", 1, "rejected")
    assert (result.summary()["fill_rate"], result.summary()["rejected"]) == (0, 1)


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
