"""Getting signed operations decided: send them to every validator, again and again, until they are final.

An operation is handed over when it is on disk. Each validator has its own sender, so a slow one delays
nobody. The first operation leaves at once; what comes within TOGETHER_S of it travels together, without
waiting for the answer to what left before. When the committee changes, its new members are sent
what is still undecided. Sending the same bytes again is always safe: an operation is decided once, by its id.

    added ──Submit to all──► seen, locked … ──a certificate from anybody──► final
                                  └──a quorum says that it breaks a rule──► refused

An operation's id is that of its bytes, and its proofs are outside of them. A bad proof is thus said of what
came, and nothing of what we signed: whoever took it for a refusal would sign a second operation in the slot,
while a copy of the first one, with the proof that we made, may be on its way.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable

import trio

from ainp2p.errors import BadSignature, Error, LedgerError, NetworkError, RemoteError
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
TOGETHER_S = 0.02  # between two messages to one validator: as long as it gathers votes for one batch itself
LINGER_S = 10.0  # longer than a validator has for its answer
UNDER_WAY_MAX = 8  # messages to one validator that it has not answered; more would only wait there
_SIZE_MAX = BODY_SIZE_MAX // 2  # of one Submit; leaves room for the answer's certificates
_BAD_PROOF = BadSignature.__name__.encode()  # as a validator says it


class Pending:
    """One of our operations that is signed and journalled and not decided.

    Attributes:
        id: the operation's.
        resolved: set when it is final, or never will be.
        certificate: what makes it final.
        error: why it never will be.
        seen_by: validators that hold it.
    """

    def __init__(self, parsed: ParsedOperation) -> None:
        self.parsed = parsed
        self.id = parsed.id
        self.encoded = encode(parsed.signed)
        self.resolved = trio.Event()
        self.certificate = b""
        self.error: Error | None = None
        self.seen_by: set[PeerId] = set()
        self.refused_by: dict[PeerId, str] = {}

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
        self._added = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._sending = False

    def add(self, pending: Pending) -> None:
        """Send this until it is resolved. It must be durable."""
        self._pending[pending.id] = pending
        self._added.set()
        self._go()
        for sender in self._senders.values():
            sender.add(pending)

    def begin(self, nursery: trio.Nursery) -> None:
        """Send from now on, by tasks of this nursery, until `stop`."""
        self._nursery = nursery
        if self._pending:
            self._go()

    def stop(self) -> None:
        """Begin nothing any more: the nursery ends."""
        self._nursery = None

    def _go(self) -> None:
        if self._nursery is not None and not self._sending:
            self._sending = True
            self._nursery.start_soon(self._send_all)

    async def _send_all(self) -> None:
        """There are senders while there is something to send, and a while after it."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._validators.for_each, self._send_to)
                while self._added.is_set():
                    while self._pending:
                        id_, pending = next(iter(self._pending.items()))
                        if not pending.resolved.is_set():  # to wait for what has happened takes a turn too
                            await pending.resolved.wait()
                        self._pending.pop(id_, None)
                    self._added = trio.Event()
                    with trio.move_on_after(LINGER_S):  # the last answers are still on their way
                        await self._added.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._sending = False
        if self._pending:  # it came while the senders ended
            self._go()

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
        places = trio.Semaphore(UNDER_WAY_MAX)
        async with trio.open_nursery() as nursery:
            while True:
                await places.acquire()
                nursery.start_soon(self._submit, sender.peer, await sender.next_due(), places)
                await trio.sleep(TOGETHER_S)

    async def _submit(self, peer: PeerId, due: list[Pending], places: trio.Semaphore) -> None:
        question = Submit(tuple([pending.encoded for pending in due]), everywhere=1)
        try:
            answer = await self._validators.ask(peer, question, Statuses)
        except (NetworkError, RemoteError):
            return  # `next_due` has already put them off
        finally:
            places.release()
        for pending, status in zip(due, answer.statuses, strict=False):
            if not pending.resolved.is_set() and status.id == pending.id:
                self._note(peer, pending, status)

    def _note(self, peer: PeerId, pending: Pending, status: Status) -> None:
        if status.grade == FINAL:
            try:
                self._on_final(pending, status.certificate)
            except (RemoteError, LedgerError):  # no certificate, or a good one of something else
                return  # a lying validator; the others will tell
        elif status.grade in (SEEN, LOCKED):
            pending.seen_by.add(peer)
            pending.refused_by.pop(peer, None)
        elif status.grade == REFUSED and status.rule != _BAD_PROOF:
            pending.refused_by[peer] = status.rule.decode(errors="replace")
            if self._validators.is_quorum(pending.refused_by):
                self._on_refused(pending, pending.refused_by[peer])
        if pending.resolved.is_set():
            self._pending.pop(pending.id, None)


class _Sender:
    """What one validator is still to be sent, and when."""

    def __init__(self, peer: PeerId) -> None:
        self.peer = peer
        self._new: deque[Pending] = deque()
        self._again: list[tuple[float, int, float, Pending]] = []  # when, turn, pause after it, what; a heap
        self._turn = 0  # equal times in the order of their sending
        self._added = trio.Event()

    def add(self, pending: Pending) -> None:
        self._new.append(pending)
        self._added.set()

    async def next_due(self) -> list[Pending]:
        """Wait for operations that are to be sent now; they will be due again, ever later."""
        while True:
            now = trio.current_time()
            due = self._take(now)
            if due:
                return due
            self._added = trio.Event()
            with trio.move_on_at(self._again[0][0] if self._again else math.inf):
                await self._added.wait()

    def _take(self, now: float) -> list[Pending]:
        taken: list[Pending] = []
        size = 0
        while (found := self._next(now)) is not None:
            pause, pending = found
            size += len(pending.encoded)
            if taken and (size > _SIZE_MAX or len(taken) == OPERATIONS_MAX):
                break
            self._drop_next()
            taken.append(pending)
            self._turn += 1
            again = now + pause, self._turn, min(2 * pause, RESEND_AFTER_MAX_S), pending
            heapq.heappush(self._again, again)
        return taken

    def _next(self, now: float) -> tuple[float, Pending] | None:
        """The pause after, and what is to be sent next: what is new first, then what was sent before."""
        while self._new and self._new[0].resolved.is_set():
            self._new.popleft()
        if self._new:
            return RESEND_AFTER_S, self._new[0]
        while self._again and self._again[0][3].resolved.is_set():
            heapq.heappop(self._again)
        if self._again and self._again[0][0] <= now:
            return self._again[0][2], self._again[0][3]
        return None

    def _drop_next(self) -> None:
        if self._new:
            self._new.popleft()
        else:
            heapq.heappop(self._again)
