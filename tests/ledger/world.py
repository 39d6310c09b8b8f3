"""A small ledger for tests: named people, a state, and operations that are right, or wrong in one place."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ainp2p.ledger.rules import accounts
from ainp2p.ledger.rules.genesis import DEVELOPMENT, Genesis, Parameters, new_genesis
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.operations import (
    EndEpoch,
    Inception,
    LockTerms,
    NextCommittee,
    Operation,
    Rotation,
    Share,
    SignedOperation,
    account_id,
    key_digest,
    parse,
    plain_inception,
    purpose_digest,
    sign_committee,
    sign_operation,
    sign_recover,
    unsigned_operation,
)
from ainp2p.ledger.rules.receipts import Payer, SignedReceipt, settle_operation
from ainp2p.ledger.rules.state import Changes, State
from ainp2p.ledger.rules.system import epoch_ends_at
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


GUARDIANS = ("guardian 1", "guardian 2", "guardian 3")
LEASE = 20_000  # ms


def guarded_inception_of(name: str) -> Inception:
    """Two of three guardians can recover this one, once its owner has been silent for 20 s."""
    guardians = tuple(sorted(key_of(guardian).public for guardian in GUARDIANS))
    return msgspec.structs.replace(inception_of(name), guardians=guardians, m=2, lease=LEASE)


def genesis_for(
    names: Sequence[str] = NAMES,
    purse: int = PURSE,
    parameters: Parameters = DEVELOPMENT,
    inception: Callable[[str], Inception] = inception_of,
    validators: Sequence[tuple[str, int]] = (("validator", 1),),
) -> Genesis:
    return new_genesis(
        "test",
        NOW,
        [(key_of(name).public, weight, ["/ip4/127.0.0.1/tcp/1"]) for name, weight in validators],
        [(inception(name), purse) for name in names],
        None,
        parameters,
    )


class World:
    """One state, and everybody's keys."""

    def __init__(self, names: Sequence[str] = NAMES, **genesis: Any) -> None:
        self.names = tuple(names)
        self.inception_of: Callable[[str], Inception] = genesis.get("inception", inception_of)
        self.genesis = genesis_for(names, **genesis)
        self.state = State(self.genesis)
        self.network = self.state.network
        self.parameters = self.genesis.parameters
        self.now = NOW
        self.ids = {name: account_id(self.network, self.inception_of(name)) for name in names}

    # --- right ----------------------------------------------------------------------------------

    def account(self, name: str) -> accounts.Account:
        found = self.state.accounts.get(self.ids[name])
        return found or accounts.unopened_account(self.network, self.inception_of(name))

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
            inception=None if account.seq else self.inception_of(name),
            rotate=rotate,
            **more,
        )

    def bare(self, name: str, timestamp: int | None, body: Any) -> Operation:
        """The next operation of `name`'s account with this body, right or wrong."""
        account = self.account(name)
        return Operation(1, self.network, account.id, account.seq + 1, account.head, timestamp, body)

    def account_of(self, operation: Operation) -> accounts.Account:
        """The account that an operation is on."""
        return self.account(next(name for name, id_ in self.ids.items() if id_ == operation.object))

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

    # --- without the owner --------------------------------------------------------------------------

    def recovery(self, name: str, key: str) -> Operation:
        """The RECOVER that gives `name` the keys of `key` and `key'`."""
        return accounts.recover(
            self.account(name),
            key_of(key).public,
            key_digest(key_of(key + "'").public),
            self.parameters,
            network=self.network,
            now_ms=self.now,
        )

    def recover(self, name: str, key: str, guardians: Sequence[str] = GUARDIANS[:2]) -> SignedOperation:
        return sign_recover(self.recovery(name, key), [key_of(guardian) for guardian in guardians])

    def void(self, name: str) -> SignedOperation:
        account = self.account(name)
        inception = None if account.seq else self.inception_of(name)
        return unsigned_operation(accounts.void(account, inception, self.parameters, self.network))

    # --- the System ---------------------------------------------------------------------------------

    def end_epoch(self) -> SignedOperation:
        system = self.state.system
        body = EndEpoch(system.epoch)
        return unsigned_operation(
            Operation(1, self.network, self.network, system.seq + 1, system.head, None, body)
        )

    def next_committee(
        self, proposer: str | bytes = "validator", offenders: Sequence[str] = (), **fields: Any
    ) -> SignedOperation:
        """The COMMITTEE that follows from the state as it is, or one that is wrong in a field of its body.

        A proposer that is given as a key signs elsewhere.
        """
        system, out = self.state.system, sorted(key_of(name).public for name in offenders)
        says = self.state.succession(out, self.now)
        body = NextCommittee(
            epoch=system.epoch + 1,
            seats=says.seats,
            parameters=self.parameters,
            handoffs=(b"handoff".ljust(32),),
            evidence=tuple(bytes([n]) * 32 for n, _ in enumerate(out)),
            state_root=self.state.root(),
            proposer=key_of(proposer).public if isinstance(proposer, str) else proposer,
            offenders=tuple(out),
            burnt_bonds=says.burnt_bonds,
            returned_bonds=says.returned_bonds,
        )
        body = msgspec.structs.replace(body, **fields)
        operation = Operation(1, self.network, self.network, system.seq + 1, system.head, self.now, body)
        return sign_committee(operation, key_of(proposer if isinstance(proposer, str) else "nobody"))

    def change_epoch(self, proposer: str = "validator", offenders: Sequence[str] = ()) -> Changes:
        """Wait for the epoch's end, close it and open the next one."""
        self.state.check_committee = lambda parsed: None
        self.now = max(self.now, epoch_ends_at(self.state.system))
        self.do(self.end_epoch())
        return self.do(self.next_committee(proposer, offenders))

    def bond(self, payer: str, validator: str, deposit: int, **changes: Any) -> Lock:
        """A bond of `payer`'s for a validator, until an hour from now."""
        terms: dict[str, Any] = {
            "authority": (self.network,),
            "purpose": purpose_digest(b"bond"),
            "closer": key_of(validator).public,
            "deposit": deposit,
            "step": deposit,
            "expiry": self.now + self.parameters.lock_life_ms_max,
        }
        return self.open_lock(payer, payer, **{**terms, **changes})

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
