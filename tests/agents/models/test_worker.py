"""The worker by itself, without its parent: when it ends, and when it does not."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from ainp2p.agents.models import messages as m
from ainp2p.agents.models.scripted import Script, token_of
from ainp2p.agents.models.worker import EXIT_UNUSABLE, WorkerSpec

pytestmark = pytest.mark.process

LIMIT_S = 60
SCRIPTED = WorkerSpec("scripted", script=Script({"hang": "one <hang>"}).as_name())


class Worker:
    """A worker process, and frames to and from it."""

    def __init__(self, code: str = "", spec: WorkerSpec = SCRIPTED) -> None:
        """`code` runs in it first."""
        start = f"import os, sys\nfrom ainp2p.agents.models import worker\n{code}\n"
        start += "os._exit(worker.main(sys.argv))"
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [sys.executable, "-c", start, msgspec.json.encode(spec).decode()],
            stdin=pipe,
            stdout=pipe,
            stderr=subprocess.DEVNULL,
        )

    def send(self, message: m.ToWorker) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(m.frame(message))
        self.process.stdin.flush()

    def receive(self) -> m.FromWorker:
        assert self.process.stdout is not None
        size = int.from_bytes(self.process.stdout.read(4), "big")
        return m.from_worker.decode(self.process.stdout.read(size))

    def close_input(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()


def test_it_says_that_it_is_ready_and_answers() -> None:
    worker = Worker()
    ready = worker.receive()
    assert isinstance(ready, m.Ready)
    assert (ready.name, ready.hash) == ("scripted", Script({"hang": "one <hang>"}).hash)
    worker.send(m.Count(3, [("user", "a b")]))
    assert worker.receive() == m.Counted(3, 2)
    worker.close_input()
    assert worker.process.wait(LIMIT_S) == 0


def test_pings_are_answered_while_it_computes() -> None:
    worker = Worker()
    worker.receive()
    worker.send(m.Generate(1, [("user", "hang")], 9))
    assert [worker.receive(), worker.receive()] == [
        m.Admitted(1, 1),
        m.Made(1, token_of("one").id, "one", 0.0),
    ]
    worker.send(m.Ping(5))
    assert worker.receive() == m.Pong(5)
    worker.close_input()
    assert worker.process.wait(LIMIT_S) == 0


def test_it_ends_when_its_standard_input_does_even_while_it_hangs() -> None:
    worker = Worker()
    worker.receive()
    worker.send(m.Generate(1, [("user", "hang")], 9))
    worker.receive()
    worker.close_input()
    assert worker.process.wait(LIMIT_S) == 0


def test_mutant_a_worker_that_ignores_the_end_of_its_input_stays() -> None:
    worker = Worker("worker._read_forever = lambda pipe, inbox: None")
    worker.receive()
    worker.close_input()
    with pytest.raises(subprocess.TimeoutExpired):
        worker.process.wait(0.5)
    worker.process.kill()
    worker.process.wait()


def test_bytes_that_are_no_frame_end_it() -> None:
    worker = Worker()
    worker.receive()
    assert worker.process.stdin is not None
    worker.process.stdin.write(b"\0\0\0\x01\xc1")
    worker.process.stdin.flush()
    assert worker.process.wait(LIMIT_S) == 0


def test_a_model_that_cannot_be_loaded_is_said_to_be_unusable(tmp_path: Path) -> None:
    worker = Worker(spec=WorkerSpec("nothing", directory=str(tmp_path)))
    unusable = worker.receive()
    assert isinstance(unusable, m.Unusable)
    assert "not a model directory" in unusable.reason
    assert worker.process.wait(LIMIT_S) == EXIT_UNUSABLE


def test_ctrl_c_is_left_to_the_parent() -> None:
    worker = Worker()
    worker.receive()
    worker.process.send_signal(signal.SIGINT)
    worker.send(m.Ping(5))
    assert worker.receive() == m.Pong(5)
    worker.close_input()
    assert worker.process.wait(LIMIT_S) == 0


def test_it_dies_with_a_parent_that_is_killed() -> None:
    code = (
        "import trio\nfrom ainp2p.agents.models.process import open_model\n"
        "async def main():\n"
        "    async with open_model('scripted') as model:\n"
        "        print(model.pid, flush=True)\n"
        "        await trio.sleep_forever()\n"
        "trio.run(main)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + LIMIT_S
    while alive(child):
        assert time.monotonic() < deadline, "the worker outlives its parent"
        time.sleep(0.01)  # it is nobody's child now: there is nothing to wait for


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
