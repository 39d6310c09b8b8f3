"""RELIABILITY A5: payer or payee vanish; a watchtower without a key settles in time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from ainp2p.errors import Refused
from ainp2p.ledger.rules.receipts import Release
from ainp2p.ledger.wallets import watching, watchtower
from ainp2p.ledger.wallets.handing import ask_watched, hand_to
from ainp2p.ledger.wallets.settling import SettlePolicy
from ainp2p.ledger.wallets.wallet import LockState, Wallet, open_wallet
from ainp2p.ledger.wallets.watchtower import Watchtower, open_watchtower
from ainp2p.protocol.memory import EPOCH_MS
from ainp2p.protocol.storage import INLINE

from ..town import PURSE, QUIET, Town, open_town
from ..world import key_of
from .test_wallet import CONTEXT, payer, until_available

LIFE_MS = 30_000
TOWER = key_of("watchtower")
REFUNDING = SettlePolicy(threshold=10**15, interval_ms=10**12, refund=True, at_close_s=0)


@asynccontextmanager
async def tower_in(town: Town, directory: Path | None = None) -> AsyncIterator[Watchtower]:
    async with (
        town.network(TOWER) as network,
        open_watchtower(network, town.genesis, directory, storage=INLINE) as tower,
    ):
        yield tower


@asynccontextmanager
async def payee(town: Town) -> AsyncIterator[Wallet]:
    """Bob, who hands his receipts to the watchtower."""
    async with (
        town.network(key_of("bob")) as network,
        open_wallet(
            network,
            town.genesis,
            key_of("bob"),
            None,
            policy=QUIET,
            watchtowers=[TOWER.peer_id],
            storage=INLINE,
        ) as wallet,
    ):
        yield wallet


async def deposit(town: Town, alice: Wallet, step: int = 10, amount: int = 1_000) -> LockState:
    return await alice.open_lock([(town.account("bob"), 1)], key_of("bob").public, amount, step, LIFE_MS)


async def earn(town: Town, state: LockState, cumulative: int) -> None:
    """Bob gets a receipt, hands it over, and is never seen again."""
    async with payee(town) as bob:
        await bob.lock(state.id)
        await bob.accept(payer(town, state).sign(cumulative, 1, CONTEXT))
        assert await bob.hand_over() == 1


async def later_ms(at_ms: int) -> None:
    await trio.sleep_until((at_ms - EPOCH_MS) / 1000)


async def owner_of_the_deposit(town: Town, step: int = 10, earned: int = 400) -> int:
    """What bob finds when he comes back long after his deposit has expired."""
    async with town.wallet("alice", policy=REFUNDING) as alice:
        state = await deposit(town, alice, step)
        await earn(town, state, earned)
        await later_ms(state.lock.expiry + 20_000)
        assert not (await alice.lock(state.id)).is_open  # the rest was refunded
    async with town.wallet("bob") as bob:
        return (await bob.balance()).available - PURSE


async def test_a5_a_payee_that_vanishes_before_it_settles_is_paid(autojump_clock: Any) -> None:
    async with open_town() as town, tower_in(town) as tower:
        assert await owner_of_the_deposit(town) == 400
        assert tower.statistics().watched == 0


async def test_a5_less_than_a_step_is_paid_at_expiry(autojump_clock: Any) -> None:
    async with open_town() as town, tower_in(town):
        assert await owner_of_the_deposit(town, step=500) == 400


async def test_a5_mutant_a_tower_that_sleeps_lets_the_payee_lose(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def sleep(*_: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(Watchtower, "_spread_forever", sleep)
    async with open_town() as town, tower_in(town):
        assert await owner_of_the_deposit(town) == 0


async def test_a5_a_payer_that_vanishes_mid_stream_owes_what_it_signed(autojump_clock: Any) -> None:
    async with open_town() as town:
        async with town.wallet("alice") as alice:
            state = await deposit(town, alice)
        async with town.wallet("bob") as bob:  # alice is gone for good
            await bob.lock(state.id)
            await bob.accept(payer(town, state).sign(250, 1, CONTEXT))
            await bob.close(state.id)
            await until_available(bob, PURSE + 250)
        async with town.wallet("alice") as alice:
            await until_available(alice, PURSE - 1 - 102 - 250)


async def test_a_watchtower_survives_a_restart(autojump_clock: Any, tmp_path: Path) -> None:
    async with open_town() as town, town.wallet("alice") as alice:
        async with tower_in(town, tmp_path):
            state = await deposit(town, alice)
            await earn(town, state, 400)
        async with tower_in(town, tmp_path) as tower:
            assert tower.statistics().watched == 1
            await later_ms(state.lock.expiry - 2_000)
            assert (await alice.lock(state.id)).lock.paid == 400


async def test_mutant_an_acknowledgement_before_the_disk_is_forgotten(
    autojump_clock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_town() as town, town.wallet("alice") as alice:
        async with tower_in(town, tmp_path) as tower:
            monkeypatch.setattr(tower._disk, "put", lambda *_, **__: None)
            state = await deposit(town, alice)
            await earn(town, state, 400)
        async with tower_in(town, tmp_path) as tower:
            assert tower.statistics().watched == 0  # bob believed that it was


async def test_a_stale_settlement_is_answered_at_once(autojump_clock: Any) -> None:
    async with open_town() as town, tower_in(town) as tower, town.wallet("alice") as alice:
        state = await deposit(town, alice)
        await earn(town, state, 400)
        await trio.sleep(5)  # the tower follows by now
        alice.book.watch(state.lock)
        await alice.accept(payer(town, state).sign(50, 1, CONTEXT))
        await alice.settle(state.id)  # a payer that would keep the Lock's head moving
        with trio.fail_after(10):
            while (await alice.lock(state.id)).lock.paid < 400:  # noqa: ASYNC110  # virtual time
                await trio.sleep(0.1)
        assert tower.statistics().submitted == 1


async def test_a_client_sees_what_is_watched_for_it(autojump_clock: Any) -> None:
    async with open_town() as town, tower_in(town), town.wallet("alice") as alice:
        state = await deposit(town, alice)
        async with payee(town) as bob:
            await bob.lock(state.id)
            await bob.accept(payer(town, state).sign(100, 1, CONTEXT))
            await bob.hand_over()
            await bob.accept(payer(town, state).sign(200, 2, CONTEXT))
            await trio.sleep(12)  # now and then, by itself
            network = town.networks[key_of("bob").peer_id]
            (held,) = await ask_watched(network, TOWER.peer_id)
            assert (held.lock, held.cumulative, held.expiry) == (state.id, 200, state.lock.expiry)
        async with town.network(key_of("carol")) as network:
            assert await ask_watched(network, TOWER.peer_id) == []


async def test_what_is_no_receipt_of_a_final_lock_is_refused(autojump_clock: Any) -> None:
    async with open_town() as town, tower_in(town) as tower, town.wallet("alice") as alice:
        state = await deposit(town, alice)
        good = Release.of(payer(town, state).sign(100, 1, CONTEXT))
        async with town.network(key_of("carol")) as network:
            with pytest.raises(Refused, match="malformed"):
                await hand_to(network, TOWER.peer_id, Release(good.body, (bytes(64),)))
            with pytest.raises(Refused, match="malformed"):
                await hand_to(network, TOWER.peer_id, Release(b"junk", (bytes(64),)))
            unknown = state.lock.__class__(**{**_fields(state.lock), "id": b"u" * 32})
            lost = Release.of(payer(town, LockState(unknown, b"")).sign(100, 1, CONTEXT))
            with pytest.raises(Refused, match="refused"):
                await hand_to(network, TOWER.peer_id, lost)
            assert tower.statistics().watched == 0
            await hand_to(network, TOWER.peer_id, good)
            assert tower.statistics().watched == 1


async def test_a_deposit_below_the_least_one_is_refused_by_name(autojump_clock: Any) -> None:
    async with (
        open_town() as town,
        town.network(TOWER) as network,
        open_watchtower(network, town.genesis, None, least_deposit=1_001),
        town.wallet("alice") as alice,
    ):
        state = await deposit(town, alice)
        async with town.network(key_of("carol")) as carol:
            with pytest.raises(Refused, match="1001 uain or more") as refused:
                await hand_to(carol, TOWER.peer_id, Release.of(payer(town, state).sign(100, 1, CONTEXT)))
            assert refused.value.code == "deposit"


async def test_whoever_is_driven_out_of_the_tower_is_paid_at_once(
    autojump_clock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "LOCKS_MAX", 1)
    async with open_town() as town, town.wallet("alice") as alice:
        async with tower_in(town, tmp_path) as tower:
            small, large = await deposit(town, alice), await deposit(town, alice, amount=2_000)
            await earn(town, small, 400)
            await earn(town, large, 500)
            with trio.fail_after(10):
                while (await alice.lock(small.id)).lock.paid < 400:  # noqa: ASYNC110  # virtual time
                    await trio.sleep(0.1)
            await trio.sleep(5)
            assert tower.statistics().watched == 1
        async with tower_in(town, tmp_path) as tower:
            assert tower.statistics().watched == 1


async def test_a_client_that_floods_is_told_to_wait(autojump_clock: Any) -> None:
    async with open_town() as town, tower_in(town), town.wallet("alice") as alice:
        state = await deposit(town, alice)
        good = Release.of(payer(town, state).sign(100, 1, CONTEXT))
        async with town.network(key_of("carol")) as network:
            refused: list[str] = []

            async def hand() -> None:
                try:
                    await hand_to(network, TOWER.peer_id, good)
                except Refused as exc:
                    refused.append(exc.code)

            async with trio.open_nursery() as nursery:
                for _ in range(400):
                    nursery.start_soon(hand)
            assert set(refused) == {"busy"}
            assert len(refused) < 300


def _fields(lock: Any) -> dict[str, Any]:
    return {name: getattr(lock, name) for name in lock.__struct_fields__}


def test_the_turn_is_shorter_than_any_margin_that_counts() -> None:
    assert watchtower.FOLLOW_TURN_S * 1000 < 600_000
