from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.errors import InvalidOperation
from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.rules.operations import parse
from ainp2p.ledger.voting.certificate import unpack_place
from ainp2p.ledger.voting.slot import Slot, VoteTable
from ainp2p.ledger.voting.votelog import COMMIT, LOCK, OwnLog, VoteBatch, commit_entry, lock_entry
from tests.ledger.world import NOW, World, key_of

WEIGHTS = (1, 2, 3, 4)  # quorum 7
KEYS = sorted((key_of(f"validator {i}") for i in range(4)), key=lambda key: key.public)
COMMITTEE = Committee(tuple(key.public for key in KEYS), WEIGHTS)
X, Y, Z = (bytes([i]) * 32 for i in range(1, 4))


def votes(member: int, *entries: bytes, height: int = 1) -> VoteBatch:
    log = OwnLog(KEYS[member], bytes(32), 0, member)
    log.resume(height - 1, bytes(32))
    for entry in entries:
        log.add(entry, NOW)
    return log.seal(NOW)


def table(decided_max: int = 10) -> VoteTable:
    return VoteTable(COMMITTEE, decided_max=decided_max)


# --- counting -------------------------------------------------------------------------------------


def test_a_quorum_of_weight_prepares_and_another_one_decides() -> None:
    votes_ = table()
    assert not votes_.count(votes(3, lock_entry(0, X))).prepared
    assert not votes_.count(votes(1, lock_entry(0, X))).prepared
    assert [(c.id, v) for c, v in votes_.count(votes(0, lock_entry(0, X))).prepared] == [(X, 0)]
    assert not votes_.count(votes(2, lock_entry(0, X))).prepared  # once only
    assert not votes_.count(votes(3, commit_entry(0, X), height=2)).final
    assert [(c.id, v) for c, v in votes_.count(votes(2, commit_entry(0, X), height=2)).final] == [(X, 0)]
    candidate = votes_.candidates[X]
    assert (candidate.prepared, candidate.final, candidate.voters()) == (0, 0, 0b1111)
    assert [unpack_place(p) for p in votes_.places(candidate, COMMIT, 0)] == [(3, 2, 0), (2, 2, 0)]


def test_a_repeated_vote_counts_once() -> None:
    votes_ = table()
    for height in range(1, 4):
        counted = votes_.count(votes(3, lock_entry(0, X), lock_entry(0, X), height=height))
        assert not counted.prepared
    assert votes_.candidates[X].counts[LOCK].weight == 4


def test_views_and_kinds_and_operations_are_counted_apart() -> None:
    votes_ = table()
    assert not votes_.count(votes(3, lock_entry(0, X), commit_entry(1, X))).prepared
    assert not votes_.count(votes(2, lock_entry(1, X), lock_entry(0, Y), commit_entry(0, X))).prepared
    assert not votes_.candidates[X].prepared


def test_the_highest_prepared_view_is_kept() -> None:
    votes_ = table()
    for member in (2, 3):
        votes_.count(votes(member, lock_entry(4, X), lock_entry(1, X)))
    assert votes_.candidates[X].prepared == 4


def test_named_operations_are_told_once_and_charged_to_whoever_named_them() -> None:
    votes_ = table()
    assert [c.id for c in votes_.count(votes(1, lock_entry(0, X), lock_entry(0, Y))).named] == [X, Y]
    assert votes_.count(votes(2, lock_entry(0, X))).named == []
    assert votes_.owed == [0, 2, 0, 0]
    votes_.drop(votes_.candidates[X])
    assert votes_.owed == [0, 1, 0, 0]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([X, Y]), st.booleans()), max_size=30))
def test_thresholds_are_reached_exactly_when_the_weight_is_there(cast: list[tuple[int, bytes, bool]]) -> None:
    votes_ = table()
    seen: dict[tuple[bytes, bool], set[int]] = {}
    for height, (member, id_, commits) in enumerate(cast, start=1):
        entry = commit_entry(0, id_) if commits else lock_entry(0, id_)
        counted = votes_.count(votes(member, entry, height=height))
        before = COMMITTEE.weight_of(seen.setdefault((id_, commits), set()))
        seen[id_, commits].add(member)
        reached = before < COMMITTEE.quorum <= COMMITTEE.weight_of(seen[id_, commits])
        assert bool(counted.final if commits else counted.prepared) == reached


# --- candidates -----------------------------------------------------------------------------------


def rivals() -> tuple[VoteTable, bytes, bytes]:
    """Two operations of one slot, held."""
    world, votes_ = World(), table()
    first, second = (parse(world.spend("alice", [("bob", amount)])) for amount in (1, 2))
    votes_.hold(first)
    votes_.hold(second)
    return votes_, first.id, second.id


def test_a_decided_slot_is_forgotten_with_all_its_candidates() -> None:
    votes_, first, second = rivals()
    votes_.count(votes(1, lock_entry(0, first), lock_entry(0, second)))
    losers = votes_.decide(votes_.candidates[first])
    assert [c.id for c in losers] == [second]
    assert (votes_.candidates, votes_.slots, votes_.owed) == ({}, {}, [0, 0, 0, 0])
    assert votes_.was_decided(first)
    assert not votes_.was_decided(second)
    assert votes_.count(votes(2, commit_entry(0, first))).named == []  # a late vote is passed over


def test_only_so_many_decided_ids_are_kept() -> None:
    votes_ = table(decided_max=2)
    for id_ in (X, Y, Z, Z):
        votes_.remember(id_)
    assert [votes_.was_decided(id_) for id_ in (X, Y, Z)] == [False, True, True]


def test_letting_go_of_bytes_keeps_votes_and_dropping_forgets_them() -> None:
    votes_, first, second = rivals()
    votes_.count(votes(1, lock_entry(0, first)))
    kept, gone = votes_.candidates[first], votes_.candidates[second]
    votes_.let_go(kept)
    votes_.let_go(gone)
    assert kept.parsed is None
    assert kept.counts
    assert list(votes_.candidates) == [first]
    assert votes_.slots == {}
    votes_.drop(kept)
    assert votes_.candidates == {}


def test_a_slot_without_candidates_remembers_our_own_votes() -> None:
    votes_, first, second = rivals()
    slot = votes_.slot_of(votes_.candidates[first])
    slot.lock(0, first)
    for id_ in (first, second):
        votes_.let_go(votes_.candidates[id_])
    assert next(iter(votes_.slots.values())) is slot


def test_the_lowest_heights_are_those_of_open_candidates() -> None:
    votes_ = table()
    votes_.count(votes(1, lock_entry(0, X), height=4))
    votes_.count(votes(1, lock_entry(0, Y), height=5))
    votes_.count(votes(2, lock_entry(0, Y), height=9))
    assert votes_.lowest_heights() == {1: 4, 2: 9}
    votes_.drop(votes_.candidates[X])
    assert votes_.lowest_heights() == {1: 5, 2: 9}


# --- our own votes --------------------------------------------------------------------------------


def test_v8_one_lock_for_each_view() -> None:
    slot = Slot()
    slot.lock(0, X)
    slot.lock(0, X)
    slot.lock(1, Y)
    with pytest.raises(InvalidOperation) as caught:
        slot.lock(0, Y)
    assert caught.value.rule == "locked"


def test_one_commit_for_each_view() -> None:
    slot = Slot()
    assert slot.commit(0, X)
    assert not slot.commit(0, X)
    with pytest.raises(InvalidOperation) as caught:
        slot.commit(0, Y)
    assert caught.value.rule == "committed"
