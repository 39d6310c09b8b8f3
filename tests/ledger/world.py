"""A small ledger for tests: named people, a state, and operations that are right, or wrong in one place."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from ainp2p.ledger import accounts
from ainp2p.ledger.genesis import DEVELOPMENT, Genesis, Parameters, new_genesis
from ainp2p.ledger.locks import Lock
from ainp2p.ledger.operations import (
    Inception,
    LockTerms,
    Operation,
    Rotation,
    Share,
    SignedOperation,
    account_id,
    key_digest,
    parse,
    plain_inception,
    purpose_digest,
    sign_operation,
)
from ainp2p.ledger.receipts import Payer, SignedReceipt, settle_operation
from ainp2p.ledger.state import Changes, State
from ainp2p.protocol.codec import encode
from ainp2p.protocol.identity import Key

NOW = 1_000_000_000  # ms
PURSE = 1_000_000  # uain, granted to each name
NAMES = ("alice", "bob", "carol")


def key_of(name: str) -> Key:
    """The key that belongs to a name; ``"alice'"`` is the one after ``"alice"``."""
    return Key(hashlib.blake2b(name.encode(), digest_size=32).digest())


def inception_of(name: str) -> Inception:
    return plain_inception(key_of(name).public, next_digest=key_digest(key_of(name + "'").public))


def genesis_for(
    names: Sequence[str] = NAMES, purse: int = PURSE, parameters: Parameters = DEVELOPMENT
) -> Genesis:
    return new_genesis(
        "test",
        NOW,
        [(key_of("validator").public, 1, ["/ip4/127.0.0.1/tcp/1"])],
        [(inception_of(name), purse) for name in names],
        None,
        parameters,
    )


class World:
    """One state, and everybody's keys."""

    def __init__(self, names: Sequence[str] = NAMES, **genesis: Any) -> None:
        self.names = tuple(names)
        self.genesis = genesis_for(names, **genesis)
        self.state = State(self.genesis)
        self.network = self.state.network
        self.parameters = self.genesis.parameters
        self.now = NOW
        self.ids = {name: account_id(self.network, inception_of(name)) for name in names}

    # --- right ----------------------------------------------------------------------------------

    def account(self, name: str) -> accounts.Account:
        found = self.state.accounts.get(self.ids[name])
        return found or accounts.unopened_account(self.network, inception_of(name))

    def operation(
        self,
        name: str,
        outs: Sequence[tuple[str, int]] = (),
        locks: Sequence[LockTerms] = (),
        rotate: Rotation | None = None,
        **more: Any,
    ) -> Operation:
        """The next SPEND of `name`, with a true digest."""
        account = self.account(name)
        return accounts.spend(
            account,
            self.state.credits_of(account.id),
            self.parameters,
            network=self.network,
            now_ms=self.now,
            outs=[(self.ids[to], amount) for to, amount in outs],
            locks=locks,
            inception=None if account.seq else inception_of(name),
            rotate=rotate,
            **more,
        )

    def spend(self, name: str, outs: Sequence[tuple[str, int]] = (), **more: Any) -> SignedOperation:
        return sign_operation(self.operation(name, outs, **more), key_of(name))

    def terms(self, payee: str = "bob", **changes: Any) -> LockTerms:
        """A deposit of 1,000 for `payee`, from alice's session key, for a minute."""
        terms = LockTerms(
            beneficiaries=(Share(self.ids[payee], 1),),
            deposit=1_000,
            step=10,
            authority=(key_of("alice session").public,),
            threshold=1,
            closer=key_of(payee).public,
            expiry=self.now + 60_000,
            purpose=purpose_digest(b"test"),
        )
        return msgspec.structs.replace(terms, **changes)

    def do(self, signed: SignedOperation) -> Changes:
        """Check and apply."""
        parsed = parse(signed)
        self.state.check(parsed, self.now)
        return self.state.apply(parsed)

    def open_lock(self, payer: str = "alice", payee: str = "bob", **changes: Any) -> Lock:
        return self.do(self.spend(payer, locks=[self.terms(payee, **changes)])).locks[0]

    def payer(self, lock: Lock) -> Payer:
        return Payer(self.network, lock, key_of("alice session"))

    def receipt(
        self, lock: Lock, cumulative: int, units: int = 1, context: bytes = b"c" * 32
    ) -> SignedReceipt:
        return Payer(self.network, msgspec.structs.replace(lock, paid=0), key_of("alice session")).sign(
            cumulative, units, context
        )

    def settle(self, lock: Lock, cumulative: int) -> Lock:
        return self.do(settle_operation(lock, self.receipt(lock, cumulative))).locks[0]

    # --- looking --------------------------------------------------------------------------------

    def wealth(self, name: str) -> int:
        """Balance, credits on their way, and what one's own deposits still hold."""
        id_ = self.ids[name]
        account = self.state.accounts.get(id_)
        held = sum(lock.held for lock in self.state.locks.values() if lock.payer == id_)
        return (account.balance if account else 0) + sum(self.state.credits_of(id_).values()) + held


# --- wrong in one place -------------------------------------------------------------------------


def with_fields(operation: Operation, **fields: Any) -> Operation:
    """The operation with other fields; `body_x=…` changes field x of its body."""
    body = {key.removeprefix("body_"): fields.pop(key) for key in list(fields) if key.startswith("body_")}
    if body:
        fields["body"] = msgspec.structs.replace(operation.body, **body)
    return msgspec.structs.replace(operation, **fields)


def changed(operation: Operation, name: str, /, **fields: Any) -> SignedOperation:
    """The operation with other fields (as in `with_fields`), signed well by `name`."""
    return sign_operation(with_fields(operation, **fields), key_of(name))


def on_lock(signed: SignedOperation, **fields: Any) -> SignedOperation:
    """An operation on a Lock with other fields, under the same proofs."""
    return msgspec.structs.replace(signed, raw=encode(with_fields(parse(signed).operation, **fields)))
