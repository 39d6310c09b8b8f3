"""The command itself: help, exit codes, and errors that fit on one line."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ainp2p import __version__, cli, errors
from ainp2p.cli import exit_codes, main
from ainp2p.cli.command import add_command


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], int]:
    """Run a command that raises this, and return the exit status."""

    def run(exc: BaseException, *options: str) -> int:
        def raising(_: argparse.Namespace) -> int:
            raise exc

        class Module:
            @staticmethod
            def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
                add_command(subparsers, "key", "fail", raising)

        monkeypatch.setattr("importlib.import_module", lambda _: Module)
        return main(["key", *options])

    return run


def test_help_names_the_commands_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == exit_codes.OK
    out = capsys.readouterr().out
    assert "key" in out
    assert "examples:" in out
    assert "130 interrupted" in out


COMMANDS = sorted(cli._MODULES)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_examples_and_json(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == exit_codes.OK
    out = capsys.readouterr().out
    assert f"usage: ainp2p {command}" in out
    assert "examples:" in out
    assert f"ainp2p {command}" in out.split("examples:")[1]


def test_an_argument_too_many_shows_the_usage_of_its_own_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "show", "alice", "bob"]) == exit_codes.USAGE
    err = capsys.readouterr().err
    assert "usage: ainp2p key show" in err
    assert "unrecognized arguments: bob" in err


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == exit_codes.OK
    assert capsys.readouterr().out == f"ainp2p {__version__}\n"


@pytest.mark.parametrize(
    "argv",
    [
        pytest.param([], id="nothing"),
        pytest.param(["nonsense"], id="an unknown command"),
        pytest.param(["key"], id="a group alone"),
        pytest.param(["key", "nonsense"], id="an unknown command of a group"),
        pytest.param(["key", "new"], id="a missing argument"),
        pytest.param(["key", "show", "--nonsense"], id="an unknown option"),
        pytest.param(["--vers"], id="an abbreviated option"),
    ],
)
def test_wrong_usage_is_2_and_says_how_it_goes(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == exit_codes.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "usage: ainp2p" in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.Error("x"), 1),
        (errors.KeystoreError("x"), 1),
        (errors.Malformed("x"), 1),
        (errors.InvalidOperation("x"), 1),
        (errors.InvalidInput("x"), 2),
        (errors.Unreachable("x"), 3),
        (errors.TimedOut("x"), 3),
        (errors.NoOffers("x"), 4),
        (errors.BudgetExceeded("x", 1, 0), 5),
        (errors.PolicyRefused("x", 1), 5),
        (errors.InsufficientFunds(0, 1), 5),
        (KeyboardInterrupt(), 130),
        (OSError(2, "No such file"), 1),
        (RuntimeError("x"), 1),
        (ExceptionGroup("nursery", [errors.NoOffers("x"), errors.TimedOut("x")]), 4),
        (BaseExceptionGroup("nursery", [errors.NoOffers("x"), KeyboardInterrupt()]), 130),
        (ExceptionGroup("nursery", [ExceptionGroup("inner", [errors.InvalidInput("x")])]), 2),
        (ExceptionGroup("nursery", [errors.NoOffers("x"), ValueError("x")]), 1),
    ],
)
def test_each_error_has_its_exit_code_and_one_line(
    error: BaseException,
    status: int,
    failing: Callable[[BaseException], int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert failing(error) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    if status != exit_codes.INTERRUPTED:
        assert captured.err.startswith("ainp2p: error: ")
    assert captured.err.count("\n") <= 1
    assert "Traceback" not in captured.err


def test_debug_shows_where_an_error_came_from(
    failing: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing(errors.NoOffers("nobody"), "--debug") == exit_codes.NO_OFFERS
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "in raising" in err
    assert err.endswith("ainp2p: error: nobody\n")


def test_debug_may_stand_before_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--debug", "key", "show", "../x"]) == exit_codes.USAGE
    assert "Traceback" in capsys.readouterr().err


def test_a_peers_words_in_an_error_cannot_steer_the_terminal(
    failing: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(errors.Refused("busy", "\x1b[2Jgone"))
    assert "\x1b" not in capsys.readouterr().err


def test_a_reader_that_has_enough_is_no_error(failing: Callable[[BaseException], int]) -> None:
    assert failing(BrokenPipeError(32, "Broken pipe")) == exit_codes.FAILED


def test_a_closed_pipe_leaves_no_complaint(tmp_path: Path) -> None:
    """`ainp2p key show | true`, with the reader gone before anything is written."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "ainp2p", "key", "show"],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "AINP2P_HOME": str(tmp_path)},
            timeout=60,
            check=False,
        )
    finally:
        os.close(writer)
    assert done.stderr == ""
    assert done.returncode == exit_codes.FAILED


def test_a_terminal_that_knows_only_ascii_is_no_error() -> None:
    code = "from ainp2p.cli import main\nmain(['--version'])\nprint('gr\\u00fc\\u00dfe')"
    environ = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environ, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == r"gr\xfc\xdfe"


def test_python_m_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ainp2p", "nonsense"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == exit_codes.USAGE
    assert "usage: ainp2p" in done.stderr
