"""Bells, turns and pipes: what tasks of an agent wait for, free where nobody has to wait.

trio's events, locks and channels do the same, and let all other tasks run at each use. A job uses a dozen of
them, mostly without waiting. These are checkpoints only when they wait; whoever loops over them waits for
the network as well. All of them may be cancelled without harm.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

import trio
from trio.lowlevel import (
    Abort,
    Task,
    checkpoint_if_cancelled,
    current_task,
    reschedule,
    wait_task_rescheduled,
)

T = TypeVar("T")


class Bell:
    """Wakes all who wait, and forgets that it rang."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[Task, None] = {}

    def ring(self) -> None:
        """All who wait now go on."""
        if self._waiting:
            waiting, self._waiting = self._waiting, {}
            for task in waiting:
                reschedule(task)

    async def wait(self) -> None:
        """Until it rings."""
        task = current_task()
        self._waiting[task] = None

        def leave(_: object) -> Abort:
            del self._waiting[task]
            return Abort.SUCCEEDED

        await wait_task_rescheduled(leave)


class Turn:
    """One task at a time, in the order in which they came: ``async with turn``."""

    __slots__ = ("_taken", "_waiting")

    def __init__(self) -> None:
        self._taken = False
        self._waiting: deque[Task] | None = None

    async def __aenter__(self) -> None:
        if not self._taken:
            self._taken = True
            return
        task = current_task()
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(task)

        def leave(_: object) -> Abort:
            assert self._waiting is not None  # we are in it
            self._waiting.remove(task)
            return Abort.SUCCEEDED

        await wait_task_rescheduled(leave)

    async def __aexit__(self, *_: object) -> None:
        if self._waiting:
            reschedule(self._waiting.popleft())  # it is taken, by the next one
        else:
            self._taken = False


class Pipe(Generic[T]):
    """A bounded queue from one task to another: one that puts and ends it, one that takes and closes it.

    Attributes:
        ended: nothing more is put.
        closed: nobody takes any more.
    """

    __slots__ = ("_bell", "_items", "_size", "closed", "ended")

    def __init__(self, size: int) -> None:
        self._size, self._items = size, deque[T]()
        self._bell = Bell()  # one side waits at most: for items, or for room
        self.ended = self.closed = False

    def __len__(self) -> int:
        return len(self._items)

    def put_nowait(self, item: T) -> None:
        """Hand an item over.

        Raises:
            BrokenResourceError: nobody takes it.
            WouldBlock: there is no room.
        """
        if self.closed:
            raise trio.BrokenResourceError
        if len(self._items) >= self._size:
            raise trio.WouldBlock
        self._items.append(item)
        self._bell.ring()

    async def put(self, item: T) -> None:
        """Hand an item over, once there is room.

        Raises:
            BrokenResourceError: nobody takes it.
        """
        await checkpoint_if_cancelled()
        while len(self._items) >= self._size and not self.closed:
            await self._bell.wait()
        self.put_nowait(item)

    async def take(self) -> T:
        """The next item.

        Raises:
            EndOfChannel: there are no more.
        """
        await checkpoint_if_cancelled()
        while not self._items:
            if self.ended or self.closed:
                raise trio.EndOfChannel
            await self._bell.wait()
        return self.take_nowait()

    def take_nowait(self) -> T:
        """The next item, of those that are here; raises IndexError if there is none."""
        item = self._items.popleft()
        self._bell.ring()
        return item

    def end(self) -> None:
        """Nothing more is put; what is here is still taken."""
        self.ended = True
        self._bell.ring()

    def reopen(self) -> None:
        """More is put, though it had ended."""
        self.ended = False

    def close(self) -> None:
        """Nobody takes any more; what is here is dropped."""
        self.closed = True
        self._items.clear()
        self._bell.ring()
