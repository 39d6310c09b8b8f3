"""The end of an epoch at one validator, without any network: HANDOFFs fetched and judged, COMMITTEEs made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from ainp2p.errors import InvalidOperation, NotYet
from ainp2p.ledger.rules import accounts
from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.rules.operations import (
    NextCommittee,
    ParsedOperation,
    account_id,
    parse,
    sign_operation,
    unsigned_operation,
)
from ainp2p.ledger.rules.state import State, Undo
from ainp2p.ledger.voting.attachments import attachment_id
from ainp2p.ledger.voting.committee_chain import end_epoch
from ainp2p.ledger.voting.epochs import GATHER_MS, TURN_MS, Closing, Epochal, Verdict
from ainp2p.ledger.voting.evidence import Offence
from ainp2p.ledger.voting.handoff import Head, Leaving, SlotId, make_handoff
from ainp2p.ledger.voting.visiting import Applied, visiting
from ainp2p.protocol.codec import encode
from ainp2p.protocol.identity import Key

from ..certifying import LOCK, certify
from ..committee_world import committee_genesis, validator_key
from ..world import NOW, inception_of, key_of

NAMES = ("alice", "bob", "carol")


class Member:
    """One validator's state and what it has applied of the epoch."""

    def __init__(self, parliament: Parliament, index: int) -> None:
        self.index, self.parliament = index, parliament
        self.state = State(parliament.genesis)
        self.applied: list[Applied] = []
        self.heads: dict[bytes, Head] = {}
        self.prepared: dict[SlotId, bytes] = {}
        self.closing: Closing | None = None

    def apply(self, *operations: ParsedOperation) -> None:
        for parsed in operations:
            undos: list[Undo] = []
            self.state.apply(parsed, None, undos)
            self.applied.append(Applied(parsed, undos[0]))
            self.heads[parsed.operation.object] = (parsed.operation.seq, parsed.id)

    def close(self) -> list[bytes]:
        """END-EPOCH is final here: freeze, and hand over."""
        house = self.parliament
        self.state.apply(house.end)
        self.closing = Closing(house.setting, self.heads, house.operations.get)
        leaving = Leaving(self.heads, self.prepared, {})
        key = house.keys[self.index]
        return make_handoff(house.network, 0, key.public, 1, 4, leaving, key)


class Parliament:
    """Four validators at the end of epoch 0."""

    def __init__(self, weights: tuple[int, ...] = (1, 1, 1, 1)) -> None:
        self.genesis = committee_genesis(weights, NAMES)
        self.network = self.genesis.network_id
        self.committee = Committee.of(self.genesis)
        by_key = {validator_key(i).public: validator_key(i) for i in range(len(weights))}
        self.keys: list[Key] = [by_key[key] for key in self.committee.keys]
        self.end = parse(unsigned_operation(end_epoch(self.network, 0, self.network)))
        self.setting = Epochal(self.network, 0, self.committee, lambda _: self.committee, self.end.id)
        self.ids = {name: account_id(self.network, inception_of(name)) for name in NAMES}
        self.operations: dict[bytes, ParsedOperation] = {}
        self.drafts = State(self.genesis)
        self.members = [Member(self, i) for i in range(len(weights))]
        self.attachments: dict[bytes, bytes] = {}
        self.handed: list[list[bytes]] = []

    def spend(self, name: str, to: str = "bob", amount: int = 5, *, final: bool = True) -> ParsedOperation:
        id_ = self.ids[name]
        account = self.drafts.accounts.get(id_) or accounts.unopened_account(self.network, inception_of(name))
        operation = accounts.spend(
            account,
            self.drafts.credits_of(id_),
            self.genesis.parameters,
            network=self.network,
            now_ms=NOW,
            outs=[(self.ids[to], amount)],
            inception=None if account.seq else inception_of(name),
        )
        parsed = parse(sign_operation(operation, key_of(name)))
        self.operations[parsed.id] = parsed
        if final:
            self.drafts.apply(parsed)
        return parsed

    def prepared(self, parsed: ParsedOperation) -> bytes:
        return certify(self.keys, self.network, parsed.id, kind=LOCK)

    def close(self) -> None:
        """END-EPOCH is final everywhere; nobody has heard of anybody yet."""
        self.handed = [member.close() for member in self.members]

    def tell(self, to: int, whose: int) -> None:
        """The HANDOFF record of one reaches another, with the attachments."""
        closing = self.closing(to)
        closing.recorded(whose, self.id_of(whose))
        for raw in self.handed[whose]:
            closing.attached(raw)

    def show(self, to: int, whose: int) -> None:
        """One shows another where its frontier differs, and everything that it has more."""
        closing, theirs = self.closing(to), self.members[whose].heads
        mine = self.members[to].heads
        differing = {
            o: theirs.get(o, (0, o)) for o in mine.keys() | theirs.keys() if mine.get(o) != theirs.get(o)
        }
        if any(wanted.handoff == self.id_of(whose) for wanted in closing.frontiers_wanted):
            closing.take_frontier(self.id_of(whose), differing)
        while wanted := [id_ for id_, _ in closing.operations_wanted]:
            for id_ in wanted:
                closing.take_decided(self.operations[id_], b"certificate", 0)

    def meet(self) -> None:
        for to in range(len(self.members)):
            for whose in range(len(self.members)):
                self.tell(to, whose)
                self.show(to, whose)

    def closing(self, member: int) -> Closing:
        closing = self.members[member].closing
        assert closing is not None
        return closing

    def id_of(self, member: int) -> bytes:
        return attachment_id(self.handed[member][0])

    def propose(self, member: int, evidence: dict[bytes, Offence] | None = None) -> ParsedOperation:
        state, recent = self.members[member].state, self.members[member].applied
        signed = self.closing(member).propose(
            self.keys[member], state, recent, evidence or {}, self.attachments.get, NOW + 10
        )
        assert signed is not None
        return parse(signed)

    def judge(self, member: int, proposed: ParsedOperation | NextCommittee) -> Verdict:
        body = proposed if isinstance(proposed, NextCommittee) else proposed.operation.body
        assert isinstance(body, NextCommittee)
        found = self.members[member]
        before = found.state.root(), found.state.operations
        try:
            return self.closing(member).judge(
                body, NOW + 10, found.state, found.applied, self.attachments.get
            )
        finally:
            assert (found.state.root(), found.state.operations) == before
            assert found.state.recount() == found.state.supply()


def body_of(parsed: ParsedOperation) -> NextCommittee:
    assert isinstance(parsed.operation.body, NextCommittee)
    return parsed.operation.body


@pytest.fixture
def house() -> Parliament:
    return Parliament()


# --- agreeing -----------------------------------------------------------------------------------------


def test_equal_members_agree_on_a_committee(house: Parliament) -> None:
    one = house.spend("alice")
    for member in house.members:
        member.apply(one)
    house.close()
    house.meet()
    proposed = house.propose(2)
    for each in range(4):
        assert house.judge(each, proposed).missing == ()
    house.members[0].state.check_committee = lambda _: None
    house.members[0].state.check(proposed, NOW + 10)  # and the state finds nothing wrong with it


def test_who_is_behind_fetches_and_computes_the_same_root(house: Parliament) -> None:
    one, two, three = house.spend("alice"), house.spend("alice"), house.spend("carol")
    house.members[0].apply(one, two)
    house.members[1].apply(one)
    house.members[2].apply(three)
    house.close()
    house.meet()
    proposals = [house.propose(member) for member in range(4)]
    assert len({body_of(parsed).state_root for parsed in proposals}) == 1
    for member in range(4):
        house.judge(member, proposals[3])
    assert {certain.parsed.id for certain in house.judge(3, proposals[0]).missing} == {
        one.id,
        two.id,
        three.id,
    }


def test_who_is_ahead_of_the_set_takes_back_what_it_has_more(house: Parliament) -> None:
    one, more = house.spend("alice"), house.spend("alice")
    spent = house.spend("bob", "carol")  # builds on alice's credits
    for member in house.members:
        member.apply(one)
    house.members[3].apply(more, spent)
    house.close()
    for whose in range(3):
        house.tell(0, whose)
    proposed = house.propose(0)
    for whose in range(3):
        house.tell(3, whose)
        house.show(3, whose)
    assert body_of(proposed).state_root not in (house.members[3].state.root(), b"")
    assert house.judge(3, proposed).missing == ()


def test_who_is_ahead_and_cannot_take_it_back_waits(house: Parliament) -> None:
    house.members[3].apply(house.spend("alice"))
    house.close()
    for to in (0, 3):
        for whose in range(3):
            house.tell(to, whose)
            house.show(to, whose)
    house.members[3].applied.clear()
    with pytest.raises(NotYet, match="too long ago"):
        house.judge(3, house.propose(0))


def test_prepared_slots_of_the_set_start_at_view_one_everywhere(house: Parliament) -> None:
    first = house.spend("alice")
    for member in house.members:
        member.apply(first)
    hanging = house.spend("alice", final=False)
    house.members[1].prepared[house.ids["alice"], 2] = house.prepared(hanging)
    house.close()
    house.meet()
    proposed = house.propose(0)
    for each in range(4):
        prepared = house.judge(each, proposed).union.prepared
        assert {slot: p.operation for slot, p in prepared.items()} == {(house.ids["alice"], 2): hanging.id}


def test_what_a_handoff_has_prepared_is_held_aside_where_its_slot_is_over(house: Parliament) -> None:
    rival, one = house.spend("alice", final=False), house.spend("alice", amount=6)
    house.members[0].apply(one)
    house.members[1].prepared[house.ids["alice"], 1] = house.prepared(rival)
    house.close()
    del house.operations[rival.id]  # whoever has decided the other one holds no candidate any more
    closing = house.closing(0)
    house.tell(0, 1)
    closing.take_frontier(house.id_of(1), {house.ids["alice"]: (0, house.ids["alice"])})
    assert [id_ for id_, _ in closing.operations_wanted] == [rival.id]
    assert 1 not in closing.usable
    closing.aside[rival.id] = rival
    assert closing.operations_wanted == []
    assert 1 in closing.usable


def test_a_slot_that_somebody_in_the_set_decided_is_not_started_again(house: Parliament) -> None:
    one = house.spend("alice")
    house.members[0].apply(one)
    house.members[1].prepared[house.ids["alice"], 1] = house.prepared(one)
    house.close()
    house.meet()
    assert house.judge(2, house.propose(3)).union.prepared == {}


# --- refusing -----------------------------------------------------------------------------------------


def test_a_handoff_that_is_not_fetched_is_waited_for(house: Parliament) -> None:
    house.members[0].apply(house.spend("alice"))
    house.close()
    house.meet()
    proposed = house.propose(0)
    late = Parliament()
    late.operations = house.operations
    late.close()
    late.handed = house.handed
    with pytest.raises(NotYet, match="handoffs"):
        late.judge(1, proposed)  # nothing is recorded
    closing = late.closing(1)
    for whose in range(4):
        closing.recorded(whose, late.id_of(whose))
    assert len(closing.attachments_wanted) == 4
    for whose in range(4):
        closing.attached(late.handed[whose][0])
    assert [wanted.member for wanted in closing.frontiers_wanted] == [late.keys[0].public]
    with pytest.raises(NotYet, match="handoffs"):
        late.judge(1, proposed)  # its frontier is not here
    closing.take_frontier(late.id_of(0), house.members[0].heads)
    (wanted,) = closing.operations_wanted
    with pytest.raises(NotYet, match="handoffs"):
        late.judge(1, proposed)  # its operations are not here
    closing.take_decided(house.operations[wanted[0]], b"", 0)
    late.judge(1, proposed)


def test_a_frontier_that_does_not_make_the_root_is_refused(house: Parliament) -> None:
    one = house.spend("alice")
    house.members[0].apply(one)
    house.close()
    house.tell(1, 0)
    for heads in ({}, {house.ids["alice"]: (2, one.id)}, {house.ids["bob"]: (1, one.id)}):
        with pytest.raises(InvalidOperation, match="root"):
            house.closing(1).take_frontier(house.id_of(0), heads)
    house.closing(1).take_frontier(house.id_of(0), {house.ids["alice"]: (1, one.id)})


def agreed(house: Parliament) -> NextCommittee:
    one = house.spend("alice")
    house.members[0].apply(one)
    house.members[1].apply(one)
    house.close()
    house.meet()
    return body_of(house.propose(0))


def of_too_few(house: Parliament, body: NextCommittee) -> dict[str, Any]:
    return {"handoffs": body.handoffs[:2]}


def of_an_unknown_handoff(house: Parliament, body: NextCommittee) -> dict[str, Any]:
    return {"handoffs": tuple(sorted((*body.handoffs[:3], bytes(32))))}


def with_another_root(house: Parliament, body: NextCommittee) -> dict[str, Any]:
    return {"state_root": house.members[2].state.root()}


def with_more_weight(house: Parliament, body: NextCommittee) -> dict[str, Any]:
    heavier = msgspec.structs.replace(body.seats[0], weight=2)
    return {"seats": (heavier, *body.seats[1:])}


def with_a_seat_less(house: Parliament, body: NextCommittee) -> dict[str, Any]:
    return {"seats": body.seats[1:]}


def with_an_offender_without_evidence(house: Parliament, body: NextCommittee) -> dict[str, Any]:
    return {"offenders": (house.keys[3].public,)}


def with_evidence_that_nobody_has(house: Parliament, body: NextCommittee) -> dict[str, Any]:
    return {"evidence": (b"e" * 32,), "offenders": (house.keys[3].public,)}


def with_evidence_of_nothing(house: Parliament, body: NextCommittee) -> dict[str, Any]:
    house.attachments[b"e" * 32] = encode(b"nothing")
    return {"evidence": (b"e" * 32,), "offenders": (house.keys[3].public,)}


def with_a_bond_that_is_none(house: Parliament, body: NextCommittee) -> dict[str, Any]:
    return {"returned_bonds": (b"b" * 32,)}


@pytest.mark.parametrize(
    "lie",
    [
        of_too_few,
        of_an_unknown_handoff,
        with_another_root,
        with_more_weight,
        with_a_seat_less,
        with_an_offender_without_evidence,
        with_evidence_that_nobody_has,
        with_evidence_of_nothing,
        with_a_bond_that_is_none,
    ],
)
def test_a_committee_that_says_something_else_is_not_locked(
    house: Parliament, lie: Callable[[Parliament, NextCommittee], dict[str, Any]]
) -> None:
    body = agreed(house)
    house.judge(3, body)
    with pytest.raises(InvalidOperation):
        house.judge(3, msgspec.structs.replace(body, **lie(house, body)))


def test_a_set_of_fewer_handoffs_has_its_own_root(house: Parliament) -> None:
    """Exactly the union of the named set: one of all members' is another one."""
    one = house.spend("alice")
    house.members[0].apply(one)
    house.close()
    house.meet()
    body = body_of(house.propose(1))
    without = tuple(sorted(house.id_of(m) for m in (1, 2, 3)))
    with pytest.raises(InvalidOperation, match="state-root"):
        house.judge(0, msgspec.structs.replace(body, handoffs=without))


def test_of_a_member_with_two_handoffs_whichever_is_named_counts(house: Parliament) -> None:
    """It shows different logs to different others: they can judge each other's COMMITTEEs all the same."""
    house.close()
    house.meet()
    key = house.keys[0]
    other = make_handoff(house.network, 0, key.public, 9, 4, Leaving({}, {}, {}), key)
    late = Parliament()
    late.close()
    late.handed = [other, *house.handed[1:]]
    late.meet()
    proposed = late.propose(1)
    assert first_id(other) in body_of(proposed).handoffs
    with pytest.raises(NotYet, match="handoffs"):
        house.judge(2, proposed)
    (wanted,) = house.closing(2).attachments_wanted
    assert wanted[0] == first_id(other)
    assert house.closing(2).attached(other[0])
    house.judge(2, proposed)
    assert len(house.closing(2).usable) == 4
    assert first_id(house.handed[0]) != first_id(other)


def test_a_handoff_that_its_member_did_not_sign_does_not_count(house: Parliament) -> None:
    house.close()
    house.meet()
    forged = make_handoff(house.network, 0, house.keys[0].public, 9, 4, Leaving({}, {}, {}), house.keys[1])
    body = body_of(house.propose(1))
    ids = tuple(sorted({*body.handoffs, first_id(forged)} - {house.id_of(0)}))
    named = msgspec.structs.replace(body, handoffs=ids)
    with pytest.raises(NotYet):
        house.judge(2, named)
    assert house.closing(2).attached(forged[0])
    with pytest.raises(InvalidOperation, match="not what it should be"):
        house.judge(2, named)


def first_id(handed: list[bytes]) -> bytes:
    return attachment_id(handed[0])


def test_a_handoff_of_garbage_is_of_no_use_and_blocks_nobody(house: Parliament) -> None:
    house.close()
    house.handed[3] = [b"garbage"]
    house.meet()
    assert house.closing(0).usable.keys() == {0, 1, 2}
    house.judge(1, house.propose(0))


def test_an_operation_prepared_in_a_slot_that_is_not_its_own_spoils_the_handoff(house: Parliament) -> None:
    hanging = house.spend("alice", final=False)
    house.members[3].prepared[house.ids["bob"], 1] = house.prepared(hanging)
    house.close()
    house.meet()
    assert house.closing(0).usable.keys() == {0, 1, 2}


# --- whose turn ---------------------------------------------------------------------------------------


def test_members_propose_in_turn(house: Parliament) -> None:
    house.close()
    assert house.closing(0).propose_at(0, NOW) is None  # not even our own is recorded
    house.meet()
    times = sorted(at for m in range(4) if (at := house.closing(0).propose_at(m, NOW)) is not None)
    assert times == [NOW + TURN_MS * turn for turn in range(4)]


def test_the_first_in_turn_waits_a_little_for_the_last_handoffs(house: Parliament) -> None:
    house.close()
    for whose in range(3):
        house.tell(0, whose)
    times = [at for m in range(4) if (at := house.closing(0).propose_at(m, NOW)) is not None]
    assert min(times) == NOW + GATHER_MS


# --- visiting -----------------------------------------------------------------------------------------


def test_a_visited_state_is_left_as_it_was_found(house: Parliament) -> None:
    one, two = house.spend("alice"), house.spend("bob", "carol")
    member = house.members[0]
    member.apply(one)
    before = member.state.root()
    with visiting(member.state, member.applied, []):
        assert member.state.root() == house.members[1].state.root()
    with visiting(member.state, [], [two]):
        assert member.state.root() == house.drafts.root()
    with pytest.raises(NotYet), visiting(house.members[1].state, [], [two]):
        pass  # it builds on one
    assert member.state.root() == before
    assert house.members[1].state.root() == house.members[2].state.root()


def test_mutant_a_root_of_whatever_one_has(house: Parliament, monkeypatch: pytest.MonkeyPatch) -> None:
    """The defence off: not exactly the union, but one's own state; then members behind and ahead differ."""
    one = house.spend("alice")
    house.members[0].apply(one)
    house.close()
    house.meet()
    right = house.propose(0)
    monkeypatch.setattr(
        Closing, "_after", lambda self, v, state, r, out, at: (state.root(), state.succession(out, at))
    )
    with pytest.raises(InvalidOperation, match="state-root"):
        house.judge(1, right)


def test_mutant_handoffs_of_less_than_a_quorum(house: Parliament, monkeypatch: pytest.MonkeyPatch) -> None:
    house.close()
    house.meet()
    body = body_of(house.propose(0))
    few = msgspec.structs.replace(body, handoffs=body.handoffs[:1])
    with pytest.raises(InvalidOperation, match="no quorum"):
        house.judge(1, few)
    monkeypatch.setattr(Committee, "weight_of", lambda self, members: self.total)
    house.judge(1, few)
