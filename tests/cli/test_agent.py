"""`ainp2p serve`, `find`, `ask` and `plan`: a real server process on loopback, the rest in this process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ainp2p.cli import main
from ainp2p.cli.agent import load_skill, read_input
from ainp2p.cli.joining import RUN_FILE, read_run_file, remove_run_file, write_run_file
from ainp2p.errors import InvalidInput, NetworkError
from ainp2p.home import Home

ECHO = str(Path(__file__).parents[2] / "examples" / "echo.py") + ":echo"
LIMIT_S = 60  # for a process to do what it should; normally 2 s


class Server:
    """`ainp2p serve` in a process of its own."""

    def __init__(self, home: Path, *options: str) -> None:
        command = [sys.executable, "-m", "ainp2p", "serve", ECHO, "--json", *options]
        environ = {**os.environ, "AINP2P_HOME": str(home)}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the server ended before it served"
        self.told: dict[str, Any] = json.loads(line)

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(LIMIT_S)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    server = Server(home)
    yield server
    server.process.kill()
    server.process.wait()


@pytest.fixture(autouse=True)
def _use_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AINP2P_HOME", str(home))


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, list[Any]]:
    status = main([*argv, "--json"])
    return status, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


# --- with a server --------------------------------------------------------------------------------

pytestmark = pytest.mark.process


def test_find_shows_every_number_with_its_origin(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    status, [offer] = run(capsys, "find", "echo")
    assert status == 0
    assert offer["agent"] == server.told["agent"]
    assert offer["price"] == "1/item"
    assert {fact["what"]: fact["origin"] for fact in offer["facts"]}["price"] == "stated in the card"


def test_ask_prints_the_result_and_the_bill(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    status, [answer] = run(capsys, "ask", "echo", "--input", "one two three", "--budget", "50")
    assert status == 0
    assert answer["result"] == "one two three "
    assert (answer["finish"], answer["units"], answer["paid_uain"]) == ("done", 3, 3)


def test_ask_stops_at_its_budget(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    status, [answer] = run(capsys, "ask", "echo", "--input", "one two three", "--budget", "2")
    assert status == 0
    assert (answer["finish"], answer["paid_uain"]) == ("budget", 2)


def test_plain_output_is_the_text_alone(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "echo", "--set", "text=hello there", "--budget", "9"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "hello there \n"
    assert "paid 2 uain to agent" in captured.err


def test_plan_moves_no_money_and_tells_what_a_budget_buys(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    status, [plan] = run(capsys, "plan", "echo", "--input", "a b", "--budget", "50")
    assert status == 0
    assert plan["possible"] is True
    assert (plan["units_max"], plan["available"]) == (50, 1_000_000)


def test_plan_above_the_purse_says_so_by_its_status(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    status, [plan] = run(capsys, "plan", "echo", "--input", "a", "--budget", "2000000")
    assert status == 5
    assert plan["possible"] is False


def test_an_input_that_does_not_fit_is_refused_by_the_seller(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ask", "echo", "--set", "sound=moo", "--budget", "9"]) != 0
    assert "schema" in capsys.readouterr().err


def test_a_skill_that_nobody_offers_has_a_status_of_its_own(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ask", "fly", "--timeout", "0.2", "--budget", "9"]) == 4
    assert "nobody alive offers 'fly'" in capsys.readouterr().err


# --- ending a server (G3) -------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_g3_a_signal_ends_a_server_in_good_order(tmp_path: Path, number: int, status: int) -> None:
    server = Server(tmp_path)
    assert (tmp_path / "run" / RUN_FILE).exists()
    assert server.end(number) == status
    assert not (tmp_path / "run" / RUN_FILE).exists()


def test_nobody_serves_after_a_server_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server(tmp_path)
    server.end(signal.SIGKILL)
    monkeypatch.setenv("AINP2P_HOME", str(tmp_path))
    assert main(["find", "echo"]) == 3
    assert "ainp2p serve" in capsys.readouterr().err


# --- without a server -----------------------------------------------------------------------------


def test_without_a_network_the_error_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AINP2P_HOME", str(tmp_path))
    with pytest.raises(NetworkError, match="ainp2p serve"):
        read_run_file()


def test_a_run_file_of_another_process_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AINP2P_HOME", str(tmp_path))
    path = write_run_file("/ip4/127.0.0.1/tcp/1/p2p/x", "00")
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "pid": told["pid"] + 1}))
    remove_run_file(path)
    assert path.exists()
    path.write_text(json.dumps(told))
    remove_run_file(path)
    assert not path.exists()
    assert path.parent == Home(tmp_path).run()


@pytest.mark.parametrize(
    "target",
    ["echo", ":echo", "examples/echo.py:", "no_such_module:echo", "no_such_file.py:echo", "json:dumps"],
)
def test_what_is_no_skill_cannot_be_served(target: str) -> None:
    with pytest.raises(InvalidInput):
        load_skill(target)


def test_a_skill_is_loaded_from_a_file() -> None:
    assert load_skill(ECHO).name == "echo"


class Options:
    """Parsed options of `ask`."""

    def __init__(self, input_: str | None, *set_: str) -> None:
        self.input, self.set = input_, list(set_)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (Options(None), {}),
        (Options("some words"), {"text": "some words"}),
        (Options('{"n": 3}'), {"n": 3}),
        (Options("[1]"), {"text": "[1]"}),
        (Options(None, "n=3", "tone=calm", "text=a=b"), {"n": 3, "tone": "calm", "text": "a=b"}),
    ],
)
def test_the_input_comes_from_the_options(options: Any, expected: dict[str, Any]) -> None:
    assert read_input(options) == expected


def test_the_input_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("notes")
    options: Any = Options(f"@{tmp_path / 'notes.md'}")
    assert read_input(options) == {"text": "notes"}


@pytest.mark.parametrize("bad", [Options("@/no/such/file"), Options(None, "novalue")])
def test_an_option_that_is_none_is_refused(bad: Any) -> None:
    with pytest.raises(InvalidInput):
        read_input(bad)
