"""The queue before an account's SPENDs, with a signer that must agree first: a vault's."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from ainp2p.errors import BudgetExceeded, InsufficientFunds, PolicyRefused, TimedOut
from ainp2p.ledger.rules.operations import SIGN_OPERATION, Operation, Spend, operation_id
from ainp2p.ledger.wallets.wallet import open_wallet
from ainp2p.protocol.codec import decode

from ..town import PURSE, QUIET, Town, open_town
from ..world import key_of


class Guard:
    """Signs what it has approved, and approves no payment above its limit."""

    def __init__(self, name: str, limit: int) -> None:
        self.public = key_of(name).public
        self._key, self._limit = key_of(name), limit
        self.approved: set[bytes] = set()
        self.slow = 0.0

    async def approve(self, raw: bytes) -> None:
        await trio.sleep(self.slow)
        body = decode(raw, Operation).body
        assert isinstance(body, Spend)
        wanted = max(out.amount for out in body.outs)
        if wanted > self._limit:
            raise BudgetExceeded("per_payment", wanted, self._limit)
        self.approved.add(operation_id(raw))

    def withdraw(self, raw: bytes) -> None:
        self.approved.discard(operation_id(raw))

    def sign(self, purpose: bytes, payload: bytes) -> bytes:
        if purpose == SIGN_OPERATION and payload not in self.approved:
            raise PolicyRefused("approval", 0)
        return self._key.sign(purpose, payload)


def guarded(town: Town, network: Any, guard: Guard) -> Any:
    from ainp2p.protocol.storage import INLINE

    return open_wallet(network, town.genesis, guard, None, policy=QUIET, storage=INLINE)


async def test_an_operation_is_approved_before_it_is_signed(autojump_clock: Any) -> None:
    guard = Guard("alice", 100)
    async with open_town() as town, town.network(key_of("alice")) as network:
        async with guarded(town, network, guard) as alice:
            final = await alice.send(town.account("bob"), 100)
            assert guard.approved == {final.operation}


async def test_what_the_vault_refuses_is_refused_alone(autojump_clock: Any) -> None:
    async with open_town() as town, town.network(key_of("alice")) as network:
        async with guarded(town, network, Guard("alice", 100)) as alice:
            refused: list[int] = []

            async def pay(amount: int) -> None:
                try:
                    await alice.send(town.account("bob"), amount)
                except BudgetExceeded as exc:
                    refused.append(exc.wanted)

            async with trio.open_nursery() as nursery:
                for amount in (50, 101, 60, 500, 100):
                    nursery.start_soon(pay, amount)
            assert sorted(refused) == [101, 500]
        async with town.wallet("bob") as bob:
            assert (await bob.balance()).available == PURSE + 210


async def test_who_gives_up_in_the_queue_has_signed_nothing(autojump_clock: Any) -> None:
    async with open_town() as town, town.wallet("alice") as alice:
        await alice.balance()
        for index in range(4):
            await town.stop(index)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first_that_waits, alice, town)
            await trio.sleep(1)
            with pytest.raises(TimedOut, match="nothing was signed"):
                await alice.send(town.account("bob"), 7, timeout_s=5)
            with trio.move_on_after(5):
                await alice.send(town.account("bob"), 8)
            nursery.cancel_scope.cancel()
        (only,) = await alice.history()
        assert isinstance(only.parsed.operation.body, Spend)
        assert [out.amount for out in only.parsed.operation.body.outs] == [6]


async def first_that_waits(alice: Any, town: Town) -> None:
    await alice.send(town.account("bob"), 6, timeout_s=60)


async def test_who_gives_up_while_the_vault_thinks_learns_what_became_of_it(autojump_clock: Any) -> None:
    guard = Guard("alice", 100)
    guard.slow = 3.0
    async with open_town() as town, town.network(key_of("alice")) as network:
        async with guarded(town, network, guard) as alice:
            await alice.balance()
            begun = trio.current_time()
            with pytest.raises(TimedOut, match="whether any of them has it is unknown"):
                await alice.send(town.account("bob"), 5, timeout_s=2)
            assert trio.current_time() - begun == pytest.approx(3, abs=0.1)
            await trio.sleep(5)
            assert [bool(recorded.certificate) for recorded in await alice.history()] == [True]


async def test_each_order_that_cannot_be_paid_is_told_what_is_missing(autojump_clock: Any) -> None:
    async with open_town() as town, town.wallet("alice") as alice:
        with pytest.raises(InsufficientFunds) as refused:
            await alice.send(town.account("bob"), PURSE + 1)
        assert refused.value.available == PURSE - 1
