"""Escrow, bounties and splits by wallets, on the in-memory network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ainp2p.errors import InvalidInput, InvalidReceipt
from ainp2p.ledger.rules.locks import ANY_PAYEE
from ainp2p.ledger.rules.shares import dust
from ainp2p.ledger.wallets.purse import Purse
from ainp2p.ledger.wallets.wallet import LockState, Wallet

from .town import LIFE_MS, PURSE, open_town
from .wallets.test_wallet import until_available
from .world import key_of

JUDGES = ("judge 1", "judge 2", "judge 3")
NAMES = ("alice", "bob", "carol", *JUDGES)
FEE = 1 + 1_000 // 10 + 2


async def escrow(alice: Wallet, payee: bytes) -> LockState:
    """1,000 uain, released by two of three judges; nobody may end it early."""
    keys = [key_of(name).public for name in JUDGES]
    return await alice.open_lock([(payee, 1)], bytes(32), 1_000, 10, LIFE_MS, authority=keys, threshold=2)


async def test_an_escrow_is_settled_by_anybody_once_two_of_three_have_signed(autojump_clock: Any) -> None:
    async with (
        open_town(names=NAMES) as town,
        town.wallet("alice") as alice,
        town.wallet("bob") as bob,
        town.wallet("carol") as carol,
        town.wallet("judge 1") as first,
        town.wallet("judge 2") as second,
    ):
        lock = (await escrow(alice, bob.account_id)).id
        assert await carol.add_release(await first.sign_release(lock, 700), lock) is None
        with pytest.raises(InvalidReceipt):
            await carol.settle(lock)  # one judge is none
        assert await carol.add_release(await second.sign_release(lock, 700), lock) is not None
        state = await carol.settle(lock)
        assert (state.lock.paid, state.is_open) == (700, True)
        assert carol.unsettled(lock) == 0
        await until_available(bob, PURSE + 700)


async def test_parts_of_a_release_survive_a_restart(autojump_clock: Any, tmp_path: Path) -> None:
    async with open_town(names=NAMES) as town, town.wallet("alice") as alice:
        async with town.wallet("judge 1") as judge, town.wallet("bob", directory=tmp_path) as bob:
            lock = (await escrow(alice, bob.account_id)).id
            await bob.add_release(await judge.sign_release(lock, 700), lock)
        async with town.wallet("judge 2") as judge, town.wallet("bob", directory=tmp_path) as bob:
            await bob.add_release(await judge.sign_release(lock, 700), lock)
            assert (await bob.balance()).owed == 700
            await bob.settle_all()
            await until_available(bob, PURSE + 700)


async def bounty_for_carol(town: Any) -> int:
    """What carol, who never heard of the bounty, has in the end."""
    async with (
        town.wallet("alice") as alice,
        town.wallet("carol") as carol,
        town.wallet("judge 1") as first,
        town.wallet("judge 3") as third,
    ):
        await carol.balance()
        lock = (await escrow(alice, ANY_PAYEE)).id
        for judge in (first, third):
            part = await judge.sign_release(lock, 1_000, payee=carol.account_id)
            await alice.add_release(part, lock)
        await alice.settle(lock)
        await carol.refresh()
        assert (await alice.balance()).available == PURSE - 1_000 - FEE
        return int((await carol.balance()).available)


async def test_a_bounty_reaches_a_payee_who_never_heard_of_it(autojump_clock: Any) -> None:
    async with open_town(names=NAMES) as town:
        assert await bounty_for_carol(town) == PURSE + 1_000


async def test_a_payee_of_a_bounty_that_follows_hears_of_it(autojump_clock: Any) -> None:
    async with (
        open_town(names=NAMES) as town,
        town.wallet("alice") as alice,
        town.wallet("carol") as carol,
        town.wallet("judge 1") as first,
        town.wallet("judge 3") as third,
    ):
        await carol.balance()
        lock = (await escrow(alice, ANY_PAYEE)).id
        for judge in (first, third):
            await alice.add_release(await judge.sign_release(lock, 400, payee=carol.account_id), lock)
        await alice.settle(lock)
        await until_available(carol, PURSE + 400)


async def test_a_split_of_splits_is_paid_at_settlement(autojump_clock: Any) -> None:
    async with (
        open_town() as town,
        town.wallet("alice") as alice,
        town.wallet("bob") as bob,
        town.wallet("carol") as carol,
    ):
        split: Any = [(bob.account_id, 1), ([(carol.account_id, 2), (alice.account_id, 1)], 2)]
        state = await alice.open_lock(split, key_of("bob").public, 1_000, 10, LIFE_MS)
        assert sum(share.parts for share in state.lock.beneficiaries) == 9
        from .wallets.test_wallet import CONTEXT, payer

        await bob.lock(state.id)
        await bob.accept(payer(town, state).sign(100, 1, CONTEXT))
        settled = await bob.settle(state.id)
        await until_available(bob, PURSE + 33)
        await until_available(carol, PURSE + 44)
        assert dust(settled.lock) == 100 - 33 - 44 - 22
        ended = await bob.close(state.id)
        assert not ended.is_open
        await town.until_equal(3)  # nothing was made or lost


async def test_a_split_that_is_too_wide_is_refused_before_anything_is_signed(autojump_clock: Any) -> None:
    async with open_town() as town, town.wallet("alice") as alice:
        wide: list[Any] = [(bytes([n]) * 32, 1) for n in range(1, 18)]
        with pytest.raises(InvalidInput):
            await alice.open_lock(wide, key_of("bob").public, 1_000, 10, LIFE_MS)
        assert len(await alice.history()) == 0


def test_purses_know_that_a_bounty_names_them() -> None:
    from ainp2p.ledger.rules.operations import parse, plain_inception
    from ainp2p.ledger.rules.receipts import settle_operation

    from .rules.test_releases import JUDGES as ALL
    from .rules.test_releases import bounty, signed_by
    from .world import World

    world = World()
    lock = bounty(world)
    carol = plain_inception(key_of("carol").public)
    purse = Purse(world.genesis, world.network, carol, key_of("carol").public)
    release = signed_by(world, lock, ALL[:2], 400, payee=purse.id)
    assert release is not None
    assert purse.apply(parse(settle_operation(lock, release))).gap == purse.id
