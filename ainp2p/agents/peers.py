"""Peers that an agent has met, kept for its next start: all whom it bootstrapped from may be gone by then.

A file of JSON in the agent's home, peer id to addresses; one that ends in ``/p2p/`` ends in that id, which is
half of most addresses and not written twice. It is a hint: what is in it was never checked,
whoever answers there proves its peer id, and a file that cannot be read is begun anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import trio

from ainp2p.errors import Error, InvalidInput
from ainp2p.protocol.background import background
from ainp2p.protocol.identity import public_from_peer_id
from ainp2p.protocol.network import Network, PeerId
from ainp2p.protocol.storage import FILES, Storage

SAVE_S = 60.0  # what is lost if the process is killed
SAVE_QUIET_S = 3600.0  # the same, where nothing has changed for long
PEERS_MAX = 256
DIALLED = 4  # at the start, beside the bootstrap peers: those connected last time come first
ADDRESSES_MAX = 8  # of each peer
ADDRESS_SIZE_MAX = 256  # characters
FILE_SIZE_MAX = 1 << 20

_P2P = "/p2p/"
_log = logging.getLogger(__name__)
Peers = dict[PeerId, tuple[str, ...]]


@asynccontextmanager
async def remembered_peers(network: Network, path: Path) -> AsyncIterator[None]:
    """Give the network the peers in this file, dial a few, and keep the file up to date within the block."""
    storage = network.context.storage
    met = await storage.run(lambda: read_peers(path, storage))
    for peer, addresses in met.items():
        network.add_addresses(peer, addresses)
    async with background() as nursery:
        for peer in list(met)[:DIALLED]:
            nursery.start_soon(_greet, network, met[peer])
        nursery.start_soon(_save_forever, network, path)
        try:
            yield
        finally:
            write_peers(path, chosen_peers(network), storage)


def chosen_peers(network: Network) -> Peers:
    """Whom to remember: those connected now, then others, the ones heard of last first."""
    known, connected = network.known_addresses, network.peers()
    order = dict.fromkeys([*(peer for peer in connected if peer in known), *reversed(list(known))])
    sound = {
        peer: tuple(filter(_is_address, known[peer]))[:ADDRESSES_MAX] for peer in list(order)[:PEERS_MAX]
    }
    return {peer: addresses for peer, addresses in sound.items() if addresses}


def read_peers(path: Path, storage: Storage = FILES) -> Peers:
    """What `write_peers` wrote; nothing, if that cannot be read."""
    try:
        raw = storage.read(path)
        if raw is None:
            return {}
        if len(raw) > FILE_SIZE_MAX:
            raise ValueError("too large")
        found = json.loads(raw)
        return dict(map(_checked, list(found.items())[:PEERS_MAX]))
    except (OSError, ValueError, AttributeError, TypeError, RecursionError, InvalidInput) as exc:
        _log.warning("%s cannot be read and is begun anew: %s", path, exc)
        return {}


def _checked(entry: tuple[Any, Any]) -> tuple[PeerId, tuple[str, ...]]:
    peer, addresses = entry
    public_from_peer_id(peer)
    if not isinstance(addresses, list) or not all(map(_is_address, addresses)):
        raise ValueError("not an address")
    if not addresses:
        raise ValueError("no address")
    return peer, tuple(a + peer if a.endswith(_P2P) else a for a in addresses[:ADDRESSES_MAX])


def _is_address(address: object) -> bool:
    """What one peer says of another may be anything, and is not to make us forget all of them."""
    return isinstance(address, str) and len(address) <= ADDRESS_SIZE_MAX and address.isascii()


def write_peers(path: Path, peers: Peers, storage: Storage = FILES) -> None:
    """Write all or nothing; a disk that refuses costs the memory of peers, and no more."""
    try:
        storage.write(path, _encoded(peers))
    except OSError as exc:
        _log.warning("%s cannot be written: %s", path, exc)


def _mark(peers: Peers) -> bytes:
    """The same for the same peers, in whatever order they were heard of last."""
    return hashlib.blake2b(_encoded(dict(sorted(peers.items()))), digest_size=16).digest()


def _encoded(peers: Peers) -> bytes:
    short = {
        peer: [a.removesuffix(peer) if a.endswith(_P2P + peer) else a for a in addresses]
        for peer, addresses in peers.items()
    }
    return json.dumps(short, separators=(",", ":")).encode()


async def _greet(network: Network, addresses: tuple[str, ...]) -> None:
    with suppress(Error):  # gone: others have its address from gossip, if it has moved
        await network.connect(addresses[0])


async def _save_forever(network: Network, path: Path) -> None:
    saved = b""  # of what was written last; all of it would be some KB for as long as the agent runs
    storage, pause_s = network.context.storage, SAVE_S
    while True:
        await trio.sleep(pause_s)
        peers = chosen_peers(network)
        found = _mark(peers)
        if found != saved:
            await storage.run(partial(write_peers, path, peers, storage))
            saved, pause_s = found, SAVE_S
        else:
            pause_s = min(4 * pause_s, SAVE_QUIET_S)
        del peers
