"""Agents on session keys: what they may buy, out of which purse, and how it ends."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from ainp2p.agents import agent as agent_module
from ainp2p.agents import session
from ainp2p.agents.standing import SESSION_PURPOSES
from ainp2p.errors import (
    BadSignature,
    DelegationEnded,
    Error,
    InsufficientFunds,
    InvalidInput,
    NoOffers,
    Refused,
)
from ainp2p.ledger.rules.operations import account_id, plain_inception
from ainp2p.ledger.rules.receipts import SIGN_RECEIPT
from ainp2p.ledger.wallets.delegation import Delegation, Mandate, SignedDelegation, seal_delegation
from ainp2p.protocol.background import background
from ainp2p.protocol.codec import encode
from ainp2p.protocol.identity import Key
from ainp2p.protocol.memory import EPOCH_MS

from .market_world import Market, buy, found_market, words, write, writer
from .test_standing import ACCOUNT, HOUR_MS, OWNER, SESSION, THIEF

Clock = trio.testing.MockClock
LIFE_MS = 100_000
BUYING = tuple(sorted((*SESSION_PURPOSES, SIGN_RECEIPT)))


def delegated(
    market: Market,
    purposes: tuple[bytes, ...] = BUYING,
    life_ms: int = 24 * HOUR_MS,
    signer: Key = OWNER,
    **change: Any,
) -> SignedDelegation:
    network, begins = market.genesis.network_id, EPOCH_MS - 1
    body = Delegation(
        network, account_id(network, ACCOUNT), SESSION.public, 1, begins, begins + life_ms, purposes
    )
    return seal_delegation(msgspec.structs.replace(body, **change), signer)


def hosted(market: Market, home: Path, **options: Any) -> dict[str, Any]:
    return {"key": SESSION, "account": ACCOUNT, "delegation": delegated(market, **options), "home": home}


def allowance_of(market: Market) -> bytes:
    return account_id(market.genesis.network_id, plain_inception(SESSION.public))


async def test_a_session_key_buys_from_its_own_account_what_it_was_allowed(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with (
        found_market() as market,
        market.agent("bob", [write], writer(50)) as bob,
        market.agent("alice", [write], writer(9), **hosted(market, tmp_path)) as alice,
    ):
        before = (await alice.balance()).total
        await bob.wallet.send(allowance_of(market), 10_000)
        assert alice.purse.account_id == allowance_of(market)
        await alice.purse.refresh()
        bought = await buy(alice, await alice.find("write"))
        assert (bought.text, bought.job.paid) == (words(50), 100)
        assert (await buy(bob, await bob.find("write"))).text == words(9)  # and it sells for its account
        await market.check_rest("alice", "bob")
        assert (await alice.balance()).total >= before  # nothing of the account was spent
        assert (await alice.purse.balance()).total < 10_000


async def test_an_allowance_is_all_that_a_session_key_can_spend(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with (
        found_market() as market,
        market.agent("bob", [write], writer(50)) as bob,
        market.agent("alice", **hosted(market, tmp_path)) as alice,
    ):
        assert (await alice.balance()).total > 0
        await bob.wallet.send(allowance_of(market), 20)
        await alice.purse.refresh()
        bought = await buy(alice, await alice.find("write"))
        assert isinstance(bought.failure, InsufficientFunds)


async def refusal(market: Market, home: Path) -> str:
    """What an agent is told that may only sell, and hires."""
    async with (
        market.agent("bob", [write], writer(50)),
        market.agent("alice", **hosted(market, home, purposes=SESSION_PURPOSES)) as alice,
    ):
        assert alice.purse is alice.wallet
        try:
            return str((await buy(alice, await alice.find("write"))).failure)
        except InvalidInput as exc:
            return str(exc)


async def test_a_delegation_without_receipts_lets_it_sell_only_and_says_what_to_do(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with found_market() as market:
        assert "--allowance" in await refusal(market, tmp_path)


async def test_mutant_who_is_not_asked_for_receipts_pays_without_leave(
    autojump_clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "refuse_buying", lambda delegation: None)
    async with found_market() as market:
        assert "--allowance" not in await refusal(market, tmp_path)


# --- its end ----------------------------------------------------------------------------------------------


async def lives_on(market: Market, home: Path, life_ms: int, seconds: float) -> list[str]:
    """What an agent on such a delegation does for so long; how it ended is last."""
    done: list[str] = []
    try:
        async with market.agent("alice", [write], writer(9), **hosted(market, home, life_ms=life_ms)):
            done.append("opened")
            await trio.sleep(seconds)
            done.append("lives")
    except DelegationEnded as exc:
        told = "ainp2p wallet delegate" in str(exc)
        done.append("ended" if told and exc.ended_ms == EPOCH_MS - 1 + life_ms else str(exc))
    return done


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "ainp2p.agents.session"]


async def test_an_agent_is_told_before_its_delegation_ends_and_ends_with_it(
    autojump_clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with found_market() as market:
        assert await lives_on(market, tmp_path, LIFE_MS, 200) == ["opened", "ended"]
    (warning,) = warned(caplog)
    assert "'alice'" in warning
    assert "ends in 10 s" in warning or "ends in 9 s" in warning
    assert trio.current_time() == pytest.approx(100, abs=10)


async def test_a_delegation_with_time_left_says_nothing(
    autojump_clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with found_market() as market:
        assert await lives_on(market, tmp_path, LIFE_MS, 80) == ["opened", "lives"]
    assert warned(caplog) == []


async def test_an_agent_does_not_open_on_a_delegation_that_is_over(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with found_market() as market:
        await trio.sleep(100)
        assert await lives_on(market, tmp_path, LIFE_MS, 1) == ["ended"]


async def test_a_fault_of_the_agents_own_block_is_not_taken_for_its_end(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with found_market() as market:
        with pytest.raises(ValueError, match="ours"):
            async with market.agent("alice", **hosted(market, tmp_path)):
                raise ValueError("ours")


async def test_mutant_without_the_watch_it_goes_on_when_nobody_believes_it(
    autojump_clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "until_its_end", lambda *_: nullcontext())
    async with found_market() as market:
        assert await lives_on(market, tmp_path, LIFE_MS, 200) == ["opened", "lives"]


# --- renewing ---------------------------------------------------------------------------------------------


async def sells_on(market: Market, home: Path, seconds: float) -> list[str]:
    """Renewed to 300 s after 90 of 100, and asked for work after so many; how it ended is last."""
    done: list[str] = []
    async with market.agent("bob") as bob:
        try:
            async with market.agent(
                "alice", [write], writer(9), **hosted(market, home, life_ms=LIFE_MS)
            ) as alice:
                await trio.sleep(90)
                await alice.renew(delegated(market, life_ms=3 * LIFE_MS, epoch=2))
                await trio.sleep(seconds - 90)
                try:
                    done.append((await buy(bob, await bob.find("write"))).text)
                except NoOffers:
                    done.append("nobody believes it")
                await trio.sleep(1_000)
        except DelegationEnded as exc:
            done.append(f"ended after {(exc.ended_ms - EPOCH_MS) // 1000 + 1} s")
    return done


async def test_an_agent_that_is_renewed_sells_on_and_ends_with_the_newer_delegation(
    autojump_clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with found_market() as market:
        assert await sells_on(market, tmp_path, 200) == [words(9), "ended after 300 s"]
    assert len(warned(caplog)) == 2  # each of both ends was announced


async def test_mutant_a_watch_that_is_not_told_ends_it_all_the_same(
    autojump_clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session.Term, "renew", lambda self, delegation: None)
    async with found_market() as market:
        assert await sells_on(market, tmp_path, 200) == ["ended after 100 s"]


async def test_mutant_without_the_comparison_an_older_delegation_shortens_its_life(
    autojump_clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "check_newer", lambda newer, held: None)
    async with found_market() as market:
        async with market.agent("alice", **hosted(market, tmp_path, life_ms=2 * LIFE_MS)) as alice:
            await alice.renew(delegated(market, life_ms=LIFE_MS))
            assert alice._session is not None
            assert alice._session.not_after == EPOCH_MS - 1 + LIFE_MS


@pytest.mark.parametrize(
    ("change", "error"),
    [
        pytest.param({"key": THIEF.public}, InvalidInput, id="another session key"),
        pytest.param({"account": bytes(32)}, Refused, id="another account"),
        pytest.param({"network": bytes(32)}, Refused, id="another network"),
        pytest.param({"epoch": 2}, InvalidInput, id="an older epoch"),
        pytest.param({"not_after": EPOCH_MS + 1_000}, InvalidInput, id="no later"),
        pytest.param({"not_after": EPOCH_MS}, DelegationEnded, id="over"),
        pytest.param({"signer": THIEF}, BadSignature, id="another key has sealed it"),
        pytest.param({"purposes": SESSION_PURPOSES[:2]}, Refused, id="lets it do too little"),
    ],
)
async def test_a_renewal_that_others_would_not_believe_is_refused(
    autojump_clock: Clock, tmp_path: Path, change: dict[str, Any], error: type[Error]
) -> None:
    async with found_market() as market:
        good = hosted(market, tmp_path, epoch=3)
        async with market.agent("alice", **good) as alice:
            with pytest.raises(error):
                await alice.renew(delegated(market, **{"epoch": 3, "life_ms": 25 * HOUR_MS, **change}))
            assert alice._delegation == good["delegation"]
            await alice.renew(good["delegation"])  # what it has: nothing changes
            await alice.renew(delegated(market, epoch=3, life_ms=25 * HOUR_MS))  # it ends later, that is all


async def test_an_agent_on_its_accounts_own_key_is_not_renewed(autojump_clock: Clock) -> None:
    async with found_market() as market, market.agent("alice") as alice:
        with pytest.raises(InvalidInput, match="own key"):
            await alice.renew(delegated(market))


async def test_what_was_opened_to_sell_does_not_buy_before_it_is_opened_again(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with (
        found_market() as market,
        market.agent("bob", [write], writer(50)),
        market.agent("alice", **hosted(market, tmp_path, purposes=SESSION_PURPOSES)) as alice,
    ):
        await alice.renew(delegated(market, epoch=2))
        offers = await alice.find("write")
        with pytest.raises(InvalidInput, match="--allowance"):
            alice.hire(offers, budget=100, text="go")
        assert await alice.return_allowance() == 0


async def test_a_mandate_that_comes_into_the_file_renews_the_agent(
    autojump_clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "alice.mandate"
    async with found_market() as market:

        def put(**change: Any) -> None:
            file.write_bytes(encode(Mandate(ACCOUNT, delegated(market, **change))))

        put(life_ms=LIFE_MS)
        ended_ms = 0
        try:
            async with (
                market.agent("alice", **hosted(market, tmp_path, life_ms=LIFE_MS)) as alice,
                background() as nursery,
            ):
                nursery.start_soon(alice.renew_from, file)
                await trio.sleep(30)
                file.write_bytes(b"garbage")
                await trio.sleep(30)
                file.unlink()
                await trio.sleep(32)  # it has been warned
                put(life_ms=3 * LIFE_MS, epoch=2)
                await trio.sleep_forever()
        except DelegationEnded as exc:
            ended_ms = exc.ended_ms
    assert ended_ms == EPOCH_MS - 1 + 3 * LIFE_MS
    told = [text for text in warned(caplog) if "does not go on" in text]
    assert len(told) == 1  # about the garbage, and once


async def test_what_is_left_of_an_allowance_goes_back_to_the_account(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with (
        found_market() as market,
        market.agent("bob") as bob,
        market.agent("alice", **hosted(market, tmp_path)) as alice,
    ):
        assert await alice.return_allowance() == 0
        await bob.wallet.send(allowance_of(market), 10_000)
        await alice.purse.refresh()
        before = (await alice.balance()).total
        assert await alice.return_allowance() == 10_000 - 1  # the fee
        await alice.wallet.refresh()
        assert (await alice.balance()).total == before + 10_000 - 1
        assert (await alice.purse.balance()).total == 0
