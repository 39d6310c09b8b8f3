"""`ainp2p watchtower`: keep receipts for others, and have one's own kept."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ainp2p.cli import exit_codes
from ainp2p.cli.choosing import add_checkpoint_option, add_network_option, chosen_genesis
from ainp2p.cli.command import add_command, add_group
from ainp2p.cli.opening import run_with_wallet
from ainp2p.cli.output import emit
from ainp2p.errors import InvalidInput, NetworkError
from ainp2p.home import Home

if TYPE_CHECKING:
    from ainp2p.cli.command import Subparsers
    from ainp2p.ledger.wallets.wallet import Wallet

STATUS_EVERY_S = 60.0


def register(subparsers: Subparsers) -> None:
    """Add the group to the command line."""
    commands = add_group(
        subparsers,
        "watchtower",
        "settle in time for payees that have vanished; it needs no key and no account",
        "ainp2p watchtower serve\nainp2p watchtower add bob /ip4/10.0.0.5/tcp/4001/p2p/12D3KooW…",
    )
    serve = add_command(
        commands,
        "serve",
        "take receipts from anybody, keep them, spread them before their deposits expire",
        _serve,
        "ainp2p watchtower serve --listen /ip4/0.0.0.0/tcp/4001",
    )
    serve.add_argument(
        "--listen", metavar="ADDRESS", action="append", default=[], help="loopback if left out"
    )
    serve.add_argument(
        "--least-deposit", type=int, metavar="UAIN", help="watch no smaller deposits; 100 if left out"
    )
    serve.add_argument("--for", dest="for_s", type=float, metavar="SECONDS", help="end after so long")
    add = add_command(
        commands,
        "add",
        "hand a key's receipts to a watchtower, once; agents do it now and then",
        _add,
        "ainp2p watchtower add bob /ip4/10.0.0.5/tcp/4001/p2p/12D3KooW…",
    )
    status = add_command(
        commands,
        "status",
        "what a watchtower holds of a key's receipts",
        _status,
        "ainp2p watchtower status bob /ip4/10.0.0.5/tcp/4001/p2p/12D3KooW…",
    )
    for parser in (add, status):
        parser.add_argument("key", help="name of a key of yours: who is paid")
        parser.add_argument("address", help="the watchtower's, as `serve` prints it")
    for parser in (serve, add, status):
        add_network_option(parser)
    for parser in (add, status):
        add_checkpoint_option(parser)


def _serve(args: argparse.Namespace) -> int:
    import trio

    trio.run(_do_serve, args)
    return exit_codes.OK


async def _do_serve(args: argparse.Namespace) -> None:
    import math

    import trio

    from ainp2p.ledger.wallets.watching import LEAST_DEPOSIT
    from ainp2p.ledger.wallets.watchtower import open_watchtower
    from ainp2p.protocol.context import Context
    from ainp2p.protocol.identity import Key
    from ainp2p.protocol.libp2p import open_network

    genesis = chosen_genesis(args.network)
    directory = Home.from_environment().network(genesis.network_id) / "watchtower"
    key = _own_key(directory, Context.system().token_bytes(32))
    least = args.least_deposit if args.least_deposit is not None else LEAST_DEPOSIT
    listen = tuple(args.listen) or ("/ip4/127.0.0.1/tcp/0",)
    async with (
        open_network(Key(key), listen) as network,
        open_watchtower(network, genesis, directory, least_deposit=least) as tower,
    ):
        for address in network.addresses:
            emit(args, f"watches at {address}", {"address": address})
        with trio.move_on_after(args.for_s if args.for_s is not None else math.inf):
            while True:
                await trio.sleep(STATUS_EVERY_S)
                found = tower.statistics()
                emit(
                    args,
                    f"{found.watched} deposits watched, {found.final} of {found.submitted} settlements final",
                    {"watched": found.watched, "submitted": found.submitted, "final": found.final},
                )


def _own_key(directory: Path, fresh: bytes) -> bytes:
    """The seed of the watchtower's peer id; it signs nothing on the ledger, so it is not sealed."""
    path = directory / "peer.seed"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        partial = directory / ".peer.seed.partial"
        partial.touch(mode=0o600)
        partial.write_bytes(fresh)
        partial.replace(path)
    return path.read_bytes()


def _peer(address: str) -> str:
    head, mark, peer = address.rpartition("/p2p/")
    if not mark or not head:
        raise InvalidInput("an address ends with /p2p/ and the watchtower's peer id")
    return peer


def _add(args: argparse.Namespace) -> int:
    return run_with_wallet(args, _do_add)


async def _do_add(args: argparse.Namespace, wallet: Wallet) -> None:
    from ainp2p.ledger.wallets.handing import hand_to

    await wallet.discover_locks()
    await wallet.network.connect(args.address)
    handed = 0
    for release in wallet.unsettled_releases():
        held = await hand_to(wallet.network, _peer(args.address), release)
        handed += 1
        _print(args, held.lock, held.cumulative, held.expiry)
    if not handed:
        emit(args, "nothing to watch: no receipt is unsettled", {"watched": 0})


def _status(args: argparse.Namespace) -> int:
    return run_with_wallet(args, _do_status)


async def _do_status(args: argparse.Namespace, wallet: Wallet) -> None:
    from ainp2p.ledger.wallets.handing import ask_held

    await wallet.network.connect(args.address)
    await wallet.discover_locks()
    locks = [state.id for state in await wallet.locks()]
    held = await ask_held(wallet.network, _peer(args.address), locks)
    if not held:
        raise NetworkError("this watchtower holds no receipt for these deposits: `ainp2p watchtower add`")
    for each in held:
        _print(args, each.lock, each.cumulative, each.expiry)


def _print(args: argparse.Namespace, lock: bytes, cumulative: int, expiry: int) -> None:
    from ainp2p.protocol.identity import id_text

    emit(
        args,
        f"{id_text(lock)}  {cumulative} uain on its disk, watched until {expiry}",
        {"lock": id_text(lock), "cumulative": cumulative, "expiry_ms": expiry},
    )
