"""Locks and bonds in any order of events, right and wrong, across epochs; an oracle keeps books of its own.

The oracle pays with fractions: whatever was settled in whatever steps, each beneficiary has just what one
settlement of the whole would have brought, and the payer all the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ainp2p.errors import Error, LedgerError, StorageError
from ainp2p.ledger.database import Database
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.operations import (
    BOND_PURPOSE,
    ParsedOperation,
    Settle,
    Share,
    SignedOperation,
    parse,
)
from ainp2p.ledger.rules.receipts import (
    SIGN_RECEIPT,
    Receipt,
    close_operation,
    refund_operation,
    settle_operation,
    sign_receipt,
)
from ainp2p.ledger.rules.state import Changes, State
from ainp2p.ledger.rules.system import epoch_ends_at
from ainp2p.ledger.store import Decided, Store
from ainp2p.protocol.codec import encode
from tests.ledger.machines import run_machine

from .world import NAMES, PURSE, World, key_of

NAME = st.sampled_from(NAMES)
JUDGES = ("judge 1", "judge 2", "judge 3")
PARTS = st.lists(st.sampled_from([1, 1, 2, 3, 7, 97, 2**40]), min_size=1, max_size=3)
MORE = st.sampled_from([1, 7, 33, 50, 100, 333, 1_000, 2_500, 0, -1, 6_000])
SMALL = st.integers(0, 60)
VALIDATORS = (("v1", 10), ("v2", 10), ("v3", 10))  # 3,000,000 uain are as much as 30: 100,000 bond one


@dataclass
class Deposit:
    """What the oracle knows of a Lock."""

    payer: str
    parts: list[tuple[str, int]]
    deposit: int
    step: int
    expiry: int
    judged: bool
    bond: str = ""  # the validator
    paid: int = 0
    ended: bool = False
    burnt: bool = False
    got: dict[str, int] = field(default_factory=dict)  # by beneficiaries

    @property
    def held(self) -> int:
        return 0 if self.ended else self.deposit - sum(self.got.values())


class Locks(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World(validators=VALIDATORS)
        self.world.state.check_committee = lambda parsed: None
        self.book: dict[bytes, Deposit] = {}
        self.barred: set[str] = set()

    def attempt(self, signed: SignedOperation, valid: bool) -> Changes | None:
        world = self.world
        root, before = world.state.root(), {name: world.wealth(name) for name in NAMES}
        try:
            parsed = parse(signed)
            world.state.check(parsed, world.now)
            changes = world.state.apply(parsed)
        except Error:
            assert not valid, "what must be valid was refused"
            assert world.state.root() == root, "a refusal changed the state"
            return None
        assert valid, "what must be refused was done"
        self.decided(parsed, changes)
        if not isinstance(parsed.operation.body, Settle):
            return changes
        (lock,) = changes.locks
        payer = self.book[lock.id].payer
        assert all(world.wealth(name) >= before[name] for name in NAMES if name != payer), "another lost"
        return changes

    def decided(self, parsed: ParsedOperation, changes: Changes) -> None:
        """For a node that keeps what was decided."""

    def pick(self, index: int) -> tuple[bytes, Deposit, Lock] | None:
        if not self.book:
            return None
        id_ = sorted(self.book)[index % len(self.book)]
        lock = self.world.state.find_lock(id_)
        assert lock is not None
        return id_, self.book[id_], lock

    def pay(self, kept: Deposit, cumulative: int) -> None:
        """Each part by itself, whole: ⌊cumulative·pᵢ/P⌋ in all."""
        total = sum(parts for _, parts in kept.parts)
        kept.paid = cumulative
        kept.got = {name: cumulative * parts // total for name, parts in kept.parts}

    # --- what people do -----------------------------------------------------------------------------

    @rule(
        payer=NAME, deposit=st.integers(1, 5_000), step=st.integers(1, 50), parts=PARTS, judged=st.booleans()
    )
    def open(self, payer: str, deposit: int, step: int, parts: list[int], judged: bool) -> None:
        world = self.world
        shares = sorted(
            (Share(world.ids[name], part) for name, part in zip(NAMES, parts, strict=False)),
            key=lambda share: share.account,
        )
        names = JUDGES if judged else (payer,)
        terms = world.terms(
            payer,
            beneficiaries=tuple(shares),
            deposit=deposit,
            step=step,
            authority=tuple(sorted(key_of(name).public for name in names)),
            threshold=2 if judged else 1,
        )
        self.open_with(payer, terms, list(zip(NAMES, parts, strict=False)), judged)

    def open_with(self, payer: str, terms: Any, parts: list[Any], judged: bool, bond: str = "") -> None:
        try:
            signed = self.world.spend(payer, locks=[terms])
        except LedgerError:
            return  # too poor
        changes = self.attempt(signed, True)
        assert changes is not None
        (lock,) = changes.locks
        self.book[lock.id] = Deposit(payer, parts, terms.deposit, terms.step, terms.expiry, judged, bond)

    @rule(index=SMALL, more=MORE, signers=st.integers(0, 7), by=st.sampled_from(["", "", "closer", "late"]))
    def settle_or_close(self, index: int, more: int, signers: int, by: str) -> None:
        """`signers`: which of the judges sign; for a channel 1 is its payer, else somebody."""
        picked = self.pick(index)
        if picked is None:
            return
        _, kept, lock = picked
        names = [name for n, name in enumerate(JUDGES) if signers >> n & 1]
        if not kept.judged:
            names = [kept.payer] if signers else ["mallory"]
        cumulative = max(kept.paid + more, 0)
        receipt = Receipt(self.world.network, lock.id, cumulative, 1, b"c" * 32)
        keys = sorted((key_of(name) for name in names), key=lambda key: key.public)
        signed = settle_operation(lock, sign_receipt(receipt, key_of(kept.payer)))
        if by:
            close = close_operation(
                self.world.network,
                msgspec.structs.replace(lock, paid=0),
                sign_receipt(msgspec.structs.replace(receipt, cumulative=max(cumulative, 1)), key_of("x")),
                key_of(kept.bond or kept.payer) if by == "closer" else None,
            )
            if cumulative == 0:
                return
            signed = close
        signed = msgspec.structs.replace(
            signed, signatures=tuple(key.sign(SIGN_RECEIPT, encode(receipt)) for key in keys)
        )
        signs = len(names) == 2 if kept.judged else names == [kept.payer]
        enough = cumulative - kept.paid >= kept.step or cumulative == kept.deposit or by != ""
        valid = (
            signs
            and enough
            and not kept.ended
            and not kept.bond
            and kept.paid < cumulative <= kept.deposit
            and (by != "late" or self.world.now >= kept.expiry)
        )
        if self.attempt(signed, valid) is not None:
            self.pay(kept, cumulative)
            kept.ended = by != ""

    @rule(index=SMALL, mores=st.lists(st.sampled_from([1, 7, 33, 50, 100, 333]), min_size=1, max_size=4))
    def settle_step_by_step(self, index: int, mores: list[int]) -> None:
        for more in mores:
            picked = self.pick(index)
            if picked is not None and not picked[1].bond:
                self.settle_or_close(index, max(more, picked[1].step), 5, "")

    @rule(index=SMALL, bare=st.booleans())
    def end(self, index: int, bare: bool) -> None:
        picked = self.pick(index)
        if picked is None:
            return
        _, kept, lock = picked
        now, closer = self.world.now, key_of(kept.bond or kept.payer)
        end = refund_operation(self.world.network, lock)
        if bare:
            end = close_operation(self.world.network, lock, None, closer)
        if self.attempt(end, not kept.ended and not kept.bond and (bare or now >= kept.expiry)) is not None:
            kept.ended = True

    @rule(ms=st.sampled_from([1, 30_000, 61_000]))
    def wait(self, ms: int) -> None:
        self.world.now += ms

    # --- bonds and epochs -----------------------------------------------------------------------------

    @rule(
        payer=NAME,
        validator=st.sampled_from(["v1", "v4", "v5"]),
        deposit=st.sampled_from([1, 99_999, 100_000, 250_000]),
        life=st.sampled_from([1, 3_600_000]),
    )
    def bond(self, payer: str, validator: str, deposit: int, life: int) -> None:
        world = self.world
        terms = world.terms(
            payer,
            deposit=deposit,
            step=deposit,
            authority=(world.network,),
            purpose=BOND_PURPOSE,
            closer=key_of(validator).public,
            expiry=max(world.now, world.account(payer).timestamp) + life,
        )
        self.open_with(payer, terms, [(payer, 1)], False, validator)

    @rule(
        offender=st.sampled_from(["", "", "v3", "v4", "v5"]),
        wrong=st.sampled_from(["", "", "", "keep", "take"]),
    )
    def change_epoch(self, offender: str, wrong: str) -> None:
        """`wrong`: an offender's bonds are given back, or somebody's is taken."""
        world = self.world
        world.now = max(world.now, epoch_ends_at(world.state.system))
        if not world.state.system.closed:
            assert self.attempt(world.end_epoch(), True) is not None
        offenders = [offender] if offender and offender not in self.barred else []
        open_bonds = {id_: kept for id_, kept in self.book.items() if kept.bond and not kept.ended}
        out = self.barred | set(offenders)
        guilty = sorted(id_ for id_, kept in open_bonds.items() if kept.bond in out)
        good = sorted(id_ for id_, kept in open_bonds.items() if kept.bond not in out)
        fields: dict[str, Any] = {}
        if wrong == "keep" and guilty:
            fields = {"burnt_bonds": (), "returned_bonds": tuple(guilty[:1])}
        elif wrong == "take" and good:
            fields = {"burnt_bonds": tuple(good[:1]), "returned_bonds": ()}
        changes = self.attempt(world.next_committee("v1", offenders, **fields), not fields)
        if changes is None:
            return
        self.barred = out
        for id_, kept in open_bonds.items():
            if id_ in guilty:
                kept.ended = kept.burnt = True
            elif kept.expiry <= world.now:
                kept.ended = True
        expected = dict.fromkeys(("v1", "v2", "v3"), 10)
        bonded: dict[str, int] = {}
        for kept in self.book.values():
            if kept.bond and not kept.ended:
                bonded[kept.bond] = bonded.get(kept.bond, 0) + kept.deposit
        for name, amount in bonded.items():
            expected[name] = expected.get(name, 0) + amount // 100_000
        seats = {seat.key: seat.weight for seat in world.state.system.committee}
        assert seats == {
            key_of(name).public: weight for name, weight in expected.items() if weight and name not in out
        }

    # --- what must hold, always -----------------------------------------------------------------------

    @invariant()
    def v1_nothing_is_made_or_lost(self) -> None:
        state = self.world.state
        assert state.supply() == state.recount()
        assert state.supply().total == state.minted

    @invariant()
    def v2_the_locks_are_what_the_oracle_says(self) -> None:
        for id_, kept in self.book.items():
            lock = self.world.state.find_lock(id_)
            assert lock is not None
            assert (lock.paid, bool(lock.ended), lock.held) == (kept.paid, kept.ended, kept.held)
            assert 0 <= lock.paid <= lock.deposit

    @invariant()
    def v9_everybody_has_what_the_oracle_says(self) -> None:
        """Shares by the whole, the rest with dust to the payer; only fees and guilty bonds are burnt."""
        book = self.book.values()
        for name in NAMES:
            got = sum(kept.got.get(name, 0) for kept in book)
            gave = sum(sum(kept.got.values()) for kept in book if kept.payer == name)
            lost = sum(kept.deposit for kept in book if kept.payer == name and kept.burnt)
            assert self.world.wealth(name) == PURSE + got - gave - lost - self.fees(name), name

    def fees(self, name: str) -> int:
        """Floor and settling fees of all that this account did, from its own history."""
        spends = self.world.account(name).seq
        locks = [kept for kept in self.book.values() if kept.payer == name]
        return spends + sum(kept.deposit // kept.step + 2 for kept in locks)


class StoredLocks(Locks):
    """The same on a node with a disk, which forgets ended Locks and is restarted now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.database = Database(Path(":memory:"))
        self.store = Store(self.database, self.world.genesis)
        self.world.state.ended_lock = self.store.ended_lock

    def decided(self, parsed: ParsedOperation, changes: Changes) -> None:
        self.store.commit([Decided(parsed, changes)])
        self.world.state.release(changes.locks)
        assert not any(lock.ended for lock in self.world.state.locks.values())

    @rule(verify=st.booleans())
    def restart(self, verify: bool) -> None:
        """LEDGER.md, 9: "Replaying the operations gives the tables"."""
        before, self.world.state = self.world.state, self.store.load(verify=verify)
        self.world.state.check_committee = lambda parsed: None
        assert self.world.state.root() == before.root()
        assert self.world.state.operations == before.operations

    def teardown(self) -> None:
        self.restart(True)
        self.database.close()


def run(examples: int, steps: int, *, shrink: bool, machine: type[Locks] = Locks) -> None:
    run_machine(machine, examples, steps, shrink=shrink)


def test_a_lock_pays_what_its_receipts_say_and_everybody_has_the_right_share() -> None:
    run(100, 40, shrink=True)


def test_a_restarted_node_goes_on_as_if_nothing_had_happened() -> None:
    run(40, 40, shrink=True, machine=StoredLocks)


# --- planted faults: each must be found ---------------------------------------------------------------


def accumulate_roundings(patch: pytest.MonkeyPatch) -> None:
    """Each step rounded by itself: after many small ones a beneficiary lacks what one would have brought."""

    def payments(lock: Lock, cumulative: int, context: bytes) -> list[tuple[int, bytes, int]]:
        total = sum(share.parts for share in lock.beneficiaries)
        more = cumulative - lock.paid
        each = [(n, s.account, more * s.parts // total) for n, s in enumerate(lock.beneficiaries)]
        return [payment for payment in each if payment[2]]

    patch.setattr("ainp2p.ledger.rules.locks._payments", payments)


def keep_the_dust(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        "ainp2p.ledger.rules.locks._rest",
        lambda lock, paid: (
            [(len(lock.beneficiaries), lock.payer, lock.deposit - paid)] if lock.deposit > paid else []
        ),
    )


def look_at_no_amount(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("ainp2p.ledger.rules.locks._refuse_amount", lambda *_: None)


def look_at_no_expiry(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("ainp2p.ledger.rules.state.is_gated", lambda parsed: False)


def believe_any_receipt(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("ainp2p.ledger.rules.state.verify_receipt", lambda *_: None)


def let_anybody_end_bonds(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("ainp2p.ledger.rules.state.BOND_PURPOSE", b"")


def return_bonds_to_offenders(patch: pytest.MonkeyPatch) -> None:
    original = State.succession

    def succession(self: State, offenders: Any, timestamp: int) -> Any:
        says = original(self, offenders, timestamp)
        return type(says)(says.seats, (), ())

    patch.setattr(State, "succession", succession)


def forgive_the_barred(patch: pytest.MonkeyPatch) -> None:
    original = State.succession

    def succession(self: State, offenders: Any, timestamp: int) -> Any:
        self.system = msgspec.structs.replace(self.system, barred=())
        return original(self, offenders, timestamp)

    patch.setattr(State, "succession", succession)


def burn_nothing(patch: pytest.MonkeyPatch) -> None:
    original = State.commit

    def commit(self: State, changes: Changes) -> None:
        original(self, msgspec.structs.replace(changes, burnt=0) if changes.locks else changes)

    patch.setattr(State, "commit", commit)


MUTANTS = [
    accumulate_roundings,
    keep_the_dust,
    look_at_no_amount,
    look_at_no_expiry,
    believe_any_receipt,
    let_anybody_end_bonds,
    return_bonds_to_offenders,
    forgive_the_barred,
    burn_nothing,
]


@pytest.mark.parametrize("plant", MUTANTS, ids=lambda plant: plant.__name__)
def test_h2_a_mutant_lock_is_caught(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        run(2_000, 40, shrink=False)


def forget_the_system(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Store, "_write_system", lambda self, systems: None)


def forget_what_has_ended(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Store, "ended_lock", lambda self, id_: None)


def leave_ended_locks_open(patch: pytest.MonkeyPatch) -> None:
    original = Store._write

    def write(self: Store, batch: Any) -> None:
        original(self, batch)
        ended = [lock for decided in batch for lock in decided.changes.locks if lock.ended]
        rows = [(lock.id, encode(msgspec.structs.replace(lock, ended=0))) for lock in ended]
        self.database.executemany("INSERT OR REPLACE INTO ledger_locks VALUES (?, ?)", rows)

    patch.setattr(Store, "_write", write)


@pytest.mark.parametrize(
    "plant",
    [forget_the_system, forget_what_has_ended, leave_ended_locks_open],
    ids=lambda plant: plant.__name__,
)
def test_h2_a_mutant_store_is_caught(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises((AssertionError, StorageError)):
        run(40, 40, shrink=False, machine=StoredLocks)
