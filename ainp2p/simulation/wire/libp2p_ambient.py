"""py-libp2p in a world: for the time of a run, what it reads of the real world comes from the simulated one.

libp2p's code stays as it is; names that its modules have bound are replaced, and put back afterwards:

    time, datetime            the world's clock (gossipsub's caches and limits, Kademlia's records, …)
    random, secrets           the world's draws (who is in a mesh, which bucket is refreshed, …)
    threading, in one module  a timer (the sweeper of each pubsub's cache of seen messages)
    hash() of ids and tasks   a number that every process agrees on, so that sets have one order
    has_public_ipv6           False, whatever this machine has

Not replaced: the ephemeral keys of Noise, which OpenSSL draws; so the bytes on the wire differ from run to
run, while times, order and lengths repeat. Nor an `import time` inside a function: none of those is on our
adapter's ways (pubsub's ids of gossipsub 1.4, the health monitor, QUIC). All hosts share the world's clock:
a node's own skew is its agent's, not its libp2p's. A thread or a socket that libp2p would need ends the world
with `Ambient`, which names the line.
"""

from __future__ import annotations

import datetime as datetime_module
import importlib
import itertools
import random
import secrets
import socket
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import trio

from ainp2p.simulation.core.clock import EPOCH_MS, Timer, VirtualClock
from ainp2p.simulation.core.draws import Draws
from ainp2p.simulation.errors import Ambient

EPOCH_S = EPOCH_MS / 1000
REMEDY = "the wire's in-memory transport, addresses without names, and no further service of libp2p"
_SWEEPER = "libp2p.tools.timed_cache.base_timed_cache"
_UNORDERED = (  # classes whose instances libp2p keeps in sets and goes through
    ("libp2p.network.stream.net_stream", "NetStream"),
    ("libp2p.network.connection.swarm_connection", "SwarmConn"),
    ("libp2p.tools.anyio_service.tasks", "BaseTask"),
    ("libp2p.tools.anyio_service.trio_tasks", "BaseTask"),
)
_ABSENT = object()
_RealDatetime: Any = type(datetime_module.datetime.min)  # the class itself, also beside guards.py's


@contextmanager
def libp2p_in_world(clock: VirtualClock, draws: Draws) -> Iterator[Callable[[], None]]:
    """Inside the block libp2p lives in the world of `clock` and `draws`.

    Yields a function to be called when libp2p may have imported more of itself: it redirects that too.
    """
    with ExitStack() as undo:
        shims = _shims(clock, draws)
        done: set[str] = set()

        def redirect() -> None:
            for name, module in sorted(sys.modules.items()):
                if (name == "libp2p" or name.startswith("libp2p.")) and name not in done:
                    done.add(name)
                    _redirect(module, shims, undo)

        _put(undo, importlib.import_module(_SWEEPER), "threading", _threading_of_caches(clock))
        _put(undo, importlib.import_module("libp2p.network.swarm"), "has_public_ipv6", lambda: False)
        records = importlib.import_module("libp2p.peer.peer_record")
        _put(undo, records, "_last_timestamp", 0)  # a count of this process's, in bytes on the wire
        _order_sets(undo)
        _refuse_threads_and_sockets(clock, undo)
        redirect()
        yield redirect


def _put(undo: ExitStack, where: Any, name: str, value: object) -> None:
    was = vars(where).get(name, _ABSENT)
    setattr(where, name, value)
    if was is _ABSENT:
        undo.callback(delattr, where, name)
    else:
        undo.callback(setattr, where, name, was)


# --- clocks and randomness ----------------------------------------------------------------------


def _redirect(module: types.ModuleType, shims: dict[int, object], undo: ExitStack) -> None:
    for name, value in list(vars(module).items()):
        shim = shims.get(id(value))
        if shim is not None:
            _put(undo, module, name, shim)


def _shims(clock: VirtualClock, draws: Draws) -> dict[int, object]:
    """What libp2p's modules may have bound, by identity, and what takes its place."""
    return {
        id(time): _time(clock),
        id(_RealDatetime): _datetime(clock),
        id(random): _like(random, {name: getattr(draws.stream("libp2p"), name) for name in _DRAWN}),
        id(secrets): _secrets(draws.stream("libp2p", "secrets")),
    }


_DRAWN = (
    "random",
    "uniform",
    "randint",
    "randrange",
    "choice",
    "choices",
    "sample",
    "shuffle",
    "getrandbits",
)


def _like(module: types.ModuleType, changed: dict[str, Any]) -> types.ModuleType:
    shim = types.ModuleType(module.__name__, f"{module.__name__}, as a simulated world has it")
    vars(shim).update({name: value for name, value in vars(module).items() if not name.startswith("__")})
    vars(shim).update(changed)
    return shim


def _time(clock: VirtualClock) -> types.ModuleType:
    def wall() -> float:
        return EPOCH_S + clock.now

    def wall_ns() -> int:
        return EPOCH_MS * 1_000_000 + round(clock.now * 1e9)

    def passed() -> float:
        return clock.now

    def passed_ns() -> int:
        return round(clock.now * 1e9)

    def sleep(_seconds: float) -> None:
        raise _ended(clock, "time.sleep", sys._getframe(1))

    clocks: dict[str, Any] = {"time": wall, "time_ns": wall_ns, "sleep": sleep}
    clocks.update(dict.fromkeys(("monotonic", "perf_counter"), passed))
    clocks.update(dict.fromkeys(("monotonic_ns", "perf_counter_ns"), passed_ns))
    return _like(time, clocks)


def _datetime(clock: VirtualClock) -> Any:
    class Meta(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, _RealDatetime)

    class WorldDatetime(_RealDatetime, metaclass=Meta):  # type: ignore[misc]  # a class found at run time
        """`datetime` whose present is the world's; what it makes are ordinary datetimes."""

        @classmethod
        def now(cls, tz: datetime_module.tzinfo | None = None) -> Any:
            zone = tz or datetime_module.UTC
            moment = _RealDatetime.fromtimestamp(EPOCH_S + clock.now, zone)
            return moment if tz is not None else moment.replace(tzinfo=None)

        @classmethod
        def utcnow(cls) -> Any:
            return cls.now()

        @classmethod
        def today(cls) -> Any:
            return cls.now()

    return WorldDatetime


def _secrets(rng: random.Random) -> types.ModuleType:
    return _like(
        secrets,
        {
            "token_bytes": lambda size=32: rng.randbytes(size),
            "token_hex": lambda size=32: rng.randbytes(size).hex(),
            "randbelow": rng.randrange,
            "randbits": rng.getrandbits,
            "choice": rng.choice,
        },
    )


# --- threads and sockets ------------------------------------------------------------------------


class _SweepTimer:
    """Takes the place of the thread that sweeps a `BaseTimedCache`."""

    def __init__(self, clock: VirtualClock, target: Any) -> None:
        self._clock, self._cache = clock, target.__self__
        self._timer: Timer | None = None

    def start(self) -> None:
        self._timer = self._clock.call_later(self._cache.sweep_interval, self._sweep)

    def _sweep(self) -> None:
        self._cache._sweep()
        self.start()

    def join(self, timeout: float | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()


def _threading_of_caches(clock: VirtualClock) -> types.ModuleType:
    def thread(*, target: Any, daemon: bool = False) -> _SweepTimer:
        return _SweepTimer(clock, target)

    return _like(threading, {"Thread": thread})


def _refuse_threads_and_sockets(clock: VirtualClock, undo: ExitStack) -> None:
    """End the world where libp2p, or our adapter to it, would leave it; others are guards.py's."""
    for where, name, words in (
        (threading.Thread, "start", "threading.Thread"),
        (trio.to_thread, "run_sync", "trio.to_thread.run_sync"),
        (socket.socket, "__init__", "socket.socket"),
        (socket, "getaddrinfo", "socket.getaddrinfo"),
    ):
        original = getattr(where, name)

        def guard(*args: Any, _original: Any = original, _words: str = words, **kwargs: Any) -> Any:
            frame = _libp2p_frame(sys._getframe(1))
            if frame is not None:
                raise _ended(clock, _words, frame)
            return _original(*args, **kwargs)

        _put(undo, where, name, guard)


def _libp2p_frame(frame: types.FrameType | None) -> types.FrameType | None:
    """The innermost frame of libp2p, or of the adapter, that a call comes from."""
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith("libp2p.") or name.startswith("ainp2p.protocol.libp2p"):
            return frame
        frame = frame.f_back
    return None


def _ended(clock: VirtualClock, what: str, frame: types.FrameType) -> Ambient:
    """libp2p swallows most exceptions; so the world ends, and not only the call."""
    error = Ambient(what, f"{frame.f_code.co_filename}:{frame.f_lineno}", REMEDY)
    clock.fail(error)
    return error


# --- sets ---------------------------------------------------------------------------------------


def _order_sets(undo: ExitStack) -> None:
    """`hash()` of what libp2p keeps in sets: of bytes it is another one in each process, of objects too."""
    from libp2p.peer.id import ID

    _put(undo, ID, "__hash__", lambda self: int.from_bytes(self._bytes[-7:], "big"))
    numbers = itertools.count(1)

    def number(self: Any) -> int:
        number: int = self.__dict__.setdefault("_ainp2p_number", next(numbers))
        return number

    for module, name in _UNORDERED:
        cls = getattr(importlib.import_module(module), name, None)
        if cls is not None:
            _put(undo, cls, "__hash__", number)
