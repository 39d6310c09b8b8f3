"""A PettingZoo environment: policies that learn price and buy against scripted agents, in a simulated world.

    env = MarketEnv(sellers=1, scripted_sellers=(50, 60), scripted_buyers=6)
    observations, infos = env.reset(seed=7)
    while env.agents:
        actions = {agent: policy(observations[agent]) for agent in env.agents}
        observations, rewards, terminations, truncations, infos = env.step(actions)

Each step is a fixed piece of virtual time, in which the production agents of gym_market.py trade over a
simulated wire. Actions turn the knobs of strategies; a reward is what the step brought, in uain. An
agent that is broke terminates; after `steps` all are truncated. The same seed and the same actions give the
same trajectory, in any process, whatever other environments there are.

Needs the extra `gym`: ``pip install 'ainp2p[gym]'``.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

try:
    import numpy as np
    from gymnasium.spaces import Box
    from numpy.typing import NDArray
    from pettingzoo import ParallelEnv
except ModuleNotFoundError as exc:
    raise ModuleNotFoundError(f"{exc.name} is missing: pip install 'ainp2p[gym]'", name=exc.name) from exc

from ainp2p.errors import InvalidInput
from ainp2p.simulation.core.signatures import Mode
from ainp2p.simulation.core.stepping import Stepped
from ainp2p.simulation.gym_market import ASKS_MAX, Buyer, Market, Period, Rules, Scripted, Seller
from ainp2p.simulation.results.results import Result
from ainp2p.simulation.world import World

Vector = NDArray[np.float32]

SELLER_SEES = (
    "ask",  # its own price, as a share of the market's card
    "load",  # items being made, as a share of its slots
    "calls",  # calls for proposals that it heard in the last step, as a share of CALLS
    "fill rate",  # items sold for each of these calls
    "price got",  # mean price of these items, as a share of the card
    "lowest card",  # the lowest price on another seller's card that it knows, as a share of the card
    "capital",  # what is left of it, as a share of twice the first
    "time left",  # steps, as a share of all
)
BUYER_SEES = (
    "limit",  # the most that it pays, as a share of worth
    "asks",  # how many sellers it asks, as a share of ASKS_MAX
    "sellers known",  # as a share of all that there were at first
    "wants",  # items that it wanted in the last step, as a share of CALLS
    "fill rate",  # items bought for each that it wanted
    "price paid",  # mean of these items, as a share of the card
    "lowest proposal",  # seen in the last step, as a share of the card; 1 if none
    "mean proposal",  # the same
    "capital",  # what is left of it, as a share of the first
    "time left",  # steps, as a share of all
)
CALLS = 32  # of one step, that count as many


def _is_price(scripted: object) -> bool:
    return isinstance(scripted, int) and scripted >= 1


class MarketEnv(ParallelEnv[str, Vector, Vector]):  # type: ignore[misc]  # PettingZoo carries no types
    """A market of learning and scripted agents, by PettingZoo's parallel API.

    Attributes:
        possible_agents: "seller_0", …, "buyer_0", …
        agents: those that still take part.
        result: of the last episode that came to its end: its trades, agents and messages.
    """

    metadata: ClassVar[dict[str, Any]] = {
        "name": "ainp2p_market_v0",
        "render_modes": ["ansi"],
        "is_parallelizable": True,
    }

    def __init__(
        self,
        *,
        sellers: int = 1,
        buyers: int = 0,
        scripted_sellers: Sequence[Scripted] = (50, 60),
        scripted_buyers: int = 6,
        steps: int = 100,
        step_s: float = 10.0,
        rules: Rules | None = None,
        world: Mapping[str, Any] | None = None,
        signed: Mode = "keyed",
        render_mode: str | None = None,
    ) -> None:
        """
        Args:
            sellers, buyers: how many learn.
            scripted_sellers: one each: a fixed price, or a function that makes a pricing strategy.
            scripted_buyers: how many; they ask `rules.asks` sellers and pay what an item is worth to them.
            steps: after so many, all are truncated.
            step_s: virtual seconds of one step.
            rules: costs, worth and pace.
            world: arguments of `World`, such as ``{"weather": Weather(latency=0.05)}``.
            signed: how keys sign (`ainp2p.simulation.core.signatures`).
            render_mode: "ansi": `render` gives the last step as text.

        Raises:
            InvalidInput: nobody learns, nobody sells or nobody buys; a price is none; or time does not pass.
        """
        if sellers < 0 or buyers < 0 or sellers + buyers < 1:
            raise InvalidInput("nobody learns: sellers=1 or buyers=1, or more")
        if sellers + len(scripted_sellers) < 1 or buyers + scripted_buyers < 1:
            raise InvalidInput("a market has a seller and a buyer, learning or scripted")
        if odd := [each for each in scripted_sellers if not callable(each) and not _is_price(each)]:
            raise InvalidInput(
                f"a scripted seller is a price of 1 uain or more, or a function, not {odd[0]!r}"
            )
        if steps < 1 or not 0 < step_s < math.inf:
            raise InvalidInput("steps=1 or more, of step_s > 0 virtual seconds each")
        if render_mode not in (None, "ansi"):
            raise InvalidInput(f"render_mode is None or 'ansi', not {render_mode!r}")
        self.rules, self.steps, self.step_s, self.render_mode = rules or Rules(), steps, step_s, render_mode
        self.result: Result | None = None
        self._sellers = [f"seller_{i}" for i in range(sellers)]
        self._buyers = [f"buyer_{i}" for i in range(buyers)]
        self._scripted, self._customers = tuple(scripted_sellers), scripted_buyers
        self._world_options, self._signed = dict(world or {}), signed
        self.possible_agents = [*self._sellers, *self._buyers]
        self.agents: list[str] = []
        self._spaces = {name: self._spaces_of(name) for name in self.possible_agents}
        self._seeds: np.random.Generator | None = None
        self._step, self._seed = 0, 0
        self._market: Market | None = None
        self._world: World | None = None
        self._run: Stepped[dict[str, Any]] | None = None
        self._seen: dict[str, Vector] = {}

    # --- spaces ------------------------------------------------------------------------------------

    def observation_space(self, agent: str) -> Box:
        """Numbers from 0 to 1: see SELLER_SEES and BUYER_SEES."""
        return self._spaces[agent][0]

    def action_space(self, agent: str) -> Box:
        """A seller's: [price / card]. A buyer's: [limit / worth, which part of ASKS_MAX sellers it asks]."""
        return self._spaces[agent][1]

    def _spaces_of(self, name: str) -> tuple[Box, Box]:
        sees, knobs = (len(SELLER_SEES), 1) if name in self._sellers else (len(BUYER_SEES), 2)
        return Box(0.0, 1.0, (sees,), np.float32), Box(0.0, 1.0, (knobs,), np.float32)

    # --- an episode --------------------------------------------------------------------------------

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Vector], dict[str, dict[str, Any]]]:
        """Begin anew, in a new world.

        Args:
            seed: None: the next one that follows from the last seed given; from the system's randomness
                where none was.
            options: nothing is read from it.
        """
        self.close()
        if seed is not None or self._seeds is None:
            self._seeds = np.random.default_rng(secrets.randbits(64) if seed is None else seed)
        self._seed = int(self._seeds.integers(2**62)) if seed is None else seed
        self._step, self.agents = 0, list(self.possible_agents)
        self._market = market = Market(
            self.rules,
            sellers=self._sellers,
            buyers=self._buyers,
            scripted_sellers=self._scripted,
            scripted_buyers=self._customers,
        )
        self._world = world = World(self._seed, **self._world_options)
        step_s = self.step_s

        async def main(turn: Any) -> dict[str, Any]:  # refers to no environment: a dropped one is collected
            return await world.live(market.play, {"turn": turn, "step_s": step_s})

        self._run = Stepped(
            main,
            seed=self._seed,
            clock=world.clock,
            signed=self._signed,
            secret=world.draws.derive("signatures"),
        )
        self._run.go()
        self._seen = {name: self._observe(name, Period()) for name in self.agents}
        return dict(self._seen), {name: self._info(name, Period()) for name in self.agents}

    def step(
        self, actions: Mapping[str, Any]
    ) -> tuple[
        dict[str, Vector], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]
    ]:
        """Turn the knobs, and let `step_s` of virtual time pass.

        Raises:
            InvalidInput: no episode is under way; or an action is missing, or no finite numbers.
            SimulationError: the world failed (`ainp2p.simulation.errors`).
        """
        market, run = self._market, self._run
        if market is None or run is None or not self.agents:
            raise InvalidInput("no episode is under way: call reset() first")
        knobs = {name: self._knobs(name, actions) for name in self.agents}  # refuse before anything is turned
        for name, values in knobs.items():
            self._turn(name, values)
        periods: dict[str, Period] = run.go()
        self._step += 1
        took_part, traders, late = self.agents, market.traders, self._step >= self.steps
        self._seen = {name: self._observe(name, periods[name]) for name in took_part}
        rewards = {name: float(periods[name].gain) for name in took_part}
        terminations = {name: traders[name].broke.is_set() for name in took_part}
        truncations = {name: late and not terminations[name] for name in took_part}
        infos = {name: self._info(name, periods[name]) for name in took_part}
        self.agents = [name for name in took_part if not terminations[name] and not truncations[name]]
        if not self.agents:
            self._end()
        return dict(self._seen), rewards, terminations, truncations, infos

    def _end(self) -> None:
        """The episode is over: its tables are made, and its world is gone."""
        run, world = self._run, self._world
        assert run is not None
        assert world is not None
        self._run = None
        run.close()
        self.result = Result(
            seed=self._seed,
            parameters=self._parameters(),
            hash=world.trace.hash,
            duration_s=world.now,
            signed=self._signed,
            model=f"{__name__}:MarketEnv",
            trace=world.trace,
            **(run.value or {}),
        )

    def close(self) -> None:
        """End the episode; `reset` begins another one."""
        run, self._run, self._world, self.agents = self._run, None, None, []
        if run is not None:
            run.close()

    def render(self) -> str | None:
        """The last step as text, with `render_mode="ansi"`."""
        if self.render_mode is None:
            return None
        lines = [f"step {self._step} of {self.steps}, seed {self._seed}"]
        for name, seen in self._seen.items():
            sees = SELLER_SEES if name in self._sellers else BUYER_SEES
            lines.append(f"{name}: " + ", ".join(f"{w} {v:.2f}" for w, v in zip(sees, seen, strict=True)))
        return "\n".join(lines)

    def state(self) -> Vector:
        """All last observations in a row, for those who train centrally."""
        blank = {name: np.zeros(space.shape, np.float32) for name, (space, _) in self._spaces.items()}
        return np.concatenate([self._seen.get(name, blank[name]) for name in self.possible_agents])

    def __getstate__(self) -> dict[str, Any]:
        """A copy, in this process or another, has the same rules and no episode: call `reset`."""
        idle: dict[str, Any] = {"_run": None, "_world": None, "_market": None, "agents": [], "_seen": {}}
        return {**self.__dict__, **idle}

    # --- inside ------------------------------------------------------------------------------------

    def _knobs(self, name: str, actions: Mapping[str, Any]) -> list[float]:
        if name not in actions:
            raise InvalidInput(f"an action for {name!r} is missing")
        shape = self._spaces[name][1].shape
        try:
            values = np.asarray(actions[name], np.float64).reshape(-1)
        except (TypeError, ValueError):
            values = np.full(shape, np.nan)
        if values.shape != shape or not np.isfinite(values).all():
            raise InvalidInput(f"the action of {name!r} is {shape[0]} finite number(s) from 0 to 1")
        return [float(value) for value in np.clip(values, 0.0, 1.0)]

    def _turn(self, name: str, values: list[float]) -> None:
        assert self._market is not None
        trader = self._market.traders[name]
        if isinstance(trader, Seller):
            trader.ask = max(1, round(values[0] * self.rules.card))
        elif isinstance(trader, Buyer):
            trader.limit = values[0]
            trader.asks = min(ASKS_MAX, 1 + int(values[1] * ASKS_MAX))

    def _observe(self, name: str, period: Period) -> Vector:
        assert self._market is not None
        trader, rules, card = self._market.traders[name], self.rules, self.rules.card
        price = period.amount / max(1, period.fills) / card
        rate, calls = period.fills / max(1, period.calls), period.calls / CALLS
        left = 1 - self._step / self.steps
        if isinstance(trader, Seller):
            lowest, capital = trader.lowest_elsewhere(), trader.capital / (2 * rules.capital)
            elsewhere = 1.0 if lowest is None else lowest / card
            load = trader.busy / rules.slots
            numbers = [trader.ask / card, load, calls, rate, price, elsewhere, capital, left]
        else:
            assert isinstance(trader, Buyer)
            proposed = list(period.proposed.values()) or [card]
            known, capital = trader.known / self._market.size, trader.capital / rules.capital
            low, mean = min(proposed) / card, sum(proposed) / len(proposed) / card
            asks = trader.asks / ASKS_MAX
            numbers = [trader.limit, asks, known, calls, rate, price, low, mean, capital, left]
        return np.clip(np.array(numbers, np.float32), 0.0, 1.0)

    def _info(self, name: str, period: Period) -> dict[str, Any]:
        """Plain counts of the last step, and when it ended."""
        assert self._market is not None
        assert self._world is not None
        return {
            "at_s": self._world.now,
            "calls": period.calls,
            "fills": period.fills,
            "amount": period.amount,
            "capital": self._market.traders[name].capital,
        }

    def _parameters(self) -> dict[str, Any]:
        return {
            "sellers": len(self._sellers),
            "buyers": len(self._buyers),
            "scripted_sellers": len(self._scripted),
            "scripted_buyers": self._customers,
            "steps": self.steps,
            "step_s": self.step_s,
        }


def parallel_env(**options: Any) -> MarketEnv:
    """The environment, under the name that PettingZoo's tools look for."""
    return MarketEnv(**options)
