"""`Job.reject`: what is no good is not paid further, another seller begins anew, and it is remembered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from ainp2p.agents.agent import Agent
from ainp2p.agents.buying import Buyer
from ainp2p.agents.deposit import Deposit
from ainp2p.agents.job import Job, Piece
from ainp2p.agents.models.scripted import ScriptedModel
from ainp2p.agents.offers import Offer
from ainp2p.agents.skill import skill
from ainp2p.agents.work import Work
from ainp2p.errors import Closed, InvalidInput, NoOffers, Rejected
from ainp2p.protocol.delivery import STEP
from ainp2p.protocol.messages import Cancel, Signed, open_market
from ainp2p.protocol.network import Call

from .market_world import Market, found_market, words, write, writer

Clock = trio.testing.MockClock
GARBAGE = words(200, "g")
cheap = skill("write", price="1/token")(write.function)


@asynccontextmanager
async def cheat_and_honest(
    market: Market, *, cheat: int = 200, honest: bool = True
) -> AsyncIterator[tuple[Agent, list[Offer]]]:
    """A buyer, and offers of a cheat that is cheaper and of an honest seller."""
    bad = ScriptedModel({"": words(cheat, "g")}, tokens_per_second=20)
    async with market.agent("cheat", [cheap], bad), market.agent("bob") as bob:
        if not honest:
            yield bob, await bob.find("write")
        else:
            async with market.agent("alice", [write], writer(100)):
                yield bob, await bob.find("write", at_least=2)
        await market.check_rest("bob")


async def read(job: Job, good: Callable[[str], bool]) -> list[str]:
    """All pieces; rejects at the first one that is not good, whenever that is."""
    pieces: list[str] = []
    async for piece in job:
        if good(str(piece)):
            pieces.append(str(piece))
        else:
            job.reject("not what was asked for")
            pieces.clear()
    return pieces


def is_honest(piece: str) -> bool:
    return "w" in piece


async def test_another_seller_begins_anew_and_the_garbage_is_not_paid(autojump_clock: Clock) -> None:
    async with found_market() as market, cheat_and_honest(market) as (bob, offers):
        async with bob.hire(offers, text="go", budget=600) as job:
            pieces = await read(job, is_honest)
        bad, good = job.legs
        assert "".join(pieces) == job.text == words(100)
        assert (job.finish, job.restarts, job.wasted) == ("done", 1, bad.units)
        assert (bad.name, bad.rejected, bad.failure) == ("cheat", True, "rejected: not what was asked for")
        assert (good.name, good.rejected, good.failure, good.amount) == ("alice", False, "", 200)
        assert 0 < bad.units < STEP
        assert bad.amount == 0


async def test_a_step_at_most_is_lost_to_a_cheat_that_is_read_on(autojump_clock: Clock) -> None:
    """Receipts of the steps before it stay signed; after the rejection there are none."""
    async with found_market() as market, cheat_and_honest(market) as (bob, offers):
        receipts: list[int] = []
        bob._open_parts.buyer.deposits._on_receipt = lambda receipt, lock: receipts.append(receipt.cumulative)
        async with bob.hire(offers, text="go", budget=600) as job:
            seen = 0
            async for _ in job:
                seen += 1
                if seen == 40:
                    before = list(receipts)
                    job.reject()
                    break
            await job.result()
        bad, good = job.legs
        assert bad.amount == sum(before[:1]) == STEP <= 40
        assert bad.failure == "rejected"
        assert good.amount == 200


async def test_the_seller_is_told_why_and_begins_again_with_a_stranger(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with found_market() as market, cheat_and_honest(market) as (bob, offers):
        seller = market.agents["cheat"]._open_parts.seller
        seller._tills._known[bob.id] = None
        heard: list[bytes] = []
        handle = seller._handle_signed

        async def listen(call: Call, signed: Signed) -> bytes | None:
            if isinstance(message := open_market(signed), Cancel):
                heard.append(message.reason)
            return await handle(call, signed)

        monkeypatch.setattr(seller, "_handle_signed", listen)
        async with bob.hire(offers, text="go", budget=600) as job:
            await read(job, is_honest)
        assert heard == [b"not what was asked for"]
        assert bob.id not in seller._tills._known


async def test_who_delivered_garbage_ranks_last_and_is_hired_where_nobody_else_is(
    autojump_clock: Clock,
) -> None:
    async with found_market() as market, cheat_and_honest(market) as (bob, offers):
        assert [offer.name for offer in offers] == ["cheat", "alice"]
        async with bob.hire(offers, text="go", budget=600) as job:
            await read(job, is_honest)
        offers = await bob.find("write", at_least=2)
        assert [offer.name for offer in offers] == ["alice", "cheat"]
        assert "0 done, 0 failed, 1 rejected" in offers[1].explain()
        async with bob.hire(offers, text="go", budget=600) as job:
            assert await job.result() == words(100)
        assert [leg.name for leg in job.legs] == ["alice"]
        async with bob.hire(offers[1], text="go", budget=600) as job:
            await anext(job)
        assert [leg.name for leg in job.legs] == ["cheat"]


async def test_a_result_that_has_ended_can_be_rejected_and_is_bought_elsewhere(
    autojump_clock: Clock,
) -> None:
    async with found_market() as market, cheat_and_honest(market, cheat=5) as (bob, offers):
        async with bob.hire(offers, text="go", budget=600) as job:
            assert await job.result() == words(5, "g")
            assert repr(job).startswith("Job(write: done")
            job.reject("made up")
            assert repr(job).startswith("Job(write: working")
            assert job.text == ""
            assert await job.result() == words(100)
        assert [(leg.name, leg.amount, leg.rejected) for leg in job.legs] == [
            ("cheat", 5, True),
            ("alice", 200, False),
        ]
        assert job.finish == "done"


async def test_leaving_after_a_rejection_is_no_success(autojump_clock: Clock) -> None:
    async with found_market() as market, cheat_and_honest(market) as (bob, offers):
        async with bob.hire(offers, text="go", budget=600) as job:
            await anext(job)
            job.reject("enough")
        assert (job.finish, job.paid, [leg.name for leg in job.legs]) == ("rejected", 0, ["cheat"])
        assert "rejected" in repr(job)
        seen = bob.directory.experiences.of(job.legs[0].seller)
        assert (seen.done, seen.failed, seen.rejected) == (0, 0, 1)


async def test_without_anybody_else_it_fails_and_says_why(autojump_clock: Clock) -> None:
    async with found_market() as market, cheat_and_honest(market, honest=False) as (bob, offers):
        async with bob.hire(offers, text="go", budget=600) as job:
            with pytest.raises(NoOffers, match="tried before: cheat: rejected: not what was asked for"):
                await read(job, is_honest)
        assert (job.finish, job.is_rejected, job.paid) == (None, True, 0)


async def test_a_budget_that_is_used_up_by_garbage_is_told(autojump_clock: Clock) -> None:
    async with found_market() as market, cheat_and_honest(market, cheat=5) as (bob, offers):
        async with bob.hire(offers, text="go", budget=6) as job:
            await job.result()
            job.reject()
            with pytest.raises(Rejected, match="what is left of the budget buys nothing more"):
                await job.result()
        assert job.paid == 5


async def test_nothing_is_rejected_twice_or_before_it_came_or_after_its_block(autojump_clock: Clock) -> None:
    async with found_market() as market, cheat_and_honest(market) as (bob, offers):
        async with bob.hire(offers, text="go", budget=600) as job:
            with pytest.raises(InvalidInput, match="nothing has come"):
                job.reject()
            await anext(job)
            job.reject()
            with pytest.raises(InvalidInput, match="nothing has come"):
                job.reject()
            assert await job.result() == words(100)
        with pytest.raises(Closed):
            job.reject()
        assert [leg.rejected for leg in job.legs] == [True, False]


async def test_a_skill_of_our_own_cannot_be_rejected(autojump_clock: Clock) -> None:
    async with found_market() as market, market.agent("bob", model=writer(3)) as bob:
        async with bob.hire(write, text="go") as job:
            await job.result()
            with pytest.raises(InvalidInput, match="nobody"):
                job.reject()


@skill("work", price="1/item")
async def half(job: Work, text: str) -> AsyncIterator[str]:
    """Garbage, and then a failure of the seller's own."""
    yield "garbage"
    raise ZeroDivisionError


@skill("work", price="2/item")
async def whole(job: Work, text: str) -> AsyncIterator[str]:
    """What was asked for."""
    for word in text.split():
        yield word


async def test_who_is_blamed_is_who_delivered_what_was_read(autojump_clock: Clock) -> None:
    """The one at work by then has begun anew, and is not disturbed."""
    async with found_market() as market:
        async with (
            market.agent("cheat", [half]),
            market.agent("alice", [whole]),
            market.agent("bob") as bob,
        ):
            offers = await bob.find("work", at_least=2)
            async with bob.hire(offers, text="a b c", budget=100) as job:
                await trio.sleep(5)  # all of it is here, unread
                assert await anext(job) == "garbage"
                job.reject("no")
                assert [piece async for piece in job] == ["a", "b", "c"]
            assert [(leg.name, leg.rejected, leg.amount) for leg in job.legs] == [
                ("cheat", True, 1),
                ("alice", False, 6),
            ]
            await market.check_rest("bob")


async def test_who_goes_on_from_garbage_is_stopped_and_paid_and_not_blamed(autojump_clock: Clock) -> None:
    crashing = ScriptedModel({"": words(70, "g") + " <crash>"})
    slow = ScriptedModel({"": words(70, "g") + "  " + words(31)}, tokens_per_second=10)
    slow.info = crashing.info  # the hash of the weights, as both say
    async with found_market() as market:
        async with (
            market.agent("cheat", [cheap], crashing),
            market.agent("alice", [write], slow),
            market.agent("bob") as bob,
        ):
            offers = await bob.find("write", at_least=2)
            async with bob.hire(offers, text="go", budget=600) as job:
                read = 0
                async for piece in job:
                    assert isinstance(piece, Piece)
                    read += len(piece.tokens)
                    if read == 70:  # the next one is the other seller's
                        break
                await trio.sleep(1)
                assert job.seller == "alice"
                job.reject("no")
                assert len(str(await job.result()).split()) == 101
            first, second, third = job.legs
            assert (first.name, first.rejected) == ("cheat", True)
            assert (second.name, second.rejected, second.continued) == ("alice", False, True)
            assert second.amount == 2 * second.units > 0
            assert (third.name, third.continued, job.finish) == ("alice", False, "done")
            await market.check_rest("bob")


async def test_a_parallel_job_on_the_same_lock_ends_elsewhere(autojump_clock: Clock) -> None:
    """A receipt for it would pay for the garbage as well: none is signed."""
    async with found_market() as market, cheat_and_honest(market) as (bob, offers):
        jobs: list[Job] = []

        async def one(read_s: float) -> None:
            async with bob.hire(offers, text="go", budget=600) as job:
                jobs.append(job)
                if read_s:
                    await anext(job)
                    await trio.sleep(read_s)
                    job.reject("no")
                assert str(await job.result()).endswith(words(100))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, 0.2)
            nursery.start_soon(one, 0)
        assert [[leg.name for leg in job.legs] for job in jobs] == [["cheat", "alice"]] * 2
        assert sum(job.legs[0].amount for job in jobs) == 0


# --- mutants ------------------------------------------------------------------------------------------


async def test_mutant_a_rejection_that_signs_for_what_came_pays_for_garbage(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    close_job = Deposit.close_job
    monkeypatch.setattr(Deposit, "close_job", lambda self, job, pay: close_job(self, job))
    async with found_market() as market, cheat_and_honest(market) as (bob, offers):
        async with bob.hire(offers, text="go", budget=600) as job:
            await read(job, is_honest)
        assert job.legs[0].amount > 0


async def test_mutant_a_buyer_that_does_not_remember_hires_the_cheat_again(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Buyer, "_trusted", lambda self, offers: offers)
    async with found_market() as market, cheat_and_honest(market) as (bob, offers):
        for _ in range(2):
            async with bob.hire(offers, text="go", budget=600) as job:
                await read(job, is_honest)
        assert [leg.name for leg in job.legs] == ["cheat", "alice"]
