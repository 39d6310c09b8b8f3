"""The channel core: two ends joined by hand; every way to break the protocol; any order of events."""

from __future__ import annotations

import math
import random
import struct
from collections import deque
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ainp2p.errors import Broken, InvalidInput, Malformed, Refused
from ainp2p.protocol import bodies, callee, caller, outbox
from ainp2p.protocol import frames as f
from ainp2p.protocol.channel import DEAD_AFTER_S, HEARTBEAT_S, Channel
from ainp2p.protocol.frames import Limits
from ainp2p.protocol.network import BODY_SIZE_MAX

P = "/test/1"
SMALL = Limits(
    open_calls=4,
    bodies_at_once=2,
    call_window=40_000,
    chunk_window=40_000,
    stream_window=10_000,
    queue=500_000,
    queue_hard=6_000_000,
)


def pair(limits: Limits = f.LIMITS) -> tuple[Channel, Channel]:
    return Channel(0, limits), Channel(0, limits)


def events(end: Channel) -> list[f.Event]:
    found = []
    while (event := end.next_event()) is not None:
        found.append(event)
    return found


def carry(source: Channel, target: Channel, now: float = 0) -> list[f.Event]:
    """Bring everything that waits from one end to the other."""
    found: list[f.Event] = []
    while data := source.data_to_send():
        target.receive_data(data, now)
        found += events(target)
    return found


def settle(one: Channel, other: Channel) -> list[f.Event]:
    """Carry both ways until nothing moves."""
    found: list[f.Event] = []
    while one.has_output or other.has_output:
        found += carry(one, other) + carry(other, one)
    return found


def frame(kind: int, call: int, payload: bytes = b"") -> bytes:
    return f.HEADER.pack(len(payload), kind, call) + payload


def call_frame(
    kind: int, call: int, body: bytes = b"", *, size: int | None = None, name: bytes = b"/t"
) -> bytes:
    size = len(body) if size is None else size
    return frame(kind, call, struct.pack("!IB", size, len(name)) + name + body)


def reply_frame(kind: int, call: int, body: bytes = b"", *, size: int | None = None) -> bytes:
    return frame(kind, call, struct.pack("!I", len(body) if size is None else size) + body)


# --- requests -----------------------------------------------------------------------------------


def test_a_request_is_called_there_and_answered_here() -> None:
    alice, bob = pair()
    call = alice.caller.open(f.REQUEST, P, b"question")
    assert carry(alice, bob) == [f.Called(call, f.REQUEST, P, b"question")]
    bob.callee.finish(call, b"answer")
    assert carry(bob, alice) == [f.Answered(call, b"answer")]
    assert alice.idle
    assert bob.idle


def test_both_ends_number_their_own_calls() -> None:
    alice, bob = pair()
    assert alice.caller.open(f.REQUEST, P, b"a") == bob.caller.open(f.REQUEST, P, b"b") == 1
    assert carry(alice, bob) == [f.Called(1, f.REQUEST, P, b"a")]
    assert carry(bob, alice) == [f.Called(1, f.REQUEST, P, b"b")]
    alice.callee.finish(1, b"to b")
    bob.callee.finish(1, b"to a")
    assert carry(alice, bob) == [f.Answered(1, b"to b")]
    assert carry(bob, alice) == [f.Answered(1, b"to a")]


@pytest.mark.parametrize("cut", [1, 2, 3, 11, 60_000])
def test_bytes_may_arrive_in_any_pieces(cut: int) -> None:
    alice, bob = pair()
    for n in range(5):
        alice.caller.open(f.REQUEST, P, bytes([n]) * 100)
    data, found = alice.data_to_send(), list[f.Event]()
    for at in range(0, len(data), cut):
        bob.receive_data(data[at : at + cut], 0)
        found += events(bob)
    assert found == [f.Called(n + 1, f.REQUEST, P, bytes([n]) * 100) for n in range(5)]


def test_queued_frames_are_written_together_but_never_beyond_one_noise_message() -> None:
    alice, _ = pair()
    for _n in range(250):
        alice.caller.open(f.REQUEST, P, bytes(1000))
    sizes = []
    while data := alice.data_to_send():
        sizes.append(len(data))
    assert len(sizes) == 4
    assert max(sizes) <= f.WRITE_SIZE_MAX
    assert min(sizes[:-1]) > 60_000


def test_a_refusal_says_why() -> None:
    alice, bob = pair()
    call = alice.caller.open(f.REQUEST, P, b"")
    carry(alice, bob)
    bob.callee.refuse(call, "no-such-skill", "nobody here can do that")
    assert carry(bob, alice) == [f.WasRefused(call, "no-such-skill", "nobody here can do that")]
    assert bob.idle


def test_long_words_of_a_refusal_are_cut() -> None:
    alice, bob = pair()
    call = alice.caller.open(f.REQUEST, P, b"")
    carry(alice, bob)
    bob.callee.refuse(call, "c" * 1000, "é" * 5000)
    (event,) = carry(bob, alice)
    assert isinstance(event, f.WasRefused)
    assert (len(event.code), len(event.reason)) == (f.CODE_SIZE_MAX, f.REASON_SIZE_MAX // 2)


def test_a_refusal_without_a_word_still_is_one() -> None:
    alice, bob = pair()
    call = alice.caller.open(f.REQUEST, P, b"")
    carry(alice, bob)
    bob.callee.refuse(call, "")
    assert carry(bob, alice) == [f.WasRefused(call, "refused", "")]


def test_a_one_way_message_has_no_answer() -> None:
    alice, bob = pair()
    call = alice.caller.open(f.ONE_WAY, P, b"news")
    assert carry(alice, bob) == [f.Called(call, f.ONE_WAY, P, b"news")]
    bob.callee.finish(call, b"ignored")
    assert carry(bob, alice) == []
    assert bob.idle


def test_a_refused_one_way_message_has_no_answer_either() -> None:
    alice, bob = pair()
    call = alice.caller.open(f.ONE_WAY, P, b"news")
    carry(alice, bob)
    bob.callee.refuse(call, "no")
    assert carry(bob, alice) == []


# --- large bodies -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [59_987, 59_988, 59_989, 60_000, 60_001, 119_990, 1_000_000, BODY_SIZE_MAX])
def test_a_large_body_goes_in_pieces_and_comes_whole(size: int) -> None:
    alice, bob = pair()
    body = random.Random(size).randbytes(size)
    call = alice.caller.open(f.REQUEST, P, body)
    assert carry(alice, bob) == [f.Called(call, f.REQUEST, P, body)]
    bob.callee.finish(call, body[::-1])
    assert carry(bob, alice) == [f.Answered(call, body[::-1])]


def test_a_small_request_overtakes_large_ones() -> None:
    alice, bob = pair()
    large = [alice.caller.open(f.REQUEST, P, bytes(900_000)) for _ in range(3)]
    bob.receive_data(alice.data_to_send(), 0)
    small = alice.caller.open(f.REQUEST, P, b"quick")
    for _ in range(2):
        bob.receive_data(alice.data_to_send(), 0)
    assert [event.call for event in events(bob)] == [small]
    assert [event.call for event in carry(alice, bob)] == large


def test_large_bodies_take_turns() -> None:
    alice, bob = pair()
    big = alice.caller.open(f.REQUEST, P, bytes(1_000_000))
    less = alice.caller.open(f.REQUEST, P, bytes(100_000))
    assert [event.call for event in carry(alice, bob)] == [less, big]


def test_only_so_many_bodies_are_under_way_at_once_and_the_others_follow() -> None:
    alice, bob = pair(Limits(call_window=64 << 20, queue=64 << 20))
    calls = [alice.caller.open(f.REQUEST, P, bytes(200_000)) for _ in range(30)]
    assert sorted(event.call for event in carry(alice, bob)) == calls


def test_a_body_above_the_limit_is_refused_before_anything_is_sent() -> None:
    alice, bob = pair()
    with pytest.raises(InvalidInput):
        alice.caller.open(f.REQUEST, P, bytes(BODY_SIZE_MAX + 1))
    assert not alice.has_output
    call = alice.caller.open(f.STREAM, P, b"")
    carry(alice, bob)
    with pytest.raises(InvalidInput):
        bob.callee.send_chunk(call, bytes(BODY_SIZE_MAX + 1))


@pytest.mark.parametrize("name", ["", "x" * 256, "/ünï/1"])
def test_a_protocol_id_that_cannot_be_sent_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        Channel(0).caller.open(f.REQUEST, name, b"")


# --- streams ------------------------------------------------------------------------------------


def opened_stream(limits: Limits = f.LIMITS) -> tuple[Channel, Channel, int]:
    alice, bob = pair(limits)
    call = alice.caller.open(f.STREAM, P, b"")
    carry(alice, bob)
    return alice, bob, call


def test_a_stream_brings_chunks_and_then_ends() -> None:
    alice, bob, call = opened_stream()
    for n in range(3):
        assert bob.callee.send_chunk(call, b"%d" % n)
    bob.callee.finish(call)
    assert carry(bob, alice) == [*(f.Chunk(call, b"%d" % n) for n in range(3)), f.Ended(call)]
    assert bob.idle


def test_chunks_keep_their_order_whatever_their_size() -> None:
    alice, bob, call = opened_stream(Limits(stream_window=10 << 20))
    sizes = [5, 59_996, 59_997, 10, 400_000, 1, 0, 59_996, 200_000, 3]
    for n, size in enumerate(sizes):
        bob.callee.send_chunk(call, bytes([n]) * size)
    bob.callee.finish(call)
    got = carry(bob, alice)
    assert got == [*(f.Chunk(call, bytes([n]) * size) for n, size in enumerate(sizes)), f.Ended(call)]


def test_chunks_wait_for_the_readers_credit() -> None:
    alice, bob, call = opened_stream(SMALL)
    sent = 0
    while bob.callee.send_chunk(call, bytes(1000)):
        sent += 1
    assert sent == 9  # ten times 1,128 is more than the window of 10,000
    assert bob.callee.has_backlog(call)
    got = carry(bob, alice)
    assert len(got) == 9
    assert carry(alice, bob) == []
    for chunk in got:
        assert isinstance(chunk, f.Chunk)
        alice.caller.taken(call, len(chunk.body))
    carry(alice, bob)
    assert not bob.callee.has_backlog(call)
    assert bob.callee.take_drained() == [call]
    assert bob.callee.take_drained() == []
    assert len(carry(bob, alice)) == 1


def test_a_chunk_larger_than_the_window_goes_when_any_credit_is_left() -> None:
    alice, bob, call = opened_stream(SMALL)
    assert bob.callee.send_chunk(call, bytes(BODY_SIZE_MAX))
    assert not bob.callee.send_chunk(call, b"next")
    assert carry(bob, alice) == [f.Chunk(call, bytes(BODY_SIZE_MAX))]
    alice.caller.taken(call, BODY_SIZE_MAX)
    carry(alice, bob)
    assert carry(bob, alice) == [f.Chunk(call, b"next")]


def test_all_streams_together_share_one_window() -> None:
    alice, bob = pair(SMALL)
    calls = [alice.caller.open(f.STREAM, P, b"") for _ in range(4)]
    carry(alice, bob)
    for _ in range(2):
        for call in calls:
            bob.callee.send_chunk(call, bytes(8000))
    got = carry(bob, alice)
    assert len(got) == 5  # 40,000 bytes, although each stream has a window of 10,000
    for chunk in got:
        assert isinstance(chunk, f.Chunk)
        alice.caller.taken(chunk.call, len(chunk.body))
    assert len(settle(alice, bob)) == 3


def test_an_end_or_a_refusal_waits_for_the_chunks_before_it() -> None:
    for last in ("end", "refusal"):
        alice, bob, call = opened_stream(SMALL)
        for _ in range(12):
            bob.callee.send_chunk(call, bytes(1000))
        if last == "end":
            bob.callee.finish(call)
        else:
            bob.callee.refuse(call, "no")
        got = carry(bob, alice)
        assert len(got) == 9
        for _ in range(9):
            alice.caller.taken(call, 1000)
        rest = settle(alice, bob)
        assert rest[:3] == [f.Chunk(call, bytes(1000))] * 3
        assert rest[3:] == [f.Ended(call) if last == "end" else f.WasRefused(call, "no", "")]
        assert bob.idle


def test_a_request_is_not_answered_with_a_stream() -> None:
    alice, bob = pair()
    call = alice.caller.open(f.REQUEST, P, b"")
    carry(alice, bob)
    with pytest.raises(Refused, match="not-a-stream"):
        bob.callee.send_chunk(call, b"x")


# --- cancelling and deadlines -------------------------------------------------------------------


def test_cancelling_tells_the_handler_and_silences_the_reply() -> None:
    alice, bob = pair()
    call = alice.caller.open(f.REQUEST, P, b"")
    carry(alice, bob)
    alice.caller.cancel(call)
    alice.caller.cancel(call)  # no effect
    assert carry(alice, bob) == [f.Cancelled(call)]
    bob.callee.finish(call, b"too late")
    assert carry(bob, alice) == []
    assert bob.idle


def test_an_answer_that_crosses_the_cancel_is_ignored() -> None:
    alice, bob = pair()
    calls = [alice.caller.open(kind, P, b"") for kind in (f.REQUEST, f.REQUEST, f.STREAM)]
    carry(alice, bob)
    bob.callee.finish(calls[0], b"small")
    bob.callee.finish(calls[1], bytes(200_000))
    bob.callee.send_chunk(calls[2], bytes(100_000))
    bob.callee.finish(calls[2])
    for call in calls:
        alice.caller.cancel(call)
    assert carry(bob, alice) == []
    assert carry(alice, bob) == []
    assert bob.idle


def test_a_large_call_that_is_cancelled_before_it_was_sent_is_never_heard_of() -> None:
    alice, bob = pair(SMALL)
    call = alice.caller.open(f.REQUEST, P, bytes(100_000))
    assert not alice.caller.has_room(f.REQUEST, 0)
    alice.caller.cancel(call)
    assert alice.caller.has_room(f.REQUEST, 100_000)
    assert carry(alice, bob) == []


def test_a_large_call_that_is_cancelled_half_way_gives_everything_back() -> None:
    alice, bob = pair(SMALL)
    for _ in range(20):
        call = alice.caller.open(f.REQUEST, P, bytes(200_000))
        bob.receive_data(alice.data_to_send(), 0)
        assert events(bob) == []
        alice.caller.cancel(call)
        settle(alice, bob)
        assert alice.caller.has_room(f.REQUEST, 200_000)
    assert bob.idle


def test_a_large_reply_that_is_cancelled_half_way_gives_everything_back() -> None:
    alice, bob = pair(SMALL)
    for _ in range(20):
        call = alice.caller.open(f.STREAM, P, b"")
        carry(alice, bob)
        bob.callee.send_chunk(call, bytes(200_000))
        alice.receive_data(bob.data_to_send(), 0)
        assert events(alice) == []
        alice.caller.cancel(call)
        assert carry(alice, bob) == [f.Cancelled(call)]
        bob.callee.finish(call)
        settle(alice, bob)
    call = alice.caller.open(f.STREAM, P, b"")
    carry(alice, bob)
    assert bob.callee.send_chunk(call, b"goes at once")


def test_a_chunk_sent_after_the_cancel_is_broken() -> None:
    alice, bob, call = opened_stream()
    alice.caller.cancel(call)
    carry(alice, bob)
    with pytest.raises(Broken):
        bob.callee.send_chunk(call, b"x")


def test_calls_expire_at_their_deadline() -> None:
    alice, bob = pair()
    late = alice.caller.open(f.REQUEST, P, b"", 5.0)
    later = alice.caller.open(f.REQUEST, P, b"", 6.0)
    never = alice.caller.open(f.REQUEST, P, b"")
    carry(alice, bob)
    assert alice.caller.expire(4.999) == []
    assert alice.caller.expire(5.0) == [late]
    alice.caller.set_deadline(later, 9.0)
    assert alice.caller.expire(8.0) == []
    assert alice.caller.expire(9.0) == [later]
    assert alice.caller.expire(1e9) == []
    assert [event.call for event in carry(alice, bob)] == [late, later]
    bob.callee.finish(never, b"")
    assert carry(bob, alice) == [f.Answered(never, b"")]


def test_the_next_timer_is_the_earliest_deadline_or_heartbeat() -> None:
    alice, _ = pair()
    assert alice.next_timer() == HEARTBEAT_S
    alice.caller.open(f.REQUEST, P, b"", 2.0)
    alice.caller.open(f.REQUEST, P, b"", 1.0)
    assert alice.next_timer() == 1.0
    alice.caller.expire(1.0)
    assert alice.next_timer() == 2.0


# --- heartbeat ----------------------------------------------------------------------------------


def test_a_quiet_channel_is_pinged_and_answers() -> None:
    alice, bob = pair()
    assert alice.tick(HEARTBEAT_S - 0.01)
    assert not alice.has_output
    assert alice.tick(HEARTBEAT_S)
    assert carry(alice, bob, HEARTBEAT_S) == []
    assert carry(bob, alice, HEARTBEAT_S) == []
    assert alice.tick(HEARTBEAT_S + DEAD_AFTER_S - 0.01)
    assert not alice.tick(HEARTBEAT_S + DEAD_AFTER_S)


def test_whoever_is_heard_is_not_pinged() -> None:
    alice, bob = pair()
    for now in range(1, 30):
        bob.caller.open(f.ONE_WAY, P, b"")
        carry(bob, alice, now)
        assert alice.tick(now)
        assert not alice.has_output


def test_a_silent_peer_is_pinged_again_and_then_dead() -> None:
    alice, _ = pair()
    pings, now = 0, 0.0
    while alice.tick(now):
        pings += bool(alice.data_to_send())
        now = alice.next_timer()
        assert math.isfinite(now)
    assert (pings, now) == (3, DEAD_AFTER_S)


def test_a_flood_of_pings_queues_one_pong() -> None:
    _, bob = pair()
    bob.receive_data(frame(f.PING, 7) * 1000, 0)
    assert events(bob) == []
    assert bob.data_to_send() == frame(f.PONG, 7)
    assert not bob.has_output


# --- room ---------------------------------------------------------------------------------------


def test_there_is_room_for_only_so_many_open_calls() -> None:
    alice, bob = pair(Limits(open_calls=4))
    calls = [alice.caller.open(f.REQUEST, P, b"") for _ in range(4)]
    assert not alice.caller.has_room(f.REQUEST, 0)
    assert alice.caller.has_room(f.ONE_WAY, 0)
    with pytest.raises(InvalidInput, match="no room"):
        alice.caller.open(f.STREAM, P, b"")
    carry(alice, bob)
    bob.callee.finish(calls[2], b"")
    carry(bob, alice)
    assert alice.caller.has_room(f.REQUEST, 0)


def test_one_way_messages_wait_until_handlers_have_finished() -> None:
    alice, bob = pair(SMALL)
    sent = []
    while alice.caller.has_room(f.ONE_WAY, 10):
        sent.append(alice.caller.open(f.ONE_WAY, P, bytes(10)))
    assert len(sent) == 10  # 4,106 bytes of a window of 40,000 each
    carry(alice, bob)
    for call in sent[:3]:
        bob.callee.finish(call)
    carry(bob, alice)
    assert alice.caller.has_room(f.ONE_WAY, 10)


def test_large_calls_leave_room_to_small_ones() -> None:
    alice, _ = pair(Limits(call_window=4_000_000))
    while alice.caller.has_room(f.ONE_WAY, 500_000):
        alice.caller.open(f.ONE_WAY, P, bytes(500_000))
    assert alice.caller.has_room(f.REQUEST, 1000)


def test_what_is_queued_and_not_written_leaves_no_room() -> None:
    alice, _ = pair(Limits(queue=10_000, call_window=64 << 20))
    while alice.caller.has_room(f.ONE_WAY, 1000):
        alice.caller.open(f.ONE_WAY, P, bytes(1000))
    while alice.data_to_send():
        pass
    assert alice.caller.has_room(f.ONE_WAY, 1000)


def test_answers_that_nobody_reads_become_busy() -> None:
    alice, bob = pair()
    calls = [alice.caller.open(f.REQUEST, P, b"") for _ in range(100)]
    carry(alice, bob)
    for call in calls:
        bob.callee.finish(call, bytes(1 << 20))
    got = carry(bob, alice)
    answered = [event for event in got if isinstance(event, f.Answered)]
    refused = [event for event in got if isinstance(event, f.WasRefused)]
    assert len(answered) + len(refused) == 100
    assert len(answered) == 17
    assert {event.code for event in refused} == {"busy"}


# --- a peer that breaks the protocol ------------------------------------------------------------


def talked() -> tuple[Channel, list[int]]:
    """An end that has calls of all kinds open, and a call of its peer's."""
    alice, bob = pair(SMALL)
    calls = [alice.caller.open(f.REQUEST, P, b""), alice.caller.open(f.STREAM, P, b"")]
    bob.caller.open(f.STREAM, P, b"")
    carry(bob, alice)
    alice.callee.send_chunk(1, b"x")
    carry(alice, bob)
    return alice, calls


BREACHES = {
    "unknown kind": frame(0, 1),
    "kind from the future": frame(99, 1),
    "payload above the limit": f.HEADER.pack(60_001, f.PING, 0),
    "call without sizes": frame(f.REQUEST, 2, b"\0\0"),
    "call without a protocol id": call_frame(f.REQUEST, 2, name=b""),
    "protocol id cut short": frame(f.REQUEST, 2, struct.pack("!IB", 0, 9) + b"/t"),
    "protocol id not ASCII": call_frame(f.REQUEST, 2, name=b"\xff"),
    "call number zero": call_frame(f.REQUEST, 0),
    "call number in use": call_frame(f.REQUEST, 1),
    "call above the size limit": call_frame(f.REQUEST, 2, b"x", size=BODY_SIZE_MAX + 1),
    "call of 4 GiB": call_frame(f.REQUEST, 2, b"x", size=2**32 - 1),
    "call with more than it says": call_frame(f.REQUEST, 2, b"xx", size=1),
    "call that does not begin": call_frame(f.REQUEST, 2, b"", size=5),
    "more of an unknown call": frame(f.CALL_MORE, 2, b"x"),
    "more of a complete call": frame(f.CALL_MORE, 1, b"x"),
    "empty more of a call": call_frame(f.REQUEST, 2, b"x", size=5) + frame(f.CALL_MORE, 2),
    "too much more of a call": call_frame(f.REQUEST, 2, b"x", size=5) + frame(f.CALL_MORE, 2, b"12345"),
    "call number being sent": call_frame(f.REQUEST, 2, b"x", size=5) + call_frame(f.REQUEST, 2),
    "too many calls open": b"".join(call_frame(f.REQUEST, n) for n in range(2, 7)),
    "too many bodies at once": b"".join(call_frame(f.ONE_WAY, n, b"x", size=5) for n in range(2, 5)),
    "calls without credit": b"".join(call_frame(f.ONE_WAY, n) for n in range(2, 300)),
    "reply to a call never made": reply_frame(f.ANSWER, 9),
    "reply to call zero": reply_frame(f.ANSWER, 0),
    "reply without a size": frame(f.ANSWER, 1, b"\0"),
    "reply above the size limit": reply_frame(f.ANSWER, 1, b"x", size=BODY_SIZE_MAX + 1),
    "reply with more than it says": reply_frame(f.ANSWER, 1, b"xx", size=1),
    "chunk to a request": reply_frame(f.CHUNK, 1, b"x"),
    "answer to a stream": reply_frame(f.ANSWER, 2, b"x"),
    "two replies at once": reply_frame(f.ANSWER, 1, b"x", size=5) + reply_frame(f.ANSWER, 1, b"x", size=5),
    "more of no reply": frame(f.REPLY_MORE, 1, b"x"),
    "more of a reply to a call never made": frame(f.REPLY_MORE, 9, b"x"),
    "too much more of a reply": reply_frame(f.ANSWER, 1, b"x", size=2) + frame(f.REPLY_MORE, 1, b"xx"),
    "chunks without credit": b"".join(reply_frame(f.CHUNK, 2, bytes(59_000)) for _ in range(20)),
    "end of a request": frame(f.END, 1),
    "end of a call never made": frame(f.END, 9),
    "end in the middle of a chunk": reply_frame(f.CHUNK, 2, b"x", size=5) + frame(f.END, 2),
    "end with a payload": frame(f.END, 2, b"x"),
    "refusal without a code": frame(f.REFUSE, 1),
    "refusal with an empty code": frame(f.REFUSE, 1, b"\0why"),
    "refusal with a code cut short": frame(f.REFUSE, 1, b"\x05no"),
    "refusal with a long code": frame(f.REFUSE, 1, b"\x41" + b"c" * 0x41),
    "refusal with a code not ASCII": frame(f.REFUSE, 1, b"\x01\xff"),
    "refusal of too many words": frame(f.REFUSE, 1, b"\x02no" + bytes(1025)),
    "refusal of a call never made": frame(f.REFUSE, 9, b"\x02no"),
    "cancel of a call never opened": frame(f.CANCEL, 9),
    "cancel with a payload": frame(f.CANCEL, 1, b"x"),
    "credit without an amount": frame(f.CREDIT, 1),
    "credit with too much": frame(f.CALL_CREDIT, 0, bytes(5)),
    "ping with a payload": frame(f.PING, 0, b"x"),
    "pong with a payload": frame(f.PONG, 0, b"x"),
}


@pytest.mark.parametrize("data", BREACHES.values(), ids=BREACHES.keys())
def test_e2_a_breach_of_the_protocol_is_malformed(data: bytes) -> None:
    alice, _ = talked()
    alice.receive_data(data, 0)
    with pytest.raises(Malformed):
        events(alice)
    with pytest.raises(Malformed):  # and stays so
        alice.next_event()


def test_what_came_before_a_breach_still_arrives() -> None:
    _, bob = pair()
    bob.receive_data(call_frame(f.REQUEST, 1, b"fine") + frame(99, 1), 0)
    assert bob.next_event() == f.Called(1, f.REQUEST, "/t", b"fine")
    with pytest.raises(Malformed):
        bob.next_event()


def test_e2_a_refusal_in_the_middle_of_our_body_is_malformed() -> None:
    alice, _ = pair()
    call = alice.caller.open(f.REQUEST, P, bytes(500_000))
    alice.data_to_send()
    alice.receive_data(frame(f.REFUSE, call, b"\x02no"), 0)
    with pytest.raises(Malformed, match="before all of it was sent"):
        alice.next_event()


def test_e2_a_peer_that_asks_and_never_reads_is_cut_off() -> None:
    _, bob = pair(Limits(queue_hard=20_000))

    def ask_forever() -> None:
        for n in range(1, 10_000):
            bob.receive_data(call_frame(f.REQUEST, n), 0)
            events(bob)
            bob.callee.finish(n, b"answer")

    with pytest.raises(Malformed, match="reads nothing"):
        ask_forever()


def test_e2_an_announced_size_allocates_nothing() -> None:
    import tracemalloc

    _, bob = pair()
    tracemalloc.start()
    for n in range(1, 9):
        bob.receive_data(call_frame(f.ONE_WAY, n, b"x", size=BODY_SIZE_MAX), 0)
        assert events(bob) == []
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


def test_e2_mutant_believing_the_announced_size_is_noticed(monkeypatch: Any) -> None:
    monkeypatch.setattr(caller, "begin", lambda size, first, room: bodies.Parts(size, first))
    monkeypatch.setattr(callee, "begin", lambda size, first, room: bodies.Parts(size, first))
    for name in ("call above the size limit", "too many bodies at once", "reply above the size limit"):
        with pytest.raises(pytest.fail.Exception):
            test_e2_a_breach_of_the_protocol_is_malformed(BREACHES[name])


def test_e2_mutant_giving_credit_to_anybody_is_noticed(monkeypatch: Any) -> None:
    monkeypatch.setattr(bodies.Grant, "use", lambda self, cost: None)
    for name in ("calls without credit", "chunks without credit"):
        with pytest.raises(pytest.fail.Exception):
            test_e2_a_breach_of_the_protocol_is_malformed(BREACHES[name])


# --- pinned bytes -------------------------------------------------------------------------------

VECTORS = {
    "request": (f.REQUEST, "00110100000000000000010000000507" + b"/test/1".hex() + b"hello".hex()),
    "stream": (f.STREAM, "00110200000000000000010000000507" + b"/test/1".hex() + b"hello".hex()),
    "one way": (f.ONE_WAY, "00110300000000000000010000000507" + b"/test/1".hex() + b"hello".hex()),
}


@pytest.mark.parametrize("name", VECTORS)
def test_the_bytes_of_a_call_are_pinned(name: str) -> None:
    kind, expected = VECTORS[name]
    end = Channel(0)
    end.caller.open(kind, P, b"hello")
    assert end.data_to_send().hex() == expected


def test_the_bytes_of_replies_and_control_are_pinned() -> None:
    alice, bob = pair(SMALL)
    for kind in (f.REQUEST, f.STREAM, f.REQUEST, f.REQUEST):
        alice.caller.open(kind, P, b"")
    carry(alice, bob)
    bob.callee.finish(1, b"hello")
    bob.callee.send_chunk(2, b"hi")
    bob.callee.finish(2)
    bob.callee.refuse(3, "no", "why")
    alice.caller.cancel(4)
    alice.tick(3)
    assert alice.data_to_send().hex() == "00000a0000000000000004" + "00000e0000000000000000"
    assert bob.data_to_send().hex() == (
        "0009050000000000000001" + "00000005" + b"hello".hex()
        + "0006060000000000000002" + "00000002" + b"hi".hex()
        + "0000080000000000000002"
        + "0006090000000000000003" + "02" + b"no".hex() + b"why".hex()
        + "00040d0000000000000000" + "00003000"
    )  # fmt: skip


# --- any order of events ------------------------------------------------------------------------

SIZES = st.sampled_from([0, 1, 100, 3000, 59_000, 60_100, 130_000, 400_000])


class TwoEnds(RuleBasedStateMachine):
    """Two honest ends over a wire that holds bytes back: nothing is lost, mixed up, refused, or left over."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = pair(SMALL)
        self.wires: tuple[deque[bytes], deque[bytes]] = (deque(), deque())  # what each end has written
        self.asked: tuple[dict[int, tuple[int, bytes]], ...] = ({}, {})  # call → kind, body
        self.sent: tuple[dict[int, list[bytes]], ...] = ({}, {})  # chunks by the call's owner
        self.got: tuple[dict[int, list[bytes]], ...] = ({}, {})
        self.untaken: tuple[list[tuple[int, int]], ...] = ([], [])
        self.running: tuple[dict[int, int], ...] = ({}, {})  # handlers at this end: call → kind
        self.answers: tuple[dict[int, bytes], ...] = ({}, {})
        self.ended: tuple[dict[int, str], ...] = ({}, {})
        self.called: tuple[set[int], ...] = (set(), set())
        self.cancelled: tuple[set[int], ...] = (set(), set())
        self.counter = 0

    def body(self, size: int) -> bytes:
        self.counter += 1
        return (b"%06d" % self.counter * (size // 6 + 1))[:size]

    @rule(me=st.integers(0, 1), kind=st.sampled_from([f.STREAM, f.REQUEST, f.STREAM, f.ONE_WAY]), size=SIZES)
    def open(self, me: int, kind: int, size: int) -> None:
        if self.ends[me].caller.has_room(kind, size):
            body = self.body(size)
            call = self.ends[me].caller.open(kind, P, body)
            self.asked[me][call] = (kind, body)

    @rule(me=st.integers(0, 1), data=st.data())
    def cancel(self, me: int, data: st.DataObject) -> None:
        calls = [
            c for c, (kind, _) in self.asked[me].items() if kind != f.ONE_WAY and c not in self.ended[me]
        ]
        if calls:
            call = data.draw(st.sampled_from(calls))
            self.ends[me].caller.cancel(call)
            self.ended[me][call] = "cancelled"
            self.cancelled[me].add(call)

    @precondition(lambda self: any(self.running))
    @rule(
        data=st.data(), sizes=st.lists(SIZES, max_size=4), how=st.sampled_from(["go on", "finish", "refuse"])
    )
    def handle(self, data: st.DataObject, sizes: list[int], how: str) -> None:
        me = data.draw(st.sampled_from([n for n in (0, 1) if self.running[n]]))
        call = data.draw(st.sampled_from(sorted(self.running[me])))
        for size in sizes if self.running[me][call] == f.STREAM else []:
            self.send_chunk(me, call, self.body(size))
        if how == "finish":
            body = self.body(sum(sizes))
            self.answers[1 - me][call] = body
            self.ends[me].callee.finish(call, body)
            del self.running[me][call]
        elif how == "refuse":
            self.ends[me].callee.refuse(call, "no", "why")
            del self.running[me][call]

    def send_chunk(self, me: int, call: int, body: bytes) -> None:
        try:
            self.ends[me].callee.send_chunk(call, body)
        except Broken:
            assert call in self.cancelled[1 - me]
        else:
            self.sent[1 - me].setdefault(call, []).append(body)

    @rule(me=st.integers(0, 1), data=st.data())
    def take(self, me: int, data: st.DataObject) -> None:
        if self.untaken[me]:
            self.ends[me].caller.taken(*self.untaken[me].pop(0))

    @rule(me=st.integers(0, 1))
    def write(self, me: int) -> None:
        data = self.ends[me].data_to_send()
        assert len(data) <= f.WRITE_SIZE_MAX
        if data:
            self.wires[me].append(data)

    @rule(me=st.integers(0, 1), cut=st.integers(1, 80_000))
    def read(self, me: int, cut: int) -> None:
        wire = self.wires[1 - me]
        if wire:
            data = wire.popleft()
            if data[cut:]:
                wire.appendleft(data[cut:])
            self.ends[me].receive_data(data[:cut], 0)
            for event in events(self.ends[me]):
                self.hear(me, event)

    @rule()
    def carry_all(self) -> None:
        for me in (0, 1):
            while self.ends[me].has_output:
                self.write(me)
            while self.wires[me]:
                self.read(1 - me, 100_000)

    def hear(self, me: int, event: f.Event) -> None:
        call = event.call
        if isinstance(event, f.Called):
            assert call not in self.called[me]
            assert self.asked[1 - me][call] == (event.kind, event.body)
            self.called[me].add(call)
            self.running[me][call] = event.kind
            return
        if isinstance(event, f.Cancelled):
            assert call in self.cancelled[1 - me]
            assert call in self.running[me]
            return
        assert call not in self.ended[me]
        if isinstance(event, f.Chunk):
            self.got[me].setdefault(call, []).append(event.body)
            self.untaken[me].append((call, len(event.body)))
        elif isinstance(event, f.Answered):
            assert event.body == self.answers[me][call]
            self.ended[me][call] = "answered"
        elif isinstance(event, f.Ended):
            assert self.got[me].get(call, []) == self.sent[me].get(call, [])
            self.ended[me][call] = "ended"
        else:
            assert isinstance(event, f.WasRefused)
            self.ended[me][call] = "refused"

    @invariant()
    def chunks_come_in_order(self) -> None:
        for me in (0, 1):
            for call, got in self.got[me].items():
                assert got == self.sent[me][call][: len(got)]

    @invariant()
    def queues_are_bounded(self) -> None:
        for end in self.ends:
            assert end._outbox.queued_bytes < SMALL.queue_hard

    def teardown(self) -> None:
        """When all handlers finish and all readers read, everything ends and all credit is back."""
        for _ in range(1000):
            for me in (0, 1):
                for call in list(self.running[me]):
                    self.answers[1 - me][call] = b"last"
                    self.ends[me].callee.finish(call, b"last")
                    del self.running[me][call]
                while self.untaken[me]:
                    self.ends[me].caller.taken(*self.untaken[me].pop(0))
                self.write(me)
                self.read(1 - me, 100_000)
            if all(end.idle for end in self.ends) and not any(self.wires) and not any(self.untaken):
                break
        for me in (0, 1):
            calls = {c for c, (kind, _) in self.asked[me].items() if kind != f.ONE_WAY}
            assert set(self.ended[me]) == calls
            assert self.ends[me].idle
            assert self.ends[me].caller.has_room(f.REQUEST, 100)
            assert self.ends[me].caller._credit > SMALL.call_window * 3 // 4
            assert self.ends[me].callee._credit > SMALL.chunk_window * 3 // 4


TestTwoEnds = TwoEnds.TestCase
TestTwoEnds.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


def forget_backlog(self: callee.Callee, call: int, theirs: Any, last: bytes) -> None:
    self._outbox.put(last)
    self._close(theirs)


MUTANTS = {
    "bodies overtake the frames before them": (
        outbox.Outbox,
        "_next_body",
        lambda self: self._under_way.popleft() if self._under_way else None,
    ),
    "a cancelled body goes on": (outbox.Outbox, "drop", lambda self, call, more: None),
    "credit is never returned for calls": (callee.Callee, "_return_credit", lambda self, cost: None),
    "credit is never returned for chunks": (caller.Caller, "_return_credit", lambda self, cost: None),
    "an end overtakes the chunks before it": (callee.Callee, "_close_after_backlog", forget_backlog),
    "waiting chunks are not sent on": (callee.Callee, "body_was_sent", lambda self, call: None),
    "a handler's end frees nothing": (callee.Callee, "_release", lambda self, call, theirs: None),
}


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS.keys())
def test_mutant_channels_fail_in_some_order_of_events(mutant: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(*mutant)
    calm = settings(
        max_examples=300, stateful_step_count=60, deadline=None, derandomize=True, phases=[Phase.generate]
    )
    with pytest.raises((AssertionError, Malformed, KeyError)):
        run_state_machine_as_test(TwoEnds, settings=calm)


def test_garbage_is_malformed_or_waits_for_more_and_never_anything_else() -> None:
    rng = random.Random(1)
    kinds = [0, *range(1, 16), 99]
    for _ in range(3000):
        alice, _calls = talked()
        data = b"".join(
            frame(
                rng.choice(kinds),
                rng.choice([0, 1, 2, 3, 2**63]),
                rng.randbytes(rng.choice([0, 1, 4, 5, 9, 40])),
            )
            for _ in range(rng.randrange(1, 6))
        )
        alice.receive_data(data, 0)
        try:
            events(alice)
        except Malformed:
            continue
        alice.data_to_send()
