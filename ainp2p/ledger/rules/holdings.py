"""What one network holds after a set of final operations; `Changes` change it, and `Undo` takes them back.

No rule is looked at here; `ainp2p.ledger.rules.state` does that before anything is committed. No I/O but
for the ended Locks, which a store finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ainp2p.errors import NotYet
from ainp2p.ledger.rules.accounts import Account, unopened_account
from ainp2p.ledger.rules.changes import Changes, Credit, Supply, Undo
from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.rules.genesis import Genesis, Parameters
from ainp2p.ledger.rules.locks import Lock, is_bond
from ainp2p.ledger.rules.operations import credit_id
from ainp2p.ledger.rules.state_tree import ACCOUNT, BURNT, CREDIT, LOCK, SYSTEM, Leaf, StateTree
from ainp2p.ledger.rules.system import System, first_system
from ainp2p.protocol.codec import encode

_NO_CREDITS: dict[bytes, int] = {}


class Holdings:
    """Accounts, credits, Locks and the System, with the sums over them.

    Attributes:
        network: the network's id.
        minted: the genesis' supply.
        burnt: fees and burnt bonds so far, in uain.
        system: the System; `epoch` is its current epoch, `parameters` are those of each epoch so far.
        operations: how many were applied.
        locks: the open ones, and those ended ones that `release` has not been told of.
        ended_lock: finds an ended Lock that was released (on disk); without one, none is ever forgotten.
    """

    def __init__(self, genesis: Genesis, *, grants: bool = True) -> None:
        """The state at genesis; without `grants` for a store, which knows what became of them."""
        self.network = genesis.network_id
        self.minted = genesis.supply
        self.burnt = 0
        self._genesis = genesis
        self.system = first_system(genesis, self.network)
        self.epoch = 0
        self.parameters: dict[int, Parameters] = {0: genesis.parameters}
        self._committees: dict[int, Committee] = {0: Committee.of(genesis)}
        self.operations = 0
        self.accounts: dict[bytes, Account] = {}
        self.locks: dict[bytes, Lock] = {}
        self.credits: dict[bytes, Credit] = {}
        self.ended_lock: Callable[[bytes], Lock | None] | None = None
        self._inbox: dict[bytes, dict[bytes, int]] = {}  # account → its credits: id → uain
        self._bonds: dict[bytes, None] = {}  # the open Locks among `locks` that are bonds
        self._balances = self._in_credits = self._in_locks = 0  # uain
        for index, grant in enumerate(genesis.grants if grants else ()):
            owner = unopened_account(self.network, grant.inception).id
            self.add_credit(credit_id(self.network, index), Credit(owner, grant.amount))

    # --- looking ------------------------------------------------------------------------------

    def credits_of(self, account: bytes) -> dict[bytes, int]:
        """The unconsumed credits of an account: id → uain. A copy."""
        return dict(self._inbox.get(account, _NO_CREDITS))

    def count_credits(self, account: bytes) -> int:
        """How many unconsumed credits an account has."""
        return len(self._inbox.get(account, _NO_CREDITS))

    def head(self, object_: bytes) -> tuple[int, bytes]:
        """(seq, head) of an object; (0, its own id) before its first operation."""
        found = self.accounts.get(object_) or self.locks.get(object_)
        if found is None:
            if object_ == self.network:
                return self.system.seq, self.system.head
            found = self._ended(object_)
        return (found.seq, found.head) if found is not None else (0, object_)

    def find_lock(self, id_: bytes) -> Lock | None:
        """A Lock, open or ended; None if none with this id was ever opened (or it was pruned)."""
        return self.locks.get(id_) or self._ended(id_)

    def _ended(self, id_: bytes) -> Lock | None:
        return self.ended_lock(id_) if self.ended_lock is not None else None

    def committee(self, epoch: int) -> Committee:
        """The committee of an epoch that has begun.

        Raises:
            NotYet: rule ``"epoch-ahead"``.
        """
        found = self._committees.get(epoch)
        if found is None:
            raise NotYet("epoch-ahead", f"{epoch}, the current one is {self.epoch}")
        return found

    def supply(self) -> Supply:
        """Where all uain are, as `commit` has kept count."""
        return Supply(self._balances, self._in_credits, self._in_locks, self.burnt)

    def recount(self) -> Supply:
        """The same, counted object by object: for audits."""
        return Supply(
            balances=sum(account.balance for account in self.accounts.values()),
            credits=sum(credit.amount for credit in self.credits.values()),
            locks=sum(lock.held for lock in self.locks.values()),
            burnt=self.burnt,
        )

    def tree(self) -> StateTree:
        """The Merkle tree over everything, for proofs; takes as long as there are objects."""
        leaves = [Leaf(SYSTEM, self.network, encode(self.system))]
        leaves += [Leaf(ACCOUNT, id_, encode(account)) for id_, account in self.accounts.items()]
        leaves += [Leaf(LOCK, id_, encode(lock)) for id_, lock in self.locks.items() if not lock.ended]
        leaves += [Leaf(CREDIT, id_, encode(credit)) for id_, credit in self.credits.items()]
        leaves.append(Leaf(BURNT, self.network, encode(self.burnt)))
        return StateTree(leaves)

    def root(self) -> bytes:
        """A digest of everything: equal sets of operations give equal roots."""
        return self.tree().root

    # --- commit: nothing here can fail ----------------------------------------------------------

    def commit(self, changes: Changes) -> None:
        """Take over what was computed (or stored) before."""
        for account in changes.accounts:
            before = self.accounts.get(account.id)
            self._balances += account.balance if before is None else account.balance - before.balance
            self.accounts[account.id] = account
        for lock in changes.locks:
            self._put_lock(lock)
        for id_ in changes.consumed:
            self._drop_credit(id_)
        for id_, credit in changes.made:
            self.add_credit(id_, credit)
        self.burnt += changes.burnt
        if changes.system is not None:
            self.take_system(changes.system)

    def undo(self, undo: Undo) -> None:
        """Take back the last operation that was applied and not taken back yet."""
        self.burnt -= undo.burnt
        for id_ in undo.made:
            self._drop_credit(id_)
        for id_, credit in undo.consumed:
            self.add_credit(id_, credit)
        for id_, lock in undo.locks:
            if lock is not None:
                self._put_lock(lock)
            else:
                self._in_locks -= self.locks.pop(id_).held
                self._bonds.pop(id_, None)
        for id_, account in undo.accounts:
            if account is not None:
                self.commit(Changes((account,)))
            else:
                self._balances -= self.accounts.pop(id_).balance
        if undo.system is not None:
            if undo.system.epoch < self.epoch:
                del self.parameters[self.epoch], self._committees[self.epoch]
            self.take_system(undo.system)
        self.operations -= 1

    def release(self, locks: Iterable[Lock]) -> None:
        """Forget those of these Locks that have ended, if `ended_lock` finds them from now on."""
        for lock in locks:
            if lock.ended and self.ended_lock is not None:
                self.locks.pop(lock.id, None)

    def add_credit(self, id_: bytes, credit: Credit) -> None:
        """Put one credit before its addressee."""
        self.credits[id_] = credit
        self._inbox.setdefault(credit.account, {})[id_] = credit.amount
        self._in_credits += credit.amount

    def take_system(self, system: System) -> None:
        """Put the System where an operation (or a store) says."""
        self.system, self.epoch = system, system.epoch
        self.add_epoch(system.epoch, Committee.of_seats(system.committee), system.parameters)

    def add_epoch(self, epoch: int, committee: Committee, parameters: Parameters) -> None:
        """Remember who decided in an epoch, and by which parameters."""
        self._committees[epoch], self.parameters[epoch] = committee, parameters

    def _put_lock(self, lock: Lock) -> None:
        before = self.locks.get(lock.id)
        self.locks[lock.id] = lock
        if before is not None and not lock.ended and not before.ended and len(lock.beneficiaries) == 1:
            self._in_locks -= lock.paid - before.paid  # nearly always: the rest of this is slower
            return
        self._in_locks += lock.held - (before.held if before is not None else 0)
        if is_bond(lock):
            if lock.ended:
                self._bonds.pop(lock.id, None)
            else:
                self._bonds[lock.id] = None

    def _drop_credit(self, id_: bytes) -> None:
        credit = self.credits.pop(id_)
        self._in_credits -= credit.amount
        inbox = self._inbox[credit.account]
        del inbox[id_]
        if not inbox:
            del self._inbox[credit.account]

    def _undo_of(self, changes: Changes) -> Undo:
        return Undo(
            tuple([(account.id, self.accounts.get(account.id)) for account in changes.accounts]),
            tuple([(lock.id, self.locks.get(lock.id)) for lock in changes.locks]),
            tuple([id_ for id_, _ in changes.made]),
            tuple([(id_, self.credits[id_]) for id_ in changes.consumed]),
            changes.burnt,
            self.system if changes.system is not None else None,
        )
