"""Cuts, held against a model that keeps every pair."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ainp2p.simulation.wire.cuts import Cuts, _Wall

PEERS = "abcd"
PAIRS = [(one, other) for one in PEERS for other in PEERS if one != other]
ONE = st.sampled_from(PEERS)
SIDE = st.sets(ONE, max_size=3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("cut"), st.sampled_from(PAIRS), st.booleans()),
        st.tuples(st.just("partition"), st.tuples(SIDE, SIDE), st.booleans()),
        st.tuples(st.just("heal_between"), st.sampled_from(PAIRS)),
        st.tuples(st.sampled_from(["heal_around", "pause", "resume"]), ONE),
        st.tuples(st.just("heal_all")),
    ),
    max_size=12,
)


def expected(steps: list[Any]) -> set[tuple[str, str]]:
    """The pairs that are cut after these steps."""
    cut: set[tuple[str, str]] = set()
    paused: set[str] = set()
    for what, *how in steps:
        if what in ("cut", "partition"):
            (sources, targets), oneway = how
            ways = {(a, b) for a in sources for b in targets}
            cut |= ways if oneway else ways | {(b, a) for a, b in ways}
        elif what == "heal_between":
            cut -= {how[0], how[0][::-1]}
        elif what == "heal_around":
            cut = {path for path in cut if how[0] not in path}
        elif what == "pause":
            paused.add(how[0])
        elif what == "resume":
            paused.discard(how[0])
        else:
            cut.clear()
    return {(a, b) for a, b in PAIRS if (a, b) in cut or a in paused or b in paused}


def found(steps: list[Any]) -> set[tuple[str, str]]:
    cuts = Cuts()
    for what, *how in steps:
        if what in ("cut", "partition"):
            (one, other), oneway = how
            getattr(cuts, what)(one, other, oneway=oneway)
        elif what == "heal_between":
            cuts.heal_between(*how[0])
        else:
            getattr(cuts, what)(*how)
    return {path for path in PAIRS if cuts.is_cut(*path)}


@settings(deadline=None)
@given(STEPS)
def test_c2_what_is_cut_is_what_a_list_of_all_pairs_says(steps: list[Any]) -> None:
    assert found(steps) == expected(steps)


def test_c2_mutant_a_mended_path_that_stays_behind_its_wall_is_found(monkeypatch: Any) -> None:
    steps = [("partition", ({"a"}, {"b"}), False), ("heal_between", ("a", "b"))]
    assert found(steps) == expected(steps)
    blind = property(lambda self: set(), lambda self, holes: None)
    monkeypatch.setattr(_Wall, "holes", blind)
    assert found(steps) != expected(steps)


def test_ten_thousand_peers_are_parted_by_their_lists() -> None:
    cuts = Cuts()
    cuts.partition(map(str, range(5000)), map(str, range(5000, 10_000)), oneway=False)
    assert cuts.is_cut("0", "9999")
    assert cuts.is_cut("9999", "0")
    assert not cuts.is_cut("0", "4999")
