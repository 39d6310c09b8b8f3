"""A model that reads the real world is stopped at that line; nobody else notices anything."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import logging
import random
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import types
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

from ainp2p.errors import InvalidInput
from ainp2p.protocol.context import Context
from ainp2p.simulation import running
from ainp2p.simulation.core import guards as guards_module
from ainp2p.simulation.core.ambient import SOURCES
from ainp2p.simulation.core.clock import VirtualClock
from ainp2p.simulation.core.guards import allowed, guarded
from ainp2p.simulation.core.kernel import run_virtual
from ainp2p.simulation.errors import Ambient
from ainp2p.simulation.world import World
from tests.simulation.core import ambient_model
from tests.simulation.core.ambient_model import AWAITED, READS, harmless
from tests.simulation.core.programs import run


@pytest.mark.parametrize("name", READS)
def test_a_model_that_reads_the_real_world_is_stopped_at_that_line(name: str) -> None:
    read, remedy = READS[name]
    with guarded(), pytest.raises(Ambient) as caught:
        read()
    _, line = inspect.getsourcelines(read)
    if name == "a default argument":
        line = inspect.getsourcelines(ambient_model.by_default)[1] + 1
    elif name == "a keyword's default":
        line = inspect.getsourcelines(ambient_model.Bound.keyword)[1] + 1
    assert caught.value.where == f"{ambient_model.__file__}:{line}"
    assert caught.value.where in str(caught.value)
    assert remedy in caught.value.remedy
    assert caught.value.remedy in str(caught.value)


@pytest.mark.parametrize("name", AWAITED)
def test_a_model_that_leaves_the_seed_by_way_of_trio_is_stopped_too(name: str) -> None:
    read, remedy = AWAITED[name]

    async def main() -> None:
        with pytest.raises(Ambient) as caught:
            await read()
        assert caught.value.where.startswith(ambient_model.__file__)
        assert remedy in caught.value.remedy

    with guarded():
        run_virtual(main, seed=1)


def test_what_a_seed_decides_is_let_through() -> None:
    with guarded():
        harmless()
    harmless()


def test_libraries_may_look_at_the_clock(tmp_path: Path) -> None:
    with guarded():
        logging.getLogger(__name__).debug("a record bears the time")
        with tempfile.TemporaryDirectory(dir=tmp_path):  # draws a random name
            pass
        with contextlib.closing(sqlite3.connect(":memory:")) as connection:
            connection.execute("create table t (x)")
            connection.execute("insert into t values (?)", (b"x",))
            rows = connection.execute("select datetime('now') is not null from t").fetchall()
            assert rows == [(1,)]
        assert len(hashlib.blake2b(b"x").digest()) == 64
        assert Context.system().now_ms() > 1_700_000_000_000  # ainp2p's own, from a real context


def test_trio_and_the_kernel_run_inside_guards() -> None:
    outside = run("locks", 7)
    with guarded():
        assert run("locks", 7) == outside
    with guarded(strict=True):
        assert run("locks", 7) == outside


def test_pytest_and_its_helpers_work_inside_guards(capsys: pytest.CaptureFixture[str]) -> None:
    with guarded():
        with pytest.raises(ZeroDivisionError):
            _ = 1 / 0
        print("captured")
        with pytest.warns(UserWarning, match="seen"):
            __import__("warnings").warn("seen", UserWarning, stacklevel=1)
    assert capsys.readouterr().out == "captured\n"


def test_other_threads_are_not_watched() -> None:
    seen: list[float] = []
    go, done = threading.Event(), threading.Event()

    def read() -> None:
        go.wait(10)
        seen.append(time.time())
        seen.append(random.random())
        done.set()

    thread = threading.Thread(target=read)
    thread.start()
    with guarded():
        go.set()
        assert done.wait(10)
    thread.join()
    assert len(seen) == 2


def test_the_kernel_may_allow_itself_to_read_the_real_world() -> None:
    with guarded():
        with allowed():
            assert time.time() > 0
        with pytest.raises(Ambient):
            time.time()
    with allowed():
        assert time.time() > 0


def test_strict_guards_watch_the_library_too() -> None:
    context = Context.system()
    with guarded(strict=True), pytest.raises(Ambient, match=r"context\.py"):
        context.now_ms()


def test_a_violation_is_reported_even_if_the_model_swallows_it() -> None:
    clock = VirtualClock()

    async def main() -> None:
        with guarded(report=clock.fail):
            with contextlib.suppress(Exception):
                time.time()
            await trio.sleep(100)

    with pytest.raises(Ambient, match=r"time\.time"):
        run_virtual(main, seed=1, clock=clock)
    assert clock.now < 100


def test_a_world_ends_with_a_violation_that_its_model_swallowed() -> None:
    async def model(world: World) -> None:
        with contextlib.suppress(Exception):
            time.time()
        await world.run_for(100)

    with pytest.raises(Ambient, match=r"time\.time"):
        running.run(model, seed=1)


def test_a_callback_is_the_model_too() -> None:
    clock = VirtualClock()

    async def main() -> None:
        clock.call_later(1, lambda: time.time())
        await trio.sleep(100)

    with guarded(), pytest.raises(Ambient, match=r"test_guards\.py"):
        run_virtual(main, seed=1, clock=clock)


# --- nothing stays ------------------------------------------------------------------------------


def places() -> dict[tuple[str, str], object]:
    """Everything that the guards replace, and all names of the model and of this module."""
    found: dict[tuple[str, str], object] = {}
    for source in SOURCES:
        where: Any = sys.modules.get(source.module)
        *path, name = source.name.split(".")
        for step in path:
            where = getattr(where, step, None)
        found[source.module, source.name] = vars(where).get(name) if where is not None else None
        if path and where is not None:
            found[source.module, path[0]] = getattr(sys.modules[source.module], path[0])
    for module in (ambient_model, sys.modules[__name__]):
        for name, value in vars(module).items():
            found[module.__name__, name] = value
    for name, value in vars(ambient_model.Bound).items():
        found["Bound", name] = value
    found["defaults", ""] = ambient_model.by_default.__defaults__
    found["keywords", ""] = ambient_model.Bound.keyword.__kwdefaults__
    return found


@contextlib.contextmanager
def unchanged() -> Iterator[None]:
    before = places()
    try:
        yield
    finally:
        after = places()
        assert [key for key in before if before[key] is not after[key]] == []


def test_everything_is_put_back() -> None:
    with unchanged():
        for _ in range(3):
            with guarded():
                assert places() != {}
                with pytest.raises(Ambient):
                    ambient_model.by_default()
    assert ambient_model.by_default() > 0
    assert ambient_model.Bound().keyword() > 0


def test_everything_is_put_back_after_an_exception() -> None:
    with unchanged(), pytest.raises(LookupError), guarded():
        raise LookupError
    with unchanged(), pytest.raises(Ambient), guarded():
        READS["time.time"][0]()


def test_most_places_are_indeed_replaced_meanwhile() -> None:
    before = places()
    with guarded():
        meanwhile = places()
    changed = [key for key in before if before[key] is not meanwhile[key]]
    assert len(changed) > 100


def test_names_that_a_module_binds_meanwhile_are_put_back_too() -> None:
    module = types.ModuleType("late_model")
    module.__file__ = ambient_model.__file__
    with guarded():
        sys.modules["late_model"] = module
        exec("from time import time\nfrom datetime import datetime", vars(module))
        with pytest.raises(Ambient):
            exec("time()", vars(module))
    try:
        assert vars(module)["time"] is time.time
        assert vars(module)["datetime"] is __import__("datetime").datetime
    finally:
        del sys.modules["late_model"]


def test_a_guard_that_stayed_somewhere_lets_everything_through() -> None:
    with guarded():
        kept: list[Callable[[], object]] = [time.time, random.Random, uuid.uuid4]
    for call in kept:
        assert call() is not None


def test_guards_inside_guards_are_refused() -> None:
    with guarded(), pytest.raises(InvalidInput, match="one world at a time"), guarded():
        pass
    with guarded():
        pass


def test_code_given_as_text_is_the_models() -> None:
    program = "import time\nimport ainp2p.simulation as sim\nwith sim.guarded():\n    time.time()\n"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert "Ambient: <string>:4: time.time" in done.stderr


def test_isinstance_of_sockets_threads_and_generators_is_untouched() -> None:
    generator, sock = np.random.default_rng(1), socket.socket()
    with guarded(), sock:
        assert isinstance(generator, np.random.Generator)
        assert isinstance(sock, socket.socket)
        assert isinstance(threading.current_thread(), threading.Thread)


# --- mutants ------------------------------------------------------------------------------------


def missed() -> set[str]:
    """Which harmless reads pass the guards."""
    names = {"time.time", "from time import time", "a default argument", "from datetime import datetime"}
    passed = set()
    with guarded():
        for name in names:
            try:
                READS[name][0]()
                passed.add(name)
            except Ambient:
                pass
    return passed


def test_no_read_passes_the_guards() -> None:
    assert missed() == set()


def test_mutant_without_the_search_names_bound_earlier_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards_module, "_swap_names", lambda *_: None)
    assert missed() == {"from time import time", "a default argument", "from datetime import datetime"}


def test_mutant_where_everybody_is_a_library_all_reads_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards_module, "_kind", lambda frame: "library")
    assert "time.time" in missed()


def test_mutant_without_putting_back_names_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("late_model")
    module.__file__ = ambient_model.__file__
    monkeypatch.setitem(sys.modules, "late_model", module)
    monkeypatch.setattr(guards_module, "_swap_back", lambda *_: None)
    with guarded():
        exec("from time import time", vars(module))
    assert vars(module)["time"] is not time.time


def printed(tmp_path: Path, model: str) -> list[str]:
    """Lines that a model prints in a process of its own, into which nothing is imported yet."""
    (tmp_path / "model.py").write_text(model)
    told = subprocess.run(
        [sys.executable, "model.py"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120
    )
    return told.stdout.splitlines()


LAZY = """
import contextlib
import sys
from ainp2p.simulation import Ambient, run
from ainp2p.simulation.core import guards

IMPORTED
MUTANT

async def model(world):
    DRAWS

assert "torch" not in sys.modules and "numpy.random" not in sys.modules
try:
    run(model, world={"committee": 1})
except Ambient as exc:
    print("stopped:", exc.source)
else:
    print("not seen")
"""


DEAF = "guards.late_imports = lambda *_: contextlib.nullcontext()"


@pytest.mark.parametrize(
    ("imported", "draws", "source"),
    [
        pytest.param("import numpy", "numpy.random.rand()", "numpy.random.rand", id="numpy's lazy part"),
        pytest.param("", "import numpy; numpy.random.rand()", "numpy.random.rand", id="numpy"),
        pytest.param(
            "", "from numpy.random import rand; rand()", "numpy.random.rand", id="a name of numpy's"
        ),
        pytest.param("", "import torch; torch.rand(1)", "torch.rand", id="torch"),
    ],
)
@pytest.mark.parametrize("mutant", [pytest.param("", id="guarded"), pytest.param(DEAF, id="mutant: deaf")])
def test_what_is_imported_inside_a_run_is_guarded(
    mutant: str, imported: str, draws: str, source: str, tmp_path: Path
) -> None:
    model = LAZY.replace("IMPORTED", imported).replace("MUTANT", mutant).replace("DRAWS", draws)
    lines = printed(tmp_path, model)
    assert lines == ["not seen" if mutant else f"stopped: {source}"]


LIBRARIES = """
import statistics
import ssl
import numpy as np
import pandas as pd
from ainp2p.simulation import Ambient, run

async def sampled(world):
    pd.DataFrame({"a": range(9)}).sample(3)

async def sampled_by_seed(world):
    seed = world.rng("n").getrandbits(64)
    pd.DataFrame({"a": range(9)}).sample(3, random_state=np.random.default_rng(seed))

async def normal(world):
    statistics.NormalDist().samples(1)

async def openssl(world):
    ssl.RAND_bytes(4)

for model in (sampled, sampled_by_seed, normal, openssl):
    try:
        run(model, world={"committee": 1})
    except Ambient as exc:
        print(exc.source, exc.where.startswith(__file__))
    else:
        print("passed")
"""


def test_what_a_library_draws_for_the_model_is_stopped_in_the_model(tmp_path: Path) -> None:
    lines = printed(tmp_path, LIBRARIES)
    assert lines == [
        "numpy.random.choice True",
        "passed",
        "random.gauss True",
        "ssl.RAND_bytes True",
    ]


LATE_TORCH = """
import sys
from ainp2p.simulation import run

async def model(world):
    import torch
    import held

open("held.py", "w").write("import torch; fill = torch.Tensor.uniform_; drop = torch.nn.functional.dropout")
run(model, world={"committee": 1})
import held
import torch
from torch.ao.quantization.quantization_mappings import DEFAULT_FLOAT_TO_QUANTIZED_OPERATOR_MAPPINGS as known
print(held.fill is torch.Tensor.uniform_, held.drop is torch.nn.functional.dropout)
print(torch.nn.functional.dropout in known)
"""


def test_torch_is_as_it_would_be_after_a_run_that_imported_it(tmp_path: Path) -> None:
    lines = printed(tmp_path, LATE_TORCH)
    assert lines == ["True True", "True"]


TORCH = """
import torch
from torch import nn
from ainp2p.simulation import Ambient, run

drawn = []

async def own(world):
    generator = torch.Generator().manual_seed(world.rng("noise").getrandbits(63))
    layer = nn.utils.skip_init(nn.Linear, 2, 2)
    nn.init.normal_(layer.weight, generator=generator)
    nn.Dropout(0.5).eval()(layer.weight)
    nn.Dropout(0.0)(layer.weight)
    nn.functional.alpha_dropout(layer.weight)
    drawn.append([*torch.rand(2, generator=generator).tolist(), *layer.weight.flatten().tolist()])

async def ambient(world):
    torch.rand(2)

async def seeded_for_everybody(world):
    torch.manual_seed(1)

async def in_place(world):
    torch.empty(2).normal_()

fill = torch.Tensor.uniform_

async def bound_before(world):
    fill(torch.empty(2))

async def first_weights(world):
    nn.Linear(2, 2)

async def dropped(world):
    nn.Dropout(0.5)(torch.ones(2))

worlds = {"committee": 1}
for _ in range(2):
    run(own, 1, world=worlds)
print(drawn[0] == drawn[1])
for model in (ambient, seeded_for_everybody, in_place, bound_before, first_weights, dropped):
    try:
        run(model, world=worlds)
    except Ambient as exc:
        print(exc.source, "generator" in str(exc).lower(), exc.where.startswith(__file__))
torch.rand(1), nn.Linear(2, 2), torch.empty(2).normal_()
print("uniform_" in vars(torch.Tensor))
"""


def test_torch_draws_by_a_generator_of_the_model_s_own_or_not_at_all(tmp_path: Path) -> None:
    lines = printed(tmp_path, TORCH)
    assert lines == [
        "True",
        "torch.rand True True",
        "torch.manual_seed True True",
        "torch.Tensor.normal_ True True",
        "torch.Tensor.uniform_ True True",
        "torch.Tensor.uniform_ True True",
        "torch.nn.functional.dropout True True",
        "False",
    ]
