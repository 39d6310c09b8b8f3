from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.errors import BadSignature, InvalidInput, InvalidReceipt, Malformed, Refused
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.operations import Close, Settle, parse
from ainp2p.ledger.rules.receipts import Release
from ainp2p.ledger.wallets import watching
from ainp2p.ledger.wallets.watching import CLOSE, SETTLE, Watched, WatchList
from ainp2p.protocol.codec import decode, encode

from ..world import World

LIFE_MS = 60_000
MARGIN_MS = 2_000  # of development networks


class Tower:
    """A watch list beside a small ledger."""

    def __init__(self, **changes: Any) -> None:
        self.world = World()
        self.lock = self.world.open_lock(**changes)
        self.list = WatchList(self.world.network, self.world.parameters)

    def release(self, cumulative: int, lock: Lock | None = None) -> Release:
        return Release.of(self.world.receipt(lock or self.lock, cumulative))

    def put(self, cumulative: int, client: str = "bob") -> tuple[Watched, bool]:
        return self.list.put(client, self.lock, LIFE_MS, self.release(cumulative), self.world.now)

    def due(self) -> tuple[float, str] | None:
        held = self.list.get(self.lock.id)
        assert held is not None
        return self.list.due(held)


def test_a_receipt_is_spread_well_before_the_margin() -> None:
    tower = Tower()
    tower.put(400)
    assert tower.due() == (tower.lock.expiry - 2 * MARGIN_MS, SETTLE)


def test_too_little_for_a_settle_is_closed_at_expiry() -> None:
    tower = Tower(step=500)
    held, _ = tower.put(400)
    assert tower.due() == (tower.lock.expiry, CLOSE)
    assert isinstance(parse(tower.list.operation(held, CLOSE)).operation.body, Close)


def test_a_lock_that_moves_below_the_receipt_is_settled_at_once() -> None:
    tower = Tower()
    held, _ = tower.put(400)
    tower.list.learn(tower.world.settle(tower.lock, 100), LIFE_MS)
    due = tower.due()
    assert due is not None
    assert due[0] <= tower.world.now
    assert isinstance(parse(tower.list.operation(held, due[1])).operation.body, Settle)
    tower.world.do(tower.list.operation(held, due[1]))


def test_nothing_is_due_once_the_receipt_is_paid() -> None:
    tower = Tower()
    tower.put(400)
    tower.list.learn(tower.world.settle(tower.lock, 400), LIFE_MS)
    assert tower.due() is None


def test_a_lock_that_has_ended_is_forgotten() -> None:
    tower = Tower()
    tower.put(400)
    assert tower.list.learn(msgspec.structs.replace(tower.lock, ended=1, seq=1), LIFE_MS)
    assert len(tower.list) == 0
    assert not tower.list.learn(tower.lock, LIFE_MS)  # nothing to forget


def test_only_a_higher_receipt_is_news() -> None:
    tower = Tower()
    assert tower.put(400)[1]
    assert not tower.put(400)[1]
    assert not tower.put(300)[1]
    held, is_news = tower.put(500, client="carol")
    assert (held.cumulative, held.client, is_news) == (500, "bob", True)


@pytest.mark.parametrize(
    ("rule", "changes", "early_ms"),
    [
        pytest.param("ended", {"ended": 1}, 0, id="ended"),
        pytest.param("above-deposit", {"deposit": 399}, 0, id="more than is there"),
        pytest.param("lock", {"id": b"o" * 32}, 0, id="another Lock"),
        pytest.param("expired", {}, LIFE_MS - MARGIN_MS, id="too late to be of use"),
    ],
)
def test_a_receipt_is_not_watched(rule: str, changes: dict[str, Any], early_ms: int) -> None:
    tower = Tower()
    lock = msgspec.structs.replace(tower.lock, **changes)
    with pytest.raises(InvalidReceipt) as refused:
        tower.list.put("bob", lock, LIFE_MS, tower.release(400), tower.world.now + early_ms)
    assert (refused.value.rule, len(tower.list)) == (rule, 0)


def test_a_forged_receipt_is_not_watched() -> None:
    tower = Tower()
    good = tower.release(400)
    with pytest.raises(BadSignature):
        tower.list.put("bob", tower.lock, LIFE_MS, Release(good.body, (bytes(64),)), tower.world.now)
    with pytest.raises(Malformed):
        tower.list.name(Release(b"junk", (bytes(64),)))
    with pytest.raises(InvalidReceipt, match="network"):
        WatchList(b"o" * 32, tower.world.parameters).name(good)
    assert len(tower.list) == 0


# --- places -------------------------------------------------------------------------------------------


@pytest.fixture
def few_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LOCKS_PER_CLIENT_MAX", 2)
    monkeypatch.setattr(watching, "LOCKS_MAX", 3)
    monkeypatch.setattr(watching, "LEAVING_MAX", 2)


class Crowded(Tower):
    """A tower to which many come."""

    def come(self, client: str, deposit: int = 1_000, cumulative: int = 10) -> bytes:
        """A client with a Lock of its own; its id."""
        lock = self.world.open_lock(deposit=deposit)
        self.list.put(client, lock, LIFE_MS, self.release(cumulative, lock), self.world.now)
        return lock.id

    def clients(self) -> set[str]:
        return {held.client for held in self.list if not held.leaving}


def test_one_client_cannot_fill_the_tower(few_places: None) -> None:
    tower = Crowded()
    tower.come("bob")
    tower.come("bob")
    with pytest.raises(Refused, match="one peer"):
        tower.come("bob")
    tower.come("carol")
    with pytest.raises(Refused, match="another"):
        tower.come("dave")
    assert len(tower.list.of("bob")) == 2


@pytest.mark.parametrize("least", [1_001, 10**12])
def test_a_deposit_below_the_least_one_is_refused_with_a_word_why(least: int) -> None:
    tower = Crowded()
    tower.list = WatchList(tower.world.network, tower.world.parameters, least)
    with pytest.raises(Refused, match=f"deposit.*1000 uain.*{least} uain"):
        tower.come("bob")
    assert len(tower.list) == 0
    with pytest.raises(InvalidInput):
        WatchList(tower.world.network, tower.world.parameters, -1)


def watched_after_a_crowd_of_small_ones(tower: Crowded) -> bool:
    """Strangers with hardly anything fill all places before somebody with a deposit comes."""
    for number in range(20):
        with suppress(Refused):
            tower.come(f"stranger {number}", deposit=100)
    try:
        tower.come("bob", deposit=1_000)
    except Refused:
        return False
    return "bob" in tower.clients()


def test_a_crowd_of_small_deposits_keeps_no_larger_one_out(few_places: None) -> None:
    assert watched_after_a_crowd_of_small_ones(Crowded())


def test_mutant_first_come_first_served_is_full_for_nothing(
    few_places: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_deposit", lambda held: 10**15)
    assert not watched_after_a_crowd_of_small_ones(Crowded())


def test_the_smallest_deposit_goes_first_and_never_one_as_large(few_places: None) -> None:
    tower = Crowded()
    for client, deposit in (("large", 3_000), ("small", 500), ("middle", 1_000)):
        tower.come(client, deposit)
    with pytest.raises(Refused, match="smallest deposit has 500"):
        tower.come("another", 500)
    tower.come("another", 501)
    assert tower.clients() == {"large", "middle", "another"}
    tower.come("yet another", 2_000)
    assert tower.clients() == {"large", "middle", "yet another"}


def test_a_client_s_own_smallest_goes_when_it_has_its_share(few_places: None) -> None:
    tower = Crowded()
    tower.come("carol", 200)
    small, large = tower.come("bob", 500), tower.come("bob", 700)
    best = tower.come("bob", 900)
    assert {held.id for held in tower.list.of("bob") if not held.leaving} == {large, best}
    assert small != best
    assert "carol" in tower.clients()


def test_whoever_is_sent_off_is_settled_at_once_and_then_forgotten(few_places: None) -> None:
    tower = Crowded()
    small = tower.come("small", 500, cumulative=400)
    for client in "abc":
        tower.come(client, 1_000)
    held = tower.list.get(small)
    assert held is not None
    assert held.leaving
    due = tower.list.due(held)
    assert due is not None
    assert due[0] <= tower.world.now
    assert due[1] == SETTLE
    tower.world.do(tower.list.operation(held, due[1]))
    assert tower.list.learn(tower.world.state.locks[small], LIFE_MS)
    assert tower.list.get(small) is None


def test_mutant_whoever_is_sent_off_loses_what_was_handed_over(
    few_places: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WatchList, "_can_settle", lambda self, held: False)
    with pytest.raises(AssertionError):
        test_whoever_is_sent_off_is_settled_at_once_and_then_forgotten(few_places)


def test_where_nothing_can_be_settled_it_is_forgotten_at_once(few_places: None) -> None:
    tower = Crowded()
    small = tower.come("small", 500, cumulative=3)  # less than a step
    for client in "abc":
        tower.come(client, 1_000)
    assert tower.list.get(small) is None
    assert tower.list.take_dropped() == [small]
    assert tower.list.take_dropped() == []


def test_only_so_many_leave_at_one_time(few_places: None) -> None:
    tower = Crowded()
    for number in range(3):
        tower.come(f"small {number}", 500 + number)
    tower.come("a", 1_000)
    tower.come("b", 1_000)
    with pytest.raises(Refused, match="in a minute"):
        tower.come("c", 1_000)
    assert len(tower.list) == 5


def test_what_is_not_known_yet_after_a_restart_is_not_sent_off(few_places: None) -> None:
    tower = Crowded()
    for number in range(3):
        lock = tower.world.open_lock(deposit=500)
        tower.list.restore(f"early {number}", tower.release(10, lock))
    with pytest.raises(Refused, match="another"):
        tower.come("late", 1_000)


def test_after_a_restart_nothing_is_due_before_the_lock_is_known() -> None:
    tower = Tower()
    tower.list.restore("bob", tower.release(400))
    assert tower.due() is None
    tower.list.learn(tower.lock, LIFE_MS)
    assert tower.due() == (tower.lock.expiry - 2 * MARGIN_MS, SETTLE)


RELEASE = Release(b"r", (b"s" * 64,))
VECTORS = [
    (watching.Watch(RELEASE), "920192c4017291c440" + "73" * 64),
    (watching.AskWatched(b""), "9202c400"),
    (watching.AskHeld((b"l" * 32,)), "920391c420" + "6c" * 32),
    (watching.Watching(b"l" * 32, 5, 9), "9414c420" + "6c" * 32 + "0509"),
    (watching.WatchedLocks((), 0), "93159000"),
]


@pytest.mark.parametrize(("message", "wire"), VECTORS, ids=[type(message).__name__ for message, _ in VECTORS])
def test_the_wire_form_is_what_it_was(message: Any, wire: str) -> None:
    assert encode(message).hex() == wire


def test_a_full_answer_can_be_read() -> None:
    """Else an honest payee with that many Locks is told nothing."""
    held = tuple(watching.Watching(n.to_bytes(32, "big"), 2**62, 2**62) for n in range(watching.ANSWER_MAX))
    assert decode(encode(watching.WatchedLocks(held, 1)), watching.WatchedLocks).locks == held
    watching.read_watch(encode(watching.AskHeld(tuple(each.lock for each in held))))


@given(st.binary(max_size=64), st.integers(0, 255))
def test_garbage_in_a_good_frame_is_refused_or_read(body: bytes, tag: int) -> None:
    for frame in (body, encode([tag, body]), encode([1, [body, [body]]]), encode([3, [body]])):
        with suppress(Malformed):
            watching.read_watch(frame)
