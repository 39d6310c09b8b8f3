"""Money that an agent cannot lose: budgets, a plan before anything is signed, and a breaker.

The vault debits a job's worst case before it begins, per job, hour, day and counterparty, and signs
nothing above it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import trio

import ainp2p
from ainp2p.errors import BudgetExceeded, PolicyRefused


@ainp2p.skill("dice", price="10/item")
async def dice(job: object, times: int) -> AsyncIterator[int]:
    """Throw a die that is not very random."""
    for number in range(times):
        yield number * 5 % 6 + 1


async def main() -> None:
    policy = ainp2p.Policy(per_job=100, per_hour=250)
    async with (
        ainp2p.Agent("casino", skills=[dice]) as casino,
        ainp2p.Agent("careful", bootstrap=[casino.address], policy=policy) as careful,
    ):
        plan = await careful.plan("dice", budget=80, times=5)
        print(f"80 uain buy up to {plan.units_max} throws; refused by: {list(plan.violations) or 'nothing'}")
        plan = await careful.plan("dice", budget=400, times=5)
        print("400 uain:", *plan.violations)
        try:
            await careful.ask("dice", budget=400, times=5)
        except BudgetExceeded as exc:
            print(f"refused by rule {exc.rule!r}: at most {exc.limit} uain")
        thrown = 0
        try:
            for times in range(5, 100):
                numbers = await careful.ask("dice", budget=100, times=times)
                thrown += len(numbers)
                print(f"threw {numbers}")
        except PolicyRefused as exc:
            print(f"after {thrown} throws the vault stops: {exc}")
        print(await careful.balance())


if __name__ == "__main__":
    trio.run(main)
