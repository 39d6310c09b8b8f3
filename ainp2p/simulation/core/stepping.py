"""A virtual run that goes on only while its owner says so: it hands a value over, and waits for the answer.

    run = Stepped(main, seed=7)           # async def main(turn): … answer = await turn(value) …
    value = run.go()                      # from the beginning to the first `turn`
    value = run.go(answer)                # from there to the next one; `run.done` tells that there is none
    run.close()                           # `turn` raises Ended in `main`

It is one generator, driven by whoever calls: no thread, no concurrency. While it waits, virtual time
stands still and nothing of it is left in the process, so that any number of such runs may take turns
in one thread or in several, and the code between two steps may read clocks and draw random numbers as it
likes. Dropped unfinished, a run is ended at the next step of another one, or at the end of the process. A
forked child cannot go on with its parent's runs.

The schedule is that of `kernel.run_virtual`, but for async generators that are left lying in cycles: Python's
collector is on and must not decide when they end, so they end with the run.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Generic, TypeVar

import outcome
import trio
from trio._core import _run
from trio._core._run import GLOBAL_RUN_CONTEXT

from ainp2p.errors import InvalidInput
from ainp2p.protocol import identity
from ainp2p.simulation.core.cancelling import in_order
from ainp2p.simulation.core.clock import VirtualClock
from ainp2p.simulation.core.garbage import Generators
from ainp2p.simulation.core.kernel import _one_at_a_time, rooted, scheduler_seed
from ainp2p.simulation.core.loop import passes
from ainp2p.simulation.core.signatures import Mode, signatures
from ainp2p.simulation.core.sleeping import by_timers

T = TypeVar("T")
Turn = Callable[[Any], Awaitable[Any]]
_NOTHING: Any = object()
_loops: Any = _run  # what is private there is listed in tests/simulation/core/test_kernel.py


class Ended(Exception):
    """Raised by `turn` when the run is closed: return, or let it pass. Like GeneratorExit, no failure."""


class Stepped(Generic[T]):
    """One virtual run, advanced by `go`.

    Attributes:
        clock: its time.
        value: what `main` returned, once it is done.
    """

    def __init__(
        self,
        main: Callable[[Turn], Awaitable[T]],
        *,
        seed: int | str,
        clock: VirtualClock | None = None,
        signed: Mode = "cached",
        secret: bytes = b"",
    ) -> None:
        """`signed`, `secret`: see `ainp2p.simulation.core.signatures`."""
        self.clock = VirtualClock() if clock is None else clock
        self.value: T | None = None
        self._course = course = _Course(main, scheduler_seed(seed), self.clock, signed, secret)
        self._finalizer = weakref.finalize(self, _abandon, course)

    @property
    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._course.outcome is not None

    def go(self, answer: Any = None) -> Any:
        """Let it run until `main` hands over a value, and return that; None when `main` has returned.

        Raises:
            InvalidInput: it has ended; or it was begun in another process.
            Exception: what ended it.
        """
        self._course.check()
        if self.done:
            raise InvalidInput("this run has ended: begin another")
        with _one_at_a_time:
            _bury()
            value = self._course.go(answer)
        if self.done:
            self._finalizer.detach()
            self.value = self._course.result()
        return value

    def close(self) -> None:
        """End it; a repeat is no error. What `main` raises on its way out, but `Ended`, is raised here."""
        if not self.done and self._course.is_ours:
            self._course.check()
            with _one_at_a_time:
                self._course.end()
            with suppress(Ended):
                self.value = self._course.result()
        self._finalizer.detach()


class _Course:
    """The run itself, which may outlive its `Stepped`."""

    def __init__(
        self,
        main: Callable[[Turn], Awaitable[Any]],
        seed: bytes,
        clock: VirtualClock,
        signed: Mode,
        secret: bytes,
    ) -> None:
        self.outcome: Any = None
        self._main, self._clock, self._pid = main, clock, os.getpid()
        self._generators = _Kept()
        with signatures(signed, secret=secret):
            self._process = _Process({}, None, random.Random(seed), (identity._sign, identity._open), None)
        self._loop: Generator[None, None, None] | None = None
        self._runner: Any = None
        self._said: Any = _NOTHING
        self._answer: Any = _NOTHING

    # --- outside -----------------------------------------------------------------------------------

    @property
    def is_ours(self) -> bool:
        return self._pid == os.getpid()

    def check(self) -> None:
        if not self.is_ours:
            raise InvalidInput("this run was begun in the parent process: begin another one here")
        if _run.in_trio_run():
            raise InvalidInput("inside a trio run: a stepped run is advanced from plain code")

    @trio.lowlevel.enable_ki_protection  # ^C ends the run as it ends `trio.run`: at a checkpoint
    def go(self, answer: Any) -> Any:
        """One step; the caller holds the lock."""
        with self._process.swapped(), in_order(), by_timers(), self._generators.watched():
            if self._loop is None:
                self._begin()
            self._said, self._answer = _NOTHING, answer
            while self.outcome is None and (self._said is _NOTHING or self._clock.error is not None):
                self._tick()
        return None if self._said is _NOTHING else self._said

    def end(self) -> None:
        """The last step."""
        if self._loop is None:
            self.outcome = outcome.Value(None)
            return
        self.go(Ended())
        if self.outcome is None:  # it wants to go on all the same
            self._clock.fail(Ended())
            self.go(Ended())

    def result(self) -> Any:
        """What it returned; what it failed with is raised."""
        error = self._clock.error
        try:
            value = self.outcome.unwrap()
        except Exception as exc:
            if error is None or error is exc:
                raise
            raise error from exc
        if error is not None:
            raise error
        return value

    # --- inside ------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """As `trio.run` does."""
        if self._clock._runner is not None:
            raise InvalidInput("this clock has had its run: make another")
        self._runner = _loops.setup_runner(self._clock, [], False, True)
        args: Any = (self._main, (self._turn,), self._clock, self._generators)
        self._loop = passes(self._runner, rooted, args)

    def _tick(self) -> None:
        assert self._loop is not None
        library, _loops.sniffio_library.name = _loops.sniffio_library.name, "trio"
        try:
            next(self._loop)
        except StopIteration:
            self.outcome = self._runner.main_task_outcome
        except BaseException as exc:
            self.outcome = outcome.Error(exc)
        finally:
            _loops.sniffio_library.name = library

    async def _turn(self, value: Any) -> Any:
        """Hand over `value`; this task stays runnable, so the clock stands still until there is an answer."""
        if self._said is not _NOTHING:
            raise InvalidInput("another task has handed over already: one turn at a time")
        self._said, self._answer = value, _NOTHING
        while self._answer is _NOTHING:
            await trio.lowlevel.checkpoint()
        answer, self._answer = self._answer, _NOTHING
        if isinstance(answer, Ended):
            raise answer
        return answer


class _Kept(Generators):
    """The async generators of a run; those that a collection finds are kept until its end.

    A generator that nobody refers to any more ends at once, as in `trio.run`. Cycles are found at
    moments that depend on what else the process does, so what lies in them must not end before the run does.
    """

    def __init__(self) -> None:
        super().__init__()
        self._found_late: list[Any] = []
        self._collecting: int | None = 0  # by which thread; None: by none. 0: between two steps

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Know inside the block when Python collects."""

        def tell(phase: str, _: object) -> None:
            self._collecting = threading.get_ident() if phase == "start" else None

        self._collecting = None
        gc.callbacks.append(tell)
        try:
            yield
        finally:
            gc.callbacks.remove(tell)
            self._collecting = 0

    def _abandoned(self, generator: AsyncGenerator[Any, Any]) -> None:
        if self._collecting in (0, threading.get_ident()):
            self._found_late.append(generator)
        else:
            self._end(generator)

    def _alive(self) -> Iterable[AsyncGenerator[Any, Any]]:
        return [*super()._alive(), *self._found_late]

    async def close(self) -> None:
        asyncgens: Any = GLOBAL_RUN_CONTEXT.runner.asyncgens
        asyncgens.alive.update(self._found_late)  # a collection takes weak references away
        await super().close()
        self._found_late.clear()


class _Process:
    """What a run has changed in this process; swapped in for each step, and out after it."""

    def __init__(self, context: dict[str, Any], hooks: Any, rng: Any, signing: Any, sigint: Any) -> None:
        self._context, self._hooks, self._rng = context, hooks, rng
        self._signing, self._sigint = signing, sigint

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """This run's state inside the block, everybody else's after it."""
        trios, names = _run.GLOBAL_RUN_CONTEXT, identity
        outside = _Process(
            dict(trios.__dict__), sys.get_asyncgen_hooks(), _run._r, (names._sign, names._open), _sigint()
        )
        self._put()
        try:
            yield
        finally:
            self._context, self._hooks = dict(trios.__dict__), sys.get_asyncgen_hooks()
            self._sigint = _sigint() or self._sigint
            outside._put()

    def _put(self) -> None:
        _run.GLOBAL_RUN_CONTEXT.__dict__.clear()
        _run.GLOBAL_RUN_CONTEXT.__dict__.update(self._context)
        if self._hooks is not None:
            sys.set_asyncgen_hooks(*self._hooks)
        _run._r = self._rng
        identity._sign, identity._open = self._signing
        if self._sigint is not None and _sigint() not in (None, self._sigint):
            signal.signal(signal.SIGINT, self._sigint)


def _sigint() -> Any:
    """How ^C is handled: trio's way inside a step. None where that cannot be changed."""
    if threading.current_thread() is not threading.main_thread():
        return None
    return signal.getsignal(signal.SIGINT)


_abandoned: list[_Course] = []  # runs whose owner is gone, to be ended when nothing else runs


def _abandon(course: _Course) -> None:
    """Called by the collector at any moment, in any thread, perhaps inside another run."""
    _abandoned.append(course)
    if not _run.in_trio_run() and _one_at_a_time.acquire(blocking=False):
        try:
            _bury()
        finally:
            _one_at_a_time.release()


def _bury() -> None:
    """End what was abandoned; the caller holds the lock."""
    while _abandoned:
        course = _abandoned.pop()
        if course.is_ours:
            with suppress(Exception):  # nobody is left to be told
                course.end()
        else:
            _parents.append(course)


_parents: list[_Course] = []  # of the process that we were forked from: to unwind them would touch its files
