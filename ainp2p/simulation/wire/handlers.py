"""Tasks that run the handlers of incoming calls, used again and again.

Starting a task costs three times what waking one does, so a task that has finished a handler waits for the
next. Each handler runs in a fresh copy of its network's context variables. A handler that is cancelled takes
its task with it: the scope belongs to the task. The tasks are trio's system tasks; a network waits for its
handlers before it is closed, so none outlives its `async with`.
"""

from __future__ import annotations

import contextvars
import logging
from typing import TYPE_CHECKING, Any

import trio

from ainp2p.errors import Error, Refused
from ainp2p.simulation.errors import SimulationError

if TYPE_CHECKING:
    from ainp2p.simulation.core.clock import VirtualClock
    from ainp2p.simulation.wire.incoming import Incoming

log = logging.getLogger(__name__)

LOG_LINES_PER_S_MAX = 10  # about handlers that fail, for each peer and network
_spawn: Any = trio.lowlevel.spawn_system_task
IDLE_MAX = 256  # tasks that wait for a call; more end with the rush that they were for
OURS = "/ainp2p/"  # protocols whose handlers are the library's; a model's own may fail of what they are sent
_EXPECTED = (Error, trio.TooSlowError, ExceptionGroup)
IDLE = "<idle handler>"  # names in <> are left out of a deadlock's stacks


class Handlers:
    """The handlers of all networks of one wire."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.idle: list[Worker] = []
        self.strict = (
            False  # what no handler of the library's should raise is not only logged: it ends the run
        )

    def start(self, incoming: Incoming, variables: contextvars.Context) -> None:
        """Run the handler of a call, soon; `incoming.worker` is set until it has ended."""
        if self.idle:
            worker = self.idle.pop()
            worker.incoming = incoming
            incoming.worker = worker
            task = worker.task
            task.name = incoming.asked.protocol
            task.context = fresh(variables)  # from its next step on, which is the handler's first
            trio.lowlevel.reschedule(task)
        else:
            worker = Worker(self, incoming)
            incoming.worker = worker
            name = incoming.asked.protocol
            worker.task = _spawn(worker.run, name=name, context=fresh(variables))

    def failed(self, incoming: Incoming, exc: Exception) -> Refused:
        """What a caller is told of a handler's own fault; an error of the simulation ends the run."""
        if isinstance(exc, SimulationError):
            self.clock.fail(exc)
        elif incoming.gone:
            return Refused("cancelled")  # what it fails of is that nobody waits for it any more
        elif self.strict and incoming.asked.protocol.startswith(OURS) and not isinstance(exc, _EXPECTED):
            self.clock.fail(exc)  # a strategy of the model's, most likely; whoever lies brings none of these
        elif incoming.end.network.may_log(incoming.peer, self.clock.now):
            protocol = incoming.asked.protocol
            log.error("handler of %s failed for %s: %r", protocol, incoming.peer, exc, exc_info=exc)
        return Refused("internal", "the handler failed")


class Worker:
    """One task and the call that it serves."""

    __slots__ = ("handlers", "incoming", "scope", "task")

    def __init__(self, handlers: Handlers, incoming: Incoming) -> None:
        self.handlers = handlers
        self.incoming: Incoming | None = incoming
        self.scope = trio.CancelScope()
        self.task: Any = None  # a trio.lowlevel.Task, of which type checkers see less than there is

    async def run(self) -> None:
        try:
            with self.scope:
                await self._serve_all()
        except Exception as exc:  # left of a group, whose cancellations the scope has taken
            if self.incoming is not None:
                self.handlers.failed(self.incoming, exc)
        if self.incoming is not None:
            self.incoming.finish(Refused("cancelled"))

    async def _serve_all(self) -> None:
        scope, handlers = self.scope, self.handlers
        while True:
            incoming = self.incoming
            assert incoming is not None
            result: bytes | Refused
            try:
                result = await incoming.handler(incoming) or b""
            except Refused as no:
                result = Refused(no.code, no.reason)
            except Exception as exc:
                result = handlers.failed(incoming, exc)
            if scope.cancel_called:
                return
            self.incoming = None
            incoming.finish(result)
            del incoming, result
            if len(handlers.idle) >= IDLE_MAX:
                return
            self.task.name = IDLE
            handlers.idle.append(self)
            await trio.lowlevel.wait_task_rescheduled(_stop_waiting)


def fresh(variables: contextvars.Context) -> contextvars.Context:
    """What a handler sets is gone when the next one runs in its task."""
    return variables.copy()


def _stop_waiting(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.SUCCEEDED
