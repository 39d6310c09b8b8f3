"""The committee of an epoch: who may vote, with what weight, how much is a quorum; who is in the next.

A member of the first committee has the weight that the genesis gave it, until it gives its seat up by a
*waiver*; a bond adds to the weight of the key it was made for; whoever offended has none, for ever. No I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from ainp2p.errors import InvalidInput, InvalidOperation
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.operations import BONDS_MAX, VALIDATORS_MAX, Seat, account_id, plain_inception


@dataclass(frozen=True)
class Committee:
    """Members in the order of their keys; a member's place there is how votes and certificates name it.

    Lemma L1 (docs/ledger-proof.md): two quorums share a correct member.

    Attributes:
        keys: raw public keys, sorted.
        weights: at least 1 each.
        total: the sum of all weights.
        quorum: the least weight above two thirds of the total.
        minority: the least weight above one third: it holds a correct member if less than that is faulty.
        index: a key's place.
    """

    keys: tuple[bytes, ...]
    weights: tuple[int, ...]
    total: int = field(init=False)
    quorum: int = field(init=False)
    minority: int = field(init=False)
    index: dict[bytes, int] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if not self.keys or len(self.keys) != len(self.weights) or min(self.weights) < 1:
            raise InvalidInput("a committee has at least one member, and each a weight of at least 1")
        if list(self.keys) != sorted(set(self.keys)):
            raise InvalidInput("a committee's keys are sorted, and each is named once")
        total = sum(self.weights)
        object.__setattr__(self, "total", total)
        object.__setattr__(self, "quorum", 2 * total // 3 + 1)
        object.__setattr__(self, "minority", total // 3 + 1)
        object.__setattr__(self, "index", {key: place for place, key in enumerate(self.keys)})

    @classmethod
    def of(cls, genesis: Genesis) -> Committee:
        """The first committee of a network."""
        members = genesis.validators
        return cls(tuple(member.key for member in members), tuple(member.weight for member in members))

    @classmethod
    def of_seats(cls, seats: Iterable[Seat]) -> Committee:
        """The committee that a COMMITTEE names."""
        seats = sorted(seats, key=lambda seat: seat.key)
        return cls(tuple(seat.key for seat in seats), tuple(seat.weight for seat in seats))

    def weight_of(self, members: Iterable[int]) -> int:
        """The weight of distinct places together."""
        return sum(self.weights[place] for place in members)


# --- who is in the next one -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Succession:
    """What a COMMITTEE must say, besides what was handed over. Addresses may differ: they weigh nothing."""

    seats: tuple[Seat, ...]
    burnt_bonds: tuple[bytes, ...]
    returned_bonds: tuple[bytes, ...]


def bond_weight(bonded: int, minted: int, first_total: int) -> int:
    """What `bonded` uain weigh: all money together would weigh as much as the genesis' committee.

    So whoever bonds less than half of all that exists has less than a third of the weight.
    """
    return bonded * first_total // minted if minted else 0


def next_seats(
    seats: Iterable[Seat], bonds: Mapping[bytes, int], offenders: Collection[bytes]
) -> tuple[Seat, ...]:
    """The next epoch's seats, sorted by key: at most VALIDATORS_MAX, the heaviest (then the lowest keys).

    Args:
        seats: what the genesis gave, with addresses where they are known (weight 0: an address only).
        bonds: key → weight that bonds add.
        offenders: keys that get nothing, those barred in earlier epochs included.

    Raises:
        InvalidOperation: rule ``"committee"``, nobody would be left.
    """
    weights, addresses = dict(bonds), {}
    for seat in seats:
        weights[seat.key] = weights.get(seat.key, 0) + seat.weight
        addresses[seat.key] = seat.addresses
    heard = [(-weight, key) for key, weight in weights.items() if weight and key not in offenders]
    chosen = sorted((key, -weight) for weight, key in sorted(heard)[:VALIDATORS_MAX])
    if not chosen:
        raise InvalidOperation("committee", "nobody would be left")
    return tuple(Seat(key, weight, addresses.get(key, ())) for key, weight in chosen)


def is_waiver(bond: Lock, network: bytes) -> bool:
    """Whether a bond gives up the seat that the genesis gave to its validator.

    It pays the System, and its payer is the account of the validator's key alone: only that key can have
    signed it. It stays open for ever, for it is how the state remembers that the seat is given up.
    """
    if tuple(share.account for share in bond.beneficiaries) != (network,):
        return False
    return bond.payer == account_id(network, plain_inception(bond.closer))


def leaving(
    waivers: Iterable[Lock], staying: Collection[bytes], others: bool, sitting: Collection[bytes]
) -> set[bytes]:
    """The members of the first committee whose waivers count.

    All do, but for the last ones if without them nobody would be left. Who is without a seat already comes
    first, so that nobody who has gone is called back because others want to go.

    Args:
        staying: first members that have not offended.
        others: whether bonds bring anybody a seat.
        sitting: the keys of the epoch before.
    """
    staying, gone = set(staying), set()
    for waiver in sorted(waivers, key=lambda bond: (bond.closer in sitting, bond.expiry, bond.id)):
        if others or staying - {waiver.closer}:
            staying.discard(waiver.closer)
            gone.add(waiver.closer)
    return gone


def succession(
    genesis: Genesis,
    sitting: Iterable[Seat],
    bonds: Iterable[Lock],
    offenders: Collection[bytes],
    timestamp: int,
) -> Succession:
    """Who sits in the epoch that a COMMITTEE of this time opens, and what becomes of the bonds.

    Args:
        sitting: the seats of the epoch before, for their addresses.
        bonds: all open ones.
        offenders: as for `next_seats`.

    Raises:
        InvalidOperation: rule ``"committee"``, nobody would be left.
    """
    network, members = genesis.network_id, {member.key: member for member in genesis.validators}
    every = sorted(bonds, key=lambda bond: (bond.expiry, bond.id))
    burnt = [bond.id for bond in every if bond.closer in offenders][:BONDS_MAX]
    waivers = [bond for bond in every if bond.closer in members and is_waiver(bond, network)]
    waiving = {waiver.id for waiver in waivers}
    bonds = [bond for bond in every if bond.id not in waiving]
    expired = [bond.id for bond in bonds if bond.closer not in offenders and bond.expiry <= timestamp]
    bonded: dict[bytes, int] = {}
    for bond in bonds:
        if bond.expiry > timestamp:
            bonded[bond.closer] = bonded.get(bond.closer, 0) + bond.held
    total = sum(member.weight for member in genesis.validators)
    weights = {key: bond_weight(amount, genesis.supply, total) for key, amount in bonded.items()}
    known = {seat.key: seat.addresses for seat in sitting}
    bonding = any(weight for key, weight in weights.items() if key not in offenders)
    gone = leaving(waivers, members.keys() - set(offenders), bonding, known.keys())
    first = [
        Seat(key, 0 if key in gone else m.weight, known.pop(key, m.addresses)) for key, m in members.items()
    ]
    seats = [*first, *(Seat(key, 0, where) for key, where in known.items())]
    return Succession(
        next_seats(seats, weights, offenders), tuple(sorted(burnt)), tuple(sorted(expired[:BONDS_MAX]))
    )
