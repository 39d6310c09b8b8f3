"""The vault: durable before it signs, exact after a clean end, cautious after a crash, whole if cancelled."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from ainp2p.agents import vault as module
from ainp2p.agents.breaker import STOPPED, Limits
from ainp2p.agents.policy import Policy
from ainp2p.agents.vault import Vault, open_vault
from ainp2p.agents.vault_store import FILE_NAME, VaultStore
from ainp2p.errors import (
    BudgetExceeded,
    Closed,
    InvalidInput,
    InvalidReceipt,
    PolicyRefused,
    StorageError,
)
from ainp2p.ledger.rules.operations import SIGN_OPERATION, operation_id
from ainp2p.ledger.rules.receipts import SIGN_RECEIPT, Receipt, SignedReceipt, read_receipt, sign_receipt
from ainp2p.protocol.identity import Key, verify

from .vault_world import (
    HASH,
    KEY,
    NETWORK,
    NOW,
    OTHER,
    SELLER,
    SELLER_KEY,
    context,
    lock,
    spend,
    terms,
)

POLICY = Policy(per_job=500, per_hour=800, per_day=900, per_counterparty=700, per_lock=5000)
LOCK = lock().id


@asynccontextmanager
async def opened(
    directory: Path | None = None, *, policy: Policy = POLICY, key: Key = KEY
) -> AsyncIterator[Vault]:
    async with open_vault(key, policy, directory, context()) as vault:
        await vault.use_lock(NETWORK, lock())
        yield vault


def pay(vault: Vault, job: bytes, amount: int, *, units: int = 1) -> Receipt:
    return read_receipt(vault.sign_receipt(job, LOCK, amount, units, HASH).body)


def copy_of(directory: Path, target: Path) -> Path:
    """What a crash would leave now: the files as they are, without the vault's last words."""
    shutil.copytree(directory, target)
    return target


def budget_left(vault: Vault) -> int:
    """The largest amount that the hourly budget allows now."""
    amounts = range(1, 802)
    return next(a - 1 for a in amounts if any(v.rule == "per_hour" for v in vault.violations(b"x" * 32, a)))


# --- a job from reservation to settlement ----------------------------------------------------------


async def test_receipts_are_signed_below_a_reservation() -> None:
    async with opened() as vault:
        assert (vault.public, vault.peer_id) == (KEY.public, KEY.peer_id)
        reservation = await vault.reserve(b"job", SELLER, 100)
        assert (reservation.bound, reservation.spent) == (100, 0)
        signed = vault.sign_receipt(b"job", LOCK, 60, 6, HASH)
        verify(KEY.public, SIGN_RECEIPT, signed.body, signed.signature)
        assert read_receipt(signed.body) == Receipt(NETWORK, LOCK, 60, 6, HASH)
        assert vault.last_receipt(LOCK) == signed
        assert (reservation.spent, vault.committed, vault.left(LOCK)) == (60, 100, 940)
        assert vault.settle(b"job") == 40
        assert vault.committed == 0
        assert budget_left(vault) == 740


async def test_parallel_jobs_share_one_growing_counter() -> None:
    async with opened() as vault:
        for job in (b"1", b"2", b"3"):
            await vault.reserve(job, SELLER, 100)
        paid = [
            pay(vault, job, amount).cumulative
            for job, amount in ((b"1", 10), (b"3", 5), (b"2", 7), (b"1", 1))
        ]
        assert paid == [10, 15, 22, 23]


async def test_one_receipt_pays_for_several_jobs() -> None:
    async with opened() as vault:
        one, two = await vault.reserve(b"1", SELLER, 10), await vault.reserve(b"2", SELLER, 10)
        signed = vault.sign_shared_receipt([(b"1", 4), (b"2", 9)], LOCK, 13, HASH)
        assert read_receipt(signed.body).cumulative == 13
        assert (one.spent, two.spent) == (4, 9)


@pytest.mark.parametrize(
    "shares",
    [
        pytest.param([(b"1", 4), (b"2", 11)], id="one above its bound"),
        pytest.param([(b"1", 6), (b"1", 6)], id="one job twice"),
        pytest.param([(b"1", 6), (b"2", -3)], id="one negative"),
        pytest.param([(b"1", 4), (b"3", 1)], id="one not reserved"),
        pytest.param([], id="none"),
    ],
)
async def test_a_shared_receipt_is_all_or_nothing(shares: list[tuple[bytes, int]]) -> None:
    async with opened() as vault:
        jobs = [await vault.reserve(job, SELLER, 10) for job in (b"1", b"2")]
        with pytest.raises((BudgetExceeded, InvalidInput)):
            vault.sign_shared_receipt(shares, LOCK, 1, HASH)
        assert [job.spent for job in jobs] == [0, 0]
        assert vault.last_receipt(LOCK) is None


async def test_nothing_is_signed_above_the_reservation() -> None:
    async with opened() as vault:
        await vault.reserve(b"job", SELLER, 100)
        pay(vault, b"job", 100)
        with pytest.raises(BudgetExceeded) as caught:
            pay(vault, b"job", 1)
        assert caught.value.rule == "reserved"
        last = vault.last_receipt(LOCK)
        assert last is not None
        assert read_receipt(last.body).cumulative == 100


@pytest.mark.parametrize(
    ("job", "lock_id", "amount", "error"),
    [
        pytest.param(b"job", b"\2" * 32, 1, InvalidReceipt, id="a Lock that is not in use"),
        pytest.param(b"job", LOCK, 0, InvalidInput, id="nothing"),
        pytest.param(b"job", LOCK, -5, InvalidInput, id="less than nothing"),
        pytest.param(b"gone", LOCK, 1, InvalidInput, id="a job that has ended"),
        pytest.param(b"never", LOCK, 1, InvalidInput, id="a job that was never reserved"),
        pytest.param(b"theirs", LOCK, 1, InvalidReceipt, id="a job of another counterparty"),
    ],
)
async def test_what_is_not_signed(job: bytes, lock_id: bytes, amount: int, error: type[Exception]) -> None:
    async with opened() as vault:
        await vault.reserve(b"job", SELLER, 100)
        await vault.reserve(b"theirs", OTHER, 100)
        await vault.reserve(b"gone", SELLER, 100)
        vault.settle(b"gone")
        with pytest.raises(error):
            vault.sign_receipt(job, lock_id, amount, 1, HASH)
        assert vault.last_receipt(LOCK) is None


async def test_a_lock_does_not_pay_above_its_deposit() -> None:
    async with open_vault(KEY, POLICY, None, context()) as vault:
        await vault.use_lock(NETWORK, lock(deposit=50))
        reservation = await vault.reserve(b"job", SELLER, 100)
        with pytest.raises(InvalidReceipt, match="open another Lock"):
            pay(vault, b"job", 51)
        assert reservation.spent == 0
        assert pay(vault, b"job", 50).cumulative == 50


async def test_a_refused_reservation_debits_nothing() -> None:
    async with opened() as vault:
        assert [violation.rule for violation in vault.violations(SELLER, 501)] == ["per_job"]
        with pytest.raises(BudgetExceeded) as caught:
            await vault.reserve(b"job", SELLER, 501)
        assert caught.value.rule == "per_job"
        assert budget_left(vault) == 800
        with pytest.raises(InvalidInput):
            pay(vault, b"job", 1)


async def test_two_sellers_are_not_awarded_one_budget() -> None:
    async with opened(policy=Policy(per_hour=100)) as vault:
        await vault.reserve(b"1", SELLER, 100)
        with pytest.raises(BudgetExceeded):
            await vault.reserve(b"2", OTHER, 100)


async def test_the_breaker_stops_receipts_and_is_reset_by_hand() -> None:
    async with opened(policy=Policy(breaker=Limits(errors=2, errors_of=2))) as vault:
        for job in (b"1", b"2", b"3"):
            await vault.reserve(job, SELLER, 10)
        vault.settle(b"1", failed=True)
        vault.settle(b"2", failed=True)
        assert vault.tripped == "breaker:errors"
        with pytest.raises(PolicyRefused):
            pay(vault, b"3", 1)
        await vault.reset()
        assert pay(vault, b"3", 1).cumulative == 1


async def test_the_owners_stop_holds_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as vault:
        await vault.reserve(b"1", SELLER, 10)
        await vault.stop()
        with pytest.raises(PolicyRefused, match=STOPPED):
            pay(vault, b"1", 1)
    async with opened(tmp_path) as vault:
        with pytest.raises(PolicyRefused, match=STOPPED):
            await vault.reserve(b"2", SELLER, 10)


# --- the wallet's operations ------------------------------------------------------------------------


async def test_an_approved_payment_is_signed_once_and_counted() -> None:
    async with opened() as vault:
        signer, raw = vault.wallet_signer(), spend((SELLER, 100), fee=2)
        await signer.approve(raw)
        await signer.approve(raw)
        assert vault.committed == 102
        verify(KEY.public, SIGN_OPERATION, operation_id(raw), signer.sign(SIGN_OPERATION, operation_id(raw)))
        assert (vault.committed, budget_left(vault)) == (0, 698)
        with pytest.raises(PolicyRefused, match="approval"):
            signer.sign(SIGN_OPERATION, operation_id(raw))


async def test_an_operation_that_was_not_approved_is_not_signed() -> None:
    async with opened() as vault:
        await vault.approve(spend((SELLER, 100)))
        with pytest.raises(PolicyRefused, match="approval"):
            vault.wallet_signer().sign(SIGN_OPERATION, operation_id(spend((SELLER, 101))))


@pytest.mark.parametrize(
    ("raw", "rule"),
    [
        pytest.param(spend((SELLER, 501)), "per_job", id="one payment"),
        pytest.param(spend((SELLER, 300), (OTHER, 501)), "per_job", id="the second of two"),
        pytest.param(spend((SELLER, 450), (OTHER, 450)), "per_hour", id="their sum"),
        pytest.param(spend(locks=(terms(5001),)), "per_lock", id="a deposit"),
        pytest.param(spend(locks=(terms(501, authority=(SELLER_KEY.public,)),)), "per_job", id="a gift"),
    ],
)
async def test_a_refused_operation_debits_nothing(raw: bytes, rule: str) -> None:
    async with opened() as vault:
        with pytest.raises(PolicyRefused) as caught:
            await vault.approve(raw)
        assert caught.value.rule == rule
        assert (vault.committed, budget_left(vault)) == (0, 800)
        with pytest.raises(PolicyRefused, match="approval"):
            vault.wallet_signer().sign(SIGN_OPERATION, operation_id(raw))


async def test_a_deposit_is_bound_and_not_spent() -> None:
    async with opened() as vault:
        await vault.approve(spend(locks=(terms(5000),), fee=3))
        assert vault.committed == 3


async def test_an_approval_can_be_withdrawn() -> None:
    async with opened() as vault:
        signer, raw = vault.wallet_signer(), spend((SELLER, 100))
        await signer.approve(raw)
        signer.withdraw(raw)
        signer.withdraw(raw)
        assert (vault.committed, budget_left(vault)) == (0, 800)
        with pytest.raises(PolicyRefused, match="approval"):
            signer.sign(SIGN_OPERATION, operation_id(raw))


async def test_after_a_stop_not_even_an_approved_operation_is_signed() -> None:
    async with opened() as vault:
        raw = spend((SELLER, 100))
        await vault.approve(raw)
        await vault.stop()
        with pytest.raises(PolicyRefused, match=STOPPED):
            vault.wallet_signer().sign(SIGN_OPERATION, operation_id(raw))


async def test_equal_payments_again_and_again_trip_the_breaker() -> None:
    async with opened(policy=Policy(breaker=Limits(repeats=3))) as vault:
        for seq in range(3):
            await vault.approve(spend((SELLER, 7), seq=seq))
        with pytest.raises(PolicyRefused, match="breaker:repeats"):
            await vault.approve(spend((SELLER, 7), seq=3))


async def test_other_signatures_move_no_money() -> None:
    async with opened() as vault:
        verify(
            KEY.public, b"ainp2p/card/1", b"x", vault.signer([b"ainp2p/card/1"]).sign(b"ainp2p/card/1", b"x")
        )
        with pytest.raises(InvalidInput):
            vault.signer([SIGN_RECEIPT])


# --- the end, and after it -----------------------------------------------------------------------


async def test_a_closed_vault_signs_nothing() -> None:
    async with opened() as vault:
        await vault.reserve(b"job", SELLER, 100)
        signer, wallet = vault.signer([b"card"]), vault.wallet_signer()
        await wallet.approve(spend((SELLER, 1)))
    with pytest.raises(Closed):
        pay(vault, b"job", 1)
    with pytest.raises(Closed):
        signer.sign(b"card", b"")
    with pytest.raises(Closed):
        wallet.sign(SIGN_OPERATION, operation_id(spend((SELLER, 1))))
    for call in (vault.reserve(b"2", SELLER, 1), vault.approve(spend()), vault.use_lock(NETWORK, lock(2))):
        with pytest.raises(Closed):
            await call


async def test_an_exception_leaves_the_block_as_it_came() -> None:
    async def block() -> None:
        async with opened() as vault:
            await vault.reserve(b"job", SELLER, 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await block()


async def test_after_a_clean_end_everything_is_known(tmp_path: Path) -> None:
    async with opened(tmp_path) as vault:
        await vault.reserve(b"1", SELLER, 100)
        await vault.reserve(b"2", SELLER, 100)
        pay(vault, b"1", 30, units=3)
        pay(vault, b"2", 5, units=1)
        vault.settle(b"1")  # the other is still open when the block ends
    async with opened(tmp_path) as vault:
        assert not vault.is_unsure(LOCK)
        assert (vault.left(LOCK), vault.committed, budget_left(vault)) == (965, 0, 765)
        await vault.reserve(b"3", SELLER, 100)
        assert pay(vault, b"3", 1) == Receipt(NETWORK, LOCK, 36, 5, HASH)


async def test_a_forgotten_lock_stays_forgotten(tmp_path: Path) -> None:
    async with opened(tmp_path) as vault:
        await vault.reserve(b"1", SELLER, 100)
        pay(vault, b"1", 30)
        vault.forget_lock(LOCK)
    async with opened(tmp_path) as vault:
        assert vault.last_receipt(LOCK) is None


async def test_one_directory_is_one_keys_and_one_processs(tmp_path: Path) -> None:
    async with opened(tmp_path):
        with pytest.raises(StorageError, match="another process"):
            async with opened(tmp_path):
                pytest.fail("opened twice")
    with pytest.raises(StorageError, match="another key"):
        async with opened(tmp_path, key=SELLER_KEY):
            pytest.fail("opened by another key")
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o077 == 0


async def test_v12_the_secret_is_in_no_file_of_the_vault(tmp_path: Path) -> None:
    async with opened(tmp_path) as vault:
        await vault.reserve(b"1", SELLER, 100)
        pay(vault, b"1", 30)
    names = os.listdir(tmp_path)
    assert FILE_NAME in names
    assert not any(KEY.seed in (tmp_path / name).read_bytes() for name in names)


# --- crashes ------------------------------------------------------------------------------------


async def test_b1_a_reservation_is_durable_before_it_can_be_used(tmp_path: Path) -> None:
    async with opened(tmp_path / "live") as vault:
        await vault.reserve(b"1", SELLER, 100)
        pay(vault, b"1", 60)  # nothing waits for the disk here
        crashed = copy_of(tmp_path / "live", tmp_path / "crashed")
    async with opened(crashed) as vault:
        assert (vault.committed, budget_left(vault)) == (0, 700)  # all of it may have been signed
        assert vault.is_unsure(LOCK)
        await vault.reserve(b"2", SELLER, 100)
        with pytest.raises(InvalidReceipt, match="unsure"):
            pay(vault, b"2", 1)


async def test_b1_the_payees_receipt_tells_where_to_go_on(tmp_path: Path) -> None:
    async with opened(tmp_path / "live") as vault:
        await vault.reserve(b"1", SELLER, 100)
        signed = vault.sign_receipt(b"1", LOCK, 60, 6, HASH)
        crashed = copy_of(tmp_path / "live", tmp_path / "crashed")
    async with opened(crashed) as vault:
        await vault.learn_receipt(signed)
        await vault.reserve(b"2", SELLER, 100)
        assert pay(vault, b"2", 1) == Receipt(NETWORK, LOCK, 61, 7, HASH)
        assert budget_left(vault) == 600  # hiding or showing, the dead job stays debited whole
        again = copy_of(crashed, tmp_path / "again")
    async with opened(again) as vault:
        assert vault.is_unsure(LOCK)  # because of the job that was open now, and only that


async def test_b1_receipts_reach_the_disk_now_and_then(tmp_path: Path, autojump_clock: object) -> None:
    async with opened(tmp_path / "live") as vault:
        await vault.reserve(b"1", SELLER, 100)
        pay(vault, b"1", 60)
        vault.settle(b"1")
        while True:  # until the flush that follows has happened, however long a thread takes
            await trio.sleep(module.FLUSH_S)
            crashed = copy_of(tmp_path / "live", tmp_path / f"crashed{trio.current_time()}")
            async with opened(crashed) as after:
                if not after.is_unsure(LOCK):
                    assert (after.left(LOCK), budget_left(after)) == (940, 740)
                    return


async def test_b5_files_older_than_the_last_signatures_are_noticed(tmp_path: Path) -> None:
    async with opened(tmp_path / "live") as vault:
        old = copy_of(tmp_path / "live", tmp_path / "old")
        await vault.reserve(b"1", SELLER, 100)
        signed = vault.sign_receipt(b"1", LOCK, 60, 6, HASH)
    async with opened(old) as vault:  # a backup: it knows of no reservation
        await vault.learn_receipt(signed)
        assert (vault.left(LOCK), budget_left(vault)) == (940, 740)


async def test_an_unsigned_approval_at_a_crash_counts_as_signed(tmp_path: Path) -> None:
    async with opened(tmp_path / "live") as vault:
        await vault.approve(spend((SELLER, 100)))
        crashed = copy_of(tmp_path / "live", tmp_path / "crashed")
    async with opened(crashed) as vault:
        assert budget_left(vault) == 700


CHILD = """
import sys, pathlib, random, trio
from tests.agents.test_vault import opened, SELLER, LOCK, HASH
async def main():
    async with opened(pathlib.Path(sys.argv[1])) as vault:
        for number in range(10_000):
            job = number.to_bytes(4, "big")
            await vault.reserve(job, SELLER, 5)
            print(vault.sign_receipt(job, LOCK, 3, 1, HASH).body.hex(), flush=True)
            vault.settle(job)
trio.run(main)
"""


def receipts_of_a_killed_child(directory: Path, lines: int) -> list[Receipt]:
    """Start a buyer, let it print some receipts, kill it, and return all that it had printed."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(directory)], stdout=subprocess.PIPE, cwd=os.getcwd()
    )
    assert child.stdout is not None
    printed = [child.stdout.readline() for _ in range(lines)]
    child.kill()
    printed += [line for line in child.stdout.read().splitlines(keepends=True) if line.endswith(b"\n")]
    child.wait(timeout=30)
    child.stdout.close()
    return [read_receipt(bytes.fromhex(line.decode())) for line in printed]


@pytest.mark.process
async def test_b1_killed_at_any_moment_nothing_that_left_is_forgotten(tmp_path: Path) -> None:
    for round_ in range(4):
        directory = tmp_path / str(round_)
        highest = receipts_of_a_killed_child(directory, lines=1 + 7 * round_)[-1]
        async with opened(directory) as vault:
            assert 800 - budget_left(vault) >= highest.cumulative  # what left is debited
            assert vault.is_unsure(LOCK) or vault.left(LOCK) <= 1000 - highest.cumulative
            await vault.learn_receipt(sign_receipt(highest, KEY))
            assert vault.left(LOCK) <= 1000 - highest.cumulative


async def test_b1_mutant_reserving_without_the_disk_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VaultStore, "put_changes", lambda *_: None)
    with pytest.raises(AssertionError):
        await test_b1_a_reservation_is_durable_before_it_can_be_used(tmp_path)


# --- a disk that fails ----------------------------------------------------------------------------


async def test_b3_after_a_failed_write_nothing_is_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened() as vault:
        await vault.reserve(b"1", SELLER, 100)

        async def fail(_: VaultStore) -> None:
            raise StorageError("disk full")

        monkeypatch.setattr(VaultStore, "synced", fail)
        with pytest.raises(StorageError, match="disk full"):
            await vault.reserve(b"2", SELLER, 100)
        monkeypatch.undo()  # the disk is well again: it is not asked a second time
        with pytest.raises(StorageError, match="signs nothing more"):
            pay(vault, b"1", 1)
        with pytest.raises(StorageError):
            await vault.reserve(b"3", SELLER, 100)
        with pytest.raises(StorageError):
            vault.signer([b"card"]).sign(b"card", b"")
        assert vault.committed == 100  # still readable; the one that failed is debited no more


async def test_b3_a_failed_flush_is_noticed_before_the_next_receipt(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    async with opened() as vault:
        await vault.reserve(b"1", SELLER, 100)

        def fail(*_: object) -> None:
            raise StorageError("disk full")

        monkeypatch.setattr(VaultStore, "put_changes", fail)
        pay(vault, b"1", 1)
        await trio.sleep(2 * module.FLUSH_S)
        with pytest.raises(StorageError, match="disk full"):
            pay(vault, b"1", 1)


# --- cancellation: G3 -----------------------------------------------------------------------------


class Canceller(trio.abc.Instrument):
    """Cancels a scope at the k-th time that a task is about to run."""

    def __init__(self, k: int) -> None:
        self.k, self.scope = k, trio.CancelScope()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.k -= 1
        if self.k == 0:
            self.scope.cancel()


async def cancelled_at_every_step(
    act: Callable[[Vault], Awaitable[object]], look: Callable[[Vault, bool], None], directory: Path
) -> int:
    """Run `act` again and again, cancelled one step later each time, until it gets through."""
    for k in range(1, 200):
        async with opened(directory / str(k)) as vault:
            canceller = Canceller(k)
            trio.lowlevel.add_instrument(canceller)
            done = False
            try:
                with canceller.scope:
                    await act(vault)
                    done = True
            finally:
                trio.lowlevel.remove_instrument(canceller)
            look(vault, done)
        if done and canceller.k > 0:
            return k
    raise AssertionError("it never got through")


async def test_g3_a_cancelled_reservation_debits_nothing(tmp_path: Path) -> None:
    def look(vault: Vault, done: bool) -> None:
        assert vault.committed == (100 if done else 0)
        assert budget_left(vault) == (700 if done else 800)
        if done:
            assert pay(vault, b"1", 60).cumulative == 60

    assert await cancelled_at_every_step(lambda vault: vault.reserve(b"1", SELLER, 100), look, tmp_path) > 1


async def test_g3_cancelling_a_repeat_does_not_take_the_first_ones_money() -> None:
    async with opened() as vault:
        reservation = await vault.reserve(b"1", SELLER, 100)
        with trio.CancelScope() as scope:
            scope.cancel()
            await vault.reserve(b"1", SELLER, 100)
        assert (reservation.bound, vault.committed) == (100, 100)
        assert pay(vault, b"1", 100).cumulative == 100


async def test_g3_a_cancelled_approval_debits_nothing_and_signs_nothing(tmp_path: Path) -> None:
    raw = spend((SELLER, 100), (OTHER, 50), fee=1)

    def look(vault: Vault, done: bool) -> None:
        assert vault.committed == (151 if done else 0)
        if not done:
            with pytest.raises(PolicyRefused, match="approval"):
                vault.wallet_signer().sign(SIGN_OPERATION, operation_id(raw))

    assert await cancelled_at_every_step(lambda vault: vault.approve(raw), look, tmp_path) > 1


async def test_g3_a_vault_cancelled_at_any_moment_knows_what_it_signed(tmp_path: Path) -> None:
    for k in range(1, 60, 2):
        directory, signed = tmp_path / str(k), list[SignedReceipt]()
        canceller = Canceller(k)
        trio.lowlevel.add_instrument(canceller)
        with canceller.scope:
            async with opened(directory) as vault:
                for number in range(20):
                    await vault.reserve(bytes([number]), SELLER, 10)
                    signed.append(vault.sign_receipt(bytes([number]), LOCK, 3, 1, HASH))
                    if number % 2:
                        vault.settle(bytes([number]))
        trio.lowlevel.remove_instrument(canceller)
        async with opened(directory) as vault:
            assert not vault.is_unsure(LOCK)
            assert vault.left(LOCK) == 1000 - 3 * len(signed)
            assert budget_left(vault) == 800 - 3 * len(signed)


async def test_g3_mutant_a_reservation_kept_by_a_cancelled_caller_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def careless(
        self: Vault, job: bytes, counterparty: bytes, worst_case: int, what: bytes | None = None
    ) -> None:
        self._commitments.reserve(job, counterparty, worst_case, NOW, what)
        await self._written()
        self._durable.add(job)

    monkeypatch.setattr(Vault, "reserve", careless)
    with pytest.raises(AssertionError):
        await test_g3_a_cancelled_reservation_debits_nothing(tmp_path)


async def test_a_receipt_is_never_signed_before_its_reservation_is_durable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk_is_done = trio.Event()
    async with opened() as vault:
        monkeypatch.setattr(VaultStore, "synced", lambda _: disk_is_done.wait())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(vault.reserve, b"1", SELLER, 100)
            await trio.testing.wait_all_tasks_blocked()
            assert vault.committed == 100
            with pytest.raises(InvalidInput, match="reserve"):
                pay(vault, b"1", 1)
            disk_is_done.set()
        assert pay(vault, b"1", 1).cumulative == 1
