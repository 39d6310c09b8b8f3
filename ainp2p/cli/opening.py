"""Opening the wallet of a key of ours for one command, and the files beside the key.

NAME.key         the account's current key, sealed (`ainp2p key new`)
NAME.inception   what the account was born with, if that is more than the key (`ainp2p wallet create`)
NAME.next        the next key, sealed: what `ainp2p wallet rotate` reveals
NAME.after       the key after that, while a rotation is under way
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ainp2p.cli import exit_codes
from ainp2p.cli.choosing import chosen_genesis, public_key
from ainp2p.cli.key import chosen_key, load_key
from ainp2p.cli.output import note
from ainp2p.errors import InvalidInput, StorageError
from ainp2p.home import Home

if TYPE_CHECKING:
    from ainp2p.ledger.rules.genesis import Genesis
    from ainp2p.ledger.rules.operations import Inception, Signer
    from ainp2p.ledger.wallets.delegation import Mandate
    from ainp2p.ledger.wallets.wallet import Wallet
    from ainp2p.protocol.network import Network

T = TypeVar("T")
Use = Callable[[argparse.Namespace, "Wallet"], Awaitable[None]]
ALLOWANCE = "allowance"  # `ainp2p.agents.session`
_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


class Watcher:
    """The public half of a key: enough to look, and nothing can be signed."""

    def __init__(self, public: bytes) -> None:
        self.public = public

    def sign(self, purpose: bytes, payload: bytes) -> bytes:
        """Refuse."""
        raise InvalidInput("this command only looks; it has not opened the key")


def beside_key(name: str, suffix: str) -> Path:
    """A file that belongs to the key called `name`; whether or not it exists."""
    return Home.from_environment().key_file(name).with_suffix(f".{suffix}")


def read_inception(path: Path) -> Inception:
    """What an account was born with.

    Raises:
        InvalidInput: no such file, or it is none.
    """
    from ainp2p.ledger.rules.operations import Inception

    return _read(path, Inception, "inception")


def read_mandate(path: Path) -> Mandate:
    """What `ainp2p wallet delegate` wrote.

    Raises:
        InvalidInput: no such file, or it is none.
    """
    from ainp2p.ledger.wallets.delegation import Mandate

    return _read(path, Mandate, "delegation")


def _read(path: Path, type_: type[T], what: str) -> T:
    from ainp2p.errors import Malformed
    from ainp2p.protocol.codec import decode

    try:
        return decode(path.read_bytes(), type_)
    except OSError as exc:
        raise InvalidInput(f"cannot read {path}: {exc.strerror}") from exc
    except Malformed as exc:
        raise InvalidInput(f"{path} is no {what}: {exc}") from exc


def inception_of(name: str) -> Inception:
    """The inception of the account of a key of ours: the plain one where no file says otherwise."""
    from ainp2p.ledger.rules.operations import plain_inception

    path = beside_key(name, "inception")
    return read_inception(path) if path.exists() else plain_inception(public_key(name))


def duration_ms(text: str) -> int:
    """Milliseconds of ``90s``, ``30m``, ``12h`` or ``7d``.

    Raises:
        InvalidInput: it is none.
    """
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS_MS or not (number.isascii() and number.isdigit()):
        raise InvalidInput(f"{text!r} is no duration: write 90s, 30m, 12h or 7d")
    return int(number) * _UNITS_MS[unit]


def account_from(word: str, genesis: Genesis) -> bytes:
    """The account behind an id, or that of a key."""
    from ainp2p.ledger.rules.operations import account_id, plain_inception
    from ainp2p.protocol.identity import id_from_text

    if word.startswith("ain:"):
        return id_from_text(word)
    if not word.startswith(("did:", "12D3KooW")):
        return account_id(genesis.network_id, inception_of(word))
    return account_id(genesis.network_id, plain_inception(public_key(word)))


def run_with_wallet(
    args: argparse.Namespace,
    use: Use,
    *,
    signs: bool = False,
    other_keys: Sequence[Signer] = (),
    watchtowers: Sequence[str] = (),
) -> int:
    """Open the wallet of `args.key` on `args.network`, do one thing with it, close it; the exit status."""
    import trio

    name = chosen_key(args.key)
    signer = load_key(name) if signs else Watcher(public_key(name))
    genesis = chosen_genesis(args.network)
    options = {
        "inception": inception_of(name),
        "other_keys": other_keys,
        "watchtowers": watchtowers,
        "checkpoint": getattr(args, "checkpoint", None),
    }
    trio.run(_with_wallet, args, genesis, name, signer, use, options)
    return exit_codes.OK


async def _with_wallet(
    args: argparse.Namespace, genesis: Genesis, name: str, signer: Any, use: Use, options: dict[str, Any]
) -> None:
    directory = _books(genesis, name)
    async with open_passing_network() as network:
        async with _opened(args, network, genesis, signer, directory, options) as wallet:
            await use(args, wallet)


def _books(genesis: Genesis, name: str) -> Path:
    """The agent's own books: two journals for one account could sign twice for one slot.

    Of a key that an agent has run on under a delegation, `wallet` is of the account that has delegated.
    """
    books = Home.from_environment().network(genesis.network_id) / "agents" / name
    return books / ALLOWANCE if (books / ALLOWANCE).is_dir() else books / "wallet"


@asynccontextmanager
async def open_passing_network() -> AsyncIterator[Network]:
    """A network for one command, under a key that nobody will see again."""
    from ainp2p.protocol.context import Context
    from ainp2p.protocol.identity import Key
    from ainp2p.protocol.libp2p import open_network

    async with open_network(Key(Context.system().token_bytes(32)), ()) as network:
        yield network


@asynccontextmanager
async def _opened(
    args: argparse.Namespace,
    network: Network,
    genesis: Genesis,
    signer: Any,
    directory: Path,
    options: dict[str, Any],
) -> AsyncIterator[Wallet]:
    from ainp2p.ledger.wallets.settling import SettlePolicy
    from ainp2p.ledger.wallets.wallet import open_wallet

    # A look changes nothing.
    quiet = SettlePolicy(threshold=2**62, interval_ms=2**62, refund=False, at_close_s=0, heartbeat=False)
    async with AsyncExitStack() as stack:
        try:
            opening = open_wallet(network, genesis, signer, directory, policy=quiet, **options)
            wallet = await stack.enter_async_context(opening)
        except StorageError as exc:
            if not isinstance(signer, Watcher) or "in use" not in str(exc):
                raise
            note(args, "the agent of this key is running: without its journal, receipts are not shown")
            opening = open_wallet(network, genesis, signer, None, policy=quiet, **options)
            wallet = await stack.enter_async_context(opening)
        yield wallet
