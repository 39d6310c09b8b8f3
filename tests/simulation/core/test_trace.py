"""Traces: what is in the hash, where two runs part, and files of other versions."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from ainp2p.errors import InvalidInput
from ainp2p.simulation.core import trace as trace_module
from ainp2p.simulation.core.clock import VirtualClock
from ainp2p.simulation.core.draws import Draws
from ainp2p.simulation.core.trace import Trace
from ainp2p.simulation.errors import VersionMismatch


def walk(events: int = 100, *, planted: int | None = None, keep: int = 200, every: int = 1) -> Trace:
    """A trace of `events` events, one draw and a quarter of a second each; one of them may be different."""
    clock, draws = VirtualClock(), Draws(5)
    trace = Trace(clock, draws, keep=keep, every=every)
    for n in range(events):
        clock.now = n / 4
        draws.stream("walk").random()
        trace.note("step", n if n != planted else -n, "alice", b"\x01\x02")
    return trace


def test_the_same_events_have_the_same_hash() -> None:
    assert walk().hash == walk().hash
    assert walk().first_difference(walk()) is None
    assert len(walk().hash) == 32


def test_the_hash_can_be_read_on_the_way() -> None:
    trace = walk(10)
    first = trace.hash
    trace.note("more")
    assert trace.hash != first
    assert trace.count == 11


@pytest.mark.parametrize(
    ("one", "two"),
    [
        pytest.param(("kind", "a"), ("kind", b"a"), id="text and bytes"),
        pytest.param(("kind", "1"), ("kind", 1), id="text and a number"),
        pytest.param(("kind", "ab", "c"), ("kind", "a", "bc"), id="where a field ends"),
        pytest.param(("kind", "a"), ("kind", "a", ""), id="an empty field"),
        pytest.param(("kind", "a"), ("kinda",), id="kind and field"),
    ],
)
def test_different_events_have_different_hashes(one: tuple[str, ...], two: tuple[str, ...]) -> None:
    hashes = set()
    for event in (one, two):
        trace = Trace(VirtualClock(), Draws(1))
        trace.note(*event)
        hashes.add(trace.hash)
    assert len(hashes) == 2


def test_time_and_draws_are_part_of_an_event() -> None:
    clock, draws = VirtualClock(), Draws(1)
    hashes = set()
    for now, count in [(0.0, 0), (1.0, 0), (0.0, 1)]:
        clock.now, draws.count = now, count
        trace = Trace(clock, draws)
        trace.note("kind")
        hashes.add(trace.hash)
    assert len(hashes) == 3


@pytest.mark.parametrize("planted", [0, 1, 37, 62, 99])
def test_a_planted_difference_is_found_by_index_draw_and_time(planted: int) -> None:
    difference = walk().first_difference(walk(planted=planted))
    if planted == 0:
        assert difference is None  # -0 is 0
        return
    assert difference is not None
    assert difference.index == planted
    assert difference.draws == planted  # one draw per event: so many before this one
    assert difference.at_s == (planted - 1) / 4
    assert difference.ours == f"#{planted} {planted / 4:.6f}s draw {planted + 1} step {planted} alice 0102"
    assert difference.theirs == f"#{planted} {planted / 4:.6f}s draw {planted + 1} step {-planted} alice 0102"
    for expected in (f"event {planted},", f"after {planted} draws", f"{(planted - 1) / 4:.6f} s", "step"):
        assert expected in str(difference)


def test_the_first_of_many_differences_is_found() -> None:
    rng = random.Random(1)
    for _ in range(20):
        planted = rng.randrange(1, 300)
        ours, theirs = walk(300), walk(300, planted=planted)
        assert ours.first_difference(theirs) is not None
        assert ours.first_difference(theirs).index == planted  # type: ignore[union-attr]


def test_a_trace_that_ends_early_differs_where_it_ends() -> None:
    difference = walk(100).first_difference(walk(60))
    assert difference is not None
    assert (difference.index, difference.at_s, difference.theirs) == (60, 59 / 4, None)
    assert difference.ours is not None
    assert difference.ours.startswith("#60 ")
    other = walk(60).first_difference(walk(100))
    assert other is not None
    assert (other.index, other.ours) == (60, None)


def test_a_difference_in_lines_that_were_not_kept_is_found_all_the_same() -> None:
    difference = walk(300, keep=10).first_difference(walk(300, keep=10, planted=40))
    assert difference is not None
    assert (difference.index, difference.draws, difference.ours) == (40, 40, None)
    assert "(not kept)" in str(difference)


def test_digests_after_every_few_events_find_it_to_within_as_many() -> None:
    gone = walk(300, keep=0, every=16).first_difference(walk(300, keep=0, every=16, planted=40))
    assert gone is not None
    assert gone.index == 32
    assert (gone.within, gone.ours, gone.theirs) == (16, None, None)
    assert "among the 16 events from #32 on" in str(gone)
    half = walk(300, keep=0, every=16).first_difference(walk(300, keep=300, every=16, planted=40))
    assert half == gone  # a line of one of them would pass for the difference
    kept = walk(300, keep=300, every=16).first_difference(walk(300, keep=300, every=16, planted=40))
    assert kept is not None
    assert (kept.index, kept.draws) == (40, 40)


@pytest.mark.parametrize(("ours", "theirs"), [(1, 2), (0, 0)])
def test_traces_without_common_digests_are_not_compared(ours: int, theirs: int) -> None:
    with pytest.raises(InvalidInput, match="every=1"):
        walk(every=ours).first_difference(walk(every=theirs, planted=3))


def test_the_last_events_stay_readable() -> None:
    trace = walk(100, keep=3)
    assert [line.split()[0] for line in trace.last] == ["#97", "#98", "#99"]
    assert trace.line(96) is None
    assert trace.line(100) is None
    assert trace.line(98) == trace.last[1]
    assert walk(100, keep=0).last == []
    with pytest.raises(InvalidInput):
        walk(keep=-1)


def test_what_is_kept_does_not_change_the_hash() -> None:
    assert walk(keep=0, every=0).hash == walk(keep=50, every=7).hash == walk().hash


def test_a_saved_trace_is_compared_like_a_live_one(tmp_path: Path) -> None:
    path = tmp_path / "a.trace"
    walk(planted=70).save(path)
    loaded = Trace.load(path)
    assert (loaded.hash, loaded.count, loaded.last) == (
        walk(planted=70).hash,
        100,
        walk(planted=70).last,
    )
    assert walk().first_difference(loaded) == walk().first_difference(walk(planted=70))
    assert loaded.first_difference(walk(planted=70)) is None
    with pytest.raises(InvalidInput, match="finished"):
        loaded.note("more")


def test_saving_overwrites_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.trace"
    walk().save(path)
    with pytest.raises(InvalidInput, match="overwrites nothing"):
        walk(planted=3).save(path)
    assert Trace.load(path).hash == walk().hash


def test_a_trace_of_another_version_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.trace"
    monkeypatch.setattr(trace_module, "VERSION", 41)
    walk().save(path)
    monkeypatch.undo()
    with pytest.raises(VersionMismatch, match=r"version 41.*this is version 1") as caught:
        Trace.load(path)
    assert (caught.value.found, caught.value.expected) == (41, trace_module.VERSION)


def test_another_version_has_other_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    before = walk().hash
    monkeypatch.setattr(trace_module, "VERSION", 41)
    assert walk().hash != before


@pytest.mark.parametrize("cut", [0, 5, 12, 13, 14, 20, 200, -1])
def test_a_file_that_is_no_whole_trace_is_refused(cut: int, tmp_path: Path) -> None:
    path, broken = tmp_path / "a.trace", tmp_path / "b.trace"
    walk().save(path)
    broken.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InvalidInput):
        Trace.load(broken)
    broken.write_bytes(b"\x80" + path.read_bytes())
    with pytest.raises(InvalidInput, match="not a trace"):
        Trace.load(broken)


def test_the_wire_form_of_a_trace_is_pinned() -> None:
    # Another hash here means that VERSION must be raised: hashes of before can no longer be compared.
    assert walk(20).hash == PINNED


PINNED = "b454bbbcb38736be06023a9cb90c087e"


def test_mutant_a_trace_without_times_does_not_see_what_came_later(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, draws = VirtualClock(), Draws(1)

    def blind(self: Trace, kind: str, *fields: str | int | bytes) -> None:
        self._state.update(repr((kind, fields)).encode())
        self.count += 1

    monkeypatch.setattr(Trace, "note", blind)
    traces = []
    for now in (1.0, 2.0):
        clock.now = now
        traces.append(Trace(clock, draws))
        traces[-1].note("kind")
    assert traces[0].hash == traces[1].hash


def test_mutant_digests_of_single_events_lead_bisection_astray(monkeypatch: pytest.MonkeyPatch) -> None:
    def alone(self: Trace, kind: str, *fields: str | int | bytes) -> None:
        whole(self, kind, *fields)
        self._digests[-8:] = hashlib.blake2b(repr(fields).encode(), digest_size=8).digest()

    whole = Trace.note
    monkeypatch.setattr(Trace, "note", alone)
    difference = walk(keep=0).first_difference(walk(keep=0, planted=37))
    assert difference is not None
    assert difference.index != 37
