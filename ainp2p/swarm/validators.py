"""A validator's process: it tells its address, gets the genesis, votes, and passes cards on."""

from __future__ import annotations

import os

import trio

from ainp2p.agents.directory import open_directory
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.serving.service import open_validator
from ainp2p.protocol.identity import Key, peer_id
from ainp2p.protocol.libp2p import Libp2pNetwork, open_network
from ainp2p.protocol.network import PeerId
from ainp2p.swarm import events as ev
from ainp2p.swarm.line import Line
from ainp2p.swarm.process import Serve
from ainp2p.swarm.spec import Spec


def validator(spec: Spec, name: str, key: Key, told: int, genesis: int) -> Serve:
    """What a validator's process does.

    Args:
        told: descriptor to which its addresses are written, a line each.
        genesis: descriptor from which the genesis is read, to its end.
    """

    async def serve(line: Line) -> None:
        async with open_network(key) as network:
            os.write(told, "\n".join(network.addresses).encode() + b"\n\n")
            os.close(told)
            raw = await _read_all(genesis)
            if not raw:
                return  # the creator is dead; there will be no network
            await _vote(spec, name, key, Genesis.from_bytes(raw), network, line)

    return serve


async def _vote(
    spec: Spec, name: str, key: Key, genesis: Genesis, network: Libp2pNetwork, line: Line
) -> None:
    home = spec.home(name)
    async with (
        open_validator(network, genesis, key, home) as service,
        # Agents that know only us find one another.
        open_directory(network, genesis.network_id, key, look_up=service.account_of),
    ):
        now_ms = network.context.now_ms
        line.say(
            ev.PeerUp(at_ms=now_ms(), name=name, role="validator", peer=network.peer_id, pid=os.getpid())
        )
        await line.stop.wait()
        await _until_alone(network, genesis)


async def _until_alone(network: Libp2pNetwork, genesis: Genesis) -> None:
    """Outlive those who still settle: until nobody but other validators is connected."""
    members: set[PeerId] = {peer_id(member.key) for member in genesis.validators}
    async with network.watch_peers() as changes:
        strangers = set(network.peers()) - members
        if not strangers:
            return
        async for _ in changes:
            if not set(network.peers()) - members:
                return


async def _read_all(descriptor: int) -> bytes:
    data = b""
    async with trio.lowlevel.FdStream(descriptor) as stream:
        while piece := await stream.receive_some():
            data += piece
    return data
