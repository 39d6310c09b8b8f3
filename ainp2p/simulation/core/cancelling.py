"""Tasks that are cancelled together hear of it in the order in which they were started.

trio keeps the tasks of a cancel scope in a set, and breaks ties of deadlines by address, so their abort
functions would run in another order in every process. What they do may matter: a call that is given up
tells its peer at once. For the time of a run, a cancellation is therefore collected first and delivered
in order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from trio._core import _run


@contextmanager
def in_order() -> Iterator[None]:
    """Cancel in the order of starting, in this thread, inside this block."""
    run: Any = _run
    recalculate, expire = run.CancelStatus.recalculate, run.Deadlines.expire
    deliver = run.Task._attempt_delivery_of_any_pending_cancel
    here = threading.get_ident()
    found: list[Any] | None = None

    def collected(what: Callable[..., Any]) -> Callable[..., Any]:
        def sweep(*args: Any) -> Any:
            nonlocal found
            if found is not None or threading.get_ident() != here:
                return what(*args)
            tasks: list[Any] = []
            found = tasks
            try:
                return what(*args)
            finally:
                found = None
                if len(tasks) > 1:
                    tasks.sort(key=_number)
                for task in tasks:
                    deliver(task)

        return sweep

    def deliver_later(task: Any) -> None:
        if found is not None and threading.get_ident() == here:
            found.append(task)
        else:
            deliver(task)

    recalculate_together = collected(recalculate)

    def recalculate_all(status: Any) -> Any:
        # Most have just been made, and hold nobody yet.
        return (recalculate_together if status._tasks or status._children else recalculate)(status)

    run.CancelStatus.recalculate = recalculate_all
    run.Deadlines.expire = collected(expire)
    run.Task._attempt_delivery_of_any_pending_cancel = deliver_later
    try:
        yield
    finally:
        run.CancelStatus.recalculate, run.Deadlines.expire = recalculate, expire
        run.Task._attempt_delivery_of_any_pending_cancel = deliver


def _number(task: Any) -> int:
    return int(task._counter)
