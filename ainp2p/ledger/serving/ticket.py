"""Somebody who has submitted operations waits for what becomes of each of them."""

from __future__ import annotations

import trio

from ainp2p.errors import StorageError
from ainp2p.ledger.serving.messages import Status


class Ticket:
    """So many statuses are still to come."""

    def __init__(self, count: int) -> None:
        self._statuses: list[Status | None] = [None] * count
        self._missing = count
        self._failed: StorageError | None = None
        self._done = trio.Event()

    def put(self, place: int, status: Status) -> None:
        """One has come."""
        self._statuses[place] = status
        self._missing -= 1
        if not self._missing:
            self._done.set()

    def fail(self, problem: StorageError) -> None:
        """None will come any more: the validator handles nothing."""
        self._failed = problem
        self._done.set()

    async def statuses(self) -> list[Status]:
        """All of them, in order.

        Raises:
            StorageError: as `fail` was told.
        """
        await self._done.wait()
        if self._failed is not None:
            raise self._failed
        return [status for status in self._statuses if status is not None]
