"""The weather on the paths between peers: how long a message takes, and what happens to it on its way.

Values only: the wire (wire.py) throws the dice, one set for each directed path.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from ainp2p.errors import InvalidInput
from ainp2p.protocol.memory import LOSSES_MAX, RETRANSMIT_S
from ainp2p.protocol.network import PeerId

Latency = float | tuple[float, float] | Callable[[random.Random, PeerId, PeerId], float]
"""Seconds one way: a number, (low, high) for any time between them, or a function of (rng, source, target),
which draws from nothing but `rng`."""


@dataclass(frozen=True, slots=True)
class Weather:
    """What a world's wire does to messages.

    Attributes:
        latency: how long each message takes, one way.
        loss: chance that a message is lost: on a connection it is sent again, and comes late; gossip is gone.
        duplicate: chance that a gossip message arrives twice.
        reorder_s: gossip messages are late by up to so much, each on its own; connections keep their order.
    """

    latency: Latency = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    reorder_s: float = 0.0

    def __post_init__(self) -> None:
        """Raises InvalidInput for a chance outside 0 to 1, or a time that is negative or not finite."""
        for name, chance in (("loss", self.loss), ("duplicate", self.duplicate)):
            if not 0 <= chance <= 1:
                raise InvalidInput(f"{name} is a chance from 0 to 1, not {chance}")
        times = self.latency if isinstance(self.latency, tuple) else (self.latency,)
        fixed = [time for time in (*times, self.reorder_s) if not callable(time)]
        if any(not 0 <= time < math.inf for time in fixed) or fixed[:-1] != sorted(fixed[:-1]):
            raise InvalidInput("latency and reorder_s are seconds from 0 on, a range goes from low to high")

    @property
    def calm(self) -> bool:
        """No dice are needed for a message on a connection."""
        return not self.loss and isinstance(self.latency, (int, float))

    def delay_s(self, rng: random.Random, source: PeerId, target: PeerId) -> float:
        """How long one message takes now.

        Raises:
            InvalidInput: the latency function returned something else than seconds from 0 on.
        """
        latency = self.latency
        if isinstance(latency, tuple):
            low, high = latency
            return low + (high - low) * rng.random()
        if not callable(latency):
            return latency
        delay = latency(rng, source, target)
        if not 0 <= delay < math.inf:
            raise InvalidInput(f"a latency function returns seconds from 0 on, not {delay!r}")
        return delay

    def late_s(self, rng: random.Random) -> float:
        """How much later a message on a connection is by its repetitions; inf: the connection breaks."""
        late, again = 0.0, RETRANSMIT_S
        for _ in range(LOSSES_MAX):
            if rng.random() >= self.loss:
                return late
            late, again = late + again, again * 2
        return math.inf


CALM = Weather()


def lognormal(median_s: float, sigma: float) -> Callable[[random.Random, PeerId, PeerId], float]:
    """Latencies as the Internet has them: half of them above the median, few of them far above.

    With `sigma` 0.5 one in a hundred takes three times the median, with 1.0 ten times.

    Raises:
        InvalidInput: the median is not positive, or sigma is negative.
    """
    if not 0 < median_s < math.inf or not 0 <= sigma < math.inf:
        raise InvalidInput("a lognormal latency has a positive median and a sigma from 0 on")
    mu = math.log(median_s)
    return lambda rng, source, target: rng.lognormvariate(mu, sigma)
