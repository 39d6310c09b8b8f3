"""Epochs that end over real libp2p, in real time: a fifth validator gets its seat, wallets go on."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest
import trio

from ainp2p.ledger.rules.genesis import DEVELOPMENT, new_genesis
from ainp2p.ledger.rules.operations import BOND, plain_inception
from ainp2p.ledger.serving.service import ValidatorService, open_validator
from ainp2p.ledger.wallets.wallet import open_wallet
from ainp2p.protocol.libp2p import open_network

from .world import key_of

EPOCH_MS = 9_000
PARAMETERS = msgspec.structs.replace(DEVELOPMENT, epoch_ms=EPOCH_MS, gate_hold_ms=300, gate_contact_ms=500)
PURSE = 10**9


async def until_epoch(epoch: int, services: list[ValidatorService]) -> None:
    while not all(service.epoch >= epoch and service.voting for service in services):  # noqa: ASYNC110
        await trio.sleep(0.05)


@pytest.mark.process
async def test_a_fifth_validator_gets_its_seat_over_libp2p_and_a_wallet_goes_on(tmp_path: Path) -> None:
    keys = [key_of(f"validator {i}") for i in range(5)]
    alice_key, bob_key = key_of("alice"), key_of("bob")
    with trio.fail_after(38):
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            hosts = [await enter(open_network(key)) for key in keys]
            seats = [(key.public, 1, host.addresses) for key, host in zip(keys[:4], hosts, strict=False)]
            money = [(plain_inception(alice_key.public), 3 * PURSE), (plain_inception(bob_key.public), PURSE)]
            genesis = new_genesis("short", time.time_ns() // 1_000_000, seats, money, None, PARAMETERS)
            services = [
                await enter(open_validator(host, genesis, key, tmp_path / str(i), follow=i == 4))
                for i, (key, host) in enumerate(zip(keys, hosts, strict=True))
            ]
            alice_host, bob_host = await enter(open_network(alice_key)), await enter(open_network(bob_key))
            alice = await enter(open_wallet(alice_host, genesis, alice_key, tmp_path / "alice"))
            bond = await alice.open_lock(
                [(alice.account_id, 1)],
                keys[4].public,
                PURSE,
                PURSE,
                600_000,
                BOND,
                authority=(genesis.network_id,),
            )
            assert not services[4].seated
            await until_epoch(1, services)
            assert services[4].seated
            # A wallet that starts from nothing, and knows the fifth only by what the COMMITTEE says.
            bob = await enter(open_wallet(bob_host, genesis, bob_key, tmp_path / "bob"))
            await alice.send(bob.account_id, 5, timeout_s=10)
            await bob.send(alice.account_id, 7, timeout_s=10)
            assert [len(wallet.epoch.seats) for wallet in (alice, bob)] == [5, 5]
            assert bob.account.epoch >= 1  # a busy machine may have begun the next one
            assert hosts[4].peer_id in bob_host.known_addresses
            assert (await bob.lock(bond.id)).is_open
