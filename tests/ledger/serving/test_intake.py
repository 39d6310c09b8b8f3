"""Who gets to the core when more comes than it can do."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from ainp2p.errors import BadSignature, Error, InvalidOperation, NotYet, StorageError
from ainp2p.ledger.rules.operations import ParsedOperation, parse
from ainp2p.ledger.rules.receipts import close_operation, refund_operation, settle_operation
from ainp2p.ledger.serving import intake as module
from ainp2p.ledger.serving import service
from ainp2p.ledger.serving.intake import Entry, Intake, weigher
from ainp2p.ledger.serving.messages import FINAL, Status
from ainp2p.ledger.serving.pace import BURST, RATE_MIN
from ainp2p.ledger.serving.service import ValidatorService
from ainp2p.ledger.serving.ticket import Ticket

from ..test_junk_ahead import ahead
from ..test_wallet_faults import run
from ..town import open_town
from ..world import PURSE, World, key_of
from .test_service import first_spend, submit

MEMBERS = {"member 1": 3, "member 2": 1}


def operation(account: int, weight: int = 1, number: int = 0) -> ParsedOperation:
    """What `Intake` looks at; `weigh` below reads the rest."""
    id_ = account.to_bytes(24, "big") + number.to_bytes(8, "big")
    return cast("ParsedOperation", SimpleNamespace(id=id_, signed=None, account=account, weight=weight))


def weigh(parsed: Any) -> tuple[bytes, int]:
    return parsed.account.to_bytes(32, "big"), parsed.weight


@dataclass
class Desk:
    """An intake, and what was said to whom."""

    intake: Intake
    busy: int = 0

    def add(self, parsed: ParsedOperation, peer: str, now_s: float = 0) -> None:
        self.intake.add(parsed, peer, peer, self._done, now_s)

    def _done(self, problem: Error | None) -> None:
        self.busy += isinstance(problem, NotYet)

    def pop(self, now_s: float = 0) -> Entry:
        entry = self.intake.pop(now_s)
        assert entry is not None
        return entry

    def serve(self, count: int, problem: Error | None = None, now_s: float = 0) -> list[str]:
        entries = [self.pop(now_s) for _ in range(count)]
        for entry in entries:
            self.intake.judged(entry, problem, now_s)
        return [entry.peer for entry in entries]


def desk(**more: Any) -> Desk:
    return Desk(Intake(more.pop("stakes", MEMBERS), weigh))


# --- whose, and what weight ---------------------------------------------------------------------------


def test_what_waits_is_held_until_it_is_taken_or_has_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SUBMITTED_PER_ACCOUNT_MAX", 1)
    one, two = operation(1, number=1), operation(1, number=2)
    waiting = desk()
    waiting.add(one, "member 1")
    waiting.add(one, "wallet")  # from two at once: it waits until both were taken
    waiting.add(two, "wallet")
    assert waiting.intake.holds(one.id)
    assert not waiting.intake.holds(two.id)  # it was told "busy"
    waiting.pop()
    assert waiting.intake.holds(one.id)
    waiting.pop()
    assert not waiting.intake.holds(one.id)


def test_a_spend_weighs_what_its_account_holds_and_pays_above_the_floor() -> None:
    world = World()
    signed = world.spend("alice", [("bob", 5)])
    floor = parse(signed).operation.body.fee  # type: ignore[union-attr]  # a SPEND's
    weigh_ = weigher(world.state)
    assert weigh_(parse(signed)) == (world.ids["alice"], PURSE + module.PAYS * (floor - 1))
    more = parse(world.spend("alice", [("bob", 5)], fee=floor + 10))
    assert weigh_(more) == (world.ids["alice"], PURSE + module.PAYS * (floor + 9))
    world.do(signed)
    after = parse(world.spend("alice", [("bob", 5)]))
    assert weigh_(after)[1] == PURSE - 5 - floor + module.PAYS * (floor - 1)


def test_what_is_claimed_and_not_there_has_no_weight() -> None:
    world = World()
    signed = world.spend("alice", [("bob", 5)])
    world.state = World().state
    for credit in list(world.state.credits):
        world.state._drop_credit(credit)
    assert weigher(world.state)(parse(signed))[1] == 0


def test_a_locks_operations_weigh_what_is_in_it_so_a_payee_is_served_for_each_of_its_deposits() -> None:
    world = World()
    lock = world.open_lock()
    weigh_ = weigher(world.state)
    settle = parse(settle_operation(lock, world.receipt(lock, 100)))
    close = parse(close_operation(world.network, lock, world.receipt(lock, 100)))
    refund = parse(refund_operation(world.network, lock))
    assert weigh_(settle) == weigh_(close) == weigh_(refund) == (lock.id, 1_000)
    world.do(settle.signed)
    assert weigh_(close)[1] == 900


# --- turns ----------------------------------------------------------------------------------------------


def test_members_and_wallets_take_turns() -> None:
    ours = desk()
    for number in range(5):
        ours.add(operation(1, 10, number), "wallet")
        ours.add(operation(2, 10, number), "member 1")
    assert sorted(ours.serve(4)) == ["member 1", "member 1", "wallet", "wallet"]


def test_pushes_of_members_are_served_in_proportion_to_their_stake() -> None:
    ours = desk()
    for number in range(400):
        ours.add(operation(1, 1, number), "member 1")
        ours.add(operation(2, 1, number), "member 2")
    served = ours.serve(200)
    assert 145 <= served.count("member 1") <= 155


def test_mutant_members_of_equal_weight_are_not_served_by_stake() -> None:
    ours = desk(stakes=dict.fromkeys(MEMBERS, 1))
    for number in range(400):
        ours.add(operation(1, 1, number), "member 1")
        ours.add(operation(2, 1, number), "member 2")
    assert not 145 <= ours.serve(200).count("member 1") <= 155


def test_what_does_not_fit_is_told_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SUBMITTED_MAX", 10)
    ours = desk()
    for number in range(25):
        ours.add(operation(number, 1), f"peer {number}")
    assert (len(ours.intake), ours.busy) == (10, 15)


def test_e9_nobody_fills_anothers_queue_in_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SUBMITTED_PER_ACCOUNT_MAX", 5)
    ours = desk()
    for number in range(50):
        ours.add(operation(1, 100, number), "mallory")
    ours.add(operation(1, 100, 99), "alice")
    assert ours.busy == 45
    assert "alice" in ours.serve(2)


# --- spam -------------------------------------------------------------------------------------------------


def waits(spam_per_tick: int, accounts: int, weight: int, ticks: int = 400) -> list[int]:
    """Ticks that each honest operation waits; the core does ten operations a tick, honest ones are three."""
    ours, waited, number = desk(), [], 0
    since: dict[bytes, int] = {}
    for tick in range(ticks):
        for _ in range(spam_per_tick):
            number += 1
            spammer = 1_000 + number % accounts
            ours.add(operation(spammer, 1, number), f"spam {spammer % 100}", tick)
        for honest in range(3):
            parsed = operation(honest, weight, tick)
            since[parsed.id] = tick
            ours.add(parsed, f"honest {honest}", tick)
        ours.intake.measured(0, tick)
        for _ in range(min(10, len(ours.intake))):
            entry = ours.pop(tick)
            ours.intake.judged(entry, None, tick)
            if entry.id in since:
                waited.append(tick - since.pop(entry.id))
    return sorted(waited + [ticks] * len(since))


@pytest.mark.parametrize("weight", [1_000_000, 1_000], ids=["rich", "modest"])
def test_e9_dust_spam_ten_times_the_capacity_from_ten_thousand_accounts_delays_nobody(weight: int) -> None:
    idle, spammed = waits(0, 1, weight), waits(100, 10_000, weight)
    assert len(spammed) == len(idle)
    assert spammed[int(len(spammed) * 0.99)] <= 2 * max(1, idle[int(len(idle) * 0.99)])


def test_e9_mutant_a_queue_without_weights_lets_spam_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "weigh", lambda parsed: (parsed.account.to_bytes(32, "big"), 1))
    spammed = waits(100, 10_000, 1_000)
    assert spammed[int(len(spammed) * 0.99)] > 2


def test_e9_spam_in_the_name_of_the_rich_has_their_weight_only_until_it_is_looked_at() -> None:
    ours, served = desk(), []
    for number in range(500):
        ours.add(operation(number, 10**9, number), "mallory")
    for turn in range(200):
        ours.intake.measured(0, turn / 100)
        entry = ours.pop(turn / 100)
        ours.intake.judged(entry, BadSignature("false"), 1)
        served.append(entry.peer)
    for number in range(20):
        ours.add(operation(10_000 + number, 10**9), "mallory", 2)
        ours.add(operation(20_000 + number, 5), f"honest {number}", 2)
    assert ours.serve(20, now_s=2).count("mallory") <= 3


def test_e9_mutant_endless_trust_lets_who_names_the_rich_go_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module._Standing, "lend", lambda self, now_s: True)
    with pytest.raises(AssertionError):
        test_e9_spam_in_the_name_of_the_rich_has_their_weight_only_until_it_is_looked_at()


def test_e6_who_relays_what_came_too_late_keeps_its_standing_and_the_origin_of_a_false_one_does_not() -> None:
    ours = desk()
    ours.add(operation(1, 10), "relay")
    assert ours.intake.judged(ours.pop(), InvalidOperation("sequence", "decided"), 0)
    ours.add(operation(1, 10), "origin")
    assert not ours.intake.judged(ours.pop(), BadSignature("false"), 0)
    ours.add(operation(1, 10, 1), "relay", 1)
    ours.add(operation(2, 10, 2), "origin", 1)
    assert [ours.pop().weighed, ours.pop().weighed] == [True, False]
    ours.add(operation(2, 10, 3), "origin", module.DISTRUST_S + 1)
    assert ours.pop().weighed


def test_e6_mutant_a_rule_that_blames_whoever_relays_takes_its_standing() -> None:
    ours = desk()
    ours.add(operation(1, 10), "relay")
    assert not ours.intake.judged(ours.pop(), BadSignature("as if it were its fault"), 0)
    ours.add(operation(1, 10, 1), "relay", 1)
    assert not ours.pop().weighed


def test_submitters_are_remembered_in_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SUBMITTERS_MAX", 5)
    ours = desk()
    for number in range(50):
        ours.add(operation(number, 1), f"peer {number}")
    ours.serve(50)
    assert len(ours.intake._submitters) <= 5


# --- light beside heavy ---------------------------------------------------------------------------------


def light_served(late_s: float, heavy: bool, seconds: float = 20.0) -> int:
    """How many light operations go in, of far too many, at a loop that is so late; ten turns a second."""
    ours, served, number = desk(), 0, 0
    for turn in range(int(10 * seconds)):
        now_s = turn / 10
        if heavy:
            ours.add(operation(1, 1_000, turn), "honest", now_s)
        for _ in range(50):
            number += 1
            ours.add(operation(1_000 + number % 100, 100, number), f"spam {number % 10}", now_s)
        ours.intake.measured(late_s, now_s)
        for _ in range(51):
            entry = ours.intake.pop(now_s)
            if entry is None:
                break
            ours.intake.judged(entry, None, now_s)
            served += entry.peer != "honest"
    return served


def test_light_operations_are_paced_beside_heavy_ones_while_the_loop_is_late() -> None:
    assert 100 <= light_served(0.02, heavy=True) <= 20 * RATE_MIN + 200  # little, and not nothing


def test_light_operations_go_on_while_the_loop_is_prompt_or_nothing_is_heavier() -> None:
    assert light_served(0.0, heavy=True) >= 0.9 * 200 * BURST
    assert light_served(0.02, heavy=False) >= 0.9 * 200 * 50


def test_mutant_without_a_part_that_is_light_nothing_is_paced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIGHT_PART", 10**9)
    assert light_served(0.02, heavy=True) > 20 * RATE_MIN + 200


def test_heavy_operations_never_wait_for_the_pace() -> None:
    ours = desk()
    for number in range(200):
        ours.add(operation(number, 1_000), f"peer {number}")
        ours.add(operation(1_000 + number, 1), f"spam {number}")
    served = [ours.intake.pop(0) for _ in range(300)]
    assert sum(entry is not None and entry.peer.startswith("peer") for entry in served) == 200


# --- tickets ----------------------------------------------------------------------------------------------


async def test_a_ticket_has_the_statuses_in_order() -> None:
    ticket = Ticket(2)
    first, second = Status(bytes(32), FINAL), Status(bytes(31) + b"\1", FINAL)
    ticket.put(1, second)
    ticket.put(0, first)
    assert await ticket.statuses() == [first, second]


async def test_a_ticket_fails_at_once_when_nothing_will_come() -> None:
    ticket = Ticket(2)
    ticket.fail(StorageError("halted"))
    with pytest.raises(StorageError):
        await ticket.statuses()


# --- the whole --------------------------------------------------------------------------------------------


async def seconds_to_pay(spam: bool) -> float:
    """A payment in a town whose core takes two milliseconds for an operation, beside too much junk."""
    names = ("alice", "bob", *(f"spammer {i}" for i in range(8)))
    async with open_town(names=names) as town, town.wallet("alice") as alice:
        await alice.balance()
        async with trio.open_nursery() as nursery:
            if spam:
                for name in names[2:]:
                    nursery.start_soon(flood, town, name)
            await trio.sleep(1)
            begun = trio.current_time()
            for _ in range(2):
                await alice.send(town.account("bob"), 1, timeout_s=60)
            took_s = trio.current_time() - begun
            nursery.cancel_scope.cancel()
        return took_s / 2


async def flood(town: Any, name: str) -> None:
    number = 100
    async with town.network(key_of(name)) as network:
        signed = first_spend(town, name)
        while True:
            number += 60
            junk = [ahead(signed, number + i) for i in range(60)]
            with trio.move_on_after(0.1):
                try:
                    await submit(network, town, number // 60 % 4, *junk)
                except Error:
                    await trio.sleep(0.1)


@pytest.fixture
def slow_core(monkeypatch: pytest.MonkeyPatch) -> None:
    take_turn = ValidatorService._take_turn

    async def take_in(self: ValidatorService) -> None:
        while True:
            await self._waiting.wait()
            async with self._core:
                before = len(self._intake)
                self._intake.measured(0, trio.current_time())
                take_turn(self)
                await trio.sleep(max(0.002 * (before - len(self._intake)), 0.0001))

    monkeypatch.setattr(ValidatorService, "_take_in", take_in)
    monkeypatch.setattr(service, "OPERATIONS_PER_TURN", 16)  # each takes twenty times as long as it does


@pytest.mark.usefixtures("slow_core")
def test_e4_a_flood_of_junk_at_most_doubles_what_an_honest_payment_takes() -> None:
    assert run(seconds_to_pay, True) <= 2 * run(seconds_to_pay, False) + 0.14


class Fifo:
    """First come, first served."""

    def __init__(self, total_max: int, per_account_max: int) -> None:
        self._items: deque[Any] = deque()
        self._total_max = total_max

    def __len__(self) -> int:
        return len(self._items)

    def push(self, account: bytes, weight: int, item: Any) -> list[Any]:
        if len(self._items) >= self._total_max:
            return [item]
        self._items.append(item)
        return []

    def pop(self, least: int = 0) -> Any:
        return self._items.popleft() if self._items else None

    next_weight, heaviest = None, 0


@pytest.mark.usefixtures("slow_core")
def test_e4_mutant_first_come_first_served_lets_junk_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    idle = run(seconds_to_pay, False)
    monkeypatch.setattr(module, "FairQueue", Fifo)
    assert run(seconds_to_pay, True) > 2 * idle + 0.14
