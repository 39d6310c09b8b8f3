"""Pools of processes, here or elsewhere, as executors (`concurrent.futures.Executor`) for a sweep."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Pool(Protocol):
    """What `multiprocessing.pool.Pool` has, and all that were modelled on it, such as Ray's and pathos'."""

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Any = ...,
        kwds: Any = ...,
        callback: Any = ...,
        error_callback: Any = ...,
    ) -> Any: ...


class PoolExecutor(Executor):
    """An executor over somebody's pool: ``PoolExecutor(ray.util.multiprocessing.Pool())``."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have `fn(*args, **kwargs)` called somewhere in the pool."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()  # a pool cannot take a task back
        self._pool.apply_async(
            fn, args, kwargs, callback=future.set_result, error_callback=future.set_exception
        )
        return future
