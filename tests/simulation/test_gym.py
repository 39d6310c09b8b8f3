"""The market as a PettingZoo environment: compliance, what policies see and earn, and how it ends."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test
from pettingzoo.utils import parallel_to_aec
from trio._core import _run

from ainp2p.errors import InvalidInput
from ainp2p.simulation.gym import BUYER_SEES, SELLER_SEES, MarketEnv, parallel_env
from ainp2p.simulation.gym_market import Market, Rules
from ainp2p.simulation.strategies import cost_plus
from ainp2p.simulation.wire.weather import Weather
from tests.blocks import ROOT
from tests.threads import lasting_threads

SMALL: dict[str, Any] = {"scripted_sellers": (50,), "scripted_buyers": 3, "steps": 4}


def at(env: MarketEnv, **knobs: Any) -> dict[str, Any]:
    """Actions: these for some agents, the middle for others."""
    middle = {agent: np.full(env.action_space(agent).shape, 0.5) for agent in env.agents}
    return middle | {agent: value for agent, value in knobs.items() if agent in env.agents}


def trajectory(env: MarketEnv, seed: int, **knobs: Any) -> list[Any]:
    """Everything that an episode shows, as plain numbers."""
    observations, infos = env.reset(seed=seed)
    shown: list[Any] = [{k: v.tolist() for k, v in observations.items()}, infos]
    while env.agents:
        observations, *rest = env.step(at(env, **knobs))
        shown += [{k: v.tolist() for k, v in observations.items()}, *rest]
    return shown


def earned(seed: int = 1, *, steps: int = 12, price: float, **options: Any) -> float:
    """uain that one seller earned with one price."""
    env = MarketEnv(steps=steps, **options)
    env.reset(seed=seed)
    total = 0.0
    while env.agents:
        total += env.step({"seller_0": [price]})[1].get("seller_0", 0.0)
    return total


# --- compliance -----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
def test_pettingzoos_parallel_api_test_passes() -> None:
    parallel_api_test(MarketEnv(sellers=2, buyers=1, **SMALL), num_cycles=10)


def test_pettingzoos_parallel_seed_test_passes() -> None:
    parallel_seed_test(lambda: parallel_env(sellers=1, buyers=1, **SMALL), num_cycles=10)


@pytest.mark.filterwarnings(
    "error", "ignore:.*different (obs|shapes)", "ignore:.*different action"
)  # sellers and buyers differ
def test_pettingzoos_api_test_passes_in_turns() -> None:
    api_test(parallel_to_aec(MarketEnv(sellers=1, buyers=1, **SMALL)), num_cycles=10)


@pytest.mark.filterwarnings("error")
def test_with_sellers_only_all_spaces_are_equal() -> None:
    api_test(parallel_to_aec(MarketEnv(sellers=2, **SMALL)), num_cycles=10)


# --- one seed, one trajectory -----------------------------------------------------------------------------


def test_h1_the_same_seed_and_actions_give_the_same_trajectory() -> None:
    env = MarketEnv(sellers=1, buyers=1, **SMALL)
    first = trajectory(env, 7)
    assert first == trajectory(env, 7) == trajectory(MarketEnv(sellers=1, buyers=1, **SMALL), 7)
    assert first != trajectory(env, 8)


@pytest.mark.parametrize("hash_seed", ["0", "random"])
def test_h1_also_in_any_process(hash_seed: str) -> None:
    code = (
        "from tests.simulation.test_gym import SMALL, MarketEnv, trajectory\n"
        "print(trajectory(MarketEnv(sellers=1, buyers=1, **SMALL), 7))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PYTHONHASHSEED": hash_seed, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert told.stdout.strip() == str(trajectory(MarketEnv(sellers=1, buyers=1, **SMALL), 7))


def test_environments_side_by_side_do_not_disturb_one_another() -> None:
    envs = [MarketEnv(**SMALL) for _ in range(3)]
    for seed, env in enumerate(envs):
        env.reset(seed=seed)
    seen: list[list[Any]] = [[] for _ in envs]
    while envs[0].agents:
        for env, rows in zip(envs, seen, strict=True):
            observations, rewards, *_ = env.step(at(env))
            rows.append((observations["seller_0"].tolist(), rewards))
            gc.collect()
    alone = [trajectory(MarketEnv(**SMALL), seed) for seed in range(3)]
    for rows, shown in zip(seen, alone, strict=True):
        assert rows == [(shown[i]["seller_0"], shown[i + 1]) for i in range(2, len(shown), 5)]


def test_a_reset_without_a_seed_goes_on_from_the_last_one() -> None:
    one, two = MarketEnv(**SMALL), MarketEnv(**SMALL)
    seeds = []
    for env in (one, two):
        env.reset(seed=3)
        for _ in range(2):
            env.reset()
            seeds.append(env._seed)
        env.close()
    assert seeds[:2] == seeds[2:]
    assert len({3, *seeds}) == 3


def test_a_windy_wire_is_a_parameter() -> None:
    calm, windy = MarketEnv(**SMALL), MarketEnv(**SMALL, world={"weather": Weather(latency=(0.05, 0.2))})
    assert trajectory(calm, 7) != trajectory(windy, 7) == trajectory(windy, 7)


# --- what a policy sees and earns -----------------------------------------------------------------------


def test_a_step_is_a_fixed_piece_of_virtual_time() -> None:
    env = MarketEnv(**SMALL, step_s=7.0)
    _, infos = env.reset(seed=1)
    began = infos["seller_0"]["at_s"]
    *_, infos = env.step(at(env))
    assert infos["seller_0"]["at_s"] == pytest.approx(began + 7.0)
    env.close()


def test_undercutting_the_cheapest_shop_earns_and_asking_more_than_anybody_does_not() -> None:
    assert earned(price=0.45) > 5 * max(1.0, earned(price=0.95))


def test_a_reward_is_what_was_paid_less_cost_and_rent() -> None:
    rules = Rules(cost=20, rent=10)
    env = MarketEnv(scripted_sellers=(), scripted_buyers=3, steps=6, rules=rules)
    env.reset(seed=2)
    total, amount = 0.0, 0
    while env.agents:
        _, rewards, _, _, infos = env.step({"seller_0": [0.4]})
        total, amount = total + rewards["seller_0"], amount + infos["seller_0"]["amount"]
    assert env.result is not None
    (seller,) = [row for row in env.result.agents.dicts() if row["name"] == "seller_0"]
    made = amount // 40
    assert (amount, made >= 5) == (seller["earned"], True)
    assert total in {amount - 20 * (made + under_way) - 10 * 6 for under_way in range(4)}


def test_a_buyer_gains_worth_less_price_and_less_when_it_asks_more_than_it_needs() -> None:
    def gained(limit: float, asks: float) -> float:
        env = MarketEnv(sellers=0, buyers=1, scripted_sellers=(40,), scripted_buyers=0, steps=8)
        env.reset(seed=4)
        total = 0.0
        while env.agents:
            total += env.step({"buyer_0": [limit, asks]})[1]["buyer_0"]
        return total

    assert gained(1.0, 0.0) > 0 > gained(0.1, 0.0)


def test_asking_more_sellers_finds_lower_prices() -> None:
    def paid(asks: float) -> float:
        env = MarketEnv(sellers=0, buyers=1, scripted_sellers=(30, 60, 90), scripted_buyers=0, steps=20)
        env.reset(seed=4)
        amount = fills = 0
        while env.agents:
            *_, infos = env.step({"buyer_0": [1.0, asks]})
            amount, fills = amount + infos["buyer_0"]["amount"], fills + infos["buyer_0"]["fills"]
        return amount / fills

    assert paid(1.0) < paid(0.0)


def test_observations_are_named_and_are_what_the_agent_could_know() -> None:
    env = MarketEnv(sellers=1, buyers=1, scripted_sellers=(50, 60), scripted_buyers=3, steps=10)
    env.reset(seed=1)
    for _ in range(5):
        observations, _, _, _, infos = env.step({"seller_0": [0.4], "buyer_0": [1.0, 1.0]})
    seller = dict(zip(SELLER_SEES, observations["seller_0"].tolist(), strict=True))
    buyer = dict(zip(BUYER_SEES, observations["buyer_0"].tolist(), strict=True))
    assert (seller["ask"], seller["time left"]) == (pytest.approx(0.4), pytest.approx(0.5))
    assert seller["lowest card"] == pytest.approx(0.5)  # the other's asking price is on nobody's card
    assert seller["price got"] in (0.0, pytest.approx(0.4))
    assert (buyer["sellers known"], buyer["asks"]) == (1.0, 1.0)
    assert buyer["lowest proposal"] <= buyer["mean proposal"]
    assert seller["capital"] == pytest.approx(infos["seller_0"]["capital"] / (2 * env.rules.capital))
    assert env.state().tolist() == [*observations["seller_0"].tolist(), *observations["buyer_0"].tolist()]
    env.close()


def test_scripted_sellers_may_have_strategies() -> None:
    fixed = trajectory(MarketEnv(scripted_sellers=(30,), scripted_buyers=3, steps=4), 1)
    plus = trajectory(
        MarketEnv(scripted_sellers=(lambda rng: cost_plus(20, percent=50),), scripted_buyers=3, steps=4), 1
    )
    assert fixed != plus  # the same price, but on a proposal and not on a card


# --- how an episode ends -----------------------------------------------------------------------------------


def test_after_the_last_step_all_are_truncated_and_there_is_a_result() -> None:
    env = MarketEnv(sellers=2, **SMALL)
    shown = trajectory(env, 1)
    assert shown[-2] == {"seller_0": True, "seller_1": True}
    assert shown[-3] == {"seller_0": False, "seller_1": False}
    assert (env.agents, env.result is not None and len(env.result.trades) > 0) == ([], True)


def test_who_is_broke_terminates_alone_and_its_agent_ends() -> None:
    env = MarketEnv(sellers=2, scripted_sellers=(30,), scripted_buyers=3, rules=Rules(capital=25), steps=8)
    env.reset(seed=1)
    ended: dict[str, int] = {}
    while env.agents:
        _, _, terminations, _, _ = env.step(at(env, seller_0=[1.0], seller_1=[0.29]))
        ended |= {name: env._step for name, is_ in terminations.items() if is_}
    assert ended["seller_0"] == 3  # 25 uain pay the rent of two steps
    assert env.result is not None
    died = {row["name"]: row["died_s"] for row in env.result.agents.dicts()}
    assert died["seller_0"] is not None


def test_a_buyer_that_has_spent_its_capital_terminates() -> None:
    rules = Rules(capital=100)
    env = MarketEnv(sellers=0, buyers=1, scripted_sellers=(40,), scripted_buyers=1, rules=rules, steps=50)
    env.reset(seed=1)
    while env.agents:
        _, _, terminations, truncations, infos = env.step({"buyer_0": [1.0, 0.0]})
    assert (terminations, truncations) == ({"buyer_0": True}, {"buyer_0": False})
    assert infos["buyer_0"]["capital"] <= 0


def test_mutant_that_takes_no_rent_nobody_goes_broke(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Market, "play", _without_rent(Market.play))
    with pytest.raises(KeyError):
        test_who_is_broke_terminates_alone_and_its_agent_ends()


def _without_rent(play: Any) -> Any:
    async def free(self: Market, *args: Any, **kwargs: Any) -> None:
        object.__setattr__(self.rules, "rent", 0)
        await play(self, *args, **kwargs)

    return free


@pytest.mark.parametrize("how", ["close", "drop"])
def test_nothing_is_left_of_an_environment_that_is_given_up(how: str) -> None:
    before = lasting_threads()
    env = MarketEnv(**SMALL)
    env.reset(seed=1)
    env.step(at(env))
    if how == "close":
        env.close()
        env.close()
    else:
        del env
        gc.collect()
    assert lasting_threads() <= before
    assert not _run.in_trio_run()


def test_a_copy_has_the_same_rules_and_no_episode() -> None:
    env = MarketEnv(**SMALL, step_s=5.0)
    env.reset(seed=1)
    for copied in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        with pytest.raises(InvalidInput, match=r"reset\(\)"):
            copied.step({"seller_0": [0.5]})
        assert trajectory(copied, 3) == trajectory(MarketEnv(**SMALL, step_s=5.0), 3)
    env.step(at(env))
    env.close()


def test_the_last_step_is_rendered_as_text() -> None:
    env = MarketEnv(**SMALL, render_mode="ansi")
    env.reset(seed=1)
    env.step(at(env))
    assert str(env.render()).startswith("step 1 of 4, seed 1\nseller_0: ask 0.50, load ")
    assert MarketEnv(**SMALL).render() is None
    env.close()


# --- what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param({"sellers": 0}, "nobody learns", id="nobody learns"),
        pytest.param({"sellers": 0, "buyers": 1, "scripted_sellers": ()}, "a seller", id="nobody sells"),
        pytest.param({"scripted_buyers": 0}, "a buyer", id="nobody buys"),
        pytest.param({"scripted_sellers": (50, 0)}, "not 0", id="a price of nothing"),
        pytest.param({"scripted_sellers": ("50",)}, "not '50'", id="a price in words"),
        pytest.param({"steps": 0}, "steps=1", id="no steps"),
        pytest.param({"step_s": 0.0}, "step_s > 0", id="steps without time"),
        pytest.param({"render_mode": "human"}, "ansi", id="a window"),
    ],
)
def test_a_market_that_cannot_be_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        MarketEnv(**options)


@pytest.mark.parametrize(
    ("actions", "words"),
    [
        pytest.param({}, "an action for 'seller_0' is missing", id="missing"),
        pytest.param({"seller_0": [float("nan")]}, "finite", id="not a number"),
        pytest.param({"seller_0": "high"}, "finite", id="a word"),
        pytest.param({"seller_0": None}, "finite", id="nothing"),
        pytest.param({"seller_0": [0.5, 0.5]}, r"1 finite number", id="two numbers for one knob"),
    ],
)
def test_an_action_that_turns_no_knob_is_refused_and_nothing_has_happened(
    actions: dict[str, Any], words: str
) -> None:
    env = MarketEnv(**SMALL)
    env.reset(seed=1)
    with pytest.raises(InvalidInput, match=words):
        env.step(actions)
    assert env._step == 0
    env.close()


def test_an_action_outside_its_space_is_taken_to_its_edge() -> None:
    assert trajectory(MarketEnv(**SMALL), 1, seller_0=[9.0]) == trajectory(
        MarketEnv(**SMALL), 1, seller_0=[1.0]
    )


def test_without_the_extra_the_remedy_is_named() -> None:
    code = "import sys; sys.modules['pettingzoo'] = None; import ainp2p.simulation.gym"
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert "pettingzoo is missing: pip install 'ainp2p[gym]'" in told.stderr


def test_a_step_before_reset_and_after_the_end_is_refused() -> None:
    env = MarketEnv(**SMALL)
    with pytest.raises(InvalidInput, match=r"call reset\(\) first"):
        env.step({})
    trajectory(env, 1)
    with pytest.raises(InvalidInput, match=r"call reset\(\) first"):
        env.step({"seller_0": [0.5]})
