"""One validator of four on a bench: the test plays the other three, and everybody else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from ainp2p.errors import Error
from ainp2p.ledger.rules import accounts
from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.rules.genesis import DEVELOPMENT, Parameters
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.operations import (
    LockTerms,
    Share,
    SignedOperation,
    account_id,
    operation_id,
    purpose_digest,
    sign_operation,
)
from ainp2p.ledger.rules.receipts import (
    Payer,
    SignedReceipt,
    close_operation,
    refund_operation,
    settle_operation,
)
from ainp2p.ledger.voting.effects import Effects
from ainp2p.ledger.voting.validator import Limits, Validator
from ainp2p.ledger.voting.votelog import COMMIT, LOCK, OwnLog, Vote, commit_entry, lock_entry
from tests.ledger.committee_world import MemoryJournal, committee_genesis, validator_key
from tests.ledger.world import NOW, inception_of, key_of

SOON = 20  # ms; a batch's time


class Bench:
    """Place 0 of four equals is real; all that it hands out is kept in `out`."""

    def __init__(
        self,
        names: Sequence[str] = ("alice", "bob", "carol"),
        parameters: Parameters = DEVELOPMENT,
        limits: Limits | None = None,
        start: bool = True,
    ) -> None:
        self.genesis = committee_genesis((1, 1, 1, 1), names, parameters=parameters)
        self.committee = Committee.of(self.genesis)
        self.network = self.genesis.network_id
        self.parameters = self.genesis.parameters
        by_key = {validator_key(i).public: validator_key(i) for i in range(4)}
        self.keys = [by_key[key] for key in self.committee.keys]
        self.ids = {name: account_id(self.network, inception_of(name)) for name in names}
        self.logs = {i: OwnLog(self.keys[i], self.network, 0, i) for i in range(1, 4)}
        self.journal = MemoryJournal(self.genesis)
        self.limits = limits
        self.now = NOW
        self.out = Effects()
        self.validator = self.restart(start)

    def restart(self, start: bool = True) -> Validator:
        """A crash, and back with what the journal was given."""
        self.validator = Validator(
            self.keys[0], self.genesis, self.journal.state(), self.journal, limits=self.limits
        )
        if start:
            self.heights(0)
        return self.validator

    def heights(self, height: int | None = None, members: Iterable[int] = (1, 2, 3)) -> None:
        """The others say how many of its batches they hold (None: all)."""
        ours = self.validator.heights()[self.keys[0].public] if height is None else height
        for member in members:
            self.note(self.validator.handle_height(self.keys[member].public, ours, self.now))

    # --- what comes in --------------------------------------------------------------------------

    def note(self, effects: Effects) -> Effects:
        for name in Effects.__struct_fields__:
            getattr(self.out, name).extend(getattr(effects, name))
        return effects

    def give(self, signed: SignedOperation, source: str = "") -> Effects:
        return self.note(self.validator.handle_operation(signed, self.now, source))

    def refusal(self, signed: SignedOperation, source: str = "") -> str:
        """The rule, or the error's name, by which an operation is refused; "" if it is not."""
        try:
            self.give(signed, source)
        except Error as exc:
            return getattr(exc, "rule", None) or type(exc).__name__
        return ""

    def batch(self, member: int, *entries: bytes, at: int | None = None) -> bytes:
        log = self.logs[member]
        for entry in entries:
            log.add(entry, self.now)
        return log.seal(self.now if at is None else at).raw

    def vote(self, entry: Callable[[int, bytes], bytes], signed: SignedOperation, *members: int) -> None:
        """These members vote for an operation in view 0."""
        for member in members or (1, 2, 3):
            raw = self.batch(member, entry(0, operation_id(signed.raw)))
            self.note(self.validator.handle_batch(raw, self.now))

    def wait(self, ms: int = SOON) -> Effects:
        """Let time pass, with a tick whenever one is due."""
        end = self.now + ms
        out = Effects()
        while (due := max(self.validator.due, self.now)) <= end:
            self.now = due
            effects = self.note(self.validator.tick(self.now))
            for name in Effects.__struct_fields__:
                getattr(out, name).extend(getattr(effects, name))
            if self.validator.due <= self.now:
                self.now += 1
        self.now = end
        return out

    def decide(self, signed: SignedOperation) -> bytes:
        """See an operation through to its end."""
        self.give(signed)
        self.vote(lock_entry, signed)
        self.vote(commit_entry, signed)
        self.wait()
        return operation_id(signed.raw)

    # --- what went out --------------------------------------------------------------------------

    @property
    def votes(self) -> list[Vote]:
        return [vote for batch in self.out.batches for vote in batch.votes]

    def locked(self, signed: SignedOperation) -> bool:
        return (LOCK, 0, operation_id(signed.raw)) in self.votes

    def committed(self, signed: SignedOperation) -> bool:
        return (COMMIT, 0, operation_id(signed.raw)) in self.votes

    @property
    def finals(self) -> list[bytes]:
        return [final.parsed.id for final in self.out.finals]

    # --- operations -----------------------------------------------------------------------------

    def account(self, name: str) -> accounts.Account:
        found = self.validator.state.accounts.get(self.ids[name])
        return found or accounts.unopened_account(self.network, inception_of(name))

    def spend(self, name: str, outs: Sequence[tuple[str, int]] = (), **more: Any) -> SignedOperation:
        account = more.pop("account", None) or self.account(name)
        operation = accounts.spend(
            account,
            more.pop("credits", self.validator.state.credits_of(account.id)),
            self.parameters,
            network=self.network,
            now_ms=more.pop("at", self.now),
            outs=[(self.ids[to], amount) for to, amount in outs],
            inception=None if account.seq else inception_of(name),
            **more,
        )
        return sign_operation(operation, key_of(name))

    def terms(self, **changes: Any) -> LockTerms:
        terms = LockTerms(
            beneficiaries=(Share(self.ids["bob"], 1),),
            deposit=1_000,
            step=10,
            authority=(key_of("session").public,),
            threshold=1,
            closer=key_of("bob").public,
            expiry=self.now + 60_000,
            purpose=purpose_digest(b"test"),
        )
        return msgspec.structs.replace(terms, **changes)

    def open_lock(self, **changes: Any) -> Lock:
        """A final Lock from alice to bob."""
        self.decide(self.spend("alice", locks=[self.terms(**changes)]))
        return next(lock for lock in self.validator.state.locks.values() if not lock.seq)

    def lock(self, lock: Lock) -> Lock:
        """As it is now."""
        return self.validator.state.locks[lock.id]

    def receipt(self, lock: Lock, cumulative: int) -> SignedReceipt:
        payer = Payer(self.network, msgspec.structs.replace(lock, paid=0), key_of("session"))
        return payer.sign(cumulative, 1, b"c" * 32)

    def settle(self, lock: Lock, cumulative: int, **moved: Any) -> SignedOperation:
        """A SETTLE on the Lock's head (or where `moved` says)."""
        lock = msgspec.structs.replace(self.lock(lock), **moved)
        return settle_operation(lock, self.receipt(lock, cumulative))

    def close(self, lock: Lock, cumulative: int, closer: str | None = "bob") -> SignedOperation:
        lock = self.lock(lock)
        signer = key_of(closer) if closer is not None else None
        return close_operation(self.network, lock, self.receipt(lock, cumulative), signer)

    def refund(self, lock: Lock) -> SignedOperation:
        return refund_operation(self.network, self.lock(lock))
