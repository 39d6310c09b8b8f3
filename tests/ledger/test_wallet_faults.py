"""Wallets against lost replies, crashes, lying validators and failing disks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from ainp2p.errors import BadSignature, InvalidOperation, NotFinal, StorageError, TimedOut
from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.rules.merkle import MerkleTree
from ainp2p.ledger.rules.operations import (
    LockTerms,
    Operation,
    Out,
    ParsedOperation,
    Spend,
    operation_id,
    sign_operation,
)
from ainp2p.ledger.rules.receipts import Payer
from ainp2p.ledger.serving.messages import LEDGER_PROTOCOL, Decided, Finals, Follow, read_question
from ainp2p.ledger.serving.proofs import Proofs
from ainp2p.ledger.serving.service import ValidatorService
from ainp2p.ledger.voting.certificate import build_certificate
from ainp2p.ledger.voting.effects import Effects
from ainp2p.ledger.voting.votelog import BATCH_VERSION, Header, commit_entry, sign_batch
from ainp2p.ledger.wallets import submitting
from ainp2p.ledger.wallets.ordering import Orders
from ainp2p.ledger.wallets.submitting import Pending
from ainp2p.ledger.wallets.wallet import Wallet, open_wallet
from ainp2p.ledger.wallets.writing import Writer
from ainp2p.protocol.codec import encode
from ainp2p.protocol.identity import Key
from ainp2p.protocol.memory import Conditions
from ainp2p.protocol.network import Call
from ainp2p.protocol.storage import Files, run_inline

from .faulty import CrashingDisk, LossyNetwork
from .town import LIFE_MS, PURSE, QUIET, Town, open_town
from .world import key_of

__all__ = ["LockTerms", "Operation", "Out"]


def run(main: Callable[..., Any], *args: Any) -> Any:
    """Run in virtual time; for loops over many scenarios in one test."""
    return trio.run(main, *args, clock=trio.testing.MockClock(autojump_threshold=0))


@contextmanager
def overheard(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[tuple[bytes, int], set[bytes]]]:
    """Slot → ids of all operations that any validator was ever handed."""
    heard: dict[tuple[bytes, int], set[bytes]] = {}
    original = ValidatorService._hand_over

    def listen(
        self: ValidatorService, parsed: ParsedOperation, source: str, now: int, effects: Effects
    ) -> None:
        slot = parsed.operation.object, parsed.operation.seq
        heard.setdefault(slot, set()).add(parsed.id)
        original(self, parsed, source, now, effects)

    with monkeypatch.context() as patch:
        patch.setattr(ValidatorService, "_hand_over", listen)
        yield heard


# --- A6: replies that get lost ------------------------------------------------------------------------


async def pay_losing(lose: Callable[[int], bool]) -> int:
    """One payment whose caller loses replies: exactly once, and the caller sees it done. → replies in all."""
    async with open_town() as town, town.wallet("bob") as bob, town.network(key_of("alice")) as inner:
        network, lossy = LossyNetwork.over(inner, lose)
        async with town.wallet_on(network, "alice") as alice:
            final = await alice.send(bob.account_id, 1_000, note=b"once")
            assert await alice.send(bob.account_id, 1_000, note=b"once") == final
        await town.until_equal(1)
        await trio.sleep(30)  # whatever is still on its way
        assert {service.statistics().decided for service in town.services.values()} == {1}
        await bob.refresh()
        assert (await bob.balance()).available == PURSE + 1_000
        return lossy.replies


def test_a6_whichever_reply_is_lost_the_payment_is_made_once_and_done() -> None:
    replies = run(pay_losing, lambda n: False)
    assert replies >= 10
    for k in range(1, replies + 1):
        run(pay_losing, lambda n, k=k: n == k)


def test_a6_from_any_moment_on_replies_may_be_lost_for_a_while() -> None:
    for k in range(1, 24):
        run(pay_losing, lambda n, k=k: k <= n < k + 12)


def test_a6_mutant_without_re_sending_a_lost_submission_is_never_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(submitting, "RESEND_AFTER_S", 1e9)

    async def everything_lost_at_first() -> None:
        async with open_town() as town, town.network(key_of("alice")) as network:
            async with town.wallet_on(network, "alice") as alice:
                await alice.balance()
                town.hub.partition([network.peer_id], [town.peer(i) for i in range(4)])
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(alice.send, bytes(32), 5)
                    await trio.sleep(20)
                    town.hub.heal()

    with pytest.raises(ExceptionGroup) as caught:
        run(everything_lost_at_first)
    assert caught.group_contains((TimedOut, NotFinal))


def test_a6_mutant_without_notes_a_repeated_call_pays_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Orders, "named", lambda self, note: None)
    with pytest.raises((AssertionError, StorageError)):
        run(pay_losing, lambda n: False)


async def test_a6_a_call_that_gives_up_says_whether_anybody_has_it(autojump_clock: Any) -> None:
    async with open_town() as town, town.wallet("alice") as alice:
        await town.stop(2)
        await town.stop(3)
        with pytest.raises(NotFinal, match="2 validators hold it"):
            await alice.send(bytes(32), 5, timeout_s=10)


async def test_a6_what_was_given_up_is_done_by_the_journal_and_named_by_its_note(
    autojump_clock: Any, tmp_path: Path
) -> None:
    async with open_town(root=tmp_path) as town, town.wallet("bob") as bob:
        await town.stop(2)
        await town.stop(3)
        async with town.wallet("alice") as alice:
            with pytest.raises(NotFinal):
                await alice.send(bob.account_id, 5, note=b"n", timeout_s=10)
            await town.start(2)
            assert (await alice.send(bob.account_id, 5, note=b"n")).certificate
        await bob.refresh()
        assert (await bob.balance()).available == PURSE + 5


# --- crashes ------------------------------------------------------------------------------------------


async def with_crash(
    town: Town, name: str, at: int, after: bool, root: Path, use: Callable[[Wallet], Awaitable[None]]
) -> Path | None:
    """Use a wallet until it crashes at its `at`-th write; what is left on its disk, None if it did not."""
    directory, image = root / "before", root / "after"
    async with town.network(key_of(name)) as network:
        with trio.CancelScope() as scope:

            def on_crash() -> None:
                town.hub.pause(network.peer_id)
                scope.cancel()

            disk = CrashingDisk(directory, image, at, after=after, on_crash=on_crash)
            async with open_wallet(
                network, town.genesis, key_of(name), directory, policy=QUIET, storage=Files(disk)
            ) as wallet:
                await use(wallet)
    town.hub.resume(key_of(name).peer_id)
    return image if disk.crashed.is_set() else None


async def pay_crashing(at: int, after: bool, root: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Pay, crash at a write, open again and do the same: exactly once. False if it never crashed."""

    async def pay(alice: Wallet) -> None:
        await alice.send(town.account("bob"), 1_000, note=b"once")
        await alice.open_lock([(town.account("bob"), 1)], bytes(32), 100, 10, LIFE_MS, note=b"lock")

    with overheard(monkeypatch) as heard:
        async with open_town() as town, town.wallet("bob") as bob:
            image = await with_crash(town, "alice", at, after, root, pay)
            if image is None:
                return False
            async with town.wallet("alice", directory=image) as alice:
                await pay(alice)
                assert len(await alice.locks()) == 1
            await bob.refresh()
            assert (await bob.balance()).available == PURSE + 1_000
            await town.until_equal(2)
    assert all(len(ids) == 1 for ids in heard.values()), "two operations were signed for one slot"
    return True


def crash_everywhere(root: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Crash before and after each write; → how many crashes there were."""
    crashes = 0
    for after in (False, True):
        for at in range(1, 100):
            if not run(pay_crashing, at, after, root / f"{at}{after}", monkeypatch):
                break
            crashes += 1
    return crashes


def test_b1_a_wallet_that_crashes_at_any_write_pays_exactly_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert crash_everywhere(tmp_path, monkeypatch) >= 6


def test_b1_mutant_sending_before_the_journal_signs_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def send_first(self: Writer, pending: Pending, notes: dict[bytes, int], now_ms: int) -> None:
        self._submitter.add(pending)
        await trio.sleep(0.02)  # sent, and not final yet
        self._store.journal(pending.parsed, notes, now_ms)
        await self._store.synced()

    monkeypatch.setattr(Writer, "send", send_first)
    with pytest.raises((AssertionError, NotFinal, StorageError)):
        crash_everywhere(tmp_path, monkeypatch)


async def accept_crashing(at: int, root: Path) -> bool:
    """Accept receipts until a crash: whatever was acknowledged is there afterwards. False if none came."""
    async with open_town() as town, town.wallet("alice") as alice:
        state = await alice.open_lock([(town.account("bob"), 1)], key_of("bob").public, 10_000, 10, LIFE_MS)
        signer, acknowledged = Payer(town.network_id, state.lock, key_of("alice")), 0

        async def accept(bob: Wallet) -> None:
            nonlocal acknowledged
            await bob.lock(state.id)
            for cumulative in range(10, 60, 10):
                await bob.accept(signer.sign(cumulative, cumulative, bytes(32)))
                acknowledged = cumulative

        image = await with_crash(town, "bob", at, True, root, accept)
        if image is None:
            return False
        async with town.wallet("bob", directory=image) as bob:
            await bob.lock(state.id)
            assert (await bob.balance()).owed >= acknowledged
        return True


def test_b1_an_acknowledged_receipt_survives_a_crash_at_any_write(tmp_path: Path) -> None:
    crashes = 0
    while run(accept_crashing, crashes + 1, tmp_path / str(crashes)):
        crashes += 1
    assert crashes >= 5


def test_b1_mutant_a_receipt_acknowledged_before_it_is_durable_gets_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forget(self: Wallet) -> None:
        self.book.take_unsaved()

    monkeypatch.setattr(Wallet, "save_receipts", forget)
    with pytest.raises(AssertionError):
        run(accept_crashing, 2, tmp_path)


async def test_b3_a_wallet_whose_disk_fails_sends_nothing(
    autojump_clock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = False

    async def run_disk(job: Callable[[], Any]) -> Any:
        if failing:
            raise StorageError("the disk is full")
        return await run_inline(job)

    with overheard(monkeypatch) as heard:
        async with open_town() as town, town.network(key_of("alice")) as network:
            async with open_wallet(
                network, town.genesis, key_of("alice"), tmp_path, policy=QUIET, storage=Files(run_disk)
            ) as alice:
                await alice.balance()
                failing = True
                for _ in range(2):
                    with pytest.raises(StorageError, match="full"):
                        await alice.send(bytes(32), 5)
                assert (await alice.balance()).available == PURSE
    assert heard == {}


# --- callers that go away -------------------------------------------------------------------------------


async def go_away(town: Town, directory: Path) -> None:
    """SETTLEs whose callers are cancelled after 0, 1, 2 … ms; then every Lock is closed."""

    async def slow_disk(job: Callable[[], Any]) -> Any:
        await trio.sleep(0.004)
        return await run_inline(job)

    async with (
        town.wallet("alice") as alice,
        town.network(key_of("bob")) as network,
        open_wallet(
            network, town.genesis, key_of("bob"), directory, policy=QUIET, storage=Files(slow_disk)
        ) as bob,
    ):
        for after_ms in range(20):
            state = await alice.open_lock([(bob.account_id, 1)], key_of("bob").public, 200, 10, LIFE_MS)
            await bob.lock(state.id)
            signer = Payer(town.network_id, state.lock, key_of("alice"))
            await bob.accept(signer.sign(100, 100, bytes(32)))
            with trio.move_on_after(after_ms / 1000):
                await bob.settle(state.id)
            closed = await bob.close(state.id)
            assert (closed.lock.paid, closed.is_open) == (100, False)


async def test_b1_whenever_the_caller_of_a_settle_is_cancelled_its_lock_can_be_closed(
    autojump_clock: Any, tmp_path: Path
) -> None:
    async with open_town() as town:
        await go_away(town, tmp_path)


async def test_b1_mutant_what_a_cancelled_caller_wrote_is_sent_by_nobody(
    autojump_clock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(self: Writer, pending: Pending) -> None: ...

    monkeypatch.setattr(Writer, "_send_alone", nothing)
    async with open_town() as town:
        with pytest.raises(NotFinal):
            await go_away(town, tmp_path)


# --- C1: the network ----------------------------------------------------------------------------------


async def busy_day(seed: int, conditions: Conditions) -> None:
    """Payments, deposits, settlements in bad weather; everything arrives once, all agree at the end."""
    async with (
        open_town(seed=seed, conditions=conditions) as town,
        town.wallet("alice") as alice,
        town.wallet("bob") as bob,
    ):
        states = []

        async def deal(amount: int) -> None:
            await alice.send(bob.account_id, amount)
            state = await alice.open_lock([(bob.account_id, 1)], key_of("bob").public, 1_000, 10, LIFE_MS)
            await bob.lock(state.id)
            signer = Payer(town.network_id, state.lock, key_of("alice"))
            for cumulative in (100, 200):
                await bob.accept(signer.sign(cumulative, cumulative, bytes(32)))
                states.append(await bob.settle(state.id))

        async with trio.open_nursery() as nursery:
            for amount in range(1, 7):
                nursery.start_soon(deal, amount)
        decided = max(service.statistics().decided for service in town.services.values())
        await town.until_equal(decided)
        await bob.refresh()
        assert (await bob.balance()).available == PURSE + 21 + 6 * 200


@pytest.mark.parametrize("seed", range(6))
def test_c1_loss_delay_and_disorder_change_nothing_but_time(seed: int) -> None:
    run(busy_day, seed, Conditions(latency_s=0.05, jitter_s=0.4, loss=0.05))


# --- liars --------------------------------------------------------------------------------------------


def forged_certificate(town: Town, operation: bytes, keys: list[Key]) -> bytes:
    """A certificate of a committee of one's own."""
    keys = sorted(keys, key=lambda key: key.public)
    committee = Committee(tuple(key.public for key in keys), (1,) * len(keys))
    leaf = commit_entry(0, operation)
    batches = {}
    for member, key in enumerate(keys):
        header = Header(
            BATCH_VERSION, town.network_id, 0, key.public, 1, town.network_id, 1, MerkleTree([leaf]).root, 1
        )
        batches[member] = sign_batch(header, [leaf], key, member)
    places = [(member, 1, 0) for member in batches]
    return build_certificate(places, lambda member, _: batches[member], committee)


async def be_lied_to(certify: Callable[[Town, bytes], bytes]) -> int:
    """alice's balance after every validator of hers has announced money that nobody sent."""
    async with open_town(running=[]) as town:
        mallory = sign_operation(
            Operation(
                1,
                town.network_id,
                town.account("carol"),
                2,
                bytes(32),
                1,
                Spend(0, (), (Out(town.account("alice"), 777),), (), 1, None, None, bytes(32)),
            ),
            key_of("carol"),
        )
        lie = Decided(encode(mallory), certify(town, operation_id(mallory.raw)))

        async def handle(call: Call) -> bytes:
            if isinstance(read_question(call.body), Follow):
                await call.send(encode(Finals((lie,))))
                await trio.sleep_forever()
            raise AssertionError("not asked")

        async with trio.open_nursery() as nursery:
            for key in town.keys:

                async def lie_as(key: Key = key) -> None:
                    async with town.network(key) as network:
                        network.serve(LEDGER_PROTOCOL, handle)
                        await trio.sleep_forever()

                nursery.start_soon(lie_as)
            async with town.wallet("alice") as alice:
                await trio.sleep(20)
                available = alice._purse.balance(None, {}).available
            nursery.cancel_scope.cancel()
        return available


def from_strangers(town: Town, operation: bytes) -> bytes:
    return forged_certificate(town, operation, [key_of(f"stranger {i}") for i in range(4)])


def from_a_minority(town: Town, operation: bytes) -> bytes:
    return forged_certificate(town, operation, town.keys[:2])


def from_nobody(town: Town, operation: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("certify", [from_strangers, from_a_minority, from_nobody])
def test_a_certificate_that_is_none_makes_no_money(certify: Callable[[Town, bytes], bytes]) -> None:
    assert run(be_lied_to, certify) == PURSE


def test_mutant_a_certificate_of_another_committee_would_make_money(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Proofs, "check_certificate", lambda self, certificate, operation: None)
    assert run(be_lied_to, from_strangers) == PURSE + 777


async def test_a_quorum_makes_the_same_certificate_good(autojump_clock: Any) -> None:
    async with open_town() as town:
        proofs = Proofs(town.genesis)
        proofs.check_certificate(forged_certificate(town, bytes(32), town.keys), bytes(32))
        with pytest.raises((InvalidOperation, BadSignature)):
            proofs.check_certificate(
                forged_certificate(town, bytes(32), [*town.keys[:3], key_of("x")]), bytes(32)
            )
