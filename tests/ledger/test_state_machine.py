"""Hypothesis chooses the order of events, right and wrong; an auditor of its own keeps the books.

The auditor believes nobody: it knows who authorised each attempt and what that may cost whom, and it
compares everybody's wealth after every step. Each planted fault must make it complain.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ainp2p.errors import Error, LedgerError
from ainp2p.ledger.rules.accounts import account_digest, unopened_account
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.operations import Out, Share, SignedOperation, credit_id, parse
from ainp2p.ledger.rules.receipts import (
    Receipt,
    SignedReceipt,
    close_operation,
    refund_operation,
    settle_operation,
    sign_receipt,
)
from tests.ledger.machines import run_machine

from .world import NAMES, World, changed, key_of, with_fields

NAME = st.sampled_from(NAMES)
GOOD = [1, 2, 7, 100, 5_000, 40_000, 300_000]
AMOUNT = st.sampled_from([*GOOD, *GOOD, 999_000, 10**6, 0, -1, 2**63 - 1, 2**63, 2**64 - 1])
MORE = st.sampled_from([1, 7, 33, 50, 100, 333, 1_000, 2_500, 0, -1, 6_000])
MOSTLY = st.sampled_from([True, True, True, False])
MOSTLY_0 = st.sampled_from([0, 0, 0, 0, 1, -1])
SMALL = st.integers(0, 60)


class Ledger(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.seen: list[SignedOperation] = []
        self.consumed: set[bytes] = set()

    # --- the auditor --------------------------------------------------------------------------------

    def attempt(self, signed: SignedOperation, losers: dict[str, int]) -> None:
        """Try an operation. `losers`: who authorised a loss, and of how much at most."""
        world = self.world
        before = {name: world.wealth(name) for name in NAMES}
        root, slot = world.state.root(), None
        try:
            parsed = parse(signed)
            slot = world.state.head(parsed.operation.object)
            world.state.check(parsed, world.now)
            changes = world.state.apply(parsed)
        except (Error, OverflowError):
            assert world.state.root() == root, "a refusal changed the state"
            return
        self.seen.append(signed)
        for name in NAMES:
            lost = before[name] - world.wealth(name)
            assert lost <= losers.get(name, 0), f"{name} lost {lost}"
        assert parsed.operation.seq == slot[0] + 1, "a slot was skipped or decided twice"
        for id_ in changes.consumed:
            assert id_ not in self.consumed, "a credit was consumed twice"
            self.consumed.add(id_)
        for _, credit in changes.made:
            assert credit.amount > 0, "a credit of nothing"

    def pick(self, index: int) -> Lock | None:
        locks = [self.world.state.locks[id_] for id_ in sorted(self.world.state.locks)]
        return locks[index % len(locks)] if locks else None

    # --- what people do -----------------------------------------------------------------------------

    @rule(owner=NAME, to=NAME, amount=AMOUNT, signer=NAME, honest=MOSTLY, skew=MOSTLY_0, fee=MOSTLY_0)
    def spend(self, owner: str, to: str, amount: int, signer: str, honest: bool, skew: int, fee: int) -> None:
        signer = owner if honest else signer
        operation = self.world.operation(owner)
        body: Any = operation.body
        outs = (Out(self.world.ids[to], amount),)
        wrong = with_fields(operation, body_outs=outs, body_fee=body.fee + fee, seq=operation.seq + skew)
        self.attempt(
            changed(self.redigested(wrong), signer),
            {owner: max(amount, 0) + body.fee + fee} if signer == owner else {},
        )

    def redigested(self, operation: Any) -> Any:
        """A forger knows how to compute the digest, too."""
        body = operation.body
        account = self.world.state.accounts.get(operation.object)
        if account is None:
            if body.inception is None:
                return operation
            account = unopened_account(self.world.network, body.inception)
        mine = self.world.state.credits
        received = sum(mine[id_].amount for id_ in body.credits if id_ in mine)
        needed = body.fee + sum(out.amount for out in body.outs)
        after = msgspec.structs.replace(
            account,
            seq=operation.seq,
            balance=account.balance + received - needed,
            timestamp=operation.timestamp,
        )
        try:
            return with_fields(operation, body_digest=account_digest(after))
        except OverflowError:
            return operation

    @rule(thief=NAME, victim=NAME, how=st.sampled_from(["another's", "again", "thin air"]), index=SMALL)
    def consume_what_is_not_one_s_own(self, thief: str, victim: str, how: str, index: int) -> None:
        credits: tuple[bytes, ...] = (credit_id(b"?" * 32, 0),)
        if how == "another's":
            credits = tuple(sorted(self.world.state.credits_of(self.world.ids[victim])))
        elif how == "again" and self.consumed:
            credits = (sorted(self.consumed)[index % len(self.consumed)],)
        operation = with_fields(self.world.operation(thief), body_credits=credits)
        self.attempt(changed(self.redigested(operation), thief), {thief: 1})

    @rule(payer=NAME, payee=NAME, deposit=st.integers(1, 5_000), step=st.integers(1, 50), split=st.booleans())
    def open_lock(self, payer: str, payee: str, deposit: int, step: int, split: bool) -> None:
        ids = self.world.ids
        shares = tuple(Share(ids[name], n + 2) for n, name in enumerate(sorted(ids, key=lambda x: ids[x])))
        terms = self.world.terms(
            payee,
            deposit=deposit,
            step=step,
            authority=(key_of(payer).public,),
            beneficiaries=shares if split else (Share(ids[payee], 1),),
        )
        try:
            operation = self.world.operation(payer, locks=[terms])
        except LedgerError:
            return
        body: Any = operation.body
        self.attempt(changed(operation, payer), {payer: body.fee})

    @rule(index=SMALL, more=MORE, signer=NAME, honest=MOSTLY, close=st.booleans())
    def settle(self, index: int, more: int, signer: str, honest: bool, close: bool) -> None:
        lock = self.pick(index)
        if lock is None:
            return
        payer = self.name_of(lock.payer)
        signer = payer if honest else signer
        receipt = self.receipt(lock, lock.paid + more, signer)
        closer = key_of("bob") if lock.closer == key_of("bob").public else None
        signed = close_operation(self.world.network, lock, receipt, closer) if close else None
        self.attempt(
            signed or settle_operation(lock, receipt), {payer: max(more, 0)} if signer == payer else {}
        )

    def receipt(self, lock: Lock, cumulative: int, signer: str) -> SignedReceipt:
        promise = Receipt(self.world.network, lock.id, max(cumulative, 0), 1, b"c" * 32)
        return sign_receipt(promise, key_of(signer))

    @rule(index=SMALL)
    def settle_with_another_lock_s_receipt(self, index: int) -> None:
        one, other = self.pick(index), self.pick(index + 1)
        if one is None or other is None or one.id == other.id:
            return
        receipt = self.receipt(one, one.deposit, self.name_of(one.payer))
        operation = settle_operation(other, receipt)
        self.attempt(operation, {})

    @rule(index=SMALL, bare=st.booleans())
    def end(self, index: int, bare: bool) -> None:
        lock = self.pick(index)
        if lock is not None:
            end = close_operation if bare else refund_operation
            early = self.world.now < lock.expiry and not lock.ended
            self.attempt(end(self.world.network, lock), {})
            assert not (early and self.world.state.locks[lock.id].ended), "ended before it expired"

    @rule(ms=st.sampled_from([1, 30_000, 61_000]))
    def wait(self, ms: int) -> None:
        self.world.now += ms

    @rule(index=SMALL)
    def replay(self, index: int) -> None:
        if self.seen:
            signed = self.seen[index % len(self.seen)]
            root = self.world.state.root()
            with suppress(Error):
                assert not self.world.state.apply(parse(signed)), "an operation was applied twice"
            assert self.world.state.root() == root

    def name_of(self, account: bytes) -> str:
        return next(name for name, id_ in self.world.ids.items() if id_ == account)

    # --- what must hold, always -----------------------------------------------------------------------

    @invariant()
    def v1_nothing_is_made_or_lost(self) -> None:
        assert self.world.state.supply() == self.world.state.recount()
        assert self.world.state.supply().total == self.world.state.minted

    @invariant()
    def v2_nothing_is_negative(self) -> None:
        state = self.world.state
        assert all(account.balance >= 0 for account in state.accounts.values())
        assert all(0 <= lock.paid <= lock.deposit and lock.held >= 0 for lock in state.locks.values())
        assert all(lock.ended or lock.held >= lock.deposit - lock.paid for lock in state.locks.values())
        assert all(credit.amount > 0 for credit in state.credits.values())

    @invariant()
    def the_inboxes_are_the_credits(self) -> None:
        state = self.world.state
        by_account = {id_: state.credits_of(id_) for id_ in self.world.ids.values()}
        assert sum(len(mine) for mine in by_account.values()) == len(state.credits)
        for account, mine in by_account.items():
            for id_, amount in mine.items():
                assert state.credits[id_].account == account
                assert state.credits[id_].amount == amount


def run(examples: int, steps: int, *, shrink: bool) -> None:
    run_machine(Ledger, examples, steps, shrink=shrink)


def test_only_whoever_authorised_an_operation_can_lose_by_it() -> None:
    run(100, 50, shrink=True)


# --- planted faults: each must be found ----------------------------------------------------------------


def keep_consumed_credits(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("ainp2p.ledger.rules.state.State._drop_credit", lambda self, id_: None)


def consume_anybody_s_credits(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        "ainp2p.ledger.rules.state.State._received",
        lambda self, account, ids, cap: sum(self.credits[id_].amount for id_ in ids if id_ in self.credits),
    )


def believe_in_any_credit(patch: pytest.MonkeyPatch) -> None:
    def received(self: Any, account: bytes, ids: tuple[bytes, ...], cap: int) -> int:
        return sum(self.credits[id_].amount if id_ in self.credits else 5 for id_ in ids)

    patch.setattr("ainp2p.ledger.rules.state.State._received", received)
    patch.setattr("ainp2p.ledger.rules.state.State._drop_credit", lambda self, id_: None)


def verify_no_signature(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("ainp2p.ledger.rules.state.verify", lambda *_: None)


def verify_no_receipt(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("ainp2p.ledger.rules.state.verify_receipt", lambda *_: None)


def look_at_no_slot(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("ainp2p.ledger.rules.state._refuse_slot", lambda *_: None)


def look_at_no_amount(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("ainp2p.ledger.rules.locks._refuse_amount", lambda *_: None)


def look_at_no_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("ainp2p.ledger.rules.locks.refuse_ended", lambda *_: None)
    patch.setattr("ainp2p.ledger.rules.state.refuse_ended", lambda *_: None)


def look_at_no_expiry(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("ainp2p.ledger.rules.state.State._refuse_early", lambda *_: None)


def round_shares_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("ainp2p.ledger.rules.locks.share", lambda total, parts, all_: -(-total * parts // all_))


def forget_the_fee(patch: pytest.MonkeyPatch) -> None:
    original = World().state.commit.__func__  # type: ignore[attr-defined]  # the plain function

    def commit(self: Any, changes: Any) -> None:
        original(self, msgspec.structs.replace(changes, burnt=0))

    patch.setattr("ainp2p.ledger.rules.state.State.commit", commit)


def allow_zero(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("ainp2p.ledger.rules.operations._refuse_zero", lambda *_: None)


MUTANTS = [
    keep_consumed_credits,
    consume_anybody_s_credits,
    believe_in_any_credit,
    verify_no_signature,
    verify_no_receipt,
    look_at_no_slot,
    look_at_no_amount,
    look_at_no_end,
    look_at_no_expiry,
    round_shares_up,
    forget_the_fee,
    allow_zero,
]


@pytest.mark.parametrize("plant", MUTANTS, ids=lambda plant: plant.__name__)
def test_h2_a_mutant_ledger_is_caught(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises((AssertionError, KeyError)):  # a store that was lied to may not find what is not there
        run(2_000, 50, shrink=False)
