"""What can go wrong in a simulated world, beside the library's own errors.

Error
└── SimulationError
    ├── Ambient            the model read the real world: clock, randomness, thread, socket, process
    ├── Deadlock           every task waits and nothing will ever happen
    ├── Livelock           tasks run and run, and virtual time stands still
    ├── Overdue            a test is not over within its virtual time
    ├── InvariantViolated  a check of the model failed: seed, virtual time, the last events
    ├── VersionMismatch    a trace or a result written by another version
    └── Mixed              a sweep would mix seeds, drop rows or overwrite results
"""

from __future__ import annotations

from collections.abc import Sequence

from ainp2p.errors import Error, InvalidInput


class SimulationError(Error):
    """Base of what only a simulation raises."""


class Ambient(SimulationError):
    """The model read something that no seed decides, and was stopped before it did.

    Attributes:
        source: what was called, such as ``"time.time"``.
        where: the line that called it, ``file:line``.
        remedy: what to call instead.
    """

    def __init__(self, source: str, where: str, remedy: str) -> None:
        super().__init__(f"{where}: {source} is not decided by the seed: use {remedy}")
        self.source, self.where, self.remedy = source, where, remedy


class Deadlock(SimulationError):
    """Every task waits, and no timer, message or deadline is left that could wake one.

    Attributes:
        at_s: virtual time.
        stacks: where every task waits, innermost line last, as text.
    """

    def __init__(self, at_s: float, stacks: str) -> None:
        super().__init__(
            f"deadlock at {at_s:.6f} s: every task waits and nothing is left to wake one\n{stacks}"
        )
        self.at_s, self.stacks = at_s, stacks


class Livelock(SimulationError):
    """Tasks or timers go on without end at one instant: a loop around ``await trio.sleep(0)``, say.

    Attributes:
        at_s: virtual time, which stands still.
        stacks: where every task is, innermost line last, as text.
    """

    def __init__(self, at_s: float, stacks: str) -> None:
        super().__init__(
            f"time stands still at {at_s:.6f} s: something goes on for ever without letting any pass; "
            f"sleep for longer than 0 in that loop\n{stacks}"
        )
        self.at_s, self.stacks = at_s, stacks


class Overdue(SimulationError):
    """A run was to be over by now; something waits for what does not come, while the rest goes on.

    Attributes:
        limit_s: virtual seconds that it had.
        stacks: where every task waits, innermost line last, as text.
    """

    def __init__(self, limit_s: float, stacks: str) -> None:
        super().__init__(
            f"not over after {limit_s:.12g} virtual seconds (within_s, --within); see what waits\n{stacks}"
        )
        self.limit_s, self.stacks = limit_s, stacks


class InvariantViolated(SimulationError):
    """A check that the model asked for does not hold.

    Attributes:
        invariant: its name.
        seed: the seed that leads here again.
        at_s: virtual time.
        events: the last lines of the trace, oldest first.
    """

    def __init__(
        self, invariant: str, seed: object, at_s: float, detail: str = "", events: Sequence[str] = ()
    ) -> None:
        last = "".join(f"\n  {line}" for line in events)
        super().__init__(
            f"invariant {invariant!r} violated at {at_s:.6f} s, seed {seed}{detail and ': ' + detail}{last}"
        )
        self.invariant, self.seed, self.at_s, self.detail = invariant, seed, at_s, detail
        self.events = tuple(events)


class VersionMismatch(SimulationError):
    """A file was written by another version of this library; run the seed again to make a new one.

    Attributes:
        found: the version that wrote it.
        expected: the version that this library reads.
    """

    def __init__(self, what: str, found: object, expected: object) -> None:
        super().__init__(
            f"{what} was written by version {found}, and this is version {expected}:"
            " run the same seed again with this version, or read it with that one"
        )
        self.found, self.expected = found, expected


class Mixed(SimulationError, InvalidInput):
    """A sweep would mix seeds or parameters, drop rows, or overwrite results; nothing was written."""
