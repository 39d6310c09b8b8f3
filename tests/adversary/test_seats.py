"""The auditor's seats, by themselves: what docs/ledger.md says of weights, bonds and waivers."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ainp2p.errors import InvalidOperation
from ainp2p.ledger.rules import committee
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.operations import BOND_PURPOSE, Seat, Share
from tests.adversary.book import Deposit, born
from tests.adversary.mutants import MUTANTS, planted
from tests.adversary.run import plan_for
from tests.adversary.seats import following
from tests.adversary.world import BEGIN, PARAMETERS, alone, key_of, make_genesis

GENESIS = make_genesis((10, 20, 30), [alone(key_of("rich"))], PARAMETERS, 1_000)
KEYS = [member.key for member in GENESIS.validators]
WEIGHTS = {member.key: member.weight for member in GENESIS.validators}
OTHER = key_of("follower 0").public
HALF = GENESIS.supply // 2  # weighs 30 of the genesis's 60
NOBODY: frozenset[bytes] = frozenset()
ACCOUNTS = {
    key.public: born(GENESIS.network_id, alone(key)).id
    for key in map(key_of, ("rich", "validator 0", "validator 1", "validator 2"))
}


def bond(closer: bytes, amount: int = HALF, *, expiry: int = BEGIN + 1, to: bytes = b"x" * 32) -> Deposit:
    """A bond that somebody else has paid."""
    payer = ACCOUNTS[key_of("rich").public]
    id_ = bytes([amount % 251, expiry % 251]) + closer[:30]
    terms = (amount, 0, amount, (GENESIS.network_id,), 1)
    return Deposit(id_, 0, id_, payer, ((to, 1),), *terms, closer, expiry, False, True, b"")


def waiver(closer: bytes, *, expiry: int = BEGIN + 1) -> Deposit:
    return replace(bond(closer, 1, expiry=expiry, to=GENESIS.network_id), payer=ACCOUNTS[closer])


def weights(
    *bonds: Deposit, sitting: Collection[bytes] = KEYS, barred: Collection[bytes] = NOBODY
) -> dict[bytes, int]:
    return following(GENESIS, sitting, bonds, barred, BEGIN).weights


def test_without_bonds_the_genesis_sits() -> None:
    assert weights() == WEIGHTS


def test_half_of_all_money_weighs_half_of_the_genesis() -> None:
    assert weights(bond(OTHER)) == {**WEIGHTS, OTHER: 30}


def test_bonds_of_one_key_are_added_before_they_are_rounded() -> None:
    assert weights(bond(OTHER, HALF - 1), bond(OTHER, 1)) == {**WEIGHTS, OTHER: 30}


def test_an_expired_bond_weighs_nothing_and_goes_back() -> None:
    expired = bond(OTHER, expiry=BEGIN)
    found = following(GENESIS, KEYS, [expired], (), BEGIN)
    assert found.weights == WEIGHTS
    assert found.returned == {expired.id}


def test_an_offender_loses_seat_and_bonds_and_gets_nothing_back() -> None:
    bonds = [bond(KEYS[0]), bond(KEYS[0], 5, expiry=BEGIN), waiver(KEYS[0])]
    found = following(GENESIS, KEYS, bonds, {KEYS[0]}, BEGIN)
    assert found.weights == {key: WEIGHTS[key] for key in KEYS[1:]}
    assert found.burnt == {each.id for each in bonds}
    assert not found.returned


def test_a_waiver_takes_the_seat_for_ever_and_is_not_returned() -> None:
    gone = following(GENESIS, KEYS, [waiver(KEYS[0], expiry=BEGIN - 1)], (), BEGIN)
    assert KEYS[0] not in gone.weights
    assert not gone.returned


def test_who_gave_its_seat_up_comes_back_with_a_bond() -> None:
    assert weights(waiver(KEYS[0]), bond(KEYS[0]))[KEYS[0]] == 30


@pytest.mark.parametrize(
    "false",
    [
        pytest.param(bond(KEYS[0], to=GENESIS.network_id), id="of another's account"),
        pytest.param(replace(waiver(KEYS[0]), shares=((b"x" * 32, 1),)), id="pays somebody"),
        pytest.param(
            replace(waiver(KEYS[0]), shares=((GENESIS.network_id, 1), (b"x" * 32, 1))), id="pays somebody too"
        ),
    ],
)
def test_what_is_no_waiver_takes_no_seat(false: Deposit) -> None:
    assert weights(false)[KEYS[0]] >= WEIGHTS[KEYS[0]]


def test_the_last_member_stays_until_bonds_bring_somebody_else() -> None:
    every = [waiver(key, expiry=BEGIN + place) for place, key in enumerate(KEYS)]
    assert weights(*every) == {KEYS[2]: WEIGHTS[KEYS[2]]}
    assert weights(*every, sitting=[KEYS[0]]) == {
        KEYS[0]: WEIGHTS[KEYS[0]]
    }  # who has gone is not called back
    assert weights(*every, bond(OTHER)) == {OTHER: 30}
    assert KEYS[2] in weights(*every, bond(OTHER), barred={OTHER})


# --- two readings of one page -----------------------------------------------------------------------

_BONDS = st.builds(
    lambda closer, amount, expiry, to: bond(closer, amount, expiry=expiry, to=to),
    st.sampled_from([*KEYS, OTHER]),
    st.sampled_from([1, 5, 9_000, HALF, HALF - 1]),
    st.integers(BEGIN - 2, BEGIN + 2),
    st.sampled_from([b"x" * 32, GENESIS.network_id]),
)
_WAIVERS = st.builds(
    lambda closer, expiry: waiver(closer, expiry=expiry),
    st.sampled_from(KEYS),
    st.integers(BEGIN - 2, BEGIN + 2),
)


def as_lock(deposit: Deposit) -> Lock:
    """The same for the library."""
    return Lock(
        id=deposit.id,
        seq=0,
        head=deposit.id,
        payer=deposit.payer,
        beneficiaries=tuple(Share(*share) for share in deposit.shares),
        deposit=deposit.deposit,
        paid=0,
        step=deposit.step,
        authority=deposit.authority,
        threshold=1,
        closer=deposit.closer,
        expiry=deposit.expiry,
        purpose=BOND_PURPOSE,
        ended=0,
    )


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.one_of(_BONDS, _WAIVERS), max_size=8, unique_by=lambda deposit: deposit.id),
    st.sets(st.sampled_from([*KEYS, OTHER]), max_size=2),
    st.sets(st.sampled_from([*KEYS, OTHER]), min_size=1),
)
def test_the_library_and_the_auditor_read_the_page_alike(
    bonds: list[Deposit], barred: set[bytes], sitting: set[bytes]
) -> None:
    right = following(GENESIS, sitting, bonds, barred, BEGIN)
    try:
        found = library(GENESIS, bonds, barred, sitting)
    except InvalidOperation:
        assert not right.weights
        return
    assert found == (right.weights, right.burnt, right.returned)


def library(
    genesis: Genesis, bonds: list[Deposit], barred: set[bytes], sitting: set[bytes]
) -> tuple[dict[bytes, int], frozenset[bytes], frozenset[bytes]]:
    seats = [Seat(key, 1, ()) for key in sorted(sitting)]
    said = committee.succession(genesis, seats, [as_lock(deposit) for deposit in bonds], barred, BEGIN)
    weighed = {seat.key: seat.weight for seat in said.seats}
    return weighed, frozenset(said.burnt_bonds), frozenset(said.returned_bonds)


@pytest.mark.parametrize("name", ["a seat that was given up is kept", "a bond counts twice"])
def test_the_comparison_is_checked_with_a_mutant(name: str) -> None:
    bonds = [waiver(KEYS[0]), bond(OTHER)]
    right = following(GENESIS, KEYS, bonds, (), BEGIN).weights
    assert library(GENESIS, bonds, set(), set(KEYS))[0] == right
    with planted(MUTANTS[name]):
        assert library(GENESIS, bonds, set(), set(KEYS))[0] != right


def test_every_sixteenth_seed_is_an_exodus() -> None:
    assert [seed for seed in range(64) if plan_for(seed).exodus] == [10, 26, 42, 58]
    assert [seed for seed in range(16) if plan_for(seed).siege] == [1, 5, 9, 10, 13]
