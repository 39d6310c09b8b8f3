"""The `ainp2p` command: parse, call, print. Everything it does can be done with the library.

Only the module of the command that was asked for is imported, and heavy things (trio, libp2p, nacl,
torch) only when it runs, so `ainp2p --help` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
import traceback
from collections.abc import Iterator, Sequence

import ainp2p
from ainp2p import errors
from ainp2p.cli import exit_codes
from ainp2p.cli.output import printable

# Command → the module that registers it, in the order that help shows.
_MODULES = {
    "serve": "agent",
    "find": "agent",
    "ask": "agent",
    "plan": "agent",
    "swarm": "swarm",
    "sim": "sim",
    "key": "key",
    "network": "network",
    "wallet": "wallet",
    "watchtower": "watchtower",
    "ledger": "ledger",
    "spending": "spending",
    "model": "model",
}
_EXAMPLES = """examples:
  ainp2p swarm docs/ README.md         agents with real models work for pay on your documents
  ainp2p serve examples/echo.py:echo   offer a skill to other agents
  ainp2p ask summarise --input @notes.md --budget 600
  ainp2p sim run market.py --seed 7    a model of an economy in virtual time, from a seed
  ainp2p key new alice                 make a key for an agent of your own
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status (`ainp2p.cli.exit_codes`); never raises."""
    _tolerate_any_encoding()
    args: argparse.Namespace | None = None
    try:
        args = _parse(sys.argv[1:] if argv is None else argv)
        status = args.parser.error("a command is missing") if args.run is None else args.run(args)
        sys.stdout.flush()
        return int(status)
    except SystemExit as exc:  # argparse: --help, --version or wrong usage
        return exc.code if isinstance(exc.code, int) else exit_codes.FAILED
    except BrokenPipeError:
        # Whoever read our output has enough (`ainp2p find | head -1`): nothing to say, nowhere to say it.
        _drop_output()
        return exit_codes.FAILED
    except BaseException as exc:
        if args is not None and args.debug:
            traceback.print_exc()
        return _report(exc)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="ainp2p",
        description="Autonomous AI agents on an open peer-to-peer network.",
        epilog=f"{_EXAMPLES}\n{exit_codes.HELP}\n\n`ainp2p COMMAND --help` says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"ainp2p {ainp2p.__version__}")
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    parser.set_defaults(run=None, parser=parser, json=False)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    asked = next((word for word in argv if not word.startswith("-")), "")
    modules = [_MODULES[asked]] if asked in _MODULES else list(dict.fromkeys(_MODULES.values()))
    for module in modules:
        importlib.import_module(f"ainp2p.cli.{module}").register(subparsers)
    args, unknown = parser.parse_known_args(argv)
    if unknown:  # said by the command's own parser, so that its usage is shown, not ours
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return args


def _report(exc: BaseException) -> int:
    """Say on standard error what went wrong, in one line; returns the exit status."""
    leaves = list(_leaves(exc))
    if any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves):
        return exit_codes.INTERRUPTED
    ours = [leaf for leaf in leaves if isinstance(leaf, errors.Error)]
    if ours and len(ours) == len(leaves):
        _complain(str(ours[0]))
        return exit_codes.of(ours[0])
    strange = next(leaf for leaf in leaves if not isinstance(leaf, errors.Error))
    if isinstance(strange, OSError):
        _complain(str(strange))
    else:
        _complain(f"unexpected {type(strange).__name__}: {strange} (`ainp2p --debug …` shows where)")
    return exit_codes.FAILED


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    """The exceptions inside groups, which nurseries make; any other exception is its own leaf."""
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions:
            yield from _leaves(inner)
    else:
        yield exc


def _complain(text: str) -> None:
    print(f"ainp2p: error: {printable(text)}", file=sys.stderr)


def _tolerate_any_encoding() -> None:
    """A model's answer must not end the program because the terminal knows only ASCII."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Send what is still buffered nowhere, or the interpreter complains about the pipe at exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # standard output is no file (a test's capture)
        sys.stdout = io.StringIO()
