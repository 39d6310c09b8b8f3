"""Range-based reconciliation: two cores joined by hand."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ainp2p.errors import InvalidInput, Malformed
from ainp2p.ledger.serving import reconcile, reconcile_index
from ainp2p.ledger.serving.reconcile import (
    FINGERPRINT,
    ITEMS,
    MESSAGE_SIZE_LEAST,
    MESSAGE_SIZE_MAX,
    SKIP,
    Ranges,
    ReconcileIndex,
    Reconciler,
    read_ranges,
    value_of,
)
from ainp2p.protocol.codec import encode

Items = dict[bytes, bytes]


@dataclass
class Outcome:
    messages: list[bytes] = field(default_factory=list)
    have: list[bytes] = field(default_factory=list)
    need: list[bytes] = field(default_factory=list)

    @property
    def size(self) -> int:
        return sum(map(len, self.messages))


def reconciled(ours: Items, theirs: Items, *, size_max: int = MESSAGE_SIZE_MAX) -> Outcome:
    initiator = Reconciler(ours.items(), message_size_max=size_max)
    responder = Reconciler(theirs.items(), message_size_max=size_max)
    outcome = Outcome()
    message: bytes | None = initiator.initiate()
    while message is not None:
        answer = responder.respond(message)
        outcome.messages += [message, answer]
        message, have, need = initiator.continue_(answer)
        outcome.have += have
        outcome.need += need
    return outcome


def differences(ours: Items, theirs: Items) -> tuple[list[bytes], list[bytes]]:
    differing = [key for key in sorted({*ours, *theirs}) if ours.get(key) != theirs.get(key)]
    seqs = {key: (ours.get(key, b"")[:8], theirs.get(key, b"")[:8]) for key in differing}
    return [k for k in differing if seqs[k][0] >= seqs[k][1]], [
        k for k in differing if seqs[k][0] <= seqs[k][1]
    ]


def assert_reconciled(ours: Items, theirs: Items, *, size_max: int = MESSAGE_SIZE_MAX) -> Outcome:
    outcome = reconciled(ours, theirs, size_max=size_max)
    assert (sorted(outcome.have), sorted(outcome.need)) == differences(ours, theirs)
    assert all(len(message) <= size_max for message in outcome.messages)
    return outcome


def some(rng: random.Random, count: int) -> Items:
    return {rng.randbytes(32): value_of(rng.randrange(1, 50), rng.randbytes(32)) for _ in range(count)}


# Keys that share prefixes of every length, beside scattered ones.
PREFIXED = st.builds(
    lambda length, last: (b"\x07" * length + bytes([last])).ljust(32, b"\0"),
    st.integers(0, 31),
    st.integers(0, 255),
)
ITEM_SETS = st.dictionaries(
    PREFIXED | st.binary(min_size=32, max_size=32),
    st.builds(value_of, st.integers(1, 3), st.sampled_from([b"\x01" * 32, b"\x02" * 32])),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(ITEM_SETS, ITEM_SETS, ITEM_SETS, st.sampled_from([MESSAGE_SIZE_LEAST, MESSAGE_SIZE_MAX]))
def test_any_two_sets_end_with_exactly_their_differences(
    common: Items, ours: Items, theirs: Items, size_max: int
) -> None:
    assert_reconciled({**common, **ours}, {**common, **theirs}, size_max=size_max)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(0, 1_500),
    st.integers(0, 300),
    st.integers(MESSAGE_SIZE_LEAST, MESSAGE_SIZE_MAX),
)
def test_in_whatever_messages_it_is_cut(seed: int, count: int, changed: int, size_max: int) -> None:
    rng = random.Random(seed)
    common = some(rng, count)
    ours, theirs = {**common, **some(rng, changed)}, {**common, **some(rng, changed // 2)}
    for key in list(common)[:changed]:
        rng.choice([ours, theirs])[key] = value_of(rng.randrange(1, 60), rng.randbytes(32))
    assert_reconciled(ours, theirs, size_max=size_max)


def test_ten_differences_in_a_hundred_thousand_objects_cost_little() -> None:
    rng = random.Random(10)
    ours = some(rng, 100_000)
    theirs = dict(ours)
    for key in rng.sample(sorted(ours), 10):
        theirs[key] = value_of(60, rng.randbytes(32))
    outcome = assert_reconciled(ours, theirs)
    assert outcome.size <= 20_000
    assert len(outcome.messages) <= 8


def test_equal_sets_cost_two_small_messages() -> None:
    ours = some(random.Random(1), 5_000)
    outcome = assert_reconciled(ours, dict(ours))
    assert len(outcome.messages) == 2
    assert outcome.size < 500


def test_one_who_has_nothing_needs_everything_in_messages_of_bounded_size() -> None:
    theirs = some(random.Random(2), 3_000)
    outcome = assert_reconciled({}, theirs)
    assert len(outcome.messages) <= 16
    assert len(assert_reconciled(theirs, {}).messages) <= 20


def test_an_earlier_slot_is_needed_and_a_later_one_is_had() -> None:
    key, head = b"\x01" * 32, b"\x02" * 32
    outcome = reconciled({key: value_of(3, head)}, {key: value_of(300, head)})
    assert (outcome.have, outcome.need) == ([], [key])
    outcome = reconciled({key: value_of(300, head)}, {key: value_of(3, head)})
    assert (outcome.have, outcome.need) == ([key], [])


def test_two_heads_in_one_slot_are_had_and_needed() -> None:
    key = b"\x01" * 32
    outcome = reconciled({key: value_of(3, bytes(32))}, {key: value_of(3, b"\x01" * 32)})
    assert (outcome.have, outcome.need) == ([key], [key])


def test_what_changes_meanwhile_ends_the_comparison_all_the_same() -> None:
    rng = random.Random(3)
    items = some(rng, 2_000)
    ours, theirs = ReconcileIndex(items.items()), ReconcileIndex(items.items())
    missing = some(rng, 5)
    for key, value in missing.items():
        theirs.put(key, value)
    initiator, responder = Reconciler(ours), Reconciler(theirs)
    message: bytes | None = initiator.initiate()
    needed: set[bytes] = set()
    rounds = 0
    while message is not None:
        for key, value in some(rng, 20).items():
            rng.choice([ours, theirs]).put(key, value)
        message, _, need = initiator.continue_(responder.respond(message))
        needed |= {*need}
        rounds += 1
    assert rounds < 20
    assert needed >= {*missing}


# --- hostile messages -----------------------------------------------------------------------------------


def raw(**columns: object) -> bytes:
    """A message that skips everything, but for what is said otherwise."""
    whole = {"width": 0, "kinds": b"\0", "bounds": b"", "fingerprints": b"", "counts": b"", "items": b""}
    return encode(Ranges(**(whole | columns)))  # type: ignore[arg-type]  # some of them wrong on purpose


def item(first: int) -> bytes:
    return bytes([first]) * 32 + value_of(1, bytes(32))


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xc1", id="no message"),
        pytest.param(b"\x00" * (MESSAGE_SIZE_MAX + 1), id="too long"),
        pytest.param(raw(kinds=b""), id="no range"),
        pytest.param(raw(kinds=b"\x03"), id="a kind that does not exist"),
        pytest.param(raw(kinds=b"\0\0", width=1, bounds=b"\x01"), id="two skips beside each other"),
        pytest.param(
            raw(
                kinds=b"\0\1" * 2_049, width=2, bounds=b"".join(i.to_bytes(2, "big") for i in range(1, 4098))
            ),
            id="too many ranges",
        ),
        pytest.param(raw(width=1), id="a width without bounds"),
        pytest.param(
            raw(kinds=b"\0\2", width=33, bounds=b"\x01" * 33, counts=bytes(2)), id="a bound wider than a key"
        ),
        pytest.param(
            raw(kinds=b"\0\2", width=2, bounds=b"\x01\0", counts=bytes(2)), id="bounds wider than needed"
        ),
        pytest.param(raw(kinds=b"\0\2", width=1, bounds=b"\0", counts=bytes(2)), id="an empty range"),
        pytest.param(
            raw(kinds=b"\0\2\0", width=1, bounds=b"\x02\x01", counts=bytes(2)), id="bounds that descend"
        ),
        pytest.param(raw(kinds=b"\0\2", counts=bytes(2)), id="a bound missing"),
        pytest.param(raw(kinds=b"\1", fingerprints=bytes(15)), id="a fingerprint too short"),
        pytest.param(raw(kinds=b"\1"), id="a fingerprint missing"),
        pytest.param(raw(fingerprints=bytes(16)), id="a fingerprint too many"),
        pytest.param(raw(kinds=b"\2"), id="a count missing"),
        pytest.param(raw(kinds=b"\2", counts=b"\0\1"), id="an item missing"),
        pytest.param(raw(kinds=b"\2", counts=b"\xff\xff", items=item(1)), id="a count that promises more"),
        pytest.param(raw(items=item(1)), id="an item too many"),
        pytest.param(raw(kinds=b"\2", counts=b"\0\2", items=item(2) + item(1)), id="items that descend"),
        pytest.param(raw(kinds=b"\2", counts=b"\0\2", items=item(1) * 2), id="an item twice"),
        pytest.param(
            raw(kinds=b"\2\0", width=1, bounds=b"\x05", counts=b"\0\1", items=item(5)), id="an item above"
        ),
        pytest.param(
            raw(kinds=b"\0\2", width=1, bounds=b"\x05", counts=b"\0\1", items=item(4)), id="an item below"
        ),
    ],
)
def test_what_is_no_message_is_refused(message: bytes) -> None:
    with pytest.raises(Malformed):
        read_ranges(message)
    with pytest.raises(Malformed):
        Reconciler({}).respond(message)
    with pytest.raises(Malformed):
        Reconciler({}).continue_(message)


COLUMNS = st.fixed_dictionaries(
    {
        "width": st.integers(0, 34),
        "kinds": st.lists(st.sampled_from([SKIP, FINGERPRINT, ITEMS, 3]), max_size=9).map(bytes),
        "bounds": st.binary(max_size=64),
        "fingerprints": st.integers(0, 4).map(lambda count: bytes(16 * count)),
        "counts": st.lists(st.integers(0, 3), max_size=4).map(
            lambda counts: b"".join(c.to_bytes(2, "big") for c in counts)
        ),
        "items": st.lists(st.integers(0, 255), max_size=6).map(lambda firsts: b"".join(map(item, firsts))),
    }
)


@settings(max_examples=400, deadline=None)
@given(COLUMNS)
def test_any_columns_are_answered_within_bounds_or_refused(columns: dict[str, object]) -> None:
    index = ReconcileIndex(some(random.Random(4), 200).items())
    try:
        ranges = read_ranges(raw(**columns))
    except Malformed:
        return
    assert ranges[0].lower == b""
    assert ranges[-1].upper is None
    answer = Reconciler(index, message_size_max=MESSAGE_SIZE_LEAST).respond(raw(**columns))
    assert len(answer) <= MESSAGE_SIZE_LEAST
    read_ranges(answer)
    message, _, _ = Reconciler(index).continue_(raw(**columns))
    assert message is None or len(message) <= MESSAGE_SIZE_MAX


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_bent_message_of_the_real_kind_never_raises_anything_else(data: st.DataObject) -> None:
    ours, theirs = some(random.Random(5), 300), some(random.Random(6), 300)
    answer = bytearray(Reconciler(theirs.items()).respond(Reconciler(ours.items()).initiate()))
    for _ in range(data.draw(st.integers(1, 3))):
        answer[data.draw(st.integers(0, len(answer) - 1))] = data.draw(st.integers(0, 255))
    try:
        message, _, need = Reconciler(ours.items()).continue_(bytes(answer))
    except Malformed:
        return
    assert message is None or read_ranges(message)
    assert len(need) <= len(answer) // 72


def test_a_responder_that_is_never_satisfied_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "ROUNDS_MAX", 5)
    initiator = Reconciler(some(random.Random(7), 100).items())
    message: bytes | None = initiator.initiate()
    rounds = 0
    while message is not None:
        message, have, need = initiator.continue_(raw(kinds=b"\1", fingerprints=bytes(16)))
        assert (have, need) == ([], [])
        rounds += 1
    assert rounds == 5


def test_bounds_that_are_as_wide_as_keys_do_not_burst_a_message() -> None:
    ours = {bytes(30) + at.to_bytes(2, "big"): value_of(1, bytes(32)) for at in range(5_000)}
    theirs = {key: value_of(2, bytes(32)) for key in list(ours)[::7]}
    assert_reconciled(ours, theirs)
    assert_reconciled(ours, theirs, size_max=MESSAGE_SIZE_LEAST)


@pytest.mark.parametrize("size_max", [MESSAGE_SIZE_LEAST - 1, MESSAGE_SIZE_MAX + 1])
def test_messages_of_other_sizes_are_not_made(size_max: int) -> None:
    with pytest.raises(InvalidInput):
        Reconciler({}, message_size_max=size_max)


# --- planted faults -------------------------------------------------------------------------------------


def _ignores_seq(key: bytes, value: bytes) -> int:
    return int.from_bytes(key + value[8:], "big")


def _last_ranks(index: ReconcileIndex, lower: bytes, upper: bytes | None) -> tuple[int, int]:
    first, end = _sound_ranks(index, lower, upper)
    return first, max(first, end - 1)


_sound_ranks = reconcile._ranks


def test_mutant_a_fingerprint_that_ignores_the_seq_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = some(random.Random(8), 300)
    key = sorted(ours)[150]
    theirs = ours | {key: value_of(99, ours[key][8:])}
    assert_reconciled(ours, theirs)
    monkeypatch.setattr(reconcile_index, "item_digest", _ignores_seq)
    with pytest.raises(AssertionError):
        assert_reconciled(ours, theirs)


def test_mutant_a_bound_off_by_one_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = some(random.Random(9), 40), some(random.Random(10), 40)
    assert_reconciled(ours, theirs)
    monkeypatch.setattr(reconcile, "_ranks", _last_ranks)
    monkeypatch.setattr(reconcile, "ROUNDS_MAX", 100)
    with pytest.raises(AssertionError):
        assert_reconciled(ours, theirs)


def _count_not_hashed(total: int, count: int) -> bytes:
    return _sound_fingerprint(total, 0)


_sound_fingerprint = reconcile_index.range_fingerprint


@pytest.mark.parametrize("fingerprint", [_sound_fingerprint, _count_not_hashed])
def test_mutant_a_count_that_is_not_hashed_is_noticed(
    monkeypatch: pytest.MonkeyPatch, fingerprint: Callable[[int, int], bytes]
) -> None:
    """With digests that an attacker has brought to the sum 0, it is the count that tells sets apart."""
    monkeypatch.setattr(reconcile_index, "item_digest", lambda key, value: 0)
    monkeypatch.setattr(reconcile_index, "range_fingerprint", fingerprint)
    ours = some(random.Random(11), 3)
    if fingerprint is _sound_fingerprint:
        assert_reconciled(ours, {})
    else:
        with pytest.raises(AssertionError):
            assert_reconciled(ours, {})


def test_the_wire_form_is_what_it_was() -> None:
    """Pinned, so that a change of it is a choice: parts, items and what is skipped."""
    ours = {bytes([at]) * 32: value_of(at, bytes(32)) for at in range(1, 10)}
    initiator, responder = Reconciler(ours.items()), Reconciler([*ours.items()][:-1])
    parts = initiator.initiate()
    items = responder.respond(parts)
    assert [parts.hex(), items.hex(), responder.respond(items).hex()] == WIRE


WIRE = [
    "970101c403010101c4020407c430ef1b7712d49e25b25df9b4d237b92a9754f1ad523a04abe096302a5cd90b31834bc713eac92b"
    "2505dca255ed71c0f290c400c400",
    "970101c4020002c40107c400c4020002c490"
    + "07" * 32
    + "00" * 7
    + "07"
    + "00" * 32
    + "08" * 32
    + "00" * 7
    + "08"
    + "00" * 32,
    "970100c40100c400c400c400c400",
]
