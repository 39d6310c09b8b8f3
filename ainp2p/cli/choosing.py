"""What many commands choose: a network by its genesis, a checkpoint to begin from, a key that is named."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ainp2p.cli.command import in_its_words
from ainp2p.errors import InvalidInput
from ainp2p.home import Home

if TYPE_CHECKING:
    from ainp2p.ledger.rules.genesis import Genesis

GENESIS_FILE = "genesis"


def add_network_option(parser: argparse.ArgumentParser) -> None:
    """The `--network` option of commands that need a genesis."""
    parser.add_argument(
        "--network", help="genesis file, or the beginning of a joined network's id; the only one if left out"
    )


def add_checkpoint_option(parser: argparse.ArgumentParser) -> None:
    """The `--checkpoint` option of commands that begin with nothing but a genesis."""
    parser.add_argument(
        "--checkpoint",
        type=in_its_words(_checkpoint),
        metavar="ID",
        help="ain:… id of a COMMITTEE that somebody you trust has told (`network status`): nothing is "
        "believed before a chain of committees with it is shown",
    )


def _checkpoint(text: str) -> bytes:
    from ainp2p.protocol.identity import id_from_text

    return id_from_text(text)


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


__all__ = ["GENESIS_FILE", "add_checkpoint_option", "add_network_option", "chosen_genesis", "public_key"]
