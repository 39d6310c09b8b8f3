"""Which payments and deposits go into an account's next SPEND. No I/O.

An account writes one operation at a time, so what people want meanwhile is collected, and one SPEND carries
up to 64 payments and 8 deposits. What cannot be afforded is refused alone; the others go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ainp2p.errors import InsufficientFunds
from ainp2p.ledger.rules.accounts import Account, settling_fee, spend
from ainp2p.ledger.rules.genesis import Parameters
from ainp2p.ledger.rules.operations import (
    LOCKS_MAX,
    OUTS_MAX,
    Inception,
    KeySet,
    LockTerms,
    Operation,
    Rotation,
    Share,
)


@dataclass(frozen=True, slots=True)
class Payment:
    """`amount` uain to `account`."""

    account: bytes
    amount: int


@dataclass(frozen=True, slots=True)
class Deposit:
    """A Lock to open, `life_ms` long from the SPEND's timestamp on."""

    beneficiaries: tuple[Share, ...]
    deposit: int
    step: int
    authority: KeySet
    threshold: int
    closer: bytes
    life_ms: int
    purpose: bytes

    def terms(self, now_ms: int) -> LockTerms:
        """The Lock's terms if it is opened now."""
        return LockTerms(
            beneficiaries=tuple(sorted(self.beneficiaries, key=lambda share: share.account)),
            deposit=self.deposit,
            step=self.step,
            authority=tuple(sorted(self.authority)),
            threshold=self.threshold,
            closer=self.closer,
            expiry=now_ms + self.life_ms,
            purpose=self.purpose,
        )


@dataclass(frozen=True, slots=True)
class Beat:
    """The owner is alive: whatever SPEND comes next says so, be it one that does nothing else."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The account's key gives way to the next one; it rides on a SPEND, at most one on each."""

    rotation: Rotation


Wish = Payment | Deposit | Beat | Turn


@dataclass(frozen=True, slots=True)
class Plan:
    """What the next SPEND does about some wishes, by their index in the list that was given.

    Attributes:
        operation: unsigned; None if nothing can be done.
        places: wish → its place among the outs, or among the Locks.
        refused: wish → what it lacks.
    """

    operation: Operation | None
    places: dict[int, int] = field(default_factory=dict)
    refused: dict[int, InsufficientFunds] = field(default_factory=dict)


def plan_spend(
    wishes: Sequence[Wish],
    account: Account,
    credits: dict[bytes, int],
    parameters: Parameters,
    *,
    network: bytes,
    now_ms: int,
    inception: Inception,
    epoch: int = 0,
) -> Plan:
    """The account's next SPEND for as many of the wishes as fit, oldest first; the rest waits for the next.

    Where the money is there but in more credits than one SPEND may consume, the SPEND only gathers them.
    """
    now_ms = max(now_ms, account.timestamp)
    usable = sorted(credits.values(), reverse=True)[: parameters.credits_max]
    left = account.balance + sum(usable) - parameters.fee_floor - account.debt
    unusable = sum(credits.values()) - sum(usable)
    outs: list[tuple[bytes, int]] = []
    locks: list[LockTerms] = []
    places: dict[int, int] = {}
    refused: dict[int, InsufficientFunds] = {}
    turn: Turn | None = None
    waiting = False
    for index, wish in enumerate(wishes):
        terms = wish.terms(now_ms) if isinstance(wish, Deposit) else None
        cost = _cost(wish, terms, parameters)
        if cost > left:
            if cost > left + unusable:
                refused[index] = InsufficientFunds(max(0, left), cost)
            waiting |= index not in refused
        elif isinstance(wish, Beat):
            places[index] = 0
        elif isinstance(wish, Turn):
            if turn in (None, wish):
                places[index], turn = 0, wish
        elif terms is not None and len(locks) < LOCKS_MAX:
            places[index] = len(locks)
            locks.append(terms)
            left -= cost
        elif isinstance(wish, Payment) and len(outs) < OUTS_MAX:
            places[index] = len(outs)
            outs.append((wish.account, wish.amount))
            left -= cost
    if not places and not waiting:
        return Plan(None, places, refused)
    operation = spend(
        account,
        credits,
        parameters,
        network=network,
        now_ms=now_ms,
        outs=outs,
        locks=locks,
        inception=inception if account.seq == 0 else None,
        rotate=turn.rotation if turn is not None else None,
        epoch=epoch,
    )
    return Plan(operation, places, refused)


def _cost(wish: Wish, terms: LockTerms | None, parameters: Parameters) -> int:
    if terms is not None:
        return terms.deposit + settling_fee(terms, parameters)
    return wish.amount if isinstance(wish, Payment) else 0
