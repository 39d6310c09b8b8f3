"""Getting signed operations decided: send them to every validator, again and again, until they are final.

An operation is handed over when it is on disk. Each validator has its own sender, so a slow one delays
nobody; what waits for one validator travels together. When the committee changes, its new members are sent
what is still undecided. Sending the same bytes again is always safe: an
operation is decided once, by its id.

    added ──Submit to all──► seen, locked … ──a certificate from anybody──► final
                                  └──a quorum says that it breaks a rule──► refused
"""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

from ainp2p.errors import Error, LedgerError, NetworkError, RemoteError
from ainp2p.ledger.rules.operations import ParsedOperation
from ainp2p.ledger.serving.messages import (
    BODY_SIZE_MAX,
    FINAL,
    LOCKED,
    OPERATIONS_MAX,
    REFUSED,
    SEEN,
    Status,
    Statuses,
    Submit,
)
from ainp2p.ledger.serving.sync import Validators
from ainp2p.protocol.codec import encode
from ainp2p.protocol.network import PeerId

RESEND_AFTER_S = 1.0  # the first time; finality normally takes a tenth of that
RESEND_AFTER_MAX_S = 15.0
_SIZE_MAX = BODY_SIZE_MAX // 2  # of one Submit; leaves room for the answer's certificates


class Pending:
    """One of our operations that is signed and journalled and not decided.

    Attributes:
        resolved: set when it is final, or never will be.
        certificate: what makes it final.
        error: why it never will be.
        seen_by: validators that hold it.
    """

    def __init__(self, parsed: ParsedOperation) -> None:
        self.parsed = parsed
        self.encoded = encode(parsed.signed)
        self.resolved = trio.Event()
        self.certificate = b""
        self.error: Error | None = None
        self.seen_by: set[PeerId] = set()
        self.refused_by: dict[PeerId, str] = {}

    @property
    def id(self) -> bytes:
        """The operation's id."""
        return self.parsed.id

    def resolve(self, certificate: bytes = b"", error: Error | None = None) -> None:
        """Final by this certificate, or never, for this reason. Only the first call counts."""
        if not self.resolved.is_set():
            self.certificate, self.error = certificate, error
            self.resolved.set()


class Submitter:
    """Sends pending operations; what validators say of them goes to `on_final` and `on_refused`."""

    def __init__(
        self,
        validators: Validators,
        on_final: Callable[[Pending, bytes], None],
        on_refused: Callable[[Pending, str], None],
    ) -> None:
        """Prepare to send; nothing is sent before `run`.

        Args:
            on_final: called with a certificate that a validator showed; raises what is wrong with it.
            on_refused: called with the rule by which a quorum refuses an operation.
        """
        self._validators, self._on_final, self._on_refused = validators, on_final, on_refused
        self._pending: dict[bytes, Pending] = {}
        self._senders: dict[PeerId, _Sender] = {}

    def add(self, pending: Pending) -> None:
        """Send this until it is resolved. It must be durable."""
        self._pending[pending.id] = pending
        for sender in self._senders.values():
            sender.add(pending)

    async def run(self) -> None:
        """Send until cancelled."""
        await self._validators.for_each(self._send_to)

    async def _send_to(self, peer: PeerId) -> None:
        sender = self._senders[peer] = _Sender(peer)
        for id_, pending in list(self._pending.items()):
            if pending.resolved.is_set():
                del self._pending[id_]
            else:
                sender.add(pending)
        try:
            await self._send(sender)
        finally:
            del self._senders[peer]

    async def _send(self, sender: _Sender) -> None:
        while True:
            due = await sender.next_due()
            question = Submit(tuple(pending.encoded for pending in due), everywhere=1)
            try:
                answer = await self._validators.ask(sender.peer, question, Statuses)
            except (NetworkError, RemoteError):
                continue  # `next_due` has already put them off
            for pending, status in zip(due, answer.statuses, strict=False):
                if not pending.resolved.is_set() and status.id == pending.id:
                    self._note(sender.peer, pending, status)

    def _note(self, peer: PeerId, pending: Pending, status: Status) -> None:
        if status.grade == FINAL:
            try:
                self._on_final(pending, status.certificate)
            except (RemoteError, LedgerError):  # no certificate, or a good one of something else
                return  # a lying validator; the others will tell
        elif status.grade in (SEEN, LOCKED):
            pending.seen_by.add(peer)
            pending.refused_by.pop(peer, None)
        elif status.grade == REFUSED:
            pending.refused_by[peer] = status.rule.decode(errors="replace")
            if self._validators.is_quorum(pending.refused_by):
                self._on_refused(pending, pending.refused_by[peer])
        if pending.resolved.is_set():
            self._pending.pop(pending.id, None)


class _Sender:
    """What one validator is still to be sent, and when."""

    def __init__(self, peer: PeerId) -> None:
        self.peer = peer
        self._due: dict[bytes, tuple[float, float, Pending]] = {}  # id → (when, pause after it, what)
        self._added = trio.Event()

    def add(self, pending: Pending) -> None:
        self._due[pending.id] = (-math.inf, RESEND_AFTER_S, pending)
        self._added.set()

    async def next_due(self) -> list[Pending]:
        """Wait for operations that are to be sent now; they will be due again, ever later."""
        while True:
            now = trio.current_time()
            for id_ in [id_ for id_, entry in self._due.items() if entry[2].resolved.is_set()]:
                del self._due[id_]
            due = self._take(now)
            if due:
                return due
            self._added = trio.Event()
            earliest = min((when for when, _, _ in self._due.values()), default=math.inf)
            with trio.move_on_at(earliest):
                await self._added.wait()

    def _take(self, now: float) -> list[Pending]:
        taken: list[Pending] = []
        size = 0
        for id_, (when, pause, pending) in list(self._due.items()):
            if when > now:
                continue
            size += len(pending.encoded)
            if len(taken) == OPERATIONS_MAX or (taken and size > _SIZE_MAX):
                break
            taken.append(pending)
            self._due[id_] = (now + pause, min(2 * pause, RESEND_AFTER_MAX_S), pending)
        return taken
