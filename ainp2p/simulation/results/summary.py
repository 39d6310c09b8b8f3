"""A run in numbers: the metrics of `ainp2p.simulation.results.metrics` over a result's tables.

    trades, filled, fill_rate       rows of trades; of them done; these as a share of the jobs that ended
    rejected                        jobs, or parts of them, that their buyers rejected
    units, volume                   delivered; paid for it, in uain
    price_mean, price_dispersion    uain per unit; its coefficient of variation, per skill, weighted by trades
    elapsed_p50_ms, elapsed_p99_ms  from award to end, of jobs that were done
    welfare                         Σ of what the model measured as "surplus" by Σ of "optimum"
    gini                            of what agents own at the end (validators are no market participants)
    cheats_share                    of all payments, to agents whose role is "cheat"
    lifetime_s                      the age that half of the agents do not outlive (Kaplan–Meier)
    population, messages, bytes     how many agents, messages, and bytes in them

and the last value of everything else that the model measured, under its own name (``NAME_measured`` if the
name is one of these). None where a number is undefined.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import fsum
from typing import TYPE_CHECKING, Any

from ainp2p.simulation.results import metrics
from ainp2p.simulation.results.results import CHEAT, REJECTED, VALIDATOR

if TYPE_CHECKING:
    from ainp2p.simulation.results.results import Result
    from ainp2p.simulation.results.tables import Table

Number = int | float | None
SURPLUS, OPTIMUM = "surplus", "optimum"  # what a model measures to have its welfare computed


def summary(result: Result) -> dict[str, Number]:
    """The whole run in numbers."""
    numbers: dict[str, Number] = {
        **_market(result.trades),
        "welfare": _welfare(result.metrics),
        "gini": metrics.gini(owned(result)),
        "cheats_share": cheats_share(result),
        "lifetime_s": metrics.lifetime(lives(result)),
        "population": len(result.agents),
        "messages": sum(result.messages["count"]),
        "bytes": sum(result.messages["bytes"]),
    }
    for name, value in last_measured(result.metrics).items():
        if name not in (SURPLUS, OPTIMUM):
            numbers[f"{name}_measured" if name in numbers else name] = value
    return numbers


def _market(trades: Table) -> dict[str, Number]:
    done = [not failure for failure in trades["failure"]]
    filled, volume = sum(done), sum(trades["amount"])
    elapsed = sorted(ms for ms, good in zip(trades["elapsed_ms"], done, strict=True) if good)
    prices = unit_prices(trades)
    paid = [price for each in prices.values() for price in each]
    return {
        "trades": len(trades),
        "filled": filled,
        "fill_rate": metrics.fill_rate(filled, _jobs(trades)),
        "rejected": sum(failure == REJECTED for failure in trades["failure"]),
        "units": sum(trades["units"]),
        "volume": volume,
        "price_mean": fsum(paid) / len(paid) if paid else None,
        "price_dispersion": dispersion(prices),
        "elapsed_p50_ms": metrics.percentile(elapsed, 50),
        "elapsed_p99_ms": metrics.percentile(elapsed, 99),
    }


def _jobs(trades: Table) -> int:
    """How many jobs the rows are of; those of one follow one another."""
    jobs, last = 0, None
    for buyer, job in zip(trades["buyer"], trades["job"], strict=True):
        jobs += (buyer, job) != last
        last = buyer, job
    return jobs


def unit_prices(trades: Table) -> dict[str, list[float]]:
    """Skill → what was paid per unit, in order of time; trades without units have no price."""
    prices: dict[str, list[float]] = {}
    for skill, units, amount in zip(trades["skill"], trades["units"], trades["amount"], strict=True):
        if units > 0:
            prices.setdefault(skill, []).append(amount / units)
    return prices


def dispersion(prices: dict[str, list[float]]) -> float | None:
    """Each skill's price dispersion, averaged by its trades: prices of different things do not compare."""
    known = [(len(each), metrics.price_dispersion(each)) for each in prices.values()]
    weighted = [(count, value) for count, value in known if value is not None]
    total = sum(count for count, _ in weighted)
    return fsum(count * value for count, value in weighted) / total if total else None


def owned(result: Result) -> list[int]:
    """What each agent but the validators owned at the end; a debt counts as nothing."""
    return [max(balance, 0) for role, balance in _by_role(result, "balance_end") if role != VALIDATOR]


def cheats_share(result: Result) -> float | None:
    """The cheats' share of all payments; None if nothing was paid or nobody is called a cheat."""
    cheats = [name for role, name in _by_role(result, "name") if role == CHEAT]
    if not cheats:
        return None
    return metrics.cheats_share(zip(result.trades["seller"], result.trades["amount"], strict=True), cheats)


def lives(result: Result) -> list[tuple[float, bool]]:
    """(seconds seen alive, whether it died) of each agent but the validators."""
    agents = result.agents
    return [
        ((result.duration_s if died is None else died) - born, died is not None)
        for role, born, died in zip(agents["role"], agents["born_s"], agents["died_s"], strict=True)
        if role != VALIDATOR
    ]


def last_measured(table: Table) -> dict[str, float]:
    """The last value of each metric, by name in order of the alphabet."""
    last = dict(zip(table["name"], table["value"], strict=True))
    return dict(sorted(last.items()))


def _welfare(table: Table) -> float | None:
    def total(wanted: str) -> float:
        return fsum(v for name, v in zip(table["name"], table["value"], strict=True) if name == wanted)

    return metrics.welfare(total(SURPLUS), total(OPTIMUM))


def _by_role(result: Result, column: str) -> Iterable[tuple[str, Any]]:
    return zip(result.agents["role"], result.agents[column], strict=True)
