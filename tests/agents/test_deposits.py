"""Our Locks at sellers: sized, shared, claimed, replaced, and what becomes of them when things go wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from ainp2p.agents import attempt
from ainp2p.agents.agent import Agent
from ainp2p.agents.deposit import CONFIRM_AFTER_S, LAST_CHUNKS_TIMEOUT_S, Deposit
from ainp2p.agents.deposits import Deposits
from ainp2p.agents.policy import Policy
from ainp2p.errors import (
    BudgetExceeded,
    InsufficientFunds,
    InvalidInput,
    InvalidReceipt,
    NoOffers,
    PolicyRefused,
    Refused,
    TimedOut,
)
from ainp2p.ledger.rules.parameters import DEVELOPMENT
from ainp2p.ledger.wallets.wallet import Wallet
from ainp2p.protocol.buyer_meter import BuyerMeter
from ainp2p.protocol.delivery import DONE, Terms
from ainp2p.protocol.messages import TEXT, Chunk, Finished
from ainp2p.protocol.network import Chunks
from ainp2p.protocol.price import Price

from .market_world import Bought, Market, buy, found_market, words, write, writer

Clock = trio.testing.MockClock
ITEMS = Price.parse("10/item")


@asynccontextmanager
async def buyer_and_seller(policy: Policy | None = None) -> AsyncIterator[tuple[Market, Agent, Agent]]:
    async with found_market() as market:
        async with market.agent("alice", [write], writer(50)) as alice:
            async with market.agent("bob", policy=policy) as bob:
                bob.network.add_addresses(alice.peer_id, alice.addresses)
                yield market, bob, alice


def deposits_of(agent: Agent) -> Deposits:
    return agent._open_parts.buyer.deposits


async def claim(buyer: Agent, seller: Agent, budget: int) -> Deposit:
    key = seller._open_parts.vault.public
    return await deposits_of(buyer).claim(seller.id, key, seller.peer_id, budget)


# --- rules that change ------------------------------------------------------------------------------


def rule(monkeypatch: pytest.MonkeyPatch, agent: Agent, **changes: int) -> None:
    """From now on these rules hold for an agent's wallet, as if it had followed a COMMITTEE with them."""
    changed = msgspec.structs.replace(DEVELOPMENT, **changes)
    wallet = agent.wallet
    monkeypatch.setattr(Wallet, "parameters", property(lambda w: changed if w is wallet else DEVELOPMENT))


async def test_a_lock_lives_no_longer_than_the_epoch_that_runs_allows(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with buyer_and_seller() as (_, bob, alice):
        rule(monkeypatch, bob, lock_life_ms_max=60_000)
        deposit = await claim(bob, alice, 600)
        now_ms = bob.wallet.now_ms()
        assert now_ms < deposit.lock.expiry <= now_ms + 60_000
        assert (await buy(bob, await bob.find("write"))).text == words(50)


async def test_the_fees_that_are_kept_back_grow_with_the_least_fee(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with buyer_and_seller() as (_, bob, alice):
        rule(monkeypatch, bob, fee_floor=1_000)
        with pytest.raises(InsufficientFunds):
            await claim(bob, alice, 950_000)


async def test_a_seller_wants_the_margin_of_the_epoch_that_runs(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with buyer_and_seller() as (_, bob, alice):
        deposit = await claim(bob, alice, 600)
        deposit.release(600)
        rule(monkeypatch, alice, margin_ms=10 * DEVELOPMENT.lock_life_ms_max)
        bought = await buy(bob, await bob.find("write"))
        assert isinstance(bought.failure, NoOffers)
        assert bought.job.paid == 0


async def test_no_lock_is_opened_where_none_could_be_settled_in_time(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with buyer_and_seller() as (_, bob, alice):
        rule(monkeypatch, bob, margin_ms=DEVELOPMENT.lock_life_ms_max)
        with pytest.raises(InvalidInput, match="too short"):
            await claim(bob, alice, 600)
        assert deposits_of(bob).all() == []


# --- how large, how many ----------------------------------------------------------------------------


async def test_a_lock_holds_ten_budgets_and_is_reused(autojump_clock: Clock) -> None:
    async with buyer_and_seller() as (_, bob, alice):
        deposit = await claim(bob, alice, 600)
        assert (deposit.lock.deposit, deposit.free) == (6000, 5400)
        assert await claim(bob, alice, 5400) is deposit
        other = await claim(bob, alice, 1)  # the first one is promised to the last unit
        assert other is not deposit
        deposit.release(600)
        assert await claim(bob, alice, 600) is deposit


@pytest.mark.parametrize(
    ("policy", "budget", "amount"),
    [
        (Policy(per_lock=2000), 600, 2000),
        (Policy(per_lock=600), 600, 600),
        (None, 100_000, (1_000_000 - 64) // 2),
        (None, 900_000, 900_000),
    ],
    ids=["the policy's cap", "exactly the budget", "half the purse", "more than half"],
)
async def test_a_lock_is_no_larger_than_purse_and_policy_allow(
    policy: Policy | None, budget: int, amount: int, autojump_clock: Clock
) -> None:
    async with buyer_and_seller(policy) as (_, bob, alice):
        assert (await claim(bob, alice, budget)).lock.deposit == amount


async def test_parallel_jobs_wait_for_one_lock(autojump_clock: Clock) -> None:
    async with buyer_and_seller() as (_, bob, alice):
        claimed: list[Deposit] = []

        async def one() -> None:
            claimed.append(await claim(bob, alice, 100))

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(one)
        assert len(set(map(id, claimed))) == 1
        assert claimed[0].free == 0


async def test_a_lock_that_is_being_opened_survives_whoever_wanted_it(autojump_clock: Clock) -> None:
    async with buyer_and_seller() as (_, bob, alice):
        with trio.move_on_after(0.01):
            await claim(bob, alice, 100)
        await trio.sleep(5)
        (deposit,) = deposits_of(bob).all()
        assert deposit.is_idle
        assert await claim(bob, alice, 100) is deposit


async def test_a_purse_that_is_too_small_fails_those_that_wait_and_nobody_else(
    autojump_clock: Clock,
) -> None:
    async with buyer_and_seller() as (_, bob, alice):
        failures: list[Exception] = []

        async def too_much() -> None:
            try:
                await claim(bob, alice, 2_000_000)
            except InsufficientFunds as exc:
                failures.append(exc)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(too_much)
            nursery.start_soon(too_much)
            await trio.testing.wait_all_tasks_blocked()
            assert (await claim(bob, alice, 100)).lock.deposit == 1000
        assert len(failures) == 2


async def test_the_policy_forbids_a_lock_that_is_too_large(autojump_clock: Clock) -> None:
    async with buyer_and_seller(Policy(per_lock=50)) as (_, bob, alice):
        with pytest.raises(BudgetExceeded, match="per_lock"):
            await claim(bob, alice, 100)


async def test_locks_whose_time_has_passed_are_forgotten(autojump_clock: Clock) -> None:
    async with buyer_and_seller() as (_, bob, alice):
        old = await claim(bob, alice, 100)
        old.release(100)
        late = old.lock.expiry + 1
        original, deposits = bob.network.context, deposits_of(bob)
        assert old.usable(100, 0)
        assert not old.usable(100, old.lock.expiry)  # too near its end
        shifted = type(original)(lambda: late, original.token_bytes, original.rng)
        old._context = shifted
        assert old.is_over
        new = await claim(bob, alice, 100)
        assert new is not old
        assert deposits.all() == [new]


async def outlives_its_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Lock ends, and is forgotten, while its last receipt is still to be confirmed."""
    async with buyer_and_seller() as (_, bob, _alice):
        await buy(bob, await bob.find("write"))
        (deposit,) = deposits_of(bob).all()
        assert deposit.last_receipt is not None
        monkeypatch.setattr(Deposit, "is_over", True)
        deposits_of(bob)._drop_old()
        assert deposits_of(bob).all() == []
        await trio.sleep(2 * CONFIRM_AFTER_S)
        assert deposit.last_receipt is None


async def test_a_lock_that_ends_while_its_last_receipt_is_to_be_confirmed_harms_nobody(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await outlives_its_lock(monkeypatch)


async def test_mutant_that_forgets_the_lock_alone_ends_its_agent(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Deposit, "forget", lambda self: self._vault.forget_lock(self.lock.id))
    with pytest.raises(ExceptionGroup) as caught:
        await outlives_its_lock(monkeypatch)
    assert caught.group_contains(InvalidReceipt)


# --- one Lock, several jobs ---------------------------------------------------------------------------


def terms(job: bytes, budget: int = 100) -> Terms:
    return Terms(job, ITEMS, budget, budget // 10, 4, 8)


def item(job: bytes, n: int, start: int) -> Chunk:
    return Chunk(job, n, start, 1, TEXT, b"x", b"", b"")


async def opened(bob: Agent, alice: Agent, *jobs: bytes) -> tuple[Deposit, list[Chunk]]:
    """A Lock with open jobs, and what is delivered over it."""
    deposit, seen = await claim(bob, alice, 300), list[Chunk]()
    for job in jobs:
        await bob._open_parts.vault.reserve(job, alice.id, 100)
        deposit.open_job(terms(job), job, seen.append)
    return deposit, seen


A, B, C = b"A" * 32, b"B" * 32, b"C" * 32


async def test_each_job_pays_what_it_owes_and_the_receipt_pays_for_all(autojump_clock: Clock) -> None:
    async with buyer_and_seller() as (_, bob, alice):
        deposit, seen = await opened(bob, alice, A, B)
        for n, (job, start) in enumerate([(A, 0), (B, 0), (A, 1)], start=1):
            await deposit.receive(item(job, n, start))
            deposit.taken(job, 1)
        assert deposit.last_signed.cumulative == 0  # below a step
        await deposit.receive(item(B, 4, 1))
        assert (deposit.last_signed.cumulative, deposit.signed(A), deposit.signed(B)) == (40, 20, 20)
        assert len(seen) == 4
        assert deposit.close_job(A) == (2, 20)
        assert deposit.close_job(A) == (0, 0)


async def test_leaving_signs_for_what_came(autojump_clock: Clock) -> None:
    async with buyer_and_seller() as (_, bob, alice):
        deposit, _seen = await opened(bob, alice, A)
        await deposit.receive(item(A, 1, 0))
        assert deposit.close_job(A) == (1, 10)
        assert deposit.last_signed.cumulative == 10


async def test_a_job_that_could_not_be_paid_spoils_the_lock_and_no_later_receipt_hides_it(
    autojump_clock: Clock,
) -> None:
    async with buyer_and_seller() as (_, bob, alice):
        vault = bob._open_parts.vault
        deposit, _seen = await opened(bob, alice, A, B)
        await deposit.receive(item(A, 1, 0))
        await vault.stop()
        assert deposit.close_job(A) == (1, 0)
        assert deposit.spoilt
        await vault.reset()
        for start in range(2):
            await deposit.receive(item(B, start + 2, start))
        with pytest.raises(InvalidReceipt, match="unsigned"):  # a step has come since the last receipt
            await deposit.receive(item(B, 4, 2))
        assert deposit.last_signed.cumulative == 0


async def test_a_stopped_vault_ends_a_job_with_what_was_signed(autojump_clock: Clock) -> None:
    async with found_market() as market:
        model = writer(200, tokens_per_second=50)
        async with market.agent("alice", [write], model), market.agent("bob") as bob:
            offers = await bob.find("write")
            async with bob.hire(offers, budget=600, text="go") as job:
                while job.units < 50:
                    await anext(job)
                await bob._open_parts.vault.stop()
                with pytest.raises(PolicyRefused):
                    await job.result()
            assert job.paid <= 2 * job.units
            await bob._open_parts.vault.reset()
            assert (await buy(bob, offers, text="again")).job.finish == "done"  # on another Lock
            await market.check_rest("alice", "bob")


async def test_a_torn_lock_is_told_to_the_jobs_that_cannot_go_on(autojump_clock: Clock) -> None:
    async with buyer_and_seller() as (_, bob, alice):
        deposit, _seen = await opened(bob, alice, A, B)
        await deposit.receive(item(B, 2, 0))  # chunk 1 is A's, and on its way
        deposit.check()
        deposit.close_job(A)
        deposit.spoil()  # A ended without its last word
        with pytest.raises(Refused, match="another job on this Lock is lost"):
            await deposit.receive(item(B, 3, 1))


async def waits_for_the_last_chunks(job_before_ends: Callable[[Deposit], object]) -> float:
    """Seconds for which a job that has ended waits for what another one on its Lock should have brought."""
    async with buyer_and_seller() as (_, bob, alice):
        deposit, _seen = await opened(bob, alice, A, B)
        await deposit.receive(item(B, 2, 0))  # chunk 1 is A's, and on its way
        began = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def end_of_b() -> None:
                with pytest.raises((Refused, TimedOut)):
                    await deposit.finished(Finished(B, DONE, 1, 10, 2, bytes(32), b""))
                nursery.cancel_scope.cancel()

            nursery.start_soon(end_of_b)
            await trio.sleep(1)
            deposit.close_job(A)
            await trio.testing.wait_all_tasks_blocked()  # nothing is known to be lost yet
            job_before_ends(deposit)
            await trio.sleep_forever()
        return trio.current_time() - began


async def test_a_job_that_has_ended_gets_what_a_healthy_one_brings_though_a_third_spoils_the_lock(
    autojump_clock: Clock,
) -> None:
    async with buyer_and_seller() as (_, bob, alice):
        deposit, seen = await opened(bob, alice, A, B, C)
        chunks = [item(C, 1, 0), item(A, 2, 0)]
        scratch = BuyerMeter(deposit.lock.id, deposit.lock.deposit)
        for job in (A, C):
            scratch.open_job(terms(job), 0)
        for chunk in chunks:
            scratch.receive(chunk, 0)
        await deposit.receive(chunks[1])  # C's is on its way
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deposit.finished, Finished(A, DONE, 1, 10, 2, scratch.position.context, b""))
            await trio.sleep(1)
            deposit.close_job(B)
            deposit.spoil()
            await trio.sleep(1)
            await deposit.receive(chunks[0])
        assert (deposit.signed(A), len(seen)) == (10, 2)


def spoil_in_silence(deposit: Deposit) -> None:
    deposit.spoilt = True


async def test_a_job_that_has_ended_waits_no_longer_for_what_is_lost(autojump_clock: Clock) -> None:
    assert await waits_for_the_last_chunks(Deposit.spoil) == pytest.approx(1)


async def test_mutant_where_nobody_is_told_that_the_lock_is_spoilt_it_waits(autojump_clock: Clock) -> None:
    assert await waits_for_the_last_chunks(spoil_in_silence) >= LAST_CHUNKS_TIMEOUT_S


async def buy_after_an_award_that_came_twice() -> Bought:
    """The seller works on the first copy, which nobody reads, and refuses the second; then a purchase."""
    async with found_market() as market:
        async with market.agent("alice", [write], writer(5)), market.agent("bob") as bob:
            offers, stream = await bob.find("write"), bob.network.stream

            @asynccontextmanager
            async def twice(*args: Any, **options: Any) -> AsyncIterator[Chunks]:
                async with stream(*args, **options) as unread:
                    await unread.within(1)  # it was accepted
                    async with stream(*args, **options) as chunks:
                        yield chunks

            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(bob.network, "stream", twice)
                failed = await buy(bob, offers, text="twice")
                assert "known" in failed.last.failure
            return await buy(bob, offers, text="once")


async def test_c1_chunks_of_an_award_that_came_twice_are_missed_by_no_later_job(
    autojump_clock: Clock,
) -> None:
    bought = await buy_after_an_award_that_came_twice()
    assert bought.job.finish == "done"


async def test_c1_mutant_a_lock_on_which_an_award_is_known_already_is_not_clean(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "KNOWN", "never")
    bought = await buy_after_an_award_that_came_twice()
    assert "never came" in bought.last.failure


async def test_a_last_word_that_counts_chunks_which_never_come_is_not_waited_for_for_ever(
    autojump_clock: Clock,
) -> None:
    async with buyer_and_seller() as (_, bob, alice):
        deposit, _seen = await opened(bob, alice, A)
        await deposit.receive(item(A, 1, 0))
        position = deposit.meter.position
        with pytest.raises(Exception, match="never came"):
            await deposit.finished(Finished(A, b"done", 2, 20, 2, position.context, b""))


async def test_notices_leave_in_order_and_hold_all_that_is_new(autojump_clock: Clock) -> None:
    async with buyer_and_seller() as (_, bob, alice):
        deposit, _seen = await opened(bob, alice, A)
        for start in range(4):
            await deposit.receive(item(A, start + 1, start))
            deposit.taken(A, 1)
        assert deposit.last_receipt is not None
        before = deposit._sent
        await deposit.tell()
        assert deposit._sent == before == deposit.last_receipt
        with trio.CancelScope() as scope:
            scope.cancel()
            await deposit.resend()
        assert deposit._untold  # whoever sends next tells everything
