"""Counters of Locks: they grow, never above the deposit, and a crash leaves doubt instead of a guess."""

from __future__ import annotations

import pytest

from ainp2p.agents.promises import LockRecord, Promises
from ainp2p.errors import BadSignature, InvalidInput, InvalidReceipt
from ainp2p.ledger.rules.receipts import Receipt, SignedReceipt, read_receipt, sign_receipt

from .vault_world import HASH, KEY, NETWORK, OTHER, SELLER, SELLER_KEY, lock


def using(*numbers: int, **fields: int) -> Promises:
    promises = Promises(KEY)
    for number in numbers:
        promises.use(NETWORK, lock(number, **fields))  # type: ignore[arg-type]  # only numbers are given
    return promises


def rule_of(promises: Promises, *, payee: bytes = SELLER, amount: int = 1) -> str:
    try:
        promises.refuse(lock().id, payee, amount, 0, HASH)
    except InvalidReceipt as exc:
        return exc.rule
    return ""


def receipt_at(
    cumulative: int, *, units: int = 0, number: int = 1, network: bytes = NETWORK
) -> SignedReceipt:
    return sign_receipt(Receipt(network, lock(number).id, cumulative, units, HASH), KEY)


def test_a_counter_grows_by_what_is_paid() -> None:
    promises = using(1)
    promises.sign(lock().id, 10, 3, HASH)
    receipt = read_receipt(promises.sign(lock().id, 5, 2, HASH).body)
    assert receipt == Receipt(NETWORK, lock().id, 15, 5, HASH)
    assert promises.left(lock().id) == 985
    last = promises.last(lock().id)
    assert last is not None
    assert read_receipt(last.body) == receipt


def test_each_lock_has_its_own_counter() -> None:
    promises = using(1, 2)
    promises.sign(lock(1).id, 10, 1, HASH)
    assert read_receipt(promises.sign(lock(2).id, 5, 1, HASH).body).cumulative == 5


def test_a_counter_begins_at_what_is_paid_already() -> None:
    promises = using(1, paid=400)
    assert promises.left(lock().id) == 600
    assert read_receipt(promises.sign(lock().id, 10, 1, HASH).body).cumulative == 410


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        pytest.param({"authority": (SELLER_KEY.public,)}, "authority", id="another key signs"),
        pytest.param({"authority": (KEY.public, SELLER_KEY.public)}, "authority", id="another key signs too"),
        pytest.param({"ended": 1}, "ended", id="it has ended"),
    ],
)
def test_a_lock_that_is_not_ours_alone_is_not_used(fields: dict[str, object], rule: str) -> None:
    with pytest.raises(InvalidReceipt) as caught:
        Promises(KEY).use(NETWORK, lock(**fields))  # type: ignore[arg-type]  # named fields of any type
    assert caught.value.rule == rule


@pytest.mark.parametrize(
    ("payee", "amount", "rule"), [(SELLER, 1000, ""), (SELLER, 1001, "above-deposit"), (OTHER, 1, "payee")]
)
def test_refusals_by_name(payee: bytes, amount: int, rule: str) -> None:
    assert rule_of(using(1), payee=payee, amount=amount) == rule


def test_a_lock_that_is_not_in_use_pays_nothing() -> None:
    assert rule_of(Promises(KEY)) == "lock"


@pytest.mark.parametrize(
    ("amount", "units", "context"),
    [(0, 0, HASH), (-1, 0, HASH), (1, -1, HASH), (1, 0, HASH[:31]), (1, 0, b"")],
)
def test_what_is_no_receipt_is_refused(amount: int, units: int, context: bytes) -> None:
    with pytest.raises(InvalidInput):
        using(1).refuse(lock().id, SELLER, amount, units, context)


def test_using_a_lock_again_changes_nothing() -> None:
    promises = using(1)
    promises.sign(lock().id, 10, 1, HASH)
    promises.use(NETWORK, lock())
    assert promises.left(lock().id) == 990


def test_a_lock_with_several_payees_pays_each_of_them() -> None:
    promises = Promises(KEY)
    promises.use(NETWORK, lock(payees=(SELLER, OTHER)))
    assert (rule_of(promises, payee=SELLER), rule_of(promises, payee=OTHER)) == ("", "")


# --- changes and restarts -----------------------------------------------------------------------


def test_changes_are_told_once() -> None:
    promises = using(1, 2)
    assert [record.lock for record in promises.take_changes()[0]] == [lock(1).id, lock(2).id]
    signed = promises.sign(lock(2).id, 10, 1, HASH)
    assert promises.take_changes() == ([LockRecord(lock(2).id, (SELLER,), signed)], [])
    assert promises.take_changes() == ([], [])


def test_a_forgotten_lock_is_told_once() -> None:
    promises = using(1)
    promises.take_changes()
    promises.forget(lock().id)
    promises.forget(lock().id)
    assert promises.take_changes() == ([], [lock().id])
    assert rule_of(promises) == "lock"


def test_after_a_clean_end_the_counter_goes_on() -> None:
    promises = using(1)
    promises.sign(lock().id, 10, 3, HASH)
    again = Promises(KEY, promises.take_changes()[0])
    again.use(NETWORK, lock())
    assert (again.is_unsure(lock().id), rule_of(again)) == (False, "")
    assert read_receipt(again.sign(lock().id, 1, 1, HASH).body) == Receipt(NETWORK, lock().id, 11, 4, HASH)


def test_what_was_settled_meanwhile_keeps_its_units() -> None:
    again = Promises(KEY, [LockRecord(lock().id, (SELLER,), receipt_at(10, units=3))])
    again.use(NETWORK, lock(paid=10))
    assert read_receipt(again.sign(lock().id, 1, 1, HASH).body) == Receipt(NETWORK, lock().id, 11, 4, HASH)


def test_the_ledger_may_know_more_than_the_disk() -> None:
    again = Promises(KEY, [LockRecord(lock().id, (SELLER,), receipt_at(10))])
    again.use(NETWORK, lock(paid=25))
    assert again.left(lock().id) == 975


def after_a_crash(unsigned: int = 100, receipt: SignedReceipt | None = None) -> Promises:
    """The last known receipt says 50; up to `unsigned` more may have been signed."""
    record = LockRecord(lock().id, (SELLER,), receipt or receipt_at(50, units=5))
    promises = Promises(KEY, [record], {SELLER: unsigned})
    promises.use(NETWORK, lock())
    return promises


def test_after_a_crash_a_lock_is_unsure_and_pays_nothing() -> None:
    promises = after_a_crash()
    assert promises.is_unsure(lock().id)
    assert rule_of(promises) == "unsure"
    assert [record.unsure for record in promises.take_changes()[0]] == [100]


def test_only_locks_of_that_payee_are_unsure() -> None:
    records = [LockRecord(lock(1).id, (OTHER, SELLER)), LockRecord(lock(2).id, (OTHER,))]
    promises = Promises(KEY, records, {SELLER: 7})
    assert (promises.is_unsure(lock(1).id), promises.is_unsure(lock(2).id)) == (True, False)


def test_doubt_survives_further_crashes() -> None:
    again = Promises(KEY, after_a_crash(100).take_changes()[0], {SELLER: 5})
    assert [record.unsure for record in again.take_changes()[0]] == [105]


def test_a_new_lock_is_not_unsure() -> None:
    promises = after_a_crash()
    promises.use(NETWORK, lock(2))
    promises.refuse(lock(2).id, SELLER, 1, 0, HASH)


@pytest.mark.parametrize(
    ("shown", "goes_on_from", "surprise"),
    [
        pytest.param(120, 120, 0, id="the payee holds more"),
        pytest.param(150, 150, 0, id="the payee holds all that was reserved"),
        pytest.param(50, 50, 0, id="the payee holds what is known"),
        pytest.param(20, 50, 0, id="the last ones never arrived"),
        pytest.param(170, 170, 20, id="more than was ever reserved here"),
    ],
)
def test_the_payees_receipt_ends_the_doubt(shown: int, goes_on_from: int, surprise: int) -> None:
    promises = after_a_crash(100)
    assert promises.learn(receipt_at(shown, units=9)) == (SELLER, surprise)
    assert not promises.is_unsure(lock().id)
    assert promises.left(lock().id) == 1000 - goes_on_from
    assert read_receipt(promises.sign(lock().id, 1, 1, HASH).body).cumulative == goes_on_from + 1


def test_a_receipt_of_another_key_teaches_nothing() -> None:
    promises = after_a_crash()
    receipt = Receipt(NETWORK, lock().id, 120, 9, HASH)
    with pytest.raises(BadSignature):
        promises.learn(sign_receipt(receipt, SELLER_KEY))
    assert promises.is_unsure(lock().id)


@pytest.mark.parametrize("fields", [{"number": 2}, {"network": OTHER}])
def test_a4_a_receipt_for_another_lock_or_network_teaches_nothing(fields: dict[str, int]) -> None:
    promises = after_a_crash()
    with pytest.raises(InvalidReceipt):
        promises.learn(receipt_at(120, **fields))  # type: ignore[arg-type]  # named fields of any type
    assert promises.is_unsure(lock().id)
    assert promises.left(lock().id) == 950
