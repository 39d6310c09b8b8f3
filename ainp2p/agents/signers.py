"""The two faces of a vault's key that others are handed: one that moves no money, and the wallet's.

Both have the shape that cards, messages and wallets expect of a signer (`public` and `sign`), and both stop
when the vault does. Receipts have no such face: they are signed by `Vault.sign_receipt` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from ainp2p.errors import InvalidInput, PolicyRefused
from ainp2p.ledger.rules.operations import SIGN_CLOSE, SIGN_OPERATION
from ainp2p.ledger.rules.receipts import SIGN_RECEIPT
from ainp2p.protocol.identity import Key

MONEY_PURPOSES = frozenset({SIGN_OPERATION, SIGN_CLOSE, SIGN_RECEIPT})


class PurposeSigner:
    """Signs under a few purposes, none of which moves money; `Vault.signer` makes it."""

    __slots__ = ("_check", "_key", "_purposes", "public")

    def __init__(self, key: Key, purposes: Iterable[bytes], check: Callable[[], None]) -> None:
        """Args: `check` raises when the vault signs nothing any more.

        Raises:
            InvalidInput: one of the purposes moves money, or is no purpose.
        """
        self._purposes = frozenset(purposes)
        for purpose in self._purposes:
            # Purpose and payload are joined by a zero byte: one inside would let a purpose pass for another.
            if purpose in MONEY_PURPOSES or not purpose or b"\0" in purpose:
                raise InvalidInput(f"{purpose!r} is not signed this way; the vault has typed calls for money")
        self._key, self._check, self.public = key, check, key.public

    def sign(self, purpose: bytes, payload: bytes) -> bytes:
        """A 64-byte signature.

        Raises:
            PolicyRefused: the purpose is not among those that were asked for.
        """
        self._check()
        if purpose not in self._purposes:
            raise PolicyRefused("purpose", 0, hint=f"this signer does not sign {purpose!r}")
        return self._key.sign(purpose, payload)


class Approvals(Protocol):
    """What a wallet's signer asks: the vault."""

    async def approve(self, raw: bytes) -> None:
        """Check and debit an operation, durably."""

    def withdraw(self, raw: bytes) -> None:
        """Take an unused approval back."""

    def use_approval(self, id_: bytes) -> None:
        """Count an approved operation as signed; raises if it was not approved."""

    def check(self) -> None:
        """Raise unless the vault signs."""


class WalletSigner:
    """The wallet's signer: an operation is signed if its bytes were approved before, and once.

    A CLOSE is signed freely: it ends a Lock that pays *us*, and can give up only what is not claimed.
    """

    __slots__ = ("_approvals", "_key", "public")

    def __init__(self, key: Key, approvals: Approvals) -> None:
        self._key, self._approvals, self.public = key, approvals, key.public

    async def approve(self, raw: bytes) -> None:
        """As `Vault.approve`: to be called with an operation's bytes before `sign` with its id."""
        await self._approvals.approve(raw)

    def withdraw(self, raw: bytes) -> None:
        """As `Vault.withdraw`: the operation will not be signed after all."""
        self._approvals.withdraw(raw)

    def sign(self, purpose: bytes, payload: bytes) -> bytes:
        """A 64-byte signature.

        Raises:
            PolicyRefused: an operation that was not approved, or another purpose.
        """
        self._approvals.check()
        if purpose == SIGN_OPERATION:
            self._approvals.use_approval(payload)
        elif purpose != SIGN_CLOSE:
            raise PolicyRefused("purpose", 0, hint=f"a wallet does not sign {purpose!r}")
        return self._key.sign(purpose, payload)
