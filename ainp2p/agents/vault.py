"""The only task that holds an agent's key and signs; what moves money is checked before it is signed.

    reserve(job, counterparty, worst case) ─▶ durable ─▶ sign_receipt … sign_receipt ─▶ settle
    approve(operation) ─▶ durable ─▶ the wallet's signer signs it, once

**Why a receipt needs no fsync.** A reservation is on disk before the first receipt under it is signed, and
receipts only fill it. After a crash the vault assumes that all of it was signed: the budget stays debited,
and the Locks that it may have been used on are *unsure* (`ainp2p.agents.promises`) until the payee shows
its last receipt (`learn_receipt`). What a payee hides it can still settle; but that was reserved, and stays
debited, so hiding wins nothing. In between the last receipts are written down now and then (`FLUSH_S`), so
that little is unsure; after a clean end nothing is.

Skill code is given no reference to a vault. `signer` gives an object that signs what moves no money.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from ainp2p.agents.policy import Commitment, Commitments, Policy
from ainp2p.agents.promises import Promises
from ainp2p.agents.signers import PurposeSigner, WalletSigner
from ainp2p.agents.spending import payments_of
from ainp2p.agents.vault_store import VaultStore, open_vault_store
from ainp2p.errors import BudgetExceeded, Closed, InvalidInput, PolicyRefused, StorageError
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.operations import operation_id
from ainp2p.ledger.rules.receipts import SignedReceipt
from ainp2p.protocol.context import Context
from ainp2p.protocol.crew import Crew
from ainp2p.protocol.identity import Key

FLUSH_S = 0.25  # how often receipts are written down; bounds what is unsure after a crash, not what is safe

# What an agent may want of a Reservation it can read there: job, counterparty, bound and what was signed.
Reservation = Commitment


class Vault:
    """One agent's key, its policy, and what it has signed; `open_vault` makes it."""

    def __init__(self, key: Key, policy: Policy, store: VaultStore, context: Context) -> None:
        self.public, self.peer_id, self.policy = key.public, key.peer_id, policy
        self._key, self._store, self._context = key, store, context
        saved = store.load()
        self._commitments = Commitments.restore(policy, saved, context.now_ms())
        unsigned: dict[bytes, int] = {}  # what a dead process may have signed without our knowing
        for _job, counterparty, bound, spent in saved.open:
            unsigned[counterparty] = unsigned.get(counterparty, 0) + bound - spent
        self._promises = Promises(key, store.locks(), unsigned)
        self._durable: set[bytes] = set()  # jobs whose reservation is on disk
        self._approved: dict[bytes, tuple[bytes, ...]] = {}  # id of a SPEND that may be signed → its debits
        self._crew: Crew | None = None  # for what is written without anybody waiting for it
        self._flushing = False
        self._failed: StorageError | None = None
        self._closed = False

    # --- jobs -----------------------------------------------------------------------------------

    async def reserve(
        self, job: bytes, counterparty: bytes, worst_case: int, what: bytes | None = None
    ) -> Reservation:
        """Debit a job's worst case; returns when that is durable. Repeating it is harmless.

        Args:
            counterparty: the account that will be paid.
            what: a digest of exactly what is bought, for the breaker on repeated spending.

        Raises:
            BudgetExceeded, PolicyRefused: a rule forbids it; nothing is debited.
            StorageError: it could not be written down; the vault signs nothing more.
        """
        await self._reserve({job: (counterparty, worst_case, what)})
        self._durable.add(job)
        return self._commitments.open(job)

    def settle(self, job: bytes, *, failed: bool | None = False) -> int:
        """End a job; returns what comes back. Never waits, so it may stand in `finally`.

        Args:
            failed: it did not bring what it was for, and too many of those trip the breaker; None if
                it says nothing about that.
        """
        self._durable.discard(job)
        self._changed()
        return self._commitments.settle(job, self._context.now_ms(), failed=failed)

    def violations(self, counterparty: bytes, worst_case: int) -> list[PolicyRefused]:
        """Every rule that would refuse this reservation now; debits nothing."""
        return self._commitments.violations(counterparty, worst_case, self._context.now_ms())

    async def _reserve(self, wanted: dict[bytes, tuple[bytes, int, bytes | None]]) -> None:
        """Debit all of these jobs durably, or none: also when cancelled, and when the disk fails."""
        self.check()
        now_ms, fresh = self._context.now_ms(), []
        try:
            for job, (counterparty, amount, what) in wanted.items():
                is_new = not self._commitments.is_open(job)
                self._commitments.reserve(job, counterparty, amount, now_ms, what)
                if is_new:
                    fresh.append(job)
            await self._written()
        except BaseException:  # nothing was signed under these, so they may go
            for job in fresh:
                self._commitments.settle(job, now_ms)
            self._changed()
            raise

    # --- receipts -------------------------------------------------------------------------------

    async def use_lock(self, network: bytes, lock: Lock) -> None:
        """Sign receipts on this *final* Lock of ours from now on; returns when that is durable.

        Raises:
            InvalidReceipt: rule ``"authority"``: not this key alone signs its receipts; ``"ended"``.
        """
        self.check()
        self._promises.use(network, lock)
        await self._written()

    def sign_receipt(self, job: bytes, lock: bytes, amount: int, units: int, context: bytes) -> SignedReceipt:
        """Pay `amount` uain more on a Lock, for `units` more, out of what is reserved for a job.

        Never waits and writes nothing: the bound is durable already (see above). Parallel jobs share the
        Lock's one counter; this is the only place where it grows.

        Args:
            context: the running hash of what was delivered on this Lock, 32 bytes.

        Raises:
            BudgetExceeded, PolicyRefused: more than reserved, or the breaker has tripped.
            InvalidReceipt: ``"lock"`` not in use here, ``"payee"`` it pays somebody else, ``"unsure"``
                after a crash, ``"above-deposit"``.
            InvalidInput: nothing is reserved for this job, or no receipt has such numbers.
        """
        return self.sign_shared_receipt([(job, amount)], lock, units, context)

    def sign_shared_receipt(
        self, shares: Sequence[tuple[bytes, int]], lock: bytes, units: int, context: bytes
    ) -> SignedReceipt:
        """As `sign_receipt`: one receipt for several jobs on a Lock, (job, uain) each; all or nothing."""
        self.check()
        if len({job for job, _ in shares}) != len(shares) or not shares:
            raise InvalidInput("a receipt pays for at least one job, and for each of them once")
        total = sum(amount for _, amount in shares)
        for job, amount in shares:
            if job not in self._durable:
                raise InvalidInput("nothing is reserved for this job: reserve its worst case first")
            self._promises.refuse(lock, self._commitments.open(job).counterparty, total, units, context)
            self._commitments.check(job, amount)
        for job, amount in shares:
            self._commitments.spend(job, amount)
        self._changed()
        return self._promises.sign(lock, total, units, context)

    async def learn_receipt(self, signed: SignedReceipt) -> None:
        """After a crash: go on from the receipt that the payee shows, if it is higher than what is known.

        Raises:
            InvalidReceipt: its Lock is not in use here.
            BadSignature, Malformed: this key did not sign it.
        """
        self.check()
        payee, surprise = self._promises.learn(signed)
        if surprise:
            self._commitments.charge(payee, surprise, self._context.now_ms())
        await self._written()

    def is_unsure(self, lock: bytes) -> bool:
        """Whether `learn_receipt` is needed before a Lock can pay again."""
        return self._promises.is_unsure(lock)

    def last_receipt(self, lock: bytes) -> SignedReceipt | None:
        """The highest receipt signed on a Lock in use: to be sent again when it may have been lost."""
        return self._promises.last(lock)

    def left(self, lock: bytes) -> int:
        """uain that can still be promised on a Lock in use."""
        return self._promises.left(lock)

    def forget_lock(self, lock: bytes) -> None:
        """Forget a Lock that has ended."""
        self._promises.forget(lock)
        self._changed()

    # --- operations and other signatures --------------------------------------------------------

    async def approve(self, raw: bytes) -> None:
        """Check a SPEND against the policy and debit it; when this returns, it may be signed once.

        Payments and the fee count as spent; a deposit whose receipts this key alone signs does not, and
        has a bound of its own (`Policy.per_lock`).

        Raises:
            BudgetExceeded, PolicyRefused: a rule forbids it.
            Malformed, InvalidOperation: no SPEND.
        """
        self.check()
        id_ = operation_id(raw)
        if id_ in self._approved:
            return
        payments, deposits = payments_of(raw, self.public)
        limit = self.policy.per_lock
        for deposit in deposits:
            if limit is not None and deposit > limit:
                raise BudgetExceeded("per_lock", deposit, limit)
        wanted = {id_ + paid.counterparty: (paid.counterparty, paid.amount, paid.what) for paid in payments}
        await self._reserve(wanted)
        self._approved[id_] = tuple(wanted)

    def withdraw(self, raw: bytes) -> None:
        """Take back an approval that was not used: what was debited comes back. A repeat is no error."""
        for job in self._approved.pop(operation_id(raw), ()):
            self.settle(job, failed=None)

    def signer(self, purposes: Iterable[bytes]) -> PurposeSigner:
        """Something that signs under these purposes only, such as those of cards and of the market.

        Raises:
            InvalidInput: one of them moves money.
        """
        return PurposeSigner(self._key, purposes, self.check)

    def wallet_signer(self) -> WalletSigner:
        """What `open_wallet` takes."""
        return WalletSigner(self._key, self)

    def use_approval(self, id_: bytes) -> None:
        """Count an approved operation as signed, before it is.

        Raises:
            PolicyRefused: rule ``"approval"``: it was not approved, or it was signed already.
        """
        if id_ not in self._approved:
            raise PolicyRefused("approval", 0, hint="approve the operation's bytes first")
        for job in self._approved[id_]:
            self._commitments.spend(job, self._commitments.open(job).bound)
        for job in self._approved.pop(id_):
            self.settle(job, failed=None)

    # --- the owner's word -----------------------------------------------------------------------

    @property
    def tripped(self) -> str:
        """Why no payment is signed (``"breaker:errors"``, ``"stopped"``, …); empty if all is well."""
        return self._commitments.tripped

    @property
    def committed(self) -> int:
        """uain: the worst case of all jobs that are open."""
        return self._commitments.committed

    @property
    def spent(self) -> tuple[int, int]:
        """uain spent within the last hour, and within the last day."""
        return self._commitments.spent(self._context.now_ms())

    async def stop(self) -> None:
        """Sign no payment until `reset`, in this process and after it."""
        self._commitments.stop()
        await self._written()

    async def reset(self) -> None:
        """Close the breaker again; for a person to decide."""
        self.check()
        self._commitments.reset()
        await self._written()

    # --- the disk -------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise unless the vault signs.

        Raises:
            Closed: its block has ended.
            StorageError: its disk failed.
        """
        if self._closed:
            raise Closed("the vault is closed")
        if self._failed is not None:
            raise StorageError(f"the vault signs nothing more: {self._failed}") from self._failed

    async def _written(self) -> None:
        """Return when all that has changed is durable."""
        try:
            self._put_changes()
            await self._store.synced()
        except StorageError as exc:
            self._failed = exc
            raise

    def _put_changes(self) -> None:
        self._store.put_changes(self._commitments.take_changes())
        self._store.put_locks(*self._promises.take_changes())

    def _changed(self) -> None:
        """See to it that what has changed is written down soon."""
        if not self._flushing and self._crew is not None:
            self._flushing = True
            self._crew.start(self._flush)

    async def _flush(self) -> None:
        await trio.sleep(FLUSH_S)  # what comes meanwhile is written with it
        self._flushing = False
        with suppress(StorageError):  # remembered: every later call says so
            await self._written()

    def _end(self) -> None:
        """Settle what is open at what was signed, which is known exactly, and write it down."""
        self._closed = True
        for commitment in self._commitments.open_commitments():
            self._commitments.settle(commitment.job, self._context.now_ms())
        with suppress(StorageError):  # then it stays as it is: debited, and unsure
            self._put_changes()


@asynccontextmanager
async def open_vault(
    key: Key, policy: Policy, directory: Path | None, context: Context
) -> AsyncIterator[Vault]:
    """Hold `key` under `policy`; leaving the block writes down all that was signed.

    Args:
        directory: where the vault remembers; None for an ephemeral agent.

    Raises:
        StorageError: the files cannot be used, belong to another key or to a process that runs.
    """
    caught: Exception | None = None
    async with open_vault_store(directory, key.public, context.storage_of(directory)) as store:
        vault = Vault(key, policy, store, context)
        await vault._written()
        async with trio.open_nursery() as nursery:
            vault._crew = Crew(nursery)
            try:
                yield vault
            except Exception as exc:  # the caller's, not ours: keep it out of the group
                caught = exc
            finally:
                vault._crew = None
                vault._end()
            nursery.cancel_scope.cancel()
    if caught is not None:
        raise caught
