"""A market of thousands, simulated: unmodified agents on the ledger, beside Mesa's and SimPy's models of one.

    python -m benchmarks.simulation [--agents N] [--trades N] [--hours H] [--signed keyed] [--json]

The market: half of the agents sell, half buy; every buyer has chosen a seller and buys from it again and
again, over the whole time. Here a trade is what it is outside: an award by the seller's card, a chunk and a
receipt on an open Lock, with a vault that reserves and a wallet that keeps what it earned; with `--called`
a call and a proposal come first. In Mesa it is what
Mesa's users write: the buyers' steps in a shuffled order, each second of the model's time, a draw and two
sums. In SimPy it is two processes, a store for orders and one for answers, and the same two sums.

CPU seconds, of one process; each of the three runs in its own.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.figures import report

ROUND_S = 1.0  # of Mesa's model
BUDGET = 2000  # uain of a job: a Lock holds ten of them, so that it stays open for thousands of trades


# --- here -------------------------------------------------------------------------------------------


def ainp2p_market(agents: int, trades: int, hours: float, signed: Any, called: bool) -> dict[str, float]:
    """The agents that run outside, on a wire without weather and disks without delay."""
    import ainp2p
    import ainp2p.simulation as sim
    from ainp2p.agents.policy import Policy
    from ainp2p.protocol.strategies import Strategies

    @ainp2p.skill("echo", price="1/call")
    async def echo(job: Any, text: str) -> Any:
        yield text

    spent: dict[str, float] = {}

    async def market(world: Any) -> None:
        sellers = agents // 2
        buyers = agents - sellers
        each = trades // buyers
        pause_s = hours * 3600 / each

        async def buy(agent: ainp2p.Agent) -> None:
            rng = world.rng("buyer", agent.name)
            await world.run_for(rng.random() * pause_s)
            offers = [rng.choice(await agent.find("echo", limit=64))]
            for n in range(each):
                async with agent.hire(offers, budget=BUDGET, text=f"order {n}") as job:
                    await job.result()
                await world.run_for(pause_s * (0.5 + rng.random()))

        began = time.process_time()
        for n in range(sellers):
            world.spawn(f"seller{n}", skills=[echo], slots=64)
        policy = Policy(per_job=None, per_hour=None, per_day=None, per_counterparty=None, per_lock=None)
        habits = {"policy": policy, "strategies": Strategies(direct=not called)}
        nodes = [world.spawn(f"buyer{n}", main=buy, **habits) for n in range(buyers)]
        for node in nodes:
            await node.ready()
        spent["open_s"] = time.process_time() - began
        for node in nodes:
            await node.ended()

    began = time.process_time()
    result = sim.run(market, 7, world={"fsync_s": 0}, signed=signed, guard=False)
    cpu_s = time.process_time() - began
    return {"cpu_s": cpu_s, "trades": len(list(result.trades.rows())), "rss_mb": _rss_mb(), **spent}


# --- elsewhere --------------------------------------------------------------------------------------


def mesa_market(agents: int, trades: int, hours: float, signed: str, called: bool) -> dict[str, float]:
    """As Mesa's tutorial does it: agents with a step, activated in a shuffled order, once a round."""
    import mesa

    rounds = int(hours * 3600 / ROUND_S)
    chance = trades / (rounds * (agents - agents // 2))

    class Market(mesa.Model):  # type: ignore[misc]  # Mesa has no types
        def __init__(self) -> None:
            super().__init__(seed=7)
            self.trades = 0
            self.sellers = [Trader(self) for _ in range(agents // 2)]
            self.buyers = mesa.agent.AgentSet(
                [Trader(self) for _ in range(agents - agents // 2)], random=self.random
            )

        def step(self) -> None:
            self.buyers.shuffle_do("step")

    class Trader(mesa.Agent):  # type: ignore[misc]
        def __init__(self, model: Market) -> None:
            super().__init__(model)
            self.balance = 10**6
            self.seller: Trader | None = None

        def step(self) -> None:
            if self.random.random() < chance:
                self.seller = self.seller or self.random.choice(self.model.sellers)
                self.balance -= 1
                self.seller.balance += 1
                self.model.trades += 1

    began = time.process_time()
    model = Market()
    for _ in range(rounds):
        model.step()
    return {"cpu_s": time.process_time() - began, "trades": model.trades, "rss_mb": _rss_mb()}


def simpy_market(agents: int, trades: int, hours: float, signed: str, called: bool) -> dict[str, float]:
    """As SimPy's examples do it: a process for each, stores between them."""
    import simpy

    rng, env = random.Random(7), simpy.Environment()
    sellers, buyers = agents // 2, agents - agents // 2
    each = trades // buyers
    pause_s = hours * 3600 / each
    balances, orders = [10**6] * agents, [simpy.Store(env) for _ in range(sellers)]
    done = 0

    def sell(me: int) -> Any:
        while True:
            answers, order = yield orders[me].get()
            yield env.timeout(0.01)
            yield answers.put(order)

    def buy(me: int) -> Any:
        nonlocal done
        answers, seller = simpy.Store(env), rng.randrange(sellers)
        yield env.timeout(rng.random() * pause_s)
        for n in range(each):
            yield env.timeout(0.01)
            yield orders[seller].put((answers, f"order {n}"))
            yield answers.get()
            balances[sellers + me] -= 1
            balances[seller] += 1
            done += 1
            yield env.timeout(pause_s * (0.5 + rng.random()))

    began = time.process_time()
    for n in range(sellers):
        env.process(sell(n))
    for n in range(buyers):
        env.process(buy(n))
    env.run(until=hours * 3600 * 2)
    return {"cpu_s": time.process_time() - began, "trades": done, "rss_mb": _rss_mb()}


# --- the table --------------------------------------------------------------------------------------

MARKETS: dict[str, Callable[[int, int, float, str, bool], dict[str, float]]] = {
    "ainp2p": ainp2p_market,
    "mesa": mesa_market,
    "simpy": simpy_market,
}


def _rss_mb() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) // 1024
    return 0


def measured(arguments: argparse.Namespace) -> dict[str, float]:
    """All three, each in a process of its own."""
    found: dict[str, float] = {}
    options = ["--agents", str(arguments.agents), "--trades", str(arguments.trades)]
    options += ["--hours", str(arguments.hours), "--signed", arguments.signed]
    options += ["--called"] if arguments.called else []
    for name in MARKETS:
        command = [sys.executable, "-m", "benchmarks.simulation", *options, "--one", name]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        for line in said.splitlines():
            what, value = line.split()
            found[f"{name} {what}"] = float(value)
        found[f"{name} us per trade"] = round(1e6 * found[f"{name} cpu_s"] / found[f"{name} trades"], 1)
    found["ratio to mesa"] = round(found["ainp2p cpu_s"] / found["mesa cpu_s"], 1)
    found["ratio to simpy"] = round(found["ainp2p cpu_s"] / found["simpy cpu_s"], 1)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--trades", type=int, default=100_000)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--signed", default="keyed", choices=["keyed", "cached", "ed25519"])
    parser.add_argument("--called", action="store_true", help="buyers call for a proposal before each award")
    parser.add_argument("--one", choices=list(MARKETS), help="only this, in this process")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.one:
        numbers = MARKETS[arguments.one](
            arguments.agents, arguments.trades, arguments.hours, arguments.signed, arguments.called
        )
        print("\n".join(f"{name} {round(value, 3)}" for name, value in numbers.items()))
    else:
        report(measured(arguments), as_json=arguments.json)


if __name__ == "__main__":
    main()
