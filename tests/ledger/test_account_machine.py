"""Accounts in any order of events, right and wrong: an oracle of its own says what must be valid, and why.

The oracle knows names instead of keys and nothing of the code: who controls an account, when it last spoke,
what it owes. Whatever it allows must be done, whatever it forbids must leave no trace, and nobody but who
authorised an operation may be poorer after it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ainp2p.errors import Error
from ainp2p.ledger.rules import accounts
from ainp2p.ledger.rules.genesis import DEVELOPMENT
from ainp2p.ledger.rules.operations import (
    SIGN_RECOVER,
    Operation,
    Out,
    Recover,
    Rotation,
    SignedOperation,
    key_digest,
    operation_id,
    parse,
)
from ainp2p.ledger.rules.state import Changes, Undo
from ainp2p.protocol.codec import encode
from tests.ledger.machines import run_machine

from .world import GUARDIANS, LEASE, NAMES, PURSE, World, changed, guarded_inception_of, key_of, with_fields

NAME = st.sampled_from(NAMES)
AMOUNT = st.sampled_from([1, 2, 7, 100, 5_000, 300_000, 999_000, 0, -1, 2**63 - 1, 2**63])
MOSTLY_0 = st.sampled_from([0, 0, 0, 0, 0, 1, -1])
MOSTLY = st.sampled_from([True, True, True, False])
VOID_DEBT = DEVELOPMENT.void_debt


@dataclass
class Owner:
    """What the oracle knows of an account: `key` and `next` are names of keys."""

    key: str
    next: str
    seq: int = 0
    spoke: int = 0  # ms
    debt: int = 0  # uain
    balance: int = 0
    waiting: int = PURSE  # credits


class Accounts(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World(inception=guarded_inception_of)
        self.owners = {name: Owner(name, name + "'") for name in NAMES}
        self.undos: list[Undo] = []
        self.consumed: set[bytes] = set()

    def attempt(self, signed: SignedOperation | None, valid: bool, voted: bool = True) -> Changes | None:
        """Try it; `signed` None: it has no encoding. `voted`: check it as a voter before it is applied."""
        world = self.world
        root = world.state.root()
        try:
            assert signed is not None or not valid
            parsed = parse(signed)  # type: ignore[arg-type]  # None raises, too
            if voted:
                world.state.check(parsed, world.now)
            changes = world.state.apply(parsed, undos=self.undos)
        except (Error, AttributeError):
            assert not valid, "what must be valid was refused"
            assert world.state.root() == root, "a refusal changed the state"
            return None
        assert valid, "what must be refused was done"
        for id_ in changes.consumed:
            assert id_ not in self.consumed, "a credit was consumed twice"
            self.consumed.add(id_)
        assert all(credit.amount > 0 for _, credit in changes.made)
        return changes

    # --- what owners do -----------------------------------------------------------------------------

    @rule(name=NAME, to=NAME, amount=AMOUNT, honest=MOSTLY, skew=MOSTLY_0, short=MOSTLY_0, rotate=MOSTLY_0)
    def spend(
        self, name: str, to: str, amount: int, honest: bool, skew: int, short: int, rotate: int
    ) -> None:
        """`rotate` 1: to the key that was committed to; −1: to another. `short`: of the least fee."""
        owner, fee = self.owners[name], 1 + self.owners[name].debt
        if owner.balance + owner.waiting < fee:
            return
        operation = self.world.operation(name, fee=fee)
        signer, fields = owner.key, {}
        if rotate:
            signer = owner.next if rotate > 0 else "mallory"
            fields["body_rotate"] = Rotation(key_of(signer).public, key_digest(key_of(signer + "'").public))
        if not honest:
            signer = "mallory"
        outs = (Out(self.world.ids[to], amount),)
        wrong = with_fields(
            operation, seq=operation.seq + skew, body_outs=outs, body_fee=fee + short, **fields
        )
        rest = owner.balance + owner.waiting - amount - fee - short
        valid = honest and not skew and amount > 0 and short >= 0 and rotate >= 0 and rest >= 0
        if self.attempt(self.signed(wrong, signer, rest), valid) is None:
            return
        if rotate:
            owner.key, owner.next = owner.next, owner.next + "'"
        owner.seq, owner.debt, owner.balance, owner.waiting = owner.seq + 1, 0, rest, 0
        owner.spoke = max(owner.spoke, self.world.now)
        self.owners[to].waiting += amount

    def signed(self, operation: Any, signer: str, balance: int) -> SignedOperation | None:
        """Signed, with the digest of what would come of it: a forger knows how to compute that, too."""
        account, body = self.world.account_of(operation), operation.body
        changes = {"seq": operation.seq, "balance": balance, "debt": 0, "timestamp": operation.timestamp}
        if body.rotate is not None:
            changes |= {"key": body.rotate.key, "next_digest": body.rotate.next_digest}
        try:
            digest = accounts.account_digest(msgspec.structs.replace(account, **changes))
            return changed(with_fields(operation, body_digest=digest), signer)
        except OverflowError:
            return None

    @rule(name=NAME)
    def heartbeat(self, name: str) -> None:
        owner = self.owners[name]
        fee = 1 + owner.debt
        valid = owner.balance + owner.waiting >= fee
        if not valid:
            return
        self.attempt(changed(self.world.operation(name), owner.key), valid)
        owner.balance += owner.waiting - fee
        owner.seq, owner.debt, owner.waiting = owner.seq + 1, 0, 0
        owner.spoke = max(owner.spoke, self.world.now)

    # --- what happens to them -----------------------------------------------------------------------

    @rule(name=NAME, guardians=st.lists(st.sampled_from((*GUARDIANS, "mallory")), max_size=3), early=MOSTLY_0)
    def recover(self, name: str, guardians: list[str], early: int) -> None:
        owner, account = self.owners[name], self.world.account(name)
        when = owner.spoke + LEASE if early < 0 else self.world.now
        when -= early > 0
        key = f"{name} {owner.seq}"
        after = msgspec.structs.replace(
            account,
            seq=account.seq + 1,
            key=key_of(key).public,
            next_digest=key_digest(key_of(key + "'").public),
            timestamp=when,
        )
        operation = self.world.bare(
            name, when, Recover(after.key, after.next_digest, accounts.account_digest(after))
        )
        signed = self.by_guardians(operation, guardians)
        two = len(set(guardians)) == len(guardians) == 2 and "mallory" not in guardians
        soon = when - self.world.now <= DEVELOPMENT.clock_ahead_ms
        if self.attempt(signed, owner.seq > 0 and two and soon and when >= owner.spoke + LEASE) is not None:
            owner.key, owner.next, owner.spoke, owner.seq = key, key + "'", when, owner.seq + 1

    def by_guardians(self, operation: Any, guardians: list[str]) -> SignedOperation:
        raw = encode(operation)
        keys = sorted((key_of(name) for name in guardians), key=lambda key: key.public)
        return SignedOperation(raw, tuple(key.sign(SIGN_RECOVER, operation_id(raw)) for key in keys), None)

    @rule(name=NAME, asked=st.booleans())
    def void(self, name: str, asked: bool) -> None:
        """An owner signed twice and a justification shows it; or somebody just asks for a VOID."""
        owner = self.owners[name]
        if self.attempt(self.world.void(name), not asked, voted=asked) is not None:
            owner.seq, owner.debt = owner.seq + 1, owner.debt + VOID_DEBT

    @rule(ms=st.sampled_from([1, LEASE // 2, LEASE - 1, LEASE, 3 * LEASE]))
    def wait(self, ms: int) -> None:
        self.world.now += ms

    @rule(steps=st.integers(1, 5))
    def take_back_and_do_again(self, steps: int) -> None:
        state, world = self.world.state, self.world
        undos, root = self.undos[-steps:], world.state.root()
        if not undos:
            return
        done = [(undo, self.after(undo)) for undo in undos]
        for undo in reversed(undos):
            state.undo(undo)
            assert state.supply() == state.recount()
        for _, changes in done:
            state.commit(changes)
            state.operations += 1
        assert state.root() == root, "an operation was not taken back whole"

    def after(self, undo: Undo) -> Changes:
        """What an operation had made, read from the operations after it: the state where each stands now."""
        later = self.undos[self.undos.index(undo) + 1 :]
        state = self.world.state
        found = []
        for id_, _ in undo.accounts:
            newer = [dict(each.accounts)[id_] for each in later if id_ in dict(each.accounts)]
            account = newer[0] if newer else state.accounts[id_]
            assert account is not None
            found.append(account)
        gone = {id_: credit for each in later for id_, credit in each.consumed}
        made = tuple((id_, gone.get(id_) or state.credits[id_]) for id_ in undo.made)
        return Changes(tuple(found), (), made, tuple(id_ for id_, _ in undo.consumed), undo.burnt)

    # --- what must hold, always -----------------------------------------------------------------------

    @invariant()
    def v1_nothing_is_made_or_lost(self) -> None:
        state = self.world.state
        assert state.supply() == state.recount()
        assert state.supply().total == state.minted

    @invariant()
    def v2_the_accounts_are_what_the_oracle_says(self) -> None:
        for name, owner in self.owners.items():
            account = self.world.account(name)
            assert (account.seq, account.balance, account.debt) == (owner.seq, owner.balance, owner.debt), (
                name
            )
            assert account.key == key_of(owner.key).public
            assert account.next_digest == key_digest(key_of(owner.next).public)
            assert account.timestamp == owner.spoke
            assert sum(self.world.state.credits_of(account.id).values()) == owner.waiting


def run(examples: int, steps: int, *, shrink: bool) -> None:
    run_machine(Accounts, examples, steps, shrink=shrink)


def test_an_account_does_what_its_owner_or_its_guardians_may_and_nothing_else() -> None:
    run(100, 40, shrink=True)


# --- planted faults: each must be found ---------------------------------------------------------------


def keep_consumed_credits(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("ainp2p.ledger.rules.state.State._drop_credit", lambda self, id_: None)


def allow_zero(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("ainp2p.ledger.rules.operations._refuse_zero", lambda *_: None)


def accept_negative_amounts(patch: pytest.MonkeyPatch) -> None:
    def decode(raw: bytes) -> Operation:
        plain = msgpack.unpackb(raw)
        if plain[6][0] != 1:
            return msgspec.convert(plain, Operation)
        outs, plain[6][3] = tuple(Out(*out) for out in plain[6][3]), []
        operation = msgspec.convert(plain, Operation)
        return with_fields(operation, body_outs=outs)

    patch.setattr("ainp2p.ledger.rules.operations._decode_operation", decode)


def skip_sequence_numbers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("ainp2p.ledger.rules.state._refuse_slot", lambda *_: None)


def forget_the_debt(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(accounts, "minimum_fee", lambda account, locks, parameters: parameters.fee_floor)


def add_no_debt(patch: pytest.MonkeyPatch) -> None:
    original = accounts.after_void
    for where in ("ainp2p.ledger.rules.state.after_void", "ainp2p.ledger.rules.accounts.after_void"):
        patch.setattr(where, lambda account, debt, head: original(account, 0, head))


def ignore_the_lease(patch: pytest.MonkeyPatch) -> None:
    original = accounts.after_recover
    patch.setattr(
        "ainp2p.ledger.rules.state.after_recover",
        lambda account, *rest: original(msgspec.structs.replace(account, timestamp=0), *rest),
    )


def ask_one_guardian_less(patch: pytest.MonkeyPatch) -> None:
    original = accounts.verify_guardians
    patch.setattr(
        "ainp2p.ledger.rules.state.verify_guardians",
        lambda account, *rest: original(msgspec.structs.replace(account, m=account.m - 1), *rest),
    )


def ask_no_guardian(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("ainp2p.ledger.rules.state.verify_guardians", lambda *_: None)


def believe_every_owner(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("ainp2p.ledger.rules.state.verify", lambda *_: None)


def rotate_to_any_key(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("ainp2p.ledger.rules.accounts.key_digest", lambda key: _Anything())
    whose = lambda account, body: (body.rotate or account).key  # noqa: E731
    patch.setattr("ainp2p.ledger.rules.state.spending_key", whose)


class _Anything:
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = object.__hash__


def void_for_the_asking(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("ainp2p.ledger.rules.state.Void", type("Nothing", (), {}))
    patch.setattr("ainp2p.ledger.rules.state.State._rare_changes", _any_void)


def _any_void(self: Any, parsed: Any) -> Changes:
    operation, body = parsed.operation, parsed.operation.body
    account = self._account_before(operation, getattr(body, "inception", None))
    return Changes((accounts.after_void(account, VOID_DEBT, parsed.id),))


def undo_half(patch: pytest.MonkeyPatch) -> None:
    original = World().state.undo.__func__  # type: ignore[attr-defined]  # the plain function
    patch.setattr(
        "ainp2p.ledger.rules.state.State.undo",
        lambda self, undo: original(self, type(undo)(undo.accounts, undo.locks, (), (), undo.burnt, None)),
    )


MUTANTS = [
    keep_consumed_credits,
    allow_zero,
    accept_negative_amounts,
    skip_sequence_numbers,
    forget_the_debt,
    add_no_debt,
    ignore_the_lease,
    ask_one_guardian_less,
    ask_no_guardian,
    believe_every_owner,
    rotate_to_any_key,
    void_for_the_asking,
    undo_half,
]


@pytest.mark.parametrize("plant", MUTANTS, ids=lambda plant: plant.__name__)
def test_h2_a_mutant_account_is_caught(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises((AssertionError, KeyError)):
        run(2_000, 40, shrink=False)
