"""A wallet whose key is in a vault, on a real committee (in memory): the policy holds on the ledger too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from ainp2p.agents.policy import Policy
from ainp2p.agents.vault import Vault, open_vault
from ainp2p.errors import BudgetExceeded, PolicyRefused
from ainp2p.ledger.wallets.wallet import Wallet, open_wallet
from ainp2p.protocol.storage import INLINE
from tests.ledger.town import LIFE_MS, PURSE, QUIET, Town, open_town
from tests.ledger.world import key_of

POLICY = Policy(per_job=500, per_hour=1000, per_lock=5000)
FEE = 1


@asynccontextmanager
async def alice_with_a_vault(town: Town, policy: Policy = POLICY) -> AsyncIterator[tuple[Wallet, Vault]]:
    key = key_of("alice")
    async with (
        town.network(key) as network,
        open_vault(key, policy, None, network.context) as vault,
        open_wallet(
            network, town.genesis, vault.wallet_signer(), None, policy=QUIET, storage=INLINE
        ) as wallet,
    ):
        yield wallet, vault


async def test_a_payment_within_the_policy_goes_out_and_is_counted(autojump_clock: object) -> None:
    async with open_town() as town, alice_with_a_vault(town) as (alice, vault):
        await alice.send(town.account("bob"), 400)
        await alice.send(town.account("carol"), 400)
        assert (await alice.balance()).available == PURSE - 800 - 2 * FEE
        assert vault.committed == 0
        with pytest.raises(BudgetExceeded) as caught:
            await alice.send(town.account("bob"), 400)
        assert caught.value.rule == "per_hour"


async def test_a_payment_above_the_policy_is_not_signed(autojump_clock: object) -> None:
    async with open_town() as town, alice_with_a_vault(town) as (alice, vault):
        with pytest.raises(BudgetExceeded) as caught:
            await alice.send(town.account("bob"), 501)
        assert caught.value.rule == "per_job"
        with pytest.raises(BudgetExceeded, match="per_lock"):
            await alice.open_lock([(town.account("bob"), 1)], key_of("bob").public, 5001, 10, LIFE_MS)
        assert (await alice.balance()).available == PURSE
        assert vault.committed == 0
        await alice.send(town.account("bob"), 500)  # the refusals left the account usable


async def test_after_a_stop_nothing_leaves_the_account(autojump_clock: object) -> None:
    async with open_town() as town, alice_with_a_vault(town) as (alice, vault):
        await vault.stop()
        with pytest.raises(PolicyRefused, match="stopped"):
            await alice.send(town.account("bob"), 1)
        await vault.reset()
        await alice.send(town.account("bob"), 1)


async def test_a_job_is_paid_by_receipts_that_settle(autojump_clock: object) -> None:
    async with open_town() as town, alice_with_a_vault(town) as (alice, vault), town.wallet("bob") as bob:
        state = await alice.open_lock([(bob.account_id, 1)], key_of("bob").public, 5000, 100, LIFE_MS)
        await vault.use_lock(town.network_id, state.lock)
        await bob.lock(state.id)
        await vault.reserve(b"job", bob.account_id, 300)
        for number in range(1, 6):
            receipt = vault.sign_receipt(b"job", state.id, 50, 5, bytes([number]) * 32)
            assert (await bob.accept(receipt)).gained == 50
        assert vault.settle(b"job") == 50
        await bob.settle(state.id)
        await bob.close(state.id)
        for wallet in (alice, bob):
            assert not (await wallet.lock(state.id)).is_open
        assert (await bob.balance()).total == PURSE + 250
        await town.until_equal(3)
