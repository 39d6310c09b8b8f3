"""A development network: a genesis with a faucet, and a committee of four in the founder's own process.

Whoever bootstraps from a member learns the genesis by `ask_genesis` and gets a purse. Everything that
prints its name says that it is a development network: its money is handed out for nothing, and it ends
with its founder.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from ainp2p.errors import InvalidInput, NetworkError, RemoteError
from ainp2p.ledger.rules.genesis import (
    DEVELOPMENT,
    DEVELOPMENT_PURSE,
    DEVELOPMENT_SUPPLY,
    Faucet,
    Genesis,
    Parameters,
    new_genesis,
)
from ainp2p.ledger.rules.operations import plain_inception
from ainp2p.protocol.codec import encode
from ainp2p.protocol.context import Context
from ainp2p.protocol.identity import Key, peer_id
from ainp2p.protocol.network import Call, Handler, Network, PeerId

GENESIS_PROTOCOL = "/ainp2p/genesis/1"  # an empty request is answered with the genesis' bytes
COMMITTEE_SIZE = 4  # the least that survives one fault
NAME = "development"

Transport = Callable[[Key], AbstractAsyncContextManager[Network]]
"""Opens a Network under a key: real sockets, or a simulation's."""


@dataclass(frozen=True, slots=True)
class Seat:
    """One member of the first committee: its key, and where its data lives (None: nowhere)."""

    key: Key
    directory: Path | None


def committee_seats(context: Context, directory: Path | None, size: int = COMMITTEE_SIZE) -> list[Seat]:
    """Fresh keys for a committee; the first one's account is also the faucet."""
    keys = [Key(context.token_bytes(32)) for _ in range(size)]
    return [Seat(key, directory / f"validator-{i}" if directory else None) for i, key in enumerate(keys)]


def development_genesis(
    seats: list[tuple[Key, tuple[str, ...]]], created_ms: int, parameters: Parameters = DEVELOPMENT
) -> Genesis:
    """The genesis of a development network whose committee has these keys and addresses."""
    faucet = seats[0][0].public
    return new_genesis(
        NAME,
        created_ms,
        [(key.public, 1, addresses) for key, addresses in seats],
        [(plain_inception(faucet), DEVELOPMENT_SUPPLY)],
        Faucet(faucet, DEVELOPMENT_PURSE),
        parameters,
    )


@asynccontextmanager
async def open_development(
    transport: Transport, context: Context, directory: Path | None = None
) -> AsyncIterator[Genesis]:
    """Found a development network and run its committee and faucet until the block ends."""
    from ainp2p.ledger.serving.faucet import open_faucet  # the founder needs these, others do not
    from ainp2p.ledger.serving.service import open_validator

    seats = committee_seats(context, directory)
    async with AsyncExitStack() as stack:
        networks = [await stack.enter_async_context(transport(seat.key)) for seat in seats]
        where = [(seat.key, network.addresses) for seat, network in zip(seats, networks, strict=True)]
        genesis = development_genesis(where, context.now_ms())
        for seat, network in zip(seats, networks, strict=True):
            network.serve(GENESIS_PROTOCOL, genesis_handler(genesis))
            await stack.enter_async_context(open_validator(network, genesis, seat.key, seat.directory))
        await stack.enter_async_context(open_faucet(networks[0], genesis, seats[0].key, seats[0].directory))
        yield genesis


def genesis_handler(genesis: Genesis) -> Handler:
    """A handler of GENESIS_PROTOCOL that hands out `genesis`."""
    raw = encode(genesis)

    async def handle(call: Call) -> bytes:
        return raw

    return handle


async def ask_genesis(network: Network, peers: list[PeerId]) -> Genesis:
    """The genesis of the network that these peers are on, asked one after the other.

    Only a development network's is believed: a real network's genesis is given by the user, since
    whoever names the committee decides what counts as money.

    Raises:
        NetworkError: none of them answered.
        InvalidInput: they are on a real network; pass its genesis file as `network=`.
    """
    problems = []
    for peer in peers:
        try:
            genesis = Genesis.from_bytes(await network.request(peer, GENESIS_PROTOCOL, b""))
        except (NetworkError, RemoteError, InvalidInput) as exc:
            problems.append(f"{peer}: {exc}")
            continue
        if not genesis.is_development:
            name = genesis.name.decode(errors="replace")
            raise InvalidInput(
                f"{peer} is on {name!r}, which is no development network: pass its genesis file as network="
            )
        return genesis
    raise NetworkError("no bootstrap peer told its genesis: " + "; ".join(problems or ["none was given"]))


def faucet_peer(genesis: Genesis) -> tuple[PeerId, tuple[str, ...]] | None:
    """Who hands out purses on this network and where it can be dialled; None on a real network."""
    if genesis.faucet is None:
        return None
    member = next((m for m in genesis.validators if m.key == genesis.faucet.key), None)
    addresses = tuple(a.decode() for a in member.addresses) if member else ()
    return peer_id(genesis.faucet.key), addresses
