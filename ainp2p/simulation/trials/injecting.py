"""Does a schedule of faults to a world, and undoes each when its time is over, whatever else is under way."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import trio

from ainp2p.errors import Error, InvalidInput
from ainp2p.simulation.trials.faults import LIES, Fault, Schedule
from ainp2p.simulation.trials.profile import Draft, Profile

if TYPE_CHECKING:
    from ainp2p.simulation.node import Node
    from ainp2p.simulation.wire.weather import Weather
    from ainp2p.simulation.world import World

AGAIN_S = 2.0  # until a process that could not open is started again

Faults = Schedule | Profile | str
"""A schedule, its text, or a profile that one is drawn from."""


class Misnamed(InvalidInput):
    """A fault is to befall a node that is not there when it begins."""


class Injector:
    """The faults of one world.

    Attributes:
        done: what has begun so far, in order, of what was armed to be recorded.
    """

    def __init__(self, world: World) -> None:
        self.done: list[Fault] = []
        self._world = world
        self._active: list[Fault] = []
        self._own = world.wire.weather  # the model's, which comes back
        self._storm: Weather | None = None  # ours, while a fault of this kind lasts
        self._walls: dict[int, Any] = {}  # of partitions that last, by id(fault)

    def arm(self, faults: Faults, *, record: bool) -> None:
        """Let these faults happen.

        Raises:
            InvalidInput: the text is no schedule.
        """
        clock = self._world.clock
        if isinstance(faults, Profile):
            rng = random.Random(self._world.draws.derive("faults"))  # counts as no draw of the world
            for draft in faults.plan(rng):
                clock.call_at(draft.at_s, self._draw, draft, record)
            return
        for fault in Schedule.parse(faults) if isinstance(faults, str) else faults:
            clock.call_at(fault.at_s, self._begin, fault, record)

    def _draw(self, draft: Draft, record: bool) -> None:
        world = self._world
        names = [name for name in world.nodes if name != "bank"]
        fault = draft.fault(names, lambda name: world.nodes[name].role)
        if fault is not None:
            self._begin(fault, record)

    def _begin(self, fault: Fault, record: bool) -> None:
        if record:
            self.done.append(fault)  # even if it cannot be: whoever runs this again is told the same
        for name in (*fault.who, *fault.whom):
            try:
                self._world.node(name)
            except InvalidInput as exc:
                raise Misnamed(f"{str(fault)!r}: {exc}") from exc
        self._active.append(fault)
        _BEGIN[fault.kind](self, fault)
        if fault.for_s is not None:
            self._world.clock.call_at(fault.at_s + fault.for_s, self._end, fault)

    def _end(self, fault: Fault) -> None:
        self._active = [each for each in self._active if each is not fault]
        self._world.trace.note("fault ends", str(fault))
        _END[fault.kind](self, fault)

    def _last(self, kind: str, name: str | None = None) -> Fault | None:
        """The latest fault of this kind that still lasts, for this node."""
        found = [f for f in self._active if f.kind == kind and (name is None or name in f.who)]
        return found[-1] if found else None

    # --- paths ------------------------------------------------------------------------------------

    def _wall(self, fault: Fault) -> None:
        world = self._world
        here, there = world._peers(fault.who), world._peers(fault.whom)
        world._fault(fault.kind, str(fault))
        self._walls[id(fault)] = world.wire.partition(here, there, oneway=fault.kind == "cut")

    def _lift(self, fault: Fault) -> None:
        self._world.wire.lift(self._walls.pop(id(fault)))

    # --- nodes ------------------------------------------------------------------------------------

    def _pause(self, fault: Fault) -> None:
        for name in fault.who:
            self._world.pause(name)

    def _resume(self, fault: Fault) -> None:
        for name in fault.who:
            if self._last("pause", name) is None:
                self._world.resume(name)

    def _crash(self, fault: Fault) -> None:
        power = fault.kind == "crash"
        for name in fault.who:
            if self._world.node(name).alive:
                self._world._fault(fault.kind, name)
                self._world.node(name).kill(lose_unsynced=power, reset=not power)
                if fault.kind == "restart":
                    self._start(name)

    def _restart(self, fault: Fault) -> None:
        for name in fault.who:
            node = self._world.node(name)
            down = self._last("crash", name) or self._last("kill", name)
            if not node.alive and node.lives and down is None:
                self._start(name)

    def _start(self, name: str) -> None:
        """Now, so that another fault which ends at this instant finds it running."""
        self._world._running.start_soon(self._keep_running, self._world.restart(name))

    async def _keep_running(self, node: Node) -> None:
        """As an operator does: a process that cannot open (nobody can be reached, say) is started again."""
        while True:
            try:
                await node.ready()
                return
            except Error:
                await trio.sleep(AGAIN_S)
            if node.alive:
                return
            self._world.restart(node.name)

    def _nothing(self, fault: Fault) -> None:
        """It has ended already."""

    def _skew(self, fault: Fault) -> None:
        for name in fault.who:
            lasting = self._last("skew", name)
            ms, rate = lasting.skew() if lasting is not None else (0, 1.0)
            self._world.skew(name, ms, rate=rate)

    def _fill(self, fault: Fault) -> None:
        for name in fault.who:
            self._world._fault("full", name)
            self._world.node(name).disk.full = True

    def _free(self, fault: Fault) -> None:
        """There is room again; and a process that has seen a failed write is started anew."""
        for name in fault.who:
            node = self._world.node(name)
            if self._last("full", name) is None:
                node.disk.full = False
                if node.alive:
                    self._world._fault("kill", name)
                    node.kill(lose_unsynced=False, reset=True)
        self._restart(fault)

    def _lie(self, fault: Fault) -> None:
        for name in fault.who:
            lasting = self._last("lie", name)
            self._world.lie(name, None if lasting is None else LIES[lasting.value("how")]())

    def _weather(self, fault: Fault) -> None:
        wire, lasting = self._world.wire, self._last("weather")
        self._world._fault("weather", str(fault))
        if wire.weather is not self._storm:  # the model has set it, before this fault or while it lasted
            self._own = wire.weather
        self._storm = None if lasting is None else lasting.weather()
        wire.weather = self._own if self._storm is None else self._storm


_Handler = Callable[[Injector, Fault], None]
_BEGIN: dict[str, _Handler] = {
    "partition": Injector._wall,
    "cut": Injector._wall,
    "pause": Injector._pause,
    "crash": Injector._crash,
    "kill": Injector._crash,
    "restart": Injector._crash,
    "skew": Injector._skew,
    "full": Injector._fill,
    "lie": Injector._lie,
    "weather": Injector._weather,
}
_END: dict[str, _Handler] = {
    **_BEGIN,
    "partition": Injector._lift,
    "cut": Injector._lift,
    "pause": Injector._resume,
    "crash": Injector._restart,
    "kill": Injector._restart,
    "restart": Injector._nothing,
    "full": Injector._free,
}
