"""Somebody without any key of it tries to keep a deposit from its owner."""

from __future__ import annotations

import pytest
import trio

from ainp2p.errors import InvalidOperation, NotFinal
from ainp2p.ledger.rules import operations
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.operations import Close, Operation, SignedOperation, Spend, parse
from ainp2p.ledger.rules.receipts import close_operation, refund_operation
from ainp2p.ledger.serving.messages import Statuses, Submit
from ainp2p.ledger.serving.sync import Validators
from ainp2p.ledger.voting.contending import Contention
from ainp2p.protocol.codec import encode

from .test_wallet_faults import run
from .town import open_town
from .world import World, key_of


def bare_close(network: bytes, lock: Lock) -> SignedOperation:
    body = Close(lock.paid, 0, b"")
    raw = encode(Operation(1, network, lock.id, lock.seq + 1, lock.head, None, body))
    return SignedOperation(raw, (), None)


async def refund_while_a_stranger_splits_the_votes() -> bool:
    async with (
        open_town() as town,
        town.wallet("bob") as bob,
        town.wallet("alice") as alice,
        town.network(key_of("stranger")) as network,
    ):
        deposit = await alice.open_lock([(bob.account_id, 1)], key_of("bob").public, 1000, 10, 5_000)
        await trio.sleep(6)
        committee = Validators(network, town.genesis)
        ways = [refund_operation(town.network_id, deposit.lock), bare_close(town.network_id, deposit.lock)]
        for place, member in enumerate(committee.members):
            submit = Submit((encode(ways[place % 2]),), everywhere=1)
            await committee.ask(member.peer, submit, Statuses)
        await trio.sleep(10)
        return not (await alice.refund(deposit.id, timeout_s=30)).is_open


def test_a_stranger_cannot_split_the_votes_on_an_expired_lock() -> None:
    assert run(refund_while_a_stranger_splits_the_votes)


def close_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lift the rule by which a stranger has only REFUND."""
    check = operations._check_on_lock

    def lenient(operation: Operation, body: object, signed: SignedOperation) -> None:
        if not (isinstance(body, Close) and not body.context and signed.closer is None):
            assert not isinstance(body, Spend)
            check(operation, body, signed)  # type: ignore[arg-type]  # any of the three

    monkeypatch.setattr(operations, "_check_on_lock", lenient)


def test_split_votes_would_be_joined_in_a_later_view(monkeypatch: pytest.MonkeyPatch) -> None:
    close_needs_no_key(monkeypatch)
    assert run(refund_while_a_stranger_splits_the_votes)


def test_mutant_without_views_split_votes_freeze_a_deposit(monkeypatch: pytest.MonkeyPatch) -> None:
    close_needs_no_key(monkeypatch)
    monkeypatch.setattr(Contention, "start_timer", lambda *_: None)
    with pytest.raises(NotFinal):
        run(refund_while_a_stranger_splits_the_votes)


def test_a_close_with_neither_receipt_nor_closer_is_no_operation() -> None:
    world = World()
    lock = world.open_lock()
    with pytest.raises(InvalidOperation, match="REFUND"):
        parse(bare_close(world.network, lock))
    assert close_operation(world.network, lock) == refund_operation(world.network, lock)
