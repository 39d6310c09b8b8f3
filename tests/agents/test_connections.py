"""Jobs over connections that break, lose, stall and come back: the same text, the same bill."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from ainp2p.agents.deposit import CONFIRM_AFTER_S, LEAVE_TIMEOUT_S, Deposit
from ainp2p.agents.deposits import Deposits
from ainp2p.agents.skill import skill
from ainp2p.errors import NoOffers
from ainp2p.protocol.delivery import STEP
from ainp2p.protocol.memory import Conditions, MemoryNetwork
from ainp2p.protocol.messages import PROTOCOL, Chunk
from ainp2p.protocol.seller_meter import SellerMeter

from .market_world import Bought, Market, buy, found_market, words, write, writer

Clock = trio.testing.MockClock
SLOW = 50  # tokens per second


async def during_a_job(
    market: Market, what: Callable[[], Awaitable[None]], *, budget: int = 600, pause_s: float = 0.0
) -> Bought:
    """One job of 200 tokens in four seconds, and what happens meanwhile."""
    async with (
        market.agent("alice", [write], writer(200, tokens_per_second=SLOW)),
        market.agent("bob") as bob,
    ):
        offers, bought = await bob.find("write"), list[Bought]()

        async def one() -> None:
            bought.append(await buy(bob, offers, budget=budget, pause_s=pause_s))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one)
            await what()
        market.check_window("alice")
        await market.check_rest("alice", "bob")
        if bought[0].failure is None:
            market.check_bill(bought[0])
        return bought[0]


@pytest.mark.parametrize("at_s", [0.5, 1.0, 1.7, 2.33, 3.9, 4.01])
async def test_a_lost_connection_pauses_a_job_and_it_goes_on_with_the_same_text_and_bill(
    at_s: float, autojump_clock: Clock
) -> None:
    async with found_market() as market:

        async def reset() -> None:
            await trio.sleep(at_s)
            market.hub.reset(market.peer("alice"), market.peer("bob"))

        bought = await during_a_job(market, reset)
        assert bought.text == words(200)
        assert (bought.job.finish, bought.job.paid, len(bought.job.legs)) == ("done", 400, 1)


async def test_a_connection_that_breaks_ten_times_a_second_does_not_change_text_or_bill(
    autojump_clock: Clock,
) -> None:
    async with found_market(7) as market:

        async def storm() -> None:
            for _ in range(60):
                await trio.sleep(0.03 + 0.1 * market.hub.rng("a", "b").random())
                market.hub.reset(market.peer("alice"), market.peer("bob"))

        bought = await during_a_job(market, storm)
        assert bought.text == words(200)
        assert (bought.job.finish, bought.job.paid, len(bought.job.legs)) == ("done", 400, 1)


@pytest.mark.parametrize("seed", range(4))
async def test_c1_loss_delay_and_duplicates_do_not_change_text_or_bill(
    seed: int, autojump_clock: Clock
) -> None:
    weather = Conditions(latency_s=0.05, jitter_s=0.2, loss=0.05, duplicate=0.3, reorder_s=1.0)
    async with found_market(seed, weather) as market:

        async def nothing() -> None:
            await trio.lowlevel.checkpoint()

        bought = await during_a_job(market, nothing, pause_s=0.01)
        assert bought.text == words(200)
        assert (bought.job.finish, bought.job.paid) == ("done", 400)


async def test_c5_a_seller_that_hangs_and_wakes_soon_goes_on(autojump_clock: Clock) -> None:
    async with found_market() as market:

        async def hang() -> None:
            await trio.sleep(1)
            market.hub.pause(market.peer("alice"))
            await trio.sleep(5)
            market.hub.resume(market.peer("alice"))

        bought = await during_a_job(market, hang)
        assert (bought.text, bought.job.paid, len(bought.job.legs)) == (words(200), 400, 1)


async def test_c5_a_seller_that_hangs_for_a_minute_is_given_up_and_another_one_finishes(
    autojump_clock: Clock,
) -> None:
    async with found_market() as market:
        dear = skill("write", price="3/token")(write.function)
        async with market.agent("carol", [dear], writer(200)):

            async def hang() -> None:
                await trio.sleep(1)
                market.hub.pause(market.peer("alice"))
                await trio.sleep(60)
                market.hub.resume(market.peer("alice"))

            began = trio.current_time()
            async with (
                market.agent("alice", [write], writer(200, tokens_per_second=SLOW)),
                market.agent("bob") as bob,
            ):
                offers, done = await bob.find("write", at_least=2), trio.Event()
                bought: list[Bought] = []

                async def one() -> None:
                    bought.append(await buy(bob, offers, budget=1500))
                    done.set()

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(one)
                    nursery.start_soon(hang)
                    await done.wait()
                    assert trio.current_time() - began < 45
                (first, second) = bought[0].job.legs
                assert bought[0].text.endswith(words(200)[-40:])
                assert (first.name, second.name, bought[0].job.finish) == ("alice", "carol", "done")
                market.check_window("alice")
                await market.check_rest("alice", "bob", "carol")


async def test_c5_a_buyer_that_hangs_holds_a_slot_for_a_while_only(autojump_clock: Clock) -> None:
    async with found_market() as market:
        async with (
            market.agent("alice", [write], writer(200, tokens_per_second=SLOW), slots=1) as alice,
            market.agent("bob") as bob,
        ):
            offers = await bob.find("write")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(buy, bob, offers)
                await trio.sleep(1)
                assert alice._open_parts.seller.free == 0
                market.hub.pause(market.peer("bob"))
                await trio.sleep(60)
                assert alice._open_parts.seller.free == 1
                market.hub.resume(market.peer("bob"))
            market.check_window("alice")
            await market.check_rest("alice", "bob")


async def test_a_seller_that_vanishes_is_replaced_and_what_it_delivered_is_handed_on(
    autojump_clock: Clock,
) -> None:
    async with found_market() as market:
        cheap = skill("write", price="1/token")(write.function)
        model = writer(200, tokens_per_second=SLOW)
        async with market.agent("carol", [write], model), market.agent("bob") as bob:
            bought: list[Bought] = []
            async with trio.open_nursery() as nursery:
                async with market.agent("alice", [cheap], model):
                    offers = await bob.find("write", at_least=2)

                    async def one() -> None:
                        bought.append(await buy(bob, offers))

                    nursery.start_soon(one)
                    await trio.sleep(2)
                    market.hub.partition([market.peer("alice")], [market.peer("bob")])
                    await trio.sleep(30)
            job = bought[0].job
            assert (bought[0].text, job.finish, job.restarts) == (words(200), "done", 0)
            first, second = job.legs
            assert (first.name, second.name) == ("alice", "carol")
            assert first.units + second.units == 200
            assert (first.amount, second.amount) == (first.units, 2 * second.units)
            await market.check_rest("bob", "carol")


async def test_nobody_left_is_told_with_what_each_seller_did(autojump_clock: Clock) -> None:
    async with found_market() as market:

        async def cut() -> None:
            await trio.sleep(1)
            market.hub.partition([market.peer("alice")], [market.peer("bob")])
            await trio.sleep(60)
            market.hub.heal()

        bought = await during_a_job(market, cut)
        assert isinstance(bought.failure, NoOffers)
        assert "alice" in str(bought.failure)
        assert 0 < bought.job.paid <= 2 * (len(bought.pieces) + STEP)


async def resets(market: Market) -> None:
    """Break the connection again and again, once the job is under way."""
    await trio.sleep(1.5)
    for _ in range(8):
        await trio.sleep(0.4 + 0.4 * market.hub.rng("a", "b").random())
        market.hub.reset(market.peer("alice"), market.peer("bob"))


def is_whole(bought: Bought) -> bool:
    delivering = [leg for leg in bought.job.legs if leg.units]
    return (bought.text, bought.job.paid, len(delivering)) == (words(200), 400, 1)


async def test_a_mutant_that_does_not_send_again_what_was_lost_is_caught(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    weather = Conditions(latency_s=0.1)  # so that something is under way when the connection breaks
    async with found_market(0, weather) as market:
        assert is_whole(await during_a_job(market, lambda: resets(market)))
    resume = SellerMeter.resume

    def forgetful(self: SellerMeter, job: bytes, from_n: int) -> list[Chunk]:
        resume(self, job, from_n)
        return []

    monkeypatch.setattr(SellerMeter, "resume", forgetful)
    async with found_market(0, weather) as market:
        assert not is_whole(await during_a_job(market, lambda: resets(market)))


async def test_a_mutant_that_does_not_tell_again_what_was_lost_is_caught(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forgetful(self: Deposit) -> None:
        await trio.lowlevel.checkpoint()

    async def lossy(network: MemoryNetwork, peer: str, protocol: str, body: bytes) -> None:
        if (
            protocol != PROTOCOL or network.context.rng.random() < 0.5
        ):  # a one-way message is lost with its connection
            await send(network, peer, protocol, body)

    send = MemoryNetwork.send
    monkeypatch.setattr(MemoryNetwork, "send", lossy)
    async with found_market() as market:
        assert is_whole(await during_a_job(market, lambda: resets(market)))
    monkeypatch.setattr(Deposit, "resend", forgetful)
    async with found_market() as market:
        assert not is_whole(await during_a_job(market, lambda: resets(market)))


async def paid_and_held(market: Market) -> tuple[int, int]:
    """A short job while every one-way message is lost: what was signed, and what the seller holds of it."""
    async with market.agent("alice", [write], writer(10)) as alice, market.agent("bob") as bob:
        bought = await buy(bob, await bob.find("write"))
        await trio.sleep(CONFIRM_AFTER_S + 1)
        await market.check_rest("bob")
        return bought.job.paid, alice.wallet.book.unsettled(bought.job.legs[0].lock)


def lose_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on every one-way message of the market is lost."""

    async def lost(network: MemoryNetwork, peer: str, protocol: str, body: bytes) -> None:
        if protocol != PROTOCOL:
            await send(network, peer, protocol, body)

    send = MemoryNetwork.send
    monkeypatch.setattr(MemoryNetwork, "send", lost)


async def test_the_last_receipt_arrives_though_notices_are_lost_and_a_mutant_that_does_not_confirm_is_caught(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_notices(monkeypatch)
    async with found_market() as market:
        assert await paid_and_held(market) == (20, 20)
    monkeypatch.setattr(Deposit, "job_ended", lambda self: None)
    async with found_market() as market:
        assert await paid_and_held(market) == (20, 0)


async def paid_and_held_by_one_that_left(market: Market) -> tuple[int, int]:
    """A short job of a buyer that is closed right after: what it signed, and what the seller holds of it."""
    async with market.agent("alice", [write], writer(10)) as alice:
        async with market.agent("bob") as bob:
            bought = await buy(bob, await bob.find("write"))
        return bought.job.paid, alice.wallet.book.unsettled(bought.job.legs[0].lock)


async def test_a_buyer_does_not_leave_before_its_sellers_hold_their_last_receipts(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_notices(monkeypatch)
    async with found_market() as market:
        assert await paid_and_held_by_one_that_left(market) == (20, 20)


async def test_a_mutant_that_leaves_at_once_is_caught(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def leave_at_once(self: Deposits) -> None:
        await trio.lowlevel.checkpoint()

    lose_notices(monkeypatch)
    monkeypatch.setattr(Deposits, "leave", leave_at_once)
    async with found_market() as market:
        assert await paid_and_held_by_one_that_left(market) == (20, 0)


async def test_a_buyer_leaves_although_a_seller_has_gone(autojump_clock: Clock) -> None:
    async with found_market() as market, market.agent("bob") as bob:
        async with market.agent("alice", [write], writer(10)):
            bought = await buy(bob, await bob.find("write"))
        left_at = trio.current_time()
        deposit = bob._open_parts.buyer.deposits.all()[0]
        assert (bought.job.paid, deposit.last_receipt is not None) == (20, True)
        await bob._open_parts.buyer.deposits.leave()
        assert trio.current_time() <= left_at + LEAVE_TIMEOUT_S
