"""What a wallet answers: values without behaviour."""

from __future__ import annotations

from dataclasses import dataclass

from ainp2p.ledger.rules.locks import Lock


@dataclass(frozen=True, slots=True)
class Final:
    """A payment that is final.

    Attributes:
        operation: the id of the operation that carries it.
        certificate: proves it to anybody who has the genesis.
        place: its index among the SPEND's outs (or Locks).
    """

    operation: bytes
    certificate: bytes
    place: int = 0


@dataclass(frozen=True, slots=True)
class LockState:
    """A final Lock, as it is by its newest operation known here, and the certificate of that."""

    lock: Lock
    certificate: bytes

    @property
    def id(self) -> bytes:
        """The Lock's id."""
        return self.lock.id

    @property
    def is_open(self) -> bool:
        """Whether it can still pay."""
        return not self.lock.ended


@dataclass(frozen=True, slots=True)
class WalletStatistics:
    """What goes on inside."""

    pending: int
    waiting: int
    locks: int
    head_seq: int
    refreshed: bool
