"""A wallet: one account on a Network, and the receipts that pay it.

*Sign once.* An operation is composed on final state, signed, journalled (fsync) and only then sent, to every
validator, until a certificate says that it is final. After a crash the same bytes are sent again. A call that
gives up waiting raises `NotFinal` or `TimedOut`; the journal goes on, and a repetition under the same `note`
finds the first payment instead of making a second one.

Writes on one object are serial: what is wanted of the account meanwhile is collected into its next SPEND. A
receipt is durable before `accept` returns. Only the payee settles, as `SettlePolicy` says.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from ainp2p.errors import InvalidInput, TimedOut
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.operations import (
    Inception,
    Signer,
    lock_id,
    plain_inception,
    purpose_digest,
)
from ainp2p.ledger.rules.receipts import Booked, Release, SignedReceipt
from ainp2p.ledger.rules.releases import Partial, sign_release
from ainp2p.ledger.rules.shares import Split, flatten_shares
from ainp2p.ledger.wallets.beating import keep_beating
from ainp2p.ledger.wallets.handing import Handover
from ainp2p.ledger.wallets.lock_desk import LockDesk, each_lock
from ainp2p.ledger.wallets.purse import Balance
from ainp2p.ledger.wallets.recovery import Recovery, new_recovery
from ainp2p.ledger.wallets.settling import DEFAULT_POLICY, SettlePolicy, Settler
from ainp2p.ledger.wallets.spending import Beat, Deposit, Payment, Turn, Wish
from ainp2p.ledger.wallets.wallet_core import WalletCore
from ainp2p.ledger.wallets.wallet_keys import KeyRing
from ainp2p.ledger.wallets.wallet_store import WalletStore, open_wallet_store
from ainp2p.ledger.wallets.wallet_views import Final, LockState
from ainp2p.protocol.network import Network, PeerId
from ainp2p.protocol.storage import Storage

FINALITY_TIMEOUT_S = 30.0  # normally 0.1 s; a call that waits so long says what it knows and gives up
READY_TIMEOUT_S = 15.0  # for the first answer of the committee after opening


class Wallet(WalletCore):
    """One account; `open_wallet` makes it."""

    def __init__(
        self,
        network: Network,
        genesis: Genesis,
        store: WalletStore,
        inception: Inception,
        policy: SettlePolicy,
        keys: KeyRing,
        watchtowers: Sequence[PeerId],
        checkpoint: bytes | None = None,
    ) -> None:
        super().__init__(
            network, genesis, store, inception, keys, lambda lock: self._settler.note(lock), checkpoint
        )
        self._policy = policy
        self._settler = Settler(self, self._purse, policy)
        self._handover = Handover(network, self._income, watchtowers)
        self._desk = LockDesk(self._network_id, self._writer, self._income, keys, self.lock, self.now_ms)

    # --- spending ---------------------------------------------------------------------------------

    async def send(
        self, to: bytes, amount: int, *, note: bytes | None = None, timeout_s: float = FINALITY_TIMEOUT_S
    ) -> Final:
        """Pay `amount` uain to an account; returns once it is final.

        Args:
            note: names this payment for ever: a call with the same note is the same payment.

        Raises:
            InsufficientFunds: nothing was signed.
            NotFinal, TimedOut: not final in time; it is journalled and goes on. Ask again with the same note.
        """
        if amount < 1 or len(to) != 32:
            raise InvalidInput("a payment is at least 1 uain, to an account's 32-byte id")
        return await self._order(Payment(to, amount), note, timeout_s)

    async def open_lock(
        self,
        beneficiaries: Split,
        closer: bytes,
        deposit: int,
        step: int,
        life_ms: int,
        purpose: bytes = b"",
        *,
        authority: Sequence[bytes] = (),
        threshold: int = 1,
        note: bytes | None = None,
        timeout_s: float = FINALITY_TIMEOUT_S,
    ) -> LockState:
        """Put a deposit behind receipts that this account's key will sign; returns once it is final.

        Args:
            beneficiaries: (account, parts) of everybody who is paid; in place of an account another such
                list may stand. `locks.ANY_PAYEE` for a bounty, whose verifiers will name the account.
            closer: the key that may end it early: normally the payee's.
            step: a SETTLE pays at least so many uain.
            authority: keys that sign receipts instead of ours, `threshold` of them.

        Raises:
            As `send`.
        """
        wish = Deposit(
            beneficiaries=flatten_shares(beneficiaries),
            deposit=deposit,
            step=step,
            authority=tuple(authority) or (self._keys.first.public,),
            threshold=threshold,
            closer=closer,
            life_ms=life_ms,
            purpose=purpose_digest(purpose),
        )
        if deposit < 1 or step < 1 or not 0 < life_ms <= self.parameters.lock_life_ms_max:
            raise InvalidInput(
                "a deposit and its step are at least 1 uain, and its life at most "
                f"{self.parameters.lock_life_ms_max} ms on this network"
            )
        final = await self._order(wish, note, timeout_s)
        return await self.lock(lock_id(final.operation, final.place))

    async def _order(self, wish: Wish, note: bytes | None, timeout_s: float) -> Final:
        self._check_open()
        deadline = trio.current_time() + timeout_s
        named = self._orders.named(note) if note is not None else None
        if named is None:
            pending, place = await self._orders.place(wish, note, deadline)
            return Final(pending.id, await self._writer.final(pending, deadline), place)
        operation, place = named
        under_way = self._writer.pending_on(self.account_id)
        if under_way is not None and under_way.id == operation:
            return Final(operation, await self._writer.final(under_way, deadline), place)
        certificate = self._writer.finals.get(operation) or await self._store.certificate(operation)
        return Final(operation, certificate, place)

    async def rotate(
        self, following: Signer, after: bytes, *, timeout_s: float = FINALITY_TIMEOUT_S
    ) -> Final:
        """Make the next key the account's key, and commit to `after` as the one to follow it.

        Args:
            following: the next key, which the account's inception or last rotation has committed to.
            after: a public key; keep its secret sealed, away from where the current one is used.

        Raises:
            InvalidInput: `following` is not the next key, or `after` is no new one. Nothing was signed.
            NotFinal, TimedOut: not final in time; it is journalled and goes on.
        """
        await self._ready()
        self._keys.add(following)
        self._purse.keys.add(following.public)
        turn = Turn(self._keys.rotation(self._purse.account, after))
        return await self._order(turn, None, timeout_s)

    async def beat(self, *, timeout_s: float = FINALITY_TIMEOUT_S) -> Final:
        """Say that the owner is alive; with guardians the wallet does so by itself, thrice a lease.

        Raises:
            As `send`.
        """
        return await self._order(Beat(), None, timeout_s)

    async def ask_guardians(
        self, key: bytes, following: bytes, *, timeout_s: float = FINALITY_TIMEOUT_S
    ) -> Recovery:
        """A request that guardians give the account `key`, and commit it to `following` as its next one.

        It says the committee's time where our clock differs: the lease is counted by it, and a RECOVER that
        is ahead of its validators' clocks would wait for that time, and the account with it.

        Raises:
            InvalidOperation: as `new_recovery`: among others, the owner's lease has not lapsed.
            TimedOut: no validator says what time it is.
        """
        await self._ready()
        with trio.move_on_after(timeout_s):
            await self._know_the_time()
            return new_recovery(
                self.account,
                key,
                following,
                self.parameters,
                network=self._network_id,
                now_ms=self._clock.signing_ms(),
            )
        raise TimedOut("no validator says what time it is, and the lease is counted by their clocks")

    async def _write_account(self) -> None:
        await self._mirror.refreshed.wait()  # an operation on a stale head would be a second one in its slot
        await self._orders.run()

    # --- being paid -------------------------------------------------------------------------------

    async def accept(self, signed: SignedReceipt) -> Booked:
        """Take a receipt; it is durable when this returns, and will be settled by the policy.

        Raises:
            As `ReceiptBook.accept`: InvalidReceipt, BadSignature, Malformed; nothing has changed then.
            StorageError: it may not survive a crash; deliver nothing for it.
        """
        self._check_open()
        booked = self.book.accept(signed, self.now_ms())
        await self.save_receipts()
        return booked

    async def save_receipts(self) -> None:
        """Make durable what `book.accept` took; many at once cost one fsync."""
        await self._income.save()

    def paying_locks(self) -> tuple[Lock, ...]:
        """Locks for which receipts can come."""
        return self._income.locks()

    def unsettled(self, lock: bytes) -> int:
        """uain that the best receipt for a Lock is worth beyond what the ledger has paid."""
        return self._income.unsettled(lock)

    def unsettled_releases(self) -> list[Release]:
        """The best receipt of each Lock that owes something: what a watchtower should hold."""
        best = [self._income.best(lock.id) for lock in self._income.locks() if self.unsettled(lock.id)]
        return [release for release in best if release is not None]

    async def sign_release(
        self, lock: bytes, cumulative: int, *, payee: bytes | None = None, reason: bytes = b""
    ) -> Partial:
        """As a verifier of an escrow or a bounty: our signature that `cumulative` uain in all are earned.

        Args:
            payee: whom a bounty pays.
            reason: why an escrow pays; every verifier gives the same.

        Raises:
            InvalidReceipt: as `releases.sign_release`.
        """
        state = await self.lock(lock)
        return sign_release(
            self._network_id, state.lock, cumulative, self._keys.first, payee=payee, reason=reason
        )

    async def add_release(self, part: Partial, lock: bytes) -> Release | None:
        """Collect a verifier's signature, durably; once k have come, the release that anybody can settle.

        Raises:
            InvalidReceipt, BadSignature, Malformed: it is none for this Lock.
        """
        return await self._income.add_part((await self.lock(lock)).lock, part)

    async def hand_over(self) -> int:
        """Give our highest receipts to the watchtowers now; how many of them hold all on their disks."""
        return await self._handover.hand_over()

    async def settle(self, lock: bytes, *, timeout_s: float = FINALITY_TIMEOUT_S) -> LockState:
        """Turn a Lock's highest receipt into credits; returns once that is final. Nothing new: no operation.

        Raises:
            InvalidReceipt: rule ``"lock"``: no receipt is held for it.
            InvalidOperation: rule ``"step"``: too little for a SETTLE; `close` the Lock instead.
            NotFinal, TimedOut: not final in time; it is journalled and goes on.
        """
        return await self._desk.settle(lock, timeout_s)

    async def close(self, lock: bytes, *, timeout_s: float = FINALITY_TIMEOUT_S) -> LockState:
        """End a Lock whose closer we are, at the highest receipt; the rest goes back to its payer.

        Raises:
            InvalidOperation: rule ``"closer"``: the key is another's, and the Lock has not expired.
            NotFinal, TimedOut: not final in time; it is journalled and goes on.
        """
        return await self._desk.close(lock, timeout_s)

    async def refund(self, lock: bytes, *, timeout_s: float | None = None) -> LockState:
        """End an expired Lock; what is left goes back to its payer. Validators wait before they agree.

        Raises:
            NotYet: rule ``"not-expired"``.
            NotFinal, TimedOut: not final in time; it is journalled and goes on.
        """
        gates_s = (self.parameters.gate_hold_ms + self.parameters.gate_contact_ms) / 1000
        return await self._desk.refund(lock, timeout_s or FINALITY_TIMEOUT_S + gates_s)

    async def settle_all(self) -> None:
        """Settle everything that can be; what fails stays for the next time."""
        await self._settler.settle_all()

    async def close_all(self) -> list[LockState]:
        """End every open Lock whose closer we are: how a payee leaves, or a reopened wallet settles up.

        Raises:
            As `close`, once all of them were tried; a repetition tries the rest again.
        """
        await self._ready()
        ids = [lock.id for lock in self._purse.locks.values() if not lock.ended and self.is_closer(lock)]
        return await each_lock(ids, self.close)

    def is_closer(self, lock: Lock) -> bool:
        """Whether our key may end this Lock early."""
        return self._keys.get(lock.closer) is not None

    def _begin(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self._following.run)
        self._writer.begin(nursery)
        self._mirror.begin(nursery)
        self._orders.begin(partial(nursery.start_soon, self._write_account))
        nursery.start_soon(self._settler.run, nursery)
        if self._handover.has_towers:
            nursery.start_soon(self._handover.run)
        if self._policy.heartbeat and self._inception.guardians:
            nursery.start_soon(keep_beating, self)


@asynccontextmanager
async def open_wallet(
    network: Network,
    genesis: Genesis,
    signer: Signer,
    directory: Path | None,
    *,
    inception: Inception | None = None,
    other_keys: Sequence[Signer] = (),
    watchtowers: Sequence[PeerId] = (),
    policy: SettlePolicy = DEFAULT_POLICY,
    checkpoint: bytes | None = None,
    storage: Storage | None = None,
) -> AsyncIterator[Wallet]:
    """Open the account of `signer`'s key; leaving the block settles what is owed, for a few seconds at most.

    Args:
        directory: where the journal and the receipts are; None: in memory, for tests and throw-away agents.
        inception: of the account; by default the plain one of the signer's key.
        other_keys: older or newer keys of the account, where a rotation may have been under way.
        watchtowers: peers that get our highest receipts now and then, and settle them if we vanish.
        checkpoint: id of a COMMITTEE that you trust: nothing is believed before a chain is shown that has it.
        storage: where `directory` is; None: the storage of the network's context.

    Raises:
        StorageError: the directory cannot be used, is in use, or belongs to another account.
    """
    inception = inception or plain_inception(signer.public)
    caught: Exception | None = None
    async with open_wallet_store(directory, storage or network.context.storage_of(directory)) as store:
        keys = KeyRing(signer, other_keys)
        wallet = Wallet(network, genesis, store, inception, policy, keys, watchtowers, checkpoint)
        wallet._restore()
        await store.synced()
        async with trio.open_nursery() as nursery:
            wallet._begin(nursery)
            try:
                yield wallet
                if policy.at_close_s > 0:  # a scope that has ended would still let the first messages out
                    with trio.move_on_after(policy.at_close_s):
                        await wallet.settle_all()
            except Exception as exc:  # the caller's, not ours: keep it out of the group
                caught = exc
            finally:
                wallet._closed = True
                wallet._writer.stop()
                wallet._mirror.stop()
                wallet._orders.stop()
            nursery.cancel_scope.cancel()
    if caught is not None:
        raise caught


__all__ = ["Balance", "Final", "LockState", "SettlePolicy", "Wallet", "open_wallet"]
