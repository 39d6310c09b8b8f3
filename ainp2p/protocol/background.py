"""A nursery for background work whose owner's exceptions keep their type."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def background() -> AsyncIterator[trio.Nursery]:
    """A nursery that is cancelled when the block ends; what the block raises leaves it as it came."""
    caught: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        except Exception as exc:  # the caller's, not the tasks': keep it out of the group
            caught = exc
        nursery.cancel_scope.cancel()
    if caught is not None:
        raise caught
