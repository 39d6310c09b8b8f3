"""END-EPOCH and COMMITTEE on a state, and what they do to bonds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from ainp2p.errors import BadSignature, InvalidOperation, NotYet
from ainp2p.ledger.rules.genesis import DEVELOPMENT
from ainp2p.ledger.rules.operations import (
    BONDS_MAX,
    Seat,
    SignedOperation,
    parse,
    purpose_digest,
    sign_committee,
    unsigned_operation,
)
from ainp2p.ledger.rules.receipts import close_operation, refund_operation, settle_operation
from ainp2p.ledger.rules.state import State, Undo, is_gated
from ainp2p.ledger.rules.system import epoch_ends_at

from ..world import NOW, PURSE, World, changed, key_of, with_fields
from .test_state import refusal

VALIDATORS = (("v1", 10), ("v2", 10), ("v3", 10), ("v4", 10))  # 40 in all: 75,000 uain bond one more


@pytest.fixture
def world() -> World:
    """Four validators, and everybody has an account."""
    world = World(validators=VALIDATORS)
    for name in world.names:
        world.do(world.spend(name))
    world.now += 1  # a bond's longest life is an epoch's length: made now, it outlives this one
    return world


@pytest.fixture
def ended(world: World) -> World:
    """Its first epoch is over, and every COMMITTEE fits the HANDOFFs."""
    world.now = NOW + DEVELOPMENT.epoch_ms
    world.do(world.end_epoch())
    world.state.check_committee = lambda parsed: None
    return world


def weights(world: World) -> dict[bytes, int]:
    return {seat.key: seat.weight for seat in world.state.system.committee}


def resigned(world: World, signer: str = "v1", **fields: Any) -> SignedOperation:
    """The next COMMITTEE with other fields, signed well by `signer`."""
    operation = with_fields(parse(world.next_committee("v1")).operation, **fields)
    return sign_committee(operation, key_of(signer))


# --- END-EPOCH ------------------------------------------------------------------------------------


def test_an_epoch_begins_with_the_genesis_and_ends_after_its_length(world: World) -> None:
    system = world.state.system
    assert (system.seq, system.head, system.epoch, system.closed) == (0, world.network, 0, 0)
    assert epoch_ends_at(system) == NOW + DEVELOPMENT.epoch_ms
    signed = world.end_epoch()
    assert is_gated(parse(signed))
    # LEDGER.md, END-EPOCH: "whose timestamp + epoch length ≤ now".
    with pytest.raises(NotYet, match="epoch-running"):
        world.state.check(parse(signed), NOW + DEVELOPMENT.epoch_ms - 1)
    assert world.state.not_before(parse(signed).operation) == NOW + DEVELOPMENT.epoch_ms
    world.now = NOW + DEVELOPMENT.epoch_ms
    changes = world.do(signed)
    assert bool(changes)
    assert changes.system == world.state.system
    assert (world.state.system.closed, world.state.epoch) == (1, 0)
    assert world.state.head(world.network) == (1, parse(signed).id)


def test_an_epoch_is_ended_once_and_by_its_own_number(ended: World) -> None:
    end = first_end(ended)
    with pytest.raises(InvalidOperation, match="sequence"):
        parse(unsigned_operation(with_fields(end, seq=2, previous=ended.state.system.head)))
    head = ended.state.system.head
    assert refusal(ended, unsigned_operation(with_fields(end, seq=3, previous=head, body_epoch=1))) == (
        "sequence-ahead"
    )
    ended.do(ended.next_committee("v1"))
    assert refusal(ended, unsigned_operation(end)) == "sequence"


def test_a_repeat_of_an_end_is_no_error(ended: World) -> None:
    root = ended.state.root()
    assert not ended.state.apply(parse(unsigned_operation(first_end(ended))))
    assert ended.state.root() == root


# --- COMMITTEE ------------------------------------------------------------------------------------


def test_a_committee_opens_the_next_epoch(ended: World) -> None:
    root, signed = ended.state.root(), ended.next_committee("v1")
    assert not is_gated(parse(signed))
    ended.do(signed)
    system = ended.state.system
    assert (system.seq, system.head, system.epoch, system.closed) == (2, parse(signed).id, 1, 0)
    assert (system.opened_at, system.root) == (ended.now, root)
    assert weights(ended) == {key_of(name).public: 10 for name, _ in VALIDATORS}
    assert ended.state.committee(1) == ended.state.committee(0)
    assert ended.state.parameters[1] == DEVELOPMENT
    with pytest.raises(NotYet, match="epoch-ahead"):
        ended.state.committee(2)


def test_accounts_may_name_the_new_epoch_and_the_old_one(ended: World) -> None:
    with pytest.raises(NotYet, match="epoch-ahead"):
        ended.state.check(parse(ended.spend("alice", epoch=1)), ended.now)
    ended.do(ended.next_committee("v1"))
    ended.do(ended.spend("alice", epoch=1))
    ended.do(ended.spend("bob", epoch=0))
    assert refusal(ended, changed(ended.operation("alice", epoch=1), "alice", body_epoch=0)) == "epoch"


def test_epochs_follow_one_another(world: World) -> None:
    for epoch in range(1, 5):
        world.change_epoch(VALIDATORS[epoch % 4][0])
        assert world.state.system.epoch == epoch == world.state.epoch
    assert world.state.system.seq == 8


COMMITTEE_REFUSALS: list[Any] = [
    pytest.param("proposer", {"body_proposer": key_of("mallory").public}, "mallory", id="a stranger's"),
    pytest.param("timestamp", {"timestamp": NOW - 1}, "v1", id="before the epoch began"),
    pytest.param("sequence-ahead", {"seq": 4, "body_epoch": 2}, "v1", id="an epoch skipped"),
    pytest.param("previous", {"previous": b"p" * 32}, "v1", id="another previous"),
    pytest.param("network", {"network": b"n" * 32, "object": b"n" * 32}, "v1", id="another network"),
]


@pytest.mark.parametrize(("rule", "fields", "signer"), COMMITTEE_REFUSALS)
def test_a_committee_that_breaks_a_rule_is_refused(
    ended: World, rule: str, fields: dict[str, Any], signer: str
) -> None:
    assert refusal(ended, resigned(ended, signer, **fields)) == rule


def test_a_committee_that_ends_a_bond_of_the_union_is_voted_for_and_applied_after_it(ended: World) -> None:
    parsed = parse(resigned(ended, "v1", body_burnt_bonds=(b"b" * 32,)))
    assert ended.state.check(parsed, ended.now) is None  # that it exists is seen in the HANDOFFs
    with pytest.raises(NotYet, match="unknown-bond"):
        ended.state.apply(parsed)


def test_a_committee_before_the_epoch_has_ended_is_refused(world: World) -> None:
    operation = parse(world.end_epoch()).operation
    signed = changed_to_committee(world, operation)
    assert refusal(world, signed) == "sequence-ahead"


def changed_to_committee(world: World, end: Any) -> SignedOperation:
    other = World(validators=VALIDATORS)
    other.now = NOW + DEVELOPMENT.epoch_ms
    other.do(other.end_epoch())
    return other.next_committee("v1")


def test_a_committee_is_signed_by_the_proposer_that_it_names(ended: World) -> None:
    with pytest.raises(BadSignature):
        ended.state.check(parse(resigned(ended, "v2")), ended.now)


def test_a_committee_ahead_of_the_clock_waits(ended: World) -> None:
    signed = ended.next_committee("v1")
    with pytest.raises(NotYet, match="clock-ahead"):
        ended.state.check(parse(signed), ended.now - 60_001)


def test_nobody_votes_for_a_committee_without_having_looked_at_the_handoffs(ended: World) -> None:
    signed = ended.next_committee("v1")
    ended.state.check_committee = None
    with pytest.raises(NotYet, match="handoffs"):
        ended.state.check(parse(signed), ended.now)

    def refuse(parsed: Any) -> None:
        raise InvalidOperation("state-root", "is another")

    ended.state.check_committee = refuse
    with pytest.raises(InvalidOperation, match="state-root"):
        ended.state.check(parse(signed), ended.now)
    assert ended.state.apply(parse(signed))  # its certificate says that a quorum has looked


def test_parameters_change_only_to_what_was_agreed(ended: World) -> None:
    dearer = msgspec.structs.replace(DEVELOPMENT, fee_floor=2)
    signed = resigned(ended, body_parameters=dearer)
    with pytest.raises(InvalidOperation, match="parameters"):
        ended.state.check(parse(signed), ended.now)
    ended.state.agreed_parameters = dearer
    with pytest.raises(InvalidOperation, match="parameters"):
        ended.state.check(parse(ended.next_committee("v1")), ended.now)
    ended.do(signed)
    assert ended.state.parameters == {0: DEVELOPMENT, 1: dearer}


SEAT = Seat(key_of("v1").public, 1, ())
BY_THEMSELVES: list[Any] = [
    pytest.param("object", {"object": b"x" * 32}, id="not on the System"),
    pytest.param("timestamp", {"timestamp": None}, id="no timestamp"),
    pytest.param("sequence", {"body_epoch": 2}, id="another epoch's place"),
    pytest.param("seats", {"body_seats": (SEAT, SEAT)}, id="a seat twice"),
    pytest.param("seats", {"body_seats": (Seat(b"k" * 32, 0, ()),)}, id="a seat without weight"),
    pytest.param(
        "overflow",
        {"body_seats": (Seat(b"a" * 32, 2**63 - 1, ()), Seat(b"b" * 32, 1, ()))},
        id="weights overflow",
    ),
    pytest.param("handoffs", {"body_handoffs": (b"h" * 32,) * 2}, id="a HANDOFF twice"),
    pytest.param(
        "evidence",
        {"body_evidence": (b"e" * 32,) * 2, "body_offenders": (b"o" * 32,)},
        id="evidence twice",
    ),
    pytest.param("offenders", {"body_offenders": (b"o" * 32,)}, id="an offender without evidence"),
    pytest.param("offenders", {"body_evidence": (b"e" * 32,)}, id="evidence against nobody"),
    pytest.param(
        "offenders",
        {"body_seats": (SEAT,), "body_evidence": (b"e" * 32,), "body_offenders": (SEAT.key,)},
        id="an offender with a seat",
    ),
    pytest.param("bonds", {"body_burnt_bonds": (b"b" * 32,) * 2}, id="a bond burnt twice"),
    pytest.param("bonds", {"body_returned_bonds": (b"b" * 32,) * 2}, id="a bond returned twice"),
    pytest.param(
        "bonds",
        {"body_burnt_bonds": (b"b" * 32,), "body_returned_bonds": (b"b" * 32,)},
        id="a bond burnt and returned",
    ),
    pytest.param(
        "parameters",
        {"body_parameters": msgspec.structs.replace(DEVELOPMENT, fee_floor=0)},
        id="no fee floor",
    ),
]


@pytest.mark.parametrize(("rule", "fields"), BY_THEMSELVES)
def test_a_committee_that_breaks_a_rule_by_itself_is_refused(
    ended: World, rule: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(InvalidOperation) as caught:
        parse(resigned(ended, **fields))
    assert caught.value.rule == rule


def test_an_end_has_neither_timestamp_nor_proof_and_a_committee_one_signature(ended: World) -> None:
    committee, end = ended.next_committee("v1"), parse(unsigned_operation(first_end(ended)))
    signature = committee.signatures[0]
    for wrong in (
        msgspec.structs.replace(committee, signatures=()),
        msgspec.structs.replace(committee, signatures=(signature,) * 2),
        msgspec.structs.replace(committee, closer=signature),
        msgspec.structs.replace(end.signed, signatures=(signature,)),
    ):
        with pytest.raises(InvalidOperation, match="proof"):
            parse(wrong)
    with pytest.raises(InvalidOperation, match="timestamp"):
        parse(unsigned_operation(with_fields(first_end(ended), timestamp=5)))


def first_end(world: World) -> Any:
    return parse(World(validators=VALIDATORS).end_epoch()).operation


def test_nothing_but_system_operations_is_on_the_system(ended: World) -> None:
    spend = ended.operation("alice")
    wrong = changed(spend, "alice", object=ended.network, seq=2, previous=ended.state.system.head)
    assert refusal(ended, wrong) == "object"
    lock = ended.open_lock()
    settle = parse(settle_operation(lock, ended.receipt(lock, 300)))
    moved = with_fields(settle.operation, object=ended.network, seq=2, previous=b"p" * 32)
    wrong = msgspec.structs.replace(settle.signed, raw=unsigned_operation(moved).raw)
    assert refusal(ended, wrong) == "object"


# --- bonds ----------------------------------------------------------------------------------------


def test_a_bond_adds_weight_in_the_next_epoch(world: World) -> None:
    world.bond("alice", "v1", 150_000)
    world.bond("bob", "v5", 80_000)
    world.change_epoch("v2")
    assert weights(world)[key_of("v1").public] == 12
    assert weights(world)[key_of("v5").public] == 1
    assert len(weights(world)) == 5
    assert world.state.committee(1).total == 43
    assert world.state.supply().total == world.state.minted


def test_too_small_a_bond_is_no_seat(world: World) -> None:
    world.bond("bob", "v5", 74_999)
    world.change_epoch("v2")
    assert key_of("v5").public not in weights(world)


def test_whoever_bonds_less_than_half_of_all_money_has_less_than_a_third(world: World) -> None:
    for name in world.names:
        world.bond(name, "rich", PURSE // 2 - 10)
    world.change_epoch("v2")
    committee = world.state.committee(1)
    assert weights(world)[key_of("rich").public] < committee.minority


def test_a_bond_is_returned_with_the_first_committee_after_its_expiry(world: World) -> None:
    bond = world.bond("bob", "v5", 80_000, expiry=world.now + 1_000_000)
    world.now += 1_000_000
    world.change_epoch("v2")
    assert world.state.find_lock(bond.id) is not None
    assert key_of("v5").public not in weights(world)  # it has expired
    assert sum(world.state.credits_of(world.ids["bob"]).values()) == 80_000
    assert world.state.supply() == world.state.recount()
    assert world.state.supply().locks == 0


def test_a_bond_that_has_not_expired_stays_and_keeps_its_weight(world: World) -> None:
    bond = world.bond("bob", "v5", 80_000)
    world.change_epoch("v2")
    assert not world.state.locks[bond.id].ended
    world.change_epoch("v2")
    assert world.state.locks[bond.id].ended


def test_an_offender_loses_seat_and_bond_for_ever(world: World) -> None:
    bond = world.bond("bob", "v5", 80_000)
    world.change_epoch("v1")
    burnt = world.state.burnt
    world.change_epoch("v2", offenders=["v1", "v5"])
    assert world.state.locks[bond.id].ended
    assert world.state.burnt == burnt + 80_000
    assert set(weights(world)) == {key_of(name).public for name in ("v2", "v3", "v4")}
    assert world.state.supply() == world.state.recount()
    assert world.state.supply().total == world.state.minted
    again = world.bond("bob", "v5", 80_000)
    world.change_epoch("v2")
    assert world.state.locks[again.id].ended  # barred: it is burnt, too
    assert world.state.burnt >= burnt + 160_000
    assert set(weights(world)) == {key_of(name).public for name in ("v2", "v3", "v4")}


def test_an_offender_of_earlier_is_not_named_again_and_gets_no_seat(world: World) -> None:
    world.change_epoch("v1", offenders=["v4"])
    world.now = epoch_ends_at(world.state.system)
    world.do(world.end_epoch())
    four = (key_of("v4").public,)
    named = resigned(world, body_offenders=four, body_evidence=(b"e" * 32,))
    assert refusal(world, named) == "offenders"
    seats = sorted((*world.state.system.committee, Seat(four[0], 1, ())), key=lambda seat: seat.key)
    assert refusal(world, resigned(world, body_seats=tuple(seats))) == "offenders"


def test_nobody_but_a_committee_touches_a_bond(world: World) -> None:
    bond = world.bond("bob", "v5", 80_000)
    receipt = world.receipt(bond, 80_000)
    for signed in (
        settle_operation(bond, receipt),
        close_operation(world.network, bond, None, key_of("v5")),
        close_operation(world.network, bond, receipt, key_of("v5")),
        refund_operation(world.network, bond),
    ):
        assert refusal(world, signed, bond.expiry) == "bond"


BOND_REFUSALS: list[Any] = [
    pytest.param({"authority": (key_of("v1").public,)}, id="another's authority"),
    pytest.param({"purpose": purpose_digest(b"channel")}, id="another purpose"),
    pytest.param({"authority": "both"}, id="the System is not alone"),
]


@pytest.mark.parametrize("fields", BOND_REFUSALS)
def test_what_is_half_a_bond_is_refused(world: World, fields: dict[str, Any]) -> None:
    if fields.get("authority") == "both":
        fields = {"authority": tuple(sorted((world.network, key_of("v1").public)))}
    with pytest.raises(InvalidOperation) as caught:
        world.bond("bob", "v5", 80_000, **fields)
    assert caught.value.rule == "bond"


@pytest.mark.parametrize("field", ["body_burnt_bonds", "body_returned_bonds"])
def test_a_bond_that_is_neither_an_offender_s_nor_expired_is_not_ended(ended: World, field: str) -> None:
    bond = ended.bond("bob", "v5", 80_000)
    assert refusal(ended, resigned(ended, "v1", **{field: (bond.id,)})) == "bonds"


def test_an_offender_s_bond_is_not_returned(ended: World) -> None:
    bond = ended.bond("bob", "v5", 80_000, expiry=ended.now + 1)
    ended.now += 1
    wrong: dict[str, Any] = {"body_burnt_bonds": (), "body_returned_bonds": (bond.id,)}
    guilty: dict[str, Any] = {"body_offenders": (key_of("v5").public,), "body_evidence": (b"e" * 32,)}
    assert refusal(ended, resigned(ended, "v1", **wrong, **guilty)) == "bonds"


@pytest.mark.parametrize("field", ["body_burnt_bonds", "body_returned_bonds"])
def test_a_lock_that_is_no_bond_is_not_ended_by_a_committee(ended: World, field: str) -> None:
    lock = ended.open_lock("alice", "bob", closer=key_of("v1").public)
    ended.now = lock.expiry
    fields: dict[str, Any] = {field: (lock.id,)}
    if field == "body_burnt_bonds":
        seats = tuple(s for s in ended.state.system.committee if s.key != key_of("v1").public)
        fields |= {
            "body_offenders": (key_of("v1").public,),
            "body_evidence": (b"e" * 32,),
            "body_seats": seats,
        }
    assert refusal(ended, resigned(ended, "v1", **fields)) == "bond"


def test_a_bond_that_has_ended_is_not_ended_again(world: World) -> None:
    bond = world.bond("bob", "v5", 80_000, expiry=world.now + 1)
    world.change_epoch("v1")
    world.now = epoch_ends_at(world.state.system)
    world.do(world.end_epoch())
    assert refusal(world, resigned(world, body_returned_bonds=(bond.id,))) == "ended"


def test_more_bonds_than_one_committee_ends_wait_for_the_next(world: World) -> None:
    for _ in range(9):
        for name in ("alice", "bob"):
            terms = world.terms(
                authority=(world.network,),
                purpose=purpose_digest(b"bond"),
                closer=key_of("v5").public,
                deposit=10,
                expiry=world.now + 5,
            )
            world.do(world.spend(name, locks=[terms] * 4))
    world.change_epoch("v1")
    assert sum(lock.ended for lock in world.state.locks.values()) == BONDS_MAX == 64
    world.change_epoch("v1")
    assert sum(lock.ended for lock in world.state.locks.values()) == 72
    assert world.state.supply().locks == 0


def test_a_committee_commutes_with_what_is_not_in_it(world: World) -> None:
    """Who is ahead of the union of HANDOFFs comes to the same state as who is not."""
    world.now = NOW + DEVELOPMENT.epoch_ms
    end = parse(world.end_epoch())
    world.do(end.signed)
    world.state.check_committee = lambda parsed: None
    committee = parse(world.next_committee("v1"))
    ahead = parse(world.spend("bob", locks=[]))
    before = [parse(each) for each in opening(world)]
    roots = set()
    for order in ([end, committee, ahead], [end, ahead, committee], [ahead, end, committee]):
        state = State(world.genesis)
        for parsed in (*before, *order):
            state.apply(parsed)
        roots.add(state.root())
    assert len(roots) == 1


def opening(world: World) -> list[SignedOperation]:
    fresh = World(validators=VALIDATORS)
    return [fresh.spend(name) for name in fresh.names]


def test_epochs_are_taken_back_whole(world: World) -> None:
    world.bond("bob", "v5", 80_000)
    world.change_epoch("v1")
    world.now = epoch_ends_at(world.state.system)
    root, system, undos = world.state.root(), world.state.system, list[Undo]()
    world.state.apply(parse(world.end_epoch()), undos=undos)
    world.state.apply(parse(world.next_committee("v1", ["v5"])), undos=undos)
    assert world.state.epoch == 2
    for undo in reversed(undos):
        world.state.undo(undo)
    assert (world.state.root(), world.state.system, world.state.epoch) == (root, system, 1)
    assert world.state.supply() == world.state.recount()
    assert sorted(world.state.parameters) == [0, 1]
    with pytest.raises(NotYet):
        world.state.committee(2)
    world.change_epoch("v2", ["v5"])  # its bond is known again
    assert world.state.supply().locks == 0


# --- planted faults -------------------------------------------------------------------------------


def _return_everything(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("ainp2p.ledger.rules.state.BOND_PURPOSE", b"")


def _forgive(patch: pytest.MonkeyPatch) -> None:
    original = State.succession
    patch.setattr(State, "succession", lambda self, offenders, now: original(self, (), now))


def _ignore_the_clock(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("ainp2p.ledger.rules.state.epoch_ends_at", lambda system: 0)


@pytest.mark.parametrize(
    ("plant", "judge"),
    [
        pytest.param(_return_everything, test_nobody_but_a_committee_touches_a_bond, id="bonds are Locks"),
        pytest.param(_forgive, test_an_offender_loses_seat_and_bond_for_ever, id="offenders forgiven"),
        pytest.param(
            _ignore_the_clock, test_an_epoch_begins_with_the_genesis_and_ends_after_its_length, id="no clock"
        ),
    ],
)
def test_a_mutant_is_caught_by_the_test_meant_for_it(
    world: World,
    plant: Callable[[pytest.MonkeyPatch], None],
    judge: Callable[[World], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception, InvalidOperation, BadSignature)):
        judge(world)
