"""One validator of four lies to wallets, or stalls them: no wallet may die of it, freeze, or believe it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from ainp2p.errors import Error, InvalidOperation, NotYet
from ainp2p.ledger.rules.accounts import Account
from ainp2p.ledger.rules.operations import ParsedOperation
from ainp2p.ledger.serving import answers
from ainp2p.ledger.serving.messages import (
    FINAL,
    CreditEntry,
    CreditPage,
    Finals,
    GetCredits,
    Question,
    Status,
)
from ainp2p.ledger.voting.effects import Effects
from ainp2p.ledger.voting.validator import Validator
from ainp2p.ledger.wallets import mirror, submitting
from ainp2p.ledger.wallets.purse import Purse
from ainp2p.protocol.codec import Message, encode
from ainp2p.protocol.network import Call

from .test_wallet_faults import run
from .town import PURSE, Town, open_town


def claim_final(town: Town, liar: int, certificate: bytes) -> None:
    """Let a validator answer every Submit with FINAL and this certificate."""
    town.services[liar]._answers.status = lambda id_, refused=None: Status(id_, FINAL, certificate)  # type: ignore[method-assign]


async def pay_while_one_claims_final() -> None:
    async with open_town() as town, town.wallet("carol") as carol:
        other = await carol.send(town.account("bob"), 5)
        claim_final(town, 0, other.certificate)
        async with town.wallet("alice") as alice:
            paid = await alice.send(town.account("bob"), 7)
            assert paid.certificate != other.certificate


def test_a_sound_certificate_of_another_operation_does_not_end_the_wallet() -> None:
    run(pay_while_one_claims_final)


def test_mutant_a_rule_that_the_certificate_breaks_ends_the_wallet(monkeypatch: pytest.MonkeyPatch) -> None:
    class Never(Error):
        """Nobody raises it."""

    monkeypatch.setattr(submitting, "LedgerError", Never)
    with pytest.raises(BaseExceptionGroup):
        run(pay_while_one_claims_final)


# --- old credits ------------------------------------------------------------------------------------


async def pay_after_a_replay() -> int:
    """A wallet that has lost its files is told of a credit that it consumed long ago; what it then has."""
    async with open_town() as town:
        async with town.wallet("bob") as bob, town.wallet("alice") as alice:
            old = await bob.send(alice.account_id, 5_000)
            with trio.fail_after(10):
                while (await alice.balance()).available < PURSE + 5_000:
                    await alice.refresh()
            await alice.send(town.account("carol"), 5_000)  # consumes it, and the next one hides that it did
            await alice.send(town.account("carol"), PURSE - 1_000)
        decided = town.services[0]._answers.decided(old.operation)
        assert decided is not None

        async def replay(call: Call, question: object) -> None:
            await call.send(encode(Finals(())))
            await trio.sleep(1)
            await call.send(encode(Finals((decided,))))
            await trio.sleep_forever()

        for service in town.services.values():  # whichever she follows; the others do not lie in answers
            service._follow = replay  # type: ignore[method-assign]
        async with town.wallet("alice") as alice:
            await alice._ready()
            await trio.sleep(8)
            before = (await alice.balance()).available
            await alice.send(town.account("carol"), 10)
            return before


def test_an_old_payment_told_again_is_no_money_to_a_wallet_that_lost_its_files() -> None:
    assert run(pay_after_a_replay) == 1_000 - 2  # two fees


def test_mutant_a_wallet_that_takes_itself_for_whole_cannot_pay_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    adopt = Purse.adopt_account

    def keep_whole(self: Purse, account: Account) -> bool:
        jumped = adopt(self, account)
        self.is_whole = True
        return jumped

    monkeypatch.setattr(Purse, "adopt_account", keep_whole)
    with pytest.raises(InvalidOperation, match="unknown-credit"):
        run(pay_after_a_replay)


async def receive_without_files() -> int:
    async with open_town() as town, town.wallet("bob") as bob:
        async with town.wallet("alice") as alice:
            await alice.send(bob.account_id, 10)
        async with town.wallet("alice") as alice:
            await alice._ready()
            await trio.sleep(10)
            before = (await alice.balance()).available
            await bob.send(alice.account_id, 77)
            await trio.sleep(5)
            return (await alice.balance()).available - before


def test_a_wallet_that_lost_its_files_still_sees_what_comes() -> None:
    assert run(receive_without_files) == 77


# --- stalling ---------------------------------------------------------------------------------------


def answer_instead(town: Town, liar: int, lie: Callable[[Question], Awaitable[Message | None]]) -> None:
    """Let a validator answer as `lie` says."""

    async def answer(call: Call, question: Question) -> Message | None:
        return await lie(question)

    town.services[liar]._answer = answer  # type: ignore[method-assign]


async def seconds_to_open(lie: Callable[[Question], Awaitable[Message | None]]) -> float:
    async with open_town() as town:
        answer_instead(town, 0, lie)
        began = trio.current_time()
        async with town.wallet("alice") as alice:
            with trio.move_on_after(100):
                await alice._mirror.refreshed.wait()
            took = trio.current_time() - began
            if took < 100:
                await alice.send(town.account("bob"), 1)
            return took


async def silence(question: Question) -> Message | None:
    await trio.sleep_forever()
    return None


def endless_pages() -> Callable[[Question], Awaitable[Message | None]]:
    pages = iter(range(10**9))

    async def lie(question: Question) -> Message | None:
        if not isinstance(question, GetCredits):
            await trio.sleep_forever()
        await trio.sleep(4)
        first = next(pages) * 128
        entries = [CreditEntry((first + i).to_bytes(34, "big"), 5) for i in range(1, 129)]
        return CreditPage(tuple(entries), 1, 0)

    return lie


@pytest.mark.parametrize("lie", [silence, endless_pages()], ids=["silent", "endless pages of credits"])
def test_one_validator_that_stalls_delays_no_wallet(lie: Any) -> None:
    assert run(seconds_to_open, lie) < 3


def test_mutant_waiting_for_every_last_word_delays_a_wallet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "LAST_WORD_S", 10_000.0)
    assert run(seconds_to_open, endless_pages()) > 30


# --- no room ----------------------------------------------------------------------------------------


async def pay_where_there_was_no_room() -> int:
    """Three of four validators have no room for a while; how many operations a wallet signs for one slot."""
    signed: set[bytes] = set()
    async with open_town() as town, town.wallet("alice") as alice:
        for service in list(town.services.values())[1:]:
            refuse_for_a_while(service._validator, signed)
        await alice.send(town.account("bob"), 5)
        assert (await alice.history())[0].parsed.id in signed
    return len(signed)


def refuse_for_a_while(validator: Validator, heard: set[bytes]) -> None:
    handle = validator.handle_parsed

    def busy(parsed: ParsedOperation, now: int, source: str, out: Effects) -> None:
        heard.add(parsed.id)
        if trio.current_time() < 4:
            raise NotYet("busy", "too many operations of this source wait for others")
        handle(parsed, now, source, out)

    validator.handle_parsed = busy  # type: ignore[method-assign]


def test_validators_without_room_make_no_wallet_sign_twice() -> None:
    assert run(pay_where_there_was_no_room) == 1


def test_mutant_no_room_taken_for_a_refusal_makes_the_wallet_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Never(Error):
        """Nobody raises it."""

    monkeypatch.setattr(answers, "NotYet", Never)
    with pytest.raises(InvalidOperation, match="busy"):
        run(pay_where_there_was_no_room)
