"""`ainp2p network`: see a network's validators, run one; the other commands are in modules beside it."""

from __future__ import annotations

import argparse
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ainp2p.cli import exit_codes
from ainp2p.cli.choosing import GENESIS_FILE, add_checkpoint_option, add_network_option, chosen_genesis
from ainp2p.cli.command import add_command, add_group
from ainp2p.cli.network_bond import register_bond
from ainp2p.cli.network_leave import register_leave
from ainp2p.cli.network_new import DEV_PASSPHRASE, register_join, register_new
from ainp2p.cli.output import emit, note
from ainp2p.errors import InvalidInput
from ainp2p.home import Home

if TYPE_CHECKING:
    from ainp2p.cli.command import Subparsers
    from ainp2p.ledger.rules.genesis import Genesis
    from ainp2p.ledger.serving.sync import Validators
    from ainp2p.protocol.identity import Key
    from ainp2p.protocol.network import Network

STATUS_EVERY_S = 60.0


def register(subparsers: Subparsers) -> None:
    """Add the group to the command line."""
    commands = add_group(
        subparsers,
        "network",
        "networks: a genesis, its committee, its state",
        "ainp2p network new home --dev\nainp2p network validate home/\nainp2p network status",
    )
    register_new(commands)
    register_join(commands)
    status = add_command(
        commands,
        "status",
        "ask each validator for its state, and compare",
        _status,
        "ainp2p network status\nainp2p network status --network home/genesis --json",
    )
    add_network_option(status)
    register_bond(commands)
    register_leave(commands)
    _register_validate(commands)


def _register_validate(commands: Subparsers) -> None:
    validate = add_command(
        commands,
        "validate",
        "run validators of a network until interrupted",
        _validate,
        "ainp2p network validate home/              # all keys in a directory of `network new --dev`\n"
        "ainp2p network validate home/ --only 0\n"
        "ainp2p network validate home/ --key alice  # one of your own keys, for a real network\n"
        "ainp2p network validate home/ --key alice --listen /ip4/0.0.0.0/tcp/4100",
    )
    option = validate.add_argument
    option("directory", type=Path, help="has the genesis file; the validators' data goes there")
    option("--only", type=int, metavar="I", help="run validator-I of a --dev network alone")
    option("--key", help="a key of yours that is in the committee, or has a bond (`network bond`)")
    option(
        "--announce",
        metavar="ADDRESS",
        action="append",
        default=[],
        help="where others can dial it, if the genesis does not say so and it is not where it listens",
    )
    option(
        "--listen",
        metavar="ADDRESS",
        action="append",
        default=[],
        help="where one validator listens, if not where the genesis says (behind a router)",
    )
    option(
        "--archive",
        action="store_true",
        help="keep all that was ever decided; without it what proves nothing any more goes at each new epoch",
    )
    add_checkpoint_option(validate)
    option(
        "--wait",
        default="10m",
        help="how long for others' checkpoint, made at an epoch's beginning (10m)",
    )
    option("--for-s", type=float, metavar="S", help="end after so many seconds")


# --- status -------------------------------------------------------------------------------------------


def _status(args: argparse.Namespace) -> int:
    import trio

    return trio.run(_ask_status, args, chosen_genesis(args.network))


async def _ask_status(args: argparse.Namespace, genesis: Genesis) -> int:
    from ainp2p.cli.network_bond import print_epoch
    from ainp2p.errors import NetworkError
    from ainp2p.ledger.serving.messages import GetStatistics, Statistics
    from ainp2p.ledger.serving.proofs import Proofs
    from ainp2p.ledger.serving.sync import Validators
    from ainp2p.ledger.wallets.following import Following
    from ainp2p.protocol.context import Context
    from ainp2p.protocol.identity import Key
    from ainp2p.protocol.libp2p import open_network

    async with open_network(Key(Context.system().token_bytes(32)), ()) as network:
        validators, proofs = Validators(network, genesis), Proofs(genesis)
        with suppress(NetworkError):  # then the genesis' committee is all that is known
            await Following(validators, proofs.chain).catch_up()
        answers = dict(await validators.ask_all(GetStatistics(), Statistics))
        _emit_network(args, genesis, len(answers), len(validators.members))
        await print_epoch(args, genesis, validators, proofs, network.context.now_ms())
    return _compare(args, genesis, validators, answers)


def _emit_network(args: argparse.Namespace, genesis: Genesis, answering: int, members: int) -> None:
    emit(
        args,
        f"network {genesis.name.decode(errors='replace')}  {genesis.network_id.hex()}",
        {
            "network": genesis.network_id.hex(),
            "answering": answering,
            "validators": members,
        },
    )


def _compare(args: argparse.Namespace, genesis: Genesis, validators: Validators, answers: Any) -> int:
    sound = True
    for member in validators.members:
        found = answers.get(member.peer)
        if found is None:
            emit(args, f"{member.peer}  does not answer", {"peer_id": member.peer, "answers": False})
            continue
        total = found.balances + found.credits + found.locks + found.burnt
        sound &= total == genesis.supply
        _print_statistics(args, member.peer, found, genesis)
    roots = {(found.decided, found.state_root) for found in answers.values()}
    sound &= len(roots) == len({decided for decided, _ in roots})  # equal frontiers, equal roots
    if not sound:
        note(args, "the validators' books do not agree, or do not add up")
    return exit_codes.OK if sound and validators.is_quorum(answers) else exit_codes.FAILED


def _print_statistics(args: argparse.Namespace, peer: str, found: Any, genesis: Genesis) -> None:
    word = "votes" if found.voting else "is behind and casts no vote" if found.behind else "does not vote yet"
    parts = {name: getattr(found, name) for name in ("balances", "credits", "locks", "burnt")}
    supply = sum(parts.values())
    emit(
        args,
        f"{peer}  {word}, {found.decided} decided, {found.pending} pending, state "
        f"{found.state_root.hex()[:12]}, supply {supply} of {genesis.supply} uain",
        {
            "peer_id": peer,
            "answers": True,
            "voting": bool(found.voting),
            "behind": bool(found.behind),
            "decided": found.decided,
            "pending": found.pending,
            "height": found.height,
            "state_root": found.state_root.hex(),
            "supply": supply,
            **parts,
        },
    )


# --- validate -----------------------------------------------------------------------------------------


def _validate(args: argparse.Namespace) -> int:
    import trio

    from ainp2p.ledger.rules.genesis import Genesis

    genesis = Genesis.load(args.directory / GENESIS_FILE)
    trio.run(_serve, args, genesis, _validator_keys(args))
    return exit_codes.OK


def _validator_keys(args: argparse.Namespace) -> list[tuple[str, Key]]:
    from ainp2p.passphrase import read_passphrase
    from ainp2p.protocol.keystore import read_key_file

    if args.key is not None:
        passphrase = read_passphrase(f"the key {args.key!r}")
        return [(args.key, read_key_file(Home.from_environment().key_file(args.key), passphrase))]
    pattern = "validator-*.key" if args.only is None else f"validator-{args.only}.key"
    paths = sorted(args.directory.glob(pattern))
    if args.listen and len(paths) > 1:
        raise InvalidInput("--listen is for one validator: add --only I or --key NAME")
    if not paths:
        raise InvalidInput(f"{args.directory} has no {pattern}: name a key of yours with --key")
    return [(path.stem, read_key_file(path, DEV_PASSPHRASE)) for path in paths]


async def _serve(args: argparse.Namespace, genesis: Genesis, keys: list[tuple[str, Key]]) -> None:
    import math
    from contextlib import AsyncExitStack

    import trio

    from ainp2p.agents.development import GENESIS_PROTOCOL, genesis_handler
    from ainp2p.agents.directory import open_directory
    from ainp2p.cli.opening import duration_ms, open_passing_network
    from ainp2p.ledger.serving.faucet import is_alone, open_faucet
    from ainp2p.ledger.serving.garbage import collect_rarely
    from ainp2p.ledger.serving.service import open_validator
    from ainp2p.protocol.libp2p import open_network

    async with AsyncExitStack() as stack:
        services = []
        for name, key in keys:
            listen = tuple(args.listen) or _listen_addresses(genesis, key)
            network = await stack.enter_async_context(open_network(key, listen))
            network.serve(GENESIS_PROTOCOL, genesis_handler(genesis))
            data = args.directory / f"{name}.data"
            opened = open_validator(
                network,
                genesis,
                key,
                data,
                archive=args.archive,
                follow=True,
                announce=args.announce,
                checkpoint=args.checkpoint,
                checkpoint_wait_s=duration_ms(args.wait) / 1000,
                tell=partial(note, args),
            )
            service = await stack.enter_async_context(opened)
            services.append(service)
            # Agents that know only the committee find one another: cards pass through it.
            cards = open_directory(network, genesis.network_id, key, look_up=service.account_of)
            await stack.enter_async_context(cards)
            if genesis.faucet is not None and genesis.faucet.key == key.public:
                asking: Network = network
                if is_alone(genesis, key):
                    asking = await stack.enter_async_context(open_passing_network())
                    asking.add_addresses(network.peer_id, network.addresses)
                await stack.enter_async_context(open_faucet(network, genesis, key, data, asking=asking))
            where = " ".join(network.addresses)
            emit(args, f"{name} serves at {where}", {"validator": name, "addresses": list(network.addresses)})
        collect_rarely()
        with trio.move_on_after(args.for_s if args.for_s is not None else math.inf):
            while True:
                await trio.sleep(STATUS_EVERY_S)
                for (_, key), service in zip(keys, services, strict=True):
                    _print_statistics(args, key.peer_id, service.statistics(), genesis)


def _listen_addresses(genesis: Genesis, key: Key) -> tuple[str, ...]:
    """Where the genesis says that this validator listens, without the peer id at the end."""
    member = next((member for member in genesis.validators if member.key == key.public), None)
    if member is None:
        raise InvalidInput(
            "this key is not in the network's first committee: say where it listens with --listen "
            "(`ainp2p network bond` brings it a seat)"
        )
    addresses = [address.decode() for address in member.addresses]
    return tuple(address.partition("/p2p/")[0] for address in addresses) or ("/ip4/0.0.0.0/tcp/0",)


__all__ = ["register"]
