"""Who sits in the next epoch, with what weight, and which bonds end: reckoned apart from the cores.

docs/ledger.md, "Epochs": "Weights are the genesis's, less the keys that evidence has barred, plus bonds. …
All money together would weigh as much as the genesis's committee." "A member of the genesis gives its seat up
by a waiver: a bond that pays the System, from the account of the member's key alone. … The last member's does
not count while nobody else would be left." Addresses are hints, and judged by nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.rules.operations import Inception
from tests.adversary.book import Deposit, born
from tests.adversary.marks import sometimes

NOBODY = bytes(32)  # in an inception: no next key, no salt


@dataclass(frozen=True)
class Following:
    """What follows from a set of open bonds.

    Attributes:
        weights: key → weight of its seat; who has none is not named.
        burnt, returned: ids of bonds that end.
    """

    weights: dict[bytes, int]
    burnt: frozenset[bytes]
    returned: frozenset[bytes]


def gives_up(bond: Deposit, genesis: Genesis) -> bool:
    """Whether this bond is a waiver of the seat that the genesis gave to its closer."""
    if bond.closer not in {member.key for member in genesis.validators}:
        return False
    alone = Inception(bond.closer, NOBODY, (), 0, 0, NOBODY)
    pays = [account for account, _ in bond.shares]
    return pays == [genesis.network_id] and bond.payer == born(genesis.network_id, alone).id


def following(
    genesis: Genesis,
    sitting: Collection[bytes],
    bonds: Iterable[Deposit],
    barred: Collection[bytes],
    timestamp: int,
) -> Following:
    """The seats that a COMMITTEE of this time opens, and the bonds that it ends.

    Args:
        sitting: the keys of the epoch that closes.
        bonds: all that are open, waivers included.
        barred: everybody who has ever offended.
    """
    bonds = list(bonds)
    waivers = [bond for bond in bonds if gives_up(bond, genesis)]
    lasting = [bond for bond in bonds if bond not in waivers]
    money: dict[bytes, int] = {}
    for bond in lasting:
        if timestamp < bond.expiry:
            money[bond.closer] = money.get(bond.closer, 0) + bond.deposit
    first = {member.key: member.weight for member in genesis.validators}
    weights = {key: amount * sum(first.values()) // genesis.supply for key, amount in money.items()}
    if any(weight and key not in barred for key, weight in weights.items()):
        sometimes("a bond gives a seat")
        elsewhere = True
    else:
        elsewhere = False
    for key in first.keys() - _gone(first.keys() - set(barred), waivers, elsewhere, sitting):
        weights[key] = weights.get(key, 0) + first[key]
    if any(key in barred for key in first):
        sometimes("a traitor loses its seat")
    if any(bond.closer in weights and bond.closer not in barred for bond in waivers):
        sometimes("who gave its seat up sits again")
    return Following(
        {key: weight for key, weight in weights.items() if weight and key not in barred},
        frozenset(bond.id for bond in bonds if bond.closer in barred),
        frozenset(b.id for b in lasting if b.closer not in barred and b.expiry <= timestamp),
    )


def _gone(
    candidates: Collection[bytes], waivers: Iterable[Deposit], elsewhere: bool, sitting: Collection[bytes]
) -> set[bytes]:
    """Of these first members who has given its seat up; all but one, if nobody sits elsewhere.

    That one is whose waiver comes last: after those of members that had no seat any more, then by expiry.
    """
    order: dict[bytes, tuple[bool, int, bytes]] = {}
    for waiver in waivers:
        if waiver.closer in candidates:
            rank = (waiver.closer in sitting, waiver.expiry, waiver.id)
            order[waiver.closer] = min(rank, order.get(waiver.closer, rank))
    gone = set(order)
    if gone:
        sometimes("a member gives its seat up")
    if gone and not elsewhere and gone == set(candidates):
        sometimes("the last member may not go")
        gone.remove(max(order, key=order.__getitem__))
    return gone


__all__ = ["Following", "following", "gives_up"]
