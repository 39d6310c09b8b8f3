"""One attempt at a model: its seed, its faults, what came of it; and what is said of one that failed.

An attempt given the faults of another (`Attempt.faults`) goes the same way, event by event. A failure is the
*same* if it is of the same kind, and of the same invariant or the same line: that is what shrinking keeps.
"""

from __future__ import annotations

import shlex
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ainp2p.simulation.errors import Deadlock, InvariantViolated, Livelock, Overdue
from ainp2p.simulation.trials.faults import Schedule
from ainp2p.simulation.trials.injecting import Misnamed
from ainp2p.simulation.trials.shrink import Shrunk, shrink

if TYPE_CHECKING:
    from ainp2p.simulation.core.signatures import Mode
    from ainp2p.simulation.trials.injecting import Faults
    from ainp2p.simulation.world import World

EVENTS = 20  # the last ones that are told
RUNS_MAX = 100  # of the search for fewer faults
SHRINK_S = 60.0  # wall seconds that it takes at most


@dataclass(frozen=True)
class Attempt:
    """What came of one run.

    Attributes:
        error: what it ended with; None: all is well.
        at_s: virtual seconds when it failed, before what was under way took its leave; or at its end.
        faults: what was done to it.
        events: the last lines of its trace up to then.
        marks: how often each `sometimes` was reached.
        hash: of all that happened.
    """

    seed: int
    error: BaseException | None
    at_s: float
    faults: Schedule
    events: tuple[str, ...]
    marks: Mapping[str, int]
    hash: str

    def same(self, other: Attempt) -> bool:
        """Whether both failed for the same reason."""
        return self.error is not None and other.error is not None and _kind(self.error) == _kind(other.error)


@dataclass(frozen=True)
class Trial:
    """A model that can be run again and again.

    Attributes:
        model: `async def model(world)`.
        world: arguments of `World`.
        within_s: virtual seconds after which it has to be over; None: whenever it likes.
    """

    model: Callable[[World], Awaitable[Any]]
    seed: int
    world: Mapping[str, Any] = field(default_factory=dict)
    faults: Faults | None = None
    signed: Mode = "cached"
    guard: bool = True
    within_s: float | None = None

    def attempt(self, faults: Faults | None = None) -> Attempt:
        """Run it once, under these faults, or under its own."""
        from ainp2p.simulation.running import run

        worlds: list[World] = []

        ends: list[tuple[float, tuple[str, ...]]] = []  # the failure's, then the run's

        def look() -> None:
            ends.append((worlds[0].now, tuple(worlds[0].trace.last[-EVENTS:])))

        async def model(world: World) -> None:
            worlds.append(world)
            world.clock.failing = look
            await self.model(world)

        chosen = self.faults if faults is None else faults
        options = dict(self.world, **({} if chosen is None else {"faults": chosen}))
        error: BaseException | None = None
        marks: Mapping[str, int] = {}
        try:
            run(
                model,
                self.seed,
                world=options,
                signed=self.signed,
                guard=self.guard,
                within_s=None if "clock" in options else self.within_s,
            )
        except Exception as exc:
            error = exc
        except BaseException as exc:
            if type(exc).__name__ != "Failed":  # `pytest.fail`, and a `pytest.raises` that saw nothing
                raise
            error = exc
        if not worlds:  # the world itself could not be made
            return Attempt(self.seed, error, 0.0, Schedule(), (), {}, "")
        world = worlds[0]
        marks = Counter(world._collector.marks)
        look()
        return Attempt(self.seed, error, ends[0][0], world.faults, ends[0][1], marks, world.trace.hash)

    def shrunk(self, failed: Attempt, *, runs_max: int = RUNS_MAX, seconds: float = SHRINK_S) -> Found:
        """The fewest and shortest faults that make it fail for the same reason, within the limits."""
        if isinstance(failed.error, Misnamed):  # nothing was found out but a wrong name
            return Found(failed, failed, Shrunk(failed.faults, len(failed.faults), runs=0, done=True))
        again = self.attempt(failed.faults)
        if not again.same(failed):
            return Found(failed, again, None)
        best, until = [again], time.monotonic() + seconds

        def fails(schedule: Schedule) -> bool:
            tried = self.attempt(schedule)
            if tried.same(failed):
                best.append(tried)
                return True
            return False

        found = shrink(again.faults, fails, runs_max=runs_max, enough=lambda: time.monotonic() >= until)
        return Found(failed, self.attempt(found.schedule), found)


@dataclass(frozen=True)
class Found:
    """A failure, as it was found and as it was shrunk.

    Attributes:
        first: as it was found.
        last: under the faults that are left.
        shrunk: how they were found; None: `last`, with the very same faults, did not fail in the same way.
    """

    first: Attempt
    last: Attempt
    shrunk: Shrunk | None

    def told(self, command: Callable[[int, Schedule], str]) -> str:
        """For people: seed, time, reason, faults, last events, and the command that does it again."""
        end = self.last if self.shrunk is not None else self.first
        lines = [f"seed {end.seed}, at {end.at_s:.3f} s virtual: {reason(end.error)}"]
        if self.shrunk is None:
            lines += [
                "the same seed and faults again end otherwise: " + reason(self.last.error),
                "something in the test is decided by neither: state that outlives a run, or the real world",
            ]
        elif self.shrunk.schedule:
            lines.append(f"faults: {self.shrunk}")
        else:
            lines.append("faults: none is needed for it")
        lines += [f"  {fault}" for fault in end.faults]
        lines += ["last events:", *(f"  {event}" for event in end.events)]
        if isinstance(end.error, Deadlock | Livelock | Overdue):
            lines += ["where every task waits:", end.error.stacks]
        return "\n".join([*lines, "again:", f"  {command(end.seed, end.faults)}"])


def reason(error: BaseException | None) -> str:
    """One line about why a run ended."""
    if error is None:
        return "nothing failed"
    if isinstance(error, InvariantViolated):
        return f"invariant {error.invariant!r} is violated" + (f": {error.detail}" if error.detail else "")
    if isinstance(error, Deadlock):
        return "deadlock: every task waits and nothing is left to wake one"
    words = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {words}"


def command(*words: str) -> str:
    """A command line for a shell."""
    return " ".join(shlex.quote(word) for word in words)


def _kind(error: BaseException) -> tuple[str, ...]:
    """What stays the same when a failure is the same."""
    if isinstance(error, InvariantViolated):
        return ("invariant", error.invariant)
    if isinstance(error, BaseExceptionGroup):
        return ("group", *(" ".join(_kind(each)) for each in error.exceptions))
    frames = traceback.extract_tb(error.__traceback__)
    where = (
        f"{frames[-1].filename}:{frames[-1].lineno}" if frames and isinstance(error, AssertionError) else ""
    )
    return (type(error).__module__, type(error).__qualname__, where)
