from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.errors import BadSignature, InvalidInput, InvalidReceipt, LedgerError, Malformed, RemoteError
from ainp2p.ledger.rules.operations import purpose_digest
from ainp2p.ledger.rules.receipts import Payer, SignedReceipt
from ainp2p.ledger.wallets import iou
from ainp2p.ledger.wallets.iou import (
    Iou,
    IouBook,
    Line,
    Party,
    Settlement,
    SignedIou,
    SignedLine,
    new_line,
    open_line,
    settlement_purpose,
    sign_line,
)
from ainp2p.protocol.codec import encode

from ..world import World, key_of

NETWORK = b"n" * 32
LIMIT = 1_000
CONTEXT = b"c" * 32


def party(name: str, limit: int = LIMIT) -> Party:
    return Party(name.encode().ljust(32, b"-"), key_of(name).public, limit)


def line_of(alice: int = LIMIT, bob: int = LIMIT, network: bytes = NETWORK) -> Line:
    return new_line(network, party("alice", alice), party("bob", bob), b"s" * 32)


def pair(line: Line | None = None) -> tuple[IouBook, IouBook]:
    line = line or line_of()
    return IouBook(line, party("alice").account), IouBook(line, party("bob").account)


def pay(payer: IouBook, payee: IouBook, name: str, amount: int, units: int = 0) -> SignedIou:
    signed = payer.promise(amount, units, CONTEXT, key_of(name))
    assert payee.accept(signed) == amount
    return signed


def signed(line: Line, *names: str) -> SignedLine:
    keys = {key_of(name).public: key_of(name) for name in names}
    return SignedLine(encode(line), tuple(sign_line(line, keys[p.key]) for p in line.parties))


def test_promises_of_both_directions_are_netted() -> None:
    alice, bob = pair()
    pay(alice, bob, "alice", 300)
    pay(bob, alice, "bob", 100)
    pay(alice, bob, "alice", 50)
    assert (alice.balance, bob.balance) == (-250, 250)
    assert (alice.due, bob.due) == (250, 0)
    assert alice.credit_left == LIMIT - 250


def test_what_the_other_owes_makes_room() -> None:
    alice, bob = pair(line_of(alice=100))
    pay(bob, alice, "bob", 400)
    pay(alice, bob, "alice", 500)
    with pytest.raises(InvalidReceipt) as refused:
        alice.promise(1, 0, CONTEXT, key_of("alice"))
    assert refused.value.rule == "limit"


def test_the_highest_again_changes_nothing() -> None:
    alice, bob = pair()
    first = pay(alice, bob, "alice", 300)
    assert bob.accept(first) == 0
    assert bob.balance == 300


def forged(book: IouBook, name: str, **changes: Any) -> SignedIou:
    """An IOU of alice's over 100 uain, with other fields, signed well by `name`."""
    good = Iou(book.id, party("alice").account, 100, 0, CONTEXT)
    body = encode(msgspec.structs.replace(good, **changes))
    return SignedIou(body, key_of(name).sign(iou.SIGN_IOU, body))


def test_a4_a_replayed_iou_is_refused() -> None:
    alice, bob = pair()
    old = pay(alice, bob, "alice", 300, units=3)
    pay(alice, bob, "alice", 1, units=4)
    with pytest.raises(InvalidReceipt) as refused:
        bob.accept(old)
    assert refused.value.rule == "cumulative"


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        pytest.param("line", {"line": b"o" * 32}, id="another line"),
        pytest.param("limit", {"cumulative": LIMIT + 1}, id="over the limit"),
        pytest.param("cumulative", {"cumulative": 0}, id="nothing"),
    ],
)
def test_an_iou_is_refused(rule: str, changes: dict[str, Any]) -> None:
    _, bob = pair()
    with pytest.raises(InvalidReceipt) as refused:
        bob.accept(forged(bob, "alice", **changes))
    assert (refused.value.rule, bob.balance) == (rule, 0)


def test_an_iou_of_ours_shown_back_is_refused() -> None:
    alice, _ = pair()
    with pytest.raises(InvalidReceipt) as refused:
        alice.accept(forged(alice, "alice"))
    assert refused.value.rule == "debtor"


def test_an_iou_with_fewer_units_is_refused() -> None:
    alice, bob = pair()
    pay(alice, bob, "alice", 1, units=9)
    with pytest.raises(InvalidReceipt) as refused:
        bob.accept(forged(bob, "alice", units=8))
    assert refused.value.rule == "units"


def test_an_iou_that_somebody_else_signed_is_refused() -> None:
    _, bob = pair()
    with pytest.raises(BadSignature):
        bob.accept(forged(bob, "carol"))
    with pytest.raises(Malformed):
        bob.accept(SignedIou(b"junk", bytes(64)))


def test_nobody_promises_with_another_key_or_nothing() -> None:
    alice, _ = pair()
    with pytest.raises(InvalidInput):
        alice.promise(1, 0, CONTEXT, key_of("bob"))
    with pytest.raises(InvalidReceipt):
        alice.promise(0, 0, CONTEXT, key_of("alice"))


def test_a_line_of_another_network_is_refused() -> None:
    line = line_of(network=b"o" * 32)
    with pytest.raises(InvalidReceipt) as refused:
        open_line(signed(line, "alice", "bob"), NETWORK)
    assert refused.value.rule == "network"


def test_a_line_needs_both_signatures() -> None:
    line = line_of()
    assert open_line(signed(line, "alice", "bob"), NETWORK) == line
    good = signed(line, "alice", "bob")
    with pytest.raises(BadSignature):
        open_line(SignedLine(good.body, (good.signatures[0], good.signatures[0])), NETWORK)
    dearer = encode(line_of(alice=LIMIT + 1))
    with pytest.raises(BadSignature):
        open_line(SignedLine(dearer, good.signatures), NETWORK)


def test_lines_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InvalidInput):
        new_line(NETWORK, party("alice"), party("alice"), bytes(32))
    with pytest.raises(InvalidInput):
        new_line(NETWORK, party("alice", 0), party("bob", 0), bytes(32))
    with pytest.raises(InvalidInput):
        IouBook(line_of(), party("carol").account)
    line = line_of()
    turned = Line(2, line.network, line.parties, line.salt)
    with pytest.raises(InvalidReceipt, match="version"):
        open_line(signed(turned, "alice", "bob"), NETWORK)
    turned = Line(1, line.network, (line.parties[1], line.parties[0]), line.salt)
    with pytest.raises(InvalidReceipt, match="parties"):
        open_line(signed(turned, "alice", "bob"), NETWORK)


def test_an_iou_is_no_receipt_and_a_receipt_no_iou() -> None:
    world = World()
    lock = world.open_lock()
    receipt = world.receipt(lock, 100)
    alice, bob = pair()
    with pytest.raises((Malformed, BadSignature, InvalidReceipt)):
        bob.accept(SignedIou(receipt.body, receipt.signature))
    from ainp2p.ledger.rules.receipts import verify_receipt

    promised = alice.promise(5, 0, CONTEXT, key_of("alice"))
    lock = msgspec.structs.replace(lock, authority=(key_of("alice").public,))
    with pytest.raises(BadSignature):
        verify_receipt(lock, promised.body, (promised.signature,))


STEPS = st.lists(st.tuples(st.booleans(), st.integers(-5, 700), st.booleans()), max_size=30)


@given(STEPS)
def test_what_a_debtor_can_refuse_is_bounded_by_its_limit(steps: list[tuple[bool, int, bool]]) -> None:
    """Whatever is promised, lost on the way, or accepted: nobody ever holds more than the limit."""
    alice, bob = pair(line_of(alice=1_000, bob=300))
    for by_alice, amount, arrives in steps:
        payer, payee, name = (alice, bob, "alice") if by_alice else (bob, alice, "bob")
        try:
            made = payer.promise(amount, 0, CONTEXT, key_of(name))
            if arrives:
                payee.accept(made)
        except (LedgerError, RemoteError):
            continue
        assert bob.balance <= 1_000
        assert alice.balance <= 300


def test_mutant_without_the_limit_a_debtor_owes_what_it_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(IouBook, "_refuse", lambda *_: None)
    _, bob = pair()
    bob.accept(forged(bob, "alice", cumulative=10 * LIMIT))
    assert bob.balance > LIMIT


def test_mutant_without_the_order_a_replay_takes_back_what_is_owed(monkeypatch: pytest.MonkeyPatch) -> None:
    alice, bob = pair()
    old = pay(alice, bob, "alice", 100)
    pay(alice, bob, "alice", 500)
    monkeypatch.setattr(IouBook, "_refuse", lambda *_: None)
    bob.accept(old)
    assert bob.balance == 100  # the debtor paid 500 by showing an old paper


# --- settling -------------------------------------------------------------------------------------


class Settled:
    """A world in which alice owes bob 400 uain on a line, and has opened the Lock that settles it."""

    def __init__(self, **changes: Any) -> None:
        self.world = world = World()
        parties = [Party(world.ids[n], key_of(n).public, LIMIT) for n in ("alice", "bob")]
        self.line = new_line(world.network, parties[0], parties[1], b"s" * 32)
        self.alice = IouBook(self.line, world.ids["alice"])
        self.bob = IouBook(self.line, world.ids["bob"])
        pay(self.alice, self.bob, "alice", 400)
        terms: dict[str, Any] = {
            "deposit": 400,
            "authority": (key_of("alice").public,),
            "purpose": purpose_digest(self.alice.purpose),
        }
        self.lock = world.open_lock(**(terms | changes))
        self.receipt = self.sign(400)

    def sign(self, cumulative: int) -> SignedReceipt:
        return Payer(self.world.network, self.lock, key_of("alice")).sign(cumulative, 0, self.line.id)

    def take(self, **changes: Any) -> int:
        good = Settlement(self.line.id, self.lock.id, self.receipt)
        settlement = msgspec.structs.replace(good, **changes)
        return self.bob.take_settlement(self.lock, settlement, self.world.now, 1_000)


def test_a_lock_settles_a_line_once() -> None:
    made = Settled()
    assert made.take() == 400
    assert made.bob.balance == 0
    with pytest.raises(InvalidReceipt, match="lock"):
        made.take()
    made.alice.note_settled(400)
    assert made.alice.balance == 0
    pay(made.alice, made.bob, "alice", LIMIT)  # there is credit again


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"purpose": purpose_digest(b"goods")}, id="a Lock that pays for something else"),
        pytest.param({"closer": key_of("alice").public}, id="the debtor may end it"),
        pytest.param({"purpose": purpose_digest(settlement_purpose(b"o" * 32, 0))}, id="another line's"),
    ],
)
def test_a_lock_with_other_terms_settles_nothing(changes: dict[str, Any]) -> None:
    made = Settled(**changes)
    with pytest.raises(InvalidReceipt) as refused:
        made.take()
    assert (refused.value.rule, made.bob.balance) == ("lock", 400)


def test_a_receipt_for_less_than_the_lock_settles_nothing() -> None:
    made = Settled()
    with pytest.raises(InvalidReceipt):
        made.take(receipt=made.sign(399))
    with pytest.raises(InvalidReceipt, match="line"):
        made.take(line=b"o" * 32)
    with pytest.raises(BadSignature):
        made.take(receipt=SignedReceipt(made.receipt.body, bytes(64)))
    made.world.now = made.lock.expiry - 1_000
    with pytest.raises(InvalidReceipt, match="expire"):
        made.take()
    assert made.bob.balance == 400


def test_mutant_a_lock_of_any_purpose_would_settle_a_line_and_pay_for_goods(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = Settled(purpose=purpose_digest(b"goods"))
    monkeypatch.setattr(iou, "purpose_digest", lambda _: purpose_digest(b"goods"))
    assert made.take() == 400  # one deposit, counted twice
