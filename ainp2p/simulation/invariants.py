"""Invariants of the ledger, for `world.check`: they read every validator that runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ainp2p.simulation.committee import SUPPLY

if TYPE_CHECKING:
    from ainp2p.simulation.world import World


def money_is_conserved(world: World) -> None:
    """Balances, credits, deposits and what was burnt add up to the world's supply, at every validator."""
    for name, state in world.states.items():
        total = state.supply().total
        assert total == SUPPLY, f"{name} counts {total} uain of {SUPPLY}"


def nobody_is_overdrawn(world: World) -> None:
    """No balance is below zero, and no Lock has paid more than its deposit."""
    for name, state in world.states.items():
        for account in state.accounts.values():
            assert account.balance >= 0, f"{name} shows a balance of {account.balance} uain"
        for lock in state.locks.values():
            assert 0 <= lock.paid <= lock.deposit, f"{name} shows {lock.paid} of {lock.deposit} uain paid"


def validators_agree(world: World) -> None:
    """Two validators that are equally far with an object have decided the same about it."""
    seen: dict[tuple[bytes, int], tuple[bytes, str]] = {}
    for name, state in world.states.items():
        accounts = ((id_, account.seq, account.head) for id_, account in state.accounts.items())
        locks = ((id_, lock.seq, lock.head) for id_, lock in state.locks.items())
        for id_, seq, head in [*accounts, *locks]:
            other, first = seen.setdefault((id_, seq), (head, name))
            assert head == other, f"{first} and {name} differ about {id_.hex()[:16]}, slot {seq}"
