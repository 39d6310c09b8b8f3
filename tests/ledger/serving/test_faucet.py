"""A faucet beside a validator: nobody can ask itself, and a committee may be of one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from ainp2p.agents.development import development_genesis
from ainp2p.errors import TimedOut
from ainp2p.ledger.serving.faucet import ask_purse, is_alone, open_faucet
from ainp2p.ledger.serving.service import open_validator
from ainp2p.protocol.identity import Key
from ainp2p.protocol.memory import EPOCH_MS, MemoryHub, MemoryNetwork, open_memory_network
from ainp2p.protocol.storage import INLINE

from ..test_wallet_faults import run

KEYS = tuple(Key(bytes([n]) * 32) for n in range(1, 8))
ACCOUNT = b"a" * 32


@asynccontextmanager
async def committee(size: int, apart: bool) -> AsyncIterator[MemoryNetwork]:
    """Validators, the first of which has the faucet beside it, as `ainp2p network validate` runs them.

    Args:
        apart: the faucet's wallet may ask on another network.
    """
    hub = MemoryHub(0)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        networks = [await enter(open_memory_network(hub, key)) for key in KEYS[:size]]
        where = [(key, network.addresses) for key, network in zip(KEYS, networks, strict=False)]
        genesis = development_genesis(where, EPOCH_MS)
        for key, network in zip(KEYS, networks, strict=False):
            await enter(open_validator(network, genesis, key, None, storage=INLINE))
        asking = None
        if apart and is_alone(genesis, KEYS[0]):
            asking = await enter(open_memory_network(hub, KEYS[5]))
        await enter(open_faucet(networks[0], genesis, KEYS[0], None, asking=asking, storage=INLINE))
        stranger = await enter(open_memory_network(hub, KEYS[6]))
        stranger.add_addresses(networks[0].peer_id, networks[0].addresses)
        yield stranger


async def purse(size: int, apart: bool) -> float:
    """How long it takes to get one, in seconds."""
    async with committee(size, apart) as stranger:
        began = trio.current_time()
        await ask_purse(stranger, KEYS[0].peer_id, ACCOUNT)
        return trio.current_time() - began


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_a_faucet_beside_a_validator_pays_however_small_the_committee(size: int) -> None:
    assert run(purse, size, True) < 5


def test_mutant_a_faucet_that_can_only_ask_others_pays_nobody_where_there_are_none() -> None:
    with pytest.raises(TimedOut):
        run(purse, 1, False)


def test_only_one_that_is_the_whole_committee_is_alone() -> None:
    for size in (1, 2):
        genesis = development_genesis([(key, ()) for key in KEYS[:size]], EPOCH_MS)
        assert is_alone(genesis, KEYS[0]) == (size == 1)
        assert not is_alone(genesis, KEYS[6])
