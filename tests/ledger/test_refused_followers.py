"""More wallets than validators let follow: the others look now and again, and work meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from ainp2p.ledger.serving import followers
from ainp2p.ledger.serving.service import ValidatorService
from ainp2p.ledger.wallets.mirror import LOOK_MAX_S, Mirror
from ainp2p.ledger.wallets.wallet import Wallet

from .test_wallet_faults import run
from .town import Town, open_town

CROWD = tuple(f"follower {n}" for n in range(12))


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When a Follow was asked for; one validator has room for two."""
    monkeypatch.setattr(followers, "FOLLOWERS_MAX", 2)
    times: list[float] = []
    original = ValidatorService._follow

    async def counted(self: ValidatorService, *args: object) -> None:
        times.append(trio.current_time())
        await original(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(ValidatorService, "_follow", counted)
    return times


@asynccontextmanager
async def crowd() -> AsyncIterator[tuple[Town, list[Wallet]]]:
    """Eight wallets fill all that there is room for; the last four of twelve come too late."""
    async with open_town(names=("alice", *CROWD)) as town, AsyncExitStack() as stack:
        wallets = []
        for name in CROWD:
            wallets.append(await stack.enter_async_context(town.wallet(name)))
            await wallets[-1].balance()
            await trio.sleep(10)
        yield town, wallets


def following(town: Town) -> int:
    return sum(len(service._followers) for service in town.services.values())


async def paid_late() -> tuple[int, float, float]:
    """How many follow; how long it takes until one that does not sees a payment, and pays."""
    async with crowd() as (town, wallets), town.wallet("alice") as alice:
        left_out, before = wallets[-1], (await wallets[-1].balance()).available
        await trio.sleep(120)  # it looks as seldom as it ever does
        follow = following(town)
        began = trio.current_time()
        await alice.send(left_out.account_id, 5)
        with trio.move_on_after(300):
            while (await left_out.balance()).available != before + 5:  # noqa: ASYNC110
                await trio.sleep(0.1)
        seen_s = trio.current_time() - began
        began = trio.current_time()
        await left_out.send(alice.account_id, before)  # it needs what has come
        return follow, seen_s, trio.current_time() - began


def test_a_wallet_that_may_not_follow_sees_what_comes_and_pays() -> None:
    follow, seen_s, paid_s = run(paid_late)
    assert follow == 8
    assert seen_s < 1.25 * LOOK_MAX_S + 5
    assert paid_s < 2


def test_those_that_are_refused_ask_ever_less_often(asked: list[float]) -> None:
    async def wait() -> None:
        async with crowd() as (_, _wallets):
            await trio.sleep(120)
            asked.clear()
            await trio.sleep(600)

    run(wait)
    refused = 4 * 600 / (0.75 * LOOK_MAX_S)
    turns = 8 * 600 / 60  # those that follow change their validator now and then
    assert len(asked) < refused + turns


def test_who_leaves_makes_room() -> None:
    async def stay(town: Town, name: str, scope: trio.CancelScope) -> None:
        with scope:
            async with town.wallet(name):
                await trio.sleep_forever()

    async def leave() -> tuple[int, int]:
        async with open_town(names=("alice", *CROWD)) as town, trio.open_nursery() as nursery:
            scopes = [trio.CancelScope() for _ in CROWD]
            for name, scope in zip(CROWD, scopes, strict=True):
                nursery.start_soon(stay, town, name, scope)
                await trio.sleep(10)
            before = following(town)
            for scope in scopes[:8]:
                scope.cancel()
            await trio.sleep(3 * LOOK_MAX_S)
            after = following(town)
            nursery.cancel_scope.cancel()
        return before, after

    assert run(leave) == (8, 4)


def test_mutant_a_refused_wallet_that_only_asks_again_never_sees_what_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Mirror, "_look", lambda self, peer: 4.0)
    with pytest.raises(AssertionError):
        test_a_wallet_that_may_not_follow_sees_what_comes_and_pays()
