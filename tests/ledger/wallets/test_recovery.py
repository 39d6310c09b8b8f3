"""Lost keys: rotation, heartbeats, guardians; the request by hand, then whole wallets in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from ainp2p.errors import BadSignature, Error, InvalidInput, InvalidOperation, Malformed, TimedOut
from ainp2p.ledger.rules.accounts import Account, account_digest, unopened_account
from ainp2p.ledger.rules.genesis import DEVELOPMENT
from ainp2p.ledger.rules.operations import (
    Inception,
    Recover,
    Spend,
    account_id,
    key_digest,
    parse,
    plain_inception,
)
from ainp2p.ledger.voting.contact import Contact
from ainp2p.ledger.wallets import beating
from ainp2p.ledger.wallets.committee_clock import CommitteeClock
from ainp2p.ledger.wallets.publishing import publish
from ainp2p.ledger.wallets.recovery import (
    GuardianSignature,
    Recovery,
    finished_recovery,
    new_recovery,
    read_recovery,
    sign_recovery,
)
from ainp2p.ledger.wallets.settling import SettlePolicy
from ainp2p.ledger.wallets.wallet import Wallet, open_wallet
from ainp2p.ledger.wallets.wallet_keys import KeyRing, beat_due_ms
from ainp2p.protocol.codec import encode
from ainp2p.protocol.memory import EPOCH_MS
from ainp2p.protocol.storage import INLINE

from ..town import Town, open_town
from ..world import key_of

NETWORK = b"n" * 32
GUARDIANS = ("guardian 1", "guardian 2", "guardian 3")
LEASE_MS = 30_000
DAY_MS = 86_400_000
SILENT = SettlePolicy(threshold=10**15, interval_ms=10**12, refund=False, at_close_s=0, heartbeat=False)
BEATING = SettlePolicy(threshold=10**15, interval_ms=10**12, refund=False, at_close_s=0)


def guarded(name: str = "owner", lease_ms: int = LEASE_MS) -> Inception:
    return Inception(
        key_of(name).public,
        key_digest(key_of(name + "'").public),
        tuple(sorted(key_of(guardian).public for guardian in GUARDIANS)),
        2,
        lease_ms,
        bytes(32),
    )


def account(**changes: Any) -> Account:
    opened = msgspec.structs.replace(
        unopened_account(NETWORK, guarded()), seq=3, head=b"h" * 32, balance=500, timestamp=1_000
    )
    return msgspec.structs.replace(opened, **changes)


def request(**changes: Any) -> Recovery:
    made = new_recovery(
        account(),
        key_of("new").public,
        key_of("new'").public,
        DEVELOPMENT,
        network=NETWORK,
        now_ms=1_000 + LEASE_MS,
    )
    return msgspec.structs.replace(made, **changes)


# --- the request, by hand -------------------------------------------------------------------------


def test_two_of_three_guardians_finish_a_request() -> None:
    asked = read_recovery(encode(request()), NETWORK)
    assert asked.missing == 2
    with pytest.raises(InvalidInput, match="2 more"):
        finished_recovery(asked)
    asked = sign_recovery(asked, key_of("guardian 3"))
    asked = sign_recovery(asked, key_of("guardian 3"))  # twice is once
    asked = sign_recovery(read_recovery(encode(asked), NETWORK), key_of("guardian 1"))
    parsed = parse(finished_recovery(asked))
    assert isinstance(parsed.operation.body, Recover)
    third = sign_recovery(asked, key_of("guardian 2"))
    assert len(finished_recovery(third).signatures) == 2


def test_nobody_else_signs_a_request() -> None:
    with pytest.raises(InvalidInput, match="guardians"):
        sign_recovery(request(), key_of("owner"))


@pytest.mark.parametrize(
    ("rule", "changes", "now_ms"),
    [
        pytest.param("unopened", {"seq": 0}, 10**9, id="nothing was ever decided"),
        pytest.param("guardians", {"guardians": (), "m": 0}, 10**9, id="no guardians"),
        pytest.param("lease-min", {"lease": DEVELOPMENT.lease_ms_min - 1}, 10**9, id="a lease too short"),
        pytest.param("lease", {}, 1_000 + LEASE_MS - 1, id="the owner has spoken"),
    ],
)
def test_a_request_is_not_made(rule: str, changes: dict[str, Any], now_ms: int) -> None:
    key = key_of("new").public
    with pytest.raises(InvalidOperation) as refused:
        new_recovery(account(**changes), key, key, DEVELOPMENT, network=NETWORK, now_ms=now_ms)
    assert refused.value.rule == rule


def shown(**changes: Any) -> Recovery:
    """A request that shows another state than the one it recovers."""
    return request(account=account(**changes))


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(request(version=2), id="another version"),
        pytest.param(shown(seq=4), id="another slot"),
        pytest.param(shown(head=b"o" * 32), id="another head"),
        pytest.param(shown(balance=400), id="another balance"),
        pytest.param(shown(m=1), id="fewer guardians"),
        pytest.param(shown(lease=1), id="another lease"),
        pytest.param(
            request(signatures=(GuardianSignature(key_of("owner").public, bytes(64)),)), id="no guardian's"
        ),
        pytest.param(
            request(signatures=sign_recovery(request(), key_of("guardian 1")).signatures * 2), id="one twice"
        ),
    ],
)
def test_a_request_that_does_something_else_than_it_shows_is_refused(bad: Recovery) -> None:
    with pytest.raises(InvalidInput):
        read_recovery(encode(bad), NETWORK)


def test_a_request_with_a_forged_consent_or_for_another_network_is_refused() -> None:
    forged = request(signatures=(GuardianSignature(key_of("guardian 1").public, bytes(64)),))
    with pytest.raises(BadSignature):
        read_recovery(encode(forged), NETWORK)
    with pytest.raises(InvalidInput, match="network"):
        read_recovery(encode(request()), b"o" * 32)
    with pytest.raises(Malformed):
        read_recovery(b"junk", NETWORK)


def test_mutant_a_guardian_who_does_not_compare_signs_away_the_account(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the comparison of digests a request could show one state and take another one's money."""
    from ainp2p.ledger.wallets import recovery

    bad = shown(balance=400)
    monkeypatch.setattr(recovery, "account_digest", lambda _: bad.operation.body.digest)  # type: ignore[union-attr]  # a RECOVER
    read_recovery(encode(bad), NETWORK)


def test_the_digest_says_that_only_keys_change() -> None:
    body = request().operation.body
    assert isinstance(body, Recover)
    after = msgspec.structs.replace(
        account(),
        seq=4,
        key=key_of("new").public,
        next_digest=key_digest(key_of("new'").public),
        timestamp=1_000 + LEASE_MS,
    )
    assert body.digest == account_digest(after)


# --- keys -----------------------------------------------------------------------------------------


def test_a_heartbeat_is_due_after_a_third_of_the_lease() -> None:
    assert beat_due_ms(account()) == 1_000 + LEASE_MS // 3
    assert beat_due_ms(account(seq=0)) == 0
    assert beat_due_ms(account(guardians=())) is None


def test_a_ring_without_the_key_signs_nothing() -> None:
    ring = KeyRing(key_of("owner"))
    assert ring.is_current(account())
    assert not ring.is_current(account(key=key_of("new").public))
    with pytest.raises(InvalidInput, match="next key"):
        ring.following(account())
    with pytest.raises(InvalidInput, match="never rotate"):
        ring.following(unopened_account(NETWORK, plain_inception(key_of("owner").public)))
    ring.add(key_of("owner'"))
    assert ring.rotation(account(), key_of("owner''").public).key == key_of("owner'").public
    for old in ("owner", "owner'"):
        with pytest.raises(InvalidInput, match="new one"):
            ring.rotation(account(), key_of(old).public)


# --- whole wallets --------------------------------------------------------------------------------


@asynccontextmanager
async def opened(
    town: Town,
    name: str = "owner",
    policy: SettlePolicy = SILENT,
    inception: Inception | None = None,
    directory: Path | None = None,
    others: tuple[str, ...] = (),
) -> AsyncIterator[Wallet]:
    async with (
        town.network(key_of(f"{name} at {trio.current_time()}")) as network,
        open_wallet(
            network,
            town.genesis,
            key_of(name),
            directory,
            inception=inception or guarded(),
            other_keys=[key_of(other) for other in others],
            policy=policy,
            storage=INLINE,
        ) as wallet,
    ):
        yield wallet


@asynccontextmanager
async def funded(root: Path | None = None) -> AsyncIterator[Town]:
    """A town in which the guarded account has 10,000 uain."""
    async with open_town(root=root) as town, town.wallet("alice") as alice:
        await alice.send(account_id(town.network_id, guarded()), 10_000)
        yield town


async def ask(town: Town, state: Account, guardians: tuple[str, ...] = GUARDIANS[:2]) -> Recovery:
    now_ms = EPOCH_MS + int(trio.current_time() * 1000)
    made = new_recovery(
        state,
        key_of("new").public,
        key_of("new'").public,
        DEVELOPMENT,
        network=town.network_id,
        now_ms=now_ms,
    )
    for guardian in guardians:
        made = sign_recovery(made, key_of(guardian))
    return made


async def submit(town: Town, asked: Recovery, timeout_s: float = 60) -> None:
    async with town.network(key_of("anybody")) as network:
        await publish(network, town.genesis, finished_recovery(asked), timeout_s=timeout_s)


async def test_the_next_key_takes_over_and_the_old_one_signs_nothing(autojump_clock: Any) -> None:
    async with funded() as town, opened(town) as owner:
        await owner.rotate(key_of("owner'"), key_of("owner''").public)
        assert owner.account.key == key_of("owner'").public
        await owner.send(town.account("bob"), 5)
        async with opened(town) as thief:  # with a copy of the old key
            await thief.balance()
            assert not thief.is_owner
            with pytest.raises(InvalidOperation) as refused:
                await thief.send(town.account("bob"), 5)
            assert refused.value.rule == "key"
        await owner.rotate(key_of("owner''"), key_of("owner'''").public)
        await owner.send(town.account("bob"), 5)


async def test_a_rotation_survives_a_crash(autojump_clock: Any, tmp_path: Path) -> None:
    async with funded(tmp_path) as town:
        for index in range(2):
            await town.stop(index)
        async with opened(town, directory=tmp_path / "owner") as owner:
            await owner.balance()
            with pytest.raises(Error):
                await owner.rotate(key_of("owner'"), key_of("owner''").public, timeout_s=1)
        await town.start(0)
        await town.start(1)
        async with opened(town, directory=tmp_path / "owner", others=("owner'",)) as owner:
            with trio.fail_after(60):
                while owner.account.key != key_of("owner'").public:  # noqa: ASYNC110  # virtual time
                    await trio.sleep(0.05)
            await owner.send(town.account("bob"), 5)


async def test_heartbeats_go_out_by_themselves(autojump_clock: Any) -> None:
    async with funded() as town, opened(town, policy=BEATING) as owner:
        await trio.sleep(2 * LEASE_MS / 1000)
        assert owner.account.seq >= 6  # thrice a lease
        beats = [recorded.parsed.operation.body for recorded in await owner.history()]
        assert sum(isinstance(body, Spend) and not body.outs for body in beats) >= 6
        age_ms = owner.now_ms() - owner.account.timestamp
        assert age_ms <= LEASE_MS // 3 + 2_000


async def test_mutant_without_heartbeats_the_lease_lapses(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forget(*_: object) -> None:
        await trio.sleep(1)

    monkeypatch.setattr(beating, "_beat", forget)
    async with funded() as town, opened(town, policy=BEATING) as owner:
        await owner.beat()
        await trio.sleep(2 * LEASE_MS / 1000)
        assert owner.now_ms() - owner.account.timestamp > LEASE_MS


async def lapsed(town: Town) -> Account:
    """The account after its owner has spoken once and then kept quiet for a lease."""
    async with opened(town) as owner:
        await owner.beat()
        state = owner.account
    await trio.sleep(LEASE_MS / 1000 + 1)
    return state


async def test_guardians_give_a_silent_account_a_new_key(autojump_clock: Any) -> None:
    async with funded() as town:
        await submit(town, await ask(town, await lapsed(town)))
        async with opened(town, "new") as heir:
            await heir.send(town.account("bob"), 100)
            assert heir.account.key == key_of("new").public
        async with opened(town) as owner:
            await owner.balance()
            assert not owner.is_owner
            with pytest.raises(InvalidOperation):
                await owner.send(town.account("bob"), 5)


async def recovered(town: Town, monkeypatch: pytest.MonkeyPatch, off_ms: int) -> bool:
    """Whether guardians whose clock is off by so much give a silent account a new key within a minute."""
    await lapsed(town)
    async with opened(town, "new") as guardian:
        await guardian.balance()
        right = guardian.now_ms
        monkeypatch.setattr(guardian._clock, "_now_ms", lambda: right() + off_ms)
        asked = await guardian.ask_guardians(key_of("new").public, key_of("new'").public)
        for name in GUARDIANS[:2]:
            asked = sign_recovery(asked, key_of(name))
        with suppress(Error):
            await submit(town, asked)
        await guardian.refresh()
        return guardian.is_owner


@pytest.mark.parametrize("off_ms", [DAY_MS, 40_000, -40_000, -DAY_MS])
async def test_f1_guardians_with_a_wrong_clock_recover_an_account(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch, off_ms: int
) -> None:
    async with funded() as town:
        assert await recovered(town, monkeypatch, off_ms)


async def test_f1_mutant_guardians_that_believe_their_clock_are_held_or_refused(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CommitteeClock, "signing_ms", lambda self: self._now_ms())
    async with funded() as town:
        with pytest.raises(InvalidOperation) as refused:
            await recovered(town, monkeypatch, -DAY_MS)
        assert refused.value.rule == "lease"
        assert not await recovered(town, monkeypatch, DAY_MS)


async def test_no_request_is_made_while_nobody_tells_the_time(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with funded() as town, opened(town, "new") as guardian:
        await guardian.balance()
        right = guardian.now_ms
        monkeypatch.setattr(guardian._clock, "_now_ms", lambda: right() + DAY_MS)
        for index in range(4):
            await town.stop(index)
        with pytest.raises(TimedOut, match="what time"):
            await guardian.ask_guardians(key_of("new").public, key_of("new'").public, timeout_s=20)


async def test_an_owner_that_speaks_in_time_wins(autojump_clock: Any) -> None:
    async with funded() as town:
        asked = await ask(town, await lapsed(town))
        async with opened(town) as owner, trio.open_nursery() as nursery:
            await owner.balance()

            async def try_it() -> None:
                with pytest.raises(Error):
                    await submit(town, asked)

            nursery.start_soon(try_it)
            await trio.sleep(0.1)  # the gate holds the RECOVER back for a while
            await owner.beat()
        async with opened(town) as owner:
            await owner.balance()
            assert owner.is_owner


async def test_an_owner_that_speaks_too_late_has_lost(autojump_clock: Any) -> None:
    async with funded() as town, opened(town) as owner:
        await owner.beat()
        state = owner.account
        await trio.sleep(LEASE_MS / 1000 + 1)
        await submit(town, await ask(town, state))
        with pytest.raises(Error):
            await owner.beat(timeout_s=5)
        await owner.refresh()
        assert not owner.is_owner


async def test_fewer_guardians_than_m_are_none(autojump_clock: Any) -> None:
    async with funded() as town:
        asked = await ask(town, await lapsed(town), GUARDIANS[:1])
        with pytest.raises(InvalidInput):
            finished_recovery(asked)
        lone = msgspec.structs.replace(finished_recovery(sign_recovery(asked, key_of("guardian 2"))))
        lone = msgspec.structs.replace(lone, signatures=lone.signatures[:1])
        async with town.network(key_of("anybody")) as network:
            with pytest.raises(Error):
                await publish(network, town.genesis, lone, timeout_s=20)
        async with opened(town) as owner:
            await owner.balance()
            assert owner.is_owner


async def after_a_partition(town: Town) -> bool:
    """Nobody hears anybody for three leases; guardians ask at once, the owner speaks a little later.

    Returns whether the owner has kept its account.
    """
    async with opened(town) as owner:
        await owner.beat()
        state = owner.account
    town.hub.partition(*([town.peer(index)] for index in range(4)))
    await trio.sleep(3 * LEASE_MS / 1000)
    town.hub.heal()
    asked = await ask(town, state)
    async with opened(town) as owner, trio.open_nursery() as nursery:

        async def try_it() -> None:
            with suppress(Error):
                await submit(town, asked)

        nursery.start_soon(try_it)
        with trio.fail_after(60), suppress(Error):
            await owner.balance()
            await trio.sleep((DEVELOPMENT.gate_hold_ms + 700) / 1000)  # D is over by now, G is not
            await owner.beat(timeout_s=50)
        await owner.refresh()
        return owner.is_owner


async def test_a_partition_uses_up_nobodys_lease(autojump_clock: Any) -> None:
    """Gate G: validators that were without a quorum wait; the owner, cut off as well, has time to speak."""
    async with funded() as town:
        assert await after_a_partition(town)


async def test_mutant_without_gate_g_a_partition_takes_the_account(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Contact, "since", lambda _self, _now: 0)
    async with funded() as town:
        assert not await after_a_partition(town)
