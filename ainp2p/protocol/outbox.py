"""What one end of a channel has yet to write: whole frames, and bodies that go out in pieces, in turn.

Frames keep their order, and a body begins after the frames that were queued before it. At most
`bodies_at_once` bodies are under way and take turns, one piece each; a write carries at most one piece,
so what is small waits for no body. No I/O.
"""

from __future__ import annotations

from collections import deque

from ainp2p.protocol.frames import HEADER, PAYLOAD_MAX, WRITE_SIZE_MAX


class Body:
    """One body on its way out in pieces."""

    __slots__ = ("_at", "_body", "_head", "after", "call", "more")

    def __init__(self, call: int, head: bytes, body: bytes, more: int) -> None:
        """`head`: the first frame's header and fields, made for a full payload; `more`: the kind after it."""
        self.call, self.more = call, more
        self._head, self._body = head, body
        self._at = 0
        self.after = 0  # how many frames go before it

    @property
    def begun(self) -> bool:
        """Whether the peer has heard of it."""
        return self._at > 0

    @property
    def left(self) -> int:
        """Bytes of the body not yet sent."""
        return len(self._body) - self._at

    def next_frame(self) -> bytes:
        """The next piece in its frame."""
        if not self._at:
            self._at = PAYLOAD_MAX + HEADER.size - len(self._head)
            return self._head + self._body[: self._at]
        piece = self._body[self._at : self._at + PAYLOAD_MAX]
        self._at += len(piece)
        return HEADER.pack(len(piece), self.more, self.call) + piece


class Outbox:
    """Frames and bodies to be written, and how many bytes they are."""

    def __init__(self, bodies_at_once: int) -> None:
        self._bodies_at_once = bodies_at_once
        self._frames: deque[bytes] = deque()
        self._under_way: deque[Body] = deque()
        self._waiting: deque[Body] = deque()
        self._piece_is_next = True
        self._frames_put = self._frames_sent = 0
        self.queued_bytes = 0

    def put(self, frame: bytes) -> None:
        """Queue one whole frame behind the others."""
        self._frames.append(frame)
        self._frames_put += 1
        self.queued_bytes += len(frame)

    def put_body(self, body: Body) -> None:
        """Queue a body that does not fit into one frame."""
        self.queued_bytes += body.left
        body.after = self._frames_put
        if len(self._under_way) < self._bodies_at_once:
            self._under_way.append(body)
        else:
            self._waiting.append(body)

    def drop(self, call: int, more: int) -> Body | None:
        """Forget what is left of a call's body; returns it, or None if there was none."""
        for queue in (self._under_way, self._waiting):
            for body in queue:
                if body.call == call and body.more == more:
                    queue.remove(body)
                    self.queued_bytes -= body.left
                    self._fill()
                    return body
        return None

    def next_write(self) -> tuple[bytes, Body | None]:
        """At most WRITE_SIZE_MAX bytes of whole frames, and the body that is complete with them."""
        done: Body | None = None
        parts: list[bytes] = []
        room = WRITE_SIZE_MAX
        body = self._next_body() if self._piece_is_next or not self._frames else None
        self._piece_is_next = body is None
        if body is not None:
            left = body.left
            parts.append(body.next_frame())
            room -= len(parts[0])
            self.queued_bytes -= left - body.left
            if body.left:
                self._under_way.append(body)
            else:
                done = body
                self._fill()
        frames, queued = self._frames, len(self._frames)
        while frames and len(frames[0]) <= room:
            frame = frames.popleft()
            room -= len(frame)
            self.queued_bytes -= len(frame)
            parts.append(frame)
        self._frames_sent += queued - len(frames)
        return b"".join(parts), done

    def _next_body(self) -> Body | None:
        """Take the body whose turn it is, of those that may begin."""
        for _ in range(len(self._under_way)):
            body = self._under_way.popleft()
            if body.after <= self._frames_sent:
                return body
            self._under_way.append(body)
        return None

    def __bool__(self) -> bool:
        return bool(self._frames or self._under_way)

    def _fill(self) -> None:
        if self._waiting and len(self._under_way) < self._bodies_at_once:
            self._under_way.append(self._waiting.popleft())
