"""Operations far ahead of their object cost something when they come, and nothing with each decision."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ainp2p.ledger.rules.operations import Operation, ParsedOperation, SignedOperation, parse
from ainp2p.ledger.voting.deciding import Decider
from ainp2p.ledger.voting.validator import Limits
from ainp2p.protocol.codec import encode

from .bench import Bench

JUNK = 300


def ahead(signed: SignedOperation, seq: int) -> SignedOperation:
    """What anybody can write: no head, no signature that fits."""
    operation: Operation = parse(signed).operation
    body = msgspec.structs.replace(operation.body, inception=None)
    raw = encode(msgspec.structs.replace(operation, seq=seq, previous=bytes(32), body=body))
    return SignedOperation(raw, (bytes(64),), None)


def checks_per_decision() -> float:
    """How often an operation is checked for one decision on an account with much junk ahead of it."""
    bench = Bench(limits=Limits(waiting_max_per_source=JUNK))
    bench.decide(bench.spend("alice", [("bob", 5)]))
    for i in range(JUNK):
        assert bench.refusal(ahead(bench.spend("alice", [("bob", 5)]), 100 + i), "mallory") == ""
    checked = 0
    check = bench.validator.state.check

    def counted(*args: Any, **more: Any) -> Any:
        nonlocal checked
        checked += 1
        return check(*args, **more)

    bench.validator.state.check = counted  # type: ignore[method-assign]
    for _ in range(10):
        bench.decide(bench.spend("alice", [("bob", 5)]))
    return checked / 10


def test_e9_junk_ahead_of_an_account_is_not_looked_at_with_each_decision() -> None:
    assert checks_per_decision() < 5


def test_e9_mutant_junk_that_waits_for_the_object_is_looked_at_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key_of = Decider._key_of

    def by_object(self: Decider, parsed: ParsedOperation, rule: str) -> bytes:
        return parsed.operation.object if rule == "sequence-ahead" else key_of(self, parsed, rule)

    monkeypatch.setattr(Decider, "_key_of", by_object)
    assert checks_per_decision() > JUNK


def test_what_waits_two_slots_ahead_is_locked_when_the_slot_before_it_is_decided() -> None:
    bench = Bench()
    first = bench.spend("alice", [("bob", 5)])
    state = bench.journal.state()
    state.apply(parse(first))
    second = bench.spend("alice", account=state.accounts[bench.ids["alice"]], credits={})
    state.apply(parse(second))
    third = bench.spend("alice", account=state.accounts[bench.ids["alice"]], credits={})
    bench.give(third)
    bench.decide(first)
    assert not bench.locked(third)
    bench.decide(second)
    assert bench.locked(third)
