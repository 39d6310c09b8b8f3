from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.errors import InvalidOperation
from ainp2p.ledger.rules.locks import Lock, after_close, after_refund, after_settle, credited, open_lock
from ainp2p.ledger.rules.operations import Close, LockTerms, Settle, Share, lock_id

HEAD = b"h" * 32
CONTEXT = b"c" * 32


def lock_of(*parts: int, deposit: int = 1_000, step: int = 10) -> Lock:
    terms = LockTerms(
        beneficiaries=tuple(Share(bytes([n]) * 32, part) for n, part in enumerate(parts)),
        deposit=deposit,
        step=step,
        authority=(b"a" * 32,),
        threshold=1,
        closer=b"k" * 32,
        expiry=99,
        purpose=b"p" * 32,
    )
    return open_lock(b"payer".ljust(32), b"o" * 32, 0, terms)


def settle(cumulative: int) -> Settle:
    return Settle(cumulative, 1, CONTEXT)


def test_a_new_lock_holds_its_deposit_and_starts_its_own_chain() -> None:
    lock = lock_of(1)
    assert lock.id == lock_id(b"o" * 32, 0)
    assert (lock.seq, lock.head, lock.paid, lock.ended, lock.held) == (0, lock.id, 0, 0, 1_000)


def test_a_settle_pays_the_difference() -> None:
    lock, payments = after_settle(lock_of(1), settle(300), HEAD)
    assert payments == [(0, bytes(32), 300)]
    assert (lock.seq, lock.head, lock.paid, lock.held, lock.ended) == (1, HEAD, 300, 700, 0)
    lock, payments = after_settle(lock, settle(310), HEAD)
    assert payments == [(0, bytes(32), 10)]


def test_less_than_a_step_is_paid_only_when_it_is_the_last() -> None:
    lock, _ = after_settle(lock_of(1), settle(995), HEAD)
    with pytest.raises(InvalidOperation) as caught:
        after_settle(lock, settle(999), HEAD)
    assert caught.value.rule == "step"
    _, payments = after_settle(lock, settle(1_000), HEAD)
    assert payments == [(0, bytes(32), 5)]


@pytest.mark.parametrize(
    ("cumulative", "rule"),
    [
        pytest.param(0, "cumulative", id="nothing"),
        pytest.param(299, "cumulative", id="less than paid"),
        pytest.param(300, "cumulative", id="exactly what is paid"),
        pytest.param(1_001, "above-deposit", id="more than the deposit"),
        pytest.param(2**63 - 1, "above-deposit", id="2^63 - 1"),
    ],
)
def test_a_settle_and_a_close_with_a_wrong_amount_are_refused(cumulative: int, rule: str) -> None:
    lock, _ = after_settle(lock_of(1), settle(300), HEAD)
    with pytest.raises(InvalidOperation) as caught:
        after_settle(lock, settle(cumulative), HEAD)
    assert caught.value.rule == rule
    with pytest.raises(InvalidOperation) as caught:
        after_close(lock, Close(cumulative, 1, CONTEXT), HEAD)
    assert caught.value.rule == rule


def test_a_close_pays_any_difference_and_gives_the_rest_back() -> None:
    lock, payments = after_close(lock_of(1), Close(3, 1, CONTEXT), HEAD)
    assert payments == [(0, bytes(32), 3), (1, b"payer".ljust(32), 997)]
    assert (lock.ended, lock.held) == (1, 0)


def test_a_close_without_a_receipt_names_exactly_what_is_paid() -> None:
    lock, _ = after_settle(lock_of(1), settle(300), HEAD)
    for wrong in (0, 299, 301):
        with pytest.raises(InvalidOperation) as caught:
            after_close(lock, Close(wrong, 0, b""), HEAD)
        assert caught.value.rule == "cumulative"
    _, payments = after_close(lock, Close(300, 0, b""), HEAD)
    assert payments == [(1, b"payer".ljust(32), 700)]


def test_a_spent_lock_closes_without_a_credit_of_zero() -> None:
    lock, _ = after_settle(lock_of(1), settle(1_000), HEAD)
    assert after_close(lock, Close(1_000, 0, b""), HEAD)[1] == []
    assert after_refund(lock, HEAD)[1] == []


def test_an_ended_lock_takes_nothing_more() -> None:
    lock, _ = after_refund(lock_of(1), HEAD)
    attempts: list[Callable[[], object]] = [
        lambda: after_settle(lock, settle(300), HEAD),
        lambda: after_close(lock, Close(300, 1, CONTEXT), HEAD),
        lambda: after_close(lock, Close(0, 0, b""), HEAD),
        lambda: after_refund(lock, HEAD),
    ]
    for attempt in attempts:
        with pytest.raises(InvalidOperation) as caught:
            attempt()
        assert caught.value.rule == "ended"


def test_a_share_that_rounds_to_nothing_makes_no_credit() -> None:
    _, payments = after_settle(lock_of(1, 999, deposit=10, step=1), settle(5), HEAD)
    assert payments == [(1, b"\1" * 32, 4)]


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=6),
    st.lists(st.integers(1, 1_000), min_size=1, max_size=12),
    st.booleans(),
)
def test_rounding_never_accumulates_and_dust_goes_back_to_the_payer(
    parts: list[int], steps: list[int], refund: bool
) -> None:
    lock = lock_of(*parts, step=1)
    received: dict[bytes, int] = {}
    for cumulative in sorted(set(steps)):
        lock, payments = after_settle(lock, settle(cumulative), HEAD)
        for _, account, amount in payments:
            assert amount > 0
            received[account] = received.get(account, 0) + amount
        # LEDGER.md: "Beneficiary i has received ⌊paid·pᵢ/P⌋ in all"
        for share in lock.beneficiaries:
            assert received.get(share.account, 0) == lock.paid * share.parts // sum(parts)
        assert lock.held == lock.deposit - sum(received.values())
    _, payments = after_refund(lock, HEAD) if refund else after_close(lock, Close(lock.paid, 0, b""), HEAD)
    assert sum(received.values()) + sum(amount for _, _, amount in payments) == lock.deposit
    assert {account for _, account, _ in payments} <= {lock.payer}


def test_what_was_credited_matches_the_payments_with_one_beneficiary_and_with_many() -> None:
    assert credited(lock_of(7), 999) == 999
    assert credited(lock_of(1, 1, 1), 1_000) == 999
    assert msgspec.structs.replace(lock_of(1, 1, 1), paid=1_000).held == 1
