"""The peer's calls on a channel, as this end serves them. No I/O.

Called ──► finish | refuse                     (a request)
Called ──► send_chunk* ──► finish | refuse     (a stream)
  … ──► Cancelled ──► finish                   (the caller has gone; the handler has still to end)
"""

from __future__ import annotations

from collections import deque

from ainp2p.errors import Broken, Malformed, Refused
from ainp2p.protocol import frames as f
from ainp2p.protocol.bodies import Grant, Parts, begin, check_size, read_amount
from ainp2p.protocol.frames import HEADER, PAYLOAD_MAX, U32, Event, Limits
from ainp2p.protocol.outbox import Body, Outbox


class _Call:
    """A call: until its handler has finished and its reply is sent."""

    __slots__ = ("backlog", "cost", "credit", "kind", "last", "open", "running", "sending")

    def __init__(self, kind: int, cost: int, credit: int) -> None:
        self.kind, self.cost, self.credit = kind, cost, credit
        self.open = kind != f.ONE_WAY  # the caller waits for more
        self.running = True  # the handler has not finished
        self.sending = False  # a large body of this call is on its way
        self.backlog: deque[bytes] = deque()  # chunks that wait for credit or for that body
        self.last: bytes | None = None  # the frame that closes the call after the backlog


class Callee:
    """The calls that the peer has made."""

    def __init__(self, limits: Limits, outbox: Outbox) -> None:
        self._limits, self._outbox = limits, outbox
        self._calls: dict[int, _Call] = {}
        self._coming: dict[int, tuple[int, str, Parts]] = {}  # calls that are partly here
        self._open = 0  # requests and streams that wait for a reply
        self._highest = 0
        self._credit = limits.chunk_window  # what the peer lets us send
        self._grant = Grant(limits.call_window)  # what we let it send
        self._stalled: dict[int, None] = {}  # streams with a backlog, oldest first
        self._drained: list[int] = []
        self.readers = {
            f.REQUEST: self._read_call,
            f.STREAM: self._read_call,
            f.ONE_WAY: self._read_call,
            f.CALL_MORE: self._read_call_more,
            f.CANCEL: self._read_cancel,
            f.CREDIT: self._read_credit,
            f.CHUNK_CREDIT: self._read_credit,
        }

    @property
    def idle(self) -> bool:
        """No call of the peer's is open or being served."""
        return not (self._calls or self._coming)

    def finish(self, call: int, body: bytes = b"") -> None:
        """The handler has returned: `body` answers a request; a stream ends; else nothing is sent.

        Raises:
            InvalidInput: the body is too large; the call is still unanswered.
        """
        theirs = self._calls[call]
        if theirs.open and theirs.kind == f.REQUEST:
            check_size(len(body))
            if self._outbox.queued_bytes > self._limits.queue_hard // 2:
                return self.refuse(call, "busy", "too many answers wait to be read")
            self._send_reply(f.ANSWER, call, theirs, body)
            if not theirs.sending:
                self._close(theirs)
        elif theirs.open:
            self._close_after_backlog(call, theirs, HEADER.pack(0, f.END, call))
        self._release(call, theirs)
        return None

    def refuse(self, call: int, code: str, reason: str = "") -> None:
        """The handler has said no; chunks sent before arrive first."""
        theirs = self._calls[call]
        if theirs.open:
            word = code.encode("ascii", "replace")[: f.CODE_SIZE_MAX] or b"refused"
            text = reason.encode()[: f.REASON_SIZE_MAX]
            payload = bytes([len(word)]) + word + text
            frame = HEADER.pack(len(payload), f.REFUSE, call) + payload
            self._close_after_backlog(call, theirs, frame)
        self._release(call, theirs)

    def send_chunk(self, call: int, body: bytes) -> bool:
        """Queue the next item of a stream; False when it waits for credit (then see `take_drained`).

        Raises:
            Broken: the caller has cancelled.
            Refused: the caller asked for one answer, not for a stream.
            InvalidInput: the chunk is too large.
        """
        theirs = self._calls[call]
        if theirs.kind != f.STREAM:
            raise Refused("not-a-stream", "this protocol answers with a stream; call it as one")
        check_size(len(body))
        if not theirs.open:
            raise Broken("the caller has gone")
        theirs.backlog.append(body)
        self._pump(call, theirs)
        return not theirs.backlog

    def has_backlog(self, call: int) -> bool:
        """Whether chunks of a stream still wait for credit."""
        theirs = self._calls.get(call)
        return theirs is not None and bool(theirs.backlog)

    def take_drained(self) -> list[int]:
        """Streams whose backlog has emptied since the last time."""
        drained, self._drained = self._drained, []
        return drained

    # --- frames of the peer's ----------------------------------------------------------------------

    def _read_call(self, kind: int, call: int, payload: bytes) -> Event | None:
        if len(payload) < f.CALL_SIZES.size:
            raise Malformed("a call without its sizes")
        size, n = f.CALL_SIZES.unpack_from(payload)
        name = payload[f.CALL_SIZES.size : f.CALL_SIZES.size + n]
        first = payload[f.CALL_SIZES.size + n :]
        if not n or len(name) < n or not name.isascii():
            raise Malformed("a call without a protocol id")
        if call in self._calls or call in self._coming or not call:
            raise Malformed(f"call {call} is opened twice")
        if kind != f.ONE_WAY and self._open >= self._limits.open_calls:
            raise Malformed(f"more than {self._limits.open_calls} calls at once")
        parts = begin(size, first, len(self._coming) < self._limits.bodies_at_once)
        self._grant.use(size + f.CALL_COST)
        self._highest = max(self._highest, call)
        if kind != f.ONE_WAY:
            self._open += 1
        if parts.missing:
            self._coming[call] = (kind, name.decode(), parts)
            return None
        return self._called(kind, call, name.decode(), first)

    def _called(self, kind: int, call: int, protocol: str, body: bytes) -> Event:
        credit = self._limits.stream_window
        self._calls[call] = _Call(kind, len(body) + f.CALL_COST, credit)
        return f.Called(call, kind, protocol, body)

    def _read_call_more(self, kind: int, call: int, payload: bytes) -> Event | None:
        coming = self._coming.get(call)
        if coming is None:
            raise Malformed(f"more of call {call}, which is complete or unknown")
        mode, protocol, parts = coming
        body = parts.add(payload)
        if body is None:
            return None
        del self._coming[call]
        return self._called(mode, call, protocol, body)

    def _read_cancel(self, kind: int, call: int, payload: bytes) -> Event | None:
        if call > self._highest or payload:
            raise Malformed(f"call {call} is cancelled and was never opened")
        coming = self._coming.pop(call, None)
        if coming is not None:
            self._open -= coming[0] != f.ONE_WAY
            self._return_credit(coming[2].size + f.CALL_COST)
            return None
        theirs = self._calls.get(call)
        if theirs is None or not theirs.open:
            return None  # answered meanwhile
        self._close(theirs)
        theirs.backlog.clear()
        if theirs.sending:
            unsent = self._outbox.drop(call, f.REPLY_MORE)
            if unsent is not None and not unsent.begun and theirs.kind == f.STREAM:
                self._credit += unsent.left + f.CHUNK_COST
            theirs.sending = False
        self._stalled.pop(call, None)
        if theirs.running:
            return f.Cancelled(call)
        del self._calls[call]
        return None

    def _close(self, theirs: _Call) -> None:
        theirs.open = False
        self._open -= 1

    def _close_after_backlog(self, call: int, theirs: _Call, last: bytes) -> None:
        theirs.last = last
        self._pump(call, theirs)

    def _release(self, call: int, theirs: _Call) -> None:
        """The handler is done with the call's body."""
        theirs.running = False
        self._return_credit(theirs.cost)
        if not theirs.open and not theirs.sending:
            del self._calls[call]

    def _return_credit(self, cost: int) -> None:
        if amount := self._grant.give_back(cost):
            self._outbox.put(HEADER.pack(4, f.CALL_CREDIT, 0) + U32.pack(amount))

    def _send_reply(self, kind: int, call: int, theirs: _Call, body: bytes) -> None:
        payload = U32.size + len(body)
        if payload <= PAYLOAD_MAX:
            self._outbox.put(f.REPLY_HEAD.pack(payload, kind, call, len(body)) + body)
        else:
            head = f.REPLY_HEAD.pack(PAYLOAD_MAX, kind, call, len(body))
            self._outbox.put_body(Body(call, head, body, f.REPLY_MORE))
            theirs.sending = True

    def _pump(self, call: int, theirs: _Call) -> None:
        """Send of a stream's backlog what credit allows, and then the frame that closes it."""
        had_backlog = call in self._stalled
        backlog = theirs.backlog
        while backlog and not theirs.sending and theirs.credit > 0 and self._credit > 0:
            body = backlog.popleft()
            theirs.credit -= len(body) + f.CHUNK_COST
            self._credit -= len(body) + f.CHUNK_COST
            self._send_reply(f.CHUNK, call, theirs, body)
        if backlog:
            self._stalled[call] = None
            return
        if had_backlog:
            del self._stalled[call]
            self._drained.append(call)
        if theirs.last is not None and not theirs.sending and theirs.open:
            self._outbox.put(theirs.last)
            self._close(theirs)
            if not theirs.running:
                del self._calls[call]

    def body_was_sent(self, call: int) -> None:
        """The last piece of an answer or chunk is written: the next one may go."""
        theirs = self._calls[call]
        theirs.sending = False
        if theirs.kind == f.STREAM:
            self._pump(call, theirs)
            return
        self._close(theirs)
        if not theirs.running:
            del self._calls[call]

    def _read_credit(self, kind: int, call: int, payload: bytes) -> Event | None:
        amount = read_amount(payload)
        if kind == f.CHUNK_CREDIT:
            self._credit += amount
            for stalled in list(self._stalled):
                self._pump(stalled, self._calls[stalled])
        elif (theirs := self._calls.get(call)) is not None:
            theirs.credit += amount
            self._pump(call, theirs)
        return None
