"""Worlds: unmodified agents that trade in virtual time, and what faults do to them."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

import ainp2p
from ainp2p.agents.agent import Agent
from ainp2p.agents.models.scripted import ScriptedModel
from ainp2p.errors import Closed, InvalidInput, NetworkError, NoOffers, RemoteError
from ainp2p.protocol.network import Call, Network
from ainp2p.protocol.strategies import Strategies
from ainp2p.simulation import (
    InvariantViolated,
    Weather,
    World,
    money_is_conserved,
    nobody_is_overdrawn,
    run,
    validators_agree,
)
from ainp2p.simulation.core.draws import Draws
from ainp2p.simulation.node import Node
from ainp2p.simulation.wire.handlers import Handlers

WINDY = {"weather": Weather(latency=(0.01, 0.05), loss=0.01)}
ECHO = "/test/echo/1"


@ainp2p.skill("work", price="2/item")
async def work(job: Any, text: str) -> Any:
    for word in text.split():
        yield word


async def buy(agent: Agent, text: str, *, find_s: float = 30) -> str:
    """One job of `work`, read to its end."""
    offers = await agent.find("work", timeout_s=find_s)
    async with agent.hire(offers, text=text, budget=100) as job:
        return "".join([str(piece) async for piece in job])


def demand_the_ledger_s_invariants(world: World) -> None:
    for invariant in (money_is_conserved, nobody_is_overdrawn, validators_agree):
        world.check(invariant)


async def market(world: World, *, sellers: int = 2, jobs: int = 3) -> None:
    """Sellers, and one buyer that comes back."""
    demand_the_ledger_s_invariants(world)
    for i in range(sellers):
        world.spawn(f"seller{i}", skills=[work])

    async def shop(agent: Agent) -> None:
        for i in range(jobs):
            assert await buy(agent, f"a b {i}") == f"ab{i}"
            await trio.sleep(world.rng("pauses").random())

    await world.spawn("buyer", main=shop).ended()


# --- the same seed, the same world ----------------------------------------------------------------------


def test_unmodified_agents_find_one_another_trade_and_settle() -> None:
    result = run(market, 7, world=WINDY)
    assert [(row[1], row[4], row[5], row[8]) for row in result.trades.rows()] == [("buyer", 3, 6, "")] * 3
    (buyer,) = [row for row in result.agents.rows() if row[0] == "buyer"]
    assert (buyer[5], buyer[6]) == (18, 3)


def test_a_seed_gives_the_same_world_again_and_another_seed_another() -> None:
    first, again, other = (
        run(market, 7, world=WINDY),
        run(market, 7, world=WINDY),
        run(market, 8, world=WINDY),
    )
    assert (first.hash, list(first.trades.rows())) == (again.hash, list(again.trades.rows()))
    assert first.hash != other.hash


@pytest.mark.parametrize("hash_seed", ["0", "1", "random"])
def test_h1_a_seed_gives_the_same_world_in_any_process(hash_seed: str) -> None:
    code = (
        "from tests.simulation.test_world import WINDY, market, run\nprint(run(market, 7, world=WINDY).hash)"
    )
    environment = {"PYTHONHASHSEED": hash_seed, "PATH": "/usr/bin:/bin"}
    root = Path(__file__).parents[2]
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == run(market, 7, world=WINDY).hash


def test_a_model_s_parameters_are_in_its_result_defaults_included() -> None:
    assert dict(run(market, 1, jobs=1).parameters) == {"sellers": 2, "jobs": 1}


def test_a_parameter_that_a_model_does_not_have_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"'market'.*unexpected keyword argument 'buyers'.*sellers, jobs"):
        run(market, 1, buyers=3)


# --- faults ---------------------------------------------------------------------------------------------


def test_c1_a_partition_keeps_agents_apart_until_it_is_healed() -> None:
    async def model(world: World) -> None:
        demand_the_ledger_s_invariants(world)
        world.spawn("seller", skills=[work])
        buyer = await world.spawn("buyer").ready()
        assert await buy(buyer.agent, "before") == "before"
        world.partition("buyer", [name for name in world.nodes if name != "buyer"])
        with pytest.raises((NetworkError, ainp2p.errors.Error)):
            await buy(buyer.agent, "during", find_s=5)
        world.heal()
        await world.run_for(30)
        assert await buy(buyer.agent, "after") == "after"

    assert run(model, 3).marks


def test_c2_a_one_way_cut_lets_the_other_way_through() -> None:
    heard: dict[str, list[bytes]] = {"a": [], "b": []}

    async def model(world: World) -> None:
        async def listen(network: Network) -> None:
            name = "a" if network.peer_id == world.node("a").peer else "b"

            async def handle(call: Call) -> bytes:
                heard[name].append(call.body)
                return b""

            network.serve(ECHO, handle)
            networks[name] = network
            await trio.sleep_forever()

        networks: dict[str, Network] = {}
        for name in "ab":
            await world.process(name, listen).ready()
        await networks["a"].connect(networks["b"].addresses[0])
        world.partition("a", "b", oneway=True)
        await networks["a"].send(world.node("b").peer, ECHO, b"lost for now")
        await networks["b"].send(world.node("a").peer, ECHO, b"arrives")
        await world.run_for(1)
        assert heard == {"a": [b"arrives"], "b": []}

    run(model, 3)


def test_a_seller_that_crashed_sells_again_after_its_restart() -> None:
    async def model(world: World) -> None:
        demand_the_ledger_s_invariants(world)
        seller = await world.spawn("seller", skills=[work]).ready()
        buyer = await world.spawn("buyer").ready()
        assert await buy(buyer.agent, "a b") == "ab"
        world.crash("seller")
        with pytest.raises(Closed, match="seller is no open agent now"):
            _ = seller.agent
        await world.run_for(20)
        await world.restart("seller").ready()
        assert await buy(buyer.agent, "c", find_s=200) == "c"

    result = run(model, 5)
    assert [row[5] for row in result.trades.rows()] == [4, 2]


def test_a1_a_validator_may_crash_with_its_power_and_the_ledger_goes_on() -> None:
    async def model(world: World) -> None:
        demand_the_ledger_s_invariants(world)
        world.spawn("seller", skills=[work])
        buyer = await world.spawn("buyer").ready()
        await buy(buyer.agent, "a b")
        world.crash("validator1", lose_unsynced=True)
        await buy(buyer.agent, "c d")
        await world.run_for(30)
        await world.restart("validator1").ready()
        await buyer.agent.wallet.send(world.node("seller").agent.id, 5)
        await world.run_for(60)
        heads = {tuple(sorted((k, a.head) for k, a in s.accounts.items())) for s in world.states.values()}
        assert (len(world.states), len(heads)) == (4, 1)

    run(model, 5, world=WINDY)


def test_f1_a_buyer_whose_clock_is_a_day_off_loses_no_money() -> None:
    async def model(world: World) -> None:
        demand_the_ledger_s_invariants(world)
        world.spawn("seller", skills=[work])
        buyer = await world.spawn("buyer").ready()
        await buy(buyer.agent, "a b")
        world.skew("buyer", 86_400_000)
        with pytest.raises(ainp2p.errors.Error):
            await buy(buyer.agent, "c d", find_s=5)
        world.skew("buyer", 0)
        await world.run_for(60)
        assert await buy(buyer.agent, "e f") == "ef"

    run(model, 5)


# --- what is refused --------------------------------------------------------------------------------------


def test_a_real_model_is_refused_with_the_remedy() -> None:
    async def model(world: World) -> None:
        world.spawn("seller", skills=[work], model="smollm2-135m")  # type: ignore[arg-type]

    with pytest.raises(InvalidInput, match="ScriptedModel"):
        run(model, 1)


def test_a_scripted_model_answers_in_virtual_time() -> None:
    @ainp2p.skill("talk", price="1/token")
    async def talk(job: Any, text: str) -> Any:
        async for token in job.model.stream(text):
            yield token

    async def model(world: World) -> None:
        scripted = ScriptedModel({"hello": "one two three"}, tokens_per_second=1.0)
        world.spawn("seller", skills=[talk], model=scripted)
        buyer = await world.spawn("buyer").ready()
        offers = await buyer.agent.find("talk")
        began = world.now
        async with buyer.agent.hire(offers, text="hello", budget=10) as job:
            assert "".join([str(piece) async for piece in job]) == "one two three"
        assert world.now - began >= 2

    run(model, 1)


def test_two_nodes_of_one_name_are_refused() -> None:
    async def model(world: World) -> None:
        world.spawn("alice")
        world.spawn("alice")

    with pytest.raises(InvalidInput, match="'alice' already"):
        run(model, 1)


def test_a_node_that_nobody_spawned_is_named_in_the_error() -> None:
    async def model(world: World) -> None:
        world.crash("bob")

    with pytest.raises(InvalidInput, match="no node is called 'bob'; there are validator0"):
        run(model, 1)


def test_what_an_agent_dies_of_ends_the_world_as_it_is() -> None:
    async def model(world: World) -> None:
        async def fail(agent: Agent) -> None:
            await trio.sleep(1)
            raise ZeroDivisionError("mine")

        world.spawn("alice", main=fail)
        await world.run_for(100)

    with pytest.raises(ZeroDivisionError, match="mine"):
        run(model, 1)


# --- checks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"slots": 0}, "slots=1 or more"),
        ({"no_such": 5}, "unexpected keyword argument 'no_such'"),
        ({"balance": 10**15}, "fund the account"),
    ],
)
@pytest.mark.parametrize("awaited", [True, False])
def test_an_agent_that_cannot_open_is_not_missing_without_a_word(
    options: dict[str, Any], said: str, awaited: bool
) -> None:
    async def model(world: World) -> None:
        node = world.spawn("broken", **options)
        if awaited:
            with pytest.raises((ainp2p.errors.Error, TypeError), match=said):
                await node.ready()
            return
        await world.run_for(10)

    if awaited:
        run(model)
        return
    with pytest.raises((ainp2p.errors.Error, TypeError), match=said):
        run(model)


def test_an_agent_that_finds_nobody_when_it_opens_is_no_fault_of_the_model() -> None:
    async def model(world: World) -> None:
        for i in range(4):
            world.crash(f"validator{i}")
        world.spawn("early")
        await world.run_for(600)
        assert not world.nodes["early"].alive

    run(model)


def test_mutant_whoever_may_yet_be_waited_for_fails_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    async def model(world: World) -> None:
        world.spawn("broken", slots=0)
        await world.run_for(10)

    monkeypatch.setattr(Node, "_fail", lambda node, exc: setattr(node, "_failure", exc))
    assert len(run(model).agents) == 1


@pytest.mark.parametrize("balance", [-1, 1.5, True, "7"])
def test_a_balance_that_is_no_amount_is_refused(balance: Any) -> None:
    async def model(world: World) -> None:
        world.spawn("odd", balance=balance)

    with pytest.raises(InvalidInput, match="integer of uain"):
        run(model)


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_time_that_cannot_pass_is_refused(seconds: float) -> None:
    async def model(world: World) -> None:
        await world.run_for(seconds)

    with pytest.raises(InvalidInput, match="finite number of seconds"):
        run(model)


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (lambda world: world.at(3, 5), "5 is no function"),
        (lambda world: world.every(3, world.now), "0.0 is no function"),
        (lambda world: world.at("3", print), "virtual seconds, as a number, not '3'"),
        (lambda world: world.every(1e-300, print), "1e-06 or more, not 1e-300"),
        (lambda world: world.every("1", print), "not '1'"),
        (lambda world: world.check(None), "None is no function"),
        (lambda world: world.check(market), "an invariant is a plain function"),
        (lambda world: world.lie("validator0", "mute"), "'mute' is no function"),
        (lambda world: world.skew("validator0", 0, rate=-1), "rate above 0"),
        (lambda world: world.skew("validator0", 0, rate=float("inf")), "rate above 0"),
        (lambda world: world.skew("validator0", float("nan")), "by an integer of ms"),
        (lambda world: world.skew("validator0", -(10**18)), "by an integer of ms"),
    ],
)
def test_a_mistake_is_told_where_it_is_made(mistake: Callable[[World], None], said: str) -> None:
    async def model(world: World) -> None:
        with pytest.raises(InvalidInput, match=said):
            mistake(world)

    run(model, world={"committee": 1})


@pytest.mark.parametrize("seed", [1.5, "7", None, True])
def test_a_seed_that_is_no_integer_is_refused(seed: Any) -> None:
    with pytest.raises(InvalidInput, match="a seed is an integer"):
        run(market, seed)


def test_a_parameter_that_no_table_can_hold_is_refused_before_the_run() -> None:
    async def model(world: World, *, prices: Any = (1, 2)) -> None:
        pytest.fail("it ran")

    with pytest.raises(InvalidInput, match="cannot stand in a table"):
        run(model)


def test_a_violated_invariant_ends_the_run_with_seed_time_and_last_events() -> None:
    def early(world: World) -> None:
        assert world.now < 10, "it is late"

    async def model(world: World) -> None:
        world.check(early)
        await world.run_for(100)

    with pytest.raises(
        InvariantViolated, match=r"'early' violated at 1\d\.\d* s, seed 4: it is late"
    ) as caught:
        run(model, 4)
    assert caught.value.events


@pytest.mark.parametrize(
    ("told", "broken"),
    [(False, True), (np.False_, True), (0, True), (True, False), (None, False), (np.True_, False)],
)
def test_an_invariant_is_broken_by_whatever_is_false(told: object, broken: bool) -> None:
    async def model(world: World) -> None:
        world.check(lambda _: told)
        await world.run_for(3)

    with pytest.raises(InvariantViolated) if broken else nullcontext():
        run(model, world={"committee": 1})


def test_an_invariant_that_returns_a_coroutine_is_refused_when_it_is_first_asked() -> None:
    async def holds(world: World) -> bool:
        return True

    async def model(world: World) -> None:
        world.check(lambda world: holds(world))
        await world.run_for(3)

    with pytest.raises(InvalidInput, match="an invariant is a plain function"):
        run(model, world={"committee": 1})


def test_calls_of_a_world_take_keywords_and_async_lambdas_run() -> None:
    came = []

    async def later(what: str) -> None:
        await trio.sleep(1)
        came.append(what)

    async def model(world: World) -> None:
        world.at(1, later, what="task")
        world.at(1, lambda: later("lambda"))
        world.every(2, came.append, "each")
        numpys: Any = np  # at run time its numbers are numbers
        world.at(numpys.int64(3), world.skew, "validator0", 5, rate=2.0)
        world.every(numpys.float32(1.5), world.sometimes, "numpy's")
        await world.run_for(numpys.float32(5))
        assert world.node("validator0").rate == 2.0

    run(model, world={"committee": 1})
    assert sorted(came) == ["each", "each", "lambda", "task"]


class Wrong(Exception):
    pass


async def market_with_a_faulty_strategy(world: World) -> None:
    def pricing(*_: object) -> Any:
        raise Wrong("of this model")

    world.spawn("seller", skills=[work], strategies=Strategies(pricing=pricing))
    buyer = await world.spawn("buyer").ready()
    with suppress(NoOffers):
        await buyer.agent.ask("work", text="hello", budget=10)


def test_a_strategy_that_fails_ends_the_run_with_what_it_raised() -> None:
    with pytest.raises(Wrong, match="of this model"):
        run(market_with_a_faulty_strategy, world={"committee": 1})


def test_a_handler_of_the_model_s_own_may_fail_of_what_it_is_sent() -> None:
    async def picky(call: Call) -> bytes:
        raise ValueError("no JSON")

    async def serve(network: Network) -> None:
        network.serve(ECHO, picky)
        await trio.sleep_forever()

    async def model(world: World) -> None:
        server = await world.process("server", serve).ready()

        async def ask(network: Network) -> None:
            network.add_addresses(server.peer, (world.wire.address(server.peer),))
            with pytest.raises(RemoteError, match="internal"):
                await network.request(server.peer, ECHO, b"{")

        await world.process("client", ask).ended()

    run(model, world={"committee": 1})


def test_mutant_that_only_logs_a_failing_strategy_simulates_another_economy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        Handlers, "strict", property(lambda self: False, lambda self, value: None), raising=False
    )
    run(market_with_a_faulty_strategy, world={"committee": 1})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"purse": -1}, "a purse is"),
        ({"fsync_s": -1}, "fsync_s is"),
        ({"fsync_s": "0"}, "fsync_s is"),
        ({"weather": 5}, "a Weather"),
        ({"committee": "4"}, "committee has"),
    ],
)
def test_a_world_that_cannot_be_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        run(market, world=arguments)


def test_marks_and_metrics_are_in_the_result() -> None:
    async def model(world: World) -> None:
        world.every(10, lambda: world.measure("time", world.now))
        world.at(15, world.sometimes, "half")
        world.sometimes("never", False)
        await world.run_for(35)

    result = run(model, 1)
    assert [row[2] for row in result.metrics.rows()] == [pytest.approx(n) for n in (10, 20, 30)]
    assert {row[0]: row[1] for row in result.marks.rows()} == {"half": 1, "never": 0}


def test_a_planted_coin_is_found_by_the_books() -> None:
    async def model(world: World) -> None:
        world.check(money_is_conserved)
        world.at(5, lambda: setattr(world.states["validator2"], "burnt", 1))
        await world.run_for(10)

    with pytest.raises(InvariantViolated, match="validator2 counts 1000000000000001 uain"):
        run(model, 1)


def test_h1_a_mutant_whose_wire_draws_from_elsewhere_gives_another_world(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    elsewhere, stream = random.Random(1), Draws.stream
    monkeypatch.setattr(
        Draws, "stream", lambda self, *names: elsewhere if names[0] == "path" else stream(self, *names)
    )
    assert run(market, 7, world=WINDY).hash != run(market, 7, world=WINDY).hash
