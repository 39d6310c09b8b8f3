"""Only the ledger: a committee of four, two wallets, a payment, and a proof that needs no network.

Everything runs in this process on the in-memory network, with real votes and real signatures.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

import trio

from ainp2p.ledger.rules.amounts import ain_text
from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.rules.genesis import DEVELOPMENT, new_genesis
from ainp2p.ledger.rules.operations import plain_inception
from ainp2p.ledger.serving.service import open_validator
from ainp2p.ledger.voting.certificate import verify_certificate
from ainp2p.ledger.wallets.wallet import open_wallet
from ainp2p.protocol.identity import Key, id_text
from ainp2p.protocol.memory import EPOCH_MS, MemoryHub, open_memory_network

ALICE, BOB = Key(b"a" * 32), Key(b"b" * 32)
VALIDATORS = [Key(bytes([number]) * 32) for number in range(4)]


async def main() -> None:
    hub = MemoryHub(seed=7)
    async with AsyncExitStack() as stack:
        networks = [
            await stack.enter_async_context(open_memory_network(hub, key))
            for key in (*VALIDATORS, ALICE, BOB)
        ]
        genesis = new_genesis(
            "example",
            EPOCH_MS,
            [(key.public, 1, network.addresses) for key, network in zip(VALIDATORS, networks, strict=False)],
            [(plain_inception(ALICE.public), 1_000_000)],
            faucet=None,
            parameters=DEVELOPMENT,
        )
        for network in networks:
            for member, key in zip(
                genesis.validators, sorted(VALIDATORS, key=lambda k: k.public), strict=True
            ):
                network.add_addresses(key.peer_id, tuple(address.decode() for address in member.addresses))
        validators = [
            await stack.enter_async_context(open_validator(network, genesis, key, directory=None))
            for key, network in zip(VALIDATORS, networks, strict=False)
        ]
        alice, bob = [
            await stack.enter_async_context(open_wallet(network, genesis, key, directory=None))
            for key, network in zip((ALICE, BOB), networks[4:], strict=True)
        ]
        final = await alice.send(bob.account_id, 250_000)
        print(f"final: {id_text(final.operation)}, proved by {len(final.certificate)} bytes")

        # Anybody who has the genesis can check the proof, offline.
        proved = verify_certificate(final.certificate, Committee.of(genesis), 0, genesis.network_id)
        assert proved == final.operation

        await bob.refresh()
        for name, wallet in (("alice", alice), ("bob", bob)):
            print(f"{name} has {ain_text((await wallet.balance()).available)}")
        for number, validator in enumerate(validators):
            each = validator.statistics()
            supply = each.balances + each.credits + each.locks + each.burnt
            print(f"validator {number}: supply {supply} uain, {each.burnt} of them burnt as fees")


if __name__ == "__main__":
    trio.run(main)
