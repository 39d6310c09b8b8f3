from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from ainp2p.errors import (
    BadSignature,
    Closed,
    InsufficientFunds,
    InvalidInput,
    InvalidOperation,
    InvalidReceipt,
    NotFinal,
    NotYet,
    StorageError,
    TimedOut,
)
from ainp2p.ledger.rules.operations import Close, Refund, Settle, Spend
from ainp2p.ledger.rules.receipts import Payer, SignedReceipt
from ainp2p.ledger.wallets.ordering import Orders
from ainp2p.ledger.wallets.settling import SettlePolicy
from ainp2p.ledger.wallets.wallet import LockState, Wallet

from ..town import LIFE_MS, PURSE, QUIET, Town, open_town
from ..world import key_of

CONTEXT = bytes(range(32))


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    with trio.fail_after(60):
        while not await holds():  # noqa: ASYNC110  # virtual time: polling costs nothing
            await trio.sleep(0.02)


async def until_available(wallet: Wallet, amount: int) -> None:
    async def holds() -> bool:
        return (await wallet.balance()).available == amount

    await until(holds)


async def deposit_for(alice: Wallet, bob: Wallet, *, deposit: int = 1_000, step: int = 10) -> LockState:
    """A Lock of alice's that pays bob, who knows it."""
    state = await alice.open_lock([(bob.account_id, 1)], key_of("bob").public, deposit, step, LIFE_MS)
    assert (await bob.lock(state.id)).lock == state.lock
    return state


def payer(town: Town, state: LockState, name: str = "alice") -> Payer:
    return Payer(town.network_id, state.lock, key_of(name))


# --- payments ---------------------------------------------------------------------------------------


async def test_a_payment_is_final_and_arrives(autojump_clock: Any) -> None:
    async with open_town() as town, town.wallet("alice") as alice, town.wallet("bob") as bob:
        final = await alice.send(bob.account_id, 1_000)
        alice._proofs.check_certificate(final.certificate, final.operation)
        await until_available(bob, PURSE + 1_000)
        assert (await alice.balance()).available == PURSE - 1_000 - 1  # the fee
        assert trio.current_time() < 5
        await town.until_equal(1)


async def test_what_was_received_can_be_spent_in_turn(autojump_clock: Any) -> None:
    async with open_town() as town, town.wallet("alice") as alice, town.wallet("bob") as bob:
        await alice.send(bob.account_id, 1_000)
        await until_available(bob, PURSE + 1_000)
        await bob.send(alice.account_id, PURSE + 900)
        await bob.send(alice.account_id, 50)
        await until_available(bob, 1_000 - 950 - 2)
        await town.until_equal(3)


async def test_payments_ordered_together_share_one_operation(autojump_clock: Any) -> None:
    async with open_town() as town, town.wallet("alice") as alice, town.wallet("bob") as bob:
        finals = []

        async def pay(amount: int) -> None:
            finals.append(await alice.send(bob.account_id, amount))

        async with trio.open_nursery() as nursery:
            for amount in range(1, 101):
                nursery.start_soon(pay, amount)
        assert len({(final.operation, final.place) for final in finals}) == 100
        assert len({final.operation for final in finals}) <= 3  # 64 outs each
        await until_available(bob, PURSE + 5_050)


async def test_a_payment_beyond_the_balance_is_refused_alone(autojump_clock: Any) -> None:
    async with open_town() as town, town.wallet("alice") as alice, town.wallet("bob") as bob:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(alice.send, bob.account_id, 5)
            with pytest.raises(InsufficientFunds) as refused:
                await alice.send(bob.account_id, PURSE)
            nursery.start_soon(alice.send, bob.account_id, 7)
        assert refused.value.needed == PURSE
        await until_available(bob, PURSE + 12)


@pytest.mark.parametrize(
    ("account", "amount"), [(bytes(32), 0), (bytes(32), -1), (b"short", 1)], ids=["zero", "negative", "no id"]
)
async def test_a_payment_that_makes_no_sense_is_refused(
    account: bytes, amount: int, autojump_clock: Any
) -> None:
    async with open_town() as town, town.wallet("alice") as alice:
        with pytest.raises(InvalidInput):
            await alice.send(account, amount)


async def test_a_note_names_one_payment_for_ever(autojump_clock: Any, tmp_path: Path) -> None:
    async with open_town() as town, town.wallet("bob") as bob:
        async with town.wallet("alice", directory=tmp_path) as alice:
            first = await alice.send(bob.account_id, 10, note=b"rent, May")
            assert await alice.send(bob.account_id, 10, note=b"rent, May") == first
        async with town.wallet("alice", directory=tmp_path) as alice:
            assert await alice.send(bob.account_id, 10, note=b"rent, May") == first
            assert await alice.send(bob.account_id, 10, note=b"rent, June") != first
        await until_available(bob, PURSE + 20)


async def pay_at_once_under_one_note(town: Town, after_s: float) -> int:
    """Six calls under one note, so far apart, while the account is busy; returns what the payee got."""
    async with town.wallet("alice") as alice, town.wallet("bob") as bob:
        places = set()

        async def pay() -> None:
            final = await alice.send(bob.account_id, 1000, note=b"once")
            places.add((final.operation, final.place))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(alice.send, town.account("carol"), 1)
            for _ in range(6):
                nursery.start_soon(pay)
                await trio.sleep(after_s)
        await alice.send(town.account("carol"), 1)  # it still pays
        await trio.sleep(1)
        assert len(places) == 1
        return (await bob.balance()).available - PURSE


@pytest.mark.parametrize("after_s", [0.0, 0.003])
async def test_a_note_given_by_several_calls_at_once_is_paid_once(
    after_s: float, autojump_clock: Any
) -> None:
    async with open_town() as town:
        assert await pay_at_once_under_one_note(town, after_s) == 1000


async def test_mutant_notes_under_way_forgotten_pay_twice(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordered = Orders._ordered

    def forgetful(self: Orders, *args: Any) -> Any:
        self._noted.clear()
        return ordered(self, *args)

    monkeypatch.setattr(Orders, "_ordered", forgetful)
    async with open_town() as town:
        with pytest.raises(AssertionError):
            assert await pay_at_once_under_one_note(town, 0.0) == 1000


async def test_of_two_calls_under_one_note_the_impatient_one_gives_up_alone(autojump_clock: Any) -> None:
    async with open_town() as town, town.wallet("alice") as alice:
        await alice._ready()
        for index in range(4):
            await town.stop(index)  # nothing gets final: the account stays busy
        ended: list[float] = []

        async def pay(timeout_s: float, note: bytes) -> None:
            with pytest.raises((TimedOut, NotFinal)):
                await alice.send(town.account("bob"), 10, note=note, timeout_s=timeout_s)
            ended.append(timeout_s)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pay, 30.0, b"the one that is signed")
            await trio.sleep(0.1)
            nursery.start_soon(pay, 20.0, b"waits")
            nursery.start_soon(pay, 1.0, b"waits")
            await trio.sleep(5)
            assert len(alice._orders) == 1
        assert ended == [1.0, 20.0, 30.0]


async def test_the_history_tells_what_came_and_what_went(autojump_clock: Any) -> None:
    async with open_town() as town, town.wallet("alice") as alice, town.wallet("bob") as bob:
        await alice.send(bob.account_id, 10)
        await until_available(bob, PURSE + 10)
        (sent,), (came,) = await alice.history(), await bob.history()
        assert (sent.spent, sent.received) == (11, 0)
        assert (came.spent, came.received) == (0, 10)
        assert sent.parsed.id == came.parsed.id
        assert sent.certificate


# --- deposits and receipts --------------------------------------------------------------------------


async def test_a_deposit_is_paid_out_by_receipts_and_settled_end_to_end(autojump_clock: Any) -> None:
    async with open_town() as town, town.wallet("alice") as alice, town.wallet("bob") as bob:
        state = await deposit_for(alice, bob)
        signer = payer(town, state)
        assert (await alice.balance()).locked == 1_000
        for cumulative in (100, 250, 300):
            await bob.accept(signer.sign(cumulative, cumulative, CONTEXT))
        assert (await bob.balance()).owed == 300
        settled = await bob.settle(state.id)
        assert settled.lock.paid == 300
        bob._proofs.check_certificate(settled.certificate, settled.lock.head)
        assert (await bob.balance()).available == PURSE + 300
        assert (await bob.balance()).owed == 0
        await bob.accept(signer.sign(305, 305, CONTEXT))
        ended = await bob.close(state.id)
        assert not ended.is_open
        await until_available(bob, PURSE + 305)
        opening_fee = 1 + 1_000 // 10 + 2
        await until_available(alice, PURSE - 305 - opening_fee)
        assert (await alice.balance()).locked == 0
        await town.until_equal(3)


async def test_a_deposit_is_shared_by_its_beneficiaries(autojump_clock: Any) -> None:
    async with (
        open_town() as town,
        town.wallet("alice") as alice,
        town.wallet("bob") as bob,
        town.wallet("carol") as carol,
    ):
        parts = [(bob.account_id, 2), (carol.account_id, 1)]
        state = await alice.open_lock(parts, key_of("bob").public, 1_000, 10, LIFE_MS)
        await bob.lock(state.id)
        await bob.accept(payer(town, state).sign(100, 1, CONTEXT))
        assert (await bob.balance()).owed == 66
        await bob.close(state.id)
        await until_available(bob, PURSE + 66)
        await until_available(carol, PURSE + 33)


async def test_settling_twice_makes_one_operation(autojump_clock: Any) -> None:
    async with open_town() as town, town.wallet("alice") as alice, town.wallet("bob") as bob:
        state = await deposit_for(alice, bob)
        await bob.accept(payer(town, state).sign(100, 1, CONTEXT))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bob.settle, state.id)
            nursery.start_soon(bob.settle, state.id)
        assert (await bob.settle(state.id)).lock.seq == 1


async def test_a_payer_gets_back_what_an_expired_deposit_holds(autojump_clock: Any) -> None:
    async with open_town() as town, town.wallet("alice") as alice, town.wallet("bob") as bob:
        state = await alice.open_lock([(bob.account_id, 1)], key_of("bob").public, 1_000, 1_000, 5_000)
        with pytest.raises(NotYet, match="not-expired"):
            await alice.refund(state.id)
        await trio.sleep(5)
        assert not (await alice.refund(state.id)).is_open
        await until_available(alice, PURSE - 4)


async def refuse_no_receipt(town: Town, alice: Wallet, bob: Wallet, state: LockState) -> None:
    with pytest.raises(InvalidReceipt, match="no receipt"):
        await bob.settle(state.id)


async def refuse_small_settle(town: Town, alice: Wallet, bob: Wallet, state: LockState) -> None:
    await bob.accept(payer(town, state).sign(9, 1, CONTEXT))
    with pytest.raises(InvalidOperation, match="step"):
        await bob.settle(state.id)


async def refuse_foreign_close(town: Town, alice: Wallet, bob: Wallet, state: LockState) -> None:
    with pytest.raises(InvalidOperation, match="closer"):
        await alice.close(state.id)


async def refuse_unknown_lock(town: Town, alice: Wallet, bob: Wallet, state: LockState) -> None:
    with pytest.raises(NotFinal, match="no validator knows"):
        await bob.lock(bytes(32))


async def refuse_endless_lock(town: Town, alice: Wallet, bob: Wallet, state: LockState) -> None:
    with pytest.raises(InvalidInput, match="life"):
        await alice.open_lock([(bob.account_id, 1)], bytes(32), 10, 1, 10**12)


async def refuse_strange_receipt(town: Town, alice: Wallet, bob: Wallet, state: LockState) -> None:
    with pytest.raises(BadSignature):
        await bob.accept(payer(town, state, "carol").sign(50, 1, CONTEXT))
    assert (await bob.balance()).owed == 0


async def refuse_replayed_receipt(town: Town, alice: Wallet, bob: Wallet, state: LockState) -> None:
    signer = payer(town, state)
    old, new = signer.sign(50, 1, CONTEXT), signer.sign(60, 2, CONTEXT)
    await bob.accept(new)
    with pytest.raises(InvalidReceipt, match="cumulative"):
        await bob.accept(old)
    assert (await bob.balance()).owed == 60


@pytest.mark.parametrize(
    "refuse",
    [
        pytest.param(refuse_no_receipt, id="settle without a receipt"),
        pytest.param(refuse_small_settle, id="settle less than a step"),
        pytest.param(refuse_foreign_close, id="close another's Lock"),
        pytest.param(refuse_unknown_lock, id="a Lock that nobody knows"),
        pytest.param(refuse_endless_lock, id="a Lock that lives too long"),
        pytest.param(refuse_strange_receipt, id="a receipt of another key"),
        pytest.param(refuse_replayed_receipt, id="a replayed receipt"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    refuse: Callable[[Town, Wallet, Wallet, LockState], Awaitable[None]], autojump_clock: Any
) -> None:
    async with open_town() as town, town.wallet("alice") as alice, town.wallet("bob") as bob:
        await refuse(town, alice, bob, await deposit_for(alice, bob))


# --- the settle policy ------------------------------------------------------------------------------


async def policy_case(policy: SettlePolicy, cumulative: int, wait_s: float) -> tuple[int, bool]:
    """What is paid, and whether the Lock is open, so long after one receipt of 1,000."""
    async with open_town() as town, town.wallet("alice") as alice, town.wallet("bob", policy=policy) as bob:
        state = await deposit_for(alice, bob)
        await bob.accept(payer(town, state).sign(cumulative, 1, CONTEXT))
        await trio.sleep(wait_s)
        now = await bob.lock(state.id)
        return now.lock.paid, now.is_open


async def test_the_threshold_settles_at_once(autojump_clock: Any) -> None:
    policy = SettlePolicy(threshold=100, interval_ms=10**9)
    assert await policy_case(policy, 100, 2) == (100, True)
    assert await policy_case(policy, 99, 2) == (0, True)


async def test_the_timer_settles_what_is_old(autojump_clock: Any) -> None:
    policy = SettlePolicy(threshold=10**9, interval_ms=30_000)
    assert await policy_case(policy, 50, 29) == (0, True)
    assert await policy_case(policy, 50, 32) == (50, True)


async def test_before_expiry_everything_is_closed_however_little(autojump_clock: Any) -> None:
    assert await policy_case(QUIET, 5, LIFE_MS / 1000 - 10) == (0, True)
    assert await policy_case(QUIET, 5, LIFE_MS / 1000) == (5, False)


async def test_leaving_the_wallet_settles_what_is_owed(autojump_clock: Any) -> None:
    policy = SettlePolicy(threshold=10**9, interval_ms=10**9)
    async with open_town() as town, town.wallet("alice") as alice:
        async with town.wallet("bob", policy=policy) as bob:
            state = await deposit_for(alice, bob)
            await bob.accept(payer(town, state).sign(100, 1, CONTEXT))
        await alice.refresh()
        assert (await alice.lock(state.id)).lock.paid == 100


async def test_a_payer_s_wallet_takes_expired_deposits_back_by_itself(autojump_clock: Any) -> None:
    policy = SettlePolicy(refund=True)
    async with open_town() as town, town.wallet("alice", policy=policy) as alice:
        await alice.open_lock([(bytes(32), 1)], bytes(32), 1_000, 1_000, 5_000)
        await trio.sleep(30)
        assert await alice.locks() == []
        assert (await alice.balance()).available == PURSE - 4


# --- restarts ---------------------------------------------------------------------------------------


async def test_receipts_survive_a_restart_and_can_be_settled_then(
    autojump_clock: Any, tmp_path: Path
) -> None:
    async with open_town(root=tmp_path) as town, town.wallet("alice") as alice:
        async with town.wallet("bob") as bob:
            state = await deposit_for(alice, bob)
            await bob.accept(payer(town, state).sign(100, 1, CONTEXT))
        async with town.wallet("bob") as bob:  # settle-only: nothing but the key and the directory
            assert (await bob.balance()).owed == 100
            (ended,) = await bob.close_all()
            assert (ended.lock.paid, ended.is_open) == (100, False)
            assert await bob.close_all() == []
        await until_available(alice, PURSE - 100 - 1 - 102)


async def test_one_lock_that_cannot_be_closed_does_not_keep_the_others(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_town() as town, town.wallet("alice") as alice, town.wallet("bob") as bob:
        states = [await deposit_for(alice, bob) for _ in range(3)]
        close = bob.close

        async def sometimes(lock: bytes) -> LockState:
            if lock == states[1].id:
                raise NotFinal("not yet")
            return await close(lock)

        monkeypatch.setattr(bob, "close", sometimes)
        with pytest.raises(NotFinal):
            await bob.close_all()
        assert [state.id for state in await bob.locks()] == [states[1].id]
        monkeypatch.setattr(bob, "close", close)
        assert [state.id for state in await bob.close_all()] == [states[1].id]


async def test_an_account_can_be_used_again_without_its_directory(autojump_clock: Any) -> None:
    async with open_town() as town, town.wallet("bob") as bob:
        async with town.wallet("alice") as alice:
            await alice.send(bob.account_id, 10)
            await bob.send(alice.account_id, 500)
            state = await deposit_for(alice, bob)
            await bob.accept(payer(town, state).sign(100, 1, CONTEXT))
            await bob.settle(state.id)
            await until_available(alice, PURSE - 11 + 500 - 1_000 - 103)
            before = await alice.balance()
        async with town.wallet("alice") as alice:
            await alice.refresh()
            assert (await alice.balance()).available == before.available
            await alice.send(bob.account_id, PURSE - 2_000)  # needs every credit


async def test_a_payee_that_slept_through_its_settlements_finds_all_credits(autojump_clock: Any) -> None:
    async with open_town() as town, town.wallet("alice") as alice, town.wallet("bob") as bob:
        parts = [(bob.account_id, 1), (town.account("carol"), 1)]
        state = await alice.open_lock(parts, key_of("bob").public, 1_000, 10, LIFE_MS)
        await bob.lock(state.id)
        signer = payer(town, state)
        for cumulative in (101, 203, 311):
            await bob.accept(signer.sign(cumulative, 1, CONTEXT))
            await bob.settle(state.id)
        async with town.wallet("carol") as carol:
            assert (await carol.balance()).available == PURSE + 155
            await carol.send(bob.account_id, PURSE + 154)


async def test_a_directory_of_another_account_is_refused(autojump_clock: Any, tmp_path: Path) -> None:
    async with open_town() as town:
        async with town.wallet("alice", directory=tmp_path):
            pass
        with pytest.raises(StorageError, match="another account"):
            async with town.wallet("bob", directory=tmp_path):
                pass


async def test_one_directory_cannot_be_open_twice(autojump_clock: Any, tmp_path: Path) -> None:
    async with open_town() as town, town.wallet("alice", directory=tmp_path):
        async with town.network(key_of("carol")) as network:
            with pytest.raises(StorageError, match="in use"):
                async with town.wallet_on(network, "alice", directory=tmp_path):
                    pass


async def test_a_closed_wallet_says_so(autojump_clock: Any) -> None:
    async with open_town() as town:
        async with town.wallet("alice") as alice:
            pass
        for call in (alice.balance, alice.refresh, alice.locks, alice.history):
            with pytest.raises(Closed):
                await call()
        with pytest.raises(Closed):
            await alice.accept(SignedReceipt(b"", bytes(64)))


async def test_the_caller_s_exception_leaves_as_it_came(autojump_clock: Any) -> None:
    async with open_town() as town:
        with pytest.raises(ZeroDivisionError):
            async with town.wallet("alice"):
                raise ZeroDivisionError


async def test_without_a_committee_a_wallet_says_that_nobody_answers(autojump_clock: Any) -> None:
    async with open_town(running=[]) as town, town.wallet("alice") as alice:
        with pytest.raises(TimedOut, match="no validator has answered"):
            await alice.balance()
        with pytest.raises(TimedOut, match="nothing was signed"):
            await alice.send(bytes(32), 1, timeout_s=5)
        assert await alice.history() == []


async def test_kinds_of_operations_are_what_the_calls_promise(autojump_clock: Any) -> None:
    async with open_town() as town, town.wallet("alice") as alice, town.wallet("bob") as bob:
        state = await deposit_for(alice, bob)
        await bob.accept(payer(town, state).sign(100, 1, CONTEXT))
        await bob.settle(state.id)
        await bob.close(state.id)
        kinds = [type(recorded.parsed.operation.body) for recorded in await bob.history()]
        assert kinds == [Close, Settle, Spend]
        assert Refund not in kinds
