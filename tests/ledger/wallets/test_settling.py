from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.wallets.settling import CLOSE, REFUND, SETTLE, Due, SettlePolicy, next_due

from ..world import NOW, World

POLICY = SettlePolicy(threshold=500, interval_ms=60_000)
MARGIN = 2_000


@pytest.fixture
def lock() -> Lock:
    """1,000 uain in steps of 10, for a minute."""
    return World().open_lock()


def due(lock: Lock, unsettled: int = 0, since: int | None = NOW, **who: Any) -> Due | None:
    roles = {"is_payer": False, "is_closer": True} | who
    return next_due(lock, unsettled, since if unsettled else None, POLICY, margin_ms=MARGIN, **roles)


def test_with_nothing_owed_a_payee_has_nothing_to_do(lock: Lock) -> None:
    assert due(lock) is None


def test_enough_is_settled_at_once(lock: Lock) -> None:
    assert due(lock, 500) == Due(-math.inf, SETTLE)


def test_less_waits_for_the_timer_or_the_expiry_whichever_is_first(lock: Lock) -> None:
    assert due(lock, 100) == Due(lock.expiry - MARGIN, CLOSE)
    long = msgspec.structs.replace(lock, expiry=NOW + 10**9)
    assert due(long, 100) == Due(NOW + 60_000, SETTLE)


def test_less_than_a_step_can_only_be_closed(lock: Lock) -> None:
    long = msgspec.structs.replace(lock, expiry=NOW + 10**9)
    assert due(long, 9) == Due(long.expiry - MARGIN, CLOSE)
    assert due(long, 9, is_closer=False) is None


def test_the_rest_of_the_deposit_is_settled_however_little(lock: Lock) -> None:
    long = msgspec.structs.replace(lock, expiry=NOW + 10**9, paid=995)
    assert due(long, 5) == Due(NOW + 60_000, SETTLE)


def test_who_is_not_the_closer_settles_before_expiry(lock: Lock) -> None:
    assert due(lock, 100, is_closer=False) == Due(lock.expiry - MARGIN, SETTLE)


def test_a_payer_waits_out_the_margin_after_expiry(lock: Lock) -> None:
    assert due(lock, is_payer=True, is_closer=False) == Due(lock.expiry + MARGIN, REFUND)


def test_an_ended_lock_needs_nothing(lock: Lock) -> None:
    assert due(msgspec.structs.replace(lock, ended=1), 500, is_payer=True) is None


def test_payee_and_payer_never_write_at_the_same_time(lock: Lock) -> None:
    """The payee's last action is due before expiry, the payer's after it, each a margin away."""
    payee, payer = due(lock, 5), due(lock, is_payer=True, is_closer=False)
    assert payee is not None
    assert payer is not None
    assert payer.at_ms - payee.at_ms >= 2 * MARGIN
