"""A nursery for background work whose owner's exceptions keep their type."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from types import TracebackType

import trio


def background() -> AbstractAsyncContextManager[trio.Nursery]:
    """A nursery that is cancelled when the block ends; what the block raises leaves it as it came."""
    return _Background()


class _Background(AbstractAsyncContextManager[trio.Nursery]):
    """No generator: Python and trio keep 900 bytes of each, and an agent has four of these while it runs."""

    __slots__ = ("_manager", "_nursery")

    async def __aenter__(self) -> trio.Nursery:
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        return self._nursery

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        if exc is not None and not isinstance(exc, Exception):
            return await self._manager.__aexit__(kind, exc, traceback)
        self._nursery.cancel_scope.cancel()
        await self._manager.__aexit__(None, None, None)  # the caller's exception stays out of the group
        return None
