"""Makes a schedule of faults that breaks something as small as it can: delta debugging, then shorter faults.

After A. Zeller and R. Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", IEEE Transactions on
Software Engineering 28(2), 2002 (ddmin). Knows nothing of worlds: whether a schedule still breaks the same
thing is a function that it is given. Every question costs a run, so there is a limit to their number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ainp2p.simulation.trials.faults import Fault, Schedule

SHORTEST_S = 0.1  # below it a fault is not shortened further

Fails = Callable[[Schedule], bool]


@dataclass(frozen=True, slots=True)
class Shrunk:
    """What is left.

    Attributes:
        schedule: it still breaks the same thing.
        before: how many faults there were.
        runs: how often it was tried.
        done: nothing smaller was found; False: the limit came first.
    """

    schedule: Schedule
    before: int
    runs: int
    done: bool

    def __str__(self) -> str:
        many = "fault" if self.before == 1 else "faults"
        end = "nothing smaller does" if self.done else "the limit came first: there may be less"
        return f"{len(self.schedule)} of {self.before} {many}, after {self.runs} runs; {end}"


class _Spent(Exception):
    """No more questions."""


class _Asked:
    """Asks each question once, and not more than allowed."""

    def __init__(self, fails: Fails, runs_max: int, enough: Callable[[], bool]) -> None:
        self.runs = 0
        self._fails, self._runs_max, self._enough = fails, runs_max, enough
        self._known: dict[str, bool] = {}

    def __call__(self, faults: list[Fault]) -> bool:
        schedule = Schedule(tuple(faults))
        text = str(schedule)
        if text not in self._known:
            if self.runs >= self._runs_max or self._enough():
                raise _Spent
            self.runs += 1
            self._known[text] = self._fails(schedule)
        return self._known[text]


def shrink(
    schedule: Schedule, fails: Fails, *, runs_max: int = 100, enough: Callable[[], bool] = lambda: False
) -> Shrunk:
    """Find a smaller schedule for which `fails` is still true.

    Args:
        schedule: one for which it is true.
        runs_max: most calls of `fails`.
        enough: asked before each call; true ends the search.
    """
    asked = _Asked(fails, runs_max, enough)
    found = [list(schedule)]
    done = True
    try:
        if found[0] and asked([]):
            found.append([])
        _fewer(found, asked)
        _smaller(found, asked)
    except _Spent:
        done = False
    return Shrunk(Schedule(tuple(found[-1])), len(schedule), asked.runs, done)


def _fewer(found: list[list[Fault]], fails: _Asked) -> None:
    """ddmin over the faults: leave out halves, then quarters, …; the last of `found` is the best so far."""
    pieces = 2
    while len(found[-1]) > 1:
        faults = found[-1]
        size = -(-len(faults) // pieces)
        for start in range(0, len(faults), size):
            rest = faults[:start] + faults[start + size :]
            if rest and fails(rest):
                found.append(rest)
                pieces = max(pieces - 1, 2)
                break
        else:
            if size == 1:
                return
            pieces = min(pieces * 2, len(faults))


def _smaller(found: list[list[Fault]], fails: _Asked) -> None:
    """Each fault for half as long, again and again, and with fewer nodes."""
    for place in range(len(found[-1])):
        while (fault := found[-1][place]).for_s is None or fault.for_s >= 2 * SHORTEST_S:
            for_s = 60.0 if fault.for_s is None else round(fault.for_s / 2, 3)
            if not _instead(found, place, fault.lasting(for_s), fails):
                break
        for side in ("who", "whom"):
            for name in getattr(found[-1][place], side):
                names = tuple(each for each in getattr(found[-1][place], side) if each != name)
                if names:
                    _instead(found, place, _with(found[-1][place], side, names), fails)


def _with(fault: Fault, side: str, names: tuple[str, ...]) -> Fault:
    return replace(fault, who=names) if side == "who" else replace(fault, whom=names)


def _instead(found: list[list[Fault]], place: int, fault: Fault, fails: _Asked) -> bool:
    faults = [*found[-1][:place], fault, *found[-1][place + 1 :]]
    if not fails(faults):
        return False
    found.append(faults)
    return True
