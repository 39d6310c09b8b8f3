"""What happens to networks, clocks, disks and power: one fault after another, from a seed, until `stop`."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from tests.adversary.marks import sometimes
from tests.adversary.world import Brain, World

DAY_MS = 86_400_000


class Nemesis:
    """Something goes wrong every now and then.

    Args:
        harsh: how often, 0 to 1.
    """

    def __init__(self, world: World, seed: str, *, every_ms: tuple[int, int] = (100, 600)) -> None:
        self.world = world
        self.rng = random.Random(seed)
        self.stopped = False
        self._every_ms = every_ms
        self.kinds: list[Callable[[], None]] = [
            self.power_cut,
            self.power_cut,
            self.partition,
            self.one_way,
            self.bridge,
            self.flap,
            self.swizzle,
            self.storm,
            self.clocks,
            self.calm,
            self.calm,
        ]

    def start(self) -> None:
        self.world.after(self.rng.randint(*self._every_ms), self._strike)

    def _strike(self) -> None:
        if self.stopped:
            return
        self.world.after(self.rng.randint(*self._every_ms), self._strike)
        self.rng.choice(self.kinds)()

    def stop(self) -> None:
        """Faults end: everybody runs, hears everybody, and its clock is right."""
        self.stopped = True
        self.world.net.calm()
        for place in range(self.world.n):
            self.world.set_clock(place, 0)
        for brain in self.world.brains:
            brain.dies = ""
            if brain.validator is None:
                self.world.start(brain)

    # --- power ------------------------------------------------------------------------------------

    def power_cut(self) -> None:
        """At any moment, before a write is durable, or between the write and the message."""
        brain = self.rng.choice(self.world.brains)
        if brain.validator is None:
            return
        how = self.rng.choice(("now", "unwritten", "written"))
        if how == "now":
            self.world.crash(brain)
        else:
            brain.dies = how
        self.world.after(self.rng.randint(20, 2_500), partial(self._revive, brain))

    def _revive(self, brain: Brain) -> None:
        brain.dies = ""
        if brain.validator is None:
            sometimes("restart")
            self.world.start(brain)

    def all_restart(self) -> None:
        """C7: the power of the whole house."""
        sometimes("all restart")
        for brain in self.world.brains:
            self.world.crash(brain)
            self.world.after(self.rng.randint(20, 1_500), partial(self._revive, brain))

    # --- network ------------------------------------------------------------------------------------

    def _side(self) -> frozenset[int]:
        return frozenset(self.rng.sample(range(self.world.n), self.rng.randint(1, self.world.n - 1)))

    def partition(self) -> None:
        side = self._side()
        sometimes("partition")
        self.world.net.cut = lambda a, b: a >= 0 and (a in side) != (b in side)

    def one_way(self) -> None:
        """Asymmetric: one side hears the other and is not heard, or one is deaf."""
        side = self._side()
        sometimes("asymmetric partition")
        self.world.net.cut = lambda a, b: a >= 0 and a in side and b not in side

    def bridge(self) -> None:
        """Two halves that only one member connects."""
        side, middle = self._side(), self.rng.randrange(self.world.n)
        sometimes("bridge")
        self.world.net.cut = lambda a, b: a >= 0 and middle not in (a, b) and (a in side) != (b in side)

    def flap(self) -> None:
        """A partition that comes and goes faster than a view change."""
        side, world, period = self._side(), self.world, self.rng.choice((40, 150, 700))
        sometimes("flapping partition")
        world.net.cut = lambda a, b: a >= 0 and world.now // period % 2 == 0 and (a in side) != (b in side)

    def web(self) -> None:
        """Each way between two members is open or not, by itself: quorums that one of them alone sees."""
        world, share = self.world, self.rng.choice((0.3, 0.5, 0.7))
        closed = {(a, b) for a in world.places for b in world.places if self.rng.random() < share}
        sometimes("web")
        world.net.cut = lambda a, b: (a, b) in closed

    def swizzle(self) -> None:
        """C3, swizzle-clog: members are cut off one after the other, and come back in another order."""
        order = self.rng.sample(range(self.world.n), self.world.n)
        back = self.rng.sample(order, len(order))
        clogged: dict[int, bool] = {}
        sometimes("swizzle-clog")
        self.world.net.cut = lambda a, b: clogged.get(a, False) or clogged.get(b, False)
        for index, place in enumerate(order):
            self.world.after(30 * (index + 1), partial(clogged.__setitem__, place, True))
        for index, place in enumerate(back):
            self.world.after(30 * (len(order) + index + 2), partial(clogged.__setitem__, place, False))

    def storm(self) -> None:
        net = self.world.net
        net.loss, net.double = self.rng.choice(((0.1, 0.1), (0.4, 0.0), (0.0, 0.5), (0.7, 0.2)))
        net.delay_ms = self.rng.choice(((1, 5), (1, 300), (50, 2_500)))
        sometimes("storm")

    def outage(self) -> None:
        """Nobody hears anybody, for longer than leases and expiries."""
        sometimes("long outage")
        self.world.net.cut = lambda a, b: True

    def calm(self) -> None:
        self.world.net.calm()

    # --- time -------------------------------------------------------------------------------------

    def clocks(self) -> None:
        """F1: clocks that are wrong, and jump."""
        place = self.rng.randrange(self.world.n)
        skew = self.rng.choice((0, 0, -50, 200, 3_000, -3_000, 59_000, -59_000, DAY_MS, -DAY_MS))
        sometimes("a clock is set")
        if abs(skew) == DAY_MS:
            sometimes("a clock is a day off")
        self.world.set_clock(place, skew)
