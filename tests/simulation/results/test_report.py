"""The report of a run: self-contained, harmless, readable by those who cannot see it, true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ainp2p.errors import InvalidInput
from ainp2p.simulation.results import pictures, report
from ainp2p.simulation.results.pictures import (
    POINTS_MAX,
    bin_s,
    binned,
    filled_up,
    over_shares,
    over_time,
    said_s,
    thinned,
    time_ticks,
    value_ticks,
)
from ainp2p.simulation.results.report import NAMES_MAX, ROWS_MAX, page
from ainp2p.simulation.results.results import Result
from ainp2p.swarm import charts, pieces
from tests.simulation.results.small import HOSTILE, market
from tests.swarm.test_page import Checker, check_harmless

FLOATS = st.floats(-1e12, 1e12)


# --- the page -------------------------------------------------------------------------------------


def test_the_page_says_what_the_result_says() -> None:
    text = Checker(page(market())).text
    for said in ("market.py", "seed 7", "90.0 %", "75.0 %", "1 h", "price_dispersion", "bidding", "fair"):
        assert said in text
    assert "a partition healed" in text
    assert "busy" in text


def test_a_mark_that_was_never_seen_is_in_the_headline() -> None:
    assert '<header class="broken">' in page(market())
    assert "never seen" in page(market())
    plain = Result(1, {}, "", 1.0)
    plain.marks.append_row(("healed", 1))
    assert '<header class="held">' in page(plain)


@pytest.mark.parametrize(
    "result", [market(), market(trades=0), Result(1, {}, "", 0.0)], ids=["a market", "no trades", "nothing"]
)
def test_the_page_is_well_formed_and_needs_nothing_else(result: Result) -> None:
    html = page(result)
    check_harmless(html)  # no script, no image, no link, no style from elsewhere
    assert "http" not in html.replace("http-equiv", "")
    assert "prefers-color-scheme: dark" in html
    assert "default-src 'none'" in html


def test_every_picture_has_a_text_for_those_who_cannot_see_it() -> None:
    drawn = re.findall(r"<svg [^>]*>", page(market()))
    assert len(drawn) == 8
    assert all('role="img" aria-label="' in svg for svg in drawn)


def test_nothing_hostile_runs() -> None:
    html = page(market(name=HOSTILE))
    check_harmless(html)
    assert "\x1b" not in html
    assert html.count("&lt;script&gt;") >= 10


@pytest.mark.parametrize("module", [charts, pictures, pieces])
def test_mutant_a_page_that_does_not_escape_is_caught(
    module: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "esc", str)
    with pytest.raises(AssertionError):
        check_harmless(page(market(name=HOSTILE)))


def test_a_large_run_has_a_small_page() -> None:
    result = market(trades=20_000)
    for i in range(3_000):
        result.agents.append_row((f"seller-{i}", "seller", 0, i, i, 0, 0, 1, 0.0, None))
        result.trades.append_row((1.0, f"b{i}", f"s{i}", f"skill-{i}", 1, 1, "", 1, f"why-{i}", ""))
        result.metrics.append_row((float(i), f"m{i}", 1.0))
    html = page(result)
    assert len(html) < 120_000
    assert "skill-2999" not in html
    assert f"The {ROWS_MAX} of 3,007 that earned most." in html
    assert len(re.findall("<svg ", html)) == 7 + report.PICTURES_MAX


def test_with_many_agents_payments_are_by_role() -> None:
    result = Result(1, {}, "", 10.0)
    for i in range(NAMES_MAX):
        result.agents.append_row((f"buyer-{i}", "buyer", 0, 0, 0, 0, 0, 0, 0.0, None))
        result.trades.append_row((1.0, f"buyer-{i}", "stranger", "echo", 1, 5, "", 1, "", ""))
    html = page(result)
    assert "by role" in html
    assert f"buyer to ?: {5 * NAMES_MAX} uain" in html


def test_jobs_that_take_no_time_are_not_drawn_as_if_they_did() -> None:
    result = Result(1, {}, "", 10.0)
    result.trades.append_row((1.0, "a", "b", "echo", 1, 5, "", 0, "", ""))
    result.messages.append_row((0.0, "", "dial", 3, 0))
    html = page(result)
    assert "None took any virtual time" in html
    assert report.CONNECTIONS in html


def test_the_page_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    market().report(path)
    assert path.read_text("utf-8") == page(market())
    with pytest.raises(InvalidInput, match="not overwritten"):
        market().report(path)


# --- pictures -------------------------------------------------------------------------------------


def test_a_curve_stays_in_its_picture() -> None:
    html = over_time("T", [("a", [(0, -5.0), (50, 9.0), (100, 3.0)])], until_s=60, unit="x", hues={})
    [d] = re.findall(r'<path d="([^"]+)"', html)
    points = [float(n) for n in re.findall(r"[\d.]+", d)]
    assert all(charts.LEFT <= x <= charts.WIDTH - charts.RIGHT for x in points[::2])
    assert all(charts.TOP <= y <= pictures.HEIGHT - charts.BOTTOM for y in points[1::2])


def test_a_single_point_can_be_seen() -> None:
    assert "<circle" in over_time("T", [("a", [(0, 5.0)])], until_s=60, unit="x", hues={})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_not_drawn(value: float) -> None:
    assert "nothing was measured" in over_time("T", [("a", [(0, value)])], until_s=1, unit="", hues={})


def test_without_anything_to_share_there_is_no_picture() -> None:
    assert "nothing was measured" in over_shares("T", [("a", [])], unit="", hues={})
    assert "<svg" in over_shares("T", [("a", [(0.0, 0.0), (1.0, 1.0)])], unit="", hues={})


@example([5e-324])  # a quarter of which is 0
@given(st.lists(FLOATS, min_size=1, max_size=9))
def test_the_axis_holds_all_values_and_zero_with_few_ticks(values: list[float]) -> None:
    ticks = value_ticks(values)
    tolerance = 1e-6 * max(map(abs, ticks))
    assert ticks[0] - tolerance <= min(0, *values)
    assert ticks[-1] + tolerance >= max(0, *values)
    assert 2 <= len(ticks) <= 7


@given(st.floats(0, 1e8))
def test_the_time_axis_has_few_ticks(until_s: float) -> None:
    ticks = time_ticks(until_s)
    assert 1 <= len(ticks) <= 7
    assert ticks[0][0] == 0
    assert ticks[-1][0] <= until_s


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (45.5, "45.5 s"),
        (60, "1 min"),
        (90, "90 s"),
        (3600, "1 h"),
        (5400, "90 min"),
        (86400, "1 d"),
    ],
)
def test_durations_are_said_as_people_do(seconds: float, said: str) -> None:
    assert said_s(seconds) == said


def test_bins_are_round_and_silence_is_zero() -> None:
    assert bin_s(3600) == 60
    times = [0.0, 10.0, 70.0, 3599.0]
    counts = binned(times, [1.0] * 4, 3600, sum)
    assert counts == [(0, 2), (60, 1), (3540, 1)]
    assert filled_up(counts, 3600)[:3] == [(0, 2), (60, 1), (120, 0.0)]
    assert len(filled_up(counts, 3600)) == 60
    assert filled_up([], 3600) == []
    assert len(filled_up(counts, 3603)) == 60
    assert filled_up([*counts, (3600, 1.0)], 3603)[-1] == (3600, 1.0)


def test_a_long_curve_is_thinned_to_its_ends() -> None:
    points = [(float(i), 0.0) for i in range(10_000)]
    assert len(thinned(points)) == POINTS_MAX
    assert (thinned(points)[0], thinned(points)[-1]) == (points[0], points[-1])
    assert thinned(points[:5]) == points[:5]
