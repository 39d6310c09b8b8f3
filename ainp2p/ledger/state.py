"""All objects of one network in memory, and the rules of LEDGER.md's table of operations.

`check` says whether a validator may vote for an operation now; `apply` changes the state once it is
final. An operation touches its own object and the credits that it consumes, nothing else. No I/O, no
clock; the gates (D, G), HANDOFFs and evidence are the validator's matter.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from ainp2p.errors import InvalidOperation, NotYet
from ainp2p.ledger.accounts import (
    Account,
    account_digest,
    after_recover,
    after_spend,
    after_void,
    spending_key,
    unopened_account,
    verify_guardians,
)
from ainp2p.ledger.amounts import checked_sum
from ainp2p.ledger.changes import Changes as Changes
from ainp2p.ledger.changes import Credit as Credit
from ainp2p.ledger.changes import Supply as Supply
from ainp2p.ledger.changes import Undo as Undo
from ainp2p.ledger.committee import Committee, Succession, succession
from ainp2p.ledger.genesis import Genesis, Parameters
from ainp2p.ledger.locks import (
    Lock,
    Payment,
    after_bond,
    after_close,
    after_refund,
    after_settle,
    is_bond,
    open_lock,
    refuse_ended,
)
from ainp2p.ledger.operations import (
    BOND_PURPOSE,
    SIGN_CLOSE,
    SIGN_COMMITTEE,
    SIGN_OPERATION,
    Close,
    EndEpoch,
    Inception,
    NextCommittee,
    Operation,
    ParsedOperation,
    Recover,
    Refund,
    Settle,
    Spend,
    Void,
    credit_id,
)
from ainp2p.ledger.receipts import Receipt, verify_receipt
from ainp2p.ledger.state_tree import ACCOUNT, BURNT, CREDIT, LOCK, SYSTEM, Leaf, StateTree
from ainp2p.ledger.system import System, after_committee, after_end_epoch, epoch_ends_at, first_system
from ainp2p.protocol.codec import encode
from ainp2p.protocol.identity import verify

_NO_CREDITS: dict[bytes, int] = {}
_ON_LOCK = (Settle, Close, Refund)
_GATED = (Refund, Recover, EndEpoch)


def is_gated(parsed: ParsedOperation) -> bool:
    """Whether a validator must hold this operation for D and be in contact for G before it votes."""
    body = parsed.operation.body
    if isinstance(body, Close):
        return parsed.signed.closer is None
    return isinstance(body, _GATED)


class State:
    """Accounts, credits, Locks and the System after a set of final operations.

    Attributes:
        network: the network's id.
        minted: the genesis' supply.
        burnt: fees and burnt bonds so far, in uain.
        system: the System; `epoch` is its current epoch, `parameters` are those of each epoch so far.
        operations: how many were applied.
        locks: the open ones, and those ended ones that `release` has not been told of.
        ended_lock: finds an ended Lock that was released (on disk); without one, none is ever forgotten.
        check_committee: judges what this state cannot know of a COMMITTEE before it is voted for (state root,
            seats, bonds, offenders against HANDOFFs and evidence), and raises as `check` does. Without
            one no COMMITTEE is ever voted for.
        agreed_parameters: what the next COMMITTEE may change the parameters to; None: they stay.
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
        self.check_committee: Callable[[ParsedOperation], None] | None = None
        self.agreed_parameters: Parameters | None = None
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

    def not_before(self, operation: Operation) -> int:
        """From when on (ms) a gated operation on a Lock or the System is valid in time; else 0."""
        if operation.object == self.network:
            return epoch_ends_at(self.system) if isinstance(operation.body, EndEpoch) else 0
        lock = self.locks.get(operation.object)
        return lock.expiry if lock is not None else 0

    def succession(self, offenders: Collection[bytes], timestamp: int) -> Succession:
        """What a COMMITTEE of this time must say if this is the state after the union of its HANDOFFs.

        Args:
            offenders: keys that the evidence it names proves to have offended.

        Raises:
            InvalidOperation: rule ``"committee"``, nobody would be left.
        """
        out = {*self.system.barred, *offenders}
        bonds = [self.locks[id_] for id_ in self._bonds]
        return succession(self._genesis, self.system.committee, bonds, out, timestamp)

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

    # --- validity -----------------------------------------------------------------------------

    def check(self, parsed: ParsedOperation, now_ms: int, *, proof_verified: bool = False) -> Changes:
        """Whether this operation is the valid next one of its object, now; returns what it would change.

        A proof that was verified once for an operation's `previous` stays good, since `previous` pins the
        keys: pass `proof_verified` on a second look. Its signatures are verified before any `NotYet` other
        than those of an object or a slot that is not there yet.

        Raises:
            NotYet: keep it and ask again: rules ``"unknown-account"``, ``"unknown-lock"``,
                ``"sequence-ahead"``, ``"epoch-ahead"``, ``"clock-ahead"``, ``"unknown-credit"``
                (or consumed long ago), ``"not-expired"``, ``"epoch-running"``, ``"handoffs"`` (nobody is
                there to judge a COMMITTEE), ``"unknown-bond"``.
            InvalidOperation, InsufficientFunds: it will never be valid in this slot.
            BadSignature: its proof does not fit.
        """
        if not proof_verified:
            self.verify_proof(parsed)
        changes = self._changes(parsed)
        self._refuse_early(parsed, now_ms)
        if changes.system is not None:
            self._refuse_unvoted(parsed)
        elif changes.accounts and isinstance(parsed.operation.body, Void):
            # LEDGER.md, VOID: "two conflicting operations signed by the owner's current key". Who has a
            # justification with both makes the only VOID there can be (`accounts.void`) and compares.
            raise InvalidOperation("void", "never by itself: only two operations of its owner make it valid")
        return changes

    def verify_proof(self, parsed: ParsedOperation) -> None:
        """Check the signatures against the object's keys, as they are at `previous`.

        Raises:
            NotYet, InvalidOperation: this is not the object's next operation.
            BadSignature: a signature does not fit.
        """
        operation, signed = parsed.operation, parsed.signed
        body = operation.body
        if isinstance(body, Spend):
            account = self._account_before(operation, body.inception)
            verify(spending_key(account, body), SIGN_OPERATION, parsed.id, signed.signatures[0])
            return
        if not isinstance(body, _ON_LOCK):
            self._verify_rare_proof(parsed)
            return
        lock = self._lock_before(operation)
        if not isinstance(body, Settle | Close):
            return
        if signed.closer is not None:
            verify(lock.closer, SIGN_CLOSE, parsed.id, signed.closer)
        if body.context:
            receipt = Receipt(self.network, lock.id, body.cumulative, body.units, body.context)
            verify_receipt(lock, encode(receipt), signed.signatures)

    def _verify_rare_proof(self, parsed: ParsedOperation) -> None:
        operation, body, signatures = parsed.operation, parsed.operation.body, parsed.signed.signatures
        if isinstance(body, Recover):
            verify_guardians(self._account_before(operation, None), parsed.id, signatures)
        elif isinstance(body, NextCommittee):
            self._system_before(operation)
            verify(body.proposer, SIGN_COMMITTEE, parsed.id, signatures[0])  # a member: `after_committee`

    def apply(
        self, parsed: ParsedOperation, checked: Changes | None = None, undos: list[Undo] | None = None
    ) -> Changes:
        """Change the state by a final operation: refuse, compute, commit.

        Its certificate stands in for signatures and clocks, which are not looked at here; all other rules
        hold. A repeat of the object's head changes nothing. `checked` is what `check` returned for it: while
        the object's head is the operation's `previous`, nothing that it depends on can have changed. What it
        replaces is added to `undos`, if given.

        Raises:
            NotYet: apply what it depends on first.
            InvalidOperation, InsufficientFunds: it is not valid; no state changed.
        """
        operation = parsed.operation
        seq, head = self.head(operation.object)
        if (seq, head) == (operation.seq, parsed.id):
            return Changes()
        unmoved = seq + 1 == operation.seq and head == operation.previous
        changes = checked if checked is not None and unmoved else self._changes(parsed)
        if undos is not None:
            undos.append(self._undo_of(changes))
        self.commit(changes)
        self.operations += 1
        return changes

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

    # --- compute --------------------------------------------------------------------------------

    def _changes(self, parsed: ParsedOperation) -> Changes:
        body = parsed.operation.body
        if isinstance(body, Spend):
            return self._spend(parsed, body)
        if isinstance(body, Settle):
            after, payments = after_settle(self._lock_before(parsed.operation), body, parsed.id)
        elif isinstance(body, Close):
            after, payments = after_close(self._lock_before(parsed.operation), body, parsed.id)
        elif isinstance(body, Refund):
            after, payments = after_refund(self._lock_before(parsed.operation), parsed.id)
        else:
            return self._rare_changes(parsed)
        return Changes((), (after,), _credits(parsed.id, payments))

    def _rare_changes(self, parsed: ParsedOperation) -> Changes:
        operation, body = parsed.operation, parsed.operation.body
        if isinstance(body, Recover):
            account = self._account_before(operation, None)
            lease_min = self.parameters[account.epoch].lease_ms_min
            after = after_recover(account, operation, body, lease_min, parsed.id)
        elif isinstance(body, Void):
            account = self._account_before(operation, body.inception)
            after = after_void(account, self.parameters[0].void_debt, parsed.id)
        else:
            return self._system_changes(parsed)
        if account_digest(after) != body.digest:
            raise InvalidOperation("digest", "of the account's state after it is another")
        return Changes((after,))

    def _system_changes(self, parsed: ParsedOperation) -> Changes:
        operation, body = parsed.operation, parsed.operation.body
        system = self._system_before(operation)
        if isinstance(body, EndEpoch):
            return Changes(system=after_end_epoch(system, body, parsed.id))
        assert isinstance(body, NextCommittee)
        after = after_committee(system, operation, body, parsed.id)
        burnt = [self._bond(id_) for id_ in body.burnt_bonds]
        returned = [self._bond(id_) for id_ in body.returned_bonds]
        if any(bond.closer not in after.barred for bond in burnt):
            raise InvalidOperation("bonds", "one is burnt whose validator did not offend")
        if any(bond.closer in after.barred or bond.expiry > after.opened_at for bond in returned):
            raise InvalidOperation("bonds", "one is returned too early, or to an offender")
        return Changes(
            locks=tuple([after_bond(bond, parsed.id) for bond in (*burnt, *returned)]),
            made=_credits(parsed.id, [(i, bond.payer, bond.held) for i, bond in enumerate(returned)]),
            burnt=sum(bond.held for bond in burnt),
            system=after,
        )

    def _bond(self, id_: bytes) -> Lock:
        lock = self.find_lock(id_)
        if lock is None:
            raise NotYet("unknown-bond", "the SPEND that opens it is not there yet")
        return lock

    def _spend(self, parsed: ParsedOperation, body: Spend) -> Changes:
        operation = parsed.operation
        account = self._account_before(operation, body.inception)
        if body.epoch > self.epoch:
            raise NotYet("epoch-ahead", f"{body.epoch}, the current one is {self.epoch}")
        parameters = self.parameters[body.epoch]
        received = self._received(operation.object, body.credits, parameters.credits_max)
        after = after_spend(account, operation, body, received, parameters, parsed.id)
        if account_digest(after) != body.digest:
            raise InvalidOperation("digest", "of the account's state after it is another")
        id_ = parsed.id
        return Changes(
            (after,),
            tuple([open_lock(after.id, id_, i, terms) for i, terms in enumerate(body.locks)]),
            tuple([(credit_id(id_, i), Credit(o.account, o.amount)) for i, o in enumerate(body.outs)]),
            body.credits,
            body.fee,
        )

    def _received(self, account: bytes, ids: tuple[bytes, ...], cap: int) -> int:
        """The worth of the credits that a SPEND consumes: each there, addressed to it, unconsumed."""
        if len(ids) > cap:
            raise InvalidOperation("credits-cap", f"{len(ids)} credits, at most {cap}")
        mine = self._inbox.get(account, _NO_CREDITS)
        try:
            return checked_sum([mine[id_] for id_ in ids])
        except KeyError:
            pass
        for id_ in ids:
            if id_ in self.credits and self.credits[id_].account != account:
                raise InvalidOperation("credit-addressee", "a credit belongs to another account")
        raise NotYet("unknown-credit", "not there yet, or consumed long ago")

    def _account_before(self, operation: Operation, inception: Inception | None) -> Account:
        self._refuse_network(operation)
        account = self.accounts.get(operation.object)
        if account is None:
            if operation.object in self.locks or operation.object == self.network:
                raise InvalidOperation("object", "on an account only")
            if inception is None:
                raise NotYet("unknown-account", "its first operation is not there yet")
            account = unopened_account(self.network, inception)
        _refuse_slot(operation, account.seq, account.head)
        return account

    def _lock_before(self, operation: Operation) -> Lock:
        self._refuse_network(operation)
        lock = self.locks.get(operation.object)
        if lock is None:
            if operation.object in self.accounts or operation.object == self.network:
                raise InvalidOperation("object", "on a Lock only")
            lock = self._ended(operation.object)
            if lock is None:
                raise NotYet("unknown-lock", "the SPEND that opens it is not there yet")
        if lock.purpose == BOND_PURPOSE:
            raise InvalidOperation("bond", "only a COMMITTEE ends it")
        refuse_ended(lock)
        _refuse_slot(operation, lock.seq, lock.head)
        return lock

    def _system_before(self, operation: Operation) -> System:
        self._refuse_network(operation)
        _refuse_slot(operation, self.system.seq, self.system.head)
        return self.system

    def _refuse_network(self, operation: Operation) -> None:
        if operation.network != self.network:
            raise InvalidOperation("network", "made for another network")

    def _refuse_early(self, parsed: ParsedOperation, now_ms: int) -> None:
        operation = parsed.operation
        if operation.timestamp is not None:
            ahead = operation.timestamp - now_ms
            if ahead > self.parameters[self.epoch].clock_ahead_ms:
                raise NotYet("clock-ahead", f"its timestamp is {ahead} ms ahead")
        elif (
            not isinstance(operation.body, Settle)
            and is_gated(parsed)
            and now_ms < self.not_before(operation)
        ):
            if isinstance(operation.body, EndEpoch):
                raise NotYet("epoch-running", "it may be ended when its time is over")
            raise NotYet("not-expired", "the Lock has not expired")

    def _refuse_unvoted(self, parsed: ParsedOperation) -> None:
        """What a certificate answers for: a quorum has looked at the HANDOFFs, and agreed to parameters."""
        body = parsed.operation.body
        if not isinstance(body, NextCommittee):
            return
        if body.parameters != (self.agreed_parameters or self.parameters[self.epoch]):
            raise InvalidOperation("parameters", "not those that this validator has agreed to")
        if self.check_committee is None:
            raise NotYet("handoffs", "nobody has compared it with the HANDOFFs that it names")
        self.check_committee(parsed)


def _refuse_slot(operation: Operation, seq: int, head: bytes) -> None:
    if operation.seq <= seq:
        raise InvalidOperation("sequence", f"{operation.seq}, decided up to {seq}")
    if operation.seq > seq + 1:
        raise NotYet("sequence-ahead", f"{operation.seq}, decided up to {seq}")
    if operation.previous != head:
        raise InvalidOperation("previous", "is not the decided head")


def _credits(operation: bytes, payments: list[Payment]) -> tuple[tuple[bytes, Credit], ...]:
    return tuple([(credit_id(operation, i), Credit(account, amount)) for i, account, amount in payments])
