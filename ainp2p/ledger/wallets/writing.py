"""One operation's way from its signature to its certificate, and the rule that there is one at a time.

    registered ──fsync──► sent to all ──certificate──► final
                                 └──a quorum refuses, or another one took its slot──► an error

Per object at most one operation of ours is undecided. Whoever wants to write waits for `free`, then composes
and registers without a checkpoint in between: that is all the locking there is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import trio

from ainp2p.errors import Error, InvalidOperation, NotFinal, StorageError, TimedOut
from ainp2p.ledger.rules.operations import ParsedOperation
from ainp2p.ledger.serving.proofs import Proofs, Proven
from ainp2p.ledger.serving.sync import Validators
from ainp2p.ledger.wallets.submitting import Pending, Submitter
from ainp2p.ledger.wallets.wallet_store import WalletStore

FINALS_MAX = 4_096


class Writer:
    """Our undecided operations.

    Attributes:
        finals: our own operations that were decided lately → certificate; the book has them all.
    """

    def __init__(
        self,
        validators: Validators,
        proofs: Proofs,
        store: WalletStore,
        learn: Callable[[Proven, int], None],
        on_dropped: Callable[[ParsedOperation], None],
    ) -> None:
        """Prepare; nothing is sent before `run`.

        Args:
            learn: takes an operation that is proven final; it comes back by `note_final`.
            on_dropped: told of an operation that a quorum refuses.
        """
        self._proofs, self._store = proofs, store
        self._learn, self._on_dropped = learn, on_dropped
        self._submitter = Submitter(validators, self._on_certificate, self._on_refused)
        self._pending: dict[bytes, Pending] = {}  # by object
        self._nursery: trio.Nursery | None = None
        self.finals: dict[bytes, bytes] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def begin(self, nursery: trio.Nursery) -> None:
        """Send from now on, by tasks of this nursery, until `stop`."""
        self._nursery = nursery
        self._submitter.begin(nursery)

    def stop(self) -> None:
        """Begin nothing any more: the nursery ends."""
        self._nursery = None
        self._submitter.stop()

    def pending_on(self, object_: bytes) -> Pending | None:
        """Our undecided operation on an object."""
        return self._pending.get(object_)

    async def free(self, object_: bytes) -> None:
        """Wait until we have no undecided operation on this object. No checkpoint after the last look."""
        while object_ in self._pending:
            await self._pending[object_].resolved.wait()

    def register(self, parsed: ParsedOperation) -> Pending:
        """Take the object for this operation; `send` it next."""
        pending = Pending(parsed)
        self._pending[parsed.operation.object] = pending
        return pending

    def resume(self, parsed: ParsedOperation) -> None:
        """Send an operation from the journal again: the same bytes."""
        self._submitter.add(self.register(parsed))

    async def send(self, pending: Pending, notes: Mapping[bytes, int], now_ms: int) -> None:
        """fsync, then send. A caller that is cancelled has written it all the same: it goes on by itself.

        Raises:
            StorageError: it is not in the journal, so it was not sent.
        """
        try:
            self._store.journal(pending.parsed, notes, now_ms)
            await self._store.synced()
        except StorageError as exc:
            self._resolve(pending, error=exc)
            raise
        except trio.Cancelled:  # else it would hold its object for ever, and nobody would send it
            if self._nursery is not None:
                self._nursery.start_soon(self._send_alone, pending)
            raise
        self._submitter.add(pending)

    async def _send_alone(self, pending: Pending) -> None:
        try:
            await self._store.synced()
        except StorageError as exc:
            self._resolve(pending, error=exc)
            return
        self._submitter.add(pending)

    async def final(self, pending: Pending, deadline: float) -> bytes:
        """Wait for its certificate until `deadline` (of trio's clock).

        Raises:
            NotFinal: validators hold it and have not decided.
            TimedOut: whether any validator has it is unknown.
            InvalidOperation: it never will be final.
        """
        with trio.move_on_at(deadline):
            await pending.resolved.wait()
        if pending.error is not None:
            raise pending.error
        if pending.resolved.is_set():
            return pending.certificate
        if pending.seen_by:
            raise NotFinal(f"{len(pending.seen_by)} validators hold it, no quorum has decided; it goes on")
        raise TimedOut("no validator answers; whether any of them has it is unknown; it is sent again")

    def note_certificate(self, operation: bytes, certificate: bytes) -> None:
        """One of ours is final by this certificate."""
        self.finals[operation] = certificate
        if len(self.finals) > FINALS_MAX:
            del self.finals[next(iter(self.finals))]

    def note_final(self, proven: Proven) -> None:
        """An operation, ours or another's, is final: it decides what we have in its slot."""
        operation = proven.parsed.operation
        pending = self._pending.get(operation.object)
        if pending is None or operation.seq != pending.parsed.operation.seq:
            return
        if pending.id == proven.parsed.id:
            self.note_certificate(pending.id, proven.certificate)
            self._resolve(pending, proven.certificate)
        else:
            self._resolve(pending, error=InvalidOperation("slot", "another one was decided there"))

    def _on_certificate(self, pending: Pending, certificate: bytes) -> None:
        self._proofs.check_certificate(certificate, pending.id)
        self._learn(Proven(pending.parsed, certificate), 0)

    def _on_refused(self, pending: Pending, rule: str) -> None:
        """A quorum says that it can never be decided. Another operation may have taken its slot: look."""
        self._store.drop(pending.parsed)
        self._resolve(pending, error=InvalidOperation(rule, "a quorum of validators refuses it"))
        self._on_dropped(pending.parsed)

    def _resolve(self, pending: Pending, certificate: bytes = b"", error: Error | None = None) -> None:
        object_ = pending.parsed.operation.object
        if self._pending.get(object_) is pending:
            del self._pending[object_]
        pending.resolve(certificate, error)
