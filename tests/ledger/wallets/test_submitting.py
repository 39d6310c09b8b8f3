"""Sending until final: what is due when, and what becomes of operations that never can be."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from ainp2p.errors import InvalidOperation, NotFinal
from ainp2p.ledger.rules.operations import ParsedOperation, SignedOperation, Spend, parse
from ainp2p.ledger.serving.messages import OPERATIONS_MAX, Statuses, Submit
from ainp2p.ledger.wallets import submitting
from ainp2p.ledger.wallets.spending import Plan, Wish
from ainp2p.ledger.wallets.submitting import (
    RESEND_AFTER_MAX_S,
    RESEND_AFTER_S,
    TOGETHER_S,
    UNDER_WAY_MAX,
    Pending,
    Submitter,
    _Sender,
)
from ainp2p.ledger.wallets.wallet import Wallet
from ainp2p.protocol.codec import encode

from ..town import PURSE, Town, open_town
from ..world import World, key_of


def operations(count: int) -> list[ParsedOperation]:
    world = World()
    return [parse(world.spend("alice", [("bob", amount)])) for amount in range(1, count + 1)]


async def test_what_is_added_is_due_at_once_and_together(autojump_clock: Any) -> None:
    sender = _Sender("peer")
    pending = [Pending(parsed) for parsed in operations(3)]
    for each in pending:
        sender.add(each)
    assert await sender.next_due() == pending
    assert trio.current_time() == 0


async def test_what_is_not_final_is_due_again_ever_later(autojump_clock: Any) -> None:
    sender = _Sender("peer")
    sender.add(Pending(operations(1)[0]))
    times = []
    for _ in range(8):
        await sender.next_due()
        times.append(trio.current_time())
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses[:3] == pytest.approx([RESEND_AFTER_S, 2 * RESEND_AFTER_S, 4 * RESEND_AFTER_S])
    assert pauses[-1] == pytest.approx(RESEND_AFTER_MAX_S)


async def test_what_is_resolved_is_due_no_more(autojump_clock: Any) -> None:
    sender = _Sender("peer")
    one, other = (Pending(parsed) for parsed in operations(2))
    sender.add(one)
    sender.add(other)
    await sender.next_due()
    one.resolve(b"certificate")
    assert await sender.next_due() == [other]


async def test_one_message_carries_no_more_than_it_may(autojump_clock: Any) -> None:
    sender = _Sender("peer")
    for parsed in operations(OPERATIONS_MAX + 5):
        sender.add(Pending(parsed))
    assert len(await sender.next_due()) == OPERATIONS_MAX
    assert len(await sender.next_due()) == 5


async def test_large_operations_travel_in_several_messages(autojump_clock: Any) -> None:
    sender, many = _Sender("peer"), [Pending(parsed) for parsed in operations(3)]
    for each in many:
        each.encoded = bytes(200 * 1024)
        sender.add(each)
    assert [len(await sender.next_due()) for _ in range(3)] == [1, 1, 1]


async def test_what_is_new_goes_before_what_was_sent(autojump_clock: Any) -> None:
    sender = _Sender("peer")
    old, new = (Pending(parsed) for parsed in operations(2))
    sender.add(old)
    await sender.next_due()
    await trio.sleep(2 * RESEND_AFTER_S)
    sender.add(new)
    assert await sender.next_due() == [new, old]


class Slow:
    """Validators of which one answers nothing; notes what it was sent, and when."""

    def __init__(self) -> None:
        self.sent: list[tuple[float, int]] = []

    async def for_each(self, task: Callable[[str], Awaitable[None]]) -> None:
        await task("peer")

    async def ask(self, peer: str, question: Submit, answer: object) -> Statuses:
        self.sent.append((trio.current_time(), len(question.operations)))
        await trio.sleep_forever()
        raise AssertionError


async def submit_to(slow: Slow, waves: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
    """Add so many operations after so long, again and again → what was sent, and when."""
    submitter = Submitter(slow, lambda pending, certificate: None, lambda pending, rule: None)  # type: ignore[arg-type]  # as much of Validators as it uses
    supply = iter(operations(sum(count for _, count in waves)))
    async with trio.open_nursery() as nursery:
        submitter.begin(nursery)
        for pause_s, count in waves:
            await trio.sleep(pause_s)
            for _ in range(count):
                submitter.add(Pending(next(supply)))
        await trio.sleep(RESEND_AFTER_S / 2)
        nursery.cancel_scope.cancel()
    return slow.sent


async def test_an_operation_leaves_at_once_and_those_after_it_together(autojump_clock: Any) -> None:
    sent = await submit_to(Slow(), [(1.0, 1), (0.001, 1), (0.001, 3), (0.2, 1)])
    assert [count for _, count in sent] == [1, 4, 1]
    assert [at for at, _ in sent] == pytest.approx([1.0, 1.0 + TOGETHER_S, 1.202])


async def test_nothing_waits_for_the_answer_to_what_left_before(autojump_clock: Any) -> None:
    sent = await submit_to(Slow(), [(0.1, 1)] * 3)
    assert [at for at, _ in sent] == pytest.approx([0.1, 0.2, 0.3])


async def test_a_validator_that_does_not_answer_is_sent_so_many_messages_and_no_more(
    autojump_clock: Any,
) -> None:
    sent = await submit_to(Slow(), [(0.025, 1)] * (UNDER_WAY_MAX + 5))
    assert len(sent) == UNDER_WAY_MAX


def test_only_the_first_resolution_counts() -> None:
    pending = Pending(operations(1)[0])
    pending.resolve(b"certificate")
    pending.resolve(error=InvalidOperation("late"))
    assert (pending.certificate, pending.error) == (b"certificate", None)


# --- operations that never can be final -----------------------------------------------------------------


async def test_what_a_quorum_refuses_is_dropped_and_the_account_goes_on(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_town() as town, town.wallet("alice") as alice:
        plan = alice._orders._plan

        def spoil(wishes: list[Wish]) -> Plan:
            good = plan(wishes)
            assert good.operation is not None
            assert isinstance(good.operation.body, Spend)
            body = msgspec.structs.replace(good.operation.body, digest=bytes(32))
            return Plan(msgspec.structs.replace(good.operation, body=body), good.places, good.refused)

        monkeypatch.setattr(alice._orders, "_plan", spoil)
        with pytest.raises(InvalidOperation, match="digest") as refused:
            await alice.send(town.account("bob"), 5, note=b"n")
        monkeypatch.setattr(alice._orders, "_plan", plan)
        assert refused.value.rule == "digest"
        assert await alice.history() == []
        await alice.send(town.account("bob"), 5, note=b"n")  # the note is free again
        assert (await alice.balance()).available == PURSE - 6


async def pay_while_proofs_are_garbled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A payment whose signature arrives as another one at every validator at first, and then as it is."""
    submit, encoded = Submitter._submit, dict[bytes, bytes]()

    async def garble(self: Submitter, peer: str, due: list[Pending], places: trio.Semaphore) -> None:
        for pending in due:
            good = encoded.setdefault(pending.id, pending.encoded)
            forged = encode(SignedOperation(pending.parsed.signed.raw, (bytes(64),), None))
            pending.encoded = forged if trio.current_time() < until_s else good
        await submit(self, peer, due, places)

    monkeypatch.setattr(Submitter, "_submit", garble)
    async with open_town() as town, town.wallet("alice") as alice:
        await alice.balance()
        until_s = trio.current_time() + RESEND_AFTER_S / 2
        await alice.send(town.account("bob"), 5, timeout_s=10)
        assert len(encoded) == 1


async def test_e12_a_bad_proof_is_said_of_what_came_and_no_second_operation_is_signed(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pay_while_proofs_are_garbled(monkeypatch)


async def test_e12_mutant_who_drops_what_came_with_a_bad_proof_would_sign_again(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitting, "_BAD_PROOF", b"")
    with pytest.raises(InvalidOperation, match="BadSignature"):
        await pay_while_proofs_are_garbled(monkeypatch)


async def test_a_restored_backup_that_lost_its_slot_says_so_and_goes_on(
    autojump_clock: Any, tmp_path: Path
) -> None:
    """Two copies of one wallet, cut off from each other: the later payment is not made, and said so."""
    async with open_town() as town, town.network(key_of("alice")) as here, town.network(key_of("x")) as there:
        async with town.wallet_on(here, "alice", directory=tmp_path / "a") as alice:
            await alice.balance()
            town.hub.partition([here.peer_id], [town.peer(i) for i in range(4)])
            with pytest.raises(Exception, match="whether any of them has it is unknown"):
                await alice.send(town.account("bob"), 5, timeout_s=2)
            await spend_elsewhere(town, there, tmp_path / "b")
            town.hub.heal()
            await trio.sleep(60)
            assert (await alice.balance()).available == PURSE - 10 - 1
            await alice.send(town.account("bob"), 5)
            assert (await alice.balance()).available == PURSE - 10 - 1 - 5 - 1
        await town.until_equal(2)


async def spend_elsewhere(town: Town, network: Any, directory: Path) -> None:
    async with town.wallet_on(network, "alice", directory=directory) as copy:
        await copy.send(town.account("bob"), 10)


async def test_two_copies_that_spend_at_once_block_their_account_and_nobody_else_s(
    autojump_clock: Any,
) -> None:
    """View changes will decide such a slot; until then the account waits, its owner is told, others go on."""
    async with open_town() as town, town.network(key_of("alice")) as here, town.network(key_of("x")) as there:
        async with town.wallet_on(here, "alice") as one, town.wallet_on(there, "alice") as other:
            await one.balance()
            await other.balance()
            town.hub.partition([here.peer_id], [town.peer(i) for i in (0, 1)])
            town.hub.partition([there.peer_id], [town.peer(i) for i in (2, 3)])
            blocked: list[NotFinal] = []

            async def pay(wallet: Wallet, amount: int) -> None:
                try:
                    await wallet.send(town.account("bob"), amount, timeout_s=8)
                except NotFinal as exc:
                    blocked.append(exc)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(pay, one, 5)
                nursery.start_soon(pay, other, 6)
            assert len(blocked) == 2
            town.hub.heal()
            async with town.wallet("carol") as carol:
                await carol.send(town.account("bob"), 1)
        assert all(service._validator.statistics().evidence for service in town.services.values())
