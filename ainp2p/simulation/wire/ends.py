"""One end of a simulated link: the calls of both directions, and their credit.

A link is two ends that know each other (way.py tells how messages get across). It has no frames, no tasks and
no heartbeat. Credit works as on a channel (ainp2p.protocol.channel): a call counts until its
handler has ended, a chunk until it was taken. Once `reason` is set all calls have ended and nothing is heard.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ainp2p.errors import Broken, Closed, Refused
from ainp2p.protocol import frames as f
from ainp2p.protocol.bodies import check_call
from ainp2p.protocol.network import BODY_SIZE_MAX, PeerId
from ainp2p.simulation.wire.asked import Asked, AskedStream
from ainp2p.simulation.wire.incoming import Incoming
from ainp2p.simulation.wire.lies import Sent, told
from ainp2p.simulation.wire.way import CLOSED, KINDS, OPENED, Way

if TYPE_CHECKING:
    from ainp2p.simulation.wire.network import SimNetwork

CALL_RETURN = f.LIMITS.call_window // 4  # bytes of finished calls before the caller hears of it
CHUNK_RETURN = f.LIMITS.chunk_window // 4
LARGE_RESERVE = f.LIMITS.call_window // 4  # credit that large calls leave to small ones


class End(Way):
    """Our end of the link with `peer`; everything is called by this end's own network, but what arrives."""

    __slots__ = (
        "call_credit", "calls_returned", "chunk_credit", "chunks_returned", "large", "open_calls", "small",
    )  # fmt: skip

    other: End

    def __init__(self, network: SimNetwork, peer: PeerId) -> None:
        super().__init__(network, peer)
        self.open_calls = 0  # of ours; what is open stands in the network's tables, so an idle link is small
        self.small: deque[Asked] | None = None  # calls that wait for room, in order;
        self.large: deque[Asked] | None = None  # two queues, so that a large body blocks no small one
        self.call_credit, self.chunk_credit = f.LIMITS.call_window, f.LIMITS.chunk_window
        self.calls_returned = self.chunks_returned = 0

    # --- life ---

    def close(self, reason: Exception, *, tell: bool = True) -> None:
        """End it: handlers are cancelled, callers get `Broken`, or `Closed` if that is the reason."""
        if self.reason is not None:
            return
        self.reason = reason
        if tell:
            self.send(CLOSED, None)
        self.network.forget(self)
        fault = self.fault()
        network, waiting = self.network, [*(self.small or ()), *(self.large or ())]
        for asked in [asked for asked in network.asked if asked.end is self] + waiting:
            network.asked.pop(asked, None)
            asked.fail(fault)
        for incoming in [incoming for incoming in network.serving.values() if incoming.end is self]:
            del network.serving[incoming.asked]
            incoming.caller_gone(fault)
        self.small = self.large = self.held = None

    def hear(self, kind: int, asked: Any, body: Any) -> None:
        """A message of the other end's."""
        _ON[kind](self, asked, body)

    def fault(self) -> Exception:
        """What a call over this link fails of, now that it is over."""
        if isinstance(self.reason, Closed):
            return Closed(str(self.reason))
        return Broken(f"the connection to {self.peer} ended: {self.reason}")

    # --- calls of ours --------------------------------------------------------------------------

    async def ask(self, asked: Asked, body: bytes) -> bytes:
        """Make a request and wait for its answer."""
        self.begin(asked, body)
        if asked.ended is not None:
            raise asked.ended
        self.wire.deadlines.start(asked)
        try:
            answer: bytes = await asked.park()
            return answer
        except BaseException:
            asked.ended = asked.ended or Closed("cancelled")
            self.forget(asked)
            raise

    def begin(self, asked: Asked, body: bytes) -> None:
        """Send a call now, or queue it until there is room; raises if it can never be made."""
        if self.reason is not None:
            raise self.fault()
        size = len(body)
        if size > BODY_SIZE_MAX or asked.protocol not in self.wire.protocols:
            check_call(asked.protocol, size)
            self.wire.protocols[asked.protocol] = None
        waiting = self.small if size <= f.PAYLOAD_MAX else self.large
        if waiting or not self._has_room(asked.kind, size):
            asked.body = body
            if size <= f.PAYLOAD_MAX:
                self.small = deque() if self.small is None else self.small
                self.small.append(asked)
            else:
                self.large = deque() if self.large is None else self.large
                self.large.append(asked)
            self._settle()  # those before it may have given up
        else:
            self._open(asked, body)

    def _has_room(self, kind: int, size: int) -> bool:
        reserve = 0 if size <= f.PAYLOAD_MAX else LARGE_RESERVE
        return self.call_credit > reserve and (kind == f.ONE_WAY or self.open_calls < f.LIMITS.open_calls)

    def _open(self, asked: Asked, body: bytes) -> None:
        kind = asked.kind
        asked.sent = True
        if kind != f.ONE_WAY:
            self.network.asked[asked] = None
            self.open_calls += 1
        else:
            asked.wake()  # it waited for room only
        if self.network.rewrite is None:
            self.call_credit -= len(body) + f.CALL_COST
            self.send(kind, asked, body)
            return
        copy = asked
        for said in self._lies(kind, asked, body):
            self.call_credit -= len(said) + f.CALL_COST
            self.send(kind, copy, said)
            copy = Asked(self, kind, asked.protocol, asked.timeout_s)  # whose answer nobody hears

    def _settle(self) -> None:
        """After room has been made: send calls that waited for it."""
        for queue in (self.small, self.large):
            while queue and (queue[0].ended or self._has_room(queue[0].kind, len(queue[0].body))):
                asked = queue.popleft()
                body, asked.body = asked.body, b""
                if asked.ended is None:
                    self._open(asked, body)

    def forget(self, asked: Asked) -> None:
        """The user has left a call of ours: nothing more is heard of it, and the peer is told."""
        if self._is_over(asked):
            self.send(f.CANCEL, asked)
            self._settle()

    def _is_over(self, asked: Asked) -> bool:
        """Close a call of ours; False if it was closed before."""
        if asked not in self.network.asked:
            return False
        del self.network.asked[asked]
        self.open_calls -= 1
        return True

    def return_stream(self, asked: AskedStream, amount: int) -> None:
        """A reader has taken so much of a stream: the handler may send on."""
        if asked in self.network.asked:
            self.send(f.CREDIT, asked, amount)

    def return_chunk(self, cost: int) -> None:
        """A chunk has left memory."""
        self.chunks_returned += cost
        if self.chunks_returned >= CHUNK_RETURN and self.reason is None:
            self.send(f.CHUNK_CREDIT, None, self.chunks_returned)
            self.chunks_returned = 0

    def _on_answer(self, asked: Asked, body: bytes) -> None:
        if self._is_over(asked):
            asked.wake(body)
            if self.small or self.large:
                self._settle()

    def _on_chunk(self, asked: AskedStream, body: bytes) -> None:
        if asked in self.network.asked:
            asked.inbox.append(body)
            asked.wake()
        else:
            self.return_chunk(len(body) + f.CHUNK_COST)

    def _on_end(self, asked: Asked, refusal: tuple[str, str] | bytes) -> None:
        if self._is_over(asked):
            asked.fail(Refused(*refusal) if isinstance(refusal, tuple) else StopAsyncIteration())
            self._settle()

    def _on_call_credit(self, _: None, amount: int) -> None:
        self.call_credit += amount
        self._settle()

    # --- calls of the peer's --------------------------------------------------------------------

    def reply(self, kind: int, incoming: Incoming, body: bytes) -> None:
        """An answer or a chunk, on its way to the caller."""
        asked = incoming.asked
        bodies = (body,) if self.network.rewrite is None else self._lies(kind, asked, body)
        for said in bodies:
            if kind == f.CHUNK:
                cost = len(said) + f.CHUNK_COST
                incoming.credit -= cost
                self.chunk_credit -= cost
            self.send(kind, asked, said)

    def conclude(self, incoming: Incoming, result: bytes | Refused) -> None:
        """The last message of a request or a stream."""
        asked = incoming.asked
        del self.network.serving[asked]
        if isinstance(result, Refused):
            code = result.code.encode("ascii", "replace")[: f.CODE_SIZE_MAX].decode() or "refused"
            reason = result.reason.encode()[: f.REASON_SIZE_MAX].decode(errors="replace")
            self.send(f.REFUSE, asked, (code, reason))
        elif asked.kind == f.STREAM:
            self.send(f.END, asked)
        else:
            self.reply(f.ANSWER, incoming, result)

    def return_call(self, cost: int) -> None:
        """A call has left memory."""
        self.calls_returned += cost
        if self.calls_returned >= CALL_RETURN and self.reason is None:
            self.send(f.CALL_CREDIT, None, self.calls_returned)
            self.calls_returned = 0

    def _on_call(self, asked: Asked, body: bytes) -> None:
        network = self.network
        handler = network.handlers.get(asked.protocol)
        if handler is not None:
            incoming = network.serving[asked] = Incoming(self, asked, body, handler)
            network.handling += 1
            self.wire.handlers.start(incoming, network.variables)
            return
        if asked.kind != f.ONE_WAY:
            self.send(f.REFUSE, asked, ("no-such-protocol", f"nobody serves {asked.protocol} here"))
        self.return_call(len(body) + f.CALL_COST)

    def _on_cancel(self, asked: Asked, _: bytes) -> None:
        incoming = self.network.serving.get(asked)
        if incoming is not None:
            if incoming.done:
                del self.network.serving[asked]
            incoming.caller_gone(Broken("the caller has gone"))

    def _on_credit(self, asked: Asked, amount: int) -> None:
        incoming = self.network.serving.get(asked)
        if incoming is not None:
            incoming.credit += amount
            incoming.pump()

    def _on_chunk_credit(self, _: None, amount: int) -> None:
        self.chunk_credit += amount
        for incoming in [stalled for stalled in self.network.stalled if stalled.end is self]:
            incoming.pump()

    # --- the link itself ------------------------------------------------------------------------

    def _on_opened(self, _: None, __: bytes) -> None:
        self.network.adopt(self)

    def _on_closed(self, _: None, __: bytes) -> None:
        self.close(Broken("the peer closed the connection"), tell=False)

    def _lies(self, kind: int, asked: Asked, body: bytes) -> list[bytes]:
        rewrite = self.network.rewrite
        assert rewrite is not None
        return told(rewrite, Sent(KINDS[kind], asked.protocol, self.peer, body))


_ON: dict[int, Callable[[End, Any, Any], None]] = {
    f.REQUEST: End._on_call,
    f.STREAM: End._on_call,
    f.ONE_WAY: End._on_call,
    f.ANSWER: End._on_answer,
    f.CHUNK: End._on_chunk,
    f.END: End._on_end,
    f.REFUSE: End._on_end,
    f.CANCEL: End._on_cancel,
    f.CREDIT: End._on_credit,
    f.CHUNK_CREDIT: End._on_chunk_credit,
    f.CALL_CREDIT: End._on_call_credit,
    OPENED: End._on_opened,
    CLOSED: End._on_closed,
}
