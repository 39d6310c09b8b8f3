"""Validators on a network: absence, restarts, crashes, late joiners, bad disks, bad callers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from ainp2p.errors import Error, NotFinal, Refused, StorageError
from ainp2p.ledger.rules.accounts import spend, unopened_account
from ainp2p.ledger.rules.operations import (
    Inception,
    Operation,
    SignedOperation,
    plain_inception,
    sign_operation,
)
from ainp2p.ledger.rules.receipts import Payer
from ainp2p.ledger.serving.catch_up import CatchUp
from ainp2p.ledger.serving.limits import Limits
from ainp2p.ledger.serving.messages import (
    FINAL,
    LEDGER_PROTOCOL,
    LOCKED,
    OPERATIONS_MAX,
    REFUSED,
    SEEN,
    UNKNOWN,
    AskStatus,
    CreditPage,
    Fetched,
    FetchOperations,
    Follow,
    GetCredits,
    GetObject,
    GetStatistics,
    ObjectHead,
    PushBatch,
    PushOperations,
    Statistics,
    Statuses,
    Submit,
)
from ainp2p.ledger.serving.service import ValidatorService
from ainp2p.ledger.serving.sync import Validators
from ainp2p.ledger.voting.effects import Effects
from ainp2p.ledger.voting.validator import Validator
from ainp2p.ledger.wallets.wallet import Wallet
from ainp2p.protocol.codec import encode
from ainp2p.protocol.network import Network
from ainp2p.protocol.storage import run_inline

from ..faulty import CrashingDisk
from ..town import LIFE_MS, PURSE, Town, open_town
from ..world import key_of


def run(main: Callable[..., Any], *args: Any) -> Any:
    """Run in virtual time; for loops over many scenarios in one test."""
    return trio.run(main, *args, clock=trio.testing.MockClock(autojump_threshold=0))


async def pay(wallet: Wallet, town: Town, times: int, to: str = "bob") -> None:
    for _ in range(times):
        await wallet.send(town.account(to), 1)


def first_spend(town: Town, name: str, amount: int = 5, to: str = "bob") -> SignedOperation:
    """What a wallet would send first."""
    inception: Inception = plain_inception(key_of(name).public)
    account = unopened_account(town.network_id, inception)
    credits = next(iter(town.services.values()))._validator.state.credits_of(account.id)
    operation: Operation = spend(
        account,
        credits,
        town.genesis.parameters,
        network=town.network_id,
        now_ms=town.hub.context("anybody").now_ms(),
        outs=[(town.account(to), amount)],
        inception=inception,
    )
    return sign_operation(operation, key_of(name))


# --- absence and return -------------------------------------------------------------------------------


async def test_one_validator_of_four_may_be_down(autojump_clock: Any) -> None:
    async with open_town() as town, town.wallet("alice") as alice:
        await town.stop(1)
        await pay(alice, town, 3)
        assert trio.current_time() < 10
        await town.until_equal(3)


async def test_two_of_four_down_decide_nothing_until_one_is_back(autojump_clock: Any, tmp_path: Path) -> None:
    async with open_town(root=tmp_path) as town, town.wallet("alice") as alice:
        await town.stop(1)
        await town.stop(2)
        with pytest.raises(NotFinal):
            await alice.send(town.account("bob"), 1, timeout_s=20)
        await town.start(2)
        await alice.send(town.account("bob"), 1)
        await town.until_equal(2)


async def test_c2_a_minority_side_decides_nothing_and_agrees_after_the_heal(autojump_clock: Any) -> None:
    async with open_town() as town, town.wallet("alice") as alice, town.wallet("carol") as carol:
        await alice.balance()
        await carol.balance()
        town.hub.partition(
            [key_of("alice").peer_id, *(town.peer(i) for i in (0, 1, 2))],
            [key_of("carol").peer_id, town.peer(3)],
        )
        await pay(alice, town, 2)
        with pytest.raises(Error):
            await carol.send(town.account("bob"), 1, timeout_s=20)
        assert town.services[3].statistics().decided == 0
        town.hub.heal()
        healed = trio.current_time()
        await town.until_equal(3)  # carol's went on by itself
        assert trio.current_time() - healed < 30


@pytest.mark.parametrize("hung", range(4))
async def test_c5_a_validator_that_hangs_holds_nobody_up_and_catches_up_when_it_wakes(
    hung: int, autojump_clock: Any
) -> None:
    """Also the one whose finals the wallet follows."""
    async with open_town() as town, town.wallet("alice") as alice:
        await pay(alice, town, 1)
        town.hub.pause(town.peer(hung))
        begun = trio.current_time()
        await pay(alice, town, 2)
        assert trio.current_time() - begun < 25
        await trio.sleep(60)
        begun = trio.current_time()
        await pay(alice, town, 2)
        assert trio.current_time() - begun < 2
        town.hub.resume(town.peer(hung))
        await town.until_equal(5)


async def test_a_late_joiner_catches_up_and_votes(autojump_clock: Any) -> None:
    async with open_town(running=[0, 1, 2]) as town, town.wallet("alice") as alice:
        await pay(alice, town, 30)
        await town.start(3)
        await town.until_voting()
        await town.until_equal(30)
        await town.stop(0)  # now its vote is needed
        await pay(alice, town, 2)
        await town.until_equal(32)


async def test_a_late_joiner_catches_up_with_long_logs_while_they_grow(
    autojump_clock: Any,
) -> None:
    async with open_town(running=[0, 1, 2]) as town, town.wallet("alice") as alice:
        await pay(alice, town, 120)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pay, alice, town, 40)
            await town.start(3)
        await town.until_equal(160)


async def test_b1_validators_are_restarted_in_turn_while_payments_go_on(
    autojump_clock: Any, tmp_path: Path
) -> None:
    async with open_town(root=tmp_path) as town, town.wallet("alice") as alice:
        done = trio.Event()

        async def work() -> None:
            await pay(alice, town, 60)
            done.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            turn = 0
            while not done.is_set():  # virtual time
                await town.stop(turn % 4)
                await trio.sleep(0.3)
                await town.start(turn % 4)
                await town.until_voting()
                turn += 1
        assert turn >= 4
        await town.until_voting()
        await town.until_equal(60)


async def test_c7_all_validators_restart_together_and_go_on(autojump_clock: Any, tmp_path: Path) -> None:
    async with open_town(root=tmp_path) as town, town.wallet("alice") as alice:
        await pay(alice, town, 5)
        for index in range(4):
            await town.stop(index)
        for index in range(4):
            await town.start(index)
        await town.until_voting()
        await pay(alice, town, 5)
        await town.until_equal(10)


async def test_b5_a_validator_that_lost_its_disk_follows_and_casts_no_vote(
    autojump_clock: Any, tmp_path: Path
) -> None:
    async with open_town(root=tmp_path) as town, town.wallet("alice") as alice:
        await pay(alice, town, 5)
        await town.stop(3)
        shutil.rmtree(tmp_path / "v3")
        await town.start(3)
        await pay(alice, town, 5)
        await town.until_equal(10)
        statistics = town.services[3].statistics()
        assert (statistics.behind, statistics.voting, statistics.decided) == (1, 0, 10)


# --- crashes ------------------------------------------------------------------------------------------


async def crash_validator(at: int, after: bool, root: Path) -> bool:
    """Crash validator 3 at its `at`-th write while payments go on; it comes back from its disk and votes."""
    async with open_town(root=root, running=[0, 1, 2]) as town, town.wallet("alice") as alice:

        def on_crash() -> None:
            town.hub.pause(town.peer(3))
            town._running[3][0].cancel()

        disk = CrashingDisk(root / "v3", root / "image", at, after=after, on_crash=on_crash)
        town.disks[3] = disk
        await town.start(3)
        await town.until_voting()
        await pay(alice, town, 12)
        if not disk.crashed.is_set():
            return False
        del town.disks[3]
        await trio.sleep(1)
        town.hub.resume(town.peer(3))
        shutil.rmtree(root / "v3")
        shutil.move(root / "image", root / "v3")
        await town.start(3)
        await town.until_voting()
        await town.stop(0)  # now its vote is needed
        await pay(alice, town, 2)
        await town.until_equal(14)
        assert not any(service._validator.statistics().evidence for service in town.services.values())
        return True


def crash_everywhere(root: Path) -> int:
    crashes = 0
    for after in (False, True):
        for at in range(1, 6):
            if not run(crash_validator, at, after, root / f"{at}{after}"):
                break
            crashes += 1
    return crashes


def test_b1_a_validator_that_crashes_at_any_write_comes_back_and_votes(tmp_path: Path) -> None:
    assert crash_everywhere(tmp_path) >= 8


def test_b1_mutant_votes_that_leave_before_the_fsync_silence_it_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def send_first(self: ValidatorService) -> None:
        now = self._now_ms()
        records = self._validator.seal(now)
        if records is not None:
            for batch in records.own:
                self._carry_out(Effects(batches=[batch]))
            await trio.sleep(0.1)
            await self._run_disk(lambda: self._journal.write(records))
            self._carry_out(self._validator.release(records, now))
        self._carry_out(self._validator.tick(now))

    monkeypatch.setattr(ValidatorService, "_seal_and_tick", send_first)
    with pytest.raises(trio.TooSlowError):  # it never votes again
        crash_everywhere(tmp_path)


def early_looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """So many milliseconds too early the core was looked at, by the timer task of any validator."""
    found: list[int] = []
    seal = Validator.seal

    def noted(self: Validator, now: int) -> Any:
        due = self.due
        if due > now:
            found.append(due - now)
        return seal(self, now)

    monkeypatch.setattr(Validator, "seal", noted)
    return found


async def test_the_timer_task_sleeps_until_the_core_is_due_whatever_comes_meanwhile(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_town() as town, town.wallet("alice") as alice:
        await town.until_voting()
        await alice.balance()
        early = early_looks(monkeypatch)
        await pay(alice, town, 3)
        await town.until_equal(3)
        assert early == []


async def test_a_mutant_that_wakes_it_for_what_is_not_due_yet_is_seen(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_out = ValidatorService._carry_out

    def carry_out_and_wake(self: ValidatorService, effects: Effects) -> None:
        carry_out(self, effects)
        self._alarm.deadline = trio.current_time()

    async with open_town() as town, town.wallet("alice") as alice:
        await town.until_voting()
        await alice.balance()
        early = early_looks(monkeypatch)
        monkeypatch.setattr(ValidatorService, "_carry_out", carry_out_and_wake)
        await pay(alice, town, 3)
        assert early


async def test_b3_a_validator_whose_disk_fails_signs_nothing_and_stays_readable(autojump_clock: Any) -> None:
    async def failing(job: Callable[[], Any]) -> Any:
        if broken:
            raise StorageError("the disk is full")
        return await run_inline(job)

    broken = False
    async with open_town(running=[0, 1, 2]) as town, town.wallet("alice") as alice:
        town.disks[3] = failing
        await town.start(3)
        await town.until_voting()
        await pay(alice, town, 2)
        await town.until_equal(2)
        broken = True
        await pay(alice, town, 3)
        assert "full" in str(town.services[3].halted)
        height = town.services[3].statistics().height
        await pay(alice, town, 3)
        assert town.services[3].statistics().height == height
        async with town.network(key_of("bob")) as network:
            answer = await Validators(network, town.genesis).ask(town.peer(3), GetStatistics(), Statistics)
            assert answer.voting == 0
            with pytest.raises(Refused, match="halted"):
                await submit(network, town, 3, first_spend(town, "bob"))


def test_mutant_without_catching_up_a_late_joiner_stays_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(self: CatchUp) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(CatchUp, "_compare_forever", nothing)
    with pytest.raises(trio.TooSlowError):
        run(join_late)


async def join_late() -> None:
    async with open_town(size=1) as town, town.wallet("alice") as alice:
        await pay(alice, town, 1)  # one alone needs to ask nobody
    async with open_town() as town, town.wallet("alice") as alice:
        await pay(alice, town, 1)


# --- questions ----------------------------------------------------------------------------------------


async def submit(network: Network, town: Town, index: int, *operations: SignedOperation) -> Statuses:
    question = Submit(tuple(encode(operation) for operation in operations))
    return await Validators(network, town.genesis).ask(town.peer(index), question, Statuses)


async def test_an_operation_given_to_one_validator_is_pushed_to_all(autojump_clock: Any) -> None:
    async with open_town() as town, town.network(key_of("bob")) as network:
        one, other = first_spend(town, "alice", 5), first_spend(town, "alice", 6)
        (status,) = (await submit(network, town, 0, one)).statuses
        assert status.grade in (SEEN, LOCKED)
        await town.until_equal(1)
        (status,) = (await submit(network, town, 2, other)).statuses
        assert status.grade == REFUSED
        assert status.rule == b"sequence"


async def test_status_goes_from_unknown_to_final_with_a_certificate(autojump_clock: Any) -> None:
    async with open_town() as town, town.network(key_of("bob")) as network:
        validators = Validators(network, town.genesis)
        signed = first_spend(town, "alice")
        (status,) = (await submit(network, town, 0, signed)).statuses
        await town.until_equal(1)
        answer = await validators.ask(town.peer(1), AskStatus((status.id, bytes(32))), Statuses)
        assert [each.grade for each in answer.statuses] == [FINAL, UNKNOWN]
        assert answer.statuses[0].certificate
        (again,) = (await submit(network, town, 0, signed)).statuses
        assert again.grade == FINAL  # a repeat is no error


async def test_operations_are_fetched_in_the_order_of_the_question(autojump_clock: Any) -> None:
    async with open_town() as town, town.network(key_of("bob")) as network:
        (status,) = (await submit(network, town, 0, first_spend(town, "alice"))).statuses
        await town.until_equal(1)
        question = FetchOperations((bytes(32), status.id))
        answer = await Validators(network, town.genesis).ask(town.peer(3), question, Fetched)
        assert answer.operations[0] is None
        assert answer.operations[1] is not None
        assert answer.operations[1].certificate


async def test_credits_come_in_pages(autojump_clock: Any) -> None:
    async with open_town() as town, town.wallet("alice") as alice:
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                for _ in range(60):
                    nursery.start_soon(alice.send, town.account("bob"), 1)
        async with town.network(key_of("bob")) as network:
            validators = Validators(network, town.genesis)
            first = await validators.ask(town.peer(0), GetCredits(town.account("bob"), b""), CreditPage)
            rest = await validators.ask(
                town.peer(0), GetCredits(town.account("bob"), first.entries[-1].credit), CreditPage
            )
            assert (len(first.entries), first.more, len(rest.entries), rest.more) == (128, 1, 53, 0)
        async with town.wallet("bob") as bob:
            assert (await bob.balance()).available == PURSE + 180


async def test_an_object_that_nobody_knows_is_answered_with_nothing(autojump_clock: Any) -> None:
    async with open_town() as town, town.network(key_of("bob")) as network:
        answer = await Validators(network, town.genesis).ask(town.peer(0), GetObject(bytes(32)), ObjectHead)
        assert answer == ObjectHead(bytes(32), b"", (), ())


@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param(b"", "malformed", id="nothing"),
        pytest.param(b"\xc1" * 40, "malformed", id="garbage"),
        pytest.param(encode([99, b""]), "malformed", id="unknown question"),
        pytest.param(encode([6, b"short"]), "malformed", id="wrong length"),
        pytest.param(encode([1, [b"not an operation"], 0]), "malformed", id="garbage in a frame"),
        pytest.param(
            encode(FetchOperations((bytes(32),) * (OPERATIONS_MAX + 1))), "malformed", id="too many"
        ),
        pytest.param(encode(PushBatch(b"x")), "not-a-member", id="a stranger's batch"),
        pytest.param(encode(PushOperations((b"x",))), "not-a-member", id="a stranger's push"),
    ],
)
async def test_e2_bad_questions_are_refused_and_nothing_else_happens(
    body: bytes, code: str, autojump_clock: Any
) -> None:
    async with open_town() as town, town.network(key_of("bob")) as network:
        with pytest.raises(Refused) as refused:
            await network.request(town.peer(0), LEDGER_PROTOCOL, body)
        assert refused.value.code == code
        await Validators(network, town.genesis).ask(town.peer(0), GetStatistics(), Statistics)


async def test_e12_a_forged_signature_is_refused(autojump_clock: Any) -> None:
    async with open_town() as town, town.network(key_of("bob")) as network:
        signed = first_spend(town, "alice")
        forged = SignedOperation(signed.raw, (bytes(64),), None)
        (status,) = (await submit(network, town, 0, forged)).statuses
        assert (status.grade, status.rule) == (REFUSED, b"BadSignature")
        await trio.sleep(5)
        assert town.services[0].statistics().decided == 0


async def test_a_member_that_sends_garbage_harms_nobody(autojump_clock: Any) -> None:
    async with open_town() as town, town.wallet("alice") as alice:
        member = town.networks[town.peer(3)]
        for body in (b"\xc1", encode(PushBatch(b"garbage")), encode(PushOperations((b"garbage",)))):
            await member.send(town.peer(0), LEDGER_PROTOCOL, body)
        await pay(alice, town, 2)
        await town.until_equal(2)


async def test_e4_who_asks_too_much_is_told_busy_and_others_are_served(autojump_clock: Any) -> None:
    async with open_town() as town, town.network(key_of("bob")) as network, town.wallet("alice") as alice:
        for service in town.services.values():
            service._charges._strangers = Limits(rate=10, burst=200)
        validators = Validators(network, town.genesis)
        await validators.ask(town.peer(0), GetStatistics(), Statistics)
        for _ in range(3):
            await validators.ask(town.peer(0), GetStatistics(), Statistics)
        with pytest.raises(Refused) as refused:
            await validators.ask(town.peer(0), GetStatistics(), Statistics)
        assert refused.value.code == "busy"
        await pay(alice, town, 1)
        await trio.sleep(20)
        await validators.ask(town.peer(0), GetStatistics(), Statistics)


async def test_a_peer_may_follow_only_a_few_streams(autojump_clock: Any) -> None:
    async with open_town() as town, town.network(key_of("bob")) as network:
        question = encode(Follow((bytes(32),)))

        async def follow() -> None:
            async with network.stream(town.peer(0), LEDGER_PROTOCOL, question) as chunks:
                async for _ in chunks:
                    pass

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(follow)
            await trio.sleep(1)
            with pytest.raises(Refused, match="busy"):
                await follow()
            nursery.cancel_scope.cancel()


async def test_statistics_count_every_unit(autojump_clock: Any) -> None:
    async with open_town() as town, town.wallet("alice") as alice, town.wallet("bob") as bob:
        state = await alice.open_lock([(bob.account_id, 1)], key_of("bob").public, 1_000, 10, LIFE_MS)
        await bob.lock(state.id)
        await bob.accept(Payer(town.network_id, state.lock, key_of("alice")).sign(100, 1, bytes(32)))
        await bob.settle(state.id)
        (statistics, *_) = await town.until_equal(2)
        assert (statistics.locks, statistics.burnt) == (900, 103)
        assert statistics.balances == PURSE - 1_000 - 103


async def test_a_key_outside_the_committee_cannot_validate(autojump_clock: Any) -> None:
    async with open_town() as town:
        town.keys.append(key_of("stranger"))
        with pytest.raises(Exception, match="not in the network's committee"):
            await town.start(4)


# --- the faucet ---------------------------------------------------------------------------------------


async def test_the_faucet_gives_each_peer_one_purse_also_after_a_restart(
    autojump_clock: Any, tmp_path: Path
) -> None:
    from ainp2p.ledger.serving.faucet import ask_purse

    async with open_town(root=tmp_path) as town, town.network(key_of("dave")) as dave:
        faucet = key_of("faucet").peer_id
        async with town.faucet():
            first = await ask_purse(dave, faucet, town.account("dave"))
            assert await ask_purse(dave, faucet, town.account("somebody else")) == first
        async with town.faucet():
            assert await ask_purse(dave, faucet, town.account("dave")) == first
        await town.until_equal(1)
        async with town.wallet_on(dave, "dave") as wallet:
            assert (await wallet.balance()).available == first.amount == 1_000
