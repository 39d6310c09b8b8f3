"""The sorted index with range fingerprints, against a plain dictionary."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ainp2p.errors import InvalidInput
from ainp2p.ledger.serving import reconcile_index
from ainp2p.ledger.serving.reconcile_index import (
    ReconcileIndex,
    bound_between,
    item_digest,
    range_fingerprint,
    value_of,
)

# Few different bytes, so that keys share long prefixes and are put and discarded again.
KEYS = st.lists(st.sampled_from(b"\0\x01\xff"), min_size=4, max_size=4).map(lambda part: bytes(part) * 8)
VALUES = st.builds(value_of, st.integers(1, 5), st.sampled_from([b"\x01" * 32, b"\x02" * 32]))
CHANGES = st.lists(st.tuples(KEYS, VALUES | st.none()), max_size=60)


def model_fingerprint(items: list[tuple[bytes, bytes]]) -> bytes:
    return range_fingerprint(sum(item_digest(key, value) for key, value in items), len(items))


def check_against(index: ReconcileIndex, model: dict[bytes, bytes], bounds: list[bytes]) -> None:
    ordered = sorted(model.items())
    assert len(index) == len(ordered)
    assert index.items(0, len(ordered)) == ordered
    ranks = sorted(index.rank(bound) for bound in bounds)
    assert ranks == sorted(sum(key < bound for key in model) for bound in bounds)
    for first, end in pairwise([0, *ranks, len(ordered)]):
        assert index.items(first, end) == ordered[first:end]
        assert index.fingerprint(first, end) == model_fingerprint(ordered[first:end])


def play(changes: list[tuple[bytes, bytes | None]], bounds: list[bytes], ask_every: int) -> None:
    index, model = ReconcileIndex(), dict[bytes, bytes]()
    for at, (key, value) in enumerate(changes):
        if value is None:
            index.discard(key)
            model.pop(key, None)
        else:
            index.put(key, value)
            model[key] = value
        assert index.get(key) == value
        if at % ask_every == 0:
            check_against(index, model, bounds)
    check_against(index, model, bounds)
    check_against(ReconcileIndex(model.items()), model, bounds)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile_index, "CHUNK_MAX", 4)
    monkeypatch.setattr(reconcile_index, "PENDING_MAX", 7)


@settings(max_examples=150, deadline=None)
@given(CHANGES, st.lists(st.binary(max_size=5), max_size=5), st.integers(1, 9))
def test_ranks_items_and_fingerprints_are_those_of_a_sorted_dictionary(
    changes: list[tuple[bytes, bytes | None]], bounds: list[bytes], ask_every: int
) -> None:
    play(changes, bounds, ask_every)


MUTANTS = [
    pytest.param("_remove", id="a removed item stays in the sum"),
    pytest.param("_split", id="a split chunk keeps the sum of both halves"),
]


@pytest.mark.parametrize("method", MUTANTS)
def test_mutant_sums_that_are_not_kept_are_noticed(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    sound = getattr(ReconcileIndex, method)

    def careless(self: ReconcileIndex, place: int, *rest: int) -> None:
        before = self._chunks[place].total
        chunk = self._chunks[place]
        sound(self, place, *rest)
        chunk.total = before

    monkeypatch.setattr(ReconcileIndex, method, careless)
    keys = [bytes([at]) * 32 for at in range(12)]
    changes: list[tuple[bytes, bytes | None]] = [(key, value_of(1, key)) for key in keys]
    with pytest.raises(AssertionError):
        play([*changes, (keys[3], None)], [keys[5]], 1)


def test_changes_are_folded_in_before_they_pile_up() -> None:
    index = ReconcileIndex()
    for at in range(1_000):
        index.put(at.to_bytes(32, "big"), value_of(1, bytes(32)))
        assert len(index._pending) < reconcile_index.PENDING_MAX


def test_later_slots_have_greater_values() -> None:
    assert value_of(1, b"\xff" * 32) < value_of(2, bytes(32)) < value_of(256, bytes(32))


@pytest.mark.parametrize(
    ("below", "above", "bound"),
    [
        pytest.param(b"\x01" * 32, b"\x03" * 32, b"\x03", id="they differ at once"),
        pytest.param(bytes(32), bytes(31) + b"\x01", bytes(31) + b"\x01", id="they differ in the last byte"),
    ],
)
def test_a_bound_is_the_shortest_that_separates(below: bytes, above: bytes, bound: bytes) -> None:
    assert bound_between(below, above) == bound
    assert below < bound <= above


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param(bytes(31), bytes(40), id="a key too short"),
        pytest.param(bytes(33), bytes(40), id="a key too long"),
        pytest.param(bytes(32), bytes(39), id="a value too short"),
        pytest.param(bytes(32), bytes(41), id="a value too long"),
    ],
)
def test_other_sizes_are_refused(key: bytes, value: bytes) -> None:
    with pytest.raises(InvalidInput):
        ReconcileIndex().put(key, value)
    with pytest.raises(InvalidInput):
        ReconcileIndex([(key, value)])


def test_equal_keys_have_no_bound_between_them() -> None:
    with pytest.raises(InvalidInput):
        bound_between(bytes(32), bytes(32))
