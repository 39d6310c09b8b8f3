from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.errors import InvalidInput, InvalidOperation
from ainp2p.ledger.rules import committee as committee_module
from ainp2p.ledger.rules.committee import (
    Committee,
    Succession,
    bond_weight,
    is_waiver,
    leaving,
    next_seats,
    succession,
)
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.rules.locks import Lock, open_lock
from ainp2p.ledger.rules.operations import (
    LockTerms,
    Seat,
    Share,
    account_id,
    plain_inception,
    purpose_digest,
)

from ..world import genesis_for, key_of

KEYS = tuple(bytes([i]) * 32 for i in range(31))


@given(st.lists(st.integers(1, 2**57), min_size=1, max_size=31))
def test_a_quorum_is_the_least_weight_above_two_thirds(weights: list[int]) -> None:
    committee = Committee(KEYS[: len(weights)], tuple(weights))
    total = sum(weights)
    assert 3 * committee.quorum > 2 * total >= 3 * (committee.quorum - 1)
    assert 3 * committee.minority > total >= 3 * (committee.minority - 1)
    # Two quorums share more than a third: at least one correct member if at most a third is faulty.
    assert 3 * (2 * committee.quorum - total) > total


@pytest.mark.parametrize(("n", "quorum"), [(1, 1), (2, 2), (3, 3), (4, 3), (6, 5), (7, 5), (10, 7)])
def test_quorums_of_equals(n: int, quorum: int) -> None:
    assert Committee(KEYS[:n], (1,) * n).quorum == quorum


def test_weights_are_summed_by_place() -> None:
    committee = Committee(KEYS[:3], (5, 7, 11))
    assert committee.weight_of([0, 2]) == 16
    assert committee.index[KEYS[2]] == 2


@pytest.mark.parametrize(
    ("keys", "weights"),
    [
        pytest.param((), (), id="nobody"),
        pytest.param(KEYS[:2], (1,), id="a weight missing"),
        pytest.param(KEYS[:2], (1, 0), id="weight 0"),
        pytest.param((KEYS[1], KEYS[0]), (1, 1), id="not sorted"),
        pytest.param((KEYS[0], KEYS[0]), (1, 1), id="named twice"),
    ],
)
def test_refused(keys: tuple[bytes, ...], weights: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput):
        Committee(keys, weights)


# --- who is in the next one -----------------------------------------------------------------------

SEATS = tuple(Seat(key, 10, (b"/ip4/1.2.3.4/tcp/1",)) for key in KEYS[:4])


def test_without_bonds_and_offenders_nothing_changes() -> None:
    assert next_seats(SEATS, {}, ()) == SEATS
    assert Committee.of_seats(SEATS) == Committee(KEYS[:4], (10,) * 4)


def test_bonds_add_weight_and_seats_in_the_order_of_keys() -> None:
    seats = next_seats(SEATS[1:], {KEYS[2]: 5, KEYS[0]: 1}, ())
    assert [(seat.key, seat.weight) for seat in seats] == [
        (KEYS[0], 1),
        (KEYS[1], 10),
        (KEYS[2], 15),
        (KEYS[3], 10),
    ]
    assert seats[0].addresses == ()


def test_an_offender_gets_nothing_whatever_it_bonds() -> None:
    seats = next_seats(SEATS, {KEYS[0]: 99, KEYS[9]: 99}, {KEYS[0], KEYS[9]})
    assert seats == SEATS[1:]


def test_a_committee_of_nobody_is_refused() -> None:
    with pytest.raises(InvalidOperation, match="committee"):
        next_seats(SEATS, {}, KEYS)


def test_of_too_many_the_heaviest_sit_then_the_lowest_keys() -> None:
    many = {bytes([n]) * 32: 1 + (n == 40) for n in range(41)}
    seats = next_seats((), many, ())
    assert len(seats) == 31
    assert seats[-1] == Seat(bytes([40]) * 32, 2, ())
    assert [seat.key[0] for seat in seats[:-1]] == list(range(30))


def test_who_has_an_address_only_has_no_seat() -> None:
    assert next_seats((*SEATS, Seat(KEYS[8], 0, ())), {}, ()) == SEATS


@given(st.integers(0, 10**15), st.integers(1, 10**15), st.integers(1, 2**40))
def test_all_money_bonded_weighs_what_the_first_committee_weighs(
    bonded: int, minted: int, first: int
) -> None:
    weight = bond_weight(min(bonded, minted), minted, first)
    assert 0 <= weight <= first
    assert bond_weight(minted, minted, first) == first
    if 2 * bonded < minted:
        assert 2 * weight < first  # and so less than a third of both together
    assert bond_weight(5, 0, first) == 0


def test_the_next_committee_does_not_depend_on_the_order_in_which_bonds_were_made() -> None:
    genesis = genesis_for(validators=(("v1", 30),))
    bonds = [bond_of(n, KEYS[n % 3], 10**5 * n, expiry=n) for n in range(1, 9)]
    one = succession(genesis, (), bonds, {KEYS[0]}, 4)
    assert one == succession(genesis, (), bonds[::-1], {KEYS[0]}, 4)
    assert one.burnt_bonds == tuple(sorted(bond.id for bond in bonds if bond.closer == KEYS[0]))
    assert one.returned_bonds == tuple(
        sorted(bond.id for bond in bonds if bond.closer != KEYS[0] and bond.expiry <= 4)
    )
    weights = {seat.key: seat.weight for seat in one.seats}
    assert weights == {key_of("v1").public: 30, KEYS[1]: 7, KEYS[2]: 13}


def test_seats_keep_the_addresses_that_are_known() -> None:
    genesis = genesis_for(validators=(("v1", 30),))
    sitting = [Seat(key_of("v1").public, 30, (b"/new",)), Seat(KEYS[1], 1, (b"/there",))]
    seats = succession(genesis, sitting, [bond_of(1, KEYS[1], 10**5, expiry=9)], (), 4).seats
    assert {seat.key: seat.addresses for seat in seats} == {
        key_of("v1").public: (b"/new",),
        KEYS[1]: (b"/there",),
    }


def bond_of(n: int, validator: bytes, deposit: int, expiry: int) -> Lock:
    terms = LockTerms(
        (Share(b"a" * 32, 1),), deposit, 1, (b"n" * 32,), 1, validator, expiry, purpose_digest(b"bond")
    )
    return open_lock(b"p" * 32, bytes([n]) * 32, 0, terms)


def _count_what_has_expired(patch: pytest.MonkeyPatch) -> None:
    original = committee_module.next_seats
    patch.setattr(
        committee_module, "next_seats", lambda seats, bonds, out: original(seats, {**bonds, KEYS[2]: 99}, out)
    )


def test_a_mutant_that_weighs_bonds_twice_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    _count_what_has_expired(monkeypatch)
    with pytest.raises(AssertionError):
        test_the_next_committee_does_not_depend_on_the_order_in_which_bonds_were_made()


# --- who gives a seat up --------------------------------------------------------------------------

FOUR = (("v1", 10), ("v2", 10), ("v3", 10), ("v4", 10))
NAME = {key_of(name).public: name for name in ("v1", "v2", "v3", "v4", "new")}


def waiver_of(genesis: Genesis, name: str, expiry: int = 9, payer: str = "", pays: bytes = b"") -> Lock:
    network, key = genesis.network_id, key_of(name).public
    by = account_id(network, plain_inception(key_of(payer or name).public))
    terms = LockTerms((Share(pays or network, 1),), 1, 1, (network,), 1, key, expiry, purpose_digest(b"bond"))
    return open_lock(by, key_of(name).public, expiry, terms)


def sit(found: Succession) -> dict[str, int]:
    return {NAME[seat.key]: seat.weight for seat in found.seats}


def test_a_first_member_that_gives_its_seat_up_has_none_for_ever() -> None:
    genesis = genesis_for(validators=FOUR)
    waivers = [waiver_of(genesis, "v2")]
    after = succession(genesis, (), waivers, (), 4)
    assert sit(after) == {"v1": 10, "v3": 10, "v4": 10}
    late = succession(genesis, after.seats, waivers, (), 99)
    assert sit(late) == sit(after)
    assert late.returned_bonds == ()  # the state must not forget it


def test_who_has_left_comes_back_by_a_bond_with_its_weight_alone() -> None:
    genesis = genesis_for(validators=FOUR)
    bond = bond_of(1, key_of("v2").public, genesis.supply // 8, expiry=9)
    seats = sit(succession(genesis, (), [waiver_of(genesis, "v2"), bond], (), 4))
    assert seats == {"v1": 10, "v2": 5, "v3": 10, "v4": 10}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"payer": "v1"}, id="somebody else's account"),
        pytest.param({"pays": b"a" * 32}, id="a bond"),
    ],
)
def test_nobody_gives_up_another_members_seat(changes: dict[str, Any]) -> None:
    genesis = genesis_for(validators=FOUR)
    waiver = waiver_of(genesis, "v2", **changes)
    assert not is_waiver(waiver, genesis.network_id)
    assert sit(succession(genesis, (), [waiver], (), 4)) == dict(FOUR)


def test_mutant_a_waiver_whoever_pays_it_takes_another_members_seat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committee_module, "is_waiver", lambda bond, network: True)
    with pytest.raises(AssertionError):
        test_nobody_gives_up_another_members_seat({"payer": "v1"})


def test_who_was_given_no_seat_has_none_to_give_up_and_gets_its_money_back() -> None:
    genesis = genesis_for(validators=FOUR)
    waiver = waiver_of(genesis, "new", expiry=3)
    found = succession(genesis, (), [waiver], (), 4)
    assert found.returned_bonds == (waiver.id,)
    assert sit(found) == dict(FOUR)


def test_an_offenders_waiver_is_burnt_with_its_seat() -> None:
    genesis = genesis_for(validators=FOUR)
    waiver = waiver_of(genesis, "v2")
    found = succession(genesis, (), [waiver], {key_of("v2").public}, 4)
    assert found.burnt_bonds == (waiver.id,)


def test_the_last_one_stays_until_bonds_bring_others() -> None:
    genesis = genesis_for(validators=FOUR)
    waivers = [
        waiver_of(genesis, name, expiry) for name, expiry in zip(NAME.values(), (5, 6, 7, 8), strict=False)
    ]
    assert sit(succession(genesis, (), waivers, (), 4)) == {"v4": 10}
    bond = bond_of(1, key_of("new").public, genesis.supply // 2, expiry=9)
    assert sit(succession(genesis, (), [*waivers, bond], (), 4)) == {"new": 20}


def test_who_has_gone_is_not_called_back_because_the_last_one_wants_to_go() -> None:
    genesis = genesis_for(validators=FOUR)
    gone = [waiver_of(genesis, name, expiry=7) for name in ("v1", "v2", "v3")]
    sitting = succession(genesis, (), gone, (), 4).seats
    last = waiver_of(genesis, "v4", expiry=5)  # it comes first by its expiry
    assert sit(succession(genesis, sitting, [last, *gone], (), 6)) == {"v4": 10}


def test_mutant_an_order_that_does_not_look_who_sits_calls_back_who_has_gone() -> None:
    genesis = genesis_for(validators=FOUR)
    waivers = [waiver_of(genesis, name, expiry) for name, expiry in (("v1", 7), ("v4", 5))]
    keys = {waiver.closer for waiver in waivers}
    assert leaving(waivers, keys, others=False, sitting=keys - {key_of("v1").public}) == {key_of("v1").public}
    assert leaving(waivers, keys, others=False, sitting=()) == {key_of("v4").public}  # blind: v1 is back
