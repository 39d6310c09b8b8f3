"""All objects of one network in memory, and the rules of LEDGER.md's table of operations.

`check` says whether a validator may vote for an operation now; `apply` changes the state once it is
final. An operation touches its own object and the credits that it consumes, nothing else. No I/O, no
clock; the gates (D, G), HANDOFFs and evidence are the validator's matter.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from ainp2p.errors import InvalidOperation, NotYet
from ainp2p.ledger.rules.accounts import (
    Account,
    account_digest,
    after_recover,
    after_spend,
    after_void,
    spending_key,
    unopened_account,
    verify_guardians,
)
from ainp2p.ledger.rules.amounts import checked_sum
from ainp2p.ledger.rules.changes import Changes as Changes
from ainp2p.ledger.rules.changes import Credit as Credit
from ainp2p.ledger.rules.changes import Supply as Supply
from ainp2p.ledger.rules.changes import Undo as Undo
from ainp2p.ledger.rules.committee import Succession, succession
from ainp2p.ledger.rules.genesis import Genesis, Parameters
from ainp2p.ledger.rules.holdings import Holdings
from ainp2p.ledger.rules.locks import (
    Lock,
    Payment,
    after_bond,
    after_close,
    after_refund,
    after_settle,
    open_lock,
    refuse_ended,
)
from ainp2p.ledger.rules.operations import (
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
from ainp2p.ledger.rules.receipts import Receipt, verify_receipt
from ainp2p.ledger.rules.system import System, after_committee, after_end_epoch, epoch_ends_at
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


class State(Holdings):
    """Accounts, credits, Locks and the System after a set of final operations, and what may come next.

    Attributes, besides those of `Holdings`:
        check_committee: judges what this state cannot know of a COMMITTEE before it is voted for (state root,
            seats, bonds, offenders against HANDOFFs and evidence), and raises as `check` does. Without
            one no COMMITTEE is ever voted for.
        agreed_parameters: what the next COMMITTEE may change the parameters to; None: they stay.
    """

    def __init__(self, genesis: Genesis, *, grants: bool = True) -> None:
        """The state at genesis; without `grants` for a store, which knows what became of them."""
        super().__init__(genesis, grants=grants)
        self.check_committee: Callable[[ParsedOperation], None] | None = None
        self.agreed_parameters: Parameters | None = None

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

    # --- validity -----------------------------------------------------------------------------

    def check(self, parsed: ParsedOperation, now_ms: int, *, proof_verified: bool = False) -> Changes | None:
        """Whether this operation is the valid next one of its object, now; returns what it would change.

        None for a COMMITTEE that ends a bond which is in the union of its HANDOFFs and not here: who is
        frozen without it judges the COMMITTEE all the same, and applies it after the rest of the union.

        Lemma L8 (docs/ledger-proof.md): no VOID is valid by itself.

        A proof that was verified once for an operation's `previous` stays good, since `previous` pins the
        keys: pass `proof_verified` on a second look. Its signatures are verified before any `NotYet` other
        than those of an object or a slot that is not there yet.

        Raises:
            NotYet: keep it and ask again: rules ``"unknown-account"``, ``"unknown-lock"``,
                ``"sequence-ahead"``, ``"epoch-ahead"``, ``"clock-ahead"``, ``"unknown-credit"``
                (or consumed long ago), ``"not-expired"``, ``"epoch-running"``, ``"handoffs"`` (nobody is
                there to judge a COMMITTEE).
            InvalidOperation, InsufficientFunds: it will never be valid in this slot.
            BadSignature: its proof does not fit.
        """
        if not proof_verified:
            self.verify_proof(parsed)
        try:
            changes = self._changes(parsed)
        except NotYet as exc:
            if exc.rule != "unknown-bond":
                raise
            self._refuse_early(parsed, now_ms)
            self._refuse_unvoted(parsed)
            return None
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

        Lemma L12 (docs/ledger-proof.md): what is consumed is what is made, in whatever order operations come.

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
        if operation.seq != account.seq + 1 or operation.previous != account.head:
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
