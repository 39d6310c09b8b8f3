from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.errors import BadSignature, Error, Expired, InvalidInput, Malformed, Refused
from ainp2p.ledger.rules.accounts import Account, unopened_account
from ainp2p.ledger.rules.operations import plain_inception
from ainp2p.ledger.rules.receipts import SIGN_RECEIPT
from ainp2p.ledger.wallets import delegation
from ainp2p.ledger.wallets.delegation import (
    SIGN_DELEGATION,
    Delegation,
    Fences,
    SignedDelegation,
    seal_delegation,
    verify_delegated,
    verify_for,
)
from ainp2p.protocol.codec import encode

from ..world import key_of

NETWORK = b"n" * 32
NOW = 5_000
CARD = b"ainp2p/card/1"


def account(name: str = "owner") -> Account:
    return unopened_account(NETWORK, plain_inception(key_of(name).public))


def made(**changes: Any) -> Delegation:
    good = Delegation(
        NETWORK, account().id, key_of("host").public, 1, NOW, NOW + 1_000, tuple(sorted((CARD, SIGN_RECEIPT)))
    )
    return msgspec.structs.replace(good, **changes)


def sealed(by: str = "owner", **changes: Any) -> SignedDelegation:
    return seal_delegation(made(**changes), key_of(by))


def check(
    signed: SignedDelegation, fences: Fences | None = None, state: Account | None = None, **changes: Any
) -> Delegation:
    arguments: dict[str, Any] = {"network": NETWORK, "now_ms": NOW, "purpose": SIGN_RECEIPT} | changes
    return verify_delegated(signed, state or account(), fences=fences or Fences(), **arguments)


def test_a_session_key_signs_for_its_account() -> None:
    signature = key_of("host").sign(SIGN_RECEIPT, b"payload")
    verify_for(
        sealed(),
        account(),
        b"payload",
        signature,
        network=NETWORK,
        now_ms=NOW,
        purpose=SIGN_RECEIPT,
        fences=Fences(),
    )
    with pytest.raises(BadSignature):
        verify_for(
            sealed(),
            account(),
            b"another",
            signature,
            network=NETWORK,
            now_ms=NOW,
            purpose=SIGN_RECEIPT,
            fences=Fences(),
        )


@pytest.mark.parametrize("now_ms", [NOW - 1, NOW + 1_000], ids=["too early", "too late"])
def test_it_counts_only_in_its_time(now_ms: int) -> None:
    with pytest.raises(Expired):
        check(sealed(), now_ms=now_ms)
    check(sealed(), now_ms=NOW + 999)


@pytest.mark.parametrize(
    ("code", "changes", "asked"),
    [
        pytest.param("network", {"network": b"o" * 32}, {}, id="another network"),
        pytest.param("account", {"account": b"o" * 32}, {}, id="another account"),
        pytest.param("purpose", {}, {"purpose": b"ainp2p/op/1"}, id="a purpose that was not given"),
    ],
)
def test_a_delegation_is_refused(code: str, changes: dict[str, Any], asked: dict[str, Any]) -> None:
    with pytest.raises(Refused) as refused:
        check(sealed(**changes), **asked)
    assert refused.value.code == code


def test_only_the_accounts_current_key_delegates() -> None:
    with pytest.raises(BadSignature):
        check(sealed(by="host"))
    rotated = msgspec.structs.replace(account(), key=key_of("owner'").public)
    with pytest.raises(BadSignature):
        check(sealed(), state=rotated)  # rotation and recovery end what was delegated before
    assert check(sealed(by="owner'"), state=rotated).epoch == 1


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"epoch": 0}, id="no epoch"),
        pytest.param({"not_after": NOW}, id="no time"),
        pytest.param({"purposes": (SIGN_RECEIPT, CARD)}, id="not sorted"),
        pytest.param({"purposes": (CARD, CARD)}, id="named twice"),
    ],
)
def test_what_could_never_be_valid_is_not_sealed(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        sealed(**changes)


def test_bytes_that_are_no_delegation_are_refused() -> None:
    with pytest.raises(Malformed):
        check(SignedDelegation(b"junk", bytes(64)))
    body = encode(made(purposes=(SIGN_RECEIPT, CARD)))
    with pytest.raises(Malformed, match="sorted"):
        check(SignedDelegation(body, key_of("owner").sign(SIGN_DELEGATION, body)))


def test_v5_nothing_counts_after_a_newer_epochs_delegation() -> None:
    fences = Fences()
    old, new = sealed(epoch=1), sealed(epoch=2, key=key_of("standby").public)
    check(old, fences)
    check(new, fences)
    with pytest.raises(Refused) as refused:
        check(old, fences)
    assert refused.value.code == "fenced"
    check(new, Fences(fences.seen))  # the disk keeps what was seen
    with pytest.raises(Refused):
        check(old, Fences(fences.seen))


def test_v5_an_epoch_has_one_holder() -> None:
    fences = Fences()
    check(sealed(), fences)
    check(sealed(not_after=NOW + 5_000), fences)  # the same holder, for longer
    with pytest.raises(Refused):
        check(sealed(key=key_of("standby").public), fences)


def test_what_is_refused_fences_nobody_off() -> None:
    fences = Fences()
    for bad in (sealed(by="host", epoch=9), sealed(epoch=9, not_before=NOW + 1)):
        with pytest.raises(Error):
            check(bad, fences)
    assert fences.epoch(account().id) == 0
    check(sealed(), fences)


@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from(["host", "standby"])), max_size=20))
def test_v5_epochs_grow_and_each_has_one_holder(order: list[tuple[int, str]]) -> None:
    fences = Fences()
    accepted: list[tuple[int, str]] = []
    for epoch, holder in order:
        try:
            check(sealed(epoch=epoch, key=key_of(holder).public), fences)
        except Refused:
            continue
        accepted.append((epoch, holder))
    assert [epoch for epoch, _ in accepted] == sorted(epoch for epoch, _ in accepted)
    assert len(set(accepted)) == len({epoch for epoch, _ in accepted})


def test_mutant_without_fences_the_old_holder_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fences, "admit", lambda *_: None)
    fences = Fences()
    check(sealed(epoch=2, key=key_of("standby").public), fences)
    check(sealed(epoch=1), fences)  # both hold the agent


def test_mutant_a_seal_that_is_not_checked_lets_anybody_be_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delegation, "verify", lambda *_: None)
    check(sealed(by="thief", key=key_of("thief").public))


def test_a_session_key_is_a_locks_authority_and_closer() -> None:
    """A Lock takes any keys: what a lost session key can cost is bounded by its deposit."""
    from ainp2p.ledger.rules.receipts import Payer, close_operation

    from ..world import World

    world = World()
    host = key_of("host")
    lock = world.open_lock(authority=(host.public,), closer=host.public)
    receipt = Payer(world.network, lock, host).sign(400, 1, b"c" * 32)
    before = world.wealth("bob")
    world.do(close_operation(world.network, lock, receipt, host))
    assert world.wealth("bob") == before + 400
