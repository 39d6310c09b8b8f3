"""The ledger over real libp2p: four validators and two wallets, each with its own host, in one process."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from ainp2p.agents.development import development_genesis
from ainp2p.ledger.rules.receipts import Payer
from ainp2p.ledger.serving.faucet import ask_purse
from ainp2p.ledger.serving.service import open_faucet, open_validator
from ainp2p.ledger.wallets.wallet import open_wallet
from ainp2p.protocol.libp2p import open_network

from .world import key_of


@pytest.mark.process
async def test_four_validators_over_libp2p_settle_what_was_streamed(tmp_path: Path) -> None:
    keys = [key_of(f"validator {i}") for i in range(4)]
    alice_key, bob_key = key_of("alice"), key_of("bob")
    with trio.fail_after(60):
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            hosts = [await enter(open_network(key)) for key in keys]
            seats = [(key, host.addresses) for key, host in zip(keys, hosts, strict=True)]
            genesis = development_genesis(seats, time.time_ns() // 1_000_000)
            services = [
                await enter(open_validator(host, genesis, key, tmp_path / str(i)))
                for i, (key, host) in enumerate(zip(keys, hosts, strict=True))
            ]
            await enter(open_faucet(hosts[0], genesis, keys[0], tmp_path / "faucet"))
            alice_host, bob_host = await enter(open_network(alice_key)), await enter(open_network(bob_key))
            alice = await enter(open_wallet(alice_host, genesis, alice_key, tmp_path / "alice"))
            bob = await enter(open_wallet(bob_host, genesis, bob_key, tmp_path / "bob"))
            alice_host.add_addresses(hosts[0].peer_id, hosts[0].addresses)
            purse = await ask_purse(alice_host, hosts[0].peer_id, alice.account_id)
            assert purse == await ask_purse(alice_host, hosts[0].peer_id, alice.account_id)
            await alice.refresh()
            assert (await alice.balance()).available == purse.amount == 1_000_000

            state = await alice.open_lock([(bob.account_id, 1)], bob_key.public, 10_000, 100, 600_000)
            await bob.lock(state.id)
            payer = Payer(genesis.network_id, state.lock, alice_key)
            for cumulative in range(100, 1_100, 100):
                await bob.accept(payer.sign(cumulative, cumulative, bytes(32)))
            settled = await bob.settle(state.id)
            assert settled.lock.paid == 1_000
            assert (await bob.balance()).available == 1_000
            ended = await bob.close(state.id)
            assert not ended.is_open

            while len({service.statistics().state_root for service in services}) > 1:  # noqa: ASYNC110
                await trio.sleep(0.05)
            for service in services:
                found = service.statistics()
                assert found.balances + found.credits + found.locks + found.burnt == genesis.supply
