"""Who speaks for an agent: its account's key, the next one, or whom that key has delegated to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from ainp2p.agents import standing
from ainp2p.agents.standing import SESSION_PURPOSES, Standing, check_session
from ainp2p.errors import (
    BadSignature,
    DelegationEnded,
    Error,
    Expired,
    InvalidInput,
    NoOffers,
    Refused,
    TimedOut,
)
from ainp2p.ledger.rules.operations import Inception, account_id, key_digest, plain_inception
from ainp2p.ledger.wallets.delegation import (
    Delegation,
    SignedDelegation,
    seal_delegation,
    verify_delegated,
)
from ainp2p.ledger.wallets.watchtower import open_watchtower
from ainp2p.protocol import messages
from ainp2p.protocol.card import LIFE_MS, Card
from ainp2p.protocol.codec import encode
from ainp2p.protocol.identity import Key
from ainp2p.protocol.memory import EPOCH_MS, open_memory_network
from ainp2p.protocol.storage import INLINE

from .market_world import Market, buy, found_market, words, write, writer

Clock = trio.testing.MockClock

NETWORK = b"N" * 32
OWNER, NEXT, SESSION, THIEF = (Key(bytes([n]) * 32) for n in range(1, 5))
GUARDIANS = tuple(sorted(Key(bytes([n]) * 32).public for n in (11, 12, 13)))
ACCOUNT = Inception(OWNER.public, key_digest(NEXT.public), GUARDIANS, 2, 60_000, bytes(32))
NOW = 1_000_000
HOUR_MS = 3_600_000


def delegated(signer: Key = OWNER, **change: Any) -> SignedDelegation:
    body = Delegation(
        NETWORK, account_id(NETWORK, ACCOUNT), SESSION.public, 1, NOW, NOW + HOUR_MS, SESSION_PURPOSES
    )
    return seal_delegation(msgspec.structs.replace(body, **change), signer)


def shown(key: Key, delegation: SignedDelegation | None = None, **change: Any) -> Card:
    made = Card(
        network=NETWORK,
        agent=account_id(NETWORK, ACCOUNT),
        inception=encode(ACCOUNT),
        peer=key.peer_id.encode(),
        addresses=(),
        name=b"alice",
        skills=(),
        lineage=(),
        terms=b"",
        issued=NOW,
        expires=NOW + LIFE_MS,
        sequence=1,
        delegation=encode(delegation) if delegation is not None else b"",
    )
    return msgspec.structs.replace(made, **change)


def speaks(key: Key, made: Card, now_ms: int = NOW) -> bool:
    return Standing()(made, key.public, now_ms)


def test_an_account_speaks_by_its_first_key_and_by_the_next_that_it_commits_to() -> None:
    assert speaks(OWNER, shown(OWNER))
    assert speaks(NEXT, shown(NEXT))
    assert not speaks(THIEF, shown(THIEF))


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(shown(OWNER, agent=bytes(32)), id="another agent"),
        pytest.param(shown(OWNER, network=bytes(32)), id="another network"),
        pytest.param(shown(OWNER, inception=b"garbage"), id="no inception"),
        pytest.param(shown(OWNER, inception=encode(plain_inception(OWNER.public))), id="another inception"),
        pytest.param(msgspec.structs.replace(shown(OWNER), delegation=b"garbage"), id="no delegation"),
    ],
)
def test_a_card_that_does_not_belong_together_is_not_believed(made: Card) -> None:
    assert not speaks(OWNER, made)


def test_a_session_key_speaks_for_its_time() -> None:
    made = shown(SESSION, delegated())
    assert [speaks(SESSION, made, at) for at in (NOW - 1, NOW, NOW + HOUR_MS - 1, NOW + HOUR_MS)] == [
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("key", "delegation"),
    [
        pytest.param(THIEF, delegated(), id="another key holds it"),
        pytest.param(SESSION, delegated(THIEF), id="sealed by another key"),
        pytest.param(SESSION, delegated(account=bytes(32)), id="of another account"),
        pytest.param(SESSION, delegated(network=bytes(32)), id="on another network"),
        pytest.param(SESSION, delegated(purposes=(messages.PURPOSE,)), id="not for cards"),
    ],
)
def test_a_delegation_that_does_not_cover_it_is_not_believed(key: Key, delegation: SignedDelegation) -> None:
    assert not speaks(key, shown(key, delegation))


def test_a_new_holder_fences_off_the_one_before() -> None:
    standing = Standing()
    first, second = delegated(), delegated(epoch=2, key=THIEF.public)
    assert standing(shown(SESSION, first), SESSION.public, NOW)
    assert standing(shown(THIEF, second), THIEF.public, NOW)
    assert not standing(shown(SESSION, first), SESSION.public, NOW)
    assert standing(shown(OWNER), OWNER.public, NOW)  # the owner is nobody's holder


def test_holders_are_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "FENCES_MAX", 3)
    known = Standing()
    for n in range(9):
        born = msgspec.structs.replace(ACCOUNT, salt=bytes([n]) * 32)
        id_ = account_id(NETWORK, born)
        made = shown(SESSION, delegated(account=id_), agent=id_, inception=encode(born))
        assert known(made, SESSION.public, NOW)
    assert len(known.fences.seen) == 3


@pytest.mark.parametrize(
    ("delegation", "problem"),
    [
        pytest.param(delegated(key=THIEF.public), InvalidInput, id="another key's"),
        pytest.param(delegated(not_after=NOW + 1), DelegationEnded, id="over"),
        pytest.param(delegated(not_before=NOW + 2), Expired, id="not yet"),
        pytest.param(delegated(purposes=SESSION_PURPOSES[:1]), Refused, id="lets it do too little"),
        pytest.param(delegated(THIEF), BadSignature, id="forged"),
    ],
)
def test_an_agent_does_not_start_under_a_delegation_that_others_would_refuse(
    delegation: SignedDelegation, problem: type[Error]
) -> None:
    check_session(delegated(), ACCOUNT, SESSION.public, NETWORK, NOW + 1)
    with pytest.raises(problem):
        check_session(delegation, ACCOUNT, SESSION.public, NETWORK, NOW + 1)


# --- agents -------------------------------------------------------------------------------------------


def on(market: Market, epoch: int = 1, key: Key = SESSION, life_ms: int = 24 * HOUR_MS) -> SignedDelegation:
    network = market.genesis.network_id
    begins = EPOCH_MS - 1
    body = Delegation(
        network, account_id(network, ACCOUNT), key.public, epoch, begins, begins + life_ms, SESSION_PURPOSES
    )
    return seal_delegation(body, OWNER)


async def test_a_hosted_agent_sells_with_a_session_key_and_its_account_is_paid(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with found_market() as market:
        hosted: dict[str, Any] = {
            "key": SESSION,
            "account": ACCOUNT,
            "delegation": on(market),
            "home": tmp_path,
        }
        async with market.agent("bob") as bob:
            async with market.agent("alice", [write], writer(50), **hosted) as alice:
                assert alice.id == account_id(market.genesis.network_id, ACCOUNT)
                assert alice.peer_id == SESSION.peer_id
                before = (await alice.balance()).total
                bought = await buy(bob, await bob.find("write"))
                assert (bought.text, bought.job.paid) == (words(50), 100)
                with pytest.raises(InvalidInput, match="session key sell"):
                    await buy(alice, await bob.find("write"))
                await market.check_rest("alice", "bob")
            # Leaving, it has closed the Lock: its key is the closer, and needs no account for that.
            async with market.agent("owner", key=OWNER, account=ACCOUNT, home=tmp_path / "owner") as owner:
                with trio.fail_after(60):
                    while (await owner.balance()).available < before + 100:  # noqa: ASYNC110
                        await trio.sleep(1)


async def test_an_agent_with_guardians_buys_and_sells_and_says_that_it_is_alive(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with found_market() as market:
        async with (
            market.agent("alice", [write], writer(9)),
            market.agent("owner", key=OWNER, account=ACCOUNT, home=tmp_path) as owner,
        ):
            assert (await buy(owner, await owner.find("write"))).text == words(9)
            account = owner.wallet.account
            assert (account.guardians, account.seq > 0) == (GUARDIANS, True)
            await trio.sleep(ACCOUNT.lease / 1000 / 2)
            await owner.wallet.refresh()
            assert owner.wallet.account.timestamp > account.timestamp


async def test_a_fenced_holder_sells_no_more(autojump_clock: Clock, tmp_path: Path) -> None:
    second = Key(b"2" * 32)
    async with found_market() as market:
        old: dict[str, Any] = {"key": SESSION, "account": ACCOUNT, "delegation": on(market)}
        new: dict[str, Any] = {"key": second, "account": ACCOUNT, "delegation": on(market, 2, second)}
        async with market.agent("bob") as bob:
            async with market.agent("new", [write], writer(9), home=tmp_path / "new", **new):
                assert [offer.name for offer in await bob.find("write")] == ["new"]
            async with market.agent("old", [write], writer(9), home=tmp_path / "old", **old):
                await trio.sleep(LIFE_MS / 1000)  # the new one's card is over
                with pytest.raises(NoOffers):
                    await bob.find("write")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"key": THIEF, "account": ACCOUNT}, "neither the key"),
        ({"delegation": delegated()}, "pass key= and account="),
        ({"watchtowers": ["nowhere"]}, "peer id"),
    ],
    ids=["another key", "a delegation alone", "no watchtower"],
)
async def test_an_agent_that_nobody_would_believe_does_not_open(
    options: dict[str, Any], told: str, autojump_clock: Clock, tmp_path: Path
) -> None:
    async with found_market() as market:
        with pytest.raises(InvalidInput, match=told):
            async with market.agent("alice", home=tmp_path, **options):
                pass


async def test_an_agent_believes_nothing_before_its_checkpoint_is_shown(autojump_clock: Clock) -> None:
    async with found_market() as market:
        with pytest.raises(TimedOut, match="pinned checkpoint"):
            async with market.agent("alice", checkpoint=b"p" * 32):
                pass


# --- watchtowers --------------------------------------------------------------------------------------


async def watched(market: Market, given: bool) -> int:
    """How many Locks a watchtower holds a receipt of, a while after a job."""
    async with (
        open_memory_network(market.hub, THIEF, bootstrap=[market.address]) as network,
        open_watchtower(network, market.genesis, None, storage=INLINE) as tower,
    ):
        towers = network.addresses[:1] if given else ()
        async with (
            market.agent("alice", [write], writer(50), watchtowers=towers),
            market.agent("bob") as bob,
        ):
            await buy(bob, await bob.find("write"))
            await trio.sleep(12)
            return tower.statistics().watched


async def test_receipts_are_handed_to_the_watchtowers_that_an_agent_names(autojump_clock: Clock) -> None:
    async with found_market() as market:
        assert await watched(market, given=True) == 1


async def test_mutant_a_watchtower_that_is_not_named_holds_nothing(autojump_clock: Clock) -> None:
    async with found_market() as market:
        assert await watched(market, given=False) == 0


# --- planted faults -----------------------------------------------------------------------------------


def test_mutant_a_delegation_whose_seal_is_not_looked_at_lets_a_thief_speak(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forged = shown(SESSION, delegated(THIEF))
    assert not speaks(SESSION, forged)
    monkeypatch.setattr("ainp2p.ledger.wallets.delegation.verify", lambda *_: None)
    assert speaks(SESSION, forged)


def test_mutant_a_delegation_that_is_not_compared_with_the_key_lets_anybody_use_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stolen = shown(THIEF, delegated())
    assert not speaks(THIEF, stolen)
    known = verify_delegated

    class Equal(bytes):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = bytes.__hash__

    def careless(*args: Any, **more: Any) -> Delegation:
        return msgspec.structs.replace(known(*args, **more), key=Equal(SESSION.public))

    monkeypatch.setattr(standing, "verify_delegated", careless)
    assert speaks(THIEF, stolen)


def test_mutant_without_fences_an_old_holder_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ainp2p.ledger.wallets.delegation.Fences.admit", lambda *_: None)
    known = Standing()
    assert known(shown(THIEF, delegated(epoch=2, key=THIEF.public)), THIEF.public, NOW)
    assert known(shown(SESSION, delegated()), SESSION.public, NOW)
