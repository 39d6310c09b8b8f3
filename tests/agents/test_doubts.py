"""Cards follow recoveries and rotations: what the ledger has told counts, and it is not asked without end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from ainp2p.agents.doubts import DOUBTS_MAX, PAUSE_S, Doubts
from ainp2p.agents.standing import ASK_AGAIN_MS, LEARNED_MAX, MISFIT_MS, Standing
from ainp2p.errors import InvalidInput, NoOffers, TimedOut
from ainp2p.ledger.rules.accounts import Account, unopened_account
from ainp2p.ledger.rules.operations import account_id, key_digest, plain_inception
from ainp2p.ledger.wallets.wallet import open_wallet
from ainp2p.protocol.card import Card, CardPush
from ainp2p.protocol.codec import encode
from ainp2p.protocol.context import Context
from ainp2p.protocol.identity import Key
from ainp2p.protocol.memory import open_memory_network
from ainp2p.protocol.messages import Signed

from .market_world import Market, buy, found_market, words, write, writer
from .test_session import hosted
from .test_standing import ACCOUNT, NETWORK, NEXT, NOW, OWNER, SESSION, THIEF, delegated, shown

Clock = trio.testing.MockClock
THIRD, FOURTH = Key(b"3" * 32), Key(b"4" * 32)
AGENT = account_id(NETWORK, ACCOUNT)
BORN = unopened_account(NETWORK, ACCOUNT)
NOW_THIRDS: Account = msgspec.structs.replace(
    BORN, seq=7, key=THIRD.public, next_digest=key_digest(FOURTH.public)
)


def told(*accounts: Account) -> Standing:
    standing = Standing()
    for account in accounts:
        standing.learn(AGENT, account, NOW)
    return standing


# --- what counts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "before", "after"),
    [
        pytest.param(OWNER, True, False, id="the first key"),
        pytest.param(NEXT, True, False, id="the key after it"),
        pytest.param(THIRD, False, True, id="the key that it has now"),
        pytest.param(FOURTH, False, True, id="the one that it commits to now"),
        pytest.param(THIEF, False, False, id="another"),
    ],
)
def test_what_the_ledger_has_told_counts_instead_of_the_inception(
    key: Key, before: bool, after: bool
) -> None:
    assert Standing()(shown(key), key.public, NOW) == before
    assert told(NOW_THIRDS)(shown(key), key.public, NOW) == after


def test_a_delegation_is_sealed_by_the_key_that_the_account_has_now() -> None:
    old, new = shown(SESSION, delegated(OWNER)), shown(SESSION, delegated(THIRD))
    assert Standing()(old, SESSION.public, NOW)
    assert not Standing()(new, SESSION.public, NOW)
    assert told(NOW_THIRDS)(new, SESSION.public, NOW)
    assert not told(NOW_THIRDS)(old, SESSION.public, NOW)  # rotation and recovery end delegations


def test_an_older_state_takes_nothing_back() -> None:
    standing = told(NOW_THIRDS, msgspec.structs.replace(BORN, seq=3))
    assert standing(shown(THIRD), THIRD.public, NOW)
    standing.learn(AGENT, None, NOW)  # nobody answered
    assert standing(shown(THIRD), THIRD.public, NOW)


def test_what_was_told_is_remembered_up_to_a_bound() -> None:
    standing = told(NOW_THIRDS)
    for n in range(LEARNED_MAX):
        standing.learn(n.to_bytes(32, "big"), None, NOW)
    assert len(standing._learned) == LEARNED_MAX


def test_mutant_who_takes_every_answer_as_the_newest_believes_the_old_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    standing = told(NOW_THIRDS)
    standing._learned[AGENT] = msgspec.structs.replace(BORN, seq=3), NOW
    assert standing(shown(OWNER), OWNER.public, NOW)


# --- when the ledger is asked -----------------------------------------------------------------------------


def test_an_account_whose_key_cannot_change_is_never_asked_about() -> None:
    plain = plain_inception(OWNER.public)
    made = shown(OWNER, agent=account_id(NETWORK, plain), inception=encode(plain))
    assert not Standing().is_doubtful(made, NOW, believed=True)
    assert not Standing().is_doubtful(made, NOW, believed=False)
    assert not Standing().is_doubtful(shown(OWNER, inception=b"garbage"), NOW, believed=False)
    assert not Standing().is_doubtful(shown(OWNER, agent=bytes(32)), NOW, believed=False)


@pytest.mark.parametrize(("believed", "pause_ms"), [(True, ASK_AGAIN_MS), (False, MISFIT_MS)])
def test_others_are_asked_about_at_once_and_not_again_so_soon(believed: bool, pause_ms: int) -> None:
    standing, made = Standing(), shown(OWNER)
    assert standing.is_doubtful(made, NOW, believed=believed)
    standing.learn(AGENT, None, NOW)
    assert not standing.is_doubtful(made, NOW + pause_ms - 1, believed=believed)
    assert standing.is_doubtful(made, NOW + pause_ms, believed=believed)


class Asking:
    """Doubts over a ledger that is a dict; who was asked about, and what was settled."""

    def __init__(self, nursery: trio.Nursery, accounts: dict[bytes, Account]) -> None:
        self.takes_s = 0.0
        self.asked: list[bytes] = []
        self.settled: list[Card] = []
        self.standing, self.accounts = Standing(), accounts
        context = Context.seeded("doubts", lambda: NOW)
        self.doubts = Doubts(
            self.standing, self.look_up, lambda card, _: self.settled.append(card), nursery, context
        )

    async def look_up(self, agent: bytes) -> Account | None:
        self.asked.append(agent)
        await trio.sleep(self.takes_s)
        if agent not in self.accounts:
            raise TimedOut("nobody answers")
        return self.accounts[agent]


@asynccontextmanager
async def asking(accounts: dict[bytes, Account]) -> AsyncIterator[Asking]:
    async with trio.open_nursery() as nursery:
        yield Asking(nursery, accounts)
        nursery.cancel_scope.cancel()


SIGNED = Signed(b"", bytes(32), bytes(64))


async def test_what_is_told_is_learnt_and_the_card_is_judged_again(autojump_clock: Clock) -> None:
    async with asking({AGENT: NOW_THIRDS}) as world:
        made = shown(THIRD)
        for _ in range(3):
            world.doubts.consider(made, SIGNED, believed=False)
        await trio.sleep(1)
        world.doubts.consider(made, SIGNED, believed=True)
        await trio.sleep(1)
        assert (world.asked, world.settled) == ([AGENT], [made])
        assert world.standing(made, THIRD.public, NOW)


async def test_a_ledger_that_does_not_answer_leaves_it_at_the_inception(autojump_clock: Clock) -> None:
    async with asking({}) as world:
        world.doubts.consider(shown(OWNER), SIGNED, believed=True)
        await trio.sleep(1)
        assert world.settled == [shown(OWNER)]
        assert world.standing(shown(OWNER), OWNER.public, NOW)


async def test_who_makes_up_accounts_makes_us_ask_no_faster(autojump_clock: Clock) -> None:
    async with asking({}) as world:
        for n in range(10 * DOUBTS_MAX):
            born = msgspec.structs.replace(ACCOUNT, salt=n.to_bytes(32, "big"))
            made = shown(OWNER, agent=account_id(NETWORK, born), inception=encode(born))
            world.doubts.consider(made, SIGNED, believed=True)
        await trio.sleep(1)
        assert len(world.asked) <= 11
        await trio.sleep(600)
        assert len(world.asked) == DOUBTS_MAX


async def test_a_doubt_that_comes_in_the_pause_after_the_last_one_is_asked_about_once(
    autojump_clock: Clock,
) -> None:
    async with asking({}) as world:
        world.takes_s = PAUSE_S
        for n in range(3):
            born = msgspec.structs.replace(ACCOUNT, salt=n.to_bytes(32, "big"))
            made = shown(OWNER, agent=account_id(NETWORK, born), inception=encode(born))
            world.doubts.consider(made, SIGNED, believed=True)
            await trio.sleep(1.5 * PAUSE_S)
        await trio.sleep(1)
        assert len(world.asked) == len(set(world.asked)) == 3


# --- agents ------------------------------------------------------------------------------------------------


async def rotate_twice(market: Market) -> None:
    """The account's key is THIRD then; its card shows OWNER's inception."""
    async with open_memory_network(market.hub, Key(b"w" * 32), bootstrap=[market.address]) as network:
        await fund(market)
        async with open_wallet(network, market.genesis, OWNER, None, inception=ACCOUNT) as wallet:
            await wallet.rotate(NEXT, THIRD.public)
            await wallet.rotate(THIRD, FOURTH.public)


async def fund(market: Market) -> None:
    async with market.agent("treasurer") as treasurer:
        await treasurer.wallet.send(account_id(market.genesis.network_id, ACCOUNT), 10_000)


async def test_a_key_after_the_next_sells_and_the_old_ones_card_is_refused(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with found_market() as market, market.agent("bob") as bob:
        account = account_id(market.genesis.network_id, ACCOUNT)
        async with market.agent("alice", [write], writer(9), key=OWNER, account=ACCOUNT, home=tmp_path / "a"):
            old = (await bob.find("write"))[0]
            assert old.key == OWNER.public
        await rotate_twice(market)
        await trio.sleep(MISFIT_MS / 1000)
        new: dict[str, Any] = {"key": THIRD, "account": ACCOUNT, "home": tmp_path / "b"}
        async with market.agent("alice", [write], writer(9), **new) as alice:
            assert alice.id == account
            offers = await bob.find("write", timeout_s=60)
            assert [offer.key for offer in offers] == [THIRD.public]
            bought = await buy(bob, await bob.find("write"))
            assert bought.text == words(9)
            before = bob.directory.cards()
            bob.directory._take(CardPush((old.signed,)), None)
            assert bob.directory.cards() == before
            assert not bob.directory._bound(old.card, old.key, bob.wallet.now_ms())
        await trio.sleep(150)  # its card is over
        bob.directory._take(CardPush((old.signed,)), None)
        with pytest.raises(NoOffers):
            await bob.find("write")
        with pytest.raises(InvalidInput, match="would be refused"):
            async with market.agent(
                "thief", [write], writer(9), key=OWNER, account=ACCOUNT, home=tmp_path / "c"
            ):
                pass


async def test_mutant_a_directory_that_does_not_ask_believes_no_later_key(
    autojump_clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Doubts, "consider", lambda *_, **__: None)
    async with found_market() as market, market.agent("bob") as bob:
        await rotate_twice(market)
        new: dict[str, Any] = {"key": THIRD, "account": ACCOUNT, "home": tmp_path}
        async with market.agent("alice", [write], writer(9), **new):
            await trio.sleep(30)
            with pytest.raises(NoOffers):
                await bob.find("write")


async def test_a_delegation_by_a_later_key_runs_and_one_by_the_first_key_does_not(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with found_market() as market, market.agent("bob") as bob:
        await rotate_twice(market)
        later = hosted(market, tmp_path / "later", signer=THIRD)
        async with market.agent("alice", [write], writer(9), **later):
            with trio.fail_after(60):
                assert (await bob.find("write", timeout_s=30))[0].key == SESSION.public
