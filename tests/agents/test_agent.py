"""An agent as its users see it: opened, found, hired, asked, closed; all in memory on a jumping clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from ainp2p.agents.agent import Agent
from ainp2p.agents.job import Job
from ainp2p.agents.policy import Policy
from ainp2p.agents.skill import skill
from ainp2p.agents.work import Work
from ainp2p.errors import (
    BudgetExceeded,
    Closed,
    Error,
    InvalidInput,
    ModelNotFound,
    NetworkError,
    NoOffers,
    PolicyRefused,
)
from ainp2p.ledger.serving.messages import FAUCET_PROTOCOL
from ainp2p.protocol.identity import Key, id_text
from ainp2p.protocol.memory import MemoryHub, MemoryNetwork, open_memory_network

from .market_world import buy, found_market, words, write, writer

Clock = trio.testing.MockClock


async def test_a_job_is_found_delivered_and_paid_for(autojump_clock: Clock) -> None:
    async with found_market() as market:
        async with market.agent("alice", [write], writer(50)) as alice, market.agent("bob") as bob:
            bought = await buy(bob, await bob.find("write", max_price="3/token"))
            assert bought.text == words(50)
            assert (bought.job.finish, bought.job.paid, bought.job.units) == ("done", 100, 50)
            market.check_bill(bought)
            await market.check_rest("alice", "bob")
            assert (await alice.balance()).total == 1_000_100


async def test_an_agent_without_bootstrap_founds_a_network_that_others_join(autojump_clock: Clock) -> None:
    hub = MemoryHub(1)

    def agent(name: str, **options: Any) -> Agent:
        return Agent(name, transport=lambda key: open_memory_network(hub, key), **options)

    async with agent("alice", skills=[write], model=writer(9)) as alice:
        async with agent("bob", bootstrap=[alice.address]) as bob:
            assert alice.genesis == bob.genesis
            assert alice.genesis.is_development
            assert await bob.ask("write", budget=100, text="go") == words(9)
            assert (await bob.balance()).total < 1_000_000


# --- asking, planning, running at home ---------------------------------------------------------------


async def test_ask_is_find_hire_and_read(autojump_clock: Clock) -> None:
    @skill("sum", price="3/call")
    async def add(job: Work, numbers: list[int]) -> int:
        return sum(numbers)

    async with found_market() as market:
        async with market.agent("alice", [write, add], writer(9)), market.agent("bob") as bob:
            assert await bob.ask("write", budget=100, text="go") == words(9)
            assert await bob.ask("sum", budget=3, numbers=[1, 2, 3]) == 6
            with pytest.raises(NoOffers):
                await bob.ask("write", budget=100, max_price="1/token", text="go")


async def test_a_plan_says_what_it_may_cost_and_what_forbids_it_and_moves_nothing(
    autojump_clock: Clock,
) -> None:
    async with found_market() as market:
        policy = Policy(per_job=100)
        async with (
            market.agent("alice", [write], writer(9)) as alice,
            market.agent("bob", policy=policy) as bob,
        ):
            plan = await bob.plan("write", budget=90, text="go")
            assert (plan.possible, plan.units_max, plan.available) == (True, 45, 1_000_000)
            plan = await bob.plan("write", budget=110, text="go")
            assert [violation.rule for violation in plan.violations] == ["per_job"]
            assert not plan.possible
            assert alice._open_parts.seller.free == 4
            assert (await bob.balance()).locked == 0


@pytest.mark.parametrize(
    ("policy", "rule"),
    [(Policy(per_job=99), "per_job"), (Policy(per_hour=99), "per_hour"), (Policy(per_lock=99), "per_lock")],
)
async def test_what_the_policy_forbids_is_refused_before_anything_is_signed(
    policy: Policy, rule: str, autojump_clock: Clock
) -> None:
    async with found_market() as market:
        async with market.agent("alice", [write], writer(9)), market.agent("bob", policy=policy) as bob:
            offers = await bob.find("write")
            with pytest.raises(BudgetExceeded) as refused:
                await buy(bob, offers, budget=100)
            assert refused.value.rule == rule
            balance = await bob.balance()
            assert (balance.available, balance.locked) == (1_000_000, 0)
            await market.check_rest("alice", "bob")


async def test_a_mutant_without_the_check_beforehand_still_signs_nothing(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ainp2p.agents.buying.Buyer._violations", lambda self, offer, budget: [])
    async with found_market() as market:
        policy = Policy(per_job=99)
        async with market.agent("alice", [write], writer(9)), market.agent("bob", policy=policy) as bob:
            bought = await buy(bob, await bob.find("write"), budget=100)
            assert isinstance(bought.failure, PolicyRefused)  # by the vault, before the Lock
            assert (await bob.balance()).locked == 0


async def test_one_sellers_limit_sends_a_job_to_another_one(autojump_clock: Clock) -> None:
    async with found_market() as market:
        cheap = skill("write", price="1/token")(write.function)
        policy = Policy(per_counterparty=250)
        async with (
            market.agent("alice", [cheap], writer(90)),
            market.agent("carol", [write], writer(90)),
            market.agent("bob", policy=policy) as bob,
        ):
            offers = await bob.find("write", at_least=2)
            first = await buy(bob, offers, budget=200, text="1")
            second = await buy(bob, offers, budget=200, text="2")
            assert (first.last.name, second.last.name) == ("alice", "carol")


async def test_a_skill_of_ones_own_runs_at_home_for_nothing(autojump_clock: Clock) -> None:
    async with found_market() as market:
        async with market.agent("bob", [], writer(300)) as bob:
            bought = await buy(bob, write)
            assert (bought.text, bought.job.paid, bought.job.finish) == (words(256), 0, "done")
            assert await bob.ask(write, text="go") == words(256)
            left = await buy(bob, write, stop_after=1)
            assert left.job.finish == "canceled"
            await market.check_rest("bob")


async def test_a_skill_of_ones_own_raises_as_it_would_if_called(autojump_clock: Clock) -> None:
    @skill("odd", price="1/call")
    async def odd(job: Work) -> AsyncIterator[object]:
        yield 1
        raise ZeroDivisionError

    async with found_market() as market:
        async with market.agent("bob") as bob:
            with pytest.raises(ZeroDivisionError):
                await bob.ask(odd)
            with pytest.raises(ModelNotFound):
                await bob.ask(write, text="go")
            with pytest.raises(InvalidInput, match="does not fit its schema"):
                await bob.ask(write, text=5)


# --- opening and closing ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"name": ""}, "1 to 64 bytes"),
        ({"name": "x" * 65}, "1 to 64 bytes"),
        ({"name": "a", "skills": [write, write]}, "same name"),
        ({"name": "a", "key": Key(bytes(32))}, "pass home="),
        ({"name": "a", "slots": 0}, "at least one job"),
    ],
    ids=["no name", "long name", "two skills", "key without books", "no slots"],
)
def test_an_agent_that_makes_no_sense_is_refused(arguments: dict[str, object], told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        Agent(**arguments)  # type: ignore[arg-type]  # wrong on purpose


async def test_an_agent_is_used_inside_its_block_only(autojump_clock: Clock) -> None:
    async with found_market() as market:
        async with market.agent("bob") as bob:
            assert repr(bob) == f"Agent('bob' {id_text(bob.id)})"
        assert repr(bob) == "Agent('bob')"
        with pytest.raises(Closed, match="inside its `async with` block"):
            await bob.balance()
        with pytest.raises(InvalidInput, match="opened once"):
            await bob.__aenter__()


async def test_one_bootstrap_peer_of_several_is_enough(autojump_clock: Clock) -> None:
    async with found_market() as market:
        gone = f"/memory/99/p2p/{Key(bytes(32)).peer_id}"
        good = market.address
        bob = Agent("bob", bootstrap=[gone, good], transport=lambda key: open_memory_network(market.hub, key))
        async with bob:
            assert (await bob.balance()).available == 1_000_000
        lost = Agent("bob", bootstrap=[gone], transport=lambda key: open_memory_network(market.hub, key))
        with pytest.raises(NetworkError, match="no bootstrap peer can be reached"):
            await lost.__aenter__()
        wrong = Agent(
            "bob", bootstrap=["nonsense"], transport=lambda key: open_memory_network(market.hub, key)
        )
        with pytest.raises(InvalidInput, match="is not an address"):
            await wrong.__aenter__()


async def test_without_a_faucet_an_agent_has_nothing_and_can_earn(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with found_market() as market:
        async with market.agent("bob") as bob:
            founder = market.validators[0]._network
            assert isinstance(founder, MemoryNetwork)
            del founder._handlers[FAUCET_PROTOCOL]
            async with market.agent("alice", [write], writer(9)) as alice:
                assert "got no purse" in caplog.text
                assert (await alice.balance()).total == 0
                await buy(bob, await bob.find("write"))
                await trio.testing.wait_all_tasks_blocked()  # the last receipt is on its way
                assert (await alice.balance()).total == 18


async def test_an_agent_with_a_home_goes_on_where_it_was(
    autojump_clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with found_market() as market:
        kept: dict[str, Any] = {"key": market.key("bob"), "home": tmp_path / "bob"}
        async with market.agent("alice", [write], writer(9)):
            async with market.agent("bob", **kept) as bob:
                await buy(bob, await bob.find("write"))
                before, id_ = await bob.balance(), bob.id
            async with market.agent("bob", **kept) as bob:
                assert (bob.id, await bob.balance()) == (id_, before)
                assert (await buy(bob, await bob.find("write"), text="again")).text == words(9)


async def test_a_failure_while_opening_leaves_nothing_open(autojump_clock: Clock) -> None:
    async with found_market() as market:
        peers = set(market.hub._networks)
        with pytest.raises(ModelNotFound):
            async with market.agent("bob", [], "no-such-model"):
                pass
        assert set(market.hub._networks) == peers


async def test_an_agent_tells_of_each_job_that_it_bought_whatever_became_of_it(autojump_clock: Clock) -> None:
    told: list[Job] = []
    async with found_market() as market:
        async with market.agent("alice", [write], writer(9)):
            async with market.agent("bob", on_job=told.append) as bob:
                await buy(bob, await bob.find("write"))
                async with bob.hire(await bob.find("write"), nonsense="x", budget=100) as failed:
                    with pytest.raises(Error):
                        await failed.result()
    assert [job.finish for job in told] == ["done", None]
    assert told[0].paid == 18


async def test_a_buyer_that_finds_all_too_dear_declines(autojump_clock: Clock) -> None:
    async with found_market() as market:
        async with market.agent("alice", [write], writer(9), slots=1) as alice, market.agent("bob") as bob:
            offers = await bob.find("write")
            async with bob.hire(offers, text="x", budget=100, max_price="1/token") as job:
                with pytest.raises(NoOffers, match="too dear"):
                    await job.result()
            await trio.sleep(0.1)  # far less than a proposal lives
            assert alice._open_parts.seller._negotiation.open == 0
