"""Who gets which part of a deposit, when parts are parts of parts. Pure.

    model author 3 ──────────────────────────► 6 of 10
    data 2 ──► alice 1 ──────────────────────► 2 of 10
           └─► bob 1 ────────────────────────► 2 of 10

A Lock names at most 16 accounts, each with its parts of the whole. So a split of any depth is flattened
here, before the deposit is made, and paid at settlement by one operation; a split that is too wide for that
names an account whose owner splits again what it gets, by SPENDs of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Union

from ainp2p.errors import InvalidInput
from ainp2p.ledger.rules.amounts import AMOUNT_MAX, share
from ainp2p.ledger.rules.locks import Lock, credited
from ainp2p.ledger.rules.operations import KEYS_MAX, Share

Split = Sequence[tuple[Union[bytes, "Split"], int]]  # (account or another split, its parts), …
DEPTH_MAX = 16  # splits inside splits; at sixteen leaves no honest tree is deeper


def flatten_shares(split: Split) -> tuple[Share, ...]:
    """The accounts of a split with whole parts of the total, in the lowest terms, sorted as a Lock has them.

    >>> flatten_shares([(b"A" * 32, 3), ([(b"B" * 32, 1), (b"C" * 32, 1)], 2)])[0].parts
    3
    >>> [part.parts for part in flatten_shares([(b"A" * 32, 4), (b"B" * 32, 2), (b"A" * 32, 2)])]
    [3, 1]

    Raises:
        InvalidInput: an empty split, parts below 1, deeper than `DEPTH_MAX`, more than 16 accounts, or
            parts that are beyond 2^63 - 1 in lowest terms.
    """
    weights: dict[bytes, Fraction] = {}
    for account, weight in _leaves(split, Fraction(1), DEPTH_MAX):
        weights[account] = weights.get(account, Fraction(0)) + weight
    if len(weights) > KEYS_MAX:
        raise InvalidInput(f"{len(weights)} accounts share; a Lock pays at most {KEYS_MAX}")
    common = math.lcm(*(weight.denominator for weight in weights.values()))
    parts = {account: int(weight * common) for account, weight in weights.items()}
    divisor = math.gcd(*parts.values())
    if sum(parts.values()) // divisor > AMOUNT_MAX:
        raise InvalidInput("the parts of this split have no common measure below 2^63: round them")
    return tuple(Share(account, parts[account] // divisor) for account in sorted(parts))


def _leaves(split: Split, weight: Fraction, depth: int) -> Iterator[tuple[bytes, Fraction]]:
    if not depth:
        raise InvalidInput(f"a split is at most {DEPTH_MAX} deep")
    if not split or any(parts < 1 for _, parts in split):
        raise InvalidInput("a split names at least one account, each with at least one part")
    total = sum(parts for _, parts in split)
    for whom, parts in split:
        if isinstance(whom, bytes):
            if len(whom) != 32:
                raise InvalidInput("a share belongs to an account's 32-byte id, or to another split")
            yield whom, weight * parts / total
        else:
            yield from _leaves(whom, weight * parts / total, depth - 1)


def received(lock: Lock) -> dict[bytes, int]:
    """What each beneficiary has got of what is paid: ⌊paid·pᵢ/P⌋, "so rounding never accumulates"."""
    total = sum(beneficiary.parts for beneficiary in lock.beneficiaries)
    return {b.account: share(lock.paid, b.parts, total) for b in lock.beneficiaries}


def dust(lock: Lock) -> int:
    """What is paid and nobody's yet, in uain: "dust stays in the Lock until it ends"; it ends as the payer's.

    Less than the number of beneficiaries, however often the Lock is settled.
    """
    return lock.paid - credited(lock, lock.paid)
