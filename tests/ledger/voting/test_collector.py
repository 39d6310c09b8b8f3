"""What a validator sees anyway is enough to find every offence; what correct validators do, is none."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ainp2p.ledger.rules.operations import ParsedOperation, SignedOperation, parse
from ainp2p.ledger.voting import collector as module
from ainp2p.ledger.voting.collector import (
    BATCHES_PER_MEMBER,
    FILES_MAX,
    FILES_PER_MEMBER,
    FORGET_AFTER,
    LOCKS_MAX,
    NEWVIEWS_MAX,
    RIVALS_MAX,
    SLOTS_MAX,
    Collector,
    counted_votes,
)
from ainp2p.ledger.voting.evidence import (
    BELOW_NEWVIEW,
    FORGOTTEN_COMMIT,
    MALFORMED_LOCK,
    TWO_BATCHES,
    TWO_LOCKS,
    TWO_OPERATIONS,
    Evidence,
    Offence,
    verify_evidence,
)
from ainp2p.ledger.voting.slot import VoteTable
from ainp2p.ledger.voting.votelog import (
    ENTRIES_MAX,
    VoteBatch,
    commit_entry,
    lock_entry,
    newview_entry,
    propose_entry,
)
from tests.ledger.accused import (
    COMMITTEE,
    CULPRIT,
    ELSEWHERE,
    EPOCH,
    FIRST,
    KEYS,
    NETWORK,
    SECOND,
    WORLD,
    Log,
    commit,
    id_of,
    judge,
    lock,
    newview,
    refund,
)
from tests.ledger.bench import Bench
from tests.ledger.committee_world import CommitteeWorld, Faults
from tests.ledger.offences import ALICE, BROKEN, later
from tests.ledger.world import changed


class Desk:
    """A collector beside a table that counts, as in a validator; everything found is judged at once."""

    def __init__(self, *, alone: bool = False) -> None:
        self.table = VoteTable(COMMITTEE, decided_max=100)
        self.batches: dict[tuple[int, int], VoteBatch] = {}
        self.found: list[Evidence] = []
        self.collector = (
            Collector(COMMITTEE, NETWORK, epoch=EPOCH)
            if alone
            else Collector(
                COMMITTEE,
                NETWORK,
                epoch=EPOCH,
                votes=counted_votes(self.table),
                batch=lambda member, height: self.batches[member, height],
                key_of=self.key_of,
            )
        )

    @staticmethod
    def key_of(parsed: ParsedOperation) -> bytes | None:
        return ALICE if parsed.operation.object == WORLD.ids["alice"] else None

    def note(self, found: list[Evidence]) -> None:
        for evidence in found:
            judge(evidence)
        self.found += found

    def hold(self, *operations: SignedOperation) -> None:
        for signed in operations:
            self.table.hold(parse(signed))
            self.note(self.collector.take_operation(parse(signed)))

    def hear(self, *batches: VoteBatch) -> None:
        for batch in batches:
            self.batches[batch.member, batch.header.height] = batch
            self.note(self.collector.take_batch(batch))
            self.table.count(batch)

    @property
    def offences(self) -> list[tuple[int, bytes]]:
        return sorted((evidence.kind, evidence.culprit) for evidence in self.found)


GUILTY = KEYS[CULPRIT].public


def other_refund() -> SignedOperation:
    """Of the same slot as `refund()`, and another operation."""
    return SignedOperation(changed(parse(refund()).operation, "anybody", previous=b"q" * 32).raw, (), None)


def contested() -> tuple[Desk, Log]:
    """A slot with two operations that need no owner, and a member who may vote for both."""
    desk = Desk()
    desk.hold(refund(), other_refund())
    return desk, Log()


def test_two_locks_are_found_when_the_second_operation_comes_last() -> None:
    desk, log = Desk(), Log()
    desk.hold(FIRST)
    desk.hear(log.says(lock(FIRST)), log.says(lock(SECOND)))
    assert desk.found == []
    desk.hold(SECOND)
    assert desk.offences == [(TWO_LOCKS, GUILTY), (TWO_OPERATIONS, ALICE)]


def test_two_locks_are_found_when_the_operations_are_known() -> None:
    for alone in (False, True):
        desk, log = Desk(alone=alone), Log()
        desk.hold(refund(seq=2))
        rival = other_refund()
        desk.hold(rival)
        desk.hear(log.says(lock(refund(seq=2), 4)), log.says(lock(rival, 3)), log.says(lock(rival, 4)))
        assert desk.offences == [(TWO_LOCKS, GUILTY)]


def test_two_locks_are_found_in_one_batch() -> None:
    desk, log = contested()
    desk.hear(log.says(lock(refund()), lock(other_refund())))
    assert desk.offences == [(TWO_LOCKS, GUILTY)]


def test_justified_locks_count_too() -> None:
    desk, log = contested()
    desk.hear(log.says(lock(refund(), 1, b"j" * 32)), log.says(lock(other_refund(), 1, b"k" * 32)))
    assert desk.offences == [(TWO_LOCKS, GUILTY)]


def test_a2_an_owner_that_signs_two_is_found() -> None:
    desk = Desk()
    desk.hold(FIRST, SECOND)
    assert desk.offences == [(TWO_OPERATIONS, ALICE)]


def test_a2_an_owner_is_found_in_a_later_slot_where_the_key_is_not_in_the_operation() -> None:
    one = later(5)
    two = changed(parse(one).operation, "alice", body_fee=9)
    desk = Desk()
    desk.hold(one, two)
    assert desk.offences == [(TWO_OPERATIONS, ALICE)]


def test_an_owner_whose_rival_was_forged_is_not_blamed_until_the_good_proof_comes() -> None:
    forged = SignedOperation(SECOND.raw, (bytes(64),), None)
    desk = Desk()
    desk.hold(FIRST)
    desk.note(desk.collector.take_operation(parse(forged)))
    assert desk.found == []
    desk.note(desk.collector.take_operation(parse(SECOND)))
    assert desk.offences == [(TWO_OPERATIONS, ALICE)]


@pytest.mark.parametrize("alone", [False, True])
def test_a_vote_below_a_newview_is_found(alone: bool) -> None:
    desk, log = Desk(alone=alone), Log()
    desk.hold(FIRST)
    desk.hear(log.says(newview(2)), log.says(lock(FIRST, 1, b"j" * 32)))
    assert desk.offences == [(BELOW_NEWVIEW, GUILTY)]


def test_a_vote_below_a_newview_is_found_when_its_operation_comes_last() -> None:
    desk, log = Desk(), Log()
    desk.hear(log.says(newview(2)), log.says(commit(FIRST, 1)), log.says(newview(7, (6, FIRST))))
    assert desk.found == []
    desk.hold(FIRST)
    assert desk.offences == [(BELOW_NEWVIEW, GUILTY)]


def test_a_forgotten_commit_is_found() -> None:
    desk, log = Desk(), Log()
    desk.hold(FIRST)
    desk.hear(log.says(lock(FIRST), commit(FIRST)), log.says(newview(1)))
    assert desk.offences == [(FORGOTTEN_COMMIT, GUILTY)]


def test_a_forgotten_commit_is_found_when_its_operation_comes_last() -> None:
    desk, log = Desk(), Log()
    desk.hear(log.says(commit(FIRST, 2)), log.says(newview(3, (1, FIRST))))
    desk.hold(FIRST)
    assert desk.offences == [(FORGOTTEN_COMMIT, GUILTY)]


def test_a3_two_batches_are_shown_by_their_headers() -> None:
    desk = Desk()
    one, two = Log().says(lock(FIRST)), Log().says(lock(SECOND))
    desk.note(desk.collector.take_two_batches(one, one))
    desk.note(desk.collector.take_two_batches(one, Log(1).says()))
    assert desk.found == []
    desk.note(desk.collector.take_two_batches(two, one))
    desk.note(desk.collector.take_two_batches(one, two))
    assert desk.offences == [(TWO_BATCHES, GUILTY)]
    assert sum(map(len, desk.found[0].items)) < 500


def test_a_lock_for_malformed_bytes_is_found_when_they_are_fetched() -> None:
    desk, log = Desk(), Log()
    id_ = id_of(SignedOperation(BROKEN, (), None))
    desk.hear(log.says(lock_entry(0, id_)))
    desk.note(desk.collector.take_malformed(FIRST.raw))
    assert desk.found == []
    desk.note(desk.collector.take_malformed(BROKEN))
    assert desk.offences == [(MALFORMED_LOCK, GUILTY)]


def test_each_offence_is_told_once() -> None:
    desk, log = contested()
    for view in range(5):
        desk.hear(log.says(lock(refund(), view), lock(other_refund(), view)))
    assert desk.offences == [(TWO_LOCKS, GUILTY)]


# --- what is no offence -----------------------------------------------------------------------------------


def test_correct_votes_in_a_contested_slot_are_none() -> None:
    desk, log = contested()
    desk.hear(
        log.says(lock(refund()), lock(refund())),
        log.says(commit(refund())),
        log.says(newview(1, (0, refund()), (b"l" * 32, 2))),
        log.says(lock(refund(), 1, b"j" * 32), commit(refund(), 1)),
        log.says(newview(3, (1, refund()), (b"l" * 32, 2))),
    )
    assert desk.found == []


def test_votes_of_several_validators_are_not_mixed_up() -> None:
    desk, logs = Desk(), [Log(member) for member in range(4)]
    desk.hold(refund(), other_refund())
    desk.hear(logs[0].says(lock(refund())), logs[1].says(lock(other_refund())))
    desk.hear(logs[2].says(newview(1, None, (b"l" * 32, 2))), logs[3].says(lock(refund())))
    assert desk.found == []


def play(world: CommitteeWorld) -> list[Evidence]:
    """Whatever correct validators have said, shown to a collector in an order in which it may arrive."""
    batches = {(b.member, b.header.height): b for node in world.nodes for b in node.batches}
    table = VoteTable(world.committee, decided_max=10_000)
    collector = Collector(
        world.committee,
        world.network,
        votes=counted_votes(table),
        batch=lambda member, height: batches[member, height],
    )
    found: list[Evidence] = []
    for parsed in world.auditor.operations.values():
        table.hold(parsed)
        found += collector.take_operation(parsed)
    for batch in sorted(batches.values(), key=lambda each: (each.header.timestamp, each.header.height)):
        found += collector.take_batch(batch)
        table.count(batch)
    return found


@pytest.mark.parametrize("seed", range(6))
def test_a2_only_the_owner_is_blamed_for_a_contested_slot_whatever_the_network_does(seed: int) -> None:
    world = CommitteeWorld(seed=seed)
    world.faults = Faults(loss=0.1, double=0.2, delay_ms=(1, 300))
    world.run(1_000)
    world.auditor.cheats.add(world.ids["alice"])
    one, two = (world.spend("alice", [("bob", amount)]) for amount in (5, 6))
    world.submit(one, [0, 1])
    world.submit(two, [2, 3])
    world.submit(world.spend("bob", [("carol", 1)]))
    world.run(3_000)
    world.crash(seed % 4)
    world.run(500)
    world.start(seed % 4)
    world.run(20_000)
    assert [(each.kind, each.culprit) for each in play(world)] == [(TWO_OPERATIONS, ALICE)]


def test_a_validator_finds_what_its_collector_finds() -> None:
    bench = Bench()
    signed = bench.spend("alice", [("bob", 5)])
    id_ = id_of(signed)
    bench.give(signed)
    slot = (bench.ids["alice"], 1)
    above = newview_entry(2, *slot, None, id_)
    for entries in ((commit_entry(0, id_), above), (lock_entry(1, id_, b"j" * 32),)):
        bench.note(bench.validator.handle_batch(bench.batch(3, *entries), bench.now))
    found = [verify_evidence(each, bench.network, lambda _: bench.committee) for each in bench.out.evidence]
    guilty = bench.keys[3].public
    assert found == [Offence(FORGOTTEN_COMMIT, guilty, 0), Offence(BELOW_NEWVIEW, guilty, 0)]


# --- bounds -----------------------------------------------------------------------------------------------


def test_what_is_uncontested_leaves_nothing_behind() -> None:
    desk, log = Desk(), Log()
    for signed in (FIRST, ELSEWHERE):
        desk.hold(signed)
        desk.hear(log.says(lock(signed), commit(signed)))
        parsed = parse(signed).operation
        desk.collector.forget((parsed.object, parsed.seq))
    assert (len(desk.collector), desk.collector._single, desk.collector._watched) == (0, {}, {})


def test_uncontested_votes_are_not_even_read(monkeypatch: pytest.MonkeyPatch) -> None:
    desk, log = Desk(), Log()
    desk.hold(FIRST)
    monkeypatch.setattr(module, "read_votes", lambda _: pytest.fail("read"))
    desk.hear(log.says(lock(FIRST), commit(FIRST), commit(FIRST, 3)))


def test_a_late_lock_in_a_decided_slot_is_noticed_for_a_while() -> None:
    for late in (False, True):
        desk, log = contested()
        desk.hear(log.says(lock(refund())))
        desk.collector.forget((b"l" * 32, 2))
        if late:
            for _ in range(FORGET_AFTER):
                desk.collector.take_batch(Log(1).says())
            assert len(desk.collector) == 0
        desk.hear(log.says(lock(other_refund())))
        assert desk.offences == ([] if late else [(TWO_LOCKS, GUILTY)])


def flood(log: Log, entries: Iterable[bytes]) -> Iterable[VoteBatch]:
    waiting: list[bytes] = []
    for entry in entries:
        waiting.append(entry)
        if len(waiting) == ENTRIES_MAX:
            yield log.says(*waiting)
            waiting.clear()


def test_newviews_for_slots_that_do_not_exist_fill_a_members_own_share_only() -> None:
    desk = Desk(alone=True)
    desk.hold(refund(), other_refund())
    made = (newview_entry(1, i.to_bytes(32, "big"), 1, None, None) for i in range(20 * ENTRIES_MAX))
    for batch in flood(Log(), made):
        desk.note(desk.collector.take_batch(batch))
    assert len(desk.collector) <= FILES_PER_MEMBER + 1
    assert (b"l" * 32, 2) in desk.collector._files


def test_newviews_and_locks_in_many_views_of_one_slot_are_bounded() -> None:
    desk = Desk(alone=True)
    desk.hold(refund(), other_refund())
    views = [lock(refund(), view, b"j" * 32) for view in range(1, 4 * ENTRIES_MAX + 1)]
    slot = (b"l" * 32, 2)
    for batch in flood(Log(), [*views, *(newview(view, None, slot) for view in range(1, 513))]):
        desk.note(desk.collector.take_batch(batch))
    log = desk.collector._files[slot].logs[CULPRIT]
    assert (len(log.locks), len(log.newviews)) == (LOCKS_MAX, NEWVIEWS_MAX)
    assert len(desk.collector._recent[CULPRIT]) <= BATCHES_PER_MEMBER


def test_operations_and_files_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLOTS_MAX", 50)
    monkeypatch.setattr(module, "FILES_MAX", 20)
    collector = Collector(COMMITTEE, NETWORK)
    for i in range(100):
        collector.take_operation(parse(refund((1_000 + i).to_bytes(32, "big"))))
    assert len(collector._single) == 50
    for i in range(100):
        for previous in range(RIVALS_MAX + 5):
            operation = parse(refund((1_000 + i).to_bytes(32, "big"))).operation
            rival = changed(operation, "anybody", previous=bytes([previous]) * 32)
            collector.take_operation(parse(SignedOperation(rival.raw, (), None)))
    assert len(collector) == 20
    assert len(collector._watched) == 20 * RIVALS_MAX
    assert FILES_MAX * 2 < SLOTS_MAX


def test_a_proposal_and_a_contradiction_are_passed_over() -> None:
    desk = Desk(alone=True)
    desk.hold(refund(), other_refund())
    odd = newview_entry(1, b"l" * 32, 2, (5, b"x" * 32), None)
    desk.hear(Log().says(propose_entry(1, b"x" * 32, b"j" * 32, b"l" * 32, 2), odd))
    assert desk.found == []


def test_evidence_that_cannot_be_shown_any_more_is_left() -> None:
    desk, log = Desk(), Log()
    desk.hold(refund())
    desk.hear(log.says(lock(refund())), log.says(lock(other_refund())))
    desk.batches.clear()
    desk.hold(other_refund())
    assert desk.found == []


# --- any order --------------------------------------------------------------------------------------------

EVENTS = [
    lock(refund()),
    lock(other_refund()),
    lock(refund(), 1),
    commit(refund(), 1),
    commit(other_refund(), 2),
    newview(1, None, (b"l" * 32, 2)),
    newview(2, (1, refund()), (b"l" * 32, 2)),
    newview(3, None, (b"l" * 32, 2)),
]


def guilty_of(entries: list[bytes]) -> set[int]:
    """The same by the definition, looking at each pair."""
    kinds = set()
    for after in range(len(entries)):
        for before in range(after):
            a, b = entries[before], entries[after]
            view = [int.from_bytes(each[1:5], "big") for each in (a, b)]
            if a[0] == b[0] == 1 and view[0] == view[1] and a != b:
                kinds.add(TWO_LOCKS)
            if a[0] == 4 and b[0] in (1, 2) and view[1] < view[0]:
                kinds.add(BELOW_NEWVIEW)
            if a[0] == 2 and b[0] == 4 and int.from_bytes(b[45:49], "big") <= view[0]:
                kinds.add(FORGOTTEN_COMMIT)
    return kinds


@given(
    st.lists(st.sampled_from(EVENTS), max_size=8, unique=True),  # tables count a repeated vote once
    st.tuples(st.integers(0, 8), st.integers(0, 8)),
)
@settings(max_examples=300, deadline=None)
def test_in_any_order_all_is_found_and_nothing_else(entries: list[bytes], held: tuple[int, int]) -> None:
    desk, log = Desk(), Log()
    for i, entry in enumerate([*entries, b""]):
        if i == min(held[0], len(entries)):
            desk.hold(refund())
        if i == min(held[1], len(entries)):
            desk.hold(other_refund())
        if entry:
            desk.hear(log.says(entry))
    assert {evidence.kind for evidence in desk.found} == guilty_of(entries)
    desk = Desk(alone=True)
    desk.hold(refund(), other_refund())
    desk.hear(Log().says(*entries))
    assert {evidence.kind for evidence in desk.found} == guilty_of(entries)
    desk = Desk()
    desk.hold(refund())
    desk.hear(Log().says(*entries))  # all in one batch
    desk.hold(other_refund())
    assert {evidence.kind for evidence in desk.found} == guilty_of(entries)


# --- planted faults ---------------------------------------------------------------------------------------


def test_mutant_a_collector_that_does_not_ask_for_earlier_votes_misses_them() -> None:
    desk, log = Desk(), Log()
    desk.collector._votes = module.no_votes
    desk.hold(refund())
    desk.hear(log.says(lock(refund())), log.says(lock(other_refund())))
    desk.hold(other_refund())
    assert desk.offences == []


def test_mutant_without_quotas_a_member_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Collector, "_drop_if", lambda *_: None)
    with pytest.raises(AssertionError):
        test_newviews_for_slots_that_do_not_exist_fill_a_members_own_share_only()
