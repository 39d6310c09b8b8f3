"""What an operation changes in a state, how to take it back, and the sums over a state. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from ainp2p.ledger.rules.accounts import Account
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.system import System
from ainp2p.protocol.codec import Bytes32, Message, Uint


class Credit(Message, frozen=True):
    """Value on its way: `amount` uain that only `account` can consume, once."""

    account: Bytes32
    amount: Uint


class Changes(Message, frozen=True):
    """What one applied operation changed; empty (and false) for a repeat of the object's head."""

    accounts: tuple[Account, ...] = ()
    locks: tuple[Lock, ...] = ()
    made: tuple[tuple[bytes, Credit], ...] = ()  # (credit id, credit)
    consumed: tuple[bytes, ...] = ()  # credit ids
    burnt: int = 0  # uain
    system: System | None = None

    def __bool__(self) -> bool:
        return bool(self.accounts or self.locks or self.system is not None)


@dataclass(frozen=True, slots=True)
class Supply:
    """Where all uain are. `total` is the genesis' supply, always."""

    balances: int
    credits: int
    locks: int
    burnt: int

    @property
    def total(self) -> int:
        """Everything together."""
        return self.balances + self.credits + self.locks + self.burnt


@dataclass(frozen=True, slots=True)
class Undo:
    """What an applied operation replaced; `State.undo` puts it back, the last applied one first."""

    accounts: tuple[tuple[bytes, Account | None], ...]  # as they were; None: absent
    locks: tuple[tuple[bytes, Lock | None], ...]
    made: tuple[bytes, ...]
    consumed: tuple[tuple[bytes, Credit], ...]
    burnt: int
    system: System | None  # as it was, if it changed
