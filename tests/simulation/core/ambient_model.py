"""A model that reads the real world in every way: its names were bound long before any world ran."""

from __future__ import annotations

import datetime
import multiprocessing
import os
import random
import secrets
import socket
import subprocess
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from datetime import datetime as moment
from random import Random, choice, randint
from time import monotonic, sleep
from time import time as now
from uuid import uuid4

import numpy as np
import trio
from numpy.random import default_rng


def by_default(clock: Callable[[], float] = time.time) -> float:
    return clock()


class Bound:
    clock = staticmethod(time.perf_counter)
    die = random.random

    def keyword(self, *, clock: Callable[[], float] = time.monotonic) -> float:
        return clock()


async def in_a_thread() -> None:
    await trio.to_thread.run_sync(print)


async def a_connection() -> None:
    await trio.open_tcp_stream("127.0.0.1", 9)


async def a_process() -> None:
    await trio.run_process(["true"])


# What is called → what the message must name.
READS: dict[str, tuple[Callable[[], object], str]] = {
    "time.time": (lambda: time.time(), "world.now"),
    "time.time_ns": (lambda: time.time_ns(), "world.now"),
    "time.monotonic": (lambda: time.monotonic(), "world.now"),
    "time.perf_counter": (lambda: time.perf_counter(), "world.now"),
    "time.process_time": (lambda: time.process_time(), "world.now"),
    "time.sleep": (lambda: time.sleep(0), "trio.sleep"),
    "time.localtime": (lambda: time.localtime(), "world.now"),
    "time.strftime": (lambda: time.strftime("%Y"), "world.now"),
    "from time import time": (lambda: now(), "world.now"),
    "from time import monotonic": (lambda: monotonic(), "world.now"),
    "from time import sleep": (lambda: sleep(0), "trio.sleep"),
    "a default argument": (lambda: by_default(), "world.now"),
    "a keyword's default": (lambda: Bound().keyword(), "world.now"),
    "a class attribute": (lambda: Bound.clock(), "world.now"),
    "a method of the hidden Random as class attribute": (lambda: Bound.die(), "world.rng"),
    "datetime.datetime.now": (lambda: datetime.datetime.now(), "world.now"),
    "datetime.now with a zone": (lambda: datetime.datetime.now(datetime.UTC), "world.now"),
    "datetime.utcnow": (lambda: datetime.datetime.utcnow(), "world.now"),
    "datetime.today": (lambda: datetime.datetime.today(), "world.now"),
    "date.today": (lambda: datetime.date.today(), "world.now"),
    "from datetime import datetime": (lambda: moment.now(), "world.now"),
    "from datetime import date": (lambda: date.today(), "world.now"),
    "random.random": (lambda: random.random(), "world.rng"),
    "random.shuffle": (lambda: random.shuffle([1]), "world.rng"),
    "random.seed": (lambda: random.seed(1), "world.rng"),
    "random.Random()": (lambda: random.Random(), "a seed"),
    "random.Random(None)": (lambda: random.Random(None), "a seed"),
    "random.SystemRandom": (lambda: random.SystemRandom(), "world.rng"),
    "from random import choice": (lambda: choice("ab"), "world.rng"),
    "from random import randint": (lambda: randint(1, 2), "world.rng"),
    "from random import Random": (lambda: Random(), "a seed"),
    "os.urandom": (lambda: os.urandom(1), "randbytes"),
    "secrets.token_hex": (lambda: secrets.token_hex(), "randbytes"),
    "secrets.choice": (lambda: secrets.choice("ab"), "randbytes"),
    "uuid.uuid1": (lambda: uuid.uuid1(), "uuid.UUID"),
    "uuid.uuid4": (lambda: uuid.uuid4(), "uuid.UUID"),
    "from uuid import uuid4": (lambda: uuid4(), "uuid.UUID"),
    "numpy.random.rand": (lambda: np.random.rand(1), "default_rng"),
    "numpy.random.default_rng()": (lambda: np.random.default_rng(), "default_rng"),
    "from numpy.random import default_rng": (lambda: default_rng(), "default_rng"),
    "numpy.random.RandomState()": (lambda: np.random.RandomState(), "default_rng"),
    "threading.Thread": (lambda: threading.Thread(target=print).start(), "nursery.start_soon"),
    "threading.Timer": (lambda: threading.Timer(0, print).start(), "nursery.start_soon"),
    "an executor": (lambda: ThreadPoolExecutor(1).submit(print), "nursery.start_soon"),
    "socket.socket": (lambda: socket.socket(), "network"),
    "socket.create_connection": (lambda: socket.create_connection(("127.0.0.1", 9)), "network"),
    "socket.getaddrinfo": (lambda: socket.getaddrinfo("localhost", 80), "network"),
    "urllib": (lambda: urllib.request.urlopen("http://127.0.0.1:9/"), "network"),
    "socket.socketpair": (lambda: socket.socketpair(), "network"),
    "subprocess.run": (lambda: subprocess.run(["true"], check=True), "world.spawn"),
    "os.system": (lambda: os.system("true"), "world.spawn"),
    "os.fork": (lambda: os.fork(), "world.spawn"),
    "multiprocessing": (lambda: multiprocessing.get_context("spawn").Process().start(), "world.spawn"),
}
AWAITED = {
    "trio.to_thread": (in_a_thread, "nursery.start_soon"),
    "trio.open_tcp_stream": (a_connection, "network"),
    "trio.run_process": (a_process, "world.spawn"),
}


def harmless() -> None:
    """What looks like the above and is decided by the seed."""
    assert isinstance(moment(2020, 1, 1), datetime.datetime)
    assert isinstance(moment(2020, 1, 1), moment)
    assert type(moment(2020, 1, 1) + datetime.timedelta(1)).__name__ == "datetime"
    assert moment.fromtimestamp(0, datetime.UTC).year == 1970
    assert moment.strptime("2020", "%Y") == moment(2020, 1, 1)
    assert moment.fromisoformat("2020-01-02").date() == date(2020, 1, 2)
    assert isinstance(date(2020, 1, 2), date)
    assert isinstance(moment(2020, 1, 2), date)
    assert issubclass(moment, date)
    assert time.gmtime(0).tm_year == 1970
    assert time.strftime("%Y", time.gmtime(0)) == "1970"
    assert random.Random(3).random() == Random(3).random()
    assert isinstance(Random(3), random.Random)
    assert uuid.UUID(int=3).int == 3
    assert default_rng(3).random() == np.random.default_rng(3).random()
    assert isinstance(np.random.RandomState(3), np.random.RandomState)

    class Dice(Random):
        pass

    class Day(moment):
        pass

    assert Dice(3).random() == Random(3).random()
    assert isinstance(Day(2020, 1, 1), Day)
    assert not isinstance(moment(2020, 1, 1), Day)
