"""How a command becomes an agent on a network: the options, and what is used where none is given."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ainp2p.cli.choosing import add_checkpoint_option, chosen_genesis
from ainp2p.cli.key import add_key_option, load_key
from ainp2p.cli.opening import inception_of, read_mandate
from ainp2p.errors import InvalidInput, NetworkError
from ainp2p.home import Home, checked_name

if TYPE_CHECKING:
    from ainp2p.agents.agent import Agent
    from ainp2p.agents.skill import Skill
    from ainp2p.ledger.rules.genesis import Genesis

RUN_FILE = "dev.json"  # what the last `ainp2p serve` on a development network wrote


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--network``, ``--bootstrap``, ``--key``, ``--listen``, ``--watchtower`` and ``--checkpoint``."""
    parser.add_argument(
        "--network",
        help="genesis file, or the beginning of a joined network's id; with --key the only one if left out",
    )
    parser.add_argument(
        "--bootstrap",
        metavar="ADDRESS",
        action="append",
        default=[],
        help="a peer to begin with (/ip4/…/tcp/…/p2p/…); may be given several times",
    )
    add_key_option(parser)
    parser.add_argument(
        "--listen",
        metavar="ADDRESS",
        action="append",
        default=[],
        help="where to listen; loopback if left out",
    )
    parser.add_argument(
        "--watchtower",
        metavar="ADDRESS",
        action="append",
        default=[],
        help="a watchtower that gets the receipts that pay this agent; again for more",
    )
    add_checkpoint_option(parser)


def add_delegation_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--delegation``: the key is a session key."""
    parser.add_argument(
        "--delegation",
        type=Path,
        metavar="FILE",
        help="--key is a session key: what `ainp2p wallet delegate` wrote; a newer one there renews it",
    )


def make_agent(
    args: argparse.Namespace,
    *,
    name: str,
    skills: Sequence[Skill] = (),
    models: Sequence[str] = (),
    slots: int = 4,
    found: bool = False,
) -> Agent:
    """An agent as the options say.

    Args:
        found: make a new development network where no other is named, rather than looking for one.

    Raises:
        NetworkError: no network is named and none runs on this machine.
    """
    from ainp2p.agents.agent import LISTEN, Agent

    bootstrap = list(args.bootstrap)
    genesis: Genesis | None = None
    options: dict[str, Any] = {}
    if args.network is not None or args.key is not None:
        genesis = chosen_genesis(args.network)
        options = _with_key(args, genesis)
    elif not bootstrap and not found:
        bootstrap = [read_run_file()["address"]]
    return Agent(
        name,
        skills=skills,
        model=list(models),
        network=genesis,
        bootstrap=bootstrap,
        listen=tuple(args.listen) or LISTEN,
        slots=slots,
        watchtowers=args.watchtower,
        checkpoint=args.checkpoint,
        **options,
    )


def _with_key(args: argparse.Namespace, genesis: Genesis) -> dict[str, Any]:
    """The named key, its account, and where its books are on this network; nothing without a name."""
    name: str | None = args.key
    if name is None:
        if genesis.is_development:
            return {}
        network = genesis.name.decode(errors="replace")
        raise InvalidInput(
            f"on {network!r} an agent needs a key: --key NAME (`ainp2p key new NAME` makes one)"
        )
    books = Home.from_environment().network(genesis.network_id) / "agents" / checked_name(name)
    books.mkdir(parents=True, exist_ok=True, mode=0o700)
    file: Path | None = getattr(args, "delegation", None)
    if file is None:
        return {"key": load_key(name), "home": books, "account": inception_of(name)}
    mandate = read_mandate(file)
    whose = {"account": mandate.inception, "delegation": mandate.delegation}
    return {"key": load_key(name), "home": books, **whose}


def write_run_file(address: str, network: str) -> Path:
    """Tell `ainp2p find` and `ask` on this machine where this agent is; returns the file, to be removed."""
    path = Home.from_environment().run() / RUN_FILE
    partial = path.with_name(f".{RUN_FILE}.{os.getpid()}")
    partial.write_text(json.dumps({"address": address, "network": network, "pid": os.getpid()}))
    partial.replace(path)
    return path


def read_run_file() -> dict[str, Any]:
    """What `write_run_file` wrote.

    Raises:
        NetworkError: nothing serves on this machine, as far as is known.
    """
    path = Home.from_environment().run() / RUN_FILE
    try:
        found = json.loads(path.read_text())
        os.kill(int(found["pid"]), 0)
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise NetworkError(
            "no network: start `ainp2p serve …` here, or pass --bootstrap ADDRESS or --network FILE"
        ) from exc
    return dict(found)


def remove_run_file(path: Path) -> None:
    """Remove it, unless another agent has written it meanwhile."""
    try:
        if json.loads(path.read_text())["pid"] == os.getpid():
            path.unlink()
    except (OSError, ValueError, KeyError):
        return
