"""Weather: latencies of every kind, repetitions after losses, and what is no weather."""

from __future__ import annotations

import math
import random
import statistics
from typing import Any

import pytest

from ainp2p.errors import InvalidInput
from ainp2p.protocol.memory import LOSSES_MAX
from ainp2p.simulation.wire.weather import Weather, lognormal

RNG = random.Random(1)


def delays(weather: Weather, n: int = 2001) -> list[float]:
    rng = random.Random(7)
    return sorted(weather.delay_s(rng, "a", "b") for _ in range(n))


def test_latency_is_a_number_a_range_or_a_function() -> None:
    assert set(delays(Weather(latency=0.25))) == {0.25}
    ranged = delays(Weather(latency=(0.1, 0.3)))
    assert 0.1 <= ranged[0] < 0.11 < 0.29 < ranged[-1] <= 0.3
    assert set(delays(Weather(latency=lambda rng, source, target: 1.0 if source < target else 2.0))) == {1.0}


def test_lognormal_has_its_median_and_its_tail() -> None:
    drawn = delays(Weather(latency=lognormal(0.1, 0.5)))
    assert statistics.median(drawn) == pytest.approx(0.1, rel=0.1)
    assert 0.25 < drawn[int(0.99 * len(drawn))] < 0.4


def test_a_lost_message_is_late_by_times_that_double_and_six_losses_break() -> None:
    rng = random.Random(3)
    late = {round(Weather(loss=0.5).late_s(rng), 6) for _ in range(3000)}
    assert late == {0.0, 0.2, 0.6, 1.4, 3.0, 6.2, math.inf}
    assert len(late) == LOSSES_MAX + 1
    assert Weather(loss=1.0).late_s(rng) == math.inf
    assert Weather(loss=0.0).late_s(rng) == 0.0


@pytest.mark.parametrize(
    ("weather", "calm"),
    [
        (Weather(), True),
        (Weather(latency=1), True),
        (Weather(latency=(0, 1)), False),
        (Weather(loss=0.1), False),
    ],
)
def test_calm_weather_needs_no_dice(weather: Weather, calm: bool) -> None:
    assert weather.calm is calm


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"latency": -0.1}, id="negative latency"),
        pytest.param({"latency": math.inf}, id="endless latency"),
        pytest.param({"latency": math.nan}, id="latency that is no number"),
        pytest.param({"latency": (0.3, 0.1)}, id="range upside down"),
        pytest.param({"latency": (-1.0, 0.1)}, id="negative range"),
        pytest.param({"loss": 1.1}, id="loss above 1"),
        pytest.param({"loss": -0.1}, id="negative loss"),
        pytest.param({"duplicate": 2}, id="duplicate above 1"),
        pytest.param({"reorder_s": -1}, id="negative reordering"),
        pytest.param({"reorder_s": math.inf}, id="endless reordering"),
    ],
)
def test_what_is_no_weather_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        Weather(**wrong)


@pytest.mark.parametrize("delay", [-1.0, math.nan, math.inf])
def test_a_latency_function_that_returns_no_time_is_refused(delay: float) -> None:
    with pytest.raises(InvalidInput, match="latency function"):
        Weather(latency=lambda rng, source, target: delay).delay_s(RNG, "a", "b")


@pytest.mark.parametrize(("median_s", "sigma"), [(0.0, 1.0), (-1.0, 1.0), (math.inf, 1.0), (1.0, -1.0)])
def test_a_lognormal_without_median_or_sigma_is_refused(median_s: float, sigma: float) -> None:
    with pytest.raises(InvalidInput):
        lognormal(median_s, sigma)
