"""Frames survive any cutting of the pipe's bytes, and what is no frame is refused."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.agents.models import messages as m
from ainp2p.errors import Malformed

TO_WORKER = [
    m.Generate(1, [("user", "hi ✓")], 5, 0.5, b"seed", (1, 2)),
    m.Choose(2, [("", "raw")], ("yes", "no")),
    m.Embed(3, ("one", "two")),
    m.Count(4, [("system", "s"), ("user", "u")]),
    m.Cancel(1),
    m.Ping(7),
]
FROM_WORKER = [
    m.Ready("n", b"\1" * 32, 10, "text", 128, "cpu", "fp32", 512),
    m.Unusable("why"),
    m.Admitted(1, 9),
    m.Working(1),
    m.Made(1, 5, " a", -0.25),
    m.Made(1, 5, "", None),
    m.Ended(1, "stop"),
    m.Chosen(2, (-0.1, -2.0), 4),
    m.Embedded(3, ((0.0, 1.0), (1.0, 0.0)), 2),
    m.Counted(4, 2),
    m.Refusal(5, "too long"),
    m.Pong(7),
]


def bodies(data: bytes, cuts: list[int]) -> list[bytes]:
    """What an unframer says when `data` comes in pieces."""
    unframer, found = m.Unframer(), []
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in pairwise(edges):
        unframer.feed(data[start:end])
        while (body := unframer.next_body()) is not None:
            found.append(body)
    return found


@given(cuts=st.lists(st.integers(0, 10_000), max_size=30))
def test_messages_arrive_whole_and_in_order_however_the_pipe_cuts_them(cuts: list[int]) -> None:
    data = b"".join(map(m.frame, FROM_WORKER))
    assert [m.from_worker.decode(body) for body in bodies(data, cuts)] == FROM_WORKER


@pytest.mark.parametrize("message", TO_WORKER, ids=lambda message: type(message).__name__)
def test_requests_arrive_as_they_were_sent(message: m.ToWorker) -> None:
    (body,) = bodies(m.frame(message), [])
    assert m.to_worker.decode(body) == message


def test_an_announced_giant_is_refused_before_it_is_read() -> None:
    unframer = m.Unframer()
    unframer.feed((m.FRAME_SIZE_MAX + 1).to_bytes(4, "big"))
    with pytest.raises(Malformed, match="from the pipe"):
        unframer.next_body()


def test_a_message_that_is_too_large_is_not_sent() -> None:
    with pytest.raises(Malformed, match="at most"):
        m.frame(m.Embed(1, ("x" * (m.FRAME_SIZE_MAX + 1),)))


@pytest.mark.parametrize(
    "body", [b"", b"\x90", b"\xc0", b"hello", m.frame(m.Ping(1))[4:], m.frame(m.Made(1, 2, "", 0.0))[4:-9]]
)
def test_a_frame_with_something_else_in_it_is_refused(body: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        m.from_worker.decode(body)


def test_mutant_an_unframer_that_forgets_the_rest_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forgetful(self: m.Unframer, data: bytes) -> None:
        self._buffer = bytearray(data)

    monkeypatch.setattr(m.Unframer, "feed", forgetful)
    data = b"".join(map(m.frame, TO_WORKER))
    try:
        seen = bodies(data, [7, 30])
    except Malformed:
        return
    assert len(seen) != len(TO_WORKER)
