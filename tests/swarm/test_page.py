"""report.html: self-contained, well-formed, says what the report says, and runs nobody's script."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.swarm import charts
from ainp2p.swarm import events as ev
from ainp2p.swarm import page as page_module
from ainp2p.swarm.board import Board
from ainp2p.swarm.page import page
from ainp2p.swarm.report import make_report
from tests.swarm.story import START_MS, story
from tests.swarm.test_board import board_after

VOID = {"meta"}
HOSTILE = "</title><script>alert(1)</script><img src=x onerror=alert(1)>\"'><svg/onload=alert(1)>\x1b[2J"


class Checker(HTMLParser):
    """Notes every tag and attribute, and whether each element is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def check_harmless(html: str) -> None:
    """No scripts, no event handlers, nothing loaded from anywhere."""
    checked = Checker(html)
    assert not {"script", "img", "iframe", "object", "embed", "link", "base", "form"} & set(checked.tags)
    names = {name for name, _ in checked.attributes}
    assert not {name for name in names if name.startswith("on") or name in ("src", "href", "action")}
    style = html.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def hostile_board() -> Board:
    """A run in which every text that a peer or a document chooses is hostile."""
    board = Board()
    at = START_MS
    for event in [
        *story(subject=HOSTILE),
        ev.PeerUp(at_ms=at, name=HOSTILE, role="seller", peer=HOSTILE, pid=1, account=HOSTILE),
        ev.DocumentRead(at_ms=at, path=HOSTILE, bytes=1, passages=1, sentences=1),
        ev.DocumentRefused(at_ms=at, path=HOSTILE, reason=HOSTILE),
        ev.TaskOpened(at_ms=at, task=HOSTILE, buyer=HOSTILE, skill="ask", subject=HOSTILE),
        ev.TaskMoved(at_ms=at, task=HOSTILE, state="failed", seller=HOSTILE, detail=HOSTILE),
        ev.Progress(at_ms=at, task=HOSTILE, seller=HOSTILE, units=3),
        ev.ReceiptSigned(at_ms=at, buyer=HOSTILE, seller=HOSTILE, lock="l", cumulative=5, added=5),
        ev.BalanceKnown(at_ms=at, name=HOSTILE, available=1, locked=0, owed=0),
        ev.Answered(
            at_ms=at, task=HOSTILE, answer=HOSTILE, sources=(ev.Source(HOSTILE, 1, 2, HOSTILE, HOSTILE),)
        ),
        ev.SellerKilled(at_ms=at, name=HOSTILE, task=HOSTILE),
        ev.Checked(at_ms=at, check=HOSTILE, held=False, detail=HOSTILE),
        ev.Note(at_ms=at, text=HOSTILE, level="warning"),
    ]:
        board.apply(event)
    return board


def test_the_page_says_what_the_report_says() -> None:
    text = Checker(page(make_report(board_after(story())))).text
    assert "Everything held: 1 of 1 checks" in text
    assert "Locks and receipts" in text
    assert "A Lock is a deposit." in text
    assert "docs/a.md:3–4" in text
    assert "ada was killed with SIGKILL after 0.6 s while it worked on t1." in text
    assert "scripted (1 MB)" in text
    assert ".png is neither text nor Markdown" in text


def test_a_failed_check_is_the_headline() -> None:
    html = page(make_report(board_after(story(held=False))))
    assert "Not everything held: 1 of 1 checks failed" in html
    assert '<header class="broken">' in html


def test_an_interrupted_run_says_so() -> None:
    assert "The run did not finish" in page(make_report(board_after(story()[:10])))


def test_nothing_hostile_runs() -> None:
    html = page(make_report(hostile_board()))
    check_harmless(html)
    assert "\x1b" not in html
    assert html.count("&lt;script&gt;") >= 15  # and it is shown, wherever it was said


def test_mutant_a_page_that_does_not_escape_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "esc", str)
    with pytest.raises(AssertionError):
        check_harmless(page(make_report(hostile_board())))


def test_mutant_a_chart_that_does_not_escape_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "esc", str)
    with pytest.raises(AssertionError):
        check_harmless(page(make_report(hostile_board())))


def test_the_page_forbids_scripts_and_loading_to_the_browser() -> None:
    attributes = Checker(page(make_report(Board()))).attributes
    at = attributes.index(("http-equiv", "Content-Security-Policy"))
    assert attributes[at + 1] == ("content", "default-src 'none'; style-src 'unsafe-inline'")


def test_every_chart_has_a_text_for_those_who_cannot_see_it() -> None:
    html = page(make_report(board_after(story())))
    charts_drawn = re.findall(r"<svg [^>]*>", html)
    assert len(charts_drawn) == 4
    assert all('role="img"' in tag and "aria-label=" in tag for tag in charts_drawn)


@pytest.mark.parametrize("until", range(0, len(story()) + 1, 3))
def test_any_part_of_a_run_can_be_drawn(until: int) -> None:
    check_harmless(page(make_report(board_after(story()[:until]))))


HUES = {"a": 0, "b": 1}
NAMES = st.sampled_from(["a", "b", "<b>", "a very long name that is cut"])


@given(st.lists(st.builds(charts.Stream, NAMES, NAMES, st.integers(0, 10**15)), max_size=8))
def test_flows_of_any_size_stay_in_their_box(streams: list[charts.Stream]) -> None:
    drawn = charts.flows("t", streams, "uain", HUES)
    Checker(drawn)
    if "<svg" in drawn:
        height = int(re.findall(r'viewBox="0 0 400 (\d+)"', drawn)[0])
        edges = [
            (float(y), float(h))
            for y, h in re.findall(r'y="([-\d.]+)" width="10.0" height="([\d.]+)"', drawn)
        ]
        assert all(y >= -2 and y + h <= height + 2 for y, h in edges)
        labels = re.findall(r'<text x="([\d.]+)" y="([-\d.]+)" [^>]*class="strong"', drawn)
        for side in {x for x, _ in labels}:
            lines = sorted(float(y) for x, y in labels if x == side)
            assert lines[0] >= 12
            assert lines[-1] <= height - 12
            assert all(below - above >= 25.8 for above, below in pairwise(lines))


@given(
    st.lists(st.tuples(st.integers(0, 10**7), st.integers(-(10**15), 10**15)), min_size=1, max_size=20),
    st.booleans(),
)
def test_lines_of_any_values_stay_in_their_box(points: list[tuple[int, int]], stepped: bool) -> None:
    drawn = charts.lines("t", [("a", sorted(points))], unit="u", hues=HUES, stepped=stepped)
    Checker(drawn)
    path = re.findall(r'<path d="([^"]*)"', drawn)[0]
    assert all(-1 <= float(number) <= 401 for number in re.findall(r"-?\d+(?:\.\d+)?", path))


@given(
    st.lists(
        st.builds(charts.Span, NAMES, st.just(1), st.integers(0, 10**9), st.integers(0, 10**9)), max_size=6
    )
)
def test_spans_of_any_length_have_no_negative_bars(rows: list[charts.Span]) -> None:
    drawn = charts.spans("t", rows)
    Checker(drawn)
    assert all(float(width) >= 0 for width in re.findall(r'width="([-\d.]+)"', drawn))


@pytest.mark.parametrize(
    ("us", "text"),
    [(0, "0 µs"), (999, "999 µs"), (12_300, "12.3 ms"), (1_250_000, "1.25 s"), (75_000_000, "75 s")],
)
def test_durations_are_for_people(us: int, text: str) -> None:
    assert charts.duration(us) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0"), (950, "950"), (-1200, "-1.2k"), (3_400_000, "3.4M")])
def test_numbers_are_short(number: int, text: str) -> None:
    assert charts.short(number) == text
