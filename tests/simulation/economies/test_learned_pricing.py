"""The example learns: what it earns rises over its episodes, and more so than chance would let it."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import numpy as np
import pytest

from ainp2p.simulation.gym import MarketEnv
from tests.blocks import ROOT


def loaded(name: str) -> Any:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look there
    spec.loader.exec_module(module)
    return module


example = loaded("learned_pricing")


def test_a_policy_learns_to_ask_less_than_the_cheapest_shop_and_earns_more_by_it() -> None:
    policy, earned = example.train(episodes=6, steps=20)
    assert np.mean(earned[-2:]) > 1.3 * earned[0]
    assert 0.40 <= example.PRICES[policy.chances.argmax()] < 0.50


def test_what_it_learns_earns_more_than_a_shops_fixed_price_in_the_same_market() -> None:
    env = MarketEnv(sellers=1, scripted_sellers=(50, 60), scripted_buyers=6, steps=10)
    assert example.at_a_fixed_price(env, 0.45, 7) > 1.5 * example.at_a_fixed_price(env, example.FIXED, 7)


def test_the_same_seed_learns_the_same() -> None:
    assert example.train(episodes=1, steps=3)[1] == example.train(episodes=1, steps=3)[1]


def test_mutant_that_learns_nothing_does_not_improve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example, "RATE", 0.0)
    policy, _ = example.train(episodes=1, steps=3)
    assert np.ptp(policy.chances) == 0
