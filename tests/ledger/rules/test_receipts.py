from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.errors import BadSignature, Error, InvalidReceipt, Malformed
from ainp2p.ledger.rules.receipts import (
    SIGN_RECEIPT,
    Payer,
    Receipt,
    ReceiptBook,
    SignedReceipt,
    read_receipt,
    settle_operation,
    sign_receipt,
)
from ainp2p.protocol.codec import decode, encode

from ..world import NOW, World, key_of

CONTEXT = b"c" * 32


class Pair:
    """A payer and a payee over one Lock of 1,000 uain."""

    def __init__(self) -> None:
        self.world = World()
        self.lock = self.world.open_lock()
        self.payer = self.world.payer(self.lock)
        self.book = ReceiptBook(self.world.network)
        self.book.watch(self.lock)

    def accept(self, signed: SignedReceipt, now: int = NOW) -> int:
        return self.book.accept(signed, now).gained

    def forged(self, signer: str = "alice session", **fields: Any) -> SignedReceipt:
        receipt = Receipt(self.world.network, self.lock.id, 300, 3, CONTEXT)
        return sign_receipt(msgspec.structs.replace(receipt, **fields), key_of(signer))


@pytest.fixture
def pair() -> Pair:
    return Pair()


# --- the payee's book -------------------------------------------------------------------------------


def test_each_higher_receipt_is_worth_the_difference(pair: Pair) -> None:
    assert pair.accept(pair.payer.sign(100, 1, CONTEXT)) == 100
    assert pair.accept(pair.payer.sign(250, 2, CONTEXT)) == 150
    assert pair.book.unsettled(pair.lock.id) == 250


def test_a_repeat_of_the_highest_is_no_error_and_no_change(pair: Pair) -> None:
    signed = pair.payer.sign(100, 1, CONTEXT)
    pair.accept(signed)
    pair.book.take_unsaved()
    booked = pair.book.accept(signed, NOW)
    assert (booked.gained, booked.receipt.cumulative) == (0, 100)
    assert pair.book.take_unsaved() == []


def a4_refusal(pair: Pair, signed: SignedReceipt, now: int = NOW) -> str:
    """The rule that refuses a receipt; the book must be as before."""
    before = (pair.book.highest(pair.lock.id), pair.book.unsettled(pair.lock.id))
    with pytest.raises(InvalidReceipt) as caught:
        pair.accept(signed, now)
    assert (pair.book.highest(pair.lock.id), pair.book.unsettled(pair.lock.id)) == before
    return caught.value.rule


def test_a4_a_replayed_receipt_is_refused(pair: Pair) -> None:
    old = pair.payer.sign(100, 1, CONTEXT)
    pair.accept(old)
    pair.accept(pair.payer.sign(300, 3, CONTEXT))
    assert a4_refusal(pair, old) == "cumulative"


def test_a4_another_receipt_for_the_same_amount_is_refused(pair: Pair) -> None:
    pair.accept(pair.payer.sign(300, 3, CONTEXT))
    assert a4_refusal(pair, pair.forged(context=b"d" * 32)) == "cumulative"
    assert a4_refusal(pair, pair.forged(units=4)) == "cumulative"


def test_a4_a_receipt_for_another_lock_is_refused(pair: Pair) -> None:
    assert a4_refusal(pair, pair.forged(lock=b"l" * 32)) == "lock"


def test_a4_a_receipt_for_another_network_is_refused(pair: Pair) -> None:
    assert a4_refusal(pair, pair.forged(network=b"n" * 32)) == "network"


def test_a4_a_receipt_below_what_is_settled_is_refused(pair: Pair) -> None:
    pair.book.watch(pair.world.settle(pair.lock, 300))
    assert a4_refusal(pair, pair.forged(cumulative=299)) == "cumulative"
    assert pair.accept(pair.forged(cumulative=301)) == 1


def test_a4_a_receipt_above_the_deposit_is_refused(pair: Pair) -> None:
    assert a4_refusal(pair, pair.forged(cumulative=1_001)) == "above-deposit"
    assert pair.accept(pair.forged(cumulative=1_000)) == 1_000


def test_a4_a_receipt_for_an_ended_lock_is_refused(pair: Pair) -> None:
    pair.book.watch(msgspec.structs.replace(pair.lock, seq=1, ended=1))
    assert a4_refusal(pair, pair.forged()) == "ended"


def test_a4_a_receipt_for_an_expired_lock_is_refused(pair: Pair) -> None:
    assert a4_refusal(pair, pair.forged(), pair.lock.expiry) == "expired"
    assert pair.accept(pair.forged(), pair.lock.expiry - 1) == 300


def test_a4_a_receipt_that_another_key_signed_is_refused(pair: Pair) -> None:
    with pytest.raises(BadSignature):
        pair.accept(pair.forged("bob"))
    assert pair.book.highest(pair.lock.id) is None


def test_a4_the_highest_receipt_under_a_false_signature_is_refused(pair: Pair) -> None:
    pair.accept(pair.forged())
    with pytest.raises(BadSignature):
        pair.accept(pair.forged("bob"))


@pytest.mark.parametrize("cumulative", [0, -1, 2**63, 2**64 - 1])
def test_a7_a_receipt_for_an_impossible_amount_is_refused(pair: Pair, cumulative: int) -> None:
    with pytest.raises((InvalidReceipt, Malformed)):
        pair.accept(pair.forged(cumulative=cumulative))


@pytest.mark.parametrize("body", [b"", b"\x95", b"\xc0", bytes(121), b"\x85" * 121])
def test_garbage_under_a_good_signature_is_no_receipt(pair: Pair, body: bytes) -> None:
    signed = SignedReceipt(body, key_of("alice session").sign(SIGN_RECEIPT, body))
    with pytest.raises(Malformed):
        pair.accept(signed)


def test_h4_the_quick_reader_and_the_careful_one_agree_on_every_changed_byte(pair: Pair) -> None:
    body = pair.forged().body
    for at in range(len(body)):
        for value in (0x00, 0x7F, 0x80, 0x90, 0x95, 0xC0, 0xC4, 0xCC, 0xCD, 0xCF, 0xD0, 0xFF):
            changed = body[:at] + bytes([value]) + body[at + 1 :]
            assert outcome(read_receipt, changed) == outcome(lambda raw: decode(raw, Receipt), changed)


@given(st.binary(max_size=140))
def test_h4_the_quick_reader_and_the_careful_one_agree_on_anything(raw: bytes) -> None:
    assert outcome(read_receipt, raw) == outcome(lambda data: decode(data, Receipt), raw)


def outcome(read: Callable[[bytes], Receipt], raw: bytes) -> Receipt | type[Error]:
    try:
        return read(raw)
    except Malformed:
        return Malformed


def test_a_lock_whose_receipts_need_several_signatures_is_not_booked(pair: Pair) -> None:
    judges = tuple(sorted(key_of(name).public for name in ("judge 1", "judge 2")))
    for threshold in (1, 2):
        with pytest.raises(InvalidReceipt) as caught:
            pair.book.watch(msgspec.structs.replace(pair.lock, authority=judges, threshold=threshold))
        assert caught.value.rule == "authority"


def test_an_older_state_of_a_lock_does_not_replace_a_newer_one(pair: Pair) -> None:
    settled = pair.world.settle(pair.lock, 300)
    pair.book.watch(settled)
    pair.book.watch(pair.lock)
    assert pair.book.lock(pair.lock.id) == settled


def test_only_the_newest_receipt_of_each_lock_need_reach_the_disk(pair: Pair) -> None:
    other = pair.world.open_lock()
    pair.book.watch(other)
    pair.accept(pair.payer.sign(100, 1, CONTEXT))
    last = pair.payer.sign(200, 2, CONTEXT)
    pair.accept(last)
    more = pair.world.payer(other).sign(10, 1, CONTEXT)
    pair.accept(more)
    assert pair.book.take_unsaved() == [(pair.lock.id, last), (other.id, more)]
    assert pair.book.take_unsaved() == []


def test_the_book_comes_back_from_its_journal_in_any_order(pair: Pair) -> None:
    receipts = [pair.payer.sign(amount, amount, CONTEXT) for amount in (100, 200, 300)]
    again = ReceiptBook(pair.world.network)
    again.watch(pair.lock)
    for signed in (receipts[1], receipts[2], receipts[0]):
        again.restore(signed)
    assert again.highest(pair.lock.id) == receipts[2]
    assert again.unsettled(pair.lock.id) == 300
    assert again.accept(receipts[2], NOW).gained == 0


def test_a_journal_that_was_tampered_with_is_refused(pair: Pair) -> None:
    with pytest.raises(BadSignature):
        pair.book.restore(pair.forged("bob"))
    with pytest.raises(InvalidReceipt):
        pair.book.restore(pair.forged(lock=b"l" * 32))
    with pytest.raises(InvalidReceipt):
        pair.book.restore(pair.forged(network=b"n" * 32))


def test_what_is_settled_is_no_longer_unsettled(pair: Pair) -> None:
    pair.accept(pair.forged(cumulative=400))
    pair.book.watch(pair.world.settle(pair.lock, 300))
    assert pair.book.unsettled(pair.lock.id) == 100
    pair.book.watch(msgspec.structs.replace(pair.lock, seq=2, ended=1))
    assert pair.book.unsettled(pair.lock.id) == 0


def test_a_forgotten_lock_is_unknown(pair: Pair) -> None:
    pair.accept(pair.forged())
    pair.book.forget(pair.lock.id)
    assert pair.book.highest(pair.lock.id) is None
    assert pair.book.lock(pair.lock.id) is None
    assert pair.book.unsettled(pair.lock.id) == 0
    assert pair.book.take_unsaved() == []
    assert pair.book.locks() == ()


def test_a_booked_receipt_settles_on_the_ledger(pair: Pair) -> None:
    pair.accept(pair.payer.sign(300, 3, CONTEXT))
    highest = pair.book.highest(pair.lock.id)
    assert highest is not None
    changes = pair.world.do(settle_operation(pair.lock, highest))
    assert [(made.account, made.amount) for _, made in changes.made] == [(pair.world.ids["bob"], 300)]


# --- the payer's counter ----------------------------------------------------------------------------


def test_the_payer_s_promises_only_grow(pair: Pair) -> None:
    pair.payer.sign(300, 3, CONTEXT)
    for cumulative in (299, 300, 0, -1):
        with pytest.raises(InvalidReceipt) as caught:
            pair.payer.sign(cumulative, 4, CONTEXT)
        assert caught.value.rule == "cumulative"
    assert pair.payer.left == 700


def test_the_payer_never_promises_more_than_the_deposit(pair: Pair) -> None:
    with pytest.raises(InvalidReceipt) as caught:
        pair.payer.sign(1_001, 1, CONTEXT)
    assert caught.value.rule == "above-deposit"
    pair.payer.sign(1_000, 1, CONTEXT)
    assert pair.payer.left == 0


def test_the_payer_never_says_fewer_units_than_before(pair: Pair) -> None:
    pair.payer.sign(300, 3, CONTEXT)
    with pytest.raises(InvalidReceipt) as caught:
        pair.payer.sign(400, 2, CONTEXT)
    assert caught.value.rule == "units"


def test_the_same_promise_again_is_the_same_receipt(pair: Pair) -> None:
    assert pair.payer.sign(300, 3, CONTEXT) is pair.payer.sign(300, 3, CONTEXT)


def test_a_payer_starts_from_what_the_ledger_has_paid(pair: Pair) -> None:
    payer = pair.world.payer(pair.world.settle(pair.lock, 300))
    with pytest.raises(InvalidReceipt):
        payer.sign(300, 3, CONTEXT)
    assert payer.left == 700


def test_a_payer_resumes_from_its_own_last_receipt(pair: Pair) -> None:
    last = pair.payer.sign(300, 3, CONTEXT)
    again = pair.world.payer(pair.lock)
    assert again.resume(last).cumulative == 300
    assert again.resume(last).cumulative == 300
    with pytest.raises(InvalidReceipt):
        again.sign(300, 4, CONTEXT)
    assert again.sign(301, 4, CONTEXT)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda pair: pair.forged("bob"), id="signed by somebody else"),
        pytest.param(lambda pair: pair.forged(lock=b"l" * 32), id="another Lock"),
        pytest.param(lambda pair: pair.forged(network=b"n" * 32), id="another network"),
        pytest.param(lambda pair: pair.forged(cumulative=50), id="lower than what is known"),
        pytest.param(lambda pair: pair.forged(cumulative=1_001), id="above the deposit"),
        pytest.param(lambda pair: SignedReceipt(b"\xc0", bytes(64)), id="no receipt"),
    ],
)
def test_a_payer_resumes_from_nothing_else(pair: Pair, make: Callable[[Pair], SignedReceipt]) -> None:
    pair.payer.sign(100, 1, CONTEXT)
    with pytest.raises((BadSignature, InvalidReceipt, Malformed)):
        pair.payer.resume(make(pair))
    assert pair.payer.cumulative == 100


@given(
    st.lists(
        st.tuples(st.integers(-5, 1_100), st.integers(0, 20), st.sampled_from([CONTEXT, b"d" * 32])),
        max_size=25,
    )
)
def test_whatever_is_asked_for_the_receipts_signed_are_in_order(asked: list[tuple[int, int, bytes]]) -> None:
    pair = PAIR
    payer = Payer(pair.world.network, pair.lock, key_of("alice session"))
    signed: list[Receipt] = []
    for cumulative, units, context in asked:
        try:
            receipt = decode(payer.sign(cumulative, units, context).body, Receipt)
        except InvalidReceipt:
            continue
        if not signed or signed[-1] != receipt:
            signed.append(receipt)
    amounts = [receipt.cumulative for receipt in signed]
    assert amounts == sorted(set(amounts))
    assert all(0 < amount <= 1_000 for amount in amounts)


PAIR = Pair()


def test_a4_a_mutant_that_forgets_to_compare_amounts_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ainp2p.ledger.rules.receipts.ReceiptBook._gain", lambda *_: 1)
    with pytest.raises(pytest.fail.Exception):
        test_a4_a_replayed_receipt_is_refused(Pair())
    with pytest.raises(pytest.fail.Exception):
        test_a4_a_receipt_above_the_deposit_is_refused(Pair())


def test_a4_a_mutant_that_verifies_nothing_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ainp2p.ledger.rules.receipts.verify", lambda *_: None)
    with pytest.raises(pytest.fail.Exception):
        test_a4_a_receipt_that_another_key_signed_is_refused(Pair())


def test_a4_a_mutant_that_looks_at_no_network_is_caught() -> None:
    class Anywhere(bytes):
        def __eq__(self, other: object) -> bool:
            return True

        def __ne__(self, other: object) -> bool:
            return False

        __hash__ = bytes.__hash__

    pair = Pair()
    pair.book._network = Anywhere(pair.world.network)
    with pytest.raises(pytest.fail.Exception):
        test_a4_a_receipt_for_another_network_is_refused(pair)


def test_a4_a_mutant_payer_without_order_is_caught(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ainp2p.ledger.rules.receipts.Payer._refuse", lambda *_: None)
    with pytest.raises(pytest.fail.Exception):
        test_the_payer_s_promises_only_grow(pair)


def test_a_signed_receipt_travels(pair: Pair) -> None:
    signed = pair.forged()
    assert decode(encode(signed), SignedReceipt) == signed
