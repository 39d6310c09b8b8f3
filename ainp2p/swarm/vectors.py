"""Embeddings as integers: exact cosine search and central sentences. Pure, the same on every machine.

A vector is a tuple of integers of fixed length (SCALE stands for 1.0), so that sums and comparisons are exact
and no order depends on how floats were added. Ties go to what came first.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isfinite, isqrt
from operator import mul
from typing import Generic, TypeVar

from ainp2p.errors import InvalidInput

SCALE = 1 << 15  # of a unit vector's components; an embedding's float32 is not truer than that
DIMENSIONS_MAX = 8_192
_FINE = 1 << 30  # of the raw components before normalising
MILLION = 1_000_000

Vector = tuple[int, ...]
K = TypeVar("K", bound=Hashable)


def unit(components: Sequence[float]) -> Vector:
    """The direction of `components` as a vector of length SCALE, rounded to integers.

    Raises:
        InvalidInput: empty, too long, not finite, or all zero.
    """
    if not 0 < len(components) <= DIMENSIONS_MAX:
        raise InvalidInput(f"an embedding has 1 to {DIMENSIONS_MAX} components, not {len(components)}")
    if not all(isfinite(c) for c in components):
        raise InvalidInput("an embedding's components are finite numbers")
    largest = max(abs(c) for c in components)
    if largest == 0:
        raise InvalidInput("an embedding of zeros has no direction")
    fine = [round(c / largest * _FINE) for c in components]
    length = isqrt(sum(c * c for c in fine))
    return tuple((2 * c * SCALE + length) // (2 * length) for c in fine)


def dot(a: Vector, b: Vector) -> int:
    """The scalar product.

    Raises:
        InvalidInput: vectors of different length, of different models perhaps.
    """
    if len(a) != len(b):
        raise InvalidInput(f"vectors of {len(a)} and {len(b)} components cannot be compared")
    return sum(map(mul, a, b))


def cosine_millionths(a: Vector, b: Vector) -> int:
    """The cosine in millionths, −1,000,000 … 1,000,000; for people: compare with the exact order instead."""
    squares = dot(a, a) * dot(b, b)
    product = dot(a, b)
    size = isqrt(product * product * MILLION * MILLION // squares) if squares else 0
    return size if product >= 0 else -size


@dataclass(frozen=True, slots=True)
class Hit(Generic[K]):
    """A key that was found and its cosine with the question, in millionths."""

    key: K
    cosine_millionths: int


class Index(Generic[K]):
    """Keys with their vectors, searched one by one: exact, and fast enough for some thousands."""

    def __init__(self) -> None:
        self._vectors: dict[K, Vector] = {}

    def __len__(self) -> int:
        return len(self._vectors)

    def add(self, key: K, vector: Vector) -> None:
        """Add or replace a key; a replaced one keeps its place among ties.

        Raises:
            InvalidInput: another length than those before, or all zero.
        """
        if not any(vector):
            raise InvalidInput("a vector of zeros has no direction")
        first = next(iter(self._vectors.values()), vector)
        if len(first) != len(vector):
            raise InvalidInput(f"this index holds vectors of {len(first)} components, not {len(vector)}")
        self._vectors[key] = vector

    def search(self, query: Vector, limit: int) -> list[Hit[K]]:
        """The `limit` keys nearest to `query`, best first."""
        ranked = [
            (_closeness(query, vector), i, key) for i, (key, vector) in enumerate(self._vectors.items())
        ]
        ranked.sort(key=lambda row: (-row[0], row[1]))
        return [
            Hit(key, cosine_millionths(query, self._vectors[key])) for _, _, key in ranked[: max(limit, 0)]
        ]


def _closeness(query: Vector, vector: Vector) -> Fraction:
    """Orders vectors exactly as their cosine with `query` does: sign · product² / |vector|²."""
    product = dot(query, vector)
    return Fraction(product * abs(product), dot(vector, vector))


def central(vectors: Sequence[Vector], count: int, *, alike_millionths: int = 900_000) -> list[int]:
    """The places of the `count` most central unit vectors, in the order of the text.

    A sentence is central if it is like many others. Its score is its mean cosine to all sentences: LexRank's
    degree centrality (Erkan & Radev, JAIR 22, 2004, §3.2) without a threshold, which for unit vectors is
    the product with their sum (Radev et al., centroid-based summarization, 2004). What says nearly the same
    as a better one (cosine above `alike_millionths`) is passed over, after Carbonell & Goldstein (1998).
    """
    if not vectors:
        return []
    centroid = tuple(map(sum, zip(*vectors, strict=True)))
    order = sorted(range(len(vectors)), key=lambda i: (-dot(vectors[i], centroid), i))
    chosen: list[int] = []
    for i in order:
        if len(chosen) == count:
            break
        if all(cosine_millionths(vectors[i], vectors[j]) <= alike_millionths for j in chosen):
            chosen.append(i)
    return sorted(chosen)
