"""A channel between two peers, without I/O: bytes in, events out; commands in, bytes out.

It never awaits, reads a clock or logs. A shell feeds what it reads (`receive_data`, then `next_event` until
None) and writes what `data_to_send` returns. `ainp2p.protocol.frames` describes the bytes.

    a call of ours                               a call of the peer's
    open ──► Answered | WasRefused               Called ──► finish | refuse
    open ──► Chunk* ──► Ended | WasRefused       Called ──► send_chunk* ──► finish | refuse
      … ──► cancel | expire                        … ──► Cancelled ──► finish

Back-pressure is credit that the receiver gives back: a call counts until its handler has finished, a chunk
until its reader has taken it. A body may start while any credit is left, so the largest always fits; a
large *call* leaves a quarter of the window to small ones. Breaking a rule of the protocol raises
`Malformed` from `next_event`, after all that came before it; the channel is then of no further use.
"""

from __future__ import annotations

import math
from collections import deque

from ainp2p.errors import Broken, InvalidInput, Malformed, Refused
from ainp2p.protocol import frames as f
from ainp2p.protocol.frames import HEADER, LIMITS, PAYLOAD_MAX, U32, Event, Limits
from ainp2p.protocol.network import BODY_SIZE_MAX
from ainp2p.protocol.outbox import Body, Outbox

HEARTBEAT_S = 3.0  # a PING after so long without a byte from the peer
DEAD_AFTER_S = 10.0  # nothing heard for so long: the peer is gone


class _Grant:
    """Credit that we gave: the peer may begin a body while less than `window` is outstanding."""

    __slots__ = ("_outstanding", "_to_return", "_window")

    def __init__(self, window: int) -> None:
        self._window, self._outstanding, self._to_return = window, 0, 0

    def use(self, cost: int) -> None:
        self._outstanding += cost
        # The sender begins while credit is left, perhaps with a body that others overtake on the way.
        if self._outstanding > self._window + BODY_SIZE_MAX + f.CALL_COST:
            raise Malformed("the peer sends without credit")

    def give_back(self, cost: int) -> int:
        """The amount to announce now; 0 while it is too little to be worth a frame."""
        self._to_return += cost
        if self._to_return * 4 < self._window:
            return 0
        amount, self._to_return = self._to_return, 0
        self._outstanding -= amount
        return amount


class _Parts:
    """A body that is being put together; it grows only by what has really arrived."""

    __slots__ = ("_arrived", "missing", "size")

    def __init__(self, size: int, first: bytes) -> None:
        self.size, self.missing, self._arrived = size, size - len(first), bytearray(first)

    def add(self, piece: bytes) -> bytes | None:
        """The whole body, once it is."""
        if not piece or len(piece) > self.missing:
            raise Malformed(f"a piece of {len(piece)} bytes where 1 to {self.missing} are missing")
        self._arrived += piece
        self.missing -= len(piece)
        return None if self.missing else bytes(self._arrived)


class _Ours:
    """A request or stream of ours that is open."""

    __slots__ = ("coming", "deadline", "grant", "kind")

    def __init__(self, kind: int, deadline: float, window: int) -> None:
        self.kind, self.deadline = kind, deadline
        self.grant = _Grant(window) if kind == f.STREAM else None
        self.coming: _Parts | None = None


class _Theirs:
    """A call of the peer's: until its handler has finished and its reply is sent."""

    __slots__ = ("backlog", "cost", "credit", "kind", "last", "open", "running", "sending")

    def __init__(self, kind: int, cost: int, credit: int) -> None:
        self.kind, self.cost, self.credit = kind, cost, credit
        self.open = kind != f.ONE_WAY  # the caller waits for more
        self.running = True  # the handler has not finished
        self.sending = False  # a large body of this call is on its way
        self.backlog: deque[bytes] = deque()  # chunks that wait for credit or for that body
        self.last: bytes | None = None  # the frame that closes the call after the backlog


class Channel:
    """One end of a channel. `now` is any monotonic number of seconds, such as trio's clock."""

    def __init__(self, now: float, limits: Limits = LIMITS) -> None:
        self._limits = limits
        self._input, self._at = b"", 0
        self._fault: Malformed | None = None
        self._outbox = Outbox(limits.bodies_at_once)
        self._pong: int | None = None
        self._heard_at = self._pinged_at = now

        self._ours: dict[int, _Ours] = {}
        self._next_call = 1
        self._call_credit = limits.call_window
        self._replies_coming = 0
        self._chunk_grant = _Grant(limits.chunk_window)

        self._theirs: dict[int, _Theirs] = {}
        self._their_open = 0
        self._their_highest = 0
        self._calls_coming: dict[int, tuple[int, str, _Parts]] = {}
        self._call_grant = _Grant(limits.call_window)
        self._chunk_credit = limits.chunk_window
        self._stalled: dict[int, None] = {}  # streams with a backlog, oldest first
        self._drained: list[int] = []

        self._readers = {
            f.REQUEST: self._read_call,
            f.STREAM: self._read_call,
            f.ONE_WAY: self._read_call,
            f.CALL_MORE: self._read_call_more,
            f.ANSWER: self._read_reply,
            f.CHUNK: self._read_reply,
            f.REPLY_MORE: self._read_reply_more,
            f.END: self._read_end,
            f.REFUSE: self._read_refusal,
            f.CANCEL: self._read_cancel,
            f.CREDIT: self._read_credit,
            f.CHUNK_CREDIT: self._read_credit,
            f.CALL_CREDIT: self._read_credit,
            f.PING: self._read_ping,
            f.PONG: self._read_ping,
        }

    # --- calls of ours --------------------------------------------------------------------------

    @property
    def open_calls(self) -> int:
        """Requests and streams of ours that are open."""
        return len(self._ours)

    @property
    def idle(self) -> bool:
        """Nothing is open in either direction and nothing waits to be written."""
        return not (self._ours or self._theirs or self._calls_coming or self._outbox)

    def has_room(self, kind: int, size: int) -> bool:
        """Whether a call of that kind and body size may be opened now; else wait and ask again."""
        reserve = 0 if size <= PAYLOAD_MAX else self._limits.call_window // 4
        return (
            self._call_credit > reserve
            and self._outbox.queued_bytes < self._limits.queue
            and (kind == f.ONE_WAY or len(self._ours) < self._limits.open_calls)
        )

    def open(self, kind: int, protocol: str, body: bytes, deadline: float = math.inf) -> int:
        """Start a REQUEST, STREAM or ONE_WAY for which there is room; returns its number.

        Raises:
            InvalidInput: the body or the protocol id has no allowed size, or there is no room.
        """
        size = len(body)
        name = check_call(protocol, size)
        if not self.has_room(kind, size):
            raise InvalidInput("no room for another call: wait until has_room says so")
        call = self._next_call
        self._next_call += 1
        self._call_credit -= size + f.CALL_COST
        payload = f.CALL_SIZES.size + len(name) + size
        if payload <= PAYLOAD_MAX:
            self._outbox.put(f.CALL_HEAD.pack(payload, kind, call, size, len(name)) + name + body)
        else:
            head = f.CALL_HEAD.pack(PAYLOAD_MAX, kind, call, size, len(name)) + name
            self._outbox.put_body(Body(call, head, body, f.CALL_MORE))
        if kind != f.ONE_WAY:
            self._ours[call] = _Ours(kind, deadline, self._limits.stream_window)
        return call

    def set_deadline(self, call: int, deadline: float) -> None:
        """When `expire` shall give up a call of ours; no effect on a closed one."""
        if (ours := self._ours.get(call)) is not None:
            ours.deadline = deadline

    def cancel(self, call: int) -> None:
        """Close a call of ours: nothing more is heard of it. No effect on a closed one."""
        ours = self._ours.get(call)
        if ours is None:
            return
        self._close_ours(call, ours)
        unsent = self._outbox.drop(call, f.CALL_MORE)
        if unsent is not None and not unsent.begun:
            self._call_credit += unsent.left + f.CALL_COST  # the peer never heard of it
        else:
            self._outbox.put(HEADER.pack(0, f.CANCEL, call))

    def taken(self, call: int, size: int) -> None:
        """A `Chunk` of `size` bytes has left memory: read, or dropped with its stream. Once for each."""
        cost = size + f.CHUNK_COST
        self._return_chunk_credit(cost)
        ours = self._ours.get(call)
        if ours is not None and ours.grant is not None and (amount := ours.grant.give_back(cost)):
            self._outbox.put(HEADER.pack(4, f.CREDIT, call) + U32.pack(amount))

    def expire(self, now: float) -> list[int]:
        """Cancel the calls of ours whose deadline has come; returns them, oldest first."""
        due = [call for call, ours in self._ours.items() if ours.deadline <= now]
        for call in due:
            self.cancel(call)
        return due

    # --- calls of the peer's --------------------------------------------------------------------

    def finish(self, call: int, body: bytes = b"") -> None:
        """The handler has returned: `body` answers a request; a stream ends; else nothing is sent.

        Raises:
            InvalidInput: the body is too large; the call is still unanswered.
        """
        theirs = self._theirs[call]
        if theirs.open and theirs.kind == f.REQUEST:
            _check_size(len(body))
            if self._outbox.queued_bytes > self._limits.queue_hard // 2:
                return self.refuse(call, "busy", "too many answers wait to be read")
            self._send_reply(f.ANSWER, call, theirs, body)
            if not theirs.sending:
                self._close_theirs(theirs)
        elif theirs.open:
            self._close_after_backlog(call, theirs, HEADER.pack(0, f.END, call))
        self._release(call, theirs)
        return None

    def refuse(self, call: int, code: str, reason: str = "") -> None:
        """The handler has said no; chunks sent before arrive first."""
        theirs = self._theirs[call]
        if theirs.open:
            word = code.encode("ascii", "replace")[: f.CODE_SIZE_MAX]
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
        theirs = self._theirs[call]
        if theirs.kind != f.STREAM:
            raise Refused("not-a-stream", "this protocol answers with a stream; call it as one")
        _check_size(len(body))
        if not theirs.open:
            raise Broken("the caller has gone")
        theirs.backlog.append(body)
        self._pump(call, theirs)
        return not theirs.backlog

    def has_backlog(self, call: int) -> bool:
        """Whether chunks of a stream still wait for credit."""
        theirs = self._theirs.get(call)
        return theirs is not None and bool(theirs.backlog)

    def take_drained(self) -> list[int]:
        """Streams whose backlog has emptied since the last time."""
        drained, self._drained = self._drained, []
        return drained

    # --- bytes and time -------------------------------------------------------------------------

    @property
    def has_output(self) -> bool:
        """Whether `data_to_send` would return anything."""
        return self._pong is not None or bool(self._outbox)

    def data_to_send(self) -> bytes:
        """The next bytes to write, at most WRITE_SIZE_MAX; empty when there is nothing."""
        if self._pong is not None:  # only the newest PING is answered, so a flood of them queues nothing
            self._outbox.put(HEADER.pack(0, f.PONG, self._pong))
            self._pong = None
        data, done = self._outbox.next_write()
        if done is not None and done.more == f.REPLY_MORE:
            self._body_was_sent(done.call)
        return data

    def receive_data(self, data: bytes, now: float) -> None:
        """Take bytes that were read from the peer."""
        self._input = self._input[self._at :] + data if self._at < len(self._input) else data
        self._at = 0
        self._heard_at = now

    def next_event(self) -> Event | None:
        """What happened next, or None until more is received.

        Raises:
            Malformed: the peer broke the protocol; it does so again each time.
        """
        if self._fault is not None:
            raise self._fault
        try:
            return self._next_event()
        except Malformed as fault:
            self._fault = fault
            raise

    def next_timer(self) -> float:
        """When `tick` and `expire` want to be called next."""
        timer = min(max(self._heard_at, self._pinged_at) + HEARTBEAT_S, self._heard_at + DEAD_AFTER_S)
        for ours in self._ours.values():
            timer = min(timer, ours.deadline)
        return timer

    def tick(self, now: float) -> bool:
        """Keep the heartbeat; False when the peer has been silent for too long."""
        if now >= self._heard_at + DEAD_AFTER_S:
            return False
        if now >= max(self._heard_at, self._pinged_at) + HEARTBEAT_S:
            self._pinged_at = now
            self._outbox.put(HEADER.pack(0, f.PING, 0))
        return True

    # --- reading frames -------------------------------------------------------------------------

    def _next_event(self) -> Event | None:
        data, at = self._input, self._at
        while len(data) - at >= HEADER.size:
            size, kind, call = HEADER.unpack_from(data, at)
            if size > PAYLOAD_MAX:
                raise Malformed(f"a frame of {size} bytes, at most {PAYLOAD_MAX} are read")
            start = at + HEADER.size
            if start + size > len(data):
                break
            read = self._readers.get(kind)
            if read is None:
                raise Malformed(f"frame of unknown kind {kind}")
            at = self._at = start + size
            event = read(kind, call, data[start:at])
            if self._outbox.queued_bytes > self._limits.queue_hard:
                raise Malformed("the peer asks for much and reads nothing")
            if event is not None:
                return event
        return None

    def _read_call(self, kind: int, call: int, payload: bytes) -> Event | None:
        if len(payload) < f.CALL_SIZES.size:
            raise Malformed("a call without its sizes")
        size, n = f.CALL_SIZES.unpack_from(payload)
        name = payload[f.CALL_SIZES.size : f.CALL_SIZES.size + n]
        first = payload[f.CALL_SIZES.size + n :]
        if not n or len(name) < n or not name.isascii():
            raise Malformed("a call without a protocol id")
        if call in self._theirs or call in self._calls_coming or not call:
            raise Malformed(f"call {call} is opened twice")
        if kind != f.ONE_WAY and self._their_open >= self._limits.open_calls:
            raise Malformed(f"more than {self._limits.open_calls} calls at once")
        parts = _parts(size, first, len(self._calls_coming) < self._limits.bodies_at_once)
        self._call_grant.use(size + f.CALL_COST)
        self._their_highest = max(self._their_highest, call)
        if kind != f.ONE_WAY:
            self._their_open += 1
        if parts.missing:
            self._calls_coming[call] = (kind, name.decode(), parts)
            return None
        return self._called(kind, call, name.decode(), first)

    def _called(self, kind: int, call: int, protocol: str, body: bytes) -> Event:
        credit = self._limits.stream_window
        self._theirs[call] = _Theirs(kind, len(body) + f.CALL_COST, credit)
        return f.Called(call, kind, protocol, body)

    def _read_call_more(self, kind: int, call: int, payload: bytes) -> Event | None:
        coming = self._calls_coming.get(call)
        if coming is None:
            raise Malformed(f"more of call {call}, which is complete or unknown")
        mode, protocol, parts = coming
        body = parts.add(payload)
        if body is None:
            return None
        del self._calls_coming[call]
        return self._called(mode, call, protocol, body)

    def _read_reply(self, kind: int, call: int, payload: bytes) -> Event | None:
        if len(payload) < U32.size:
            raise Malformed("a reply without its size")
        (size,) = U32.unpack_from(payload)
        first = payload[U32.size :]
        ours = self._ours_or_gone(call)
        room = self._replies_coming < self._limits.bodies_at_once or ours is None or ours.coming is not None
        parts = _parts(size, first, room)
        if kind == f.CHUNK:
            self._chunk_grant.use(size + f.CHUNK_COST)
        if ours is None:  # cancelled by us meanwhile
            if kind == f.CHUNK:
                self._return_chunk_credit(size + f.CHUNK_COST)
            return None
        if (kind == f.ANSWER) != (ours.kind == f.REQUEST) or ours.coming is not None:
            raise Malformed(f"call {call} gets a reply of the wrong kind, or two at once")
        if ours.grant is not None:
            ours.grant.use(size + f.CHUNK_COST)
        if parts.missing:
            ours.coming = parts
            self._replies_coming += 1
            return None
        return self._replied(call, ours, first)

    def _read_reply_more(self, kind: int, call: int, payload: bytes) -> Event | None:
        ours = self._ours_or_gone(call)
        if ours is None:
            return None
        if ours.coming is None:
            raise Malformed(f"more of a reply to call {call}, which was complete")
        body = ours.coming.add(payload)
        if body is None:
            return None
        ours.coming = None
        self._replies_coming -= 1
        return self._replied(call, ours, body)

    def _replied(self, call: int, ours: _Ours, body: bytes) -> Event:
        if ours.kind == f.STREAM:
            return f.Chunk(call, body)
        del self._ours[call]
        return f.Answered(call, body)

    def _read_end(self, kind: int, call: int, payload: bytes) -> Event | None:
        ours = self._ours_or_gone(call)
        if ours is None:
            return None
        if ours.kind != f.STREAM or ours.coming is not None or payload:
            raise Malformed(f"call {call} cannot end here")
        self._close_ours(call, ours)
        return f.Ended(call)

    def _read_refusal(self, kind: int, call: int, payload: bytes) -> Event | None:
        n = payload[0] if payload else 0
        code, reason = payload[1 : 1 + n], payload[1 + n :]
        if (
            not 1 <= len(code) == n <= f.CODE_SIZE_MAX
            or not code.isascii()
            or len(reason) > f.REASON_SIZE_MAX
        ):
            raise Malformed("a refusal without a code, or with too many words")
        ours = self._ours_or_gone(call)
        if ours is None:
            return None
        self._close_ours(call, ours)
        if self._outbox.drop(call, f.CALL_MORE) is not None:
            raise Malformed(f"call {call} is refused before all of it was sent")
        return f.WasRefused(call, code.decode(), reason.decode(errors="replace"))

    def _read_cancel(self, kind: int, call: int, payload: bytes) -> Event | None:
        if call > self._their_highest or payload:
            raise Malformed(f"call {call} is cancelled and was never opened")
        coming = self._calls_coming.pop(call, None)
        if coming is not None:
            self._their_open -= coming[0] != f.ONE_WAY
            self._return_call_credit(coming[2].size + f.CALL_COST)
            return None
        theirs = self._theirs.get(call)
        if theirs is None or not theirs.open:
            return None  # answered meanwhile
        self._close_theirs(theirs)
        theirs.backlog.clear()
        if theirs.sending:
            unsent = self._outbox.drop(call, f.REPLY_MORE)
            if unsent is not None and not unsent.begun and theirs.kind == f.STREAM:
                self._chunk_credit += unsent.left + f.CHUNK_COST
            theirs.sending = False
        self._stalled.pop(call, None)
        if theirs.running:
            return f.Cancelled(call)
        del self._theirs[call]
        return None

    def _read_credit(self, kind: int, call: int, payload: bytes) -> Event | None:
        if len(payload) != U32.size:
            raise Malformed("credit without an amount")
        (amount,) = U32.unpack(payload)
        if kind == f.CALL_CREDIT:
            self._call_credit += amount
        elif kind == f.CHUNK_CREDIT:
            self._chunk_credit += amount
            for stalled in list(self._stalled):
                self._pump(stalled, self._theirs[stalled])
        elif (theirs := self._theirs.get(call)) is not None:
            theirs.credit += amount
            self._pump(call, theirs)
        return None

    def _read_ping(self, kind: int, call: int, payload: bytes) -> Event | None:
        if payload:
            raise Malformed("a heartbeat with a payload")
        if kind == f.PING:
            self._pong = call
        return None

    # --- helpers --------------------------------------------------------------------------------

    def _ours_or_gone(self, call: int) -> _Ours | None:
        if not 0 < call < self._next_call:
            raise Malformed(f"a reply to call {call}, which was never made")
        return self._ours.get(call)

    def _close_ours(self, call: int, ours: _Ours) -> None:
        del self._ours[call]
        if ours.coming is not None:
            self._replies_coming -= 1
            if ours.kind == f.STREAM:
                self._return_chunk_credit(ours.coming.size + f.CHUNK_COST)

    def _close_theirs(self, theirs: _Theirs) -> None:
        theirs.open = False
        self._their_open -= 1

    def _close_after_backlog(self, call: int, theirs: _Theirs, last: bytes) -> None:
        theirs.last = last
        self._pump(call, theirs)

    def _release(self, call: int, theirs: _Theirs) -> None:
        """The handler is done with the call's body."""
        theirs.running = False
        self._return_call_credit(theirs.cost)
        if not theirs.open and not theirs.sending:
            del self._theirs[call]

    def _return_call_credit(self, cost: int) -> None:
        if amount := self._call_grant.give_back(cost):
            self._outbox.put(HEADER.pack(4, f.CALL_CREDIT, 0) + U32.pack(amount))

    def _return_chunk_credit(self, cost: int) -> None:
        if amount := self._chunk_grant.give_back(cost):
            self._outbox.put(HEADER.pack(4, f.CHUNK_CREDIT, 0) + U32.pack(amount))

    def _send_reply(self, kind: int, call: int, theirs: _Theirs, body: bytes) -> None:
        payload = U32.size + len(body)
        if payload <= PAYLOAD_MAX:
            self._outbox.put(f.REPLY_HEAD.pack(payload, kind, call, len(body)) + body)
        else:
            head = f.REPLY_HEAD.pack(PAYLOAD_MAX, kind, call, len(body))
            self._outbox.put_body(Body(call, head, body, f.REPLY_MORE))
            theirs.sending = True

    def _pump(self, call: int, theirs: _Theirs) -> None:
        """Send of a stream's backlog what credit allows, and then the frame that closes it."""
        had_backlog = call in self._stalled
        backlog = theirs.backlog
        while backlog and not theirs.sending and theirs.credit > 0 and self._chunk_credit > 0:
            body = backlog.popleft()
            theirs.credit -= len(body) + f.CHUNK_COST
            self._chunk_credit -= len(body) + f.CHUNK_COST
            self._send_reply(f.CHUNK, call, theirs, body)
        if backlog:
            self._stalled[call] = None
            return
        if had_backlog:
            del self._stalled[call]
            self._drained.append(call)
        if theirs.last is not None and not theirs.sending and theirs.open:
            self._outbox.put(theirs.last)
            self._close_theirs(theirs)
            if not theirs.running:
                del self._theirs[call]

    def _body_was_sent(self, call: int) -> None:
        theirs = self._theirs[call]
        theirs.sending = False
        if theirs.kind == f.STREAM:
            self._pump(call, theirs)
            return
        self._close_theirs(theirs)
        if not theirs.running:
            del self._theirs[call]


def check_call(protocol: str, size: int) -> bytes:
    """The protocol id's bytes, if a call to it with a body of `size` bytes can ever be made.

    Raises:
        InvalidInput: the protocol id is empty, too long or not ASCII, or the body is too large.
    """
    if not (1 <= len(protocol) <= 255 and protocol.isascii()):
        raise InvalidInput(f"a protocol id has 1 to 255 ASCII characters, unlike {protocol[:300]!r}")
    _check_size(size)
    return protocol.encode()


def _check_size(size: int) -> None:
    if size > BODY_SIZE_MAX:
        raise InvalidInput(f"a body of {size} bytes, at most {BODY_SIZE_MAX} are sent: split it")


def _parts(size: int, first: bytes, room: bool) -> _Parts:
    """Check a body's announced size against its first piece, before anything is kept."""
    if size > BODY_SIZE_MAX or len(first) > size:
        raise Malformed(f"a body of {size} bytes, of which {len(first)} came at once")
    if len(first) < size and (not first or not room):
        raise Malformed("too many bodies at once, or one that does not begin")
    return _Parts(size, first)
