"""How the command groups add their parsers, so that all of them have the same options and look."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from ainp2p.cli import exit_codes
from ainp2p.errors import InvalidInput

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

Run = Callable[[argparse.Namespace], int]
T = TypeVar("T")


def add_group(subparsers: Subparsers, name: str, help_: str, examples: str = "") -> Subparsers:
    """Add `ainp2p NAME …`; the returned object takes its commands."""
    group = _add(subparsers, name, help_, examples)
    group.set_defaults(run=None, parser=group)
    return group.add_subparsers(title="commands", metavar="COMMAND")


def add_command(
    subparsers: Subparsers, name: str, help_: str, run: Run, examples: str = ""
) -> argparse.ArgumentParser:
    """Add a command that calls `run(args)`; it has `--json` (`args.json`) and `--debug` already.

    Args:
        examples: lines as typed in a shell, such as ``"ainp2p key new alice"``.
    """
    parser = _add(subparsers, name, help_, examples)
    parser.add_argument("--json", action="store_true", help="print JSON, one object per line")
    # SUPPRESS: without it this default would overwrite the same option given before the command.
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.set_defaults(run=run, parser=parser)
    return parser


def in_its_words(read: Callable[[str], T]) -> Callable[[str], T]:
    """An option's `type` that says what `read` says when it refuses; argparse drops the words of others."""

    def read_or_tell(text: str) -> T:
        try:
            return read(text)
        except InvalidInput as exc:
            raise argparse.ArgumentTypeError(str(exc)) from exc

    return read_or_tell


def _add(subparsers: Subparsers, name: str, help_: str, examples: str) -> argparse.ArgumentParser:
    shown = "".join(f"  {line.strip()}\n" for line in examples.strip().splitlines())
    return subparsers.add_parser(
        name,
        help=help_,
        description=help_[:1].upper() + help_[1:] + ".",
        epilog=(f"examples:\n{shown}\n" if shown else "") + exit_codes.HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
