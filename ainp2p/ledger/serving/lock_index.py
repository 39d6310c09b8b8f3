"""Who is concerned by which open Locks: so that a payee finds a deposit that it was never told of. No I/O.

Kept beside a validator's state, from the final operations that it applies; nothing of it is on a disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import nsmallest

from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.operations import (
    Close,
    LockTerms,
    NextCommittee,
    ParsedOperation,
    Refund,
    Spend,
    lock_id,
)


class LockIndex:
    """Party → its open Locks. A party is an account (payer, beneficiary) or a key (closer, verifier)."""

    def __init__(self) -> None:
        self._by_party: dict[bytes, dict[bytes, None]] = {}
        self._parties: dict[bytes, tuple[bytes, ...]] = {}

    def note(self, parsed: ParsedOperation) -> None:
        """A final operation was applied."""
        operation, body = parsed.operation, parsed.operation.body
        if isinstance(body, Spend):
            for index, terms in enumerate(body.locks):
                self._add(lock_id(parsed.id, index), _parties(operation.object, terms))
        elif isinstance(body, Close | Refund):
            self._drop(operation.object)
        elif isinstance(body, NextCommittee):
            for bond in (*body.burnt_bonds, *body.returned_bonds):
                self._drop(bond)

    def take(self, lock: Lock) -> None:
        """Begin with a Lock that a state holds."""
        if not lock.ended:
            self._add(lock.id, _parties(lock.payer, lock))

    def count(self, party: bytes) -> int:
        """How many Locks concern it."""
        return len(self._by_party.get(party, ()))

    def page(self, party: bytes, after: bytes, size: int) -> tuple[tuple[bytes, ...], bool]:
        """Its Locks in the order of their ids, after the given one (or empty); whether there are more."""
        # Not sorted: of 100,000 that takes ten times as long, for 256 of them.
        ids = nsmallest(size + 1, (id_ for id_ in self._by_party.get(party, ()) if id_ > after))
        return tuple(ids[:size]), len(ids) > size

    def common(self, party: bytes, other: bytes) -> Iterator[bytes]:
        """Locks that concern both. Anybody can open many that name either; few name the right two."""
        few, many = sorted((self._by_party.get(party, {}), self._by_party.get(other, {})), key=len)
        return (id_ for id_ in few if id_ in many)

    def _add(self, lock: bytes, parties: tuple[bytes, ...]) -> None:
        self._parties[lock] = parties
        for party in parties:
            self._by_party.setdefault(party, {})[lock] = None

    def _drop(self, lock: bytes) -> None:
        for party in self._parties.pop(lock, ()):
            of_party = self._by_party[party]
            del of_party[lock]
            if not of_party:
                del self._by_party[party]


def _parties(payer: bytes, terms: LockTerms | Lock) -> tuple[bytes, ...]:
    accounts = [payer, *(beneficiary.account for beneficiary in terms.beneficiaries)]
    return tuple(dict.fromkeys([*accounts, terms.closer, *terms.authority]))
