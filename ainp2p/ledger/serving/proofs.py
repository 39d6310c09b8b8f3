"""What a certificate proves: reading a validator's answers without believing the validator.

An operation is final if a quorum's COMMITs for its id are there. An account's state is proven by the digest
at the end of its last operation; a Lock's by the SPEND that opened it and its last operation; a credit by the
operation that made it and, for a Lock's payment, by the one before (which that operation names by its hash).
No proof says that nothing newer exists: for that a wallet asks several validators. A certificate names its
epoch; `chain` knows the committees of those that have been followed. No I/O.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from ainp2p.errors import InvalidOperation, Malformed
from ainp2p.ledger.rules.accounts import Account, account_digest
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.rules.locks import Lock, after_bond, lock_step, open_lock
from ainp2p.ledger.rules.operations import (
    Close,
    NextCommittee,
    ParsedOperation,
    Recover,
    Settle,
    SignedOperation,
    Spend,
    Void,
    credit_id,
    lock_id,
    parse,
)
from ainp2p.ledger.serving.messages import Decided, ObjectHead
from ainp2p.ledger.voting.committee_chain import CommitteeChain
from ainp2p.protocol.codec import decode


@dataclass(frozen=True, slots=True)
class Proven:
    """An operation that is final, with the certificate that says so."""

    parsed: ParsedOperation
    certificate: bytes


class Proofs:
    """Checks answers against the committees of a network.

    Attributes:
        chain: the committees, from the genesis or from a pinned checkpoint on; `chain.extend` follows them.
    """

    def __init__(self, genesis: Genesis, chain: CommitteeChain | None = None) -> None:
        self.network = genesis.network_id
        self.chain = CommitteeChain.from_genesis(genesis) if chain is None else chain

    def check_certificate(self, certificate: bytes, operation: bytes) -> None:
        """Check that a certificate makes this operation final.

        Raises:
            Malformed, BadSignature, InvalidOperation: it does not; rule ``"epoch"``: `chain` does not know
                its committee yet.
        """
        self.chain.check(certificate, operation)

    def operation(self, decided: Decided) -> Proven:
        """A final operation.

        Raises:
            Malformed, BadSignature, InvalidOperation: it is none, or not proven.
        """
        parsed = read_operation(decided.operation)
        self.check_certificate(decided.certificate, parsed.id)
        return Proven(parsed, decided.certificate)

    def account(self, head: ObjectHead) -> Account:
        """An account's state after its last operation.

        Raises:
            Malformed, BadSignature, InvalidOperation: it is not proven.
        """
        if len(head.last) != 1:
            raise Malformed("an account's state comes with its last operation")
        account, last = decode(head.state, Account), self.operation(head.last[0]).parsed
        body = last.operation.body
        fits = (
            isinstance(body, Spend | Recover | Void)
            and account.id == last.operation.object == head.object
            and account.head == last.id
            and account_digest(account) == body.digest
        )
        if not fits:
            raise InvalidOperation(
                "digest", "the account's state is not the one that its last operation proves"
            )
        return account

    def lock(self, head: ObjectHead) -> tuple[Lock, list[Proven]]:
        """A Lock's state, and the operations that prove it: its opening, then its last one if there is any.

        Raises:
            Malformed, BadSignature, InvalidOperation: it is not proven.
        """
        if len(head.opening) != 1:
            raise Malformed("a Lock's state comes with the operation that opened it")
        opening = self.operation(head.opening[0])
        lock = opened_lock(opening.parsed, head.object)
        if not head.last:
            return lock, [opening]
        last = self.operation(head.last[0])
        return _lock_after(lock, last.parsed), [opening, last]

    def credit(
        self, id_: bytes, maker: ParsedOperation, lock: Lock | None, previous: ParsedOperation | None
    ) -> tuple[bytes, int]:
        """(account, uain) of a credit that the final operation `maker` made.

        Args:
            lock: for a Lock's payment, any state of that Lock; for a bond's return, any of the bond.
            previous: the Lock's operation before `maker`; None if `maker` is its first.

        Raises:
            InvalidOperation: it made no such credit, or `previous` is not the one before.
        """
        operation, body = maker.operation, maker.operation.body
        if isinstance(body, NextCommittee):
            # A returned bond: nothing was ever paid of it, and its place says where its credit is.
            made = [] if lock is None else _returned(body, lock)
        elif isinstance(body, Spend):
            made = [(i, out.account, out.amount) for i, out in enumerate(body.outs)]
        elif lock is None or lock.id != operation.object:
            raise InvalidOperation("object", "the credit's Lock is missing")
        else:
            made = lock_step(_lock_before(lock, maker, previous), maker)[1]
        for index, account, amount in made:
            if credit_id(maker.id, index) == id_:
                return account, amount
        raise InvalidOperation("credit", "the operation made no such credit")


def read_operation(raw: bytes) -> ParsedOperation:
    """A well-formed operation from the bytes that travel.

    Raises:
        Malformed, InvalidOperation: it is none.
    """
    return parse(decode(raw, SignedOperation))


def opened_lock(opening: ParsedOperation, id_: bytes) -> Lock:
    """The Lock with this id as the SPEND `opening` made it.

    Raises:
        InvalidOperation: it opened no such Lock.
    """
    body = opening.operation.body
    if isinstance(body, Spend):
        for index, terms in enumerate(body.locks):
            if lock_id(opening.id, index) == id_:
                return open_lock(opening.operation.object, opening.id, index, terms)
    raise InvalidOperation("object", "the operation opened no such Lock")


def _paid_after(parsed: ParsedOperation, lock: Lock) -> int:
    body = parsed.operation.body
    if isinstance(body, Settle | Close):
        return body.cumulative
    return lock.paid  # a REFUND pays nothing more; what was paid before it is of no further use


def _returned(body: NextCommittee, bond: Lock) -> list[tuple[int, bytes, int]]:
    return [(i, bond.payer, bond.deposit) for i, id_ in enumerate(body.returned_bonds) if id_ == bond.id]


def _lock_after(lock: Lock, last: ParsedOperation) -> Lock:
    operation, body = last.operation, last.operation.body
    if isinstance(body, NextCommittee) and lock.id in (*body.burnt_bonds, *body.returned_bonds):
        return after_bond(lock, last.id)
    if operation.object != lock.id or isinstance(operation.body, Spend):
        raise InvalidOperation("object", "the last operation is not the Lock's")
    ended = 0 if isinstance(operation.body, Settle) else 1
    paid = _paid_after(last, lock)
    return msgspec.structs.replace(lock, seq=operation.seq, head=last.id, paid=paid, ended=ended)


def _lock_before(lock: Lock, maker: ParsedOperation, previous: ParsedOperation | None) -> Lock:
    operation = maker.operation
    expected = previous.id if previous is not None else lock.id
    if operation.previous != expected:
        raise InvalidOperation("previous", "the operation before is missing")
    paid = _paid_after(previous, lock) if previous is not None else 0
    return msgspec.structs.replace(lock, seq=operation.seq - 1, head=expected, paid=paid, ended=0)


__all__ = ["Proofs", "Proven", "opened_lock", "read_operation"]
