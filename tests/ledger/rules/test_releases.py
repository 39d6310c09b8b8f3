from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.errors import BadSignature, InvalidOperation, InvalidReceipt, Malformed
from ainp2p.ledger.rules.locks import ANY_PAYEE, Lock
from ainp2p.ledger.rules.operations import Share
from ainp2p.ledger.rules.receipts import Release, close_operation, read_receipt, settle_operation
from ainp2p.ledger.rules.releases import Partial, ReleaseBook, sign_release

from ..world import World, key_of

JUDGES = ("judge 1", "judge 2", "judge 3")


def escrow(world: World, **changes: Any) -> Lock:
    """1,000 uain from alice to bob, released by two of three judges."""
    keys = tuple(sorted(key_of(name).public for name in JUDGES))
    return world.open_lock(authority=keys, threshold=2, **changes)


def bounty(world: World) -> Lock:
    return escrow(world, beneficiaries=(Share(ANY_PAYEE, 1),))


def signed_by(
    world: World, lock: Lock, names: tuple[str, ...], cumulative: int, **more: Any
) -> Release | None:
    book = ReleaseBook(world.network)
    found = None
    for name in names:
        found = book.add(lock, sign_release(world.network, lock, cumulative, key_of(name), **more))
    return found


@pytest.mark.parametrize("names", [JUDGES[:2], JUDGES[1:], (JUDGES[2], JUDGES[0])])
def test_any_two_of_three_release_an_escrow(names: tuple[str, ...]) -> None:
    world = World()
    lock = escrow(world)
    release = signed_by(world, lock, names, 600)
    assert release is not None
    before = world.wealth("bob")
    world.do(settle_operation(lock, release))
    assert world.wealth("bob") == before + 600


def test_one_judge_alone_releases_nothing() -> None:
    world = World()
    assert signed_by(world, escrow(world), JUDGES[:1], 600) is None


def test_two_judges_who_say_different_things_release_nothing() -> None:
    world = World()
    lock = escrow(world)
    book = ReleaseBook(world.network)
    book.add(lock, sign_release(world.network, lock, 600, key_of("judge 1")))
    assert book.add(lock, sign_release(world.network, lock, 601, key_of("judge 2"))) is None
    assert book.add(lock, sign_release(world.network, lock, 601, key_of("judge 2"), reason=b"x")) is None


def test_three_signatures_are_cut_to_two() -> None:
    world = World()
    lock = escrow(world)
    release = signed_by(world, lock, JUDGES, 600)
    assert release is not None
    assert len(release.signatures) == 2
    world.do(settle_operation(lock, release))


def test_the_highest_release_is_kept() -> None:
    world = World()
    lock = escrow(world)
    book = ReleaseBook(world.network)
    for cumulative in (300, 700, 500):
        for name in JUDGES[:2]:
            book.add(lock, sign_release(world.network, lock, cumulative, key_of(name)))
    best = book.highest(lock.id)
    assert best is not None
    assert read_receipt(best.body).cumulative == 700


def test_anybody_closes_an_expired_escrow_at_the_release() -> None:
    world = World()
    lock = escrow(world)
    release = signed_by(world, lock, JUDGES[:2], 600)
    assert release is not None
    before = world.wealth("bob")
    world.now = lock.expiry
    world.do(close_operation(world.network, lock, release))
    assert world.wealth("bob") == before + 600


def test_a_bounty_pays_whom_its_verifiers_name() -> None:
    world = World()
    lock = bounty(world)
    before = world.wealth("carol")
    first = signed_by(world, lock, JUDGES[:2], 400, payee=world.ids["carol"])
    assert first is not None
    lock = world.do(settle_operation(lock, first)).locks[0]
    assert world.wealth("carol") == before + 400
    second = signed_by(world, lock, JUDGES[1:], 1_000, payee=world.ids["bob"])
    assert second is not None
    before = world.wealth("bob")
    world.do(settle_operation(lock, second))
    assert world.wealth("bob") == before + 600  # what comes on top of what carol has


def test_a_bounty_that_nobody_earns_goes_back_to_its_payer() -> None:
    world = World()
    before = world.wealth("alice")
    lock = bounty(world)
    world.now = lock.expiry
    world.do(close_operation(world.network, lock))
    fee = before - world.wealth("alice")
    assert fee == 1_000 // 10 + 2 + 1
    assert world.state.locks[lock.id].ended


def test_a_release_that_names_nobody_pays_nobody() -> None:
    world = World()
    lock = bounty(world)
    release = signed_by(world, lock, JUDGES[:2], 400, payee=world.ids["carol"])
    assert release is not None
    receipt = msgspec.structs.replace(read_receipt(release.body), context=ANY_PAYEE)
    from ainp2p.ledger.rules.receipts import SIGN_RECEIPT
    from ainp2p.protocol.codec import encode

    body = encode(receipt)
    keys = sorted((key_of(name) for name in JUDGES), key=lambda key: key.public)[:2]
    forged = Release(body, tuple(key.sign(SIGN_RECEIPT, body) for key in keys))
    with pytest.raises(InvalidOperation) as refused:
        world.do(settle_operation(lock, forged))
    assert refused.value.rule == "payee"


def test_only_one_of_two_payees_for_one_amount_is_paid() -> None:
    world = World()
    lock = bounty(world)
    to_bob = signed_by(world, lock, JUDGES[:2], 400, payee=world.ids["bob"])
    to_carol = signed_by(world, lock, JUDGES[1:], 400, payee=world.ids["carol"])
    assert to_bob is not None
    assert to_carol is not None
    after = world.do(settle_operation(lock, to_bob)).locks[0]
    with pytest.raises(InvalidOperation) as refused:
        world.do(settle_operation(after, to_carol))
    assert refused.value.rule == "cumulative"


def test_mutant_a_payee_that_is_not_signed_lets_anybody_take_a_bounty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Were the context outside of what verifiers sign, whoever submits could put its own name in."""
    from ainp2p.ledger.rules import state

    world = World()
    lock = bounty(world)
    release = signed_by(world, lock, JUDGES[:2], 400, payee=world.ids["carol"])
    assert release is not None
    receipt = read_receipt(release.body)
    from ainp2p.protocol.codec import encode

    stolen = Release(encode(msgspec.structs.replace(receipt, context=world.ids["bob"])), release.signatures)
    with pytest.raises(BadSignature):
        world.do(settle_operation(lock, stolen))
    monkeypatch.setattr(state, "verify_receipt", lambda *_: None)
    before = world.wealth("bob")
    world.do(settle_operation(lock, stolen))
    assert world.wealth("bob") > before


@pytest.mark.parametrize(
    ("rule", "name", "cumulative", "payee"),
    [
        pytest.param("authority", "bob", 600, None, id="no judge"),
        pytest.param("above-deposit", "judge 1", 1_001, None, id="more than is there"),
        pytest.param("cumulative", "judge 1", 0, None, id="nothing"),
        pytest.param("payee", "judge 1", 600, b"p" * 32, id="a payee for an escrow"),
    ],
)
def test_a_judge_does_not_sign(rule: str, name: str, cumulative: int, payee: bytes | None) -> None:
    world = World()
    with pytest.raises(InvalidReceipt) as refused:
        sign_release(world.network, escrow(world), cumulative, key_of(name), payee=payee)
    assert refused.value.rule == rule


@pytest.mark.parametrize("payee", [None, ANY_PAYEE], ids=["nobody", "anybody"])
def test_a_judge_does_not_sign_a_bounty_for(payee: bytes | None) -> None:
    world = World()
    with pytest.raises(InvalidReceipt) as refused:
        sign_release(world.network, bounty(world), 600, key_of("judge 1"), payee=payee)
    assert refused.value.rule == "payee"


def test_a_judge_does_not_sign_for_a_lock_that_has_ended() -> None:
    world = World()
    lock = msgspec.structs.replace(escrow(world), ended=1)
    with pytest.raises(InvalidReceipt) as refused:
        sign_release(world.network, lock, 600, key_of("judge 1"))
    assert refused.value.rule == "ended"


def test_parts_that_are_not_what_they_say_are_refused() -> None:
    world = World()
    lock, other = escrow(world), escrow(world)
    book = ReleaseBook(world.network)
    part = sign_release(world.network, lock, 600, key_of("judge 1"))
    with pytest.raises(InvalidReceipt, match="lock"):
        book.add(other, part)
    with pytest.raises(InvalidReceipt, match="network"):
        ReleaseBook(b"n" * 32).add(lock, part)
    with pytest.raises(InvalidReceipt, match="authority"):
        book.add(lock, msgspec.structs.replace(part, key=key_of("bob").public))
    with pytest.raises(BadSignature):
        book.add(lock, msgspec.structs.replace(part, key=key_of("judge 2").public))
    with pytest.raises(Malformed):
        book.add(lock, Partial(b"junk", part.key, part.signature))
    with pytest.raises(BadSignature):
        book.add_whole(lock, Release(part.body, (part.signature,)))
    with pytest.raises(BadSignature):
        book.add_whole(lock, Release(part.body, (part.signature, part.signature)))


def test_a_judge_that_signs_for_ever_takes_no_room() -> None:
    world = World()
    lock = escrow(world)
    book = ReleaseBook(world.network)
    for cumulative in range(1, 100):
        book.add(lock, sign_release(world.network, lock, cumulative, key_of("judge 1")))
    assert len(book._parts[lock.id]) == 4
    best = book.add(lock, sign_release(world.network, lock, 99, key_of("judge 3")))
    assert best is not None


@given(st.permutations([(name, cumulative) for name in JUDGES for cumulative in (200, 500, 900)]))
def test_the_order_of_parts_does_not_matter(order: list[tuple[str, int]]) -> None:
    book = ReleaseBook(WORLD.network)
    seen: dict[int, set[str]] = {}
    for name, cumulative in order:
        book.add(LOCK, sign_release(WORLD.network, LOCK, cumulative, key_of(name)))
        seen.setdefault(cumulative, set()).add(name)
        whole = [sum_ for sum_, names in seen.items() if len(names) >= 2]
        best = book.highest(LOCK.id)
        assert (read_receipt(best.body).cumulative if best is not None else None) == max(whole, default=None)


WORLD = World()
LOCK = escrow(WORLD)
