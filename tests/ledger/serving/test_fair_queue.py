"""Who is served when, who has to go, and that nobody starves."""

from __future__ import annotations

from collections import Counter, deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ainp2p.errors import InvalidInput
from ainp2p.ledger.serving import fair_queue
from ainp2p.ledger.serving.fair_queue import WEIGHT_MAX, FairQueue

A, B, C = (name * 32 for name in (b"a", b"b", b"c"))
Item = tuple[bytes, int]  # account, and which of its items


def account(number: int) -> bytes:
    return number.to_bytes(32, "big")


def filled(*flows: tuple[bytes, int, int], total_max: int = 10**6) -> FairQueue[Item]:
    """A queue with (account, weight, items) in it."""
    queue: FairQueue[Item] = FairQueue(total_max, 10**6)
    for key, weight, count in flows:
        for index in range(count):
            queue.push(key, weight, (key, index))
    return queue


def served(queue: FairQueue[Item], count: int) -> list[bytes]:
    return [item[0] for _ in range(count) if (item := queue.pop()) is not None]


# --- order ------------------------------------------------------------------------------------------------


def test_an_empty_queue_has_nothing() -> None:
    queue: FairQueue[Item] = FairQueue(1, 1)
    assert queue.pop() is None
    assert len(queue) == 0
    assert queue.count(A) == 0


def test_one_account_is_served_in_order() -> None:
    queue = filled((A, 3, 5))
    assert [queue.pop() for _ in range(6)] == [*((A, index) for index in range(5)), None]


def test_equal_accounts_take_turns() -> None:
    assert served(filled((A, 5, 9), (B, 5, 9), (C, 5, 9)), 9) == [A, B, C] * 3


def test_weights_are_proportions() -> None:
    assert Counter(served(filled((A, 4, 900), (B, 2, 900), (C, 1, 900)), 700)) == {A: 400, B: 200, C: 100}


def test_service_is_spread_evenly_not_in_bursts() -> None:
    order = served(filled((A, 5, 300), (B, 1, 300)), 60)
    assert all(4 <= later - earlier <= 8 for earlier, later in zip(*_places(order, B), strict=False))


def _places(order: list[bytes], key: bytes) -> tuple[list[int], list[int]]:
    places = [at for at, served_key in enumerate(order) if served_key == key]
    return places[:-1], places[1:]


def test_what_was_not_used_is_not_saved_up() -> None:
    queue = filled((A, 1, 100), (B, 1, 1))
    served(queue, 60)
    for index in range(50):
        queue.push(B, 1, (B, index))
    assert Counter(served(queue, 40)) == {A: 20, B: 20}


def test_leaving_and_coming_back_gains_nothing() -> None:
    queue = filled((A, 1, 200))
    found = []
    for index in range(200):
        if not queue.count(B):
            queue.push(B, 1, (B, index))
        found += served(queue, 1)
    assert abs(found.count(A) - found.count(B)) <= 2


def test_each_item_has_its_own_weight() -> None:
    """One fee that is high does not carry the floor's behind it."""
    queue = filled((A, 1_000, 1), (A, 1, 500), (B, 100, 500))
    order = served(queue, 300)
    assert A in order[:2]
    assert order.count(A) <= 6


def test_no_weight_is_served_at_last() -> None:
    queue = filled((A, 0, 10), (B, 1, 10_000))
    order = served(queue, 200)
    assert 5 <= order.count(A) <= 13
    assert served(filled((A, 0, 3)), 3) == [A] * 3


def test_many_of_no_weight_have_one_small_share_together() -> None:
    queue = filled((B, 1, 10_000), *((account(at), 0, 1) for at in range(2_000)))
    assert Counter(served(queue, 1_700))[B] >= 1_590


# --- what nobody can do to another --------------------------------------------------------------------------


def test_e9_ten_thousand_items_of_one_do_not_delay_anothers_first() -> None:
    queue = filled((A, 7, 10_000))
    served(queue, 5)
    queue.push(B, 7, (B, 0))
    assert B in served(queue, 2)


def test_e9_ten_thousand_items_of_a_rich_one_delay_another_by_the_ratio_of_their_weights() -> None:
    queue = filled((A, 64, 10_000))
    queue.push(B, 4, (B, 0))
    assert B in served(queue, 18)


def test_e9_ten_thousand_accounts_at_the_floor_leave_honest_ones_their_share() -> None:
    dust = [(account(at), 1, 4) for at in range(10_000)]
    honest = [(account(20_000 + at), 1_000, 1_000) for at in range(10)]
    queue = filled(*dust, *honest)
    order = served(queue, 4_000)
    assert order.count(honest[0][0]) >= 150  # a tenth of a half: 200, less what is rounded off its weight
    first = {key: order.index(key) for key, _, _ in honest}
    assert max(first.values()) <= 2 * len(honest) + 4


def test_e9_fresh_accounts_that_never_end_do_not_starve_who_waits() -> None:
    queue = filled((A, 50, 100))
    order: list[bytes] = []
    for number in range(3_000):
        queue.push(account(number), 1, (account(number), 0))
        order += served(queue, 1)
    assert order.count(A) == 100
    assert order.index(A) <= 2


FLOWS = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from([0, 1, 2, 7, 8, 30, 1_000, WEIGHT_MAX]), st.booleans()),
    max_size=200,
)


@settings(max_examples=150, deadline=None)
@given(FLOWS, st.integers(1, 30), st.integers(1, 6))
def test_nothing_is_lost_or_made_and_each_account_keeps_its_order(
    events: list[tuple[int, int, bool]], total_max: int, per_account_max: int
) -> None:
    play(events, total_max, per_account_max)


def play(events: list[tuple[int, int, bool]], total_max: int, per_account_max: int) -> list[Item]:
    """Push and pop by turns, against plain queues by account; returns what was served."""
    queue: FairQueue[Item] = FairQueue(total_max, per_account_max)
    model: dict[bytes, deque[Item]] = {}
    order: list[Item] = []

    def take() -> None:
        item = queue.pop()
        assert (item is None) == (not any(model.values()))
        if item is not None:
            assert model[item[0]].popleft() == item
            order.append(item)

    for at, (number, weight, then_pop) in enumerate(events):
        key = account(number)
        gone = queue.push(key, weight, (key, at))
        model.setdefault(key, deque()).append((key, at))
        for item in gone:
            assert model[item[0]].pop() == item  # always somebody's newest
        assert len(queue) == sum(map(len, model.values())) <= total_max
        assert all(queue.count(k) == len(items) <= per_account_max for k, items in model.items())
        if then_pop:
            take()
    for _ in range(total_max + 1):
        take()
    assert len(queue) == 0
    return order


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.integers(0, 30), st.integers(1, 10**6), min_size=1, max_size=12), st.integers(1, 10**6)
)
def test_a_newcomer_waits_no_longer_than_weights_allow(weights: dict[int, int], own: int) -> None:
    queue = filled(*((account(number), weight, 400) for number, weight in weights.items()))
    served(queue, 50)
    queue.push(A, own, (A, 0))
    # Rounding down to its class costs it a fifth at most; then one item of each other class.
    allowed = sum(weights.values()) * 5 // (own * 4) + len(weights) + 2
    order = served(queue, 400)
    assert len(order) < 400 or allowed >= 400 or order.index(A) <= allowed


def test_the_same_pushes_give_the_same_order() -> None:
    events = [(at * 7 % 13, at * 31 % 50, at % 3 == 0) for at in range(300)]
    assert play(events, 40, 5) == play(events, 40, 5)


# --- bounds -----------------------------------------------------------------------------------------------


def test_an_account_that_has_enough_waiting_gets_its_item_back() -> None:
    queue: FairQueue[str] = FairQueue(10, 2)
    assert queue.push(A, 1, "first") == []
    assert queue.push(A, 1, "second") == []
    assert queue.push(A, 9, "third") == ["third"]
    assert [queue.pop(), queue.pop(), queue.pop()] == ["first", "second", None]


def test_who_has_most_for_its_weight_loses_its_newest() -> None:
    queue = filled((A, 10, 6), (B, 1, 3), total_max=9)
    assert queue.push(A, 10, (A, 6)) == [(B, 2)]
    assert queue.push(A, 10, (A, 7)) == [(B, 1)]


def test_who_weighs_nothing_goes_first() -> None:
    queue = filled((A, 1, 5), (B, 0, 1), total_max=6)
    assert queue.push(A, 1, (A, 5)) == [(B, 0)]
    assert queue.push(B, 0, (B, 1)) == [(B, 1)]


def test_a_full_queue_of_dust_makes_room_for_an_honest_account() -> None:
    queue = filled(*((account(at), 1, 1) for at in range(100)), total_max=100)
    for index in range(20):
        assert queue.push(A, 500, (A, index)) == [(account(99 - index), 0)]
    assert queue.count(A) == 20
    assert queue.push(account(200), 1, (account(200), 0)) == [(account(200), 0)]


def test_accounts_that_went_leave_nothing_behind() -> None:
    queue: FairQueue[Item] = FairQueue(50, 5)
    for number in range(5_000):
        queue.push(account(number), number % 900, (account(number), 0))
        queue.push(account(number), number % 7, (account(number), 1))
    while queue.pop() is not None:
        pass
    assert not queue._accounts
    assert not queue._waiting
    assert not any(class_.ring or class_._lengths for class_ in queue._classes.values())
    assert len(queue._classes) <= 250


@pytest.mark.parametrize("bounds", [(0, 1), (1, 0)])
def test_a_queue_without_room_is_refused(bounds: tuple[int, int]) -> None:
    with pytest.raises(InvalidInput):
        FairQueue(*bounds)


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(InvalidInput):
        filled((A, -1, 1))


def test_weights_beyond_all_bounds_count_as_the_greatest() -> None:
    assert Counter(served(filled((A, 2**200, 20), (B, WEIGHT_MAX, 20)), 20)) == {A: 10, B: 10}


def test_there_are_few_classes() -> None:
    weights = {
        fair_queue._rounded(weight)
        for bits in range(64)
        for weight in range(1 << bits, 2 << bits, max(1, (1 << bits) // 64))
    }
    assert len(weights) <= 250
    assert all(fair_queue._rounded(weight) * 5 > weight * 4 - 5 for weight in range(1, 5_000))


# --- planted faults ---------------------------------------------------------------------------------------


def test_mutant_newcomers_that_start_at_the_queues_pass_starve_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without its first stride each fresh account is served at once, and there are always more of them."""
    sound = FairQueue._enter

    def at_once(self: FairQueue[Item], held: fair_queue._Account[Item]) -> None:
        sound(self, held)
        self._classes[held.weight].passed = self._passed

    monkeypatch.setattr(FairQueue, "_enter", at_once)
    with pytest.raises(AssertionError):
        test_e9_fresh_accounts_that_never_end_do_not_starve_who_waits()


def test_mutant_a_pass_that_does_not_move_serves_one_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_queue, "STRIDE", 1)
    with pytest.raises(AssertionError):
        test_weights_are_proportions()


def test_mutant_shares_that_ignore_how_many_there_are_give_dust_too_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fair_queue._Class, "shares", property(lambda self: self.weight * 16 or 1))
    queue = filled((A, 8, 1_000), *((account(at), 1, 100) for at in range(8)))
    with pytest.raises(AssertionError):
        assert Counter(served(queue, 800))[A] <= 420


def test_mutant_an_account_that_keeps_its_turn_delays_others(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck(dict[bytes, object]):
        def move_to_end(self, key: bytes) -> None:
            """Stay where it is."""

    sound = fair_queue._Class.__init__

    def stuck(self: fair_queue._Class[Item], weight: int) -> None:
        sound(self, weight)
        self.ring = Stuck()  # type: ignore[assignment]  # the fault

    monkeypatch.setattr(fair_queue._Class, "__init__", stuck)
    with pytest.raises(AssertionError):
        test_e9_ten_thousand_items_of_one_do_not_delay_anothers_first()


def test_mutant_dropping_the_oldest_breaks_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = FairQueue._take

    def oldest(self: FairQueue[Item], held: fair_queue._Account[Item], *, newest: bool) -> Item:
        return sound(self, held, newest=False)

    monkeypatch.setattr(FairQueue, "_take", oldest)
    with pytest.raises(AssertionError):
        play([(1, 1, False)] * 5, 3, 5)
