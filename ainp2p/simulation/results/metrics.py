"""What economists measure of a market, as pure functions of plain numbers. Sources are named in each.

Where a measure is undefined (nobody traded, nobody owns anything) the answer is None, never a number made up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate, groupby
from math import fsum, sqrt
from operator import itemgetter

from ainp2p.errors import InvalidInput


def optimum(values: Iterable[int], costs: Iterable[int]) -> int:
    """The largest surplus that trade can make: units are worth `values`, and cost `costs`.

    The highest values meet the lowest costs as long as both gain: the area between the demand and the supply
    curve (V. L. Smith, "An experimental study of competitive market behavior", J. Polit. Econ. 70, 1962).
    """
    pairs = zip(sorted(values, reverse=True), sorted(costs), strict=False)
    return sum(value - cost for value, cost in pairs if value > cost)


def welfare(surplus: float, best: float) -> float | None:
    """The share of the largest possible surplus that trade did make: allocative efficiency, 1.0 at best.

    Negative where trade destroyed value. None if nothing was to be gained. (D. K. Gode and S. Sunder,
    "Allocative efficiency of markets with zero-intelligence traders", J. Polit. Econ. 101, 1993.)
    """
    return surplus / best if best > 0 else None


def gini(amounts: Iterable[float]) -> float | None:
    """How unequally `amounts` are spread: 0 all the same, (n − 1)/n one has it all.

    Half the relative mean absolute difference (C. Gini, "Variabilità e mutabilità", 1912), from the sorted
    amounts: Σ (2i − n − 1)·xᵢ / (n·Σx). None if there is nothing to spread.

    Raises:
        InvalidInput: an amount is negative; the coefficient has no meaning then.
    """
    ordered = _ordered(amounts)
    total = fsum(ordered)
    if total <= 0:
        return None
    count = len(ordered)
    return fsum((2 * i - count - 1) * x for i, x in enumerate(ordered, 1)) / (count * total)


def lorenz(amounts: Iterable[float]) -> list[tuple[float, float]]:
    """(share of the agents, share that the poorest of them own), from (0, 0) to (1, 1).

    M. O. Lorenz, "Methods of measuring the concentration of wealth", Publ. Am. Stat. Assoc. 9, 1905.
    Empty if there is nothing to own.

    Raises:
        InvalidInput: an amount is negative.
    """
    ordered = _ordered(amounts)
    total = fsum(ordered)
    if total <= 0:
        return []
    owned = accumulate(ordered)
    return [(0.0, 0.0), *((i / len(ordered), sum_ / total) for i, sum_ in enumerate(owned, 1))]


def fill_rate(filled: int, asked: int) -> float | None:
    """The share of what was asked for that was done: orders filled of orders placed."""
    return filled / asked if asked else None


def price_dispersion(prices: Collection[float]) -> float | None:
    """The coefficient of variation of what was paid for the same thing: standard deviation by mean.

    0 where the law of one price holds (M. R. Baye, J. Morgan and P. Scholten, "Information, search, and price
    dispersion", in Handbook on Economics and Information Systems, 2006). None without a positive mean.
    """
    if not prices:
        return None
    mean = fsum(prices) / len(prices)
    if mean <= 0:
        return None
    return sqrt(fsum((price - mean) ** 2 for price in prices) / len(prices)) / mean


def cheats_share(payments: Iterable[tuple[str, int]], cheats: Collection[str]) -> float | None:
    """The share of all that was paid that went to cheats; None if nothing was paid.

    Args:
        payments: (seller, amount) of each trade.
        cheats: the names of those who cheat.
    """
    known = frozenset(cheats)
    total = stolen = 0
    for seller, amount in payments:
        total += amount
        stolen += amount if seller in known else 0
    return stolen / total if total else None


def survival(lives: Iterable[tuple[float, bool]]) -> list[tuple[float, float]]:
    """(age in s, share that lives on beyond it), a step at each age at which somebody died, from (0, 1).

    The product-limit estimate: those who still live at the end of the run count as long as they were seen
    (E. L. Kaplan and P. Meier, "Nonparametric estimation from incomplete observations", J. Am. Stat. Assoc.
    53, 1958).

    Args:
        lives: (seconds seen alive, whether it died then) of each agent.

    Raises:
        InvalidInput: a life is shorter than nothing.
    """
    seen = sorted(lives)
    if seen and seen[0][0] < 0:
        raise InvalidInput(f"a life of {seen[0][0]} s: an agent dies after it was born")
    curve = [(0.0, 1.0)]
    at_risk, share = len(seen), 1.0
    for age, group in groupby(seen, key=itemgetter(0)):
        ends = [died for _, died in group]
        if deaths := sum(ends):
            share *= 1 - deaths / at_risk
            curve.append((age, share))
        at_risk -= len(ends)
    return curve


def lifetime(lives: Iterable[tuple[float, bool]]) -> float | None:
    """The age in s that half of the agents do not outlive, the median of `survival`; None if more do.

    As survival curves are read, it is the first age at which at most half are left.
    """
    return next((age for age, share in survival(lives) if share <= 0.5), None)


def percentile(ordered: Sequence[float], per_cent: float) -> float | None:
    """The nearest-rank percentile of values in ascending order; None of nothing."""
    if not ordered:
        return None
    rank = -(-len(ordered) * per_cent // 100)
    return ordered[max(int(rank), 1) - 1]


def _ordered(amounts: Iterable[float]) -> list[float]:
    ordered = sorted(amounts)
    if ordered and ordered[0] < 0:
        raise InvalidInput(f"an amount of {ordered[0]}: shares of negative amounts have no meaning")
    return ordered
