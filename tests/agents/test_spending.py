"""What a SPEND costs, read from its bytes alone."""

from __future__ import annotations

import pytest

from ainp2p.agents.spending import payments_of
from ainp2p.errors import InvalidOperation, Malformed, PolicyRefused
from ainp2p.ledger.rules.operations import Operation, Refund, Rotation
from ainp2p.protocol.codec import encode

from .vault_world import ACCOUNT, HASH, KEY, NETWORK, OTHER, SELLER, SELLER_KEY, spend, terms


def costs(raw: bytes) -> tuple[dict[bytes, int], list[int]]:
    payments, deposits = payments_of(raw, KEY.public)
    return {payment.counterparty: payment.amount for payment in payments}, deposits


def test_payments_are_summed_by_counterparty() -> None:
    assert costs(spend((SELLER, 5), (OTHER, 7), (SELLER, 1))) == ({SELLER: 6, OTHER: 7}, [])


def test_change_to_oneself_costs_nothing() -> None:
    assert costs(spend((ACCOUNT, 500), (SELLER, 5))) == ({SELLER: 5}, [])


def test_a_fee_is_burnt() -> None:
    assert costs(spend(fee=3)) == ({ACCOUNT: 3}, [])


def test_a_deposit_under_our_own_receipts_is_not_yet_spent() -> None:
    assert costs(spend(locks=(terms(100), terms(200)), fee=2)) == ({ACCOUNT: 2}, [100, 200])


@pytest.mark.parametrize(
    ("authority", "threshold"),
    [
        pytest.param((SELLER_KEY.public,), 1, id="others sign for it"),
        pytest.param((KEY.public, SELLER_KEY.public), 1, id="others sign as well"),
        pytest.param((KEY.public, SELLER_KEY.public), 2, id="others sign with us"),
    ],
)
def test_a_deposit_that_others_can_pay_out_is_spent(authority: tuple[bytes, ...], threshold: int) -> None:
    raw = spend((SELLER, 1), locks=(terms(100, authority=authority, threshold=threshold),))
    assert costs(raw) == ({SELLER: 101}, [])


def test_a_payment_can_repeat_itself_and_a_fee_cannot() -> None:
    payments, _ = payments_of(spend((SELLER, 5), fee=1), KEY.public)
    assert [payment.what is None for payment in payments] == [False, True]


def test_a_rotation_is_refused() -> None:
    with pytest.raises(PolicyRefused, match="rotation"):
        costs(spend(rotate=Rotation(KEY.public, HASH)))


def test_what_is_no_spend_is_refused() -> None:
    with pytest.raises(InvalidOperation, match="kind"):
        costs(encode(Operation(1, NETWORK, HASH, 2, HASH, None, Refund())))


@pytest.mark.parametrize("raw", [b"", b"\x90", spend()[:-1], spend() + b"\0"])
def test_what_is_no_operation_is_refused(raw: bytes) -> None:
    with pytest.raises(Malformed):
        costs(raw)
