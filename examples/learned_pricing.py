"""A seller learns what to ask: a policy gradient against shops with fixed prices, in a few seconds.

    python examples/learned_pricing.py                # needs the extra: pip install 'ainp2p[gym]'

Two shops ask 50 and 60 for what costs 20 to make; buyers ask two sellers each and take the cheaper one. The
learner knows none of this. It tries prices, sees what each step earns, and comes to ask a little less than
the cheapest shop, which earns several times what the dearer shop's price would in the same markets.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ainp2p.simulation.gym import MarketEnv

PRICES = np.arange(0.25, 1.0, 0.1)  # what it may ask, as shares of the most: 25, 35, … 95 uain
FIXED = 0.60  # what the dearer shop asks
RATE, SCALE = 0.15, 50.0  # of learning; uain by which rewards are divided


@dataclass
class Policy:
    """The gradient bandit of R. Sutton and A. Barto, "Reinforcement Learning" (2nd ed.), section 2.8.

    Attributes:
        rng: draws its actions: all that is random in learning.
        preferences: one for each price; their softmax is the policy.
        usual: the mean reward so far, which a good price beats.
    """

    rng: np.random.Generator
    preferences: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(PRICES)))
    usual: float = 0.0
    steps: int = 0

    @property
    def chances(self) -> NDArray[np.float64]:
        weights = np.exp(self.preferences - self.preferences.max())
        return np.asarray(weights / weights.sum())

    def draw(self) -> int:
        return int(self.rng.choice(len(PRICES), p=self.chances))

    def learn(self, taken: int, reward: float) -> None:
        """Prefer what brought more than usual."""
        self.steps += 1
        self.usual += (reward - self.usual) / self.steps
        direction = -self.chances
        direction[taken] += 1
        self.preferences += RATE * (reward - self.usual) / SCALE * direction


def episode(env: MarketEnv, policy: Policy, seed: int) -> float:
    """Sell through one episode, learning all the while; uain earned per step."""
    env.reset(seed=seed)
    earned = []
    while env.agents:
        taken = policy.draw()
        _, rewards, _, _, _ = env.step({"seller_0": PRICES[taken : taken + 1]})
        policy.learn(taken, rewards["seller_0"])
        earned.append(rewards["seller_0"])
    return float(np.mean(earned))


def at_a_fixed_price(env: MarketEnv, price: float, seed: int) -> float:
    """What one price earns per step in the market of a seed."""
    env.reset(seed=seed)
    earned = []
    while env.agents:
        _, rewards, _, _, _ = env.step({"seller_0": np.array([price])})
        earned.append(rewards["seller_0"])
    return float(np.mean(earned))


def train(episodes: int = 12, seed: int = 1, steps: int = 30) -> tuple[Policy, list[float]]:
    """A policy, and what it earned per step in each episode."""
    policy = Policy(np.random.default_rng(seed))
    env = MarketEnv(sellers=1, scripted_sellers=(50, 60), scripted_buyers=6, steps=steps)
    return policy, [episode(env, policy, seed * 1000 + number) for number in range(episodes)]


def main() -> None:
    policy, earned = train()
    for number, mean in enumerate(earned, 1):
        print(f"episode {number:2}: {mean:6.1f} uain per step")
    best = float(PRICES[policy.chances.argmax()])
    env = MarketEnv(sellers=1, scripted_sellers=(50, 60), scripted_buyers=6, steps=30)
    learned, fixed = (np.mean([at_a_fixed_price(env, p, seed) for seed in (7, 8)]) for p in (best, FIXED))
    print(
        f"in new markets it asks {best * 100:.0f} and earns {learned:.1f}; at {FIXED * 100:.0f}: {fixed:.1f}"
    )


if __name__ == "__main__":
    main()
