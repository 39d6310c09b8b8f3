"""Hypothesis chooses what is decided, when epochs change, when pruning gets on and when the process dies."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ainp2p.ledger.rules.receipts import close_operation, settle_operation
from ainp2p.ledger.voting import pruning, validator_store

from .pruned import Pair
from .voting.test_pruning import prove_everything
from .world import NAMES, key_of

PEOPLE = st.sampled_from(NAMES)


class Pruning(RuleBasedStateMachine):
    """One disk is pruned and one is not; both are asked the same."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.operations = pruning.ROWS, pruning.OPERATIONS
        self.steps = validator_store._IDLE_STEPS
        pruning.ROWS, pruning.OPERATIONS, validator_store._IDLE_STEPS = 2, 3, 1
        self.directory = Path(tempfile.mkdtemp())
        self.pair = Pair(self.directory)

    def teardown(self) -> None:
        self.pair.close()
        pruning.ROWS, pruning.OPERATIONS = self.rows, self.operations
        validator_store._IDLE_STEPS = self.steps
        shutil.rmtree(self.directory)

    @rule(payer=PEOPLE, payee=PEOPLE, amount=st.integers(1, 50))
    def pay(self, payer: str, payee: str, amount: int) -> None:
        self.pair.decide(self.pair.world.spend(payer, [(payee, amount)]))

    @rule(payee=PEOPLE)
    def deposit(self, payee: str) -> None:
        world = self.pair.world
        self.pair.decide(world.spend("alice", locks=[world.terms(payee, expiry=world.now + 3_600_000)]))

    @property
    def open_locks(self) -> list[bytes]:
        return sorted(id_ for id_, lock in self.pair.world.state.locks.items() if not lock.ended)

    @precondition(lambda self: self.open_locks)
    @rule(data=st.data(), more=st.integers(10, 300))
    def settle(self, data: st.DataObject, more: int) -> None:
        world = self.pair.world
        lock = world.state.locks[data.draw(st.sampled_from(self.open_locks))]
        if lock.paid + more <= lock.deposit:
            self.pair.decide(settle_operation(lock, world.receipt(lock, lock.paid + more)))

    @precondition(lambda self: self.open_locks)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        world = self.pair.world
        lock = world.state.locks[data.draw(st.sampled_from(self.open_locks))]
        closer = next(key_of(name) for name in NAMES if key_of(name).public == lock.closer)
        self.pair.decide(close_operation(world.network, lock, None, closer))

    @rule()
    def turn(self) -> None:
        self.pair.turn()

    @rule(times=st.integers(1, 8))
    def write_nothing(self, times: int) -> None:
        for _ in range(times):
            self.pair.idle_once()

    @rule()
    def prune_all(self) -> None:
        self.pair.idle()

    @rule()
    def restart(self) -> None:
        root = self.pair.world.state.root()
        assert self.pair.pruned.reopen().root() == self.pair.archive.reopen().root() == root

    @invariant()
    def balances_are_the_same(self) -> None:
        pruned, archive = (disk.store.load(verify=False) for disk in self.pair.disks)
        assert pruned.root() == archive.root() == self.pair.world.state.root()
        assert pruned.supply() == archive.supply()
        assert self.pair.pruned.journal.heads() == self.pair.archive.journal.heads()

    @invariant()
    def everything_is_proven(self) -> None:
        prove_everything(self.pair)


TestPruning = Pruning.TestCase
TestPruning.settings = settings(
    max_examples=12, stateful_step_count=14, deadline=None, suppress_health_check=list(HealthCheck)
)
