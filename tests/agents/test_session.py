"""Agents on session keys: what they may buy, out of which purse, and how it ends."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from ainp2p.agents import agent as agent_module
from ainp2p.agents.standing import SESSION_PURPOSES
from ainp2p.errors import DelegationEnded, InsufficientFunds, InvalidInput
from ainp2p.ledger.rules.operations import account_id, plain_inception
from ainp2p.ledger.rules.receipts import SIGN_RECEIPT
from ainp2p.ledger.wallets.delegation import Delegation, SignedDelegation, seal_delegation
from ainp2p.protocol.identity import Key
from ainp2p.protocol.memory import EPOCH_MS

from .market_world import Market, buy, found_market, words, write, writer
from .test_standing import ACCOUNT, HOUR_MS, OWNER, SESSION

Clock = trio.testing.MockClock
LIFE_MS = 100_000
BUYING = tuple(sorted((*SESSION_PURPOSES, SIGN_RECEIPT)))


def delegated(
    market: Market,
    purposes: tuple[bytes, ...] = BUYING,
    life_ms: int = 24 * HOUR_MS,
    signer: Key = OWNER,
) -> SignedDelegation:
    network, begins = market.genesis.network_id, EPOCH_MS - 1
    body = Delegation(
        network, account_id(network, ACCOUNT), SESSION.public, 1, begins, begins + life_ms, purposes
    )
    return seal_delegation(body, signer)


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
