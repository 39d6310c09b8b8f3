"""A channel between two peers, without I/O: bytes in, events out; commands in, bytes out.

It never awaits, reads a clock or logs. A shell feeds what it reads (`receive_data`, then `next_event` until
None) and writes what `data_to_send` returns. `ainp2p.protocol.frames` describes the bytes, `Caller` what
becomes of our calls and `Callee` of the peer's.

Back-pressure is credit that the receiver gives back: a call counts until its handler has finished, a chunk
until its reader has taken it. A body may start while any credit is left, so the largest always fits; a
large *call* leaves a quarter of the window to small ones. Breaking a rule of the protocol raises
`Malformed` from `next_event`, after all that came before it; the channel is then of no further use.
"""

from __future__ import annotations

from ainp2p.errors import Malformed
from ainp2p.protocol import frames as f
from ainp2p.protocol.callee import Callee
from ainp2p.protocol.caller import Caller
from ainp2p.protocol.frames import HEADER, LIMITS, PAYLOAD_MAX, Event, Limits
from ainp2p.protocol.outbox import Outbox

HEARTBEAT_S = 3.0  # a PING after so long without a byte from the peer
DEAD_AFTER_S = 10.0  # nothing heard for so long: the peer is gone


class Channel:
    """One end of a channel. `now` is any monotonic number of seconds, such as trio's clock."""

    def __init__(self, now: float, limits: Limits = LIMITS) -> None:
        self._limits = limits
        self._outbox = Outbox(limits.bodies_at_once)
        self.caller = Caller(limits, self._outbox)
        self.callee = Callee(limits, self._outbox)
        self._input, self._at = b"", 0  # bytes, and how many of them have been read
        self._fault: Malformed | None = None
        self._pong: int | None = None
        self._heard_at = self._pinged_at = now
        self._readers = {
            **self.caller.readers,
            **self.callee.readers,
            f.PING: self._read_ping,
            f.PONG: self._read_ping,
        }

    @property
    def idle(self) -> bool:
        """Nothing is open in either direction and nothing waits to be written."""
        return not self.caller.open_calls and self.callee.idle and not self._outbox

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
            self.callee.body_was_sent(done.call)
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
        """When `tick` and `caller.expire` want to be called next."""
        heartbeat = max(self._heard_at, self._pinged_at) + HEARTBEAT_S
        return min(heartbeat, self._heard_at + DEAD_AFTER_S, self.caller.next_deadline())

    def tick(self, now: float) -> bool:
        """Keep the heartbeat; False when the peer has been silent for too long."""
        if now >= self._heard_at + DEAD_AFTER_S:
            return False
        if now >= max(self._heard_at, self._pinged_at) + HEARTBEAT_S:
            self._pinged_at = now
            self._outbox.put(HEADER.pack(0, f.PING, 0))
        return True

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

    def _read_ping(self, kind: int, call: int, payload: bytes) -> Event | None:
        if payload:
            raise Malformed("a heartbeat with a payload")
        if kind == f.PING:
            self._pong = call
        return None
