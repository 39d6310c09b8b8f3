"""The two faces of a vault's key: neither signs what it was not made for."""

from __future__ import annotations

import pytest

from ainp2p.agents.signers import MONEY_PURPOSES, PurposeSigner, WalletSigner
from ainp2p.errors import Closed, InvalidInput, PolicyRefused
from ainp2p.ledger.rules.operations import SIGN_CLOSE, SIGN_OPERATION
from ainp2p.ledger.rules.receipts import SIGN_RECEIPT
from ainp2p.protocol.identity import verify

from .vault_world import HASH, KEY

CARD = b"ainp2p/card/1"


def nothing() -> None:
    """The vault is well."""


def closed() -> None:
    raise Closed("the vault is closed")


class Approvals:
    """A vault that knows one approved id."""

    def __init__(self, *approved: bytes) -> None:
        self.approved = set(approved)

    async def approve(self, raw: bytes) -> None:
        self.approved.add(raw)

    def withdraw(self, raw: bytes) -> None:
        self.approved.discard(raw)

    def use_approval(self, id_: bytes) -> None:
        if id_ not in self.approved:
            raise PolicyRefused("approval", 0)
        self.approved.remove(id_)

    def check(self) -> None:
        """It is well."""


def test_it_signs_for_its_purposes() -> None:
    signer = PurposeSigner(KEY, [CARD, b"other"], nothing)
    assert signer.public == KEY.public
    verify(KEY.public, CARD, b"payload", signer.sign(CARD, b"payload"))
    verify(KEY.public, b"other", b"payload", signer.sign(b"other", b"payload"))


@pytest.mark.parametrize("purpose", [b"", b"ainp2p/card/2", b"ainp2p/card/1\0", *sorted(MONEY_PURPOSES)])
def test_it_signs_for_no_other_purpose(purpose: bytes) -> None:
    with pytest.raises(PolicyRefused) as caught:
        PurposeSigner(KEY, [CARD], nothing).sign(purpose, b"payload")
    assert caught.value.rule == "purpose"


@pytest.mark.parametrize("purpose", [SIGN_OPERATION, SIGN_CLOSE, SIGN_RECEIPT, b"", b"ainp2p/op/1\0"])
def test_it_is_not_made_for_purposes_that_move_money(purpose: bytes) -> None:
    with pytest.raises(InvalidInput):
        PurposeSigner(KEY, [CARD, purpose], nothing)


def test_e12_mutant_a_zero_byte_in_a_purpose_would_pass_for_another() -> None:
    """Why the zero byte is refused: the same bytes, read under two purposes."""
    signature = KEY.sign(b"ainp2p/op/1\0harmless", b"payload")
    verify(KEY.public, b"ainp2p/op/1", b"harmless\0payload", signature)


def test_a_wallet_signs_an_approved_operation_once() -> None:
    signer = WalletSigner(KEY, Approvals(HASH))
    verify(KEY.public, SIGN_OPERATION, HASH, signer.sign(SIGN_OPERATION, HASH))
    with pytest.raises(PolicyRefused, match="approval"):
        signer.sign(SIGN_OPERATION, HASH)


async def test_a_wallet_asks_the_vault() -> None:
    approvals = Approvals()
    signer = WalletSigner(KEY, approvals)
    await signer.approve(HASH)
    assert approvals.approved == {HASH}
    signer.withdraw(HASH)
    with pytest.raises(PolicyRefused):
        signer.sign(SIGN_OPERATION, HASH)


def test_a_wallet_closes_locks_that_pay_it() -> None:
    verify(KEY.public, SIGN_CLOSE, HASH, WalletSigner(KEY, Approvals()).sign(SIGN_CLOSE, HASH))


@pytest.mark.parametrize("purpose", [SIGN_RECEIPT, CARD, b""])
def test_a_wallet_signs_nothing_else(purpose: bytes) -> None:
    with pytest.raises(PolicyRefused, match="purpose"):
        WalletSigner(KEY, Approvals(HASH)).sign(purpose, HASH)


def test_signers_stop_with_their_vault(monkeypatch: pytest.MonkeyPatch) -> None:
    approvals = Approvals(HASH)
    monkeypatch.setattr(approvals, "check", closed)
    for signer, purpose in (
        (PurposeSigner(KEY, [CARD], closed), CARD),
        (WalletSigner(KEY, approvals), SIGN_OPERATION),
        (WalletSigner(KEY, approvals), SIGN_CLOSE),
    ):
        with pytest.raises(Closed):
            signer.sign(purpose, HASH)
