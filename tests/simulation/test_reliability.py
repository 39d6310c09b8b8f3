"""The rows of RELIABILITY.md on the full stack, with the mutants that each must catch; see test_storm.py too.

A mutant is one defence of the library that is taken out while a run lasts (`without`, `planted`); the check
that is meant for it, and not just anything, must then fail.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ainp2p
import ainp2p.simulation as sim
from ainp2p.agents.agent import Agent
from ainp2p.agents.attempt import Attempt as Bought
from ainp2p.agents.buying import Buyer
from ainp2p.agents.card_table import CardTable
from ainp2p.agents.deposit import Deposit
from ainp2p.agents.directory import Directory
from ainp2p.agents.job import Job
from ainp2p.agents.purchase import Purchase
from ainp2p.errors import (
    Error,
    InvalidInput,
    LedgerError,
    NetworkError,
    NoOffers,
    NotFinal,
    NotYet,
    Rejected,
    RemoteError,
    TimedOut,
)
from ainp2p.ledger.rules import operations, receipts
from ainp2p.ledger.rules.accounts import account_digest, after_spend, spend, unopened_account
from ainp2p.ledger.rules.holdings import Holdings
from ainp2p.ledger.rules.operations import account_id, plain_inception, sign_operation
from ainp2p.ledger.rules.receipts import ReceiptBook
from ainp2p.ledger.rules.state import State
from ainp2p.ledger.serving.catch_up import CatchUp
from ainp2p.ledger.serving.messages import LEDGER_PROTOCOL, Submit
from ainp2p.ledger.serving.object_sync import ObjectSync
from ainp2p.ledger.wallets.committee_clock import CommitteeClock
from ainp2p.ledger.wallets.ordering import Orders
from ainp2p.ledger.wallets.settling import Settler
from ainp2p.protocol.codec import encode
from ainp2p.protocol.identity import peer_id
from ainp2p.protocol.messages import Award, ReceiptNotice, Signed, decode_wire, open_market
from ainp2p.protocol.network import Network
from ainp2p.protocol.seller_meter import SellerMeter
from ainp2p.simulation import InvariantViolated, Profile, World, money_is_conserved, run
from ainp2p.simulation.trials.replay import Attempt, Trial
from ainp2p.simulation.wire.lies import Sent
from tests.adversary.mutants import MUTANTS, planted
from tests.simulation.town import (
    PRICE,
    STORM,
    WINDOW,
    Payments,
    Receipts,
    accused,
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


def is_caught(
    model: Callable[[World], Any],
    by: str,
    *,
    error: type[BaseException] = AssertionError,
    seeds: int = 3,
    **world: Any,
) -> None:
    """In one of these seeds the check that says `by` fails; no seed fails otherwise."""
    found = [attempt(model, seed, **world).error for seed in range(1, seeds + 1)]
    told = [each for each in found if each is not None]
    assert told, "nothing was noticed"
    assert all(isinstance(each, error) and re.search(by, f"{each} {each!r}") for each in told), told


@contextlib.contextmanager
def without(owner: type, name: str, line: str, instead: str) -> Iterator[None]:
    """One line of a method is another one, while it lasts."""
    right = inspect.getattr_static(owner, name)
    source = textwrap.dedent(inspect.getsource(right))
    assert source.count(line) == 1, f"{owner.__name__}.{name} has {line!r} {source.count(line)} times"
    made: dict[str, Any] = {}
    exec(source.replace(line, instead), vars(sys.modules[owner.__module__]), made)
    setattr(owner, name, made[name])
    try:
        yield
    finally:
        setattr(owner, name, right)


# --- A: money ---------------------------------------------------------------------------------------------


def test_a1_mutant_a_credit_that_is_spent_and_kept_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Holdings, "_drop_credit", lambda self, id_: None)
    is_caught(storm, money_is_conserved.__name__, error=InvariantViolated, seeds=1, faults=STORM)


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
        alone = _cut_off(world, "validator3")
        await show(raws[0], seats[:3])
        await world.run_for(60)  # until links to the lonely one are given up, with what waits in them
        for node, before in zip(forgetful, images, strict=True):
            world.crash(node)
            node.disk.restore(before)
        _cut_off(world, "validator0")  # before the other one hears what has been waiting for it
        world.wire.lift(alone)
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


def _cut_off(world: World, name: str) -> Any:
    """A partition around one node; what lifts it."""
    return world.wire.partition(
        [world.node(name).peer], [n.peer for n in world.nodes.values() if n.name != name]
    )


def _has_credit(state: Any, operation: bytes) -> bool:
    return any(credit[:32] == operation for credit in state.credits) or any(
        operations.credit_id(operation, i) in state.credits for i in range(2)
    )


async def two_in_one_slot(world: World) -> None:
    """A2: at most one is decided, nobody else is accused; others go on; the account can be used again."""
    keep_the_ledger(world)
    owner = world.draws.key("owner").public

    def only_the_owner_is_accused(world: World) -> None:
        assert accused(world) <= {owner}, "V6: there is evidence against a validator"

    world.check(only_the_owner_is_accused)
    decided, payer = await equivocate(world)
    assert len(decided) <= 1, "V3: two operations are certified in one slot"
    assert owner in accused(world), "the evidence against the owner is lost"
    await payer.wallet.send(receiver(7), 5)
    await settled(world, 20)


def test_a2_of_two_operations_in_one_slot_one_is_decided_at_most_and_others_go_on() -> None:
    for seed in range(3):
        holds(two_in_one_slot, seed)


def test_a2_mutant_validators_that_vote_for_both_are_noticed() -> None:
    with planted(MUTANTS["LOCK twice in a view"]):
        # Either the evidence comes first, or a validator's own last check: it would COMMIT a second one.
        by = "V6: there is evidence|another operation is COMMITted in view 0"
        is_caught(two_in_one_slot, by, error=Exception, seeds=1)


async def forgetful(world: World, amnesiacs: int) -> None:
    decided, _ = await equivocate(world, amnesiacs=amnesiacs, apart=True)
    assert len(decided) <= 1, "V3: two operations are certified in one slot"


@pytest.mark.parametrize("amnesiacs", [0, 1])
def test_a3_less_than_a_third_that_forget_their_disk_decide_nothing_twice(amnesiacs: int) -> None:
    holds(lambda world: forgetful(world, amnesiacs))


def test_a3_mutant_the_check_notices_more_than_a_third_that_forget() -> None:
    """The defence that is missing is the ledger's assumption itself: there is nothing beyond it."""
    is_caught(lambda world: forgetful(world, 2), "V3", seeds=1)


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
    is_caught(replayed_receipts, "receipts_only_grow.*V4", error=InvariantViolated)


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
    async def idle(self: Settler, *args: Any) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(Settler, "run", idle)
    is_caught(payer_vanishes, "V4: 0 of", seeds=1)


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
        try:
            await payments.pay(payer.agent, receiver(1), 7, b"rent")
        except Error as exc:
            raise AssertionError(f"A6: it is done, and the caller sees {exc!r}") from exc
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
    is_caught(lost_reply(4), "A6: it is done, and the caller sees .*notes.note", seeds=1)


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


async def nothing_is_paid(world: World) -> None:
    """A7: an owner with a program of its own signs payments of 0 and beyond its means; all are refused."""
    keep_the_ledger(world)

    def no_credit_is_empty(world: World) -> None:
        for name, state in world.states.items():
            assert all(credit.amount >= 1 for credit in state.credits.values()), f"{name} has a credit of 0"

    world.check(no_credit_is_empty)
    owner, genesis = world.draws.key("owner"), world.genesis
    inception = plain_inception(owner.public)
    account = unopened_account(genesis.network_id, inception)
    payer = await world.spawn("payer").ready()
    await payer.agent.wallet.send(account.id, 1000)
    await settled(world, 10)
    state = next(iter(world.states.values()))

    def signed(*amounts: int) -> bytes:
        operation = spend(
            account, state.credits_of(account.id), state.parameters[state.epoch], network=genesis.network_id,
            now_ms=world.clock.now_ms(), outs=[(receiver(1), 1)], inception=inception,
        )  # fmt: skip
        outs = tuple(operations.Out(receiver(2 + i), amount) for i, amount in enumerate(amounts))
        assert isinstance(operation.body, operations.Spend)
        body = msgspec.structs.replace(operation.body, outs=outs)
        if not any(amounts):  # the only one whose state after it can be told: it pays nothing but the fee
            parameters = state.parameters[state.epoch]
            after = after_spend(account, operation, body, 1000, parameters, account.head)
            body = msgspec.structs.replace(body, digest=account_digest(after))
        return encode(sign_operation(msgspec.structs.replace(operation, body=body), owner))

    odd = [
        signed(0),
        signed(0, 0),
        signed(2**63 - 1),
        signed(2**63 - 1, 2**63 - 1),
        signed(1001),
        signed(1, 0),
    ]

    async def show(network: Network) -> None:
        for member in genesis.validators:
            network.add_addresses(peer_id(member.key), tuple(a.decode() for a in member.addresses))
        for raw in odd:
            for member in genesis.validators:
                with contextlib.suppress(RemoteError):
                    question = encode(Submit((raw,), 1))
                    await network.request(peer_id(member.key), LEDGER_PROTOCOL, question, timeout_s=5)

    await world.process("odd", show).ended()
    await world.run_for(10)
    assert not any(account.id in state.accounts for state in world.states.values()), "one of them was decided"


def test_a7_an_owner_can_sign_away_nothing_and_no_more_than_it_has() -> None:
    holds(nothing_is_paid)


def test_a7_mutant_a_ledger_that_lets_zero_through_is_noticed() -> None:
    with planted(MUTANTS["a zero amount"]):
        is_caught(nothing_is_paid, "a credit of 0", error=InvariantViolated, seeds=1)


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


GOSSIP = "2+500 weather latency=0.01..0.1 duplicate=0.5 reorder_s=110"


async def late_cards(world: World) -> None:
    """C1: cards come late, twice and in disorder; a newer one is never given up for an older one."""
    for i in range(6):
        world.spawn(f"seller{i}", skills=[work])
    buyer = await world.spawn("buyer").ready()
    await buyer.agent.find("work", at_least=6)  # from now on they are neighbours
    newest: dict[bytes, int] = {}
    renewed = set[bytes]()

    def cards_only_get_newer(world: World) -> None:
        for card in buyer.agent.directory.cards():
            assert card.sequence >= newest.get(card.agent, 0), "an older card took a newer one's place"
            if card.sequence > newest.get(card.agent, card.sequence):
                renewed.add(card.agent)
            newest[card.agent] = card.sequence

    world.check(cards_only_get_newer, every_s=0.1)
    await world.run_for(500)
    assert len(renewed) > 2, "hardly any card was renewed"


def test_c1_a_card_that_comes_late_or_twice_takes_no_newer_ones_place() -> None:
    holds(late_cards, faults=GOSSIP)


def test_c1_mutant_a_table_that_takes_any_card_is_noticed() -> None:
    with without(CardTable, "add", "if card.sequence < before.card.sequence:", "if False:"):
        is_caught(late_cards, "took a newer one's place", error=InvariantViolated, faults=GOSSIP)


def is_notice(sent: Sent) -> bool:
    return sent.protocol == "/ainp2p/market/1" and sent.kind == "send" and _is_a(ReceiptNotice, sent.body)


def _is_a(type_: type, body: bytes) -> bool:
    try:
        message = decode_wire(body)
        return isinstance(open_market(message) if isinstance(message, Signed) else message, type_)
    except Error:
        return False


def losing_receipts(world: World) -> Callable[[Sent], bytes | list[bytes] | None]:
    """Half of a buyer's receipts are lost, with what they say of its reader; some come twice, and late."""
    rng, held = world.rng("losing receipts"), list[bytes]()

    def rewrite(sent: Sent) -> bytes | list[bytes] | None:
        if not is_notice(sent):
            return sent.body
        dice = rng.random()
        if dice < 0.5:
            world.sometimes("a receipt was lost")
            return None
        if dice < 0.75:
            held.append(sent.body)
            return [sent.body, *held[-2:]]
        return sent.body

    return rewrite


async def lossy_trade(world: World) -> None:
    """C1: a buyer whose receipts are lost, repeated and late is served, and its seller paid, to the end."""
    keep_the_ledger(world)
    signed = Receipts()
    seller = await world.spawn("seller", skills=[slow_work]).ready()
    buyer = await world.spawn("buyer", on_receipt=signed).ready()
    world.lie(buyer, losing_receipts(world))
    for count in (150, 40, 5):
        assert await buy(buyer.agent, "w " * count, budget=2 * PRICE * count) == "w" * count
    await world.run_for(120)
    for id_, amount in signed.highest.items():
        assert kept(seller.agent.wallet.book, id_) == amount, "the last receipt is lost"
    assert sum(signed.highest.values()) == PRICE * 195


def test_c1_receipts_that_are_lost_or_come_twice_hold_up_no_job_and_are_made_up_for() -> None:
    for seed in (1, 2, 3):
        found = attempt(lossy_trade, seed)
        assert found.error is None, found.error
        assert found.marks["a receipt was lost"] > 3


def test_c1_mutant_a_buyer_that_says_nothing_again_in_doubt_is_noticed() -> None:
    with without(Bought, "_next", "await self.deposit.resend()", "pass"):
        is_caught(lossy_trade, "sent nothing for 30 s|unpaid after 30 s", error=NoOffers)


def test_c1_mutant_a_last_receipt_that_nobody_confirms_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Deposit, "job_ended", lambda self: None)
    is_caught(lossy_trade, "the last receipt is lost")


async def lost_award(world: World) -> None:
    """C1: an award that never comes costs half a minute; another seller does the job, and is paid alone."""
    keep_the_ledger(world)
    signed, lost = Receipts(), list[str]()
    for i in range(2):
        world.spawn(f"seller{i}", skills=[work])
    buyer = await world.spawn("buyer", on_receipt=signed).ready()
    offers = await buyer.agent.find("work", at_least=2)

    def lose_one(sent: Sent) -> bytes | None:
        if not lost and _is_a(Award, sent.body):
            lost.append(sent.kind)
            return None
        return sent.body

    world.lie(buyer, lose_one)
    with trio.fail_after(60):
        async with buyer.agent.hire(offers, text="a b c", budget=100) as job:
            assert await job.result() == "abc"
    assert lost, "no award was lost"
    first, second = job.legs
    assert (first.units, first.amount, second.amount) == (0, 0, 3 * PRICE)
    assert list(signed.highest.values()) == [3 * PRICE]


def test_c1_an_award_that_is_lost_costs_time_and_no_money() -> None:
    holds(lost_award)


def test_c1_mutant_a_buyer_that_waits_for_ever_is_noticed() -> None:
    with without(Bought, "_next", ">= silent_since + self._stall_s()", "< 0"):
        is_caught(lost_award, "TooSlowError", error=trio.TooSlowError, seeds=1)


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

    is_caught(model, "a minority decides", seeds=2)


SWIZZLE = Profile(kinds=("swizzle",), every_s=6, from_s=4, until_s=50)


@pytest.mark.parametrize("seed", range(4))
def test_c3_nodes_clogged_one_after_another_and_freed_in_another_order(seed: int) -> None:
    found = attempt(paying, seed, faults=SWIZZLE)
    assert found.error is None, f"{found.error} {found.faults}"
    assert found.marks["fault: pause"] > 3


def test_c3_mutant_a_committee_without_sync_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """LEDGER.md: gossip is "repaired by Sync": vote logs by heights, objects by reconciliation."""

    async def nothing(*args: Any, **options: Any) -> bool:
        return False

    monkeypatch.setattr(CatchUp, "_fetch_log", nothing)
    monkeypatch.setattr(ObjectSync, "compare_with", nothing)
    is_caught(paying, "V9", seeds=2, faults=SWIZZLE)


# --- E: hostile peers -------------------------------------------------------------------------------------


@ainp2p.skill("work", price=f"{PRICE - 1}/item")
async def garbage(job: Any, text: str) -> Any:
    """Anything but what was asked for, and cheaper."""
    for _ in range(10_000):
        yield "garbage"


STEP = 32  # units between two receipts


async def cheats_and_honest(world: World, *, words: tuple[int, int], budget: int, hours: float) -> None:
    """E11: who looks at what it gets pays a cheat one step at most, and once; honest sellers do the job."""
    keep_the_ledger(world)
    for i in range(2):
        world.spawn(f"honest{i}", skills=[work])
        world.spawn(f"cheat{i}", skills=[garbage], role="cheat")
    lost = Counter[tuple[str, bytes]]()

    async def read(job: Job, wanted: int) -> list[int]:
        """To the end; returns what was signed for each part when it was rejected."""
        good, signed = 0, list[int]()
        async for piece in job:
            good += piece == "w"
            if piece != "w":
                good = 0
                signed.append(job.under_way.amount if job.under_way else job.legs[-1].amount)
                job.reject("I asked for a w")
        assert good == wanted, f"{good} of {wanted} pieces are good"
        return signed

    async def shop(agent: Agent) -> None:
        rng = world.rng(agent.name)
        while True:
            count = rng.randint(*words)
            offers = await agent.find("work", at_least=4)
            async with agent.hire(offers, text="w " * count, budget=budget) as job:
                signed = await read(job, count)
            rejected = [leg for leg in job.legs if leg.rejected]
            assert [leg.amount for leg in rejected] == signed, "something was signed for what was rejected"
            for leg in rejected:
                lost[agent.name, leg.seller] += leg.amount
            assert max(lost.values()) <= (PRICE - 1) * STEP, f"a buyer lost more than a step: {lost}"
            await trio.sleep(20)

    for i in range(3):
        world.spawn(f"buyer{i}", main=shop)
    await world.run_for(3600 * hours)
    income, failures = Counter[str](), Counter[str]()
    for row in world._collector.trades.dicts():
        is_cheat = str(row["seller"]).startswith("cheat")
        income["cheat" if is_cheat else "honest"] += int(str(row["amount"]))
        failures[str(row["failure"])] += 1
        assert is_cheat == (row["failure"] == "rejected"), f"the table of trades says {row}"
    assert failures["rejected"], "nobody was cheated"
    share = income["cheat"] / income.total()
    assert share < 0.05, f"cheats have {share:.0%} of the income"


JOBS = {"short jobs": ((4, 8), 100, 1.0), "long jobs": ((40, 60), 200, 0.25)}


def cheated(jobs: str) -> Callable[[World], Any]:
    words, budget, hours = JOBS[jobs]
    return functools.partial(cheats_and_honest, words=words, budget=budget, hours=hours)


@pytest.mark.parametrize("jobs", JOBS)
def test_e11_cheats_earn_less_than_a_twentieth_and_a_buyer_loses_a_step_at_most(jobs: str) -> None:
    holds(cheated(jobs))


def test_e11_mutant_buyers_that_forget_whom_they_rejected_are_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Buyer, "_trusted", lambda self, offers: offers)
    is_caught(cheated("long jobs"), "lost more than a step", seeds=1)


def test_e11_mutant_a_rejection_after_which_receipts_are_signed_is_noticed() -> None:
    with without(Bought, "close", "pay=self.rejected is None", "pay=True"):
        is_caught(cheated("long jobs"), "signed for what was rejected", seeds=1)


def test_e11_mutant_a_rejection_after_which_nobody_goes_on_is_noticed() -> None:
    with without(Purchase, "_buy", "RemoteError, LedgerError)", "LedgerError)"):
        is_caught(cheated("long jobs"), "I asked for a w", error=Rejected, seeds=1)


async def never_pays(world: World) -> None:
    """E11: of a buyer whose receipts never come a seller has a window unpaid at most."""
    got: list[object] = []
    world.spawn("seller", skills=[garbage])
    buyer = await world.spawn("buyer").ready()

    def no_receipts(sent: Sent) -> bytes:
        """It says what it has read, and signs nothing for it."""
        try:
            message = decode_wire(sent.body)
        except Error:
            return sent.body
        if isinstance(message, ReceiptNotice):
            return encode(msgspec.structs.replace(message, receipt=b""))
        return sent.body

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


def test_e11_mutant_a_seller_without_a_window_is_noticed() -> None:
    with without(SellerMeter, "allowance", "credit = self.window - self.unpaid", "credit = 10_000"):
        is_caught(never_pays, "made for nothing", seeds=1)


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


async def early_refund(world: World) -> None:
    """F1: a payer whose clock is ahead, and a validator's with it, gets nothing back before it expires."""
    keep_the_ledger(world)
    payer = await world.spawn("payer").ready()
    wallet = payer.agent.wallet
    lock = await wallet.open_lock([(receiver(1), 1)], bytes(32), 1000, 1, 600_000)
    for who in ("payer", "validator0"):
        world.skew(who, DAY_MS)
    with contextlib.suppress(NotFinal, TimedOut, NotYet):
        await wallet.refund(lock.id, timeout_s=60)
    for name, state in world.states.items():
        held = state.locks.get(lock.id)
        ended = held is None or bool(held.ended)
        assert not ended, f"{name} ended it 9 minutes before it expires"
    for who in ("payer", "validator0"):
        world.skew(who, 0)
    await world.run_for(600)
    assert not (await wallet.refund(lock.id, timeout_s=60)).is_open


def test_f1_a_deposit_is_refunded_at_its_expiry_whatever_one_clock_says() -> None:
    holds(early_refund)


def test_f1_mutant_an_expiry_that_nobody_looks_at_is_noticed() -> None:
    with without(State, "_refuse_early", "and now_ms < self.not_before(operation)", "and False"):
        is_caught(early_refund, "before it expires", seeds=1)


class Spinning(trio.abc.Instrument):
    """Ends a run in which tasks go on and on and no time passes."""

    STEPS_MAX = 20_000  # at one instant; a town's opening takes a hundredth of it

    def __init__(self, world: World) -> None:
        self._world, self._at_s, self._steps = world, -1.0, 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._steps = 1 if self._world.now > self._at_s else self._steps + 1
        self._at_s = self._world.now
        if self._steps == self.STEPS_MAX:
            self._world.clock.fail(AssertionError(f"time stands still at {self._at_s} s: {task.name} spins"))


async def sleeper(world: World, asleep_s: float) -> None:
    """F2: a seller's machine sleeps; its old offers are void, nothing spins, and then it sells again."""
    keep_the_ledger(world)
    trio.lowlevel.add_instrument(Spinning(world))
    seller = await world.spawn("seller", skills=[work]).ready()
    buyer = await world.spawn("buyer").ready()
    assert await buy(buyer.agent, "a b") == "ab"
    world.pause(seller)
    steps = world.clock.steps
    await world.run_for(asleep_s)
    a_second = (world.clock.steps - steps) / asleep_s
    assert a_second < 5 * len(world.nodes), (
        f"{a_second:.0f} steps in each virtual second, and nobody does anything"
    )
    shown = [card.agent for card in buyer.agent.directory.cards()]
    assert seller.agent.id not in shown, "the offer of a machine that sleeps is still shown"
    with pytest.raises(NoOffers):
        await buy(buyer.agent, "c", find_s=5)
    world.resume(seller)
    before = world.trace.count
    await world.run_for(60)
    assert world.trace.count - before < 2_000, "a burst of what was left undone"
    assert await buy(buyer.agent, "d e", find_s=120) == "de"


@pytest.mark.parametrize("hours", [0.8, 8])  # less and more than what a deposit lives
def test_f2_a_machine_that_slept_drops_its_offers_and_sells_again(hours: float) -> None:
    holds(lambda world: sleeper(world, 3600 * hours), committee=1)


def test_f2_mutant_cards_that_never_expire_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CardTable, "expire", lambda self, now_ms: None)
    is_caught(lambda world: sleeper(world, 3000), "still shown", seeds=1, committee=1)


def test_f2_mutant_a_timer_in_the_past_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a record in the DHT was once, after an hour: due by a sum, and not yet by a difference."""
    monkeypatch.setattr(Directory, "_sync_due", lambda self: 0.0)
    is_caught(lambda world: sleeper(world, 3000), "time stands still .*Directory", seeds=1, committee=1)


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


def told_of_errands(wire: str, faults: str = "") -> list[object]:
    """What buyer and seller have to say in the end, over one of the two wires."""
    told: list[object] = []

    async def errands(world: World) -> None:
        keep_the_ledger(world)
        signed = Receipts()
        seller = await world.spawn("seller", skills=[work]).ready()
        buyer = await world.spawn("buyer", on_receipt=signed).ready()
        offers = await buyer.agent.find("work", timeout_s=20)
        for text, budget in (("a b c", 100), ("w " * 70, 400), ("too dear", 1), ("cut short", 3)):
            try:
                async with buyer.agent.hire(offers, text=text, budget=budget) as job:
                    pieces = [str(piece) async for piece in job]
                told.append((pieces, job.finish, job.paid, [(leg.units, leg.price) for leg in job.legs]))
            except Error as exc:
                told.append((text, type(exc).__name__))
        await seller.agent.wallet.settle_all()
        await settled(world, 30)
        balances = [await each.agent.balance() for each in (buyer, seller)]
        told.extend([sorted(signed.highest.values()), *(balance.total for balance in balances)])

    holds(errands, committee=1, wire=wire, weather=sim.Weather(latency=0.02), faults=faults)
    return told


def test_h4_the_simulated_wire_and_libp2p_come_to_the_same() -> None:
    told = told_of_errands("simulated")
    assert told == told_of_errands("libp2p")
    assert told[0] == (["a", "b", "c"], "done", 6, [(3, "2/item")])
    assert told[2] == ("too dear", "BudgetExceeded")


def test_h4_mutant_a_wire_that_cuts_messages_short_comes_to_something_else() -> None:
    assert told_of_errands("simulated", "0.5+60 lie seller how=short") != told_of_errands("simulated")


def test_h2_every_row_here_has_a_mutant() -> None:
    names = [name for name, _ in inspect.getmembers(sys.modules[__name__], inspect.isfunction)]
    rows = {name.split("_")[1] for name in names if name.startswith("test_") and "mutant" not in name}
    mutants = {name.split("_")[1] for name in names if name.startswith("test_") and "mutant" in name}
    assert rows - {"h1", "h2"} <= mutants  # H1 has its own in test_world.py, and H2 is about them
    assert mutants >= {f"a{i}" for i in range(1, 8)} | {f"c{i}" for i in range(1, 4)} | {
        "e11",
        "f1",
        "f2",
        "h4",
    }
    assert rows >= {"h1", "h4"}  # A1's and H3's are in test_storm.py
