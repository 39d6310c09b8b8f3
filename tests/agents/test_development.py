"""A development network: founded, joined, recognised as one."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio.testing

from ainp2p.agents.agent import Agent
from ainp2p.agents.development import (
    COMMITTEE_SIZE,
    GENESIS_PROTOCOL,
    ask_genesis,
    committee_seats,
    development_genesis,
    faucet_peer,
    genesis_handler,
    open_development,
)
from ainp2p.errors import InvalidInput, NetworkError
from ainp2p.ledger.rules.genesis import PRODUCTION, Genesis, new_genesis
from ainp2p.ledger.rules.operations import plain_inception
from ainp2p.protocol.codec import encode
from ainp2p.protocol.identity import Key, peer_id
from ainp2p.protocol.memory import MemoryHub, open_memory_network
from ainp2p.protocol.network import Call

Clock = trio.testing.MockClock
ALICE, BOB = Key(b"a" * 32), Key(b"b" * 32)


def real_genesis() -> Genesis:
    inception = plain_inception(ALICE.public)
    return new_genesis("real", 1, [(ALICE.public, 1, [])], [(inception, 1000)], None, PRODUCTION)


async def test_a_committee_of_four_runs_in_the_founders_process(autojump_clock: Clock) -> None:
    hub = MemoryHub(0)
    context = hub.context("founder")
    async with open_development(lambda key: open_memory_network(hub, key), context) as genesis:
        assert (len(genesis.validators), genesis.is_development) == (COMMITTEE_SIZE, True)
        assert genesis.name == b"development"
        found = faucet_peer(genesis)
        assert found is not None
        peer, addresses = found
        async with open_memory_network(hub, BOB) as network:
            network.add_addresses(peer, addresses)
            assert await ask_genesis(network, [peer]) == genesis


def test_the_first_seat_is_the_faucets_too(tmp_path: Path) -> None:
    context = MemoryHub(0).context("founder")
    seats = committee_seats(context, tmp_path)
    assert [seat.directory for seat in seats] == [tmp_path / f"validator-{i}" for i in range(4)]
    genesis = development_genesis([(seat.key, ("/memory/1",)) for seat in seats], 5)
    assert faucet_peer(genesis) == (peer_id(seats[0].key.public), ("/memory/1",))
    assert faucet_peer(real_genesis()) is None


async def test_a_real_networks_genesis_is_not_believed_from_a_peer(autojump_clock: Clock) -> None:
    hub = MemoryHub(0)
    async with open_memory_network(hub, ALICE) as alice, open_memory_network(hub, BOB) as bob:
        alice.serve(GENESIS_PROTOCOL, genesis_handler(real_genesis()))
        await bob.connect(alice.addresses[0])
        with pytest.raises(InvalidInput, match="pass its genesis file as network="):
            await ask_genesis(bob, [alice.peer_id])


async def test_peers_that_say_nothing_or_nonsense_are_named(autojump_clock: Clock) -> None:
    async def nonsense(call: Call) -> bytes:
        return encode([1, 2, 3])

    hub = MemoryHub(0)
    async with AsyncExitStack() as stack:
        alice = await stack.enter_async_context(open_memory_network(hub, ALICE))
        bob = await stack.enter_async_context(open_memory_network(hub, BOB))
        alice.serve(GENESIS_PROTOCOL, nonsense)
        await bob.connect(alice.addresses[0])
        with pytest.raises(NetworkError, match="no bootstrap peer told its genesis") as told:
            await ask_genesis(bob, [alice.peer_id, Key(b"c" * 32).peer_id])
        assert alice.peer_id in str(told.value)
        with pytest.raises(NetworkError, match="none was given"):
            await ask_genesis(bob, [])


async def test_an_agent_without_a_key_stays_off_real_networks(autojump_clock: Clock, tmp_path: Path) -> None:
    hub = MemoryHub(0)
    agent = Agent("bob", network=real_genesis(), transport=lambda key: open_memory_network(hub, key))
    with pytest.raises(InvalidInput, match="on the network 'real' an agent needs a key of its own"):
        await agent.__aenter__()
    assert hub._networks == {}
