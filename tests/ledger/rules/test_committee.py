from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.errors import InvalidInput, InvalidOperation
from ainp2p.ledger.rules import committee as committee_module
from ainp2p.ledger.rules.committee import Committee, bond_weight, next_seats, succession
from ainp2p.ledger.rules.locks import Lock, open_lock
from ainp2p.ledger.rules.operations import LockTerms, Seat, Share, purpose_digest

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
