"""`ainp2p network`: make a genesis, join a network by its genesis, see its validators, run one."""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ainp2p.cli import exit_codes
from ainp2p.cli.command import add_command, add_group
from ainp2p.cli.network_bond import register_bond
from ainp2p.cli.output import emit, note
from ainp2p.errors import InvalidInput, StorageError
from ainp2p.home import Home, checked_name

if TYPE_CHECKING:
    from ainp2p.cli.command import Subparsers
    from ainp2p.ledger.rules.genesis import Genesis
    from ainp2p.ledger.serving.sync import Validators
    from ainp2p.protocol.identity import Key

GENESIS_FILE = "genesis"
VALIDATORS_MAX = 31
# A development network's money is handed out for nothing, so its keys are encrypted only for form's sake.
WEIGHT = 1_000_000  # of each first member: a bond of a millionth of all money per member weighs something
DEV_PASSPHRASE = b"development"
STATUS_EVERY_S = 60.0


def register(subparsers: Subparsers) -> None:
    """Add the group to the command line."""
    commands = add_group(
        subparsers,
        "network",
        "networks: a genesis, its committee, its state",
        "ainp2p network new home --dev\nainp2p network validate home/\nainp2p network status",
    )
    _register_new(commands)
    join = add_command(
        commands,
        "join",
        "remember a network by its genesis file",
        _join,
        "ainp2p network join genesis\nainp2p network join genesis --json",
    )
    join.add_argument("genesis", type=Path, help="the network's genesis file")
    status = add_command(
        commands,
        "status",
        "ask each validator for its state, and compare",
        _status,
        "ainp2p network status\nainp2p network status --network home/genesis --json",
    )
    add_network_option(status)
    register_bond(commands)
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
    validate.add_argument(
        "directory", type=Path, help="has the genesis file; the validators' data goes there"
    )
    validate.add_argument("--only", type=int, metavar="I", help="run validator-I of a --dev network alone")
    validate.add_argument(
        "--key", help="a key of yours that is in the committee, or has a bond (`network bond`)"
    )
    validate.add_argument(
        "--announce",
        metavar="ADDRESS",
        action="append",
        default=[],
        help="where others can dial it, if the genesis does not say so and it is not where it listens",
    )
    validate.add_argument(
        "--listen",
        metavar="ADDRESS",
        action="append",
        default=[],
        help="where one validator listens, if not where the genesis says (behind a router)",
    )
    validate.add_argument(
        "--archive",
        action="store_true",
        help="keep all that was ever decided; without it what proves nothing any more goes at each new epoch",
    )
    validate.add_argument("--for-s", type=float, metavar="S", help="end after so many seconds")


def _register_new(commands: Subparsers) -> None:
    new = add_command(
        commands,
        "new",
        "make the genesis of a new network",
        _new,
        "ainp2p network new home --dev\n"
        "ainp2p network new common --validator alice=/ip4/192.0.2.1/tcp/4100 --grant alice=1000000ain",
    )
    new.add_argument("name", help="what people will call it")
    new.add_argument("--out", type=Path, help="directory to make; ./NAME if left out")
    new.add_argument("--dev", action="store_true", help="a development network: new keys, and a faucet")
    new.add_argument("--size", type=int, default=4, help="validators of a --dev network (4)")
    new.add_argument("--host", default="127.0.0.1", help="IPv4 address of a --dev network's validators")
    new.add_argument("--port", type=int, default=4100, help="port of the first of them (4100)")
    new.add_argument(
        "--validator",
        action="append",
        default=[],
        metavar="KEY=ADDRESS",
        help="a committee member: key name, peer id or did:key, and where it listens; again for more",
    )
    new.add_argument(
        "--grant",
        action="append",
        default=[],
        metavar="KEY=AMOUNT",
        help="first money, such as alice=250ain; again for more",
    )


def add_network_option(parser: argparse.ArgumentParser) -> None:
    """The `--network` option of commands that need a genesis."""
    parser.add_argument(
        "--network", help="genesis file, or the beginning of a joined network's id; the only one if left out"
    )


def chosen_genesis(choice: str | None) -> Genesis:
    """The genesis that `--network` means.

    Raises:
        InvalidInput: it means none, or more than one.
    """
    from ainp2p.ledger.rules.genesis import Genesis

    if choice is not None and Path(choice).is_file():
        return Genesis.load(Path(choice))
    home = Home.from_environment()
    fitting = [
        path
        for path in sorted(home.networks().glob(f"*/{GENESIS_FILE}"))
        if path.parent.name.startswith(choice or "")
    ]
    if len(fitting) != 1:
        known = ", ".join(path.parent.name[:16] for path in fitting) or "none"
        raise InvalidInput(
            f"which network? --network takes a genesis file or the beginning of an id (fitting: {known}); "
            "`ainp2p network join FILE` remembers one"
        )
    return Genesis.load(fitting[0])


# --- new and join -------------------------------------------------------------------------------------


def _new(args: argparse.Namespace) -> int:
    from ainp2p.protocol.context import Context

    if bool(args.dev) == bool(args.validator):
        raise InvalidInput("give either --dev, or --validator KEY=ADDRESS once for each committee member")
    name = checked_name(args.name)
    directory = args.out or Path(name)
    context = Context.system()
    genesis, keys = _dev_genesis(args, context) if args.dev else (_real_genesis(args, context), [])
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=False)
    except OSError as exc:
        raise StorageError(f"{directory} cannot be made ({exc.strerror}): choose another --out") from exc
    _write_dev_keys(directory, keys, context)
    genesis.write(directory / GENESIS_FILE)
    _remember(genesis)
    return _print_genesis(args, genesis, directory / GENESIS_FILE)


def _dev_genesis(args: argparse.Namespace, context: Any) -> tuple[Genesis, list[Key]]:
    from ainp2p.ledger.rules.genesis import (
        DEVELOPMENT,
        DEVELOPMENT_PURSE,
        DEVELOPMENT_SUPPLY,
        Faucet,
        new_genesis,
    )
    from ainp2p.ledger.rules.operations import plain_inception
    from ainp2p.protocol.identity import Key

    if not 1 <= args.size <= VALIDATORS_MAX or not 1 <= args.port <= 65_535 - args.size:
        raise InvalidInput(f"--size is 1 to {VALIDATORS_MAX}, and --port leaves room for so many")
    keys = [Key(context.token_bytes(32)) for _ in range(args.size)]
    validators = [
        (key.public, WEIGHT, [f"/ip4/{args.host}/tcp/{args.port + i}/p2p/{key.peer_id}"])
        for i, key in enumerate(keys)
    ]
    faucet = keys[0].public
    grants = [(plain_inception(faucet), DEVELOPMENT_SUPPLY), *_grants(args.grant)]
    purse = Faucet(faucet, DEVELOPMENT_PURSE)
    return new_genesis(args.name, context.now_ms(), validators, grants, purse, DEVELOPMENT), keys


def _real_genesis(args: argparse.Namespace, context: Any) -> Genesis:
    from ainp2p.ledger.rules.genesis import PRODUCTION, new_genesis
    from ainp2p.protocol.identity import peer_id

    validators = []
    for text in args.validator:
        word, address = _pair(text, "--validator KEY=ADDRESS")
        public = public_key(word)
        suffix = f"/p2p/{peer_id(public)}"
        validators.append((public, WEIGHT, [address if address.endswith(suffix) else address + suffix]))
    return new_genesis(args.name, context.now_ms(), validators, _grants(args.grant), None, PRODUCTION)


def _grants(texts: list[str]) -> list[Any]:
    from ainp2p.ledger.rules.amounts import amount_from_text
    from ainp2p.ledger.rules.operations import plain_inception

    pairs = [_pair(text, "--grant KEY=AMOUNT") for text in texts]
    return [(plain_inception(public_key(word)), amount_from_text(amount)) for word, amount in pairs]


def _pair(text: str, form: str) -> tuple[str, str]:
    word, equals, rest = text.partition("=")
    if not word or not equals or not rest:
        raise InvalidInput(f"{text!r} is not {form}")
    return word, rest


def public_key(word: str) -> bytes:
    """The public key behind a did:key, a peer id, or the name of a key of ours.

    Raises:
        InvalidInput, KeystoreError: there is none.
    """
    from ainp2p.protocol.identity import public_from_did_key, public_from_peer_id
    from ainp2p.protocol.keystore import read_sealed, sealed_public

    if word.startswith("did:"):
        return public_from_did_key(word)
    if word.startswith("12D3KooW"):
        return public_from_peer_id(word)
    return sealed_public(read_sealed(Home.from_environment().key_file(word)))


def _write_dev_keys(directory: Path, keys: list[Key], context: Any) -> None:
    from ainp2p.protocol.keystore import write_key_file

    for i, key in enumerate(keys):
        write_key_file(directory / f"validator-{i}.key", key, DEV_PASSPHRASE, context.token_bytes)


def _join(args: argparse.Namespace) -> int:
    from ainp2p.ledger.rules.genesis import Genesis

    genesis = Genesis.load(args.genesis)
    return _print_genesis(args, genesis, _remember(genesis))


def _remember(genesis: Genesis) -> Path:
    path = Home.from_environment().network(genesis.network_id) / GENESIS_FILE
    genesis.write(path)
    return path


def _print_genesis(args: argparse.Namespace, genesis: Genesis, path: Path) -> int:
    from ainp2p.ledger.rules.amounts import ain_text
    from ainp2p.protocol.identity import peer_id

    validators = [
        {
            "peer_id": peer_id(member.key),
            "weight": member.weight,
            "addresses": [a.decode() for a in member.addresses],
        }
        for member in genesis.validators
    ]
    data = {
        "name": genesis.name.decode(errors="replace"),
        "network": genesis.network_id.hex(),
        "development": genesis.is_development,
        "supply": genesis.supply,
        "validators": validators,
        "file": str(path),
    }
    kind = " (development: its money is handed out for nothing)" if genesis.is_development else ""
    lines = [
        f"network     {data['name']}{kind}",
        f"id          {data['network']}",
        f"supply      {ain_text(genesis.supply)}",
        f"genesis     {path}",
        *(f"validator   {each['peer_id']}  {' '.join(each['addresses'])}" for each in validators),  # type: ignore[arg-type]
    ]
    emit(args, "\n".join(lines), data)
    return exit_codes.OK


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
    from ainp2p.ledger.serving.faucet import open_faucet
    from ainp2p.ledger.serving.service import open_validator
    from ainp2p.protocol.libp2p import open_network

    async with AsyncExitStack() as stack:
        services = []
        for name, key in keys:
            listen = tuple(args.listen) or _listen_addresses(genesis, key)
            network = await stack.enter_async_context(open_network(key, listen))
            network.serve(GENESIS_PROTOCOL, genesis_handler(genesis))
            # Agents that know only the committee find one another: cards pass through it.
            await stack.enter_async_context(open_directory(network, genesis.network_id, key))
            data = args.directory / f"{name}.data"
            opened = open_validator(
                network, genesis, key, data, archive=args.archive, follow=True, announce=args.announce
            )
            services.append(await stack.enter_async_context(opened))
            if genesis.faucet is not None and genesis.faucet.key == key.public:
                await stack.enter_async_context(open_faucet(network, genesis, key, data))
            where = " ".join(network.addresses)
            emit(args, f"{name} serves at {where}", {"validator": name, "addresses": list(network.addresses)})
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


__all__ = ["add_network_option", "chosen_genesis", "public_key", "register"]
