"""The selling side: prices of every unit, restarts, closing, skills that misbehave, what the card says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from ainp2p.agents import selling
from ainp2p.agents.agent import Agent
from ainp2p.agents.offers import Offer
from ainp2p.agents.purchase import Purchase
from ainp2p.agents.sale import Sale
from ainp2p.agents.skill import Skill, skill
from ainp2p.agents.tills import Till
from ainp2p.agents.work import Work
from ainp2p.errors import NoOffers, StorageError
from ainp2p.ledger.rules.receipts import Receipt
from ainp2p.ledger.wallets.wallet import Wallet
from ainp2p.protocol.delivery import FIRST_WINDOW
from ainp2p.protocol.messages import DATA_SIZE_MAX
from ainp2p.protocol.seller_meter import SellerMeter

from .market_world import Bought, Market, buy, found_market, words, write, writer

Clock = trio.testing.MockClock


@skill("count", price="3/item + 10/call")
async def count(job: Work, to: int) -> AsyncIterator[object]:
    for number in range(to):
        yield {"number": number}


@skill("wait", price="5/second")
async def wait(job: Work, seconds: int) -> AsyncIterator[object]:
    for _ in range(seconds):
        await trio.sleep(1)
        yield "tick "


@skill("read", price="1/input + 2/token")
async def read(job: Work, text: str) -> AsyncIterator[object]:
    async for token in job.model.stream(text):
        yield token


@skill("flat", price="42/call")
async def flat(job: Work) -> bytes:
    return b"\x00\xff"


async def one_job(market: Market, sold: Skill, model: Any = None, budget: int = 600, **input_: Any) -> Bought:
    """One job of one skill, and everything at rest afterwards."""
    async with market.agent("alice", [sold], model), market.agent("bob") as bob:
        async with bob.hire(await bob.find(sold.name), budget=budget, input=input_) as job:
            bought = Bought(job)
            try:
                async for piece in job:
                    bought.pieces.append(piece)
            except Exception as exc:
                bought.failure = exc
        assert job.paid == sum(leg.amount for leg in job.legs) <= budget
        await market.check_rest("alice", "bob")
        market.check_window("alice")
        return bought


async def test_items_are_json_values_and_paid_one_by_one(autojump_clock: Clock) -> None:
    async with found_market() as market:
        bought = await one_job(market, count, to=100)
        assert bought.pieces == [{"number": number} for number in range(100)]
        assert (bought.job.paid, bought.job.finish, bought.job.text) == (310, "done", "")


async def test_seconds_are_paid_as_they_pass(autojump_clock: Clock) -> None:
    async with found_market() as market:
        bought = await one_job(market, wait, seconds=50)
        assert (bought.text, bought.job.paid, bought.job.finish) == ("tick " * 50, 250, "done")


async def test_seconds_end_with_the_budget(autojump_clock: Clock) -> None:
    async with found_market() as market:
        bought = await one_job(market, wait, budget=101, seconds=50)
        assert (bought.job.paid, bought.job.finish) == (100, "budget")


async def test_prompt_ids_are_paid_with_the_first_chunk(autojump_clock: Clock) -> None:
    async with found_market() as market:
        bought = await one_job(market, read, writer(10), text=words(7))
        assert (bought.job.paid, bought.job.units) == (7 + 20, 10)


async def test_a_plain_function_returns_its_only_piece(autojump_clock: Clock) -> None:
    async with found_market() as market:
        bought = await one_job(market, flat)
        assert (bought.pieces, bought.job.paid) == ([b"\x00\xff"], 42)


# --- skills that misbehave --------------------------------------------------------------------------


def misbehaving(value: object, price: str = "1/item") -> Skill:
    @skill("odd", price=price)
    async def odd(job: Work) -> AsyncIterator[object]:
        yield "fine"
        yield value

    return odd


@pytest.mark.parametrize(
    ("value", "words_"),
    [
        (object(), "JSON has no object"),
        ("\ud800", "lone surrogate"),
        (float("nan"), "InvalidInput"),
        (b"x" * (DATA_SIZE_MAX + 1), "split it"),
        ({"deep": [[[[]]] * 2**18]}, "InvalidInput"),
    ],
    ids=["no JSON", "no Unicode", "no number", "too large", "too large as JSON"],
)
async def test_a_yield_that_cannot_travel_ends_the_job_and_costs_nothing(
    value: object, words_: str, autojump_clock: Clock
) -> None:
    async with found_market() as market:
        bought = await one_job(market, misbehaving(value))
        assert isinstance(bought.failure, NoOffers)
        assert words_ in str(bought.failure)
        assert (bought.pieces, bought.job.paid) == (["fine"], 1)


async def test_under_a_price_per_token_only_tokens_can_be_sold(autojump_clock: Clock) -> None:
    async with found_market() as market:
        bought = await one_job(market, misbehaving("text", "1/token"), writer(1))
        assert "only what its model generated" in str(bought.failure)
        assert bought.job.paid == 0


async def test_a_skill_without_a_model_says_so(autojump_clock: Clock) -> None:
    async with found_market() as market:
        bought = await one_job(market, write, text="go")
        assert "needs a model of kind 'text'" in str(bought.failure)


async def test_a_skill_that_fails_while_it_is_stopped_harms_nobody(autojump_clock: Clock) -> None:
    @skill("write", price="2/token")
    async def clumsy(job: Work, text: str) -> AsyncIterator[object]:
        try:
            async for token in job.model.stream(text):
                yield token
        finally:
            raise RuntimeError("while cleaning up")

    async with found_market() as market:
        async with market.agent("alice", [clumsy], writer(200)), market.agent("bob") as bob:
            await buy(bob, await bob.find("write"), stop_after=1)
            await market.check_rest("alice", "bob")
            assert (await buy(bob, await bob.find("write"), stop_after=1)).job.finish == "canceled"


async def test_a_skill_that_will_not_stop_is_left_behind_after_a_second(autojump_clock: Clock) -> None:
    @skill("write", price="2/token")
    async def stubborn(job: Work, text: str) -> AsyncIterator[object]:
        try:
            async for token in job.model.stream(text):
                yield token
        finally:
            await trio.sleep(1000)

    async with found_market() as market:
        async with market.agent("alice", [stubborn], writer(200)), market.agent("bob") as bob:
            await buy(bob, await bob.find("write"), stop_after=1)
            await market.check_rest("alice", "bob")


# --- closing and coming back ------------------------------------------------------------------------


async def test_a_seller_that_closes_says_so_is_paid_and_another_one_goes_on(autojump_clock: Clock) -> None:
    async with found_market() as market:
        cheap = skill("write", price="1/token")(write.function)
        model = writer(200, tokens_per_second=50)
        async with market.agent("carol", [write], model), market.agent("bob") as bob:
            bought: list[Bought] = []
            async with trio.open_nursery() as nursery:
                async with market.agent("alice", [cheap], model) as alice:
                    offers = await bob.find("write", at_least=2)

                    async def one() -> None:
                        bought.append(await buy(bob, offers))

                    nursery.start_soon(one)
                    await trio.sleep(2)
                    closing = alice._open_parts.seller
            first, second = bought[0].job.legs
            assert bought[0].text == words(200)
            assert "stopped before it had done" in first.failure
            assert (first.name, second.name, second.continued) == ("alice", "carol", True)
            assert closing._tills.unpaid == 0
            await market.check_rest("bob", "carol")


async def test_a_mutant_that_calls_a_stopped_job_done_sells_half_an_answer(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Sale._finish_at_end

    def lying(self: Sale) -> None:
        self._failure = None
        honest(self)

    monkeypatch.setattr(Sale, "_finish_at_end", lying)
    async with found_market() as market:
        async with market.agent("bob") as bob:
            bought: list[Bought] = []
            async with trio.open_nursery() as nursery:
                async with market.agent("alice", [write], writer(200, tokens_per_second=50)):
                    offers = await bob.find("write")

                    async def one() -> None:
                        bought.append(await buy(bob, offers))

                    nursery.start_soon(one)
                    await trio.sleep(2)
            assert bought[0].job.finish == "done"  # which the test above does not accept
            assert bought[0].text != words(200)


async def sell_twice(market: Market, kept: dict[str, Any], *, killed: bool) -> Bought:
    """One job before alice is closed or killed, and one after she is back; returns the second."""
    async with market.agent("bob") as bob:
        with trio.CancelScope() as life:
            async with market.agent("alice", [write], writer(50), **kept):
                assert (await buy(bob, await bob.find("write"))).job.paid == 100
                await trio.testing.wait_all_tasks_blocked()  # the last receipt has come
                if killed:
                    life.cancel()
                    await trio.lowlevel.checkpoint()
        async with market.agent("alice", [write], writer(50), **kept) as alice:
            bought = await buy(bob, await bob.find("write"), text="again")
            market.check_bill(bought)
            await market.check_rest("alice", "bob")
            await alice.wallet.close_all()
            assert (await alice.balance()).total == 1_000_100 + bought.job.paid
            return bought


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "closed"])
async def test_a_restarted_seller_refuses_its_old_lock_and_gets_another_one(
    killed: bool, autojump_clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with found_market() as market:
        kept = {"key": market.key("alice"), "home": tmp_path / "alice"}
        bought = await sell_twice(market, kept, killed=killed)
        assert bought.failure is None
        refused, done = bought.job.legs
        assert refused.failure.startswith("refused (lock)")
        assert (refused.amount, done.amount, bought.text) == (0, 100, words(50))
        assert refused.lock != done.lock


async def test_a_mutant_that_forgets_its_receipts_begins_the_old_lock_anew_and_loses_money(
    autojump_clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ainp2p.ledger.rules.receipts.ReceiptBook.highest", lambda self, lock: None)
    async with found_market() as market:
        kept = {"key": market.key("alice"), "home": tmp_path / "alice"}
        with pytest.raises(AssertionError):
            await sell_twice(market, kept, killed=True)


# --- what others see --------------------------------------------------------------------------------


async def test_the_card_says_what_is_free_and_how_fast_it_was(autojump_clock: Clock) -> None:
    async with found_market() as market:
        async with (
            market.agent("alice", [write, count], writer(50, tokens_per_second=25), slots=3) as alice,
            market.agent("bob") as bob,
        ):
            seller = alice._open_parts.seller
            async with bob.hire(await bob.find("write"), budget=100, text="go") as job:
                await anext(job)
                (count_card, write_card) = sorted(seller.cards(), key=lambda card: card.name)
                assert (write_card.free, write_card.slots, write_card.speed) == (2, 3, 25_000)
                assert (count_card.price, count_card.speed) == (count.price.wire(), 0)


async def test_a_seller_with_all_slots_taken_is_asked_again_until_one_is_free(
    autojump_clock: Clock,
) -> None:
    async with found_market() as market:
        model = writer(50, tokens_per_second=25)
        async with market.agent("alice", [write], model, slots=1), market.agent("bob") as bob:
            offers, done = await bob.find("write"), list[Bought]()

            async def one(number: int) -> None:
                done.append(await buy(bob, offers, text=str(number)))

            async with trio.open_nursery() as nursery:
                for number in range(4):
                    nursery.start_soon(one, number)
            assert [(bought.text, bought.failure) for bought in done] == [(words(50), None)] * 4
            await market.check_rest("alice", "bob")


async def race() -> list[Bought]:
    """Six strangers at once for one slot: all have proposals, and one award after the other is too late."""
    async with found_market() as market, AsyncExitStack() as stack:
        model = writer(50, tokens_per_second=25)
        await stack.enter_async_context(market.agent("alice", [write], model, slots=1))
        names = [f"buyer{i}" for i in range(6)]
        buyers = [await stack.enter_async_context(market.agent(name)) for name in names]
        offers = [await buyer.find("write") for buyer in buyers]
        done = list[Bought]()

        async def one(buyer: Agent, found: list[Offer]) -> None:
            done.append(await buy(buyer, found))

        async with trio.open_nursery() as nursery:
            for buyer, found in zip(buyers, offers, strict=True):
                nursery.start_soon(one, buyer, found)
        for buyer in buyers:
            seen = [buyer.directory.experiences.of(offer.agent) for offer in offers[0]]
            assert [each.failed for each in seen] == [0]
        await market.check_rest("alice", *names)
        return done


async def test_who_comes_too_late_for_a_slot_asks_again_and_nothing_is_held_against_anybody(
    autojump_clock: Clock,
) -> None:
    done = await race()
    assert [(bought.text, bought.failure, len(bought.job.legs)) for bought in done] == [
        (words(50), None, 1)
    ] * 6


async def test_mutant_a_buyer_without_patience_gives_up(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Purchase, "_is_patient", lambda self: False)
    assert any(isinstance(bought.failure, NoOffers) for bought in await race())


async def test_a_job_is_kept_for_its_buyer_for_a_while_only(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selling, "KEEP_S", 5.0)
    async with found_market() as market:
        async with market.agent("alice", [write], writer(5)) as alice, market.agent("bob") as bob:
            await buy(bob, await bob.find("write"))
            seller = alice._open_parts.seller
            assert len(seller._sales) == 1
            await trio.sleep(4)
            assert len(seller._sales) == 1
            await trio.sleep(2 + selling.FORGET_S)
            assert (seller._sales, seller._idle) == ({}, {})


async def allowed_while_away(market: Market) -> int:
    """How much a seller would deliver to a buyer whose connection is gone."""
    async with market.agent("alice", [write], writer(200, tokens_per_second=50)) as alice:
        async with market.agent("bob") as bob:
            offers = await bob.find("write")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(buy, bob, offers)
                await trio.sleep(1.5)
                market.hub.partition([market.peer("alice")], [market.peer("bob")])
                await trio.sleep(12)  # the heartbeat has noticed
                (sale,) = alice._open_parts.seller._sales.values()
                sale.till.meter.taken(sale.job, sale.till.meter.tab(sale.job).weight)
                allowed = sale.till.meter.allowance(sale.job)
                market.hub.heal()
                nursery.cancel_scope.cancel()
    return allowed


async def test_nobody_works_for_a_peer_that_has_gone_and_a_mutant_that_does_is_caught(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with found_market() as market:
        assert await allowed_while_away(market) == 0
    monkeypatch.setattr(SellerMeter, "pause", lambda self, job=None: None)
    async with found_market() as market:
        assert await allowed_while_away(market) > 0


async def test_a_seller_whose_disk_fails_counts_no_receipt_and_sells_nothing_more(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def failing(self: Wallet) -> None:
        raise StorageError("disk I/O error")

    async with found_market() as market:
        async with market.agent("alice", [write], writer(200)) as alice, market.agent("bob") as bob:
            offers = await bob.find("write")
            monkeypatch.setattr(Wallet, "save_receipts", failing)
            bought = await buy(bob, offers)
            assert bought.job.units == FIRST_WINDOW  # delivered before anything could be counted as paid
            assert (await buy(bob, offers, text="again")).job.units == 0
            assert alice._open_parts.seller._closing
            lines = [record for record in caplog.records if record.name == "ainp2p.agents.selling"]
            assert [record.getMessage() for record in lines] == ["nothing more is sold: disk I/O error"]


async def test_a_mutant_that_counts_receipts_before_they_are_durable_is_caught(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hasty(self: Till, wallet: Wallet, receipt: Receipt) -> None:
        self.meter.accept(receipt.cumulative, receipt.units, receipt.context)
        raise StorageError("disk I/O error")

    monkeypatch.setattr(Till, "save", hasty)
    async with found_market() as market:
        async with market.agent("alice", [write], writer(200)), market.agent("bob") as bob:
            bought = await buy(bob, await bob.find("write"))
            assert bought.job.units > FIRST_WINDOW
