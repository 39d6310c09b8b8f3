"""One task at a time in the core, and no turn of the scheduler lost on the way in.

What is done to the core is done without an await, except that a write to the disk holds it. A `trio.Lock`
makes a checkpoint with each entry, while it is held: whoever else wants in waits for a whole round of all
tasks that are ready, and under load a round is ten milliseconds; after a write it lets one task in a round.
Here an entry is immediate while nobody is inside, and after a write all who wait come in one round.
"""

from __future__ import annotations

import trio


class CoreLock:
    """For `async with`; not reentrant. Whoever comes later waits until all who waited were in."""

    def __init__(self) -> None:
        self._held = False
        self._woken = 0  # who waited and comes in this round
        self._waiting = trio.lowlevel.ParkingLot()

    async def __aenter__(self) -> None:
        waits = self._held or self._woken > 0
        while waits:
            await self._waiting.park()
            self._woken -= 1
            waits = self._held
        self._held = True

    async def __aexit__(self, *_: object) -> None:
        self._held = False
        if self._waiting and not self._woken:  # nearly always nobody waits
            self._woken = len(self._waiting.unpark_all())
