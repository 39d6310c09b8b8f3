"""`ainp2p network new` and `join`: make a genesis, or take one that somebody has made."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ainp2p.cli import exit_codes
from ainp2p.cli.choosing import GENESIS_FILE, public_key
from ainp2p.cli.command import add_command
from ainp2p.cli.output import emit
from ainp2p.errors import InvalidInput, StorageError
from ainp2p.home import Home, checked_name

if TYPE_CHECKING:
    from ainp2p.cli.command import Subparsers
    from ainp2p.ledger.rules.genesis import Genesis
    from ainp2p.ledger.rules.parameters import Parameters
    from ainp2p.protocol.identity import Key

VALIDATORS_MAX = 31
# A development network's money is handed out for nothing, so its keys are encrypted only for form's sake.
DEV_PASSPHRASE = b"development"
WEIGHT = 1_000_000  # of each first member: a bond of a millionth of all money per member weighs something

DURATIONS = {
    "epoch": ("epoch_ms", "how long a committee sits: 20s, 12h (1d; --dev 1h)"),
    "lock-life": ("lock_life_ms_max", "the longest life of a deposit or bond (90d; --dev 1h)"),
    "lease-min": ("lease_ms_min", "the least silence after which guardians can recover (1d; --dev 10s)"),
    "hold": ("gate_hold_ms", "D: recoveries, refunds and ends of epochs wait so long (60s; --dev 1s)"),
    "contact": ("gate_contact_ms", "G: and for so long a contact with a quorum (10m; --dev 2s)"),
    "margin": ("margin_ms", "how long before a deposit expires it has to be settled (10m; --dev 2s)"),
    "vote-timeout": ("vote_timeout_ms", "T: a contested slot goes to its next view after it (2s)"),
}


def register_new(commands: Subparsers) -> None:
    new = add_command(
        commands,
        "new",
        "make the genesis of a new network",
        _new,
        "ainp2p network new home --dev\n"
        "ainp2p network new common --validator alice=/ip4/192.0.2.1/tcp/4100 --grant alice=1000000ain",
    )
    _add_parameters(new)
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


def _add_parameters(new: argparse.ArgumentParser) -> None:
    group = new.add_argument_group("rules of the network, for ever; a --dev network has shorter times")
    for option, (_, help_) in DURATIONS.items():
        group.add_argument(f"--{option}", metavar="TIME", help=help_)
    group.add_argument("--fee-floor", type=int, metavar="UAIN", help="the least fee, which is burnt (1)")


def register_join(commands: Subparsers) -> None:
    """Add `join`."""
    join = add_command(
        commands,
        "join",
        "remember a network by its genesis file",
        _join,
        "ainp2p network join genesis\nainp2p network join genesis --json",
    )
    join.add_argument("genesis", type=Path, help="the network's genesis file")


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


def _parameters(args: argparse.Namespace, usual: Parameters) -> Parameters:
    """The rules that the options ask for.

    Raises:
        InvalidInput: such rules make no sense together.
    """
    import msgspec

    from ainp2p.cli.opening import duration_ms
    from ainp2p.ledger.rules.parameters import check_parameters

    given = {field: getattr(args, option.replace("-", "_")) for option, (field, _) in DURATIONS.items()}
    changes = {field: duration_ms(text) for field, text in given.items() if text is not None}
    if args.fee_floor is not None:
        changes["fee_floor"] = args.fee_floor
    if any(value < 1 for value in changes.values()):
        raise InvalidInput("the rules of a network are positive numbers")
    chosen = msgspec.structs.replace(usual, **changes)
    check_parameters(chosen)
    if chosen.lock_life_ms_max <= 2 * chosen.margin_ms:
        raise InvalidInput("--lock-life is more than twice --margin: else no deposit can be settled in time")
    return chosen


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
    rules = _parameters(args, DEVELOPMENT)
    return new_genesis(args.name, context.now_ms(), validators, grants, purse, rules), keys


def _real_genesis(args: argparse.Namespace, context: Any) -> Genesis:
    from ainp2p.ledger.rules.genesis import PRODUCTION, new_genesis
    from ainp2p.protocol.identity import peer_id

    validators = []
    for text in args.validator:
        word, address = _pair(text, "--validator KEY=ADDRESS")
        public = public_key(word)
        suffix = f"/p2p/{peer_id(public)}"
        validators.append((public, WEIGHT, [address if address.endswith(suffix) else address + suffix]))
    rules = _parameters(args, PRODUCTION)
    return new_genesis(args.name, context.now_ms(), validators, _grants(args.grant), None, rules)


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


__all__ = ["DEV_PASSPHRASE", "register_join", "register_new"]
