"""`ainp2p spending`: what an agent of yours has spent, and the breaker that stops it."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from ainp2p.cli import exit_codes
from ainp2p.cli.choosing import add_network_option, chosen_genesis
from ainp2p.cli.command import add_command, add_group
from ainp2p.cli.key import chosen_key, load_key
from ainp2p.cli.output import emit
from ainp2p.errors import InvalidInput
from ainp2p.home import Home

if TYPE_CHECKING:
    from ainp2p.agents.vault import Vault
    from ainp2p.cli.command import Subparsers


def register(subparsers: Subparsers) -> None:
    """Add the group to the command line."""
    commands = add_group(
        subparsers,
        "spending",
        "what an agent of yours has spent, and the breaker that stops it",
        "ainp2p spending show alice\nainp2p spending reset alice",
    )
    show = add_command(
        commands,
        "show",
        "what was spent lately, what is reserved, and why nothing is paid if that is so",
        _show,
        "ainp2p spending show alice --json",
    )
    stop = add_command(
        commands,
        "stop",
        "let the agent pay nothing, also after it is started again",
        _stop,
        "ainp2p spending stop alice",
    )
    reset = add_command(
        commands,
        "reset",
        "let an agent pay again that was stopped, or whose breaker tripped: look at why first",
        _reset,
        "ainp2p spending reset alice",
    )
    for parser in (show, stop, reset):
        parser.add_argument("key", nargs="?", help="name of the agent's key; the only one if left out")
        add_network_option(parser)


def _show(args: argparse.Namespace) -> int:
    return _with_vault(args, _look)


def _stop(args: argparse.Namespace) -> int:
    async def stop(vault: Vault) -> None:
        await vault.stop()

    return _with_vault(args, stop)


def _reset(args: argparse.Namespace) -> int:
    async def reset(vault: Vault) -> None:
        await vault.reset()

    return _with_vault(args, reset)


async def _look(vault: Vault) -> None:
    """Nothing more than what is printed afterwards."""


def _with_vault(args: argparse.Namespace, use: Callable[[Vault], Awaitable[None]]) -> int:
    """Do something with the vault of an agent that does not run, and print how it stands then."""
    import trio

    from ainp2p.agents.policy import Policy
    from ainp2p.agents.vault import open_vault
    from ainp2p.protocol.context import Context

    name = chosen_key(args.key)
    genesis = chosen_genesis(args.network)
    directory = Home.from_environment().network(genesis.network_id) / "agents" / name / "vault"
    if not directory.exists():
        raise InvalidInput(f"{name!r} has never been an agent on this network: nothing was spent")
    key = load_key(name)

    async def run() -> None:
        async with open_vault(key, Policy(), directory, Context.system()) as vault:
            await use(vault)
            hour, day = vault.spent
            emit(
                args,
                f"{name}: {vault.tripped or 'pays'}\n"
                f"  last hour {hour} uain, last day {day} uain, reserved {vault.committed} uain",
                {
                    "key": name,
                    "tripped": vault.tripped,
                    "spent_hour": hour,
                    "spent_day": day,
                    "reserved": vault.committed,
                },
            )

    trio.run(run)
    return exit_codes.OK
