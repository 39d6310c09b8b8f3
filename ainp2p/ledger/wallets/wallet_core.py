"""What a wallet knows of its account, and how it learns: the part of it that moves no money.

Everything is learnt with a certificate: from a validator that is followed, from all of them when something
was missed, and from the wallet's own journal after a restart.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import trio

from ainp2p.errors import Closed, Error, TimedOut
from ainp2p.ledger.rules.accounts import Account
from ainp2p.ledger.rules.genesis import Genesis, Parameters
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.operations import (
    Inception,
    Operation,
    ParsedOperation,
    Signer,
    Spend,
)
from ainp2p.ledger.rules.receipts import ReceiptBook
from ainp2p.ledger.serving.proofs import Proofs, Proven
from ainp2p.ledger.serving.sync import Validators
from ainp2p.ledger.voting.committee_chain import Epoch
from ainp2p.ledger.wallets.committee_clock import CommitteeClock
from ainp2p.ledger.wallets.following import Following
from ainp2p.ledger.wallets.income import Income
from ainp2p.ledger.wallets.lookup import newest_account
from ainp2p.ledger.wallets.mirror import Mirror
from ainp2p.ledger.wallets.ordering import Orders
from ainp2p.ledger.wallets.purse import REMEMBERED_MAX, Balance, Purse
from ainp2p.ledger.wallets.purse_snapshot import restore, rows_of
from ainp2p.ledger.wallets.spending import Plan, Wish, plan_spend
from ainp2p.ledger.wallets.wallet_keys import KeyRing
from ainp2p.ledger.wallets.wallet_store import Recorded, WalletStore
from ainp2p.ledger.wallets.wallet_views import LockState, WalletStatistics
from ainp2p.ledger.wallets.writing import Writer
from ainp2p.protocol.network import Network

FINALITY_TIMEOUT_S = 30.0  # normally 0.1 s; a call that waits so long says what it knows and gives up
SNAPSHOT_EVERY = 4_096  # operations, and no more often than there are rows to write
ASK_TIME_AGAIN_S = 1.0  # while nobody tells it, and an operation waits to be signed
READY_TIMEOUT_S = 15.0  # for the first answer of the committee after opening


class WalletCore:
    """One account, looked at. `ainp2p.ledger.wallets.wallet.Wallet` pays and is paid.

    Attributes:
        network: what it was opened on.
    """

    def __init__(
        self,
        network: Network,
        genesis: Genesis,
        store: WalletStore,
        inception: Inception,
        keys: KeyRing,
        on_news: Callable[[bytes], None],
        checkpoint: bytes | None = None,
    ) -> None:
        """Prepare; nothing is asked or sent before `run` of the parts.

        Args:
            on_news: told of each Lock that has a new state or a new receipt.
            checkpoint: id of a COMMITTEE without which no chain of committees is believed.
        """
        self.network = network
        self._context = network.context
        self._network_id = genesis.network_id
        self._keys, self._inception, self._store, self._on_news = keys, inception, store, on_news
        self._purse = Purse(genesis, self._network_id, inception, keys.first.public)
        self._purse.keys |= keys.publics
        self._proofs = Proofs(genesis)
        self._validators = Validators(network, genesis)
        self._following = Following(
            self._validators, self._proofs.chain, store.put_committee, pinned=checkpoint
        )
        self._purse.parameters_of = self._following.parameters
        self._writer = Writer(self._validators, self._proofs, store, self._learn, self._on_dropped)
        self._clock = CommitteeClock(self._validators, self.now_ms, lambda: self.parameters.clock_ahead_ms)
        self._mirror = Mirror(
            self._validators,
            self._following,
            self._proofs,
            self._purse,
            self._learn,
            self._on_lock,
            self._clock,
        )
        self._orders = Orders(
            self.account_id, self._writer, self._signer_for, self._plan, self._know_the_time, self.now_ms
        )
        self._income = Income(self._network_id, store, on_news)
        self._certificates: dict[bytes, bytes] = {}  # Lock → of its newest operation
        self._unfolded = 0  # operations since the last snapshot
        self._closed = False

    @property
    def account_id(self) -> bytes:
        """The account's id."""
        return self._purse.id

    @property
    def parameters(self) -> Parameters:
        """The fees and limits of the newest epoch that is known."""
        return self._proofs.chain.newest.parameters

    @property
    def epoch(self) -> Epoch:
        """The newest epoch that is known: its committee, when it began."""
        return self._proofs.chain.newest

    @property
    def book(self) -> ReceiptBook:
        """The receipts that pay us. Use `accept`, which also makes them durable."""
        return self._income.book

    def now_ms(self) -> int:
        """The time by the network's context."""
        return self._context.now_ms()

    @property
    def account(self) -> Account:
        """Its newest final state here: key, guardians, lease."""
        return self._purse.account

    @property
    def is_owner(self) -> bool:
        """Whether we hold the account's current key: not after it was recovered by guardians."""
        return self._keys.is_current(self._purse.account)

    def _signer_for(self, operation: Operation) -> Signer:
        return self._keys.signer_for(self._purse.account, operation)

    def _plan(self, wishes: list[Wish]) -> Plan:
        return plan_spend(
            wishes,
            self._purse.account,
            self._purse.credits,
            self.parameters,
            network=self._network_id,
            now_ms=self._clock.signing_ms(),
            inception=self._inception,
            epoch=max(self.epoch.number, self._purse.account.epoch),
        )

    async def _know_the_time(self) -> None:
        """Wait until validators agree with our clock, or have said, asked anew, how far it is off."""
        while not self._clock.is_certain():
            self._clock.forget()
            with suppress(Error):  # as long as nobody answers, nothing could be decided either
                await self._mirror.refresh()
            if self._clock.accept():
                return
            await trio.sleep(ASK_TIME_AGAIN_S)

    # --- reading ----------------------------------------------------------------------------------

    async def balance(self) -> Balance:
        """What the account has, as of now; a payment under way counts as made.

        Raises:
            TimedOut: no validator has answered since the wallet was opened.
        """
        await self._ready()
        pending = self._writer.pending_on(self.account_id)
        spend = pending.parsed.operation.body if pending is not None else None
        assert spend is None or isinstance(spend, Spend)
        return self._purse.balance(spend, self._income.promised())

    async def refresh(self) -> None:
        """Ask all validators for the newest proven state, without waiting for what they announce.

        Raises:
            TimedOut: nobody answers.
        """
        self._check_open()
        await self._mirror.refresh()

    async def lock(self, lock: bytes) -> LockState:
        """A final Lock, ours or anybody's; receipts for it are accepted from now on if it pays us.

        Raises:
            NotFinal: no validator that answers knows it.
            TimedOut: nobody answers.
        """
        self._check_open()
        known = self._purse.locks.get(lock)
        if known is not None and lock in self._certificates:
            return LockState(known, self._certificates[lock])
        return LockState(*await self._mirror.fetch_lock(lock))

    async def locks(self) -> list[LockState]:
        """Open Locks in which the account pays, is paid, or closes; the first to expire first."""
        await self._ready()
        locks = sorted(self._purse.locks.values(), key=lambda lock: (lock.expiry, lock.id))
        return [LockState(lock, self._certificates.get(lock.id, b"")) for lock in locks if not lock.ended]

    async def discover_locks(self) -> list[LockState]:
        """Ask for open Locks that concern us although nobody has told us of them; then all, as `locks`.

        Raises:
            TimedOut: no validator answers.
        """
        await self._ready()
        for party in (self.account_id, *sorted(self._purse.keys)):
            await self._mirror.discover_locks(party)
        return await self.locks()

    async def account_of(self, id_: bytes) -> Account:
        """Anybody's account after its last final operation: which key it has now.

        Raises:
            NotFinal: nothing was decided on it yet, as far as is known.
            TimedOut: nobody answers.
        """
        self._check_open()
        return await newest_account(self._validators, self._proofs, id_)

    async def history(self, limit: int = 100) -> list[Recorded]:
        """Operations of ours, and those that concerned us, newest first."""
        self._check_open()
        return await self._store.history(limit)

    async def prune_history(self, keep: int) -> None:
        """Delete the book but for its last `keep` operations, what is pending, and payments with a note.

        What the wallet has does not change: the rest is in its snapshot, durably, in the same moment.
        """
        self._check_open()
        self._fold()
        self._store.prune(keep)
        await self._store.synced()

    def statistics(self) -> WalletStatistics:
        """How much is under way."""
        return WalletStatistics(
            pending=len(self._writer),
            waiting=len(self._orders),
            locks=len(self._purse.locks),
            head_seq=self._purse.account.seq,
            refreshed=self._mirror.refreshed.is_set(),
        )

    # --- learning ---------------------------------------------------------------------------------

    def _learn(self, proven: Proven, received: int) -> None:
        """Take in a final operation, ours or another's, once; where it leaves a gap, ask."""
        parsed, operation = proven.parsed, proven.parsed.operation
        if not self._purse.has(parsed.id):
            effect = self._purse.apply(parsed)
            received = max(received, effect.received)
            for lock in effect.locks:
                self._on_lock(lock, proven.certificate)
            if effect.gap == self.account_id:
                self._mirror.doubt_credits(soon_again=True)
            elif effect.gap is not None:
                self._mirror.report_gap(effect.gap)
            ours = operation.object == self.account_id or operation.object in self._purse.locks
            if ours or received or effect.locks:  # else somebody tells us of what is not our business
                recorded = Recorded(parsed, proven.certificate, self.now_ms(), received, effect.spent)
                self._store.put_final(recorded)
                self._unfolded += 1
                self._tidy()
        self._writer.note_final(proven)

    def _on_dropped(self, parsed: ParsedOperation) -> None:
        self._orders.forget(parsed.id)
        if parsed.operation.object == self.account_id:
            self._mirror.doubt_credits()  # perhaps it consumed one that is no more
        else:
            self._mirror.report_gap(parsed.operation.object)

    def _on_lock(self, lock: Lock, certificate: bytes) -> None:
        """A Lock that concerns us has a new state."""
        self._certificates[lock.id] = certificate
        self._income.place(lock)
        self._on_news(lock.id)

    def _tidy(self) -> None:
        """Forget Locks that ended long ago, and fold the book now and then, so that a start reads little."""
        for lock in self._purse.take_left():
            self._certificates.pop(lock, None)
            self._income.forget(lock)
        rows = len(self._purse.credits) + len(self._purse.locks)
        if self._unfolded >= max(SNAPSHOT_EVERY, rows):
            self._fold()

    def _fold(self) -> None:
        self._unfolded = 0
        self._store.put_snapshot(rows_of(self._purse, self._certificates))

    # --- life ---------------------------------------------------------------------------------------

    def _restore(self) -> None:
        """Take up where the journal ends: what is pending is sent again, the same bytes."""
        self._store.claim(self.account_id, self._network_id)
        self._following.restore(self._store.committees())
        self._orders.notes = self._store.notes()
        self._income.restore()
        snapshot = self._store.snapshot()
        if snapshot:
            for lock, certificate in restore(self._purse, snapshot, self._store.folded(REMEMBERED_MAX // 2)):
                self._on_lock(lock, certificate)
        for recorded in self._store.operations():
            if recorded.certificate:
                self._writer.note_certificate(recorded.parsed.id, recorded.certificate)
                effect = self._purse.apply(recorded.parsed)
                for lock in effect.locks:
                    self._on_lock(lock, recorded.certificate)
                if effect.gap is not None:
                    self._mirror.report_gap(effect.gap)
                self._unfolded += 1
            else:
                self._writer.resume(recorded.parsed)
        self._tidy()

    async def _ready(self) -> None:
        self._check_open()
        with trio.move_on_after(READY_TIMEOUT_S):
            await self._mirror.refreshed.wait()
        if not self._following.is_trusted:
            raise TimedOut("no validator shows a chain of COMMITTEEs that contains the pinned checkpoint")
        if not self._mirror.refreshed.is_set():
            raise TimedOut("no validator has answered yet: check the network, or ask again")

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("the wallet was closed")
