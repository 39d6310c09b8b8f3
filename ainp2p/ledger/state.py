"""All objects of one network in memory, and the rules of LEDGER.md's table of operations.

`check` says whether a validator may vote for an operation now; `apply` changes the state once it is
final. An operation touches its own object and the credits that it consumes, nothing else. No I/O, no
clock; the gates (D, G) and the committee are the validator's matter.
"""

from __future__ import annotations

from dataclasses import dataclass

from ainp2p.errors import InvalidOperation, NotYet
from ainp2p.ledger.accounts import Account, account_digest, after_spend, spending_key, unopened_account
from ainp2p.ledger.amounts import checked_sum
from ainp2p.ledger.genesis import Genesis, Parameters
from ainp2p.ledger.locks import (
    Lock,
    Payment,
    after_close,
    after_refund,
    after_settle,
    open_lock,
    refuse_ended,
)
from ainp2p.ledger.operations import (
    SIGN_CLOSE,
    SIGN_OPERATION,
    Close,
    Operation,
    ParsedOperation,
    Refund,
    Settle,
    Spend,
    credit_id,
)
from ainp2p.ledger.receipts import Receipt, verify_receipt
from ainp2p.protocol.codec import Bytes32, Message, Uint, encode
from ainp2p.protocol.identity import digest, verify

_NO_CREDITS: dict[bytes, int] = {}


class Credit(Message, frozen=True):
    """Value on its way: `amount` uain that only `account` can consume, once."""

    account: Bytes32
    amount: Uint


class Changes(Message, frozen=True):
    """What one applied operation changed; empty (and false) for a repeat of the object's head."""

    accounts: tuple[Account, ...] = ()
    locks: tuple[Lock, ...] = ()
    made: tuple[tuple[bytes, Credit], ...] = ()  # (credit id, credit)
    consumed: tuple[bytes, ...] = ()  # credit ids
    burnt: int = 0  # uain

    def __bool__(self) -> bool:
        return bool(self.accounts or self.locks)


@dataclass(frozen=True, slots=True)
class Supply:
    """Where all uain are. `total` is the genesis' supply, always."""

    balances: int
    credits: int
    locks: int
    burnt: int

    @property
    def total(self) -> int:
        """Everything together."""
        return self.balances + self.credits + self.locks + self.burnt


def is_gated(parsed: ParsedOperation) -> bool:
    """Whether a validator must hold this operation for D and be in contact for G before it votes."""
    body = parsed.operation.body
    return isinstance(body, Refund) or (isinstance(body, Close) and parsed.signed.closer is None)


class State:
    """Accounts, credits and Locks after a set of final operations.

    Attributes:
        network: the network's id.
        minted: the genesis' supply.
        burnt: fees so far, in uain.
        epoch: the current one; `parameters` are those of each epoch so far.
        operations: how many were applied.
    """

    def __init__(self, genesis: Genesis, *, grants: bool = True) -> None:
        """The state at genesis; without `grants` for a store, which knows what became of them."""
        self.network = genesis.network_id
        self.minted = genesis.supply
        self.burnt = 0
        self.epoch = 0
        self.parameters: dict[int, Parameters] = {0: genesis.parameters}
        self.operations = 0
        self.accounts: dict[bytes, Account] = {}
        self.locks: dict[bytes, Lock] = {}
        self.credits: dict[bytes, Credit] = {}
        self._inbox: dict[bytes, dict[bytes, int]] = {}  # account → its credits: id → uain
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
        return (found.seq, found.head) if found is not None else (0, object_)

    def supply(self) -> Supply:
        """Count every uain, object by object."""
        return Supply(
            balances=sum(account.balance for account in self.accounts.values()),
            credits=sum(credit.amount for credit in self.credits.values()),
            locks=sum(lock.held for lock in self.locks.values()),
            burnt=self.burnt,
        )

    def root(self) -> bytes:
        """A digest of everything: equal sets of operations give equal roots."""
        parts = [encode((self.network, self.epoch, self.burnt))]
        parts += [encode(self.accounts[id_]) for id_ in sorted(self.accounts)]
        parts += [encode(self.locks[id_]) for id_ in sorted(self.locks)]
        parts += [encode((id_, self.credits[id_])) for id_ in sorted(self.credits)]
        return digest(b"ainp2p/root/1", b"".join(parts))

    # --- validity -----------------------------------------------------------------------------

    def check(self, parsed: ParsedOperation, now_ms: int, *, proof_verified: bool = False) -> Changes:
        """Whether this operation is the valid next one of its object, now; returns what it would change.

        A proof that was verified once for an operation's `previous` stays good, since `previous` pins the
        keys: pass `proof_verified` on a second look. Its signatures are verified before any `NotYet` other
        than those of an object or a slot that is not there yet.

        Raises:
            NotYet: keep it and ask again: rules ``"unknown-account"``, ``"unknown-lock"``,
                ``"sequence-ahead"``, ``"epoch-ahead"``, ``"clock-ahead"``, ``"unknown-credit"``
                (or consumed long ago), ``"not-expired"``.
            InvalidOperation, InsufficientFunds: it will never be valid in this slot.
            BadSignature: its proof does not fit.
        """
        if not proof_verified:
            self.verify_proof(parsed)
        changes = self._changes(parsed)
        self._refuse_early(parsed.operation, parsed, now_ms)
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
            account = self._account_before(operation, body)
            verify(spending_key(account, body), SIGN_OPERATION, parsed.id, signed.signatures[0])
            return
        lock = self._lock_before(operation)
        if not isinstance(body, Settle | Close):
            return
        if signed.closer is not None:
            verify(lock.closer, SIGN_CLOSE, parsed.id, signed.closer)
        if body.context:
            receipt = Receipt(self.network, lock.id, body.cumulative, body.units, body.context)
            verify_receipt(lock, encode(receipt), signed.signatures)

    def apply(self, parsed: ParsedOperation, checked: Changes | None = None) -> Changes:
        """Change the state by a final operation: refuse, compute, commit.

        Its certificate stands in for signatures and clocks, which are not looked at here; all other rules
        hold. A repeat of the object's head changes nothing. `checked` is what `check` returned for it: while
        the object's head is the operation's `previous`, nothing that it depends on can have changed.

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
        self.commit(changes)
        self.operations += 1
        return changes

    # --- commit: nothing here can fail ----------------------------------------------------------

    def commit(self, changes: Changes) -> None:
        """Take over what was computed (or stored) before."""
        for account in changes.accounts:
            self.accounts[account.id] = account
        for lock in changes.locks:
            self.locks[lock.id] = lock
        for id_ in changes.consumed:
            self._drop_credit(id_)
        for id_, credit in changes.made:
            self.add_credit(id_, credit)
        self.burnt += changes.burnt

    def add_credit(self, id_: bytes, credit: Credit) -> None:
        """Put one credit before its addressee."""
        self.credits[id_] = credit
        self._inbox.setdefault(credit.account, {})[id_] = credit.amount

    def _drop_credit(self, id_: bytes) -> None:
        account = self.credits.pop(id_).account
        inbox = self._inbox[account]
        del inbox[id_]
        if not inbox:
            del self._inbox[account]

    # --- compute --------------------------------------------------------------------------------

    def _changes(self, parsed: ParsedOperation) -> Changes:
        body = parsed.operation.body
        if isinstance(body, Spend):
            return self._spend(parsed, body)
        lock = self._lock_before(parsed.operation)
        if isinstance(body, Settle):
            after, payments = after_settle(lock, body, parsed.id)
        elif isinstance(body, Close):
            after, payments = after_close(lock, body, parsed.id)
        else:
            after, payments = after_refund(lock, parsed.id)
        return Changes((), (after,), _credits(parsed.id, payments))

    def _spend(self, parsed: ParsedOperation, body: Spend) -> Changes:
        operation = parsed.operation
        account = self._account_before(operation, body)
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

    def _account_before(self, operation: Operation, body: Spend) -> Account:
        self._refuse_network(operation)
        account = self.accounts.get(operation.object)
        if account is None:
            if operation.object in self.locks:
                raise InvalidOperation("object", "a SPEND is on an account, this is a Lock")
            if body.inception is None:
                raise NotYet("unknown-account", "its first operation is not there yet")
            account = unopened_account(self.network, body.inception)
        _refuse_slot(operation, account.seq, account.head)
        return account

    def _lock_before(self, operation: Operation) -> Lock:
        self._refuse_network(operation)
        if not isinstance(operation.body, Settle | Close | Refund):
            raise InvalidOperation("kind", "not one that is on a Lock")
        lock = self.locks.get(operation.object)
        if lock is None:
            if operation.object in self.accounts:
                raise InvalidOperation("object", "on a Lock only, this is an account")
            raise NotYet("unknown-lock", "the SPEND that opens it is not there yet")
        refuse_ended(lock)
        _refuse_slot(operation, lock.seq, lock.head)
        return lock

    def _refuse_network(self, operation: Operation) -> None:
        if operation.network != self.network:
            raise InvalidOperation("network", "made for another network")

    def _refuse_early(self, operation: Operation, parsed: ParsedOperation, now_ms: int) -> None:
        if operation.timestamp is not None:
            ahead = operation.timestamp - now_ms
            if ahead > self.parameters[self.epoch].clock_ahead_ms:
                raise NotYet("clock-ahead", f"its timestamp is {ahead} ms ahead")
        elif is_gated(parsed) and now_ms < self.locks[operation.object].expiry:
            raise NotYet("not-expired", "the Lock has not expired")


def _refuse_slot(operation: Operation, seq: int, head: bytes) -> None:
    if operation.seq <= seq:
        raise InvalidOperation("sequence", f"{operation.seq}, decided up to {seq}")
    if operation.seq > seq + 1:
        raise NotYet("sequence-ahead", f"{operation.seq}, decided up to {seq}")
    if operation.previous != head:
        raise InvalidOperation("previous", "is not the decided head")


def _credits(operation: bytes, payments: list[Payment]) -> tuple[tuple[bytes, Credit], ...]:
    return tuple([(credit_id(operation, i), Credit(account, amount)) for i, account, amount in payments])
