"""One end's own calls on a channel: opening them, and reading what the peer replies. No I/O.

open ──► Answered | WasRefused                 (a request)
open ──► Chunk* ──► Ended | WasRefused         (a stream)
  … ──► cancel | expire                        (then nothing more is heard of it)
"""

from __future__ import annotations

import math

from ainp2p.errors import InvalidInput, Malformed
from ainp2p.protocol import frames as f
from ainp2p.protocol.bodies import Grant, Parts, begin, check_call, read_amount
from ainp2p.protocol.frames import HEADER, PAYLOAD_MAX, U32, Event, Limits
from ainp2p.protocol.outbox import Body, Outbox


class _Call:
    """A request or stream that is open."""

    __slots__ = ("coming", "deadline", "grant", "kind")

    def __init__(self, kind: int, deadline: float, window: int) -> None:
        self.kind, self.deadline = kind, deadline
        self.grant = Grant(window) if kind == f.STREAM else None
        self.coming: Parts | None = None


class Caller:
    """The calls that this end has made."""

    def __init__(self, limits: Limits, outbox: Outbox) -> None:
        self._limits, self._outbox = limits, outbox
        self._calls: dict[int, _Call] = {}
        self._next_call = 1
        self._credit = limits.call_window  # what the peer lets us send
        self._grant = Grant(limits.chunk_window)  # what we let it send
        self._coming = 0  # replies that are partly here
        self.readers = {
            f.ANSWER: self._read_reply,
            f.CHUNK: self._read_reply,
            f.REPLY_MORE: self._read_reply_more,
            f.END: self._read_end,
            f.REFUSE: self._read_refusal,
            f.CALL_CREDIT: self._read_credit,
        }

    @property
    def open_calls(self) -> int:
        """Requests and streams that are open."""
        return len(self._calls)

    def has_room(self, kind: int, size: int) -> bool:
        """Whether a call of that kind and body size may be opened now; else wait and ask again."""
        reserve = 0 if size <= PAYLOAD_MAX else self._limits.call_window // 4
        return (
            self._credit > reserve
            and self._outbox.queued_bytes < self._limits.queue
            and (kind == f.ONE_WAY or len(self._calls) < self._limits.open_calls)
        )

    def next_deadline(self) -> float:
        """When `expire` wants to be called next."""
        return min((ours.deadline for ours in self._calls.values()), default=math.inf)

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
        self._credit -= size + f.CALL_COST
        payload = f.CALL_SIZES.size + len(name) + size
        if payload <= PAYLOAD_MAX:
            self._outbox.put(f.CALL_HEAD.pack(payload, kind, call, size, len(name)) + name + body)
        else:
            head = f.CALL_HEAD.pack(PAYLOAD_MAX, kind, call, size, len(name)) + name
            self._outbox.put_body(Body(call, head, body, f.CALL_MORE))
        if kind != f.ONE_WAY:
            self._calls[call] = _Call(kind, deadline, self._limits.stream_window)
        return call

    def set_deadline(self, call: int, deadline: float) -> None:
        """When `expire` shall give up a call of ours; no effect on a closed one."""
        if (ours := self._calls.get(call)) is not None:
            ours.deadline = deadline

    def cancel(self, call: int) -> None:
        """Close a call of ours: nothing more is heard of it. No effect on a closed one."""
        ours = self._calls.get(call)
        if ours is None:
            return
        self._close(call, ours)
        unsent = self._outbox.drop(call, f.CALL_MORE)
        if unsent is not None and not unsent.begun:
            self._credit += unsent.left + f.CALL_COST  # the peer never heard of it
        else:
            self._outbox.put(HEADER.pack(0, f.CANCEL, call))

    def taken(self, call: int, size: int) -> None:
        """A `Chunk` of `size` bytes has left memory: read, or dropped with its stream. Once for each."""
        cost = size + f.CHUNK_COST
        self._return_credit(cost)
        ours = self._calls.get(call)
        if ours is not None and ours.grant is not None and (amount := ours.grant.give_back(cost)):
            self._outbox.put(HEADER.pack(4, f.CREDIT, call) + U32.pack(amount))

    def expire(self, now: float) -> list[int]:
        """Cancel the calls of ours whose deadline has come; returns them, oldest first."""
        due = [call for call, ours in self._calls.items() if ours.deadline <= now]
        for call in due:
            self.cancel(call)
        return due

    # --- frames of the peer's ----------------------------------------------------------------------

    def _read_reply(self, kind: int, call: int, payload: bytes) -> Event | None:
        if len(payload) < U32.size:
            raise Malformed("a reply without its size")
        (size,) = U32.unpack_from(payload)
        first = payload[U32.size :]
        ours = self._find(call)
        room = self._coming < self._limits.bodies_at_once or ours is None or ours.coming is not None
        parts = begin(size, first, room)
        if kind == f.CHUNK:
            self._grant.use(size + f.CHUNK_COST)
        if ours is None:  # cancelled by us meanwhile
            if kind == f.CHUNK:
                self._return_credit(size + f.CHUNK_COST)
            return None
        if (kind == f.ANSWER) != (ours.kind == f.REQUEST) or ours.coming is not None:
            raise Malformed(f"call {call} gets a reply of the wrong kind, or two at once")
        if ours.grant is not None:
            ours.grant.use(size + f.CHUNK_COST)
        if parts.missing:
            ours.coming = parts
            self._coming += 1
            return None
        return self._replied(call, ours, first)

    def _read_reply_more(self, kind: int, call: int, payload: bytes) -> Event | None:
        ours = self._find(call)
        if ours is None:
            return None
        if ours.coming is None:
            raise Malformed(f"more of a reply to call {call}, which was complete")
        body = ours.coming.add(payload)
        if body is None:
            return None
        ours.coming = None
        self._coming -= 1
        return self._replied(call, ours, body)

    def _replied(self, call: int, ours: _Call, body: bytes) -> Event:
        if ours.kind == f.STREAM:
            return f.Chunk(call, body)
        del self._calls[call]
        return f.Answered(call, body)

    def _read_end(self, kind: int, call: int, payload: bytes) -> Event | None:
        ours = self._find(call)
        if ours is None:
            return None
        if ours.kind != f.STREAM or ours.coming is not None or payload:
            raise Malformed(f"call {call} cannot end here")
        self._close(call, ours)
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
        ours = self._find(call)
        if ours is None:
            return None
        self._close(call, ours)
        if self._outbox.drop(call, f.CALL_MORE) is not None:
            raise Malformed(f"call {call} is refused before all of it was sent")
        return f.WasRefused(call, code.decode(), reason.decode(errors="replace"))

    def _find(self, call: int) -> _Call | None:
        if not 0 < call < self._next_call:
            raise Malformed(f"a reply to call {call}, which was never made")
        return self._calls.get(call)

    def _close(self, call: int, ours: _Call) -> None:
        del self._calls[call]
        if ours.coming is not None:
            self._coming -= 1
            if ours.kind == f.STREAM:
                self._return_credit(ours.coming.size + f.CHUNK_COST)

    def _return_credit(self, cost: int) -> None:
        if amount := self._grant.give_back(cost):
            self._outbox.put(HEADER.pack(4, f.CHUNK_CREDIT, 0) + U32.pack(amount))

    def _read_credit(self, kind: int, call: int, payload: bytes) -> Event | None:
        self._credit += read_amount(payload)
        return None
