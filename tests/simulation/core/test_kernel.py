"""One seed, one schedule, in any process; and every way in which a run can end."""

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import inspect
import random
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import trio
import trio.testing
from trio._core import _run, _traps

from ainp2p.errors import InvalidInput
from ainp2p.simulation.core import kernel, loop
from ainp2p.simulation.core.clock import VirtualClock
from ainp2p.simulation.core.garbage import Generators
from ainp2p.simulation.core.kernel import NAMES_MAX, run_virtual
from ainp2p.simulation.errors import Deadlock, Livelock
from tests.blocks import ROOT
from tests.simulation.core.programs import PROGRAMS, run

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # generators are abandoned on purpose

VERSION = importlib.metadata.version("trio")

# What the simulation uses of trio's inside, and what for. Where a name is gone: find in trio/_core/_run.py
# what has taken its place, use that in ainp2p/simulation/core, and change this table.
PRIVATE = {
    "_r": "kernel._seeded seeds it: loop.passes shuffles each batch of tasks with it",
    "in_trio_run": "kernel.run_virtual and stepping refuse to start inside a run",
    "setup_runner": "loop.run and stepping begin a run as trio.run does",
    "unrolled_run": "loop.passes does in virtual time what this does",
    "sniffio_library": "loop.run and stepping name the library while a run lasts",
    "PermanentlyDetachCoroutineObject": "loop: what a coroutine may ask for",
    "Runner.init": "loop: the first task",
    "Runner.spawn_impl": "loop: starts it",
    "Runner.task_exited": "loop: tells what a task has ended with",
    "Runner.tasks": "loop: whether any is left",
    "Runner.main_task": "loop: who hears of ^C",
    "Runner.ki_pending": "loop: whether ^C came",
    "Runner.instruments": "loop: who wants to see each step",
    "Runner.close": "loop: the end of a run",
    "Runner.io_manager": "loop: hears of signals and other threads by it",
    "Runner.main_task_outcome": "loop, stepping: how a run ended",
    "Task._next_send_fn": "loop: what the next step of a task is",
    "Task._next_send": "loop: the same",
    "Task._abort_func": "loop: how its wait is cancelled",
    "Task._schedule_points": "loop: counted for trio.testing",
    "Task._cancel_points": "loop: the same",
    "Task._attempt_delivery_of_pending_ki": "loop: ^C",
    "CancelStatus.effectively_cancelled": "loop: whether a task may wait at all",
    "Deadlines._active": "loop: whether it is time to sweep the heap",
    "GLOBAL_RUN_CONTEXT": "clock.start_clock and sleeping take the runner from it",
    "Runner.clock": "sleeping: whether it is a virtual one",
    "Runner.runq": "clock: whether a callback has woken a task",
    "Runner.deadlines": "clock: the next cancel scope's deadline",
    "Runner.entry_queue": "clock: what trio's own wake-ups have queued",
    "Runner.waiting_for_idle": "clock: whether somebody waits for all tasks to block",
    "Runner.asyncgens": "garbage: the async generators that are left at the end",
    "AsyncGenerators.alive": "garbage: the same",
    "AsyncGenerators._finalize_one": "garbage: ends one as trio would",
    "Deadlines.next_deadline": "clock: the next cancel scope's deadline",
    "Deadlines._heap": "loop: whether a deadline is due",
    "Deadlines.expire": "cancelling: scopes whose deadlines coincide are cancelled together",
    "CancelStatus.recalculate": "cancelling: the tasks of a scope are cancelled together",
    "CancelStatus._tasks": "cancelling: whether there is anybody to cancel",
    "CancelStatus._children": "cancelling: the same",
    "Task._attempt_delivery_of_any_pending_cancel": "cancelling: puts it off until all are known",
    "Task._counter": "kernel._tasks: tasks in the order in which they were started",
    "Task._cancel_status": "kernel._deadlocked: ends tasks that shield themselves",
    "CancelStatus._scope": "kernel._deadlocked",
    "CancelStatus._parent": "kernel._deadlocked",
}


@pytest.mark.parametrize("name", PRIVATE)
def test_what_is_private_to_trio_and_used_here_is_still_there(name: str) -> None:
    found: Any = _run
    for step in name.split("."):
        fields = [field.name for field in getattr(found, "__attrs_attrs__", ())]
        assert hasattr(found, step) or step in fields, (
            f"trio {VERSION} has no {name} any more; it was used for: {PRIVATE[name]}."
            " See the comment above PRIVATE in this file"
        )
        found = getattr(found, step, None)


def test_the_loop_orders_a_batch_of_tasks_as_trio_does_under_a_seed() -> None:
    source = inspect.getsource(_run.unrolled_run)
    for line in ("key=lambda t: t._counter", "_r.shuffle(batch)", "task = batch.pop()"):
        assert line in source, (
            f"trio {VERSION} runs tasks in another way: {line!r} is gone from unrolled_run;"
            " compare it with simulation/core/loop.py, which does the same, and change this test"
        )


def test_the_loop_handles_all_that_a_coroutine_may_say_to_trio() -> None:
    said = {name for name in vars(_traps) if name.endswith(("Checkpoint", "Rescheduled", "Object"))}
    assert said == {"CancelShieldedCheckpoint", "WaitTaskRescheduled", "PermanentlyDetachCoroutineObject"}


# --- one seed, one schedule ---------------------------------------------------------------------


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_same_seed_gives_the_same_trace(name: str) -> None:
    assert len({run(name, seed=7) for _ in range(3)}) == 1


@pytest.mark.parametrize("name", PROGRAMS)
def test_another_seed_gives_another_schedule_of_the_same_draws(name: str) -> None:
    assert len({run(name, seed) for seed in range(6)}) >= (5 if name != "aborts" else 1)


def test_seeds_may_be_text_and_are_not_their_numbers() -> None:
    world_seed: Any = "7"
    assert run("channels", world_seed) != run("channels", 7)


def test_the_same_seed_gives_the_same_trace_in_any_process() -> None:
    here = " ".join(f"{name}={run(name, 7)}" for name in PROGRAMS)
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.simulation.core.programs", "7", *past],
            cwd=ROOT,
            env={"PYTHONHASHSEED": hash_seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for hash_seed, past in [("0", []), ("1", ["11"]), ("random", ["5000"])]
    ]
    assert [process.communicate(timeout=90)[0].strip() for process in processes] == [here] * 3


def test_mutant_where_generators_end_as_they_are_found_runs_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Generators, "_number", id)
    assert len({run("generators", seed=7) for _ in range(6)}) > 1


def test_mutant_where_tasks_are_cancelled_as_trio_finds_them_runs_differ(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernel, "in_order", contextlib.nullcontext)
    assert len({run("aborts", seed=7) for _ in range(6)}) > 1


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name not in ("generators", "aborts")])
def test_mutant_without_the_seeded_scheduler_runs_differ(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_seeded", lambda seed: contextlib.nullcontext())
    monkeypatch.setattr(_run, "_r", random.Random())
    assert len({run(name, seed=7) for _ in range(6)}) > 1


def test_mutant_where_python_chooses_when_to_collect_garbage_runs_differ(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernel, "collecting", lambda clock: contextlib.nullcontext(Generators()))
    before = gc.get_threshold()
    hashes = set()
    try:
        for threshold in (50, 300, 5000):
            gc.set_threshold(threshold)
            hashes.add(run("generators", seed=7))
    finally:
        gc.set_threshold(*before)
    assert len(hashes) > 1


def test_an_epoch_is_exported_with_the_kernel() -> None:
    assert kernel.EPOCH_MS == 1_800_000_000_000


# --- how a run ends -----------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _nothing_is_set_aside() -> Iterator[None]:
    """Whatever ran before in this process: libp2p's objects are set aside once it is imported."""
    frozen = gc.get_freeze_count()
    gc.unfreeze()
    yield
    if frozen:
        gc.freeze()


def state() -> tuple[object, ...]:
    """What a run touches outside itself."""
    return (
        _run._r.getstate(),
        gc.isenabled(),
        gc.get_freeze_count(),
        _run.in_trio_run(),
        kernel._one_at_a_time.locked(),
        sys.get_asyncgen_hooks(),
        _run.CancelStatus.recalculate,
        _run.Deadlines.expire,
        _run.Task._attempt_delivery_of_any_pending_cancel,
        signal.getsignal(signal.SIGINT),
    )


async def returns() -> str:
    await trio.sleep(1)
    return "value"


async def raises() -> None:
    await trio.sleep(1)
    raise LookupError("the model's own")


async def deadlocks() -> None:
    await trio.sleep(1)
    await trio.sleep_forever()


async def interrupted() -> None:
    await trio.sleep(1)
    signal.raise_signal(signal.SIGINT)
    await trio.sleep(1)


@pytest.mark.parametrize(
    ("main", "ends_with"),
    [(returns, None), (raises, LookupError), (deadlocks, Deadlock), (interrupted, KeyboardInterrupt)],
)
def test_nothing_leaks_out_of_a_run(main: Any, ends_with: type[BaseException] | None) -> None:
    before = state()
    expected = pytest.raises(ends_with) if ends_with else contextlib.nullcontext()
    with expected:
        assert run_virtual(main, seed=1) == "value"
    assert state() == before


def test_a_run_that_ended_badly_does_not_change_the_next() -> None:
    before = run("locks", 7)
    for main in (raises, deadlocks, interrupted):
        with pytest.raises(BaseException):  # noqa: B017, PT011  # whichever
            run_virtual(main, seed=1)
        assert run("locks", 7) == before


def test_arguments_are_handed_over_and_the_value_comes_back() -> None:
    async def add(one: int, two: int) -> int:
        return one + two

    assert run_virtual(add, 1, 2, seed=1) == 3


def test_garbage_collection_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        run_virtual(returns, seed=1)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_an_exception_in_a_callback_ends_the_run_with_it() -> None:
    clock = VirtualClock()
    cleaned: list[object] = []

    async def main() -> None:
        clock.call_at(2.0, [].pop)
        clock.call_at(9.0, cleaned.append, "never")
        try:
            await trio.sleep(100)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)  # cleaning up takes virtual time as ever
            cleaned.append(trio.current_time())

    with pytest.raises(IndexError, match="empty"):
        run_virtual(main, seed=1, clock=clock)
    assert cleaned == [3.0]


def test_the_first_of_two_failing_callbacks_is_reported() -> None:
    clock = VirtualClock()

    async def main() -> None:
        clock.call_at(2.0, int, "first")
        clock.call_at(2.0, int, "second")
        await trio.sleep(100)

    with pytest.raises(ValueError, match="first"):
        run_virtual(main, seed=1, clock=clock)


def test_an_exception_in_a_callback_is_raised_even_if_main_returns_all_the_same() -> None:
    clock = VirtualClock()

    async def main() -> str:
        clock.call_at(2.0, int, "x")
        with trio.CancelScope(shield=True):
            await trio.sleep(3)
        return "not this"

    with pytest.raises(ValueError, match="x"):
        run_virtual(main, seed=1, clock=clock)


def test_what_fails_while_a_failed_run_is_cancelled_is_its_cause() -> None:
    clock = VirtualClock()

    async def main() -> None:
        clock.call_at(2.0, int, "x")
        try:
            await trio.sleep(100)
        finally:
            raise LookupError("while cleaning")

    with pytest.raises(ValueError, match="x") as caught:
        run_virtual(main, seed=1, clock=clock)
    assert isinstance(caught.value.__cause__, LookupError)


def test_failing_by_hand_ends_the_run() -> None:
    clock = VirtualClock()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            clock.fail(LookupError("said so"))

    with pytest.raises(LookupError, match="said so"):
        run_virtual(main, seed=1, clock=clock)


# --- deadlock -----------------------------------------------------------------------------------


async def waits_for_a_bell(bell: trio.Event) -> None:
    await bell.wait()  # nobody rings


def test_a_deadlock_is_reported_with_the_stack_of_every_task() -> None:
    async def main() -> None:
        bell = trio.Event()
        async with trio.open_nursery() as nursery:
            for name in ("alice", "bob"):
                nursery.start_soon(waits_for_a_bell, bell, name=name)
            await trio.sleep(2.5)
            await bell.wait()  # main waits too

    with pytest.raises(Deadlock) as caught:
        run_virtual(main, seed=1)
    text = str(caught.value)
    assert caught.value.at_s == 2.5
    assert "2.500000 s" in text
    assert text.count("\ntask ") == 2  # those that wait in the same place are told together
    line = inspect.getsourcelines(waits_for_a_bell)[1] + 1
    for expected in ("task alice; bob\n", f"{__file__}:{line}", "await bell.wait()  # main waits too"):
        assert expected in text
    assert text.count("await bell.wait()  # nobody rings") == 1


def test_of_many_tasks_in_one_place_a_few_are_named_and_all_counted() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for n in range(NAMES_MAX + 3):
                nursery.start_soon(waits_for_a_bell, trio.Event(), name=f"ringer{n}")
            for _ in range(4):
                nursery.start_soon(waits_for_a_bell, trio.Event(), name="ringer0")

    with pytest.raises(Deadlock) as caught:
        run_virtual(main, seed=1)
    (told,) = [line for line in str(caught.value).splitlines() if "ringer0" in line]
    assert (
        told == "task ringer0 (x5); " + "; ".join(f"ringer{n}" for n in range(1, NAMES_MAX)) + "; and 3 more"
    )


async def spins() -> None:
    while True:
        await trio.lowlevel.checkpoint()


async def sets_timers_for_now() -> None:
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, VirtualClock)

    def again() -> None:
        clock.call_later(0, again)

    clock.call_later(0, again)
    await trio.sleep_forever()


@pytest.mark.parametrize("main", [spins, sets_timers_for_now])
def test_a_run_in_which_time_stands_still_ends_with_the_stacks(
    main: Callable[[], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "TURNS_MAX", 50_000)
    with pytest.raises(Livelock, match=rf"still at 1.5.* s(?s:.)*in {main.__name__}: await trio") as caught:
        run_virtual(after(1.5, main), seed=1)
    assert caught.value.at_s == 1.5


def test_as_many_turns_at_many_instants_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "TURNS_MAX", 50)

    async def main() -> int:
        for _ in range(100):
            for _ in range(40):
                await trio.lowlevel.checkpoint()
            await trio.sleep(0.001)
        return 1

    assert run_virtual(main, seed=1) == 1


def test_deadlines_that_are_moved_to_now_are_turns_like_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "TURNS_MAX", 5_000)

    async def main() -> int:
        for _ in range(2_000):
            with trio.CancelScope() as scope:
                scope.deadline = trio.current_time()
                await trio.sleep_forever()
        return 1

    assert run_virtual(main, seed=1) == 1


def after(seconds: float, main: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    async def later() -> None:
        await trio.sleep(seconds)
        await main()

    return later


def test_a_pending_timer_is_no_deadlock() -> None:
    clock = VirtualClock()

    async def main() -> float:
        bell = trio.Event()
        clock.call_at(10.0, lambda: clock.call_later(5.0, bell.set))
        await bell.wait()
        return clock.now

    assert run_virtual(main, seed=1, clock=clock) == 15.0


def test_a_deadlock_behind_a_shield_is_reported_as_the_first_one() -> None:
    async def main() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()

    with pytest.raises(Deadlock) as caught:
        run_virtual(main, seed=1)
    assert "in main: await trio.sleep_forever()" in str(caught.value)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_deadlock_that_cannot_be_cancelled_is_reported_too() -> None:
    before = state()

    async def main() -> None:
        await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)

    with pytest.raises(Deadlock):
        run_virtual(main, seed=1)
    gc.collect()
    assert state() == before


def test_mutant_without_the_report_of_deadlocks_a_run_would_sleep_for_a_day(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def says_how_long(self: VirtualClock, deadline: float) -> float:
        self._idle = None
        asked.append(original(self, deadline))
        self.fail(LookupError("enough"))
        return 0.0

    original = VirtualClock.deadline_to_sleep_time
    monkeypatch.setattr(VirtualClock, "deadline_to_sleep_time", says_how_long)
    with pytest.raises(LookupError):
        run_virtual(trio.sleep_forever, seed=1)
    assert max(asked) == 86_400


# --- refusals and interrupts --------------------------------------------------------------------


def test_a_keyboard_interrupt_ends_a_world_of_callbacks_only() -> None:
    clock = VirtualClock()

    def tick(n: int) -> None:
        if n == 5000:
            signal.raise_signal(signal.SIGINT)
        clock.call_later(0.0 if n % 2 else 1.0, tick, n + 1)

    async def main() -> None:
        tick(0)
        await trio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        run_virtual(main, seed=1, clock=clock)
    assert clock.steps < 10_000


def test_a_keyboard_interrupt_ends_callbacks_that_never_leave_their_instant() -> None:
    clock = VirtualClock()

    def tick(n: int) -> None:
        if n == 1500:
            signal.raise_signal(signal.SIGINT)
        clock.call_later(0.0, tick, n + 1)

    async def main() -> None:
        tick(0)
        await trio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        run_virtual(main, seed=1, clock=clock)


def test_a_run_inside_a_run_is_refused() -> None:
    async def main() -> None:
        with pytest.raises(InvalidInput, match="inside a trio run"):
            run_virtual(returns, seed=1)

    run_virtual(main, seed=1)
    trio.run(main)


def test_a_second_run_at_the_same_time_is_refused() -> None:
    with kernel._one_at_a_time, pytest.raises(InvalidInput, match="one at a time"):
        run_virtual(returns, seed=1)


def test_a_clock_has_one_run() -> None:
    clock = VirtualClock()
    run_virtual(returns, seed=1, clock=clock)
    with pytest.raises(InvalidInput, match="make another"):
        run_virtual(returns, seed=1, clock=clock)


# --- the loop -----------------------------------------------------------------------------------


def test_a_task_that_waits_for_all_others_to_block_goes_on_before_time_does() -> None:
    async def main() -> list[object]:
        seen: list[object] = []

        async def late() -> None:
            await trio.sleep(1)
            seen.append("late")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(late)
            await trio.testing.wait_all_tasks_blocked()
            seen.append(trio.current_time())
        return seen

    assert run_virtual(main, seed=1) == [0.0, "late"]


def test_what_another_thread_asks_for_is_done() -> None:
    async def main() -> str:
        return await trio.to_thread.run_sync(lambda: "from a thread")

    async def ticking() -> str:
        async with trio.open_nursery() as nursery:

            async def tick() -> None:
                while True:
                    await trio.lowlevel.checkpoint()

            nursery.start_soon(tick)
            value = await main()
            nursery.cancel_scope.cancel()
        return value

    assert run_virtual(ticking, seed=1) == "from a thread"


def test_an_instrument_sees_each_step() -> None:
    class Steps(trio.abc.Instrument):
        before = after = 0

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self.before += task.name == "looks"

        def after_task_step(self, task: trio.lowlevel.Task) -> None:
            self.after += task.name == "looks"

    async def main() -> tuple[int, int]:
        steps = Steps()
        us: Any = trio.lowlevel.current_task()
        us.name = "looks"
        trio.lowlevel.add_instrument(steps)
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        trio.lowlevel.remove_instrument(steps)
        return steps.before, steps.after

    assert run_virtual(main, seed=1) == (3, 3)


def test_a_coroutine_of_another_library_is_told_where_it_is() -> None:
    class Foreign:
        def __await__(self) -> Any:
            yield "asyncio's"

    async def main() -> None:
        await Foreign()

    with pytest.raises(TypeError, match=r"virtual time.*asyncio's"):
        run_virtual(main, seed=1)
