"""The committee of an epoch: who may vote, with what weight, and how much is a quorum. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ainp2p.errors import InvalidInput
from ainp2p.ledger.genesis import Genesis


@dataclass(frozen=True)
class Committee:
    """Members in the order of their keys; a member's place there is how votes and certificates name it.

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

    def weight_of(self, members: Iterable[int]) -> int:
        """The weight of distinct places together."""
        return sum(self.weights[place] for place in members)
