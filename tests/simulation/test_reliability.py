"""The rows of RELIABILITY.md on the full stack, with the mutants that each must catch; see test_storm.py too.

A mutant is a defence that is taken out while a run lasts; the row's own check must then fail.
"""

from __future__ import annotations

import contextlib
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ainp2p
import ainp2p.simulation as sim
from ainp2p.agents.agent import Agent
from ainp2p.errors import Error, InvalidInput, LedgerError, NetworkError, NotFinal
from ainp2p.ledger.rules import operations, receipts
from ainp2p.ledger.rules.accounts import spend, unopened_account
from ainp2p.ledger.rules.holdings import Holdings
from ainp2p.ledger.rules.operations import account_id, plain_inception, sign_operation
from ainp2p.ledger.rules.receipts import ReceiptBook
from ainp2p.ledger.serving.messages import LEDGER_PROTOCOL, Submit
from ainp2p.ledger.voting.slot import Slot
from ainp2p.ledger.wallets.committee_clock import CommitteeClock
from ainp2p.ledger.wallets.ordering import Orders
from ainp2p.ledger.wallets.settling import Settler
from ainp2p.protocol.codec import encode
from ainp2p.protocol.identity import peer_id
from ainp2p.protocol.messages import ReceiptNotice, decode_wire
from ainp2p.protocol.network import Network
from ainp2p.protocol.seller_meter import SellerMeter
from ainp2p.simulation import InvariantViolated, Profile, World, money_is_conserved, run
from ainp2p.simulation.trials.replay import Attempt, Trial
from ainp2p.simulation.wire.lies import Sent
from tests.simulation.town import (
    PRICE,
    STORM,
    WINDOW,
    Payments,
    Receipts,
    buy,
    keep_the_ledger,
    receiver,
    settled,
    slow_work,
    storm,
    work,
)

ROOT = Path(__file__).parents[2]
WINDY = {"weather": sim.Weather(latency=(0.01, 0.05), loss=0.01)}


def attempt(model: Callable[[World], Any], seed: int = 1, **world: Any) -> Attempt:
    return Trial(model, seed, {**WINDY, **world}).attempt()


def holds(model: Callable[[World], Any], seed: int = 1, **world: Any) -> None:
    error = attempt(model, seed, **world).error
    if error is not None:
        raise error


def is_caught(model: Callable[[World], Any], by: str, *, seeds: int = 3, **world: Any) -> None:
    """In one of these seeds the check that says `by` fails."""
    told = [str(attempt(model, seed, **world).error) for seed in range(1, seeds + 1)]
    assert any(by in each for each in told), told


# --- A: money ---------------------------------------------------------------------------------------------


def test_a1_mutant_a_credit_that_is_spent_and_kept_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Holdings, "_drop_credit", lambda self, id_: None)
    is_caught(storm, "", seeds=1, faults=STORM)
    with pytest.raises((InvariantViolated, AssertionError, LedgerError, Error)):
        holds(storm, faults=STORM)


async def equivocate(world: World, *, amnesiacs: int = 0, apart: bool = False) -> tuple[set[bytes], Agent]:
    """An owner signs two payments in one slot and shows them to different halves; what was decided."""
    owner = world.draws.key("owner")
    genesis = world.genesis
    inception = plain_inception(owner.public)
    id_ = account_id(genesis.network_id, inception)
    payer = await world.spawn("payer").ready()
    await payer.agent.wallet.send(id_, 1000)
    await settled(world, 10)
    state = next(iter(world.states.values()))
    credits_, parameters = state.credits_of(id_), state.parameters[state.epoch]
    account = unopened_account(genesis.network_id, inception)
    rivals = [
        sign_operation(
            spend(
                account, credits_, parameters, network=genesis.network_id,
                now_ms=world.clock.now_ms(), outs=[(receiver(i), 10 + i)], inception=inception,
            ),
            owner,
        )
        for i in range(2)
    ]  # fmt: skip
    ids = [operations.operation_id(rival.raw) for rival in rivals]
    raws = [encode(rival) for rival in rivals]
    seats = [node.peer for node in world.committee.nodes]
    told: list[Network] = []

    async def cheat(network: Network) -> None:
        for member in genesis.validators:
            network.add_addresses(peer_id(member.key), tuple(a.decode() for a in member.addresses))
        told.append(network)
        await trio.sleep_forever()

    await world.process("cheat", cheat).ready()

    async def show(raw: bytes, peers: list[str]) -> None:
        for peer in peers:
            for _ in range(3):  # one that was started anew has closed the connection
                try:
                    await told[0].request(peer, LEDGER_PROTOCOL, encode(Submit((raw,), 1)), timeout_s=5)
                    break
                except NetworkError:
                    await trio.sleep(1)

    if not apart:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(show, raws[0], seats[:2])
            nursery.start_soon(show, raws[1], seats[2:])
        await world.run_for(30)
    else:
        forgetful = world.committee.nodes[1 : 1 + amnesiacs]
        images = [node.disk.image() for node in forgetful]
        world.partition("validator3", [n for n in world.nodes if n != "validator3"])
        await show(raws[0], seats[:3])
        await world.run_for(5)
        for node, before in zip(forgetful, images, strict=True):
            world.crash(node)
            node.disk.restore(before)
        world.heal()
        world.partition("validator0", [n for n in world.nodes if n != "validator0"])
        for node in forgetful:
            await world.restart(node).ready()
        await trio.sleep(1)
        with trio.move_on_after(20):
            await show(raws[1], seats[1:])
        await world.run_for(60)
        world.heal()
        await world.run_for(30)
    heads = {state.accounts[id_].head for state in world.states.values() if id_ in state.accounts}
    decided = {id_ for id_ in ids if any(_has_credit(s, id_) for s in world.states.values())}
    assert len(heads) <= max(1, len(decided)), "V3: validators have decided differently"
    return decided, payer.agent


def _has_credit(state: Any, operation: bytes) -> bool:
    return any(credit[:32] == operation for credit in state.credits) or any(
        operations.credit_id(operation, i) in state.credits for i in range(2)
    )


async def two_in_one_slot(world: World) -> None:
    """A2: at most one is decided; others go on; the owner's account can be used again."""
    keep_the_ledger(world)
    decided, payer = await equivocate(world)
    assert len(decided) <= 1, "V3: two operations are certified in one slot"
    await payer.wallet.send(receiver(7), 5)
    await settled(world, 20)


def test_a2_of_two_operations_in_one_slot_one_is_decided_at_most_and_others_go_on() -> None:
    for seed in range(3):
        holds(two_in_one_slot, seed)


def test_a2_mutant_validators_that_vote_for_both_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.adversary.mutants import MUTANTS, planted

    with planted(MUTANTS["LOCK twice in a view"]):
        monkeypatch.setattr(Slot, "commit", lambda self, view, operation: True)
        is_caught(two_in_one_slot, "", seeds=3)
        told = [attempt(two_in_one_slot, seed).error for seed in range(1, 4)]
    assert any(error is not None for error in told), told


@pytest.mark.parametrize("amnesiacs", [0, 1])
def test_a3_less_than_a_third_that_forget_their_disk_decide_nothing_twice(amnesiacs: int) -> None:
    async def model(world: World) -> None:
        decided, _ = await equivocate(world, amnesiacs=amnesiacs, apart=True)
        assert len(decided) <= 1

    holds(model)


def replaying(world: World) -> Callable[[Sent], bytes | list[bytes]]:
    """After every receipt the one before it, once more; and one for a Lock that nobody knows."""
    before: list[bytes] = []

    def rewrite(sent: Sent) -> bytes | list[bytes]:
        if sent.protocol != "/ainp2p/market/1" or sent.kind != "send":
            return sent.body
        try:
            message = decode_wire(sent.body)
        except Error:
            return sent.body
        if not isinstance(message, ReceiptNotice) or not message.receipt:
            return sent.body
        again = [*before[-1:], encode(ReceiptNotice(bytes(32), message.receipt, ()))]
        before.append(sent.body)
        world.sometimes("a receipt was replayed", len(before) > 1)
        return [sent.body, *again]

    return rewrite


def kept(book: ReceiptBook, lock: bytes) -> int:
    """What a seller's best receipt says."""
    signed = book.highest(lock)
    return 0 if signed is None else receipts.read_receipt(signed.body).cumulative


async def replayed_receipts(world: World) -> None:
    """A4: a buyer whose receipts come again, and for other Locks, pays what it signed."""
    keep_the_ledger(world)
    signed = Receipts()
    seller = await world.spawn("seller", skills=[work]).ready()
    buyer = await world.spawn("buyer", on_receipt=signed).ready()
    book, seen = seller.agent.wallet.book, dict[bytes, int]()

    def receipts_only_grow(world: World) -> None:
        for id_ in signed.highest:
            now = kept(book, id_)
            assert now >= seen.get(id_, 0), f"V4: {now} uain instead of {seen[id_]}"
            seen[id_] = now

    world.check(receipts_only_grow, every_s=0.01)
    for i in range(3):
        if i == 1:
            world.lie(buyer, replaying(world))
        try:
            await buy(buyer.agent, "a b c d e " * 20, budget=400)
        except Error:
            world.sometimes("the seller hung up")
    highest = {id_: kept(book, id_) for id_ in signed.highest}
    assert all(0 < highest[id_] <= signed.highest[id_] for id_ in highest)
    world.lie(buyer, None)
    await seller.agent.wallet.settle_all()
    await settled(world, 30)
    signed.none_paid_more(world)
    paid = {id_: lock.paid for state in world.states.values() for id_, lock in state.locks.items()}
    assert {id_: paid[id_] for id_ in highest} == highest


def test_a4_receipts_that_come_again_or_for_other_locks_change_nothing() -> None:
    found = attempt(replayed_receipts)
    assert found.error is None, found.error
    assert found.marks["a receipt was replayed"]


def test_a4_mutant_a_book_that_takes_an_older_receipt_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def gain(self: ReceiptBook, page: Any, receipt: Any, now_ms: int) -> int:
        return int(receipt != page.best)

    monkeypatch.setattr(ReceiptBook, "_gain", gain)
    monkeypatch.setattr(SellerMeter, "accept", lambda self, cumulative, units, context: True)
    assert attempt(replayed_receipts).error is not None


async def payer_vanishes(world: World) -> None:
    """A5: a buyer's machine is gone in the middle; its seller is paid what was signed."""
    keep_the_ledger(world)
    signed = Receipts()
    seller = await world.spawn("seller", skills=[slow_work]).ready()
    buyer = await world.spawn("buyer", on_receipt=signed).ready()
    world.at(world.now + 50, world.crash, "buyer")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_try_to_buy, buyer.agent, "w " * 200)
        await world.run_for(100)
        nursery.cancel_scope.cancel()
    assert signed.highest, "nothing was signed"
    await world.run_for(3700)
    assert seller.alive
    (amount,) = signed.highest.values()
    paid = (await seller.agent.balance()).available - world.purse
    # A machine may sign a last receipt that never leaves it: a step is lost at most.
    assert amount - PRICE * 32 <= paid <= amount, f"V4: {paid} of {amount} uain were settled"


async def _try_to_buy(agent: Agent, text: str) -> None:
    try:
        await buy(agent, text, budget=1000)
    except Error:
        return


def test_a5_a_payer_that_vanishes_leaves_its_seller_paid() -> None:
    holds(payer_vanishes)


def test_a5_mutant_a_seller_that_never_settles_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def idle(self: Settler) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(Settler, "run", idle)
    assert "V4" in str(attempt(payer_vanishes).error)


def dropping(number: int, seen: list[int]) -> Callable[[Sent], bytes | None]:
    """Swallows one answer of the committee, the `number`th."""

    def rewrite(sent: Sent) -> bytes | None:
        if sent.kind not in ("answer", "chunk") or sent.protocol != LEDGER_PROTOCOL:
            return sent.body
        seen[0] += 1
        return None if number <= seen[0] < number + 4 else sent.body

    return rewrite


def lost_reply(number: int) -> Callable[[World], Any]:
    """A6: answers are lost after the commit; asked again under the same note it is the same payment."""

    async def model(world: World) -> None:
        keep_the_ledger(world)
        payments, seen = Payments(), [0]
        payer = await world.spawn("payer").ready()
        for node in world.committee.nodes:
            world.lie(node, dropping(number, seen))
        for _ in range(20):
            try:
                await payments.pay(payer.agent, receiver(1), 7, b"rent", timeout_s=3)
            except Error:
                world.sometimes("the outcome was unknown")
            if payments.final:
                break
            await trio.sleep(1)  # a wallet that has not heard of its purse yet says that there is none
        assert payments.final == {b"rent"}, "the caller never heard that it is done"
        await payments.pay(payer.agent, receiver(1), 7, b"rent")
        await settled(world, 60)
        payments.exactly_once(world)

    return model


@pytest.mark.parametrize("first", range(0, 40, 8))
def test_a6_whichever_reply_is_lost_a_payment_is_made_once(first: int) -> None:
    for number in range(first, first + 8):
        holds(lost_reply(number))


def test_a6_mutant_a_wallet_that_forgets_notes_pays_twice_and_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Orders, "named", lambda self, note: None)
    assert attempt(lost_reply(4)).error is not None


AMOUNTS = st.one_of(
    st.sampled_from([-(2**63), -1, 0, 1, 999, 10**6, 10**6 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64]),
    st.integers(-(2**70), 2**70),
)


def odd_amounts(amounts: list[int]) -> Callable[[World], Any]:
    """A7: any amount is paid or refused, and no balance is ever below zero."""

    async def model(world: World) -> None:
        keep_the_ledger(world)
        payer = await world.spawn("payer", balance=10**6).ready()
        left = (await payer.agent.balance()).total
        for amount in amounts:
            try:
                await payer.agent.wallet.send(receiver(2), amount)
                assert 1 <= amount <= left
                left -= amount
            except (InvalidInput, LedgerError):
                assert amount < 1 or amount > left - 10, f"{amount} of {left} uain were refused"
            left = min(left, (await payer.agent.balance()).total)
            assert left >= 0, "V2"

    return model


@settings(
    max_examples=8, deadline=None, database=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
@given(st.lists(AMOUNTS, min_size=5, max_size=12))
def test_a7_every_amount_is_paid_or_refused(amounts: list[int]) -> None:
    holds(odd_amounts(amounts))


def test_a7_mutant_a_wallet_that_lets_zero_through_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from ainp2p.ledger.wallets.wallet import Wallet

    async def send(self: Wallet, to: bytes, amount: int, **options: Any) -> None:
        return None  # says that it is done, whatever the amount

    monkeypatch.setattr(Wallet, "send", send)
    assert attempt(odd_amounts([0, -1])).error is not None


def test_a7_many_tiny_deposits_add_up() -> None:
    async def model(world: World) -> None:
        keep_the_ledger(world)
        payer = await world.spawn("payer").ready()
        for i in range(40):
            await payer.agent.wallet.open_lock([(receiver(i), 1)], bytes(32), 1, 1, 60_000)
        await settled(world, 20)
        assert {len(state.locks) for state in world.states.values()} == {40}

    holds(model)


# --- C: network -------------------------------------------------------------------------------------------


async def paying(world: World) -> None:
    """Payments all the time; after the last fault all validators decide the same within 10 s."""
    keep_the_ledger(world)
    payments = Payments()
    payer = await world.spawn("payer").ready()

    async def pay() -> None:
        for i in range(10_000):
            try:
                await payments.pay(payer.agent, receiver(i), 1 + i % 9, b"%d" % i, timeout_s=60)
                world.sometimes("paid")
            except Error:
                world.sometimes("not final in time")
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pay)
        await world.run_for(60)
        nursery.cancel_scope.cancel()
    await settled(world, 40)
    payments.exactly_once(world)


WORST = "2+50 weather latency=0..30 loss=0.2 duplicate=0.3 reorder_s=30"


@pytest.mark.parametrize("seed", range(3))
def test_c1_loss_repetition_disorder_and_delays_of_half_a_minute_cost_time_only(seed: int) -> None:
    holds(paying, seed, faults=WORST)


def test_c1_mutant_a_committee_that_forgets_to_ask_again_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.simulation.town.equal", lambda world: False)
    is_caught(paying, "V9", seeds=1, faults=WORST)


OTHERS = "validator1,validator2,validator3,payer"
CUTS = {
    "2:2": "5+20 partition validator0,validator1/validator2,validator3",
    "1:3": f"5+20 partition validator0/{OTHERS}",
    "minority with the payer": "5+20 partition validator0,payer/validator1,validator2,validator3",
    "bridge": "5+20 partition validator0,validator1/validator2; 5+20 partition validator1/validator3",
    "flapping": "; ".join(f"{5 + 3 * i}+1.5 partition validator0,validator1/{OTHERS[11:]}" for i in range(8)),
    "asymmetric": f"5+20 cut validator0/{OTHERS}; 5+20 cut validator2/validator3",
}


async def finals_behind_a_wall(world: World, *, expected: bool) -> None:
    """C2: whether a payer that reaches only one part of the committee has anything decided."""
    payer = await world.spawn("payer").ready()
    await payer.agent.wallet.send(receiver(1), 1)
    side = ["payer", "validator0"] if not expected else ["payer", "validator0", "validator1", "validator2"]
    world.partition(side, [name for name in world.nodes if name not in side])
    decided = True
    try:
        await payer.agent.wallet.send(receiver(1), 2, note=b"behind", timeout_s=20)
    except (Error, NotFinal):
        decided = False
    assert decided == expected, "a minority decides, or a majority does not"
    world.heal()
    await payer.agent.wallet.send(receiver(1), 2, note=b"behind", timeout_s=30)
    await settled(world, 10)


@pytest.mark.parametrize("cut", CUTS)
def test_c2_after_any_partition_all_is_equal_again(cut: str) -> None:
    holds(paying, faults=CUTS[cut])


@pytest.mark.parametrize("expected", [False, True], ids=["a minority", "a majority"])
def test_c2_a_minority_decides_nothing_and_a_majority_does(expected: bool) -> None:
    async def model(world: World) -> None:
        await finals_behind_a_wall(world, expected=expected)

    holds(model)


def test_c2_mutant_a_quorum_of_one_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from ainp2p.ledger.rules.committee import Committee

    made = Committee.__post_init__

    def lax(self: Committee) -> None:
        made(self)
        object.__setattr__(self, "quorum", 1)

    monkeypatch.setattr(Committee, "__post_init__", lax)

    async def model(world: World) -> None:
        keep_the_ledger(world)
        await finals_behind_a_wall(world, expected=False)

    assert attempt(model).error is not None


SWIZZLE = Profile(kinds=("swizzle",), every_s=6, from_s=4, until_s=50)


@pytest.mark.parametrize("seed", range(4))
def test_c3_nodes_clogged_one_after_another_and_freed_in_another_order(seed: int) -> None:
    found = attempt(paying, seed, faults=SWIZZLE)
    assert found.error is None, f"{found.error} {found.faults}"
    assert found.marks["fault: pause"] > 3


def test_c3_mutant_a_committee_that_does_not_come_together_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ainp2p.simulation.trials.injecting import Injector

    monkeypatch.setitem(vars(sys.modules[Injector.__module__])["_END"], "pause", lambda self, fault: None)
    is_caught(paying, "V9", seeds=2, faults=SWIZZLE)


# --- E: hostile peers -------------------------------------------------------------------------------------


@ainp2p.skill("work", price=f"{PRICE}/item")
async def garbage(job: Any, text: str) -> Any:
    """Anything but what was asked for."""
    for _ in range(10_000):
        yield "garbage"


async def cheats_and_honest(world: World, *, checks: bool = True) -> None:
    """E11: buyers that look at what they get pay a cheat one step at a time, and not again."""
    keep_the_ledger(world)
    for i in range(2):
        world.spawn(f"honest{i}", skills=[work])
        world.spawn(f"cheat{i}", skills=[garbage], role="cheat")
    lost: dict[str, int] = {}

    async def shop(agent: Agent) -> None:
        bad, rng = set[bytes](), world.rng(agent.name)
        while True:
            try:
                offers = [o for o in await agent.find("work", at_least=4) if o.agent not in bad]
                async with agent.hire(
                    offers[:1] if offers else [], text="w " * rng.randint(40, 60), budget=200
                ) as job:
                    async for piece in job:
                        if checks and piece == "garbage":
                            break
                for leg in job.legs:
                    if checks and leg.seller not in honest(world):
                        bad.add(leg.seller)
                        lost[agent.name] = max(lost.get(agent.name, 0), leg.amount)
            except Error:
                world.sometimes("a purchase failed")
            await trio.sleep(20)

    for i in range(3):
        world.spawn(f"buyer{i}", main=shop)
    await world.run_for(3600)
    trades = world._collector.trades
    income = {"cheat": 0, "honest": 0}
    for row in trades.rows():
        income["cheat" if str(row[2]).startswith("cheat") else "honest"] += int(str(row[5]))
    assert all(amount <= PRICE * 32 for amount in lost.values()), f"lost more than a step: {lost}"
    share = income["cheat"] / max(1, sum(income.values()))
    assert share < 0.05, f"cheats have {share:.0%} of the income"


def honest(world: World) -> set[bytes]:
    return {world.node(f"honest{i}").agent.id for i in range(2)}


def test_e11_cheats_earn_less_than_a_twentieth_and_a_buyer_loses_a_step_at_most() -> None:
    holds(cheats_and_honest)


def test_e11_mutant_buyers_that_do_not_look_are_noticed() -> None:
    async def model(world: World) -> None:
        await cheats_and_honest(world, checks=False)

    assert "cheats have" in str(attempt(model).error)


async def never_pays(world: World) -> None:
    """E11: of a buyer whose receipts never come a seller has a window unpaid at most."""
    got: list[object] = []
    world.spawn("seller", skills=[garbage])
    buyer = await world.spawn("buyer").ready()

    def no_receipts(sent: Sent) -> bytes | None:
        try:
            notice = isinstance(decode_wire(sent.body), ReceiptNotice)
        except Error:
            notice = False
        return None if notice else sent.body

    world.lie(buyer, no_receipts)
    with trio.move_on_after(60):
        offers = await buyer.agent.find("work")
        with contextlib.suppress(Error):
            async with buyer.agent.hire(offers, text="x", budget=1000) as job:
                async for piece in job:
                    got.append(piece)
    assert 0 < len(got) <= WINDOW, f"{len(got)} units were made for nothing"


def test_e11_a_buyer_that_never_pays_gets_a_window_at_most() -> None:
    holds(never_pays)


def test_e11_mutant_a_seller_without_a_window_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SellerMeter, "allowance", lambda self, job: 10_000)
    monkeypatch.setattr(SellerMeter, "_affordable", lambda self, tab: 10_000)
    monkeypatch.setattr(SellerMeter, "_require", lambda self, job, needed: 10_000)
    assert "made for nothing" in str(attempt(never_pays).error)


# --- F: time ----------------------------------------------------------------------------------------------

DAY_MS = 86_400_000
CLOCKS = ("-60000", "60000", str(-DAY_MS), str(DAY_MS))


@pytest.mark.parametrize("ms", CLOCKS)
def test_f1_clocks_that_are_wrong_cost_no_money(ms: str) -> None:
    who = "; ".join(f"5+20 skew validator{i} ms={ms}" for i in range(2))
    holds(paying, faults=who)  # two of four: more than the committee must survive


async def wrong_clock(world: World) -> None:
    """F1: an owner pays while its clock is wrong, and goes on when it is right; no slot was signed twice."""
    keep_the_ledger(world)
    payments = Payments()
    payer = await world.spawn("payer").ready()
    for i in range(30):
        await payments.pay(payer.agent, receiver(i), 1 + i % 9, b"%d" % i, timeout_s=20)
        await trio.sleep(1)
    await settled(world, 10)
    payments.exactly_once(world)
    for state in world.states.values():  # a VOID, which two operations in a slot end in, would leave a debt
        assert not any(account.debt for account in state.accounts.values())


@pytest.mark.parametrize("ms", CLOCKS)
def test_f1_an_owner_whose_clock_is_wrong_pays_and_goes_on_when_it_is_right_again(ms: str) -> None:
    holds(wrong_clock, faults=f"5+10 skew payer ms={ms} rate=0.99")


def test_f1_mutant_an_owner_that_believes_its_clock_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CommitteeClock, "signing_ms", lambda self: self._now_ms())
    error = attempt(wrong_clock, faults=f"5+10 skew payer ms={DAY_MS} rate=0.99").error
    assert isinstance(error, NotFinal), error


def test_f1_a_buyer_that_was_a_day_ahead_buys_again_in_a_town() -> None:
    """Seed 42 of the storm, shrunk: what it signed in its own future kept its account shut for a day."""
    holds(storm, 42, faults="10.656+6.733 pause seller1; 16.23+2.24 skew buyer ms=86400000 rate=1.01")


def test_f1_mutant_money_that_depends_on_a_clock_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def model(world: World) -> None:
        keep_the_ledger(world)
        world.at(10, lambda: setattr(world.states["validator1"], "burnt", world.node("validator1").skew_ms))
        await paying(world)

    is_caught(model, money_is_conserved.__name__, seeds=1, faults="5+20 skew validator1 ms=60000")


async def sleeper(world: World) -> None:
    """F2: a seller's machine sleeps for most of an hour; then its old offers are void, and it sells again."""
    keep_the_ledger(world)
    seller = await world.spawn("seller", skills=[work]).ready()
    buyer = await world.spawn("buyer").ready()
    assert await buy(buyer.agent, "a b") == "ab"
    world.pause(seller)
    await world.run_for(3000)
    with pytest.raises(Error):
        await buy(buyer.agent, "c", find_s=5)
    world.resume(seller)
    before = world.trace.count
    await world.run_for(60)
    assert world.trace.count - before < 2_000, "a burst of what was left undone"
    assert await buy(buyer.agent, "d e", find_s=120) == "de"


def test_f2_a_machine_that_slept_drops_its_offers_and_sells_again() -> None:
    holds(sleeper, committee=1)


def test_f2_mutant_cards_that_never_expire_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "pause", lambda self, who: None)
    assert "DID NOT RAISE" in str(attempt(sleeper, committee=1).error)


# --- H: the tests themselves --------------------------------------------------------------------------------


@pytest.mark.parametrize("hash_seed", ["0", "77"])
def test_h1_a_storm_is_the_same_in_any_process(hash_seed: str) -> None:
    code = (
        "from tests.simulation.test_reliability import *\nprint(Trial(storm, 5, WINDY, STORM).attempt().hash)"
    )
    environment = {"PYTHONHASHSEED": hash_seed, "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", code]
    told = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == Trial(storm, 5, WINDY, STORM).attempt().hash


def test_h1_the_first_difference_between_two_runs_is_told_by_draw_and_time() -> None:
    ours, theirs = (run(paying, 1, world={**WINDY, "faults": f"{at}+5 pause validator3"}) for at in (20, 21))
    found = ours.diff(theirs).trace
    assert found is not None
    assert 18 < found.at_s <= 20.1
    assert found.draws > 0


def test_h2_every_row_here_has_a_mutant() -> None:
    names = [name for name, _ in inspect.getmembers(sys.modules[__name__], inspect.isfunction)]
    rows = {name.split("_")[1] for name in names if name.startswith("test_") and "mutant" not in name}
    mutants = {name.split("_")[1] for name in names if name.startswith("test_") and "mutant" in name}
    assert rows - {"a3", "h1", "h2"} <= mutants  # A3 and H1 have theirs in tests/adversary and test_world.py
    assert rows | mutants >= {f"a{i}" for i in range(1, 8)} | {"c1", "c2", "c3", "e11", "f1", "f2"}
