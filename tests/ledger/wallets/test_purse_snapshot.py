from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.errors import Malformed, StorageError
from ainp2p.ledger.database import Database
from ainp2p.ledger.openings import opened
from ainp2p.ledger.rules.operations import ParsedOperation
from ainp2p.ledger.rules.receipts import Receipt, SignedReceipt, close_operation, sign_receipt
from ainp2p.ledger.wallets import purse as purse_module
from ainp2p.ledger.wallets import wallet_core
from ainp2p.ledger.wallets.purse import Purse
from ainp2p.ledger.wallets.purse_snapshot import TIMES, Row, restore, rows_of
from ainp2p.ledger.wallets.wallet_store import FILE_NAME, Recorded, WalletStore, open_wallet_store
from ainp2p.protocol.storage import INLINE

from ..test_wallet_faults import run
from ..town import open_town
from ..world import key_of
from .test_purse import Story, assert_mirrors, purse_of


def restarted(story: Story, purse: Purse, name: str = "bob", applied: tuple[bytes, ...] = ()) -> Purse:
    again = purse_of(story.world, name)
    restore(again, rows_of(purse, {}), applied)
    return again


def long_story(days: int = 3) -> Story:
    story = Story()
    for _ in range(days):
        story.world.now += 200_000
        if story.told:
            another_day(story)
        else:
            story.a_day()
    return story


def another_day(story: Story) -> None:
    world = story.world
    story.do(world.spend("alice", [("bob", 100), ("alice", 7)]))
    story.do(world.spend("alice", locks=[world.terms()]))
    lock = next(lock for lock in world.state.locks.values() if not lock.ended)
    story.do(
        close_operation(world.network, world.state.locks[lock.id], world.receipt(lock, 305), key_of("bob"))
    )
    story.do(world.spend("bob", [("alice", 50)]))


# --- the purse ------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 15), max_size=5), st.sampled_from(["alice", "bob", "carol"]))
def test_restarts_from_snapshots_at_any_moment_change_nothing(moments: list[int], name: str) -> None:
    story = long_story()
    purse = purse_of(story.world, name)
    for number, parsed in enumerate(story.told):
        if number in moments:
            purse = restarted(story, purse, name)
        if purse.apply(parsed).gap is not None:  # told in the snapshot's own moment, or by who was ahead
            relist(purse, story)
    relist(purse, story)
    assert_mirrors(purse, story.world, name)


def relist(purse: Purse, story: Story) -> None:
    """What a wallet does at each start and gap: account, Locks, and credits as validators list them."""
    state = story.world.state
    if purse.id in state.accounts:
        purse.adopt_account(state.accounts[purse.id])
    listed = state.credits_of(purse.id)
    purse.drop_credits(purse.credits.keys() - listed.keys())
    for id_, amount in listed.items():
        purse.add_credit(id_, amount)
    opening = story.told[1]
    for lock in state.locks.values():
        if purse.concerns(lock):
            purse.adopt_lock(lock, opening)


def test_what_is_told_again_after_a_restart_brings_no_money_twice() -> None:
    story = long_story()
    purse = purse_of(story.world, "bob")
    for parsed in story.told:
        purse.apply(parsed)
    again = restarted(story, purse)
    for parsed in story.told:
        if parsed.operation.object != again.id:  # a liar tells what he was paid, not what he spent
            again.apply(parsed)
    assert_mirrors(again, story.world, "bob")
    assert again.balance(None, {}) == purse.balance(None, {})


def test_mutant_without_a_horizon_old_money_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Purse, "_is_recent", lambda self, parsed: True)
    with pytest.raises(AssertionError):
        test_what_is_told_again_after_a_restart_brings_no_money_twice()


def test_g4_a_purse_that_forgets_brings_no_money_twice_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purse_module, "REMEMBERED_MAX", 4)
    monkeypatch.setattr(purse_module, "ENDED_MAX", 1)
    story = long_story(6)
    purse = purse_of(story.world, "bob")
    for parsed in [*story.told, *story.told]:
        purse.apply(parsed)
    assert purse.credits == story.world.state.credits_of(purse.id)
    assert purse.account == story.world.account("bob")
    assert max(len(purse._applied), len(purse._consumed)) <= 4
    assert len(purse.locks) == len(purse.opened_ms) == 1
    assert len(set(purse.take_left())) == 5
    assert purse.take_left() == []


def test_g4_mutant_a_purse_that_forgets_without_a_horizon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Purse, "_is_recent", lambda self, parsed: True)
    with pytest.raises(AssertionError):
        test_g4_a_purse_that_forgets_brings_no_money_twice_either(monkeypatch)


def test_news_after_a_restart_is_taken_at_once() -> None:
    story = long_story()
    purse = purse_of(story.world, "bob")
    for parsed in story.told:
        purse.apply(parsed)
    again = restarted(story, purse)
    story.world.now += 1_000
    news = story.do(story.world.spend("alice", [("bob", 77)]))
    assert again.apply(news).received == 77
    assert_mirrors(again, story.world, "bob")


def test_an_old_deposit_that_is_told_again_is_looked_up_and_not_believed_open() -> None:
    story = long_story()
    purse = purse_of(story.world, "bob")
    for parsed in story.told:
        purse.apply(parsed)
    opening = next(p for p in story.told if getattr(p.operation.body, "locks", ()))
    (lock,) = (id_ for id_ in story.world.state.locks if id_ in opened(opening))
    del purse.locks[lock]
    again = restarted(story, purse)
    effect = again.apply(opening)
    assert effect.gap == lock
    assert lock not in again.locks


def test_rows_that_are_no_snapshot_are_refused() -> None:
    story = Story()
    purse = purse_of(story.world, "bob")
    rows: list[Row] = [row for row in rows_of(purse, {}) if row[0] != TIMES]
    with pytest.raises(Malformed):
        restore(purse_of(story.world, "bob"), rows, ())


# --- the disk -------------------------------------------------------------------------------------------


def spends(count: int) -> list[ParsedOperation]:
    story = Story()
    return [story.do(story.world.spend("alice", [("bob", i + 1)])) for i in range(count)]


async def test_g4_a_start_reads_only_what_came_after_the_snapshot(tmp_path: Path) -> None:
    told = spends(6)
    async with open_wallet_store(tmp_path, storage=INLINE) as store:
        store.journal(told[0], {}, 1)  # ours, and not final when the snapshot is made
        for parsed in told[1:4]:
            store.put_final(Recorded(parsed, b"c", 1, 0, 0))
        store.put_snapshot([(1, b"a", b"b")])
        store.put_final(Recorded(told[0], b"c", 1, 0, 0))
        store.put_final(Recorded(told[4], b"c", 1, 0, 0))
        store.journal(told[5], {}, 1)
    async with open_wallet_store(tmp_path, storage=INLINE) as store:
        assert [each.parsed for each in store.operations()] == [told[0], told[4], told[5]]
        assert store.folded(2) == [told[2].id, told[3].id]
        assert store.snapshot() == [(1, b"a", b"b")]
        assert await store.certificate(told[2].id) == b"c"
        assert await store.certificate(told[5].id) == b""
        assert len(await store.history(100)) == 6


async def test_g4_mutant_what_was_pending_is_folded_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(self: WalletStore, rows: list[Row]) -> None:
        self._disk.put("UPDATE operations SET folded = 1", ())

    monkeypatch.setattr(WalletStore, "put_snapshot", careless)
    with pytest.raises(AssertionError):
        await test_g4_a_start_reads_only_what_came_after_the_snapshot(tmp_path)


async def test_g4_the_book_can_be_pruned_but_for_what_has_a_note(tmp_path: Path) -> None:
    told = spends(6)
    async with open_wallet_store(tmp_path, storage=INLINE) as store:
        for number, parsed in enumerate(told):
            store.journal(parsed, {b"rent": 0} if number == 1 else {}, 1)
            store.put_final(Recorded(parsed, b"c", 1, 0, 0))
        store.put_snapshot([])
        store.prune(2)
        left = [each.parsed for each in await store.history(100)]
        assert left == [told[5], told[4], told[1]]


async def test_g4_the_receipt_of_a_lock_that_has_left_is_dropped(tmp_path: Path) -> None:
    story = Story()
    signed: SignedReceipt = sign_receipt(
        Receipt(story.world.network, b"l" * 32, 5, 5, b"c" * 32), key_of("alice")
    )
    async with open_wallet_store(tmp_path, storage=INLINE) as store:
        store.put_receipt(b"l" * 32, signed, key_of("alice").public)
        await store.synced()
        store.drop_receipt(b"l" * 32)
    async with open_wallet_store(tmp_path, storage=INLINE) as store:
        assert store.receipts() == {}


@pytest.mark.parametrize(
    "cut", ["DELETE FROM snapshot", "INSERT INTO snapshot", "UPDATE operations SET folded"]
)
async def test_b2_a_cut_within_a_snapshot_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    told, execute = spends(3), Database.execute
    async with open_wallet_store(tmp_path, storage=INLINE) as store:
        store.put_final(Recorded(told[0], b"c", 1, 0, 0))
        store.put_snapshot([(1, b"old", b"")])
        await store.synced()
        store.put_final(Recorded(told[1], b"c", 1, 0, 0))
        await store.synced()

        def cut_off(self: Database, sql: str, parameters: Sequence[object] = ()) -> list[tuple[object, ...]]:
            if sql.startswith(cut):
                raise StorageError("no power")
            return execute(self, sql, parameters)

        with monkeypatch.context() as patch:
            patch.setattr(Database, "execute", cut_off)
            store.put_snapshot([(1, b"new", b""), (1, b"newer", b"")])
            with pytest.raises(StorageError):
                await store.synced()
    async with open_wallet_store(tmp_path, storage=INLINE) as store:
        assert store.snapshot() == [(1, b"old", b"")]
        assert [each.parsed for each in store.operations()] == [told[1]]


async def test_b6_a_book_of_an_earlier_release_is_read_whole(tmp_path: Path) -> None:
    told = spends(2)
    async with open_wallet_store(tmp_path, storage=INLINE) as store:
        for parsed in told:
            store.put_final(Recorded(parsed, b"c", 1, 0, 0))
        await store.synced()
        store._disk.read_now("DROP INDEX unfolded")
        store._disk.read_now("ALTER TABLE operations DROP COLUMN folded")
    async with open_wallet_store(tmp_path, storage=INLINE) as store:
        assert [each.parsed for each in store.operations()] == told
        assert store.snapshot() == []


# --- the wallet -------------------------------------------------------------------------------------------


async def many_payments(root: Path) -> tuple[int, int, int, int, bytes]:
    """alice pays twenty times over three wallets' lives; how much the last start read, and what it has."""
    async with open_town() as town:
        for _life in range(2):
            async with town.wallet("alice", directory=root) as alice:
                for _ in range(10):
                    await alice.send(town.account("bob"), 5)
        async with open_wallet_store(root, storage=INLINE) as store:
            read, folded = len(store.operations()), len(store.folded(100))
        async with town.wallet("alice", directory=root) as alice:
            final = await alice.send(town.account("bob"), 5, note=b"once")
            again = await alice.send(town.account("bob"), 5, note=b"once")
            assert final.operation == again.operation
            balance = await alice.balance()
            return read, folded, balance.total, len(await alice.history(100)), again.certificate


def test_g4_a_wallet_starts_from_its_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wallet_core, "SNAPSHOT_EVERY", 4)
    read, folded, total, known, certificate = run(many_payments, tmp_path)
    assert read + folded == 20
    assert read < 4
    assert total == 1_000_000_000 - 21 * 6
    assert known == 21
    assert certificate
    assert (tmp_path / FILE_NAME).exists()


async def pruned_book(root: Path) -> tuple[int, int, int]:
    async with open_town() as town:
        async with town.wallet("alice", directory=root) as alice:
            for _ in range(6):
                await alice.send(town.account("bob"), 5)
            await alice.prune_history(2)
            left = len(await alice.history(100))
        async with town.wallet("alice", directory=root) as alice:
            await alice.send(town.account("bob"), 5)
            balance = await alice.balance()
            return left, len(await alice.history(100)), balance.total


def test_g4_a_wallet_whose_book_was_pruned_has_what_it_had(tmp_path: Path) -> None:
    assert run(pruned_book, tmp_path) == (2, 3, 1_000_000_000 - 7 * 6)


def test_g4_mutant_without_snapshots_a_start_reads_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wallet_core.WalletCore, "_tidy", lambda self: None)
    with pytest.raises(AssertionError):
        test_g4_a_wallet_starts_from_its_snapshot(tmp_path, monkeypatch)
